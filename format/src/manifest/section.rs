//! The manifest's sections: lists of entries, each behind its kind and length.

use super::{
    AncestorEntry, CompactedEntry, IncarnationEntry, LostEntry, Manifest, SegmentEntry, SegmentState, SnapshotFileEntry,
};
use crate::Fault;
use crate::field::{array_at, check_reserved, number_at, numbered_at, put, u8_at, u32_at, u64_at};
use crate::segment::SegmentKind;

const KIND_INCARNATIONS: u32 = 1;
const KIND_SEGMENTS: u32 = 2;
const KIND_ANCESTORS: u32 = 3;
/// Numbers of the segments that hold typed sections.
const KIND_SECTIONED: u32 = 7;
const KIND_LOST: u32 = 8;
/// The containers of compacted segments.
const KIND_COMPACTED: u32 = 9;
const KIND_SNAPSHOTS: u32 = 10;
/// A section that may be passed over by who does not know its kind.
const MAY_IGNORE: u32 = 1 << 31;
const SECTION_HEADER_LEN: usize = 8;
const INCARNATION_LEN: usize = 24;
const SEGMENT_LEN: usize = 112;
const ANCESTOR_LEN: usize = 48;
const LOST_LEN: usize = 16;
const SNAPSHOT_FILE_LEN: usize = 56;
const NUMBER_LEN: usize = 8;
const COMPACTED_LEN: usize = 48;

/// Appends the sections and answers how many there are: two, and each other one that is not empty.
pub(super) fn encode(bytes: &mut Vec<u8>, manifest: &Manifest) -> u32 {
    let mut count = 2;
    begin(bytes, KIND_INCARNATIONS, manifest.incarnations.len() * INCARNATION_LEN);
    for entry in &manifest.incarnations {
        bytes.extend_from_slice(&entry.incarnation);
        bytes.extend_from_slice(&entry.first_position.to_le_bytes());
    }
    begin(bytes, KIND_SEGMENTS, manifest.segments.len() * SEGMENT_LEN);
    for entry in &manifest.segments {
        bytes.extend_from_slice(&encode_segment(entry));
    }
    let sectioned = || manifest.segments.iter().filter(|entry| entry.has_sections);
    if sectioned().next().is_some() {
        count += 1;
        begin(bytes, KIND_SECTIONED, sectioned().count() * NUMBER_LEN);
        sectioned().for_each(|entry| bytes.extend_from_slice(&entry.number.to_le_bytes()));
    }
    let compacted = || manifest.segments.iter().filter_map(|entry| Some((entry.number, entry.compacted?)));
    if compacted().next().is_some() {
        count += 1;
        begin(bytes, KIND_COMPACTED, compacted().count() * COMPACTED_LEN);
        for (number, container) in compacted() {
            for value in [number, container.file_len, container.removed_upto, container.removed_count] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            bytes.extend_from_slice(&container.content_checksum.to_le_bytes());
            bytes.extend_from_slice(&container.root.to_le_bytes());
            bytes.extend_from_slice(&[0; 8]);
        }
    }
    if !manifest.ancestors.is_empty() {
        count += 1;
        begin(bytes, KIND_ANCESTORS, manifest.ancestors.len() * ANCESTOR_LEN);
        for entry in &manifest.ancestors {
            bytes.extend_from_slice(&entry.store);
            bytes.extend_from_slice(&entry.incarnation);
            bytes.extend_from_slice(&entry.last_position.to_le_bytes());
            bytes.extend_from_slice(&[0; 8]);
        }
    }
    if !manifest.lost.is_empty() {
        count += 1;
        begin(bytes, KIND_LOST, manifest.lost.len() * LOST_LEN);
        for entry in &manifest.lost {
            bytes.extend_from_slice(&entry.first_position.to_le_bytes());
            bytes.extend_from_slice(&entry.last_position.to_le_bytes());
        }
    }
    if !manifest.snapshots.is_empty() {
        count += 1;
        begin(bytes, KIND_SNAPSHOTS, manifest.snapshots.len() * SNAPSHOT_FILE_LEN);
        for entry in &manifest.snapshots {
            bytes.extend_from_slice(&encode_snapshot_file(entry));
        }
    }
    count
}

fn begin(bytes: &mut Vec<u8>, kind: u32, len: usize) {
    let len = u32::try_from(len).expect("a store has fewer than 38 million segments");
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
}

fn encode_segment(entry: &SegmentEntry) -> [u8; SEGMENT_LEN] {
    let mut bytes = [0; SEGMENT_LEN];
    put(&mut bytes, 0, entry.number.to_le_bytes());
    put(&mut bytes, 8, entry.generation.to_le_bytes());
    put(&mut bytes, 16, entry.incarnation);
    put(&mut bytes, 32, entry.store);
    let numbers = [entry.len, entry.end, entry.first_position, entry.last_position, entry.first_time, entry.last_time];
    for (n, number) in numbers.into_iter().enumerate() {
        put(&mut bytes, 48 + 8 * n, number.to_le_bytes());
    }
    put(&mut bytes, 96, entry.final_checksum.to_le_bytes());
    bytes[100] = match entry.state {
        SegmentState::Sealed => 1,
        SegmentState::Cut => 2,
    };
    bytes[101] = entry.kind.to_byte();
    put(&mut bytes, 104, entry.event_count.to_le_bytes());
    bytes
}

fn encode_snapshot_file(entry: &SnapshotFileEntry) -> [u8; SNAPSHOT_FILE_LEN] {
    let mut bytes = [0; SNAPSHOT_FILE_LEN];
    put(&mut bytes, 0, entry.number.to_le_bytes());
    put(&mut bytes, 8, entry.id);
    put(&mut bytes, 24, entry.len.to_le_bytes());
    put(&mut bytes, 32, entry.end.to_le_bytes());
    put(&mut bytes, 40, entry.frame_count.to_le_bytes());
    bytes[48] = if entry.is_ended { 2 } else { 1 };
    bytes
}

fn decode_snapshot_file(bytes: &[u8]) -> Result<SnapshotFileEntry, Fault> {
    check_reserved(bytes, 49, SNAPSHOT_FILE_LEN, "reserved bytes of an entry of a file of snapshots")?;
    Ok(SnapshotFileEntry {
        number: numbered_at(bytes, 0, "number of a file of snapshots")?,
        id: array_at(bytes, 8),
        len: number_at(bytes, 24, "length of a file of snapshots")?,
        end: number_at(bytes, 32, "end of a file of snapshots")?,
        frame_count: number_at(bytes, 40, "number of snapshots")?,
        is_ended: match u8_at(bytes, 48) {
            1 => false,
            2 => true,
            state => return Err(Fault::Unsupported { what: "state of a file of snapshots", value: state.into() }),
        },
    })
}

fn decode_segment(bytes: &[u8]) -> Result<SegmentEntry, Fault> {
    check_reserved(bytes, 102, 104, "reserved bytes of a segment entry")?;
    Ok(SegmentEntry {
        number: numbered_at(bytes, 0, "segment number")?,
        generation: number_at(bytes, 8, "segment generation")?,
        incarnation: array_at(bytes, 16),
        store: array_at(bytes, 32),
        len: number_at(bytes, 48, "segment length")?,
        end: number_at(bytes, 56, "end of a segment")?,
        first_position: numbered_at(bytes, 64, "first position of a segment")?,
        last_position: number_at(bytes, 72, "last position of a segment")?,
        first_time: u64_at(bytes, 80),
        last_time: u64_at(bytes, 88),
        final_checksum: u32_at(bytes, 96),
        state: match u8_at(bytes, 100) {
            1 => SegmentState::Sealed,
            2 => SegmentState::Cut,
            state => return Err(Fault::Unsupported { what: "segment state", value: state.into() }),
        },
        kind: SegmentKind::from_byte(u8_at(bytes, 101))?,
        event_count: number_at(bytes, 104, "number of events of a segment")?,
        // Said by sections of their own.
        has_sections: false,
        compacted: None,
    })
}

fn decode_compacted(bytes: &[u8]) -> Result<(u64, CompactedEntry), Fault> {
    check_reserved(bytes, 40, COMPACTED_LEN, "reserved bytes of a compacted segment's entry")?;
    let container = CompactedEntry {
        file_len: number_at(bytes, 8, "length of a container")?,
        removed_upto: number_at(bytes, 16, "removals of a compacted segment")?,
        removed_count: number_at(bytes, 24, "number of events taken out of a segment")?,
        content_checksum: u32_at(bytes, 32),
        root: u32_at(bytes, 36),
    };
    Ok((numbered_at(bytes, 0, "segment number")?, container))
}

fn decode_incarnation(bytes: &[u8]) -> Result<IncarnationEntry, Fault> {
    Ok(IncarnationEntry {
        incarnation: array_at(bytes, 0),
        first_position: numbered_at(bytes, 16, "first position of an incarnation")?,
    })
}

fn decode_ancestor(bytes: &[u8]) -> Result<AncestorEntry, Fault> {
    check_reserved(bytes, 40, ANCESTOR_LEN, "reserved bytes of an ancestor")?;
    Ok(AncestorEntry {
        store: array_at(bytes, 0),
        incarnation: array_at(bytes, 16),
        last_position: number_at(bytes, 32, "last position of an ancestor")?,
    })
}

fn decode_lost(bytes: &[u8]) -> Result<LostEntry, Fault> {
    Ok(LostEntry {
        first_position: numbered_at(bytes, 0, "first position of a lost range")?,
        last_position: numbered_at(bytes, 8, "last position of a lost range")?,
    })
}

/// What the known sections hold.
pub(super) struct Sections {
    pub(super) incarnations: Vec<IncarnationEntry>,
    pub(super) segments: Vec<SegmentEntry>,
    pub(super) ancestors: Vec<AncestorEntry>,
    pub(super) lost: Vec<LostEntry>,
    pub(super) snapshots: Vec<SnapshotFileEntry>,
}

impl Sections {
    /// Reads `count` sections that fill `bytes`.
    pub(super) fn decode(mut bytes: &[u8], count: u32) -> Result<Self, Fault> {
        let mut incarnations = None;
        let mut segments = None;
        let mut ancestors = None;
        let mut lost = None;
        let mut sectioned = None;
        let mut compacted = None;
        let mut snapshots = None;
        for _ in 0..count {
            if bytes.len() < SECTION_HEADER_LEN {
                return Err(Fault::Truncated { need: SECTION_HEADER_LEN as u64, have: bytes.len() as u64 });
            }
            let (kind, len) = (u32_at(bytes, 0), u32_at(bytes, 4));
            let body = bytes.get(SECTION_HEADER_LEN..).unwrap_or_default();
            let Some((section, rest)) = body.split_at_checked(len as usize) else {
                return Err(Fault::Length { what: "length of a section", value: len.into() });
            };
            bytes = rest;
            match kind {
                KIND_INCARNATIONS => fill(&mut incarnations, entries(section, INCARNATION_LEN, decode_incarnation)?)?,
                KIND_SEGMENTS => fill(&mut segments, entries(section, SEGMENT_LEN, decode_segment)?)?,
                KIND_ANCESTORS => fill(&mut ancestors, entries(section, ANCESTOR_LEN, decode_ancestor)?)?,
                KIND_LOST => fill(&mut lost, entries(section, LOST_LEN, decode_lost)?)?,
                KIND_SNAPSHOTS => {
                    fill(&mut snapshots, entries(section, SNAPSHOT_FILE_LEN, decode_snapshot_file)?)?;
                }
                KIND_SECTIONED => fill(
                    &mut sectioned,
                    entries(section, NUMBER_LEN, |bytes| numbered_at(bytes, 0, "segment number"))?,
                )?,
                KIND_COMPACTED => fill(&mut compacted, entries(section, COMPACTED_LEN, decode_compacted)?)?,
                kind if kind & MAY_IGNORE != 0 => {}
                kind => return Err(Fault::Unsupported { what: "section kind", value: kind.into() }),
            }
        }
        if !bytes.is_empty() {
            return Err(Fault::Length { what: "bytes after the last section", value: bytes.len() as u64 });
        }
        let mut segments = segments.unwrap_or_default();
        if let Some(numbers) = sectioned {
            note_sectioned(&mut segments, &numbers)?;
        }
        if let Some(containers) = compacted {
            note_compacted(&mut segments, &containers)?;
        }
        Ok(Self {
            incarnations: incarnations.unwrap_or_default(),
            segments,
            ancestors: ancestors.unwrap_or_default(),
            lost: lost.unwrap_or_default(),
            snapshots: snapshots.unwrap_or_default(),
        })
    }
}

/// Each number is that of a listed segment, in the order of the list.
fn note_sectioned(segments: &mut [SegmentEntry], numbers: &[u64]) -> Result<(), Fault> {
    if numbers.is_empty() {
        return Err(Fault::Count { what: "number of segments with sections", value: 0 });
    }
    let mut rest = segments.iter_mut();
    for number in numbers {
        let Some(entry) = rest.find(|entry| entry.number == *number) else {
            return Err(Fault::Order { what: "segments with sections" });
        };
        entry.has_sections = true;
    }
    Ok(())
}

/// As [`note_sectioned`], for containers. Each segment of that kind has one, which [`Manifest`] checks.
fn note_compacted(segments: &mut [SegmentEntry], containers: &[(u64, CompactedEntry)]) -> Result<(), Fault> {
    if containers.is_empty() {
        return Err(Fault::Count { what: "number of compacted segments", value: 0 });
    }
    let mut rest = segments.iter_mut();
    for (number, container) in containers {
        let Some(entry) = rest.find(|entry| entry.number == *number) else {
            return Err(Fault::Order { what: "compacted segments" });
        };
        entry.compacted = Some(*container);
    }
    Ok(())
}

fn fill<T>(slot: &mut Option<Vec<T>>, entries: Vec<T>) -> Result<(), Fault> {
    if slot.replace(entries).is_some() { Err(Fault::Order { what: "sections" }) } else { Ok(()) }
}

fn entries<T>(bytes: &[u8], len: usize, decode: impl Fn(&[u8]) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
    if !bytes.len().is_multiple_of(len) {
        return Err(Fault::Length { what: "length of a section", value: bytes.len() as u64 });
    }
    bytes.chunks_exact(len).map(decode).collect()
}
