//! Removal (R23, its first half): what is truncated, deleted, ended or expired is hidden at once on every path, nothing
//! is renumbered, and nothing hidden ever comes back.

use std::sync::Arc;
use std::time::Duration;

use annals::storage::Access;
use annals::{
    Batch, Conflict, Cut, Durability, Error, EventId, Expect, Lookup, Message, MessageRef, NewEvent, Next, Options,
    Position, Query, QueryItem, Reader, Refusal, RemovalReason, Retention, Revision, Scope, Seek, Store, StreamState,
    View,
};
use annals_tests::model::{Ground, ManualClock, on_each_ground};

fn revision(number: u64) -> Revision {
    Revision::new(number).unwrap()
}

fn position(number: u64) -> Option<Position> {
    Position::new(number)
}

fn options() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10)
}

fn live(first: u64, last: u64) -> StreamState {
    StreamState::Live { first: revision(first), last: revision(last) }
}

fn deleted(last: u64) -> StreamState {
    StreamState::Deleted { last: revision(last) }
}

fn id(number: u64) -> EventId {
    EventId::from(u128::from(number) << 64 | 1)
}

/// Appends `count` events to `stream`, ids from `first_id` on.
fn fill(store: &Store, stream: &str, first_id: u64, count: u64) {
    for n in 0..count {
        let event = NewEvent::new("T", b"payload").id(id(first_id + n)).tags(&["tag"]);
        store.append(stream, Expect::Any, &[event]).unwrap();
    }
}

fn numbers(read: annals::Result<annals::Read>) -> Vec<u64> {
    read.unwrap().map(|event| event.unwrap().position().get()).collect()
}

/// The positions that every path shows of what stands in the log.
#[track_caller]
fn shows(reader: &Reader, expected: &[u64]) {
    let back: Vec<u64> = expected.iter().rev().copied().collect();
    let head = reader.head();
    for query in [Query::all(), Query::tag("tag"), Query::event_type("T"), Query::prefix("")] {
        assert_eq!(numbers(reader.read_all(&query, Seek::Beginning)), expected, "{query:?}");
        assert_eq!(numbers(reader.read_all_back(&query, Seek::End)), back, "{query:?} backward");
        assert_eq!(reader.count(&query).unwrap(), expected.len() as u64);
        let last = reader.last(&query).unwrap();
        assert_eq!(last.map(|event| event.position().get()), expected.last().copied());
        let mut scanned = Vec::new();
        let read = reader.read_all(&query, Seek::Beginning).unwrap();
        let ended = read.for_each_event(|event| {
            scanned.push(event.position().get());
            std::ops::ControlFlow::<()>::Continue(())
        });
        ended.unwrap();
        assert_eq!(scanned, expected);
    }
    for at in 1..=head {
        let found = reader.at(position(at).unwrap()).unwrap();
        assert_eq!(found.is_some(), expected.contains(&at), "at {at}");
    }
    let types = reader.types().unwrap();
    assert_eq!(types.iter().map(|info| info.count).sum::<u64>(), expected.len() as u64);
    let mut by_stream = Vec::new();
    for info in reader.streams("").unwrap() {
        let of_stream = numbers(reader.read_stream(&info.name, Seek::Beginning));
        let ends = (of_stream.first().copied().and_then(position), of_stream.last().copied().and_then(position));
        assert_eq!((info.first_position, info.last_position), ends, "{}", info.name);
        assert_eq!(reader.stream_state(&info.name).unwrap(), info.state);
        let mut backward = numbers(reader.read_stream_back(&info.name, Seek::End));
        backward.reverse();
        assert_eq!(backward, of_stream);
        by_stream.extend(of_stream);
    }
    by_stream.sort_unstable();
    assert_eq!(by_stream, expected);
}

/// The same through every reader there is, now, after closing, and after a kill.
#[track_caller]
fn shows_for_ever(ground: &Ground, store: Store, expected: &[u64]) -> Store {
    shows(&store.reader_in(View::Written), expected);
    store.sync().unwrap();
    shows(&store.reader(), expected);
    shows(&ground.open_read_only(options()).reader(), expected);
    store.close().unwrap();
    shows(&ground.open_read_only(options()).reader(), expected);
    let store = ground.open(options());
    shows(&store.reader(), expected);
    store
}

fn conflict(error: annals::Result<impl std::fmt::Debug>) -> Conflict {
    match error {
        Err(Error::Conflict(conflict)) => *conflict,
        other => panic!("no conflict: {other:?}"),
    }
}

#[test]
fn a_deleted_stream_is_hidden_at_once_on_every_path() {
    on_each_ground(|ground| {
        let store = ground.open(options());
        fill(&store, "a", 1, 3);
        fill(&store, "b", 4, 2);
        let removed = store.delete("a", Expect::At(revision(3))).unwrap();
        assert_eq!((removed.position, removed.state, removed.hidden), (position(6), deleted(3), 3));
        assert_eq!(store.stream_state("a").unwrap(), deleted(3));
        for n in 1..=3 {
            let found = store.by_id(id(n)).unwrap();
            assert!(matches!(found, Lookup::Removed { at, why: RemovalReason::Deleted } if at.get() == n), "{found:?}");
        }
        let store = shows_for_ever(ground, store, &[4, 5]);
        assert_eq!(store.read_stream("a", Seek::Beginning).unwrap().state(), Some(deleted(3)));
        // It may be written again, and nothing is numbered anew.
        let receipt = store.append("a", Expect::Deleted, &[NewEvent::new("T", b"new").tags(&["tag"])]).unwrap();
        assert_eq!((receipt.position(), receipt.revision()), (position(7).unwrap(), revision(4)));
        assert_eq!(store.stream_state("a").unwrap(), live(4, 4));
        let store = shows_for_ever(ground, store, &[4, 5, 7]);
        // Deleted again: what was hidden before is not counted.
        assert_eq!(store.delete("a", Expect::Exists).unwrap().hidden, 1);
        shows_for_ever(ground, store, &[4, 5]);
    });
}

#[test]
fn what_a_deleted_stream_expects() {
    let store = Store::in_memory().unwrap();
    fill(&store, "a", 1, 2);
    store.delete("a", Expect::Any).unwrap();
    for (expect, holds) in [
        (Expect::NoStream, false),
        (Expect::Exists, false),
        (Expect::At(revision(2)), false),
        (Expect::Vacant, true),
        (Expect::Deleted, true),
        (Expect::Any, true),
    ] {
        // As a guard, so that the stream stays as it is.
        let batch = Batch::new().expect("a", expect).event("other", NewEvent::new("T", b""));
        match (store.commit(&batch), holds) {
            (Ok(_), true) => {}
            (Err(Error::Conflict(conflict)), false) => {
                let refused = Refusal::Stream { stream: "a".to_owned(), expected: expect, actual: deleted(2) };
                assert_eq!(conflict.failed, [refused]);
            }
            (outcome, _) => panic!("{expect:?}: {outcome:?}"),
        }
    }
    // Nothing happens twice, and what never was cannot be deleted.
    let again = store.delete("a", Expect::Deleted).unwrap();
    assert_eq!((again.position, again.state, again.hidden), (None, deleted(2), 0));
    let absent = store.delete("never", Expect::NoStream).unwrap();
    assert_eq!((absent.position, absent.state), (None, StreamState::Absent));
    assert_eq!(conflict(store.delete("never", Expect::Exists)).failed.len(), 1);
}

#[test]
fn truncate_before_never_moves_back_and_may_take_all() {
    on_each_ground(|ground| {
        let store = ground.open(options());
        fill(&store, "a", 1, 5);
        let cut = store.truncate_before("a", Expect::Exists, revision(3)).unwrap();
        assert_eq!((cut.position, cut.state, cut.hidden), (position(6), live(3, 5), 2));
        let back = store.truncate_before("a", Expect::Any, revision(2)).unwrap();
        assert_eq!((back.position, back.state), (None, live(3, 5)));
        let read = store.read_stream("a", Seek::Beginning).unwrap();
        assert_eq!(read.skipped(), 2);
        assert_eq!(read.map(|event| event.unwrap().revision().get()).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(numbers(store.read_stream("a", Seek::At(1))), [3, 4, 5]);
        assert_eq!(numbers(store.read_stream("a", Seek::After(3))), [4, 5]);
        assert_eq!(numbers(store.read_stream_back("a", Seek::At(2))), [] as [u64; 0]);
        assert_eq!(numbers(store.read_all(&Query::all(), Seek::At(1))), [3, 4, 5]);
        let found = store.by_id(id(1)).unwrap();
        assert!(matches!(found, Lookup::Removed { why: RemovalReason::Truncated, .. }));
        assert!(matches!(store.truncate_before("a", Expect::Any, revision(7)), Err(Error::Invalid(_))));
        let store = shows_for_ever(ground, store, &[3, 4, 5]);
        // All of it: the last revision stays.
        let all = store.truncate_before("a", Expect::At(revision(5)), revision(6)).unwrap();
        assert_eq!((all.state, all.hidden), (live(6, 5), 3));
        let store = shows_for_ever(ground, store, &[]);
        assert!(matches!(store.append("a", Expect::NoStream, &[NewEvent::new("T", b"")]), Err(Error::Conflict(_))));
        let next = NewEvent::new("T", b"next").tags(&["tag"]);
        let receipt = store.append("a", Expect::At(revision(5)), &[next]).unwrap();
        assert_eq!(receipt.revision(), revision(6));
        shows_for_ever(ground, store, &[receipt.position().get()]);
    });
}

#[test]
fn a_tombstone_ends_a_stream_for_good() {
    on_each_ground(|ground| {
        let store = ground.open(options());
        fill(&store, "a", 1, 2);
        fill(&store, "b", 3, 1);
        let ended = StreamState::Tombstoned { last: revision(2) };
        let removed = store.tombstone("a", Expect::Any).unwrap();
        assert_eq!((removed.position, removed.state, removed.hidden), (position(4), ended, 2));
        assert!(matches!(store.by_id(id(1)).unwrap(), Lookup::Removed { why: RemovalReason::Tombstoned, .. }));
        let store = shows_for_ever(ground, store, &[3]);
        for expect in [Expect::Any, Expect::Vacant, Expect::Exists, Expect::Deleted, Expect::At(revision(2))] {
            let refused = conflict(store.append("a", expect, &[NewEvent::new("T", b"")]));
            let wanted = Refusal::Stream { stream: "a".to_owned(), expected: expect, actual: ended };
            assert_eq!(refused.failed, [wanted]);
        }
        // A retry of what was stored is answered before that.
        let retry = store.append("a", Expect::Any, &[NewEvent::new("T", b"payload").id(id(2)).tags(&["tag"])]).unwrap();
        assert!(retry.already_committed() && retry.revision() == revision(2));
        assert_eq!(store.tombstone("a", Expect::Any).unwrap().position, None);
        assert_eq!(store.delete("a", Expect::Any).unwrap().position, None);
        let absent = conflict(store.tombstone("never", Expect::Any));
        assert!(matches!(absent.failed[..], [Refusal::Stream { actual: StreamState::Absent, .. }]));
        // Also one that was deleted before.
        store.delete("b", Expect::Any).unwrap();
        store.tombstone("b", Expect::Deleted).unwrap();
        assert_eq!(store.head(), 6);
        shows_for_ever(ground, store, &[]);
    });
}

#[test]
fn ids_of_removed_events_are_answered_exactly() {
    on_each_ground(|ground| {
        let store = ground.open(options());
        fill(&store, "a", 1, 2);
        fill(&store, "b", 3, 2);
        store.truncate_before("a", Expect::Any, revision(3)).unwrap();
        store.delete("b", Expect::Any).unwrap();
        let check = |store: &Store| {
            let same = |n: u64| NewEvent::new("T", b"payload").id(id(n)).tags(&["tag"]);
            for (stream, n) in [("a", 1), ("a", 2), ("b", 3), ("b", 4)] {
                let receipt = store.append(stream, Expect::NoStream, &[same(n)]).unwrap();
                assert!(receipt.already_committed());
                assert_eq!((receipt.position().get(), receipt.first().id), (n, id(n)));
            }
            // After a truncation the content still counts, after a deletion the id alone.
            let other = |n: u64| NewEvent::new("Other", b"else").id(id(n));
            let differs = store.append("a", Expect::Any, &[other(1)]);
            assert!(matches!(differs, Err(Error::DuplicateId { at, .. }) if at.get() == 1), "{differs:?}");
            assert!(store.append("elsewhere", Expect::Any, &[other(3)]).unwrap().already_committed());
            let partly = store.append("a", Expect::Any, &[same(2), same(9)]);
            assert!(matches!(partly, Err(Error::PartialDuplicate { .. })));
        };
        check(&store);
        store.close().unwrap();
        let store = ground.open(options());
        check(&store);
        assert_eq!(store.head(), 6);
    });
}

#[test]
fn ids_and_streams_are_forgotten_by_name() {
    on_each_ground(|ground| {
        let store = ground.open(options());
        fill(&store, "a", 1, 3);
        store.truncate_before("a", Expect::Any, revision(3)).unwrap();
        assert!(store.forget_ids("a", Expect::Any).unwrap().position.is_some());
        assert!(store.forget_ids("a", Expect::Any).unwrap().position.is_none());
        assert!(matches!(store.by_id(id(1)).unwrap(), Lookup::NotFound));
        assert!(matches!(store.by_id(id(3)).unwrap(), Lookup::Found(_)));
        // The id is free again, what is not removed is still known.
        let again = store.append("b", Expect::NoStream, &[NewEvent::new("T", b"x").id(id(1)).tags(&["tag"])]).unwrap();
        assert!(!again.already_committed());
        assert!(store.append("a", Expect::Any, &[NewEvent::new("U", b"").id(id(3))]).is_err());
        let store = shows_for_ever(ground, store, &[3, 6]);
        assert!(matches!(store.by_id(id(1)).unwrap(), Lookup::Found(event) if event.position().get() == 6));
        // A stream that can be read is not forgotten.
        let refused = conflict(store.forget_stream("a", Expect::Any));
        assert!(matches!(refused.failed[..], [Refusal::Stream { expected: Expect::Deleted, .. }]));
        store.tombstone("a", Expect::Any).unwrap();
        assert!(store.forget_stream("a", Expect::Any).unwrap().position.is_some());
        assert_eq!(store.stream_state("a").unwrap(), StreamState::Absent);
        assert!(matches!(store.by_id(id(3)).unwrap(), Lookup::NotFound));
        let store = shows_for_ever(ground, store, &[6]);
        assert_eq!(store.streams("").unwrap().len(), 1);
        let receipt = store.append("a", Expect::NoStream, &[NewEvent::new("T", b"").tags(&["tag"])]).unwrap();
        assert_eq!(receipt.revision(), revision(1));
        let store = shows_for_ever(ground, store, &[6, receipt.position().get()]);
        store.append("a", Expect::At(revision(1)), &[NewEvent::new("T", b"").tags(&["tag"])]).unwrap();
        let head = store.head();
        let store = shows_for_ever(ground, store, &[6, receipt.position().get(), head]);
        assert_eq!(numbers(store.read_stream("a", Seek::At(2))), [head]);
        store.close().unwrap();
        let report = annals::inspect::verify_in(&*ground.storage(), &mut |_, _| {}).unwrap();
        assert!(report.is_sound(), "{report:?}");
    });
}

#[test]
fn conditions_do_not_see_what_is_gone_but_that_it_went() {
    let store = Store::in_memory().unwrap();
    let reserved = || Query::item(QueryItem::new().types(["NameReserved"]).tags_all(["name:ada"]));
    let reservation = NewEvent::new("NameReserved", b"").tags(&["name:ada"]);
    store.append("user-1", Expect::NoStream, &[reservation]).unwrap();
    store.append("user-2", Expect::NoStream, &[NewEvent::new("Other", b"")]).unwrap();
    let head = store.head();
    let claim = |stream: &str, after: Option<Position>| {
        let event = NewEvent::new("NameReserved", b"").tags(&["name:ada"]);
        store.commit(&Batch::new().event(stream, event).condition(reserved(), after))
    };
    assert!(matches!(claim("user-3", None), Err(Error::Conflict(_))));
    let record = store.delete("user-1", Expect::Any).unwrap().position.unwrap();
    // Who read before the removal rests on what is gone.
    let refused = conflict(claim("user-3", position(head)));
    let at = Refusal::Condition { index: 0, after: position(head), newest: record, id: store_id(&store) };
    assert!(
        matches!(&refused.failed[..], [Refusal::Condition { newest, .. }] if *newest == record),
        "{refused:?} {at:?}"
    );
    // A removal that hid no match is nobody's concern.
    let head = store.head();
    store.delete("user-2", Expect::Any).unwrap();
    // Who read after it, and who asks for no history, finds the name free.
    claim("user-3", position(head)).unwrap();
    store.delete("user-3", Expect::Any).unwrap();
    claim("user-4", None).unwrap();
    // `At` and guards rest on revisions, which stay.
    store.truncate_before("user-4", Expect::At(revision(1)), revision(2)).unwrap();
    let batch = Batch::new().expect("user-4", Expect::At(revision(1))).event("log", NewEvent::new("T", b""));
    store.commit(&batch).unwrap();
}

fn store_id(store: &Store) -> EventId {
    store.last(&Query::all()).unwrap().unwrap().id()
}

#[test]
fn a_removal_rides_with_events_wholly_or_not_at_all() {
    on_each_ground(|ground| {
        let store = ground.open(options());
        fill(&store, "a", 1, 3);
        let event = || NewEvent::new("T", b"sum").tags(&["tag"]);
        let batch = |expect: Expect| {
            Batch::new().expect("a", expect).truncate_before("a", revision(4)).delete("b").event("a", event())
        };
        assert!(matches!(store.commit(&batch(Expect::At(revision(2)))), Err(Error::Conflict(_))));
        let untouched = [1, 2, 3];
        shows(&store.reader(), &untouched);
        let receipt = store.commit(&batch(Expect::At(revision(3)))).unwrap();
        let [cut, absent] = receipt.removals() else { panic!("{receipt:?}") };
        assert_eq!((cut.position, cut.hidden, absent.position), (position(4), 3, None));
        assert_eq!((receipt.position().get(), receipt.revision().get()), (5, 4));
        let found = store.at(receipt.position()).unwrap().unwrap();
        assert_eq!((found.batch_first().get(), found.batch_len()), (4, 2));
        let store = shows_for_ever(ground, store, &[5]);
        // Deleted and begun again in one batch.
        let receipt = store.commit(&Batch::new().delete("a").event("a", event())).unwrap();
        assert_eq!(receipt.revision(), revision(5));
        let store = shows_for_ever(ground, store, &[7]);
        let ticket = store.submit(&Batch::new().delete("a")).unwrap();
        assert_eq!(ticket.position(), position(8));
        assert_eq!(ticket.wait().unwrap().last_position(), position(8));
        for contradiction in [
            Batch::new().tombstone("a").event("a", event()),
            Batch::new().delete("a").truncate_before("a", revision(1)),
            Batch::new().delete("$all"),
            Batch::new().tombstone(""),
        ] {
            let outcome = store.commit(&contradiction);
            assert!(matches!(outcome, Err(Error::Invalid(_))), "{outcome:?}");
        }
        shows_for_ever(ground, store, &[]);
    });
}

#[test]
fn policies_hide_nothing_and_the_sweep_does() {
    on_each_ground(|ground| {
        let clock = ManualClock::at(1_000);
        let options = || options().clock(Arc::new(clock.clone()));
        let store = options().open_storage(ground.storage()).unwrap();
        for n in 0..12 {
            clock.set(1_000 + n * 100);
            fill(&store, ["a-1", "a-2", "b"][n as usize % 3], 100 + n, 1);
        }
        let prefix = Scope::Prefix("a-".to_owned());
        let age = Retention::new().max_age(Duration::from_nanos(500));
        assert!(store.sweep().unwrap().cuts.is_empty());
        assert_eq!(store.set_retention(&prefix, age).unwrap(), position(13));
        assert_eq!(store.set_retention(&prefix, age).unwrap(), None);
        store.set_retention(&Scope::Stream("b".to_owned()), Retention::new().max_count(1)).unwrap();
        shows(&store.reader(), &(1..=12).collect::<Vec<_>>());
        store.close().unwrap();
        let store = options().open_storage(ground.storage()).unwrap();
        assert_eq!(store.retentions().len(), 2);
        // At 2,100 what is older than 1,600 goes, of b all but the newest.
        let planned = store.plan_sweep().unwrap();
        let expected = [
            Cut::Stream { name: "b".to_owned(), first: revision(1), upto: revision(3) },
            Cut::Prefix { prefix: "a-".to_owned(), first: position(1).unwrap(), upto: position(6).unwrap() },
        ];
        assert_eq!(planned, expected);
        assert_eq!(store.head(), 14);
        let swept = store.sweep().unwrap();
        assert_eq!((swept.position, &swept.cuts[..]), (position(15), &expected[..]));
        assert!(store.sweep().unwrap().position.is_none());
        let kept = [7, 8, 10, 11, 12];
        shows(&store.reader(), &kept);
        assert_eq!(store.stream_state("a-1").unwrap(), live(3, 4));
        assert!(matches!(store.by_id(id(100)).unwrap(), Lookup::Removed { why: RemovalReason::Expired, .. }));
        // Retries are answered as before.
        let retry = NewEvent::new("T", b"payload").id(id(100)).tags(&["tag"]);
        assert!(store.append("a-1", Expect::Any, &[retry]).unwrap().already_committed());
        store.close().unwrap();
        let store = options().open_storage(ground.storage()).unwrap();
        shows(&store.reader(), &kept);
        // Withdrawn, nothing more goes; what is gone stays so.
        store.set_retention(&prefix, Retention::new()).unwrap();
        store.set_retention(&Scope::Stream("b".to_owned()), Retention::new()).unwrap();
        clock.set(1_000_000);
        assert!(store.retentions().is_empty() && store.sweep().unwrap().cuts.is_empty());
        shows(&store.reader(), &kept);
        for (scope, wrong) in [
            (prefix.clone(), Retention::new().max_bytes(1)),
            (Scope::Store, Retention::new().max_count(1)),
            (prefix, Retention::new().max_count(0)),
            (Scope::Stream("$all".to_owned()), Retention::new().max_bytes(1)),
        ] {
            assert!(matches!(store.set_retention(&scope, wrong), Err(Error::Invalid(_))), "{scope:?} {wrong:?}");
        }
    });
}

#[test]
fn a_store_may_sweep_by_itself() {
    let store =
        Options::new().sweep_interval(Duration::from_millis(1)).open_storage(Ground::memory().storage()).unwrap();
    store.set_retention(&Scope::Prefix("a".to_owned()), Retention::new().max_count(1)).unwrap();
    fill(&store, "a", 1, 5);
    let begun = std::time::Instant::now();
    while store.stream_state("a").unwrap() != live(5, 5) {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing is swept");
        std::thread::yield_now();
    }
    assert_eq!(store.count(&Query::all()).unwrap(), 1);
}

#[test]
fn the_store_keeps_its_newest_bytes() {
    let ground = Ground::memory();
    let store = ground.open(options());
    let payload = vec![7; 3_000];
    for n in 0..200u64 {
        let event = NewEvent::new("T", &payload).id(id(n + 1)).tags(&["tag"]);
        store.append(&format!("s-{}", n % 7), Expect::Any, &[event]).unwrap();
    }
    store.set_retention(&Scope::Store, Retention::new().max_bytes(300_000)).unwrap();
    let swept = store.sweep().unwrap();
    let [Cut::Prefix { prefix, first, upto }] = &swept.cuts[..] else { panic!("{swept:?}") };
    assert_eq!((prefix.as_str(), first.get()), ("", 1));
    // 3,000 bytes of payload and about a hundred around it; the rolled segments' ends are small.
    let kept = 200 - upto.get();
    assert!((90..=98).contains(&kept), "{kept} events were kept");
    let store = shows_for_ever(&ground, store, &(upto.get() + 1..=200).collect::<Vec<_>>());
    assert!(store.sweep().unwrap().cuts.is_empty());
    // All of it, when nothing fits.
    store.set_retention(&Scope::Store, Retention::new().max_bytes(1)).unwrap();
    store.sweep().unwrap();
    let store = shows_for_ever(&ground, store, &[]);
    assert_eq!(store.stream_state("s-0").unwrap(), live(30, 29));
}

#[test]
fn open_readers_finish_and_new_ones_obey() {
    let ground = Ground::memory();
    let store = ground.open(options().durability(Durability::Buffered));
    fill(&store, "a", 1, 4);
    store.sync().unwrap();
    let mut open = store.read_all(&Query::all(), Seek::Beginning).unwrap();
    let mut of_stream = store.read_stream("a", Seek::Beginning).unwrap();
    assert!(open.next().is_some() && of_stream.next().is_some());
    let beside = ground.open_read_only(options());
    store.delete("a", Expect::Any).unwrap();
    // What was begun goes on; what begins obeys, in the view that shows the record.
    assert_eq!((open.count(), of_stream.count()), (3, 3));
    shows(&store.reader_in(View::Written), &[]);
    shows(&store.reader_in(View::Durable), &[1, 2, 3, 4]);
    shows(&beside.reader(), &[1, 2, 3, 4]);
    store.sync().unwrap();
    shows(&store.reader_in(View::Durable), &[]);
    shows(&beside.reader(), &[1, 2, 3, 4]);
    let mut beside = beside;
    let before = beside.reader();
    beside.refresh().unwrap();
    shows(&beside.reader(), &[]);
    shows(&before, &[1, 2, 3, 4]);
    // Again and again, and over a new segment.
    for n in 0..40u64 {
        fill(&store, "b", 100 + n, 1);
        store.truncate_before("b", Expect::Any, revision(n + 1)).unwrap();
        store.append("c", Expect::Any, &[NewEvent::new("T", &vec![1; 3000]).tags(&["tag"])]).unwrap();
        store.sync().unwrap();
        beside.refresh().unwrap();
        assert_eq!(beside.reader().stream_state("b").unwrap(), live(n + 1, n + 1));
        assert_eq!(beside.reader().stream_state("a").unwrap(), deleted(4));
    }
    assert!(store.stats().segments > 1);
}

/// What a subscription hands out until it has nothing more: events and gaps by first and last position.
fn told(subscription: &mut annals::Subscription) -> Vec<(u64, u64, Option<RemovalReason>)> {
    let mut told = Vec::new();
    loop {
        match subscription.try_next().unwrap() {
            Next::Message(Message::Event(event)) => told.push((event.position().get(), event.position().get(), None)),
            Next::Message(Message::Gap { first, last, why }) => told.push((first.get(), last.get(), Some(why))),
            Next::Message(_) => {}
            Next::NotYet | Next::Ended => return told,
        }
    }
}

#[test]
fn subscriptions_tell_of_what_is_gone() {
    let store = Store::in_memory().unwrap();
    fill(&store, "a", 1, 3);
    fill(&store, "b", 4, 2);
    let mut early = store.subscribe(&Query::all(), Seek::Beginning).unwrap();
    assert_eq!(told(&mut early).len(), 5);
    store.delete("a", Expect::Any).unwrap();
    fill(&store, "b", 6, 1);
    let deleted = Some(RemovalReason::Deleted);
    for query in [Query::all(), Query::tag("tag"), Query::prefix("")] {
        let mut late = store.subscribe(&query, Seek::Beginning).unwrap();
        assert_eq!(told(&mut late), [(1, 3, deleted), (4, 4, None), (5, 5, None), (7, 7, None)], "{query:?}");
        assert_eq!(late.position(), 7);
        // In a gap and behind it nothing is lost by resuming.
        let mut resumed = store.subscribe(&query, Seek::After(2)).unwrap();
        assert_eq!(told(&mut resumed), [(3, 3, deleted), (4, 4, None), (5, 5, None), (7, 7, None)]);
        let mut borrowed = Vec::new();
        let mut late = store.subscribe(&query, Seek::Beginning).unwrap();
        let broke = late.for_each_ready(|message| {
            borrowed.push(match message {
                MessageRef::Event(event) => event.position().get(),
                MessageRef::Gap { last, .. } => last.get(),
                _ => 0,
            });
            if borrowed.len() == 2 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
        });
        assert_eq!((broke.unwrap(), &borrowed[..]), (Some(()), &[3, 4][..]));
        assert_eq!(told(&mut late), [(5, 5, None), (7, 7, None)]);
    }
    // Of other streams nothing is told, and what was handed out before stays so.
    assert_eq!(told(&mut store.subscribe(&Query::stream("b"), Seek::Beginning).unwrap()).len(), 3);
    assert_eq!(told(&mut early), [(7, 7, None)]);
    // What goes before a slow one comes to it.
    fill(&store, "c", 7, 2);
    store.truncate_before("c", Expect::Any, revision(2)).unwrap();
    store.tombstone("b", Expect::Any).unwrap();
    assert_eq!(told(&mut early), [(8, 8, Some(RemovalReason::Truncated)), (9, 9, None)]);
}

#[test]
fn a_subscription_far_behind_tells_of_gaps_too() {
    let store = Store::in_memory().unwrap();
    for n in 0..3_000u64 {
        let event = NewEvent::new(["T", "U"][n as usize % 2], b"x");
        store.append_with(["a", "b", "c"][n as usize % 3], Expect::Any, &[event], Durability::Buffered).unwrap();
    }
    store.sync().unwrap();
    store.delete("a", Expect::Any).unwrap();
    let mut far = store.subscribe(&Query::event_type("U"), Seek::Beginning).unwrap();
    let told = told(&mut far);
    let events = told.iter().filter(|(_, _, why)| why.is_none()).count();
    let gaps = told.iter().filter(|(_, _, why)| *why == Some(RemovalReason::Deleted)).count();
    // Each third event of the type is of the deleted stream, alone between the others.
    assert_eq!((events, gaps), (1_000, 500));
    assert!(told.windows(2).all(|pair| pair[0].1 < pair[1].0));
}

#[test]
fn followers_obey_as_soon_as_they_see_the_record() {
    on_each_ground(|ground| {
        let store = ground.open(options().durability(Durability::Buffered).background(false));
        fill(&store, "a", 1, 3);
        store.sync().unwrap();
        let follow = |view| options().view(view).follow_storage(ground.storage()).unwrap();
        let (durable, written) = (follow(View::Durable), follow(View::Written));
        shows(&durable.reader(), &[1, 2, 3]);
        let pinned = written.reader().read_all(&Query::all(), Seek::Beginning).unwrap();
        store.delete("a", Expect::Any).unwrap();
        fill(&store, "b", 4, 1);
        durable.refresh().unwrap();
        written.refresh().unwrap();
        shows(&durable.reader(), &[1, 2, 3]);
        shows(&written.reader(), &[5]);
        assert_eq!(pinned.count(), 3);
        // One that begins now, between the record and its being durable.
        let late = follow(View::Durable);
        shows(&late.reader(), &[1, 2, 3]);
        store.sync().unwrap();
        for follower in [&durable, &late] {
            follower.refresh().unwrap();
            shows(&follower.reader(), &[5]);
        }
        let mut subscription = durable.subscribe(&Query::all(), Seek::Beginning).unwrap();
        assert_eq!(told(&mut subscription), [(1, 3, Some(RemovalReason::Deleted)), (5, 5, None)]);
        // Over rolls, and for one that comes later.
        let payload = vec![1; 3_000];
        for n in 0..60u64 {
            let event = NewEvent::new("T", &payload).tags(&["tag"]);
            store.append("c", Expect::Any, &[event]).unwrap();
            store.truncate_before("c", Expect::Any, revision(n + 1)).unwrap();
        }
        store.sync().unwrap();
        assert!(store.stats().segments > 2);
        for follower in [&durable, &written, &follow(View::Durable), &follow(View::Written)] {
            follower.refresh().unwrap();
            assert_eq!(follower.reader().stream_state("c").unwrap(), live(60, 60));
            assert_eq!(follower.reader().count(&Query::all()).unwrap(), 2);
        }
    });
}

#[test]
fn a_store_that_keeps_everything_refuses_to_remove() {
    on_each_ground(|ground| {
        let store = ground.open(options().removal_forbidden(true));
        fill(&store, "a", 1, 2);
        let forbidden = |outcome: annals::Result<()>| assert!(matches!(outcome, Err(Error::RemovalForbidden)));
        let check = |store: &Store| {
            forbidden(store.truncate_before("a", Expect::Any, revision(2)).map(drop));
            forbidden(store.delete("a", Expect::Any).map(drop));
            forbidden(store.tombstone("a", Expect::Any).map(drop));
            forbidden(store.set_retention(&Scope::Store, Retention::new().max_bytes(1)).map(drop));
            forbidden(store.sweep().map(drop));
            forbidden(store.forget_ids("a", Expect::Any).map(drop));
            forbidden(store.forget_stream("a", Expect::Any).map(drop));
            forbidden(store.commit(&Batch::new().delete("a").event("a", NewEvent::new("T", b""))).map(drop));
            shows(&store.reader(), &[1, 2]);
        };
        check(&store);
        store.close().unwrap();
        check(&ground.open(options()));
    });
}

/// Segments that ended, tiers over them, and what is still in memory: the records are found everywhere.
#[test]
fn removals_of_a_store_of_many_segments_are_found_at_opening() {
    on_each_ground(|ground| {
        let store = ground.open(options().background(false));
        let payload = vec![1; 2_000];
        let mut expected = Vec::new();
        for n in 0..400u64 {
            let name = format!("s-{n}");
            store.append(&name, Expect::Any, &[NewEvent::new("T", &payload).tags(&["tag"])]).unwrap();
            let at = store.reader_in(View::Written).head();
            if n % 5 == 0 {
                store.delete(&name, Expect::Any).unwrap();
            } else {
                expected.push(at);
            }
        }
        assert!(store.stats().segments > 10);
        store.close().unwrap();
        for _ in 0..2 {
            let store = ground.open(options().background(false));
            assert_eq!(numbers(store.read_all(&Query::all(), Seek::Beginning)), expected);
            assert_eq!(
                numbers(ground.open_read_only(options()).reader().read_all(&Query::tag("tag"), Seek::Beginning)),
                expected
            );
            assert_eq!(store.stream_state("s-395").unwrap(), deleted(1));
            store.close().unwrap();
            // Without any index they are found as well.
            let storage = ground.storage();
            for name in storage.list().unwrap() {
                if name.ends_with(".idx") || name.starts_with("INDEX") {
                    storage.remove(&name).unwrap();
                }
            }
        }
    });
}

#[test]
fn a_damaged_control_record_is_damage_and_never_lets_data_reappear() {
    let ground = Ground::memory();
    let store = ground.open(options().background(false));
    fill(&store, "secret", 1, 3);
    let deleted_at = store.delete("secret", Expect::Any).unwrap().position.unwrap();
    fill(&store, "other", 10, 600);
    assert!(store.stats().segments > 1);
    store.close().unwrap();
    // The record's place: its body holds the name, as each of the three events before it does.
    let storage = ground.storage();
    let name = "segment-00000000000000000001.log";
    let file = storage.open(name, Access::ReadWrite).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    let places: Vec<usize> = (0..bytes.len() - 6).filter(|at| &bytes[*at..*at + 6] == b"secret").collect();
    assert_eq!((places.len(), deleted_at.get()), (4, 4));
    for at in places[3] - 40..places[3] + 6 {
        let changed = [bytes[at] ^ 1];
        file.write_at(at as u64, &[std::io::IoSlice::new(&changed)]).unwrap();
        let opened = options().open_read_only_storage(storage.clone());
        assert!(matches!(opened, Err(Error::Corrupt(_))), "byte {at}: {:?}", opened.map(|_| "opened"));
        let opened = options().open_storage(storage.clone());
        assert!(matches!(opened, Err(Error::Corrupt(_))), "byte {at}: {:?}", opened.map(|_| "opened"));
        file.write_at(at as u64, &[std::io::IoSlice::new(&bytes[at..=at])]).unwrap();
    }
    let store = options().open_storage(storage).unwrap();
    assert_eq!(store.stream_state("secret").unwrap(), deleted(3));
}

#[test]
fn what_dump_says_of_control_records() {
    let ground = Ground::memory();
    let store = ground.open(options());
    fill(&store, "a", 1, 3);
    store.truncate_before("a", Expect::Any, revision(2)).unwrap();
    store.set_retention(&Scope::Prefix("a".to_owned()), Retention::new().max_count(1)).unwrap();
    store.sweep().unwrap();
    store.delete("a", Expect::Any).unwrap();
    store.close().unwrap();
    let mut said = Vec::new();
    annals::inspect::dump_in(&*ground.storage(), 1, &mut |field| said.push((field.name, field.value, field.fault)))
        .unwrap();
    assert!(said.iter().all(|(_, _, fault)| fault.is_none()), "{said:?}");
    let has = |name: &str, value: &str| said.iter().any(|(of, is, _)| of == name && is == value);
    assert!(has("first hidden revision", "1") && has("largest number of events", "1") && has("part: last hidden", "2"));
    let report = annals::inspect::verify_in(&*ground.storage(), &mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// A finding: such a stream stood twice in the index of its segment, and `verify` told of it.
#[test]
fn a_stream_that_is_forgotten_and_begins_again_stands_once_in_the_index_of_its_segment() {
    let memory = annals::storage::Memory::new();
    let store = options().open_storage(Arc::new(memory.clone())).unwrap();
    let long = vec![7; 20_000];
    let append = |stream: &str| {
        let event = [NewEvent::new("T", &long)];
        store.append(stream, Expect::Any, &event).unwrap().first().revision.get()
    };
    assert_eq!(append("a"), 1);
    store.delete("a", Expect::Any).unwrap();
    store.forget_stream("a", Expect::Any).unwrap();
    assert_eq!(append("a"), 1);
    // The segment is full and gets its index.
    for _ in 0..4 {
        append("b");
    }
    store.close().unwrap();
    let report = annals::inspect::verify_in(&memory, &mut |_, _| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let store = options().open_storage(Arc::new(memory)).unwrap();
    assert_eq!(store.stream_state("a").unwrap(), live(1, 1));
}
