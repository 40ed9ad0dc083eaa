//! The threads of an open store.
//!
//! The *committer* syncs for tickets, and moves ring bytes into the segment while appends go on: always where there are
//! processors enough, else while the keeper syncs, since a write then may wait for the disk. The *preparer* makes the next
//! segment: nothing else waits for that, and it waits for nothing else, since where files are filled with zeros it takes as
//! long as all other work of the background together. The *keeper* seals ended segments and syncs `Buffered` commits at their
//! interval. None is needed for correctness: an append flushes by itself when the ring is half full, makes the next segment if
//! there is none, and waits for its own sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use annals_format::manifest::Manifest;
use annals_format::segment::END_MARK_LEN;
use crossbeam_utils::CachePadded;
use parking_lot::{Condvar, Mutex};

use crate::Result;
use crate::consumer;
use crate::log::page_floor;
use crate::manifest;
use crate::merging;
use crate::options::Options;
use crate::publish::{AtomicU64, raise};
use crate::recovery::segment_entry;
use crate::removal;
use crate::sealed_index::SealedIndex;
use crate::segment::{Closing, Segment, SegmentIndex};
use crate::store::Inner;

/// Unflushed bytes at which they are moved on: large enough to cost little a byte, small enough to cost little a call.
const BACKLOG: u64 = 64 << 10;
/// How long the committer looks for work before it sleeps.
const LOOK_AROUND: Duration = Duration::from_millis(1);

/// How appenders reach the committer thread.
#[derive(Debug, Default)]
pub(crate) struct Committer {
    /// Whether the thread flushes for the appenders. With two processors or fewer they do so themselves: the cost of
    /// moving each line of the ring from one processor's cache to the other's then exceeds what is saved.
    flushes: bool,
    /// Whether the keeper is at a sync. A write to a file that is being synced may wait tens of milliseconds for the file
    /// system's journal; the committer waits in the appends' place, while they fill another half of the ring.
    keeper_syncs: AtomicBool,
    asleep: AtomicBool,
    /// Whether tickets wait for a sync that has not begun. On a line of its own: each ticket looks at it, and it changes
    /// twice a sync.
    wanted: CachePadded<AtomicBool>,
    lock: Mutex<()>,
    wake: Condvar,
    /// Log offset below which everything is durable, for counting what is in flight.
    durable_end: AtomicU64,
}

impl Committer {
    pub(crate) fn new(options: &Options) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { flushes: options.background && processors > 2, ..Self::default() }
    }

    /// Whether the thread flushes just now, and appends only when the ring is half full.
    #[inline]
    fn is_flushing(&self) -> bool {
        self.flushes || self.keeper_syncs.load(Ordering::Relaxed)
    }

    /// Runs a sync of the keeper, during which the committer flushes.
    fn during<T>(&self, sync: impl FnOnce() -> T) -> T {
        self.keeper_syncs.store(true, Ordering::Relaxed);
        let result = sync();
        self.keeper_syncs.store(false, Ordering::Relaxed);
        result
    }

    pub(crate) fn wake(&self) {
        let _guard = self.lock.lock();
        self.asleep.store(false, Ordering::Release);
        self.wake.notify_one();
    }

    #[inline]
    pub(crate) fn wake_if_asleep(&self) {
        if self.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Asks for a sync that covers all that was written before this call. Costs one load while one is asked for that has
    /// not begun: who begins it takes the flag down before it takes the writer's lock to see how far the log goes, so
    /// whoever wrote under that lock and still finds the flag up is covered.
    pub(crate) fn request(&self) {
        if !self.wanted.load(Ordering::Relaxed) {
            // Both sides store and then load what the other stored, all in one order: the flag is seen, or the sleep.
            self.wanted.store(true, Ordering::SeqCst);
            self.wake_if_asleep();
        }
    }

    pub(crate) fn set_durable_end(&self, end: u64) {
        raise(&self.durable_end, end, Ordering::AcqRel);
    }

    /// Log offset below which everything is durable.
    pub(crate) fn durable_end(&self) -> u64 {
        self.durable_end.load(Ordering::Acquire)
    }

    /// Bytes written and not yet durable; what holds no record, such as the header of a segment, counts only with one.
    pub(crate) fn in_flight(&self, inner: &Inner) -> u64 {
        let watermark = &inner.core.log.watermark;
        if watermark.written() <= watermark.durable() {
            return 0;
        }
        watermark.written_end().saturating_sub(self.durable_end.load(Ordering::Acquire))
    }

    /// Returns when fewer bytes are in flight than allowed.
    pub(crate) fn wait_for_room(&self, inner: &Inner) -> Result<()> {
        if self.in_flight(inner) < inner.options.in_flight_bytes {
            return Ok(());
        }
        let watermark = &inner.core.log.watermark;
        let durable = watermark.durable();
        inner.core.log.check_poison()?;
        // Meanwhile everything may have been synced, or only a roll, which holds no record, is outstanding: the next
        // position may then never come.
        if watermark.written() <= durable {
            return Ok(());
        }
        if inner.options.background {
            return inner.commit.wait_for_committer(&inner.committing(), durable + 1);
        }
        inner.wait_durable(durable + 1)
    }

    fn sleep(&self, until: Instant) {
        let mut guard = self.lock.lock();
        if self.asleep.load(Ordering::Acquire) {
            self.wake.wait_until(&mut guard, until);
        }
        self.asleep.store(false, Ordering::Release);
    }
}

/// The manifest as last written, for the next one.
#[derive(Debug)]
pub(crate) struct Sealing {
    pub(crate) manifest: Manifest,
    /// Times that an index or manifest could not be written; the store works without, and a reopening rebuilds.
    pub(crate) failures: u64,
}

pub(crate) fn spawn(inner: &Arc<Inner>) -> Vec<JoinHandle<()>> {
    let run = |name: &str, body: fn(&Inner)| {
        let inner = inner.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || body(&inner))
    };
    // Without its threads the store still works, only with less done ahead.
    let threads = [
        run("annals-committer", commit_loop),
        run("annals-preparer", prepare_loop),
        run("annals-keeper", keep_loop),
        run("annals-merger", merging::merge_loop),
        run("annals-notifier", |inner| inner.core.log.watermark.notify_until_closed()),
    ];
    threads.into_iter().flatten().collect()
}

/// What an append owes before it may be answered, besides its own durability.
#[inline]
pub(crate) fn after_append(inner: &Inner) -> Result<()> {
    let log = &inner.core.log;
    log.watermark.notify_written();
    let Some(ring) = &log.ring else { return Ok(()) };
    let written = log.watermark.written_end();
    if !ring.survives_kill {
        log.flush(written, true)?;
    }
    let backlog = written.saturating_sub(log.watermark.flushed());
    if backlog >= BACKLOG.min(ring.len() / 4) {
        // Who finds the committer at it, though the sync is over, need not wait for its write either.
        if backlog < ring.len() / 2 && (inner.committer.is_flushing() || log.is_flushing()) {
            inner.committer.wake_if_asleep();
        } else {
            log.flush(written, false)?;
            if inner.options.background && inner.committer.in_flight(inner) >= inner.options.sync_bytes {
                inner.preparer.wake();
            }
        }
    }
    if !inner.options.background && seal_all(inner) {
        merging::merge_all(inner);
    }
    // Nothing is acknowledged after a failure, whoever met it.
    log.check_poison()
}

fn commit_loop(inner: &Inner) {
    let mut idle_since: Option<Instant> = None;
    while !inner.stopping.load(Ordering::Acquire) {
        if commit_once(inner) {
            idle_since = None;
            continue;
        }
        let since = *idle_since.get_or_insert_with(Instant::now);
        if since.elapsed() < LOOK_AROUND {
            std::thread::yield_now();
            continue;
        }
        inner.committer.asleep.store(true, Ordering::SeqCst);
        if !commit_once(inner) {
            inner.committer.sleep(Instant::now() + Duration::from_millis(100));
        }
        inner.committer.asleep.store(false, Ordering::Release);
        // It looks around again when there was work: of the time alone it would take a processor now and then from those who
        // are woken just then.
    }
}

/// Flushes and syncs what is there to be; false if there was nothing.
fn commit_once(inner: &Inner) -> bool {
    let log = &inner.core.log;
    if log.watermark.is_poisoned() {
        return false;
    }
    if inner.committer.wanted.load(Ordering::SeqCst) && inner.committer.wanted.swap(false, Ordering::SeqCst) {
        inner.commit.sync_now(&inner.committing());
        return true;
    }
    if !inner.committer.is_flushing() {
        return false;
    }
    let written = log.watermark.written_end();
    if page_floor(written).saturating_sub(log.watermark.flushed()) >= BACKLOG.min(log.ring_len() / 4) {
        let is_done = log.flush(written, false).is_ok();
        if inner.committer.in_flight(inner) >= inner.options.sync_bytes {
            inner.preparer.wake();
        }
        return is_done;
    }
    false
}

fn prepare_loop(inner: &Inner) {
    while !inner.stopping.load(Ordering::Acquire) {
        inner.preparer.wait_until_asked(&inner.stopping);
        inner.preparer.make_wanted();
        make_ahead(inner);
    }
}

/// Memory that the writer will want soon: of ids, of streams.
fn make_ahead(inner: &Inner) {
    inner.stream_room.make();
    inner.core.ids.iter().for_each(|ids| ids.make_ahead());
}

fn keep_loop(inner: &Inner) {
    let mut synced_at = Instant::now();
    let mut synced_end = inner.core.log.watermark.written_end();
    let mut swept_at = Instant::now();
    while !inner.stopping.load(Ordering::Acquire) {
        let sweep_at = inner.options.sweep_interval.map(|interval| swept_at + interval);
        let sync_at = synced_at + inner.options.sync_interval;
        let until = sweep_at.map_or(sync_at, |sweep_at| sweep_at.min(sync_at));
        inner.preparer.wait_for_ended(until, &inner.stopping);
        make_ahead(inner);
        let end = inner.core.log.watermark.written_end();
        let due = synced_at.elapsed() >= inner.options.sync_interval || end - synced_end >= inner.options.sync_bytes;
        if due {
            // Acknowledgements move the end of the log and no position.
            let is_behind = inner.core.log.watermark.written() > inner.core.log.watermark.durable()
                || (end > inner.committer.durable_end() && !inner.core.log.watermark.is_poisoned());
            if is_behind {
                inner.committer.during(|| inner.commit.sync_if_idle(&inner.committing()));
            }
            synced_at = Instant::now();
            synced_end = end;
        }
        // Where nothing waits, the turn of who makes an index anew is not waited for.
        if inner.preparer.has_to_seal() && seal_next(inner) {
            merging::ended(inner);
        }
        if sweep_at.is_some_and(|at| Instant::now() >= at) {
            // What fails stays until the next time.
            let _ = removal::sweep(inner);
            swept_at = Instant::now();
        }
    }
}

/// Seals what waits for it, in the calling thread; false if nothing did.
pub(crate) fn seal_all(inner: &Inner) -> bool {
    let mut any = false;
    while seal_next(inner) {
        any = true;
    }
    any
}

/// Seals the next segment that waits for it; false if none does. One at a time, whoever seals: they are listed in order.
fn seal_next(inner: &Inner) -> bool {
    let _turn = inner.seal_turn.lock();
    // All their indexes first: each is memory that a segment to come can use, while the disk may take its time.
    inner.preparer.waiting_to_seal().iter().for_each(|segment| index_beside(inner, segment));
    let next = inner.preparer.next_to_seal();
    next.iter().for_each(|segment| seal(inner, segment));
    next.is_some()
}

/// Returns when a segment's batches and its end mark are durable; false if the log failed before.
fn wait_ended(inner: &Inner, segment: &Segment, closing: &Closing) -> bool {
    if inner.committer.during(|| inner.wait_durable(closing.tally.last_position)).is_err() {
        return false;
    }
    let Some(mark_end) = segment.log_offset(closing.end + END_MARK_LEN as u64) else { return true };
    // The last batch may have been synced before the segment ended.
    while inner.committer.durable_end.load(Ordering::Acquire) < mark_end {
        inner.commit.sync_now(&inner.committing());
        if inner.core.log.watermark.is_poisoned() {
            return false;
        }
    }
    true
}

/// Writes the index of an ended segment beside its place, where nobody believes it before the segment is durable, and has it
/// serve from there: the memory of the one before serves another segment, and ids leave memory.
fn index_beside(inner: &Inner, segment: &Segment) {
    if segment.closing().is_none() || !segment.is_indexed_in_memory() {
        return;
    }
    match SealedIndex::build_beside(inner.storage.as_ref(), &inner.core.log, inner.core.hash, segment) {
        Ok(index) => {
            // One that is empty begins where the next one does.
            if let Some(keys) = index.keys().filter(|keys| keys.len() > 0) {
                inner.core.recent_keys.enter(segment.first_position(), keys);
            }
            if let Some(SegmentIndex::Active(used)) = segment.set_index(SegmentIndex::Sealed(Arc::new(index))) {
                inner.preparer.keep_index(used);
            }
            merging::forget_ids(inner);
        }
        Err(_) => inner.sealing.lock().failures += 1,
    }
}

/// Makes an ended segment durable, then its index, then the manifest that lists it. Whatever fails is left to the next
/// opening: the log alone is enough.
fn seal(inner: &Inner, segment: &Arc<Segment>) {
    let Some(closing) = segment.closing() else { return };
    // It may have ended after the indexes of those that waited were written.
    index_beside(inner, segment);
    if !wait_ended(inner, segment, closing) {
        return;
    }
    // A listed one may have been let go of meanwhile: then its next touch makes the index.
    if let Some(opened) = segment.if_opened()
        && let SegmentIndex::Sealed(index) = &opened.index
        && index.put_in_place(inner.storage.as_ref()).is_err()
    {
        inner.sealing.lock().failures += 1;
    }
    let mut sealing = inner.sealing.lock();
    let number = segment.header.identity.segment;
    if let Some(entry) = sealing.manifest.segments.iter().find(|entry| entry.number == number) {
        segment.enlist(entry, &inner.core.cache);
        return;
    }
    let entry = segment_entry(segment, closing);
    let mut next = sealing.manifest.clone();
    next.generation += 1;
    next.next_segment = inner.preparer.next_number();
    next.segments.push(entry.clone());
    match manifest::save(inner.storage.as_ref(), &next) {
        Ok(()) => {
            inner.preparer.set_manifest_generation(next.generation);
            sealing.manifest = next;
            segment.enlist(&entry, &inner.core.cache);
            if consumer::save_ended(inner, &entry).is_err() {
                // The next opening reads the segment instead.
                sealing.failures += 1;
            }
        }
        Err(_) => {
            // Listed with the next one that is sealed, in order.
            sealing.failures += 1;
            sealing.manifest.segments = next.segments;
        }
    }
}

#[cfg(test)]
mod tests;
