//! Batches before they are appended.

use std::fmt;

use annals::{Batch, Durability, Event, EventId, Expect, NewEvent, Receipt, Result, Revision, Store, Ticket};

use crate::sim_disk::Dice;

/// An event as a caller would give it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its stream.
    pub stream: String,
    /// Its type.
    pub event_type: &'static str,
    /// Its tags.
    pub tags: Vec<&'static str>,
    /// Its metadata.
    pub metadata: Vec<u8>,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its id; none: the store makes one.
    pub id: Option<EventId>,
}

/// A batch as a caller would give it.
pub struct Lot {
    /// Its events, at least one.
    pub drafts: Vec<Draft>,
    /// Whether it is handed in as a batch or as a plain append.
    pub as_batch: bool,
    /// What the batch removes besides.
    pub removal: Option<Removal>,
}

/// What a batch removes before it appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// All events of a stream.
    Delete(String),
    /// The first event ever of a stream.
    First(String),
}

impl fmt::Debug for Lot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.drafts.iter().map(|draft| draft.payload.len()).sum();
        let ids = if self.has_ids() { "" } else { " without ids" };
        write!(f, "{} events{ids}, {bytes} bytes", self.drafts.len())?;
        self.removal.as_ref().map_or(Ok(()), |removal| write!(f, ", {removal:?}"))
    }
}

const TYPES: [&str; 3] = ["Opened", "Changed", "Closed"];
const TAGS: [&str; 3] = ["red", "green", "blue"];

impl Lot {
    /// A lot of some size: mostly small, sometimes longer than a page, seldom longer than half the ring or a segment.
    #[must_use]
    pub fn random(dice: &mut Dice) -> Self {
        let count = match dice.below(10) {
            0..=4 => 1,
            5..=7 => 2 + dice.index(4),
            _ => 6 + dice.index(20),
        };
        let as_batch = count > 1 || dice.chance(1, 4);
        let longest = match dice.below(64) {
            0 => 90_000,
            1 | 2 => 45_000,
            3..=9 => 9_000,
            10..=24 => 2_500,
            _ => 300,
        };
        let longest = if count > 6 { longest.min(3_000) } else { longest };
        Self::of(dice, count, longest, as_batch)
    }

    /// A lot of so many events with payloads up to `longest` bytes.
    #[must_use]
    pub fn of(dice: &mut Dice, count: usize, longest: usize, as_batch: bool) -> Self {
        let has_ids = dice.chance(4, 5);
        let stream_count = if as_batch { 1 + dice.index(4) } else { 1 };
        let first_stream = dice.index(6);
        let drafts = (0..count).map(|_| {
            let stream = format!("stream-{}", first_stream + dice.index(stream_count));
            Draft::random(dice, stream, longest, has_ids)
        });
        Self { drafts: drafts.collect(), as_batch, removal: None }
    }

    /// The same with a removal, as a batch.
    #[must_use]
    pub fn removing(self, dice: &mut Dice) -> Self {
        let stream = format!("stream-{}", dice.index(8));
        let removal = if dice.chance(1, 2) { Removal::Delete(stream) } else { Removal::First(stream) };
        Self { as_batch: true, removal: Some(removal), ..self }
    }

    /// Number of events.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a lot is never empty")]
    pub fn len(&self) -> u64 {
        self.drafts.len() as u64
    }

    /// Whether the caller gives the ids, so that a retry is recognised.
    #[must_use]
    pub fn has_ids(&self) -> bool {
        self.drafts.iter().all(|draft| draft.id.is_some())
    }

    fn batch(&self, durability: Durability) -> Batch<'_> {
        let mut batch = Batch::new().durability(durability).written_as_batch(self.as_batch);
        for draft in &self.drafts {
            batch.push(&draft.stream, draft.event());
        }
        match &self.removal {
            Some(Removal::Delete(stream)) => batch.delete(stream),
            Some(Removal::First(stream)) => batch.truncate_before(stream, Revision::new(2).expect("at least 1")),
            None => batch,
        }
    }

    /// Appends the lot and waits for the answer.
    ///
    /// # Errors
    /// As the store.
    pub fn append(&self, store: &Store, durability: Durability) -> Result<Receipt> {
        if self.as_batch {
            return store.commit(&self.batch(durability));
        }
        let events: Vec<NewEvent<'_>> = self.drafts.iter().map(Draft::event).collect();
        store.append_with(&self.drafts[0].stream, Expect::Any, &events, durability)
    }

    /// Hands the lot in for a ticket.
    ///
    /// # Errors
    /// As the store.
    pub fn submit(&self, store: &Store, durability: Durability) -> Result<Ticket> {
        store.submit(&self.batch(durability))
    }
}

impl Draft {
    fn random(dice: &mut Dice, stream: String, longest: usize, has_id: bool) -> Self {
        let len = dice.index(longest + 1);
        let tags = TAGS.into_iter().filter(|_| dice.chance(1, 4)).collect();
        let metadata = if dice.chance(1, 4) { random_bytes(dice, 20) } else { Vec::new() };
        let id = has_id.then(|| {
            let bytes: [u8; 16] = random_bytes(dice, 16).try_into().expect("16 bytes");
            EventId::from_bytes(bytes)
        });
        Self { stream, event_type: TYPES[dice.index(3)], tags, metadata, payload: random_bytes(dice, len), id }
    }

    fn event(&self) -> NewEvent<'_> {
        let event = NewEvent::new(self.event_type, &self.payload).tags(&self.tags).metadata(&self.metadata);
        match self.id {
            Some(id) => event.id(id),
            None => event,
        }
    }

    /// Whether a stored event is this one, but for what the store gave it.
    #[must_use]
    pub fn is(&self, event: &Event) -> bool {
        event.stream() == self.stream
            && event.event_type() == self.event_type
            && event.payload() == self.payload
            && event.metadata() == self.metadata
            && event.tags().eq(self.tags.iter().copied())
            && self.id.is_none_or(|id| event.id() == id)
            && event.id_generated() == self.id.is_none()
    }
}

fn random_bytes(dice: &mut Dice, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&dice.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
