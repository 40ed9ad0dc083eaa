//! What a caller hands to the writer: events, batches, expectations, conditions.

use std::fmt;

use crate::consumer::{Acknowledgement, Delivery};
use crate::query::Query;
use crate::removal::{Removal, Removed};
use crate::{EventId, Position, Revision};
pub use annals_format::record::OccurredAt;

/// An event to append: borrows everything, copies nothing until it is encoded into the log.
///
/// ```
/// use annals::NewEvent;
/// let event = NewEvent::new("OrderPlaced", br#"{"total":12}"#)
///     .tags(&["customer:7"])
///     .metadata(br#"{"by":"web"}"#);
/// # let _ = event;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NewEvent<'a> {
    pub(crate) event_type: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) id: Option<EventId>,
    pub(crate) tags: &'a [&'a str],
    pub(crate) metadata: &'a [u8],
    pub(crate) occurred_at: Option<OccurredAt>,
    pub(crate) schema_version: Option<u32>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) correlation: Option<&'a [u8]>,
    pub(crate) causation: Option<&'a [u8]>,
}

impl<'a> NewEvent<'a> {
    /// An event of this type (1–255 bytes of UTF-8, no control characters, no leading `$`) with this payload (any bytes).
    pub fn new(event_type: &'a str, payload: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self {
            event_type,
            payload: payload.as_ref(),
            id: None,
            tags: &[],
            metadata: &[],
            occurred_at: None,
            schema_version: None,
            content_type: None,
            correlation: None,
            causation: None,
        }
    }

    /// The caller's id: a retry with the same id and content is answered `AlreadyCommitted` and stores nothing.
    pub fn id(mut self, id: impl Into<EventId>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Up to 64 tags, each 1–255 bytes of UTF-8.
    pub fn tags(mut self, tags: &'a [&'a str]) -> Self {
        self.tags = tags;
        self
    }

    /// Bytes that travel with the event; empty by default.
    pub fn metadata(mut self, metadata: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.metadata = metadata.as_ref();
        self
    }

    /// The producer's own time, kept as given; never orders anything.
    pub fn occurred_at(mut self, at: OccurredAt) -> Self {
        self.occurred_at = Some(at);
        self
    }

    /// Version of the payload's schema.
    pub fn schema_version(mut self, version: u32) -> Self {
        self.schema_version = Some(version);
        self
    }

    /// Media type of the payload, 0–255 bytes.
    pub fn content_type(mut self, content_type: &'a str) -> Self {
        self.content_type = Some(content_type);
        self
    }

    /// What conversation this belongs to, 0–255 bytes.
    pub fn correlation(mut self, correlation: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.correlation = Some(correlation.as_ref());
        self
    }

    /// What caused this, 0–255 bytes.
    pub fn causation(mut self, causation: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.causation = Some(causation.as_ref());
        self
    }
}

impl NewEvent<'_> {
    /// Whether it has anything beside stream, type, id and payload.
    #[inline]
    pub(crate) fn has_more(&self) -> bool {
        // Without branches: nearly always the answer is the same.
        !self.tags.is_empty()
            | !self.metadata.is_empty()
            | self.occurred_at.is_some()
            | self.schema_version.is_some()
            | self.content_type.is_some()
            | self.correlation.is_some()
            | self.causation.is_some()
    }
}

/// What must be true of a stream for an append to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// Anything.
    Any,
    /// The stream never existed.
    NoStream,
    /// The stream is absent or deleted.
    Vacant,
    /// The stream was written and is neither deleted nor ended; all of its events may have been truncated.
    Exists,
    /// The stream's last revision is this one, and it is neither deleted nor ended.
    At(Revision),
    /// The stream was deleted and not written since.
    Deleted,
}

impl Expect {
    /// `At(revision)`, or `NoStream` for 0: what a loaded aggregate of `revision` events expects.
    pub fn revision(revision: u64) -> Self {
        Revision::new(revision).map_or(Self::NoStream, Self::At)
    }
}

/// As it stands after "expected".
impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("one that is not tombstoned"),
            Self::NoStream => f.write_str("none"),
            Self::Vacant => f.write_str("none, or a deleted one"),
            Self::Exists => f.write_str("one that exists"),
            Self::At(revision) => write!(f, "revision {revision}"),
            Self::Deleted => f.write_str("a deleted one"),
        }
    }
}

/// When a commit is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// When the log is synced past it: survives a power cut. One sync serves all that wait.
    #[default]
    Durable,
    /// When the operating system holds the bytes: survives a kill of the process; of a power cut, a prefix survives.
    Buffered,
}

/// An append condition in the sense of Dynamic Consistency Boundaries: fails if an event matching `query` stands after
/// position `after` (`None`: anywhere in the history).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which events would refute the decision.
    pub query: Query,
    /// The head up to which the caller has seen the history.
    pub after: Option<Position>,
}

/// Events to one or many streams, and removals, that are written wholly or not at all.
///
/// ```
/// use annals::{Batch, Expect, NewEvent};
/// let batch = Batch::new()
///     .expect("account-1", Expect::Exists)
///     .event("account-1", NewEvent::new("Withdrawn", b"5"))
///     .event("account-2", NewEvent::new("Deposited", b"5"));
/// # let _ = batch;
/// ```
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    pub(crate) events: Vec<(&'a str, NewEvent<'a>)>,
    pub(crate) expectations: Vec<(&'a str, Expect)>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) removals: Vec<Removal<'a>>,
    pub(crate) acknowledgements: Vec<Acknowledgement>,
    pub(crate) durability: Option<Durability>,
    pub(crate) as_batch: bool,
}

impl Default for Batch<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Batch<'a> {
    /// An empty batch, marked as written by the caller as one.
    pub fn new() -> Self {
        Self::with_capacity(0)
    }

    /// An empty batch with room for this many events, to be filled by [`Batch::push`] and used again after
    /// [`Batch::clear`]: then batches cost no allocation.
    pub fn with_capacity(events: usize) -> Self {
        Self {
            events: Vec::with_capacity(events),
            expectations: Vec::with_capacity(events),
            conditions: Vec::new(),
            removals: Vec::new(),
            acknowledgements: Vec::new(),
            durability: None,
            as_batch: true,
        }
    }

    /// Takes out all events, expectations, conditions, removals and acknowledgements; durability and mark stay.
    pub fn clear(&mut self) {
        self.events.clear();
        self.expectations.clear();
        self.conditions.clear();
        self.removals.clear();
        self.acknowledgements.clear();
    }

    /// Acknowledges what a consumer handed out, in this batch: it counts as finished if and only if the batch is written.
    /// So what the batch does happens exactly once for it, whatever fails in between.
    ///
    /// The batch is refused ([`crate::Error::Fenced`]) if the event is no longer the caller's to answer for. A batch may
    /// acknowledge events of several consumers, and hold acknowledgements and no event.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use annals::{Batch, ConsumerOptions, Expect, NewEvent, Store};
    /// # fn main() -> annals::Result<()> {
    /// let store = Store::in_memory()?;
    /// store.append("order-1", Expect::NoStream, &[NewEvent::new("Placed", b"12 pencils")])?;
    /// let consumer = store.consumer("shipping", ConsumerOptions::new())?;
    /// while let Some(order) = consumer.next(Duration::ZERO)? {
    ///     let batch = Batch::new().acknowledge(&order);
    ///     let batch = match order.event_type() {
    ///         "Placed" => batch.event("shipment-1", NewEvent::new("Prepared", order.payload())),
    ///         _ => batch,
    ///     };
    ///     store.commit(&batch)?;
    /// }
    /// # assert_eq!(consumer.lag(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn acknowledge(mut self, delivery: &Delivery) -> Self {
        self.acknowledgements.push(delivery.acknowledgement());
        self
    }

    /// Adds an acknowledgement in place; the same as [`Batch::acknowledge`] for loops.
    pub fn push_acknowledgement(&mut self, delivery: &Delivery) {
        self.acknowledgements.push(delivery.acknowledgement());
    }

    /// Adds an expectation in place; the same as [`Batch::expect`] for loops.
    pub fn push_expectation(&mut self, stream: &'a str, expect: Expect) {
        self.expectations.push((stream, expect));
    }

    /// Appends `event` to `stream`, after those added before.
    pub fn event(mut self, stream: &'a str, event: NewEvent<'a>) -> Self {
        self.events.push((stream, event));
        self
    }

    /// Adds an event in place; the same as [`Batch::event`] for loops.
    pub fn push(&mut self, stream: &'a str, event: NewEvent<'a>) {
        self.events.push((stream, event));
    }

    /// What must hold of a stream, written by this batch or not (a guard), before the batch.
    pub fn expect(mut self, stream: &'a str, expect: Expect) -> Self {
        self.expectations.push((stream, expect));
        self
    }

    /// Adds an append condition.
    pub fn condition(mut self, query: Query, after: Option<Position>) -> Self {
        self.conditions.push(Condition { query, after });
        self
    }

    /// The durability of this commit instead of the store's default.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Whether the batch is kept as one the caller wrote (the default), or as a plain append.
    pub fn written_as_batch(mut self, as_batch: bool) -> Self {
        self.as_batch = as_batch;
        self
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is no event.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

/// What an append that happened is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub(crate) events: smallvec::SmallVec<[Committed; 1]>,
    pub(crate) removals: Option<Box<[Removed]>>,
    pub(crate) already_committed: bool,
    pub(crate) durability: Durability,
}

/// One event of a [`Receipt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its place in the store.
    pub position: Position,
    /// Its place in its stream.
    pub revision: Revision,
    /// Nanoseconds since 1970 UTC, the store's clock; one for a whole batch.
    pub recorded_at: u64,
    /// The caller's or the generated id.
    pub id: EventId,
}

impl Receipt {
    /// That of a batch which is still to be written.
    pub(crate) fn new(durability: Durability) -> Self {
        Self { events: smallvec::SmallVec::new(), removals: None, already_committed: false, durability }
    }

    /// Every event in the order given.
    pub fn events(&self) -> &[Committed] {
        &self.events
    }

    /// What became of the batch's removals, in the order given; none if the batch was stored before.
    pub fn removals(&self) -> &[Removed] {
        self.removals.as_deref().unwrap_or_default()
    }

    /// Position of the last record that was written, `None` if a batch without events changed nothing.
    pub fn last_position(&self) -> Option<Position> {
        let of_events = self.events.last().map(|event| event.position);
        of_events.or_else(|| self.removals().iter().filter_map(|removed| removed.position).next_back())
    }

    /// The first event.
    ///
    /// # Panics
    /// If the batch had none.
    pub fn first(&self) -> &Committed {
        &self.events[0]
    }

    /// The last event.
    ///
    /// # Panics
    /// If the batch had none.
    pub fn last(&self) -> &Committed {
        &self.events[self.events.len() - 1]
    }

    /// Position of the last event.
    ///
    /// # Panics
    /// If the batch had none.
    pub fn position(&self) -> Position {
        self.last().position
    }

    /// Revision of the last event in its stream.
    ///
    /// # Panics
    /// If the batch had none.
    pub fn revision(&self) -> Revision {
        self.last().revision
    }

    /// True when nothing was written: all events were stored before (a retry), or a batch without events found all of its
    /// removals done; positions, revisions and times are those of the first time.
    pub fn already_committed(&self) -> bool {
        self.already_committed
    }

    /// The durability reached at this answer.
    pub fn durability(&self) -> Durability {
        self.durability
    }
}
