//! Each failure is one clear line, a hint and the documented code, and loses nothing.

#![cfg(unix)]

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::*;

/// Two good lines, then `bad`: it fails naming line 3, and the two are stored.
#[track_caller]
fn check_line(bad: &[u8], said: &str) {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut text = (line("s", "{\"n\":1}") + &line("s", "{\"n\":2}")).into_bytes();
    text.extend_from_slice(bad);
    text.extend_from_slice(line("s", "{\"n\":4}").as_bytes());
    let ran = run_with_input(args!["import", &store, "-"], &text);
    ran.fails(1, said);
    assert!(ran.complaint()[0].contains("line 3"), "{:?}", ran.complaint());
    assert!(ran.complaint()[0].contains("2 of its events are stored"), "{:?}", ran.complaint());
    assert_eq!(ran.stdout(), "");
    assert_eq!(json_lines(&run(args!["cat", &store, "--json"])).len(), 2);
}

#[test]
fn broken_lines() {
    check_line(b"{\"stream\":\"s\",\"type\":\n", "EOF");
    check_line(b"nonsense\n", "not a JSON object");
    check_line(b"[\"s\",\"T\"]\n", "not a JSON object");
    check_line(b"{\"stream\":\"\xff\",\"type\":\"T\",\"data\":{}}\n", "bad UTF-8");
    check_line(line("s", "{\"n\":01}").as_bytes(), "invalid number");
    check_line(b"{\"stream\":\"s\",\"type\":\"T\",\"data\":{},\"extra\":1}\n", "unknown field `extra`");
    check_line(b"{\"stream\":\"s\",\"data\":{}}\n", "missing field `type`");
}

#[test]
fn wrong_types() {
    let with = |field: &str| format!("{{\"stream\":\"s\",\"type\":\"T\",\"data\":{{}},{field}}}\n");
    check_line(b"{\"stream\":5,\"type\":\"T\",\"data\":{}}\n", "invalid type");
    check_line(line("s", "\"text\"").as_bytes(), "`data` is not an object");
    check_line(with("\"id\":\"seven\"").as_bytes(), "not a UUID");
    check_line(with("\"id\":7").as_bytes(), "invalid type");
    check_line(with("\"time\":12").as_bytes(), "invalid type");
    check_line(with("\"time\":\"noon\"").as_bytes(), "RFC 3339");
    check_line(with("\"time\":\"3000-01-01T00:00:00Z\"").as_bytes(), "outside");
    check_line(with("\"batch\":\"1\"").as_bytes(), "invalid type");
    check_line(with("\"batch\":-1").as_bytes(), "invalid value");
    check_line(with("\"meta\":7").as_bytes(), "neither an object nor null");
}

#[test]
fn over_limits() {
    check_line(line(&"s".repeat(256), "{}").as_bytes(), "255");
    check_line(line("", "{}").as_bytes(), "empty");
    check_line(line("$own", "{}").as_bytes(), "reserved");
    check_line(line("a\\u0007b", "{}").as_bytes(), "control character");
    check_line(line("s", &format!("{{\"x\":\"{}\"}}", "y".repeat(16 << 20))).as_bytes(), "16777216");
    let meta =
        format!("{{\"stream\":\"s\",\"type\":\"T\",\"data\":{{}},\"meta\":{{\"x\":\"{}\"}}}}\n", "y".repeat(64 << 10));
    check_line(meta.as_bytes(), "65536");
    let tags = vec!["\"t\""; 65].join(",");
    check_line(format!("{{\"stream\":\"s\",\"type\":\"T\",\"data\":{{}},\"tags\":[{tags}]}}\n").as_bytes(), "64");
}

#[test]
fn a_batch_with_too_many_events_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let event = "{\"stream\":\"s\",\"type\":\"T\",\"data\":{},\"batch\":0}\n";
    let ran = run_with_input(args!["import", dir.path().join("store"), "-"], event.repeat(65_536).as_bytes());
    ran.fails(1, "65536");
    assert_eq!(exported(&dir.path().join("store")), b"");
}

#[test]
fn a_batch_number_that_falls() {
    let dir = tempfile::tempdir().unwrap();
    let event = |batch| format!("{{\"stream\":\"s\",\"type\":\"T\",\"data\":{{}},\"batch\":{batch}}}\n");
    let text = event(0) + &event(1) + &event(0);
    let ran = run_with_input(args!["import", dir.path().join("store"), "-"], text.as_bytes());
    ran.fails(1, "line 3: `batch` falls to 0");
}

#[test]
fn ids_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let event = |id: u8, n: u8, batch: &str| {
        format!(
            "{{\"stream\":\"s\",\"type\":\"T\",\"id\":\"00000000-0000-4000-8000-0000000000{id:02}\",\"data\":{{\"n\":{n}}}{batch}}}\n"
        )
    };
    run_with_input(args!["import", &store, "-"], event(1, 1, "").as_bytes()).ok();
    run_with_input(args!["import", &store, "-"], event(1, 2, "").as_bytes()).fails(4, "line 1");
    let grown = event(1, 1, ",\"batch\":0") + &event(2, 2, ",\"batch\":0");
    let ran = run_with_input(args!["import", &store, "-"], grown.as_bytes());
    ran.fails(4, "line 1");
    assert!(ran.complaint()[1].contains("the file changed"), "{:?}", ran.complaint());
    assert_eq!(json_lines(&run(args!["cat", &store, "--json"])).len(), 1);
}

#[test]
fn missing_files_and_stores() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    run(args!["import", &store, dir.path().join("none.jsonl")]).fails(6, "none.jsonl");
    assert!(!store.exists(), "a store was made for nothing");
    run(args!["import", &store, dir.path()]).fails(1, "directory");
    for verb in ["cat", "tail", "ls", "info", "segments", "verify", "export"] {
        run(args![verb, &store]).fails(6, "no store at");
    }
    run(args!["get", &store, "1"]).fails(6, "no store at");
    run(args!["dump", &store, "1"]).fails(6, "no store at");
    assert!(!store.exists(), "a reading verb made a store");
}

#[test]
fn not_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("letter.txt"), "dear").unwrap();
    for verb in ["cat", "tail", "ls", "info", "segments", "verify", "export"] {
        run(args![verb, &other]).fails(1, "not a store");
    }
    run(args!["import", &other, advisories()]).fails(1, "not a store");
    let file = other.join("letter.txt");
    for verb in ["cat", "verify", "info"] {
        assert_eq!(run(args![verb, &file]).code(), Some(1));
    }
    assert_eq!(snapshot(&other), [(file, b"dear".to_vec())]);
}

#[test]
fn newer_format() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    for manifest in files(&store, "manifest-") {
        let mut bytes = fs::read(&manifest).unwrap();
        bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
        // The seed of the checksum holds how far the version is from the one we know.
        let mut checksum = crc32fast::Hasher::new_with_initial(2 ^ 1);
        checksum.update(&bytes[20..]);
        bytes[16..20].copy_from_slice(&checksum.finalize().to_le_bytes());
        fs::write(&manifest, bytes).unwrap();
    }
    let before = snapshot(&store);
    for verb in ["cat", "verify", "info"] {
        run(args![verb, &store]).fails(1, "version");
    }
    run(args!["import", &store, advisories()]).fails(1, "version");
    let same = |file: &&(PathBuf, Vec<u8>)| !file.0.ends_with("LOCK");
    assert!(snapshot(&store).iter().filter(same).eq(before.iter().filter(same)), "a newer store was changed");
}

#[test]
fn locked() {
    let dir = tempfile::tempdir().unwrap();
    let path = small_store(dir.path());
    let holder = annals::Store::open(&path).unwrap();
    run(args!["import", &path, advisories()]).fails(5, &format!("{}", std::process::id()));
    run(args!["append", &path, "--stream", "s", "--type", "T", "--data", "1"]).fails(5, "open for writing");
    assert_eq!(json_lines(&run(args!["cat", &path, "--json"])).len(), 20);
    holder.close().unwrap();
    run(args!["append", &path, "--stream", "s", "--type", "T", "--data", "1"]).ok();
}

#[test]
fn conflict() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    let append = |expect: &str| {
        run(args!["append", &store, "--stream", "order-1", "--type", "T", "--data", "{}", "--expect", expect])
    };
    append("none").fails(4, "stream \"order-1\": expected none, is at revision 5");
    append("4").fails(4, "stream \"order-1\": expected revision 4, is at revision 5");
    append("5").ok();
    append("exists").ok();
    append("any").ok();
}

#[test]
fn usage() {
    assert_eq!(run(args!["--help"]).code(), Some(0));
    assert!(run(args!["--help"]).stdout().contains("Exit codes"));
    assert_eq!(run(args!["import", "--help"]).code(), Some(0));
    for wrong in
        [&["juggle"][..], &[], &["cat"], &["cat", "s", "--from", "x"], &["append", "s", "--stream", "a", "--type", "b"]]
    {
        let ran = run(wrong);
        assert_eq!(ran.code(), Some(2), "{wrong:?}");
        assert_eq!(ran.stdout(), "");
        assert!(!ran.stderr().is_empty());
    }
    let dir = tempfile::tempdir().unwrap();
    run(args!["get", small_store(dir.path()), "what"]).fails(2, "no position");
}

#[test]
fn not_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    run(args!["get", &store, "21"]).fails(6, "position 21");
    run(args!["get", &store, "0"]).fails(6, "position 0");
    run(args!["get", &store, "00000000-0000-4000-8000-000000000001"]).fails(6, "no event of id");
    run(args!["get", &store, "order-1@6"]).fails(6, "revision 6");
    let ran = run(args!["cat", &store, "--stream", "order-11"]);
    ran.fails(6, "no stream \"order-11\"");
    assert!(ran.complaint()[1].contains("did you mean \"order-1\""), "{:?}", ran.complaint());
    let ran = run(args!["cat", &store, "--type", "Tea"]);
    ran.fails(6, "no type");
    assert!(ran.complaint()[1].contains("`annals ls STORE --types`"), "{:?}", ran.complaint());
    run(args!["dump", &store, "99"]).fails(6, "no segment 99");
    assert_eq!(run(args!["cat", &store, "--stream", "nothing-*"]).ok(), "");
}

#[test]
fn damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    // In the segment and in the ring, which may still hold a good copy of the newest bytes.
    let holds_events = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "log") || path.ends_with("RING");
    for file in files(&store, "").into_iter().filter(holds_events) {
        let mut bytes = fs::read(&file).unwrap();
        while let Some(at) = bytes.windows(7).position(|bytes| bytes == b"{\"n\":3}") {
            bytes[at + 5] = b'4';
        }
        fs::write(&file, bytes).unwrap();
    }
    let ran = run(args!["verify", &store]);
    ran.fails(3, "damaged");
    assert!(ran.stdout().contains("damage: segment-"), "{}", ran.stdout());
    let ran = run(args!["dump", &store, "1"]);
    ran.fails(3, "damaged");
    assert_eq!(ran.stdout().lines().filter(|line| line.contains("!!")).count().min(1), 1);
    let ran = run(args!["cat", &store, "--json"]);
    ran.fails(3, "damage in segment-");
    assert!(ran.stdout().lines().count() <= 3, "what follows the damage is printed: {}", ran.stdout());
}

#[test]
fn output_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = Ran(annals().args(args!["cat", &store]).stdout(full).stderr(Stdio::piped()).output().unwrap());
    ran.fails(1, "standard output");

    let big = dir.path().join("big");
    run(args!["import", &big, advisories()]).ok();
    let mut child = annals().args(args!["export", &big]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr), (Some(0), Vec::new()), "a reader that goes away is no failure");
}

#[test]
fn read_only_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    let tool = dir.path().join("annals");
    fs::copy(env!("CARGO_BIN_EXE_annals"), &tool).unwrap();
    open_to_all(dir.path(), 0o755);
    open_to_all(&store, 0o555);
    for path in files(&store, "") {
        open_to_all(&path, 0o444);
    }
    let before = snapshot(&store);
    let stranger = |arguments: &[std::ffi::OsString]| {
        let mut command = Command::new(&tool);
        command.args(arguments).stdin(Stdio::null());
        if is_root() {
            // No directory is read-only for the superuser.
            command.uid(65_534).gid(65_534);
        }
        Ran(command.output().unwrap())
    };
    let append = args!["append", &store, "--stream", "s", "--type", "T", "--data", "1"];
    let ran = stranger(&append);
    ran.fails(1, "");
    assert!(ran.stderr().contains("read-only") || ran.stderr().contains("ermission"), "{}", ran.stderr());
    assert_eq!(json_lines(&stranger(&args!["cat", &store, "--json"])).len(), 20);
    assert!(stranger(&args!["verify", &store]).ok().starts_with("ok"));
    stranger(&args!["info", &store]).ok();
    assert_eq!(snapshot(&store), before);
    open_to_all(&store, 0o755);
}

#[test]
fn file_size_limit() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    // In blocks of 512 bytes.
    let limited = |blocks: u32| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -f {blocks}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_annals")]);
        Ran(command.args(args!["import", &store, advisories()]).stdin(Stdio::null()).output().unwrap())
    };
    // No room to make a store; then room for its first segments, not for all of the set.
    limited(100).fails(1, "no space");
    limited(5_000).fails(1, "no space");
    limited(5_000).fails(1, "no space");
    let kept = exported(&store);
    assert!(!kept.is_empty() && lines_of(&advisories()).starts_with(&kept));
    run(args!["import", &store, advisories()]).ok();
    assert_eq!(sha256(&exported(&store)), ADVISORIES_SHA256);
}

#[test]
fn full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("mount");
    fs::create_dir(&mount).unwrap();
    // A small disk of our own, seen by this command alone: fill it, look at it, make room, finish.
    let script = "set -e
        mount -t tmpfs -o size=6m none \"$2\" || exit 77
        set +e
        \"$1\" import \"$2/store\" \"$3\" 2> \"$4/first\"; echo $? >> \"$4/first\"
        \"$1\" verify \"$2/store\" > /dev/null || exit 78
        mount -o remount,size=64m \"$2\" || exit 77
        \"$1\" import \"$2/store\" \"$3\" > /dev/null || exit 79
        \"$1\" export \"$2/store\" > \"$4/lines\"";
    let ran = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_annals")])
        .args([&mount, &advisories(), dir.path()])
        .stdin(Stdio::null())
        .output();
    match ran {
        Ok(output) if output.status.success() => {}
        Ok(output) if matches!(output.status.code(), Some(78 | 79)) => panic!("{output:?}"),
        _ => return skipped("a full disk: no right to mount a small one"),
    }
    let first = fs::read_to_string(dir.path().join("first")).unwrap();
    let said: Vec<&str> = first.lines().rev().take(3).collect();
    assert_eq!(said[0], "1", "{first}");
    assert!(said[1].starts_with("hint: ") && said[2].starts_with("error: ") && said[2].contains("no space"), "{first}");
    assert_eq!(sha256(&fs::read(dir.path().join("lines")).unwrap()), ADVISORIES_SHA256);
}

fn open_to_all(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}
