//! A kind of state, by name and schema, and when it is saved.

use std::time::Duration;

use super::load::{History, Loaded};
use super::state::Snapshot;
use super::write::{Saving, save};
use crate::append::Durability;
use crate::options::View;
use crate::read_events::ReadEvents;
use crate::reader::Reader;
use crate::store::{Inner, Store};
use crate::{Position, Result, Revision};

/// Snapshots of one kind of state: its name, its schema, and when one is due.
///
/// The schema is a number of the caller's: whoever changes how states are encoded, or how events are folded into them, gives
/// another one. Snapshots of other schemas are passed over, and the streams folded anew.
///
/// ```
/// use annals::{Expect, Loaded, NewEvent, Snapshots, Store};
/// # fn main() -> annals::Result<()> {
/// let store = Store::in_memory()?;
/// let counters = Snapshots::of("counter", 1).every_events(100);
/// for _ in 0..250 {
///     let Loaded::Complete(mut history) = counters.load(&store, "clicks")? else { panic!("nothing is truncated") };
///     let mut count = history.snapshot().map_or(0, |snapshot| u64::from_le_bytes(snapshot.state().try_into().unwrap()));
///     for event in &mut history {
///         event?;
///         count += 1;
///     }
///     counters.save_if_due(&store, &history, || count.to_le_bytes())?;
///     store.append("clicks", history.expect(), &[NewEvent::new("Clicked", b"")])?;
/// }
/// assert_eq!(counters.latest(&store, "clicks")?.expect("two were due").revision().get(), 200);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshots {
    name: String,
    schema: u32,
    pub(super) every_events: Option<u64>,
    pub(super) every_bytes: Option<u64>,
    pub(super) max_age: Option<Duration>,
    keep: Option<usize>,
    durability: Durability,
    compresses: bool,
}

/// What became of a state that was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedSnapshot {
    /// The last revision in it.
    pub revision: Revision,
    /// Position of the event at that revision.
    pub position: Position,
    /// Bytes that the state takes in the file.
    pub stored_len: u64,
    /// Whether it is stored compressed.
    pub is_compressed: bool,
    /// `Durable`: it is synced. `Buffered`: the operating system holds it.
    pub durability: Durability,
}

impl Snapshots {
    /// Of the state of this name (1–255 bytes, as names of streams) and schema. Saved when the caller says so; durable once
    /// that is answered; compressed where that pays.
    pub fn of(name: impl Into<String>, schema: u32) -> Self {
        Self {
            name: name.into(),
            schema,
            every_events: None,
            every_bytes: None,
            max_age: None,
            keep: None,
            durability: Durability::Durable,
            compresses: true,
        }
    }

    /// One is due when so many events have been folded since the last; at least 1.
    pub fn every_events(mut self, events: u64) -> Self {
        self.every_events = Some(events.max(1));
        self
    }

    /// One is due when events with so many bytes of payload and metadata have been folded since the last; at least 1.
    pub fn every_bytes(mut self, bytes: u64) -> Self {
        self.every_bytes = Some(bytes.max(1));
        self
    }

    /// One is due when anything has been folded since the last and that, or without one the first event, is older than this.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Where this kind is registered ([`Store::register_fold`](crate::Store::register_fold)), compaction leaves the newest so many
    /// of each stream; at least 1. Unless told, all stay. What takes the place of removed events stays anyway, as in a clean-up
    /// ([`Store::clean_snapshots`](crate::Store::clean_snapshots)).
    pub fn keep(mut self, snapshots: usize) -> Self {
        self.keep = Some(snapshots.max(1));
        self
    }

    /// `Buffered`: a save is answered once the operating system holds the bytes. The log is durable up to its event all the
    /// same, so that a power cut takes back the snapshot at most.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Whether states may be stored compressed (the default): they are if that saves a quarter of 512 bytes or more. A
    /// compressed state is decoded when it is read, into memory of its own; one that is not is read in place.
    pub fn compress(mut self, compress: bool) -> Self {
        self.compresses = compress;
        self
    }

    /// Name of the state.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its schema.
    pub fn schema(&self) -> u32 {
        self.schema
    }

    /// How many of each stream compaction keeps, if it was told.
    pub(crate) fn kept(&self) -> Option<usize> {
        self.keep
    }

    /// How sure a save is.
    pub(crate) fn durability_of_saves(&self) -> Durability {
        self.durability
    }

    /// Saves the state of a stream up to and including `revision`, in place of none: clean-up keeps as many as it is told
    /// ([`Store::clean_snapshots`](crate::Store::clean_snapshots)).
    ///
    /// Waits until the log is durable up to that event, then appends the state to a file, and syncs that, together with all
    /// who save meanwhile. Takes the state's bytes, about 112 and the two names. Appends go on meanwhile.
    ///
    /// # Errors
    /// `Invalid` if there is no such revision to be read, for names that cannot be, and for states of more than 256 MiB;
    /// `NoSpace`, `Io`: it is not saved, and the store goes on; `Poisoned`.
    pub fn save(&self, store: &Store, stream: &str, revision: Revision, state: &[u8]) -> Result<SavedSnapshot> {
        self.save_with(store.inner(), stream, revision, state, self.durability)
    }

    /// As [`Snapshots::save`], with another durability.
    pub(crate) fn save_with(
        &self,
        inner: &Inner,
        stream: &str,
        revision: Revision,
        state: &[u8],
        durability: Durability,
    ) -> Result<SavedSnapshot> {
        let Self { name, schema, compresses, .. } = self;
        let saving = Saving { stream, name, schema: *schema, revision, durability, compresses: *compresses };
        save(inner, &Reader::new(inner.core.clone(), View::Written), &saving, state)
    }

    /// Saves the state made of what `history` has handed out, if a limit is reached; `state` is called only then.
    ///
    /// # Errors
    /// As [`Snapshots::save`].
    pub fn save_if_due<S: AsRef<[u8]>>(
        &self,
        store: &Store,
        history: &History,
        state: impl FnOnce() -> S,
    ) -> Result<Option<SavedSnapshot>> {
        match history.revision().filter(|_| self.is_due(history, store.now())) {
            Some(revision) => self.save(store, history.stream(), revision, state().as_ref()).map(Some),
            None => Ok(None),
        }
    }

    /// Whether a snapshot of what `history` has handed out is due at `now`, nanoseconds since 1970 UTC.
    pub fn is_due(&self, history: &History, now: u64) -> bool {
        let is_reached = |limit: Option<u64>, so_far: u64| limit.is_some_and(|limit| so_far >= limit);
        let last = history.snapshot().map(Snapshot::saved_at).or(history.first_time());
        let age = last.map_or(0, |last| now.saturating_sub(last));
        let nanos = |age: Duration| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        history.event_count() > 0
            && (is_reached(self.every_events, history.event_count())
                || is_reached(self.every_bytes, history.byte_count())
                || is_reached(self.max_age.map(nanos), age))
    }

    /// See [`Reader::latest_snapshot`](crate::Reader::latest_snapshot).
    ///
    /// # Errors
    /// As there.
    pub fn latest(&self, events: &impl ReadEvents, stream: &str) -> Result<Option<Snapshot>> {
        events.latest_snapshot(stream, self)
    }

    /// See [`Reader::load`](crate::Reader::load).
    ///
    /// # Errors
    /// As there.
    pub fn load(&self, events: &impl ReadEvents, stream: &str) -> Result<Loaded> {
        events.load(stream, self)
    }
}
