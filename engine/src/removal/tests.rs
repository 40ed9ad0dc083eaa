//! What a read tells of what it passes over.

use std::collections::VecDeque;

use crate::read::Step;
use crate::reader::RemovalReason;
use crate::{Expect, NewEvent, Options, Query, Reader, Revision, Seek, Store};

fn revision(number: u64) -> Revision {
    Revision::new(number).expect("at least 1")
}

/// Positions of events, and stretches that were passed over.
fn steps(reader: &Reader, query: &Query, seek: Seek) -> VecDeque<(u64, u64, Option<RemovalReason>)> {
    let mut read = reader.read_all(query, seek).unwrap();
    let mut all = VecDeque::new();
    while let Some(step) = read.step() {
        all.push_back(match step.unwrap() {
            Step::Event(event) => (event.position().get(), event.position().get(), None),
            Step::Skipped(gap) => (gap.first, gap.last, Some(gap.why)),
        });
    }
    all
}

fn filled() -> Store {
    let store = Store::in_memory().unwrap();
    // Positions 1 to 9, streams a, b, c in turn.
    for n in 0..9 {
        let tag = ["even", "odd"][n % 2];
        store.append(["a", "b", "c"][n % 3], Expect::Any, &[NewEvent::new("T", b"x").tags(&[tag])]).unwrap();
    }
    store
}

#[test]
fn a_read_steps_over_what_was_removed_and_tells_of_it() {
    let store = filled();
    let all = Query::all();
    let before = store.reader();
    let pinned = before.read_all(&all, Seek::Beginning).unwrap();
    store.delete("a", Expect::Any).unwrap();
    store.truncate_before("b", Expect::Any, revision(3)).unwrap();
    let (deleted, truncated) = (Some(RemovalReason::Deleted), Some(RemovalReason::Truncated));
    let expected = [
        (1, 1, deleted),
        (2, 2, truncated),
        (3, 3, None),
        (4, 4, deleted),
        (5, 5, truncated),
        (6, 6, None),
        (7, 7, deleted),
        (8, 8, None),
        (9, 9, None),
    ];
    let reader = store.reader();
    assert_eq!(steps(&reader, &all, Seek::Beginning), expected);
    // Of a query only what would have matched.
    let odd = [(2, 2, truncated), (4, 4, deleted), (6, 6, None), (8, 8, None)];
    assert_eq!(steps(&reader, &Query::tag("odd"), Seek::Beginning), odd);
    let gone = [(1, 7, deleted)];
    assert_eq!(steps(&reader, &Query::stream("a"), Seek::Beginning), gone);
    let mut read = reader.read_all(&all, Seek::Beginning).unwrap();
    assert_eq!((read.by_ref().count(), read.skipped()), (4, 5));
    // What was open goes on with what it saw.
    assert_eq!(pinned.count(), 9);
}

#[test]
fn many_reasons_in_turn_are_told_in_few_stretches() {
    let store = Options::new().open_storage(std::sync::Arc::new(crate::storage::Memory::new())).unwrap();
    for n in 0..200 {
        store.append(["a", "b"][n % 2], Expect::Any, &[NewEvent::new("T", b"x")]).unwrap();
    }
    store.delete("a", Expect::Any).unwrap();
    store.truncate_before("b", Expect::Any, revision(101)).unwrap();
    let told = steps(&store.reader(), &Query::all(), Seek::Beginning);
    assert!(told.len() <= 16, "{told:?}");
    assert_eq!((told[0].0, told[told.len() - 1].1), (1, 200));
}
