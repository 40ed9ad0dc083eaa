//! One file of snapshots: its name, its frames, and what of it is damage and what was never finished.

use std::sync::Arc;

use annals_format::Fault;
use annals_format::manifest::SnapshotFileEntry;
use annals_format::snapshot::{
    SNAPSHOT_ALIGN, SNAPSHOT_FRAME_HEADER_MAX, SNAPSHOT_HEADER_LEN, SnapshotFileHeader, SnapshotFrame, SnapshotSeed,
    padded,
};

use crate::Result;
use crate::batches::{SegmentBytes, Window};
use crate::error::{Corrupt, Error};
use crate::once::OnceLock;
use crate::options::ReadMode;
use crate::storage::{Access, Map, Storage, StorageFile};

const PREFIX: &str = "snapshots-";

pub(crate) fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:020}")
}

/// Number in the name of a file of snapshots; `None` for other files and for one that was still being written.
pub(crate) fn file_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// Whether this is the name of a file of snapshots, whole or still being written.
pub(crate) fn is_file_of_snapshots(name: &str) -> bool {
    file_number(name.strip_suffix(".new").unwrap_or(name)).is_some()
}

/// A file of snapshots, open.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    pub(crate) name: String,
    pub(crate) entry: SnapshotFileEntry,
    pub(crate) seed: SnapshotSeed,
    pub(crate) file: Arc<dyn StorageFile>,
    mode: ReadMode,
    map: OnceLock<Map>,
}

impl SegmentBytes for SnapshotFile {
    fn len(&self) -> u64 {
        self.entry.len
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.file.read_at(offset, buffer).map_err(Error::io("read", &self.name))
    }

    fn place(&self, offset: u64) -> (String, u64) {
        (self.name.clone(), offset)
    }
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    /// Offset of the byte behind the last frame.
    pub(crate) end: u64,
    /// Number of whole frames before it, from where the scan began.
    pub(crate) frame_count: u64,
    /// What was known durable and is not whole.
    pub(crate) damage: Vec<Corrupt>,
}

/// How far a scan goes, and what is known of what it meets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) from: u64,
    /// What is not whole before this is damage.
    pub(crate) durable: u64,
    /// Nothing is read beyond.
    pub(crate) limit: u64,
    /// Whether each state is verified, also where it is known to be durable.
    pub(crate) verify: bool,
}

impl SnapshotFile {
    /// Opens the file that an entry of the manifest of store `store` lists.
    pub(crate) fn open(
        storage: &dyn Storage,
        entry: SnapshotFileEntry,
        store: &[u8; 16],
        mode: ReadMode,
    ) -> Result<Self> {
        Self::open_named(storage, file_name(entry.number), entry, store, mode)
    }

    /// The same under another name.
    pub(crate) fn open_named(
        storage: &dyn Storage,
        name: String,
        entry: SnapshotFileEntry,
        store: &[u8; 16],
        mode: ReadMode,
    ) -> Result<Self> {
        let file = storage.open(&name, Access::Read).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::corrupt(&name, 0, None, "the file is missing"),
            _ => Error::io("open", &name)(error),
        })?;
        Ok(Self::of(file, name, entry, store, mode))
    }

    pub(crate) fn of(
        file: Arc<dyn StorageFile>,
        name: String,
        entry: SnapshotFileEntry,
        store: &[u8; 16],
        mode: ReadMode,
    ) -> Self {
        let seed = SnapshotSeed::of(store, &entry.id, entry.number);
        Self { name, entry, seed, file, mode, map: OnceLock::new() }
    }

    /// How far frames may stand in it, and how much of that is durable, as the manifest says.
    pub(crate) fn whole(&self) -> Range {
        let limit = if self.entry.is_ended { self.entry.end } else { self.entry.len };
        Range { from: SNAPSHOT_HEADER_LEN as u64, durable: self.entry.end, limit, verify: false }
    }

    /// What is wrong with header or length; `Unsupported` is an error.
    pub(crate) fn check_header(&self, store: &[u8; 16]) -> Result<Option<Corrupt>> {
        let wrong = |offset: u64, what: String| Ok(Some(corrupt(&self.name, offset, what)));
        let len = self.file.len().map_err(Error::io("measure", &self.name))?;
        let least = if self.entry.is_ended { self.entry.end } else { self.entry.len };
        if len < least {
            return wrong(len, format!("the file is {len} bytes long instead of {}", self.entry.len));
        }
        let mut bytes = [0; SNAPSHOT_HEADER_LEN];
        let got = self.read_at(0, &mut bytes)?;
        match SnapshotFileHeader::decode(&bytes[..got]) {
            Ok(header) if header.store != *store => wrong(32, "it belongs to another store".to_owned()),
            Ok(header) if (header.id, header.number) != (self.entry.id, self.entry.number) => {
                wrong(48, "it is another file than the manifest lists".to_owned())
            }
            Ok(_) => Ok(None),
            Err(fault @ Fault::Unsupported { .. }) => Err(Error::damaged(&self.name, 0, None, &fault, 0)),
            Err(fault) => wrong(0, fault.to_string()),
        }
    }

    /// Hands every whole frame to `each`, with its offset. What the engine maps is not looked at by slices here: the end of
    /// the file may be written meanwhile.
    ///
    /// # Errors
    /// `Unsupported`, `Io`. Damage is told by the answer.
    pub(crate) fn scan(&self, range: Range, each: &mut dyn FnMut(u64, &SnapshotFrame<'_>)) -> Result<Scanned> {
        let Range { from, mut durable, limit, verify } = range;
        let mut window = Window::on(self);
        let mut found = Scanned { end: from, ..Scanned::default() };
        let mut at = from;
        let mut looked_again = None;
        while at + SNAPSHOT_ALIGN <= limit {
            let needs_state = |end: u64, durable: u64| verify || end > durable;
            match self.step(&mut window, at, limit, |end| needs_state(end, durable))? {
                Step::Frame { len, synced_upto } => {
                    let bytes = window.fetch(at, SNAPSHOT_FRAME_HEADER_MAX)?;
                    let frame =
                        SnapshotFrame::decode(bytes, self.seed, at).map_err(|fault| self.damaged(at, &fault))?;
                    each(at, &frame);
                    durable = durable.max(synced_upto);
                    found.frame_count += 1;
                    at += len;
                    found.end = at;
                }
                Step::Clean if at >= durable => break,
                Step::Clean | Step::Broken(_) if looked_again != Some(at) => {
                    // What follows may tell that it was durable. Meanwhile it may have been finished by a writer.
                    durable = durable.max(self.synced_beyond(at, limit)?);
                    looked_again = Some(at);
                    window = Window::on(self);
                }
                broken => {
                    if at >= durable {
                        break;
                    }
                    let what = match broken {
                        Step::Broken(fault) => fault.to_string(),
                        _ => "zeros stand where a snapshot belongs".to_owned(),
                    };
                    found.damage.push(corrupt(&self.name, at, what));
                    // A frame that is whole but for its state has a length.
                    let next = match self.broken_len(&mut window, at)? {
                        Some(len) => Some(at + len),
                        None => self.next_frame(at + SNAPSHOT_ALIGN, limit)?,
                    };
                    at = next.unwrap_or(limit.min(durable.max(at + SNAPSHOT_ALIGN)));
                    found.end = at;
                }
            }
        }
        Ok(found)
    }

    fn damaged(&self, at: u64, fault: &Fault) -> Error {
        Error::damaged(&self.name, at, None, fault, 0)
    }

    /// What stands at `at`. The state is verified if `needs_state` says so of the frame's end.
    fn step(&self, window: &mut Window<'_>, at: u64, limit: u64, needs_state: impl Fn(u64) -> bool) -> Result<Step> {
        let there = (limit - at).min(SNAPSHOT_FRAME_HEADER_MAX as u64) as usize;
        let bytes = window.fetch(at, there)?;
        if bytes.len() >= SNAPSHOT_ALIGN as usize && bytes[..SNAPSHOT_ALIGN as usize].iter().all(|byte| *byte == 0) {
            return Ok(Step::Clean);
        }
        let frame = match SnapshotFrame::decode(bytes, self.seed, at) {
            Ok(frame) => frame,
            Err(fault @ Fault::Unsupported { .. }) => return Err(self.damaged(at, &fault)),
            Err(fault) => return Ok(Step::Broken(fault)),
        };
        let (len, synced_upto) = (frame.len(), frame.synced_upto);
        if len > limit - at {
            return Ok(Step::Broken(Fault::Truncated { need: len, have: limit - at }));
        }
        if needs_state(at + len) {
            let (header_len, checked_len) = (frame.header_len(), padded(frame.stored_len) as usize);
            let header: Vec<u8> = bytes[..header_len].to_vec();
            let state = window.fetch(at + header_len as u64, checked_len)?;
            let frame = SnapshotFrame::decode(&header, self.seed, at).map_err(|fault| self.damaged(at, &fault))?;
            if let Err(fault) = frame.check_state(state, self.seed, at) {
                return Ok(Step::Broken(fault));
            }
        }
        Ok(Step::Frame { len, synced_upto })
    }

    /// Length of a frame whose header verifies.
    fn broken_len(&self, window: &mut Window<'_>, at: u64) -> Result<Option<u64>> {
        let bytes = window.fetch(at, SNAPSHOT_FRAME_HEADER_MAX)?;
        Ok(SnapshotFrame::decode(bytes, self.seed, at).ok().map(|frame| frame.len()))
    }

    /// Where the next frame begins whose header verifies, at `from` or behind it.
    fn next_frame(&self, from: u64, limit: u64) -> Result<Option<u64>> {
        let mut window = Window::on(self);
        let mut at = from;
        while at + SNAPSHOT_ALIGN <= limit {
            let bytes = window.fetch(at, SNAPSHOT_FRAME_HEADER_MAX)?;
            if bytes.is_empty() {
                break;
            }
            if bytes.len() > 4 && bytes[4] != 0 && SnapshotFrame::decode(bytes, self.seed, at).is_ok() {
                return Ok(Some(at));
            }
            at += SNAPSHOT_ALIGN;
        }
        Ok(None)
    }

    /// The largest offset that frames behind `at` say was synced.
    fn synced_beyond(&self, at: u64, limit: u64) -> Result<u64> {
        let mut window = Window::on(self);
        let mut largest = 0;
        let mut from = at + SNAPSHOT_ALIGN;
        while let Some(next) = self.next_frame(from, limit)? {
            let bytes = window.fetch(next, SNAPSHOT_FRAME_HEADER_MAX)?;
            let Ok(frame) = SnapshotFrame::decode(bytes, self.seed, next) else { break };
            largest = largest.max(frame.synced_upto);
            from = next + frame.len();
        }
        Ok(largest)
    }

    /// Bytes `offset..offset + len` that no longer change: a part of a map, or a copy aligned like one.
    pub(crate) fn hold(&self, offset: u64, len: usize) -> Result<(Map, usize)> {
        let ends = || Error::corrupt(&self.name, offset, None, "the file ends before the snapshot does");
        if self.mode == ReadMode::Mapped {
            let map = match self.map.get() {
                Some(map) => map,
                None => {
                    let made = self.file.map().map_err(Error::io("map", &self.name))?;
                    self.map.get_or_init(|| made)
                }
            };
            let begin = offset as usize;
            return if begin.checked_add(len).is_some_and(|end| end <= map.len()) {
                Ok((map.clone(), begin))
            } else {
                Err(ends())
            };
        }
        let mut read = Ok(0);
        let copy = Map::copied(len, None, |bytes| read = self.file.read_at(offset, bytes));
        match read {
            Ok(got) if got == len => Ok((copy, 0)),
            Ok(_) => Err(ends()),
            Err(error) => Err(Error::io("read", &self.name)(error)),
        }
    }
}

enum Step {
    Frame { len: u64, synced_upto: u64 },
    Clean,
    Broken(Fault),
}

pub(super) fn corrupt(name: &str, offset: u64, what: String) -> Corrupt {
    match Error::corrupt(name, offset, None, what) {
        Error::Corrupt(corrupt) => *corrupt,
        _ => unreachable!("made as damage"),
    }
}
