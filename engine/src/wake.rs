//! A word to sleep on: many threads wait for it to change, one changes it and wakes them all at once. Whoever wakes need
//! not take any lock to go on, so that a group of waiters is on its way again after one system call.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct WakeWord {
    turn: AtomicU32,
}

impl WakeWord {
    /// To be asked before looking whether there is anything to wait for.
    pub(crate) fn turn(&self) -> u32 {
        self.turn.load(Ordering::Acquire)
    }

    /// Wakes everybody who waits for a turn before this.
    pub(crate) fn next_turn(&self) {
        self.turn.fetch_add(1, Ordering::Release);
        system::wake_all(&self.turn);
    }

    /// Sleeps until the turn is another one, at most for `limit`; may return early.
    pub(crate) fn wait(&self, turn: u32, limit: Duration) {
        if self.turn() == turn {
            system::wait(&self.turn, turn, limit);
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use rustix::thread::futex::{Flags, Timespec, wait as futex_wait, wake};

    pub(super) fn wake_all(word: &AtomicU32) {
        // It cannot fail for a live word of this process.
        let _ = wake(word, Flags::PRIVATE, i32::MAX as u32);
    }

    pub(super) fn wait(word: &AtomicU32, value: u32, limit: Duration) {
        let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: i64::from(limit.subsec_nanos()) };
        // Changed already, interrupted, out of time, woken: the caller looks again in any case.
        let _ = futex_wait(word, Flags::PRIVATE, value, Some(&limit));
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    pub(super) fn wake_all(_: &AtomicU32) {}

    pub(super) fn wait(_: &AtomicU32, _: u32, limit: Duration) {
        std::thread::sleep(limit.min(Duration::from_micros(50)));
    }
}
