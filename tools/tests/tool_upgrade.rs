//! `upgrade`: what it makes, what it says, how it ends.

mod support;

use support::*;

#[test]
fn a_store_of_the_newest_version_is_copied_and_said_to_be_so() {
    let dir = tempfile::tempdir().unwrap();
    let (store, newer) = (small_store(dir.path()), dir.path().join("newer"));
    let before = snapshot(&store);
    let planned = json(&run(args!["upgrade", &store, &newer, "--dry-run", "--json"]));
    assert_eq!((planned["was_current"].as_bool(), planned["events"].as_u64()), (Some(true), Some(20)));
    assert!(!newer.exists(), "a dry run made a directory");
    assert!(run(args!["upgrade", &store, &newer, "--dry-run"]).ok().contains("would copy"));
    let said = run(args!["upgrade", &store, &newer]).ok().to_owned();
    assert!(said.starts_with("nothing to upgrade, all files are of version 1; copied: "), "{said}");
    assert_eq!(snapshot(&store), before, "upgrading changed the store");
    assert_eq!(exported(&newer), exported(&store));
    let id = |path: &std::path::Path| json(&run(args!["info", path, "--json"]))["store_id"].clone();
    assert_eq!(id(&newer), id(&store), "it is the same store");
    run(args!["verify", &newer]).ok();
    run_with_input(args!["import", &newer, "-"], line("own", "{}").as_bytes()).ok();
    assert_eq!(snapshot(&store), before, "writing the new store changed the old one");
    let third = dir.path().join("third");
    let made = json(&run(args!["upgrade", &newer, &third, "--json"]));
    assert_eq!((made["from"].as_u64(), made["to"].as_u64(), made["head"].as_u64()), (Some(1), Some(1), Some(21)));
}

#[test]
fn it_names_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (store, newer) = (small_store(dir.path()), dir.path().join("newer"));
    run(args!["upgrade", dir.path().join("none"), &newer]).fails(6, "no store at");
    run(args!["upgrade", &store, &store]).fails(1, "holds a store");
    assert_eq!(run(args!["upgrade", &store]).code(), Some(2));
    let segment = snapshot(&store).into_iter().find(|(path, _)| path.to_string_lossy().ends_with(".log")).unwrap().0;
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096 + 150] ^= 4;
    std::fs::write(&segment, &bytes).unwrap();
    run(args!["upgrade", &store, &newer]).fails(3, &segment.file_name().unwrap().to_string_lossy());
    assert!(!newer.join("MARK").exists());
}
