//! What the kernel counted: flushes and writes of the disk under a directory, and the kind of its file system.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Result;

/// Counters of the block device under a directory, read from its `stat` file.
///
/// The flush counter counts flush requests the device executed, whoever asked for them: one `fdatasync` of a file
/// without changes of metadata is one flush. Flushes asked for at the same moment can be merged, and other processes
/// are counted too, so a quiet machine is assumed.
#[derive(Clone, Debug)]
pub struct Device {
    stat: PathBuf,
}

/// Counts between two readings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Flush requests executed.
    pub flushes: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

impl Device {
    /// The device under `dir`; `None` when it has no counters (tmpfs, network, containers without sysfs).
    pub fn under(dir: &Path) -> Option<Self> {
        let dev = fs::metadata(dir).ok()?.dev();
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        let link = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        // Flushes are not counted for partitions, only for the disk they lie on.
        let disk = if link.join("partition").exists() { link.parent()?.to_owned() } else { link };
        let device = Self { stat: disk.join("stat") };
        device.read().map(|_| device)
    }

    fn read(&self) -> Option<Counts> {
        let text = fs::read_to_string(&self.stat).ok()?;
        let fields: Vec<u64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        Some(Counts { bytes_written: fields.get(6)? * 512, flushes: *fields.get(15)? })
    }

    /// A reading to be handed to [`Device::since`].
    pub fn mark(&self) -> Counts {
        self.read().unwrap_or_default()
    }

    /// What was counted since `mark`.
    pub fn since(&self, mark: Counts) -> Counts {
        let now = self.mark();
        Counts { flushes: now.flushes - mark.flushes, bytes_written: now.bytes_written - mark.bytes_written }
    }
}

/// Refuses a directory in memory: a sync costs nothing there, so a durable row would mean nothing.
pub fn refuse_memory(dir: &Path) -> Result<()> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(dir)?.f_type;
    if kind == TMPFS || kind == RAMFS {
        return Err(format!("{} lies in memory; durable rows need a disk (--dir)", dir.display()).into());
    }
    Ok(())
}

/// Waits until nothing written so far is left for the disk to do.
pub fn settle(dir: &Path) -> Result<()> {
    let opened = fs::File::open(dir)?;
    rustix::fs::syncfs(&opened)?;
    Ok(())
}

/// Bytes of the blocks all files below `dir` take.
pub fn allocated(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { allocated(&entry.path())? } else { meta.blocks() * 512 };
    }
    Ok(sum)
}

/// Bytes of all files below `dir` that `wanted` picks by name, without the zeros at their ends: a log is preallocated.
pub fn written(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.metadata()?.is_dir() {
            sum += written(&entry.path(), wanted)?;
        } else if wanted(&entry.file_name().to_string_lossy()) {
            let bytes = fs::read(entry.path())?;
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
            // A file with holes takes less than its length.
            sum += end.min(entry.metadata()?.blocks() * 512);
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_memory_is_refused() {
        let memory = Path::new("/dev/shm");
        if !memory.is_dir() {
            println!("SKIPPED: no /dev/shm here");
            return;
        }
        assert!(refuse_memory(memory).is_err());
    }

    #[test]
    fn zeros_at_the_end_of_a_file_are_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.log"), [1, 0, 2, 0, 0]).unwrap();
        fs::write(dir.path().join("b.idx"), [1; 100]).unwrap();
        assert_eq!(written(dir.path(), &|name| name.ends_with(".log")).unwrap(), 3);
    }
}
