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
    let planned = json(&run(args!["compact", &store, "--dry-run", "--json"]));
    assert!(snapshot(&store) == before, "a dry run changed a file");
    let compacted = json(&run(args!["compact", &store, "--json"]));
    assert!(compacted["compacted"].as_array().unwrap().len() > 2, "{compacted}");
    assert!(compacted["removed_events"].as_u64().unwrap() > 200, "{compacted}");
    for field in ["compacted", "bytes_before", "removed_events"] {
        assert_eq!(planned[field], compacted[field], "{field}");
    }
    assert_eq!(run(args!["cat", &store]).ok(), shown);
    assert_eq!(run(args!["verify", &store]).code(), Some(0));
    assert!(run(args!["segments", &store]).ok().contains("compacted"));
    let again = run(args!["compact", &store]).ok().to_owned();
    assert!(again.starts_with("0 segments"), "{again}");
    // Beside a writer only a dry run works.
    let writing = Store::open(&store).unwrap();
    run(args!["compact", &store]).fails(5, "open for writing");
    run(args!["compact", &store, "--dry-run"]).ok();
    drop(writing);
    let number = compacted["compacted"][0].as_u64().unwrap().to_string();
    assert!(run(args!["dump", &store, number]).ok().contains("end mark"));
}
