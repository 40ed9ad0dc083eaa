//! Ids are an event's identity for ever: whatever is appended again, in whatever order and company, across clean
//! reopenings, kills and power cuts, is answered as the contract says, against a plain model. Nothing is stored twice,
//! and nothing new is taken for stored.
//!
//! `ANNALS_SEED` sets the seed, `ANNALS_RETRIES` the number of operations, `ANNALS_LONG` the long form.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use annals::{Durability, Error, EventId, Expect, Lookup, Options, Position, Query, Receipt, Seek, Store, View};
use annals_tests::model::{Ask, Attempt, Content, ManualClock, Plain, Recorded, Tally, Verdict, repetitions, seed};
use annals_tests::sim_disk::{Dice, SimDisk};

const PER_STORE: u64 = 2500;

/// Which ids callers use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdKind {
    /// Random but for version and variant.
    V4,
    /// Milliseconds, then random; many of one millisecond.
    V7,
    /// Milliseconds, then a number that goes on by one within a millisecond.
    Ulid,
    /// All with the same first eight bytes.
    SameHead,
    /// All with the same last eight bytes.
    SameTail,
    /// 0, 1, 2 and so on, or down from the largest.
    Counted,
    /// One bit set, or all but one.
    OneBit,
}

const KINDS: [IdKind; 7] =
    [IdKind::V4, IdKind::V7, IdKind::Ulid, IdKind::SameHead, IdKind::SameTail, IdKind::Counted, IdKind::OneBit];

/// Makes ids that were not made before.
struct Ids {
    /// What all ids of this store are, or a mixture.
    kind: Option<IdKind>,
    made: BTreeSet<EventId>,
    count: u128,
}

impl Ids {
    fn next(&mut self, now: u64, dice: &mut Dice, tally: &mut Tally) -> EventId {
        loop {
            let kind = self.kind.unwrap_or_else(|| KINDS[dice.index(KINDS.len())]);
            let id = EventId::from(self.make(kind, now, dice));
            if self.made.insert(id) {
                let name = match kind {
                    IdKind::V4 => "v4",
                    IdKind::V7 => "v7",
                    IdKind::Ulid => "ULID",
                    IdKind::SameHead => "same first eight bytes",
                    IdKind::SameTail => "same last eight bytes",
                    IdKind::Counted => "counted",
                    IdKind::OneBit => "one bit",
                };
                tally.count("id", name);
                return id;
            }
            // There are only 256 of them.
            if kind == IdKind::OneBit && self.kind == Some(IdKind::OneBit) && self.count > 1000 {
                self.kind = None;
            }
        }
    }

    fn make(&mut self, kind: IdKind, now: u64, dice: &mut Dice) -> u128 {
        self.count += 1;
        let random = u128::from(dice.next()) << 64 | u128::from(dice.next());
        let milliseconds = u128::from(now / 1_000_000) << 80;
        match kind {
            IdKind::V4 => random & !(0xf << 76) & !(0x3 << 62) | 4 << 76 | 2 << 62,
            IdKind::V7 => (milliseconds | random & ((1 << 80) - 1)) & !(0xf << 76) & !(0x3 << 62) | 7 << 76 | 2 << 62,
            IdKind::Ulid => milliseconds | ((0x5a5a_5a5a_5a5a << 20) + self.count),
            IdKind::SameHead => 0x0102_0304_0506_0708 << 64 | self.count,
            IdKind::SameTail => self.count << 64 | 0x0102_0304_0506_0708,
            IdKind::Counted if self.count.is_multiple_of(2) => self.count / 2 - 1,
            IdKind::Counted => u128::MAX - self.count / 2,
            IdKind::OneBit => {
                let bit = 1 << dice.below(128);
                if dice.chance(1, 2) { bit } else { !bit }
            }
        }
    }
}

/// A store on a simulated disk, its model, and callers that never know what was stored.
struct Callers {
    default: Durability,
    background: bool,
    disk: SimDisk,
    clock: ManualClock,
    store: Option<Store>,
    plain: Plain,
    /// Answers rest on the log up to here: no power cut may take it back.
    promised: u64,
    /// Batches that a power cut took back, or that a cut met in flight.
    doubtful: Vec<Attempt>,
    ids: Ids,
    dice: Dice,
    tally: Tally,
    reopens: u64,
}

impl Callers {
    fn new(seed: u64, number: u64) -> Self {
        let mut dice = Dice::of(seed, number);
        let kind = (!number.is_multiple_of(3)).then(|| KINDS[dice.index(KINDS.len())]);
        let default = if dice.chance(1, 3) { Durability::Durable } else { Durability::Buffered };
        let mut callers = Self {
            default,
            background: dice.chance(1, 4),
            disk: SimDisk::new(),
            clock: ManualClock::at(1_700_000_000_000_000_000),
            store: None,
            plain: Plain::default(),
            promised: 0,
            doubtful: Vec::new(),
            ids: Ids { kind, made: BTreeSet::new(), count: 0 },
            dice,
            tally: Tally::default(),
            reopens: 0,
        };
        callers.open();
        callers
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("a store is open")
    }

    fn open(&mut self) {
        let options = Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).durability(self.default);
        let options = options.background(self.background).clock(Arc::new(self.clock.clone()));
        self.store = Some(options.open_storage(Arc::new(self.disk.clone())).expect("the store opens"));
    }

    /// Ends the opening there is; the answers given so far are all that is known of it.
    fn end_opening(&mut self) -> Store {
        self.reopens += 1;
        self.store.take().expect("a store is open")
    }

    fn head(&self) -> u64 {
        self.store().reader_in(View::Written).head()
    }

    fn durability(&self, attempt: &Attempt) -> Durability {
        attempt.durability.unwrap_or(self.default)
    }

    /// New events with ids, or without.
    fn fresh(&mut self) -> Attempt {
        let mut attempt = Attempt { as_batch: self.dice.chance(1, 2), ..Attempt::default() };
        let with_ids = self.dice.chance(5, 6);
        for _ in 0..1 + self.dice.below(6).saturating_sub(2) {
            let id = with_ids.then(|| self.ids.next(self.clock.get(), &mut self.dice, &mut self.tally));
            attempt.events.push((self.content(), id));
        }
        attempt.durability = self.any_durability();
        attempt
    }

    fn any_durability(&mut self) -> Option<Durability> {
        [None, None, Some(Durability::Durable), Some(Durability::Buffered)][self.dice.index(4)]
    }

    fn content(&mut self) -> Content {
        let dice = &mut self.dice;
        let stream = format!("s-{}", dice.below(20));
        let len = match dice.below(60) {
            0 => 20_000 + dice.below(20_000),
            1..4 => 3000 + dice.below(6000),
            _ => dice.below(900),
        };
        Content::random(dice, stream, len)
    }

    /// Something stored, from anywhere in the history, with its id.
    fn stored(&mut self) -> Option<(Content, Option<EventId>)> {
        let head = self.plain.head();
        if head == 0 {
            return None;
        }
        let newest = self.dice.chance(1, 4);
        let from = if newest { head.saturating_sub(20) } else { 0 };
        let event = self.plain.at(from + 1 + self.dice.below(head - from)).expect("it is stored");
        Some((event.content.clone(), Some(event.id)))
    }

    /// A whole batch as it was stored, ids and all.
    fn stored_batch(&mut self) -> Option<Attempt> {
        let (_, id) = self.stored()?;
        let (event, _) = self.plain.by_id(id?, u64::MAX).expect("it is stored");
        let positions = event.batch_first..event.batch_first + u64::from(event.batch_len);
        let of = |position| self.plain.at(position).map(|event| (event.content.clone(), Some(event.id)));
        let mut attempt = Attempt { events: positions.filter_map(of).collect(), ..Attempt::default() };
        attempt.as_batch = self.dice.chance(1, 2);
        attempt.durability = self.any_durability();
        Some(attempt)
    }

    /// Stored events of several batches, in any order, none twice.
    fn gathered(&mut self) -> Option<Attempt> {
        let mut attempt = self.stored_batch()?;
        for _ in 0..1 + self.dice.below(4) {
            let other = self.stored()?;
            if attempt.events.iter().all(|(_, id)| *id != other.1) {
                attempt.events.push(other);
            }
        }
        for at in (1..attempt.events.len()).rev() {
            attempt.events.swap(at, self.dice.index(at + 1));
        }
        if self.dice.chance(1, 3) {
            attempt.events.truncate(1);
        }
        Some(attempt)
    }

    /// No expectation and no condition stands in the way of a retry, not even one that cannot hold.
    fn obstruct(&mut self, attempt: &mut Attempt) {
        if self.dice.chance(1, 3) {
            attempt.expectations.push((attempt.events[0].0.stream.clone(), Expect::NoStream));
        }
        if self.dice.chance(1, 3) {
            let ahead = Position::new(self.plain.head() + 1 + self.dice.below(9));
            attempt.conditions.push((Ask(None), if self.dice.chance(1, 2) { None } else { ahead }));
        }
    }

    /// Appends and compares the answer with the model's.
    fn append(&mut self, kind: &'static str, attempt: Attempt) {
        self.clock.set(self.clock.get() + self.dice.below(400_000));
        let verdict = self.plain.judge(&attempt);
        let outcome = if self.dice.chance(1, 3) {
            match attempt.with_batch(|batch| self.store().submit(batch)) {
                Ok(ticket) => ticket.wait(),
                Err(error) => Err(error),
            }
        } else {
            attempt.with_batch(|batch| self.store().commit(batch))
        };
        let now = self.clock.get();
        self.settle(kind, &attempt, &verdict, outcome, now);
    }

    /// The same batch twice, the second before the first is answered.
    fn append_twice(&mut self, attempt: Attempt) {
        self.clock.set(self.clock.get() + self.dice.below(400_000));
        let now = self.clock.get();
        let first = attempt.with_batch(|batch| self.store().submit(batch)).expect("a ticket");
        let second = attempt.with_batch(|batch| self.store().submit(batch)).expect("a ticket");
        let answers = if self.dice.chance(1, 2) {
            let second = second.wait();
            (first.wait(), second)
        } else {
            (first.wait(), second.wait())
        };
        let verdict = self.plain.judge(&attempt);
        self.settle("new, twice in flight", &attempt, &verdict, answers.0, now);
        let verdict = self.plain.judge(&attempt);
        self.settle("new, twice in flight", &attempt, &verdict, answers.1, now);
    }

    fn settle(
        &mut self,
        kind: &'static str,
        attempt: &Attempt,
        verdict: &Verdict,
        outcome: annals::Result<Receipt>,
        now: u64,
    ) {
        let is_durable = self.durability(attempt) == Durability::Durable;
        // A refusal rests on what the default view shows.
        let refusal_is_durable = self.default == Durability::Durable;
        let (name, rests_on) = match (verdict, &outcome) {
            (Verdict::Commit, Ok(receipt)) => {
                assert!(!receipt.already_committed(), "{kind}: a false duplicate: {receipt:?}");
                let ids: Vec<EventId> = receipt.events().iter().map(|event| event.id).collect();
                for ((_, given), id) in attempt.events.iter().zip(&ids) {
                    assert!(given.is_none_or(|given| given == *id), "{kind}: another id");
                    assert!(self.plain.by_id(*id, u64::MAX).is_none(), "{kind}: id {id} is made a second time");
                    self.ids.made.insert(*id);
                }
                let first = self.plain.head() + 1;
                self.plain.commit(attempt, &ids, now);
                self.compare(kind, receipt, &(first..=self.plain.head()).collect::<Vec<_>>());
                ("committed", if is_durable { self.plain.head() } else { 0 })
            }
            (Verdict::Already(positions), Ok(receipt)) => {
                assert!(receipt.already_committed(), "{kind}: a duplicate: {receipt:?}");
                self.compare(kind, receipt, positions);
                let newest = positions.iter().copied().max().unwrap_or(0);
                ("AlreadyCommitted", if is_durable || refusal_is_durable { newest } else { 0 })
            }
            (Verdict::Duplicate(id, at), Err(Error::DuplicateId { id: told, at: told_at })) => {
                assert_eq!((told, told_at.get()), (id, *at), "{kind}");
                ("DuplicateId", if refusal_is_durable { *at } else { 0 })
            }
            (Verdict::Partial(present, absent), Err(Error::PartialDuplicate { present: p, absent: a })) => {
                assert_eq!((p, a), (present, absent), "{kind}");
                let positions = present.iter().filter_map(|id| self.plain.by_id(*id, u64::MAX));
                let newest = positions.map(|(event, _)| event.position).max().unwrap_or(0);
                ("PartialDuplicate", if refusal_is_durable { newest } else { 0 })
            }
            _ => panic!("{kind}: {outcome:?}, the model says {verdict:?}"),
        };
        self.promised = self.promised.max(rests_on);
        self.tally.count(kind, name);
        // A thread of the store may meet the cut after the answer; a writer that has failed shows what is durable.
        let head = self.head();
        match self.disk.cut() {
            None => assert_eq!(head, self.plain.head(), "{kind}: the head"),
            Some(_) => assert!((self.promised..=self.plain.head()).contains(&head), "{kind}: the head is {head}"),
        }
    }

    /// The receipt tells the first answer: position, revision, time, id.
    fn compare(&self, kind: &str, receipt: &Receipt, positions: &[u64]) {
        let told = receipt.events().iter().map(|e| (e.position.get(), e.revision.get(), e.recorded_at, e.id));
        let stored = positions.iter().map(|position| self.plain.at(*position).expect("it is stored"));
        let wanted = stored.map(|event| (event.position, event.revision, event.recorded_at, event.id));
        assert!(told.clone().eq(wanted.clone()), "{kind}: {:?}\n{:?}", Vec::from_iter(told), Vec::from_iter(wanted));
    }

    /// Ids that are there, and ids that differ from them in one bit.
    fn look_up(&mut self) {
        let reader = self.store().reader_in(View::Written);
        for _ in 0..4 {
            let Some((_, Some(id))) = self.stored() else { return };
            let (wanted, _) = self.plain.by_id(id, u64::MAX).expect("it is stored");
            match reader.by_id(id) {
                Ok(Lookup::Found(event)) => assert_eq!(Recorded::of(event.as_event_ref()), *wanted),
                other => panic!("{id} at {}: {other:?}", wanted.position),
            }
            let near = EventId::from(u128::from_be_bytes(id.to_bytes()) ^ (1 << self.dice.below(128)));
            let found = reader.by_id(near).expect("an answer");
            match self.plain.by_id(near, u64::MAX) {
                None => assert!(matches!(found, Lookup::NotFound), "{near} was never stored"),
                Some((event, _)) => assert!(matches!(found, Lookup::Found(e) if e.position().get() == event.position)),
            }
            self.tally.count("by_id", "found");
        }
    }

    fn reopen_clean(&mut self) {
        self.end_opening().close().expect("it closes");
        self.open();
        self.promised = self.plain.head();
        assert_eq!(self.head(), self.plain.head(), "after a clean close");
        self.tally.count("reopen", "clean");
    }

    fn reopen_killed(&mut self) {
        let killed = self.disk.after_kill();
        drop(self.end_opening());
        self.disk = killed;
        self.open();
        self.promised = self.plain.head();
        assert_eq!(self.head(), self.plain.head(), "after a kill");
        self.tally.count("reopen", "killed");
    }

    /// The power goes, between two appends or in the midst of one. What no answer rested on may be lost; its callers
    /// send it again later.
    fn power_cut(&mut self) {
        let mut in_flight = None;
        if self.dice.chance(2, 3) {
            self.disk.cut_in(self.dice.below(12));
            while self.disk.cut().is_none() {
                self.clock.set(self.clock.get() + 1000);
                let mut attempt = self.fresh();
                attempt.events.iter_mut().for_each(|(content, _)| content.payload.truncate(2000));
                let outcome = attempt.with_batch(|batch| self.store().commit(batch));
                let verdict = self.plain.judge(&attempt);
                match outcome {
                    Ok(_) => {
                        let now = self.clock.get();
                        self.settle("new", &attempt, &verdict, outcome, now);
                    }
                    Err(Error::OutcomeUnknown { ids, .. }) => {
                        assert_eq!(ids.len(), attempt.events.len());
                        let as_told =
                            |(given, told): (&(_, Option<EventId>), &EventId)| given.1.is_none_or(|id| id == *told);
                        assert!(attempt.events.iter().zip(&ids).all(as_told), "{ids:?}");
                        self.tally.count("cut in an append", "OutcomeUnknown");
                        in_flight = Some((attempt, ids));
                        break;
                    }
                    Err(error) => {
                        assert!(self.disk.cut().is_some(), "{error}");
                        self.tally.count("cut in an append", "another error");
                        break;
                    }
                }
            }
        }
        let after = self.disk.after_power_loss(self.dice.next());
        let now = self.clock.get();
        drop(self.end_opening());
        self.disk = after;
        self.open();
        let head = self.head();
        if head > self.plain.head() {
            // The batch that nobody was told of is there, whole.
            let (attempt, ids) = in_flight.as_ref().expect("nothing was in flight");
            self.plain.commit(attempt, ids, now);
            self.tally.count("batch in flight", "there");
        } else if in_flight.is_some() {
            self.tally.count("batch in flight", "not there");
        }
        assert!((self.promised..=self.plain.head()).contains(&head), "{head}, promised {}", self.promised);
        let mut lost: Vec<Attempt> = Vec::new();
        for position in head + 1..=self.plain.head() {
            let event = self.plain.at(position).expect("it was stored");
            if event.batch_first == position {
                lost.push(Attempt { as_batch: event.as_batch, ..Attempt::default() });
            }
            let attempt = lost.last_mut().expect("batches are lost whole");
            attempt.events.push((event.content.clone(), Some(event.id)));
        }
        self.plain.cut(head);
        self.promised = head;
        self.tally.count("power cut", if lost.is_empty() { "nothing lost" } else { "batches lost" });
        self.doubtful.extend(lost);
        if let Some((mut attempt, ids)) = in_flight {
            // A caller without ids of its own sends it again with those it was told.
            attempt.events.iter_mut().zip(ids).for_each(|((_, id), told)| *id = Some(told));
            self.doubtful.push(attempt);
        }
    }

    fn step(&mut self) {
        match self.dice.below(1000) {
            0..360 => {
                let attempt = self.fresh();
                self.append("new", attempt);
            }
            360..390 => {
                let attempt = self.fresh();
                if attempt.events[0].1.is_some() {
                    self.append_twice(attempt);
                } else {
                    self.append("new", attempt);
                }
            }
            390..590 => {
                let Some(mut attempt) = self.stored_batch() else { return };
                self.obstruct(&mut attempt);
                self.append("again", attempt);
            }
            590..690 => {
                let Some(mut attempt) = self.gathered() else { return };
                self.obstruct(&mut attempt);
                self.append("again, gathered", attempt);
            }
            690..760 => {
                let Some(mut attempt) = self.gathered() else { return };
                let changed = self.dice.index(attempt.events.len());
                attempt.events[changed].0 = attempt.events[changed].0.changed(&mut self.dice);
                self.obstruct(&mut attempt);
                self.append("other content", attempt);
            }
            760..840 => {
                let Some(mut attempt) = self.gathered() else { return };
                for _ in 0..1 + self.dice.below(2) {
                    let id = self.ids.next(self.clock.get(), &mut self.dice, &mut self.tally);
                    let new = (self.content(), Some(id));
                    let at = self.dice.index(attempt.events.len() + 1);
                    attempt.events.insert(at, new);
                }
                self.obstruct(&mut attempt);
                self.append("partly new", attempt);
            }
            840..930 => {
                if self.doubtful.is_empty() {
                    return;
                }
                let chosen = self.dice.index(self.doubtful.len());
                let mut attempt = self.doubtful.swap_remove(chosen);
                attempt.durability = self.any_durability();
                self.append("doubtful", attempt);
            }
            930..970 => self.look_up(),
            970..976 => self.reopen_clean(),
            976..982 => self.reopen_killed(),
            982..990 => self.power_cut(),
            _ => {
                self.store().sync().expect("a sync");
                self.promised = self.plain.head();
            }
        }
    }

    /// Every event once, every id found, before and after a last reopening.
    fn finish(mut self) -> Tally {
        for reopened in [false, true] {
            if reopened {
                self.reopen_clean();
            }
            let reader = self.store().reader_in(View::Written);
            let mut stored = self.plain.shown(self.plain.head());
            for event in reader.read_all(&Query::all(), Seek::Beginning).expect("a read") {
                let event = Recorded::of(event.expect("an event").as_event_ref());
                let wanted = stored.next().expect("more than was stored");
                assert!(event == *wanted, "{}: {}", event.name(), event.differences(wanted));
            }
            assert!(stored.next().is_none(), "fewer than were stored");
            let all = || self.plain.shown(self.plain.head());
            let ids: BTreeSet<EventId> = all().map(|event| event.id).collect();
            assert_eq!(ids.len(), all().count(), "each id once");
            for event in all() {
                let found = reader.by_id(event.id);
                assert!(matches!(&found, Ok(Lookup::Found(e)) if e.position().get() == event.position), "{found:?}");
            }
            for _ in 0..50 {
                let absent = self.ids.next(self.clock.get(), &mut self.dice, &mut self.tally);
                assert!(matches!(reader.by_id(absent), Ok(Lookup::NotFound)), "{absent} was never stored");
            }
        }
        let rolls = self.store().stats().segments - 1;
        self.tally.end_history(rolls, self.reopens);
        self.tally
    }
}

/// R21: no duplicate and no false duplicate, exactly the contract's answers.
#[test]
fn whatever_is_appended_again_is_stored_once_and_answered_exactly() {
    let (seed, operations) = (seed(), repetitions("ANNALS_RETRIES", 10_000, 1_000_000));
    let begun = Instant::now();
    let mut tally = Tally::default();
    for number in 0..operations.div_ceil(PER_STORE) {
        let mut callers = Callers::new(seed, number);
        let (kind, default, background) = (callers.ids.kind, callers.default, callers.background);
        let story = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..PER_STORE).for_each(|_| callers.step());
            callers.finish()
        }));
        match story {
            Ok(of_store) => tally.add(of_store),
            Err(panic) => {
                println!("store {number}: ids {kind:?}, {default:?}, background {background}\n{tally}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{tally}\n{operations} operations in {:?}", begun.elapsed());
    // In a hundred operations at least so many; each of these must have bitten often.
    let least = [
        ("new", "committed", 30.0),
        ("new, twice in flight", "AlreadyCommitted", 1.0),
        ("again", "AlreadyCommitted", 15.0),
        ("again, gathered", "AlreadyCommitted", 8.0),
        ("other content", "DuplicateId", 5.0),
        ("partly new", "PartialDuplicate", 6.0),
        ("doubtful", "committed", 0.1),
        ("doubtful", "AlreadyCommitted", 0.02),
        ("cut in an append", "OutcomeUnknown", 0.1),
        ("power cut", "batches lost", 0.05),
        ("batch in flight", "there", 0.02),
        ("batch in flight", "not there", 0.02),
        ("reopen", "clean", 0.3),
        ("reopen", "killed", 0.3),
        ("by_id", "found", 8.0),
    ];
    for (kind, outcome, share) in least {
        let (times, wanted) = (tally.times(kind, outcome), share * operations as f64 / 100.0);
        assert!(times as f64 >= wanted, "{kind}, {outcome}: {times} times, at least {wanted} are wanted");
    }
    for kind in ["v4", "v7", "ULID", "same first eight bytes", "same last eight bytes", "counted", "one bit"] {
        assert!(tally.times("id", kind) > 0, "no id was {kind}");
    }
    assert_eq!(tally.shortcomings(&[], &[]), Vec::<String>::new());
    assert!(tally.median_rolls() >= 20, "segments must be many, so that they are sealed and merged");
}
