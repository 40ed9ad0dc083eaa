//! The thread that wakes those who wait for the written head, so that an append never does.
//!
//! While batches come it looks by itself, by the clock, and an append does nothing for it. When nothing came for a while it
//! falls asleep, and the append that finds it so wakes it: at most once for each such pause.

use std::time::{Duration, Instant};

use super::sync::{AtomicU8, Ordering, SleepWord, fence, named_fence};
use super::waiters::Waiters;
use super::watermark::Watermark;

/// Nobody runs: an append wakes the waiters itself.
const ABSENT: u8 = 0;
/// It looks by itself.
const WATCHING: u8 = 1;
/// It wants to be woken.
const ASLEEP: u8 = 2;

/// Shortest time between two looks, and what is left alone for each that was woken: to wake a thread and to let it sleep again
/// takes a processor some microseconds, and takes the lines that it reads from the writer's cache.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// Longest time.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_millis(1);
/// What share of a pause may pass before its end is noticed.
const SHARE_OF_PAUSE: u32 = 16;
/// A pause as long as this lets it fall asleep.
const ASLEEP_AFTER: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(crate) struct Notifier {
    state: AtomicU8,
    word: SleepWord,
}

impl Notifier {
    /// A head was stored and a full fence passed: sees to it that `waiters` are woken, now or soon. Awake, the notifier sees
    /// the head without being called.
    #[inline]
    pub(super) fn notify(&self, waiters: &Waiters) {
        // First what hardly ever changes: those who come to wait change the line of the count all the time.
        let state = self.state.load(Ordering::Relaxed);
        if state == WATCHING {
            return;
        }
        let awaited = waiters.awaited();
        if awaited > 0 {
            self.call(state, waiters, awaited);
        }
    }

    /// An append has found waiters while the notifier was in `state`, which is not watching.
    #[cold]
    fn call(&self, state: u8, waiters: &Waiters, awaited: u64) {
        if state == ABSENT {
            waiters.wake_these(awaited);
        } else {
            self.wake();
        }
    }

    /// Makes it look at once.
    pub(super) fn wake(&self) {
        // Whoever calls has passed a fence after what it stored.
        self.word.change(Ordering::Relaxed);
    }

    /// The thread's life, until the store is closed. `pause` is told how many waiters were just woken, and answers how
    /// long to wait until the next look, or `None` to fall asleep.
    pub(super) fn run(&self, watermark: &Watermark, mut pause: impl FnMut(u64) -> Option<Duration>) {
        let mut seen = 0;
        self.state.store(WATCHING, Ordering::Relaxed);
        while !watermark.is_closed() {
            let turn = self.word.load(Ordering::Relaxed);
            let woken = self.look(watermark, &mut seen);
            if let Some(pause) = pause(woken) {
                // Closing calls it.
                self.word.sleep(turn, Some(Instant::now() + pause));
                continue;
            }
            self.state.store(ASLEEP, Ordering::Relaxed);
            named_fence!("asleep-fence", SeqCst);
            if !watermark.is_closed() && self.look(watermark, &mut seen) == 0 {
                self.word.sleep(turn, None);
            }
            self.state.store(WATCHING, Ordering::Relaxed);
        }
    }

    /// Wakes who waits, if the head has moved since that was done last; how many those were.
    fn look(&self, watermark: &Watermark, seen: &mut u64) -> u64 {
        let head = watermark.written();
        if head <= *seen {
            return 0;
        }
        let woken = watermark.written_waiters.notify();
        if woken > 0 {
            *seen = head;
        }
        woken
    }
}

/// How long to wait for the next look: longer the more were woken, else a share of the time that nobody was woken for.
pub(super) fn pauses() -> impl FnMut(u64) -> Option<Duration> {
    let mut woken_at = Instant::now();
    move |woken| {
        let now = Instant::now();
        if woken > 0 {
            woken_at = now;
        }
        let idle = now - woken_at;
        let after_these = LOOK_EVERY.saturating_mul(u32::try_from(woken).unwrap_or(u32::MAX));
        let pause = after_these.max(idle / SHARE_OF_PAUSE).clamp(LOOK_EVERY, LOOK_AT_LEAST_EVERY);
        (idle < ASLEEP_AFTER).then_some(pause)
    }
}
