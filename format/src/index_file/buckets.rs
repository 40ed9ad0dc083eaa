//! Tables over rows in order of a hash: where the rows begin whose hashes have the same top bits.

use std::ops::Range;

use super::{Flat, Touch, View};
use crate::Fault;
use crate::field::u32_at;

/// Rows of a bucket, about.
const ROWS_A_BUCKET: u64 = 8;
/// Beyond this the table would not fit a file.
const BITS_MAX: u32 = 28;

/// A table of `2^bits + 1` row numbers: where each bucket begins, and where the last one ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Buckets {
    starts: Flat<4>,
    bits: u32,
}

impl Buckets {
    /// # Errors
    /// `Structure` if the table's length is none that is written.
    pub(crate) fn of(starts: Flat<4>) -> Result<Self, Fault> {
        match starts.len().checked_sub(1) {
            Some(count) if count.is_power_of_two() && count.ilog2() <= BITS_MAX => {
                Ok(Self { starts, bits: count.ilog2() })
            }
            _ => Err(Fault::Structure { what: "table of buckets" }),
        }
    }

    /// Where the bytes lie that [`Buckets::rows`] reads first.
    #[inline]
    pub(crate) fn place(&self, hash: u64) -> Range<usize> {
        let bucket = bucket_of(hash, self.bits);
        self.starts.place(bucket..bucket + 2)
    }

    /// The rows of `rows` that may have this hash; all that have it are among them.
    #[inline]
    pub(crate) fn rows<'a, const WIDTH: usize, T: Touch>(
        &self,
        view: &View<'a, T>,
        rows: Flat<WIDTH>,
        hash: u64,
    ) -> Result<&'a [[u8; WIDTH]], T::Error> {
        view.rows(rows, self.row_numbers(view, hash)?)
    }

    /// Numbers of the rows that may have this hash.
    #[inline]
    pub(crate) fn row_numbers<T: Touch>(&self, view: &View<'_, T>, hash: u64) -> Result<Range<u32>, T::Error> {
        let pair = view.bytes(self.place(hash))?;
        Ok(u32_at(pair, 0)..u32_at(pair, 4))
    }
}

#[inline]
fn bucket_of(hash: u64, bits: u32) -> u32 {
    // Twice, since a shift by 64 is none.
    (hash >> 1 >> (63 - bits)) as u32
}

/// Length of the table over so many rows.
pub(crate) fn table_len(rows: u64) -> u64 {
    (1 << bits_for(rows)) + 1
}

fn bits_for(rows: u64) -> u32 {
    (rows / ROWS_A_BUCKET).max(1).ilog2().min(BITS_MAX)
}

/// Makes a table while the rows go by in order of their hashes. Takes half a byte of memory for each row expected.
#[derive(Debug)]
pub(crate) struct BucketBuilder {
    starts: Vec<u32>,
    bits: u32,
    rows: u32,
    last: u64,
}

impl BucketBuilder {
    /// For at most about this many rows. If they are much fewer, the table is made smaller in the end; if they are
    /// more, look-ups are slower.
    pub(crate) fn new(rows_at_most: u64) -> Self {
        Self { starts: Vec::new(), bits: bits_for(rows_at_most), rows: 0, last: 0 }
    }

    /// # Errors
    /// `Order` if a smaller hash comes after a larger; `Count` beyond 2^32 rows.
    #[inline]
    pub(crate) fn push(&mut self, hash: u64) -> Result<(), Fault> {
        if hash < self.last {
            return Err(Fault::Order { what: "hashes" });
        }
        self.last = hash;
        let bucket = bucket_of(hash, self.bits) as usize;
        if self.starts.len() <= bucket {
            self.starts.resize(bucket + 1, self.rows);
        }
        self.rows = self.rows.checked_add(1).ok_or(Fault::Count { what: "number of rows", value: 1 << 32 })?;
        Ok(())
    }

    pub(crate) fn row_count(&self) -> u32 {
        self.rows
    }

    /// The table, as large as the rows that came need it.
    pub(crate) fn finish(mut self) -> impl Iterator<Item = u32> {
        self.starts.resize((1 << self.bits) + 1, self.rows);
        // A bucket of fewer bits begins where the first of those it is made of does.
        let bits = bits_for(self.rows.into()).min(self.bits);
        self.starts.into_iter().step_by(1 << (self.bits - bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_expected_make_the_same_table() {
        for count in [0u64, 1, 15, 16, 100, 1000, 5000] {
            let hashes: Vec<u64> = (0..count).map(|n| (u64::MAX / count) * n + n % 3).collect();
            let table = |expected| {
                let mut builder = BucketBuilder::new(expected);
                hashes.iter().for_each(|hash| builder.push(*hash).expect("hashes rise"));
                assert_eq!(u64::from(builder.row_count()), count);
                builder.finish().collect::<Vec<u32>>()
            };
            let exact = table(count);
            assert_eq!(exact.len() as u64 - 1, 1 << bits_for(count));
            assert_eq!(table(count * 5), exact);
            for (bucket, pair) in exact.windows(2).enumerate() {
                let held = hashes.iter().filter(|hash| bucket_of(**hash, bits_for(count)) == bucket as u32).count();
                assert_eq!((pair[1] - pair[0]) as usize, held);
            }
        }
        let mut builder = BucketBuilder::new(9);
        assert!(builder.push(5).is_ok() && builder.push(5).is_ok() && builder.push(4).is_err());
    }
}
