//! Registered folds: compaction saves snapshots by them, and a load afterwards gives the same state from fewer events.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::storage::{Access, Memory, Storage};
use annals::{
    CleanSnapshots, CompactionOptions, CompactionPolicy, CompactionRequest, Durability, Error, Event, Expect, Fold,
    FoldError, LiveSegment, Loaded, NewEvent, Options, ReadEvents, ReadMode, RequestState, Retention, Revision, Scope,
    Snapshot, Snapshots, Store, StreamState,
};
use annals_tests::model::{ManualClock, on_each_ground};
use proptest::prelude::*;

fn options() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).durability(Durability::Buffered)
}

fn revision(number: u64) -> Revision {
    Revision::new(number).unwrap()
}

/// Depends on each event and on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Chain {
    count: u64,
    value: u64,
}

impl Chain {
    fn next(self, payload: &[u8]) -> Self {
        let value =
            payload.iter().fold(self.value, |value, byte| value.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        Self { count: self.count + 1, value: value.wrapping_mul(0x9E37_79B9_7F4A_7C15) }
    }

    fn bytes(self) -> Vec<u8> {
        [self.count.to_le_bytes(), self.value.to_le_bytes()].concat()
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// Folds into a [`Chain`], and does something else at each event and at the end.
#[derive(Clone)]
struct Chained<F>(F);

/// What a fold is at.
enum At<'a> {
    Event(&'a Event),
    End,
}

impl<F: Fn(At<'_>) -> Result<(), FoldError>> Fold for Chained<F> {
    type State = Chain;

    fn begin(&self, snapshot: Option<&Snapshot>) -> Result<Chain, FoldError> {
        let Some(snapshot) = snapshot else { return Ok(Chain::default()) };
        let state = snapshot.state();
        Ok(Chain { count: number(&state[..8]), value: number(&state[8..]) })
    }

    fn apply(&self, chain: &mut Chain, event: &Event) -> Result<(), FoldError> {
        *chain = chain.next(event.payload());
        self.0(At::Event(event))
    }

    fn encode(&self, chain: &Chain) -> Result<Vec<u8>, FoldError> {
        self.0(At::End)?;
        Ok(chain.bytes())
    }
}

fn plain() -> Chained<impl Fn(At<'_>) -> Result<(), FoldError> + Send + Sync + Clone + 'static> {
    Chained(|_: At<'_>| Ok(()))
}

fn kind() -> Snapshots {
    Snapshots::of("chain", 1).every_events(10)
}

/// Never saved: what it loads is folded from the events alone.
fn from_events() -> Snapshots {
    Snapshots::of("chain", 99)
}

/// The state, how many events were read for it, and the revision of the snapshot that it began with.
fn loaded(events: &impl ReadEvents, stream: &str, kind: &Snapshots) -> Option<(Chain, u64, u64)> {
    let mut history = kind.load(events, stream).unwrap().complete()?;
    let chain = history.replay(&plain()).unwrap();
    let begun = history.snapshot().map_or(0, |snapshot| snapshot.revision().get());
    Some((chain, history.event_count(), begun))
}

fn append(store: &Store, stream: &str, count: u64) {
    for n in 0..count {
        let payload = format!("{stream} {n} ").repeat(3);
        store.append(stream, Expect::Any, &[NewEvent::new("T", &payload)]).unwrap();
    }
}

fn compact(store: &Store) -> annals::CompactionReport {
    store.compact(&CompactionOptions::new().level(1)).unwrap()
}

fn latest(store: &Store, stream: &str, kind: &Snapshots) -> Option<u64> {
    kind.latest(store, stream).unwrap().map(|snapshot| snapshot.revision().get())
}

#[test]
fn streams_of_which_a_snapshot_is_due_are_folded() {
    on_each_ground(|ground| {
        let store = ground.open(options());
        store.register_fold("account-", &kind(), plain()).unwrap();
        append(&store, "account-1", 300);
        append(&store, "account-2", 9);
        append(&store, "account-3", 10);
        append(&store, "cart-1", 300);
        let states: Vec<_> = ["account-1", "account-2", "account-3", "cart-1"]
            .map(|stream| loaded(&store, stream, &kind()).unwrap().0)
            .into();

        let planned = store.compact(&CompactionOptions::new().dry_run(true)).unwrap();
        assert_eq!((planned.folds.folded, planned.folds.events, planned.folds.failed), (2, 310, 0), "{planned:?}");
        assert_eq!(store.snapshots("").unwrap(), []);

        let report = compact(&store);
        assert_eq!((report.folds.folded, report.folds.events, report.folds.failed), (2, 310, 0), "{report:?}");
        assert_eq!(report.notices, Vec::<String>::new());
        let begun: Vec<_> = ["account-1", "account-2", "account-3", "cart-1"]
            .iter()
            .zip(&states)
            .map(|(stream, state)| {
                let (now, read, begun) = loaded(&store, stream, &kind()).unwrap();
                assert_eq!(now, *state, "{stream}");
                assert_eq!(Some((now, now.count, 0)), loaded(&store, stream, &from_events()));
                (begun, read)
            })
            .collect();
        assert_eq!(begun, [(300, 0), (0, 9), (10, 0), (0, 300)]);

        // Nothing has come since: nothing is done. What comes is folded onto it, by the next opening too, once it says so.
        assert_eq!(compact(&store).folds, annals::Folded::default());
        append(&store, "account-1", 5);
        append(&store, "account-2", 1);
        drop(store);
        let store = ground.open(options());
        append(&store, "account-1", 5);
        assert_eq!(compact(&store).folds.folded, 0);
        store.register_fold("account-", &kind(), plain()).unwrap();
        assert_eq!((compact(&store).folds.folded, latest(&store, "account-1", &kind())), (2, Some(310)));
        drop(store);
        let store = ground.open(options());
        let (state, read, begun) = loaded(&store, "account-1", &kind()).unwrap();
        assert_eq!((read, begun), (0, 310));
        assert_eq!(state, loaded(&store, "account-1", &from_events()).unwrap().0);
        assert_eq!(loaded(&store, "account-2", &kind()).unwrap().2, 10);
    });
}

#[test]
fn a_fold_that_fails_or_panics_fails_for_its_stream_alone() {
    let store = options().open_storage(Arc::new(Memory::new())).unwrap();
    for n in 0..8 {
        append(&store, &format!("s-{n}"), 20 + n);
    }
    let troubled = Chained(|at: At<'_>| match at {
        At::Event(event) if event.stream() == "s-2" && event.revision().get() == 15 => {
            Err("it is not understood".into())
        }
        At::Event(event) if event.stream() == "s-5" => panic!("a planted panic"),
        _ => Ok(()),
    });
    store.register_fold("s-", &kind(), troubled).unwrap();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let report = store.compact(&CompactionOptions::new().live_segment(LiveSegment::End));
    std::panic::set_hook(hook);
    let report = report.unwrap();
    assert_eq!((report.folds.folded, report.folds.failed), (6, 2), "{report:?}");
    let mut said: Vec<_> = report.folds.failures.iter().map(|failure| (&*failure.stream, &*failure.reason)).collect();
    said.sort_unstable();
    assert_eq!(said, [("s-2", "it is not understood"), ("s-5", "the fold panicked: a planted panic")]);
    assert_eq!((&*report.folds.failures[0].name, report.folds.failures[0].schema), ("chain", 1));
    // Segments were compacted all the same.
    assert_eq!((report.compacted.len() + report.left as usize, report.notices.len()), (1, 0), "{report:?}");
    for n in 0..8 {
        let expected = (n != 2 && n != 5).then_some(20 + n);
        assert_eq!(latest(&store, &format!("s-{n}"), &kind()), expected);
        let stream = format!("s-{n}");
        assert_eq!(loaded(&store, &stream, &kind()).unwrap().0, loaded(&store, &stream, &from_events()).unwrap().0);
    }
    // Another in its place: the others are made up for.
    store.register_fold("s-", &kind(), plain()).unwrap();
    assert_eq!((compact(&store).folds.folded, latest(&store, "s-5", &kind())), (2, Some(25)));
}

/// What the fold does to its own stream while it runs.
fn meddling(meddle: impl Fn(&Store) + Send + Sync + 'static) -> (Store, annals::CompactionReport) {
    let store = options().open_storage(Arc::new(Memory::new())).unwrap();
    append(&store, "s", 30);
    let held = Arc::new(Mutex::new(Some(store.clone())));
    let fold = {
        let held = held.clone();
        Chained(move |at: At<'_>| {
            if let (At::End, Some(store)) = (at, held.lock().unwrap().as_ref()) {
                meddle(store);
            }
            Ok(())
        })
    };
    store.register_fold("s", &kind(), fold).unwrap();
    let report = compact(&store);
    *held.lock().unwrap() = None;
    (store, report)
}

#[test]
fn a_stream_that_is_removed_meanwhile_gets_no_snapshot() {
    let (store, report) = meddling(|store| {
        store.delete("s", Expect::Any).unwrap();
    });
    assert_eq!((report.folds.folded, report.folds.failed, report.notices.len()), (0, 0, 0), "{report:?}");
    assert_eq!((store.snapshots("").unwrap(), loaded(&store, "s", &kind()).unwrap().0), (vec![], Chain::default()));
    let (store, report) = meddling(|store| {
        store.tombstone("s", Expect::Any).unwrap();
    });
    assert_eq!((report.folds.folded, store.snapshots("").unwrap().len()), (0, 0));
    // Written again: not what was before counts.
    let (store, report) = meddling(|store| {
        store.delete("s", Expect::Any).unwrap();
        append(store, "s", 40);
    });
    assert_eq!((report.folds.folded, latest(&store, "s", &kind())), (0, None));
    assert_eq!(loaded(&store, "s", &kind()).unwrap().0.count, 40);
    assert_eq!((compact(&store).folds.folded, latest(&store, "s", &kind())), (1, Some(70)));
    // All that was folded is cut.
    let (store, report) = meddling(|store| {
        append(store, "s", 5);
        store.truncate_before("s", Expect::Any, revision(33)).unwrap();
    });
    assert_eq!((report.folds.folded, store.snapshots("").unwrap().len()), (0, 0));
    assert!(loaded(&store, "s", &kind()).is_none());
}

#[test]
fn what_was_removed_is_not_folded_and_what_has_no_beginning_neither() {
    let store = options().open_storage(Arc::new(Memory::new())).unwrap();
    for stream in ["cut", "deleted", "ended", "again"] {
        append(&store, stream, 40);
    }
    store.truncate_before("cut", Expect::Any, revision(11)).unwrap();
    store.delete("deleted", Expect::Any).unwrap();
    store.tombstone("ended", Expect::Any).unwrap();
    store.delete("again", Expect::Any).unwrap();
    append(&store, "again", 12);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let fold = {
        let seen = seen.clone();
        Chained(move |at: At<'_>| {
            if let At::Event(event) = at {
                seen.lock().unwrap().push((event.stream().to_owned(), event.revision().get()));
            }
            Ok(())
        })
    };
    store.register_fold("", &kind(), fold).unwrap();
    let report = compact(&store);
    assert_eq!((report.folds.folded, report.folds.incomplete, report.folds.failed), (1, 1, 0), "{report:?}");
    assert_eq!(*seen.lock().unwrap(), (41..=52).map(|revision| ("again".to_owned(), revision)).collect::<Vec<_>>());
    assert_eq!(store.stream_state("deleted").unwrap(), StreamState::Deleted { last: revision(40) });
}

/// A state that is saved before the sweep takes the place of what that lets go of.
#[test]
fn streams_are_folded_before_a_sweep() {
    let store = options().open_storage(Arc::new(Memory::new())).unwrap();
    append(&store, "s", 50);
    store.set_retention(&Scope::Stream("s".to_owned()), Retention::new().max_count(3)).unwrap();
    let state = loaded(&store, "s", &kind()).unwrap().0;
    store.register_fold("s", &kind(), plain()).unwrap();
    let report = store.compact(&CompactionOptions::new().sweep_first(true).live_segment(LiveSegment::End)).unwrap();
    assert_eq!((report.folds.folded, report.removed_events), (1, 47), "{report:?}");
    assert_eq!(loaded(&store, "s", &from_events()), None);
    assert_eq!(loaded(&store, "s", &kind()), Some((state, 0, 50)));
    append(&store, "s", 12);
    let state = loaded(&store, "s", &kind()).unwrap().0;
    let report = store.compact(&CompactionOptions::new().sweep_first(true)).unwrap();
    assert_eq!((report.folds.folded, report.folds.incomplete), (1, 0), "{report:?}");
    assert_eq!(loaded(&store, "s", &kind()), Some((state, 0, 62)));
}

#[test]
fn as_many_are_kept_as_is_said_and_those_that_are_needed() {
    let memory = Arc::new(Memory::new());
    let store = options().open_storage(memory.clone()).unwrap();
    let other = Snapshots::of("other", 1);
    store.register_fold("a", &kind().keep(2), plain()).unwrap();
    store.register_fold("b", &kind(), plain()).unwrap();
    for round in 1..=5 {
        append(&store, "a", 10);
        append(&store, "b", 10);
        other.save(&store, "a", revision(round * 10), b"another").unwrap();
        let report = compact(&store);
        assert_eq!((report.folds.folded, report.folds.superseded), (2, u64::from(round > 2)), "{report:?}");
    }
    let of = |stream: &str, name: &str| -> Vec<u64> {
        let listed = store.reader().snapshots_of(stream).unwrap();
        listed.iter().filter(|info| info.name == name).map(|info| info.revision.get()).collect()
    };
    assert_eq!(of("a", "chain"), [50, 40]);
    assert_eq!((of("a", "other").len(), of("b", "chain").len()), (5, 5));
    // What takes the place of removed events stays, of the past too.
    store.truncate_before("a", Expect::Any, revision(41)).unwrap();
    for _ in 0..3 {
        append(&store, "a", 10);
        compact(&store);
    }
    assert_eq!(of("a", "chain"), [80, 70, 40]);
    let cleaned = store.clean_snapshots(&CleanSnapshots::new().dry_run(true)).unwrap();
    assert_eq!(cleaned.damage, []);
}

#[test]
fn due_by_bytes_and_by_age() {
    let clock = ManualClock::at(1_000_000_000);
    let store = options().clock(Arc::new(clock.clone())).open_storage(Arc::new(Memory::new())).unwrap();
    let (bytes, age) =
        (Snapshots::of("bytes", 1).every_bytes(1000), Snapshots::of("age", 1).max_age(Duration::from_secs(60)));
    store.register_fold("s-", &bytes, plain()).unwrap();
    store.register_fold("s-", &age, plain()).unwrap();
    store.append("s-long", Expect::Any, &[NewEvent::new("T", &[7; 1000])]).unwrap();
    store.append("s-short", Expect::Any, &[NewEvent::new("T", &[7; 999])]).unwrap();
    let plan = || store.compact(&CompactionOptions::new().dry_run(true)).unwrap().folds.folded;
    assert_eq!((plan(), compact(&store).folds.folded), (1, 1));
    assert_eq!((latest(&store, "s-long", &bytes), latest(&store, "s-short", &bytes)), (Some(1), None));
    clock.set(61_000_000_000);
    assert_eq!((plan(), compact(&store).folds.folded), (2, 2));
    assert_eq!((latest(&store, "s-long", &age), latest(&store, "s-short", &age)), (Some(1), Some(1)));
    // Nothing has come since: however old, none is due. What has come is due once the last one is old.
    clock.set(200_000_000_000);
    assert_eq!((plan(), compact(&store).folds.folded), (0, 0));
    store.append("s-short", Expect::Any, &[NewEvent::new("T", b"1")]).unwrap();
    assert_eq!((plan(), compact(&store).folds.folded), (2, 2));
    store.append("s-short", Expect::Any, &[NewEvent::new("T", &[7; 998])]).unwrap();
    assert_eq!((plan(), compact(&store).folds.folded), (0, 0));
}

#[test]
fn what_cannot_be_registered_is_refused() {
    let store = Store::in_memory().unwrap();
    let refused = |prefix: &str, kind: &Snapshots| {
        assert!(matches!(store.register_fold(prefix, kind, plain()), Err(Error::Invalid(_))), "{prefix:?} {kind:?}");
    };
    refused("a\n", &kind());
    refused("s", &Snapshots::of("", 1).every_events(1));
    refused("s", &Snapshots::of("no limit", 1));
    append(&store, "s", 30);
    assert_eq!(compact(&store).folds, annals::Folded::default());
}

#[test]
fn a_fold_that_compacts_is_refused() {
    let (store, report) = meddling(|store| {
        let answer = store.compact(&CompactionOptions::new());
        assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
    });
    assert_eq!((report.folds.folded, latest(&store, "s", &kind())), (1, Some(30)), "{report:?}");
}

#[test]
fn folding_can_be_stopped_and_goes_on_the_next_time() {
    let store = options().open_storage(Arc::new(Memory::new())).unwrap();
    for n in 0..6 {
        append(&store, &format!("s-{n}"), 20);
    }
    store.register_fold("s-", &kind(), plain()).unwrap();
    let options = CompactionOptions::new().live_segment(LiveSegment::End);
    let mut most = 0;
    let report = store.compact_while(&options, &mut |at| {
        assert_eq!((at.done, at.total), (0, 0));
        most = at.folded;
        if at.folded == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let report = report.unwrap();
    assert_eq!((report.cancelled, report.folds.folded, report.compacted.len(), most), (true, 2, 0, 2), "{report:?}");
    let saved = |store: &Store| (0..6).filter(|n| latest(store, &format!("s-{n}"), &kind()).is_some()).count();
    assert_eq!(saved(&store), 2);
    let report = store.compact(&options).unwrap();
    assert_eq!((report.cancelled, report.folds.folded, saved(&store)), (false, 4, 6), "{report:?}");

    // In the middle of a stream: nothing of it is saved.
    for _ in 0..200 {
        store.append("s-long", Expect::Any, &[NewEvent::new("T", &[7; 1000])]).unwrap();
    }
    let read = Arc::new(AtomicU64::new(0));
    let counting = {
        let read = read.clone();
        Chained(move |_: At<'_>| {
            read.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    };
    store.register_fold("s-", &kind(), counting).unwrap();
    let report = store.compact_while(&options, &mut |_| match read.load(Ordering::Relaxed) {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    let report = report.unwrap();
    assert_eq!(
        (report.cancelled, report.folds.folded, latest(&store, "s-long", &kind())),
        (true, 0, None),
        "{report:?}"
    );
    assert!((1..200).contains(&read.load(Ordering::Relaxed)), "{read:?}");
    // No faster than is said: 200 kB at 2 MB a second take a tenth of a second.
    let begun = std::time::Instant::now();
    let report = store.compact(&CompactionOptions::new().bytes_per_second(Some(2 << 20))).unwrap();
    assert_eq!(report.folds.folded, 1);
    assert!(begun.elapsed() >= Duration::from_millis(95), "{:?}", begun.elapsed());
}

#[test]
fn who_asks_from_outside_and_a_policy_fold_too() {
    on_each_ground(|ground| {
        let storage = ground.storage();
        let policy = CompactionPolicy::new().uncompacted_bytes(128 << 10).spare_newest(1);
        let store = ground.open(options().compaction(policy.options(CompactionOptions::new().level(1))));
        store.register_fold("s", &kind(), plain()).unwrap();
        append(&store, "s", 30);
        let request = CompactionRequest::lay_in(storage.clone(), &CompactionOptions::new()).unwrap();
        let report = loop {
            match request.look().unwrap() {
                RequestState::Waiting | RequestState::Running(_) => std::thread::sleep(Duration::from_millis(5)),
                RequestState::Done(report) => break report,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(report.notices, ["1 streams were folded, of 30 events"]);
        assert_eq!(latest(&store, "s", &kind()), Some(30));
        append(&store, "s", 20);
        for _ in 0..500 {
            store.append("t", Expect::Any, &[NewEvent::new("T", &[7; 1000])]).unwrap();
        }
        // A thread of the store does it, however long that takes.
        while latest(&store, "s", &kind()) == Some(30) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(latest(&store, "s", &kind()), Some(50));
    });
}

/// Who looked before a removal and reads after the compaction that followed is told; it is given no state with a hole in it.
#[test]
fn a_history_whose_events_went_meanwhile_ends_with_an_error() {
    let overtaken = AtomicU64::new(0);
    on_each_ground(|ground| {
        // Sealed at once: what is listed when the reader comes is not open yet when it reads.
        let store = ground.open(options().background(false));
        append(&store, "s", 3000);
        append(&store, "t", 3000);
        store.sync().unwrap();
        let beside = ground.open_read_only(options().read_mode(ReadMode::Pread));
        let reader = beside.reader();
        let state = loaded(&store, "s", &kind()).unwrap().0;
        store.truncate_before("s", Expect::Any, revision(50)).unwrap();
        store.delete("t", Expect::Any).unwrap();
        store.compact(&CompactionOptions::new().live_segment(LiveSegment::End)).unwrap();
        for stream in ["s", "t"] {
            let Loaded::Complete(mut history) = kind().load(&reader, stream).unwrap() else { continue };
            match history.replay(&plain()) {
                // It had the old files open.
                Ok(all) => assert!(stream == "t" || all == state, "{stream} {all:?}"),
                Err(error) => {
                    let error = error.downcast::<Error>().unwrap();
                    assert!(matches!(*error, Error::Overtaken { .. }), "{stream} {error:?}");
                    assert!(history.next().is_none());
                    overtaken.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        assert!(loaded(&store, "s", &kind()).is_none());
    });
    assert!(overtaken.load(Ordering::Relaxed) >= 1, "{overtaken:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Append { stream: usize, count: u64, fill: usize },
    Truncate { stream: usize, part: u64 },
    Delete { stream: usize },
    Retain { stream: usize, count: u64 },
    Compact { end_live: bool, sweep: bool, every: u64, keep: usize },
    Clean { keep: usize },
    Reopen,
}

fn a_step() -> impl Strategy<Value = Step> {
    let stream = 0..4_usize;
    prop_oneof![
        8 => (stream.clone(), 1..40_u64, 0..200_usize).prop_map(|(stream, count, fill)| Step::Append { stream, count, fill }),
        2 => (stream.clone(), 0..100_u64).prop_map(|(stream, part)| Step::Truncate { stream, part }),
        1 => stream.clone().prop_map(|stream| Step::Delete { stream }),
        1 => (stream, 1..20_u64).prop_map(|(stream, count)| Step::Retain { stream, count }),
        6 => (any::<bool>(), any::<bool>(), 1..30_u64, 1..4_usize)
            .prop_map(|(end_live, sweep, every, keep)| Step::Compact { end_live, sweep, every, keep }),
        1 => (1..3_usize).prop_map(|keep| Step::Clean { keep }),
        2 => Just(Step::Reopen),
    ]
}

/// A stream as it was written: all states since it was deleted last, by revision; those before are empty.
#[derive(Default)]
struct Written {
    states: Vec<Chain>,
}

impl Written {
    fn state(&self) -> Chain {
        self.states.last().copied().unwrap_or_default()
    }
}

const STREAMS: [&str; 4] = ["a-1", "a-2", "b-1", "c"];

/// What there is says the same as a plain replay of all that was ever appended, by whatever snapshot it begins.
fn check(store: &Store, written: &[Written], covered: &mut [bool; 4]) {
    for (n, stream) in STREAMS.iter().enumerate() {
        match (loaded(store, stream, &kind()), loaded(store, stream, &from_events())) {
            (Some((state, ..)), from_events) => {
                assert_eq!(state, written[n].state(), "{stream}");
                if let Some((other, ..)) = from_events {
                    assert_eq!(state, other, "{stream}");
                }
                covered[n] = true;
            }
            (None, None) => assert!(!covered[n], "{stream} was complete before"),
            (None, Some(_)) => panic!("{stream} can be folded from its events"),
        }
    }
}

fn files(memory: &Memory) -> Vec<(String, u64)> {
    let mut names = memory.list().unwrap();
    names.sort_unstable();
    names.into_iter().map(|name| (name.clone(), memory.open(&name, Access::Read).unwrap().len().unwrap())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: if std::env::var_os("ANNALS_LONG").is_some() { 5_000 } else { 60 }, ..ProptestConfig::default() })]

    #[test]
    fn a_load_gives_what_a_plain_replay_does(steps in prop::collection::vec(a_step(), 1..30)) {
        let memory = Arc::new(Memory::new());
        let open = || options().background(false).open_storage(memory.clone()).unwrap();
        let mut store = open();
        let mut written: Vec<Written> = STREAMS.iter().map(|_| Written::default()).collect();
        // A stream whose state can be made now: until it is cut, it can be ever after.
        let mut covered = [false; 4];
        let mut number = 0_u64;
        for step in steps {
            match step {
                Step::Append { stream, count, fill } => {
                    for _ in 0..count {
                        number += 1;
                        let payload = format!("{number} {}", "x".repeat(fill));
                        store.append(STREAMS[stream], Expect::Any, &[NewEvent::new("T", &payload)]).unwrap();
                        let next = written[stream].state().next(payload.as_bytes());
                        written[stream].states.push(next);
                    }
                }
                Step::Truncate { stream, part } => {
                    let last = store.stream_state(STREAMS[stream]).unwrap().last().map_or(0, Revision::get);
                    if let Some(before) = Revision::new(last * part / 100) {
                        let removed = store.truncate_before(STREAMS[stream], Expect::Any, before).unwrap();
                        // Of another kind there is none: so what reaches the cut is of this one.
                        covered[stream] &= !removed.is_unreached;
                    }
                }
                Step::Delete { stream } => {
                    if written[stream].states.is_empty() {
                        continue;
                    }
                    store.delete(STREAMS[stream], Expect::Any).unwrap();
                    written[stream] = Written::default();
                }
                Step::Retain { stream, count } => {
                    let scope = Scope::Stream(STREAMS[stream].to_owned());
                    store.set_retention(&scope, Retention::new().max_count(count)).unwrap();
                    // Whenever that is swept, no snapshot may reach so far.
                }
                Step::Compact { end_live, sweep, every, keep } => {
                    let live = if end_live { LiveSegment::End } else { LiveSegment::EndWhereRemoved };
                    let how = CompactionOptions::new().level(1).live_segment(live).sweep_first(sweep);
                    let kind = kind().every_events(every).keep(keep);
                    store.register_fold("a-", &kind, plain()).unwrap();
                    store.register_fold("c", &kind, plain()).unwrap();
                    let before = files(&memory);
                    let planned = store.compact(&how.dry_run(true)).unwrap().folds;
                    prop_assert!(end_live || before == files(&memory));
                    if sweep {
                        covered = [false; 4];
                    }
                    let report = store.compact(&how).unwrap();
                    prop_assert_eq!((planned.folded, planned.incomplete), (report.folds.folded, report.folds.incomplete));
                    prop_assert_eq!((report.folds.failed, report.notices.len()), (0, 0));
                    for stream in STREAMS.iter().filter(|stream| !stream.starts_with('b')) {
                        let listed = store.reader().snapshots_of(stream).unwrap().len();
                        // One more where it alone takes the place of what is gone.
                        prop_assert!(listed <= keep + 1, "{listed} of {stream}");
                        if !sweep && let Some((_, read, _)) = loaded(&store, stream, &kind) {
                            prop_assert!(read < every, "{stream}: {read} events were read");
                        }
                    }
                    prop_assert_eq!(store.reader().snapshots_of("b-1").unwrap().len(), 0);
                }
                Step::Clean { keep } => drop(store.clean_snapshots(&CleanSnapshots::new().keep(keep)).unwrap()),
                Step::Reopen => {
                    store.close().unwrap();
                    store = open();
                }
            }
            check(&store, &written, &mut covered);
        }
        store.close().unwrap();
        let report = annals::inspect::verify_in(&*memory, &mut |_, _| {}).unwrap();
        prop_assert!(report.is_sound(), "{:?}", report.findings);
    }
}
