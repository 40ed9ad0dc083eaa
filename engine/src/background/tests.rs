use std::time::{Duration, Instant};

use crate::{Durability, Expect, NewEvent, Options, Store};

const EVENT_LEN: usize = 1 << 10;

fn store(background: bool) -> Store {
    Options::new()
        .durability(Durability::Buffered)
        .sync_interval(Duration::from_secs(3600))
        .background(background)
        .open_storage(std::sync::Arc::new(crate::storage::Memory::new()))
        .expect("a store in memory")
}

fn append(store: &Store, bytes: usize) {
    for _ in 0..bytes / EVENT_LEN {
        store.append("s", Expect::Any, &[NewEvent::new("t", &[7u8; EVENT_LEN])]).expect("memory");
    }
}

#[test]
fn while_the_keeper_syncs_appends_leave_the_ring_to_the_committer() {
    let alone = store(false);
    let inner = alone.inner();
    let flushed = || inner.core.log.watermark.flushed();
    let before = flushed();
    inner.committer.during(|| append(&alone, 100 << 10));
    assert_eq!(flushed(), before, "nobody is there to do it, and there is room");
    inner.committer.during(|| append(&alone, 64 << 10));
    assert!(flushed() > before, "half a ring is as much as waits");

    let accompanied = store(true);
    let inner = accompanied.inner();
    let begun = Instant::now();
    inner.committer.during(|| {
        let before = inner.core.log.watermark.flushed();
        append(&accompanied, 100 << 10);
        while inner.core.log.watermark.flushed() == before {
            assert!(begun.elapsed() < Duration::from_secs(60), "the committer does not come");
            std::thread::yield_now();
        }
    });
}

#[test]
fn without_a_sync_appends_empty_the_ring_themselves() {
    let store = store(false);
    let before = store.inner().core.log.watermark.flushed();
    append(&store, 100 << 10);
    assert!(store.inner().core.log.watermark.flushed() > before);
}

/// Close says that the threads are to end, and wakes them; the keeper may have looked just before, and sleep just after.
#[test]
fn who_comes_to_sleep_after_the_wake_of_a_close_does_not() {
    let store = store(false);
    let inner = store.inner().clone();
    inner.stopping.store(true, std::sync::atomic::Ordering::Release);
    inner.preparer.wake();
    let (done, over) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        inner.preparer.wait_for_ended(Instant::now() + Duration::from_secs(3600), &inner.stopping);
        done.send(())
    });
    over.recv_timeout(Duration::from_secs(60)).expect("the next sync is an hour away");
}

/// A segment that ends after whoever seals has looked for indexes to write, and before it looks for the next to seal.
#[test]
fn a_segment_that_ends_just_before_it_is_sealed_has_an_index_file_when_it_is_listed() {
    let storage = std::sync::Arc::new(crate::storage::Memory::new());
    let store = Options::new().background(false).segment_bytes_max(64 << 10).open_storage(storage.clone()).unwrap();
    append(&store, 48 << 10);
    let inner = store.inner().clone();
    let turn = inner.seal_turn.lock();
    // Whoever appends seals, and so waits for its turn.
    let appending = std::thread::spawn(move || {
        store.append("s", Expect::Any, &[NewEvent::new("t", &[7; 32 << 10])]).expect("memory");
    });
    let begun = Instant::now();
    let ended = loop {
        if let Some(ended) = inner.preparer.next_to_seal() {
            break ended;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no segment ends");
        std::thread::yield_now();
    };
    super::seal(&inner, &ended);
    let entry = inner.sealing.lock().manifest.segments.last().cloned().expect("it is listed");
    let name = crate::prepare::index_name(entry.number);
    assert!(crate::storage::Storage::list(&*storage).unwrap().contains(&name), "{name} is missing");
    drop(turn);
    appending.join().unwrap();
}
