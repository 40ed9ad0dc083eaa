//! A clock that shows what a test sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that shows `now`, nanoseconds since 1970.
    #[must_use]
    pub fn at(now: u64) -> Self {
        Self(Arc::new(AtomicU64::new(now)))
    }

    /// Sets the time, forwards or back.
    pub fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    /// The time it shows.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl annals::Clock for ManualClock {
    fn now(&self) -> u64 {
        self.get()
    }
}
