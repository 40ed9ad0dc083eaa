//! Snapshots of state: what is loaded is the whole stream or nothing, whoever looks.

use std::io::IoSlice;
use std::sync::Arc;

use annals::backup::{BackupOptions, RestoreOptions, restore_in};
use annals::storage::{Access, Fill, Memory, Storage};
use annals::{
    AsOf, CleanSnapshots, Durability, Error, Expect, ForkOptions, History, Loaded, NewEvent, Options, ReadEvents,
    Revision, Seek, Snapshots, Store, StreamState,
};
use annals_format::snapshot::{SnapshotFileHeader, SnapshotFrame};
use annals_tests::sim_disk::{FaultKind, Repeat, SimDisk};

/// The files as they are: what a killed process leaves.
fn copy_of(storage: &Memory) -> Arc<Memory> {
    let copy = Memory::new();
    for name in storage.list().unwrap().iter().filter(|name| *name != "LOCK") {
        let bytes = bytes_of(storage, name);
        let file = copy.create(name, bytes.len() as u64, Fill::Allocated).unwrap();
        file.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
    }
    Arc::new(copy)
}

fn bytes_of(storage: &Memory, name: &str) -> Vec<u8> {
    let file = storage.open(name, Access::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

/// Exchanges a file for one of other bytes.
fn put(storage: &Memory, name: &str, bytes: &[u8]) {
    storage.remove(name).unwrap();
    let file = storage.create(name, bytes.len() as u64, Fill::Allocated).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
}

fn snapshot_files(storage: &Memory) -> Vec<String> {
    storage.list().unwrap().into_iter().filter(|name| name.starts_with("snapshots-")).collect()
}

fn revision(number: u64) -> Revision {
    Revision::new(number).expect("not 0")
}

fn store() -> (Arc<Memory>, Store) {
    let memory = Arc::new(Memory::new());
    let store = Options::new().background(false).open_storage(memory.clone()).unwrap();
    (memory, store)
}

fn append(store: &Store, stream: &str, count: u64) {
    for _ in 0..count {
        let next = store.stream_state(stream).unwrap().last().map_or(1, |last| last.get() + 1);
        store.append(stream, Expect::Any, &[NewEvent::new("Added", &next.to_le_bytes())]).unwrap();
    }
}

/// What the events say: the revisions that are in the state.
fn folded(history: History) -> Vec<u64> {
    let mut state: Vec<u64> = match history.snapshot() {
        Some(snapshot) => numbers(snapshot.state()),
        None => Vec::new(),
    };
    for event in history {
        state.push(u64::from_le_bytes(event.unwrap().payload().try_into().unwrap()));
    }
    state
}

fn numbers(state: &[u8]) -> Vec<u64> {
    state.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

fn state_of(revisions: impl IntoIterator<Item = u64>) -> Vec<u8> {
    revisions.into_iter().flat_map(u64::to_le_bytes).collect()
}

fn loaded(events: &impl ReadEvents, stream: &str, kind: &Snapshots) -> Result<Vec<u64>, u64> {
    match events.load(stream, kind).unwrap() {
        Loaded::Complete(history) => Ok(folded(history)),
        Loaded::Incomplete { first_available } => Err(first_available.get()),
    }
}

fn kind() -> Snapshots {
    Snapshots::of("sum", 1)
}

#[test]
fn a_snapshot_takes_the_place_of_the_events_before_it() {
    let (_, store) = store();
    append(&store, "a", 10);
    assert_eq!(loaded(&store, "a", &kind()), Ok((1..=10).collect()));
    let saved = kind().save(&store, "a", revision(7), &state_of(1..=7)).unwrap();
    assert_eq!((saved.revision, saved.position.get(), saved.is_compressed), (revision(7), 7, false));
    let Loaded::Complete(history) = store.load("a", &kind()).unwrap() else { panic!("nothing was removed") };
    assert_eq!(history.snapshot().map(|snapshot| snapshot.revision()), Some(revision(7)));
    assert_eq!(history.expect(), Expect::At(revision(10)));
    assert_eq!(history.map(|event| event.unwrap().revision().get()).collect::<Vec<_>>(), [8, 9, 10]);
    assert_eq!(loaded(&store, "a", &kind()), Ok((1..=10).collect()));
    // Of another schema, name or stream it says nothing.
    for other in [Snapshots::of("sum", 2), Snapshots::of("other", 1)] {
        assert!(store.latest_snapshot("a", &other).unwrap().is_none());
        assert_eq!(loaded(&store, "a", &other), Ok((1..=10).collect()));
    }
    assert!(store.latest_snapshot("b", &kind()).unwrap().is_none());
    assert_eq!(loaded(&store, "b", &kind()), Ok(Vec::new()));
}

#[test]
fn what_cannot_be_saved_is_refused() {
    let (_, store) = store();
    append(&store, "a", 3);
    let invalid = |answer: annals::Result<_>| matches!(answer, Err(Error::Invalid(_)));
    assert!(invalid(kind().save(&store, "a", revision(4), b"").map(drop)));
    assert!(invalid(kind().save(&store, "b", revision(1), b"").map(drop)));
    assert!(invalid(kind().save(&store, "", revision(1), b"").map(drop)));
    assert!(invalid(Snapshots::of("", 1).save(&store, "a", revision(1), b"").map(drop)));
    assert!(invalid(Snapshots::of("a\nb", 1).save(&store, "a", revision(1), b"").map(drop)));
    store.truncate_before("a", Expect::Any, revision(3)).unwrap();
    assert!(invalid(kind().save(&store, "a", revision(2), b"").map(drop)));
    kind().save(&store, "a", revision(3), b"").unwrap();
    assert_eq!(store.latest_snapshot("a", &kind()).unwrap().unwrap().state(), b"");
}

#[test]
fn truncated_events_are_covered_or_the_answer_is_incomplete() {
    let (_, store) = store();
    append(&store, "a", 10);
    kind().save(&store, "a", revision(5), &state_of(1..=5)).unwrap();
    assert!(!store.truncate_before("a", Expect::Any, revision(4)).unwrap().is_unreached);
    assert_eq!(loaded(&store, "a", &kind()), Ok((1..=10).collect()));
    assert!(!store.truncate_before("a", Expect::Any, revision(6)).unwrap().is_unreached);
    assert_eq!(loaded(&store, "a", &kind()), Ok((1..=10).collect()));
    assert!(store.truncate_before("a", Expect::Any, revision(7)).unwrap().is_unreached);
    assert_eq!(loaded(&store, "a", &kind()), Err(7));
    assert!(store.latest_snapshot("a", &kind()).unwrap().is_some(), "it is still what it was");
    assert_eq!(loaded(&store, "a", &Snapshots::of("sum", 2)), Err(7));
    // Somebody who has the state may say so again.
    kind().save(&store, "a", revision(8), &state_of(1..=8)).unwrap();
    assert_eq!(loaded(&store, "a", &kind()), Ok((1..=10).collect()));
    assert!(!store.truncate_before("a", Expect::Any, revision(9)).unwrap().is_unreached);
    assert!(store.truncate_before("a", Expect::Any, revision(11)).unwrap().is_unreached);
    assert_eq!(loaded(&store, "a", &kind()), Err(11));
    // A batch is told of as well.
    append(&store, "b", 2);
    let batch = annals::Batch::new().truncate_before("b", revision(2)).event("b", NewEvent::new("Added", b"12345678"));
    assert!(store.commit(&batch).unwrap().removals()[0].is_unreached);
}

#[test]
fn a_deletion_voids_what_was_saved_before() {
    let (_, store) = store();
    append(&store, "a", 4);
    kind().save(&store, "a", revision(4), &state_of(1..=4)).unwrap();
    store.delete("a", Expect::Any).unwrap();
    assert!(store.latest_snapshot("a", &kind()).unwrap().is_none());
    let Loaded::Complete(history) = store.load("a", &kind()).unwrap() else { panic!("nothing is missing") };
    assert_eq!(history.state(), StreamState::Deleted { last: revision(4) });
    assert_eq!(history.expect(), Expect::Deleted);
    assert_eq!(folded(history), [] as [u64; 0]);
    append(&store, "a", 3);
    assert_eq!(loaded(&store, "a", &kind()), Ok(vec![5, 6, 7]));
    kind().save(&store, "a", revision(6), &state_of(5..=6)).unwrap();
    store.truncate_before("a", Expect::Any, revision(7)).unwrap();
    assert_eq!(loaded(&store, "a", &kind()), Ok(vec![5, 6, 7]));
    // A stream that was forgotten begins with revision 1 again: what was saved of the one before is not of it.
    store.delete("a", Expect::Any).unwrap();
    store.forget_stream("a", Expect::Any).unwrap();
    append(&store, "a", 6);
    assert!(store.latest_snapshot("a", &kind()).unwrap().is_none());
    assert_eq!(loaded(&store, "a", &kind()), Ok((1..=6).collect()));
    store.tombstone("a", Expect::Any).unwrap();
    assert_eq!(loaded(&store, "a", &kind()), Ok(Vec::new()));
    let cleaned = store.clean_snapshots(&CleanSnapshots::new()).unwrap();
    assert_eq!((cleaned.kept, cleaned.void), (0, 2));
}

#[test]
fn views_of_the_past_see_what_was_saved_of_it() {
    let (_, store) = store();
    append(&store, "a", 10);
    for at in [3, 6, 9] {
        kind().save(&store, "a", revision(at), &state_of(1..=at)).unwrap();
    }
    for position in 0..=10 {
        let then = store.as_of(AsOf::Position(position)).unwrap();
        assert_eq!(loaded(&then, "a", &kind()), Ok((1..=position).collect()));
        let newest = then.latest_snapshot("a", &kind()).unwrap().map_or(0, |snapshot| snapshot.revision().get());
        assert_eq!(newest, position / 3 * 3);
    }
    store.truncate_before("a", Expect::Any, revision(5)).unwrap();
    let before: Vec<_> = (0..=10).map(|p| loaded(&store.as_of(AsOf::Position(p)).unwrap(), "a", &kind())).collect();
    assert_eq!(before[5], Err(5));
    assert_eq!(before[6], Ok((1..=6).collect()));
    // Clean-up changes none of these answers, though it keeps but one of each.
    let cleaned = store.clean_snapshots(&CleanSnapshots::new()).unwrap();
    assert_eq!((cleaned.kept, cleaned.superseded), (2, 1));
    let after: Vec<_> = (0..=10).map(|p| loaded(&store.as_of(AsOf::Position(p)).unwrap(), "a", &kind())).collect();
    assert_eq!(before, after);
}

/// A number like any other, for each number.
fn scattered(n: u64) -> u64 {
    let n = (n ^ n >> 30 ^ 0x5DEE_CE66_D1CE_4E5B).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ n >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ n >> 31
}

#[test]
fn states_lie_at_multiples_of_sixteen_compressed_or_not() {
    for mode in [annals::ReadMode::Mapped, annals::ReadMode::Pread] {
        let store = Options::new().background(false).read_mode(mode).open_storage(Arc::new(Memory::new())).unwrap();
        append(&store, "a", 1);
        for len in (0..200).chain([1000, 4095, 4096, 4097, 70_000, 1 << 20]) {
            for compressible in [false, true] {
                let state: Vec<u8> =
                    (0..len as u64).map(|n| if compressible { 7 } else { scattered(n) as u8 }).collect();
                let saved = kind().save(&store, "a", revision(1), &state).unwrap();
                assert_eq!(saved.is_compressed, compressible && len >= 512, "{len}");
                let snapshot = store.latest_snapshot("a", &kind()).unwrap().unwrap();
                assert_eq!(snapshot.state(), state);
                assert_eq!(snapshot.state().as_ptr() as usize % 16, 0);
                assert_eq!(snapshot.to_bytes(), state);
                assert_eq!(snapshot.is_compressed(), saved.is_compressed);
            }
        }
        let plain = kind().compress(false).save(&store, "a", revision(1), &[0; 5000]).unwrap();
        assert_eq!((plain.stored_len, plain.is_compressed), (5000, false));
    }
}

/// However often a store is closed and opened, snapshots are there, and few files hold them.
#[test]
fn snapshots_outlive_their_openings() {
    let mut memory = Arc::new(Memory::new());
    for round in 1..=20u64 {
        let store = Options::new().background(false).open_storage(memory.clone()).unwrap();
        append(&store, "a", 1);
        assert_eq!(loaded(&store, "a", &kind()), Ok((1..=round).collect()));
        let newest = store.latest_snapshot("a", &kind()).unwrap().map_or(0, |snapshot| snapshot.revision().get());
        assert_eq!(newest, round - 1);
        kind().save(&store, "a", revision(round), &state_of(1..=round)).unwrap();
        if round % 5 != 0 {
            store.close().unwrap();
        } else {
            // As a killed process leaves it: all that was answered is there.
            memory = copy_of(&memory);
        }
    }
    let files = snapshot_files(&memory).len();
    assert!(files <= 5, "{files} files");
    let store = Options::new().background(false).open_storage(memory.clone()).unwrap();
    let cleaned = store.clean_snapshots(&CleanSnapshots::new().keep(3)).unwrap();
    assert_eq!((cleaned.kept, cleaned.superseded), (3, 17));
    assert_eq!(snapshot_files(&memory).len(), 1);
    assert_eq!(loaded(&store, "a", &kind()), Ok((1..=20).collect()));
}

#[test]
fn readers_elsewhere_see_what_was_saved() {
    for durability in [Durability::Durable, Durability::Buffered] {
        let memory = Arc::new(Memory::new());
        let open = || Options::new().background(false).durability(durability);
        let store = open().open_storage(memory.clone()).unwrap();
        append(&store, "a", 3);
        let mut read_only = open().open_read_only_storage(memory.clone()).unwrap();
        let follower = open().view(annals::View::Written).follow_storage(memory.clone()).unwrap();
        for round in 1..=40u64 {
            append(&store, "a", 1);
            let last = round + 3;
            // Long enough that files are ended.
            let state = state_of((1..=last).chain(std::iter::repeat_n(0, 400 * (round as usize % 7))));
            let unpacked = kind().compress(false).durability(durability);
            unpacked.save(&store, "a", revision(last), &state).unwrap();
            read_only.refresh().unwrap();
            let by_reader = read_only.latest_snapshot("a", &kind()).unwrap().unwrap();
            assert_eq!((by_reader.revision().get(), by_reader.state()), (last, &state[..]));
            let by_follower = follower.latest_snapshot("a", &kind()).unwrap().unwrap();
            assert_eq!((by_follower.revision().get(), by_follower.state()), (last, &state[..]));
            if round % 10 == 0 {
                let cleaned = store.clean_snapshots(&CleanSnapshots::new().keep(2)).unwrap();
                assert_eq!((cleaned.kept, cleaned.damage.len()), (2, 0));
                assert_eq!(by_follower.state(), state, "what is held stays");
                assert_eq!(follower.latest_snapshot("a", &kind()).unwrap().unwrap().state(), state);
                assert_eq!(read_only.latest_snapshot("a", &kind()).unwrap().unwrap().state(), state);
            }
        }
        append(&store, "a", 1);
        assert_eq!(follower.snapshots("").unwrap().len(), 2);
        store.delete("a", Expect::Any).unwrap();
        assert!(follower.latest_snapshot("a", &kind()).unwrap().is_none());
        assert!(follower.snapshots("").unwrap().is_empty());
        read_only.refresh().unwrap();
        assert!(read_only.latest_snapshot("a", &kind()).unwrap().is_none());
    }
}

/// After a deletion and a clean-up none of the bytes are left, not even in files that are not read.
#[test]
fn what_was_deleted_is_found_nowhere() {
    let (memory, store) = store();
    let marks = |name: &str| -> Vec<u8> { format!("only in the state of {name}").into_bytes() };
    for stream in ["a", "b", "c"] {
        append(&store, stream, 2);
        kind().save(&store, stream, revision(2), &marks(stream)).unwrap();
    }
    let holds = |storage: &Memory, stream: &str| {
        let wanted = marks(stream);
        let found = |name: &String| bytes_of(storage, name).windows(wanted.len()).any(|bytes| bytes == wanted);
        storage.list().unwrap().iter().any(found)
    };
    assert!(holds(&memory, "a") && holds(&memory, "b") && holds(&memory, "c"));
    store.delete("a", Expect::Any).unwrap();
    store.tombstone("b", Expect::Any).unwrap();
    let planned = store.clean_snapshots(&CleanSnapshots::new().dry_run(true)).unwrap();
    assert_eq!((planned.kept, planned.void), (1, 2));
    assert!(holds(&memory, "a"));
    let cleaned = store.clean_snapshots(&CleanSnapshots::new()).unwrap();
    assert_eq!((cleaned.kept, cleaned.void), (1, 2));
    assert!(!holds(&memory, "a") && !holds(&memory, "b") && holds(&memory, "c"));
    assert_eq!(store.latest_snapshot("c", &kind()).unwrap().unwrap().state(), marks("c"));
    // A crash before the files went: the next opening sees to it.
    let left = copy_of(&memory);
    let number = "snapshots-00000000000000000077";
    put_new(&left, number, &marks("a"));
    put_new(&left, "snapshots-00000000000000000078.new", &marks("b"));
    let store = Options::new().background(false).open_storage(left.clone()).unwrap();
    assert!(!holds(&left, "a") && !holds(&left, "b"));
    assert_eq!(store.latest_snapshot("c", &kind()).unwrap().unwrap().state(), marks("c"));
}

fn put_new(storage: &Memory, name: &str, bytes: &[u8]) {
    let file = storage.create(name, bytes.len() as u64, Fill::Allocated).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
}

/// Every byte of a file of snapshots changed: what is loaded is right, or the damage is named; `verify` finds it.
#[test]
fn every_changed_byte_is_named_or_does_not_matter() {
    let (memory, store) = store();
    for stream in ["whole", "cut"] {
        append(&store, stream, 6);
        for at in [2, 5] {
            kind().save(&store, stream, revision(at), &state_of(numbers_of(&store, stream, at))).unwrap();
        }
    }
    store.truncate_before("cut", Expect::Any, revision(5)).unwrap();
    let expected: Vec<Vec<u64>> =
        ["whole", "cut"].iter().map(|stream| loaded(&store, stream, &kind()).unwrap()).collect();
    store.close().unwrap();
    let [name] = &snapshot_files(&memory)[..] else { panic!("one file holds all of them") };
    let whole = bytes_of(&memory, name);
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut named = 0;
    for at in 0..end {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let changed = copy_of(&memory);
        put(&changed, name, &bytes);
        let report = annals::inspect::verify_in(&*changed, &mut |_, _| {}).unwrap();
        assert!(!report.is_sound() && report.findings.iter().any(|finding| finding.file == *name), "byte {at}");
        let read_only = Options::new().open_read_only_storage(changed.clone()).unwrap();
        let store = Options::new().background(false).open_storage(changed.clone()).unwrap();
        for reader in [read_only.reader(), store.reader()] {
            for (stream, expected) in ["whole", "cut"].iter().zip(&expected) {
                match reader.load(stream, &kind()) {
                    Ok(Loaded::Complete(history)) => {
                        let is_told = !history.damage().is_empty();
                        named += u64::from(is_told);
                        assert_eq!(&folded(history), expected, "byte {at} of {stream}");
                    }
                    Ok(Loaded::Incomplete { .. }) => panic!("byte {at}: damage is no incompleteness"),
                    Err(Error::Corrupt(corrupt)) => {
                        assert_eq!((corrupt.file.as_str(), *stream), (name.as_str(), "cut"), "byte {at}");
                        named += 1;
                    }
                    Err(Error::Unsupported { .. }) => named += 1,
                    Err(error) => panic!("byte {at}: {error}"),
                }
            }
        }
        // What is damaged stays, and is told of; new ones go elsewhere, and are found.
        append(&store, "whole", 1);
        match kind().save(&store, "whole", revision(7), &state_of(numbers_of(&store, "whole", 7))) {
            Ok(_) => {
                let cleaned = store.clean_snapshots(&CleanSnapshots::new()).unwrap();
                let newest = store.latest_snapshot("whole", &kind()).unwrap().unwrap();
                assert_eq!(newest.revision().get(), 7);
                assert!(!cleaned.damage.is_empty() || cleaned.superseded > 0, "byte {at}: {cleaned:?}");
            }
            Err(Error::Unsupported { .. }) => {}
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(named as usize > end / 2, "{named} of {end}");
}

/// The payloads of the first events of a stream.
fn numbers_of(store: &Store, stream: &str, upto: u64) -> Vec<u64> {
    let events = store.read_stream(stream, Seek::Beginning).unwrap();
    let of_event =
        |event: annals::Result<annals::Event>| u64::from_le_bytes(event.unwrap().payload().try_into().unwrap());
    events.map(of_event).take(upto as usize).collect()
}

#[test]
fn a_missing_a_cut_and_an_emptied_file_are_named() {
    let (memory, store) = store();
    append(&store, "a", 6);
    kind().save(&store, "a", revision(5), &state_of(1..=5)).unwrap();
    append(&store, "b", 6);
    store.truncate_before("a", Expect::Any, revision(5)).unwrap();
    store.close().unwrap();
    let [name] = &snapshot_files(&memory)[..] else { panic!("one file holds all of them") };
    let whole = bytes_of(&memory, name);
    for harm in 0..4 {
        let harmed = copy_of(&memory);
        match harm {
            0 => harmed.remove(name).unwrap(),
            1 => put(&harmed, name, &whole[..4096]),
            2 => put(&harmed, name, &vec![0; whole.len()]),
            _ => put(&harmed, name, &whole[..130]),
        }
        let store = Options::new().background(false).open_storage(harmed.clone()).unwrap();
        let answer = store.load("a", &kind());
        if harm == 1 {
            // All of it is there; that the file is short is told.
            assert_eq!(folded(answer.unwrap().complete().unwrap()), [1, 2, 3, 4, 5, 6]);
        } else {
            let Err(Error::Corrupt(corrupt)) = answer else { panic!("harm {harm}: {answer:?}") };
            assert_eq!(&corrupt.file, name);
        }
        let Loaded::Complete(history) = store.load("b", &kind()).unwrap() else {
            panic!("all of its events are there")
        };
        assert!(!history.damage().is_empty(), "harm {harm}");
        assert_eq!(folded(history), numbers_of(&store, "b", 6));
        let report = annals::inspect::verify_in(&*harmed, &mut |_, _| {}).unwrap();
        assert!(report.findings.iter().any(|finding| finding.file == *name), "harm {harm}");
    }
}

#[test]
fn forks_hold_what_was_saved_up_to_their_moment() {
    let (_, store) = store();
    append(&store, "a", 9);
    for at in [3, 6, 9] {
        kind().save(&store, "a", revision(at), &state_of(1..=at)).unwrap();
    }
    for position in [0, 2, 3, 7, 9] {
        let target = Arc::new(Memory::new());
        store.fork_to_storage(&*target, &ForkOptions::new().as_of(AsOf::Position(position))).unwrap();
        let fork = Options::new().background(false).open_storage(target.clone()).unwrap();
        let newest = fork.latest_snapshot("a", &kind()).unwrap().map_or(0, |snapshot| snapshot.revision().get());
        assert_eq!(newest, position / 3 * 3);
        assert_eq!(loaded(&fork, "a", &kind()), Ok((1..=position).collect()));
        // Other events under the same revisions: nothing of the parent's is theirs.
        for n in position + 1..=9 {
            fork.append("a", Expect::Any, &[NewEvent::new("Added", &(100 + n).to_le_bytes())]).unwrap();
        }
        let of_fork: Vec<u64> = (1..=position).chain(position + 101..=109).collect();
        assert_eq!(loaded(&fork, "a", &kind()), Ok(of_fork));
        assert_eq!(fork.snapshots("").unwrap().len() as u64, position / 3);
        let report = annals::inspect::verify_in(&*target, &mut |_, _| {}).unwrap();
        assert!(report.is_sound(), "{:?}", report.findings);
    }
}

#[test]
fn backups_carry_snapshots_up_to_any_position() {
    let (_, store) = store();
    let backup = Memory::new();
    let mut points = Vec::new();
    for round in 1..=6u64 {
        append(&store, "a", 3);
        let last = round * 3;
        kind().save(&store, "a", revision(last - 1), &state_of(1..=last - 1)).unwrap();
        let report = store.backup_to_storage(&backup, &BackupOptions::new()).unwrap();
        assert!(report.notices.is_empty() && !report.unchanged, "{report:?}");
        points.push((report.point, last));
        if round == 4 {
            store.clean_snapshots(&CleanSnapshots::new().keep(2)).unwrap();
        }
    }
    let again = store.backup_to_storage(&backup, &BackupOptions::new()).unwrap();
    assert!(again.unchanged && again.new_bytes == 0, "{again:?}");
    // One that was saved without an event is new to it.
    kind().save(&store, "a", revision(18), &state_of(1..=18)).unwrap();
    assert!(!store.backup_to_storage(&backup, &BackupOptions::new()).unwrap().unchanged);
    for (point, head) in points {
        for position in 0..=head {
            let target = Arc::new(Memory::new());
            let options = RestoreOptions::new().point(point).until(AsOf::Position(position));
            restore_in(&backup, &*target, &options).unwrap();
            let restored = Options::new().background(false).open_storage(target.clone()).unwrap();
            assert_eq!(loaded(&restored, "a", &kind()), Ok((1..=position).collect()));
            let kept = (1..=position).rev().find(|at| at % 3 == 2 && (head < 15 || *at >= 8));
            let newest = restored.latest_snapshot("a", &kind()).unwrap().map(|snapshot| snapshot.revision().get());
            assert_eq!(newest, kept, "point {point} until {position}");
            kind().save(&restored, "a", revision(1), &state_of(1..=1)).map_or_else(|_| assert_eq!(position, 0), drop);
        }
    }
    // Each file that is missing is named.
    for name in backup.list().unwrap().iter().filter(|name| name.starts_with("snapshots-")) {
        let harmed = copy_of(&backup);
        harmed.remove(name).unwrap();
        let numbers: Vec<u64> = annals::backup::points_in(&*harmed).unwrap().into_iter().map(|(n, _)| n).collect();
        let answers =
            numbers.into_iter().map(|point| restore_in(&*harmed, &Memory::new(), &RestoreOptions::new().point(point)));
        let named = answers.filter(|answer| matches!(answer, Err(Error::Corrupt(corrupt)) if corrupt.file == *name));
        assert!(named.count() > 0, "{name}");
    }
}

/// What repair cannot read of the log a snapshot may know.
#[test]
fn repair_carries_what_can_be_read() {
    let (memory, store) = store();
    for _ in 0..10 {
        append(&store, "a", 1);
        append(&store, "b", 1);
    }
    kind().save(&store, "a", revision(8), &state_of(1..=8)).unwrap();
    kind().save(&store, "b", revision(2), &state_of(1..=2)).unwrap();
    store.close().unwrap();
    // Event 5 of both is damaged, in the segment and in the ring.
    let damaged = copy_of(&memory);
    for name in ["segment-00000000000000000001.log", "RING"] {
        let mut bytes = bytes_of(&memory, name);
        let mut found = 0;
        for at in 5..bytes.len() - 8 {
            if bytes[at..at + 8] == 5u64.to_le_bytes() && bytes[at - 5..at] == *b"Added" {
                bytes[at] ^= 0xFF;
                found += 1;
            }
        }
        assert!(found == 2 || name == "RING", "{found} in {name}");
        put(&damaged, name, &bytes);
    }
    let target = Arc::new(Memory::new());
    let report = annals::repair::repair_in(&*damaged, &*target, &annals::repair::RepairOptions::new()).unwrap();
    assert!(!report.is_complete());
    let repaired = Options::new().background(false).open_storage(target.clone()).unwrap();
    assert_eq!(loaded(&repaired, "a", &kind()), Ok((1..=10).collect()));
    assert_eq!(loaded(&repaired, "b", &kind()), Err(6));
    // Also with a snapshot of the lost event itself, and none that is damaged.
    let files = snapshot_files(&memory);
    let mut bytes = bytes_of(&damaged, &files[0]);
    bytes[200] ^= 1;
    put(&damaged, &files[0], &bytes);
    let target = Arc::new(Memory::new());
    let report = annals::repair::repair_in(&*damaged, &*target, &annals::repair::RepairOptions::new()).unwrap();
    assert!(report.notices.iter().any(|notice| notice.contains(&files[0])), "{report:?}");
    let repaired = Options::new().background(false).open_storage(target).unwrap();
    assert_eq!(loaded(&repaired, "a", &kind()), Err(6));
}

/// Checksums put right after it: only what the state decodes to tells.
#[test]
fn a_state_that_lies_about_its_length_is_named() {
    let (memory, store) = store();
    append(&store, "a", 3);
    store.truncate_before("a", Expect::Any, revision(3)).unwrap();
    kind().save(&store, "a", revision(3), &[7; 100_000]).unwrap();
    store.close().unwrap();
    let [name] = &snapshot_files(&memory)[..] else { panic!("one file holds it") };
    let bytes = bytes_of(&memory, name);
    let header = SnapshotFileHeader::decode(&bytes).unwrap();
    let frame = SnapshotFrame::decode(&bytes[128..], header.seed(), 128).unwrap();
    let stored = &bytes[128 + frame.header_len()..][..frame.stored_len as usize];
    let decodes_to = |state_len: u64, stored: &[u8]| {
        let mut bytes = bytes[..128].to_vec();
        SnapshotFrame { state_len, ..frame }.encode(header.seed(), 128, stored, &mut bytes);
        bytes.resize(header.len as usize, 0);
        let forged = copy_of(&memory);
        put(&forged, name, &bytes);
        let store = Options::new().background(false).open_storage(forged).unwrap();
        store.load("a", &kind())
    };
    assert!(matches!(decodes_to(100_000, stored), Ok(Loaded::Complete(_))));
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
    for (state_len, stored) in [
        (99_999, stored),
        (100_001, stored),
        (1 << 28, stored),
        (100_000, &bomb),
        (100_000, &stored[1..]),
        (9_999, b"not zstd"),
    ] {
        let Err(Error::Corrupt(corrupt)) = decodes_to(state_len, stored) else { panic!("{state_len}") };
        assert_eq!(&corrupt.file, name);
    }
    // Beyond what a state may be long nothing is even looked at.
    assert!(matches!(decodes_to((1 << 28) + 1, stored), Err(Error::Corrupt(_)) | Ok(Loaded::Incomplete { .. })));
}

#[test]
fn a_full_disk_and_a_quota_are_errors_of_the_save_alone() {
    let disk = SimDisk::new();
    let open = || Options::new().background(false).segment_bytes_max(1 << 20);
    let store = open().open_storage(Arc::new(disk.clone())).unwrap();
    append(&store, "a", 5);
    disk.set_capacity(Some(0));
    assert!(matches!(kind().save(&store, "a", revision(5), b"x"), Err(Error::NoSpace { .. } | Error::Io { .. })));
    assert_eq!(loaded(&store, "a", &kind()), Ok((1..=5).collect()));
    append(&store, "a", 1);
    disk.set_capacity(None);
    kind().save(&store, "a", revision(5), &state_of(1..=5)).unwrap();
    assert_eq!(loaded(&store, "a", &kind()), Ok((1..=6).collect()));
    assert!(store.latest_snapshot("a", &kind()).unwrap().is_some());

    let quota = Options::new().background(false).segment_bytes_max(1 << 20).quota_bytes(Some(1 << 20));
    let store = quota.open_storage(Arc::new(Memory::new())).unwrap();
    append(&store, "a", 5);
    let Err(Error::NoSpace { .. }) = kind().save(&store, "a", revision(5), b"x") else { panic!("beyond the quota") };
    append(&store, "a", 1);
}

/// A file whose sync failed is not written any more; what was not synced is not shown any more, and the next one is.
#[test]
fn a_failing_sync_is_told_and_another_file_begun() {
    let disk = SimDisk::new();
    let store = Options::new().background(false).open_storage(Arc::new(disk.clone())).unwrap();
    append(&store, "a", 5);
    kind().save(&store, "a", revision(1), &state_of(1..=1)).unwrap();
    let buffered = kind().durability(Durability::Buffered);
    buffered.save(&store, "a", revision(2), &state_of(1..=2)).unwrap();
    let newest = || store.latest_snapshot("a", &kind()).unwrap().map(|snapshot| snapshot.revision().get());
    assert_eq!(newest(), Some(2));
    // Writing comes first.
    disk.fail_at(disk.steps() + 1, FaultKind::SyncFail, Repeat::Once);
    let Err(Error::Io { file, .. }) = kind().save(&store, "a", revision(3), &state_of(1..=3)) else {
        panic!("it failed")
    };
    assert!(file.starts_with("snapshots-") && disk.faults_hit() == 1);
    assert_eq!(newest(), Some(1), "what may be lost is not relied on");
    kind().save(&store, "a", revision(4), &state_of(1..=4)).unwrap();
    assert_eq!(newest(), Some(4));
    append(&store, "a", 1);
    for disk in [disk.after_kill(), disk.after_power_loss_with(|_| false), disk.after_power_loss_with(|_| true)] {
        let store = Options::new().background(false).open_storage(Arc::new(disk)).unwrap();
        assert_eq!(store.latest_snapshot("a", &kind()).unwrap().unwrap().revision().get(), 4);
        let revisions: Vec<u64> = store.snapshots("").unwrap().iter().map(|info| info.revision.get()).collect();
        assert_eq!(revisions, [4, 1]);
    }
}

/// Many save at once, some clean up and some load.
#[test]
fn saves_clean_ups_and_loads_of_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("shop")).unwrap();
    let streams: Vec<String> = (0..4).map(|n| format!("account-{n}")).collect();
    streams.iter().for_each(|stream| append(&store, stream, 30));
    store.truncate_before(&streams[3], Expect::Any, revision(1)).unwrap();
    std::thread::scope(|scope| {
        for stream in &streams {
            scope.spawn(|| {
                for at in 1..=30 {
                    kind().save(&store, stream, revision(at), &state_of(1..=at)).unwrap();
                }
            });
            scope.spawn(|| {
                for _ in 0..100 {
                    assert_eq!(loaded(&store, stream, &kind()), Ok((1..=30).collect()));
                }
            });
        }
        scope.spawn(|| {
            for keep in 1..20 {
                let cleaned = store.clean_snapshots(&CleanSnapshots::new().keep(keep % 3 + 1)).unwrap();
                assert!(cleaned.damage.is_empty() && cleaned.void == 0, "{cleaned:?}");
            }
        });
    });
    for stream in &streams {
        assert_eq!(store.latest_snapshot(stream, &kind()).unwrap().unwrap().revision(), revision(30));
    }
    let before = store.snapshots("").unwrap();
    store.close().unwrap();
    let store = Store::open(dir.path().join("shop")).unwrap();
    let after = store.snapshots("").unwrap();
    assert_eq!(before, after);
    store.close().unwrap();
    let report = annals::inspect::verify(dir.path().join("shop"), &mut |_, _| {}).unwrap();
    assert!(report.is_sound() && report.snapshots == after.len() as u64, "{report:?}");
}

/// Policies, by what a history has handed out.
#[test]
fn a_snapshot_is_due_by_events_bytes_or_age() {
    let (_, store) = store();
    append(&store, "a", 10);
    let folded = |kind: &Snapshots| {
        let mut history = store.load("a", kind).unwrap().complete().unwrap();
        history.by_ref().for_each(|event| drop(event.unwrap()));
        history
    };
    let none = folded(&kind());
    assert_eq!((none.event_count(), none.byte_count()), (10, 80));
    let now = none.first_time().unwrap();
    assert!(!kind().is_due(&none, u64::MAX));
    assert!(kind().every_events(10).is_due(&none, now) && !kind().every_events(11).is_due(&none, now));
    assert!(kind().every_bytes(80).is_due(&none, now) && !kind().every_bytes(81).is_due(&none, now));
    let aged = kind().max_age(std::time::Duration::from_nanos(100));
    assert!(aged.is_due(&none, now + 100) && !aged.is_due(&none, now + 99));
    assert!(kind().every_events(10).save_if_due(&store, &none, || state_of(1..=10)).unwrap().is_some());
    assert!(kind().every_events(11).save_if_due(&store, &none, || -> Vec<u8> { panic!("not due") }).unwrap().is_none());
    // Nothing came since: nothing is due.
    let since = folded(&kind());
    assert_eq!((since.event_count(), since.revision()), (0, Some(revision(10))));
    assert!(!kind().every_events(1).is_due(&since, u64::MAX) && !aged.is_due(&since, u64::MAX));
}

/// Bytes of truncated and deleted events go, and so do states of what was deleted; what is loaded stays what it was.
#[test]
fn compaction_changes_no_answer() {
    let memory = Arc::new(Memory::new());
    let store = Options::new().background(false).segment_bytes_max(64 << 10).open_storage(memory.clone()).unwrap();
    let fill = || {
        for _ in 0..40 {
            store.append("filling", Expect::Any, &[NewEvent::new("Filled", &[9; 4000])]).unwrap();
        }
    };
    for stream in ["cut", "gone", "whole"] {
        append(&store, stream, 10);
    }
    let secret = b"a state of a stream that is deleted";
    kind().save(&store, "cut", revision(6), &state_of(1..=6)).unwrap();
    kind().save(&store, "gone", revision(10), secret).unwrap();
    kind().save(&store, "whole", revision(3), &state_of(1..=3)).unwrap();
    fill();
    // The event that the snapshot names goes as well.
    assert!(!store.truncate_before("cut", Expect::Any, revision(7)).unwrap().is_unreached);
    store.delete("gone", Expect::Any).unwrap();
    fill();
    store.sync().unwrap();
    let answers = |store: &Store| -> Vec<_> {
        let heads = [30, 40, store.head()];
        let of = |head| store.as_of(AsOf::Position(head)).unwrap();
        let loads = heads.map(|head| ["cut", "gone", "whole"].map(|stream| loaded(&of(head), stream, &kind())));
        loads.into_iter().flatten().collect()
    };
    let before = answers(&store);
    assert_eq!(before[6..], [Ok((1..=10).collect()), Ok(Vec::new()), Ok((1..=10).collect())]);
    let report = store.compact(&annals::CompactionOptions::new()).unwrap();
    assert!(!report.compacted.is_empty() && report.void_snapshots == 1, "{report:?}");
    assert_eq!(answers(&store), before);
    let holds = |name: &String| bytes_of(&memory, name).windows(secret.len()).any(|bytes| bytes == secret);
    assert!(!memory.list().unwrap().iter().any(holds));
    assert_eq!(store.snapshots("").unwrap().len(), 2);
    store.close().unwrap();
    let store = Options::new().background(false).open_storage(memory.clone()).unwrap();
    assert_eq!(answers(&store), before);
    let cleaned = store.clean_snapshots(&CleanSnapshots::new()).unwrap();
    assert_eq!((cleaned.kept, cleaned.void, cleaned.damage.len()), (2, 0, 0));
    let report = annals::inspect::verify_in(&*memory, &mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
}
