//! Batches: the header that commits them, and the encoder that appends them to a buffer.

use crate::checksum::{ChecksumList, Seed, crc};
use crate::consumer::ChangeList;
use crate::field::{number_at, put, u8_at, u32_at, u64_at};
use crate::header::{Purpose, check_crc, check_flags};
use crate::record::{self, Control, ControlFrame, EventFrame, EventParts};
use crate::section::{self, SECTION_HEADER_LEN};
use crate::{Fault, NUMBER_MAX};

/// Length of a batch header.
pub const BATCH_HEADER_LEN: usize = 40;
/// Byte 4 of every batch header.
pub const BATCH_KIND: u8 = 0xB1;
/// Most records in one batch.
pub const RECORD_COUNT_MAX: u32 = (1 << 24) - 1;
/// Longest body: a multiple of 8 in 32 bits.
pub const BODY_LEN_MAX: u32 = u32::MAX - 7;

const AS_BATCH: u8 = 0x01;
/// Read flag: typed sections stand behind the records.
const SECTIONS: u8 = 0x04;
/// Nothing is said about what was durable.
const LAG_UNKNOWN: u32 = u32::MAX;

/// The 40 bytes in front of a batch's records; with the records' checksums, its commit mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// Length of the records and sections, in bytes; a multiple of 8.
    pub body_len: u32,
    /// Number of records, at least 1; 0 only if there are sections.
    pub record_count: u32,
    /// Checksum of the records' and sections' checksums.
    pub records_checksum: u32,
    /// Position of the first record; of a batch without records, that of the next record to come.
    pub first_position: u64,
    /// Nanoseconds since 1970 UTC.
    pub recorded_at: u64,
    /// How far the durable position lay behind `first_position - 1`; `u32::MAX`: unknown.
    pub durable_lag: u32,
    /// Whether the caller wrote it as a batch.
    pub as_batch: bool,
    /// Whether typed sections stand behind the records.
    pub has_sections: bool,
}

impl BatchHeader {
    /// Reads and verifies the header at the beginning of `bytes`, for a writer. About 10 ns.
    ///
    /// # Errors
    /// `Truncated`, `Checksum`, `Unsupported` for flags and kinds, `Length` and `Count` for numbers that cannot be.
    #[inline]
    pub fn decode(bytes: &[u8], seed: Seed) -> Result<Self, Fault> {
        Self::decode_for(bytes, seed, Purpose::Write)
    }

    /// As [`BatchHeader::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn decode_for(bytes: &[u8], seed: Seed, purpose: Purpose) -> Result<Self, Fault> {
        let Some(bytes) = bytes.get(..BATCH_HEADER_LEN) else {
            return Err(Fault::Truncated { need: BATCH_HEADER_LEN as u64, have: bytes.len() as u64 });
        };
        check_crc(seed.batch(), &bytes[4..], u32_at(bytes, 0), "batch header")?;
        Self::read(bytes, purpose)
    }

    /// Reads a header whose checksum is known to be right.
    ///
    /// # Errors
    /// As [`BatchHeader::decode`], but for `Checksum`.
    #[inline]
    pub fn read(bytes: &[u8], purpose: Purpose) -> Result<Self, Fault> {
        let Some(bytes) = bytes.get(..BATCH_HEADER_LEN) else {
            return Err(Fault::Truncated { need: BATCH_HEADER_LEN as u64, have: bytes.len() as u64 });
        };
        // Whatever a later version puts here begins with 40 bytes checked like these, so this is no torn write.
        crate::field::check_known(u8_at(bytes, 4), BATCH_KIND.into(), "batch kind")?;
        check_flags(u8_at(bytes, 5) & !SECTIONS, u8_at(bytes, 6), 0u8, purpose)?;
        let header = Self {
            body_len: u32_at(bytes, 8),
            record_count: u32_at(bytes, 12),
            records_checksum: u32_at(bytes, 16),
            durable_lag: u32_at(bytes, 20),
            first_position: number_at(bytes, 24, "first position of the batch")?,
            recorded_at: u64_at(bytes, 32),
            as_batch: u8_at(bytes, 7) & AS_BATCH != 0,
            has_sections: u8_at(bytes, 5) & SECTIONS != 0,
        };
        header.check()?;
        Ok(header)
    }

    #[inline]
    fn check(&self) -> Result<(), Fault> {
        if self.first_position == 0 {
            return Err(Fault::Count { what: "first position of the batch", value: 0 });
        }
        let count = self.record_count;
        let least = u32::from(!self.has_sections);
        if count < least || count > RECORD_COUNT_MAX || u64::from(count) > NUMBER_MAX - (self.first_position - 1) {
            return Err(Fault::Count { what: "number of records in the batch", value: count.into() });
        }
        let sections = if self.has_sections { SECTION_HEADER_LEN as u64 } else { 0 };
        let shortest = u64::from(count) * record::RECORD_HEADER_LEN as u64 + sections;
        if !self.body_len.is_multiple_of(8) || u64::from(self.body_len) < shortest {
            return Err(Fault::Length { what: "length of the batch's body", value: self.body_len.into() });
        }
        if self.durable_lag != LAG_UNKNOWN && u64::from(self.durable_lag) >= self.first_position {
            return Err(Fault::Count { what: "durable lag of the batch", value: self.durable_lag.into() });
        }
        Ok(())
    }

    /// The header's bytes in the segment with this seed.
    pub fn encode(&self, seed: Seed) -> [u8; BATCH_HEADER_LEN] {
        let mut bytes = [0; BATCH_HEADER_LEN];
        bytes[4] = BATCH_KIND;
        bytes[5] = if self.has_sections { SECTIONS } else { 0 };
        bytes[7] = if self.as_batch { AS_BATCH } else { 0 };
        put(&mut bytes, 8, self.body_len.to_le_bytes());
        put(&mut bytes, 12, self.record_count.to_le_bytes());
        put(&mut bytes, 16, self.records_checksum.to_le_bytes());
        put(&mut bytes, 20, self.durable_lag.to_le_bytes());
        put(&mut bytes, 24, self.first_position.to_le_bytes());
        put(&mut bytes, 32, self.recorded_at.to_le_bytes());
        let checksum = crc(seed.batch(), &bytes[4..]);
        put(&mut bytes, 0, checksum.to_le_bytes());
        bytes
    }

    /// Length of the whole batch, header included.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        BATCH_HEADER_LEN + self.body_len as usize
    }

    /// Position of the last record; of a batch without records, that of the last record before it.
    #[inline]
    pub fn last_position(&self) -> u64 {
        (self.first_position - 1).saturating_add(self.record_count.into())
    }

    /// Last position known to be durable when the batch was written; `None` if it does not say.
    #[inline]
    pub fn durable_upto(&self) -> Option<u64> {
        if self.durable_lag == LAG_UNKNOWN {
            return None;
        }
        self.first_position.checked_sub(1)?.checked_sub(self.durable_lag.into())
    }
}

/// Appends one batch to a buffer that is used again and again; allocates nothing once the buffer has its size.
///
/// Dropped without [`BatchEncoder::finish`], it leaves the buffer with bytes that are no batch.
#[derive(Debug)]
pub struct BatchEncoder<'b> {
    buffer: &'b mut Vec<u8>,
    start: usize,
    seed: Seed,
    first_position: u64,
    record_count: u32,
    has_sections: bool,
    checksums: ChecksumList,
}

impl<'b> BatchEncoder<'b> {
    /// Begins a batch behind what `buffer` holds. Its first record gets `first_position`, at least 1.
    #[inline]
    pub fn begin(buffer: &'b mut Vec<u8>, seed: Seed, first_position: u64) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&[0; BATCH_HEADER_LEN]);
        Self {
            buffer,
            start,
            seed,
            first_position,
            record_count: 0,
            has_sections: false,
            checksums: ChecksumList::new(seed),
        }
    }

    /// Adds an event; answers the offset of its frame in the batch. Tens of nanoseconds and a copy of the event.
    ///
    /// # Panics
    /// If a part is longer than the format can say: a name of 0 or more than 255 bytes, more than 255 tags, 4 GiB. The
    /// caller checks names and limits before.
    #[inline]
    pub fn event(&mut self, event: &EventParts<'_>, revision: u64) -> usize {
        let frame = self.buffer.len();
        record::encode_event(self.buffer, event, revision);
        self.close_record(frame)
    }

    /// Adds a control record that was decoded elsewhere; answers the offset of its frame in the batch.
    pub fn control(&mut self, control: &ControlFrame<'_>) -> usize {
        let frame = self.buffer.len();
        self.buffer.extend_from_slice(control.bytes());
        self.close_record(frame)
    }

    /// Adds what compaction has left of an event, or would leave of it; answers the offset of its frame in the batch.
    pub fn compacted(&mut self, event: &EventFrame<'_>) -> usize {
        let frame = self.buffer.len();
        record::put_compacted(self.buffer, event);
        self.close_record(frame)
    }

    /// Adds a record that says that the one which stood here is lost: 24 bytes that any reader passes over.
    pub fn lost(&mut self) {
        let frame = self.buffer.len();
        self.buffer.extend_from_slice(&record::lost_frame());
        self.close_record(frame);
    }

    /// Adds a control record; answers the offset of its frame in the batch.
    ///
    /// # Panics
    /// If a name is longer than 255 bytes, or the record than 4 GiB.
    pub fn control_record(&mut self, control: &Control<'_>) -> usize {
        let frame = self.buffer.len();
        record::encode_control(self.buffer, control);
        self.close_record(frame)
    }

    #[inline]
    fn close_record(&mut self, frame: usize) -> usize {
        let position = self.first_position + u64::from(self.record_count);
        let (head, covered) = self.buffer[frame..].split_at_mut(4);
        let checksum = crc(self.seed.record(position), covered);
        head.copy_from_slice(&checksum.to_le_bytes());
        self.checksums.push(checksum);
        self.record_count += 1;
        frame - self.start
    }

    /// Adds a section that holds these changes, behind all records.
    ///
    /// # Panics
    /// If it is empty.
    #[cold]
    pub fn consumers(&mut self, changes: &ChangeList) {
        assert!(!changes.is_empty(), "a section holds something");
        let checksum = changes.encode(self.buffer, self.seed, self.first_position);
        self.checksums.push(checksum);
        self.has_sections = true;
    }

    /// Adds a section that was decoded elsewhere, behind all records.
    #[cold]
    pub fn section(&mut self, section: &section::Section<'_>) {
        let checksum = section::encode_again(self.buffer, self.seed, self.first_position, section.bytes());
        self.checksums.push(checksum);
        self.has_sections = true;
    }

    /// Writes the header. `durable_upto` is the last position known to be durable now.
    ///
    /// # Panics
    /// If the batch has neither record nor section, more than 2^24 - 1, or more than 4 GiB.
    #[inline]
    pub fn finish(self, recorded_at: u64, durable_upto: u64, as_batch: bool) -> BatchHeader {
        let body_len = self.buffer.len() - self.start - BATCH_HEADER_LEN;
        assert!(
            self.first_position > 0
                && (u32::from(!self.has_sections)..=RECORD_COUNT_MAX).contains(&self.record_count)
                && body_len <= BODY_LEN_MAX as usize,
            "a batch has 1 to 2^24 - 1 records and less than 4 GiB"
        );
        let lag = (self.first_position - 1).saturating_sub(durable_upto);
        let header = BatchHeader {
            body_len: body_len as u32,
            record_count: self.record_count,
            records_checksum: self.checksums.finish(),
            first_position: self.first_position,
            recorded_at,
            durable_lag: u32::try_from(lag).unwrap_or(LAG_UNKNOWN),
            as_batch,
            has_sections: self.has_sections,
        };
        put(self.buffer, self.start, header.encode(self.seed));
        header
    }
}
