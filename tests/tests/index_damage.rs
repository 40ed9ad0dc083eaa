//! Every kind of index file, deleted, cut, changed, exchanged, rolled back: every answer is right, and the index is whole
//! again afterwards. With checksums put right after the change nothing is invented, and the check of the index finds it.
//!
//! `ANNALS_SEED` sets the seed, `ANNALS_TRIALS` the number of trials, `ANNALS_LONG=1` asks for the long form.

use std::collections::BTreeMap;
use std::sync::Arc;

use annals::storage::Storage;
use annals::{Error, inspect};
use annals_format::index::{self, IndexBytes};
use annals_format::index_file::{FileHeader, FileKind};
use annals_format::index_manifest::IndexManifest;
use annals_tests::damage::{Effort, Files, Outcome, Sample, kind_of, options};
use annals_tests::sim_disk::{Dice, SimDisk};
use annals_tests::whole_store::checksums_put_right;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn seed() -> u64 {
    number("ANNALS_SEED").unwrap_or(0x1DE_0DA3)
}

fn trials(short: u64, long: u64) -> u64 {
    let is_long = std::env::var("ANNALS_LONG").is_ok_and(|text| text == "1");
    number("ANNALS_TRIALS").unwrap_or(if is_long { long } else { short })
}

/// What an index file is, by its name.
fn class_of(name: &str) -> &str {
    name.split('-').next().unwrap_or(name)
}

/// Index files of a class.
fn files_of<'a>(files: &'a Files, class: &str) -> Vec<&'a String> {
    files.keys().filter(|name| kind_of(name) == "index" && class_of(name) == class).collect()
}

const CLASSES: [&str; 4] = ["segment", "tier", "streams", "INDEX"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    Deleted,
    Cut,
    Flipped,
    Zeroed,
    AnotherOfTheStore,
    OfAnotherStore,
    OfEarlier,
}

const HARMS: [Harm; 7] = [
    Harm::Deleted,
    Harm::Cut,
    Harm::Flipped,
    Harm::Zeroed,
    Harm::AnotherOfTheStore,
    Harm::OfAnotherStore,
    Harm::OfEarlier,
];

/// Whether `bytes` are the whole index, verified, of the segment whose places `places` tell: from before tiers covered it, or
/// left by a crash. Then there is nothing to be found.
fn says_the_same(bytes: &[u8], places: &[u8]) -> bool {
    let mut aligned = IndexBytes::new();
    aligned.extend_from_slice(bytes);
    let Ok((whole, _)) = index::open(&aligned) else { return false };
    let Ok(FileHeader { identity, .. }) = FileHeader::decode(places) else { return false };
    identity.kind == FileKind::Places
        && (whole.store, whole.segment, whole.final_checksum, whole.name_hash_seed)
            == (identity.store, identity.number, identity.final_checksum, identity.name_hash_seed)
}

struct Grounds {
    sample: Sample,
    other: Sample,
}

impl Grounds {
    fn new(seed: u64) -> Self {
        let grounds = Self { sample: Sample::build(seed), other: Sample::build(seed ^ 1) };
        for class in CLASSES {
            assert!(!files_of(&grounds.sample.files, class).is_empty(), "there is a file of class {class}");
        }
        grounds
    }

    /// Does it, and answers which file was touched; `None` if there is nothing to do it with.
    fn harm(&self, harm: Harm, class: &str, files: &mut Files, dice: &mut Dice) -> Option<String> {
        let one_of = |files: &Files, dice: &mut Dice| {
            let names = files_of(files, class);
            (!names.is_empty()).then(|| names[dice.index(names.len())].clone())
        };
        let name = one_of(files, dice)?;
        let len = files[&name].len();
        let bytes = files.get_mut(&name).expect("a file of the store");
        match harm {
            Harm::Deleted => drop(files.remove(&name)),
            Harm::Cut => bytes.truncate(dice.index(len)),
            Harm::Flipped => bytes[dice.index(len)] ^= 1 + dice.below(255) as u8,
            Harm::Zeroed => {
                let from = dice.index(len);
                bytes[from..].iter_mut().take(4096).for_each(|byte| *byte = 0);
            }
            Harm::AnotherOfTheStore => {
                let from = one_of(&self.sample.files, dice)?;
                *bytes = self.sample.files[&from].clone();
            }
            Harm::OfAnotherStore => {
                let from = one_of(&self.other.files, dice)?;
                *bytes = self.other.files[&from].clone();
            }
            Harm::OfEarlier => {
                let older = &self.sample.older[dice.index(self.sample.older.len())];
                let from = one_of(older, dice)?;
                *bytes = older[&from].clone();
            }
        }
        Some(name)
    }
}

#[test]
fn every_answer_is_right_whatever_is_wrong_with_the_index() {
    let seed = seed();
    println!("every_answer_is_right_whatever_is_wrong_with_the_index: ANNALS_SEED={seed}");
    let grounds = Grounds::new(seed);
    let sample = &grounds.sample;
    let mut dice = Dice::of(seed, 1);
    let mut done = BTreeMap::<(&str, Harm), u64>::new();
    for trial in 0..trials(200, 20_000) {
        let mut files = sample.files.clone();
        // Mostly one file; now and then several, of any class.
        let count = if dice.chance(1, 4) { 2 + dice.below(4) } else { 1 };
        let mut told = Vec::new();
        for n in 0..count {
            let place = (trial + n) as usize;
            let (class, harm) = (CLASSES[place % CLASSES.len()], HARMS[place / CLASSES.len() % HARMS.len()]);
            if let Some(name) = grounds.harm(harm, class, &mut files, &mut dice) {
                *done.entry((class, harm)).or_default() += 1;
                told.push((harm, name));
            }
        }
        let told = format!("seed {seed}, trial {trial}: {told:?}");
        let disk = SimDisk::from_files(&files);
        let report = inspect::verify_in(&disk, &mut |_, _| {}).unwrap();
        assert!(report.is_sound(), "{told}: {:?}", report.findings);
        let is_harmed = |name: &String| match (files.get(name), sample.files.get(name)) {
            (Some(now), Some(before)) => now != before && !says_the_same(now, before),
            (now, before) => now.is_some() || before.is_some(),
        };
        if files.keys().chain(sample.files.keys()).any(is_harmed) {
            let of_index = inspect::check_index_in(&disk, &mut |_, _| {}).unwrap();
            assert!(!of_index.findings.is_empty(), "{told}: nothing is found");
        }
        let effort = Effort { all: trial % 10 == 0, position: None };
        assert_eq!(sample.judge_read_only(&disk, &mut dice, effort), Ok(Outcome::Right), "{told}");
        assert_eq!(sample.judge_writing(&disk, &mut dice, effort), Ok(Outcome::Right), "{told}");
        assert_eq!(inspect::verify_in(&disk, &mut |_, _| {}).unwrap().findings, [], "{told}: made anew");
    }
    for ((class, harm), count) in &done {
        println!("  {class:<8} {harm:<20?} {count:>6}");
    }
    assert!(CLASSES.iter().all(|class| done.keys().any(|(of, _)| of == class)));
}

/// Whether a verdict speaks of events that nobody wrote. That the forged file is a later version's is believed, and said.
fn is_invented(verdict: &Result<Outcome, String>, forged: &str) -> bool {
    let Err(text) = verdict else { return false };
    let is_later = |line: &str| line.contains("error: Unsupported {") && line.contains(forged);
    text.lines().any(|line| {
        let is_event = line.contains("Event") || line.contains("position");
        (is_event && line.contains("instead of"))
            || line.contains("beyond the end")
            || (line.contains("not a clear error") && !is_later(line))
    })
}

/// Counting goes on from what files there are, and what is written can be read.
#[test]
fn a_forged_next_file_number_is_found_and_not_counted_on_from() {
    let sample = Sample::build(seed());
    let name = files_of(&sample.files, "INDEX").pop().expect("an index manifest").clone();
    let sound = IndexManifest::decode(&sample.files[&name]).unwrap();
    for next_file in [sound.generation + 2, u64::MAX >> 2, (u64::MAX >> 2) + 1, u64::MAX >> 1, u64::MAX] {
        let mut files = sample.files.clone();
        files.insert(name.clone(), IndexManifest { next_file, ..sound.clone() }.encode());
        let disk = SimDisk::from_files(&files);
        let found = inspect::check_index_in(&disk, &mut |_, _| {}).unwrap().findings;
        assert!(found.iter().any(|finding| finding.file == name), "{next_file}: {found:?}");
        let store = options().open_storage(Arc::new(disk.clone())).unwrap();
        store.rebuild_index(&mut |_, _| ()).unwrap();
        store.close().unwrap();
        assert_eq!(inspect::check_index_in(&disk, &mut |_, _| {}).unwrap().findings, [], "{next_file}: made anew");
        let files = disk.files();
        for name in files_of(&files, "INDEX") {
            let index = IndexManifest::decode(&files[name]).unwrap();
            assert!(index.next_file <= index.generation + 1, "{next_file}: {index:?}");
        }
    }
}

/// Whether an index manifest was given another next file number that may be one all the same: above every file, and no larger
/// than if each manifest had come with a file. It bears on nothing but the number that the next file gets.
fn is_another_next_file(sound: &[u8], forged: &[u8]) -> bool {
    let (Ok(sound), Ok(forged)) = (IndexManifest::decode(sound), IndexManifest::decode(forged)) else { return false };
    let is_another = forged.next_file != sound.next_file && forged.next_file <= forged.generation + 1;
    is_another && IndexManifest { next_file: sound.next_file, ..forged } == sound
}

#[test]
fn what_was_forged_is_found_and_invents_nothing() {
    let seed = seed();
    println!("what_was_forged_is_found_and_invents_nothing: ANNALS_SEED={seed}");
    let grounds = Grounds::new(seed);
    let sample = &grounds.sample;
    let mut dice = Dice::of(seed, 2);
    let mut outcomes = BTreeMap::<(&str, &str), u64>::new();
    for trial in 0..trials(200, 20_000) {
        let class = CLASSES[trial as usize % CLASSES.len()];
        let mut files = sample.files.clone();
        let names = files_of(&sample.files, class);
        // Of the index manifest before the newest, which nobody reads, the files are gone.
        let name = if class == "INDEX" { names[names.len() - 1] } else { names[dice.index(names.len())] }.clone();
        let bytes = files.get_mut(&name).expect("a file of the store");
        // A header is little of a long file, and has the most to be judged.
        let within = if dice.chance(1, 4) { 128 } else { bytes.len() };
        let at = dice.index(within);
        bytes[at] ^= 1 << dice.below(8);
        checksums_put_right(&sample.files, &mut files);
        if files == sample.files {
            // The byte was one of the checksums.
            continue;
        }
        let told = format!("seed {seed}, trial {trial}: {name} byte {at}");
        let disk = SimDisk::from_files(&files);
        let is_let_pass = class == "INDEX" && is_another_next_file(&sample.files[&name], &files[&name]);
        let found = inspect::check_index_in(&disk, &mut |_, _| {}).unwrap();
        // An index manifest and a file that say different things: either may be the wrong one.
        let is_found = found.findings.iter().any(|finding| finding.file == name || class == "INDEX");
        let effort = Effort { all: true, position: None };
        let verdict = sample.judge_read_only(&disk, &mut dice, effort);
        assert!(!is_invented(&verdict, &name), "{told}: {verdict:?}");
        // Also what no look-up depends on, such as a bit too many in a filter.
        assert!(is_found || is_let_pass, "{told}: {verdict:?}, and the check finds {:?}", found.findings);
        assert!(!is_let_pass || verdict == Ok(Outcome::Right), "{told}: {verdict:?}");
        let outcome = match verdict {
            _ if is_let_pass => "let pass, no answer changed",
            Ok(Outcome::Right) => "found; no answer changed",
            _ => "found; an answer missed",
        };
        *outcomes.entry((class, outcome)).or_default() += 1;
        let open = || options().open_storage(Arc::new(disk.clone()));
        let store = match open() {
            // It says that it is a later version's, for which it is not thrown away.
            Err(Error::Unsupported { file, .. }) if file == name => {
                disk.remove(&name).unwrap();
                open().unwrap()
            }
            opened => opened.unwrap(),
        };
        store.rebuild_index(&mut |_, _| ()).unwrap();
        store.close().unwrap();
        assert_eq!(inspect::verify_in(&disk, &mut |_, _| {}).unwrap().findings, [], "{told}: made anew");
        assert_eq!(sample.judge_read_only(&disk, &mut dice, effort), Ok(Outcome::Right), "{told}: made anew");
    }
    for ((class, outcome), count) in &outcomes {
        println!("  {class:<8} {outcome:<28} {count:>6}");
    }
}
