//! How long a tier's file will be, before it is written: files get their length when they are made.

use rkyv::Archived;

use super::names::NameEncoder;
use super::writer::place_of;
use super::{PackedId, PackedKey, Sections, TierSizes, filter};
use crate::Fault;
use crate::index_file::{CheckTable, table_len};

/// Is told what will be written, in the same order within each kind, and answers the length of the file.
///
/// Takes a quarter of a byte of memory a name, and what it keeps of names.
#[derive(Debug)]
pub struct TierMeasure {
    position_count: u32,
    keys: u64,
    postings: u64,
    ids: u64,
    streams: NameMeasure,
    types: NameMeasure,
}

#[derive(Debug)]
struct NameMeasure {
    encoder: NameEncoder,
    len: u64,
    /// As they will be written, while they are not longer than `most`.
    kept: Option<Vec<u8>>,
    most: usize,
}

/// Names of one kind as they are written, all of them.
#[derive(Debug)]
pub struct EncodedNames {
    pub(super) encoder: NameEncoder,
    pub(super) bytes: Vec<u8>,
}

impl NameMeasure {
    fn new(most: usize) -> Self {
        Self { encoder: NameEncoder::default(), len: 0, kept: Some(Vec::new()), most }
    }

    fn push(&mut self, name: &[u8]) -> Result<(), Fault> {
        let shared = self.encoder.push(name)?;
        self.len += 2 + (name.len() - shared) as u64;
        match &mut self.kept {
            Some(kept) if self.len <= self.most as u64 => {
                kept.extend_from_slice(&[shared as u8, (name.len() - shared) as u8]);
                kept.extend_from_slice(&name[shared..]);
            }
            kept => *kept = None,
        }
        Ok(())
    }

    fn into_encoded(self) -> Option<EncodedNames> {
        let encoder = self.encoder;
        self.kept.map(|bytes| EncodedNames { encoder, bytes })
    }
}

impl TierMeasure {
    /// Of a tier of so many positions. Names that take at most `names_kept` bytes in the file, of either kind, are kept for
    /// [`TierMeasure::into_names`].
    pub fn new(position_count: u32, names_kept: usize) -> Self {
        Self {
            position_count,
            keys: 0,
            postings: 0,
            ids: 0,
            streams: NameMeasure::new(names_kept),
            types: NameMeasure::new(names_kept),
        }
    }

    /// The next key by hash has so many positions.
    #[inline]
    pub fn key(&mut self, count: u32) {
        let (start, len, _) = place_of(self.postings, count, self.position_count);
        self.keys += 1;
        self.postings = start + len;
    }

    /// So many more ids.
    pub fn ids(&mut self, count: u32) {
        self.ids += u64::from(count);
    }

    /// The next stream by the bytes of its name.
    ///
    /// # Errors
    /// `Order` or `Length`, as writing it would answer.
    pub fn stream(&mut self, name: &[u8]) -> Result<(), Fault> {
        self.streams.push(name)
    }

    /// The next type by the bytes of its name.
    ///
    /// # Errors
    /// As for [`TierMeasure::stream`].
    pub fn type_name(&mut self, name: &[u8]) -> Result<(), Fault> {
        self.types.push(name)
    }

    /// What [`TierWriter::begin`](super::TierWriter::begin) is to be told.
    pub fn sizes(&self) -> TierSizes {
        TierSizes { keys_at_most: self.keys, ids_at_most: self.ids }
    }

    /// All streams and all types, for [`TierWriter::streams`](super::TierWriter::streams) and
    /// [`TierWriter::types`](super::TierWriter::types); `None` where they were too long to be kept.
    pub fn into_names(self) -> [Option<EncodedNames>; 2] {
        [self.streams.into_encoded(), self.types.into_encoded()]
    }

    /// Length of the file that is written of just this.
    ///
    /// # Errors
    /// `Length` if it would be too long, `Count` if there are too many rows.
    pub fn file_len(&self) -> Result<u64, Fault> {
        let rows_max = u64::from(u32::MAX);
        if self.keys.max(self.ids).max(self.postings) > rows_max {
            return Err(Fault::Count { what: "number of rows", value: self.keys.max(self.ids).max(self.postings) });
        }
        let mut pos = 0u64;
        let mut section = |align: usize, len: u64| pos = pos.next_multiple_of(align as u64) + len;
        section(align_of::<Archived<PackedKey>>(), self.keys * size_of::<Archived<PackedKey>>() as u64);
        section(4, table_len(self.keys) * 4);
        section(8, self.postings * 4);
        section(align_of::<Archived<PackedId>>(), self.ids * size_of::<Archived<PackedId>>() as u64);
        section(4, table_len(self.ids) * 4);
        section(8, u64::from(filter::word_count(self.ids as u32)) * 8);
        section(1, self.streams.len);
        section(4, self.streams.encoder.restarts.len() as u64 * 4);
        section(1, self.types.len);
        section(4, self.types.encoder.restarts.len() as u64 * 4);
        section(align_of::<Archived<Sections>>(), size_of::<Archived<Sections>>() as u64);
        CheckTable::new(pos, 0).map(|table| table.file_len())
    }
}
