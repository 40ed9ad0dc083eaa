//! How far the log is written, flushed and durable: the only state that writer and readers share while running.

#[cfg(loom)]
use std::time::Duration;
use std::time::Instant;

use crossbeam_utils::CachePadded;

use super::announce::Announce;
use super::notifier::{Notifier, pauses};
use super::sync::{AtomicU8, AtomicU64, Ordering, fence, named_fence, named_ordering, raise};
use super::waiters::{TaskPlace, Waiters};
use crate::options::View;
use crate::prefetch::prefetch_for_store;

/// Bits of the state.
const POISONED: u8 = 1;
const CLOSED: u8 = 2;
const FIXED: u8 = 4;

/// Heads (positions) say what a view shows, log offsets say where its bytes are.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    /// What a batch moves.
    written: CachePadded<Written>,
    /// Position up to which the log is synced.
    durable: CachePadded<AtomicU64>,
    /// Log offset below which the segments' files hold the bytes.
    flushed: CachePadded<AtomicU64>,
    /// Log offset below which bytes may have left the ring.
    low: CachePadded<AtomicU64>,
    /// Whether the heads may still move, and why not.
    state: CachePadded<AtomicU8>,
    /// Looked at by every append, and changed only by those who fall asleep.
    pub(super) written_waiters: CachePadded<Waiters>,
    durable_waiters: CachePadded<Waiters>,
    sync_waiters: CachePadded<Waiters>,
    notifier: CachePadded<Notifier>,
    announce: Option<Box<dyn Announce>>,
}

/// Stored by one and looked at by all, together: on one cache line, so that a batch takes one line back from those who read.
#[derive(Debug, Default)]
struct Written {
    /// Position of the last record of the last whole batch.
    head: AtomicU64,
    /// Log offset of its end.
    end: AtomicU64,
}

/// Why a head moves no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The store is closed: nothing more is handed out.
    Closed,
    /// A write or sync failed: what is durable may still be handed out.
    Poisoned,
    /// It is a look at a log at one time: what it shows may be handed out, and there will be no more.
    Fixed,
}

impl Watermark {
    /// The heads of a log that was opened or made: `end` is the log offset of its end.
    pub(crate) fn start(head: u64, durable: u64, end: u64) -> Self {
        let watermark = Self::default();
        watermark.written.head.store(head, Ordering::Relaxed);
        watermark.durable.store(durable, Ordering::Relaxed);
        watermark.flushed.store(end, Ordering::Relaxed);
        watermark.written.end.store(end, Ordering::Relaxed);
        watermark
    }

    /// Heads that never move: those of a log that is only read.
    pub(crate) fn fixed(head: u64, durable: u64) -> Self {
        let watermark = Self::start(head, durable, 0);
        watermark.state.store(FIXED, Ordering::Relaxed);
        watermark
    }

    /// Whoever is to be told of the durable head from now on.
    pub(crate) fn announced_by(mut self, announce: Box<dyn Announce>) -> Self {
        self.announce = Some(announce);
        self
    }

    /// The head of the written view.
    #[inline]
    pub(crate) fn written(&self) -> u64 {
        if self.state.load(Ordering::Relaxed) & POISONED != 0 {
            return self.durable();
        }
        self.written.head.load(named_ordering!("written-seen", Acquire))
    }

    #[inline]
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(named_ordering!("durable-seen", Acquire))
    }

    #[inline]
    pub(crate) fn head(&self, view: View) -> u64 {
        match view {
            View::Durable => self.durable(),
            View::Written => self.written(),
        }
    }

    #[inline]
    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load(named_ordering!("flushed-seen", Acquire))
    }

    #[inline]
    pub(crate) fn written_end(&self) -> u64 {
        self.written.end.load(named_ordering!("written-end-seen", Acquire))
    }

    /// Asks for the line that [`Watermark::publish`] stores to, while a batch is made: who follows the log has it.
    #[inline]
    pub(crate) fn prepare_to_publish(&self) {
        prefetch_for_store(&self.written);
    }

    /// Shows a batch: everything of it was stored before this call. The writer calls [`Watermark::notify_written`] when it
    /// has let go of its lock.
    #[inline]
    pub(crate) fn publish(&self, head: u64, end: u64) {
        self.written.end.store(end, named_ordering!("written-end-shown", Release));
        self.written.head.store(head, named_ordering!("written-shown", Release));
    }

    /// Sees to it that those are woken who wait for the written head. Costs a fence and a load while the notifier looks by
    /// itself, whether or not somebody waits, and another load while it sleeps.
    #[inline]
    pub(crate) fn notify_written(&self) {
        named_fence!("written-fence", SeqCst);
        self.notifier.notify(&self.written_waiters);
    }

    /// Bytes up to `end` without a record: headers, end marks.
    pub(crate) fn extend(&self, end: u64) {
        self.written.end.store(end, named_ordering!("written-end-extended", Release));
    }

    pub(crate) fn set_flushed(&self, end: u64) {
        raise(&self.flushed, end, named_ordering!("flushed-shown", Release));
    }

    /// Announces that ring bytes below `low` are about to be overwritten. The fence keeps the overwriting stores behind
    /// the announcement: who copies an overwritten word and then passes the acquire fence of
    /// [`Watermark::still_in_ring`] sees at least this `low`.
    #[inline]
    pub(crate) fn raise_low(&self, low: u64) {
        self.low.store(low, Ordering::Relaxed);
        named_fence!("low-raised", Release);
    }

    /// Whether a copy just made of ring bytes from `offset` on was not overwritten meanwhile.
    #[inline]
    pub(crate) fn still_in_ring(&self, offset: u64) -> bool {
        named_fence!("low-seen", Acquire);
        self.low.load(Ordering::Relaxed) <= offset
    }

    /// Shows that the log is durable up to `position`, and wakes those who wait for that: first those of this process.
    /// For whoever led the sync.
    pub(crate) fn show_durable(&self, position: u64) {
        let before = raise(&self.durable, position, named_ordering!("durable-shown", Release));
        if before >= position {
            return;
        }
        self.durable_waiters.notify();
        if let Some(announce) = &self.announce {
            announce.durable(position);
        }
    }

    /// Stops the heads after a failure, once whoever asks can be told the reason.
    pub(crate) fn poison(&self) {
        self.end(POISONED, named_ordering!("poison-shown", Release));
    }

    /// Ends all following, at once.
    pub(crate) fn close(&self) {
        self.end(CLOSED, Ordering::Relaxed);
    }

    fn end(&self, state: u8, ordering: Ordering) {
        self.state.fetch_or(state, ordering);
        named_fence!("ending-fence", SeqCst);
        for waiters in [&self.written_waiters, &self.durable_waiters, &self.sync_waiters] {
            waiters.wake();
        }
        self.notifier.wake();
        if let Some(announce) = &self.announce {
            announce.ended();
        }
    }

    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        self.state.load(named_ordering!("poison-seen", Acquire)) & POISONED != 0
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Whether the heads move no more. To be asked before a head: what it then shows is the last.
    pub(crate) fn ending(&self) -> Option<Ending> {
        match self.state.load(named_ordering!("ending-seen", Acquire)) {
            0 => None,
            state if state & CLOSED != 0 => Some(Ending::Closed),
            state if state & POISONED != 0 => Some(Ending::Poisoned),
            _ => Some(Ending::Fixed),
        }
    }

    /// Sleeps until the head lies beyond `position` or moves no more; false at the deadline.
    pub(crate) fn wait_beyond(&self, view: View, position: u64, deadline: Option<Instant>) -> bool {
        self.waiters(view).wait(deadline, || self.is_beyond(view, position))
    }

    /// Whether the head lies beyond `position` or moves no more; if not, `waker` is woken when that changes.
    pub(crate) fn wake_beyond(
        &self,
        view: View,
        position: u64,
        place: &mut TaskPlace,
        waker: &std::task::Waker,
    ) -> bool {
        self.waiters(view).leave_waker(place, waker);
        self.is_beyond(view, position)
    }

    /// The task waits no longer.
    pub(crate) fn forget(&self, view: View, place: &mut TaskPlace) {
        self.waiters(view).forget(place);
    }

    fn is_beyond(&self, view: View, position: u64) -> bool {
        self.state.load(Ordering::Relaxed) != 0 || self.head_waited_for(view) > position
    }

    /// The head as it is without a failure. Whoever learns so that it has moved looks at it once more, and acquires then.
    fn head_waited_for(&self, view: View) -> u64 {
        match view {
            View::Durable => self.durable.load(Ordering::Relaxed),
            View::Written => self.written.head.load(Ordering::Relaxed),
        }
    }

    fn waiters(&self, view: View) -> &Waiters {
        match view {
            View::Durable => &self.durable_waiters,
            View::Written => &self.written_waiters,
        }
    }

    /// Those who wait for a sync to end, whatever becomes of it.
    pub(crate) fn sync_waiters(&self) -> &Waiters {
        &self.sync_waiters
    }

    /// The life of the thread that wakes those who wait for the written head; ends when the store is closed.
    pub(crate) fn notify_until_closed(&self) {
        self.notifier.run(self, pauses());
    }

    /// The same with pauses of one's own.
    #[cfg(loom)]
    pub(crate) fn notify_with(&self, pause: impl FnMut(u64) -> Option<Duration>) {
        self.notifier.run(self, pause);
    }
}
