//! Batches that follow from a key, for processes that are killed and threads that are cut off: whoever judges knows them
//! without being told.

use std::collections::BTreeMap;

use annals::{Batch, Durability, Event, EventId, NewEvent};

use super::Verdict;
use crate::ensure;
use crate::sim_disk::Dice;

const STREAMS: [&str; 5] = ["orders", "payments", "stock", "mail", "audit"];

/// An event of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedEvent {
    /// Its id.
    pub id: EventId,
    /// Its payload, which begins with the key.
    pub payload: Vec<u8>,
}

impl KeyedEvent {
    /// As the store wants it.
    #[must_use]
    pub fn new_event(&self) -> NewEvent<'_> {
        NewEvent::new("Appended", &self.payload).id(self.id)
    }
}

/// The events of the batch with this key.
#[must_use]
pub fn events_of(key: u64) -> Vec<KeyedEvent> {
    let dice = &mut Dice::of(key, 0x4B45);
    let count = if dice.chance(1, 2) { 1 } else { 1 + dice.index(8) };
    let longest = if dice.chance(1, 50) { 60_000 } else { 400 };
    let mut event = || {
        let (high, low) = (dice.next(), dice.next());
        let id = EventId::from_bytes((u128::from(high) << 64 | u128::from(low)).to_le_bytes());
        let mut payload = key.to_le_bytes().to_vec();
        payload.resize(8 + dice.index(longest), high as u8);
        KeyedEvent { id, payload }
    };
    (0..count).map(|_| event()).collect()
}

/// The batch with this key, whose events are these.
#[must_use]
pub fn batch_of(key: u64, events: &[KeyedEvent], durability: Durability) -> Batch<'_> {
    let mut batch = Batch::new().durability(durability);
    for (index, event) in events.iter().enumerate() {
        batch.push(stream_of(key, index), event.new_event());
    }
    batch
}

/// The stream of one event of the batch with this key.
#[must_use]
pub fn stream_of(key: u64, index: usize) -> &'static str {
    STREAMS[(key as usize + index) % STREAMS.len()]
}

/// The key that a payload begins with.
#[must_use]
pub fn key_of(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The key of every batch in a store, and where it begins; all events of the store are given, in order.
///
/// # Errors
/// What is wrong: a batch that is not whole, stands twice, or holds something else; positions or revisions that do not
/// run on.
pub fn batches_in(events: &[Event]) -> Verdict<BTreeMap<u64, u64>> {
    let mut revisions: BTreeMap<&str, u64> = BTreeMap::new();
    let mut batches: BTreeMap<u64, u64> = BTreeMap::new();
    let mut end = 0;
    let mut expected = Vec::new();
    for (index, event) in events.iter().enumerate() {
        let position = event.position().get();
        ensure!(position == index as u64 + 1, "event {index} stands at {position}");
        let key = key_of(event.payload()).ok_or("a payload without a key")?;
        if position > end {
            expected = events_of(key);
            end += expected.len() as u64;
            let before = batches.insert(key, position);
            ensure!(before.is_none(), "batch {key} stands twice, at {before:?} and {position}");
        }
        let first = *batches.get(&key).ok_or(format!("batch {key} begins at {position}, inside another one"))?;
        let in_batch = (position - first) as usize;
        let wanted = expected.get(in_batch).ok_or(format!("batch {key} goes on at {position}"))?;
        let is_right = event.payload() == wanted.payload && event.id() == wanted.id;
        ensure!(is_right && event.stream() == stream_of(key, in_batch), "batch {key}: other content at {position}");
        let revision = revisions.entry(event.stream()).or_default();
        *revision += 1;
        ensure!(event.revision().get() == *revision, "revision {} at {position}", event.revision());
    }
    ensure!(end == events.len() as u64, "the last batch is not whole");
    Ok(batches)
}
