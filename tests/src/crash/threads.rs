//! Several threads append to one store until the power is cut under them, with the store's own threads at work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use annals::{Durability, Event, Options, Query, Seek, Store, View};

use super::killed::{batch_of, batches_in, events_of};
use super::{Toll, Verdict};
use crate::ensure;
use crate::sim_disk::{Dice, SimDisk};

const THREADS: u64 = 3;
/// Each thread stops after so many batches if nothing stops it before.
const BATCHES: u64 = 60;

/// An acknowledged batch: where it begins and how it was acknowledged.
type Acknowledged = BTreeMap<u64, (u64, Durability)>;

/// One store, over several power cuts.
#[derive(Debug)]
pub struct Crowd {
    dice: Dice,
    options: Options,
    disk: SimDisk,
    acknowledged: Acknowledged,
    /// Position that was shown or promised as durable.
    durable: u64,
    next_key: u64,
}

impl Crowd {
    /// A new store.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::of(seed, 0x5448);
        let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
        let options = super::small(durability, annals::ReadMode::Mapped)
            .background(true)
            .sync_interval(Duration::from_millis(1 + dice.below(4)));
        Self { dice, options, disk: SimDisk::new(), acknowledged: BTreeMap::new(), durable: 0, next_key: seed << 32 }
    }

    /// Threads append until the power is cut; what is left is judged, and one of the states is gone on with.
    ///
    /// # Errors
    /// What is wrong.
    pub fn round(&mut self, toll: &mut Toll) -> Verdict {
        let store = self.open(&self.disk)?;
        // What was recovered is durable.
        self.durable = store.reader_in(View::Durable).head();
        self.disk.cut_in(self.dice.below(300));
        self.append(&store);
        let end = self.disk.steps();
        self.disk.cut_at(end);
        let promised = self.acknowledged.values().filter(|(_, durability)| *durability == Durability::Durable);
        self.durable = store.reader_in(View::Durable).head().max(promised.map(|(first, _)| *first).max().unwrap_or(0));
        drop(store);
        let killed = self.disk.after_kill();
        self.judge(&killed.after_kill(), 0, true).map_err(|text| format!("killed: {text}"))?;
        toll.count_kill();
        let chosen = self.dice.below(3);
        let mut next = killed;
        for number in 0..3 {
            let loss = self.dice.next();
            let lost = self.disk.after_power_loss(loss);
            self.judge(&lost.after_kill(), self.durable, false).map_err(|text| format!("loss {loss}: {text}"))?;
            toll.count(self.disk.cut(), false);
            if number == chosen {
                next = lost;
            }
        }
        let head = self.judge(&next.after_kill(), 0, false)?;
        self.disk = next;
        self.acknowledged.retain(|_, (first, _)| *first <= head);
        Ok(())
    }

    fn open(&self, disk: &SimDisk) -> Verdict<Store> {
        let storage = Arc::new(disk.clone());
        self.options.clone().open_storage(storage).map_err(|error| format!("opening: {error}"))
    }

    fn append(&mut self, store: &Store) {
        let acknowledged = Mutex::new(std::mem::take(&mut self.acknowledged));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (disk, acknowledged) = (&self.disk, &acknowledged);
                let mut dice = Dice::of(self.dice.next(), thread);
                let first_key = self.next_key + thread * BATCHES;
                scope.spawn(move || append_some(store, disk, acknowledged, first_key, &mut dice));
            }
        });
        self.next_key += THREADS * BATCHES;
        self.acknowledged = acknowledged.into_inner().unwrap_or_else(PoisonError::into_inner);
    }

    /// Opens what is left and compares; answers its head.
    fn judge(&self, disk: &SimDisk, floor: u64, is_kill: bool) -> Verdict<u64> {
        let store = self.open(disk)?;
        let head = store.reader_in(View::Durable).head();
        ensure!(head >= floor, "the log ends at {head}, {floor} was durable");
        let read = store.read_all(&Query::all(), Seek::Beginning).map_err(|error| error.to_string())?;
        let events: Result<Vec<Event>, _> = read.collect();
        let batches = batches_in(&events.map_err(|error| format!("reading: {error}"))?)?;
        for (key, (first, durability)) in &self.acknowledged {
            let must_be = is_kill || *first <= floor;
            let found = batches.get(key);
            let is_right = found == Some(first) || (found.is_none() && !must_be);
            ensure!(is_right, "batch {key}, {durability:?} at {first}, is at {found:?}");
        }
        Ok(head)
    }
}

fn append_some(store: &Store, disk: &SimDisk, acknowledged: &Mutex<Acknowledged>, first_key: u64, dice: &mut Dice) {
    for key in first_key..first_key + BATCHES {
        let events = events_of(key);
        let durability = if dice.chance(1, 3) { Durability::Durable } else { Durability::Buffered };
        let batch = batch_of(key, &events, durability);
        let answer =
            if dice.chance(1, 3) { store.submit(&batch).and_then(annals::Ticket::wait) } else { store.commit(&batch) };
        let Ok(receipt) = answer else { return };
        // An answer that came while the machine went off reached nobody.
        if disk.cut().is_some() {
            return;
        }
        let mut acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.insert(key, (receipt.first().position.get(), durability));
    }
}
