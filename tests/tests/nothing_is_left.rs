//! After a removal and a compaction no file of the directory holds a byte of what was removed: searched file by file, as the
//! format's description says what a file holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use annals::storage::{Access, Fill, Memory, Storage};
use annals::{
    CompactionOptions, Durability, Expect, LiveSegment, NewEvent, Options, Query, Retention, Revision, Scope, Seek,
    Snapshots, Store,
};
use annals_tests::container::{held_by, is_container};
use annals_tests::model::on_each_ground;

fn options(durability: Durability) -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).durability(durability)
}

fn payload(stream: u64, number: u64) -> String {
    format!(
        "{{\"to\":\"somebody\",\"secret\":\"secret-{stream:03}-{number:08}-of-an-event\",\"items\":[1,2,3,4,5,6,7]}}"
    )
}

fn append(store: &Store, stream: u64, number: u64) {
    let metadata = format!("secret-{stream:03}-{number:08}-in-metadata");
    let payload = payload(stream, number);
    let event = NewEvent::new("Noted", payload.as_bytes()).metadata(metadata.as_bytes());
    store.append(&format!("s-{stream}"), Expect::Any, &[event]).unwrap();
}

/// Streams and numbers of all secrets that stand in the files, and the file of each.
fn secrets(storage: &dyn Storage) -> BTreeMap<(u64, u64), String> {
    let mut found = BTreeMap::new();
    for name in storage.list().unwrap() {
        let Ok(file) = storage.open(&name, Access::Read) else { continue };
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        if is_container(&name) {
            bytes.extend(held_by(&bytes));
        }
        let mark = b"secret-";
        for at in 0..bytes.len().saturating_sub(mark.len() + 12) {
            if !bytes[at..].starts_with(mark) {
                continue;
            }
            let text = std::str::from_utf8(&bytes[at + 7..at + 19]).unwrap_or("");
            let Some((stream, number)) = text.split_once('-') else { continue };
            if let (Ok(stream), Ok(number)) = (stream.parse(), number.parse()) {
                found.insert((stream, number), format!("{at} of {name}"));
            }
        }
    }
    found
}

/// A store with a few sealed segments and something in the live one, of eight streams, and what of them is removed.
fn filled(store: &Store) -> impl Fn(u64, u64) -> bool + use<> {
    for number in 0..900 {
        append(store, number % 8, number);
    }
    for stream in [0, 2] {
        let snapshots = Snapshots::of("state", 1);
        let state = format!("secret-{stream:03}-00000000-in-a-state");
        snapshots.save(store, &format!("s-{stream}"), Revision::new(10).unwrap(), state.as_bytes()).unwrap();
    }
    store.delete("s-0", Expect::Any).unwrap();
    store.truncate_before("s-1", Expect::Any, Revision::new(50).unwrap()).unwrap();
    store.tombstone("s-3", Expect::Any).unwrap();
    store.set_retention(&Scope::Stream("s-4".to_owned()), Retention::new().max_count(3)).unwrap();
    store.sweep().unwrap();
    // The first of each stream has revision 1; the last four of `s-4` have numbers from 876 on.
    |stream, number| match stream {
        0 | 3 => true,
        1 => number / 8 + 1 < 50,
        4 => number < 876,
        _ => false,
    }
}

#[track_caller]
fn nothing_is_left(storage: &dyn Storage, removed: &impl Fn(u64, u64) -> bool) {
    let found = secrets(storage);
    let left: Vec<_> = found.iter().filter(|((stream, number), _)| removed(*stream, *number)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(found.len() > 400, "{}", found.len());
}

#[test]
fn of_what_was_removed_nothing_is_left_in_any_file() {
    for durability in [Durability::Durable, Durability::Buffered] {
        on_each_ground(|ground| {
            let store = ground.open(options(durability));
            let removed = filled(&store);
            let held = secrets(&*ground.storage());
            assert!(held.iter().any(|((stream, number), _)| removed(*stream, *number)), "nothing to remove");
            let shown = |store: &Store| -> Vec<(u64, Vec<u8>)> {
                let read = store.read_all(&Query::all(), Seek::Beginning).unwrap();
                read.map(|event| event.unwrap())
                    .map(|event| (event.position().get(), event.payload().to_vec()))
                    .collect()
            };
            let before = shown(&store);
            let head = store.head();
            let report = store.compact(&CompactionOptions::new()).unwrap();
            assert!(report.ended_live && report.notices.is_empty(), "{report:?}");
            nothing_is_left(&*ground.storage(), &removed);
            assert_eq!((store.head(), shown(&store)), (head, before.clone()));
            // What comes after goes into the new segment and through the emptied ring.
            for number in 900..1000 {
                append(&store, 5, number);
            }
            nothing_is_left(&*ground.storage(), &removed);
            assert_eq!(shown(&store)[..before.len()], before);
            // Nothing is removed from the new one: it goes on.
            assert!(!store.compact(&CompactionOptions::new()).unwrap().ended_live);
            store.close().unwrap();
            nothing_is_left(&*ground.storage(), &removed);
            let store = ground.open(options(durability));
            assert!(store.recovery_report().clean, "{:?}", store.recovery_report());
            assert_eq!(shown(&store)[..before.len()], before);
            drop(store);
            nothing_is_left(&*ground.storage(), &removed);
        });
    }
}

#[test]
fn the_live_segment_is_ended_as_told() {
    on_each_ground(|ground| {
        let store = ground.open(options(Durability::Buffered));
        (0..20).for_each(|number| append(&store, 1, number));
        let told = |what| CompactionOptions::new().live_segment(what);
        assert!(!store.compact(&told(LiveSegment::EndWhereRemoved)).unwrap().ended_live);
        let report = store.compact(&told(LiveSegment::End)).unwrap();
        assert!(report.ended_live && report.compacted.len() == 1, "{report:?}");
        // The new one holds nothing.
        assert!(!store.compact(&told(LiveSegment::End)).unwrap().ended_live);
        (20..40).for_each(|number| append(&store, 1, number));
        store.delete("s-1", Expect::Any).unwrap();
        assert!(!store.compact(&told(LiveSegment::End).dry_run(true)).unwrap().ended_live);
        assert!(!store.compact(&told(LiveSegment::Leave)).unwrap().ended_live);
        assert!(secrets(&*ground.storage()).contains_key(&(1, 30)));
        assert!(store.compact(&told(LiveSegment::EndWhereRemoved)).unwrap().ended_live);
        assert!(secrets(&*ground.storage()).is_empty());
    });
}

#[test]
fn policies_are_swept_first_if_told() {
    on_each_ground(|ground| {
        let store = ground.open(options(Durability::Buffered));
        (0..20).for_each(|number| append(&store, 1, number));
        store.set_retention(&Scope::Stream("s-1".to_owned()), Retention::new().max_count(2)).unwrap();
        store.compact(&CompactionOptions::new()).unwrap();
        assert_eq!(secrets(&*ground.storage()).len(), 20);
        store.compact(&CompactionOptions::new().sweep_first(true)).unwrap();
        assert_eq!(secrets(&*ground.storage()).keys().copied().collect::<Vec<_>>(), [(1, 18), (1, 19)]);
    });
}

/// The files as they are, as after the end of the process.
fn copied(storage: &dyn Storage) -> Memory {
    let memory = Memory::new();
    for name in storage.list().unwrap() {
        let Ok(file) = storage.open(&name, Access::Read) else { continue };
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        let copy = memory.create(&name, bytes.len() as u64, Fill::Allocated).unwrap();
        if !bytes.is_empty() {
            copy.write_at(0, &[std::io::IoSlice::new(&bytes)]).unwrap();
        }
    }
    memory
}

#[test]
fn what_recovery_left_behind_a_cut_goes_too() {
    // A segment that cannot be compressed, full to its end, of which the last events were not synced.
    let storage = Arc::new(Memory::new());
    let store = options(Durability::Buffered)
        .sync_interval(std::time::Duration::from_secs(3600))
        .background(false)
        .open_storage(storage.clone())
        .unwrap();
    let mut state = 7u64;
    let mut noise = |len: usize| -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..len).map(|_| next()).collect()
    };
    let mut kept = noise(58_000);
    store.append("kept", Expect::Any, &[NewEvent::new("Noise", &kept)]).unwrap();
    store.sync().unwrap();
    append(&store, 1, 1);
    kept.clear();
    let killed = Arc::new(copied(&*storage));
    drop(store);
    let store = options(Durability::Buffered).background(false).open_storage(killed.clone()).unwrap();
    assert!(!store.recovery_report().clean);
    assert!(secrets(&*killed).contains_key(&(1, 1)));
    store.delete("s-1", Expect::Any).unwrap();
    store.compact(&CompactionOptions::new()).unwrap();
    let left = secrets(&*killed);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(store.read_all(&Query::stream("kept"), Seek::Beginning).unwrap().count(), 1);
}

#[test]
fn appends_and_readers_go_on_meanwhile() {
    for durability in [Durability::Durable, Durability::Buffered] {
        on_each_ground(|ground| {
            let store = ground.open(options(durability));
            // No more is appended than the rounds allow: else the work would grow with the time it takes.
            let (stop, written, allowed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    let long = vec![7; 40_000];
                    for number in 0..1_000_000 {
                        while number >= allowed.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                            std::thread::yield_now();
                        }
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        append(&store, number % 4, number);
                        if number % 97 == 0 {
                            // Longer than half the ring: it goes around it.
                            store.append("long", Expect::Any, &[NewEvent::new("Long", &long)]).unwrap();
                        }
                        written.store(number + 1, Ordering::Release);
                    }
                });
                threads.spawn(|| {
                    let mut seen = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let read =
                            store.reader_in(annals::View::Written).read_all(&Query::all(), Seek::At(seen.max(1)));
                        for event in read.unwrap() {
                            let event = event.unwrap();
                            assert!(event.position().get() >= seen);
                            seen = event.position().get();
                        }
                    }
                });
                for round in 1..=8 {
                    allowed.store(round * 100 + 200, Ordering::Relaxed);
                    while written.load(Ordering::Acquire) < round * 100 {
                        std::thread::yield_now();
                    }
                    store.delete("s-0", Expect::Any).unwrap();
                    store.compact(&CompactionOptions::new().level(1)).unwrap();
                }
                stop.store(true, Ordering::Relaxed);
            });
            let head = store.head();
            let events =
                store.reader_in(annals::View::Written).read_all(&Query::prefix("s-"), Seek::Beginning).unwrap();
            for event in events {
                let event = event.unwrap();
                let text = std::str::from_utf8(event.payload()).unwrap();
                let number = text.split_once("secret-").unwrap().1[4..12].parse().unwrap();
                assert_eq!(text, payload(event.stream()[2..].parse().unwrap(), number));
            }
            store.close().unwrap();
            let store = ground.open(options(durability));
            assert!(store.head() >= head);
        });
    }
}
