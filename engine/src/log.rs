//! The log's way from the ring into the segments' files, and back out to readers.
//!
//! ```text
//!   append ──> ring ──flush: whole pages, pwritev──> segment file (page cache) ──sync──> disk
//!                └──────────── readers of the newest bytes copy from here
//! ```
//!
//! `written_end ≥ flushed ≥ durable`. Flushing has a lock of its own that is never held over a sync. Only a flush for a
//! sync writes the last, partial page, filled up with zeros from a private copy.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::once::OnceLock;
use crate::publish::{AtomicU64, Lock, Watermark};
use crate::ring::Ring;
use crate::storage::StorageFile;

pub(crate) const PAGE: u64 = 4096;
const PAGE_LEN: usize = PAGE as usize;

#[inline]
pub(crate) const fn page_floor(offset: u64) -> u64 {
    offset & !(PAGE - 1)
}

#[inline]
pub(crate) const fn page_ceiling(offset: u64) -> u64 {
    offset.next_multiple_of(PAGE)
}

/// Batches longer than this go around the ring: they would be flushed at once in any case.
const AROUND_FROM: u64 = 64 << 10;

/// A stretch of log offsets that goes to one file.
#[derive(Debug)]
struct Extent {
    base: u64,
    /// Where the next segment begins; unknown for the last one.
    end: Option<u64>,
    file: Arc<dyn StorageFile>,
    name: String,
}

/// Ring, watermark, and the way between ring and files.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) ring: Option<Ring>,
    pub(crate) watermark: Watermark,
    extents: Lock<VecDeque<Extent>>,
    poison: OnceLock<String>,
    /// Log offset below which the ring holds nothing any more, because it was emptied. Stored under the writer's lock.
    emptied: AtomicU64,
}

impl Log {
    pub(crate) fn new(ring: Option<Ring>, watermark: Watermark) -> Self {
        Self {
            ring,
            watermark,
            extents: Lock::new(VecDeque::new()),
            poison: OnceLock::new(),
            emptied: AtomicU64::new(0),
        }
    }

    /// A log that is only read: all its bytes are in the files.
    pub(crate) fn of_files() -> Self {
        Self::new(None, Watermark::start(0, 0, u64::MAX))
    }

    /// From log offset `base` on, bytes belong to `file`.
    pub(crate) fn add_extent(&self, base: u64, file: Arc<dyn StorageFile>, name: &str) {
        let mut extents = self.extents.lock();
        if let Some(last) = extents.back_mut() {
            last.end = Some(base);
        }
        extents.push_back(Extent { base, end: None, file, name: name.to_owned() });
    }

    /// The error that every mutation answers once a write or sync has failed.
    pub(crate) fn check_poison(&self) -> Result<(), Error> {
        if self.watermark.is_poisoned() {
            return Err(Error::Poisoned { reason: self.poison_reason() });
        }
        Ok(())
    }

    pub(crate) fn poison_reason(&self) -> String {
        self.poison.get().cloned().unwrap_or_default()
    }

    /// Stops the writer for good. The first reason stays.
    pub(crate) fn poison(&self, reason: String) {
        let _ = self.poison.set(reason);
        self.watermark.poison();
    }

    /// Length of the ring; 0 for a log that is only read.
    pub(crate) fn ring_len(&self) -> u64 {
        self.ring.as_ref().map_or(0, Ring::len)
    }

    fn ring(&self) -> &Ring {
        self.ring.as_ref().expect("a log that is written to has a ring")
    }

    /// Stores `bytes` at log offset `at`, which is the end of all that was stored before; makes room first.
    ///
    /// The caller holds the writer's lock. An error has poisoned the log.
    pub(crate) fn place(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let ring = self.ring();
        let end = at + bytes.len() as u64;
        if bytes.len() as u64 > AROUND_FROM.min(ring.len() / 2) {
            return self.place_around(at, bytes);
        }
        if end > page_floor(self.watermark.flushed()) + ring.len() {
            self.flush(at, false)?;
        }
        self.watermark.raise_low(end.saturating_sub(ring.len()).max(self.emptied.load(Ordering::Relaxed)));
        ring.store(at, bytes);
        Ok(())
    }

    /// Stores zeros over the bytes `range` of the ring, but for those that the next flush begins with: all that stands there
    /// is in the files when this begins. `end` is the end of all that was stored.
    ///
    /// The caller holds the writer's lock. An error has poisoned the log.
    pub(crate) fn empty_ring(&self, range: Range<u64>, end: u64) -> Result<(), Error> {
        let ring = self.ring();
        // With the last page: no batch may lie partly in the files and partly in what is emptied.
        self.flush(end, true)?;
        let page = page_floor(end);
        self.emptied.store(page, Ordering::Relaxed);
        self.watermark.raise_low(page.max(end.saturating_sub(ring.len())));
        let kept = page % ring.len()..page % ring.len() + (end - page);
        ring.zero(range.start..range.end.min(kept.start).max(range.start));
        ring.zero(range.start.max(kept.end).min(range.end)..range.end);
        Ok(())
    }

    /// A long batch goes to the file directly, without a copy in between that no cache would hold; the ring gets its last, partial page, since the next
    /// flush writes that page from there.
    fn place_around(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let ring = self.ring();
        self.flush(at, true)?;
        let end = at + bytes.len() as u64;
        let last_page = page_floor(end).max(at);
        self.watermark.raise_low(end.saturating_sub(ring.len()).max(at));
        ring.store(last_page, &bytes[(last_page - at) as usize..]);
        let extents = self.extents.lock();
        let extent = extents.back().expect("a segment is open");
        let written = extent.file.write_at(at - extent.base, &[std::io::IoSlice::new(bytes)]);
        if let Err(error) = written {
            let reason = format!("write {}: {error}", extent.name);
            drop(extents);
            self.poison(reason);
            return Err(self.check_poison().unwrap_err());
        }
        self.watermark.set_flushed(end);
        Ok(())
    }

    /// Zeros from `from` to the page border at `to`: what follows an end mark.
    pub(crate) fn place_zeros(&self, from: u64, to: u64) -> Result<(), Error> {
        static ZEROS: [u8; PAGE_LEN] = [0; PAGE_LEN];
        self.place(from, &ZEROS[..(to - from) as usize])
    }

    /// Moves ring bytes below `upto` (which lies below the end of what is stored) into the files: whole pages only, or
    /// with `tail` also the partial page at the end.
    ///
    /// An error has poisoned the log.
    pub(crate) fn flush(&self, upto: u64, tail: bool) -> Result<(), Error> {
        let mut extents = self.extents.lock();
        self.check_poison()?;
        let target = if tail { upto } else { page_floor(upto) };
        loop {
            let flushed = self.watermark.flushed();
            if flushed >= target {
                return Ok(());
            }
            let extent = extents.front().expect("a segment is open");
            if extent.end.is_some_and(|end| flushed >= end) {
                extents.pop_front();
                continue;
            }
            let until = extent.end.map_or(target, |end| end.min(target));
            if let Err(error) = self.flush_extent(extent, flushed, until) {
                let reason = format!("write {}: {error}", extent.name);
                drop(extents);
                self.poison(reason);
                return Err(self.check_poison().unwrap_err());
            }
            self.watermark.set_flushed(until);
        }
    }

    /// Whether somebody is at a flush just now, or about to begin or end one.
    pub(crate) fn is_flushing(&self) -> bool {
        self.extents.is_locked()
    }

    /// Writes from the page of `flushed` up to `until` in one call.
    fn flush_extent(&self, extent: &Extent, flushed: u64, until: u64) -> std::io::Result<()> {
        let ring = self.ring();
        let from = page_floor(flushed).max(extent.base);
        let whole = page_floor(until).max(from);
        let mut page = [0u8; PAGE_LEN];
        let tail: &[u8] = if until > whole {
            ring.load(whole, &mut page[..(until - whole) as usize]);
            &page
        } else {
            &[]
        };
        ring.write_to(&*extent.file, from - extent.base, from, whole, tail)
    }
}
