//! Real files in a real directory.

mod lock;
#[cfg(target_os = "linux")]
#[path = "disk/linux.rs"]
mod system;
#[cfg(not(target_os = "linux"))]
#[path = "disk/portable.rs"]
mod system;

use std::any::Any;
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Access, Fill, LockError, LockGuard, Map, Share, SharedMap, Storage, StorageFile, check_name, check_write};

/// Zeros are written in pieces of this size. The system keeps what one call writes in one piece of its page cache, and looks at
/// each page of a piece whenever a few bytes of it are written or synced: pieces of a megabyte cost a small durable append
/// six microseconds. Of 16 KiB they gain no more.
const ZEROS_BYTES: usize = 64 << 10;
/// So often a link is tried whose file is replaced meanwhile.
const LINKS_MAX: u32 = 100;

/// A directory of real files.
///
/// On Linux the directory is opened once and all names are looked up in it, so that renaming it, or another
/// directory taking its path, confuses nothing.
#[derive(Debug)]
pub struct Disk {
    dir: system::Dir,
    path: PathBuf,
}

impl Disk {
    /// Opens an existing directory.
    ///
    /// # Errors
    ///
    /// [`NotFound`](io::ErrorKind::NotFound), [`NotADirectory`](io::ErrorKind::NotADirectory), or what the system
    /// says. Never waits, whatever stands at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { dir: system::Dir::open(path)?, path: path.to_owned() })
    }

    /// Makes the directory if it is not there (its parents must be), makes its name durable and opens it.
    ///
    /// # Errors
    ///
    /// As [`Disk::open`], and those of making a directory and of syncing the one above it.
    pub fn create_dir(path: &Path) -> io::Result<Self> {
        let made = match std::fs::create_dir(path) {
            Ok(()) => true,
            // Also when something that is no directory has the name: opening it says so.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        let disk = Self::open(path)?;
        match sync_parent(path) {
            // A directory made by others stands in one that we may not be allowed to open.
            Err(error) if made || error.kind() != io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(disk),
        }
    }

    /// The path it was opened by, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => system::Dir::open(Path::new("."))?.sync(),
        Some(parent) => system::Dir::open(parent)?.sync(),
        None => Ok(()),
    }
}

impl Storage for Disk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.dir.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        check_name(name)?;
        let (file, len) = self.dir.open_regular(name, access == Access::ReadWrite)?;
        Ok(Arc::new(DiskFile { file, len, access }))
    }

    fn create(&self, name: &str, len: u64, fill: Fill) -> io::Result<Arc<dyn StorageFile>> {
        check_name(name)?;
        system::check_file_size(len)?;
        let file = self.dir.create_new(name)?;
        match make_blocks(&file, len, fill) {
            Ok(()) => Ok(Arc::new(DiskFile { file, len, access: Access::ReadWrite })),
            Err(error) => {
                // The first error is the one to tell; a name left behind is met again at the next opening.
                drop(self.dir.remove(name));
                Err(error)
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        self.dir.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.dir.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync()
    }

    fn lock(&self) -> Result<LockGuard, LockError> {
        lock::take(&self.dir)
    }

    fn share(&self, from: &dyn Storage, name: &str, as_name: &str, how: Share) -> io::Result<()> {
        check_name(name)?;
        check_name(as_name)?;
        let Some(from) = from.as_any().and_then(|any| any.downcast_ref::<Self>()) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        // Whatever the kind, no link is made to what is no regular file.
        let (file, _) = from.dir.open_regular(name, false)?;
        if how == Share::HardLink {
            let mut linked = self.dir.link(&from.dir, name, as_name);
            for _ in 1..LINKS_MAX {
                // A name that another file is given just then is not found, though it was never without one.
                let is_missing = linked.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
                if !is_missing || from.dir.open_regular(name, false).is_err() {
                    break;
                }
                linked = self.dir.link(&from.dir, name, as_name);
            }
            return linked;
        }
        let clone = self.dir.create_new(as_name)?;
        let cloned = system::reflink(&file, &clone);
        if cloned.is_err() {
            drop(self.dir.remove(as_name));
        }
        cloned
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn show_writer(&self, name: &str) -> Option<LockGuard> {
        lock::show(&self.dir, name)
    }

    fn has_writer(&self, name: &str) -> Option<bool> {
        lock::is_shown(&self.dir, name)
    }

    fn map_is_shared(&self) -> bool {
        self.dir.writes_in_place()
    }
}

/// Allocates all blocks of a new file, and writes zeros to them where asked or where there is no other way.
fn make_blocks(file: &File, len: u64, fill: Fill) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let allocated = system::allocate(file, len)?;
    if allocated && fill == Fill::Allocated {
        return Ok(());
    }
    let zeros = vec![0; ZEROS_BYTES];
    let mut at = 0;
    while at < len {
        let step = (len - at).min(ZEROS_BYTES as u64);
        system::write_all_at(file, at, &[IoSlice::new(&zeros[..step as usize])])?;
        at += step;
    }
    Ok(())
}

#[derive(Debug)]
struct DiskFile {
    file: File,
    /// As it was when opened. Files do not grow, and one that has shrunk is damaged.
    len: u64,
    access: Access,
}

impl DiskFile {
    /// The length for a mapping, if the file still has it.
    fn mapped_len(&self) -> io::Result<usize> {
        if self.len()? < self.len {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has been cut short"));
        }
        usize::try_from(self.len).map_err(|_| io::ErrorKind::OutOfMemory.into())
    }
}

impl StorageFile for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn len_when_opened(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let Some(at) = offset.checked_add(done as u64) else {
                break;
            };
            match system::read_at(&self.file, at, &mut buf[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let len = check_write(offset, parts, self.len)?;
        // The limit may have been lowered since the file was made, and a write above it is answered by a signal.
        system::check_file_size(offset + len)?;
        system::write_all_at(&self.file, offset, parts)
    }

    fn sync(&self) -> io::Result<()> {
        // fdatasync, and F_FULLFSYNC on macOS.
        self.file.sync_data()
    }

    fn map(&self) -> io::Result<Map> {
        Map::of_file(&self.file, self.mapped_len()?)
    }

    fn map_for_lookups(&self) -> io::Result<Map> {
        let map = self.map()?;
        map.expect_no_order();
        Ok(map)
    }

    fn will_need(&self, offset: u64, len: u64) {
        system::will_need(&self.file, offset, len);
    }

    fn read_resident_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        system::read_resident_at(&self.file, offset, buf)
    }

    fn map_shared(&self) -> io::Result<SharedMap> {
        let writable = self.access == Access::ReadWrite;
        let len = self.mapped_len()?;
        if writable && self.allocated()? < self.len {
            // A store to a hole on a full disk is a SIGBUS.
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file with holes cannot be shared"));
        }
        SharedMap::of_file(&self.file, len, writable)
    }

    fn allocated(&self) -> io::Result<u64> {
        system::allocated(&self.file)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
