use super::*;
use crate::storage::{Memory, Storage};
use crate::{Durability, Expect, NewEvent, Options, Store, merging, tiers};

const EVENTS: u64 = 300;

/// Some ten ended segments that no tier answers for yet.
fn uncovered() -> Store {
    let memory = Arc::new(Memory::new());
    let options = || Options::new().background(false).segment_bytes_max(64 << 10).durability(Durability::Buffered);
    let store = options().open_storage(memory.clone()).unwrap();
    for _ in 0..EVENTS {
        store.append("s", Expect::Any, &[NewEvent::new("t", &[7; 2000])]).unwrap();
    }
    store.close().unwrap();
    for name in memory.list().unwrap().iter().filter(|name| tiers::is_index_name(name)) {
        memory.remove(name).unwrap();
    }
    options().open_storage(memory).unwrap()
}

/// As whoever merges may do it while a reader is at it.
#[test]
fn a_tier_that_comes_between_two_units_answers_for_what_was_not_asked_yet_alone() {
    let store = uncovered();
    let (inner, reader) = (store.inner(), store.reader());
    let core = &inner.core;
    let key = core.hash.key(KeyKind::Type, "t");
    let (mut spans, mut count) = (Vec::new(), 0);
    reader
        .each_unit(EVENTS, |unit| {
            if let Some(mut cursor) = unit.cursor(KeyKind::Type, key, unit.span, Direction::Forward)? {
                count += cursor.exact_count()?;
            }
            spans.push(unit.span);
            if spans.len() == 2 {
                assert!(unit.tier().is_none());
                merging::merge_all(inner);
            }
            Ok(())
        })
        .unwrap();
    let tiers = core.tiers.load();
    let tier = tiers.tier_at(1).expect("the first segments are covered by now");
    assert!(tier.last_position() > spans[1].last, "it reaches beyond what was asked before it came");
    assert_eq!((reader.types().unwrap()[0].count, count), (EVENTS, EVENTS), "{spans:?}");
    let next = spans.iter().try_fold(1, |next, span| (span.first == next).then_some(span.last + 1));
    assert_eq!(next, Some(EVENTS + 1), "each position once: {spans:?}");
}
