//! Views as of a moment: on every path they answer what a store would that ended there.
//!
//! 60 histories, 4,000 with `ANNALS_LONG=1`.

use std::sync::Arc;

use annals::backup::{BackupOptions, RestoreOptions, restore_in};
use annals::storage::Memory;
use annals::{AsOf, Durability, Error, Expect, ForkOptions, Lookup, NewEvent, Options, Query, ReadMode, Seek, Store};
use annals_tests::chronicle::Chronicle;
use annals_tests::crash::{Verdict, how_many, seed};
use annals_tests::ensure;
use annals_tests::sim_disk::Dice;

fn history(seed: u64) -> Verdict<u64> {
    let mut dice = Dice::of(seed, 0x4153);
    let mut chronicle = Chronicle::default();
    let memory = Memory::new();
    let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
    let options = chronicle.options(durability, ReadMode::Mapped);
    let store = options.clone().open_storage(Arc::new(memory.clone())).map_err(|error| error.to_string())?;
    for _ in 0..20 + dice.below(120) {
        chronicle.append(&store, &mut dice)?;
    }
    let (views, more) = every_view(&store, &chronicle, &mut dice)?;
    chronicle = more;
    let read_only = options.open_read_only_storage(Arc::new(memory)).map_err(|error| error.to_string())?;
    let moment = chronicle.any_moment(&mut dice);
    let reader = read_only.reader().as_of(moment).map_err(|error| error.to_string())?;
    chronicle.judge(&reader, chronicle.last_as_of(moment)).map_err(|text| format!("read-only, {moment:?}: {text}"))?;
    Ok(views + 1)
}

/// The head of the view of each position and of each time, and some of the views on every path after more was appended.
/// Answers how many, and the history with what was appended.
fn every_view(store: &Store, chronicle: &Chronicle, dice: &mut Dice) -> Verdict<(u64, Chronicle)> {
    let head = chronicle.head();
    let times: Vec<u64> = chronicle.batches.iter().map(|(_, time)| *time).collect();
    let around = times.iter().flat_map(|time| [time - 1, *time, time + 1]);
    let moments: Vec<AsOf> = (0..=head).map(AsOf::Position).chain(around.map(AsOf::Time)).collect();
    for moment in &moments {
        let reader = store.as_of(*moment).map_err(|error| error.to_string())?;
        ensure!(
            reader.head() == chronicle.last_as_of(*moment),
            "{moment:?}: the head is {}, {} is right",
            reader.head(),
            chronicle.last_as_of(*moment)
        );
    }
    let chosen: Vec<AsOf> = (0..4).map(|_| moments[dice.index(moments.len())]).collect();
    let readers: Vec<_> = chosen.iter().map(|moment| store.as_of(*moment).expect("looked at above")).collect();
    let mut more = chronicle.clone();
    for _ in 0..10 {
        more.append(store, dice)?;
    }
    for (moment, reader) in chosen.iter().zip(&readers) {
        let last = chronicle.last_as_of(*moment);
        chronicle.judge(reader, last).map_err(|text| format!("{moment:?}: {text}"))?;
        // A view of a view never shows more.
        let again = reader.as_of(AsOf::Head).map_err(|error| error.to_string())?;
        ensure!(again.head() == last, "a view of a view");
        let beyond = reader.as_of(AsOf::Position(last + 1));
        ensure!(matches!(beyond, Err(Error::AheadOfLog { .. })), "beyond a view: {beyond:?}");
    }
    more.judge(&store.reader(), more.head())?;
    Ok((readers.len() as u64, more))
}

#[test]
fn a_view_as_of_a_moment_is_the_history_up_to_it() {
    let histories = how_many(60, 4_000);
    let seed = seed("a_view_as_of_a_moment_is_the_history_up_to_it");
    let mut views = 0;
    for n in 0..histories {
        let seed = seed.wrapping_add(n);
        views += history(seed).unwrap_or_else(|text| panic!("ANNALS_SEED={seed}: {text}"));
    }
    println!("{histories} histories, {views} views read on every path");
}

/// A removal is retroactive: no view of an earlier moment shows what it took, and no store is made that would.
#[test]
fn what_was_removed_since_is_not_shown_again() {
    let store = Store::in_memory().unwrap();
    let event = || [NewEvent::new("T", b"secret")];
    let first = store.append("a", Expect::Any, &event()).unwrap();
    store.append("b", Expect::Any, &event()).unwrap();
    store.append("a", Expect::Any, &event()).unwrap();
    let opened_before = store.as_of(AsOf::Position(3)).unwrap();
    assert_eq!(opened_before.count(&Query::all()).unwrap(), 3);
    store.delete("a", Expect::Any).unwrap();
    for view in [store.as_of(AsOf::Position(3)).unwrap(), opened_before] {
        assert_eq!(view.head(), 3);
        assert_eq!(view.count(&Query::all()).unwrap(), 1);
        assert_eq!(view.read_stream("a", Seek::Beginning).unwrap().count(), 0);
        assert_eq!(view.read_stream_back("a", Seek::End).unwrap().count(), 0);
        assert!(matches!(view.by_id(first.first().id).unwrap(), Lookup::Removed { .. }));
        assert!(view.at(first.position()).unwrap().is_none());
        assert_eq!(view.last(&Query::all()).unwrap().map(|event| event.position().get()), Some(2));
        assert_eq!(view.types().unwrap()[0].count, 1);
    }
    let target = Memory::new();
    let forked = store.fork_to_storage(&target, &ForkOptions::new().as_of(AsOf::Position(3))).unwrap();
    assert_eq!((forked.head, forked.carried_removals), (4, 1));
    let backup = Memory::new();
    store.backup_to_storage(&backup, &BackupOptions::new()).unwrap();
    let until = RestoreOptions::new().until(AsOf::Position(3));
    let other = Memory::new();
    let restored = restore_in(&backup, &other, &until).unwrap();
    assert_eq!((restored.head, restored.carried_removals), (4, 1));
    for target in [target, other] {
        let again = Options::new().open_storage(Arc::new(target)).unwrap();
        assert_eq!((again.head(), again.count(&Query::all()).unwrap()), (4, 1));
        assert!(matches!(again.by_id(first.first().id).unwrap(), Lookup::Removed { .. }));
    }
    for target in [Memory::new(), Memory::new()] {
        restore_in(&backup, &target, &RestoreOptions::new()).unwrap();
        let again = Options::new().open_storage(Arc::new(target.clone())).unwrap();
        assert_eq!(again.count(&Query::all()).unwrap(), 1);
        let fork = Memory::new();
        again.fork_to_storage(&fork, &ForkOptions::new()).unwrap();
        let fork = Options::new().open_storage(Arc::new(fork)).unwrap();
        assert_eq!((fork.head(), fork.count(&Query::all()).unwrap()), (4, 1));
    }
}

#[test]
fn a_moment_of_an_empty_store() {
    let store = Store::in_memory().unwrap();
    for moment in [AsOf::Head, AsOf::Position(0), AsOf::Time(0), AsOf::Time(u64::MAX)] {
        assert_eq!(store.as_of(moment).unwrap().head(), 0, "{moment:?}");
    }
    assert!(matches!(store.as_of(AsOf::Position(1)), Err(Error::AheadOfLog { given: 1, head: 0 })));
}
