//! Random removals: by name, by policy, together with events.

use std::time::Duration;

use annals::{Durability, Error, EventId, Expect, Refusal, Removed, Retention, Revision, Scope};

use super::super::content::{self, Content};
use super::super::plain::{Attempt, Verdict};
use super::super::removal::{Answer, Remove, Said};
use super::{Checked, History, same, worked};
use crate::sim_disk::Dice;

/// A stream that may be ended for good: the others are wanted alive.
fn mortal(dice: &mut Dice) -> String {
    match dice.below(3) {
        0 => "z".to_owned(),
        1 => "b/x".to_owned(),
        _ => format!("u-{}", dice.below(200)),
    }
}

fn removal(dice: &mut Dice, last: impl Fn(&str) -> u64) -> Remove {
    let stream = content::stream(dice);
    match dice.below(10) {
        0..6 => {
            let near = match dice.below(8) {
                0 => last(&stream) + 1 + dice.below(3),
                1 => last(&stream) + 1,
                _ => 1 + dice.below(last(&stream) + 1),
            };
            Remove::TruncateBefore(stream, Revision::new(near).expect("at least 1"))
        }
        6..9 => Remove::Delete(stream),
        _ => Remove::Tombstone(mortal(dice)),
    }
}

impl History {
    fn rests_on_head(&mut self) {
        if self.manner.durability == Durability::Durable {
            self.durable = self.plain.head();
        }
    }

    /// One of the verbs, or a batch that removes and appends.
    pub(super) fn remove(&mut self, dice: &mut Dice) -> Checked {
        let head = self.plain.head();
        let last = |stream: &str| self.plain.state(stream, head).last().map_or(0, Revision::get);
        let mut attempt = Attempt { as_batch: dice.chance(1, 2), ..Attempt::default() };
        let is_verb = dice.chance(1, 2);
        for _ in 0..if is_verb { 1 } else { 1 + dice.below(3) } {
            attempt.removals.push(removal(dice, last));
        }
        let stream = attempt.removals[0].stream().to_owned();
        let expect = match (dice.below(6), self.plain.state(&stream, head).last()) {
            (0, _) => Expect::Exists,
            (1, Some(last)) => Expect::At(last),
            (2, _) => Expect::Deleted,
            (3, _) => Expect::Vacant,
            _ => Expect::Any,
        };
        if is_verb || dice.chance(1, 3) {
            attempt.expectations.push((stream.clone(), expect));
        }
        if is_verb {
            attempt.as_batch = false;
        } else {
            let with_ids = dice.chance(1, 2);
            for _ in 0..dice.below(4) {
                let stream = if dice.chance(1, 2) { stream.clone() } else { content::stream(dice) };
                let id = with_ids.then(|| self.new_id());
                attempt.events.push((Content::random(dice, stream, 100), id));
            }
        }
        let verdict = self.plain.judge(&attempt);
        let answers: Vec<Answer> = attempt.removals.iter().filter_map(|remove| self.plain.plan(remove).ok()).collect();
        self.note(format!(
            "remove {:?} {:?} and {} events: {verdict:?}",
            attempt.removals,
            expect,
            attempt.events.len()
        ));
        let (outcome, ids): (annals::Result<Vec<Removed>>, Vec<EventId>) = if is_verb {
            let expect = attempt.expectations[0].1;
            let outcome = match &attempt.removals[0] {
                Remove::TruncateBefore(stream, revision) => self.store.truncate_before(stream, expect, *revision),
                Remove::Delete(stream) => self.store.delete(stream, expect),
                Remove::Tombstone(stream) => self.store.tombstone(stream, expect),
            };
            (outcome.map(|removed| vec![removed]), Vec::new())
        } else {
            match attempt.with_batch(|batch| self.store.commit(batch)) {
                Ok(receipt) => {
                    let ids = receipt.events().iter().map(|event| event.id).collect();
                    (Ok(receipt.removals().to_vec()), ids)
                }
                Err(error) => (Err(error), Vec::new()),
            }
        };
        let name = match (&verdict, &outcome) {
            (Verdict::Commit | Verdict::Unchanged, Ok(removed)) => {
                let mut next = head;
                let wanted: Vec<_> = answers
                    .iter()
                    .map(|answer| {
                        next += u64::from(answer.writes.is_some());
                        (answer.writes.is_some().then_some(next), answer.state, answer.hidden)
                    })
                    .collect();
                let got: Vec<_> = removed
                    .iter()
                    .map(|removed| (removed.position.map(annals::Position::get), removed.state, removed.hidden))
                    .collect();
                same("what was removed", &got, &wanted)?;
                if verdict == Verdict::Commit {
                    self.accept(&attempt, &ids)?;
                }
                self.check_unreached(&attempt.removals, removed)?;
                self.rests_on_head();
                if verdict == Verdict::Commit { "removed" } else { "unchanged" }
            }
            (Verdict::Conflict(head, failed), Err(Error::Conflict(conflict))) => {
                same("Conflict", &(conflict.head, &conflict.failed), &(*head, failed))?;
                self.rests_on_head();
                "Conflict"
            }
            (Verdict::Invalid, Err(Error::Invalid(_))) => "Invalid",
            (_, Err(Error::NoSpace { .. })) if self.full_disk => "NoSpace",
            (verdict, outcome) => return Err(format!("got {outcome:?}, the model says {verdict:?}")),
        };
        self.tally.count(if is_verb { "remove" } else { "remove and append" }, name);
        Ok(())
    }

    /// Ids of a stream, or a stream itself, given up.
    pub(super) fn forget(&mut self, dice: &mut Dice) -> Checked {
        let stream = content::stream(dice);
        let whole = dice.chance(1, 2);
        let planned = self.plain.plan_forgetting(&stream, whole);
        self.note(format!("forget {stream:?}, all: {whole}: {planned:?}"));
        let outcome = match whole {
            true => self.store.forget_stream(&stream, Expect::Any),
            false => self.store.forget_ids(&stream, Expect::Any),
        };
        let name = match (planned, outcome) {
            (Ok(said), Ok(removed)) => self.written(said, removed.position.map(annals::Position::get))?,
            (Err(expected), Err(Error::Conflict(conflict))) => {
                let actual = self.plain.state(&stream, self.plain.head());
                same("Conflict", &conflict.failed, &vec![Refusal::Stream { stream, expected, actual }])?;
                self.rests_on_head();
                "Conflict"
            }
            (_, Err(Error::NoSpace { .. })) if self.full_disk => "NoSpace",
            (planned, outcome) => return Err(format!("got {outcome:?}, the model says {planned:?}")),
        };
        self.tally.count("forget", name);
        Ok(())
    }

    /// Enters a control record that stands alone, if one was to be written.
    fn written(&mut self, said: Option<Said>, position: Option<u64>) -> Checked<&'static str> {
        let name = if said.is_some() { "written" } else { "unchanged" };
        same("position of the record", &position, &said.is_some().then(|| self.plain.head() + 1))?;
        if let Some(said) = said {
            self.time = self.time.max(self.clock.get());
            self.plain.control_written(said, self.time);
        }
        self.rests_on_head();
        Ok(name)
    }

    /// Says how much is kept of some streams.
    pub(super) fn retain(&mut self, dice: &mut Dice) -> Checked {
        let scope = match dice.below(4) {
            0 => Scope::Stream(content::stream(dice)),
            1 => Scope::Prefix(["", "a", "u-", "acc"][dice.index(4)].to_owned()),
            _ => Scope::Prefix(["a-", "b", "u-1"][dice.index(3)].to_owned()),
        };
        let mut retention = Retention::new();
        if dice.chance(1, 2) {
            retention = retention.max_age(Duration::from_nanos(1 + dice.below(300_000)));
        }
        if dice.chance(1, 2) {
            retention = retention.max_count(1 + dice.below(40));
        }
        self.note(format!("retain {scope:?} {retention:?}"));
        let standing = self.plain.retentions().get(&scope).copied().unwrap_or_default();
        let said = (standing != retention).then(|| Said::Retain(scope.clone(), retention));
        let name = match self.store.set_retention(&scope, retention) {
            Ok(position) => self.written(said, position.map(annals::Position::get))?,
            Err(Error::NoSpace { .. }) if self.full_disk => "NoSpace",
            Err(error) => return Err(format!("set_retention: {error}")),
        };
        let told = self.store.retentions().into_iter().collect();
        same("retentions", &self.plain.retentions(), &told)?;
        self.tally.count("retain", name);
        Ok(())
    }

    pub(super) fn sweep(&mut self) -> Checked {
        let cuts = self.plain.plan_sweep(self.clock.get());
        self.note(format!("sweep {cuts:?}"));
        same("plan_sweep", &worked("plan_sweep", self.store.plan_sweep())?, &cuts)?;
        let name = match self.store.sweep() {
            Ok(swept) => {
                same("sweep", &swept.cuts, &cuts)?;
                let said = (!cuts.is_empty()).then_some(Said::Sweep(cuts));
                match said {
                    Some(_) => self.written(said, swept.position.map(annals::Position::get))?,
                    None => "nothing",
                }
            }
            Err(Error::NoSpace { .. }) if self.full_disk => "NoSpace",
            Err(error) => return Err(format!("sweep: {error}")),
        };
        self.tally.count("sweep", name);
        Ok(())
    }
}
