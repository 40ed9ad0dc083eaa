//! Random histories of appends, syncs, subscriptions, reads of them in bits, and reopenings, against a plain list: what each
//! subscription has handed out is what the list says, at every moment.

use std::cell::Cell;
use std::ops::ControlFlow;

use annals::{Batch, Durability, Error, Message, MessageRef, Next, Options, Seek, Store, Subscription, View};
use annals_tests::model::{Ask, Attempt, Content, Ground, ManualClock, Plain, Recorded, repetitions, seed};
use annals_tests::sim_disk::Dice;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

type Outcome = Result<(), String>;

macro_rules! same {
    ($left:expr, $right:expr, $($what:tt)*) => {
        let (left, right) = (&$left, &$right);
        if left != right {
            return Err(format!("{}: {left:?}, but {right:?} is right", format_args!($($what)*)));
        }
    };
}

/// A subscription, and what it must still hand out.
struct Followed {
    subscription: Subscription,
    ask: Ask,
    view: View,
    seek: Seek,
    /// Where it stands.
    position: u64,
    /// Whether something was handed out since it was told that it had caught up.
    owes: bool,
}

struct History {
    ground: Ground,
    clock: ManualClock,
    durability: Durability,
    store: Option<Store>,
    plain: Plain,
    followed: Vec<Followed>,
    delivered: u64,
}

impl History {
    fn run(manner: u64, seeds: &[u64]) -> Result<u64, String> {
        let mut dice = Dice::new(manner);
        let ground = if dice.chance(7, 8) { Ground::memory() } else { Ground::disk() };
        let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
        let mut history = Self {
            ground,
            clock: ManualClock::at(1000),
            durability,
            store: None,
            plain: Plain::default(),
            followed: Vec::new(),
            delivered: 0,
        };
        history.open();
        for seed in seeds {
            let mut dice = Dice::new(*seed);
            match dice.below(12) {
                0..4 => history.append(&mut dice),
                4 => history.store().sync().map(drop).map_err(|error| error.to_string())?,
                5 => history.subscribe(&mut dice)?,
                6 => drop((!history.followed.is_empty()).then(|| history.followed.swap_remove(0))),
                7 if dice.chance(1, 6) => history.reopen()?,
                _ => history.read_on(&mut dice)?,
            }
        }
        Ok(history.delivered)
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("open")
    }

    fn open(&mut self) {
        let options = Options::new().background(false).segment_bytes_max(64 << 10).ring_bytes(64 << 10);
        self.store =
            Some(self.ground.open(options.durability(self.durability).clock(std::sync::Arc::new(self.clock.clone()))));
    }

    /// Closing ends them all; each goes on in another where it stood.
    fn reopen(&mut self) -> Outcome {
        self.store.take().expect("open").close().map_err(|error| error.to_string())?;
        for followed in &mut self.followed {
            let next = followed.subscription.try_next().map_err(|error| error.to_string())?;
            same!(matches!(next, Next::Ended), true, "after the close");
        }
        self.open();
        let store = self.store().clone();
        for followed in &mut self.followed {
            let after = Seek::After(followed.position);
            let again = store.reader_in(followed.view).subscribe(&followed.ask.query(), after);
            followed.subscription = again.map_err(|error| error.to_string())?;
            followed.seek = after;
            followed.owes = true;
        }
        Ok(())
    }

    fn append(&mut self, dice: &mut Dice) {
        if dice.chance(1, 3) {
            self.clock.set(self.clock.get() + dice.below(50));
        }
        let mut attempt = Attempt { as_batch: true, ..Attempt::default() };
        let many = if dice.chance(1, 10) { 400 } else { 4 };
        for _ in 0..1 + dice.below(many) {
            let stream = ["a", "a-1", "acc", "b"][dice.index(4)].to_owned();
            let len = dice.below(300);
            attempt.events.push((Content::random(dice, stream, len), None));
        }
        if dice.chance(1, 3) {
            attempt.durability = Some(if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered });
        }
        let receipt = attempt.with_batch(|batch: &Batch<'_>| self.store().commit(batch)).expect("it commits");
        let ids: Vec<_> = receipt.events().iter().map(|event| event.id).collect();
        self.plain.commit(&attempt, &ids, receipt.first().recorded_at);
    }

    fn subscribe(&mut self, dice: &mut Dice) -> Outcome {
        let view = if dice.chance(1, 2) { View::Durable } else { View::Written };
        let reader = self.store().reader_in(view);
        let head = reader.head();
        let ask = Ask::random(dice);
        let seek = match dice.below(6) {
            0 => Seek::Beginning,
            1 => Seek::End,
            2 => Seek::After(dice.below(head + 3)),
            3 => Seek::At(dice.below(head + 4)),
            _ => Seek::Time(1000 + dice.below(self.clock.get() - 1000 + 40)),
        };
        match (reader.subscribe(&ask.query(), seek), self.plain.read_all(&Ask(None), seek, false, head)) {
            (Err(Error::AheadOfLog { given, .. }), Err(ahead)) if given == ahead => {}
            (Ok(subscription), Ok(_)) => {
                let position = match seek {
                    Seek::Beginning => 0,
                    Seek::End => head,
                    Seek::After(at) => at,
                    Seek::At(at) => at.saturating_sub(1),
                    Seek::Time(time) => self.plain.position_at(time, head).map_or(head, |at| at - 1),
                };
                same!(subscription.position(), position, "where {seek:?} begins");
                self.followed.push(Followed { subscription, ask, view, seek, position, owes: true });
            }
            (left, right) => return Err(format!("{seek:?} at {head}: {left:?}, but {right:?} is right")),
        }
        Ok(())
    }

    /// Asks one of them some times.
    fn read_on(&mut self, dice: &mut Dice) -> Outcome {
        if self.followed.is_empty() {
            return Ok(());
        }
        let index = dice.index(self.followed.len());
        let head = self.store().reader_in(self.followed[index].view).head();
        let followed = &mut self.followed[index];
        let (plain, ask) = (&self.plain, followed.ask.clone());
        let since = if let Seek::Time(time) = followed.seek { time } else { 0 };
        let next_after = |position: u64| {
            let later = (position + 1..=head).filter_map(|at| plain.at(at));
            later.filter(|event| event.recorded_at >= since).find(|event| ask.matches(&event.content))
        };
        let fails = |error: Error| error.to_string();
        if dice.chance(1, 3) {
            let mut left = dice.below(40);
            let mut position = followed.position;
            let run = followed.subscription.for_each_ready(|next| {
                let right = next_after(position);
                match next {
                    MessageRef::Event(event) if right.is_some_and(|right| right.position == event.position().get()) => {
                        position = event.position().get();
                    }
                    other => return ControlFlow::Break(Err(format!("{other:?}, but {right:?} is right"))),
                }
                self.delivered += 1;
                left = left.saturating_sub(1);
                if left == 0 { ControlFlow::Break(Ok(())) } else { ControlFlow::Continue(()) }
            });
            followed.owes |= position > followed.position;
            match run.map_err(fails)? {
                Some(broken) => {
                    broken?;
                    followed.position = position;
                }
                None => {
                    same!(next_after(position).map(|event| event.position), None, "nothing was left");
                    followed.position = head.max(followed.position);
                }
            }
            same!(followed.subscription.position(), followed.position, "where it stands");
            return Ok(());
        }
        for _ in 0..dice.below(40) {
            let right = next_after(followed.position);
            match followed.subscription.try_next().map_err(fails)? {
                Next::Message(Message::Event(event)) => {
                    same!(Some(event.position().get()), right.map(|right| right.position), "the next event");
                    let right = right.expect("compared above");
                    if Recorded::of(event.as_event_ref()) != *right {
                        return Err(format!("{event:?}, but {right:?} is right"));
                    }
                    (followed.position, followed.owes) = (right.position, true);
                    self.delivered += 1;
                }
                Next::Message(Message::CaughtUp { head: told }) => {
                    same!((right.map(|right| right.position), followed.owes), (None, true), "caught up");
                    followed.position = head.max(followed.position);
                    same!(told, followed.position, "caught up at");
                    followed.owes = false;
                }
                Next::NotYet => {
                    same!((right.map(|right| right.position), followed.owes), (None, false), "nothing yet");
                    followed.position = head.max(followed.position);
                }
                other => return Err(format!("{other:?}")),
            }
            same!(followed.subscription.position(), followed.position, "where it stands");
        }
        Ok(())
    }
}

#[test]
fn every_subscription_hands_out_what_the_list_says() {
    let seed = seed();
    let histories = repetitions("ANNALS_HISTORIES", 60, 20_000);
    let config = Config {
        cases: u32::try_from(histories).expect("a number of histories"),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let delivered = Cell::new(0);
    let outcome = runner.run(&(any::<u64>(), vec(any::<u64>(), 100..200)), |(manner, seeds)| {
        delivered.set(delivered.get() + History::run(manner, &seeds).map_err(TestCaseError::fail)?);
        Ok(())
    });
    println!("{histories} histories, {} events handed out", delivered.get());
    outcome.unwrap();
    assert!(delivered.get() > histories * 100, "hardly anything was handed out");
}
