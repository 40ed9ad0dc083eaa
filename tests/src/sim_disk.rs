//! A disk that forgets: storage with two images, for tests of crashes, faults and full disks.
//!
//! *Live* is what the page cache shows to running programs, *durable* what a power cut leaves for certain. A write
//! changes the live content; [`StorageFile::sync`] makes a file's content durable, [`Storage::sync_dir`] the names.
//! [`SimDisk::after_power_loss`] builds a disk on which every 512-byte sector and every name that was not synced is
//! as the seed will have it, [`SimDisk::after_kill`] one that lost nothing but the process.
//!
//! | what was not synced | after a power cut |
//! |---|---|
//! | a written sector | as it was, or as it was after any of the writes since |
//! | a sector stored to through a shared map | as synced, as now, or as at some moments in between |
//! | a name made, changed, removed | each change happened or did not; a rename never by half |
//! | a file never synced | zeros, shorter, or empty, where its name survived |
//! | what a failed sync gave up | lost, although the live content shows it, and later syncs succeed |
//!
//! Every operation has a number, from 0 on, so that a fault ([`SimDisk::fail_at`]) or a power cut
//! ([`SimDisk::cut_at`]) can be put at each of them in turn. Nothing depends on a clock or on other randomness than
//! the seeds, so a run of one thread is repeated exactly.
//!
//! ```
//! use annals::storage::{Fill, Storage};
//! use annals_tests::sim_disk::SimDisk;
//!
//! let disk = SimDisk::new();
//! let file = disk.create("a", 4096, Fill::Zeroed)?;
//! disk.sync_dir()?;
//! file.write_at(0, &[std::io::IoSlice::new(b"synced")])?;
//! file.sync()?;
//! file.write_at(0, &[std::io::IoSlice::new(b"forgot")])?;
//! let outcomes: std::collections::BTreeSet<_> =
//!     (0..100).map(|seed| disk.after_power_loss(seed).files()["a"][..6].to_vec()).collect();
//! assert!(outcomes.contains(&b"synced"[..]) && outcomes.contains(&b"forgot"[..]));
//! # Ok::<(), std::io::Error>(())
//! ```

mod dice;
mod fault;
mod file;
mod inode;
mod kind;
mod loss;
mod names;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use annals::storage::{Access, Fill, LockError, LockGuard, Storage, StorageFile};

pub use dice::Dice;
pub use fault::{FaultKind, Repeat, is_power_off};
pub use kind::{Call, WriteKind};

use fault::{Fault, Verdict, power_off};
use file::SimFile;
use inode::Inode;
use loss::Loss;
use names::Names;

/// What a power cut leaves whole or replaces whole.
pub const SECTOR_LEN: usize = 512;

/// A simulated disk. Clones are views of the same one.
#[derive(Clone, Debug)]
pub struct SimDisk {
    machine: Arc<Machine>,
}

/// Where the power was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Number of the operation that was cut.
    pub step: u64,
    /// What it was.
    pub call: Call,
    /// What it was about.
    pub kind: WriteKind,
    /// Writes, name changes and shared files that were not synced, the cut one included.
    pub unsynced: usize,
}

#[derive(Debug)]
struct Machine {
    state: Mutex<State>,
    locked: Arc<AtomicBool>,
    map_is_shared: bool,
}

#[derive(Debug, Default)]
struct State {
    names: Names,
    /// Number of the next operation.
    step: u64,
    /// Orders all writes and name changes of the machine.
    sequence: u64,
    next_inode: u64,
    faults: Vec<Fault>,
    faults_hit: u64,
    cut_at: Option<u64>,
    cut: Option<Cut>,
    capacity: Option<u64>,
    done: BTreeMap<(WriteKind, Call), u64>,
    /// Files with a map that is stored to: their history is noted now and then.
    shared: Vec<Weak<Inode>>,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk without limit.
    #[must_use]
    pub fn new() -> Self {
        Self::of(State::default(), true)
    }

    fn of(state: State, map_is_shared: bool) -> Self {
        let machine = Machine { state: Mutex::new(state), locked: Arc::default(), map_is_shared };
        Self { machine: Arc::new(machine) }
    }

    /// A disk with these files, all of it durable.
    #[must_use]
    pub fn from_files(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut state = State::default();
        for (name, bytes) in files {
            let inode = state.next_inode(|id| Inode::durable(id, bytes.len(), bytes.clone()));
            state.names.put_durable(name, inode);
        }
        Self::of(state, true)
    }

    /// The same disk as a file system on which shared maps are not safe. For a disk not in use yet.
    #[must_use]
    pub fn without_shared_maps(self) -> Self {
        Self::of(std::mem::take(&mut *self.machine.state()), false)
    }

    /// From now on files take no more than `bytes` together; `create` answers that the disk is full.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.machine.state().capacity = bytes;
    }

    /// How many operations there were: the number of the next one.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.machine.state().step
    }

    /// Lets the operation with number `step` fail, or all from it on, if `kind` is a way it can fail.
    pub fn fail_at(&self, step: u64, kind: FaultKind, repeat: Repeat) {
        self.machine.state().faults.push(Fault { step, kind, repeat });
    }

    /// Takes all faults away.
    pub fn clear_faults(&self) {
        self.machine.state().faults.clear();
    }

    /// How many operations failed by [`SimDisk::fail_at`].
    #[must_use]
    pub fn faults_hit(&self) -> u64 {
        self.machine.state().faults_hit
    }

    /// Cuts the power while the operation with number `step` runs. It may have done any part of its work, and it
    /// and all later ones answer an error for which [`is_power_off`] holds.
    pub fn cut_at(&self, step: u64) {
        self.machine.state().cut_at = Some(step);
    }

    /// Cuts the power so many operations from now, the next one being 0: in one step, where other threads use the disk.
    pub fn cut_in(&self, operations: u64) {
        let mut state = self.machine.state();
        state.cut_at = Some(state.step + operations);
    }

    /// Where the power was cut, once it was.
    #[must_use]
    pub fn cut(&self) -> Option<Cut> {
        self.machine.state().cut
    }

    /// What kind of write was cut, once one was.
    #[must_use]
    pub fn cut_kind(&self) -> Option<WriteKind> {
        self.cut().map(|cut| cut.kind)
    }

    /// How many operations of each kind there were.
    #[must_use]
    pub fn table(&self) -> BTreeMap<(WriteKind, Call), u64> {
        self.machine.state().done.clone()
    }

    /// Live content of all files.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.machine.state();
        state.names.live().iter().map(|(name, inode)| (name.clone(), inode.live())).collect()
    }

    /// Changes a file behind everybody's back, in both images; it may get another length. `false` if there is no
    /// such file. Open handles and maps keep the old content.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.machine.state();
        let Some(inode) = state.names.live().get(name).cloned() else {
            return false;
        };
        let mut bytes = inode.live();
        change(&mut bytes);
        let inode = state.next_inode(|id| Inode::durable(id, bytes.len(), bytes));
        state.names.put_durable(name, inode);
        true
    }

    /// How many writes, name changes and shared files are not synced.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.machine.state().unsynced_count()
    }

    /// The disk as a power cut at this moment (or at the one that happened) may leave it, by `seed`. Faults, limits
    /// on steps and the lock are gone, the capacity stays. This disk stays as it is.
    #[must_use]
    pub fn after_power_loss(&self, seed: u64) -> Self {
        let state = self.machine.state();
        self.reborn(state.after_loss(&mut Loss::by_seed(seed, &state.unsynced_sequence())))
    }

    /// As [`SimDisk::after_power_loss`], but with exactly those of the [`SimDisk::unsynced`] changes, oldest first
    /// and shared files last, for which `survives` answers true. For going through all subsets.
    #[must_use]
    pub fn after_power_loss_with(&self, survives: impl Fn(usize) -> bool) -> Self {
        let state = self.machine.state();
        self.reborn(state.after_loss(&mut Loss::by_choice(survives, &state.unsynced_sequence())))
    }

    /// The disk after the process was killed: all that was written is there, also what is not synced, and the lock
    /// is free. This disk stays as it is.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let state = self.machine.state();
        let mut copies = BTreeMap::new();
        let names = state
            .names
            .copied(|inode| Arc::clone(copies.entry(inode.id()).or_insert_with(|| Arc::new(inode.copied()))));
        let shared = copies.values().filter(|inode| inode.is_shared()).map(Arc::downgrade).collect();
        self.reborn(State {
            names,
            sequence: state.sequence,
            next_inode: state.next_inode,
            capacity: state.capacity,
            shared,
            ..State::default()
        })
    }

    fn reborn(&self, state: State) -> Self {
        Self::of(state, self.machine.map_is_shared)
    }
}

impl State {
    fn next_inode(&mut self, make: impl FnOnce(u64) -> Inode) -> Arc<Inode> {
        self.next_inode += 1;
        Arc::new(make(self.next_inode))
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Sequence numbers of everything not synced, but for stores to shared files.
    fn unsynced_sequence(&self) -> Vec<u64> {
        let mut sequence = self.names.unsynced_sequence();
        self.names.each_inode(|inode| inode.add_unsynced(&mut sequence));
        sequence.sort_unstable();
        sequence
    }

    fn unsynced_count(&self) -> usize {
        let mut stored = 0;
        self.names.each_inode(|inode| stored += usize::from(inode.is_stored_to()));
        self.unsynced_sequence().len() + stored
    }

    fn after_loss(&self, loss: &mut Loss<'_>) -> State {
        let mut reborn = State { capacity: self.capacity, ..State::default() };
        for (name, inode) in self.names.after_loss(loss) {
            let (len, image) = inode.after_loss(loss);
            let inode = reborn.next_inode(|id| Inode::durable(id, len, image));
            reborn.names.put_durable(&name, inode);
        }
        reborn
    }

    /// The machine is off from here on: what is stored to shared maps afterwards never happened.
    fn turn_off(&mut self, step: u64, call: Call, kind: WriteKind) {
        self.names.each_inode(Inode::freeze);
        let unsynced = self.unsynced_count();
        self.cut = Some(Cut { step, call, kind, unsynced });
    }

    /// The cache of a shared file may be written back at any time; a few of these times are noted.
    fn note_history(&mut self, step: u64) {
        if self.shared.is_empty() || !Dice::of(step, 0x5245).chance(1, 4) {
            return;
        }
        self.shared.retain(|inode| inode.strong_count() > 0);
        for inode in self.shared.iter().filter_map(Weak::upgrade) {
            inode.note_history(step);
        }
    }
}

impl Machine {
    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panics under the lock has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation and says how it is to go. `work` does it and is only called if any of it is to be done.
    fn run<T>(
        &self,
        call: Call,
        kind: WriteKind,
        work: impl FnOnce(&mut State, Verdict) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        if state.cut.is_some() {
            return Err(power_off());
        }
        let step = state.step;
        state.step += 1;
        *state.done.entry((kind, call)).or_default() += 1;
        state.note_history(step);
        if state.cut_at == Some(step) {
            let answer = work(&mut state, Verdict::Cut);
            state.turn_off(step, call, kind);
            return answer.and(Err(power_off()));
        }
        let fault = state.faults.iter().find(|fault| fault.bites(step, call)).map(|fault| fault.kind);
        let Some(fault) = fault else {
            return work(&mut state, Verdict::Go);
        };
        state.faults_hit += 1;
        let answer = work(&mut state, Verdict::Fail(fault));
        answer.and(Err(fault.error()))
    }

    fn check_on(&self) -> io::Result<()> {
        if self.state().cut.is_some() { Err(power_off()) } else { Ok(()) }
    }

    fn open_file(self: &Arc<Self>, name: &str, inode: Arc<Inode>, access: Access) -> Arc<dyn StorageFile> {
        Arc::new(SimFile::new(Arc::clone(self), inode, name, access))
    }
}

impl Storage for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.machine
            .run(Call::List, WriteKind::DirectoryEntry, |state, _| Ok(state.names.live().keys().cloned().collect()))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let inode = self.machine.run(Call::Open, WriteKind::of_file(name), |state, _| {
            state.names.live().get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        })?;
        Ok(self.machine.open_file(name, inode, access))
    }

    fn create(&self, name: &str, len: u64, _: Fill) -> io::Result<Arc<dyn StorageFile>> {
        names::check(name)?;
        let inode = self.machine.run(Call::Create, WriteKind::DirectoryEntry, |state, verdict| {
            if verdict.is_fault() {
                return Err(verdict.error());
            }
            if state.names.live().contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let taken = state.names.live().values().map(|inode| inode.len()).sum::<u64>();
            if state.capacity.is_some_and(|capacity| taken.saturating_add(len) > capacity) {
                return Err(FaultKind::Enospc.error());
            }
            let sequence = state.next_sequence();
            let inode = state.next_inode(|id| Inode::new(id, len));
            state.names.create(sequence, name, &inode);
            Ok(inode)
        })?;
        Ok(self.machine.open_file(name, inode, Access::ReadWrite))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        names::check(to)?;
        self.machine.run(Call::Rename, WriteKind::DirectoryEntry, |state, verdict| {
            if verdict.is_fault() {
                return Err(verdict.error());
            }
            let sequence = state.next_sequence();
            state.names.rename(sequence, from, to)
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.machine.run(Call::Remove, WriteKind::DirectoryEntry, |state, verdict| {
            if verdict.is_fault() {
                return Err(verdict.error());
            }
            let sequence = state.next_sequence();
            state.names.remove(sequence, name)
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.machine.run(Call::SyncDir, WriteKind::DirectoryEntry, |state, verdict| {
            // A journal that cannot commit stops; it does not forget. So a failure leaves the names as unsynced as
            // they were.
            if verdict == Verdict::Go {
                state.names.sync();
            }
            Ok(())
        })
    }

    fn lock(&self) -> Result<LockGuard, LockError> {
        self.machine.check_on()?;
        if self.machine.locked.swap(true, Ordering::Acquire) {
            return Err(LockError::Held { pid: Some(std::process::id()) });
        }
        Ok(Box::new(Unlock(Arc::clone(&self.machine.locked))))
    }

    fn map_is_shared(&self) -> bool {
        self.machine.map_is_shared
    }
}

struct Unlock(Arc<AtomicBool>);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
