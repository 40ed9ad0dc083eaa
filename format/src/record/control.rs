//! Control records: all kinds are reserved in version 1, so that they are only ever passed over or refused.

use super::RECORD_HEADER_LEN;
use crate::Fault;
use crate::field::{put, u16_at, u32_at};

/// Says that a reader that does not know the kind may pass over the record.
pub(super) const SKIPPABLE: u16 = 0x8000;

/// Kind of the record that stands where one was lost to damage before the store was made by repair.
pub const CONTROL_LOST: u16 = 21;

/// The frame of a lost record, its checksum still zero.
pub(crate) fn lost_frame() -> [u8; RECORD_HEADER_LEN] {
    let mut bytes = [0; RECORD_HEADER_LEN];
    put(&mut bytes, 4, (RECORD_HEADER_LEN as u32).to_le_bytes());
    bytes[8] = super::KIND_CONTROL;
    put(&mut bytes, 12, (CONTROL_LOST | SKIPPABLE).to_le_bytes());
    bytes
}

/// A control record of a kind that this version passes over: its position is a hole that shows nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlFrame<'a> {
    bytes: &'a [u8],
    position: u64,
}

impl<'a> ControlFrame<'a> {
    #[inline]
    pub(super) fn decode(bytes: &'a [u8], position: u64) -> Result<Self, Fault> {
        let kind = u16_at(bytes, 12);
        if kind & SKIPPABLE == 0 {
            return Err(Fault::Unsupported { what: "control kind", value: kind.into() });
        }
        Ok(Self { bytes, position })
    }

    /// Its position.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Its kind, without the bit that says it is skippable.
    pub fn kind(&self) -> u16 {
        u16_at(self.bytes, 12) & !SKIPPABLE
    }

    /// What follows the header, without padding.
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(RECORD_HEADER_LEN..u32_at(self.bytes, 4) as usize).unwrap_or_default()
    }

    /// Length of the frame, padding included.
    pub fn frame_len(&self) -> usize {
        self.bytes.len()
    }

    /// The whole frame, padding included.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}
