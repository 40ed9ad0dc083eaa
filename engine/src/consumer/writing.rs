//! The writer's part: the fence is judged, and the change goes into the log, under the one lock.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use annals_format::batch::{BATCH_HEADER_LEN, BatchEncoder};
use annals_format::consumer::{Change, ChangeList, ConsumerState, ConsumerTable, REASON_LEN_MAX, What};

use super::delivery::Acknowledgement;
use super::intake::Done;
use super::shared::Shared;
use crate::append::Receipt;
use crate::error::Error;
use crate::input::Input;
use crate::writer::{Appended, Refused, Writer};
use crate::{Position, Result};

/// Positions that were answered for, each with its ticket.
type Answers = Vec<(u64, u64)>;

/// What the writer knows of consumers.
#[derive(Debug, Default)]
pub(crate) struct ConsumerMemory {
    /// Where they stand in the log.
    pub(crate) table: ConsumerTable,
    open: HashMap<Arc<str>, Weak<Shared>>,
    /// What the batch under way says of consumers.
    pub(crate) changes: ChangeList,
    /// What it acknowledges.
    staged: Vec<(Arc<Shared>, Vec<u64>)>,
}

impl ConsumerMemory {
    pub(crate) fn new(table: ConsumerTable) -> Self {
        Self { table, ..Self::default() }
    }

    /// The open consumer of this name.
    pub(super) fn open(&self, name: &str) -> Option<Arc<Shared>> {
        self.open.get(name)?.upgrade().filter(|shared| shared.is_open())
    }

    /// The first position that an open consumer has asked to be kept from sweeps; with none, one beyond all.
    pub(crate) fn held_from(&self, head: u64) -> u64 {
        let open = self.open.values().filter_map(Weak::upgrade);
        let held = open.filter_map(|shared| {
            let bound = shared.options.hold?;
            let intake = shared.intake.lock();
            (!intake.fenced).then(|| (intake.checkpoint() + 1).max((head + 1).saturating_sub(bound)))
        });
        held.min().unwrap_or(u64::MAX)
    }

    /// Whether a consumer of this name is open.
    pub(crate) fn is_open(&self, name: &str) -> bool {
        self.open(name).is_some()
    }

    pub(super) fn set_open(&mut self, shared: &Arc<Shared>) {
        self.open.insert(shared.name.clone(), Arc::downgrade(shared));
    }

    pub(super) fn set_closed(&mut self, shared: &Arc<Shared>) {
        if self.open.get(&shared.name).is_some_and(|open| std::ptr::eq(open.as_ptr(), Arc::as_ptr(shared))) {
            self.open.remove(&shared.name);
        }
    }

    /// The state of a consumer that stands at this generation.
    fn state_of(&self, name: &str, generation: u64) -> Option<&Arc<ConsumerState>> {
        self.table.get(name).filter(|state| state.generation == generation)
    }

    /// Judges the fence, and prepares what the log will say.
    fn stage(&mut self, acknowledgements: &[Acknowledgement]) -> Result<()> {
        self.changes.clear();
        self.staged.clear();
        let mut by_consumer: Vec<(Arc<Shared>, Answers)> = Vec::new();
        for acknowledgement in acknowledgements {
            let Acknowledgement { shared, position, ticket, generation } = acknowledgement;
            if self.state_of(&shared.name, *generation).is_none() {
                return Err(fenced(shared, position.get()));
            }
            let answer = (position.get(), *ticket);
            match by_consumer.iter_mut().find(|(known, _)| Arc::ptr_eq(known, shared)) {
                Some((_, answers)) => answers.push(answer),
                None => by_consumer.push((shared.clone(), vec![answer])),
            }
        }
        for (shared, mut answers) in by_consumer {
            answers.sort_unstable();
            answers.dedup();
            if let Err(error) = self.stage_of(&shared, &answers) {
                self.cancel();
                return Err(error);
            }
        }
        Ok(())
    }

    fn stage_of(&mut self, shared: &Arc<Shared>, answers: &[(u64, u64)]) -> Result<()> {
        let mut intake = shared.intake.lock();
        intake.begin(answers).map_err(|refused| fenced(shared, refused.position))?;
        let positions: Vec<u64> = answers.iter().map(|(position, _)| *position).collect();
        let generation = intake.generation;
        for position in positions.iter().copied().filter(|position| intake.is_replayed(*position)) {
            self.changes.push(&Change { consumer: &shared.name, generation, what: What::Released { position } });
        }
        let Done { checkpoint, finished } = intake.done(&positions);
        let what = What::Acknowledged { checkpoint, finished };
        self.changes.push(&Change { consumer: &shared.name, generation, what });
        drop(intake);
        self.staged.push((shared.clone(), positions));
        Ok(())
    }

    /// The changes stand in the log.
    pub(crate) fn apply(&mut self, recorded_at: u64) {
        for change in self.changes.changes() {
            self.table.apply(&change, recorded_at);
        }
        self.changes.clear();
        for (shared, positions) in self.staged.drain(..) {
            shared.intake.lock().finish(positions);
            shared.changed.notify_all();
        }
    }

    fn cancel(&mut self) {
        self.changes.clear();
        for (shared, positions) in self.staged.drain(..) {
            shared.intake.lock().cancel(positions);
        }
    }
}

pub(super) fn fenced(shared: &Shared, position: u64) -> Error {
    Error::Fenced { consumer: shared.name.to_string(), position: Position::new(position) }
}

/// As much of a reason as is kept.
pub(super) fn cut_reason(reason: &str) -> &str {
    let mut len = reason.len().min(REASON_LEN_MAX);
    while !reason.is_char_boundary(len) {
        len -= 1;
    }
    &reason[..len]
}

impl Writer {
    /// Appends a batch that acknowledges something, with events or without.
    #[cold]
    pub(crate) fn append_acknowledging<'a>(
        &mut self,
        input: &impl Input<'a>,
        receipt: &mut Receipt,
    ) -> Result<Appended, Refused> {
        if let Err(error) = self.consumers.stage(input.acknowledgements()) {
            // A retry of what is stored is answered even so.
            input.check_form(&self.core.limits)?;
            self.core.log.check_poison()?;
            if input.has_ids()
                && let Some(answer) = self.judge_met_ids(input, receipt)?
            {
                return Ok(answer);
            }
            return Err(error.into());
        }
        let outcome = self.append_staged_acknowledgements(input, receipt);
        if outcome.is_err() {
            self.consumers.cancel();
        }
        outcome
    }

    fn append_staged_acknowledgements<'a>(
        &mut self,
        input: &impl Input<'a>,
        receipt: &mut Receipt,
    ) -> Result<Appended, Refused> {
        if input.len() == 0 && input.removals().is_empty() {
            input.check_form(&self.core.limits)?;
            self.core.log.check_poison()?;
            self.judge_guards(input)?;
            self.append_changes()?;
            return Ok(Appended { rests_on: self.head, wakes_maker: self.ask_ahead() });
        }
        let appended = self.append_events(input, receipt)?;
        if receipt.already_committed() {
            // The effects are there, perhaps from a batch that did not acknowledge.
            self.append_changes()?;
        } else {
            self.consumers.apply(self.last_time);
        }
        Ok(appended)
    }

    /// Acknowledges by itself.
    pub(super) fn acknowledge(&mut self, acknowledgements: &[Acknowledgement]) -> Result<()> {
        self.consumers.stage(acknowledgements)?;
        let appended = self.append_changes();
        if appended.is_err() {
            self.consumers.cancel();
        }
        appended
    }

    /// Writes changes that `build` makes of the consumers as they stand.
    pub(super) fn change_consumers<R>(
        &mut self,
        build: impl FnOnce(&ConsumerTable, &mut ChangeList) -> Result<R>,
    ) -> Result<R> {
        let ConsumerMemory { table, changes, .. } = &mut *self.consumers;
        changes.clear();
        let built = build(table, changes)?;
        self.append_changes()?;
        Ok(built)
    }

    /// A batch of what [`ConsumerMemory::changes`] holds and no event; it takes no position. Nothing is written if they are
    /// none.
    fn append_changes(&mut self) -> Result<()> {
        if self.consumers.changes.is_empty() {
            return Ok(());
        }
        self.core.log.check_poison()?;
        let len = (BATCH_HEADER_LEN + self.consumers.changes.section_len()).next_multiple_of(8) as u64;
        let limit = self.core.limits.batch_len;
        if len > limit {
            return Err(Error::over_limit("the batch's bytes", None, len, limit));
        }
        if self.must_roll(len) {
            self.roll(len)?;
        }
        let now = self.clock.now();
        self.clock_steps_back += u64::from(now < self.last_time);
        let recorded_at = now.max(self.last_time);
        self.staging.clear();
        let mut batch = BatchEncoder::begin(&mut self.staging, self.active.segment.seed, self.head + 1);
        batch.consumers(&self.consumers.changes);
        let header = batch.finish(recorded_at, self.core.log.watermark.durable(), false);
        if let Err(error) = self.core.log.place(self.end, &self.staging) {
            return Err(Error::OutcomeUnknown { ids: Vec::new(), reason: error.to_string() });
        }
        self.placed(&header, 0);
        self.consumers.apply(recorded_at);
        Ok(())
    }
}
