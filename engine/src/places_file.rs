//! The index file of a segment that a tier covers: where the records lie, and nothing else.
//!
//! It has the name of the whole index and takes its place by a rename, so a segment has the one or the other. Whoever needs
//! keys, ids or names of such a segment, because its tier is broken or gone, has the whole index made anew from the log
//! ([`Segment::opened_with_keys`]).

use std::io::ErrorKind;

use annals_format::index::{self, ArchivedIndexRoot};
use annals_format::index_file::{FileBytes, FileHeader, FileIdentity, FileKind, Verified};
use annals_format::manifest::SegmentEntry;
use annals_format::packed_places::{self, PackedLayout};
use annals_format::places::{self, BatchRow, PlacesLayout};
use annals_format::{Fault, Purpose};

use crate::Result;
use crate::error::Error;
use crate::manifest::read_whole;
use crate::name::NameHash;
use crate::options::ReadMode;
use crate::place_table::PlaceTable;
use crate::prepare::index_name;
use crate::sealed_index::{CONTENT_GENERATION, IndexFile, replace};
use crate::segment::{Segment, SegmentIndex};
use crate::storage::{Access, Map, Storage};

/// No file of places is longer.
const FILE_LEN_MAX: u64 = 1 << 31;

/// What the file of this segment says of itself.
fn identity(entry: &SegmentEntry, hash: NameHash, kind: FileKind) -> FileIdentity {
    FileIdentity {
        kind,
        store: entry.store,
        number: entry.number,
        generation: CONTENT_GENERATION,
        name_hash_seed: hash.seed,
        first_position: entry.first_position,
        last_position: entry.last_position,
        final_checksum: entry.final_checksum,
    }
}

/// Where the rows of a file of places lie.
pub(crate) enum Layout {
    Plain(PlacesLayout),
    Packed(PackedLayout),
}

/// Verifies all of it. Any error but `Unsupported` means: make the index anew.
pub(crate) fn verified(bytes: &[u8], entry: &SegmentEntry, hash: NameHash) -> Result<Layout, Fault> {
    let header = FileHeader::decode_for(bytes, Purpose::Read)?;
    let kind = if is_packed(bytes) { FileKind::PackedPlaces } else { FileKind::Places };
    if header.identity != identity(entry, hash, kind) {
        return Err(Fault::Identity { what: "segment of the places" });
    }
    header.table.verify(bytes)?;
    header.table.check_all(bytes)?;
    match kind {
        FileKind::PackedPlaces => PackedLayout::read(bytes, &header).map(Layout::Packed),
        _ => PlacesLayout::read(bytes, &header).map(Layout::Plain),
    }
}

/// Whether the bytes of a file of places are those of packed ones, as far as its header tells.
pub(crate) fn is_packed(bytes: &[u8]) -> bool {
    FileHeader::decode_for(bytes, Purpose::Read).is_ok_and(|header| header.identity.kind == FileKind::PackedPlaces)
}

/// The table in a file whose content was verified.
pub(crate) fn table(map: Map, layout: &Layout) -> Option<PlaceTable> {
    match layout {
        Layout::Plain(layout) => PlaceTable::new(map, layout.offsets(), layout.batches()),
        Layout::Packed(layout) => PlaceTable::packed(map, layout),
    }
}

/// The file, from the bytes of a whole index of the same segment.
pub(crate) fn of_whole(whole: &[u8], entry: &SegmentEntry, hash: NameHash, packed: bool) -> Result<FileBytes> {
    let damaged = |fault| Error::damaged(&index_name(entry.number), 0, None, &fault, 0);
    encoded(index::access(whole).map_err(damaged)?, entry, hash, packed)
}

/// The file, from the rows of a whole index of the same segment.
fn encoded(rows: &ArchivedIndexRoot, entry: &SegmentEntry, hash: NameHash, packed: bool) -> Result<FileBytes> {
    let offsets = rows.offsets.iter().map(|offset| offset.to_native());
    let batches = rows.batches().map(|batch| BatchRow {
        first: batch.first,
        offset: (batch.offset / 8) as u32,
        recorded_at: batch.recorded_at,
    });
    let made = match packed {
        true => {
            let offsets: Vec<u32> = offsets.collect();
            let batches = batches.map(|batch| (batch.first, batch.offset));
            packed_places::encode(&identity(entry, hash, FileKind::PackedPlaces), &offsets, batches)
        }
        false => places::encode(&identity(entry, hash, FileKind::Places), offsets, batches),
    };
    made.map_err(|fault| Error::damaged(&index_name(entry.number), 0, None, &fault, 0))
}

/// Packed ones from plain ones.
fn repacked(bytes: &[u8], layout: &PlacesLayout, entry: &SegmentEntry, hash: NameHash) -> Result<FileBytes, Fault> {
    let rows = layout.over(bytes, Verified);
    let offset = |record| {
        let Ok(offset) = rows.offset(record);
        offset.map_or(0, |offset| (offset / 8) as u32)
    };
    let offsets: Vec<u32> = (0..layout.record_count()).map(offset).collect();
    let batches = (0..layout.batch_count()).filter_map(|number| {
        let Ok(batch) = rows.batch(number);
        batch.map(|batch| (batch.first, batch.offset))
    });
    packed_places::encode(&identity(entry, hash, FileKind::PackedPlaces), &offsets, batches)
}

/// Puts places in the place of the whole index of a listed segment, durably; packed ones if it is compacted, also in the place of
/// plain ones. False if there is nothing to do.
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
    let packed = entry.compacted.is_some();
    let loaded;
    let opened = segment.if_opened();
    let index = match opened.as_ref().map(|opened| &opened.index) {
        Some(SegmentIndex::Sealed(index)) => Some(index),
        Some(SegmentIndex::Places(table)) if packed && !table.is_packed() => None,
        Some(_) => return Ok(false),
        None => {
            let file = match storage.open(&name, Access::Read) {
                Ok(file) => file,
                // Made anew when somebody comes to the segment.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(Error::io("open", &name)(error)),
            };
            match IndexFile::kind_of(&*file, &name)? {
                Some(IndexFile::Whole) => match crate::sealed_index::load(storage, entry, mode, hash)? {
                    SegmentIndex::Sealed(index) => {
                        loaded = index;
                        Some(&loaded)
                    }
                    _ => return Ok(false),
                },
                Some(IndexFile::Places) if packed => None,
                _ => return Ok(false),
            }
        }
    };
    let bytes = match index {
        Some(index) => encoded(index.rows()?, entry, hash, packed)?,
        None => {
            let plain = read_whole(storage, &name, FILE_LEN_MAX)?;
            let mut aligned = FileBytes::new();
            aligned.extend_from_slice(&plain);
            let damaged = |fault| Error::damaged(&name, 0, None, &fault, 0);
            match verified(&aligned, entry, hash).map_err(damaged)? {
                Layout::Packed(_) => return Ok(false),
                Layout::Plain(layout) => repacked(&aligned, &layout, entry, hash).map_err(damaged)?,
            }
        }
    };
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
