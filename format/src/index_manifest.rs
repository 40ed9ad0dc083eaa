//! The index manifest `INDEX-<generation>`: which tiers and directories make up the index.
//!
//! Derived, as they are: without one, the index is made anew from the segments.

use crate::field::{array_at, check_known, check_reserved, number_at, numbered_at, put, u8_at, u32_at, u64_at};
use crate::header::{Header, Purpose, Reach};
use crate::index_file::{FILE_HEADER_LEN, FILE_LEN_MAX};
use crate::{Fault, NUMBER_MAX};

/// Length of the fixed part.
pub const INDEX_MANIFEST_HEADER_LEN: usize = 128;
/// The largest next file number. Never reached by counting; one that is larger was never written, and counting on from it would
/// end beyond what a number may be.
pub const NEXT_FILE_MAX: u64 = NUMBER_MAX / 2;
const TIER_LEN: usize = 64;
const DIRECTORY_LEN: usize = 48;

const HEADER: Header = Header {
    what: "index manifest",
    magic: *b"ANNALIXM",
    len: INDEX_MANIFEST_HEADER_LEN,
    reach: Reach::File,
    known_write: 0,
};

/// One tier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TierEntry {
    /// Number of its file.
    pub number: u64,
    /// Number of the first segment it covers.
    pub first_segment: u64,
    /// Number of the last segment it covers.
    pub last_segment: u64,
    /// Position of the first record it covers.
    pub first_position: u64,
    /// Position of the last record it covers; `first_position - 1` if there is none.
    pub last_position: u64,
    /// Generation in its header.
    pub generation: u64,
    /// Length of its file.
    pub len: u64,
    /// Its [root](crate::index_file::root_of).
    pub root: u32,
}

/// One directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryEntry {
    /// Number of its file.
    pub number: u64,
    /// The position as of which it holds.
    pub coverage: u64,
    /// Number of its streams.
    pub row_count: u64,
    /// Generation in its header.
    pub generation: u64,
    /// Length of its file.
    pub len: u64,
    /// Its [root](crate::index_file::root_of).
    pub root: u32,
}

/// One index manifest, whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexManifest {
    /// Id of the store.
    pub store: [u8; 16],
    /// One more for each; also in the file's name.
    pub generation: u64,
    /// Version of the library that wrote it: `major << 16 | minor << 8 | patch`.
    pub written_by: u32,
    /// Seed of the hashes in all files.
    pub name_hash_seed: u64,
    /// Larger than the number of any tier or directory listed, at most [`NEXT_FILE_MAX`].
    pub next_file: u64,
    /// Oldest first. Ranges never meet; there may be gaps, for what is to be rebuilt.
    pub tiers: Vec<TierEntry>,
    /// Oldest first.
    pub directories: Vec<DirectoryEntry>,
}

impl IndexManifest {
    /// The file's bytes: 128, 64 more for each tier, 48 for each directory.
    pub fn encode(&self) -> Vec<u8> {
        let len = INDEX_MANIFEST_HEADER_LEN + self.tiers.len() * TIER_LEN + self.directories.len() * DIRECTORY_LEN;
        let mut bytes = vec![0; len];
        HEADER.begin(&mut bytes);
        put(&mut bytes, 32, self.store);
        put(&mut bytes, 48, self.generation.to_le_bytes());
        put(&mut bytes, 56, (len as u64).to_le_bytes());
        put(&mut bytes, 64, self.name_hash_seed.to_le_bytes());
        put(&mut bytes, 72, self.next_file.to_le_bytes());
        put(&mut bytes, 80, (self.tiers.len() as u32).to_le_bytes());
        put(&mut bytes, 84, (self.directories.len() as u32).to_le_bytes());
        put(&mut bytes, 88, self.written_by.to_le_bytes());
        bytes[92] = 1;
        bytes[93] = 1;
        let (tiers, directories) = bytes[INDEX_MANIFEST_HEADER_LEN..].split_at_mut(self.tiers.len() * TIER_LEN);
        for (entry, place) in self.tiers.iter().zip(tiers.chunks_exact_mut(TIER_LEN)) {
            let range = [entry.first_segment, entry.last_segment, entry.first_position, entry.last_position];
            put_numbers(place, [entry.number].into_iter().chain(range).chain([entry.generation, entry.len]));
            put(place, 56, entry.root.to_le_bytes());
        }
        for (entry, place) in self.directories.iter().zip(directories.chunks_exact_mut(DIRECTORY_LEN)) {
            put_numbers(place, [entry.number, entry.coverage, entry.row_count, entry.generation, entry.len]);
            put(place, 40, entry.root.to_le_bytes());
        }
        HEADER.finish(&mut bytes, 0);
        bytes
    }

    /// Reads and verifies the whole file, for a writer.
    ///
    /// # Errors
    /// Any [`Fault`]; all but `Unsupported` mean that the index is to be rebuilt.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        Self::decode_for(bytes, Purpose::Write)
    }

    /// As [`IndexManifest::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &[u8], purpose: Purpose) -> Result<Self, Fault> {
        HEADER.check(bytes, 0, purpose)?;
        check_known(u8_at(bytes, 92), 1, "checksum algorithm")?;
        check_known(u8_at(bytes, 93), 1, "name-hash algorithm")?;
        check_reserved(bytes, 94, INDEX_MANIFEST_HEADER_LEN, "reserved bytes of the index manifest")?;
        let (tier_count, directory_count) = (u64::from(u32_at(bytes, 80)), u64::from(u32_at(bytes, 84)));
        let entries_len = tier_count * TIER_LEN as u64 + directory_count * DIRECTORY_LEN as u64;
        let len = INDEX_MANIFEST_HEADER_LEN as u64 + entries_len;
        if len != bytes.len() as u64 || u64_at(bytes, 56) != len {
            return Err(Fault::Length { what: "length of the index manifest", value: u64_at(bytes, 56) });
        }
        let entries = bytes.get(INDEX_MANIFEST_HEADER_LEN..).unwrap_or_default();
        let (tiers, directories) = entries.split_at_checked(tier_count as usize * TIER_LEN).unwrap_or_default();
        let manifest = Self {
            store: array_at(bytes, 32),
            generation: numbered_at(bytes, 48, "generation of the index manifest")?,
            written_by: u32_at(bytes, 88),
            name_hash_seed: u64_at(bytes, 64),
            next_file: decode_next_file(bytes, 72)?,
            tiers: tiers.chunks_exact(TIER_LEN).map(decode_tier).collect::<Result<_, _>>()?,
            directories: directories.chunks_exact(DIRECTORY_LEN).map(decode_directory).collect::<Result<_, _>>()?,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// What no single field can tell.
    fn check(&self) -> Result<(), Fault> {
        let mut numbers: Vec<u64> = self.tiers.iter().map(|entry| entry.number).collect();
        numbers.extend(self.directories.iter().map(|entry| entry.number));
        numbers.sort_unstable();
        if numbers.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Fault::Order { what: "numbers of index files" });
        }
        if let Some(value) = numbers.last().copied().filter(|last| *last >= self.next_file) {
            return Err(Fault::Count { what: "number of an index file", value });
        }
        for pair in self.tiers.windows(2) {
            if pair[1].first_position <= pair[0].last_position || pair[1].first_segment <= pair[0].last_segment {
                return Err(Fault::Order { what: "tiers" });
            }
        }
        if !self.directories.is_sorted_by_key(|entry| entry.coverage) {
            return Err(Fault::Order { what: "directories" });
        }
        Ok(())
    }
}

fn put_numbers(place: &mut [u8], numbers: impl IntoIterator<Item = u64>) {
    for (n, number) in numbers.into_iter().enumerate() {
        put(place, 8 * n, number.to_le_bytes());
    }
}

fn decode_tier(bytes: &[u8]) -> Result<TierEntry, Fault> {
    check_reserved(bytes, 60, TIER_LEN, "reserved bytes of a tier entry")?;
    let entry = TierEntry {
        number: numbered_at(bytes, 0, "number of an index file")?,
        first_segment: numbered_at(bytes, 8, "segment number")?,
        last_segment: numbered_at(bytes, 16, "segment number")?,
        first_position: numbered_at(bytes, 24, "first position of a tier")?,
        last_position: number_at(bytes, 32, "last position of a tier")?,
        generation: number_at(bytes, 40, "generation of an index file")?,
        len: decode_len(bytes, 48)?,
        root: u32_at(bytes, 56),
    };
    if entry.last_segment < entry.first_segment || entry.last_position < entry.first_position - 1 {
        return Err(Fault::Order { what: "range of a tier" });
    }
    Ok(entry)
}

fn decode_directory(bytes: &[u8]) -> Result<DirectoryEntry, Fault> {
    check_reserved(bytes, 44, DIRECTORY_LEN, "reserved bytes of a directory entry")?;
    Ok(DirectoryEntry {
        number: numbered_at(bytes, 0, "number of an index file")?,
        coverage: number_at(bytes, 8, "coverage of a directory")?,
        row_count: number_at(bytes, 16, "number of streams")?,
        generation: number_at(bytes, 24, "generation of an index file")?,
        len: decode_len(bytes, 32)?,
        root: u32_at(bytes, 40),
    })
}

fn decode_next_file(bytes: &[u8], at: usize) -> Result<u64, Fault> {
    match numbered_at(bytes, at, "next file number")? {
        value if value <= NEXT_FILE_MAX => Ok(value),
        value => Err(Fault::Count { what: "next file number", value }),
    }
}

fn decode_len(bytes: &[u8], at: usize) -> Result<u64, Fault> {
    match u64_at(bytes, at) {
        len if len >= FILE_HEADER_LEN as u64 && len <= FILE_LEN_MAX => Ok(len),
        value => Err(Fault::Length { what: "length of an index file", value }),
    }
}

// A length in range is a number that every decoder takes.
const _: () = assert!(FILE_LEN_MAX <= NUMBER_MAX);
