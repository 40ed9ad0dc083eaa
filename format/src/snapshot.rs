//! Files of snapshots `snapshots-<number>`: a header, and frames that each hold a state and what it is the state of.

use crate::checksum::crc;
use crate::field::{array_at, check_known, check_reserved, number_at, numbered_at, put, u8_at, u32_at, u64_at};
use crate::header::{Header, Purpose, Reach, check_crc, check_flags};
use crate::{Fault, name};

/// Length of a file's header; the first frame stands behind it.
pub const SNAPSHOT_HEADER_LEN: usize = 128;
/// Length of a frame's fixed part.
pub const SNAPSHOT_FRAME_LEN: usize = 112;
/// Frames and states begin at multiples of it.
pub const SNAPSHOT_ALIGN: u64 = 16;
/// Largest state in bytes.
pub const STATE_LEN_MAX: u64 = 1 << 28;
/// Longest header of a frame: two names of 255 bytes.
pub const SNAPSHOT_FRAME_HEADER_MAX: usize = (SNAPSHOT_FRAME_LEN + 2 * 255).next_multiple_of(16);
/// What the length of a file is a multiple of.
const PAGE_LEN: u64 = 4096;
const KIND_SNAPSHOT: u8 = 1;

const HEADER: Header = Header {
    what: "file of snapshots",
    magic: *b"ANNALSNP",
    len: SNAPSHOT_HEADER_LEN,
    reach: Reach::Header,
    known_write: 0,
};

/// A length rounded up to where the next thing may begin.
pub const fn padded(len: u64) -> u64 {
    len.next_multiple_of(SNAPSHOT_ALIGN)
}

/// Header of a file of snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotFileHeader {
    /// Id of the store.
    pub store: [u8; 16],
    /// Id of the file, random.
    pub id: [u8; 16],
    /// Number of the file, also in its name.
    pub number: u64,
    /// Length of the file.
    pub len: u64,
    /// When it was made: nanoseconds since 1970 UTC.
    pub created_at: u64,
    /// Version of the library that made it.
    pub written_by: u32,
}

impl SnapshotFileHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; SNAPSHOT_HEADER_LEN] {
        let mut bytes = [0; SNAPSHOT_HEADER_LEN];
        HEADER.begin(&mut bytes);
        put(&mut bytes, 32, self.store);
        put(&mut bytes, 48, self.id);
        put(&mut bytes, 64, self.number.to_le_bytes());
        put(&mut bytes, 72, self.len.to_le_bytes());
        put(&mut bytes, 80, self.created_at.to_le_bytes());
        put(&mut bytes, 88, self.written_by.to_le_bytes());
        bytes[92] = 1;
        HEADER.finish(&mut bytes, 0);
        bytes
    }

    /// Reads and verifies the header, for a writer.
    ///
    /// # Errors
    /// Any [`Fault`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        Self::decode_for(bytes, Purpose::Write)
    }

    /// As [`SnapshotFileHeader::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &[u8], purpose: Purpose) -> Result<Self, Fault> {
        HEADER.check(bytes, 0, purpose)?;
        check_known(u8_at(bytes, 92), 1, "checksum algorithm")?;
        check_reserved(bytes, 93, SNAPSHOT_HEADER_LEN, "reserved bytes of a file of snapshots")?;
        let len = number_at(bytes, 72, "length of a file of snapshots")?;
        if len == 0 || !len.is_multiple_of(PAGE_LEN) {
            return Err(Fault::Length { what: "length of a file of snapshots", value: len });
        }
        Ok(Self {
            store: array_at(bytes, 32),
            id: array_at(bytes, 48),
            number: numbered_at(bytes, 64, "number of a file of snapshots")?,
            len,
            created_at: u64_at(bytes, 80),
            written_by: u32_at(bytes, 88),
        })
    }

    /// Seed of the checksums of its frames.
    pub fn seed(&self) -> SnapshotSeed {
        SnapshotSeed::of(&self.store, &self.id, self.number)
    }
}

/// Seed of all checksums in one file of snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotSeed(u32);

impl SnapshotSeed {
    /// The seed of the file with this identity.
    pub fn of(store: &[u8; 16], id: &[u8; 16], number: u64) -> Self {
        Self(crc(crc(crc(0, store), id), &number.to_le_bytes()))
    }

    /// Seed of the header of the frame at `offset`.
    pub fn frame(self, offset: u64) -> u32 {
        self.0 ^ (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
    }

    /// Seed of the state in the frame at `offset`.
    pub fn state(self, offset: u64) -> u32 {
        self.frame(offset) ^ 0x5354_4154
    }
}

/// How a state is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum StateCompression {
    /// As it was given.
    None,
    /// As one zstd frame.
    Zstd,
}

/// Header of a frame: what its state is the state of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotFrame<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Name of the state.
    pub name: &'a str,
    /// Its schema.
    pub schema: u32,
    /// The incarnation in which it was saved.
    pub incarnation: [u8; 16],
    /// Id of the event at its revision.
    pub event: [u8; 16],
    /// Position of that event.
    pub position: u64,
    /// The revision up to which the stream is in the state.
    pub revision: u64,
    /// When it was saved: nanoseconds since 1970 UTC.
    pub saved_at: u64,
    /// All of the file before this offset was synced when the frame was written.
    pub synced_upto: u64,
    /// Length of the state as it is stored.
    pub stored_len: u64,
    /// Length of the state.
    pub state_len: u64,
    /// Checksum of the stored bytes and the zeros behind them.
    pub state_checksum: u32,
    /// How the state is stored.
    pub compression: StateCompression,
}

impl<'a> SnapshotFrame<'a> {
    /// Length of the frame's header with its names.
    pub fn header_len(&self) -> usize {
        (SNAPSHOT_FRAME_LEN + self.stream.len() + self.name.len()).next_multiple_of(SNAPSHOT_ALIGN as usize)
    }

    /// Length of the whole frame.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> u64 {
        self.header_len() as u64 + padded(self.stored_len)
    }

    /// Appends the frame that stands at `offset` to `bytes`: header, state, zeros. `stored` is the state as it is stored;
    /// its length and checksum are taken from it.
    ///
    /// # Panics
    /// If a name is longer than 255 bytes.
    pub fn encode(&self, seed: SnapshotSeed, offset: u64, stored: &[u8], bytes: &mut Vec<u8>) {
        let begin = bytes.len();
        let header_len = self.header_len();
        bytes.resize(begin + header_len, 0);
        bytes.extend_from_slice(stored);
        bytes.resize(begin + header_len + padded(stored.len() as u64) as usize, 0);
        let (header, state) = bytes[begin..].split_at_mut(header_len);
        put(header, 4, (header_len as u32).to_le_bytes());
        header[8] = KIND_SNAPSHOT;
        put(header, 12, self.schema.to_le_bytes());
        put(header, 16, self.incarnation);
        put(header, 32, self.event);
        let numbers =
            [self.position, self.revision, self.saved_at, self.synced_upto, stored.len() as u64, self.state_len];
        for (n, number) in numbers.into_iter().enumerate() {
            put(header, 48 + 8 * n, number.to_le_bytes());
        }
        put(header, 96, crc(seed.state(offset), state).to_le_bytes());
        header[100] = u8::try_from(self.stream.len()).expect("a name has at most 255 bytes");
        header[101] = u8::try_from(self.name.len()).expect("a name has at most 255 bytes");
        header[102] = match self.compression {
            StateCompression::None => 0,
            StateCompression::Zstd => 1,
        };
        header[103] = 1;
        let name_at = SNAPSHOT_FRAME_LEN + self.stream.len();
        header[SNAPSHOT_FRAME_LEN..name_at].copy_from_slice(self.stream.as_bytes());
        header[name_at..name_at + self.name.len()].copy_from_slice(self.name.as_bytes());
        let checksum = crc(seed.frame(offset), &header[4..]);
        put(header, 0, checksum.to_le_bytes());
    }

    /// Reads and verifies the header of the frame at `offset`; `bytes` begin there and may end behind it.
    ///
    /// # Errors
    /// Any [`Fault`]; `Truncated` says how many bytes are needed.
    pub fn decode(bytes: &'a [u8], seed: SnapshotSeed, offset: u64) -> Result<Self, Fault> {
        Self::decode_for(bytes, seed, offset, Purpose::Write)
    }

    /// As [`SnapshotFrame::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &'a [u8], seed: SnapshotSeed, offset: u64, purpose: Purpose) -> Result<Self, Fault> {
        let truncated = |need: usize| Fault::Truncated { need: need as u64, have: bytes.len() as u64 };
        if bytes.len() < SNAPSHOT_FRAME_LEN {
            return Err(truncated(SNAPSHOT_FRAME_LEN));
        }
        // Only used to find the bytes to verify.
        let header_len = u32_at(bytes, 4);
        let is_possible = (SNAPSHOT_FRAME_LEN as u32..=SNAPSHOT_FRAME_HEADER_MAX as u32).contains(&header_len);
        if !is_possible || !header_len.is_multiple_of(SNAPSHOT_ALIGN as u32) {
            return Err(Fault::Length { what: "header length of a snapshot", value: header_len.into() });
        }
        let Some(header) = bytes.get(..header_len as usize) else { return Err(truncated(header_len as usize)) };
        check_crc(seed.frame(offset), header.get(4..).unwrap_or_default(), u32_at(header, 0), "snapshot")?;
        if u8_at(header, 8) != KIND_SNAPSHOT {
            return Err(Fault::Unsupported { what: "kind of frame", value: u8_at(header, 8).into() });
        }
        check_flags(u8_at(header, 9), u8_at(header, 10), 0u8, purpose)?;
        check_known(u8_at(header, 103), 1, "checksum algorithm")?;
        check_reserved(header, 104, SNAPSHOT_FRAME_LEN, "reserved bytes of a snapshot")?;
        let (stream_len, name_len) = (usize::from(u8_at(header, 100)), usize::from(u8_at(header, 101)));
        let names = header.get(SNAPSHOT_FRAME_LEN..).unwrap_or_default();
        let name_end = SNAPSHOT_FRAME_LEN + stream_len + name_len;
        if name_end.next_multiple_of(SNAPSHOT_ALIGN as usize) != header.len() {
            return Err(Fault::Length { what: "header length of a snapshot", value: header_len.into() });
        }
        check_reserved(header, name_end, header.len(), "zeros behind the names of a snapshot")?;
        let stream = decode_name(names.get(..stream_len).unwrap_or_default(), "name of a stream")?;
        let state = decode_name(names.get(stream_len..stream_len + name_len).unwrap_or_default(), "name of a state")?;
        let frame = Self {
            stream,
            name: state,
            schema: u32_at(header, 12),
            incarnation: array_at(header, 16),
            event: array_at(header, 32),
            position: numbered_at(header, 48, "position of a snapshot")?,
            revision: numbered_at(header, 56, "revision of a snapshot")?,
            saved_at: u64_at(header, 64),
            synced_upto: number_at(header, 72, "offset up to which a file of snapshots was synced")?,
            stored_len: u64_at(header, 80),
            state_len: u64_at(header, 88),
            state_checksum: u32_at(header, 96),
            compression: match u8_at(header, 102) {
                0 => StateCompression::None,
                1 => StateCompression::Zstd,
                value => return Err(Fault::Unsupported { what: "compression", value: value.into() }),
            },
        };
        frame.check(offset)?;
        Ok(frame)
    }

    /// What no single field can tell.
    fn check(&self, offset: u64) -> Result<(), Fault> {
        if self.state_len > STATE_LEN_MAX {
            return Err(Fault::Length { what: "length of a state", value: self.state_len });
        }
        let fits = match self.compression {
            StateCompression::None => self.stored_len == self.state_len,
            StateCompression::Zstd => self.stored_len < self.state_len && self.stored_len > 0,
        };
        if !fits {
            return Err(Fault::Length { what: "stored length of a state", value: self.stored_len });
        }
        if self.revision > self.position {
            return Err(Fault::Count { what: "revision of a snapshot", value: self.revision });
        }
        if self.synced_upto > offset || !self.synced_upto.is_multiple_of(SNAPSHOT_ALIGN) {
            return Err(Fault::Length {
                what: "offset up to which a file of snapshots was synced",
                value: self.synced_upto,
            });
        }
        Ok(())
    }

    /// Verifies the stored bytes with the zeros behind them, which are `padded(stored_len)` long, and answers the former.
    ///
    /// # Errors
    /// `Truncated`, `Checksum`, `Reserved`.
    pub fn check_state<'b>(&self, stored: &'b [u8], seed: SnapshotSeed, offset: u64) -> Result<&'b [u8], Fault> {
        let need = padded(self.stored_len);
        let Some(all) = stored.get(..need as usize) else {
            return Err(Fault::Truncated { need, have: stored.len() as u64 });
        };
        check_crc(seed.state(offset), all, self.state_checksum, "state of a snapshot")?;
        check_reserved(all, self.stored_len as usize, all.len(), "zeros behind a state")?;
        Ok(all.get(..self.stored_len as usize).unwrap_or_default())
    }
}

fn decode_name<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|_| Fault::Name { what })?;
    if name::is_well_formed(bytes) { Ok(text) } else { Err(Fault::Name { what }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> SnapshotFrame<'static> {
        SnapshotFrame {
            stream: "account-7",
            name: "account",
            schema: 3,
            incarnation: [4; 16],
            event: [5; 16],
            position: 90,
            revision: 12,
            saved_at: 77,
            synced_upto: 128,
            stored_len: 0,
            state_len: 0,
            state_checksum: 0,
            compression: StateCompression::None,
        }
    }

    fn encoded(frame: &SnapshotFrame<'_>, offset: u64, stored: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode(SnapshotSeed(9), offset, stored, &mut bytes);
        bytes
    }

    #[test]
    fn a_state_is_found_at_multiples_of_sixteen_and_verifies_nowhere_else() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let state: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let bytes = encoded(&SnapshotFrame { state_len: len as u64, ..frame() }, 4096, &state);
            assert_eq!(bytes.len() % 16, 0);
            let decoded = SnapshotFrame::decode(&bytes, SnapshotSeed(9), 4096).unwrap();
            assert_eq!((decoded.len(), decoded.stored_len), (bytes.len() as u64, len as u64));
            let stored = &bytes[decoded.header_len()..];
            assert_eq!(decoded.check_state(stored, SnapshotSeed(9), 4096), Ok(&state[..]));
            assert!(decoded.check_state(stored, SnapshotSeed(9), 4112).is_err());
            assert!(SnapshotFrame::decode(&bytes, SnapshotSeed(9), 4112).is_err());
            assert!(SnapshotFrame::decode(&bytes, SnapshotSeed(8), 4096).is_err());
        }
    }

    #[test]
    fn every_changed_byte_is_found() {
        let bytes = encoded(&SnapshotFrame { state_len: 21, ..frame() }, 256, b"a state of some bytes");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let found = SnapshotFrame::decode(&bytes, SnapshotSeed(9), 256).and_then(|frame| {
                    frame.check_state(&bytes[frame.header_len()..], SnapshotSeed(9), 256).map(|_| ())
                });
                assert!(found.is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        let refused = |frame: SnapshotFrame<'_>, stored: &[u8]| {
            SnapshotFrame::decode(&encoded(&frame, 256, stored), SnapshotSeed(9), 256).map(|_| ()).unwrap_err()
        };
        let zstd = SnapshotFrame { compression: StateCompression::Zstd, ..frame() };
        assert!(matches!(refused(SnapshotFrame { state_len: 2, ..frame() }, b"x"), Fault::Length { .. }));
        assert!(matches!(refused(SnapshotFrame { state_len: 1, ..zstd }, b"x"), Fault::Length { .. }));
        assert!(matches!(refused(SnapshotFrame { state_len: 9, ..zstd }, b""), Fault::Length { .. }));
        for state_len in [STATE_LEN_MAX + 1, 1 << 31, 1 << 32, 1 << 63, u64::MAX] {
            assert!(matches!(refused(SnapshotFrame { state_len, ..zstd }, b"x"), Fault::Length { .. }));
        }
        assert!(matches!(refused(SnapshotFrame { revision: 91, ..frame() }, b""), Fault::Count { .. }));
        assert!(matches!(refused(SnapshotFrame { position: 0, ..frame() }, b""), Fault::Count { .. }));
        assert!(matches!(refused(SnapshotFrame { synced_upto: 272, ..frame() }, b""), Fault::Length { .. }));
        assert!(matches!(refused(SnapshotFrame { stream: "a\nb", ..frame() }, b""), Fault::Name { .. }));
    }
}
