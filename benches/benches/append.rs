//! Appending: how long a batch takes, by its length, its durability and the number of threads.
//!
//! Events and batches are made before the clock starts, for annals and for the floor.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use annals::{Durability, Options, Store, Ticket};
use annals_benches::floor::{Floor, GroupLog, Pipeline};
use annals_benches::{EVENT_LEN, Prepared, Shape, Trial, batches, events};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use parking_lot::Mutex;

const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
const LENGTHS: [usize; 4] = [1, 10, 100, 1000];
const DURABILITIES: [(&str, Durability); 2] = [("buffered", Durability::Buffered), ("durable", Durability::Durable)];

/// Bytes handed in ahead of the disk where nothing else is said.
const IN_FLIGHT: usize = 4 << 20;

/// When an append began and ended.
type Times = (Instant, Instant);

/// Times `append` on the logs that `make` makes; the clock stands still in `ready`.
fn bench<L: Sync>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    shape: Shape,
    make: impl Fn(&Path) -> L + 'static,
    ready: impl Fn(&mut L, usize),
    append: impl Fn(&L, &[Prepared], &Barrier) -> Times + Sync,
) {
    let mut trial = Trial::new(DIRECTORY, shape, make);
    group.throughput(Throughput::Elements(shape.len as u64));
    group.bench_function(id, |bencher| {
        // Not in the loop, whose number of rounds is chosen by all the time it takes, counted or not.
        trial.prepare();
        bencher.iter_custom(|rounds| trial.time(rounds, &ready, &append));
    });
}

/// The same on stores, which make themselves ready.
fn bench_annals(
    group: &mut BenchmarkGroup<'_, WallTime>,
    parameter: usize,
    shape: Shape,
    durability: Durability,
    append: impl Fn(&Store, &[Prepared], &Barrier) -> Times + Sync,
) {
    let make = move |path: &Path| Options::new().durability(durability).open(path.join("store")).expect("a store");
    bench(group, BenchmarkId::new("annals", parameter), shape, make, |_, _| (), append);
}

/// One event after the other, each by `append` as a caller of one would do it.
fn append_each(store: &Store, prepared: &[Prepared], start: &Barrier) -> Times {
    let events = events(prepared);
    start.wait();
    let begun = Instant::now();
    for (event, prepared) in events.iter().zip(prepared) {
        let event = std::slice::from_ref(event);
        store.append(&prepared.stream, prepared.expect(), event).expect("an append");
    }
    (begun, Instant::now())
}

fn commit_each(store: &Store, prepared: &[Prepared], len: usize, start: &Barrier) -> Times {
    let batches = batches(prepared, len);
    start.wait();
    let begun = Instant::now();
    for batch in &batches {
        store.commit(batch).expect("a commit");
    }
    (begun, Instant::now())
}

fn chunks(prepared: &[Prepared], len: usize, start: &Barrier, mut append: impl FnMut(&[Prepared])) -> Times {
    start.wait();
    let begun = Instant::now();
    prepared.chunks(len).for_each(&mut append);
    (begun, Instant::now())
}

/// Hands in batches of `len` events, waiting for the oldest whenever more than `in_flight` bytes would be unanswered.
fn hand_in<B, T>(
    batches: &[B],
    (len, in_flight): (usize, usize),
    start: &Barrier,
    submit: impl Fn(&B) -> T,
    wait: impl Fn(T),
) -> Times {
    let tickets_max = (in_flight / (len * EVENT_LEN)).max(1);
    let mut tickets = VecDeque::with_capacity(tickets_max);
    start.wait();
    let begun = Instant::now();
    for batch in batches {
        if tickets.len() == tickets_max {
            tickets.pop_front().into_iter().for_each(&wait);
        }
        tickets.push_back(submit(batch));
    }
    tickets.into_iter().for_each(wait);
    (begun, Instant::now())
}

fn by_length(criterion: &mut Criterion) {
    for (name, durability) in DURABILITIES {
        let mut group = criterion.benchmark_group(format!("append/{name}"));
        for len in LENGTHS {
            let shape = Shape { writers: 1, len, rounds_min: 1 };
            bench_annals(&mut group, len, shape, durability, |store, share, start| match len {
                1 => append_each(store, share, start),
                _ => commit_each(store, share, len, start),
            });
            bench(
                &mut group,
                BenchmarkId::new("floor", len),
                shape,
                |path| Mutex::new(Floor::create(path).expect("a log")),
                |floor, events| floor.get_mut().reserve(events).expect("room"),
                |floor, share, start| {
                    let mut floor = floor.lock();
                    let sync = durability == Durability::Durable;
                    chunks(share, len, start, |events| floor.append(events, sync).expect("an append"))
                },
            );
        }
        group.finish();
    }
    for len in LENGTHS {
        tickets(criterion, "append/tickets", len, 1, len, IN_FLIGHT);
    }
}

fn by_bytes_in_flight(criterion: &mut Criterion) {
    for in_flight in [64 << 10, 512 << 10] {
        tickets(criterion, "append/tickets/in-flight", in_flight, 1, 1, in_flight);
    }
}

/// One event an append, each thread with streams of its own.
fn by_thread(criterion: &mut Criterion) {
    for (name, durability) in DURABILITIES {
        let mut group = criterion.benchmark_group(format!("append/{name}/threads"));
        for writers in [1, 8, 64] {
            let id = BenchmarkId::new("floor", writers);
            let shape = Shape { writers, len: 1, rounds_min: 32 * writers };
            bench_annals(&mut group, writers, shape, durability, append_each);
            match durability {
                Durability::Durable => bench(
                    &mut group,
                    id,
                    shape,
                    |path| GroupLog::create(path).expect("a log"),
                    |log, events| log.reserve(events).expect("room"),
                    |log, share, start| chunks(share, 1, start, |event| log.append(event).expect("an append")),
                ),
                Durability::Buffered => bench(
                    &mut group,
                    id,
                    shape,
                    |path| Mutex::new(Floor::create(path).expect("a log")),
                    |floor, events| floor.get_mut().reserve(events).expect("room"),
                    |floor, share, start| {
                        chunks(share, 1, start, |event| floor.lock().append(event, false).expect("an append"))
                    },
                ),
            }
        }
        group.finish();
    }
    for writers in [8, 64] {
        tickets(criterion, "append/tickets/threads", writers, writers, 1, IN_FLIGHT);
    }
}

/// Annals and the pipeline under `name`; the writers share what may be in flight.
fn tickets(criterion: &mut Criterion, name: &str, parameter: usize, writers: usize, len: usize, in_flight: usize) {
    // What may be in flight, four times: the last of it is waited for.
    let shape = Shape { writers, len, rounds_min: 4 * in_flight.div_ceil(len * EVENT_LEN) };
    let limits = (len, in_flight / writers);
    let mut group = criterion.benchmark_group(name);
    bench_annals(&mut group, parameter, shape, Durability::Durable, |store, share, start| {
        let submit = |batch: &_| store.submit(batch).expect("a ticket");
        hand_in(&batches(share, len), limits, start, submit, |ticket: Ticket| drop(ticket.wait().expect("a commit")))
    });
    bench(
        &mut group,
        BenchmarkId::new("floor", parameter),
        shape,
        |path| Pipeline::create(path).expect("a log"),
        |pipeline, events| pipeline.reserve(events).expect("room"),
        |pipeline, share, start| {
            let batches: Vec<_> = share.chunks(len).collect();
            hand_in(&batches, limits, start, |events| pipeline.submit(events), |end| pipeline.wait(end))
        },
    );
    group.finish();
}

criterion_group! {
    name = append;
    config = Criterion::default()
        .sample_size(10)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = by_length, by_bytes_in_flight, by_thread
}
criterion_main!(append);
