//! Rows put in the order of their hashes, which are spread evenly.

/// Rows that begin alike and are sorted by simple means.
const FEW: usize = 24;

/// Memory to sort with, used again and again.
#[derive(Debug)]
pub(crate) struct HashOrder<T> {
    sorted: Vec<T>,
    starts: Vec<u32>,
}

impl<T> Default for HashOrder<T> {
    fn default() -> Self {
        Self { sorted: Vec::new(), starts: Vec::new() }
    }
}

impl<T: Copy> HashOrder<T> {
    /// Sorts by hash, of which the first `bits` are the same in all rows; below 2^32 rows. Stable. Each row is moved to where
    /// its hash leads, about, and from there a place or two: some nanoseconds, where comparing takes dozens.
    pub(crate) fn sort(&mut self, rows: &mut Vec<T>, bits: u32, hash_of: impl Fn(&T) -> u64) {
        let Some(first) = rows.first().copied().filter(|_| rows.len() > 1) else { return };
        let Self { sorted, starts } = self;
        let more = (rows.len().ilog2() - 1).max(1);
        let bucket_of = |row: &T| ((hash_of(row) << bits) >> (u64::BITS - more)) as usize;
        starts.clear();
        starts.resize(1 << more, 0);
        rows.iter().for_each(|row| starts[bucket_of(row)] += 1);
        let mut sum = 0;
        for start in starts.iter_mut() {
            sum += std::mem::replace(start, sum);
        }
        sorted.clear();
        sorted.resize(rows.len(), first);
        for row in rows.iter() {
            let start = &mut starts[bucket_of(row)];
            sorted[*start as usize] = *row;
            *start += 1;
        }
        // Each start has moved to the end of its bucket.
        let mut from = 0;
        for end in starts.iter().map(|end| *end as usize) {
            let bucket = &mut sorted[from..end];
            from = end;
            match bucket.len() {
                0 | 1 => {}
                2..=FEW => insert(bucket, &hash_of),
                _ => bucket.sort_by_key(&hash_of),
            }
        }
        std::mem::swap(rows, sorted);
    }
}

/// Insertion sort, stable.
#[inline]
fn insert<T: Copy>(rows: &mut [T], hash_of: &impl Fn(&T) -> u64) {
    for at in 1..rows.len() {
        let row = rows[at];
        let hash = hash_of(&row);
        let mut to = at;
        while to > 0 && hash_of(&rows[to - 1]) > hash {
            rows[to] = rows[to - 1];
            to -= 1;
        }
        rows[to] = row;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_a_stable_sort_would(hashes in prop::collection::vec(0..300u64, 0..900), shift in 0..56u32, bits in 0..8u32) {
            let hashes = hashes.into_iter().map(|hash| (hash << shift) >> bits | (!0 << (63 - bits) << 1));
            let mut rows: Vec<(u64, usize)> = hashes.zip(0..).collect();
            let mut wanted = rows.clone();
            wanted.sort_by_key(|row| row.0);
            HashOrder::default().sort(&mut rows, bits, |row| row.0);
            prop_assert_eq!(rows, wanted);
        }
    }
}
