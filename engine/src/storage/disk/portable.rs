//! What a [`Disk`](super::Disk) asks of systems other than Linux, by the standard library alone.
//!
//! Weaker than on Linux: names are looked up by path, the kind of an entry is only checked before opening, space
//! is had by writing zeros, and shared maps are not used.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Dir(PathBuf);

impl Dir {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        if path.is_dir() { Ok(Self(path)) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    pub(super) fn list(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// The file and its length.
    pub(super) fn open_regular(&self, name: &str, write: bool) -> io::Result<(File, u64)> {
        let path = self.0.join(name);
        check_regular(&path)?;
        let file = OpenOptions::new().read(true).write(write).open(path)?;
        let len = file.metadata()?.len();
        Ok((file, len))
    }

    pub(super) fn open_or_create(&self, name: &str) -> io::Result<File> {
        let path = self.0.join(name);
        match check_regular(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
    }

    pub(super) fn create_new(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.0.join(name))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.0.join(from), self.0.join(to))
    }

    pub(super) fn link(&self, from: &Self, name: &str, as_name: &str) -> io::Result<()> {
        std::fs::hard_link(from.0.join(name), self.0.join(as_name))
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.0.join(name))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        // Windows opens no directory as a file; NTFS keeps names in its journal.
        if cfg!(unix) { File::open(&self.0)?.sync_all() } else { Ok(()) }
    }

    pub(super) fn writes_in_place(&self) -> bool {
        false
    }
}

fn check_regular(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_file() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

pub(super) fn check_file_size(_: u64) -> io::Result<()> {
    Ok(())
}

pub(super) fn allocate(_: &File, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn reflink(_: &File, _: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn allocated(file: &File) -> io::Result<u64> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok(file.metadata()?.blocks().saturating_mul(512))
    }
    #[cfg(not(unix))]
    {
        Ok(file.metadata()?.len())
    }
}

/// There is no such hint that all systems have.
pub(super) fn will_need(_file: &File, _offset: u64, _len: u64) {}

/// What is in memory cannot be told here.
pub(super) fn read_resident_at(_file: &File, _offset: u64, _buf: &mut [u8]) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn read_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_at(file, buf, offset)
    }
    #[cfg(windows)]
    {
        std::os::windows::fs::FileExt::seek_read(file, buf, offset)
    }
}

fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<usize> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::write_at(file, bytes, offset)
    }
    #[cfg(windows)]
    {
        std::os::windows::fs::FileExt::seek_write(file, bytes, offset)
    }
}

pub(super) fn write_all_at(file: &File, mut offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
    for part in parts {
        if write_at(file, offset, part)? != part.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the system wrote less than it was given"));
        }
        offset += part.len() as u64;
    }
    Ok(())
}
