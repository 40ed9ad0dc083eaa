//! Where the keys begin whose hashes have the same top bits.

use std::ops::Range;

/// Keys of a start, about.
const KEYS_A_START: usize = 4;

/// A small table beside the sorted keys of an index, half a byte to a byte a key, made when it is first asked for a key: a
/// look-up then reads two lines of memory, where a search among the keys themselves reads a dozen.
#[derive(Debug)]
pub(super) struct KeyStarts {
    /// One more than there are starts: the last is the number of keys.
    starts: Box<[u32]>,
    shift: u32,
}

impl KeyStarts {
    /// Of hashes in order.
    pub(super) fn of(hashes: impl ExactSizeIterator<Item = u64>) -> Self {
        let count = hashes.len();
        let bits = (count / KEYS_A_START).max(2).ilog2();
        let shift = u64::BITS - bits;
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        for (number, hash) in (0..).zip(hashes) {
            // Also where hashes are not in order, every start is in the table once.
            while starts.len() <= (hash >> shift) as usize {
                starts.push(number);
            }
        }
        starts.resize((1 << bits) + 1, count as u32);
        Self { starts: starts.into(), shift }
    }

    /// What [`KeyStarts::rows`] looks at.
    #[inline]
    pub(super) fn start(&self, hash: u64) -> &u32 {
        &self.starts[(hash >> self.shift) as usize]
    }

    /// Numbers of the keys that may have this hash: all that have it.
    #[inline]
    pub(super) fn rows(&self, hash: u64) -> Range<usize> {
        let start = (hash >> self.shift) as usize;
        self.starts[start] as usize..self.starts[start + 1] as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_hash_is_among_its_rows(mut hashes in prop::collection::vec(any::<u64>(), 0..2000), other in any::<u64>()) {
            hashes.sort_unstable();
            let starts = KeyStarts::of(hashes.iter().copied());
            for hash in hashes.iter().chain([&other, &0, &u64::MAX]) {
                let rows = starts.rows(*hash);
                let (first, end) =
                    (hashes.partition_point(|of| of < hash), hashes.partition_point(|of| of <= hash));
                prop_assert!(first == end || rows.start <= first && end <= rows.end, "{rows:?} {first}..{end}");
                prop_assert!(hashes.len() < 100 || rows.len() < 40, "{rows:?}");
            }
        }
    }
}
