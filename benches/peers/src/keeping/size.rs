//! E1: bytes an event takes when everything was done to keep it small.

use std::path::Path;
use std::time::Instant;

use annals::{CompactionOptions, Durability, LiveSegment, Options, Store};

use super::Settings;
use crate::Result;
use crate::annals::append_all;
use crate::device;
use crate::engines::{ENGINES, Kind};
use crate::peer::Durability as Asked;
use crate::report::{Better, EngineResult, Row, Sample};
use crate::workload::{Source, Workload};

/// Events handed to an engine at once.
const BATCH: usize = 1_000;
/// The engines beside annals: those that can be told to make themselves small, and LMDB.
const PEERS: [&str; 3] = ["sqlite", "fjall", "lmdb"];

pub(super) fn row(settings: &Settings, source: Source, events: usize, with_peers: bool) -> Result<Row> {
    let work = Workload::prepare(source, events, &settings.dir)?;
    let (mut results, mut notes) = (Vec::new(), Vec::new());
    let mut show = |name: &str, kind: Kind, bytes: u64| {
        let sample = Sample { value: bytes as f64 / events as f64, ..Sample::default() };
        results.push(EngineResult { name: name.to_owned(), kind, runs: vec![Some(sample)] });
    };
    for batch in [1, 100] {
        let dir = settings.dir.join("size");
        let store = filled(&dir, &work, batch)?;
        store.check_index()?;
        let before = counted(&dir)?;
        let began = Instant::now();
        let report = store.compact(&CompactionOptions::new().live_segment(LiveSegment::End))?;
        let took = began.elapsed();
        store.close()?;
        let after = counted(&dir)?;
        show(&format!("annals, batches of {batch}"), Kind::Annals, after.all());
        notes.push(format!(
            "annals, batches of {batch}: before {:.1} B an event (segments {:.1}, index {:.1}), after {:.1} (containers {:.1}, \
             index {:.1}); {} segments of {} MB in {:.1} s",
            before.all() as f64 / events as f64,
            before.segments as f64 / events as f64,
            before.index as f64 / events as f64,
            after.all() as f64 / events as f64,
            after.segments as f64 / events as f64,
            after.index as f64 / events as f64,
            report.compacted.len(),
            report.bytes_before >> 20,
            took.as_secs_f64(),
        ));
        std::fs::remove_dir_all(&dir)?;
    }
    for engine in ENGINES.iter().filter(|engine| with_peers && PEERS.contains(&engine.name)) {
        let dir = settings.dir.join("size");
        std::fs::create_dir_all(&dir)?;
        let log = (engine.open)(&dir, Asked::Buffered, work.payload_bytes(events))?;
        let firsts = work.firsts(BATCH);
        append_all(&work, BATCH, |batch| log.writer()?.append(batch).map(drop), &firsts)?;
        log.sync()?;
        let before = device::allocated(&dir)?;
        log.compact()?;
        drop(log);
        let after = device::allocated(&dir)?;
        show(engine.name, engine.kind, after);
        notes.push(format!("{}: before {:.1} B an event", engine.name, before as f64 / events as f64));
        std::fs::remove_dir_all(&dir)?;
    }
    notes.push("annals: all files but the segment that is being written; the others: the whole directory".to_owned());
    notes.push(work.description.clone());
    Ok(Row {
        id: "E1".to_owned(),
        title: format!("Bytes an event takes after compaction, VACUUM or full compaction, {events} events"),
        unit: "B/event",
        better: Better::Lower,
        wanted: "<= 150 B; aim 120 B",
        results,
        notes,
    })
}

/// A store in `dir` with all events of `work`.
pub(super) fn filled(dir: &Path, work: &Workload, batch: usize) -> Result<Store> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    let store = Options::new().durability(Durability::Buffered).open(dir)?;
    let firsts = work.firsts(batch);
    append_all(work, batch, |events| crate::annals::commit(&store, events), &firsts)?;
    store.sync()?;
    Ok(store)
}

#[derive(Default)]
struct Counted {
    segments: u64,
    index: u64,
    other: u64,
}

impl Counted {
    fn all(&self) -> u64 {
        self.segments + self.index + self.other
    }
}

/// Bytes of the files of a store, but for the segment that is being written and those made ahead.
fn counted(dir: &Path) -> Result<Counted> {
    use std::os::unix::fs::MetadataExt;
    let mut names: Vec<_> =
        std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<std::io::Result<_>>()?;
    names.sort();
    let names: Vec<&str> = names.iter().filter_map(|name| name.to_str()).collect();
    // A segment with an index has ended.
    let is_ended = |name: &str| names.contains(&format!("{}.idx", &name[..28.min(name.len())]).as_str());
    let mut counted = Counted::default();
    for name in &names {
        let len = std::fs::metadata(dir.join(name))?.blocks() * 512;
        match name {
            name if name.starts_with("segment-") && name.ends_with(".log") => {
                if is_ended(name) {
                    counted.segments += len;
                }
            }
            name if name.ends_with(".idx") || name.starts_with("INDEX-") => counted.index += len,
            _ => counted.other += len,
        }
    }
    Ok(counted)
}
