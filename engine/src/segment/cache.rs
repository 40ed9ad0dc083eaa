//! Listed segments that are open: opened for whoever comes first, let go of when there are too many.
//!
//! Which one goes is decided as a clock does: the hand passes over those that were touched since it last came by. A
//! reader that holds an opened segment keeps it; only the cache lets go.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use annals_format::manifest::SegmentEntry;
use annals_format::segment::{END_MARK_LEN, SEGMENT_HEADER_LEN};
use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, MutexGuard};

use super::{Opened, OpenedGuard, Segment, SegmentIndex};
use crate::Result;
use crate::compacted::BlockCache;
use crate::log::Log;
use crate::manifest;
use crate::name::NameHash;
use crate::options::ReadMode;
use crate::prepare::index_name;
use crate::recovery::{SegmentOpening, open_listed, open_listed_anew, open_listed_to_scan, rebuild_index_of};
use crate::sealed_index::SealedIndex;
use crate::storage::{Access, Storage};

/// What to do with an index that is missing or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rebuild {
    /// Write it anew.
    Write,
    /// Keep it in memory: nothing may be written.
    Memory,
}

/// Longer index files are not asked for as a whole: those of segments that tiers cover are shorter.
const ANNOUNCED_MAX: u64 = 1 << 20;

/// Without maps each open segment takes a file descriptor, and a process has often no more than 1,024.
const PREAD_OPEN_MAX: usize = 256;

/// How many segments all openings of a process have mapped, and may have.
#[derive(Debug)]
struct InProcess {
    open: AtomicUsize,
    most: usize,
    /// So many each opening may have all the same.
    least: usize,
}

/// Each takes two maps, of the 65,530 that the system usually allows a process: half of these are for them. Those that readers
/// hold on to, tiers and directory, and whatever else the program maps come beside.
static IN_PROCESS: InProcess = InProcess { open: AtomicUsize::new(0), most: 16_384, least: 64 };

/// Where a segment keeps what is open of it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    held: ArcSwapOption<Opened>,
    /// Set by each touch after the first, cleared by the clock's hand: what is read once goes before what is read often.
    touched: AtomicBool,
    /// Held by the one that opens, or writes its index file; one for all segments that hold the same.
    opening: Arc<Mutex<()>>,
}

impl Slot {
    pub(super) fn holding(opened: Arc<Opened>) -> Self {
        Self { held: ArcSwapOption::new(Some(opened)), ..Self::default() }
    }

    #[inline]
    pub(super) fn get(&self) -> Option<OpenedGuard> {
        let opened = OpenedGuard::of(self.held.load())?;
        // Read first: a store to a line that all readers share is only made when it changes something.
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
        Some(opened)
    }

    /// An empty one of a segment that takes the place of this one's: both write the same index file.
    pub(super) fn successor(&self) -> Self {
        Self { opening: self.opening.clone(), ..Self::default() }
    }

    /// Lets go of what is held. Whoever reads of it keeps it meanwhile.
    pub(super) fn release(&self) {
        self.held.store(None);
    }

    /// Puts something made of what is held in its place, and answers what was there.
    pub(super) fn change(&self, change: impl FnOnce(&Opened) -> Opened) -> Option<Arc<Opened>> {
        let changed = Arc::new(change(&*self.get()?));
        self.held.swap(Some(changed))
    }
}

impl Slot {
    /// Nobody else opens or makes an index anew until this is dropped.
    pub(super) fn opening(&self) -> MutexGuard<'_, ()> {
        self.opening.lock()
    }

    /// As [`Slot::change`], unless what is held is let go of meanwhile: then nothing is put there, which nobody would
    /// count.
    pub(super) fn change_if_held(&self, change: impl FnOnce(&Opened) -> Opened) {
        let held = self.held.load();
        if let Some(opened) = &*held {
            self.held.compare_and_swap(&held, Some(Arc::new(change(opened))));
        }
    }
}

/// Opens listed segments and bounds how many of them are open.
#[derive(Debug)]
pub(crate) struct SegmentCache {
    storage: Arc<dyn Storage>,
    mode: ReadMode,
    hash: NameHash,
    rebuild: Rebuild,
    /// Set where the store is given to another writer: what is made anew from then on stays in memory.
    is_closed: AtomicBool,
    capacity: usize,
    /// `None` where nothing is mapped.
    in_process: Option<&'static InProcess>,
    /// The open ones, as the hand comes by them.
    open: Mutex<VecDeque<Weak<Slot>>>,
    /// What was decompressed lately of compacted segments.
    blocks: Arc<BlockCache>,
    /// Index files that were damaged or missing, and written anew.
    rebuilt: Mutex<Vec<String>>,
    made: AtomicU64,
}

impl SegmentCache {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        mode: ReadMode,
        hash: NameHash,
        rebuild: Rebuild,
        capacity: usize,
    ) -> Arc<Self> {
        let (capacity, in_process) = match mode {
            ReadMode::Mapped => (capacity.max(1), Some(&IN_PROCESS)),
            ReadMode::Pread => (capacity.clamp(1, PREAD_OPEN_MAX), None),
        };
        let (open, rebuilt, blocks) = (Mutex::default(), Mutex::default(), Arc::default());
        Arc::new(Self {
            storage,
            mode,
            hash,
            rebuild,
            is_closed: AtomicBool::new(false),
            capacity,
            in_process,
            open,
            blocks,
            rebuilt,
            made: AtomicU64::new(0),
        })
    }

    pub(crate) fn read_mode(&self) -> ReadMode {
        self.mode
    }

    /// The names of index files that were written anew since this was last asked.
    pub(crate) fn take_rebuilt(&self) -> Vec<String> {
        std::mem::take(&mut self.rebuilt.lock())
    }

    pub(crate) fn note_rebuilt(&self, name: String) {
        self.made.fetch_add(1, Ordering::Relaxed);
        self.rebuilt.lock().push(name);
    }

    /// How many index files were written: those that were damaged or missing, and those that kept places alone.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Asked by who holds a slot's `opening`.
    fn rebuild(&self) -> Rebuild {
        if self.is_closed.load(Ordering::Acquire) { Rebuild::Memory } else { self.rebuild }
    }

    /// Returns when nobody writes an index file any more, of these segments or those whose place they took, nor will: readers
    /// outlive the store.
    pub(crate) fn end_writing(&self, segments: &[Arc<Segment>]) {
        self.is_closed.store(true, Ordering::Release);
        segments.iter().for_each(|segment| segment.replacing_index(|| ()));
    }

    /// Begins to bring what [`SegmentCache::open`] reads into memory. What is wrong is told to who opens it.
    pub(super) fn announce(&self, name: &str, entry: &SegmentEntry) {
        if let Ok(index) = self.storage.open(&index_name(entry.number), Access::Read)
            && let Ok(len) = index.len()
        {
            index.will_need(0, len.min(ANNOUNCED_MAX));
        }
        if let Ok(file) = self.storage.open(name, Access::Read) {
            file.will_need(0, SEGMENT_HEADER_LEN as u64);
            file.will_need(entry.end, END_MARK_LEN as u64);
        }
    }

    /// Opens a segment, unless somebody else did while this waited.
    pub(super) fn open(&self, segment: &Segment, slot: &Arc<Slot>, entry: &SegmentEntry) -> Result<Arc<Opened>> {
        let opening = slot.opening.lock();
        if let Some(opened) = slot.get().filter(|opened| opened.is_indexed()) {
            return Ok(opened.into_arc());
        }
        let opened = self.open_newest(entry, |entry| open_listed(&*self.storage, entry, self.opening()))?;
        let has_file = !matches!(opened.index, SegmentIndex::Active(_));
        let mut opened = Arc::new(opened.without_file());
        self.hold(slot, opened.clone());
        if !has_file && self.rebuild() == Rebuild::Write {
            self.note_rebuilt(index_name(entry.number));
            // Without room for the file the index serves from memory; the next opening tries again.
            let apart = segment.apart(opened.clone());
            if let Ok(index) = SealedIndex::build(&*self.storage, &Log::of_files(), self.hash, &apart) {
                opened = Arc::new(opened.with_index(SegmentIndex::Sealed(Arc::new(index))));
                self.hold(slot, opened.clone());
            }
        }
        drop(opening);
        Ok(opened)
    }

    /// The same without the index, unless it is open already.
    pub(super) fn open_to_scan(&self, slot: &Arc<Slot>, entry: &SegmentEntry) -> Result<Arc<Opened>> {
        let opening = slot.opening.lock();
        if let Some(opened) = slot.get() {
            return Ok(opened.into_arc());
        }
        let opened = self.open_newest(entry, |entry| open_listed_to_scan(&*self.storage, entry, self.opening()))?;
        let opened = Arc::new(opened.without_file());
        self.hold(slot, opened.clone());
        drop(opening);
        Ok(opened)
    }

    /// The same with a whole index, made anew if the file holds places alone.
    pub(super) fn open_with_keys(&self, slot: &Arc<Slot>, entry: &SegmentEntry) -> Result<Arc<Opened>> {
        let opening = slot.opening.lock();
        if let Some(opened) = slot.get().filter(|opened| opened.has_keys()) {
            return Ok(opened.into_arc());
        }
        let storage = &*self.storage;
        let opened = self.open_newest(entry, |entry| {
            let made = match self.rebuild() {
                Rebuild::Write => rebuild_index_of(storage, entry, self.mode, self.hash).is_ok(),
                Rebuild::Memory => false,
            };
            // Without room for the file the index serves from memory. A segment that is damaged answers that now.
            self.made.fetch_add(u64::from(made), Ordering::Relaxed);
            match made {
                true => open_listed(storage, entry, self.opening()),
                false => open_listed_anew(storage, entry, self.opening()),
            }
        })?;
        let opened = Arc::new(opened.without_file());
        self.hold(slot, opened.clone());
        drop(opening);
        Ok(opened)
    }

    fn opening(&self) -> SegmentOpening<'_> {
        SegmentOpening { mode: self.mode, hash: self.hash, blocks: Some(&self.blocks) }
    }

    /// Opens a segment as `entry` says. Where that fails and the store has compacted the segment since, as the newest
    /// manifest says: its file is gone, and what took its place holds the same at the same offsets.
    fn open_newest(&self, entry: &SegmentEntry, open: impl Fn(&SegmentEntry) -> Result<Opened>) -> Result<Opened> {
        let mut entry = entry.clone();
        loop {
            let error = match open(&entry) {
                Err(error) => error,
                opened => return opened,
            };
            let Some(newer) = self.newer(&entry) else { return Err(error) };
            entry = newer;
        }
    }

    /// What the newest manifest says of the same segment, if it was compacted since.
    pub(crate) fn newer(&self, entry: &SegmentEntry) -> Option<SegmentEntry> {
        let manifest = manifest::load_current(&*self.storage).ok()??;
        let same = |newer: &SegmentEntry| {
            (newer.number, newer.store, newer.incarnation) == (entry.number, entry.store, entry.incarnation)
                && (newer.final_checksum, newer.end) == (entry.final_checksum, entry.end)
                && newer.generation > entry.generation
        };
        manifest.segments.into_iter().find(same)
    }

    /// Puts `opened` in its slot, after letting go of others if there are too many: under one lock, so that there are
    /// never more than the cap.
    fn hold(&self, slot: &Arc<Slot>, opened: Arc<Opened>) {
        let open = self.open.lock();
        if slot.held.load().is_none() {
            self.count(open, slot, Some(opened));
            return;
        }
        // Counted already. What was there goes when the lock is free again.
        let before = slot.held.swap(Some(opened));
        drop(open);
        drop(before);
    }

    /// Counts a slot that holds something since before it was listed.
    pub(super) fn admit(&self, slot: &Arc<Slot>) {
        self.count(self.open.lock(), slot, None);
    }

    /// How many may be open where `now` are: where the process has too many, one goes for each that comes.
    fn most(&self, now: usize) -> usize {
        let is_full = |all: &&InProcess| all.open.load(Ordering::Relaxed) >= all.most;
        self.in_process.filter(is_full).map_or(self.capacity, |all| self.capacity.min(now.max(all.least)))
    }

    fn count(&self, mut open: MutexGuard<'_, VecDeque<Weak<Slot>>>, slot: &Arc<Slot>, opened: Option<Arc<Opened>>) {
        let mut let_go = Vec::new();
        // Readers may touch faster than the hand goes round: after one round it takes what it comes to.
        let mut passes = open.len();
        let (before, most) = (open.len(), self.most(open.len()));
        while open.len() >= most {
            let Some(next) = open.pop_front() else { break };
            let Some(slot) = next.upgrade() else { continue };
            if slot.touched.swap(false, Ordering::Relaxed) && passes > 0 {
                passes -= 1;
                open.push_back(next);
                continue;
            }
            let_go.push(slot.held.swap(None));
        }
        open.push_back(Arc::downgrade(slot));
        if let Some(in_process) = self.in_process {
            in_process.open.fetch_add(open.len(), Ordering::Relaxed);
            in_process.open.fetch_sub(before, Ordering::Relaxed);
        }
        if opened.is_some() {
            slot.held.store(opened);
        }
        // Unmapped, if nobody else holds it, when the lock is free again.
        drop(open);
        drop(let_go);
    }
}

impl Drop for SegmentCache {
    fn drop(&mut self) {
        if let Some(in_process) = self.in_process {
            in_process.open.fetch_sub(self.open.get_mut().len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
