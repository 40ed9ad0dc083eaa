//! Names of streams, types and tags, and the hashes they are found by.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Longest stream, type or tag name, in bytes.
pub const NAME_LEN_MAX: usize = 255;

/// 1–255 bytes of UTF-8 without control characters.
#[inline]
pub(crate) fn is_well_formed(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        return false;
    }
    // Printable ASCII needs no further look; this loop has no early exit, so that it becomes vector code.
    if name.iter().fold(true, |ok, byte| ok & (0x20..=0x7e).contains(byte)) {
        return true;
    }
    std::str::from_utf8(name).is_ok_and(|text| !text.chars().any(char::is_control))
}

/// What kind of name a key stands for: a byte in front of the hashed name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum KeyKind {
    Stream = b's',
    Type = b't',
    Tag = b'g',
}

/// The stable hash of names and ids, seeded per store so that nobody can choose collisions. Never 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameHash {
    pub(crate) seed: u64,
}

impl NameHash {
    #[inline]
    pub(crate) fn key(self, kind: KeyKind, name: &str) -> u64 {
        let mut bytes = [0u8; NAME_LEN_MAX + 1];
        bytes[0] = kind as u8;
        let len = name.len().min(NAME_LEN_MAX);
        bytes[1..=len].copy_from_slice(&name.as_bytes()[..len]);
        xxh3_64_with_seed(&bytes[..=len], self.seed).max(1)
    }

    #[inline]
    pub(crate) fn id(self, id: &[u8; 16]) -> u64 {
        xxh3_64_with_seed(id, self.seed).max(1)
    }
}
