//! Sleeping on a word that another process changes, through a map that may be read-only.

#[cfg(target_os = "linux")]
pub(super) use linux::{wait, wake_all};
#[cfg(not(target_os = "linux"))]
pub(super) use portable::{wait, wake_all};

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use rustix::thread::futex::{Flags, Timespec, wait as futex_wait, wake};

    /// Wakes all who sleep on the word, in every process.
    pub(in crate::control) fn wake_all(word: &AtomicU32) {
        // It cannot fail for a word that is mapped.
        let _ = wake(word, Flags::empty(), i32::MAX as u32);
    }

    pub(in crate::control) fn wait(word: &AtomicU32, value: u32, limit: Duration) {
        let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: i64::from(limit.subsec_nanos()) };
        // Changed already, interrupted, out of time, woken: the caller looks again in any case.
        let _ = futex_wait(word, Flags::empty(), value, Some(&limit));
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    pub(in crate::control) fn wake_all(_: &AtomicU32) {}

    /// Looks by the clock, less and less often.
    pub(in crate::control) fn wait(word: &AtomicU32, value: u32, limit: Duration) {
        let begun = Instant::now();
        let mut pause = Duration::from_micros(50);
        while word.load(Ordering::Acquire) == value {
            let Some(left) = limit.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else { return };
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}
