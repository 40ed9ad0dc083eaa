//! A file of the index that is missing or damaged is made anew in the background of the next opening, also where nobody asks
//! for what it holds.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use annals::inspect;
use annals::{Durability, Expect, NewEvent, Options, Query, Seek, Store};

const SEGMENT: u64 = 64 << 10;
const EVENTS: u64 = 3000;

fn open(path: &Path) -> Store {
    Options::new().durability(Durability::Buffered).segment_bytes_max(SEGMENT).open(path).unwrap()
}

/// Some thirty segments, all covered by tiers and directory.
fn make(path: &Path) {
    // Twice, so that there are two index manifests and files of several sizes.
    for half in 0..2 {
        let store = open(path);
        for number in 0..EVENTS / 2 {
            let event = NewEvent::new("Counted", &[7; 500][..]);
            store.append(&format!("stream-{}", (half * 7 + number) % 900), Expect::Any, &[event]).unwrap();
        }
        settle(path);
        store.close().unwrap();
    }
}

fn is_sound(path: &Path) -> bool {
    inspect::check_index(path, &mut |_, _| {}).is_ok_and(|report| report.findings.is_empty())
}

/// Until the background has nothing more to write.
fn settle(path: &Path) {
    let mut before = files(path);
    loop {
        std::thread::sleep(Duration::from_millis(1200));
        let now = files(path);
        if now == before {
            return;
        }
        before = now;
    }
}

/// Files of the index, with their lengths. One may go while they are listed.
fn files(path: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
    let entries =
        entries.filter_map(|entry| Some((entry.file_name().into_string().unwrap(), entry.metadata().ok()?.len())));
    let mut found: Vec<_> = entries.filter(|(name, _)| name.ends_with(".idx") || name.starts_with("INDEX")).collect();
    found.sort_unstable();
    found
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn whatever_of_the_index_is_damaged_or_gone_is_made_anew_without_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    make(&whole);
    assert!(is_sound(&whole));
    let files = files(&whole);
    let of = |prefix: &str| files.iter().filter(|(name, _)| name.starts_with(prefix)).cloned().collect::<Vec<_>>();
    let segments = of("segment-");
    assert!(segments.len() > 15 && !of("tier-").is_empty() && !of("streams-").is_empty() && of("INDEX").len() == 2);
    // Of the many of segments three; of the rest all.
    let mut chosen: Vec<(String, u64)> =
        [1, segments.len() / 2, segments.len() - 2].map(|at| segments[at].clone()).into();
    chosen.extend(["tier-", "streams-", "INDEX"].iter().flat_map(|prefix| of(prefix)));

    for (number, (name, len)) in chosen.iter().enumerate() {
        for harm in ["gone", "a byte", "the last byte", "cut"] {
            let path = dir.path().join(format!("harmed-{number}-{}", harm.replace(' ', "-")));
            copy(&whole, &path);
            let file = path.join(name);
            let mut bytes = std::fs::read(&file).unwrap();
            match harm {
                "gone" => std::fs::remove_file(&file).unwrap(),
                "a byte" => {
                    bytes[*len as usize / 2] ^= 1;
                    std::fs::write(&file, bytes).unwrap();
                }
                "the last byte" => {
                    bytes[*len as usize - 1] ^= 0x80;
                    std::fs::write(&file, bytes).unwrap();
                }
                _ => std::fs::write(&file, &bytes[..*len as usize / 2]).unwrap(),
            }
            assert!(!is_sound(&path), "{name}, {harm}");

            let store = open(&path);
            let begun = Instant::now();
            while !is_sound(&path) {
                assert!(
                    begun.elapsed() < Duration::from_secs(60),
                    "{name}, {harm}: {:?}",
                    inspect::check_index(&path, &mut |_, _| {})
                );
                std::thread::sleep(Duration::from_millis(50));
            }
            let all = store.read_all(&Query::all(), Seek::Beginning).unwrap();
            assert_eq!(all.map(|event| u64::from(event.is_ok())).sum::<u64>(), EVENTS, "{name}, {harm}");
            store.close().unwrap();
            assert!(is_sound(&path), "{name}, {harm}: after closing");
            std::fs::remove_dir_all(&path).unwrap();
        }
    }
}

/// The ids of segments without a tier are needed before the first append is answered, so that opening makes these indexes itself,
/// and tells how far it is; the rest follows in the background, which can be watched.
#[test]
fn an_opening_that_makes_indexes_anew_tells_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    make(&path);
    let told = Arc::new(Mutex::new(Vec::new()));
    let opened = || {
        let told = Arc::clone(&told);
        let options = Options::new().index_progress(move |done, all| told.lock().unwrap().push((done, all)));
        options.open(&path).unwrap()
    };
    let store = opened();
    assert!(store.recovery_report().rebuilt_indexes.is_empty());
    store.close().unwrap();
    assert!(told.lock().unwrap().is_empty(), "a whole index is not made");

    for (name, _) in files(&path) {
        std::fs::remove_file(path.join(name)).unwrap();
    }
    let store = opened();
    let told = std::mem::take(&mut *told.lock().unwrap());
    let all = told.last().unwrap().1;
    assert!(all > 15, "{told:?}");
    assert_eq!(told, (1..=all).map(|done| (done, all)).collect::<Vec<_>>());
    assert_eq!(store.recovery_report().rebuilt_indexes.len() as u64, all);
    let begun = Instant::now();
    while store.stats().index_behind > 0 || !is_sound(&path) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", store.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    store.close().unwrap();
}
