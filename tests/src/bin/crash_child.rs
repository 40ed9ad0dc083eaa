//! The process that the kill test kills: opens a store, appends, and tells each acknowledgement on standard output.
//!
//! `crash_child <directory> <round> <seed>`. What it says, a line each:
//!
//! * `opening`, then `open <head>`
//! * `try <key>` before an append, `ack <key> <position> <durability>` after it was acknowledged

use std::io::Write;
use std::time::Duration;

use annals::{Durability, Expect, Options, Result, Store};
use annals_tests::crash::killed::{KeyedEvent, batch_of, events_of, stream_of};
use annals_tests::sim_disk::Dice;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, round, seed] = &arguments[..] else { panic!("crash_child <directory> <round> <seed>") };
    let (round, seed) = (number(round), number(seed));
    if let Err(error) = run(directory, round, seed) {
        tell(&format!("failed {error}"));
        std::process::exit(1);
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn tell(message: &str) {
    let line = format!("{message}\n");
    std::io::stdout().write_all(line.as_bytes()).expect("the parent reads");
}

/// Appends until it is killed.
fn run(directory: &str, round: u64, seed: u64) -> Result<()> {
    let dice = &mut Dice::of(seed, round);
    tell("opening");
    let store = Options::new()
        .durability(Durability::Buffered)
        .segment_bytes_max(256 << 10)
        .ring_bytes(64 << 10)
        .sync_interval(Duration::from_millis(20))
        .open(directory)?;
    let mut key = (round + 1) << 32;
    let mut message = format!("open {}", store.head());
    loop {
        // The answer before and the next attempt go out together, so that an append is in flight nearly all the time.
        key += 1;
        let events = events_of(key);
        tell(&format!("{message}\ntry {key}"));
        message = append(&store, key, &events, dice)?;
        if dice.chance(1, 40) {
            store.sync()?;
        }
    }
}

/// Appends a batch; answers what to tell.
fn append(store: &Store, key: u64, events: &[KeyedEvent], dice: &mut Dice) -> Result<String> {
    let durability = if dice.chance(1, 4) { Durability::Durable } else { Durability::Buffered };
    let batch = batch_of(key, events, durability);
    let receipt = if dice.chance(1, 3) {
        store.submit(&batch)?.wait()?
    } else if events.len() == 1 {
        store.append_with(stream_of(key, 0), Expect::Any, &[events[0].new_event()], durability)?
    } else {
        store.commit(&batch)?
    };
    Ok(format!("ack {key} {} {durability:?}", receipt.first().position))
}
