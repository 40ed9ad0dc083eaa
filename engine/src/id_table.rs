//! Memory of every event id: which position may hold it. Exact, for ever; a hash match is confirmed in the log by the
//! caller.
//!
//! One word a slot: upper 24 bits of the hash, 40 bits of position; open addressing. A table that is full is kept as it
//! is, and a larger one is begun: nothing is ever moved, so that no append waits for a table to grow. A look-up goes
//! through all of them, a handful for any number of ids; their memory is asked for together.
//!
//! One writer, under its lock; any number of readers, without one: a reader that loaded the head first (acquire) finds
//! every id up to it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::prefetch::prefetch;
use crate::storage::SharedMap;

const POSITION_BITS: u32 = 40;
const POSITION_MASK: u64 = (1 << POSITION_BITS) - 1;
const FIRST_SLOTS: usize = 1 << 12;
/// Up to here a table is eight times as large as the one before, beyond twice: small stores stay small, large ones have
/// few tables.
const EIGHTFOLD_UP_TO: usize = 1 << 21;
/// From here on the next table is made in the background: it takes long to be given so much memory.
const AHEAD_FROM: usize = 1 << 18;
const TABLES_MAX: usize = 32;

#[derive(Debug)]
struct Table {
    memory: SharedMap,
    used: AtomicUsize,
}

impl Table {
    fn new(slot_count: usize) -> Self {
        Self { memory: SharedMap::zeroed_words(slot_count), used: AtomicUsize::new(0) }
    }

    #[inline]
    fn slots(&self) -> &[AtomicU64] {
        self.memory.as_words()
    }

    /// Brings all its memory in.
    fn touch(&self) {
        for page in self.slots().chunks(512) {
            page[0].store(0, Ordering::Relaxed);
        }
    }

    #[inline]
    fn insert(&self, hash: u64, position: u64) {
        let slots = self.slots();
        let mask = slots.len() - 1;
        let mut index = hash as usize & mask;
        while slots[index].load(Ordering::Relaxed) != 0 {
            index = (index + 1) & mask;
        }
        slots[index].store(tag(hash) | position, Ordering::Relaxed);
        self.used.store(self.used.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    #[inline]
    fn find(&self, hash: u64, each: &mut impl FnMut(u64)) {
        let slots = self.slots();
        let mask = slots.len() - 1;
        let mut index = hash as usize & mask;
        loop {
            let slot = slots[index].load(Ordering::Relaxed);
            if slot == 0 {
                return;
            }
            if slot & !POSITION_MASK == tag(hash) {
                each(slot & POSITION_MASK);
            }
            index = (index + 1) & mask;
        }
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) * 3 >= self.slots().len() * 2
    }

    fn is_half_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) * 3 >= self.slots().len()
    }

    fn slots_of_next(&self) -> usize {
        let slots = self.slots().len();
        slots * if slots < EIGHTFOLD_UP_TO { 8 } else { 2 }
    }
}

#[inline]
const fn tag(hash: u64) -> u64 {
    hash & !POSITION_MASK
}

#[derive(Debug)]
pub(crate) struct IdTable {
    /// Newest last; only that one is added to.
    tables: [OnceLock<Table>; TABLES_MAX],
    count: AtomicUsize,
    spare: Mutex<Option<Table>>,
}

impl IdTable {
    pub(crate) fn new() -> Self {
        let table = Self {
            tables: [const { OnceLock::new() }; TABLES_MAX],
            count: AtomicUsize::new(0),
            spare: Mutex::new(None),
        };
        table.push(Table::new(FIRST_SLOTS));
        table
    }

    #[inline]
    fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables[..self.count.load(Ordering::Acquire)].iter().filter_map(OnceLock::get)
    }

    #[inline]
    fn newest(&self) -> &Table {
        let last = self.count.load(Ordering::Relaxed) - 1;
        self.tables[last].get().expect("a table that is counted is there")
    }

    /// Begins to load what [`IdTable::find`] and [`IdTable::insert`] will look at.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        for table in self.tables() {
            let slots = table.slots();
            prefetch(&slots[hash as usize & (slots.len() - 1)]);
        }
    }

    /// Begins to load what [`IdTable::insert`] will look at.
    #[inline]
    pub(crate) fn prefetch_newest(&self, hash: u64) {
        let slots = self.newest().slots();
        prefetch(&slots[hash as usize & (slots.len() - 1)]);
    }

    /// Calls `each` with every position whose id may have this hash: all that have it, and seldom one that has not.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut each: impl FnMut(u64)) {
        for table in self.tables() {
            table.find(hash, &mut each);
        }
    }

    /// Enters an id; only the writer does. `position` is below 2^40.
    #[inline]
    pub(crate) fn insert(&self, hash: u64, position: u64) {
        assert!(position <= POSITION_MASK, "a store holds fewer than 2^40 records");
        if self.newest().is_full() {
            self.begin_table();
        }
        self.newest().insert(hash, position);
    }

    #[cold]
    fn begin_table(&self) {
        let slots = self.newest().slots_of_next();
        let spare = self.spare.try_lock().and_then(|mut spare| spare.take());
        self.push(spare.unwrap_or_else(|| Table::new(slots)));
    }

    fn push(&self, table: Table) {
        let count = self.count.load(Ordering::Relaxed);
        self.tables[count].set(table).expect("only the writer adds tables");
        self.count.store(count + 1, Ordering::Release);
    }

    /// Makes the next table if it will be wanted soon; for a background thread. Costs two loads if not.
    pub(crate) fn make_ahead(&self) {
        let newest = self.newest();
        if newest.slots().len() < AHEAD_FROM || !newest.is_half_full() || self.spare.lock().is_some() {
            return;
        }
        let table = Table::new(newest.slots_of_next());
        table.touch();
        let mut spare = self.spare.lock();
        // The writer may have begun one meanwhile.
        if std::ptr::eq(newest, self.newest()) {
            *spare = Some(table);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        n.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (n << 17)
    }

    fn positions(table: &IdTable, hash: u64) -> Vec<u64> {
        let mut found = Vec::new();
        table.find(hash, |position| found.push(position));
        found.sort_unstable();
        found
    }

    #[test]
    fn finds_every_id_while_and_after_growing() {
        let table = IdTable::new();
        for n in 1..=300_000u64 {
            table.insert(hash(n), n);
            if n % 7 > 0 {
                continue;
            }
            for probe in [1, n / 2 + 1, n] {
                assert!(positions(&table, hash(probe)).contains(&probe), "id {probe} after {n}");
            }
        }
        assert!(table.tables().count() > 2);
    }

    #[test]
    fn a_table_made_ahead_is_the_next_one() {
        let table = IdTable::new();
        for n in 1..=600_000u64 {
            table.insert(hash(n), n);
            if n % 1000 == 0 {
                table.make_ahead();
            }
        }
        assert!(table.tables().all(|of| of.used.load(Ordering::Relaxed) > 0));
        for n in (1..=600_000).step_by(97) {
            assert!(positions(&table, hash(n)).contains(&n), "id {n}");
        }
    }

    #[test]
    fn equal_hashes_are_all_reported() {
        let table = IdTable::new();
        for position in 1..=3 {
            table.insert(7, position);
        }
        assert_eq!(positions(&table, 7), [1, 2, 3]);
    }
}
