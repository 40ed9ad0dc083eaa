//! What everything that shows a log has in common.

use crate::error::StreamState;
use crate::options::View;
use crate::query::{Query, Seek};
use crate::read::Read;
use crate::reader::{Lookup, Reader, StreamInfo, TypeInfo};
use crate::{
    Event, EventId, Follower, Loaded, Position, ReadOnly, Result, Snapshot, SnapshotInfo, Snapshots, Store,
    Subscription,
};

/// The questions that can be put to a log, whoever shows it: a [`Store`], a [`Reader`] of it, one opened for reading only
/// ([`ReadOnly`]), a [`Follower`].
///
/// ```
/// use annals::{Query, ReadEvents, Seek, Store};
///
/// /// Works on a store as on a follower in another process.
/// fn count_of(events: &impl ReadEvents, event_type: &str) -> annals::Result<u64> {
///     events.count(&Query::event_type(event_type))
/// }
///
/// # fn main() -> annals::Result<()> {
/// let store = Store::in_memory()?;
/// assert_eq!(count_of(&store, "OrderPlaced")?, 0);
/// assert_eq!(count_of(&store.reader(), "OrderPlaced")?, 0);
/// # Ok(())
/// # }
/// ```
pub trait ReadEvents {
    /// A reader of the default view.
    fn reader(&self) -> Reader;

    /// A reader of the view asked for.
    fn reader_in(&self, view: View) -> Reader;

    /// See [`Reader::head`].
    fn head(&self) -> u64 {
        self.reader().head()
    }

    /// See [`Reader::read_all`].
    ///
    /// # Errors
    /// As there.
    fn read_all(&self, query: &Query, seek: Seek) -> Result<Read> {
        self.reader().read_all(query, seek)
    }

    /// See [`Reader::read_all_back`].
    ///
    /// # Errors
    /// As there.
    fn read_all_back(&self, query: &Query, seek: Seek) -> Result<Read> {
        self.reader().read_all_back(query, seek)
    }

    /// See [`Reader::read_stream`].
    ///
    /// # Errors
    /// As there.
    fn read_stream(&self, stream: &str, seek: Seek) -> Result<Read> {
        self.reader().read_stream(stream, seek)
    }

    /// See [`Reader::read_stream_back`].
    ///
    /// # Errors
    /// As there.
    fn read_stream_back(&self, stream: &str, seek: Seek) -> Result<Read> {
        self.reader().read_stream_back(stream, seek)
    }

    /// See [`Reader::subscribe`].
    ///
    /// # Errors
    /// As there.
    fn subscribe(&self, query: &Query, seek: Seek) -> Result<Subscription> {
        self.reader().subscribe(query, seek)
    }

    /// See [`Reader::by_id`].
    ///
    /// # Errors
    /// As there.
    fn by_id(&self, id: EventId) -> Result<Lookup> {
        self.reader().by_id(id)
    }

    /// See [`Reader::at`].
    ///
    /// # Errors
    /// As there.
    fn at(&self, position: Position) -> Result<Option<Event>> {
        self.reader().at(position)
    }

    /// See [`Reader::position_at`].
    ///
    /// # Errors
    /// As there.
    fn position_at(&self, time: u64) -> Result<Option<Position>> {
        self.reader().position_at(time)
    }

    /// See [`Reader::stream_state`].
    ///
    /// # Errors
    /// As there.
    fn stream_state(&self, stream: &str) -> Result<StreamState> {
        self.reader().stream_state(stream)
    }

    /// See [`Reader::streams`].
    ///
    /// # Errors
    /// As there.
    fn streams(&self, prefix: &str) -> Result<Vec<StreamInfo>> {
        self.reader().streams(prefix)
    }

    /// See [`Reader::types`].
    ///
    /// # Errors
    /// As there.
    fn types(&self) -> Result<Vec<TypeInfo>> {
        self.reader().types()
    }

    /// See [`Reader::count`].
    ///
    /// # Errors
    /// As there.
    fn count(&self, query: &Query) -> Result<u64> {
        self.reader().count(query)
    }

    /// See [`Reader::last`].
    ///
    /// # Errors
    /// As there.
    fn last(&self, query: &Query) -> Result<Option<Event>> {
        self.reader().last(query)
    }

    /// See [`Reader::latest_snapshot`].
    ///
    /// # Errors
    /// As there.
    fn latest_snapshot(&self, stream: &str, kind: &Snapshots) -> Result<Option<Snapshot>> {
        self.reader().latest_snapshot(stream, kind)
    }

    /// See [`Reader::load`].
    ///
    /// # Errors
    /// As there.
    fn load(&self, stream: &str, kind: &Snapshots) -> Result<Loaded> {
        self.reader().load(stream, kind)
    }

    /// See [`Reader::snapshots`].
    ///
    /// # Errors
    /// As there.
    fn snapshots(&self, prefix: &str) -> Result<Vec<SnapshotInfo>> {
        self.reader().snapshots(prefix)
    }
}

impl ReadEvents for Reader {
    fn reader(&self) -> Reader {
        self.clone()
    }

    fn reader_in(&self, view: View) -> Reader {
        self.in_view(view)
    }
}

impl ReadEvents for Store {
    fn reader(&self) -> Reader {
        Store::reader(self)
    }

    fn reader_in(&self, view: View) -> Reader {
        Store::reader_in(self, view)
    }
}

impl ReadEvents for ReadOnly {
    fn reader(&self) -> Reader {
        ReadOnly::reader(self)
    }

    fn reader_in(&self, view: View) -> Reader {
        ReadOnly::reader_in(self, view)
    }
}

impl ReadEvents for Follower {
    fn reader(&self) -> Reader {
        Follower::reader(self)
    }

    fn reader_in(&self, view: View) -> Reader {
        Follower::reader_in(self, view)
    }
}
