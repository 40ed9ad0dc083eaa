//! Backups: points taken at any moment of a store's life, and stores restored from them, as of any position or time.
//!
//! 60 histories, 3,000 with `ANNALS_LONG=1`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use annals::backup::{self, BackupOptions, BackupReport, RestoreOptions};
use annals::storage::{Memory, Storage};
use annals::{AsOf, Durability, Error, Expect, NewEvent, Options, Query, ReadMode, Seek, Sharing, Store, inspect};
use annals_tests::chronicle::Chronicle;
use annals_tests::crash::{Verdict, how_many, seed};
use annals_tests::ensure;
use annals_tests::sim_disk::{Dice, SimDisk};

/// A store that is appended to, killed and cut off, and its backup.
struct Life {
    disk: SimDisk,
    backup: SimDisk,
    chronicle: Chronicle,
    options: Options,
    dice: Dice,
    /// Each point and what it must hold.
    points: Vec<(u64, u64)>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    points: u64,
    beside: u64,
    kills: u64,
    power_cuts: u64,
    kept_bytes: u64,
    restored: u64,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::of(seed, 0x4250);
        let chronicle = Chronicle::default();
        let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
        let mode = if dice.chance(1, 2) { ReadMode::Mapped } else { ReadMode::Pread };
        let options = chronicle.options(durability, mode);
        let (disk, backup) = (SimDisk::new(), SimDisk::new());
        Self { disk, backup, chronicle, options, dice, points: Vec::new(), counts: Counts::default() }
    }

    fn run(mut self) -> Verdict<Counts> {
        for round in 0..3 + self.dice.below(4) {
            self.round().map_err(|text| format!("round {round}: {text}"))?;
        }
        self.restore_all()?;
        Ok(self.counts)
    }

    fn round(&mut self) -> Verdict {
        let store =
            self.options.clone().open_storage(Arc::new(self.disk.clone())).map_err(|e| format!("opening: {e}"))?;
        for _ in 0..self.dice.below(4) {
            for _ in 0..self.dice.below(30) {
                self.chronicle.append(&store, &mut self.dice)?;
            }
            if self.dice.chance(1, 2) {
                let report = store.backup_to_storage(&self.backup, &BackupOptions::new());
                self.taken(report)?;
            } else {
                self.beside()?;
            }
        }
        match self.dice.below(3) {
            0 => store.close().map_err(|error| format!("closing: {error}"))?,
            1 => {
                self.counts.kills += 1;
                self.disk = self.disk.after_kill();
            }
            _ => {
                self.counts.power_cuts += 1;
                self.disk = self.disk.after_power_loss(self.dice.next());
            }
        }
        // Also of a store that nobody has recovered yet.
        if self.dice.chance(1, 2) {
            self.beside()?;
        }
        Ok(())
    }

    /// As another process would: from the files alone.
    fn beside(&mut self) -> Verdict {
        self.counts.beside += 1;
        let store = self
            .options
            .clone()
            .open_read_only_storage(Arc::new(self.disk.clone()))
            .map_err(|error| format!("opening read-only: {error}"))?;
        // After a power cut that took the newest mark, less may be known to be durable than was.
        let head = store.reader_in(annals::View::Durable).head();
        let report = store.backup_to_storage(&self.backup, &BackupOptions::new());
        let report = report.map_err(|error| format!("backup beside: {error}"))?;
        ensure!(report.head == head, "{report:?}, {head} is right");
        self.note(&report)
    }

    fn taken(&mut self, report: annals::Result<BackupReport>) -> Verdict {
        let report = report.map_err(|error| format!("backup: {error}"))?;
        ensure!(report.head == self.chronicle.head(), "{report:?}, {} is right", self.chronicle.head());
        self.note(&report)
    }

    fn note(&mut self, report: &BackupReport) -> Verdict {
        ensure!(report.notices.is_empty(), "{report:?}");
        self.counts.kept_bytes += report.kept_bytes;
        if report.unchanged {
            let before = self.points.last().copied();
            ensure!(before == Some((report.point, report.head)), "{report:?} after {before:?}");
            return Ok(());
        }
        self.counts.points += 1;
        self.points.push((report.point, report.head));
        Ok(())
    }

    fn restore_all(&mut self) -> Verdict {
        let listed = backup::points_in(&self.backup).map_err(|error| error.to_string())?;
        let heads: Vec<(u64, u64)> =
            listed.into_iter().map(|(number, info)| (number, info.expect("a sound point").head)).collect();
        ensure!(heads == self.points, "{heads:?} are listed, {:?} were made", self.points);
        for (point, head) in self.points.clone() {
            self.restore(point, head, AsOf::Head)?;
            let moment = self.chronicle.up_to(head).any_moment(&mut self.dice);
            self.restore(point, head, moment)?;
        }
        Ok(())
    }

    fn restore(&mut self, point: u64, head: u64, until: AsOf) -> Verdict {
        self.restore_one(point, head, until).map_err(|text| format!("point {point} to {head}, until {until:?}: {text}"))
    }

    fn restore_one(&mut self, point: u64, head: u64, until: AsOf) -> Verdict {
        let mut chronicle = self.chronicle.up_to(head);
        let last = chronicle.last_as_of(until);
        let target = Memory::new();
        let options = RestoreOptions::new().point(point).until(until);
        let checked = backup::restore_in(&self.backup, &target, &options.dry_run(true)).map_err(|e| e.to_string())?;
        ensure!(target.list().unwrap().is_empty(), "a dry run wrote {:?}", target.list());
        let report = backup::restore_in(&self.backup, &target, &options).map_err(|error| error.to_string())?;
        ensure!(report == checked, "{checked:?} was said, {report:?} done");
        ensure!((report.head, report.records) == (last, last), "{report:?}, {last} is right");
        chronicle = chronicle.up_to(last);
        let store = self.options.clone().open_storage(Arc::new(target.clone())).map_err(|e| format!("opening: {e}"))?;
        ensure!(store.recovery_report().clean, "{:?}", store.recovery_report());
        chronicle.judge(&store.reader(), last)?;
        for _ in 0..self.dice.below(6) {
            chronicle.append(&store, &mut self.dice)?;
        }
        chronicle.judge(&store.reader(), chronicle.head())?;
        store.close().map_err(|error| error.to_string())?;
        let verified = inspect::verify_in(&target, &mut |_, _| {}).map_err(|error| error.to_string())?;
        ensure!(verified.findings.is_empty(), "{:?}", verified.findings);
        self.counts.restored += 1;
        Ok(())
    }
}

#[test]
fn every_point_is_restored_as_of_any_moment() {
    let histories = how_many(60, 3_000);
    let seed = seed("every_point_is_restored_as_of_any_moment");
    let mut all = Counts::default();
    for n in 0..histories {
        let seed = seed.wrapping_add(n);
        let counts = Life::new(seed).run().unwrap_or_else(|text| panic!("ANNALS_SEED={seed}: {text}"));
        all.points += counts.points;
        all.beside += counts.beside;
        all.kills += counts.kills;
        all.power_cuts += counts.power_cuts;
        all.kept_bytes += counts.kept_bytes;
        all.restored += counts.restored;
    }
    println!("{histories} histories: {all:?}");
    assert!(all.points > 3 * histories && all.kept_bytes > 0 && all.kills > 0 && all.power_cuts > 0, "{all:?}");
}

#[test]
fn a_chain_is_restored_to_every_position() {
    let mut dice = Dice::of(seed("a_chain_is_restored_to_every_position"), 0x4550);
    let mut chronicle = Chronicle::default();
    let options = chronicle.options(Durability::Durable, ReadMode::Mapped);
    let store = options.clone().open_storage(Arc::new(Memory::new())).unwrap();
    let backup = Memory::new();
    while chronicle.head() < how_many(120, 1_000) {
        chronicle.append(&store, &mut dice).unwrap();
        if dice.chance(1, 6) {
            store.backup_to_storage(&backup, &BackupOptions::new()).unwrap();
        }
    }
    store.backup_to_storage(&backup, &BackupOptions::new()).unwrap();
    for position in 0..=chronicle.head() {
        let target = Memory::new();
        let until = RestoreOptions::new().until(AsOf::Position(position));
        let report = backup::restore_in(&backup, &target, &until).unwrap();
        let last = chronicle.last_as_of(AsOf::Position(position));
        assert_eq!(report.head, last);
        let read_only = options.clone().open_read_only_storage(Arc::new(target)).unwrap();
        assert!(read_only.notices().is_empty(), "{:?}", read_only.notices());
        chronicle.judge(&read_only.reader(), last).unwrap_or_else(|text| panic!("until {position}: {text}"));
    }
    let beyond = RestoreOptions::new().until(AsOf::Position(chronicle.head() + 1));
    let refused = backup::restore_in(&backup, &Memory::new(), &beyond);
    assert!(matches!(refused, Err(Error::AheadOfLog { .. })), "{refused:?}");
}

/// A store of some segments with a chain of three points.
fn chain() -> (Chronicle, SimDisk, Options) {
    let mut dice = Dice::of(7, 0x4348);
    let mut chronicle = Chronicle::default();
    let options = chronicle.options(Durability::Durable, ReadMode::Mapped);
    let store = options.clone().open_storage(Arc::new(Memory::new())).unwrap();
    let backup = SimDisk::new();
    for _ in 0..3 {
        for _ in 0..60 {
            chronicle.append(&store, &mut dice).unwrap();
        }
        store.backup_to_storage(&backup, &BackupOptions::new()).unwrap();
    }
    (chronicle, backup, options)
}

#[test]
fn a_damaged_or_missing_file_of_a_chain_is_named() {
    let (chronicle, backup, options) = chain();
    let files = backup.files();
    let pieces: Vec<&String> = files.keys().filter(|name| name.starts_with("piece-")).collect();
    assert!(pieces.len() >= 6, "{pieces:?}");
    let mut refused = BTreeSet::new();
    for (name, bytes) in files.iter().filter(|(name, _)| *name != "LOCK") {
        let mut dice = Dice::of(bytes.len() as u64, 0x4446);
        for harm in 0..4 + how_many(4, 60) {
            let harmed = SimDisk::from_files(&files);
            match harm {
                0 => harmed.remove(name).unwrap(),
                1 => assert!(harmed.damage(name, Vec::clear)),
                2 => assert!(harmed.damage(name, |bytes| bytes.truncate(bytes.len() / 2))),
                3 => assert!(harmed.damage(name, |bytes| bytes.fill(0))),
                _ => {
                    let (at, bit) = (dice.index(bytes.len()), dice.below(8));
                    assert!(harmed.damage(name, |bytes| bytes[at] ^= 1 << bit));
                }
            }
            for point in 1..=3 {
                let target = Memory::new();
                let restored = backup::restore_in(&harmed, &target, &RestoreOptions::new().point(point));
                match restored {
                    Ok(report) => {
                        // A file that this point does not need.
                        let store = options.clone().open_read_only_storage(Arc::new(target)).unwrap();
                        chronicle.judge(&store.reader(), report.head).unwrap();
                    }
                    Err(Error::Corrupt(corrupt)) => {
                        assert_eq!(&corrupt.file, name, "{corrupt}");
                        refused.insert((name.clone(), point));
                        let opened = options.clone().create(false).open_storage(Arc::new(target));
                        assert!(matches!(opened, Err(Error::NotAStore { .. })), "{opened:?}");
                    }
                    // A point that is gone is no point.
                    Err(Error::NotAStore { .. }) if harm == 0 && name.starts_with("point-") => {
                        refused.insert((name.clone(), point));
                    }
                    Err(other) => panic!("{name}: {other}"),
                }
            }
        }
    }
    // Every piece is needed by the newest point or by one before.
    for name in pieces {
        assert!((1..=3).any(|point| refused.contains(&(name.clone(), point))), "{name} is needed by nobody");
    }
}

#[test]
fn what_is_damaged_in_a_backup_is_made_good_by_the_next_run() {
    let mut dice = Dice::of(9, 0x4D47);
    let mut chronicle = Chronicle::default();
    let options = chronicle.options(Durability::Durable, ReadMode::Mapped);
    let store = options.clone().open_storage(Arc::new(Memory::new())).unwrap();
    let backup = SimDisk::new();
    for _ in 0..100 {
        chronicle.append(&store, &mut dice).unwrap();
    }
    store.backup_to_storage(&backup, &BackupOptions::new()).unwrap();
    let names: Vec<String> = backup.files().into_keys().filter(|name| name != "LOCK").collect();
    for name in names {
        backup.remove(&name).unwrap();
        let report = store.backup_to_storage(&backup, &BackupOptions::new()).unwrap();
        assert_eq!(report.head, chronicle.head());
        let target = Memory::new();
        backup::restore_in(&backup, &target, &RestoreOptions::new()).unwrap();
        let again = options.clone().open_read_only_storage(Arc::new(target)).unwrap();
        chronicle.judge(&again.reader(), chronicle.head()).unwrap();
    }
}

#[test]
fn damage_never_comes_into_a_backup() {
    let mut dice = Dice::of(11, 0x4E44);
    let mut chronicle = Chronicle::default();
    let options = chronicle.options(Durability::Durable, ReadMode::Pread);
    let disk = SimDisk::new();
    let store = options.clone().open_storage(Arc::new(disk.clone())).unwrap();
    for _ in 0..150 {
        chronicle.append(&store, &mut dice).unwrap();
    }
    store.close().unwrap();
    let name = "segment-00000000000000000002.log";
    assert!(disk.damage(name, |bytes| bytes[20_000] ^= 1));
    let store = options.open_read_only_storage(Arc::new(disk)).unwrap();
    for sharing in [Sharing::Copy, Sharing::Any] {
        let backup = SimDisk::new();
        match store.backup_to_storage(&backup, &BackupOptions::new().sharing(sharing)) {
            Err(Error::Corrupt(corrupt)) => assert_eq!(corrupt.file, name),
            other => panic!("{other:?}"),
        }
        assert!(backup.files().keys().all(|name| !name.starts_with("point-")));
    }
}

#[test]
fn a_backup_keeps_to_its_store_and_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let one = Store::open(dir.path().join("one")).unwrap();
    let two = Store::open(dir.path().join("two")).unwrap();
    one.append("s", Expect::Any, &[NewEvent::new("T", b"")]).unwrap();
    one.backup(dir.path().join("backup")).unwrap();
    let other = two.backup(dir.path().join("backup"));
    assert!(matches!(&other, Err(Error::Occupied { .. })), "{other:?}");
    let into_a_store = one.backup(dir.path().join("two"));
    assert!(matches!(&into_a_store, Err(Error::Occupied { .. })), "{into_a_store:?}");
    let into_itself = one.backup(dir.path().join("one"));
    assert!(matches!(&into_itself, Err(Error::Occupied { .. })), "{into_itself:?}");
    let again = one.backup(dir.path().join("backup")).unwrap();
    assert!(again.unchanged && again.point == 1, "{again:?}");
    let no_point = backup::restore_in(&Memory::new(), &Memory::new(), &RestoreOptions::new());
    assert!(matches!(&no_point, Err(Error::NotAStore { .. })), "{no_point:?}");
}

#[test]
fn a_restored_store_goes_into_the_same_backup() {
    let (mut chronicle, backup, options) = chain();
    let target = Memory::new();
    let until = RestoreOptions::new().until(AsOf::Position(40));
    let report = backup::restore_in(&backup, &target, &until).unwrap();
    chronicle = chronicle.up_to(report.head);
    let store = options.clone().open_storage(Arc::new(target)).unwrap();
    let mut dice = Dice::of(13, 0x5252);
    for _ in 0..40 {
        chronicle.append(&store, &mut dice).unwrap();
    }
    let report = store.backup_to_storage(&backup, &BackupOptions::new()).unwrap();
    assert_eq!((report.point, report.head), (4, chronicle.head()));
    let again = Memory::new();
    backup::restore_in(&backup, &again, &RestoreOptions::new()).unwrap();
    let store = options.open_read_only_storage(Arc::new(again)).unwrap();
    chronicle.judge(&store.reader(), chronicle.head()).unwrap();
}

#[test]
fn hard_links_take_no_room_and_are_restored() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().segment_bytes_max(64 << 10).open(dir.path().join("store")).unwrap();
    for n in 0..40u8 {
        store.append("s", Expect::Any, &[NewEvent::new("T", &[n; 10_000])]).unwrap();
    }
    store.close().unwrap();
    let store = Options::new().segment_bytes_max(64 << 10).open(dir.path().join("store")).unwrap();
    let options = BackupOptions::new().sharing(Sharing::Any);
    let report = store.backup_with(dir.path().join("backup"), &options, &mut |_, _| {}).unwrap();
    assert!(report.shared_pieces > 3, "{report:?}");
    backup::restore(dir.path().join("backup"), dir.path().join("again"), &RestoreOptions::new(), &mut |_, _| {})
        .unwrap();
    assert_eq!(Store::open(dir.path().join("again")).unwrap().head(), 40);
}

/// Points are taken from this process and, by the files alone, as another would, while a thread appends at full speed.
fn beside_a_writing_thread(durability: Durability) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Options::new().durability(durability).segment_bytes_max(1 << 20).open(&path).unwrap();
    let stop = AtomicBool::new(false);
    let rounds = how_many(12, 200);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0u64;
            // Far enough to roll many times, and no disk is filled.
            while !stop.load(Ordering::Relaxed) && n < 20_000 * rounds / 12 {
                n += 1;
                if n.is_multiple_of(50) {
                    std::thread::sleep(std::time::Duration::from_micros(300));
                }
                let payload = vec![n as u8; 50 + (n * 37 % 4_000) as usize];
                let number = n.to_le_bytes();
                let event = NewEvent::new("T", &payload).metadata(&number);
                store.append(&format!("s-{}", n % 7), Expect::Any, &[event]).unwrap();
            }
        });
        let mut heads = Vec::new();
        for round in 0..rounds {
            let report = if round % 2 == 0 {
                let before = store.head();
                let report = store.backup(dir.path().join("backup")).unwrap();
                assert!(report.head >= before, "{report:?}, {before} before");
                report
            } else {
                let store = Options::new().open_read_only(&path).unwrap();
                store.backup_with(dir.path().join("backup"), &BackupOptions::new(), &mut |_, _| {}).unwrap()
            };
            heads.push((report.point, report.head));
        }
        stop.store(true, Ordering::Relaxed);
        for (point, head) in heads.into_iter().rev().take(4) {
            let target = Memory::new();
            let backup = annals::storage::Disk::open(&dir.path().join("backup")).unwrap();
            backup::restore_in(&backup, &target, &RestoreOptions::new().point(point)).unwrap();
            let restored = Options::new().open_read_only_storage(Arc::new(target)).unwrap();
            let mut expected = 0;
            for event in restored.reader().read_all(&Query::all(), Seek::Beginning).unwrap() {
                expected += 1;
                let event = event.unwrap();
                let number = u64::from_le_bytes(event.metadata().try_into().unwrap());
                assert_eq!((event.position().get(), number), (expected, expected));
            }
            assert_eq!(expected, head);
        }
    });
}

#[test]
fn points_beside_a_writing_thread_are_whole_prefixes() {
    beside_a_writing_thread(Durability::Buffered);
    beside_a_writing_thread(Durability::Durable);
}
