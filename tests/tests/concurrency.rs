//! Many threads at one store: racers for one boundary, readers of every form beside a writer at full speed, openings
//! for reading beside it. Small segments and a small ring, so that reading, flushing and rolling all race.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use annals::{
    Batch, Durability, Error, Event, EventRef, Expect, Lookup, NewEvent, Options, Position, Query, QueryItem, ReadMode,
    Reader, Revision, Seek, Store, StreamState, View,
};
use annals_tests::model::{Ground, on_each_ground, repetitions, seed};
use annals_tests::sim_disk::Dice;

const RACERS: usize = 16;

fn small() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10)
}

/// Does `work` on so many threads at once, and waits for each: the end of a scope alone is nothing that ThreadSanitizer sees.
fn on_threads(count: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// Sixteen threads do `attempt` at once, round after round; exactly one succeeds each time.
fn race(store: &Store, rounds: u64, attempt: impl Fn(&Store, u64, usize) -> annals::Result<annals::Receipt> + Sync) {
    let barrier = Barrier::new(RACERS);
    let winners: Vec<AtomicU64> = (0..rounds).map(|_| AtomicU64::new(0)).collect();
    on_threads(RACERS, |racer| {
        for round in 0..rounds {
            barrier.wait();
            match attempt(store, round, racer) {
                Ok(_) => {
                    winners[round as usize].fetch_add(1, Ordering::Relaxed);
                }
                Err(Error::Conflict(conflict)) => {
                    assert!(store.head() >= conflict.head, "what refused is shown");
                }
                Err(error) => panic!("round {round}: {error}"),
            }
        }
    });
    let counts: Vec<u64> = winners.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert!(counts.iter().all(|count| *count == 1), "winners per round: {counts:?}");
}

#[test]
fn sixteen_racers_on_one_expectation_one_wins_each_round() {
    let rounds = repetitions("ANNALS_ROUNDS", 500, 10_000);
    on_each_ground(|ground| {
        let store = ground.open(small());
        race(&store, rounds, |store, round, racer| {
            let text = format!("{round} {racer}");
            store.append("boundary", Expect::revision(round), &[NewEvent::new("T", &text)])
        });
        assert_eq!(store.stream_state("boundary").unwrap().last(), Revision::new(rounds));
        for (round, event) in store.read_stream("boundary", Seek::Beginning).unwrap().enumerate() {
            assert!(event.unwrap().payload().starts_with(format!("{round} ").as_bytes()));
        }
    });
}

#[test]
fn sixteen_racers_on_one_condition_one_wins_each_round() {
    let rounds = repetitions("ANNALS_ROUNDS", 500, 10_000);
    on_each_ground(|ground| {
        let store = ground.open(small().durability(Durability::Buffered));
        race(&store, rounds, |store, round, racer| {
            let (tag, stream) = (format!("seat:{round}"), format!("racer-{racer}"));
            let tags = [tag.as_str()];
            let batch = Batch::new().condition(Query::tag(tag.as_str()), None);
            store.commit(&batch.event(&stream, NewEvent::new("Taken", b"").tags(&tags)))
        });
        assert_eq!(store.count(&Query::event_type("Taken")).unwrap(), rounds);
    });
}

#[test]
fn racers_with_the_same_ids_store_them_once() {
    let ground = Ground::disk();
    let store = ground.open(small());
    let rounds = 200;
    let barrier = Barrier::new(RACERS);
    on_threads(RACERS, |_| {
        for round in 0..rounds {
            barrier.wait();
            let events = [NewEvent::new("T", b"").id(2 * round + 1), NewEvent::new("T", b"").id(2 * round + 2)];
            let receipt = store.append("s", Expect::Any, &events).unwrap();
            assert_eq!(receipt.position().get(), 2 * round as u64 + 2);
        }
    });
    assert_eq!(store.head(), 2 * rounds as u64);
}

/// What the writer below puts at each position, so that any reader can tell whether an event is whole and right.
struct Script {
    seed: u64,
}

impl Script {
    /// Number of events of the batch that begins at `first`.
    fn batch_len(&self, first: u64) -> u64 {
        let mut dice = Dice::of(self.seed, first);
        if dice.chance(1, 4) { 1 + dice.below(12) } else { 1 }
    }

    fn stream(position: u64) -> String {
        format!("stream-{}", position % 7)
    }

    fn payload(&self, position: u64) -> Vec<u8> {
        let mut dice = Dice::of(self.seed, position.rotate_left(20));
        let len = match dice.below(400) {
            0 => 33_000 + dice.below(40_000),
            1..20 => dice.below(6000),
            _ => dice.below(300),
        };
        (0..len).map(|n| (position.wrapping_mul(31).wrapping_add(n)) as u8).collect()
    }

    #[track_caller]
    fn check(&self, event: EventRef<'_>) {
        let position = event.position().get();
        assert_eq!(event.stream(), Self::stream(position), "{position}");
        assert!(event.payload() == self.payload(position), "payload of {position}");
        assert_eq!(event.metadata(), position.to_le_bytes(), "{position}");
        assert_eq!(event.id(), u128::from(position).into(), "{position}");
        let first = event.batch_first().get();
        assert_eq!(u64::from(event.batch_len()), self.batch_len(first), "{position}");
    }

    fn append(&self, store: &Store, first: u64, durability: Durability) -> u64 {
        let count = self.batch_len(first);
        let rows: Vec<_> = (first..first + count)
            .map(|p| (Self::stream(p), self.payload(p), p.to_le_bytes(), u128::from(p)))
            .collect();
        let mut batch = Batch::new().durability(durability);
        for (stream, payload, metadata, id) in &rows {
            batch.push(stream, NewEvent::new("T", payload).metadata(metadata).id(*id).tags(&["even-or-odd"]));
        }
        assert_eq!(store.commit(&batch).unwrap().first().position.get(), first);
        first + count
    }
}

/// Reads again and again in one way until the writer is done, checking every event and that none is missing.
fn follow(reader: &Reader, script: &Script, form: usize, done: &AtomicBool) -> u64 {
    let mut next = 1;
    let mut dice = Dice::of(script.seed, form as u64);
    let mut reads = 0;
    loop {
        let is_last = done.load(Ordering::Acquire);
        reads += 1;
        match form {
            // The events since the last time, by handle and by reference, by walking and by index.
            0 => {
                for event in reader.read_all(&Query::all(), Seek::At(next)).unwrap() {
                    let event = event.unwrap();
                    assert_eq!(event.position().get(), next);
                    script.check(event.as_event_ref());
                    next += 1;
                }
            }
            1 => {
                let read = reader.read_all(&Query::all(), Seek::At(next)).unwrap();
                let head = read.head();
                read.for_each_event(|event| {
                    assert_eq!(event.position().get(), next);
                    script.check(event);
                    next += 1;
                    ControlFlow::<()>::Continue(())
                })
                .unwrap();
                assert_eq!(next, head + 1, "up to the pinned head");
            }
            2 => {
                let query = Query::item(QueryItem::new().tags_all(["even-or-odd"]).types(["T"]));
                for event in reader.read_all(&query, Seek::At(next)).unwrap() {
                    let event = event.unwrap();
                    assert_eq!(event.position().get(), next);
                    script.check(event.as_event_ref());
                    next += 1;
                }
            }
            // The newest ones, backwards.
            3 => {
                let read = reader.read_all_back(&Query::all(), Seek::End).unwrap();
                let mut expected = read.head();
                assert!(expected + 1 >= next, "the head never falls");
                next = expected + 1;
                for event in read.take(50) {
                    let event = event.unwrap();
                    assert_eq!(event.position().get(), expected);
                    script.check(event.as_event_ref());
                    expected -= 1;
                }
            }
            4 => {
                let stream = Script::stream(3);
                let read = reader.read_stream(&stream, Seek::At(next)).unwrap();
                let last = read.state().and_then(|state| state.last()).map_or(0, Revision::get);
                for event in read {
                    let event = event.unwrap();
                    assert_eq!(event.revision().get(), next);
                    assert_eq!(event.position().get(), 3 + (next - 1) * 7);
                    script.check(event.as_event_ref());
                    next += 1;
                }
                assert_eq!(next, last + 1);
            }
            5 => {
                let stream = Script::stream(5);
                let read = reader.read_stream_back(&stream, Seek::End).unwrap();
                let mut expected = read.state().and_then(|state| state.last()).map_or(0, Revision::get);
                for event in read.take(20) {
                    let event = event.unwrap();
                    assert_eq!(event.revision().get(), expected);
                    script.check(event.as_event_ref());
                    expected -= 1;
                }
            }
            // Single events, old and new.
            6 => {
                let head = reader.head();
                if head > 0 {
                    let newest = if dice.chance(1, 2) { head } else { 1 + dice.below(head) };
                    let event = reader.at(Position::new(newest).unwrap()).unwrap().expect("an event");
                    script.check(event.as_event_ref());
                    let Lookup::Found(event) = reader.by_id(u128::from(newest).into()).unwrap() else {
                        panic!("id {newest} of {head}")
                    };
                    assert_eq!(event.position().get(), newest);
                    script.check(event.as_event_ref());
                }
            }
            _ => {
                let head = reader.head();
                let listed = reader.streams("stream-").unwrap();
                assert!(listed.len() as u64 >= head.min(7));
                assert!(reader.count(&Query::stream(Script::stream(1))).unwrap() >= head / 7);
                let last = reader.last(&Query::event_type("T")).unwrap();
                assert!(last.as_ref().map_or(0, |event| event.position().get()) >= head);
                if head > 0 {
                    assert!(matches!(reader.stream_state("stream-1").unwrap(), StreamState::Live { .. }));
                    assert!(reader.types().unwrap()[0].count >= head);
                }
            }
        }
        if is_last {
            return reads;
        }
    }
}

fn readers_beside_a_writer(ground: &Ground, options: Options, view: View, durability: Durability) {
    let script = Script { seed: seed() };
    let store = ground.open(options);
    let done = AtomicBool::new(false);
    let time = Duration::from_millis(repetitions("ANNALS_MILLISECONDS", 1200, 30_000));
    let mut first = 1;
    let kept: Mutex<Vec<Event>> = Mutex::default();
    std::thread::scope(|scope| {
        let followers: Vec<_> = (0..8)
            .map(|form| {
                let (reader, script, done) = (store.reader_in(view), &script, &done);
                scope.spawn(move || follow(&reader, script, form, done))
            })
            .collect();
        // Handles kept for long do not change under the ring's turns.
        let keeper = scope.spawn(|| {
            let reader = store.reader_in(view);
            while !done.load(Ordering::Acquire) {
                if let Some(position) = Position::new(reader.head()) {
                    kept.lock().unwrap().push(reader.at(position).unwrap().unwrap());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let begun = Instant::now();
        // On a slow machine as well until segments have rolled.
        while begun.elapsed() < time || store.stats().segments <= 5 {
            first = script.append(&store, first, durability);
        }
        store.sync().unwrap();
        done.store(true, Ordering::Release);
        keeper.join().unwrap();
        let reads: Vec<u64> = followers.into_iter().map(|follower| follower.join().unwrap()).collect();
        println!("{} events, {} segments, reads by form: {reads:?}", first - 1, store.stats().segments);
    });
    for event in kept.into_inner().unwrap() {
        script.check(event.as_event_ref());
    }
    assert_eq!(follow(&store.reader_in(view), &script, 1, &AtomicBool::new(true)), 1);
}

#[test]
fn readers_of_the_written_view_beside_a_writer_at_full_speed() {
    on_each_ground(|ground| {
        readers_beside_a_writer(ground, small().durability(Durability::Buffered), View::Written, Durability::Buffered);
    });
}

#[test]
fn readers_of_the_durable_view_beside_a_writer_at_full_speed() {
    let ground = Ground::disk();
    let options = small().sync_interval(Duration::from_millis(5));
    readers_beside_a_writer(&ground, options, View::Durable, Durability::Buffered);
}

#[test]
fn readers_of_the_durable_view_beside_durable_appends() {
    readers_beside_a_writer(&Ground::memory(), small(), View::Durable, Durability::Durable);
}

#[test]
fn readers_by_ordinary_calls_beside_a_writer_at_full_speed() {
    let options = small().durability(Durability::Buffered).read_mode(ReadMode::Pread);
    readers_beside_a_writer(&Ground::disk(), options, View::Written, Durability::Buffered);
}

#[test]
fn openings_for_reading_beside_a_running_writer_show_a_true_prefix() {
    on_each_ground(|ground| {
        let script = Script { seed: seed() };
        let store = ground.open(small().durability(Durability::Buffered).sync_interval(Duration::from_millis(5)));
        let done = AtomicBool::new(false);
        let written = Arc::new(AtomicU64::new(0));
        let time = Duration::from_millis(repetitions("ANNALS_MILLISECONDS", 1500, 30_000));
        std::thread::scope(|scope| {
            let looker = scope.spawn(|| {
                let mut looks = 0;
                let mut kept: Option<annals::ReadOnly> = None;
                let mut shown = 0;
                while !done.load(Ordering::Acquire) {
                    let acknowledged = written.load(Ordering::Acquire);
                    let durable_before = store.reader_in(View::Durable).head();
                    match &mut kept {
                        Some(open) if looks % 3 != 0 => open.refresh().unwrap(),
                        _ => kept = Some(ground.open_read_only(Options::new())),
                    }
                    let open = kept.as_ref().unwrap();
                    let (reader, durable) = (open.reader_in(View::Written), open.reader_in(View::Durable));
                    assert!(reader.head() >= acknowledged, "{} shown of {acknowledged} acknowledged", reader.head());
                    assert!(durable.head() >= durable_before && durable.head() <= reader.head());
                    assert!(durable.head() >= shown, "what was durable stays");
                    shown = durable.head();
                    for reader in [&reader, &durable] {
                        follow(reader, &script, 0, &AtomicBool::new(true));
                        follow(reader, &script, 3, &AtomicBool::new(true));
                        follow(reader, &script, 4, &AtomicBool::new(true));
                    }
                    looks += 1;
                }
                looks
            });
            let begun = Instant::now();
            let mut first = 1;
            while begun.elapsed() < time {
                first = script.append(&store, first, Durability::Buffered);
                written.store(first - 1, Ordering::Release);
                // So that looking, which reads the store whole, keeps up a little.
                if first % 16 == 0 {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
            done.store(true, Ordering::Release);
            let looks = looker.join().unwrap();
            println!("{} events, {} segments, {looks} looks", first - 1, store.stats().segments);
            assert!(looks > 2 && store.stats().segments > 3);
        });
    });
}

#[test]
fn many_writers_and_tickets_leave_a_dense_log() {
    on_each_ground(|ground| {
        let store = ground.open(small().in_flight_bytes(32 << 10));
        let (threads, each) = (8, 300u64);
        on_threads(threads as usize, |thread| {
            let stream = format!("w-{thread}");
            let mut dice = Dice::new(thread as u64);
            let mut tickets = Vec::new();
            for n in 0..each {
                let text = format!("{n} {}", "x".repeat(dice.below(900) as usize));
                let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
                let batch = Batch::new().durability(durability).event(&stream, NewEvent::new("T", &text));
                let batch = batch.expect(&stream, Expect::revision(n));
                match dice.below(3) {
                    0 => drop(store.commit(&batch).unwrap()),
                    1 => tickets.push(store.submit(&batch).unwrap()),
                    _ => drop(store.submit(&batch).unwrap()),
                }
                if dice.chance(1, 10) {
                    for ticket in tickets.drain(..) {
                        ticket.wait().unwrap();
                    }
                }
            }
        });
        store.sync().unwrap();
        assert_eq!(store.head(), threads * each);
        for thread in 0..threads {
            let read = store.read_stream(&format!("w-{thread}"), Seek::Beginning).unwrap();
            for (n, event) in read.enumerate() {
                assert!(event.unwrap().payload().starts_with(format!("{n} ").as_bytes()));
            }
        }
        let times: Vec<u64> =
            store.read_all(&Query::all(), Seek::Beginning).unwrap().map(|event| event.unwrap().recorded_at()).collect();
        assert!(times.is_sorted());
    });
}
