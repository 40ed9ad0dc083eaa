//! What a decoder found wrong.

use thiserror::Error;

/// Why bytes were refused. Names the place inside the structure; the caller knows the file and the offset.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// Fewer bytes than the structure needs.
    #[error("{need} bytes are needed, {have} are there")]
    Truncated {
        /// Bytes needed.
        need: u64,
        /// Bytes given.
        have: u64,
    },
    /// The bytes are not those that were written, or not here.
    #[error("checksum of the {what} does not match: the bytes give {expected:08x}, {found:08x} is written")]
    Checksum {
        /// Structure.
        what: &'static str,
        /// Checksum computed from the bytes.
        expected: u32,
        /// Checksum that stands there.
        found: u32,
    },
    /// The file does not begin as such a file does.
    #[error("this is no {what}: the magic bytes are wrong")]
    Magic {
        /// Structure.
        what: &'static str,
    },
    /// A length or offset that cannot be.
    #[error("{what} cannot be {value}")]
    Length {
        /// Field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// Reserved or padding bytes are not zero.
    #[error("{what} are not zero")]
    Reserved {
        /// Bytes.
        what: &'static str,
    },
    /// Another position than the one that must stand here.
    #[error("position {found} stands where {expected} must")]
    Position {
        /// Position that must stand here.
        expected: u64,
        /// Position that does.
        found: u64,
    },
    /// The structure belongs to another store, segment or place.
    #[error("{what} is that of another place")]
    Identity {
        /// Field.
        what: &'static str,
    },
    /// A name is empty, not UTF-8, or holds a control character.
    #[error("{what} is not well formed")]
    Name {
        /// Field.
        what: &'static str,
    },
    /// A number or count that cannot be.
    #[error("{what} cannot be {value}")]
    Count {
        /// Field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// Things stand in an order that cannot be.
    #[error("{what} out of order")]
    Order {
        /// Field.
        what: &'static str,
    },
    /// Bytes to be read in place do not lie at a multiple of 16 in memory.
    #[error("{what} does not lie aligned in memory")]
    Alignment {
        /// Structure.
        what: &'static str,
    },
    /// An archive that verifies, but holds no such structure.
    #[error("{what} does not hold together")]
    Structure {
        /// Structure.
        what: &'static str,
    },
    /// Intact, but made by a later version, or with a feature this version does not know.
    #[error("{what} {value:#x} is not supported by this version")]
    Unsupported {
        /// Field.
        what: &'static str,
        /// Its value, or the unknown bits of it.
        value: u64,
    },
}

// Decoders return it by value on hot paths.
const _: () = assert!(size_of::<Fault>() <= 32);
