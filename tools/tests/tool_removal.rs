//! The verbs that remove: what they hide, what they say, their exit codes, and that a dry run changes nothing.

#![cfg(unix)]

mod support;

use annals::{Expect, NewEvent, Options, Store};
use support::*;

fn ls(store: &std::path::Path) -> Vec<(String, String, serde_json::Value)> {
    let lines = json_lines(&run(args!["ls", store, "--json"]));
    let text = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap().to_owned();
    lines.iter().map(|line| (text(line, "stream"), text(line, "state"), line["first_revision"].clone())).collect()
}

#[test]
fn streams_are_truncated_deleted_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    // order-0 to order-3, five events each.
    let cut = json(&run(args!["truncate", &store, "order-0", "--before", "3", "--expect", "5", "--json"]));
    assert_eq!((&cut["position"], &cut["hidden"], &cut["first_revision"]), (&21.into(), &2.into(), &3.into()));
    let again = json(&run(args!["truncate", &store, "order-0", "--before", "2", "--json"]));
    assert!(again["position"].is_null() && again["hidden"] == 0);
    let said = run(args!["delete", &store, "order-1"]).ok().to_owned();
    assert_eq!(said, "position 22: 5 events of order-1 are hidden; deleted, nothing of its 5 revisions can be read\n");
    let ended = json(&run(args!["tombstone", &store, "order-2", "--expect", "exists", "--json"]));
    assert_eq!((&ended["state"], &ended["last_revision"]), (&"tombstoned".into(), &5.into()));
    run(args!["truncate", &store, "order-3", "--before", "6"]).ok();
    let states = ls(&store);
    let states: Vec<_> = states.iter().map(|(name, state, _)| (name.as_str(), state.as_str())).collect();
    let expected = [("order-0", "live"), ("order-1", "deleted"), ("order-2", "tombstoned"), ("order-3", "live")];
    assert_eq!(states, expected);
    let listed = run(args!["ls", &store]).ok().to_owned();
    assert!(listed.contains("order-1  (deleted)") && listed.contains("order-3  (truncated)"), "{listed}");
    let shown = json_lines(&run(args!["cat", &store, "--json"]));
    let shown: Vec<_> = shown.iter().map(|event| event["position"].as_u64().unwrap()).collect();
    assert_eq!(shown, [9, 13, 17]);
    assert_eq!(exported(&store).iter().filter(|byte| **byte == b'\n').count(), 3);
    run(args!["get", &store, "2"]).fails(6, "");
    run(args!["verify", &store]).ok();
    run(args!["info", &store]).ok();
    let dumped = run(args!["dump", &store, "1"]).ok().to_owned();
    assert!(dumped.contains("first hidden revision"), "{dumped}");
}

#[test]
fn an_expectation_that_does_not_hold_is_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    let before = snapshot(&store);
    run(args!["delete", &store, "order-0", "--expect", "4", "--dry-run"]).fails(4, "expected revision 4");
    assert!(snapshot(&store) == before, "a dry run changed a file");
    run(args!["delete", &store, "order-0", "--expect", "4"]).fails(4, "expected revision 4");
    run(args!["tombstone", &store, "never"]).fails(4, "expected one that exists, is absent");
    run(args!["truncate", &store, "order-0", "--before", "7"]).fails(1, "beyond");
    run(args!["delete", dir.path().join("nowhere"), "a"]).fails(6, "no store");
    assert_eq!(run(args!["truncate", &store, "order-0"]).code(), Some(2));
    run(args!["append", &store, "--stream", "order-0", "--type", "T", "--data", "x", "--expect", "5"]).ok();
}

#[test]
fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    let writing = Store::open(&store).unwrap();
    let beside = |arguments: &[&str]| {
        let all = args![arguments[0], &store].into_iter().chain(arguments[1..].iter().map(Into::into));
        json(&run(all.chain(args!["--dry-run", "--json"])))
    };
    let cut = beside(&["truncate", "order-0", "--before", "3"]);
    assert_eq!((&cut["hidden"], &cut["first_revision"], &cut["dry_run"]), (&2.into(), &3.into(), &true.into()));
    assert_eq!(beside(&["delete", "order-1"])["hidden"], 5);
    assert_eq!(beside(&["tombstone", "order-1"])["state"], "tombstoned");
    assert_eq!(beside(&["delete", "never"])["state"], "absent");
    assert_eq!(beside(&["retain", "--prefix", "order-", "--max-count", "1"])["policies"][0]["max_count"], 1);
    assert_eq!(writing.head(), 20);
    // The verb itself waits for nobody.
    run(args!["delete", &store, "order-1"]).fails(5, "open for writing");
}

#[test]
fn policies_stand_until_they_are_withdrawn() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    assert_eq!(run(args!["retain", &store]).ok(), "");
    run(args!["retain", &store, "--prefix", "order-", "--max-count", "2", "--max-age", "30d"]).ok();
    run(args!["retain", &store, "--store-wide", "--max-bytes", "1G"]).ok();
    let listed = run(args!["retain", &store]).ok().to_owned();
    assert_eq!(
        listed,
        "prefix \"order-\": no older than 2592000 s, the newest 2 events\nstore: the newest 1073741824 bytes of log\n"
    );
    assert_eq!(run(args!["ls", &store]).ok().lines().count(), 4);
    let before = snapshot(&store);
    let planned = json(&run(args!["sweep", &store, "--dry-run", "--json"]));
    assert!(snapshot(&store) == before, "a dry run changed a file");
    let swept = json(&run(args!["sweep", &store, "--json"]));
    assert_eq!(planned["cuts"], swept["cuts"]);
    assert_eq!(swept["cuts"].as_array().unwrap().len(), 4);
    assert_eq!((&swept["cuts"][0]["stream"], &swept["cuts"][0]["last_revision"]), (&"order-0".into(), &3.into()));
    assert!(ls(&store).iter().all(|(_, _, first)| *first == 4));
    assert_eq!(run(args!["sweep", &store]).ok(), "");
    run(args!["retain", &store, "--prefix", "order-", "--none"]).ok();
    assert_eq!(run(args!["retain", &store]).ok().lines().count(), 1);
    run(args!["retain", &store, "--max-count", "1"]).fails(2, "limits of what");
    run(args!["retain", &store, "--stream", "order-0", "--max-bytes", "1"]).fails(1, "limit");
    assert_eq!(run(args!["retain", &store, "--prefix", "a", "--max-age", "soon"]).code(), Some(2));
}

#[test]
fn a_store_that_keeps_everything_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().removal_forbidden(true).open(dir.path()).unwrap();
    store.append("a", Expect::Any, &[NewEvent::new("T", b"x")]).unwrap();
    store.close().unwrap();
    run(args!["delete", dir.path(), "a"]).fails(1, "removal is forbidden");
    run(args!["sweep", dir.path()]).fails(1, "removal is forbidden");
    run(args!["retain", dir.path(), "--store-wide", "--max-bytes", "1"]).fails(1, "removal is forbidden");
}

/// Every command of the guide runs as it stands there.
#[test]
fn the_commands_of_the_guide_run() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("shop")).unwrap();
    for (stream, count) in [("cart-1", 5), ("cart-2", 2), ("account-7", 1), ("session-1", 3)] {
        for _ in 0..count {
            store.append(stream, Expect::Any, &[NewEvent::new("T", b"x")]).unwrap();
        }
    }
    store.close().unwrap();
    let count = run_commands_of(include_str!("../../docs/guide/removal.md"), dir.path());
    assert!(count >= 9, "{count} commands");
}
