//! Reading: a scan of everything, one stream, and opening a store.

use std::ops::ControlFlow;
use std::time::Duration;

use annals::{Durability, Expect, Options, Query, Seek, Store};
use annals_benches::{Floor, Prepared, Workload, directory};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const EVENTS: usize = 200_000;

fn filled(events: &[Prepared]) -> (tempfile::TempDir, Store) {
    let directory = directory();
    let store = Options::new().durability(Durability::Buffered).open(directory.path().join("store")).expect("a store");
    for event in events {
        store.append(&event.stream, Expect::revision(event.revision), &[event.event()]).expect("an append");
    }
    store.sync().expect("a sync");
    (directory, store)
}

fn scan(criterion: &mut Criterion) {
    let events = Workload::new(7).take(EVENTS);
    let (_directory, store) = filled(&events);
    let floor_directory = directory();
    let mut floor = Floor::create(floor_directory.path(), EVENTS as u64 * 320 + 4096).expect("a floor");
    floor.append(&events, true).expect("an append");

    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("annals/closure", |bencher| {
        bencher.iter(|| {
            let mut bytes = 0;
            let read = store.read_all(&Query::all(), Seek::Beginning).expect("a read");
            let stopped = read.for_each_event(|event| {
                bytes += event.payload().len();
                ControlFlow::<()>::Continue(())
            });
            stopped.expect("a whole log");
            bytes
        });
    });
    group.bench_function("annals/iterator", |bencher| {
        bencher.iter(|| {
            let read = store.read_all(&Query::all(), Seek::Beginning).expect("a read");
            read.map(|event| event.expect("a whole log").payload().len()).sum::<usize>()
        });
    });
    group.bench_function("floor", |bencher| bencher.iter(|| floor.scan().expect("a whole log")));
    group.finish();

    let mut group = criterion.benchmark_group("stream");
    let mut next = 0;
    group.bench_function("annals", |bencher| {
        bencher.iter(|| {
            next = (next + 7919) % EVENTS;
            let read = store.read_stream(&events[next].stream, Seek::Beginning).expect("a read");
            read.take(100).map(|event| event.expect("a whole stream").payload().len()).sum::<usize>()
        });
    });
    group.finish();
}

fn reopen(criterion: &mut Criterion) {
    let events = Workload::new(7).take(EVENTS / 4);
    let (directory, store) = filled(&events);
    store.close().expect("a clean close");
    criterion.bench_function("reopen/clean", |bencher| {
        bencher.iter(|| {
            let store = Store::open(directory.path().join("store")).expect("the store");
            assert!(store.recovery_report().clean);
            store.close().expect("a clean close");
        });
    });
}

criterion_group! {
    name = read;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    targets = scan, reopen
}
criterion_main!(read);
