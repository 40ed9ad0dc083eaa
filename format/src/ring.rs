//! Header of the file `RING`, which holds the newest bytes of the log.

use crate::Fault;
use crate::field::{array_at, check_reserved, is_zero, number_at, numbered_at, put, u64_at};
use crate::header::{Header, Purpose, Reach};
use crate::mark::newest_slot;

/// Length of the header page; the ring follows.
pub const RING_HEADER_LEN: usize = 4096;
/// Length of what is written in a slot of the header page.
pub const RING_SLOT_LEN: usize = 128;
/// Shortest ring.
pub const RING_LEN_MIN: u64 = 65_536;
/// Longest ring.
pub const RING_LEN_MAX: u64 = 1 << 40;

const SLOT_DISTANCE: u64 = 512;
const HEADER: Header =
    Header { what: "ring header", magic: *b"ANNALRNG", len: RING_SLOT_LEN, reach: Reach::Header, known_write: 0 };
const KIND_PRIVATE: u64 = 0;
const KIND_LOG: u64 = 1;

/// One slot: who writes the ring now, and what it is worth after the process ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RingHeader {
    /// Id of the store.
    pub store: [u8; 16],
    /// Id of the opening that writes it.
    pub incarnation: [u8; 16],
    /// One more at each opening for writing; the largest counts.
    pub session: u64,
    /// Length of the ring in bytes, a power of two.
    pub ring_len: u64,
    /// First segment that this session may have written.
    pub first_segment: u64,
    /// Whether the bytes belong to the log. If not, the ring was private to the process and the file holds nothing.
    pub holds_log: bool,
}

impl RingHeader {
    /// The slot's bytes.
    pub fn encode(&self) -> [u8; RING_SLOT_LEN] {
        let mut bytes = [0; RING_SLOT_LEN];
        HEADER.begin(&mut bytes);
        put(&mut bytes, 32, self.store);
        put(&mut bytes, 48, self.incarnation);
        put(&mut bytes, 64, self.session.to_le_bytes());
        put(&mut bytes, 72, self.ring_len.to_le_bytes());
        put(&mut bytes, 80, self.first_segment.to_le_bytes());
        put(&mut bytes, 88, if self.holds_log { KIND_LOG } else { KIND_PRIVATE }.to_le_bytes());
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

    /// As [`RingHeader::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &[u8], purpose: Purpose) -> Result<Option<Self>, Fault> {
        if bytes.get(..RING_SLOT_LEN).is_some_and(is_zero) {
            return Ok(None);
        }
        HEADER.check(bytes, 0, purpose)?;
        check_reserved(bytes, 96, RING_SLOT_LEN, "reserved bytes of the ring header")?;
        let ring_len = u64_at(bytes, 72);
        if !ring_len.is_power_of_two() || !(RING_LEN_MIN..=RING_LEN_MAX).contains(&ring_len) {
            return Err(Fault::Length { what: "ring length", value: ring_len });
        }
        Ok(Some(Self {
            store: array_at(bytes, 32),
            incarnation: array_at(bytes, 48),
            session: number_at(bytes, 64, "session of the ring")?,
            ring_len,
            first_segment: numbered_at(bytes, 80, "first segment of the ring")?,
            holds_log: match u64_at(bytes, 88) {
                KIND_PRIVATE => false,
                KIND_LOG => true,
                value => return Err(Fault::Unsupported { what: "ring kind", value }),
            },
        }))
    }

    /// The newest header of the header page, and what is wrong with each slot; for a writer.
    pub fn newest(page: &[u8]) -> (Option<Self>, [Option<Fault>; 2]) {
        Self::newest_for(page, Purpose::Write)
    }

    /// As [`RingHeader::newest`], for `purpose`.
    pub fn newest_for(page: &[u8], purpose: Purpose) -> (Option<Self>, [Option<Fault>; 2]) {
        newest_slot(page, SLOT_DISTANCE as usize, |slot| Self::decode_for(slot, purpose), |header| header.session)
    }

    /// Offset in the file of the slot that the header of this session goes to.
    pub fn slot_offset(session: u64) -> u64 {
        session % 2 * SLOT_DISTANCE
    }
}
