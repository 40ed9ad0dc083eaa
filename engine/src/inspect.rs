//! Looking into a store file by file, by ordinary reads: for tools, and for stores that do not open.
//!
//! Nothing here takes the writer's lock, maps a file or changes a byte. Everything works beside a running writer (what
//! it answers is then a moment's picture) and on damaged stores, as far as they can be made out. Each function has two
//! forms: with a path, and with `_in` on any [`Storage`].

mod dump;
mod info;
mod segments;
mod survey;
#[cfg(test)]
mod tests;
mod verify;

use std::path::Path;

use crate::storage::{Disk, Storage};
use crate::{Durability, Limits, Result, options};

pub use dump::Field;
pub(crate) use info::is_ours as is_kept_file;

/// How a segment stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentState {
    /// Ended by an end mark.
    Sealed,
    /// Ended by recovery's decision: what follows its end is not read.
    Cut,
    /// Compacted: held by a container, compressed and without what was removed.
    Compacted,
    /// The one that is written, or that the next writer goes on with.
    Active,
    /// No part of the log: prepared ahead and not begun, or left over.
    Unlisted,
}

/// What there is of a segment's index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexState {
    /// It verifies and is that of this segment.
    Present,
    /// There is none: usual for a segment that is written; otherwise the next opening makes it.
    Missing,
    /// It does not verify; the next opening makes it anew.
    Damaged,
}

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Name of the file.
    pub file: String,
    /// How it stands in the log.
    pub state: SegmentState,
    /// Length of the file in bytes; 0 if it is missing.
    pub len: u64,
    /// Offset of the byte after its last whole batch.
    pub end: u64,
    /// First position; `None` if it holds no record.
    pub first_position: Option<u64>,
    /// Last position; `None` if it holds no record.
    pub last_position: Option<u64>,
    /// Number of events.
    pub events: u64,
    /// When its first batch was recorded: nanoseconds since 1970 UTC.
    pub first_time: Option<u64>,
    /// When its last batch was recorded: nanoseconds since 1970 UTC.
    pub last_time: Option<u64>,
    /// Its index file.
    pub index: IndexState,
    /// Id of the writer's opening that began it; zeros if it was not begun.
    pub incarnation: [u8; 16],
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is lost: the next opening repairs it or passes it over.
    Notice,
    /// Something that was written is not there as it was.
    Damage,
}

/// One thing that [`verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Name of the file inside the store.
    pub file: String,
    /// Byte offset in the file: where the header or frame begins that is wrong.
    pub offset: u64,
    /// The position that belongs there, if it is known.
    pub position: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// How bad it is.
    pub severity: Severity,
}

/// What [`verify`] found, and what it looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Empty for a store in order.
    pub findings: Vec<Finding>,
    /// Files read.
    pub files: u64,
    /// Events that verified.
    pub events: u64,
    /// Batches that verified whole.
    pub batches: u64,
    /// Snapshots that verified.
    pub snapshots: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Position of the last record, 0 in an empty store.
    pub head: u64,
    /// Last position known to be synced.
    pub durable_head: u64,
}

impl VerifyReport {
    /// Whether nothing is damaged; there may be notices.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Notice)
    }
}

/// Bytes of index files by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexSizes {
    /// Indexes of single segments.
    pub segments: u64,
    /// Tiers, which answer for many segments.
    pub tiers: u64,
    /// The directory: where streams end.
    pub directory: u64,
    /// The lists of what makes up the index.
    pub manifests: u64,
}

/// The store as a whole.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreInfo {
    /// Its id, random.
    pub store_id: [u8; 16],
    /// Version of the file format.
    pub format_version: u32,
    /// Version of the library that wrote the newest manifest: `major << 16 | minor << 8 | patch`.
    pub written_by: u32,
    /// When it was created: nanoseconds since 1970 UTC.
    pub created_at: u64,
    /// Durability of appends that do not say.
    pub default_durability: Durability,
    /// Largest events and batches.
    pub limits: Limits,
    /// Number of segments that make up the log.
    pub segments: u64,
    /// Number of events.
    pub events: u64,
    /// Position of the last record, 0 in an empty store.
    pub head: u64,
    /// Last position known to be synced.
    pub durable_head: u64,
    /// Length of all files of the store.
    pub bytes_on_disk: u64,
    /// Of these, the index files.
    pub index_bytes: u64,
    /// Those by kind.
    pub index_sizes: IndexSizes,
    /// Of the bytes on disk, the files of snapshots.
    pub snapshot_bytes: u64,
    /// Number of snapshots in them, those that are superseded or void too.
    pub snapshots: u64,
    /// The process that has the store open for writing, where that can be told.
    pub writer_pid: Option<u32>,
    /// Whether it was closed cleanly.
    pub clean: bool,
}

fn open(path: &Path) -> Result<Disk> {
    options::directory(path, false)
}

/// The segments of the store in directory `path`, in order of their numbers.
///
/// Costs a read of the index files and of the part of the log that no manifest lists yet.
///
/// # Errors
/// `NotAStore`; `Io` for the directory itself. Damaged files appear in the answer as far as they can be made out.
pub fn segments(path: impl AsRef<Path>) -> Result<Vec<SegmentInfo>> {
    segments_in(&open(path.as_ref())?)
}

/// As [`segments`], on any storage.
///
/// # Errors
/// As there.
pub fn segments_in(storage: &dyn Storage) -> Result<Vec<SegmentInfo>> {
    segments::segments(storage)
}

/// Reads and checks every byte of the store in directory `path` that a checksum covers.
///
/// Goes on after damage, so that one run shows all of it. Calls `progress` with the bytes done and the bytes in all.
/// Costs one read of all files and, for each sealed segment, the making of its index, and of each file of the index above them
/// as much as making it did, but for the writing; holds one segment in memory, and the names of all streams.
///
/// # Errors
/// `NotAStore`; `Io` for the directory itself. Everything else is a [`Finding`].
pub fn verify(path: impl AsRef<Path>, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport> {
    verify_in(&open(path.as_ref())?, progress)
}

/// As [`verify`], on any storage.
///
/// # Errors
/// As there.
pub fn verify_in(storage: &dyn Storage, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport> {
    verify::verify(storage, progress)
}

/// As [`verify`], and tells only of the index: every file of it is read, what it says is held against the segments, and it is
/// written again from its own rows, so that every wrong byte is found also where every checksum is right. A damaged segment is not told of; of the index made from it
/// nothing is known then.
///
/// # Errors
/// As there.
pub fn check_index(path: impl AsRef<Path>, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport> {
    check_index_in(&open(path.as_ref())?, progress)
}

/// As [`check_index`], on any storage.
///
/// # Errors
/// As there.
pub fn check_index_in(storage: &dyn Storage, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport> {
    let mut report = verify::verify(storage, progress)?;
    report.findings.retain(|finding| info::is_of_index(&finding.file));
    Ok(report)
}

/// Hands every byte of a segment's file to `sink`, field by field in the order of the file; damage is marked.
///
/// # Errors
/// `NotAStore`; `Io` if the file cannot be read.
pub fn dump(path: impl AsRef<Path>, segment: u64, sink: &mut dyn FnMut(Field)) -> Result<()> {
    dump_in(&open(path.as_ref())?, segment, sink)
}

/// As [`dump`], on any storage.
///
/// # Errors
/// As there.
pub fn dump_in(storage: &dyn Storage, segment: u64, sink: &mut dyn FnMut(Field)) -> Result<()> {
    dump::dump(storage, segment, sink)
}

/// What the store in directory `path` is and holds.
///
/// Costs a read of the part of the log that no manifest lists yet.
///
/// # Errors
/// `NotAStore`; `Corrupt` or `Unsupported` if no manifest can be read; `Io`.
pub fn store_info(path: impl AsRef<Path>) -> Result<StoreInfo> {
    let path = path.as_ref();
    let mut info = store_info_in(&open(path)?)?;
    info.writer_pid = info::writer_of(path);
    Ok(info)
}

/// As [`store_info`], on any storage; says nothing of a writer.
///
/// # Errors
/// As there.
pub fn store_info_in(storage: &dyn Storage) -> Result<StoreInfo> {
    info::store_info(storage)
}
