//! The one I/O boundary: everything the engine asks of a file system goes through [`Storage`].
//!
//! A store is one flat directory of files whose length is fixed when they are made. [`Disk`] is real files,
//! [`Memory`] the same on the heap. Tests put simulated disks in their place that lose what was not synced.
//!
//! # What callers may rely on
//!
//! - **A file never changes its length.** Its blocks are allocated before [`Storage::create`] returns, so that a
//!   mapped page never lacks a block (which would be a `SIGBUS`) and a later write cannot run out of space on
//!   file systems that write in place.
//! - **A write is seen at once** through every [`Map`] of the file, in every process of the machine.
//! - **Content is durable after [`StorageFile::sync`], names after [`Storage::sync_dir`].** Until then any 512-byte
//!   sector and any name may be as it was before. After a failed sync nothing may be assumed of either.
//!
//! # What callers owe
//!
//! - Bytes that somebody may look at through a [`Map`] are not changed any more. Writing the same value again is
//!   allowed (the last page of a group is written several times).
//! - Files that are mapped are never cut short, by anybody.

mod disk;
mod map;
mod memory;
#[cfg(test)]
pub(crate) mod watched;

use std::any::Any;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use disk::Disk;
pub use map::{Map, SharedMap};
pub use memory::{Memory, MemoryFile};

/// Name of the file that carries the writer's lock.
pub const LOCK_NAME: &str = "LOCK";

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and read-only maps.
    Read,
    /// Reading, writing and maps that are stored to.
    ReadWrite,
}

/// How the blocks of a new file are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Only allocated: quick, but the first sync of each block also has to record that it was written.
    Allocated,
    /// Also written with zeros, about 0.6 ms a MiB: later syncs of small writes take a third less time.
    Zeroed,
}

/// How a file comes into another directory without its bytes being copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// A file of its own on the same blocks, which part when one of the two is written (Btrfs, XFS, bcachefs).
    Reflink,
    /// The same file under a second name.
    HardLink,
}

/// Why the writer's lock was not given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else writes this store.
    #[error("the store is held by another writer")]
    Held {
        /// The process that holds it, where it could be read. It may be this one.
        pid: Option<u32>,
    },
    /// The lock file could not be opened or locked.
    #[error("the lock file cannot be used")]
    Io(#[from] io::Error),
}

/// Keeps the writer's lock; dropping it frees the lock.
pub type LockGuard = Box<dyn Any + Send + Sync>;

/// One directory of flat files.
///
/// Names are single path components: an empty name, `.`, `..` and names with `/` or a zero byte are refused as
/// [`io::ErrorKind::InvalidInput`].
pub trait Storage: Send + Sync + Debug {
    /// The names of all entries, whatever their kind, in any order. Names that are not UTF-8 come with
    /// replacement characters: they are no names of ours.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens an existing regular file.
    ///
    /// # Errors
    ///
    /// [`NotFound`](io::ErrorKind::NotFound); [`InvalidInput`](io::ErrorKind::InvalidInput) at once for anything
    /// that is no regular file (directory, symbolic link, FIFO, socket, device): it is not followed, not waited for
    /// and not touched.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>>;

    /// Makes a file of `len` zero bytes, open for reading and writing. Neither content nor name is synced.
    ///
    /// # Errors
    ///
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists); no space, no quota;
    /// [`FileTooLarge`](io::ErrorKind::FileTooLarge) above the process's file-size limit (found before any write,
    /// so that no `SIGXFSZ` is raised). After an error no file of that name is left behind.
    fn create(&self, name: &str, len: u64, fill: Fill) -> io::Result<Arc<dyn StorageFile>>;

    /// Gives a file another name, replacing the file that has it, in one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Takes a file's name away. Open files and maps stay usable.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all names of the directory durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Takes the writer's lock, without waiting. It dies with the process, and a lock file left behind is no
    /// obstacle. Two openings in one process exclude each other as well.
    fn lock(&self) -> Result<LockGuard, LockError>;

    /// Takes file `name` of another storage in as `as_name`, without copying. Content and name are as durable as they
    /// were: the caller syncs. With [`Share::HardLink`] both are the same file from then on, so neither may ever be
    /// written again.
    ///
    /// # Errors
    ///
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists); [`Unsupported`](io::ErrorKind::Unsupported) or what the system
    /// says where the two storages or their file systems cannot; then nothing is left behind, and the file may be copied.
    fn share(&self, from: &dyn Storage, name: &str, as_name: &str, how: Share) -> io::Result<()> {
        let _ = (from, name, as_name, how);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The storage itself, for another of its kind to [`Storage::share`] with.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// Shows whoever asks [`Storage::has_writer`] that a writer is at work, until the guard goes or the process dies. `name`
    /// is a file that is there, other than the one that carries the writer's lock. `None` where that cannot be shown.
    fn show_writer(&self, name: &str) -> Option<LockGuard> {
        let _ = name;
        None
    }

    /// Whether a writer is at work, as far as it has shown it with the file `name`. Asking gets into the way of no writer.
    /// `None` where that cannot be told.
    fn has_writer(&self, name: &str) -> Option<bool> {
        let _ = name;
        None
    }

    /// Whether stores through [`StorageFile::map_shared`] are safe here: the file system writes in place, so that
    /// a page that has its block can always be dirtied again. True of ext2/3/4, XFS and tmpfs.
    fn map_is_shared(&self) -> bool;
}

/// An open file of fixed length.
#[expect(clippy::len_without_is_empty, reason = "a length that has to be asked for and may fail")]
pub trait StorageFile: Send + Sync + Debug {
    /// The file's length in bytes, asked anew: below the length it was opened with somebody has cut it.
    fn len(&self) -> io::Result<u64>;

    /// The length that it had when it was opened. [`StorageFile::map`] and [`StorageFile::map_shared`] look whether it still
    /// has it.
    fn len_when_opened(&self) -> io::Result<u64> {
        self.len()
    }

    /// Reads until `buf` is full or the file ends; answers how many bytes were read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all parts one after the other from `offset` on, in one call to the system unless there are more
    /// than 1,024 of them.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the bytes would not fit in the file, before anything is
    /// written; [`WriteZero`](io::ErrorKind::WriteZero) after a short write. After any other error any part may
    /// have been written.
    fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<()>;

    /// Makes the content durable (fdatasync). After an error the bytes may be lost although a second call
    /// answers `Ok`: do not retry.
    fn sync(&self) -> io::Result<()>;

    /// Maps the whole file for reading.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the file is shorter than when it was opened.
    fn map(&self) -> io::Result<Map>;

    /// As [`StorageFile::map`], for look-ups here and there: a page that is not in memory is fetched alone, and the system
    /// does not read what lies around it. A scan of the whole takes that back.
    ///
    /// # Errors
    ///
    /// As [`StorageFile::map`].
    fn map_for_lookups(&self) -> io::Result<Map> {
        self.map()
    }

    /// Begins to bring these bytes into memory and does not wait for them: what is asked for together comes together. A
    /// hint: where the system has none nothing happens.
    fn will_need(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }

    /// Fills `buf` from `offset` on if that needs no disk; false, and nothing meant, if it does or if the file ends before.
    /// Where that cannot be told it is false.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn read_resident_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let _ = (offset, buf);
        Ok(false)
    }

    /// Maps the whole file to share words with other threads and processes. Through a file opened for reading
    /// the map can only be loaded from.
    ///
    /// # Errors
    ///
    /// As [`StorageFile::map`]; [`InvalidInput`](io::ErrorKind::InvalidInput) if the length is no multiple of 8
    /// or a file to be stored to lacks blocks.
    fn map_shared(&self) -> io::Result<SharedMap>;

    /// Bytes of blocks that are really allocated. Less than the length: the file has holes.
    fn allocated(&self) -> io::Result<u64>;
}

/// Refuses names that are not one plain path component.
fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file name"));
    }
    Ok(())
}

/// The sum of the parts, if they fit between `offset` and `file_len`.
fn check_write(offset: u64, parts: &[io::IoSlice<'_>], file_len: u64) -> io::Result<u64> {
    let written = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.len() as u64));
    match written.and_then(|len| offset.checked_add(len).map(|end| (len, end))) {
        Some((len, end)) if end <= file_len => Ok(len),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a write beyond the end of the file")),
    }
}
