//! Some neighbours become one tier, in bounded memory: their rows are gone through in order, once for each part of the
//! file and once before, since a file gets its length when it is made.

use std::sync::atomic::{AtomicBool, Ordering};

use annals_format::Fault;
use annals_format::index_file::{FileIdentity, FileKind, FinishedFile, Sink, WriteError};
use annals_format::index_manifest::TierEntry;
use annals_format::tier::{TierMeasure, TierWriter};

use super::file::Expected;
use super::order::{Row, Rows, each_hash, each_name};
use super::sink::{Halt, Pulse, Step, TierSink};
use super::source::{INPUTS_MAX, MergeInput, NamesOf, Source};
use super::stored::tier_name;
use crate::Result;
use crate::error::Error;
use crate::storage::Storage;

/// Names that take no more in the file are kept from when they are measured to when they are written.
const NAMES_KEPT: usize = 8 << 20;

/// Which file is to be made of what.
#[derive(Debug)]
pub(super) struct MergePlan<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) expected: Expected,
    /// Number of the new file, and the generation of the index manifest that will name it.
    pub(super) number: u64,
    pub(super) generation: u64,
    /// Neighbours, oldest first, at most [`INPUTS_MAX`].
    pub(super) inputs: &'a [MergeInput<'a>],
}

/// Writes the tier; when this returns, the file and its name are durable and nothing names it yet. `None`: `stop` was
/// set, and nothing is left behind. `pace` is told of every piece written, and may take its time.
///
/// Some tenths of a microsecond an event. Takes a MiB of memory, 2 KiB an input, half a byte a key and id, and what the names
/// take in the file, as far as that is some MiB.
pub(super) fn merge(plan: &MergePlan<'_>, pace: &mut dyn FnMut(u64), stop: &AtomicBool) -> Result<Option<TierEntry>> {
    let name = tier_name(plan.number);
    let beside = format!("{name}.new");
    match plan.write(&beside, pace, stop) {
        Ok(entry) => {
            plan.storage.rename(&beside, &name).map_err(Error::io("rename", &name))?;
            plan.storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
            Ok(Some(entry))
        }
        Err(error) => {
            // The first error is the one to tell; what is left is removed at the next opening.
            let _ = plan.storage.remove(&beside);
            match error {
                WriteError::Sink(Halt::Stopped) => Ok(None),
                WriteError::Sink(Halt::Failed(error)) => Err(error),
                WriteError::Format(fault) => Err(Error::damaged(&name, 0, None, &fault, 0)),
                _ => Err(Error::corrupt(&name, 0, None, "the tier cannot be written")),
            }
        }
    }
}

fn failed(error: Error) -> WriteError<Halt> {
    WriteError::Sink(Halt::Failed(error))
}

impl MergePlan<'_> {
    /// What the file says of itself; the inputs are neighbours.
    fn identity(&self) -> Result<FileIdentity, Fault> {
        let neighbours = self.inputs.windows(2).all(|pair| {
            pair[1].positions().0 == pair[0].positions().1 + 1 && pair[1].segments().0 > pair[0].segments().1
        });
        let (Some(first), Some(last)) = (self.inputs.first(), self.inputs.last()) else {
            return Err(Fault::Count { what: "number of inputs", value: 0 });
        };
        if !neighbours || self.inputs.len() > INPUTS_MAX {
            return Err(Fault::Order { what: "inputs of a tier" });
        }
        let identity = FileIdentity {
            kind: FileKind::Tier,
            store: self.expected.store,
            number: self.number,
            generation: self.generation,
            name_hash_seed: self.expected.name_hash_seed,
            first_position: first.positions().0,
            last_position: last.positions().1,
            final_checksum: self.expected.final_checksum,
        };
        match identity.position_count() {
            count if count <= u64::from(u32::MAX) => Ok(identity),
            value => Err(Fault::Count { what: "positions of a tier", value }),
        }
    }

    fn write(&self, beside: &str, pace: &mut dyn FnMut(u64), stop: &AtomicBool) -> Step<TierEntry> {
        let identity = self.identity()?;
        let goes_on = || !stop.load(Ordering::Relaxed);
        let sources = self.inputs.iter().map(|input| Source::open(input, identity.first_position, goes_on));
        let sources = sources.collect::<Step<Vec<Source<'_>>>>()?;
        let pulse = &mut Pulse::new(stop);
        let (finished, sink) = write_file(&sources, &identity, pulse, |len| {
            TierSink::create(self.storage, beside, len, pace, stop).map_err(failed)
        })?;
        sink.finish(&finished).map_err(WriteError::Sink)?;
        Ok(TierEntry {
            number: self.number,
            first_segment: self.inputs.first().map_or(0, |input| input.segments().0),
            last_segment: self.inputs.last().map_or(0, |input| input.segments().1),
            first_position: identity.first_position,
            last_position: identity.last_position,
            generation: self.generation,
            len: finished.len,
            root: finished.root,
        })
    }
}

/// Writes the file that says `identity` of itself from the rows of `sources`; `create` makes what takes it, told its length.
pub(super) fn write_file<S: Sink<Error = Halt>>(
    sources: &[Source<'_>],
    identity: &FileIdentity,
    pulse: &mut Pulse<'_>,
    create: impl FnOnce(u64) -> Step<S>,
) -> Step<(FinishedFile, S)> {
    let measure = measure(sources, identity.position_count() as u32, pulse)?;
    let len = measure.file_len()?;
    let sizes = measure.sizes();
    let [streams, types] = measure.into_names();
    let mut writer = TierWriter::begin(create(len)?, identity.clone(), sizes)?;
    each_key(sources, pulse, |rows| {
        let first = rows.first().map_or(Ok(0), |row| sources[row.input as usize].key_first(row.number))?;
        writer.key(rows.first().map_or(0, |row| row.hash), key_len(sources, rows)?, first)
    })?;
    each_key(sources, pulse, |rows| {
        writer.positions(key_len(sources, rows)?)?;
        rows.iter().try_for_each(|row| {
            sources[row.input as usize].each_position(row.number, |position| writer.position(position))
        })
    })?;
    each_id(sources, pulse, |row| writer.id(row.hash, sources[row.input as usize].id(row.number)?.1))?;
    each_id(sources, pulse, |row| writer.filtered_id(row.hash))?;
    match streams {
        Some(streams) => writer.streams(streams)?,
        None => each_name_of(sources, NamesOf::Streams, pulse, |name| writer.stream(name))?,
    }
    match types {
        Some(types) => writer.types(types)?,
        None => each_name_of(sources, NamesOf::Types, pulse, |name| writer.type_name(name))?,
    }
    let (finished, sink) = writer.finish()?;
    match finished.len == len {
        true => Ok((finished, sink)),
        false => Err(Fault::Length { what: "length of a tier", value: finished.len }.into()),
    }
}

fn measure(sources: &[Source<'_>], position_count: u32, pulse: &mut Pulse<'_>) -> Step<TierMeasure> {
    let mut measure = TierMeasure::new(position_count, NAMES_KEPT);
    each_key(sources, pulse, |rows| {
        measure.key(key_len(sources, rows)?);
        Ok(())
    })?;
    sources.iter().for_each(|source| measure.ids(source.id_count));
    each_name_of(sources, NamesOf::Streams, pulse, |name| Ok(measure.stream(name)?))?;
    each_name_of(sources, NamesOf::Types, pulse, |name| Ok(measure.type_name(name)?))?;
    Ok(measure)
}

fn key_len(sources: &[Source<'_>], rows: &[Row]) -> Result<u32, Fault> {
    rows.iter().try_fold(0u32, |sum, row| {
        let len = sources[row.input as usize].key_len(row.number)?;
        sum.checked_add(len).ok_or(Fault::Count { what: "positions of a key", value: u64::from(sum) + u64::from(len) })
    })
}

/// Every key once by hash, with the rows that have it, oldest first.
#[inline]
fn each_key(sources: &[Source<'_>], pulse: &mut Pulse<'_>, each: impl FnMut(&[Row]) -> Step) -> Step {
    let counts: Vec<u32> = sources.iter().map(|source| source.key_count).collect();
    each_hash(&counts, &Keys(sources), pulse, each)
}

/// Every id by hash, then position: those of an input are below those of the next one, and ascend within it.
#[inline]
fn each_id(sources: &[Source<'_>], pulse: &mut Pulse<'_>, mut each: impl FnMut(&Row) -> Step) -> Step {
    let counts: Vec<u32> = sources.iter().map(|source| source.id_count).collect();
    each_hash(&counts, &Ids(sources), pulse, |rows| rows.iter().try_for_each(&mut each))
}

struct Keys<'s, 'a>(&'s [Source<'a>]);

impl Rows for Keys<'_, '_> {
    #[inline]
    fn hash(&self, input: usize, number: u32) -> Result<u64, Fault> {
        self.0[input].key_hash(number)
    }

    #[inline]
    fn prefetch(&self, input: usize, number: u32) {
        self.0[input].prefetch_key(number);
    }

    #[inline]
    fn prefetch_content(&self, row: &Row) {
        self.0[row.input as usize].prefetch_positions(row.number);
    }
}

struct Ids<'s, 'a>(&'s [Source<'a>]);

impl Rows for Ids<'_, '_> {
    #[inline]
    fn hash(&self, input: usize, number: u32) -> Result<u64, Fault> {
        self.0[input].id_hash(number)
    }

    #[inline]
    fn prefetch(&self, input: usize, number: u32) {
        self.0[input].prefetch_id(number);
    }
}

fn each_name_of(sources: &[Source<'_>], of: NamesOf, pulse: &mut Pulse<'_>, each: impl FnMut(&[u8]) -> Step) -> Step {
    each_name(sources.iter().map(|source| source.names(of)).collect(), pulse, each)
}
