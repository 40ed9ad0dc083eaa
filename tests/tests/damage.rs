//! Damage of every kind, to every kind of file: it is named, and what is read is right or an error. Two stores are damaged in
//! turn, a young one and one with a past, which have every kind of file between them.
//!
//! `ANNALS_SEED` sets the seed, `ANNALS_TRIALS` the number of trials, `ANNALS_LONG=1` asks for the long form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use annals::inspect::{self, Severity};
use annals::{Error, View};
use annals_tests::damage::harm::{HARMS, Harming};
use annals_tests::damage::{Effort, Files, HINTS, Live, Outcome, Sample, kind_of, named};
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

/// Every kind of live place there is. The store with a past has them all.
const KINDS: [&str; 14] = [
    "consumers",
    "container",
    "index: manifest",
    "index: places",
    "index: segment",
    "index: streams",
    "index: tier",
    "manifest",
    "mark",
    "ring",
    "segment cut",
    "segment live",
    "segment sealed",
    "snapshots",
];
/// Those of which a store without a past has none.
const OF_A_PAST: [&str; 3] = ["consumers", "container", "snapshots"];

fn samples(seed: u64) -> [Sample; 2] {
    [Sample::build(seed), Sample::aged(seed)]
}

#[test]
fn the_untouched_store_is_sound() {
    let seed = seed();
    for (which, sample) in samples(seed).iter().enumerate() {
        let has = |kind: &&str| which == 1 || !OF_A_PAST.contains(kind);
        assert!(sample.kinds().into_iter().eq(KINDS.into_iter().filter(has)), "{:?}", sample.kinds());
        let manifests = sample.files.keys().filter(|name| kind_of(name) == "manifest").count();
        assert_eq!(manifests, 2);
        // Whatever has no live byte is a hint, and nothing is left out but that.
        let has_live = |name: &&String| sample.live.iter().any(|live| live.file == **name);
        let others: Vec<&String> = sample.files.keys().filter(|name| !has_live(name)).collect();
        assert!(others.iter().all(|name| HINTS.contains(&&***name)), "{others:?}");
        let disk = sample.disk();
        let report = inspect::verify_in(&disk, &mut |_, _| {}).unwrap();
        assert_eq!(report.findings, []);
        assert_eq!((report.events, report.head), (sample.event_count(), sample.events.len() as u64));
        assert_eq!(disk.files(), sample.files, "verify changes nothing");
        let effort = Effort { all: true, position: None };
        let mut dice = Dice::new(seed);
        assert_eq!(sample.judge_read_only(&disk, &mut dice, effort), Ok(Outcome::Right));
        assert_eq!(sample.judge_writing(&disk, &mut dice, effort), Ok(Outcome::Right));
        // Earlier moments, a killed store and one that was being written among them, are sound as well.
        for files in &sample.older {
            let report = inspect::verify_in(&SimDisk::from_files(files), &mut |_, _| {}).unwrap();
            // Only the index of a segment that was just ended may not be there yet.
            let is_due = |f: &inspect::Finding| f.severity == Severity::Notice && kind_of(&f.file) == "index";
            assert!(report.findings.iter().all(is_due), "{:?}", report.findings);
        }
    }
}

/// What `verify` must say of a byte changed in a file of this kind.
fn severity(kind: &str) -> Severity {
    match kind {
        "consumers" | "mark" | "ring" => Severity::Notice,
        _ if kind.starts_with("index: ") => Severity::Notice,
        _ => Severity::Damage,
    }
}

struct Flips {
    samples: [Sample; 2],
    dice: Dice,
    table: Table,
    wrong: Wrong,
}

impl Flips {
    fn new(seed: u64) -> Self {
        Self { samples: samples(seed), dice: Dice::of(seed, 1), table: Table::default(), wrong: Wrong::default() }
    }

    fn flip(&mut self, which: usize, live: &Live, offset: u64, change: u8, all: bool) {
        let sample = &self.samples[which];
        let disk = sample.disk();
        // What a ring holds after a clean close is chance: it may have a copy of the damaged bytes, or not.
        if self.dice.chance(1, 2) {
            disk.damage("RING", |bytes| bytes[4096..].fill(0));
        }
        assert!(disk.damage(&live.file, |bytes| bytes[offset as usize] ^= change));
        let trial = format!("store {which}: {} byte {offset} ^ {change:#x}, in {:?}", live.file, live.range);
        let report = inspect::verify_in(&disk, &mut |_, _| {}).unwrap();
        if named(&report, live) != Some(severity(live.kind)) {
            self.wrong.note(live.kind, &trial, &format!("verify says {:?}", report.findings));
        }
        let effort = Effort { all, position: live.position };
        let read_only = sample.judge_read_only(&disk, &mut self.dice, effort);
        let writing = sample.judge_writing(&disk, &mut self.dice, effort);
        for (path, outcome) in [("read-only", &read_only), ("writing", &writing)] {
            match outcome {
                Ok(outcome) => self.table.count(live.kind, format!("{path} {outcome:?}")),
                Err(what) => self.wrong.note(live.kind, &trial, &format!("{path}: {what}")),
            }
        }
        let must_be_right = severity(live.kind) == Severity::Notice;
        // Without a slot of the mark nobody knows what was durable: who writes finds out, who only reads may refuse.
        let is_refused = live.kind == "mark" && read_only == Ok(Outcome::Refused);
        let is_read = read_only == Ok(Outcome::Right) || is_refused;
        if must_be_right && (!is_read || writing != Ok(Outcome::Right)) {
            self.wrong.note(live.kind, &trial, &format!("repairable, but {read_only:?} and {writing:?}"));
        }
        // The hashes of what was cut off are read by nobody but who appends it again.
        let is_of_retry = live.kind == "container" && writing == Ok(Outcome::Partly);
        if read_only == Ok(Outcome::Right) && writing != Ok(Outcome::Right) && !is_of_retry {
            self.wrong.note(live.kind, &trial, &format!("right when read, but {writing:?} when written"));
        }
        if writing == Ok(Outcome::Right) {
            self.check_repaired(live, &trial, &disk);
        }
    }

    /// A store that was read whole and written must be sound; only what nobody needed may stay as it is: a manifest, the hashes
    /// of removed events that nobody appended again, a snapshot before the newest. It is still told of.
    fn check_repaired(&mut self, live: &Live, trial: &str, disk: &SimDisk) {
        let report = inspect::verify_in(disk, &mut |_, _| {}).unwrap();
        let is_named = named(&report, live) == Some(Severity::Damage);
        let may_stay = live.kind == "manifest" || (is_named && matches!(live.kind, "container" | "snapshots"));
        if !may_stay && !report.is_sound() {
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
    let kinds = [0, 1].map(|which| flips.samples[which].kinds());
    let trials = trials(2_000, 20_000);
    let mut met = BTreeSet::new();
    for trial in 0..trials {
        let which = trial as usize % 2;
        let kind = kinds[which][flips.dice.index(kinds[which].len())];
        let mut dice = flips.dice.clone();
        let (live, offset) = flips.samples[which].place(kind, &mut dice);
        let live = live.clone();
        flips.dice = dice;
        let change = 1 + flips.dice.below(255) as u8;
        flips.flip(which, &live, offset, change, trial % 50 == 0);
        met.insert((which, kind));
    }
    let all = kinds.iter().enumerate().flat_map(|(which, kinds)| kinds.iter().map(move |kind| (which, *kind)));
    assert!(trials < 500 || met.iter().copied().eq(all), "kinds of files were left out: {met:?}");
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
    for which in [0, 1] {
        let mut places = Vec::new();
        for live in flips.samples[which].live.clone() {
            let is_small = match live.kind {
                "mark" | "ring" => which == 0,
                "manifest" => live.range.end < 4096,
                "container" | "snapshots" => live.range.start == 0,
                _ => false,
            };
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
                flips.flip(which, live, *offset, 1 << bit, false);
            }
        }
    }
    flips.end("single bits", seed);
}

/// Whether a stretch that a checksum covers, or the length of a file, is not as it was.
fn is_live_changed(sample: &Sample, files: &Files) -> bool {
    // Of a hint nothing counts, of a file of snapshots what stands behind its frames does not, and where consumers stood at the
    // end of a segment may be told by a file or not.
    let counts = |name: &String| !matches!(kind_of(name), "hint" | "snapshots") && !name.starts_with("consumers-");
    let lengths = |files: &Files| {
        let files = files.iter().filter(|(name, _)| counts(name));
        files.map(|(name, bytes)| (name.clone(), bytes.len())).collect::<Vec<_>>()
    };
    let same = |live: &Live| {
        let range = live.range.start as usize..live.range.end as usize;
        (live.kind == "consumers" && !files.contains_key(&live.file))
            || files.get(&live.file).and_then(|bytes| bytes.get(range.clone())) == sample.files[&live.file].get(range)
    };
    lengths(files) != lengths(&sample.files) || !sample.live.iter().all(same)
}

#[test]
fn heavy_damage_gives_right_events_or_an_error() {
    let seed = seed();
    let samples = samples(seed);
    let mut dice = Dice::of(seed, 2);
    let (mut table, mut wrong) = (Table::default(), Wrong::default());
    for trial in 0..trials(600, 50_000) {
        let harm = &HARMS[trial as usize % HARMS.len()];
        let which = trial as usize / HARMS.len() % 2;
        let sample = &samples[which];
        let mut files = sample.files.clone();
        if dice.chance(1, 2) {
            files.get_mut("RING").unwrap()[4096..].fill(0);
        }
        let mut harming = Harming { sample, files, dice: &mut dice };
        let touched = (harm.run)(&mut harming);
        let files = harming.files;
        let told = format!("trial {trial}, store {which}: {} {touched:?}", harm.name);
        let disk = SimDisk::from_files(&files);
        // An older mark or ring is what a crash leaves behind as well, and a ring made anew has one slot only; the log
        // itself shows what came after it.
        let is_old = harm.name.ends_with("rolled back") && (touched == ["MARK"] || touched == ["RING"]);
        // One of the same segment from before tiers covered it: it holds more, and is as good.
        let is_of_before =
            harm.name.ends_with("rolled back") && touched[0].starts_with("segment-") && touched[0].ends_with(".idx");
        let is_half_a_ring = harm.name == "sector of zeros" && touched == ["RING"];
        let changed = is_live_changed(sample, &files) && !is_old && !is_of_before && !is_half_a_ring;
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
        // What was written after the last mark that is left is not known to be durable: so much the default view may lack.
        let read_only = match is_old && touched == ["MARK"] {
            true => sample.judge_view(View::Written, &disk, &mut dice, effort),
            false => sample.judge_read_only(&disk, &mut dice, effort),
        };
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
        let store = annals_tests::damage::options().open_storage(Arc::new(disk.clone())).unwrap();
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
            // Where the newest index manifest is gone nobody knows its number: the one before the one that is left is missed.
            let is_meant = said == [name]
                || matches!(said[..], [other] if [name, other].iter().all(|name| name.starts_with("INDEX-")));
            assert!(is_meant || (said.is_empty() && noticed), "trial {trial}: {name}: {said:?}");
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

/// What they hold, and whether they are there, changes no answer, read or written.
#[test]
fn a_hint_may_hold_anything() {
    let seed = seed();
    let samples = samples(seed);
    let mut dice = Dice::of(seed, 5);
    for trial in 0..trials(60, 2_000) {
        let sample = &samples[trial as usize % 2];
        let name = HINTS[trial as usize / 2 % HINTS.len()];
        let mut files = sample.files.clone();
        let mut bytes = files.remove(name).unwrap_or_else(|| vec![0; 128]);
        match dice.below(4) {
            0 => {}
            1 => bytes.fill_with(|| dice.next() as u8),
            2 => bytes.truncate(dice.index(bytes.len())),
            _ => {
                let at = dice.index(bytes.len());
                bytes[at] ^= 1 + dice.below(255) as u8;
            }
        }
        let is_there = dice.chance(4, 5);
        if is_there {
            files.insert(name.to_owned(), bytes);
        }
        let told = format!("trial {trial}: {name}, {}", if is_there { "changed" } else { "not there" });
        let disk = SimDisk::from_files(&files);
        let report = inspect::verify_in(&disk, &mut |_, _| {}).unwrap();
        assert!(report.is_sound() && report.findings.iter().all(|f| f.file == name), "{told}: {:?}", report.findings);
        let effort = Effort { all: trial % 20 == 0, position: None };
        assert_eq!(sample.judge_read_only(&disk, &mut dice, effort), Ok(Outcome::Right), "{told}");
        assert_eq!(sample.judge_writing(&disk, &mut dice, effort), Ok(Outcome::Right), "{told}");
    }
}

/// A store that was closed tells a reader all of it, or that its mark is damaged: never a part of it as though that were all.
#[test]
fn without_its_mark_a_closed_store_is_read_whole_or_the_mark_is_named() {
    let seed = seed();
    let mut dice = Dice::of(seed, 6);
    let (mut table, mut wrong) = (Table::default(), Wrong::default());
    for (which, sample) in samples(seed).iter().enumerate() {
        for trial in 0..trials(40, 2_000) {
            let mut files = sample.files.clone();
            let mark = files.get_mut("MARK").unwrap();
            let len = mark.len();
            // The slots are 128 bytes at 0 and at 4,096.
            let slot = [0, 4096][dice.index(2)];
            let kind = match trial % 7 {
                0 => {
                    files.remove("MARK");
                    "deleted"
                }
                1 => {
                    mark.truncate(dice.index(len));
                    "cut"
                }
                2 => {
                    mark.clear();
                    "emptied"
                }
                3 => {
                    mark.fill(0);
                    "all zeros"
                }
                4 => {
                    mark[slot..slot + 128].fill(0);
                    "a slot of zeros"
                }
                5 => {
                    mark[slot + dice.index(128)] ^= 1 + dice.below(255) as u8;
                    "a byte of a slot changed"
                }
                _ => {
                    mark.fill_with(|| dice.next() as u8);
                    "noise"
                }
            };
            let disk = SimDisk::from_files(&files);
            let told = format!("store {which}, trial {trial}: {kind}");
            for view in [View::Written, View::Durable] {
                let effort = Effort { all: trial % 20 == 0, position: None };
                match sample.judge_view(view, &disk, &mut dice, effort) {
                    Ok(Outcome::Right) => table.count(kind, format!("{view:?} Right")),
                    Ok(_) => match annals_tests::damage::options().open_read_only_storage(Arc::new(disk.clone())) {
                        Err(Error::Corrupt(corrupt)) if corrupt.file == "MARK" => {
                            table.count(kind, format!("{view:?} Corrupt"));
                        }
                        other => wrong.note(kind, &told, &format!("{view:?}: {:?}", other.map(|_| "opened"))),
                    },
                    Err(what) => wrong.note(kind, &told, &what),
                }
            }
        }
    }
    table.print("without its mark");
    wrong.check(seed);
}
