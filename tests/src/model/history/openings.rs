//! Closing, killing, opening again, and opening beside.

use std::sync::Arc;

use annals::{Error, Expect, NewEvent, Position, View};

use super::super::ask::Ask;
use super::super::content::Content;
use super::super::plain::{Attempt, Verdict};
use super::{Checked, History, check_sound, ensure, options, same, worked};
use crate::sim_disk::{Dice, FaultKind, Repeat, SimDisk};

impl History {
    /// Opens the store on `disk`; everything written to it before was kept.
    fn open_again(&mut self, disk: SimDisk, kind: &'static str, clean: bool) -> Checked {
        self.disk = disk;
        let opened = options(self.manner, &self.clock).open_storage(Arc::new(self.disk.clone()));
        self.store = worked(kind, opened)?;
        self.folds.clear();
        self.segments = self.store.stats().segments;
        self.reopens += 1;
        let report = self.store.recovery_report();
        same("clean", &report.clean, &clean)?;
        ensure(!report.created, || "the store was created anew".to_owned())?;
        // Opening makes durable what it shows.
        self.durable = self.plain.head();
        self.consuming.all_safe();
        self.head(View::Durable)?;
        self.tally.count(kind, "opened");
        self.check_everything()
    }

    /// Nothing may hold the store but the history itself.
    fn let_go(&mut self) {
        self.free_the_disk();
        self.tickets.clear();
        self.close_consumer();
        self.watchers.end_of_process();
    }

    pub(super) fn reopen_clean(&mut self) -> Checked {
        self.note("reopen clean".to_owned());
        self.let_go();
        let closed = self.store.clone();
        worked("close", self.store.clone().close())?;
        check_sound("verify", &self.disk)?;
        let refused = closed.append("a", Expect::Any, &[NewEvent::new("T", b"")]);
        ensure(matches!(refused, Err(Error::Poisoned { .. })), || format!("a closed store answers {refused:?}"))?;
        self.tally.count("append to a closed one", "Poisoned");
        self.open_again(self.disk.clone(), "reopen clean", true)
    }

    pub(super) fn reopen_dropped(&mut self) -> Checked {
        self.note("reopen dropped".to_owned());
        self.let_go();
        // The handle is replaced by one of another store, so that dropping it closes.
        let elsewhere = worked("another store", annals::Store::in_memory())?;
        drop(std::mem::replace(&mut self.store, elsewhere));
        self.open_again(self.disk.clone(), "reopen dropped", true)
    }

    pub(super) fn reopen_killed(&mut self) -> Checked {
        self.note("reopen killed".to_owned());
        self.free_the_disk();
        let killed = self.disk.after_kill();
        self.let_go();
        self.watchers.end_of_machine();
        self.open_again(killed, "reopen killed", false)
    }

    /// A sync fails under an append, and the process is killed after it: what was not durable may be gone.
    pub(super) fn reopen_after_a_failed_sync(&mut self, dice: &mut Dice) -> Checked {
        self.note("a sync fails".to_owned());
        self.let_go();
        let durable = self.head(View::Durable)?;
        let content = Content::random(dice, "a".to_owned(), 30);
        let id = annals::EventId::from(u128::MAX - u128::from(dice.next()));
        let durability = Some(annals::Durability::Durable);
        let attempt = Attempt { events: vec![(content, Some(id))], durability, as_batch: true, ..Attempt::default() };
        if self.plain.judge(&attempt) != Verdict::Commit {
            return Ok(());
        }
        self.disk.fail_at(self.disk.steps(), FaultKind::SyncFail, Repeat::Forever);
        let outcome = attempt.with_batch(|batch| self.store.commit(batch));
        let was_full = matches!(outcome, Err(Error::NoSpace { .. } | Error::Io { .. } | Error::Poisoned { .. }));
        if !was_full {
            match &outcome {
                Err(Error::OutcomeUnknown { ids, .. }) => same("ids of the unknown", ids, &vec![id])?,
                other => return Err(format!("a failed sync answers {other:?}")),
            }
            self.tally.count("append with a failed sync", "OutcomeUnknown");
            let again = attempt.with_batch(|batch| self.store.commit(batch));
            ensure(matches!(again, Err(Error::Poisoned { .. })), || format!("a poisoned store answers {again:?}"))?;
            same(
                "the written view falls back",
                &self.store.reader_in(View::Written).head(),
                &self.store.reader_in(View::Durable).head(),
            )?;
        }
        let shown = self.store.reader_in(View::Durable).head();
        ensure(shown >= durable, || format!("the durable head fell from {durable} to {shown}"))?;
        // The same machine goes on: its cache shows pages that never came to the disk.
        self.disk.clear_faults();
        let recorded_at = self.time.max(self.clock.get());
        let killed = self.disk.after_kill();
        let opened = options(self.manner, &self.clock).open_storage(Arc::new(killed.clone()));
        self.store = worked("reopen after a failed sync", opened)?;
        self.folds.clear();
        self.watchers.end_of_machine();
        self.disk = killed;
        self.segments = self.store.stats().segments;
        self.reopens += 1;
        self.tally.count("reopen after a failed sync", "opened");
        // What was in flight may be there, whole, or not.
        let head = self.store.reader_in(View::Written).head();
        if head > self.plain.head() {
            self.plain.commit(&attempt, &[id], recorded_at);
            self.time = recorded_at;
        }
        ensure(head >= shown && head <= self.plain.head(), || format!("{head} events after a failed sync at {shown}"))?;
        self.check_border(head)?;
        if head < self.plain.head() {
            self.plain.cut(head);
            self.states.cut(head);
            self.watchers.cut(head);
            self.consuming.cut(head);
            self.time = self.plain.time_at(head);
        }
        self.durable = head;
        self.settle_consumer(dice)?;
        self.consuming.all_safe();
        self.check_everything()
    }

    pub(super) fn read_only(&mut self) -> Checked {
        self.note("read-only".to_owned());
        let before = self.head(View::Durable)?;
        let opened = options(self.manner, &self.clock).open_read_only_storage(Arc::new(self.disk.clone()));
        let opened = worked("open read-only", opened)?;
        let reader = opened.reader_in(View::Written);
        self.check_reader(&reader, self.plain.head())?;
        self.check_states(&reader, &self.states, self.plain.head(), self.plain.head())?;
        let durable = opened.reader_in(View::Durable);
        let head = durable.head();
        let exact = !self.manner.background;
        ensure(head >= before && head <= self.plain.head() && (!exact || head == before), || {
            format!("read-only shows {head} as durable, the writer {before}")
        })?;
        self.check_border(head)?;
        self.check_reader(&durable, head)?;
        if let Some(position) = Position::new(head) {
            let found = worked("at", durable.at(position))?;
            let wanted = self.plain.at(head).filter(|event| self.plain.is_shown(event, head));
            let found = found.map(|event| event.position().get());
            same("the last durable event", &found, &wanted.map(|event| event.position))?;
        }
        let ask = Ask(None).query();
        let all = self.plain.read_all(&Ask(None), annals::Seek::Beginning, false, self.plain.head());
        let all = all.expect("nowhere ahead").len() as u64;
        same("count", &worked("count", reader.count(&ask))?, &all)?;
        self.tally.count("read-only", "opened");
        Ok(())
    }

    pub(super) fn second_writer(&mut self) -> Checked {
        let second = options(self.manner, &self.clock).open_storage(Arc::new(self.disk.clone()));
        ensure(matches!(second, Err(Error::Locked { .. })), || {
            format!("a second writer: {:?}", second.map(|_| "opened"))
        })?;
        self.tally.count("second writer", "Locked");
        Ok(())
    }
}
