//! The index made anew on a disk that fails or is full at each of its operations in turn: what was not made is told, every
//! answer stays right, and the next attempt makes all of it.
//!
//! `ANNALS_SEED` sets the seed of the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use annals::inspect::{self, Finding};
use annals::storage::{Memory, Storage};
use annals::{CompactionOptions, Error, Expect, NewEvent, Options, Query, Seek, Store};
use annals_tests::damage::{Effort, Outcome, Sample, options};
use annals_tests::sim_disk::{Dice, FaultKind, Repeat, SimDisk};

const FAULTS: [(FaultKind, Repeat); 5] = [
    (FaultKind::Enospc, Repeat::Forever),
    (FaultKind::Enospc, Repeat::Once),
    (FaultKind::Eio, Repeat::Forever),
    (FaultKind::Eio, Repeat::Once),
    (FaultKind::SyncFail, Repeat::Once),
];

#[test]
fn what_could_not_be_made_anew_is_told() {
    let seed = std::env::var("ANNALS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x1DE_0A2E);
    println!("what_could_not_be_made_anew_is_told: ANNALS_SEED={seed}");
    let sample = Sample::build(seed);
    let mut dice = Dice::of(seed, 1);
    let steps = {
        let disk = sample.disk();
        let store = options().open_storage(Arc::new(disk.clone())).unwrap();
        let before = disk.steps();
        store.rebuild_index(&mut |_, _| ()).unwrap();
        disk.steps() - before
    };
    let mut told = BTreeMap::<(String, bool), u64>::new();
    for (kind, repeat) in FAULTS {
        for step in 0..steps {
            let disk = sample.disk();
            let store = options().open_storage(Arc::new(disk.clone())).unwrap();
            disk.fail_at(disk.steps() + step, kind, repeat);
            let outcome = store.rebuild_index(&mut |_, _| ());
            let was_hit = disk.faults_hit() > 0;
            disk.clear_faults();
            // Not each kind of operation can fail in each way.
            if !was_hit {
                outcome.unwrap();
                continue;
            }
            let findings = |disk: &SimDisk| inspect::check_index_in(disk, &mut |_, _| {}).unwrap().findings;
            // What could not be removed is in nobody's way, and gone at the next opening.
            let is_left = |finding: &Finding| finding.what == "no index manifest names this file";
            let at = format!("seed {seed}, {kind:?} {repeat:?} at {step}: {outcome:?}");
            match &outcome {
                Err(Error::NoSpace { .. } | Error::Io { .. }) => {}
                Err(_) => panic!("{at}"),
                Ok(_) => {
                    let found = findings(&disk.after_kill());
                    assert!(found.iter().all(is_left), "{at}: {found:?}");
                }
            }
            let effort = Effort { all: step % 8 == 0, position: None };
            assert_eq!(sample.judge_read_only(&disk.after_kill(), &mut dice, effort), Ok(Outcome::Right), "{at}");
            store.rebuild_index(&mut |_, _| ()).unwrap_or_else(|error| panic!("{at}, then {error}"));
            let found = findings(&disk.after_kill());
            assert!(found.iter().all(is_left), "{at}: {found:?}");
            store.close().unwrap();
            let store = options().open_storage(Arc::new(disk.clone())).unwrap();
            store.close().unwrap();
            assert_eq!(findings(&disk), [], "{at}: made anew");
            assert_eq!(sample.judge_read_only(&disk, &mut dice, effort), Ok(Outcome::Right), "{at}: made anew");
            *told.entry((format!("{kind:?} {repeat:?}"), outcome.is_err())).or_default() += 1;
        }
    }
    for ((fault, is_told), count) in &told {
        println!("  {fault:<16} {} {count:>6}", if *is_told { "told" } else { "made" });
    }
    for (kind, repeat) in FAULTS {
        assert!(told.contains_key(&(format!("{kind:?} {repeat:?}"), true)), "{kind:?} {repeat:?} was never told");
    }
}

/// Some dozens of segments.
fn filled(memory: &Memory) -> Store {
    let store = Options::new().segment_bytes_max(64 << 10).open_storage(Arc::new(memory.clone())).unwrap();
    for number in 0..200u64 {
        let payload = format!("{number:>20000}");
        store.append(&format!("s-{}", number % 7), Expect::Any, &[NewEvent::new("T", &payload)]).unwrap();
    }
    store
}

#[test]
fn segments_that_are_compacted_meanwhile_have_their_index_too() {
    for round in 0..5 {
        let memory = Memory::new();
        let store = filled(&memory);
        std::thread::scope(|scope| {
            let compacting = scope.spawn(|| store.compact(&CompactionOptions::new()).unwrap());
            while !compacting.is_finished() {
                store.rebuild_index(&mut |_, _| ()).unwrap_or_else(|error| panic!("round {round}: {error}"));
            }
            assert!(!compacting.join().unwrap().compacted.is_empty());
        });
        assert_eq!(store.read_all(&Query::all(), Seek::Beginning).unwrap().filter(Result::is_ok).count(), 200);
        store.close().unwrap();
        assert_eq!(inspect::verify_in(&memory, &mut |_, _| {}).unwrap().findings, [], "round {round}");
    }
}

/// Whoever was given the store meanwhile finds nobody writing beside it.
#[test]
fn a_store_that_is_closed_makes_nothing_anew() {
    let memory = Memory::new();
    let store = filled(&memory);
    let kept = store.clone();
    let outcome = std::thread::scope(|scope| {
        let (begun, is_begun) = std::sync::mpsc::channel();
        let rebuilding = scope.spawn(move || {
            kept.rebuild_index(&mut |_, _| {
                let _ = begun.send(());
                std::thread::sleep(std::time::Duration::from_millis(20));
            })
        });
        is_begun.recv().unwrap();
        store.close().unwrap();
        let files = || memory.list().unwrap();
        let before = files();
        let outcome = rebuilding.join().unwrap();
        assert_eq!(files(), before);
        outcome
    });
    assert!(matches!(&outcome, Err(Error::Poisoned { .. })), "{outcome:?}");
}
