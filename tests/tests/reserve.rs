//! Room made ahead: used in order, given back, and harmless when the process dies.

use std::path::Path;

use annals::{Batch, Durability, Error, Expect, NewEvent, Options, Query, Seek, Store};

const SEGMENT: u64 = 64 << 10;

fn options(durability: Durability) -> Options {
    Options::new().durability(durability).segment_bytes_max(SEGMENT)
}

fn append(store: &Store, from: u64, count: u64) {
    for number in from..from + count {
        let payload = [number as u8; 500];
        store.append("counted", Expect::revision(number), &[NewEvent::new("Counted", &payload)]).unwrap();
    }
}

/// Every event, in order, whole.
fn check(store: &Store, count: u64) {
    let mut found = 0;
    for event in store.read_all(&Query::all(), Seek::Beginning).unwrap() {
        let event = event.unwrap();
        assert_eq!((event.position().get(), event.revision().get()), (found + 1, found + 1));
        assert_eq!(event.payload(), [found as u8; 500]);
        found += 1;
    }
    assert_eq!(found, count);
}

fn segments(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut logs: Vec<String> = names.filter(|name| name.ends_with(".log")).collect();
    logs.sort();
    logs
}

#[test]
fn reserved_segments_are_used_in_order_and_the_rest_is_given_back() {
    for durability in [Durability::Durable, Durability::Buffered] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = options(durability).open(&path).unwrap();
        store.reserve(10 * SEGMENT).unwrap();
        let reserved = segments(&path);
        assert!(reserved.len() >= 11, "{reserved:?}");
        append(&store, 0, 300);
        check(&store, 300);
        // About three segments were needed: all of them had been there.
        assert!(store.stats().segments >= 3);
        store.close().unwrap();
        let left = segments(&path);
        assert!(left.len() < reserved.len() && left.iter().all(|name| reserved.contains(name)), "{left:?}");
        let store = options(durability).open(&path).unwrap();
        assert!(store.recovery_report().clean);
        append(&store, 300, 300);
        check(&store, 600);
    }
}

#[test]
fn a_batch_longer_than_what_was_reserved_gets_a_segment_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = options(Durability::Buffered).open(dir.path().join("store")).unwrap();
    store.reserve(4 * SEGMENT).unwrap();
    append(&store, 0, 50);
    let long = vec![7; 3 * SEGMENT as usize];
    store.commit(&Batch::new().event("long", NewEvent::new("Long", &long))).unwrap();
    store.reserve(4 * SEGMENT).unwrap();
    append(&store, 50, 300);
    assert_eq!(store.read_stream("long", Seek::Beginning).unwrap().count(), 1);
    assert_eq!(store.head(), 351);
    store.close().unwrap();
    let store = options(Durability::Buffered).open(dir.path().join("store")).unwrap();
    assert_eq!(store.head(), 351);
}

#[test]
fn what_a_dead_process_had_reserved_is_in_nobodys_way() {
    for durability in [Durability::Durable, Durability::Buffered] {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
        let store = options(durability).background(false).open(&path).unwrap();
        store.reserve(8 * SEGMENT).unwrap();
        append(&store, 0, 250);
        // As a kill leaves it: all that was written, no close.
        std::fs::create_dir(&copy).unwrap();
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        let opened = options(durability).open(&copy).unwrap();
        assert!(!opened.recovery_report().clean);
        check(&opened, 250);
        append(&opened, 250, 250);
        check(&opened, 500);
        opened.close().unwrap();
        check(&options(durability).open(&copy).unwrap(), 500);
    }
}

#[test]
fn a_quota_bounds_what_can_be_reserved() {
    let dir = tempfile::tempdir().unwrap();
    let store = options(Durability::Durable).quota_bytes(Some(5 * SEGMENT)).open(dir.path().join("store")).unwrap();
    assert!(matches!(store.reserve(10 * SEGMENT), Err(Error::NoSpace { .. })));
    // What was made up to the quota is used.
    append(&store, 0, 300);
    check(&store, 300);
}

#[test]
fn a_ticket_of_one_stream_is_as_one_of_a_batch() {
    let store = Store::in_memory().unwrap();
    let tickets: Vec<_> = (0..100)
        .map(|number| store.submit_to("s", Expect::revision(number), &[NewEvent::new("T", b"x")]).unwrap())
        .collect();
    let refused = store.submit_to("s", Expect::NoStream, &[NewEvent::new("T", b"x")]).unwrap();
    for (number, ticket) in (1..).zip(tickets) {
        assert_eq!(ticket.wait().unwrap().revision().get(), number);
    }
    assert!(matches!(refused.wait(), Err(Error::Conflict(_))));
    assert!(matches!(store.submit_to("s", Expect::Any, &[]), Err(Error::Empty)));
}
