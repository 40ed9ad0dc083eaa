//! Something that is no file of a store stands where one should: an error within a second, and nothing outside the
//! store is touched.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use annals::{Error, Expect, NewEvent, Options, Query, ReadMode, Seek, View, inspect};

const EVENTS: usize = 700;
/// The promise, by the clock: what waits for a FIFO's other end uses no processor time. The slowest answer is printed.
const PATIENCE: Duration = Duration::from_secs(1);

fn options() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10)
}

/// A closed store of several segments.
fn make(path: &Path) {
    let store = options().background(false).open(path).unwrap();
    let payload = [7; 200];
    for _ in 0..EVENTS / 7 {
        let events = [(); 7].map(|()| NewEvent::new("T", &payload));
        store.append("s", Expect::Any, &events).unwrap();
    }
    store.close().unwrap();
}

/// One name of each kind of file.
fn kinds(path: &Path) -> Vec<(&'static str, String)> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let first = |what: &str| names.iter().find(|name| name.ends_with(what)).unwrap().clone();
    let last = |what: &str| names.iter().rfind(|name| name.contains(what)).unwrap().clone();
    vec![
        ("lock", "LOCK".to_owned()),
        ("mark", "MARK".to_owned()),
        ("ring", "RING".to_owned()),
        ("control page", "CONTROL".to_owned()),
        ("manifest", last("manifest-")),
        ("sealed segment", first(".log")),
        ("live segment", last(".log")),
        ("index", first(".idx")),
        ("next manifest", next_manifest(&last("manifest-"))),
        ("next segment", next_segment(&last(".log"))),
    ]
}

fn next_manifest(newest: &str) -> String {
    let generation: u64 = newest["manifest-".len()..].parse().unwrap();
    format!("manifest-{:020}.new", generation + 1)
}

fn next_segment(newest: &str) -> String {
    let number: u64 = newest["segment-".len()..].trim_end_matches(".log").parse().unwrap();
    format!("segment-{:020}.log", number + 1)
}

/// What is put in a file's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trap {
    Fifo,
    Socket,
    Device,
    Directory,
    FullDirectory,
    LinkToFile,
    LinkToDevice,
    LinkToNowhere,
    LinkToItself,
    LinkLoop,
    Unreadable,
    ReadOnly,
}

const TRAPS: [Trap; 12] = [
    Trap::Fifo,
    Trap::Socket,
    Trap::Device,
    Trap::Directory,
    Trap::FullDirectory,
    Trap::LinkToFile,
    Trap::LinkToDevice,
    Trap::LinkToNowhere,
    Trap::LinkToItself,
    Trap::LinkLoop,
    Trap::Unreadable,
    Trap::ReadOnly,
];

impl Trap {
    /// Sets the trap; `false` if that cannot be done here, as devices without the right to make them.
    fn set(self, at: &Path, outside: &Path) -> bool {
        let was_there = at.is_file();
        if !matches!(self, Self::Unreadable | Self::ReadOnly) && was_there {
            fs::rename(at, outside.join("original")).unwrap();
        }
        let made = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        match self {
            Self::Fifo => made(Command::new("mkfifo").arg(at)),
            Self::Socket => std::os::unix::net::UnixListener::bind(at).is_ok(),
            // Reading it never ends.
            Self::Device => made(Command::new("mknod").arg(at).args(["c", "1", "5"])),
            Self::Directory => fs::create_dir(at).is_ok(),
            Self::FullDirectory => fs::create_dir(at).is_ok() && fs::write(at.join("kept"), "kept").is_ok(),
            Self::LinkToFile => {
                // A faithful copy of the file, which a store that followed the link would write to.
                let target = outside.join("target");
                if was_there {
                    fs::copy(outside.join("original"), &target).unwrap();
                } else {
                    fs::write(&target, "not ours").unwrap();
                }
                symlink(&target, at).is_ok()
            }
            Self::LinkToDevice => symlink("/dev/zero", at).is_ok(),
            Self::LinkToNowhere => symlink(outside.join("nowhere"), at).is_ok(),
            Self::LinkToItself => symlink(at.file_name().unwrap(), at).is_ok(),
            Self::LinkLoop => {
                let (a, b) = (outside.join("loop-a"), outside.join("loop-b"));
                symlink(&b, &a).is_ok() && symlink(&a, &b).is_ok() && symlink(&a, at).is_ok()
            }
            Self::Unreadable => was_there && fs::set_permissions(at, fs::Permissions::from_mode(0o000)).is_ok(),
            Self::ReadOnly => was_there && fs::set_permissions(at, fs::Permissions::from_mode(0o444)).is_ok(),
        }
    }

    fn is_a_mode(self) -> bool {
        matches!(self, Self::Unreadable | Self::ReadOnly)
    }
}

/// Content and kind of everything in a directory, links not followed.
fn picture(path: &Path) -> Vec<(PathBuf, String)> {
    let mut seen = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        let what = if kind.is_file() {
            format!(
                "{:?}",
                fs::read(entry.path()).map(|bytes| (bytes.len(), bytes.iter().map(|b| u64::from(*b)).sum::<u64>()))
            )
        } else {
            format!("{kind:?}")
        };
        seen.push((entry.path(), what));
    }
    seen.sort();
    seen
}

/// The longest time that any work took, and which.
#[derive(Default)]
struct Slowest(Duration, String);

impl Slowest {
    /// Runs `work`, which must end in time.
    fn in_time<T: Send + 'static>(&mut self, what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, wait) = mpsc::channel();
        std::thread::spawn(move || {
            let begun = Instant::now();
            let answer = work();
            done.send((answer, begun.elapsed()))
        });
        // A second more to tell what is slow from what never ends.
        let (answer, took) = wait.recv_timeout(2 * PATIENCE).unwrap_or_else(|_| panic!("{what} does not end"));
        assert!(took <= PATIENCE, "{what} took {took:?}");
        if took > self.0 {
            *self = Self(took, what.to_owned());
        }
        answer
    }
}

impl std::fmt::Display for Slowest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the slowest answer took {:?}: {}", self.0, self.1)
    }
}

/// Reads all; the number of events, or the error that ended it.
fn count(read: annals::Result<annals::Read>) -> Result<usize, Error> {
    let mut count = 0;
    for event in read? {
        event?;
        count += 1;
    }
    Ok(count)
}

fn write(path: &Path) -> Result<usize, Error> {
    let store = options().open(path)?;
    let found = count(store.reader_in(View::Written).read_all(&Query::all(), Seek::Beginning))?;
    store.append("s", Expect::Any, &[NewEvent::new("T", "more")])?;
    store.close()?;
    Ok(found)
}

/// What stands there, and what is shown to whoever asks for no view: of a store that was closed both are all of it.
fn read(path: &Path, mode: ReadMode) -> Result<usize, Error> {
    let store = options().read_mode(mode).open_read_only(path)?;
    let written = count(store.reader_in(View::Written).read_all(&Query::all(), Seek::Beginning))?;
    let shown = count(store.reader().read_all(&Query::all(), Seek::Beginning))?;
    Ok(written.min(shown))
}

/// An answer is all events, or an error with a name in it.
fn judge(told: &str, answer: &Result<usize, Error>) {
    match answer {
        Ok(count) => assert_eq!(*count, EVENTS, "{told}: fewer events, and no error"),
        Err(Error::NotAStore { .. }) => panic!("{told}: it is a store"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[test]
fn whatever_stands_in_a_files_place_is_an_error_in_time() {
    let ground = tempfile::tempdir().unwrap();
    let sample = ground.path().join("sample");
    make(&sample);
    let (mut table, mut slowest) = (Vec::new(), Slowest::default());
    for (kind, name) in kinds(&sample) {
        for trap in TRAPS {
            let told = format!("{trap:?} as {kind}");
            let dir = ground.path().join(told.replace(' ', "-"));
            let (path, outside) = (dir.join("store"), dir.join("outside"));
            fs::create_dir_all(&path).unwrap();
            fs::create_dir(&outside).unwrap();
            for entry in fs::read_dir(&sample).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
            }
            if !trap.set(&path.join(&name), &outside) {
                table.push(format!("{told}: cannot be made here"));
                continue;
            }
            let before = (picture(&outside), picture(&path));
            for mode in [ReadMode::Mapped, ReadMode::Pread] {
                let at = path.clone();
                let answer = slowest.in_time(&format!("{told}: read"), move || read(&at, mode));
                judge(&told, &answer);
                table.push(format!("{told}: read {}", said(&answer)));
            }
            let at = path.clone();
            let report = slowest.in_time(&format!("{told}: inspect"), move || {
                let report = inspect::verify(&at, &mut |_, _| {});
                // The others must end, whatever they say.
                drop((inspect::segments(&at), inspect::store_info(&at), inspect::dump(&at, 1, &mut |_| {})));
                report
            });
            if !trap.is_a_mode() && !name.ends_with(".new") {
                let findings = report.unwrap().findings;
                assert!(findings.iter().any(|finding| finding.file == name), "{told}: {findings:?}");
            }
            assert!(before == (picture(&outside), picture(&path)), "{told}: reading changes nothing");
            let at = path.clone();
            let answer = slowest.in_time(&format!("{told}: write"), move || write(&at));
            judge(&told, &answer);
            table.push(format!("{told}: write {}", said(&answer)));
            assert!(before.0 == picture(&outside), "{told}: something outside of the store was touched");
            drop(fs::set_permissions(path.join(&name), fs::Permissions::from_mode(0o644)));
        }
    }
    println!("{}\n{slowest}", table.join("\n"));
}

fn said(answer: &Result<usize, Error>) -> String {
    match answer {
        Ok(count) => format!("{count} events"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_path_that_is_no_directory_is_an_error_in_time() {
    let ground = tempfile::tempdir().unwrap();
    let mut slowest = Slowest::default();
    for trap in TRAPS {
        let outside = ground.path().join(format!("{trap:?}"));
        fs::create_dir(&outside).unwrap();
        let path = outside.join("store");
        if matches!(trap, Trap::Directory | Trap::LinkToFile) || !trap.set(&path, &outside) {
            continue;
        }
        let before = picture(&outside);
        let at = path.clone();
        let answers = slowest.in_time(&format!("{trap:?} as the store"), move || {
            let info = inspect::store_info(&at).map(|_| 0);
            [write(&at), read(&at, ReadMode::Mapped), read(&at, ReadMode::Pread), info]
        });
        for answer in answers {
            assert!(answer.is_err(), "{trap:?}");
        }
        assert!(before == picture(&outside), "{trap:?}: nothing is made or changed");
    }
    println!("{slowest}");
}
