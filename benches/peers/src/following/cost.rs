//! C3: what the writer pays for those who follow it.
//!
//! The figure is the mean time inside the call that appends, of a writer that is followed and of one that is alone. Two more
//! stand beside it, which count for nothing: the same writer beside as many threads that only sleep by the clock as often as
//! readers would, which is what the scheduler takes; and a floor, which copies and checksums an event into memory and stores a
//! head, beside threads that look at the head by the clock and read what came, which is what the caches take.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// What is offered to the writer, and by how many it is followed.
#[derive(Clone, Copy)]
struct Work {
    readers: usize,
    batch: usize,
    between: Duration,
    what: &'static str,
}

impl Work {
    /// One for each thread beside the writer.
    fn threads(&self, company: Company) -> std::ops::Range<usize> {
        0..if company == Company::Nobody { 0 } else { self.readers }
    }
}

/// One tailing reader beside a writer of batches.
pub(super) fn beside_one(settings: &Settings) -> Result<Row> {
    let what = "batches of 100, 1.25 M events/s offered, one reader beside";
    row(settings, Work { readers: 1, batch: BATCH, between: BETWEEN_BATCHES, what })
}

/// Four beside a writer of single events.
pub(super) fn beside_four(settings: &Settings) -> Result<Row> {
    let what = "single events, 10 k events/s offered, four readers beside";
    row(settings, Work { readers: 4, batch: 1, between: BETWEEN_EVENTS, what })
}

/// Who is beside the writer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Company {
    Nobody,
    Readers,
    Sleepers,
}

fn row(settings: &Settings, work: Work) -> Result<Row> {
    let engines = [
        ("annals", Kind::Annals, Company::Readers),
        ("alone", Kind::Floor, Company::Nobody),
        ("sleepers", Kind::Beside, Company::Sleepers),
        ("least-alone", Kind::Beside, Company::Nobody),
        ("least-read", Kind::Beside, Company::Readers),
    ];
    let mut results = engines.map(|(name, kind, _)| EngineResult { name: name.to_owned(), kind, runs: Vec::new() });
    let mut notes = Vec::new();
    for run in 0..settings.runs {
        // In turn, another one first in each run.
        for turn in 0..engines.len() {
            let at = (run + turn) % engines.len();
            let (name, _, company) = engines[at];
            let written = match name.starts_with("least") {
                true => write_least(settings, work, company)?,
                false => write(settings, work, company)?,
            };
            results[at].runs.push(Some(Sample { value: written.mean, ..Sample::default() }));
            notes.push(format!(
                "{name}: mean {:.3} us inside append, {:.2} M events/s, {} events read beside, {} calls above 5 us ({:.1} us of \
                 all, spread over all calls {:.3} us)",
                written.mean,
                written.rate / 1e6,
                written.read,
                written.long,
                written.inside_long,
                written.inside_long / f64::from(written.calls.max(1)),
            ));
        }
    }
    notes.push(
        "the ratio is that of the writer alone to the writer that is followed: 0.8 is a slow-down of 1.25x".to_owned(),
    );
    notes.push(
        "sleepers: the same writer beside as many threads that sleep by the clock and read nothing; least: an event is \
         copied and checksummed into memory, a head stored, and read by the clock"
            .to_owned(),
    );
    Ok(Row {
        id: "C3".into(),
        title: format!("mean time inside a Buffered append, {}", work.what),
        unit: "us",
        better: Better::Lower,
        wanted: "<= 1.25 x the writer alone; aim 1.1 x",
        results: results.into(),
        notes,
    })
}

struct Written {
    /// Of a call, in microseconds.
    mean: f64,
    calls: u32,
    /// Calls in which the writer was interrupted, about, and the time of these, in microseconds.
    long: u32,
    inside_long: f64,
    /// Events a second.
    rate: f64,
    /// Events that the readers saw, all together.
    read: u64,
}

/// A call that takes longer than this many microseconds has been interrupted.
const LONG: f64 = 5.0;

/// Calls `append` with numbers from 0 on when each is due, and times the calls.
fn offer(settings: &Settings, work: Work, mut append: impl FnMut(usize) -> Result<()>) -> Result<Written> {
    let (began, mut inside, mut calls) = (Instant::now(), 0.0, 0u32);
    let (mut long, mut inside_long) = (0, 0.0);
    loop {
        let due = work.between * calls;
        while began.elapsed() < due {
            std::hint::spin_loop();
        }
        let called = Instant::now();
        if called - began >= settings.written_for {
            break;
        }
        append(calls as usize)?;
        let took = called.elapsed().as_secs_f64() * 1e6;
        inside += took;
        if took > LONG * work.batch as f64 {
            long += 1;
            inside_long += took;
        }
        calls += 1;
    }
    let rate = f64::from(calls) * work.batch as f64 / began.elapsed().as_secs_f64();
    Ok(Written { mean: inside / f64::from(calls.max(1)), calls, long, inside_long, rate, read: 0 })
}

fn write(settings: &Settings, work: Work, company: Company) -> Result<Written> {
    let scratch = settings.scratch("c3")?;
    let source = Annals::open(scratch.path(), Durability::Buffered)?;
    // Past the small first segments.
    for number in 0..2_000 {
        append(&source.0, number, BATCH)?;
    }
    let readers = if company == Company::Readers { work.readers } else { 0 };
    let tails = (0..readers).map(|_| source.tail()).collect::<Result<Vec<_>>>()?;
    let stop = AtomicBool::new(false);
    let stop = &stop;
    let mut tails = tails.into_iter();
    let mut member = || -> Beside<'_> {
        match tails.next() {
            Some(tail) => Box::new(move || tail_along(tail, stop)),
            None => Box::new(move || Ok(sleep_along(stop))),
        }
    };
    let threads = work.threads(company).map(|_| member()).collect();
    beside(stop, threads, || offer(settings, work, |number| append(&source.0, number, work.batch)))
}

/// What runs beside the writer until it is told to stop, and answers how much it read.
type Beside<'a> = Box<dyn FnOnce() -> Result<u64> + Send + 'a>;

/// Writes beside these; adds up what they read.
fn beside(stop: &AtomicBool, threads: Vec<Beside<'_>>, write: impl FnOnce() -> Result<Written>) -> Result<Written> {
    thread::scope(|scope| {
        let threads: Vec<_> = threads.into_iter().map(|thread| scope.spawn(thread)).collect();
        // They have read what is there before the clock starts.
        thread::sleep(Duration::from_millis(200));
        let written = write();
        stop.store(true, Ordering::Release);
        let mut read = 0;
        for thread in threads {
            read += thread.join().map_err(|_| "a reader ended badly")??;
        }
        Ok(Written { read, ..written? })
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

fn sleep_along(stop: &AtomicBool) -> u64 {
    while !stop.load(Ordering::Acquire) {
        thread::sleep(BETWEEN_WAITS);
    }
    0
}

/// Words of an event in the floor's memory: payload, checksum, and as much again as a header has.
const EVENT_WORDS: usize = 44;
const EVENTS_KEPT: usize = 4096;

/// The least that can be followed.
struct Least {
    words: Vec<AtomicU64>,
    /// How many events there are.
    head: Padded,
}

/// On a line of its own, and the one beside it.
#[repr(align(128))]
struct Padded(AtomicU64);

impl Least {
    fn append(&self, number: usize, count: usize) {
        let payload = payload(number);
        let head = self.head.0.load(Ordering::Relaxed);
        for event in head..head + count as u64 {
            let words = self.event(event);
            let checksum = u64::from(crc32fast::hash(&payload));
            words[0].store(checksum, Ordering::Relaxed);
            for (word, bytes) in words[1..].iter().zip(payload.chunks_exact(8).cycle()) {
                let bytes = bytes.try_into().expect("eight of them");
                word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
            }
        }
        self.head.0.store(head + count as u64, Ordering::Release);
    }

    fn event(&self, event: u64) -> &[AtomicU64] {
        &self.words[event as usize % EVENTS_KEPT * EVENT_WORDS..][..EVENT_WORDS]
    }

    fn read_along(&self, stop: &AtomicBool) -> u64 {
        let (mut seen, mut read, mut sum) = (0, 0, 0u64);
        while !stop.load(Ordering::Acquire) {
            let head = self.head.0.load(Ordering::Acquire);
            for event in seen..head {
                sum = self.event(event).iter().fold(sum, |sum, word| sum.wrapping_add(word.load(Ordering::Relaxed)));
                read += 1;
            }
            seen = head;
            thread::sleep(BETWEEN_WAITS);
        }
        std::hint::black_box(sum);
        read
    }
}

fn write_least(settings: &Settings, work: Work, company: Company) -> Result<Written> {
    let words = (0..EVENTS_KEPT * EVENT_WORDS).map(|_| AtomicU64::new(0)).collect();
    let least = Least { words, head: Padded(AtomicU64::new(0)) };
    let stop = AtomicBool::new(false);
    let member = |_| -> Beside<'_> { Box::new(|| Ok(least.read_along(&stop))) };
    let threads = work.threads(company).map(member).collect();
    beside(&stop, threads, || {
        offer(settings, work, |number| {
            least.append(number, work.batch);
            Ok(())
        })
    })
}
