//! A simulated disk that calls somebody after each operation, while the engine is in the middle of its own.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use annals::storage::{Access, Fill, LockError, LockGuard, Map, SharedMap, Storage, StorageFile};

use crate::sim_disk::{Call, SimDisk, WriteKind};

type Hook = Arc<dyn Fn() + Send + Sync>;

/// The disk, and what is called.
#[derive(Clone)]
pub struct Hooked {
    disk: SimDisk,
    hook: Hook,
    /// Whether only operations that failed are followed by the hook.
    failed_alone: bool,
    /// The hook may use the store itself; what that does is not hooked again.
    calling: Arc<AtomicBool>,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hooked").field(&self.disk).finish()
    }
}

impl Hooked {
    /// Calls `hook` after every operation of `disk` that can fail.
    pub fn new(disk: &SimDisk, hook: impl Fn() + Send + Sync + 'static) -> Self {
        Self { disk: disk.clone(), hook: Arc::new(hook), failed_alone: false, calling: Arc::default() }
    }

    /// Calls `hook` after every operation of `disk` that failed, in the thread to which it failed and before it learns that.
    pub fn on_failure(disk: &SimDisk, hook: impl Fn() + Send + Sync + 'static) -> Self {
        Self { failed_alone: true, ..Self::new(disk, hook) }
    }

    fn after<T>(&self, answer: io::Result<T>) -> io::Result<T> {
        if self.failed_alone && answer.is_ok() {
            return answer;
        }
        if !self.calling.swap(true, Ordering::AcqRel) {
            (self.hook)();
            self.calling.store(false, Ordering::Release);
        }
        answer
    }

    fn file(&self, file: io::Result<Arc<dyn StorageFile>>) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.after(file)?;
        Ok(Arc::new(HookedFile { hooked: self.clone(), file }))
    }
}

impl Storage for Hooked {
    fn list(&self) -> io::Result<Vec<String>> {
        self.after(self.disk.list())
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        self.file(self.disk.open(name, access))
    }
    fn create(&self, name: &str, len: u64, fill: Fill) -> io::Result<Arc<dyn StorageFile>> {
        self.file(self.disk.create(name, len, fill))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.after(self.disk.rename(from, to))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.after(self.disk.remove(name))
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.after(self.disk.sync_dir())
    }
    fn lock(&self) -> Result<LockGuard, LockError> {
        self.disk.lock()
    }
    fn map_is_shared(&self) -> bool {
        self.disk.map_is_shared()
    }
}

#[derive(Debug)]
struct HookedFile {
    hooked: Hooked,
    file: Arc<dyn StorageFile>,
}

impl StorageFile for HookedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.hooked.after(self.file.read_at(offset, buf))
    }
    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.hooked.after(self.file.write_at(offset, parts))
    }
    fn sync(&self) -> io::Result<()> {
        self.hooked.after(self.file.sync())
    }
    fn map(&self) -> io::Result<Map> {
        self.hooked.after(self.file.map())
    }
    fn map_shared(&self) -> io::Result<SharedMap> {
        self.hooked.after(self.file.map_shared())
    }
    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
}

/// What each operation of a disk is about, in order.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Vec<(u64, WriteKind, Call)>>>);

impl Trace {
    /// The disk, noting its operations from now on.
    #[must_use]
    pub fn of(&self, disk: &SimDisk) -> Hooked {
        let (noted, watched) = (self.clone(), disk.clone());
        let before = Mutex::new(disk.table());
        Hooked::new(disk, move || {
            let table = watched.table();
            let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
            let new = table.iter().find(|(key, count)| before.get(key) != Some(count));
            if let Some(((kind, call), _)) = new {
                noted.steps_mut().push((watched.steps() - 1, *kind, *call));
            }
            *before = table;
        })
    }

    fn steps_mut(&self) -> std::sync::MutexGuard<'_, Vec<(u64, WriteKind, Call)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number, kind and call of every operation.
    #[must_use]
    pub fn steps(&self) -> Vec<(u64, WriteKind, Call)> {
        self.steps_mut().clone()
    }
}
