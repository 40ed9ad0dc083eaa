//! Forks: a store of its own that holds another's history up to a moment; both go on, and neither meets the other.
//!
//! 80 histories, 4,000 with `ANNALS_LONG=1`.

use std::sync::Arc;

use annals::storage::{Memory, Storage};
use annals::{AsOf, Durability, Error, Expect, ForkOptions, NewEvent, Options, ReadMode, Sharing, Store, inspect};
use annals_tests::chronicle::Chronicle;
use annals_tests::crash::{Verdict, how_many, seed};
use annals_tests::ensure;
use annals_tests::sim_disk::Dice;

/// A store and what it must hold.
struct Line {
    memory: Memory,
    chronicle: Chronicle,
    options: Options,
}

impl Line {
    fn open(&self) -> Verdict<Store> {
        self.options.clone().open_storage(Arc::new(self.memory.clone())).map_err(|error| format!("opening: {error}"))
    }

    fn go_on(&mut self, dice: &mut Dice, appends: u64) -> Verdict {
        let store = self.open()?;
        ensure!(
            store.recovery_report().clean || store.recovery_report().created,
            "not clean: {:?}",
            store.recovery_report()
        );
        for _ in 0..appends {
            self.chronicle.append(&store, dice)?;
        }
        self.chronicle.judge(&store.reader(), self.chronicle.head())?;
        store.close().map_err(|error| format!("closing: {error}"))?;
        let report = inspect::verify_in(&self.memory, &mut |_, _| {}).map_err(|error| error.to_string())?;
        ensure!(report.findings.is_empty(), "{:?}", report.findings);
        Ok(())
    }

    fn fork(&self, dice: &mut Dice) -> Verdict<Self> {
        let moment = self.chronicle.any_moment(dice);
        let last = self.chronicle.last_as_of(moment);
        let sharing = [Sharing::Any, Sharing::Reflink, Sharing::Copy][dice.index(3)];
        let options = ForkOptions::new().as_of(moment).sharing(sharing);
        let memory = Memory::new();
        let report = if dice.chance(1, 2) {
            let store = self.open()?;
            let plan = store.fork_to_storage(&memory, &options.dry_run(true)).map_err(|error| error.to_string())?;
            ensure!(memory.list().unwrap().is_empty(), "a dry run wrote {:?}", memory.list());
            let report = store.fork_to_storage(&memory, &options).map_err(|error| format!("{moment:?}: {error}"))?;
            ensure!(
                plan.shared_segments + plan.copied_segments == report.shared_segments + report.copied_segments,
                "{plan:?} was said, {report:?} done"
            );
            report
        } else {
            let store = Options::new()
                .open_read_only_storage(Arc::new(self.memory.clone()))
                .map_err(|error| error.to_string())?;
            store.fork_to_storage(&memory, &options).map_err(|error| format!("{moment:?}: {error}"))?
        };
        ensure!(report.head == last, "{moment:?}: {report:?}, {last} is right");
        ensure!(sharing == Sharing::Any || report.shared_segments == 0, "{sharing:?}: {report:?}");
        ensure!(sharing != Sharing::Any || report.copied_segments == 0, "{sharing:?}: {report:?}");
        let chronicle = self.chronicle.up_to(last);
        let options = chronicle.options(Durability::Durable, ReadMode::Mapped);
        Ok(Self { memory, chronicle, options })
    }
}

fn history(seed: u64) -> Verdict {
    let mut dice = Dice::of(seed, 0x464B);
    let chronicle = Chronicle::default();
    let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
    let options = chronicle.options(durability, ReadMode::Mapped);
    let mut lines = vec![Line { memory: Memory::new(), chronicle, options }];
    let appends = dice.below(100);
    lines[0].go_on(&mut dice, appends)?;
    for _ in 0..4 {
        let parent = dice.index(lines.len());
        let child = lines[parent].fork(&mut dice).map_err(|text| format!("fork of {parent}: {text}"))?;
        lines.push(child);
        for (n, line) in lines.iter_mut().enumerate() {
            let appends = dice.below(30);
            line.go_on(&mut dice, appends).map_err(|text| format!("line {n}: {text}"))?;
        }
    }
    Ok(())
}

#[test]
fn forks_go_on_by_themselves() {
    let histories = how_many(80, 4_000);
    let seed = seed("forks_go_on_by_themselves");
    for n in 0..histories {
        let seed = seed.wrapping_add(n);
        history(seed).unwrap_or_else(|text| panic!("ANNALS_SEED={seed}: {text}"));
    }
}

fn few_events(store: &Store, count: usize) {
    for n in 0..count {
        let payload = vec![n as u8; 20_000];
        store.append("s", Expect::Any, &[NewEvent::new("T", &payload)]).unwrap();
    }
}

#[test]
fn a_fork_on_a_real_disk_shares_files_that_neither_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Options::new().segment_bytes_max(64 << 10).open(&path).unwrap();
    few_events(&store, 30);
    store.close().unwrap();
    let store = Options::new().segment_bytes_max(64 << 10).open(&path).unwrap();
    let report = store.fork(dir.path().join("fork"), &ForkOptions::new()).unwrap();
    assert!(report.shared_segments > 5 && report.copied_segments == 0, "{report:?}");
    let before = std::fs::read(path.join("segment-00000000000000000002.log")).unwrap();
    let fork = Store::open(dir.path().join("fork")).unwrap();
    assert!(fork.recovery_report().clean, "{:?}", fork.recovery_report());
    assert!(fork.recovery_report().rebuilt_indexes.is_empty(), "{:?}", fork.recovery_report());
    few_events(&fork, 5);
    few_events(&store, 7);
    assert_eq!((fork.head(), store.head()), (35, 37));
    assert_eq!(before, std::fs::read(path.join("segment-00000000000000000002.log")).unwrap());
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let links = std::fs::metadata(path.join("segment-00000000000000000002.log")).unwrap().nlink();
        // One where the file system can share blocks instead.
        assert!((1..=2).contains(&links), "{links}");
    }
    // What a store lets go of stays with its fork.
    drop(store);
    std::fs::remove_dir_all(&path).unwrap();
    assert_eq!(fork.read_all(&annals::Query::all(), annals::Seek::Beginning).unwrap().count(), 35);
}

#[test]
fn a_fork_goes_only_where_nothing_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    few_events(&store, 3);
    let options = ForkOptions::new();
    let own = store.fork(&path, &options);
    assert!(matches!(&own, Err(Error::Occupied { .. })), "{own:?}");
    std::fs::create_dir(dir.path().join("other")).unwrap();
    std::fs::write(dir.path().join("other/notes"), "mine").unwrap();
    for dry_run in [true, false] {
        let other = store.fork(dir.path().join("other"), &options.dry_run(dry_run));
        assert!(matches!(&other, Err(Error::Occupied { .. })), "{other:?}");
    }
    let missing = store.fork(dir.path().join("no/where"), &options);
    assert!(matches!(&missing, Err(Error::NotAStore { .. })), "{missing:?}");
    let beyond = store.fork(dir.path().join("beyond"), &options.as_of(AsOf::Position(4)));
    assert!(matches!(&beyond, Err(Error::AheadOfLog { given: 4, head: 3 })), "{beyond:?}");
    assert!(!dir.path().join("beyond").exists());
    store.fork(dir.path().join("fork"), &options).unwrap();
    let twice = store.fork(dir.path().join("fork"), &options);
    assert!(matches!(&twice, Err(Error::Occupied { .. })), "{twice:?}");
    assert_eq!(std::fs::read(dir.path().join("other/notes")).unwrap(), b"mine");
}
