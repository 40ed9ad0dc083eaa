//! Old files open for ever: stores as each version of the format wrote them, read, continued, crashed and damaged.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use annals::{Durability, Expect, NewEvent, Options, ReadEvents, ReadOnly, Store, View};
use annals_tests::model::golden::{self, Files, Golden};
use annals_tests::sim_disk::{Dice, SimDisk};

/// Version, store, and the SHA-256 of its list of files, which holds that of each file.
const STORES: [(&str, &str, &str); 10] = [
    ("v1", "closed", "7c3f4c516d50dc1a791c4617918f7295d0e895e01376a8273bc763b25b46f567"),
    ("v1", "compacted", "6ac20e3acc919e45dd7d9b954123adad62967397c06f8015241c7a1b61a664f4"),
    ("v1", "covered", "7a3dda8bfcc1de147ace6d01f2f5fa33f3d5b49616049116d33a813a453b27af"),
    ("v1", "cut", "98160352e646ac0f1ebd43b44b4c8313d7a8a9e0e40831cbf9e7e57816ca0fe1"),
    ("v1", "consumers", "bf6a7bcb5f906675b618deafade466dcf1bdf787803ce40f6c3435169ed3b9a4"),
    ("v1", "consumers_killed", "a01dce1747b6c65277e275c078a85e937e5c84239ee1d5f142c9dbd2e943259e"),
    ("v1", "everything", "4ebcf7ee861dcd1af7f5f0ac350297ba7bb8eaf5877a5b32735f1a036938e98a"),
    ("v1", "killed", "5a729f2f56b5531a7948248e701c9ca53305c7495c520637a688cde9d36cacb9"),
    ("v1", "removed", "fb3cebd53686c8c49ef2a8dae4a5b06ef5a9681b1b4db6037624b442a13cfd7c"),
    ("v1", "torn", "993351d4091c5bbb3f4ec8415af35a105210ff1780d08cec3e00d895ac1d9bb3"),
];

fn load(version: &str, name: &str) -> Golden {
    Golden::load(&golden::directory(version).join(name)).unwrap()
}

/// Whether the store ended without being closed.
fn was_killed(name: &str) -> bool {
    matches!(name, "killed" | "torn" | "consumers_killed")
}

fn each_store(test: impl Fn(&str, &Golden)) {
    for (version, name, _) in STORES {
        test(name, &load(version, name));
    }
}

fn open(files: &Files) -> (SimDisk, Store) {
    let disk = SimDisk::from_files(files);
    let store = golden::options().open_storage(Arc::new(disk.clone())).unwrap();
    (disk, store)
}

fn written(store: &Store) -> String {
    golden::listing(&store.reader_in(View::Written)).unwrap()
}

#[test]
fn the_golden_files_are_the_ones_that_were_written_then() {
    for (version, name, list) in STORES {
        let directory = golden::directory(version).join(name);
        let listed = std::fs::read_to_string(directory.join("files.txt")).unwrap();
        assert_eq!(golden::sha256(listed.as_bytes()), list, "{version}/{name}/files.txt");
        assert_eq!(load(version, name).file_list(), listed, "{version}/{name}");
    }
}

/// Of each encoding of containers, and of each form of the index of what is compacted, there is one.
#[test]
fn compacted_segments_of_each_form_are_among_them() {
    let (encodings, places) = (RefCell::new(BTreeSet::new()), RefCell::new(BTreeSet::new()));
    each_store(|_, golden| {
        for (file, bytes) in &golden.files {
            match &bytes[..8] {
                b"ANNALSGC" => drop(encodings.borrow_mut().insert(bytes[38])),
                b"ANNALIXF" if file.starts_with("segment-") => drop(places.borrow_mut().insert(bytes[48])),
                _ => {}
            }
        }
    });
    assert_eq!((encodings.into_inner(), places.into_inner()), (BTreeSet::from([1, 2]), BTreeSet::from([1, 4])));
}

#[test]
fn they_open_for_writing_and_show_every_event() {
    each_store(|name, golden| {
        let (_, store) = open(&golden.files);
        assert_eq!(written(&store), golden.events, "{name}");
        let report = store.recovery_report();
        assert_eq!(report.clean, !was_killed(name), "{name}: {report:?}");
        assert!(report.rebuilt_indexes.is_empty(), "{name}: {report:?}");
        assert_eq!(report.kept_batches > 0, was_killed(name), "{name}: {report:?}");
        assert_eq!(report.cut_bytes > 0, name == "torn", "{name}: {report:?}");
    });
}

#[test]
fn they_open_for_reading_and_show_every_event() {
    each_store(|name, golden| {
        let disk = SimDisk::from_files(&golden.files);
        let opened: ReadOnly = golden::options().open_read_only_storage(Arc::new(disk.clone())).unwrap();
        assert_eq!(golden::listing(&opened.reader_in(View::Written)).unwrap(), golden.events, "{name}");
        assert!(golden.events.starts_with(&golden::listing(&opened.reader_in(View::Durable)).unwrap()));
        assert_eq!(disk.files(), golden.files, "{name}: reading changed a file");
    });
}

#[test]
fn on_a_real_disk_they_open_mapped() {
    each_store(|name, golden| {
        let dir = tempfile::tempdir().unwrap();
        for (file, bytes) in &golden.files {
            std::fs::write(dir.path().join(file), bytes).unwrap();
        }
        let store = Options::new().open(dir.path()).unwrap();
        assert_eq!(written(&store), golden.events, "{name}");
    });
}

#[test]
fn retries_of_what_they_hold_are_known() {
    each_store(|name, golden| {
        let (_, store) = open(&golden.files);
        let ids = golden::ids(&store.reader_in(View::Written)).unwrap();
        assert_eq!(ids.len(), golden.events.lines().count(), "{name}");
        let head = store.reader_in(View::Written).head();
        for id in ids {
            let other = store.append("other", Expect::Any, &[NewEvent::new("Other", b"other").id(id)]);
            assert!(matches!(other, Err(annals::Error::DuplicateId { .. })), "{name}: {other:?}");
        }
        assert_eq!(store.reader_in(View::Written).head(), head);
    });
}

#[test]
fn they_are_continued_closed_killed_and_opened_again() {
    each_store(|name, golden| {
        let (mut disk, mut store) = open(&golden.files);
        let mut shown = golden.events.clone();
        for round in 0..6 {
            for n in 0..40 {
                let text = format!("{round} {n} {}", "x".repeat(n * 50));
                let durability = if n % 3 == 0 { Durability::Durable } else { Durability::Buffered };
                store.append_with("stream-1", Expect::Exists, &[NewEvent::new("New", &text)], durability).unwrap();
            }
            let now = written(&store);
            assert!(now.starts_with(&shown), "{name}");
            shown = now;
            if round % 2 == 0 {
                disk = disk.after_kill();
                drop(store);
            } else {
                store.close().unwrap();
            }
            store = golden::options().open_storage(Arc::new(disk.clone())).unwrap();
            assert_eq!(written(&store), shown, "{name}, round {round}");
        }
    });
}

#[test]
fn after_a_power_cut_they_keep_what_they_held() {
    each_store(|name, golden| {
        for seed in 0..20 {
            let (disk, store) = open(&golden.files);
            for n in 0..(seed % 7) as usize {
                let text = "x".repeat(n * 900);
                store.append_with("s", Expect::Any, &[NewEvent::new("New", &text)], Durability::Buffered).unwrap();
            }
            let reborn = golden::options().open_storage(Arc::new(disk.after_power_loss(seed))).unwrap();
            assert!(written(&reborn).starts_with(&golden.events), "{name}, seed {seed}");
        }
    });
}

/// Name, checkpoint, finished above it, parked, generation and time of the last change of each consumer, as they were then.
#[test]
fn their_consumers_stand_where_they_stood() {
    let expected = [
        ("closed", ""),
        ("consumers", "größere Rechnungen: 217 0 0 2 1800000000000000000\nmail: 12 190 53 1 1800000000000000000\n"),
        (
            "consumers_killed",
            "größere Rechnungen: 217 0 0 2 1800000000000000000\nmail: 12 190 53 1 1800000000000000000\n",
        ),
    ];
    let everything = "mail: 10 110 70 1 1800000000000000000\nreset: 70 0 0 5 1800000000000000000\n";
    for (name, consumers) in expected.into_iter().chain([("everything", everything), ("compacted", everything)]) {
        let (disk, store) = open(&load("v1", name).files);
        assert_eq!(golden::consumers_of(&store), consumers, "{name}");
        drop(store);
        let (_, store) = open(&disk.after_kill().files());
        assert_eq!(golden::consumers_of(&store), consumers, "{name}, opened again");
    }
}

/// Stream, name, schema and revision of each snapshot, and the beginning of the state's hash, as they were then.
#[test]
fn their_snapshots_are_the_ones_that_were_saved() {
    let expected = "stream-4 state 1 9: 5000 bytes, 40da5ecc67adc642\nstream-4 state 2 8: 17 bytes, 34f818320be145a6\n\
                    stream-4 state 1 6: 3000 bytes, superseded\nstream-5 state 1 10: 34 bytes, d72e00cc54ef4b22\n\
                    stream-8 state 1 20: 700 bytes, 5c809f062ecb4a2d\n";
    let (disk, store) = open(&load("v1", "everything").files);
    assert_eq!(golden::snapshots_of(&store).unwrap(), expected);
    store.compact(&annals::CompactionOptions::new()).unwrap();
    store.clean_snapshots(&annals::CleanSnapshots::new()).unwrap();
    drop(store);
    let (_, store) = open(&disk.after_kill().files());
    let cleaned = expected.replace("stream-4 state 1 6: 3000 bytes, superseded\n", "");
    assert_eq!(golden::snapshots_of(&store).unwrap(), cleaned);
    let latest = store.latest_snapshot("stream-5", &annals::Snapshots::of("state", 1)).unwrap().unwrap();
    assert_eq!(latest.state(), b"what takes the place of ten events");
}

#[test]
fn without_their_indexes_they_show_the_same() {
    each_store(|name, golden| {
        let mut files = golden.files.clone();
        let before = files.len();
        files.retain(|file, _| !file.ends_with(".idx"));
        let (_, store) = open(&files);
        assert_eq!(written(&store), golden.events, "{name}");
        let rebuilt = store.recovery_report().rebuilt_indexes.len();
        // Of the two files of consumers only the newer one is made anew.
        let consumers = golden.files.keys().filter(|file| file.starts_with("consumers-")).count();
        // What covers several segments is made again in the background.
        let covering =
            golden.files.keys().filter(|file| file.starts_with("tier-") || file.starts_with("streams-")).count();
        assert_eq!(rebuilt, before - files.len() - consumers / 2 - covering, "{name}: what was rebuilt is said");
        let (_, sound) = open(&golden.files);
        assert_eq!(golden::consumers_of(&store), golden::consumers_of(&sound), "{name}");
    });
}

/// A bit of a golden store turns over: everything is shown as it was, or damage is told; a store that was killed may
/// also show less, but nothing else.
#[test]
fn a_changed_bit_is_told_or_changes_nothing() {
    each_store(|name, golden| {
        let mut dice = Dice::new(7);
        let (mut told, mut harmless) = (0, 0);
        for _ in 0..300 {
            let mut files = golden.files.clone();
            let file = files.keys().nth(dice.index(files.len())).unwrap().clone();
            let bytes = files.get_mut(&file).unwrap();
            let live = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if live == 0 {
                continue;
            }
            let (at, bit) = (dice.index(live), dice.below(8));
            bytes[at] ^= 1 << bit;
            let opened = golden::options().open_storage(Arc::new(SimDisk::from_files(&files)));
            let shown = opened.and_then(|store| golden::listing(&store.reader_in(View::Written)));
            match shown {
                Ok(events) if events == golden.events => harmless += 1,
                Ok(events) => {
                    let is_prefix = golden.events.starts_with(&events);
                    assert!(was_killed(name) && is_prefix, "{name}: {file} byte {at} bit {bit} changed the history");
                }
                Err(_) => told += 1,
            }
        }
        println!("{name}: {told} told, {harmless} without effect");
        assert!(told > 50, "{name}: {told} told");
    });
}

#[test]
fn verify_finds_them_sound_and_their_damage() {
    each_store(|name, golden| {
        let verify = |files: &Files| annals::inspect::verify_in(&SimDisk::from_files(files), &mut |_, _| {}).unwrap();
        let report = verify(&golden.files);
        assert!(report.is_sound(), "{name}: {report:?}");
        // What is removed and not compacted stands in the files all the same.
        let hidden = match name {
            "removed" => 61,
            "everything" | "compacted" => 166,
            _ => 0,
        };
        assert_eq!(report.events, golden.events.lines().count() as u64 + hidden, "{name}");
        let is_long = |(file, bytes): &(&String, &Vec<u8>)| file.ends_with(".log") && bytes.len() > 9000;
        let (segment, _) = golden.files.iter().find(is_long).unwrap();
        for at in [5000, 7000, 9000] {
            let mut files = golden.files.clone();
            files.get_mut(segment).unwrap()[at] ^= 0x10;
            let report = verify(&files);
            assert!(!report.is_sound(), "{name}: byte {at} of {segment}");
            assert!(report.findings.iter().any(|finding| finding.file == *segment), "{name}: {report:?}");
        }
    });
}
