//! Little-endian integers at places of a byte slice.
//!
//! Reading beyond the end gives zeros instead of a panic; every decoder checks the length of its structure first, so
//! this is a second line of defence that the optimiser mostly removes.

use crate::{Fault, NUMBER_MAX};

#[inline(always)]
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[inline(always)]
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

#[inline(always)]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

#[inline(always)]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

#[inline(always)]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// Copies `value` to `at`; for encoders, whose buffers have their full length.
#[inline(always)]
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// A position, number or length of at most [`NUMBER_MAX`].
#[inline]
pub(crate) fn number_at(bytes: &[u8], at: usize, what: &'static str) -> Result<u64, Fault> {
    let value = u64_at(bytes, at);
    if value <= NUMBER_MAX { Ok(value) } else { Err(Fault::Count { what, value }) }
}

/// As [`number_at`], and not 0.
#[inline]
pub(crate) fn numbered_at(bytes: &[u8], at: usize, what: &'static str) -> Result<u64, Fault> {
    match number_at(bytes, at, what)? {
        0 => Err(Fault::Count { what, value: 0 }),
        value => Ok(value),
    }
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Reserved bytes `from..to` are zero.
pub(crate) fn check_reserved(bytes: &[u8], from: usize, to: usize, what: &'static str) -> Result<(), Fault> {
    if bytes.get(from..to).is_some_and(is_zero) { Ok(()) } else { Err(Fault::Reserved { what }) }
}

/// An id or kind that must have the one value this version knows.
#[inline]
pub(crate) fn check_known(value: impl Into<u64>, known: u64, what: &'static str) -> Result<(), Fault> {
    match value.into() {
        value if value == known => Ok(()),
        value => Err(Fault::Unsupported { what, value }),
    }
}
