//! LMDB through heed: three B-trees, one transaction an append.

mod bulk;

use std::path::Path;

pub use bulk::load;
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, MdbError, PutFlags};
use parking_lot::Mutex;

use super::{encode, payload, revision_of, stream_key};
use crate::Result;
use crate::peer::{Durability, Log, Outcome, Scanned, Store, Writer};
use crate::workload::EventIn;

type Tree = Database<Bytes, Bytes>;

/// See the module.
pub struct Lmdb {
    env: Env,
    events: Tree,
    ids: Tree,
    streams: Tree,
    /// Type or tag and position, where the store was loaded in bulk.
    keys: Option<Tree>,
    /// Position of the last event. Writers wait here and not for LMDB's own lock, which is the slower place.
    head: Mutex<u64>,
}

impl Lmdb {
    /// Opens it. Buffered is `NO_SYNC` without a writable map: pages are written by `pwrite` at each commit.
    #[expect(unsafe_code, reason = "LMDB maps its file")]
    pub fn open(dir: &Path, durability: Durability, _bytes_expected: u64) -> Result<Box<dyn Log>> {
        let mut options = EnvOpenOptions::new();
        options.map_size(64 << 30).max_dbs(4);
        if durability == Durability::Buffered {
            // SAFETY: without syncs a power cut can damage the file; the directory is thrown away after the run.
            unsafe { options.flags(EnvFlags::NO_SYNC) };
        }
        // SAFETY: the directory belongs to this run alone, so the file is opened once and changed by LMDB only.
        let env = unsafe { options.open(dir)? };
        let mut txn = env.write_txn()?;
        let events = env.create_database(&mut txn, Some("events"))?;
        let ids = env.create_database(&mut txn, Some("ids"))?;
        let streams = env.create_database(&mut txn, Some("streams"))?;
        let keys = env.open_database(&txn, Some("keys"))?;
        let head = last_position(&events, &txn)?;
        txn.commit()?;
        Ok(Box::new(Self { env, events, ids, streams, keys, head: Mutex::new(head) }))
    }

    fn keys(&self) -> Result<&Tree> {
        Ok(self.keys.as_ref().ok_or("no index of types and tags")?)
    }

    fn append(&self, batch: &[EventIn<'_>], key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<Outcome> {
        let mut head = self.head.lock();
        let mut txn = self.env.write_txn()?;
        let mut position = *head;
        for event in batch {
            position += 1;
            let place = position.to_be_bytes();
            match self.ids.put_with_flags(&mut txn, PutFlags::NO_OVERWRITE, &event.id, &place) {
                Err(heed::Error::Mdb(MdbError::KeyExist)) => return Ok(Outcome::Duplicate),
                result => result?,
            }
            if event.revision > 0 {
                stream_key(key, event.stream, event.revision);
                if self.streams.get(&txn, key)?.is_none() {
                    return Ok(Outcome::Conflict);
                }
            }
            stream_key(key, event.stream, event.revision + 1);
            match self.streams.put_with_flags(&mut txn, PutFlags::NO_OVERWRITE, key, &place) {
                Err(heed::Error::Mdb(MdbError::KeyExist)) => return Ok(Outcome::Conflict),
                result => result?,
            }
            encode(value, event);
            self.events.put_with_flags(&mut txn, PutFlags::APPEND, &place, value)?;
        }
        txn.commit()?;
        *head = position;
        Ok(Outcome::Committed)
    }
}

fn last_position(events: &Tree, txn: &heed::RoTxn<'_>) -> Result<u64> {
    let last = events.last(txn)?;
    Ok(last.map_or(Ok(0), |(key, _)| u64_of(key))?)
}

fn u64_of(bytes: &[u8]) -> Result<u64, std::array::TryFromSliceError> {
    bytes.try_into().map(u64::from_be_bytes)
}

impl Log for Lmdb {
    fn writer(&self) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(LmdbWriter { store: self, key: Vec::new(), value: Vec::new() }))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }

    fn store(&self) -> Option<&dyn Store> {
        Some(self)
    }
}

struct LmdbWriter<'a> {
    store: &'a Lmdb,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Writer for LmdbWriter<'_> {
    fn append(&mut self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        self.store.append(batch, &mut self.key, &mut self.value)
    }
}

impl Store for Lmdb {
    fn scan(&self) -> Result<Scanned> {
        let txn = self.env.read_txn()?;
        let mut scanned = Scanned::default();
        for row in self.events.iter(&txn)? {
            scanned.add(payload(row?.1));
        }
        Ok(scanned)
    }

    fn read_stream(&self, stream: &str, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let txn = self.env.read_txn()?;
        let mut prefix = Vec::new();
        stream_key(&mut prefix, stream, 0);
        prefix.truncate(stream.len() + 1);
        for row in self.streams.prefix_iter(&txn, &prefix)? {
            let stored = self.events.get(&txn, row?.1)?.ok_or("an event of the index is missing")?;
            each(payload(stored));
        }
        Ok(())
    }

    fn latest(&self, stream: &str) -> Result<u64> {
        let txn = self.env.read_txn()?;
        let mut key = Vec::new();
        stream_key(&mut key, stream, u64::MAX);
        let found = self.streams.get_lower_than(&txn, &key)?;
        Ok(found.map_or(0, |(key, _)| revision_of(key, stream)))
    }

    fn read_key(&self, key: &str, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let txn = self.env.read_txn()?;
        let prefix = bulk::key_prefix(key);
        for row in self.keys()?.prefix_iter(&txn, &prefix)? {
            let stored = self.events.get(&txn, &row?.0[prefix.len()..])?.ok_or("an event of the index is missing")?;
            each(payload(stored));
        }
        Ok(())
    }

    fn latest_of_key(&self, key: &str) -> Result<u64> {
        let txn = self.env.read_txn()?;
        let prefix = bulk::key_prefix(key);
        let mut end = prefix.clone();
        end.extend_from_slice(&u64::MAX.to_be_bytes());
        let found = self.keys()?.get_lower_than(&txn, &end)?;
        let position = found.and_then(|(row, _)| row.strip_prefix(&prefix[..])).map(u64_of);
        Ok(position.transpose()?.unwrap_or(0))
    }
}
