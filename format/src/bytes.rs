//! Little-endian fields at fixed places.

use crate::Fault;

/// The `N` bytes at `at`; zeros beyond the end. Callers check the length of a structure once, before its fields.
#[inline]
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

#[inline]
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// `Truncated` unless there are `need` bytes.
#[inline]
pub(crate) fn need(bytes: &[u8], need: usize) -> Result<(), Fault> {
    if bytes.len() >= need {
        return Ok(());
    }
    Err(Fault::Truncated { need: need as u64, have: bytes.len() as u64 })
}

pub(crate) fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

/// `Reserved` unless all of them are zero.
pub(crate) fn reserved(bytes: &[u8], what: &'static str) -> Result<(), Fault> {
    if all_zero(bytes) { Ok(()) } else { Err(Fault::Reserved { what }) }
}

/// `Unsupported` if any bit but those of `known` is set.
#[inline]
pub(crate) fn known_bits(bits: u64, known: u64, what: &'static str) -> Result<(), Fault> {
    if bits & !known == 0 { Ok(()) } else { Err(Fault::Unsupported { what, value: bits & !known }) }
}

/// `Unsupported` unless the value is the one that this version knows.
pub(crate) fn known_value(value: u64, known: u64, what: &'static str) -> Result<(), Fault> {
    if value == known { Ok(()) } else { Err(Fault::Unsupported { what, value }) }
}
