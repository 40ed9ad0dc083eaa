//! Compaction: sealed segments are put into containers, compressed and without the content of what was removed.
//!
//! It runs in the thread that asks for it, beside appends, which it does not hold up. Nothing moves: positions, revisions,
//! offsets and with them all indexes stay as they are ([`crate::compacted`]). A segment's container is written beside,
//! synced and named; then the manifest that lists it is written, which is the moment at which the segment is compacted; then
//! its old file goes. Cut short anywhere, it leaves at most a file that the next opening for writing removes.
//!
//! Only what a durable record removes is taken out, and what finds it stays: id, names, tags, position and revision.

mod install;
mod retired;
mod rewrite;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use annals_format::compacted::{BLOCK_LEN_MAX, BLOCK_LEN_MIN};
use annals_format::manifest::SegmentEntry;

use crate::Result;
use crate::background;
use crate::core::Core;
use crate::read_only::ReadOnly;
use crate::snapshot;
use crate::store::{Inner, Store};

pub(crate) use install::remove_superseded;
pub(crate) use retired::Retired;

/// How compaction is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionOptions {
    pub(crate) dry_run: bool,
    pub(crate) level: i32,
    pub(crate) block_len: u32,
    pub(crate) bytes_per_second: Option<u64>,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self { dry_run: false, level: 3, block_len: 64 << 10, bytes_per_second: None }
    }
}

impl CompactionOptions {
    /// The defaults: all that is worth it, at zstd's level 3, in blocks of 64 KiB, as fast as it goes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only says what would be freed, and writes nothing but what belongs to sealing. It takes as long as compaction itself, without the writing.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Level of zstd, 1 to 19: higher ones take longer to write and hardly less space; reading is as fast with each.
    pub fn level(mut self, level: i32) -> Self {
        self.level = level.clamp(1, 19);
        self
    }

    /// Bytes that are compressed together, rounded up to a power of two, 4 KiB to 1 MiB. A single event is read by
    /// decompressing its block: longer ones take less space, and longer to read from. Those of more than 128 KiB are not
    /// shared between readers.
    pub fn block_bytes(mut self, len: u32) -> Self {
        self.block_len = len.clamp(BLOCK_LEN_MIN, BLOCK_LEN_MAX).next_power_of_two();
        self
    }

    /// How many bytes of segments are compacted a second at most; `None`: no limit.
    pub fn bytes_per_second(mut self, limit: Option<u64>) -> Self {
        self.bytes_per_second = limit.filter(|limit| *limit > 0);
        self
    }
}

/// What compaction has done, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionReport {
    /// Numbers of the segments that were compacted.
    pub compacted: Vec<u64>,
    /// Sealed segments that were left as they were, because nothing would be gained.
    pub left: u64,
    /// Length of the files of the compacted segments before.
    pub bytes_before: u64,
    /// Length of their containers.
    pub bytes_after: u64,
    /// Events whose content was taken out.
    pub removed_events: u64,
    /// Snapshots of state that went because their streams were deleted.
    pub void_snapshots: u64,
    /// Whether it was stopped before all was done. What was done stays.
    pub cancelled: bool,
    /// Old files that could not be removed, which the next opening for writing does, and what kept snapshots from going.
    pub notices: Vec<String>,
}

/// How far compaction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacting {
    /// Bytes of segments that are done.
    pub done: u64,
    /// Bytes of all segments that are looked at.
    pub total: u64,
}

impl Store {
    /// Compacts sealed segments: takes out the content of events that were removed, compresses what is left, and frees the
    /// space. Appends and reads go on meanwhile, and no answer changes. Segments that were compacted before are taken up
    /// again when something was removed from them since.
    ///
    /// Of removed events id, stream, type, tags, position and revision stay, and of truncated and expired ones a keyed hash of
    /// the content, for retries. The segment that is being written is not compacted. Takes about a second for 100 MB, in the
    /// calling thread, and as much memory as the compressed segment.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, and `Corrupt` where a segment is damaged; segments before that one stay compacted, the others as they
    /// were. `Poisoned` after a failed write of the log.
    ///
    /// ```
    /// use annals::{CompactionOptions, Expect, NewEvent, Store};
    /// # fn main() -> annals::Result<()> {
    /// let store = Store::in_memory()?;
    /// store.append("order-1", Expect::Any, &[NewEvent::new("Placed", b"")])?;
    /// let report = store.compact(&CompactionOptions::new())?;
    /// assert!(report.compacted.is_empty()); // nothing is sealed yet
    /// # Ok(())
    /// # }
    /// ```
    pub fn compact(&self, options: &CompactionOptions) -> Result<CompactionReport> {
        self.compact_while(options, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Store::compact`]; `progress` is told now and then how far it is, and ends it with `Break`.
    ///
    /// # Errors
    /// As there.
    pub fn compact_while(
        &self,
        options: &CompactionOptions,
        progress: &mut dyn FnMut(Compacting) -> ControlFlow<()>,
    ) -> Result<CompactionReport> {
        // Then all that was removed before this call is durable.
        self.sync()?;
        let mut report = compact(self.inner(), options, progress)?;
        if !options.dry_run && !report.cancelled {
            // States of what is deleted go with its events.
            match snapshot::drop_void(self) {
                Ok(void) => report.void_snapshots = void,
                Err(error) => report.notices.push(error.to_string()),
            }
        }
        Ok(report)
    }
}

pub(crate) fn compact(
    inner: &Inner,
    options: &CompactionOptions,
    progress: &mut dyn FnMut(Compacting) -> ControlFlow<()>,
) -> Result<CompactionReport> {
    // One at a time; who asks meanwhile waits.
    let _turn = inner.compacting.lock();
    inner.core.log.check_poison()?;
    background::seal_all(inner);
    inner.core.log.check_poison()?;
    // What was removed by a record that a power cut could take back stays.
    let durable = inner.core.log.watermark.durable();
    let hidden = inner.core.removals.hidden(durable);
    let (entries, content_key) = {
        let sealing = inner.sealing.lock();
        (sealing.manifest.segments.clone(), sealing.manifest.content_hash_key)
    };
    let due = due(entries, &inner.core, durable);
    let mut pace = Pace::of(&due, options, progress);
    let mut report = CompactionReport::default();
    for entry in due {
        // One that is ended and not yet listed among the readers' segments comes up the next time.
        let Some(segment) = install::listed_segment(inner, &entry) else { continue };
        let basis = rewrite::Basis {
            storage: &*inner.storage,
            now: inner.options.now(),
            entry: &entry,
            hidden: hidden.as_ref(),
            generation: install::next_generation(inner, &entry)?,
            content_key,
            options,
        };
        match basis.rewrite(&mut pace)? {
            rewrite::Outcome::Cancelled => {
                report.cancelled = true;
                break;
            }
            rewrite::Outcome::Left => report.left += 1,
            rewrite::Outcome::OnlyLookedAt => {
                report.left += 1;
                if !options.dry_run {
                    install::note_looked_at(inner, &entry, durable)?;
                }
            }
            rewrite::Outcome::Made(made) => {
                report.made(&entry, &made);
                if !options.dry_run {
                    report.notices.extend(install::install(inner, &segment, &entry, &made, durable)?);
                }
            }
        }
    }
    Ok(report)
}

/// Those that were not compacted yet, or of which a durable record may have removed something since.
fn due(entries: Vec<SegmentEntry>, core: &Core, durable: u64) -> Vec<SegmentEntry> {
    let newest_hiding = core.removals.newest_hiding().min(durable);
    let is_due = |entry: &SegmentEntry| match &entry.compacted {
        None => true,
        Some(container) => container.removed_upto < newest_hiding,
    };
    entries.into_iter().filter(is_due).collect()
}

impl CompactionReport {
    fn made(&mut self, entry: &SegmentEntry, made: &rewrite::Made) {
        self.compacted.push(entry.number);
        self.bytes_before += entry.file_len();
        self.bytes_after += made.header.file_len;
        self.removed_events += made.newly_removed;
    }
}

impl ReadOnly {
    /// What compaction would do, as far as segments were listed at the last look: as [`Store::compact`] with `dry_run`, beside a
    /// writer or alone.
    ///
    /// # Errors
    /// `Corrupt` or `Io` where a segment is damaged.
    pub fn plan_compaction(
        &self,
        options: &CompactionOptions,
        progress: &mut dyn FnMut(Compacting) -> ControlFlow<()>,
    ) -> Result<CompactionReport> {
        let core = self.core();
        let durable = core.log.watermark.durable();
        let hidden = core.removals.hidden(durable);
        let listed: Vec<SegmentEntry> =
            core.segments.load().iter().filter_map(|segment| segment.entry().cloned()).collect();
        let due = due(listed, core, durable);
        let mut pace = Pace::of(&due, options, progress);
        let mut report = CompactionReport::default();
        for entry in due {
            let basis = rewrite::Basis {
                storage: &**self.storage(),
                now: self.options().now(),
                entry: &entry,
                hidden: hidden.as_ref(),
                generation: entry.generation + 1,
                content_key: [0; 16],
                options,
            };
            match basis.rewrite(&mut pace)? {
                rewrite::Outcome::Cancelled => {
                    report.cancelled = true;
                    break;
                }
                rewrite::Outcome::Left | rewrite::Outcome::OnlyLookedAt => report.left += 1,
                rewrite::Outcome::Made(made) => report.made(&entry, &made),
            }
        }
        Ok(report)
    }
}

/// Tells how far it is, and keeps to the limit.
pub(crate) struct Pace<'a> {
    progress: &'a mut dyn FnMut(Compacting) -> ControlFlow<()>,
    at: Compacting,
    begun: Instant,
    limit: Option<u64>,
}

/// It sleeps no longer at once, so that it can be cancelled.
const NAP: Duration = Duration::from_millis(50);

impl<'a> Pace<'a> {
    fn of(
        due: &[SegmentEntry],
        options: &CompactionOptions,
        progress: &'a mut dyn FnMut(Compacting) -> ControlFlow<()>,
    ) -> Self {
        let total = due.iter().map(|entry| entry.end / 2 * 2).sum();
        Self { progress, at: Compacting { done: 0, total }, begun: Instant::now(), limit: options.bytes_per_second }
    }

    /// So many bytes more are done; true if it shall stop.
    fn pass(&mut self, len: u64) -> bool {
        self.at.done += len;
        loop {
            if (self.progress)(self.at).is_break() {
                return true;
            }
            let due =
                self.limit.map_or(Duration::ZERO, |limit| Duration::from_secs_f64(self.at.done as f64 / limit as f64));
            match due.checked_sub(self.begun.elapsed()) {
                Some(ahead) if !ahead.is_zero() => std::thread::sleep(ahead.min(NAP)),
                _ => return false,
            }
        }
    }
}
