//! The streams of ended segments, gathered from their indexes.

use std::cmp::Reverse;
use std::sync::Arc;

use annals_format::Fault;
use annals_format::directory::{DirectoryRow, DirectoryTip};
use annals_format::index::ArchivedIndexRoot;
use annals_format::manifest::SegmentEntry;

use crate::Result;
use crate::name::{KeyKind, NameHash};
use crate::sealed_index::SealedIndex;
use crate::segment::{Segment, SegmentIndex};

/// With so many streams, each counted once a segment, a file is made of what was gathered so far: 24 bytes of memory each.
const ROWS_ENOUGH: u64 = 1 << 18;

/// Segments that the directory does not cover yet, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    segments: Vec<(Arc<SealedIndex>, SegmentEntry)>,
    rows: u64,
}

impl Pending {
    /// Those after `coverage` that the manifest lists and that have an index file, without a gap, until they are enough for
    /// one file. Opens them.
    pub(crate) fn after(coverage: u64, segments: &[Arc<Segment>], listed: &[SegmentEntry]) -> Self {
        let mut pending = Self::default();
        let from = listed.partition_point(|entry| entry.last_position <= coverage);
        for entry in listed[from..].iter().filter(|entry| entry.last_position >= entry.first_position) {
            if pending.rows >= ROWS_ENOUGH {
                break;
            }
            let Some(index) = sealed_index(segments, entry.number) else { break };
            let Ok(root) = index.rows() else { break };
            pending.rows += u64::from(root.stream_count());
            pending.segments.push((index, entry.clone()));
        }
        pending
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// How many streams they have, each counted once a segment.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// The last position.
    pub(super) fn last_position(&self) -> u64 {
        self.segments.last().map_or(0, |(_, entry)| entry.last_position)
    }

    /// Every stream once, with its last event.
    pub(super) fn gather(&self, hash: NameHash) -> Result<Gathered<'_>, Fault> {
        let mut gathered = Gathered { roots: Vec::with_capacity(self.segments.len()), rows: Vec::new() };
        gathered.rows.reserve_exact(self.rows as usize);
        for (number, (index, entry)) in (0..).zip(&self.segments) {
            let root = index.rows().map_err(|_| Fault::Structure { what: "archive" })?;
            if root.first_position.to_native() != entry.first_position {
                return Err(Fault::Identity { what: "positions of an index" });
            }
            for (row, stream) in (0..).zip(root.streams_from(b"")) {
                let name = std::str::from_utf8(stream.name).map_err(|_| Fault::Name { what: "a name in the index" })?;
                gathered.rows.push(GatheredRow {
                    hash: hash.key(KeyKind::Stream, name),
                    position: entry.first_position + u64::from(stream.last),
                    segment: number,
                    row,
                });
            }
            gathered.roots.push(root);
        }
        gathered.sort();
        Ok(gathered)
    }
}

pub(crate) fn sealed_index(segments: &[Arc<Segment>], number: u64) -> Option<Arc<SealedIndex>> {
    let at = segments.binary_search_by_key(&number, |segment| segment.header.identity.segment).ok()?;
    match &segments[at].opened_with_keys().ok()?.index {
        SegmentIndex::Sealed(index) => Some(index.clone()),
        SegmentIndex::Active(_) | SegmentIndex::Places(_) | SegmentIndex::Unread => None,
    }
}

/// Rows in the order of a directory, their names where they were found.
pub(super) struct Gathered<'a> {
    roots: Vec<&'a ArchivedIndexRoot>,
    rows: Vec<GatheredRow>,
}

#[derive(Clone, Copy, Debug)]
struct GatheredRow {
    hash: u64,
    position: u64,
    /// Which of the segments, and which of its streams.
    segment: u32,
    row: u32,
}

const _: () = assert!(size_of::<GatheredRow>() == 24);

impl<'a> Gathered<'a> {
    pub(super) fn row(&self, number: usize) -> Option<DirectoryRow<'a>> {
        let row = self.rows.get(number)?;
        let stream = self.roots[row.segment as usize].stream_at(row.row)?;
        let tip = DirectoryTip { revision: stream.last_revision, position: row.position };
        Some(DirectoryRow { hash: row.hash, name: stream.name, tip })
    }

    fn name(&self, row: &GatheredRow) -> &'a [u8] {
        self.roots[row.segment as usize].stream_at(row.row).map_or(b"", |stream| stream.name)
    }

    /// Orders by hash and name, and keeps the newest of each stream.
    fn sort(&mut self) {
        self.rows.sort_unstable_by_key(|row| (row.hash, Reverse(row.position)));
        let mut rows = std::mem::take(&mut self.rows);
        let (mut kept, mut from) = (0, 0);
        while from < rows.len() {
            let hash = rows[from].hash;
            let to = from + rows[from..].iter().take_while(|row| row.hash == hash).count();
            let first = kept;
            for at in from..to {
                // Newest first; nearly always all of one hash are one stream.
                let name = self.name(&rows[at]);
                if rows[first..kept].iter().all(|row| self.name(row) != name) {
                    rows[kept] = rows[at];
                    kept += 1;
                }
            }
            rows[first..kept].sort_unstable_by(|left, right| self.name(left).cmp(self.name(right)));
            from = to;
        }
        rows.truncate(kept);
        self.rows = rows;
    }
}
