//! Processes around a store that is compacted: the writer, which appends, removes and compacts all the time, and those who
//! follow it. All of them are made to be killed.
//!
//! * `compact_child write <directory> <round> <seed>` says, a line each: `open <head>`; `try <key>` before an append and
//!   `ack <key> <position> <revision>,…` after it was acknowledged; `removing <stream> <revision>` before a removal of all up
//!   to there and `removed <stream> <revision> <position>` after it; `compacting`, then `compacted <segments> <events>`.
//! * `compact_child follow <directory> <view> <after>` subscribes to everything behind a position, checks each event, and says
//!   `event <position>` or `gap <first> <last>`; a number on standard input is the position to end at, which it says as
//!   `end <position>`, or `failed <why>`.
//! * `compact_child watch <directory>` does the same from the beginning, whatever the events are.
//! * `compact_child read <directory>` begins to read, says `holding`, and reads no further.
//! * `compact_child backup|fork <directory> <target>` says `holding` and begins.

use std::io::{BufRead, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use annals::backup::BackupOptions;
use annals::{
    CompactionOptions, Durability, Event, Expect, ForkOptions, Message, Next, Options, Query, Seek, Store, StreamState,
    View,
};
use annals_tests::crash::Verdict;
use annals_tests::crash::killed::{batch_of, events_of, key_of, stream_of};
use annals_tests::ensure;
use annals_tests::sim_disk::Dice;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match arguments[..] {
        ["write", directory, round, seed] => write(directory, number(round), number(seed)),
        ["follow", directory, view, after] => follow(directory, view, number(after), check),
        ["watch", directory] => follow(directory, "durable", 0, |_| Ok(())),
        ["read", directory] => read(directory),
        ["backup", directory, target] => backup(directory, target),
        ["fork", directory, target] => fork(directory, target),
        _ => panic!("not as the head of this file says: {arguments:?}"),
    };
    if let Err(why) = ended {
        tell(&format!("failed {}", why.replace('\n', " ")));
        std::process::exit(1);
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().expect("a number")
}

/// One call for a line, so that a kill leaves whole lines.
fn tell(message: &str) {
    let line = format!("{message}\n");
    std::io::stdout().write_all(line.as_bytes()).expect("the parent reads");
}

fn text(error: annals::Error) -> String {
    error.to_string()
}

/// Appends, removes and compacts until it is killed.
fn write(directory: &str, round: u64, seed: u64) -> Verdict {
    let mut dice = Dice::of(seed, round);
    let store = Options::new()
        .durability(Durability::Buffered)
        .segment_bytes_max(64 << 10)
        .ring_bytes(64 << 10)
        .sync_interval(Duration::from_millis(20));
    let store = store.open(directory).map_err(text)?;
    tell(&format!("open {}", store.head()));
    let compacting = store.clone();
    let compaction_seed = dice.next();
    std::thread::spawn(move || {
        if let Err(why) = compact(&compacting, compaction_seed) {
            tell(&format!("failed {why}"));
            std::process::exit(1);
        }
    });
    let mut key = (round + 1) << 32;
    loop {
        key += 1;
        append(&store, key, &mut dice)?;
        if dice.chance(1, 50) {
            remove(&store, &mut dice)?;
        }
        if dice.chance(1, 60) {
            store.sync().map_err(text)?;
        }
    }
}

fn append(store: &Store, key: u64, dice: &mut Dice) -> Verdict {
    let events = events_of(key);
    let durability = if dice.chance(1, 6) { Durability::Durable } else { Durability::Buffered };
    tell(&format!("try {key}"));
    let receipt = store.commit(&batch_of(key, &events, durability)).map_err(text)?;
    let revisions: Vec<String> = receipt.events().iter().map(|event| event.revision.to_string()).collect();
    tell(&format!("ack {key} {} {}", receipt.first().position, revisions.join(",")));
    Ok(())
}

/// All of a stream up to some revision that stands, or the stream as a whole.
fn remove(store: &Store, dice: &mut Dice) -> Verdict {
    let stream = stream_of(dice.next() >> 8, 0);
    let StreamState::Live { first, last } = store.reader_in(View::Written).stream_state(stream).map_err(text)? else {
        return Ok(());
    };
    let upto = first.get() + dice.below((last.get() + 1 - first.get()).div_ceil(2));
    let upto = if dice.chance(1, 20) { last.get() } else { upto };
    tell(&format!("removing {stream} {upto}"));
    let removed = match upto == last.get() {
        true => store.delete(stream, Expect::At(last)),
        false => store.truncate_before(stream, Expect::Any, annals::Revision::new(upto + 1).expect("above zero")),
    };
    let position = removed.map_err(text)?.position.map_or(0, annals::Position::get);
    tell(&format!("removed {stream} {upto} {position}"));
    Ok(())
}

fn compact(store: &Store, seed: u64) -> Verdict {
    let mut dice = Dice::new(seed);
    loop {
        let options = CompactionOptions::new().level(1).block_bytes(4096 << dice.below(5));
        // Slowly, so that most kills meet it.
        let options = options.bytes_per_second(Some((4 << 20) << dice.below(4)));
        let stops = dice.chance(1, 8);
        tell("compacting");
        let report = store.compact_while(&options, &mut |at| {
            if stops && at.done * 2 > at.total { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let report = report.map_err(text)?;
        ensure!(report.notices.is_empty(), "{:?}", report.notices);
        tell(&format!("compacted {} {}", report.compacted.len(), report.removed_events));
        std::thread::sleep(Duration::from_millis(dice.below(3)));
    }
}

/// Follows until it is told to end.
fn follow(directory: &str, view: &str, after: u64, check: fn(&Event) -> Verdict) -> Verdict {
    let until = Arc::new(AtomicU64::new(u64::MAX));
    std::thread::spawn({
        let until = until.clone();
        move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                until.store(number(&line), Ordering::Release);
            }
        }
    });
    let view = if view == "written" { View::Written } else { View::Durable };
    let options = Options::new().view(view).wait_for_store(Duration::from_secs(60));
    let follower = options.follow(directory).map_err(text)?;
    let mut subscription = follower.subscribe(&Query::all(), Seek::After(after)).map_err(text)?;
    let mut last = after;
    while subscription.position() < until.load(Ordering::Acquire) {
        match subscription.next_within(Duration::from_millis(20)).map_err(text)? {
            Next::Message(Message::Event(event)) => {
                ensure!(event.position().get() > last, "{} after {last}", event.position());
                last = event.position().get();
                check(&event)?;
                tell(&format!("event {last}"));
            }
            Next::Message(Message::Gap { first, last: end, .. }) => {
                ensure!(first.get() > last && end >= first, "a gap {first} to {end} after {last}");
                last = end.get();
                tell(&format!("gap {first} {end}"));
            }
            Next::Message(Message::CaughtUp { head }) => ensure!(head >= last, "caught up to {head} after {last}"),
            Next::NotYet => {}
            other => return Err(format!("{other:?}")),
        }
    }
    tell(&format!("end {}", subscription.position()));
    Ok(())
}

/// Whether it is one of the events of its batch, whole.
fn check(event: &Event) -> Verdict {
    let key = key_of(event.payload()).ok_or("a payload without a key")?;
    let events = events_of(key);
    let index = (event.position().get() - event.batch_first().get()) as usize;
    let wanted = events.get(index).ok_or_else(|| format!("event {index} of a batch of {}", events.len()))?;
    ensure!(event.id() == wanted.id && event.payload() == wanted.payload, "other content at {}", event.position());
    ensure!(event.stream() == stream_of(key, index), "another stream at {}", event.position());
    Ok(())
}

/// Holds a read, an event, a subscription and a view open, and goes no further.
fn read(directory: &str) -> Verdict {
    let follower = Options::new().follow(directory).map_err(text)?;
    let store = Options::new().open_read_only(directory).map_err(text)?;
    let mut read = store.reader().read_all(&Query::all(), Seek::Beginning).map_err(text)?;
    let first = read.next().transpose().map_err(text)?;
    let mut subscription = follower.subscribe(&Query::all(), Seek::Beginning).map_err(text)?;
    let told = subscription.try_next().map_err(text)?;
    tell("holding");
    std::thread::sleep(Duration::from_secs(600));
    Err(format!("nobody came for {first:?} and {told:?}"))
}

/// Begins a backup and is in the middle of it for as long as it takes to be killed.
fn backup(directory: &str, target: &str) -> Verdict {
    let store = Options::new().open_read_only(directory).map_err(text)?;
    let mut calls = 0;
    let done = store.backup_with(Path::new(target), &BackupOptions::new(), &mut |done, _| {
        calls += 1;
        if done > 0 && calls > 1 {
            tell("holding");
            std::thread::sleep(Duration::from_secs(600));
        }
    });
    Err(format!("nobody came: {done:?}, {calls} calls"))
}

/// The same of a fork.
fn fork(directory: &str, target: &str) -> Verdict {
    let store = Options::new().open_read_only(directory).map_err(text)?;
    let mut calls = 0;
    let done = store.fork(Path::new(target), &ForkOptions::new(), &mut |done, _| {
        calls += 1;
        if done > 0 && calls > 1 {
            tell("holding");
            std::thread::sleep(Duration::from_secs(600));
        }
    });
    Err(format!("nobody came: {done:?}, {calls} calls"))
}
