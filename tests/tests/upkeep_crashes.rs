//! Power cuts and kills inside everything that keeps a store over the years: compaction, saving and cleaning up snapshots,
//! backup, restore, fork and repair, on stores of which events were removed and segments compacted before. One count for all six.
//!
//! A state is what one cut leaves, opened and judged. Cuts are spread alike over the kinds of operations that change the disk; each
//! leaves five states: all that was written (a kill), nothing that was not synced, all of it, any of it, and, cut once more while
//! the interrupted work is done again, opening included, any of that. In each the old store answers as before on every path, or
//! the new one is whole, or is clearly not there; nothing that was removed comes back; the same work succeeds and what it leaves
//! is sound.
//!
//! 5,000 states, 100,000 with `ANNALS_LONG=1`; `ANNALS_STATES` says any other number, `ANNALS_SEED` repeats a run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use annals::backup::{self, BackupOptions, RestoreOptions};
use annals::repair::{RepairOptions, repair_in};
use annals::storage::{Memory, Storage};
use annals::{
    AsOf, CleanSnapshots, Durability, Error, Expect, ForkOptions, NewEvent, ReadOnly, Revision, Sharing, Snapshots,
    Store, inspect,
};
use annals_tests::aged::{Aged, STREAMS, answers, events, folded, is_sound, replayed, same, text};
use annals_tests::crash::{Trace, Verdict, changes, how_many, seed};
use annals_tests::ensure;
use annals_tests::sim_disk::{Call, Cut, Dice, SimDisk, WriteKind, is_power_off};

/// What is being done when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Compaction,
    Snapshot,
    Backup,
    Restore,
    Fork,
    Repair,
}

use Work::{Backup, Compaction, Fork, Repair, Restore, Snapshot};

const ALL: [Work; 6] = [Compaction, Snapshot, Backup, Restore, Fork, Repair];

/// Cuts of each work on one store.
const CUTS: usize = 12;

/// A state to be saved: all of these, in order, with a clean-up after every few.
#[derive(Clone, Debug)]
struct Save {
    stream: &'static str,
    revision: Revision,
    state: Vec<u8>,
    durability: Durability,
}

/// A store, what was made of it while it grew up, and what each work makes of it when nothing interrupts it.
struct Scene {
    aged: Aged,
    /// The same store, which nobody writes to; and damaged in one place, which repair is for.
    source: SimDisk,
    damaged: SimDisk,
    /// A chain of backups without the newest point, and with it.
    chain: BTreeMap<String, Vec<u8>>,
    whole_chain: SimDisk,
    /// What each point answers when it is restored.
    points: Vec<Vec<String>>,
    moment: AsOf,
    saves: Vec<Save>,
    /// The state of each stream, if it can be made.
    states: BTreeMap<&'static str, Option<[u64; 2]>>,
    made: BTreeMap<Work, Vec<String>>,
}

fn saved() -> Snapshots {
    Snapshots::of("saved", 1)
}

impl Scene {
    fn new(seed: u64) -> Verdict<Self> {
        let mut dice = Dice::of(seed, 0x5550);
        let chain = SimDisk::new();
        let before_last = RefCell::new(BTreeMap::new());
        let aged = Aged::seen_at_rest(seed, |store| {
            *before_last.borrow_mut() = chain.files();
            store.backup_to_storage(&chain, &BackupOptions::new()).map(drop).map_err(text)
        })?;
        let source = SimDisk::from_files(&aged.files);
        let damaged = SimDisk::from_files(&aged.files);
        if dice.chance(1, 2) {
            harm(&damaged, &mut dice);
        }
        let moment = if dice.chance(1, 3) { AsOf::Head } else { AsOf::Position(dice.below(aged.head + 1)) };
        let saves = saves_of(&aged, &source, &mut dice)?;
        let (chain, whole_chain) = (before_last.into_inner(), SimDisk::from_files(&chain.files()));
        let (states, points, made) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        let mut scene = Self { aged, source, damaged, chain, whole_chain, points, moment, saves, states, made };
        scene.points = scene.restored_points(&scene.whole_chain)?;
        scene.note_what_is_made()?;
        Ok(scene)
    }

    /// What is made without a cut, which shows what the source shows.
    fn note_what_is_made(&mut self) -> Verdict {
        let source = self.source()?;
        for stream in STREAMS {
            self.states.insert(stream, replayed(&source.reader(), stream, &folded())?);
        }
        let then = source.reader().as_of(self.moment).map_err(text)?;
        let (last, known) = (then.head(), self.aged.head);
        let wanted = events(&then, last, known)?;
        for work in [Restore, Fork, Repair] {
            let target = self.target(work);
            self.make(work, &target).map_err(|error| format!("{work:?} uncut: {error}"))?;
            let made = self.aged.options.clone().open_read_only_storage(Arc::new(target)).map_err(text)?;
            let reader = made.reader();
            if work == Repair {
                // Of a damaged store what could be read.
                let shown: Vec<String> = events(&reader, known, 0)?;
                let ever = events(&source.reader(), known, 0)?;
                let wrong = shown.iter().find(|line| line.contains(" of ") && !ever.contains(line));
                ensure!(wrong.is_none(), "repaired: {wrong:?} is not in the source");
            } else {
                let shown = events(&reader, last, known)?;
                same(&wanted, &shown).map_err(|text| format!("{work:?} uncut, {:?}: {text}", self.moment))?;
            }
            self.made.insert(work, answers(&reader)?);
        }
        let newest = self.points.last().ok_or("no point")?;
        let wanted = events(&source.reader(), known, known)?;
        same(&wanted, &newest[1..=wanted.len()]).map_err(|text| format!("the newest point: {text}"))
    }

    fn source(&self) -> Verdict<ReadOnly> {
        self.aged.options.clone().open_read_only_storage(Arc::new(self.source.clone())).map_err(text)
    }

    /// Whether the work is done in the store itself.
    fn is_inside(work: Work) -> bool {
        matches!(work, Compaction | Snapshot)
    }

    /// The disk as it is before the work.
    fn target(&self, work: Work) -> SimDisk {
        match work {
            Compaction | Snapshot => SimDisk::from_files(&self.aged.files),
            Backup => SimDisk::from_files(&self.chain),
            Restore | Fork | Repair => SimDisk::new(),
        }
    }

    /// Makes something on another disk.
    fn make(&self, work: Work, target: &dyn Storage) -> annals::Result<()> {
        let source = || self.aged.options.clone().open_read_only_storage(Arc::new(self.source.clone()));
        match work {
            Backup => source()?.backup_to_storage(target, &BackupOptions::new()).map(drop),
            Restore => {
                backup::restore_in(&self.whole_chain, target, &RestoreOptions::new().until(self.moment)).map(drop)
            }
            Fork => {
                let options = ForkOptions::new().as_of(self.moment).sharing(Sharing::Copy);
                source()?.fork_to_storage(target, &options).map(drop)
            }
            Repair => repair_in(&self.damaged, target, &RepairOptions::new()).map(drop),
            Compaction | Snapshot => unreachable!("done in the store itself"),
        }
    }

    /// Works in the store; answers how many saves were acknowledged.
    fn work_in(&self, work: Work, store: &Store, acknowledged: &mut usize) -> annals::Result<()> {
        *acknowledged = 0;
        if work == Compaction {
            return store.compact(&self.aged.compaction).map(drop);
        }
        for save in &self.saves {
            saved().durability(save.durability).save(store, save.stream, save.revision, &save.state)?;
            *acknowledged += 1;
            if acknowledged.is_multiple_of(5) {
                store.clean_snapshots(&CleanSnapshots::new().keep(1))?;
            }
        }
        Ok(())
    }

    /// Operations of the work that change the disk.
    fn operations(&self, work: Work) -> Verdict<Vec<(u64, WriteKind, Call)>> {
        let (disk, trace) = (self.target(work), Trace::default());
        let storage = trace.of(&disk);
        let (begun, ended);
        if Self::is_inside(work) {
            let store = self.aged.options.clone().open_storage(Arc::new(storage)).map_err(text)?;
            self.aged.register(&store)?;
            begun = disk.steps();
            self.work_in(work, &store, &mut 0).map_err(|error| format!("uncut: {error}"))?;
            ended = disk.steps();
        } else {
            begun = 0;
            self.make(work, &storage).map_err(|error| format!("uncut: {error}"))?;
            ended = disk.steps();
        }
        let is_its = |(step, _, call): &(u64, WriteKind, Call)| (begun..ended).contains(step) && changes(*call);
        Ok(trace.steps().into_iter().filter(is_its).collect())
    }

    /// Does the work on a disk that is switched off at some step, if it gets so far. A store is opened first.
    fn until_cut(&self, work: Work, disk: &SimDisk, step: u64) -> Verdict<(Option<Cut>, usize)> {
        let mut acknowledged = 0;
        disk.cut_at(step);
        if Self::is_inside(work) {
            // What fails is the machine.
            if let Ok(store) = self.aged.reopen(disk) {
                let done = self.work_in(work, &store, &mut acknowledged);
                ensure!(done.is_ok() || disk.cut().is_some(), "at work: {done:?}");
            }
            return Ok((disk.cut(), acknowledged));
        }
        match self.make(work, disk) {
            Err(Error::Io { source, .. }) if is_power_off(&source) => {}
            // What is only tidied up may fail unheard; and what is there is not made again.
            Ok(()) | Err(Error::Occupied { .. }) => {}
            Err(other) => return Err(format!("at work: {other:?}")),
        }
        Ok((disk.cut(), 0))
    }

    /// Judges what is left, does the work again and judges what that made.
    fn examine(&self, work: Work, left: &Left) -> Verdict<bool> {
        match work {
            Compaction => self.aged.aftermath(&left.disk, left.cuts).map(|()| true),
            Snapshot => self.examine_snapshots(left).map(|()| true),
            Backup => self.examine_backup(&left.disk),
            Restore | Fork | Repair => self.examine_made(work, &left.disk),
        }
    }

    fn examine_snapshots(&self, left: &Left) -> Verdict {
        let store = self.aged.reopen(&left.disk)?;
        self.aged.answers_as_before(&store)?;
        self.judge_saved(&store, |number, save| {
            number < left.acknowledged && (left.is_kill || save.durability == Durability::Durable)
        })?;
        self.work_in(Snapshot, &store, &mut 0).map_err(|error| format!("again: {error}"))?;
        self.aged.answers_as_before(&store)?;
        self.judge_saved(&store, |_, _| true)?;
        store.close().map_err(text)?;
        let store = self.aged.reopen(&left.disk)?;
        self.judge_saved(&store, |_, _| true).map_err(|text| format!("reopened: {text}"))?;
        store.close().map_err(text)?;
        is_sound(&left.disk)
    }

    /// Of each stream the newest state is one that was saved, and at least the newest that must be there; what is loaded by it is
    /// what was loaded ever.
    fn judge_saved(&self, store: &Store, must_be: impl Fn(usize, &Save) -> bool) -> Verdict {
        let reader = store.reader();
        for stream in STREAMS {
            let of_stream = || self.saves.iter().enumerate().filter(|(_, save)| save.stream == stream);
            let least =
                of_stream().filter(|(number, save)| must_be(*number, save)).map(|(_, save)| save.revision).max();
            let found = reader.latest_snapshot(stream, &saved()).map_err(text)?;
            let revision = found.as_ref().map(|snapshot| snapshot.revision());
            ensure!(revision >= least, "the newest of {stream} is of {revision:?}, {least:?} was acknowledged");
            let Some(found) = found else { continue };
            let is_it = |save: &Save| Some(save.revision) == revision && save.state == found.state();
            ensure!(of_stream().any(|(_, save)| is_it(save)), "{found:?} was never saved so");
            let (by_it, ever) = (replayed(&reader, stream, &saved())?, self.states[stream]);
            ensure!(by_it == ever, "{stream} is {by_it:?} by what was saved, it was {ever:?}");
        }
        Ok(())
    }

    fn restored_points(&self, chain: &SimDisk) -> Verdict<Vec<Vec<String>>> {
        let points = backup::points_in(chain).map_err(text)?;
        let restored = points.into_iter().map(|(number, point)| {
            let failed = |error: Error| format!("point {number}: {error}");
            point.map_err(failed)?;
            let restored = Memory::new();
            backup::restore_in(chain, &restored, &RestoreOptions::new().point(number)).map_err(failed)?;
            let store = self.aged.options.clone().open_read_only_storage(Arc::new(restored)).map_err(failed)?;
            answers(&store.reader())
        });
        restored.collect()
    }

    /// Every point is whole: the older ones, and the new one if it is there.
    fn judge_backup(&self, chain: &SimDisk) -> Verdict<bool> {
        let (points, count) = (self.restored_points(chain)?, self.points.len());
        ensure!((count - 1..=count).contains(&points.len()), "{} points, there are to be {count}", points.len());
        for (number, (now, before)) in points.iter().zip(&self.points).enumerate() {
            same(before, now).map_err(|text| format!("point {number}: {text}"))?;
        }
        Ok(points.len() == count)
    }

    fn examine_backup(&self, chain: &SimDisk) -> Verdict<bool> {
        let is_there = self.judge_backup(chain)?;
        self.make(Backup, chain).map_err(|error| format!("again: {error}"))?;
        ensure!(self.judge_backup(chain)?, "again: the point is missing");
        Ok(is_there)
    }

    /// Whether there is a store on `target`, which then is whole.
    fn judge_made(&self, work: Work, target: &SimDisk) -> Verdict<bool> {
        match self.aged.options.clone().open_read_only_storage(Arc::new(target.clone())) {
            Ok(store) => same(&self.made[&work], &answers(&store.reader())?).map(|()| true),
            Err(Error::NotAStore { .. }) => Ok(false),
            Err(error) => Err(format!("opening: {error}")),
        }
    }

    fn examine_made(&self, work: Work, target: &SimDisk) -> Verdict<bool> {
        let is_there = self.judge_made(work, target)?;
        if !is_there && !target.files().is_empty() {
            // Nobody makes a new, empty store of it by mistake.
            let is_marked = target.files().contains_key("UNFINISHED");
            let opened = self.aged.options.clone().open_storage(Arc::new(target.after_kill()));
            let is_refused = matches!(opened, Err(Error::NotAStore { .. }));
            ensure!(is_refused || !is_marked, "a writer opened what is unfinished: {opened:?}");
            let names: Vec<String> = target.files().into_keys().collect();
            ensure!(is_marked || names.iter().all(|name| name == "LOCK"), "{names:?}");
        }
        match self.make(work, target) {
            Ok(()) => {
                ensure!(!is_there, "made twice");
                ensure!(self.judge_made(work, target)?, "again: there is no store");
            }
            Err(Error::Occupied { .. }) if is_there => {}
            Err(error) => return Err(format!("again: {error}")),
        }
        let store = self.aged.options.clone().open_storage(Arc::new(target.clone())).map_err(text)?;
        let head = store.head();
        store.append("after", Expect::NoStream, &[NewEvent::new("T", b"goes on")]).map_err(text)?;
        ensure!(store.head() == head + 1, "the head after an append is {}, it was {head}", store.head());
        store.close().map_err(text)?;
        let report = inspect::verify_in(target, &mut |_, _| {}).map_err(text)?;
        // A cut between the first two manifests leaves one, which is said.
        let is_sound = report.findings.iter().all(|finding| finding.severity == inspect::Severity::Notice);
        ensure!(is_sound, "{:?}", report.findings);
        Ok(is_there)
    }
}

/// Overwrites a part of one segment.
fn harm(disk: &SimDisk, dice: &mut Dice) {
    let files = disk.files();
    let of_log: Vec<&String> =
        files.keys().filter(|name| name.starts_with("segment-") && !name.ends_with(".idx")).collect();
    let name = of_log[dice.index(of_log.len())];
    let (len, at) = (files[name].len(), dice.index(files[name].len()));
    disk.damage(name, |bytes| bytes[at..(at + 700).min(len)].fill(0xA5));
}

/// States as they were at some revisions of the streams of which nothing is missing.
fn saves_of(aged: &Aged, source: &SimDisk, dice: &mut Dice) -> Verdict<Vec<Save>> {
    let source = aged.options.clone().open_read_only_storage(Arc::new(source.clone())).map_err(text)?;
    let reader = source.reader();
    let mut saves = Vec::new();
    for stream in STREAMS {
        let read: annals::Result<Vec<_>> =
            reader.read_stream(stream, annals::Seek::Beginning).and_then(Iterator::collect);
        let shown = read.map_err(text)?;
        for _ in 0..4 {
            let Some(event) = shown.get(dice.index(shown.len().max(1))) else { continue };
            let then = reader.as_of(AsOf::Position(event.position().get())).map_err(text)?;
            let Some(state) = replayed(&then, stream, &folded())? else { continue };
            let mut state = state.map(u64::to_le_bytes).concat();
            // Some are long, of these some cannot be compressed.
            let noise = dice.chance(1, 2);
            let len = if dice.chance(1, 3) { dice.index(20_000) } else { 0 };
            state.extend((0..len).map(|_| if noise { dice.next() as u8 } else { 7 }));
            let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
            saves.push(Save { stream, revision: event.revision(), state, durability });
        }
    }
    // Of two of one revision the later one is the newer: one is enough.
    saves.sort_by_key(|save| (save.revision, save.stream));
    saves.dedup_by_key(|save| (save.revision, save.stream));
    Ok(saves)
}

/// What a cut has left.
struct Left {
    disk: SimDisk,
    is_kill: bool,
    /// How many saves were acknowledged before.
    acknowledged: usize,
    cuts: usize,
}

/// States of one work.
#[derive(Debug, Default)]
struct Count {
    states: u64,
    kills: u64,
    /// With something unsynced outstanding when the power went.
    biting: u64,
    /// Cut again while the work was done again.
    again: u64,
    /// In which the new thing was whole already.
    whole: u64,
    cut_in: BTreeMap<(WriteKind, Call), u64>,
}

impl Count {
    fn of(&self, kind: WriteKind, calls: &[Call]) -> u64 {
        calls.iter().filter_map(|call| self.cut_in.get(&(kind, *call))).sum()
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, kills, biting, again, whole, cut_in } = self;
        write!(
            f,
            "{states} states, {biting} with something unsynced, {kills} after a kill, {again} cut twice, {whole} whole; cut in"
        )?;
        cut_in.iter().try_for_each(|((kind, call), count)| write!(f, " {kind} {call} {count},"))
    }
}

/// Some of the operations: first which of file and call, each alike, then any of these.
fn spread(operations: &[(u64, WriteKind, Call)], count: usize, dice: &mut Dice) -> Vec<u64> {
    let mut of_kind = BTreeMap::<(WriteKind, Call), Vec<u64>>::new();
    operations.iter().for_each(|(step, kind, call)| of_kind.entry((*kind, *call)).or_default().push(*step));
    let kinds: Vec<Vec<u64>> = of_kind.into_values().collect();
    let chosen = (0..count).map(|_| {
        let steps = &kinds[dice.index(kinds.len())];
        steps[dice.index(steps.len())]
    });
    chosen.collect()
}

fn cut(scene: &Scene, work: Work, dice: &mut Dice, count: &mut Count) -> Verdict {
    let operations = scene.operations(work)?;
    let first = operations.first().map_or(0, |(step, ..)| *step);
    let mut examine = |left: Left, cut: Cut| -> Verdict {
        let is_whole = scene.examine(work, &left)?;
        count.states += 1;
        count.kills += u64::from(left.is_kill);
        count.biting += u64::from(!left.is_kill && cut.unsynced > 0);
        count.again += u64::from(left.cuts > 1);
        count.whole += u64::from(is_whole);
        *count.cut_in.entry((cut.kind, cut.call)).or_default() += 1;
        Ok(())
    };
    for step in spread(&operations, CUTS, dice) {
        let disk = scene.target(work);
        let (Some(cut), acknowledged) = scene.until_cut(work, &disk, step)? else {
            return Err(format!("no cut at {step}"));
        };
        let loss = dice.next();
        let kept = [disk.after_power_loss_with(|_| false), disk.after_power_loss_with(|_| true)];
        let states = [disk.after_kill()].into_iter().chain(kept).chain([disk.after_power_loss(loss)]);
        for (number, disk) in states.enumerate() {
            let left = Left { disk, is_kill: number == 0, acknowledged, cuts: 1 };
            examine(left, cut).map_err(|text| format!("{cut:?}, state {number}, loss {loss}: {text}"))?;
        }
        // Once more: anywhere from the opening on.
        let again = disk.after_power_loss(loss);
        let second = dice.below(operations.len() as u64 + first.min(20));
        let (next, now_acknowledged) =
            scene.until_cut(work, &again, second).map_err(|text| format!("{cut:?}, loss {loss}, again: {text}"))?;
        // What was there before it was cut, and what was acknowledged meanwhile, are both owed.
        let (Some(next), acknowledged) = (next, acknowledged.max(now_acknowledged)) else { continue };
        let left = Left { disk: again.after_power_loss(loss ^ 1), is_kill: false, acknowledged, cuts: 2 };
        examine(left, next).map_err(|text| format!("{cut:?}, loss {loss}, then {next:?}: {text}"))?;
    }
    Ok(())
}

#[test]
fn whatever_is_interrupted_changes_no_answer_and_is_done_by_the_next_run() {
    let wanted = how_many(5_000, 100_000);
    let seed = seed("whatever_is_interrupted_changes_no_answer");
    let mut counts: BTreeMap<Work, Count> = ALL.into_iter().map(|work| (work, Count::default())).collect();
    let total = |counts: &BTreeMap<Work, Count>| counts.values().map(|count| count.states).sum::<u64>();
    let mut stores = 0;
    while total(&counts) < wanted {
        let seed = seed.wrapping_add(stores);
        stores += 1;
        let scene = Scene::new(seed).unwrap_or_else(|text| panic!("ANNALS_SEED={seed}: {text}"));
        for (work, count) in &mut counts {
            let mut dice = Dice::of(seed, *work as u64);
            cut(&scene, *work, &mut dice, count).unwrap_or_else(|text| panic!("ANNALS_SEED={seed}, {work:?}: {text}"));
        }
    }
    for (work, count) in &counts {
        println!("{work:?}: {count}");
    }
    let (states, biting) = (total(&counts), counts.values().map(|count| count.biting).sum::<u64>());
    println!("{states} states, {biting} with something unsynced, of {stores} stores");
    assert!(biting * 2 >= states, "{biting} of {states} states bite");
    // The full measure is for runs of the ordinary length.
    if wanted >= 2_000 {
        judge_counts(&counts, wanted);
    }
}

/// Each work has its share, and was cut in whatever it writes; all together in each kind of write.
fn judge_counts(counts: &BTreeMap<Work, Count>, wanted: u64) {
    const NAMES: [Call; 4] = [Call::Create, Call::Rename, Call::Remove, Call::SyncDir];
    const WRITES: [Call; 2] = [Call::Write, Call::Sync];
    let least = |work: Work, kind: WriteKind, calls: &[Call]| {
        let count = counts[&work].of(kind, calls);
        assert!(count >= wanted / 500, "{work:?} was cut in {kind} {calls:?} {count} times: {}", counts[&work]);
    };
    for (work, count) in counts {
        assert!(count.states >= wanted / 8, "{work:?}: {count}");
        assert!(count.biting * 2 >= count.states - count.kills, "{work:?}: {count}");
        assert!(count.again >= wanted / 200, "{work:?}: {count}");
        let is_either = matches!(work, Compaction | Snapshot) || (count.whole > 0 && count.whole < count.states);
        assert!(is_either, "{work:?} is always whole, or never: {count}");
        least(*work, WriteKind::DirectoryEntry, &NAMES);
    }
    for (work, kind) in [
        (Compaction, WriteKind::Container),
        (Compaction, WriteKind::Snapshots),
        (Compaction, WriteKind::Manifest),
        (Snapshot, WriteKind::Snapshots),
        // Whatever is in a backup.
        (Backup, WriteKind::Other),
        (Restore, WriteKind::Container),
        (Restore, WriteKind::Manifest),
        (Fork, WriteKind::Container),
        (Fork, WriteKind::Manifest),
        (Repair, WriteKind::Batch),
        (Repair, WriteKind::Manifest),
    ] {
        least(work, kind, &WRITES);
    }
    least(Compaction, WriteKind::DirectoryEntry, &[Call::Rename]);
    least(Compaction, WriteKind::DirectoryEntry, &[Call::Remove]);
    least(Snapshot, WriteKind::DirectoryEntry, &[Call::Remove]);
    let of_all = |kind, calls: &[Call]| counts.values().map(|count| count.of(kind, calls)).sum::<u64>();
    for kind in [WriteKind::Batch, WriteKind::Container, WriteKind::Snapshots, WriteKind::Manifest, WriteKind::Mark] {
        let count = of_all(kind, &[Call::Write, Call::Sync]);
        assert!(count >= wanted / 50, "{kind} was cut {count} times");
    }
    for call in NAMES {
        let count = of_all(WriteKind::DirectoryEntry, &[call]);
        assert!(count >= wanted / 50, "{call} was cut {count} times");
    }
}
