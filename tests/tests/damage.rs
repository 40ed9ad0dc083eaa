//! Damage of every kind, to every kind of file: it is named, and what is read is right or an error.
//!
//! `ANNALS_SEED` sets the seed, `ANNALS_TRIALS` the number of trials, `ANNALS_LONG=1` asks for the long form.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use annals::inspect::{self, Severity};
use annals_tests::damage::harm::{HARMS, Harming};
use annals_tests::damage::{Effort, Files, Live, Outcome, Sample, kind_of, named};
use annals_tests::sim_disk::{Dice, SimDisk};

fn seed() -> u64 {
    std::env::var("ANNALS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x00DA_3A6E)
}

fn is_long() -> bool {
    std::env::var("ANNALS_LONG").is_ok_and(|text| text == "1")
}

fn trials(short: u64, long: u64) -> u64 {
    let given = std::env::var("ANNALS_TRIALS").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(if is_long() { long } else { short })
}

/// Counts by kind and outcome.
#[derive(Default)]
struct Table(BTreeMap<(String, String), u64>);

impl Table {
    fn count(&mut self, kind: &str, outcome: impl std::fmt::Debug) {
        *self.0.entry((kind.to_owned(), format!("{outcome:?}"))).or_default() += 1;
    }

    fn print(&self, title: &str) {
        println!("{title}");
        for ((kind, outcome), count) in &self.0 {
            println!("  {kind:<28} {outcome:<40} {count:>6}");
        }
    }
}

/// Wrong answers; the test goes on, so that one run shows all kinds of them.
#[derive(Default)]
struct Wrong(BTreeMap<String, (u64, String)>);

impl Wrong {
    fn note(&mut self, kind: &str, trial: &str, what: &str) {
        let first = what.lines().next().unwrap_or_default();
        let shown: String = first.chars().filter(|c| !c.is_ascii_digit()).take(120).collect();
        let entry = self.0.entry(format!("{kind}: {shown}")).or_insert_with(|| (0, format!("{trial}\n{what}")));
        entry.0 += 1;
    }

    fn check(&self, seed: u64) {
        let mut told = String::new();
        for (kind, (count, example)) in &self.0 {
            let _ = writeln!(told, "{count} times {kind}\n    first: {}", example.replace('\n', "\n    "));
        }
        assert!(self.0.is_empty(), "seed {seed}:\n{told}");
    }
}

#[test]
fn the_untouched_store_is_sound() {
    let seed = seed();
    let sample = Sample::build(seed);
    let kinds = sample.kinds();
    assert_eq!(kinds, ["index", "manifest", "mark", "ring", "segment cut", "segment live", "segment sealed"]);
    let manifests = sample.files.keys().filter(|name| kind_of(name) == "manifest").count();
    assert_eq!(manifests, 2);
    let disk = sample.disk();
    let report = inspect::verify_in(&disk, &mut |_, _| {}).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.events, report.head), (sample.events.len() as u64, sample.events.len() as u64));
    assert_eq!(disk.files(), sample.files, "verify changes nothing");
    let effort = Effort { all: true, position: None };
    let mut dice = Dice::new(seed);
    assert_eq!(sample.judge_read_only(&disk, &mut dice, effort), Ok(Outcome::Right));
    assert_eq!(sample.judge_writing(&disk, &mut dice, effort), Ok(Outcome::Right));
    // Earlier moments, a killed store and one that was being written among them, are sound as well.
    for files in &sample.older {
        let report = inspect::verify_in(&SimDisk::from_files(files), &mut |_, _| {}).unwrap();
        // Only the index of a segment that was just ended may not be there yet.
        assert!(report.findings.iter().all(|f| f.severity == Severity::Notice && kind_of(&f.file) == "index"));
    }
}

/// What `verify` must say of a byte changed in a file of this kind.
fn severity(kind: &str) -> Severity {
    match kind {
        "index" | "mark" | "ring" => Severity::Notice,
        _ => Severity::Damage,
    }
}

struct Flips {
    sample: Sample,
    dice: Dice,
    table: Table,
    wrong: Wrong,
}

impl Flips {
    fn new(seed: u64) -> Self {
        Self { sample: Sample::build(seed), dice: Dice::of(seed, 1), table: Table::default(), wrong: Wrong::default() }
    }

    fn flip(&mut self, live: &Live, offset: u64, change: u8, all: bool) {
        let disk = self.sample.disk();
        // What a ring holds after a clean close is chance: it may have a copy of the damaged bytes, or not.
        if self.dice.chance(1, 2) {
            disk.damage("RING", |bytes| bytes[4096..].fill(0));
        }
        assert!(disk.damage(&live.file, |bytes| bytes[offset as usize] ^= change));
        let trial = format!("{} byte {offset} ^ {change:#x}, in {:?}", live.file, live.range);
        let report = inspect::verify_in(&disk, &mut |_, _| {}).unwrap();
        if named(&report, live) != Some(severity(live.kind)) {
            self.wrong.note(live.kind, &trial, &format!("verify says {:?}", report.findings));
        }
        let effort = Effort { all, position: live.position };
        let read_only = self.sample.judge_read_only(&disk, &mut self.dice, effort);
        let writing = self.sample.judge_writing(&disk, &mut self.dice, effort);
        for (path, outcome) in [("read-only", &read_only), ("writing", &writing)] {
            match outcome {
                Ok(outcome) => self.table.count(live.kind, format!("{path} {outcome:?}")),
                Err(what) => self.wrong.note(live.kind, &trial, &format!("{path}: {what}")),
            }
        }
        let must_be_right = severity(live.kind) == Severity::Notice;
        if must_be_right && (read_only != Ok(Outcome::Right) || writing != Ok(Outcome::Right)) {
            self.wrong.note(live.kind, &trial, &format!("repairable, but {read_only:?} and {writing:?}"));
        }
        if read_only == Ok(Outcome::Right) && writing != Ok(Outcome::Right) {
            self.wrong.note(live.kind, &trial, &format!("right when read, but {writing:?} when written"));
        }
        if writing == Ok(Outcome::Right) {
            self.check_repaired(live, &trial, &disk);
        }
    }

    /// A store that was read whole and written must be sound; only a manifest that nobody needs may stay as it is.
    fn check_repaired(&mut self, live: &Live, trial: &str, disk: &SimDisk) {
        let report = inspect::verify_in(disk, &mut |_, _| {}).unwrap();
        if live.kind != "manifest" && !report.is_sound() {
            self.wrong.note(live.kind, trial, &format!("still damaged after writing: {:?}", report.findings));
        }
    }

    fn end(&self, title: &str, seed: u64) {
        self.table.print(title);
        self.wrong.check(seed);
    }
}

#[test]
fn a_changed_byte_is_named_and_never_believed() {
    let seed = seed();
    let mut flips = Flips::new(seed);
    let kinds = flips.sample.kinds();
    for trial in 0..trials(2_000, 20_000) {
        let kind = kinds[flips.dice.index(kinds.len())];
        let mut dice = flips.dice.clone();
        let (live, offset) = flips.sample.place(kind, &mut dice);
        let live = live.clone();
        flips.dice = dice;
        let change = 1 + flips.dice.below(255) as u8;
        flips.flip(&live, offset, change, trial % 50 == 0);
    }
    flips.end("one byte changed", seed);
}

/// After a kill the ring is part of the log. What was synced is there and right, or there is an error; what was not may
/// only be missing from the end.
#[test]
fn a_changed_byte_after_a_kill_costs_nothing_that_was_synced() {
    let seed = seed();
    let sample = Sample::killed(seed);
    let ring: Vec<usize> = {
        let bytes = &sample.files["RING"][4096..];
        bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| 4096 + at).collect()
    };
    let untouched = SimDisk::from_files(&sample.files);
    let report = inspect::verify_in(&untouched, &mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!(report.head, sample.events.len() as u64, "a kill loses nothing");
    let mut dice = Dice::of(seed, 4);
    let kinds = sample.kinds();
    assert!(kinds.contains(&"segment live") && kinds.contains(&"segment sealed"));
    let (mut table, mut wrong) = (Table::default(), Wrong::default());
    for trial in 0..trials(800, 20_000) {
        let choice = dice.index(kinds.len() + 1);
        let (kind, file, offset, position) = match kinds.get(choice) {
            Some(kind) => {
                let (live, offset) = sample.place(kind, &mut dice);
                (live.kind, live.file.clone(), offset, live.position)
            }
            None => ("bytes of the ring", "RING".to_owned(), ring[dice.index(ring.len())] as u64, None),
        };
        let change = 1 + dice.below(255) as u8;
        let disk = SimDisk::from_files(&sample.files);
        disk.damage(&file, |bytes| bytes[offset as usize] ^= change);
        let told = format!("{file} byte {offset} ^ {change:#x}");
        let report = inspect::verify_in(&disk, &mut |_, _| {}).unwrap();
        let was_synced = position.is_some_and(|position| position <= sample.durable);
        if was_synced && !report.findings.iter().any(|finding| finding.file == file) {
            wrong.note(kind, &told, &format!("verify says {:?}", report.findings));
        }
        let effort = Effort { all: trial % 50 == 0, position };
        let read_only = sample.judge_read_only(&disk, &mut dice, effort);
        let writing = sample.judge_writing(&disk, &mut dice, effort);
        for (path, outcome) in [("read-only", read_only), ("writing", writing)] {
            match outcome {
                Ok(outcome) => table.count(kind, format!("{path} {outcome:?}")),
                Err(what) => wrong.note(kind, &told, &format!("{path}: {what}")),
            }
        }
    }
    table.print("one byte changed after a kill");
    wrong.check(seed);
}

/// Every bit of the first bytes of each live stretch; in the long form all bits of 256 KiB.
#[test]
fn every_bit_of_the_headers_counts() {
    let seed = seed();
    let mut flips = Flips::new(seed);
    let mut places = Vec::new();
    for live in flips.sample.live.clone() {
        let is_small = matches!(live.kind, "mark" | "ring") || (live.kind == "manifest" && live.range.end < 4096);
        if is_long() || is_small {
            places.extend(live.range.clone().map(|offset| (live.clone(), offset)));
        }
    }
    if is_long() {
        places.truncate(256 << 10);
    }
    let step = if is_long() { 1 } else { 4 };
    for (n, (live, offset)) in places.iter().enumerate().filter(|(n, _)| n % step == 0) {
        let bits = if is_long() { 0..8 } else { n as u32 / 4 % 8..n as u32 / 4 % 8 + 1 };
        for bit in bits {
            flips.flip(live, *offset, 1 << bit, false);
        }
    }
    flips.end("single bits", seed);
}

/// Whether a stretch that a checksum covers, or the length of a file, is not as it was.
fn is_live_changed(sample: &Sample, files: &Files) -> bool {
    let lengths = |files: &Files| files.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect::<Vec<_>>();
    let same = |live: &Live| {
        let range = live.range.start as usize..live.range.end as usize;
        files.get(&live.file).and_then(|bytes| bytes.get(range.clone())) == sample.files[&live.file].get(range)
    };
    lengths(files) != lengths(&sample.files) || !sample.live.iter().all(same)
}

#[test]
fn heavy_damage_gives_right_events_or_an_error() {
    let seed = seed();
    let sample = Sample::build(seed);
    let mut dice = Dice::of(seed, 2);
    let (mut table, mut wrong) = (Table::default(), Wrong::default());
    for trial in 0..trials(600, 50_000) {
        let harm = &HARMS[trial as usize % HARMS.len()];
        let mut files = sample.files.clone();
        if dice.chance(1, 2) {
            files.get_mut("RING").unwrap()[4096..].fill(0);
        }
        let mut harming = Harming { sample: &sample, files, dice: &mut dice };
        let touched = (harm.run)(&mut harming);
        let files = harming.files;
        let told = format!("trial {trial}: {} {touched:?}", harm.name);
        let disk = SimDisk::from_files(&files);
        // An older mark or ring is what a crash leaves behind as well, and a ring made anew has one slot only; the log
        // itself shows what came after it.
        let is_old = harm.name.ends_with("rolled back") && (touched == ["MARK"] || touched == ["RING"]);
        let is_half_a_ring = harm.name == "sector of zeros" && touched == ["RING"];
        let changed = is_live_changed(&sample, &files) && !is_old && !is_half_a_ring;
        match inspect::verify_in(&disk, &mut |_, _| {}) {
            Ok(report) if changed && report.findings.is_empty() => wrong.note(harm.name, &told, "verify finds nothing"),
            Ok(report) if changed && !touched.iter().any(|file| report.findings.iter().any(|f| f.file == *file)) => {
                table.count(harm.name, "verify names other files only");
                if harm.name == "file deleted" {
                    wrong.note(harm.name, &told, &format!("verify names only {:?}", report.findings));
                }
            }
            Ok(_) => {}
            Err(error) => wrong.note(harm.name, &told, &format!("verify: {error:?}")),
        }
        let effort = Effort { all: trial % 20 == 0, position: None };
        let read_only = sample.judge_read_only(&disk, &mut dice, effort);
        let writing = sample.judge_writing(&disk, &mut dice, effort);
        for (path, outcome) in [("read-only", read_only), ("writing", writing)] {
            match outcome {
                Ok(outcome) => table.count(harm.name, format!("{path} {outcome:?}")),
                Err(what) => wrong.note(harm.name, &told, &format!("{path}: {what}")),
            }
        }
    }
    table.print("heavy damage");
    wrong.check(seed);
}

#[test]
fn indexes_are_made_anew_and_it_is_said() {
    let seed = seed();
    let sample = Sample::build(seed);
    let mut dice = Dice::of(seed, 3);
    let names: Vec<String> = sample.files.keys().filter(|name| kind_of(name) == "index").cloned().collect();
    // What a check leaves of the sound store: a segment that was covered when it was closed lets go of what tiers hold.
    let settled = {
        let disk = SimDisk::from_files(&sample.files);
        let store = annals_tests::damage::options().open_storage(std::sync::Arc::new(disk.clone())).unwrap();
        assert_eq!(store.check_index().unwrap().rebuilt, [""; 0]);
        store.close().unwrap();
        disk.files()
    };
    for trial in 0..trials(60, 100_000) {
        let name = &names[dice.index(names.len())];
        let mut files = sample.files.clone();
        let len = files[name].len();
        let bytes = files.get_mut(name).unwrap();
        match trial % 4 {
            0 => drop(files.remove(name)),
            1 => bytes.truncate(dice.index(len)),
            2 => bytes[dice.index(len)] ^= 1 + dice.below(255) as u8,
            _ => bytes.fill(0),
        }
        let disk = SimDisk::from_files(&files);
        let report = inspect::verify_in(&disk, &mut |_, _| {}).unwrap();
        assert!(report.is_sound() && report.findings.iter().any(|f| f.file == *name), "{name}: {:?}", report.findings);
        let store = annals_tests::damage::options().open_storage(std::sync::Arc::new(disk.clone())).unwrap();
        let check = store.check_index().unwrap();
        let report = store.recovery_report();
        let said: Vec<&String> = report.rebuilt_indexes.iter().chain(&check.rebuilt).collect();
        if name.starts_with("segment-") {
            assert_eq!(said, [name], "trial {trial}");
        } else {
            // Tiers that are missing or cut, and index manifests, are told of by notices.
            let is_of_manifest = |notice: &String| name.starts_with("INDEX-") && notice.contains("index manifest");
            let noticed = report.notices.iter().any(|notice| notice.contains(name) || is_of_manifest(notice));
            assert!(said == [name] || (said.is_empty() && noticed), "trial {trial}: {name}: {said:?}");
        }
        store.close().unwrap();
        if name.starts_with("segment-") {
            assert!(disk.files()[name] == settled[name], "trial {trial}: {name}: not the same index as before");
        }
        assert_eq!(inspect::verify_in(&disk, &mut |_, _| {}).unwrap().findings, []);
        let effort = Effort { all: false, position: None };
        assert_eq!(sample.judge_read_only(&disk, &mut dice, effort), Ok(Outcome::Right));
    }
}
