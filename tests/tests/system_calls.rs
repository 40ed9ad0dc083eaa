//! Reading asks nothing of the system for an event: counted by strace around a process that reads a million while it is behind.
//! What it asks is the opening of segments, each once.

use std::path::Path;
use std::process::Command;

use annals::{Durability, Expect, NewEvent, Options};
use annals_tests::model::Ground;

/// Calls to the system of a whole process that reads so many events, and strace's table of them.
fn calls(dir: &Path, what: &str, events: u64) -> (u64, String) {
    let report = dir.with_extension("strace");
    let child = env!("CARGO_BIN_EXE_read_child");
    let traced = Command::new("strace")
        .args(["-c", "-f", "-U", "calls,name", "-o"])
        .arg(&report)
        .arg(child)
        .arg(dir)
        .args([what, &events.to_string()])
        .output()
        .expect("strace was there a moment ago");
    assert!(traced.status.success(), "{}", String::from_utf8_lossy(&traced.stderr));
    let report = std::fs::read_to_string(report).expect("the report");
    let total = report.lines().rev().find(|line| line.ends_with("total")).expect("a last line");
    let count = total.split_whitespace().next().and_then(|count| count.parse().ok());
    (count.expect("a count"), report)
}

#[test]
fn fewer_than_one_system_call_for_ten_thousand_events() {
    if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: strace is not here");
        return;
    }
    let events = 1_000_000;
    let ground = Ground::disk();
    let options = || Options::new().durability(Durability::Buffered);
    let store = ground.open(options());
    for _ in 0..events / 100 {
        let batch: Vec<_> = (0..100).map(|_| NewEvent::new("T", &[7; 256]).tags(&["t"])).collect();
        store.append("a", Expect::Any, &batch).unwrap();
    }
    let segments = store.stats().segments;
    store.close().unwrap();
    // All that ended is sealed and stands in tiers, so that opening the store touches no segment but the last.
    let store = ground.open(options());
    store.check_index().unwrap();
    store.close().unwrap();
    let dir = ground.path().expect("on disk");
    for what in ["all", "tagged"] {
        // Opening for writing changes a little each time: once for all.
        calls(&dir, what, 0);
        let ((none, without), (all, with)) = (calls(&dir, what, 0), calls(&dir, what, events));
        let made = all.saturating_sub(none);
        println!(
            "{what}: {made} calls for {events} events in {segments} segments ({all} with and {none} without reading)"
        );
        let few = events / 10_000;
        assert!(made < few, "{made} calls for {events} events, not {few}\n{without}\n{with}");
        assert!(made > segments, "the segments were open before anything was read: {made} calls");
    }
}
