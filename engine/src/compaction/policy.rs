//! Compaction by itself: when it begins, and who does it.
//!
//! The thread that merges tiers looks after it between two looks at its own work: first whether somebody asked from outside
//! ([`request`]), then whether the policy says that enough has gathered. What cannot wait of merging is done in between.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Compacting, CompactionOptions, Turn, request, run};
use crate::merging;
use crate::store::Inner;

/// After a failure nothing is tried for so long.
const PAUSE: Duration = Duration::from_secs(60);
/// With so many times as much as is enough it begins without waiting for quiet.
const MUCH: u64 = 4;
/// How often what cannot wait of merging is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// When a store compacts by itself ([`Options::compaction`](crate::Options::compaction)).
///
/// A background thread does it, slowly, while few segments end; it stops when the store is closed, and goes on after the next
/// opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionPolicy {
    uncompacted_bytes: u64,
    spared: usize,
    removed_for: Option<Duration>,
    options: CompactionOptions,
}

impl Default for CompactionPolicy {
    fn default() -> Self {
        Self::new()
    }
}

impl CompactionPolicy {
    /// Begins when segments of 256 MiB are not compacted, spares the four newest, at 32 MiB a second; what was removed waits
    /// for that.
    pub fn new() -> Self {
        Self {
            uncompacted_bytes: 256 << 20,
            spared: 4,
            removed_for: None,
            options: CompactionOptions::new().bytes_per_second(Some(32 << 20)),
        }
    }

    /// So many bytes of segments that are not compacted are enough to begin; those that would not become shorter do not count.
    pub fn uncompacted_bytes(mut self, bytes: u64) -> Self {
        self.uncompacted_bytes = bytes.max(1);
        self
    }

    /// So many of the newest segments stay as they are: what is young is read most, and is quicker to read.
    pub fn spare_newest(mut self, segments: usize) -> Self {
        self.spared = segments;
        self
    }

    /// What was removed is taken out of the files after this long, wherever it lies: of this opening, and after an opening what
    /// may be left from before.
    pub fn take_out_after(mut self, delay: Duration) -> Self {
        self.removed_for = Some(delay);
        self
    }

    /// How it is done. A dry run is none here.
    pub fn options(mut self, options: CompactionOptions) -> Self {
        self.options = options.dry_run(false);
        self
    }

    /// What is due, if anything is.
    fn due(&self, inner: &Inner, turn: &mut Turn, is_quiet: bool) -> Option<CompactionOptions> {
        if turn.failed_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        let newest_hiding = inner.core.removals.newest_hiding().min(inner.core.log.watermark.durable());
        if newest_hiding <= turn.taken_out_up_to {
            turn.waits_since = None;
        } else if let Some(delay) = self.removed_for
            && turn.waits_since.get_or_insert_with(Instant::now).elapsed() >= delay
        {
            return Some(CompactionOptions { spared: 0, ..self.options });
        }
        let uncompacted: u64 = {
            let sealing = inner.sealing.lock();
            let entries = &sealing.manifest.segments;
            let old = &entries[..entries.len().saturating_sub(self.spared)];
            let counted = old.iter().filter(|entry| entry.compacted.is_none() && !turn.left.contains(&entry.number));
            counted.map(|entry| entry.file_len()).sum()
        };
        let enough = if is_quiet { self.uncompacted_bytes } else { self.uncompacted_bytes.saturating_mul(MUCH) };
        (uncompacted >= enough).then_some(CompactionOptions { spared: self.spared, ..self.options })
    }
}

/// Does what was asked for from outside, or what the policy says. For the thread that merges.
pub(crate) fn attend(inner: &Inner, is_quiet: bool) {
    let mut looked = Instant::now();
    let mut goes_on = |_: Compacting| {
        if inner.stopping.load(Ordering::Acquire) {
            return ControlFlow::Break(());
        }
        if looked.elapsed() >= LOOK {
            merging::keep_up(inner);
            looked = Instant::now();
        }
        ControlFlow::Continue(())
    };
    if request::serve(inner, &mut goes_on) {
        return;
    }
    let Some(policy) = &inner.options.compaction else { return };
    // Whoever compacts by hand is at it already.
    let due = inner.compacting.try_lock().and_then(|mut turn| policy.due(inner, &mut turn, is_quiet));
    let Some(options) = due else { return };
    let outcome = run(inner, &options, &mut goes_on);
    let mut turn = inner.compacting.lock();
    turn.failed_at = match outcome {
        Ok(report) if report.notices.is_empty() => None,
        // It is told by whoever compacts by hand, and tried again later.
        _ => Some(Instant::now()),
    };
}
