//! A new store in a new directory, made from the log of another: what forks, restores and repairs have in common.
//!
//! The directory is marked by a file before anything else stands in it, and the manifest is written last: that is the
//! moment of the store's birth. Whatever is left of a run that did not come so far is no store, and says so.

mod anew;
mod carried;

use std::io::IoSlice;

use annals_format::checksum::Identity;
use annals_format::manifest::{AncestorEntry, IncarnationEntry, Manifest, SegmentEntry};
use annals_format::mark::{MARK_LEN, Mark};
use annals_format::ring::{RING_HEADER_LEN, RingHeader};

use crate::batches::{Front, SegmentFile, copy_container, copy_segment};
use crate::compacted;
use crate::consumer;
use crate::error::Error;
use crate::manifest;
use crate::mark::MARK_NAME;
use crate::prepare::{index_name, is_container_name, no_room, segment_number};
use crate::recovery::ring_image::RING_NAME;
use crate::recovery::{is_denied, list, lock_refused};
use crate::snapshot::is_file_of_snapshots;
use crate::storage::{Access, Fill, LOCK_NAME, LockGuard, Share, Storage};
use crate::tiers::is_index_name;
use crate::{Result, VERSION};

pub(crate) use anew::{Anew, Live, Plan, last_time_of};
pub(crate) use carried::{LastRevisions, LaterRemovals};

/// Says that a directory is to become a store and is none yet.
pub(crate) const UNFINISHED_NAME: &str = "UNFINISHED";

const UNFINISHED_TEXT: &[u8] =
    b"A fork, restore or repair into this directory has begun. While no manifest stands here, \
it is no store: run the same again, or remove the directory.\n";

/// Length of the ring that a new store begins with; an opening makes another if it wants to.
const RING_LEN: u64 = 64 << 10;

/// How a file of the log comes from one store into another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Shared where the file system can: by reflink, else by hard link, else copied. A hard link is the same file, so damage
    /// to it, or somebody who writes it by hand, meets both stores; neither library ever does.
    #[default]
    Any,
    /// Shared by reflink where the file system can, else copied: both have files of their own.
    Reflink,
    /// Copied, and verified on the way.
    Copy,
}

impl Sharing {
    fn ways(self) -> &'static [Share] {
        match self {
            Self::Any => &[Share::Reflink, Share::HardLink],
            Self::Reflink => &[Share::Reflink],
            Self::Copy => &[],
        }
    }
}

/// How a file came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Shared,
    Copied,
}

/// Takes file `name` of `from` in, sharing its bytes as far as that is wanted and can be.
pub(crate) fn share(from: &dyn Storage, name: &str, to: &dyn Storage, as_name: &str, sharing: Sharing) -> bool {
    sharing.ways().iter().any(|how| to.share(from, name, as_name, *how).is_ok())
}

/// A directory that is becoming a store.
pub(crate) struct Founding<'a> {
    pub(crate) storage: &'a dyn Storage,
    _lock: LockGuard,
}

/// Whether a directory with these entries may become a store: it is empty, or a run before was not finished.
pub(crate) fn check_free(names: &[String]) -> Result<()> {
    if names.iter().any(|name| manifest::generation_of(name).is_some()) {
        return Err(Error::occupied("it holds a store"));
    }
    let is_unfinished = names.iter().any(|name| name == UNFINISHED_NAME);
    let may_stay = |name: &str| name == LOCK_NAME || (is_unfinished && is_unfinished_file(name));
    match names.iter().find(|name| !may_stay(name)) {
        Some(name) => Err(Error::occupied(format!("it holds {name:?}"))),
        None => Ok(()),
    }
}

fn is_unfinished_file(name: &str) -> bool {
    let whole = name.strip_suffix(".new").unwrap_or(name);
    let is_manifest = name != whole && manifest::generation_of(whole).is_some();
    [UNFINISHED_NAME, MARK_NAME, RING_NAME].contains(&name)
        || is_manifest
        || segment_number(whole).is_some()
        || is_container_name(whole)
        || is_file_of_snapshots(whole)
        // An upgrade takes these over as well.
        || is_index_name(whole)
        || consumer::is_file_name(whole)
        || (name != whole && [MARK_NAME, RING_NAME].contains(&whole))
}

/// What a file that cannot be made answers.
pub(crate) fn not_made(name: &str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| {
        if is_denied(&error) {
            return Error::ReadOnly { reason: format!("{name}: {error}") };
        }
        no_room(name, error)
    }
}

impl<'a> Founding<'a> {
    /// Marks the directory, and removes what a run before left in it.
    ///
    /// # Errors
    /// `Occupied` if it holds anything else; `Locked` if another run is at work in it.
    pub(crate) fn begin(storage: &'a dyn Storage) -> Result<Self> {
        check_free(&list(storage)?)?;
        let lock = storage.lock().map_err(lock_refused)?;
        let names = list(storage)?;
        check_free(&names)?;
        if !names.iter().any(|name| name == UNFINISHED_NAME) {
            let file = storage
                .create(UNFINISHED_NAME, UNFINISHED_TEXT.len() as u64, Fill::Allocated)
                .map_err(not_made(UNFINISHED_NAME))?;
            file.write_at(0, &[IoSlice::new(UNFINISHED_TEXT)]).map_err(Error::io("write", UNFINISHED_NAME))?;
            file.sync().map_err(Error::io("sync", UNFINISHED_NAME))?;
        }
        // Durable before any other file: whatever is found beside it then is explained by it.
        storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
        for name in names.iter().filter(|name| ![LOCK_NAME, UNFINISHED_NAME].contains(&name.as_str())) {
            storage.remove(name).map_err(Error::io("remove", name))?;
        }
        Ok(Self { storage, _lock: lock })
    }

    /// Takes a listed segment over from another store, its index too where that can be shared.
    pub(crate) fn take_over(
        &self,
        from: &dyn Storage,
        entry: &SegmentEntry,
        time: u64,
        sharing: Sharing,
    ) -> Result<Came> {
        let name = compacted::name_of(entry);
        let there = from.open(&name, Access::Read).and_then(|file| file.len());
        let is_whole = there.is_ok_and(|len| len == entry.file_len());
        if is_whole && share(from, &name, self.storage, &name, sharing) {
            let index = index_name(entry.number);
            // Derived: where it is missing it is made anew.
            let _ = share(from, &index, self.storage, &index, sharing);
            self.sync_file(&name)?;
            return Ok(Came::Shared);
        }
        let copy = self.storage.create(&name, entry.file_len(), Fill::Allocated).map_err(not_made(&name))?;
        if entry.compacted.is_some() {
            let file = from.open(&name, Access::Read).map_err(Error::io("open", &name))?;
            copy_container(file, entry, time, Front::new(copy, &name), &name)?;
        } else {
            copy_segment(&SegmentFile::open(from, &name)?, entry, time, copy, &name)?;
        }
        Ok(Came::Copied)
    }

    fn sync_file(&self, name: &str) -> Result<()> {
        let file = self.storage.open(name, Access::Read).map_err(Error::io("open", name))?;
        file.sync().map_err(Error::io("sync", name))
    }

    /// Makes the store's other files, and then its manifest, whose segments are durable: the store is born.
    pub(crate) fn finish(self, manifest: &Manifest, live: &Live) -> Result<()> {
        let storage = self.storage;
        let incarnation = live.header.identity.incarnation;
        let mark = Mark {
            store: manifest.store,
            incarnation,
            sequence: 1,
            manifest_generation: manifest.generation,
            segment: live.header.identity.segment,
            offset: live.end,
            position: live.last_position,
            recorded_at: live.last_time,
            clean: true,
        };
        let file = storage.create(MARK_NAME, MARK_LEN as u64, Fill::Zeroed).map_err(not_made(MARK_NAME))?;
        file.write_at(Mark::slot_offset(mark.sequence), &[IoSlice::new(&mark.encode())])
            .map_err(Error::io("write", MARK_NAME))?;
        file.sync().map_err(Error::io("sync", MARK_NAME))?;
        let ring = RingHeader {
            store: manifest.store,
            incarnation,
            session: 1,
            ring_len: RING_LEN,
            first_segment: live.header.identity.segment,
            holds_log: false,
        };
        let file =
            storage.create(RING_NAME, RING_HEADER_LEN as u64 + RING_LEN, Fill::Zeroed).map_err(not_made(RING_NAME))?;
        file.write_at(RingHeader::slot_offset(ring.session), &[IoSlice::new(&ring.encode())])
            .map_err(Error::io("write", RING_NAME))?;
        file.sync().map_err(Error::io("sync", RING_NAME))?;
        storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
        manifest::save(storage, manifest)?;
        // The store is there, and whatever fails from here on the next opening makes good. The manifest before the newest
        // is kept in every store, so that one that is damaged can be repaired from it.
        let _ = manifest::save(storage, &Manifest { generation: manifest.generation + 1, ..manifest.clone() });
        self.unmark();
        Ok(())
    }

    /// The store is there: the mark that it is not goes. One that stays is removed by the next opening.
    pub(crate) fn unmark(self) {
        let _ = self.storage.remove(UNFINISHED_NAME).and_then(|()| self.storage.sync_dir());
    }
}

/// The incarnations of a store that shares the log of another up to `last`, and goes on with `fresh`: what the other wrote
/// beyond is cut off, so that whoever saw it is told.
pub(crate) fn incarnations(of: &[IncarnationEntry], last: u64, fresh: [u8; 16]) -> Vec<IncarnationEntry> {
    let cut = |entry: &IncarnationEntry| IncarnationEntry {
        incarnation: entry.incarnation,
        first_position: entry.first_position.min(last + 1),
    };
    let goes_on = IncarnationEntry { incarnation: fresh, first_position: last + 1 };
    of.iter().map(cut).chain([goes_on]).collect()
}

/// The manifest of a store that goes on from `before` after position `last`, of which `segments` are listed.
pub(crate) fn heir(before: &Manifest, segments: Vec<SegmentEntry>, last: u64, live: &Identity) -> Manifest {
    let cut = |entry: &AncestorEntry| AncestorEntry { last_position: entry.last_position.min(last), ..*entry };
    let mut segments = segments;
    // Removals that are to come behind the last position were not looked at.
    segments.iter_mut().filter_map(|entry| entry.compacted.as_mut()).for_each(|container| {
        container.removed_upto = container.removed_upto.min(last);
    });
    let mut lost = before.lost.clone();
    lost.retain(|range| range.first_position <= last);
    if let Some(range) = lost.last_mut() {
        range.last_position = range.last_position.min(last);
    }
    Manifest {
        store: live.store,
        generation: before.generation + 1,
        written_by: VERSION,
        next_segment: live.segment + 1,
        incarnations: incarnations(&before.incarnations, last, live.incarnation),
        segments,
        ancestors: before.ancestors.iter().map(cut).collect(),
        lost,
        // Those that go along are written anew.
        snapshots: Vec::new(),
        ..before.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::segment_name;

    fn entry(id: u8, first_position: u64) -> IncarnationEntry {
        IncarnationEntry { incarnation: [id; 16], first_position }
    }

    /// Whether a checkpoint is good, as the rule says: its incarnation is listed, and it lies before the next entry's first.
    fn is_good(list: &[IncarnationEntry], id: u8, position: u64) -> bool {
        let at = list.iter().position(|entry| entry.incarnation == [id; 16]);
        at.is_some_and(|at| list.get(at + 1).is_none_or(|next| position < next.first_position))
    }

    #[test]
    fn checkpoints_beyond_the_moment_are_refused_and_those_before_are_good() {
        let of = [entry(1, 1), entry(2, 101), entry(3, 201)];
        let list = incarnations(&of, 150, [9; 16]);
        assert_eq!(list, [entry(1, 1), entry(2, 101), entry(3, 151), entry(9, 151)]);
        // Seen by the first opening, and still there in the second: as in the store itself.
        assert!(is_good(&list, 1, 100) && !is_good(&list, 1, 101));
        assert!(is_good(&list, 2, 150) && !is_good(&list, 2, 151));
        // A consumer that was behind when the third opening wrote its checkpoint.
        assert!(is_good(&list, 3, 150) && !is_good(&list, 3, 201));
        assert!(is_good(&list, 9, 151) && is_good(&list, 9, 10_000));
        assert_eq!(incarnations(&of, 0, [9; 16])[1..], [entry(2, 1), entry(3, 1), entry(9, 1)]);
    }

    #[test]
    fn only_an_empty_directory_or_an_unfinished_one_is_free() {
        let check = |names: &[&str]| check_free(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert!(check(&[]).is_ok());
        assert!(check(&["LOCK"]).is_ok());
        let segment = segment_name(3);
        let index = index_name(3);
        let beside = format!("{}.new", manifest::file_name(4));
        assert!(check(&["LOCK", UNFINISHED_NAME, &segment, &index, &beside, "MARK", "RING"]).is_ok());
        for names in [
            &["notes"][..],
            &[&segment],
            &["MARK"],
            &[UNFINISHED_NAME, "notes"],
            &[UNFINISHED_NAME, &manifest::file_name(4)],
            &[&manifest::file_name(1)],
        ] {
            assert!(matches!(check(names), Err(Error::Occupied { .. })), "{names:?}");
        }
    }
}
