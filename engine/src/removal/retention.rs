//! What callers say about keeping, and what they are told of removing.

use std::time::Duration;

use annals_format::record::{Policy, Scope as ScopeOf};

use crate::error::StreamState;
use crate::{Position, Revision};

/// Which streams a policy speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The stream of this name.
    Stream(String),
    /// All streams whose names begin with this, by bytes; an empty one: all.
    Prefix(String),
    /// The store as a whole.
    Store,
}

impl Scope {
    pub(crate) fn borrowed(&self) -> ScopeOf<'_> {
        match self {
            Self::Stream(name) => ScopeOf::Stream(name),
            Self::Prefix(prefix) => ScopeOf::Prefix(prefix),
            Self::Store => ScopeOf::Store,
        }
    }
}

/// How much is kept. What is beyond any of the limits is let go of by the next [`sweep`](crate::Store::sweep).
///
/// ```
/// use std::time::Duration;
/// use annals::{Retention, Scope, Store};
/// # fn main() -> annals::Result<()> {
/// let store = Store::in_memory()?;
/// let month = Duration::from_secs(30 * 24 * 60 * 60);
/// store.set_retention(&Scope::Prefix("session-".into()), Retention::new().max_age(month).max_count(1_000))?;
/// store.set_retention(&Scope::Store, Retention::new().max_bytes(10 << 30))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_count: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
}

impl Retention {
    /// Without limits: everything is kept.
    pub fn new() -> Self {
        Self::default()
    }

    /// Events recorded longer ago than this are let go of; more than nothing, at most 584 years.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Of each stream the newest so many events are kept, at least one.
    pub fn max_count(mut self, events: u64) -> Self {
        self.max_count = Some(events);
        self
    }

    /// The newest so many bytes of log are kept, counted in whole batches; of [`Scope::Store`] alone.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// The limits given.
    pub fn limits(&self) -> (Option<Duration>, Option<u64>, Option<u64>) {
        (self.max_age, self.max_count, self.max_bytes)
    }

    pub(crate) fn of(policy: &Policy<'_>) -> Self {
        Self {
            max_age: policy.max_age.map(Duration::from_nanos),
            max_count: policy.max_count,
            max_bytes: policy.max_bytes,
        }
    }

    /// `None` if a limit is 0 or cannot be said, or is not one of this scope.
    pub(crate) fn policy<'a>(&self, scope: ScopeOf<'a>) -> Option<Policy<'a>> {
        let nanos = self.max_age.map(|age| u64::try_from(age.as_nanos()).unwrap_or(0));
        let policy = Policy { scope, max_age: nanos, max_count: self.max_count, max_bytes: self.max_bytes };
        let has_zero = [policy.max_age, policy.max_count, policy.max_bytes].contains(&Some(0));
        (policy.is_allowed() && !has_zero).then_some(policy)
    }
}

/// What a removal did, and where it stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Position of its record; `None` if all was so before, and nothing was written.
    pub position: Option<Position>,
    /// The stream's state after it.
    pub state: StreamState,
    /// How many events it hides that could be read before.
    pub hidden: u64,
    /// Whether no snapshot of state reaches the cut: the stream can be loaded no more ([`Loaded`](crate::Loaded) is
    /// incomplete) until one is saved by who has the state. Told of truncations alone.
    pub is_unreached: bool,
}

/// A cut that a sweep makes, or would make.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// Of a stream, in revisions.
    Stream {
        /// The stream.
        name: String,
        /// First revision that could be read before.
        first: Revision,
        /// Last revision that is hidden.
        upto: Revision,
    },
    /// Of all streams of a prefix, in positions.
    Prefix {
        /// How their names begin; empty: all streams.
        prefix: String,
        /// First position that was not hidden before by such a cut.
        first: Position,
        /// Last position that is hidden.
        upto: Position,
    },
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Position of its last record; `None` if there was nothing to let go of.
    pub position: Option<Position>,
    /// Every cut.
    pub cuts: Vec<Cut>,
}
