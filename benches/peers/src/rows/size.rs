//! A8: bytes an event takes on the disk.

use super::Bench;
use super::appends::Appender;
use crate::Result;
use crate::device;
use crate::engines::Kind;
use crate::peer::Durability;
use crate::report::{Better, EngineResult, Row, Sample};

/// The row for events stored in batches of this many.
pub(super) fn row(bench: &Bench, batch: usize) -> Result<Row> {
    let count = bench.settings.scanned.min(bench.work.len()).min(200_000) / batch * batch;
    let firsts = bench.work.firsts(batch);
    let (mut results, mut notes) = (Vec::new(), Vec::new());
    let stores = bench.settings.engines.iter();
    let stores = stores.filter(|engine| matches!(engine.kind, Kind::Annals | Kind::Floor | Kind::Peer));
    // Stores that sync every append would take too long one event at a time.
    for engine in stores.filter(|engine| engine.buffered || batch > 1 && engine.kind == Kind::Peer) {
        let durability = if engine.buffered { Durability::Buffered } else { Durability::Durable };
        let opened = bench.open(engine, durability, bench.work.payload_bytes(count))?;
        let (writer, buffer) = (opened.log().writer()?, Vec::new());
        let mut appender = Appender { writer, work: &bench.work, firsts: &firsts, batch, buffer, next: 0 };
        appender.run(count, None)?;
        drop(appender);
        opened.log().sync()?;
        let scratch = opened.close();
        let log = device::written(&scratch.path, engine.log_files)?;
        let all = device::allocated(&scratch.path)?;
        let sample = Sample { value: log as f64 / count as f64, ..Sample::default() };
        results.push(EngineResult { name: engine.name.into(), kind: engine.kind, runs: vec![Some(sample)] });
        notes.push(format!(
            "{}: {:.0} B/event of blocks in its whole directory",
            engine.name,
            all as f64 / count as f64
        ));
    }
    notes.push("the table counts the files that hold the events, without the zeros at their ends".to_owned());
    Ok(Row {
        id: format!("A8, batches of {batch}"),
        title: format!("Bytes per live event, {count} events"),
        unit: "B/event",
        better: Better::Lower,
        wanted: if batch == 1 { "<= 410 B; aim 370 B" } else { "<= 350 B; aim 330 B" },
        results,
        notes,
    })
}
