//! What the kernel tells of this process: time of its threads, private memory, files of the index it makes.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::Result;

/// Processor time of all threads of this process by name, of which the kernel keeps 15 bytes.
pub fn thread_times() -> Result<BTreeMap<String, Duration>> {
    let mut times = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        // A thread may end between the listing and the reading.
        let (Ok(name), Ok(times_of)) = (fs::read_to_string(path.join("comm")), time_of(&path)) else { continue };
        *times.entry(name.trim().to_owned()).or_default() += times_of;
    }
    Ok(times)
}

/// Processor time of the calling thread.
pub fn own_time() -> Result<Duration> {
    time_of(Path::new("/proc/thread-self"))
}

fn time_of(task: &Path) -> Result<Duration> {
    if let Ok(text) = fs::read_to_string(task.join("schedstat")) {
        let nanos = text.split_whitespace().next().and_then(|field| field.parse().ok());
        return Ok(Duration::from_nanos(nanos.ok_or("schedstat without a number")?));
    }
    // Coarser: a hundredth of a second.
    let text = fs::read_to_string(task.join("stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

/// Whether a file of the store belongs to its index.
pub fn is_index_file(name: &str) -> bool {
    name.ends_with(".idx") || name.starts_with("INDEX-")
}

/// Bytes and number of index files in a directory.
pub fn index_files(dir: &Path) -> Result<(u64, u64)> {
    let (mut bytes, mut count) = (0, 0);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if is_index_file(&entry.file_name().to_string_lossy()) {
            bytes += entry.metadata()?.len();
            count += 1;
        }
    }
    Ok((bytes, count))
}

/// Index files that were written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Bytes of all of them.
    pub bytes: u64,
    /// How many.
    pub files: u64,
    /// Files that were gone before they could be looked at, and events the kernel dropped.
    pub missed: u64,
}

/// Looks at every index file that appears in `dir` until `stop` is set.
pub fn index_writes(dir: &Path, stop: &AtomicBool) -> Result<Written> {
    let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&queue, dir, WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE)?;
    let mut buffer = [MaybeUninit::uninit(); 1 << 16];
    let mut events = inotify::Reader::new(&queue, &mut buffer);
    // A number of a file is used again when the file is gone, so the time it was made tells them apart.
    let mut seen = HashMap::<(u64, Option<SystemTime>), u64>::new();
    let mut missed = 0;
    loop {
        match events.next() {
            Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => missed += 1,
            Ok(event) => {
                let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                if is_index_file(&name) {
                    match fs::metadata(dir.join(&name)) {
                        Ok(meta) => {
                            let bytes = seen.entry((meta.ino(), meta.created().ok())).or_default();
                            *bytes = meta.len().max(*bytes);
                        }
                        Err(_) => missed += 1,
                    }
                }
            }
            Err(Errno::AGAIN) if stop.load(Ordering::Acquire) => break,
            Err(Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Written { bytes: seen.values().sum(), files: seen.len() as u64, missed })
}

/// Memory of this process in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Anonymous and shared memory that no file of a disk stands behind, and files in memory.
    pub private: u64,
    /// Pages of mapped files: the system can take them back.
    pub mapped: u64,
}

/// The memory now.
pub fn memory() -> Result<Memory> {
    let text = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
    };
    // What is mapped of a file in memory is in RssShmem already.
    let shared = field("RssShmem:").max(memory_files());
    Ok(Memory { private: field("RssAnon:") + shared, mapped: field("RssFile:") })
}

fn memory_files() -> u64 {
    let Ok(files) = fs::read_dir("/proc/self/fd") else { return 0 };
    let in_memory = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|link| {
            let link = link.to_string_lossy();
            link.starts_with("/memfd:") || link.starts_with("/dev/shm/")
        })
    };
    let paths = files.flatten().map(|file| file.path()).filter(in_memory);
    paths.filter_map(|path| fs::metadata(path).ok()).map(|meta| meta.blocks() * 512).sum()
}

/// The most memory seen in samples a millisecond apart, until `stop` is set.
pub fn memory_peak(stop: &AtomicBool) -> Result<Memory> {
    let mut peak = Memory::default();
    while !stop.load(Ordering::Acquire) {
        let began = Instant::now();
        let now = memory()?;
        peak = Memory { private: peak.private.max(now.private), mapped: peak.mapped.max(now.mapped) };
        std::thread::sleep(Duration::from_millis(1).saturating_sub(began.elapsed()));
    }
    Ok(peak)
}

/// Waits until none of the threads that `is_watched` has worked for half a second, at most five minutes. The times are
/// those from before that half second: looking around while idle is no work.
pub fn wait_idle(is_watched: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Duration>> {
    let busy = |times: &BTreeMap<String, Duration>| -> Duration {
        times.iter().filter(|(name, _)| is_watched(name)).map(|(_, time)| *time).sum()
    };
    let began = Instant::now();
    let mut before = thread_times()?;
    while began.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(500));
        let now = thread_times()?;
        // Waking up and looking around costs less than this.
        if busy(&now).saturating_sub(busy(&before)) < Duration::from_millis(10) {
            return Ok(before);
        }
        before = now;
    }
    Err("the background threads were still at work after five minutes".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_an_index_are_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let written = std::thread::scope(|scope| {
            let watching = scope.spawn(|| index_writes(dir.path(), &stop).unwrap());
            std::thread::sleep(Duration::from_millis(100));
            fs::write(dir.path().join("a.tmp"), [1; 100]).unwrap();
            fs::rename(dir.path().join("a.tmp"), dir.path().join("tier-1.idx")).unwrap();
            fs::write(dir.path().join("INDEX-1"), [1; 30]).unwrap();
            fs::write(dir.path().join("segment-1.log"), [1; 7]).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Release);
            watching.join().unwrap()
        });
        assert_eq!((written.bytes, written.files, written.missed), (130, 2, 0));
        assert_eq!(index_files(dir.path()).unwrap(), (130, 2));
    }

    #[test]
    fn memory_and_time_are_told() {
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(memory().unwrap().private >= 64 << 20);
        drop(block);
        let before = own_time().unwrap();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(30) {}
        assert!(own_time().unwrap() > before);
    }
}
