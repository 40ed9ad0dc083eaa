//! Append conditions, guards and expectations: raced by sixteen threads, and judged against the model.
//!
//! `ANNALS_SEED` sets the seed, `ANNALS_ROUNDS` the number of rounds, `ANNALS_JUDGED` the number of judged batches,
//! `ANNALS_LONG` the long form.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Instant;

use annals::{
    Batch, Committed, Durability, Error, Expect, NewEvent, Options, Position, Query, QueryItem, Refusal, Revision,
    Seek, Store, StreamState,
};
use annals_tests::model::{
    Ask, Attempt, Content, Ground, ManualClock, Plain, Tally, Verdict, on_each_ground, repetitions, seed,
};
use annals_tests::sim_disk::{Dice, SimDisk};

const RACERS: usize = 16;

fn small() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10)
}

/// The first panic of several threads, kept until all have stopped.
#[derive(Default)]
struct Panics(Mutex<Option<Box<dyn Any + Send>>>);

impl Panics {
    fn guard(&self, work: impl FnOnce()) {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            self.0.lock().unwrap().get_or_insert(panic);
        }
    }

    fn any(&self) -> bool {
        self.0.lock().unwrap().is_some()
    }

    fn rethrow(self) {
        if let Some(panic) = self.0.into_inner().unwrap() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Round after round: all racers `read`; when all have, all `append` at once; when all have their answers, `judge` looks
/// at them while nobody runs.
fn race<T: Send, U: Send>(
    rounds: u64,
    read: impl Fn(u64, usize) -> T + Sync,
    append: impl Fn(u64, usize, T) -> U + Sync,
    judge: impl Fn(u64, BTreeMap<usize, U>) + Sync,
) {
    let (barrier, panics, stop) = (Barrier::new(RACERS), Panics::default(), AtomicBool::new(false));
    let answers = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for racer in 0..RACERS {
            let (barrier, panics, stop, answers) = (&barrier, &panics, &stop, &answers);
            let (read, append, judge) = (&read, &append, &judge);
            scope.spawn(move || {
                for round in 0..rounds {
                    let mut seen = None;
                    panics.guard(|| seen = Some(read(round, racer)));
                    barrier.wait();
                    panics.guard(|| {
                        let answer = append(round, racer, seen.expect("the racer has read"));
                        answers.lock().unwrap().insert(racer, answer);
                    });
                    if barrier.wait().is_leader() {
                        let all = std::mem::take(&mut *answers.lock().unwrap());
                        if !panics.any() {
                            panics.guard(|| judge(round, all));
                        }
                        stop.store(panics.any(), Ordering::Release);
                    }
                    barrier.wait();
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                }
            });
        }
    });
    panics.rethrow();
}

/// In memory and on disk, with answers that wait for a sync and without.
fn on_each_floor(race: impl Fn(&Store, u64)) {
    let rounds = repetitions("ANNALS_ROUNDS", 500, 10_000);
    for durability in [Durability::Buffered, Durability::Durable] {
        on_each_ground(|ground| {
            let begun = Instant::now();
            let store = ground.open(small().durability(durability));
            race(&store, rounds);
            let (segments, place) = (store.stats().segments, if ground.path().is_some() { "disk" } else { "memory" });
            println!("{durability:?} on {place}: {rounds} rounds, {segments} segments, {:?}", begun.elapsed());
            assert!(segments > rounds / 100, "the boundary must lie across segments: {segments}");
        });
    }
}

/// The one boundary, asked for in every way that a query has. Every event of the boundary matches each.
fn boundary(round: u64) -> Query {
    let tagged = || QueryItem::new().tags_all(["boundary"]);
    match round % 7 {
        0 => Query::tag("boundary"),
        1 => Query::item(tagged().types(["Taken"])),
        2 => Query::item(QueryItem::new().tags_any(["elsewhere", "boundary"])),
        3 => Query::item(QueryItem::new().types(["Never"])).or(tagged().tags_all(["seat"])),
        4 => Query::stream("boundary-1"),
        5 => Query::prefix("boundary-"),
        _ => Query::item(tagged().streams(["boundary-1"]).types(["Never", "Taken"]).tags_any(["seat"])),
    }
}

fn taken(text: &str) -> NewEvent<'_> {
    NewEvent::new("Taken", text).tags(&["seat", "boundary"])
}

/// An event that no boundary knows, so that what the racers read ends in different places, and segments roll.
fn noise(store: &Store, racer: usize) {
    let event = NewEvent::new("Noise", &[7; 1200]).tags(&["elsewhere-too"]);
    store.append_with(&format!("noise-{racer}"), Expect::Any, &[event], Durability::Buffered).unwrap();
}

/// The newest event of the boundary and the head, both of one read.
fn look(store: &Store, query: &Query) -> (Option<Position>, Option<Position>) {
    let mut read = store.read_all_back(query, Seek::End).unwrap();
    let head = Position::new(read.head());
    (read.next().map(|event| event.unwrap().position()), head)
}

/// What a racer was answered: the event it stored, or the newest match that refused it.
type Answer = Result<Committed, (Position, annals::EventId)>;

/// Commits under a condition; a refusal must name the one match, and reading again must show it.
fn append_if_unseen(store: &Store, batch: Batch<'_>, query: &Query, after: Option<Position>) -> Answer {
    match store.commit(&batch.condition(query.clone(), after)) {
        Ok(receipt) => Ok(*receipt.first()),
        Err(Error::Conflict(conflict)) => {
            let [Refusal::Condition { index: 0, after: told, newest, id }] = conflict.failed[..] else {
                panic!("{conflict:?}")
            };
            assert_eq!(told, after);
            assert!(conflict.head >= newest.get(), "{conflict:?}");
            let again = store.read_all(query, Seek::after(after)).unwrap();
            assert!(again.head() >= conflict.head, "what refused is shown");
            let seen: Vec<_> = again.map(|event| event.map(|event| (event.position(), event.id())).unwrap()).collect();
            assert_eq!(seen, [(newest, id)], "a read after the conflict sees the one event that refused");
            Err((newest, id))
        }
        Err(error) => panic!("{error}"),
    }
}

/// Exactly one winner, and every other was told of it.
fn one_winner(round: u64, answers: &BTreeMap<usize, Answer>) -> Committed {
    let winners: Vec<_> = answers.values().filter_map(|answer| answer.ok()).collect();
    let [winner] = winners[..] else { panic!("round {round}: {} winners: {winners:?}", winners.len()) };
    for (racer, answer) in answers {
        if let Err(told) = answer {
            assert_eq!(
                *told,
                (winner.position, winner.id),
                "round {round}: racer {racer} was refused by another event"
            );
        }
    }
    winner
}

/// R22: all have read the same boundary; one append goes through.
#[test]
fn sixteen_racers_on_one_boundary_one_wins_and_the_others_are_told_of_it() {
    on_each_floor(|store, rounds| {
        let last = Mutex::new(None);
        race(
            rounds,
            |round, racer| {
                let query = boundary(round);
                let (newest, head) = look(store, &query);
                assert_eq!(newest, *last.lock().unwrap(), "the winner of the round before is seen by all");
                if round % 4 == racer as u64 % 4 {
                    noise(store, racer);
                }
                (query, head)
            },
            |round, racer, (query, head)| {
                let text = format!("{round} by {racer}");
                append_if_unseen(store, Batch::new().event("boundary-1", taken(&text)), &query, head)
            },
            |round, answers| {
                assert_eq!(answers.len(), RACERS);
                let winner = one_winner(round, &answers);
                assert_eq!(winner.revision.get(), round + 1);
                *last.lock().unwrap() = Some(winner.position);
            },
        );
        assert_eq!(store.count(&Query::tag("boundary")).unwrap(), rounds);
    });
}

/// Some come with an expectation on the boundary's stream, some with a condition, some with both: still one wins.
#[test]
fn expectations_and_conditions_on_one_boundary_exclude_each_other() {
    on_each_floor(|store, rounds| {
        race(
            rounds,
            |round, racer| {
                let query = boundary(round);
                let (_, head) = look(store, &query);
                if round % 4 == racer as u64 % 4 {
                    noise(store, racer);
                }
                (query, head)
            },
            |round, racer, (query, head)| {
                let (text, own) = (format!("{round} by {racer}"), format!("of-{racer}"));
                let (by_stream, by_query) = (racer % 3 != 0, racer % 3 != 1);
                let mut batch = Batch::new().event(&own, NewEvent::new("Tried", b"")).event("boundary-1", taken(&text));
                if by_stream {
                    batch = batch.expect("boundary-1", Expect::revision(round));
                }
                if by_query {
                    batch = batch.condition(query.clone(), head);
                }
                match store.commit(&batch) {
                    Ok(receipt) => {
                        assert_eq!(receipt.revision().get(), round + 1);
                        Ok(*receipt.last())
                    }
                    Err(Error::Conflict(conflict)) => {
                        assert_eq!(
                            conflict.failed.len(),
                            usize::from(by_stream) + usize::from(by_query),
                            "all failures"
                        );
                        let last = Revision::new(round + 1).unwrap();
                        for refusal in &conflict.failed {
                            match refusal {
                                Refusal::Stream { stream, expected, actual } => {
                                    assert_eq!((&**stream, *expected), ("boundary-1", Expect::revision(round)));
                                    assert_eq!(*actual, StreamState::Live { first: Revision::FIRST, last });
                                }
                                Refusal::Condition { index, after, .. } => assert_eq!((*index, *after), (0, head)),
                            }
                        }
                        assert_eq!(store.stream_state("boundary-1").unwrap().last(), Some(last), "it is shown");
                        let seen = store.last(&query).unwrap().expect("it is shown");
                        for refusal in &conflict.failed {
                            if let Refusal::Condition { newest, id, .. } = refusal {
                                assert_eq!((seen.position(), seen.id()), (*newest, *id));
                            }
                        }
                        Err((seen.position(), seen.id()))
                    }
                    Err(error) => panic!("{error}"),
                }
            },
            |round, answers| {
                one_winner(round, &answers);
            },
        );
        assert_eq!(store.count(&Query::event_type("Tried")).unwrap(), rounds, "the losers wrote nothing");
    });
}

/// Each racer guards the stream of its neighbour and writes its own. Whoever wins must have come before its neighbour;
/// so never do all win (write skew), and a loser's neighbour has won.
#[test]
fn guards_on_the_neighbours_stream_allow_no_write_skew() {
    let (all_rounds, won) = (AtomicU64::new(0), AtomicU64::new(0));
    on_each_floor(|store, rounds| {
        let neighbour = |racer: usize| format!("own-{}", (racer + 1) % RACERS);
        race(
            rounds,
            |_, racer| store.stream_state(&neighbour(racer)).unwrap().last().map_or(0, Revision::get),
            |_, racer, seen| {
                let (own, guarded) = (format!("own-{racer}"), neighbour(racer));
                let payload = [racer as u8; 700];
                let batch = Batch::new().event(&own, NewEvent::new("Moved", &payload));
                match store.commit(&batch.expect(&guarded, Expect::revision(seen))) {
                    Ok(receipt) => Ok(receipt.position()),
                    Err(Error::Conflict(conflict)) => {
                        let last = Revision::new(seen + 1).unwrap();
                        let refusal = Refusal::Stream {
                            stream: guarded.clone(),
                            expected: Expect::revision(seen),
                            actual: StreamState::Live { first: Revision::FIRST, last },
                        };
                        assert_eq!(conflict.failed, [refusal]);
                        assert_eq!(store.stream_state(&guarded).unwrap().last(), Some(last), "what refused is shown");
                        Err(())
                    }
                    Err(error) => panic!("{error}"),
                }
            },
            |round, answers| {
                let winners = answers.values().filter(|answer| answer.is_ok()).count();
                assert!((1..RACERS).contains(&winners), "round {round}: {winners} winners");
                for (racer, answer) in &answers {
                    match (answer, &answers[&((racer + 1) % RACERS)]) {
                        (Ok(own), Ok(next)) => assert!(own < next, "round {round}: {racer} saw a stale neighbour"),
                        (Err(()), Err(())) => panic!("round {round}: {racer} was refused, and its neighbour as well"),
                        _ => {}
                    }
                }
                won.fetch_add(winners as u64, Ordering::Relaxed);
            },
        );
        all_rounds.fetch_add(rounds, Ordering::Relaxed);
    });
    println!("{} of {} guarded appends won", won.into_inner(), all_rounds.into_inner() * RACERS as u64);
}

/// Nobody waits for anybody: read, decide, append, again after a conflict. No update is lost.
#[test]
fn a_counter_that_sixteen_racers_advance_counts_every_step() {
    let conflicts = AtomicU64::new(0);
    on_each_floor(|store, rounds| {
        let panics = Panics::default();
        let each = rounds / RACERS as u64;
        std::thread::scope(|scope| {
            for racer in 0..RACERS {
                let (panics, conflicts) = (&panics, &conflicts);
                scope.spawn(move || {
                    panics.guard(|| {
                        for step in 0..each {
                            noise(store, racer);
                            let query = boundary(step + racer as u64);
                            loop {
                                let mut read = store.read_all_back(&query, Seek::End).unwrap();
                                let head = Position::new(read.head());
                                let newest = read.next().map(|event| event.unwrap());
                                let number: u64 = newest
                                    .map_or(0, |event| std::str::from_utf8(event.payload()).unwrap().parse().unwrap());
                                let text = (number + 1).to_string();
                                let batch = Batch::new().event("boundary-1", taken(&text));
                                // Others come between the look and the append.
                                std::thread::yield_now();
                                match store.commit(&batch.condition(query.clone(), head)) {
                                    Ok(_) => break,
                                    Err(Error::Conflict(_)) => conflicts.fetch_add(1, Ordering::Relaxed),
                                    Err(error) => panic!("{error}"),
                                };
                            }
                        }
                    });
                });
            }
        });
        panics.rethrow();
        let numbers = store.read_stream("boundary-1", Seek::Beginning).unwrap();
        let numbers: Vec<u64> =
            numbers.map(|event| std::str::from_utf8(event.unwrap().payload()).unwrap().parse().unwrap()).collect();
        assert!(numbers.iter().copied().eq(1..=each * RACERS as u64), "{numbers:?}");
    });
    let conflicts = conflicts.into_inner();
    println!("{conflicts} conflicts");
    assert!(conflicts > 100, "nobody raced");
}

/// A store and its model, for batches that carry conditions.
struct Judged {
    disk: SimDisk,
    clock: ManualClock,
    default: Durability,
    background: bool,
    store: Store,
    plain: Plain,
    dice: Dice,
    tally: Tally,
    reopens: u64,
}

impl Judged {
    fn new(seed: u64, number: u64) -> Self {
        let mut dice = Dice::of(seed, number);
        let default = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
        let (disk, clock, background) = (SimDisk::new(), ManualClock::at(1 << 60), dice.chance(1, 4));
        let store = Self::open(&disk, &clock, default, background);
        let (plain, tally) = (Plain::default(), Tally::default());
        Self { disk, clock, default, background, store, plain, dice, tally, reopens: 0 }
    }

    fn open(disk: &SimDisk, clock: &ManualClock, default: Durability, background: bool) -> Store {
        let options = small().durability(default).background(background).clock(Arc::new(clock.clone()));
        options.open_storage(Arc::new(disk.clone())).expect("the store opens")
    }

    fn reopen(&mut self) {
        self.reopens += 1;
        if self.dice.chance(1, 2) {
            self.disk = self.disk.after_kill();
        } else {
            self.store.clone().close().expect("it closes");
        }
        self.store = Self::open(&self.disk, &self.clock, self.default, self.background);
        assert_eq!(self.store.head(), self.plain.head());
    }

    fn after(&mut self) -> Option<Position> {
        let head = self.plain.head();
        let after = match self.dice.below(20) {
            0..2 => return None,
            2..5 => self.dice.below(head + 1),
            5..11 => head.saturating_sub(self.dice.below(6)),
            11..19 => head,
            _ => head + 1 + (self.dice.next() >> (4 + self.dice.below(59))),
        };
        Position::new(after)
    }

    fn attempt(&mut self) -> Attempt {
        let mut attempt = Attempt { as_batch: true, ..Attempt::default() };
        for n in 0..1 + self.dice.below(3) {
            let stream = ["a", "a-1", "a-10", "b", "acc", "acc-1"][self.dice.index(6)].to_owned();
            let len = self.dice.below(1100);
            let stream = if self.dice.chance(1, 30) { format!("u-{}", self.plain.head() + n) } else { stream };
            attempt.events.push((Content::random(&mut self.dice, stream, len), None));
        }
        for _ in 0..1 + self.dice.below(6).saturating_sub(3) {
            let ask = if self.dice.chance(2, 3) { Ask::random(&mut self.dice) } else { Ask::narrow(&mut self.dice) };
            let after = self.after();
            attempt.conditions.push((ask, after));
        }
        if self.dice.chance(1, 4) {
            // A guard, or an expectation if the batch happens to write that stream.
            let stream = ["a", "a-1", "b", "z", "acc-1"][self.dice.index(5)].to_owned();
            let last = self.plain.state(&stream, self.plain.head()).last();
            let expect = match self.dice.below(8) {
                0 => Expect::NoStream,
                1 => Expect::Exists,
                2 => Expect::revision(self.dice.below(40)),
                _ => last.map_or(Expect::Vacant, Expect::At),
            };
            attempt.expectations.push((stream, expect));
        }
        if self.dice.chance(1, 3) {
            attempt.durability = Some(if self.dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered });
        }
        attempt
    }

    fn step(&mut self) {
        if self.dice.chance(1, 80) {
            self.reopen();
        }
        self.clock.set(self.clock.get() + self.dice.below(1000));
        let attempt = self.attempt();
        let verdict = self.plain.judge(&attempt);
        let outcome = attempt.with_batch(|batch| self.store.commit(batch));
        let refused: Vec<usize> = match (&verdict, &outcome) {
            (Verdict::Commit, Ok(receipt)) => {
                let ids: Vec<_> = receipt.events().iter().map(|event| event.id).collect();
                self.plain.commit(&attempt, &ids, self.clock.get());
                assert_eq!(receipt.position().get(), self.plain.head());
                self.tally.count("append", "committed");
                Vec::new()
            }
            (Verdict::Ahead(given, head), Err(Error::AheadOfLog { given: told, head: told_head })) => {
                assert_eq!((told, told_head), (given, head));
                self.tally.count("append", "AheadOfLog");
                return;
            }
            (Verdict::Conflict(head, failed), Err(Error::Conflict(conflict))) => {
                assert_eq!((conflict.head, &conflict.failed), (*head, failed));
                self.tally.count("append", "Conflict");
                let of_conditions = failed.iter().filter_map(|refusal| match refusal {
                    Refusal::Condition { index, newest, id, .. } => {
                        // What refused is shown by the ordinary view, whatever its durability was.
                        let seen =
                            self.store.last(&attempt.conditions[*index].0.query()).unwrap().expect("it is shown");
                        assert_eq!((seen.position(), seen.id()), (*newest, *id));
                        Some(*index)
                    }
                    Refusal::Stream { .. } => None,
                });
                of_conditions.collect()
            }
            _ => panic!("{outcome:?}, the model says {verdict:?}\n{attempt:?}"),
        };
        assert_eq!(self.store.reader_in(annals::View::Written).head(), self.plain.head());
        for (index, (ask, after)) in attempt.conditions.iter().enumerate() {
            let outcome = if refused.contains(&index) { "refused" } else { "held" };
            for part in parts(ask) {
                self.tally.count(part, outcome);
            }
            let since = match after.map_or(0, Position::get) {
                0 => "after nothing",
                given if given == self.plain.head() => "after the head",
                _ => "after a position",
            };
            self.tally.count(since, outcome);
        }
    }
}

const PARTS: [&str; 7] = ["all", "streams", "prefixes", "types", "tags all of", "tags any of", "several items"];

/// What a query is made of.
fn parts(ask: &Ask) -> Vec<&'static str> {
    let Some(items) = &ask.0 else { return vec![PARTS[0]] };
    let has = |is: bool, name| is.then_some(name);
    let of_items = items.iter().flat_map(|item| {
        [
            has(!item.streams.is_empty(), PARTS[1]),
            has(!item.prefixes.is_empty(), PARTS[2]),
            has(!item.types.is_empty(), PARTS[3]),
            has(!item.tags_all.is_empty(), PARTS[4]),
            has(!item.tags_any.is_empty(), PARTS[5]),
        ]
    });
    of_items.chain([has(items.len() > 1, PARTS[6])]).flatten().collect()
}

/// Any query, any `after`, beside guards: exactly the model's answers.
#[test]
fn every_condition_is_judged_as_a_scan_of_the_model_judges_it() {
    let (seed, batches) = (seed(), repetitions("ANNALS_JUDGED", 10_000, 1_000_000));
    let (per_store, begun) = (500, Instant::now());
    let mut tally = Tally::default();
    for number in 0..batches.div_ceil(per_store) {
        let mut judged = Judged::new(seed, number);
        (0..per_store).for_each(|_| judged.step());
        judged.reopen();
        let rolls = judged.store.stats().segments - 1;
        judged.tally.end_history(rolls, judged.reopens);
        tally.add(judged.tally);
    }
    println!("{tally}\n{batches} batches in {:?}", begun.elapsed());
    let least = |kind: &str, outcome: &str, share: u64| {
        let times = tally.times(kind, outcome);
        assert!(
            times * 1000 >= share * batches,
            "{kind}, {outcome}: {times} times of {batches}, {share} of 1000 wanted"
        );
    };
    least("append", "AheadOfLog", 20);
    least("append", "Conflict", 250);
    for kind in PARTS.into_iter().chain(["after nothing", "after a position"]) {
        least(kind, "refused", 20);
    }
    for kind in PARTS[1..].iter().chain(&["after a position", "after the head"]) {
        least(kind, "held", 20);
    }
    assert_eq!(tally.shortcomings(&[], &[]), Vec::<String>::new());
}

/// A query that asks for nothing or for a name that cannot be is refused before anything is judged.
#[test]
fn a_condition_with_a_query_that_cannot_be_is_invalid() {
    let store = Ground::memory().open(small());
    store.append("a", Expect::NoStream, &[NewEvent::new("T", b"").id(7u128)]).unwrap();
    let bad = [
        Query::item(QueryItem::new()),
        Query::tag("t").or(QueryItem::new()),
        Query::tag(""),
        Query::stream("a\nb"),
        Query::event_type("x".repeat(256)),
        Query::item(QueryItem::new().tags_any(["fine", "\u{7f}"])),
    ];
    for query in bad {
        for after in [None, Position::new(1), Position::new(99)] {
            let batch = Batch::new().event("a", NewEvent::new("T", b"").id(7u128));
            // Form comes before ids, and before `after` is looked at.
            let outcome = store.commit(&batch.expect("a", Expect::NoStream).condition(query.clone(), after));
            assert!(matches!(outcome, Err(Error::Invalid(_))), "{query:?}: {outcome:?}");
        }
    }
    assert_eq!(store.head(), 1);
}
