//! Names of streams and types of an ended segment, read where they stand.

use annals_format::name::NAME_LEN_MAX;

use crate::Result;
use crate::active_index::{ActiveIndex, StreamsLen};
use crate::event::Event;
use crate::log::Log;
use crate::name::{KeyKind, NameHash};
use crate::reader::event_of_record;
use crate::segment::Segment;
use crate::storage::Map;

/// So many streams before it is needed the first event of one is asked for, and so many after that what the index knows of it.
const AHEAD: usize = 12;

/// A stream or type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named {
    pub(super) name: String,
    last_revision: u64,
    pub(super) first: u32,
    pub(super) last: u32,
}

/// All streams of a segment, their names behind each other in memory of their own.
pub(super) struct StreamRows {
    pub(super) rows: Vec<StreamRow>,
    names: Vec<u8>,
}

pub(super) struct StreamRow {
    /// The name's first bytes, which decide nearly always which of two comes first.
    front: [u64; 2],
    pub(super) last_revision: u64,
    name_at: u32,
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) name_len: u8,
}

const _: () = assert!(NAME_LEN_MAX <= u8::MAX as usize);

impl StreamRows {
    fn with_capacity(len: StreamsLen) -> Self {
        Self { rows: Vec::with_capacity(len.streams), names: Vec::with_capacity(len.names) }
    }

    fn push(&mut self, name: &str, last_revision: u64, (first, last): (u32, u32)) {
        let (name_at, name_len) = (self.names.len() as u32, name.len() as u8);
        self.rows.push(StreamRow { front: front(name.as_bytes()), last_revision, name_at, first, last, name_len });
        self.names.extend_from_slice(name.as_bytes());
    }

    /// Of a stream that was entered with its first event: how many it has, and the last.
    fn complete(&mut self, row: usize, (count, last): (u32, u32)) {
        let row = &mut self.rows[row];
        row.last_revision += u64::from(count.saturating_sub(1));
        row.last = last;
    }

    pub(super) fn len(&self) -> StreamsLen {
        StreamsLen { streams: self.rows.len(), names: self.names.len() }
    }

    pub(super) fn name(&self, row: &StreamRow) -> &[u8] {
        &self.names[row.name_at as usize..][..row.name_len.into()]
    }

    fn sort(&mut self) {
        let Self { rows, names } = self;
        let rest = |row: &StreamRow| &names[row.name_at as usize..][..row.name_len.into()];
        rows.sort_unstable_by(|left, right| left.front.cmp(&right.front).then_with(|| rest(left).cmp(rest(right))));
    }
}

/// The first 16 bytes of a name as two numbers, zeros behind a short one.
#[inline]
fn front(name: &[u8]) -> [u64; 2] {
    let mut padded = [0; 16];
    let len = name.len().min(16);
    padded[..len].copy_from_slice(&name[..len]);
    let front = u128::from_be_bytes(padded);
    [(front >> 64) as u64, front as u64]
}

/// Reads names where they stand.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) segment: &'a Segment,
    pub(super) log: &'a Log,
    pub(super) hash: NameHash,
    pub(super) index: &'a ActiveIndex,
}

impl Names<'_> {
    /// Of all streams, by name.
    pub(super) fn streams(&self) -> Result<StreamRows> {
        let mut streams = match self.index.streams_len() {
            Some(len) => self.noted_streams(len)?,
            None => {
                let named = self.of(&self.index.stream_firsts().collect::<Vec<_>>(), KeyKind::Stream)?;
                let names = named.iter().map(|stream| stream.name.len()).sum();
                let mut streams = StreamRows::with_capacity(StreamsLen { streams: named.len(), names });
                named.iter().for_each(|stream| {
                    streams.push(&stream.name, stream.last_revision, (stream.first, stream.last));
                });
                streams
            }
        };
        streams.sort();
        Ok(streams)
    }

    /// Of streams that have a hash each, in the order in which they were met.
    fn noted_streams(&self, len: StreamsLen) -> Result<StreamRows> {
        let Self { segment, log, hash, index } = self;
        let mut streams = StreamRows::with_capacity(len);
        let position = |first: u32| segment.first_position() + u64::from(first);
        let opened = segment.opened()?;
        let mut ahead = index.stream_firsts();
        let mut announce = |count| {
            ahead.by_ref().take(count).for_each(|first| segment.prefetch_record(&opened, position(first)));
        };
        announce(AHEAD);
        // What the index knows of a stream is looked at some streams later.
        let mut hashes = [0; AHEAD];
        let mut meet = |first: u32, name: &str, revision: u64| {
            let hash = hash.key(KeyKind::Stream, name);
            index.prefetch_key(hash);
            let row = streams.rows.len();
            if let Some(before) = row.checked_sub(AHEAD) {
                streams.complete(before, index.count_and_last(hashes[before % AHEAD]));
            }
            streams.push(name, revision, (first, first));
            hashes[row % AHEAD] = hash;
        };
        for first in index.stream_firsts() {
            announce(1);
            let Some(place) = index.place(first) else { continue };
            if let Some(event) = segment.frame_in_map(&opened, log, position(first), place)? {
                meet(first, event.stream(), event.revision());
            } else if let Some(event) = event_of_record(segment, log, first)? {
                // The newest bytes, and all where nothing is mapped.
                meet(first, event.stream(), event.revision().get());
            }
        }
        for row in streams.rows.len().saturating_sub(AHEAD)..streams.rows.len() {
            streams.complete(row, index.count_and_last(hashes[row % AHEAD]));
        }
        // Else all that was ever appended would count as this process's, until there is no memory left.
        opened.map().into_iter().for_each(Map::leave_pages);
        Ok(streams)
    }

    /// Of the events that come first of each, by name.
    pub(super) fn of(&self, firsts: &[u32], kind: KeyKind) -> Result<Vec<Named>> {
        let name_of = |event: &Event| match kind {
            KeyKind::Stream => event.stream().to_owned(),
            _ => event.event_type().to_owned(),
        };
        let mut found = Vec::with_capacity(firsts.len());
        for first in firsts {
            let Some(event) = event_of_record(self.segment, self.log, *first)? else { continue };
            let name = name_of(&event);
            // Names that share a hash share postings: the newest one of this name is looked for.
            for newest in self.index.postings(kind, self.hash.key(kind, &name)) {
                let Some(last) = event_of_record(self.segment, self.log, newest)? else { continue };
                if name_of(&last) == name {
                    let last_revision = if kind == KeyKind::Stream { last.revision().get() } else { 0 };
                    found.push(Named { name, last_revision, first: *first, last: newest });
                    break;
                }
            }
        }
        found.sort_unstable();
        // A stream that was forgotten and began again was met twice.
        found.dedup_by(|next, before| next.name == before.name);
        Ok(found)
    }
}
