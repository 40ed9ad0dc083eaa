//! Index of the segment that is being written: one writer, any number of readers, no lock.
//!
//! The writer inserts under its own lock, before the watermark shows the batch. A reader loads the watermark first and
//! then sees every entry up to it; entries beyond its head it passes over. Nothing is ever removed. A table that grows
//! is copied and swapped, and a reader goes on with the one it loaded: all that its head needs is in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::name::KeyKind;
use crate::once::OnceLock;
use crate::prefetch::prefetch;
use crate::storage::SharedMap;

/// Sizes to prepare a segment's index with; all of them grow when they must.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) segment_len: u64,
    pub(crate) keys: usize,
    /// `None`: ids are looked up elsewhere.
    pub(crate) ids: Option<usize>,
}

/// Where a record stands in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) frame: u64,
    pub(crate) batch: u64,
}

#[derive(Debug)]
pub(crate) struct ActiveIndex {
    /// Per record four words, so that a record costs the writer half a cache line and no more: its place (offset of the
    /// frame / 8, and in the upper half that of the batch / 8); the hash of its id; record + 1 of the event before of the
    /// same stream, or of the control record before (upper half) and of the event before of the same type; its `recorded_at`.
    records: Arena,
    /// Number of records, those of an unpublished batch included.
    record_count: AtomicU32,
    keys: ArcSwap<KeyTable>,
    ids: Option<ArcSwap<IdTable>>,
    /// Events of tags: the record in the upper half, entry + 1 of the one before of the same tag.
    tagged: Arena,
    new_streams: Arena,
    new_types: Arena,
    streams: OnceLock<StreamRows>,
    /// Memory for those of the segment to come.
    used_rows: Mutex<StreamRows>,
}

/// So many streams before it is needed a slot is asked for.
const SLOTS_AHEAD: usize = 12;

/// Words of a record, in order.
const WORDS: u32 = 4;
const PLACE: u32 = 0;
const ID_HASH: u32 = 1;
const BEFORE: u32 = 2;
const TIME: u32 = 3;

/// What is entered of an event, beside its tags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventEntry {
    pub(crate) place: Place,
    pub(crate) recorded_at: u64,
    pub(crate) stream: u64,
    pub(crate) event_type: u64,
    pub(crate) id: u64,
}

/// What the writer knew of the streams of a segment when it ended, so that nobody need read it again.
#[derive(Debug, Default)]
pub(crate) struct StreamRows {
    rows: Vec<StreamRow>,
    names: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct StreamRow {
    hash: u64,
    first_revision: u64,
    first: u32,
    /// Where the name begins; it ends where the next one does.
    name_at: u32,
}

impl StreamRows {
    fn name(&self, number: usize) -> &[u8] {
        let end = self.rows.get(number + 1).map_or(self.names.len(), |next| next.name_at as usize);
        &self.names[self.rows[number].name_at as usize..end]
    }
}

/// A stream of an ended segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamInSegment<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) last_revision: u64,
    pub(crate) first: u32,
    pub(crate) last: u32,
}

impl ActiveIndex {
    pub(crate) fn new(expected: Expected) -> Self {
        let records = expected.records();
        Self {
            records: Arena::new(records * WORDS as usize),
            record_count: AtomicU32::new(0),
            keys: ArcSwap::from_pointee(KeyTable::new(expected.keys)),
            ids: expected.ids.map(|ids| ArcSwap::from_pointee(IdTable::new(ids))),
            tagged: Arena::new(256),
            new_streams: Arena::new(256),
            new_types: Arena::new(64),
            streams: OnceLock::new(),
            used_rows: Mutex::default(),
        }
    }

    /// Whether a segment of this kind needs no memory beside what this index, empty, brings with it.
    pub(crate) fn fits(&self, expected: Expected) -> bool {
        self.records.base() >= expected.records() * WORDS as usize
            && self.keys.load().mask() + 1 >= KeyTable::slots_for(expected.keys)
            && self.ids.is_some() == expected.ids.is_some()
    }

    /// Has the system give pages for so many records, as far as there is room for them from the start, and for keys, before the
    /// writer waits for them; of one that is new.
    pub(crate) fn bring_in(&self, records: usize) {
        let [first, ..] = &self.records.chunks;
        first.get().into_iter().for_each(|chunk| chunk.bring_in(records.saturating_mul(WORDS as usize)));
        self.keys.load().memory.bring_in(usize::MAX);
    }

    /// Words of memory that it brings to another segment: for records, and for keys.
    pub(crate) fn room(&self) -> (usize, usize) {
        (self.records.base(), self.keys.load().mask() + 1)
    }

    /// Empty again, to serve another segment with memory that is there already. Nobody else holds it any more.
    pub(crate) fn emptied(mut self) -> Self {
        self.keys.load().clear();
        self.ids = None;
        self.record_count.store(0, Ordering::Relaxed);
        for arena in [&self.tagged, &self.new_streams, &self.new_types] {
            arena.clear();
        }
        let mut rows = std::mem::take(&mut self.streams).into_inner().unwrap_or_default();
        rows.rows.clear();
        rows.names.clear();
        self.used_rows = Mutex::new(rows);
        self
    }

    /// Number of records, those of an unpublished batch included.
    pub(crate) fn record_count(&self) -> u32 {
        self.record_count.load(Ordering::Acquire)
    }

    #[inline]
    fn word(&self, record: u32, word: u32) -> Option<u64> {
        (record < self.record_count()).then(|| self.records.cell(record * WORDS + word)).flatten().map(load)
    }

    /// One word of every record, in order.
    fn words(&self, word: u32) -> impl Iterator<Item = u64> + '_ {
        let records = self.records.chunks().flat_map(|chunk| chunk.as_chunks::<{ WORDS as usize }>().0);
        records.take(self.record_count() as usize).map(move |words| load(&words[word as usize]))
    }

    pub(crate) fn key_count(&self) -> usize {
        self.keys.load().used.load(Ordering::Relaxed) as usize
    }

    /// Place of a record by its number in the segment, counted from 0.
    #[inline]
    pub(crate) fn place(&self, record: u32) -> Option<Place> {
        self.word(record, PLACE).map(unpacked)
    }

    /// Begins to load what [`ActiveIndex::postings`] looks at first.
    #[inline]
    pub(crate) fn prefetch_key(&self, hash: u64) {
        let table = self.keys.load();
        prefetch(&table.slots()[(hash as usize & table.mask()) * 2]);
    }

    /// Records that carry the key, newest first.
    pub(crate) fn postings(&self, kind: KeyKind, hash: u64) -> Postings<'_> {
        let table = self.keys.load();
        let head = table.find(kind, hash).map_or(0, |slot| slot.head.load(Ordering::Acquire));
        Postings { index: self, kind, next: newest(head), count: count(head) }
    }

    /// Records whose id may have this hash; none if ids are looked up elsewhere.
    pub(crate) fn by_id(&self, hash: u64) -> Vec<u32> {
        let mut found = Vec::new();
        let Some(table) = &self.ids else { return found };
        table.load().find(hash, |record| {
            if self.word(record, ID_HASH) == Some(hash) {
                found.push(record);
            }
        });
        found
    }

    /// Place and `recorded_at` of every record, in order.
    pub(crate) fn places(&self) -> impl Iterator<Item = (Place, u64)> + '_ {
        self.words(PLACE).map(unpacked).zip(self.words(TIME))
    }

    /// Hash of every record's id, in order; 0 for a control record.
    pub(crate) fn id_hashes(&self) -> impl Iterator<Item = u64> + '_ {
        self.words(ID_HASH)
    }

    /// All streams of an ended segment, in no order. `None` if that must be read from the segment: the index was made
    /// from it, or two names share a hash.
    pub(crate) fn streams(&self) -> Option<impl Iterator<Item = StreamInSegment<'_>>> {
        let streams = self.streams.get()?;
        let table = self.keys.load_full();
        let row = move |(number, row): (usize, &StreamRow)| {
            if let Some(ahead) = streams.rows.get(number + SLOTS_AHEAD) {
                prefetch(&table.slots()[(ahead.hash as usize & table.mask()) * 2]);
            }
            // Each was entered with its key.
            let head = table.slot(KeyKind::Stream, row.hash).head.load(Ordering::Acquire);
            StreamInSegment {
                name: streams.name(number),
                last_revision: row.first_revision + u64::from(count(head).saturating_sub(1)),
                first: row.first,
                last: newest(head).saturating_sub(1),
            }
        };
        Some(streams.rows.iter().enumerate().map(row))
    }

    /// The first record of each stream in this segment, in order of appearance.
    pub(crate) fn stream_firsts(&self) -> impl Iterator<Item = u32> + '_ {
        self.new_streams.iter().map(|record| record as u32)
    }

    /// The first record of each type in this segment, in order of appearance.
    pub(crate) fn type_firsts(&self) -> impl Iterator<Item = u32> + '_ {
        self.new_types.iter().map(|record| record as u32)
    }

    /// Every key, in no order.
    pub(crate) fn keys(&self) -> Vec<KeyHead> {
        let table = self.keys.load();
        let mut keys = Vec::with_capacity(table.used.load(Ordering::Relaxed) as usize);
        let slots = table.slots().as_chunks::<2>().0.iter();
        keys.extend(
            slots.map(|[hash, head]| KeyHead { hash: load(hash), head: load(head) }).filter(|key| key.hash != 0),
        );
        keys
    }

    /// Records that carry this key of its own, newest first. Of the only one of a stream or type no record is looked at.
    #[inline]
    pub(crate) fn each_posting_of(&self, key: KeyHead, mut each: impl FnMut(u32)) {
        let kind = kind(key.head);
        if key.count() == 1 && kind != KeyKind::Tag {
            return newest(key.head).checked_sub(1).into_iter().for_each(each);
        }
        let postings = Postings { index: self, kind, next: newest(key.head), count: count(key.head) };
        postings.for_each(&mut each);
    }

    /// Begins to load what that looks at first: another processor wrote it.
    #[inline]
    pub(crate) fn prefetch_posting_of(&self, key: KeyHead) {
        let Some(at) = newest(key.head).checked_sub(1) else { return };
        let cell = match kind(key.head) {
            KeyKind::Tag => self.tagged.cell(at),
            _ if key.count() == 1 => None,
            _ => self.records.cell(at * WORDS),
        };
        cell.into_iter().for_each(prefetch);
    }

    /// How many streams an ended segment has, and how long their names are together; `None` as for [`ActiveIndex::streams`].
    pub(crate) fn streams_len(&self) -> Option<(usize, usize)> {
        self.streams.get().map(|streams| (streams.rows.len(), streams.names.len()))
    }
}

/// A key of an [`ActiveIndex`], with where its records are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHead {
    pub(crate) hash: u64,
    head: u64,
}

impl KeyHead {
    /// How many records carry it.
    pub(crate) fn count(self) -> u32 {
        count(self.head)
    }
}

#[inline]
fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Acquire)
}

/// A key's newest record + 1, or of a tag its newest entry + 1.
fn newest(head: u64) -> u32 {
    head as u32
}

/// How many events have the key.
fn count(head: u64) -> u32 {
    (head >> 32) as u32 & COUNT_MASK
}

fn kind(head: u64) -> KeyKind {
    match head >> 62 {
        0 => KeyKind::Stream,
        1 => KeyKind::Type,
        2 => KeyKind::Tag,
        _ => KeyKind::Control,
    }
}

const fn kind_bits(kind: KeyKind) -> u64 {
    match kind {
        KeyKind::Stream => 0,
        KeyKind::Type => 1 << 62,
        KeyKind::Tag => 2 << 62,
        KeyKind::Control => 3 << 62,
    }
}

/// A segment holds fewer records.
const COUNT_MASK: u32 = (1 << 30) - 1;

fn packed(place: Place) -> u64 {
    (place.batch / 8) << 32 | (place.frame / 8)
}

fn unpacked(packed: u64) -> Place {
    Place { frame: (packed & 0xffff_ffff) * 8, batch: (packed >> 32) * 8 }
}

impl Expected {
    /// Of a segment that holds so many bytes, ids included: about what events of some hundred bytes with two keys of their
    /// own need, so that tables seldom grow.
    pub(crate) fn of_written(segment_len: u64, written: usize) -> Self {
        Self { segment_len, keys: (written / 256).max(64), ids: Some((written / 384).max(64)) }
    }

    fn records(self) -> usize {
        ((self.segment_len / 256).clamp(256, 1 << 22) as usize).next_power_of_two()
    }
}

/// The writer's hand on an [`ActiveIndex`]: inserting needs no look at the shared table pointers. There is only one.
#[derive(Debug)]
pub(crate) struct IndexWriter {
    index: Arc<ActiveIndex>,
    keys: Arc<KeyTable>,
    ids: Option<Arc<IdTable>>,
    streams: StreamRows,
    /// Two streams of the segment share a hash.
    collided: bool,
}

impl IndexWriter {
    pub(crate) fn new(index: Arc<ActiveIndex>) -> Self {
        let (keys, ids) = (index.keys.load_full(), index.ids.as_ref().map(ArcSwap::load_full));
        let streams = std::mem::take(&mut *index.used_rows.lock());
        Self { index, keys, ids, streams, collided: false }
    }

    /// The segment has ended: what was noted of its streams goes with its index, if that is all of them.
    pub(crate) fn finish(&mut self) {
        let streams = std::mem::take(&mut self.streams);
        if !self.collided && streams.rows.len() == self.index.new_streams.len() as usize {
            let _ = self.index.streams.set(streams);
        }
    }

    /// Notes the first event of a stream in this segment; its key was added before.
    #[cold]
    pub(crate) fn note_stream(&mut self, hash: u64, name: &str, record: u32, revision: u64) {
        let noted = self.index.new_streams.last().map(|last| last as u32);
        if noted != Some(record) {
            // The key was there already: another name has this hash.
            self.collided = true;
            self.index.new_streams.push(u64::from(record));
        }
        self.streams.rows.push(StreamRow {
            hash,
            first: record,
            name_at: self.streams.names.len() as u32,
            first_revision: revision,
        });
        self.streams.names.extend_from_slice(name.as_bytes());
    }

    pub(crate) fn index(&self) -> &ActiveIndex {
        &self.index
    }

    /// Begins to load what entering an event of this stream will look at.
    #[inline]
    pub(crate) fn prefetch_key(&self, hash: u64) {
        prefetch(&self.keys.slots()[(hash as usize & self.keys.mask()) * 2]);
    }

    /// Enters the next record, an event, and answers its number. Its tags follow.
    #[inline]
    pub(crate) fn add_event(&mut self, entry: &EventEntry) -> u32 {
        let record = self.index.record_count.load(Ordering::Relaxed);
        let of_stream = self.keys.slot(KeyKind::Stream, entry.stream).head.load(Ordering::Relaxed);
        let of_type = self.keys.slot(KeyKind::Type, entry.event_type).head.load(Ordering::Relaxed);
        let before = u64::from(newest(of_stream)) << 32 | u64::from(newest(of_type));
        let words = [packed(entry.place), entry.id, before, entry.recorded_at];
        // The record is whole before a key leads to it.
        self.add_record(record, words);
        self.lead_to(KeyKind::Stream, entry.stream, record, record);
        self.lead_to(KeyKind::Type, entry.event_type, record, record);
        if self.ids.as_ref().is_some_and(|ids| ids.insert(entry.id, record)) {
            self.grow_ids(record);
        }
        record
    }

    /// Enters the next record, one that is no event, under the key of all such.
    pub(crate) fn add_control(&mut self, place: Place, recorded_at: u64, key: u64) {
        let record = self.index.record_count.load(Ordering::Relaxed);
        let before = self.keys.slot(KeyKind::Control, key).head.load(Ordering::Relaxed);
        self.add_record(record, [packed(place), 0, u64::from(newest(before)) << 32, recorded_at]);
        self.lead_to(KeyKind::Control, key, record, record);
    }

    #[inline]
    fn add_record(&mut self, record: u32, words: [u64; WORDS as usize]) {
        let cells = self.index.records.cells_or_new(record * WORDS);
        for (cell, word) in cells.iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
        // The line after the next: it is there when it is written to.
        if let Some(ahead) = cells.get(4 * WORDS as usize) {
            prefetch(ahead);
        }
        self.index.record_count.store(record + 1, Ordering::Release);
    }

    /// Enters a tag of an event that was entered before.
    #[inline]
    pub(crate) fn add_tag(&mut self, hash: u64, record: u32) {
        let head = self.keys.slot(KeyKind::Tag, hash).head.load(Ordering::Relaxed);
        let entry = self.index.tagged.push(u64::from(record) << 32 | u64::from(newest(head)));
        self.lead_to(KeyKind::Tag, hash, entry, record);
    }

    /// The key's newest is now `newest`, which is of this record.
    #[inline]
    fn lead_to(&mut self, kind: KeyKind, hash: u64, newest: u32, record: u32) {
        let slot = self.keys.slot(kind, hash);
        let head = slot.head.load(Ordering::Relaxed);
        let count = u64::from((count(head) + 1) & COUNT_MASK);
        slot.head.store(kind_bits(kind) | count << 32 | u64::from(newest + 1), Ordering::Release);
        if head == 0 {
            slot.hash.store(hash, Ordering::Release);
            self.note_new_key(kind, record);
        }
    }

    #[cold]
    fn note_new_key(&mut self, kind: KeyKind, record: u32) {
        match kind {
            KeyKind::Stream => drop(self.index.new_streams.push(u64::from(record))),
            KeyKind::Type => drop(self.index.new_types.push(u64::from(record))),
            KeyKind::Tag | KeyKind::Control => {}
        }
        if self.keys.add_used() {
            self.keys = Arc::new(self.keys.grown());
            self.index.keys.store(self.keys.clone());
        }
    }

    #[cold]
    fn grow_ids(&mut self, last_record: u32) {
        let (Some(full), Some(shared)) = (&self.ids, &self.index.ids) else { return };
        let grown = IdTable::new(full.slots().len());
        for record in 0..=last_record {
            if let Some(hash) = self.index.word(record, ID_HASH).filter(|hash| *hash != 0) {
                grown.insert(hash, record);
            }
        }
        let grown = Arc::new(grown);
        shared.store(grown.clone());
        self.ids = Some(grown);
    }
}

/// Walks a key's events from the newest to the oldest.
pub(crate) struct Postings<'a> {
    pub(crate) index: &'a ActiveIndex,
    pub(crate) kind: KeyKind,
    /// Where to go on: record + 1, or of a tag entry + 1.
    pub(crate) next: u32,
    /// How many the key has in all.
    pub(crate) count: u32,
}

impl Iterator for Postings<'_> {
    type Item = u32;
    fn next(&mut self) -> Option<u32> {
        let this = self.next.checked_sub(1)?;
        if self.kind == KeyKind::Tag {
            let entry = self.index.tagged.get(this)?;
            self.next = entry as u32;
            return Some((entry >> 32) as u32);
        }
        let before = self.index.word(this, BEFORE)?;
        self.next = if self.kind == KeyKind::Type { before as u32 } else { (before >> 32) as u32 };
        Some(this)
    }
}

/// Open addressing, linear probing: two words a slot, the hash (never 0), and kind (2 bits), count (30) and newest + 1.
/// Keys of two kinds that share a hash have a slot each.
#[derive(Debug)]
struct KeyTable {
    memory: SharedMap,
    used: AtomicU32,
}

struct KeySlot<'a> {
    hash: &'a AtomicU64,
    head: &'a AtomicU64,
}

impl KeyTable {
    fn new(keys: usize) -> Self {
        Self { memory: SharedMap::zeroed_words(Self::slots_for(keys) * 2), used: AtomicU32::new(0) }
    }

    fn slots_for(keys: usize) -> usize {
        // Seven sixteenths to seven eighths of them are taken when there are as many keys: a table twice as large is twice as
        // much to wait for.
        (keys.max(128) * 8 / 7 + 1).next_power_of_two()
    }

    fn clear(&self) {
        self.slots().iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.used.store(0, Ordering::Relaxed);
    }

    #[inline]
    fn slots(&self) -> &[AtomicU64] {
        self.memory.as_words()
    }

    #[inline]
    fn mask(&self) -> usize {
        self.slots().len() / 2 - 1
    }

    #[inline]
    fn at(&self, index: usize) -> KeySlot<'_> {
        let slots = self.slots();
        KeySlot { hash: &slots[index * 2], head: &slots[index * 2 + 1] }
    }

    /// The key's slot, or the free one where it belongs.
    #[inline]
    fn slot(&self, of: KeyKind, hash: u64) -> KeySlot<'_> {
        let mut index = hash as usize & self.mask();
        loop {
            let slot = self.at(index);
            let found = slot.hash.load(Ordering::Acquire);
            if found == 0 || (found == hash && kind(slot.head.load(Ordering::Relaxed)) == of) {
                return slot;
            }
            index = (index + 1) & self.mask();
        }
    }

    fn find(&self, kind: KeyKind, hash: u64) -> Option<KeySlot<'_>> {
        let slot = self.slot(kind, hash);
        (slot.hash.load(Ordering::Acquire) != 0).then_some(slot)
    }

    /// Counts one key more; true when the table should grow.
    fn add_used(&self) -> bool {
        let used = self.used.load(Ordering::Relaxed) + 1;
        self.used.store(used, Ordering::Relaxed);
        used as usize * 8 > self.mask() * 7
    }

    fn grown(&self) -> Self {
        let grown = Self::new(self.slots().len() / 2);
        for pair in self.slots().chunks_exact(2) {
            let hash = pair[0].load(Ordering::Relaxed);
            if hash != 0 {
                let head = pair[1].load(Ordering::Relaxed);
                let slot = grown.slot(kind(head), hash);
                slot.head.store(head, Ordering::Relaxed);
                slot.hash.store(hash, Ordering::Relaxed);
            }
        }
        grown.used.store(self.used.load(Ordering::Relaxed), Ordering::Relaxed);
        grown
    }
}

/// Open addressing, one word a slot: upper half of the hash, and record + 1.
#[derive(Debug)]
struct IdTable {
    memory: SharedMap,
    used: AtomicU32,
}

impl IdTable {
    fn new(ids: usize) -> Self {
        Self { memory: SharedMap::zeroed_words((ids.max(128) * 2).next_power_of_two()), used: AtomicU32::new(0) }
    }

    fn slots(&self) -> &[AtomicU64] {
        self.memory.as_words()
    }

    /// True when the table should grow.
    #[inline]
    fn insert(&self, hash: u64, record: u32) -> bool {
        let slots = self.slots();
        let mask = slots.len() - 1;
        let mut index = hash as usize & mask;
        while slots[index].load(Ordering::Relaxed) != 0 {
            index = (index + 1) & mask;
        }
        slots[index].store((hash >> 32) << 32 | (u64::from(record) + 1), Ordering::Release);
        let used = self.used.load(Ordering::Relaxed) + 1;
        self.used.store(used, Ordering::Relaxed);
        used as usize * 4 > mask * 3
    }

    fn find(&self, hash: u64, mut each: impl FnMut(u32)) {
        let slots = self.slots();
        let mask = slots.len() - 1;
        let mut index = hash as usize & mask;
        loop {
            let slot = slots[index].load(Ordering::Acquire);
            if slot == 0 {
                return;
            }
            if slot >> 32 == hash >> 32 {
                each((slot & 0xffff_ffff) as u32 - 1);
            }
            index = (index + 1) & mask;
        }
    }
}

/// A list of words that only grows: chunk `k` holds `base << k` of them, so nothing ever moves.
#[derive(Debug)]
struct Arena {
    chunks: [OnceLock<SharedMap>; 32],
    base_shift: u32,
    len: AtomicU32,
}

impl Arena {
    fn new(base: usize) -> Self {
        let base = base.next_power_of_two();
        let arena =
            Self { chunks: [const { OnceLock::new() }; 32], base_shift: base.trailing_zeros(), len: AtomicU32::new(0) };
        let _ = arena.chunks[0].set(SharedMap::zeroed_words(base));
        arena
    }

    /// Words in the first chunk.
    fn base(&self) -> usize {
        1 << self.base_shift
    }

    fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    /// Empty; what stood in it is beyond its length now, and overwritten before it is looked at.
    fn clear(&self) {
        self.len.store(0, Ordering::Relaxed);
    }

    fn last(&self) -> Option<u64> {
        self.get(self.len().checked_sub(1)?)
    }

    #[inline]
    fn locate(&self, index: u32) -> (usize, usize) {
        let scaled = (u64::from(index) >> self.base_shift) + 1;
        let chunk = scaled.ilog2();
        let before = ((1u64 << chunk) - 1) << self.base_shift;
        (chunk as usize, (u64::from(index) - before) as usize)
    }

    #[inline]
    fn cell(&self, index: u32) -> Option<&AtomicU64> {
        let (chunk, offset) = self.locate(index);
        self.chunks.get(chunk)?.get()?.as_words().get(offset)
    }

    /// The words from `index` to the end of its chunk, which is allocated when the one before is full.
    #[inline]
    fn cells_or_new(&self, index: u32) -> &[AtomicU64] {
        let (chunk, offset) = self.locate(index);
        let words =
            self.chunks[chunk].get_or_init(|| SharedMap::zeroed_words(1usize << (self.base_shift as usize + chunk)));
        &words.as_words()[offset..]
    }

    fn chunks(&self) -> impl Iterator<Item = &[AtomicU64]> + '_ {
        self.chunks.iter().map_while(OnceLock::get).map(SharedMap::as_words)
    }

    #[inline]
    fn push(&self, word: u64) -> u32 {
        let index = self.len.load(Ordering::Relaxed);
        self.cells_or_new(index)[0].store(word, Ordering::Relaxed);
        self.len.store(index + 1, Ordering::Release);
        index
    }

    #[inline]
    fn get(&self, index: u32) -> Option<u64> {
        (index < self.len()).then(|| self.cell(index).map(|cell| cell.load(Ordering::Acquire))).flatten()
    }

    fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let words = self.chunks().flatten();
        words.take(self.len() as usize).map(|word| word.load(Ordering::Relaxed))
    }
}
