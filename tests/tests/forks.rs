//! Forks: a store of its own that holds another's history up to a moment; both go on, and neither meets the other.
//!
//! 80 histories, 4,000 with `ANNALS_LONG=1`.

use std::sync::Arc;

use annals::backup::{BackupOptions, RestoreOptions, restore_in};
use annals::storage::{Memory, Storage};
use annals::{
    AsOf, Durability, Error, EventId, Expect, ForkOptions, ForkReport, Lookup, NewEvent, Options, Query, Read,
    ReadMode, Reader, Retention, Revision, Scope, Seek, Sharing, Store, inspect,
};
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
            let segments = |report: &ForkReport| report.shared_segments + report.copied_segments;
            let rest = |report: &ForkReport| (report.head, report.carried_removals, report.rewritten_batches);
            ensure!(
                segments(&plan) == segments(&report) && rest(&plan) == rest(&report),
                "{plan:?} was said, {report:?} done"
            );
            // A reflink that cannot be had becomes a copy.
            ensure!(
                plan.written_bytes == report.written_bytes || plan.shared_segments != report.shared_segments,
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

/// What a reader shows, on the paths that removal hides things from.
fn shown(reader: &Reader, ids: &[EventId], names: &[String]) -> annals::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut each = |path: &str, read: Read| -> annals::Result<()> {
        for event in read {
            let event = event?;
            let (position, revision) = (event.position().get(), event.revision().get());
            lines.push(format!(
                "{path}: {position} {} {revision} {} {:?}",
                event.stream(),
                event.id(),
                event.payload()
            ));
        }
        Ok(())
    };
    each("all", reader.read_all(&Query::all(), Seek::Beginning)?)?;
    each("back", reader.read_all_back(&Query::all(), Seek::End)?)?;
    each("type", reader.read_all(&Query::event_type("T"), Seek::Beginning)?)?;
    for name in names {
        each("stream", reader.read_stream(name, Seek::Beginning)?)?;
        each("stream back", reader.read_stream_back(name, Seek::End)?)?;
    }
    for id in ids {
        lines.push(match reader.by_id(*id)? {
            Lookup::Found(event) => format!("{id} at {}", event.position()),
            Lookup::Removed { .. } => format!("{id} removed"),
            other => format!("{id} {other:?}"),
        });
    }
    // Of a stream without events a view may know by removals of later ones.
    let streams = reader.streams("")?;
    let live = streams.iter().filter(|stream| stream.first_position.is_some());
    lines.push(format!("{:?}", live.map(|stream| (&stream.name, stream.first_position)).collect::<Vec<_>>()));
    Ok(lines)
}

/// Appends and removals at random; then a fork and a restore of each of some moments show what a view of it shows.
fn removed_later(seed: u64) -> annals::Result<u64> {
    let mut dice = Dice::of(seed, 0x5245_4D56);
    let memory = Memory::new();
    let small = Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10);
    let store = small.clone().open_storage(Arc::new(memory.clone()))?;
    let names: Vec<String> = (0..5).map(|n| format!("s{}-{n}", n % 2)).collect();
    let mut ids = Vec::new();
    for prefix in ["s0", ""] {
        let keep = Retention::new().max_count(1 + dice.below(6));
        store.set_retention(&Scope::Prefix(prefix.to_owned()), keep)?;
    }
    for _ in 0..dice.below(80) {
        let stream = &names[dice.index(names.len())];
        let outcome = match dice.below(20) {
            0 => store.delete(stream, Expect::Any).map(drop),
            1 => {
                let before = Revision::new(1 + dice.below(8)).expect("not 0");
                store.truncate_before(stream, Expect::Any, before).map(drop)
            }
            2 if dice.chance(1, 4) => store.tombstone(stream, Expect::Any).map(drop),
            3 => store.forget_ids(stream, Expect::Any).map(drop),
            4 => store.forget_stream(stream, Expect::Any).map(drop),
            5 => store.sweep().map(drop),
            _ => {
                let payload = vec![dice.below(256) as u8; 10 + dice.index(6000)];
                let receipt = store.append(stream, Expect::Any, &[NewEvent::new("T", &payload)]);
                receipt.map(|receipt| ids.push(receipt.first().id))
            }
        };
        match outcome {
            // Nothing there to be removed, or ended for good.
            Ok(()) | Err(Error::Conflict(_) | Error::Invalid(_)) => {}
            Err(error) => return Err(error),
        }
    }
    store.close()?;
    let findings = inspect::verify_in(&memory, &mut |_, _| {})?.findings;
    assert!(findings.is_empty(), "ANNALS_SEED={seed}: {findings:?}");
    let store = small.clone().open_storage(Arc::new(memory.clone()))?;
    let backup = Memory::new();
    store.backup_to_storage(&backup, &BackupOptions::new())?;
    let mut carried = 0;
    for _ in 0..4 {
        let moment = AsOf::Position(dice.below(store.head() + 1));
        let wanted = shown(&store.as_of(moment)?, &ids, &names)?;
        let (fork, restored) = (Memory::new(), Memory::new());
        let report = store.fork_to_storage(&fork, &ForkOptions::new().as_of(moment))?;
        let options = RestoreOptions::new().until(moment);
        let planned = restore_in(&backup, &restored, &options.dry_run(true))?;
        let again = restore_in(&backup, &restored, &options)?;
        assert_eq!((again.head, again.carried_removals), (report.head, report.carried_removals), "ANNALS_SEED={seed}");
        assert_eq!((planned.head, planned.carried_removals), (again.head, again.carried_removals));
        carried += report.carried_removals;
        for (what, memory) in [("fork", fork), ("restore", restored)] {
            let made = small.clone().open_storage(Arc::new(memory.clone()))?;
            assert_eq!(made.head(), report.head);
            let shown = shown(&made.reader(), &ids, &names)?;
            let differs = shown.iter().zip(&wanted).find(|(shown, wanted)| shown != wanted);
            assert!(shown == wanted, "{what} of {moment:?}, ANNALS_SEED={seed}: shown and wanted: {differs:?}");
            for name in &names {
                let tip = store.as_of(moment)?.read_stream_back(name, Seek::End)?.next().transpose()?;
                match made.append(name, Expect::Any, &[NewEvent::new("T", b"on")]) {
                    Ok(receipt) => {
                        let before = tip.map_or(0, |event| event.revision().get());
                        assert!(receipt.first().revision.get() > before, "{what}, {name}, ANNALS_SEED={seed}");
                    }
                    Err(Error::Conflict(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            made.close()?;
            let findings = inspect::verify_in(&memory, &mut |_, _| {})?.findings;
            assert!(findings.is_empty(), "{what} of {moment:?}, ANNALS_SEED={seed}: {findings:?}");
        }
    }
    store.close()?;
    Ok(carried)
}

/// R23: a removal is retroactive, also where a store is made from a moment before it.
#[test]
fn what_was_removed_later_is_in_no_fork_and_no_restore() {
    let histories = how_many(60, 4_000);
    let seed = seed("what_was_removed_later_is_in_no_fork_and_no_restore");
    let mut carried = 0;
    for n in 0..histories {
        let seed = seed.wrapping_add(n);
        carried += removed_later(seed).unwrap_or_else(|error| panic!("ANNALS_SEED={seed}: {error}"));
    }
    println!("{histories} histories, {carried} removals carried");
    assert!(carried > histories);
}

/// A finding of the model's: such a segment was left out, and the next one's header names it.
#[test]
fn a_segment_without_a_batch_comes_along() {
    let small = || Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10);
    // Its segments are sealed when an append returns, so the fork shares their index files. What is written anew of those that are
    // not has none before the first opening, and verification says so.
    let source = small().background(false).open_storage(Arc::new(Memory::new())).unwrap();
    // Longer than the first segment, which stays empty.
    source.append("s", Expect::Any, &[NewEvent::new("T", &vec![1; 100_000])]).unwrap();
    few_events(&source, 6);
    for moment in [0, 1, 3, 7].map(AsOf::Position) {
        let memory = Memory::new();
        source.fork_to_storage(&memory, &ForkOptions::new().as_of(moment)).unwrap();
        for round in 0..2 {
            let findings = inspect::verify_in(&memory, &mut |_, _| {}).unwrap().findings;
            assert!(findings.is_empty(), "{moment:?}, round {round}: {findings:?}");
            small().open_storage(Arc::new(memory.clone())).unwrap().close().unwrap();
        }
    }
}
