//! Writing an index as it comes, in the memory of one block: what stands in it need not be in memory beside it.

use rkyv::{Archive, Serialize};

use super::{
    ArchivedIndexRoot, BatchRow, HEADER, INDEX_HEADER_LEN, IdRow, IndexHeader, KeyRow, NameRow, encode_header,
};
use crate::Fault;
use crate::checksum::crc;
use crate::index_file::{ArchiveWriter, Section, Sink, WriteError, none_written};

/// What must be known before an index is written: files get their length when they are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IndexSizes {
    /// Number of records.
    pub records: u64,
    /// Number of batches.
    pub batches: u64,
    /// Number of keys.
    pub keys: u64,
    /// Number of positions of all keys.
    pub postings: u64,
    /// Number of ids.
    pub ids: u64,
    /// Number of streams.
    pub streams: u64,
    /// Number of types.
    pub types: u64,
    /// Length of the names of all streams and types.
    pub names_len: u64,
}

impl IndexSizes {
    /// Length of the whole file.
    pub fn file_len(&self) -> u64 {
        // Longer ones are refused when they are written: no sum of lengths of what is in memory comes near.
        let rows = |at: u64, count: u64, len: u64, align: u64| {
            at.next_multiple_of(align).saturating_add(count.saturating_mul(len))
        };
        let mut at = rows(0, self.records, 4, 4);
        at = rows(at, self.batches, 16, 8);
        at = rows(at, self.keys, 16, 8);
        at = rows(at, self.postings, 4, 4);
        at = rows(at, self.ids, 16, 8);
        at = rows(at, self.streams, 24, 8);
        at = rows(at, self.types, 24, 8);
        at = rows(at, self.names_len, 1, 1);
        at = rows(at, 1, size_of::<ArchivedIndexRoot>() as u64, 8);
        at.saturating_add(INDEX_HEADER_LEN as u64)
    }
}

/// An index of which everything but the header has gone to its [`Sink`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FinishedIndex {
    /// Goes to the beginning of the file, last.
    pub header: Box<[u8; INDEX_HEADER_LEN]>,
    /// Length of the whole file.
    pub len: u64,
}

/// The archive's root, as it is written: the shape of [`IndexRoot`](super::IndexRoot).
#[derive(Archive, Serialize)]
#[rkyv(archived = WrittenRoot)]
struct Sections {
    first_position: u64,
    first_time: u64,
    last_time: u64,
    offsets: Section<u32>,
    batches: Section<BatchRow>,
    keys: Section<KeyRow>,
    postings: Section<u32>,
    ids: Section<IdRow>,
    streams: Section<NameRow>,
    types: Section<NameRow>,
    names: Section<u8>,
}

const _: () = assert!(size_of::<WrittenRoot>() == size_of::<ArchivedIndexRoot>());
const _: () = assert!(align_of::<WrittenRoot>() == align_of::<ArchivedIndexRoot>());

/// Sums up what goes by.
#[derive(Debug)]
struct Summed<S> {
    sink: S,
    len: u64,
    crc: u32,
}

impl<S: Sink> Sink for Summed<S> {
    type Error = S::Error;

    fn take(&mut self, bytes: &[u8]) -> Result<(), S::Error> {
        self.crc = crc(self.crc, bytes);
        self.len += bytes.len() as u64;
        self.sink.take(bytes)
    }
}

/// The parts of the file, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Part {
    Offsets,
    Batches,
    Keys,
    Postings,
    Ids,
    Streams,
    Types,
    Names,
}

/// Writes the file part by part, in the order of its methods; any part may be left empty. The header is the caller's to
/// write, last.
pub struct IndexWriter<S> {
    archive: ArchiveWriter<Summed<S>>,
    header: IndexHeader,
    sections: Sections,
    part: Part,
    postings: u32,
    names: u32,
}

impl<S> std::fmt::Debug for IndexWriter<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexWriter").field("header", &self.header).field("part", &self.part).finish_non_exhaustive()
    }
}

/// `$old` ends and `$new` begins.
macro_rules! next_section {
    ($self:ident, $old:ident, $new:ident) => {{
        let ended = std::mem::replace(&mut $self.sections.$old, none_written());
        $self.sections.$old = $self.archive.end(ended)?;
        $self.sections.$new = $self.archive.begin()?;
    }};
}

impl<S: Sink> IndexWriter<S> {
    /// Of the segment whose first record has this position, and whose first and last batches these times.
    ///
    /// # Errors
    /// The sink's.
    pub fn begin(
        sink: S,
        header: IndexHeader,
        first_position: u64,
        (first_time, last_time): (u64, u64),
    ) -> Result<Self, WriteError<S::Error>> {
        let mut archive = ArchiveWriter::new(Summed { sink, len: 0, crc: 0 });
        let offsets = archive.begin()?;
        let sections = Sections {
            first_position,
            first_time,
            last_time,
            offsets,
            batches: none_written(),
            keys: none_written(),
            postings: none_written(),
            ids: none_written(),
            streams: none_written(),
            types: none_written(),
            names: none_written(),
        };
        Ok(Self { archive, header, sections, part: Part::Offsets, postings: 0, names: 0 })
    }

    #[inline]
    fn at(&mut self, part: Part) -> Result<(), WriteError<S::Error>> {
        if self.part == part { Ok(()) } else { self.go_on_to(part) }
    }

    #[cold]
    fn go_on_to(&mut self, part: Part) -> Result<(), WriteError<S::Error>> {
        if part < self.part {
            return Err(Fault::Order { what: "parts of an index" }.into());
        }
        while self.part < part {
            self.part = match self.part {
                Part::Offsets => {
                    next_section!(self, offsets, batches);
                    Part::Batches
                }
                Part::Batches => {
                    next_section!(self, batches, keys);
                    Part::Keys
                }
                Part::Keys => {
                    next_section!(self, keys, postings);
                    Part::Postings
                }
                Part::Postings => {
                    next_section!(self, postings, ids);
                    Part::Ids
                }
                Part::Ids => {
                    next_section!(self, ids, streams);
                    Part::Streams
                }
                Part::Streams => {
                    next_section!(self, streams, types);
                    Part::Types
                }
                Part::Types => {
                    next_section!(self, types, names);
                    Part::Names
                }
                Part::Names => break,
            };
        }
        Ok(())
    }

    /// Where the frame of the next record stands in the segment, divided by 8; 0 for a control record.
    ///
    /// # Errors
    /// `Order` if a later part has begun; `Length` if the file becomes too long; or the sink's. So of all parts.
    #[inline]
    pub fn offset(&mut self, offset: u32) -> Result<(), WriteError<S::Error>> {
        self.at(Part::Offsets)?;
        self.archive.write(&offset.to_le_bytes())
    }

    /// The next batch.
    ///
    /// # Errors
    /// As [`IndexWriter::offset`].
    #[inline]
    pub fn batch(&mut self, row: BatchRow) -> Result<(), WriteError<S::Error>> {
        self.at(Part::Batches)?;
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&row.first.to_le_bytes());
        bytes[4..8].copy_from_slice(&row.offset.to_le_bytes());
        bytes[8..].copy_from_slice(&row.recorded_at.to_le_bytes());
        self.archive.write(&bytes)
    }

    /// The next key, by its hash, and how many positions it has; they follow in the same order.
    ///
    /// # Errors
    /// As [`IndexWriter::offset`]; `Count` if all keys have more positions than 32 bits count.
    #[inline]
    pub fn key(&mut self, hash: u64, count: u32) -> Result<(), WriteError<S::Error>> {
        self.at(Part::Keys)?;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&hash.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.postings.to_le_bytes());
        bytes[12..].copy_from_slice(&count.to_le_bytes());
        let postings = self.postings.checked_add(count);
        self.postings = postings.ok_or(Fault::Count { what: "positions of an index", value: 1 << 32 })?;
        self.archive.write(&bytes)
    }

    /// The next position.
    ///
    /// # Errors
    /// As [`IndexWriter::offset`].
    #[inline]
    pub fn posting(&mut self, position: u32) -> Result<(), WriteError<S::Error>> {
        self.at(Part::Postings)?;
        self.archive.write(&position.to_le_bytes())
    }

    /// The next id, by its hash and position.
    ///
    /// # Errors
    /// As [`IndexWriter::offset`].
    #[inline]
    pub fn id(&mut self, hash: u64, position: u32) -> Result<(), WriteError<S::Error>> {
        self.at(Part::Ids)?;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&hash.to_le_bytes());
        bytes[8..12].copy_from_slice(&position.to_le_bytes());
        self.archive.write(&bytes)
    }

    /// The next stream by its name, which follows.
    ///
    /// # Errors
    /// As [`IndexWriter::offset`].
    pub fn stream(
        &mut self,
        name_len: usize,
        last_revision: u64,
        (first, last): (u32, u32),
    ) -> Result<(), WriteError<S::Error>> {
        self.at(Part::Streams)?;
        self.named(name_len, last_revision, first, last)
    }

    /// The next type by its name, which follows behind those of the streams.
    ///
    /// # Errors
    /// As [`IndexWriter::offset`].
    pub fn type_name(&mut self, name_len: usize, (first, last): (u32, u32)) -> Result<(), WriteError<S::Error>> {
        self.at(Part::Types)?;
        self.named(name_len, 0, first, last)
    }

    fn named(
        &mut self,
        name_len: usize,
        last_revision: u64,
        first: u32,
        last: u32,
    ) -> Result<(), WriteError<S::Error>> {
        let len = u32::try_from(name_len).ok();
        let end = len.and_then(|len| self.names.checked_add(len));
        let (Some(len), Some(end)) = (len, end) else {
            return Err(Fault::Length { what: "names of an index", value: 1 << 32 }.into());
        };
        let mut bytes = [0; 24];
        bytes[..4].copy_from_slice(&self.names.to_le_bytes());
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        bytes[8..16].copy_from_slice(&last_revision.to_le_bytes());
        bytes[16..20].copy_from_slice(&first.to_le_bytes());
        bytes[20..].copy_from_slice(&last.to_le_bytes());
        self.names = end;
        self.archive.write(&bytes)
    }

    /// The next name: those of all streams, then those of all types.
    ///
    /// # Errors
    /// As [`IndexWriter::offset`].
    pub fn name(&mut self, name: &[u8]) -> Result<(), WriteError<S::Error>> {
        self.at(Part::Names)?;
        self.archive.write(name)
    }

    /// All of it was given.
    ///
    /// # Errors
    /// `Count` if there are not as many positions, or not as long names, as was said; `Length`; or the sink's.
    pub fn finish(mut self) -> Result<(FinishedIndex, S), WriteError<S::Error>> {
        self.go_on_to(Part::Names)?;
        let names = std::mem::replace(&mut self.sections.names, none_written());
        self.sections.names = self.archive.end(names)?;
        let (postings, names) = (self.sections.postings.len(), self.sections.names.len());
        if postings != u64::from(self.postings) {
            return Err(Fault::Count { what: "positions of an index", value: postings }.into());
        }
        if names != u64::from(self.names) {
            return Err(Fault::Length { what: "names of an index", value: names }.into());
        }
        let Summed { sink, len, crc } = self.archive.finish_without_table(&self.sections)?;
        let mut bytes = Box::new([0; INDEX_HEADER_LEN]);
        HEADER.begin(&mut bytes[..]);
        encode_header(&self.header, len, crc, &mut bytes[..]);
        Ok((FinishedIndex { header: bytes, len: INDEX_HEADER_LEN as u64 + len }, sink))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{IndexRoot, encode, open};
    use super::*;
    use crate::index::IndexBytes;

    struct Bytes(IndexBytes);

    impl Sink for Bytes {
        type Error = std::convert::Infallible;

        fn take(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn header() -> IndexHeader {
        IndexHeader { store: [7; 16], segment: 3, generation: 0, final_checksum: 5, name_hash_seed: 9 }
    }

    fn root(records: u32) -> IndexRoot {
        let name = |n: u32| NameRow { offset: n * 2, len: 2, last_revision: n.into(), first: n, last: n + 1 };
        let names = |range: std::ops::Range<u32>| range.map(name).collect::<Vec<_>>();
        IndexRoot {
            first_position: 4,
            first_time: 5,
            last_time: 6,
            offsets: (0..records).collect(),
            batches: (0..records).map(|n| BatchRow { first: n, offset: n * 3, recorded_at: n.into() }).collect(),
            keys: (0..records / 2).map(|n| KeyRow { hash: u64::from(n) << 40, start: n * 2, count: 2 }).collect(),
            postings: (0..records / 2 * 2).collect(),
            ids: (0..records).map(|n| IdRow { hash: u64::from(n) << 33, position: n, reserved: 0 }).collect(),
            streams: names(0..records / 3),
            types: names(records / 3..records / 3 + 2)
                .into_iter()
                .map(|row| NameRow { last_revision: 0, ..row })
                .collect(),
            names: vec![b'n'; (records / 3 + 2) as usize * 2],
        }
    }

    fn written(root: &IndexRoot) -> (IndexBytes, u64) {
        let mut bytes = Bytes(IndexBytes::new());
        bytes.0.resize(INDEX_HEADER_LEN, 0);
        let times = (root.first_time, root.last_time);
        let mut writer = IndexWriter::begin(&mut bytes, header(), root.first_position, times).expect("room");
        let all = || -> Result<_, WriteError<std::convert::Infallible>> {
            root.offsets.iter().try_for_each(|offset| writer.offset(*offset))?;
            root.batches.iter().try_for_each(|batch| writer.batch(*batch))?;
            root.keys.iter().try_for_each(|key| writer.key(key.hash, key.count))?;
            root.postings.iter().try_for_each(|position| writer.posting(*position))?;
            root.ids.iter().try_for_each(|id| writer.id(id.hash, id.position))?;
            root.streams
                .iter()
                .try_for_each(|row| writer.stream(row.len as usize, row.last_revision, (row.first, row.last)))?;
            root.types.iter().try_for_each(|row| writer.type_name(row.len as usize, (row.first, row.last)))?;
            root.names.chunks(2).try_for_each(|name| writer.name(name))?;
            Ok(writer.finish()?.0)
        };
        let finished = all().map_err(WriteError::into_fault).expect("a sound index");
        bytes.0[..INDEX_HEADER_LEN].copy_from_slice(&finished.header[..]);
        (bytes.0, finished.len)
    }

    #[test]
    fn it_is_what_was_encoded_at_once() {
        for records in [0, 1, 2, 3, 50, 5000] {
            let root = root(records);
            let (bytes, len) = written(&root);
            let sizes = IndexSizes {
                records: root.offsets.len() as u64,
                batches: root.batches.len() as u64,
                keys: root.keys.len() as u64,
                postings: root.postings.len() as u64,
                ids: root.ids.len() as u64,
                streams: root.streams.len() as u64,
                types: root.types.len() as u64,
                names_len: root.names.len() as u64,
            };
            assert_eq!((bytes.len() as u64, sizes.file_len()), (len, len), "{records} records");
            assert_eq!(open(&bytes).expect("sound").0, header());
            let at_once = encode(&header(), &root).expect("short");
            assert!(bytes[..] == at_once[..], "{records} records");
        }
    }

    #[test]
    fn what_was_announced_must_follow() {
        let begin = |bytes| IndexWriter::begin(bytes, header(), 1, (0, 0)).expect("room");
        let mut bytes = Bytes(IndexBytes::new());
        let mut writer = begin(&mut bytes);
        writer.key(1, 2).expect("room");
        writer.posting(1).expect("room");
        assert_eq!(writer.key(2, 1), Err(Fault::Order { what: "parts of an index" }.into()));
        assert!(matches!(writer.finish(), Err(WriteError::Format(Fault::Count { value: 1, .. }))));
        let mut bytes = Bytes(IndexBytes::new());
        let mut writer = begin(&mut bytes);
        writer.stream(3, 1, (0, 0)).expect("room");
        assert!(matches!(writer.finish(), Err(WriteError::Format(Fault::Length { value: 0, .. }))));
    }
}
