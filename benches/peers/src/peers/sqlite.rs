//! SQLite through rusqlite, bundled: one table with two unique indexes, write-ahead log.

mod bulk;

use std::path::Path;

pub use bulk::load;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::Result;
use crate::peer::{Durability, Log, Outcome, Scanned, Store, Writer};
use crate::workload::EventIn;

/// See the module. One connection is shared by all writers: waiting for a lock of this process is cheaper than
/// waiting for SQLite's.
pub struct Sqlite {
    connection: Mutex<Connection>,
}

impl Sqlite {
    /// Opens it. Durable is `synchronous=FULL`, Buffered `OFF`: the log is written at each commit and never synced.
    pub fn open(dir: &Path, durability: Durability, _bytes_expected: u64) -> Result<Box<dyn Log>> {
        let connection = Connection::open(dir.join("events.sqlite"))?;
        let synchronous = match durability {
            Durability::Buffered => "OFF",
            Durability::Durable => "FULL",
        };
        connection.execute_batch(&format!(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous}; PRAGMA locking_mode=EXCLUSIVE;
             PRAGMA cache_size=-524288; PRAGMA mmap_size=17179869184; PRAGMA wal_autocheckpoint=8192;
             PRAGMA temp_store=MEMORY;
             CREATE TABLE IF NOT EXISTS events(
                 position INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, stream TEXT NOT NULL,
                 revision INTEGER NOT NULL, type TEXT NOT NULL, payload BLOB NOT NULL, UNIQUE(stream, revision));"
        ))?;
        connection.set_prepared_statement_cache_capacity(16);
        Ok(Box::new(Self { connection: Mutex::new(connection) }))
    }

    fn append(&self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        let connection = self.connection.lock();
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let outcome = insert(&connection, batch);
        let end = if matches!(outcome, Ok(Outcome::Committed)) { "COMMIT" } else { "ROLLBACK" };
        connection.prepare_cached(end)?.execute([])?;
        outcome
    }
}

fn insert(connection: &Connection, batch: &[EventIn<'_>]) -> Result<Outcome> {
    let mut at = connection.prepare_cached("SELECT 1 FROM events WHERE stream=?1 AND revision=?2")?;
    let mut insert =
        connection.prepare_cached("INSERT INTO events(id, stream, revision, type, payload) VALUES(?1,?2,?3,?4,?5)")?;
    for event in batch {
        if event.revision > 0 && !at.exists(params![event.stream, event.revision as i64])? {
            let stored = is_stored(connection, event)?;
            return Ok(if stored { Outcome::Duplicate } else { Outcome::Conflict });
        }
        let row = params![&event.id[..], event.stream, event.revision as i64 + 1, event.event_type, event.payload];
        match insert.execute(row) {
            Ok(_) => {}
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                let stored = is_stored(connection, event)?;
                return Ok(if stored { Outcome::Duplicate } else { Outcome::Conflict });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Outcome::Committed)
}

fn is_stored(connection: &Connection, event: &EventIn<'_>) -> Result<bool> {
    Ok(connection.prepare_cached("SELECT 1 FROM events WHERE id=?1")?.exists([&event.id[..]])?)
}

impl Log for Sqlite {
    fn writer(&self) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(SqliteWriter(self)))
    }

    fn sync(&self) -> Result<()> {
        let connection = self.connection.lock();
        connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))?;
        Ok(())
    }

    fn compact(&self) -> Result<()> {
        let connection = self.connection.lock();
        connection.execute_batch("VACUUM")?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    fn store(&self) -> Option<&dyn Store> {
        Some(self)
    }
}

struct SqliteWriter<'a>(&'a Sqlite);

impl Writer for SqliteWriter<'_> {
    fn append(&mut self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        self.0.append(batch)
    }
}

impl Store for Sqlite {
    fn scan(&self) -> Result<Scanned> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached("SELECT payload FROM events ORDER BY position")?;
        let (mut rows, mut scanned) = (statement.query([])?, Scanned::default());
        while let Some(row) = rows.next()? {
            scanned.add(row.get_ref(0)?.as_blob()?);
        }
        Ok(scanned)
    }

    fn read_stream(&self, stream: &str, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let connection = self.connection.lock();
        let mut statement =
            connection.prepare_cached("SELECT payload FROM events WHERE stream=?1 ORDER BY revision")?;
        let mut rows = statement.query([stream])?;
        while let Some(row) = rows.next()? {
            each(row.get_ref(0)?.as_blob()?);
        }
        Ok(())
    }

    fn latest(&self, stream: &str) -> Result<u64> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached("SELECT max(revision) FROM events WHERE stream=?1")?;
        let found: Option<Option<i64>> = statement.query_row([stream], |row| row.get(0)).optional()?;
        Ok(found.flatten().unwrap_or(0) as u64)
    }

    fn read_key(&self, key: &str, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached(
            "SELECT payload FROM keys JOIN events USING(position) WHERE keys.name=?1 ORDER BY keys.position",
        )?;
        let mut rows = statement.query([key])?;
        while let Some(row) = rows.next()? {
            each(row.get_ref(0)?.as_blob()?);
        }
        Ok(())
    }

    fn latest_of_key(&self, key: &str) -> Result<u64> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached("SELECT max(position) FROM keys WHERE name=?1")?;
        let found: Option<i64> = statement.query_row([key], |row| row.get(0))?;
        Ok(found.unwrap_or(0) as u64)
    }
}
