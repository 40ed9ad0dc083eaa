//! Snapshots that go along with a log: into forks, restored and repaired stores, and backups.

use std::io::IoSlice;

use annals_format::manifest::{Manifest, SnapshotFileEntry};
use annals_format::snapshot::{SNAPSHOT_HEADER_LEN, SnapshotFileHeader, SnapshotFrame};

use super::file::{Range, SnapshotFile, file_name, file_number};
use super::write::make_for;
use crate::Result;
use crate::error::{Corrupt, Error};
use crate::founding::not_made;
use crate::log::page_ceiling;
use crate::manifest::load_current;
use crate::options::ReadMode;
use crate::recovery::list;
use crate::storage::{Access, Fill, Storage};

const LEN_MAX: u64 = 64 << 20;
/// How often files that a clean-up took meanwhile are looked for anew.
const TRIES: usize = 20;
const BACKUP_PREFIX: &str = "snapshots-";

/// What was carried over.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// The new store's files.
    pub(crate) entries: Vec<SnapshotFileEntry>,
    /// Bytes of frames.
    pub(crate) bytes: u64,
}

/// What is damaged is not carried.
pub(crate) fn refuse(corrupt: Corrupt) -> Result<()> {
    Err(Error::Corrupt(Box::new(corrupt)))
}

/// The files of a store that may be open for writing, held open: they stay readable when a clean-up removes them.
pub(crate) fn files_of(storage: &dyn Storage, manifest: &Manifest) -> Result<Vec<SnapshotFile>> {
    let mut listed = manifest.snapshots.clone();
    for tries in 0.. {
        let open = |entry: &SnapshotFileEntry| SnapshotFile::open(storage, *entry, &manifest.store, ReadMode::Pread);
        match listed.iter().map(open).collect() {
            Ok(files) => return Ok(files),
            Err(Error::Corrupt(_)) if tries < TRIES => {
                let now = load_current(storage).ok().flatten().map(|manifest| manifest.snapshots);
                match now {
                    Some(now) if now != listed => listed = now,
                    _ => return listed.iter().map(open).collect(),
                }
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("the loop ends by returning")
}

/// Every file in the directory that says that it is one of this store, whatever a manifest lists.
pub(crate) fn files_found(storage: &dyn Storage, manifest: &Manifest) -> Result<Vec<SnapshotFile>> {
    let mut numbers: Vec<u64> = list(storage)?.iter().filter_map(|name| file_number(name)).collect();
    numbers.sort_unstable();
    let mut files = Vec::new();
    for number in numbers {
        let listed = manifest.snapshots.iter().find(|entry| entry.number == number).copied();
        let found = || -> Option<SnapshotFileEntry> {
            let bytes = read_start(storage, &file_name(number))?;
            let header = SnapshotFileHeader::decode(&bytes).ok().filter(|header| header.store == manifest.store)?;
            let end = SNAPSHOT_HEADER_LEN as u64;
            Some(SnapshotFileEntry { number, id: header.id, len: header.len, end, frame_count: 0, is_ended: false })
        };
        if let Some(entry) = listed.or_else(found)
            && let Ok(file) = SnapshotFile::open(storage, entry, &manifest.store, ReadMode::Pread)
        {
            files.push(file);
        }
    }
    Ok(files)
}

fn read_start(storage: &dyn Storage, name: &str) -> Option<[u8; SNAPSHOT_HEADER_LEN]> {
    let mut bytes = [0; SNAPSHOT_HEADER_LEN];
    let got = storage.open(name, Access::Read).ok()?.read_at(0, &mut bytes).ok()?;
    (got == bytes.len()).then_some(bytes)
}

/// Which frames of the files are carried: those of positions up to `upto`, each verified. What is damaged goes to `damaged`.
fn survey(
    files: &[SnapshotFile],
    store: &[u8; 16],
    upto: u64,
    damaged: &mut dyn FnMut(Corrupt) -> Result<()>,
) -> Result<Vec<(usize, u64, u64)>> {
    let mut places = Vec::new();
    for (index, file) in files.iter().enumerate() {
        file.check_header(store)?.into_iter().try_for_each(&mut *damaged)?;
        let len = file.file.len().map_err(Error::io("measure", &file.name))?;
        let whole = file.whole();
        let range = Range { verify: true, limit: whole.limit.min(len), ..whole };
        let scanned = file.scan(range, &mut |offset, frame| {
            if frame.position <= upto {
                places.push((index, offset, frame.len()));
            }
        })?;
        scanned.damage.into_iter().try_for_each(&mut *damaged)?;
    }
    Ok(places)
}

/// Writes the snapshots of positions up to `upto` anew, for a store with the id `to`. Without a target they are
/// verified and counted only.
pub(crate) fn carry(
    files: &[SnapshotFile],
    from: &[u8; 16],
    upto: u64,
    target: Option<(&dyn Storage, &[u8; 16], u64)>,
    damaged: &mut dyn FnMut(Corrupt) -> Result<()>,
) -> Result<Carried> {
    let places = survey(files, from, upto, damaged)?;
    let mut carried = Carried::default();
    let Some((storage, to, now)) = target else {
        carried.bytes = places.iter().map(|(_, _, frame_len)| frame_len).sum();
        return Ok(carried);
    };
    let mut rest = &places[..];
    while !rest.is_empty() {
        let mut len = SNAPSHOT_HEADER_LEN as u64;
        let mut count = 0;
        for (_, _, frame_len) in rest {
            if count > 0 && len + frame_len > LEN_MAX {
                break;
            }
            (len, count) = (len + frame_len, count + 1);
        }
        let (these, others) = rest.split_at(count);
        rest = others;
        let number = carried.entries.len() as u64 + 1;
        let name = file_name(number);
        let (file, mut entry) = make_for(storage, &name, number, page_ceiling(len), to, now)?;
        let made = SnapshotFile::of(file.clone(), name.clone(), entry, to, ReadMode::Pread);
        let mut staging = Vec::new();
        for (index, offset, frame_len) in these {
            let source = &files[*index];
            let (map, begin) = source.hold(*offset, *frame_len as usize)?;
            let bytes = &map[begin..begin + *frame_len as usize];
            let wrong = |fault| Error::damaged(&source.name, *offset, None, &fault, 0);
            let frame = SnapshotFrame::decode(bytes, source.seed, *offset).map_err(wrong)?;
            let stored = frame.check_state(&bytes[frame.header_len()..], source.seed, *offset).map_err(wrong)?;
            staging.clear();
            SnapshotFrame { synced_upto: 0, ..frame }.encode(made.seed, entry.end, stored, &mut staging);
            file.write_at(entry.end, &[IoSlice::new(&staging)]).map_err(Error::io("write", &name))?;
            entry.end += staging.len() as u64;
            entry.frame_count += 1;
            carried.bytes += staging.len() as u64;
        }
        entry.is_ended = true;
        file.sync().map_err(Error::io("sync", &name))?;
        carried.entries.push(entry);
    }
    Ok(carried)
}

/// Name of a backup's copy of a file of snapshots up to its end.
pub(crate) fn backup_file_name(entry: &SnapshotFileEntry) -> String {
    format!("{BACKUP_PREFIX}{:032x}-{:020}", u128::from_be_bytes(entry.id), entry.end)
}

/// Whether a backup gives a file this name.
pub(crate) fn is_backup_file(name: &str) -> bool {
    let Some((id, end)) = name.strip_prefix(BACKUP_PREFIX).and_then(|rest| rest.split_once('-')) else { return false };
    let is_hex = id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    id.len() == 32 && is_hex && end.len() == 20 && end.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a backup did with a file.
pub(crate) struct BackedUp {
    pub(crate) entry: SnapshotFileEntry,
    pub(crate) is_new: bool,
}

/// Copies what a backup does not hold yet of a store's snapshots, verified on the way. `held` are those of the point before.
pub(crate) fn backup(
    source: &dyn Storage,
    manifest: &Manifest,
    held: &[SnapshotFileEntry],
    directory: Option<&dyn Storage>,
    target: Option<&dyn Storage>,
) -> Result<Vec<BackedUp>> {
    let mut answer = Vec::new();
    for file in files_of(source, manifest)? {
        file.check_header(&manifest.store)?.map_or(Ok(()), refuse)?;
        let scanned = file.scan(Range { verify: true, ..file.whole() }, &mut |_, _| {})?;
        scanned.damage.into_iter().try_for_each(refuse)?;
        let entry =
            SnapshotFileEntry { end: scanned.end, frame_count: scanned.frame_count, is_ended: true, ..file.entry };
        let name = backup_file_name(&entry);
        let is_there = |directory: &dyn Storage| {
            directory.open(&name, Access::Read).and_then(|file| file.len()).is_ok_and(|len| len == entry.end)
        };
        let is_held = held.iter().any(|known| (known.id, known.end) == (entry.id, entry.end));
        let is_new = !(is_held && directory.is_some_and(is_there));
        if let Some(target) = target.filter(|_| is_new) {
            let bytes = read_up_to(&file, entry.end)?;
            let beside = format!("{name}.new");
            let copy = target.create(&beside, entry.end, Fill::Allocated).map_err(not_made(&beside))?;
            copy.write_at(0, &[IoSlice::new(&bytes)]).map_err(Error::io("write", &beside))?;
            copy.sync().map_err(Error::io("sync", &beside))?;
            target.rename(&beside, &name).map_err(Error::io("rename", &name))?;
        }
        answer.push(BackedUp { entry, is_new });
    }
    Ok(answer)
}

fn read_up_to(file: &SnapshotFile, end: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; end as usize];
    let got = file.file.read_at(0, &mut bytes).map_err(Error::io("read", &file.name))?;
    if got < bytes.len() {
        return Err(Error::corrupt(&file.name, got as u64, None, "the file ends here"));
    }
    Ok(bytes)
}

/// The files that a point of a backup names.
pub(crate) fn files_of_backup(backup: &dyn Storage, manifest: &Manifest) -> Result<Vec<SnapshotFile>> {
    let open = |entry: &SnapshotFileEntry| {
        let name = backup_file_name(entry);
        SnapshotFile::open_named(backup, name, *entry, &manifest.store, ReadMode::Pread)
    };
    manifest.snapshots.iter().map(open).collect()
}
