//! What is removed of which stream: one writer, any number of readers, no lock.
//!
//! The writer enters a record before the watermark shows it. A reader has loaded a head before it looks, and passes over
//! what a later record said: of a stream the newest version comes first, each leads to the one before. A version is never
//! changed. A table that is full is copied and swapped, and leaves behind versions that a durable one has followed. The
//! oldest that is left then stands for those before it too: a reader that pinned its head before may meet a removal a
//! little early, never one too few.
//!
//! A stream takes 8 bytes of slots, at most half full, and 32 bytes: two hashes, the record's position with what follows,
//! and a number for what was done to it. Two hashes of 64 seeded bits stand for the name, as in the writer's directory.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::reader::RemovalReason;

/// What is removed of a stream, as of one record. Revisions are the last ones concerned, 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Position of the record from which on this holds.
    pub(crate) record: u64,
    pub(crate) deleted: u64,
    pub(crate) truncated: u64,
    pub(crate) expired: u64,
    /// Ids of events up to this revision are given up.
    pub(crate) ids: u64,
    /// What stands before this position is as if it had never been.
    pub(crate) forgotten: u64,
    pub(crate) is_tombstoned: bool,
}

impl Marks {
    /// The last revision that is hidden.
    pub(crate) fn hidden_upto(&self) -> u64 {
        self.deleted.max(self.truncated).max(self.expired)
    }

    /// Why this revision is hidden; the strongest reason, whatever came first.
    #[inline]
    pub(crate) fn reason(&self, revision: u64) -> Option<RemovalReason> {
        if revision <= self.deleted {
            Some(if self.is_tombstoned { RemovalReason::Tombstoned } else { RemovalReason::Deleted })
        } else if revision <= self.truncated {
            Some(RemovalReason::Truncated)
        } else if revision <= self.expired {
            Some(RemovalReason::Expired)
        } else {
            None
        }
    }
}

/// Words that each version begins with: the hash, the second hash, position and flags.
const HEAD: usize = 3;
const POSITION_MASK: u64 = (1 << 56) - 1;
/// Which words follow, in this order: where the version before stands, then the marks.
const PREVIOUS: u64 = 1 << 56;
const FOLLOWING: [u64; 5] = [1 << 57, 1 << 58, 1 << 59, 1 << 60, 1 << 61];
const TOMBSTONED: u64 = 1 << 62;

const FIRST_SLOTS: usize = 64;
const FIRST_WORDS: usize = 64 * HEAD;

#[derive(Debug)]
pub(crate) struct StreamTable {
    /// Upper half of the hash, and where the newest version stands + 1. Open addressing, linear probing.
    slots: Box<[AtomicU64]>,
    words: Box<[AtomicU64]>,
    used: AtomicUsize,
    streams: AtomicUsize,
}

fn zeroed(len: usize) -> Box<[AtomicU64]> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

fn tag(hash: u64) -> u64 {
    hash & !0xffff_ffff
}

impl StreamTable {
    pub(super) fn new() -> Self {
        Self::with_room(FIRST_SLOTS, FIRST_WORDS)
    }

    fn with_room(slots: usize, words: usize) -> Self {
        Self { slots: zeroed(slots), words: zeroed(words), used: AtomicUsize::new(0), streams: AtomicUsize::new(0) }
    }

    /// Number of streams in it.
    pub(crate) fn len(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        (self.slots.len() + self.words.len()) * size_of::<u64>()
    }

    #[inline]
    fn word(&self, at: usize) -> u64 {
        self.words.get(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The slot of this stream, or the free one where it belongs, and what stands in it.
    #[inline]
    fn slot(&self, hash: u64, check: impl Fn() -> u64) -> (usize, u64) {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            // Acquire: the version that it leads to is whole.
            let found = self.slots[slot].load(Ordering::Acquire);
            if found == 0 {
                return (slot, 0);
            }
            let at = at_of(found);
            if tag(found) == tag(hash) && self.word(at) == hash && self.word(at + 1) == check() {
                return (slot, found);
            }
            slot = (slot + 1) & mask;
        }
    }

    fn marks_at(&self, at: usize) -> (Marks, Option<usize>) {
        let head = self.word(at + 2);
        let mut next = at + HEAD;
        let mut take = |flag: u64| {
            if head & flag == 0 {
                return 0;
            }
            next += 1;
            self.word(next - 1)
        };
        let previous = take(PREVIOUS);
        let [deleted, truncated, expired, ids, forgotten] = FOLLOWING.map(&mut take);
        let is_tombstoned = head & TOMBSTONED != 0;
        let record = head & POSITION_MASK;
        let marks = Marks { record, deleted, truncated, expired, ids, forgotten, is_tombstoned };
        (marks, (head & PREVIOUS != 0).then_some(previous as usize))
    }

    /// What is removed of the stream by records up to position `shown`; `check` makes the second hash of its name.
    #[inline]
    pub(super) fn marks(&self, hash: u64, check: impl Fn() -> u64, shown: u64) -> Option<Marks> {
        let (_, found) = self.slot(hash, check);
        if found == 0 {
            return None;
        }
        let mut at = at_of(found);
        loop {
            let (marks, previous) = self.marks_at(at);
            if marks.record <= shown {
                return Some(marks);
            }
            at = previous?;
        }
    }

    /// Every stream's hash and what is removed of it by records up to position `shown`.
    pub(super) fn each(&self, shown: u64, mut each: impl FnMut(u64, Marks)) {
        for slot in &self.slots {
            let found = slot.load(Ordering::Acquire);
            let mut at = (found != 0).then(|| at_of(found));
            while let Some(here) = at {
                let (marks, previous) = self.marks_at(here);
                if marks.record <= shown {
                    each(self.word(here), marks);
                    break;
                }
                at = previous;
            }
        }
    }

    /// Enters what is removed of a stream from now on; `keeps` if readers may still ask for what was before. False, and
    /// nothing entered, if there is no room. Only the writer does.
    pub(super) fn insert(&self, hash: u64, check: u64, marks: &Marks, keeps: bool) -> bool {
        let (slot, found) = self.slot(hash, || check);
        let at = self.used.load(Ordering::Relaxed);
        let record = match found != 0 && !keeps {
            true => self.since(at_of(found)),
            false => marks.record,
        };
        let previous = (found != 0 && keeps).then(|| at_of(found) as u64);
        let values = [marks.deleted, marks.truncated, marks.expired, marks.ids, marks.forgotten];
        let following = previous.into_iter().chain(values.into_iter().filter(|value| *value > 0));
        let streams = self.len() + usize::from(found == 0);
        if at + HEAD + following.clone().count() > self.words.len() || streams * 2 > self.slots.len() {
            return false;
        }
        let flags = FOLLOWING.iter().zip(values).filter(|(_, value)| *value > 0).map(|(flag, _)| flag).sum::<u64>();
        let previous_flag = if previous.is_some() { PREVIOUS } else { 0 };
        let tombstoned = if marks.is_tombstoned { TOMBSTONED } else { 0 };
        let head = [hash, check, record | flags | previous_flag | tombstoned];
        let mut end = at;
        for word in head.into_iter().chain(following) {
            self.words[end].store(word, Ordering::Relaxed);
            end += 1;
        }
        self.used.store(end, Ordering::Relaxed);
        self.streams.store(streams, Ordering::Relaxed);
        self.slots[slot].store(tag(hash) | (at as u64 + 1), Ordering::Release);
        true
    }

    /// Position of the first record that the versions from here on know of.
    fn since(&self, at: usize) -> u64 {
        let mut at = at;
        loop {
            match self.marks_at(at) {
                (_, Some(previous)) => at = previous,
                (marks, None) => return marks.record,
            }
        }
    }

    /// The same with room for more. Of each stream those versions are left out that no reader asks for whose head is
    /// `durable` or later.
    pub(super) fn grown(&self, durable: u64) -> Self {
        // Where a version stands, from which record on it holds, and whether one is kept before it.
        let mut kept: Vec<(usize, u64, bool)> = Vec::new();
        let mut words = 0;
        for slot in &self.slots {
            let found = slot.load(Ordering::Relaxed);
            let mut at = (found != 0).then(|| at_of(found));
            let first_kept = kept.len();
            while let Some(here) = at {
                let (marks, previous) = self.marks_at(here);
                kept.push((here, marks.record, true));
                words += HEAD + 6;
                at = previous.filter(|_| marks.record > durable);
            }
            // Oldest first; the oldest leads nowhere.
            kept[first_kept..].reverse();
            if let Some((at, record, has_previous)) = kept.get_mut(first_kept) {
                (*record, *has_previous) = (self.since(*at), false);
            }
        }
        let slots = ((self.len() + 1) * 4).next_power_of_two().max(FIRST_SLOTS);
        let grown = Self::with_room(slots, (words * 3 / 2).max(FIRST_WORDS));
        for (at, record, keeps) in kept {
            let marks = Marks { record, ..self.marks_at(at).0 };
            let inserted = grown.insert(self.word(at), self.word(at + 1), &marks, keeps);
            debug_assert!(inserted, "room was made");
        }
        grown
    }
}

fn at_of(found: u64) -> usize {
    (found as u32 - 1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1
    }

    fn entered(table: StreamTable, n: u64, marks: Marks, durable: u64) -> StreamTable {
        if table.insert(hash(n), n, &marks, true) {
            return table;
        }
        let grown = table.grown(durable);
        assert!(grown.insert(hash(n), n, &marks, true));
        grown
    }

    #[test]
    fn each_head_sees_its_own_version() {
        let mut table = StreamTable::new();
        for n in 1..=5000u64 {
            table = entered(table, n, Marks { record: n, deleted: n, ..Marks::default() }, 0);
            let marks =
                Marks { record: 10_000 + n, deleted: n, truncated: n + 1, is_tombstoned: true, ..Marks::default() };
            table = entered(table, n, marks, 0);
        }
        assert_eq!(table.len(), 5000);
        for n in 1..=5000u64 {
            let marks = |shown| table.marks(hash(n), || n, shown);
            assert_eq!(marks(n - 1), None);
            assert_eq!(marks(n), Some(Marks { record: n, deleted: n, ..Marks::default() }));
            assert_eq!(marks(10_000 + n - 1).map(|marks| marks.record), Some(n));
            assert!(marks(u64::MAX).is_some_and(|marks| marks.is_tombstoned && marks.truncated == n + 1));
            // Half of the hash is not enough.
            assert_eq!(table.marks(hash(n), || n + 1, u64::MAX), None);
        }
    }

    #[test]
    fn versions_that_nobody_asks_for_are_left_behind() {
        let mut table = StreamTable::new();
        for record in 1..=100_000u64 {
            table = entered(table, 7, Marks { record, expired: record, ..Marks::default() }, record);
        }
        assert!(table.memory() < 64 << 10, "{} bytes for one stream", table.memory());
        assert_eq!(table.marks(hash(7), || 7, u64::MAX).map(|marks| marks.expired), Some(100_000));
    }

    #[test]
    fn a_head_that_was_pinned_before_meets_no_removal_too_few() {
        let mut table = StreamTable::new();
        for record in 2..=600u64 {
            // All but the newest hundred are durable.
            let durable = record.saturating_sub(100);
            table = entered(table, 7, Marks { record, deleted: record, ..Marks::default() }, durable);
            for shown in 2..=record {
                let deleted = table.marks(hash(7), || 7, shown).map_or(0, |marks| marks.deleted);
                assert!(deleted >= shown && (shown < durable || deleted == shown), "{deleted} at {shown} of {record}");
            }
            assert_eq!(table.marks(hash(7), || 7, 1), None);
        }
    }

    #[test]
    fn a_stream_takes_some_fifty_bytes_and_a_look_finds_it() {
        let mut table = StreamTable::new();
        for n in 1..=100_000u64 {
            table = entered(table, n, Marks { record: n, deleted: n, ..Marks::default() }, n);
        }
        let each = table.memory() / table.len();
        assert!(each < 130, "{each} bytes a stream");
        let mut found = 0;
        table.each(u64::MAX, |_, marks| found += u64::from(marks.deleted > 0));
        assert_eq!(found, 100_000);
    }
}
