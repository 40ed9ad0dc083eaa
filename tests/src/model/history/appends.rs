//! Random batches: new, repeated, changed, refused.

use annals::{Durability, Error, EventId, Expect, Position, Receipt, Revision, StreamState};

use super::super::ask::Ask;
use super::super::content::{self, Content};
use super::super::plain::{Attempt, Verdict};
use super::{Checked, History, ensure, same};
use crate::sim_disk::Dice;

/// Which call appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Append,
    AppendWith,
    Batch,
    Submit,
    TrySubmit,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::AppendWith => "append_with",
            Self::Batch => "append batch",
            Self::Submit => "append submit",
            Self::TrySubmit => "append try_submit",
        }
    }
}

fn outcome_name<T>(outcome: &annals::Result<T>) -> &'static str {
    match outcome {
        Ok(_) => "done",
        Err(Error::Conflict(_)) => "Conflict",
        Err(Error::Empty) => "Empty",
        Err(Error::Invalid(_)) => "Invalid",
        Err(Error::AheadOfLog { .. }) => "AheadOfLog",
        Err(Error::DuplicateId { .. }) => "DuplicateId",
        Err(Error::PartialDuplicate { .. }) => "PartialDuplicate",
        Err(Error::NoSpace { .. }) => "NoSpace",
        Err(Error::Full { .. }) => "Full",
        Err(Error::Poisoned { .. }) => "Poisoned",
        Err(Error::OutcomeUnknown { .. }) => "OutcomeUnknown",
        Err(_) => "another error",
    }
}

impl History {
    /// The length of a payload: mostly short, sometimes a page or more, rarely longer than ring and segment.
    fn payload_len(dice: &mut Dice) -> u64 {
        match dice.below(300) {
            0 => 66_000 + dice.below(10_000),
            1..4 => 30_000 + dice.below(6000),
            4..170 => 3000 + dice.below(7000),
            _ => dice.below(700),
        }
    }

    pub(super) fn new_id(&mut self) -> EventId {
        self.next_id += 1;
        // Spread over all bits, as the ids of callers are.
        EventId::from(self.next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
    }

    /// A batch that is new but for what `spoil` may do to it.
    pub(super) fn new_attempt(&mut self, dice: &mut Dice) -> Attempt {
        let count = match dice.below(10) {
            0 => 3 + dice.below(20),
            1..4 => 2,
            _ => 1,
        };
        let own_stream = content::stream(dice);
        let many_streams = dice.chance(1, 3);
        let with_ids = dice.chance(1, 2);
        let mut attempt = Attempt { as_batch: dice.chance(1, 2), ..Attempt::default() };
        for _ in 0..count {
            let stream = if many_streams { content::stream(dice) } else { own_stream.clone() };
            let len = Self::payload_len(dice);
            let id = with_ids.then(|| self.new_id());
            attempt.events.push((Content::random(dice, stream, len), id));
        }
        if dice.chance(1, 3) {
            attempt.durability = Some(if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered });
        }
        self.add_expectations(&mut attempt, dice);
        attempt
    }

    fn add_expectations(&self, attempt: &mut Attempt, dice: &mut Dice) {
        let head = self.plain.head();
        for _ in 0..dice.below(4).saturating_sub(1) {
            let written = dice.index(attempt.events.len());
            let stream =
                if dice.chance(2, 3) { attempt.events[written].0.stream.clone() } else { content::stream(dice) };
            let expect = match (dice.below(20), self.plain.state(&stream, head)) {
                (0..16, StreamState::Absent) => [Expect::NoStream, Expect::Vacant, Expect::Any][dice.index(3)],
                (0..16, StreamState::Deleted { .. }) => [Expect::Deleted, Expect::Vacant, Expect::Any][dice.index(3)],
                (0..16, state) => match dice.below(3) {
                    0 => Expect::Exists,
                    _ => Expect::At(state.last().expect("it is there")),
                },
                (16, _) => Expect::NoStream,
                (17, _) => Expect::Exists,
                (18, _) => Expect::Deleted,
                _ => Expect::At(Revision::new(1 + dice.below(30)).expect("at least 1")),
            };
            attempt.expectations.push((stream, expect));
        }
        for _ in 0..dice.below(6).saturating_sub(3) {
            let ask = if dice.chance(1, 3) { Ask::random(dice) } else { Ask::narrow(dice) };
            let after = match dice.below(10) {
                0 => None,
                1 => Some(dice.below(head + 1)),
                2 => Some(head + 1 + dice.below(3)),
                _ => Some(head),
            };
            attempt.conditions.push((ask, after.and_then(Position::new)));
        }
    }

    /// Something stored before, as its caller would repeat it.
    fn retry(&self, dice: &mut Dice) -> Option<Attempt> {
        let event = self.plain.at(1 + dice.below(self.plain.head().max(1)))?;
        let batch = event.batch_first..event.batch_first + u64::from(event.batch_len);
        let mut attempt = Attempt { as_batch: dice.chance(1, 2), ..Attempt::default() };
        for position in batch {
            let Some(stored) = self.plain.at(position) else { continue };
            attempt.events.push((stored.content.clone(), Some(stored.id)));
        }
        if dice.chance(1, 4) {
            // Together with one from elsewhere.
            let other = self.plain.at(1 + dice.below(self.plain.head()))?;
            if attempt.events.iter().all(|(_, id)| *id != Some(other.id)) {
                attempt.events.push((other.content.clone(), Some(other.id)));
            }
        }
        if dice.chance(1, 2) {
            attempt.expectations.push((attempt.events[0].0.stream.clone(), Expect::NoStream));
        }
        Some(attempt)
    }

    fn choose(&mut self, dice: &mut Dice) -> Attempt {
        let kind = dice.below(100);
        if kind < 18
            && let Some(mut attempt) = self.retry(dice)
        {
            match kind {
                0..8 => {}
                8..13 => {
                    let index = dice.index(attempt.events.len());
                    attempt.events[index].0 = attempt.events[index].0.changed(dice);
                }
                _ => {
                    let content = Content::random(dice, "a".to_owned(), 20);
                    let at = dice.index(attempt.events.len() + 1);
                    let id = self.new_id();
                    attempt.events.insert(at, (content, Some(id)));
                }
            }
            return attempt;
        }
        let mut attempt = self.new_attempt(dice);
        match kind {
            18 => attempt.events.clear(),
            19..23 => self.spoil(&mut attempt, dice),
            _ => {}
        }
        attempt
    }

    /// Makes a batch that no store may take.
    fn spoil(&mut self, attempt: &mut Attempt, dice: &mut Dice) {
        let index = dice.index(attempt.events.len());
        let bad = ["", "$all", "a\nb", "\u{7f}"][dice.index(4)].to_owned();
        let id = self.new_id();
        let (content, event_id) = &mut attempt.events[index];
        match dice.below(7) {
            0 => content.stream = bad,
            1 => content.event_type = bad,
            2 => content.tags.push(bad),
            3 => content.tags = vec!["t".to_owned(); 65],
            4 => content.metadata = vec![0; (64 << 10) + 1],
            5 if event_id.is_some() => {
                let twice = attempt.events[index].clone();
                attempt.events.push(twice);
            }
            _ => {
                *event_id = Some(id);
                attempt.events.push((Content::random(dice, "a".to_owned(), 1), None));
            }
        }
    }

    pub(super) fn append(&mut self, dice: &mut Dice) -> Checked {
        if dice.chance(1, 2) {
            let step = dice.below(2000);
            self.clock.set((self.clock.get() + step).saturating_sub(700));
        }
        let mut attempt = self.choose(dice);
        let form = self.form_for(&mut attempt, dice);
        let verdict = self.plain.judge(&attempt);
        let shown = (attempt.events.len(), attempt.events.iter().map(|(c, _)| c.payload.len()).sum::<usize>());
        self.note(format!("{} {shown:?} {:?}: {}", form.name(), attempt.durability, short(&verdict)));
        match form {
            Form::Append | Form::AppendWith => {
                let stream = attempt.events[0].0.stream.clone();
                let expect = attempt.expectations.first().map_or(Expect::Any, |(_, expect)| *expect);
                let tags: Vec<Vec<&str>> =
                    attempt.events.iter().map(|(c, _)| c.tags.iter().map(String::as_str).collect()).collect();
                let events: Vec<_> =
                    attempt.events.iter().zip(&tags).map(|((content, id), tags)| content.as_new(*id, tags)).collect();
                let outcome = match attempt.durability {
                    Some(durability) => self.store.append_with(&stream, expect, &events, durability),
                    None => self.store.append(&stream, expect, &events),
                };
                self.settle(form.name(), &attempt, &verdict, outcome)
            }
            Form::Batch => {
                let outcome = attempt.with_batch(|batch| self.store.commit(batch));
                self.settle(form.name(), &attempt, &verdict, outcome)
            }
            Form::Submit | Form::TrySubmit => self.submit(form, attempt, verdict),
        }
    }

    /// Which call can say this batch; the batch is brought into the shape that the call has.
    fn form_for(&self, attempt: &mut Attempt, dice: &mut Dice) -> Form {
        let one_stream = attempt.events.windows(2).all(|pair| pair[0].0.stream == pair[1].0.stream);
        if !attempt.events.is_empty() && one_stream && attempt.conditions.is_empty() && dice.chance(2, 3) {
            attempt.as_batch = false;
            let stream = &attempt.events[0].0.stream;
            attempt.expectations.truncate(1);
            attempt.expectations.retain(|(name, _)| name == stream);
            return if attempt.durability.is_some() { Form::AppendWith } else { Form::Append };
        }
        match dice.below(4) {
            0 => Form::Submit,
            1 => Form::TrySubmit,
            _ => Form::Batch,
        }
    }

    fn submit(&mut self, form: Form, attempt: Attempt, verdict: Verdict) -> Checked {
        let submitted = attempt.with_batch(|batch| match form {
            Form::Submit => self.store.submit(batch),
            _ => self.store.try_submit(batch),
        });
        match submitted {
            Ok(ticket) => {
                let wanted = match &verdict {
                    Verdict::Commit => Some(self.plain.head() + attempt.events.len() as u64),
                    Verdict::Already(positions) => positions.last().copied(),
                    Verdict::Conflict(..) | Verdict::Duplicate(..) | Verdict::Partial(..) => None,
                    other => return Err(format!("a ticket for {}", short(other))),
                };
                same("the ticket's position", &ticket.position().map(Position::get), &wanted)?;
                if verdict == Verdict::Commit {
                    // What the ticket does not tell yet is read from the store.
                    let from = self.plain.head() + 1;
                    let reader = self.store.reader_in(annals::View::Written);
                    let mut ids = Vec::new();
                    for position in from..from + attempt.events.len() as u64 {
                        let event = reader.at(Position::new(position).expect("at least 1"));
                        let event = event.map_err(|error| format!("a submitted event is not readable: {error}"))?;
                        ids.push(event.ok_or("a submitted event is not there")?.id());
                    }
                    self.accept(&attempt, &ids)?;
                }
                let name = match &verdict {
                    Verdict::Commit => "committed",
                    Verdict::Already(_) => "AlreadyCommitted",
                    Verdict::Conflict(..) => "Conflict",
                    Verdict::Duplicate(..) => "DuplicateId",
                    _ => "PartialDuplicate",
                };
                self.tally.count(form.name(), name);
                let head = self.plain.head();
                self.tickets.push((ticket, attempt, verdict, head));
                Ok(())
            }
            Err(Error::Full { in_flight }) if form == Form::TrySubmit => {
                ensure(in_flight >= 24 << 10, || format!("Full with {in_flight} bytes in flight"))?;
                self.tally.count(form.name(), "Full");
                Ok(())
            }
            Err(error) => self.settle(form.name(), &attempt, &verdict, Err(error)),
        }
    }

    /// Enters a committed batch into the model.
    pub(super) fn accept(&mut self, attempt: &Attempt, ids: &[EventId]) -> Checked {
        self.time = self.time.max(self.clock.get());
        for ((_, given), id) in attempt.events.iter().zip(ids) {
            match given {
                Some(given) => same("the id", id, given)?,
                None => {
                    ensure(self.plain.by_id(*id, self.plain.head()).is_none(), || format!("id {id} was made twice"))?
                }
            }
        }
        self.plain.commit(attempt, ids, self.time);
        Ok(())
    }

    /// Compares the answer to an append with the model's, and enters what was committed.
    fn settle(
        &mut self,
        form: &'static str,
        attempt: &Attempt,
        verdict: &Verdict,
        outcome: annals::Result<Receipt>,
    ) -> Checked {
        if let Err(Error::NoSpace { .. }) = &outcome
            && self.full_disk
            && matches!(verdict, Verdict::Commit | Verdict::Conflict(..) | Verdict::Ahead(..))
        {
            self.tally.count(form, "NoSpace");
            return Ok(());
        }
        if let (Verdict::Commit, Ok(receipt)) = (verdict, &outcome) {
            let ids: Vec<EventId> = receipt.events().iter().map(|event| event.id).collect();
            same("events of the receipt", &ids.len(), &attempt.events.len())?;
            self.accept(attempt, &ids)?;
        }
        let head = self.plain.head();
        self.compare(attempt, verdict, &outcome, head)?;
        let name = match verdict {
            Verdict::Commit => "committed",
            Verdict::Already(_) => "AlreadyCommitted",
            _ => outcome_name(&outcome),
        };
        self.tally.count(form, name);
        Ok(())
    }

    /// `head` is the model's after the batch.
    fn compare(
        &mut self,
        attempt: &Attempt,
        verdict: &Verdict,
        outcome: &annals::Result<Receipt>,
        head: u64,
    ) -> Checked {
        let durability = attempt.durability.unwrap_or(self.manner.durability);
        let shown_when_durable = self.manner.durability == Durability::Durable;
        let mut rests_on = 0;
        match (verdict, outcome) {
            (Verdict::Commit, Ok(receipt)) => {
                let first = head + 1 - attempt.events.len() as u64;
                self.compare_receipt(receipt, &(first..=head).collect::<Vec<_>>(), false, durability)?;
                if durability == Durability::Durable {
                    rests_on = head;
                }
            }
            (Verdict::Already(positions), Ok(receipt)) => {
                self.compare_receipt(receipt, positions, true, durability)?;
                if durability == Durability::Durable || shown_when_durable {
                    rests_on = positions.iter().copied().max().unwrap_or(0);
                }
            }
            (Verdict::Empty, Err(Error::Empty)) | (Verdict::Invalid, Err(Error::Invalid(_))) => {}
            (Verdict::Duplicate(id, at), Err(Error::DuplicateId { id: got, at: got_at })) => {
                same("DuplicateId", &(*got, got_at.get()), &(*id, *at))?;
                rests_on = *at;
            }
            (Verdict::Partial(present, absent), Err(Error::PartialDuplicate { present: p, absent: a })) => {
                same("PartialDuplicate", &(p, a), &(present, absent))?;
                let found = present.iter().filter_map(|id| self.plain.by_id(*id, self.plain.head()));
                let positions = found.map(|(event, _)| event.position);
                rests_on = positions.max().unwrap_or(0);
            }
            (Verdict::Ahead(given, head), Err(Error::AheadOfLog { given: g, head: h })) => {
                same("AheadOfLog", &(*g, *h), &(*given, *head))?;
            }
            (Verdict::Conflict(head, failed), Err(Error::Conflict(conflict))) => {
                same("Conflict", &(conflict.head, &conflict.failed), &(*head, failed))?;
                rests_on = *head;
            }
            (verdict, outcome) => return Err(format!("got {outcome:?}, the model says {}", short(verdict))),
        }
        if outcome.is_err() && !shown_when_durable {
            rests_on = 0;
        }
        self.durable = self.durable.max(rests_on);
        Ok(())
    }

    fn compare_receipt(&self, receipt: &Receipt, positions: &[u64], already: bool, durability: Durability) -> Checked {
        same("already_committed", &receipt.already_committed(), &already)?;
        same("durability of the receipt", &receipt.durability(), &durability)?;
        let told: Vec<_> = receipt
            .events()
            .iter()
            .map(|event| (event.position.get(), event.revision.get(), event.recorded_at, event.id))
            .collect();
        let stored = positions.iter().filter_map(|position| self.plain.at(*position));
        let wanted: Vec<_> =
            stored.map(|event| (event.position, event.revision, event.recorded_at, event.id)).collect();
        same("the receipt", &told, &wanted)
    }

    pub(super) fn wait_for_tickets(&mut self, dice: &mut Dice) -> Checked {
        for _ in 0..1 + dice.below(4) {
            if self.tickets.is_empty() {
                return Ok(());
            }
            let index = dice.index(self.tickets.len());
            let (ticket, attempt, verdict, head) = self.tickets.swap_remove(index);
            if dice.chance(1, 5) {
                // Dropping it changes nothing.
                drop(ticket);
                continue;
            }
            self.note(format!("wait for {}", short(&verdict)));
            let outcome = ticket.wait();
            self.compare(&attempt, &verdict, &outcome, head)?;
            self.tally.count("wait", outcome_name(&outcome));
        }
        Ok(())
    }
}

fn short(verdict: &Verdict) -> String {
    let text = format!("{verdict:?}");
    text.chars().take(160).collect()
}
