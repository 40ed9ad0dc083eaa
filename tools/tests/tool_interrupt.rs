//! Ctrl-C ends a verb that waits for its input, and nothing half read is stored.

#![cfg(target_os = "linux")] // where /proc tells that the signal is caught

mod support;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::*;

/// Far longer than an ending takes, far shorter than a wait for ever.
const PATIENCE: Duration = Duration::from_secs(20);
const NAP: Duration = Duration::from_millis(10);

/// Starts the tool; it catches SIGINT when this returns.
fn started(arguments: &[OsString], stdin: Stdio) -> Child {
    let child = annals().args(arguments).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let catches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        u64::from_str_radix(caught, 16).unwrap() & 1 << 1 != 0
    };
    until("SIGINT is not caught", catches);
    child
}

#[track_caller]
fn until(else_said: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{else_said}");
        thread::sleep(NAP);
    }
}

/// How it ended; one that does not end is killed.
#[track_caller]
fn ended(mut child: Child) -> Ran {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("Ctrl-C did not end it");
        }
        thread::sleep(NAP);
    }
    Ran(child.wait_with_output().unwrap())
}

/// Ctrl-C and the end of the input, as where the feeder dies of the same Ctrl-C.
fn interrupt_with_end(child: &Child, input: impl Write) {
    signal("INT", child.id());
    drop(input);
}

fn events(store: &Path) -> usize {
    let ran = run(args!["cat", store, "--json"]);
    if ran.code() == Some(0) { ran.stdout().lines().count() } else { 0 }
}

/// It was told, `events` are there, and the store was closed cleanly.
#[track_caller]
fn check_stored(ran: &Ran, store: &Path, stored: usize) {
    ran.fails(130, &format!("the import ({stored} of its events are stored)"));
    assert_eq!(ran.stdout(), "");
    assert_eq!(events(store), stored);
    let next = run(args!["append", store, "--stream", "s", "--type", "T", "--data", "{}"]);
    next.ok();
    assert!(!next.stderr().contains("recovered"), "{}", next.stderr());
}

fn fifo(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn an_import_that_waits_for_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut child = started(&args!["import", &store, "-", "--json"], Stdio::piped());
    let mut input = child.stdin.take().unwrap();
    input.write_all((line("s", "{}") + &line("s", "{}")).as_bytes()).unwrap();
    until("the lines are not stored", || events(&store) == 2);
    signal("INT", child.id());
    check_stored(&ended(child), &store, 2);
}

#[test]
fn an_import_that_got_nothing_yet() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut child = started(&args!["import", &store, "-"], Stdio::piped());
    let input = child.stdin.take().unwrap();
    signal("INT", child.id());
    ended(child).fails(130, "the import (0 of its events are stored)");
    drop(input);
    assert!(!store.exists(), "a store was made for nothing");
}

#[test]
fn an_import_that_waits_for_a_pipe_with_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let (store, pipe) = (dir.path().join("store"), fifo(dir.path()));
    let child = started(&args!["import", &store, &pipe], Stdio::null());
    let mut input = File::create(&pipe).unwrap();
    input.write_all(line("s", "{}").as_bytes()).unwrap();
    until("the line is not stored", || events(&store) == 1);
    signal("INT", child.id());
    check_stored(&ended(child), &store, 1);
}

#[test]
fn a_pipe_with_a_name_that_nobody_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, pipe) = (dir.path().join("store"), fifo(dir.path()));
    let child = started(&args!["import", &store, &pipe], Stdio::null());
    signal("INT", child.id());
    ended(child).fails(130, "the import (0 of its events are stored)");
    let append = args!["append", &store, "--stream", "s", "--type", "T", "--file", &pipe];
    let child = started(&append, Stdio::null());
    signal("INT", child.id());
    ended(child).fails(130, "nothing is stored");
    assert!(!store.exists(), "a store was made for nothing");
}

#[test]
fn a_last_line_that_is_cut_is_no_broken_line() {
    let dir = tempfile::tempdir().unwrap();
    for at_end in [false, true] {
        let store = dir.path().join(format!("store-{at_end}"));
        let mut child = started(&args!["import", &store, "-"], Stdio::piped());
        let mut input = child.stdin.take().unwrap();
        input.write_all((line("s", "{}") + "{\"stream\":\"s\",\"ty").as_bytes()).unwrap();
        until("the line is not stored", || events(&store) == 1);
        if at_end {
            interrupt_with_end(&child, input);
        } else {
            signal("INT", child.id());
        }
        check_stored(&ended(child), &store, 1);
    }
}

#[test]
fn an_input_that_ends_with_ctrl_c_is_not_taken_for_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut child = started(&args!["import", &store, "-"], Stdio::piped());
    let mut input = child.stdin.take().unwrap();
    let of_batch = |number| format!("{{\"stream\":\"s\",\"type\":\"T\",\"data\":{{}},\"batch\":{number}}}\n");
    input.write_all((of_batch(1) + &of_batch(1) + &of_batch(2)).as_bytes()).unwrap();
    until("the batch is not stored", || events(&store) == 2);
    interrupt_with_end(&child, input);
    // Of the second batch there may be more to come.
    check_stored(&ended(child), &store, 2);
}

#[test]
fn an_archive_that_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let packed = std::fs::read(advisories()).unwrap();
    let store = dir.path().join("store");
    let mut child = started(&args!["import", &store, "-"], Stdio::piped());
    let mut input = child.stdin.take().unwrap();
    input.write_all(&packed[..packed.len() / 2]).unwrap();
    until("nothing is stored", || events(&store) > 0);
    interrupt_with_end(&child, input);
    ended(child).fails(130, "of its events are stored");
}

#[test]
fn an_append_that_waits_stores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let append = args!["append", &store, "--stream", "s", "--type", "T", "-"];
    for at_end in [false, true] {
        let mut child = started(&append, Stdio::piped());
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"half of a payl").unwrap();
        if at_end {
            interrupt_with_end(&child, input);
        } else {
            signal("INT", child.id());
        }
        let ran = ended(child);
        ran.fails(130, "nothing is stored");
        assert_eq!(ran.stdout(), "");
        assert!(!store.exists(), "a store was made for nothing");
    }
}
