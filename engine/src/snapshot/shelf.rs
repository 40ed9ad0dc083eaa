//! All snapshots of a store, as one process sees them.
//!
//! The table is made when the first snapshot is asked for. The writer keeps it up by itself; in other processes each question
//! looks whether there is more: at the names in the directory, and behind the end of the file that is being written.

use std::sync::Arc;

use annals_format::manifest::{Manifest, SnapshotFileEntry};
use annals_format::snapshot::{SnapshotFrame, StateCompression, padded};
use parking_lot::{RwLock, RwLockReadGuard};

use super::file::{SnapshotFile, file_number};
use super::state::Snapshot;
use super::table::{Entry, Table};
use crate::Result;
use crate::error::{Corrupt, Error};
use crate::manifest::{generation_of, load_newest};
use crate::name::NameHash;
use crate::options::ReadMode;
use crate::recovery::list;
use crate::storage::{Map, Storage};

/// How often files that moved under a look are looked at again.
const TRIES: usize = 20;

#[derive(Debug)]
pub(crate) struct Shelf {
    storage: Arc<dyn Storage>,
    pub(crate) store: [u8; 16],
    pub(crate) hash: NameHash,
    mode: ReadMode,
    /// Whether another process may be writing.
    is_foreign: bool,
    loaded: RwLock<Option<Loaded>>,
    /// The files that the manifest of the opening lists.
    listed: Vec<SnapshotFileEntry>,
}

#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) table: Table,
    /// Names of manifests and files of snapshots at the last look.
    seen: Vec<String>,
}

/// The snapshots of a stream, newest first, and what of all snapshots cannot be read.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    pub(crate) entries: Vec<Placed>,
    pub(crate) damage: Vec<Corrupt>,
}

/// A snapshot with its file, which stays readable when a clean-up takes its name away.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) entry: Entry,
    file: Arc<SnapshotFile>,
}

impl Placed {
    pub(crate) fn all(table: &Table, entries: &[Entry]) -> Vec<Self> {
        let placed = entries.iter().filter_map(|entry| {
            let shelved = table.files.get(&entry.file)?;
            Some(Self { entry: *entry, file: shelved.file.clone() })
        });
        placed.collect()
    }

    /// Reads the frame; its header is verified.
    pub(crate) fn read(&self) -> Result<Stored> {
        let Self { entry, file } = self;
        let len = usize::try_from(entry.len).unwrap_or(usize::MAX);
        let (map, begin) = file.hold(entry.offset, len)?;
        let bytes = &map[begin..begin + len];
        let frame = SnapshotFrame::decode(bytes, file.seed, entry.offset)
            .map_err(|fault| Error::damaged(&file.name, entry.offset, Some(entry.position), &fault, 0))?;
        let header_len = frame.header_len();
        if frame.len() != entry.len {
            return Err(Error::corrupt(&file.name, entry.offset, Some(entry.position), "it is not what it was"));
        }
        Ok(Stored { file: file.clone(), entry: *entry, map, begin, header_len })
    }
}

/// A frame, read and verified: what it says, and its state as it is stored.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) file: Arc<SnapshotFile>,
    pub(crate) entry: Entry,
    map: Map,
    begin: usize,
    header_len: usize,
}

impl Stored {
    pub(crate) fn frame(&self) -> Result<SnapshotFrame<'_>> {
        let bytes = &self.map[self.begin..self.begin + self.header_len];
        SnapshotFrame::decode(bytes, self.file.seed, self.entry.offset)
            .map_err(|fault| Error::damaged(&self.file.name, self.entry.offset, None, &fault, 0))
    }

    /// The stored state, verified.
    pub(crate) fn stored(&self) -> Result<&[u8]> {
        let frame = self.frame()?;
        let begin = self.begin + self.header_len;
        frame
            .check_state(&self.map[begin..begin + padded(frame.stored_len) as usize], self.file.seed, self.entry.offset)
            .map_err(|fault| Error::damaged(&self.file.name, self.entry.offset, Some(frame.position), &fault, 0))
    }

    /// The state, decoded where it is compressed.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        let stored = self.stored()?;
        let frame = self.frame()?;
        let begin = self.begin + self.header_len;
        let (map, begin) = match frame.compression {
            StateCompression::None => (self.map.clone(), begin),
            StateCompression::Zstd => (self.decoded(stored, frame.state_len)?, 0),
        };
        Ok(Snapshot::new(&frame, map, begin))
    }

    /// Exactly `len` bytes, which the format caps; memory for more is never taken.
    fn decoded(&self, stored: &[u8], len: u64) -> Result<Map> {
        let wrong = |what: String| Error::corrupt(&self.file.name, self.entry.offset, Some(self.entry.position), what);
        let len = len as usize;
        let mut answer = Ok(0);
        let map = Map::copied(len, None, |bytes| answer = zstd::bulk::decompress_to_buffer(stored, bytes));
        match answer {
            Ok(got) if got == len => Ok(map),
            Ok(got) => Err(wrong(format!("the state decodes to {got} bytes instead of {len}"))),
            Err(error) => Err(wrong(format!("the state does not decode to {len} bytes: {error}"))),
        }
    }
}

impl Shelf {
    /// Of the process that writes the store.
    pub(crate) fn of_writer(storage: Arc<dyn Storage>, manifest: &Manifest, mode: ReadMode) -> Arc<Self> {
        Self::new(storage, manifest, mode, false)
    }

    /// Of a process that reads it, beside a writer or alone. What an earlier look has found is gone on with.
    pub(crate) fn of_reader(
        storage: &Arc<dyn Storage>,
        manifest: &Manifest,
        mode: ReadMode,
        before: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        match before.filter(|before| before.store == manifest.store && Arc::ptr_eq(&before.storage, storage)) {
            Some(before) => before.clone(),
            None => Self::new(storage.clone(), manifest, mode, true),
        }
    }

    fn new(storage: Arc<dyn Storage>, manifest: &Manifest, mode: ReadMode, is_foreign: bool) -> Arc<Self> {
        let hash = NameHash { seed: manifest.name_hash_seed };
        let listed = manifest.snapshots.clone();
        Arc::new(Self { storage, store: manifest.store, hash, mode, is_foreign, loaded: RwLock::default(), listed })
    }

    pub(crate) fn open(&self, entry: SnapshotFileEntry) -> Result<Arc<SnapshotFile>> {
        SnapshotFile::open(&*self.storage, entry, &self.store, self.mode).map(Arc::new)
    }

    /// A file that was made just now.
    pub(crate) fn made(
        &self,
        file: Arc<dyn crate::storage::StorageFile>,
        entry: SnapshotFileEntry,
    ) -> Arc<SnapshotFile> {
        Arc::new(SnapshotFile::of(file, super::file_name(entry.number), entry, &self.store, self.mode))
    }

    /// The table as it is now.
    pub(crate) fn table(&self) -> Result<impl std::ops::Deref<Target = Table> + '_> {
        if self.is_foreign {
            self.look()?;
        } else if self.loaded.read().is_none() {
            let mut loaded = self.loaded.write();
            if loaded.is_none() {
                let mut table = Table::default();
                self.take_in(&mut table, &self.listed)?;
                *loaded = Some(Loaded { table, seen: Vec::new() });
            }
        }
        Ok(RwLockReadGuard::map(self.loaded.read(), |loaded| &loaded.as_ref().expect("loaded above").table))
    }

    /// Changes the table, which the caller has loaded before.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut loaded = self.loaded.write();
        change(&mut loaded.get_or_insert_default().table)
    }

    /// The files of an opening for writing that has not asked for a snapshot yet.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.read().is_some()
    }

    fn take_in(&self, table: &mut Table, entries: &[SnapshotFileEntry]) -> Result<()> {
        for entry in entries {
            match self.open(*entry) {
                Ok(file) => {
                    table.damage.extend(file.check_header(&self.store)?);
                    let len = file.file.len().map_err(Error::io("measure", &file.name))?;
                    let mut range = file.whole();
                    range.limit = range.limit.min(len);
                    self.scan(table, &file, range)?;
                }
                Err(Error::Corrupt(corrupt)) => table.damage.push(*corrupt),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn scan(&self, table: &mut Table, file: &Arc<SnapshotFile>, range: super::file::Range) -> Result<()> {
        let number = file.entry.number;
        let scanned = file.scan(range, &mut |offset, frame| table.enter(self.hash, number, offset, frame))?;
        table.shelve(file, scanned);
        Ok(())
    }

    /// In a process that does not write: what came since the last look.
    fn look(&self) -> Result<()> {
        for tries in 0.. {
            let mut names = list(&*self.storage)?;
            names.retain(|name| generation_of(name).is_some() || file_number(name).is_some());
            names.sort_unstable();
            let mut held = self.loaded.write();
            let loaded = match &mut *held {
                Some(loaded) if loaded.seen == names => {
                    return self.look_behind(&mut loaded.table);
                }
                held => held.get_or_insert_default(),
            };
            let listed = match load_newest(&*self.storage, &names) {
                Ok(manifest) => manifest.map(|manifest| manifest.snapshots).unwrap_or_default(),
                Err(_) if tries < TRIES => continue,
                Err(error) => return Err(error),
            };
            // One that is gone may have left its number to another, when the manifest that listed it was lost in a power cut.
            let is_listed = |held: &SnapshotFileEntry| {
                listed.iter().any(|entry| (entry.number, entry.id) == (held.number, held.id))
            };
            let has_gone = loaded.table.files.values().any(|shelved| !is_listed(&shelved.file.entry));
            if has_gone || !loaded.table.damage.is_empty() {
                *loaded = Loaded::default();
            }
            let known = |entry: &&SnapshotFileEntry| !loaded.table.files.contains_key(&entry.number);
            let new: Vec<SnapshotFileEntry> = listed.iter().filter(known).copied().collect();
            self.take_in(&mut loaded.table, &new)?;
            // A file that goes while it is looked for was taken into another one.
            if loaded.table.damage.is_empty() || tries >= TRIES || self.is_same(&names)? {
                loaded.seen = names;
                return self.look_behind(&mut loaded.table);
            }
            *held = None;
        }
        Ok(())
    }

    fn is_same(&self, seen: &[String]) -> Result<bool> {
        let mut names = list(&*self.storage)?;
        names.retain(|name| generation_of(name).is_some() || file_number(name).is_some());
        names.sort_unstable();
        Ok(names == seen)
    }

    /// What was written behind the end of files that are open.
    fn look_behind(&self, table: &mut Table) -> Result<()> {
        let open: Vec<_> = table.files.values().filter(|shelved| !shelved.file.entry.is_ended).collect();
        let open: Vec<_> = open.into_iter().map(|shelved| (shelved.file.clone(), shelved.end)).collect();
        for (file, end) in open {
            let len = file.file.len().map_err(Error::io("measure", &file.name))?;
            let range = super::file::Range { from: end, limit: file.entry.len.min(len), ..file.whole() };
            self.scan(table, &file, range)?;
        }
        Ok(())
    }

    /// The snapshots of a stream, newest first.
    pub(crate) fn of_stream(&self, stream: &str) -> Result<Candidates> {
        if !self.is_foreign && self.listed.is_empty() && !self.is_loaded() {
            return Ok(Candidates::default());
        }
        let table = self.table()?;
        Ok(Candidates { entries: table.of_stream(self.hash, stream), damage: table.damage.clone() })
    }
}
