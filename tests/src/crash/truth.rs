//! What was handed in, what was answered, and what a store must therefore show.

use std::collections::BTreeMap;
use std::sync::Arc;

use annals::{Durability, EventId, Receipt};

use super::lot::Removal;
use super::{Lot, Verdict};
use crate::ensure;

/// A lot that has, or may have, a place in the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What was handed in.
    pub lot: Arc<Lot>,
    /// Position of its first record.
    pub first: u64,
    /// What its control record hides, which stands before its events: a stream, and up to which revision.
    pub hides: Option<(String, u64)>,
    /// What the store answered; none while it is in flight, or when the answer was lost.
    pub answer: Option<Answer>,
}

/// What the store gave to a lot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    ids: Vec<EventId>,
    revisions: Vec<u64>,
    recorded_at: u64,
}

impl Answer {
    fn of(receipt: &Receipt) -> Self {
        Self {
            ids: receipt.events().iter().map(|event| event.id).collect(),
            revisions: receipt.events().iter().map(|event| event.revision.get()).collect(),
            recorded_at: receipt.first().recorded_at,
        }
    }

    /// Id, revision and time of one event of the lot.
    #[must_use]
    pub fn of_event(&self, index: usize) -> (EventId, u64, u64) {
        (self.ids[index], self.revisions[index], self.recorded_at)
    }
}

impl Entry {
    /// Position of its first event.
    #[must_use]
    pub fn first_event(&self) -> u64 {
        self.first + u64::from(self.hides.is_some())
    }

    /// Position of its last event.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.first_event() + self.lot.len() - 1
    }

    /// Number of its records.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        self.last() + 1 - self.first
    }
}

/// A stream as all entries leave it: revisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The last one.
    pub last: u64,
    /// Up to here they are hidden.
    pub hidden: u64,
    /// Up to here they were deleted.
    pub deleted: u64,
}

/// The truth about one store.
#[derive(Clone, Debug)]
pub struct Truth {
    /// The store's default.
    pub durability: Durability,
    /// Whether an opening ever succeeded: from then on there is a store.
    pub created: bool,
    /// All that may stand in the log, in order; the last one may be in flight.
    pub entries: Vec<Entry>,
    /// Lots that a power cut took back, which are in no log.
    pub lost: Vec<Arc<Lot>>,
    /// Everything up to here was promised to survive a power cut, or shown as durable.
    pub durable: u64,
    /// Everything up to here was acknowledged.
    pub acknowledged: u64,
    /// Whether the power was cut since the last opening.
    pub power_was_cut: bool,
    /// Whether reading needs no operation of the disk that could fail.
    pub reads_memory: bool,
}

impl Truth {
    /// Nothing was promised yet.
    #[must_use]
    pub fn new(durability: Durability) -> Self {
        Self {
            durability,
            created: false,
            entries: Vec::new(),
            lost: Vec::new(),
            durable: 0,
            acknowledged: 0,
            power_was_cut: false,
            reads_memory: true,
        }
    }

    /// Position of the last event that may stand in the log.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.entries.last().map_or(0, Entry::last)
    }

    /// The least that a store must show.
    #[must_use]
    pub fn floor(&self) -> u64 {
        if self.power_was_cut { self.durable } else { self.acknowledged.max(self.durable) }
    }

    /// Whether a log may end here.
    #[must_use]
    pub fn is_border(&self, position: u64) -> bool {
        position == 0 || self.entries.iter().any(|entry| entry.last() == position)
    }

    /// A lot is handed in.
    pub fn hand_in(&mut self, lot: &Arc<Lot>) -> usize {
        let first = self.end() + 1;
        let streams = self.streams();
        let hides = lot.removal.as_ref().and_then(|removal| {
            let (name, whole) = match removal {
                Removal::Delete(name) => (name, true),
                Removal::First(name) => (name, false),
            };
            let stream = streams.get(name)?;
            let upto = if whole { stream.last } else { 1 };
            // Deleting a stream that was cut to nothing says more than the cut; deleting it again does not.
            let is_news = if whole { stream.deleted < stream.last } else { stream.hidden == 0 };
            is_news.then(|| (name.clone(), upto))
        });
        self.entries.push(Entry { lot: Arc::clone(lot), first, hides, answer: None });
        self.entries.len() - 1
    }

    /// Every stream as all entries leave it.
    #[must_use]
    pub fn streams(&self) -> BTreeMap<String, Stream> {
        let mut streams = BTreeMap::<String, Stream>::new();
        for entry in &self.entries {
            if let Some((name, upto)) = &entry.hides {
                let stream = streams.entry(name.clone()).or_default();
                stream.hidden = stream.hidden.max(*upto);
                if matches!(entry.lot.removal, Some(Removal::Delete(_))) {
                    stream.deleted = *upto;
                }
            }
            for draft in &entry.lot.drafts {
                streams.entry(draft.stream.clone()).or_default().last += 1;
            }
        }
        streams
    }

    /// The store said that nothing of the newest lot was written.
    pub fn take_back(&mut self) {
        self.entries.pop();
    }

    /// The store answered.
    pub fn acknowledge(&mut self, index: usize, receipt: &Receipt) -> Verdict {
        let entry = &mut self.entries[index];
        let given: Vec<u64> = receipt.events().iter().map(|event| event.position.get()).collect();
        let expected: Vec<u64> = (entry.first_event()..=entry.last()).collect();
        ensure!(given == expected, "positions {given:?} were given where {expected:?} come next");
        let answer = Answer::of(receipt);
        if let Some(before) = &entry.answer {
            ensure!(*before == answer, "a retry was answered {answer:?}, the first time {before:?}");
        }
        entry.answer = Some(answer);
        self.acknowledged = self.acknowledged.max(entry.last());
        if receipt.durability() == Durability::Durable {
            self.durable = self.durable.max(entry.last());
        }
        Ok(())
    }

    /// The store shows, or says, that everything up to here is durable.
    pub fn shown_durable(&mut self, position: u64) -> Verdict {
        ensure!(position <= self.end(), "{position} is called durable, the log ends at {}", self.end());
        self.durable = self.durable.max(position);
        Ok(())
    }

    /// A store was opened and its log ends at `head`.
    pub fn settle(&mut self, head: u64) -> Verdict {
        self.may_end_at(head)?;
        ensure!(head >= self.floor(), "the log ends at {head}, {} was promised ({self:?})", self.floor());
        let kept = self.entries.partition_point(|entry| entry.last() <= head);
        self.lost.extend(self.entries.drain(kept..).map(|entry| entry.lot));
        self.created = true;
        self.durable = head;
        self.acknowledged = head;
        self.power_was_cut = false;
        Ok(())
    }

    /// Whether `head` is the end of a prefix of what was handed in.
    pub fn may_end_at(&self, head: u64) -> Verdict {
        ensure!(self.is_border(head), "the log ends at {head}, inside a batch or beyond the end {}", self.end());
        Ok(())
    }
}
