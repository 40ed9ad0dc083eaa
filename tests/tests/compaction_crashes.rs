//! Compaction on a simulated disk: every operation of it fails, once or for ever, every operation is a power cut, the disk or
//! the quota is full. What is told is typed, no answer changes, the store goes on, and nothing is left that holds space.
//!
//! 2,000 states after cuts, 40,000 with `ANNALS_LONG=1`; `ANNALS_STATES` says any other number, `ANNALS_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use annals::{CompactionOptions, Durability, Error, Expect, NewEvent, ReadMode, Revision, Store, inspect};
use annals_tests::aged::{Aged, names_of_log, text};
use annals_tests::crash::{Trace, Verdict, changes, how_many, seed, small};
use annals_tests::sim_disk::{Call, FaultKind, Repeat, SimDisk, WriteKind};

/// Numbers of the operations of the compaction on this ground, each with what it is.
fn operations(ground: &Aged) -> Verdict<Vec<(u64, WriteKind, Call)>> {
    let disk = SimDisk::from_files(&ground.files);
    let trace = Trace::default();
    let store = ground.options.clone().open_storage(Arc::new(trace.of(&disk))).map_err(text)?;
    ground.register(&store)?;
    let begun = disk.steps();
    store.compact(&ground.compaction).map_err(text)?;
    let ended = disk.steps();
    Ok(trace.steps().into_iter().filter(|(step, ..)| (begun..ended).contains(step)).collect())
}

#[test]
fn what_never_got_its_name_is_gone_after_an_opening() {
    for seed in 0..4 {
        let ground = Aged::new(seed).unwrap();
        let (compacted, store) = ground.open().unwrap();
        store.compact(&ground.compaction).unwrap();
        store.close().unwrap();
        let mut files = compacted.files();
        // What is renamed into place when it is whole: not what is changed in place, and not segments of the log as written.
        let is_renamed = |name: &String| {
            !["LOCK", "MARK", "RING", "CONTROL"].contains(&name.as_str()) && name.len() != "segment-.log".len() + 20
        };
        let whole: Vec<String> = files.keys().filter(|name| is_renamed(name)).cloned().collect();
        let kinds: BTreeSet<&str> = whole.iter().filter_map(|name| name.split('-').next()).collect();
        assert!(kinds.is_superset(&["manifest", "segment", "snapshots", "INDEX"].into()), "{kinds:?}");
        for name in whole {
            let half = files[&name][..files[&name].len() / 2].to_vec();
            files.insert(format!("{name}.new"), half);
        }
        // Written anew by nobody: of a generation that is long past.
        files.insert("manifest-00000000000000000001.new".to_owned(), Vec::new());
        let disk = SimDisk::from_files(&files);
        let store = ground.reopen(&disk).unwrap();
        store.close().unwrap();
        let left: Vec<String> = disk.files().into_keys().filter(|name| name.ends_with(".new")).collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

#[test]
fn every_operation_of_a_compaction_fails_and_the_store_goes_on() {
    let seed = seed("every_operation_of_a_compaction_fails");
    let (mut hits, mut told, mut poisoned) = (0, 0, 0);
    for round in 0..how_many(2, 40) {
        let seed = seed.wrapping_add(round);
        let ground = Aged::new(seed).unwrap_or_else(|what| panic!("ANNALS_SEED={seed}: {what}"));
        let kinds =
            [FaultKind::Eio, FaultKind::Enospc, FaultKind::ShortWrite, FaultKind::SyncFail, FaultKind::TornWriteHalf];
        for (step, write, call) in operations(&ground).unwrap() {
            for (kind, repeat) in kinds.into_iter().flat_map(|kind| [(kind, Repeat::Once), (kind, Repeat::Forever)]) {
                let context = format!("ANNALS_SEED={seed}, {kind:?} {repeat:?} at {step}, {write} {call}");
                let (disk, store) = ground.open().unwrap();
                disk.fail_at(step, kind, repeat);
                let outcome = store.compact(&ground.compaction);
                if disk.faults_hit() == 0 {
                    continue;
                }
                hits += 1;
                disk.clear_faults();
                let is_told = match &outcome {
                    Ok(report) => !report.notices.is_empty() || report.folds.failed > 0,
                    Err(Error::Io { .. } | Error::NoSpace { .. }) => true,
                    // The log itself could not be synced.
                    Err(Error::Poisoned { .. } | Error::OutcomeUnknown { .. }) => true,
                    Err(error) => panic!("{context}: {error} ({error:?})"),
                };
                told += u64::from(is_told);
                let went_on = ground.answers_as_before(&store).and_then(|()| match store.sync() {
                    Err(Error::Poisoned { .. }) => Ok(true),
                    Ok(_) => Ok(false),
                    Err(error) => Err(format!("syncing: {error}")),
                });
                let is_poisoned = went_on.unwrap_or_else(|what| panic!("{context}, {outcome:?}: {what}"));
                poisoned += u64::from(is_poisoned);
                let ended = match is_poisoned {
                    true => Ok(disk.after_kill()),
                    false => match store.compact(&ground.compaction) {
                        Ok(_) => store.close().map_err(text).map(|()| disk.clone()),
                        Err(error) => Err(format!("once more: {error}")),
                    },
                };
                ended.and_then(|disk| ground.aftermath(&disk, 1)).unwrap_or_else(|what| panic!("{context}: {what}"));
            }
        }
    }
    println!("{hits} faults, {told} of them told, {poisoned} poisoned the writer");
    assert!(hits > 200 && told * 2 > hits, "{hits} faults, {told} told");
}

#[test]
fn every_operation_of_a_compaction_is_a_power_cut() {
    let wanted = how_many(2_000, 40_000);
    let seed = seed("every_operation_of_a_compaction_is_a_power_cut");
    let (mut states, mut biting) = (0, 0);
    let mut cuts = BTreeMap::<(WriteKind, Call), u64>::new();
    let mut round = 0;
    while states < wanted {
        let seed = seed.wrapping_add(round);
        round += 1;
        let ground = Aged::new(seed).unwrap_or_else(|what| panic!("ANNALS_SEED={seed}: {what}"));
        for (step, ..) in operations(&ground).unwrap().into_iter().filter(|(_, _, call)| changes(*call)) {
            let (disk, store) = ground.open().unwrap();
            disk.cut_at(step);
            let outcome = store.compact(&ground.compaction);
            let Some(cut) = disk.cut() else { continue };
            *cuts.entry((cut.kind, cut.call)).or_default() += 1;
            let kept = [disk.after_power_loss_with(|_| false), disk.after_power_loss_with(|_| true)];
            let states_of_cut = [disk.after_kill()].into_iter().chain(kept).chain([disk.after_power_loss(step)]);
            for (number, state) in states_of_cut.enumerate() {
                states += 1;
                biting += u64::from(number > 0 && cut.unsynced > 0);
                let judged = ground.aftermath(&state, 1);
                judged.unwrap_or_else(|what| {
                    panic!("ANNALS_SEED={seed}, state {number} of {cut:?} ({outcome:?}): {what}")
                });
            }
        }
    }
    println!("{states} states, {biting} with something unsynced, of {round} stores: {cuts:#?}");
    assert!(states >= wanted && biting * 2 >= states, "{biting} of {states} states bite");
    let of_kind = |kind: WriteKind, call: Call| cuts.get(&(kind, call)).copied().unwrap_or(0);
    let least = wanted / 100;
    let of_snapshots = of_kind(WriteKind::Snapshots, Call::Write) + of_kind(WriteKind::Snapshots, Call::Sync);
    assert!(of_snapshots >= least, "{cuts:?}");
    assert!(
        of_kind(WriteKind::Container, Call::Write) + of_kind(WriteKind::Container, Call::Sync) >= least,
        "{cuts:?}"
    );
    assert!(of_kind(WriteKind::Manifest, Call::Write) + of_kind(WriteKind::Manifest, Call::Sync) >= least, "{cuts:?}");
    for call in [Call::Rename, Call::Remove, Call::SyncDir] {
        assert!(of_kind(WriteKind::DirectoryEntry, call) >= least, "{call} was hardly cut: {cuts:?}");
    }
}

/// Whatever room there is: compaction succeeds or says that there is none, leaves nothing behind, and works once there is.
#[test]
fn a_full_disk_and_a_quota_are_told_and_leave_nothing() {
    let seed = seed("a_full_disk_and_a_quota");
    let (mut refused, mut done) = (0, 0);
    for round in 0..how_many(3, 60) {
        let seed = seed.wrapping_add(round);
        let ground = Aged::new(seed).unwrap_or_else(|what| panic!("ANNALS_SEED={seed}: {what}"));
        for room in [0, 1, 4096, 9_000, 20_000, 40_000, 90_000, 300_000] {
            let (disk, store) = ground.open().unwrap();
            let taken = |disk: &SimDisk| disk.files().values().map(|bytes| bytes.len() as u64).sum::<u64>();
            let before = taken(&disk);
            disk.set_capacity(Some(before + room));
            let context = format!("ANNALS_SEED={seed}, {room} bytes of room");
            match store.compact(&ground.compaction) {
                Ok(_) => done += 1,
                Err(Error::NoSpace { .. }) => refused += 1,
                Err(error) => panic!("{context}: {error} ({error:?})"),
            }
            ground.answers_as_before(&store).unwrap_or_else(|what| panic!("{context}: {what}"));
            let after = taken(&disk);
            assert!(after <= before + room, "{context}: {after} bytes are taken, {before} were");
            disk.set_capacity(None);
            store.compact(&ground.compaction).unwrap_or_else(|error| panic!("{context}, with room: {error}"));
            store.append("e", Expect::NoStream, &[NewEvent::new("T", b"goes on")]).unwrap();
            assert!(taken(&disk) < before + (128 << 10), "{context}: nothing was freed");
            store.close().unwrap();
            let report = inspect::verify_in(&disk, &mut |_, _| {}).unwrap();
            assert!(report.is_sound(), "{context}: {:?}", report.findings);
            let left_over = names_of_log(&disk).into_iter().find(|name| name.starts_with("left over"));
            assert_eq!(left_over, None, "{context}");
            assert_eq!(ground.head, ground.reopen(&disk).unwrap().head() - 1);
        }
    }
    assert!(refused > 3 && done > 3, "{refused} refused, {done} done");
}

/// A store that has used up its quota: after removing, compaction makes room for appends again.
#[test]
fn a_used_up_quota_is_freed_by_compaction() {
    let disk = SimDisk::new();
    let options = || small(Durability::Buffered, ReadMode::Mapped).quota_bytes(Some(1 << 20));
    let store = options().open_storage(Arc::new(disk.clone())).unwrap();
    let payload = (0..2_000).map(|n| (n * 7919 % 251) as u8).collect::<Vec<u8>>();
    let fill = |store: &Store| {
        let mut appended = 0;
        loop {
            match store.append("a", Expect::Any, &[NewEvent::new("T", &payload)]) {
                Ok(_) => appended += 1,
                Err(Error::NoSpace { .. }) => return appended,
                Err(error) => panic!("{error}"),
            }
            assert!(appended < 2_000, "there is no quota");
        }
    };
    let first = fill(&store);
    assert!(first > 100, "{first} events fitted");
    // A removal needs a little room of its own: the live segment has some, or says so.
    let last = store.stream_state("a").unwrap().last().unwrap().get();
    let truncated = store.truncate_before("a", Expect::Any, Revision::new(last - 3).unwrap());
    match truncated {
        Ok(_) => {}
        Err(Error::NoSpace { .. }) => panic!("a full store cannot be cleaned up"),
        Err(error) => panic!("{error}"),
    }
    let report = store.compact(&CompactionOptions::new()).unwrap();
    assert!(report.removed_events > first / 2, "{report:?}");
    let again = fill(&store);
    assert!(again * 2 > first, "{first} events fitted, after compaction {again}");
    store.close().unwrap();
    assert_eq!(options().open_storage(Arc::new(disk)).unwrap().recovery_report().rebuilt_indexes, Vec::<String>::new());
}
