//! Repair: whatever is damaged, the new store holds every whole batch that can be read, at its place, and says what is lost.
//!
//! 150 trials, 20,000 with `ANNALS_LONG=1`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use annals::repair::{RepairOptions, RepairReport, repair, repair_in};
use annals::storage::{Memory, Storage};
use annals::{Durability, Error, Event, Options, Position, Query, ReadMode, Seek, Store, inspect};
use annals_tests::chronicle::{Chronicle, Told};
use annals_tests::crash::{Verdict, how_many, seed};
use annals_tests::ensure;
use annals_tests::sim_disk::{Dice, SimDisk};

/// A store of several segments, and whether it was closed cleanly.
struct Ground {
    chronicle: Chronicle,
    disk: SimDisk,
    options: Options,
    is_clean: bool,
}

impl Ground {
    fn new(dice: &mut Dice) -> Verdict<Self> {
        let mut chronicle = Chronicle::default();
        let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
        let options = chronicle.options(durability, ReadMode::Pread);
        let mut disk = SimDisk::new();
        let openings = 1 + dice.below(3);
        let mut is_clean = true;
        for _ in 0..openings {
            let store = options.clone().open_storage(Arc::new(disk.clone())).map_err(|error| error.to_string())?;
            for _ in 0..20 + dice.below(60) {
                chronicle.append(&store, dice)?;
            }
            is_clean = dice.chance(2, 3);
            if is_clean {
                store.close().map_err(|error| error.to_string())?;
            } else {
                disk = disk.after_kill();
            }
        }
        // What is damaged belongs to nobody else.
        let disk = SimDisk::from_files(&disk.files());
        Ok(Self { chronicle, disk, options, is_clean })
    }

    /// Harms one file, or none; answers which.
    fn harm(&self, dice: &mut Dice) -> String {
        let files = self.disk.files();
        let mut names: Vec<&String> = files.keys().filter(|name| *name != "LOCK").collect();
        if dice.chance(3, 4) {
            names.retain(|name| name.ends_with(".log"));
        }
        let name = names[dice.index(names.len())].clone();
        let len = files[&name].len();
        let used = files[&name].iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let at = dice.index(used);
        match dice.below(7) {
            0 => self.disk.remove(&name).expect("it is there"),
            1 => drop(self.disk.damage(&name, Vec::clear)),
            2 => drop(self.disk.damage(&name, |bytes| bytes.truncate(at))),
            3 => drop(self.disk.damage(&name, |bytes| bytes[at..(at + 4096).min(len)].fill(0))),
            4 => drop(self.disk.damage(&name, |bytes| {
                let from = at / 512 * 512;
                bytes[from..(from + 512).min(len)].iter_mut().for_each(|byte| *byte = dice.next() as u8);
            })),
            5 => drop(self.disk.damage(&name, |bytes| bytes[..4096.min(len)].fill(0xAA))),
            _ => drop(self.disk.damage(&name, |bytes| bytes[at] ^= 1 << dice.below(8))),
        }
        name
    }

    fn repair(&self) -> Verdict<(Memory, RepairReport)> {
        let before = self.disk.files();
        let target = Memory::new();
        let plan = repair_in(&self.disk, &target, &RepairOptions::new().dry_run(true)).map_err(|e| e.to_string())?;
        ensure!(target.list().unwrap().is_empty(), "a dry run wrote {:?}", target.list());
        let report = repair_in(&self.disk, &target, &RepairOptions::new()).map_err(|error| error.to_string())?;
        ensure!(plan == report, "{plan:?} was said, {report:?} done");
        ensure!(self.disk.files() == before, "the damaged store was changed");
        Ok((target, report))
    }

    /// The new store holds what was not lost, and everything that is missing is said to be lost.
    fn judge(&self, target: &Memory, report: &RepairReport, is_exact: bool) -> Verdict {
        let lost: BTreeSet<u64> =
            report.lost.iter().flat_map(|range| range.first_position..=range.last_position).collect();
        let store = self.options.clone().open_storage(Arc::new(target.clone())).map_err(|e| format!("opening: {e}"))?;
        ensure!(store.recovery_report().clean, "{:?}", store.recovery_report());
        let reader = store.reader();
        ensure!(reader.head() == report.head, "head {} and {report:?}", reader.head());
        let mut kept: Vec<&Told> = Vec::new();
        for told in &self.chronicle.events {
            let position = Position::new(told.position).expect("not 0");
            let event = if told.position <= report.head {
                reader.at(position).map_err(|error| format!("at {position}: {error}"))?
            } else {
                None
            };
            match event {
                Some(event) => {
                    ensure!(!lost.contains(&told.position), "{position} is there and said to be lost");
                    ensure!(is_same(&event, told), "{event:?} stands at {position}, {told:?} is right");
                    kept.push(told);
                }
                None => {
                    ensure!(lost.contains(&told.position) || !is_exact, "{position} is missing and not said to be lost")
                }
            }
        }
        ensure!(report.events == kept.len() as u64, "{} events and {report:?}", kept.len());
        let all: Vec<Event> =
            reader.read_all(&Query::all(), Seek::Beginning).and_then(Iterator::collect).map_err(|e| e.to_string())?;
        ensure!(all.len() == kept.len(), "{} events are read, {} are there", all.len(), kept.len());
        self.judge_streams(&store, &kept, report)?;
        self.go_on(store, target)
    }

    fn judge_streams(&self, store: &Store, kept: &[&Told], report: &RepairReport) -> Verdict {
        let mut streams: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for told in kept {
            streams.entry(&told.stream).or_default().push(told.revision);
        }
        let mut said: BTreeSet<(&str, u64)> = BTreeSet::new();
        for lost in &report.lost_revisions {
            said.extend((lost.first_revision..=lost.last_revision).map(|revision| (lost.stream.as_str(), revision)));
        }
        for (name, revisions) in &streams {
            let read = |read: annals::Result<annals::Read>| -> Verdict<Vec<u64>> {
                let events: Vec<Event> =
                    read.and_then(Iterator::collect).map_err(|error| format!("stream {name}: {error}"))?;
                Ok(events.iter().map(|event| event.revision().get()).collect())
            };
            let forward = read(store.read_stream(name, Seek::Beginning))?;
            ensure!(forward == *revisions, "{name}: {forward:?} forward, {revisions:?} are there");
            let mut backward = read(store.read_stream_back(name, Seek::End))?;
            backward.reverse();
            ensure!(backward == *revisions, "{name}: {backward:?} backward, {revisions:?} are there");
            for revision in 1..=*revisions.last().expect("not empty") {
                let from = read(store.read_stream(name, Seek::At(revision)))?;
                let wanted: Vec<u64> = revisions.iter().copied().filter(|other| *other >= revision).collect();
                ensure!(from == wanted, "{name} from {revision}: {from:?}, {wanted:?} is right");
                let is_there = revisions.binary_search(&revision).is_ok();
                ensure!(
                    is_there != said.contains(&(*name, revision)),
                    "{name} {revision}: {:?}",
                    report.lost_revisions
                );
            }
        }
        // Nothing is said to be lost that never was.
        for (name, revision) in said {
            let was = self.chronicle.events.iter().any(|told| told.stream == name && told.revision == revision);
            ensure!(was, "{name} {revision} never was");
        }
        Ok(())
    }

    fn go_on(&self, store: Store, target: &Memory) -> Verdict {
        let head = store.head();
        store
            .append("after", annals::Expect::Any, &[annals::NewEvent::new("T", b"on")])
            .map_err(|error| format!("appending: {error}"))?;
        ensure!(store.head() == head + 1, "the head after an append is {}", store.head());
        store.close().map_err(|error| error.to_string())?;
        let report = inspect::verify_in(target, &mut |_, _| {}).map_err(|error| error.to_string())?;
        ensure!(report.findings.is_empty(), "{:?}", report.findings);
        Ok(())
    }
}

fn is_same(event: &Event, told: &Told) -> bool {
    let event = event.as_event_ref();
    (event.stream(), event.revision().get(), event.payload(), event.id(), event.recorded_at())
        == (told.stream.as_str(), told.revision, &told.payload[..], told.id, told.recorded_at)
}

fn trial(seed: u64) -> Verdict<(bool, u64)> {
    let mut dice = Dice::of(seed, 0x5250);
    let ground = Ground::new(&mut dice)?;
    let (target, report) = ground.repair().map_err(|text| format!("unharmed: {text}"))?;
    ensure!(report.is_complete(), "unharmed: {report:?}");
    ground.judge(&target, &report, true).map_err(|text| format!("unharmed: {text}"))?;
    let name = ground.harm(&mut dice);
    let (target, report) = ground.repair().map_err(|text| format!("{name}: {text}"))?;
    ground.judge(&target, &report, ground.is_clean).map_err(|text| format!("{name}: {text}\n{report:?}"))?;
    Ok((report.is_complete(), report.lost_positions()))
}

#[test]
fn all_that_can_be_read_is_kept_and_all_else_is_told() {
    let trials = how_many(150, 20_000);
    let seed = seed("all_that_can_be_read_is_kept_and_all_else_is_told");
    let (mut complete, mut lost) = (0, 0);
    for n in 0..trials {
        let seed = seed.wrapping_add(n);
        let (is_complete, positions) = trial(seed).unwrap_or_else(|text| panic!("ANNALS_SEED={seed}: {text}"));
        complete += u64::from(is_complete);
        lost += positions;
    }
    println!("{trials} trials: {complete} without a loss, {lost} positions lost in the others");
    assert!(complete > trials / 20 && complete < trials * 19 / 20, "{complete} of {trials}");
}

#[test]
fn a_store_without_any_manifest_is_found_by_its_segments() {
    let mut dice = Dice::of(5, 0x4E4D);
    let ground = Ground::new(&mut dice).unwrap();
    for name in ground.disk.files().into_keys().filter(|name| name.starts_with("manifest-")) {
        ground.disk.remove(&name).unwrap();
    }
    let (target, report) = ground.repair().unwrap();
    assert!(report.is_complete() && !report.notices.is_empty(), "{report:?}");
    ground.judge(&target, &report, true).unwrap();
}

#[test]
fn a_repaired_store_can_be_repaired_again() {
    let mut dice = Dice::of(8, 0x5241);
    let ground = Ground::new(&mut dice).unwrap();
    let name = "segment-00000000000000000002.log";
    assert!(ground.disk.damage(name, |bytes| bytes[9_000..14_000].fill(0)));
    let (first, report) = ground.repair().unwrap();
    assert!(!report.is_complete(), "{report:?}");
    let second = Memory::new();
    let again = repair_in(&first, &second, &RepairOptions::new()).unwrap();
    assert!(again.is_complete(), "{again:?}");
    // The records that say what was lost have come along, and streams are read over the holes.
    let reported = RepairReport::clone(&report);
    ground.judge(&second, &reported, ground.is_clean).unwrap();
}

#[test]
fn what_is_no_store_is_refused() {
    let nothing = repair_in(&Memory::new(), &Memory::new(), &RepairOptions::new());
    assert!(matches!(nothing, Err(Error::NotAStore { .. })), "{nothing:?}");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let held = repair(dir.path().join("store"), dir.path().join("new"), &RepairOptions::new(), &mut |_, _| {});
    assert!(matches!(held, Err(Error::Locked { .. })), "{held:?}");
    store.close().unwrap();
    let own = repair(dir.path().join("store"), dir.path().join("store"), &RepairOptions::new(), &mut |_, _| {});
    assert!(matches!(own, Err(Error::Occupied { .. })), "{own:?}");
}
