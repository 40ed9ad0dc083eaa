//! Compaction that nobody calls: asked for from outside, or by policy. What lies there and is no request is left alone.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use annals::storage::{Access, Fill, Memory, Storage};
use annals::{
    CompactionOptions, CompactionPolicy, CompactionRequest, Durability, Expect, LiveSegment, NewEvent, Options, Query,
    RequestState, Seek, Store,
};
use annals_format::request::{Live, Request};
use annals_tests::container::is_container;
use annals_tests::model::on_each_ground;

fn options() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).durability(Durability::Buffered)
}

fn fill(store: &Store, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let payload = format!("{{\"secret\":\"secret-{number:08}-of-an-event\",\"items\":[1,2,3,4,5,6,7,8,9,10]}}");
        let event = NewEvent::new("Noted", payload.as_bytes());
        store.append(&format!("s-{}", number % 3), Expect::Any, &[event]).unwrap();
    }
}

/// Waits as long as it takes: a thread of the store does it.
fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ended(request: &CompactionRequest) -> RequestState {
    loop {
        match request.look().unwrap() {
            RequestState::Waiting | RequestState::Running(_) => std::thread::sleep(Duration::from_millis(5)),
            state => return state,
        }
    }
}

fn holds(storage: &dyn Storage, name: &str) -> bool {
    storage.list().unwrap().iter().any(|other| other == name)
}

fn containers(storage: &dyn Storage) -> usize {
    storage.list().unwrap().iter().filter(|name| is_container(name)).count()
}

fn secrets(storage: &dyn Storage) -> usize {
    let names = storage.list().unwrap();
    let count_in = |name: &String| {
        let Ok(file) = storage.open(name, Access::Read) else { return 0 };
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        bytes.windows(15).filter(|window| window.starts_with(b"secret-0")).count()
    };
    names.iter().map(count_in).sum()
}

/// A file of these bytes.
fn put(storage: &dyn Storage, name: &str, bytes: &[u8]) {
    let file = storage.create(name, bytes.len() as u64, Fill::Allocated).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
}

#[test]
fn what_is_asked_for_is_done_and_answered() {
    on_each_ground(|ground| {
        let store = ground.open(options());
        fill(&store, 0..1500);
        store.delete("s-0", Expect::Any).unwrap();
        let asked = CompactionOptions::new().level(1).live_segment(LiveSegment::End);
        let request = CompactionRequest::lay_in(ground.storage(), &asked).unwrap();
        let RequestState::Done(report) = ended(&request) else { panic!("{:?}", request.look()) };
        assert!(report.ended_live && report.removed_events == 500 && report.compacted.len() > 3, "{report:?}");
        assert!(report.bytes_after < report.bytes_before && report.notices.is_empty(), "{report:?}");
        assert!(!holds(&*ground.storage(), "COMPACT"));
        // It stays answered, and cannot be taken back.
        assert!(matches!(request.look().unwrap(), RequestState::Done(_)));
        let again = CompactionRequest::lay_in(ground.storage(), &CompactionOptions::new()).unwrap();
        let RequestState::Done(report) = ended(&again) else { panic!("{:?}", again.look()) };
        assert_eq!((report.compacted.len(), report.ended_live), (0, false));
        assert_eq!(request.look().unwrap(), RequestState::Replaced);
        assert!(!again.withdraw().unwrap());
        assert_eq!(store.read_all(&Query::all(), Seek::Beginning).unwrap().count(), 1000);
    });
}

#[test]
fn a_request_left_lying_is_done_by_the_next_writer() {
    on_each_ground(|ground| {
        let store = ground.open(options().background(false));
        fill(&store, 0..1500);
        let request = CompactionRequest::lay_in(ground.storage(), &CompactionOptions::new()).unwrap();
        // One without threads never looks; one that only reads never does.
        drop(ground.open_read_only(options()));
        store.close().unwrap();
        assert_eq!(request.look().unwrap(), RequestState::Waiting);
        let store = ground.open(options());
        let RequestState::Done(report) = ended(&request) else { panic!("{:?}", request.look()) };
        assert!(report.compacted.len() >= 3, "{report:?}");
        assert_eq!(store.read_all(&Query::all(), Seek::Beginning).unwrap().count(), 1500);
        drop(store);
        let store = ground.open(options().background(false));
        let request = CompactionRequest::lay_in(ground.storage(), &CompactionOptions::new()).unwrap();
        assert!(request.withdraw().unwrap());
        assert!(!holds(&*ground.storage(), "COMPACT"));
        drop(store);
    });
}

#[test]
fn what_is_no_request_is_left_alone() {
    let good = |storage: &Arc<Memory>| {
        let request = CompactionRequest::lay_in(storage.clone(), &CompactionOptions::new()).unwrap();
        let file = storage.open("COMPACT", Access::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        storage.remove("COMPACT").unwrap();
        drop(request);
        bytes
    };
    type Change = fn(Vec<u8>) -> Vec<u8>;
    let kinds: [(&str, Change); 7] = [
        ("empty", |_| Vec::new()),
        ("noise", |bytes| bytes.iter().map(|byte| byte ^ 0x5a).collect()),
        ("cut short", |bytes| bytes[..100].to_vec()),
        ("longer", |bytes| [bytes, vec![0; 4000]].concat()),
        ("one bit", |mut bytes| {
            bytes[70] ^= 1;
            bytes
        }),
        ("of another store", |bytes| {
            let request = Request::decode(&bytes).unwrap();
            Request { store: [9; 16], live: Live::End, ..request }.encode().to_vec()
        }),
        ("of a later version", |mut bytes| {
            bytes[8] = 2;
            let checksum = annals_format::checksum::crc(2 ^ 1, &bytes[20..]);
            bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
            bytes
        }),
    ];
    for (name, change) in kinds {
        let storage = Arc::new(Memory::new());
        let store = options().background(false).open_storage(storage.clone()).unwrap();
        fill(&store, 0..600);
        let bytes = change(good(&storage));
        store.close().unwrap();
        put(&*storage, "COMPACT", &bytes);
        put(&*storage, "COMPACT-ANSWER", &bytes);
        put(&*storage, "COMPACT.new", &bytes);
        let store = options().open_storage(storage.clone()).unwrap();
        assert!(store.recovery_report().clean, "{name}: {:?}", store.recovery_report());
        fill(&store, 600..700);
        // Another takes its place, and is answered: so the first was looked at.
        let before = containers(&*storage);
        assert_eq!(before, 0, "{name}");
        let request = CompactionRequest::lay_in(storage.clone(), &CompactionOptions::new()).unwrap();
        assert!(matches!(ended(&request), RequestState::Done(_)), "{name}");
        store.close().unwrap();
        let store = options().open_storage(storage).unwrap();
        assert_eq!(store.read_all(&Query::all(), Seek::Beginning).unwrap().count(), 700, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_request_that_is_no_plain_file_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    fill(&store, 0..600);
    store.close().unwrap();
    for (name, make) in [
        ("a directory", (|path| std::fs::create_dir(path)) as fn(&std::path::Path) -> std::io::Result<()>),
        ("a link", |path| std::os::unix::fs::symlink("manifest-00000000000000000001", path)),
        ("a socket", |path| std::os::unix::net::UnixListener::bind(path).map(drop)),
    ] {
        for file in ["COMPACT", "COMPACT-ANSWER"] {
            make(&path.join(file)).unwrap();
        }
        let store = options().open(&path).unwrap();
        fill(&store, 600..610);
        assert!(store.read_all(&Query::all(), Seek::Beginning).unwrap().count() >= 600, "{name}");
        store.close().unwrap();
        for file in ["COMPACT", "COMPACT-ANSWER"] {
            let meta = std::fs::symlink_metadata(path.join(file)).unwrap();
            assert!(!meta.is_file(), "{name}");
            if meta.is_dir() { std::fs::remove_dir(path.join(file)) } else { std::fs::remove_file(path.join(file)) }
                .unwrap();
        }
    }
}

#[test]
fn a_store_that_is_closed_stops_it() {
    on_each_ground(|ground| {
        let store = ground.open(options());
        fill(&store, 0..3000);
        // So slowly that it is never done.
        let slowly = CompactionOptions::new().bytes_per_second(Some(1));
        let request = CompactionRequest::lay_in(ground.storage(), &slowly).unwrap();
        until(|| matches!(request.look().unwrap(), RequestState::Running(_)));
        store.close().unwrap();
        assert_eq!(request.look().unwrap(), RequestState::Stopped);
        let store = ground.open(options());
        assert_eq!(store.read_all(&Query::all(), Seek::Beginning).unwrap().count(), 3000);
    });
}

#[test]
fn a_policy_compacts_when_enough_has_gathered() {
    on_each_ground(|ground| {
        let policy = CompactionPolicy::new().uncompacted_bytes(256 << 10).spare_newest(2);
        let store = ground.open(options().compaction(policy.options(CompactionOptions::new().level(1))));
        fill(&store, 0..3000);
        until(|| containers(&*ground.storage()) >= 2);
        assert_eq!(store.read_all(&Query::all(), Seek::Beginning).unwrap().count(), 3000);
        store.close().unwrap();
        // The newest are as they were: the log ends in plain segments.
        let plain = ground.storage().list().unwrap();
        let plain =
            plain.iter().filter(|name| name.starts_with("segment-") && name.len() == 32 && name.ends_with(".log"));
        assert!(plain.count() >= 2);
        let store = ground.open(options());
        assert_eq!(store.read_all(&Query::all(), Seek::Beginning).unwrap().count(), 3000);
    });
}

#[test]
fn a_policy_takes_out_what_was_removed() {
    on_each_ground(|ground| {
        let policy = CompactionPolicy::new().uncompacted_bytes(u64::MAX).take_out_after(Duration::ZERO);
        let store = ground.open(options().compaction(policy));
        fill(&store, 0..30);
        store.delete("s-0", Expect::Any).unwrap();
        store.delete("s-1", Expect::Any).unwrap();
        store.delete("s-2", Expect::Any).unwrap();
        until(|| secrets(&*ground.storage()) == 0);
        store.close().unwrap();
        // What is left of an earlier opening goes as well.
        let store = ground.open(options());
        fill(&store, 100..130);
        store.delete("s-0", Expect::Any).unwrap();
        store.delete("s-1", Expect::Any).unwrap();
        store.delete("s-2", Expect::Any).unwrap();
        store.close().unwrap();
        assert!(secrets(&*ground.storage()) > 0);
        let store = ground.open(options().compaction(policy));
        until(|| secrets(&*ground.storage()) == 0);
        assert_eq!(store.read_all(&Query::all(), Seek::Beginning).unwrap().count(), 0);
    });
}

#[test]
fn without_a_policy_nothing_is_compacted() {
    on_each_ground(|ground| {
        let store = ground.open(options());
        fill(&store, 0..3000);
        store.delete("s-0", Expect::Any).unwrap();
        store.close().unwrap();
        assert_eq!(containers(&*ground.storage()), 0);
    });
}
