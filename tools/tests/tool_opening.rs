//! What an opening has to say goes to standard error, and an ordinary one says nothing.

#![cfg(unix)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use annals::{ConsumerOptions, Expect, NewEvent, Options, Store};
use support::*;

/// Distance of the two slots of `MARK`.
const SLOT_DISTANCE: usize = 4096;

fn append(store: &Path) -> Ran {
    let ran = run(args!["append", store, "--stream", "order-1", "--type", "T", "--data", "{}"]);
    ran.ok();
    ran
}

/// Every verb that reads succeeds without a word on standard error.
#[track_caller]
fn check_quiet(store: &Path) {
    for verb in ["cat", "tail", "ls", "info", "segments", "verify", "export", "consumers", "retain"] {
        let ran = run(args![verb, store]);
        ran.ok();
        assert_eq!(ran.stderr(), "", "{verb}");
    }
    for verb in [args!["sweep", store, "--dry-run"], args!["snapshot", "ls", store], args!["get", store, "1"]] {
        let ran = run(&verb);
        ran.ok();
        assert_eq!(ran.stderr(), "", "{verb:?}");
    }
}

/// A store of many segments and a consumer, cleanly closed.
fn of_segments(dir: &Path) {
    let store = Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).open(dir).unwrap();
    drop(store.consumer("c", ConsumerOptions::new()).unwrap());
    for number in 0..200 {
        let payload = vec![b'x'; 2000];
        store.append(&format!("order-{}", number % 9), Expect::Any, &[NewEvent::new("T", &payload)]).unwrap();
    }
    store.close().unwrap();
}

fn damage_mark(store: &Path, slot: usize) {
    let path = store.join("MARK");
    let mut bytes = fs::read(&path).unwrap();
    bytes[slot * SLOT_DISTANCE + 40] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn ordinary_stores_say_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    assert_eq!(append(&store).stderr(), format!("created store {}\n", store.display()));
    check_quiet(&store);
    assert_eq!(append(&store).stderr(), "");
    check_quiet(&store);
    let segments = dir.path().join("segments");
    of_segments(&segments);
    check_quiet(&segments);
    assert_eq!(append(&segments).stderr(), "");

    let [backup, restored, forked] = ["backup", "restored", "forked"].map(|name| dir.path().join(name));
    for verb in
        [args!["backup", &segments, &backup], args!["restore", &backup, &restored], args!["fork", &segments, &forked]]
    {
        let ran = run(&verb);
        ran.ok();
        assert_eq!(ran.stderr(), "", "{verb:?}");
    }
    for made in [&restored, &forked] {
        check_quiet(made);
        let first = append(made);
        // What is derived from the log is not copied; the first opening makes it.
        assert!(first.stderr().lines().all(|line| line.starts_with("made ")), "{}", first.stderr());
        assert_eq!(append(made).stderr(), "", "{}", made.display());
        check_quiet(made);
    }
}

#[test]
fn a_store_that_is_being_written_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    for _ in 0..3 {
        store.append("s", Expect::Any, &[NewEvent::new("T", b"{}")]).unwrap();
        check_quiet(&path);
    }
    // As a reader may meet it while the next mark is written: the newest of the five stands in the second slot.
    damage_mark(&path, 0);
    check_quiet(&path);
    store.close().unwrap();
}

#[test]
fn a_damaged_mark_is_told() {
    for slot in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let store = small_store(dir.path());
        let before = run(args!["cat", &store, "--json"]);
        damage_mark(&store, slot);
        let told = format!("notice: MARK slot {slot}: ");
        let check = |ran: &Ran| {
            ran.ok();
            assert_eq!(ran.stderr().matches(&told).count(), 1, "{}", ran.stderr());
            assert!(ran.stderr().lines().any(|line| line.starts_with(&told)), "{}", ran.stderr());
        };
        let ran = run(args!["cat", &store, "--json"]);
        check(&ran);
        assert_eq!(ran.stdout(), before.stdout());
        check(&append(&store));
        // Opening for writing has mended it.
        assert_eq!(append(&store).stderr(), "");
        check_quiet(&store);
    }
}

/// Killed behind a durable commit: what came after it is there, and no reader of the durable view can tell whether it stays.
#[test]
fn what_the_durable_view_leaves_out_after_a_kill_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = || Options::new().background(false);
    let store = options().open(&path).unwrap();
    let event = || [NewEvent::new("T", b"{}")];
    store.append("s", Expect::Any, &event()).unwrap();
    store.append_with("s", Expect::Any, &event(), annals::Durability::Buffered).unwrap();
    store.append_with("s", Expect::Any, &event(), annals::Durability::Buffered).unwrap();
    let killed = dir.path().join("killed");
    fs::create_dir(&killed).unwrap();
    for entry in fs::read_dir(&path).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), killed.join(entry.file_name())).unwrap();
    }
    assert_eq!(run(args!["cat", &path]).stderr(), "", "beside the writer");
    drop(store);
    let ran = run(args!["cat", &killed, "--json"]);
    assert_eq!(ran.ok().lines().count(), 1);
    assert!(ran.stderr().contains("positions 2 to 3 are not known to be durable"), "{}", ran.stderr());
    append(&killed);
    assert_eq!(run(args!["cat", &killed, "--json"]).ok().lines().count(), 4);
    check_quiet(&killed);
}

/// Without the newest mark nobody knows where the durable view ends.
#[test]
fn a_mark_that_hides_durable_events_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    fs::remove_file(store.join("MARK")).unwrap();
    for verb in ["cat", "export", "ls", "tail"] {
        let ran = run(args![verb, &store]);
        assert_eq!(ran.code(), Some(3), "{verb}: {}", ran.stderr());
        assert!(ran.stderr().contains("MARK") && ran.stderr().contains("opening for writing"), "{}", ran.stderr());
        assert_eq!(ran.stdout(), "", "{verb}");
    }
    let written = run(args!["tail", &store, "--view", "written", "--json", "-n", "10"]);
    assert_eq!(written.ok().lines().count(), 10);
    append(&store);
    check_quiet(&store);
}

#[test]
fn following_tells_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    damage_mark(&store, 0);
    let mut command = annals();
    command.args(args!["tail", &store, "-n", "1", "-f"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    signal("INT", child.id());
    let ran = Ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code(), Some(130));
    assert!(ran.stderr().starts_with("notice: MARK slot 0: "), "{}", ran.stderr());
}

#[test]
fn a_missing_ring_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    fs::remove_file(store.join("RING")).unwrap();
    let ran = run(args!["ls", &store, "--json"]);
    assert_eq!(ran.ok().lines().count(), 4);
    assert_eq!(ran.stderr(), "notice: RING is missing\n");
    let ran = run(args!["compact", &store, "--json"]);
    json(&ran);
    assert_eq!(ran.stderr(), "notice: RING is missing\n");
    check_quiet(&store);
}

#[test]
fn what_is_made_anew_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let verbs = |store: &Path| {
        [
            args!["append", store, "--stream", "s", "--type", "T", "--data", "{}"].to_vec(),
            args!["compact", store].to_vec(),
            args!["consumers", store, "rm", "c"].to_vec(),
            args!["snapshot", "clean", store].to_vec(),
            args!["index", "rebuild", store].to_vec(),
        ]
    };
    for number in 0..verbs(dir.path()).len() {
        let store = dir.path().join(number.to_string());
        of_segments(&store);
        let of_consumers = files(&store, "consumers-");
        assert!(!of_consumers.is_empty());
        for file in of_consumers {
            fs::remove_file(file).unwrap();
        }
        let ran = run(&verbs(&store)[number]);
        ran.ok();
        assert_eq!(ran.stderr(), "made 1 index file anew\n", "{number}");
        assert_eq!(append(&store).stderr(), "");
    }
}

#[test]
fn a_tier_that_is_missing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    of_segments(dir.path());
    let indexes = files(dir.path(), "INDEX-");
    assert!(!indexes.is_empty());
    for file in indexes {
        fs::remove_file(file).unwrap();
    }
    let told = append(dir.path());
    assert_eq!(told.stderr(), "notice: the index manifest is missing; the index is made anew\n");
    assert_eq!(append(dir.path()).stderr(), "");
}
