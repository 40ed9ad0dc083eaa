//! Import and export give back exactly what went in.

#![cfg(unix)]

mod support;

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::value::RawValue;
use support::*;

/// Imports, exports, imports again: the same lines, nothing stored twice.
#[track_caller]
fn check(file: &Path, durability: &str, digest: &str) {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let import = args!["import", &store, file, "--json", "--durability", durability];
    let first = json(&run(&import));
    assert_eq!(first["sha256"], digest);
    assert_eq!(first["present_events"], 0);
    assert_eq!(first["stored_events"], first["lines"]);
    assert_eq!(first["durable_head"], first["lines"]);
    assert_eq!(sha256(&exported(&store)), digest);

    let second = json(&run(&import));
    assert_eq!(second["stored_events"], 0);
    assert_eq!(second["present_events"], first["lines"]);
    assert_eq!(sha256(&exported(&store)), digest);
    assert_eq!(json(&run(args!["verify", &store, "--json"]))["ok"], true);
}

#[test]
fn advisories_durable() {
    check(&advisories(), "durable", ADVISORIES_SHA256);
}

#[test]
fn advisories_buffered() {
    check(&advisories(), "buffered", ADVISORIES_SHA256);
}

#[test]
fn webhooks() {
    if let Some(file) = larger_set("webhooks.jsonl.zst") {
        check(&file, "durable", WEBHOOKS_SHA256);
    }
}

#[test]
fn scoop() {
    if let Some(file) = larger_set("scoop.jsonl.zst") {
        check(&file, "durable", SCOOP_SHA256);
    }
}

#[test]
fn generated_batches() {
    let Some(generator) = larger_set("synth.py") else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("synth.jsonl");
    let generated = Command::new("python3")
        .arg(generator)
        .args(["--events", "100000", "--batch-mean", "3", "--seed", "11", "--out"])
        .arg(&file)
        .output();
    match generated {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => return skipped(&format!("generated events: python3: {error}")),
    }
    check(&file, "buffered", &sha256(&std::fs::read(&file).unwrap()));
}

/// What a line says, read without the tool's own parser.
#[derive(serde::Deserialize)]
struct Line<'a> {
    stream: String,
    id: String,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    meta: &'a RawValue,
}

#[test]
fn payload_and_metadata_are_the_lines_text() {
    let dir = tempfile::tempdir().unwrap();
    run(args!["import", dir.path(), advisories()]).ok();
    let store = annals::Options::new().create(false).open(dir.path()).unwrap();
    let text = lines_of(&advisories());
    let mut revisions: HashMap<String, u64> = HashMap::new();
    let mut events = store.read_all(&annals::Query::all(), annals::Seek::Beginning).unwrap();
    for line in std::str::from_utf8(&text).unwrap().lines() {
        let line: Line<'_> = serde_json::from_str(line).unwrap();
        let event = events.next().unwrap().unwrap();
        let revision = revisions.entry(line.stream.clone()).or_default();
        *revision += 1;
        assert_eq!(event.payload(), line.data.get().as_bytes());
        assert_eq!(event.metadata(), line.meta.get().as_bytes());
        assert_eq!(event.stream(), line.stream);
        assert_eq!(event.revision().get(), *revision);
        assert_eq!(event.id().to_string(), line.id);
        assert_eq!(event.tags().count(), 0);
        assert_eq!((event.content_type(), event.schema_version()), (None, None));
        assert_eq!((event.correlation(), event.causation()), (None, None));
    }
    assert!(events.next().is_none());
}

#[test]
fn plain_gzip_zstd_and_standard_input_store_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let text = lines_of(&advisories());
    let plain = dir.path().join("plain");
    std::fs::write(&plain, &text).unwrap();
    let packed = dir.path().join("packed");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text).unwrap();
    let gzip = gzip.finish().unwrap();
    std::fs::write(&packed, &gzip).unwrap();
    for (n, file) in [plain, packed].iter().enumerate() {
        let store = dir.path().join(format!("store-{n}"));
        run(args!["import", &store, file]).ok();
        assert_eq!(sha256(&exported(&store)), ADVISORIES_SHA256);
    }
    for (n, input) in [text, gzip].iter().enumerate() {
        let store = dir.path().join(format!("piped-{n}"));
        run_with_input(args!["import", &store, "-"], input).ok();
        assert_eq!(sha256(&exported(&store)), ADVISORIES_SHA256);
    }
}

#[test]
fn events_without_ids_are_found_again_and_a_file_may_grow() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut text = line("a", "{\"n\":1}") + &line("a", "{\"n\":1}") + "\n" + &line("b", "{}");
    let outcome = |text: &str| {
        let document = json(&run_with_input(args!["import", &store, "-", "--json"], text.as_bytes()));
        (document["stored_events"].as_u64().unwrap(), document["present_events"].as_u64().unwrap())
    };
    assert_eq!(outcome(&text), (3, 0));
    assert_eq!(outcome(&text), (0, 3));
    text += &line("b", "{}");
    assert_eq!(outcome(&text), (1, 3));
    // The made ids are part of what is exported, so that this goes into another store as the same events.
    let lines = exported(&store);
    let other = dir.path().join("other");
    run_with_input(args!["import", &other, "-"], &lines).ok();
    assert_eq!(exported(&other), lines);
}

#[test]
fn batches_are_numbered_over_what_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let event =
        |stream: &str, batch: &str| format!("{{\"stream\":\"{stream}\",\"type\":\"T\",\"data\":{{}}{batch}}}\n");
    let text = event("a", ",\"batch\":0")
        + &event("b", ",\"batch\":0")
        + &event("b", "")
        + &event("a", ",\"batch\":1")
        + &event("b", ",\"batch\":2");
    run_with_input(args!["import", &store, "-"], text.as_bytes()).ok();
    let numbers = |arguments: &[&str]| -> Vec<Option<u64>> {
        let ran = run(args!["export", &store].into_iter().chain(arguments.iter().map(Into::into)));
        json_lines(&ran).iter().map(|line| line["batch"].as_u64()).collect()
    };
    assert_eq!(numbers(&[]), [Some(0), Some(0), None, Some(1), Some(2)]);
    assert_eq!(numbers(&["--stream", "b"]), [Some(0), None, Some(1)]);
}

#[test]
fn events_of_other_programs_come_back_whole() {
    use annals::{Batch, EventId, NewEvent, OccurredAt, Store};
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let store = Store::open(&first).unwrap();
    let id = EventId::from_bytes([9; 16]);
    let rare = NewEvent::new("R\"x\\", b"\xff\0")
        .id(id)
        .metadata(b" {}")
        .tags(&["a:1", "b"])
        .content_type("image/png")
        .schema_version(3)
        .correlation(b"\xfe")
        .causation("cause")
        .occurred_at(OccurredAt { nanos: -1, digits: 9 });
    store.commit(&Batch::new().event("s t", rare).event("s t", NewEvent::new("E", b"").id([8; 16]))).unwrap();
    store.close().unwrap();
    let lines = exported(&first);
    run_with_input(args!["import", &second, "-"], &lines).ok();
    assert_eq!(exported(&second), lines);
    let store = Store::open(&second).unwrap();
    let annals::Lookup::Found(event) = store.by_id(id).unwrap() else { panic!("the event is not there") };
    assert_eq!((event.event_type(), event.payload(), event.metadata()), ("R\"x\\", &b"\xff\0"[..], &b" {}"[..]));
    assert_eq!(event.tags().collect::<Vec<_>>(), ["a:1", "b"]);
    assert_eq!((event.content_type(), event.schema_version()), (Some("image/png"), Some(3)));
    assert_eq!((event.correlation(), event.causation()), (Some(&b"\xfe"[..]), Some(&b"cause"[..])));
    assert_eq!(event.occurred_at(), Some(OccurredAt { nanos: -1, digits: 9 }));
}
