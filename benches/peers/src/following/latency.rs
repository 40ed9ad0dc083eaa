//! C1 and C2: from the append to whoever follows.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::tails::{Annals, Source, Sqlite, Tail, Tephra};
use super::{Measured, Settings, Times, differences, floor, micros, now, payload, spread};
use crate::Result;
use crate::engines::Kind;
use crate::peer::Durability;
use crate::report::{Better, Row};

/// Between two appends whose reader looks all the time.
const BETWEEN_POLLED: Duration = Duration::from_micros(20);
/// Between two appends whose reader sleeps: long enough that both processors are idle.
const BETWEEN_WOKEN: Duration = Duration::from_millis(2);
/// When the reader gives up.
const LOST: Duration = Duration::from_secs(30);

/// When each append was called, when it returned, when it was shown as far as the store tells, and when it was seen.
struct Followed {
    called: Times,
    returned: Times,
    shown: Times,
    seen: Times,
}

fn follow(
    source: &dyn Source,
    count: usize,
    mut pause: impl FnMut(Instant, usize),
    wait: Option<Duration>,
) -> Result<Followed> {
    let mut tail = source.tail()?;
    let ready = Barrier::new(2);
    let (mut called, mut returned, mut shown) = (Times::of(count), Times::of(count), Times::of(count));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            ready.wait();
            read(&mut *tail, count, wait)
        });
        ready.wait();
        let began = Instant::now();
        for number in 0..count {
            pause(began, number);
            called.note(number, now());
            source.append(&payload(number))?;
            let after = now();
            returned.note(number, after);
            shown.note(number, source.shown_at().unwrap_or(after));
        }
        let seen = reader.join().map_err(|_| "the reader ended badly")??;
        Ok(Followed { called, returned, shown, seen })
    })
}

/// Notes when each event was seen.
pub(super) fn read(tail: &mut dyn Tail, count: usize, wait: Option<Duration>) -> Result<Times> {
    let (mut seen, mut left) = (Times::of(count), count);
    let mut last = Instant::now();
    while left > 0 {
        let before = left;
        tail.poll(&mut |number| {
            seen.note(number, now());
            left = left.saturating_sub(1);
        })?;
        if left < before {
            last = Instant::now();
        } else if last.elapsed() > LOST {
            return Err(format!("{left} events did not come").into());
        } else if let Some(limit) = wait {
            tail.wait(limit)?;
        }
    }
    Ok(seen)
}

fn spin_until(began: Instant, due: Duration) {
    while began.elapsed() < due {
        std::hint::spin_loop();
    }
}

/// C1: a Buffered append, and a reader in the same process that looks all the time.
pub(super) fn polled(settings: &Settings) -> Result<Row> {
    let (mut floors, mut annals, mut sqlite, mut tephra) = (
        Measured::new("floor", Kind::Floor)?,
        Measured::new("annals", Kind::Annals)?,
        Measured::new("sqlite", Kind::Peer)?,
        Measured::new("tephra", Kind::Peer)?,
    );
    let (mut whole, mut calls) = (Measured::new("whole", Kind::Beside)?, Measured::new("call", Kind::Beside)?);
    for _ in 0..settings.runs {
        floors.add(&floor::polled(settings.polled, BETWEEN_POLLED)?)?;
        let scratch = settings.scratch("c1")?;
        let pace = |began: Instant, number: usize| spin_until(began, BETWEEN_POLLED * number as u32);
        let store = Annals::open(scratch.path(), Durability::Buffered)?;
        let times = follow(&store, settings.polled, pace, None)?;
        let (all, call) = (differences(&times.called, &times.seen)?, differences(&times.called, &times.returned)?);
        annals.add(&without(&all, &call)?)?;
        whole.add(&all)?;
        calls.add(&call)?;
        drop(store);
        // These take so long that each is offered alone.
        let few = settings.woken;
        let pace = |_: Instant, _: usize| ();
        let times = follow(&Sqlite::open(scratch.path(), Durability::Buffered)?, few, pace, None)?;
        let call = differences(&times.called, &times.returned)?;
        sqlite.add(&without(&differences(&times.called, &times.seen)?, &call)?)?;
        let times = follow(&Tephra::open(scratch.path())?, few, pace, None)?;
        let call = differences(&times.called, &times.returned)?;
        tephra.add(&without(&differences(&times.called, &times.seen)?, &call)?)?;
    }
    let notes = vec![
        floors.note(),
        format!("annals, from the call of append to the reader's first byte: {}", spread(&whole.all)),
        format!("annals, the call of append itself: {}", spread(&calls.all)),
        format!(
            "annals above the floor: {:.2} us (medians over all runs)",
            micros(&annals.all, 0.5) - micros(&floors.all, 0.5)
        ),
        "told is the time from the call to the reader's first byte less the median of the call itself, since the batch is \
         shown at the call's end; tephra syncs each append, so its reader waits for a disk"
            .to_owned(),
    ];
    Ok(Row {
        id: "C1".into(),
        title: "tail in the process, a reader that looks all the time, p50".into(),
        unit: "us",
        better: Better::Lower,
        wanted: "<= 1 us above the floor's hand-off; aim 0.5",
        results: [annals, floors, sqlite, tephra].into_iter().map(Measured::result).collect(),
        notes,
    })
}

/// All times less the median of others.
fn without(all: &Histogram<u64>, others: &Histogram<u64>) -> Result<Histogram<u64>> {
    let median = others.value_at_quantile(0.5);
    let mut rest = Histogram::<u64>::new_with_max(100_000_000_000, 3)?;
    for value in all.iter_recorded() {
        rest.saturating_record_n(value.value_iterated_to().saturating_sub(median), value.count_at_value());
    }
    Ok(rest)
}

/// C2 in the process: durable appends with pauses, a reader that sleeps.
pub(super) fn woken(settings: &Settings) -> Result<Row> {
    let (mut floors, mut synced, mut annals, mut sqlite) = (
        Measured::new("floor", Kind::Floor)?,
        Measured::new("floor-after-sync", Kind::Beside)?,
        Measured::new("annals", Kind::Annals)?,
        Measured::new("sqlite", Kind::Peer)?,
    );
    let mut whole = [
        Measured::new("annals-whole", Kind::Beside)?,
        Measured::new("sqlite-whole", Kind::Beside)?,
        Measured::new("tephra-whole", Kind::Beside)?,
    ];
    let pause = |_: Instant, _: usize| thread::sleep(BETWEEN_WOKEN);
    let wait = Some(LOST);
    for _ in 0..settings.runs {
        floors.add(&floor::woken(settings.woken, BETWEEN_WOKEN)?)?;
        let scratch = settings.scratch("c2")?;
        synced.add(&floor::woken_after_sync(settings.woken, BETWEEN_WOKEN, scratch.path())?)?;
        let times = follow(&Annals::open(scratch.path(), Durability::Durable)?, settings.woken, pause, wait)?;
        annals.add(&differences(&times.shown, &times.seen)?)?;
        whole[0].add(&differences(&times.called, &times.seen)?)?;
        let times = follow(&Sqlite::open(scratch.path(), Durability::Durable)?, settings.woken, pause, wait)?;
        sqlite.add(&differences(&times.returned, &times.seen)?)?;
        whole[1].add(&differences(&times.called, &times.seen)?)?;
        let times = follow(&Tephra::open(scratch.path())?, settings.woken, pause, wait)?;
        whole[2].add(&differences(&times.called, &times.seen)?)?;
    }
    Ok(woken_row("C2", "in the process", [floors, synced, annals, sqlite].into_iter().chain(whole).collect()))
}

fn woken_row(id: &str, whence: &str, measured: Vec<Measured>) -> Row {
    let mut notes: Vec<String> = measured.iter().map(Measured::note).collect();
    notes.push(
        "annals from the moment at which the durable head is shown, sqlite from the return of the append; its reader asks \
         once a millisecond. What is called whole runs from the call of the append, its sync included, to the reader's first \
         byte. tephra has that figure alone: it wakes its reader before the append returns, and does not tell when it shows"
            .to_owned(),
    );
    notes.push("floor-after-sync: a futex, after as many bytes were written and synced; where another process reads, in it too".to_owned());
    Row {
        id: id.into(),
        title: format!("tail {whence}, a reader that sleeps, durable appends, an idle writer between them, p50"),
        unit: "us",
        better: Better::Lower,
        wanted: "p50 <= 45, p99 <= 90 us where the floor has 31 and 50; aim 35 and 60",
        results: measured.into_iter().map(Measured::result).collect(),
        notes,
    }
}

/// C2 between processes: the reader is a follower.
pub(super) fn woken_elsewhere(settings: &Settings) -> Result<Row> {
    let (mut floors, mut synced, mut annals, mut sqlite) = (
        Measured::new("floor", Kind::Floor)?,
        Measured::new("floor-after-sync", Kind::Beside)?,
        Measured::new("annals", Kind::Annals)?,
        Measured::new("sqlite", Kind::Peer)?,
    );
    for _ in 0..settings.runs {
        floors.add(&floor::woken(settings.woken, BETWEEN_WOKEN)?)?;
        let scratch = settings.scratch("c2-elsewhere")?;
        let words = floor::Elsewhere::open(scratch.path(), settings.woken)?;
        let word = floor::Elsewhere::word(scratch.path());
        synced.add(&elsewhere(&words, "floor", &word, settings.woken)?)?;
        let store = Annals::open(scratch.path(), Durability::Durable)?;
        annals.add(&elsewhere(&store, "annals", &scratch.path().join("annals"), settings.woken)?)?;
        let store = Sqlite::open(scratch.path(), Durability::Durable)?;
        sqlite.add(&elsewhere(&store, "sqlite", &scratch.path().join("followed.sqlite"), settings.woken)?)?;
    }
    Ok(woken_row("C2", "from another process", vec![annals, floors, synced, sqlite]))
}

/// Appends here, and has a child follow.
fn elsewhere(source: &dyn Source, engine: &str, path: &std::path::Path, count: usize) -> Result<Histogram<u64>> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--child", "follow", engine, &path.to_string_lossy(), &count.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("the child has no output")?).lines();
    if lines.next().transpose()?.as_deref() != Some("ready") {
        return Err("the child is not ready".into());
    }
    let mut shown = Times::of(count);
    for number in 0..count {
        thread::sleep(BETWEEN_WOKEN);
        source.append(&payload(number))?;
        shown.note(number, source.shown_at().unwrap_or_else(now));
    }
    let mut seen = Times::of(count);
    for (number, line) in lines.enumerate() {
        seen.note(number, line?.parse()?);
    }
    if !child.wait()?.success() {
        return Err("the child failed".into());
    }
    differences(&shown, &seen)
}
