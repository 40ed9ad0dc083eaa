//! Storage on the heap, for stores in memory and as the ground simulated disks stand on.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::map::Block;
use super::{Access, Fill, LockError, LockGuard, Map, Share, SharedMap, Storage, StorageFile, check_name, check_write};

/// A directory on the heap. Clones are views of the same directory; it is gone with the last of them.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    files: Arc<Mutex<BTreeMap<String, MemoryFile>>>,
    locked: Arc<AtomicBool>,
}

impl Memory {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Storage for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.lock().keys().cloned().collect())
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        check_name(name)?;
        let file = self.files.lock().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(file.for_access(access)))
    }

    fn create(&self, name: &str, len: u64, _: Fill) -> io::Result<Arc<dyn StorageFile>> {
        check_name(name)?;
        let mut files = self.files.lock();
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = MemoryFile::new(len)?;
        files.insert(name.to_owned(), file.clone());
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        let mut files = self.files.lock();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.files.lock().remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> Result<LockGuard, LockError> {
        if self.locked.swap(true, Ordering::Acquire) {
            return Err(LockError::Held { pid: Some(std::process::id()) });
        }
        Ok(Box::new(Unlock(Arc::clone(&self.locked))))
    }

    fn share(&self, from: &dyn Storage, name: &str, as_name: &str, how: Share) -> io::Result<()> {
        check_name(as_name)?;
        let from = from.as_any().and_then(|any| any.downcast_ref::<Self>());
        let (Some(from), Share::HardLink) = (from, how) else { return Err(io::ErrorKind::Unsupported.into()) };
        let file = from.files.lock().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        let mut files = self.files.lock();
        if files.contains_key(as_name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        files.insert(as_name.to_owned(), file);
        Ok(())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn has_writer(&self, _: &str) -> Option<bool> {
        Some(self.locked.load(Ordering::Acquire))
    }

    fn map_is_shared(&self) -> bool {
        true
    }
}

struct Unlock(Arc<AtomicBool>);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A handle of one file on the heap. Clones are handles of the same file.
#[derive(Clone, Debug)]
pub struct MemoryFile {
    block: Arc<Block>,
    access: Access,
}

impl MemoryFile {
    /// A file of `len` zero bytes, open for reading and writing.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](io::ErrorKind::OutOfMemory).
    pub fn new(len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self { block: Arc::new(Block::new(len)?), access: Access::ReadWrite })
    }

    /// Another handle of the same file.
    #[must_use]
    pub fn for_access(&self, access: Access) -> Self {
        Self { block: Arc::clone(&self.block), access }
    }

    /// A copy of the content, also of what was stored through [`SharedMap`].
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.block.len()];
        self.block.read(0, &mut bytes);
        bytes
    }

    /// Replaces the content, whatever the handle's access. Bytes that readers have before them must stay the same.
    ///
    /// # Panics
    ///
    /// If `bytes` is longer than the file.
    pub fn overwrite(&self, bytes: &[u8]) {
        self.block.write(0, &[IoSlice::new(bytes)]);
    }
}

impl StorageFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.block.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(usize::try_from(offset).map_or(0, |offset| self.block.read(offset, buf)))
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        check_write(offset, parts, self.block.len() as u64)?;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.block.write(offset, parts);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self) -> io::Result<Map> {
        Ok(Map::of_block(Arc::clone(&self.block)))
    }

    fn map_shared(&self) -> io::Result<SharedMap> {
        SharedMap::of_block(Arc::clone(&self.block), self.access == Access::ReadWrite)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }
}

#[cfg(test)]
mod tests;
