//! The seam to those outside of the process.

use std::fmt::Debug;

/// Tells other processes how far the log is durable. They cannot be counted, so it is told whether or not one listens.
///
/// Called by whoever led the sync: a thread that waited for the disk anyway, or one of the background. Never by an append
/// that does not wait for a sync.
pub(crate) trait Announce: Send + Sync + Debug {
    /// The durable head has moved to `head`: once for each advance, after the readers of this process can see it. Two
    /// threads that sync one after the other may come in the other order, so what is told must never move back.
    fn durable(&self, head: u64);

    /// The writer is at its end, by closing or by a failure: nothing will be announced any more. May be called again.
    fn ended(&self) {}
}
