//! Reading: a scan of everything, reads of one stream, and opening a store after a clean close and after a kill.

use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use annals::{Durability, Options, Query, Seek, Store};
use annals_benches::floor::Floor;
use annals_benches::{Prepared, Workload, batches, directory};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
const EVENTS: usize = 200_000;

/// What the store to be opened holds, but for the tail that a kill leaves unsynced.
const EVENTS_BEFORE: usize = 100_000;

fn options() -> Options {
    Options::new().durability(Durability::Buffered)
}

fn append(store: &Store, prepared: &[Prepared], len: usize) {
    for batch in batches(prepared, len) {
        store.commit(&batch).expect("a commit");
    }
}

fn sum(payload: &[u8]) -> u64 {
    payload.iter().map(|byte| u64::from(*byte)).sum()
}

/// The same events in a store, in batches of one, and in a hand-written log.
fn scan_and_stream(criterion: &mut Criterion) {
    let work = Workload::new(EVENTS, 0, 1);
    let directory = directory(Path::new(DIRECTORY));
    let store = options().open(directory.path().join("store")).expect("a store");
    append(&store, work.events(), 1);
    store.sync().expect("a sync");
    let mut floor = Floor::create(directory.path()).expect("a log");
    floor.reserve(EVENTS).expect("room");
    floor.append(work.events(), true).expect("an append");
    let raw = floor.raw().expect("the log");
    let expected: u64 = work.events().iter().map(|event| sum(&event.payload)).sum();

    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("annals/closure", |bencher| {
        bencher.iter(|| {
            let (read, mut found) = (store.read_all(&Query::all(), Seek::Beginning).expect("a read"), 0);
            let stopped = read.for_each_event(|event| {
                found += sum(event.payload());
                ControlFlow::<()>::Continue(())
            });
            stopped.expect("a whole log");
            assert_eq!(found, expected);
        });
    });
    group.bench_function("annals/iterator", |bencher| {
        bencher.iter(|| {
            let read = store.read_all(&Query::all(), Seek::Beginning).expect("a read");
            let found: u64 = read.map(|event| sum(event.expect("a whole log").payload())).sum();
            assert_eq!(found, expected);
        });
    });
    group.bench_function("floor", |bencher| bencher.iter(|| assert_eq!(raw.scan(), Some(expected))));
    group.finish();

    let mut streams: HashMap<&str, Vec<u32>> = HashMap::new();
    for (number, event) in work.events().iter().enumerate() {
        streams.entry(&event.stream).or_default().push(number as u32);
    }
    let mut group = criterion.benchmark_group("stream");
    for len in [1, 10, 100, 1000] {
        // The first events of streams that have as many, another stream each time, in no order.
        let mut long: Vec<_> = streams.iter().filter(|(_, numbers)| numbers.len() >= len).collect();
        long.sort_unstable_by_key(|(_, numbers)| work.events()[numbers[len - 1] as usize].id);
        group.throughput(Throughput::Elements(len as u64));
        let mut turns = long.iter().cycle();
        group.bench_function(BenchmarkId::new("annals", len), |bencher| {
            bencher.iter(|| {
                let (stream, _) = turns.next().expect("a stream of that length");
                let read = store.read_stream(stream, Seek::Beginning).expect("a read").take(len);
                read.map(|event| sum(event.expect("a whole stream").payload())).sum::<u64>()
            });
        });
        let mut turns = long.iter().cycle();
        group.bench_function(BenchmarkId::new("floor", len), |bencher| {
            bencher.iter(|| {
                let (_, numbers) = turns.next().expect("a stream of that length");
                raw.read(&numbers[..len]).expect("right checksums")
            });
        });
    }
    group.finish();
}

/// A store that was closed, and what was to follow.
fn closed() -> (TempDir, Workload) {
    let (directory, mut work) = (directory(Path::new(DIRECTORY)), Workload::new(EVENTS, 0, 1));
    let store = options().open(directory.path().join("store")).expect("a store");
    append(&store, work.take(EVENTS_BEFORE), 1);
    store.close().expect("a clean close");
    (directory, work)
}

/// The time that opening takes; ending it again is not counted.
fn open(path: &Path, check: impl Fn(&Store)) -> Duration {
    let begun = Instant::now();
    let store = options().open(path).expect("the store");
    let elapsed = begun.elapsed();
    check(&store);
    store.close().expect("a clean close");
    elapsed
}

fn reopen(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reopen");
    group.sampling_mode(SamplingMode::Flat).measurement_time(Duration::from_secs(4));
    let (directory, mut work) = closed();
    let path = directory.path().join("store");
    group.bench_function("clean", |bencher| {
        let check = |store: &Store| assert!(store.recovery_report().clean);
        bencher.iter_custom(|rounds| (0..rounds).map(|_| open(&path, check)).sum());
    });

    // Of a store without threads of its own, a copy made between two appends holds what a kill would leave there.
    let store = options().background(false).open(&path).expect("the store");
    let mut tail = 0;
    for upto in [1_000, 20_000] {
        append(&store, work.take(upto - tail), 1);
        tail = upto;
        let (killed, again) = (self::directory(Path::new(DIRECTORY)), self::directory(Path::new(DIRECTORY)));
        copy(&path, killed.path());
        group.bench_function(BenchmarkId::new("killed", tail), |bencher| {
            let check = |store: &Store| {
                let report = store.recovery_report();
                assert!(!report.clean);
                assert_eq!(report.kept_events, tail as u64);
                assert_eq!(store.head(), (EVENTS_BEFORE + tail) as u64);
            };
            let open_copy = |round| {
                let path = again.path().join(format!("store-{round}"));
                copy(killed.path(), &path);
                let elapsed = open(&path, check);
                fs::remove_dir_all(&path).expect("a directory to remove");
                elapsed
            };
            bencher.iter_custom(|rounds| (0..rounds).map(open_copy).sum());
        });
    }
    group.finish();
}

/// Copies the files and waits until the disk has them, so that no sync of an opening pays for them.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let copied = to.join(entry.file_name());
        fs::copy(entry.path(), &copied).expect("a copy");
        File::open(&copied).and_then(|file| file.sync_all()).expect("a sync");
    }
    File::open(to).and_then(|directory| directory.sync_all()).expect("a sync");
}

criterion_group! {
    name = read;
    config = Criterion::default()
        .sample_size(10)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = scan_and_stream, reopen
}
criterion_main!(read);
