//! A storage that counts what is read through it.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals::storage::{Access, Fill, LockError, LockGuard, Map, SharedMap, Storage, StorageFile};

/// Counts the bytes read by ordinary calls, and the calls that open a file, list the directory, read, or map.
///
/// Its lock is given to everybody: who forgets an open store without threads and opens it again has killed a process.
#[derive(Clone, Debug)]
pub struct Counted {
    storage: Arc<dyn Storage>,
    bytes: Arc<AtomicU64>,
    calls: Arc<AtomicU64>,
}

impl Counted {
    /// The same files, counted from now on.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, bytes: Arc::default(), calls: Arc::default() }
    }

    /// Bytes and calls since this was asked last.
    #[must_use]
    pub fn take(&self) -> (u64, u64) {
        (self.bytes.swap(0, Ordering::Relaxed), self.calls.swap(0, Ordering::Relaxed))
    }

    fn call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn file(&self, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(CountedFile { counted: self.clone(), file })
    }
}

impl Storage for Counted {
    fn list(&self) -> io::Result<Vec<String>> {
        self.call();
        self.storage.list()
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        self.call();
        Ok(self.file(self.storage.open(name, access)?))
    }
    fn create(&self, name: &str, len: u64, fill: Fill) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(self.storage.create(name, len, fill)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.storage.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.storage.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.storage.sync_dir()
    }
    fn lock(&self) -> Result<LockGuard, LockError> {
        Ok(Box::new(()))
    }
    fn map_is_shared(&self) -> bool {
        self.storage.map_is_shared()
    }
}

#[derive(Debug)]
struct CountedFile {
    counted: Counted,
    file: Arc<dyn StorageFile>,
}

impl StorageFile for CountedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(offset, buf)?;
        self.counted.call();
        self.counted.bytes.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.file.write_at(offset, parts)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn map(&self) -> io::Result<Map> {
        self.counted.call();
        self.file.map()
    }
    fn map_shared(&self) -> io::Result<SharedMap> {
        self.file.map_shared()
    }
    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
}
