//! Appending and durability: one test for each row of the contract, named after it; that of the ids of removed events stands in
//! `removal.rs`. They run in memory and on disk, but for those that need a disk which fails, fills up or loses its power: these
//! run on the simulated one.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use annals::storage::Storage;
use annals::{
    Batch, Durability, Error, EventId, Expect, Limits, Lookup, NewEvent, OccurredAt, Options, Position, Query,
    QueryItem, Reader, Refusal, Revision, Seek, Store, StreamState, View,
};
use annals_tests::crash::Hooked;
use annals_tests::model::{Ground, ManualClock, on_each_ground};
use annals_tests::sim_disk::{FaultKind, Repeat, SimDisk, is_power_off};

fn event(payload: &str) -> NewEvent<'_> {
    NewEvent::new("T", payload)
}

fn revision(number: u64) -> Revision {
    Revision::new(number).unwrap()
}

fn position(number: u64) -> Option<Position> {
    Position::new(number)
}

fn small() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10)
}

fn payloads(store: &Store) -> Vec<String> {
    let read = store.reader_in(View::Written).read_all(&Query::all(), Seek::Beginning).unwrap();
    read.map(|event| String::from_utf8(event.unwrap().payload().to_vec()).unwrap()).collect()
}

/// The failures of a conflict, and its head.
#[track_caller]
fn refusals(outcome: annals::Result<annals::Receipt>) -> (u64, Vec<Refusal>) {
    match outcome {
        Err(Error::Conflict(conflict)) => (conflict.head, conflict.failed),
        other => panic!("a conflict was due, not {other:?}"),
    }
}

#[track_caller]
fn invalid(outcome: annals::Result<annals::Receipt>) -> annals::Invalid {
    match outcome {
        Err(Error::Invalid(invalid)) => *invalid,
        other => panic!("Invalid was due, not {other:?}"),
    }
}

fn live(last: u64) -> StreamState {
    StreamState::Live { first: Revision::FIRST, last: revision(last) }
}

#[test]
fn every_expectation_in_every_state() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        store.append("there", Expect::Any, &[event("1"), event("2")]).unwrap();
        let table = [
            (Expect::Any, true, true),
            (Expect::NoStream, true, false),
            (Expect::Vacant, true, false),
            (Expect::Exists, false, true),
            (Expect::At(revision(2)), false, true),
            (Expect::At(revision(1)), false, false),
            (Expect::At(revision(3)), false, false),
            (Expect::Deleted, false, false),
        ];
        for (expect, absent_passes, live_passes) in table {
            for (stream, passes, state) in
                [("absent", absent_passes, StreamState::Absent), ("there", live_passes, live(2))]
            {
                // As a guard, so that the state stays as it is for the next row.
                let batch = Batch::new().expect(stream, expect).event("log", event("x"));
                let outcome = store.commit(&batch);
                if passes {
                    outcome.unwrap_or_else(|error| panic!("{expect:?} of {stream}: {error}"));
                } else {
                    let wanted = Refusal::Stream { stream: stream.to_owned(), expected: expect, actual: state };
                    assert_eq!(refusals(outcome).1, [wanted], "{expect:?} of {stream}");
                }
                if !passes {
                    assert!(store.append(stream, expect, &[event("x")]).is_err(), "{expect:?} of {stream}");
                }
            }
        }
        assert_eq!(store.append("fresh", Expect::NoStream, &[event("x")]).unwrap().revision(), Revision::FIRST);
        assert_eq!(store.append("there", Expect::At(revision(2)), &[event("x")]).unwrap().revision(), revision(3));
    });
}

#[test]
fn an_expectation_fails_all_failures_are_told_and_nothing_is_written() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let first = store.append("a", Expect::Any, &[event("1").tags(&["k:1"])]).unwrap();
        store.append("b", Expect::Any, &[event("2"), event("3")]).unwrap();
        let tagged = Query::tag("k:1");
        let batch = Batch::new()
            .expect("a", Expect::NoStream)
            .expect("b", Expect::At(revision(1)))
            .expect("c", Expect::Exists)
            .expect("b", Expect::Exists)
            .condition(Query::event_type("U"), None)
            .condition(tagged, None)
            .condition(Query::stream("b"), position(2))
            .event("a", event("4"));
        let (head, failed) = refusals(store.commit(&batch));
        assert_eq!(head, 3);
        let stream = |stream: &str, expected, actual| Refusal::Stream { stream: stream.to_owned(), expected, actual };
        let third = store.at(position(3).unwrap()).unwrap().unwrap().id();
        assert_eq!(
            failed,
            [
                stream("a", Expect::NoStream, live(1)),
                stream("b", Expect::At(revision(1)), live(2)),
                stream("c", Expect::Exists, StreamState::Absent),
                Refusal::Condition { index: 1, after: None, newest: Position::FIRST, id: first.first().id },
                Refusal::Condition { index: 2, after: position(2), newest: position(3).unwrap(), id: third },
            ]
        );
        assert_eq!(payloads(&store), ["1", "2", "3"]);
        assert_eq!(store.append("a", Expect::Any, &[event("5")]).unwrap().position(), position(4).unwrap());
    });
}

#[test]
fn a_reread_after_a_conflict_sees_what_refused() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        store.append_with("s", Expect::Any, &[event("1")], Durability::Buffered).unwrap();
        assert!(store.head() <= 1);
        let (head, _) = refusals(store.append("s", Expect::NoStream, &[event("2")]));
        assert!(store.head() >= head, "the default view shows the head {head} that the conflict names");
        assert_eq!(store.stream_state("s").unwrap(), live(1));
        assert!(store.reader_in(View::Durable).head() >= head);
    });
}

#[test]
fn the_same_conditions_for_streams_it_does_not_write() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        store.append("guard", Expect::Any, &[event("g")]).unwrap();
        let with = |expect| Batch::new().expect("guard", expect).event("s", event("x"));
        assert!(store.commit(&with(Expect::At(revision(1)))).is_ok());
        assert_eq!(store.stream_state("guard").unwrap(), live(1), "a guard writes nothing");
        assert_eq!(refusals(store.commit(&with(Expect::At(revision(2))))).1.len(), 1);
        assert!(store.commit(&with(Expect::Exists)).is_ok());
        assert_eq!(refusals(store.commit(&with(Expect::NoStream))).1.len(), 1);
    });
}

#[test]
fn an_append_condition_fails_if_a_match_stands_after_its_position() {
    on_each_ground(|ground| {
        let store = ground.open(small());
        store.append("course-1", Expect::Any, &[event("1").tags(&["course:1", "student:1"])]).unwrap();
        store.append("course-2", Expect::Any, &[event("2").tags(&["course:2"])]).unwrap();
        let both = || Query::item(QueryItem::new().tags_all(["course:1", "student:1"]));
        let when = |query, after| {
            let batch = Batch::new().condition(query, after).event("log", event("x"));
            store.commit(&batch)
        };
        assert_eq!(refusals(when(both(), None)).1.len(), 1);
        assert!(when(both(), position(1)).is_ok(), "the match stands at 1, not after it");
        assert!(when(Query::tag("course:3"), None).is_ok());
        assert_eq!(refusals(when(Query::all(), position(2))).1.len(), 1);
        let head = store.head();
        assert!(when(Query::all(), position(head)).is_ok(), "nothing stands after the head");
        assert_eq!(refusals(when(Query::prefix("course-"), None)).1.len(), 1);
        assert!(when(Query::prefix("course-"), position(2)).is_ok());
        // Its own events do not count: the store is judged as it was before the batch.
        let own = Batch::new().condition(Query::tag("own"), None).event("s", event("o").tags(&["own"]));
        assert!(store.commit(&own).is_ok());
        assert_eq!(refusals(store.commit(&own)).1.len(), 1);
    });
}

#[test]
fn a_condition_reaches_back_over_rolled_segments_and_a_reopening() {
    on_each_ground(|ground| {
        let store = ground.open(small());
        store.append("s", Expect::Any, &[event("old").tags(&["unique:7"])]).unwrap();
        let filler = "x".repeat(4000);
        for _ in 0..60 {
            store.append("filler", Expect::Any, &[event(&filler)]).unwrap();
        }
        assert!(store.stats().segments > 3);
        let batch = Batch::new().condition(Query::tag("unique:7"), None).event("s", event("new").tags(&["unique:7"]));
        assert_eq!(refusals(store.commit(&batch)).1.len(), 1);
        store.close().unwrap();
        let store = ground.open(small());
        let (_, failed) = refusals(store.commit(&batch));
        assert!(matches!(failed[..], [Refusal::Condition { newest: Position::FIRST, .. }]), "{failed:?}");
    });
}

#[test]
fn nothing_at_all_in_the_batch_is_empty() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        assert!(matches!(store.append("s", Expect::Any, &[]), Err(Error::Empty)));
        assert!(matches!(store.commit(&Batch::new()), Err(Error::Empty)));
        let only_guards = Batch::new().expect("s", Expect::Exists).condition(Query::all(), None);
        assert!(matches!(store.commit(&only_guards), Err(Error::Empty)), "form is judged before expectations");
        assert!(matches!(store.submit(&Batch::new()), Err(Error::Empty)));
    });
}

#[test]
fn after_beyond_the_head_is_ahead_of_log() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        store.append_with("s", Expect::Any, &[event("1"), event("2")], Durability::Buffered).unwrap();
        let with = |after| Batch::new().condition(Query::tag("t"), position(after)).event("s", event("x"));
        match store.commit(&with(3)) {
            Err(Error::AheadOfLog { given: 3, head: 2 }) => {}
            other => panic!("{other:?}"),
        }
        assert!(store.commit(&with(2)).is_ok(), "judged against the writer's written head, not the view's");
        assert!(matches!(store.commit(&with(u64::MAX)), Err(Error::AheadOfLog { .. })));
    });
}

#[test]
fn all_ids_present_with_the_same_content_is_already_committed() {
    on_each_ground(|ground| {
        let clock = ManualClock::at(1_000);
        let store = ground.open(Options::new().clock(Arc::new(clock.clone())));
        let first = store.append("s", Expect::Any, &[event("1").id(1u128), event("2").id(2u128)]).unwrap();
        assert!(!first.already_committed());
        clock.set(2_000);
        store.append("s", Expect::Any, &[event("3").id(3u128)]).unwrap();
        let again = store.append("s", Expect::Any, &[event("1").id(1u128), event("2").id(2u128)]).unwrap();
        assert!(again.already_committed());
        assert_eq!(again.events(), first.events(), "position, revision, time and id of the first answer");
        // Also when they were stored in several batches, in another order.
        let mixed = store.append("s", Expect::Any, &[event("3").id(3u128), event("1").id(1u128)]).unwrap();
        assert!(mixed.already_committed());
        let numbers: Vec<_> = mixed.events().iter().map(|e| (e.position.get(), e.recorded_at)).collect();
        assert_eq!(numbers, [(3, 2_000), (1, 1_000)]);
        assert_eq!(payloads(&store), ["1", "2", "3"]);
    });
}

#[test]
fn a_retry_is_judged_before_expectations() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let batch = Batch::new()
            .expect("s", Expect::NoStream)
            .condition(Query::stream("s"), None)
            .event("s", event("1").id(1u128));
        let first = store.commit(&batch).unwrap();
        store.append("s", Expect::Any, &[event("2")]).unwrap();
        let again = store.commit(&batch).unwrap();
        assert!(again.already_committed());
        assert_eq!(again.events(), first.events());
        let ahead = batch.clone().condition(Query::all(), position(99));
        assert!(store.commit(&ahead).unwrap().already_committed(), "before `after` is looked at as well");
    });
}

#[test]
fn a_retry_is_exact_for_ever_across_reopening_and_rolling() {
    on_each_ground(|ground| {
        let filler = "x".repeat(3000);
        let mut known = Vec::new();
        for round in 0..3u128 {
            let store = ground.open(small());
            for n in 0..40u128 {
                let id = round * 1000 + n;
                let receipt = store.append("s", Expect::Any, &[event(&filler).id(id)]).unwrap();
                known.push((id, receipt));
            }
            for (id, receipt) in &known {
                let again = store.append("s", Expect::NoStream, &[event(&filler).id(*id)]).unwrap();
                assert!(again.already_committed());
                assert_eq!(again.events(), receipt.events());
            }
            assert!(store.stats().segments > 2);
            store.close().unwrap();
        }
        assert_eq!(ground.open(small()).head(), 120);
    });
}

#[test]
fn a_retry_of_something_in_flight_waits_for_it() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let batch = Batch::new().event("s", event("1").id(1u128));
        let ticket = store.submit(&batch).unwrap();
        let again = store.commit(&batch).unwrap();
        assert!(again.already_committed());
        assert!(store.reader_in(View::Durable).head() >= 1, "the answer rests on what is durable now");
        assert_eq!(ticket.wait().unwrap().events(), again.events());
    });
}

#[test]
fn the_same_id_with_other_content_is_duplicate_id() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let at = OccurredAt { nanos: -5, digits: 3 };
        let full = NewEvent::new("T", b"p")
            .id(9u128)
            .tags(&["a", "b"])
            .metadata(b"m")
            .occurred_at(at)
            .schema_version(2)
            .content_type("text/plain")
            .correlation(b"c1")
            .causation(b"c2");
        let position = store.append("s", Expect::Any, &[full]).unwrap().position();
        let plain = NewEvent::new("T", b"p").id(9u128);
        let others = [
            full.tags(&["b", "a"]),
            full.tags(&["a"]),
            full.tags(&["a", "b", "b"]),
            full.tags(&["ab"]),
            full.metadata(b""),
            full.metadata(b"mm"),
            full.occurred_at(OccurredAt { nanos: -5, digits: 9 }),
            full.occurred_at(OccurredAt { nanos: -4, digits: 3 }),
            full.schema_version(3),
            full.content_type("text/html"),
            full.content_type(""),
            full.correlation(b"c2"),
            full.causation(b""),
            NewEvent::new("U", b"p").id(9u128).tags(&["a", "b"]),
            NewEvent::new("T", b"q").id(9u128),
            plain,
        ];
        for (index, other) in others.iter().enumerate() {
            match store.append("s", Expect::Any, &[*other]) {
                Err(Error::DuplicateId { id, at }) => assert_eq!((id, at), (9u128.into(), position), "row {index}"),
                outcome => panic!("row {index}: {outcome:?}"),
            }
        }
        assert!(matches!(store.append("s2", Expect::Any, &[full]), Err(Error::DuplicateId { .. })));
        // Beside one that is new, the other content still counts first.
        let mixed = store.append("s", Expect::Any, &[event("new").id(10u128), plain]);
        assert!(matches!(mixed, Err(Error::DuplicateId { .. })), "{mixed:?}");
        assert!(store.append("s", Expect::Any, &[full]).unwrap().already_committed());
        assert_eq!(store.head(), 1);
    });
}

#[test]
fn absent_and_empty_optional_fields_are_different_content() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let none = event("p").id(1u128);
        let empty = event("p").id(2u128).content_type("").correlation(b"").causation(b"").schema_version(0);
        store.append("s", Expect::Any, &[none, empty]).unwrap();
        assert!(store.append("s", Expect::Any, &[none, empty]).unwrap().already_committed());
        for changed in [none.content_type(""), none.correlation(b""), none.causation(b""), none.schema_version(0)] {
            assert!(matches!(store.append("s", Expect::Any, &[changed]), Err(Error::DuplicateId { .. })));
        }
    });
}

#[test]
fn content_is_not_expectation_batch_durability_or_who_made_the_id() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        store.append("s", Expect::NoStream, &[event("1").id(1u128)]).unwrap();
        let batch = Batch::new()
            .expect("s", Expect::Deleted)
            .event("s", event("1").id(1u128))
            .durability(Durability::Buffered)
            .written_as_batch(true);
        assert!(store.commit(&batch).unwrap().already_committed());
        let made = store.append("s", Expect::Any, &[event("2"), event("3")]).unwrap();
        let again = [event("2").id(made.first().id), event("3").id(made.last().id)];
        let retried = store.append("s", Expect::NoStream, &again).unwrap();
        assert!(retried.already_committed(), "generated ids may be used for a retry");
        assert_eq!(retried.events(), made.events());
        let Lookup::Found(found) = store.by_id(made.first().id).unwrap() else { panic!("not found") };
        assert!(found.id_generated());
    });
}

#[test]
fn some_ids_present_some_not_is_partial_duplicate() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        store.append("s", Expect::Any, &[event("1").id(1u128), event("3").id(3u128)]).unwrap();
        let mixed = [event("0").id(0u128), event("1").id(1u128), event("2").id(2u128), event("3").id(3u128)];
        match store.append("s", Expect::NoStream, &mixed) {
            Err(Error::PartialDuplicate { present, absent }) => {
                let ids = |ids: [u128; 2]| ids.map(EventId::from).to_vec();
                assert_eq!((present, absent), (ids([1, 3]), ids([0, 2])));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(store.head(), 2, "nothing written");
    });
}

#[test]
fn same_id_twice_in_a_batch_and_ids_on_some_events_only_are_invalid() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let twice = invalid(store.append(
            "s",
            Expect::Any,
            &[event("1").id(1u128), event("2").id(2u128), event("1").id(1u128)],
        ));
        assert_eq!(twice.index, Some(2));
        let some = invalid(store.append("s", Expect::Any, &[event("1").id(1u128), event("2")]));
        assert_eq!(some.index, Some(1));
        let some = invalid(store.append("s", Expect::Any, &[event("1"), event("2"), event("3").id(1u128)]));
        assert_eq!(some.index, Some(2));
        assert_eq!(store.reader_in(View::Written).head(), 0);
    });
}

#[test]
fn generated_ids_are_version_7_unique_and_named() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let mut seen = BTreeSet::new();
        for _ in 0..50 {
            let receipt = store.append_with("s", Expect::Any, &[event("1"), event("2")], Durability::Buffered).unwrap();
            for committed in receipt.events() {
                let bytes = committed.id.to_bytes();
                assert_eq!((bytes[6] >> 4, bytes[8] >> 6), (7, 2), "{}", committed.id);
                assert!(seen.insert(committed.id));
            }
        }
        store.sync().unwrap();
        for id in seen {
            assert!(
                matches!(store.by_id(id).unwrap(), Lookup::Found(event) if event.id() == id && event.id_generated())
            );
        }
    });
}

#[test]
fn over_a_limit_is_invalid_naming_index_size_limit() {
    on_each_ground(|ground| {
        let limits = Limits { payload_len: 100, metadata_len: 50, tag_count: 3, batch_event_count: 4, batch_len: 1000 };
        let store = ground.open(Options::new().limits(limits));
        let long = "x".repeat(300);
        let measure = |invalid: annals::Invalid| (invalid.index, invalid.size, invalid.limit);
        let one = |second: NewEvent<'_>| measure(invalid(store.append("s", Expect::Any, &[event("ok"), second])));
        assert_eq!(one(event(&long[..101])), (Some(1), Some(101), Some(100)));
        assert_eq!(one(event("").metadata(&long[..51])), (Some(1), Some(51), Some(50)));
        assert_eq!(one(event("").tags(&["a", "b", "c", "d"])), (Some(1), Some(4), Some(3)));
        assert_eq!(one(event("").content_type(&long[..256])), (Some(1), Some(256), Some(255)));
        assert_eq!(one(event("").correlation(&long[..256])), (Some(1), Some(256), Some(255)));
        assert_eq!(one(event("").causation(&long[..256])), (Some(1), Some(256), Some(255)));
        assert_eq!(one(NewEvent::new(&long[..256], b"")), (Some(1), Some(256), Some(255)));
        assert_eq!(one(event("").tags(&["a", &long[..256]])), (Some(1), Some(256), Some(255)));
        assert_eq!(
            measure(invalid(store.append(&long[..256], Expect::Any, &[event("")]))),
            (Some(0), Some(256), Some(255))
        );
        let five = [event(""); 5];
        assert_eq!(measure(invalid(store.append("s", Expect::Any, &five))), (None, Some(5), Some(4)));
        let wide = [event(&long[..100]).metadata(&long[..50]).content_type(&long[..255]); 4];
        let whole = invalid(store.append("s", Expect::Any, &wide));
        assert_eq!((whole.index, whole.limit), (None, Some(1000)));
        assert!(whole.size.unwrap() > 1000);
        assert_eq!(store.reader_in(View::Written).head(), 0);
        // At each limit it is allowed.
        let full = event(&long[..100]).metadata(&long[..50]).tags(&["a", "b", "c"]).content_type(&long[..255]);
        store.append(&long[..255], Expect::Any, &[full]).unwrap();
        store.append("s", Expect::Any, &[event(""); 4]).unwrap();
    });
}

#[test]
fn limits_are_kept_by_the_store() {
    on_each_ground(|ground| {
        let limits = Limits { payload_len: 10, ..Limits::default() };
        ground.open(Options::new().limits(limits)).close().unwrap();
        let store = ground.open(Options::new());
        assert_eq!(invalid(store.append("s", Expect::Any, &[event("12345678901")])).limit, Some(10));
    });
}

#[test]
fn the_default_limits_are_those_of_the_contract() {
    let limits = Limits::default();
    assert_eq!((limits.payload_len, limits.metadata_len, limits.tag_count), (16 << 20, 64 << 10, 64));
    assert_eq!((limits.batch_event_count, limits.batch_len), (65_535, 64 << 20));
    let store = Store::in_memory().unwrap();
    let large = vec![7; 16 << 20];
    store.append("s", Expect::Any, &[NewEvent::new("T", &large)]).unwrap();
    let many = vec![event(""); 65_535];
    store.append("s", Expect::Any, &many).unwrap();
    let five = vec![NewEvent::new("T", &large); 5];
    assert_eq!(invalid(store.append("s", Expect::Any, &five)).limit, Some(64 << 20));
    assert_eq!(store.read_stream("s", Seek::Beginning).unwrap().map(Result::unwrap).count(), 65_536);
}

#[test]
fn names_are_1_to_255_bytes_without_control_characters_and_a_leading_dollar_is_reserved() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        for bad in ["", "$all", "$", "a\nb", "\u{7f}", "\u{85}", "tab\t", "nul\0", &"é".repeat(128)] {
            assert_eq!(invalid(store.append(bad, Expect::Any, &[event("")])).index, Some(0), "stream {bad:?}");
            let typed = [event(""), NewEvent::new(bad, b"")];
            assert_eq!(invalid(store.append("s", Expect::Any, &typed)).index, Some(1), "type {bad:?}");
            let tags = ["ok", bad];
            let tagged = [event(""), event("").tags(&tags)];
            assert_eq!(invalid(store.append("s", Expect::Any, &tagged)).index, Some(1), "tag {bad:?}");
        }
        for good in ["a$", "../../etc/passwd", ".", "CON", " ", "é", "e\u{301}", "a/b\\c", "日本", &"x".repeat(255)]
        {
            let tags = [good];
            store.append(good, Expect::NoStream, &[NewEvent::new(good, b"").tags(&tags)]).unwrap();
        }
        let dollar = Batch::new().expect("", Expect::NoStream).event("s", event(""));
        assert!(matches!(store.commit(&dollar), Err(Error::Invalid(_))));
        let item = Batch::new().condition(Query::item(QueryItem::new()), None).event("s", event(""));
        assert!(matches!(store.commit(&item), Err(Error::Invalid(_))), "an item without parts");
    });
}

#[test]
fn two_appends_of_one_group_commit_conflict_normally() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let batch = |payload| Batch::new().expect("s", Expect::NoStream).event("s", event(payload));
        let first = store.submit(&batch("1")).unwrap();
        let second = store.submit(&batch("2")).unwrap();
        assert_eq!(refusals(second.wait()).1.len(), 1);
        assert_eq!(first.wait().unwrap().position(), Position::FIRST);
        assert_eq!(payloads(&store), ["1"]);
    });
}

#[test]
fn no_room_is_no_space_the_writer_lives_and_the_same_append_may_be_tried_again() {
    for background in [false, true] {
        let disk = SimDisk::new();
        let options = || small().background(background);
        let store = options().open_storage(Arc::new(disk.clone())).unwrap();
        let payload = "x".repeat(9000);
        disk.set_capacity(Some(1));
        let mut committed = 0;
        let refused = loop {
            let batch = [event(&payload).id(committed as u128 + 1)];
            match store.append("s", Expect::Any, &batch) {
                Ok(_) => committed += 1,
                Err(error) => break error,
            }
            assert!(committed < 50);
        };
        assert!(matches!(refused, Error::NoSpace { .. }), "{refused}");
        assert_eq!(store.reader_in(View::Written).head(), committed, "no position consumed");
        let retried = store.append("s", Expect::Any, &[event(&payload).id(1u128)]);
        assert!(retried.unwrap().already_committed(), "a retry is answered although the disk is full");
        let conflicting = store.append("s", Expect::NoStream, &[event(&payload)]);
        assert!(matches!(conflicting, Err(Error::NoSpace { .. })), "space is judged before expectations");
        assert!(store.append("s", Expect::Any, &[event("small")]).is_ok(), "what fits goes on");
        disk.set_capacity(None);
        let again = store.append("s", Expect::Any, &[event(&payload)]).unwrap();
        assert_eq!(again.position().get(), committed + 2);
        store.close().unwrap();
        let store = options().open_storage(Arc::new(disk)).unwrap();
        assert_eq!(store.head(), committed + 2);
    }
}

#[test]
fn beyond_its_quota_a_store_answers_no_space() {
    on_each_ground(|ground| {
        let store = ground.open(small().quota_bytes(Some(256 << 10)));
        let payload = "x".repeat(9000);
        let refused = (0..100).find_map(|_| store.append("s", Expect::Any, &[event(&payload)]).err()).unwrap();
        assert!(matches!(refused, Error::NoSpace { .. }), "{refused}");
        assert!(store.stats().segment_bytes <= 256 << 10);
        let head = store.head();
        assert!(head >= 20, "{head} events of 9 KB in 256 KiB");
        store.close().unwrap();
        let store = ground.open(small());
        assert_eq!(store.head(), head);
        let outcomes: Vec<_> =
            (0..20).filter_map(|_| store.append("s", Expect::Any, &[event(&payload)]).err()).collect();
        assert!(outcomes.iter().all(|error| matches!(error, Error::NoSpace { .. })) && !outcomes.is_empty());
    });
}

/// What fails, and what the store says that failed.
const FAILURES: [(FaultKind, &str); 5] = [
    (FaultKind::Eio, "write segment-"),
    (FaultKind::Enospc, "write segment-"),
    (FaultKind::ShortWrite, "write segment-"),
    (FaultKind::TornWriteHalf, "write segment-"),
    (FaultKind::SyncFail, "sync segment-"),
];

#[test]
fn a_failed_or_short_write_or_sync_is_outcome_unknown_to_every_append_in_flight() {
    for (kind, said) in FAILURES {
        for durability in [Durability::Durable, Durability::Buffered] {
            for disk in [SimDisk::new(), SimDisk::new().without_shared_maps()] {
                println!("{kind:?}, {durability:?}, shared maps: {}", disk.map_is_shared());
                fail_in_flight(&disk, kind, said, durability);
            }
        }
    }
}

/// Batches of two events in two streams: the first three are known durable when it fails, one was acknowledged by a buffered
/// store or commit, all others are in flight.
const DURABLE: usize = 3;
const BUFFERED: usize = 1;
const TICKETS: usize = 5;
const THREADS: usize = 4;
const BATCHES: usize = DURABLE + BUFFERED + TICKETS + THREADS;

/// The ids of batch number `n`.
fn ids_of(n: usize) -> [EventId; 2] {
    [2 * n as u128 + 1, 2 * n as u128 + 2].map(EventId::from)
}

/// Streams, and what stands in them, by number of the batch; the last is never stored.
const OWN: [&str; BATCHES + 1] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"];

fn numbered(n: usize) -> Batch<'static> {
    two_events(n, ids_of(n))
}

fn two_events(n: usize, ids: [EventId; 2]) -> Batch<'static> {
    let events = ids.map(|id| event(OWN[n]).id(id));
    Batch::new().event("all", events[0]).event(OWN[n], events[1]).durability(Durability::Durable)
}

fn fail_in_flight(disk: &SimDisk, kind: FaultKind, said: &str, durability: Durability) {
    // Without a ring that outlives the process each append is written to the segment at once, under the writer's lock: the one
    // whose write fails is the last that is in flight. Else they all wait for one who writes and syncs for them.
    let fails_alone = !disk.map_is_shared() && kind != FaultKind::SyncFail;
    let batches = DURABLE + BUFFERED + TICKETS + if fails_alone { 1 } else { THREADS };
    let options = || small().background(false).durability(durability);
    let in_flight: Arc<OnceLock<Reader>> = Arc::default();
    let (failing, written) = (disk.clone(), Arc::clone(&in_flight));
    // The failure has happened and nobody knows yet: until all that shall be in flight are.
    let hooked = Hooked::on_failure(disk, move || {
        if failing.faults_hit() > 0 && !fails_alone {
            let reader = written.get().expect("it fails after the reader was opened");
            wait_until("all to be in flight", || reader.head() == 2 * batches as u64);
        }
    });
    let store = options().open_storage(Arc::new(hooked)).unwrap();
    assert!(in_flight.set(store.reader_in(View::Written)).is_ok());
    let mut known: Vec<Vec<EventId>> = Vec::new();
    for n in 0..DURABLE {
        known.push(store.commit(&numbered(n)).unwrap().events().iter().map(|event| event.id).collect());
    }
    let doubtful = store.commit(&numbered(DURABLE).durability(Durability::Buffered)).unwrap();
    known.push(doubtful.events().iter().map(|event| event.id).collect());
    let durable = 2 * DURABLE as u64;
    let opened_before = store.reader_in(View::Durable);
    assert_eq!((opened_before.head(), store.reader_in(View::Written).head()), (durable, durable + 2));

    let first = DURABLE + BUFFERED;
    let mut tickets: Vec<_> = (first..first + TICKETS - 2).map(|n| store.submit(&numbered(n)).unwrap()).collect();
    // One whose ids the store makes, and one that is acknowledged as soon as somebody asks; here nobody does before it fails.
    let (generated, late) = (first + TICKETS - 2, first + TICKETS - 1);
    let made = Batch::new().event("all", event(OWN[generated])).event(OWN[generated], event(OWN[generated]));
    tickets.push(store.submit(&made.durability(Durability::Durable)).unwrap());
    let asked_late = store.submit(&numbered(late).durability(Durability::Buffered)).unwrap();
    // It fails once: whoever tried again would be told that all is well.
    let (after, repeat) = match kind {
        FaultKind::SyncFail if disk.map_is_shared() => (1, Repeat::Once),
        FaultKind::SyncFail => (0, Repeat::Forever),
        _ => (0, Repeat::Once),
    };
    disk.fail_at(disk.steps() + after, kind, repeat);
    let outcomes: Vec<annals::Result<annals::Receipt>> = std::thread::scope(|scope| {
        let store = &store;
        let append = |n| scope.spawn(move || store.commit(&numbered(n)));
        let appending: Vec<_> = (first + TICKETS..batches).map(append).collect();
        while fails_alone && !appending.iter().all(|thread| thread.is_finished()) {
            std::thread::yield_now();
        }
        let waiting: Vec<_> = tickets.into_iter().map(|ticket| scope.spawn(|| ticket.wait())).collect();
        let mut outcomes: Vec<_> = waiting.into_iter().map(|thread| thread.join().unwrap()).collect();
        outcomes.push(asked_late.wait());
        outcomes.extend(appending.into_iter().map(|thread| thread.join().unwrap()));
        outcomes
    });
    assert_eq!(disk.faults_hit(), 1);
    disk.clear_faults();
    for (n, outcome) in (first..).zip(outcomes) {
        let Err(Error::OutcomeUnknown { ids, reason }) = outcome else { panic!("batch {n}: {outcome:?}") };
        assert!(reason.contains(said), "batch {n}: {reason}");
        if n == generated {
            assert_eq!(ids.len(), 2, "generated ids are named");
        } else {
            assert_eq!(ids, ids_of(n), "batch {n}: its own ids, in order");
        }
        known.push(ids);
    }
    assert_eq!(
        known.iter().flatten().collect::<BTreeSet<_>>().len(),
        2 * batches,
        "nobody was told the ids of another"
    );

    // The writer is poisoned and says so: to new batches, to retries of what stands, to every other verb.
    let poisoned = |outcome: Result<(), Error>| match outcome {
        Err(Error::Poisoned { reason }) => assert!(reason.contains(said), "{reason}"),
        other => panic!("Poisoned was due, not {other:?}"),
    };
    let steps = disk.steps();
    poisoned(store.append("s", Expect::Any, &[event("later")]).map(drop));
    poisoned(store.append_with("s", Expect::Any, &[event("later")], Durability::Buffered).map(drop));
    poisoned(store.commit(&numbered(0)).map(drop));
    poisoned(store.commit(&numbered(first)).map(drop));
    poisoned(store.submit(&numbered(BATCHES)).map(drop));
    poisoned(store.try_submit(&numbered(BATCHES)).map(drop));
    poisoned(store.delete("all", Expect::Any).map(drop));
    poisoned(store.sync().map(drop));
    assert_eq!(disk.steps(), steps, "it writes and syncs nothing any more");

    // Readers go on up to the durable head: those opened before and those opened now.
    let mut readers = vec![opened_before, store.reader_in(View::Durable)];
    if durability == Durability::Durable {
        readers.push(store.reader());
    }
    for reader in &readers {
        assert_eq!(reader.head(), durable);
        let read = reader.read_all(&Query::all(), Seek::Beginning).unwrap().map(Result::unwrap);
        let ids: Vec<EventId> = read.map(|event| event.id()).collect();
        assert_eq!(ids, known[..DURABLE].concat());
        for id in known[DURABLE..].iter().flatten() {
            assert!(matches!(reader.by_id(*id), Ok(Lookup::NotFound)), "{id} is not known durable");
        }
        let beyond = reader.read_all(&Query::all(), Seek::After(durable + 2));
        assert!(matches!(beyond, Err(Error::AheadOfLog { head, .. }) if head == durable));
        assert_eq!(reader.stream_state("all").unwrap(), live(DURABLE as u64));
        assert_eq!(reader.read_stream("all", Seek::Beginning).unwrap().map(Result::unwrap).count(), DURABLE);
    }

    // Reopened in the same boot, by another process, and after power cuts.
    let mut kept = BTreeSet::new();
    let killed = disk.after_kill();
    let lost: Vec<SimDisk> = (0..8).map(|seed| disk.after_power_loss(seed)).collect();
    drop(readers);
    assert!(store.close().is_err(), "a poisoned store says so when it is closed");
    for reborn in lost.iter().chain([&killed, disk]) {
        kept.insert(each_whole_or_not_and_once(reborn, &options, &known));
    }
    assert!(kept.len() > 1, "some states keep more than others: {kept:?}");
}

/// After a failure: each batch is there whole or not at all, the first ones in any case; a retry is answered by that and nothing
/// is stored twice. Answers how many were there.
fn each_whole_or_not_and_once(disk: &SimDisk, options: &impl Fn() -> Options, known: &[Vec<EventId>]) -> usize {
    let retry = |store: &Store, n: usize| {
        store.commit(&two_events(n, [known[n][0], known[n][1]])).expect("a retry is answered")
    };
    let store = options().open_storage(Arc::new(disk.clone())).unwrap();
    let found: Vec<Vec<Option<u64>>> = known
        .iter()
        .map(|ids| {
            let lookups = ids.iter().map(|id| match store.by_id(*id).unwrap() {
                Lookup::Found(event) => Some(event.position().get()),
                Lookup::NotFound => None,
                other => panic!("{other:?}"),
            });
            lookups.collect()
        })
        .collect();
    let count = found.iter().filter(|places| places[0].is_some()).count();
    let mut answered = Vec::new();
    for (n, places) in found.iter().enumerate() {
        let is_there = places[0].is_some();
        assert!(places.iter().all(|place| place.is_some() == is_there), "batch {n} is there by half: {places:?}");
        assert!(is_there || n >= DURABLE, "batch {n} was acknowledged as durable");
        let receipt = retry(&store, n);
        assert_eq!(receipt.already_committed(), is_there, "batch {n}");
        if is_there {
            let told: Vec<_> = receipt.events().iter().map(|event| Some(event.position.get())).collect();
            assert_eq!(&told, places, "batch {n}");
        }
        answered.push(receipt);
    }
    let stored_once = |store: &Store| {
        assert_eq!(store.head(), 2 * known.len() as u64, "what was lost leaves no hole");
        let read = store.read_all(&Query::all(), Seek::Beginning).unwrap().map(Result::unwrap);
        let mut ids: Vec<EventId> = read.map(|event| event.id()).collect();
        ids.sort_unstable();
        let mut all = known.concat();
        all.sort_unstable();
        assert_eq!(ids, all);
        for (n, receipt) in answered.iter().enumerate() {
            let again = retry(store, n);
            assert!(again.already_committed(), "batch {n}");
            assert_eq!(again.events(), receipt.events(), "batch {n}");
        }
    };
    stored_once(&store);
    store.close().unwrap();
    let store = options().open_storage(Arc::new(disk.clone())).unwrap();
    assert!(store.recovery_report().clean);
    stored_once(&store);
    count
}

#[test]
fn a_second_writer_is_locked_at_once() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let begun = Instant::now();
        match Options::new().open_storage(ground.storage()) {
            Err(Error::Locked { pid }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{:?}", other.map(|_| "opened")),
        }
        assert!(begun.elapsed() < Duration::from_secs(1));
        let clone = store.clone();
        store.close().unwrap();
        assert!(Options::new().open_storage(ground.storage()).is_ok(), "closing frees the lock although a clone lives");
        drop(clone);
    });
}

#[test]
fn a_second_writer_of_another_process_is_locked_at_once() {
    const PLACE: &str = "ANNALS_TEST_LOCKED_STORE";
    if let Some(place) = std::env::var_os(PLACE) {
        // This is the other process.
        let locked = matches!(Store::open(place), Err(Error::Locked { pid: Some(pid) }) if pid != std::process::id());
        std::process::exit(if locked { 42 } else { 1 });
    }
    let ground = Ground::disk();
    let store = ground.open(Options::new());
    let other = || {
        let mut other = std::process::Command::new(std::env::current_exe().unwrap());
        other.args(["--exact", "a_second_writer_of_another_process_is_locked_at_once"]);
        other.env(PLACE, ground.path().unwrap()).stdout(std::process::Stdio::null());
        other.status().unwrap().code()
    };
    assert_eq!(other(), Some(42));
    store.close().unwrap();
    assert_eq!(other(), Some(1), "the other process opens it now");
}

#[test]
fn a_clock_that_goes_backwards_never_takes_recorded_at_back() {
    on_each_ground(|ground| {
        let clock = ManualClock::at(500);
        let options = || Options::new().clock(Arc::new(clock.clone()));
        let store = ground.open(options());
        let recorded = |store: &Store| store.append("s", Expect::Any, &[event("")]).unwrap().first().recorded_at;
        assert_eq!(recorded(&store), 500);
        clock.set(100);
        assert_eq!(recorded(&store), 500);
        assert_eq!(store.stats().clock_steps_back, 1, "counted");
        clock.set(700);
        assert_eq!(recorded(&store), 700);
        store.close().unwrap();
        clock.set(1);
        let store = ground.open(options());
        assert_eq!(recorded(&store), 700, "also after a reopening");
    });
}

#[test]
fn a_batch_has_one_time_and_keeps_whether_the_caller_wrote_it_as_one() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let receipt = store.append("a", Expect::Any, &[event("1"), event("2")]).unwrap();
        assert_eq!(receipt.events()[0].recorded_at, receipt.events()[1].recorded_at);
        store.commit(&Batch::new().event("a", event("3")).event("b", event("4"))).unwrap();
        store.commit(&Batch::new().event("b", event("5")).written_as_batch(false)).unwrap();
        let read = store.read_all(&Query::all(), Seek::Beginning).unwrap().map(Result::unwrap);
        let marks: Vec<_> = read.map(|e| (e.batch_first().get(), e.batch_len(), e.written_as_batch())).collect();
        assert_eq!(marks, [(1, 2, false), (1, 2, false), (3, 2, true), (3, 2, true), (5, 1, false)]);
    });
}

#[test]
fn a_receipt_names_position_revision_time_and_id_of_every_event() {
    on_each_ground(|ground| {
        let clock = ManualClock::at(77);
        let store = ground.open(Options::new().clock(Arc::new(clock)));
        store.append("a", Expect::Any, &[event("0")]).unwrap();
        let batch = Batch::new()
            .event("b", event("1").id(1u128))
            .event("a", event("2").id(2u128))
            .event("b", event("3").id(3u128));
        let receipt = store.commit(&batch).unwrap();
        let told: Vec<_> =
            receipt.events().iter().map(|e| (e.position.get(), e.revision.get(), e.recorded_at, e.id)).collect();
        assert_eq!(told, [(2, 1, 77, 1u128.into()), (3, 2, 77, 2u128.into()), (4, 2, 77, 3u128.into())]);
        assert_eq!((receipt.position().get(), receipt.revision().get()), (4, 2));
        assert_eq!(receipt.durability(), Durability::Durable);
        assert!(!receipt.already_committed());
        let buffered = store.append_with("a", Expect::Any, &[event("4")], Durability::Buffered).unwrap();
        assert_eq!(buffered.durability(), Durability::Buffered);
    });
}

#[test]
fn tickets_of_one_thread_commit_in_order() {
    on_each_ground(|ground| {
        let store = ground.open(small());
        let mut tickets = Vec::new();
        for n in 0..500u64 {
            let text = n.to_string();
            tickets.push(store.submit(&Batch::new().event("s", event(&text))).unwrap());
        }
        for (n, ticket) in tickets.into_iter().enumerate() {
            assert_eq!(ticket.position(), position(n as u64 + 1));
            assert_eq!(ticket.wait().unwrap().position().get(), n as u64 + 1);
            assert!(store.reader_in(View::Durable).head() > n as u64);
        }
        assert_eq!(payloads(&store), (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
    });
}

#[test]
fn dropping_a_ticket_does_not_cancel() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        drop(store.submit(&Batch::new().event("s", event("1"))).unwrap());
        store.close().unwrap();
        assert_eq!(payloads(&ground.open(Options::new())), ["1"]);
    });
}

#[test]
fn a_ticket_is_done_when_waiting_would_not_wait() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let ticket = store.submit(&Batch::new().event("s", event("1"))).unwrap();
        let begun = Instant::now();
        while !ticket.is_done() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the committer syncs without anybody waiting");
            std::thread::yield_now();
        }
        assert!(store.reader_in(View::Durable).head() >= 1);
        ticket.wait().unwrap();
        let buffered = Batch::new().event("s", event("2")).durability(Durability::Buffered);
        assert!(store.submit(&buffered).unwrap().is_done());
    });
}

#[test]
fn a_conflict_is_given_by_wait() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let refused = Batch::new().expect("s", Expect::Exists).event("s", event("1"));
        let in_an_empty_store = store.submit(&refused).expect("the conflict comes with wait");
        assert_eq!(in_an_empty_store.position(), None);
        assert_eq!(refusals(in_an_empty_store.wait()).0, 0);
        store.append("t", Expect::Any, &[event("1").id(1u128)]).unwrap();
        assert_eq!(refusals(store.submit(&refused).unwrap().wait()).0, 1);
        assert_eq!(refusals(store.try_submit(&refused).unwrap().wait()).0, 1);
        let other = store.submit(&Batch::new().event("t", event("2").id(1u128))).unwrap();
        assert!(matches!(other.wait(), Err(Error::DuplicateId { .. })));
    });
}

#[test]
fn try_submit_answers_full_at_the_bound() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new().background(false).in_flight_bytes(10_000));
        let payload = "x".repeat(1000);
        let batch = Batch::new().event("s", event(&payload));
        let mut tickets = Vec::new();
        let refused = loop {
            match store.try_submit(&batch) {
                Ok(ticket) => tickets.push(ticket),
                Err(error) => break error,
            }
            assert!(tickets.len() < 100);
        };
        assert!(matches!(refused, Error::Full { in_flight } if in_flight >= 10_000), "{refused}");
        assert_eq!(store.reader_in(View::Written).head(), tickets.len() as u64, "nothing written");
        for ticket in tickets {
            ticket.wait().unwrap();
        }
        store.try_submit(&batch).expect("there is room again").wait().unwrap();
    });
}

#[test]
fn submit_blocks_at_the_bound_and_goes_on() {
    for background in [false, true] {
        on_each_ground(|ground| {
            let store = ground.open(small().background(background).in_flight_bytes(4096));
            let payload = "x".repeat(700);
            let tickets: Vec<_> =
                (0..300).map(|_| store.submit(&Batch::new().event("s", event(&payload))).unwrap()).collect();
            let waited = store.reader_in(View::Durable).head();
            assert!(waited >= 200, "submit waited for the durable head, which is {waited}");
            for ticket in tickets {
                ticket.wait().unwrap();
            }
        });
    }
}

#[test]
fn submit_goes_on_when_a_roll_alone_fills_the_bound() {
    on_each_ground(|ground| {
        let store = ground.open(small().background(false).in_flight_bytes(1));
        let payload = "x".repeat(40_000);
        for _ in 0..4 {
            store.append("s", Expect::Any, &[event(&payload)]).unwrap();
            // Rolls to make room, and is refused then: no event is in flight.
            refusals(store.append("s", Expect::NoStream, &[event(&payload)]));
            store.submit(&Batch::new().event("s", event("1"))).unwrap().wait().unwrap();
        }
    });
}

#[test]
fn a_closed_store_refuses_and_its_readers_go_on() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        store.append("s", Expect::Any, &[event("1")]).unwrap();
        let clone = store.clone();
        let reader = store.reader();
        store.close().unwrap();
        assert!(matches!(clone.append("s", Expect::Any, &[event("2")]), Err(Error::Poisoned { .. })));
        assert!(matches!(clone.submit(&Batch::new().event("s", event("2"))), Err(Error::Poisoned { .. })));
        assert!(matches!(clone.sync(), Err(Error::Poisoned { .. })) || clone.sync().is_ok());
        assert_eq!(reader.read_all(&Query::all(), Seek::Beginning).unwrap().count(), 1);
        clone.close().unwrap();
    });
}

#[test]
fn dropping_the_last_handle_closes_cleanly() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new().durability(Durability::Buffered));
        store.append("s", Expect::Any, &[event("1")]).unwrap();
        let clone = store.clone();
        drop(store);
        clone.append("s", Expect::Any, &[event("2")]).unwrap();
        drop(clone);
        let store = ground.open(Options::new());
        assert!(store.recovery_report().clean, "{:?}", store.recovery_report());
        assert_eq!(payloads(&store), ["1", "2"]);
    });
}

#[test]
fn a_missing_store_is_created_only_if_allowed() {
    on_each_ground(|ground| {
        let refused = Options::new().create(false).open_storage(ground.storage());
        assert!(matches!(refused, Err(Error::NotAStore { .. })));
        assert!(matches!(Options::new().open_read_only_storage(ground.storage()), Err(Error::NotAStore { .. })));
        assert!(ground.open(Options::new()).recovery_report().created);
        assert!(!ground.open(Options::new().create(false)).recovery_report().created);
    });
}

// Durability: each mode of the contract's table.

/// What the durable view of the disk shows after a power cut, for many ways in which it may have been left.
fn heads_after_power_cuts(disk: &SimDisk, seeds: u64) -> Vec<u64> {
    let head = |seed| {
        let reborn = disk.after_power_loss(seed);
        let store = small().background(false).open_storage(Arc::new(reborn)).unwrap();
        let read = store.reader_in(View::Durable).read_all(&Query::all(), Seek::Beginning).unwrap();
        read.map(|event| event.unwrap().position().get()).last().unwrap_or(0)
    };
    (0..seeds).map(head).collect()
}

#[test]
fn durable_is_acknowledged_when_the_log_is_synced_past_it_and_survives_a_power_cut() {
    let disk = SimDisk::new();
    let store = small().background(false).open_storage(Arc::new(disk.clone())).unwrap();
    let payload = "x".repeat(5000);
    for n in 1..=30 {
        store.append("s", Expect::Any, &[event(&payload)]).unwrap();
        assert_eq!(store.head(), n);
        assert!(heads_after_power_cuts(&disk, 3).iter().all(|head| *head == n), "event {n}");
    }
}

#[test]
fn buffered_is_readable_at_once_and_survives_a_kill() {
    let disk = SimDisk::new();
    let options = || small().background(false).durability(Durability::Buffered);
    let store = options().open_storage(Arc::new(disk.clone())).unwrap();
    let payload = "x".repeat(3000);
    for n in 1..=60 {
        store.append("s", Expect::Any, &[event(&payload)]).unwrap();
        assert_eq!(store.head(), n, "the default view of a Buffered store is the written one");
        if n % 7 == 0 {
            let killed = options().open_storage(Arc::new(disk.after_kill())).unwrap();
            assert_eq!(killed.head(), n);
            assert_eq!(killed.read_stream("s", Seek::Beginning).unwrap().map(Result::unwrap).count() as u64, n);
        }
    }
}

#[test]
fn buffered_keeps_a_prefix_in_a_power_cut_and_sync_makes_all_before_it_durable() {
    let disk = SimDisk::new();
    let options = || small().background(false).durability(Durability::Buffered);
    let store = options().open_storage(Arc::new(disk.clone())).unwrap();
    let mut texts = Vec::new();
    for n in 0..40 {
        texts.push(format!("{n}-{}", "x".repeat(n * 37)));
        store.append("s", Expect::Any, &[event(texts.last().unwrap())]).unwrap();
    }
    assert_eq!(store.sync().unwrap(), 40);
    assert!(heads_after_power_cuts(&disk, 5).iter().all(|head| *head == 40));
    for n in 40..80 {
        texts.push(format!("{n}-{}", "x".repeat(n)));
        store.append("s", Expect::Any, &[event(texts.last().unwrap())]).unwrap();
    }
    let mut kept = BTreeSet::new();
    for seed in 0..40 {
        let store = options().open_storage(Arc::new(disk.after_power_loss(seed))).unwrap();
        let found = payloads(&store);
        assert!(found.len() >= 40, "seed {seed}: {} events", found.len());
        assert_eq!(found, texts[..found.len()], "seed {seed}: a prefix, nothing wrong");
        kept.insert(found.len());
    }
    assert!(kept.len() > 1, "the cuts differ: {kept:?}");
}

#[test]
fn a_background_sync_runs_at_its_interval() {
    on_each_ground(|ground| {
        let options = Options::new().durability(Durability::Buffered).sync_interval(Duration::from_millis(20));
        let store = ground.open(options);
        for n in 1..=3 {
            store.append("s", Expect::Any, &[event("1")]).unwrap();
            wait_until("the interval's sync", || store.reader_in(View::Durable).head() == n);
        }
    });
}

#[test]
fn a_background_sync_runs_at_its_byte_count() {
    on_each_ground(|ground| {
        let options = Options::new().durability(Durability::Buffered);
        let store = ground.open(options.sync_interval(Duration::from_secs(3600)).sync_bytes(512 << 10));
        let payload = "x".repeat(1000);
        for _ in 0..3000 {
            store.append("s", Expect::Any, &[event(&payload)]).unwrap();
        }
        wait_until("the sync after 512 KiB", || store.reader_in(View::Durable).head() >= 500);
    });
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_buffered_commit_in_a_durable_store_is_shown_by_default_after_the_next_sync() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new().background(false));
        store.append_with("s", Expect::Any, &[event("1")], Durability::Buffered).unwrap();
        assert_eq!((store.head(), store.reader_in(View::Written).head()), (0, 1));
        assert_eq!(store.sync().unwrap(), 1);
        assert_eq!(store.head(), 1);
        store.append_with("s", Expect::Any, &[event("2")], Durability::Buffered).unwrap();
        assert_eq!(store.head(), 1);
        store.append("s", Expect::Any, &[event("3")]).unwrap();
        assert_eq!(store.head(), 3, "a Durable commit makes all before it durable");
    });
}

#[test]
fn a_durable_commit_in_a_buffered_store_waits_for_its_sync() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new().background(false).durability(Durability::Buffered));
        store.append("s", Expect::Any, &[event("1")]).unwrap();
        let durable = store.reader_in(View::Durable);
        assert_eq!(durable.head(), 0);
        store.append_with("s", Expect::Any, &[event("2")], Durability::Durable).unwrap();
        assert_eq!(durable.head(), 2);
    });
}

#[test]
fn the_default_durability_is_the_stores_own() {
    on_each_ground(|ground| {
        ground.open(Options::new().durability(Durability::Buffered)).close().unwrap();
        let store = ground.open(Options::new().durability(Durability::Durable).background(false));
        let receipt = store.append("s", Expect::Any, &[event("1")]).unwrap();
        assert_eq!(receipt.durability(), Durability::Buffered);
        assert_eq!(store.head(), 1, "the default view is the written one");
        assert_eq!(store.reader_in(View::Durable).head(), 0);
    });
}

#[test]
fn one_sync_serves_all_that_wait() {
    let ground = Ground::disk();
    let store = ground.open(Options::new());
    let before = store.stats().syncs;
    let tickets: Vec<_> = (0..1000).map(|_| store.submit(&Batch::new().event("s", event("1"))).unwrap()).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    let syncs = store.stats().syncs - before;
    assert!(syncs < 500, "{syncs} syncs for 1000 tickets");
}

#[test]
fn an_answer_that_rests_on_undurable_state_asks_for_a_sync() {
    let disk = SimDisk::new();
    let store = small().background(false).open_storage(Arc::new(disk.clone())).unwrap();
    let buffered = |id: u128| store.append_with("s", Expect::Any, &[event("1").id(id)], Durability::Buffered).unwrap();
    let durable = || store.reader_in(View::Durable).head();
    buffered(1);
    refusals(store.append("s", Expect::NoStream, &[event("2")]));
    assert_eq!(durable(), 1, "Conflict");
    buffered(2);
    assert!(
        store.append_with("s", Expect::Any, &[event("1").id(2u128)], Durability::Buffered).unwrap().already_committed()
    );
    assert_eq!(durable(), 2, "AlreadyCommitted");
    buffered(3);
    assert!(matches!(store.append("s", Expect::Any, &[event("x").id(3u128)]), Err(Error::DuplicateId { .. })));
    assert_eq!(durable(), 3, "DuplicateId");
    buffered(4);
    let partial = store.append("s", Expect::Any, &[event("1").id(4u128), event("5").id(5u128)]);
    assert!(matches!(partial, Err(Error::PartialDuplicate { .. })));
    assert_eq!(durable(), 4, "PartialDuplicate");
    assert!(heads_after_power_cuts(&disk, 5).iter().all(|head| *head == 4));
}

#[test]
fn if_the_sync_of_such_an_answer_fails_it_becomes_outcome_unknown() {
    let disk = SimDisk::new();
    let store = small().background(false).open_storage(Arc::new(disk.clone())).unwrap();
    store.append_with("s", Expect::Any, &[event("1").id(1u128)], Durability::Buffered).unwrap();
    disk.fail_at(disk.steps(), FaultKind::Eio, Repeat::Forever);
    let retried = store.append("s", Expect::Any, &[event("1").id(1u128)]);
    match retried {
        Err(Error::OutcomeUnknown { ids, .. }) => assert_eq!(ids, [1u128.into()]),
        other => panic!("{other:?}"),
    }
    assert!(matches!(store.append("s", Expect::Any, &[event("2")]), Err(Error::Poisoned { .. })));
    assert!(!is_power_off(&std::io::Error::other("any other error")));
}

/// A roll, whatever fails while it is made and the old segment is sealed, then a clean reopening under a clock that
/// stands behind: time does not fall, and the store opens again.
#[test]
fn recorded_at_never_falls_whatever_fails_while_a_segment_is_sealed() {
    let payload = "x".repeat(9000);
    for failing in 0..40 {
        let disk = SimDisk::new();
        let clock = ManualClock::at(1000);
        let options = || small().background(false).clock(Arc::new(clock.clone()));
        let store = options().open_storage(Arc::new(disk.clone())).unwrap();
        for _ in 0..6 {
            store.append("s", Expect::Any, &[event(&payload)]).unwrap();
        }
        disk.fail_at(disk.steps() + failing, FaultKind::Enospc, Repeat::Forever);
        let refused = store.append("s", Expect::NoStream, &[event(&payload)]);
        assert!(matches!(refused, Err(Error::Conflict(_) | Error::NoSpace { .. } | Error::OutcomeUnknown { .. })));
        disk.clear_faults();
        let _ = store.close();
        clock.set(10);
        let store = options().open_storage(Arc::new(disk.clone())).unwrap();
        let receipt = store.append("s", Expect::Any, &[event("later")]).unwrap();
        assert_eq!((receipt.position().get(), receipt.first().recorded_at), (7, 1000), "failing {failing}");
        store.append("s", Expect::Any, &[event(&payload)]).unwrap();
        let store = options().open_storage(Arc::new(disk.after_kill())).unwrap();
        assert_eq!(store.head(), 8, "failing {failing}");
    }
}
