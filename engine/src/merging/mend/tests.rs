use std::sync::Arc;

use super::*;
use crate::storage::{Memory, Storage};
use crate::{Expect, NewEvent, Options, Store};

/// A store in which at least four segments have ended, with what is listed of them.
fn ended() -> (Arc<Memory>, Store, Vec<SegmentEntry>) {
    let storage = Arc::new(Memory::new());
    let store = Options::new().background(false).segment_bytes_max(64 << 10).open_storage(storage.clone()).unwrap();
    for _ in 0..20 {
        store.append("s", Expect::Any, &[NewEvent::new("t", &[7; 16 << 10])]).unwrap();
    }
    let entries = store.inner().sealing.lock().manifest.segments.clone();
    assert!(entries.len() >= 4, "{} segments have ended", entries.len());
    (storage, store, entries)
}

fn remove(storage: &Memory, entry: &SegmentEntry) {
    storage.remove(&index_name(entry.number)).unwrap();
}

fn has_index(storage: &Memory, entry: &SegmentEntry) -> bool {
    storage.list().unwrap().contains(&index_name(entry.number))
}

/// A store in memory knows nothing that is held in a page cache.
#[test]
fn a_file_that_is_not_in_memory_ends_the_turn_and_one_that_is_missing_does_not() {
    let (storage, store, entries) = ended();
    remove(&storage, &entries[1]);
    let mut mending = Mending { turn: Duration::MAX, ..Mending::until(entries[3].last_position) };
    let mut turn = || {
        mending.go_on(store.inner());
        mending.segments
    };
    assert_eq!(turn(), entries[0].last_position);
    assert!(!has_index(&storage, &entries[1]));
    assert_eq!(turn(), entries[2].last_position);
    assert!(has_index(&storage, &entries[1]));
    assert_eq!(turn(), entries[3].last_position);
    assert_eq!(turn(), entries[3].last_position, "nothing is left");
}

#[test]
fn what_the_opening_has_written_itself_is_not_looked_at() {
    let (storage, store, entries) = ended();
    entries.iter().for_each(|entry| remove(&storage, entry));
    let mut mending = Mending { turn: Duration::MAX, ..Mending::until(entries[1].last_position) };
    mending.go_on(store.inner());
    let mended: Vec<bool> = entries.iter().map(|entry| has_index(&storage, entry)).collect();
    assert!(mended[..2].iter().all(|mended| *mended) && mended[2..].iter().all(|mended| !mended), "{mended:?}");
}
