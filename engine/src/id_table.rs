//! The writer's memory of every event id: which position may hold it. Exact, for ever; a hash match is confirmed in the
//! log by the caller.
//!
//! One word a slot: upper 24 bits of the hash, 40 bits of position; open addressing. A table that is full is kept as it
//! is, and a larger one is begun: nothing is ever moved, so that no append waits for a table to grow. A look-up goes
//! through all of them, a handful for any number of ids; their memory is asked for together.

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::MmapMut;

use crate::prefetch::prefetch;

const POSITION_BITS: u32 = 40;
const POSITION_MASK: u64 = (1 << POSITION_BITS) - 1;
const FIRST_SLOTS: usize = 1 << 12;
/// Up to here a table is eight times as large as the one before, beyond twice: small stores stay small, large ones have
/// few tables.
const EIGHTFOLD_UP_TO: usize = 1 << 21;
/// From here on a table lies in huge pages where the system has them.
const HUGE_FROM: usize = 1 << 18;

#[derive(Debug)]
struct Table {
    memory: MmapMut,
    used: usize,
}

impl Table {
    fn new(slot_count: usize) -> Self {
        // As when any other allocation fails, there is nothing left to do.
        let memory = MmapMut::map_anon(slot_count * size_of::<u64>()).expect("memory for the ids");
        #[cfg(target_os = "linux")]
        if slot_count >= HUGE_FROM {
            // Without huge pages everything works, a little slower.
            let _ = memory.advise(Advice::HugePage);
        }
        Self { memory, used: 0 }
    }

    #[inline]
    fn slots(&self) -> &[u64] {
        bytemuck::cast_slice(&self.memory)
    }

    #[inline]
    fn insert(&mut self, hash: u64, position: u64) {
        let slots: &mut [u64] = bytemuck::cast_slice_mut(&mut self.memory);
        let mask = slots.len() - 1;
        let mut index = hash as usize & mask;
        while slots[index] != 0 {
            index = (index + 1) & mask;
        }
        slots[index] = tag(hash) | position;
        self.used += 1;
    }

    #[inline]
    fn find(&self, hash: u64, each: &mut impl FnMut(u64)) {
        let slots = self.slots();
        let mask = slots.len() - 1;
        let mut index = hash as usize & mask;
        loop {
            let slot = slots[index];
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
        self.used * 3 >= self.slots().len() * 2
    }
}

#[inline]
const fn tag(hash: u64) -> u64 {
    hash & !POSITION_MASK
}

#[derive(Debug)]
pub(crate) struct IdTable {
    /// Newest last; only that one is added to.
    tables: Vec<Table>,
}

impl IdTable {
    pub(crate) fn new() -> Self {
        Self { tables: vec![Table::new(FIRST_SLOTS)] }
    }

    /// Begins to load what [`IdTable::find`] and [`IdTable::insert`] will look at.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        for table in &self.tables {
            let slots = table.slots();
            prefetch(&slots[hash as usize & (slots.len() - 1)]);
        }
    }

    /// Begins to load what [`IdTable::insert`] will look at.
    #[inline]
    pub(crate) fn prefetch_newest(&self, hash: u64) {
        if let Some(table) = self.tables.last() {
            let slots = table.slots();
            prefetch(&slots[hash as usize & (slots.len() - 1)]);
        }
    }

    /// Calls `each` with every position whose id may have this hash: all that have it, and seldom one that has not.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut each: impl FnMut(u64)) {
        for table in &self.tables {
            table.find(hash, &mut each);
        }
    }

    /// Enters an id. `position` is below 2^40.
    #[inline]
    pub(crate) fn insert(&mut self, hash: u64, position: u64) {
        assert!(position <= POSITION_MASK, "a store holds fewer than 2^40 records");
        if self.newest().is_full() {
            self.begin_table();
        }
        self.newest().insert(hash, position);
    }

    #[inline]
    fn newest(&mut self) -> &mut Table {
        self.tables.last_mut().expect("there is always one")
    }

    #[cold]
    fn begin_table(&mut self) {
        let slots = self.newest().slots().len();
        let factor = if slots < EIGHTFOLD_UP_TO { 8 } else { 2 };
        self.tables.push(Table::new(slots * factor));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_id_while_and_after_growing() {
        let mut table = IdTable::new();
        let hash = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (n << 17);
        for n in 1..=300_000u64 {
            table.insert(hash(n), n);
            if n % 7 > 0 {
                continue;
            }
            for probe in [1, n / 2 + 1, n] {
                let mut found = Vec::new();
                table.find(hash(probe), |position| found.push(position));
                assert!(found.contains(&probe), "id {probe} after {n}");
            }
        }
        assert!(table.tables.len() > 2);
    }

    #[test]
    fn equal_hashes_are_all_reported() {
        let mut table = IdTable::new();
        for position in 1..=3 {
            table.insert(7, position);
        }
        let mut found = Vec::new();
        table.find(7, |position| found.push(position));
        found.sort_unstable();
        assert_eq!(found, [1, 2, 3]);
    }
}
