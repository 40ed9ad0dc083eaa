use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use annals_format::segment::SEGMENT_HEADER_LEN;

use super::*;
use crate::inspect;
use crate::prepare::segment_name;
use crate::storage::{Fill, Memory};
use crate::{Durability, EventId, Expect, Lookup, NewEvent, Options, Query, ReadMode, Seek, Store};

const EVENTS: u64 = 1_500;

fn options() -> Options {
    let options = Options::new().durability(Durability::Buffered).background(false);
    options.segment_bytes_max(64 << 10).ring_bytes(64 << 10)
}

fn id(number: u64) -> EventId {
    EventId::from_bytes((u128::from(number) << 64 | 7).to_be_bytes())
}

fn stream(number: u64) -> String {
    format!("s-{}", number % 23)
}

/// A closed store of some twenty segments, of which tiers and directory cover most.
fn sample() -> Memory {
    let memory = Memory::new();
    let store = options().open_storage(Arc::new(memory.clone())).unwrap();
    for number in 1..=EVENTS {
        let tag = format!("t-{}", number % 5);
        let payload = vec![number as u8; 700];
        let tags = [tag.as_str()];
        let event = NewEvent::new("T", &payload).id(id(number)).tags(&tags);
        store.append(&stream(number), Expect::Any, &[event]).unwrap();
    }
    store.check_index().unwrap();
    store.close().unwrap();
    memory
}

/// What the index file of each segment holds, by the segment's number.
fn kinds(memory: &Memory) -> BTreeMap<u64, Option<IndexFile>> {
    let mut found = BTreeMap::new();
    for name in memory.list().unwrap() {
        if let Some((number, true)) = crate::prepare::segment_number(&name) {
            let file = memory.open(&name, Access::Read).unwrap();
            found.insert(number, IndexFile::kind_of(&*file, &name).unwrap());
        }
    }
    found
}

fn with_places(memory: &Memory) -> Vec<u64> {
    kinds(memory).into_iter().filter(|(_, kind)| *kind == Some(IndexFile::Places)).map(|(number, _)| number).collect()
}

fn content(memory: &Memory, name: &str) -> Vec<u8> {
    let file = memory.open(name, Access::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn write(memory: &Memory, name: &str, bytes: &[u8]) {
    let _ = memory.remove(name);
    let file = memory.create(name, bytes.len() as u64, Fill::Allocated).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
}

fn check(reader: &crate::Reader) {
    let positions = |read: crate::Read| read.map(|event| event.unwrap().position().get()).collect::<Vec<u64>>();
    for tag in 0..5 {
        let wanted: Vec<u64> = (1..=EVENTS).filter(|number| number % 5 == tag).collect();
        assert_eq!(positions(reader.read_all(&Query::tag(format!("t-{tag}")), Seek::Beginning).unwrap()), wanted);
    }
    for of in 0..23 {
        let wanted: Vec<u64> = (1..=EVENTS).filter(|number| number % 23 == of).collect();
        assert_eq!(positions(reader.read_stream(&stream(of), Seek::Beginning).unwrap()), wanted);
        let back: Vec<u64> = wanted.iter().rev().copied().collect();
        assert_eq!(positions(reader.read_stream_back(&stream(of), Seek::End).unwrap()), back);
        // From a revision in the middle, both ways.
        let middle = wanted.len() as u64 / 2;
        let after = reader.read_stream(&stream(of), Seek::After(middle)).unwrap();
        assert_eq!(positions(after), wanted[middle as usize..]);
        let before = reader.read_stream_back(&stream(of), Seek::At(middle)).unwrap();
        assert_eq!(positions(before), back[back.len() - middle as usize..]);
    }
    for number in (1..=EVENTS).step_by(7) {
        let Lookup::Found(event) = reader.by_id(id(number)).unwrap() else { panic!("id of {number}") };
        assert_eq!(event.position().get(), number);
    }
    assert!(matches!(reader.by_id(id(EVENTS + 1)).unwrap(), Lookup::NotFound));
    assert_eq!(reader.streams("s-").unwrap().len(), 23);
    assert_eq!(reader.types().unwrap()[0].count, EVENTS);
    assert!(reader.last(&Query::tag("t-9")).unwrap().is_none());
}

fn opened(memory: &Memory) -> Store {
    options().open_storage(Arc::new(memory.clone())).unwrap()
}

#[test]
fn segments_that_tiers_cover_keep_places_and_everything_is_found() {
    let memory = sample();
    let covered = with_places(&memory);
    assert!(covered.len() >= 12, "{:?}", kinds(&memory));
    let len = |number: u64| content(&memory, &index_name(number)).len();
    assert!(covered.iter().all(|number| len(*number) < 3 << 12), "header, a word an event and a row a batch");
    for mode in [ReadMode::Mapped, ReadMode::Pread] {
        let store = options().read_mode(mode).open_storage(Arc::new(memory.clone())).unwrap();
        check(&store.reader());
        store.close().unwrap();
        check(&options().read_mode(mode).open_read_only_storage(Arc::new(memory.clone())).unwrap().reader());
    }
    let now = with_places(&memory);
    assert!(covered.iter().all(|number| now.contains(number)), "nobody needed more");
    let report = inspect::verify_in(&memory, &mut |_, _| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn whole_indexes_of_an_earlier_version_give_way_to_places() {
    let memory = sample();
    let covered = with_places(&memory);
    // As it was before: every segment with its whole index beside the tiers.
    let store = opened(&memory);
    for entry in &store.inner().sealing.lock().manifest.segments {
        let (mode, hash) = (ReadMode::Mapped, store.inner().core.hash);
        crate::recovery::rebuild_index_of(&memory, entry, mode, hash).unwrap();
    }
    assert!(with_places(&memory).is_empty());
    check(&store.reader());
    store.check_index().unwrap();
    assert!(with_places(&memory).len() >= covered.len());
    check(&store.reader());
    store.close().unwrap();
    check(&opened(&memory).reader());
}

#[test]
fn places_that_are_missing_damaged_or_of_another_segment_are_made_anew() {
    let sound = sample();
    let covered = with_places(&sound);
    let (first, second) = (covered[1], covered[2]);
    let whole = content(&sound, &index_name(first));
    let mut cases: Vec<Option<Vec<u8>>> = vec![None, Some(Vec::new()), Some(content(&sound, &index_name(second)))];
    cases.push(Some(whole[..whole.len() - 4].to_vec()));
    // In magic, header, archive and table.
    for at in [0, 60, 109, 4096, 4100, whole.len() / 2 + 2048, whole.len() - 2] {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        cases.push(Some(flipped));
    }
    for (number, case) in cases.into_iter().enumerate() {
        for writes in [true, false] {
            let memory = Memory::new();
            for name in sound.list().unwrap() {
                write(&memory, &name, &content(&sound, &name));
            }
            memory.remove(&index_name(first)).unwrap();
            if let Some(bytes) = &case {
                write(&memory, &index_name(first), bytes);
            }
            if writes {
                let store = opened(&memory);
                check(&store.reader());
                let looked = store.check_index().unwrap();
                assert!(looked.rebuilt.contains(&index_name(first)), "case {number}: {:?}", looked.rebuilt);
                check(&store.reader());
                store.close().unwrap();
                check(&opened(&memory).reader());
            } else {
                check(&options().open_read_only_storage(Arc::new(memory.clone())).unwrap().reader());
            }
        }
    }
}

#[test]
fn tiers_that_are_gone_or_broken_are_made_anew_from_the_log() {
    for remove in [true, false] {
        let memory = sample();
        for name in memory.list().unwrap().iter().filter(|name| name.starts_with("tier-")) {
            let mut bytes = content(&memory, name);
            memory.remove(name).unwrap();
            if !remove {
                // In the first block, where the keys are.
                bytes[SEGMENT_HEADER_LEN + 100] ^= 1;
                write(&memory, name, &bytes);
            }
        }
        check(&options().open_read_only_storage(Arc::new(memory.clone())).unwrap().reader());
        let store = opened(&memory);
        check(&store.reader());
        store.check_index().unwrap();
        check(&store.reader());
        assert!(store.inner().core.tiers.load().covered_until() > EVENTS / 2);
        assert!(with_places(&memory).len() >= 12, "{:?}", kinds(&memory));
        store.close().unwrap();
        check(&opened(&memory).reader());
    }
}

#[test]
fn a_damaged_segment_is_an_error_where_places_are_not_enough_and_never_an_absence() {
    let memory = sample();
    let number = with_places(&memory)[3];
    let name = segment_name(number);
    let mut bytes = content(&memory, &name);
    // In some payload.
    bytes[SEGMENT_HEADER_LEN + 3_000] ^= 1;
    memory.remove(&name).unwrap();
    write(&memory, &name, &bytes);
    for name in memory.list().unwrap().iter().filter(|name| name.starts_with("tier-")) {
        memory.remove(name).unwrap();
    }
    let store = options().open_read_only_storage(Arc::new(memory)).unwrap();
    let found = store.reader().read_all(&Query::tag("t-9"), Seek::Beginning).unwrap().collect::<Vec<_>>();
    assert!(matches!(found[..], [Err(Error::Corrupt(_))]), "{found:?}");
}
