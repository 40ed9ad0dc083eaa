//! Segments that the manifest lists: opened, checked, and entered there.

use std::sync::Arc;

use annals_format::checksum::Identity;
use annals_format::manifest::{Manifest, SegmentEntry, SegmentState};
use annals_format::segment::{END_MARK_LEN, EndMark, FinalChecksum, SEGMENT_HEADER_LEN, SegmentHeader};

use super::reindex::index_of;
use crate::Result;
use crate::error::Error;
use crate::log::Log;
use crate::name::NameHash;
use crate::options::ReadMode;
use crate::prepare::{index_name, segment_name};
use crate::sealed_index::SealedIndex;
use crate::segment::{Closing, Segment, SegmentIndex, Tally};
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
    }
}

/// What to do with an index that is missing or damaged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rebuild {
    /// Write it anew.
    Write,
    /// Keep it in memory: nothing may be written.
    Memory,
}

/// A segment of the manifest with its index, and the index file's name if that had to be rebuilt.
pub(crate) fn open_listed_segment(
    storage: &dyn Storage,
    entry: &SegmentEntry,
    mode: ReadMode,
    hash: NameHash,
    rebuild: Rebuild,
) -> Result<(Segment, Option<String>)> {
    let name = segment_name(entry.number);
    let file = storage.open(&name, Access::Read).map_err(|error| missing(&name, entry, error))?;
    let len = file.len().map_err(Error::io("measure", &name))?;
    if len != entry.len {
        let what = format!("the file is {len} bytes long, the manifest says {}", entry.len);
        return Err(Error::corrupt(&name, len.min(entry.len), Some(entry.first_position), what));
    }
    let mut page = vec![0; SEGMENT_HEADER_LEN];
    file.read_at(0, &mut page).map_err(Error::io("read", &name))?;
    let header = match SegmentHeader::decode(&page) {
        Ok(Some(header)) => header,
        Ok(None) => return Err(Error::corrupt(&name, 0, None, "the header is empty")),
        Err(fault) => return Err(Error::damaged(&name, 0, None, &fault, 0)),
    };
    let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
    if header.identity != identity || header.segment_len != entry.len || header.first_position != entry.first_position {
        return Err(Error::corrupt(&name, 40, None, "the header is that of another segment"));
    }
    let closing = listed_closing(entry, &header, &*file, &name)?;
    let loaded = SealedIndex::load(storage, &header, entry, mode, hash);
    let mut rebuilt = None;
    let index = match loaded {
        Ok(index) => SegmentIndex::Sealed(Arc::new(index)),
        Err(error @ Error::Unsupported { .. }) => return Err(error),
        Err(_) => {
            let mut bytes = vec![0; entry.end as usize];
            let got = file.read_at(0, &mut bytes).map_err(Error::io("read", &name))?;
            bytes.truncate(got);
            let (index, tally) = index_of(&bytes, &header, &name, hash)?;
            if tally.final_checksum.value() != entry.final_checksum {
                return Err(Error::corrupt(&name, entry.end, None, "the batches are not those the manifest lists"));
            }
            rebuilt = Some(index_name(entry.number));
            SegmentIndex::Active(index)
        }
    };
    let segment = Segment::new(header, name, file, mode, index)?;
    segment.close(closing);
    if rebuilt.is_some() && rebuild == Rebuild::Write {
        let no_log = Log::of_files();
        // Without room for the file the index serves from memory; the next opening tries again.
        if let Ok(index) = SealedIndex::build(storage, &no_log, hash, &segment) {
            segment.set_index(SegmentIndex::Sealed(Arc::new(index)));
        }
    }
    Ok((segment, rebuilt))
}

fn missing(name: &str, entry: &SegmentEntry, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Error::corrupt(name, 0, Some(entry.first_position), "the file is missing");
    }
    Error::io("open", name)(error)
}

/// A listed segment's end, checked against its end mark.
fn listed_closing(entry: &SegmentEntry, header: &SegmentHeader, file: &dyn StorageFile, name: &str) -> Result<Closing> {
    if entry.state == SegmentState::Sealed {
        let mut bytes = vec![0; END_MARK_LEN];
        file.read_at(entry.end, &mut bytes).map_err(Error::io("read", name))?;
        let mark = EndMark::decode(&bytes, header.seed())
            .map_err(|fault| Error::damaged(name, entry.end, None, &fault, header.written_by))?;
        if mark.final_checksum != entry.final_checksum {
            return Err(Error::corrupt(name, entry.end, None, "the end mark's final checksum is not the manifest's"));
        }
    }
    let records = (entry.last_position + 1).saturating_sub(entry.first_position);
    let tally = Tally {
        final_checksum: FinalChecksum::from_value(entry.final_checksum),
        last_position: if records == 0 { 0 } else { entry.last_position },
        first_time: entry.first_time,
        last_time: entry.last_time,
        batch_count: records,
        event_count: entry.event_count,
        control_count: records.saturating_sub(entry.event_count),
    };
    Ok(Closing { end: entry.end, state: entry.state, tally })
}

pub(super) fn needs_seal(segment: &Segment, manifest: &Manifest) -> bool {
    let number = segment.header.identity.segment;
    let is_listed = manifest.segments.iter().any(|entry| entry.number == number);
    segment.closing().is_some() && (!is_listed || matches!(&**segment.index(), SegmentIndex::Active(_)))
}
