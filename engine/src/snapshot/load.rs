//! Loading: the newest snapshot that counts, and the events after it.

use std::ops::RangeInclusive;
use std::sync::Arc;

use annals_format::snapshot::SnapshotFrame;

use super::judge::Judge;
use super::kind::Snapshots;
use super::shelf::{Placed, Stored};
use super::state::Snapshot;
use super::table::kind_hash;
use crate::core::Core;
use crate::error::{Corrupt, Error, StreamState};
use crate::event::Event;
use crate::name::KeyKind;
use crate::read::{Bounds, Direction, Read, StreamBegun};
use crate::reader::{Reader, check_stream_name};
use crate::removal::Hidden;
use crate::{Position, Result, Revision};

/// What is needed to make the state of a stream, or that it is not all there.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once; a history is made without an allocation for it"
)]
pub enum Loaded {
    /// A snapshot, or none, and all events after it: together they cover the stream without a hole.
    Complete(History),
    /// Events at the beginning of the stream are gone (truncated, expired, lost), and no snapshot of this name and schema
    /// reaches them: its state cannot be made.
    Incomplete {
        /// The first revision that can be read; one more than the last if there is none.
        first_available: Revision,
    },
}

impl Loaded {
    /// The history, if it is complete.
    pub fn complete(self) -> Option<History> {
        match self {
            Self::Complete(history) => Some(history),
            Self::Incomplete { .. } => None,
        }
    }
}

/// A stream from a snapshot on, or from its beginning: the snapshot, and the events after it in order.
///
/// Counts what it hands out, by which policies decide ([`Snapshots::save_if_due`]). Where events were removed since it was loaded
/// and compaction has taken them out, it ends with `Overtaken`, never with a hole: load it again.
#[derive(Debug)]
pub struct History {
    stream: String,
    snapshot: Option<Snapshot>,
    events: Read,
    state: StreamState,
    revision: Option<Revision>,
    /// Revisions that are still to come.
    due: RangeInclusive<u64>,
    is_broken: bool,
    first_time: Option<u64>,
    event_count: u64,
    byte_count: u64,
    damage: Vec<Corrupt>,
}

/// A snapshot in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// The stream.
    pub stream: String,
    /// Name of the state.
    pub name: String,
    /// Schema of the state.
    pub schema: u32,
    /// The last revision in the state.
    pub revision: Revision,
    /// Position of the event at that revision.
    pub position: Position,
    /// When it was saved: nanoseconds since 1970 UTC.
    pub saved_at: u64,
    /// Length of the state.
    pub len: u64,
    /// Bytes that the state takes in the file.
    pub stored_len: u64,
    /// File that it stands in.
    pub file: String,
    /// Offset of its frame in the file.
    pub offset: u64,
}

impl History {
    /// The stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// What to begin with; `None`: with nothing.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// The stream's state at the head that was pinned when it was loaded: what a decision made of it expects
    /// ([`History::expect`]).
    pub fn state(&self) -> StreamState {
        self.state
    }

    /// What an append that rests on all of this history expects: the stream's last revision, or what it is without one.
    pub fn expect(&self) -> crate::Expect {
        match self.state {
            StreamState::Live { last, .. } => crate::Expect::At(last),
            StreamState::Deleted { .. } => crate::Expect::Deleted,
            // Of an ended stream every append is refused.
            StreamState::Absent | StreamState::Tombstoned { .. } => crate::Expect::NoStream,
        }
    }

    /// The last revision handed out so far, or that of the snapshot; `None`: nothing yet.
    pub fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// Number of events handed out so far: those after the snapshot.
    pub fn event_count(&self) -> u64 {
        self.event_count
    }

    /// Bytes of payload and metadata handed out so far.
    pub fn byte_count(&self) -> u64 {
        self.byte_count
    }

    /// When the first event after the snapshot was recorded, if one was handed out.
    pub fn first_time(&self) -> Option<u64> {
        self.first_time
    }

    /// Snapshots that could not be read, and were done without.
    pub fn damage(&self) -> &[Corrupt] {
        &self.damage
    }

    /// Position of the last record that it could see.
    pub fn head(&self) -> u64 {
        self.events.head()
    }
}

impl Iterator for History {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_broken {
            return None;
        }
        let due = self.due.next();
        let event = match (self.events.next(), due) {
            (None, None) => return None,
            (Some(Ok(event)), Some(due)) if event.revision().get() == due => event,
            (Some(Err(error)), _) => {
                self.is_broken = true;
                return Some(Err(error));
            }
            // Compaction has taken out what a record removes that this view does not see.
            (_, due) => {
                self.is_broken = true;
                let revision = due.and_then(Revision::new).or(self.revision).unwrap_or(Revision::FIRST);
                return Some(Err(Error::Overtaken { stream: self.stream.clone(), revision }));
            }
        };
        self.revision = Some(event.revision());
        self.event_count += 1;
        self.byte_count += (event.payload().len() + event.metadata().len()) as u64;
        self.first_time.get_or_insert(event.recorded_at());
        Some(Ok(event))
    }
}

impl Reader {
    /// The newest snapshot of a stream that has this name and schema and counts for this reader; `None` if there is none.
    ///
    /// Costs a look-up in memory, one look at the event it names, and the checksum of its bytes. The first look in a process
    /// reads the headers of all snapshots.
    ///
    /// # Errors
    /// `Invalid` if the name cannot be one of a stream; `Corrupt` if that snapshot is damaged, or none is found and others
    /// are of which nothing can be told: [`Reader::load`] does without them where events allow it. `Unsupported`, `Io`.
    ///
    /// ```
    /// use annals::{Expect, NewEvent, ReadEvents, Snapshots, Store};
    /// # fn main() -> annals::Result<()> {
    /// let store = Store::in_memory()?;
    /// let receipt = store.append("account-7", Expect::NoStream, &[NewEvent::new("Opened", b"")])?;
    /// let accounts = Snapshots::of("account", 1);
    /// accounts.save(&store, "account-7", receipt.revision(), b"balance 0")?;
    /// let snapshot = store.latest_snapshot("account-7", &accounts)?.expect("saved above");
    /// assert_eq!(snapshot.state(), b"balance 0");
    /// # Ok(())
    /// # }
    /// ```
    pub fn latest_snapshot(&self, stream: &str, kind: &Snapshots) -> Result<Option<Snapshot>> {
        let (head, hidden) = self.pinned();
        let judge = Judge::new(self.core(), hidden.as_ref(), checked(stream)?, head)?;
        let candidates = self.core().snapshots.of_stream(stream)?;
        for entry in &candidates.entries {
            if let Some(stored) = find(self.core(), &judge, stream, kind, entry)? {
                return stored.snapshot().map(Some);
            }
        }
        match candidates.damage.first() {
            Some(corrupt) => Err(Error::Corrupt(Box::new(corrupt.clone()))),
            None => Ok(None),
        }
    }

    /// What the state of a stream is made of: the newest snapshot of this name and schema, and the events after it, as of one
    /// head. Without such a snapshot all events are handed out, as far as that is the whole stream; else the answer is
    /// [`Loaded::Incomplete`], and never a state that would be wrong.
    ///
    /// Costs as [`Reader::latest_snapshot`], and reading the events. A snapshot that is damaged is done without where older
    /// ones or the events allow it; [`History::damage`] tells.
    ///
    /// # Errors
    /// `Invalid` if the name cannot be one of a stream; `Corrupt` if the events do not suffice and a snapshot is damaged
    /// that might; `Unsupported`, `Io`.
    ///
    /// ```
    /// use annals::{Expect, Loaded, NewEvent, ReadEvents, Snapshots, Store};
    /// # fn main() -> annals::Result<()> {
    /// let store = Store::in_memory()?;
    /// let events = [NewEvent::new("Deposited", b"7"), NewEvent::new("Deposited", b"5")];
    /// store.append("account-7", Expect::NoStream, &events)?;
    ///
    /// let Loaded::Complete(mut history) = store.load("account-7", &Snapshots::of("account", 1))? else {
    ///     panic!("nothing was truncated");
    /// };
    /// let mut balance: u64 = match history.snapshot() {
    ///     Some(snapshot) => u64::from_le_bytes(snapshot.state().try_into().unwrap()),
    ///     None => 0,
    /// };
    /// for event in &mut history {
    ///     balance += u64::from(event?.payload()[0] - b'0');
    /// }
    /// assert_eq!(balance, 12);
    /// store.append("account-7", history.expect(), &[NewEvent::new("Closed", b"")])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn load(&self, stream: &str, kind: &Snapshots) -> Result<Loaded> {
        let (head, hidden) = self.pinned();
        let core = self.core();
        let judge = Judge::new(core, hidden.as_ref(), checked(stream)?, head)?;
        let candidates = core.snapshots.of_stream(stream)?;
        let mut damage = Vec::new();
        let mut snapshot = None;
        for entry in candidates.entries.iter().filter(|placed| judge.reaches(placed.entry.revision)) {
            let found = find(core, &judge, stream, kind, entry);
            match found.and_then(|stored| stored.map(|stored| stored.snapshot()).transpose()) {
                Ok(None) => {}
                Ok(found) => {
                    snapshot = found;
                    break;
                }
                Err(Error::Corrupt(corrupt)) => damage.push(*corrupt),
                Err(error) => return Err(error),
            }
        }
        damage.extend(candidates.damage);
        let from = snapshot.as_ref().map_or(judge.facts.first, |snapshot| snapshot.revision().get() + 1);
        let is_hole = snapshot.is_none() && judge.is_cut();
        let first_available = match is_hole {
            true => Some(judge.facts.first),
            false => first_behind_hole(core, &judge, stream, from, head, hidden.as_ref())?,
        };
        if let Some(first_available) = first_available.and_then(Revision::new) {
            return match damage.into_iter().next() {
                Some(corrupt) => Err(Error::Corrupt(Box::new(corrupt))),
                None => Ok(Loaded::Incomplete { first_available }),
            };
        }
        let after = snapshot.as_ref().map_or(0, |snapshot| snapshot.position().get());
        let events = events_after(core, &judge, stream, (after, from), head, hidden);
        Ok(Loaded::Complete(History {
            stream: stream.to_owned(),
            revision: snapshot.as_ref().map(Snapshot::revision),
            snapshot,
            state: judge.facts.state,
            events,
            due: from..=judge.facts.last,
            is_broken: false,
            first_time: None,
            event_count: 0,
            byte_count: 0,
            damage,
        }))
    }

    /// All snapshots of a stream that count for this reader, of every name and schema, newest first; their states are not
    /// read.
    ///
    /// # Errors
    /// As [`Reader::latest_snapshot`].
    pub fn snapshots_of(&self, stream: &str) -> Result<Vec<SnapshotInfo>> {
        let (head, hidden) = self.pinned();
        let judge = Judge::new(self.core(), hidden.as_ref(), checked(stream)?, head)?;
        let candidates = self.core().snapshots.of_stream(stream)?;
        let mut listed = Vec::new();
        for entry in &candidates.entries {
            if let Some(info) = self.info(&judge, entry, |frame| frame.stream == stream)? {
                listed.push(info);
            }
        }
        Ok(listed)
    }

    /// All snapshots that count for this reader, of streams whose names begin with `prefix`: by stream, each stream's newest
    /// first. Reads the header of each.
    ///
    /// # Errors
    /// As [`Reader::latest_snapshot`].
    pub fn snapshots(&self, prefix: &str) -> Result<Vec<SnapshotInfo>> {
        let table = self.core().snapshots.table()?;
        let all: Vec<Placed> = table.streams().flat_map(|entries| Placed::all(&table, entries)).collect();
        drop(table);
        let mut streams = std::collections::BTreeSet::new();
        for entry in all {
            let stored = entry.read()?;
            let stream = stored.frame()?.stream;
            if stream.starts_with(prefix) && !streams.contains(stream) {
                streams.insert(stream.to_owned());
            }
        }
        let mut listed = Vec::new();
        for stream in streams {
            listed.append(&mut self.snapshots_of(&stream)?);
        }
        Ok(listed)
    }

    fn info(
        &self,
        judge: &Judge<'_>,
        placed: &Placed,
        is_wanted: impl Fn(&SnapshotFrame<'_>) -> bool,
    ) -> Result<Option<SnapshotInfo>> {
        if !judge.may_count(placed.entry.revision, placed.entry.position) {
            return Ok(None);
        }
        let stored = placed.read()?;
        let frame = stored.frame()?;
        if !is_wanted(&frame) || !judge.counts(&frame)? {
            return Ok(None);
        }
        Ok(Some(SnapshotInfo {
            stream: frame.stream.to_owned(),
            name: frame.name.to_owned(),
            schema: frame.schema,
            revision: Revision::new(frame.revision).expect("decoding refuses revision 0"),
            position: Position::new(frame.position).expect("decoding refuses position 0"),
            saved_at: frame.saved_at,
            len: frame.state_len,
            stored_len: frame.stored_len,
            file: stored.file.name.clone(),
            offset: placed.entry.offset,
        }))
    }
}

fn checked(stream: &str) -> Result<&str> {
    check_stream_name(stream).map(|()| stream)
}

/// The snapshot, if it is of this stream, name and schema, and counts.
fn find(core: &Core, judge: &Judge<'_>, stream: &str, kind: &Snapshots, placed: &Placed) -> Result<Option<Stored>> {
    let entry = &placed.entry;
    let is_kind = entry.kind == kind_hash(core.hash, kind.name(), kind.schema());
    if !is_kind || !judge.may_count(entry.revision, entry.position) {
        return Ok(None);
    }
    let stored = placed.read()?;
    let frame = stored.frame()?;
    let is_it = frame.stream == stream && frame.name == kind.name() && frame.schema == kind.schema();
    if !is_it || !judge.counts(&frame)? {
        return Ok(None);
    }
    Ok(Some(stored))
}

/// The events of a stream behind a position, from a revision on.
fn events_after(
    core: &Arc<Core>,
    judge: &Judge<'_>,
    stream: &str,
    (after, from): (u64, u64),
    head: u64,
    hidden: Option<Hidden>,
) -> Read {
    let key = core.hash.key(KeyKind::Stream, stream);
    let after = after.max(judge.facts.forgotten);
    let bounds = Bounds { from: after + 1, until: head, direction: Direction::Forward };
    let begun = StreamBegun::new(core, stream, key, bounds, true);
    Read::of_stream(begun, Some((from, judge.facts.last)), head, hidden, judge.facts.state)
}

/// In a store from which records were lost: the first revision behind the last hole after `from`, if there is one.
fn first_behind_hole(
    core: &Arc<Core>,
    judge: &Judge<'_>,
    stream: &str,
    from: u64,
    head: u64,
    hidden: Option<&Hidden>,
) -> Result<Option<u64>> {
    if core.lost.is_empty() || judge.facts.last < from {
        return Ok(None);
    }
    let mut next = from;
    let mut hole = None;
    for event in events_after(core, judge, stream, (0, judge.facts.first), head, hidden.cloned()) {
        let revision = event?.revision().get();
        if revision < next {
            continue;
        }
        if revision > next {
            hole = Some(revision);
        }
        next = revision + 1;
    }
    Ok(if next <= judge.facts.last { Some(judge.facts.last + 1) } else { hole })
}
