//! `annals snapshot`: listing and showing beside a writer, cleaning up, and what it answers when there is nothing.

mod support;

use std::path::{Path, PathBuf};

use annals::{Expect, NewEvent, Revision, Snapshots, Store};
use support::{json_lines, run, run_commands_of, snapshot};

fn store_at(dir: &Path) -> (PathBuf, Store) {
    let path = dir.join("shop");
    let store = Store::open(&path).unwrap();
    for stream in ["account-7", "account-8", "cart-1"] {
        for _ in 0..5 {
            store.append(stream, Expect::Any, &[NewEvent::new("T", b"x")]).unwrap();
        }
    }
    let revision = |number| Revision::new(number).unwrap();
    let accounts = Snapshots::of("account", 1);
    for at in [2, 3, 5] {
        accounts.save(&store, "account-7", revision(at), format!("balance {at}").as_bytes()).unwrap();
    }
    accounts.save(&store, "account-8", revision(4), &vec![0; 4000]).unwrap();
    Snapshots::of("account", 2).save(&store, "account-7", revision(4), b"\x01\x02").unwrap();
    Snapshots::of("cart", 9).save(&store, "cart-1", revision(1), b"empty").unwrap();
    (path, store)
}

#[test]
fn snapshots_are_listed_and_shown_beside_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (path, store) = store_at(dir.path());
    let before = snapshot(&path);
    let rows = json_lines(&run(args!["snapshot", "ls", &path, "--json"]));
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            (row["stream"].as_str().unwrap(), row["schema"].as_u64().unwrap(), row["revision"].as_u64().unwrap())
        })
        .collect();
    let expected = [
        ("account-7", 1, 5),
        ("account-7", 2, 4),
        ("account-7", 1, 3),
        ("account-7", 1, 2),
        ("account-8", 1, 4),
        ("cart-1", 9, 1),
    ];
    assert_eq!(found, expected);
    assert_eq!((&rows[4]["bytes"], rows[4]["stored_bytes"].as_u64() < Some(100)), (&4000.into(), true));
    assert_eq!(run(args!["snapshot", "ls", &path, "cart-"]).ok().lines().count(), 2);
    assert_eq!(run(args!["snapshot", "show", &path, "account-7", "--raw"]).ok(), "balance 5");
    let shown = &json_lines(&run(args!["snapshot", "show", &path, "account-7", "--schema", "2", "--json"]))[0];
    assert_eq!((&shown["revision"], &shown["state_base64"]), (&4.into(), &"AQI=".into()));
    assert!(run(args!["snapshot", "show", &path, "account-7"]).ok().contains("balance 5"));
    assert!(run(args!["snapshot", "show", &path, "account-7", "--schema", "2"]).ok().contains("0102"));
    run(args!["snapshot", "show", &path, "account-9"]).fails(6, "no such snapshot");
    run(args!["snapshot", "show", &path, "account-7", "--name", "cart"]).fails(6, "no such snapshot");
    assert_eq!(snapshot(&path), before);
    run(args!["snapshot", "clean", &path]).fails(5, "open for writing");
    store.close().unwrap();
    assert_eq!(run(args!["snapshot", "ls", dir.path().join("nowhere")]).code(), Some(6));
}

#[test]
fn clean_up_says_what_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, store) = store_at(dir.path());
    store.delete("cart-1", Expect::Any).unwrap();
    store.close().unwrap();
    let clean = |more: &[&str]| {
        let mut arguments = args!["snapshot", "clean", &path, "--json"].to_vec();
        arguments.extend(more.iter().map(Into::into));
        json_lines(&run(arguments)).remove(0)
    };
    let planned = clean(&["--dry-run"]);
    let cleaned = clean(&[]);
    for field in ["kept", "void", "superseded"] {
        assert_eq!(planned[field], cleaned[field], "{field}");
    }
    assert_eq!((&cleaned["kept"], &cleaned["void"], &cleaned["superseded"]), (&3.into(), &1.into(), &2.into()));
    assert_eq!(json_lines(&run(args!["snapshot", "ls", &path, "--json"])).len(), 3);
    let info = &json_lines(&run(args!["info", &path, "--json"]))[0];
    assert_eq!(info["snapshots"], 3);
    assert!(info["snapshot_bytes"].as_u64().unwrap() > 0);
    run(args!["verify", &path]).ok();
}

#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (path, store) = store_at(dir.path());
    store.close().unwrap();
    let file = path.join("snapshots-00000000000000000001");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(9).position(|part| part == b"balance 5").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    run(args!["snapshot", "show", &path, "account-7"]).fails(3, "snapshots-00000000000000000001");
    run(args!["verify", &path]).fails(3, "");
    run(args!["snapshot", "show", &path, "account-8"]).ok();
}

/// Every command of the guide runs as it stands there.
#[test]
fn the_commands_of_the_guide_run() {
    let dir = tempfile::tempdir().unwrap();
    store_at(dir.path()).1.close().unwrap();
    let count = run_commands_of(include_str!("../../docs/guide/snapshots.md"), dir.path());
    assert!(count >= 8, "{count} commands");
}
