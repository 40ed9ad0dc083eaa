//! Saving: frames appended to the file that is open, synced by whoever comes first for all that wait.
//!
//! A file whose write or sync failed is not written any more: the next save begins another. The log is not touched by any
//! of this, and goes on.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use annals_format::manifest::{Manifest, SnapshotFileEntry};
use annals_format::name;
use annals_format::snapshot::{
    SNAPSHOT_FRAME_HEADER_MAX, SNAPSHOT_HEADER_LEN, STATE_LEN_MAX, SnapshotFileHeader, SnapshotFrame, StateCompression,
    padded,
};
use parking_lot::Mutex;

use super::file::{SnapshotFile, file_name, file_number};
use super::kind::SavedSnapshot;
use crate::append::Durability;
use crate::error::Error;
use crate::log::page_ceiling;
use crate::made_id::random_bytes;
use crate::prepare::no_room;
use crate::query::Seek;
use crate::reader::Reader;
use crate::storage::{Access, Fill, Storage, StorageFile};
use crate::store::Inner;
use crate::{Result, Revision, VERSION, manifest};

/// Length of the first file; each next is twice as long as the one before.
const LEN_FIRST: u64 = 64 << 10;
const LEN_MAX: u64 = 64 << 20;
/// States shorter than this are not worth a try.
const COMPRESSED_FROM: usize = 512;
const LEVEL: i32 = 1;

/// What is saved, but for the state.
pub(super) struct Saving<'a> {
    pub(super) stream: &'a str,
    pub(super) name: &'a str,
    pub(super) schema: u32,
    pub(super) revision: Revision,
    pub(super) durability: Durability,
    pub(super) compresses: bool,
}

/// The one who writes files of snapshots.
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    pub(super) state: Mutex<Writing>,
    syncing: Mutex<()>,
    /// Held by a clean-up, and by whoever copies the files.
    pub(super) cleaning: Mutex<()>,
}

#[derive(Debug)]
pub(super) struct Writing {
    active: Option<Arc<Active>>,
    /// The opening found all as a clean close leaves it, so that the newest file may be gone on with.
    may_continue: bool,
    /// Nothing is written any more.
    is_closed: bool,
    /// Larger than the number of any file made.
    next_number: u64,
    staging: Vec<u8>,
}

/// How far a file reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    end: u64,
    frame_count: u64,
}

/// The file that is appended to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) file: Arc<SnapshotFile>,
    writable: Arc<dyn StorageFile>,
    written: Mutex<Extent>,
    synced: Mutex<Extent>,
    /// What the manifest says of its end.
    listed_end: u64,
    /// Nothing is appended any more.
    write_failed: AtomicBool,
    /// What the file holds behind what was synced is not known.
    sync_failed: AtomicBool,
}

impl Active {
    fn new(file: Arc<SnapshotFile>, writable: Arc<dyn StorageFile>, entry: &SnapshotFileEntry) -> Self {
        let extent = Extent { end: entry.end, frame_count: entry.frame_count };
        Self {
            file,
            writable,
            written: Mutex::new(extent),
            synced: Mutex::new(extent),
            listed_end: entry.end,
            write_failed: AtomicBool::new(false),
            sync_failed: AtomicBool::new(false),
        }
    }

    /// What the manifest may say of it now.
    fn entry(&self, is_ended: bool) -> SnapshotFileEntry {
        let Extent { end, frame_count } = *self.synced.lock();
        SnapshotFileEntry { end, frame_count, is_ended, ..self.file.entry }
    }

    fn fits(&self, len: u64) -> bool {
        let is_sound = !self.write_failed.load(Ordering::Acquire) && !self.sync_failed.load(Ordering::Acquire);
        is_sound && self.written.lock().end + len <= self.file.entry.len
    }
}

impl SnapshotWriter {
    pub(crate) fn new(manifest: &Manifest, is_clean: bool) -> Self {
        let last = manifest.snapshots.iter().map(|entry| entry.number).max().unwrap_or(0);
        let state = Writing {
            active: None,
            may_continue: is_clean,
            is_closed: false,
            next_number: last + 1,
            staging: Vec::new(),
        };
        Self { state: Mutex::new(state), syncing: Mutex::new(()), cleaning: Mutex::new(()) }
    }

    /// All that was saved before this call is synced.
    ///
    /// # Errors
    /// If a sync fails: what was saved since the one before does not count.
    pub(crate) fn sync(&self, inner: &Inner) -> Result<()> {
        let active = self.state.lock().active.clone();
        active.map_or(Ok(()), |active| sync_up_to(inner, &active, u64::MAX))
    }

    /// Nothing is written from here on. All that was saved is synced, and the manifest says so, unless the log has failed.
    pub(crate) fn close(&self, inner: &Inner) -> Result<()> {
        let _no_cleaning = self.cleaning.lock();
        let mut state = self.state.lock();
        state.is_closed = true;
        let Some(active) = state.active.take() else { return Ok(()) };
        inner.core.log.check_poison()?;
        sync_up_to(inner, &active, u64::MAX)?;
        let entry = active.entry(active.write_failed.load(Ordering::Acquire));
        if entry.end == active.listed_end {
            return Ok(());
        }
        save_manifest(inner, |snapshots| put(snapshots, entry))
    }
}

/// Enters what a file is now, in the place of what was said of it before.
pub(super) fn put(snapshots: &mut Vec<SnapshotFileEntry>, entry: SnapshotFileEntry) {
    match snapshots.binary_search_by_key(&entry.number, |known| known.number) {
        Ok(at) => snapshots[at] = entry,
        Err(at) => snapshots.insert(at, entry),
    }
}

/// Makes a manifest whose list of files of snapshots is as `change` leaves it.
pub(super) fn save_manifest(inner: &Inner, change: impl FnOnce(&mut Vec<SnapshotFileEntry>)) -> Result<()> {
    let mut sealing = inner.sealing.lock();
    let mut next = sealing.manifest.clone();
    next.generation += 1;
    next.next_segment = inner.preparer.next_number();
    change(&mut next.snapshots);
    manifest::save(inner.storage.as_ref(), &next).map_err(|error| match error {
        Error::Io { file, source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            no_room_for(&file, source)
        }
        other => other,
    })?;
    inner.preparer.set_manifest_generation(next.generation);
    sealing.manifest = next;
    Ok(())
}

pub(super) fn save(inner: &Inner, reader: &Reader, saving: &Saving<'_>, state: &[u8]) -> Result<SavedSnapshot> {
    if !name::is_well_formed(saving.name.as_bytes()) {
        return Err(Error::invalid("no state can have this name", None));
    }
    if state.len() as u64 > STATE_LEN_MAX {
        return Err(Error::over_limit("the state is too long", None, state.len() as u64, STATE_LEN_MAX));
    }
    inner.core.log.check_poison()?;
    let event = reader.read_stream(saving.stream, Seek::At(saving.revision.get()))?.next().transpose()?;
    let Some(event) = event.filter(|event| event.revision() == saving.revision) else {
        return Err(Error::invalid("the stream has no such revision that can be read", None));
    };
    // Nothing that names an undurable position is written before it is durable.
    if !cfg!(annals_plant = "snapshot-ahead-of-log") {
        inner.wait_durable(event.position().get())?;
    }
    let packed = if saving.compresses { compressed(state) } else { None };
    let frame = SnapshotFrame {
        stream: saving.stream,
        name: saving.name,
        schema: saving.schema,
        incarnation: inner.core.lineage.newest(),
        event: event.id().to_bytes(),
        position: event.position().get(),
        revision: event.revision().get(),
        saved_at: 0,
        synced_upto: 0,
        stored_len: packed.as_ref().map_or(state.len(), Vec::len) as u64,
        state_len: state.len() as u64,
        state_checksum: 0,
        compression: if packed.is_some() { StateCompression::Zstd } else { StateCompression::None },
    };
    let (active, end) = append(inner, frame, packed.as_deref().unwrap_or(state))?;
    if saving.durability == Durability::Durable {
        sync_up_to(inner, &active, end)?;
    }
    Ok(SavedSnapshot {
        revision: event.revision(),
        position: event.position(),
        stored_len: frame.stored_len,
        is_compressed: packed.is_some(),
        durability: saving.durability,
    })
}

/// The state compressed, if that saves a quarter.
fn compressed(state: &[u8]) -> Option<Vec<u8>> {
    if state.len() < COMPRESSED_FROM {
        return None;
    }
    let packed = zstd::bulk::compress(state, LEVEL).ok()?;
    (packed.len() <= state.len() / 4 * 3).then_some(packed)
}

/// Writes a frame and enters it; answers the file and where the frame ends in it.
fn append(inner: &Inner, frame: SnapshotFrame<'_>, stored: &[u8]) -> Result<(Arc<Active>, u64)> {
    let shelf = &inner.core.snapshots;
    let mut state = inner.snapshots.state.lock();
    state.check_open()?;
    drop(shelf.table()?);
    let len = frame.header_len() as u64 + padded(stored.len() as u64);
    let active = state.room_for(inner, len)?;
    let Extent { end: offset, frame_count } = *active.written.lock();
    let frame = SnapshotFrame {
        // Larger than any before, whatever the clock does: of two at the same revision the one saved later counts.
        saved_at: inner.options.now().max(shelf.change(|table| table.last_saved_at) + 1),
        synced_upto: active.synced.lock().end,
        ..frame
    };
    let mut staging = std::mem::take(&mut state.staging);
    staging.clear();
    frame.encode(active.file.seed, offset, stored, &mut staging);
    let written = active.writable.write_at(offset, &[IoSlice::new(&staging)]);
    if staging.capacity() <= LEN_FIRST as usize {
        state.staging = staging;
    }
    if let Err(error) = written {
        // What stands behind the last whole frame is not known.
        active.write_failed.store(true, Ordering::Release);
        return Err(no_room_for(&active.file.name, error));
    }
    let end = offset + len;
    *active.written.lock() = Extent { end, frame_count: frame_count + 1 };
    shelf.change(|table| {
        table.enter(shelf.hash, active.file.entry.number, offset, &frame);
        if let Some(shelved) = table.files.get_mut(&active.file.entry.number) {
            shelved.end = end;
            shelved.frame_count += 1;
        }
    });
    Ok((active, end))
}

fn no_room_for(name: &str, error: std::io::Error) -> Error {
    match no_room(name, error) {
        Error::NoSpace { reason, .. } => Error::NoSpace { action: "saving a snapshot", reason },
        Error::Io { source, file, .. } => Error::Io { action: "write", file, source },
        other => other,
    }
}

/// Returns once all before `end`, as far as it was written, is synced: by this call, or by another that did it for all.
fn sync_up_to(inner: &Inner, active: &Active, end: u64) -> Result<()> {
    let _one = inner.snapshots.syncing.lock();
    let written = *active.written.lock();
    let synced = active.synced.lock().end;
    if synced >= end.min(written.end) {
        return Ok(());
    }
    // A second sync may say that all is well where it is not.
    let had_failed = active.sync_failed.load(Ordering::Acquire);
    let answer = match had_failed {
        true => Err(std::io::Error::other("an earlier sync of the file failed")),
        false if cfg!(annals_plant = "snapshot-not-synced") => Ok(()),
        false => active.writable.sync(),
    };
    match answer {
        Ok(()) => {
            *active.synced.lock() = written;
            Ok(())
        }
        Err(source) => {
            active.sync_failed.store(true, Ordering::Release);
            inner.core.snapshots.change(|table| table.forget(active.file.entry.number, synced));
            Err(Error::Io { action: "sync", file: active.file.name.clone(), source })
        }
    }
}

impl Writing {
    pub(super) fn check_open(&self) -> Result<()> {
        match self.is_closed {
            true => Err(Error::Poisoned { reason: "the store is closed".to_owned() }),
            false => Ok(()),
        }
    }

    /// The file to append `len` bytes to: the open one, or one begun now.
    fn room_for(&mut self, inner: &Inner, len: u64) -> Result<Arc<Active>> {
        if self.active.is_none() && std::mem::take(&mut self.may_continue) {
            self.active = continued(inner)?.map(Arc::new);
        }
        if let Some(active) = self.active.as_ref().filter(|active| active.fits(len)) {
            return Ok(active.clone());
        }
        self.begin(inner, len)
    }

    /// Ends the open file, if there is one, so that nothing is appended to it any more; answers what it is now, to be said
    /// in the next manifest.
    ///
    /// # Errors
    /// If what was saved in it cannot be synced: then that does not count, which the manifest says already.
    pub(super) fn end(&mut self, inner: &Inner) -> Result<Option<SnapshotFileEntry>> {
        self.may_continue = false;
        let Some(active) = self.active.take() else { return Ok(None) };
        // Whoever met a failed sync of it was told: it is not told of again.
        let was_told = active.sync_failed.load(Ordering::Acquire);
        let synced = sync_up_to(inner, &active, u64::MAX);
        let entry = active.entry(true);
        if let (Err(error), false) = (synced, was_told) {
            save_manifest(inner, |snapshots| put(snapshots, entry))?;
            return Err(error);
        }
        Ok(Some(entry))
    }

    /// The number of a file to be made.
    pub(super) fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    fn begin(&mut self, inner: &Inner, needed: u64) -> Result<Arc<Active>> {
        let before = self.active.as_ref().map_or(0, |active| active.file.entry.len);
        let least = page_ceiling(SNAPSHOT_HEADER_LEN as u64 + needed);
        let len = (before * 2).clamp(LEN_FIRST, LEN_MAX).max(least);
        inner.preparer.check_quota(len)?;
        let ended = self.end(inner)?;
        let number = self.take_number();
        let name = file_name(number);
        let durable = make(inner.storage.as_ref(), &name, number, len, inner).and_then(|made| {
            made.0.sync().map_err(Error::io("sync", &name))?;
            inner.storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
            Ok(made)
        });
        let (file, entry) = match durable {
            Ok(made) => made,
            Err(error) => {
                // Nothing lists it: if it stays, the next opening removes it.
                let _ = inner.storage.remove(&name);
                if let Some(entry) = ended {
                    save_manifest(inner, |snapshots| put(snapshots, entry))?;
                }
                return Err(error);
            }
        };
        // Listed before the first frame is written, and not removed any more: a manifest that failed may be there after all.
        save_manifest(inner, |snapshots| {
            ended.into_iter().chain([entry]).for_each(|entry| put(snapshots, entry));
        })?;
        inner.preparer.add_to_total(len);
        let shelf = &inner.core.snapshots;
        let readable = shelf.made(file.clone(), entry);
        shelf.change(|table| {
            let scanned = super::file::Scanned { end: entry.end, ..Default::default() };
            table.shelve(&readable, scanned);
        });
        let active = Arc::new(Active::new(readable, file, &entry));
        self.active = Some(active.clone());
        Ok(active)
    }
}

/// Makes a file that holds its header, not synced.
pub(super) fn make(
    storage: &dyn Storage,
    name: &str,
    number: u64,
    len: u64,
    inner: &Inner,
) -> Result<(Arc<dyn StorageFile>, SnapshotFileEntry)> {
    make_for(storage, name, number, len, &inner.core.snapshots.store, inner.options.now())
}

pub(super) fn make_for(
    storage: &dyn Storage,
    name: &str,
    number: u64,
    len: u64,
    store: &[u8; 16],
    now: u64,
) -> Result<(Arc<dyn StorageFile>, SnapshotFileEntry)> {
    let id = random_bytes()?;
    let file = storage.create(name, len, Fill::Allocated).map_err(|error| no_room_for(name, error))?;
    let header = SnapshotFileHeader { store: *store, id, number, len, created_at: now, written_by: VERSION };
    file.write_at(0, &[IoSlice::new(&header.encode())]).map_err(|error| no_room_for(name, error))?;
    let end = SNAPSHOT_HEADER_LEN as u64;
    Ok((file, SnapshotFileEntry { number, id, len, end, frame_count: 0, is_ended: false }))
}

/// The newest file, after a clean close that says where it ends.
fn continued(inner: &Inner) -> Result<Option<Active>> {
    let Some(entry) = inner.sealing.lock().manifest.snapshots.last().copied().filter(|entry| !entry.is_ended) else {
        return Ok(None);
    };
    let table = inner.core.snapshots.table()?;
    let Some(shelved) = table.files.get(&entry.number) else { return Ok(None) };
    let is_whole = table.damage.is_empty() && (shelved.end, shelved.frame_count) == (entry.end, entry.frame_count);
    if !is_whole || entry.end + SNAPSHOT_FRAME_HEADER_MAX as u64 > entry.len {
        return Ok(None);
    }
    let name = &shelved.file.name;
    let writable = inner.storage.open(name, Access::ReadWrite).map_err(Error::io("open", name))?;
    Ok(Some(Active::new(shelved.file.clone(), writable, &entry)))
}

/// Files of snapshots that no manifest lists: what a crash left of making or of cleaning.
pub(crate) fn remove_unlisted(storage: &dyn Storage, names: &[String], manifest: &Manifest) -> Result<()> {
    let is_listed = |name: &String| {
        file_number(name).is_some_and(|number| manifest.snapshots.iter().any(|entry| entry.number == number))
    };
    for name in names.iter().filter(|name| super::is_file_of_snapshots(name) && !is_listed(name)) {
        storage.remove(name).map_err(Error::io("remove", name))?;
    }
    Ok(())
}
