//! Segments that the manifest lists: entered there, opened, checked.

use std::io::ErrorKind;
use std::sync::Arc;

use annals_format::checksum::Identity;
use annals_format::manifest::{Manifest, SegmentEntry, SegmentState};
use annals_format::segment::{END_MARK_LEN, EndMark, SEGMENT_HEADER_LEN, SegmentHeader};

use super::reindex::index_of;
use crate::Result;
use crate::active_index::ActiveIndex;
use crate::compacted::{self, BlockCache, Container};
use crate::error::Error;
use crate::log::Log;
use crate::name::NameHash;
use crate::options::ReadMode;
use crate::prepare::segment_numbers;
use crate::sealed_index::{self, SealedIndex};
use crate::segment::{Closing, Opened, Segment, SegmentIndex};
use crate::storage::{Access, Storage, StorageFile};

pub(crate) fn segment_entry(segment: &Segment, closing: &Closing) -> SegmentEntry {
    let header = &segment.header;
    let tally = &closing.tally;
    SegmentEntry {
        number: header.identity.segment,
        generation: header.generation,
        incarnation: header.identity.incarnation,
        store: header.identity.store,
        len: header.segment_len,
        end: closing.end,
        first_position: header.first_position,
        // A segment without a record ends before it begins.
        last_position: tally.last_position.max(header.first_position - 1),
        first_time: tally.first_time,
        last_time: tally.last_time,
        final_checksum: tally.final_checksum.value(),
        state: closing.state,
        kind: header.kind,
        event_count: tally.event_count,
        has_sections: tally.section_count > 0,
        compacted: None,
    }
}

/// Opens a listed segment and its index, and checks both: the segment by length, header and end mark, the index whole.
/// An index that is missing or damaged is made anew in memory.
pub(crate) fn open_listed(storage: &dyn Storage, entry: &SegmentEntry, how: SegmentOpening<'_>) -> Result<Opened> {
    let found = open_segment(storage, entry)?;
    let index = match sealed_index::load(storage, entry, how.mode, how.hash) {
        Ok(index) => index,
        Err(error @ Error::Unsupported { .. }) => return Err(error),
        Err(_) => SegmentIndex::Active(index_anew(entry, &found, how.hash)?),
    };
    found.opened(storage, entry, how, index)
}

/// How a listed segment is opened.
#[derive(Clone, Copy)]
pub(crate) struct SegmentOpening<'a> {
    pub(crate) mode: ReadMode,
    pub(crate) hash: NameHash,
    /// Where blocks of compacted segments are shared.
    pub(crate) blocks: Option<&'a Arc<BlockCache>>,
}

/// A listed segment's file, checked.
struct FoundFile {
    name: String,
    /// Gives the segment's bytes at their offsets, whatever file they lie in.
    file: Arc<dyn StorageFile>,
    header: SegmentHeader,
}

impl FoundFile {
    fn opened(
        self,
        storage: &dyn Storage,
        entry: &SegmentEntry,
        how: SegmentOpening<'_>,
        index: SegmentIndex,
    ) -> Result<Opened> {
        if entry.compacted.is_none() {
            let open = match index {
                SegmentIndex::Unread => Opened::new,
                _ => Opened::for_lookups,
            };
            return open(&self.name, self.file, how.mode, index, self.header.written_by);
        }
        let container = Container::open(storage, &self.name, how.mode, Some(entry))?;
        let container = match how.blocks {
            Some(blocks) => container.sharing(blocks),
            None => container,
        };
        Ok(Opened::compacted(Arc::new(container), index, self.header.written_by))
    }
}

/// Opens a listed segment to be read from front to back: without its index.
pub(crate) fn open_listed_to_scan(
    storage: &dyn Storage,
    entry: &SegmentEntry,
    how: SegmentOpening<'_>,
) -> Result<Opened> {
    open_segment(storage, entry)?.opened(storage, entry, how, SegmentIndex::Unread)
}

/// As [`open_listed`], with the index made anew in memory whatever its file holds.
pub(crate) fn open_listed_anew(storage: &dyn Storage, entry: &SegmentEntry, how: SegmentOpening<'_>) -> Result<Opened> {
    let found = open_segment(storage, entry)?;
    let index = SegmentIndex::Active(index_anew(entry, &found, how.hash)?);
    found.opened(storage, entry, how, index)
}

/// Opens a listed segment's file and checks it by length, header and end mark.
fn open_segment(storage: &dyn Storage, entry: &SegmentEntry) -> Result<FoundFile> {
    let name = compacted::name_of(entry);
    let file = open_file(storage, entry, &name)?;
    let name = name.as_str();
    let len = file.len_when_opened().map_err(Error::io("measure", name))?;
    if len != entry.len {
        let what = format!("the file is {len} bytes long, the manifest says {}", entry.len);
        return Err(Error::corrupt(name, len.min(entry.len), Some(entry.first_position), what));
    }
    let mut page = vec![0; SEGMENT_HEADER_LEN];
    file.read_at(0, &mut page).map_err(Error::io("read", name))?;
    let header = match SegmentHeader::decode(&page) {
        Ok(Some(header)) => header,
        Ok(None) => return Err(Error::corrupt(name, 0, None, "the header is empty")),
        Err(fault) => return Err(Error::damaged(name, 0, None, &fault, 0)),
    };
    let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
    if header.identity != identity || header.segment_len != entry.len || header.first_position != entry.first_position {
        return Err(Error::corrupt(name, 40, None, "the header is that of another segment"));
    }
    check_end_mark(entry, &header, &*file, name)?;
    Ok(FoundFile { name: name.to_owned(), file, header })
}

/// The file that gives a listed segment's bytes. Of a container also that it is the one listed.
fn open_file(storage: &dyn Storage, entry: &SegmentEntry, name: &str) -> Result<Arc<dyn StorageFile>> {
    if entry.compacted.is_none() {
        return storage.open(name, Access::Read).map_err(|error| missing(name, entry, error));
    }
    match Container::open(storage, name, ReadMode::Pread, Some(entry)) {
        Err(Error::Io { source, .. }) => Err(missing(name, entry, source)),
        container => Ok(Arc::new(container?)),
    }
}

/// Makes the index file of a listed segment anew from its batches, which are verified.
///
/// # Errors
/// `Corrupt` or `Io` if the segment is damaged; `NoSpace`.
pub(crate) fn rebuild_index_of(
    storage: &dyn Storage,
    entry: &SegmentEntry,
    mode: ReadMode,
    hash: NameHash,
) -> Result<SegmentIndex> {
    let name = compacted::name_of(entry);
    let file = open_file(storage, entry, &name)?;
    let mut page = vec![0; SEGMENT_HEADER_LEN];
    file.read_at(0, &mut page).map_err(Error::io("read", &name))?;
    let header = match SegmentHeader::decode(&page) {
        Ok(Some(header)) => header,
        Ok(None) => return Err(Error::corrupt(&name, 0, None, "the header is empty")),
        Err(fault) => return Err(Error::damaged(&name, 0, None, &fault, 0)),
    };
    let found = FoundFile { name, file, header };
    let index = index_anew(entry, &found, hash)?;
    let FoundFile { name, file, header } = found;
    // A container is no file to be mapped.
    let mode_here = if entry.compacted.is_some() { ReadMode::Pread } else { mode };
    let segment = Segment::new(header, name, file, mode_here, SegmentIndex::Active(index))?;
    segment.close(Closing::listed(entry));
    let made = SealedIndex::build(storage, &Log::of_files(), hash, &segment)?;
    Ok(SegmentIndex::Sealed(Arc::new(made)))
}

/// The index as the batches give it; they are verified, and must be those that the manifest lists.
fn index_anew(entry: &SegmentEntry, found: &FoundFile, hash: NameHash) -> Result<Arc<ActiveIndex>> {
    let FoundFile { name, file, header } = found;
    let mut bytes = vec![0; entry.end as usize];
    let got = file.read_at(0, &mut bytes).map_err(Error::io("read", name))?;
    bytes.truncate(got);
    let (index, tally) = index_of(&bytes, header, name, hash)?;
    if tally.final_checksum.value() != entry.content_checksum() {
        return Err(Error::corrupt(name, entry.end, None, "the batches are not those the manifest lists"));
    }
    Ok(index)
}

/// The segment files that the manifest lists are there, so far as their names tell.
pub(crate) fn check_names(manifest: &Manifest, names: &[String]) -> Result<()> {
    let numbers = segment_numbers(names);
    let is_there = |entry: &SegmentEntry| match entry.compacted {
        None => numbers.binary_search(&entry.number).is_ok(),
        Some(_) => names.contains(&compacted::name_of(entry)),
    };
    match manifest.segments.iter().find(|entry| !is_there(entry)) {
        Some(entry) => Err(missing(&compacted::name_of(entry), entry, ErrorKind::NotFound.into())),
        None => Ok(()),
    }
}

fn missing(name: &str, entry: &SegmentEntry, error: std::io::Error) -> Error {
    if error.kind() == ErrorKind::NotFound {
        return Error::corrupt(name, 0, Some(entry.first_position), "the file is missing");
    }
    Error::io("open", name)(error)
}

fn check_end_mark(entry: &SegmentEntry, header: &SegmentHeader, file: &dyn StorageFile, name: &str) -> Result<()> {
    if entry.state != SegmentState::Sealed {
        return Ok(());
    }
    let mut bytes = vec![0; END_MARK_LEN];
    file.read_at(entry.end, &mut bytes).map_err(Error::io("read", name))?;
    let mark = EndMark::decode(&bytes, header.seed())
        .map_err(|fault| Error::damaged(name, entry.end, None, &fault, header.written_by))?;
    if mark.final_checksum != entry.final_checksum {
        return Err(Error::corrupt(name, entry.end, None, "the end mark's final checksum is not the manifest's"));
    }
    Ok(())
}

pub(super) fn needs_seal(segment: &Segment, manifest: &Manifest) -> bool {
    let number = segment.header.identity.segment;
    let is_listed = manifest.segments.binary_search_by_key(&number, |entry| entry.number).is_ok();
    segment.closing().is_some() && (!is_listed || segment.is_indexed_in_memory())
}
