//! A1 to A4: one thread appends, a batch at a time.

use std::time::{Duration, Instant};

use super::Bench;
use crate::Result;
use crate::engines::{Engine, Kind};
use crate::peer::{Durability, Outcome, Writer};
use crate::report::{Better, EngineResult, Row, Sample, figure};
use crate::units;
use crate::workload::{EventIn, Workload};

/// A1 and A2.
pub(super) fn buffered(bench: &Bench, batch: usize) -> Result<Row> {
    let settings = &bench.settings;
    let engines = settings.serving(Durability::Buffered);
    let firsts = bench.work.firsts(batch);
    let mut notes = Vec::new();
    if batch == 1 {
        notes.push(first_pass(bench, &engines, &firsts)?);
    }
    let results = interleaved(bench, &engines, |engine| {
        let limit = (!matches!(engine.kind, Kind::Annals | Kind::Floor)).then_some(settings.buffered_limit);
        one(bench, engine, Durability::Buffered, batch, &firsts, limit, true)
    });
    let gib = bench.work.payload_bytes(settings.steady) as f64 / f64::from(1 << 30);
    notes.push(format!(
        "after {} events of warm-up; annals and floor append {gib:.2} GiB of payload, the others at most {:.1} s of it",
        settings.warm_up,
        settings.buffered_limit.as_secs_f64()
    ));
    let (id, wanted) = match batch {
        1 => ("A1", ">= 2 x best peer, >= 1.0 of the floor; aim 2.5 x the floor"),
        100 => ("A2, batches of 100", ">= 2 x best peer; aim 1.0 of the floor"),
        _ => ("A2, batches of 1,000", ">= 2 x best peer; aim 1.0 of the floor"),
    };
    let title = format!("Buffered append, batch {batch}, one thread");
    Ok(Row { id: id.into(), title, unit: "events/s", better: Better::Higher, wanted, results, notes })
}

/// A3 and A4.
pub(super) fn durable(bench: &Bench, batch: usize) -> Result<Row> {
    let firsts = bench.work.firsts(batch);
    let engines = bench.settings.serving(Durability::Durable);
    let results = interleaved(bench, &engines, |engine| {
        one(bench, engine, Durability::Durable, batch, &firsts, Some(bench.settings.durable_limit), true)
    });
    let (id, wanted) = match batch {
        1 => ("A3", ">= 0.9 of the floor's rate of syncs, one sync per append, none more; aim equal"),
        _ => ("A4", ">= 0.85 of the floor, >= 1.5 x best peer; aim 0.95 of the floor"),
    };
    let title = format!("Durable append, batch {batch}, one writer");
    let notes = vec!["syncs are flush requests counted by the kernel for the whole device".to_owned()];
    Ok(Row { id: id.into(), title, unit: "events/s", better: Better::Higher, wanted, results, notes })
}

/// Runs all engines in turn, as often as asked, beginning with another one each time.
pub(super) fn interleaved(
    bench: &Bench,
    engines: &[&'static Engine],
    measure: impl Fn(&'static Engine) -> Result<Sample>,
) -> Vec<EngineResult> {
    let empty = |engine: &&Engine| EngineResult { name: engine.name.to_owned(), kind: engine.kind, runs: Vec::new() };
    let mut results: Vec<EngineResult> = engines.iter().map(empty).collect();
    for run in 0..bench.settings.runs {
        for turn in 0..engines.len() {
            let which = (turn + run) % engines.len();
            let sample = measure(engines[which]);
            if let Err(error) = &sample {
                eprintln!("{}: {error}", engines[which].name);
            }
            results[which].runs.push(sample.ok());
        }
    }
    results
}

/// The first appends over memory nobody touched lately, before anything is warm.
fn first_pass(bench: &Bench, engines: &[&'static Engine], firsts: &[bool]) -> Result<String> {
    let mut parts = Vec::new();
    for engine in engines.iter().filter(|engine| matches!(engine.kind, Kind::Annals | Kind::Floor)) {
        let sample = one(bench, engine, Durability::Buffered, 1, firsts, Some(bench.settings.buffered_limit), false)?;
        parts.push(format!("{} {}/s", engine.name, figure(sample.value, "events/s")));
    }
    let note = format!(
        "cold, memory as it was found and no segments prepared but the floor's (in the table's runs memory was touched \
         before, and annals reserved its segments as the floor did): {}",
        parts.join(", ")
    );
    Ok(note)
}

fn one(
    bench: &Bench,
    engine: &Engine,
    durability: Durability,
    batch: usize,
    firsts: &[bool],
    limit: Option<Duration>,
    warm: bool,
) -> Result<Sample> {
    let (work, settings) = (&bench.work, &bench.settings);
    let (warm_up, expected) = match durability {
        Durability::Buffered => (settings.warm_up, work.payload_bytes(settings.events())),
        // A disk takes a few hundred megabytes a second of synced batches.
        Durability::Durable => (10 * batch, if batch == 1 { 1 << 20 } else { durable_bytes(settings.durable_limit) }),
    };
    if warm && durability == Durability::Buffered {
        // Given back a moment ago, memory is warm for everybody alike.
        units::touch_memory(settings.events() * 600)?;
    }
    let opened = bench.open(engine, durability, expected)?;
    if warm {
        opened.log().reserve(expected)?;
    }
    let mut appender = Appender { writer: opened.log().writer()?, work, firsts, batch, buffer: Vec::new(), next: 0 };
    appender.run(warm_up, limit.map(|limit| limit / 3))?;
    let (mark, began) = (bench.device.as_ref().map(|device| device.mark()), Instant::now());
    let from = appender.next;
    appender.run(settings.events(), limit)?;
    let elapsed = began.elapsed();
    let counts = bench.device.as_ref().zip(mark).map(|(device, mark)| device.since(mark));
    let events = (appender.next - from) as f64;
    let appends = events / batch as f64;
    drop(appender);
    Ok(Sample {
        value: events / elapsed.as_secs_f64(),
        syncs_per_append: counts.map(|counts| counts.flushes as f64 / appends),
        written_per_event: counts.map(|counts| counts.bytes_written as f64 / events),
    })
}

/// What a floor prepares for a Durable run.
fn durable_bytes(limit: Duration) -> u64 {
    (limit.as_secs_f64() * 200e6) as u64
}

/// Appends the work in order.
pub(super) struct Appender<'a> {
    pub(super) writer: Box<dyn Writer + 'a>,
    pub(super) work: &'a Workload,
    pub(super) firsts: &'a [bool],
    pub(super) batch: usize,
    pub(super) buffer: Vec<EventIn<'a>>,
    pub(super) next: usize,
}

impl Appender<'_> {
    /// Appends whole batches until `upto` events stand in the log or the time is over.
    pub(super) fn run(&mut self, upto: usize, limit: Option<Duration>) -> Result<()> {
        let began = Instant::now();
        // A look at the clock every 64 appends costs less than a nanosecond each; slow batches look each time.
        let look = if self.batch == 1 { 64 } else { 1 };
        let upto = upto.min(self.work.len());
        let mut appends = 0;
        while self.next + self.batch <= upto {
            self.append()?;
            appends += 1;
            if appends % look == 0 && limit.is_some_and(|limit| began.elapsed() > limit) {
                break;
            }
        }
        Ok(())
    }

    #[inline]
    fn append(&mut self) -> Result<()> {
        let outcome = if self.batch == 1 {
            self.writer.append(&[self.work.event(self.next)])?
        } else {
            self.buffer.clear();
            for number in self.next..self.next + self.batch {
                let event = self.work.event(number);
                self.buffer.push(EventIn { first_in_batch: self.firsts[number], ..event });
            }
            self.writer.append(&self.buffer)?
        };
        self.next += self.batch;
        match outcome {
            Outcome::Committed => Ok(()),
            refused => Err(format!("an append that must succeed ended as {refused:?}").into()),
        }
    }
}
