//! A table of streams in memory: last revision and last position of each.
//!
//! One look-up touches one cache line. A stream is known by 128 bits of seeded hash, which is half a line with its
//! numbers; its name stands in the log.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{RoomAhead, StreamNumber, StreamTip};
use crate::name::{KeyKind, NameHash};
use crate::prefetch::prefetch;
use crate::storage::SharedMap;

/// Words of a slot, in order: the hash (0: free), the second hash, last revision, last position.
const WORDS: usize = 4;
const HASH: usize = 0;
const CHECK: usize = 1;
const REVISION: usize = 2;
const POSITION: usize = 3;

const FIRST_SLOTS: usize = 1 << 10;
/// Up to here a table becomes four times as large at once, and moves its streams half as often.
const QUADRUPLED_BELOW: usize = 1 << 17;

/// Open addressing, linear probing, at most two thirds full. The memory lies in huge pages where it is long, since it is
/// looked into at random. Whoever has it has it alone: the words are atomic for the sake of the memory's kind.
#[derive(Debug)]
pub(crate) struct StreamTable {
    hash: NameHash,
    slots: SharedMap,
    used: usize,
    /// Up to so many streams nothing need be done.
    quiet_until: usize,
    /// So many at most come into one table; then it is taken, and another one of its size begun.
    streams_max: usize,
    ahead: Arc<RoomAhead>,
}

impl StreamTable {
    pub(crate) fn new(hash: NameHash) -> Self {
        Self::with_most(hash, usize::MAX)
    }

    /// One that is taken when it has this many streams.
    pub(super) fn with_most(hash: NameHash, streams_max: usize) -> Self {
        let slots = SharedMap::zeroed_words(FIRST_SLOTS * WORDS);
        let mut table = Self { hash, slots, used: 0, quiet_until: 0, streams_max, ahead: Arc::default() };
        table.quiet_until = table.asks_from();
        table
    }

    /// Where memory for this table is made ahead.
    pub(super) fn ahead(&self) -> &Arc<RoomAhead> {
        &self.ahead
    }

    pub(crate) fn hash_of(&self, stream: &str) -> u64 {
        self.hash.key(KeyKind::Stream, stream)
    }

    #[inline]
    fn mask(&self) -> usize {
        self.slots.as_words().len() / WORDS - 1
    }

    #[inline]
    fn word(&self, slot: usize, word: usize) -> u64 {
        self.slots.as_words()[slot * WORDS + word].load(Relaxed)
    }

    #[inline]
    fn set_word(&self, slot: usize, word: usize, value: u64) {
        self.slots.as_words()[slot * WORDS + word].store(value, Relaxed);
    }

    /// Number of streams here; names of refused batches are among them.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Begins to load what a look-up of this hash will look at.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        prefetch(&self.slots.as_words()[(hash as usize & self.mask()) * WORDS]);
    }

    /// The slot of this stream, or the free one where it belongs.
    #[inline]
    fn slot(&self, hash: u64, check: u64) -> usize {
        let mask = self.mask();
        let mut slot = hash as usize & mask;
        loop {
            let found = self.word(slot, HASH);
            if found == 0 || (found == hash && self.word(slot, CHECK) == check) {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    /// What this table holds now; itself it goes on empty, with room for so many streams or as many as it had, in memory whose
    /// pages are first touched when they are used.
    pub(super) fn take(&mut self, streams: usize) -> Self {
        let ahead = self.ahead.clone();
        let slots = ahead.take(self.full(streams) * WORDS);
        let next = Self { hash: self.hash, slots, used: 0, quiet_until: 0, ahead, ..*self };
        let taken = std::mem::replace(self, next);
        self.quiet_until = self.asks_from();
        taken
    }

    /// The stream's number, if it is here.
    #[inline]
    pub(crate) fn find(&self, hash: u64, stream: &str) -> Option<StreamNumber> {
        let slot = self.slot(hash, self.hash.check(stream));
        (self.word(slot, HASH) != 0).then_some(StreamNumber(slot as u32))
    }

    /// Makes room for so many more streams: numbers given from now on stay valid while they come. Seldom, moves all
    /// slots, some nanoseconds each.
    #[inline]
    pub(crate) fn reserve(&mut self, streams: usize) {
        if self.used + streams > self.quiet_until {
            self.make_room(streams);
        }
    }

    /// Slots of a table that is begun for so many streams in place of this one.
    fn full(&self, streams: usize) -> usize {
        (streams * 3 / 2 + 1).next_power_of_two().min(self.mask() + 1)
    }

    /// Streams for which there is room.
    fn room(&self) -> usize {
        (self.mask() + 1) * 2 / 3
    }

    /// From so many streams on the next memory is to be made ahead.
    fn asks_from(&self) -> usize {
        let room = self.room();
        if room < self.streams_max { room / 2 } else { self.streams_max - self.streams_max / 8 }
    }

    #[cold]
    fn make_room(&mut self, streams: usize) {
        if self.used + streams > self.room() {
            self.grow(streams);
            self.quiet_until = self.asks_from();
        }
        if self.used + streams > self.quiet_until {
            let next = if self.room() < self.streams_max { self.grown() } else { self.full(self.streams_max) };
            self.ahead.ask(next * WORDS);
            self.quiet_until = self.room();
        }
    }

    /// Slots after the next growth, if that is for few streams.
    fn grown(&self) -> usize {
        let slots = self.mask() + 1;
        if slots < QUADRUPLED_BELOW { slots * 4 } else { slots * 2 }
    }

    #[cold]
    fn grow(&mut self, streams: usize) {
        let slots = ((self.used + streams) * 3 / 2 + 1).next_power_of_two().max(self.grown());
        let memory = self.ahead.take(slots * WORDS);
        let old = std::mem::replace(&mut self.slots, memory);
        let mask = self.mask();
        // In the order of the old table, which is nearly that of the new one.
        for words in old.as_words().as_chunks::<WORDS>().0 {
            let words = words.each_ref().map(|word| word.load(Relaxed));
            if words[HASH] == 0 {
                continue;
            }
            let mut slot = words[HASH] as usize & mask;
            while self.word(slot, HASH) != 0 {
                slot = (slot + 1) & mask;
            }
            for (index, word) in words.into_iter().enumerate() {
                self.set_word(slot, index, word);
            }
        }
    }

    /// Enters a stream that is not here yet; there is room for it.
    pub(crate) fn add(&mut self, hash: u64, stream: &str, tip: StreamTip) -> StreamNumber {
        let check = self.hash.check(stream);
        let slot = self.slot(hash, check);
        self.set_word(slot, HASH, hash);
        self.set_word(slot, CHECK, check);
        self.used += 1;
        let number = StreamNumber(slot as u32);
        self.set_tip(number, tip);
        number
    }

    #[inline]
    pub(crate) fn tip(&self, number: StreamNumber) -> StreamTip {
        let slot = number.0 as usize;
        StreamTip { revision: self.word(slot, REVISION), position: self.word(slot, POSITION) }
    }

    /// Takes the next revision of a stream for the event at `position`.
    #[inline]
    pub(crate) fn advance(&mut self, number: StreamNumber, position: u64) -> u64 {
        let revision = self.word(number.0 as usize, REVISION) + 1;
        self.set_tip(number, StreamTip { revision, position });
        revision
    }

    /// Sets what reading the log found.
    pub(crate) fn set(&mut self, stream: &str, tip: StreamTip) {
        self.reserve(1);
        let hash = self.hash_of(stream);
        match self.find(hash, stream) {
            Some(number) => self.set_tip(number, tip),
            None => drop(self.add(hash, stream, tip)),
        }
    }

    #[inline]
    pub(crate) fn set_tip(&mut self, number: StreamNumber, tip: StreamTip) {
        self.set_word(number.0 as usize, REVISION, tip.revision);
        self.set_word(number.0 as usize, POSITION, tip.position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(table: &StreamTable, stream: &str) -> Option<StreamTip> {
        table.find(table.hash_of(stream), stream).map(|number| table.tip(number))
    }

    #[test]
    fn streams_keep_their_tips_while_the_table_grows() {
        let mut table = StreamTable::new(NameHash { seed: 9 });
        let tip = |n: u64| StreamTip { revision: n + 1, position: 2 * n + 1 };
        for n in 0..20_000u64 {
            table.set(&format!("stream-{n}"), tip(n));
        }
        for n in 0..20_000u64 {
            assert_eq!(find(&table, &format!("stream-{n}")), Some(tip(n)));
        }
        assert_eq!(table.len(), 20_000);
        assert_eq!(find(&table, "stream-20000"), None);
    }

    #[test]
    fn room_that_was_reserved_keeps_numbers_valid() {
        let mut table = StreamTable::new(NameHash { seed: 9 });
        table.reserve(5_000);
        let add = |n: u64| {
            let name = format!("stream-{n}");
            table.add(table.hash_of(&name), &name, StreamTip::NONE)
        };
        let numbers: Vec<_> = (0..5_000u64).map(add).collect();
        for (n, number) in (1..).zip(&numbers) {
            assert_eq!(table.advance(*number, n), 1);
        }
        for (n, number) in (1..).zip(&numbers) {
            assert_eq!(table.tip(*number), StreamTip { revision: 1, position: n });
        }
    }

    #[test]
    fn streams_that_share_a_hash_are_two() {
        let mut table = StreamTable::new(NameHash { seed: 9 });
        table.reserve(2);
        let (one, other) = (table.add(7, "one", StreamTip::NONE), table.add(7, "other", StreamTip::NONE));
        assert_ne!(one, other);
        assert_eq!((table.find(7, "one"), table.find(7, "other")), (Some(one), Some(other)));
        assert_eq!(table.find(7, "third"), None);
    }
}
