//! A process that appends is killed by SIGKILL at random times, a third of them while it opens the store (R1): nothing
//! that it was told to be stored is lost, in either durability, and no position is handed out twice.
//!
//! 100 kills on one store, 10,000 with `ANNALS_LONG=1`.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use annals::{Durability, Event, Options, Query, Seek, Store};
use annals_tests::crash::killed::{batch_of, batches_in, events_of};
use annals_tests::crash::{Verdict, how_many, seed};
use annals_tests::ensure;
use annals_tests::sim_disk::Dice;

/// A store is begun anew after so many kills, so that reading all of it stays quick.
const KILLS_A_STORE: u64 = 100;

/// What the killed processes said.
#[derive(Default)]
struct Told {
    /// Keys whose batches were acknowledged, and the position of the first event.
    acknowledged: BTreeMap<u64, u64>,
    /// Every place where a batch was ever seen to begin, and which batch.
    seen: BTreeMap<u64, u64>,
    tried: BTreeSet<u64>,
    /// The batch that was being appended when the process was killed.
    in_flight: Option<u64>,
    opening: bool,
    acknowledgements: u64,
}

impl Told {
    fn hear(&mut self, message: &str) -> Verdict {
        let words: Vec<&str> = message.split(' ').collect();
        let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
        match (words[0], number(1), number(2)) {
            ("opening", ..) => self.opening = true,
            ("open", Some(_), _) => self.opening = false,
            ("try", Some(key), _) => {
                self.in_flight = Some(key);
                self.tried.insert(key);
            }
            ("ack", Some(key), Some(position)) => {
                self.in_flight = None;
                self.acknowledgements += 1;
                self.acknowledged.insert(key, position);
            }
            _ => return Err(format!("the child says: {message}")),
        }
        Ok(())
    }
}

/// How the kills fell.
#[derive(Default)]
struct Kills {
    all: u64,
    while_opening: u64,
    in_flight: u64,
    between: u64,
    kept_in_flight: u64,
}

struct Killer<'a> {
    directory: &'a Path,
    dice: Dice,
    seed: u64,
    kills: Kills,
    told: Told,
}

impl Killer<'_> {
    fn round(&mut self, round: u64) -> Verdict {
        self.told.in_flight = None;
        self.told.opening = false;
        let mut child = self.spawn(round)?;
        let messages = listen(&mut child);
        if self.dice.chance(1, 3) {
            self.wait_until_opening(&messages)?;
            std::thread::sleep(Duration::from_micros(self.dice.below(3_000)));
        } else {
            let time = Duration::from_micros(self.dice.below(60_000));
            self.listen_for(&messages, time)?;
        }
        child.kill().map_err(|error| error.to_string())?;
        let status = child.wait().map_err(|error| error.to_string())?;
        ensure!(status.code().is_none(), "the child ended by itself: {status}");
        // What it still said before it died is true as well.
        for message in messages {
            self.told.hear(&message)?;
        }
        self.count();
        self.judge(round)
    }

    fn spawn(&self, round: u64) -> Verdict<Child> {
        Command::new(env!("CARGO_BIN_EXE_crash_child"))
            .arg(self.directory)
            .args([round.to_string(), self.seed.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())
    }

    fn wait_until_opening(&mut self, messages: &Receiver<String>) -> Verdict {
        let first = messages.recv_timeout(Duration::from_secs(30)).map_err(|error| error.to_string())?;
        self.told.hear(&first)
    }

    /// Listens until the store is open and then for a while.
    fn listen_for(&mut self, messages: &Receiver<String>, time: Duration) -> Verdict {
        self.wait_until_opening(messages)?;
        let mut until = Instant::now() + Duration::from_secs(30);
        let mut is_open = false;
        loop {
            match messages.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(message) => {
                    self.told.hear(&message)?;
                    if !is_open && !self.told.opening {
                        is_open = true;
                        until = Instant::now() + time;
                    }
                }
                Err(RecvTimeoutError::Timeout) if is_open => return Ok(()),
                Err(error) => return Err(format!("the child says nothing: {error}")),
            }
        }
    }

    fn count(&mut self) {
        self.kills.all += 1;
        if self.told.opening {
            self.kills.while_opening += 1;
        } else if self.told.in_flight.is_some() {
            self.kills.in_flight += 1;
        } else {
            self.kills.between += 1;
        }
    }

    /// Every acknowledged batch stands where it was said to stand; the others stand there whole or not at all.
    fn judge(&mut self, round: u64) -> Verdict {
        // One of two rounds is judged by the next child's own recovery, which is then cut as well.
        let store = if round.is_multiple_of(2) {
            Options::new().open(self.directory)
        } else {
            return self.judge_read_only();
        };
        let store = store.map_err(|error| format!("opening after the kill: {error}"))?;
        let events = read(store.read_all(&Query::all(), Seek::Beginning))?;
        self.judge_events(&events)?;
        self.retry(&store)?;
        store.close().map_err(|error| error.to_string())
    }

    fn judge_read_only(&mut self) -> Verdict {
        // A kill may cut the writing of a mark: only the written view is to be had then.
        let store = match Options::new().view(annals::View::Written).open_read_only(self.directory) {
            Err(annals::Error::NotAStore { .. }) if self.told.acknowledged.is_empty() => return Ok(()),
            other => other.map_err(|error| format!("opening read-only after the kill: {error}"))?,
        };
        let reader = store.reader_in(annals::View::Written);
        self.judge_events(&read(reader.read_all(&Query::all(), Seek::Beginning))?)
    }

    fn judge_events(&mut self, events: &[Event]) -> Verdict {
        let batches = batches_in(events)?;
        for (key, first) in &batches {
            ensure!(self.told.tried.contains(key), "batch {key} was never appended");
            let before = *self.told.seen.entry(*first).or_insert(*key);
            ensure!(before == *key, "position {first} held batch {before} before, now {key}");
        }
        for (key, first) in &self.told.acknowledged {
            ensure!(
                batches.get(key) == Some(first),
                "batch {key}, acknowledged at {first}, is at {:?}",
                batches.get(key)
            );
        }
        if let Some(key) = self.told.in_flight {
            self.kills.kept_in_flight += u64::from(batches.contains_key(&key));
        }
        Ok(())
    }

    /// A retry of what was in flight is stored once, whichever way it went.
    fn retry(&mut self, store: &Store) -> Verdict {
        let Some(key) = self.told.in_flight.take() else { return Ok(()) };
        let stood = self.told.seen.values().any(|seen| *seen == key);
        let events = events_of(key);
        let batch = batch_of(key, &events, Durability::Durable);
        let receipt = store.commit(&batch).map_err(|error| format!("retry of batch {key}: {error}"))?;
        ensure!(receipt.already_committed() == stood, "retry of batch {key}: already committed is not {stood}");
        self.told.acknowledged.insert(key, receipt.first().position.get());
        Ok(())
    }
}

fn read(read: annals::Result<annals::Read>) -> Verdict<Vec<Event>> {
    let read = read.map_err(|error| error.to_string())?;
    read.collect::<Result<_, _>>().map_err(|error| format!("reading: {error}"))
}

/// Whole lines of the child's output, from a thread, so that the parent can kill in time.
fn listen(child: &mut Child) -> Receiver<String> {
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    let (sender, messages) = channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    messages
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    let wanted = how_many(100, 10_000).min(10_000);
    let seed = seed("nothing_acknowledged_is_lost_by_a_kill");
    let mut total = Kills::default();
    let mut acknowledgements = 0;
    let mut round = 0;
    while round < wanted {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("store");
        let dice = Dice::of(seed, round);
        let mut killer = Killer { directory: &path, dice, seed, kills: Kills::default(), told: Told::default() };
        let end = wanted.min(round + KILLS_A_STORE);
        while round < end {
            killer.round(round).unwrap_or_else(|text| panic!("ANNALS_SEED={seed}, kill {round}: {text}"));
            round += 1;
        }
        total.all += killer.kills.all;
        total.while_opening += killer.kills.while_opening;
        total.in_flight += killer.kills.in_flight;
        total.between += killer.kills.between;
        total.kept_in_flight += killer.kills.kept_in_flight;
        acknowledgements += killer.told.acknowledgements;
    }
    println!("kills                     {:>8}", total.all);
    println!("  while opening           {:>8}", total.while_opening);
    println!("  an append in flight     {:>8}", total.in_flight);
    println!("    which was found whole {:>8}", total.kept_in_flight);
    println!("  between two appends     {:>8}", total.between);
    println!("acknowledgements          {acknowledgements:>8}");
    assert!(total.while_opening * 6 >= total.all, "too few kills while opening");
    assert!(total.in_flight * 10 >= (total.in_flight + total.between) * 9, "too few kills with an append in flight");
}
