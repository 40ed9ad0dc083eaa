use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;

/// Says so past the test harness, which keeps what a passing test prints to itself.
fn skip(why: &str) {
    std::io::Write::write_all(&mut std::io::stdout(), format!("SKIPPED: {why}\n").as_bytes()).unwrap();
}

use crate::storage::LOCK_NAME;

/// Names the case a child process is to run.
const CHILD: &str = "ANNALS_STORAGE_CHILD";

fn disk() -> (tempfile::TempDir, Disk) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path()).unwrap();
    (dir, disk)
}

fn write(file: &dyn StorageFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(offset, &[IoSlice::new(bytes)])
}

fn content(file: &dyn StorageFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap() + 10];
    let count = file.read_at(0, &mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

/// This very test again in a process of its own, where limits and mounts harm nobody.
fn child(test: &str, case: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("{}::{test}", module_path!().split_once("::").unwrap().1)]);
    command.arg("--nocapture").env(CHILD, case);
    command
}

#[test]
fn a_new_file_is_zero_allocated_and_exclusive() {
    let (_dir, disk) = disk();
    for (name, len, fill) in [
        ("empty", 0, Fill::Zeroed),
        ("small", 100, Fill::Allocated),
        ("zeroed", (2 << 20) + 5, Fill::Zeroed),
        ("large", 3 << 20, Fill::Allocated),
    ] {
        let file = disk.create(name, len, fill).unwrap();
        assert_eq!(file.len().unwrap(), len);
        assert!(file.allocated().unwrap() >= len);
        assert!(content(&*file).iter().all(|&byte| byte == 0));
        let taken = disk.create(name, len, fill).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(file.len().unwrap(), len, "a refused creation touches nothing");
    }
    disk.sync_dir().unwrap();
}

#[test]
fn reads_are_short_at_the_end_only_and_writes_never_grow() {
    let (_dir, disk) = disk();
    let file = disk.create("a", 1000, Fill::Allocated).unwrap();
    file.write_at(990, &[IoSlice::new(b"abc"), IoSlice::new(b""), IoSlice::new(b"defg")]).unwrap();
    file.sync().unwrap();
    let mut buf = [1; 20];
    assert_eq!(file.read_at(985, &mut buf).unwrap(), 15);
    assert_eq!(&buf[..15], b"\0\0\0\0\0abcdefg\0\0\0");
    assert_eq!(file.read_at(1000, &mut buf).unwrap(), 0);
    assert_eq!(file.read_at(2000, &mut buf).unwrap(), 0);
    for (offset, len) in [(990, 11), (1000, 1), (u64::MAX, 1), (u64::MAX - 1, 1)] {
        let refused = write(&*file, offset, &vec![7; len]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(file.len().unwrap(), 1000);
    write(&*disk.open("a", Access::ReadWrite).unwrap(), 0, b"x").unwrap();
    assert!(write(&*disk.open("a", Access::Read).unwrap(), 0, b"y").is_err());
    assert_eq!(content(&*file)[0], b'x');
}

#[test]
fn more_parts_than_one_call_takes_are_all_written() {
    let (_dir, disk) = disk();
    let bytes: Vec<u8> = (0..5000u32).map(|at| (at % 251) as u8).collect();
    let file = disk.create("a", 5000, Fill::Allocated).unwrap();
    let parts: Vec<_> = bytes.chunks(2).map(IoSlice::new).collect();
    file.write_at(0, &parts).unwrap();
    assert_eq!(content(&*file), bytes);
}

#[test]
fn names_are_single_components() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::create_dir(&dir.path().join("store")).unwrap();
    std::fs::write(dir.path().join("outside"), b"x").unwrap();
    for name in ["", ".", "..", "../outside", "a/b", "a\0b"] {
        for answer in [
            disk.open(name, Access::Read).map(drop),
            disk.create(name, 1, Fill::Allocated).map(drop),
            disk.remove(name),
            disk.rename(name, "a"),
            disk.rename("a", name),
        ] {
            assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}

#[test]
fn names_come_change_and_go() {
    let (_dir, disk) = disk();
    disk.create("a", 10, Fill::Allocated).unwrap();
    disk.create("b", 20, Fill::Allocated).unwrap();
    disk.rename("a", "b").unwrap();
    assert_eq!(disk.list().unwrap(), ["b"]);
    assert_eq!(disk.open("b", Access::Read).unwrap().len().unwrap(), 10);
    disk.remove("b").unwrap();
    assert_eq!(disk.open("b", Access::Read).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.remove("b").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn the_directory_is_followed_when_it_is_renamed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::create_dir(&dir.path().join("old")).unwrap();
    std::fs::rename(dir.path().join("old"), dir.path().join("new")).unwrap();
    std::fs::create_dir(dir.path().join("old")).unwrap();
    disk.create("a", 1, Fill::Allocated).unwrap();
    assert!(dir.path().join("new/a").exists());
    assert_eq!(disk.list().unwrap(), ["a"]);
}

#[test]
fn a_directory_is_made_once_and_only_under_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    assert_eq!(Disk::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    Disk::create_dir(&path).unwrap().create("a", 1, Fill::Allocated).unwrap();
    assert_eq!(Disk::create_dir(&path).unwrap().list().unwrap(), ["a"]);
    let orphan = Disk::create_dir(&path.join("b/c")).unwrap_err();
    assert_eq!(orphan.kind(), io::ErrorKind::NotFound);
    let file = Disk::create_dir(&path.join("a")).unwrap_err();
    assert_eq!(file.kind(), io::ErrorKind::NotADirectory);
}

#[test]
fn strangers_are_listed_but_refused_at_once() {
    let (dir, disk) = disk();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), b"untouched").unwrap();
    let path = |name: &str| dir.path().join(name);
    let node = |name, kind, device| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path(name), kind, mode, device)
    };
    std::fs::create_dir(path("directory")).unwrap();
    symlink(outside.path(), path("link")).unwrap();
    symlink("loop", path("loop")).unwrap();
    node("fifo", rustix::fs::FileType::Fifo, 0).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    let mut names = vec!["directory", "link", "loop", "fifo", "socket"];
    match node("device", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3)) {
        Ok(()) => names.push("device"),
        Err(error) => skip(&format!("a device node cannot be made here: {error}")),
    }
    let mut listed = disk.list().unwrap();
    listed.sort();
    let mut expected = names.clone();
    expected.sort_unstable();
    assert_eq!(listed, expected);

    let before = Instant::now();
    for name in names {
        for access in [Access::Read, Access::ReadWrite] {
            let refused = disk.open(name, access).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{name}: {refused}");
        }
        let taken = disk.create(name, 10, Fill::Allocated).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists, "{name}: {taken}");
        std::fs::rename(path(name), path(LOCK_NAME)).unwrap();
        let Err(LockError::Io(refused)) = disk.lock() else { panic!("{name} was locked") };
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{name}: {refused}");
        std::fs::rename(path(LOCK_NAME), path(name)).unwrap();
    }
    assert!(before.elapsed() < Duration::from_secs(1));
    assert_eq!(std::fs::read(outside.path()).unwrap(), b"untouched");
}

#[test]
fn maps_see_what_is_written_later() {
    let (_dir, disk) = disk();
    let file = disk.create("a", 10_000, Fill::Allocated).unwrap();
    let map = disk.open("a", Access::Read).unwrap().map().unwrap();
    assert_eq!(map.len(), 10_000);
    write(&*file, 4090, b"across two pages").unwrap();
    assert_eq!(&map[4090..4106], b"across two pages");
    disk.remove("a").unwrap();
    drop(file);
    assert_eq!(map.bytes_of(4090..4096), b"across"[..]);
    assert!(disk.create("none", 0, Fill::Allocated).unwrap().map().unwrap().is_empty());
}

#[test]
fn shared_words_are_seen_by_others_and_written_to_files() {
    let (_dir, disk) = disk();
    let file = disk.create("ring", 8192, Fill::Zeroed).unwrap();
    let ring = file.map_shared().unwrap();
    let bytes: Vec<u8> = (0..4096u32).map(|at| (at % 253) as u8).collect();
    ring.store(4096, &bytes);
    let follower = disk.open("ring", Access::Read).unwrap().map_shared().unwrap();
    let mut seen = vec![0; 4096];
    follower.load(4096, &mut seen);
    assert_eq!(seen, bytes);
    assert!(ring.is_writable() && !follower.is_writable());
    let stored = std::panic::catch_unwind(|| follower.store_word(0, 1, Ordering::Relaxed));
    assert!(stored.is_err(), "a follower must not store");
    assert_eq!(content(&*file)[4096..], bytes);

    let segment = disk.create("segment", 8192, Fill::Allocated).unwrap();
    ring.write_to(&*segment, 100, &[8000..8192, 4096..4196], b"tail").unwrap();
    let written = content(&*segment);
    assert_eq!(written[100..292], bytes[3904..]);
    assert_eq!(written[292..392], bytes[..100]);
    assert_eq!(&written[392..396], b"tail");
    assert!(written[396..].iter().all(|&byte| byte == 0));
}

/// An index file is replaced in quiet while a fork takes it over.
#[test]
fn a_file_that_is_replaced_meanwhile_is_shared_all_the_same() {
    let (dir, disk) = disk();
    let fill = |name: &str| std::fs::write(dir.path().join(name), b"index").unwrap();
    fill("index");
    let (ends, replaced) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                fill("new");
                std::fs::rename(dir.path().join("new"), dir.path().join("index")).unwrap();
                replaced.fetch_add(1, Ordering::Relaxed);
            }
        });
        let shared: io::Result<()> = (0..20_000).try_for_each(|_| {
            disk.share(&disk, "index", "link", Share::HardLink)?;
            disk.remove("link")
        });
        ends.store(true, Ordering::Relaxed);
        shared.unwrap();
    });
    assert!(replaced.into_inner() > 0);
    let missing = disk.share(&disk, "nothing", "link", Share::HardLink);
    assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn cut_and_sparse_files_are_told_before_they_are_mapped() {
    let (dir, disk) = disk();
    let file = disk.create("a", 8192, Fill::Allocated).unwrap();
    let outside = File::options().write(true).open(dir.path().join("a")).unwrap();
    outside.set_len(4096).unwrap();
    assert_eq!(file.len().unwrap(), 4096);
    assert_eq!(file.map().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(file.map_shared().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(file.read_at(4096, &mut [0; 8]).unwrap(), 0);

    outside.set_len(1 << 20).unwrap();
    let sparse = disk.open("a", Access::ReadWrite).unwrap();
    assert!(sparse.allocated().unwrap() < sparse.len().unwrap());
    assert_eq!(sparse.map_shared().unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(sparse.map().unwrap().len(), 1 << 20);
    let odd = disk.create("odd", 4095, Fill::Allocated).unwrap();
    assert_eq!(odd.map_shared().unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn one_holder_of_the_lock_and_a_stale_file_is_no_obstacle() {
    let (dir, disk) = disk();
    std::fs::write(dir.path().join(LOCK_NAME), b"999999 left by somebody else, long ago\n").unwrap();
    let guard = disk.lock().unwrap();
    let second = Disk::open(dir.path()).unwrap();
    for _ in 0..2 {
        let Err(LockError::Held { pid }) = second.lock() else { panic!("locked twice") };
        assert_eq!(pid, None, "text after the number is not ours");
    }
    drop(guard);
    std::fs::remove_file(dir.path().join(LOCK_NAME)).unwrap();
    let guard = second.lock().unwrap();
    let Err(LockError::Held { pid }) = disk.lock() else { panic!("locked twice") };
    assert_eq!(pid, Some(std::process::id()));
    drop(guard);
    drop(disk.lock().unwrap());
}

#[test]
fn the_lock_dies_with_its_holder() {
    if let Some(path) = std::env::var_os(CHILD) {
        let guard = Disk::open(Path::new(&path)).unwrap().lock().unwrap();
        File::create(Path::new(&path).join("ready")).unwrap();
        std::thread::sleep(Duration::from_secs(60));
        drop(guard);
        return;
    }
    let (dir, disk) = disk();
    let mut holder = child("the_lock_dies_with_its_holder", dir.path().to_str().unwrap()).spawn().unwrap();
    let give_up = Instant::now() + Duration::from_secs(30);
    while !dir.path().join("ready").exists() && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(5));
    }
    let refused = disk.lock();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let Err(LockError::Held { pid }) = refused else { panic!("locked beside another process") };
    assert_eq!(pid, Some(holder.id()));
    drop(disk.lock().unwrap());
}

#[test]
fn a_file_size_limit_is_an_error_and_not_a_signal() {
    if std::env::var_os(CHILD).is_some() {
        return under_a_file_size_limit();
    }
    let output = child("a_file_size_limit_is_an_error_and_not_a_signal", "limit").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("limit held"), "{output:?}");
}

fn under_a_file_size_limit() {
    let (_dir, disk) = disk();
    let file = disk.create("before", 1 << 20, Fill::Allocated).unwrap();
    let limit = rustix::process::Rlimit { current: Some(64 << 10), maximum: Some(64 << 10) };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    for fill in [Fill::Allocated, Fill::Zeroed] {
        let refused = disk.create("after", (64 << 10) + 1, fill).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
    }
    assert_eq!(disk.list().unwrap(), ["before"]);
    disk.create("after", 64 << 10, Fill::Zeroed).unwrap();
    assert_eq!(write(&*file, 65_530, &[1; 7]).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    write(&*file, 65_530, &[1; 6]).unwrap();
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(64 << 10) };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, none).unwrap();
    drop(disk.lock().unwrap());
    println!("limit held");
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    if let Some(path) = std::env::var_os(CHILD) {
        return on_a_full_disk(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let run = child("a_full_disk_is_an_error_and_leaves_nothing", path);
    // In a mount namespace of its own: it goes with the process.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t tmpfs -o size=1m none \"$0\" || exit 77; exec \"$@\""]);
    command.arg(path).arg(run.get_program()).args(run.get_args()).env(CHILD, path);
    match command.output() {
        Ok(output) if output.status.success() => {
            assert!(String::from_utf8_lossy(&output.stdout).contains("full disk held"), "{output:?}");
        }
        Ok(output) if output.status.code() == Some(101) => panic!("{output:?}"),
        Ok(output) => skip(&format!("no small file system can be mounted here: {output:?}")),
        Err(error) => skip(&format!("no mount namespace here: {error}")),
    }
}

fn on_a_full_disk(path: &Path) {
    let disk = Disk::open(path).unwrap();
    assert!(disk.map_is_shared(), "tmpfs writes in place");
    let guard = disk.lock().unwrap();
    let file = disk.create("a", 600 << 10, Fill::Allocated).unwrap();
    for fill in [Fill::Allocated, Fill::Zeroed] {
        let full = disk.create("b", 600 << 10, fill).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }
    let mut names = disk.list().unwrap();
    names.sort();
    assert_eq!(names, [LOCK_NAME, "a"]);
    let words = file.map_shared().unwrap();
    words.store((600 << 10) - 8, &[1; 8]);
    write(&*file, 0, &vec![2; 512 << 10]).unwrap();
    disk.remove("a").unwrap();
    drop((words, file));
    disk.create("b", 600 << 10, Fill::Zeroed).unwrap();
    drop(guard);
    println!("full disk held");
}

#[test]
fn read_errors_come_back() {
    // A directory cannot be read as a file; it gets no such handle by `open`, so it is made by hand.
    let dir = tempfile::tempdir().unwrap();
    let file = DiskFile { file: File::open(dir.path()).unwrap(), len: 10, access: Access::Read };
    assert_eq!(file.read_at(0, &mut [0; 1]).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    assert!(file.file.read_at(&mut [0; 1], 0).is_err());
}
