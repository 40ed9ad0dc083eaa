//! Names of streams, types and tags, and the hashes they are found by.

use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use annals_format::name::NAME_LEN_MAX;
pub(crate) use annals_format::name::is_well_formed;

/// Makes the second hash of a name another one: the golden ratio's digits.
const CHECK_SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// What kind of name a key stands for: a byte in front of the hashed name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum KeyKind {
    Stream = b's',
    Type = b't',
    Tag = b'g',
    /// The one key, of no name, that all control records have.
    Control = b'c',
}

/// Room for the kind and all names but long ones.
const SHORT: usize = 32;

/// The stable hash of names and ids, seeded per store so that nobody can choose collisions. Never 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameHash {
    pub(crate) seed: u64,
}

impl NameHash {
    #[inline]
    pub(crate) fn key(self, kind: KeyKind, name: &str) -> u64 {
        // Most names are short: clearing room for the longest would cost more than hashing them.
        if name.len() < SHORT {
            self.key_in::<SHORT>(kind, name)
        } else {
            self.key_in::<{ NAME_LEN_MAX + 1 }>(kind, name)
        }
    }

    /// `ROOM` bytes hold the kind and the name.
    #[inline]
    fn key_in<const ROOM: usize>(self, kind: KeyKind, name: &str) -> u64 {
        let mut bytes = [0u8; ROOM];
        bytes[0] = kind as u8;
        let len = name.len().min(ROOM - 1);
        bytes[1..=len].copy_from_slice(&name.as_bytes()[..len]);
        xxh3_64_with_seed(&bytes[..=len], self.seed).max(1)
    }

    /// The key of all control records.
    pub(crate) fn controls(self) -> u64 {
        self.key(KeyKind::Control, "")
    }

    /// A second hash of a stream's name, in memory only: the two together stand for the name.
    #[inline]
    pub(crate) fn check(self, stream: &str) -> u64 {
        xxh3_64_with_seed(stream.as_bytes(), self.seed ^ CHECK_SEED)
    }

    #[inline]
    pub(crate) fn id(self, id: &[u8; 16]) -> u64 {
        xxh3_64_with_seed(id, self.seed).max(1)
    }
}
