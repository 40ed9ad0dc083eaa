//! A consumer that reads and acknowledges while the store goes through all that a history does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use annals::{Batch, Consumer, ConsumerOptions, Delivery, Durability, Error, Expect, Seek, View};

use super::super::ask::Ask;
use super::super::content::{self, Content, Recorded};
use super::super::plain::{Attempt, Verdict};
use super::{Checked, History, ensure, same, worked};
use crate::sim_disk::Dice;

const NAME: &str = "ledger";

/// A consumer, and what the model knows of it.
#[derive(Default)]
pub(super) struct Consuming {
    handle: Option<Consumer>,
    ask: Option<Ask>,
    window: usize,
    /// Everything up to here is finished, by a reset.
    below: u64,
    finished: BTreeSet<u64>,
    /// Where it stood when all was last known to be durable: a failed sync may take it back that far.
    safe: BTreeSet<u64>,
    /// Acknowledged, and perhaps taken back by a failed sync.
    doubtful: BTreeSet<u64>,
    handed: BTreeMap<u64, Delivery>,
    /// The last position that was handed out since it was opened or reset.
    last: u64,
    /// Its view showed at least so much when it last looked for more.
    pinned: u64,
}

impl Consuming {
    /// The process ends.
    pub(super) fn end_of_process(&mut self) {
        self.handed.clear();
        self.handle = None;
    }

    /// Everything written so far is durable.
    pub(super) fn all_safe(&mut self) {
        self.safe.clone_from(&self.finished);
    }

    /// Nothing behind `head` is there any more.
    pub(super) fn cut(&mut self, head: u64) {
        self.below = self.below.min(head);
        self.finished.retain(|at| *at <= head);
        self.safe.retain(|at| *at <= head);
    }

    fn is_done(&self, position: u64) -> bool {
        position <= self.below || self.finished.contains(&position)
    }
}

impl History {
    /// What a consumer writes has a time; with the clock at or behind the last one it changes no time of an event.
    fn at_the_last_time<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        let clock = self.clock.get();
        self.clock.set(clock.min(self.time));
        let answer = run(self);
        self.clock.set(clock);
        answer
    }

    /// Lets go of it as a process does that ends well.
    pub(super) fn close_consumer(&mut self) {
        self.at_the_last_time(|history| history.consuming.end_of_process());
    }

    /// One step of the consumer.
    pub(super) fn consume(&mut self, dice: &mut Dice) -> Checked {
        self.at_the_last_time(|history| {
            let window = if dice.chance(1, 3) { 3 + dice.index(20) } else { 1024 };
            if !history.open_consumer(window, dice)? {
                return Ok(());
            }
            match dice.below(12) {
                0..5 => history.take_some(dice),
                5..9 => history.acknowledge(dice),
                9 => history.second_consumer(),
                10 => history.reset_consumer(dice),
                _ => history.check_consumer(),
            }
        })
    }

    fn default_view(&self) -> View {
        if self.manner.durability == Durability::Durable { View::Durable } else { View::Written }
    }

    /// False if there is no room to say that it is open.
    fn open_consumer(&mut self, window: usize, dice: &mut Dice) -> Checked<bool> {
        if self.consuming.handle.is_some() {
            return Ok(true);
        }
        let ask =
            self.consuming.ask.get_or_insert_with(|| if dice.chance(1, 3) { Ask(None) } else { Ask::random(dice) });
        let options = ConsumerOptions::new().query(ask.query()).window(window).start(Seek::Beginning);
        self.consuming.handle = match self.store.consumer(NAME, options) {
            Ok(consumer) => Some(consumer),
            Err(Error::NoSpace { .. }) if self.full_disk => return Ok(false),
            Err(error) => return Err(format!("opening a consumer: {error} ({error:?})")),
        };
        let pinned = self.head(self.default_view())?;
        let consuming = &mut self.consuming;
        (consuming.window, consuming.last, consuming.pinned) = (window, consuming.below, pinned);
        self.note(format!("consumer {:?}, window {window}", self.consuming.ask));
        self.tally.count("consumer", "opened");
        Ok(true)
    }

    fn handle(&self) -> &Consumer {
        self.consuming.handle.as_ref().expect("opened before")
    }

    fn take_some(&mut self, dice: &mut Dice) -> Checked {
        let most = if dice.chance(1, 4) { u64::MAX } else { 1 + dice.below(8) };
        self.note(format!("consume {most}"));
        for _ in 0..most {
            if !self.take_one()? {
                break;
            }
        }
        Ok(())
    }

    /// Takes the next event; false if there was none.
    fn take_one(&mut self) -> Checked<bool> {
        let least = self.head(self.default_view())?;
        let taken = match self.handle().next(Duration::ZERO) {
            // What was removed meanwhile is acknowledged by itself.
            Err(Error::NoSpace { .. }) if self.full_disk => return Ok(false),
            taken => worked("next", taken)?,
        };
        let now = self.plain.head();
        let ask = self.consuming.ask.clone().expect("it is open");
        let upto = match &taken {
            Some(delivery) => delivery.position().get() - 1,
            None if self.consuming.handed.len() >= self.consuming.window => return Ok(false),
            None => least,
        };
        let passed_over = (self.consuming.last + 1..=upto).filter_map(|at| self.plain.at(at)).find(|event| {
            ask.matches(&event.content)
                && !self.consuming.is_done(event.position)
                && !self.consuming.doubtful.contains(&event.position)
                && !self.consuming.handed.contains_key(&event.position)
                && self.plain.is_shown(event, now)
        });
        ensure(passed_over.is_none(), || format!("{:?} was not handed out", passed_over.map(Recorded::name)))?;
        let Some(delivery) = taken else {
            self.consuming.pinned = least;
            self.tally.count("consumer", "nothing");
            return Ok(false);
        };
        let event = Recorded::of(delivery.event().as_event_ref());
        let at = event.position;
        ensure(self.plain.at(at) == Some(&event), || format!("the model has another event than {}", event.name()))?;
        ensure(ask.matches(&event.content), || format!("{} does not match", event.name()))?;
        ensure(at > self.consuming.last, || format!("{} after {}", event.name(), self.consuming.last))?;
        ensure(!self.consuming.is_done(at), || format!("{} was acknowledged", event.name()))?;
        // It was looked at no earlier than it stood there: a stream that was forgotten begins anew.
        let seen_at = self.consuming.pinned.max(at);
        ensure(self.plain.hiding(&event, seen_at).is_none(), || format!("{} is removed", event.name()))?;
        same("attempt", &delivery.attempt(), &1)?;
        self.consuming.last = at;
        self.consuming.handed.insert(at, delivery);
        self.tally.count("consumer", "event");
        Ok(true)
    }

    fn acknowledge(&mut self, dice: &mut Dice) -> Checked {
        let handed: Vec<u64> = self.consuming.handed.keys().copied().collect();
        if handed.is_empty() {
            return Ok(());
        }
        let one = handed[dice.index(handed.len())];
        let (name, positions, outcome) = match dice.below(4) {
            0 | 1 => ("ack", vec![one], self.handle().ack(&self.consuming.handed[&one])),
            2 => {
                let some: Vec<Delivery> = self.consuming.handed.range(..=one).map(|(_, held)| held.clone()).collect();
                let positions = self.consuming.handed.range(..=one).map(|(at, _)| *at).collect();
                ("ack_all", positions, self.handle().ack_all(&some))
            }
            _ => ("ack in a batch", vec![one], self.acknowledge_with_an_effect(one, dice)?),
        };
        self.note(format!("{name} {positions:?}"));
        let outcome = match outcome {
            Ok(()) => {
                self.consuming.handed.retain(|at, _| !positions.contains(at));
                self.consuming.finished.extend(positions);
                name
            }
            Err(Error::NoSpace { .. }) if self.full_disk => "NoSpace",
            Err(error) => return Err(format!("{name}: {error} ({error:?})")),
        };
        self.tally.count("acknowledge", outcome);
        Ok(())
    }

    /// In the batch of an event, all or nothing.
    fn acknowledge_with_an_effect(&mut self, at: u64, dice: &mut Dice) -> Checked<annals::Result<()>> {
        let (stream, len) = (content::stream(dice), dice.below(300));
        let content = Content::random(dice, stream, len);
        let id = self.new_id();
        let mut attempt = Attempt { events: vec![(content, Some(id))], as_batch: true, ..Attempt::default() };
        if dice.chance(1, 3) {
            // One that is refused acknowledges nothing.
            attempt.expectations.push((attempt.events[0].0.stream.clone(), Expect::NoStream));
        }
        let verdict = self.plain.judge(&attempt);
        let delivery = self.consuming.handed[&at].clone();
        let outcome = attempt.with_batch(|batch| {
            let batch: Batch<'_> = batch.clone().acknowledge(&delivery);
            self.store.commit(&batch)
        });
        match (outcome, verdict) {
            (Ok(_), Verdict::Commit) => {
                self.accept(&attempt, &[id])?;
                if self.manner.durability == Durability::Durable {
                    self.durable = self.plain.head();
                }
                Ok(Ok(()))
            }
            (Err(Error::Conflict(_)), Verdict::Conflict(..)) => {
                // It is in hand as before.
                if self.manner.durability == Durability::Durable {
                    self.durable = self.plain.head();
                }
                Ok(self.handle().ack(&delivery))
            }
            (Err(error @ Error::NoSpace { .. }), _) => Ok(Err(error)),
            (outcome, verdict) => Err(format!("got {outcome:?}, the model says {verdict:?}")),
        }
    }

    fn second_consumer(&mut self) -> Checked {
        let second = self.store.consumer(NAME, ConsumerOptions::new());
        ensure(matches!(second, Err(Error::ConsumerBusy { .. })), || format!("a second opening: {second:?}"))?;
        let removed = self.store.remove_consumer(NAME);
        ensure(matches!(removed, Err(Error::ConsumerBusy { .. })), || {
            format!("removed while it is open: {removed:?}")
        })?;
        self.tally.count("consumer", "ConsumerBusy");
        Ok(())
    }

    fn reset_consumer(&mut self, dice: &mut Dice) -> Checked {
        let head = self.head(self.default_view())?;
        let to = dice.below(head + 1);
        self.note(format!("reset the consumer to {to}"));
        let handed = std::mem::take(&mut self.consuming.handed);
        match self.handle().reset(Seek::After(to)) {
            Ok(()) => {}
            Err(Error::NoSpace { .. }) if self.full_disk => {
                self.consuming.handed = handed;
                return Ok(());
            }
            Err(error) => return Err(format!("reset: {error} ({error:?})")),
        }
        let late = handed.values().next().map(|delivery| self.handle().ack(delivery));
        ensure(matches!(late, None | Some(Err(Error::Fenced { .. }))), || format!("of before a reset: {late:?}"))?;
        self.consuming.finished.clear();
        (self.consuming.below, self.consuming.last, self.consuming.pinned) = (to, to, head);
        self.tally.count("consumer", "reset");
        // So that a failed sync does not take it back.
        self.sync()
    }

    /// Nothing below its checkpoint is left to be done.
    fn check_consumer(&mut self) -> Checked {
        let (checkpoint, head) = (self.handle().checkpoint(), self.plain.head());
        let listed = self.store.consumers();
        let listed: Vec<_> = listed.iter().map(|info| (info.name.as_str(), info.is_open)).collect();
        same("consumers", &listed, &vec![(NAME, true)])?;
        let Some(ask) = &self.consuming.ask else { return Ok(()) };
        let left = (1..=checkpoint).filter_map(|at| self.plain.at(at)).find(|event| {
            ask.matches(&event.content) && self.plain.is_shown(event, head) && !self.consuming.is_done(event.position)
        });
        ensure(left.is_none(), || format!("checkpoint {checkpoint}: {:?} is not finished", left.map(Recorded::name)))?;
        self.tally.count("consumer", "checkpoint");
        Ok(())
    }

    /// After a failed sync: what is handed out again was acknowledged after the last good one, and the rest still is.
    pub(super) fn settle_consumer(&mut self, dice: &mut Dice) -> Checked {
        if self.consuming.ask.is_none() {
            return Ok(());
        }
        self.at_the_last_time(|history| {
            let consuming = &mut history.consuming;
            consuming.doubtful = consuming.finished.difference(&consuming.safe).copied().collect();
            consuming.finished.clone_from(&consuming.safe);
            if !history.open_consumer(1 << 20, dice)? {
                return Err("no room to open a consumer on a disk that is not full".to_owned());
            }
            while history.take_one()? {}
            let consuming = &mut history.consuming;
            let handed = &consuming.handed;
            let doubtful = std::mem::take(&mut consuming.doubtful);
            consuming.finished.extend(doubtful.into_iter().filter(|at| !handed.contains_key(at)));
            Ok(())
        })
    }
}
