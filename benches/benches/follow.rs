//! Following: to catch up with a log, to hand over one event, and what those who wait cost an append. How soon somebody sees
//! an event, with histograms, between threads and between processes, are the rows C1 to C3 of `benches/peers`.

use std::ops::ControlFlow;
use std::path::Path;
use std::thread;

use annals::{
    Durability, Expect, Follower, Message, MessageRef, NewEvent, Next, Options, Query, Seek, Store, Subscription,
};
use annals_benches::{Workload, batches, directory};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
const EVENTS: usize = 200_000;
const PAYLOAD: usize = 256;

fn open() -> (TempDir, Store) {
    let directory = directory(Path::new(DIRECTORY));
    let store = Options::new().durability(Durability::Buffered).open(directory.path().join("store")).expect("a store");
    (directory, store)
}

/// Events up to the head.
fn by_closure(mut subscription: Subscription) -> usize {
    let mut count = 0;
    let each = |message: MessageRef<'_>| {
        count += usize::from(matches!(message, MessageRef::Event(_)));
        ControlFlow::<()>::Continue(())
    };
    subscription.for_each_ready(each).expect("a whole log");
    count
}

fn by_messages(subscription: Subscription) -> usize {
    let events = subscription.into_iter().map(|message| message.expect("a whole log"));
    events.take_while(|message| !matches!(message, Message::CaughtUp { .. })).count()
}

/// From the beginning to the head, in the process that writes and in a follower.
fn catching_up(criterion: &mut Criterion) {
    let work = Workload::new(EVENTS, 0, 1);
    let (directory, store) = open();
    for batch in batches(work.events(), 100) {
        store.commit(&batch).expect("a commit");
    }
    store.sync().expect("a sync");
    let follower = Follower::open(directory.path().join("store")).expect("a follower");
    let own = || store.subscribe(&Query::all(), Seek::Beginning).expect("a subscription");
    let followers = || follower.subscribe(&Query::all(), Seek::Beginning).expect("a subscription");

    let mut group = criterion.benchmark_group("catch up");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("subscription/closure", |bencher| bencher.iter(|| assert_eq!(by_closure(own()), EVENTS)));
    group.bench_function("subscription/messages", |bencher| bencher.iter(|| assert_eq!(by_messages(own()), EVENTS)));
    group.bench_function("follower/closure", |bencher| bencher.iter(|| assert_eq!(by_closure(followers()), EVENTS)));
    group.finish();
}

fn append(store: &Store) {
    store.append("followed", Expect::Any, &[NewEvent::new("Followed", &[7; PAYLOAD])]).expect("an append");
}

/// An append alone, with a look of a subscription after each, and beside threads that wait.
fn appending(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    let (_directory, store) = open();
    group.bench_function("alone", |bencher| bencher.iter(|| append(&store)));
    let mut subscription = store.subscribe(&Query::all(), Seek::End).expect("a subscription");
    group.bench_function("and seen", |bencher| {
        bencher.iter(|| {
            append(&store);
            while !matches!(subscription.try_next().expect("it reads"), Next::Message(Message::Event(_))) {}
        });
    });
    for waiting in [1, 4] {
        let (_directory, store) = open();
        let threads: Vec<_> = (0..waiting)
            .map(|_| {
                let mut subscription = store.subscribe(&Query::all(), Seek::End).expect("a subscription");
                thread::spawn(move || {
                    for message in &mut subscription {
                        message.expect("it reads");
                    }
                })
            })
            .collect();
        group.bench_function(BenchmarkId::new("beside waiting", waiting), |bencher| bencher.iter(|| append(&store)));
        store.close().expect("it closes");
        threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
    }
    group.finish();
}

criterion_group!(benches, catching_up, appending);
criterion_main!(benches);
