//! The verb `compact`.

mod support;

use annals::{Expect, NewEvent, Options, Store};
use support::*;

/// A store with sealed segments, one stream of which is deleted.
fn store(dir: &std::path::Path) -> std::path::PathBuf {
    let path = dir.join("store");
    let store = Options::new().segment_bytes_max(64 << 10).open(&path).unwrap();
    let events: Vec<Vec<u8>> = (0..40).map(|n| format!("payload {n} ").repeat(40).into_bytes()).collect();
    for round in 0..20 {
        let events: Vec<NewEvent<'_>> = events.iter().map(|payload| NewEvent::new("T", payload)).collect();
        store.append(["a", "b"][round % 2], Expect::Any, &events).unwrap();
    }
    store.delete("a", Expect::Any).unwrap();
    store.close().unwrap();
    path
}

#[test]
fn it_frees_what_it_says_and_shows_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let shown = run(args!["cat", &store]).ok().to_owned();
    let before = snapshot(&store);
    // A plan is of the ended segments alone.
    let planned = json(&run(args!["compact", &store, "--dry-run", "--json"]));
    assert!(snapshot(&store) == before, "a dry run changed a file");
    let compacted = json(&run(args!["compact", &store, "--live-segment", "leave", "--json"]));
    assert!(compacted["compacted"].as_array().unwrap().len() > 2, "{compacted}");
    assert!(compacted["removed_events"].as_u64().unwrap() > 200, "{compacted}");
    for field in ["compacted", "bytes_before", "removed_events"] {
        assert_eq!(planned[field], compacted[field], "{field}");
    }
    assert_eq!(run(args!["cat", &store]).ok(), shown);
    assert_eq!(run(args!["verify", &store]).code(), Some(0));
    assert!(run(args!["segments", &store]).ok().contains("compacted"));
    let rest = json(&run(args!["compact", &store, "--json"]));
    let is_in_live = rest["ended_live"].as_bool().unwrap();
    assert_eq!(rest["compacted"].as_array().unwrap().len(), usize::from(is_in_live), "{rest}");
    let again = run(args!["compact", &store]).ok().to_owned();
    assert!(again.starts_with("0 segments"), "{again}");
    assert_eq!(run(args!["cat", &store]).ok(), shown);
    let number = compacted["compacted"][0].as_u64().unwrap().to_string();
    assert!(run(args!["dump", &store, number]).ok().contains("end mark"));
}

#[test]
fn beside_a_writer_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let writing = Store::open(&store).unwrap();
    let planned = json(&run(args!["compact", &store, "--dry-run", "--json"]));
    let done = json(&run(args!["compact", &store, "--live-segment", "leave", "--json"]));
    assert_eq!(done["by_writer"], true);
    assert_eq!(done["compacted"].as_u64().unwrap(), planned["compacted"].as_array().unwrap().len() as u64);
    for field in ["bytes_before", "removed_events"] {
        assert_eq!(planned[field], done[field], "{field}");
    }
    assert!(run(args!["compact", &store]).ok().contains("segments of"));
    assert!(run(args!["compact", &store, "--no-wait"]).ok().contains("requested"));
    assert_eq!(json(&run(args!["compact", &store, "--no-wait", "--json"]))["requested"], true);
    drop(writing);
    assert_eq!(run(args!["verify", &store]).code(), Some(0));
    // Whether the last one was taken up before the end or not: it is in nobody's way.
    let again = json(&run(args!["compact", &store, "--json"]));
    assert_eq!((&again["by_writer"], &again["removed_events"]), (&serde_json::json!(false), &serde_json::json!(0)));
}
