//! Readers, subscriptions and a follower that live on while the store is appended to, removed from, compacted, forked,
//! backed up and opened again.

use std::sync::Arc;

use annals::{Event, Follower, Message, Next, Read, Reader, RemovalReason, Seek, Subscription, View};

use super::super::ask::Ask;
use super::super::content::Recorded;
use super::{Checked, History, ensure, options, same, worked};
use crate::sim_disk::Dice;

/// So many of each kind live at most.
const MOST: usize = 3;

/// Where a subscription gets its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Store(View),
    Follower,
}

/// A subscription, and what it was told.
struct Watcher {
    from: From,
    ask: Ask,
    subscription: Option<Subscription>,
    /// Everything up to here was handed out or passed over.
    seen: u64,
    /// Its view showed at least so much when it last looked for more.
    pinned: u64,
    /// What was told of since the last event.
    gaps: Vec<(u64, u64)>,
}

/// A bounded read that was begun before.
struct Begun {
    read: Read,
    /// What it would have given at once.
    wanted: std::collections::VecDeque<u64>,
}

/// A view of a moment that was opened before.
struct Glance {
    reader: Reader,
    last: u64,
    removals: u64,
}

/// Everything that lives across operations.
#[derive(Default)]
pub(super) struct Watchers {
    follower: Option<(Follower, View)>,
    watchers: Vec<Watcher>,
    begun: Vec<Begun>,
    glances: Vec<Glance>,
    kept: Vec<(Event, Recorded)>,
}

impl Watchers {
    /// The process ends: what it held goes. A follower is another process.
    pub(super) fn end_of_process(&mut self) {
        self.begun.clear();
        self.glances.clear();
        for watcher in &mut self.watchers {
            if matches!(watcher.from, From::Store(_)) {
                watcher.subscription = None;
            }
        }
    }

    /// So does the follower's: the disk is another one.
    pub(super) fn end_of_machine(&mut self) {
        self.end_of_process();
        self.follower = None;
        self.watchers.iter_mut().for_each(|watcher| watcher.subscription = None);
    }

    /// Nothing behind `head` is there any more.
    pub(super) fn cut(&mut self, head: u64) {
        for watcher in &mut self.watchers {
            watcher.seen = watcher.seen.min(head);
        }
    }
}

impl History {
    /// Begins something that lives on, or looks at all that does.
    pub(super) fn watch(&mut self, dice: &mut Dice) -> Checked {
        match dice.below(8) {
            0 => self.begin_watching(dice),
            1 => self.begin_reading(dice),
            2 => self.glance(dice),
            3 => self.keep_an_event(dice),
            4 => self.check_follower(dice),
            5 => {
                let most = 1 + dice.below(12);
                self.look_on(dice, Some(most))
            }
            _ => self.look_on(dice, None),
        }
    }

    /// The head that a watcher's view shows now at least.
    fn least_head(&mut self, from: From) -> Checked<u64> {
        let view = match from {
            From::Store(view) => view,
            From::Follower => self.watchers.follower.as_ref().map_or(View::Durable, |(_, view)| *view),
        };
        self.head(view)
    }

    fn follower(&mut self, dice: &mut Dice) -> Checked<Follower> {
        if self.watchers.follower.is_none() {
            let view = self.view(dice);
            let options = options(self.manner, &self.clock).view(view);
            let follower = worked("follow", options.follow_storage(Arc::new(self.disk.clone())))?;
            self.watchers.follower = Some((follower, view));
        }
        let (follower, _) = self.watchers.follower.as_ref().expect("made above");
        Ok(follower.clone())
    }

    fn subscribe(&mut self, from: From, ask: &Ask, seek: Seek, dice: &mut Dice) -> Checked<Subscription> {
        let query = ask.query();
        let subscription = match from {
            From::Store(view) => self.store.reader_in(view).subscribe(&query, seek),
            From::Follower => self.follower(dice)?.subscribe(&query, seek),
        };
        worked("subscribe", subscription)
    }

    fn begin_watching(&mut self, dice: &mut Dice) -> Checked {
        if self.watchers.watchers.len() == MOST {
            let gone = dice.index(MOST);
            self.watchers.watchers.swap_remove(gone);
        }
        let from = if dice.chance(1, 2) { From::Follower } else { From::Store(self.view(dice)) };
        if from == From::Follower {
            self.follower(dice)?;
        }
        let ask = if dice.chance(1, 3) { Ask(None) } else { Ask::random(dice) };
        let head = self.least_head(from)?;
        let seen = if dice.chance(1, 2) { 0 } else { dice.below(head + 1) };
        let seek = if seen == 0 { Seek::Beginning } else { Seek::After(seen) };
        self.note(format!("watch {from:?} {ask:?} {seek:?}"));
        let subscription = Some(self.subscribe(from, &ask, seek, dice)?);
        same("position", &subscription.as_ref().map(Subscription::position), &Some(seen))?;
        self.watchers.watchers.push(Watcher { from, ask, subscription, seen, pinned: head, gaps: Vec::new() });
        self.tally.count("watch", if from == From::Follower { "by a follower" } else { "in the store" });
        Ok(())
    }

    /// Looks at what has come, at most so many messages each, and whether what is held still holds.
    pub(super) fn look_on(&mut self, dice: &mut Dice, most: Option<u64>) -> Checked {
        self.note(format!("look on, {most:?}"));
        let mut watchers = std::mem::take(&mut self.watchers.watchers);
        for watcher in &mut watchers {
            self.look_on_by(watcher, dice, most)
                .map_err(|what| format!("{:?} of {:?} behind {}: {what}", watcher.ask, watcher.from, watcher.seen))?;
        }
        self.watchers.watchers = watchers;
        self.go_on_reading(most)?;
        self.glance_again()?;
        for (event, recorded) in &self.watchers.kept {
            ensure(Recorded::of(event.as_event_ref()) == *recorded, || {
                format!("an event that is held has changed: {}", recorded.name())
            })?;
        }
        Ok(())
    }

    fn look_on_by(&mut self, watcher: &mut Watcher, dice: &mut Dice, most: Option<u64>) -> Checked {
        let mut subscription = match watcher.subscription.take() {
            Some(subscription) => subscription,
            None => {
                // Whoever it was goes on where it stood.
                watcher.gaps.clear();
                watcher.pinned = self.least_head(watcher.from)?;
                self.subscribe(watcher.from, &watcher.ask, Seek::After(watcher.seen), dice)?
            }
        };
        let least = self.least_head(watcher.from)?;
        if let (From::Follower, Some((follower, _))) = (watcher.from, &self.watchers.follower) {
            // All at once, and not a stretch at each look.
            worked("refresh", follower.refresh())?;
        }
        let now = self.plain.head();
        let mut left = most.unwrap_or(u64::MAX);
        while left > 0 {
            left -= 1;
            match worked("try_next", subscription.try_next())? {
                Next::Message(Message::Event(event)) => {
                    let event = Recorded::of(event.as_event_ref());
                    self.check_passed_over(watcher, event.position - 1, now)?;
                    let wanted = self.plain.at(event.position);
                    ensure(wanted == Some(&event), || format!("the model has another event than {}", event.name()))?;
                    ensure(watcher.ask.matches(&event.content), || format!("{} does not match", event.name()))?;
                    // It obeys a removal as soon as its view shows it.
                    ensure(self.plain.hiding(&event, watcher.pinned.max(event.position)).is_none(), || {
                        format!("{} is removed", event.name())
                    })?;
                    watcher.seen = event.position;
                    self.tally.count("watched", "event");
                }
                Next::Message(Message::Gap { first, last, why }) => {
                    self.check_gap(watcher, (first.get(), last.get()), why, now)?;
                    watcher.gaps.push((first.get(), last.get()));
                    self.tally.count("watched", "gap");
                }
                Next::Message(Message::CaughtUp { head }) => {
                    ensure(head <= now, || format!("caught up to {head} of {now}"))?;
                    self.check_border(head)?;
                    self.check_passed_over(watcher, head, now)?;
                    watcher.seen = watcher.seen.max(head);
                    self.tally.count("watched", "caught up");
                }
                Next::NotYet => {
                    let position = subscription.position();
                    ensure(position >= least, || format!("it stands at {position}, {least} is shown"))?;
                    self.check_passed_over(watcher, position, now)?;
                    watcher.seen = watcher.seen.max(position);
                    watcher.pinned = least;
                    break;
                }
                other => return Err(format!("{other:?}")),
            }
        }
        watcher.subscription = Some(subscription);
        Ok(())
    }

    /// Between what was seen and `upto` nothing is missing but what was removed, and that was told.
    fn check_passed_over(&self, watcher: &mut Watcher, upto: u64, now: u64) -> Checked {
        for event in (watcher.seen + 1..=upto).filter_map(|at| self.plain.at(at)) {
            if !watcher.ask.matches(&event.content) {
                continue;
            }
            ensure(self.plain.hiding(event, now).is_some(), || format!("{} was passed over", event.name()))?;
            let at = event.position;
            let is_told = watcher.gaps.iter().any(|(first, last)| (*first..=*last).contains(&at));
            ensure(is_told, || format!("{} was removed, and no gap told of it", event.name()))?;
        }
        if upto > watcher.seen {
            watcher.gaps.clear();
        }
        Ok(())
    }

    fn check_gap(&self, watcher: &Watcher, (first, last): (u64, u64), why: RemovalReason, now: u64) -> Checked {
        let behind = watcher.gaps.last().map_or(watcher.seen, |(_, last)| *last);
        ensure(first > behind && first <= last && last <= now, || format!("a gap {first} to {last} after {behind}"))?;
        for at in [first, last] {
            let hiding = |head: u64| {
                let event = self.plain.at(at).filter(|event| watcher.ask.matches(&event.content));
                event.and_then(|event| self.plain.hiding(event, head)).map(|(why, _)| why)
            };
            ensure(hiding(now).is_some(), || format!("a gap at {at}, where nothing was removed that matches"))?;
            // What is taken out by a removal that the view does not see yet is said to be deleted.
            let is_right =
                why == RemovalReason::Deleted || (watcher.pinned..=now).rev().any(|head| hiding(head) == Some(why));
            ensure(is_right, || format!("a gap at {at} for {why:?}, the model says {:?}", hiding(now)))?;
        }
        Ok(())
    }

    fn begin_reading(&mut self, dice: &mut Dice) -> Checked {
        if self.watchers.begun.len() == MOST {
            let gone = dice.index(MOST);
            self.watchers.begun.swap_remove(gone);
        }
        let ask = if dice.chance(1, 2) { Ask(None) } else { Ask::random(dice) };
        let back = dice.chance(1, 2);
        self.note(format!("begin to read {ask:?}, back: {back}"));
        let reader = self.store.reader_in(View::Written);
        let (query, head) = (ask.query(), self.plain.head());
        let (read, seek) = match back {
            true => (reader.read_all_back(&query, Seek::End), Seek::End),
            false => (reader.read_all(&query, Seek::Beginning), Seek::Beginning),
        };
        let wanted = self.plain.read_all(&ask, seek, back, head).expect("nowhere ahead");
        self.watchers.begun.push(Begun { read: worked("read", read)?, wanted: wanted.into() });
        self.tally.count("a read goes on", "begun");
        Ok(())
    }

    /// What was open when events were removed may still show them, and nothing else is missing.
    fn go_on_reading(&mut self, most: Option<u64>) -> Checked {
        let head = self.plain.head();
        let mut begun = std::mem::take(&mut self.watchers.begun);
        for Begun { read, wanted } in &mut begun {
            for _ in 0..most.unwrap_or(20) {
                let Some(event) = read.next() else {
                    let missed = wanted.drain(..).filter_map(|at| self.plain.at(at));
                    let missed = missed.filter(|event| self.plain.is_shown(event, head)).map(Recorded::name).next();
                    ensure(missed.is_none(), || format!("a read from before ends without {missed:?}"))?;
                    self.tally.count("a read goes on", "to its end");
                    break;
                };
                let event = Recorded::of(worked("a read from before", event)?.as_event_ref());
                let place = wanted.iter().position(|at| *at == event.position);
                let Some(place) = place else { return Err(format!("a read from before gives {}", event.name())) };
                ensure(self.plain.at(event.position) == Some(&event), || format!("another {}", event.name()))?;
                let passed_over = wanted.drain(..=place).take(place).filter_map(|at| self.plain.at(at));
                let missed = passed_over.filter(|event| self.plain.is_shown(event, head)).map(Recorded::name).next();
                ensure(missed.is_none(), || format!("a read from before passes over {missed:?}"))?;
            }
        }
        self.watchers.begun = begun;
        Ok(())
    }

    fn glance(&mut self, dice: &mut Dice) -> Checked {
        if self.watchers.glances.len() == MOST {
            let gone = dice.index(MOST);
            self.watchers.glances.swap_remove(gone);
        }
        let removals = self.plain.head();
        let (moment, last) = self.moment(dice, removals);
        self.note(format!("a view of {moment:?} that stays"));
        let reader = worked("as_of", self.store.reader_in(View::Written).as_of(moment))?;
        self.watchers.glances.push(Glance { reader, last, removals });
        self.tally.count("a view stays", "opened");
        Ok(())
    }

    /// A view of a moment shows the same later, but for what was removed since, which it may pass over.
    fn glance_again(&mut self) -> Checked {
        let now = self.plain.head();
        for Glance { reader, last, removals } in &self.watchers.glances {
            same("head of a view that stays", &reader.head(), last)?;
            let read = worked("a view that stays", reader.read_all(&Ask(None).query(), Seek::Beginning))?;
            let mut seen = 0;
            for event in read {
                let event = Recorded::of(worked("a view that stays", event)?.as_event_ref());
                ensure(self.plain.at(event.position) == Some(&event), || format!("another {}", event.name()))?;
                ensure(self.plain.is_shown(&event, *removals), || format!("{} was removed", event.name()))?;
                let between = (seen + 1..event.position).filter_map(|at| self.plain.at(at));
                let missed = between.filter(|event| self.plain.is_shown(event, now)).map(Recorded::name).next();
                ensure(missed.is_none(), || format!("a view that stays passes over {missed:?}"))?;
                seen = event.position;
            }
            let rest = (seen + 1..=*last).filter_map(|at| self.plain.at(at));
            let missed = rest.filter(|event| self.plain.is_shown(event, now)).map(Recorded::name).next();
            ensure(missed.is_none(), || format!("a view that stays ends without {missed:?}"))?;
        }
        Ok(())
    }

    fn keep_an_event(&mut self, dice: &mut Dice) -> Checked {
        if self.watchers.kept.len() == 2 * MOST {
            let gone = dice.index(2 * MOST);
            self.watchers.kept.swap_remove(gone);
        }
        let at = 1 + dice.below(self.plain.head().max(1));
        let Some(position) = annals::Position::new(at).filter(|_| at <= self.plain.head()) else { return Ok(()) };
        if let Some(event) = worked("at", self.store.reader_in(View::Written).at(position))? {
            let recorded = Recorded::of(event.as_event_ref());
            self.watchers.kept.push((event, recorded));
            self.tally.count("an event is held", "held");
        }
        Ok(())
    }

    /// What a follower that lives on shows, through every read path.
    pub(super) fn check_follower(&mut self, dice: &mut Dice) -> Checked {
        let follower = self.follower(dice)?;
        let head = self.least_head(From::Follower)?;
        let reader = follower.reader();
        let shown = reader.head();
        let is_right = match follower.view() {
            View::Written => shown == self.plain.head(),
            View::Durable => shown >= head && shown <= self.plain.head(),
        };
        ensure(is_right, || format!("a follower shows {shown}, the store {head} at least"))?;
        self.check_border(shown)?;
        // With threads at work it moves on while it is asked.
        if follower.view() == View::Written || !self.manner.background {
            let by_it = |what: String| format!("by the follower that lives on: {what}");
            self.check_reader(&reader, shown).map_err(by_it)?;
            self.check_states(&reader, &self.states, shown, shown).map_err(by_it)?;
        }
        self.tally.count("follower", "asked");
        Ok(())
    }
}
