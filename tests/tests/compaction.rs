//! Compaction: it frees space and takes out what was removed, and changes no answer.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use annals::inspect;
use annals::storage::{Access, Memory, Storage};
use annals::{
    AsOf, CompactionOptions, Durability, Error, EventId, Expect, ForkOptions, Message, NewEvent, Next, Options,
    Position, Query, QueryItem, ReadMode, Reader, RemovalReason, Retention, Revision, Scope, Seek, Store, View,
};
use annals_tests::container::{held_by, is_container};
use annals_tests::model::{Ground, on_each_ground};

fn options() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).durability(Durability::Buffered)
}

fn id(number: u64) -> EventId {
    EventId::from(u128::from(number) << 64 | 1)
}

fn revision(number: u64) -> Revision {
    Revision::new(number).unwrap()
}

/// What an event of the tests carries: something that compresses, and something to search for.
fn payload(number: u64) -> String {
    format!(
        "{{\"customer\":\"somebody\",\"secret\":\"secret-{number:08}-of-an-event\",\"items\":[1,2,3,4,5,6,7,8,9,10]}}"
    )
}

fn metadata(number: u64) -> String {
    format!("trace-{number:08}-in-metadata")
}

/// Appends events `numbers` to streams `s-0` to `s-6`, some of them in batches.
fn fill(store: &Store, numbers: std::ops::Range<u64>) {
    // The other one is ended for good by then.
    for number in numbers.filter(|number| *number < 2000 || number % 7 != 1) {
        let (payload, metadata) = (payload(number), metadata(number));
        let tag = format!("t-{}", number % 5);
        let tags = [tag.as_str()];
        let event = NewEvent::new(["A", "B", "C"][(number % 3) as usize], payload.as_bytes())
            .id(id(number))
            .metadata(metadata.as_bytes())
            .tags(&tags)
            .correlation(b"correlation");
        store.append(&format!("s-{}", number % 7), Expect::Any, &[event]).unwrap();
    }
}

/// Everything that a reader can be asked, as text.
fn answers(reader: &Reader) -> Vec<String> {
    let mut answers = vec![format!("head {}", reader.head())];
    let queries = [
        Query::all(),
        Query::tag("t-1"),
        Query::event_type("B"),
        Query::prefix("s-"),
        Query::stream("s-3"),
        Query::item(QueryItem::new().streams(["s-1"]).types(["A"])).or(QueryItem::new().tags_all(["t-4"])),
    ];
    for query in &queries {
        for back in [false, true] {
            let read =
                if back { reader.read_all_back(query, Seek::End) } else { reader.read_all(query, Seek::Beginning) };
            let mut read = read.unwrap();
            for event in read.by_ref() {
                answers.push(format!("{:?}", told(&event.unwrap())));
            }
            answers.push(format!("skipped {}", read.skipped()));
        }
        let scan = reader.read_all(query, Seek::At(3)).unwrap();
        scan.for_each_event(|event| {
            answers.push(format!("{} {:?}", event.position(), event.payload()));
            ControlFlow::<()>::Continue(())
        })
        .unwrap();
        answers.push(format!("{:?} {:?}", reader.count(query).unwrap(), reader.last(query).unwrap().map(|e| told(&e))));
    }
    answers.push(format!("{:?}", reader.types().unwrap()));
    for info in reader.streams("").unwrap() {
        answers.push(format!("{info:?}"));
        let mut read = reader.read_stream(&info.name, Seek::Beginning).unwrap();
        let events: Vec<_> = read.by_ref().map(|event| told(&event.unwrap())).collect();
        answers.push(format!("{events:?} {} {:?}", read.skipped(), read.state()));
    }
    for number in 0..reader.head() + 3 {
        answers.push(match reader.by_id(id(number)).unwrap() {
            annals::Lookup::Found(event) => format!("{:?}", told(&event)),
            other => format!("{other:?}"),
        });
        if let Some(position) = Position::new(number).filter(|position| position.get() <= reader.head()) {
            answers.push(format!("{:?}", reader.at(position).unwrap().map(|event| told(&event))));
        }
    }
    answers
}

type Told = (u64, u64, String, String, EventId, Vec<String>, Vec<u8>, Vec<u8>, u64);

fn told(event: &annals::Event) -> Told {
    (
        event.position().get(),
        event.revision().get(),
        event.stream().to_owned(),
        event.event_type().to_owned(),
        event.id(),
        event.tags().map(str::to_owned).collect(),
        event.payload().to_vec(),
        event.metadata().to_vec(),
        event.recorded_at(),
    )
}

/// What was not to be found in `after` as it was in `before`.
#[track_caller]
fn same_answers(before: &[String], after: &[String]) {
    let differs = before.iter().zip(after).find(|(before, after)| before != after);
    assert_eq!(differs, None);
    assert_eq!(before.len(), after.len());
}

/// A store with a few sealed segments, from which something is removed in every way.
fn removed_in_every_way(ground: &Ground) -> Store {
    let store = ground.open(options());
    fill(&store, 0..1500);
    store.delete("s-0", Expect::Any).unwrap();
    store.tombstone("s-1", Expect::Any).unwrap();
    store.truncate_before("s-2", Expect::Any, revision(50)).unwrap();
    store.set_retention(&Scope::Prefix("s-3".to_owned()), Retention::new().max_count(7)).unwrap();
    store.sweep().unwrap();
    store.delete("s-4", Expect::Any).unwrap();
    store.forget_stream("s-4", Expect::Any).unwrap();
    store.truncate_before("s-5", Expect::Any, revision(20)).unwrap();
    store.forget_ids("s-5", Expect::Any).unwrap();
    fill(&store, 2000..2700);
    store.sync().unwrap();
    store
}

/// The bytes of every file of the store.
fn files(storage: &dyn Storage) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in storage.list().unwrap() {
        let Ok(file) = storage.open(&name, Access::Read) else { continue };
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        files.insert(name, bytes);
    }
    files
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn no_answer_changes() {
    on_each_ground(|ground| {
        let store = removed_in_every_way(ground);
        let reader = store.reader();
        let (before, at_once) = (answers(&reader), answers(&store.as_of(AsOf::Position(1400)).unwrap()));
        // Held across it: a read under way, a subscription, a read-only opening and an event.
        let mut reading = reader.read_all(&Query::all(), Seek::Beginning).unwrap();
        let first = reading.next().unwrap().unwrap();
        let mut subscription = store.subscribe(&Query::prefix("s-6"), Seek::Beginning).unwrap();
        let beside = ground.open_read_only(options());
        let pread = ground.open_read_only(options().read_mode(ReadMode::Pread));
        let report = store.compact(&CompactionOptions::new()).unwrap();
        assert!(report.compacted.len() > 3 && report.removed_events > 400, "{report:?}");
        assert!(report.bytes_after * 2 < report.bytes_before, "{report:?}");
        same_answers(&before, &answers(&store.reader()));
        same_answers(&before, &answers(&reader));
        same_answers(&at_once, &answers(&store.as_of(AsOf::Position(1400)).unwrap()));
        same_answers(&before, &answers(&beside.reader()));
        same_answers(&before, &answers(&pread.reader()));
        let rest: Vec<u64> = reading.map(|event| event.unwrap().position().get()).collect();
        let all = store.read_all(&Query::all(), Seek::Beginning).unwrap();
        let all: Vec<u64> = all.map(|event| event.unwrap().position().get()).collect();
        assert_eq!(all[1..], rest);
        assert_eq!(first.position().get(), all[0]);
        let mut followed = 0;
        loop {
            match subscription.try_next().unwrap() {
                Next::Message(Message::Event(_)) => followed += 1,
                Next::Message(Message::CaughtUp { .. }) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(followed, store.reader().count(&Query::prefix("s-6")).unwrap());
        // Nothing is left to do.
        assert_eq!(store.compact(&CompactionOptions::new()).unwrap().compacted, Vec::<u64>::new());
        store.close().unwrap();
        let store = ground.open(options());
        assert!(store.recovery_report().clean, "{:?}", store.recovery_report());
        assert_eq!(store.recovery_report().rebuilt_indexes, Vec::<String>::new());
        same_answers(&before, &answers(&store.reader()));
        store.close().unwrap();
        let store = ground.open(options().read_mode(ReadMode::Pread));
        same_answers(&before, &answers(&store.reader()));
        let checked = store.check_index().unwrap();
        assert_eq!(checked.rebuilt, Vec::<String>::new());
        drop(store);
        let verified = inspect::verify_in(&*ground.storage(), &mut |_, _| {}).unwrap();
        assert!(verified.is_sound(), "{verified:?}");
        // Indexes are made anew from what the containers hold.
        for name in ground.storage().list().unwrap() {
            if name.ends_with(".idx") || name.starts_with("INDEX-") {
                ground.storage().remove(&name).unwrap();
            }
        }
        let store = ground.open(options());
        same_answers(&before, &answers(&store.reader()));
        drop(store);
        let verified = inspect::verify_in(&*ground.storage(), &mut |_, _| {}).unwrap();
        assert!(verified.is_sound(), "{verified:?}");
    });
}

#[test]
fn what_was_removed_is_in_no_file() {
    on_each_ground(|ground| {
        let store = removed_in_every_way(ground);
        store.compact(&CompactionOptions::new()).unwrap();
        // The ring and the segment being written hold the newest events only.
        drop(store);
        let files = files(&*ground.storage());
        let mut searched = 0;
        let removed = |number: u64| {
            let (stream, revision) = (number % 7, number / 7 + 1);
            matches!(stream, 0 | 1 | 4) || (stream == 2 && revision < 50) || (stream == 5 && revision < 20)
        };
        let (mut found, mut left) = (0, 0);
        for (name, bytes) in files {
            let bytes = if is_container(&name) { [held_by(&bytes), bytes].concat() } else { bytes };
            for what in ["secret-", "trace-"] {
                for at in (0..bytes.len().saturating_sub(15)).filter(|at| bytes[*at..].starts_with(what.as_bytes())) {
                    let digits = &bytes[at + what.len()..at + what.len() + 8];
                    let Ok(number) = std::str::from_utf8(digits).unwrap_or("").parse::<u64>() else { continue };
                    assert!(number >= 1500 || !removed(number), "{what}{number} at {at} of {name}");
                    found += 1;
                }
            }
            left += u64::from(is_container(&name));
        }
        searched += found;
        assert!(searched > 1000 && left > 3, "{searched} in {left} containers");
    });
}

#[test]
fn ids_of_what_was_taken_out_answer_as_before() {
    on_each_ground(|ground| {
        let store = removed_in_every_way(ground);
        let again = |store: &Store, number: u64, other: bool| {
            let (mut payload, metadata) = (payload(number), metadata(number));
            if other {
                payload.push('!');
            }
            let tag = format!("t-{}", number % 5);
            let tags = [tag.as_str()];
            let event = NewEvent::new(["A", "B", "C"][(number % 3) as usize], payload.as_bytes())
                .id(id(number))
                .metadata(metadata.as_bytes())
                .tags(&tags)
                .correlation(b"correlation");
            let outcome = store.append(&format!("s-{}", number % 7), Expect::At(revision(9_999)), &[event]);
            match outcome {
                Ok(receipt) => format!("{:?} {:?}", receipt.already_committed(), receipt.events()),
                Err(error) => error.to_string(),
            }
        };
        let ask = |store: &Store| {
            let mut answers = Vec::new();
            for number in (0..1500).step_by(11) {
                for other in [false, true] {
                    answers.push(format!("{number} {other}: {}", again(store, number, other)));
                }
            }
            answers
        };
        let before = ask(&store);
        assert!(before.iter().any(|answer| answer.contains("true [")), "{before:?}");
        store.compact(&CompactionOptions::new()).unwrap();
        same_answers(&before, &ask(&store));
        drop(store);
        let store = ground.open(options());
        same_answers(&before, &ask(&store));
        // Removed since: taken out by another compaction, which keeps the hashes of the first.
        store.delete("s-6", Expect::Any).unwrap();
        store.truncate_before("s-2", Expect::Any, revision(90)).unwrap();
        let before = ask(&store);
        let report = store.compact(&CompactionOptions::new()).unwrap();
        assert!(!report.compacted.is_empty() && report.removed_events > 100, "{report:?}");
        same_answers(&before, &ask(&store));
    });
}

#[test]
fn space_is_freed() {
    let ground = Ground::disk();
    let store = ground.open(options().segment_bytes_max(1 << 20));
    fill(&store, 0..12_000);
    store.sync().unwrap();
    let allocated = || -> u64 {
        let path = ground.path().unwrap();
        let sizes = std::fs::read_dir(path).unwrap().map(|entry| {
            use std::os::unix::fs::MetadataExt;
            entry.unwrap().metadata().unwrap().blocks() * 512
        });
        sizes.sum()
    };
    let planned = store.compact(&CompactionOptions::new().dry_run(true)).unwrap();
    let before = allocated();
    let report = store.compact(&CompactionOptions::new()).unwrap();
    assert_eq!((planned.bytes_before, planned.bytes_after), (report.bytes_before, report.bytes_after));
    let freed = report.bytes_before - report.bytes_after;
    let really = before - allocated();
    assert!(really + 64 * 1024 > freed && freed > 1 << 20, "{freed} bytes are said to be freed, {really} were");
}

#[test]
fn it_can_be_stopped_and_slowed_down() {
    let ground = Ground::memory();
    let store = ground.open(options());
    fill(&store, 0..3000);
    store.sync().unwrap();
    let before = answers(&store.reader());
    let mut calls = 0;
    let report = store.compact_while(&CompactionOptions::new(), &mut |at| {
        calls += 1;
        assert!(at.done <= at.total);
        if calls == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let report = report.unwrap();
    assert!(report.cancelled && calls == 7, "{report:?}");
    same_answers(&before, &answers(&store.reader()));
    let begun = std::time::Instant::now();
    let total = store.compact(&CompactionOptions::new().bytes_per_second(Some(4 << 20))).unwrap();
    assert!(!total.cancelled && !total.compacted.is_empty());
    assert!(begun.elapsed().as_secs_f64() > total.bytes_before as f64 / 2.0 / (4 << 20) as f64 * 0.5);
    same_answers(&before, &answers(&store.reader()));
}

#[test]
fn forks_and_backups_hold_what_was_compacted() {
    on_each_ground(|ground| {
        let store = removed_in_every_way(ground);
        let backup = Memory::new();
        store.backup_to_storage(&backup, &annals::backup::BackupOptions::new()).unwrap();
        store.compact(&CompactionOptions::new()).unwrap();
        let before = answers(&store.reader());
        let forked = Ground::memory();
        store.fork_to_storage(&*forked.storage(), &ForkOptions::new()).unwrap();
        same_answers(&before, &answers(&forked.open(options()).reader()));
        let report = store.backup_to_storage(&backup, &annals::backup::BackupOptions::new()).unwrap();
        assert!(report.new_pieces > 3, "{report:?}");
        let again = store.backup_to_storage(&backup, &annals::backup::BackupOptions::new()).unwrap();
        assert!(again.unchanged, "{again:?}");
        for point in [None, Some(1)] {
            let restored = Ground::memory();
            let how = annals::backup::RestoreOptions::new();
            let how = match point {
                Some(point) => how.point(point),
                None => how,
            };
            annals::backup::restore_in(&backup, &*restored.storage(), &how).unwrap();
            let store = restored.open(options());
            same_answers(&before, &answers(&store.reader()));
            // And can be compacted again, with what is removed from it.
            store.delete("s-5", Expect::Any).unwrap();
            let before = answers(&store.reader());
            let report = store.compact(&CompactionOptions::new()).unwrap();
            assert!(report.removed_events > 50, "{report:?}");
            same_answers(&before, &answers(&store.reader()));
        }
    });
}

#[test]
fn damage_to_a_container_is_named_and_never_shown() {
    let ground = Ground::memory();
    let store = removed_in_every_way(&ground);
    store.compact(&CompactionOptions::new()).unwrap();
    let before = answers(&store.reader());
    drop(store);
    let sound = files(&*ground.storage());
    let containers: Vec<&String> = sound.keys().filter(|name| is_container(name)).collect();
    assert!(containers.len() > 3);
    let mut wrong_reads = 0;
    for (round, name) in containers.iter().enumerate().take(3) {
        let len = sound[*name].len();
        for at in (0..len).step_by(211).chain([0, 8, 16, 20, 36, len - 1]) {
            let memory = Memory::new();
            for (other, bytes) in &sound {
                let mut bytes = bytes.clone();
                if other == *name {
                    bytes[at] ^= 1 << ((round + at) % 8);
                }
                let file = memory.create(other, bytes.len() as u64, annals::storage::Fill::Allocated).unwrap();
                if !bytes.is_empty() {
                    file.write_at(0, &[std::io::IoSlice::new(&bytes)]).unwrap();
                }
            }
            let verified = inspect::verify_in(&memory, &mut |_, _| {}).unwrap();
            assert!(verified.findings.iter().any(|f| f.file == **name), "byte {at} of {name}: {:?}", verified.findings);
            let Ok(store) = options().open_read_only_storage(Arc::new(memory)) else { continue };
            let read = store.reader().read_all(&Query::all(), Seek::Beginning).unwrap();
            for event in read {
                match event {
                    Ok(event) => assert!(before.contains(&format!("{:?}", told(&event)))),
                    Err(Error::Corrupt(corrupt)) => {
                        assert_eq!(corrupt.file, **name);
                        wrong_reads += 1;
                    }
                    Err(Error::Unsupported { .. }) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
    }
    assert!(wrong_reads > 20, "{wrong_reads}");
}

#[test]
fn a_reader_that_saw_no_removal_meets_none_of_its_events() {
    on_each_ground(|ground| {
        let store = ground.open(options());
        fill(&store, 0..1500);
        store.sync().unwrap();
        let beside = ground.open_read_only(options().read_mode(ReadMode::Pread));
        let reader = beside.reader();
        store.delete("s-0", Expect::Any).unwrap();
        store.sync().unwrap();
        store.compact(&CompactionOptions::new()).unwrap();
        // Its view is from before, the files are from after.
        let mut read = reader.read_all(&Query::all(), Seek::Beginning).unwrap();
        let shown = read.by_ref().map(|event| event.unwrap()).filter(|event| event.stream() == "s-0").count();
        assert!(read.skipped() + shown as u64 == 215, "{} and {shown}", read.skipped());
        for event in reader.read_stream("s-0", Seek::Beginning).unwrap() {
            assert!(holds(event.unwrap().payload(), "secret-"));
        }
        let found = reader.by_id(id(0)).unwrap();
        let is_right = match found {
            annals::Lookup::Found(event) => event.payload() == payload(0).as_bytes(),
            annals::Lookup::Removed { why, .. } => why == RemovalReason::Deleted,
            annals::Lookup::NotFound => false,
        };
        assert!(is_right);
        drop(store);
        assert!(ground.open(options()).reader_in(View::Durable).count(&Query::stream("s-0")).unwrap() == 0);
    });
}

/// A subscription that last looked before a removal goes on with what it saw then; what compaction has taken out since is a
/// gap, and never an event without its content.
#[test]
fn a_subscription_that_saw_no_removal_hands_out_no_empty_event() {
    on_each_ground(|ground| {
        let store = ground.open(options());
        fill(&store, 0..600);
        store.sync().unwrap();
        let begin = || {
            let mut subscription = store.subscribe(&Query::all(), Seek::Beginning).unwrap();
            assert!(matches!(subscription.try_next().unwrap(), Next::Message(Message::Event(_))));
            subscription
        };
        let (mut one_by_one, mut by_closure) = (begin(), begin());
        store.delete("s-3", Expect::Any).unwrap();
        store.sync().unwrap();
        assert!(store.compact(&CompactionOptions::new()).unwrap().removed_events > 20);
        let (mut gaps, mut events) = (0, 0);
        let mut judge = |stream: &str, payload: &[u8]| {
            events += 1;
            assert!(holds(payload, "secret-"), "an event of {stream} without its content");
        };
        while let Next::Message(message) = one_by_one.try_next().unwrap() {
            match message {
                Message::Event(event) => judge(event.stream(), event.payload()),
                Message::Gap { why, .. } => {
                    assert_eq!(why, RemovalReason::Deleted);
                    gaps += 1;
                }
                _ => {}
            }
        }
        by_closure
            .for_each_ready(|message| {
                match message {
                    annals::MessageRef::Event(event) => judge(event.stream(), event.payload()),
                    annals::MessageRef::Gap { .. } => gaps += 1,
                    _ => {}
                }
                ControlFlow::<()>::Continue(())
            })
            .unwrap();
        assert!(gaps > 40 && events > 1000, "{gaps} gaps, {events} events");
    });
}
