//! Power cuts and kills while the index is made: a segment's index, a tier, a file of the directory or an index manifest is
//! being written, synced or named, or one that is replaced is being removed. Every answer stays right, and what is made
//! anew is whole.
//!
//! The short form goes through 5,000 states, the long one (`ANNALS_LONG=1`) through 100,000; `ANNALS_STATES` says any
//! other number, `ANNALS_SEED` repeats a run. A run that did not cut each kind of file at each kind of step fails.

use std::collections::BTreeMap;
use std::sync::Arc;

use annals::{Durability, Lookup, Options, Query, ReadMode, Reader, Seek, View, inspect};
use annals_tests::crash::{Ended, Lot, Script, Step, Trace, Truth, Verdict, changes, examine, how_many, open, play};
use annals_tests::crash::{play_on, seed, small};
use annals_tests::ensure;
use annals_tests::sim_disk::{Call, Dice, SimDisk, WriteKind};

/// Cuts tried in each script, and losses tried at each cut.
const CUTS: usize = 4;
const LOSSES: u64 = 3;
/// Scripts played one after the other on one store.
const ROUNDS: u64 = 4;
const OF_INDEX: [WriteKind; 4] = [WriteKind::Index, WriteKind::Tier, WriteKind::Streams, WriteKind::IndexManifest];

/// What was cut, and how often.
#[derive(Default)]
struct Tally {
    states: u64,
    cut: BTreeMap<(WriteKind, Call), u64>,
    /// States in which something of the index was unsynced.
    biting: u64,
    opening: u64,
    closing: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.states += other.states;
        self.biting += other.biting;
        self.opening += other.opening;
        self.closing += other.closing;
        for (key, count) in &other.cut {
            *self.cut.entry(*key).or_default() += count;
        }
    }

    fn count(&self, kind: WriteKind, call: Call) -> u64 {
        self.cut.get(&(kind, call)).copied().unwrap_or(0)
    }

    /// Fails where a kind of file was hardly cut at a kind of step.
    fn bites(&self) -> Verdict {
        let least = (self.states / 200).min(100);
        for kind in OF_INDEX {
            for call in [Call::Create, Call::Write, Call::Sync, Call::Rename] {
                let count = self.count(kind, call);
                ensure!(count >= least, "{kind}: {call} was cut {count} times, not {least}\n{}", self.told());
            }
        }
        // What an opening makes of the index is little; `power_loss.rs` cuts openings.
        ensure!(self.closing >= least, "{} states cut while closing, not {least}\n{}", self.closing, self.told());
        ensure!(self.biting * 2 >= self.states, "only {} states had unsynced writes", self.biting);
        Ok(())
    }

    fn told(&self) -> String {
        let mut text = format!(
            "{} states, {} with unsynced writes; cut while opening {}, while closing {}\n",
            self.states, self.biting, self.opening, self.closing
        );
        for ((kind, call), count) in &self.cut {
            text += &format!("  {kind:<16} {:<10} {count:>7}\n", call.to_string());
        }
        text
    }
}

/// The steps that make or name a file of the index, by what they are about. Names have no kind of their own: one is made for
/// what is written next, changed for what was synced last.
fn steps_of_index(trace: &Trace) -> BTreeMap<(WriteKind, Call), Vec<u64>> {
    let changing: Vec<_> = trace.steps().into_iter().filter(|(_, _, call)| changes(*call)).collect();
    let mut found = BTreeMap::<_, Vec<u64>>::new();
    for (at, (step, kind, call)) in changing.iter().enumerate() {
        let is_content = |(_, kind, _): &&(u64, WriteKind, Call)| *kind != WriteKind::DirectoryEntry;
        let kind = match (kind, call) {
            (WriteKind::DirectoryEntry, Call::Create) => changing[at..].iter().find(is_content),
            (WriteKind::DirectoryEntry, _) => changing[..at].iter().rev().find(is_content),
            _ => Some(&changing[at]),
        };
        if let Some((_, kind, _)) = kind.filter(|(_, kind, _)| OF_INDEX.contains(kind)) {
            found.entry((*kind, *call)).or_default().push(*step);
        }
    }
    found
}

/// Mostly long lots, so that segments end all the time, and now and then a close.
fn script(dice: &mut Dice, durability: Durability) -> Script {
    let count = 6 + dice.index(14);
    let mut steps = Vec::with_capacity(count);
    for _ in 0..count {
        steps.push(match dice.below(12) {
            0 => Step::Reopen,
            1 => Step::Retry(dice.next()),
            2 => Step::RetryLost(dice.next()),
            3 => Step::Sync,
            _ => {
                let (events, longest) = if dice.chance(1, 4) { (12, 3_000) } else { (1 + dice.index(3), 30_000) };
                Step::Append(Arc::new(Lot::of(dice, events, longest, events > 1)), durability)
            }
        });
    }
    Script { steps }
}

/// A store over several crashes.
struct Chain {
    dice: Dice,
    options: Options,
    durability: Durability,
    tally: Tally,
}

impl Chain {
    fn run(seed: u64) -> Verdict<Tally> {
        let mut dice = Dice::of(seed, 0x1DE_C4A5);
        let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
        let mode = if dice.chance(1, 2) { ReadMode::Mapped } else { ReadMode::Pread };
        let options = small(durability, mode);
        let mut chain = Self { dice, options, durability, tally: Tally::default() };
        let mut state = (SimDisk::new(), Truth::new(durability));
        for round in 0..ROUNDS {
            state = chain.round(&state.0, &state.1).map_err(|text| format!("round {round}: {text}"))?;
        }
        Ok(chain.tally)
    }

    fn round(&mut self, disk: &SimDisk, truth: &Truth) -> Verdict<(SimDisk, Truth)> {
        let script = script(&mut self.dice, self.durability);
        let (traced, mut after) = (disk.after_kill(), truth.clone());
        let trace = Trace::default();
        play_on(&Arc::new(trace.of(&traced)), &traced, &mut after, &script, &self.options)
            .map_err(|text| format!("uncut: {text}\n{script:?}"))?;
        let last = trace.steps().last().map_or(0, |(step, ..)| *step);
        let mut states = vec![(traced, after)];
        let kinds: Vec<_> = steps_of_index(&trace).into_iter().collect();
        let mut chosen = BTreeMap::new();
        for _ in 0..CUTS {
            if kinds.is_empty() {
                break;
            }
            // Each kind of step alike, and of its steps the first and the last more often: those of opening and of closing.
            let (what, steps) = &kinds[self.dice.index(kinds.len())];
            let at = match self.dice.below(6) {
                0 => 0,
                1 => steps.len() - 1,
                _ => self.dice.index(steps.len()),
            };
            chosen.insert(steps[at], *what);
        }
        for (step, what) in chosen {
            let found = self.cut(disk, truth, &script, (step, last), what);
            states.extend(found.map_err(|text| format!("cut at {step}: {text}\n{script:?}"))?);
        }
        Ok(states.swap_remove(self.dice.index(states.len())))
    }

    fn cut(
        &mut self,
        disk: &SimDisk,
        truth: &Truth,
        script: &Script,
        (step, last): (u64, u64),
        what: (WriteKind, Call),
    ) -> Verdict<Vec<(SimDisk, Truth)>> {
        let disk = disk.after_kill();
        let mut truth = truth.clone();
        disk.cut_at(step);
        let ended = play(&disk, &mut truth, script, &self.options)?;
        let Some(cut) = disk.cut() else { return Ok(Vec::new()) };
        let is_closing = ended == Ended::Running && last - step < 40;
        let mut states = vec![(disk.after_kill(), truth.clone())];
        truth.power_was_cut = true;
        for _ in 0..LOSSES {
            states.push((disk.after_power_loss(self.dice.next()), truth.clone()));
        }
        for (number, (disk, truth)) in states.iter().enumerate() {
            let told = |text| format!("{cut:?}, {}: {text}", if number == 0 { "killed" } else { "lost" });
            self.examine(disk, truth).map_err(told)?;
            self.tally.states += 1;
            self.tally.biting += u64::from(cut.unsynced > 0);
            self.tally.opening += u64::from(ended == Ended::Opening);
            self.tally.closing += u64::from(is_closing);
            *self.tally.cut.entry(what).or_default() += 1;
        }
        Ok(states)
    }

    fn examine(&mut self, disk: &SimDisk, truth: &Truth) -> Verdict {
        examine(&disk.after_kill(), truth.clone(), &self.options, &mut self.dice)?;
        let disk = disk.after_kill();
        let mut truth = truth.clone();
        let store = open(&disk, &mut truth, &self.options)?.ok_or("the disk failed")?;
        judge_index(&store.reader_in(View::Durable), &truth)?;
        store.close().map_err(|error| format!("closing: {error}"))?;
        let found = inspect::check_index_in(&disk, &mut |_, _| {}).map_err(|error| format!("check: {error}"))?;
        ensure!(found.findings.is_empty(), "after an opening and a close: {:?}", found.findings);
        let store = open(&disk, &mut truth, &self.options)?.ok_or("the disk failed")?;
        judge_index(&store.reader_in(View::Durable), &truth).map_err(|text| format!("opened again: {text}"))
    }
}

/// Every look-up by type, tag, stream and id answers as the truth does.
fn judge_index(reader: &Reader, truth: &Truth) -> Verdict {
    let mut of_key = BTreeMap::<(&str, &str), Vec<u64>>::new();
    for entry in &truth.entries {
        for (position, draft) in (entry.first_event()..).zip(&entry.lot.drafts) {
            of_key.entry(("type", draft.event_type)).or_default().push(position);
            of_key.entry(("stream", draft.stream.as_str())).or_default().push(position);
            for tag in &draft.tags {
                of_key.entry(("tag", *tag)).or_default().push(position);
            }
            if let Some(id) = draft.id {
                let found = reader.by_id(id).map_err(|error| format!("by id: {error}"))?;
                let is_right = matches!(&found, Lookup::Found(event) if event.position().get() == position);
                ensure!(is_right, "the id of position {position} leads to {found:?}");
            }
        }
    }
    for ((kind, name), positions) in &of_key {
        let query = match *kind {
            "type" => Query::event_type(*name),
            "stream" => Query::stream(*name),
            _ => Query::tag(*name),
        };
        let read = reader.read_all(&query, Seek::Beginning).map_err(|error| error.to_string())?;
        let found: Result<Vec<u64>, _> = read.map(|event| event.map(|event| event.position().get())).collect();
        let found = found.map_err(|error| format!("{kind} {name}: {error}"))?;
        ensure!(found == *positions, "{kind} {name}: {found:?}, not {positions:?}");
        let last = reader.last(&query).map_err(|error| error.to_string())?.map(|event| event.position().get());
        ensure!(last.as_ref() == positions.last(), "{kind} {name}: the last is {last:?}");
    }
    let absent = reader.last(&Query::tag("never")).map_err(|error| error.to_string())?;
    ensure!(absent.is_none(), "a tag that was never given has {absent:?}");
    Ok(())
}

#[test]
fn the_index_is_cut_wherever_it_is_made() {
    let wanted = how_many(5_000, 100_000);
    let seed = seed("the_index_is_cut_wherever_it_is_made");
    let (mut tally, mut chain) = (Tally::default(), 0);
    while tally.states < wanted {
        let seed = seed.wrapping_add(chain);
        match Chain::run(seed) {
            Ok(found) => tally.add(&found),
            Err(text) => panic!("ANNALS_SEED={seed}: {text}"),
        }
        chain += 1;
    }
    println!("{}", tally.told());
    tally.bites().unwrap_or_else(|text| panic!("{text}"));
}
