//! Where each stream ends: the file `streams-N.idx`, as of a position.

use std::ops::Range;

use rkyv::{Archive, Serialize};

use crate::Fault;
use crate::field::{u32_at, u64_at};
use crate::index_file::{
    ArchiveWriter, BucketBuilder, Buckets, FileBuffer, FileBytes, FileHeader, FileIdentity, FileKind, FinishedFile,
    Flat, Section, Sink, Touch, View, WriteError, checked_root,
};

/// Largest position and revision in a directory: 48 bits.
pub const DIRECTORY_NUMBER_MAX: u64 = (1 << 48) - 1;
/// Length of a row in a file.
const ROW_LEN: usize = 24;

/// A row as it is archived, for the shape of it.
#[derive(Archive, Debug)]
struct PackedRow {
    hash: u64,
    check: u32,
    revision: [u8; 6],
    position: [u8; 6],
}

/// The archive's root, as it is written.
#[derive(Archive, Serialize)]
#[rkyv(archived = DirectoryRoot)]
struct Sections {
    coverage: u64,
    rows: Section<PackedRow>,
    buckets: Section<u32>,
}

/// One stream: what its name hashes to, and its last event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryRow {
    /// Hash of kind and name.
    pub hash: u64,
    /// Thirty-two more bits of hash.
    pub check: u32,
    /// Revision of its last event, at most [`DIRECTORY_NUMBER_MAX`].
    pub revision: u64,
    /// Position of its last event, at most [`DIRECTORY_NUMBER_MAX`].
    pub position: u64,
}

impl DirectoryRow {
    fn to_bytes(self) -> [u8; ROW_LEN] {
        let mut bytes = [0; ROW_LEN];
        let (hash, rest) = bytes.split_at_mut(8);
        hash.copy_from_slice(&self.hash.to_le_bytes());
        let numbers = u128::from(self.check) | u128::from(self.revision) << 32 | u128::from(self.position) << 80;
        rest.copy_from_slice(&numbers.to_le_bytes());
        bytes
    }

    #[inline]
    fn from_bytes(bytes: &[u8; ROW_LEN]) -> Self {
        Self {
            hash: u64_at(bytes, 0),
            check: u32_at(bytes, 8),
            revision: u64_at(bytes, 12) & DIRECTORY_NUMBER_MAX,
            position: u64_at(bytes, 16) >> 16,
        }
    }
}

/// Writes the file: rows by hash, then check, as they come. The header's last position is the coverage. Takes half a
/// byte of memory for each of `rows_at_most`. The header is the caller's to write.
#[derive(Debug)]
pub struct DirectoryWriter<S> {
    writer: ArchiveWriter<S>,
    section: Section<PackedRow>,
    buckets: BucketBuilder,
    last: Option<(u64, u32)>,
    identity: FileIdentity,
}

impl<S: Sink> DirectoryWriter<S> {
    /// Of at most about this many rows; see the caution on the number at
    /// [`TierSizes::keys_at_most`](crate::tier::TierSizes::keys_at_most).
    ///
    /// # Errors
    /// If `identity` is none of a directory.
    pub fn begin(sink: S, identity: FileIdentity, rows_at_most: u64) -> Result<Self, WriteError<S::Error>> {
        identity.check_for_writing(FileKind::Directory)?;
        let mut writer = ArchiveWriter::new(sink);
        let section = writer.begin()?;
        Ok(Self { writer, section, buckets: BucketBuilder::new(rows_at_most), last: None, identity })
    }

    /// The next row.
    ///
    /// # Errors
    /// `Order` if it is not larger than the one before by hash and check; `Count` if a number does not fit or the
    /// position lies beyond the coverage; `Length` if the file becomes too long; or the sink's.
    pub fn row(&mut self, row: DirectoryRow) -> Result<(), WriteError<S::Error>> {
        if self.last.replace((row.hash, row.check)).is_some_and(|last| last >= (row.hash, row.check)) {
            return Err(Fault::Order { what: "streams of a directory" }.into());
        }
        if row.revision > DIRECTORY_NUMBER_MAX {
            return Err(Fault::Count { what: "revision in a directory", value: row.revision }.into());
        }
        if row.position > self.identity.last_position.min(DIRECTORY_NUMBER_MAX) {
            return Err(Fault::Count { what: "position in a directory", value: row.position }.into());
        }
        self.buckets.push(row.hash)?;
        self.writer.write(&row.to_bytes())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// `Length` if it would be too long; or the sink's.
    pub fn finish(mut self) -> Result<(FinishedFile, S), WriteError<S::Error>> {
        let rows = self.writer.end(self.section)?;
        let buckets = self.writer.section(self.buckets.finish().map(u32::to_le_bytes))?;
        self.writer.finish(&Sections { coverage: self.identity.last_position, rows, buckets }, &self.identity)
    }
}

/// The whole file in memory.
///
/// # Errors
/// As [`DirectoryWriter::row`].
pub fn encode(identity: &FileIdentity, rows: &[DirectoryRow]) -> Result<FileBytes, Fault> {
    let encode = || {
        let mut writer = DirectoryWriter::begin(FileBuffer::new(), identity.clone(), rows.len() as u64)?;
        rows.iter().try_for_each(|row| writer.row(*row))?;
        writer.finish()
    };
    encode().map(|(finished, buffer)| buffer.into_file(&finished)).map_err(WriteError::into_fault)
}

/// Where the rows of a file lie: kept by whoever maps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryLayout {
    coverage: u64,
    rows: Flat<ROW_LEN>,
    buckets: Buckets,
}

impl DirectoryLayout {
    /// Where the archive's root lies in the file: what [`DirectoryLayout::read`] reads.
    pub fn root(header: &FileHeader) -> Range<usize> {
        let end = header.table.archive().end;
        end.saturating_sub(size_of::<DirectoryRoot>()).max(header.table.archive().start)..end
    }

    /// Reads the root of a file whose header was opened and whose bytes at [`DirectoryLayout::root`] were verified.
    /// Tens of nanoseconds, whatever the length of the file.
    ///
    /// # Errors
    /// `Structure` or `Identity` if this is no such archive; `Alignment` if `file` does not begin at a multiple of 16.
    pub fn read(file: &[u8], header: &FileHeader) -> Result<Self, Fault> {
        let root: &DirectoryRoot = checked_root(file, &header.table)?;
        let layout = Self {
            coverage: root.coverage.to_native(),
            rows: Flat::of(file, &root.rows)?,
            buckets: Buckets::of(Flat::of(file, &root.buckets)?)?,
        };
        let identity = &header.identity;
        let same = identity.kind == FileKind::Directory && layout.coverage == identity.last_position;
        if same { Ok(layout) } else { Err(Fault::Identity { what: "coverage of the archive" }) }
    }

    /// The position as of which the directory holds.
    pub fn coverage(&self) -> u64 {
        self.coverage
    }

    /// Number of streams.
    pub fn row_count(&self) -> u32 {
        self.rows.len()
    }

    /// Questions to the file this was read from; `touch` is told what is read.
    #[inline]
    pub fn over<'a, T: Touch>(&'a self, file: &'a [u8], touch: T) -> Directory<'a, T> {
        Directory { layout: self, view: View::new(file, touch) }
    }
}

/// Questions to a directory. Whatever the rows say, nothing outside of the archive is read.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a, T> {
    layout: &'a DirectoryLayout,
    view: View<'a, T>,
}

impl<T: Touch> Directory<'_, T> {
    /// The stream with this hash and these further bits. Reads two bucket entries and about eight rows.
    ///
    /// # Errors
    /// Those of `touch`.
    #[inline]
    pub fn find(&self, hash: u64, check: u32) -> Result<Option<DirectoryRow>, T::Error> {
        let rows = self.layout.buckets.rows(&self.view, self.layout.rows, hash)?;
        let at = rows.partition_point(|row| (u64_at(row, 0), u32_at(row, 8)) < (hash, check));
        let row = rows.get(at).map(DirectoryRow::from_bytes);
        Ok(row.filter(|row| row.hash == hash && row.check == check))
    }

    /// The row with this number; they are in order of hash and check.
    ///
    /// # Errors
    /// Those of `touch`.
    #[inline]
    pub fn row(&self, number: u32) -> Result<Option<DirectoryRow>, T::Error> {
        Ok(self.view.row(self.layout.rows, number)?.map(DirectoryRow::from_bytes))
    }
}
