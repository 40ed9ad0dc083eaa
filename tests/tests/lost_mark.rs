//! A `MARK` that cannot be read hides how much was durable: whoever only reads is told so, and never shown less in silence.

use std::sync::Arc;
use std::time::Duration;

use annals::backup::BackupOptions;
use annals::storage::Memory;
use annals::{Durability, Error, Expect, ForkOptions, NewEvent, Options, Query, Reader, Seek, Store, View};
use annals_format::mark::{MARK_LEN, MARK_SLOT_LEN, Mark};
use annals_tests::sim_disk::SimDisk;

const EVENTS: u64 = 40;

type Harm = (&'static str, fn(&mut Vec<u8>));

/// What befalls the file; the newest slot is one of the two.
const HARMS: [Harm; 9] = [
    ("emptied", |bytes| bytes.clear()),
    ("cut in the first slot", |bytes| bytes.truncate(100)),
    ("cut in the second slot", |bytes| bytes.truncate(MARK_LEN / 2 + 40)),
    ("zeroed", |bytes| bytes.fill(0)),
    ("first slot zeroed", |bytes| bytes[..MARK_SLOT_LEN].fill(0)),
    ("second slot zeroed", |bytes| bytes[MARK_LEN / 2..][..MARK_SLOT_LEN].fill(0)),
    ("a bit of the first slot", |bytes| bytes[96] ^= 1),
    ("a bit of the second slot", |bytes| bytes[MARK_LEN / 2 + 96] ^= 1),
    ("both slots", |bytes| {
        bytes[40] ^= 0x80;
        bytes[MARK_LEN / 2 + 40] ^= 0x80;
    }),
];

fn options() -> Options {
    Options::new().background(false).durability(Durability::Durable)
}

fn filled(disk: &SimDisk) -> Store {
    let store = options().open_storage(Arc::new(disk.clone())).unwrap();
    for number in 0..EVENTS {
        store.append("s", Expect::Any, &[NewEvent::new("T", &number.to_string())]).unwrap();
    }
    store
}

/// Two stores of the same events, one closed and one killed.
fn stores() -> [(&'static str, SimDisk); 2] {
    let closed = SimDisk::new();
    filled(&closed).close().unwrap();
    let running = SimDisk::new();
    let store = filled(&running);
    let killed = running.after_kill();
    drop(store);
    [("closed", closed), ("killed", killed)]
}

fn harmed(disk: &SimDisk, change: fn(&mut Vec<u8>)) -> SimDisk {
    let disk = disk.after_kill();
    assert!(disk.damage("MARK", change));
    disk
}

fn count(reader: &Reader) -> u64 {
    reader.read_all(&Query::all(), Seek::Beginning).unwrap().map(|event| u64::from(event.is_ok())).sum()
}

/// All events in the durable view, or an error that names the file: then the written view has them, and opening for
/// writing mends it. Answers whether it was an error.
fn judge(what: &str, disk: &SimDisk) -> bool {
    let open = |options: Options| options.open_read_only_storage(Arc::new(disk.clone()));
    let is_told = match open(options()) {
        Ok(store) => {
            assert_eq!(count(&store.reader()), EVENTS, "{what}: less is shown, and nothing is said");
            false
        }
        Err(Error::Corrupt(told)) => {
            assert_eq!(told.file, "MARK", "{what}: {told}");
            assert!(told.to_string().contains("opening for writing"), "{what}: {told}");
            true
        }
        Err(error) => panic!("{what}: {error}"),
    };
    match options().follow_storage(Arc::new(disk.clone())) {
        Ok(follower) => assert_eq!(count(&follower.reader()), EVENTS, "{what}: less is followed"),
        Err(Error::Corrupt(told)) => assert!(is_told && told.file == "MARK", "{what}: {told}"),
        Err(error) => panic!("{what}: {error}"),
    }
    let written = open(options().view(View::Written)).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(count(&written.reader()), EVENTS, "{what}: the written view");
    let followed = options().view(View::Written).follow_storage(Arc::new(disk.clone())).unwrap();
    assert_eq!(count(&followed.reader()), EVENTS, "{what}: the written view, followed");

    let store = options().open_storage(Arc::new(disk.clone())).unwrap();
    assert_eq!(count(&store.reader()), EVENTS, "{what}: opened for writing");
    store.close().unwrap();
    assert_eq!(count(&open(options()).unwrap().reader()), EVENTS, "{what}: mended");
    is_told
}

#[test]
fn a_damaged_mark_never_shortens_the_durable_view_in_silence() {
    for (how, disk) in stores() {
        assert!(!judge(how, &disk.after_kill()), "{how}: untouched");
        let mut told = 0;
        for (harm, change) in HARMS {
            told += u64::from(judge(&format!("{how}, {harm}"), &harmed(&disk, change)));
        }
        // Where the mark that is left says the same, as after a clean close, all is known.
        let newest = Mark::newest(&disk.files()["MARK"]).0.unwrap();
        let bears = if Mark::slot_offset(newest.sequence) == 0 { 6 } else { 7 };
        assert_eq!(told, if how == "closed" { 4 } else { bears }, "{how}");
        let without = disk.after_kill();
        let mut files = without.files();
        files.remove("MARK");
        assert!(judge(&format!("{how}, deleted"), &SimDisk::from_files(&files)), "{how}: deleted");
    }
}

#[test]
fn each_bit_of_the_newest_slot_is_told_or_bears_on_nothing() {
    let [_, (_, disk)] = stores();
    let newest = Mark::newest(&disk.files()["MARK"]).0.unwrap();
    let at = Mark::slot_offset(newest.sequence) as usize;
    let mut told = 0;
    for byte in 0..MARK_SLOT_LEN {
        let disk = disk.after_kill();
        disk.damage("MARK", |bytes| bytes[at + byte] ^= 1 << (byte % 8));
        match options().open_read_only_storage(Arc::new(disk)) {
            Ok(store) => assert_eq!(count(&store.reader()), EVENTS, "byte {byte}"),
            Err(Error::Corrupt(what)) => {
                assert_eq!((what.file.as_str(), what.offset), ("MARK", at as u64), "byte {byte}");
                told += 1;
            }
            Err(Error::Unsupported { file, .. }) => assert_eq!(file, "MARK", "byte {byte}"),
            Err(error) => panic!("byte {byte}: {error}"),
        }
    }
    assert!(told > 100, "{told}");
}

/// Before its first commit a store has one mark, or none that a crash left: nothing is hidden by that.
#[test]
fn a_store_without_events_opens_whatever_its_mark_is() {
    let disk = SimDisk::new();
    options().open_storage(Arc::new(disk.clone())).unwrap().close().unwrap();
    for (harm, change) in HARMS {
        let store = options().open_read_only_storage(Arc::new(harmed(&disk, change)));
        let store = store.unwrap_or_else(|error| panic!("{harm}: {error}"));
        assert_eq!(store.reader().head(), 0, "{harm}");
    }
}

/// A kill may cut the writing of a mark: who follows waits for the next writer, and loses nothing.
#[test]
fn who_follows_already_outlives_a_torn_mark() {
    let disk = SimDisk::new();
    let store = filled(&disk);
    let follower = options().follow_storage(Arc::new(disk.clone())).unwrap();
    assert_eq!(count(&follower.reader()), EVENTS);
    let newest = Mark::newest(&disk.files()["MARK"]).0.unwrap();
    drop(store);
    let next = Mark::slot_offset(newest.sequence + 1) as usize;
    disk.damage("MARK", |bytes| bytes[next + 64..next + 100].fill(0x5A));
    follower.refresh().unwrap();
    assert_eq!(count(&follower.reader()), EVENTS);
    let store = options().open_storage(Arc::new(disk.clone())).unwrap();
    store.append("s", Expect::Any, &[NewEvent::new("T", "more")]).unwrap();
    assert!(follower.wait_beyond(EVENTS, Duration::from_secs(20)).unwrap() > EVENTS);
    assert_eq!(count(&follower.reader()), EVENTS + 1);
}

/// What is copied is what was durable: not less because `MARK` was lost, though the written view is asked for.
#[test]
fn no_fork_and_no_backup_is_shorter_because_a_mark_was_lost() {
    let [_, (_, disk)] = stores();
    let disk = harmed(&disk, HARMS[8].1);
    let store = options().view(View::Written).open_read_only_storage(Arc::new(disk.clone())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let forked = store.fork_to_storage(&Memory::new(), &ForkOptions::new());
    let backed_up = store.backup_with(dir.path().join("backup"), &BackupOptions::new(), &mut |_, _| {});
    for answer in [forked.map(drop), backed_up.map(drop)] {
        assert!(matches!(&answer, Err(Error::Corrupt(told)) if told.file == "MARK"), "{answer:?}");
    }
    // Once it is mended, by another, a look again knows.
    drop(options().open_storage(Arc::new(disk.clone())).unwrap());
    let mut store = store;
    store.refresh().unwrap();
    assert_eq!(store.fork_to_storage(&Memory::new(), &ForkOptions::new()).unwrap().head, EVENTS);
}

/// The opening for writing mends it at once, not its first sync or its close: what is appended then is read beside it.
#[test]
fn beside_a_writer_that_has_mended_it_the_mark_is_whole() {
    for (how, disk) in stores() {
        for (harm, change) in HARMS {
            let disk = harmed(&disk, change);
            let options = || Options::new().background(false).sync_interval(Duration::from_secs(3_600));
            let store = options().open_storage(Arc::new(disk.clone())).unwrap();

            store.append_with("s", Expect::Any, &[NewEvent::new("T", "more")], Durability::Buffered).unwrap();
            let beside = options().open_read_only_storage(Arc::new(disk.clone()));
            let beside = beside.unwrap_or_else(|error| panic!("{how}, {harm}: {error}"));
            assert_eq!(count(&beside.reader()), EVENTS, "{how}, {harm}");
            drop(store);
        }
    }
}
