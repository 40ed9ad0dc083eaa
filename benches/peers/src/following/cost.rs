//! C3: what the writer pays for those who follow it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use annals::{Batch, NewEvent, Store};

use super::tails::{Annals, Source, Tail};
use super::{Settings, payload};
use crate::Result;
use crate::engines::Kind;
use crate::peer::Durability;
use crate::report::{Better, EngineResult, Row, Sample};

/// A reader sleeps at most once in this time.
const BETWEEN_WAITS: Duration = Duration::from_micros(100);
const BATCH: usize = 100;
/// A batch of 100 is due this often: 1.25 million events a second.
const BETWEEN_BATCHES: Duration = Duration::from_micros(80);
/// An event is due this often: 10,000 a second.
const BETWEEN_EVENTS: Duration = Duration::from_micros(100);

/// One tailing reader beside a writer of batches.
pub(super) fn beside_one(settings: &Settings) -> Result<Row> {
    row(settings, 1, BATCH, BETWEEN_BATCHES, "batches of 100, 1.25 M events/s offered, one reader beside")
}

/// Four beside a writer of single events.
pub(super) fn beside_four(settings: &Settings) -> Result<Row> {
    row(settings, 4, 1, BETWEEN_EVENTS, "single events, 10 k events/s offered, four readers beside")
}

fn row(settings: &Settings, readers: usize, batch: usize, between: Duration, what: &str) -> Result<Row> {
    let (mut alone, mut followed, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..settings.runs {
        // In turn, another one first in each run.
        for first in [run % 2 == 0, run % 2 != 0] {
            let readers = if first { 0 } else { readers };
            let written = write(settings, readers, batch, between)?;
            let sample = Some(Sample { value: written.mean, ..Sample::default() });
            if readers == 0 { alone.push(sample) } else { followed.push(sample) }
            notes.push(format!(
                "{readers} readers: mean {:.3} us inside append, {:.2} M events/s, {} events read by them",
                written.mean,
                written.rate / 1e6,
                written.read
            ));
        }
    }
    notes.push("the ratio is that of the writer alone to the writer that is followed: 0.8 is a slow-down of 1.25x".to_owned());
    let result = |name: &str, kind, runs| EngineResult { name: name.to_owned(), kind, runs };
    Ok(Row {
        id: "C3".into(),
        title: format!("mean time inside a Buffered append, {what}"),
        unit: "us",
        better: Better::Lower,
        wanted: "<= 1.25 x the writer alone; aim 1.1 x",
        results: vec![result("annals", Kind::Annals, followed), result("alone", Kind::Floor, alone)],
        notes,
    })
}

struct Written {
    /// Of a call, in microseconds.
    mean: f64,
    /// Events a second.
    rate: f64,
    /// Events that the readers saw, all together.
    read: u64,
}

fn write(settings: &Settings, readers: usize, batch: usize, between: Duration) -> Result<Written> {
    let scratch = settings.scratch("c3")?;
    let source = Annals::open(scratch.path(), Durability::Buffered)?;
    // Past the small first segments.
    for number in 0..2_000 {
        append(&source.0, number, BATCH)?;
    }
    let stop = AtomicBool::new(false);
    let tails = (0..readers).map(|_| source.tail()).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let readers: Vec<_> = tails.into_iter().map(|tail| scope.spawn(|| tail_along(tail, &stop))).collect();
        // They have read what is there before the clock starts.
        thread::sleep(Duration::from_millis(200));
        let (began, mut inside, mut calls) = (Instant::now(), Duration::ZERO, 0u32);
        let written = loop {
            let due = between * calls;
            while began.elapsed() < due {
                std::hint::spin_loop();
            }
            let called = Instant::now();
            if called - began >= settings.written_for {
                break Ok(());
            }
            if let Err(error) = append(&source.0, calls as usize, batch) {
                break Err(error);
            }
            inside += called.elapsed();
            calls += 1;
        };
        let took = began.elapsed();
        stop.store(true, Ordering::Release);
        let mut read = 0;
        for reader in readers {
            read += reader.join().map_err(|_| "a reader ended badly")??;
        }
        written?;
        let mean = inside.as_secs_f64() * 1e6 / f64::from(calls.max(1));
        Ok(Written { mean, rate: f64::from(calls) * batch as f64 / took.as_secs_f64(), read })
    })
}

fn append(store: &Store, number: usize, count: usize) -> Result<()> {
    let payload = payload(number);
    let event = NewEvent::new("Followed", &payload);
    if count == 1 {
        store.append("followed", annals::Expect::Any, &[event])?;
        return Ok(());
    }
    let mut batch = Batch::with_capacity(count);
    (0..count).for_each(|_| batch.push("followed", event));
    store.commit(&batch)?;
    Ok(())
}

fn tail_along(mut tail: Box<dyn Tail + Send>, stop: &AtomicBool) -> Result<u64> {
    let (mut read, mut waited) = (0, Instant::now());
    while !stop.load(Ordering::Acquire) {
        let before = read;
        tail.poll(&mut |_| read += 1)?;
        if read == before {
            let since = waited.elapsed();
            if since < BETWEEN_WAITS {
                thread::sleep(BETWEEN_WAITS - since);
                continue;
            }
            waited = Instant::now();
            tail.wait(Duration::from_millis(10))?;
        }
    }
    Ok(read)
}
