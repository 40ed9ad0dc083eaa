//! The shortest ways through a store: append, read, close, open again.

use annals::{
    Batch, Durability, Error, Expect, Lookup, NewEvent, Options, Query, QueryItem, Revision, Seek, Store, View,
};

fn texts(read: annals::Read) -> Vec<String> {
    read.map(|event| String::from_utf8(event.unwrap().payload().to_vec()).unwrap()).collect()
}

#[test]
fn what_was_appended_is_read_back() {
    let store = Store::in_memory().unwrap();
    let first = store.append("order-1", Expect::NoStream, &[NewEvent::new("Placed", b"a").tags(&["x", "y"])]).unwrap();
    assert_eq!((first.position().get(), first.revision().get()), (1, 1));
    let batch = Batch::new()
        .expect("order-1", Expect::At(Revision::FIRST))
        .event("order-1", NewEvent::new("Paid", b"b").metadata(b"m"))
        .event("order-2", NewEvent::new("Placed", b"c").tags(&["x"]));
    store.commit(&batch).unwrap();
    assert_eq!(texts(store.read_all(&Query::all(), Seek::Beginning).unwrap()), ["a", "b", "c"]);
    assert_eq!(texts(store.read_all_back(&Query::all(), Seek::End).unwrap()), ["c", "b", "a"]);
    assert_eq!(texts(store.read_stream("order-1", Seek::Beginning).unwrap()), ["a", "b"]);
    assert_eq!(texts(store.read_stream_back("order-1", Seek::End).unwrap()), ["b", "a"]);
    assert_eq!(texts(store.read_all(&Query::event_type("Placed"), Seek::Beginning).unwrap()), ["a", "c"]);
    let item = QueryItem::new().prefix("order-").tags_all(["x", "y"]);
    assert_eq!(texts(store.read_all(&Query::item(item), Seek::Beginning).unwrap()), ["a"]);
    let id = first.first().id;
    assert!(matches!(store.by_id(id).unwrap(), Lookup::Found(event) if event.payload() == b"a"));
    assert_eq!(store.streams("").unwrap().len(), 2);
    assert_eq!(store.count(&Query::all()).unwrap(), 3);
    let conflict = store.append("order-1", Expect::NoStream, &[NewEvent::new("Placed", b"z")]).unwrap_err();
    assert!(matches!(conflict, Error::Conflict(_)));
}

#[test]
fn a_closed_store_opens_cleanly_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for round in 0..5u64 {
        for durability in [Durability::Durable, Durability::Buffered] {
            let store = Options::new().segment_bytes_max(64 << 10).open(&path).unwrap();
            let report = store.recovery_report();
            assert!(report.created || report.clean, "{report:?}");
            for n in 0..200u32 {
                let payload = vec![n as u8; 300];
                store.append_with("s", Expect::Any, &[NewEvent::new("T", &payload)], durability).unwrap();
            }
            assert!(store.head() >= round * 400);
            store.close().unwrap();
        }
    }
    let store = Options::new().open(&path).unwrap();
    assert_eq!(store.head(), 2000);
    for (index, event) in store.read_stream("s", Seek::Beginning).unwrap().enumerate() {
        let event = event.unwrap();
        assert_eq!(event.revision().get(), index as u64 + 1);
        assert_eq!(event.payload(), vec![(index % 200) as u8; 300]);
    }
    assert_eq!(store.read_stream("s", Seek::After(1990)).unwrap().count(), 10);
    assert_eq!(store.read_all(&Query::all(), Seek::At(1500)).unwrap().count(), 501);
    let read_only = Options::new().open_read_only(&path).unwrap();
    assert_eq!(read_only.reader_in(View::Written).read_all(&Query::all(), Seek::Beginning).unwrap().count(), 2000);
}

#[test]
fn a_store_that_was_not_closed_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    // Without background threads, so that copying the files one by one catches one moment.
    let options = || Options::new().segment_bytes_max(64 << 10).durability(Durability::Buffered).background(false);
    let mut expected = 0;
    for round in 0..6u64 {
        let store = options().open(&path).unwrap();
        assert_eq!(store.reader_in(View::Written).head(), expected, "round {round}: {:?}", store.recovery_report());
        for n in 0..150u32 {
            let payload = vec![n as u8; 100 + n as usize];
            store.append("s", Expect::Any, &[NewEvent::new("T", &payload), NewEvent::new("U", b"x")]).unwrap();
        }
        expected += 300;
        // As a kill would leave it: copy the directory while it is open, and go on with the copy.
        let copy = dir.path().join(format!("copy-{round}"));
        std::fs::create_dir(&copy).unwrap();
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        drop(store);
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::rename(&copy, &path).unwrap();
    }
    let store = options().open(&path).unwrap();
    assert!(!store.recovery_report().clean);
    assert_eq!(store.read_all(&Query::all(), Seek::Beginning).unwrap().map(Result::unwrap).count() as u64, expected);
    assert_eq!(store.read_stream("s", Seek::Beginning).unwrap().map(Result::unwrap).count() as u64, expected);
}
