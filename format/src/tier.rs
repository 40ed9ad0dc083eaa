//! Which records have a name or an id, for a contiguous range of segments: the file `tier-N.idx`.
//!
//! Positions in a tier are relative to its first. A *key* is the hash of a kind and a name (a stream, a type, a tag); what
//! a hash leads to is confirmed by the name in the frame. Rows stand in order of their hashes, behind a table of buckets
//! over the top bits, so that a look-up reads one bucket entry and about eight rows.

mod filter;
mod ids;
mod measure;
mod names;
mod positions;
mod writer;

use std::ops::Range;

use rkyv::{Archive, Serialize};

use crate::Fault;
use crate::checksum::crc;
use crate::field::{u32_at, u64_at};
use crate::index_file::{Buckets, FileHeader, FileKind, Flat, Section, Touch, Verified, View, checked_root};

pub use ids::Ids;
pub use measure::{EncodedNames, TierMeasure};
pub use names::Names;
pub use positions::{Positions, PositionsMark, is_dense};
pub use writer::{TierParts, TierSizes, TierWriter, encode};

/// Checksum of the final checksums of the segments that a tier covers, oldest first: in its header, so that a tier of
/// another history is known.
pub fn covered_checksum(final_checksums: impl IntoIterator<Item = u32>) -> u32 {
    final_checksums.into_iter().fold(0, |state, checksum| crc(state, &checksum.to_le_bytes()))
}

/// In a key row's count: the positions are a bit map.
const BITMAP: u32 = 1 << 31;

/// A key row as it is archived, for the shape of it.
#[derive(Archive, Debug)]
struct PackedKey {
    hash: u64,
    start: u32,
    count: u32,
}

/// An id row as it is archived, for the shape of it: 12 bytes, so that hash and position are one read.
#[derive(Archive, Debug)]
struct PackedId {
    hash_low: u32,
    hash_high: u32,
    position: u32,
}

/// The archive's root, as it is written. Sections lie in the archive in this order.
#[derive(Archive, Serialize, Debug)]
#[rkyv(archived = TierRoot)]
struct Sections {
    first_position: u64,
    last_position: u64,
    keys: Section<PackedKey>,
    key_buckets: Section<u32>,
    postings: Section<u32>,
    ids: Section<PackedId>,
    id_buckets: Section<u32>,
    id_filter: Section<u64>,
    stream_names: Section<u8>,
    stream_restarts: Section<u32>,
    type_names: Section<u8>,
    type_restarts: Section<u32>,
    stream_count: u32,
    type_count: u32,
}

/// Where the rows of a file lie: kept by whoever maps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TierLayout {
    first_position: u64,
    position_count: u32,
    keys: Flat<16>,
    key_buckets: Buckets,
    postings: Flat<4>,
    ids: Flat<12>,
    id_buckets: Buckets,
    id_filter: Flat<8>,
    streams: names::NameTable,
    types: names::NameTable,
}

impl TierLayout {
    /// Where the archive's root lies in the file: what [`TierLayout::read`] reads.
    pub fn root(header: &FileHeader) -> Range<usize> {
        let end = header.table.archive().end;
        end.saturating_sub(size_of::<TierRoot>()).max(header.table.archive().start)..end
    }

    /// Reads the root of a file whose header was opened and whose bytes at [`TierLayout::root`] were verified. Tens of
    /// nanoseconds, whatever the length of the file.
    ///
    /// # Errors
    /// `Structure` or `Identity` if this is no such archive; `Alignment` if `file` does not begin at a multiple of 16.
    pub fn read(file: &[u8], header: &FileHeader) -> Result<Self, Fault> {
        let root: &TierRoot = checked_root(file, &header.table)?;
        let identity = &header.identity;
        let same = identity.kind == FileKind::Tier
            && root.first_position.to_native() == identity.first_position
            && root.last_position.to_native() == identity.last_position;
        let count = u32::try_from(identity.position_count()).ok().filter(|_| same);
        let position_count = count.ok_or(Fault::Identity { what: "positions of the archive" })?;
        Ok(Self {
            first_position: identity.first_position,
            position_count,
            keys: Flat::of(file, &root.keys)?,
            key_buckets: Buckets::of(Flat::of(file, &root.key_buckets)?)?,
            postings: Flat::of(file, &root.postings)?,
            ids: Flat::of(file, &root.ids)?,
            id_buckets: Buckets::of(Flat::of(file, &root.id_buckets)?)?,
            id_filter: Flat::of(file, &root.id_filter)?,
            streams: names::NameTable {
                names: Flat::of(file, &root.stream_names)?,
                restarts: Flat::of(file, &root.stream_restarts)?,
                count: root.stream_count.to_native(),
            },
            types: names::NameTable {
                names: Flat::of(file, &root.type_names)?,
                restarts: Flat::of(file, &root.type_restarts)?,
                count: root.type_count.to_native(),
            },
        })
    }

    /// The position that all others are relative to.
    pub fn first_position(&self) -> u64 {
        self.first_position
    }

    /// How many positions the tier covers; relative positions are smaller.
    pub fn position_count(&self) -> u32 {
        self.position_count
    }

    /// Number of keys.
    pub fn key_count(&self) -> u32 {
        self.keys.len()
    }

    /// Number of ids.
    pub fn id_count(&self) -> u32 {
        self.ids.len()
    }

    /// Number of streams.
    pub fn stream_count(&self) -> u32 {
        self.streams.count
    }

    /// Number of types.
    pub fn type_count(&self) -> u32 {
        self.types.count
    }

    /// Where the bytes lie that [`Tier::may_hold`] reads for this hash; empty if the tier holds no id.
    #[inline]
    pub fn filter_place(&self, hash: u64) -> Range<usize> {
        let word = filter::word_of(hash, self.id_filter.len());
        self.id_filter.place(word..word.saturating_add(1))
    }

    /// Where the bytes lie that [`Tier::find_key`] reads first for this hash.
    #[inline]
    pub fn bucket_place(&self, hash: u64) -> Range<usize> {
        self.key_buckets.place(hash)
    }

    /// Where the bytes lie that it reads next, by what stands at the first; verified or not, nothing but places comes of it.
    #[inline]
    pub fn rows_place(&self, file: &[u8], hash: u64) -> Range<usize> {
        let Ok(rows) = self.key_buckets.row_numbers(&View::new(file, Verified), hash);
        self.keys.place(rows)
    }

    /// Where the key's positions begin, by what stands at the first two; at most a cache line of them, and none if the row
    /// itself holds the only one.
    #[inline]
    pub fn positions_place(&self, file: &[u8], hash: u64) -> Range<usize> {
        let view = View::new(file, Verified);
        let Ok(rows) = self.key_buckets.rows(&view, self.keys, hash);
        let row = rows.get(rows.partition_point(|row| u64_at(row, 0) < hash)).filter(|row| u64_at(*row, 0) == hash);
        row.map_or(0..0, |row| match (u32_at(row, 8), u32_at(row, 12)) {
            (_, 1) => 0..0,
            (start, count) => self.postings.place(start..start.saturating_add(count.min(16))),
        })
    }

    /// Questions to the file this was read from; `touch` is told what is read.
    #[inline]
    pub fn over<'a, T: Touch + Copy>(&'a self, file: &'a [u8], touch: T) -> Tier<'a, T> {
        Tier { layout: self, view: View::new(file, touch) }
    }
}

/// Questions to a tier. Whatever the rows say, nothing outside of the archive is read, and every look-up ends.
#[derive(Clone, Copy, Debug)]
pub struct Tier<'a, T> {
    layout: &'a TierLayout,
    view: View<'a, T>,
}

impl<'a, T: Touch + Copy> Tier<'a, T> {
    /// Positions of the events whose stream, type or tag has this hash. Other names may share the hash: compare the name
    /// in the record. Reads two bucket entries and about eight rows.
    ///
    /// # Errors
    /// Those of `touch`, here and below.
    #[inline]
    pub fn find_key(&self, hash: u64) -> Result<Option<Positions<'a, T>>, T::Error> {
        let rows = self.layout.key_buckets.rows(&self.view, self.layout.keys, hash)?;
        let row = rows.get(rows.partition_point(|row| u64_at(row, 0) < hash));
        Ok(row.filter(|row| u64_at(*row, 0) == hash).map(|row| self.positions(row)))
    }

    /// Hash and positions of the key with this number; they are in order of their hashes.
    ///
    /// # Errors
    /// Those of `touch`.
    #[inline]
    pub fn key(&self, number: u32) -> Result<Option<(u64, Positions<'a, T>)>, T::Error> {
        Ok(self.view.row(self.layout.keys, number)?.map(|row| (u64_at(row, 0), self.positions(row))))
    }

    /// Positions as they were when [`Positions::mark`] was asked; of the same file.
    #[inline]
    pub fn positions_at(&self, mark: PositionsMark) -> Positions<'a, T> {
        Positions::at_mark(self.view, self.layout, mark)
    }

    #[inline]
    fn positions(&self, row: &[u8; 16]) -> Positions<'a, T> {
        let (start, count) = (u32_at(row, 8), u32_at(row, 12));
        Positions::new(self.view, self.layout, start, count)
    }

    /// Whether an event may be here whose id has this hash: *no* is certain, *yes* is wrong for about one in a hundred
    /// absent ids. Reads 8 bytes.
    ///
    /// # Errors
    /// Those of `touch`.
    #[inline]
    pub fn may_hold(&self, hash: u64) -> Result<bool, T::Error> {
        let words = self.layout.id_filter;
        let word = self.view.row(words, filter::word_of(hash, words.len()))?;
        let bits = filter::bits_of(hash);
        Ok(word.is_some_and(|word| u64::from_le_bytes(*word) & bits == bits))
    }

    /// Positions of the events whose id has this hash. Compare the id in the record. Reads two bucket entries and about
    /// eight rows; the filter is not asked.
    ///
    /// # Errors
    /// Those of `touch`.
    #[inline]
    pub fn find_ids(&self, hash: u64) -> Result<Ids<'a>, T::Error> {
        let rows = self.layout.id_buckets.rows(&self.view, self.layout.ids, hash)?;
        Ok(Ids::new(rows, hash))
    }

    /// Hash and position of the id with this number; they are in order of hash and position.
    ///
    /// # Errors
    /// Those of `touch`.
    #[inline]
    pub fn id(&self, number: u32) -> Result<Option<(u64, u32)>, T::Error> {
        Ok(self.view.row(self.layout.ids, number)?.map(ids::from_row))
    }

    /// Streams whose name begins with `prefix`, in order of their bytes; all for an empty one.
    ///
    /// # Errors
    /// Those of `touch`.
    pub fn streams_from(&self, prefix: &[u8]) -> Result<Names<'a, T>, T::Error> {
        Names::at_prefix(self.view, self.layout.streams, prefix)
    }

    /// Types whose name begins with `prefix`, in order of their bytes; all for an empty one.
    ///
    /// # Errors
    /// Those of `touch`.
    pub fn types_from(&self, prefix: &[u8]) -> Result<Names<'a, T>, T::Error> {
        Names::at_prefix(self.view, self.layout.types, prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Purpose;
    use crate::index_file::{FileIdentity, root_of};

    /// What is written by hand is what rkyv means by the root.
    #[test]
    fn the_archive_is_one_of_rkyv() {
        let identity = FileIdentity {
            kind: FileKind::Tier,
            store: [1; 16],
            number: 1,
            generation: 1,
            name_hash_seed: 5,
            first_position: 11,
            last_position: 110,
            final_checksum: 0,
        };
        let parts = TierParts {
            keys: &[(7, &[3]), (8, &[1, 70]), (9, &[0, 1, 2, 64, 99])],
            ids: &[(1 << 40 | 2, 9)],
            streams: &[b"order-1", b"order-2"],
            types: &[b"Placed"],
        };
        let bytes = encode(&identity, &parts).expect("a small tier");
        let header = FileHeader::open(&bytes, FileKind::Tier, root_of(&bytes), Purpose::Write).expect("it opens");
        let root: &TierRoot = checked_root(&bytes, &header.table).expect("an archive");
        assert_eq!((root.first_position.to_native(), root.last_position.to_native()), (11, 110));
        let keys = root.keys.iter().map(|row| (row.hash.to_native(), row.start.to_native(), row.count.to_native()));
        assert_eq!(keys.collect::<Vec<_>>(), [(7, 3, 1), (8, 0, 2), (9, 2, 5 | BITMAP)]);
        let postings: Vec<u32> = root.postings.iter().map(|number| number.to_native()).collect();
        assert_eq!(postings, [1, 70, 7, 0, 1, 8]);
        let ids: Vec<_> = root.ids.iter().map(|row| (row.hash_low.to_native(), row.hash_high.to_native())).collect();
        assert_eq!((ids, root.ids[0].position.to_native()), (vec![(2, 1 << 8)], 9));
        assert_eq!(
            root.id_filter.iter().map(|word| word.to_native()).collect::<Vec<_>>(),
            [filter::bits_of(1 << 40 | 2)]
        );
        assert_eq!(root.stream_names.as_slice(), b"\x00\x07order-1\x06\x012");
        assert_eq!(root.type_names.as_slice(), b"\x00\x06Placed");
        assert_eq!((root.stream_count.to_native(), root.type_count.to_native()), (2, 1));
        assert_eq!((root.key_buckets.len(), root.id_buckets.len()), (2, 2));
    }
}
