//! The store as a list.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use annals::{Batch, Durability, EventId, Expect, Position, Refusal, RemovalReason, Seek, StreamState};

use super::ask::Ask;
use super::content::{Content, Recorded};
use super::removal::{Remove, Said};

/// All that was committed, in order; position `n` is `records[n - 1]`.
#[derive(Clone, Debug, Default)]
pub struct Plain {
    records: Vec<Record>,
    /// Positions of the control records.
    pub(super) controls: Vec<u64>,
    by_id: BTreeMap<EventId, Vec<u64>>,
    streams: BTreeMap<String, Vec<u64>>,
    /// What hides each event, by how many control records stand: looked for once.
    pub(super) found_hiding: RefCell<Vec<Hiding>>,
}

/// What hides each event, why, and whether its id is forgotten.
type Hiding = Vec<Option<(RemovalReason, bool)>>;

/// What stands at a position.
#[derive(Clone, Debug)]
enum Record {
    Event(Box<Recorded>),
    Control { said: Said, recorded_at: u64, batch_first: u64, batch_len: u32 },
}

/// A batch that is about to be appended.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the fields are those of a batch")]
pub struct Attempt {
    pub events: Vec<(Content, Option<EventId>)>,
    pub expectations: Vec<(String, Expect)>,
    pub conditions: Vec<(Ask, Option<Position>)>,
    pub removals: Vec<Remove>,
    pub durability: Option<Durability>,
    pub as_batch: bool,
}

/// What must become of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It commits.
    Commit,
    /// It has no event, and what it removes is gone already.
    Unchanged,
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
        for remove in &self.removals {
            batch = remove.add_to(batch);
        }
        if let Some(durability) = self.durability {
            batch = batch.durability(durability);
        }
        with(&batch)
    }

    fn is_well_formed(&self) -> bool {
        let ids: Vec<EventId> = self.events.iter().filter_map(|(_, id)| *id).collect();
        let distinct = ids.iter().collect::<BTreeSet<_>>().len();
        let named = self.removals.iter().map(Remove::stream).collect::<BTreeSet<_>>();
        let ends = self.removals.iter().filter(|remove| matches!(remove, Remove::Tombstone(_)));
        let is_written = |stream: &str| self.events.iter().any(|(content, _)| content.stream == stream);
        named.len() == self.removals.len()
            && named.into_iter().all(is_name)
            && !ends.map(Remove::stream).any(is_written)
            && (ids.is_empty() || ids.len() == self.events.len())
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
    /// Position of the last record, 0 for none.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.records.len() as u64
    }

    fn record(&self, position: u64) -> Option<&Record> {
        self.records.get((position as usize).checked_sub(1)?)
    }

    /// The event at a position, removed or not.
    #[must_use]
    pub fn at(&self, position: u64) -> Option<&Recorded> {
        match self.record(position)? {
            Record::Event(event) => Some(event),
            Record::Control { .. } => None,
        }
    }

    pub(super) fn control(&self, position: u64) -> Option<&Said> {
        match self.record(position)? {
            Record::Control { said, .. } => Some(said),
            Record::Event(_) => None,
        }
    }

    /// Every event up to `head` that can be read.
    pub fn shown(&self, head: u64) -> impl DoubleEndedIterator<Item = &Recorded> {
        let events = self.records[..head as usize].iter().filter_map(|record| match record {
            Record::Event(event) => Some(&**event),
            Record::Control { .. } => None,
        });
        events.filter(move |event| self.is_shown(event, head))
    }

    /// Every event up to `last` that no removal up to `removals` hides.
    pub fn shown_within(&self, last: u64, removals: u64) -> impl Iterator<Item = &Recorded> {
        (1..=last).filter_map(|at| self.at(at)).filter(move |event| self.hiding(event, removals).is_none())
    }

    /// First position and length of the batch that holds a position.
    #[must_use]
    pub fn batch_of(&self, position: u64) -> Option<(u64, u32)> {
        Some(match self.record(position)? {
            Record::Event(event) => (event.batch_first, event.batch_len),
            Record::Control { batch_first, batch_len, .. } => (*batch_first, *batch_len),
        })
    }

    /// When the record at a position was recorded, 0 where there is none.
    #[must_use]
    pub fn time_at(&self, position: u64) -> u64 {
        match self.record(position) {
            Some(Record::Event(event)) => event.recorded_at,
            Some(Record::Control { recorded_at, .. }) => *recorded_at,
            None => 0,
        }
    }

    /// The event of an id, if it stands at or before `head` and its id was not given up; and why it was removed.
    #[must_use]
    pub fn by_id(&self, id: EventId, head: u64) -> Option<(&Recorded, Option<RemovalReason>)> {
        self.by_id_within(id, head, head)
    }

    /// The same of what stands at or before `last`, seen through the removals up to `removals`.
    #[must_use]
    pub fn by_id_within(&self, id: EventId, last: u64, removals: u64) -> Option<(&Recorded, Option<RemovalReason>)> {
        let events = self.by_id.get(&id)?.iter().rev().filter(|at| **at <= last).filter_map(|at| self.at(*at));
        let mut known = events.filter_map(|event| match self.hiding(event, removals) {
            None => Some((event, None)),
            Some((_, true)) => None,
            Some((why, false)) => Some((event, Some(why))),
        });
        known.next()
    }

    /// Forgets everything after `head`.
    pub fn cut(&mut self, head: u64) {
        let kept = std::mem::take(self).records;
        for record in kept.into_iter().take(head as usize) {
            self.push(record);
        }
    }

    fn push(&mut self, record: Record) {
        let position = self.head() + 1;
        match &record {
            Record::Event(event) => {
                assert_eq!(event.position, position);
                self.by_id.entry(event.id).or_default().push(position);
                self.streams.entry(event.content.stream.clone()).or_default().push(position);
            }
            Record::Control { .. } => self.controls.push(position),
        }
        self.records.push(record);
    }

    /// Adds a control record that the store wrote by itself.
    pub fn control_written(&mut self, said: Said, recorded_at: u64) {
        self.push(Record::Control { said, recorded_at, batch_first: self.head() + 1, batch_len: 1 });
    }

    /// Adds a batch that the store committed under these ids.
    pub fn commit(&mut self, attempt: &Attempt, ids: &[EventId], recorded_at: u64) {
        let batch_first = self.head() + 1;
        let said: Vec<Said> = attempt.removals.iter().filter_map(|remove| self.plan(remove).ok()?.writes).collect();
        let batch_len = (said.len() + attempt.events.len()) as u32;
        for said in said {
            self.push(Record::Control { said, recorded_at, batch_first, batch_len });
        }
        for ((content, given), id) in attempt.events.iter().zip(ids) {
            self.push(Record::Event(Box::new(Recorded {
                content: content.clone(),
                id: *id,
                id_generated: given.is_none(),
                position: self.head() + 1,
                revision: self.revisions(&content.stream, self.head()).len() as u64 + 1,
                recorded_at,
                batch_first,
                batch_len,
                as_batch: attempt.as_batch,
            })));
        }
    }

    /// Judges an attempt in the contract's order of checks.
    #[must_use]
    pub fn judge(&self, attempt: &Attempt) -> Verdict {
        if attempt.events.is_empty() && attempt.removals.is_empty() {
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
        for (content, _) in &attempt.events {
            let actual = self.state(&content.stream, head);
            let is_listed =
                |refusal: &Refusal| matches!(refusal, Refusal::Stream { stream, .. } if *stream == content.stream);
            if matches!(actual, StreamState::Tombstoned { .. }) && !failed.iter().any(is_listed) {
                failed.push(Refusal::Stream { stream: content.stream.clone(), expected: Expect::Any, actual });
            }
        }
        for (index, (ask, after)) in attempt.conditions.iter().enumerate() {
            let start = after.map_or(0, Position::get);
            let shown = self.shown(head).rev().take_while(|event| event.position > start);
            let newest =
                shown.filter(|event| ask.matches(&event.content)).map(|event| (event.position, event.id)).next();
            let gone = after.and_then(|_| self.newest_gone(ask, start)).map(|(at, event)| (at, event.id));
            if let Some((newest, id)) = gone.into_iter().chain(newest).max_by_key(|(at, _)| *at) {
                let newest = Position::new(newest).expect("at least 1");
                failed.push(Refusal::Condition { index, after: *after, newest, id });
            }
        }
        if !failed.is_empty() {
            return Verdict::Conflict(head, failed);
        }
        let mut writes = !attempt.events.is_empty();
        for remove in &attempt.removals {
            match self.plan(remove) {
                Ok(answer) => writes |= answer.writes.is_some(),
                Err(None) => return Verdict::Invalid,
                Err(Some(expected)) => {
                    let stream = remove.stream().to_owned();
                    let actual = self.state(&stream, head);
                    return Verdict::Conflict(head, vec![Refusal::Stream { stream, expected, actual }]);
                }
            }
        }
        if writes { Verdict::Commit } else { Verdict::Unchanged }
    }

    fn judge_ids(&self, attempt: &Attempt) -> Option<Verdict> {
        let found = |id: &EventId| self.by_id(*id, self.head());
        let ids: Vec<EventId> = attempt.events.iter().filter_map(|(_, id)| *id).collect();
        let differs = attempt.events.iter().find_map(|(content, id)| {
            let (stored, removed) = found(&(*id)?)?;
            // Of what was deleted the id alone is known.
            let is_known = matches!(removed, Some(RemovalReason::Deleted | RemovalReason::Tombstoned));
            (!is_known && stored.content != *content).then_some(Verdict::Duplicate(stored.id, stored.position))
        });
        if differs.is_some() {
            return differs;
        }
        let (present, absent): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| found(id).is_some());
        match (present.is_empty(), absent.is_empty()) {
            (true, _) => None,
            (false, true) => {
                let positions = present.iter().filter_map(|id| Some(found(id)?.0.position));
                Some(Verdict::Already(positions.collect()))
            }
            (false, false) => Some(Verdict::Partial(present, absent)),
        }
    }

    /// Positions of a stream's events up to `head`, removed or not; none of what was forgotten.
    #[must_use]
    pub fn revisions(&self, stream: &str, head: u64) -> &[u64] {
        let all = self.streams.get(stream).map_or(&[][..], Vec::as_slice);
        let forgotten = self.forgotten(stream, head);
        &all[all.partition_point(|at| *at <= forgotten)..all.partition_point(|at| *at <= head)]
    }

    /// Positions of all events that were ever in a stream of this name.
    pub(super) fn all_positions(&self, stream: &str) -> &[u64] {
        self.streams.get(stream).map_or(&[], Vec::as_slice)
    }

    /// Names of streams that begin with `prefix`, with first and last position, in byte order.
    #[must_use]
    pub fn streams(&self, prefix: &str, head: u64) -> Vec<(String, StreamState, Option<u64>, Option<u64>)> {
        let named = self.streams.keys().filter(|name| name.starts_with(prefix));
        let listed = named.filter_map(|name| {
            let positions = self.revisions(name, head);
            let mut shown = positions.iter().filter(|at| self.at(**at).is_some_and(|event| self.is_shown(event, head)));
            let first = shown.next().copied();
            let last = shown.next_back().copied().or(first);
            (!positions.is_empty()).then(|| (name.clone(), self.state(name, head), first, last))
        });
        listed.collect()
    }

    /// Types and their numbers of events, in byte order.
    #[must_use]
    pub fn types(&self, head: u64) -> Vec<(String, u64)> {
        let mut counts = BTreeMap::new();
        for event in self.shown(head) {
            *counts.entry(event.content.event_type.clone()).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }

    /// First position recorded at or after `time`.
    #[must_use]
    pub fn position_at(&self, time: u64, head: u64) -> Option<u64> {
        (1..=head).find(|at| self.time_at(*at) >= time)
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
        let found = self.shown(head).filter(fits).map(|event| event.position);
        Ok(if back { found.rev().collect() } else { found.collect() })
    }

    /// Positions that a read of a stream gives.
    #[must_use]
    pub fn read_stream(&self, stream: &str, seek: Seek, back: bool, head: u64) -> Vec<u64> {
        let events = self.revisions(stream, head).iter().filter_map(|position| self.at(*position));
        let shown = events.filter(|event| self.is_shown(event, head));
        let found = shown.filter(|event| is_reached(seek, back, event.revision, event.recorded_at));
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
    let is_live = matches!(actual, StreamState::Live { .. });
    let is_deleted = matches!(actual, StreamState::Deleted { .. });
    match expected {
        Expect::Any => true,
        Expect::NoStream => actual == StreamState::Absent,
        Expect::Vacant => actual == StreamState::Absent || is_deleted,
        Expect::Exists => is_live,
        Expect::At(revision) => is_live && actual.last() == Some(revision),
        Expect::Deleted => is_deleted,
    }
}
