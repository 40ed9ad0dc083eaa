//! What the room is built of, so that the models can put their own in its place: atomics, a lock, a word to sleep on.
//!
//! Under `cfg(loom)` and `cfg(shuttle)` the atomics and the lock are those of the model checker, and the futex is played by
//! means of it that never run out of time: a wake-up that is lost is then a deadlock, which both report.

#[cfg(loom)]
use loom as model;
#[cfg(shuttle)]
use shuttle as model;

#[cfg(any(loom, shuttle))]
pub(crate) use model::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use std::time::Instant;

/// An ordering by its name: what it pairs with stands in the room's essay. With `cfg(annals_weaken = "NAME")` it is relaxed,
/// which a model must notice.
macro_rules! named_ordering {
    ($name:literal, $strong:ident) => {
        if cfg!(annals_weaken = $name) { Ordering::Relaxed } else { Ordering::$strong }
    };
}

/// A fence by its name, likewise; weakened there is none.
macro_rules! named_fence {
    ($name:literal, $strong:ident) => {
        if !cfg!(annals_weaken = $name) {
            fence(Ordering::$strong);
        }
    };
}

pub(crate) use named_fence;
pub(crate) use named_ordering;

/// Stores `value` if more than that is not there already; answers what was there. What `fetch_max` does, in steps that
/// ThreadSanitizer sees: it passes over that instruction and takes what it orders for a race.
pub(crate) fn raise(word: &AtomicU64, value: u64, ordering: Ordering) -> u64 {
    let mut before = word.load(Ordering::Relaxed);
    while before < value {
        match word.compare_exchange_weak(before, value, ordering, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => before = now,
        }
    }
    before
}

/// A lock. The engine's locks that are held while heads move are of this kind too, so that shuttle sees them.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(Inner<T>);

#[cfg(not(any(loom, shuttle)))]
type Inner<T> = parking_lot::Mutex<T>;
#[cfg(any(loom, shuttle))]
type Inner<T> = model::sync::Mutex<T>;
#[cfg(not(any(loom, shuttle)))]
type Held<'a, T> = parking_lot::MutexGuard<'a, T>;
#[cfg(any(loom, shuttle))]
type Held<'a, T> = model::sync::MutexGuard<'a, T>;

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Inner::new(value))
    }

    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn lock(&self) -> Held<'_, T> {
        self.0.lock()
    }

    #[cfg(any(loom, shuttle))]
    pub(crate) fn lock(&self) -> Held<'_, T> {
        self.0.lock().expect("nobody panics under it")
    }

    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn is_locked(&self) -> bool {
        self.0.is_locked()
    }

    #[cfg(any(loom, shuttle))]
    pub(crate) fn is_locked(&self) -> bool {
        self.0.try_lock().is_err()
    }
}

/// A word that threads sleep on while it has the value that they saw.
#[derive(Debug, Default)]
pub(crate) struct SleepWord {
    value: AtomicU32,
    #[cfg(any(loom, shuttle, not(target_os = "linux")))]
    bed: Bed,
}

impl SleepWord {
    #[inline]
    pub(crate) fn load(&self, ordering: Ordering) -> u32 {
        self.value.load(ordering)
    }

    /// Changes the word and wakes everybody who sleeps on what it was.
    pub(crate) fn change(&self, ordering: Ordering) {
        self.value.fetch_add(1, ordering);
        self.wake_all();
    }
}

#[cfg(all(target_os = "linux", not(any(loom, shuttle))))]
impl SleepWord {
    fn wake_all(&self) {
        use rustix::thread::futex::{Flags, wake};
        // It cannot fail for a live word of this process.
        let _ = wake(&self.value, Flags::PRIVATE, i32::MAX as u32);
    }

    /// Sleeps until somebody changes the word from `seen`, or the deadline; may return early.
    pub(crate) fn sleep(&self, seen: u32, deadline: Option<Instant>) {
        use rustix::thread::futex::{Flags, Timespec, wait};
        let limit = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        // Changed already, interrupted, out of time, woken: the caller looks again in any case.
        let _ = wait(&self.value, Flags::PRIVATE, seen, limit.as_ref());
    }
}

#[cfg(any(loom, shuttle, not(target_os = "linux")))]
impl SleepWord {
    fn wake_all(&self) {
        self.bed.wake_all();
    }

    /// Sleeps until somebody changes the word from `seen`, or the deadline; may return early.
    pub(crate) fn sleep(&self, seen: u32, deadline: Option<Instant>) {
        // A read-modify-write sees the newest value, as the system does.
        self.bed.sleep_if(deadline, || self.value.fetch_add(0, Ordering::Relaxed) == seen);
    }
}

/// A futex by other means. Whoever changes the word wakes under the lock, so that nobody looks before and sleeps after.
#[cfg(any(shuttle, all(not(loom), not(target_os = "linux"))))]
#[derive(Debug, Default)]
struct Bed {
    lock: Inner<()>,
    #[cfg(not(shuttle))]
    condition: parking_lot::Condvar,
    #[cfg(shuttle)]
    condition: model::sync::Condvar,
}

#[cfg(not(any(loom, shuttle, target_os = "linux")))]
impl Bed {
    fn wake_all(&self) {
        let _held = self.lock.lock();
        self.condition.notify_all();
    }

    fn sleep_if(&self, deadline: Option<Instant>, is_unchanged: impl FnOnce() -> bool) {
        let mut held = self.lock.lock();
        match deadline {
            _ if !is_unchanged() => {}
            Some(deadline) => {
                self.condition.wait_until(&mut held, deadline);
            }
            None => self.condition.wait(&mut held),
        }
    }
}

#[cfg(shuttle)]
impl Bed {
    fn wake_all(&self) {
        let _held = self.lock.lock().expect("nobody panics under it");
        self.condition.notify_all();
    }

    fn sleep_if(&self, _: Option<Instant>, is_unchanged: impl FnOnce() -> bool) {
        let held = self.lock.lock().expect("nobody panics under it");
        if is_unchanged() {
            drop(self.condition.wait(held).expect("nobody panics under it"));
        }
    }
}

/// The same in fewer steps: loom lets another thread go on only where it has a hand in it, so what stands between two such
/// places is one step.
#[cfg(loom)]
#[derive(Debug, Default)]
struct Bed {
    sleepers: std::sync::Mutex<Vec<model::thread::Thread>>,
}

#[cfg(loom)]
impl Bed {
    fn wake_all(&self) {
        let sleepers = std::mem::take(&mut *self.sleepers.lock().expect("nobody panics under it"));
        sleepers.into_iter().for_each(|sleeper| sleeper.unpark());
    }

    fn sleep_if(&self, _: Option<Instant>, is_unchanged: impl FnOnce() -> bool) {
        if is_unchanged() {
            self.sleepers.lock().expect("nobody panics under it").push(model::thread::current());
            model::thread::park();
        }
    }
}
