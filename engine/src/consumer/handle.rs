//! What users hold of a consumer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_format::consumer::{Change, ConsumerState, ConsumerTable, What};

use super::delivery::{Delivery, Failed};
use super::intake::Intake;
use super::options::ConsumerOptions;
use super::shared::{self, Shared};
use crate::append::Durability;
use crate::error::Error;
use crate::name;
use crate::query::Seek;
use crate::reader::{Reader, RemovalReason};
use crate::store::Inner;
use crate::{Position, Result};

/// A named, durable place in the log: hands out each event that matches, in the order of each stream, until it is
/// acknowledged. At least once: after a failure anywhere, what was not acknowledged is handed out again. Exactly once in
/// effect if the acknowledgement rides in the batch of the effects ([`crate::Batch::acknowledge`]).
///
/// Made by [`crate::Store::consumer`]. May be shared by threads; a worker for each lane is [`Consumer::lanes`]. Dropping
/// the consumer and all its lanes closes it.
///
/// ```
/// # use std::time::Duration;
/// # use annals::{ConsumerOptions, Expect, NewEvent, Store};
/// # fn main() -> annals::Result<()> {
/// let store = Store::in_memory()?;
/// store.append("order-1", Expect::NoStream, &[NewEvent::new("Placed", b"12 pencils")])?;
/// let mail = store.consumer("mail", ConsumerOptions::new())?;
/// while let Some(event) = mail.next(Duration::ZERO)? {
///     // Send the mail, then:
///     mail.ack(&event)?;
/// }
/// assert_eq!((mail.checkpoint(), mail.lag()), (1, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    held: Arc<Held>,
}

/// A worker's share of a consumer: the events of its streams. See [`Consumer::lanes`].
#[derive(Debug)]
pub struct Lane {
    held: Arc<Held>,
    number: usize,
}

/// Looks at how far a consumer has come, without holding it open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Progress {
    shared: Arc<Shared>,
}

/// The last of these to go closes the consumer.
#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // What is not told is handed out again, or passed over again.
        let _ = self.shared.tell();
        self.shared.inner.writer.lock().consumers.set_closed(&self.shared);
    }
}

/// How a consumer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerInfo {
    /// Its name.
    pub name: String,
    /// Everything up to this position is finished or parked; 0: nothing yet.
    pub checkpoint: u64,
    /// How many positions above the checkpoint are finished or parked.
    pub finished_above: u64,
    /// How many events are parked.
    pub parked: u64,
    /// How many positions the head lies beyond the checkpoint.
    pub lag: u64,
    /// One more at each opening or reset of any consumer of the store.
    pub generation: u64,
    /// When the log last said something of it: nanoseconds since 1970 UTC.
    pub changed_at: u64,
    /// Whether it is open in this process.
    pub is_open: bool,
}

/// An event that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedEvent {
    /// Where it stands.
    pub position: Position,
    /// Its stream.
    pub stream: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The parked event of the same stream that it has to wait for; `None` if it failed itself.
    pub behind: Option<Position>,
    /// Why it was put aside, at most 1,024 bytes; empty for one that only waits.
    pub reason: String,
    /// When: nanoseconds since 1970 UTC.
    pub parked_at: u64,
}

/// Events that were removed before they could be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Position of the first of them.
    pub first: Position,
    /// Position of the last of them.
    pub last: Position,
    /// What removed them.
    pub why: RemovalReason,
}

fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// What consumers and lanes do alike.
impl Held {
    fn next(&self, lane: Option<usize>, timeout: Duration) -> Result<Option<Delivery>> {
        self.shared.next(lane, deadline(timeout))
    }

    fn next_batch(&self, lane: Option<usize>, most: usize, timeout: Duration) -> Result<Vec<Delivery>> {
        let mut batch = Vec::new();
        if most > 0 {
            batch.extend(self.next(lane, timeout)?);
        }
        while !batch.is_empty() && batch.len() < most {
            match self.next(lane, Duration::ZERO) {
                Ok(Some(delivery)) => batch.push(delivery),
                // An error is told by the next call; what is in hand is in hand.
                Ok(None) | Err(_) => break,
            }
        }
        Ok(batch)
    }

    fn ack_all(&self, deliveries: &[Delivery], durability: Durability) -> Result<()> {
        let acknowledgements: Vec<_> = deliveries.iter().map(Delivery::acknowledgement).collect();
        if acknowledgements.is_empty() {
            return Ok(());
        }
        self.shared.acknowledge(&acknowledgements, durability)
    }
}

macro_rules! worker {
    ($lane:expr) => {
        /// The next event; waits for one at most for `timeout` and answers `None` if none came.
        ///
        /// # Errors
        /// `Fenced` once another opening has taken the name over, or the consumer was removed; `Corrupt` or `Io` if what
        /// must be read is damaged; `Poisoned` once the store is closed or its log failed.
        pub fn next(&self, timeout: Duration) -> Result<Option<Delivery>> {
            self.held.next($lane(self), timeout)
        }

        /// As [`Self::next`], and as many more as can be had at once, at most `most`. Empty if none came.
        ///
        /// # Errors
        /// As there.
        pub fn next_batch(&self, most: usize, timeout: Duration) -> Result<Vec<Delivery>> {
            self.held.next_batch($lane(self), most, timeout)
        }

        /// Acknowledges an event: it is finished, and not handed out again. Durable as the options say, `Buffered` unless
        /// they say otherwise. A hundred bytes of log, no position.
        ///
        /// # Errors
        /// `Fenced` if it is no longer the caller's to answer for: another opening, a reset, or a failed earlier event of
        /// its stream came between. Then it is handed out again, if it was not finished. `NoSpace`, `Poisoned`,
        /// `OutcomeUnknown` as appending.
        pub fn ack(&self, delivery: &Delivery) -> Result<()> {
            self.ack_with(delivery, self.held.shared.options.durability)
        }

        /// As [`Self::ack`], with a durability of its own.
        ///
        /// # Errors
        /// As there.
        pub fn ack_with(&self, delivery: &Delivery, durability: Durability) -> Result<()> {
            self.held.shared.acknowledge(&[delivery.acknowledgement()], durability)
        }

        /// Acknowledges many events at once, all or none: one write to the log.
        ///
        /// # Errors
        /// As [`Self::ack`].
        pub fn ack_all(&self, deliveries: &[Delivery]) -> Result<()> {
            self.held.ack_all(deliveries, self.held.shared.options.durability)
        }

        /// Tells that an event could not be worked on. It is handed out again after a pause, and later events of its stream
        /// wait for it, those of other streams do not; after the last try it is parked.
        ///
        /// # Errors
        /// As [`Self::ack`].
        pub fn fail(&self, delivery: &Delivery, reason: &str) -> Result<Failed> {
            self.held.shared.fail(delivery, reason)
        }

        /// Puts an event aside at once, and with it later events of its stream, so that the stream's order is kept. It
        /// counts as passed. The reason is kept up to 1,024 bytes.
        ///
        /// # Errors
        /// As [`Self::ack`].
        pub fn park(&self, delivery: &Delivery, reason: &str) -> Result<()> {
            self.held.shared.park(delivery, reason)
        }
    };
}

impl Lane {
    worker!(|lane: &Self| Some(lane.number));

    /// Its number, from 0.
    pub fn number(&self) -> usize {
        self.number
    }
}

impl Consumer {
    worker!(|_| None);

    /// Its name.
    pub fn name(&self) -> &str {
        &self.held.shared.name
    }

    /// Workers, as many as the options say: each is handed out the events of its streams, and a stream belongs to one of
    /// them, so that they can work side by side and every stream keeps its order.
    pub fn lanes(&self) -> Vec<Lane> {
        let lanes = self.held.shared.options.lanes;
        (0..lanes).map(|number| Lane { held: self.held.clone(), number }).collect()
    }

    /// What matches and was removed before it could be handed out, as far as this opening has come and since this was asked
    /// last: at most 64 stretches, more become one with the last. Consumers pass over it; who must know asks here.
    pub fn passed_over(&self) -> Vec<PassedOver> {
        self.held.shared.intake.lock().take_gaps()
    }

    /// A handle that looks on.
    pub fn progress(&self) -> Progress {
        Progress { shared: self.held.shared.clone() }
    }

    /// Everything up to this position is finished or parked; 0: nothing yet.
    pub fn checkpoint(&self) -> u64 {
        self.progress().checkpoint()
    }

    /// How many positions the head lies beyond the checkpoint; positions that do not match count.
    pub fn lag(&self) -> u64 {
        self.progress().lag()
    }

    /// See [`Progress::wait_for`].
    ///
    /// # Errors
    /// As there.
    pub fn wait_for(&self, position: Position, timeout: Duration) -> Result<bool> {
        self.progress().wait_for(position, timeout)
    }

    /// That of this opening, or of the last reset: larger than any before in the store.
    pub fn generation(&self) -> u64 {
        self.held.shared.intake.lock().generation
    }

    /// What is parked, in the order of positions.
    pub fn parked(&self) -> Vec<ParkedEvent> {
        let shared = &self.held.shared;
        let state = shared.inner.writer.lock().consumers.table.get(&shared.name).cloned();
        state.map_or_else(Vec::new, |state| parked(&state))
    }

    /// Hands out the parked event at `position` again, and what is parked of its stream, in order. Acknowledged, each is
    /// parked no longer; failing anew, it stays. Answers how many; 0 if none is parked there or they are handed out already.
    ///
    /// # Errors
    /// `Fenced` once another opening has taken the name over.
    pub fn replay(&self, position: Position) -> Result<usize> {
        let mut intake = self.open_intake()?;
        let stream = intake.parked_stream(position.get());
        let count = stream.map_or(0, |stream| intake.replay(&stream));
        drop(intake);
        self.held.shared.changed.notify_all();
        Ok(count)
    }

    /// Hands out everything again that is parked at this moment; answers how many. What is parked later, by workers that go on
    /// meanwhile, stays parked, and a stream that is being replayed already is not begun anew.
    ///
    /// # Errors
    /// As [`Consumer::replay`].
    pub fn replay_all(&self) -> Result<usize> {
        let mut intake = self.open_intake()?;
        let streams = intake.parked_streams();
        let count = streams.iter().map(|stream| intake.replay(stream)).sum();
        drop(intake);
        self.held.shared.changed.notify_all();
        Ok(count)
    }

    /// Gives up the parked event at `position`; what is parked of its stream behind it is handed out. False if none is
    /// parked there.
    ///
    /// # Errors
    /// `Invalid` while it is handed out again; as [`Consumer::ack`].
    pub fn dismiss(&self, position: Position) -> Result<bool> {
        self.held.shared.dismiss(position)
    }

    fn open_intake(&self) -> Result<parking_lot::MutexGuard<'_, Intake>> {
        let intake = self.held.shared.intake.lock();
        if intake.fenced { Err(super::writing::fenced(&self.held.shared, 0)) } else { Ok(intake) }
    }

    /// Begins again at `seek` (positions). What is in somebody's hands can no longer be acknowledged; what is parked above
    /// the new place is parked no longer.
    ///
    /// # Errors
    /// `AheadOfLog` beyond the head; as [`Consumer::ack`].
    pub fn reset(&self, seek: Seek) -> Result<()> {
        let shared = &self.held.shared;
        if !shared.is_open() {
            return Err(super::writing::fenced(shared, 0));
        }
        reset(&shared.inner, &shared.name, seek, shared.options.durability)
    }
}

impl Progress {
    /// Everything up to this position is finished or parked; 0: nothing yet.
    pub fn checkpoint(&self) -> u64 {
        self.shared.intake.lock().checkpoint()
    }

    /// How many positions the head of the store's default view lies beyond the checkpoint.
    pub fn lag(&self) -> u64 {
        let checkpoint = self.checkpoint();
        self.shared.reader.head().saturating_sub(checkpoint)
    }

    /// Waits until everything up to `position` is finished or parked: then what this consumer makes shows what was appended
    /// there. False if it was not within `timeout`.
    ///
    /// # Errors
    /// `Fenced` once another opening has taken the name over, `Poisoned` once the store is closed.
    pub fn wait_for(&self, position: Position, timeout: Duration) -> Result<bool> {
        self.shared.wait_for(position, deadline(timeout))
    }
}

fn parked(state: &ConsumerState) -> Vec<ParkedEvent> {
    let event = |(position, parked): (&u64, &annals_format::consumer::Parked)| {
        Some(ParkedEvent {
            position: Position::new(*position)?,
            stream: parked.stream.to_string(),
            attempts: parked.attempts,
            behind: Position::new(parked.behind),
            reason: parked.reason.to_string(),
            parked_at: parked.at,
        })
    };
    state.parked.iter().filter_map(event).collect()
}

/// How the consumers of `table` stand below `head`.
pub(crate) fn listing(table: &ConsumerTable, head: u64) -> Vec<ConsumerInfo> {
    table.consumers.iter().map(|(name, state)| info(name, state, head, false)).collect()
}

pub(crate) fn info(name: &str, state: &ConsumerState, head: u64, is_open: bool) -> ConsumerInfo {
    ConsumerInfo {
        name: name.to_owned(),
        checkpoint: state.checkpoint,
        finished_above: state.finished.count(),
        parked: state.parked.len() as u64,
        lag: head.saturating_sub(state.checkpoint),
        generation: state.generation,
        changed_at: state.changed_at,
        is_open,
    }
}

fn check_name(consumer: &str) -> Result<()> {
    if !name::is_well_formed(consumer.as_bytes()) || consumer.starts_with('$') {
        return Err(Error::invalid("no consumer can have this name", None));
    }
    Ok(())
}

/// The position behind which `seek` begins.
fn place(reader: &Reader, seek: Seek) -> Result<u64> {
    let head = reader.head();
    let ahead = |given: u64| Err(Error::AheadOfLog { given, head });
    match seek {
        Seek::Beginning => Ok(0),
        Seek::End => Ok(head),
        Seek::After(position) if position > head => ahead(position),
        Seek::After(position) => Ok(position),
        Seek::At(position) if position > head + 1 => ahead(position),
        Seek::At(position) => Ok(position.saturating_sub(1)),
        Seek::Time(time) => Ok(reader.position_at(time)?.map_or(head, |position| position.get() - 1)),
    }
}

/// Opens a consumer under a new generation.
pub(crate) fn open(inner: &Arc<Inner>, consumer: &str, options: ConsumerOptions) -> Result<Consumer> {
    check_name(consumer)?;
    options.query.check()?;
    let reader = Reader::new(inner.core.clone(), inner.core.default_view());
    let from = place(&reader, options.start)?;
    let name: Arc<str> = Arc::from(consumer);
    let durability = inner.core.default_durability;
    let shared = shared::write(inner, durability, |writer| {
        let before = writer.consumers.open(consumer);
        if before.is_some() && !options.take_over {
            return Err(Error::ConsumerBusy { consumer: consumer.to_owned() });
        }
        writer.change_consumers(|table, changes| {
            let generation = next_generation(table)?;
            changes.push(&Change { consumer, generation, what: What::Opened { from } });
            Ok(())
        })?;
        if let Some(before) = before {
            before.fence();
        }
        let state = writer.consumers.table.get(consumer).cloned().unwrap_or_default();
        let intake = Intake::new(&state, &options);
        let shared = Arc::new(Shared::new(name, inner.clone(), options, intake));
        writer.consumers.set_open(&shared);
        Ok(shared)
    })?;
    Ok(Consumer { held: Arc::new(Held { shared }) })
}

/// Larger than any before. There are more than anybody can use, but a damaged file may claim that they are gone.
fn next_generation(table: &ConsumerTable) -> Result<u64> {
    let next = table.last_generation + 1;
    if next > annals_format::NUMBER_MAX {
        return Err(Error::invalid("no generation of a consumer is left", None));
    }
    Ok(next)
}

fn unknown() -> Error {
    Error::invalid("no consumer has this name", None)
}

/// Puts a consumer, open or not, at another place.
pub(crate) fn reset(inner: &Arc<Inner>, consumer: &str, seek: Seek, durability: Durability) -> Result<()> {
    let reader = Reader::new(inner.core.clone(), inner.core.default_view());
    let checkpoint = place(&reader, seek)?;
    shared::write(inner, durability, |writer| {
        writer.change_consumers(|table, changes| {
            table.get(consumer).ok_or_else(unknown)?;
            let generation = next_generation(table)?;
            changes.push(&Change { consumer, generation, what: What::Reset { checkpoint } });
            Ok(())
        })?;
        if let Some(shared) = writer.consumers.open(consumer) {
            let state = writer.consumers.table.get(consumer).cloned().unwrap_or_default();
            shared.intake.lock().restart(&state);
            shared.changed.notify_all();
        }
        Ok(())
    })
}

/// Removes a consumer; false if there is none of this name.
pub(crate) fn remove(inner: &Arc<Inner>, consumer: &str) -> Result<bool> {
    shared::write(inner, inner.core.default_durability, |writer| {
        if writer.consumers.open(consumer).is_some() {
            return Err(Error::ConsumerBusy { consumer: consumer.to_owned() });
        }
        writer.change_consumers(|table, changes| {
            if table.get(consumer).is_none() {
                return Ok(false);
            }
            let generation = next_generation(table)?;
            changes.push(&Change { consumer, generation, what: What::Removed });
            Ok(true)
        })
    })
}
