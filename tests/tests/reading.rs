//! Reading: one test for each statement of the contract, named after it, in memory and on disk.

use std::ops::ControlFlow;
use std::sync::Arc;

use annals::{
    Batch, Condition, Durability, Error, Event, Expect, Lookup, NewEvent, Options, Position, Query, QueryItem, Read,
    ReadMode, Revision, Seek, Store, StreamState, View,
};
use annals_tests::model::{Ground, ManualClock, on_each_ground};
use annals_tests::sim_disk::SimDisk;

fn small() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10)
}

fn positions(read: annals::Result<Read>) -> Vec<u64> {
    read.unwrap().map(|event| event.unwrap().position().get()).collect()
}

fn revisions(read: annals::Result<Read>) -> Vec<u64> {
    read.unwrap().map(|event| event.unwrap().revision().get()).collect()
}

/// A store of several segments: six events at positions 1 to 6, `a` at 1, 2, 4, 6 and `b` at 3, 5, at times 10, 20,
/// 20, 20, 50, 60, each nearly a segment long.
fn six(ground: &Ground, options: Options) -> Store {
    let clock = ManualClock::at(0);
    let store = ground.open(options.clock(Arc::new(clock.clone())));
    let long = "x".repeat(30_000);
    let rows = [("a", 10), ("a", 20), ("b", 20), ("a", 20), ("b", 50), ("a", 60)];
    for (stream, time) in rows {
        clock.set(time);
        store.append(stream, Expect::Any, &[NewEvent::new("T", &long)]).unwrap();
    }
    assert!(store.stats().segments >= 3);
    store
}

/// Where to begin, what comes forward, what comes backward; `None`: `AheadOfLog`.
type SeekRow = (Seek, Option<Vec<u64>>, Option<Vec<u64>>);

fn seek_table() -> Vec<SeekRow> {
    let up = |from: u64| Some((from..=6).collect::<Vec<_>>());
    let down = |until: u64| Some((1..=until).rev().collect::<Vec<_>>());
    vec![
        (Seek::Beginning, up(1), down(0)),
        (Seek::End, up(7), down(6)),
        (Seek::At(0), up(1), down(0)),
        (Seek::At(1), up(1), down(1)),
        (Seek::At(4), up(4), down(4)),
        (Seek::At(6), up(6), down(6)),
        (Seek::At(7), up(7), down(6)),
        (Seek::At(8), None, None),
        (Seek::At(u64::MAX), None, None),
        (Seek::After(0), up(1), down(0)),
        (Seek::After(1), up(2), down(0)),
        (Seek::After(4), up(5), down(3)),
        (Seek::After(6), up(7), down(5)),
        (Seek::After(7), None, None),
        (Seek::After(u64::MAX), None, None),
        (Seek::Time(0), up(1), down(0)),
        (Seek::Time(10), up(1), down(1)),
        (Seek::Time(11), up(2), down(1)),
        (Seek::Time(20), up(2), down(4)),
        (Seek::Time(21), up(5), down(4)),
        (Seek::Time(60), up(6), down(6)),
        (Seek::Time(61), up(7), down(6)),
        (Seek::Time(u64::MAX), up(7), down(6)),
    ]
}

#[test]
fn read_all_begins_where_seek_says_in_both_directions() {
    on_each_ground(|ground| {
        for options in [small(), small().read_mode(ReadMode::Pread)] {
            let store = six(ground, options.clone());
            // Once by walking the log, once by the indexes.
            for query in [Query::all(), Query::event_type("T")] {
                for (seek, forward, back) in seek_table() {
                    for (read, wanted) in
                        [(store.read_all(&query, seek), forward), (store.read_all_back(&query, seek), back)]
                    {
                        match wanted {
                            Some(wanted) => assert_eq!(positions(read), wanted, "{seek:?}"),
                            None => {
                                let (Seek::At(p) | Seek::After(p)) = seek else { panic!("{seek:?}") };
                                let ahead = matches!(read, Err(Error::AheadOfLog { given, head: 6 }) if given == p);
                                assert!(ahead, "{seek:?}");
                            }
                        }
                    }
                }
            }
            store.close().unwrap();
            for name in ground.storage().list().unwrap() {
                if name != "LOCK" {
                    ground.storage().remove(&name).unwrap();
                }
            }
        }
    });
}

#[test]
fn read_stream_begins_where_seek_says_in_both_directions() {
    on_each_ground(|ground| {
        let store = six(ground, small());
        let rows: [(Seek, &[u64], &[u64]); 20] = [
            (Seek::Beginning, &[1, 2, 3, 4], &[]),
            (Seek::End, &[], &[4, 3, 2, 1]),
            (Seek::At(0), &[1, 2, 3, 4], &[]),
            (Seek::At(1), &[1, 2, 3, 4], &[1]),
            (Seek::At(3), &[3, 4], &[3, 2, 1]),
            (Seek::At(4), &[4], &[4, 3, 2, 1]),
            (Seek::At(5), &[], &[4, 3, 2, 1]),
            (Seek::At(6), &[], &[4, 3, 2, 1]),
            (Seek::At(u64::MAX), &[], &[4, 3, 2, 1]),
            (Seek::After(0), &[1, 2, 3, 4], &[]),
            (Seek::After(1), &[2, 3, 4], &[]),
            (Seek::After(2), &[3, 4], &[1]),
            (Seek::After(4), &[], &[3, 2, 1]),
            (Seek::After(5), &[], &[4, 3, 2, 1]),
            (Seek::After(u64::MAX), &[], &[4, 3, 2, 1]),
            (Seek::Time(0), &[1, 2, 3, 4], &[]),
            (Seek::Time(20), &[2, 3, 4], &[3, 2, 1]),
            (Seek::Time(30), &[4], &[3, 2, 1]),
            (Seek::Time(60), &[4], &[4, 3, 2, 1]),
            (Seek::Time(u64::MAX), &[], &[4, 3, 2, 1]),
        ];
        for (seek, forward, back) in rows {
            assert_eq!(revisions(store.read_stream("a", seek)), forward, "{seek:?}");
            assert_eq!(revisions(store.read_stream_back("a", seek)), back, "{seek:?} back");
        }
    });
}

#[test]
fn after_the_head_and_at_one_more_are_empty_also_in_an_empty_store() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        for seek in [Seek::Beginning, Seek::End, Seek::After(0), Seek::At(0), Seek::At(1), Seek::Time(0), Seek::Time(9)]
        {
            assert_eq!(positions(store.read_all(&Query::all(), seek)), [0; 0], "{seek:?}");
            assert_eq!(positions(store.read_all_back(&Query::all(), seek)), [0; 0], "{seek:?}");
            assert_eq!(positions(store.read_all(&Query::tag("x"), seek)), [0; 0], "{seek:?}");
        }
        for seek in [Seek::After(1), Seek::At(2)] {
            assert!(matches!(store.read_all(&Query::all(), seek), Err(Error::AheadOfLog { head: 0, .. })), "{seek:?}");
        }
        assert_eq!((store.head(), store.count(&Query::all()).unwrap()), (0, 0));
        assert!(store.last(&Query::all()).unwrap().is_none());
        assert!(store.streams("").unwrap().is_empty() && store.types().unwrap().is_empty());
        assert_eq!(store.position_at(0).unwrap(), None);
        assert!(matches!(store.at(Position::FIRST), Err(Error::AheadOfLog { given: 1, head: 0 })));
    });
}

#[test]
fn ahead_of_log_is_judged_against_the_head_of_the_view() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new().background(false));
        store.append_with("s", Expect::Any, &[NewEvent::new("T", b"")], Durability::Buffered).unwrap();
        let ask = |view| store.reader_in(view).read_all(&Query::all(), Seek::After(1)).map(|read| read.count());
        assert!(matches!(ask(View::Durable), Err(Error::AheadOfLog { given: 1, head: 0 })));
        assert_eq!(ask(View::Written).unwrap(), 0);
        let at = |view| store.reader_in(view).at(Position::FIRST);
        assert!(matches!(at(View::Durable), Err(Error::AheadOfLog { given: 1, head: 0 })));
        assert!(at(View::Written).unwrap().is_some());
    });
}

#[test]
fn an_absent_stream_is_empty_and_state_says_why() {
    on_each_ground(|ground| {
        let store = six(ground, small());
        for seek in [Seek::Beginning, Seek::End, Seek::At(3), Seek::After(7), Seek::Time(20)] {
            for mut read in
                [store.read_stream("absent", seek).unwrap(), store.read_stream_back("absent", seek).unwrap()]
            {
                assert_eq!(read.state(), Some(StreamState::Absent));
                assert!(read.next().is_none());
            }
        }
        let past = store.read_stream("b", Seek::At(9)).unwrap();
        let last = Revision::new(2).unwrap();
        assert_eq!(past.state(), Some(StreamState::Live { first: Revision::FIRST, last }));
        assert_eq!(past.count(), 0);
        assert_eq!(store.read_all(&Query::all(), Seek::End).unwrap().state(), None);
        assert!(matches!(store.read_stream("", Seek::Beginning), Err(Error::Invalid(_))));
        assert!(matches!(store.stream_state("a\n"), Err(Error::Invalid(_))));
    });
}

#[test]
fn a_read_is_bounded_by_the_head_pinned_when_it_was_opened() {
    on_each_ground(|ground| {
        let store = six(ground, small());
        let mut reads = [
            store.read_all(&Query::all(), Seek::Beginning).unwrap(),
            store.read_all(&Query::event_type("T"), Seek::Beginning).unwrap(),
            store.read_all(&Query::prefix(""), Seek::Beginning).unwrap(),
            store.read_all_back(&Query::all(), Seek::End).unwrap(),
        ];
        let mut stream = store.read_stream("a", Seek::Beginning).unwrap();
        for read in reads.iter_mut().chain([&mut stream]) {
            read.next().unwrap().unwrap();
        }
        let long = "y".repeat(40_000);
        for _ in 0..5 {
            store.append("a", Expect::Any, &[NewEvent::new("T", &long)]).unwrap();
        }
        for read in reads {
            assert_eq!(read.head(), 6);
            assert_eq!(read.map(Result::unwrap).count(), 5);
        }
        assert_eq!((stream.head(), stream.map(Result::unwrap).count()), (6, 3));
    });
}

#[test]
fn the_head_of_a_read_is_a_safe_after_for_a_condition() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let tag = ["seat:1"];
        store.append("show", Expect::Any, &[NewEvent::new("Opened", b"").tags(&tag)]).unwrap();
        let query = || Query::tag("seat:1");
        let read = store.read_all(&query(), Seek::Beginning).unwrap();
        let head = Position::new(read.head());
        assert_eq!(read.map(Result::unwrap).count(), 1);
        let take = Batch::new().condition(query(), head).event("show", NewEvent::new("Taken", b"").tags(&tag));
        store.commit(&take).unwrap();
        assert!(matches!(store.commit(&take), Err(Error::Conflict(_))), "the seat was taken after that head");
        let condition = Condition { query: query(), after: head };
        assert_eq!(condition.clone(), condition);
    });
}

#[test]
fn by_id_answers_found_or_not_found_in_every_segment() {
    on_each_ground(|ground| {
        let long = "x".repeat(5000);
        let check = |store: &Store| {
            for n in 1..=60u128 {
                match store.by_id(n.into()).unwrap() {
                    Lookup::Found(event) => {
                        assert_eq!((event.position().get(), event.id()), (n as u64, n.into()));
                        assert!(!event.id_generated());
                    }
                    other => panic!("{n}: {other:?}"),
                }
            }
            assert!(matches!(store.by_id(61u128.into()).unwrap(), Lookup::NotFound));
        };
        let store = ground.open(small());
        for n in 1..=60u128 {
            store.append("s", Expect::Any, &[NewEvent::new("T", &long).id(n)]).unwrap();
        }
        check(&store);
        store.close().unwrap();
        let store = ground.open(small());
        check(&store);
        store.append_with("s", Expect::Any, &[NewEvent::new("T", b"").id(99u128)], Durability::Buffered).unwrap();
        assert!(matches!(store.reader_in(View::Written).by_id(99u128.into()).unwrap(), Lookup::Found(_)));
    });
}

#[test]
fn by_id_shows_no_more_than_its_view() {
    let store = Options::new().background(false).open_storage(Arc::new(SimDisk::new())).unwrap();
    store.append_with("s", Expect::Any, &[NewEvent::new("T", b"").id(1u128)], Durability::Buffered).unwrap();
    assert!(matches!(store.by_id(1u128.into()).unwrap(), Lookup::NotFound));
    assert_eq!(store.stream_state("s").unwrap(), StreamState::Absent);
    assert!(store.streams("").unwrap().is_empty() && store.types().unwrap().is_empty());
    assert_eq!((store.count(&Query::all()).unwrap(), store.position_at(0).unwrap()), (0, None));
    store.sync().unwrap();
    assert!(matches!(store.by_id(1u128.into()).unwrap(), Lookup::Found(_)));
    assert_eq!(store.streams("").unwrap().len(), 1);
}

#[test]
fn position_at_gives_the_first_recorded_at_or_after_a_time() {
    on_each_ground(|ground| {
        let store = six(ground, small());
        let at = |time| store.position_at(time).unwrap().map(Position::get);
        assert_eq!([0, 10, 11, 20, 21, 50, 60].map(at), [1, 1, 2, 2, 5, 5, 6].map(Some));
        assert_eq!((at(61), at(u64::MAX)), (None, None));
    });
}

#[test]
fn listings_are_answered_from_names_in_byte_order() {
    on_each_ground(|ground| {
        let store = ground.open(small());
        let names = ["b", "a", "a-2", "a-10", "a-1", "A", "é", "e\u{301}", "z", "a/b", "ab", "日本"];
        let long = "x".repeat(12_000);
        for round in 0..2 {
            for name in names {
                let event_type = if round == 0 { "First" } else { name };
                store.append(name, Expect::Any, &[NewEvent::new(event_type, &long)]).unwrap();
            }
        }
        for store in [store.clone(), store] {
            let listed =
                |prefix| -> Vec<String> { store.streams(prefix).unwrap().into_iter().map(|info| info.name).collect() };
            let mut sorted = names.map(str::to_owned).to_vec();
            sorted.sort_unstable();
            assert_eq!(listed(""), sorted);
            assert_eq!(listed("a"), ["a", "a-1", "a-10", "a-2", "a/b", "ab"]);
            assert_eq!(listed("a-1"), ["a-1", "a-10"]);
            assert_eq!(listed("e"), ["e\u{301}"], "names are not normalised");
            assert!(listed("a-3").is_empty() && listed("zz").is_empty());
            let info = &store.streams("b").unwrap()[0];
            assert_eq!((info.first_position, info.last_position), (Position::new(1), Position::new(13)));
            assert_eq!(info.state.last(), Revision::new(2));
            let types: Vec<(String, u64)> =
                store.types().unwrap().into_iter().map(|info| (info.name, info.count)).collect();
            let mut wanted: Vec<(String, u64)> = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
            wanted.push(("First".to_owned(), 12));
            wanted.sort_unstable();
            assert_eq!(types, wanted);
        }
    });
}

#[test]
fn listings_stay_right_after_a_reopening() {
    on_each_ground(|ground| {
        let store = six(ground, small());
        let before = (store.streams("").unwrap(), store.types().unwrap());
        store.close().unwrap();
        let store = ground.open(small());
        assert_eq!((store.streams("").unwrap(), store.types().unwrap()), before);
        let read_only = ground.open_read_only(small());
        assert_eq!((read_only.reader().streams("").unwrap(), read_only.reader().types().unwrap()), before);
    });
}

#[test]
fn an_item_matches_when_all_its_parts_match_and_a_query_when_one_item_does() {
    on_each_ground(|ground| {
        let store = ground.open(small());
        let long = "x".repeat(20_000);
        let rows: [(&str, &str, &[&str]); 6] = [
            ("a-1", "T", &["x"]),
            ("a-2", "U", &["x", "y"]),
            ("b", "T", &["y", "y"]),
            ("a", "V", &[]),
            ("c", "U", &["x", "z"]),
            ("a-1", "U", &["z"]),
        ];
        for (stream, event_type, tags) in rows {
            store.append(stream, Expect::Any, &[NewEvent::new(event_type, &long).tags(tags)]).unwrap();
        }
        let item = QueryItem::new;
        let table = [
            (item().streams(["a-1"]), vec![1, 6]),
            (item().streams(["a-1", "b"]), vec![1, 3, 6]),
            (item().prefix("a-"), vec![1, 2, 6]),
            (item().prefix("a-").streams(["c"]), vec![1, 2, 5, 6]),
            (item().prefix("a-1").prefix("b"), vec![1, 3, 6]),
            (item().prefix(""), vec![1, 2, 3, 4, 5, 6]),
            (item().types(["T"]), vec![1, 3]),
            (item().types(["T", "V"]), vec![1, 3, 4]),
            (item().tags_all(["x"]), vec![1, 2, 5]),
            (item().tags_all(["x", "y"]), vec![2]),
            (item().tags_all(["y"]), vec![2, 3]),
            (item().tags_any(["y", "z"]), vec![2, 3, 5, 6]),
            (item().tags_all(["x"]).tags_any(["y", "z"]), vec![2, 5]),
            (item().prefix("a-").types(["U"]).tags_any(["y", "x"]), vec![2]),
            (item().streams(["b"]).types(["U"]), vec![]),
            (item().tags_all(["nowhere"]), vec![]),
        ];
        for (item, wanted) in table {
            let query = Query::item(item.clone());
            assert_eq!(positions(store.read_all(&query, Seek::Beginning)), wanted, "{item:?}");
            let mut down = wanted.clone();
            down.reverse();
            assert_eq!(positions(store.read_all_back(&query, Seek::End)), down, "{item:?}");
            assert_eq!(store.count(&query).unwrap(), wanted.len() as u64);
            let last = store.last(&query).unwrap().map(|event| event.position().get());
            assert_eq!(last, wanted.last().copied());
            let middle: Vec<u64> = wanted.into_iter().filter(|position| *position > 2).collect();
            assert_eq!(positions(store.read_all(&query, Seek::After(2))), middle, "{item:?}");
        }
        let either = Query::event_type("V").or(item().streams(["b"])).or(item().types(["V"]));
        assert_eq!(positions(store.read_all(&either, Seek::Beginning)), [3, 4], "each once");
        assert_eq!(positions(store.read_all(&Query::all().or(item().types(["V"])), Seek::Beginning)).len(), 6);
    });
}

#[test]
fn an_item_without_parts_is_invalid() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new());
        let nothing = Query::item(QueryItem::new());
        assert!(matches!(store.read_all(&nothing, Seek::Beginning), Err(Error::Invalid(_))));
        assert!(matches!(store.count(&nothing), Err(Error::Invalid(_))));
        assert!(matches!(store.last(&nothing), Err(Error::Invalid(_))));
        let half = Query::event_type("T").or(QueryItem::new());
        assert!(matches!(store.read_all_back(&half, Seek::End), Err(Error::Invalid(_))));
        assert!(matches!(store.read_all(&Query::tag(""), Seek::Beginning), Err(Error::Invalid(_))));
        assert!(store.read_all(&Query::default(), Seek::Beginning).is_ok(), "the default is everything");
    });
}

#[test]
fn handles_are_kept_for_as_long_as_wanted_also_after_the_store_is_gone() {
    for options in [small(), small().read_mode(ReadMode::Pread)] {
        on_each_ground(|ground| {
            let store = ground.open(options.clone());
            let texts: Vec<String> = (0..50).map(|n| format!("{n}-{}", "x".repeat(n * 100))).collect();
            for text in &texts {
                let tags = ["t"];
                let event = NewEvent::new("T", text).metadata(text).tags(&tags).content_type("text/plain");
                store.append("s", Expect::Any, &[event]).unwrap();
            }
            let events: Vec<Event> =
                store.read_all(&Query::all(), Seek::Beginning).unwrap().map(Result::unwrap).collect();
            let newest = store.at(Position::new(50).unwrap()).unwrap().unwrap();
            let bytes: Vec<_> = events.iter().map(|event| (event.payload_bytes(), event.metadata_bytes())).collect();
            store.close().unwrap();
            if let Some(path) = ground.path() {
                for entry in std::fs::read_dir(path).unwrap() {
                    std::fs::remove_file(entry.unwrap().path()).unwrap();
                }
            }
            for ((event, (payload, metadata)), text) in events.iter().zip(bytes).zip(&texts) {
                assert_eq!((event.payload(), event.metadata()), (text.as_bytes(), text.as_bytes()));
                assert_eq!((&payload[..], &metadata[..]), (text.as_bytes(), text.as_bytes()));
                assert_eq!((event.stream(), event.event_type(), event.content_type()), ("s", "T", Some("text/plain")));
                assert_eq!(event.clone().as_event_ref().tags().collect::<Vec<_>>(), ["t"]);
            }
            assert_eq!(newest.payload(), texts[49].as_bytes());
        });
    }
}

#[test]
fn a_handle_of_the_newest_bytes_stays_as_it_was_while_the_ring_goes_round() {
    on_each_ground(|ground| {
        let store = ground.open(small().durability(Durability::Buffered));
        let mut kept = Vec::new();
        for n in 0..2000u64 {
            let text = format!("{n:04}").repeat(60);
            let receipt = store.append("s", Expect::Any, &[NewEvent::new("T", &text)]).unwrap();
            if n % 10 == 0 {
                kept.push((store.at(receipt.position()).unwrap().unwrap(), text));
            }
        }
        for (event, text) in kept {
            assert_eq!(event.payload(), text.as_bytes());
        }
    });
}

#[test]
fn the_borrowed_form_hands_out_the_same_and_can_be_broken_off() {
    on_each_ground(|ground| {
        let store = six(ground, small());
        for query in [Query::all(), Query::event_type("T")] {
            let mut seen = Vec::new();
            let read = store.read_all(&query, Seek::At(2)).unwrap();
            let broke = read.for_each_event(|event| {
                seen.push((event.position().get(), event.stream().to_owned(), event.payload().len()));
                if event.position().get() == 5 { ControlFlow::Break("five") } else { ControlFlow::Continue(()) }
            });
            assert_eq!(broke.unwrap(), Some("five"));
            let wanted = [(2, "a"), (3, "b"), (4, "a"), (5, "b")].map(|(p, s)| (p, s.to_owned(), 30_000));
            assert_eq!(seen, wanted);
            let read = store.read_all(&query, Seek::End).unwrap();
            assert_eq!(read.for_each_event(|_| ControlFlow::Break(())).unwrap(), None);
        }
        let mut count = 0;
        store
            .read_stream("a", Seek::Beginning)
            .unwrap()
            .for_each_event(|_| {
                count += 1;
                ControlFlow::<()>::Continue(())
            })
            .unwrap();
        assert_eq!(count, 4);
    });
}

#[test]
fn both_read_modes_show_the_same() {
    on_each_ground(|ground| {
        six(ground, small()).close().unwrap();
        let show = |mode| {
            let store = ground.open(small().read_mode(mode));
            let events: Vec<_> = store
                .read_all(&Query::all(), Seek::Beginning)
                .unwrap()
                .map(|event| annals_tests::model::Recorded::of(event.unwrap().as_event_ref()))
                .collect();
            store.close().unwrap();
            events
        };
        assert_eq!(show(ReadMode::Mapped), show(ReadMode::Pread));
    });
}

#[test]
fn each_view_can_be_asked_for_by_name() {
    on_each_ground(|ground| {
        let store = ground.open(Options::new().background(false));
        let event = [NewEvent::new("T", b"")];
        store.append("s", Expect::Any, &event).unwrap();
        store.append_with("s", Expect::Any, &event, Durability::Buffered).unwrap();
        let written = store.reader_in(View::Written);
        let durable = store.reader_in(View::Durable);
        assert_eq!(
            (written.view(), durable.view(), store.reader().view()),
            (View::Written, View::Durable, View::Durable)
        );
        assert_eq!((written.head(), durable.head(), store.head()), (2, 1, 1));
        assert_eq!(positions(written.read_all(&Query::all(), Seek::Beginning)), [1, 2]);
        assert_eq!(positions(durable.read_all(&Query::all(), Seek::Beginning)), [1]);
        assert_eq!(revisions(durable.read_stream("s", Seek::Beginning)), [1]);
        assert_eq!(revisions(durable.read_stream_back("s", Seek::End)), [1]);
        store.sync().unwrap();
        assert_eq!(durable.head(), 2, "a reader is no snapshot; each call pins the head it finds");
    });
}

#[test]
fn reading_beside_a_writer_shows_what_was_acknowledged() {
    on_each_ground(|ground| {
        let store = ground.open(small().background(false));
        let event = |text| [NewEvent::new("T", text)];
        store.append("s", Expect::Any, &event("1")).unwrap();
        store.append_with("s", Expect::Any, &event("2"), Durability::Buffered).unwrap();
        let mut beside = ground.open_read_only(Options::new());
        let heads = |beside: &annals::ReadOnly| {
            (beside.reader_in(View::Durable).head(), beside.reader_in(View::Written).head(), beside.reader().head())
        };
        assert_eq!(heads(&beside), (1, 2, 1));
        let old = beside.reader_in(View::Written);
        let long = "x".repeat(30_000);
        for _ in 0..10 {
            store.append("s", Expect::Any, &event(&long)).unwrap();
        }
        assert_eq!(heads(&beside), (1, 2, 1), "what it shows is fixed until it looks again");
        beside.refresh().unwrap();
        assert_eq!(heads(&beside), (12, 12, 12));
        assert_eq!(old.head(), 2);
        assert_eq!(positions(old.read_all(&Query::all(), Seek::Beginning)), [1, 2]);
        assert_eq!(positions(beside.reader().read_all(&Query::all(), Seek::Beginning)), (1..=12).collect::<Vec<_>>());
        store.close().unwrap();
        beside.refresh().unwrap();
        assert_eq!(heads(&beside), (12, 12, 12));
    });
}

#[test]
fn after_an_error_an_iterator_ends_it_never_skips() {
    let disk = SimDisk::new();
    let options = || small().background(false).read_mode(ReadMode::Pread);
    let store = options().open_storage(Arc::new(disk.clone())).unwrap();
    let long = "x".repeat(9000);
    for _ in 0..40 {
        store.append("s", Expect::Any, &[NewEvent::new("T", &long)]).unwrap();
    }
    store.close().unwrap();
    let second = disk.files().into_keys().filter(|name| name.ends_with(".log")).nth(1).unwrap();
    assert!(disk.damage(&second, |bytes| bytes[20_000] ^= 1));
    let store = options().open_storage(Arc::new(disk)).unwrap();
    let reader = store.reader();
    for mut read in [
        reader.read_all(&Query::all(), Seek::Beginning).unwrap(),
        reader.read_all(&Query::event_type("T"), Seek::Beginning).unwrap(),
        reader.read_stream("s", Seek::Beginning).unwrap(),
    ] {
        let mut expected = 1;
        let error = loop {
            match read.next().expect("the damage is told, not passed over") {
                Ok(event) => {
                    assert_eq!(event.position().get(), expected);
                    expected += 1;
                }
                Err(error) => break error,
            }
        };
        let Error::Corrupt(damage) = error else { panic!("{error}") };
        assert_eq!((damage.file.as_str(), damage.position), (second.as_str(), Some(expected)));
        assert!(expected > 5 && expected < 20);
        assert!(read.next().is_none() && read.next().is_none(), "it has ended");
    }
    let mut seen = 0;
    let scan = reader.read_all(&Query::all(), Seek::Beginning).unwrap().for_each_event(|_| {
        seen += 1;
        ControlFlow::<()>::Continue(())
    });
    assert!(matches!(scan, Err(Error::Corrupt(_))) && seen < 20);
    assert!(matches!(reader.count(&Query::all()), Err(Error::Corrupt(_))));
    // What is whole is still handed out.
    assert_eq!(positions(reader.read_all(&Query::all(), Seek::After(30))), (31..=40).collect::<Vec<_>>());
}
