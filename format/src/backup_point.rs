//! A backup point: what a backup held of a store at one moment, piece by piece.

use crate::field::{array_at, check_known, check_reserved, number_at, numbered_at, put, u8_at, u32_at, u64_at};
use crate::header::{Header, Purpose, Reach};
use crate::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::segment::{END_MARK_LEN, SEGMENT_HEADER_LEN};
use crate::{Fault, NUMBER_MAX};

/// Length of the fixed part.
pub const BACKUP_POINT_HEADER_LEN: usize = 128;
const PIECE_LEN: usize = 32;

const HEADER: Header = Header {
    what: "backup point",
    magic: *b"ANNALBKP",
    len: BACKUP_POINT_HEADER_LEN,
    reach: Reach::File,
    known_write: 0,
};

/// A range of a segment's bytes, held by one file of the backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Index of the segment in the manifest's list.
    pub segment: u32,
    /// Offset of its first byte in the segment.
    pub from: u64,
    /// Offset of the byte behind its last.
    pub to: u64,
    /// CRC-32, seed 0, of its bytes.
    pub checksum: u32,
}

/// One backup point, whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupPoint {
    /// One more for each point of a backup; also in the file's name.
    pub number: u64,
    /// Version of the library that wrote it: `major << 16 | minor << 8 | patch`.
    pub written_by: u32,
    /// When it was taken: nanoseconds since 1970 UTC.
    pub taken_at: u64,
    /// That of the store, with the live segment listed as cut at the point's head.
    pub manifest: Manifest,
    /// In the order of the manifest's segments, each covered from its first byte to [`stored_len`] without a gap.
    pub pieces: Vec<Piece>,
}

/// How much of a segment a backup holds: up to its end, and the end mark if it has one; of a compacted one the container.
pub fn stored_len(entry: &SegmentEntry) -> u64 {
    if let Some(container) = &entry.compacted {
        return container.file_len;
    }
    let mark = match entry.state {
        SegmentState::Sealed => END_MARK_LEN as u64,
        SegmentState::Cut => 0,
    };
    entry.end.saturating_add(mark)
}

impl BackupPoint {
    /// The position up to which it holds the log; 0: nothing.
    pub fn last_position(&self) -> u64 {
        self.manifest.segments.last().map_or(0, |entry| entry.last_position)
    }

    /// When the last batch in it was recorded; 0: there is none.
    pub fn last_time(&self) -> u64 {
        self.manifest.segments.last().map_or(0, |entry| entry.last_time)
    }

    /// The file's bytes: 128, 32 more for each piece, and the manifest's.
    pub fn encode(&self) -> Vec<u8> {
        let manifest = self.manifest.encode();
        let pieces_end = BACKUP_POINT_HEADER_LEN + self.pieces.len() * PIECE_LEN;
        let mut bytes = vec![0; pieces_end];
        HEADER.begin(&mut bytes);
        put(&mut bytes, 32, self.written_by.to_le_bytes());
        bytes[36] = 1;
        put(&mut bytes, 40, self.manifest.store);
        put(&mut bytes, 56, self.number.to_le_bytes());
        put(&mut bytes, 64, ((pieces_end + manifest.len()) as u64).to_le_bytes());
        put(&mut bytes, 72, self.taken_at.to_le_bytes());
        put(&mut bytes, 80, self.last_position().to_le_bytes());
        put(&mut bytes, 88, self.last_time().to_le_bytes());
        put(&mut bytes, 96, (manifest.len() as u64).to_le_bytes());
        put(&mut bytes, 104, (self.pieces.len() as u32).to_le_bytes());
        for (piece, place) in self.pieces.iter().zip(bytes[BACKUP_POINT_HEADER_LEN..].chunks_exact_mut(PIECE_LEN)) {
            put(place, 0, piece.segment.to_le_bytes());
            put(place, 4, piece.checksum.to_le_bytes());
            put(place, 8, piece.from.to_le_bytes());
            put(place, 16, piece.to.to_le_bytes());
        }
        bytes.extend_from_slice(&manifest);
        HEADER.finish(&mut bytes, 0);
        bytes
    }

    /// Reads and verifies the whole file, for a writer.
    ///
    /// # Errors
    /// Any [`Fault`]: of the header, of a piece, of the manifest in it, or of pieces that do not cover its segments.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        Self::decode_for(bytes, Purpose::Write)
    }

    /// As [`BackupPoint::decode`], for `purpose`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_for(bytes: &[u8], purpose: Purpose) -> Result<Self, Fault> {
        HEADER.check(bytes, 0, purpose)?;
        check_known(u8_at(bytes, 36), 1, "checksum algorithm")?;
        check_reserved(bytes, 37, 40, "reserved bytes of the backup point")?;
        check_reserved(bytes, 108, BACKUP_POINT_HEADER_LEN, "reserved bytes of the backup point")?;
        let pieces_len = u64::from(u32_at(bytes, 104)) * PIECE_LEN as u64;
        let manifest_len = number_at(bytes, 96, "length of the manifest")?;
        let len = (BACKUP_POINT_HEADER_LEN as u64 + pieces_len).saturating_add(manifest_len);
        if len != bytes.len() as u64 || u64_at(bytes, 64) != len {
            return Err(Fault::Length { what: "length of the backup point", value: u64_at(bytes, 64) });
        }
        let behind = bytes.get(BACKUP_POINT_HEADER_LEN..).unwrap_or_default();
        let (pieces, manifest) = behind.split_at_checked(pieces_len as usize).unwrap_or_default();
        let point = Self {
            number: numbered_at(bytes, 56, "number of the backup point")?,
            written_by: u32_at(bytes, 32),
            taken_at: u64_at(bytes, 72),
            pieces: pieces.chunks_exact(PIECE_LEN).map(decode_piece).collect::<Result<_, _>>()?,
            manifest: Manifest::decode_for(manifest, purpose)?,
        };
        if point.manifest.store != array_at(bytes, 40) {
            return Err(Fault::Identity { what: "store of the manifest" });
        }
        if (point.last_position(), point.last_time()) != (u64_at(bytes, 80), u64_at(bytes, 88)) {
            return Err(Fault::Identity { what: "end of the manifest's last segment" });
        }
        point.check_pieces()?;
        Ok(point)
    }

    /// Whether each segment is covered from its first byte to its last.
    fn check_pieces(&self) -> Result<(), Fault> {
        let mut pieces = self.pieces.iter().peekable();
        for (index, entry) in self.manifest.segments.iter().enumerate() {
            let mut at = 0;
            while let Some(piece) = pieces.next_if(|piece| piece.segment as usize == index) {
                // A header is never divided, nor is a container.
                let least = if entry.compacted.is_some() { stored_len(entry) } else { SEGMENT_HEADER_LEN as u64 };
                if piece.from != at || piece.to <= piece.from || (at == 0 && piece.to < least) {
                    return Err(Fault::Order { what: "pieces of a segment" });
                }
                at = piece.to;
            }
            if at != stored_len(entry) {
                return Err(Fault::Length { what: "length of a segment's pieces", value: at });
            }
        }
        if pieces.peek().is_some() {
            return Err(Fault::Order { what: "pieces" });
        }
        Ok(())
    }
}

fn decode_piece(bytes: &[u8]) -> Result<Piece, Fault> {
    check_reserved(bytes, 24, PIECE_LEN, "reserved bytes of a piece")?;
    Ok(Piece {
        segment: u32_at(bytes, 0),
        checksum: u32_at(bytes, 4),
        from: number_at(bytes, 8, "begin of a piece")?,
        to: number_at(bytes, 16, "end of a piece")?,
    })
}

// What a manifest calls the end of a segment is a number that a piece can hold.
const _: () = assert!(NUMBER_MAX < u64::MAX - END_MARK_LEN as u64);
