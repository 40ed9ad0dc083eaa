//! Typed sections: what a batch carries behind its records, and what takes no position.

use crate::checksum::{Seed, crc};
use crate::consumer::{self, ConsumerSection};
use crate::field::{put, u8_at, u32_at};
use crate::header::{Purpose, check_crc, check_flags};
use crate::{Fault, field};

/// Length of what stands in front of a section's entries.
pub const SECTION_HEADER_LEN: usize = 16;
/// Kind of a section that holds changes of consumers.
pub const SECTION_CONSUMERS: u8 = 1;

/// A section of an unknown kind with this bit is passed over.
const MAY_PASS: u8 = 0x80;

/// One verified section, borrowed from the bytes it was decoded from.
#[derive(Clone, Copy, Debug)]
pub enum Section<'a> {
    /// Changes of consumers.
    Consumers(ConsumerSection<'a>),
    /// Of a kind that this version does not know and need not.
    Other(&'a [u8]),
}

impl<'a> Section<'a> {
    /// The section's bytes: header, entries, padding.
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Consumers(section) => section.bytes(),
            Self::Other(bytes) => bytes,
        }
    }

    /// Verifies and reads the section at the beginning of `bytes`, which stands in the batch that begins with
    /// `first_position`.
    pub(crate) fn decode(
        bytes: &'a [u8],
        seed: Seed,
        first_position: u64,
        purpose: Purpose,
    ) -> Result<(Self, u32), Fault> {
        if bytes.len() < SECTION_HEADER_LEN {
            return Err(Fault::Truncated { need: SECTION_HEADER_LEN as u64, have: bytes.len() as u64 });
        }
        let len = u32_at(bytes, 4);
        if (len as usize) < SECTION_HEADER_LEN || len > u32::MAX - 7 {
            return Err(Fault::Length { what: "length of the section", value: len.into() });
        }
        let need = (len as usize).next_multiple_of(8);
        let Some(frame) = bytes.get(..need) else {
            return Err(Fault::Truncated { need: need as u64, have: bytes.len() as u64 });
        };
        let checksum = u32_at(frame, 0);
        check_crc(seed.section(first_position), &frame[4..], checksum, "section")?;
        check_flags(u8_at(frame, 9), u8_at(frame, 10), 0u8, purpose)?;
        field::check_reserved(frame, len as usize, need, "padding bytes of the section")?;
        let section = match u8_at(frame, 8) {
            SECTION_CONSUMERS => Self::Consumers(consumer::read_section(frame, len as usize, first_position)?),
            kind if kind & MAY_PASS != 0 => Self::Other(frame),
            kind => return Err(Fault::Unsupported { what: "section kind", value: kind.into() }),
        };
        Ok((section, checksum))
    }
}

/// Appends a section of `kind` with `count` entries, which are `entries`; answers its checksum.
pub(crate) fn encode(
    buffer: &mut Vec<u8>,
    seed: Seed,
    first_position: u64,
    kind: u8,
    count: u32,
    entries: &[u8],
) -> u32 {
    let at = buffer.len();
    let len = SECTION_HEADER_LEN + entries.len();
    let stated = u32::try_from(len).expect("a section is shorter than 4 GiB");
    buffer.resize(at + SECTION_HEADER_LEN, 0);
    put(buffer, at + 4, stated.to_le_bytes());
    buffer[at + 8] = kind;
    put(buffer, at + 12, count.to_le_bytes());
    buffer.extend_from_slice(entries);
    buffer.resize(at + len.next_multiple_of(8), 0);
    seal(buffer, at, seed, first_position)
}

/// Appends the bytes of a section that was decoded elsewhere; answers its checksum here.
pub(crate) fn encode_again(buffer: &mut Vec<u8>, seed: Seed, first_position: u64, section: &[u8]) -> u32 {
    let at = buffer.len();
    buffer.extend_from_slice(section);
    seal(buffer, at, seed, first_position)
}

fn seal(buffer: &mut [u8], at: usize, seed: Seed, first_position: u64) -> u32 {
    let checksum = crc(seed.section(first_position), &buffer[at + 4..]);
    put(buffer, at, checksum.to_le_bytes());
    checksum
}
