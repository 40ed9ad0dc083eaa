use std::collections::BTreeSet;
use std::io::IoSlice;

use super::*;

fn write(file: &dyn StorageFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(offset, &[IoSlice::new(bytes)])
}

/// A disk with one durable file of so many zeros.
fn disk_with(name: &str, len: u64) -> (SimDisk, Arc<dyn StorageFile>) {
    let disk = SimDisk::new();
    let file = disk.create(name, len, Fill::Zeroed).unwrap();
    file.sync().unwrap();
    disk.sync_dir().unwrap();
    (disk, file)
}

/// What a file may look like after a power cut; `None` where it has no name.
fn outcomes(disk: &SimDisk, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..400).map(|seed| disk.after_power_loss(seed).files().remove(name)).collect()
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.files().into_keys().collect()
}

#[test]
fn synced_content_under_a_synced_name_stays() {
    let (disk, file) = disk_with("a", 2000);
    write(&*file, 100, &[7; 1500]).unwrap();
    file.sync().unwrap();
    assert_eq!(disk.unsynced(), 0);
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(disk.files().remove("a").unwrap())]));
}

#[test]
fn an_unsynced_sector_may_be_lost_while_its_neighbour_survives() {
    let (disk, file) = disk_with("a", 1024);
    write(&*file, 0, &[1; 1024]).unwrap();
    let found = outcomes(&disk, "a");
    for (first, second) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        let expected = [[first; 512], [second; 512]].concat();
        assert!(found.contains(&Some(expected)), "{first} {second}");
    }
    assert!(found.len() > 4, "a write is also torn inside a sector");
}

#[test]
fn a_sector_is_as_after_one_of_its_writes() {
    let (disk, file) = disk_with("a", 512);
    write(&*file, 0, &[1; 8]).unwrap();
    write(&*file, 8, &[2; 8]).unwrap();
    write(&*file, 0, &[3; 8]).unwrap();
    let whole = |a, b| Some([[a; 8], [b; 8]].concat());
    let heads: BTreeSet<_> = outcomes(&disk, "a").into_iter().map(|file| file.map(|f| f[..16].to_vec())).collect();
    for version in [whole(0, 0), whole(1, 0), whole(1, 2), whole(3, 2)] {
        assert!(heads.contains(&version), "{version:?}");
    }
    assert!(!heads.contains(&whole(0, 2)), "the device gets whole sectors of the cache");
}

#[test]
fn an_unsynced_name_may_be_lost_and_its_file_may_be_short() {
    let disk = SimDisk::new();
    let file = disk.create("a", 8192, Fill::Zeroed).unwrap();
    let found = outcomes(&disk, "a");
    assert!(found.contains(&None));
    assert!(found.contains(&Some(vec![])));
    assert!(found.contains(&Some(vec![0; 4096])));
    assert!(found.contains(&Some(vec![0; 8192])));
    file.sync().unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None, Some(vec![0; 8192])]));
    disk.sync_dir().unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(vec![0; 8192])]));
}

#[test]
fn a_removed_file_may_come_back_until_the_directory_is_synced() {
    let (disk, file) = disk_with("a", 512);
    write(&*file, 0, b"kept").unwrap();
    file.sync().unwrap();
    let content = file_content(&*file);
    disk.remove("a").unwrap();
    assert!(disk.list().unwrap().is_empty());
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None, Some(content)]));
    disk.sync_dir().unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None]));
    write(&*file, 0, b"open").expect("a removed file is still written to");
}

fn file_content(file: &dyn StorageFile) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_rename_happens_whole_or_not_at_all() {
    let (disk, file) = disk_with("a", 1);
    write(&*file, 0, b"1").unwrap();
    file.sync().unwrap();
    let new = disk.create("a.new", 1, Fill::Allocated).unwrap();
    write(&*new, 0, b"2").unwrap();
    new.sync().unwrap();
    disk.rename("a.new", "a").unwrap();
    let found: BTreeSet<_> =
        (0..400).map(|seed| disk.after_power_loss(seed).files().into_iter().collect::<Vec<_>>()).collect();
    let old = ("a".to_owned(), b"1".to_vec());
    let beside = ("a.new".to_owned(), b"2".to_vec());
    let renamed = ("a".to_owned(), b"2".to_vec());
    assert_eq!(found, BTreeSet::from([vec![old.clone()], vec![old, beside], vec![renamed]]));
}

#[test]
fn a_failed_sync_gives_up_what_the_next_one_claims() {
    let (disk, file) = disk_with("a", 1024);
    write(&*file, 0, &[1; 1024]).unwrap();
    disk.fail_at(disk.steps(), FaultKind::SyncFail, Repeat::Once);
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
    file.sync().expect("the pages are clean");
    assert_eq!(file_content(&*file), [1; 1024], "the cache shows them");
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(vec![0; 1024])]), "the disk lacks them");
    assert_eq!(disk.after_kill().files()["a"], [1; 1024]);
    assert_eq!(disk.after_kill().after_power_loss(1).files()["a"], [0; 1024]);

    write(&*file, 0, &[2; 1]).unwrap();
    file.sync().unwrap();
    let expected = [&[2][..], &[1; 511], &[0; 512]].concat();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(expected)]), "a sector written again is dirty again");
}

#[test]
fn a_failed_sync_gives_up_stores_to_a_ring_as_well() {
    let (disk, file) = disk_with("RING", 1024);
    let ring = file.map_shared().unwrap();
    ring.store(0, &[1; 1024]);
    disk.fail_at(disk.steps(), FaultKind::SyncFail, Repeat::Once);
    file.sync().unwrap_err();
    file.sync().unwrap();
    ring.store(512, &[2; 8]);
    file.sync().unwrap();
    let expected = [&[0; 512][..], &[2; 8], &[1; 504]].concat();
    assert_eq!(outcomes(&disk, "RING"), BTreeSet::from([Some(expected)]));
}

#[test]
fn ring_sectors_are_of_any_moment_since_the_sync() {
    let (disk, file) = disk_with("RING", 2048);
    let ring = file.map_shared().unwrap();
    let mut found = BTreeSet::new();
    for lap in 1..=80 {
        ring.store(0, &[lap; 2048]);
        disk.list().unwrap();
    }
    for seed in 0..400 {
        let file = disk.after_power_loss(seed).files().remove("RING").unwrap();
        let sectors: Vec<u8> = file.chunks(512).map(|sector| sector[0]).collect();
        assert!(file.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])), "sectors are whole");
        found.insert(sectors);
    }
    assert!(found.contains(&vec![0; 4]) && found.contains(&vec![80; 4]));
    assert!(found.iter().flatten().any(|lap| !matches!(lap, 0 | 80)), "older laps come up");
    assert!(found.iter().any(|sectors| sectors.iter().collect::<BTreeSet<_>>().len() > 2), "and are mixed");
    file.sync().unwrap();
    assert_eq!(outcomes(&disk, "RING"), BTreeSet::from([Some(vec![80; 2048])]));
}

#[test]
fn what_is_stored_after_the_cut_never_happened() {
    let (disk, file) = disk_with("RING", 512);
    let ring = file.map_shared().unwrap();
    ring.store(0, &[1; 512]);
    disk.cut_at(disk.steps());
    assert!(is_power_off(&disk.sync_dir().unwrap_err()));
    ring.store(0, &[2; 512]);
    assert_eq!(outcomes(&disk, "RING"), BTreeSet::from([Some(vec![0; 512]), Some(vec![1; 512])]));
    assert_eq!(disk.after_kill().files()["RING"], [1; 512]);
}

#[test]
fn a_kill_loses_nothing_but_the_lock() {
    let (disk, file) = disk_with("a", 512);
    let guard = disk.lock().unwrap();
    assert!(matches!(disk.lock(), Err(LockError::Held { .. })));
    write(&*file, 0, b"unsynced").unwrap();
    disk.create("b", 10, Fill::Allocated).unwrap();
    let next = disk.after_kill();
    drop(next.lock().unwrap());
    assert_eq!(next.files(), disk.files());
    assert_eq!(next.unsynced(), 2, "what was not synced still is not");
    assert_eq!(outcomes(&next, "b"), outcomes(&disk, "b"));
    write(&*file, 0, b"the dead write no more").unwrap();
    assert_eq!(&next.files()["a"][..8], b"unsynced");
    drop(guard);
    drop(disk.lock().unwrap());
}

#[test]
fn every_operation_can_be_cut_and_all_after_it_fail() {
    let work = |disk: &SimDisk| -> io::Result<()> {
        disk.list()?;
        let file = disk.create("a.new", 1024, Fill::Zeroed)?;
        write(&*file, 0, &[1; 600])?;
        file.sync()?;
        disk.rename("a.new", "a")?;
        disk.sync_dir()?;
        disk.open("a", Access::Read)?.read_at(0, &mut [0; 8])?;
        file.map()?;
        file.map_shared()?;
        disk.remove("a")
    };
    let whole = SimDisk::new();
    work(&whole).unwrap();
    assert_eq!(whole.steps(), 11);
    assert_eq!(whole.table().values().sum::<u64>(), 11);
    let mut calls = Vec::new();
    for step in 0..whole.steps() {
        let disk = SimDisk::new();
        disk.cut_at(step);
        assert!(is_power_off(&work(&disk).unwrap_err()), "step {step}");
        let cut = disk.cut().unwrap();
        assert_eq!((cut.step, disk.steps()), (step, step + 1));
        calls.push(cut.call);
        assert!(is_power_off(&disk.list().unwrap_err()));
        assert!(matches!(disk.lock(), Err(LockError::Io(error)) if is_power_off(&error)));
        assert_eq!(disk.unsynced(), cut.unsynced);
        // The machine comes up again, in every case.
        for seed in 0..20 {
            drop(disk.after_power_loss(seed).lock().unwrap());
        }
    }
    use Call::*;
    assert_eq!(calls, [List, Create, Write, Sync, Rename, SyncDir, Open, Read, Map, Map, Remove]);
}

#[test]
fn the_operation_that_is_cut_may_have_happened() {
    let (disk, file) = disk_with("a", 512);
    disk.cut_at(disk.steps());
    assert!(is_power_off(&write(&*file, 0, &[1; 512]).unwrap_err()));
    assert_eq!(disk.cut().unwrap().unsynced, 1);
    let found = outcomes(&disk, "a");
    assert!(found.contains(&Some(vec![0; 512])) && found.contains(&Some(vec![1; 512])));
}

#[test]
fn faults_fail_as_they_say() {
    let (disk, file) = disk_with("a", 4096);
    let fail = |kind| disk.fail_at(disk.steps(), kind, Repeat::Once);

    fail(FaultKind::Eio);
    assert_eq!(write(&*file, 0, &[1; 10]).unwrap_err().raw_os_error(), Some(5));
    fail(FaultKind::Enospc);
    assert_eq!(write(&*file, 0, &[1; 10]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    fail(FaultKind::Enospc);
    assert_eq!(disk.create("b", 1, Fill::Zeroed).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file_content(&*file), [0; 4096], "nothing was written");
    assert_eq!(names(&disk), ["a"]);

    fail(FaultKind::ShortWrite);
    assert_eq!(write(&*file, 0, &[1; 10]).unwrap_err().kind(), io::ErrorKind::WriteZero);
    assert_eq!(file_content(&*file)[..7], [1, 1, 1, 1, 1, 0, 0]);
    fail(FaultKind::TornWriteHalf);
    write(&*file, 500, &[2; 1500]).unwrap_err();
    let sectors: Vec<u8> =
        [500, 511, 512, 1023, 1024, 1535, 1536, 1999, 2000].map(|at| file_content(&*file)[at]).into();
    assert_eq!(sectors, [2, 2, 0, 0, 2, 2, 0, 0, 0]);

    fail(FaultKind::ReadEio);
    assert!(file.read_at(0, &mut [0; 1]).is_err());
    fail(FaultKind::ReadEio);
    assert!(file.map().is_err());
    fail(FaultKind::ReadEio);
    write(&*file, 0, b"not a way to fail for a write").unwrap();
    assert_eq!(disk.faults_hit(), 7);

    disk.fail_at(disk.steps() + 1, FaultKind::SyncFail, Repeat::Forever);
    assert!(file.sync().is_ok());
    for _ in 0..3 {
        assert!(file.sync().is_err());
        assert!(disk.sync_dir().is_err());
        disk.list().unwrap();
    }
    disk.clear_faults();
    file.sync().unwrap();
}

#[test]
fn a_failed_directory_sync_leaves_names_unsynced() {
    let disk = SimDisk::new();
    disk.create("a", 0, Fill::Allocated).unwrap().sync().unwrap();
    disk.fail_at(disk.steps(), FaultKind::SyncFail, Repeat::Once);
    disk.sync_dir().unwrap_err();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None, Some(vec![])]));
    disk.sync_dir().unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(vec![])]));
}

#[test]
fn a_full_disk_takes_no_file_until_there_is_room() {
    let (disk, _) = disk_with("a", 600);
    disk.set_capacity(Some(1000));
    assert_eq!(disk.create("b", 401, Fill::Allocated).unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.create("b", 400, Fill::Allocated).unwrap();
    disk.remove("a").unwrap();
    disk.create("c", 600, Fill::Allocated).unwrap();
    let next = disk.after_kill();
    assert_eq!(next.create("d", 1, Fill::Allocated).unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn every_subset_of_the_unsynced_changes_can_be_had() {
    let (disk, file) = disk_with("a", 1024);
    write(&*file, 0, &[1; 512]).unwrap();
    write(&*file, 512, &[2; 512]).unwrap();
    let ring = disk.create("RING", 512, Fill::Zeroed).unwrap();
    ring.map_shared().unwrap().store(0, &[3; 512]);
    assert_eq!(disk.unsynced(), 4);
    let mut found = BTreeSet::new();
    for subset in 0..16u32 {
        let files = disk.after_power_loss_with(|index| subset >> index & 1 == 1).files();
        let ring = files.get("RING").map_or(9, |ring| ring[0]);
        found.insert((files["a"][0], files["a"][512], ring));
    }
    let mut expected = BTreeSet::new();
    for (first, second, ring) in [(0, 0, 9), (0, 0, 0), (0, 0, 3)] {
        for (first, second) in [(first, second), (1, second), (first, 2), (1, 2)] {
            expected.insert((first, second, ring));
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = || {
        let (disk, file) = disk_with("a", 4096);
        let ring = disk.create("RING", 1024, Fill::Zeroed).unwrap().map_shared().unwrap();
        for at in 0..30u8 {
            write(&*file, u64::from(at) * 100, &[at; 300]).unwrap();
            ring.store(usize::from(at) * 16, &[at; 64]);
        }
        disk.remove("a").unwrap();
        (0..100).map(|seed| disk.after_power_loss(seed).files()).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn files_are_put_in_taken_out_and_damaged() {
    let files = BTreeMap::from([("a".to_owned(), vec![1, 2, 3]), ("b".to_owned(), vec![])]);
    let disk = SimDisk::from_files(&files);
    assert_eq!(disk.files(), files);
    assert!(disk.damage("a", |bytes| bytes.truncate(1)));
    assert!(!disk.damage("c", |bytes| bytes.clear()));
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(vec![1])]));
    assert_eq!(disk.open("a", Access::Read).unwrap().len().unwrap(), 1);
}

#[test]
fn handles_check_what_the_real_disk_checks() {
    let (disk, file) = disk_with("a", 10);
    assert_eq!(write(&*file, 5, &[1; 6]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(write(&*file, u64::MAX, &[1; 6]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let reader = disk.open("a", Access::Read).unwrap();
    assert_eq!(write(&*reader, 0, &[1]).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(disk.open("b", Access::Read).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.create("a", 1, Fill::Zeroed).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(disk.create("../a", 1, Fill::Zeroed).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let mut buf = [9; 20];
    assert_eq!(reader.read_at(4, &mut buf).unwrap(), 6);
}

#[test]
fn writes_are_told_apart_by_name_and_content() {
    let segment = "segment-00000000000000000001.log";
    let mut sealed = vec![5; 4096];
    sealed.resize(4096 + 128, 0);
    sealed[4096 + 4] = 0xE1;
    sealed[4096 + 8] = 128;
    for (expected, name, offset, bytes) in [
        (WriteKind::Header, segment, 0, &[1; 4096][..]),
        (WriteKind::Batch, segment, 4096, &[1; 100]),
        (WriteKind::Batch, segment, 4096, &[0; 100]),
        (WriteKind::EndMark, segment, 4096, &sealed),
        (WriteKind::EndMark, segment, 0, &[&sealed[..], &[0; 4096]].concat()),
        (WriteKind::Index, "segment-00000000000000000001.idx", 0, &[1]),
        (WriteKind::Index, "segment-00000000000000000001.idx.new", 0, &[1]),
        (WriteKind::Manifest, "manifest-00000000000000000001.new", 0, &[1]),
        (WriteKind::Mark, "MARK", 128, &[1]),
        (WriteKind::Ring, "RING", 0, &[1]),
        (WriteKind::Other, "LOCK", 0, &[1]),
    ] {
        assert_eq!(WriteKind::of_write(name, offset, bytes), expected, "{name} {offset}");
    }
}

/// The disk must find what it is there to find: a log that answers before it has synced loses what it promised.
#[test]
fn a_log_that_does_not_sync_is_caught_and_one_that_does_is_not() {
    let acknowledged_lost = |syncs: bool| {
        let mut lost = 0;
        for cut in 3..40 {
            let (disk, file) = disk_with("log", 4096);
            disk.cut_at(cut);
            let mut acknowledged = 0;
            for at in 0..40u8 {
                let answer = write(&*file, u64::from(at) * 40, &[at + 1; 40])
                    .and_then(|()| if syncs { file.sync() } else { Ok(()) });
                if answer.is_err() {
                    break;
                }
                acknowledged = usize::from(at) + 1;
            }
            for seed in 0..20 {
                let log = &disk.after_power_loss(seed).files()["log"];
                let intact = |at: usize| log[at * 40..][..40].iter().all(|&byte| usize::from(byte) == at + 1);
                lost += usize::from(!(0..acknowledged).all(intact));
            }
        }
        lost
    };
    assert_eq!(acknowledged_lost(true), 0);
    assert!(acknowledged_lost(false) > 100);
}
