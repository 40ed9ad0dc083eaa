//! The index of a sealed segment: a header of ours, then one archive that is read in place.
//!
//! An index is derived from its segment. Whatever is wrong with it means *rebuild*, never *lost*.

mod lookup;
mod writer;

use rkyv::rancor;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Serialize};

use crate::Fault;
use crate::checksum::crc;
use crate::field::{array_at, check_known, check_reserved, number_at, numbered_at, put, u8_at, u32_at, u64_at};
use crate::header::{Header, Purpose, Reach, check_crc};

pub use lookup::{BatchAt, Ids, NameAt, Names};
pub use rkyv::rend::u32_le;
pub use writer::{FinishedIndex, IndexSizes, IndexWriter};

/// Length of the header; the archive follows.
pub const INDEX_HEADER_LEN: usize = 128;
/// Where the bytes of an index must begin in memory: at a multiple of this.
pub const INDEX_ALIGNMENT: usize = 16;

const HEADER: Header =
    Header { what: "index header", magic: *b"ANNALIDX", len: INDEX_HEADER_LEN, reach: Reach::Header, known_write: 0 };
/// Archives use relative pointers of 32 bits with sign.
const ARCHIVE_LEN_MAX: u64 = i32::MAX as u64;

/// Bytes that begin at a multiple of [`INDEX_ALIGNMENT`] in memory.
pub type IndexBytes = AlignedVec<INDEX_ALIGNMENT>;

/// What an index says of itself: the segment it was made from, by content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexHeader {
    /// Id of the store.
    pub store: [u8; 16],
    /// Number of the segment.
    pub segment: u64,
    /// Generation of the segment.
    pub generation: u64,
    /// Final checksum of the segment.
    pub final_checksum: u32,
    /// Seed of the hashes in it.
    pub name_hash_seed: u64,
}

/// The whole index. All positions are relative to `first_position`, all orders ascending.
#[derive(Archive, Serialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct IndexRoot {
    /// Position of the segment's first record.
    pub first_position: u64,
    /// `recorded_at` of the first batch.
    pub first_time: u64,
    /// `recorded_at` of the last batch.
    pub last_time: u64,
    /// Per record: offset of its frame in the segment, divided by 8; 0 for a control record.
    pub offsets: Vec<u32>,
    /// Per batch, by position.
    pub batches: Vec<BatchRow>,
    /// Per name hash, by hash.
    pub keys: Vec<KeyRow>,
    /// Positions, those of one key ascending.
    pub postings: Vec<u32>,
    /// Per event, by hash and position.
    pub ids: Vec<IdRow>,
    /// Per stream, by name.
    pub streams: Vec<NameRow>,
    /// Per type, by name.
    pub types: Vec<NameRow>,
    /// The names of streams and types.
    pub names: Vec<u8>,
}

impl IndexRoot {
    /// About the length of the archive.
    fn rows_len(&self) -> usize {
        let rows = size_of_val(&self.offsets[..])
            + size_of_val(&self.batches[..])
            + size_of_val(&self.keys[..])
            + size_of_val(&self.postings[..])
            + size_of_val(&self.ids[..])
            + size_of_val(&self.streams[..])
            + size_of_val(&self.types[..]);
        rows + self.names.len() + size_of::<ArchivedIndexRoot>() + INDEX_HEADER_LEN
    }
}

/// One batch.
#[derive(Archive, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchRow {
    /// Relative position of its first record.
    pub first: u32,
    /// Offset of its header in the segment, divided by 8.
    pub offset: u32,
    /// Its `recorded_at`.
    pub recorded_at: u64,
}

/// One key: a stream, type or tag by its hash.
#[derive(Archive, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyRow {
    /// Hash of kind and name.
    pub hash: u64,
    /// Where its positions begin in `postings`.
    pub start: u32,
    /// How many there are.
    pub count: u32,
}

/// One event id by its hash.
#[derive(Archive, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdRow {
    /// Hash of the id.
    pub hash: u64,
    /// Relative position of the event.
    pub position: u32,
    /// 0.
    pub reserved: u32,
}

/// One stream or type by its name.
#[derive(Archive, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameRow {
    /// Where the name begins in `names`.
    pub offset: u32,
    /// Length of the name in bytes.
    pub len: u32,
    /// Last revision of a stream here; for a type 0.
    pub last_revision: u64,
    /// Relative position of its first event here.
    pub first: u32,
    /// Relative position of its last event here.
    pub last: u32,
}

/// The whole file: header and archive.
///
/// # Errors
/// `Length` if the archive would reach 2 GiB.
pub fn encode(header: &IndexHeader, root: &IndexRoot) -> Result<IndexBytes, Fault> {
    let mut bytes = IndexBytes::with_capacity(INDEX_HEADER_LEN + root.rows_len());
    bytes.extend_from_slice(&[0; INDEX_HEADER_LEN]);
    let too_long = |_: rancor::Failure| Fault::Length { what: "archive length", value: ARCHIVE_LEN_MAX + 1 };
    let mut bytes = rkyv::api::high::to_bytes_in(root, bytes).map_err(too_long)?;
    let archive_len = (bytes.len() - INDEX_HEADER_LEN) as u64;
    if archive_len > ARCHIVE_LEN_MAX {
        return Err(Fault::Length { what: "archive length", value: archive_len });
    }
    let archive_crc = crc(0, &bytes[INDEX_HEADER_LEN..]);
    let head = &mut bytes[..INDEX_HEADER_LEN];
    HEADER.begin(head);
    encode_header(header, archive_len, archive_crc, head);
    Ok(bytes)
}

/// Fills in a header that was begun.
fn encode_header(header: &IndexHeader, archive_len: u64, archive_crc: u32, head: &mut [u8]) {
    put(head, 32, header.store);
    put(head, 48, header.segment.to_le_bytes());
    put(head, 56, header.generation.to_le_bytes());
    put(head, 64, header.final_checksum.to_le_bytes());
    head[68] = 1;
    put(head, 72, header.name_hash_seed.to_le_bytes());
    put(head, 80, archive_len.to_le_bytes());
    put(head, 88, archive_crc.to_le_bytes());
    HEADER.finish(head, 0);
}

/// Verifies the whole file and opens the archive in place; for a writer. Costs the checksum of the file, about 1 ms for
/// 10 MB; nothing is copied.
///
/// Whether rows are in order is not checked: rows out of order are not found, and nothing worse.
///
/// # Errors
/// Any [`Fault`]; all but `Unsupported` mean that the index is to be rebuilt. `Alignment` if `bytes` do not begin at a
/// multiple of [`INDEX_ALIGNMENT`] in memory, as they do in a map or in [`IndexBytes`].
pub fn open(bytes: &[u8]) -> Result<(IndexHeader, &ArchivedIndexRoot), Fault> {
    open_for(bytes, Purpose::Write)
}

/// As [`open`], for `purpose`.
///
/// # Errors
/// As there.
pub fn open_for(bytes: &[u8], purpose: Purpose) -> Result<(IndexHeader, &ArchivedIndexRoot), Fault> {
    HEADER.check(bytes, 0, purpose)?;
    check_known(u8_at(bytes, 68), 1, "name-hash algorithm")?;
    check_reserved(bytes, 69, 72, "reserved bytes of the index header")?;
    check_reserved(bytes, 92, INDEX_HEADER_LEN, "reserved bytes of the index header")?;
    let header = IndexHeader {
        store: array_at(bytes, 32),
        segment: numbered_at(bytes, 48, "segment number")?,
        generation: number_at(bytes, 56, "segment generation")?,
        final_checksum: u32_at(bytes, 64),
        name_hash_seed: u64_at(bytes, 72),
    };
    let archive = bytes.get(INDEX_HEADER_LEN..).unwrap_or_default();
    let len = u64_at(bytes, 80);
    if len != archive.len() as u64 || len > ARCHIVE_LEN_MAX {
        return Err(Fault::Length { what: "archive length", value: len });
    }
    check_crc(0, archive, u32_at(bytes, 88), "archive")?;
    Ok((header, access(bytes)?))
}

/// The archive of a file that [`open`] verified before. Structure and bounds are checked again, the checksum is not:
/// costs tens of nanoseconds, whatever the length.
///
/// # Errors
/// `Structure` if there is no sound archive; `Alignment` as for [`open`].
#[inline]
pub fn access(bytes: &[u8]) -> Result<&ArchivedIndexRoot, Fault> {
    if !bytes.as_ptr().addr().is_multiple_of(INDEX_ALIGNMENT) {
        return Err(Fault::Alignment { what: "index" });
    }
    let archive = bytes.get(INDEX_HEADER_LEN..).unwrap_or_default();
    rkyv::access::<ArchivedIndexRoot, rancor::Failure>(archive).map_err(|_| Fault::Structure { what: "archive" })
}
