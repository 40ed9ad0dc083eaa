//! The verbs that read: what they print, that they change nothing, that they work beside a writer.

#![cfg(unix)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use annals::{Durability, Expect, NewEvent, Store};
use support::*;

/// Positions that `cat` prints.
#[track_caller]
fn positions(store: &std::path::Path, arguments: &[&str]) -> Vec<u64> {
    let all = args!["cat", store, "--json"].into_iter().chain(arguments.iter().map(Into::into));
    json_lines(&run(all)).iter().map(|event| event["position"].as_u64().unwrap()).collect()
}

#[test]
fn cat_chooses() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    let check =
        |arguments: &[&str], expected: &[u64]| assert_eq!(positions(&store, arguments), expected, "{arguments:?}");
    check(&[], &(1..=20).collect::<Vec<_>>());
    check(&["--from", "18"], &[18, 19, 20]);
    check(&["--until", "4"], &[1, 2, 3]);
    check(&["--from", "5", "--until", "7"], &[5, 6]);
    check(&["--from", "7", "--until", "7"], &[]);
    check(&["--from", "21"], &[]);
    check(&["--from", "0", "-n", "2"], &[1, 2]);
    check(&["-n", "0"], &[]);
    check(&["--reverse", "-n", "3"], &[20, 19, 18]);
    check(&["--reverse", "--from", "18", "--until", "20"], &[19, 18]);
    check(&["--reverse", "--until", "1"], &[]);
    check(&["--reverse", "--until", "500", "-n", "1"], &[20]);
    check(&["--stream", "order-1"], &[2, 6, 10, 14, 18]);
    check(&["--stream", "order-1", "--stream", "order-3", "-n", "3"], &[2, 4, 6]);
    check(&["--stream", "order-*", "--from", "19"], &[19, 20]);
    check(&["--stream", "*-2", "--reverse", "-n", "2"], &[19, 15]);
    check(&["--stream", "order-?", "--type", "T", "-n", "1"], &[1]);
    run(args!["cat", &store, "--from", "22"]).fails(1, "beyond the head");
}

#[test]
fn cat_prints_every_field() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let at = annals::OccurredAt { nanos: 1_500_000_000, digits: 3 };
    let full = NewEvent::new("Made", br#"{"n": 1.0}"#).id([7; 16]).tags(&["a", "b\""]).metadata(b"{}").occurred_at(at);
    let pretty = NewEvent::new("Made", b"{\n \"n\": 2\r\n}").id([8; 16]);
    let bytes = NewEvent::new("Made", b"\xff\0").id([9; 16]).metadata("plain");
    store.append("s ü", Expect::Any, &[full, pretty, bytes]).unwrap();
    store.close().unwrap();
    let events = json_lines(&run(args!["cat", dir.path(), "--json"]));
    let keys: Vec<&String> = events[0].as_object().unwrap().keys().collect();
    let expected = "batch_first batch_len data id meta position recorded_at revision stream tags time type";
    assert_eq!(keys, expected.split(' ').collect::<Vec<_>>());
    assert_eq!(events[0]["position"], 1);
    assert_eq!(events[0]["revision"], 1);
    assert_eq!(events[0]["stream"], "s ü");
    assert_eq!(events[0]["type"], "Made");
    assert_eq!(events[0]["id"], "07070707-0707-0707-0707-070707070707");
    assert_eq!(events[0]["time"], "1970-01-01T00:00:01.500Z");
    assert_eq!(events[0]["tags"], serde_json::json!(["a", "b\""]));
    assert_eq!(events[0]["batch_len"], 3);
    assert_eq!(events[0]["meta"], serde_json::json!({}));
    assert!(run(args!["cat", dir.path(), "--json"]).stdout().contains(r#""data":{"n": 1.0},"meta":{}"#));
    assert_eq!(events[1]["data"], serde_json::json!({"n": 2}));
    assert_eq!((&events[1]["time"], &events[1]["meta"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert_eq!((&events[2]["data"], events[2]["data_base64"].as_str()), (&serde_json::Value::Null, Some("/wA=")));
    assert_eq!(events[2]["meta_base64"], "cGxhaW4=");
    let short = run(args!["cat", dir.path()]);
    assert_eq!(short.ok().lines().next(), Some(r#"1 1970-01-01T00:00:01.500Z s ü@1 Made {"n": 1.0}"#));
    assert!(!short.ok().contains('\0'), "a control character goes to the terminal");
    assert_eq!(run(args!["cat", dir.path(), "--json", "--tag", "a", "--tag", "b\""]).ok().lines().count(), 1);
}

#[test]
fn get_finds_by_position_id_and_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    let by_position = json(&run(args!["get", &store, "6", "--json"]));
    assert_eq!((&by_position["stream"], &by_position["revision"]), (&"order-1".into(), &2.into()));
    let id = by_position["id"].as_str().unwrap();
    assert_eq!(json(&run(args!["get", &store, id, "--json"])), by_position);
    assert_eq!(json(&run(args!["get", &store, "order-1@2", "--json"])), by_position);
    assert_eq!(run(args!["get", &store, "6", "--raw"]).ok(), "{\"n\":5}");
    run(args!["get", &store, "order-7@1"]).fails(6, "no stream");
}

#[test]
fn ls_info_segments_dump_verify() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    run(args!["import", &store, advisories()]).ok();
    let streams = json_lines(&run(args!["ls", &store, "--json"]));
    assert_eq!(streams.len(), 914);
    assert!(streams.windows(2).all(|pair| pair[0]["stream"].as_str() < pair[1]["stream"].as_str()));
    let events: u64 = streams.iter().map(|stream| stream["last_revision"].as_u64().unwrap()).sum();
    assert_eq!(events, ADVISORIES_EVENTS);
    assert_eq!(
        run(args!["ls", &store, "crates/open"]).ok().lines().count(),
        run(args!["ls", &store, "crates/open", "--json"]).ok().lines().count()
    );
    let types = json_lines(&run(args!["ls", &store, "--types", "--json"]));
    assert_eq!(types.len(), 5);
    assert_eq!(types.iter().map(|row| row["events"].as_u64().unwrap()).sum::<u64>(), ADVISORIES_EVENTS);

    let info = json(&run(args!["info", &store, "--json"]));
    assert_eq!((&info["events"], &info["head"]), (&ADVISORIES_EVENTS.into(), &ADVISORIES_EVENTS.into()));
    assert_eq!((&info["clean"], &info["writer_pid"]), (&true.into(), &serde_json::Value::Null));
    assert!(run(args!["info", &store]).ok().contains("4,286"));

    let segments = json_lines(&run(args!["segments", &store, "--json"]));
    assert_eq!(segments.iter().map(|row| row["events"].as_u64().unwrap()).sum::<u64>(), ADVISORIES_EVENTS);
    assert!(segments.len() > 1, "the set fills more than one segment");
    assert_eq!(run(args!["segments", &store]).ok().lines().count(), segments.len() + 1);

    let mut sealed = 0;
    for segment in &segments {
        let number = segment["segment"].to_string();
        let fields = json_lines(&run(args!["dump", &store, &number, "--json"]));
        assert!(fields.iter().all(|field| field["fault"].is_null()));
        assert!(fields.iter().any(|field| field["offset"] == 0));
        sealed += u32::from(segment["state"] == "sealed");
    }
    assert!(sealed > 0);

    let verified = json(&run(args!["verify", &store, "--json"]));
    assert_eq!((&verified["ok"], &verified["events"]), (&true.into(), &ADVISORIES_EVENTS.into()));
    assert!(run(args!["verify", &store]).ok().starts_with("ok: 4,286 events in 2,325 batches"));
}

#[test]
fn reading_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    let before = snapshot(&store);
    for verb in ["cat", "tail", "ls", "info", "segments", "verify", "export"] {
        run(args![verb, &store]).ok();
    }
    run(args!["get", &store, "1"]).ok();
    run(args!["dump", &store, "1"]).ok();
    assert_eq!(snapshot(&store), before);
}

#[test]
fn index_is_checked_and_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let options = annals::Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10);
    let opened = options.open(dir.path()).unwrap();
    for number in 0..200 {
        let payload = vec![b'x'; 2000];
        opened.append(&format!("order-{}", number % 9), Expect::Any, &[NewEvent::new("Placed", &payload)]).unwrap();
    }
    opened.close().unwrap();
    let before = snapshot(dir.path());
    assert!(run(args!["index", "check", dir.path()]).ok().starts_with("ok: "));
    assert_eq!(snapshot(dir.path()), before, "a check changes nothing");
    let sizes = &json(&run(args!["info", dir.path(), "--json"]))["index_sizes"];
    assert!(["segments", "tiers", "streams", "lists"].iter().all(|kind| sizes[*kind].as_u64().unwrap() > 0), "{sizes}");

    let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let of_streams = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("streams-"));
    let file = of_streams.max().expect("closing covers what has ended");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4100] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let checked = run(args!["index", "check", dir.path()]);
    checked.fails(3, "wrong places in index files");
    assert!(checked.stdout().contains(file.file_name().unwrap().to_str().unwrap()), "{}", checked.stdout());
    assert!(run(args!["index", "rebuild", dir.path()]).ok().starts_with("made "));
    assert!(run(args!["index", "check", dir.path()]).ok().starts_with("ok: "));
    assert!(run(args!["verify", dir.path()]).ok().starts_with("ok: "));
}

#[test]
fn append_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let id = "00000000-0000-4000-8000-000000000001";
    let append =
        args!["append", &store, "--stream", "s", "--type", "T", "--id", id, "--tag", "t", "--data", "{}", "--json"];
    let first = json(&run(&append));
    assert_eq!((&first["position"], &first["revision"], &first["id"]), (&1.into(), &1.into(), &id.into()));
    assert_eq!(first["already_committed"], false);
    assert_eq!(json(&run(&append))["already_committed"], true);
    let piped = run_with_input(args!["append", &store, "--stream", "s", "--type", "T", "-"], b"\0\xff\n");
    assert!(piped.ok().starts_with("position 2 revision 2 id "), "{}", piped.stdout());
    let got = run(args!["get", &store, "2", "--raw"]);
    assert_eq!(got.0.stdout, b"\0\xff\n");
    let file = dir.path().join("payload");
    std::fs::write(&file, "text").unwrap();
    run(args!["append", &store, "--stream", "s", "--type", "T", "--file", &file, "--durability", "buffered"]).ok();
    assert_eq!(run(args!["get", &store, "s@3", "--raw"]).ok(), "text");
    assert_eq!(run(args!["cat", &store, "--tag", "t"]).ok().lines().count(), 1);
}

#[test]
fn beside_a_running_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    for n in 0..50 {
        store.append("s", Expect::Any, &[NewEvent::new("T", &format!("{{\"n\":{n}}}"))]).unwrap();
        if n % 10 == 0 {
            assert_eq!(positions(&path, &[]).len(), n + 1);
        }
    }
    let info = json(&run(args!["info", &path, "--json"]));
    assert_eq!(info["writer_pid"], std::process::id());
    assert_eq!(info["head"], 50);
    assert!(run(args!["verify", &path]).ok().starts_with("ok"));
    run(args!["dump", &path, "1"]).ok();
    assert_eq!(json_lines(&run(args!["segments", &path, "--json"]))[0]["state"], "active");
    store.append("s", Expect::Any, &[NewEvent::new("T", b"{}")]).unwrap();
    store.close().unwrap();
}

#[test]
fn tail_shows_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_store(dir.path());
    let tail = |arguments: &[&str]| -> Vec<u64> {
        let all = args!["tail", &store, "--json"].into_iter().chain(arguments.iter().map(Into::into));
        json_lines(&run(all)).iter().map(|event| event["position"].as_u64().unwrap()).collect()
    };
    assert_eq!(tail(&[]), (11..=20).collect::<Vec<_>>());
    assert_eq!(tail(&["-n", "2"]), [19, 20]);
    assert_eq!(tail(&["-n", "0"]), [0; 0]);
    assert_eq!(tail(&["-n", "100", "--stream", "order-0"]), [1, 5, 9, 13, 17]);
}

#[test]
fn tail_follows_a_writer_and_its_successor_until_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let append = |store: &Store, n: u32| {
        store.append_with("s", Expect::Any, &[NewEvent::new("T", &format!("{n}"))], Durability::Durable).unwrap();
    };
    append(&store, 1);
    append(&store, 2);
    let mut child = annals()
        .args(args!["tail", &path, "-n", "1", "-f", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["position"], 2);
    append(&store, 3);
    let began = Instant::now();
    assert_eq!(next()["data"], 3);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    store.close().unwrap();
    let store = Store::open(&path).unwrap();
    append(&store, 4);
    assert_eq!(next()["data"], 4);
    signal("INT", child.id());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert_eq!(ended.stderr, b"");
    store.close().unwrap();
}

#[test]
fn tail_follows_what_was_asked_for_and_ends_with_its_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = annals::Options::new().durability(Durability::Buffered).open(&path).unwrap();
    let append = |stream: &str, event_type: &str, n: u32| {
        let tags = [if n.is_multiple_of(2) { "even" } else { "odd" }];
        let payload = format!("{n}");
        let event = NewEvent::new(event_type, &payload).tags(&tags);
        store.append(stream, Expect::Any, &[event]).unwrap();
    };
    let follow = |arguments: &[&str]| {
        let mut child = annals()
            .args(args!["tail", &path, "-n", "1", "-f", "--json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(first["data"], 0);
        (child, lines)
    };
    append("order-0", "Placed", 0);
    store.sync().unwrap();
    let mut written = follow(&["--view", "written", "--stream", "order-*", "--type", "Placed"]);
    let mut durable = follow(&["--tag", "even"]);
    for n in 1..=400 {
        append(&format!("order-{}", n % 3), if n % 5 == 0 { "Placed" } else { "Paid" }, n);
        append("stock", "Placed", n);
        std::thread::sleep(Duration::from_millis(1));
    }
    type Tail = (std::process::Child, std::io::Lines<BufReader<std::process::ChildStdout>>);
    let data = |which: &mut Tail| -> Vec<u64> {
        let mut seen = Vec::new();
        while seen.last() != Some(&400) {
            let event: serde_json::Value = serde_json::from_str(&which.1.next().unwrap().unwrap()).unwrap();
            seen.push(event["data"].as_u64().unwrap());
        }
        seen
    };
    let seen = data(&mut written);
    assert_eq!(seen, (1..=80).map(|n| 5 * n).collect::<Vec<u64>>());
    // The durable view comes with the background's sync. Of the last two the first ends it.
    let seen = data(&mut durable);
    let expected: Vec<u64> = (1..=200).flat_map(|n| [2 * n, 2 * n]).collect();
    assert_eq!(seen, expected[..399]);
    for (mut child, lines) in [written, durable] {
        // Nothing more comes: that the reader is gone is seen all the same.
        drop(lines);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "a tail that nobody reads goes on");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(0));
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
        assert_eq!(said, "");
    }
    store.close().unwrap();
}

#[test]
fn an_interrupted_import_says_so_and_can_be_finished() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut child = annals()
        .args(args!["import", &store, "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = lines_of(&advisories());
    let mut input = child.stdin.take().unwrap();
    // Half of the file, then Ctrl-C, then the rest: the import stops between two batches.
    use std::io::Write;
    input.write_all(&text[..text.len() / 2]).unwrap();
    signal("INT", child.id());
    std::thread::sleep(Duration::from_millis(50));
    let _ = input.write_all(&text[text.len() / 2..]);
    drop(input);
    let ran = Ran(child.wait_with_output().unwrap());
    ran.fails(130, "events are stored");
    assert!(text.starts_with(&exported(&store)));
    run_with_input(args!["import", &store, "-"], &text).ok();
    assert_eq!(sha256(&exported(&store)), ADVISORIES_SHA256);
}

#[test]
fn the_demonstration() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("demo");
    let first = run(args!["demo", &store]);
    assert!(first.ok().contains("imported 4,286 events in 2,325 appends"), "{}", first.stdout());
    assert!(first.ok().contains("ok: 4,286 events"), "{}", first.stdout());
    assert!(first.ok().contains(&format!("$ annals tail {} -n 5\n", store.display())), "{}", first.stdout());
    assert!(run(args!["demo", &store]).ok().contains("4,286 were there"));
    assert_eq!(sha256(&exported(&store)), ADVISORIES_SHA256);
}
