//! Counters of an open store.

use std::sync::atomic::Ordering;

use crate::merging;
use crate::store::Inner;

/// What an open store has counted since it was opened, and how large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Position of the last record written.
    pub written: u64,
    /// Position of the last record that is durable.
    pub durable: u64,
    /// When the durable head was shown last, in nanoseconds since 1970 UTC by the wall clock; `None`: not since the store was
    /// opened.
    pub durable_shown_at: Option<u64>,
    /// Syncs of segment files.
    pub syncs: u64,
    /// Streams that the writer holds in memory: those it met since the store was opened, until the directory holds them. One
    /// that comes again while the directory is behind may be counted more than once.
    pub streams_in_memory: u64,
    /// Streams of which something was removed by name.
    pub removed_streams: u64,
    /// Bytes of memory in which these are held.
    pub removal_memory: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Bytes of all segment files.
    pub segment_bytes: u64,
    /// Times that the wall clock stood behind the last batch.
    pub clock_steps_back: u64,
    /// Events of ended segments that a tier or the directory does not hold yet. They are found all the same, by the index of each
    /// segment; what is missing is made in the background, when there is quiet or when it is much.
    pub index_behind: u64,
    /// Times that an index or manifest could not be written; nothing is lost by it, a reopening rebuilds.
    pub seal_failures: u64,
}

impl Stats {
    pub(crate) fn of(inner: &Inner) -> Self {
        let segments = inner.core.segments.load();
        let (streams_in_memory, clock_steps_back) = {
            let writer = inner.writer.lock();
            (writer.streams.len() as u64, writer.clock_steps_back)
        };
        let (removed_streams, removal_memory) = inner.core.removals.extent();
        Self {
            removed_streams: removed_streams as u64,
            removal_memory: removal_memory as u64,
            written: inner.core.log.watermark.written(),
            durable: inner.core.log.watermark.durable(),
            durable_shown_at: Some(inner.commit.shown_at.load(Ordering::Relaxed)).filter(|time| *time > 0),
            syncs: inner.commit.sync_count.load(Ordering::Relaxed),
            streams_in_memory,
            segments: segments.len() as u64,
            segment_bytes: segments.iter().map(|segment| segment.header.segment_len).sum(),
            clock_steps_back,
            index_behind: merging::index_behind(inner),
            seal_failures: inner.sealing.lock().failures,
        }
    }
}
