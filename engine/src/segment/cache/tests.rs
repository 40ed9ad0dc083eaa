use std::sync::Arc;

use super::*;
use crate::storage::{Access, Memory, Storage};
use crate::{
    Durability, Error, Event, EventId, Expect, Lookup, NewEvent, Options, Position, Query, ReadMode, Reader, Seek,
    Store,
};

fn options(most: usize) -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).mapped_segments_max(most)
}

fn id(number: u64) -> EventId {
    EventId::from_bytes((u128::from(number) << 64 | 1).to_be_bytes())
}

const EVENTS: u64 = 300;

fn append(store: &Store) {
    for number in 1..=EVENTS {
        let payload = vec![number as u8; 2000];
        let event = NewEvent::new("T", &payload).id(id(number)).tags(&["t"]);
        store.append(&format!("s-{}", number % 7), Expect::Any, &[event]).unwrap();
    }
}

/// A closed store of at least eight sealed segments, without tiers: every question comes to the segments.
fn sample() -> Arc<Memory> {
    let memory = Arc::new(Memory::new());
    let store = options(8).durability(Durability::Buffered).background(false).open_storage(memory.clone()).unwrap();
    append(&store);
    assert!(store.stats().segments > 8);
    store.close().unwrap();
    for name in memory.list().unwrap().iter().filter(|name| crate::tiers::is_index_name(name)) {
        memory.remove(name).unwrap();
    }
    memory
}

fn held(core: &crate::core::Core) -> usize {
    core.segments.load().iter().filter(|segment| segment.is_listed() && segment.slot.get().is_some()).count()
}

fn positions(read: crate::Read) -> Vec<u64> {
    read.map(|event| event.unwrap().position().get()).collect()
}

fn check(reader: &Reader) {
    let all: Vec<u64> = (1..=EVENTS).collect();
    let back: Vec<u64> = all.iter().rev().copied().collect();
    assert_eq!(positions(reader.read_all(&Query::all(), Seek::Beginning).unwrap()), all);
    assert_eq!(positions(reader.read_all(&Query::tag("t"), Seek::Beginning).unwrap()), all);
    assert_eq!(positions(reader.read_all_back(&Query::all(), Seek::End).unwrap()), back);
    for number in 1..=EVENTS {
        let Lookup::Found(event) = reader.by_id(id(number)).unwrap() else { panic!("{number}") };
        assert_eq!((event.position().get(), event.payload()), (number, &vec![number as u8; 2000][..]));
    }
    assert_eq!(reader.streams("s-").unwrap().len(), 7);
    assert_eq!(reader.types().unwrap()[0].count, EVENTS);
}

#[test]
fn no_more_than_the_cap_are_open_and_every_answer_is_right() {
    for mode in [ReadMode::Mapped, ReadMode::Pread] {
        for most in [1, 3, 100] {
            let store = options(most).read_mode(mode).open_storage(sample()).unwrap();
            let core = store.inner().core.clone();
            let sealed = core.segments.load().len() - 1;
            assert_eq!(held(&core), most.min(sealed));
            check(&store.reader());
            assert_eq!(held(&core), most.min(sealed));
            assert_eq!(core.cache.open.lock().len(), most.min(sealed));
            store.close().unwrap();
        }
    }
}

#[test]
fn a_store_that_is_only_read_opens_nothing_until_it_is_touched() {
    let store = options(4).open_read_only_storage(sample()).unwrap();
    let core = store.core().clone();
    assert_eq!(held(&core), 0);
    store.reader().at(Position::new(1).unwrap()).unwrap();
    assert_eq!(held(&core), 1);
    check(&store.reader());
    assert_eq!(held(&core), 4);
}

#[test]
fn what_is_sealed_while_the_store_is_written_is_let_go_of_as_well() {
    let store = options(2).durability(Durability::Buffered).open_storage(Arc::new(Memory::new())).unwrap();
    append(&store);
    store.sync().unwrap();
    let inner = store.inner().clone();
    while inner.core.segments.load().iter().rev().skip(1).any(|segment| !segment.is_listed()) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(held(&inner.core), 2);
    check(&store.reader());
    assert_eq!(held(&inner.core), 2);
    drop(inner);
    store.close().unwrap();
}

#[test]
fn a_held_event_outlives_its_segment_being_let_go_of() {
    let store = options(1).open_storage(sample()).unwrap();
    let first = store.at(Position::new(1).unwrap()).unwrap().unwrap();
    let mut read = store.read_all(&Query::tag("t"), Seek::Beginning).unwrap();
    let begun: Vec<Event> = read.by_ref().take(3).map(Result::unwrap).collect();
    check(&store.reader());
    assert_eq!(first.payload(), [1; 2000]);
    assert_eq!(begun[2].payload(), [3; 2000]);
    assert_eq!(positions(read), (4..=EVENTS).collect::<Vec<_>>());
}

#[test]
fn those_that_are_touched_stay() {
    let store = options(3).open_storage(sample()).unwrap();
    let core = &store.inner().core;
    let segments = core.segments.load_full();
    let touch = |index: usize| drop(segments[index].opened().unwrap());
    let is_open = |index: usize| segments[index].slot.held.load().is_some();
    [0, 1, 2].into_iter().for_each(touch);
    for index in 3..7 {
        touch(0);
        touch(index);
        assert!(is_open(index));
    }
    assert!(is_open(0));
    assert!(!is_open(1) && !is_open(2));
}

#[test]
fn openings_of_a_process_share_what_it_may_map() {
    let all: &InProcess = Box::leak(Box::new(InProcess { open: AtomicUsize::new(0), most: 8, least: 2 }));
    let opening = || {
        let storage = sample();
        let manifest = manifest::load_current(&*storage).unwrap().unwrap();
        let (mode, hash) = (ReadMode::Mapped, NameHash { seed: manifest.name_hash_seed });
        let mut cache = SegmentCache::new(storage, mode, hash, Rebuild::Memory, 6);
        Arc::get_mut(&mut cache).unwrap().in_process = Some(all);
        let of = |entry: &SegmentEntry| Arc::new(Segment::listed(entry, crate::compacted::name_of(entry), &cache));
        let segments: Vec<Arc<Segment>> = manifest.segments.iter().map(of).collect();
        (cache, segments)
    };
    let touch = |segments: &[Arc<Segment>]| segments.iter().for_each(|segment| drop(segment.opened().unwrap()));
    let open = |cache: &SegmentCache| cache.open.lock().len();
    let ((first, of_first), (second, of_second), (third, of_third)) = (opening(), opening(), opening());
    touch(&of_first);
    touch(&of_second);
    touch(&of_third);
    // The caps alone would allow eighteen.
    assert_eq!((open(&first), open(&second), open(&third)), (6, 2, 2));
    assert_eq!(all.open.load(Ordering::Relaxed), 10);
    touch(&of_first);
    assert_eq!(open(&first), 6, "what it has it keeps");
    drop((first, of_first));
    assert_eq!(all.open.load(Ordering::Relaxed), 4);
    touch(&of_second);
    assert_eq!((open(&second), open(&third)), (6, 2));
    drop((second, of_second, third, of_third));
    assert_eq!(all.open.load(Ordering::Relaxed), 0);
}

#[test]
fn readers_and_evictions_do_not_disturb_each_other() {
    let store = options(1).open_storage(sample()).unwrap();
    let reader = store.reader();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let reader = reader.clone();
            scope.spawn(move || {
                let mut number = thread * 71;
                for _ in 0..2000 {
                    number = (number * 31 + 17) % EVENTS;
                    let event = reader.at(Position::new(number + 1).unwrap()).unwrap().unwrap();
                    assert_eq!(event.payload(), vec![(number + 1) as u8; 2000]);
                }
            });
        }
    });
}

/// Whoever makes an index file anew as it opens a segment goes on with what it has opened, also where another lets go of that.
#[test]
fn a_segment_that_is_let_go_of_while_its_index_file_is_made_is_opened_all_the_same() {
    let storage = sample();
    let manifest = manifest::load_current(&*storage).unwrap().unwrap();
    let (mode, hash) = (ReadMode::Mapped, NameHash { seed: manifest.name_hash_seed });
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for _ in 0..300 {
            manifest.segments.iter().for_each(|entry| storage.remove(&index_name(entry.number)).unwrap());
            let cache = SegmentCache::new(storage.clone(), mode, hash, Rebuild::Write, 1);
            let of = |entry: &SegmentEntry| Arc::new(Segment::listed(entry, crate::compacted::name_of(entry), &cache));
            let segments: Vec<Arc<Segment>> = manifest.segments.iter().map(of).collect();
            std::thread::scope(|scope| {
                scope.spawn(|| segments.iter().for_each(|segment| drop(segment.opened_with_keys().unwrap())));
                scope.spawn(|| segments.iter().rev().for_each(|segment| drop(segment.opened_with_keys().unwrap())));
            });
            assert_eq!(cache.made(), manifest.segments.len() as u64, "each once");
        }
        done.send(()).unwrap();
    });
    is_done.recv_timeout(std::time::Duration::from_secs(120)).expect("nobody waits for itself");
}

/// Readers outlive the store, which another may be writing by then.
#[test]
fn a_reader_writes_no_index_file_once_the_store_is_closed() {
    let memory = sample();
    let index_files = || memory.list().unwrap().into_iter().filter(|name| name.ends_with(".idx")).collect::<Vec<_>>();
    let store = options(1).background(false).open_storage(memory.clone()).unwrap();
    let reader = store.reader();
    store.close().unwrap();
    index_files().iter().for_each(|name| memory.remove(name).unwrap());
    check(&reader);
    assert_eq!(index_files(), [""; 0]);
}

/// Every way in which a reader may come to a segment: each is an error that names it, none a shorter history.
fn each_is_corrupt(reader: &Reader, file: &str) {
    let named = |result: std::result::Result<String, Error>, what: &str| match result {
        Err(Error::Corrupt(damage)) => assert!(damage.to_string().contains(file), "{what}: {damage}"),
        other => panic!("{what}: {other:?}"),
    };
    let drained = |read: crate::Result<crate::Read>| -> crate::Result<String> {
        let events = read?.collect::<crate::Result<Vec<Event>>>()?;
        Ok(format!("{} events", events.len()))
    };
    let all = [Query::all(), Query::tag("t"), Query::event_type("T"), Query::prefix("s-"), Query::stream("s-1")];
    for query in all {
        named(drained(reader.read_all(&query, Seek::Beginning)), "read_all");
        named(drained(reader.read_all_back(&query, Seek::End)), "read_all_back");
        named(reader.count(&query).map(|count| count.to_string()), "count");
    }
    named(drained(reader.read_stream("s-1", Seek::Beginning)), "read_stream");
    named(drained(reader.read_stream_back("s-1", Seek::End)), "read_stream_back");
    named(reader.last(&Query::tag("absent")).map(|last| format!("{last:?}")), "last");
    named(reader.by_id(id(1)).map(|found| format!("{found:?}")), "by_id");
    named(reader.by_id(id(EVENTS + 1)).map(|found| format!("{found:?}")), "by_id of an absent id");
    named(reader.at(Position::new(1).unwrap()).map(|found| format!("{found:?}")), "at");
    named(reader.position_at(0).map(|found| format!("{found:?}")), "position_at");
    named(reader.stream_state("absent").map(|state| format!("{state:?}")), "stream_state");
    named(reader.streams("s-").map(|streams| format!("{streams:?}")), "streams");
    named(reader.types().map(|types| format!("{types:?}")), "types");
}

fn damage(memory: &Memory, name: &str, offset: u64) {
    let file = memory.open(name, Access::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_at(offset, &mut byte).unwrap();
    file.write_at(offset, &[std::io::IoSlice::new(&[byte[0] ^ 1])]).unwrap();
}

#[test]
fn damage_found_at_first_touch_is_the_same_error_on_every_path() {
    let sound = sample();
    let name = crate::prepare::segment_name(1);
    let end = {
        let store = options(4).open_read_only_storage(sound.clone()).unwrap();
        store.core().segments.load()[0].end()
    };
    for offset in [8, 60, end + 40] {
        let memory = sample();
        damage(&memory, &name, offset);
        let store = options(4).open_read_only_storage(memory.clone()).unwrap();
        each_is_corrupt(&store.reader(), &name);
        assert!(matches!(options(4).open_storage(memory), Err(Error::Corrupt(_))));
    }
}

#[test]
fn a_missing_or_shorter_segment_is_an_error_at_once_or_at_first_touch() {
    let name = crate::prepare::segment_name(1);
    let memory = sample();
    memory.remove(&name).unwrap();
    for error in [
        options(4).open_storage(memory.clone()).err().unwrap(),
        options(4).open_read_only_storage(memory.clone()).err().unwrap(),
    ] {
        assert!(matches!(error, Error::Corrupt(_)) && error.to_string().contains("missing"), "{error}");
    }
    memory.create(&name, 4096, crate::storage::Fill::Allocated).unwrap();
    let store = options(4).open_read_only_storage(memory.clone()).unwrap();
    each_is_corrupt(&store.reader(), &name);
    // What is removed while the store is open is found when it is touched next.
    let memory = sample();
    let store = options(1).open_read_only_storage(memory.clone()).unwrap();
    check(&store.reader());
    memory.remove(&name).unwrap();
    each_is_corrupt(&store.reader(), &name);
}

/// The writer comes to a sealed segment by conditions and by the ids of a retry.
#[test]
fn the_writer_meets_the_same_error() {
    let memory = sample();
    // Without the thread that makes tiers, which would then answer in the segment's place.
    let store = options(1).background(false).open_storage(memory.clone()).unwrap();
    check(&store.reader());
    let name = crate::prepare::segment_name(1);
    // Something else has to be touched, so that the first one is let go of.
    store.at(Position::new(EVENTS / 2).unwrap()).unwrap();
    damage(&memory, &name, 8);
    let event = NewEvent::new("T", b"x");
    let batch = crate::Batch::new().event("new", event).condition(Query::tag("absent"), None);
    let refused = store.commit(&batch);
    assert!(matches!(&refused, Err(Error::Corrupt(_))), "{refused:?}");
    let payload = [1; 2000];
    let again = NewEvent::new("T", &payload).id(id(1)).tags(&["t"]);
    let refused = store.append("s-1", Expect::Any, &[again]);
    assert!(matches!(&refused, Err(Error::Corrupt(_))), "{refused:?}");
}

#[test]
fn an_index_that_goes_missing_is_made_anew_at_the_next_touch() {
    let memory = sample();
    let store = options(1).open_storage(memory.clone()).unwrap();
    store.at(Position::new(EVENTS / 2).unwrap()).unwrap();
    memory.remove(&index_name(1)).unwrap();
    check(&store.reader());
    assert!(memory.list().unwrap().contains(&index_name(1)));
    store.close().unwrap();
    let read_only = options(1).open_read_only_storage(memory.clone()).unwrap();
    memory.remove(&index_name(1)).unwrap();
    check(&read_only.reader());
    assert!(!memory.list().unwrap().contains(&index_name(1)), "nothing is written");
}

/// Maps of this process over files of this directory.
#[cfg(target_os = "linux")]
fn maps_of(directory: &std::path::Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(directory.to_str().unwrap()) && line.contains("segment-")).count()
}

#[cfg(target_os = "linux")]
#[test]
fn on_disk_no_more_files_are_mapped_than_the_cap_allows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = options(4).durability(Durability::Buffered).open(&path).unwrap();
    append(&store);
    store.close().unwrap();
    // What works in the background holds what it works on.
    let store = options(4).background(false).open(&path).unwrap();
    check(&store.reader());
    // The segment that is written, and of each sealed one the segment and its index.
    assert!(maps_of(&path) <= 1 + 2 * 4, "{}", maps_of(&path));
    assert!(maps_of(&path) > 4);
    store.close().unwrap();
    assert_eq!(maps_of(&path), 0);
}
