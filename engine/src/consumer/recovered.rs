//! Where the consumers stand when a store is opened: the newest file beside the segments, and the changes behind it.

use std::collections::VecDeque;

use annals_format::Fault;
use annals_format::batch::BatchHeader;
use annals_format::checksum::{Identity, Seed};
use annals_format::consumer::{ChangeList, ConsumerFile, ConsumerFileHeader, ConsumerTable};
use annals_format::manifest::{Manifest, SegmentEntry, SegmentState};
use annals_format::scan;
use annals_format::section::Section;
use annals_format::segment::{SEGMENT_HEADER_LEN, SegmentHeader};
use parking_lot::Mutex;

use crate::compacted;
use crate::error::Error;
use crate::manifest::{self, read_whole};
use crate::storage::Storage;
use crate::store::Inner;
use crate::{Result, VERSION};

const PREFIX: &str = "consumers-";
const SUFFIX: &str = ".idx";
/// A file of consumers is never longer than this.
const FILE_LEN_MAX: u64 = 1 << 30;
/// So many files are kept: a reader that saw an older list of files still finds one.
const KEPT: usize = 2;

pub(crate) fn file_name(segment: u64) -> String {
    format!("{PREFIX}{segment:020}{SUFFIX}")
}

/// Number of the segment in the name of a file of consumers.
fn file_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// Whether this is the name of a file of consumers, or of one that was still being written.
pub(crate) fn is_file_name(name: &str) -> bool {
    file_number(name.strip_suffix(".new").unwrap_or(name)).is_some()
}

/// Changes found in batches, oldest first, each list with the time of its batch.
pub(crate) type Changes = Vec<(u64, ChangeList)>;

/// Takes the changes out of a verified batch, if it has any.
#[inline]
pub(crate) fn collect(
    batch: &[u8],
    header: &BatchHeader,
    seed: Seed,
    changes: &mut Changes,
) -> std::result::Result<(), Fault> {
    if !header.has_sections {
        return Ok(());
    }
    scan::verify_sections(batch, header, seed, |_, section| {
        if let Section::Consumers(section) = section {
            changes.push((header.recorded_at, section.to_list()));
        }
    })
}

pub(crate) fn apply(table: &mut ConsumerTable, changes: &Changes) {
    for (time, list) in changes {
        list.changes().for_each(|change| {
            table.apply(&change, *time);
        });
    }
}

/// What the listed segments say of the consumers.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) table: ConsumerTable,
    /// Files that could not be used, and why.
    pub(crate) unusable: Vec<(String, String)>,
    /// The file that was made anew from the log, if one was missing or could not be used.
    pub(crate) rebuilt: Option<String>,
    /// The last listed segment, if its own file was not what gave the state: there may be none yet.
    pub(crate) to_save: Option<SegmentEntry>,
}

/// Where the consumers stood at the end of the last listed segment.
pub(crate) fn load_listed(storage: &dyn Storage, names: &[String], manifest: &Manifest) -> Result<Recovered> {
    let mut recovered = Recovered::default();
    let Some(last) = manifest.segments.last() else { return Ok(recovered) };
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| file_number(name)).collect();
    numbers.sort_unstable();
    let mut begin = 0;
    for number in numbers.into_iter().rev() {
        match load(storage, manifest, number) {
            Ok((index, table)) => {
                (begin, recovered.table) = (index + 1, table);
                break;
            }
            Err(error @ Error::Unsupported { .. }) => return Err(error),
            Err(error) => recovered.unusable.push((file_name(number), error.to_string())),
        }
    }
    let rest = manifest.segments.get(begin..).unwrap_or_default();
    let mut is_missing = false;
    for entry in rest.iter().filter(|entry| entry.has_sections) {
        apply(&mut recovered.table, &changes_of(storage, entry)?);
        // Of what recovery has cut there is no file yet; sealing writes one.
        is_missing |= begin == 0 && entry.state == SegmentState::Sealed;
    }
    if !rest.is_empty() && !recovered.table.is_empty() {
        recovered.to_save = Some(last.clone());
        let is_said = is_missing || !recovered.unusable.is_empty();
        recovered.rebuilt = is_said.then(|| file_name(last.number));
    }
    Ok(recovered)
}

/// A file of consumers that fits the segment of its number, and that segment's place in the list.
pub(crate) fn load(storage: &dyn Storage, manifest: &Manifest, number: u64) -> Result<(usize, ConsumerTable)> {
    let name = file_name(number);
    let wrong = |what: &str| Error::corrupt(&name, 0, None, what);
    let Some(index) = manifest.segments.iter().position(|entry| entry.number == number) else {
        return Err(wrong("its segment is not listed"));
    };
    let entry = &manifest.segments[index];
    let bytes = read_whole(storage, &name, FILE_LEN_MAX)?;
    let file = ConsumerFile::decode(&bytes).map_err(|fault| Error::damaged(&name, 0, None, &fault, 0))?;
    if file.header != header_for(manifest.store, entry, file.header.written_by) {
        return Err(wrong("it belongs to another segment"));
    }
    Ok((index, file.table))
}

fn header_for(store: [u8; 16], entry: &SegmentEntry, written_by: u32) -> ConsumerFileHeader {
    ConsumerFileHeader {
        store,
        incarnation: entry.incarnation,
        segment: entry.number,
        final_checksum: entry.final_checksum,
        last_position: entry.last_position,
        written_by,
    }
}

/// The changes that a listed segment holds, its batches verified.
fn changes_of(storage: &dyn Storage, entry: &SegmentEntry) -> Result<Changes> {
    let name = compacted::name_of(entry);
    let file = compacted::open_segment_file(storage, &name).map_err(Error::io("open", &name))?;
    let mut bytes = vec![0; entry.end as usize];
    let got = file.read_at(0, &mut bytes).map_err(Error::io("read", &name))?;
    bytes.truncate(got);
    let written_by = SegmentHeader::decode(&bytes).ok().flatten().map_or(0, |header| header.written_by);
    let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
    let seed = Seed::of(&identity);
    let mut changes = Changes::new();
    let mut at = SEGMENT_HEADER_LEN;
    while at < entry.end as usize {
        let rest = bytes.get(at..).unwrap_or_default();
        let damaged = |fault| Error::damaged(&name, at as u64, None, &fault, written_by);
        let header = BatchHeader::decode(rest, seed).map_err(damaged)?;
        collect(rest, &header, seed, &mut changes).map_err(damaged)?;
        at += header.len();
    }
    Ok(changes)
}

/// Where the consumers stood when segments ended; by number of the segment, oldest first.
#[derive(Debug, Default)]
pub(crate) struct EndedConsumers {
    ended: Mutex<VecDeque<(u64, ConsumerTable)>>,
}

impl EndedConsumers {
    pub(crate) fn push(&self, segment: u64, table: ConsumerTable) {
        self.ended.lock().push_back((segment, table));
    }

    /// That of this segment; older ones are of no more use.
    fn take(&self, segment: u64) -> Option<ConsumerTable> {
        let mut ended = self.ended.lock();
        while let Some((number, _)) = ended.front() {
            if *number > segment {
                break;
            }
            let (number, table) = ended.pop_front()?;
            if number == segment {
                return Some(table);
            }
        }
        None
    }
}

/// Writes the file of a segment that the manifest lists now, if there are consumers.
pub(crate) fn save_ended(inner: &Inner, entry: &SegmentEntry) -> Result<()> {
    match inner.core.ended_consumers.take(entry.number) {
        Some(table) => save(&*inner.storage, inner.core.lineage.store, entry, table),
        None => Ok(()),
    }
}

/// Writes the file that belongs to the end of this segment, and removes those that are of no more use.
pub(crate) fn save(storage: &dyn Storage, store: [u8; 16], entry: &SegmentEntry, table: ConsumerTable) -> Result<()> {
    let file = ConsumerFile { header: header_for(store, entry, VERSION), table };
    manifest::replace(storage, &file_name(entry.number), &file.encode())?;
    let names = storage.list().map_err(Error::io("list", "the directory"))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| file_number(name)).collect();
    numbers.sort_unstable();
    let kept = numbers.iter().rposition(|number| *number == entry.number).map_or(0, |index| index + 1);
    for old in &numbers[..kept.saturating_sub(KEPT)] {
        storage.remove(&file_name(*old)).map_err(Error::io("remove", file_name(*old)))?;
    }
    Ok(())
}
