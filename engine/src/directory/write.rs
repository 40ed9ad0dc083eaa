//! The next file of the directory: of segments that have ended, and of the newest files before it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use annals_format::Fault;
use annals_format::directory::{Directory as Rows, DirectoryRow, DirectorySizes, DirectoryWriter};
use annals_format::index_file::{FileIdentity, FileKind, Verified, WriteError};
use annals_format::index_manifest::DirectoryEntry;
use annals_format::manifest::Manifest;

use super::file::{DirectoryFile, directory_name};
use super::gather::{Gathered, Pending};
use super::list::{Directory, covered, expected};
use crate::Result;
use crate::error::Error;
use crate::name::NameHash;
use crate::options::ReadMode;
use crate::storage::Storage;
use crate::tiers::{Against, Differs, Halt, Pulse, Step, TierSink};

/// A file is merged with the one before if that has at most so many times as many streams: each stream is written again a few
/// times until it stands in the largest. In quiet there is time to write, and every second file is one more that nearly all
/// look-ups ask in vain. While segments end one after the other, fewer: else nearly every stream would be written with each
/// file.
const TIMES: u64 = 16;
const TIMES_WHILE_MORE_COME: u64 = 1;
/// Files that together are longer are not merged: the format allows twice as much.
const LEN_MAX: u64 = 1 << 30;

/// Which file is to be made of what.
#[derive(Debug)]
pub(crate) struct DirectoryPlan<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) store: &'a Manifest,
    pub(crate) mode: ReadMode,
    /// Number of the new file, and the generation of the index manifest that will name it.
    pub(crate) number: u64,
    pub(crate) generation: u64,
    /// Those in use, oldest first, all sound.
    pub(crate) files: &'a [Arc<DirectoryFile>],
    /// The segments that follow them; if there are none, the newest files become one.
    pub(crate) pending: &'a Pending,
    /// Whether few files are worth more than few writes.
    pub(crate) is_quiet: bool,
}

/// Whether the two newest files would be one, had they been written in quiet.
pub(crate) fn is_scattered(directory: &Directory) -> bool {
    let is_due = |before: &DirectoryFile, last: &DirectoryFile| {
        before.row_count() <= TIMES * last.row_count() && before.entry().len + last.entry().len <= LEN_MAX
    };
    matches!(directory.sound(), [.., before, last] if is_due(before, last))
}

/// Writes the file; when this returns, it and its name are durable and nothing names it yet. Answers the files that hold
/// from then on. `None`: `stop` was set, and nothing is left behind. `pace` is told of every piece written, and may take
/// its time.
///
/// Some tenths of a microsecond a stream. Takes 24 bytes of memory for each stream of the segments, and two and a half bytes for
/// each that is written.
pub(crate) fn write(
    plan: &DirectoryPlan<'_>,
    pace: &mut dyn FnMut(u64),
    stop: &AtomicBool,
) -> Result<Option<Vec<Arc<DirectoryFile>>>> {
    let name = directory_name(plan.number);
    let beside = format!("{name}.new");
    let kept = plan.kept();
    match plan.write_beside(kept, &beside, pace, stop) {
        Ok(entry) => {
            plan.storage.rename(&beside, &name).map_err(Error::io("rename", &name))?;
            plan.storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
            let (first, expected) = (plan.identity(kept)?.first_position, plan.expected(kept)?);
            let made = DirectoryFile::listed(plan.storage, &entry, first, expected, plan.mode)?;
            let kept = plan.files[..kept].iter().cloned();
            Ok(Some(kept.chain([Arc::new(made)]).collect()))
        }
        Err(error) => {
            // The first error is the one to tell; what is left is removed at the next opening.
            let _ = plan.storage.remove(&beside);
            match error {
                WriteError::Sink(Halt::Stopped) => Ok(None),
                WriteError::Sink(Halt::Failed(error)) => Err(error),
                WriteError::Format(fault) => Err(Error::damaged(&name, 0, None, &fault, 0)),
                _ => Err(Error::corrupt(&name, 0, None, "the directory cannot be written")),
            }
        }
    }
}

fn failed(error: Error) -> WriteError<Halt> {
    WriteError::Sink(Halt::Failed(error))
}

impl DirectoryPlan<'_> {
    /// How many of the files stay as they are.
    fn kept(&self) -> usize {
        let (mut kept, mut rows, mut len) = (self.files.len(), self.pending.rows(), 0);
        if self.pending.is_empty()
            && let Some(last) = self.files.last()
        {
            (kept, rows, len) = (kept - 1, last.row_count(), last.entry().len);
        }
        let times = if self.is_quiet { TIMES } else { TIMES_WHILE_MORE_COME };
        while let Some(before) = kept.checked_sub(1).map(|at| &self.files[at]) {
            len += before.entry().len;
            if before.row_count() > times * rows || len > LEN_MAX || self.files.len() - kept == FILES_MAX {
                break;
            }
            rows += before.row_count();
            kept -= 1;
        }
        kept
    }

    fn positions(&self, kept: usize) -> (u64, u64) {
        let until = self.pending.last_position().max(super::coverage(self.files));
        (super::coverage(&self.files[..kept]) + 1, until)
    }

    fn expected(&self, kept: usize) -> Result<crate::tiers::Expected> {
        let (first, last) = self.positions(kept);
        let broken = || Error::corrupt(&directory_name(self.number), 0, None, "its segments are not the manifest's");
        Ok(expected(self.store, covered(&self.store.segments, first - 1, last).ok_or_else(broken)?))
    }

    fn identity(&self, kept: usize) -> Result<FileIdentity> {
        let expected = self.expected(kept)?;
        let (first_position, last_position) = self.positions(kept);
        Ok(FileIdentity {
            kind: FileKind::Directory,
            store: expected.store,
            number: self.number,
            generation: self.generation,
            name_hash_seed: expected.name_hash_seed,
            first_position,
            last_position,
            final_checksum: expected.final_checksum,
        })
    }

    fn write_beside(
        &self,
        kept: usize,
        beside: &str,
        pace: &mut dyn FnMut(u64),
        stop: &AtomicBool,
    ) -> Step<DirectoryEntry> {
        let identity = self.identity(kept).map_err(failed)?;
        let until = identity.last_position;
        let hash = NameHash { seed: identity.name_hash_seed };
        let gathered = self.pending.gather(hash)?;
        let files = self.files[kept..].iter().rev().map(|file| file.verified());
        let files = files.collect::<Result<Vec<_>>>().map_err(failed)?;
        let pulse = &mut Pulse::new(stop);
        // A file's length is fixed when it is made, so everything is gone through once before; what was found then is kept.
        let (turns, sizes) = turns(&gathered, &files, pulse)?;
        let len = sizes.file_len()?;
        let sink = TierSink::create(self.storage, beside, len, pace, stop).map_err(failed)?;
        let mut writer = DirectoryWriter::begin(sink, identity, sizes)?;
        each_row(&gathered, &files, &turns, pulse, |row| writer.row(row))?;
        each_row(&gathered, &files, &turns, pulse, |row| writer.name(row.name))?;
        let (finished, sink) = writer.finish()?;
        if finished.len != len {
            return Err(Fault::Length { what: "length of a directory", value: finished.len }.into());
        }
        sink.finish(&finished).map_err(WriteError::Sink)?;
        Ok(DirectoryEntry {
            number: self.number,
            coverage: until,
            row_count: sizes.rows(),
            generation: self.generation,
            len,
            root: finished.root,
        })
    }
}

/// Writes a file again from its rows, and answers where it differs from what they give. Costs about what its writing did.
///
/// # Errors
/// `Io`, `Corrupt` if it cannot be read.
pub(crate) fn differs_from_itself(file: &DirectoryFile) -> Result<Option<Differs>> {
    let rows = file.verified()?;
    let all = || (0..).map_while(|number| sure(rows.row(number)));
    let mut sizes = DirectorySizes::default();
    all().for_each(|row| sizes.add(row.name.len()));
    let mut against = Against::new(file.listed_file());
    let mut write = || {
        let mut writer = DirectoryWriter::begin(&mut against, file.identity(), sizes)?;
        all().try_for_each(|row| writer.row(row))?;
        all().try_for_each(|row| writer.name(row.name))?;
        writer.finish().map(|(finished, _)| finished)
    };
    let outcome = write();
    against.judge(outcome)
}

/// Where a source stands.
struct Head<'a> {
    next: u32,
    row: Option<DirectoryRow<'a>>,
}

/// From a file that was verified before.
fn sure<T>(answer: Result<T, Infallible>) -> T {
    match answer {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

/// The sources that have a stream, one bit each: the lowest is the newest.
type Turn = u16;
/// Most files of one merge, beside what was gathered.
const FILES_MAX: usize = Turn::BITS as usize - 1;

fn row_of<'a>(
    gathered: &'a Gathered,
    files: &[Rows<'a, Verified>],
    source: usize,
    number: u32,
) -> Option<DirectoryRow<'a>> {
    match source.checked_sub(1) {
        None => gathered.row(number as usize),
        Some(file) => sure(files[file].row(number)),
    }
}

/// Every stream once, in order; `files` newest first.
fn turns(
    gathered: &Gathered,
    files: &[Rows<'_, Verified>],
    pulse: &mut Pulse<'_>,
) -> Step<(Vec<Turn>, DirectorySizes)> {
    let row = |source, number| row_of(gathered, files, source, number);
    let (mut turns, mut sizes) = (Vec::new(), DirectorySizes::default());
    let mut heads: Vec<Head<'_>> = (0..=files.len()).map(|source| Head { next: 1, row: row(source, 0) }).collect();
    loop {
        pulse.beat()?;
        let mut lowest: Option<DirectoryRow<'_>> = None;
        for found in heads.iter().filter_map(|head| head.row) {
            if lowest.is_none_or(|lowest| found.key() < lowest.key()) {
                lowest = Some(found);
            }
        }
        let Some(lowest) = lowest else { return Ok((turns, sizes)) };
        let mut turn = 0;
        for (source, head) in heads.iter_mut().enumerate() {
            if head.row.is_some_and(|found| found.hash == lowest.hash && found.name == lowest.name) {
                head.row = row(source, head.next);
                head.next += 1;
                turn |= 1 << source;
            }
        }
        sizes.add(lowest.name.len());
        turns.push(turn);
    }
}

/// The same again: of those that are alike the newest.
fn each_row(
    gathered: &Gathered,
    files: &[Rows<'_, Verified>],
    turns: &[Turn],
    pulse: &mut Pulse<'_>,
    mut each: impl FnMut(DirectoryRow<'_>) -> Step,
) -> Step {
    let mut next = [0; Turn::BITS as usize];
    for turn in turns {
        pulse.beat()?;
        let newest = turn.trailing_zeros() as usize;
        each(row_of(gathered, files, newest, next[newest]).ok_or(Fault::Structure { what: "row of a directory" })?)?;
        let mut left = *turn;
        while left != 0 {
            next[left.trailing_zeros() as usize] += 1;
            left &= left - 1;
        }
    }
    Ok(())
}
