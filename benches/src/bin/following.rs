//! What following costs, and how soon it sees: rows C1 to C3, in process.
//!
//! ```text
//! cargo run --release -p annals-benches --bin following [C1|C2|C3]
//! ```
//!
//! Times are of one clock, taken by the thread that appends before and after `append` and by the one that reads when it
//! holds the event. An event is shown between the two; so each latency is printed from both ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals::{Durability, Expect, Message, NewEvent, Next, Options, Query, Seek, Store, Subscription};

const PAYLOAD: usize = 256;

fn main() {
    let chosen = std::env::args().nth(1);
    let is_chosen = |row: &str| chosen.as_deref().is_none_or(|chosen| chosen == row);
    if is_chosen("C1") {
        hand_off();
        polling_reader();
    }
    if is_chosen("C2") {
        parked_reader();
    }
    if is_chosen("C3") {
        slow_down("1 M events/s, batches of 100", Duration::from_micros(100), 100, 1, Duration::from_secs(4));
        slow_down("10 k events/s, batches of 100", Duration::from_millis(10), 100, 4, Duration::from_secs(4));
        slow_down("10 k events/s, one by one", Duration::from_micros(100), 1, 4, Duration::from_secs(4));
    }
}

fn open(durability: Durability) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Options::new().durability(durability).open(dir.path().join("store")).expect("a store");
    store.reserve(64 << 20).expect("room");
    (dir, store)
}

fn wait_until(at: Instant) {
    while Instant::now() < at {
        std::hint::spin_loop();
    }
}

/// Nanoseconds at some parts of all measured.
fn histogram(what: &str, mut nanos: Vec<i64>) {
    nanos.sort_unstable();
    let at = |part: f64| nanos[((nanos.len() - 1) as f64 * part) as usize] as f64 / 1000.0;
    println!(
        "{what:<58} p50 {:>8.2}  p90 {:>8.2}  p99 {:>8.2}  p99.9 {:>8.2}  p99.99 {:>8.2} µs  ({} times)",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(0.9999),
        nanos.len()
    );
}

/// The floor of C1: a number that one thread stores and another spins on.
fn hand_off() {
    const ROUNDS: u64 = 50_000;
    let (head, begun) = (AtomicU64::new(0), Instant::now());
    let stored = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = Vec::with_capacity(ROUNDS as usize);
            for round in 1..=ROUNDS {
                while head.load(Ordering::Acquire) < round {
                    std::hint::spin_loop();
                }
                seen.push(begun.elapsed().as_nanos() as i64);
            }
            seen
        });
        let mut stored = Vec::with_capacity(ROUNDS as usize);
        for round in 1..=ROUNDS {
            wait_until(Instant::now() + Duration::from_micros(20));
            stored.push(begun.elapsed().as_nanos() as i64);
            head.store(round, Ordering::Release);
        }
        let seen = reader.join().expect("it reads");
        seen.iter().zip(&stored).map(|(seen, stored)| seen - stored).collect()
    });
    histogram("C1 floor: a number handed over", stored);
}

/// Times before and after each append, and of its being seen.
fn follow(store: &Store, rounds: u64, pause: Duration, next: impl Fn(&mut Subscription) -> u64 + Sync) -> Times {
    let mut subscription = store.subscribe(&Query::all(), Seek::End).expect("a subscription");
    let begun = Instant::now();
    let now = || begun.elapsed().as_nanos() as i64;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = Vec::with_capacity(rounds as usize);
            while (seen.len() as u64) < rounds {
                if next(&mut subscription) > 0 {
                    seen.push(now());
                }
            }
            seen
        });
        let mut times = Times::default();
        for _ in 0..rounds {
            wait_until(Instant::now() + pause);
            times.called.push(now());
            store.append("stream", Expect::Any, &[NewEvent::new("Type", &[7; PAYLOAD])]).expect("it appends");
            times.returned.push(now());
        }
        times.seen = reader.join().expect("it reads");
        times
    })
}

#[derive(Default)]
struct Times {
    called: Vec<i64>,
    returned: Vec<i64>,
    seen: Vec<i64>,
}

impl Times {
    fn print(&self, what: &str) {
        let since = |from: &[i64]| self.seen.iter().zip(from).skip(100).map(|(seen, from)| seen - from).collect();
        histogram(&format!("{what}, since append was called"), since(&self.called));
        histogram(&format!("{what}, since it returned"), since(&self.returned));
    }
}

fn polling_reader() {
    let (_dir, store) = open(Durability::Buffered);
    let times = follow(&store, 50_000, Duration::from_micros(20), |subscription| {
        loop {
            match subscription.try_next().expect("it reads") {
                Next::Message(Message::Event(event)) => return u64::from(event.payload()[0]),
                Next::Message(_) => {}
                _ => std::hint::spin_loop(),
            }
        }
    });
    times.print("C1 reader polls");
}

fn parked_reader() {
    for durability in [Durability::Durable, Durability::Buffered] {
        let (_dir, store) = open(durability);
        let times = follow(&store, 5_000, Duration::from_micros(500), |subscription| {
            match subscription.next_within(Duration::from_secs(1)).expect("it reads") {
                Next::Message(Message::Event(event)) => u64::from(event.payload()[0]),
                _ => 0,
            }
        });
        times.print(&format!("C2 reader parked, {durability:?}"));
    }
}

/// Mean time inside `append`, without readers and with.
fn slow_down(what: &str, every: Duration, batch: usize, readers: usize, time: Duration) {
    // Alternately, so that a machine that changes its pace does so for both.
    let mut means = [Vec::new(), Vec::new()];
    for _ in 0..5 {
        means[0].push(mean_append(every, batch, 0, time / 10));
        means[1].push(mean_append(every, batch, readers, time / 10));
    }
    let [alone, followed] = means.map(|mut means| {
        means.sort_by(f64::total_cmp);
        means[means.len() / 2]
    });
    println!(
        "C3 {what}, {readers} readers: {alone:.2} µs in append alone, {followed:.2} followed: {:.3}x",
        followed / alone
    );
}

fn mean_append(every: Duration, batch: usize, readers: usize, time: Duration) -> f64 {
    let (_dir, store) = open(Durability::Buffered);
    let events: Vec<_> = (0..batch).map(|_| NewEvent::new("Type", &[7; PAYLOAD])).collect();
    std::thread::scope(|scope| {
        for _ in 0..readers {
            let mut subscription = store.subscribe(&Query::all(), Seek::End).expect("a subscription");
            scope.spawn(move || while !matches!(subscription.next_within(Duration::from_secs(1)), Ok(Next::Ended)) {});
        }
        let (mut spent, mut count) = (Duration::ZERO, 0u32);
        let end = Instant::now() + time;
        let mut next = Instant::now();
        while next < end {
            wait_until(next);
            let begun = Instant::now();
            store.append("stream", Expect::Any, &events).expect("it appends");
            spent += begun.elapsed();
            count += 1;
            next += every;
        }
        store.close().expect("it closes");
        spent.as_secs_f64() * 1e6 / f64::from(count)
    })
}
