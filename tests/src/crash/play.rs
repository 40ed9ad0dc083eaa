//! Plays a script on a simulated disk until it ends or the machine is off, and keeps the truth.

use std::sync::Arc;

use annals::storage::Storage;
use annals::{
    Batch, CompactionOptions, Durability, Error, Expect, LiveSegment, NewEvent, Options, Receipt, Revision, Store,
    Ticket, View,
};

use super::{Lot, Script, Step, Truth, Verdict};
use crate::ensure;
use crate::sim_disk::SimDisk;

/// How a script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All steps done and the store closed.
    Closed,
    /// The disk failed while the store was being opened.
    Opening,
    /// The disk failed later.
    Running,
}

/// Opens the store, and checks what the opening says against the truth.
///
/// `None` if the disk failed meanwhile.
///
/// # Errors
/// What is wrong.
pub fn open(disk: &SimDisk, truth: &mut Truth, options: &Options) -> Verdict<Option<Store>> {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    open_on(&storage, disk, truth, options)
}

fn open_on(storage: &Arc<dyn Storage>, disk: &SimDisk, truth: &mut Truth, options: &Options) -> Verdict<Option<Store>> {
    let faults_before = disk.faults_hit();
    let store = match options.clone().open_storage(storage.clone()) {
        Ok(store) => store,
        Err(_) if disk.cut().is_some() || disk.faults_hit() > faults_before => return Ok(None),
        Err(error) => return Err(format!("opening failed: {error}\n{truth:?}")),
    };
    let (written, durable) = (store.reader_in(View::Written).head(), store.reader_in(View::Durable).head());
    ensure!(written == durable, "opening shows {written} as written and {durable} as durable");
    truth.settle(written)?;
    Ok(Some(store))
}

/// Opens the store, does what the script says, closes it; stops when the machine goes off or the log fails.
///
/// # Errors
/// What is wrong.
pub fn play(disk: &SimDisk, truth: &mut Truth, script: &Script, options: &Options) -> Verdict<Ended> {
    play_on(&Arc::new(disk.clone()), disk, truth, script, options)
}

/// As [`play`], through a storage that leads to `disk`.
///
/// # Errors
/// What is wrong.
pub fn play_on<S: Storage + 'static>(
    storage: &Arc<S>,
    disk: &SimDisk,
    truth: &mut Truth,
    script: &Script,
    options: &Options,
) -> Verdict<Ended> {
    let storage: Arc<dyn Storage> = storage.clone();
    let Some(store) = open_on(&storage, disk, truth, options)? else { return Ok(Ended::Opening) };
    let mut run = Run { disk, storage, truth, options, store: Some(store), tickets: Vec::new(), ended: None };
    for (number, step) in script.steps.iter().enumerate() {
        run.step(step).map_err(|text| format!("step {number}: {text}"))?;
        run.look().map_err(|text| format!("after step {number}: {text}"))?;
        if run.ended.is_none() && disk.cut().is_some() {
            run.ended = Some(Ended::Running);
        }
        if let Some(ended) = run.ended {
            return Ok(ended);
        }
    }
    run.close()?;
    Ok(run.ended.unwrap_or(Ended::Closed))
}

struct Run<'a> {
    disk: &'a SimDisk,
    storage: Arc<dyn Storage>,
    truth: &'a mut Truth,
    options: &'a Options,
    store: Option<Store>,
    tickets: Vec<(usize, Ticket)>,
    ended: Option<Ended>,
}

impl Run<'_> {
    fn store(&self) -> Store {
        self.store.clone().expect("a store is open while steps are done")
    }

    /// What the store shows as durable is a promise too, whether anybody waited for it or not.
    fn look(&mut self) -> Verdict {
        let Some(store) = &self.store else { return Ok(()) };
        self.truth.shown_durable(store.reader_in(View::Durable).head())
    }

    fn step(&mut self, step: &Step) -> Verdict {
        let store = self.store();
        match step {
            Step::Append(lot, durability) => self.append(&store, lot, *durability),
            Step::Submit(lot, durability) => self.submit(&store, lot, *durability),
            Step::WaitAll => self.wait_all(),
            Step::Sync => self.sync(&store),
            Step::Retry(choice) => self.retry(&store, *choice),
            Step::RetryLost(choice) => self.retry_lost(&store, *choice),
            Step::Refused(choice) => self.refused(&store, *choice),
            Step::Compact(live) => self.compact(&store, *live),
            Step::Reopen => {
                drop(store);
                self.reopen()
            }
        }
    }

    /// Changes nothing that the truth knows of.
    fn compact(&mut self, store: &Store, live: LiveSegment) -> Verdict {
        match store.compact(&CompactionOptions::new().level(1).block_bytes(4096).live_segment(live)) {
            Ok(_) => Ok(()),
            Err(error) => self.excuse(&error),
        }
    }

    fn append(&mut self, store: &Store, lot: &Arc<Lot>, durability: Durability) -> Verdict {
        let index = self.truth.hand_in(lot);
        match lot.append(store, durability) {
            Ok(receipt) => self.acknowledged(store, index, &receipt, false),
            Err(error) => self.failed(&error),
        }
    }

    fn submit(&mut self, store: &Store, lot: &Arc<Lot>, durability: Durability) -> Verdict {
        let index = self.truth.hand_in(lot);
        match lot.submit(store, durability) {
            Ok(ticket) => {
                self.tickets.push((index, ticket));
                Ok(())
            }
            Err(error) => self.failed(&error),
        }
    }

    fn acknowledged(&mut self, store: &Store, index: usize, receipt: &Receipt, again: bool) -> Verdict {
        if self.disk.cut().is_some() {
            // The machine went off meanwhile: nobody got this answer.
            self.ended = Some(Ended::Running);
            return Ok(());
        }
        let is_retry = receipt.already_committed();
        ensure!(is_retry == again, "already committed: {is_retry}, expected {again} (entry {index})");
        self.truth.acknowledge(index, receipt)?;
        let shown = store.reader_in(View::Written).head();
        let position = receipt.position();
        ensure!(shown >= position.get(), "{position} was acknowledged, readers see no more than {shown}");
        Ok(())
    }

    fn is_excused(&self) -> bool {
        self.disk.cut().is_some() || self.disk.faults_hit() > 0
    }

    /// An append failed: only a failing disk excuses that.
    fn failed(&mut self, error: &Error) -> Verdict {
        match error {
            Error::OutcomeUnknown { .. } => {}
            Error::NoSpace { .. } | Error::Io { .. } | Error::Poisoned { .. } => self.truth.take_back(),
            other => return Err(format!("an append was answered with: {other}")),
        }
        self.excuse(error)
    }

    /// Something failed: the machine is off, or the log failed for good, or nothing was written and all goes on.
    fn excuse(&mut self, error: &Error) -> Verdict {
        ensure!(self.is_excused(), "{error}");
        if self.disk.cut().is_some() {
            self.ended = Some(Ended::Running);
            return Ok(());
        }
        match error {
            Error::NoSpace { .. } | Error::Io { .. } => Ok(()),
            Error::OutcomeUnknown { .. } | Error::Poisoned { .. } => self.stopped_for_good(),
            other => Err(format!("a failing disk was answered with: {other}")),
        }
    }

    /// A poisoned store says so, and goes on showing what is durable.
    fn stopped_for_good(&mut self) -> Verdict {
        self.ended = Some(Ended::Running);
        let store = self.store();
        let steps = self.disk.steps();
        let again = store.append("after", Expect::Any, &[NewEvent::new("After", b"a failure")]);
        ensure!(matches!(again, Err(Error::Poisoned { .. })), "after a failure an append was answered with {again:?}");
        ensure!(self.disk.steps() == steps, "a poisoned store still works on the disk");
        let (durable, written) = (store.reader_in(View::Durable), store.reader_in(View::Written));
        ensure!(durable.head() == written.head(), "a poisoned store shows what is not durable");
        self.truth.shown_durable(durable.head())?;
        let mut shown = self.truth.clone();
        shown.entries.retain(|entry| entry.last() <= durable.head());
        // With a disk that fails for ever, what has to be read from it cannot be judged.
        if !self.truth.reads_memory {
            return Ok(());
        }
        match super::judge_reader(&durable, &shown) {
            // A sealed segment that nobody came to since the store was opened has to be opened first: an error is right.
            Err(text) if text.contains("open segment-") && text.contains("(os error 5)") => Ok(()),
            verdict => verdict,
        }
    }

    fn wait_all(&mut self) -> Verdict {
        let store = self.store();
        for (index, ticket) in std::mem::take(&mut self.tickets) {
            match ticket.wait() {
                Ok(receipt) => self.acknowledged(&store, index, &receipt, false)?,
                Err(error @ Error::OutcomeUnknown { .. }) => self.excuse(&error)?,
                Err(error) => return Err(format!("a ticket was answered with: {error}")),
            }
        }
        Ok(())
    }

    fn sync(&mut self, store: &Store) -> Verdict {
        match store.sync() {
            Ok(head) => {
                let end = self.truth.end();
                ensure!(head == end, "sync answers {head}, the log ends at {end}");
                self.truth.shown_durable(head)
            }
            Err(error) => self.excuse(&error),
        }
    }

    fn retry(&mut self, store: &Store, choice: u64) -> Verdict {
        let known: Vec<usize> =
            (0..self.truth.entries.len()).filter(|index| self.truth.entries[*index].lot.has_ids()).collect();
        if known.is_empty() {
            return Ok(());
        }
        let index = known[(choice % known.len() as u64) as usize];
        let durability = if choice & 64 == 0 { Durability::Durable } else { Durability::Buffered };
        let lot = Arc::clone(&self.truth.entries[index].lot);
        match lot.append(store, durability) {
            Ok(receipt) => self.acknowledged(store, index, &receipt, true),
            // Nothing is in flight that was not before.
            Err(error) => self.excuse(&error).map_err(|text| format!("a retry: {text}")),
        }
    }

    fn retry_lost(&mut self, store: &Store, choice: u64) -> Verdict {
        if self.truth.lost.is_empty() {
            return Ok(());
        }
        let index = (choice % self.truth.lost.len() as u64) as usize;
        let lot = self.truth.lost.swap_remove(index);
        self.append(store, &lot, Durability::Durable)
    }

    fn refused(&mut self, store: &Store, choice: u64) -> Verdict {
        let Some(entry) = self.truth.entries.first() else { return Ok(()) };
        let stream = entry.lot.drafts[0].stream.clone();
        let expect = match choice % 3 {
            0 => Expect::NoStream,
            1 => Expect::At(Revision::new(1_000_000).expect("not zero")),
            _ if self.truth.streams()[&stream].deleted > 0 => return Ok(()),
            _ => Expect::Deleted,
        };
        let batch = Batch::new().expect(&stream, expect).event(&stream, NewEvent::new("Refused", b"refused"));
        match store.commit(&batch) {
            Err(Error::Conflict(_)) => Ok(()),
            Err(error) => self.excuse(&error).map_err(|text| format!("{expect:?} of a stream with events: {text}")),
            Ok(receipt) => Err(format!("{expect:?} of a stream with events was answered with {receipt:?}")),
        }
    }

    fn close(&mut self) -> Verdict {
        self.tickets.clear();
        let Some(store) = self.store.take() else { return Ok(()) };
        let reader = store.reader_in(View::Durable);
        let closed = store.close();
        self.truth.shown_durable(reader.head())?;
        match closed {
            Ok(()) => self.truth.shown_durable(self.truth.end()),
            Err(_) if self.is_excused() => {
                self.ended = Some(Ended::Running);
                Ok(())
            }
            Err(error) => Err(format!("close: {error}")),
        }
    }

    fn reopen(&mut self) -> Verdict {
        self.close()?;
        if self.ended.is_some() {
            return Ok(());
        }
        let end = self.truth.end();
        let faults_before = self.disk.faults_hit();
        match open_on(&self.storage, self.disk, self.truth, self.options)? {
            Some(store) => {
                let report = store.recovery_report();
                let excused = self.disk.faults_hit() > faults_before;
                ensure!(report.clean || excused, "a clean close was found unclean: {report:?}");
                ensure!(self.truth.end() == end, "a clean close kept {} of {end}", self.truth.end());
                self.store = Some(store);
            }
            None => self.ended = Some(Ended::Opening),
        }
        Ok(())
    }
}
