//! A process that follows a store which another one writes, and checks each event that it is handed.
//!
//! `follow_child <directory> <view> <manner> <seed>`. View is `durable` or `written`; manner is `wait`, `poll`, `pread`,
//! `subscribe`, or `count`, which does not look at what it reads. It waits for the store to be made. A number on standard input is the position to end at. What it says, a
//! line each:
//!
//! * `following <head>` once the store is open
//! * `batch <key> <position>` for each batch, with the position of its first event
//! * `end <position>` at last, or `failed <why>`

use std::collections::BTreeMap;
use std::io::{BufRead, BufWriter, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use annals::{Event, Follower, Lookup, Message, Next, Options, Query, ReadEvents, ReadMode, Seek, View};
use annals_tests::crash::Verdict;
use annals_tests::crash::killed::{KeyedEvent, events_of, key_of, stream_of};
use annals_tests::ensure;
use annals_tests::sim_disk::Dice;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, view, manner, seed] = &arguments[..] else {
        panic!("follow_child <directory> <view> <manner> <seed>")
    };
    let until = Arc::new(AtomicU64::new(u64::MAX));
    if manner == "count" {
        // Known before the first event.
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("a line");
        until.store(line.trim().parse().expect("a position"), Ordering::Release);
    }
    std::thread::spawn({
        let until = until.clone();
        move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                until.store(line.trim().parse().expect("a position"), Ordering::Release);
            }
        }
    });
    let mut out = BufWriter::new(std::io::stdout().lock());
    let view = if view == "written" { View::Written } else { View::Durable };
    let mut check = Check::new(Dice::new(seed.parse().expect("a seed")));
    let ended = run(directory, view, manner, &until, &mut check, &mut out);
    let told = match &ended {
        Ok(()) => format!("end {}\n", check.position),
        Err(why) => format!("failed {why} ({view:?}, {manner}, at {})\n", check.position).replace('\n', " ") + "\n",
    };
    out.write_all(told.as_bytes()).and_then(|()| out.flush()).expect("the parent reads");
    std::process::exit(i32::from(ended.is_err()));
}

/// Follows until it is told to end.
fn run(
    directory: &str,
    view: View,
    manner: &str,
    until: &AtomicU64,
    check: &mut Check,
    out: &mut impl Write,
) -> Verdict {
    let mode = if manner == "pread" { ReadMode::Pread } else { ReadMode::Mapped };
    let options = Options::new().view(view).read_mode(mode).wait_for_store(Duration::from_secs(60));
    let follower = options.follow(directory).map_err(|error| format!("open: {error}"))?;
    say(out, &format!("following {}\n", follower.head()))?;
    if manner == "count" {
        return count(&follower, until, check);
    }
    if manner == "subscribe" {
        return subscribe(&follower, until, check, out);
    }
    while check.position < until.load(Ordering::Acquire) {
        let patience = Duration::from_millis(50);
        let head = match manner {
            "poll" => {
                std::thread::yield_now();
                follower.refresh()
            }
            _ => follower.wait_beyond(check.position, patience),
        };
        let head = head.map_err(|error| format!("wait: {error}"))?;
        ensure!(head >= check.position, "the head fell from {} to {head}", check.position);
        if head == check.position {
            continue;
        }
        let read = follower.read_all(&Query::all(), Seek::After(check.position));
        let read = read.map_err(|error| format!("read: {error}"))?;
        ensure!(read.head() >= head, "a read sees {} after a head of {head}", read.head());
        let end = read.head();
        for event in read {
            let event = event.map_err(|error| format!("after {}: {error}", check.position))?;
            if let Some(batch) = check.event(&event)? {
                say(out, &batch)?;
            }
        }
        ensure!(check.position == end, "a read up to {end} ended at {}", check.position);
        ensure!(check.expected.is_empty(), "the head {end} lies inside of a batch");
        out.flush().map_err(|error| error.to_string())?;
        if check.dice.chance(1, 16) {
            check.look_up(&follower)?;
        }
    }
    Ok(())
}

/// Reads by the fastest form, and only counts.
fn count(follower: &Follower, until: &AtomicU64, check: &mut Check) -> Verdict {
    let error = |error: annals::Error| error.to_string();
    let mut subscription = follower.subscribe(&Query::all(), Seek::Beginning).map_err(error)?;
    while check.position < until.load(Ordering::Acquire) {
        let taken = subscription.for_each_ready(|_| {
            check.position += 1;
            if check.position >= until.load(Ordering::Acquire) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        taken.map_err(error)?;
        ensure!(subscription.position() == check.position, "{} events, of {}", check.position, subscription.position());
        if check.position < until.load(Ordering::Acquire) {
            subscription.wait(Duration::from_millis(50)).map_err(error)?;
        }
    }
    Ok(())
}

/// The same by a subscription that is resumed now and then.
fn subscribe(follower: &Follower, until: &AtomicU64, check: &mut Check, out: &mut impl Write) -> Verdict {
    while check.position < until.load(Ordering::Acquire) {
        let seek = Seek::After(check.position);
        let mut subscription = follower.subscribe(&Query::all(), seek).map_err(|error| error.to_string())?;
        let enough = 1 + check.dice.below(20_000);
        let begun = check.position;
        while check.position < until.load(Ordering::Acquire) && check.position < begun + enough {
            match subscription.next_within(Duration::from_millis(50)).map_err(|error| error.to_string())? {
                Next::Message(Message::Event(event)) => {
                    if let Some(batch) = check.event(&event)? {
                        say(out, &batch)?;
                    }
                }
                Next::Message(Message::CaughtUp { head }) => {
                    ensure!(head == check.position, "caught up to {head} at {}", check.position);
                    ensure!(check.expected.is_empty(), "the head {head} lies inside of a batch");
                    out.flush().map_err(|error| error.to_string())?;
                    if check.dice.chance(1, 16) {
                        check.look_up(follower)?;
                    }
                }
                Next::Message(other) => return Err(format!("{other:?}")),
                Next::NotYet => {}
                Next::Ended => return Err("the subscription ended".to_owned()),
            }
            ensure!(subscription.position() == check.position, "it stands at {}", subscription.position());
        }
    }
    out.flush().map_err(|error| error.to_string())
}

fn say(out: &mut impl Write, text: &str) -> Verdict {
    out.write_all(text.as_bytes()).map_err(|error| error.to_string())
}

/// What was seen so far.
struct Check {
    position: u64,
    revisions: BTreeMap<String, u64>,
    key: u64,
    /// Events of the batch that are still to come.
    expected: Vec<KeyedEvent>,
    in_batch: usize,
    last: Option<Event>,
    dice: Dice,
}

impl Check {
    fn new(dice: Dice) -> Self {
        let (revisions, expected) = (BTreeMap::new(), Vec::new());
        Self { position: 0, revisions, key: 0, expected, in_batch: 0, last: None, dice }
    }

    /// The next event: no position or revision is missing, repeated or out of order, and the batch is whole. Answers what to
    /// tell of a batch that begins.
    fn event(&mut self, event: &Event) -> Verdict<Option<String>> {
        let position = event.position().get();
        ensure!(position == self.position + 1, "position {position} after {}", self.position);
        self.position = position;
        let mut told = None;
        if self.expected.is_empty() {
            self.key = key_of(event.payload()).ok_or("a payload without a key")?;
            self.expected = events_of(self.key);
            self.expected.reverse();
            self.in_batch = 0;
            told = Some(format!("batch {} {position}\n", self.key));
        }
        let wanted = self.expected.pop().expect("filled above");
        let is_right = event.payload() == wanted.payload && event.id() == wanted.id;
        ensure!(is_right && event.stream() == stream_of(self.key, self.in_batch), "other content at {position}");
        self.in_batch += 1;
        let revision = self.revisions.entry(event.stream().to_owned()).or_default();
        *revision += 1;
        ensure!(event.revision().get() == *revision, "revision {} at {position}", event.revision());
        self.last = Some(event.clone());
        Ok(told)
    }

    /// The other ways to read show the same.
    fn look_up(&mut self, follower: &Follower) -> Verdict {
        let Some(last) = &self.last else { return Ok(()) };
        let error = |error: annals::Error| error.to_string();
        match follower.by_id(last.id()).map_err(error)? {
            Lookup::Found(found) => ensure!(found.position() == last.position(), "an id at another place"),
            other => return Err(format!("by_id of position {}: {other:?}", last.position())),
        }
        let stream = last.stream();
        let from = Seek::At(last.revision().get().saturating_sub(5).max(1));
        let mut read = follower.read_stream(stream, from).map_err(error)?;
        let wanted =
            |event: &annals::Result<Event>| event.as_ref().map_or(true, |event| event.position() == last.position());
        let found = read.find(wanted).transpose().map_err(error)?;
        ensure!(found.is_some(), "{stream} does not hold revision {}", last.revision());
        let at = annals::Position::new(1 + self.dice.below(self.position)).expect("not zero");
        ensure!(follower.at(at).map_err(error)?.is_some_and(|event| event.position() == at), "no event at {at}");
        Ok(())
    }
}
