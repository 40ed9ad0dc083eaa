//! Appends in flight: submitted in order, answered in order.

use std::collections::VecDeque;
use std::path::Path;

use annals::{Batch, Durability, Error, EventId, Store, Ticket};

use super::Tally;
use crate::failure::Failure;
use crate::lines::Entry;

/// Tickets unanswered at a time. The store itself bounds the bytes in flight.
const IN_FLIGHT_MAX: usize = 4096;

/// The way of groups of lines into the store.
pub(crate) struct Pipeline<'a> {
    store: &'a Store,
    file: &'a Path,
    durability: Option<Durability>,
    in_flight: VecDeque<Flight>,
    tally: Tally,
}

struct Flight {
    ticket: Ticket,
    first_line: u64,
    events: u64,
}

impl<'a> Pipeline<'a> {
    pub(crate) fn new(store: &'a Store, file: &'a Path, durability: Option<Durability>) -> Self {
        Self { store, file, durability, in_flight: VecDeque::new(), tally: Tally::default() }
    }

    /// Submits the events of a group, which begins at `first_line`; no event is nothing to do.
    ///
    /// An error may be that of an earlier group: it names the line of the group it is about.
    pub(crate) fn append(&mut self, group: &[(Entry, EventId)], first_line: u64) -> Result<(), Failure> {
        let Some((first, _)) = group.first() else { return Ok(()) };
        while self.in_flight.front().is_some_and(|flight| flight.ticket.is_done())
            || self.in_flight.len() >= IN_FLIGHT_MAX
        {
            self.answer_oldest()?;
        }
        let tags: Vec<Vec<&str>> =
            group.iter().map(|(entry, _)| entry.tags.iter().map(String::as_str).collect()).collect();
        let mut batch = Batch::new().written_as_batch(first.batch.is_some());
        if let Some(durability) = self.durability {
            batch = batch.durability(durability);
        }
        for ((entry, id), tags) in group.iter().zip(&tags) {
            batch.push(&entry.stream, entry.new_event(*id, tags));
        }
        let ticket = self.store.submit(&batch).map_err(|error| self.explain(error, first_line))?;
        self.in_flight.push_back(Flight { ticket, first_line, events: group.len() as u64 });
        Ok(())
    }

    /// Waits for everything in flight; the first error is the one to tell.
    pub(crate) fn drain(&mut self) -> Result<(), Failure> {
        let mut ended = Ok(());
        while !self.in_flight.is_empty() {
            ended = ended.and(self.answer_oldest());
        }
        ended
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    fn answer_oldest(&mut self) -> Result<(), Failure> {
        let Some(Flight { ticket, first_line, events }) = self.in_flight.pop_front() else { return Ok(()) };
        let receipt = ticket.wait().map_err(|error| self.explain(error, first_line))?;
        if receipt.already_committed() {
            self.tally.present_events += events;
        } else {
            self.tally.stored_events += events;
            self.tally.stored_appends += 1;
        }
        Ok(())
    }

    fn explain(&self, error: Error, first_line: u64) -> Failure {
        let hint = match &error {
            Error::DuplicateId { .. } => Some(
                "the store holds an event of this id with other content: the file changed since, or an id is used twice",
            ),
            Error::PartialDuplicate { .. } => Some(
                "a part of this batch is stored already: the file changed since it was imported; import it into a new store",
            ),
            Error::Invalid(_) => {
                Some("mend the line, then run the same command again; `annals info STORE` shows the limits")
            }
            _ => None,
        };
        let failure = Failure::from(error).at(&format!("{} line {first_line}", self.file.display()));
        match hint {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}
