//! Appending: how long an event takes, by batch, durability and number of threads.

use std::time::{Duration, Instant};

use annals::{Batch, Durability, Expect, Options, Store};
use annals_benches::{Floor, Prepared, Workload, directory};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn open(directory: &tempfile::TempDir, durability: Durability) -> Store {
    Options::new().durability(durability).open(directory.path().join("store")).expect("a store")
}

fn batch(events: &[Prepared]) -> Batch<'_> {
    let mut batch = Batch::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        if !events[..index].iter().any(|before| before.stream == event.stream) {
            batch.push_expectation(&event.stream, Expect::revision(event.revision));
        }
        batch.push(&event.stream, event.event());
    }
    batch
}

/// Time to append `rounds` batches of `len` events each to a fresh store; making them is not timed.
fn time_batches(rounds: u64, len: usize, durability: Durability) -> Duration {
    let directory = directory();
    let store = open(&directory, durability);
    let events = Workload::new(7).take(rounds as usize * len);
    let batches: Vec<_> = events.chunks(len).map(batch).collect();
    let begun = Instant::now();
    for batch in &batches {
        store.commit(batch).expect("a commit");
    }
    begun.elapsed()
}

fn time_floor(rounds: u64, len: usize, sync: bool) -> Duration {
    let directory = directory();
    let events = Workload::new(7).take(rounds as usize * len);
    let mut floor = Floor::create(directory.path(), events.len() as u64 * 320 + 4096).expect("a floor");
    let begun = Instant::now();
    for events in events.chunks(len) {
        floor.append(events, sync).expect("an append");
    }
    begun.elapsed()
}

fn by_batch(criterion: &mut Criterion) {
    for (name, durability) in [("buffered", Durability::Buffered), ("durable", Durability::Durable)] {
        let mut group = criterion.benchmark_group(format!("append/{name}"));
        for len in [1, 10, 100, 1000] {
            group.throughput(Throughput::Elements(len as u64));
            group.bench_function(BenchmarkId::new("annals", len), |bencher| {
                bencher.iter_custom(|rounds| time_batches(rounds, len, durability));
            });
            group.bench_function(BenchmarkId::new("floor", len), |bencher| {
                bencher.iter_custom(|rounds| time_floor(rounds, len, durability == Durability::Durable));
            });
        }
        group.finish();
    }
}

fn by_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append/durable/threads");
    group.throughput(Throughput::Elements(1));
    for threads in [1usize, 8, 64] {
        group.bench_function(BenchmarkId::new("annals", threads), |bencher| {
            bencher.iter_custom(|rounds| {
                let directory = directory();
                let store = open(&directory, Durability::Durable);
                let each = (rounds as usize).div_ceil(threads);
                let begun = Instant::now();
                std::thread::scope(|scope| {
                    for thread in 0..threads {
                        let store = &store;
                        scope.spawn(move || append_alone(store, thread, each));
                    }
                });
                begun.elapsed().mul_f64(rounds as f64 / (each * threads) as f64)
            });
        });
    }
    group.finish();
}

/// One writer of many, with streams of its own.
fn append_alone(store: &Store, thread: usize, count: usize) {
    for event in Workload::new(thread as u64).take(count) {
        let stream = format!("{thread:02}-{}", event.stream);
        let expect = Expect::revision(event.revision);
        store.append(&stream, expect, &[event.event()]).expect("an append");
    }
}

fn by_tickets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append/tickets");
    group.throughput(Throughput::Elements(1));
    for in_flight in [64usize << 10, 512 << 10, 4 << 20] {
        group.bench_function(BenchmarkId::new("annals", in_flight), |bencher| {
            bencher.iter_custom(|rounds| {
                let directory = directory();
                let store = open(&directory, Durability::Durable);
                let events = Workload::new(7).take(rounds as usize);
                let mut tickets = std::collections::VecDeque::new();
                let begun = Instant::now();
                for event in &events {
                    if tickets.len() >= in_flight / 300 {
                        let oldest: annals::Ticket = tickets.pop_front().expect("one is there");
                        oldest.wait().expect("a commit");
                    }
                    tickets.push_back(store.submit(&batch(std::slice::from_ref(event))).expect("a ticket"));
                }
                tickets.into_iter().for_each(|ticket| drop(ticket.wait().expect("a commit")));
                begun.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = append;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    targets = by_batch, by_thread, by_tickets
}
criterion_main!(append);
