//! The one error of the library. Every variant carries the facts; the text says what to do.

use std::fmt;
use std::io;

use crate::append::Expect;
use crate::{EventId, Position, Revision};
pub use annals_format::Fault;

/// What can go wrong. Nothing is written unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An expectation, guard or append condition does not hold. Nothing written, no position consumed.
    #[error("conflict: {0}")]
    Conflict(Box<Conflict>),

    /// The batch holds nothing at all.
    #[error("the batch holds nothing to append")]
    Empty,

    /// A name, size or shape is not allowed.
    #[error("invalid: {0}")]
    Invalid(Box<Invalid>),

    /// A position beyond the head was given as a place to start or as `after`.
    #[error("position {given} lies beyond the head {head}; this caller has seen a log that this store does not hold")]
    AheadOfLog {
        /// The position given.
        given: u64,
        /// The head of the view that was asked.
        head: u64,
    },

    /// The id is taken by an event of other content.
    #[error("id {id} is taken by another event, at position {at}; use a new id, or the content of the first append")]
    DuplicateId {
        /// The id.
        id: EventId,
        /// Where the event of that id stands.
        at: Position,
    },

    /// Some of the batch's ids are stored already and some are not.
    #[error("{} of the batch's ids are stored already and {} are not; append the missing ones alone", present.len(), absent.len())]
    PartialDuplicate {
        /// Ids that are stored.
        present: Vec<EventId>,
        /// Ids that are not.
        absent: Vec<EventId>,
    },

    /// No room: on the disk, under a file-size limit, or under the store's quota. Nothing was written and the same
    /// append may be tried again when there is room.
    #[error("no space while {action}: {reason}; make room and append again")]
    NoSpace {
        /// What was being done.
        action: &'static str,
        /// What limit was met.
        reason: String,
    },

    /// A write or sync of the log failed while this append was in flight. It may or may not be found after reopening:
    /// retry it then with the same ids.
    #[error("outcome unknown: {reason}; reopen the store and retry with the same ids")]
    OutcomeUnknown {
        /// The ids of the batch, given or generated.
        ids: Vec<EventId>,
        /// What failed.
        reason: String,
    },

    /// The writer refuses since a write or sync failed. Reading goes on up to the durable head.
    #[error("the writer stopped after a failure: {reason}; close and reopen the store")]
    Poisoned {
        /// What failed first.
        reason: String,
    },

    /// Another process, or another `Store` of this one, holds the store for writing.
    #[error("the store is open for writing{}; close that one, or open read-only", holder(.pid))]
    Locked {
        /// The process that holds the lock, if it could be told.
        pid: Option<u32>,
    },

    /// A file does not hold what was once known to be there.
    #[error("{0}")]
    Corrupt(Box<Corrupt>),

    /// A file holds something that this version of the library does not know.
    #[error("{file} holds {what}, written by version {}.{}.{}; use that version or a newer one", written_by >> 16, (written_by >> 8) & 0xff, written_by & 0xff)]
    Unsupported {
        /// The file.
        file: String,
        /// What is not known.
        what: String,
        /// Version of the library that wrote the file: `major << 16 | minor << 8 | patch`, 0 if unknown.
        written_by: u32,
    },

    /// The directory holds no store.
    #[error("{path} is not a store: {reason}")]
    NotAStore {
        /// The directory.
        path: String,
        /// Why not.
        reason: String,
    },

    /// The directory given for something new holds something already. Nothing in it was touched.
    #[error("{path} is not free: {reason}; give a directory that does not exist yet")]
    Occupied {
        /// The directory.
        path: String,
        /// What it holds.
        reason: String,
    },

    /// The store was opened for reading only, or its directory cannot be written.
    #[error("the store is read-only: {reason}")]
    ReadOnly {
        /// Why.
        reason: String,
    },

    /// The store was made to keep everything: nothing is ever removed from it.
    #[error("removal is forbidden in this store; that was chosen when it was created and cannot be changed")]
    RemovalForbidden,

    /// `try_submit` found the bytes in flight at their limit. Nothing written; wait for a ticket and submit again.
    #[error("{in_flight} bytes are in flight; wait for a ticket")]
    Full {
        /// Bytes written and not yet synced.
        in_flight: u64,
    },

    /// The consumer is open in this process already.
    #[error("consumer {consumer:?} is open already; close that one, or open it to take it over")]
    ConsumerBusy {
        /// Its name.
        consumer: String,
    },

    /// An answer for an event that is no longer the caller's: another opening took the consumer over, it was reset or
    /// removed, or an earlier event of the stream failed. Nothing written; what is unfinished is handed out again.
    #[error("consumer {consumer:?} no longer waits for this answer{}; take what `next` hands out", at(.position))]
    Fenced {
        /// The consumer.
        consumer: String,
        /// Where the event stands, if it was about one.
        position: Option<Position>,
    },

    /// What was seen up to a position, by a follower or under a checkpoint, is not of this store's history: beyond `common`
    /// it was taken back, or other events stand there now. Whoever acted on it has to go back to `common`.
    #[error("position {position} is not of this store's history, which is the same up to position {common} alone")]
    Diverged {
        /// The position seen.
        position: u64,
        /// The last position that both histories are known to share; 0: none.
        common: u64,
    },

    /// Events that a history was to hand out were removed since it was loaded, and compaction has taken them out.
    #[error("revision {revision} of stream {stream:?} was removed while its history was read; load the stream again")]
    Overtaken {
        /// The stream.
        stream: String,
        /// The first revision that is missing.
        revision: Revision,
    },

    /// The operating system refused.
    #[error("{action} {file}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// With which file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

fn at(position: &Option<Position>) -> String {
    position.map(|position| format!(" for position {position}")).unwrap_or_default()
}

fn holder(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

/// Damage: which file, where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupt {
    /// File name inside the store.
    pub file: String,
    /// Byte offset in the file.
    pub offset: u64,
    /// The position that should stand there, if it is known.
    pub position: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: &'static str,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "damage in {} at byte {}", self.file, self.offset)?;
        if let Some(position) = self.position {
            write!(f, " (position {position})")?;
        }
        write!(f, ": {}; {}", self.what, self.hint)
    }
}

/// What is not allowed, with its measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// What is wrong.
    pub what: &'static str,
    /// Index of the event in the batch, if it is one event's fault.
    pub index: Option<usize>,
    /// The size met, if a limit was.
    pub size: Option<u64>,
    /// The limit.
    pub limit: Option<u64>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        if let Some(index) = self.index {
            write!(f, " (event {index} of the batch)")?;
        }
        if let (Some(size), Some(limit)) = (self.size, self.limit) {
            write!(f, ": {size}, the limit is {limit}")?;
        }
        Ok(())
    }
}

/// Why a batch was refused: all that failed, and the head it was judged against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Position of the last record before the batch; 0 in an empty store.
    pub head: u64,
    /// Every expectation and condition that failed.
    pub failed: Vec<Refusal>,
}

/// One failed expectation or condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A stream is not in the state expected.
    Stream {
        /// The stream.
        stream: String,
        /// What was expected.
        expected: Expect,
        /// What is.
        actual: StreamState,
    },
    /// An event matches an append condition's query after its position.
    Condition {
        /// Index of the condition in the batch.
        index: usize,
        /// The `after` given.
        after: Option<Position>,
        /// Position of the newest match, or of the removal that hid one since.
        newest: Position,
        /// Id of that match.
        id: EventId,
    },
}

/// State of a stream at a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamState {
    /// Never written.
    Absent,
    /// Was written, and is neither deleted nor ended.
    Live {
        /// First revision that can be read; one more than the last if all was truncated.
        first: Revision,
        /// Last revision.
        last: Revision,
    },
    /// Deleted; may be written again.
    Deleted {
        /// Last revision ever.
        last: Revision,
    },
    /// Ended for good.
    Tombstoned {
        /// Last revision ever.
        last: Revision,
    },
}

/// As it stands after "is".
impl fmt::Display for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Live { first, last } if first > last => write!(f, "at revision {last}, all truncated"),
            Self::Live { last, .. } => write!(f, "at revision {last}"),
            Self::Deleted { last } => write!(f, "deleted at revision {last}"),
            Self::Tombstoned { last } => write!(f, "tombstoned at revision {last}"),
        }
    }
}

impl StreamState {
    /// Last revision ever given, `None` for a stream that never was.
    pub fn last(&self) -> Option<Revision> {
        match *self {
            Self::Absent => None,
            Self::Live { last, .. } | Self::Deleted { last } | Self::Tombstoned { last } => Some(last),
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, refusal) in self.failed.iter().enumerate() {
            if n > 0 {
                f.write_str("; ")?;
            }
            match refusal {
                Refusal::Stream { stream, expected, actual } => {
                    write!(f, "stream {stream:?}: expected {expected}, is {actual}")?;
                }
                Refusal::Condition { index, after, newest, id } => match after {
                    Some(after) => write!(f, "condition {index}: event {id} at {newest} matches after {after}")?,
                    None => write!(f, "condition {index}: event {id} at {newest} matches")?,
                },
            }
        }
        write!(f, " (head {})", self.head)
    }
}

impl Error {
    pub(crate) fn io(action: &'static str, file: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        // What reads a compacted segment as a file finds damage where a file would only fail.
        move |source| match source.downcast::<Self>() {
            Ok(error) => error,
            Err(source) => Self::Io { action, file: file.into(), source },
        }
    }

    pub(crate) fn invalid(what: &'static str, index: Option<usize>) -> Self {
        Self::Invalid(Box::new(Invalid { what, index, size: None, limit: None }))
    }

    pub(crate) fn over_limit(what: &'static str, index: Option<usize>, size: u64, limit: u64) -> Self {
        Self::Invalid(Box::new(Invalid { what, index, size: Some(size), limit: Some(limit) }))
    }

    pub(crate) fn invalid_query(what: &'static str) -> Self {
        Self::invalid(what, None)
    }

    /// Damage, or `Unsupported` if that is what the fault says.
    pub(crate) fn damaged(file: &str, offset: u64, position: Option<u64>, fault: &Fault, written_by: u32) -> Self {
        if let Fault::Unsupported { what, value } = fault {
            let what = format!("{what} {value:#x}");
            return Self::Unsupported { file: file.to_owned(), what, written_by };
        }
        Self::corrupt(file, offset, position, fault.to_string())
    }

    pub(crate) fn occupied(reason: impl Into<String>) -> Self {
        Self::Occupied { path: "the directory".to_owned(), reason: reason.into() }
    }

    pub(crate) fn corrupt(file: &str, offset: u64, position: Option<u64>, what: impl Into<String>) -> Self {
        let hint = "run `annals verify` to see all damage, and restore this file from a copy";
        Self::Corrupt(Box::new(Corrupt { file: file.to_owned(), offset, position, what: what.into(), hint }))
    }
}
