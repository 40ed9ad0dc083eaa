//! The directory: names as they are shown, names as they are for certain, and the changes in between.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::inode::Inode;
use super::loss::Loss;

#[derive(Debug, Default)]
pub(super) struct Names {
    live: Table,
    durable: Table,
    /// Changes since the last sync of the directory, oldest first.
    unsynced: Vec<(u64, Change)>,
}

type Table = BTreeMap<String, Arc<Inode>>;

#[derive(Debug)]
enum Change {
    Create { name: String, inode: Arc<Inode> },
    Rename { from: String, to: String, inode: Arc<Inode> },
    Remove { name: String },
}

impl Names {
    pub(super) fn live(&self) -> &Table {
        &self.live
    }

    pub(super) fn put_durable(&mut self, name: &str, inode: Arc<Inode>) {
        self.durable.insert(name.to_owned(), Arc::clone(&inode));
        self.live.insert(name.to_owned(), inode);
    }

    pub(super) fn create(&mut self, sequence: u64, name: &str, inode: &Arc<Inode>) {
        self.apply(sequence, Change::Create { name: name.to_owned(), inode: Arc::clone(inode) });
    }

    pub(super) fn rename(&mut self, sequence: u64, from: &str, to: &str) -> io::Result<()> {
        let inode = Arc::clone(self.live.get(from).ok_or(io::ErrorKind::NotFound)?);
        self.apply(sequence, Change::Rename { from: from.to_owned(), to: to.to_owned(), inode });
        Ok(())
    }

    pub(super) fn remove(&mut self, sequence: u64, name: &str) -> io::Result<()> {
        if !self.live.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.apply(sequence, Change::Remove { name: name.to_owned() });
        Ok(())
    }

    fn apply(&mut self, sequence: u64, change: Change) {
        change.apply_to(&mut self.live);
        self.unsynced.push((sequence, change));
    }

    pub(super) fn sync(&mut self) {
        self.durable.clone_from(&self.live);
        self.unsynced.clear();
    }

    pub(super) fn unsynced_sequence(&self) -> Vec<u64> {
        self.unsynced.iter().map(|(sequence, _)| *sequence).collect()
    }

    /// The names a power cut leaves: the durable ones, with those changes that happened to be written.
    pub(super) fn after_loss(&self, loss: &mut Loss<'_>) -> Table {
        let mut names = self.durable.clone();
        for (sequence, change) in &self.unsynced {
            if loss.keeps_name(*sequence) {
                change.apply_to(&mut names);
            }
        }
        names
    }

    /// Calls `each` once for every file that has a name, or may get one back.
    pub(super) fn each_inode(&self, mut each: impl FnMut(&Inode)) {
        let changed = self.unsynced.iter().filter_map(|(_, change)| change.inode());
        let all: BTreeMap<u64, &Arc<Inode>> =
            self.live.values().chain(self.durable.values()).chain(changed).map(|inode| (inode.id(), inode)).collect();
        all.into_values().for_each(|inode| each(inode));
    }

    /// The same directory of copied files.
    pub(super) fn copied(&self, mut copy: impl FnMut(&Inode) -> Arc<Inode>) -> Self {
        let mut table =
            |table: &Table| -> Table { table.iter().map(|(name, inode)| (name.clone(), copy(inode))).collect() };
        let (live, durable) = (table(&self.live), table(&self.durable));
        let unsynced = self.unsynced.iter().map(|(sequence, change)| (*sequence, change.copied(&mut copy))).collect();
        Self { live, durable, unsynced }
    }
}

impl Change {
    fn apply_to(&self, names: &mut Table) {
        match self {
            Self::Create { name, inode } => drop(names.insert(name.clone(), Arc::clone(inode))),
            Self::Rename { from, to, inode } => {
                // By the file and not by its name alone: an earlier change of the name may not have happened.
                names.retain(|name, other| name != from || !Arc::ptr_eq(other, inode));
                names.insert(to.clone(), Arc::clone(inode));
            }
            Self::Remove { name } => drop(names.remove(name)),
        }
    }

    fn inode(&self) -> Option<&Arc<Inode>> {
        match self {
            Self::Create { inode, .. } | Self::Rename { inode, .. } => Some(inode),
            Self::Remove { .. } => None,
        }
    }

    fn copied(&self, copy: &mut impl FnMut(&Inode) -> Arc<Inode>) -> Self {
        match self {
            Self::Create { name, inode } => Self::Create { name: name.clone(), inode: copy(inode) },
            Self::Rename { from, to, inode } => Self::Rename { from: from.clone(), to: to.clone(), inode: copy(inode) },
            Self::Remove { name } => Self::Remove { name: name.clone() },
        }
    }
}

/// Refuses what is no plain name, as the real disk does.
pub(super) fn check(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(())
}
