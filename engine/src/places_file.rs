//! The index file of a segment that a tier covers: where the records lie, and nothing else.
//!
//! It has the name of the whole index and takes its place by a rename, so a segment has the one or the other. Whoever needs
//! keys, ids or names of such a segment, because its tier is broken or gone, has the whole index made anew from the log
//! ([`Segment::opened_with_keys`]).

use std::io::ErrorKind;

use annals_format::index::{self, ArchivedIndexRoot};
use annals_format::index_file::{FileBytes, FileHeader, FileIdentity, FileKind};
use annals_format::manifest::SegmentEntry;
use annals_format::places::{self, BatchRow, PlacesLayout};
use annals_format::{Fault, Purpose};

use crate::Result;
use crate::error::Error;
use crate::name::NameHash;
use crate::options::ReadMode;
use crate::place_table::PlaceTable;
use crate::prepare::index_name;
use crate::sealed_index::{CONTENT_GENERATION, IndexFile, replace};
use crate::segment::{Segment, SegmentIndex};
use crate::storage::{Access, Map, Storage};

/// What the file of this segment says of itself.
fn identity(entry: &SegmentEntry, hash: NameHash) -> FileIdentity {
    FileIdentity {
        kind: FileKind::Places,
        store: entry.store,
        number: entry.number,
        generation: CONTENT_GENERATION,
        name_hash_seed: hash.seed,
        first_position: entry.first_position,
        last_position: entry.last_position,
        final_checksum: entry.final_checksum,
    }
}

/// Verifies all of it. Any error but `Unsupported` means: make the index anew.
pub(crate) fn verified(bytes: &[u8], entry: &SegmentEntry, hash: NameHash) -> Result<PlacesLayout, Fault> {
    let header = FileHeader::decode_for(bytes, Purpose::Read)?;
    if header.identity != identity(entry, hash) {
        return Err(Fault::Identity { what: "segment of the places" });
    }
    header.table.verify(bytes)?;
    header.table.check_all(bytes)?;
    PlacesLayout::read(bytes, &header)
}

/// The table in a file whose content was verified.
pub(crate) fn table(map: Map, layout: &PlacesLayout) -> Option<PlaceTable> {
    PlaceTable::new(map, layout.offsets(), layout.batches())
}

/// The file, from the bytes of a whole index of the same segment.
pub(crate) fn of_whole(whole: &[u8], entry: &SegmentEntry, hash: NameHash) -> Result<FileBytes> {
    let damaged = |fault| Error::damaged(&index_name(entry.number), 0, None, &fault, 0);
    encoded(index::access(whole).map_err(damaged)?, entry, hash)
}

/// The file, from the rows of a whole index of the same segment.
fn encoded(rows: &ArchivedIndexRoot, entry: &SegmentEntry, hash: NameHash) -> Result<FileBytes> {
    let batches = rows.batches().map(|batch| BatchRow {
        first: batch.first,
        offset: (batch.offset / 8) as u32,
        recorded_at: batch.recorded_at,
    });
    let offsets = rows.offsets.iter().map(|offset| offset.to_native());
    places::encode(&identity(entry, hash), offsets, batches)
        .map_err(|fault| Error::damaged(&index_name(entry.number), 0, None, &fault, 0))
}

/// Puts places in the place of the whole index of a listed segment, durably. False if there is no whole index.
///
/// The caller has seen that tiers and directory hold the rest.
pub(crate) fn shrink(
    storage: &dyn Storage,
    segment: &Segment,
    entry: &SegmentEntry,
    mode: ReadMode,
    hash: NameHash,
) -> Result<bool> {
    segment.replacing_index(|| replace_whole(storage, segment, entry, mode, hash))
}

fn replace_whole(
    storage: &dyn Storage,
    segment: &Segment,
    entry: &SegmentEntry,
    mode: ReadMode,
    hash: NameHash,
) -> Result<bool> {
    let name = index_name(entry.number);
    let loaded;
    let opened = segment.if_opened();
    let index = match opened.as_ref().map(|opened| &opened.index) {
        Some(SegmentIndex::Sealed(index)) => index,
        Some(_) => return Ok(false),
        None => {
            let file = match storage.open(&name, Access::Read) {
                Ok(file) => file,
                // Made anew when somebody comes to the segment.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(Error::io("open", &name)(error)),
            };
            if IndexFile::kind_of(&*file, &name)? != Some(IndexFile::Whole) {
                return Ok(false);
            }
            match crate::sealed_index::load(storage, entry, mode, hash)? {
                SegmentIndex::Sealed(index) => loaded = index,
                _ => return Ok(false),
            }
            &loaded
        }
    };
    let bytes = encoded(index.rows()?, entry, hash)?;
    replace(storage, &name, &bytes)?;
    drop(opened);
    let layout = verified(&bytes, entry, hash).map_err(|fault| Error::damaged(&name, 0, None, &fault, 0))?;
    let map = match mode {
        ReadMode::Mapped => {
            let file = storage.open(&name, Access::Read).map_err(Error::io("open", &name))?;
            file.map().map_err(Error::io("map", &name))?
        }
        ReadMode::Pread => Map::from(&bytes[..]),
    };
    if let Some(table) = table(map, &layout) {
        segment.set_places(table);
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
