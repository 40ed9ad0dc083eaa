//! How far the log is written, flushed and durable: the only state that writer and readers share while running.
//!
//! Positions (`written`, `durable`) say what a view shows; log offsets (`flushed`, `low`) say where its bytes are. The
//! writer stores a batch's bytes and index entries first and `written` last (release); a reader loads `written` or
//! `durable` first (acquire) and so finds all bytes and entries up to it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

#[derive(Debug, Default)]
pub(crate) struct Watermark {
    /// Position of the last record of the last whole batch.
    written: CachePadded<AtomicU64>,
    /// Position up to which the log is synced.
    durable: CachePadded<AtomicU64>,
    /// Log offset below which the segments' files hold the bytes.
    flushed: CachePadded<AtomicU64>,
    /// Log offset below which bytes may have left the ring.
    low: CachePadded<AtomicU64>,
    /// Log offset of the end of the last whole batch.
    written_end: CachePadded<AtomicU64>,
    /// Set once, when a write or sync failed: the written view falls back to the durable one.
    poisoned: AtomicBool,
}

impl Watermark {
    pub(crate) fn start(head: u64, durable: u64, end: u64) -> Self {
        let watermark = Self::default();
        watermark.written.store(head, Ordering::Relaxed);
        watermark.durable.store(durable, Ordering::Relaxed);
        watermark.flushed.store(end, Ordering::Relaxed);
        watermark.low.store(0, Ordering::Relaxed);
        watermark.written_end.store(end, Ordering::Release);
        watermark
    }

    /// The head of the written view.
    #[inline]
    pub(crate) fn written(&self) -> u64 {
        if self.poisoned.load(Ordering::Acquire) {
            return self.durable();
        }
        self.written.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn written_end(&self) -> u64 {
        self.written_end.load(Ordering::Acquire)
    }

    /// Shows a batch: everything of it was stored before this call.
    #[inline]
    pub(crate) fn publish(&self, head: u64, end: u64) {
        self.written_end.store(end, Ordering::Release);
        self.written.store(head, Ordering::Release);
    }

    /// Bytes up to `end` without a record: headers, end marks.
    pub(crate) fn extend(&self, end: u64) {
        self.written_end.store(end, Ordering::Release);
    }

    pub(crate) fn set_flushed(&self, end: u64) {
        self.flushed.fetch_max(end, Ordering::Release);
    }

    /// Announces that ring bytes below `low` are about to be overwritten. The fence keeps the overwriting stores behind
    /// the announcement: who copies an overwritten word and then passes the acquire fence of
    /// [`Watermark::still_in_ring`] sees at least this `low`.
    #[inline]
    pub(crate) fn raise_low(&self, low: u64) {
        self.low.store(low, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::Release);
    }

    /// Whether a copy just made of ring bytes from `offset` on was not overwritten meanwhile.
    #[inline]
    pub(crate) fn still_in_ring(&self, offset: u64) -> bool {
        std::sync::atomic::fence(Ordering::Acquire);
        self.low.load(Ordering::Relaxed) <= offset
    }

    pub(crate) fn set_durable(&self, position: u64) {
        self.durable.fetch_max(position, Ordering::Release);
    }

    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }
}
