//! Compaction on a simulated disk: every operation of it fails, once or for ever, every operation is a power cut, the disk or
//! the quota is full. What is told is typed, no answer changes, the store goes on, and nothing is left that holds space.
//!
//! 2,000 states after cuts, 40,000 with `ANNALS_LONG=1`; `ANNALS_STATES` says any other number, `ANNALS_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use annals::{
    CompactionOptions, Durability, Error, Event, Expect, Fold, FoldError, Lookup, NewEvent, Options, Query, ReadMode,
    Reader, Retention, Revision, Scope, Seek, Snapshot, Snapshots, Store, inspect,
};
use annals_tests::crash::{Trace, Verdict, changes, how_many, seed, small};
use annals_tests::ensure;
use annals_tests::sim_disk::{Call, Dice, FaultKind, Repeat, SimDisk, WriteKind};

const STREAMS: [&str; 4] = ["a", "b", "c", "d"];

/// A store at rest that compaction finds work in, and what it answers.
struct Ground {
    files: BTreeMap<String, Vec<u8>>,
    options: Options,
    compaction: CompactionOptions,
    answers: Vec<String>,
    /// The files after compaction, a reopening and a clean close.
    left: BTreeSet<String>,
    head: u64,
    /// Whether streams are folded by compaction: on every second ground.
    folds: bool,
}

fn kind() -> Snapshots {
    Snapshots::of("state", 1)
}

/// Saved by compaction alone, of two of the streams.
fn folded() -> Snapshots {
    Snapshots::of("folded", 1).every_events(5).keep(1)
}

/// How many events, and what of their order and content is left when they are folded.
struct Sum;

impl Fold for Sum {
    type State = [u64; 2];

    fn begin(&self, snapshot: Option<&Snapshot>) -> Result<[u64; 2], FoldError> {
        let Some(snapshot) = snapshot else { return Ok([0; 2]) };
        let (count, sum) = snapshot.state().split_at(8);
        Ok([u64::from_le_bytes(count.try_into()?), u64::from_le_bytes(sum.try_into()?)])
    }

    fn apply(&self, [count, sum]: &mut [u64; 2], event: &Event) -> Result<(), FoldError> {
        *count += 1;
        *sum = event.payload().iter().fold(*sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        Ok(())
    }

    fn encode(&self, state: &[u64; 2]) -> Result<Vec<u8>, FoldError> {
        Ok(state.map(u64::to_le_bytes).concat())
    }
}

fn register(store: &Store, folds: bool) -> Verdict {
    let streams: &[&str] = if folds { &["a", "d"] } else { &[] };
    streams.iter().try_for_each(|stream| store.register_fold(stream, &folded(), Sum).map_err(text))
}

fn text(error: Error) -> String {
    error.to_string()
}

/// Everything that can be asked, in words.
fn answers(reader: &Reader) -> Verdict<Vec<String>> {
    let mut answers = vec![format!("head {}", reader.head())];
    for back in [false, true] {
        let read = match back {
            false => reader.read_all(&Query::all(), Seek::Beginning),
            true => reader.read_all_back(&Query::tag("t"), Seek::End),
        };
        for event in read.map_err(text)? {
            let event = event.map_err(text)?;
            let (position, revision, stream) = (event.position(), event.revision(), event.stream());
            answers.push(format!("{position} {stream} {revision} {:?} {:?}", event.payload(), event.recorded_at()));
        }
    }
    for stream in STREAMS {
        let read = reader.read_stream(stream, Seek::Beginning).map_err(text)?;
        let state = read.state();
        let revisions: Result<Vec<u64>, Error> = read.map(|event| event.map(|event| event.revision().get())).collect();
        answers.push(format!("{stream} {state:?} {:?}", revisions.map_err(text)?));
        let loaded = reader.load(stream, &kind()).map_err(text)?;
        let loaded = loaded.complete().map(|mut history| {
            let snapshot = history.snapshot().map(|snapshot| snapshot.state().to_vec());
            (snapshot, history.by_ref().filter_map(Result::ok).count())
        });
        answers.push(format!("{stream} {loaded:?}"));
        // By whatever snapshot it begins: the same state.
        let state = reader.load(stream, &folded()).map_err(text)?.complete().map(|mut history| history.replay(&Sum));
        answers.push(format!("{stream} {:?}", state.transpose().map_err(|error| error.to_string())?));
    }
    for number in 1..=reader.head() {
        answers.push(match reader.by_id(id(number)).map_err(text)? {
            Lookup::Found(event) => format!("{number} at {}", event.position()),
            Lookup::Removed { at, why } => format!("{number} removed at {at}: {why:?}"),
            Lookup::NotFound => format!("{number} not found"),
        });
    }
    Ok(answers)
}

fn id(number: u64) -> annals::EventId {
    annals::EventId::from(u128::from(number) << 32 | 7)
}

impl Ground {
    fn new(seed: u64) -> Verdict<Self> {
        let mut dice = Dice::of(seed, 0x434D);
        let mode = if dice.chance(1, 2) { ReadMode::Mapped } else { ReadMode::Pread };
        let options = small(Durability::Buffered, mode);
        let disk = SimDisk::new();
        let store = options.clone().open_storage(Arc::new(disk.clone())).map_err(text)?;
        let folds = seed.is_multiple_of(2);
        register(&store, folds)?;
        let compaction = CompactionOptions::new().level(1).block_bytes(4096 << dice.below(3));
        let mut number = 0;
        let rounds = 1 + dice.below(2);
        for round in 0..=rounds {
            Self::fill(&store, &mut number, &mut dice)?;
            Self::remove(&store, &mut dice)?;
            // In some, what was compacted is compacted again.
            if round < rounds && dice.chance(2, 3) {
                store.compact(&compaction).map_err(text)?;
            }
        }
        store.sync().map_err(text)?;
        let answers = answers(&store.reader())?;
        let head = store.head();
        store.close().map_err(text)?;
        let files = disk.files();
        let mut ground = Self { files, options, compaction, answers, left: BTreeSet::new(), head, folds };
        let (disk, store) = ground.open(None)?;
        let report = store.compact(&ground.compaction).map_err(text)?;
        ensure!(!report.compacted.is_empty(), "nothing to compact: {report:?}");
        ground.answers_as_before(&store)?;
        store.close().map_err(text)?;
        ground.reopen(&disk)?.close().map_err(text)?;
        ground.left = names_of_log(&disk);
        Ok(ground)
    }

    fn fill(store: &Store, number: &mut u64, dice: &mut Dice) -> Verdict {
        for _ in 0..90 + dice.below(60) {
            *number += 1;
            let stream = STREAMS[dice.index(STREAMS.len())];
            let payload = format!("{number} ").repeat(1 + dice.index(300));
            let event = NewEvent::new("T", &payload).tags(&["t"]).id(id(*number));
            store.append(stream, Expect::Any, &[event]).map_err(text)?;
            if dice.chance(1, 12)
                && let Some(last) = store.reader_in(annals::View::Written).stream_state(stream).map_err(text)?.last()
            {
                kind().durability(Durability::Buffered).save(store, stream, last, &[1; 40]).map_err(text)?;
            }
        }
        Ok(())
    }

    fn remove(store: &Store, dice: &mut Dice) -> Verdict {
        for _ in 0..1 + dice.below(3) {
            let stream = STREAMS[dice.index(3)];
            let last = store.stream_state(stream).map_err(text)?.last().map_or(1, Revision::get);
            match dice.below(4) {
                0 => drop(store.delete(stream, Expect::Any).map_err(text)?),
                1 => {
                    let retention = Retention::new().max_count(1 + last / 2);
                    store.set_retention(&Scope::Stream(stream.to_owned()), retention).map_err(text)?;
                    store.sweep().map_err(text)?;
                }
                _ => {
                    let before = Revision::new(1 + dice.below(last)).expect("at least 1");
                    store.truncate_before(stream, Expect::Any, before).map_err(text)?;
                }
            }
        }
        Ok(())
    }

    /// The store, opened on a disk of its own, of so much room.
    fn open(&self, capacity: Option<u64>) -> Verdict<(SimDisk, Store)> {
        let disk = SimDisk::from_files(&self.files);
        disk.set_capacity(capacity);
        let store = self.reopen(&disk)?;
        Ok((disk, store))
    }

    fn reopen(&self, disk: &SimDisk) -> Verdict<Store> {
        let opened = self.options.clone().open_storage(Arc::new(disk.clone()));
        let store = opened.map_err(|error| format!("opening: {error}"))?;
        register(&store, self.folds).map(|()| store)
    }

    fn answers_as_before(&self, store: &Store) -> Verdict {
        let now = answers(&store.reader())?;
        let differs = self.answers.iter().zip(&now).find(|(before, now)| before != now);
        let differs = differs.map(|(before, now)| format!("{:.80} was {before:.80}", now));
        ensure!(differs.is_none() && self.answers.len() == now.len(), "another answer: {differs:?}");
        Ok(())
    }

    /// After whatever happened: opened, asked, compacted to the end, closed; nothing but what belongs there is left.
    fn aftermath(&self, disk: &SimDisk) -> Verdict {
        let store = self.reopen(disk)?;
        self.answers_as_before(&store)?;
        let report = store.compact(&self.compaction).map_err(|error| format!("compacting again: {error}"))?;
        ensure!(report.notices.is_empty(), "{:?}", report.notices);
        self.answers_as_before(&store)?;
        store.close().map_err(text)?;
        self.reopen(disk)?.close().map_err(text)?;
        let left = names_of_log(disk);
        let (more, less): (Vec<_>, Vec<_>) =
            (left.difference(&self.left).collect(), self.left.difference(&left).collect());
        // An opening after an unclean end begins a segment, and so may the ones after it; compaction ends one where something is
        // removed from it.
        let is_left_over = left.iter().any(|name| name.starts_with("left over"));
        ensure!(!is_left_over && more.len() <= less.len() + 3, "{more:?} are left over, {less:?} are missing");
        let report = inspect::verify_in(disk, &mut |_, _| {}).map_err(text)?;
        ensure!(report.is_sound(), "{:?}", report.findings);
        Ok(())
    }
}

/// Names of the files of the log, each segment's without its generation; a segment in two forms is there twice.
fn names_of_log(disk: &SimDisk) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for name in disk.files().keys().filter(|name| !name.ends_with(".idx")) {
        let place = name.starts_with("segment-").then(|| name[.."segment-".len() + 20].to_owned());
        let is_first = place.is_none_or(|place| names.insert(place));
        if !is_first || name.ends_with(".new") {
            names.insert(format!("left over: {name}"));
        }
    }
    names
}

/// Numbers of the operations of the compaction on this ground, each with what it is.
fn operations(ground: &Ground) -> Verdict<Vec<(u64, WriteKind, Call)>> {
    let disk = SimDisk::from_files(&ground.files);
    let trace = Trace::default();
    let store = ground.options.clone().open_storage(Arc::new(trace.of(&disk))).map_err(text)?;
    register(&store, ground.folds)?;
    let begun = disk.steps();
    store.compact(&ground.compaction).map_err(text)?;
    let ended = disk.steps();
    Ok(trace.steps().into_iter().filter(|(step, ..)| (begun..ended).contains(step)).collect())
}

#[test]
fn every_operation_of_a_compaction_fails_and_the_store_goes_on() {
    let seed = seed("every_operation_of_a_compaction_fails");
    let (mut hits, mut told, mut poisoned) = (0, 0, 0);
    for round in 0..how_many(2, 40) {
        let seed = seed.wrapping_add(round);
        let ground = Ground::new(seed).unwrap_or_else(|what| panic!("ANNALS_SEED={seed}: {what}"));
        let kinds =
            [FaultKind::Eio, FaultKind::Enospc, FaultKind::ShortWrite, FaultKind::SyncFail, FaultKind::TornWriteHalf];
        for (step, write, call) in operations(&ground).unwrap() {
            for (kind, repeat) in kinds.into_iter().flat_map(|kind| [(kind, Repeat::Once), (kind, Repeat::Forever)]) {
                let context = format!("ANNALS_SEED={seed}, {kind:?} {repeat:?} at {step}, {write} {call}");
                let (disk, store) = ground.open(None).unwrap();
                disk.fail_at(step, kind, repeat);
                let outcome = store.compact(&ground.compaction);
                if disk.faults_hit() == 0 {
                    continue;
                }
                hits += 1;
                disk.clear_faults();
                let is_told = match &outcome {
                    Ok(report) => !report.notices.is_empty() || report.folds.failed > 0,
                    Err(Error::Io { .. } | Error::NoSpace { .. }) => true,
                    // The log itself could not be synced.
                    Err(Error::Poisoned { .. } | Error::OutcomeUnknown { .. }) => true,
                    Err(error) => panic!("{context}: {error} ({error:?})"),
                };
                told += u64::from(is_told);
                let went_on = ground.answers_as_before(&store).and_then(|()| match store.sync() {
                    Err(Error::Poisoned { .. }) => Ok(true),
                    Ok(_) => Ok(false),
                    Err(error) => Err(format!("syncing: {error}")),
                });
                let is_poisoned = went_on.unwrap_or_else(|what| panic!("{context}, {outcome:?}: {what}"));
                poisoned += u64::from(is_poisoned);
                let ended = match is_poisoned {
                    true => Ok(disk.after_kill()),
                    false => match store.compact(&ground.compaction) {
                        Ok(_) => store.close().map_err(text).map(|()| disk.clone()),
                        Err(error) => Err(format!("once more: {error}")),
                    },
                };
                ended.and_then(|disk| ground.aftermath(&disk)).unwrap_or_else(|what| panic!("{context}: {what}"));
            }
        }
    }
    println!("{hits} faults, {told} of them told, {poisoned} poisoned the writer");
    assert!(hits > 200 && told * 2 > hits, "{hits} faults, {told} told");
}

#[test]
fn every_operation_of_a_compaction_is_a_power_cut() {
    let wanted = how_many(2_000, 40_000);
    let seed = seed("every_operation_of_a_compaction_is_a_power_cut");
    let (mut states, mut biting) = (0, 0);
    let mut cuts = BTreeMap::<(WriteKind, Call), u64>::new();
    let mut round = 0;
    while states < wanted {
        let seed = seed.wrapping_add(round);
        round += 1;
        let ground = Ground::new(seed).unwrap_or_else(|what| panic!("ANNALS_SEED={seed}: {what}"));
        for (step, ..) in operations(&ground).unwrap().into_iter().filter(|(_, _, call)| changes(*call)) {
            let (disk, store) = ground.open(None).unwrap();
            disk.cut_at(step);
            let outcome = store.compact(&ground.compaction);
            let Some(cut) = disk.cut() else { continue };
            *cuts.entry((cut.kind, cut.call)).or_default() += 1;
            let kept = [disk.after_power_loss_with(|_| false), disk.after_power_loss_with(|_| true)];
            let states_of_cut = [disk.after_kill()].into_iter().chain(kept).chain([disk.after_power_loss(step)]);
            for (number, state) in states_of_cut.enumerate() {
                states += 1;
                biting += u64::from(number > 0 && cut.unsynced > 0);
                let judged = ground.aftermath(&state);
                judged.unwrap_or_else(|what| {
                    panic!("ANNALS_SEED={seed}, state {number} of {cut:?} ({outcome:?}): {what}")
                });
            }
        }
    }
    println!("{states} states, {biting} with something unsynced, of {round} stores: {cuts:#?}");
    assert!(states >= wanted && biting * 2 >= states, "{biting} of {states} states bite");
    let of_kind = |kind: WriteKind, call: Call| cuts.get(&(kind, call)).copied().unwrap_or(0);
    let least = wanted / 100;
    let of_snapshots = of_kind(WriteKind::Snapshots, Call::Write) + of_kind(WriteKind::Snapshots, Call::Sync);
    assert!(of_snapshots >= least, "{cuts:?}");
    assert!(
        of_kind(WriteKind::Container, Call::Write) + of_kind(WriteKind::Container, Call::Sync) >= least,
        "{cuts:?}"
    );
    assert!(of_kind(WriteKind::Manifest, Call::Write) + of_kind(WriteKind::Manifest, Call::Sync) >= least, "{cuts:?}");
    for call in [Call::Rename, Call::Remove, Call::SyncDir] {
        assert!(of_kind(WriteKind::DirectoryEntry, call) >= least, "{call} was hardly cut: {cuts:?}");
    }
}

/// Whatever room there is: compaction succeeds or says that there is none, leaves nothing behind, and works once there is.
#[test]
fn a_full_disk_and_a_quota_are_told_and_leave_nothing() {
    let seed = seed("a_full_disk_and_a_quota");
    let (mut refused, mut done) = (0, 0);
    for round in 0..how_many(3, 60) {
        let seed = seed.wrapping_add(round);
        let ground = Ground::new(seed).unwrap_or_else(|what| panic!("ANNALS_SEED={seed}: {what}"));
        for room in [0, 1, 4096, 9_000, 20_000, 40_000, 90_000, 300_000] {
            let (disk, store) = ground.open(None).unwrap();
            let taken = |disk: &SimDisk| disk.files().values().map(|bytes| bytes.len() as u64).sum::<u64>();
            let before = taken(&disk);
            disk.set_capacity(Some(before + room));
            let context = format!("ANNALS_SEED={seed}, {room} bytes of room");
            match store.compact(&ground.compaction) {
                Ok(_) => done += 1,
                Err(Error::NoSpace { .. }) => refused += 1,
                Err(error) => panic!("{context}: {error} ({error:?})"),
            }
            ground.answers_as_before(&store).unwrap_or_else(|what| panic!("{context}: {what}"));
            let after = taken(&disk);
            assert!(after <= before + room, "{context}: {after} bytes are taken, {before} were");
            disk.set_capacity(None);
            store.compact(&ground.compaction).unwrap_or_else(|error| panic!("{context}, with room: {error}"));
            store.append("e", Expect::NoStream, &[NewEvent::new("T", b"goes on")]).unwrap();
            assert!(taken(&disk) < before + (128 << 10), "{context}: nothing was freed");
            store.close().unwrap();
            let report = inspect::verify_in(&disk, &mut |_, _| {}).unwrap();
            assert!(report.is_sound(), "{context}: {:?}", report.findings);
            let left_over = names_of_log(&disk).into_iter().find(|name| name.starts_with("left over"));
            assert_eq!(left_over, None, "{context}");
            assert_eq!(ground.head, ground.reopen(&disk).unwrap().head() - 1);
        }
    }
    assert!(refused > 3 && done > 3, "{refused} refused, {done} done");
}

/// A store that has used up its quota: after removing, compaction makes room for appends again.
#[test]
fn a_used_up_quota_is_freed_by_compaction() {
    let disk = SimDisk::new();
    let options = || small(Durability::Buffered, ReadMode::Mapped).quota_bytes(Some(1 << 20));
    let store = options().open_storage(Arc::new(disk.clone())).unwrap();
    let payload = (0..2_000).map(|n| (n * 7919 % 251) as u8).collect::<Vec<u8>>();
    let fill = |store: &Store| {
        let mut appended = 0;
        loop {
            match store.append("a", Expect::Any, &[NewEvent::new("T", &payload)]) {
                Ok(_) => appended += 1,
                Err(Error::NoSpace { .. }) => return appended,
                Err(error) => panic!("{error}"),
            }
            assert!(appended < 2_000, "there is no quota");
        }
    };
    let first = fill(&store);
    assert!(first > 100, "{first} events fitted");
    // A removal needs a little room of its own: the live segment has some, or says so.
    let last = store.stream_state("a").unwrap().last().unwrap().get();
    let truncated = store.truncate_before("a", Expect::Any, Revision::new(last - 3).unwrap());
    match truncated {
        Ok(_) => {}
        Err(Error::NoSpace { .. }) => panic!("a full store cannot be cleaned up"),
        Err(error) => panic!("{error}"),
    }
    let report = store.compact(&CompactionOptions::new()).unwrap();
    assert!(report.removed_events > first / 2, "{report:?}");
    let again = fill(&store);
    assert!(again * 2 > first, "{first} events fitted, after compaction {again}");
    store.close().unwrap();
    assert_eq!(options().open_storage(Arc::new(disk)).unwrap().recovery_report().rebuilt_indexes, Vec::<String>::new());
}
