//! Loads each store once and keeps it as long as it is asked to.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use annals::{Batch, Expect};
use serde_json::{Value, json};

use super::Scale;
use super::events::{Names, Shape, TYPES};
use super::everything::Everything;
use super::held::{Append, Held, Keeper, Ours, new_event, options};
use super::watch;
use crate::Result;
use crate::device;
use crate::peers::{lmdb, sqlite};
use crate::workload::Payloads;

/// Written last: what a directory without it holds is not complete.
const COMPLETE: &str = "complete.json";
/// Events of an append while loading.
const BATCH: u32 = 100;

impl Scale {
    /// The directory of a store, loaded now if it is not there yet.
    pub fn load(&self, keeper: Keeper, shape: Shape) -> Result<PathBuf> {
        let dir = self.stores.join(format!("{}-{}", keeper.name(), shape.name()));
        if dir.join(COMPLETE).exists() {
            return Ok(dir);
        }
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        let began = Instant::now();
        let mut facts = match keeper {
            Keeper::Annals => self.load_annals(&dir, shape)?,
            peer => {
                let names = Names::new(shape.streams);
                let all = Everything::new(shape, &names, &self.payloads);
                if peer == Keeper::Lmdb {
                    lmdb::load(&dir, &all)?
                } else {
                    sqlite::load(&dir, &all)?
                }
                json!({})
            }
        };
        device::settle(&dir)?;
        facts["events"] = json!(shape.events);
        facts["load_seconds"] = json!(began.elapsed().as_secs_f64());
        std::fs::write(dir.join(COMPLETE), serde_json::to_string_pretty(&facts)?)?;
        eprintln!("loaded {} in {:.0} s", dir.display(), began.elapsed().as_secs_f64());
        Ok(dir)
    }

    /// What was noted when the store was loaded.
    pub fn facts(&self, keeper: Keeper, shape: Shape) -> Result<Value> {
        let dir = self.load(keeper, shape)?;
        Ok(serde_json::from_str(&std::fs::read_to_string(dir.join(COMPLETE))?)?)
    }

    /// The store, loaded if need be, and opened.
    pub fn open(&self, keeper: Keeper, shape: Shape) -> Result<Box<dyn Held>> {
        keeper.open(&self.load(keeper, shape)?, self.segment_bytes)
    }

    /// The same with all its files in the page cache.
    pub fn open_warm(&self, keeper: Keeper, shape: Shape) -> Result<Box<dyn Held>> {
        bring_in(&self.load(keeper, shape)?)?;
        self.open(keeper, shape)
    }

    /// The store of annals itself, warm.
    pub fn open_ours(&self, shape: Shape) -> Result<Ours> {
        bring_in(&self.load(Keeper::Annals, shape)?)?;
        Ours::open(&self.load(Keeper::Annals, shape)?, options(self.segment_bytes))
    }

    /// Appends everything in order and notes what the background threads did meanwhile.
    fn load_annals(&self, dir: &Path, shape: Shape) -> Result<Value> {
        let names = Names::new(shape.streams);
        let store_dir = dir.join("store");
        let ours = Ours::open(dir, options(self.segment_bytes))?;
        let stop = AtomicBool::new(false);
        let before = watch::thread_times()?;
        std::thread::scope(|scope| {
            let written = scope.spawn(|| watch::index_writes(&store_dir, &stop));
            let loaded = self.append_all(&ours, shape, &names, &before);
            let closed = loaded.and_then(|facts| {
                let (time, began) = (watch::own_time()?, Instant::now());
                ours.store.close()?;
                Ok((facts, watch::own_time()? - time, began.elapsed()))
            });
            stop.store(true, Ordering::Release);
            let written = written.join().map_err(|_| "the watch of the directory ended badly")??;
            let (mut facts, close_time, close) = closed?;
            let (bytes_kept, files_kept) = watch::index_files(&store_dir)?;
            facts["close_ms"] = json!(close.as_secs_f64() * 1e3);
            facts["close_cpu_ms"] = json!(close_time.as_secs_f64() * 1e3);
            facts["index_bytes_written"] = json!(written.bytes);
            facts["index_files_written"] = json!(written.files);
            facts["index_files_missed"] = json!(written.missed);
            facts["index_bytes_kept"] = json!(bytes_kept);
            facts["index_files_kept"] = json!(files_kept);
            Ok(facts)
        })
    }

    fn append_all(
        &self,
        ours: &Ours,
        shape: Shape,
        names: &Names,
        before: &std::collections::BTreeMap<String, std::time::Duration>,
    ) -> Result<Value> {
        let began = Instant::now();
        append_all(ours, shape, names, &self.payloads)?;
        ours.store.sync()?;
        let appended = began.elapsed();
        let after = watch::wait_idle(super::background::is_for_the_index)?;
        let settled = began.elapsed();
        let busy = |(name, time): (&String, &std::time::Duration)| {
            let before = before.get(name).copied().unwrap_or_default();
            (name.clone(), json!((*time - before).as_secs_f64() * 1e3))
        };
        let background = after.iter().filter(|(name, _)| super::background::is_background(name));
        let threads: serde_json::Map<String, Value> = background.map(busy).collect();
        let stats = ours.store.stats();
        Ok(json!({
            "append_seconds": appended.as_secs_f64(),
            "settled_seconds": settled.as_secs_f64(),
            "segments": stats.segments,
            "segment_bytes": stats.segment_bytes,
            "threads_cpu_ms": threads,
        }))
    }
}

/// Reads every file once.
pub(super) fn bring_in(dir: &Path) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.metadata()?.is_dir() {
            bring_in(&entry.path())?;
        } else {
            let mut file = std::fs::File::open(entry.path())?;
            while file.read(&mut buffer)? > 0 {}
        }
    }
    Ok(())
}

/// Appends all events in batches.
fn append_all(ours: &Ours, shape: Shape, names: &Names, payloads: &Payloads) -> Result<()> {
    let mut heads = vec![0u32; shape.streams as usize];
    for first in (0..shape.events).step_by(BATCH as usize) {
        let numbers = first..shape.events.min(first + BATCH);
        let draws: Vec<_> = numbers.clone().map(|number| shape.draw(number)).collect();
        let tags: Vec<_> =
            draws.iter().map(|draw| [names.customer(draw.customer), Names::region(draw.region)]).collect();
        let mut batch = Batch::with_capacity(draws.len());
        for ((number, draw), tags) in numbers.zip(&draws).zip(&tags) {
            let stream = names.stream(draw.stream);
            let head = &mut heads[draw.stream as usize];
            let in_batch = draws[..(number - first) as usize].iter().any(|earlier| earlier.stream == draw.stream);
            if !in_batch {
                batch.push_expectation(stream, Expect::revision(u64::from(*head)));
            }
            let event = Append {
                stream,
                revision: u64::from(*head),
                id: Some(shape.id(number)),
                event_type: TYPES[usize::from(draw.event_type)],
                tags,
                payload: payloads.of(number),
            };
            batch.push(stream, new_event(&event));
            *head += 1;
        }
        ours.store.commit(&batch)?;
    }
    Ok(())
}
