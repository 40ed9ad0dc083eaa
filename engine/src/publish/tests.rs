use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Announce, Ending, Watermark};
use crate::options::View;

/// What was announced: how often, the last head, and how often the end.
#[derive(Debug, Default)]
struct Announced {
    count: AtomicU64,
    head: AtomicU64,
    ends: AtomicU64,
}

impl Announce for Arc<Announced> {
    fn durable(&self, head: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.head.fetch_max(head, Ordering::Relaxed);
    }

    fn ended(&self) {
        self.ends.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn each_advance_of_the_durable_head_is_announced_once_and_no_batch_is() {
    let announced = Arc::new(Announced::default());
    let watermark = Watermark::start(0, 0, 0).announced_by(Box::new(announced.clone()));
    let seen = || (announced.count.load(Ordering::Relaxed), announced.head.load(Ordering::Relaxed));
    for head in 1..=5 {
        watermark.publish(head, head * 8);
        watermark.notify_written();
    }
    assert_eq!(seen(), (0, 0));
    watermark.show_durable(3);
    watermark.show_durable(3);
    watermark.show_durable(2);
    assert_eq!(seen(), (1, 3));
    watermark.show_durable(5);
    assert_eq!(seen(), (2, 5));
    watermark.close();
    assert_eq!(announced.ends.load(Ordering::Relaxed), 1);
}

#[test]
fn a_failure_lowers_the_written_head_to_the_durable_one() {
    let watermark = Watermark::start(0, 0, 0);
    watermark.publish(5, 40);
    watermark.show_durable(3);
    assert_eq!((watermark.written(), watermark.ending()), (5, None));
    watermark.poison();
    assert_eq!((watermark.written(), watermark.durable()), (3, 3));
    assert_eq!(watermark.ending(), Some(Ending::Poisoned));
    watermark.close();
    assert_eq!(watermark.ending(), Some(Ending::Closed));
    assert!(watermark.is_poisoned());
}

#[test]
fn waits_end_at_the_head_at_the_deadline_or_at_the_end() {
    let watermark = Watermark::start(0, 0, 0);
    let soon = || Some(Instant::now() + Duration::from_millis(2));
    for view in [View::Durable, View::Written] {
        assert!(!watermark.wait_beyond(view, 0, Some(Instant::now())));
        assert!(!watermark.wait_beyond(view, 0, soon()));
    }
    watermark.publish(1, 8);
    assert!(watermark.wait_beyond(View::Written, 0, None));
    assert!(!watermark.wait_beyond(View::Durable, 0, soon()));
    watermark.show_durable(1);
    assert!(watermark.wait_beyond(View::Durable, 0, None));
    assert!(!watermark.wait_beyond(View::Durable, 1, soon()));
    watermark.close();
    assert!(watermark.wait_beyond(View::Durable, 1, None));
    assert!(Watermark::fixed(1, 1).wait_beyond(View::Written, 1, None));
}

/// With the notifier at work and asleep, and with deadlines that pass meanwhile.
#[test]
fn waiters_of_the_written_head_are_woken_by_the_notifier() {
    let watermark = Watermark::start(0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| watermark.notify_until_closed());
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for position in 0..50 {
                        while !watermark.wait_beyond(
                            View::Written,
                            position,
                            Some(Instant::now() + Duration::from_micros(70)),
                        ) {}
                        assert!(watermark.written() > position);
                    }
                })
            })
            .collect();
        for head in 1..=50 {
            // Two of the pauses are long enough for it to fall asleep.
            std::thread::sleep(Duration::from_millis(if head % 20 == 0 { 130 } else { 1 }));
            watermark.publish(head, head * 8);
            watermark.notify_written();
        }
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        watermark.close();
    });
}
