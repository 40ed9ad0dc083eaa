//! Where the records of a compacted segment lie, in some two bytes each: the file `segment-N.idx` of a segment that tiers cover.
//!
//! It answers what [`places`](crate::places) answer, but for times, which stand in the batches.

use rkyv::{Archive, Serialize};

use crate::Fault;
use crate::batch::BATCH_HEADER_LEN;
use crate::field::u32_at;
use crate::index_file::{
    ArchiveWriter, FileBuffer, FileBytes, FileHeader, FileIdentity, FileKind, Flat, Section, WriteError, checked_root,
};

/// Records of one group.
pub const GROUP: u32 = 32;
const ROW_LEN: usize = 20;
/// Length of a batch header, in the unit of offsets.
const HEADER_UNITS: u32 = BATCH_HEADER_LEN as u32 / 8;
const RECORD_COUNT_MAX: u64 = u32::MAX as u64;

/// One group of records. Archived as five numbers, 20 bytes. Offsets are divided by 8.
#[derive(Archive, Clone, Copy, Default, Debug)]
struct GroupRow {
    /// Smallest offset of a frame that is noted here.
    base: u32,
    /// Offset of the batch that holds the first record.
    batch: u32,
    /// Bit n: record n is the first of its batch.
    starts: u32,
    /// Bit n: record n is an event.
    events: u32,
    /// Number of the first word of the distances from `base`. Up to the next group's these are as many words as each has bits.
    at: u32,
}

impl GroupRow {
    fn to_bytes(self) -> [u8; ROW_LEN] {
        let mut bytes = [0; ROW_LEN];
        let numbers = [self.base, self.batch, self.starts, self.events, self.at];
        bytes.chunks_exact_mut(4).zip(numbers).for_each(|(bytes, number)| bytes.copy_from_slice(&number.to_le_bytes()));
        bytes
    }

    #[inline]
    fn read(groups: &[u8], group: usize) -> Option<Self> {
        let bytes = groups.get(group * ROW_LEN..group * ROW_LEN + ROW_LEN)?;
        Some(Self {
            base: u32_at(bytes, 0),
            batch: u32_at(bytes, 4),
            starts: u32_at(bytes, 8),
            events: u32_at(bytes, 12),
            at: u32_at(bytes, 16),
        })
    }
}

/// The archive's root, as it is written.
#[derive(Archive, Serialize)]
#[rkyv(archived = PackedRoot)]
struct Sections {
    first_position: u64,
    record_count: u32,
    groups: Section<GroupRow>,
    words: Section<u32>,
}

/// The whole file in memory. `offsets`: for each record the offset of its frame in the segment, divided by 8, and 0 for a control
/// record. `batches`: relative position of the first record and offset / 8 of each, by position.
///
/// # Errors
/// `Order`, `Count` or `Length` if the rows are not those of such a segment.
pub fn encode(
    identity: &FileIdentity,
    offsets: &[u32],
    batches: impl IntoIterator<Item = (u32, u32)>,
) -> Result<FileBytes, Fault> {
    identity.check_for_writing(FileKind::PackedPlaces)?;
    let count = offsets.len() as u64;
    if count != identity.position_count() || count > RECORD_COUNT_MAX {
        return Err(Fault::Count { what: "number of offsets", value: count });
    }
    let (mut rows, mut words) = (Vec::new(), Vec::new());
    let mut batches = batches.into_iter().peekable();
    let mut batch = 0;
    for (group, part) in offsets.chunks(GROUP as usize).enumerate() {
        let first = group as u32 * GROUP;
        let mut row = GroupRow { base: u32::MAX, at: words.len() as u32, ..GroupRow::default() };
        let mut frames = [0; GROUP as usize];
        for (number, offset) in part.iter().enumerate() {
            frames[number] = *offset;
            if let Some((_, at)) = batches.next_if(|(begins, _)| *begins == first + number as u32) {
                batch = at;
                row.starts |= 1 << number;
                // Where its first record stands is known of a control record too.
                frames[number] = at.checked_add(HEADER_UNITS).ok_or(Fault::Order { what: "batches" })?;
                if *offset != 0 && *offset != frames[number] {
                    return Err(Fault::Order { what: "batches" });
                }
            }
            row.events |= u32::from(*offset != 0) << number;
            if number == 0 {
                row.batch = batch;
            }
            if frames[number] != 0 {
                row.base = row.base.min(frames[number]);
            }
        }
        row.base = if row.base == u32::MAX { 0 } else { row.base };
        let distances = frames.map(|frame| frame.saturating_sub(row.base));
        let width = distances.iter().map(|distance| u32::BITS - distance.leading_zeros()).max().unwrap_or(0);
        words.extend(pack(&distances, width));
        rows.push(row);
    }
    if batches.next().is_some() || u32::try_from(words.len()).is_err() {
        return Err(Fault::Order { what: "batches" });
    }
    let mut writer = ArchiveWriter::new(FileBuffer::new());
    let written = (|| {
        let groups = writer.begin::<GroupRow>()?;
        rows.iter().try_for_each(|row| writer.write(&row.to_bytes()))?;
        let groups = writer.end(groups)?;
        let words = writer.section(words.iter().map(|word| word.to_le_bytes()))?;
        let root = Sections { first_position: identity.first_position, record_count: count as u32, groups, words };
        writer.finish(&root, identity)
    })();
    written.map(|(finished, buffer)| buffer.into_file(&finished)).map_err(WriteError::into_fault)
}

/// As many words as each number has bits.
fn pack(numbers: &[u32; GROUP as usize], width: u32) -> Vec<u32> {
    let mut words = vec![0u32; width as usize];
    for (number, value) in numbers.iter().enumerate() {
        let bit = number * width as usize;
        let spread = u64::from(*value) << (bit % 32);
        if width > 0 {
            words[bit / 32] |= spread as u32;
            if spread >> 32 != 0 {
                words[bit / 32 + 1] |= (spread >> 32) as u32;
            }
        }
    }
    words
}

/// Where the rows of a file lie: kept by whoever maps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackedLayout {
    record_count: u32,
    groups: Flat<ROW_LEN>,
    words: Flat<4>,
}

impl PackedLayout {
    /// Reads the root of a file, all of which was verified.
    ///
    /// # Errors
    /// `Structure` or `Identity` if this is no such archive; `Alignment` if `file` does not begin at a multiple of 16.
    pub fn read(file: &[u8], header: &FileHeader) -> Result<Self, Fault> {
        let root: &PackedRoot = checked_root(file, &header.table)?;
        let layout = Self {
            record_count: root.record_count.to_native(),
            groups: Flat::of(file, &root.groups)?,
            words: Flat::of(file, &root.words)?,
        };
        let identity = &header.identity;
        let same = identity.kind == FileKind::PackedPlaces
            && root.first_position.to_native() == identity.first_position
            && u64::from(layout.record_count) == identity.position_count()
            && layout.groups.len() == layout.record_count.div_ceil(GROUP);
        if same { Ok(layout) } else { Err(Fault::Identity { what: "positions of the archive" }) }
    }

    /// Number of records in the segment.
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Where the groups lie in the file.
    pub fn groups(&self) -> std::ops::Range<usize> {
        self.groups.place(0..self.groups.len())
    }

    /// Where the words lie in the file.
    pub fn words(&self) -> std::ops::Range<usize> {
        self.words.place(0..self.words.len())
    }
}

/// Offsets, divided by 8, of the frame of the event with this relative position, and of its batch; `None` for a control record and
/// beyond the end. Whatever the rows say, nothing outside of the two slices is read. A few nanoseconds.
#[inline]
pub fn place(groups: &[u8], words: &[u8], record: u32) -> Option<(u32, u32)> {
    let (group, number) = ((record / GROUP) as usize, record % GROUP);
    let row = GroupRow::read(groups, group)?;
    if row.events >> number & 1 == 0 {
        return None;
    }
    let end = GroupRow::read(groups, group + 1).map_or((words.len() / 4) as u32, |next| next.at);
    let width = end.wrapping_sub(row.at).min(32);
    let frame = |number: u32| row.base.wrapping_add(distance(words, row.at, width, number));
    let starts = row.starts & (u32::MAX >> (GROUP - 1 - number));
    let batch = match starts {
        0 => row.batch,
        _ => frame(GROUP - 1 - starts.leading_zeros()).wrapping_sub(HEADER_UNITS),
    };
    Some((frame(number), batch))
}

#[inline]
fn distance(words: &[u8], at: u32, width: u32, number: u32) -> u32 {
    let bit = number * width;
    let from = (at as usize + (bit / 32) as usize).saturating_mul(4);
    let word = |from: usize| words.get(from..from + 4).map_or(0, |bytes| u32_at(bytes, 0));
    let both = u64::from(word(from)) | u64::from(word(from + 4)) << 32;
    (both >> (bit % 32) & ((1 << width) - 1)) as u32
}

/// Where the group of a record lies among the groups, for whoever asks memory ahead.
#[inline]
pub fn row_of(record: u32) -> usize {
    (record / GROUP) as usize * ROW_LEN
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(count: u64) -> FileIdentity {
        FileIdentity {
            kind: FileKind::PackedPlaces,
            store: [1; 16],
            number: 3,
            generation: 0,
            name_hash_seed: 4,
            first_position: 10,
            last_position: 9 + count,
            final_checksum: 5,
        }
    }

    /// Offsets, batches, and what is to be found.
    type Rows = (Vec<u32>, Vec<(u32, u32)>, Vec<Option<(u32, u32)>>);

    /// Offsets and batches of records of these lengths (in units), a batch ending where told, control records where told.
    fn rows(records: &[(u16, bool, bool)]) -> Rows {
        let (mut offsets, mut batches, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 512u32;
        let mut batch = None;
        for (number, (len, ends, is_control)) in records.iter().enumerate() {
            let begun = *batch.get_or_insert_with(|| {
                batches.push((number as u32, at));
                at += HEADER_UNITS;
                at - HEADER_UNITS
            });
            offsets.push(if *is_control { 0 } else { at });
            places.push((!is_control).then_some((at, begun)));
            at += 3 + u32::from(*len);
            if *ends {
                batch = None;
            }
        }
        (offsets, batches, places)
    }

    proptest! {
        #[test]
        fn every_record_is_found(records in proptest::collection::vec((0..3000u16, any::<bool>(), proptest::bool::weighted(0.1)), 1..300)) {
            let (offsets, batches, places) = rows(&records);
            let file = encode(&identity(records.len() as u64), &offsets, batches).unwrap();
            let header = FileHeader::decode(&file).unwrap();
            header.table.verify(&file).unwrap();
            let layout = PackedLayout::read(&file, &header).unwrap();
            let (groups, words) = (&file[layout.groups()], &file[layout.words()]);
            for (record, wanted) in places.iter().enumerate() {
                prop_assert_eq!(place(groups, words, record as u32), *wanted, "record {}", record);
            }
            prop_assert_eq!(place(groups, words, 32 * 32 * 32), None);
        }

        #[test]
        fn rows_of_any_kind_answer_something(groups in proptest::collection::vec(any::<u8>(), 0..100), words in proptest::collection::vec(any::<u8>(), 0..100), record: u32) {
            let _ = place(&groups, &words, record % 200);
            let _ = place(&groups, &words, record);
        }
    }

    #[test]
    fn rows_that_cannot_be_are_refused() {
        assert!(encode(&identity(3), &[517, 530], [(0, 512)]).is_err());
        assert!(encode(&identity(2), &[517, 530], [(0, 513)]).is_err());
        assert!(encode(&identity(2), &[517, 530], [(0, 512), (2, 600)]).is_err());
        assert!(encode(&FileIdentity { kind: FileKind::Places, ..identity(2) }, &[517, 530], [(0, 512)]).is_err());
        assert!(encode(&identity(2), &[517, 530], [(0, 512)]).is_ok());
    }

    #[test]
    fn the_bytes_are_pinned() {
        let records: Vec<(u16, bool, bool)> = (0..100u16).map(|n| (n * 7 % 50, n % 3 == 0, n % 20 == 4)).collect();
        let (offsets, batches, _) = rows(&records);
        let file = encode(&identity(100), &offsets, batches).unwrap();
        assert_eq!((file.len(), crate::checksum::crc(0, &file)), (4364, 0x79559208));
    }
}
