//! An import killed at random moments and run again finishes without loss and without a duplicate.

#![cfg(unix)]

mod support;

use std::io::Write;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use support::*;

const KILLS: u32 = 120;

/// A small generator with a seed, so that a failure can be repeated as far as time allows.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

fn seed() -> u64 {
    std::env::var("ANNALS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed_0a11)
}

/// Kills until there were enough kills that bit: after the import had stored something new and before the end.
fn check(durability: &str) {
    let mut random = Random(seed());
    let lines = lines_of(&advisories());
    let dir = tempfile::tempdir().unwrap();
    let (mut kills, mut bites, mut stores) = (0, 0, 0);
    while kills < KILLS || bites < KILLS / 2 {
        assert!(kills < KILLS * 20, "only {bites} of {kills} kills hit an import at work");
        let store = dir.path().join(format!("store-{stores}"));
        stores += 1;
        let mut stored_before = 0;
        for _ in 0..4 {
            let import = args!["import", &store, "-", "--durability", durability];
            kill_while_feeding(&import, &lines, &mut random);
            kills += 1;
            let stored = events_after_kill(&store, &lines);
            // What was durable stays; a reader beside no writer sees that and nothing else.
            assert!(stored >= stored_before, "{stored} events after the kill, {stored_before} before it");
            bites += u32::from(stored > stored_before && stored < ADVISORIES_EVENTS);
            stored_before = stored;
        }
        let outcome = json(&run(args!["import", &store, advisories(), "--json", "--durability", durability]));
        let (there, new) = (outcome["present_events"].as_u64().unwrap(), outcome["stored_events"].as_u64().unwrap());
        assert_eq!(there + new, ADVISORIES_EVENTS);
        assert!(there >= stored_before);
        assert_eq!(sha256(&exported(&store)), ADVISORIES_SHA256);
        assert_eq!(json(&run(args!["verify", &store, "--json"]))["ok"], true);
        std::fs::remove_dir_all(&store).unwrap();
    }
    println!("{durability}: {kills} kills, {bites} of an import at work, {stores} stores, seed {:#x}", seed());
}

/// Gives the import a part of the lines and kills it a moment later; now and then while it still opens the store.
fn kill_while_feeding(import: &[std::ffi::OsString], lines: &[u8], random: &mut Random) {
    let mut child =
        annals().args(import).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    if random.below(6) > 0 {
        input.write_all(&lines[..random.below(lines.len() as u64) as usize]).unwrap();
    }
    thread::sleep(Duration::from_micros(random.below(8_000)));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Number of events a reader finds; what it finds is the beginning of the file, in whole batches.
fn events_after_kill(store: &std::path::Path, lines: &[u8]) -> u64 {
    let ran = run(args!["export", store]);
    if ran.code() == Some(0) {
        let found = &ran.0.stdout;
        assert!(lines.starts_with(found), "what is found is not the beginning of the file");
        assert!(found.len() == lines.len() || ends_whole_batch(found, &lines[found.len()..]), "a part of a batch");
        return found.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    // Killed before the store was made.
    assert!(matches!(ran.code(), Some(1 | 6)), "{}", ran.stderr());
    assert!(ran.stderr().contains("no store") || ran.stderr().contains("not a store"), "{}", ran.stderr());
    0
}

fn ends_whole_batch(found: &[u8], rest: &[u8]) -> bool {
    let batch = |line: Option<&[u8]>| -> Option<u64> {
        let document: serde_json::Value = serde_json::from_slice(line?).ok()?;
        document["batch"].as_u64()
    };
    let last = found.strip_suffix(b"\n").and_then(|found| found.rsplit(|byte| *byte == b'\n').next());
    last.is_none() || batch(last) != batch(rest.split(|byte| *byte == b'\n').next())
}

#[test]
fn durable_import_survives_kills() {
    check("durable");
}

#[test]
fn buffered_import_survives_kills() {
    check("buffered");
}
