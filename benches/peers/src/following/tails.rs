//! Those who can be followed: what appends, and what follows it.

use std::path::Path;
use std::time::Duration;

use annals::{Expect, MessageRef, NewEvent, Options, Query, Seek, Store, Subscription};
use rusqlite::{Connection, params};
use std::ops::ControlFlow;
use tephra::{
    Event, EventType, Position, SegmentConfig, SegmentSet, Tags, WriteCoordinator, WriteHandle, WriterConfig,
};

use super::number_of;
use crate::Result;
use crate::peer::Durability;

/// A store that is written to and followed in one process.
pub(super) trait Source: Sync {
    fn append(&self, payload: &[u8]) -> Result<()>;

    fn tail(&self) -> Result<Box<dyn Tail + Send>>;

    /// When the last append was shown to those who follow the durable log, if the store can tell.
    fn shown_at(&self) -> Option<u64> {
        None
    }
}

/// Follows a store from its beginning.
pub(super) trait Tail {
    /// Tells the numbers of all events that came since; never waits.
    fn poll(&mut self, each: &mut dyn FnMut(usize)) -> Result<()>;

    /// Waits for more, or for so long.
    fn wait(&mut self, limit: Duration) -> Result<()>;
}

pub(super) struct Annals(pub(super) Store);

impl Annals {
    pub(super) fn open(dir: &Path, durability: Durability) -> Result<Self> {
        let durability = match durability {
            Durability::Buffered => annals::Durability::Buffered,
            Durability::Durable => annals::Durability::Durable,
        };
        Ok(Self(Options::new().durability(durability).open(dir.join("annals"))?))
    }
}

impl Source for Annals {
    fn append(&self, payload: &[u8]) -> Result<()> {
        self.0.append("followed", Expect::Any, &[NewEvent::new("Followed", payload)])?;
        Ok(())
    }

    fn tail(&self) -> Result<Box<dyn Tail + Send>> {
        Ok(Box::new(self.0.subscribe(&Query::all(), Seek::Beginning)?))
    }

    fn shown_at(&self) -> Option<u64> {
        self.0.stats().durable_shown_at
    }
}

impl Tail for Subscription {
    fn poll(&mut self, each: &mut dyn FnMut(usize)) -> Result<()> {
        self.for_each_ready(|message| {
            if let MessageRef::Event(event) = message {
                each(number_of(event.payload()));
            }
            ControlFlow::<()>::Continue(())
        })?;
        Ok(())
    }

    fn wait(&mut self, limit: Duration) -> Result<()> {
        Self::wait(self, limit)?;
        Ok(())
    }
}

/// It only knows durable appends.
pub(super) struct Tephra {
    handle: WriteHandle,
    // Dropped after the handle: it joins the writer's thread.
    _coordinator: WriteCoordinator,
    event_type: EventType,
    tags: Tags,
}

impl Tephra {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let set = SegmentSet::open(dir.join("tephra"), SegmentConfig::new(64 << 20))?;
        let (coordinator, handle) = WriteCoordinator::start(set, WriterConfig::default())?;
        let tags = Tags::new([tephra::Tag::new("s:followed")?])?;
        Ok(Self { handle, _coordinator: coordinator, event_type: EventType::new("Followed")?, tags })
    }
}

impl Source for Tephra {
    fn append(&self, payload: &[u8]) -> Result<()> {
        self.handle.append(vec![Event::new(&self.event_type, &self.tags, payload)?], None)?;
        Ok(())
    }

    fn tail(&self) -> Result<Box<dyn Tail + Send>> {
        Ok(Box::new(self.handle.subscribe(tephra::Query::all(), Position::ZERO)))
    }
}

impl Tail for tephra::Subscription {
    fn poll(&mut self, each: &mut dyn FnMut(usize)) -> Result<()> {
        self.poll_batch()?.iter().for_each(|(_, event)| each(number_of(event.data())));
        Ok(())
    }

    fn wait(&mut self, limit: Duration) -> Result<()> {
        self.wait_timeout(limit);
        Ok(())
    }
}

/// A table that its reader asks again and again, by a connection of its own.
pub(super) struct Sqlite {
    path: std::path::PathBuf,
    connection: parking_lot::Mutex<Connection>,
}

/// How long the reader sleeps when nothing came: what a program would do that has no other way to know.
const ASK_AGAIN: Duration = Duration::from_millis(1);

impl Sqlite {
    pub(super) fn open(dir: &Path, durability: Durability) -> Result<Self> {
        let path = dir.join("followed.sqlite");
        let connection = Connection::open(&path)?;
        let synchronous = match durability {
            Durability::Buffered => "OFF",
            Durability::Durable => "FULL",
        };
        connection.execute_batch(&format!(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous};
             CREATE TABLE IF NOT EXISTS events(position INTEGER PRIMARY KEY, payload BLOB NOT NULL);"
        ))?;
        Ok(Self { path, connection: parking_lot::Mutex::new(connection) })
    }
}

impl Source for Sqlite {
    fn append(&self, payload: &[u8]) -> Result<()> {
        self.connection.lock().prepare_cached("INSERT INTO events(payload) VALUES(?1)")?.execute([payload])?;
        Ok(())
    }

    fn tail(&self) -> Result<Box<dyn Tail + Send>> {
        Ok(Box::new(SqliteTail::open(&self.path)?))
    }
}

pub(super) struct SqliteTail {
    connection: Connection,
    last: i64,
}

impl SqliteTail {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self { connection: Connection::open(path)?, last: 0 })
    }
}

impl Tail for SqliteTail {
    fn poll(&mut self, each: &mut dyn FnMut(usize)) -> Result<()> {
        let sql = "SELECT position, payload FROM events WHERE position > ?1 ORDER BY position";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![self.last])?;
        while let Some(row) = rows.next()? {
            self.last = row.get(0)?;
            each(number_of(row.get_ref(1)?.as_blob()?));
        }
        Ok(())
    }

    fn wait(&mut self, limit: Duration) -> Result<()> {
        std::thread::sleep(ASK_AGAIN.min(limit));
        Ok(())
    }
}
