//! redb: three tables, one transaction an append. Durable only: its commits without a sync stay in the process, so
//! they do not survive its kill.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{encode, payload, revision_of, stream_key};
use crate::Result;
use crate::peer::{Durability, Log, Outcome, Scanned, Store, Writer};
use crate::workload::EventIn;

const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");
const IDS: TableDefinition<&[u8; 16], u64> = TableDefinition::new("ids");
const STREAMS: TableDefinition<&[u8], u64> = TableDefinition::new("streams");

/// See the module.
pub struct Redb {
    database: Database,
}

impl Redb {
    /// Opens it; a commit is durable when it returns.
    pub fn open(dir: &Path, durability: Durability, _bytes_expected: u64) -> Result<Box<dyn Log>> {
        if durability == Durability::Buffered {
            return Err("redb has no commit that survives a kill without a sync".into());
        }
        let database = Database::create(dir.join("events.redb"))?;
        let txn = database.begin_write()?;
        txn.open_table(EVENTS)?;
        txn.open_table(IDS)?;
        txn.open_table(STREAMS)?;
        txn.commit()?;
        Ok(Box::new(Self { database }))
    }

    fn append(&self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        let txn = self.database.begin_write()?;
        let outcome = insert(&txn, batch)?;
        match outcome {
            Outcome::Committed => txn.commit()?,
            Outcome::Conflict | Outcome::Duplicate => txn.abort()?,
        }
        Ok(outcome)
    }
}

fn insert(txn: &redb::WriteTransaction, batch: &[EventIn<'_>]) -> Result<Outcome> {
    let mut events = txn.open_table(EVENTS)?;
    let mut ids = txn.open_table(IDS)?;
    let mut streams = txn.open_table(STREAMS)?;
    let mut position = events.last()?.map_or(0, |(position, _)| position.value());
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for event in batch {
        position += 1;
        if ids.insert(&event.id, position)?.is_some() {
            return Ok(Outcome::Duplicate);
        }
        if event.revision > 0 {
            stream_key(&mut key, event.stream, event.revision);
            if streams.get(key.as_slice())?.is_none() {
                return Ok(Outcome::Conflict);
            }
        }
        stream_key(&mut key, event.stream, event.revision + 1);
        if streams.insert(key.as_slice(), position)?.is_some() {
            return Ok(Outcome::Conflict);
        }
        encode(&mut value, event);
        events.insert(position, value.as_slice())?;
    }
    Ok(Outcome::Committed)
}

impl Log for Redb {
    fn writer(&self) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(RedbWriter(self)))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn store(&self) -> Option<&dyn Store> {
        Some(self)
    }
}

struct RedbWriter<'a>(&'a Redb);

impl Writer for RedbWriter<'_> {
    fn append(&mut self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        self.0.append(batch)
    }
}

impl Store for Redb {
    fn scan(&self) -> Result<Scanned> {
        let txn = self.database.begin_read()?;
        let mut scanned = Scanned::default();
        for row in txn.open_table(EVENTS)?.iter()? {
            scanned.add(payload(row?.1.value()));
        }
        Ok(scanned)
    }

    fn read_stream(&self, stream: &str, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let txn = self.database.begin_read()?;
        let (streams, events) = (txn.open_table(STREAMS)?, txn.open_table(EVENTS)?);
        let (mut from, mut to) = (Vec::new(), Vec::new());
        stream_key(&mut from, stream, 0);
        stream_key(&mut to, stream, u64::MAX);
        for row in streams.range(from.as_slice()..to.as_slice())? {
            let stored = events.get(row?.1.value())?.ok_or("an event of the index is missing")?;
            each(payload(stored.value()));
        }
        Ok(())
    }

    fn latest(&self, stream: &str) -> Result<u64> {
        let txn = self.database.begin_read()?;
        let streams = txn.open_table(STREAMS)?;
        let (mut from, mut to) = (Vec::new(), Vec::new());
        stream_key(&mut from, stream, 0);
        stream_key(&mut to, stream, u64::MAX);
        let last = streams.range(from.as_slice()..to.as_slice())?.next_back().transpose()?;
        Ok(last.map_or(0, |(key, _)| revision_of(key.value(), stream)))
    }
}
