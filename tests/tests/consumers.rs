//! Consumers: what the contract says of them, sentence by sentence.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::{
    Batch, Checkpoint, Clock, Consumer, ConsumerOptions, Delivery, Durability, Error, EventId, Expect, Failed,
    NewEvent, Options, Position, Query, ReadOnly, Retry, Seek, Store, View,
};
use annals_tests::sim_disk::SimDisk;

const NOW: Duration = Duration::ZERO;
/// Longer than any of these tests; who waits so long has failed.
const LONG: Duration = Duration::from_secs(60);

fn small() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).background(false)
}

fn open(disk: &SimDisk) -> Store {
    small().open_storage(Arc::new(disk.clone())).unwrap()
}

fn read_only(disk: &SimDisk) -> ReadOnly {
    small().open_read_only_storage(Arc::new(disk.clone())).unwrap()
}

fn append(store: &Store, stream: &str, payload: &str) -> u64 {
    store.append(stream, Expect::Any, &[NewEvent::new("T", payload)]).unwrap().position().get()
}

fn all(store: &Store, name: &str) -> Consumer {
    store.consumer(name, ConsumerOptions::new()).unwrap()
}

/// Tried so often, and at once.
fn tried(times: u32) -> ConsumerOptions {
    ConsumerOptions::new().retry(Retry::times(times).pause(NOW, NOW))
}

/// Everything that is handed out now.
fn rest(consumer: &Consumer) -> Vec<Delivery> {
    std::iter::from_fn(|| consumer.next(NOW).unwrap()).collect()
}

fn positions(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.position().get()).collect()
}

fn at(position: u64) -> Position {
    Position::new(position).unwrap()
}

#[test]
fn what_is_not_acknowledged_is_handed_out_again_and_nothing_else() {
    let disk = SimDisk::new();
    let store = open(&disk);
    (0..5).for_each(|n| {
        append(&store, &format!("s-{n}"), "x");
    });
    let consumer = all(&store, "c");
    let given = rest(&consumer);
    assert_eq!(positions(&given), [1, 2, 3, 4, 5]);
    assert!(given.iter().all(|delivery| delivery.attempt() == 1 && delivery.event_type() == "T"));
    consumer.ack(&given[0]).unwrap();
    consumer.ack(&given[3]).unwrap();
    assert_eq!((consumer.checkpoint(), consumer.lag()), (1, 4));
    drop(consumer);
    let consumer = all(&store, "c");
    assert_eq!(positions(&rest(&consumer)), [2, 3, 5]);
    drop(consumer);
    store.close().unwrap();

    let store = open(&disk);
    assert!(store.recovery_report().clean);
    let consumer = all(&store, "c");
    let given = rest(&consumer);
    assert_eq!(positions(&given), [2, 3, 5]);
    consumer.ack_all(&given).unwrap();
    assert_eq!((consumer.checkpoint(), consumer.lag()), (5, 0));
    assert_eq!(consumer.next(NOW).unwrap().map(|given| given.position().get()), None);
    append(&store, "s", "later");
    assert_eq!(positions(&rest(&consumer)), [6]);
}

#[test]
fn acknowledgements_take_no_position_and_change_no_reading() {
    let store = open(&SimDisk::new());
    let consumer = all(&store, "c");
    let head = |store: &Store| store.reader_in(View::Written).head();
    for n in 1..=40 {
        assert_eq!(append(&store, "s", &"x".repeat(3000)), n);
        for delivery in rest(&consumer) {
            consumer.ack(&delivery).unwrap();
        }
        assert_eq!(head(&store), n, "acknowledging moves no head");
    }
    let read = |back| match back {
        false => store.read_all(&Query::all(), Seek::Beginning).unwrap(),
        true => store.read_all_back(&Query::all(), Seek::End).unwrap(),
    };
    let forward: Vec<u64> = read(false).map(|event| event.unwrap().position().get()).collect();
    let mut backward: Vec<u64> = read(true).map(|event| event.unwrap().position().get()).collect();
    backward.reverse();
    assert_eq!(forward, (1..=40).collect::<Vec<_>>());
    assert_eq!(backward, forward);
    let mut scanned = 0;
    read(false)
        .for_each_event(|_| {
            scanned += 1;
            std::ops::ControlFlow::<()>::Continue(())
        })
        .unwrap();
    assert_eq!(scanned, 40);
}

#[test]
fn a_consumer_is_open_once_and_each_opening_fences_the_one_before() {
    let store = Store::in_memory().unwrap();
    (0..3).for_each(|n| {
        append(&store, &format!("s-{n}"), "x");
    });
    let first = all(&store, "c");
    let busy = store.consumer("c", ConsumerOptions::new());
    assert!(matches!(busy, Err(Error::ConsumerBusy { consumer }) if consumer == "c"));
    assert!(matches!(store.remove_consumer("c"), Err(Error::ConsumerBusy { .. })));
    let _other = all(&store, "d");
    let given = rest(&first);
    let generation = first.generation();
    drop(first);

    let second = all(&store, "c");
    assert!(second.generation() > generation);
    for refused in [second.ack(&given[0]), store.commit(&Batch::new().acknowledge(&given[1])).map(|_| ())] {
        assert!(matches!(refused, Err(Error::Fenced { position: Some(_), .. })), "{refused:?}");
    }
    let third = store.consumer("c", ConsumerOptions::new().take_over(true)).unwrap();
    assert!(matches!(second.next(NOW), Err(Error::Fenced { position: None, .. })));
    assert!(matches!(second.reset(Seek::End), Err(Error::Fenced { .. })));
    drop(second);
    assert!(
        matches!(store.consumer("c", ConsumerOptions::new()), Err(Error::ConsumerBusy { .. })),
        "the third is open"
    );
    assert_eq!(positions(&rest(&third)), [1, 2, 3]);
}

#[test]
fn a_lane_keeps_a_consumer_open_and_a_delivery_does_not() {
    let store = Store::in_memory().unwrap();
    append(&store, "s", "x");
    let consumer = all(&store, "c");
    let delivery = consumer.next(NOW).unwrap().unwrap();
    let lanes = consumer.lanes();
    drop(consumer);
    assert!(matches!(store.consumer("c", ConsumerOptions::new()), Err(Error::ConsumerBusy { .. })));
    drop(lanes);
    // Nobody has opened it since: the answer still counts.
    let _ = store.commit(&Batch::new().acknowledge(&delivery)).unwrap();
    assert!(rest(&all(&store, "c")).is_empty());
}

#[test]
fn an_acknowledgement_in_a_batch_is_written_with_its_effects_or_not_at_all() {
    let disk = SimDisk::new();
    let store = open(&disk);
    append(&store, "in-1", "a");
    append(&store, "in-2", "b");
    let options = ConsumerOptions::new().query(Query::prefix("in-"));
    let consumer = store.consumer("c", options.clone()).unwrap();
    let given = rest(&consumer);

    let conflicting =
        Batch::new().acknowledge(&given[0]).expect("out", Expect::Exists).event("out", NewEvent::new("E", "a"));
    assert!(matches!(store.commit(&conflicting), Err(Error::Conflict(_))));
    assert_eq!(consumer.checkpoint(), 0);
    // Refused, it is still in hand.
    let batch = Batch::new().acknowledge(&given[0]).event("out", NewEvent::new("E", "a"));
    assert_eq!(store.commit(&batch).unwrap().position().get(), 3);
    assert_eq!(consumer.checkpoint(), 1);
    assert!(matches!(store.commit(&batch), Err(Error::Fenced { .. })), "it is finished");
    assert_eq!(store.head(), 3, "and nothing was written");
    // A guard alone, without an event.
    let guarded = Batch::new().expect("out", Expect::NoStream).acknowledge(&given[1]);
    assert!(matches!(store.commit(&guarded), Err(Error::Conflict(_))));
    let receipt = store.commit(&Batch::new().expect("out", Expect::Exists).acknowledge(&given[1])).unwrap();
    assert!(receipt.events().is_empty());
    assert!(matches!(store.commit(&Batch::new()), Err(Error::Empty)));
    drop(consumer);
    assert!(rest(&store.consumer("c", options).unwrap()).is_empty());
}

#[test]
fn effects_that_are_stored_already_are_acknowledged_by_their_retry() {
    let store = Store::in_memory().unwrap();
    append(&store, "in", "a");
    let consumer = store.consumer("c", ConsumerOptions::new().query(Query::stream("in"))).unwrap();
    let given = consumer.next(NOW).unwrap().unwrap();
    let effect = NewEvent::new("E", "a").id(EventId::from(7u128));
    store.append("out", Expect::Any, &[effect]).unwrap();
    let receipt = store.commit(&Batch::new().event("out", effect).acknowledge(&given)).unwrap();
    assert!(receipt.already_committed());
    assert!(consumer.next(NOW).unwrap().is_none());
    assert_eq!((consumer.checkpoint(), store.head()), (2, 2));
    // Once more, by somebody who did not hear the answer: the same answer.
    let again = store.commit(&Batch::new().event("out", effect).acknowledge(&given)).unwrap();
    assert!(again.already_committed());
}

#[test]
fn tickets_acknowledge_too() {
    let disk = SimDisk::new();
    let store = open(&disk);
    append(&store, "s", "x");
    append(&store, "s", "y");
    let consumer = store.consumer("c", ConsumerOptions::new().query(Query::stream("s"))).unwrap();
    let given = rest(&consumer);
    let ticket = store.submit(&Batch::new().acknowledge(&given[0]).durability(Durability::Durable)).unwrap();
    assert_eq!(ticket.position(), None);
    ticket.wait().unwrap();
    let ticket = store.submit(&Batch::new().acknowledge(&given[1]).event("out", NewEvent::new("E", "x"))).unwrap();
    ticket.wait().unwrap();
    let store = open(&disk.after_power_loss(3));
    assert_eq!(store.consumers()[0].checkpoint, 2);
}

#[test]
fn what_fails_holds_back_its_stream_and_no_other() {
    let store = Store::in_memory().unwrap();
    for stream in ["a", "b", "a", "b", "a"] {
        append(&store, stream, "x");
    }
    let consumer = store.consumer("c", tried(3)).unwrap();
    let given = rest(&consumer);
    assert_eq!(positions(&given), [1, 2, 3, 4, 5]);
    assert_eq!(consumer.fail(&given[0], "first").unwrap(), Failed::Again(NOW));
    // What was in hand of its stream comes again, behind it.
    assert!(matches!(consumer.ack(&given[2]), Err(Error::Fenced { .. })));
    consumer.ack(&given[1]).unwrap();
    consumer.ack(&given[3]).unwrap();
    let again = rest(&consumer);
    assert_eq!(positions(&again), [1]);
    assert_eq!(again[0].attempt(), 2);
    append(&store, "a", "more");
    append(&store, "b", "more");
    let others = rest(&consumer);
    assert_eq!(positions(&others), [7]);
    consumer.ack(&again[0]).unwrap();
    assert_eq!(positions(&rest(&consumer)), [3, 5, 6]);
}

#[test]
fn pauses_are_kept() {
    let store = Store::in_memory().unwrap();
    append(&store, "a", "x");
    append(&store, "b", "x");
    let options = ConsumerOptions::new().retry(Retry::times(2).pause(LONG, LONG));
    let consumer = store.consumer("c", options).unwrap();
    let first = consumer.next(NOW).unwrap().unwrap();
    assert_eq!(consumer.fail(&first, "not now").unwrap(), Failed::Again(LONG));
    assert_eq!(positions(&rest(&consumer)), [2]);
}

#[test]
fn what_fails_for_good_is_parked_with_its_stream_and_can_be_replayed() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for stream in ["a", "b", "a"] {
        append(&store, stream, "x");
    }
    let consumer = store.consumer("c", tried(2)).unwrap();
    let given = rest(&consumer);
    assert_eq!(consumer.fail(&given[0], "broken").unwrap(), Failed::Again(NOW));
    let again = consumer.next(NOW).unwrap().unwrap();
    assert_eq!(consumer.fail(&again, "still broken").unwrap(), Failed::Parked);
    consumer.ack(&given[1]).unwrap();
    let parked = consumer.parked();
    assert_eq!(parked.iter().map(|parked| parked.position.get()).collect::<Vec<_>>(), [1, 3]);
    assert_eq!((parked[0].attempts, parked[0].reason.as_str(), parked[0].behind), (2, "still broken", None));
    assert_eq!((parked[1].stream.as_str(), parked[1].behind), ("a", Some(at(1))));
    assert_eq!((consumer.checkpoint(), consumer.lag()), (3, 0), "what is parked is passed");
    append(&store, "a", "later");
    append(&store, "b", "later");
    assert_eq!(positions(&rest(&consumer)), [5], "later events of the stream wait with it");
    assert_eq!(consumer.parked().len(), 3);
    assert_eq!(store.consumers()[0].parked, 3);
    drop(consumer);
    store.close().unwrap();

    let store = open(&disk);
    let consumer = store.consumer("c", tried(2)).unwrap();
    assert_eq!(positions(&rest(&consumer)), [5]);
    assert_eq!(consumer.replay(at(1)).unwrap(), 3);
    assert_eq!(consumer.replay(at(1)).unwrap(), 0, "it is under way");
    let replayed = rest(&consumer);
    assert_eq!(positions(&replayed), [1, 3, 4]);
    consumer.ack(&replayed[0]).unwrap();
    assert_eq!(consumer.fail(&replayed[1], "again").unwrap(), Failed::Again(NOW));
    let third = consumer.next(NOW).unwrap().unwrap();
    assert_eq!((third.position().get(), consumer.fail(&third, "for ever").unwrap()), (3, Failed::Parked));
    let parked: Vec<_> = consumer.parked().into_iter().map(|parked| (parked.position.get(), parked.reason)).collect();
    assert_eq!(parked, [(3, "for ever".to_owned()), (4, String::new())]);
    // Given up, what waited behind it comes.
    assert!(consumer.dismiss(at(3)).unwrap() && !consumer.dismiss(at(3)).unwrap());
    let last = rest(&consumer);
    assert_eq!(positions(&last), [4]);
    consumer.ack(&last[0]).unwrap();
    assert!(consumer.parked().is_empty());
    append(&store, "a", "free");
    assert_eq!(positions(&rest(&consumer)), [6]);
}

/// A clock that lets somebody in the first time that it is asked after it was armed.
struct Interrupting {
    armed: AtomicBool,
    by: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl std::fmt::Debug for Interrupting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupting")
    }
}

impl Clock for Interrupting {
    fn now(&self) -> u64 {
        if self.armed.swap(false, Ordering::Relaxed)
            && let Some(by) = &*self.by.lock().unwrap()
        {
            by();
        }
        1_000_000
    }
}

#[test]
fn what_is_read_while_an_event_before_it_is_parked_is_parked_as_well() {
    let clock = Arc::new(Interrupting { armed: AtomicBool::new(false), by: Mutex::new(None) });
    let store = small().clock(clock.clone()).open_storage(Arc::new(SimDisk::new())).unwrap();
    let consumer = Arc::new(all(&store, "c"));
    append(&store, "s", "1");
    let given = consumer.next(NOW).unwrap().unwrap();
    let last = append(&store, "s", "2");
    // The second is read by another thread between the first's being set aside and its being written.
    let reader = consumer.clone();
    *clock.by.lock().unwrap() = Some(Box::new(move || {
        std::thread::scope(|scope| {
            let read = scope.spawn(|| reader.next(NOW).unwrap().map(|given| given.position()));
            assert_eq!(read.join().unwrap(), None);
        });
    }));
    clock.armed.store(true, Ordering::Relaxed);
    consumer.park(&given, "broken").unwrap();
    assert!(!clock.armed.load(Ordering::Relaxed), "nobody asked the clock");
    assert!(consumer.next(NOW).unwrap().is_none());
    assert_eq!(consumer.parked().iter().map(|parked| parked.position.get()).collect::<Vec<_>>(), [1, last]);
    assert_eq!((consumer.checkpoint(), consumer.lag()), (last, 0));
    *clock.by.lock().unwrap() = None;
}

#[test]
fn parking_by_hand_keeps_a_reason_of_any_length() {
    let store = Store::in_memory().unwrap();
    append(&store, "a", "x");
    let consumer = all(&store, "c");
    let given = consumer.next(NOW).unwrap().unwrap();
    let reason = "é".repeat(2000);
    consumer.park(&given, &reason).unwrap();
    let parked = &consumer.parked()[0];
    assert!(reason.starts_with(&parked.reason) && parked.reason.len() == 1024, "{}", parked.reason.len());
    assert!(matches!(consumer.park(&given, ""), Err(Error::Fenced { .. })));
    assert_eq!(consumer.replay_all().unwrap(), 1);
}

#[test]
fn a_stream_belongs_to_one_lane_and_keeps_its_order() {
    let store = Store::in_memory().unwrap();
    let streams = 40;
    for n in 0..2_000 {
        append(&store, &format!("s-{}", n % streams), &format!("{n}"));
    }
    let consumer = store.consumer("c", ConsumerOptions::new().lanes(4).window(64)).unwrap();
    let lanes = consumer.lanes();
    let worked: Vec<Vec<(String, u64, usize)>> = std::thread::scope(|scope| {
        let work = |lane: annals::Lane| {
            let mut done = Vec::new();
            let goal = at(2_000);
            while consumer.checkpoint() < goal.get() {
                let Some(event) = lane.next(Duration::from_millis(5)).unwrap() else { continue };
                done.push((event.stream().to_owned(), event.revision().get(), event.lane()));
                lane.ack(&event).unwrap();
            }
            done
        };
        let workers: Vec<_> = lanes.into_iter().map(|lane| scope.spawn(move || work(lane))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(worked.iter().map(Vec::len).sum::<usize>(), 2_000);
    assert!(worked.iter().all(|done| !done.is_empty()), "every lane has work");
    for stream in 0..streams {
        let name = format!("s-{stream}");
        let of_stream = |done: &Vec<(String, u64, usize)>| -> Vec<u64> {
            done.iter().filter(|(stream, ..)| *stream == name).map(|(_, revision, _)| *revision).collect()
        };
        let with: Vec<Vec<u64>> = worked.iter().map(of_stream).filter(|revisions| !revisions.is_empty()).collect();
        assert_eq!(with, [(1..=50).collect::<Vec<_>>()], "{name}");
    }
}

#[test]
fn waiting_for_a_position_ends_when_all_up_to_it_is_finished() {
    let store = Store::in_memory().unwrap();
    let consumer = store.consumer("c", ConsumerOptions::new().query(Query::prefix("in-"))).unwrap();
    let progress = consumer.progress();
    let first = append(&store, "in-1", "x");
    let second = append(&store, "other", "x");
    assert!(!progress.wait_for(at(first), NOW).unwrap());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| progress.wait_for(at(second), LONG));
        let given = consumer.next(LONG).unwrap().unwrap();
        assert!(!progress.wait_for(at(first), NOW).unwrap());
        consumer.ack(&given).unwrap();
        while !waiter.is_finished() {
            assert!(consumer.next(NOW).unwrap().is_none());
        }
        assert!(waiter.join().unwrap().unwrap());
    });
    assert_eq!(progress.lag(), 0, "positions that do not match are passed");
    assert!(consumer.wait_for(at(1), NOW).unwrap());
}

#[test]
fn who_waits_is_handed_what_is_appended_meanwhile_and_told_of_the_end() {
    let store = Store::in_memory().unwrap();
    let consumer = all(&store, "c");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| consumer.next(LONG));
        append(&store, "s", "x");
        assert_eq!(waiting.join().unwrap().unwrap().unwrap().position().get(), 1);
        let waiting = scope.spawn(|| consumer.next(LONG));
        store.clone().close().unwrap();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Poisoned { .. })));
    });
}

#[test]
fn a_new_consumer_starts_where_it_is_told_and_a_known_one_where_it_was() {
    let store = Store::in_memory().unwrap();
    (0..4).for_each(|_| {
        append(&store, "s", "x");
    });
    let start = |name: &str, seek| {
        let consumer = store.consumer(name, ConsumerOptions::new().start(seek)).unwrap();
        positions(&rest(&consumer))
    };
    assert_eq!(start("beginning", Seek::Beginning), [1, 2, 3, 4]);
    assert_eq!(start("after", Seek::After(2)), [3, 4]);
    assert_eq!(start("at", Seek::At(2)), [2, 3, 4]);
    assert_eq!(start("end", Seek::End), [0; 0]);
    assert_eq!(start("time", Seek::Time(0)), [1, 2, 3, 4]);
    assert_eq!(start("later", Seek::Time(u64::MAX)), [0; 0]);
    assert_eq!(start("at the end", Seek::At(5)), [0; 0]);
    assert_eq!(start("after", Seek::Beginning), [3, 4]);
    for seek in [Seek::After(5), Seek::At(6)] {
        let ahead = store.consumer("ahead", ConsumerOptions::new().start(seek));
        assert!(matches!(ahead, Err(Error::AheadOfLog { head: 4, .. })));
    }
    for name in ["", "$c", "a\nb"] {
        assert!(matches!(store.consumer(name, ConsumerOptions::new()), Err(Error::Invalid(_))));
    }
}

#[test]
fn reset_and_removal() {
    let disk = SimDisk::new();
    let store = open(&disk);
    (0..6).for_each(|n| {
        append(&store, &format!("s-{n}"), "x");
    });
    let consumer = store.consumer("c", tried(1)).unwrap();
    let given = rest(&consumer);
    assert_eq!(consumer.fail(&given[1], "early").unwrap(), Failed::Parked);
    assert_eq!(consumer.fail(&given[4], "late").unwrap(), Failed::Parked);
    consumer.ack(&given[0]).unwrap();
    consumer.reset(Seek::After(3)).unwrap();
    assert!(matches!(consumer.ack(&given[2]), Err(Error::Fenced { .. })), "what was in hand no longer counts");
    assert_eq!(positions(&rest(&consumer)), [4, 5, 6]);
    assert_eq!(consumer.parked().len(), 1, "what is parked above the place is parked no longer");
    drop(consumer);
    store.reset_consumer("c", Seek::Beginning).unwrap();
    store.close().unwrap();
    let store = open(&disk);
    assert_eq!(store.consumers().len(), 1);
    assert_eq!((store.consumers()[0].checkpoint, store.consumers()[0].parked), (0, 0));
    assert!(matches!(store.reset_consumer("nobody", Seek::End), Err(Error::Invalid(_))));
    assert!(matches!(store.reset_consumer("c", Seek::After(7)), Err(Error::AheadOfLog { .. })));
    assert!(store.remove_consumer("c").unwrap() && !store.remove_consumer("c").unwrap());
    assert!(store.consumers().is_empty());
    // Made anew, it does not take what its forerunner handed out.
    let again = all(&store, "c");
    assert!(again.generation() > given[0].generation());
    assert!(matches!(again.ack(&given[5]), Err(Error::Fenced { .. })));
}

#[test]
fn the_listing_is_that_of_the_log_also_beside_a_writer() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let mut beside = None;
    let consumer = all(&store, "mail");
    let other = store.consumer("bill", ConsumerOptions::new().start(Seek::End)).unwrap();
    for n in 1..=60u64 {
        append(&store, "s", &"x".repeat(4000));
        for delivery in rest(&consumer) {
            consumer.ack_with(&delivery, Durability::Durable).unwrap();
        }
        let beside = beside.get_or_insert_with(|| read_only(&disk));
        beside.refresh().unwrap();
        let mut listed = store.consumers();
        listed.iter_mut().for_each(|info| info.is_open = false);
        assert_eq!(beside.consumers().unwrap(), listed, "after {n}");
        assert_eq!(read_only(&disk).consumers().unwrap(), listed, "after {n}");
        let names: Vec<_> = listed.iter().map(|info| (info.name.as_str(), info.checkpoint)).collect();
        assert_eq!(names, [("bill", 0), ("mail", n)]);
    }
    assert!(store.consumers().iter().all(|info| info.is_open));
    drop((consumer, other));
    assert!(store.consumers().iter().all(|info| !info.is_open));
}

#[test]
fn a_durable_acknowledgement_survives_a_power_cut_and_a_buffered_one_a_kill() {
    for seed in 0..50 {
        let disk = SimDisk::new();
        let store = open(&disk);
        (0..3).for_each(|n| {
            append(&store, &format!("s-{n}"), "x");
        });
        let consumer = all(&store, "c");
        let given = rest(&consumer);
        consumer.ack_with(&given[0], Durability::Durable).unwrap();
        consumer.ack(&given[1]).unwrap();
        let cut = open(&disk.after_power_loss(seed));
        let checkpoint = cut.consumers()[0].checkpoint;
        assert!((1..=2).contains(&checkpoint), "seed {seed}: {checkpoint}");
        assert_eq!(open(&disk.after_kill()).consumers()[0].checkpoint, 2);
        assert_eq!(read_only(&disk.after_kill()).consumers().unwrap()[0].checkpoint, 2);
        store.sync().unwrap();
        assert_eq!(open(&disk.after_power_loss(seed)).consumers()[0].checkpoint, 2, "seed {seed}");
    }
}

#[test]
fn acknowledgements_that_were_synced_and_are_gone_are_damage() {
    let disk = SimDisk::new();
    let store = open(&disk);
    append(&store, "s", "x");
    let consumer = all(&store, "c");
    let given = rest(&consumer);
    consumer.ack_with(&given[0], Durability::Durable).unwrap();
    let mut files = disk.after_kill().files();
    let segment = files.keys().find(|name| name.ends_with(".log")).unwrap().clone();
    let end = files[&segment].iter().rposition(|byte| *byte != 0).unwrap();
    // The same place in the ring, behind its header.
    for (name, header) in [(segment.as_str(), 0), ("RING", 4096)] {
        files.get_mut(name).unwrap()[header + end - 40..=header + end].fill(0);
    }
    let files = SimDisk::from_files(&files);
    let opened = small().open_storage(Arc::new(files.clone()));
    assert!(matches!(opened, Err(Error::Corrupt(_))), "{:?}", opened.err());
    let beside = small().open_read_only_storage(Arc::new(files));
    assert!(matches!(beside, Err(Error::Corrupt(_))), "{:?}", beside.err());
}

#[test]
fn checkpoints_of_a_lost_history_diverge() {
    let buffered = || small().durability(Durability::Buffered);
    let disk = SimDisk::new();
    let store = buffered().open_storage(Arc::new(disk.clone())).unwrap();
    let mut kept = Vec::new();
    for n in 1..=20u64 {
        append(&store, "s", &"x".repeat(500));
        kept.push(store.checkpoint(n));
        if n == 5 {
            store.sync().unwrap();
        }
    }
    let mut lost = 0;
    for seed in 0..20 {
        let cut = buffered().open_storage(Arc::new(disk.after_power_loss(seed))).unwrap();
        let head = cut.head();
        assert!(head >= 5);
        for n in head + 1..=20 {
            append(&cut, "s", "others");
            lost += 1;
            assert_eq!(cut.head(), n);
        }
        for checkpoint in &kept {
            match cut.resume(checkpoint) {
                Ok(Seek::After(position)) => assert!(position == checkpoint.position() && position <= head),
                Err(Error::Diverged { position, common }) => {
                    assert!(position > head && common == head && position == checkpoint.position());
                }
                other => panic!("{other:?}"),
            }
        }
        let again: Checkpoint = cut.checkpoint(20).to_string().parse().unwrap();
        assert!(matches!(cut.resume(&again), Ok(Seek::After(20))));
        assert!(
            matches!(store.resume(&again), Err(Error::Diverged { common: 0, .. })),
            "the future of another history"
        );
    }
    assert!(lost > 0, "no cut took anything");
    let other = Store::in_memory().unwrap();
    assert!(matches!(other.resume(&kept[0]), Err(Error::Diverged { common: 0, .. })));
    // After a clean close nothing can be lost.
    store.close().unwrap();
    let store = buffered().open_storage(Arc::new(disk)).unwrap();
    assert!(kept.iter().all(|checkpoint| store.resume(checkpoint).is_ok()));
}

/// A store of several segments, closed, whose consumer has a file.
fn closed_with_consumers() -> SimDisk {
    let disk = SimDisk::new();
    let store = open(&disk);
    let consumer = store.consumer("c", tried(1)).unwrap();
    for n in 0..80 {
        append(&store, &format!("s-{}", n % 7), &"x".repeat(3000));
        for delivery in rest(&consumer) {
            match delivery.position().get() {
                9 => drop(consumer.fail(&delivery, "no such address").unwrap()),
                position if position % 11 == 3 => {}
                _ => consumer.ack(&delivery).unwrap(),
            }
        }
    }
    drop(consumer);
    store.close().unwrap();
    disk
}

fn is_of_consumers(name: &str) -> bool {
    name.starts_with("consumers-")
}

#[test]
fn the_file_of_consumers_is_expendable() {
    let disk = closed_with_consumers();
    let files = disk.files();
    let names: Vec<String> = files.keys().filter(|name| is_of_consumers(name)).cloned().collect();
    assert_eq!(names.len(), 2, "the newest and the one before: {names:?}");
    let expected = {
        let store = open(&SimDisk::from_files(&files));
        assert!(store.recovery_report().rebuilt_indexes.is_empty());
        (store.consumers(), all(&store, "c").parked())
    };
    assert!(expected.0[0].parked > 1 && expected.0[0].finished_above > 10, "{expected:?}");
    let check = |what: &str, files: &std::collections::BTreeMap<String, Vec<u8>>, said: bool| {
        let disk = SimDisk::from_files(files);
        assert_eq!(read_only(&disk).consumers().unwrap(), expected.0, "{what}");
        let store = open(&disk);
        assert_eq!(store.consumers(), expected.0, "{what}");
        let rebuilt = &store.recovery_report().rebuilt_indexes;
        assert_eq!(rebuilt.iter().any(|name| is_of_consumers(name)), said, "{what}: {rebuilt:?}");
        store.close().unwrap();
        // Made anew, it need not be again.
        let store = open(&disk);
        assert!(store.recovery_report().rebuilt_indexes.is_empty(), "{what}");
        assert_eq!(all(&store, "c").parked(), expected.1, "{what}");
    };
    let mut without = files.clone();
    without.remove(&names[1]);
    check("only the older one", &without, false);
    without.remove(&names[0]);
    check("none", &without, true);
    for bit in [0u32, 40 * 8, 70 * 8, 130 * 8, 200 * 8 + 3] {
        let mut damaged = files.clone();
        let bytes = damaged.get_mut(&names[1]).unwrap();
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        check(&format!("bit {bit}"), &damaged, true);
    }
    let mut ahead = files.clone();
    let bytes = ahead.remove(&names[1]).unwrap();
    ahead.insert("consumers-00000000000000000999.idx".to_owned(), bytes.clone());
    check("one of a segment that is not listed", &ahead, true);
    let mut swapped = files.clone();
    swapped.insert(names[0].clone(), bytes);
    swapped.remove(&names[1]);
    check("one of another segment", &swapped, true);
    let mut short = files;
    short.get_mut(&names[1]).unwrap().truncate(100);
    check("a short one", &short, true);
}

#[test]
fn verify_and_dump_know_acknowledgements() {
    let disk = closed_with_consumers();
    let report = annals::inspect::verify_in(&disk, &mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.events, 80);
    let mut sections = 0;
    for info in annals::inspect::segments_in(&disk).unwrap() {
        annals::inspect::dump_in(&disk, info.number, &mut |field| {
            assert_eq!(field.fault, None, "{field:?}");
            sections += usize::from(field.name == "section");
        })
        .unwrap();
    }
    assert!(sections > 60, "{sections}");
}

#[test]
fn stores_that_never_had_a_consumer_have_nothing_of_it() {
    let disk = SimDisk::new();
    let store = open(&disk);
    (0..100).for_each(|_| {
        append(&store, "s", &"x".repeat(2000));
    });
    assert!(store.consumers().is_empty() && !store.remove_consumer("c").unwrap());
    store.close().unwrap();
    assert!(read_only(&disk).consumers().unwrap().is_empty());
    assert!(disk.files().keys().all(|name| !is_of_consumers(name)));
}

#[test]
fn a_burst_of_acknowledgements_rolls_segments_of_their_own() {
    let disk = SimDisk::new();
    let store = open(&disk);
    (0..2_000).for_each(|n| {
        append(&store, &format!("s-{}", n % 3), "x");
    });
    let consumer = all(&store, "c");
    let mut done = 0;
    while let Some(delivery) = consumer.next(NOW).unwrap() {
        consumer.ack(&delivery).unwrap();
        done += 1;
    }
    assert_eq!((done, consumer.checkpoint()), (2_000, 2_000));
    store.sync().unwrap();
    let expected = store.consumers()[0].checkpoint;
    for disk in [disk.after_kill(), disk.after_power_loss(1)] {
        // What was only buffered may be lost in the power cut; here it is made durable first.
        let store = open(&disk);
        assert_eq!((store.consumers()[0].checkpoint, store.head()), (expected, 2_000));
        assert_eq!(append(&store, "s-1", "next"), 2_001);
        assert_eq!(store.read_stream("s-1", Seek::Beginning).unwrap().count(), 668);
        assert_eq!(store.read_all(&Query::all(), Seek::At(1_990)).unwrap().count(), 12);
        store.close().unwrap();
    }
    drop(consumer);
    store.close().unwrap();
    let store = open(&disk);
    assert!(store.recovery_report().clean);
    assert_eq!((store.consumers()[0].checkpoint, store.head()), (expected, 2_000));
    let report = annals::inspect::verify_in(&disk, &mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn a_follower_passes_over_acknowledgements() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).open(&path).unwrap();
    let consumer = all(&store, "c");
    append(&store, "s", "first");
    let follower = annals::Follower::open(&path).unwrap();
    for n in 2..=200u64 {
        for delivery in rest(&consumer) {
            consumer.ack(&delivery).unwrap();
        }
        append(&store, "s", &"x".repeat(n as usize * 10));
        assert!(follower.wait_beyond(n - 1, LONG).unwrap() >= n);
    }
    let seen = follower.reader().read_stream("s", Seek::Beginning).unwrap();
    assert_eq!(seen.map(|event| event.unwrap().revision().get()).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
}

/// Policies wait for nobody, but for who asks for it, and for those no longer than the bound they asked for.
#[test]
fn a_slow_consumer_that_holds_gets_its_bound_and_then_a_gap() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let keep_two = annals::Retention::new().max_count(2);
    store.set_retention(&annals::Scope::Prefix("s-".to_owned()), keep_two).unwrap();
    let head_before = store.head();
    let holding = store.consumer("holding", ConsumerOptions::new().query(Query::prefix("s-")).hold(30)).unwrap();
    let first = |store: &Store| {
        let mut read = store.read_stream("s-a", Seek::Beginning).unwrap();
        read.next().map(|event| event.unwrap().position().get())
    };
    let append_all = |numbers: std::ops::Range<u64>| {
        numbers.for_each(|n| {
            append(&store, "s-a", &format!("{n}"));
        });
    };
    append_all(0..20);
    // Nothing was passed yet, and all of it lies within the bound.
    assert!(store.plan_sweep().unwrap().is_empty());
    store.sweep().unwrap();
    assert_eq!(first(&store), Some(head_before + 1));
    // What it has passed goes, what it has in hand stays.
    let seven: Vec<Delivery> = (0..7).map(|_| holding.next(NOW).unwrap().unwrap()).collect();
    holding.ack_all(&seven[..6]).unwrap();
    store.sweep().unwrap();
    assert_eq!(first(&store), Some(head_before + 7));
    assert!(holding.passed_over().is_empty());
    // It lags further than it asked for: the bound is all it gets.
    append_all(20..100);
    store.sweep().unwrap();
    let oldest = first(&store).unwrap();
    assert_eq!(oldest, store.head() - 30, "the sweep's own record stands behind");
    holding.ack(&seven[6]).unwrap();
    let next: Vec<Delivery> = rest(&holding);
    // What it had read before it hands out all the same.
    assert!(next.windows(2).all(|pair| pair[0].position() < pair[1].position()));
    assert_eq!(positions(&next).last(), Some(&(store.head() - 1)));
    drop(next);
    holding.reset(Seek::Beginning).unwrap();
    let next = positions(&rest(&holding));
    assert_eq!(next[0], oldest);
    let [gap] = holding.passed_over()[..] else { panic!("one stretch was removed") };
    assert_eq!((gap.first, gap.last, gap.why), (at(head_before + 1), at(oldest - 1), annals::RemovalReason::Expired));
    assert!(holding.passed_over().is_empty());
    // Removals by name wait for nobody, and nobody holds once it is closed.
    let cut = annals::Revision::new(95).unwrap();
    store.truncate_before("s-a", Expect::Any, cut).unwrap();
    assert_eq!(store.read_stream("s-a", Seek::Beginning).unwrap().count(), 6);
    drop(holding);
    store.sweep().unwrap();
    assert_eq!(store.read_stream("s-a", Seek::Beginning).unwrap().count(), 2);
}

/// By age and by bytes, of a prefix and of the store: nothing at or behind what is held goes.
#[test]
fn a_hold_bounds_policies_of_every_kind() {
    let disk = SimDisk::new();
    let store = open(&disk);
    (0..200).for_each(|n| {
        append(&store, &format!("s-{}", n % 3), &"x".repeat(600));
    });
    let holding = store.consumer("holding", ConsumerOptions::new().hold(1_000)).unwrap();
    let handed: Vec<Delivery> = (0..50).map(|_| holding.next(NOW).unwrap().unwrap()).collect();
    holding.ack_all(&handed).unwrap();
    store.set_retention(&annals::Scope::Store, annals::Retention::new().max_bytes(1_000)).unwrap();
    let oldest = |store: &Store| {
        store.read_all(&Query::all(), Seek::Beginning).unwrap().next().map(|e| e.unwrap().position().get())
    };
    store.sweep().unwrap();
    assert_eq!(oldest(&store), Some(51));
    let age = annals::Retention::new().max_age(Duration::from_nanos(1));
    store.set_retention(&annals::Scope::Stream("s-0".to_owned()), age).unwrap();
    store.set_retention(&annals::Scope::Prefix("s-1".to_owned()), age).unwrap();
    std::thread::sleep(Duration::from_millis(2));
    store.sweep().unwrap();
    assert_eq!(oldest(&store), Some(51));
    assert_eq!(positions(&rest(&holding)).len(), 150);
    drop(holding);
    store.sweep().unwrap();
    assert!(oldest(&store).is_none_or(|oldest| oldest > 190));
}

#[test]
fn a_reset_looks_at_removals_anew() {
    let store = Store::in_memory().unwrap();
    for stream in ["kept", "kept", "gone", "gone"] {
        store.append(stream, Expect::Any, &[NewEvent::new("Happened", b"x")]).unwrap();
    }
    // It has read two events, on its way to the head of now.
    let consumer = store.consumer("reader", ConsumerOptions::new().window(2)).unwrap();
    assert_eq!(consumer.next(Duration::ZERO).unwrap().map(|delivery| delivery.position().get()), Some(1));
    store.delete("gone", Expect::Any).unwrap();
    // That is just where it stands.
    consumer.reset(Seek::After(2)).unwrap();
    assert!(consumer.next(Duration::ZERO).unwrap().is_none());
    consumer.reset(Seek::Beginning).unwrap();
    assert_eq!(consumer.next(Duration::ZERO).unwrap().map(|delivery| delivery.position().get()), Some(1));
}
