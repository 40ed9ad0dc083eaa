//! A7: all events once, in order, checked, on one thread.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::appends::Appender;
use super::{Bench, Opened};
use crate::Result;
use crate::engines::{Engine, Kind};
use crate::floor::extents;
use crate::floor::scan::{Place, RawScan};
use crate::floor::{FRAME_HEADER_LEN, FloorLog};
use crate::peer::{Durability, Scanned};
use crate::report::{Better, EngineResult, Row, Sample};

/// Events an append stores while the engines are filled.
const BATCH: usize = 1000;

/// The row.
pub(super) fn row(bench: &Bench) -> Result<Row> {
    let count = bench.settings.scanned.min(bench.work.len()) / BATCH * BATCH;
    let firsts = bench.work.firsts(BATCH);
    let mut filled = Vec::new();
    for engine in bench.settings.engines.iter().filter(|engine| !matches!(engine.kind, Kind::Floor | Kind::Beside)) {
        match fill(bench, engine, count, &firsts) {
            Ok(Some(opened)) => filled.push((*engine, opened)),
            Ok(None) => {}
            Err(error) => eprintln!("{}: {error}", engine.name),
        }
    }
    let expected = expected(bench, count);
    let ours = filled.iter().find(|(engine, _)| engine.kind == Kind::Annals);
    let (raw, files) = match ours.and_then(|(engine, opened)| places(engine, opened)) {
        Some(raw) => (raw?, "annals' own segments"),
        None => (floor(bench, count)?, "the floor's files"),
    };
    let raw = Raw { raw, expected };
    let mut results = vec![EngineResult { name: "raw CRC scan".into(), kind: Kind::Floor, runs: Vec::new() }];
    let names = filled.iter().map(|(engine, _)| (engine.name.to_owned(), engine.kind));
    results.extend(names.map(|(name, kind)| EngineResult { name, kind, runs: Vec::new() }));
    // Once before the runs, so that every engine finds its pages mapped.
    for run in 0..=bench.settings.runs {
        for turn in 0..results.len() {
            let which = (turn + run) % results.len();
            let sample = match which.checked_sub(1) {
                None => raw.once(),
                Some(number) => scan(&filled[number].1, expected),
            };
            if let Err(error) = &sample {
                eprintln!("{}: {error}", results[which].name);
            }
            if run > 0 {
                results[which].runs.push(sample.ok());
            }
        }
    }
    Ok(Row {
        id: "A7".into(),
        title: format!("Scan of {count} events, one thread, payloads summed"),
        unit: "events/s",
        better: Better::Higher,
        wanted: ">= 0.7 of the raw CRC scan, >= LMDB's; aim 0.85, twice LMDB's",
        results,
        notes: vec![
            format!("the raw scan runs over {files}, mapped before: crc32fast for each event, lengths known"),
            "annals, tephra and fjall check checksums while they read; LMDB, SQLite and redb do not; raft-engine reads \
             entry by entry"
                .to_owned(),
        ],
    })
}

struct Raw {
    raw: RawScan,
    expected: Scanned,
}

impl Raw {
    fn once(&self) -> Result<Sample> {
        let began = Instant::now();
        let scanned = self.raw.run();
        sample(scanned, self.expected, began)
    }
}

fn scan(opened: &Opened, expected: Scanned) -> Result<Sample> {
    let store = opened.log().store().ok_or("no store")?;
    let began = Instant::now();
    let scanned = store.scan()?;
    sample(scanned, expected, began)
}

fn sample(scanned: Scanned, expected: Scanned, began: Instant) -> Result<Sample> {
    let elapsed = began.elapsed();
    if scanned != expected {
        return Err(format!("the scan saw {scanned:?}, stored was {expected:?}").into());
    }
    Ok(Sample { value: scanned.events as f64 / elapsed.as_secs_f64(), ..Sample::default() })
}

fn expected(bench: &Bench, count: usize) -> Scanned {
    let mut scanned = Scanned::default();
    (0..count).for_each(|number| scanned.add(bench.work.event(number).payload));
    scanned
}

/// An engine holding `count` events; `None` when it is no event store.
fn fill(bench: &Bench, engine: &Engine, count: usize, firsts: &[bool]) -> Result<Option<Opened>> {
    let durability = if engine.buffered { Durability::Buffered } else { Durability::Durable };
    let opened = bench.open(engine, durability, bench.work.payload_bytes(count))?;
    if opened.log().store().is_none() {
        return Ok(None);
    }
    append(bench, &opened, count, firsts)?;
    opened.log().sync()?;
    Ok(Some(opened))
}

fn append(bench: &Bench, opened: &Opened, count: usize, firsts: &[bool]) -> Result<()> {
    let writer = opened.log().writer()?;
    let buffer = Vec::with_capacity(BATCH);
    let mut appender = Appender { writer, work: &bench.work, firsts, batch: BATCH, buffer, next: 0 };
    appender.run(count, None)
}

/// The raw scan over annals' own segments, where the adapter can tell the places of its events.
fn places(engine: &Engine, opened: &Opened) -> Option<Result<RawScan>> {
    let places = engine.places?;
    Some(places(&opened.scratch.path).and_then(|(files, places)| RawScan::open(&files, places)))
}

/// The raw scan over a floor log of the same events.
fn floor(bench: &Bench, count: usize) -> Result<RawScan> {
    let scratch = super::Scratch::create(&bench.settings.dir, "floor-scan")?;
    let bytes = bench.work.payload_bytes(count);
    let log = FloorLog::open(&scratch.path, Durability::Buffered, bytes)?;
    let opened = Opened { log: Some(log), scratch };
    append(bench, &opened, count, &bench.work.firsts(BATCH))?;
    let (files, places) = floor_places(&opened.scratch.path)?;
    // The maps keep the files when the directory goes.
    RawScan::open(&files, places)
}

fn floor_places(dir: &Path) -> Result<(Vec<PathBuf>, Vec<Place>)> {
    let (mut files, mut places) = (Vec::new(), Vec::new());
    for number in 0.. {
        let path = extents::path(dir, number);
        let Ok(bytes) = std::fs::read(&path) else {
            break;
        };
        files.push(path);
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + FRAME_HEADER_LEN) {
            let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            if len == 0 {
                break;
            }
            let names = u32::from(header[FRAME_HEADER_LEN - 2]) + u32::from(header[FRAME_HEADER_LEN - 1]);
            let payload_at = FRAME_HEADER_LEN as u32 + names;
            let payload_len = len - payload_at;
            places.push(Place { file: number, at: at as u32, len, payload_at, payload_len });
            at += len as usize;
        }
    }
    Ok((files, places))
}
