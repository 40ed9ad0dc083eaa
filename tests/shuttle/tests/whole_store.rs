//! A whole store in memory under random schedules: a writer, threads that sync, subscribers that wait, a close in between.
//!
//! Shuttle decides at every atomic of the publish protocol and at every lock of the writer who goes on. It knows no weak
//! memory (that is what the models by loom are for), and what the engine has beside the protocol, the index in memory, the
//! ring, the lists of segments, runs on its ordinary atomics, without a switch in between. There is no time: a sleep without
//! a wake-up is a deadlock, which it reports.
//!
//! 1,000 schedules of each kind for each scene; with `ANNALS_LONG=1` 250,000; or as many as `ANNALS_SCHEDULES` says.

#![allow(missing_docs, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use annals_shuttle::{
    Durability, Expect, Message, MessageRef, NewEvent, Next, Options, Query, Seek, Store, Subscription, View,
};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread;

const EVENTS: u64 = 4;

fn schedules() -> usize {
    let asked = std::env::var("ANNALS_SCHEDULES").ok();
    let asked = asked.map(|count| count.parse().expect("ANNALS_SCHEDULES is a number"));
    asked.unwrap_or(if std::env::var_os("ANNALS_LONG").is_some() { 250_000 } else { 1_000 })
}

/// Runs the scene under random schedules, and under those that look for bugs of few switches.
fn explore(name: &str, scene: fn()) {
    run(name, RandomScheduler::new(schedules()), scene);
    run(name, PctScheduler::new(4, schedules()), scene);
}

fn run(name: &str, scheduler: impl Scheduler + 'static, scene: fn()) {
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 20;
    let done = Arc::new(AtomicU64::new(0));
    let counted = done.clone();
    shuttle::Runner::new(scheduler, config).run(move || {
        scene();
        counted.fetch_add(1, Ordering::Relaxed);
    });
    println!("{name}: {} schedules", done.load(Ordering::Relaxed));
}

fn open(durability: Durability) -> Store {
    let options = Options::new().background(false).durability(durability).segment_bytes_max(64 << 10);
    options.open_storage(Arc::new(annals_shuttle::storage::Memory::new())).unwrap()
}

fn append(store: &Store, durability: Durability) {
    store.append_with("a", Expect::Any, &[NewEvent::new("T", b"payload")], durability).unwrap();
}

/// Waits for every event, each the one after the last.
fn follow(mut subscription: Subscription) {
    while subscription.position() < EVENTS {
        let before = subscription.position();
        match subscription.next_within(Duration::MAX).unwrap() {
            Next::Message(Message::Event(event)) => assert_eq!(event.position().get(), before + 1),
            Next::Message(Message::CaughtUp { head }) => assert_eq!(head, before),
            other => panic!("{other:?}"),
        }
    }
}

fn follow_by_closure(mut subscription: Subscription) {
    while subscription.position() < EVENTS {
        let mut next = subscription.position() + 1;
        assert!(subscription.wait(Duration::MAX).unwrap());
        let each = |message: MessageRef<'_>| {
            let MessageRef::Event(event) = message else { panic!("{message:?}") };
            assert_eq!(event.position().get(), next);
            next += 1;
            std::ops::ControlFlow::<()>::Continue(())
        };
        subscription.for_each_ready(each).unwrap();
    }
}

fn subscribe(store: &Store, view: View) -> Subscription {
    store.reader_in(view).subscribe(&Query::all(), Seek::Beginning).unwrap()
}

#[test]
fn subscribers_of_both_views_see_every_event_of_a_durable_store() {
    explore("durable store", || {
        let store = open(Durability::Durable);
        let readers = [
            thread::spawn({
                let subscription = subscribe(&store, View::Durable);
                move || follow(subscription)
            }),
            thread::spawn({
                let subscription = subscribe(&store, View::Written);
                move || follow_by_closure(subscription)
            }),
        ];
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let store = store.clone();
                thread::spawn(move || (0..EVENTS / 2).for_each(|_| append(&store, Durability::Durable)))
            })
            .collect();
        writers.into_iter().chain(readers).for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn subscribers_of_a_buffered_store_beside_one_who_syncs() {
    explore("buffered store", || {
        let store = open(Durability::Buffered);
        let readers = [View::Written, View::Durable].map(|view| {
            let subscription = subscribe(&store, view);
            thread::spawn(move || follow(subscription))
        });
        let syncer = thread::spawn({
            let store = store.clone();
            move || {
                store.sync().unwrap();
            }
        });
        (0..EVENTS).for_each(|_| append(&store, Durability::Buffered));
        store.sync().unwrap();
        syncer.join().unwrap();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn a_close_wakes_whoever_waits() {
    explore("close", || {
        let store = open(Durability::Buffered);
        let readers = [View::Written, View::Durable].map(|view| {
            let mut subscription = subscribe(&store, view);
            thread::spawn(move || {
                let mut before = 0;
                for message in &mut subscription {
                    if let Message::Event(event) = message.unwrap() {
                        assert_eq!(event.position().get(), before + 1);
                        before += 1;
                    }
                }
                assert!(subscription.has_ended());
            })
        });
        append(&store, Durability::Buffered);
        append(&store, Durability::Durable);
        store.close().unwrap();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}
