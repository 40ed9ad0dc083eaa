//! A process that looks beside a writer may find that the manifest it saw in the directory was replaced, twice, before it could
//! open it. That is no damage: it looks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use annals::storage::Storage;
use annals::{
    AsOf, CompactionOptions, CompactionRequest, ConsumerOptions, Durability, Error, Expect, ForkOptions, LiveSegment,
    NewEvent, Options, Query, ReadMode, Reader, Seek, Store,
};
use annals_tests::crash::{Hooked, small};
use annals_tests::sim_disk::SimDisk;

const EVENTS: u64 = 60;

fn options() -> Options {
    small(Durability::Durable, ReadMode::Pread)
}

fn append(store: &Store, stream: &str) {
    store.append(stream, Expect::Any, &[NewEvent::new("T", &[b'x'; 4000])]).unwrap();
}

/// Ends the live segment and compacts it: at least two manifests.
fn write_manifests(store: &Store) {
    append(store, "later");
    store.compact(&CompactionOptions::new().live_segment(LiveSegment::End)).unwrap();
}

/// A store of several segments, none of them compacted; a storage of another process that sees two more manifests after each of
/// the next operations, as many as the counter says; and the counter.
fn moving() -> (Arc<Store>, Arc<dyn Storage>, Arc<AtomicI64>) {
    let disk = SimDisk::new();
    let store = Arc::new(options().open_storage(Arc::new(disk.clone())).unwrap());
    for number in 0..EVENTS {
        append(&store, &format!("s-{}", number % 3));
    }
    assert!(store.stats().segments > 3);
    let left = Arc::new(AtomicI64::new(0));
    let (writer, counter) = (store.clone(), left.clone());
    let hooked = Hooked::new(&disk, move || {
        if counter.fetch_sub(1, Ordering::Relaxed) > 0 {
            write_manifests(&writer);
        }
    });
    (store, Arc::new(hooked), left)
}

fn check(reader: &Reader) {
    let read = reader.read_all(&Query::all(), Seek::Beginning).unwrap();
    let positions: Vec<u64> = read.map(|event| event.unwrap().position().get()).take(EVENTS as usize).collect();
    assert_eq!(positions, (1..=EVENTS).collect::<Vec<_>>());
}

/// How often manifests are written while somebody looks; all of it was seen to fail with a few.
const TIMES: [i64; 4] = [1, 2, 3, 12];

#[test]
fn a_segment_that_was_compacted_is_found_however_often_the_manifest_is_replaced_meanwhile() {
    for times in TIMES {
        let (store, seen, left) = moving();
        let opened = options().open_read_only_storage(seen.clone()).unwrap();
        let follower = options().follow_storage(seen).unwrap();
        let (reader, followed) = (opened.reader(), follower.reader());
        for reader in [&reader, &followed] {
            write_manifests(&store);
            left.store(times, Ordering::Relaxed);
            check(reader);
        }
    }
}

#[test]
fn a_fork_and_a_listing_of_consumers_from_beside_the_writer_look_again() {
    for times in TIMES {
        let (store, seen, left) = moving();
        let opened = options().open_read_only_storage(seen).unwrap();
        write_manifests(&store);
        left.store(times, Ordering::Relaxed);
        assert!(opened.consumers().unwrap().is_empty());
        left.store(times, Ordering::Relaxed);
        let made = SimDisk::new();
        let forked = opened.fork_to_storage(&made, &ForkOptions::new().as_of(AsOf::Position(EVENTS)));
        assert_eq!(forked.unwrap().head, EVENTS);
        check(&options().open_storage(Arc::new(made)).unwrap().reader());
    }
}

#[test]
fn a_request_is_laid_beside_a_writer_that_replaces_its_manifest() {
    for times in TIMES {
        let (_store, seen, left) = moving();
        left.store(times, Ordering::Relaxed);
        CompactionRequest::lay_in(seen, &CompactionOptions::new()).unwrap();
    }
}

/// The same segments are listed: that manifests go on being written proves no movement.
#[test]
fn damage_is_told_while_the_writer_goes_on_listing_segments() {
    let disk = SimDisk::new();
    let store = Arc::new(options().open_storage(Arc::new(disk.clone())).unwrap());
    let consumer = store.consumer("c", ConsumerOptions::new()).unwrap();
    append(&store, "s");
    let event = consumer.next(Duration::ZERO).unwrap().expect("an event");
    consumer.ack(&event).unwrap();
    let fill = |store: &Store| (0..16).for_each(|_| append(store, "later"));
    (0..3).for_each(|_| fill(&store));
    let left = Arc::new(AtomicI64::new(0));
    let (writer, counter) = (store.clone(), left.clone());
    let hooked = Hooked::new(&disk, move || {
        let left = counter.fetch_sub(1, Ordering::Relaxed);
        if left > 0 && left % 3 == 0 {
            fill(&writer);
        }
    });
    let opened = options().open_read_only_storage(Arc::new(hooked)).unwrap();
    assert_eq!(opened.consumers().unwrap().len(), 1);
    assert!(disk.damage("segment-00000000000000000001.log", |bytes| bytes[4200..4300].fill(0xff)));
    for name in disk.files().into_keys().filter(|name| name.starts_with("consumers-")) {
        disk.remove(&name).unwrap();
    }
    left.store(300, Ordering::Relaxed);
    let told = opened.consumers().unwrap_err();
    let Error::Corrupt(damage) = &told else { panic!("{told}") };
    assert!(damage.file.starts_with("segment-00000000000000000001"), "{told}");
    let left = left.load(Ordering::Relaxed);
    assert!(left > 200, "it looked again and again, {left} times less would have done");
}
