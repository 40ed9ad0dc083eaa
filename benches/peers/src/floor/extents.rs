//! Segment files whose blocks were written with zeros before they are needed.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Result;

/// Bytes of a segment file.
pub const SEGMENT_LEN: u64 = 64 << 20;

/// Files that may hold bytes the disk does not have yet; the last one is being written.
pub type Unsynced = Arc<Mutex<Vec<Arc<File>>>>;

/// Syncs all of `unsynced` and forgets those that are full.
pub fn sync(unsynced: &Unsynced) -> Result<()> {
    let files = unsynced.lock().clone();
    for file in &files {
        file.sync_data()?;
    }
    let full = files.len().saturating_sub(1);
    unsynced.lock().drain(..full);
    Ok(())
}

/// Creates a segment file filled with zeros by writes of `chunk` bytes, and waits until the disk has it.
///
/// The size of the writes decides how large the page cache's folios become: small appends are fast in small ones,
/// large appends in large ones.
pub fn zeroed(path: &Path, chunk: usize) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, SEGMENT_LEN)?;
    let zeros = vec![0; chunk];
    for at in (0..SEGMENT_LEN).step_by(chunk) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// A row of segments, the first of them zero-filled ahead.
pub struct Extents {
    dir: PathBuf,
    ready: VecDeque<Arc<File>>,
    current: Arc<File>,
    number: u32,
    created: u32,
    at: u64,
    unsynced: Unsynced,
}

impl Extents {
    /// Prepares segments for `bytes`.
    pub fn prepare(dir: &Path, bytes: u64, unsynced: Unsynced) -> Result<Self> {
        let count = bytes / SEGMENT_LEN + 1;
        let (mut ready, mut created) = (VecDeque::new(), 0);
        for _ in 0..count {
            ready.push_back(Arc::new(zeroed(&path(dir, created), 4096)?));
            created += 1;
        }
        let current = ready.pop_front().expect("at least one segment");
        unsynced.lock().push(Arc::clone(&current));
        Ok(Self { dir: dir.to_owned(), ready, current, number: 0, created, at: 0, unsynced })
    }

    /// Segment and offset where `len` bytes go; rolls to the next segment when the rest of this one is too small.
    #[inline]
    pub fn room(&mut self, len: usize) -> Result<(u32, u64)> {
        if self.at + len as u64 > SEGMENT_LEN {
            self.roll()?;
        }
        let at = self.at;
        self.at += len as u64;
        Ok((self.number, at))
    }

    /// The segment being written.
    #[inline]
    pub fn file(&self) -> &Arc<File> {
        &self.current
    }

    #[cold]
    fn roll(&mut self) -> Result<()> {
        self.current = match self.ready.pop_front() {
            Some(file) => file,
            None => {
                let file = Arc::new(zeroed(&path(&self.dir, self.created), 4096)?);
                self.created += 1;
                file
            }
        };
        self.number += 1;
        self.at = 0;
        self.unsynced.lock().push(Arc::clone(&self.current));
        Ok(())
    }
}

/// The path of a segment.
pub fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("floor-{number:04}.log"))
}
