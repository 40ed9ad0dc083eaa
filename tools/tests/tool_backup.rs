//! `backup`, `restore`, `fork`, `repair`, and `cat --as-of`: what they make, what they say, how they end.

mod support;

use std::path::{Path, PathBuf};

use support::*;

/// A store of 60 events in several segments' worth of batches.
fn store_in(dir: &Path) -> PathBuf {
    let store = small_store(dir);
    let lines: String = (0..40).map(|n| line(&format!("cart-{}", n % 3), &format!("{{\"m\":{n}}}"))).collect();
    run_with_input(args!["import", &store, "-"], lines.as_bytes()).ok();
    store
}

/// `export`, without ids made by the library being any different in a copy.
fn lines_up_to(store: &Path, count: usize) -> Vec<String> {
    String::from_utf8(exported(store)).unwrap().lines().take(count).map(str::to_owned).collect()
}

#[test]
fn a_backup_is_restored_to_any_position_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let (store, backup) = (small_store(dir.path()), dir.path().join("backup"));
    let planned = json(&run(args!["backup", &store, &backup, "--dry-run", "--json"]));
    assert_eq!((planned["dry_run"].as_bool(), planned["head"].as_u64()), (Some(true), Some(20)));
    assert!(!backup.exists(), "a dry run made a directory");
    let first = json(&run(args!["backup", &store, &backup, "--json"]));
    assert_eq!((&first["new_bytes"], &first["point"]), (&planned["new_bytes"], &planned["point"]));
    assert_eq!(run(args!["backup", &store, &backup]).ok(), "unchanged: point 1 holds everything up to 20\n");
    let more: String = (0..30).map(|n| line("more", &format!("{{\"n\":{n}}}"))).collect();
    run_with_input(args!["import", &store, "-"], more.as_bytes()).ok();
    assert!(run(args!["backup", &store, &backup]).ok().starts_with("made point 2, head 50: "));
    let listed = json_lines(&run(args!["restore", &backup, "--list", "--json"]));
    let heads: Vec<u64> = listed.iter().map(|point| point["head"].as_u64().unwrap()).collect();
    assert_eq!(heads, [20, 50]);
    assert_eq!(run(args!["restore", &backup, "--list"]).ok().lines().count(), 2);

    let before = snapshot(&backup);
    let check = json(&run(args!["restore", &backup, "--dry-run", "--json"]));
    assert_eq!((check["head"].as_u64(), check["records"].as_u64()), (Some(50), Some(50)));
    for until in [0, 1, 7, 20, 21, 49, 50] {
        let again = dir.path().join(format!("again-{until}"));
        let report = json(&run(args!["restore", &backup, &again, "--until", until.to_string(), "--json"]));
        assert_eq!(report["head"].as_u64(), Some(until));
        assert_eq!(lines_up_to(&again, 100), lines_up_to(&store, until as usize));
        run(args!["verify", &again]).ok();
    }
    let of_first = dir.path().join("of-first");
    run(args!["restore", &backup, &of_first, "--point", "1"]).ok();
    assert_eq!(lines_up_to(&of_first, 100), lines_up_to(&store, 20));
    let event = json(&run(args!["get", &store, "30", "--json"]));
    let recorded_at = event["recorded_at"].as_str().unwrap().to_owned();
    let of_time = dir.path().join("of-time");
    let report = json(&run(args!["restore", &backup, &of_time, "--until", &recorded_at, "--json"]));
    assert!(report["head"].as_u64().unwrap() >= 30, "{report}");
    assert_eq!(report["recorded_at"], recorded_at.as_str());
    assert_eq!(snapshot(&backup), before, "restoring changed the backup");
}

#[test]
fn restore_names_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (store, backup) = (store_in(dir.path()), dir.path().join("backup"));
    let target = dir.path().join("target");
    run(args!["restore", &backup, &target]).fails(6, "no store at");
    run(args!["backup", &store, &backup]).ok();
    run(args!["restore", &backup, &target, "--point", "9"]).fails(1, "no point 9");
    run(args!["restore", &backup, &target, "--until", "61"]).fails(1, "beyond the head 60");
    assert_eq!(run(args!["restore", &backup]).code(), Some(2));
    assert_eq!(run(args!["restore", &backup, &target, "--until", "yesterday"]).code(), Some(2));
    run(args!["restore", &backup, &store]).fails(1, "holds a store");
    run(args!["backup", &store, &store]).fails(1, "no file of a backup");
    let piece = snapshot(&backup).into_iter().find(|(path, _)| path.to_string_lossy().contains("piece-")).unwrap().0;
    let name = piece.file_name().unwrap().to_string_lossy().into_owned();
    let mut bytes = std::fs::read(&piece).unwrap();
    bytes[5000] ^= 4;
    std::fs::write(&piece, &bytes).unwrap();
    run(args!["restore", &backup, &target]).fails(3, &name);
    std::fs::remove_file(&piece).unwrap();
    run(args!["restore", &backup, "--dry-run"]).fails(3, &name);
    // What was begun is no store, says so, and is finished once the backup is whole again.
    run(args!["cat", &target]).fails(1, "not finished");
    run(args!["backup", &store, &backup]).ok();
    run(args!["restore", &backup, &target]).ok();
    assert_eq!(exported(&target), exported(&store));
}

#[test]
fn a_fork_as_of_a_position() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let before = snapshot(&store);
    let fork = dir.path().join("fork");
    let planned = json(&run(args!["fork", &store, &fork, "--as-of", "33", "--dry-run", "--json"]));
    assert_eq!(planned["head"].as_u64(), Some(33));
    assert!(!fork.exists());
    let made = json(&run(args!["fork", &store, &fork, "--as-of", "33", "--json"]));
    assert_eq!((made["head"].as_u64(), made["rewritten_batches"].as_u64().map(|n| n > 0)), (Some(33), Some(true)));
    assert_eq!(lines_up_to(&fork, 100), lines_up_to(&store, 33));
    run_with_input(args!["import", &fork, "-"], line("own", "{}").as_bytes()).ok();
    assert_eq!(snapshot(&store), before, "forking or writing the fork changed the store");
    run(args!["verify", &fork]).ok();
    run(args!["verify", &store]).ok();
    assert_ne!(
        json(&run(args!["info", &fork, "--json"]))["store_id"],
        json(&run(args!["info", &store, "--json"]))["store_id"]
    );
    run(args!["fork", &store, &fork]).fails(1, "holds a store");
    run(args!["fork", &store, dir.path().join("far"), "--as-of", "99"]).fails(1, "beyond the head 60");
    assert!(
        run(args!["fork", &store, dir.path().join("copy"), "--copy"])
            .ok()
            .starts_with("forked: head 60: 0 segments shared")
    );
}

#[test]
fn cat_as_of() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let all = json_lines(&run(args!["cat", &store, "--json"]));
    let then = json_lines(&run(args!["cat", &store, "--json", "--as-of", "25"]));
    assert_eq!(then, all[..25]);
    let newest = json_lines(&run(args!["cat", &store, "--json", "--as-of", "25", "--reverse", "-n", "1"]));
    assert_eq!(newest, all[24..25]);
    let time = all[40]["recorded_at"].as_str().unwrap();
    let at_time = json_lines(&run(args!["cat", &store, "--json", "--as-of", time]));
    let expected: Vec<_> = all.iter().filter(|event| event["recorded_at"].as_str().unwrap() <= time).cloned().collect();
    assert_eq!(at_time, expected);
    run(args!["cat", &store, "--as-of", "61"]).fails(1, "beyond the head 60");
    assert_eq!(run(args!["cat", &store, "--as-of", "soon"]).code(), Some(2));
}

#[test]
fn repair_tells_what_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    // Long enough that the ring no longer holds what will be damaged.
    let payload = "x".repeat(40_000);
    let lines: String =
        (0..60).map(|n| line(&format!("order-{}", n % 7), &format!("{{\"p\":\"{payload}\"}}"))).collect();
    run_with_input(args!["import", &store, "-"], lines.as_bytes()).ok();
    let whole = dir.path().join("whole");
    assert_eq!(
        run(args!["repair", &store, &whole]).ok().lines().last(),
        Some("repaired: 60 events in 60 batches, head 60, 0 positions lost")
    );
    assert_eq!(exported(&whole), exported(&store));
    let segment =
        snapshot(&store).into_iter().map(|(path, _)| path).find(|path| path.extension().is_some_and(|e| e == "log"));
    let segment = segment.unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[100_000] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let before = snapshot(&store);
    run(args!["cat", &store]).fails(3, "damage");
    let repaired = dir.path().join("repaired");
    let planned = run(args!["repair", &store, &repaired, "--dry-run", "--json"]);
    planned.fails(3, "1 positions are lost");
    assert!(!repaired.exists());
    let ran = run(args!["repair", &store, &repaired, "--json"]);
    ran.fails(3, "1 positions are lost");
    let report: serde_json::Value = serde_json::from_str(ran.stdout()).unwrap();
    assert_eq!((report["head"].as_u64(), report["events"].as_u64()), (Some(60), Some(59)));
    let lost = report["lost"][0]["first_position"].as_u64().unwrap();
    assert_eq!(report["lost_revisions"].as_array().unwrap().len(), 1);
    assert_eq!(snapshot(&store), before, "repair changed the store");
    let kept = json_lines(&run(args!["cat", &repaired, "--json"]));
    let positions: Vec<u64> = kept.iter().map(|event| event["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, (1..=60).filter(|position| *position != lost).collect::<Vec<_>>());
    run(args!["verify", &repaired]).ok();
    run_with_input(args!["import", &repaired, "-"], line("own", "{}").as_bytes()).ok();
}

/// A backup that is killed at any moment leaves the store and the points before untouched, and the next run goes on.
#[cfg(unix)]
#[test]
fn killed_backups_and_restores() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let payload = "x".repeat(3_000);
    let lines: String = (0..4_000).map(|n| line("big", &format!("{{\"n\":{n},\"p\":\"{payload}\"}}"))).collect();
    run_with_input(args!["import", &store, "-"], lines.as_bytes()).ok();
    let before = snapshot(&store);
    let backup = dir.path().join("backup");
    let mut killed = 0;
    for micros in (0..24).map(|n| n * 1_700) {
        let mut child =
            annals().args(args!["backup", &store, &backup]).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(micros));
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        assert!(snapshot(&store) == before, "a killed backup changed the store");
    }
    assert!(killed > 0, "no run was killed");
    run(args!["backup", &store, &backup]).ok();
    let names: Vec<String> = snapshot(&backup)
        .into_iter()
        .map(|(path, _)| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().all(|name| !name.ends_with(".new")), "{names:?}");
    let target = dir.path().join("target");
    for micros in (0..24).map(|n| n * 1_700) {
        let mut child =
            annals().args(args!["restore", &backup, &target]).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(micros));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = run(args!["restore", &backup, &target]);
    if last.code() != Some(0) {
        last.fails(1, "holds a store");
    }
    assert!(exported(&target) == exported(&store));
    run(args!["verify", &target]).ok();
}

/// A directory that cannot be written is said to be one, and a store in such a directory is backed up.
#[cfg(unix)]
#[test]
fn directories_that_cannot_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let closed = dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let allow = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    allow(&closed, 0o555);
    if std::fs::write(closed.join("probe"), "").is_ok() {
        skipped("permissions bind nobody here (root)");
        allow(&closed, 0o755);
        return;
    }
    run(args!["backup", &store, &closed]).fails(1, "read-only");
    run(args!["fork", &store, &closed]).fails(1, "read-only");
    allow(&store, 0o555);
    run(args!["backup", &store, dir.path().join("backup")]).ok();
    run(args!["fork", &store, dir.path().join("fork")]).ok();
    run(args!["repair", &store, dir.path().join("repaired")]).ok();
    allow(&store, 0o755);
    allow(&closed, 0o755);
}
