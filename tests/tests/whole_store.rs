//! Whole stores with changed files, checksums put right after it: no panic, no hang, bounded memory, no invented event.
//!
//! The inputs are those of the fuzz target `whole_store`, here at random. `ANNALS_SEED` sets the seed, `ANNALS_INPUTS`
//! their number, `ANNALS_LONG` the long form. With cargo-fuzz, which learns from the code that an input reaches:
//! `cd fuzz && cargo +nightly fuzz run whole_store corpus/whole_store seeds/whole_store`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use annals_tests::memory::{Counting, MemoryTaken};
use annals_tests::model::{repetitions, seed};
use annals_tests::sim_disk::Dice;
use annals_tests::whole_store::{self, CHANGES, exercise};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Files of half a megabyte, copied for each disk, and disks of at most 8 MiB: more than this is a length in a file that
/// was believed.
const MEMORY: usize = 16 << 20;

/// Nothing of this size takes long; a loop whose end a file names does.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes as a fuzzer would come upon them: a manner, and a few changes.
fn input(dice: &mut Dice) -> Vec<u8> {
    let changes = 1 + dice.below(8).saturating_sub(4);
    let len = 1 + 9 * changes + dice.below(5);
    (0..len).map(|_| dice.next() as u8).collect()
}

/// R15 for whole stores.
#[test]
fn whatever_stands_in_the_files_nothing_panics_hangs_or_is_invented() {
    let (seed, inputs) = (seed(), repetitions("ANNALS_INPUTS", 2000, 200_000));
    whole_store::prepare();
    let mut table: BTreeMap<(&str, &str), [u64; 3]> = BTreeMap::new();
    let (mut longest, mut most_memory) = (Duration::ZERO, 0);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for number in 0..inputs {
        let bytes = input(&mut Dice::of(seed, number));
        let (begun, memory) = (Instant::now(), MemoryTaken::begin());
        let outcome = std::panic::catch_unwind(|| exercise(&bytes)).unwrap_or_else(|panic| {
            println!("input {number} of seed {seed}: {bytes:?}");
            std::panic::resume_unwind(panic)
        });
        let (took, memory) = (begun.elapsed(), memory.most());
        assert!(took < PATIENCE, "input {number} took {took:?}: {bytes:?}");
        assert!(memory < MEMORY, "input {number} took {memory} bytes: {bytes:?}");
        longest = longest.max(took);
        most_memory = most_memory.max(memory);
        let of_what_is_seen = usize::from(outcome.writing.opened) + usize::from(outcome.writing.events > 0);
        for change in &outcome.changes {
            table.entry(*change).or_default()[of_what_is_seen] += 1;
        }
        for (what, is) in [
            ("checksums put right", outcome.fixed),
            ("opened for reading", outcome.read_only.opened),
            ("opened for writing", outcome.writing.opened),
            ("all events", outcome.writing.events > 300),
            ("opened, and a read failed", outcome.read_only.opened && outcome.read_only.errors > 0),
        ] {
            *counts.entry(what).or_default() += u64::from(is);
        }
    }
    println!("{:<10} {:<22} {:>8} {:>8} {:>8}", "file", "change", "refused", "empty", "events");
    for ((change, kind), [refused, empty, events]) in &table {
        println!("{kind:<10} {change:<22} {refused:>8} {empty:>8} {events:>8}");
    }
    println!("{inputs} inputs: {counts:?}; the longest {longest:?}, the most memory {most_memory} bytes");
    // Both ends must be reached often: the checks at opening, and the code behind them.
    for (what, share) in [
        ("checksums put right", 60),
        ("opened for reading", 25),
        ("opened for writing", 25),
        ("all events", 20),
        ("opened, and a read failed", 1),
    ] {
        let count = counts[what];
        assert!(count * 100 >= share * inputs, "{what}: {count} of {inputs}, {share} in a hundred are wanted");
    }
    for kind in ["segment", "index", "manifest", "mark", "ring"] {
        for change in CHANGES {
            assert!(table.contains_key(&(change, kind)), "no {kind} had {change}");
        }
    }
}

/// What puts checksums right makes those that the store has; else all of the above would stop at the first one.
#[test]
fn checksums_put_right_are_those_of_a_sound_store() {
    for (sound, anew) in whole_store::checksums_made_anew() {
        for (name, bytes) in &sound {
            let differs = bytes.iter().zip(&anew[name]).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{name}: first at this byte");
        }
    }
}

/// A finding: behind a forged header the log ends at a position that no index can hold; the append that follows has to be
/// refused.
#[test]
fn an_append_behind_a_position_that_no_store_reaches_is_an_error() {
    exercise(&[
        149, 148, 6, 63, 119, 37, 45, 253, 156, 197, 153, 183, 217, 197, 57, 152, 163, 144, 32, 146, 185, 69, 115, 61,
        215, 211, 46, 123, 160, 31, 234,
    ]);
}
