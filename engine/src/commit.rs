//! Group commit: one sync serves all that wait.
//!
//! Whoever needs a position durable and finds nobody syncing becomes the leader: it waits a moment for as many companions
//! as the last group had, flushes the ring, syncs, writes the mark, moves the durable head, and wakes the others.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals_format::mark::Mark;
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::background::Committer;
use crate::core::Core;
use crate::error::Error;
use crate::mark::MarkFile;
use crate::options::{Clock, SystemClock};
use crate::prepare::Preparer;
use crate::publish::Lock;
use crate::writer::{Tip, Writer};

/// Longest wait of a leader for companions.
const LINGER: Duration = Duration::from_micros(100);
/// How long a ticket's waiter looks on before it sleeps: about one sync.
const SPIN: Duration = Duration::from_micros(150);
/// Who waits for the committer looks again after this, whatever happens: nobody may be there.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// After so many looks without progress who waits for the committer syncs by itself.
const IDLE_ROUNDS: u32 = 8;

#[derive(Debug)]
pub(crate) struct Commit {
    /// Whether somebody is at flushing and syncing.
    leading: CachePadded<AtomicBool>,
    /// How many came to wait since the last group was closed.
    pending: CachePadded<AtomicU32>,
    /// How many the last group had.
    last_group: AtomicU32,
    mark: Mutex<MarkFile>,
    pub(crate) sync_count: AtomicU64,
    /// When the durable head was shown last, in nanoseconds since 1970 UTC; 0: not yet.
    pub(crate) shown_at: AtomicU64,
}

impl Commit {
    pub(crate) fn new(mark: MarkFile) -> Self {
        Self {
            leading: CachePadded::default(),
            pending: CachePadded::default(),
            last_group: AtomicU32::new(1),
            mark: Mutex::new(mark),
            sync_count: AtomicU64::new(0),
            shown_at: AtomicU64::new(0),
        }
    }

    /// Returns when everything up to `position` is durable; syncs itself if nobody else is at it. An error says that a
    /// write or sync failed.
    pub(crate) fn wait_durable(&self, log: &Committing<'_>, position: u64) -> Result<(), Error> {
        if log.core.log.watermark.durable() >= position {
            return Ok(());
        }
        self.pending.fetch_add(1, Ordering::Relaxed);
        let watermark = &log.core.log.watermark;
        loop {
            if watermark.durable() >= position {
                return Ok(());
            }
            log.core.log.check_poison()?;
            if self.begin_leading() {
                // The leader before may have covered us between our two looks.
                if watermark.durable() < position {
                    self.linger();
                    self.lead(log);
                }
                self.finish_leading(log);
            } else {
                let is_over = || watermark.durable() >= position || watermark.is_poisoned() || self.nobody_leads();
                watermark.sync_waiters().wait(None, is_over);
            }
        }
    }

    /// Returns when the log is durable up to log offset `end`: for what has no position. Else as
    /// [`Commit::wait_durable`].
    pub(crate) fn wait_durable_end(&self, log: &Committing<'_>, end: u64) -> Result<(), Error> {
        let watermark = &log.core.log.watermark;
        let is_durable = || log.committer.durable_end() >= end;
        while !is_durable() {
            log.core.log.check_poison()?;
            if self.begin_leading() {
                if !is_durable() {
                    self.lead(log);
                }
                self.finish_leading(log);
            } else {
                watermark.sync_waiters().wait(None, || is_durable() || watermark.is_poisoned() || self.nobody_leads());
            }
        }
        Ok(())
    }

    /// Returns when everything up to `position` is durable, leaving the syncs to the committer thread: whoever waits for
    /// a ticket wants to go on appending meanwhile.
    pub(crate) fn wait_for_committer(&self, log: &Committing<'_>, position: u64) -> Result<(), Error> {
        let watermark = &log.core.log.watermark;
        let is_durable = || watermark.durable() >= position;
        if is_durable() {
            return Ok(());
        }
        let begun = Instant::now();
        while begun.elapsed() < SPIN {
            if is_durable() {
                return Ok(());
            }
            std::thread::yield_now();
        }
        let (mut seen, mut idle_rounds) = (0, 0);
        while idle_rounds < IDLE_ROUNDS {
            let durable = watermark.durable();
            if durable >= position {
                return Ok(());
            }
            log.core.log.check_poison()?;
            idle_rounds = if durable > seen { 0 } else { idle_rounds + 1 };
            seen = durable;
            log.committer.request();
            let is_over = || watermark.durable() > durable || watermark.is_poisoned();
            watermark.sync_waiters().wait(Some(Instant::now() + LOOK_AGAIN), is_over);
        }
        // Nobody may be there to do it: a thread that could not be started, or one that ended.
        self.wait_durable(log, position)
    }

    fn begin_leading(&self) -> bool {
        self.leading.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn nobody_leads(&self) -> bool {
        !self.leading.load(Ordering::Acquire)
    }

    /// Another may lead; whoever waited for this one looks again. One wake for all.
    fn finish_leading(&self, log: &Committing<'_>) {
        self.leading.store(false, Ordering::Release);
        log.core.log.watermark.sync_waiters().notify();
    }

    /// Syncs what is written now, unless somebody else is at it.
    pub(crate) fn sync_if_idle(&self, log: &Committing<'_>) {
        if self.begin_leading() {
            self.lead(log);
            self.finish_leading(log);
        }
    }

    /// Syncs all that is written when this is called, after whoever is at it now.
    pub(crate) fn sync_now(&self, log: &Committing<'_>) {
        loop {
            if self.begin_leading() {
                self.lead(log);
                return self.finish_leading(log);
            }
            log.core.log.watermark.sync_waiters().wait(None, || self.nobody_leads());
        }
    }

    /// Lets companions of the last group come back with their next append before this group is closed.
    fn linger(&self) {
        let expected = self.last_group.load(Ordering::Relaxed);
        if expected > 1 {
            let begun = Instant::now();
            while self.pending.load(Ordering::Relaxed) < expected && begun.elapsed() < LINGER {
                std::thread::yield_now();
            }
        }
        // One that came late once is waited for again; one that stays away is forgotten.
        let group = self.pending.swap(0, Ordering::Relaxed).max(expected.saturating_sub(1)).max(1);
        self.last_group.store(group, Ordering::Relaxed);
    }

    /// One group: flush, sync, mark, show. A failure poisons the log.
    fn lead(&self, log: &Committing<'_>) {
        let tip = log.writer.lock().tip();
        // What was written without a position moves the end alone.
        let is_synced = tip.head == log.core.log.watermark.durable() && tip.end <= log.committer.durable_end();
        if is_synced && tip.ended.is_empty() {
            return;
        }
        if cfg!(annals_plant = "watermark-early") {
            log.core.log.watermark.show_durable(tip.head);
        }
        if let Err(reason) = self.sync_up_to(log, &tip) {
            log.core.log.poison(reason);
            return;
        }
        log.committer.set_durable_end(tip.end);
        self.shown_at.store(SystemClock.now(), Ordering::Relaxed);
        log.core.log.watermark.show_durable(tip.head);
    }

    fn sync_up_to(&self, log: &Committing<'_>, tip: &Tip) -> Result<(), String> {
        if cfg!(annals_plant = "mark-ahead-of-log") {
            self.write_mark(log, tip, false).map_err(|error| format!("write MARK: {error}"))?;
        }
        log.core.log.flush(tip.end, true).map_err(|error| error.to_string())?;
        for segment in tip.ended.iter().chain([&tip.segment]) {
            if cfg!(annals_plant = "no-sync") {
                continue;
            }
            if cfg!(annals_plant = "sync-repeated-after-failure") && segment.sync().is_ok() {
                continue;
            }
            segment.sync().map_err(|error| format!("sync {}: {error}", segment.name))?;
            self.sync_count.fetch_add(1, Ordering::Relaxed);
        }
        self.write_mark(log, tip, false).map_err(|error| format!("write MARK: {error}"))
    }

    fn write_mark(&self, log: &Committing<'_>, tip: &Tip, clean: bool) -> std::io::Result<()> {
        let identity = tip.segment.header.identity;
        let mut mark = self.mark.lock();
        mark.write(Mark {
            store: identity.store,
            incarnation: identity.incarnation,
            sequence: 0,
            manifest_generation: log.preparer.manifest_generation(),
            segment: identity.segment,
            offset: tip.offset,
            position: tip.head,
            recorded_at: tip.recorded_at,
            clean,
        })
    }

    /// The last act of a close: everything synced, and the mark says so, durably. Nobody leads after it: the mark that one
    /// would write could be another writer's by then.
    pub(crate) fn finish(&self, log: &Committing<'_>) -> Result<(), Error> {
        while !self.begin_leading() {
            log.core.log.watermark.sync_waiters().wait(None, || self.nobody_leads());
        }
        let finished = self.sync_and_mark_clean(log);
        // Who leads now finds this before it writes.
        log.core.log.poison("the store is closed".to_owned());
        self.finish_leading(log);
        finished
    }

    fn sync_and_mark_clean(&self, log: &Committing<'_>) -> Result<(), Error> {
        log.core.log.check_poison()?;
        let tip = log.writer.lock().tip();
        if let Err(reason) = self.sync_up_to(log, &tip) {
            log.core.log.poison(reason);
        }
        log.core.log.check_poison()?;
        log.core.log.watermark.show_durable(tip.head);
        self.write_mark(log, &tip, true).map_err(Error::io("write", "MARK"))?;
        self.mark.lock().sync().map_err(Error::io("sync", "MARK"))
    }
}

/// What a sync touches.
pub(crate) struct Committing<'a> {
    pub(crate) core: &'a Core,
    pub(crate) writer: &'a Lock<Writer>,
    pub(crate) preparer: &'a Preparer,
    pub(crate) committer: &'a Committer,
}

#[cfg(test)]
mod tests;
