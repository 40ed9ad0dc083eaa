//! The list of segments.

use annals_format::manifest::{self, Manifest, SegmentEntry};
use annals_format::segment::{SEGMENT_HEADER_LEN, SegmentHeader};

use super::survey::{self, End, Survey, Unchanged};
use super::{IndexState, SegmentInfo, SegmentState};
use crate::Result;
use crate::compacted;
use crate::name::NameHash;
use crate::options::ReadMode;
use crate::prepare::{index_name, segment_name};
use crate::recovery::scan::Scanned;
use crate::sealed_index;
use crate::storage::{Access, Storage};

pub(super) fn segments(storage: &dyn Storage) -> Result<Vec<SegmentInfo>> {
    let storage = &Unchanged(storage);
    survey::of_one_moment(storage, |survey, end| Ok(of(storage, survey, end)))
}

fn of(storage: &dyn Storage, survey: &Survey, end: Option<Result<End>>) -> Vec<SegmentInfo> {
    let mut found: Vec<SegmentInfo> = Vec::new();
    if let Some(manifest) = survey.manifest() {
        found.extend(manifest.segments.iter().map(|entry| listed(storage, survey, manifest, entry)));
    }
    if let Some(Ok(end)) = end {
        found.extend(end.tail.segments.iter().map(|scanned| scanned_info(survey, scanned)));
    }
    for number in &survey.numbers {
        if found.iter().all(|info| info.number != *number) {
            found.push(unlisted(storage, survey, *number));
        }
    }
    found.sort_by_key(|info| info.number);
    found
}

/// Length and header of a segment's file, as far as they can be read.
fn look_at(storage: &dyn Storage, name: &str) -> (u64, Option<SegmentHeader>) {
    let Ok(file) = storage.open(name, Access::Read) else { return (0, None) };
    let mut page = vec![0; SEGMENT_HEADER_LEN];
    let header = file.read_at(0, &mut page).ok().and_then(|got| SegmentHeader::decode(&page[..got]).ok().flatten());
    (file.len().unwrap_or(0), header)
}

fn listed(storage: &dyn Storage, survey: &Survey, manifest: &Manifest, entry: &SegmentEntry) -> SegmentInfo {
    let file = compacted::name_of(entry);
    let (len, _) = look_at(storage, &file);
    let has_records = entry.last_position >= entry.first_position;
    let index = index_name(entry.number);
    SegmentInfo {
        number: entry.number,
        file,
        state: match entry.state {
            _ if entry.compacted.is_some() => SegmentState::Compacted,
            manifest::SegmentState::Sealed => SegmentState::Sealed,
            manifest::SegmentState::Cut => SegmentState::Cut,
        },
        len,
        end: entry.end,
        first_position: has_records.then_some(entry.first_position),
        last_position: has_records.then_some(entry.last_position),
        events: entry.event_count,
        first_time: has_records.then_some(entry.first_time),
        last_time: has_records.then_some(entry.last_time),
        index: if survey.has(&index) { index_state(storage, manifest, entry) } else { IndexState::Missing },
        incarnation: entry.incarnation,
    }
}

fn index_state(storage: &dyn Storage, manifest: &Manifest, entry: &SegmentEntry) -> IndexState {
    let hash = NameHash { seed: manifest.name_hash_seed };
    match sealed_index::load(storage, entry, ReadMode::Pread, hash) {
        Ok(_) => IndexState::Present,
        Err(_) => IndexState::Damaged,
    }
}

fn scanned_info(survey: &Survey, scanned: &Scanned) -> SegmentInfo {
    let tally = &scanned.tally;
    let has_records = tally.batch_count > 0;
    let number = scanned.header.identity.segment;
    SegmentInfo {
        number,
        file: scanned.name.clone(),
        state: if scanned.end_mark.is_some() { SegmentState::Sealed } else { SegmentState::Active },
        len: scanned.header.segment_len,
        end: scanned.end,
        first_position: has_records.then_some(scanned.header.first_position),
        last_position: has_records.then_some(tally.last_position),
        events: tally.event_count,
        first_time: has_records.then_some(tally.first_time),
        last_time: has_records.then_some(tally.last_time),
        index: if survey.has(&index_name(number)) { IndexState::Present } else { IndexState::Missing },
        incarnation: scanned.header.identity.incarnation,
    }
}

fn unlisted(storage: &dyn Storage, survey: &Survey, number: u64) -> SegmentInfo {
    let (len, header) = look_at(storage, &segment_name(number));
    SegmentInfo {
        number,
        file: segment_name(number),
        state: SegmentState::Unlisted,
        len,
        end: 0,
        first_position: None,
        last_position: None,
        events: 0,
        first_time: None,
        last_time: None,
        index: if survey.has(&index_name(number)) { IndexState::Present } else { IndexState::Missing },
        incarnation: header.map_or([0; 16], |header| header.identity.incarnation),
    }
}
