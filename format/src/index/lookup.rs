//! Questions to an index. Each looks at a few rows by binary search and never goes beyond what is there, whatever the
//! rows say.

use std::ops::Range;

use rkyv::rend::u32_le;

use super::{ArchivedBatchRow, ArchivedIdRow, ArchivedIndexRoot, ArchivedNameRow};

/// A batch, as the index knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchAt {
    /// Relative position of its first record.
    pub first: u32,
    /// Offset of its header in the segment, in bytes.
    pub offset: u64,
    /// Its `recorded_at`.
    pub recorded_at: u64,
}

/// A stream or type, as the index knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameAt<'a> {
    /// The name; whoever needs text checks that it is.
    pub name: &'a [u8],
    /// Last revision of a stream in this segment; for a type 0.
    pub last_revision: u64,
    /// Relative position of its first event.
    pub first: u32,
    /// Relative position of its last event.
    pub last: u32,
}

impl From<&ArchivedBatchRow> for BatchAt {
    fn from(row: &ArchivedBatchRow) -> Self {
        Self {
            first: row.first.to_native(),
            offset: u64::from(row.offset.to_native()) * 8,
            recorded_at: row.recorded_at.to_native(),
        }
    }
}

impl ArchivedIndexRoot {
    /// Number of records in the segment.
    #[inline]
    pub fn record_count(&self) -> u32 {
        self.offsets.len() as u32
    }

    /// Offset in the segment of the frame of the event at this relative position; `None` for a control record and beyond
    /// the end.
    #[inline]
    pub fn offset(&self, position: u32) -> Option<u64> {
        let offset = self.offsets.get(position as usize)?.to_native();
        (offset != 0).then_some(u64::from(offset) * 8)
    }

    /// The batch that holds this relative position. Binary search over the batches.
    pub fn batch_of(&self, position: u32) -> Option<BatchAt> {
        if position as usize >= self.offsets.len() {
            return None;
        }
        let after = self.batches.partition_point(|row| row.first.to_native() <= position);
        self.batches.get(after.checked_sub(1)?).map(BatchAt::from)
    }

    /// The first batch recorded at `time` or later. Binary search over the batches.
    pub fn batch_at_time(&self, time: u64) -> Option<BatchAt> {
        let at = self.batches.partition_point(|row| row.recorded_at.to_native() < time);
        self.batches.get(at).map(BatchAt::from)
    }

    /// All batches, in order.
    pub fn batches(&self) -> impl ExactSizeIterator<Item = BatchAt> + DoubleEndedIterator + '_ {
        self.batches.iter().map(BatchAt::from)
    }

    /// Relative positions of the events whose stream, type or tag has this hash, ascending. Other names may share the
    /// hash: compare the name in the record.
    #[inline]
    pub fn find_key(&self, hash: u64) -> Option<&[u32_le]> {
        let at = partition_near(&self.keys, hash, |row| row.hash.to_native());
        let row = self.keys.get(at).filter(|row| row.hash.to_native() == hash)?;
        let start = row.start.to_native() as usize;
        self.postings.get(start..)?.get(..row.count.to_native() as usize)
    }

    /// As [`ArchivedIndexRoot::find_key`], where the rows of this hash are known to be among `rows`.
    #[inline]
    pub fn find_key_among(&self, rows: Range<usize>, hash: u64) -> Option<&[u32_le]> {
        let rows = self.keys.get(rows)?;
        let row = rows.get(rows.partition_point(|row| row.hash.to_native() < hash))?;
        if row.hash.to_native() != hash {
            return None;
        }
        let start = row.start.to_native() as usize;
        self.postings.get(start..)?.get(..row.count.to_native() as usize)
    }

    /// Hashes of all keys, in order.
    pub fn key_hashes(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.keys.iter().map(|row| row.hash.to_native())
    }

    /// Number of keys.
    #[inline]
    pub fn key_count(&self) -> u32 {
        self.keys.len() as u32
    }

    /// Hash and relative positions of the key with this number; they are in order of their hashes. `None` beyond the last,
    /// and if the row points beyond the postings.
    #[inline]
    pub fn key(&self, number: u32) -> Option<(u64, &[u32_le])> {
        let row = self.keys.get(number as usize)?;
        let start = row.start.to_native() as usize;
        Some((row.hash.to_native(), self.postings.get(start..)?.get(..row.count.to_native() as usize)?))
    }

    /// Number of ids.
    #[inline]
    pub fn id_count(&self) -> u32 {
        self.ids.len() as u32
    }

    /// Hash and relative position of the id with this number; they are in order of hash and position.
    #[inline]
    pub fn id(&self, number: u32) -> Option<(u64, u32)> {
        self.ids.get(number as usize).map(|row| (row.hash.to_native(), row.position.to_native()))
    }

    /// Relative positions of the events whose id has this hash, ascending. Compare the id in the record.
    #[inline]
    pub fn find_ids(&self, hash: u64) -> Ids<'_> {
        let at = partition_near(&self.ids, hash, |row| row.hash.to_native());
        Ids { rows: self.ids.get(at..).unwrap_or_default(), hash }
    }

    /// Hash and relative position of every id, by hash.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = (u64, u32)> + '_ {
        self.ids.iter().map(|row| (row.hash.to_native(), row.position.to_native()))
    }

    /// Length of the names of all streams together; about, where rows are out of order.
    pub fn streams_len(&self) -> usize {
        // They stand first, one after the other.
        let end =
            self.streams.last().map_or(0, |row| u64::from(row.offset.to_native()) + u64::from(row.len.to_native()));
        self.names.len().min(usize::try_from(end).unwrap_or(usize::MAX))
    }

    /// Number of streams.
    #[inline]
    pub fn stream_count(&self) -> u32 {
        self.streams.len() as u32
    }

    /// The stream with this number; they are in order of their names.
    #[inline]
    pub fn stream_at(&self, number: u32) -> Option<NameAt<'_>> {
        self.streams.get(number as usize).map(|row| name_row(row, self.names.as_slice()))
    }

    /// The stream with this name.
    pub fn stream(&self, name: &[u8]) -> Option<NameAt<'_>> {
        self.streams_from(name).next().filter(|found| found.name == name)
    }

    /// Streams whose name begins with `prefix`, by name; all for an empty one.
    pub fn streams_from(&self, prefix: &[u8]) -> Names<'_> {
        self.with_prefix(&self.streams, prefix)
    }

    /// Types whose name begins with `prefix`, by name; all for an empty one.
    pub fn types_from(&self, prefix: &[u8]) -> Names<'_> {
        self.with_prefix(&self.types, prefix)
    }

    fn with_prefix<'a>(&'a self, rows: &'a [ArchivedNameRow], prefix: &[u8]) -> Names<'a> {
        let names = self.names.as_slice();
        let from = rows.partition_point(|row| name_of(row, names) < prefix);
        let rest = rows.get(from..).unwrap_or_default();
        let count = rest.partition_point(|row| name_of(row, names).starts_with(prefix));
        Names { rows: rest.get(..count).unwrap_or_default(), names }
    }
}

/// The first row whose hash is not smaller. Hashes are spread evenly, so the search begins about where it ends, and goes on
/// by strides that double: two or three rows are read where halving reads a dozen.
#[inline]
fn partition_near<T>(rows: &[T], hash: u64, hash_of: impl Fn(&T) -> u64) -> usize {
    let is_before = |at: usize| rows.get(at).is_some_and(|row| hash_of(row) < hash);
    let near = ((u128::from(hash) * rows.len() as u128) >> 64) as usize;
    let (mut low, mut high) = (0, near);
    let mut stride = 1;
    if is_before(near) {
        while is_before(high) {
            low = high + 1;
            high = (high + stride).min(rows.len());
            stride *= 2;
        }
    } else {
        while let Some(at) = high.checked_sub(stride) {
            if is_before(at) {
                low = at + 1;
                break;
            }
            high = at;
            stride *= 2;
        }
    }
    // All before `low` are smaller; the one at `high`, if there is one, is not.
    low + rows.get(low..high).unwrap_or_default().partition_point(|row| hash_of(row) < hash)
}

/// The name of a row; empty if the row points beyond the names.
#[inline]
fn name_of<'a>(row: &ArchivedNameRow, names: &'a [u8]) -> &'a [u8] {
    let start = row.offset.to_native() as usize;
    let range: Range<usize> = start..start.saturating_add(row.len.to_native() as usize);
    names.get(range).unwrap_or_default()
}

#[inline]
fn name_row<'a>(row: &ArchivedNameRow, names: &'a [u8]) -> NameAt<'a> {
    NameAt {
        name: name_of(row, names),
        last_revision: row.last_revision.to_native(),
        first: row.first.to_native(),
        last: row.last.to_native(),
    }
}

/// Relative positions that share an id's hash.
#[derive(Clone)]
pub struct Ids<'a> {
    rows: &'a [ArchivedIdRow],
    hash: u64,
}

impl Iterator for Ids<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        let (row, rest) = self.rows.split_first()?;
        if row.hash.to_native() != self.hash {
            return None;
        }
        self.rows = rest;
        Some(row.position.to_native())
    }
}

impl std::iter::FusedIterator for Ids<'_> {}

/// Streams or types, by name.
#[derive(Clone)]
pub struct Names<'a> {
    rows: &'a [ArchivedNameRow],
    names: &'a [u8],
}

impl<'a> Names<'a> {
    /// What will be read of the row after so many more, and of a name before it, about: for who begins to load it.
    #[inline]
    pub fn ahead(&self, rows: usize) -> (Option<&'a ArchivedNameRow>, Option<&'a u8>) {
        let name = self.rows.get(rows / 2).and_then(|row| self.names.get(row.offset.to_native() as usize));
        (self.rows.get(rows), name)
    }
}

impl<'a> Iterator for Names<'a> {
    type Item = NameAt<'a>;

    fn next(&mut self) -> Option<NameAt<'a>> {
        let (row, rest) = self.rows.split_first()?;
        self.rows = rest;
        Some(name_row(row, self.names))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.rows.len(), Some(self.rows.len()))
    }
}

impl ExactSizeIterator for Names<'_> {}
impl std::iter::FusedIterator for Names<'_> {}

#[cfg(test)]
mod tests {
    use super::partition_near;

    #[test]
    fn a_search_from_nearby_ends_where_halving_does() {
        let even = |count: u64| (0..count).map(move |n| (u64::MAX / count.max(1)) * n + n % 5).collect::<Vec<u64>>();
        let crowded = |count: u64| (0..count).map(|n| (1 << 40) | (n / 3)).collect::<Vec<u64>>();
        let ends: Vec<u64> = [0, 0, 1, u64::MAX - 1, u64::MAX, u64::MAX].to_vec();
        for mut rows in [even(0), even(1), even(2), even(700), crowded(1), crowded(500), ends] {
            rows.sort_unstable();
            let near = rows.iter().flat_map(|hash| [hash.saturating_sub(1), *hash, hash.saturating_add(1)]);
            for hash in near.chain([0, 1 << 39, 1 << 63, u64::MAX]) {
                let wanted = rows.partition_point(|row| *row < hash);
                assert_eq!(partition_near(&rows, hash, |row| *row), wanted, "{hash} of {rows:?}");
            }
        }
    }
}
