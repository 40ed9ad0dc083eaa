//! The file `consumers-<segment number>.idx`: where all consumers stood when the segment ended. Derived from the log.

use std::sync::Arc;

use super::change::read_ranges;
use super::{ConsumerState, ConsumerTable, Parked, REASON_LEN_MAX, Ranges};
use crate::field::{array_at, check_known, check_reserved, number_at, numbered_at, put, u8_at, u32_at, u64_at};
use crate::header::{Header, Purpose, Reach};
use crate::{Fault, name};

/// Length of the fixed part.
pub const CONSUMER_FILE_HEADER_LEN: usize = 128;

const HEADER: Header = Header {
    what: "file of consumers",
    magic: *b"ANNALCON",
    len: CONSUMER_FILE_HEADER_LEN,
    reach: Reach::File,
    known_write: 0,
};
const CONSUMER_LEN: usize = 40;
const PARKED_LEN: usize = 32;
const RANGE_LEN: usize = 16;

/// Which end of which segment a file of consumers belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsumerFileHeader {
    /// Id of the store.
    pub store: [u8; 16],
    /// Incarnation of the segment's writer.
    pub incarnation: [u8; 16],
    /// Number of the segment.
    pub segment: u64,
    /// Final checksum of the segment.
    pub final_checksum: u32,
    /// Last position in the segment, or before it if it holds none.
    pub last_position: u64,
    /// Version of the library that wrote it: `major << 16 | minor << 8 | patch`.
    pub written_by: u32,
}

/// The whole file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerFile {
    /// What it belongs to.
    pub header: ConsumerFileHeader,
    /// Where the consumers stood.
    pub table: ConsumerTable,
}

impl ConsumerFile {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; CONSUMER_FILE_HEADER_LEN];
        let header = &self.header;
        HEADER.begin(&mut bytes);
        put(&mut bytes, 32, header.store);
        put(&mut bytes, 48, header.incarnation);
        put(&mut bytes, 64, header.segment.to_le_bytes());
        put(&mut bytes, 72, header.last_position.to_le_bytes());
        put(&mut bytes, 80, self.table.last_generation.to_le_bytes());
        put(&mut bytes, 96, header.final_checksum.to_le_bytes());
        put(&mut bytes, 100, (self.table.consumers.len() as u32).to_le_bytes());
        put(&mut bytes, 104, header.written_by.to_le_bytes());
        bytes[108] = 1;
        for (name, state) in &self.table.consumers {
            encode_consumer(&mut bytes, name, state);
        }
        let len = bytes.len() as u64;
        put(&mut bytes, 88, len.to_le_bytes());
        HEADER.finish(&mut bytes, 0);
        bytes
    }

    /// Reads and verifies the whole file, for a writer.
    ///
    /// # Errors
    /// Any [`Fault`]: of the header, or of consumers that cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        Self::decode_for(bytes, Purpose::Write)
    }

    /// As [`ConsumerFile::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &[u8], purpose: Purpose) -> Result<Self, Fault> {
        HEADER.check(bytes, 0, purpose)?;
        if u64_at(bytes, 88) != bytes.len() as u64 {
            return Err(Fault::Length { what: "length of the file of consumers", value: u64_at(bytes, 88) });
        }
        check_known(u8_at(bytes, 108), 1, "checksum algorithm")?;
        check_reserved(bytes, 109, CONSUMER_FILE_HEADER_LEN, "reserved bytes of the file of consumers")?;
        let header = ConsumerFileHeader {
            store: array_at(bytes, 32),
            incarnation: array_at(bytes, 48),
            segment: numbered_at(bytes, 64, "segment number")?,
            final_checksum: u32_at(bytes, 96),
            last_position: number_at(bytes, 72, "last position of the segment")?,
            written_by: u32_at(bytes, 104),
        };
        let mut table =
            ConsumerTable { last_generation: number_at(bytes, 80, "last generation")?, ..ConsumerTable::default() };
        let mut rest = bytes.get(CONSUMER_FILE_HEADER_LEN..).unwrap_or_default();
        for _ in 0..u32_at(bytes, 100) {
            let (name, state, len) = read_consumer(rest, header.last_position)?;
            if state.generation > table.last_generation {
                return Err(Fault::Count { what: "generation of a consumer", value: state.generation });
            }
            if table.consumers.last_key_value().is_some_and(|(last, _)| **last >= *name) {
                return Err(Fault::Order { what: "consumers" });
            }
            table.consumers.insert(name, Arc::new(state));
            rest = rest.get(len..).unwrap_or_default();
        }
        if !rest.is_empty() {
            return Err(Fault::Length { what: "bytes after the last consumer", value: rest.len() as u64 });
        }
        Ok(Self { header, table })
    }
}

fn encode_consumer(bytes: &mut Vec<u8>, name: &str, state: &ConsumerState) {
    let at = bytes.len();
    bytes.resize(at + CONSUMER_LEN, 0);
    bytes[at] = u8::try_from(name.len()).expect("names are checked before");
    put(bytes, at + 4, (state.finished.len() as u32).to_le_bytes());
    put(bytes, at + 8, (state.parked.len() as u32).to_le_bytes());
    put(bytes, at + 16, state.generation.to_le_bytes());
    put(bytes, at + 24, state.checkpoint.to_le_bytes());
    put(bytes, at + 32, state.changed_at.to_le_bytes());
    bytes.extend_from_slice(name.as_bytes());
    pad(bytes);
    for (first, last) in state.finished.iter() {
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&last.to_le_bytes());
    }
    for (position, parked) in &state.parked {
        let at = bytes.len();
        bytes.resize(at + PARKED_LEN, 0);
        put(bytes, at, position.to_le_bytes());
        put(bytes, at + 8, parked.at.to_le_bytes());
        put(bytes, at + 16, parked.behind.to_le_bytes());
        put(bytes, at + 24, parked.attempts.to_le_bytes());
        put(bytes, at + 28, (parked.reason.len() as u16).to_le_bytes());
        bytes[at + 30] = u8::try_from(parked.stream.len()).expect("names are checked before");
        bytes.extend_from_slice(parked.stream.as_bytes());
        bytes.extend_from_slice(parked.reason.as_bytes());
        pad(bytes);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// Text of `len` bytes at `at`, and where what follows its padding begins.
fn text(bytes: &[u8], at: usize, len: usize) -> Result<&str, Fault> {
    let Some(text) = bytes.get(at..at + len) else {
        return Err(Fault::Truncated { need: (at + len) as u64, have: bytes.len() as u64 });
    };
    std::str::from_utf8(text).map_err(|_| Fault::Name { what: "text of a consumer" })
}

fn padded(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    let end = at.next_multiple_of(8);
    check_reserved(bytes, at, end, "padding bytes of the file of consumers")?;
    Ok(end)
}

/// The consumer at the beginning of `bytes`, and how long it is.
fn read_consumer(bytes: &[u8], last_position: u64) -> Result<(Arc<str>, ConsumerState, usize), Fault> {
    if bytes.len() < CONSUMER_LEN {
        return Err(Fault::Truncated { need: CONSUMER_LEN as u64, have: bytes.len() as u64 });
    }
    check_reserved(bytes, 1, 4, "reserved bytes of a consumer")?;
    check_reserved(bytes, 12, 16, "reserved bytes of a consumer")?;
    let (range_count, parked_count) = (u32_at(bytes, 4) as usize, u32_at(bytes, 8));
    let generation = numbered_at(bytes, 16, "generation of a consumer")?;
    let checkpoint = number_at(bytes, 24, "checkpoint of a consumer")?;
    if checkpoint > last_position {
        return Err(Fault::Position { expected: last_position, found: checkpoint });
    }
    let name_len = u8_at(bytes, 0) as usize;
    let name = text(bytes, CONSUMER_LEN, name_len)?;
    if !name::is_well_formed(name.as_bytes()) {
        return Err(Fault::Name { what: "name of a consumer" });
    }
    let mut at = padded(bytes, CONSUMER_LEN + name_len)?;
    let Some(rows) = range_count.checked_mul(RANGE_LEN).and_then(|len| bytes.get(at..at.checked_add(len)?)) else {
        return Err(Fault::Count { what: "number of finished ranges", value: range_count as u64 });
    };
    at += rows.len();
    let mut finished = Ranges::default();
    for (first, last) in read_ranges(rows, checkpoint, last_position.saturating_add(1))? {
        finished.insert(first, last);
    }
    let changed_at = u64_at(bytes, 32);
    let mut state = ConsumerState { generation, checkpoint, finished, parked: Default::default(), changed_at };
    for _ in 0..parked_count {
        at += read_parked(&bytes[at..], last_position, &mut state)?;
    }
    Ok((Arc::from(name), state, at))
}

fn read_parked(bytes: &[u8], last_position: u64, state: &mut ConsumerState) -> Result<usize, Fault> {
    if bytes.len() < PARKED_LEN {
        return Err(Fault::Truncated { need: PARKED_LEN as u64, have: bytes.len() as u64 });
    }
    check_reserved(bytes, 31, 32, "reserved bytes of a parked event")?;
    let position = numbered_at(bytes, 0, "position of a parked event")?;
    let behind = number_at(bytes, 16, "position of a parked event")?;
    if position > last_position || behind > last_position {
        return Err(Fault::Position { expected: last_position, found: position.max(behind) });
    }
    if state.parked.last_key_value().is_some_and(|(last, _)| *last >= position) {
        return Err(Fault::Order { what: "parked events" });
    }
    let reason_len = usize::from(u32_at(bytes, 28) as u16);
    if reason_len > REASON_LEN_MAX {
        return Err(Fault::Length { what: "length of a reason", value: reason_len as u64 });
    }
    let stream_len = u8_at(bytes, 30) as usize;
    let stream = text(bytes, PARKED_LEN, stream_len)?;
    if !name::is_well_formed(stream.as_bytes()) {
        return Err(Fault::Name { what: "stream of a parked event" });
    }
    let reason = text(bytes, PARKED_LEN + stream_len, reason_len)?;
    let end = padded(bytes, PARKED_LEN + stream_len + reason_len)?;
    let parked = Parked {
        stream: Arc::from(stream),
        attempts: u32_at(bytes, 24),
        behind,
        reason: Arc::from(reason),
        at: u64_at(bytes, 8),
    };
    state.parked.insert(position, parked);
    Ok(end)
}
