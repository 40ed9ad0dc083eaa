//! The file `MARK`: how far the log was known to be synced. Two slots, written in turn.

use crate::Fault;
use crate::field::{array_at, check_reserved, is_zero, number_at, numbered_at, put, u32_at, u64_at};
use crate::header::{Header, Purpose, Reach};

/// Length of the file.
pub const MARK_LEN: usize = 8192;
/// Length of what is written in a slot.
pub const MARK_SLOT_LEN: usize = 128;

const SLOT_DISTANCE: u64 = 4096;
const HEADER: Header =
    Header { what: "mark", magic: *b"ANNALMRK", len: MARK_SLOT_LEN, reach: Reach::Header, known_write: 0 };
const CLEAN: u32 = 0x01;

/// One slot: everything up to `position` was synced when it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Id of the store.
    pub store: [u8; 16],
    /// Id of the opening that wrote it.
    pub incarnation: [u8; 16],
    /// One more for each mark; the largest counts.
    pub sequence: u64,
    /// Newest manifest then.
    pub manifest_generation: u64,
    /// Number of the segment that held the end of the log.
    pub segment: u64,
    /// Offset in that segment: the end of the last synced batch.
    pub offset: u64,
    /// The last synced position, 0 if none.
    pub position: u64,
    /// `recorded_at` of the last synced batch.
    pub recorded_at: u64,
    /// Whether the store was closed after it, with nothing unsynced.
    pub clean: bool,
}

impl Mark {
    /// The slot's bytes.
    pub fn encode(&self) -> [u8; MARK_SLOT_LEN] {
        let mut bytes = [0; MARK_SLOT_LEN];
        HEADER.begin(&mut bytes);
        put(&mut bytes, 28, if self.clean { CLEAN } else { 0 }.to_le_bytes());
        put(&mut bytes, 32, self.store);
        put(&mut bytes, 48, self.incarnation);
        put(&mut bytes, 64, self.sequence.to_le_bytes());
        put(&mut bytes, 72, self.manifest_generation.to_le_bytes());
        put(&mut bytes, 80, self.segment.to_le_bytes());
        put(&mut bytes, 88, self.offset.to_le_bytes());
        put(&mut bytes, 96, self.position.to_le_bytes());
        put(&mut bytes, 104, self.recorded_at.to_le_bytes());
        HEADER.finish(&mut bytes, 0);
        bytes
    }

    /// Reads and verifies one slot, for a writer. `None` if all of it is zero.
    ///
    /// # Errors
    /// Any [`Fault`] of a header.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        Self::decode_for(bytes, Purpose::Write)
    }

    /// As [`Mark::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &[u8], purpose: Purpose) -> Result<Option<Self>, Fault> {
        if bytes.get(..MARK_SLOT_LEN).is_some_and(is_zero) {
            return Ok(None);
        }
        HEADER.check(bytes, 0, purpose)?;
        check_reserved(bytes, 112, MARK_SLOT_LEN, "reserved bytes of the mark")?;
        Ok(Some(Self {
            store: array_at(bytes, 32),
            incarnation: array_at(bytes, 48),
            sequence: number_at(bytes, 64, "sequence of the mark")?,
            manifest_generation: number_at(bytes, 72, "manifest generation")?,
            segment: numbered_at(bytes, 80, "segment number")?,
            offset: number_at(bytes, 88, "offset in the segment")?,
            position: number_at(bytes, 96, "position of the mark")?,
            recorded_at: u64_at(bytes, 104),
            clean: u32_at(bytes, 28) & CLEAN != 0,
        }))
    }

    /// The newest mark of the whole file, and what is wrong with each slot; for a writer.
    pub fn newest(file: &[u8]) -> (Option<Self>, [Option<Fault>; 2]) {
        Self::newest_for(file, Purpose::Write)
    }

    /// As [`Mark::newest`], for `purpose`.
    pub fn newest_for(file: &[u8], purpose: Purpose) -> (Option<Self>, [Option<Fault>; 2]) {
        newest_slot(file, SLOT_DISTANCE as usize, |slot| Self::decode_for(slot, purpose), |mark| mark.sequence)
    }

    /// Offset in the file of the slot that the mark with this sequence goes to.
    pub fn slot_offset(sequence: u64) -> u64 {
        sequence % 2 * SLOT_DISTANCE
    }
}

/// Of two slots, the one with the larger number; a slot that holds what belongs in the other one is a fault.
pub(crate) fn newest_slot<T>(
    file: &[u8],
    distance: usize,
    decode: impl Fn(&[u8]) -> Result<Option<T>, Fault>,
    number: impl Fn(&T) -> u64,
) -> (Option<T>, [Option<Fault>; 2]) {
    let mut newest: Option<T> = None;
    let faults = [0, 1].map(|slot: usize| {
        let found = match decode(file.get(slot * distance..).unwrap_or_default()) {
            Ok(found) => found?,
            Err(fault) => return Some(fault),
        };
        if number(&found) % 2 != slot as u64 {
            return Some(Fault::Order { what: "slots" });
        }
        if newest.as_ref().is_none_or(|newest| number(newest) < number(&found)) {
            newest = Some(found);
        }
        None
    });
    (newest, faults)
}
