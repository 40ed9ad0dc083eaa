//! The store as a list.

use std::collections::{BTreeMap, BTreeSet};

use annals::{Batch, Durability, EventId, Expect, Position, Refusal, Revision, Seek, StreamState};

use super::ask::Ask;
use super::content::{Content, Recorded};

/// All that was committed, in order; position `n` is `events[n - 1]`.
#[derive(Clone, Debug, Default)]
pub struct Plain {
    /// Every event.
    pub events: Vec<Recorded>,
    by_id: BTreeMap<EventId, u64>,
    streams: BTreeMap<String, Vec<u64>>,
}

/// A batch that is about to be appended.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the fields are those of a batch")]
pub struct Attempt {
    pub events: Vec<(Content, Option<EventId>)>,
    pub expectations: Vec<(String, Expect)>,
    pub conditions: Vec<(Ask, Option<Position>)>,
    pub durability: Option<Durability>,
    pub as_batch: bool,
}

/// What must become of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It commits.
    Commit,
    /// All was stored before, at these positions.
    Already(Vec<u64>),
    /// `Empty`.
    Empty,
    /// `Invalid`.
    Invalid,
    /// `DuplicateId`: id and position.
    Duplicate(EventId, u64),
    /// `PartialDuplicate`: present and absent ids.
    Partial(Vec<EventId>, Vec<EventId>),
    /// `AheadOfLog`: given and head.
    Ahead(u64, u64),
    /// `Conflict`: head and all failures.
    Conflict(u64, Vec<Refusal>),
}

impl Attempt {
    /// Runs `with` on the batch as the store takes it.
    pub fn with_batch<T>(&self, with: impl FnOnce(&Batch<'_>) -> T) -> T {
        let tags: Vec<Vec<&str>> =
            self.events.iter().map(|(content, _)| content.tags.iter().map(String::as_str).collect()).collect();
        let mut batch = Batch::new().written_as_batch(self.as_batch);
        for ((content, id), tags) in self.events.iter().zip(&tags) {
            batch.push(&content.stream, content.as_new(*id, tags));
        }
        for (stream, expect) in &self.expectations {
            batch = batch.expect(stream, *expect);
        }
        for (ask, after) in &self.conditions {
            batch = batch.condition(ask.query(), *after);
        }
        if let Some(durability) = self.durability {
            batch = batch.durability(durability);
        }
        with(&batch)
    }

    fn is_well_formed(&self) -> bool {
        let ids: Vec<EventId> = self.events.iter().filter_map(|(_, id)| *id).collect();
        let distinct = ids.iter().collect::<BTreeSet<_>>().len();
        (ids.is_empty() || ids.len() == self.events.len())
            && distinct == ids.len()
            && self.events.iter().all(|(content, _)| {
                is_name(&content.stream)
                    && is_name(&content.event_type)
                    && content.tags.len() <= 64
                    && content.tags.iter().all(|tag| is_name(tag))
                    && content.metadata.len() <= 64 << 10
                    && content.payload.len() <= 16 << 20
            })
    }
}

fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.starts_with('$') && !name.chars().any(char::is_control)
}

impl Plain {
    /// Position of the last event, 0 for none.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.events.len() as u64
    }

    /// The event at a position.
    #[must_use]
    pub fn at(&self, position: u64) -> Option<&Recorded> {
        self.events.get((position as usize).checked_sub(1)?)
    }

    /// The event of an id, if it stands at or before `head`.
    #[must_use]
    pub fn by_id(&self, id: EventId, head: u64) -> Option<&Recorded> {
        self.by_id.get(&id).filter(|position| **position <= head).and_then(|position| self.at(*position))
    }

    /// Forgets everything after `head`.
    pub fn cut(&mut self, head: u64) {
        let kept = std::mem::take(self).events;
        for event in kept.into_iter().take(head as usize) {
            self.push(event);
        }
    }

    fn push(&mut self, event: Recorded) {
        assert_eq!(event.position, self.head() + 1);
        self.by_id.insert(event.id, event.position);
        self.streams.entry(event.content.stream.clone()).or_default().push(event.position);
        self.events.push(event);
    }

    /// Adds a batch that the store committed under these ids.
    pub fn commit(&mut self, attempt: &Attempt, ids: &[EventId], recorded_at: u64) {
        let batch_first = self.head() + 1;
        for ((content, given), id) in attempt.events.iter().zip(ids) {
            self.push(Recorded {
                content: content.clone(),
                id: *id,
                id_generated: given.is_none(),
                position: self.head() + 1,
                revision: self.revisions(&content.stream, self.head()).len() as u64 + 1,
                recorded_at,
                batch_first,
                batch_len: attempt.events.len() as u32,
                as_batch: attempt.as_batch,
            });
        }
    }

    /// Judges an attempt in the contract's order of checks.
    #[must_use]
    pub fn judge(&self, attempt: &Attempt) -> Verdict {
        if attempt.events.is_empty() {
            return Verdict::Empty;
        }
        if !attempt.is_well_formed() {
            return Verdict::Invalid;
        }
        if let Some(verdict) = self.judge_ids(attempt) {
            return verdict;
        }
        let head = self.head();
        let ahead = attempt.conditions.iter().filter_map(|(_, after)| *after).find(|after| after.get() > head);
        if let Some(after) = ahead {
            return Verdict::Ahead(after.get(), head);
        }
        let mut failed = Vec::new();
        for (stream, expected) in &attempt.expectations {
            let actual = self.state(stream, head);
            if !holds(*expected, actual) {
                failed.push(Refusal::Stream { stream: stream.clone(), expected: *expected, actual });
            }
        }
        for (index, (ask, after)) in attempt.conditions.iter().enumerate() {
            let start = after.map_or(0, Position::get) as usize;
            if let Some(event) = self.events[start..].iter().rev().find(|event| ask.matches(&event.content)) {
                let newest = Position::new(event.position).expect("at least 1");
                failed.push(Refusal::Condition { index, after: *after, newest, id: event.id });
            }
        }
        if failed.is_empty() { Verdict::Commit } else { Verdict::Conflict(head, failed) }
    }

    fn judge_ids(&self, attempt: &Attempt) -> Option<Verdict> {
        let found = |id: &EventId| self.by_id(*id, self.head());
        let ids: Vec<EventId> = attempt.events.iter().filter_map(|(_, id)| *id).collect();
        let differs = attempt.events.iter().find_map(|(content, id)| {
            let stored = found(&(*id)?)?;
            (stored.content != *content).then_some(Verdict::Duplicate(stored.id, stored.position))
        });
        if differs.is_some() {
            return differs;
        }
        let (present, absent): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| found(id).is_some());
        match (present.is_empty(), absent.is_empty()) {
            (true, _) => None,
            (false, true) => Some(Verdict::Already(present.iter().map(|id| self.by_id[id]).collect())),
            (false, false) => Some(Verdict::Partial(present, absent)),
        }
    }

    /// Positions of a stream's events up to `head`.
    #[must_use]
    pub fn revisions(&self, stream: &str, head: u64) -> &[u64] {
        let all = self.streams.get(stream).map_or(&[][..], Vec::as_slice);
        &all[..all.partition_point(|position| *position <= head)]
    }

    /// State of a stream at `head`.
    #[must_use]
    pub fn state(&self, stream: &str, head: u64) -> StreamState {
        let last = Revision::new(self.revisions(stream, head).len() as u64);
        last.map_or(StreamState::Absent, |last| StreamState::Live { first: Revision::FIRST, last })
    }

    /// Names of streams that begin with `prefix`, with first and last position, in byte order.
    #[must_use]
    pub fn streams(&self, prefix: &str, head: u64) -> Vec<(String, StreamState, u64, u64)> {
        let named = self.streams.keys().filter(|name| name.starts_with(prefix));
        let listed = named.filter_map(|name| {
            let positions = self.revisions(name, head);
            Some((name.clone(), self.state(name, head), *positions.first()?, *positions.last()?))
        });
        listed.collect()
    }

    /// Types and their numbers of events, in byte order.
    #[must_use]
    pub fn types(&self, head: u64) -> Vec<(String, u64)> {
        let mut counts = BTreeMap::new();
        for event in &self.events[..head as usize] {
            *counts.entry(event.content.event_type.clone()).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }

    /// First position recorded at or after `time`.
    #[must_use]
    pub fn position_at(&self, time: u64, head: u64) -> Option<u64> {
        self.events[..head as usize].iter().find(|event| event.recorded_at >= time).map(|event| event.position)
    }

    /// Positions that a read by position gives; `Err` is `AheadOfLog` of what was given.
    pub fn read_all(&self, ask: &Ask, seek: Seek, back: bool, head: u64) -> Result<Vec<u64>, u64> {
        match seek {
            Seek::After(given) if given > head => return Err(given),
            Seek::At(given) if given > head + 1 => return Err(given),
            _ => {}
        }
        let fits = |event: &&Recorded| {
            is_reached(seek, back, event.position, event.recorded_at) && ask.matches(&event.content)
        };
        let found = self.events[..head as usize].iter().filter(fits).map(|event| event.position);
        Ok(if back { found.rev().collect() } else { found.collect() })
    }

    /// Positions that a read of a stream gives.
    #[must_use]
    pub fn read_stream(&self, stream: &str, seek: Seek, back: bool, head: u64) -> Vec<u64> {
        let events = self.revisions(stream, head).iter().filter_map(|position| self.at(*position));
        let found = events.filter(|event| is_reached(seek, back, event.revision, event.recorded_at));
        let mut found: Vec<u64> = found.map(|event| event.position).collect();
        if back {
            found.reverse();
        }
        found
    }
}

/// Whether a read from `seek` comes to the event with this number and time.
fn is_reached(seek: Seek, back: bool, number: u64, time: u64) -> bool {
    match (seek, back) {
        (Seek::Beginning, back) => !back,
        (Seek::End, back) => back,
        (Seek::At(n), false) => number >= n,
        (Seek::At(n), true) => number <= n,
        (Seek::After(n), false) => number > n,
        (Seek::After(n), true) => number < n,
        (Seek::Time(t), false) => time >= t,
        (Seek::Time(t), true) => time <= t,
    }
}

fn holds(expected: Expect, actual: StreamState) -> bool {
    match expected {
        Expect::Any => true,
        Expect::NoStream | Expect::Vacant => actual == StreamState::Absent,
        Expect::Exists => actual != StreamState::Absent,
        Expect::At(revision) => actual.last() == Some(revision),
        Expect::Deleted => false,
    }
}
