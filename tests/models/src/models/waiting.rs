//! Nobody sleeps through what it waits for. There is no time in a model: a wake-up that is lost is a deadlock.

use std::sync::Arc;
use std::task::{Wake, Waker};

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

use super::{BOUNDED, at_once, explore};
use crate::options::View;
use crate::publish::{Ending, TaskPlace, Waiters, Watermark};

/// Each thread's steps: those of a wait are many, so that three of them take minutes.
fn steps() -> u64 {
    if std::env::var_os("ANNALS_LONG").is_some() { 3 } else { 2 }
}

#[test]
fn durable_heads_are_waited_for() {
    let heads = steps();
    explore(&format!("{heads} durable heads, {heads} waits"), None, move || {
        let watermark = Arc::new(Watermark::start(3, 0, 0));
        let waiter = thread::spawn({
            let watermark = watermark.clone();
            move || {
                for position in 0..heads {
                    assert!(watermark.wait_beyond(View::Durable, position, None));
                    at_once(|| assert!(watermark.durable() > position, "woken without a head"));
                }
            }
        });
        for head in 1..=heads {
            watermark.show_durable(head);
        }
        waiter.join().unwrap();
    });
}

#[test]
fn written_heads_are_waited_for_where_no_notifier_runs() {
    let heads = steps();
    explore(&format!("{heads} batches, {heads} waits, no notifier"), None, move || {
        let watermark = Arc::new(Watermark::start(0, 0, 0));
        let waiter = thread::spawn({
            let watermark = watermark.clone();
            move || {
                for position in 0..heads {
                    assert!(watermark.wait_beyond(View::Written, position, None));
                    at_once(|| assert!(watermark.written() > position, "woken without a head"));
                }
            }
        });
        append(&watermark, 1..=heads);
        waiter.join().unwrap();
    });
}

#[test]
fn two_wait_for_batches_of_one_writer() {
    explore("2 batches, 2 who wait, no notifier", BOUNDED, || {
        let watermark = Arc::new(Watermark::start(0, 0, 0));
        let waiters = [0, 1].map(|position| {
            let watermark = watermark.clone();
            thread::spawn(move || assert!(watermark.wait_beyond(View::Written, position, None)))
        });
        append(&watermark, 1..=2);
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

#[test]
fn the_notifier_misses_no_batch() {
    let heads = steps() - 1;
    explore(&format!("{heads} batches, notifier, {heads} waits"), BOUNDED, move || {
        let watermark = Arc::new(Watermark::start(0, 0, 0));
        let notifier = thread::spawn({
            let watermark = watermark.clone();
            move || watermark.notify_with(|_| None)
        });
        let waiter = thread::spawn({
            let watermark = watermark.clone();
            move || {
                for position in 0..heads {
                    assert!(watermark.wait_beyond(View::Written, position, None));
                }
            }
        });
        append(&watermark, 1..=heads);
        waiter.join().unwrap();
        watermark.close();
        notifier.join().unwrap();
    });
}

#[test]
fn the_notifier_hears_that_the_store_is_closed() {
    let heads = steps();
    explore(&format!("notifier, {heads} batches, close"), None, move || {
        let watermark = Arc::new(Watermark::start(0, 0, 0));
        let notifier = thread::spawn({
            let watermark = watermark.clone();
            move || watermark.notify_with(|_| None)
        });
        append(&watermark, 1..=heads);
        watermark.close();
        notifier.join().unwrap();
    });
}

#[test]
fn closing_ends_every_wait() {
    explore("close, 2 who wait for nothing", BOUNDED, || {
        let watermark = Arc::new(Watermark::start(0, 0, 0));
        let waiters = [View::Written, View::Durable].map(|view| {
            let watermark = watermark.clone();
            thread::spawn(move || {
                assert!(watermark.wait_beyond(view, 0, None));
                assert_eq!(watermark.ending(), Some(Ending::Closed));
            })
        });
        watermark.close();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

#[test]
fn a_failure_ends_a_wait_and_what_is_durable_by_then_is_seen() {
    explore("batch, sync, failure, 1 who waits", None, || {
        let watermark = Arc::new(Watermark::start(0, 0, 0));
        let waiter = thread::spawn({
            let watermark = watermark.clone();
            move || {
                assert!(watermark.wait_beyond(View::Written, 2, None));
                assert_eq!(watermark.ending(), Some(Ending::Poisoned));
                assert_eq!(watermark.written(), 1);
            }
        });
        append(&watermark, 1..=2);
        watermark.show_durable(1);
        watermark.poison();
        waiter.join().unwrap();
    });
}

/// Group commit in little: who finds nobody leading leads, the others wait until nobody does.
#[test]
fn who_waits_for_a_sync_is_led_or_leads() {
    explore("3 who want their batch durable", BOUNDED, || {
        let watermark = Arc::new(Watermark::start(3, 0, 0));
        let (leading, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let commit = move |watermark: &Watermark, leading: &AtomicBool, written: &AtomicU64, position: u64| {
            written.fetch_max(position, Ordering::AcqRel);
            while watermark.durable() < position {
                if leading.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    if watermark.durable() < position {
                        watermark.show_durable(written.load(Ordering::Acquire));
                    }
                    leading.store(false, Ordering::Release);
                    watermark.sync_waiters().notify();
                } else {
                    let is_over = || watermark.durable() >= position || !leading.load(Ordering::Acquire);
                    watermark.sync_waiters().wait(None, is_over);
                }
            }
        };
        let threads = [1, 2].map(|position| {
            let (watermark, leading, written) = (watermark.clone(), leading.clone(), written.clone());
            thread::spawn(move || commit(&watermark, &leading, &written, position))
        });
        commit(&watermark, &leading, &written, 3);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// Whether a task was woken.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_task_that_saw_nothing_is_woken() {
    explore("3 batches, a task that looks 3 times", None, || {
        let watermark = Arc::new(Watermark::start(0, 0, 0));
        let writer = thread::spawn({
            let watermark = watermark.clone();
            move || append(&watermark, 1..=3)
        });
        let mut place = TaskPlace::default();
        let mut last = None;
        for position in 0..3 {
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(woken.clone());
            if !watermark.wake_beyond(View::Written, position, &mut place, &waker) {
                last = Some(woken);
                break;
            }
        }
        writer.join().unwrap();
        if let Some(woken) = last {
            assert!(woken.0.load(Ordering::Acquire), "the task sleeps for ever");
        }
        watermark.forget(View::Written, &mut place);
    });
}

#[test]
fn a_task_that_leaves_is_counted_no_more() {
    explore("2 wakes, a task that comes and goes", None, || {
        let waiters = Arc::new(Waiters::default());
        let other = thread::spawn({
            let waiters = waiters.clone();
            move || {
                waiters.notify();
                waiters.notify();
            }
        });
        let mut place = TaskPlace::default();
        let waker = Waker::from(Arc::new(Woken::default()));
        waiters.leave_waker(&mut place, &waker);
        waiters.leave_waker(&mut place, &waker);
        waiters.forget(&mut place);
        other.join().unwrap();
        assert_eq!(waiters.notify(), 0, "counted and gone");
    });
}

/// What an append does when its batch stands.
fn append(watermark: &Watermark, heads: std::ops::RangeInclusive<u64>) {
    for head in heads {
        watermark.publish(head, head * 8);
        watermark.notify_written();
    }
}
