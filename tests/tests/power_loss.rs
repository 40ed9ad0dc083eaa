//! Power cuts on a simulated disk (R1 to R6): whatever was not synced may vanish or be torn, at any operation, also while
//! the store is created, rolls, or recovers from the cut before.
//!
//! The short form goes through 5,000 states, the long one (`ANNALS_LONG=1`) through 100,000; `ANNALS_STATES` says any
//! other number, `ANNALS_SEED` repeats a run.

use std::collections::BTreeSet;
use std::sync::Arc;

use annals::{Durability, LiveSegment, Options, ReadMode};
use annals_tests::crash::{
    Crowd, Ended, Lot, Script, Step, Toll, Trace, Truth, Verdict, changes, examine, how_many, open, play, play_on,
    seed, small,
};
use annals_tests::sim_disk::{Call, Dice, SimDisk, WriteKind};

/// Cuts tried in each script, and losses tried at each cut.
const CUTS: u64 = 3;
const LOSSES: u64 = 3;
/// Scripts played one after the other on one store.
const ROUNDS: u64 = 5;

/// A store over several crashes.
struct Chain {
    dice: Dice,
    options: Options,
    toll: Toll,
}

impl Chain {
    fn run(seed: u64) -> Verdict<Toll> {
        let mut dice = Dice::of(seed, 0x504C);
        let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
        let mode = if dice.chance(1, 2) { ReadMode::Mapped } else { ReadMode::Pread };
        let disk = if dice.chance(1, 5) { SimDisk::new().without_shared_maps() } else { SimDisk::new() };
        let mut chain = Self { dice, options: small(durability, mode), toll: Toll::default() };
        let mut state = (disk, Truth::new(durability));
        for round in 0..ROUNDS {
            state = chain.round(&state.0, &state.1).map_err(|text| format!("round {round}: {text}"))?;
        }
        Ok(chain.toll)
    }

    /// Plays one script, cut at several places; answers one of the states to go on with.
    fn round(&mut self, disk: &SimDisk, truth: &Truth) -> Verdict<(SimDisk, Truth)> {
        let script = Script::random(&mut self.dice, 24);
        let steps = operations(disk, truth, &script, &self.options)?;
        let mut states = Vec::new();
        for _ in 0..CUTS {
            let step = self.choose(&steps);
            let found = self.cut(disk, truth, &script, step);
            states.extend(found.map_err(|text| format!("cut at {step}: {text}\n{script:?}"))?);
        }
        let chosen = self.dice.index(states.len());
        Ok(states.swap_remove(chosen))
    }

    /// An operation to be cut: mostly one that changes something, of a kind that was cut least since this store was made. Some
    /// kinds are written by few scripts, and are cut there.
    fn choose(&mut self, steps: &[(u64, WriteKind, Call)]) -> u64 {
        let changing: Vec<_> = steps.iter().filter(|(_, _, call)| changes(*call)).collect();
        if changing.is_empty() || self.dice.chance(1, 4) {
            return self.dice.below(steps.len() as u64);
        }
        let kinds: BTreeSet<WriteKind> = changing.iter().map(|(_, kind, _)| *kind).collect();
        let least = kinds.iter().map(|kind| self.toll.of_kind(*kind)).min();
        let kinds: Vec<WriteKind> = kinds.into_iter().filter(|kind| Some(self.toll.of_kind(*kind)) == least).collect();
        // Of these again the ones that the fewest scripts write.
        let rare = [WriteKind::EndMark, WriteKind::Container].into_iter().filter(|kind| kinds.contains(kind));
        let kinds: Vec<WriteKind> = rare.chain(kinds.iter().copied()).collect();
        let kind = &kinds[self.dice.index(kinds.len())];
        let of_kind: Vec<u64> = changing.iter().filter(|(_, of, _)| of == kind).map(|(step, ..)| *step).collect();
        of_kind[self.dice.index(of_kind.len())]
    }

    fn cut(&mut self, disk: &SimDisk, truth: &Truth, script: &Script, step: u64) -> Verdict<Vec<(SimDisk, Truth)>> {
        let disk = disk.after_kill();
        let mut truth = truth.clone();
        disk.cut_at(step);
        let ended = play(&disk, &mut truth, script, &self.options)?;
        let mut states = Vec::new();
        let killed = disk.after_kill();
        self.examine(&killed, &truth).map_err(|text| format!("{:?}, killed: {text}", disk.cut()))?;
        self.toll.count_kill();
        states.push((killed, truth.clone()));
        truth.power_was_cut = true;
        for _ in 0..LOSSES {
            let loss = self.dice.next();
            let lost = disk.after_power_loss(loss);
            self.examine(&lost, &truth).map_err(|text| format!("{:?}, loss {loss}: {text}", disk.cut()))?;
            self.toll.count(disk.cut(), ended == Ended::Opening);
            states.push((lost, truth.clone()));
        }
        Ok(states)
    }

    fn examine(&mut self, disk: &SimDisk, truth: &Truth) -> Verdict {
        examine(&disk.after_kill(), truth.clone(), &self.options, &mut self.dice)
    }
}

/// All operations of a script that nothing disturbs.
fn operations(
    disk: &SimDisk,
    truth: &Truth,
    script: &Script,
    options: &Options,
) -> Verdict<Vec<(u64, WriteKind, Call)>> {
    let disk = disk.after_kill();
    let trace = Trace::default();
    let traced = Arc::new(trace.of(&disk));
    play_on(&traced, &disk, &mut truth.clone(), script, options)
        .map_err(|text| format!("uncut: {text}\n{script:?}"))?;
    Ok(trace.steps())
}

#[test]
fn random_power_cuts() {
    let wanted = how_many(5_000, 100_000);
    let seed = seed("random_power_cuts");
    let mut toll = Toll::default();
    let mut chain = 0;
    while toll.states < wanted {
        let seed = seed.wrapping_add(chain);
        match Chain::run(seed) {
            Ok(counts) => toll.add(&counts),
            Err(text) => panic!("ANNALS_SEED={seed}: {text}"),
        }
        chain += 1;
    }
    println!("{toll}");
    toll.bites().unwrap_or_else(|text| panic!("{text}"));
}

/// Scripts of up to six operations, each reaching another corner.
fn corners() -> Vec<(&'static str, Vec<Step>)> {
    let dice = &mut Dice::new(1);
    let mut lot = |count: usize, longest: usize| Arc::new(Lot::of(dice, count, longest, count > 1));
    let (durable, buffered) = (Durability::Durable, Durability::Buffered);
    vec![
        ("nothing", vec![]),
        ("three durable events", (0..3).map(|_| Step::Append(lot(1, 300), durable)).collect()),
        (
            "buffered, then durable",
            vec![
                Step::Append(lot(3, 2_000), buffered),
                Step::Append(lot(2, 2_000), buffered),
                Step::Sync,
                Step::Append(lot(1, 300), buffered),
                Step::Append(lot(4, 900), durable),
            ],
        ),
        ("rolling, durable", (0..4).map(|_| Step::Append(lot(2, 30_000), durable)).collect()),
        ("rolling, buffered", (0..5).map(|_| Step::Append(lot(2, 30_000), buffered)).collect()),
        (
            "compacted",
            vec![
                Step::Append(lot(2, 30_000), buffered),
                Step::Append(lot(2, 30_000), buffered),
                Step::Append(lot(2, 30_000), durable),
                Step::Compact(LiveSegment::EndWhereRemoved),
                Step::Append(lot(1, 300), durable),
            ],
        ),
        ("longer than a segment", (0..2).map(|_| Step::Append(lot(3, 90_000), durable)).collect()),
        (
            "tickets",
            vec![
                Step::Submit(lot(1, 300), durable),
                Step::Submit(lot(2, 300), buffered),
                Step::Submit(lot(3, 300), durable),
                Step::WaitAll,
                Step::Submit(lot(1, 300), durable),
            ],
        ),
        (
            "reopened",
            vec![
                Step::Append(lot(1, 300), durable),
                Step::Reopen,
                Step::Append(lot(2, 300), buffered),
                Step::Reopen,
                Step::Append(lot(1, 300), durable),
            ],
        ),
        ("refused and retried", vec![Step::Append(lot(2, 300), buffered), Step::Refused(0), Step::Retry(0)]),
    ]
}

/// Every operation that changes the disk is cut, and every subset of what was not synced then survives, as long as the
/// subsets can be counted.
struct Exhaustive {
    toll: Toll,
    options: Options,
    /// At most so many unsynced changes are gone through in all subsets.
    bits: u32,
    dice: Dice,
}

impl Exhaustive {
    fn script(&mut self, disk: &SimDisk, truth: &Truth, script: &Script) -> Verdict {
        for (step, kind, call) in operations(disk, truth, script, &self.options)? {
            if changes(call) {
                self.cut(disk, truth, script, step).map_err(|text| format!("cut at {step}, {kind} {call}: {text}"))?;
            }
        }
        Ok(())
    }

    fn cut(&mut self, disk: &SimDisk, truth: &Truth, script: &Script, step: u64) -> Verdict {
        let disk = disk.after_kill();
        let mut truth = truth.clone();
        disk.cut_at(step);
        let ended = play(&disk, &mut truth, script, &self.options)?;
        self.examine(&disk.after_kill(), &truth).map_err(|text| format!("killed: {text}"))?;
        self.toll.count_kill();
        truth.power_was_cut = true;
        let unsynced = disk.unsynced() as u32;
        for subset in 0..1u64 << unsynced.min(self.bits) {
            let lost = if unsynced <= self.bits {
                disk.after_power_loss_with(|change| subset >> change & 1 == 1)
            } else {
                disk.after_power_loss(self.dice.next())
            };
            self.examine(&lost, &truth).map_err(|text| format!("subset {subset:b} of {unsynced}: {text}"))?;
            self.toll.count(disk.cut(), ended == Ended::Opening);
        }
        Ok(())
    }

    fn examine(&mut self, disk: &SimDisk, truth: &Truth) -> Verdict {
        examine(disk, truth.clone(), &self.options, &mut self.dice)
    }
}

/// The short form counts subsets of up to 4 unsynced changes, the long one of up to 10.
#[test]
fn every_cut_of_short_scripts_and_every_subset() {
    let bits = if how_many(0, 1) > 0 { 10 } else { 4 };
    let mut toll = Toll::default();
    for durability in [Durability::Durable, Durability::Buffered] {
        let options = small(durability, ReadMode::Mapped);
        let mut run = Exhaustive { toll: Toll::default(), options, bits, dice: Dice::new(7) };
        for (name, steps) in corners() {
            let script = Script { steps };
            let (disk, truth) = (SimDisk::new(), Truth::new(durability));
            run.script(&disk, &truth, &script).unwrap_or_else(|text| panic!("{name}, {durability:?}: {text}"));
        }
        run.recoveries(durability).unwrap_or_else(|text| panic!("recovering, {durability:?}: {text}"));
        toll.add(&run.toll);
    }
    println!("{toll}");
    toll.bites().unwrap_or_else(|text| panic!("{text}"));
}

impl Exhaustive {
    /// Recovery itself is cut, after a process that was killed with buffered batches outstanding.
    fn recoveries(&mut self, durability: Durability) -> Verdict {
        let again = Script { steps: vec![Step::Append(Arc::new(Lot::of(&mut self.dice, 1, 200, false)), durability)] };
        for (name, steps) in corners() {
            let script = Script { steps };
            let (disk, mut truth) = (SimDisk::new(), Truth::new(durability));
            let all = operations(&disk, &truth, &script, &self.options)?;
            // Just before the store is closed.
            disk.cut_at(all.len() as u64 * 4 / 5);
            play(&disk, &mut truth, &script, &self.options)?;
            let killed = disk.after_kill();
            self.script(&killed, &truth, &again).map_err(|text| format!("after {name:?}: {text}"))?;
        }
        Ok(())
    }
}

/// With several threads appending and the store's own threads flushing, sealing and syncing.
#[test]
fn power_cuts_under_threads() {
    let wanted = how_many(1_000, 20_000);
    let seed = seed("power_cuts_under_threads");
    let mut toll = Toll::default();
    let mut number = 0;
    while toll.states < wanted {
        let seed = seed.wrapping_add(number);
        let mut crowd = Crowd::new(seed);
        for round in 0..5 {
            crowd.round(&mut toll).unwrap_or_else(|text| panic!("ANNALS_SEED={seed}, round {round}: {text}"));
        }
        number += 1;
    }
    println!("{toll}");
    assert!(toll.biting * 2 >= toll.states - toll.kills, "too few states with unsynced writes");
}

/// The last write torn at every byte: the batch is there if all its bytes are, and nothing else changes.
#[test]
fn a_batch_torn_at_every_byte() {
    let wanted = how_many(30, 1_000).min(100_000);
    let dice = &mut Dice::of(seed("a_batch_torn_at_every_byte"), 0x5445);
    let mut states = 0;
    let mut records = 0;
    while records < wanted {
        let count = 1 + dice.index(4);
        records += count as u64;
        states += torn_at_every_byte(dice, count).unwrap_or_else(|text| panic!("{text}"));
    }
    println!("{states} states, {records} records");
}

fn torn_at_every_byte(dice: &mut Dice, count: usize) -> Verdict<u64> {
    let options = small(Durability::Durable, ReadMode::Mapped);
    let (disk, mut truth) = (SimDisk::new(), Truth::new(Durability::Durable));
    let lots: Vec<Arc<Lot>> = (0..2).map(|_| Arc::new(Lot::of(dice, 2, 200, true))).collect();
    let last = Arc::new(Lot::of(dice, count, 60, true));
    let store = open(&disk, &mut truth, &options)?.ok_or("the disk failed")?;
    for lot in &lots {
        let index = truth.hand_in(lot);
        let receipt = lot.append(&store, Durability::Durable).map_err(|error| error.to_string())?;
        truth.acknowledge(index, &receipt)?;
    }
    let before = disk.files();
    last.append(&store, Durability::Durable).map_err(|error| error.to_string())?;
    let after = disk.files();
    truth.hand_in(&last);
    truth.power_was_cut = true;
    // Neither the ring nor the mark came through: the segment alone has to tell.
    let name = before.keys().find(|name| name.ends_with(".log")).ok_or("no segment")?;
    let (old, new) = (&before[name], &after[name]);
    let first = old.iter().zip(new).position(|(old, new)| old != new).ok_or("nothing was written")?;
    let end = old.iter().zip(new).rposition(|(old, new)| old != new).ok_or("nothing was written")? + 1;
    for torn_at in first..=end {
        let mut files = before.clone();
        files.insert(name.clone(), [&new[..torn_at], &old[torn_at..]].concat());
        examine(&SimDisk::from_files(&files), truth.clone(), &options, dice)
            .map_err(|text| format!("torn at byte {torn_at} of {first}..{end}: {text}"))?;
    }
    Ok((end - first) as u64 + 1)
}
