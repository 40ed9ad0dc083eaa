//! Subscriptions as streams: under tokio, and under an executor of forty lines that knows nothing but wakers.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use annals::{Durability, Expect, Message, NewEvent, Options, Query, Seek, Store, Subscription};
use annals_tests::model::{Ground, repetitions};
use futures_core::Stream;
use parking_lot::{Condvar, Mutex};

fn open(durability: Durability) -> Store {
    Ground::memory().open(Options::new().durability(durability).segment_bytes_max(64 << 10).ring_bytes(64 << 10))
}

fn append(store: &Store, count: usize) {
    for _ in 0..count {
        store.append("a", Expect::Any, &[NewEvent::new("T", b"payload")]).unwrap();
    }
}

async fn next(subscription: &mut Subscription) -> Option<annals::Result<Message>> {
    let mut subscription = pin!(subscription);
    poll_fn(|context| subscription.as_mut().poll_next(context)).await
}

/// Positions of events until there were `count`.
async fn collect(mut subscription: Subscription, count: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        match next(&mut subscription).await {
            Some(Ok(Message::Event(event))) => seen.push(event.position().get()),
            Some(Ok(_)) => {}
            other => panic!("{other:?} behind {}", subscription.position()),
        }
    }
    seen
}

fn subscribe(store: &Store) -> Subscription {
    store.subscribe(&Query::all(), Seek::Beginning).unwrap()
}

/// What a thread sleeps beside until somebody rings, and how often that was. The standard library's own way would do as well,
/// but ThreadSanitizer does not see what it orders.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    ringing: Condvar,
    count: AtomicUsize,
}

impl Bell {
    fn sleep(&self) {
        let mut rung = self.rung.lock();
        while !std::mem::take(&mut *rung) {
            self.ringing.wait(&mut rung);
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        *self.rung.lock() = true;
        self.ringing.notify_one();
    }
}

/// Runs one task on this thread.
fn block_on<T>(task: impl Future<Output = T>) -> T {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    let (mut task, mut context) = (pin!(task), Context::from_waker(&waker));
    loop {
        match task.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => bell.sleep(),
        }
    }
}

#[test]
fn tasks_of_a_small_executor_see_everything() {
    let events = repetitions("ANNALS_WAKE_UPS", 3000, 300_000) as usize;
    for durability in [Durability::Durable, Durability::Buffered] {
        let store = open(durability);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    let subscription = subscribe(&store);
                    scope.spawn(move || block_on(collect(subscription, events)))
                })
                .collect();
            append(&store, events);
            for reader in readers {
                assert_eq!(reader.join().unwrap(), (1..=events as u64).collect::<Vec<_>>());
            }
        });
    }
}

#[test]
fn tasks_of_tokio_see_everything() {
    let events = repetitions("ANNALS_WAKE_UPS", 3000, 300_000) as usize;
    let runtimes = [
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap(),
    ];
    for runtime in runtimes {
        for durability in [Durability::Durable, Durability::Buffered] {
            let store = open(durability);
            runtime.block_on(async {
                let readers: Vec<_> = (0..20).map(|_| tokio::spawn(collect(subscribe(&store), events))).collect();
                let writer = store.clone();
                let appended = tokio::task::spawn_blocking(move || append(&writer, events));
                for reader in readers {
                    let seen = tokio::time::timeout(Duration::from_secs(120), reader).await;
                    assert_eq!(seen.expect("a wake-up was lost").unwrap(), (1..=events as u64).collect::<Vec<_>>());
                }
                appended.await.unwrap();
            });
        }
    }
}

#[test]
fn a_task_is_woken_by_the_close_and_ends() {
    for durability in [Durability::Durable, Durability::Buffered] {
        let store = open(durability);
        let mut subscription = subscribe(&store);
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                block_on(async {
                    assert!(matches!(next(&mut subscription).await, Some(Ok(Message::CaughtUp { head: 0 }))));
                    assert!(next(&mut subscription).await.is_none());
                    assert!(next(&mut subscription).await.is_none());
                });
            });
            std::thread::sleep(Duration::from_millis(20));
            store.close().unwrap();
            reader.join().unwrap();
        });
    }
}

/// A subscription that is polled and dropped leaves no waker behind; one that is polled again has but its last one.
#[test]
fn wakers_are_replaced_and_given_back() {
    let store = open(Durability::Buffered);
    let bells = [0, 1].map(|_| Arc::new(Bell::default()));
    let wakers = bells.each_ref().map(|bell| Waker::from(bell.clone()));
    let poll = |subscription: &mut Subscription, waker: &Waker| {
        Pin::new(subscription).poll_next(&mut Context::from_waker(waker))
    };
    let woken = || bells.each_ref().map(|bell| bell.count.load(Ordering::Relaxed));
    let wait_for = |wanted: [usize; 2]| {
        let begun = std::time::Instant::now();
        while woken() != wanted {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?} woken, {wanted:?} should be", woken());
            std::thread::yield_now();
        }
    };
    let (mut stays, mut goes) = (subscribe(&store), subscribe(&store));
    for subscription in [&mut stays, &mut goes] {
        assert!(matches!(poll(subscription, &wakers[0]), Poll::Ready(Some(Ok(Message::CaughtUp { .. })))));
        assert!(poll(subscription, &wakers[0]).is_pending());
    }
    assert!(poll(&mut stays, &wakers[1]).is_pending());
    assert!(poll(&mut stays, &wakers[1]).is_pending());
    // The count of each waker: this one, the subscriptions', and no more.
    assert_eq!(bells.each_ref().map(Arc::strong_count), [3, 3]);
    drop(goes);
    assert_eq!(bells.each_ref().map(Arc::strong_count), [2, 3]);
    append(&store, 1);
    wait_for([0, 1]);
    // Whoever woke it lets go of it a moment later.
    let begun = std::time::Instant::now();
    while bells.each_ref().map(Arc::strong_count) != [2, 2] {
        assert!(begun.elapsed() < Duration::from_secs(60), "a waker is left behind");
        std::thread::yield_now();
    }
    // Nobody asked again: nobody is woken again.
    append(&store, 1);
    assert!(matches!(poll(&mut stays, &wakers[1]), Poll::Ready(Some(Ok(Message::Event(_))))));
    assert_eq!(woken(), [0, 1]);
}
