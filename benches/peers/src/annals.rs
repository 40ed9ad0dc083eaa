//! annals through its public interface, with its defaults.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use annals::{
    Batch, Durability as Asked, Error, Expect, NewEvent, Options, Query, Seek, Store as Events, Ticket, View,
};

use crate::Result;
use crate::floor::scan::Place;
use crate::peer::{Durability, Log, Outcome, Scanned, Store, Tickets, Writer};
use crate::workload::{EventIn, Workload};

/// See the module.
pub struct Annals {
    store: Events,
    callers_ids: bool,
    reserves: bool,
}

impl Annals {
    /// Opens it with the caller's ids, as every row counts it.
    pub fn open(dir: &Path, durability: Durability, _bytes_expected: u64) -> Result<Box<dyn Log>> {
        Ok(Box::new(Self { store: store(dir, durability)?, callers_ids: true, reserves: true }))
    }

    /// Opens it to make its segments as it comes to need them, as it does when nobody says what is to come.
    pub fn open_unprepared(dir: &Path, durability: Durability, _bytes_expected: u64) -> Result<Box<dyn Log>> {
        Ok(Box::new(Self { store: store(dir, durability)?, callers_ids: true, reserves: false }))
    }

    /// Opens it to make ids of its own: shown beside, counted nowhere.
    pub fn open_with_generated_ids(dir: &Path, durability: Durability, _bytes_expected: u64) -> Result<Box<dyn Log>> {
        Ok(Box::new(Self { store: store(dir, durability)?, callers_ids: false, reserves: true }))
    }

    #[inline]
    fn event<'a>(&self, event: &EventIn<'a>) -> NewEvent<'a> {
        let new = NewEvent::new(event.event_type, event.payload);
        if self.callers_ids { new.id(event.id) } else { new }
    }

    fn batch<'a>(&self, events: &[EventIn<'a>]) -> Batch<'a> {
        let mut batch = Batch::with_capacity(events.len());
        for event in events {
            if event.first_in_batch {
                batch.push_expectation(event.stream, Expect::revision(event.revision));
            }
            batch.push(event.stream, self.event(event));
        }
        batch
    }
}

/// Appends all events of `work` in batches of `len`.
pub(crate) fn append_all(
    work: &Workload,
    len: usize,
    mut append: impl FnMut(&[EventIn<'_>]) -> Result<()>,
    firsts: &[bool],
) -> Result<()> {
    let mut batch = Vec::with_capacity(len);
    for (number, first_in_batch) in firsts.iter().enumerate() {
        batch.push(EventIn { first_in_batch: *first_in_batch, ..work.event(number) });
        if batch.len() == len || number + 1 == firsts.len() {
            append(&batch)?;
            batch.clear();
        }
    }
    Ok(())
}

/// Commits a batch of events, with the callers' ids.
pub(crate) fn commit(store: &Events, events: &[EventIn<'_>]) -> Result<()> {
    let mut batch = Batch::with_capacity(events.len());
    for event in events {
        batch.push(event.stream, NewEvent::new(event.event_type, event.payload).id(event.id));
    }
    store.commit(&batch)?;
    Ok(())
}

fn store(dir: &Path, durability: Durability) -> Result<Events> {
    let durability = match durability {
        Durability::Buffered => Asked::Buffered,
        Durability::Durable => Asked::Durable,
    };
    // The rows bound what is in flight themselves, in bytes handed in; in the log these are half as many again.
    Ok(Options::new().durability(durability).in_flight_bytes(8 << 20).open(dir.join("store"))?)
}

impl Log for Annals {
    fn writer(&self) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(AnnalsWriter(self)))
    }

    fn sync(&self) -> Result<()> {
        self.store.sync()?;
        Ok(())
    }

    fn reserve(&self, bytes: u64) -> Result<()> {
        if self.reserves {
            // With names, ids and headers an event takes up to 1.44 times its payload here.
            self.store.reserve(bytes + bytes / 2)?;
        }
        Ok(())
    }

    fn store(&self) -> Option<&dyn Store> {
        Some(self)
    }

    fn tickets(&self) -> Option<Box<dyn Tickets + '_>> {
        Some(Box::new(AnnalsTickets { store: self, waiting: VecDeque::new() }))
    }
}

struct AnnalsWriter<'a>(&'a Annals);

impl Writer for AnnalsWriter<'_> {
    #[inline]
    fn append(&mut self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        let answer = match batch {
            [event] => {
                let expect = Expect::revision(event.revision);
                self.0.store.append(event.stream, expect, &[self.0.event(event)])
            }
            batch => self.0.store.commit(&self.0.batch(batch)),
        };
        outcome(answer)
    }
}

fn outcome(answer: annals::Result<annals::Receipt>) -> Result<Outcome> {
    match answer {
        Ok(receipt) if receipt.already_committed() => Ok(Outcome::Duplicate),
        Ok(_) => Ok(Outcome::Committed),
        Err(Error::Conflict { .. }) => Ok(Outcome::Conflict),
        Err(Error::DuplicateId { .. } | Error::PartialDuplicate { .. }) => Ok(Outcome::Duplicate),
        Err(error) => Err(error.into()),
    }
}

struct AnnalsTickets<'a> {
    store: &'a Annals,
    waiting: VecDeque<Ticket>,
}

impl Tickets for AnnalsTickets<'_> {
    fn submit(&mut self, event: &EventIn<'_>) -> Result<()> {
        let expect = Expect::revision(event.revision);
        self.waiting.push_back(self.store.store.submit_to(event.stream, expect, &[self.store.event(event)])?);
        Ok(())
    }

    fn wait_oldest(&mut self) -> Result<()> {
        let ticket = self.waiting.pop_front().ok_or("no ticket to wait for")?;
        match outcome(ticket.wait())? {
            Outcome::Committed => Ok(()),
            refused => Err(format!("an append that must succeed ended as {refused:?}").into()),
        }
    }
}

impl Store for Annals {
    fn scan(&self) -> Result<Scanned> {
        let mut scanned = Scanned::default();
        let read = self.store.reader_in(View::Written).read_all(&Query::all(), Seek::Beginning)?;
        read.for_each_event(|event| {
            scanned.add(event.payload());
            ControlFlow::<()>::Continue(())
        })?;
        Ok(scanned)
    }

    fn read_stream(&self, stream: &str, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        for event in self.store.read_stream(stream, Seek::Beginning)? {
            each(event?.payload());
        }
        Ok(())
    }

    fn latest(&self, stream: &str) -> Result<u64> {
        Ok(self.store.stream_state(stream)?.last().map_or(0, |revision| revision.get()))
    }
}

/// Whether a file of the store holds events.
pub fn holds_events(name: &str) -> bool {
    name.starts_with("segment-") && name.ends_with(".log")
}

/// Segments and the places of the events in them, by the layout of `docs/format.md`: sections 4 to 6. Events here have
/// no optional fields.
pub fn places(dir: &Path) -> Result<(Vec<PathBuf>, Vec<Place>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir.join("store"))? {
        let entry = entry?;
        if holds_events(&entry.file_name().to_string_lossy()) {
            files.push(entry.path());
        }
    }
    files.sort();
    let mut places = Vec::new();
    for (number, path) in files.iter().enumerate() {
        places_in(&std::fs::read(path)?, number as u32, &mut places);
    }
    Ok((files, places))
}

fn places_in(bytes: &[u8], file: u32, places: &mut Vec<Place>) {
    const SEGMENT_HEADER_LEN: usize = 4096;
    const BATCH_HEADER_LEN: usize = 40;
    const RECORD_HEADER_LEN: usize = 24 + 16;
    const BATCH: u8 = 0xb1;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
    let mut at = SEGMENT_HEADER_LEN;
    while at + BATCH_HEADER_LEN <= bytes.len() && bytes[at + 4] == BATCH {
        let end = at + BATCH_HEADER_LEN + word(at + 8);
        at += BATCH_HEADER_LEN;
        while at < end {
            let len = word(at + 4);
            let payload_at = RECORD_HEADER_LEN + usize::from(bytes[at + 14]) + usize::from(bytes[at + 15]);
            // The checksum covers all but itself.
            places.push(Place {
                file,
                at: at as u32 + 4,
                len: len.next_multiple_of(8) as u32 - 4,
                payload_at: payload_at as u32 - 4,
                payload_len: (len - payload_at) as u32,
            });
            at += len.next_multiple_of(8);
        }
    }
}
