//! What a [`Disk`](super::Disk) asks of Linux: calls relative to an open directory, allocation, vectored writes.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// More parts than this in one call are refused by the system.
const PARTS_MAX: usize = 1024;

const EXT_MAGIC: u64 = 0xEF53;
const XFS_MAGIC: u64 = 0x5846_5342;
const TMPFS_MAGIC: u64 = 0x0102_1994;

#[derive(Debug)]
pub(super) struct Dir(File);

impl Dir {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = retry(|| rustix::fs::open(path, flags, Mode::empty()))?;
        Ok(Self(dir.into()))
    }

    pub(super) fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(String::from_utf8_lossy(name).into_owned());
            }
        }
        Ok(names)
    }

    /// The file and its length.
    pub(super) fn open_regular(&self, name: &str, write: bool) -> io::Result<(File, u64)> {
        // Opening a device may already do something to it, so its kind is asked for first.
        let found = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        check_regular(FileType::from_raw_mode(found.st_mode))?;
        self.open_checked(name, if write { OFlags::RDWR } else { OFlags::RDONLY })
    }

    pub(super) fn open_or_create(&self, name: &str) -> io::Result<File> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => check_regular(FileType::from_raw_mode(found.st_mode))?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.open_checked(name, OFlags::RDWR | OFlags::CREATE)?.0)
    }

    /// Opens without waiting and looks again: another entry may have taken the name meanwhile.
    fn open_checked(&self, name: &str, flags: OFlags) -> io::Result<(File, u64)> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match retry(|| rustix::fs::openat(&self.0, name, flags, mode())) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::NODEV) => {
                return Err(not_regular());
            }
            Err(error) => return Err(error.into()),
        };
        let found = rustix::fs::fstat(&file)?;
        check_regular(FileType::from_raw_mode(found.st_mode))?;
        Ok((file, u64::try_from(found.st_size).unwrap_or(0)))
    }

    pub(super) fn create_new(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(retry(|| rustix::fs::openat(&self.0, name, flags, mode()))?.into())
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    pub(super) fn link(&self, from: &Self, name: &str, as_name: &str) -> io::Result<()> {
        Ok(rustix::fs::linkat(&from.0, name, &self.0, as_name, AtFlags::empty())?)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    pub(super) fn writes_in_place(&self) -> bool {
        rustix::fs::fstatfs(&self.0)
            .is_ok_and(|found| [EXT_MAGIC, XFS_MAGIC, TMPFS_MAGIC].contains(&(found.f_type as u64)))
    }
}

/// As the standard library makes files: the process's mask decides.
fn mode() -> Mode {
    Mode::from_raw_mode(0o666)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

fn check_regular(kind: FileType) -> io::Result<()> {
    if kind == FileType::RegularFile { Ok(()) } else { Err(not_regular()) }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// Refuses what the process's limit forbids: the system would answer with a signal that kills.
pub(super) fn check_file_size(len: u64) -> io::Result<()> {
    match getrlimit(Resource::Fsize).current {
        Some(limit) if len > limit => Err(Errno::FBIG.into()),
        _ => Ok(()),
    }
}

/// Allocates blocks for the whole file; `false` where the file system cannot.
pub(super) fn allocate(file: &File, len: u64) -> io::Result<bool> {
    match retry(|| rustix::fs::fallocate(file.as_fd(), FallocateFlags::empty(), 0, len)) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Lets an empty file share all blocks of another.
pub(super) fn reflink(from: &File, to: &File) -> io::Result<()> {
    Ok(retry(|| rustix::fs::ioctl_ficlone(to, from))?)
}

pub(super) fn allocated(file: &File) -> io::Result<u64> {
    // Counted in 512 bytes whatever the block size.
    Ok(file.metadata()?.blocks().saturating_mul(512))
}

/// Begins to read, if these bytes are not in memory.
pub(super) fn will_need(file: &File, offset: u64, len: u64) {
    if let Some(len) = std::num::NonZeroU64::new(len) {
        let _ = rustix::fs::fadvise(file, offset, Some(len), rustix::fs::Advice::WillNeed);
    }
}

/// Fills `buf` if all of it is in memory.
pub(super) fn read_resident_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
    let len = buf.len();
    let parts = &mut [io::IoSliceMut::new(buf)];
    match retry(|| rustix::io::preadv2(file, parts, offset, rustix::io::ReadWriteFlags::NOWAIT)) {
        Ok(read) => Ok(read == len),
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn read_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    file.read_at(buf, offset)
}

pub(super) fn write_all_at(file: &File, mut offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
    for parts in parts.chunks(PARTS_MAX) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let written = match parts {
            [part] => retry(|| rustix::io::pwrite(file, part, offset))?,
            _ => retry(|| rustix::io::pwritev(file, parts, offset))?,
        };
        if written != len {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the system wrote less than it was given"));
        }
        offset += len as u64;
    }
    Ok(())
}
