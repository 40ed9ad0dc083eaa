//! What the headers of all files have in common: magic, version, length, checksum, flags.

use crate::checksum::crc;
use crate::field::{array_at, put, u32_at};
use crate::{FORMAT_VERSION, Fault};

/// What the decoded structure is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Reading: flags that only a writer must understand are passed over.
    Read,
    /// Writing what comes after, or rewriting it: flags that a reader or a writer must understand are refused if
    /// unknown.
    Write,
}

/// Bytes in front of what the checksum covers; their meaning is the same in every version.
pub(crate) const PREFIX_LEN: usize = 20;
const LENGTH_MAX: u32 = 1 << 16;

/// How far a header's checksum reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Header,
    File,
}

/// One kind of header.
pub(crate) struct Header {
    pub(crate) what: &'static str,
    pub(crate) magic: [u8; 8],
    pub(crate) len: usize,
    pub(crate) reach: Reach,
    pub(crate) known_write: u32,
}

impl Header {
    /// Verifies magic, version, length, checksum and flags; `seed` is that of the checksum.
    pub(crate) fn check(&self, bytes: &[u8], seed: u32, purpose: Purpose) -> Result<(), Fault> {
        if bytes.len() < self.len {
            return Err(Fault::Truncated { need: self.len as u64, have: bytes.len() as u64 });
        }
        if array_at(bytes, 0) != self.magic {
            return Err(Fault::Magic { what: self.what });
        }
        let version = u32_at(bytes, 8);
        let len = u32_at(bytes, 12);
        // A later version may have a longer header. Its checksum is verified before it is believed to be one.
        let fits = match version {
            0 => return Err(Fault::Count { what: "format version", value: 0 }),
            FORMAT_VERSION => len as usize == self.len,
            _ => len as usize >= self.len && len <= LENGTH_MAX && len as usize <= bytes.len(),
        };
        if !fits {
            return Err(Fault::Length { what: "header length", value: len.into() });
        }
        let end = if self.reach == Reach::File { bytes.len() } else { len as usize };
        // The version is part of the seed, so that a damaged one does not pass for a later one.
        let seed = seed ^ version ^ FORMAT_VERSION;
        check_crc(seed, bytes.get(PREFIX_LEN..end).unwrap_or_default(), u32_at(bytes, 16), self.what)?;
        if version != FORMAT_VERSION {
            return Err(Fault::Unsupported { what: "format version", value: version.into() });
        }
        check_flags(u32_at(bytes, 20), u32_at(bytes, 24), self.known_write, purpose)
    }

    /// Writes magic, version and length; flags are zero until the caller sets some.
    pub(crate) fn begin(&self, bytes: &mut [u8]) {
        put(bytes, 0, self.magic);
        put(bytes, 8, FORMAT_VERSION.to_le_bytes());
        put(bytes, 12, (self.len as u32).to_le_bytes());
    }

    /// Writes the checksum of what now stands there.
    pub(crate) fn finish(&self, bytes: &mut [u8], seed: u32) {
        let end = if self.reach == Reach::File { bytes.len() } else { self.len };
        let checksum = crc(seed, &bytes[PREFIX_LEN..end]);
        put(bytes, 16, checksum.to_le_bytes());
    }
}

#[inline]
pub(crate) fn check_crc(seed: u32, bytes: &[u8], found: u32, what: &'static str) -> Result<(), Fault> {
    let expected = crc(seed, bytes);
    let ignored = u32::from(cfg!(annals_plant = "checksum-bit-ignored"));
    if expected | ignored == found | ignored { Ok(()) } else { Err(Fault::Checksum { what, expected, found }) }
}

/// No version-1 structure has flags that must be understood to read.
#[inline]
pub(crate) fn check_flags(
    read: impl Into<u64>,
    write: impl Into<u64>,
    known_write: impl Into<u64>,
    purpose: Purpose,
) -> Result<(), Fault> {
    let read = read.into();
    let write = write.into() & !known_write.into();
    if read != 0 {
        return Err(Fault::Unsupported { what: "flags that must be understood to read", value: read });
    }
    if write != 0 && purpose == Purpose::Write {
        return Err(Fault::Unsupported { what: "flags that must be understood to write", value: write });
    }
    Ok(())
}
