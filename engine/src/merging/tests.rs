use std::sync::Arc;

use super::*;
use crate::prepare::segment_number;
use crate::storage::watched::{Done, Watched};
use crate::storage::{Access, Fill, Memory, Storage};
use crate::{EventId, Expect, Lookup, NewEvent, Options, Store};

const EVENTS: u64 = 1100;

fn options() -> Options {
    Options::new().background(false).segment_bytes_max(64 << 10).mapped_segments_max(1)
}

fn append(store: &Store, number: u64) -> crate::Result<crate::Receipt> {
    let event = NewEvent::new("t", &[7; 2000]).id(EventId::from(u128::from(number) << 64 | 1));
    store.append("s", Expect::Any, &[event])
}

/// A store as a kill leaves it, with several tiers; a clean close would have made them one.
fn killed() -> Arc<Memory> {
    let (before, after) = (Arc::new(Memory::new()), Arc::new(Memory::new()));
    let store = options().open_storage(before.clone()).unwrap();
    (1..=EVENTS).for_each(|number| drop(append(&store, number).unwrap()));
    for name in before.list().unwrap() {
        let from = before.open(&name, Access::Read).unwrap();
        let mut bytes = vec![0; from.len().unwrap() as usize];
        from.read_at(0, &mut bytes).unwrap();
        let to = after.create(&name, bytes.len() as u64, Fill::Allocated).unwrap();
        to.write_at(0, &[std::io::IoSlice::new(&bytes)]).unwrap();
    }
    after
}

/// Whoever reads finds the second to be damaged while what the first held is brought back to memory.
#[test]
fn no_id_is_lost_where_a_second_tier_breaks_while_the_ids_of_a_first_are_loaded() {
    let watched = Watched::of(killed());
    let store = options().open_storage(watched.clone()).unwrap();
    let inner = store.inner();
    let tiers = inner.core.tiers.load_full();
    let [older, newer, ..] = &tiers.iter().collect::<Vec<_>>()[..] else { panic!("two tiers at least") };
    newer.set_broken();
    let (breaks, covered) = (Arc::clone(older), newer.entry().first_segment..=newer.entry().last_segment);
    watched.tell(move |done| {
        if let Done::Opened(name) = done
            && segment_number(name).is_some_and(|(number, _)| covered.contains(&number))
        {
            breaks.set_broken();
        }
    });
    assert!(keep_tiers(inner, Due::BySize, &mut |_| {}, &inner.stopping));
    assert!(older.is_broken());
    let id = |number: u64| EventId::from(u128::from(number) << 64 | 1);
    for number in 1..=EVENTS {
        assert!(matches!(store.by_id(id(number)).unwrap(), Lookup::Found(_)), "{number} is found");
    }
    // Each of these appends drops and merges what is due as well.
    for number in 1..=EVENTS {
        assert!(append(&store, number).unwrap().already_committed(), "{number} is known");
    }
}
