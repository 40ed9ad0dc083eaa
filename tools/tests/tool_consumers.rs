//! `annals consumers`: listing beside a writer, resetting, removing, and what it answers when it cannot.

mod support;

use std::path::Path;
use std::time::Duration;

use annals::{ConsumerOptions, Retry, Store};
use support::{json_lines, run, small_store, snapshot};

/// Twenty events; "mail" has acknowledged twelve of them and parked one, "bill" none.
fn with_consumers(dir: &Path) -> std::path::PathBuf {
    let path = small_store(dir);
    let store = Store::open(&path).unwrap();
    let mail = store.consumer("mail", ConsumerOptions::new().retry(Retry::times(1))).unwrap();
    for n in 0..12 {
        let event = mail.next(Duration::ZERO).unwrap().unwrap();
        match n {
            11 => drop(mail.fail(&event, "no such address").unwrap()),
            _ => mail.ack(&event).unwrap(),
        }
    }
    drop(mail);
    drop(store.consumer("bill", ConsumerOptions::new()).unwrap());
    store.close().unwrap();
    path
}

#[test]
fn consumers_are_listed_also_beside_a_writer_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_consumers(dir.path());
    let before = snapshot(&path);
    let text = run(args!["consumers", &path]);
    let lines: Vec<Vec<&str>> = text.ok().lines().map(|line| line.split_whitespace().collect()).collect();
    // Of the fourth stream's five events one failed; the two that were read behind it are parked with it.
    assert_eq!(lines[0], ["checkpoint", "lag", "parked", "consumer"]);
    assert_eq!(lines[1], ["0", "20", "0", "bill"]);
    assert_eq!((lines[2][0], lines[2][3]), ("12", "mail"));
    assert_eq!(run(args!["consumers", &path, "ls"]).ok(), text.ok());
    assert_eq!(snapshot(&path), before);

    let store = Store::open(&path).unwrap();
    let bill = store.consumer("bill", ConsumerOptions::new()).unwrap();
    bill.ack(&bill.next(Duration::ZERO).unwrap().unwrap()).unwrap();
    let rows = json_lines(&run(args!["consumers", &path, "ls", "--json"]));
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (&rows[0]["consumer"], &rows[0]["checkpoint"], &rows[0]["lag"]),
        (&"bill".into(), &1.into(), &19.into())
    );
    assert_eq!((&rows[1]["consumer"], &rows[1]["checkpoint"]), (&"mail".into(), &12.into()));
    assert!(rows[1]["parked"].as_u64().unwrap() >= 1 && rows[1]["generation"].as_u64().unwrap() >= 1);
    assert!(rows[1]["changed_at"].as_str().unwrap().starts_with("20"));
    run(args!["consumers", &path, "reset", "mail", "end"]).fails(5, "open for writing");
    run(args!["consumers", &path, "rm", "mail"]).fails(5, "open for writing");
}

#[test]
fn consumers_are_reset_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_consumers(dir.path());
    let row = run(args!["consumers", &path, "--json", "reset", "mail", "after:7"]);
    assert_eq!(
        (json_lines(&row)[0]["checkpoint"].as_u64(), json_lines(&row)[0]["parked"].as_u64()),
        (Some(7), Some(0))
    );
    for (seek, checkpoint) in [("end", 20), ("beginning", 0), ("at:3", 2), ("time:2100-01-01T00:00:00Z", 20)] {
        run(args!["consumers", &path, "reset", "mail", seek]).ok();
        let rows = json_lines(&run(args!["consumers", &path, "--json"]));
        assert_eq!(rows[1]["checkpoint"].as_u64(), Some(checkpoint), "{seek}");
    }
    run(args!["consumers", &path, "reset", "mail", "after:21"]).fails(1, "beyond the head");
    run(args!["consumers", &path, "reset", "nobody", "end"]).fails(6, "no consumer \"nobody\"");
    run(args!["consumers", &path, "rm", "nobody"]).fails(6, "no consumer \"nobody\"");
    assert_eq!(run(args!["consumers", &path, "rm", "mail"]).ok(), "");
    let rows = json_lines(&run(args!["consumers", &path, "--json"]));
    assert_eq!(rows.len(), 1);
    run(args!["verify", &path]).ok();
}

#[test]
fn what_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = small_store(dir.path());
    assert_eq!(run(args!["consumers", &path, "--json"]).ok(), "");
    assert_eq!(run(args!["consumers", &path, "reset", "mail", "yesterday"]).code(), Some(2));
    assert_eq!(run(args!["consumers", &path, "reset", "mail"]).code(), Some(2));
    let missing = dir.path().join("missing");
    for verb in [args!["consumers", &missing].to_vec(), args!["consumers", &missing, "rm", "mail"].to_vec()] {
        run(verb).fails(6, "no store");
        assert!(!missing.exists());
    }
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    run(args!["consumers", &empty, "rm", "mail"]).fails(1, "is not a store");
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
}
