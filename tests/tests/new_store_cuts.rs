//! Power cuts and kills while a store is forked, restored, repaired or upgraded, and while a backup is taken: what is left is whole, or
//! clearly nothing, and the same call finishes it.
//!
//! 1,000 states, 40,000 with `ANNALS_LONG=1`; `ANNALS_STATES` says any other number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use annals::backup::{self, BackupOptions, RestoreOptions};
use annals::repair::{RepairOptions, repair_in};
use annals::storage::{Memory, Storage};
use annals::upgrade::{UpgradeOptions, upgrade_in};
use annals::{AsOf, Durability, Error, ForkOptions, Options, ReadMode, ReadOnly, Sharing, inspect};
use annals_tests::chronicle::Chronicle;
use annals_tests::crash::{Trace, Verdict, changes, how_many, seed};
use annals_tests::ensure;
use annals_tests::sim_disk::{Dice, SimDisk, WriteKind, is_power_off};

/// What is being made when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Making {
    Fork,
    Restore,
    Repair,
    Upgrade,
    Backup,
}

const ALL: [Making; 5] = [Making::Fork, Making::Restore, Making::Repair, Making::Upgrade, Making::Backup];

/// A store with a history and a chain of backups, which nothing here changes.
struct Ground {
    chronicle: Chronicle,
    options: Options,
    memory: Memory,
    /// A chain that ends before the store does.
    chain: SimDisk,
    heads: Vec<u64>,
    until: AsOf,
}

impl Ground {
    /// Three times at most `longest` appends.
    fn new(dice: &mut Dice, longest: u64) -> Verdict<Self> {
        let mut chronicle = Chronicle::default();
        let options = chronicle.options(Durability::Durable, ReadMode::Pread);
        let (memory, chain) = (Memory::new(), SimDisk::new());
        let store = options.clone().open_storage(Arc::new(memory.clone())).map_err(|error| error.to_string())?;
        let mut heads = Vec::new();
        for _ in 0..3 {
            for _ in 0..1 + dice.below(longest) {
                chronicle.append(&store, dice)?;
            }
            if heads.len() < 2 {
                store.backup_to_storage(&chain, &BackupOptions::new()).map_err(|error| error.to_string())?;
                heads.push(chronicle.head());
            }
        }
        store.close().map_err(|error| error.to_string())?;
        let until = chronicle.up_to(heads[1]).any_moment(dice);
        Ok(Self { chronicle, options, memory, chain, heads, until })
    }

    fn source(&self) -> annals::Result<ReadOnly> {
        self.options.clone().open_read_only_storage(Arc::new(self.memory.clone()))
    }

    /// An empty disk, or the chain to go on with.
    fn target(&self, making: Making) -> SimDisk {
        if making == Making::Backup { self.chain.after_kill() } else { SimDisk::new() }
    }

    fn make(&self, making: Making, target: &dyn Storage) -> annals::Result<()> {
        match making {
            Making::Fork => {
                let options = ForkOptions::new().as_of(self.until).sharing(Sharing::Copy);
                self.source()?.fork_to_storage(target, &options).map(drop)
            }
            Making::Restore => {
                backup::restore_in(&self.chain, target, &RestoreOptions::new().until(self.until)).map(drop)
            }
            Making::Repair => repair_in(&self.memory, target, &RepairOptions::new()).map(drop),
            Making::Upgrade => upgrade_in(&self.memory, target, &UpgradeOptions::new()).map(drop),
            Making::Backup => self.source()?.backup_to_storage(target, &BackupOptions::new()).map(drop),
        }
    }

    fn head(&self, making: Making) -> u64 {
        match making {
            Making::Fork => self.chronicle.last_as_of(self.until),
            Making::Restore => self.chronicle.up_to(self.heads[1]).last_as_of(self.until),
            Making::Repair | Making::Upgrade | Making::Backup => self.chronicle.head(),
        }
    }

    /// Whether the store on `target` is whole; answers whether there is one.
    fn judge_store(&self, making: Making, target: &SimDisk) -> Verdict<bool> {
        match self.options.clone().open_read_only_storage(Arc::new(target.clone())) {
            Ok(store) => {
                let reader = store.reader();
                self.chronicle.judge(&reader, self.head(making))?;
                ensure!(store.notices().is_empty(), "{:?}", store.notices());
                Ok(true)
            }
            Err(Error::NotAStore { .. }) => Ok(false),
            Err(error) => Err(format!("opening: {error}")),
        }
    }

    /// Whether every point on `target` is whole; answers whether the new one is there.
    fn judge_backup(&self, target: &SimDisk) -> Verdict<bool> {
        let points = backup::points_in(target).map_err(|error| error.to_string())?;
        let heads: Vec<u64> = self.heads.iter().copied().chain([self.chronicle.head()]).collect();
        ensure!((2..=3).contains(&points.len()), "{points:?}");
        for ((number, point), head) in points.iter().zip(&heads) {
            let point = point.as_ref().map_err(|error| format!("point {number}: {error}"))?;
            ensure!(point.head == *head, "point {number} ends at {}, {head} is right", point.head);
            let restored = Memory::new();
            backup::restore_in(target, &restored, &RestoreOptions::new().point(*number))
                .map_err(|error| format!("restoring point {number}: {error}"))?;
            let store = self.options.clone().open_read_only_storage(Arc::new(restored)).map_err(|e| e.to_string())?;
            self.chronicle.judge(&store.reader(), *head)?;
        }
        Ok(points.len() == 3)
    }

    fn judge(&self, making: Making, target: &SimDisk) -> Verdict<bool> {
        if making == Making::Backup { self.judge_backup(target) } else { self.judge_store(making, target) }
    }

    /// A state after a cut: whole or nothing, and finished by the same call.
    fn examine(&self, making: Making, disk: &SimDisk, dice: &mut Dice) -> Verdict<bool> {
        let is_there = self.judge(making, disk)?;
        if making == Making::Backup {
            self.make(making, disk).map_err(|error| format!("again: {error}"))?;
            ensure!(self.judge_backup(disk)?, "again: the point is missing");
            return Ok(is_there);
        }
        if !is_there && !disk.files().is_empty() {
            // Nobody makes a new, empty store of it by mistake.
            let opened = self.options.clone().open_storage(Arc::new(disk.after_kill()));
            let is_marked = disk.files().contains_key("UNFINISHED");
            let is_refused = matches!(opened, Err(Error::NotAStore { .. }));
            ensure!(is_refused || !is_marked, "a writer opened what is unfinished: {opened:?}");
            ensure!(is_marked || disk.files().keys().all(|name| name == "LOCK"), "{:?}", disk.files().keys());
        }
        match self.make(making, disk) {
            Ok(()) => ensure!(!is_there, "made twice"),
            Err(Error::Occupied { .. }) if is_there => {}
            Err(error) => return Err(format!("again: {error}")),
        }
        ensure!(self.judge_store(making, disk)?, "again: there is no store");
        let mut chronicle = self.chronicle.up_to(self.head(making));
        let store = self.options.clone().open_storage(Arc::new(disk.clone())).map_err(|error| error.to_string())?;
        chronicle.append(&store, dice)?;
        chronicle.judge(&store.reader(), chronicle.head())?;
        store.close().map_err(|error| error.to_string())?;
        let report = inspect::verify_in(disk, &mut |_, _| {}).map_err(|error| error.to_string())?;
        // A cut between the first two manifests leaves one, which is said.
        let is_sound = report.findings.iter().all(|finding| finding.severity == inspect::Severity::Notice);
        ensure!(is_sound, "{:?}", report.findings);
        Ok(is_there)
    }
}

#[derive(Debug, Default)]
struct Counts {
    states: u64,
    biting: u64,
    whole: BTreeMap<Making, u64>,
    nothing: BTreeMap<Making, u64>,
    kinds: BTreeMap<WriteKind, u64>,
}

fn cuts(seed: u64, making: Making, counts: &mut Counts) -> Verdict {
    let mut dice = Dice::of(seed, 0x4355);
    let ground = Ground::new(&mut dice, 50)?;
    let uncut = ground.target(making);
    let trace = Trace::default();
    ground.make(making, &trace.of(&uncut)).map_err(|error| format!("uncut: {error}"))?;
    ensure!(ground.judge(making, &uncut)?, "uncut: nothing was made");
    let steps: Vec<(u64, WriteKind)> = trace
        .steps()
        .into_iter()
        .filter(|(_, _, call)| changes(*call) || dice.chance(1, 8))
        .map(|(step, kind, _)| (step, kind))
        .collect();
    for _ in 0..8 {
        // Each kind alike.
        let kinds: BTreeSet<WriteKind> = steps.iter().map(|(_, kind)| *kind).collect();
        let kind = kinds.iter().nth(dice.index(kinds.len())).expect("an index below the count");
        let of_kind: Vec<u64> = steps.iter().filter(|(_, of)| of == kind).map(|(step, _)| *step).collect();
        let step = of_kind[dice.index(of_kind.len())];
        let target = ground.target(making);
        target.cut_at(step);
        match ground.make(making, &target) {
            Err(Error::Io { source, .. }) if is_power_off(&source) => {}
            // What is only tidied up may fail unheard.
            Ok(()) if making != Making::Backup => {}
            other => return Err(format!("cut at {step}: {other:?}")),
        }
        let Some(cut) = target.cut() else { return Err(format!("no cut at {step}")) };
        let loss = dice.next();
        let states = [target.after_kill(), target.after_power_loss(loss), target.after_power_loss(loss ^ 1)];
        for (n, state) in states.iter().enumerate() {
            let is_there = ground
                .examine(making, state, &mut dice)
                .map_err(|text| format!("{cut:?}, state {n}, loss {loss}: {text}"))?;
            counts.states += 1;
            counts.biting += u64::from(n > 0 && cut.unsynced > 0);
            *(if is_there { &mut counts.whole } else { &mut counts.nothing }).entry(making).or_default() += 1;
        }
        if changes(cut.call) {
            *counts.kinds.entry(cut.kind).or_default() += 1;
        }
    }
    Ok(())
}

#[test]
fn a_cut_leaves_the_whole_or_nothing_and_the_same_call_finishes_it() {
    let wanted = how_many(1_000, 40_000);
    let seed = seed("a_cut_leaves_the_whole_or_nothing_and_the_same_call_finishes_it");
    let mut counts = Counts::default();
    let mut n = 0;
    while counts.states < wanted {
        let making = ALL[n as usize % ALL.len()];
        let seed = seed.wrapping_add(n);
        cuts(seed, making, &mut counts).unwrap_or_else(|text| panic!("ANNALS_SEED={seed}, {making:?}: {text}"));
        n += 1;
    }
    println!("{counts:?}");
    // Two of three states are those after a power cut, the others after a kill.
    assert!(2 * counts.biting >= counts.states * 2 / 3, "too few states with anything unsynced: {counts:?}");
    for making in ALL {
        assert!(counts.whole.contains_key(&making) && counts.nothing.contains_key(&making), "{making:?}: {counts:?}");
    }
    let least = wanted / 50;
    for kind in [
        WriteKind::Batch,
        WriteKind::Manifest,
        WriteKind::Other,
        WriteKind::Mark,
        WriteKind::Ring,
        WriteKind::DirectoryEntry,
    ] {
        assert!(counts.kinds.get(&kind).copied().unwrap_or(0) >= least, "{kind} was hardly cut: {counts:?}");
    }
}

/// An error of the target at any operation: nothing but that error, and what is left is as after a kill.
#[test]
fn an_error_at_any_operation_is_told_and_the_same_call_finishes_it() {
    use annals_tests::sim_disk::{FaultKind, Repeat};
    let mut dice = Dice::of(seed("an_error_at_any_operation"), 0x4552);
    let ground = Ground::new(&mut dice, 12).unwrap();
    for making in ALL {
        let uncut = ground.target(making);
        ground.make(making, &uncut).unwrap();
        for step in 0..uncut.steps() {
            for kind in [FaultKind::Eio, FaultKind::Enospc] {
                let target = ground.target(making);
                target.fail_at(step, kind, Repeat::Once);
                let made = ground.make(making, &target);
                if target.faults_hit() == 0 {
                    continue;
                }
                if let Err(error) = &made {
                    let is_plain = matches!(error, Error::Io { .. } | Error::NoSpace { .. } | Error::Locked { .. });
                    assert!(is_plain, "{making:?} at {step}: {error}");
                }
                target.clear_faults();
                let state = target.after_kill();
                let is_there = ground
                    .examine(making, &state, &mut dice)
                    .unwrap_or_else(|text| panic!("{making:?} at {step}, {kind:?}: {text}"));
                assert!(is_there || made.is_err(), "{making:?} at {step}, {kind:?}: nothing, and no error");
            }
        }
    }
}

/// Whoever reads a chain, nobody holds it open for ever, and nobody else's files are touched.
#[test]
fn a_run_at_work_locks_its_target() {
    let mut dice = Dice::of(3, 0x4C4B);
    let ground = Ground::new(&mut dice, 12).unwrap();
    for making in ALL {
        let target = ground.target(making);
        let held = target.lock().unwrap();
        let made = ground.make(making, &target);
        assert!(matches!(made, Err(Error::Locked { .. })), "{making:?}: {made:?}");
        drop(held);
        ground.make(making, &target).unwrap();
    }
}
