//! What the files of the index have in common: a header, one archive that is read in place, and a table of checksums,
//! one for each block of the archive.
//!
//! ```text
//! +---------------+----------------------------------------------------+---------+
//! | header 4096   | archive: flat arrays of plain integers, then root  | table   |
//! +---------------+----------------------------------------------------+---------+
//!                 block 0     block 1     ...                          crc a block
//! ```
//!
//! The header's own checksum is the *root*: it covers the checksum of the table, and so every byte of the file. Who knows
//! the root knows whether this is the file it means; nothing but header and table is read for that. A block is verified
//! when a look-up first reads from it, see [`Touch`].
//!
//! All of it is derived from the log. Whatever is wrong with a file of the index means *rebuild*, never *lost*.

mod archive;
mod buckets;
mod check_table;
mod view;

use crate::field::{array_at, check_known, check_reserved, number_at, numbered_at, put, u8_at, u32_at, u64_at};
use crate::header::{Header, Purpose, Reach};
use crate::{Fault, NUMBER_MAX};

pub use archive::{ArchiveWriter, FileBuffer, FinishedFile, Sink, WriteError};
pub(crate) use archive::{Section, checked_root, none_written};
pub(crate) use buckets::{BucketBuilder, Buckets, table_len};
pub use check_table::{BLOCK_LEN, CheckTable, TableBuilder};
pub(crate) use view::{Flat, View, Window};
pub use view::{Touch, Verified};

/// Length of the header; the archive follows.
pub const FILE_HEADER_LEN: usize = 4096;
/// Where the bytes of a file must begin in memory when its root is read: at a multiple of this. A map does.
pub const FILE_ALIGNMENT: usize = 16;
/// Longest file: archives use relative pointers of 32 bits with sign.
pub const FILE_LEN_MAX: u64 = i32::MAX as u64;

/// Bytes that begin at a multiple of [`FILE_ALIGNMENT`] in memory.
pub type FileBytes = rkyv::util::AlignedVec<FILE_ALIGNMENT>;

const HEADER: Header = Header {
    what: "header of an index file",
    magic: *b"ANNALIXF",
    len: FILE_HEADER_LEN,
    reach: Reach::Header,
    known_write: 0,
};

/// What a file of the index holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FileKind {
    /// Where the frames of one segment lie: [`places`](crate::places).
    Places,
    /// Which records have a name or an id: [`tier`](crate::tier).
    Tier,
    /// Where each stream ends: [`directory`](crate::directory).
    Directory,
    /// Where the frames of one compacted segment lie: [`packed_places`](crate::packed_places).
    PackedPlaces,
}

impl FileKind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Places => 1,
            Self::Tier => 2,
            Self::Directory => 3,
            Self::PackedPlaces => 4,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, Fault> {
        match byte {
            1 => Ok(Self::Places),
            2 => Ok(Self::Tier),
            3 => Ok(Self::Directory),
            4 => Ok(Self::PackedPlaces),
            kind => Err(Fault::Unsupported { what: "kind of an index file", value: kind.into() }),
        }
    }
}

/// What a file of the index says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileIdentity {
    /// What it holds.
    pub kind: FileKind,
    /// Id of the store.
    pub store: [u8; 16],
    /// Its number; for places the segment's.
    pub number: u64,
    /// Generation of the segment; for other files that of the index manifest which first names it.
    pub generation: u64,
    /// Seed of the hashes in it.
    pub name_hash_seed: u64,
    /// Position of the first record it covers.
    pub first_position: u64,
    /// Position of the last record it covers; `first_position - 1` if it covers none.
    pub last_position: u64,
    /// Final checksum of the segment; of a tier and of a directory: [of their segments](crate::tier::covered_checksum).
    pub final_checksum: u32,
}

impl FileIdentity {
    /// How many positions it covers.
    pub fn position_count(&self) -> u64 {
        (self.last_position + 1).saturating_sub(self.first_position)
    }
}

/// The header of a file of the index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileHeader {
    /// What the file is.
    pub identity: FileIdentity,
    /// Where its checksums lie, and the checksum of them.
    pub table: CheckTable,
}

impl FileHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; FILE_HEADER_LEN] {
        let identity = &self.identity;
        let mut bytes = [0; FILE_HEADER_LEN];
        HEADER.begin(&mut bytes);
        put(&mut bytes, 32, identity.store);
        bytes[48] = identity.kind.to_byte();
        bytes[49] = 1;
        bytes[50] = 1;
        put(&mut bytes, 52, (BLOCK_LEN as u32).to_le_bytes());
        put(&mut bytes, 56, identity.number.to_le_bytes());
        put(&mut bytes, 64, identity.generation.to_le_bytes());
        put(&mut bytes, 72, identity.name_hash_seed.to_le_bytes());
        put(&mut bytes, 80, identity.first_position.to_le_bytes());
        put(&mut bytes, 88, identity.last_position.to_le_bytes());
        put(&mut bytes, 96, self.table.archive_len().to_le_bytes());
        put(&mut bytes, 104, identity.final_checksum.to_le_bytes());
        put(&mut bytes, 108, self.table.checksum().to_le_bytes());
        HEADER.finish(&mut bytes, 0);
        bytes
    }

    /// Reads and verifies a header, for a writer.
    ///
    /// # Errors
    /// Any [`Fault`]; all but `Unsupported` mean that the file is to be rebuilt.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        Self::decode_for(bytes, Purpose::Write)
    }

    /// As [`FileHeader::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &[u8], purpose: Purpose) -> Result<Self, Fault> {
        HEADER.check(bytes, 0, purpose)?;
        let kind = FileKind::from_byte(u8_at(bytes, 48))?;
        check_known(u8_at(bytes, 49), 1, "name-hash algorithm")?;
        check_known(u8_at(bytes, 50), 1, "checksum algorithm")?;
        check_reserved(bytes, 51, 52, "reserved bytes of an index file")?;
        check_known(u32_at(bytes, 52), BLOCK_LEN as u64, "block length")?;
        check_reserved(bytes, 112, FILE_HEADER_LEN, "reserved bytes of an index file")?;
        let identity = FileIdentity {
            kind,
            store: array_at(bytes, 32),
            number: numbered_at(bytes, 56, "number of an index file")?,
            generation: number_at(bytes, 64, "generation of an index file")?,
            name_hash_seed: u64_at(bytes, 72),
            first_position: numbered_at(bytes, 80, "first position of an index file")?,
            last_position: number_at(bytes, 88, "last position of an index file")?,
            final_checksum: u32_at(bytes, 104),
        };
        identity.check()?;
        let table = CheckTable::new(u64_at(bytes, 96), u32_at(bytes, 108))?;
        Ok(Self { identity, table })
    }

    /// Reads and verifies header and table of a whole file and says whether it is the one that is meant: its kind and
    /// `root`. Costs the checksum of 4 KiB and of 4 bytes for each 16 KiB.
    ///
    /// # Errors
    /// Any [`Fault`]; `Identity` if it is intact, but another file.
    pub fn open(file: &[u8], kind: FileKind, root: u32, purpose: Purpose) -> Result<Self, Fault> {
        let header = Self::decode_for(file, purpose)?;
        if header.identity.kind != kind {
            return Err(Fault::Identity { what: "kind of an index file" });
        }
        if root_of(file) != root {
            return Err(Fault::Identity { what: "root of an index file" });
        }
        header.table.verify(file)?;
        Ok(header)
    }
}

impl FileIdentity {
    fn check(&self) -> Result<(), Fault> {
        if self.last_position < self.first_position - 1 {
            return Err(Fault::Order { what: "first and last position of an index file" });
        }
        // Positions in a tier and in places are 32 bits relative to the first.
        if self.kind != FileKind::Directory && self.position_count() > u64::from(u32::MAX) {
            return Err(Fault::Count { what: "positions of an index file", value: self.position_count() });
        }
        Ok(())
    }

    /// As [`FileIdentity::check`], for what no decoder has seen.
    pub(crate) fn check_for_writing(&self, kind: FileKind) -> Result<(), Fault> {
        if self.kind != kind {
            return Err(Fault::Identity { what: "kind of an index file" });
        }
        let numbers = [self.number, self.generation, self.first_position, self.last_position];
        if let Some(value) = numbers.into_iter().find(|number| *number > NUMBER_MAX) {
            return Err(Fault::Count { what: "a number of an index file", value });
        }
        if self.number == 0 || self.first_position == 0 {
            return Err(Fault::Count { what: "a number of an index file", value: 0 });
        }
        self.check()
    }
}

/// The root of a file by the bytes of its verified header: the header's checksum, which stands for all of the file.
pub fn root_of(header: &[u8]) -> u32 {
    u32_at(header, 16)
}
