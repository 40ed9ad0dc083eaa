//! The small files that the writer changes in place, as a follower has them before it.

use std::sync::Arc;

use annals_format::mark::{MARK_LEN, MARK_SLOT_LEN, Mark};
use annals_format::ring::{RING_HEADER_LEN, RING_SLOT_LEN, RingHeader};
use annals_format::{Fault, Purpose};

use crate::Result;
use crate::error::Error;
use crate::mark::MARK_NAME;
use crate::options::ReadMode;
use crate::recovery::ring_image::RING_NAME;
use crate::storage::{Access, SharedMap, Storage, StorageFile};

/// Larger than any ring this library makes.
const RING_FILE_LEN_MAX: u64 = (1 << 30) + RING_HEADER_LEN as u64;

/// A file whose bytes change: mapped, or read anew each time.
#[derive(Debug)]
enum Bytes {
    Mapped(SharedMap),
    File(Arc<dyn StorageFile>),
}

impl Bytes {
    /// Opens a file that is to be `len` bytes long; `None` if it is missing or of another length.
    fn open(storage: &dyn Storage, name: &str, mode: ReadMode, fits: impl Fn(u64) -> bool) -> Result<Option<Self>> {
        let file = match storage.open(name, Access::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", name)(error)),
        };
        if !fits(file.len().map_err(Error::io("measure", name))?) {
            return Ok(None);
        }
        Ok(Some(match mode {
            ReadMode::Mapped => Self::Mapped(file.map_shared().map_err(Error::io("map", name))?),
            ReadMode::Pread => Self::File(file),
        }))
    }

    /// Copies what stands at `offset` now; both offset and length are multiples of 8. False if the file ends before.
    fn load(&self, offset: usize, out: &mut [u8], name: &str) -> Result<bool> {
        self.load_by(SharedMap::load, offset, out, name)
    }

    /// The same, `copy` being how it is copied where it is mapped.
    fn load_by(
        &self,
        copy: fn(&SharedMap, usize, &mut [u8]),
        offset: usize,
        out: &mut [u8],
        name: &str,
    ) -> Result<bool> {
        match self {
            Self::Mapped(map) if offset > map.len() || out.len() > map.len() - offset => Ok(false),
            Self::Mapped(map) => {
                copy(map, offset, out);
                Ok(true)
            }
            Self::File(file) => {
                let got = file.read_at(offset as u64, out).map_err(Error::io("read", name))?;
                Ok(got == out.len())
            }
        }
    }
}

/// `MARK`.
#[derive(Debug)]
pub(super) struct WatchedMark(Option<Bytes>);

impl WatchedMark {
    pub(super) fn open(storage: &dyn Storage, mode: ReadMode) -> Result<Self> {
        Bytes::open(storage, MARK_NAME, mode, |len| len == MARK_LEN as u64).map(Self)
    }

    /// The newest mark; what was written before it is seen after this. What is written while this looks makes its slot
    /// unreadable for the moment: then it is the one before. `None` if there is none.
    pub(super) fn newest(&self) -> Result<Option<Mark>> {
        let Some(bytes) = &self.0 else { return Ok(None) };
        let mut newest: Option<Mark> = None;
        for sequence in 0..2 {
            let mut slot = [0; MARK_SLOT_LEN];
            let offset = Mark::slot_offset(sequence) as usize;
            if !bytes.load_by(SharedMap::load_acquired, offset, &mut slot, MARK_NAME)? {
                continue;
            }
            match Mark::decode_for(&slot, Purpose::Read) {
                Ok(Some(mark)) if mark.sequence % 2 == sequence => {
                    newest = newest.filter(|newest| newest.sequence > mark.sequence).or(Some(mark));
                }
                Err(Fault::Unsupported { what, value }) => {
                    let what = format!("{what} {value:#x}");
                    return Err(Error::Unsupported { file: MARK_NAME.to_owned(), what, written_by: 0 });
                }
                _ => {}
            }
        }
        Ok(newest)
    }
}

/// `RING`, while it holds bytes of the log.
#[derive(Debug)]
pub(super) struct WatchedRing {
    bytes: Bytes,
    ring_len: u64,
}

impl WatchedRing {
    /// The ring of this incarnation; `None` if it is another's, holds nothing of the log, or cannot be used.
    pub(super) fn open(
        storage: &dyn Storage,
        mode: ReadMode,
        store: [u8; 16],
        incarnation: [u8; 16],
    ) -> Result<Option<Self>> {
        let Some(bytes) =
            Bytes::open(storage, RING_NAME, mode, |len| (RING_HEADER_LEN as u64..=RING_FILE_LEN_MAX).contains(&len))?
        else {
            return Ok(None);
        };
        let Some(header) = header_of(&bytes)? else { return Ok(None) };
        let is_this = header.store == store && header.incarnation == incarnation && header.holds_log;
        let mut last = [0; 8];
        let end = RING_HEADER_LEN as u64 + header.ring_len;
        let is_whole = bytes.load((end - 8) as usize, &mut last, RING_NAME)?;
        Ok((is_this && is_whole).then_some(Self { bytes, ring_len: header.ring_len }))
    }

    pub(super) fn len(&self) -> u64 {
        self.ring_len
    }

    /// Whether this file is still the ring of that incarnation.
    pub(super) fn is_still(&self, incarnation: [u8; 16]) -> Result<bool> {
        Ok(header_of(&self.bytes)?.is_some_and(|header| header.holds_log && header.incarnation == incarnation))
    }

    /// Copies what the ring has for log offset `at` now, at most the whole ring. Whoever copies verifies the copy.
    pub(super) fn load(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let start = at % self.ring_len;
        let until_wrap = (out.len() as u64).min(self.ring_len - start) as usize;
        let (head, rest) = out.split_at_mut(until_wrap);
        let is_there = self.bytes.load(RING_HEADER_LEN + start as usize, head, RING_NAME)?
            && (rest.is_empty() || self.bytes.load(RING_HEADER_LEN, rest, RING_NAME)?);
        if is_there {
            return Ok(());
        }
        Err(Error::corrupt(RING_NAME, RING_HEADER_LEN as u64 + start, None, "the file ends before the ring does"))
    }
}

fn header_of(bytes: &Bytes) -> Result<Option<RingHeader>> {
    let mut newest: Option<RingHeader> = None;
    for session in 0..2 {
        let mut slot = [0; RING_SLOT_LEN];
        if !bytes.load(RingHeader::slot_offset(session) as usize, &mut slot, RING_NAME)? {
            return Ok(None);
        }
        if let Ok(Some(header)) = RingHeader::decode_for(&slot, Purpose::Read)
            && header.session % 2 == session
        {
            newest = newest.filter(|newest| newest.session > header.session).or(Some(header));
        }
    }
    Ok(newest)
}
