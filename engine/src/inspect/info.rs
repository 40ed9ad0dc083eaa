//! The store as a whole.

use std::path::Path;

use annals_format::FORMAT_VERSION;
use annals_format::manifest::{Manifest, SnapshotFileEntry};

use super::survey::{self, End, Survey, Unchanged};
use super::{IndexSizes, StoreInfo};
use crate::Result;
use crate::consumer;
use crate::directory::directory_number;
use crate::error::Error;
use crate::manifest::generation_of;
use crate::options::ReadMode;
use crate::prepare::{is_container_name, segment_number};
use crate::recovery::durability;
use crate::snapshot::{SnapshotFile, file_number};
use crate::storage::{Access, LOCK_NAME, Storage};
use crate::tiers::{INDEX, is_index_name};

pub(super) fn store_info(storage: &dyn Storage) -> Result<StoreInfo> {
    let storage = &Unchanged(storage);
    survey::of_one_moment(storage, |survey, end| of(storage, survey, end))
}

fn of(storage: &dyn Storage, survey: &mut Survey, end: Option<Result<End>>) -> Result<StoreInfo> {
    if survey.manifest().is_none() {
        return match survey.manifests.drain(..).find_map(|(_, manifest)| manifest.err()) {
            Some(error) => Err(error),
            None => Err(Error::corrupt(&crate::manifest::file_name(1), 0, None, "the store's manifest is missing")),
        };
    }
    let manifest = survey.manifest().expect("looked at above");
    let listed_events: u64 = manifest.segments.iter().map(|entry| entry.event_count).sum();
    let listed_head = manifest.segments.last().map_or(0, |entry| entry.last_position);
    let mut info = StoreInfo {
        store_id: manifest.store,
        format_version: FORMAT_VERSION,
        written_by: manifest.written_by,
        created_at: manifest.created_at,
        default_durability: durability(manifest.default_durability),
        limits: manifest.limits,
        segments: manifest.segments.len() as u64,
        events: listed_events,
        head: listed_head,
        durable_head: listed_head,
        bytes_on_disk: 0,
        index_bytes: 0,
        index_sizes: IndexSizes::default(),
        snapshot_bytes: 0,
        snapshots: 0,
        writer_pid: None,
        clean: false,
    };
    info.snapshots = snapshot_count(storage, manifest);
    // A tail that cannot be read at all leaves what the manifest knows.
    if let Some(Ok(end)) = end {
        info.segments += end.tail.segments.len() as u64;
        info.events += end.tail.segments.iter().map(|segment| segment.tally.event_count).sum::<u64>();
        info.head = end.tail.last_position;
        info.durable_head = end.known_durable();
        info.clean = end.is_clean();
    }
    for name in survey.names.iter().filter(|name| is_ours(name)) {
        let len = storage.open(name, Access::Read).and_then(|file| file.len()).unwrap_or(0);
        info.bytes_on_disk += len;
        if file_number(name).is_some() {
            info.snapshot_bytes += len;
        }
        if is_of_index(name) {
            info.index_bytes += len;
            let sizes = &mut info.index_sizes;
            let of_kind = match name {
                _ if segment_number(name).is_some() => &mut sizes.segments,
                _ if name.starts_with(INDEX) => &mut sizes.manifests,
                _ if directory_number(name).is_some() => &mut sizes.directory,
                _ => &mut sizes.tiers,
            };
            *of_kind += len;
        }
    }
    Ok(info)
}

/// Number of the snapshots that stand in the files, void ones too; files that cannot be read count as the manifest says.
fn snapshot_count(storage: &dyn Storage, manifest: &Manifest) -> u64 {
    let of_file = |entry: &SnapshotFileEntry| {
        let file = SnapshotFile::open(storage, *entry, &manifest.store, ReadMode::Pread);
        let scanned = file.and_then(|file| file.scan(file.whole(), &mut |_, _| {}));
        scanned.map_or(entry.frame_count, |scanned| scanned.frame_count)
    };
    manifest.snapshots.iter().map(of_file).sum()
}

/// Whether this is the name of an index file.
pub(super) fn is_of_index(name: &str) -> bool {
    segment_number(name).is_some_and(|(_, is_index)| is_index) || is_index_name(name)
}

/// Whether a store keeps a file of this name.
pub(crate) fn is_ours(name: &str) -> bool {
    matches!(name, "LOCK" | "MARK" | "RING" | "CONTROL")
        || generation_of(name).is_some()
        || segment_number(name).is_some()
        || is_container_name(name)
        || is_index_name(name)
        || consumer::is_file_name(name)
        || file_number(name).is_some()
}

/// The process that holds the writer's lock on the store in directory `path`.
///
/// The lock is not tried: a writer that opens in that moment would be refused. Linux lists the locks that are held.
#[cfg(target_os = "linux")]
pub(super) fn writer_of(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let lock = path.join(LOCK_NAME);
    let inode = std::fs::symlink_metadata(&lock).ok().filter(std::fs::Metadata::is_file)?.ino().to_string();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // "1: FLOCK  ADVISORY  WRITE 4711 fe:00:10330197 0 EOF"
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_held = fields.get(1) == Some(&"FLOCK") && fields.get(3) == Some(&"WRITE");
        let is_this = fields.get(5).and_then(|place| place.rsplit(':').next()) == Some(inode.as_str());
        (is_held && is_this).then(|| fields.get(4).and_then(|pid| pid.parse().ok())).flatten()
    })
}

/// The process that holds the writer's lock on the store in directory `path`.
///
/// A shared lock is tried for a moment: it is refused while there is a writer.
#[cfg(not(target_os = "linux"))]
pub(super) fn writer_of(path: &Path) -> Option<u32> {
    let lock = path.join(LOCK_NAME);
    std::fs::symlink_metadata(&lock).ok().filter(std::fs::Metadata::is_file)?;
    let file = std::fs::File::open(&lock).ok()?;
    match file.try_lock_shared() {
        Err(std::fs::TryLockError::WouldBlock) => std::fs::read_to_string(&lock).ok()?.trim().parse().ok(),
        _ => None,
    }
}
