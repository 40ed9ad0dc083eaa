//! The streams of ended segments, gathered from their indexes.

use std::sync::Arc;

use annals_format::Fault;
use annals_format::directory::{DirectoryRow, DirectoryTip};
use annals_format::index::ArchivedIndexRoot;
use annals_format::manifest::SegmentEntry;

use crate::Result;
use crate::hash_order::HashOrder;
use crate::name::{KeyKind, NameHash};
use crate::prefetch::prefetch;
use crate::sealed_index::SealedIndex;
use crate::segment::{Segment, SegmentIndex};

/// With so many streams, each counted once a segment, a file is made of what was gathered so far: 33 bytes of memory and the
/// name each.
const ROWS_ENOUGH: u64 = 1 << 18;
/// A segment with so many streams is taken alone: then bounded memory matters more than few writes.
const ROWS_ALONE: u64 = 1 << 16;

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
            let rows = u64::from(root.stream_count());
            if rows >= ROWS_ALONE && pending.rows > 0 {
                break;
            }
            pending.rows += rows;
            pending.segments.push((index, entry.clone()));
            if rows >= ROWS_ALONE {
                break;
            }
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
    pub(super) fn gather(&self, hash: NameHash) -> Result<Gathered, Fault> {
        let mut gathered = Gathered { rows: Vec::with_capacity(self.rows as usize), texts: Vec::new() };
        let names =
            |(index, _): &(Arc<SealedIndex>, SegmentEntry)| index.rows().map_or(0, ArchivedIndexRoot::streams_len);
        gathered.texts.reserve_exact(self.rows as usize * TEXT_HEAD + self.segments.iter().map(names).sum::<usize>());
        // Newest first: so stand those of one hash as well.
        for (index, entry) in self.segments.iter().rev() {
            let root = index.rows().map_err(|_| Fault::Structure { what: "archive" })?;
            if root.first_position.to_native() != entry.first_position {
                return Err(Fault::Identity { what: "positions of an index" });
            }
            for stream in root.streams_from(b"") {
                let name = std::str::from_utf8(stream.name).map_err(|_| Fault::Name { what: "a name in the index" })?;
                let Ok(len) = u8::try_from(name.len()) else {
                    return Err(Fault::Length { what: "length of a name", value: name.len() as u64 });
                };
                gathered.rows.push(GatheredRow {
                    hash: hash.key(KeyKind::Stream, name),
                    position: entry.first_position + u64::from(stream.last),
                    text: gathered.texts.len(),
                });
                gathered.texts.extend_from_slice(&stream.last_revision.to_le_bytes());
                gathered.texts.push(len);
                gathered.texts.extend_from_slice(name.as_bytes());
            }
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

/// Rows in the order of a directory; what is long stands apart, in the order in which it was found.
pub(super) struct Gathered {
    rows: Vec<GatheredRow>,
    /// Of each stream its last revision, the length of its name, and the name.
    texts: Vec<u8>,
}

/// What stands before a name.
const TEXT_HEAD: usize = 8 + 1;
/// How many rows ahead of the one at hand memory is asked for.
const AHEAD: usize = 12;

#[derive(Clone, Copy, Debug)]
struct GatheredRow {
    hash: u64,
    position: u64,
    /// Where its revision and name stand.
    text: usize,
}

impl Gathered {
    pub(super) fn row(&self, number: usize) -> Option<DirectoryRow<'_>> {
        if let Some(ahead) = self.rows.get(number + AHEAD) {
            self.texts.get(ahead.text).into_iter().for_each(prefetch);
        }
        let row = self.rows.get(number)?;
        let revision = self.texts.get(row.text..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))?;
        let tip = DirectoryTip { revision, position: row.position };
        Some(DirectoryRow { hash: row.hash, name: self.name(row), tip })
    }

    fn name(&self, row: &GatheredRow) -> &[u8] {
        let text = &self.texts[row.text..];
        &text[TEXT_HEAD..][..usize::from(text[TEXT_HEAD - 1])]
    }

    /// Orders by hash and name, and keeps the newest of each stream.
    fn sort(&mut self) {
        let mut rows = std::mem::take(&mut self.rows);
        HashOrder::default().sort(&mut rows, 0, |row| row.hash);
        let (mut kept, mut from) = (0, 0);
        while from < rows.len() {
            let hash = rows[from].hash;
            let to = from + rows[from..].iter().take_while(|row| row.hash == hash).count();
            let first = kept;
            if to == from + 1 {
                rows[kept] = rows[from];
                (kept, from) = (kept + 1, to);
                continue;
            }
            for at in from..to {
                // Newest first; nearly always all of one hash are one stream.
                if rows[first..kept].iter().all(|row| self.name(row) != self.name(&rows[at])) {
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
