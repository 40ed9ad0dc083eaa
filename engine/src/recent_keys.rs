//! Which of the newest ended segments surely have no event of a stream, type or tag.
//!
//! A segment that no tier covers yet is asked by its own index: two to three lines of memory each, and while segments end
//! one after the other there are dozens of them. Here some bits of each stand beside those of the others, so that two
//! lines tell of all. What is not entered is asked as before.
//!
//! One writer, whoever seals, under a lock; any number of readers, without one: each place names its segment, and a reader
//! looks at that name before and after (a sequence lock: Boehm, Can Seqlocks Get Along With Programming Language Memory
//! Models?, 2012).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use parking_lot::Mutex;

use crate::once::OnceLock;
use crate::prefetch::prefetch;
use crate::storage::SharedMap;

/// So many segments have a place.
const SEGMENTS: usize = 64;
/// Bits of a segment in a row: of a key in one that is not there, one of 150 passes where there are two keys for three rows.
type Bits = u16;
const SEGMENTS_A_WORD: usize = (u64::BITS / Bits::BITS) as usize;
const WORDS: usize = SEGMENTS / SEGMENTS_A_WORD;
const WORDS_A_LINE: usize = 8;
const ROW_BITS: u32 = 15;
const ROWS: usize = 1 << ROW_BITS;
/// A segment with more keys is not entered: too many would pass, and there are fewer such segments.
const KEYS_MAX: usize = ROWS;
/// Not a first position of any segment: those begin at 1.
const NOBODY: u64 = 0;

/// Four megabytes, from the first segment on that is entered.
#[derive(Debug)]
pub(crate) struct RecentKeys {
    /// First position of the segment that has this place.
    owners: [AtomicU64; SEGMENTS],
    words: OnceLock<SharedMap>,
    /// How many were entered: the newest has the place before.
    entered: AtomicUsize,
    turn: Mutex<()>,
}

impl Default for RecentKeys {
    fn default() -> Self {
        let owners = std::array::from_fn(|_| AtomicU64::new(NOBODY));
        Self { owners, words: OnceLock::new(), entered: AtomicUsize::new(0), turn: Mutex::new(()) }
    }
}

/// Bits of a key in its row, up to four.
#[inline]
const fn bits_of(hash: u64) -> Bits {
    1 << (hash & 15) | 1 << (hash >> 4 & 15) | 1 << (hash >> 8 & 15) | 1 << (hash >> 12 & 15)
}

/// Where the bits of a place begin in their word.
#[inline]
const fn shift_of(place: usize) -> u32 {
    (place % SEGMENTS_A_WORD) as u32 * Bits::BITS
}

#[inline]
const fn row_of(hash: u64) -> usize {
    (hash >> (u64::BITS - ROW_BITS)) as usize
}

impl RecentKeys {
    /// Enters all keys of an ended segment that has events, in the place of the segment entered longest ago; segments are
    /// entered in order. Costs about 0.2 ms.
    pub(crate) fn enter(&self, first_position: u64, keys: impl ExactSizeIterator<Item = u64>) {
        if keys.len() > KEYS_MAX || first_position == NOBODY {
            return;
        }
        let mut column = vec![0; ROWS];
        keys.for_each(|hash| column[row_of(hash)] |= bits_of(hash));
        let _turn = self.turn.lock();
        let words = self.words.get_or_init(|| SharedMap::zeroed_words(ROWS * WORDS)).as_words();
        let entered = self.entered.load(Ordering::Relaxed);
        let place = entered % SEGMENTS;
        self.owners[place].store(NOBODY, Ordering::Relaxed);
        // Who sees bits of the new one sees that the place is no longer the old one's.
        fence(Ordering::Release);
        let shift = shift_of(place);
        for (row, bits) in words.chunks_exact(WORDS).zip(column) {
            let word = &row[place / SEGMENTS_A_WORD];
            // Nobody else stores.
            let others = word.load(Ordering::Relaxed) & !(u64::from(Bits::MAX) << shift);
            word.store(others | u64::from(bits) << shift, Ordering::Relaxed);
        }
        self.owners[place].store(first_position, Ordering::Release);
        self.entered.store(entered + 1, Ordering::Relaxed);
    }

    /// What is known of a key; begins to load it.
    #[inline]
    pub(crate) fn look(&self, hash: u64) -> RecentKey<'_> {
        let row = match self.words.get() {
            Some(words) => &words.as_words()[row_of(hash) * WORDS..][..WORDS],
            None => &[],
        };
        row.iter().step_by(WORDS_A_LINE).for_each(prefetch);
        let newest = self.entered.load(Ordering::Relaxed).wrapping_sub(1);
        RecentKey { of: self, row, bits: bits_of(hash), place: newest, left: if row.is_empty() { 0 } else { SEGMENTS } }
    }
}

/// One key in the newest segments, asked from the newest on.
#[derive(Clone, Debug)]
pub(crate) struct RecentKey<'a> {
    of: &'a RecentKeys,
    row: &'a [AtomicU64],
    bits: Bits,
    /// Counted on from one turn to the next.
    place: usize,
    left: usize,
}

impl RecentKey<'_> {
    /// Whether the segment that begins at `first_position` surely has no event of the key. Each call is for a segment before
    /// that of the last one.
    #[inline]
    pub(crate) fn is_not_in(&mut self, first_position: u64) -> bool {
        while self.left > 0 {
            let place = self.place % SEGMENTS;
            // Acquire: the bits of the segment that is named here, or later ones.
            let owner = self.of.owners[place].load(Ordering::Acquire);
            if owner < first_position {
                return false;
            }
            self.place = self.place.wrapping_sub(1);
            self.left -= 1;
            if owner == first_position {
                return !self.may_be_at(place) && {
                    // Bits of a later one shows that the place was taken away.
                    fence(Ordering::Acquire);
                    self.of.owners[place].load(Ordering::Relaxed) == first_position
                };
            }
        }
        false
    }

    #[inline]
    fn may_be_at(&self, place: usize) -> bool {
        let word = self.row[place / SEGMENTS_A_WORD].load(Ordering::Relaxed);
        (word >> shift_of(place)) as Bits & self.bits == self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(segment: u64, key: u64) -> u64 {
        let mixed = (segment << 32 | key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9).rotate_left(32)
    }

    /// Which of the segments from `last` down to the first surely do not have it.
    fn without(keys: &RecentKeys, hash: u64, last: u64) -> Vec<u64> {
        let mut look = keys.look(hash);
        (1..=last).rev().filter(|segment| look.is_not_in(*segment)).collect()
    }

    #[test]
    fn nothing_is_said_of_what_was_not_entered() {
        let keys = RecentKeys::default();
        assert!(without(&keys, 7, 10).is_empty());
        let many: Vec<u64> = (0..=KEYS_MAX as u64).collect();
        keys.enter(1, many.into_iter());
        assert!(without(&keys, 7, 10).is_empty());
    }

    #[test]
    fn a_key_is_never_told_absent_where_it_is() {
        let keys = RecentKeys::default();
        let count = 20_000;
        for segment in 1..=2 * SEGMENTS as u64 + 5 {
            keys.enter(segment, (0..count).map(|key| hash(segment, key)).collect::<Vec<_>>().into_iter());
        }
        let last = 2 * SEGMENTS as u64 + 5;
        let mut passed = 0;
        for segment in [last, last - 1, last - SEGMENTS as u64 + 1] {
            for key in 0..count {
                let without = without(&keys, hash(segment, key), last);
                assert!(!without.contains(&segment));
                assert!(without.iter().all(|other| (last - SEGMENTS as u64 + 1..=last).contains(other)));
                passed += SEGMENTS - 1 - without.len();
            }
        }
        let looks = 3 * count as usize * (SEGMENTS - 1);
        assert!(passed < looks / 100, "{passed} of {looks} pass falsely");
    }

    /// Every segment has the keys that its number divides by: whatever is told of the segment that is named must be so.
    #[test]
    fn a_place_that_is_taken_away_meanwhile_tells_nothing_wrong() {
        const KEYS: u64 = 64;
        let has = |segment: u64, key: u64| (segment / SEGMENTS as u64 + key).is_multiple_of(2);
        let keys = RecentKeys::default();
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                for segment in 1..=20 * SEGMENTS as u64 {
                    let of = (0..KEYS).filter(|key| has(segment, *key)).map(|key| hash(0, key)).collect::<Vec<_>>();
                    keys.enter(segment, of.into_iter());
                }
            });
            let mut told = 0;
            while !writing.is_finished() || told == 0 {
                for key in 0..KEYS {
                    for segment in without(&keys, hash(0, key), 20 * SEGMENTS as u64) {
                        assert!(!has(segment, key), "{segment} has {key}");
                        told += 1;
                    }
                }
            }
        });
    }
}
