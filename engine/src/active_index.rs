//! Index of the segment that is being written: one writer, any number of readers, no lock.
//!
//! The writer inserts under its own lock, before the watermark shows the batch. A reader loads the watermark first and
//! then sees every entry up to it; entries beyond its head it passes over. Nothing is ever removed. A table that grows
//! is copied and swapped, and a reader goes on with the one it loaded: all that its head needs is in it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use crate::name::KeyKind;
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
    /// Per record: offset of its frame / 8, and in the upper half that of its batch / 8. 0: not there yet.
    places: Arena,
    /// Per record: the hash of its id.
    id_hashes: Arena,
    /// Per batch: `recorded_at`.
    batch_times: Arena,
    keys: ArcSwap<KeyTable>,
    ids: Option<ArcSwap<IdTable>>,
    /// (record, entry before of the same key), both u32, the record in the upper half.
    postings: Arena,
    new_streams: Arena,
    new_types: Arena,
    streams: OnceLock<StreamRows>,
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
    first: u32,
    name_at: u32,
    name_len: u32,
    first_revision: u64,
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
            places: Arena::new(records),
            id_hashes: Arena::new(records),
            batch_times: Arena::new(records / 4),
            keys: ArcSwap::from_pointee(KeyTable::new(expected.keys)),
            ids: expected.ids.map(|ids| ArcSwap::from_pointee(IdTable::new(ids))),
            postings: Arena::new(records * 2),
            new_streams: Arena::new(256),
            new_types: Arena::new(64),
            streams: OnceLock::new(),
        }
    }

    /// Whether a segment of this kind needs no memory beside what this index, empty, brings with it.
    pub(crate) fn fits(&self, expected: Expected) -> bool {
        self.places.base() >= expected.records()
            && self.keys.load().mask() + 1 >= KeyTable::slots_for(expected.keys)
            && self.ids.is_some() == expected.ids.is_some()
    }

    /// Empty again, to serve another segment with memory that is there already. Nobody else holds it any more.
    pub(crate) fn emptied(mut self) -> Self {
        self.keys.load().clear();
        self.ids = None;
        for arena in
            [&self.places, &self.id_hashes, &self.batch_times, &self.postings, &self.new_streams, &self.new_types]
        {
            arena.clear();
        }
        self.streams = OnceLock::new();
        self
    }

    /// Number of records, those of an unpublished batch included.
    pub(crate) fn record_count(&self) -> u32 {
        self.places.len()
    }

    pub(crate) fn key_count(&self) -> usize {
        self.keys.load().used.load(Ordering::Relaxed) as usize
    }

    /// Place of a record by its number in the segment, counted from 0.
    #[inline]
    pub(crate) fn place(&self, record: u32) -> Option<Place> {
        self.places.get(record).filter(|packed| *packed != 0).map(unpacked)
    }

    /// Records that carry the key, newest first.
    pub(crate) fn postings(&self, hash: u64) -> Postings<'_> {
        let table = self.keys.load();
        let head = table.find(hash).map_or(0, |slot| slot.head.load(Ordering::Acquire));
        Postings { arena: &self.postings, next: (head & 0xffff_ffff) as u32 }
    }

    /// Records whose id may have this hash; none if ids are looked up elsewhere.
    pub(crate) fn by_id(&self, hash: u64) -> Vec<u32> {
        let mut found = Vec::new();
        let Some(table) = &self.ids else { return found };
        table.load().find(hash, |record| {
            if self.id_hashes.get(record) == Some(hash) {
                found.push(record);
            }
        });
        found
    }

    /// Place of every record, in order.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.places.iter().map(unpacked)
    }

    /// `recorded_at` of every batch, in order.
    pub(crate) fn batch_times(&self) -> impl Iterator<Item = u64> + '_ {
        self.batch_times.iter()
    }

    /// Hash of every record's id, in order; 0 for a control record.
    pub(crate) fn id_hashes(&self) -> impl Iterator<Item = u64> + '_ {
        self.id_hashes.iter()
    }

    /// All streams of an ended segment, in no order. `None` if that must be read from the segment: the index was made
    /// from it, or two names share a hash.
    pub(crate) fn streams(&self) -> Option<Vec<StreamInSegment<'_>>> {
        let streams = self.streams.get()?;
        let table = self.keys.load();
        let row = |row: &StreamRow| {
            let head = table.find(row.hash)?.head.load(Ordering::Acquire);
            let newest = self.postings.get(((head & 0xffff_ffff) as u32).checked_sub(1)?)?;
            Some(StreamInSegment {
                name: &streams.names[row.name_at as usize..][..row.name_len as usize],
                last_revision: row.first_revision + (head >> 32) - 1,
                first: row.first,
                last: (newest >> 32) as u32,
            })
        };
        streams.rows.iter().map(row).collect()
    }

    /// The first record of each stream in this segment, in order of appearance.
    pub(crate) fn stream_firsts(&self) -> impl Iterator<Item = u32> + '_ {
        self.new_streams.iter().map(|record| record as u32)
    }

    /// The first record of each type in this segment, in order of appearance.
    pub(crate) fn type_firsts(&self) -> impl Iterator<Item = u32> + '_ {
        self.new_types.iter().map(|record| record as u32)
    }

    /// Hash and count of every key, in no order.
    pub(crate) fn keys(&self) -> Vec<(u64, u32)> {
        let table = self.keys.load();
        let slots = table.slots().chunks_exact(2);
        let counted = slots.map(|pair| (pair[0].load(Ordering::Acquire), pair[1].load(Ordering::Acquire)));
        counted.filter(|(hash, _)| *hash != 0).map(|(hash, head)| (hash, (head >> 32) as u32)).collect()
    }

    /// Hash of a record's id; `None` for a control record.
    pub(crate) fn id_hash(&self, record: u32) -> Option<u64> {
        self.id_hashes.get(record).filter(|hash| *hash != 0)
    }
}

fn unpacked(packed: u64) -> Place {
    Place { frame: (packed & 0xffff_ffff) * 8, batch: (packed >> 32) * 8 }
}

impl Expected {
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
        Self { index, keys, ids, streams: StreamRows::default(), collided: false }
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
            name_len: name.len() as u32,
            first_revision: revision,
        });
        self.streams.names.extend_from_slice(name.as_bytes());
    }

    /// The next records belong to a batch of this time.
    #[inline]
    pub(crate) fn add_batch(&mut self, recorded_at: u64) {
        self.index.batch_times.push(recorded_at);
    }

    pub(crate) fn index(&self) -> &ActiveIndex {
        &self.index
    }

    /// Begins to load what [`IndexWriter::add_key`] will look at.
    #[inline]
    pub(crate) fn prefetch_key(&self, hash: u64) {
        prefetch(&self.keys.slots()[(hash as usize & self.keys.mask()) * 2]);
    }

    /// Adds the next record's place and answers its number. An event's keys and id follow.
    #[inline]
    pub(crate) fn add_record(&mut self, place: Place) -> u32 {
        self.index.places.push((place.batch / 8) << 32 | (place.frame / 8))
    }

    #[inline]
    pub(crate) fn add_key(&mut self, kind: KeyKind, hash: u64, record: u32) {
        let slot = self.keys.slot(hash);
        let head = slot.head.load(Ordering::Relaxed);
        let entry = self.index.postings.push(u64::from(record) << 32 | (head & 0xffff_ffff)) + 1;
        let count = (head >> 32) + 1;
        slot.head.store(count << 32 | u64::from(entry), Ordering::Release);
        if head == 0 {
            slot.hash.store(hash, Ordering::Release);
            self.note_new_key(kind, record);
        }
    }

    fn note_new_key(&mut self, kind: KeyKind, record: u32) {
        match kind {
            KeyKind::Stream => drop(self.index.new_streams.push(u64::from(record))),
            KeyKind::Type => drop(self.index.new_types.push(u64::from(record))),
            KeyKind::Tag => {}
        }
        if self.keys.add_used() {
            self.keys = Arc::new(self.keys.grown());
            self.index.keys.store(self.keys.clone());
        }
    }

    #[inline]
    pub(crate) fn add_id(&mut self, hash: u64, record: u32) {
        self.index.id_hashes.set(record, hash);
        if self.ids.as_ref().is_some_and(|ids| ids.insert(hash, record)) {
            self.grow_ids(record);
        }
    }

    #[cold]
    fn grow_ids(&mut self, last_record: u32) {
        let (Some(full), Some(shared)) = (&self.ids, &self.index.ids) else { return };
        let grown = IdTable::new(full.slots().len());
        for record in 0..=last_record {
            if let Some(hash) = self.index.id_hash(record) {
                grown.insert(hash, record);
            }
        }
        let grown = Arc::new(grown);
        shared.store(grown.clone());
        self.ids = Some(grown);
    }
}

/// Walks a key's entries from the newest to the oldest.
pub(crate) struct Postings<'a> {
    arena: &'a Arena,
    next: u32,
}

impl Iterator for Postings<'_> {
    type Item = u32;
    fn next(&mut self) -> Option<u32> {
        let entry = self.arena.get(self.next.checked_sub(1)?)?;
        self.next = (entry & 0xffff_ffff) as u32;
        Some((entry >> 32) as u32)
    }
}

/// Open addressing, linear probing: two words a slot, the hash (never 0) and `count << 32 | newest entry`.
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
        (keys.max(128) * 2).next_power_of_two()
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
    fn slot(&self, hash: u64) -> KeySlot<'_> {
        let mut index = hash as usize & self.mask();
        loop {
            let slot = self.at(index);
            let found = slot.hash.load(Ordering::Acquire);
            if found == hash || found == 0 {
                return slot;
            }
            index = (index + 1) & self.mask();
        }
    }

    fn find(&self, hash: u64) -> Option<KeySlot<'_>> {
        let slot = self.slot(hash);
        (slot.hash.load(Ordering::Acquire) != 0).then_some(slot)
    }

    /// Counts one key more; true when the table should grow.
    fn add_used(&self) -> bool {
        let used = self.used.load(Ordering::Relaxed) + 1;
        self.used.store(used, Ordering::Relaxed);
        used as usize * 4 > self.mask() * 3
    }

    fn grown(&self) -> Self {
        let grown = Self::new(self.slots().len() / 2);
        for pair in self.slots().chunks_exact(2) {
            let hash = pair[0].load(Ordering::Relaxed);
            if hash != 0 {
                let slot = grown.slot(hash);
                slot.head.store(pair[1].load(Ordering::Relaxed), Ordering::Relaxed);
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

    /// Room for `index`; allocates a chunk when the one before is full.
    #[inline]
    fn cell_or_new(&self, index: u32) -> &AtomicU64 {
        let (chunk, offset) = self.locate(index);
        let words =
            self.chunks[chunk].get_or_init(|| SharedMap::zeroed_words(1usize << (self.base_shift as usize + chunk)));
        &words.as_words()[offset]
    }

    #[inline]
    fn push(&self, word: u64) -> u32 {
        let index = self.len.load(Ordering::Relaxed);
        self.cell_or_new(index).store(word, Ordering::Relaxed);
        self.len.store(index + 1, Ordering::Release);
        index
    }

    #[inline]
    fn set(&self, index: u32, word: u64) {
        let len = self.len.load(Ordering::Relaxed);
        for between in len..index {
            self.cell_or_new(between).store(0, Ordering::Relaxed);
        }
        self.cell_or_new(index).store(word, Ordering::Relaxed);
        self.len.store(len.max(index + 1), Ordering::Release);
    }

    #[inline]
    fn get(&self, index: u32) -> Option<u64> {
        (index < self.len()).then(|| self.cell(index).map(|cell| cell.load(Ordering::Acquire))).flatten()
    }

    fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let chunks = self.chunks.iter().map_while(OnceLock::get);
        let words = chunks.flat_map(|chunk| chunk.as_words().iter());
        words.take(self.len() as usize).map(|word| word.load(Ordering::Relaxed))
    }
}
