//! Where the records of one segment lie: the file `segment-N.idx`, made when the segment is sealed.

use rkyv::{Archive, Serialize};

use crate::Fault;
use crate::field::{u32_at, u64_at};
use crate::index_file::{
    ArchiveWriter, FileBuffer, FileBytes, FileHeader, FileIdentity, FileKind, FinishedFile, Flat, Section, Sink, Touch,
    View, WriteError, checked_root,
};

/// Most records of one segment.
const RECORD_COUNT_MAX: u64 = u32::MAX as u64;

/// One batch. Archived as its three numbers, 16 bytes.
#[derive(Archive, Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchRow {
    /// Relative position of its first record.
    pub first: u32,
    /// Offset of its header in the segment, divided by 8.
    pub offset: u32,
    /// Its `recorded_at`.
    pub recorded_at: u64,
}

impl BatchRow {
    fn to_bytes(self) -> [u8; 16] {
        let low = u64::from(self.first) | u64::from(self.offset) << 32;
        (u128::from(low) | u128::from(self.recorded_at) << 64).to_le_bytes()
    }

    fn from_bytes(bytes: &[u8; 16]) -> Self {
        Self { first: u32_at(bytes, 0), offset: u32_at(bytes, 4), recorded_at: u64_at(bytes, 8) }
    }
}

/// The archive's root, as it is written.
#[derive(Archive, Serialize)]
#[rkyv(archived = PlacesRoot)]
struct Sections {
    first_position: u64,
    offsets: Section<u32>,
    batches: Section<BatchRow>,
}

/// Writes the file. `offsets`: for each record the offset of its frame in the segment, divided by 8, and 0 for a control
/// record. `batches`: by position. The header is the caller's to write.
///
/// # Errors
/// `Order` or `Count` if the rows are not those of such a segment, `Length` if there are too many; or the sink's.
pub fn write<S: Sink>(
    sink: S,
    identity: &FileIdentity,
    offsets: impl IntoIterator<Item = u32>,
    batches: impl IntoIterator<Item = BatchRow>,
) -> Result<(FinishedFile, S), WriteError<S::Error>> {
    identity.check_for_writing(FileKind::Places)?;
    let mut writer = ArchiveWriter::new(sink);
    let mut count = 0u64;
    let counted = offsets.into_iter().inspect(|_| count += 1).map(u32::to_le_bytes);
    let offsets = writer.section(counted)?;
    if count != identity.position_count() || count > RECORD_COUNT_MAX {
        return Err(Fault::Count { what: "number of offsets", value: count }.into());
    }
    let section = writer.begin::<BatchRow>()?;
    let mut before: Option<BatchRow> = None;
    for row in batches {
        let follows = before.is_none_or(|before| row.first > before.first && row.recorded_at >= before.recorded_at);
        if !follows || u64::from(row.first) >= count {
            return Err(Fault::Order { what: "batches" }.into());
        }
        before = Some(row);
        writer.write(&row.to_bytes())?;
    }
    let batches = writer.end(section)?;
    writer.finish(&Sections { first_position: identity.first_position, offsets, batches }, identity)
}

/// The whole file in memory.
///
/// # Errors
/// As [`write()`].
pub fn encode(
    identity: &FileIdentity,
    offsets: impl IntoIterator<Item = u32>,
    batches: impl IntoIterator<Item = BatchRow>,
) -> Result<FileBytes, Fault> {
    let written = write(FileBuffer::new(), identity, offsets, batches);
    written.map(|(finished, buffer)| buffer.into_file(&finished)).map_err(WriteError::into_fault)
}

/// Where the rows of a file lie: kept by whoever maps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlacesLayout {
    first_position: u64,
    offsets: Flat<4>,
    batches: Flat<16>,
}

impl PlacesLayout {
    /// Where the archive's root lies in the file: what [`PlacesLayout::read`] reads.
    pub fn root(header: &FileHeader) -> std::ops::Range<usize> {
        let end = header.table.archive().end;
        end.saturating_sub(size_of::<PlacesRoot>()).max(header.table.archive().start)..end
    }

    /// Reads the root of a file whose header was opened and whose bytes at [`PlacesLayout::root`] were verified.
    /// Tens of nanoseconds, whatever the length of the file.
    ///
    /// # Errors
    /// `Structure` or `Identity` if this is no such archive; `Alignment` if `file` does not begin at a multiple of 16.
    pub fn read(file: &[u8], header: &FileHeader) -> Result<Self, Fault> {
        let root: &PlacesRoot = checked_root(file, &header.table)?;
        let layout = Self {
            first_position: root.first_position.to_native(),
            offsets: Flat::of(file, &root.offsets)?,
            batches: Flat::of(file, &root.batches)?,
        };
        let identity = &header.identity;
        let same = identity.kind == FileKind::Places
            && layout.first_position == identity.first_position
            && u64::from(layout.offsets.len()) == identity.position_count();
        if same { Ok(layout) } else { Err(Fault::Identity { what: "positions of the archive" }) }
    }

    /// Position of the segment's first record; all others are relative to it.
    pub fn first_position(&self) -> u64 {
        self.first_position
    }

    /// Number of records in the segment.
    pub fn record_count(&self) -> u32 {
        self.offsets.len()
    }

    /// Number of batches in the segment.
    pub fn batch_count(&self) -> u32 {
        self.batches.len()
    }

    /// Where the offsets lie in the file: u32 each, one for each record.
    pub fn offsets(&self) -> std::ops::Range<usize> {
        self.offsets.place(0..self.offsets.len())
    }

    /// Where the batches lie in the file, 16 bytes each.
    pub fn batches(&self) -> std::ops::Range<usize> {
        self.batches.place(0..self.batches.len())
    }

    /// Questions to the file this was read from; `touch` is told what is read.
    #[inline]
    pub fn over<'a, T: Touch>(&'a self, file: &'a [u8], touch: T) -> Places<'a, T> {
        Places { layout: self, view: View::new(file, touch) }
    }
}

/// Questions to the places of a segment. Whatever the rows say, nothing outside of the archive is read.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a, T> {
    layout: &'a PlacesLayout,
    view: View<'a, T>,
}

impl<T: Touch> Places<'_, T> {
    /// Offset in the segment of the frame of the event at this relative position; `None` for a control record and
    /// beyond the end. Reads 4 bytes.
    ///
    /// # Errors
    /// Those of `touch`, here and below.
    #[inline]
    pub fn offset(&self, position: u32) -> Result<Option<u64>, T::Error> {
        let row = self.view.row(self.layout.offsets, position)?;
        Ok(row.map(|row| u64::from(u32::from_le_bytes(*row)) * 8).filter(|offset| *offset != 0))
    }

    /// The batch with this number.
    ///
    /// # Errors
    /// Those of `touch`.
    pub fn batch(&self, number: u32) -> Result<Option<BatchRow>, T::Error> {
        Ok(self.view.row(self.layout.batches, number)?.map(BatchRow::from_bytes))
    }

    /// Number of the batch that holds this relative position. Binary search over the batches.
    ///
    /// # Errors
    /// Those of `touch`.
    pub fn batch_of(&self, position: u32) -> Result<Option<u32>, T::Error> {
        if position >= self.layout.record_count() {
            return Ok(None);
        }
        let after = self.view.partition_point(self.layout.batches, |row| u32_at(row, 0) > position)?;
        Ok(after.checked_sub(1))
    }

    /// Number of the first batch recorded at `time` or later. Binary search over the batches.
    ///
    /// # Errors
    /// Those of `touch`.
    pub fn batch_at_time(&self, time: u64) -> Result<Option<u32>, T::Error> {
        let at = self.view.partition_point(self.layout.batches, |row| u64_at(row, 8) >= time)?;
        Ok(Some(at).filter(|at| *at < self.layout.batch_count()))
    }

    /// Relative position of the first record recorded at `time` or later.
    ///
    /// # Errors
    /// Those of `touch`.
    pub fn first_at_time(&self, time: u64) -> Result<Option<u32>, T::Error> {
        match self.batch_at_time(time)? {
            Some(number) => Ok(self.batch(number)?.map(|batch| batch.first)),
            None => Ok(None),
        }
    }
}
