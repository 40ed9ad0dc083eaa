//! Files of the directory made, listed and removed, in the same order as tiers, and by the same index manifest.

use std::sync::atomic::AtomicBool;

use annals_format::manifest::Manifest;

use super::keeper::TierKeeper;
use super::stored::{remove, save};
use crate::directory::{self, Directory, DirectoryPlan, Pending, directory_name};
use crate::error::Error;
use crate::storage::Storage;
use crate::{Result, VERSION};

/// After so many drops the directory is left as it is until the next opening.
const DROPS_MAX: u32 = 64;

/// The directory that holds from now on. Put it in place, then [remove](ReplacedDirectory::remove_files) the files of the
/// one before.
#[derive(Debug)]
#[must_use]
pub(crate) struct ReplacedDirectory {
    pub(crate) directory: Directory,
    removed: Vec<String>,
}

impl ReplacedDirectory {
    /// Readers keep the maps of the files that they hold.
    ///
    /// # Errors
    /// `Io`; what is left is removed at the next opening.
    pub(crate) fn remove_files(&self, storage: &dyn Storage) -> Result<()> {
        self.removed.iter().try_for_each(|name| remove(storage, name))
    }
}

impl TierKeeper {
    /// Adds the streams of `pending`, if there are any, to the directory, of which every file is sound. `None`: `stop` was set, or
    /// it failed before.
    ///
    /// # Errors
    /// As of a merge of tiers; nothing has changed then, but that a file of the directory may be broken.
    pub(crate) fn extend_directory(
        &mut self,
        storage: &dyn Storage,
        directory: &Directory,
        (pending, is_quiet): (&Pending, bool),
        store: &Manifest,
        pace: &mut dyn FnMut(u64),
        stop: &AtomicBool,
    ) -> Result<Option<ReplacedDirectory>> {
        let coverage = directory.coverage();
        if self.refused_directory == Some(coverage) || self.directory_drops > DROPS_MAX {
            return Ok(None);
        }
        let plan = DirectoryPlan {
            storage,
            store,
            mode: self.mode,
            number: self.index.next_file,
            generation: self.index.generation + 1,
            files: directory.sound(),
            pending,
            is_quiet,
        };
        let number = plan.number;
        let written = directory::write(&plan, pace, stop).inspect_err(|error| {
            let passing = matches!(error, Error::NoSpace { .. } | Error::Io { .. });
            if !passing && !directory.is_broken() {
                self.refused_directory = Some(coverage);
            }
        });
        let Some(files) = written? else { return Ok(None) };
        self.replace_directory(storage, directory, Directory::new(files)).map(Some).inspect_err(|_| {
            // As with tiers.
            let _ = remove(storage, &directory_name(number));
        })
    }

    /// Takes files with which something is wrong, and those after them, off the list.
    ///
    /// # Errors
    /// `NoSpace` or `Io`: they stay on the list, where nobody asks them.
    pub(crate) fn drop_broken_directory(
        &mut self,
        storage: &dyn Storage,
        directory: &Directory,
    ) -> Result<ReplacedDirectory> {
        self.directory_drops += 1;
        self.replace_directory(storage, directory, Directory::new(directory.sound().to_vec()))
    }

    fn replace_directory(
        &mut self,
        storage: &dyn Storage,
        before: &Directory,
        after: Directory,
    ) -> Result<ReplacedDirectory> {
        let mut next = self.index.clone();
        next.generation += 1;
        next.written_by = VERSION;
        // Of those added one is new, and no number is larger.
        let newest = after.iter().map(|file| file.entry().number + 1).max();
        next.next_file = newest.map_or(next.next_file, |newest| newest.max(next.next_file));
        next.directories = after.iter().map(|file| *file.entry()).collect();
        save(storage, &next)?;
        self.is_stale = false;
        self.index = next;
        let is_gone = |number: u64| !after.iter().any(|file| file.entry().number == number);
        let gone = before.iter().filter(|file| is_gone(file.entry().number));
        let removed = gone.map(|file| file.name().to_owned()).collect();
        Ok(ReplacedDirectory { directory: after, removed })
    }
}
