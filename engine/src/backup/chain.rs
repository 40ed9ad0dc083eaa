//! The files of a backup: their names, the points, the pieces of a segment as one.

use std::sync::Arc;

use annals_format::backup_point::{BackupPoint, Piece};
use annals_format::checksum::crc;
use annals_format::manifest::SegmentEntry;

use super::PointInfo;
use crate::Result;
use crate::batches::{HeldSegment, SegmentBytes};
use crate::compacted::Container;
use crate::error::{Corrupt, Error};
use crate::manifest::read_whole;
use crate::options::ReadMode;
use crate::recovery::list;
use crate::snapshot;
use crate::storage::{Access, LOCK_NAME, Storage, StorageFile};

const POINT: &str = "point-";
const PIECE: &str = "piece-";
/// As that of a manifest, and as much again for the pieces.
const POINT_LEN_MAX: u64 = 1 << 31;

pub(super) fn point_name(number: u64) -> String {
    format!("{POINT}{number:020}")
}

/// A piece's name says which bytes of which segment it holds, so that two runs that make the same piece give it the same
/// name.
pub(super) fn piece_name(entry: &SegmentEntry, from: u64, to: u64) -> String {
    let incarnation = u128::from_be_bytes(entry.incarnation);
    let name = format!("{PIECE}{incarnation:032x}-{:020}-{from:020}-{to:020}", entry.number);
    match &entry.compacted {
        None => name,
        // Another compaction makes other bytes, maybe as many.
        Some(container) => format!("{name}-{:020}-{:08x}", entry.generation, container.root),
    }
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(POINT)?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten().filter(|number| *number > 0)
}

/// Whether a backup may hold a file of this name.
pub(super) fn is_ours(name: &str) -> bool {
    let whole = name.strip_suffix(".new").unwrap_or(name);
    name == LOCK_NAME || number_of(whole).is_some() || whole.starts_with(PIECE) || snapshot::is_backup_file(whole)
}

/// Numbers of all points, ascending.
pub(super) fn numbers(storage: &dyn Storage) -> Result<Vec<u64>> {
    let mut numbers: Vec<u64> = list(storage)?.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The point of this number, verified.
pub(super) fn load(storage: &dyn Storage, number: u64) -> Result<BackupPoint> {
    let name = point_name(number);
    let bytes = match read_whole(storage, &name, POINT_LEN_MAX) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(damage(&name, 0, None, "the file is missing"));
        }
        other => other?,
    };
    let point = BackupPoint::decode(&bytes).map_err(|fault| match Error::damaged(&name, 0, None, &fault, 0) {
        Error::Corrupt(corrupt) => damage(&name, 0, None, &corrupt.what),
        other => other,
    })?;
    if point.number != number {
        return Err(damage(&name, 56, None, &format!("it holds point {}", point.number)));
    }
    Ok(point)
}

pub(super) fn info(point: &BackupPoint) -> PointInfo {
    PointInfo {
        number: point.number,
        taken_at: point.taken_at,
        head: point.last_position(),
        last_time: point.last_time(),
        bytes: point.pieces.iter().map(|piece| piece.to - piece.from).sum(),
        store_id: point.manifest.store,
    }
}

/// Damage to a file of a backup.
pub(super) fn damage(file: &str, offset: u64, position: Option<u64>, what: &str) -> Error {
    let hint = "restore another point of the backup, or a moment before this position; a new backup of the store makes \
                good what is missing";
    Error::Corrupt(Box::new(Corrupt { file: file.to_owned(), offset, position, what: what.to_owned(), hint }))
}

/// The pieces of one segment, read as one.
pub(super) struct Pieces<'p> {
    entry: SegmentEntry,
    files: Vec<(&'p Piece, String, Arc<dyn StorageFile>)>,
}

impl<'p> Pieces<'p> {
    /// Opens the pieces of a segment; each must be there, and as long as it has to be.
    pub(super) fn open(storage: &dyn Storage, entry: &SegmentEntry, pieces: &'p [Piece]) -> Result<Self> {
        let mut files = Vec::new();
        for piece in pieces {
            let name = piece_name(entry, piece.from, piece.to);
            let position = Some(entry.first_position);
            let file = match storage.open(&name, Access::Read) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Err(damage(&name, 0, position, "the file is missing"));
                }
                other => other.map_err(Error::io("open", &name))?,
            };
            // One that shares a file with the store is as long as the segment.
            let len = file.len().map_err(Error::io("measure", &name))?;
            if len < piece.to - piece.from {
                let what = format!("the file is {len} bytes long, the backup point says {}", piece.to - piece.from);
                return Err(damage(&name, len, position, &what));
            }
            files.push((piece, name, file));
        }
        Ok(Self { entry: entry.clone(), files })
    }

    /// The container, if the pieces are one.
    pub(super) fn container(&self) -> Option<(Arc<dyn StorageFile>, &str)> {
        let (_, name, file) = self.files.first().filter(|_| self.entry.compacted.is_some())?;
        Some((file.clone(), name))
    }

    /// The segment in the container, if the pieces are one.
    pub(super) fn held(&self) -> Result<Option<HeldSegment>> {
        let Some((file, name)) = self.container() else { return Ok(None) };
        let container = Container::of_file(file, name, ReadMode::Pread, Some(&self.entry))?;
        Ok(Some(HeldSegment { name: name.to_owned(), container }))
    }

    /// Verifies the checksum of every piece; answers how many bytes there are.
    pub(super) fn verify(&self) -> Result<u64> {
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = 0;
        for (piece, name, file) in &self.files {
            let len = piece.to - piece.from;
            let (mut at, mut checksum) = (0, 0);
            while at < len {
                let step = (len - at).min(buffer.len() as u64) as usize;
                let got = file.read_at(at, &mut buffer[..step]).map_err(Error::io("read", name))?;
                if got < step {
                    return Err(damage(name, at + got as u64, Some(self.entry.first_position), "the file ends here"));
                }
                checksum = crc(checksum, &buffer[..step]);
                at += step as u64;
            }
            if checksum != piece.checksum {
                let what = "the bytes are not those that were written: the checksum does not match";
                return Err(damage(name, 0, Some(self.entry.first_position), what));
            }
            bytes += len;
        }
        Ok(bytes)
    }
}

impl SegmentBytes for Pieces<'_> {
    fn len(&self) -> u64 {
        self.files.last().map_or(0, |(piece, ..)| piece.to)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        for (piece, name, file) in &self.files {
            let at = offset + done as u64;
            if done == buffer.len() || at < piece.from {
                break;
            }
            if at >= piece.to {
                continue;
            }
            let step = (piece.to - at).min((buffer.len() - done) as u64) as usize;
            let got = file.read_at(at - piece.from, &mut buffer[done..done + step]).map_err(Error::io("read", name))?;
            done += got;
            if got < step {
                break;
            }
        }
        Ok(done)
    }

    fn place(&self, offset: u64) -> (String, u64) {
        let holding = self.files.iter().rev().find(|(piece, ..)| piece.from <= offset);
        holding.map_or_else(Default::default, |(piece, name, _)| (name.clone(), offset - piece.from))
    }
}
