//! Where a file of the index is written: a file beside its place, in large pieces, at the rate that the caller allows.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use annals_format::index_file::{FILE_HEADER_LEN, FinishedFile, Sink, WriteError};

use crate::Result;
use crate::error::Error;
use crate::prepare::no_room;
use crate::storage::{Fill, Storage, StorageFile};

/// Bytes of one write.
const PIECE: usize = 128 << 10;
/// Bytes after which what was written is synced, so that the end is not one long sync that others wait for.
const SYNC_EVERY: u64 = 8 << 20;
/// Steps between looks at the flag.
const BEAT: u32 = 1 << 12;

/// Why a merge ended early.
#[derive(Debug)]
pub(crate) enum Halt {
    Stopped,
    Failed(Error),
}

pub(crate) type Step<T = ()> = Result<T, WriteError<Halt>>;

/// Looks at the flag every few thousand steps.
#[derive(Debug)]
pub(crate) struct Pulse<'a> {
    pub(super) stop: &'a AtomicBool,
    steps: u32,
}

impl<'a> Pulse<'a> {
    pub(crate) fn new(stop: &'a AtomicBool) -> Self {
        Self { stop, steps: 0 }
    }

    #[inline]
    pub(crate) fn beat(&mut self) -> Step {
        self.steps = self.steps.wrapping_add(1);
        if self.steps.is_multiple_of(BEAT) && self.stop.load(Ordering::Relaxed) {
            return Err(WriteError::Sink(Halt::Stopped));
        }
        Ok(())
    }
}

pub(crate) struct TierSink<'a> {
    file: Arc<dyn StorageFile>,
    name: &'a str,
    pending: Vec<u8>,
    at: u64,
    synced: u64,
    pace: &'a mut dyn FnMut(u64),
    stop: &'a AtomicBool,
}

impl<'a> TierSink<'a> {
    /// A new file of this length; what an earlier attempt left is removed.
    pub(crate) fn create(
        storage: &dyn Storage,
        name: &'a str,
        len: u64,
        pace: &'a mut dyn FnMut(u64),
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        Self::create_behind(FILE_HEADER_LEN, storage, (name, len), pace, stop)
    }

    /// As [`TierSink::create`], where the header is that long.
    pub(crate) fn create_behind(
        header_len: usize,
        storage: &dyn Storage,
        (name, len): (&'a str, u64),
        pace: &'a mut dyn FnMut(u64),
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let _ = storage.remove(name);
        let file = storage.create(name, len, Fill::Allocated).map_err(|error| no_room(name, error))?;
        let at = header_len as u64;
        Ok(Self { file, name, pending: Vec::with_capacity(2 * PIECE), at, synced: at, pace, stop })
    }

    fn write_pending(&mut self) -> Result<(), Halt> {
        let written = self.file.write_at(self.at, &[IoSlice::new(&self.pending)]);
        written.map_err(|error| Halt::Failed(Error::io("write", self.name)(error)))?;
        let len = self.pending.len() as u64;
        self.at += len;
        self.pending.clear();
        if self.at - self.synced >= SYNC_EVERY {
            self.sync().map_err(Halt::Failed)?;
            self.synced = self.at;
        }
        (self.pace)(len);
        if self.stop.load(Ordering::Relaxed) { Err(Halt::Stopped) } else { Ok(()) }
    }

    fn sync(&self) -> Result<()> {
        self.file.sync().map_err(Error::io("sync", self.name))
    }

    /// The rest and the header; durable but for its name.
    pub(crate) fn finish(self, finished: &FinishedFile) -> Result<(), Halt> {
        self.finish_with(&finished.header[..])
    }

    /// As [`TierSink::finish`], with these bytes for a header.
    pub(crate) fn finish_with(mut self, header: &[u8]) -> Result<(), Halt> {
        self.write_pending()?;
        let header = self.file.write_at(0, &[IoSlice::new(header)]);
        header.map_err(|error| Halt::Failed(Error::io("write", self.name)(error)))?;
        self.sync().map_err(Halt::Failed)
    }
}

impl Sink for TierSink<'_> {
    type Error = Halt;

    fn take(&mut self, bytes: &[u8]) -> Result<(), Halt> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE { self.write_pending() } else { Ok(()) }
    }
}
