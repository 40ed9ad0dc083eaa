//! Compaction: sealed segments are put into containers, compressed and without the content of what was removed.
//!
//! It runs in the thread that asks for it, beside appends, which it does not hold up. Nothing moves: positions, revisions,
//! offsets and with them all indexes stay as they are ([`crate::compacted`]). A segment's container is written beside,
//! synced and named; then the manifest that lists it is written, which is the moment at which the segment is compacted; then
//! its old file goes. Cut short anywhere, it leaves at most a file that the next opening for writing removes.
//!
//! Only what a durable record removes is taken out, and what finds it stays: id, names, tags, position and revision.

mod folding;
mod install;
mod newest;
mod policy;
mod request;
mod retired;
mod rewrite;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use annals_format::compacted::{BLOCK_LEN_MAX, BLOCK_LEN_MIN};
use annals_format::manifest::SegmentEntry;

use crate::Result;
use crate::background;
use crate::core::Core;
use crate::error::Error;
use crate::merging;
use crate::read_only::ReadOnly;
use crate::removal;
use crate::snapshot;
use crate::store::{Inner, Store};

pub use folding::{FoldFailure, Folded};
pub(crate) use install::remove_superseded;
pub use policy::CompactionPolicy;
pub(crate) use policy::attend;
pub use request::{CompactionRequest, RequestState};
pub(crate) use retired::Retired;

/// What compaction does about the segment that is being written, which it cannot rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum LiveSegment {
    /// It stays, and with it what was removed from it, and what the ring holds of removed events.
    Leave,
    /// It is ended where it holds anything removed, so that it can be compacted with the others, and the ring is emptied: so
    /// nothing removed is left in any file. The default.
    #[default]
    EndWhereRemoved,
    /// It is ended whenever it holds anything, so that all that was written before is compressed.
    End,
}

/// How compaction is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionOptions {
    pub(crate) dry_run: bool,
    pub(crate) live_segment: LiveSegment,
    pub(crate) sweep_first: bool,
    pub(crate) level: i32,
    pub(crate) block_len: u32,
    pub(crate) bytes_per_second: Option<u64>,
    /// So many of the newest segments are passed over: what is young is read most.
    pub(crate) spared: usize,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            live_segment: LiveSegment::default(),
            sweep_first: false,
            level: 3,
            block_len: 64 << 10,
            bytes_per_second: None,
            spared: 0,
        }
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

    /// What is done about the segment that is being written. A dry run never ends it, and does not count it.
    pub fn live_segment(mut self, what: LiveSegment) -> Self {
        self.live_segment = what;
        self
    }

    /// Sweeps first ([`Store::sweep`]), so that the content of what policies let go of is taken out as well. A dry run does not.
    pub fn sweep_first(mut self, sweep: bool) -> Self {
        self.sweep_first = sweep;
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
    /// What was done by registered folds.
    pub folds: Folded,
    /// Whether it was stopped before all was done. What was done stays.
    pub cancelled: bool,
    /// Whether the segment that was being written was ended, to be compacted too.
    pub ended_live: bool,
    /// Old files that could not be removed, which the next opening for writing does, what kept snapshots from going or from being
    /// saved, and why the segment that is being written could not be ended.
    pub notices: Vec<String>,
}

/// How far compaction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacting {
    /// Bytes of segments that are done.
    pub done: u64,
    /// Bytes of all segments that are looked at; 0 while streams are folded, which comes before.
    pub total: u64,
    /// Streams that were folded by registered folds.
    pub folded: u64,
}

impl Store {
    /// Compacts sealed segments: takes out the content of events that were removed, compresses what is left, and frees the
    /// space. Appends and reads go on meanwhile, and no answer changes. Segments that were compacted before are taken up
    /// again when something was removed from them since.
    ///
    /// Of removed events id, stream, type, tags, position and revision stay, and of truncated and expired ones a keyed hash of
    /// the content, for retries. The content of all that was removed before the call is in no file of the directory after it:
    /// the segment that is being written is ended if it holds any of it, and the ring is emptied ([`LiveSegment`]). Takes about
    /// a second for 100 MB, in the calling thread, and as much memory as the compressed segment. Before that streams are folded for
    /// which folds are registered ([`Store::register_fold`]).
    ///
    /// # Errors
    /// `NoSpace`, `Io`, and `Corrupt` where a segment is damaged; segments before that one stay compacted, the others as they
    /// were. `Poisoned` after a failed write of the log; with [`CompactionOptions::sweep_first`] as [`Store::sweep`].
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

    /// As [`Store::compact`]; `progress` is told now and then how far it is, and ends it with `Break`. It ends likewise, `cancelled`,
    /// where another thread closes the store, which waits for that.
    ///
    /// # Errors
    /// As there; `Invalid` if `progress`, or a fold, asks for a compaction of the same store.
    pub fn compact_while(
        &self,
        options: &CompactionOptions,
        progress: &mut dyn FnMut(Compacting) -> ControlFlow<()>,
    ) -> Result<CompactionReport> {
        run(self.inner(), options, progress)
    }
}

thread_local! {
    /// Address of the store that this thread compacts.
    static COMPACTED: Cell<usize> = const { Cell::new(0) };
}

/// While it lives this thread compacts a store: what is called meanwhile must not wait for that.
struct AtIt {
    before: usize,
}

impl AtIt {
    fn with(inner: &Inner) -> Self {
        Self { before: COMPACTED.replace(std::ptr::from_ref(inner).addr()) }
    }

    fn is_with(inner: &Inner) -> bool {
        COMPACTED.get() == std::ptr::from_ref(inner).addr()
    }
}

impl Drop for AtIt {
    fn drop(&mut self) {
        COMPACTED.set(self.before);
    }
}

/// While the store is being closed: returns when nobody compacts it any more. Whoever comes later sees that it is closed, and
/// whoever is at it ends early. Does not wait for this thread itself, which closes it in the middle of a compaction.
pub(crate) fn wait_for_the_last(inner: &Inner) {
    if !AtIt::is_with(inner) {
        drop(inner.compacting.lock());
    }
}

/// As [`Store::compact_while`], for whoever has no handle.
fn run(
    inner: &Inner,
    options: &CompactionOptions,
    progress: &mut dyn FnMut(Compacting) -> ControlFlow<()>,
) -> Result<CompactionReport> {
    if AtIt::is_with(inner) {
        return Err(Error::invalid("a compaction is asked for by one, which waits for it", None));
    }
    let _at_it = AtIt::with(inner);
    // Who closes the store waits for this.
    let progress = &mut |at: Compacting| match progress(at) {
        ControlFlow::Continue(()) if !inner.stopping.load(Ordering::Acquire) => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    // Before a sweep: a state may take the place of what it lets go of.
    let (folds, notice) = match fold(inner, options, progress)? {
        (folds, Ok(ControlFlow::Continue(()))) => (folds, None),
        (folds, Ok(ControlFlow::Break(()))) => {
            return Ok(CompactionReport { folds, cancelled: true, ..CompactionReport::default() });
        }
        // What can be compacted may make the room that is missing.
        (folds, Err(error)) => (folds, Some(format!("streams could not be folded: {error}"))),
    };
    if options.sweep_first && !options.dry_run && !inner.core.removals.policies().is_empty() {
        removal::sweep(inner)?;
    }
    // Then all that was removed before this call is durable.
    inner.sync()?;
    let mut report = compact(inner, options, folds.folded, progress)?;
    report.folds = folds;
    report.notices.extend(notice);
    if !options.dry_run && !report.compacted.is_empty() && !report.cancelled {
        merging::pack_compacted(inner);
    }
    if !options.dry_run && !report.cancelled {
        // States of what is deleted go with its events.
        match snapshot::let_go(inner) {
            Ok((void, superseded)) => (report.void_snapshots, report.folds.superseded) = (void, superseded),
            Err(error) => report.notices.push(error.to_string()),
        }
    }
    Ok(report)
}

/// Folds by what is registered; fails where compaction would not do either.
fn fold(
    inner: &Inner,
    options: &CompactionOptions,
    progress: &mut dyn FnMut(Compacting) -> ControlFlow<()>,
) -> Result<(Folded, Result<ControlFlow<()>>)> {
    let mut report = Folded::default();
    let folds = inner.folds.all();
    if folds.is_empty() {
        return Ok((report, Ok(ControlFlow::Continue(()))));
    }
    let mut pace = Pace::of(&[], options, 0, progress);
    let outcome = folding::fold(inner, &folds, options, &mut pace, &mut report);
    inner.core.log.check_poison()?;
    Ok((report, outcome))
}

fn compact(
    inner: &Inner,
    options: &CompactionOptions,
    folded: u64,
    progress: &mut dyn FnMut(Compacting) -> ControlFlow<()>,
) -> Result<CompactionReport> {
    // One at a time; who asks meanwhile waits.
    let mut turn = inner.compacting.lock();
    inner.core.log.check_poison()?;
    let mut report = CompactionReport::default();
    if inner.stopping.load(Ordering::Acquire) {
        report.cancelled = true;
        return Ok(report);
    }
    let ends_live = !options.dry_run && options.live_segment != LiveSegment::Leave;
    if ends_live {
        match newest::end_live(inner, options.live_segment) {
            Ok(ended) => report.ended_live = ended,
            // What can be compacted may make the room that is missing.
            Err(error @ Error::NoSpace { .. }) => {
                report.notices.push(format!("the segment that is being written could not be ended: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    background::seal_all(inner);
    inner.core.log.check_poison()?;
    // What was removed by a record that a power cut could take back stays.
    let durable = inner.core.log.watermark.durable();
    let hidden = inner.core.removals.hidden(durable);
    let (entries, content_key) = {
        let sealing = inner.sealing.lock();
        (sealing.manifest.segments.clone(), sealing.manifest.content_hash_key)
    };
    let due = due(entries, &inner.core, durable, options);
    let mut pace = Pace::of(&due, options, folded, progress);
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
            rewrite::Outcome::Left => {
                report.left += 1;
                turn.left.insert(entry.number);
            }
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
    let newest_hiding = inner.core.removals.newest_hiding().min(durable);
    if ends_live && !report.cancelled && turn.ring_emptied_after < newest_hiding {
        newest::empty_ring(inner)?;
        turn.ring_emptied_after = newest_hiding;
    }
    if !options.dry_run && !report.cancelled && options.spared == 0 && report.notices.is_empty() {
        turn.taken_out_up_to = newest_hiding;
    }
    Ok(report)
}

/// What is remembered from one compaction to the next.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Position of the newest record that removes something when the ring was emptied last; 0: not yet.
    ring_emptied_after: u64,
    /// All that records up to this position remove is in no file any more.
    taken_out_up_to: u64,
    /// Segments that would not be shorter.
    left: BTreeSet<u64>,
    /// Since when something waits to be taken out, and since when compaction by itself has failed.
    waits_since: Option<Instant>,
    failed_at: Option<Instant>,
}

/// Those that were not compacted yet, or of which a durable record may have removed something since.
fn due(mut entries: Vec<SegmentEntry>, core: &Core, durable: u64, options: &CompactionOptions) -> Vec<SegmentEntry> {
    entries.truncate(entries.len().saturating_sub(options.spared));
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
    /// writer or alone. Folds are registered with the writer, and are not part of it.
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
        let due = due(listed, core, durable, options);
        let mut pace = Pace::of(&due, options, 0, progress);
        let mut report = CompactionReport::default();
        for mut entry in due {
            let outcome = loop {
                let basis = rewrite::Basis {
                    storage: &**self.storage(),
                    now: self.options().now(),
                    entry: &entry,
                    hidden: hidden.as_ref(),
                    generation: entry.generation + 1,
                    content_key: [0; 16],
                    options,
                };
                match basis.rewrite(&mut pace) {
                    Ok(outcome) => break outcome,
                    // Where the writer has compacted it since, the file is gone.
                    Err(error) => entry = core.cache.newer(&entry).ok_or(error)?,
                }
            };
            match outcome {
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
    /// Bytes that count against the limit, and those of events that are not told of yet.
    passed: u64,
    read: u64,
    begun: Instant,
    limit: Option<u64>,
}

/// It sleeps no longer at once, so that it can be cancelled.
const NAP: Duration = Duration::from_millis(50);
/// What an event that is read counts beside its payload and metadata, and how many bytes are read between two looks.
const EVENT: u64 = 64;
const READ: u64 = 64 << 10;

impl<'a> Pace<'a> {
    fn of(
        due: &[SegmentEntry],
        options: &CompactionOptions,
        folded: u64,
        progress: &'a mut dyn FnMut(Compacting) -> ControlFlow<()>,
    ) -> Self {
        let total = due.iter().map(|entry| entry.end / 2 * 2).sum();
        let at = Compacting { done: 0, total, folded };
        Self { progress, at, passed: 0, read: 0, begun: Instant::now(), limit: options.bytes_per_second }
    }

    /// So many bytes of segments more are done; true if it shall stop.
    fn pass(&mut self, len: u64) -> bool {
        self.at.done += len;
        self.passed += len;
        self.look()
    }

    /// An event of so many bytes was read; true if it shall stop.
    fn read(&mut self, len: u64) -> bool {
        self.read += len + EVENT;
        if self.read < READ {
            return false;
        }
        self.look()
    }

    /// Tells how far it is, and waits as the limit says; true if it shall stop.
    fn look(&mut self) -> bool {
        self.passed += std::mem::take(&mut self.read);
        loop {
            if (self.progress)(self.at).is_break() {
                return true;
            }
            let due =
                self.limit.map_or(Duration::ZERO, |limit| Duration::from_secs_f64(self.passed as f64 / limit as f64));
            match due.checked_sub(self.begun.elapsed()) {
                Some(ahead) if !ahead.is_zero() => std::thread::sleep(ahead.min(NAP)),
                _ => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests;
