//! Snapshots in random histories against a plain model: appends, truncations, deletions, saves, clean-ups, reopenings, with
//! kills, power cuts and failing operations at any of them; asked through the store, beside it, and of the past. Whatever was
//! saved and acknowledged is there, what is loaded is the whole stream or nothing, and no state is ever wrong.
//!
//! 150 histories, 10,000 with `ANNALS_LONG=1`; `ANNALS_SEED` repeats a run.

use std::collections::BTreeMap;
use std::sync::Arc;

use annals::{
    AsOf, CleanSnapshots, Durability, Error, Expect, Loaded, NewEvent, Options, ReadEvents, ReadMode, Reader, Revision,
    Snapshots, Store, View, inspect,
};
use annals_tests::crash::{Verdict, how_many, seed, small};
use annals_tests::ensure;
use annals_tests::sim_disk::{Call, Dice, FaultKind, Repeat, SimDisk, WriteKind};

const STREAMS: [&str; 4] = ["account-1", "account-2", "cart-1", "cart-2"];
const SCHEMAS: [u32; 2] = [1, 2];

/// What takes a position.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    Append {
        stream: usize,
        value: u64,
    },
    /// Hides all up to this revision.
    Truncate {
        stream: usize,
        upto: u64,
    },
    Delete {
        stream: usize,
    },
    Tombstone {
        stream: usize,
    },
}

/// How sure it is that a saved snapshot is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sure {
    /// It was never acknowledged, or something happened that may have taken it.
    Maybe,
    /// Acknowledged as buffered: a kill does not take it.
    Buffered,
    Durable,
}

#[derive(Clone, Debug)]
struct Saved {
    stream: usize,
    schema: u32,
    revision: u64,
    position: u64,
    state: Vec<u64>,
    sure: Sure,
}

/// A stream as of a head.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// What was appended up to that head, by revision.
    values: Vec<u64>,
    /// Position of each revision, up to that head.
    positions: Vec<u64>,
    deleted: u64,
    hidden: u64,
    is_tombstoned: bool,
}

impl Facts {
    fn last(&self) -> u64 {
        (self.positions.len() as u64).max(self.hidden)
    }

    fn first(&self) -> u64 {
        self.hidden + 1
    }

    fn is_cut(&self) -> bool {
        self.last() > self.deleted && self.first() > self.deleted + 1
    }

    fn counts(&self, saved: &Saved, head: u64) -> bool {
        saved.position <= head && saved.revision > self.deleted && saved.revision <= self.last()
    }

    fn reaches(&self, saved: &Saved) -> bool {
        saved.revision + 1 >= self.first()
    }
}

#[derive(Clone, Default, Debug)]
struct Toll {
    saved: u64,
    refused: u64,
    complete: u64,
    with_snapshot: u64,
    incomplete: u64,
    cleaned: u64,
    dropped: u64,
    kills: u64,
    closes: u64,
    cuts: u64,
    faults: u64,
    lost: u64,
    /// What of snapshots was being written, synced or named when the power went.
    cut: BTreeMap<(WriteKind, Call), u64>,
}

impl Toll {
    fn add(&mut self, other: Self) {
        let Self { saved, refused, complete, with_snapshot, incomplete, cleaned, dropped, .. } = other;
        self.saved += saved;
        self.refused += refused;
        self.complete += complete;
        self.with_snapshot += with_snapshot;
        self.incomplete += incomplete;
        self.cleaned += cleaned;
        self.dropped += dropped;
        self.kills += other.kills;
        self.closes += other.closes;
        self.cuts += other.cuts;
        self.faults += other.faults;
        self.lost += other.lost;
        for (what, count) in other.cut {
            *self.cut.entry(what).or_default() += count;
        }
    }
}

#[derive(Clone)]
struct History {
    dice: Dice,
    disk: SimDisk,
    options: Options,
    durability: Durability,
    ops: Vec<Op>,
    /// What was being appended when something failed: it may have been written.
    in_flight: Option<Op>,
    /// Up to here a power cut takes nothing.
    safe: u64,
    saved: Vec<Saved>,
    next_value: u64,
    toll: Toll,
}

fn text(error: Error) -> String {
    error.to_string()
}

fn kind(schema: u32) -> Snapshots {
    Snapshots::of("total", schema)
}

fn bytes_of(state: &[u64]) -> Vec<u8> {
    state.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn values_of(state: &[u8]) -> Vec<u64> {
    state.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}

impl History {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::of(seed, 0x534E);
        let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
        let mode = if dice.chance(1, 2) { ReadMode::Mapped } else { ReadMode::Pread };
        let disk = if dice.chance(1, 5) { SimDisk::new().without_shared_maps() } else { SimDisk::new() };
        Self {
            dice,
            disk,
            options: small(durability, mode),
            durability,
            ops: Vec::new(),
            in_flight: None,
            safe: 0,
            saved: Vec::new(),
            next_value: 0,
            toll: Toll::default(),
        }
    }

    fn facts(&self, stream: usize, head: u64) -> Facts {
        let mut facts = Facts::default();
        let mut revisions = 0;
        for (op, position) in self.ops.iter().zip(1..) {
            match op {
                Op::Append { stream: of, value } if *of == stream => {
                    revisions += 1;
                    if position <= head {
                        facts.values.push(*value);
                        facts.positions.push(position);
                    }
                }
                Op::Truncate { stream: of, upto } if *of == stream => facts.hidden = facts.hidden.max(*upto),
                Op::Delete { stream: of } | Op::Tombstone { stream: of } if *of == stream => {
                    facts.deleted = revisions;
                    facts.hidden = facts.hidden.max(revisions);
                    facts.is_tombstoned |= matches!(op, Op::Tombstone { .. });
                }
                _ => {}
            }
        }
        facts
    }

    fn head(&self) -> u64 {
        self.ops.len() as u64
    }

    fn run(mut self, rounds: u64) -> Verdict<Toll> {
        for round in 0..rounds {
            self.round().map_err(|text| format!("round {round}: {text}"))?;
        }
        Ok(self.toll)
    }

    fn round(&mut self) -> Verdict {
        let opened = self.options.clone().open_storage(Arc::new(self.disk.clone()));
        let store = opened.map_err(|error| format!("opening: {error}"))?;
        self.settle(&store)?;
        self.ask(&store)?;
        let steps = self.disk.steps();
        let trouble = self.dice.below(4);
        match trouble {
            0 => self.disk.cut_at(steps + self.dice.below(60)),
            1 => {
                let kinds = [FaultKind::Eio, FaultKind::Enospc, FaultKind::ShortWrite, FaultKind::SyncFail];
                let repeat = if self.dice.chance(1, 6) { Repeat::Forever } else { Repeat::Once };
                let kind = kinds[self.dice.index(kinds.len())];
                self.disk.fail_at(steps + self.dice.below(40), kind, repeat);
            }
            _ => {}
        }
        let count = 10 + self.dice.below(30);
        let is_over = self.steps(&store, count)?;
        if !is_over && trouble > 1 {
            self.ask(&store)?;
            self.beside()?;
        }
        self.end(store, trouble)
    }

    /// So many steps, or until the power is cut or the writer has stopped.
    fn steps(&mut self, store: &Store, count: u64) -> Verdict<bool> {
        for _ in 0..count {
            let hit = self.disk.faults_hit();
            let answer = self.step(store);
            if self.disk.faults_hit() > hit {
                self.toll.faults += 1;
                self.doubt();
            }
            if self.disk.cut().is_some() || self.in_flight.is_some() {
                return Ok(true);
            }
            answer?;
        }
        Ok(false)
    }

    /// A script that follows from the seed alone: a new store, some steps, a close. Answers whether it came to its end.
    fn script(&mut self) -> Verdict<bool> {
        let opened = self.options.clone().open_storage(Arc::new(self.disk.clone()));
        let Ok(store) = opened else { return Ok(false) };
        if self.steps(&store, 25)? {
            return Ok(false);
        }
        Ok(store.close().is_ok())
    }

    /// What is left after the script, opened, asked, gone on with, and cleaned up.
    fn aftermath(mut self, disk: SimDisk) -> Verdict {
        self.disk = disk;
        let opened = self.options.clone().open_storage(Arc::new(self.disk.clone()));
        let store = opened.map_err(|error| format!("opening: {error}"))?;
        self.settle(&store)?;
        self.ask(&store)?;
        self.steps(&store, 4)?;
        self.clean(&store)?;
        self.ask(&store)?;
        store.close().map_err(text)?;
        let report = inspect::verify_in(&self.disk, &mut |_, _| {}).map_err(text)?;
        ensure!(report.is_sound(), "{:?}", report.findings);
        Ok(())
    }

    /// What is not durable may be gone.
    fn doubt(&mut self) {
        for saved in self.saved.iter_mut().filter(|saved| saved.sure == Sure::Buffered) {
            saved.sure = Sure::Maybe;
        }
    }

    fn end(&mut self, store: Store, trouble: u64) -> Verdict {
        if let Some(cut) = self.disk.cut() {
            self.toll.cuts += 1;
            if cut.kind == WriteKind::Snapshots || cut.kind == WriteKind::Manifest {
                *self.toll.cut.entry((cut.kind, cut.call)).or_default() += 1;
            }
            drop(store);
            self.doubt();
            self.disk = self.disk.after_power_loss(self.dice.next());
            return Ok(());
        }
        let has_faults = trouble == 1;
        self.disk.clear_faults();
        match self.dice.below(3) {
            0 if !has_faults && self.in_flight.is_none() => {
                self.toll.closes += 1;
                let answer = store.close();
                if self.disk.cut().is_some() {
                    self.toll.cuts += 1;
                    self.doubt();
                    self.disk = self.disk.after_power_loss(self.dice.next());
                    return Ok(());
                }
                answer.map_err(|error| format!("closing: {error}"))?;
                // Without the cut that was to come.
                self.disk = self.disk.after_kill();
                self.safe = self.head();
                let buffered = self.saved.iter_mut().filter(|saved| saved.sure == Sure::Buffered);
                buffered.for_each(|saved| saved.sure = Sure::Durable);
            }
            1 => {
                self.toll.cuts += 1;
                let lost = self.disk.after_power_loss(self.dice.next());
                drop(store);
                self.disk = lost;
                self.doubt();
            }
            _ => {
                self.toll.kills += 1;
                let killed = self.disk.after_kill();
                drop(store);
                self.disk = killed;
            }
        }
        Ok(())
    }

    /// After an opening: which of what was in doubt is there.
    fn settle(&mut self, store: &Store) -> Verdict {
        let head = store.head();
        if let Some(op) = self.in_flight.take()
            && head > self.head()
        {
            self.ops.push(op);
        }
        ensure!(head <= self.head(), "{head} records are shown, {} were appended", self.head());
        ensure!(head >= self.safe, "{head} records are shown, {} were durable", self.safe);
        if head < self.head() {
            self.toll.lost += 1;
            self.ops.truncate(head as usize);
            let gone = self.saved.iter().find(|saved| saved.position > head && saved.sure != Sure::Maybe);
            ensure!(gone.is_none(), "{gone:?} names what was not durable");
        }
        self.safe = head;
        let listed = store.snapshots("").map_err(text)?;
        let key = |saved: &Saved| (saved.stream, saved.schema, saved.revision, saved.position);
        let all = std::mem::take(&mut self.saved);
        let all: Vec<Saved> = all.into_iter().filter(|saved| self.counts_at(saved, head)).collect();
        for mut saved in all.iter().cloned() {
            let is_it = |info: &&annals::SnapshotInfo| {
                (info.stream.as_str(), info.schema, info.revision.get(), info.position.get())
                    == (STREAMS[saved.stream], saved.schema, saved.revision, saved.position)
            };
            let there = listed.iter().filter(is_it).count();
            let alike = || all.iter().filter(|other| key(other) == key(&saved));
            let sure = alike().filter(|other| other.sure != Sure::Maybe).count();
            ensure!(there >= sure, "{saved:?} was acknowledged and is gone: {there} of {sure} are left");
            if saved.sure == Sure::Maybe && there == sure {
                continue;
            }
            // What is shown after an opening stays: it is whole. Of several alike it may not be known which is gone.
            if there == alike().count() {
                saved.sure = saved.sure.max(Sure::Buffered);
            }
            self.saved.push(saved);
        }
        let known = |info: &annals::SnapshotInfo| {
            self.saved.iter().any(|saved| {
                info.stream == STREAMS[saved.stream]
                    && (info.schema, info.revision.get()) == (saved.schema, saved.revision)
            })
        };
        let unknown = listed.iter().find(|info| !known(info));
        ensure!(unknown.is_none(), "{unknown:?} was never saved");
        Ok(())
    }

    fn counts_at(&self, saved: &Saved, head: u64) -> bool {
        saved.position <= head && self.facts(saved.stream, head).counts(saved, head)
    }

    fn step(&mut self, store: &Store) -> Verdict {
        let stream = self.dice.index(STREAMS.len());
        match self.dice.below(20) {
            0..8 => self.append(store, stream),
            8..14 => self.save(store, stream),
            14 | 15 => self.remove(store, stream),
            16 => self.clean(store),
            17 => {
                if store.sync().is_ok() {
                    self.safe = self.head();
                }
                Ok(())
            }
            _ => {
                if self.disk.faults_hit() == 0 && self.disk.cut().is_none() {
                    let answer = self.ask(store);
                    // The power may go while it is asked.
                    if self.disk.cut().is_none() && self.disk.faults_hit() == 0 { answer } else { Ok(()) }
                } else {
                    Ok(())
                }
            }
        }
    }

    fn append(&mut self, store: &Store, stream: usize) -> Verdict {
        if self.facts(stream, self.head()).is_tombstoned {
            return Ok(());
        }
        self.next_value += 1;
        let value = self.next_value;
        let mut payload = value.to_le_bytes().to_vec();
        payload.resize(8 + self.dice.index(1500), 3);
        let durability = if self.dice.chance(1, 3) { Durability::Durable } else { self.durability };
        let op = Op::Append { stream, value };
        let answer = store.append_with(STREAMS[stream], Expect::Any, &[NewEvent::new("Added", &payload)], durability);
        self.note(op, answer.map(|_| ()), durability)
    }

    /// What became of something that takes a position.
    fn note(&mut self, op: Op, answer: annals::Result<()>, durability: Durability) -> Verdict {
        match answer {
            Ok(()) => {
                self.ops.push(op);
                if durability == Durability::Durable {
                    self.safe = self.head();
                }
                Ok(())
            }
            Err(Error::NoSpace { .. } | Error::Io { .. }) if self.disk.faults_hit() > 0 => Ok(()),
            Err(error) => {
                ensure!(self.disk.faults_hit() > 0 || self.disk.cut().is_some(), "appending: {error}");
                self.in_flight = Some(op);
                Ok(())
            }
        }
    }

    fn remove(&mut self, store: &Store, stream: usize) -> Verdict {
        let facts = self.facts(stream, self.head());
        if facts.is_tombstoned || facts.last() <= facts.deleted {
            return Ok(());
        }
        let name = STREAMS[stream];
        let (op, answer) = match self.dice.below(12) {
            0..9 => {
                let upto = facts.hidden + self.dice.below(facts.last() - facts.hidden + 1);
                if upto == facts.hidden {
                    return Ok(());
                }
                let before = Revision::new(upto + 1).expect("not 0");
                let sure = |sure: Sure| {
                    self.saved.iter().any(|saved| {
                        saved.stream == stream
                            && saved.sure >= sure
                            && saved.revision >= upto
                            && facts.counts(saved, self.head())
                    })
                };
                let (is_sure, is_possible) = (sure(Sure::Buffered), sure(Sure::Maybe));
                let answer = store.truncate_before(name, Expect::Any, before);
                if let Ok(removed) = &answer
                    && self.disk.faults_hit() == 0
                    && self.disk.cut().is_none()
                {
                    ensure!(!(removed.is_unreached && is_sure), "{removed:?} of {name}, which a snapshot reaches");
                    ensure!(removed.is_unreached || is_possible, "{removed:?} of {name}, which no snapshot reaches");
                }
                (Op::Truncate { stream, upto }, answer)
            }
            9 | 10 => (Op::Delete { stream }, store.delete(name, Expect::Any)),
            _ => (Op::Tombstone { stream }, store.tombstone(name, Expect::Any)),
        };
        self.note(op, answer.map(|_| ()), self.durability)
    }

    fn save(&mut self, store: &Store, stream: usize) -> Verdict {
        let facts = self.facts(stream, self.head());
        let last = facts.positions.len() as u64;
        if last < facts.first() {
            return Ok(());
        }
        let revision = facts.first() + self.dice.below(last - facts.hidden);
        let position = facts.positions[revision as usize - 1];
        let schema = SCHEMAS[self.dice.index(SCHEMAS.len())];
        let state = facts.values[facts.deleted as usize..revision as usize].to_vec();
        let mut bytes = bytes_of(&state);
        // Some are long, some are compressed.
        if self.dice.chance(1, 4) {
            bytes.resize(bytes.len() + 8 * self.dice.index(4000), 0);
        }
        let state = values_of(&bytes);
        let durability = if self.dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
        let kind = kind(schema).durability(durability).compress(self.dice.chance(1, 2));
        let answer = kind.save(store, STREAMS[stream], Revision::new(revision).expect("not 0"), &bytes);
        let sure = match &answer {
            Ok(saved) => {
                ensure!(saved.position.get() == position, "{saved:?} was saved of {position}");
                self.safe = self.safe.max(position);
                self.toll.saved += 1;
                if durability == Durability::Durable { Sure::Durable } else { Sure::Buffered }
            }
            Err(error) => {
                ensure!(self.disk.faults_hit() > 0 || self.disk.cut().is_some(), "saving: {error}");
                self.toll.refused += 1;
                Sure::Maybe
            }
        };
        self.saved.push(Saved { stream, schema, revision, position, state, sure });
        Ok(())
    }

    fn clean(&mut self, store: &Store) -> Verdict {
        let keep = 1 + self.dice.index(3);
        // What is removed counts once it is durable.
        if self.disk.faults_hit() > 0 || store.sync().is_err() {
            return Ok(());
        }
        self.safe = self.head();
        let answer = store.clean_snapshots(&CleanSnapshots::new().keep(keep));
        let head = self.head();
        let mut stays = vec![false; self.saved.len()];
        for (stream, schema) in (0..STREAMS.len()).flat_map(|stream| SCHEMAS.map(|schema| (stream, schema))) {
            let facts = self.facts(stream, head);
            let of_kind = |at: &usize| {
                let saved = &self.saved[*at];
                (saved.stream, saved.schema) == (stream, schema) && facts.counts(saved, head)
            };
            let mut newest: Vec<usize> = (0..self.saved.len()).filter(of_kind).collect();
            newest.sort_by_key(|at| std::cmp::Reverse((self.saved[*at].revision, *at)));
            newest.iter().take(keep).for_each(|at| stays[*at] = true);
            let oldest = newest.iter().rev().find(|at| facts.is_cut() && facts.reaches(&self.saved[**at]));
            oldest.into_iter().for_each(|at| stays[*at] = true);
        }
        // With some in doubt it is not known which are the newest.
        let is_certain = self.saved.iter().all(|saved| saved.sure != Sure::Maybe);
        match &answer {
            Ok(cleaned) => {
                self.toll.cleaned += 1;
                self.toll.dropped += cleaned.void + cleaned.superseded;
                ensure!(cleaned.damage.is_empty(), "{cleaned:?}");
                if is_certain {
                    let staying = stays.iter().filter(|stays| **stays).count() as u64;
                    ensure!(cleaned.kept == staying, "{cleaned:?}, {staying} stay");
                    let mut stays = stays.into_iter();
                    self.saved.retain(|_| stays.next() == Some(true));
                    // Copied into files that were synced before the others went.
                    if cleaned.void + cleaned.superseded > 0 {
                        self.saved.iter_mut().for_each(|saved| saved.sure = Sure::Durable);
                    }
                    return Ok(());
                }
            }
            Err(error) => {
                ensure!(self.disk.faults_hit() > 0 || self.disk.cut().is_some(), "cleaning: {error}");
            }
        }
        let stays = if is_certain { stays } else { vec![false; self.saved.len()] };
        for (saved, stays) in self.saved.iter_mut().zip(stays) {
            if !stays {
                saved.sure = Sure::Maybe;
            }
        }
        Ok(())
    }

    /// All that can be asked, now and of the past.
    fn ask(&mut self, store: &Store) -> Verdict {
        let head = self.head();
        self.ask_reader(&store.reader_in(View::Written), head)?;
        let then = self.dice.below(head + 1);
        let reader = store.reader_in(View::Written).as_of(AsOf::Position(then)).map_err(text)?;
        self.ask_reader(&reader, then).map_err(|text| format!("as of {then}: {text}"))
    }

    /// As another process does.
    fn beside(&mut self) -> Verdict {
        let disk = Arc::new(self.disk.clone());
        let read_only = self.options.clone().open_read_only_storage(disk.clone()).map_err(text)?;
        self.ask_reader(&read_only.reader_in(View::Written), self.head()).map_err(|text| format!("beside: {text}"))?;
        let follower = self.options.clone().view(View::Written).follow_storage(disk).map_err(text)?;
        self.ask_reader(&follower.reader(), self.head()).map_err(|text| format!("following: {text}"))?;
        Ok(())
    }

    fn ask_reader(&mut self, reader: &Reader, head: u64) -> Verdict {
        for (stream, schema) in (0..STREAMS.len()).flat_map(|stream| SCHEMAS.map(|schema| (stream, schema))) {
            self.ask_stream(reader, head, stream, schema)
                .map_err(|text| format!("{} schema {schema} at {head}: {text}", STREAMS[stream]))?;
        }
        Ok(())
    }

    fn ask_stream(&mut self, reader: &Reader, head: u64, stream: usize, schema: u32) -> Verdict {
        let name = STREAMS[stream];
        let facts = self.facts(stream, head);
        let of_kind = || {
            let is_kind = move |saved: &&Saved| saved.stream == stream && saved.schema == schema;
            self.saved.iter().filter(is_kind).filter(|saved| facts.counts(saved, head))
        };
        let surely = of_kind().filter(|saved| saved.sure != Sure::Maybe).map(|saved| saved.revision).max();
        let latest = reader.latest_snapshot(name, &kind(schema)).map_err(text)?;
        let found = latest.as_ref().map(|snapshot| snapshot.revision().get());
        ensure!(found >= surely, "the latest is of {found:?}, {surely:?} was saved");
        if let Some(snapshot) = &latest {
            let state = values_of(snapshot.state());
            let is_it = |saved: &Saved| saved.revision == snapshot.revision().get() && saved.state == state;
            ensure!(of_kind().any(is_it), "{snapshot:?} was never saved so");
            ensure!((snapshot.state().as_ptr() as usize).is_multiple_of(16), "{snapshot:?} is not aligned");
        }
        let is_covered = |sure: Sure| of_kind().any(|saved| saved.sure >= sure && facts.reaches(saved));
        let (surely, possibly) = (is_covered(Sure::Buffered), is_covered(Sure::Maybe));
        match reader.load(name, &kind(schema)).map_err(text)? {
            Loaded::Complete(history) => {
                ensure!(!facts.is_cut() || possibly, "events are gone, and no snapshot takes their place");
                ensure!(history.damage().is_empty(), "{:?}", history.damage());
                let base = facts.deleted.min(facts.values.len() as u64) as usize;
                let expected = &facts.values[base..];
                let mut state = Vec::new();
                if let Some(snapshot) = history.snapshot() {
                    let count = (snapshot.revision().get() - facts.deleted) as usize;
                    state = values_of(snapshot.state());
                    state.truncate(count);
                    self.toll.with_snapshot += 1;
                }
                for event in history {
                    let event = event.map_err(text)?;
                    state.push(u64::from_le_bytes(event.payload()[..8].try_into().expect("eight bytes")));
                }
                self.toll.complete += 1;
                ensure!(state == expected, "{state:?} is loaded, {expected:?} is right");
            }
            Loaded::Incomplete { first_available } => {
                ensure!(facts.is_cut() && !surely, "incomplete from {first_available}: {facts:?}");
                ensure!(first_available.get() == facts.first(), "{first_available} of {facts:?}");
                self.toll.incomplete += 1;
            }
        }
        Ok(())
    }
}

#[test]
fn snapshots_agree_with_the_model_whatever_happens() {
    let seed = seed("snapshot histories");
    let mut toll = Toll::default();
    let count = how_many(150, 10_000);
    for number in 0..count {
        let of_history = History::new(seed.wrapping_add(number)).run(6);
        toll.add(of_history.unwrap_or_else(|text| panic!("ANNALS_SEED={}: {text}", seed.wrapping_add(number))));
    }
    println!("{count} histories: {toll:#?}");
    assert!(toll.complete > count * 50 && toll.with_snapshot > count * 10 && toll.incomplete > count, "{toll:?}");
    assert!(toll.cuts > count / 2 && toll.kills > count / 2 && toll.closes > count / 4 && toll.lost > 0, "{toll:?}");
    assert!(toll.faults > count / 4 && toll.refused > 0 && toll.dropped > count, "{toll:?}");
    let of_snapshots: u64 =
        toll.cut.iter().filter(|((kind, _), _)| *kind == WriteKind::Snapshots).map(|(_, count)| count).sum();
    assert!(of_snapshots > count / 8, "{toll:?}");
}

#[test]
fn a_store_as_a_whole_is_sound_after_histories() {
    let seed = seed("verified snapshot histories");
    for number in 0..how_many(20, 500) {
        let mut history = History::new(seed.wrapping_add(1_000_000 + number));
        for _ in 0..3 {
            history.round().unwrap_or_else(|text| panic!("{number}: {text}"));
        }
        let report = inspect::verify_in(&history.disk, &mut |_, _| {}).unwrap();
        assert!(report.is_sound(), "{number}: {:?}", report.findings);
    }
}

/// Operations of a script on a new store, by number: from its opening on.
fn operations(seed: u64) -> u64 {
    let mut history = History::new(seed);
    assert!(history.script().unwrap(), "script {seed} comes to its end");
    history.disk.steps()
}

/// Every operation of some scripts is a power cut: what survives is nothing that was not synced, all of it, or any of it.
#[test]
fn every_cut_of_scripts_of_saves_and_clean_ups() {
    let seed = seed("cuts of snapshot scripts").wrapping_add(2_000_000);
    let (mut states, mut cut) = (0u64, BTreeMap::<(WriteKind, Call), u64>::new());
    for script in 0..how_many(3, 150) {
        let seed = seed.wrapping_add(script);
        for step in 0..operations(seed) {
            let mut history = History::new(seed);
            history.disk.cut_at(step);
            history.script().unwrap_or_else(|text| panic!("script {seed} cut at {step}: {text}"));
            let Some(was_cut) = history.disk.cut() else { continue };
            if matches!(was_cut.call, Call::Read | Call::Open | Call::List | Call::Map) {
                continue;
            }
            *cut.entry((was_cut.kind, was_cut.call)).or_default() += 1;
            history.doubt();
            let disk = history.disk.clone();
            let losses = [disk.after_power_loss_with(|_| false), disk.after_power_loss_with(|_| true)];
            for lost in losses.into_iter().chain([disk.after_power_loss(step)]) {
                states += 1;
                let judged = history.clone().aftermath(lost);
                judged.unwrap_or_else(|text| panic!("script {seed} cut at {step} ({was_cut:?}): {text}"));
            }
        }
    }
    println!("{states} states: {cut:#?}");
    for call in [Call::Write, Call::Sync] {
        assert!(cut.contains_key(&(WriteKind::Snapshots, call)), "{call} of a file of snapshots was cut");
    }
    assert!(states > 500);
}

/// Every operation of some scripts fails, in each way it can: what was acknowledged is there.
#[test]
fn every_operation_of_scripts_of_saves_and_clean_ups_fails() {
    let seed = seed("faults of snapshot scripts").wrapping_add(3_000_000);
    let mut hits = 0;
    for script in 0..how_many(2, 100) {
        let seed = seed.wrapping_add(script);
        let kinds =
            [FaultKind::Eio, FaultKind::Enospc, FaultKind::ShortWrite, FaultKind::SyncFail, FaultKind::TornWriteHalf];
        for (step, kind) in (0..operations(seed)).flat_map(|step| kinds.map(|kind| (step, kind))) {
            let mut history = History::new(seed);
            history.disk.fail_at(step, kind, Repeat::Once);
            history.script().unwrap_or_else(|text| panic!("script {seed}, {kind:?} at {step}: {text}"));
            if history.disk.faults_hit() == 0 {
                continue;
            }
            hits += 1;
            history.disk.clear_faults();
            history.doubt();
            let disk = history.disk.clone();
            for (name, left) in [("killed", disk.after_kill()), ("cut", disk.after_power_loss(step))] {
                let judged = history.clone().aftermath(left);
                judged.unwrap_or_else(|text| panic!("script {seed}, {kind:?} at {step}, {name}: {text}"));
            }
        }
    }
    println!("{hits} faults");
    assert!(hits > 100);
}
