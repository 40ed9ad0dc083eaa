//! A large store, open, whoever keeps it.

use std::ops::ControlFlow;
use std::path::Path;

use annals::{Durability as Asked, Expect, NewEvent, Options, Query, Reader, Seek, Store as Events};

use super::events::Ids;
use crate::Result;
use crate::engines::Kind;
use crate::peer::{Durability, Log, Outcome, Scanned};
use crate::peers::lmdb::Lmdb;
use crate::peers::sqlite::Sqlite;
use crate::random::Random;
use crate::workload::EventIn;

/// Who keeps a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// The engine under test.
    Annals,
    /// LMDB through heed.
    Lmdb,
    /// SQLite.
    Sqlite,
}

impl Keeper {
    /// All of them, ours first.
    pub const ALL: [Self; 3] = [Self::Annals, Self::Lmdb, Self::Sqlite];

    /// As in the tables and in `--peers`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Annals => "annals",
            Self::Lmdb => "lmdb",
            Self::Sqlite => "sqlite",
        }
    }

    /// Back from [`Keeper::name`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|keeper| keeper.name() == name)
    }

    /// What it counts as.
    pub fn kind(self) -> Kind {
        if self == Self::Annals { Kind::Annals } else { Kind::Peer }
    }

    /// Opens what was loaded.
    pub fn open(self, dir: &Path, segment_bytes: u64) -> Result<Box<dyn Held>> {
        Ok(match self {
            Self::Annals => Box::new(Ours::open(dir, options(segment_bytes))?),
            Self::Lmdb => Box::new(Peer(Lmdb::open(dir, Durability::Buffered, 0)?)),
            Self::Sqlite => Box::new(Peer(Sqlite::open(dir, Durability::Buffered, 0)?)),
        })
    }
}

/// One event to append.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// Its stream.
    pub stream: &'a str,
    /// How many events the stream holds.
    pub revision: u64,
    /// The caller's id; `None` where the store makes one.
    pub id: Option<[u8; 16]>,
    /// Its type.
    pub event_type: &'a str,
    /// Its tags. The peers' appends leave them out.
    pub tags: &'a [&'a str],
    /// Its bytes.
    pub payload: &'a [u8],
}

/// What the rows ask of a store.
pub trait Held {
    /// Reads a stream from its beginning.
    fn read_stream(&self, stream: &str) -> Result<Scanned>;

    /// The last revision of a stream; 0 when there is none.
    fn latest(&self, stream: &str) -> Result<u64>;

    /// The sum of the last revisions of many streams, all of which are known before the first is looked up.
    fn latest_of(&self, streams: &[&str]) -> Result<u64> {
        streams.iter().try_fold(0, |sum, stream| Ok(sum + self.latest(stream)?))
    }

    /// Appends one event, Buffered.
    fn append(&self, event: &Append<'_>) -> Result<()>;

    /// Reads all events of a type.
    fn read_type(&self, name: &str) -> Result<Scanned>;

    /// Reads everything, checked.
    fn scan(&self) -> Result<Scanned>;

    /// Position of the last event of a type or tag.
    fn latest_of_key(&self, key: &str) -> Result<u64>;

    /// Events that opening found unsynced and made safe.
    fn recovered(&self) -> u64 {
        0
    }
}

/// annals as the large rows open it: Buffered, with segments of this length, else its defaults.
pub fn options(segment_bytes: u64) -> Options {
    Options::new().durability(Asked::Buffered).segment_bytes_max(segment_bytes)
}

/// annals and a reader that stays.
pub struct Ours {
    /// The store.
    pub store: Events,
    reader: Reader,
}

impl Ours {
    /// Opens it in the directory of its store.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        let store = options
            .open(dir.join("store"))
            .map_err(|error| format!("{}: {error}; if another version loaded it, remove it", dir.display()))?;
        let reader = store.reader();
        Ok(Self { store, reader })
    }
}

/// The event as annals takes it.
pub fn new_event<'a>(event: &Append<'a>) -> NewEvent<'a> {
    let new = NewEvent::new(event.event_type, event.payload).tags(event.tags);
    match event.id {
        Some(id) => new.id(id),
        None => new,
    }
}

fn sum(read: annals::Read) -> Result<Scanned> {
    let mut scanned = Scanned::default();
    read.for_each_event(|event| {
        scanned.add(event.payload());
        ControlFlow::<()>::Continue(())
    })?;
    Ok(scanned)
}

impl Held for Ours {
    fn read_stream(&self, stream: &str) -> Result<Scanned> {
        sum(self.reader.read_stream(stream, Seek::Beginning)?)
    }

    #[inline]
    fn latest(&self, stream: &str) -> Result<u64> {
        Ok(self.reader.stream_state(stream)?.last().map_or(0, annals::Revision::get))
    }

    fn latest_of(&self, streams: &[&str]) -> Result<u64> {
        let states = self.reader.stream_states(streams)?;
        Ok(states.iter().filter_map(annals::StreamState::last).map(annals::Revision::get).sum())
    }

    #[inline]
    fn append(&self, event: &Append<'_>) -> Result<()> {
        let receipt = self.store.append(event.stream, Expect::revision(event.revision), &[new_event(event)])?;
        if receipt.already_committed() { Err("an id that must be new was known".into()) } else { Ok(()) }
    }

    fn read_type(&self, name: &str) -> Result<Scanned> {
        sum(self.reader.read_all(&Query::event_type(name), Seek::Beginning)?)
    }

    fn scan(&self) -> Result<Scanned> {
        sum(self.reader.read_all(&Query::all(), Seek::Beginning)?)
    }

    fn latest_of_key(&self, key: &str) -> Result<u64> {
        Ok(self.reader.last(&Query::tag(key))?.map_or(0, |event| event.position().get()))
    }

    fn recovered(&self) -> u64 {
        self.store.recovery_report().kept_events
    }
}

struct Peer(Box<dyn Log>);

impl Peer {
    fn store(&self) -> Result<&dyn crate::peer::Store> {
        Ok(self.0.store().ok_or("no event store")?)
    }
}

impl Held for Peer {
    fn read_stream(&self, stream: &str) -> Result<Scanned> {
        let mut scanned = Scanned::default();
        self.store()?.read_stream(stream, &mut |payload| scanned.add(payload))?;
        Ok(scanned)
    }

    fn latest(&self, stream: &str) -> Result<u64> {
        self.store()?.latest(stream)
    }

    fn append(&self, event: &Append<'_>) -> Result<()> {
        let id = event.id.unwrap_or_else(|| Ids::V4.make(&mut unlike_any_other(), 0));
        let event = EventIn {
            id,
            stream: event.stream,
            revision: event.revision,
            first_in_batch: true,
            event_type: event.event_type,
            payload: event.payload,
        };
        match self.0.writer()?.append(&[event])? {
            Outcome::Committed => Ok(()),
            refused => Err(format!("an append that must succeed ended as {refused:?}").into()),
        }
    }

    fn read_type(&self, name: &str) -> Result<Scanned> {
        let mut scanned = Scanned::default();
        self.store()?.read_key(name, &mut |payload| scanned.add(payload))?;
        Ok(scanned)
    }

    fn scan(&self) -> Result<Scanned> {
        self.store()?.scan()
    }

    fn latest_of_key(&self, key: &str) -> Result<u64> {
        self.store()?.latest_of_key(key)
    }
}

/// Numbers no earlier run of the programme drew: a store that is kept must not meet the same ids again.
pub fn unlike_any_other() -> Random {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Random::new(since.map_or(0, |since| since.as_nanos() as u64) ^ u64::from(std::process::id()) << 40)
}
