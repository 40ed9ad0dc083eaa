//! A1L: Buffered appends until the disk bounds them, beside plain writes of as many bytes.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::appends::{Appender, interleaved};
use super::{Bench, Scratch};
use crate::Result;
use crate::device;
use crate::engines::{BASE, Engine, Kind};
use crate::peer::Durability;
use crate::report::{Better, Row, Sample};

/// Events of an append.
const BATCH: usize = 100;
/// Bytes of a plain write.
const CHUNK: usize = 1 << 20;

static RAW: Engine = Engine { name: "plain writes", kind: Kind::Floor, ..BASE };

/// The row.
pub(super) fn row(bench: &Bench) -> Result<Row> {
    let firsts = bench.work.firsts(BATCH);
    let ours = bench.settings.engines.iter().copied().filter(|engine| engine.kind == Kind::Annals);
    let engines: Vec<_> = std::iter::once(&RAW).chain(ours).collect();
    let events = bench.work.len() / BATCH * BATCH;
    let results = interleaved(bench, &engines, |engine| match engine.kind {
        Kind::Floor => plain(bench, events),
        _ => one(bench, engine, &firsts, events),
    });
    let gib = bench.work.payload_bytes(events) as f64 / f64::from(1 << 30);
    Ok(Row {
        id: "A1L".into(),
        title: format!("Buffered append, batches of {BATCH}, {gib:.1} GiB of payload, the last sync included"),
        unit: "MB/s",
        better: Better::Higher,
        wanted: "shown beside A1 and A2",
        results,
        notes: vec![format!("plain writes are of {CHUNK} bytes into a growing file; figures are of bytes of payload")],
    })
}

fn one(bench: &Bench, engine: &Engine, firsts: &[bool], events: usize) -> Result<Sample> {
    let opened = bench.open(engine, Durability::Buffered, 0)?;
    let began = Instant::now();
    let (writer, buffer) = (opened.log().writer()?, Vec::new());
    let mut appender = Appender { writer, work: &bench.work, firsts, batch: BATCH, buffer, next: 0 };
    appender.run(events, None)?;
    drop(appender);
    opened.log().sync()?;
    let elapsed = began.elapsed();
    let bytes = bench.work.payload_bytes(events) as f64;
    let stored = device::allocated(&opened.scratch.path)? as f64;
    Ok(Sample {
        value: bytes / elapsed.as_secs_f64() / 1e6,
        written_per_event: Some(stored / events as f64),
        ..Sample::default()
    })
}

fn plain(bench: &Bench, events: usize) -> Result<Sample> {
    let scratch = Scratch::create(&bench.settings.dir, "plain")?;
    let file = OpenOptions::new().create_new(true).write(true).open(scratch.path.join("plain"))?;
    let chunk = vec![0x5a; CHUNK];
    let bytes = bench.work.payload_bytes(events);
    let began = Instant::now();
    let mut at = 0;
    while at < bytes {
        file.write_all_at(&chunk, at)?;
        at += CHUNK as u64;
    }
    file.sync_all()?;
    Ok(Sample { value: at as f64 / began.elapsed().as_secs_f64() / 1e6, ..Sample::default() })
}
