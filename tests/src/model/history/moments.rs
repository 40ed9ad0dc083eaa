//! The store as it was: views of a moment, and stores made from one.

use std::sync::Arc;

use annals::backup::{BackupOptions, RestoreOptions, restore_in};
use annals::storage::Memory;
use annals::{AsOf, Error, ForkOptions, Lookup, Reader, Seek, Sharing, View};

use super::super::ask::Ask;
use super::super::content::{self, Recorded};
use super::super::states::States;
use super::{Checked, History, check_sound, ensure, options, same, worked};
use crate::sim_disk::Dice;

/// A part of the log and what it is seen through: whole batches up to `last`, and every removal up to `removals`.
#[derive(Clone, Copy, Debug)]
struct Moment {
    last: u64,
    removals: u64,
}

impl History {
    /// A moment at or before `head`, and the last position of the whole batches up to it.
    pub(super) fn moment(&self, dice: &mut Dice, head: u64) -> (AsOf, u64) {
        if dice.chance(1, 8) {
            return (AsOf::Head, head);
        }
        let position = dice.below(head + 1);
        if dice.chance(1, 2) {
            let batch = self.plain.batch_of(position);
            let ends = batch.map_or(position, |(first, len)| first + u64::from(len) - 1);
            let before = batch.map_or(0, |(first, _)| first - 1);
            return (AsOf::Position(position), if ends == position { position } else { before });
        }
        let time = (self.plain.time_at(position) + dice.below(3)).saturating_sub(1);
        let last = (1..=head).take_while(|at| self.plain.time_at(*at) <= time).last().unwrap_or(0);
        (AsOf::Time(time), last)
    }

    /// Whether a reader shows what stood at a moment, through every path.
    fn check_moment(&self, what: &str, reader: &Reader, states: &States, moment: Moment, dice: &mut Dice) -> Checked {
        let Moment { last, removals } = moment;
        self.check_states(reader, states, last, removals).map_err(|wrong| format!("{what}, {moment:?}: {wrong}"))?;
        let shown: Vec<u64> = self.plain.shown_within(last, removals).map(|event| event.position).collect();
        for ask in [Ask(None), Ask::random(dice), Ask::narrow(dice)] {
            let matches = |at: &u64| self.plain.at(*at).is_some_and(|event| ask.matches(&event.content));
            let wanted: Vec<u64> = shown.iter().copied().filter(matches).collect();
            let back: Vec<u64> = wanted.iter().rev().copied().collect();
            let query = ask.query();
            self.compare_events(what, worked(what, reader.read_all(&query, Seek::Beginning))?, &wanted)?;
            self.compare_events(what, worked(what, reader.read_all_back(&query, Seek::End))?, &back)?;
            same(what, &worked(what, reader.count(&query))?, &(wanted.len() as u64))?;
            let newest = worked(what, reader.last(&query))?.map(|event| event.position().get());
            same(what, &newest, &wanted.last().copied())?;
        }
        let stream = content::stream(dice);
        let is_its = |at: &u64| self.plain.at(*at).is_some_and(|event| event.content.stream == stream);
        let wanted: Vec<u64> = shown.iter().copied().filter(is_its).collect();
        self.compare_events(what, worked(what, reader.read_stream(&stream, Seek::Beginning))?, &wanted)?;
        let back: Vec<u64> = wanted.iter().rev().copied().collect();
        self.compare_events(what, worked(what, reader.read_stream_back(&stream, Seek::End))?, &back)?;
        for _ in 0..4 {
            let Some(event) = self.plain.at(1 + dice.below(self.plain.head().max(1))) else { continue };
            let found = worked(what, reader.by_id(event.id))?;
            let wanted = self.plain.by_id_within(event.id, last, removals);
            let is_right = match (&found, &wanted) {
                (Lookup::Found(event), Some((wanted, None))) => Recorded::of(event.as_event_ref()) == **wanted,
                (Lookup::Removed { at, why }, Some((wanted, Some(reason)))) => {
                    (at.get(), *why) == (wanted.position, *reason)
                }
                (Lookup::NotFound, None) => true,
                _ => false,
            };
            ensure(is_right, || format!("{what}, {moment:?}: by_id {}: {found:?}, the model: {wanted:?}", event.id))?;
        }
        Ok(())
    }

    pub(super) fn as_of(&mut self, dice: &mut Dice) -> Checked {
        let head = self.head(View::Written)?;
        let (moment, last) = self.moment(dice, head);
        self.note(format!("as of {moment:?}"));
        let reader = worked("as_of", self.store.reader_in(View::Written).as_of(moment))?;
        same("head as of", &reader.head(), &last)?;
        self.check_moment("as of", &reader, &self.states, Moment { last, removals: head }, dice)?;
        self.tally.count("as of", "looked at");
        Ok(())
    }

    /// Opens what was made from the store as of a moment.
    fn check_made(
        &self,
        what: &str,
        made: &Memory,
        head: u64,
        states: &States,
        moment: Moment,
        dice: &mut Dice,
    ) -> Checked {
        let opened = options(self.manner, &self.clock).open_storage(Arc::new(made.clone()));
        let opened = worked(what, opened)?;
        same(what, &opened.head(), &head)?;
        self.check_moment(what, &opened.reader(), &states.of_a_made_store(), moment, dice)?;
        worked(what, opened.close())?;
        check_sound(what, made)
    }

    pub(super) fn fork(&mut self, dice: &mut Dice) -> Checked {
        let head = self.head(View::Written)?;
        let (moment, last) = self.moment(dice, head);
        self.note(format!("fork as of {moment:?}"));
        let made = Memory::new();
        let sharing = [Sharing::Any, Sharing::Copy][dice.index(2)];
        let report = self.store.fork_to_storage(&made, &ForkOptions::new().as_of(moment).sharing(sharing));
        let report = match report {
            Err(Error::NoSpace { .. }) if self.full_disk => return Ok(()),
            other => worked("fork", other)?,
        };
        self.durable = head;
        same("head of the fork", &report.head, &(last + report.carried_removals))?;
        let moment = Moment { last, removals: head };
        self.check_made("fork", &made, report.head, &self.states, moment, dice)?;
        self.tally.count("fork", if report.carried_removals > 0 { "of before a removal" } else { "made" });
        Ok(())
    }

    pub(super) fn backup(&mut self) -> Checked {
        let head = self.head(View::Written)?;
        self.note("backup".to_owned());
        let report = match self.store.backup_to_storage(&self.backup, &BackupOptions::new()) {
            Err(Error::NoSpace { .. }) if self.full_disk => return Ok(()),
            other => worked("backup", other)?,
        };
        self.durable = head;
        same("head of the backup", &report.head, &head)?;
        if !report.unchanged {
            self.points.push((report.point, head, self.states.clone()));
        }
        self.tally.count("backup", if report.unchanged { "unchanged" } else { "a point" });
        Ok(())
    }

    /// Any point of the chain, as of any moment of it.
    pub(super) fn restore(&mut self, dice: &mut Dice) -> Checked {
        let chosen = dice.index(self.points.len().max(1));
        let Some((point, head, states)) = self.points.get(chosen).cloned() else { return Ok(()) };
        let (moment, last) = self.moment(dice, head);
        self.note(format!("restore of point {point} until {moment:?}"));
        let made = Memory::new();
        let report = restore_in(&self.backup, &made, &RestoreOptions::new().point(point).until(moment));
        let report = worked("restore", report)?;
        same("head of the restored", &report.head, &(last + report.carried_removals))?;
        self.check_made("restore", &made, report.head, &states, Moment { last, removals: head }, dice)?;
        self.tally.count("restore", if report.carried_removals > 0 { "of before a removal" } else { "made" });
        Ok(())
    }
}
