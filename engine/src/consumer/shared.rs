//! What the handles of one opening of a consumer share.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_format::consumer::{Change, What};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::delivery::{Acknowledgement, Delivery, Failed};
use super::intake::{Done, Handed, Intake};
use super::options::ConsumerOptions;
use super::source::Source;
use super::writing::{cut_reason, fenced};
use crate::append::Durability;
use crate::error::Error;
use crate::reader::Reader;
use crate::store::Inner;
use crate::writer::Writer;
use crate::{Event, Position, Result};

/// So many events are read at once.
const CHUNK: usize = 256;
/// Who waits looks again after this: for what other threads do seldom, such as replaying.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A checkpoint that moves although nothing was handed out is told to the log after so many positions.
const TELL_AFTER: u64 = 8192;

/// What came of reading on.
enum Sight {
    More,
    Nothing,
    /// Somebody else reads, or no more may be read until something is finished.
    Elsewhere,
}

pub(crate) struct Shared {
    pub(super) name: Arc<str>,
    pub(super) inner: Arc<Inner>,
    pub(super) options: ConsumerOptions,
    pub(super) reader: Reader,
    source: Mutex<Source>,
    pub(super) intake: Mutex<Intake>,
    /// Something may be handed out, or the checkpoint has moved.
    pub(super) changed: Condvar,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "consumer {:?}", self.name)
    }
}

impl Shared {
    pub(super) fn new(name: Arc<str>, inner: Arc<Inner>, options: ConsumerOptions, intake: Intake) -> Self {
        let reader = Reader::new(inner.core.clone(), inner.core.default_view());
        let source = Source::new(reader.clone(), options.query.clone());
        Self {
            name,
            inner,
            options,
            reader,
            source: Mutex::new(source),
            intake: Mutex::new(intake),
            changed: Condvar::new(),
        }
    }

    /// Whether its acknowledgements still count.
    pub(super) fn is_open(&self) -> bool {
        !self.intake.lock().fenced
    }

    pub(super) fn fence(&self) {
        self.intake.lock().fenced = true;
        self.changed.notify_all();
    }

    /// The next event for a lane, or for any; waits for one at most until `deadline`.
    pub(super) fn next(self: &Arc<Self>, lane: Option<usize>, deadline: Option<Instant>) -> Result<Option<Delivery>> {
        loop {
            if let Some(delivery) = self.take(lane)? {
                return Ok(Some(delivery));
            }
            // One of those that wait reads and waits for the log, the others for what it reads.
            let (source, sight) = match self.source.try_lock() {
                Some(source) => self.read_on(source)?,
                None => (None, Sight::Elsewhere),
            };
            if matches!(sight, Sight::More) {
                continue;
            }
            self.inner.core.log.check_poison()?;
            let mut intake = self.intake.lock();
            if intake.fenced {
                return Err(fenced(self, 0));
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(None);
            }
            let limits = [deadline, intake.next_due()];
            let until = limits.into_iter().flatten().fold(now + LOOK_AGAIN, Instant::min);
            match source {
                Some(source) => {
                    let after = intake.read_upto;
                    drop(intake);
                    source.wait(after, until);
                }
                None => drop(self.changed.wait_until(&mut intake, until)),
            }
        }
    }

    fn take(self: &Arc<Self>, lane: Option<usize>) -> Result<Option<Delivery>> {
        loop {
            let mut intake = self.intake.lock();
            if intake.fenced {
                return Err(fenced(self, 0));
            }
            let generation = intake.generation;
            let Some(handed) = intake.take(lane, Instant::now()) else { return Ok(None) };
            let Handed { position, ticket, attempt, lane, event } = handed;
            drop(intake);
            let delivery = |event: Event| Delivery { shared: self.clone(), event, ticket, generation, attempt, lane };
            if let Some(event) = event {
                return Ok(Some(delivery(event)));
            }
            let place = Position::new(position).expect("positions start at 1");
            match self.reader.at(place) {
                Ok(Some(event)) => {
                    self.intake.lock().keep(position, &event);
                    return Ok(Some(delivery(event)));
                }
                // It was removed meanwhile: nothing is left to be done for it.
                Ok(None) => {
                    let gone = Acknowledgement { shared: self.clone(), position: place, ticket, generation };
                    if let Err(error) = self.acknowledge(&[gone], Durability::Buffered) {
                        // Nobody else has it in hand.
                        self.intake.lock().put_back(position, ticket);
                        return Err(error);
                    }
                }
                Err(error) => {
                    self.intake.lock().put_back(position, ticket);
                    return Err(error);
                }
            }
        }
    }

    /// Reads further. Gives the source back if there is nothing more to read now, so that the caller may wait for it.
    fn read_on<'a>(&self, mut source: MutexGuard<'a, Source>) -> Result<(Option<MutexGuard<'a, Source>>, Sight)> {
        let (generation, after, room, must_park) = {
            let intake = self.intake.lock();
            (intake.generation, intake.read_upto, intake.room(), intake.has_to_park())
        };
        // What was read while an event before it was being parked, or could not be put aside then.
        if must_park {
            drop(source);
            self.park_behind()?;
            return Ok((None, Sight::More));
        }
        if room == 0 {
            return Ok((None, Sight::Elsewhere));
        }
        let (mut events, mut gaps) = (Vec::new(), Vec::new());
        let upto = source.read_on((generation, after), room.min(CHUNK), &mut events, &mut gaps)?;
        if upto == after && events.is_empty() {
            return Ok((Some(source), Sight::Nothing));
        }
        let mut intake = self.intake.lock();
        if intake.generation != generation {
            return Ok((None, Sight::More));
        }
        events.into_iter().for_each(|event| intake.accept(event));
        gaps.into_iter().for_each(|gap| intake.note_gap(gap));
        intake.read_up_to(upto);
        let must_park = intake.has_to_park();
        let must_tell = intake.checkpoint().saturating_sub(intake.said) >= TELL_AFTER;
        drop(intake);
        drop(source);
        self.changed.notify_all();
        if must_park {
            self.park_behind()?;
        }
        if must_tell {
            self.tell()?;
        }
        Ok((None, Sight::More))
    }

    /// Runs `change` under the writer's lock, and waits for as much durability as is asked for.
    pub(super) fn write<R>(&self, durability: Durability, change: impl FnOnce(&mut Writer) -> Result<R>) -> Result<R> {
        write(&self.inner, durability, change)
    }

    pub(super) fn acknowledge(&self, acknowledgements: &[Acknowledgement], durability: Durability) -> Result<()> {
        self.write(durability, |writer| writer.acknowledge(acknowledgements))
    }

    /// That an event failed.
    pub(super) fn fail(&self, delivery: &Delivery, reason: &str) -> Result<Failed> {
        let position = delivery.event.position().get();
        let failed = {
            let mut intake = self.intake.lock();
            if intake.fenced || intake.generation != delivery.generation {
                return Err(fenced(self, position));
            }
            intake.fail(position, delivery.ticket, Instant::now()).map_err(|_| fenced(self, position))?
        };
        self.changed.notify_all();
        match failed {
            Some(pause) => Ok(Failed::Again(pause)),
            None => self.park(delivery, reason).map(|()| Failed::Parked),
        }
    }

    /// Puts an event aside, and what was read of its stream behind it.
    pub(super) fn park(&self, delivery: &Delivery, reason: &str) -> Result<()> {
        let (position, ticket) = (delivery.event.position().get(), delivery.ticket);
        self.write(self.options.durability, |writer| {
            let begun = {
                let mut intake = self.intake.lock();
                let is_current = !intake.fenced && intake.generation == delivery.generation;
                let begun = is_current.then(|| intake.begin_parking(position, ticket).ok()).flatten();
                begun.map(|parking| {
                    let mut positions = parking.behind.clone();
                    positions.insert(0, parking.position);
                    let done = intake.done(&positions);
                    (parking, done)
                })
            };
            let Some((parking, Done { checkpoint, finished })) = begun else { return Err(fenced(self, position)) };
            let generation = delivery.generation;
            let written = writer.change_consumers(|_, changes| {
                let failed = (parking.position, parking.attempts, 0, cut_reason(reason));
                let behind = parking.behind.iter().map(|at| (*at, 0, parking.position, ""));
                for (position, attempts, behind, reason) in [failed].into_iter().chain(behind) {
                    let what = What::Parked { position, attempts, stream: &parking.stream, behind, reason };
                    changes.push(&Change { consumer: &self.name, generation, what });
                }
                let what = What::Acknowledged { checkpoint, finished };
                changes.push(&Change { consumer: &self.name, generation, what });
                Ok(())
            });
            let mut intake = self.intake.lock();
            match &written {
                Ok(()) => intake.finish_parking(&parking),
                Err(_) => intake.cancel_parking(&parking),
            }
            written
        })?;
        self.changed.notify_all();
        Ok(())
    }

    /// Puts aside what was read behind parked events of the same streams.
    fn park_behind(&self) -> Result<()> {
        self.write(self.options.durability, |writer| {
            let (parked, Done { checkpoint, finished }, generation) = {
                let mut intake = self.intake.lock();
                let parked = intake.begin_parking_behind();
                let positions: Vec<u64> = parked.iter().map(|(position, _, _)| *position).collect();
                let done = intake.done(&positions);
                (parked, done, intake.generation)
            };
            if parked.is_empty() {
                return Ok(());
            }
            let written = writer.change_consumers(|_, changes| {
                for (position, stream, behind) in &parked {
                    let what = What::Parked { position: *position, attempts: 0, stream, behind: *behind, reason: "" };
                    changes.push(&Change { consumer: &self.name, generation, what });
                }
                let what = What::Acknowledged { checkpoint, finished };
                changes.push(&Change { consumer: &self.name, generation, what });
                Ok(())
            });
            let mut intake = self.intake.lock();
            match &written {
                Ok(()) => intake.finish_parking_behind(&parked),
                Err(_) => intake.cancel_parking_behind(&parked),
            }
            written
        })?;
        self.changed.notify_all();
        Ok(())
    }

    /// Tells the log how far everything is done, if it does not know.
    pub(super) fn tell(&self) -> Result<()> {
        self.write(Durability::Buffered, |writer| {
            let mut intake = self.intake.lock();
            let (generation, checkpoint) = (intake.generation, intake.checkpoint());
            if intake.fenced || checkpoint <= intake.said {
                return Ok(());
            }
            writer.change_consumers(|table, changes| {
                if table.get(&self.name).is_some_and(|state| state.generation == generation) {
                    let what = What::Acknowledged { checkpoint, finished: Vec::new() };
                    changes.push(&Change { consumer: &self.name, generation, what });
                }
                Ok(())
            })?;
            intake.said = checkpoint;
            Ok(())
        })
    }

    /// A parked event is given up for good; what waited behind it is handed out.
    pub(super) fn dismiss(&self, position: Position) -> Result<bool> {
        let dismissed = self.write(self.options.durability, |writer| {
            let mut intake = self.intake.lock();
            if intake.fenced {
                return Err(fenced(self, position.get()));
            }
            let generation = intake.generation;
            let Some(stream) = intake.parked_stream(position.get()) else { return Ok(false) };
            if !intake.may_dismiss(position.get()) {
                return Err(Error::invalid("the parked event is being tried anew", None));
            }
            writer.change_consumers(|_, changes| {
                let what = What::Released { position: position.get() };
                changes.push(&Change { consumer: &self.name, generation, what });
                Ok(())
            })?;
            intake.finish([position.get()]);
            intake.replay(&stream);
            Ok(true)
        })?;
        self.changed.notify_all();
        Ok(dismissed)
    }

    /// Waits until everything up to `position` is finished or parked.
    pub(super) fn wait_for(&self, position: Position, deadline: Option<Instant>) -> Result<bool> {
        let mut intake = self.intake.lock();
        loop {
            if intake.checkpoint() >= position.get() {
                return Ok(true);
            }
            if intake.fenced {
                return Err(fenced(self, position.get()));
            }
            self.inner.core.log.check_poison()?;
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(false);
            }
            // Others move it; a store that is closed meanwhile does not tell.
            let look_again = now + LOOK_AGAIN;
            self.changed.wait_until(&mut intake, deadline.map_or(look_again, |deadline| deadline.min(look_again)));
        }
    }
}

/// Runs `change` under the writer's lock, and waits for as much durability as is asked for.
pub(super) fn write<R>(
    inner: &Inner,
    durability: Durability,
    change: impl FnOnce(&mut Writer) -> Result<R>,
) -> Result<R> {
    let (changed, end) = {
        let mut writer = inner.writer.lock();
        let changed = change(&mut writer)?;
        if writer.ask_ahead() {
            inner.preparer.wake_maker();
        }
        (changed, writer.end)
    };
    inner.settle_end(durability, end)?;
    Ok(changed)
}
