//! Those who wait for something to be shown: counted, so that nobody makes a system call for the sake of no one.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use super::sync::{AtomicU64, Lock, Ordering, SleepWord, fence, named_fence, named_ordering};

/// Threads that sleep and tasks that left a waker, until something they look at has changed.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// How many threads sleep, or look once more before they do; and in the upper half how many wakers are kept.
    count: AtomicU64,
    turn: SleepWord,
    tasks: Lock<Tasks>,
}

const THREAD: u64 = 1;
const TASK: u64 = 1 << 32;

#[derive(Debug, Default)]
struct Tasks {
    last: u64,
    waiting: VecDeque<(u64, Waker)>,
}

/// A task's place among those who wait; to be given back with [`Waiters::forget`].
#[derive(Debug, Default)]
pub(crate) struct TaskPlace(Option<u64>);

impl Waiters {
    /// Who waits, for [`Waiters::wake_these`]; 0 is nobody. To be asked after what they wait for was stored, and after a full
    /// fence.
    #[inline]
    pub(super) fn awaited(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Wakes everybody, if there is anybody; how many there were. To be called after what they wait for was stored.
    #[inline]
    pub(crate) fn notify(&self) -> u64 {
        named_fence!("notify-fence", SeqCst);
        self.wake()
    }

    /// Wakes everybody. To be called after a full fence, behind what they wait for; how many there were.
    #[inline]
    pub(super) fn wake(&self) -> u64 {
        match self.awaited() {
            0 => 0,
            awaited => self.wake_these(awaited),
        }
    }

    /// Wakes those that [`Waiters::awaited`] told of, and perhaps some who came since; how many it told of.
    #[cold]
    pub(super) fn wake_these(&self, count: u64) -> u64 {
        let (threads, tasks) = (count & (TASK - 1), count / TASK);
        if threads > 0 {
            // The fence that the caller passed is what a sleeper's look at the turn pairs with.
            self.turn.change(Ordering::Relaxed);
        }
        if tasks > 0 {
            self.wake_tasks();
        }
        threads + tasks
    }

    fn wake_tasks(&self) {
        // Who comes back meanwhile waits for the next time.
        let mut left = self.tasks.lock().waiting.len();
        while left > 0 {
            let Some(waker) = self.take_task() else { return };
            // Outside of the lock: it may run the task, which may come back.
            waker.wake();
            left -= 1;
        }
    }

    fn take_task(&self) -> Option<Waker> {
        let (_, waker) = self.tasks.lock().waiting.pop_front()?;
        self.count.fetch_sub(TASK, Ordering::Relaxed);
        Some(waker)
    }

    /// Sleeps until `is_over`, which is asked at once and again after each wake-up; false at the deadline. For whoever has
    /// just looked and found that it is not over.
    pub(crate) fn wait(&self, deadline: Option<Instant>, is_over: impl Fn() -> bool) -> bool {
        self.count.fetch_add(THREAD, Ordering::Relaxed);
        named_fence!("wait-fence", SeqCst);
        let is_over = loop {
            let turn = self.turn.load(named_ordering!("turn-seen", Acquire));
            if is_over() {
                break true;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break false;
            }
            self.turn.sleep(turn, deadline);
        };
        self.count.fetch_sub(THREAD, Ordering::Relaxed);
        is_over
    }

    /// Keeps the waker until it is woken once, in the place of the one it left before. The caller looks once more
    /// afterwards at what it waits for: who changed it before this may not have seen the waker.
    pub(crate) fn leave_waker(&self, place: &mut TaskPlace, waker: &Waker) {
        let mut tasks = self.tasks.lock();
        let kept = place.0.and_then(|number| tasks.waiting.iter_mut().find(|(at, _)| *at == number));
        match kept {
            Some((_, before)) => before.clone_from(waker),
            None => {
                tasks.last += 1;
                let number = tasks.last;
                tasks.waiting.push_back((number, waker.clone()));
                place.0 = Some(number);
                self.count.fetch_add(TASK, Ordering::Relaxed);
            }
        }
        drop(tasks);
        named_fence!("waker-fence", SeqCst);
    }

    /// The task waits no longer.
    pub(crate) fn forget(&self, place: &mut TaskPlace) {
        let Some(number) = place.0.take() else { return };
        let mut tasks = self.tasks.lock();
        if let Some(index) = tasks.waiting.iter().position(|(at, _)| *at == number) {
            tasks.waiting.remove(index);
            self.count.fetch_sub(TASK, Ordering::Relaxed);
        }
    }
}
