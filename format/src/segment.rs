//! Segment header, end mark, and the checksum that links one segment to the next.

use crate::checksum::{Identity, Seed, crc};
use crate::field::{
    array_at, check_known, check_reserved, is_zero, number_at, numbered_at, put, u8_at, u32_at, u64_at,
};
use crate::header::{Header, Purpose, Reach, check_crc, check_flags};
use crate::{Fault, NUMBER_MAX};

/// Length of a segment's header.
pub const SEGMENT_HEADER_LEN: usize = 4096;
/// Length of an end mark.
pub const END_MARK_LEN: usize = 128;
/// Where a batch header's kind would stand: this value says that it is an end mark.
pub const END_MARK_KIND: u8 = 0xE1;
/// Segment lengths and bases are multiples of this.
pub const PAGE_LEN: u64 = 4096;

const WHAT: &str = "segment header";
const HEADER: Header =
    Header { what: WHAT, magic: *b"ANNALSEG", len: SEGMENT_HEADER_LEN, reach: Reach::Header, known_write: 0 };
/// So many zero bytes at the beginning say that the header was never written.
const UNWRITTEN_LEN: usize = 64;
const COMMIT_ALIGNMENT: u32 = 8;

/// How a segment's records are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum SegmentKind {
    /// As they were appended.
    Live,
    /// In a container (`crate::compacted`): the same bytes, compressed, without what was removed. Only of a manifest's
    /// entry; no segment header says so.
    Compacted,
}

impl SegmentKind {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Live => 1,
            Self::Compacted => 2,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Result<Self, Fault> {
        match byte {
            1 => Ok(Self::Live),
            2 => Ok(Self::Compacted),
            _ => Err(Fault::Unsupported { what: "segment kind", value: byte.into() }),
        }
    }
}

/// The segment before, by number and by content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its number.
    pub number: u64,
    /// Its final checksum.
    pub final_checksum: u32,
}

/// First 4,096 bytes of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Store, writer and number.
    pub identity: Identity,
    /// 0 for a live segment.
    pub generation: u64,
    /// Manifest generation under which the segment was begun.
    pub manifest_generation: u64,
    /// Length of the file in bytes, a multiple of 4,096.
    pub segment_len: u64,
    /// Log offset of the file's first byte, a multiple of 4,096.
    pub base: u64,
    /// Position of the first record to be written here.
    pub first_position: u64,
    /// The segment before; `None` for a store's first.
    pub previous: Option<Link>,
    /// Nanoseconds since 1970 UTC.
    pub created_at: u64,
    /// Version of the library that made the file: `major << 16 | minor << 8 | patch`.
    pub written_by: u32,
    /// Layout of the records.
    pub kind: SegmentKind,
}

impl SegmentHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        HEADER.begin(&mut bytes);
        put(&mut bytes, 32, self.written_by.to_le_bytes());
        bytes[36] = self.kind.to_byte();
        bytes[37] = 1;
        put(&mut bytes, 40, self.identity.store);
        put(&mut bytes, 56, self.identity.incarnation);
        put(&mut bytes, 72, self.identity.segment.to_le_bytes());
        put(&mut bytes, 80, self.generation.to_le_bytes());
        put(&mut bytes, 88, self.manifest_generation.to_le_bytes());
        put(&mut bytes, 96, self.segment_len.to_le_bytes());
        put(&mut bytes, 104, self.base.to_le_bytes());
        put(&mut bytes, 112, self.first_position.to_le_bytes());
        if let Some(previous) = &self.previous {
            put(&mut bytes, 120, previous.number.to_le_bytes());
            put(&mut bytes, 128, previous.final_checksum.to_le_bytes());
        }
        put(&mut bytes, 132, COMMIT_ALIGNMENT.to_le_bytes());
        put(&mut bytes, 152, self.created_at.to_le_bytes());
        HEADER.finish(&mut bytes, self.seed().raw());
        bytes
    }

    /// Reads and verifies a header, for a writer. `None` if the first 64 bytes are zero: never written.
    ///
    /// Says nothing about whether it is the header expected: compare [`SegmentHeader::identity`].
    ///
    /// # Errors
    /// Any [`Fault`] of a header; `Unsupported` for reserved kinds, algorithms and flags.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        Self::decode_for(bytes, Purpose::Write)
    }

    /// As [`SegmentHeader::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &[u8], purpose: Purpose) -> Result<Option<Self>, Fault> {
        if bytes.get(..UNWRITTEN_LEN).is_some_and(is_zero) {
            return Ok(None);
        }
        let identity =
            Identity { store: array_at(bytes, 40), incarnation: array_at(bytes, 56), segment: u64_at(bytes, 72) };
        HEADER.check(bytes, Seed::of(&identity).raw(), purpose)?;
        check_known(u8_at(bytes, 36), SegmentKind::Live.to_byte().into(), "segment kind")?;
        check_known(u8_at(bytes, 37), 1, "checksum algorithm")?;
        check_known(u8_at(bytes, 38), 0, "compression")?;
        check_known(u8_at(bytes, 39), 0, "encryption")?;
        check_known(u32_at(bytes, 132), COMMIT_ALIGNMENT.into(), "commit alignment")?;
        check_known(u32_at(bytes, 136), 0, "dictionary id")?;
        check_known(u32_at(bytes, 140), 0, "block length")?;
        check_known(u64_at(bytes, 144), 0, "key id")?;
        check_reserved(bytes, 160, SEGMENT_HEADER_LEN, "reserved bytes of the segment header")?;
        numbered_at(bytes, 72, "segment number")?;
        Ok(Some(Self {
            generation: number_at(bytes, 80, "segment generation")?,
            manifest_generation: number_at(bytes, 88, "manifest generation")?,
            segment_len: pages_at(bytes, 96, "segment length")
                .and_then(|len| at_least_a_page(len, "segment length"))?,
            base: pages_at(bytes, 104, "base log offset")?,
            first_position: numbered_at(bytes, 112, "first position")?,
            previous: previous_at(bytes, identity.segment)?,
            created_at: u64_at(bytes, 152),
            written_by: u32_at(bytes, 32),
            identity,
            kind: SegmentKind::Live,
        }))
    }

    /// Seed of every checksum in this segment.
    pub fn seed(&self) -> Seed {
        Seed::of(&self.identity)
    }
}

/// Lengths are half of [`NUMBER_MAX`] at most, so that a base and an offset can be added.
fn pages_at(bytes: &[u8], at: usize, what: &'static str) -> Result<u64, Fault> {
    let value = u64_at(bytes, at);
    let is_fine = value.is_multiple_of(PAGE_LEN) && value <= NUMBER_MAX / 2;
    if is_fine { Ok(value) } else { Err(Fault::Length { what, value }) }
}

fn at_least_a_page(value: u64, what: &'static str) -> Result<u64, Fault> {
    if value >= PAGE_LEN { Ok(value) } else { Err(Fault::Length { what, value }) }
}

fn previous_at(bytes: &[u8], own: u64) -> Result<Option<Link>, Fault> {
    let number = number_at(bytes, 120, "number of the segment before")?;
    let final_checksum = u32_at(bytes, 128);
    if number == 0 {
        return match final_checksum {
            0 => Ok(None),
            _ => Err(Fault::Reserved { what: "final checksum of no segment before" }),
        };
    }
    if number >= own {
        return Err(Fault::Order { what: "number of the segment before" });
    }
    Ok(Some(Link { number, final_checksum }))
}

/// What is written behind the last batch of a segment when the next one is begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndMark {
    /// Checksum of all batch headers; see [`FinalChecksum`].
    pub final_checksum: u32,
    /// First position in the segment, 0 if it holds none.
    pub first_position: u64,
    /// Last position in the segment, 0 if it holds none.
    pub last_position: u64,
    /// `recorded_at` of the first batch.
    pub first_time: u64,
    /// `recorded_at` of the last batch.
    pub last_time: u64,
    /// Number of batches.
    pub batch_count: u64,
    /// Number of events.
    pub event_count: u64,
    /// Number of control records.
    pub control_count: u64,
    /// Number of the segment that follows.
    pub next_segment: u64,
}

impl EndMark {
    /// The mark's bytes in the segment with this seed.
    pub fn encode(&self, seed: Seed) -> [u8; END_MARK_LEN] {
        let mut bytes = [0; END_MARK_LEN];
        bytes[4] = END_MARK_KIND;
        put(&mut bytes, 8, (END_MARK_LEN as u32).to_le_bytes());
        put(&mut bytes, 12, self.final_checksum.to_le_bytes());
        bytes[16] = 1;
        let numbers = [
            self.first_position,
            self.last_position,
            self.first_time,
            self.last_time,
            self.batch_count,
            self.event_count,
            self.control_count,
        ];
        for (n, number) in numbers.into_iter().enumerate() {
            put(&mut bytes, 24 + 8 * n, number.to_le_bytes());
        }
        put(&mut bytes, 112, self.next_segment.to_le_bytes());
        let checksum = crc(seed.batch(), &bytes[4..]);
        put(&mut bytes, 0, checksum.to_le_bytes());
        bytes
    }

    /// Reads and verifies the mark at the beginning of `bytes`, for a writer.
    ///
    /// # Errors
    /// Any [`Fault`]; `Unsupported` for reserved flags, lengths and algorithms.
    pub fn decode(bytes: &[u8], seed: Seed) -> Result<Self, Fault> {
        Self::decode_for(bytes, seed, Purpose::Write)
    }

    /// As [`EndMark::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &[u8], seed: Seed, purpose: Purpose) -> Result<Self, Fault> {
        let Some(bytes) = bytes.get(..END_MARK_LEN) else {
            return Err(Fault::Truncated { need: END_MARK_LEN as u64, have: bytes.len() as u64 });
        };
        check_crc(seed.batch(), &bytes[4..], u32_at(bytes, 0), "end mark")?;
        check_known(u8_at(bytes, 4), END_MARK_KIND.into(), "batch kind")?;
        check_flags(u8_at(bytes, 5), u8_at(bytes, 6), 0u8, purpose)?;
        check_known(u32_at(bytes, 8), END_MARK_LEN as u64, "end mark length")?;
        check_known(u8_at(bytes, 16), 1, "checksum algorithm")?;
        check_known(u8_at(bytes, 17), 0, "chain algorithm")?;
        check_reserved(bytes, 18, 24, "reserved bytes of the end mark")?;
        check_reserved(bytes, 80, 112, "chain head without a chain")?;
        check_reserved(bytes, 120, 128, "reserved bytes of the end mark")?;
        let mark = Self {
            final_checksum: u32_at(bytes, 12),
            first_position: number_at(bytes, 24, "first position")?,
            last_position: number_at(bytes, 32, "last position")?,
            first_time: u64_at(bytes, 40),
            last_time: u64_at(bytes, 48),
            batch_count: number_at(bytes, 56, "number of batches")?,
            event_count: number_at(bytes, 64, "number of events")?,
            control_count: number_at(bytes, 72, "number of control records")?,
            next_segment: numbered_at(bytes, 112, "number of the next segment")?,
        };
        mark.check_counts()?;
        Ok(mark)
    }

    fn check_counts(&self) -> Result<(), Fault> {
        let records = self.event_count + self.control_count;
        let span = match (self.first_position, self.last_position) {
            (0, 0) => 0,
            (first, last) if first > 0 && last >= first => last - first + 1,
            _ => return Err(Fault::Order { what: "first and last position of the end mark" }),
        };
        if records != span {
            return Err(Fault::Count { what: "number of records in the end mark", value: records });
        }
        if self.batch_count > records || (self.batch_count == 0) != (records == 0) {
            return Err(Fault::Count { what: "number of batches in the end mark", value: self.batch_count });
        }
        if self.last_time < self.first_time {
            return Err(Fault::Order { what: "times of the end mark" });
        }
        Ok(())
    }
}

/// Running checksum over the batch headers of a segment; stands for all of its bytes, since each batch header holds the
/// checksum of its records' checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FinalChecksum(u32);

impl FinalChecksum {
    /// That of a segment without batches.
    pub fn start(seed: Seed) -> Self {
        Self(seed.raw())
    }

    /// Goes on from a value computed earlier.
    pub fn from_value(value: u32) -> Self {
        Self(value)
    }

    /// Adds the 40 bytes of the next batch's header.
    #[inline]
    pub fn add(&mut self, header: &[u8; crate::batch::BATCH_HEADER_LEN]) {
        self.0 = crc(self.0, header);
    }

    /// Adds the headers of the next batches, one after the other without a gap: the same as each by itself, and faster.
    #[inline]
    pub fn add_all(&mut self, headers: &[u8]) {
        debug_assert!(headers.len().is_multiple_of(crate::batch::BATCH_HEADER_LEN));
        self.0 = crc(self.0, headers);
    }

    /// The checksum so far.
    #[inline]
    pub fn value(&self) -> u32 {
        self.0
    }
}
