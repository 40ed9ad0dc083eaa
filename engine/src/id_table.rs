//! The writer's memory of every event id: which position may hold it. Exact, for ever; a hash match is confirmed in the
//! log by the caller.
//!
//! Two words a slot (hash, position), open addressing. Growing never stalls an append: a table of twice the size is
//! begun, and every insertion moves a few slots over until the old one is empty.

/// Slots moved per insertion. A table has its own number of insertions before it must grow again, so 8 is ample.
const MOVED_PER_INSERT: usize = 8;

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::MmapMut;

use crate::prefetch::prefetch;

/// Hash, position; a position of 0 says that the slot is free.
type Slot = [u64; 2];

#[derive(Debug)]
struct Table {
    memory: Memory,
    used: usize,
}

/// Zeroed slots. Large tables lie in huge pages where the system has them, for an append touches one slot anywhere.
#[derive(Debug)]
enum Memory {
    Mapped(MmapMut),
    Heap(Vec<Slot>),
}

impl Memory {
    fn new(slot_count: usize) -> Self {
        match MmapMut::map_anon(slot_count * size_of::<Slot>()) {
            Ok(map) => {
                #[cfg(target_os = "linux")]
                // Without huge pages everything works, a little slower.
                let _ = map.advise(Advice::HugePage);
                Self::Mapped(map)
            }
            Err(_) => Self::Heap(vec![[0; 2]; slot_count]),
        }
    }

    #[inline]
    fn slots(&self) -> &[Slot] {
        match self {
            Self::Mapped(map) => bytemuck::cast_slice(map),
            Self::Heap(slots) => slots,
        }
    }

    #[inline]
    fn slots_mut(&mut self) -> &mut [Slot] {
        match self {
            Self::Mapped(map) => bytemuck::cast_slice_mut(map),
            Self::Heap(slots) => slots,
        }
    }
}

impl Table {
    fn new(slot_count: usize) -> Self {
        Self { memory: Memory::new(slot_count), used: 0 }
    }

    #[inline]
    fn insert(&mut self, slot: Slot) {
        let slots = self.memory.slots_mut();
        let mask = slots.len() - 1;
        let mut index = slot[0] as usize & mask;
        while slots[index][1] != 0 {
            index = (index + 1) & mask;
        }
        slots[index] = slot;
        self.used += 1;
    }

    #[inline]
    fn find(&self, hash: u64, each: &mut impl FnMut(u64)) {
        let slots = self.memory.slots();
        let mask = slots.len() - 1;
        let mut index = hash as usize & mask;
        loop {
            let [found, position] = slots[index];
            if position == 0 {
                return;
            }
            if found == hash {
                each(position);
            }
            index = (index + 1) & mask;
        }
    }

    fn len(&self) -> usize {
        self.memory.slots().len()
    }

    fn is_crowded(&self) -> bool {
        self.used * 3 > self.len() * 2
    }

    #[inline]
    fn prefetch(&self, hash: u64) {
        let slots = self.memory.slots();
        prefetch(&slots[hash as usize & (slots.len() - 1)]);
    }
}

#[derive(Debug)]
pub(crate) struct IdTable {
    current: Table,
    /// The table that is being emptied, and the first slot that was not moved yet.
    draining: Option<(Table, usize)>,
}

impl IdTable {
    pub(crate) fn with_capacity(ids: usize) -> Self {
        Self { current: Table::new((ids.max(512) * 2).next_power_of_two()), draining: None }
    }

    /// Begins to load what [`IdTable::find`] and [`IdTable::insert`] will look at.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        self.current.prefetch(hash);
        if let Some((old, _)) = &self.draining {
            old.prefetch(hash);
        }
    }

    /// Calls `each` with every position whose id has this hash.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut each: impl FnMut(u64)) {
        self.current.find(hash, &mut each);
        if let Some((old, _)) = &self.draining {
            old.find(hash, &mut each);
        }
    }

    #[inline]
    pub(crate) fn insert(&mut self, hash: u64, position: u64) {
        if self.draining.is_some() {
            self.drain(MOVED_PER_INSERT);
        } else if self.current.is_crowded() {
            let grown = Table::new(self.current.len() * 2);
            self.draining = Some((std::mem::replace(&mut self.current, grown), 0));
        }
        self.current.insert([hash, position]);
    }

    /// Copies the next slots over. Slots stay in the old table, so that its probe sequences stay whole: an id is then
    /// found in both, which only repeats a confirmation.
    fn drain(&mut self, count: usize) {
        let Some((old, next)) = &mut self.draining else { return };
        let until = (*next + count).min(old.len());
        for slot in &old.memory.slots()[*next..until] {
            if slot[1] != 0 {
                self.current.insert(*slot);
            }
        }
        *next = until;
        if until == old.len() {
            self.draining = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_id_while_and_after_growing() {
        let mut table = IdTable::with_capacity(1);
        let hash = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 3;
        for n in 1..=50_000u64 {
            table.insert(hash(n), n);
            for probe in [1, n / 2 + 1, n] {
                let mut found = Vec::new();
                table.find(hash(probe), |position| found.push(position));
                assert!(found.contains(&probe), "id {probe} after {n}");
            }
            let mut absent = 0;
            table.find(hash(n + 1), |_| absent += 1);
            assert_eq!(absent, 0);
        }
    }

    #[test]
    fn equal_hashes_are_all_reported() {
        let mut table = IdTable::with_capacity(1);
        for position in 1..=3 {
            table.insert(7, position);
        }
        let mut found = Vec::new();
        table.find(7, |position| found.push(position));
        found.sort_unstable();
        assert_eq!(found, [1, 2, 3]);
    }
}
