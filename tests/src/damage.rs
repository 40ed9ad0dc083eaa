//! Stores that are known to the last event, one of them with every kind of file, and what may come of damage to them: the right
//! event or an error, never anything else.
//!
//! A young one ([`Sample::build`]) has manifests, `MARK`, `RING`, segments sealed, cut and live, and all files of the index; one
//! with a past ([`Sample::aged`]) has these, and containers of compacted segments, snapshots, files of consumers and records of
//! removal. No other file has a live byte: `LOCK`, `CONTROL`, the two of requests and `UNFINISHED` beside a manifest are hints
//! and notes ([`HINTS`]), and no answer depends on what they hold.

pub mod harm;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use annals::inspect::{self, SegmentState, Severity, VerifyReport};
use annals::{
    Batch, Clock, CompactionOptions, ConsumerInfo, ConsumerOptions, Durability, Error, Event, EventId, Expect, Loaded,
    Lookup, NewEvent, Options, Query, ReadMode, Reader, Removed, Revision, Seek, Snapshots, Store, StreamState, View,
};
use annals_format::compacted::{BLOCK_ENTRY_LEN, BlockTable, COMPACTED_HEADER_LEN, CompactedHeader};
use annals_format::snapshot::{SNAPSHOT_FRAME_LEN, SNAPSHOT_HEADER_LEN, SnapshotFileHeader, SnapshotFrame};

use crate::container::is_container;
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

/// What stands at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Visible,
    Removed,
    /// A record that removes others.
    Control,
}

/// One record as it was appended; its position is its place in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    standing: Standing,
    stream: String,
    revision: u64,
    event_type: String,
    tags: Vec<String>,
    metadata: Vec<u8>,
    payload: Vec<u8>,
    id: EventId,
}

impl Known {
    fn control() -> Self {
        Self {
            standing: Standing::Control,
            stream: String::new(),
            revision: 0,
            event_type: String::new(),
            tags: Vec::new(),
            metadata: Vec::new(),
            payload: Vec::new(),
            id: EventId::from_bytes([0; 16]),
        }
    }

    fn is_visible(&self) -> bool {
        self.standing == Standing::Visible
    }

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

/// What is known of a store beside its events.
#[derive(Clone, Debug, Default)]
struct Beside {
    /// Streams that were ended for good.
    tombstoned: Vec<&'static str>,
    /// Streams that were deleted, and begin anew with what was written to them later.
    deleted: Vec<&'static str>,
    /// Streams that were cut: a retry of what was cut off is answered by its content.
    truncated: Vec<&'static str>,
    /// The newest snapshot of each stream that has one.
    saved: BTreeMap<String, Revision>,
    consumers: Vec<ConsumerInfo>,
}

/// The only kind of snapshots there is.
fn states() -> Snapshots {
    Snapshots::of("state", 1).compress(false)
}

/// What a snapshot holds, which tells of what it is one.
fn state_of(stream: &str, revision: Revision) -> Vec<u8> {
    format!("{stream} up to {revision} ").repeat(9).into_bytes()
}

/// What two answers must have in common; how far the head has gone on and who has it open may differ.
fn same_consumers(before: &[ConsumerInfo], now: &[ConsumerInfo]) -> bool {
    let of = |info: &ConsumerInfo| {
        (info.name.clone(), info.checkpoint, info.finished_above, info.parked, info.generation, info.changed_at)
    };
    before.iter().map(of).eq(now.iter().map(of))
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
    /// Whether it was closed: then the default view shows all of it as well.
    is_closed: bool,
    beside: Beside,
    /// Makes another one of another seed.
    other: fn(u64) -> Self,
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
    beside: Beside,
}

impl Writing {
    fn new(seed: u64) -> Self {
        Self { clock: Arc::default(), dice: Dice::new(seed), events: Vec::new(), beside: Beside::default() }
    }

    /// What a kill leaves after `Buffered` appends, opened again.
    fn killed(&mut self, disk: &SimDisk, store: Store) -> (SimDisk, Store) {
        self.append(&store, 20, Durability::Buffered);
        let killed = disk.after_kill();
        drop(store);
        let store = self.open(&killed);
        assert!(!store.recovery_report().clean, "a killed store is not clean");
        (killed, store)
    }

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
        let ended = &self.beside.tombstoned;
        let mut stream = format!("order-{}", dice.below(12));
        while ended.iter().any(|ended| *ended == stream) {
            stream = format!("order-{}", dice.below(12));
        }
        let revision = 1 + self.events.iter().filter(|event| event.stream == stream).count() as u64;
        let mut bytes = |most: u64| -> Vec<u8> { (0..dice.below(most)).map(|_| dice.next() as u8).collect() };
        let (payload, metadata) = (bytes(500), bytes(24));
        let mut id = [0; 16];
        id[..8].copy_from_slice(&dice.next().to_le_bytes());
        id[8..].copy_from_slice(&(self.events.len() as u64).to_le_bytes());
        Known {
            standing: Standing::Visible,
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

impl Writing {
    fn last_of(&self, stream: &str) -> Revision {
        let of_stream = self.events.iter().filter(|event| event.stream == stream);
        Revision::new(of_stream.count() as u64).expect("the stream has events")
    }

    /// Notes what a removal has hidden of a stream, before this revision.
    fn removed(&mut self, removed: annals::Result<Removed>, stream: &str, before: u64) {
        let removed = removed.expect("a sound store removes");
        let hidden = self.events.iter_mut().filter(|known| known.stream == stream && known.revision < before);
        hidden.for_each(|known| known.standing = Standing::Removed);
        self.events.push(Known::control());
        assert_eq!(removed.position.map(|position| position.get()), Some(self.events.len() as u64));
    }

    fn delete(&mut self, store: &Store, stream: &'static str) {
        self.removed(store.delete(stream, Expect::Any), stream, u64::MAX);
        self.beside.deleted.push(stream);
        self.beside.saved.remove(stream);
    }

    fn truncate(&mut self, store: &Store, stream: &'static str) {
        self.beside.truncated.push(stream);
        let cut = Revision::new(self.last_of(stream).get() * 2 / 3).expect("a stream of some events");
        self.removed(store.truncate_before(stream, Expect::Any, cut), stream, cut.get());
    }

    fn save(&mut self, store: &Store, stream: &str) {
        let revision = self.last_of(stream);
        states().save(store, stream, revision, &state_of(stream, revision)).expect("a sound store saves");
        self.beside.saved.insert(stream.to_owned(), revision);
    }

    /// Lets each consumer read on, to acknowledge most, park some and leave a few.
    fn consume(&mut self, store: &Store, names: &[&str]) {
        for name in names {
            let options = ConsumerOptions::new().start(Seek::Beginning).durability(Durability::Durable);
            let consumer = store.consumer(name, options).expect("opens");
            while let Some(delivery) = consumer.next(Duration::ZERO).expect("reads") {
                let done = match self.dice.below(9) {
                    0 => Ok(()),
                    1 => consumer.park(&delivery, "no such address"),
                    _ => consumer.ack_with(&delivery, Durability::Buffered),
                };
                // Parked with an earlier one of its stream.
                assert!(matches!(done, Ok(()) | Err(Error::Fenced { .. })), "{done:?}");
            }
        }
        store.sync().expect("syncs");
    }

    /// The store that was written, closed.
    fn sample(mut self, files: Files, older: Vec<Files>, other: fn(u64) -> Sample) -> Sample {
        let disk = SimDisk::from_files(&files);
        let store = options().open_read_only_storage(Arc::new(disk)).expect("a sound store opens");
        self.beside.consumers = store.consumers().expect("a sound store");
        let (durable, live) = (self.events.len() as u64, live_places(&files));
        Sample { files, events: self.events, durable, is_closed: true, beside: self.beside, other, older, live }
    }
}

impl Sample {
    /// Several sealed segments, one cut by a recovery, a live one, indexes, two manifests, `MARK` and `RING`.
    pub fn build(seed: u64) -> Self {
        let mut writing = Writing::new(seed);
        let mut older = Vec::new();
        let disk = SimDisk::new();
        let store = writing.open(&disk);
        writing.append(&store, 100, Durability::Durable);
        older.push(disk.files());
        let (killed, store) = writing.killed(&disk, store);
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
        writing.sample(killed.files(), older, Self::build)
    }

    /// A store with a past: consumers, snapshots, streams truncated, deleted, written again and ended for good, segments
    /// compacted, some of them twice, one cut by a recovery, and all that comes after.
    pub fn aged(seed: u64) -> Self {
        let mut writing = Writing::new(seed);
        let (mut older, consumers) = (Vec::new(), ["mail", "größere Post"]);
        let compaction = CompactionOptions::new().level(1).block_bytes(4096);
        let disk = SimDisk::new();
        let store = writing.open(&disk);
        writing.append(&store, 70, Durability::Durable);
        writing.consume(&store, &consumers);
        for stream in ["order-0", "order-1", "order-2", "order-4"] {
            writing.save(&store, stream);
        }
        writing.append(&store, 60, Durability::Durable);
        // A snapshot is all that is left of what one of them was; another is cut behind its snapshot and saved again.
        writing.save(&store, "order-1");
        writing.truncate(&store, "order-1");
        writing.truncate(&store, "order-4");
        writing.save(&store, "order-4");
        writing.delete(&store, "order-2");
        writing.append(&store, 40, Durability::Durable);
        let first = store.compact(&compaction).expect("compacts");
        assert!(!first.compacted.is_empty(), "{first:?}");
        older.push(disk.files());
        writing.consume(&store, &consumers);
        writing.removed(store.tombstone("order-3", Expect::Any), "order-3", u64::MAX);
        writing.beside.tombstoned.push("order-3");
        writing.truncate(&store, "order-5");
        let again = store.compact(&compaction).expect("compacts");
        assert!(again.compacted.iter().any(|number| first.compacted.contains(number)), "{again:?} after {first:?}");
        let (killed, store) = writing.killed(&disk, store);
        older.push(killed.files());
        writing.append(&store, 90, Durability::Durable);
        writing.consume(&store, &consumers);
        for stream in ["order-0", "order-2", "order-6"] {
            writing.save(&store, stream);
        }
        store.close().expect("closes");
        older.push(killed.files());
        let store = writing.open(&killed);
        writing.append(&store, 70, Durability::Durable);
        writing.save(&store, "order-7");
        // The last one, deleted and not written again.
        writing.delete(&store, "order-8");
        store.close().expect("closes");
        writing.sample(killed.files(), older, Self::aged)
    }

    /// What a kill left: `durable` of the events are known to be.
    fn after_kill(files: Files, durable: u64, events: Vec<Known>, other: fn(u64) -> Self) -> Self {
        let (beside, live) = (Beside::default(), live_places(&files));
        Self { files, durable, is_closed: false, beside, other, events, older: Vec::new(), live }
    }

    /// A store whose process was killed: sealed segments, synced batches, and some that the ring alone holds.
    pub fn killed(seed: u64) -> Self {
        let mut writing = Writing::new(seed);
        let disk = SimDisk::new();
        let store = writing.open(&disk);
        writing.append(&store, 110, Durability::Durable);
        let durable = writing.events.len() as u64;
        writing.append(&store, 15, Durability::Buffered);
        let files = disk.after_kill().files();
        drop(store);
        Self::after_kill(files, durable, writing.events, Self::killed)
    }

    /// A store with consumers whose process was killed: what they acknowledged and parked stands in sealed segments, in the
    /// live one and in the ring, and in files of its own.
    pub fn consuming(seed: u64) -> Self {
        let mut writing = Writing::new(seed);
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
        Self::after_kill(files, durable, writing.events, Self::consuming)
    }

    /// The events that a reader with this head must find; the rest was never said to be safe. What the default view shows of
    /// a store that was not closed ends at a mark, and a mark may lag.
    fn up_to(&self, head: u64, view: View) -> Result<&[Known], String> {
        let may_lag = view == View::Durable && !self.is_closed;
        let least = if may_lag { 0 } else { self.durable };
        let is_fine = (least..=self.events.len() as u64).contains(&head);
        if is_fine {
            Ok(&self.events[..head as usize])
        } else {
            Err(format!("the head of the {view:?} view is {head}, without an error"))
        }
    }

    /// Another store of the same kind.
    #[must_use]
    pub fn another(&self, seed: u64) -> Self {
        (self.other)(seed)
    }

    /// Consumers of a store that was closed are where they were.
    fn judge_consumers(&self, told: annals::Result<Vec<ConsumerInfo>>) -> Result<Outcome, String> {
        match told {
            Ok(told) if !self.is_closed || same_consumers(&self.beside.consumers, &told) => Ok(Outcome::Right),
            Ok(told) => Err(format!("the consumers are {told:?}, without an error")),
            Err(error) if is_clear(&error) => Ok(Outcome::Partly),
            Err(error) => Err(format!("no clear error of the consumers: {error:?}")),
        }
    }

    /// How many events there ever were, removed ones too.
    #[must_use]
    pub fn event_count(&self) -> u64 {
        self.events.iter().filter(|known| known.standing != Standing::Control).count() as u64
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

/// Files of a store that no answer depends on.
pub const HINTS: [&str; 5] = ["CONTROL", "LOCK", "COMPACT", "COMPACT-ANSWER", "UNFINISHED"];

/// Kind of a file by its name; of segments the state tells more, of the index `kind_of_index`.
pub fn kind_of(name: &str) -> &'static str {
    match name {
        "MARK" => "mark",
        "RING" => "ring",
        _ if HINTS.contains(&name) => "hint",
        _ if name.starts_with("manifest-") => "manifest",
        _ if name.starts_with("snapshots-") => "snapshots",
        _ if is_container(name) => "container",
        _ if name.ends_with(".idx") || name.starts_with("INDEX-") => "index",
        _ => "segment",
    }
}

/// Kind of a file of the index, or of another one that is derived.
fn kind_of_index(name: &str, bytes: &[u8]) -> &'static str {
    match name {
        _ if name.starts_with("tier-") => "index: tier",
        _ if name.starts_with("streams-") => "index: streams",
        _ if name.starts_with("INDEX-") => "index: manifest",
        _ if name.starts_with("consumers-") => "consumers",
        _ if bytes.starts_with(b"ANNALIDX") => "index: segment",
        _ => "index: places",
    }
}

/// Header, dictionary, each block and the two tables of a container: all of it.
fn stretches_of_container(bytes: &[u8]) -> Vec<Range<u64>> {
    let (header, _) = CompactedHeader::decode(&bytes[..COMPACTED_HEADER_LEN]).expect("a header");
    let at = header.block_table();
    let table = BlockTable::decode(&header, &bytes[at.start as usize..at.end as usize]).expect("a table of blocks");
    assert_eq!(at.end - at.start, u64::from(header.block_count) * BLOCK_ENTRY_LEN as u64);
    let mut stretches = vec![0..COMPACTED_HEADER_LEN as u64, header.dictionary()];
    stretches.extend((0..header.block_count).map(|block| table.place(block).expect("a block's place")));
    stretches.extend([at, header.removed_table()]);
    stretches.retain(|range| !range.is_empty());
    let sum: u64 = stretches.iter().map(|range| range.end - range.start).sum();
    assert_eq!(sum, bytes.len() as u64, "nothing of a container is left out");
    stretches
}

/// Header and frames of a file of snapshots; zeros follow.
fn stretches_of_snapshots(bytes: &[u8]) -> Vec<Range<u64>> {
    let header = SnapshotFileHeader::decode(&bytes[..SNAPSHOT_HEADER_LEN]).expect("a header");
    let mut at = SNAPSHOT_HEADER_LEN as u64;
    let mut stretches: Vec<Range<u64>> = std::iter::once(0..at).collect();
    while bytes.len() as u64 - at >= SNAPSHOT_FRAME_LEN as u64 && bytes[at as usize..][..16] != [0; 16] {
        let frame = SnapshotFrame::decode(&bytes[at as usize..], header.seed(), at).expect("a frame");
        stretches.push(at..at + frame.len());
        at += frame.len();
    }
    stretches
}

fn live_places(files: &Files) -> Vec<Live> {
    let disk = SimDisk::from_files(files);
    let mut live = Vec::new();
    for info in inspect::segments_in(&disk).expect("a sound store") {
        let kind = match info.state {
            SegmentState::Sealed => "segment sealed",
            SegmentState::Cut => "segment cut",
            SegmentState::Active => "segment live",
            // Of a container its own places are told below.
            SegmentState::Compacted | SegmentState::Unlisted => continue,
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
        let (kind, ranges) = match kind_of(name) {
            kind @ "mark" => (kind, vec![0..128, 4096..4224]),
            kind @ "ring" => (kind, vec![0..128, 512..640]),
            kind @ "manifest" => (kind, std::iter::once(0..len).collect()),
            kind @ "container" => (kind, stretches_of_container(bytes)),
            kind @ "snapshots" => (kind, stretches_of_snapshots(bytes)),
            "index" => match kind_of_index(name, bytes) {
                kind @ "index: segment" => (kind, vec![0..128, 128..len]),
                kind => (kind, std::iter::once(0..len).collect()),
            },
            _ => continue,
        };
        for range in ranges {
            let slot = &bytes[range.start as usize..range.end as usize];
            // A slot that was never written is covered by nothing.
            if slot.iter().any(|byte| *byte != 0) {
                live.push(Live { file: name.clone(), kind, range, position: None });
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
struct Judge<'a> {
    events: &'a [Known],
    beside: &'a Beside,
    has_failed: bool,
    wrong: Vec<String>,
}

impl<'a> Judge<'a> {
    /// Reads by every path; answers what came of it, or what was wrong.
    ///
    /// # Errors
    /// Every answer that was neither right nor a clear error.
    fn read(
        (events, beside): (&'a [Known], &'a Beside),
        reader: &Reader,
        dice: &mut Dice,
        effort: Effort,
    ) -> Result<Outcome, String> {
        let mut judge = Self { events, beside, has_failed: false, wrong: Vec::new() };
        let head = events.len() as u64;
        if reader.head() != head {
            judge.wrong.push(format!("the head is {} instead of {head}, without an error", reader.head()));
        }
        judge.forward(reader);
        if effort.all {
            judge.backward(reader);
        }
        // Of a store that ends earlier nothing is known of its snapshots.
        if beside.saved.values().next().is_some() {
            judge.snapshots(reader);
        }
        if head == 0 {
            return if judge.wrong.is_empty() { Ok(Outcome::Right) } else { Err(judge.wrong.join("\n")) };
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
        // A record that removes has none.
        streams.retain(|stream| !stream.is_empty());
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
            Some(known) if known.is(event) && known.is_visible() => {}
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
        let mut expected = self.visible();
        let complete = self.each(reader.read_all(&Query::all(), Seek::Beginning), |judge, event| {
            judge.event(event, Some(expected.next().unwrap_or(u64::MAX)), "read_all");
        });
        if let Some(expected) = expected.next().filter(|_| complete) {
            self.wrong(format!("read_all ended before {expected}, without an error"));
        }
    }

    fn backward(&mut self, reader: &Reader) {
        let mut expected = self.visible().rev();
        let complete = self.each(reader.read_all_back(&Query::all(), Seek::End), |judge, event| {
            judge.event(event, Some(expected.next().unwrap_or(0)), "read_all_back");
        });
        if let Some(expected) = expected.next().filter(|_| complete) {
            self.wrong(format!("read_all_back ended at {expected}, without an error"));
        }
    }

    /// Positions of the events that can be read.
    fn visible(&self) -> impl DoubleEndedIterator<Item = u64> + use<'a> {
        let events = self.events;
        (0..events.len()).filter(|index| events[*index].is_visible()).map(|index| index as u64 + 1)
    }

    fn stream(&mut self, reader: &Reader, stream: &str) {
        let events = self.events;
        let of_stream = |position: &u64| events[*position as usize - 1].stream == stream;
        let positions: Vec<u64> = self.visible().filter(of_stream).collect();
        let mut left = positions.iter();
        let complete = self.each(reader.read_stream(stream, Seek::Beginning), |judge, event| {
            judge.event(event, left.next().copied(), "read_stream");
        });
        if complete && left.next().is_some() {
            self.wrong(format!("stream {stream} ended early, without an error"));
        }
        let last = events.iter().filter(|event| event.stream == stream).count() as u64;
        let last = Revision::new(last).expect("a stream that was written");
        let first = positions.first().and_then(|first| Revision::new(events[*first as usize - 1].revision));
        let expected = match first {
            Some(first) => StreamState::Live { first, last },
            None if self.beside.tombstoned.contains(&stream) => StreamState::Tombstoned { last },
            None => StreamState::Deleted { last },
        };
        match reader.stream_state(stream) {
            Ok(state) if state == expected => {}
            Ok(state) => self.wrong(format!("stream {stream} is {state:?} instead of {expected:?}")),
            Err(error) => self.failed(&error),
        }
    }

    /// The newest snapshot of a stream, and what is loaded by whichever: the whole stream, or an error.
    fn snapshots(&mut self, reader: &Reader) {
        let beside = self.beside;
        for (stream, revision) in &beside.saved {
            match reader.latest_snapshot(stream, &states()) {
                // Where the newest is damaged so that nobody can tell whose it was, the one before is the newest that is left.
                Ok(Some(found))
                    if found.revision() <= *revision && found.state() == state_of(stream, found.revision()) =>
                {
                    self.has_failed |= found.revision() < *revision;
                }
                Ok(found) => {
                    let found = found.map(|found| found.revision());
                    self.wrong(format!("the newest snapshot of {stream} is of {found:?} instead of {revision}"));
                }
                Err(error) => self.failed(&error),
            }
            let history = match reader.load(stream, &states()) {
                Ok(Loaded::Complete(history)) => history,
                Ok(Loaded::Incomplete { first_available }) => {
                    self.wrong(format!("{stream} is there from {first_available} on, without an error"));
                    continue;
                }
                Err(error) => {
                    self.failed(&error);
                    continue;
                }
            };
            let of_stream = self.events.iter().filter(|event| event.stream == *stream);
            let first = of_stream.clone().find(|event| event.is_visible()).map_or(1, |event| event.revision);
            let mut revision = if beside.deleted.contains(&stream.as_str()) { first - 1 } else { 0 };
            if let Some(snapshot) = history.snapshot() {
                revision = snapshot.revision().get();
                if snapshot.state() != state_of(stream, snapshot.revision()) {
                    self.wrong(format!("the state of {stream} at {revision} is another"));
                }
            }
            // That a snapshot is damaged is said, although the events make up for it.
            self.has_failed |= !history.damage().is_empty();
            let mut is_whole = true;
            for event in history {
                match event {
                    Ok(event) => {
                        self.event(&event, None, "load");
                        revision += 1;
                        if event.stream() != stream || event.revision().get() != revision {
                            self.wrong(format!("load of {stream}: {event:?} instead of revision {revision}"));
                        }
                    }
                    Err(error) => {
                        self.failed(&error);
                        is_whole = false;
                    }
                }
            }
            let last = of_stream.count() as u64;
            if is_whole && revision != last {
                self.wrong(format!("load of {stream} ended at {revision} instead of {last}, without an error"));
            }
        }
    }

    fn by_id(&mut self, reader: &Reader, number: usize) {
        let position = number as u64 + 1;
        let known = &self.events[number];
        match reader.by_id(known.id) {
            Ok(Lookup::Removed { at, .. }) if at.get() == position && known.standing == Standing::Removed => {}
            Ok(Lookup::NotFound) if known.standing == Standing::Control => {}
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
    /// Opens for reading and reads, what is written and what the default view shows.
    ///
    /// # Errors
    /// Every answer that was neither right nor a clear error.
    pub fn judge_read_only(&self, disk: &SimDisk, dice: &mut Dice, effort: Effort) -> Result<Outcome, String> {
        let written = self.judge_view(View::Written, disk, dice, effort)?;
        Ok(written.min(self.judge_view(View::Durable, disk, dice, effort)?))
    }

    /// As [`Sample::judge_read_only`], one view alone. The store is one whose default view is the durable one.
    ///
    /// # Errors
    /// As there.
    pub fn judge_view(&self, view: View, disk: &SimDisk, dice: &mut Dice, effort: Effort) -> Result<Outcome, String> {
        let opened = options().read_mode(ReadMode::Pread).open_read_only_storage(Arc::new(disk.clone()));
        let store = match opened {
            Ok(store) => store,
            Err(error) if is_clear(&error) => return Ok(Outcome::Refused),
            Err(error) => return Err(format!("open_read_only answers no clear error: {error:?}")),
        };
        let reader = match view {
            View::Durable => store.reader(),
            _ => store.reader_in(view),
        };
        let known = (self.up_to(reader.head(), view)?, &self.beside);
        let read = Judge::read(known, &reader, dice, effort).map_err(|what| format!("{view:?} view: {what}"))?;
        Ok(read.min(self.judge_consumers(store.consumers())?))
    }

    /// Appends an event again that was cut off: its id and the hash of its content are left, and answer. Answers the error.
    fn retry_removed(&self, store: &Store, dice: &mut Dice) -> Result<Option<Error>, String> {
        let is_cut_off = |known: &Known| {
            known.standing == Standing::Removed && self.beside.truncated.contains(&known.stream.as_str())
        };
        let removed: Vec<(u64, &Known)> = (1..).zip(&self.events).filter(|(_, known)| is_cut_off(known)).collect();
        if removed.is_empty() {
            return Ok(None);
        }
        let (position, known) = removed[dice.index(removed.len())];
        let tags: Vec<&str> = known.tags.iter().map(String::as_str).collect();
        let new = NewEvent::new(&known.event_type, &known.payload).id(known.id).tags(&tags).metadata(&known.metadata);
        match store.append(&known.stream, Expect::Any, &[new]) {
            Ok(receipt) if receipt.already_committed() && receipt.position().get() == position => Ok(None),
            Ok(receipt) => Err(format!("the event at {position} was stored again: {receipt:?}")),
            Err(error) => Ok(Some(error)),
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
        let found = self.up_to(reader.head(), View::Written)?;
        let first = Judge::read((found, &self.beside), &reader, dice, effort)?;
        let first = first.min(self.judge_consumers(Ok(store.consumers()))?);
        let id = EventId::from_bytes([0xfe; 16]);
        let known = Known {
            standing: Standing::Visible,
            stream: "after".to_owned(),
            revision: 1,
            event_type: "Appended".to_owned(),
            tags: Vec::new(),
            metadata: Vec::new(),
            payload: b"after the damage".to_vec(),
            id,
        };
        let new = NewEvent::new(&known.event_type, &known.payload).id(id);
        match store.append(&known.stream, Expect::NoStream, &[new]) {
            Ok(_) => {}
            Err(error) if is_clear(&error) => return Ok(Outcome::Partly),
            Err(error) => return Err(format!("append answers no clear error: {error:?}")),
        }
        if let Some(error) = self.retry_removed(&store, dice)? {
            return if is_clear(&error) {
                Ok(Outcome::Partly)
            } else {
                Err(format!("no clear error of a retry: {error:?}"))
            };
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
        let second = Judge::read((&events, &self.beside), &again.reader_in(View::Written), dice, effort)?;
        let second = second.min(self.judge_consumers(Ok(again.consumers()))?);
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
