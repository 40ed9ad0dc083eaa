//! Consumers across closing, kills and power cuts on a simulated disk, against a plain model: what is handed out again is
//! what the model says is neither finished nor parked, for one of the states that the cut may have left.
//!
//! 150 histories, 5,000 with `ANNALS_LONG=1`; `ANNALS_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use annals::{
    Batch, Consumer, ConsumerInfo, ConsumerOptions, Delivery, Durability, Error, Expect, Failed, NewEvent, Options,
    Query, Retry, Seek, Store, View,
};
use annals_tests::crash::{Verdict, how_many, seed};
use annals_tests::ensure;
use annals_tests::sim_disk::{Dice, SimDisk};

const NOW: Duration = Duration::ZERO;
const STREAMS: [&str; 5] = ["in-a", "in-b", "in-c", "other", "in-d"];

/// What the log says of the consumer after one of its changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    exists: bool,
    /// Positions that were finished, of those that match.
    finished: BTreeSet<u64>,
    parked: BTreeSet<u64>,
    generation: u64,
}

struct History {
    dice: Dice,
    disk: SimDisk,
    options: Options,
    durability: Durability,
    /// Stream of every event, by position - 1.
    events: Vec<&'static str>,
    /// Everything that the log said, oldest first; the states from `safe` on may be what a power cut leaves.
    states: Vec<State>,
    safe: usize,
    /// Events up to here survive a power cut.
    safe_head: u64,
    /// What failed in this opening and is not resolved: it holds back its stream.
    failed: BTreeSet<u64>,
    toll: Toll,
}

#[derive(Default, Debug)]
struct Toll {
    closed: u64,
    killed: u64,
    cut: u64,
    /// Power cuts that took acknowledgements back.
    took_back: u64,
    acknowledged: u64,
    in_batches: u64,
    refused: u64,
    parked: u64,
    released: u64,
    resets: u64,
    segments_of_consumers: u64,
}

impl Toll {
    fn add(&mut self, other: &Self) {
        self.closed += other.closed;
        self.killed += other.killed;
        self.cut += other.cut;
        self.took_back += other.took_back;
        self.acknowledged += other.acknowledged;
        self.in_batches += other.in_batches;
        self.refused += other.refused;
        self.parked += other.parked;
        self.released += other.released;
        self.resets += other.resets;
        self.segments_of_consumers += other.segments_of_consumers;
    }
}

fn text(error: Error) -> String {
    error.to_string()
}

fn position(delivery: &Delivery) -> u64 {
    delivery.position().get()
}

impl History {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::of(seed, 0x434F);
        let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
        let disk = if dice.chance(1, 5) { SimDisk::new().without_shared_maps() } else { SimDisk::new() };
        let options = Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10);
        let options = options.background(false).durability(durability);
        Self {
            dice,
            disk,
            options,
            durability,
            events: Vec::new(),
            states: vec![State::default()],
            safe: 0,
            safe_head: 0,
            failed: BTreeSet::new(),
            toll: Toll::default(),
        }
    }

    fn last(&self) -> &State {
        self.states.last().expect("never empty")
    }

    /// Notes a change that stands in the log now.
    fn change(&mut self, durability: Durability, change: impl FnOnce(&mut State)) {
        let mut next = self.last().clone();
        change(&mut next);
        self.states.push(next);
        if durability == Durability::Durable {
            self.all_safe();
        }
    }

    /// One sync makes all that was written before it durable.
    fn all_safe(&mut self) {
        self.safe = self.states.len() - 1;
        self.safe_head = self.events.len() as u64;
    }

    fn matching(&self) -> BTreeSet<u64> {
        let matching = self.events.iter().zip(1..).filter(|(stream, _)| stream.starts_with("in-"));
        matching.map(|(_, position)| position).collect()
    }

    fn open(&self) -> Verdict<Store> {
        self.options.clone().open_storage(Arc::new(self.disk.clone())).map_err(text)
    }

    fn run(mut self, rounds: u64) -> Verdict<Toll> {
        let mut store = self.open()?;
        for round in 0..rounds {
            self.round(&store).map_err(|text| format!("round {round}: {text}"))?;
            store = self.end(store, round).map_err(|text| format!("end of round {round}: {text}"))?;
        }
        Ok(self.toll)
    }

    fn round(&mut self, store: &Store) -> Verdict {
        let retry = Retry::times(2).pause(NOW, NOW);
        let options = ConsumerOptions::new().query(Query::prefix("in-")).retry(retry).window(4 + self.dice.index(60));
        let consumer = store.consumer("c", options).map_err(text)?;
        let generation = consumer.generation();
        self.change(self.durability, |state| (state.exists, state.generation) = (true, generation));
        let mut held: Vec<Delivery> = Vec::new();
        self.failed.clear();
        for _ in 0..self.dice.below(40) {
            self.step(store, &consumer, &mut held)?;
        }
        Ok(())
    }

    fn step(&mut self, store: &Store, consumer: &Consumer, held: &mut Vec<Delivery>) -> Verdict {
        match self.dice.below(20) {
            0..6 => self.append(store)?,
            6..12 => {
                for _ in 0..=self.dice.below(6) {
                    let delivery = consumer.next(NOW).map_err(text)?;
                    self.note_parked(consumer);
                    if let Some(delivery) = delivery {
                        self.check_order(position(&delivery))?;
                        held.push(delivery);
                    }
                }
            }
            12..15 => self.acknowledge(consumer, held)?,
            15 | 16 => self.acknowledge_in_batch(store, held)?,
            17 => self.fail(consumer, held)?,
            18 if self.dice.chance(1, 2) => self.parked(consumer)?,
            18 => {
                store.sync().map_err(text)?;
                self.all_safe();
            }
            _ if self.dice.chance(1, 4) => self.reset(consumer, held)?,
            _ => {}
        }
        Ok(())
    }

    /// Nothing is handed out while an earlier event of its stream waits to be tried again.
    fn check_order(&self, position: u64) -> Verdict {
        let stream = |position: u64| self.events[position as usize - 1];
        let before = self.failed.range(..position).find(|failed| stream(**failed) == stream(position));
        ensure!(before.is_none(), "{position} of {} is handed out before {before:?}", stream(position));
        Ok(())
    }

    fn append(&mut self, store: &Store) -> Verdict {
        for _ in 0..=self.dice.below(4) {
            let stream = STREAMS[self.dice.index(STREAMS.len())];
            let payload = vec![7; self.dice.index(3_000)];
            let durability = if self.dice.chance(1, 3) { Durability::Durable } else { Durability::Buffered };
            store.append_with(stream, Expect::Any, &[NewEvent::new("T", &payload)], durability).map_err(text)?;
            self.events.push(stream);
            if durability == Durability::Durable {
                self.all_safe();
            }
        }
        Ok(())
    }

    /// Events of streams that have parked ones are parked when they are read: the model asks which.
    fn note_parked(&mut self, consumer: &Consumer) {
        let parked: BTreeSet<u64> = consumer.parked().iter().map(|parked| parked.position.get()).collect();
        self.failed.retain(|failed| !parked.contains(failed));
        if parked != self.last().parked {
            self.change(Durability::Buffered, |state| state.parked = parked);
        }
    }

    fn acknowledge(&mut self, consumer: &Consumer, held: &mut Vec<Delivery>) -> Verdict {
        if held.is_empty() {
            return Ok(());
        }
        let delivery = held.swap_remove(self.dice.index(held.len()));
        let durability = if self.dice.chance(1, 4) { Durability::Durable } else { Durability::Buffered };
        match consumer.ack_with(&delivery, durability) {
            Ok(()) => self.finished(&[position(&delivery)], durability),
            // Held back behind one that failed, or from before a reset: it comes again.
            Err(Error::Fenced { .. }) => self.toll.refused += 1,
            Err(error) => return Err(text(error)),
        }
        Ok(())
    }

    fn finished(&mut self, positions: &[u64], durability: Durability) {
        self.toll.acknowledged += positions.len() as u64;
        self.failed.retain(|failed| !positions.contains(failed));
        self.toll.released += positions.iter().filter(|position| self.last().parked.contains(position)).count() as u64;
        self.change(durability, |state| {
            state.finished.extend(positions);
            state.parked.retain(|parked| !positions.contains(parked));
        });
    }

    fn acknowledge_in_batch(&mut self, store: &Store, held: &mut Vec<Delivery>) -> Verdict {
        let count = self.dice.index(3).min(held.len());
        let deliveries: Vec<Delivery> = held.drain(..count).collect();
        let durability = if self.dice.chance(1, 4) { Durability::Durable } else { Durability::Buffered };
        let mut batch = Batch::new().durability(durability);
        deliveries.iter().for_each(|delivery| batch.push_acknowledgement(delivery));
        let effects = self.dice.index(3);
        (0..effects).for_each(|_| batch.push("other", NewEvent::new("Effect", b"e")));
        match store.commit(&batch) {
            Ok(receipt) => {
                ensure!(receipt.events().len() == effects, "{receipt:?}");
                self.events.extend((0..effects).map(|_| "other"));
                self.toll.in_batches += 1;
                let positions: Vec<u64> = deliveries.iter().map(position).collect();
                self.finished(&positions, durability);
            }
            Err(Error::Fenced { .. }) => self.toll.refused += 1,
            Err(Error::Empty) => ensure!(count == 0 && effects == 0, "empty"),
            Err(error) => return Err(text(error)),
        }
        let head = store.reader_in(View::Written).head();
        ensure!(head == self.events.len() as u64, "the head is {head}, of {} events", self.events.len());
        Ok(())
    }

    fn fail(&mut self, consumer: &Consumer, held: &mut Vec<Delivery>) -> Verdict {
        if held.is_empty() {
            return Ok(());
        }
        let delivery = held.swap_remove(self.dice.index(held.len()));
        match consumer.fail(&delivery, "it does not work") {
            Ok(Failed::Again(_)) => drop(self.failed.insert(position(&delivery))),
            Ok(Failed::Parked) => {
                self.toll.parked += 1;
                self.note_parked(consumer);
                ensure!(self.last().parked.contains(&position(&delivery)), "parked, and not listed");
            }
            Err(Error::Fenced { .. }) => self.toll.refused += 1,
            Err(error) => return Err(text(error)),
        }
        Ok(())
    }

    fn parked(&mut self, consumer: &Consumer) -> Verdict {
        let parked = consumer.parked();
        if parked.is_empty() {
            return Ok(());
        }
        let chosen = parked[self.dice.index(parked.len())].position;
        if self.dice.chance(1, 2) {
            consumer.replay(chosen).map_err(text)?;
            return Ok(());
        }
        match consumer.dismiss(chosen) {
            Ok(dismissed) => {
                ensure!(dismissed, "{chosen} is parked and cannot be dismissed");
                self.finished(&[chosen.get()], Durability::Buffered);
            }
            Err(Error::Invalid(_)) => {}
            Err(error) => return Err(text(error)),
        }
        Ok(())
    }

    fn reset(&mut self, consumer: &Consumer, held: &mut Vec<Delivery>) -> Verdict {
        let head = self.options_head(consumer);
        let to = self.dice.below(head + 1);
        consumer.reset(Seek::After(to)).map_err(text)?;
        held.truncate(2);
        self.failed.clear();
        let generation = consumer.generation();
        let below: BTreeSet<u64> = self.matching().into_iter().filter(|position| *position <= to).collect();
        let parked = self.last().parked.iter().copied().filter(|position| *position <= to).collect::<BTreeSet<_>>();
        self.toll.resets += 1;
        self.change(Durability::Buffered, |state| {
            state.finished = below.difference(&parked).copied().collect();
            (state.parked, state.generation) = (parked, generation);
        });
        Ok(())
    }

    /// The head of the view that the consumer reads.
    fn options_head(&self, consumer: &Consumer) -> u64 {
        consumer.checkpoint() + consumer.lag()
    }

    /// Closes, kills, or cuts the power; opens again, and judges.
    fn end(&mut self, store: Store, round: u64) -> Verdict<Store> {
        let (reborn, from) = match self.dice.below(3) {
            0 => {
                store.close().map_err(text)?;
                self.all_safe();
                self.toll.closed += 1;
                (self.disk.clone(), self.states.len() - 1)
            }
            1 => {
                let disk = self.disk.after_kill();
                drop(store);
                self.toll.killed += 1;
                (disk, self.states.len() - 1)
            }
            _ => {
                let disk = self.disk.after_power_loss(self.dice.next() ^ round);
                drop(store);
                self.toll.cut += 1;
                (disk, self.safe)
            }
        };
        self.disk = reborn;
        let beside = self.options.clone().open_read_only_storage(Arc::new(self.disk.clone()));
        // Beside nobody, the durable view may end before what recovery keeps.
        let without_lag = |consumers: Vec<ConsumerInfo>| -> Vec<_> {
            consumers.into_iter().map(|info| ConsumerInfo { lag: 0, ..info }).collect()
        };
        let listed = beside.and_then(|beside| beside.consumers()).map(without_lag);
        let store = self.open()?;
        let report = store.recovery_report();
        ensure!(report.rebuilt_indexes.iter().all(|name| !name.starts_with("consumers-")), "{report:?}");
        self.toll.segments_of_consumers +=
            self.disk.files().keys().filter(|name| name.starts_with("consumers-")).count() as u64;
        let head = store.reader_in(View::Written).head();
        ensure!(head >= self.safe_head && head <= self.events.len() as u64, "head {head}, safe to {}", self.safe_head);
        self.events.truncate(head as usize);
        let found = without_lag(store.consumers());
        match listed {
            Ok(listed) => ensure!(listed == found, "listed {listed:?}, opened {found:?}"),
            Err(error) => ensure!(!found.is_empty() || matches!(error, Error::NotAStore { .. }), "{error}"),
        }
        let state = self.judge(&store, from)?;
        if state + 1 < self.states.len() {
            self.toll.took_back += 1;
        }
        self.states.drain(..state);
        self.states.truncate(1);
        // Recovery has made all of it durable.
        self.all_safe();
        let verified = annals::inspect::verify_in(&self.disk, &mut |_, _| {}).map_err(text)?;
        ensure!(verified.is_sound(), "{verified:?}");
        Ok(store)
    }

    /// Which of the states from `from` on the store shows: what it hands out, lists as parked, and says of its generation.
    fn judge(&self, store: &Store, from: usize) -> Verdict<usize> {
        let found = store.consumers();
        let info = found.first();
        let matching = self.matching();
        // Looked at in a copy: looking changes nothing.
        let copy = self.options.clone().open_storage(Arc::new(self.disk.after_kill())).map_err(text)?;
        let (mut given, mut parked) = (BTreeSet::new(), BTreeMap::new());
        if info.is_some() {
            let options = ConsumerOptions::new().query(Query::prefix("in-")).window(1 << 16);
            let consumer = copy.consumer("c", options).map_err(text)?;
            let before: BTreeSet<u64> = consumer.parked().iter().map(|parked| parked.position.get()).collect();
            ensure!(info.is_some_and(|info| info.parked == before.len() as u64), "{info:?}, parked {before:?}");
            while let Some(delivery) = consumer.next(NOW).map_err(text)? {
                ensure!(given.insert(position(&delivery)), "{} is handed out twice", position(&delivery));
            }
            parked.extend(consumer.parked().into_iter().map(|parked| (parked.position.get(), parked.stream)));
            // What was read behind parked ones is parked now; in the log it was not.
            for position in parked.keys().filter(|position| !before.contains(position)) {
                given.insert(*position);
            }
            parked.retain(|position, _| before.contains(position));
        }
        let parked: BTreeSet<u64> = parked.into_keys().collect();
        let fits = |state: &State, next: Option<&State>| {
            let done: BTreeSet<u64> = state.finished.union(&parked).copied().collect();
            let open: BTreeSet<u64> = matching.difference(&done).copied().collect();
            // One reading may park several times, which the model hears of as one.
            let grows = |next: &State| next.finished == state.finished && parked.is_subset(&next.parked);
            let is_parked = parked == state.parked || (state.parked.is_subset(&parked) && next.is_some_and(grows));
            match info {
                None => !state.exists,
                Some(info) => {
                    let is_same = state.exists && info.generation == state.generation;
                    is_same && done.is_subset(&matching) && is_parked && given == open
                }
            }
        };
        let mut fitting =
            (from..self.states.len()).filter(|index| fits(&self.states[*index], self.states.get(index + 1)));
        fitting.next_back().ok_or_else(|| {
            let states: Vec<_> = self.states.iter().skip(from).collect();
            format!("{info:?} hands out {given:?}, parked {parked:?}; none of {states:?}")
        })
    }
}

#[test]
fn whatever_happens_a_consumer_goes_on_where_its_log_says() {
    let seed = seed("whatever_happens_a_consumer_goes_on_where_its_log_says");
    let mut total = Toll::default();
    for history in 0..how_many(150, 5_000) {
        let toll = History::new(seed.wrapping_add(history)).run(6);
        total.add(&toll.unwrap_or_else(|text| panic!("ANNALS_SEED={seed}, history {history}: {text}")));
    }
    println!("{total:#?}");
    let met = [total.took_back, total.in_batches, total.refused, total.parked, total.released, total.resets];
    assert!(
        met.iter().all(|count| *count > 0) && total.segments_of_consumers > 0,
        "something was never met: {total:?}"
    );
}
