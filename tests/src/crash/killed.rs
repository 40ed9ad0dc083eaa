//! What a process that is to be killed appends: all follows from a key, so that the parent knows it without being told.

use annals::{EventId, NewEvent};

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
