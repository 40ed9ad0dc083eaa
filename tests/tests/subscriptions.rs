//! Subscriptions: each matching event once and in order, whatever rolls, flushes and syncs meanwhile; where they begin, how
//! they wait, resume and end.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals::{
    Batch, Durability, Error, Event, Expect, Message, MessageRef, NewEvent, Next, Options, Query, QueryItem, ReadMode,
    Seek, Store, Subscription, View,
};
use annals_tests::model::{Ground, ManualClock, on_each_ground, repetitions, seed};
use annals_tests::sim_disk::{Dice, FaultKind, Repeat, SimDisk};

/// Long enough for everything that must come, and a failure when it has passed.
const LONG: Duration = Duration::from_secs(60);

/// Rolls every few hundred events, flushes every few dozen.
fn small(durability: Durability) -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).durability(durability)
}

const BOTH: [Durability; 2] = [Durability::Durable, Durability::Buffered];

fn append(store: &Store, stream: &str, count: usize) {
    let events: Vec<_> = (0..count).map(|_| NewEvent::new("T", b"some payload").tags(&["t"])).collect();
    store.append(stream, Expect::Any, &events).unwrap();
}

/// All that is there now: positions of events.
fn drain(subscription: &mut Subscription) -> Vec<u64> {
    let mut found = Vec::new();
    loop {
        match subscription.try_next().unwrap() {
            Next::Message(Message::Event(event)) => found.push(event.position().get()),
            Next::Message(Message::CaughtUp { head }) => assert_eq!(head, (*subscription).position()),
            Next::Message(other) => panic!("{other:?}"),
            Next::NotYet => return found,
            Next::Ended => panic!("ended"),
        }
    }
}

fn event_within(subscription: &mut Subscription, timeout: Duration) -> Option<Event> {
    let deadline = Instant::now() + timeout;
    loop {
        match subscription.next_within(deadline.saturating_duration_since(Instant::now())).unwrap() {
            Next::Message(Message::Event(event)) => return Some(event),
            Next::Message(_) => {}
            Next::NotYet | Next::Ended => return None,
        }
    }
}

fn positions(store: &Store, query: &Query, seek: Seek) -> Vec<u64> {
    store.read_all(query, seek).unwrap().map(|event| event.unwrap().position().get()).collect()
}

#[test]
fn what_is_there_and_what_comes_is_one_sequence() {
    for durability in BOTH {
        on_each_ground(|ground| {
            let store = ground.open(small(durability));
            append(&store, "a", 3);
            let mut subscription = store.subscribe(&Query::all(), Seek::Beginning).unwrap();
            assert_eq!(drain(&mut subscription), [1, 2, 3]);
            for round in 0..1000 {
                let head = store.head();
                append(&store, "a", 1 + round % 3);
                let came: Vec<u64> = (head + 1..=store.head()).collect();
                assert_eq!(drain(&mut subscription), came);
            }
            assert!(store.stats().segments > 2, "it rolled: {}", store.stats().segments);
        });
    }
}

/// Far behind it goes by the index where few events match and along the log where most do, and changes over as often as it
/// comes to the other. Whichever way, with removed events on it, what is handed out is the same.
#[test]
fn dense_and_sparse_stretches_are_one_sequence() {
    let mut dice = Dice::new(seed());
    let store = Ground::memory().open(small(Durability::Buffered));
    let streams = ["a", "b", "c", "d"];
    // Of each event: its position, its stream, and whether it matches.
    let mut log = Vec::new();
    for stretch in 0..12 {
        let one_in = [1, 200, 2, 30, 3, 5000][stretch % 6];
        for _ in 0..20 + dice.below(20) {
            let stream = streams[dice.index(streams.len())];
            let matching: Vec<bool> = (0..100).map(|_| dice.below(one_in) == 0).collect();
            let tags = |matches: &bool| if *matches { &["t"][..] } else { &[] };
            let events: Vec<_> =
                matching.iter().map(|matches| NewEvent::new("T", b"some payload").tags(tags(matches))).collect();
            store.append(stream, Expect::Any, &events).unwrap();
            let first = store.head() - 99;
            log.extend((first..).zip(matching).map(|(position, matches)| (position, stream, matches)));
        }
    }
    for gone in [&[][..], &["b"], &["b", "d"]] {
        for stream in gone {
            store.delete(stream, Expect::Any).unwrap();
        }
        let matches = log.iter().filter(|(.., matches)| *matches);
        let (hidden, seen): (Vec<&(u64, &str, bool)>, Vec<_>) = matches.partition(|event| gone.contains(&event.1));
        let seen: Vec<u64> = seen.iter().map(|event| event.0).collect();
        for breaks_after in [0u64, 1, 700] {
            let mut subscription = store.subscribe(&Query::tag("t"), Seek::Beginning).unwrap();
            let (mut found, mut gaps) = (Vec::new(), Vec::new());
            loop {
                let mut left = breaks_after;
                let broken = subscription.for_each_ready(|next| {
                    match next {
                        MessageRef::Event(event) => found.push(event.position().get()),
                        MessageRef::Gap { first, last, .. } => gaps.push(first.get()..=last.get()),
                        other => panic!("{other:?}"),
                    }
                    left = left.wrapping_sub(1);
                    if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                // What was left is taken one by one for a while.
                for _ in 0..breaks_after {
                    match subscription.try_next().unwrap() {
                        Next::Message(Message::Event(event)) => found.push(event.position().get()),
                        Next::Message(Message::Gap { first, last, .. }) => gaps.push(first.get()..=last.get()),
                        _ => {}
                    }
                }
                if broken.unwrap().is_none() {
                    break;
                }
            }
            assert!(found == seen, "ANNALS_SEED={}: without {gone:?}, breaking after {breaks_after}", seed());
            assert!(gaps.is_sorted_by(|a, b| a.end() < b.start()), "gaps in order: {gaps:?}");
            let is_told = |position: &u64| {
                let gap = gaps.partition_point(|gap| gap.end() < position);
                gaps.get(gap).is_some_and(|gap| gap.contains(position))
            };
            assert!(hidden.iter().all(|event| is_told(&event.0)), "every removal is told");
            assert!(!seen.iter().any(is_told), "nothing that is there is told as removed");
        }
    }
}

#[test]
fn it_is_told_that_everything_was_handed_out_once_each_time() {
    let store = Store::in_memory().unwrap();
    let mut subscription = store.subscribe(&Query::stream("a"), Seek::Beginning).unwrap();
    let mut next = || format!("{:?}", subscription.try_next().unwrap());
    assert_eq!(next(), "Message(CaughtUp { head: 0 })");
    assert_eq!(next(), "NotYet");
    append(&store, "b", 2);
    // Nothing that matches: nothing to tell.
    assert_eq!(next(), "NotYet");
    append(&store, "a", 2);
    assert!(next().starts_with("Message(Event"));
    assert!(next().starts_with("Message(Event"));
    assert_eq!(next(), "Message(CaughtUp { head: 4 })");
    assert_eq!(next(), "NotYet");
    assert_eq!(subscription.position(), 4);
}

/// Many queries at once, beside writers at full speed.
#[test]
fn many_subscribers_beside_writers_see_what_a_read_sees() {
    let events = repetitions("ANNALS_EVENTS", 20_000, 2_000_000) as usize;
    for durability in BOTH {
        for mode in [ReadMode::Mapped, ReadMode::Pread] {
            let ground = Ground::disk();
            let store = ground.open(small(durability).read_mode(mode));
            let item = || QueryItem::new();
            let queries = [
                Query::all(),
                Query::stream("s-1"),
                Query::prefix("s-"),
                Query::item(item().types(["T"]).tags_all(["even"])),
                Query::item(item().streams(["s-2"])).or(item().tags_any(["seven", "eleven"])),
                Query::tag("nobody"),
            ];
            let seen = std::thread::scope(|scope| {
                let readers: Vec<_> = queries
                    .iter()
                    .flat_map(|query| [(query, true), (query, false)])
                    .map(|(query, borrowed)| {
                        let mut subscription = store.subscribe(query, Seek::Beginning).unwrap();
                        scope.spawn(move || (query, follow(&mut subscription, events as u64, borrowed)))
                    })
                    .collect();
                let store = &store;
                let writers = [0, 1].map(|writer| scope.spawn(move || write(store, writer, events / 2)));
                writers.into_iter().for_each(|writer| writer.join().unwrap());
                readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
            });
            for (query, seen) in seen {
                let right = positions(&store, query, Seek::Beginning);
                let differ = seen.iter().zip(&right).position(|(seen, right)| seen != right);
                let around =
                    |list: &[u64]| differ.map(|at| list[at.saturating_sub(2)..list.len().min(at + 3)].to_vec());
                assert_eq!(
                    (seen.len(), around(&seen)),
                    (right.len(), around(&right)),
                    "{durability:?} {mode:?} {query:?}"
                );
            }
            assert!(store.stats().segments > 5);
        }
    }
}

fn write(store: &Store, writer: usize, count: usize) {
    let mut written = 0;
    let mut tickets = Vec::new();
    while written < count {
        let len = (1 + written % 7).min(count - written);
        let mut batch = Batch::new();
        let stream = format!("s-{}", written % 5);
        for n in written..written + len {
            let tags: &[&str] = match n {
                n if n % 77 == 0 => &["seven", "eleven"],
                n if n % 7 == 0 => &["seven"],
                n if n % 2 == 0 => &["even"],
                _ => &[],
            };
            batch.push(&stream, NewEvent::new(["T", "U", "V"][n % 3], b"payload").tags(tags));
        }
        tickets.push(store.submit(&batch).unwrap());
        written += len;
        // Bursts, with pauses in which readers catch up and fall asleep.
        if tickets.len() == 50 {
            tickets.drain(..).for_each(|ticket| drop(ticket.wait().unwrap()));
            if written % 3 == writer {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
}

/// Positions handed out until the head is `last`.
fn follow(subscription: &mut Subscription, last: u64, borrowed: bool) -> Vec<u64> {
    let mut seen = Vec::new();
    let deadline = Instant::now() + LONG;
    while (*subscription).position() < last {
        assert!(Instant::now() < deadline, "nothing comes behind {}", (*subscription).position());
        if borrowed {
            if subscription.wait(Duration::from_millis(200)).unwrap() {
                subscription.for_each_ready(|next| note(&mut seen, next)).unwrap();
            }
            continue;
        }
        match subscription.next_within(Duration::from_millis(200)).unwrap() {
            Next::Message(Message::Event(event)) => seen.push(event.position().get()),
            Next::Message(_) | Next::NotYet => {}
            Next::Ended => panic!("ended"),
        }
    }
    seen
}

fn note(seen: &mut Vec<u64>, next: MessageRef<'_>) -> ControlFlow<()> {
    match next {
        MessageRef::Event(event) => seen.push(event.position().get()),
        other => panic!("{other:?}"),
    }
    ControlFlow::Continue(())
}

#[test]
fn a_hundred_subscribers_of_one_store_each_see_everything() {
    let store = Ground::memory().open(small(Durability::Buffered));
    let mut subscriptions: Vec<_> =
        (0..100).map(|_| store.subscribe(&Query::all(), Seek::Beginning).unwrap()).collect();
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            subscriptions.iter_mut().map(|each| scope.spawn(move || follow(each, 3000, false))).collect();
        for _ in 0..300 {
            append(&store, "a", 10);
        }
        for reader in readers {
            assert_eq!(reader.join().unwrap(), (1..=3000).collect::<Vec<u64>>());
        }
    });
}

#[test]
fn it_begins_where_a_read_begins() {
    let clock = ManualClock::at(100);
    let store = Ground::memory().open(small(Durability::Buffered).clock(Arc::new(clock.clone())));
    for time in [100, 100, 200, 300, 300] {
        clock.set(time);
        append(&store, "a", 1);
    }
    let begin = |seek| store.subscribe(&Query::all(), seek);
    for seek in [
        Seek::Beginning,
        Seek::After(0),
        Seek::At(0),
        Seek::At(1),
        Seek::After(2),
        Seek::At(4),
        Seek::After(5),
        Seek::At(6),
        Seek::Time(0),
        Seek::Time(150),
        Seek::Time(200),
        Seek::Time(300),
        Seek::Time(301),
        Seek::End,
    ] {
        let found = drain(&mut begin(seek).unwrap());
        assert_eq!(found, positions(&store, &Query::all(), seek), "{seek:?}");
    }
    for seek in [Seek::After(6), Seek::At(7), Seek::After(u64::MAX), Seek::At(u64::MAX)] {
        assert!(matches!(begin(seek), Err(Error::AheadOfLog { head: 5, .. })), "{seek:?}");
    }
    // What comes: behind the end, and from a time that nothing has yet.
    let mut from_end = begin(Seek::End).unwrap();
    let mut from_time = begin(Seek::Time(500)).unwrap();
    let mut by_closure = begin(Seek::Time(500)).unwrap();
    for time in [400, 499, 500, 600] {
        clock.set(time);
        append(&store, "a", 1);
    }
    assert_eq!(drain(&mut from_end), [6, 7, 8, 9]);
    assert_eq!(drain(&mut from_time), [8, 9]);
    let mut seen = Vec::new();
    by_closure.for_each_ready(|next| note(&mut seen, next)).unwrap();
    assert_eq!(seen, [8, 9]);
    assert!(matches!(store.subscribe(&Query::item(QueryItem::new()), Seek::End), Err(Error::Invalid(_))));
}

#[test]
fn another_goes_on_where_one_stopped() {
    let ground = Ground::disk();
    let store = ground.open(small(Durability::Buffered));
    let mut dice = Dice::new(seed());
    for n in 0..3000 {
        append(&store, ["a", "b", "c"][n % 3], 1 + n % 2);
    }
    for query in [Query::all(), Query::stream("b"), Query::tag("t"), Query::tag("nobody")] {
        let mut seen = Vec::new();
        let mut position = 0;
        while position < store.head() {
            let mut subscription = store.subscribe(&query, Seek::After(position)).unwrap();
            let (mut left, borrowed) = (dice.below(400), dice.chance(1, 2));
            while left > 0 && subscription.position() < store.head() {
                left -= 1;
                if borrowed {
                    let one = subscription.for_each_ready(|next| match next {
                        MessageRef::Event(event) => ControlFlow::Break(event.position().get()),
                        other => panic!("{other:?}"),
                    });
                    seen.extend(one.unwrap());
                } else if let Next::Message(Message::Event(event)) = subscription.try_next().unwrap() {
                    assert_eq!(subscription.position(), event.position().get());
                    seen.push(event.position().get());
                }
            }
            position = subscription.position();
        }
        assert_eq!(seen, positions(&store, &query, Seek::Beginning), "{query:?}");
    }
}

#[test]
fn a_view_shows_what_it_shows_and_no_more() {
    let ground = Ground::disk();
    let store = ground.open(small(Durability::Durable).sync_interval(Duration::from_secs(1000)));
    let mut durable = store.subscribe(&Query::all(), Seek::Beginning).unwrap();
    let mut written = store.reader_in(View::Written).subscribe(&Query::all(), Seek::Beginning).unwrap();
    store.append_with("a", Expect::Any, &[NewEvent::new("T", b"")], Durability::Buffered).unwrap();
    assert_eq!(drain(&mut written), [1]);
    assert_eq!(drain(&mut durable), [0; 0]);
    assert_eq!(durable.position(), 0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| event_within(&mut durable, LONG).map(|event| event.position().get()));
        std::thread::sleep(Duration::from_millis(20));
        store.sync().unwrap();
        assert_eq!(waiting.join().unwrap(), Some(1));
    });
}

#[test]
fn it_waits_for_as_long_as_it_is_told() {
    for durability in BOTH {
        let store = Ground::memory().open(small(durability));
        let mut subscription = store.subscribe(&Query::all(), Seek::End).unwrap();
        assert!(matches!(subscription.next_within(Duration::ZERO).unwrap(), Next::Message(Message::CaughtUp { .. })));
        assert!(matches!(subscription.next_within(Duration::ZERO).unwrap(), Next::NotYet));
        assert!(!subscription.wait(Duration::ZERO).unwrap());
        let begun = Instant::now();
        assert!(matches!(subscription.next_within(Duration::from_millis(30)).unwrap(), Next::NotYet));
        assert!(!subscription.wait(Duration::from_millis(30)).unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(60), "{:?}", begun.elapsed());
        // Longer than any clock goes.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| event_within(&mut subscription, Duration::from_secs(1 << 40)));
            std::thread::sleep(Duration::from_millis(20));
            append(&store, "a", 1);
            assert_eq!(waiting.join().unwrap().map(|event| event.position().get()), Some(1));
        });
        append(&store, "a", 1);
        assert!(subscription.wait(Duration::ZERO).unwrap());
    }
}

/// Blocked or not, far behind or not: closing ends it at once, and a handle that goes closes too.
#[test]
fn closing_the_store_ends_it() {
    type Close = fn(Store);
    let ways: [Close; 2] = [|store| store.close().unwrap(), drop];
    for durability in BOTH {
        for close in ways {
            let ground = Ground::disk();
            let store = ground.open(small(durability));
            append(&store, "a", 50);
            let subscribe = |seek| store.subscribe(&Query::all(), seek).unwrap();
            let (mut behind, mut waiting, mut by_loop) =
                (subscribe(Seek::Beginning), subscribe(Seek::End), subscribe(Seek::End));
            let mut by_closure = subscribe(Seek::Beginning);
            assert!(matches!(behind.try_next().unwrap(), Next::Message(Message::Event(_))));
            let mut count = 0;
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    assert!(matches!(waiting.next_within(LONG).unwrap(), Next::Message(Message::CaughtUp { .. })));
                    assert!(matches!(waiting.next_within(LONG).unwrap(), Next::Ended));
                });
                let looper = scope.spawn(|| by_loop.iter().count());
                std::thread::sleep(Duration::from_millis(20));
                close(store);
                waiter.join().unwrap();
                assert_eq!(looper.join().unwrap(), 1, "that it had caught up");
            });
            assert!(matches!(behind.try_next().unwrap(), Next::Ended));
            assert_eq!(behind.position(), 1);
            by_closure
                .for_each_ready(|_| {
                    let _: () = count += 1;
                    ControlFlow::<()>::Continue(())
                })
                .unwrap();
            assert_eq!(count, 0);
            for mut ended in [behind, waiting, by_loop, by_closure] {
                assert!(ended.has_ended());
                assert!(ended.wait(LONG).unwrap());
                assert!(matches!(ended.next_within(LONG).unwrap(), Next::Ended));
                assert!(ended.next_message().unwrap().is_none());
            }
        }
    }
}

#[test]
fn a_subscription_that_is_dropped_leaves_the_others_alone() {
    let store = Ground::memory().open(small(Durability::Buffered));
    let mut kept = store.subscribe(&Query::all(), Seek::Beginning).unwrap();
    for n in 1..=100 {
        let mut dropped = store.subscribe(&Query::all(), Seek::End).unwrap();
        assert!(matches!(dropped.next_within(Duration::from_micros(50)).unwrap(), Next::Message(_)));
        let _ = dropped.next_within(Duration::from_micros(50)).unwrap();
        drop(dropped);
        append(&store, "a", 1);
        assert_eq!(event_within(&mut kept, LONG).unwrap().position().get(), n);
    }
}

/// What is durable is handed out, then the failure, then nothing, for ever (R19).
#[test]
fn a_failed_writer_ends_it_with_the_error_behind_all_that_is_durable() {
    for view in [View::Durable, View::Written] {
        let disk = SimDisk::new();
        let options = Options::new().background(false).segment_bytes_max(64 << 10);
        let store = options.open_storage(Arc::new(disk.clone())).unwrap();
        append(&store, "a", 3);
        let mut behind = store.reader_in(view).subscribe(&Query::all(), Seek::Beginning).unwrap();
        let mut waiting = store.reader_in(view).subscribe(&Query::all(), Seek::End).unwrap();
        let mut by_closure = store.reader_in(view).subscribe(&Query::all(), Seek::Beginning).unwrap();
        assert!(matches!(waiting.try_next().unwrap(), Next::Message(Message::CaughtUp { .. })));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                // The written view may show the batch before it fails.
                let mut next = waiting.next_within(LONG);
                while matches!(next, Ok(Next::Message(_))) {
                    next = waiting.next_within(LONG);
                }
                assert!(matches!(next, Err(Error::Poisoned { .. })), "{next:?}");
            });
            std::thread::sleep(Duration::from_millis(20));
            disk.fail_at(disk.steps(), FaultKind::SyncFail, Repeat::Forever);
            assert!(matches!(
                store.append("a", Expect::Any, &[NewEvent::new("T", b"")]),
                Err(Error::OutcomeUnknown { .. })
            ));
            waiter.join().unwrap();
        });
        for position in 1..=3 {
            let next = behind.try_next().unwrap();
            assert!(matches!(next, Next::Message(Message::Event(event)) if event.position().get() == position));
        }
        assert!(matches!(behind.next_message(), Err(Error::Poisoned { .. })));
        let mut count = 0;
        let run = by_closure.for_each_ready(|_| {
            let _: () = count += 1;
            ControlFlow::<()>::Continue(())
        });
        assert!(matches!(run, Err(Error::Poisoned { .. })));
        assert_eq!(count, 3);
        for mut ended in [behind, waiting, by_closure] {
            assert!(ended.has_ended());
            assert!(ended.next_message().unwrap().is_none());
            assert!(matches!(ended.next_within(LONG).unwrap(), Next::Ended));
        }
    }
}

/// An error of reading ends it; what stands behind the damage is never handed out (R19).
#[test]
fn damage_ends_it() {
    let disk = SimDisk::new();
    let options = || Options::new().background(false).segment_bytes_max(64 << 10).read_mode(ReadMode::Pread);
    let store = options().open_storage(Arc::new(disk.clone())).unwrap();
    let long = "x".repeat(9000);
    for _ in 0..40 {
        store.append("a", Expect::Any, &[NewEvent::new("T", &long)]).unwrap();
    }
    store.close().unwrap();
    let second = disk.files().into_keys().filter(|name| name.ends_with(".log")).nth(1).unwrap();
    assert!(disk.damage(&second, |bytes| bytes[20_000] ^= 1));
    let store = options().open_storage(Arc::new(disk)).unwrap();
    for query in [Query::all(), Query::stream("a")] {
        let mut subscription = store.subscribe(&query, Seek::Beginning).unwrap();
        let mut before = 0;
        let error = loop {
            match subscription.iter().next().unwrap() {
                Ok(Message::Event(event)) => {
                    assert_eq!(event.position().get(), before + 1);
                    before += 1;
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Corrupt(_)), "{error}");
        assert!(before > 5 && before < 20);
        assert!(subscription.iter().next().is_none());
        assert_eq!(subscription.position(), before);
    }
}

#[test]
fn what_follows_a_look_at_a_store_ends_with_it() {
    let ground = Ground::disk();
    let store = ground.open(small(Durability::Durable));
    append(&store, "a", 5);
    let look = ground.open_read_only(Options::new());
    append(&store, "a", 5);
    let subscription = look.reader().subscribe(&Query::all(), Seek::After(2)).unwrap();
    let told: Vec<String> = subscription
        .into_iter()
        .map(|next| match next.unwrap() {
            Message::Event(event) => event.position().to_string(),
            Message::CaughtUp { head } => format!("caught up at {head}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["3", "4", "5", "caught up at 5"]);
}

/// Events that are kept stay what they were, whatever the subscription reads after them.
#[test]
fn events_that_are_kept_do_not_change() {
    let ground = Ground::disk();
    let store = ground.open(small(Durability::Buffered));
    let mut subscription = store.subscribe(&Query::all(), Seek::Beginning).unwrap();
    let mut kept: Vec<Event> = Vec::new();
    for n in 0..3000u64 {
        store.append("a", Expect::Any, &[NewEvent::new("T", &n.to_le_bytes())]).unwrap();
        let event = event_within(&mut subscription, LONG).unwrap();
        if n % 3 == 0 {
            kept.push(event);
        }
    }
    for (event, n) in kept.iter().zip((0..).step_by(3)) {
        assert_eq!(event.payload(), u64::to_le_bytes(n));
        assert_eq!(event.position().get(), n + 1);
    }
}

/// A writer appends the next event when the last one was seen, so that both fall asleep all the time: a wake-up that is lost
/// would be one round that lasts for ever.
#[test]
fn no_wake_up_is_lost() {
    let rounds = repetitions("ANNALS_WAKE_UPS", 20_000, 1_000_000);
    for view in [View::Durable, View::Written] {
        // Without a disk a sync takes no time; without the notifier the append wakes by itself.
        for background in [true, false] {
            let store = Ground::memory().open(small(Durability::Buffered).background(background));
            let mut subscription = store.reader_in(view).subscribe(&Query::all(), Seek::Beginning).unwrap();
            let (seen, late) = (AtomicU64::new(0), AtomicBool::new(false));
            let rounds = rounds / 4;
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    for round in 1..=rounds {
                        let event = event_within(&mut subscription, LONG);
                        let Some(event) = event else {
                            late.store(true, Ordering::Relaxed);
                            panic!("round {round}: nothing came for {LONG:?}");
                        };
                        assert_eq!(event.position().get(), round);
                        seen.store(round, Ordering::Release);
                    }
                });
                let mut dice = Dice::new(seed());
                for round in 1..=rounds {
                    store.append("a", Expect::Any, &[NewEvent::new("T", b"")]).unwrap();
                    if view == View::Durable {
                        store.sync().unwrap();
                    }
                    while seen.load(Ordering::Acquire) < round && !late.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                        std::thread::yield_now();
                    }
                    // Now and then the reader is on its way to sleep, now and then it sleeps.
                    for _ in 0..dice.below(200) {
                        std::hint::spin_loop();
                    }
                }
                reader.join().unwrap();
            });
            println!("{view:?}, background {background}: {rounds} rounds, seed {}", seed());
        }
    }
}
