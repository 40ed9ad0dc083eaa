//! A compacted segment: the bytes of a sealed one without the content of removed events, in compressed blocks.
//!
//! What the container holds is as long as the segment was, and everything in it stands at the same offset. So whatever
//! points into a segment stays right. This module knows the container; compression itself is not done here.

use std::ops::Range;

use crate::batch::{BATCH_HEADER_LEN, BatchHeader};
use crate::checksum::{ChecksumList, Identity, Seed, crc};
use crate::content_hash::CONTENT_HASH_LEN;
use crate::field::{array_at, check_known, check_reserved, number_at, numbered_at, put, u8_at, u32_at, u64_at};
use crate::header::{Header, Purpose, Reach, check_crc};
use crate::record::{self, EventFrame, Record};
use crate::section::SECTION_HEADER_LEN;
use crate::segment::PAGE_LEN;
use crate::{Fault, NUMBER_MAX, scan};

/// Length of a container's header.
pub const COMPACTED_HEADER_LEN: usize = 256;
/// Bytes of the segment in one block; the last one may hold fewer.
pub const BLOCK_LEN_MIN: u32 = 4 << 10;
/// Longest block: no more memory than this is taken for one, whatever the file says.
pub const BLOCK_LEN_MAX: u32 = 1 << 20;
/// Longest dictionary.
pub const DICTIONARY_LEN_MAX: u32 = 1 << 20;
/// Length of a block's entry.
pub const BLOCK_ENTRY_LEN: usize = 8;
/// Length of the entry of an event that was taken out.
pub const REMOVED_ENTRY_LEN: usize = 8 + CONTENT_HASH_LEN;

const WHAT: &str = "header of the compacted segment";
const HEADER: Header =
    Header { what: WHAT, magic: *b"ANNALSGC", len: COMPACTED_HEADER_LEN, reach: Reach::Header, known_write: 0 };
const KIND: u8 = 2;

/// How the blocks of a container are encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// 1: each block is one zstd frame, with a dictionary that zstd has trained.
    Zstd,
    /// 2: what [`residue`](crate::residue) takes out of a block stands in front of a zstd frame of the rest, with a dictionary of
    /// raw content.
    Residue,
}

impl Encoding {
    fn number(self) -> u8 {
        match self {
            Self::Zstd => 1,
            Self::Residue => 2,
        }
    }
}

/// First bytes of a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompactedHeader {
    /// Store, writer and number of the segment: those of its records' checksums.
    pub identity: Identity,
    /// One more for each compaction of the segment, from 1.
    pub generation: u64,
    /// Version of the library that made the file: `major << 16 | minor << 8 | patch`.
    pub written_by: u32,
    /// Nanoseconds since 1970 UTC.
    pub created_at: u64,
    /// Length of the segment.
    pub segment_len: u64,
    /// How many bytes of it are held, from its first: up to its last batch, and the end mark. Zeros follow.
    pub stored_len: u64,
    /// Length of the container's file.
    pub file_len: u64,
    /// How its blocks are encoded.
    pub encoding: Encoding,
    /// Bytes of the segment in each block: a power of two.
    pub block_len: u32,
    /// Number of blocks.
    pub block_count: u32,
    /// Length of the dictionary behind the header; 0: none.
    pub dictionary_len: u32,
    /// CRC-32 of the dictionary, from the segment's seed.
    pub dictionary_checksum: u32,
    /// CRC-32 of the table of blocks, from the segment's seed.
    pub blocks_checksum: u32,
    /// Number of entries of events whose content hash is kept.
    pub removed_count: u32,
    /// CRC-32 of these entries, from the segment's seed.
    pub removed_checksum: u32,
    /// Checksum of all batch headers of the original.
    pub final_checksum: u32,
    /// The same of the batch headers as they stand here.
    pub content_checksum: u32,
}

impl CompactedHeader {
    /// The header's bytes, and its checksum, the *root*: it stands for every byte of the file.
    pub fn encode(&self) -> ([u8; COMPACTED_HEADER_LEN], u32) {
        let mut bytes = [0; COMPACTED_HEADER_LEN];
        HEADER.begin(&mut bytes);
        put(&mut bytes, 32, self.written_by.to_le_bytes());
        bytes[36] = KIND;
        bytes[37] = 1;
        bytes[38] = self.encoding.number();
        put(&mut bytes, 40, self.identity.store);
        put(&mut bytes, 56, self.identity.incarnation);
        let numbers =
            [self.identity.segment, self.generation, self.created_at, self.segment_len, self.stored_len, self.file_len];
        for (n, number) in numbers.into_iter().enumerate() {
            put(&mut bytes, 72 + 8 * n, number.to_le_bytes());
        }
        for (n, number) in self.small_numbers().into_iter().enumerate() {
            put(&mut bytes, 120 + 4 * n, number.to_le_bytes());
        }
        HEADER.finish(&mut bytes, self.seed().raw());
        let root = u32_at(&bytes, 16);
        (bytes, root)
    }

    fn small_numbers(&self) -> [u32; 9] {
        [
            self.block_len,
            self.block_count,
            self.dictionary_len,
            self.dictionary_checksum,
            self.blocks_checksum,
            self.removed_count,
            self.removed_checksum,
            self.final_checksum,
            self.content_checksum,
        ]
    }

    /// Reads and verifies a header; answers its root as well.
    ///
    /// # Errors
    /// Any [`Fault`] of a header; `Unsupported` for what is reserved; `Length` and `Count` where the numbers do not fit each
    /// other: so what is allocated by them is never more than the file can hold, or a block be.
    pub fn decode(bytes: &[u8]) -> Result<(Self, u32), Fault> {
        Self::decode_for(bytes, Purpose::Write)
    }

    /// As [`CompactedHeader::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &[u8], purpose: Purpose) -> Result<(Self, u32), Fault> {
        let identity =
            Identity { store: array_at(bytes, 40), incarnation: array_at(bytes, 56), segment: u64_at(bytes, 72) };
        HEADER.check(bytes, Seed::of(&identity).raw(), purpose)?;
        check_known(u8_at(bytes, 36), KIND.into(), "segment kind")?;
        check_known(u8_at(bytes, 37), 1, "checksum algorithm")?;
        let encoding = match u8_at(bytes, 38) {
            1 => Encoding::Zstd,
            2 => Encoding::Residue,
            other => return Err(Fault::Unsupported { what: "compression", value: other.into() }),
        };
        check_known(u8_at(bytes, 39), 0, "encryption")?;
        check_reserved(bytes, 156, COMPACTED_HEADER_LEN, "reserved bytes of the compacted segment's header")?;
        numbered_at(bytes, 72, "segment number")?;
        let header = Self {
            identity,
            generation: numbered_at(bytes, 80, "segment generation")?,
            written_by: u32_at(bytes, 32),
            created_at: u64_at(bytes, 88),
            segment_len: number_at(bytes, 96, "segment length")?,
            stored_len: number_at(bytes, 104, "bytes held of a segment")?,
            file_len: number_at(bytes, 112, "length of a container")?,
            encoding,
            block_len: u32_at(bytes, 120),
            block_count: u32_at(bytes, 124),
            dictionary_len: u32_at(bytes, 128),
            dictionary_checksum: u32_at(bytes, 132),
            blocks_checksum: u32_at(bytes, 136),
            removed_count: u32_at(bytes, 140),
            removed_checksum: u32_at(bytes, 144),
            final_checksum: u32_at(bytes, 148),
            content_checksum: u32_at(bytes, 152),
        };
        header.check()?;
        Ok((header, u32_at(bytes, 16)))
    }

    fn check(&self) -> Result<(), Fault> {
        let is_length = self.segment_len.is_multiple_of(PAGE_LEN) && self.segment_len <= NUMBER_MAX / 2;
        if !is_length || self.segment_len < PAGE_LEN {
            return Err(Fault::Length { what: "segment length", value: self.segment_len });
        }
        if self.stored_len < PAGE_LEN || self.stored_len > self.segment_len {
            return Err(Fault::Length { what: "bytes held of a segment", value: self.stored_len });
        }
        let is_block = self.block_len.is_power_of_two() && (BLOCK_LEN_MIN..=BLOCK_LEN_MAX).contains(&self.block_len);
        if !is_block {
            return Err(Fault::Length { what: "length of a block", value: self.block_len.into() });
        }
        if u64::from(self.block_count) != self.stored_len.div_ceil(self.block_len.into()) {
            return Err(Fault::Count { what: "number of blocks", value: self.block_count.into() });
        }
        if self.dictionary_len > DICTIONARY_LEN_MAX {
            return Err(Fault::Length { what: "length of a dictionary", value: self.dictionary_len.into() });
        }
        // Each block has a byte at least.
        let least = self.blocks_from() + u64::from(self.block_count) + self.tables_len();
        if self.file_len < least {
            return Err(Fault::Length { what: "length of a container", value: self.file_len });
        }
        Ok(())
    }

    /// Seed of the container's checksums, and of all in the segment.
    pub fn seed(&self) -> Seed {
        Seed::of(&self.identity)
    }

    /// Where the dictionary lies in the file.
    pub fn dictionary(&self) -> Range<u64> {
        COMPACTED_HEADER_LEN as u64..self.blocks_from()
    }

    /// Where the first block begins.
    pub fn blocks_from(&self) -> u64 {
        COMPACTED_HEADER_LEN as u64 + u64::from(self.dictionary_len)
    }

    fn tables_len(&self) -> u64 {
        self.block_table_len() + u64::from(self.removed_count) * REMOVED_ENTRY_LEN as u64
    }

    fn block_table_len(&self) -> u64 {
        u64::from(self.block_count) * BLOCK_ENTRY_LEN as u64
    }

    /// Where the table of blocks lies, behind the last of them.
    pub fn block_table(&self) -> Range<u64> {
        let from = self.file_len - self.tables_len();
        from..from + self.block_table_len()
    }

    /// Where the entries of events that were taken out lie: they end the file.
    pub fn removed_table(&self) -> Range<u64> {
        self.block_table().end..self.file_len
    }

    /// How many bytes of the segment block `number` holds.
    pub fn block_content_len(&self, number: u32) -> u32 {
        let from = u64::from(number) * u64::from(self.block_len);
        self.stored_len.saturating_sub(from).min(self.block_len.into()) as u32
    }

    /// Verifies the dictionary's bytes.
    ///
    /// # Errors
    /// `Checksum`.
    pub fn check_dictionary(&self, bytes: &[u8]) -> Result<(), Fault> {
        check_crc(self.seed().raw(), bytes, self.dictionary_checksum, "dictionary")
    }
}

/// Where the blocks of a container lie, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockTable {
    /// Offset of each block in the file, and of what follows the last.
    offsets: Vec<u64>,
    checksums: Vec<u32>,
    seed: Seed,
}

impl BlockTable {
    /// Reads and verifies the bytes at [`CompactedHeader::block_table`].
    ///
    /// # Errors
    /// `Checksum`; `Length` where a block is empty, longer than what it holds, or the blocks do not fill the file up to the
    /// table.
    pub fn decode(header: &CompactedHeader, bytes: &[u8]) -> Result<Self, Fault> {
        let seed = header.seed();
        if bytes.len() as u64 != header.block_table_len() {
            return Err(Fault::Truncated { need: header.block_table_len(), have: bytes.len() as u64 });
        }
        check_crc(seed.raw(), bytes, header.blocks_checksum, "table of blocks")?;
        let mut offsets = Vec::with_capacity(header.block_count as usize + 1);
        let mut checksums = Vec::with_capacity(header.block_count as usize);
        let mut at = header.blocks_from();
        for (number, entry) in bytes.chunks_exact(BLOCK_ENTRY_LEN).enumerate() {
            let len = u32_at(entry, 0);
            if len == 0 || len > header.block_content_len(number as u32) {
                return Err(Fault::Length { what: "length of a compressed block", value: len.into() });
            }
            offsets.push(at);
            checksums.push(u32_at(entry, 4));
            at += u64::from(len);
        }
        offsets.push(at);
        if at != header.block_table().start {
            return Err(Fault::Length { what: "length of the compressed blocks", value: at });
        }
        Ok(Self { offsets, checksums, seed })
    }

    /// Where the block lies in the file.
    #[inline]
    pub fn place(&self, number: u32) -> Option<Range<u64>> {
        let at = number as usize;
        Some(*self.offsets.get(at)?..*self.offsets.get(at + 1)?)
    }

    /// Verifies a block's bytes as they stand in the file.
    ///
    /// # Errors
    /// `Checksum`.
    #[inline]
    pub fn check(&self, number: u32, bytes: &[u8]) -> Result<(), Fault> {
        let found = self.checksums.get(number as usize).copied().unwrap_or_default();
        check_crc(block_seed(self.seed, number), bytes, found, "block")
    }
}

/// A block verifies in its place alone.
fn block_seed(seed: Seed, number: u32) -> u32 {
    seed.record(u64::from(number) + 1) ^ 0x424c_4f43
}

/// The entry of a block in the table.
pub fn block_entry(seed: Seed, number: u32, bytes: &[u8]) -> [u8; BLOCK_ENTRY_LEN] {
    let mut entry = [0; BLOCK_ENTRY_LEN];
    put(&mut entry, 0, (bytes.len() as u32).to_le_bytes());
    put(&mut entry, 4, crc(block_seed(seed, number), bytes).to_le_bytes());
    entry
}

/// Content hashes of events that were taken out, by position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovedTable {
    bytes: Vec<u8>,
}

impl RemovedTable {
    /// Reads and verifies the bytes at [`CompactedHeader::removed_table`].
    ///
    /// # Errors
    /// `Checksum`; `Order` where positions do not ascend.
    pub fn decode(header: &CompactedHeader, bytes: Vec<u8>) -> Result<Self, Fault> {
        let need = u64::from(header.removed_count) * REMOVED_ENTRY_LEN as u64;
        if bytes.len() as u64 != need {
            return Err(Fault::Truncated { need, have: bytes.len() as u64 });
        }
        check_crc(header.seed().raw(), &bytes, header.removed_checksum, "table of removed events")?;
        let table = Self { bytes };
        if !table.entries().map(|(position, _)| position).is_sorted_by(|before, after| before < after) {
            return Err(Fault::Order { what: "removed events" });
        }
        Ok(table)
    }

    /// Adds an event behind those before it.
    ///
    /// # Panics
    /// If its position does not lie behind theirs.
    pub fn push(&mut self, position: u64, hash: [u8; CONTENT_HASH_LEN]) {
        assert!(self.entries().next_back().is_none_or(|(last, _)| last < position), "positions ascend");
        self.bytes.extend_from_slice(&position.to_le_bytes());
        self.bytes.extend_from_slice(&hash);
    }

    /// Positions and hashes.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (u64, [u8; CONTENT_HASH_LEN])> {
        self.bytes.chunks_exact(REMOVED_ENTRY_LEN).map(|entry| (u64_at(entry, 0), array_at(entry, 8)))
    }

    /// The hash of the event at `position`, if it is kept.
    pub fn hash_of(&self, position: u64) -> Option<[u8; CONTENT_HASH_LEN]> {
        let (entries, _) = self.bytes.as_chunks::<REMOVED_ENTRY_LEN>();
        let at = entries.binary_search_by_key(&position, |entry| u64_at(entry, 0)).ok()?;
        Some(array_at(&entries[at], 8))
    }

    /// The bytes of the table.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Takes the content of events out of a whole batch, which keeps its length: makes the checksums of their records and of
/// its header anew. `is_removed` is asked of each event, also of those whose content is not there any more. Answers how many were
/// taken out; with none the batch is as it was.
///
/// # Errors
/// Any [`Fault`] of the batch; it is then as it was.
pub fn take_out(
    batch: &mut [u8],
    header: &BatchHeader,
    seed: Seed,
    mut is_removed: impl FnMut(&EventFrame<'_>) -> bool,
) -> Result<u32, Fault> {
    let mut chosen: Vec<(usize, u64)> = Vec::new();
    scan::verify_batch(batch, header, seed, |offset, position, record| {
        if let Record::Event(event) = record
            && is_removed(&event)
            && !event.is_compacted()
        {
            chosen.push((offset, position));
        }
    })?;
    if chosen.is_empty() {
        return Ok(0);
    }
    for (offset, position) in &chosen {
        let frame = &mut batch[*offset..];
        let len = record::frame_len(frame)?;
        let frame = &mut frame[..len];
        let Record::Event(event) = record::decode(frame, seed, *position)? else { continue };
        let ranges: Vec<Range<usize>> = event.content_ranges().collect();
        record::take_out(frame, ranges.into_iter());
        let checksum = crc(seed.record(*position), &frame[4..]);
        put(frame, 0, checksum.to_le_bytes());
    }
    let checksums = checksums_of(batch, header, seed)?;
    let renewed = BatchHeader { records_checksum: checksums, ..*header };
    put(batch, 0, renewed.encode(seed));
    Ok(chosen.len() as u32)
}

/// The checksum of all checksums in a batch, as they stand there.
fn checksums_of(batch: &[u8], header: &BatchHeader, seed: Seed) -> Result<u32, Fault> {
    let mut list = ChecksumList::new(seed);
    let mut at = BATCH_HEADER_LEN;
    for _ in 0..header.record_count {
        let frame = batch.get(at..).unwrap_or_default();
        list.push(u32_at(frame, 0));
        at += record::frame_len(frame)?;
    }
    while header.has_sections && at < header.len() {
        let rest = batch.get(at..).unwrap_or_default();
        list.push(u32_at(rest, 0));
        at += (u32_at(rest, 4) as usize).max(SECTION_HEADER_LEN).next_multiple_of(8);
    }
    Ok(list.finish())
}
