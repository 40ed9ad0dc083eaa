//! A store with every kind of file, known to the last event, and what may come of damage to it: the right event or an
//! error, never anything else.

pub mod harm;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use annals::inspect::{self, SegmentState, Severity, VerifyReport};
use annals::{
    Batch, Clock, ConsumerOptions, Durability, Error, Event, EventId, Lookup, NewEvent, Options, Query, ReadMode,
    Reader, Seek, StreamState, View,
};

use crate::sim_disk::{Dice, SimDisk};

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A clock that goes on by a millisecond at each look.
#[derive(Debug, Default)]
struct StepClock(AtomicU64);

impl Clock for StepClock {
    fn now(&self) -> u64 {
        1_700_000_000_000_000_000 + self.0.fetch_add(1_000_000, Ordering::Relaxed)
    }
}

/// One event as it was appended; its position is its place in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    stream: String,
    revision: u64,
    event_type: String,
    tags: Vec<String>,
    metadata: Vec<u8>,
    payload: Vec<u8>,
    id: EventId,
}

impl Known {
    fn is(&self, event: &Event) -> bool {
        event.stream() == self.stream
            && event.revision().get() == self.revision
            && event.event_type() == self.event_type
            && event.tags().eq(self.tags.iter().map(String::as_str))
            && event.metadata() == self.metadata
            && event.payload() == self.payload
            && event.id() == self.id
    }
}

/// A stretch of a file that one checksum covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Name of the file.
    pub file: String,
    /// Kind of the file, for tables.
    pub kind: &'static str,
    /// Its bytes.
    pub range: Range<u64>,
    /// The position of the record that it is.
    pub position: Option<u64>,
}

/// The store.
#[derive(Debug)]
pub struct Sample {
    /// Its files after a clean close.
    pub files: Files,
    /// What they hold, by position from 1.
    pub events: Vec<Known>,
    /// So many of them must never be missing without an error: all, unless the store was not closed.
    pub durable: u64,
    /// Its files at earlier moments, oldest first.
    pub older: Vec<Files>,
    /// Every stretch that a checksum covers.
    pub live: Vec<Live>,
}

/// Small segments, all work done inside the calls.
pub fn options() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).background(false)
}

const TYPES: [&str; 4] = ["Placed", "Paid", "Shipped", "Cancelled"];

/// Appends to a store and notes what was appended.
struct Writing {
    clock: Arc<StepClock>,
    dice: Dice,
    events: Vec<Known>,
}

impl Writing {
    fn open(&self, disk: &SimDisk) -> annals::Store {
        options().clock(self.clock.clone()).open_storage(Arc::new(disk.clone())).expect("a sound store opens")
    }

    fn append(&mut self, store: &annals::Store, batches: usize, durability: Durability) {
        for _ in 0..batches {
            let first = self.events.len();
            for _ in 0..1 + self.dice.index(5) {
                let known = self.next_event();
                self.events.push(known);
            }
            let tags: Vec<Vec<&str>> =
                self.events[first..].iter().map(|event| event.tags.iter().map(String::as_str).collect()).collect();
            let mut batch = Batch::new().durability(durability);
            for (event, tags) in self.events[first..].iter().zip(&tags) {
                let new =
                    NewEvent::new(&event.event_type, &event.payload).id(event.id).tags(tags).metadata(&event.metadata);
                batch.push(&event.stream, new);
            }
            store.commit(&batch).expect("a sound store appends");
        }
    }

    fn next_event(&mut self) -> Known {
        let dice = &mut self.dice;
        let stream = format!("order-{}", dice.below(12));
        let revision = 1 + self.events.iter().filter(|event| event.stream == stream).count() as u64;
        let mut bytes = |most: u64| -> Vec<u8> { (0..dice.below(most)).map(|_| dice.next() as u8).collect() };
        let (payload, metadata) = (bytes(500), bytes(24));
        let mut id = [0; 16];
        id[..8].copy_from_slice(&dice.next().to_le_bytes());
        id[8..].copy_from_slice(&(self.events.len() as u64).to_le_bytes());
        Known {
            revision,
            event_type: TYPES[dice.index(TYPES.len())].to_owned(),
            tags: (0..dice.below(3)).map(|n| format!("tag-{n}-{}", dice.below(5))).collect(),
            metadata,
            payload,
            id: EventId::from_bytes(id),
            stream,
        }
    }
}

impl Sample {
    /// Several sealed segments, one cut by a recovery, a live one, indexes, two manifests, `MARK` and `RING`.
    pub fn build(seed: u64) -> Self {
        let mut writing = Writing { clock: Arc::default(), dice: Dice::new(seed), events: Vec::new() };
        let mut older = Vec::new();
        let disk = SimDisk::new();
        let store = writing.open(&disk);
        writing.append(&store, 100, Durability::Durable);
        older.push(disk.files());
        writing.append(&store, 20, Durability::Buffered);
        let killed = disk.after_kill();
        drop(store);
        let store = writing.open(&killed);
        assert!(!store.recovery_report().clean, "a killed store is not clean");
        older.push(killed.files());
        writing.append(&store, 120, Durability::Durable);
        store.close().expect("closes");
        older.push(killed.files());
        let store = writing.open(&killed);
        assert!(store.recovery_report().clean, "a closed store is clean");
        writing.append(&store, 70, Durability::Durable);
        older.push(killed.files());
        writing.append(&store, 10, Durability::Durable);
        store.close().expect("closes");
        let files = killed.files();
        let live = live_places(&files);
        Self { files, durable: writing.events.len() as u64, events: writing.events, older, live }
    }

    /// A store whose process was killed: sealed segments, synced batches, and some that the ring alone holds.
    pub fn killed(seed: u64) -> Self {
        let mut writing = Writing { clock: Arc::default(), dice: Dice::new(seed), events: Vec::new() };
        let disk = SimDisk::new();
        let store = writing.open(&disk);
        writing.append(&store, 110, Durability::Durable);
        let durable = writing.events.len() as u64;
        writing.append(&store, 15, Durability::Buffered);
        let files = disk.after_kill().files();
        drop(store);
        let live = live_places(&files);
        Self { files, durable, events: writing.events, older: Vec::new(), live }
    }

    /// A store with consumers whose process was killed: what they acknowledged and parked stands in sealed segments, in the
    /// live one and in the ring, and in files of its own.
    pub fn consuming(seed: u64) -> Self {
        let mut writing = Writing { clock: Arc::default(), dice: Dice::new(seed), events: Vec::new() };
        let disk = SimDisk::new();
        let store = writing.open(&disk);
        let consumers = ["mail", "größere Post"].map(|name| {
            let options = ConsumerOptions::new().start(Seek::Beginning).durability(Durability::Durable);
            store.consumer(name, options).expect("opens")
        });
        let mut durable = 0;
        for round in 0..4 {
            writing.append(&store, 25, Durability::Durable);
            durable = writing.events.len() as u64;
            for consumer in &consumers {
                while let Some(delivery) = consumer.next(Duration::ZERO).expect("reads") {
                    let done = match writing.dice.below(6) {
                        0 => Ok(()),
                        1 => consumer.park(&delivery, "no such address"),
                        2 => store
                            .commit(&Batch::new().acknowledge(&delivery).durability(Durability::Buffered))
                            .map(drop),
                        _ => consumer.ack_with(&delivery, Durability::Buffered),
                    };
                    // Parked with an earlier one of its stream.
                    assert!(matches!(done, Ok(()) | Err(annals::Error::Fenced { .. })), "{done:?}");
                }
            }
            if round == 2 {
                store.sync().expect("syncs");
            }
        }
        let files = disk.after_kill().files();
        drop(consumers);
        drop(store);
        let live = live_places(&files);
        Self { files, durable, events: writing.events, older: Vec::new(), live }
    }

    /// The events that a reader with this head must find; the rest was never said to be safe.
    fn up_to(&self, head: u64) -> Result<&[Known], String> {
        let is_fine = (self.durable..=self.events.len() as u64).contains(&head);
        if is_fine { Ok(&self.events[..head as usize]) } else { Err(format!("the head is {head}, without an error")) }
    }

    /// A fresh copy of the store.
    pub fn disk(&self) -> SimDisk {
        SimDisk::from_files(&self.files)
    }

    /// Kinds of files there are.
    pub fn kinds(&self) -> Vec<&'static str> {
        let mut kinds: Vec<_> = self.live.iter().map(|live| live.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// A live byte of a file of this kind.
    pub fn place(&self, kind: &str, dice: &mut Dice) -> (&Live, u64) {
        let of_kind: Vec<&Live> = self.live.iter().filter(|live| live.kind == kind).collect();
        let all: u64 = of_kind.iter().map(|live| live.range.end - live.range.start).sum();
        let mut left = dice.below(all);
        for live in of_kind {
            let len = live.range.end - live.range.start;
            if left < len {
                return (live, live.range.start + left);
            }
            left -= len;
        }
        unreachable!("the sum of all lengths was not reached")
    }
}

/// Kind of a file by its name; of segments the state tells more.
pub fn kind_of(name: &str) -> &'static str {
    match name {
        "MARK" => "mark",
        "RING" => "ring",
        "CONTROL" => "control",
        _ if name.starts_with("manifest-") => "manifest",
        _ if name.ends_with(".idx") || name.starts_with("INDEX-") => "index",
        _ => "segment",
    }
}

fn live_places(files: &Files) -> Vec<Live> {
    let disk = SimDisk::from_files(files);
    let mut live = Vec::new();
    for info in inspect::segments_in(&disk).expect("a sound store") {
        let kind = match info.state {
            SegmentState::Sealed | SegmentState::Compacted => "segment sealed",
            SegmentState::Cut => "segment cut",
            SegmentState::Active => "segment live",
            SegmentState::Unlisted => continue,
        };
        let mut add = |offset: u64, len: u64, position| {
            live.push(Live { file: info.file.clone(), kind, range: offset..offset + len, position });
        };
        inspect::dump_in(&disk, info.number, &mut |field| {
            // What the ring still has to complete is no live byte of the file.
            if field.offset >= info.end && info.state == SegmentState::Active {
                return;
            }
            let position = field.value.strip_prefix("position ").and_then(|number| number.parse().ok());
            match field.name.as_str() {
                "segment header" | "end mark" => add(field.offset, field.len, None),
                "batch" => add(field.offset, 40, None),
                "record" => add(field.offset, field.len, position),
                _ => {}
            }
        })
        .expect("a sound store");
    }
    for (name, bytes) in files {
        let len = bytes.len() as u64;
        let ranges: &[(u64, u64)] = match kind_of(name) {
            "mark" => &[(0, 128), (4096, 4224)],
            "ring" => &[(0, 128), (512, 640)],
            "manifest" => &[(0, len)],
            // A whole index; places are as the other files of the index.
            "index" if bytes.starts_with(b"ANNALIDX") => &[(0, 128), (128, len)],
            "index" => &[(0, len)],
            _ => continue,
        };
        for (from, to) in ranges {
            let range = *from..*to;
            let slot = &bytes[range.start as usize..range.end as usize];
            // A slot that was never written is covered by nothing.
            if slot.iter().any(|byte| *byte != 0) {
                live.push(Live { file: name.clone(), kind: kind_of(name), range, position: None });
            }
        }
    }
    live
}

/// What came of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Opening answered an error.
    Refused,
    /// What was read before an error was right.
    Partly,
    /// All was read, and right.
    Right,
}

/// How much to read.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Backward, too, and every stream and id.
    pub all: bool,
    /// A position to look at in any case.
    pub position: Option<u64>,
}

/// Reads a store that may be damaged and judges every answer.
pub struct Judge<'a> {
    events: &'a [Known],
    has_failed: bool,
    wrong: Vec<String>,
}

impl<'a> Judge<'a> {
    /// Reads by every path; answers what came of it, or what was wrong.
    ///
    /// # Errors
    /// Every answer that was neither right nor a clear error.
    pub fn read(events: &'a [Known], reader: &Reader, dice: &mut Dice, effort: Effort) -> Result<Outcome, String> {
        let mut judge = Self { events, has_failed: false, wrong: Vec::new() };
        let head = events.len() as u64;
        if reader.head() != head {
            judge.wrong.push(format!("the head is {} instead of {head}, without an error", reader.head()));
        }
        judge.forward(reader);
        if effort.all {
            judge.backward(reader);
        }
        let focus = effort.position.map(|position| position as usize - 1).filter(|focus| *focus < events.len());
        let at_random = |dice: &mut Dice| dice.index(events.len());
        let chosen: Vec<usize> = if effort.all {
            (0..events.len()).collect()
        } else {
            focus.into_iter().chain((0..4).map(|_| at_random(dice))).collect()
        };
        let mut streams: Vec<&str> =
            chosen.iter().take(if effort.all { events.len() } else { 3 }).map(|n| &*events[*n].stream).collect();
        streams.sort_unstable();
        streams.dedup();
        for stream in streams {
            judge.stream(reader, stream);
        }
        for number in chosen {
            judge.by_id(reader, number);
        }
        if !judge.wrong.is_empty() {
            return Err(judge.wrong.join("\n"));
        }
        Ok(if judge.has_failed { Outcome::Partly } else { Outcome::Right })
    }

    fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    fn failed(&mut self, error: &Error) {
        self.has_failed = true;
        if !is_clear(error) {
            self.wrong(format!("not a clear error: {error:?}"));
        }
    }

    fn event(&mut self, event: &Event, expected: Option<u64>, path: &str) {
        let position = event.position().get();
        if expected.is_some_and(|expected| expected != position) {
            self.wrong(format!("{path}: position {position} instead of {expected:?}"));
        }
        match self.events.get(position as usize - 1) {
            Some(known) if known.is(event) => {}
            Some(known) => self.wrong(format!("{path}: {event:?} instead of {known:?}")),
            None => self.wrong(format!("{path}: an event at {position}, beyond the end")),
        }
    }

    /// Takes a read to its end; answers whether it ended without an error.
    fn each(&mut self, read: annals::Result<annals::Read>, mut each: impl FnMut(&mut Self, &Event)) -> bool {
        let mut read = match read {
            Ok(read) => read,
            Err(error) => {
                self.failed(&error);
                return false;
            }
        };
        while let Some(next) = read.next() {
            match next {
                Ok(event) => each(self, &event),
                Err(error) => {
                    self.failed(&error);
                    if read.next().is_some() {
                        self.wrong("an iterator went on after an error".to_owned());
                    }
                    return false;
                }
            }
        }
        true
    }

    fn forward(&mut self, reader: &Reader) {
        let mut expected = 1;
        let complete = self.each(reader.read_all(&Query::all(), Seek::Beginning), |judge, event| {
            judge.event(event, Some(expected), "read_all");
            expected += 1;
        });
        if complete && expected != self.events.len() as u64 + 1 {
            self.wrong(format!("read_all ended before {expected}, without an error"));
        }
    }

    fn backward(&mut self, reader: &Reader) {
        let mut expected = self.events.len() as u64;
        let complete = self.each(reader.read_all_back(&Query::all(), Seek::End), |judge, event| {
            judge.event(event, Some(expected), "read_all_back");
            expected = expected.saturating_sub(1);
        });
        if complete && expected != 0 {
            self.wrong(format!("read_all_back ended at {expected}, without an error"));
        }
    }

    fn stream(&mut self, reader: &Reader, stream: &str) {
        let positions: Vec<u64> = (1..).zip(self.events).filter(|(_, e)| e.stream == stream).map(|(n, _)| n).collect();
        let mut left = positions.iter();
        let complete = self.each(reader.read_stream(stream, Seek::Beginning), |judge, event| {
            judge.event(event, left.next().copied(), "read_stream");
        });
        if complete && left.next().is_some() {
            self.wrong(format!("stream {stream} ended early, without an error"));
        }
        match reader.stream_state(stream) {
            Ok(StreamState::Live { last, .. }) if last.get() == positions.len() as u64 => {}
            Ok(state) => self.wrong(format!("stream {stream} is {state:?}, of {} events", positions.len())),
            Err(error) => self.failed(&error),
        }
    }

    fn by_id(&mut self, reader: &Reader, number: usize) {
        let position = number as u64 + 1;
        match reader.by_id(self.events[number].id) {
            Ok(Lookup::Found(event)) => self.event(&event, Some(position), "by_id"),
            Ok(other) => self.wrong(format!("by_id of the event at {position}: {other:?}")),
            Err(error) => self.failed(&error),
        }
    }
}

/// An error that says that and where the store is damaged.
pub fn is_clear(error: &Error) -> bool {
    matches!(error, Error::Corrupt(corrupt) if !corrupt.file.is_empty() && !corrupt.what.is_empty())
}

impl Sample {
    /// Opens for reading and reads.
    ///
    /// # Errors
    /// Every answer that was neither right nor a clear error.
    pub fn judge_read_only(&self, disk: &SimDisk, dice: &mut Dice, effort: Effort) -> Result<Outcome, String> {
        let opened = options().read_mode(ReadMode::Pread).open_read_only_storage(Arc::new(disk.clone()));
        match opened {
            Ok(store) => {
                let reader = store.reader_in(View::Written);
                Judge::read(self.up_to(reader.head())?, &reader, dice, effort)
            }
            Err(error) if is_clear(&error) => Ok(Outcome::Refused),
            Err(error) => Err(format!("open_read_only answers no clear error: {error:?}")),
        }
    }

    /// Opens for writing, reads, appends, closes, opens again and reads again.
    ///
    /// # Errors
    /// Every answer that was neither right nor a clear error.
    pub fn judge_writing(&self, disk: &SimDisk, dice: &mut Dice, effort: Effort) -> Result<Outcome, String> {
        let open = || options().open_storage(Arc::new(disk.clone()));
        let store = match open() {
            Ok(store) => store,
            Err(error) if is_clear(&error) => return Ok(Outcome::Refused),
            Err(error) => return Err(format!("open answers no clear error: {error:?}")),
        };
        let reader = store.reader_in(View::Written);
        let found = self.up_to(reader.head())?;
        let first = Judge::read(found, &reader, dice, effort)?;
        let id = EventId::from_bytes([0xfe; 16]);
        let known = Known {
            stream: "after".to_owned(),
            revision: 1,
            event_type: "Appended".to_owned(),
            tags: Vec::new(),
            metadata: Vec::new(),
            payload: b"after the damage".to_vec(),
            id,
        };
        let new = NewEvent::new(&known.event_type, &known.payload).id(id);
        match store.append(&known.stream, annals::Expect::NoStream, &[new]) {
            Ok(_) => {}
            Err(error) if is_clear(&error) => return Ok(Outcome::Partly),
            Err(error) => return Err(format!("append answers no clear error: {error:?}")),
        }
        match store.check_index() {
            Ok(_) => {}
            Err(error) if is_clear(&error) => return Ok(Outcome::Partly),
            Err(error) => return Err(format!("the check of the index answers no clear error: {error:?}")),
        }
        store.close().map_err(|error| format!("close: {error:?}"))?;
        // Whatever the ring still held is gone from here on: what was read before must stand in the files.
        disk.damage("RING", |bytes| bytes[4096..].fill(0));
        let mut events = found.to_vec();
        events.push(known);
        let again = open().map_err(|error| format!("a store that was written does not open again: {error:?}"))?;
        let second = Judge::read(&events, &again.reader_in(View::Written), dice, effort)?;
        if second < first {
            return Err("what could be read before the append can no longer be read after it".to_owned());
        }
        again.close().map_err(|error| format!("close: {error:?}"))?;
        Ok(first)
    }
}

/// Whether `report` names the stretch, and as what.
pub fn named(report: &VerifyReport, live: &Live) -> Option<Severity> {
    let of_place = report.findings.iter().filter(|f| f.file == live.file && live.range.contains(&f.offset));
    of_place.map(|finding| finding.severity).max()
}
