//! A store in memory that tells a test what is done with its files.

use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Access, Fill, LockError, LockGuard, Memory, Storage, StorageFile};

/// What has just been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done<'a> {
    Listed,
    Opened(&'a str),
}

type Told = dyn Fn(Done<'_>) + Send + Sync;

/// Tells after the storage has done it and before its caller learns that.
#[derive(Default)]
pub(crate) struct Watched {
    pub(crate) memory: Arc<Memory>,
    told: Mutex<Option<Arc<Told>>>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.memory).finish()
    }
}

impl Watched {
    pub(crate) fn of(memory: Arc<Memory>) -> Arc<Self> {
        Arc::new(Self { memory, ..Self::default() })
    }

    pub(crate) fn tell(&self, told: impl Fn(Done<'_>) + Send + Sync + 'static) {
        *self.told.lock() = Some(Arc::new(told));
    }

    fn after<T>(&self, done: Done<'_>, answer: T) -> T {
        let told = self.told.lock().clone();
        if let Some(told) = told {
            told(done);
        }
        answer
    }
}

impl Storage for Watched {
    fn list(&self) -> io::Result<Vec<String>> {
        self.after(Done::Listed, self.memory.list())
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        self.after(Done::Opened(name), self.memory.open(name, access))
    }
    fn create(&self, name: &str, len: u64, fill: Fill) -> io::Result<Arc<dyn StorageFile>> {
        self.memory.create(name, len, fill)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.memory.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.memory.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.memory.sync_dir()
    }
    fn lock(&self) -> Result<LockGuard, LockError> {
        self.memory.lock()
    }
    fn map_is_shared(&self) -> bool {
        self.memory.map_is_shared()
    }
}
