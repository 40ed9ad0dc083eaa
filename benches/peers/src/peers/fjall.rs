//! fjall: three keyspaces, one write batch an append under one lock.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::Mutex;

use super::{encode, payload, revision_of, stream_key};
use crate::Result;
use crate::peer::{Durability, Log, Outcome, Scanned, Store, Writer};
use crate::workload::EventIn;

/// See the module.
pub struct Fjall {
    database: Database,
    events: Keyspace,
    ids: Keyspace,
    streams: Keyspace,
    persist: PersistMode,
    head: Mutex<Head>,
}

#[derive(Default)]
struct Head {
    position: u64,
    /// Ids and rows of the batch at hand: the write batch cannot be asked what it holds.
    pending: std::collections::HashSet<Vec<u8>>,
}

impl Fjall {
    /// Opens it. Durable syncs the journal's data at each commit, Buffered hands it to the operating system.
    pub fn open(dir: &Path, durability: Durability, _bytes_expected: u64) -> Result<Box<dyn Log>> {
        let database = Database::builder(dir).cache_size(512 << 20).open()?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default);
        let (events, ids, streams) = (keyspace("events")?, keyspace("ids")?, keyspace("streams")?);
        let persist = match durability {
            Durability::Buffered => PersistMode::Buffer,
            Durability::Durable => PersistMode::SyncData,
        };
        let position = match events.last_key_value() {
            Some(guard) => u64::from_be_bytes(guard.key()?.as_ref().try_into()?),
            None => 0,
        };
        let head = Mutex::new(Head { position, ..Head::default() });
        Ok(Box::new(Self { database, events, ids, streams, persist, head }))
    }

    fn append(&self, batch: &[EventIn<'_>], key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<Outcome> {
        let mut head = self.head.lock();
        let head = &mut *head;
        let alone = batch.len() == 1;
        head.pending.clear();
        let mut position = head.position;
        let mut write = self.database.batch().durability(Some(self.persist));
        for event in batch {
            position += 1;
            let place = position.to_be_bytes();
            if self.ids.contains_key(event.id)? || !alone && !head.pending.insert(event.id.to_vec()) {
                return Ok(Outcome::Duplicate);
            }
            stream_key(key, event.stream, event.revision);
            if event.revision > 0 && !head.pending.contains(key) && !self.streams.contains_key(&*key)? {
                return Ok(Outcome::Conflict);
            }
            stream_key(key, event.stream, event.revision + 1);
            if self.streams.contains_key(&*key)? || !alone && !head.pending.insert(key.clone()) {
                return Ok(Outcome::Conflict);
            }
            encode(value, event);
            write.insert(&self.ids, event.id, place);
            write.insert(&self.streams, key.as_slice(), place);
            write.insert(&self.events, place, value.as_slice());
        }
        write.commit()?;
        head.position = position;
        Ok(Outcome::Committed)
    }
}

impl Log for Fjall {
    fn writer(&self) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(FjallWriter { store: self, key: Vec::new(), value: Vec::new() }))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn compact(&self) -> Result<()> {
        for keyspace in [&self.events, &self.ids, &self.streams] {
            keyspace.rotate_memtable_and_wait()?;
            keyspace.major_compact()?;
        }
        Ok(())
    }

    fn store(&self) -> Option<&dyn Store> {
        Some(self)
    }
}

struct FjallWriter<'a> {
    store: &'a Fjall,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Writer for FjallWriter<'_> {
    fn append(&mut self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        self.store.append(batch, &mut self.key, &mut self.value)
    }
}

impl Store for Fjall {
    fn scan(&self) -> Result<Scanned> {
        let mut scanned = Scanned::default();
        for row in self.events.iter() {
            scanned.add(payload(&row.value()?));
        }
        Ok(scanned)
    }

    fn read_stream(&self, stream: &str, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut prefix = Vec::new();
        stream_key(&mut prefix, stream, 0);
        prefix.truncate(stream.len() + 1);
        for row in self.streams.prefix(&prefix) {
            let stored = self.events.get(row.value()?)?.ok_or("an event of the index is missing")?;
            each(payload(&stored));
        }
        Ok(())
    }

    fn latest(&self, stream: &str) -> Result<u64> {
        let mut prefix = Vec::new();
        stream_key(&mut prefix, stream, 0);
        prefix.truncate(stream.len() + 1);
        let last = self.streams.prefix(&prefix).next_back().map(|row| row.key()).transpose()?;
        Ok(last.map_or(0, |key| revision_of(&key, stream)))
    }
}
