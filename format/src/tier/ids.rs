//! Ids of a tier by their hashes.

use crate::field::{u32_at, u64_at};

#[inline]
pub(super) fn from_row(row: &[u8; 12]) -> (u64, u32) {
    (u64_at(row, 0), u32_at(row, 8))
}

#[inline]
pub(super) fn to_row(hash: u64, position: u32) -> [u8; 12] {
    let mut row = [0; 12];
    row[..8].copy_from_slice(&hash.to_le_bytes());
    row[8..].copy_from_slice(&position.to_le_bytes());
    row
}

/// Relative positions of the events whose ids share a hash, ascending.
#[derive(Clone, Debug)]
pub struct Ids<'a> {
    rows: &'a [[u8; 12]],
    hash: u64,
}

impl<'a> Ids<'a> {
    #[inline]
    pub(super) fn new(rows: &'a [[u8; 12]], hash: u64) -> Self {
        let from = rows.partition_point(|row| u64_at(row, 0) < hash);
        Self { rows: rows.get(from..).unwrap_or_default(), hash }
    }
}

impl Iterator for Ids<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        let (row, rest) = self.rows.split_first()?;
        let (hash, position) = from_row(row);
        if hash != self.hash {
            return None;
        }
        self.rows = rest;
        Some(position)
    }
}

impl std::iter::FusedIterator for Ids<'_> {}
