//! The table of checksums, one for each block of the archive.

use std::ops::Range;

use super::{FILE_HEADER_LEN, FILE_LEN_MAX};
use crate::Fault;
use crate::checksum::crc;
use crate::field::u32_at;
use crate::header::check_crc;

/// Length of a block; the last one of an archive may be shorter.
pub const BLOCK_LEN: usize = 16 << 10;
const ENTRY_LEN: usize = 4;

/// Where blocks and table lie in a file, and what the table's checksum is. Plain numbers: kept by whoever maps the file.
///
/// Places in a file are offsets from its beginning throughout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckTable {
    archive_len: u32,
    checksum: u32,
}

impl CheckTable {
    /// Of an archive of this length, with a table of this checksum.
    ///
    /// # Errors
    /// `Length` if header, archive and table would exceed [`FILE_LEN_MAX`].
    pub fn new(archive_len: u64, checksum: u32) -> Result<Self, Fault> {
        let too_long = Fault::Length { what: "archive length", value: archive_len };
        let Ok(short) = u32::try_from(archive_len) else { return Err(too_long) };
        let table = Self { archive_len: short, checksum };
        if table.file_len() > FILE_LEN_MAX { Err(too_long) } else { Ok(table) }
    }

    /// Length of the archive.
    pub fn archive_len(&self) -> u64 {
        self.archive_len.into()
    }

    /// Checksum of the table.
    pub fn checksum(&self) -> u32 {
        self.checksum
    }

    /// Length of the whole file.
    pub fn file_len(&self) -> u64 {
        FILE_HEADER_LEN as u64 + u64::from(self.archive_len) + u64::from(self.block_count()) * ENTRY_LEN as u64
    }

    /// Number of blocks.
    pub fn block_count(&self) -> u32 {
        self.archive_len.div_ceil(BLOCK_LEN as u32)
    }

    /// Where the archive lies.
    pub fn archive(&self) -> Range<usize> {
        FILE_HEADER_LEN..FILE_HEADER_LEN + self.archive_len as usize
    }

    /// Where this block lies; empty beyond the last.
    pub fn block(&self, block: u32) -> Range<usize> {
        let archive = self.archive();
        let start = FILE_HEADER_LEN.saturating_add((block as usize).saturating_mul(BLOCK_LEN));
        start.min(archive.end)..start.saturating_add(BLOCK_LEN).min(archive.end)
    }

    /// The blocks that hold any of these bytes. What lies outside of the archive is in none.
    #[inline]
    pub fn blocks_of(&self, bytes: Range<usize>) -> Range<u32> {
        let start = bytes.start.saturating_sub(FILE_HEADER_LEN).min(self.archive_len as usize);
        let end = bytes.end.saturating_sub(FILE_HEADER_LEN).min(self.archive_len as usize);
        if start >= end {
            return 0..0;
        }
        (start / BLOCK_LEN) as u32..end.div_ceil(BLOCK_LEN) as u32
    }

    /// Whether the file has the length it must have, and its table is the one that was written.
    ///
    /// # Errors
    /// `Length` or `Checksum`.
    pub fn verify(&self, file: &[u8]) -> Result<(), Fault> {
        if file.len() as u64 != self.file_len() {
            return Err(Fault::Length { what: "length of an index file", value: file.len() as u64 });
        }
        self.verify_table(file.get(self.archive().end..).unwrap_or_default())
    }

    /// As [`CheckTable::verify`], for the bytes of the table alone: who keeps them need not look at the file for them.
    ///
    /// # Errors
    /// `Length` or `Checksum`.
    pub fn verify_table(&self, table: &[u8]) -> Result<(), Fault> {
        if table.len() != self.block_count() as usize * ENTRY_LEN {
            return Err(Fault::Length { what: "table of an index file", value: table.len() as u64 });
        }
        check_crc(0, table, self.checksum, "table of an index file")
    }

    /// Whether this block holds what was written. The table must have been verified before. About 1 µs.
    ///
    /// # Errors
    /// `Checksum`; `Length` if there is no such block.
    pub fn check_block(&self, file: &[u8], block: u32) -> Result<(), Fault> {
        let table = file.get(self.archive().end..).unwrap_or_default();
        self.check_block_bytes(table, block, file.get(self.block(block)).unwrap_or_default())
    }

    /// As [`CheckTable::check_block`], for bytes that were read on their own and a table that was verified before.
    ///
    /// # Errors
    /// As there; `Length` also if `bytes` are not as many as the block holds.
    pub fn check_block_bytes(&self, table: &[u8], block: u32, bytes: &[u8]) -> Result<(), Fault> {
        if block >= self.block_count() || bytes.len() != self.block(block).len() {
            return Err(Fault::Length { what: "block of an index file", value: block.into() });
        }
        check_crc(0, bytes, u32_at(table, block as usize * ENTRY_LEN), "block of an index file")
    }

    /// Checks all blocks in turn.
    ///
    /// # Errors
    /// As [`CheckTable::check_block`], for the first that is wrong.
    pub fn check_all(&self, file: &[u8]) -> Result<(), Fault> {
        (0..self.block_count()).try_for_each(|block| self.check_block(file, block))
    }
}

/// Makes the table while the archive goes by. Takes 4 bytes of memory for each 16 KiB.
#[derive(Debug, Default)]
pub struct TableBuilder {
    table: Vec<u8>,
    state: u32,
    len: u64,
}

impl TableBuilder {
    /// Nothing has gone by.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next bytes of the archive, as many as there are.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = BLOCK_LEN - (self.len % BLOCK_LEN as u64) as usize;
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.state = crc(self.state, now);
            self.len += now.len() as u64;
            bytes = rest;
            if self.len.is_multiple_of(BLOCK_LEN as u64) {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        self.table.extend_from_slice(&self.state.to_le_bytes());
        self.state = 0;
    }

    /// The table's bytes, which follow the archive, and what the header says of them.
    ///
    /// # Errors
    /// `Length` if the file would be too long.
    pub fn finish(mut self) -> Result<(Vec<u8>, CheckTable), Fault> {
        if !self.len.is_multiple_of(BLOCK_LEN as u64) {
            self.end_block();
        }
        let table = CheckTable::new(self.len, crc(0, &self.table))?;
        Ok((self.table, table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(archive: &[u8], pieces: usize) -> (Vec<u8>, CheckTable) {
        let mut builder = TableBuilder::new();
        archive.chunks(pieces).for_each(|piece| builder.push(piece));
        let (bytes, table) = builder.finish().expect("a short file");
        ([&[0; FILE_HEADER_LEN], archive, &bytes].concat(), table)
    }

    #[test]
    fn any_pieces_make_the_same_table() {
        for len in [0, 1, BLOCK_LEN - 1, BLOCK_LEN, BLOCK_LEN + 1, 3 * BLOCK_LEN, 3 * BLOCK_LEN + 700] {
            let archive: Vec<u8> = (0..len).map(|n| ((n * n) >> 3) as u8).collect();
            let (whole, table) = file(&archive, usize::MAX);
            assert_eq!(table.file_len(), whole.len() as u64);
            assert_eq!(table.block_count() as usize, len.div_ceil(BLOCK_LEN));
            for pieces in [1, 7, BLOCK_LEN, 20_000] {
                assert_eq!(file(&archive, pieces), (whole.clone(), table));
            }
            assert_eq!(table.verify(&whole), Ok(()));
            assert_eq!(table.check_all(&whole), Ok(()));
            assert!(table.check_block(&whole, table.block_count()).is_err());
            assert!(table.verify(&whole[..whole.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_flipped_bit_is_found_in_its_block_and_no_other() {
        let archive: Vec<u8> = (0..2 * BLOCK_LEN + 100).map(|n| n as u8).collect();
        let (mut whole, table) = file(&archive, 1000);
        let len = whole.len();
        for at in (0..len).filter(|at| at % 97 == 0 || *at >= len - 12) {
            whole[at] ^= 4;
            let wrong: Vec<u32> = (0..3).filter(|block| table.check_block(&whole, *block).is_err()).collect();
            match at {
                _ if at < FILE_HEADER_LEN => assert!(wrong.is_empty() && table.verify(&whole).is_ok()),
                _ if at < table.archive().end => {
                    assert_eq!(wrong, [((at - FILE_HEADER_LEN) / BLOCK_LEN) as u32]);
                    assert_eq!(table.verify(&whole), Ok(()));
                }
                _ => assert!(table.verify(&whole).is_err()),
            }
            whole[at] ^= 4;
        }
    }

    #[test]
    fn blocks_cover_their_bytes() {
        let table = CheckTable::new(2 * BLOCK_LEN as u64 + 10, 0).expect("a short file");
        let at = |offset: usize| FILE_HEADER_LEN + offset;
        for (bytes, blocks) in [
            (at(0)..at(1), 0..1),
            (at(BLOCK_LEN - 1)..at(BLOCK_LEN + 1), 0..2),
            (at(BLOCK_LEN)..at(2 * BLOCK_LEN), 1..2),
            (0..usize::MAX, 0..3),
            (0..at(0), 0..0),
            (at(5)..at(5), 0..0),
            (at(2 * BLOCK_LEN + 10)..usize::MAX, 0..0),
        ] {
            assert_eq!(table.blocks_of(bytes.clone()), blocks, "{bytes:?}");
        }
        assert_eq!(table.block(2), at(2 * BLOCK_LEN)..at(2 * BLOCK_LEN + 10));
        assert!(table.block(3).is_empty() && table.block(u32::MAX).is_empty());
        assert!(CheckTable::new(FILE_LEN_MAX, 0).is_err() && CheckTable::new(u64::MAX, 0).is_err());
    }
}
