//! Where consumers stand: what the changes of the log give.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Change, Ranges, What};

/// Where one consumer stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerState {
    /// That of its last opening or reset.
    pub generation: u64,
    /// Everything up to this position is finished or parked.
    pub checkpoint: u64,
    /// What is finished or parked above the checkpoint.
    pub finished: Ranges,
    /// What is parked, by position.
    pub parked: BTreeMap<u64, Parked>,
    /// `recorded_at` of the last change.
    pub changed_at: u64,
}

/// An event that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Its stream.
    pub stream: Arc<str>,
    /// How often it was tried.
    pub attempts: u32,
    /// The parked event of the same stream that it has to wait for; 0 if it failed itself.
    pub behind: u64,
    /// Why it was put aside.
    pub reason: Arc<str>,
    /// `recorded_at` of the batch that says so.
    pub at: u64,
}

impl ConsumerState {
    /// Whether the consumer is done with this position: finished or parked.
    pub fn covers(&self, position: u64) -> bool {
        position <= self.checkpoint || self.finished.contains(position)
    }

    fn advance(&mut self, checkpoint: u64) {
        self.checkpoint = self.finished.advance(self.checkpoint.max(checkpoint));
    }
}

/// Where all consumers of a store stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerTable {
    /// The largest generation ever given.
    pub last_generation: u64,
    /// By name.
    pub consumers: BTreeMap<Arc<str>, Arc<ConsumerState>>,
}

impl ConsumerTable {
    /// Whether no consumer was ever opened.
    pub fn is_empty(&self) -> bool {
        self.last_generation == 0
    }

    /// The state of one consumer.
    pub fn get(&self, name: &str) -> Option<&Arc<ConsumerState>> {
        self.consumers.get(name)
    }

    /// Takes over a change from the batch with this `recorded_at`. Answers whether it counted: one of an older generation
    /// does not.
    pub fn apply(&mut self, change: &Change<'_>, recorded_at: u64) -> bool {
        let Change { consumer, generation, what } = change;
        self.last_generation = self.last_generation.max(*generation);
        if let What::Opened { .. } | What::Standing { .. } = what
            && !self.consumers.contains_key(*consumer)
        {
            let from = match what {
                What::Opened { from } => *from,
                _ => 0,
            };
            let state = ConsumerState { checkpoint: from, ..ConsumerState::default() };
            self.consumers.insert(Arc::from(*consumer), Arc::new(state));
        }
        let Some(shared) = self.consumers.get_mut(*consumer) else { return false };
        let begins = matches!(what, What::Opened { .. } | What::Reset { .. } | What::Standing { .. } | What::Removed);
        if *generation < shared.generation || (*generation > shared.generation && !begins) {
            return false;
        }
        if let What::Removed = what {
            self.consumers.remove(*consumer);
            return true;
        }
        let state = Arc::make_mut(shared);
        state.generation = *generation;
        state.changed_at = recorded_at;
        match what {
            What::Opened { .. } | What::Removed => {}
            What::Acknowledged { checkpoint, finished } => {
                finished.iter().for_each(|(first, last)| state.finished.insert(*first, *last));
                state.advance(*checkpoint);
            }
            What::Parked { position, attempts, stream, behind, reason } => {
                let parked = Parked {
                    stream: Arc::from(*stream),
                    attempts: *attempts,
                    behind: *behind,
                    reason: Arc::from(*reason),
                    at: recorded_at,
                };
                state.parked.insert(*position, parked);
                if *position > state.checkpoint {
                    state.finished.insert(*position, *position);
                }
                state.advance(0);
            }
            What::Released { position } => {
                state.parked.remove(position);
            }
            What::Reset { checkpoint } => {
                state.checkpoint = *checkpoint;
                state.finished.clear();
                state.parked.retain(|position, _| position <= checkpoint);
            }
            What::Standing { checkpoint, finished } => {
                state.checkpoint = *checkpoint;
                state.finished.clear();
                state.parked.clear();
                finished.iter().for_each(|(first, last)| state.finished.insert(*first, *last));
                state.advance(0);
            }
        }
        true
    }
}
