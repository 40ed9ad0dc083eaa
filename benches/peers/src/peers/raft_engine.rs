//! raft-engine used as an event store: a stream is a raft group, a revision an index in it, one log batch an append.
//!
//! raft-engine keeps where each entry lies in memory and rebuilds that at open; the adapter does the same with names,
//! heads and ids. Entries of one group have to be handed in in order, so a writer holds a lock on the streams it
//! appends to until the engine has answered; writers of other streams share its group commit.

use std::path::Path;

use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::{encode, payload};
use crate::Result;
use crate::peer::{Durability, Log, Outcome, Scanned, Store, Writer};
use crate::workload::EventIn;

type Hash = foldhash::fast::RandomState;

/// Locks over streams.
const STRIPES: usize = 1024;

/// The engine's view of an entry: its index stands in its first eight bytes.
struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

/// See the module.
pub struct RaftEngine {
    engine: Engine,
    sync: bool,
    stripes: Vec<Mutex<()>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    heads: HashMap<Box<str>, u64, Hash>,
    ids: HashSet<[u8; 16], Hash>,
    /// Group and index of each position.
    log: Vec<(u64, u64)>,
}

impl RaftEngine {
    /// Opens an empty one. Durable asks the engine to sync the write, which groups those of several threads. Its
    /// compression of large batches is left off: nobody else in the comparison compresses.
    pub fn open(dir: &Path, durability: Durability, _bytes_expected: u64) -> Result<Box<dyn Log>> {
        let config = Config {
            dir: dir.join("raft").to_str().ok_or("a directory that is no text")?.to_owned(),
            batch_compression_threshold: ReadableSize(0),
            purge_threshold: ReadableSize::gb(1 << 20),
            ..Config::default()
        };
        let engine = Engine::open(config)?;
        if !engine.is_empty() {
            return Err("the adapter begins with an empty directory".into());
        }
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        let sync = durability == Durability::Durable;
        Ok(Box::new(Self { engine, sync, stripes, known: Mutex::default() }))
    }

    fn read(&self, group: u64, index: u64) -> Result<BytesValue> {
        let entry = self.engine.get_entry::<Entries>(group, index)?;
        Ok(entry.ok_or("an entry of the index is missing")?)
    }
}

/// The group of a stream: FNV-1a of its name. Two names of one hash are left to those who build a store on this.
fn group_of(stream: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    stream.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

impl Known {
    /// Checks all of the batch, then takes heads, ids and positions for it.
    fn take(&mut self, batch: &[EventIn<'_>]) -> Outcome {
        for (number, event) in batch.iter().enumerate() {
            if self.ids.contains(&event.id) {
                return Outcome::Duplicate;
            }
            // Later events of a stream in the batch rest on the first one, whose revision is the expectation.
            let rests = !event.first_in_batch && number > 0;
            if !rests && self.heads.get(event.stream).copied().unwrap_or(0) != event.revision {
                return Outcome::Conflict;
            }
        }
        for event in batch {
            if !self.ids.insert(event.id) {
                return Outcome::Duplicate;
            }
            match self.heads.get_mut(event.stream) {
                Some(head) => *head = event.revision + 1,
                None => drop(self.heads.insert(event.stream.into(), event.revision + 1)),
            }
            self.log.push((group_of(event.stream), event.revision + 1));
        }
        Outcome::Committed
    }
}

impl Log for RaftEngine {
    fn writer(&self) -> Result<Box<dyn Writer + '_>> {
        let (batch, entry, stripes) = (LogBatch::default(), [BytesValue::new()], Vec::new());
        Ok(Box::new(RaftWriter { store: self, batch, entry, stripes }))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.engine.sync()?)
    }

    fn store(&self) -> Option<&dyn Store> {
        Some(self)
    }
}

struct RaftWriter<'a> {
    store: &'a RaftEngine,
    batch: LogBatch,
    entry: [BytesValue; 1],
    stripes: Vec<usize>,
}

impl Writer for RaftWriter<'_> {
    fn append(&mut self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        self.stripes.clear();
        self.stripes.extend(batch.iter().map(|event| group_of(event.stream) as usize % STRIPES));
        self.stripes.sort_unstable();
        self.stripes.dedup();
        let single = (self.stripes.len() == 1).then(|| self.store.stripes[self.stripes[0]].lock());
        let several: Vec<_> = match single {
            Some(_) => Vec::new(),
            None => self.stripes.iter().map(|stripe| self.store.stripes[*stripe].lock()).collect(),
        };
        let outcome = self.store.known.lock().take(batch);
        if outcome == Outcome::Committed {
            for event in batch {
                encode(&mut self.entry[0].value, event);
                self.batch.add_entries::<Entries>(group_of(event.stream), &self.entry)?;
            }
            self.store.engine.write(&mut self.batch, self.store.sync)?;
        }
        drop((single, several));
        Ok(outcome)
    }
}

impl Store for RaftEngine {
    fn scan(&self) -> Result<Scanned> {
        let log = self.known.lock().log.clone();
        let mut scanned = Scanned::default();
        for (group, index) in log {
            scanned.add(payload(&self.read(group, index)?.value));
        }
        Ok(scanned)
    }

    fn read_stream(&self, stream: &str, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut entries = Vec::new();
        let head = self.latest(stream)?;
        self.engine.fetch_entries_to::<Entries>(group_of(stream), 1, head + 1, None, &mut entries)?;
        entries.iter().for_each(|entry| each(payload(&entry.value)));
        Ok(())
    }

    fn latest(&self, stream: &str) -> Result<u64> {
        Ok(self.known.lock().heads.get(stream).copied().unwrap_or(0))
    }
}
