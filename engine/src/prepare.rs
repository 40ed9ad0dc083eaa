//! Segment files made ahead, so that rolling never waits for the file system.
//!
//! A prepared file has its blocks, zeros, and a durable name; nothing of it belongs to the log until its header is
//! written at the roll.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use annals_format::checksum::Identity;
use parking_lot::{Condvar, Mutex};

use crate::Result;
use crate::active_index::{ActiveIndex, Expected};
use crate::error::Error;
use crate::segment::Segment;
use crate::storage::{Fill, Storage, StorageFile};

/// Files are brought into memory in steps of this.
const BRING_IN_STEP: usize = 64 << 10;

const PREFIX: &str = "segment-";

pub(crate) fn segment_name(number: u64) -> String {
    format!("{PREFIX}{number:020}.log")
}

/// Name of the file of a segment in this generation: its own, or its container.
pub(crate) fn segment_file_name(number: u64, generation: u64) -> String {
    match generation {
        0 => segment_name(number),
        _ => format!("{PREFIX}{number:020}-{generation:020}.log"),
    }
}

/// Number and generation in the name of a container.
pub(crate) fn container_of(name: &str) -> Option<(u64, u64)> {
    let (number, generation) = name.strip_prefix(PREFIX)?.strip_suffix(".log")?.split_once('-')?;
    let digits = |text: &str| {
        (text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
    };
    Some((digits(number)?, digits(generation).filter(|generation| *generation > 0)?))
}

pub(crate) fn is_container_name(name: &str) -> bool {
    container_of(name).is_some()
}

pub(crate) fn index_name(number: u64) -> String {
    format!("{PREFIX}{number:020}.idx")
}

/// Number in a segment's file name, and whether it is the index.
pub(crate) fn segment_number(name: &str) -> Option<(u64, bool)> {
    let rest = name.strip_prefix(PREFIX)?;
    let (digits, kind) = rest.split_at_checked(20)?;
    let is_index = match kind {
        ".log" => false,
        ".idx" => true,
        _ => return None,
    };
    let is_number = digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten().map(|number| (number, is_index))
}

/// Numbers of the segment files among these names, ascending.
pub(crate) fn segment_numbers(names: &[String]) -> Vec<u64> {
    let segments = names.iter().filter_map(|name| segment_number(name)).filter(|(_, is_index)| !is_index);
    let mut numbers: Vec<u64> = segments.map(|(number, _)| number).collect();
    numbers.sort_unstable();
    numbers
}

/// A file ready to become the next segment.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) identity: Identity,
    pub(crate) name: String,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) len: u64,
}

/// What is fixed for an opening.
#[derive(Debug, Clone)]
pub(crate) struct SegmentPlan {
    pub(crate) store: [u8; 16],
    pub(crate) incarnation: [u8; 16],
    pub(crate) len_max: u64,
    pub(crate) quota: Option<u64>,
    pub(crate) fill: Fill,
}

/// Memory that the index of the segment to come will take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WantedIndex {
    /// What has room for this serves.
    pub(crate) least: Expected,
    /// What is made has room for this.
    pub(crate) expected: Expected,
    /// So many records will be entered.
    pub(crate) records: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Made and not used yet, in the order of their numbers.
    ready: VecDeque<Prepared>,
    wanted: Option<u64>,
    wanted_index: Option<WantedIndex>,
    making: bool,
    /// The store is being closed.
    is_released: bool,
    to_seal: VecDeque<Arc<Segment>>,
}

#[derive(Debug)]
pub(crate) struct Preparer {
    storage: Arc<dyn Storage>,
    plan: SegmentPlan,
    next_number: AtomicU64,
    /// An index that serves no segment any more: its memory is there, and warm.
    used_index: Mutex<Option<ActiveIndex>>,
    /// Length of all segments of the store.
    total_len: AtomicU64,
    manifest_generation: AtomicU64,
    /// Number of the file that the log went on to last.
    taken: AtomicU64,
    /// Somebody asked and nobody is at it yet.
    is_wanted: AtomicBool,
    state: Mutex<State>,
    made: Condvar,
    /// Wakes the thread that makes files.
    asked: Condvar,
    /// Wakes the thread that seals.
    work: Condvar,
}

impl Preparer {
    pub(crate) fn new(storage: Arc<dyn Storage>, plan: SegmentPlan, next_number: u64, total_len: u64) -> Self {
        Self {
            storage,
            plan,
            next_number: AtomicU64::new(next_number),
            used_index: Mutex::new(None),
            total_len: AtomicU64::new(total_len),
            manifest_generation: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            is_wanted: AtomicBool::new(false),
            state: Mutex::default(),
            made: Condvar::new(),
            asked: Condvar::new(),
            work: Condvar::new(),
        }
    }

    pub(crate) fn manifest_generation(&self) -> u64 {
        self.manifest_generation.load(Ordering::Acquire)
    }

    pub(crate) fn set_manifest_generation(&self, generation: u64) {
        self.manifest_generation.store(generation, Ordering::Release);
    }

    /// The store's segments take so many bytes less.
    pub(crate) fn give_back(&self, len: u64) {
        let _ =
            self.total_len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |total| Some(total.saturating_sub(len)));
    }

    /// Larger than any number used or handed out.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number.load(Ordering::Acquire)
    }

    /// Makes a file now. `needed` is the least length, `len` the ordinary one.
    pub(crate) fn make(&self, len: u64, needed: u64) -> Result<Prepared> {
        let len = len.min(self.plan.len_max).max(needed);
        let total = self.total_len.load(Ordering::Relaxed) + len;
        if let Some(quota) = self.plan.quota.filter(|quota| total > *quota) {
            let reason = format!("the store's quota of {quota} bytes does not allow a segment of {len} more");
            return Err(Error::NoSpace { action: "preparing a segment", reason });
        }
        let number = self.next_number.fetch_add(1, Ordering::AcqRel);
        let name = segment_name(number);
        let file = self.make_file(&name, len).map_err(|error| no_room(&name, error))?;
        self.total_len.fetch_add(len, Ordering::Relaxed);
        let identity = Identity { store: self.plan.store, incarnation: self.plan.incarnation, segment: number };
        Ok(Prepared { identity, name, file, len })
    }

    /// `NoSpace` if the quota has no room for a file of this length.
    pub(crate) fn check_quota(&self, len: u64) -> Result<()> {
        let total = self.total_len.load(Ordering::Relaxed).saturating_add(len);
        match self.plan.quota.filter(|quota| total > *quota) {
            Some(quota) => {
                let reason = format!("the store's quota of {quota} bytes does not allow {len} more");
                Err(Error::NoSpace { action: "saving a snapshot", reason })
            }
            None => Ok(()),
        }
    }

    /// Files other than segments count as well.
    pub(crate) fn add_to_total(&self, len: u64) {
        self.total_len.fetch_add(len, Ordering::Relaxed);
    }

    pub(crate) fn take_from_total(&self, len: u64) {
        self.total_len.fetch_sub(len, Ordering::Relaxed);
    }

    fn make_file(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.storage.create(name, len, self.plan.fill)?;
        let sync_dir = || if cfg!(annals_plant = "no-dir-sync") { Ok(()) } else { self.storage.sync_dir() };
        let durable = file.sync().and_then(|()| sync_dir());
        if let Err(error) = durable {
            // What cannot be made durable is not kept; the error that counts is the first.
            let _ = self.storage.remove(name);
            return Err(error);
        }
        Ok(file)
    }

    /// Keeps the memory of a sealed segment's index for a segment to come, unless a reader still looks at it.
    pub(crate) fn keep_index(&self, mut index: Arc<ActiveIndex>) {
        // Looked at first by a load that acquires: what the last reader did is then before this also for who sees no fences.
        if Arc::get_mut(&mut index).is_some()
            && let Some(index) = Arc::into_inner(index)
        {
            self.keep_larger(index, ActiveIndex::emptied);
        }
    }

    /// Keeps this one, `made_ready`, unless the one that is kept has more room: it was made for a longer segment.
    fn keep_larger(&self, index: ActiveIndex, made_ready: impl FnOnce(ActiveIndex) -> ActiveIndex) {
        let is_larger = |kept: &ActiveIndex| kept.room() > index.room();
        if self.used_index.lock().as_ref().is_some_and(is_larger) {
            return;
        }
        // Not under the lock, which a roll waits for: megabytes are cleared, and given back.
        let ready = made_ready(index);
        let replaced = self.used_index.lock().replace(ready);
        drop(replaced);
    }

    /// Makes the memory of the index that was asked for, unless what a segment left behind has come meanwhile.
    fn make_wanted_index(&self) {
        let serves = |wanted: &WantedIndex| self.used_index.lock().as_ref().is_some_and(|kept| kept.fits(wanted.least));
        let wanted = self.state.lock().wanted_index.take();
        if let Some(wanted) = wanted.filter(|wanted| !serves(wanted)) {
            let index = ActiveIndex::new(wanted.expected);
            index.bring_in(wanted.records);
            self.keep_larger(index, |index| index);
        }
    }

    /// An index to be used again.
    pub(crate) fn take_index(&self) -> Option<ActiveIndex> {
        self.used_index.lock().take()
    }

    /// The next file for the log, of at least `needed` bytes: the prepared one, or one made now.
    pub(crate) fn take(&self, old_len: u64, needed: u64) -> Result<Prepared> {
        let mut state = self.state.lock();
        (state.wanted, state.wanted_index) = (None, None);
        loop {
            match state.ready.pop_front() {
                Some(ready) if ready.len >= needed => {
                    self.taken.store(ready.identity.segment, Ordering::Relaxed);
                    return Ok(ready);
                }
                // Too short for this batch. Its number may not follow the one that is used, so it goes.
                Some(ready) => self.discard(&ready),
                None if state.making => self.made.wait(&mut state),
                None => break,
            }
        }
        // Nobody else makes one meanwhile: numbers are used in their order.
        state.making = true;
        drop(state);
        let made = self.make(old_len * 2, needed);
        self.state.lock().making = false;
        self.made.notify_all();
        made
    }

    fn discard(&self, prepared: &Prepared) {
        self.total_len.fetch_sub(prepared.len, Ordering::Relaxed);
        // A file that stays behind holds nothing and is swept at the next open.
        let _ = self.storage.remove(&prepared.name);
    }

    /// Asks for a file to be made in the background, if there is none, and for the memory of an index; who has been asked
    /// is then to be [woken](Preparer::wake_maker).
    pub(crate) fn ask(&self, old_len: u64, index: Option<WantedIndex>) {
        let mut state = self.state.lock();
        state.wanted = Some(old_len * 2);
        state.wanted_index = index;
        self.is_wanted.store(true, Ordering::Release);
    }

    /// Length of the segment that follows one of `old_len`.
    pub(crate) fn len_after(&self, old_len: u64) -> u64 {
        (old_len * 2).min(self.plan.len_max)
    }

    pub(crate) fn enqueue_seal(&self, segment: Arc<Segment>) {
        self.state.lock().to_seal.push_back(segment);
        self.work.notify_one();
    }

    /// Those that wait, oldest first.
    pub(crate) fn waiting_to_seal(&self) -> Vec<Arc<Segment>> {
        self.state.lock().to_seal.iter().cloned().collect()
    }

    /// Whether an ended segment waits to be sealed.
    pub(crate) fn has_to_seal(&self) -> bool {
        !self.state.lock().to_seal.is_empty()
    }

    /// The oldest ended segment that waits to be sealed.
    pub(crate) fn next_to_seal(&self) -> Option<Arc<Segment>> {
        self.state.lock().to_seal.pop_front()
    }

    /// Makes what was asked for; true if that was a file. An error is forgotten: the roll tries again and reports it.
    pub(crate) fn make_wanted(&self) -> bool {
        if !self.is_wanted.swap(false, Ordering::AcqRel) {
            return false;
        }
        let has_made = self.make_wanted_file();
        self.make_wanted_index();
        has_made
    }

    fn make_wanted_file(&self) -> bool {
        let mut state = self.state.lock();
        // Two at once could come to the list in another order than that of their numbers.
        let is_due = state.ready.is_empty() && !state.making;
        let Some(len) = state.wanted.take().filter(|_| is_due) else { return false };
        state.making = true;
        drop(state);
        let made = self.make(len, 0).ok();
        let to_bring_in =
            made.as_ref().map(|prepared| (prepared.file.clone(), prepared.identity.segment, prepared.len));
        let mut state = self.state.lock();
        state.making = false;
        state.ready.extend(made);
        self.made.notify_all();
        drop(state);
        if let Some((file, number, len)) = to_bring_in {
            self.bring_in(&*file, number, len);
        }
        true
    }

    /// Has the system give the file its pages in memory, which may take longer than writing to them later on; stops when
    /// the log has come to the file. Only reads, so it disturbs nobody.
    fn bring_in(&self, file: &dyn StorageFile, number: u64, len: u64) {
        if self.plan.fill == Fill::Zeroed {
            return;
        }
        // From the end, since the system reads on ahead of whoever reads towards it: a stretch of that takes it twenty
        // milliseconds where memory is slow to come, in which nobody else gets that processor.
        let mut page = vec![0; BRING_IN_STEP];
        for step_number in (0..len.div_ceil(BRING_IN_STEP as u64)).rev() {
            let at = step_number * BRING_IN_STEP as u64;
            let step = (len - at).min(BRING_IN_STEP as u64) as usize;
            if self.taken.load(Ordering::Relaxed) >= number || file.read_at(at, &mut page[..step]).is_err() {
                return;
            }
        }
    }

    /// Makes files for `bytes` of log behind a segment of `old_len`, with their pages in memory.
    pub(crate) fn reserve(&self, old_len: u64, bytes: u64) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            while state.making {
                self.made.wait(&mut state);
            }
            if state.is_released {
                return Err(Error::Poisoned { reason: "the store is closed".to_owned() });
            }
            let there: u64 = state.ready.iter().map(|prepared| prepared.len).sum();
            if there >= bytes {
                return Ok(());
            }
            let before = state.ready.back().map_or(old_len, |last| last.len);
            state.making = true;
            drop(state);
            let made = self.make(before * 2, 0);
            if let Ok(prepared) = &made {
                self.bring_in(&*prepared.file, prepared.identity.segment, prepared.len);
            }
            state = self.state.lock();
            state.making = false;
            self.made.notify_all();
            state.ready.push_back(made?);
        }
    }

    /// Waits until there may be something to seal, at most until `deadline`, or `stopping` is set, which [`Preparer::wake`] is to
    /// be called after.
    pub(crate) fn wait_for_ended(&self, deadline: std::time::Instant, stopping: &AtomicBool) {
        let mut state = self.state.lock();
        // Under the lock: whoever set it just before has yet to wake, or has woken nobody.
        if state.to_seal.is_empty() && !stopping.load(Ordering::Acquire) {
            self.work.wait_until(&mut state, deadline);
        }
    }

    /// Waits until something is asked for or `stopping` is set, which [`Preparer::wake_maker`] is to be called after.
    pub(crate) fn wait_until_asked(&self, stopping: &AtomicBool) {
        let mut state = self.state.lock();
        while !self.is_wanted.load(Ordering::Acquire) && !stopping.load(Ordering::Acquire) {
            self.asked.wait(&mut state);
        }
    }

    /// Wakes the thread that seals from its wait.
    pub(crate) fn wake(&self) {
        let _state = self.state.lock();
        self.work.notify_all();
    }

    /// Wakes the thread that makes files from its wait.
    pub(crate) fn wake_maker(&self) {
        let _state = self.state.lock();
        self.asked.notify_one();
    }

    /// Removes the files that were made and not used; no more are reserved.
    pub(crate) fn release(&self) {
        let mut state = self.state.lock();
        state.is_released = true;
        while state.making {
            self.made.wait(&mut state);
        }
        for ready in std::mem::take(&mut state.ready) {
            self.discard(&ready);
        }
    }
}

/// `NoSpace` where that is what the system says.
pub(crate) fn no_room(name: &str, error: io::Error) -> Error {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
        return Error::NoSpace { action: "preparing a segment", reason: format!("{name}: {error}") };
    }
    Error::io("prepare", name)(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Memory;

    #[test]
    fn only_one_file_is_made_at_a_time() {
        let storage = Arc::new(Memory::new());
        let plan =
            SegmentPlan { store: [1; 16], incarnation: [2; 16], len_max: 1 << 20, quota: None, fill: Fill::Allocated };
        let preparer = Preparer::new(storage.clone(), plan, 2, 0);
        preparer.state.lock().making = true;
        preparer.ask(64 << 10, None);
        assert!(!preparer.make_wanted());
        assert_eq!(preparer.next_number(), 2);
        preparer.state.lock().making = false;
        preparer.ask(64 << 10, None);
        assert!(preparer.make_wanted());
        preparer.ask(64 << 10, None);
        assert!(!preparer.make_wanted(), "there is one");
        assert_eq!(storage.list().unwrap(), [segment_name(2)]);
    }

    #[test]
    fn an_index_is_made_unless_one_comes_back_in_time() {
        let plan =
            SegmentPlan { store: [1; 16], incarnation: [2; 16], len_max: 1 << 20, quota: None, fill: Fill::Allocated };
        let preparer = Preparer::new(Arc::new(Memory::new()), plan, 2, 0);
        let expected = |segment_len| Expected { segment_len, keys: 1000, ids: None };
        let ask = |segment_len| {
            let (least, expected) = (expected(segment_len), Expected { keys: 2000, ..expected(segment_len) });
            preparer.ask(64 << 10, Some(WantedIndex { least, expected, records: 100 }));
            preparer.make_wanted();
        };
        ask(1 << 20);
        preparer.keep_index(Arc::new(ActiveIndex::new(expected(128 << 10))));
        let made = preparer.take_index().expect("it was made, and is not given up for a smaller one");
        assert!(made.fits(expected(1 << 20)));
        let back = ActiveIndex::new(expected(1 << 20));
        let room = back.room();
        assert!(made.room() > room);
        preparer.keep_index(Arc::new(back));
        ask(1 << 20);
        assert_eq!(preparer.take_index().map(|kept| kept.room()), Some(room), "the one that came back serves");
    }
}
