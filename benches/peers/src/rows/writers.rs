//! A5: many threads append one event at a time and wait until it is durable.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use super::Bench;
use super::appends::interleaved;
use crate::Result;
use crate::engines::{Engine, Kind};
use crate::peer::{Durability, Log, Outcome};
use crate::report::{Better, Row, Sample};
use crate::workload::Workload;

/// The row for this many writers.
pub(super) fn row(bench: &Bench, writers: usize) -> Result<Row> {
    let shares = bench.work.shares(writers);
    let engines: Vec<_> = bench
        .settings
        .engines
        .iter()
        .copied()
        .filter(|engine| engine.many_writers && engine.kind != Kind::Beside)
        .collect();
    let results = interleaved(bench, &engines, |engine| one(bench, engine, &shares));
    Ok(Row {
        id: format!("A5, {writers} writers"),
        title: format!("Durable append, batch 1, {writers} blocking writers"),
        unit: "events/s",
        better: Better::Higher,
        wanted: ">= 1.3 x best peer, >= 0.9 of the hand-written group commit, <= 0.2 sync per append; aim 1.6 x, 64 \
                 writers 3 x the figure of 8",
        results,
        notes: vec!["the floor is the hand-written group commit".to_owned()],
    })
}

fn one(bench: &Bench, engine: &Engine, shares: &[Vec<u32>]) -> Result<Sample> {
    let opened = bench.open(engine, Durability::Durable, 48 << 20)?;
    opened.log().reserve(48 << 20)?;
    let (start, stop) = (Barrier::new(shares.len() + 1), AtomicBool::new(false));
    let appended = AtomicU64::new(0);
    thread::scope(|scope| {
        let threads: Vec<_> = shares
            .iter()
            .map(|share| scope.spawn(|| writer(opened.log(), &bench.work, share, &start, &stop, &appended)))
            .collect();
        start.wait();
        // The first tenth of the time is warm-up.
        thread::sleep(bench.settings.durable_limit / 10);
        let mark = bench.device.as_ref().map(|device| device.mark());
        let (began, before) = (Instant::now(), appended.load(Ordering::Relaxed));
        thread::sleep(bench.settings.durable_limit);
        let (elapsed, after) = (began.elapsed(), appended.load(Ordering::Relaxed));
        let counts = bench.device.as_ref().zip(mark).map(|(device, mark)| device.since(mark));
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("a writer does not panic")?;
        }
        let events = (after - before) as f64;
        Ok(Sample {
            value: events / elapsed.as_secs_f64(),
            syncs_per_append: counts.map(|counts| counts.flushes as f64 / events),
            written_per_event: counts.map(|counts| counts.bytes_written as f64 / events),
        })
    })
}

fn writer(
    log: &dyn Log,
    work: &Workload,
    share: &[u32],
    start: &Barrier,
    stop: &AtomicBool,
    appended: &AtomicU64,
) -> Result<()> {
    let writer = log.writer();
    start.wait();
    let mut writer = writer?;
    for number in share {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        match writer.append(&[work.event(*number as usize)])? {
            Outcome::Committed => drop(appended.fetch_add(1, Ordering::Relaxed)),
            refused => {
                return Err(format!("an append that must succeed ended as {refused:?}").into());
            }
        }
    }
    Err("a writer ran out of events: prepare more (--events)".into())
}
