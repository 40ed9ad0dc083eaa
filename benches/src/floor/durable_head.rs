//! How much is durable, and a word to sleep on until it is more.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Moved by whoever synced, watched by whoever waits.
#[derive(Debug, Default)]
pub(super) struct DurableHead {
    head: AtomicU64,
    turn: AtomicU32,
}

impl DurableHead {
    pub(super) fn get(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Moves it; nobody is woken yet.
    pub(super) fn set(&self, upto: u64) {
        self.head.store(upto, Ordering::Release);
    }

    /// To be asked before looking at what is waited for.
    pub(super) fn turn(&self) -> u32 {
        self.turn.load(Ordering::Acquire)
    }

    /// Wakes all that sleep.
    pub(super) fn wake(&self) {
        self.turn.fetch_add(1, Ordering::Release);
        system::wake_all(&self.turn);
    }

    /// Sleeps until a turn after this one; may return early.
    pub(super) fn sleep(&self, turn: u32) {
        system::wait(&self.turn, turn);
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::sync::atomic::AtomicU32;

    use rustix::thread::futex::{Flags, wait as futex_wait, wake};

    pub(super) fn wake_all(word: &AtomicU32) {
        // It cannot fail for a live word of this process.
        let _ = wake(word, Flags::PRIVATE, i32::MAX as u32);
    }

    pub(super) fn wait(word: &AtomicU32, value: u32) {
        // Changed already, interrupted, woken: the caller looks again in any case.
        let _ = futex_wait(word, Flags::PRIVATE, value, None);
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    pub(super) fn wake_all(_: &AtomicU32) {}

    pub(super) fn wait(_: &AtomicU32, _: u32) {
        std::thread::sleep(Duration::from_micros(50));
    }
}
