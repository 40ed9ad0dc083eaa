//! A6: one thread appends ahead of the disk, with a bound on what is in flight.

use std::collections::VecDeque;
use std::time::Instant;

use super::appends::interleaved;
use super::{Bench, Scratch};
use crate::Result;
use crate::engines::{BASE, Engine, Kind};
use crate::floor::pipeline;
use crate::peer::Durability;
use crate::report::{Better, Row, Sample};
use crate::units;
use crate::workload::EventIn;

/// The row for this bound, in bytes.
pub(super) fn row(bench: &Bench, in_flight: usize) -> Result<Row> {
    let mut engines = Vec::new();
    for engine in bench.settings.serving(Durability::Durable) {
        if !matches!(engine.kind, Kind::Floor | Kind::Beside)
            && bench.open(engine, Durability::Durable, 0)?.log().tickets().is_some()
        {
            engines.push(engine);
        }
    }
    // The raw pipeline stands in for the floor and takes its turn among the engines.
    engines.insert(0, &RAW);
    let results = interleaved(bench, &engines, |engine| match engine.kind {
        Kind::Floor => raw(bench, in_flight),
        _ => one(bench, engine, in_flight),
    });
    Ok(Row {
        id: format!("A6, {} KiB in flight", in_flight >> 10),
        title: "Durable, one thread, tickets".into(),
        unit: "events/s",
        better: Better::Higher,
        wanted: ">= 0.5 of the raw pipeline; aim 0.75",
        results,
        notes: vec![
            "the floor is the raw pipeline: payloads alone, its segments zero-filled while the clock runs (the first \
             one before)"
                .to_owned(),
            "in flight counts what the caller handed in: payload, names and id; of the raw pipeline the payload, \
             which is all it has"
                .to_owned(),
        ],
    })
}

static RAW: Engine = Engine { name: "raw pipeline", kind: Kind::Floor, ..BASE };

/// As much memory as the fastest of them fills in its time.
const TOUCHED: usize = 3 << 30;

fn raw(bench: &Bench, in_flight: usize) -> Result<Sample> {
    units::touch_memory(TOUCHED)?;
    let scratch = Scratch::create(&bench.settings.dir, "raw")?;
    let mark = bench.device.as_ref().map(|device| device.mark());
    let moved = pipeline::run(&scratch.path, &bench.work, in_flight, bench.settings.durable_limit)?;
    let counts = bench.device.as_ref().zip(mark).map(|(device, mark)| device.since(mark));
    let events = moved.events as f64;
    Ok(Sample {
        value: events / moved.elapsed.as_secs_f64(),
        syncs_per_append: counts.map(|counts| counts.flushes as f64 / events),
        written_per_event: counts.map(|counts| counts.bytes_written as f64 / events),
    })
}

fn one(bench: &Bench, engine: &Engine, in_flight: usize) -> Result<Sample> {
    units::touch_memory(TOUCHED)?;
    let opened = bench.open(engine, Durability::Durable, 0)?;
    let mut tickets = opened.log().tickets().ok_or("no tickets")?;
    let mark = bench.device.as_ref().map(|device| device.mark());
    let (began, limit) = (Instant::now(), bench.settings.durable_limit);
    let (mut waiting, mut bytes, mut events) = (VecDeque::new(), 0, 0u64);
    for number in 0..bench.work.len() {
        let event = bench.work.event(number);
        let len = handed_in(&event);
        while bytes + len > in_flight {
            tickets.wait_oldest()?;
            bytes -= waiting.pop_front().ok_or("an event larger than the bound")?;
        }
        tickets.submit(&event)?;
        waiting.push_back(len);
        bytes += len;
        events += 1;
        if events.is_multiple_of(256) && began.elapsed() > limit {
            break;
        }
    }
    for _ in waiting {
        tickets.wait_oldest()?;
    }
    let elapsed = began.elapsed();
    let counts = bench.device.as_ref().zip(mark).map(|(device, mark)| device.since(mark));
    Ok(Sample {
        value: events as f64 / elapsed.as_secs_f64(),
        syncs_per_append: counts.map(|counts| counts.flushes as f64 / events as f64),
        written_per_event: counts.map(|counts| counts.bytes_written as f64 / events as f64),
    })
}

fn handed_in(event: &EventIn<'_>) -> usize {
    event.payload.len() + event.stream.len() + event.event_type.len() + event.id.len()
}
