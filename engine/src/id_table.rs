//! Memory of every event id: which position may hold it. Exact, for ever; a hash match is confirmed in the log by the
//! caller.
//!
//! The newest ids stand in a small table that stays in the processor's cache. When it is full they move on together, so
//! that the memory each of them goes to is waited for once and not a thousand times. Where they go, a table that is full
//! is kept as it is, and a larger one is begun: nothing is ever rehashed, so that no append waits for a table to grow.
//! Filters stand before them all, each for as many ids as several tables: nearly every look-up of an id that is not there
//! looks at one cache line of each of the one or two filters, and at nothing else.
//!
//! Ids leave the tables when their segment has an index file, and the filters when a tier holds them. In between a filter
//! says which of the segments need be asked, see [`IdTable::left`].
//!
//! One writer, under its lock; any number of readers, without one. A reader that loaded the head first (acquire) finds
//! every id up to it: it looks among the newest ids before the tables, and ids leave there after they have arrived here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::prefetch::prefetch;
use crate::storage::SharedMap;

const POSITION_BITS: u32 = 40;
const POSITION_MASK: u64 = (1 << POSITION_BITS) - 1;
/// The last position that a store can have: 2^40 - 1.
pub(crate) const LAST_POSITION: u64 = POSITION_MASK;
/// Slots for the newest ids, and how many of them are filled before they move on.
const NEWEST_SLOTS: usize = 1 << 12;
const NEWEST_MAX: usize = 1 << 10;
const FIRST_SLOTS: usize = 1 << 13;
/// A table is eight times as large as the one before up to this: small stores stay small, large ones have few tables, and
/// none is so large that it stays long after the files of the index hold most of its ids.
const LAST_SLOTS: usize = 1 << 18;
/// From here on the next table is made in the background: it takes long to be given so much memory.
const AHEAD_FROM: usize = 1 << 18;
/// Words of a filter. A word serves four ids: 16 bits an id, of which eight are set. The eight lie in four words side by
/// side, two in each: in one cache line, and yet of a full filter one absent id in 800 passes, where four bits in a single
/// word let one in 200 pass (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007).
const FILTER_WORDS: usize = 1 << 18;
const IDS_PER_WORD: usize = 4;
const WORDS_PER_ID: usize = 4;
/// So many tables stay in memory when the files of the index hold their ids.
const TABLES_KEPT: usize = 1;
/// How many ids ahead of the one that moves memory is asked for.
const AHEAD: usize = 12;

/// Open addressing; one word a slot: upper 24 bits of the hash, 40 bits of position.
#[derive(Debug)]
struct Slots {
    memory: SharedMap,
}

impl Slots {
    fn new(count: usize) -> Self {
        Self { memory: SharedMap::zeroed_words(count) }
    }

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        self.memory.as_words()
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.words().len() - 1)
    }

    #[inline]
    fn insert(&self, hash: u64, position: u64) {
        let words = self.words();
        let mut index = self.home(hash);
        while words[index].load(Ordering::Relaxed) != 0 {
            index = (index + 1) & (words.len() - 1);
        }
        // Release: who meets this id in a slot that was cleared for it sees where the one before has gone.
        words[index].store(tag(hash) | (position & POSITION_MASK), Ordering::Release);
    }

    #[inline]
    fn find(&self, hash: u64, each: &mut impl FnMut(u64)) {
        let words = self.words();
        let mut index = self.home(hash);
        loop {
            // Acquire: who meets a slot that was cleared sees where its id has gone.
            let slot = words[index].load(Ordering::Acquire);
            if slot == 0 {
                return;
            }
            if slot & !POSITION_MASK == tag(hash) {
                each(slot & POSITION_MASK);
            }
            index = (index + 1) & (words.len() - 1);
        }
    }
}

#[inline]
const fn tag(hash: u64) -> u64 {
    hash & !POSITION_MASK
}

/// Two bits of each of an id's words, chosen by bits of the hash that do not choose the words.
#[inline]
const fn filter_bits(hash: u64, word: usize) -> u64 {
    1 << (hash >> (16 + 12 * word) & 63) | 1 << (hash >> (22 + 12 * word) & 63)
}

const _: () = assert!(FILTER_WORDS / WORDS_PER_ID <= 1 << 16, "the lower 16 bits of a hash choose its words");

/// Says *absent* of nearly all ids that are not in it, and never of one that is.
#[derive(Debug)]
struct Filter {
    words: SharedMap,
    used: AtomicUsize,
    /// The least and the largest position of its ids.
    first_position: AtomicU64,
    last_position: AtomicU64,
}

impl Filter {
    fn new(words: usize) -> Self {
        let words = SharedMap::zeroed_words(words);
        let (first_position, last_position) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Self { words, used: AtomicUsize::new(0), first_position, last_position }
    }

    #[inline]
    fn words_of(&self, hash: u64) -> &[AtomicU64; WORDS_PER_ID] {
        let (lines, _) = self.words.as_words().as_chunks();
        &lines[hash as usize & (lines.len() - 1)]
    }

    #[inline]
    fn may_hold(&self, hash: u64) -> bool {
        // Acquire: who meets a bit sees the slot of its id among the newest.
        let is_set = |(word, bits): (&AtomicU64, u64)| word.load(Ordering::Acquire) & bits == bits;
        self.words_of(hash).iter().zip((0..WORDS_PER_ID).map(|word| filter_bits(hash, word))).all(is_set)
    }

    #[inline]
    fn insert(&self, hash: u64, position: u64) {
        // Before the bits: who meets them looks between these two.
        if position < self.first_position.load(Ordering::Relaxed) {
            self.first_position.store(position, Ordering::Relaxed);
        }
        raise(&self.last_position, position);
        for (index, word) in self.words_of(hash).iter().enumerate() {
            word.store(word.load(Ordering::Relaxed) | filter_bits(hash, index), Ordering::Release);
        }
        self.used.store(self.used.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn room(&self) -> usize {
        self.words.as_words().len() * IDS_PER_WORD
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.room()
    }

    fn is_half_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) * 2 >= self.room()
    }
}

#[derive(Debug)]
struct Table {
    slots: Slots,
    used: AtomicUsize,
    /// The largest position in it.
    last_position: AtomicU64,
}

impl Table {
    fn new(slot_count: usize) -> Self {
        Self { slots: Slots::new(slot_count), used: AtomicUsize::new(0), last_position: AtomicU64::new(0) }
    }

    #[inline]
    fn insert(&self, hash: u64, position: u64) {
        self.slots.insert(hash, position);
        self.used.store(self.used.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        raise(&self.last_position, position);
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) * 3 >= self.slots.words().len() * 2
    }

    fn is_half_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) * 3 >= self.slots.words().len()
    }

    fn slots_of_next(&self) -> usize {
        (self.slots.words().len() * 8).min(LAST_SLOTS)
    }
}

#[inline]
fn raise(largest: &AtomicU64, position: u64) {
    largest.store(position.max(largest.load(Ordering::Relaxed)), Ordering::Relaxed);
}

/// Where ids are looked for, beside the newest.
#[derive(Clone, Debug)]
struct Shelves {
    /// Only the last one of each is added to.
    filters: Vec<Arc<Filter>>,
    tables: Vec<Arc<Table>>,
}

impl Shelves {
    fn last_table(&self) -> &Arc<Table> {
        self.tables.last().expect("there is always one")
    }

    fn last_filter(&self) -> &Arc<Filter> {
        self.filters.last().expect("there is always one")
    }

    #[inline]
    fn may_hold(&self, hash: u64) -> bool {
        self.filters.iter().any(|filter| filter.may_hold(hash))
    }
}

#[derive(Debug, Default)]
struct Spare {
    table: Option<Table>,
    filter: Option<Filter>,
}

#[derive(Debug)]
pub(crate) struct IdTable {
    newest: Slots,
    shelves: ArcSwap<Shelves>,
    /// Ids of positions up to here may stand in a filter and in no table.
    left_up_to: AtomicU64,
    spare: Mutex<Spare>,
}

impl IdTable {
    /// Every position whose id may have this hash: all that have it, and seldom one that has not.
    pub(crate) fn candidates(&self, hash: u64) -> SmallVec<[u64; 4]> {
        let mut found = SmallVec::new();
        let shelves = self.shelves.load();
        if !shelves.may_hold(hash) {
            return found;
        }
        // Looked through before the tables are taken: an id leaves there after it has arrived in one of these.
        self.newest.find(hash, &mut |position| found.push(position));
        for table in &self.shelves.load().tables {
            table.slots.find(hash, &mut |position| found.push(position));
        }
        found
    }

    /// Positions, first to last, between which ids have left the tables and may have this hash: the index files of the
    /// segments there are to be asked, if no tier is. To be called after [`IdTable::candidates`]: an id that was not met
    /// there any more is met here.
    pub(crate) fn left(&self, hash: u64) -> SmallVec<[(u64, u64); 2]> {
        let up_to = self.left_up_to.load(Ordering::Acquire);
        let mut found = SmallVec::new();
        if up_to == 0 {
            return found;
        }
        for filter in self.shelves.load().filters.iter().filter(|filter| filter.may_hold(hash)) {
            let first = filter.first_position.load(Ordering::Relaxed);
            let last = filter.last_position.load(Ordering::Relaxed).min(up_to);
            if first <= last {
                found.push((first, last));
            }
        }
        found
    }

    /// Ids of positions up to here have left the tables, or soon will. The writer's alone to say.
    fn raise_left(&self, position: u64) {
        if position > self.left_up_to.load(Ordering::Relaxed) {
            self.left_up_to.store(position, Ordering::Release);
        }
    }

    /// Makes the next table and the next filter if they will be wanted soon; for a background thread. Costs little if not.
    pub(crate) fn make_ahead(&self) {
        // The writer makes its own where this one is at it still, and so does nobody else meanwhile.
        let Some(mut spare) = self.spare.try_lock() else { return };
        let shelves = self.shelves.load_full();
        let (table, filter) = (shelves.last_table(), shelves.last_filter());
        if table.slots.words().len() >= AHEAD_FROM && table.is_half_full() && spare.table.is_none() {
            let next = Table::new(table.slots_of_next());
            next.slots.memory.bring_in(usize::MAX);
            // The writer may have begun one meanwhile.
            spare.table = Arc::ptr_eq(table, self.shelves.load().last_table()).then_some(next);
        }
        if filter.is_half_full() && spare.filter.is_none() {
            let next = Filter::new(FILTER_WORDS);
            next.words.bring_in(usize::MAX);
            spare.filter = Arc::ptr_eq(filter, self.shelves.load().last_filter()).then_some(next);
        }
    }
}

/// What an [`IdWriter`] let go of.
#[derive(Debug)]
pub(crate) struct Forgotten {
    _tables: Vec<Arc<Table>>,
    _filters: Vec<Arc<Filter>>,
}

/// The writer's hand on an [`IdTable`]. There is only one.
#[derive(Debug)]
pub(crate) struct IdWriter {
    shared: Arc<IdTable>,
    /// Those that are shared, at hand without a look at the shared pointer.
    shelves: Shelves,
    /// Hash and position of each of the newest ids, in order.
    newest: Vec<(u64, u64)>,
    forgotten_up_to: u64,
}

impl IdWriter {
    pub(crate) fn new() -> Self {
        let shelves = Shelves {
            filters: vec![Arc::new(Filter::new(FILTER_WORDS))],
            tables: vec![Arc::new(Table::new(FIRST_SLOTS))],
        };
        let shared = IdTable {
            newest: Slots::new(NEWEST_SLOTS),
            shelves: ArcSwap::from_pointee(shelves.clone()),
            left_up_to: AtomicU64::new(0),
            spare: Mutex::default(),
        };
        Self { shared: Arc::new(shared), shelves, newest: Vec::with_capacity(NEWEST_MAX), forgotten_up_to: 0 }
    }

    /// For readers.
    pub(crate) fn table(&self) -> &Arc<IdTable> {
        &self.shared
    }

    /// Begins to load what [`IdWriter::may_hold`] will look at.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        for filter in &self.shelves.filters {
            prefetch(filter.words_of(hash));
        }
    }

    /// Begins to load what [`IdWriter::insert`] will write to: a long batch drives it out of the nearest cache.
    #[inline]
    pub(crate) fn prefetch_newest(&self, hash: u64) {
        let newest = &self.shared.newest;
        prefetch(&newest.words()[newest.home(hash)]);
    }

    /// False if no id here has this hash; true if one has, and seldom if none has.
    #[inline]
    pub(crate) fn may_hold(&self, hash: u64) -> bool {
        self.shelves.may_hold(hash)
    }

    /// Enters an id. `position` is at most [`LAST_POSITION`].
    #[inline]
    pub(crate) fn insert(&mut self, hash: u64, position: u64) {
        debug_assert!(position <= LAST_POSITION, "checked by the writer and at opening");
        if self.newest.len() == NEWEST_MAX {
            self.move_on();
        }
        self.shared.newest.insert(hash, position);
        self.newest.push((hash, position));
        self.shelves.last_filter().insert(hash, position);
    }

    /// Enters an id that stands in the index file of its segment, so that only the filter need know it; what is up to
    /// `last` has such files.
    pub(crate) fn note(&mut self, hash: u64, position: u64, last: u64) {
        debug_assert!(position <= last && last <= LAST_POSITION, "checked at opening");
        // Before the id can be met.
        self.shared.raise_left(last);
        if self.shelves.last_filter().is_full() {
            self.begin_filter();
        }
        self.shelves.last_filter().insert(hash, position);
    }

    /// Lets go of what is found elsewhere: of tables whose ids are all at `in_files` or before it, which the index files of
    /// their segments hold, but for the last [`TABLES_KEPT`]; of filters whose ids are all at `in_tiers` or before it. The
    /// memory is given back when the answer is dropped, which is better done without the writer's lock.
    pub(crate) fn forget_up_to(&mut self, in_tiers: u64, in_files: u64) -> Forgotten {
        let Shelves { tables, filters } = &mut self.shelves;
        // Positions rise from one to the next, but for those of one segment at opening, whose ids come in another order.
        let last_of = |last: &AtomicU64| last.load(Ordering::Relaxed);
        let old_tables = tables[..tables.len().saturating_sub(TABLES_KEPT)]
            .iter()
            .take_while(|table| last_of(&table.last_position) <= in_files.max(in_tiers))
            .count();
        let up_to = tables[..old_tables].iter().map(|table| last_of(&table.last_position)).max().unwrap_or(0);
        // Before the tables go: who does not find an id there asks the files.
        self.shared.raise_left(up_to);
        let left = self.shared.left_up_to.load(Ordering::Acquire);
        // Nothing may be in a table and in no filter: it would not be found.
        let is_gone = |of: &&Arc<Filter>| last_of(&of.last_position) <= left.min(in_tiers);
        let old_filters = filters[..filters.len() - 1].iter().take_while(is_gone).count();
        let forgotten = Forgotten {
            _tables: tables.drain(..old_tables).collect(),
            _filters: filters
                .drain(..old_filters)
                .inspect(|of| {
                    self.forgotten_up_to = self.forgotten_up_to.max(last_of(&of.last_position));
                })
                .collect(),
        };
        if old_tables + old_filters > 0 {
            self.share();
        }
        forgotten
    }

    /// Position up to which ids were let go of by tables and filters: only tiers may hold them.
    pub(crate) fn forgotten_up_to(&self) -> u64 {
        self.forgotten_up_to
    }

    fn share(&self) {
        self.shared.shelves.store(Arc::new(self.shelves.clone()));
    }

    #[cold]
    fn begin_table(&mut self) {
        let slots = self.shelves.last_table().slots_of_next();
        let spare = self.shared.spare.try_lock().and_then(|mut spare| spare.table.take());
        self.shelves.tables.push(Arc::new(spare.unwrap_or_else(|| Table::new(slots))));
        self.share();
    }

    #[cold]
    fn begin_filter(&mut self) {
        let spare = self.shared.spare.try_lock().and_then(|mut spare| spare.filter.take());
        self.shelves.filters.push(Arc::new(spare.unwrap_or_else(|| Filter::new(FILTER_WORDS))));
        self.share();
    }

    /// The newest ids go to the last table.
    #[cold]
    fn move_on(&mut self) {
        let newest = std::mem::take(&mut self.newest);
        let mut last = self.shelves.last_table().clone();
        for (index, (hash, position)) in newest.iter().enumerate() {
            if last.is_full() {
                self.begin_table();
                last = self.shelves.last_table().clone();
            }
            if let Some((ahead, _)) = newest.get(index + AHEAD) {
                prefetch(&last.slots.words()[last.slots.home(*ahead)]);
            }
            last.insert(*hash, *position);
        }
        self.newest = newest;
        self.newest.clear();
        // Release, one by one: see `Slots::find`.
        self.shared.newest.words().iter().for_each(|slot| slot.store(0, Ordering::Release));
        if self.shelves.last_filter().is_full() {
            self.begin_filter();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        n.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (n << 17)
    }

    /// Ids of the first filter, when it is moved on from.
    const FIRST_IDS: u64 = (FILTER_WORDS * IDS_PER_WORD) as u64;

    fn positions(table: &IdTable, hash: u64) -> Vec<u64> {
        let mut found = table.candidates(hash).to_vec();
        found.sort_unstable();
        found
    }

    #[test]
    fn finds_every_id_while_and_after_growing() {
        let mut writer = IdWriter::new();
        let table = writer.table().clone();
        for n in 1..=300_000u64 {
            writer.insert(hash(n), n);
            if n % 7 > 0 {
                continue;
            }
            for probe in [1, n / 2 + 1, n] {
                assert!(positions(&table, hash(probe)).contains(&probe), "id {probe} after {n}");
            }
        }
        assert!(table.shelves.load().tables.len() > 2);
    }

    #[test]
    fn a_table_made_ahead_is_the_next_one() {
        let mut writer = IdWriter::new();
        let table = writer.table().clone();
        for n in 1..=600_000u64 {
            writer.insert(hash(n), n);
            if n % 1000 == 0 {
                table.make_ahead();
            }
        }
        let Shelves { tables, .. } = &**table.shelves.load();
        assert!(tables.iter().all(|of| of.used.load(Ordering::Relaxed) > 0) && tables.len() > 2);
        for n in (1..=600_000).step_by(97) {
            assert!(positions(&table, hash(n)).contains(&n), "id {n}");
        }
    }

    #[test]
    fn tables_are_forgotten_once_their_ids_stand_elsewhere() {
        let mut writer = IdWriter::new();
        let table = writer.table().clone();
        for n in 1..=2_000_000u64 {
            writer.insert(hash(n), n);
        }
        let before = table.shelves.load().tables.len();
        let left = || table.left_up_to.load(Ordering::Relaxed);
        let is_told = |n: u64| {
            let is_left = |n: u64| table.left(hash(n)).iter().any(|(first, last)| (*first..=*last).contains(&n));
            if n <= left() { is_left(n) } else { positions(&table, hash(n)).contains(&n) && !is_left(n) }
        };
        // The files of segments hold them, and no tier: the filters still know them.
        drop(writer.forget_up_to(0, 100_000));
        let after = table.shelves.load().tables.len();
        assert!(after < before, "{after} of {before}");
        assert!((1..=100_000).contains(&left()) && writer.forgotten_up_to() == 0);
        assert!((1..=2_000_000).step_by(7).all(is_told) && (1..=left()).all(|n| writer.may_hold(hash(n))));
        drop(writer.forget_up_to(0, 2_000_000));
        assert_eq!(table.shelves.load().tables.len(), TABLES_KEPT);
        assert!((1..=2_000_000).all(is_told) && writer.forgotten_up_to() == 0);
        // Tiers hold them all, and what fills whole filters is known by them alone.
        drop(writer.forget_up_to(2_000_000, 2_000_000));
        assert_eq!((table.shelves.load().filters.len(), writer.forgotten_up_to()), (1, FIRST_IDS));
        assert!((FIRST_IDS + 1..=2_000_000).all(is_told));
    }

    #[test]
    fn what_is_noted_is_in_the_filters_alone() {
        let mut writer = IdWriter::new();
        let table = writer.table().clone();
        for n in 1..=FIRST_IDS + 5_000 {
            writer.note(hash(n), n, FIRST_IDS + 9_000);
        }
        assert_eq!((table.shelves.load().filters.len(), table.shelves.load().tables.len()), (2, 1));
        for n in (1..=FIRST_IDS + 5_000).step_by(11) {
            assert!(writer.may_hold(hash(n)) && positions(&table, hash(n)).is_empty());
            assert!(table.left(hash(n)).iter().any(|(first, last)| (*first..=*last).contains(&n)), "id {n}");
        }
        drop(writer.forget_up_to(FIRST_IDS, 0));
        assert_eq!((table.shelves.load().filters.len(), writer.forgotten_up_to()), (1, FIRST_IDS));
    }

    #[test]
    fn equal_hashes_are_all_reported() {
        let mut writer = IdWriter::new();
        let table = writer.table().clone();
        for position in 1..=3 {
            writer.insert(7, position);
        }
        assert_eq!(positions(&table, 7), [1, 2, 3]);
    }

    #[test]
    fn readers_find_what_moves_on_meanwhile() {
        let mut writer = IdWriter::new();
        let table = writer.table().clone();
        let head = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for reader in 0..2u64 {
                let (table, head) = (&table, &head);
                scope.spawn(move || {
                    let mut probe = reader;
                    loop {
                        let known = head.load(Ordering::Acquire);
                        if known == 200_000 {
                            return;
                        }
                        if known > 0 {
                            probe = probe.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                            // Most often one of the newest, which are about to move.
                            let n = known - (probe >> 33) % known.min(3000);
                            assert!(positions(table, hash(n)).contains(&n), "id {n} of {known}");
                        }
                    }
                });
            }
            for n in 1..=200_000 {
                writer.insert(hash(n), n);
                head.store(n, Ordering::Release);
            }
        });
    }

    #[test]
    fn the_filters_let_few_pass() {
        let mut writer = IdWriter::new();
        for n in 1..=3_000_000u64 {
            writer.insert(hash(n), n);
        }
        assert_eq!(writer.shelves.filters.len(), 3);
        let passes = |n: u64| writer.may_hold(hash(n));
        let passed = (10_000_000..10_100_000).filter(|n| passes(*n)).count();
        assert!(passed < 500, "{passed} of 100,000");
    }
}
