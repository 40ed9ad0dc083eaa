//! Names of any bytes, clocks that jump, ids that are repeated: a property each, against the plainest of models.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use annals::{
    Batch, Durability, Error, EventId, Expect, Lookup, NewEvent, Options, Position, Query, Receipt, Seek, Store, View,
};
use annals_tests::model::{Ground, ManualClock, repetitions, seed};
use annals_tests::sim_disk::{Dice, SimDisk};

fn small() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).background(false)
}

/// Parts that make trouble elsewhere: twins under folding and normalisation, separators, endings, devices.
const PARTS: [&str; 24] = [
    "a", "A", "ß", "SS", "é", "e\u{301}", "É", "ﬁ", "fi", "..", "/", "\\", "\u{202e}", "%2e", " ", ".", "CON", "nul",
    "$", ":", "日本", "🦀", "\u{feff}", "~",
];

/// A name, or sometimes what is none.
fn name(dice: &mut Dice) -> String {
    let mut name = String::new();
    match dice.below(40) {
        0 => return String::new(),
        1 => return "x".repeat(250 + dice.index(12)),
        2 => name.push(char::from_u32(dice.below(0x20) as u32).expect("a control character")),
        3 => return "é".repeat(125 + dice.index(5)),
        _ => {}
    }
    for _ in 0..1 + dice.below(5) {
        if dice.chance(1, 4) {
            name.push(char::from_u32(dice.below(0xd800) as u32).expect("below the surrogates"));
        } else {
            name.push_str(PARTS[dice.index(PARTS.len())]);
        }
    }
    name
}

fn is_allowed(name: &str) -> bool {
    let is_control = |c: char| c <= '\u{1f}' || ('\u{7f}'..='\u{9f}').contains(&c);
    (1..=255).contains(&name.len()) && !name.starts_with('$') && !name.contains(is_control)
}

/// R17: any bytes that are allowed come back as they were; twins stay distinct; none is a path.
#[test]
fn any_name_is_kept_byte_by_byte_and_never_becomes_a_path() {
    let (seed, names) = (seed(), repetitions("ANNALS_NAMES", 10_000, 1_000_000));
    let per_store = 500;
    let (mut accepted, mut refused) = (0, 0);
    for store_number in 0..names / per_store {
        let ground = Ground::disk();
        let store = ground.open(small().durability(Durability::Buffered));
        let mut dice = Dice::of(seed, store_number);
        let mut streams = BTreeMap::<String, u64>::new();
        let mut types = BTreeMap::<String, u64>::new();
        let mut tags = BTreeMap::<String, u64>::new();
        for _ in 0..per_store {
            let (stream, event_type, tag) = (name(&mut dice), name(&mut dice), name(&mut dice));
            let list = [tag.as_str()];
            let outcome = store.append(&stream, Expect::Any, &[NewEvent::new(&event_type, b"").tags(&list)]);
            if [&stream, &event_type, &tag].into_iter().all(|name| is_allowed(name)) {
                let revision = outcome.unwrap_or_else(|error| panic!("{stream:?} {event_type:?} {tag:?}: {error}"));
                let count = streams.entry(stream).or_default();
                *count += 1;
                assert_eq!(revision.revision().get(), *count, "twins are distinct streams");
                *types.entry(event_type).or_default() += 1;
                *tags.entry(tag).or_default() += 1;
                accepted += 1;
            } else {
                assert!(matches!(outcome, Err(Error::Invalid(_))), "{stream:?} {event_type:?} {tag:?}: {outcome:?}");
                refused += 1;
            }
        }
        let check = |store: &Store| {
            let listed: Vec<_> =
                store.streams("").unwrap().into_iter().map(|s| (s.name, s.state.last().unwrap().get())).collect();
            assert_eq!(listed, streams.clone().into_iter().collect::<Vec<_>>());
            let listed: Vec<_> = store.types().unwrap().into_iter().map(|info| (info.name, info.count)).collect();
            assert_eq!(listed, types.clone().into_iter().collect::<Vec<_>>());
            for (stream, count) in streams.iter().step_by(7) {
                let events: Vec<_> = store.read_stream(stream, Seek::Beginning).unwrap().map(Result::unwrap).collect();
                assert_eq!(events.len() as u64, *count);
                assert!(events.iter().all(|event| event.stream() == stream));
            }
            for (tag, count) in tags.iter().step_by(7) {
                assert_eq!(store.count(&Query::tag(tag.as_str())).unwrap(), *count, "tag {tag:?}");
            }
        };
        check(&store);
        store.close().unwrap();
        check(&ground.open(small()));
        for entry in std::fs::read_dir(ground.path().unwrap()).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            let own = ["segment-", "manifest-", "MARK", "RING", "LOCK", "CONTROL"];
            assert!(own.iter().any(|begin| file.starts_with(begin)), "{file:?} in the store's directory");
        }
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted * 2 > refused && refused > 0);
}

/// R18: order and positions do not depend on the clock, and questions about time stay right.
#[test]
fn a_clock_may_jump_and_nothing_but_time_depends_on_it() {
    let (seed, steps) = (seed(), repetitions("ANNALS_JUMPS", 10_000, 1_000_000));
    let per_store = 250;
    let mut steps_back = 0;
    for store_number in 0..steps / per_store {
        let mut dice = Dice::of(seed, store_number);
        let clock = ManualClock::at(dice.next() >> 20);
        let disk = SimDisk::new();
        let options = || small().clock(Arc::new(clock.clone())).durability(Durability::Buffered);
        let mut disk = Arc::new(disk);
        let mut store = options().open_storage(disk.clone()).unwrap();
        let mut recorded: Vec<u64> = Vec::new();
        for step in 0..per_store {
            let last = recorded.last().copied().unwrap_or(0);
            let is_late = step > per_store * 3 / 4;
            clock.set(match dice.below(20) {
                0 => 0,
                // Once it was at the end of time it would stay there.
                1 if is_late => u64::MAX - dice.below(3) * (1 << 62),
                2 if is_late => dice.next() >> dice.below(40),
                3..8 => last.saturating_sub(dice.below(5000)),
                8..12 => last,
                _ => last.saturating_add(dice.below(5000)),
            });
            steps_back += u64::from(clock.get() < last);
            let wanted = clock.get().max(last);
            let receipt =
                store.append("s", Expect::revision(recorded.len() as u64), &[NewEvent::new("T", [0; 400].as_slice())]);
            let committed = *receipt.unwrap().first();
            assert_eq!((committed.position.get(), committed.recorded_at), (recorded.len() as u64 + 1, wanted));
            recorded.push(wanted);
            if dice.chance(1, 60) {
                if dice.chance(1, 2) {
                    store.close().unwrap();
                } else {
                    disk = Arc::new(disk.after_kill());
                }
                store = options().open_storage(disk.clone()).unwrap();
            }
            if dice.chance(1, 10) {
                check_time(&store, &recorded, &mut dice);
            }
        }
        check_time(&store, &recorded, &mut dice);
    }
    println!("{steps_back} of {steps} steps went back");
    assert!(steps_back * 10 > steps);
}

fn check_time(store: &Store, recorded: &[u64], dice: &mut Dice) {
    let about = recorded[dice.index(recorded.len())];
    for time in [0, about.saturating_sub(1), about, about.saturating_add(1), dice.next() >> 4, u64::MAX] {
        let from = recorded.partition_point(|at| *at < time);
        let upto = recorded.partition_point(|at| *at <= time);
        let wanted = (from < recorded.len()).then_some(from as u64 + 1);
        assert_eq!(store.position_at(time).unwrap().map(Position::get), wanted, "{time}");
        let first =
            |read: annals::Result<annals::Read>| read.unwrap().next().map(|event| event.unwrap().position().get());
        let before = (upto > 0).then_some(upto as u64);
        let (all, typed) = (Query::all(), Query::event_type("T"));
        assert_eq!(first(store.read_all(&all, Seek::Time(time))), wanted, "{time}");
        assert_eq!(first(store.read_all(&typed, Seek::Time(time))), wanted, "{time}");
        assert_eq!(first(store.read_stream("s", Seek::Time(time))), wanted, "{time}");
        assert_eq!(first(store.read_all_back(&all, Seek::Time(time))), before, "{time}");
        assert_eq!(first(store.read_stream_back("s", Seek::Time(time))), before, "{time}");
    }
}

/// A caller that repeats its batches until it is told they are stored.
struct Caller {
    /// Every batch ever begun: ids, the text of each event, and the answer if there was one.
    batches: Vec<Vec<(EventId, String)>>,
    answers: Vec<Option<Receipt>>,
}

impl Caller {
    fn append(&mut self, store: &Store, number: usize, dice: &mut Dice) {
        let rows = self.batches[number].clone();
        let mut batch = Batch::new();
        for (id, text) in &rows {
            batch.push("s", NewEvent::new("T", text).id(*id));
        }
        if dice.chance(1, 2) {
            batch = batch.durability(Durability::Durable);
        }
        // No expectation stands in a retry's way.
        let batch = if self.answers[number].is_some() { batch.expect("s", Expect::NoStream) } else { batch };
        let receipt = store.commit(&batch).unwrap();
        match &self.answers[number] {
            Some(before) => {
                assert!(receipt.already_committed(), "a duplicate");
                assert_eq!(receipt.events(), before.events());
            }
            None => assert!(!receipt.already_committed(), "a false duplicate"),
        }
        self.answers[number] = Some(receipt);
    }
}

/// R21: retries in any order, across kills, reopenings and rolls, store everything once.
#[test]
fn repeated_in_any_order_across_kills_and_reopenings_everything_is_stored_once() {
    let (seed, retries) = (seed(), repetitions("ANNALS_RETRIES", 10_000, 1_000_000));
    let per_store = 500;
    for store_number in 0..retries / per_store {
        let mut dice = Dice::of(seed, store_number);
        let mut disk = Arc::new(SimDisk::new());
        let options = || small().durability(Durability::Buffered);
        let mut store = options().open_storage(disk.clone()).unwrap();
        let mut caller = Caller { batches: Vec::new(), answers: Vec::new() };
        let mut rolls = 0;
        for _ in 0..per_store {
            match dice.below(100) {
                0..40 => {
                    // Ids that differ in few bits, as counters do, and in many.
                    let number = caller.batches.len() as u128;
                    let base =
                        if number.is_multiple_of(2) { number << 8 } else { number.wrapping_mul(0x9e37_79b9 << 70) };
                    let (count, len) = (1 + u128::from(dice.below(3)), dice.index(900));
                    let row = |n: u128| (EventId::from(base + n + 1), format!("{number}-{n}-{}", "y".repeat(len)));
                    let batch = (0..count).map(row).collect();
                    caller.batches.push(batch);
                    caller.answers.push(None);
                    let newest = caller.batches.len() - 1;
                    caller.append(&store, newest, &mut dice);
                }
                40..92 if !caller.batches.is_empty() => {
                    let number = dice.index(caller.batches.len());
                    caller.append(&store, number, &mut dice);
                }
                92..96 => {
                    rolls += store.stats().segments;
                    store.close().unwrap();
                    store = options().open_storage(disk.clone()).unwrap();
                }
                96..99 => {
                    rolls += store.stats().segments;
                    disk = Arc::new(disk.after_kill());
                    store = options().open_storage(disk.clone()).unwrap();
                }
                _ => drop(store.sync().unwrap()),
            }
        }
        let wanted: usize = caller.batches.iter().map(Vec::len).sum();
        let reader = store.reader_in(View::Written);
        let read = reader.read_all(&Query::all(), Seek::Beginning).unwrap().map(Result::unwrap);
        let ids: Vec<EventId> = read.map(|event| event.id()).collect();
        assert_eq!(ids.len(), wanted);
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), wanted, "each id once");
        for (batch, answer) in caller.batches.iter().zip(&caller.answers) {
            for ((id, text), committed) in batch.iter().zip(answer.as_ref().unwrap().events()) {
                let Lookup::Found(event) = reader.by_id(*id).unwrap() else { panic!("{id} is not found") };
                assert_eq!((event.position(), event.payload()), (committed.position, text.as_bytes()));
            }
        }
        assert!(rolls > 3);
    }
}
