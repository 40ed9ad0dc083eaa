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

fn zeroed(len: usize) -> Box<[AtomicU64]> {
    bytemuck::zeroed_slice_box(len)
}

/// Sizes to prepare a segment's index with; all of them grow when they must.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) segment_len: u64,
    pub(crate) keys: usize,
    pub(crate) ids: usize,
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
    keys: ArcSwap<KeyTable>,
    ids: ArcSwap<IdTable>,
    /// (record, entry before of the same key), both u32, the record in the upper half.
    postings: Arena,
    new_streams: Arena,
    new_types: Arena,
}

impl ActiveIndex {
    pub(crate) fn new(expected: Expected) -> Self {
        let records = (expected.segment_len / 256).clamp(256, 1 << 22) as usize;
        Self {
            places: Arena::new(records),
            id_hashes: Arena::new(records),
            keys: ArcSwap::from_pointee(KeyTable::new(expected.keys)),
            ids: ArcSwap::from_pointee(IdTable::new(expected.ids)),
            postings: Arena::new(records * 2),
            new_streams: Arena::new(256),
            new_types: Arena::new(64),
        }
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
        let packed = self.places.get(record)?;
        (packed != 0).then_some(Place { frame: (packed & 0xffff_ffff) * 8, batch: (packed >> 32) * 8 })
    }

    /// Records that carry the key, newest first.
    pub(crate) fn postings(&self, hash: u64) -> Postings<'_> {
        let table = self.keys.load();
        let head = table.find(hash).map_or(0, |slot| slot.head.load(Ordering::Acquire));
        Postings { arena: &self.postings, next: (head & 0xffff_ffff) as u32 }
    }

    /// Records whose id may have this hash.
    pub(crate) fn by_id(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        let table = self.ids.load_full();
        let mut found = Vec::new();
        table.find(hash, |record| {
            if self.id_hashes.get(record) == Some(hash) {
                found.push(record);
            }
        });
        found.into_iter()
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
        let slots = table.slots.chunks_exact(2);
        let counted = slots.map(|pair| (pair[0].load(Ordering::Acquire), pair[1].load(Ordering::Acquire)));
        counted.filter(|(hash, _)| *hash != 0).map(|(hash, head)| (hash, (head >> 32) as u32)).collect()
    }

    /// Hash of a record's id; `None` for a control record.
    pub(crate) fn id_hash(&self, record: u32) -> Option<u64> {
        self.id_hashes.get(record).filter(|hash| *hash != 0)
    }
}

/// The writer's hand on an [`ActiveIndex`]: inserting needs no look at the shared table pointers. There is only one.
#[derive(Debug)]
pub(crate) struct IndexWriter {
    index: Arc<ActiveIndex>,
    keys: Arc<KeyTable>,
    ids: Arc<IdTable>,
}

impl IndexWriter {
    pub(crate) fn new(index: Arc<ActiveIndex>) -> Self {
        let (keys, ids) = (index.keys.load_full(), index.ids.load_full());
        Self { index, keys, ids }
    }

    pub(crate) fn index(&self) -> &ActiveIndex {
        &self.index
    }

    /// Begins to load what [`IndexWriter::add_key`] will look at.
    #[inline]
    pub(crate) fn prefetch_key(&self, hash: u64) {
        prefetch(&self.keys.slots[(hash as usize & self.keys.mask()) * 2]);
    }

    /// Begins to load what [`IndexWriter::add_id`] will look at.
    #[inline]
    pub(crate) fn prefetch_id(&self, hash: u64) {
        prefetch(&self.ids.slots[hash as usize & (self.ids.slots.len() - 1)]);
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
        if self.ids.insert(hash, record) {
            self.grow_ids(record);
        }
    }

    #[cold]
    fn grow_ids(&mut self, last_record: u32) {
        let grown = IdTable::new(self.ids.slots.len());
        for record in 0..=last_record {
            if let Some(hash) = self.index.id_hash(record) {
                grown.insert(hash, record);
            }
        }
        self.ids = Arc::new(grown);
        self.index.ids.store(self.ids.clone());
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
    slots: Box<[AtomicU64]>,
    used: AtomicU32,
}

struct KeySlot<'a> {
    hash: &'a AtomicU64,
    head: &'a AtomicU64,
}

impl KeyTable {
    fn new(keys: usize) -> Self {
        Self { slots: zeroed((keys.max(128) * 2).next_power_of_two() * 2), used: AtomicU32::new(0) }
    }

    #[inline]
    fn mask(&self) -> usize {
        self.slots.len() / 2 - 1
    }

    #[inline]
    fn at(&self, index: usize) -> KeySlot<'_> {
        KeySlot { hash: &self.slots[index * 2], head: &self.slots[index * 2 + 1] }
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
        let grown = Self::new(self.slots.len() / 2);
        for pair in self.slots.chunks_exact(2) {
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
    slots: Box<[AtomicU64]>,
    used: AtomicU32,
}

impl IdTable {
    fn new(ids: usize) -> Self {
        Self { slots: zeroed((ids.max(128) * 2).next_power_of_two()), used: AtomicU32::new(0) }
    }

    /// True when the table should grow.
    #[inline]
    fn insert(&self, hash: u64, record: u32) -> bool {
        let mask = self.slots.len() - 1;
        let mut index = hash as usize & mask;
        while self.slots[index].load(Ordering::Relaxed) != 0 {
            index = (index + 1) & mask;
        }
        self.slots[index].store((hash >> 32) << 32 | (u64::from(record) + 1), Ordering::Release);
        let used = self.used.load(Ordering::Relaxed) + 1;
        self.used.store(used, Ordering::Relaxed);
        used as usize * 4 > mask * 3
    }

    fn find(&self, hash: u64, mut each: impl FnMut(u32)) {
        let mask = self.slots.len() - 1;
        let mut index = hash as usize & mask;
        loop {
            let slot = self.slots[index].load(Ordering::Acquire);
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
    chunks: [OnceLock<Box<[AtomicU64]>>; 32],
    base_shift: u32,
    len: AtomicU32,
}

impl Arena {
    fn new(base: usize) -> Self {
        let base = base.next_power_of_two();
        let arena =
            Self { chunks: [const { OnceLock::new() }; 32], base_shift: base.trailing_zeros(), len: AtomicU32::new(0) };
        let _ = arena.chunks[0].set(zeroed(base));
        arena
    }

    fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
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
        self.chunks.get(chunk)?.get()?.get(offset)
    }

    /// Room for `index`; allocates a chunk when the one before is full.
    #[inline]
    fn cell_or_new(&self, index: u32) -> &AtomicU64 {
        let (chunk, offset) = self.locate(index);
        let words = self.chunks[chunk].get_or_init(|| zeroed(1usize << (self.base_shift as usize + chunk)));
        &words[offset]
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
        self.cell_or_new(index).store(word, Ordering::Relaxed);
        self.len.store(self.len.load(Ordering::Relaxed).max(index + 1), Ordering::Release);
    }

    #[inline]
    fn get(&self, index: u32) -> Option<u64> {
        (index < self.len()).then(|| self.cell(index).map(|cell| cell.load(Ordering::Acquire))).flatten()
    }

    fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.len()).map_while(|index| self.get(index))
    }
}
