//! Folds: how a state is made of events, told once, for programs that load and for compaction, which saves snapshots by them.

use std::fmt;
use std::sync::Arc;

use annals_format::name;
use parking_lot::RwLock;

use super::kind::Snapshots;
use super::load::History;
use super::state::Snapshot;
use crate::Result;
use crate::error::Error;
use crate::event::Event;
use crate::store::Store;

/// What a fold fails with.
pub type FoldError = Box<dyn std::error::Error + Send + Sync>;

/// How the state of a stream is made of its events.
///
/// The same events must give the same bytes whenever and wherever it runs: it reads no clock and asks nobody. Whoever changes it,
/// or how the state is encoded, gives its [`Snapshots`] another schema.
///
/// ```
/// use annals::{Event, Expect, Fold, FoldError, Loaded, NewEvent, Snapshot, Snapshots, Store};
///
/// struct Clicks;
///
/// impl Fold for Clicks {
///     type State = u64;
///
///     fn begin(&self, snapshot: Option<&Snapshot>) -> Result<u64, FoldError> {
///         Ok(snapshot.map(|snapshot| snapshot.state().try_into().map(u64::from_le_bytes)).transpose()?.unwrap_or(0))
///     }
///
///     fn apply(&self, clicks: &mut u64, _: &Event) -> Result<(), FoldError> {
///         *clicks += 1;
///         Ok(())
///     }
///
///     fn encode(&self, clicks: &u64) -> Result<Vec<u8>, FoldError> {
///         Ok(clicks.to_le_bytes().to_vec())
///     }
/// }
///
/// # fn main() -> Result<(), FoldError> {
/// let store = Store::in_memory()?;
/// for _ in 0..3 {
///     store.append("clicks", Expect::Any, &[NewEvent::new("Clicked", b"")])?;
/// }
/// let Loaded::Complete(mut history) = Snapshots::of("counter", 1).load(&store, "clicks")? else { panic!("no state") };
/// assert_eq!(history.replay(&Clicks)?, 3);
/// # Ok(())
/// # }
/// ```
pub trait Fold {
    /// The state while events are applied to it.
    type State;

    /// The state to begin with: that of a snapshot, or the one before the first event.
    ///
    /// # Errors
    /// Whatever keeps it from being decoded.
    fn begin(&self, snapshot: Option<&Snapshot>) -> Result<Self::State, FoldError>;

    /// Takes the next event of the stream in.
    ///
    /// # Errors
    /// Whatever keeps it from being understood.
    fn apply(&self, state: &mut Self::State, event: &Event) -> Result<(), FoldError>;

    /// The bytes to be saved.
    ///
    /// # Errors
    /// Whatever keeps it from being encoded.
    fn encode(&self, state: &Self::State) -> Result<Vec<u8>, FoldError>;
}

impl History {
    /// The state of the snapshot and the events after it. To be called before anything was handed out.
    ///
    /// # Errors
    /// What the fold fails with, or what reading does, as [`Error`].
    pub fn replay<F: Fold + ?Sized>(&mut self, fold: &F) -> Result<F::State, FoldError> {
        let mut state = fold.begin(self.snapshot())?;
        for event in self {
            fold.apply(&mut state, &event?)?;
        }
        Ok(state)
    }
}

/// What is to go on after an event of so many bytes; false: no more.
pub(crate) type Onward<'a> = &'a mut dyn FnMut(u64) -> bool;

/// A fold of whatever state.
trait Folding: Send + Sync {
    /// The bytes to be saved; `None` if it was stopped.
    fn state_of(&self, history: &mut History, onward: Onward<'_>) -> Result<Option<Vec<u8>>, FoldError>;
}

impl<F: Fold + Send + Sync> Folding for F {
    fn state_of(&self, history: &mut History, onward: Onward<'_>) -> Result<Option<Vec<u8>>, FoldError> {
        let mut state = self.begin(history.snapshot())?;
        while let Some(event) = history.next().transpose()? {
            self.apply(&mut state, &event)?;
            if !onward((event.payload().len() + event.metadata().len()) as u64) {
                return Ok(None);
            }
        }
        self.encode(&state).map(Some)
    }
}

/// A fold, the streams that it is for, and what is saved.
pub(crate) struct Registered {
    pub(crate) prefix: String,
    pub(crate) kind: Snapshots,
    folding: Box<dyn Folding>,
}

impl Registered {
    pub(crate) fn fold(&self, history: &mut History, onward: Onward<'_>) -> Result<Option<Vec<u8>>, FoldError> {
        self.folding.state_of(history, onward)
    }

    fn is_same(&self, other: &Self) -> bool {
        let what = |of: &Self| (of.prefix.clone(), of.kind.name().to_owned(), of.kind.schema());
        what(self) == what(other)
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("prefix", &self.prefix).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// All that are registered in this opening.
#[derive(Debug, Default)]
pub(crate) struct Folds(RwLock<Vec<Arc<Registered>>>);

impl Folds {
    pub(crate) fn all(&self) -> Vec<Arc<Registered>> {
        self.0.read().clone()
    }

    fn register(&self, new: Registered) {
        let mut all = self.0.write();
        let new = Arc::new(new);
        match all.iter_mut().find(|known| known.is_same(&new)) {
            Some(known) => *known = new,
            None => all.push(new),
        }
    }
}

impl Store {
    /// From now on compaction folds streams whose names begin with `prefix` ("": all) into snapshots of this kind, wherever one is
    /// due ([`Snapshots::every_events`], [`Snapshots::every_bytes`], [`Snapshots::max_age`]), whoever asked for the compaction.
    /// So a load afterwards reads few events, also of streams that nobody writes to any more. With [`Snapshots::keep`] it lets
    /// go of older ones.
    ///
    /// Each stream is read from its last snapshot on, in its durable view, before a sweep lets go of anything
    /// ([`CompactionOptions::sweep_first`](crate::CompactionOptions::sweep_first)), and one after the other: in memory are one
    /// state and the names of at most 65,536 streams. A fold that fails or panics fails for its stream alone, of which nothing
    /// is saved ([`CompactionReport::folds`](crate::CompactionReport::folds)).
    ///
    /// It lasts until the store is closed, and takes the place of one for the same prefix, name and schema. The fold runs in the
    /// thread that compacts; it must not hold the store, compact or close it.
    ///
    /// # Errors
    /// `Invalid` if no stream or state can have this name, and for a kind that does not say when one is due.
    ///
    /// ```
    /// # use annals::{Event, Expect, Fold, FoldError, NewEvent, Snapshot};
    /// use annals::{CompactionOptions, Snapshots, Store};
    /// # struct Clicks;
    /// # impl Fold for Clicks {
    /// #     type State = u64;
    /// #     fn begin(&self, snapshot: Option<&Snapshot>) -> Result<u64, FoldError> {
    /// #         Ok(snapshot.map(|snapshot| snapshot.state().try_into().map(u64::from_le_bytes)).transpose()?.unwrap_or(0))
    /// #     }
    /// #     fn apply(&self, clicks: &mut u64, _: &Event) -> Result<(), FoldError> {
    /// #         *clicks += 1;
    /// #         Ok(())
    /// #     }
    /// #     fn encode(&self, clicks: &u64) -> Result<Vec<u8>, FoldError> {
    /// #         Ok(clicks.to_le_bytes().to_vec())
    /// #     }
    /// # }
    /// # fn main() -> annals::Result<()> {
    /// let store = Store::in_memory()?;
    /// let counters = Snapshots::of("counter", 1).every_events(100).keep(1);
    /// store.register_fold("clicks-", &counters, Clicks)?; // a `Fold`
    /// for _ in 0..250 {
    ///     store.append("clicks-home", Expect::Any, &[NewEvent::new("Clicked", b"")])?;
    /// }
    /// let report = store.compact(&CompactionOptions::new())?;
    /// assert_eq!((report.folds.folded, report.folds.events), (1, 250));
    /// assert_eq!(counters.latest(&store, "clicks-home")?.expect("saved").revision().get(), 250);
    /// # Ok(())
    /// # }
    /// ```
    pub fn register_fold(&self, prefix: &str, kind: &Snapshots, fold: impl Fold + Send + Sync + 'static) -> Result<()> {
        if !(prefix.is_empty() || name::is_well_formed(prefix.as_bytes())) {
            return Err(Error::invalid("no stream can have a name that begins like this", None));
        }
        if !name::is_well_formed(kind.name().as_bytes()) {
            return Err(Error::invalid("no state can have this name", None));
        }
        if !kind.has_limit() {
            return Err(Error::invalid("a registered fold needs to be told when a snapshot is due", None));
        }
        let folding = Box::new(fold);
        self.inner().folds.register(Registered { prefix: prefix.to_owned(), kind: kind.clone(), folding });
        Ok(())
    }
}

/// Where a stream stands that may be folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Behind {
    /// Events since the last snapshot of the kind, or since the beginning.
    pub(crate) events: u64,
    /// When that snapshot was saved.
    pub(crate) saved_at: Option<u64>,
}

impl Snapshots {
    fn has_limit(&self) -> bool {
        self.every_events.is_some() || self.every_bytes.is_some() || self.max_age.is_some()
    }

    /// Whether a snapshot may be due, as far as can be told without reading an event.
    pub(crate) fn may_be_due(&self, behind: Behind, now: u64) -> bool {
        let is_old = |limit: std::time::Duration| {
            behind.saved_at.is_none_or(|at| u128::from(now.saturating_sub(at)) >= limit.as_nanos())
        };
        behind.events > 0
            && (self.every_events.is_some_and(|limit| behind.events >= limit)
                || self.every_bytes.is_some()
                || self.max_age.is_some_and(is_old))
    }
}
