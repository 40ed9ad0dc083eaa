//! What a consumer has read and not finished: who gets what next, what waits for what, and how far all is done.
//!
//! Pure memory: no log, no clock of its own. Every position that was read and is not finished has an entry; the checkpoint
//! is the position before the first of them. Events of a stream are handed out in order; from the first that failed on,
//! the later ones are held back, also those that were handed out already: these come again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_format::consumer::{ConsumerState, Ranges};

use super::handle::PassedOver;
use super::options::{ConsumerOptions, Retry};
use crate::Event;

/// Events held back behind a failed one are only numbers; so many times the window of them are read.
const HELD_WINDOWS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be handed out.
    Ready,
    /// Handed out; only who has the ticket may answer for it.
    Out { ticket: u64 },
    /// Its acknowledgement is on its way into the log.
    Acknowledging { ticket: u64 },
    /// Failed; to be handed out again then.
    Waiting { due: Instant },
    /// Behind a failed one of its stream.
    Held,
    /// Behind a parked one of its stream, and not yet parked itself.
    ToPark,
}

#[derive(Debug)]
struct Entry {
    stream: Arc<str>,
    lane: usize,
    stage: Stage,
    /// How often it failed.
    failures: u32,
    /// Not of those that are held: they are read again.
    event: Option<Event>,
    /// It is parked, and tried anew: the checkpoint does not depend on it.
    replayed: bool,
}

impl Entry {
    fn is_held(&self) -> bool {
        matches!(self.stage, Stage::Held | Stage::ToPark)
    }
}

#[derive(Debug, Default)]
struct Stream {
    unfinished: BTreeSet<u64>,
    /// Some of them failed.
    troubled: bool,
    /// One of them is on its way to be parked: what is read meanwhile is to stand behind it.
    parking: bool,
    /// How many of them are replayed.
    replayed: usize,
}

/// What is handed out.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) position: u64,
    pub(super) ticket: u64,
    pub(super) attempt: u32,
    pub(super) lane: usize,
    /// `None`: to be read again.
    pub(super) event: Option<Event>,
}

/// Which events are put aside together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parking {
    pub(super) position: u64,
    pub(super) attempts: u32,
    pub(super) stream: Arc<str>,
    /// It was parked before, so that its position counts as finished already.
    pub(super) replayed: bool,
    /// Later events of the stream that were read: they wait behind it.
    pub(super) behind: Vec<u64>,
}

/// How far everything is done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) checkpoint: u64,
    /// Stretches above the checkpoint.
    pub(super) finished: Vec<(u64, u64)>,
}

/// An answer for an event by somebody who no longer has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotOut {
    pub(super) position: u64,
}

#[derive(Debug)]
pub(super) struct Intake {
    pub(super) generation: u64,
    /// Another opening has taken the name over, or the consumer is removed.
    pub(super) fenced: bool,
    window: usize,
    retry: Retry,
    /// Everything up to here was looked at.
    pub(super) read_upto: u64,
    /// The checkpoint as the log has it.
    pub(super) said: u64,
    /// Finished or parked above the checkpoint before this opening.
    finished_before: Ranges,
    entries: BTreeMap<u64, Entry>,
    held: usize,
    streams: HashMap<Arc<str>, Stream>,
    /// By lane.
    ready: Vec<BTreeSet<u64>>,
    waiting: BTreeSet<(Instant, u64)>,
    /// Position and stream of what is parked.
    parked: BTreeMap<u64, Arc<str>>,
    parked_streams: HashMap<Arc<str>, BTreeSet<u64>>,
    to_park: BTreeSet<u64>,
    next_ticket: u64,
    /// What was removed before it could be handed out, and not told yet.
    gaps: Vec<PassedOver>,
}

/// So many gaps are kept apart; more become one with the last.
const GAPS_MAX: usize = 64;

impl Intake {
    pub(super) fn new(state: &ConsumerState, options: &ConsumerOptions) -> Self {
        let mut intake = Self {
            generation: 0,
            fenced: false,
            window: options.window,
            retry: options.retry,
            read_upto: 0,
            said: 0,
            finished_before: Ranges::default(),
            entries: BTreeMap::new(),
            held: 0,
            streams: HashMap::new(),
            ready: vec![BTreeSet::new(); options.lanes],
            waiting: BTreeSet::new(),
            parked: BTreeMap::new(),
            parked_streams: HashMap::new(),
            to_park: BTreeSet::new(),
            next_ticket: 1,
            gaps: Vec::new(),
        };
        intake.restart(state);
        intake
    }

    /// Begins where the log says; nothing that was handed out counts any more.
    pub(super) fn restart(&mut self, state: &ConsumerState) {
        self.generation = state.generation;
        (self.read_upto, self.said) = (state.checkpoint, state.checkpoint);
        self.finished_before = state.finished.clone();
        self.entries.clear();
        self.gaps.clear();
        self.held = 0;
        self.streams.clear();
        self.ready.iter_mut().for_each(BTreeSet::clear);
        self.waiting.clear();
        self.to_park.clear();
        self.parked.clear();
        self.parked_streams.clear();
        for (position, parked) in &state.parked {
            self.note_parked(*position, &parked.stream);
        }
    }

    /// Something that matches was removed before it could be handed out.
    pub(super) fn note_gap(&mut self, gap: PassedOver) {
        let is_full = self.gaps.len() == GAPS_MAX;
        match self.gaps.last_mut() {
            Some(last) if is_full => last.last = gap.last,
            _ => self.gaps.push(gap),
        }
    }

    /// What was noted since this was asked last.
    pub(super) fn take_gaps(&mut self) -> Vec<PassedOver> {
        std::mem::take(&mut self.gaps)
    }

    fn note_parked(&mut self, position: u64, stream: &Arc<str>) {
        self.parked.insert(position, stream.clone());
        self.parked_streams.entry(stream.clone()).or_default().insert(position);
    }

    fn forget_parked(&mut self, position: u64) {
        let Some(stream) = self.parked.remove(&position) else { return };
        if let Some(positions) = self.parked_streams.get_mut(&stream) {
            positions.remove(&position);
            if positions.is_empty() {
                self.parked_streams.remove(&stream);
            }
        }
    }

    /// How many events more may be read.
    pub(super) fn room(&self) -> usize {
        if self.held >= self.window.saturating_mul(HELD_WINDOWS) {
            return 0;
        }
        self.window.saturating_sub(self.entries.len() - self.held)
    }

    /// Everything up to here is finished or parked.
    pub(super) fn checkpoint(&self) -> u64 {
        self.before_first(|entry| !entry.replayed)
    }

    /// The position before the first entry that `is_unfinished`.
    fn before_first(&self, is_unfinished: impl Fn(&Entry) -> bool) -> u64 {
        let first = self.entries.iter().find(|(_, entry)| is_unfinished(entry));
        first.map_or(self.read_upto, |(position, _)| position - 1)
    }

    /// Takes in the next event that was read; what is finished or parked is passed over.
    pub(super) fn accept(&mut self, event: Event) {
        let position = event.position().get();
        self.read_upto = self.read_upto.max(position);
        if self.finished_before.contains(position) || self.parked.contains_key(&position) {
            return;
        }
        let stream = self.name_of(event.stream());
        let of_stream = self.streams.get(&stream);
        let (troubled, replayed) = of_stream.map_or((false, 0), |s| (s.troubled || s.parking, s.replayed));
        let stage = match (self.parked_streams.contains_key(&stream), troubled) {
            (true, _) if replayed == 0 => Stage::ToPark,
            (_, true) => Stage::Held,
            _ => Stage::Ready,
        };
        self.enter(position, stream, stage, Some(event), false);
    }

    /// Everything up to here was looked at.
    pub(super) fn read_up_to(&mut self, position: u64) {
        self.read_upto = self.read_upto.max(position);
        // Later positions were never finished before.
        if !self.finished_before.is_empty() && self.finished_before.iter().all(|(_, last)| last <= self.read_upto) {
            self.finished_before.clear();
        }
    }

    fn name_of(&self, stream: &str) -> Arc<str> {
        let known = self.streams.get_key_value(stream).map(|(name, _)| name);
        let known = known.or_else(|| self.parked_streams.get_key_value(stream).map(|(name, _)| name));
        known.cloned().unwrap_or_else(|| Arc::from(stream))
    }

    fn enter(&mut self, position: u64, stream: Arc<str>, stage: Stage, event: Option<Event>, replayed: bool) {
        let lane = lane_of(&stream, self.ready.len());
        let of_stream = self.streams.entry(stream.clone()).or_default();
        of_stream.unfinished.insert(position);
        of_stream.replayed += usize::from(replayed);
        // As one that is held, so that the stage's own books are kept in one place.
        self.held += 1;
        let entry = Entry { stream, lane, stage: Stage::Held, failures: 0, event, replayed };
        self.entries.insert(position, entry);
        self.set_stage(position, stage);
    }

    fn set_stage(&mut self, position: u64, stage: Stage) {
        let Some(entry) = self.entries.get_mut(&position) else { return };
        self.held -= usize::from(entry.is_held());
        match entry.stage {
            Stage::Ready => {
                self.ready[entry.lane].remove(&position);
            }
            Stage::Waiting { due } => {
                self.waiting.remove(&(due, position));
            }
            Stage::ToPark => {
                self.to_park.remove(&position);
            }
            _ => {}
        }
        entry.stage = stage;
        match stage {
            Stage::Ready => {
                self.ready[entry.lane].insert(position);
            }
            Stage::Waiting { due } => {
                self.waiting.insert((due, position));
            }
            Stage::ToPark => {
                self.to_park.insert(position);
            }
            _ => {}
        }
        if entry.is_held() {
            self.held += 1;
            entry.event = None;
        }
    }

    fn remove(&mut self, position: u64) {
        self.set_stage(position, Stage::Held);
        let Some(entry) = self.entries.remove(&position) else { return };
        self.held -= 1;
        let Some(stream) = self.streams.get_mut(&entry.stream) else { return };
        stream.unfinished.remove(&position);
        stream.replayed -= usize::from(entry.replayed);
        if stream.unfinished.is_empty() {
            self.streams.remove(&entry.stream);
        } else if stream.troubled {
            self.settle(&entry.stream);
        }
    }

    /// Of a stream in trouble: what stands before the first failed one may go on, what stands behind is held.
    fn settle(&mut self, name: &Arc<str>) {
        let Some(stream) = self.streams.get(name) else { return };
        let positions: Vec<u64> = stream.unfinished.iter().copied().collect();
        let parking = stream.parking;
        let mut failed = false;
        for position in positions {
            let Some(entry) = self.entries.get(&position) else { continue };
            let stage = match (entry.stage, failed) {
                (stage @ (Stage::Acknowledging { .. } | Stage::ToPark), _) => stage,
                (_, true) => Stage::Held,
                (Stage::Held, false) if !parking => Stage::Ready,
                (stage, false) => stage,
            };
            failed |= entry.failures > 0 && !matches!(stage, Stage::Acknowledging { .. });
            if stage != entry.stage {
                self.set_stage(position, stage);
            }
        }
        if let Some(stream) = self.streams.get_mut(name) {
            stream.troubled = failed;
        }
    }

    /// Hands out the next event of a lane, or of any.
    pub(super) fn take(&mut self, lane: Option<usize>, now: Instant) -> Option<Handed> {
        while let Some((due, position)) = self.waiting.first().copied().filter(|(due, _)| *due <= now) {
            self.waiting.remove(&(due, position));
            self.set_stage(position, Stage::Ready);
        }
        let position = match lane {
            Some(lane) => self.ready.get(lane)?.first().copied(),
            None => self.ready.iter().filter_map(BTreeSet::first).min().copied(),
        }?;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.set_stage(position, Stage::Out { ticket });
        let entry = self.entries.get_mut(&position)?;
        Some(Handed {
            position,
            ticket,
            attempt: entry.failures.saturating_add(1),
            lane: entry.lane,
            event: entry.event.clone(),
        })
    }

    /// Gives back what was handed out and could not be read.
    pub(super) fn put_back(&mut self, position: u64, ticket: u64) {
        if self.is_out(position, ticket) {
            self.set_stage(position, Stage::Ready);
        }
    }

    /// Keeps what was read again.
    pub(super) fn keep(&mut self, position: u64, event: &Event) {
        if let Some(entry) = self.entries.get_mut(&position).filter(|entry| !entry.is_held()) {
            entry.event = Some(event.clone());
        }
    }

    /// When the next failed event is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    fn is_out(&self, position: u64, ticket: u64) -> bool {
        self.entries.get(&position).is_some_and(|entry| entry.stage == Stage::Out { ticket })
    }

    /// Announces that these, with their tickets, are about to be acknowledged; all or none.
    pub(super) fn begin(&mut self, answers: &[(u64, u64)]) -> Result<(), NotOut> {
        if let Some((position, _)) = answers.iter().find(|(position, ticket)| !self.is_out(*position, *ticket)) {
            return Err(NotOut { position: *position });
        }
        for (position, ticket) in answers {
            self.set_stage(*position, Stage::Acknowledging { ticket: *ticket });
        }
        Ok(())
    }

    /// How far all is done once those that are being acknowledged are; `positions` are some of these, ascending.
    pub(super) fn done(&self, positions: &[u64]) -> Done {
        let checkpoint = self.before_first(|entry| !is_done(entry));
        let mut finished: Vec<(u64, u64)> = Vec::new();
        for position in positions.iter().copied().filter(|position| *position > checkpoint) {
            if finished.last().is_some_and(|(_, last)| *last >= position) {
                continue;
            }
            let before = self.entries.range(..position).rev().find(|(_, entry)| !is_done(entry));
            let after = self.entries.range(position + 1..).find(|(_, entry)| !is_done(entry));
            let first = before.map_or(checkpoint, |(position, _)| *position) + 1;
            let last = after.map_or(self.read_upto, |(position, _)| *position - 1);
            finished.push((first, last));
        }
        Done { checkpoint, finished }
    }

    /// Whether a position is parked, and only tried anew.
    pub(super) fn is_replayed(&self, position: u64) -> bool {
        self.entries.get(&position).is_some_and(|entry| entry.replayed)
    }

    /// The log has it: these are finished.
    pub(super) fn finish(&mut self, positions: impl IntoIterator<Item = u64>) {
        for position in positions {
            self.forget_parked(position);
            self.remove(position);
        }
        self.said = self.said.max(self.checkpoint());
    }

    /// They were not acknowledged after all.
    pub(super) fn cancel(&mut self, positions: impl IntoIterator<Item = u64>) {
        for position in positions {
            let Some(entry) = self.entries.get(&position) else { continue };
            if let Stage::Acknowledging { ticket } = entry.stage {
                let stream = entry.stream.clone();
                self.set_stage(position, Stage::Out { ticket });
                if self.streams.get(&stream).is_some_and(|stream| stream.troubled) {
                    self.settle(&stream);
                }
            }
        }
    }

    /// An event failed: when it is tried again, or `None` if it is to be parked.
    pub(super) fn fail(&mut self, position: u64, ticket: u64, now: Instant) -> Result<Option<Duration>, NotOut> {
        if !self.is_out(position, ticket) {
            return Err(NotOut { position });
        }
        let Some(entry) = self.entries.get_mut(&position) else { return Err(NotOut { position }) };
        entry.failures = entry.failures.saturating_add(1);
        let (failures, stream) = (entry.failures, entry.stream.clone());
        let Some(pause) = self.retry.after(failures) else { return Ok(None) };
        self.set_stage(position, Stage::Waiting { due: now + pause });
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.troubled = true;
        }
        self.settle(&stream);
        Ok(Some(pause))
    }

    /// Begins to park an event that was handed out, and what was read of its stream behind it.
    pub(super) fn begin_parking(&mut self, position: u64, ticket: u64) -> Result<Parking, NotOut> {
        if !self.is_out(position, ticket) {
            return Err(NotOut { position });
        }
        let entry = &self.entries[&position];
        let (stream, attempts, replayed) = (entry.stream.clone(), entry.failures.max(1), entry.replayed);
        let later = self.streams[&stream].unfinished.range(position + 1..);
        let behind = later.copied().filter(|at| {
            let entry = &self.entries[at];
            !entry.replayed && !matches!(entry.stage, Stage::Acknowledging { .. })
        });
        let behind: Vec<u64> = behind.collect();
        self.set_stage(position, Stage::Acknowledging { ticket });
        behind.iter().for_each(|at| self.set_stage(*at, Stage::Acknowledging { ticket: 0 }));
        self.set_parking(&stream, true);
        Ok(Parking { position, attempts, stream, replayed, behind })
    }

    fn set_parking(&mut self, stream: &Arc<str>, parking: bool) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.parking = parking;
        }
    }

    /// The log has it.
    pub(super) fn finish_parking(&mut self, parking: &Parking) {
        let later: Vec<u64> = match self.streams.get(&parking.stream) {
            Some(stream) => stream.unfinished.range(parking.position + 1..).copied().collect(),
            None => Vec::new(),
        };
        for position in [parking.position].into_iter().chain(parking.behind.iter().copied()) {
            self.remove(position);
            self.note_parked(position, &parking.stream);
        }
        // What was tried anew behind it is still parked, and what was read meanwhile is to be.
        for position in later {
            if self.is_replayed(position) {
                self.remove(position);
            } else if self
                .entries
                .get(&position)
                .is_some_and(|entry| matches!(entry.stage, Stage::Held | Stage::Ready | Stage::Waiting { .. }))
            {
                self.set_stage(position, Stage::ToPark);
            }
        }
        self.set_parking(&parking.stream, false);
        self.said = self.said.max(self.checkpoint());
    }

    /// It was not parked after all: it comes again, and so does what was taken with it.
    pub(super) fn cancel_parking(&mut self, parking: &Parking) {
        for position in [parking.position].into_iter().chain(parking.behind.iter().copied()) {
            self.set_stage(position, Stage::Ready);
        }
        self.set_parking(&parking.stream, false);
        self.settle(&parking.stream);
    }

    /// What was read behind parked events, with the parked event that each stands behind.
    pub(super) fn begin_parking_behind(&mut self) -> Vec<(u64, Arc<str>, u64)> {
        let positions = std::mem::take(&mut self.to_park);
        let mut found = Vec::with_capacity(positions.len());
        for position in positions {
            let Some(entry) = self.entries.get(&position) else { continue };
            let stream = entry.stream.clone();
            match self.parked_streams.get(&stream).and_then(|parked| parked.first().copied()) {
                Some(first) => {
                    self.set_stage(position, Stage::Acknowledging { ticket: 0 });
                    found.push((position, stream, first));
                }
                // What it waited for is done meanwhile.
                None => {
                    self.set_stage(position, Stage::Ready);
                    self.settle(&stream);
                }
            }
        }
        found
    }

    pub(super) fn finish_parking_behind(&mut self, parked: &[(u64, Arc<str>, u64)]) {
        for (position, stream, _) in parked {
            self.remove(*position);
            self.note_parked(*position, stream);
        }
        self.said = self.said.max(self.checkpoint());
    }

    pub(super) fn cancel_parking_behind(&mut self, parked: &[(u64, Arc<str>, u64)]) {
        parked.iter().for_each(|(position, _, _)| self.set_stage(*position, Stage::ToPark));
    }

    pub(super) fn has_to_park(&self) -> bool {
        !self.to_park.is_empty()
    }

    /// Streams that have parked events.
    pub(super) fn parked_streams(&self) -> Vec<Arc<str>> {
        self.parked_streams.keys().cloned().collect()
    }

    /// The stream of a parked event.
    pub(super) fn parked_stream(&self, position: u64) -> Option<Arc<str>> {
        self.parked.get(&position).cloned()
    }

    /// Tries all parked events of a stream anew, in their order. Answers how many; 0 if that is under way.
    pub(super) fn replay(&mut self, stream: &Arc<str>) -> usize {
        if self.streams.get(stream).is_some_and(|stream| stream.replayed > 0) {
            return 0;
        }
        let Some(positions) = self.parked_streams.get(stream).cloned() else { return 0 };
        for position in &positions {
            self.enter(*position, stream.clone(), Stage::Ready, None, true);
        }
        positions.len()
    }

    /// A parked event is given up. False if it is being tried anew just now.
    pub(super) fn may_dismiss(&self, position: u64) -> bool {
        self.parked.contains_key(&position) && !self.entries.contains_key(&position)
    }
}

/// Whether the checkpoint may pass it, once what is on its way into the log is there.
fn is_done(entry: &Entry) -> bool {
    entry.replayed || matches!(entry.stage, Stage::Acknowledging { .. })
}

/// The lane of a stream, the same one always while the number of lanes is.
fn lane_of(stream: &str, lanes: usize) -> usize {
    if lanes == 1 {
        return 0;
    }
    (xxhash_rust::xxh3::xxh3_64(stream.as_bytes()) % lanes as u64) as usize
}
