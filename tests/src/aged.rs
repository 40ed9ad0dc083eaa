//! A store with a past: events of which many were removed, snapshots, streams folded by compaction, segments compacted once
//! and again, more of them to be compacted. And what it answers, which nothing that is done to it afterwards may change.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use annals::{
    AsOf, CompactionOptions, Durability, Error, Event, EventId, Expect, Fold, FoldError, Lookup, NewEvent, Options,
    Position, Query, ReadMode, Reader, Retention, Revision, Scope, Seek, Snapshot, Snapshots, Store, View, inspect,
};

use crate::crash::{Verdict, small};
use crate::ensure;
use crate::sim_disk::{Dice, SimDisk};

/// All streams; nothing is removed from the last one.
pub const STREAMS: [&str; 4] = ["a", "b", "c", "d"];

/// A store at rest that compaction finds work in, and what it answers.
#[derive(Debug)]
pub struct Aged {
    /// Its files after a clean close.
    pub files: BTreeMap<String, Vec<u8>>,
    /// How it is opened.
    pub options: Options,
    /// How it is compacted.
    pub compaction: CompactionOptions,
    /// Everything that could be asked of it, in words.
    pub answers: Vec<String>,
    /// The last position.
    pub head: u64,
    /// The files after compaction, a reopening and a clean close.
    left: BTreeSet<String>,
    /// Whether streams are folded by compaction: with every second seed.
    folds: bool,
}

fn kind() -> Snapshots {
    Snapshots::of("state", 1)
}

/// Saved by compaction alone, of two of the streams.
#[must_use]
pub fn folded() -> Snapshots {
    Snapshots::of("folded", 1).every_events(5).keep(1)
}

/// How many events, and what of their order and content is left when they are folded: 16 bytes, behind which may be others.
#[derive(Clone, Copy, Debug)]
pub struct Sum;

impl Fold for Sum {
    type State = [u64; 2];

    fn begin(&self, snapshot: Option<&Snapshot>) -> Result<[u64; 2], FoldError> {
        let Some(snapshot) = snapshot else { return Ok([0; 2]) };
        let (count, sum) = snapshot.state()[..16].split_at(8);
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

/// An error in words.
#[must_use]
pub fn text(error: Error) -> String {
    error.to_string()
}

fn id(number: u64) -> EventId {
    EventId::from(u128::from(number) << 32 | 7)
}

/// The state of a stream, by whatever snapshot of this kind it begins; none if events are missing and nothing takes their place.
///
/// # Errors
/// What loading and replaying fail with.
pub fn replayed(reader: &Reader, stream: &str, kind: &Snapshots) -> Verdict<Option<[u64; 2]>> {
    let history = reader.load(stream, kind).map_err(text)?.complete();
    history.map(|mut history| history.replay(&Sum)).transpose().map_err(|error| error.to_string())
}

fn in_words(event: &Event) -> String {
    let mut digest = DefaultHasher::new();
    event.payload().hash(&mut digest);
    let (position, revision, stream, at) = (event.position(), event.revision(), event.stream(), event.recorded_at());
    format!("{position} {stream} {revision} {:x} of {} at {at}", digest.finish(), event.payload().len())
}

/// All events in order.
fn in_order(reader: &Reader) -> Verdict<Vec<String>> {
    let read = reader.read_all(&Query::all(), Seek::Beginning).map_err(text)?;
    read.map(|event| event.map(|event| in_words(&event)).map_err(text)).collect()
}

/// All events up to `last`, through every path that shows events; some positions and times up to there and the first `known` ids
/// are looked up.
///
/// # Errors
/// What reading fails with.
pub fn events(reader: &Reader, last: u64, known: u64) -> Verdict<Vec<String>> {
    let mut answers = in_order(reader)?;
    for event in reader.read_all_back(&Query::tag("t"), Seek::End).map_err(text)? {
        let event = event.map_err(text)?;
        answers.push(format!("by its tag: {}", in_words(&event)));
        if event.position().get().is_multiple_of(8) {
            answers.push(format!("as early: {:?}", reader.position_at(event.recorded_at()).map_err(text)?));
        }
    }
    for stream in STREAMS {
        for read in [reader.read_stream(stream, Seek::Beginning), reader.read_stream_back(stream, Seek::End)] {
            let revisions: Result<Vec<u64>, Error> =
                read.map_err(text)?.map(|event| event.map(|event| event.revision().get())).collect();
            answers.push(format!("{stream} {:?}", revisions.map_err(text)?));
        }
    }
    for number in 1..=known {
        answers.push(match reader.by_id(id(number)).map_err(text)? {
            Lookup::Found(event) => format!("{number} at {}", event.position()),
            Lookup::Removed { at, why } => format!("{number} removed at {at}: {why:?}"),
            Lookup::NotFound => format!("{number} not found"),
        });
    }
    for position in (1..=last).step_by(3).filter_map(Position::new) {
        let event = reader.at(position).map_err(text)?;
        answers.push(format!("at {position}: {:?}", event.as_ref().map(in_words)));
    }
    let newest = reader.last(&Query::all()).map_err(text)?;
    answers.push(format!("{} events, the last {newest:?}", reader.count(&Query::all()).map_err(text)?));
    Ok(answers)
}

/// Everything that can be asked, now and of the past, in words.
///
/// # Errors
/// What asking fails with.
pub fn answers(reader: &Reader) -> Verdict<Vec<String>> {
    let head = reader.head();
    let mut answers = vec![format!("head {head}")];
    answers.extend(events(reader, head, head)?);
    for stream in STREAMS {
        answers.push(format!("{stream} {:?}", reader.stream_state(stream).map_err(text)?));
        let loaded = reader.load(stream, &kind()).map_err(text)?;
        let loaded = loaded.complete().map(|mut history| {
            let snapshot = history.snapshot().map(|snapshot| snapshot.state().to_vec());
            (snapshot, history.by_ref().filter_map(Result::ok).count())
        });
        answers.push(format!("{stream} {loaded:?}"));
        answers.push(format!("{stream} {:?}", replayed(reader, stream, &folded())?));
    }
    answers.push(format!("{:?}", reader.streams("").map_err(text)?));
    answers.push(format!("{:?}", reader.types().map_err(text)?));
    let before = reader.as_of(AsOf::Position(head / 2)).map_err(text)?;
    answers.extend(in_order(&before)?);
    Ok(answers)
}

/// Whether the same is answered.
///
/// # Errors
/// The first difference.
pub fn same(before: &[String], now: &[String]) -> Verdict {
    let differs = before.iter().zip(now).find(|(before, now)| before != now);
    let differs = differs.map(|(before, now)| format!("{now:.120} was {before:.120}"));
    let lens = (before.len(), now.len());
    ensure!(differs.is_none() && lens.0 == lens.1, "another answer: {differs:?}, {} were, {} are", lens.0, lens.1);
    Ok(())
}

impl Aged {
    /// The store of a seed.
    ///
    /// # Errors
    /// What is wrong with it, or with its compaction when nothing interrupts it.
    pub fn new(seed: u64) -> Verdict<Self> {
        Self::seen_at_rest(seed, |_| Ok(()))
    }

    /// The same, shown once or twice while it grew up, and once when it was about to be closed.
    ///
    /// # Errors
    /// As [`Aged::new`], and what `seen` says.
    pub fn seen_at_rest(seed: u64, mut seen: impl FnMut(&Store) -> Verdict) -> Verdict<Self> {
        let mut dice = Dice::of(seed, 0x434D);
        let mode = if dice.chance(2, 3) { ReadMode::Mapped } else { ReadMode::Pread };
        let options = small(Durability::Buffered, mode);
        let disk = SimDisk::new();
        let store = options.clone().open_storage(Arc::new(disk.clone())).map_err(text)?;
        let folds = seed.is_multiple_of(2);
        register(&store, folds)?;
        let compaction = CompactionOptions::new().level(1).block_bytes(4096 << dice.below(3));
        let mut number = 0;
        let rounds = 1 + dice.below(2);
        for round in 0..=rounds {
            fill(&store, &mut number, &mut dice)?;
            remove(&store, &mut dice)?;
            // In some, what was compacted is compacted again.
            if round < rounds && dice.chance(2, 3) {
                store.compact(&compaction).map_err(text)?;
            }
            store.sync().map_err(text)?;
            seen(&store)?;
        }
        let answers = answers(&store.reader())?;
        let head = store.head();
        store.close().map_err(text)?;
        let files = disk.files();
        let mut aged = Self { files, options, compaction, answers, left: BTreeSet::new(), head, folds };
        let (disk, store) = aged.open()?;
        let report = store.compact(&aged.compaction).map_err(text)?;
        ensure!(!report.compacted.is_empty(), "nothing to compact: {report:?}");
        aged.answers_as_before(&store)?;
        store.close().map_err(text)?;
        aged.reopen(&disk)?.close().map_err(text)?;
        aged.left = names_of_log(&disk);
        Ok(aged)
    }

    /// The store, opened on a disk of its own.
    ///
    /// # Errors
    /// What opening fails with.
    pub fn open(&self) -> Verdict<(SimDisk, Store)> {
        let disk = SimDisk::from_files(&self.files);
        let store = self.reopen(&disk)?;
        Ok((disk, store))
    }

    /// What was made of it, opened, the folds registered.
    ///
    /// # Errors
    /// What opening fails with.
    pub fn reopen(&self, disk: &SimDisk) -> Verdict<Store> {
        let opened = self.options.clone().open_storage(Arc::new(disk.clone()));
        let store = opened.map_err(|error| format!("opening: {error}"))?;
        self.register(&store).map(|()| store)
    }

    /// Registers the folds.
    ///
    /// # Errors
    /// What that fails with.
    pub fn register(&self, store: &Store) -> Verdict {
        register(store, self.folds)
    }

    /// Whether the store answers as it did.
    ///
    /// # Errors
    /// The first answer that is another.
    pub fn answers_as_before(&self, store: &Store) -> Verdict {
        same(&self.answers, &answers(&store.reader())?)
    }

    /// After whatever happened: opened, asked, compacted to the end, closed; nothing but what belongs there is left. It was
    /// opened and ended uncleanly so many times.
    ///
    /// # Errors
    /// What is wrong.
    pub fn aftermath(&self, disk: &SimDisk, unclean_ends: usize) -> Verdict {
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
        let is_more = more.len() > less.len() + 2 + unclean_ends;
        ensure!(!is_left_over && !is_more, "{more:?} are left over, {less:?} are missing");
        is_sound(disk)
    }
}

/// Whether verifying finds nothing wrong in a closed store.
///
/// # Errors
/// What it finds.
pub fn is_sound(disk: &SimDisk) -> Verdict {
    let report = inspect::verify_in(disk, &mut |_, _| {}).map_err(text)?;
    ensure!(report.is_sound(), "{:?}", report.findings);
    Ok(())
}

fn register(store: &Store, folds: bool) -> Verdict {
    let streams: &[&str] = if folds { &["a", "d"] } else { &[] };
    streams.iter().try_for_each(|stream| store.register_fold(stream, &folded(), Sum).map_err(text))
}

fn fill(store: &Store, number: &mut u64, dice: &mut Dice) -> Verdict {
    for _ in 0..90 + dice.below(60) {
        *number += 1;
        let stream = STREAMS[dice.index(STREAMS.len())];
        let payload = format!("{number} ").repeat(1 + dice.index(300));
        let event = NewEvent::new("T", &payload).tags(&["t"]).id(id(*number));
        store.append(stream, Expect::Any, &[event]).map_err(text)?;
        if dice.chance(1, 12)
            && let Some(last) = store.reader_in(View::Written).stream_state(stream).map_err(text)?.last()
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

/// Names of the files of the log, each segment's without its generation; a segment in two forms is there twice, the second
/// time as left over, and so is what was never given its name.
#[must_use]
pub fn names_of_log(disk: &SimDisk) -> BTreeSet<String> {
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
