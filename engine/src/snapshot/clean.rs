//! Clean-up: what is void, superseded or more than is to be kept goes, and so do its bytes.
//!
//! The frames that stay are copied into a new file, which takes the place of the old ones by a manifest; then these are
//! removed. Saves go on meanwhile, into a file of their own.

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;

use annals_format::manifest::SnapshotFileEntry;
use annals_format::snapshot::{SNAPSHOT_HEADER_LEN, SnapshotFrame, padded};

use super::file::{Scanned, file_name};
use super::fold::Registered;
use super::judge::Judge;
use super::shelf::Placed;
use super::write::{make, put, save_manifest};
use crate::Result;
use crate::error::{Corrupt, Error};
use crate::log::page_ceiling;
use crate::options::View;
use crate::reader::Reader;
use crate::storage::StorageFile;
use crate::store::{Inner, Store};

/// A new file holds at most so many bytes, unless one snapshot is longer.
const LEN_MAX: u64 = 64 << 20;

/// How much of the snapshots is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanSnapshots {
    keep: usize,
    dry_run: bool,
}

impl Default for CleanSnapshots {
    fn default() -> Self {
        Self::new()
    }
}

impl CleanSnapshots {
    /// Of each stream the newest of each name and schema.
    pub fn new() -> Self {
        Self { keep: 1, dry_run: false }
    }

    /// The newest so many of each stream, name and schema; at least 1.
    pub fn keep(mut self, snapshots: usize) -> Self {
        self.keep = snapshots.max(1);
        self
    }

    /// Only says what would go, and writes nothing.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// What a clean-up did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleanedSnapshots {
    /// Snapshots that stay.
    pub kept: u64,
    /// Snapshots that went because they were void: of streams that were deleted, or whose events were taken back.
    pub void: u64,
    /// Snapshots that went because there are newer ones.
    pub superseded: u64,
    /// Length of all files before.
    pub bytes_before: u64,
    /// Length of all files after.
    pub bytes_after: u64,
    /// What could not be read. Files that hold it stay as they are, with all that is in them.
    pub damage: Vec<Corrupt>,
}

impl Store {
    /// Lets go of snapshots that are void or superseded, and of their bytes: after it, none of a deleted stream's are left in
    /// the directory. Never goes the newest of a stream, name and schema; nor, where events at the stream's beginning are
    /// gone, the oldest one that takes their place: so every state that could be loaded before, at whatever position, can be
    /// loaded after.
    ///
    /// Reads the header of each snapshot, and writes those that stay into a new file, if anything is to go or several files
    /// can become one. Appends, saves and reads go on meanwhile.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: nothing is lost, and it may be called again; `Poisoned`.
    ///
    /// ```
    /// use annals::{CleanSnapshots, Expect, NewEvent, Revision, Snapshots, Store};
    /// # fn main() -> annals::Result<()> {
    /// let store = Store::in_memory()?;
    /// let accounts = Snapshots::of("account", 1);
    /// for _ in 0..3 {
    ///     let revision = store.append("account-7", Expect::Any, &[NewEvent::new("Deposited", b"1")])?.revision();
    ///     accounts.save(&store, "account-7", revision, b"a balance")?;
    /// }
    /// let cleaned = store.clean_snapshots(&CleanSnapshots::new().keep(2))?;
    /// assert_eq!((cleaned.kept, cleaned.superseded), (2, 1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn clean_snapshots(&self, how: &CleanSnapshots) -> Result<CleanedSnapshots> {
        clean(self.inner(), &self.reader_in(View::Durable), how.dry_run, &|_| how.keep)
    }
}

/// How many of the snapshots of this stream, name and schema are kept.
type Keep<'a> = &'a dyn Fn(&SnapshotFrame<'_>) -> usize;

fn clean(inner: &Inner, reader: &Reader, dry_run: bool, keep: Keep<'_>) -> Result<CleanedSnapshots> {
    inner.core.log.check_poison()?;
    let _one = inner.snapshots.cleaning.lock();
    let shelf = &inner.core.snapshots;
    let mut report = CleanedSnapshots::default();
    // From here on saves go into another file.
    let (streams, files) = {
        let mut state = inner.snapshots.state.lock();
        state.check_open()?;
        drop(shelf.table()?);
        if !dry_run && let Some(entry) = state.end(inner)? {
            save_manifest(inner, |snapshots| put(snapshots, entry))?;
        }
        let table = shelf.table()?;
        let streams: Vec<Vec<Placed>> = table.streams().map(|entries| Placed::all(&table, entries)).collect();
        report.damage.clone_from(&table.damage);
        let files: Vec<(u64, u64)> = table.files.iter().map(|(n, shelved)| (*n, shelved.file.entry.len)).collect();
        (streams, files)
    };
    report.bytes_before = files.iter().map(|(_, len)| len).sum();
    report.bytes_after = report.bytes_before;
    let mut staying = Vec::new();
    for entries in streams {
        judge_stream(reader, entries, keep, &mut staying, &mut report)?;
    }
    staying.sort_unstable_by_key(|placed: &Placed| (placed.entry.file, placed.entry.offset));
    // What cannot be copied stays where it is.
    let mut unmoved: Vec<u64> = files
        .iter()
        .map(|(n, _)| *n)
        .filter(|n| report.damage.iter().any(|wrong| wrong.file == file_name(*n)))
        .collect();
    for placed in &staying {
        if let Err(Error::Corrupt(corrupt)) = placed.read().and_then(|stored| stored.stored().map(drop)) {
            report.damage.push(*corrupt);
            unmoved.push(placed.entry.file);
        }
    }
    let gone: Vec<u64> = files.iter().map(|(n, _)| *n).filter(|n| !unmoved.contains(n)).collect();
    staying.retain(|placed| gone.contains(&placed.entry.file));
    let is_worth_it = report.void + report.superseded > 0 || gone.len() > 1;
    if dry_run || !is_worth_it || gone.is_empty() {
        return Ok(report);
    }
    let new = copy(inner, &staying)?;
    if cfg!(annals_plant = "clean-up-removes-first") {
        gone.iter().try_for_each(|number| inner.storage.remove(&file_name(*number))).ok();
        inner.storage.sync_dir().ok();
    }
    let state = inner.snapshots.state.lock();
    drop(shelf.table()?);
    save_manifest(inner, |snapshots| {
        snapshots.retain(|entry| !gone.contains(&entry.number));
        new.files.iter().for_each(|(entry, _)| put(snapshots, *entry));
    })?;
    shelf.change(|table| {
        table.replace(&gone, &new.moved);
        for (entry, file) in &new.files {
            let scanned = Scanned { end: entry.end, frame_count: entry.frame_count, ..Scanned::default() };
            table.shelve(&shelf.made(file.clone(), *entry), scanned);
        }
    });
    drop(state);
    // They are listed no more: whoever has them open goes on with what it holds.
    for number in &gone {
        let name = file_name(*number);
        match inner.storage.remove(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &name)(error));
            }
            _ => {}
        }
    }
    inner.storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
    let of_files = |numbers: &[u64]| files.iter().filter(|(n, _)| numbers.contains(n)).map(|(_, len)| len).sum::<u64>();
    let new_len: u64 = new.files.iter().map(|(entry, _)| entry.len).sum();
    report.bytes_after = report.bytes_before - of_files(&gone) + new_len;
    inner.preparer.add_to_total(new_len);
    inner.preparer.take_from_total(of_files(&gone));
    Ok(report)
}

/// Which snapshots of streams whose names have one hash stay.
fn judge_stream(
    reader: &Reader,
    mut entries: Vec<Placed>,
    keep: Keep<'_>,
    staying: &mut Vec<Placed>,
    report: &mut CleanedSnapshots,
) -> Result<()> {
    entries.sort_unstable_by_key(|placed| std::cmp::Reverse(placed.entry.age()));
    let (head, hidden) = reader.pinned();
    // Of one stream in all but a hash's accident: stream, name, schema.
    let mut kept: HashMap<(String, String, u32), (usize, Option<Placed>)> = HashMap::new();
    let mut judges: HashMap<String, Judge<'_>> = HashMap::new();
    for entry in entries {
        let stored = match entry.read() {
            Ok(stored) => stored,
            // It is told of where it is to be copied.
            Err(Error::Corrupt(_)) => {
                staying.push(entry);
                report.kept += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        let frame = stored.frame()?;
        let judge = match judges.entry(frame.stream.to_owned()) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(Judge::new(reader.core(), hidden.as_ref(), frame.stream, head)?)
            }
        };
        if frame.position <= head && !judge.counts(&frame)? {
            report.void += 1;
            continue;
        }
        let of_kind = kept.entry((frame.stream.to_owned(), frame.name.to_owned(), frame.schema)).or_default();
        let (count, oldest) = of_kind;
        *count += 1;
        if *count <= keep(&frame) || frame.position > head {
            staying.push(entry);
            report.kept += 1;
        } else if judge.is_cut() && judge.reaches(frame.revision) {
            // The oldest that reaches the cut is all that a look into the past has.
            if oldest.replace(entry).is_some() {
                report.superseded += 1;
            }
        } else {
            report.superseded += 1;
        }
    }
    for (_, oldest) in kept.into_values() {
        report.kept += u64::from(oldest.is_some());
        staying.extend(oldest);
    }
    Ok(())
}

/// New files, durable and under their names, and where each frame went.
#[derive(Default)]
struct Copied {
    files: Vec<(SnapshotFileEntry, Arc<dyn StorageFile>)>,
    moved: HashMap<(u64, u64), (u64, u64)>,
}

fn copy(inner: &Inner, staying: &[Placed]) -> Result<Copied> {
    let mut copied = Copied::default();
    let mut rest = staying;
    while !rest.is_empty() {
        let mut len = SNAPSHOT_HEADER_LEN as u64;
        let count = rest.iter().take_while(|entry| {
            let more = entry.entry.len;
            let fits = len == SNAPSHOT_HEADER_LEN as u64 || len + more <= LEN_MAX;
            len += if fits { more } else { 0 };
            fits
        });
        let (these, others) = rest.split_at(count.count());
        rest = others;
        copy_into_one(inner, these, page_ceiling(len), &mut copied)?;
    }
    inner.storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
    Ok(copied)
}

fn copy_into_one(inner: &Inner, these: &[Placed], len: u64, copied: &mut Copied) -> Result<()> {
    let shelf = &inner.core.snapshots;
    inner.preparer.check_quota(len)?;
    let number = inner.snapshots.state.lock().take_number();
    let name = file_name(number);
    let beside = format!("{name}.new");
    let (file, mut entry) = make(inner.storage.as_ref(), &beside, number, len, inner)?;
    let made = shelf.made(file.clone(), entry);
    let written = (|| -> Result<()> {
        let mut staging = Vec::new();
        let mut end = entry.end;
        for old in these {
            let stored = old.read()?;
            let frame = SnapshotFrame { synced_upto: 0, ..stored.frame()? };
            staging.clear();
            frame.encode(made.seed, end, stored.stored()?, &mut staging);
            debug_assert_eq!(staging.len() as u64, frame.header_len() as u64 + padded(frame.stored_len));
            file.write_at(end, &[IoSlice::new(&staging)]).map_err(Error::io("write", &beside))?;
            copied.moved.insert((old.entry.file, old.entry.offset), (number, end));
            end += staging.len() as u64;
            entry.frame_count += 1;
        }
        (entry.end, entry.is_ended) = (end, true);
        file.sync().map_err(Error::io("sync", &beside))?;
        inner.storage.rename(&beside, &name).map_err(Error::io("rename", &name))
    })();
    if let Err(error) = written {
        let _ = inner.storage.remove(&beside);
        return Err(error);
    }
    copied.files.push((entry, file));
    Ok(())
}

/// Lets go of snapshots that are void, and of those of registered folds that are more than is to be kept of them; of no other.
/// Answers how many of each.
pub(crate) fn let_go(inner: &Inner) -> Result<(u64, u64)> {
    let folds = inner.folds.all();
    let keep = |frame: &SnapshotFrame<'_>| {
        let is_of = |fold: &&Arc<Registered>| {
            let kind = &fold.kind;
            (kind.name(), kind.schema()) == (frame.name, frame.schema) && frame.stream.starts_with(&fold.prefix)
        };
        folds.iter().filter(is_of).map(|fold| fold.kind.kept().unwrap_or(usize::MAX)).max().unwrap_or(usize::MAX)
    };
    let reader = Reader::new(inner.core.clone(), View::Durable);
    let planned = clean(inner, &reader, true, &keep)?;
    match planned.void + planned.superseded {
        0 => Ok((0, 0)),
        _ => clean(inner, &reader, false, &keep).map(|cleaned| (cleaned.void, cleaned.superseded)),
    }
}
