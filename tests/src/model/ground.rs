//! Where a test's store lives: in memory or on the file system.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use annals::storage::{Disk, Memory, Storage};
use annals::{Options, ReadOnly, Store};
use tempfile::TempDir;

/// An empty place for one store, gone when it is dropped.
#[derive(Debug)]
pub struct Ground {
    storage: Arc<dyn Storage>,
    dir: Option<TempDir>,
}

impl Ground {
    /// On the heap.
    #[must_use]
    pub fn memory() -> Self {
        Self { storage: Arc::new(Memory::new()), dir: None }
    }

    /// In a temporary directory.
    ///
    /// # Panics
    /// If there is no place for temporary directories.
    #[must_use]
    pub fn disk() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = Disk::create_dir(dir.path()).expect("an open directory");
        Self { storage: Arc::new(disk), dir: Some(dir) }
    }

    /// The storage itself.
    #[must_use]
    pub fn storage(&self) -> Arc<dyn Storage> {
        self.storage.clone()
    }

    /// The directory, if it is on disk.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.dir.as_ref().map(TempDir::path).map(Path::to_owned)
    }

    /// Opens the store for writing.
    ///
    /// # Panics
    /// If it cannot be opened.
    #[must_use]
    pub fn open(&self, options: Options) -> Store {
        options.open_storage(self.storage()).expect("the store opens")
    }

    /// Opens the store for reading.
    ///
    /// # Panics
    /// If it cannot be opened.
    #[must_use]
    pub fn open_read_only(&self, options: Options) -> ReadOnly {
        options.open_read_only_storage(self.storage()).expect("the store opens for reading")
    }
}

/// Runs a test in memory and on disk.
pub fn on_each_ground(test: impl Fn(&Ground)) {
    for ground in [Ground::memory(), Ground::disk()] {
        test(&ground);
    }
}
