//! The index in memory of an ended segment, put in the order of its file.

use std::borrow::Cow;

use annals_format::index::{BatchRow, FinishedIndex, IndexHeader, IndexSizes, IndexWriter};
use annals_format::index_file::{Sink, WriteError};

use crate::Result;
use crate::active_index::{ActiveIndex, KeyHead};
use crate::event::Event;
use crate::hash_order::HashOrder;
use crate::log::Log;
use crate::name::{KeyKind, NameHash};
use crate::reader::event_of_record;
use crate::segment::Segment;

/// So many keys before it is needed the newest record of one is asked for.
const KEYS_AHEAD: usize = 12;

/// What has to be sorted before a file is written; each part is gathered and sorted when its turn has come, and let go of then.
pub(super) struct Building<'a> {
    index: &'a ActiveIndex,
    first_position: u64,
    times: (u64, u64),
    keys: Vec<KeyHead>,
    /// Where they had to be read from the segment.
    streams: Option<Vec<Named<'a>>>,
    types: Vec<Named<'a>>,
    sizes: IndexSizes,
}

/// A stream or type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Named<'a> {
    name: Cow<'a, [u8]>,
    last_revision: u64,
    first: u32,
    last: u32,
}

impl<'a> Building<'a> {
    pub(super) fn new(segment: &Segment, log: &Log, hash: NameHash, index: &'a ActiveIndex) -> Result<Self> {
        let mut keys = index.keys();
        HashOrder::default().sort(&mut keys, 0, |key| key.hash);
        let names = Names { segment, log, hash, index };
        let types = names.of(&index.type_firsts().collect::<Vec<_>>(), KeyKind::Type)?;
        let streams = match index.streams() {
            Some(_) => None,
            None => Some(names.of(&index.stream_firsts().collect::<Vec<_>>(), KeyKind::Stream)?),
        };
        let mut sizes = IndexSizes {
            records: index.record_count().into(),
            keys: keys.chunk_by(is_alike).count() as u64,
            postings: keys.iter().map(|key| u64::from(key.count())).sum(),
            ids: index.id_hashes().filter(|hash| *hash != 0).count() as u64,
            types: types.len() as u64,
            names_len: types.iter().map(|named| named.name.len() as u64).sum(),
            ..IndexSizes::default()
        };
        let read = || streams.iter().flatten();
        let (count, len) =
            index.streams_len().unwrap_or_else(|| (read().count(), read().map(|named| named.name.len()).sum()));
        sizes.streams = count as u64;
        sizes.names_len += len as u64;
        let mut times = None;
        each_batch(index, |batch| {
            sizes.batches += 1;
            times = Some((times.map_or(batch.recorded_at, |(first, _)| first), batch.recorded_at));
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap_or_else(|never| match never {});
        let first_position = segment.first_position();
        Ok(Self { index, first_position, times: times.unwrap_or_default(), keys, streams, types, sizes })
    }

    pub(super) fn file_len(&self) -> u64 {
        self.sizes.file_len()
    }

    /// Writes all but the header, once.
    pub(super) fn write<S: Sink>(
        &mut self,
        header: IndexHeader,
        sink: S,
    ) -> Result<(FinishedIndex, S), WriteError<S::Error>> {
        let mut writer = IndexWriter::begin(sink, header, self.first_position, self.times)?;
        for (place, _) in self.index.places() {
            writer.offset((place.frame / 8) as u32)?;
        }
        each_batch(self.index, |batch| writer.batch(batch))?;
        self.write_keys(&mut writer)?;
        self.write_ids(&mut writer)?;
        let streams = self.streams();
        for stream in &streams {
            writer.stream(stream.name.len(), stream.last_revision, (stream.first, stream.last))?;
        }
        for named in &self.types {
            writer.type_name(named.name.len(), (named.first, named.last))?;
        }
        streams.iter().chain(&self.types).try_for_each(|named| writer.name(&named.name))?;
        writer.finish()
    }

    /// By name.
    fn streams(&mut self) -> Vec<Named<'a>> {
        let index = self.index;
        let mut streams = self.streams.take().unwrap_or_default();
        streams.reserve_exact(index.streams_len().map_or(0, |(count, _)| count));
        streams.extend(index.streams().into_iter().flatten().map(|stream| Named {
            name: Cow::Borrowed(stream.name),
            last_revision: stream.last_revision,
            first: stream.first,
            last: stream.last,
        }));
        // The first bytes of a name as a number decide nearly always, without a call.
        streams.sort_by_cached_key(|stream| front(&stream.name));
        for alike in streams.chunk_by_mut(|left, right| front(&left.name) == front(&right.name)) {
            alike.sort_unstable();
        }
        streams
    }

    fn write_keys<S: Sink>(&mut self, writer: &mut IndexWriter<S>) -> Result<(), WriteError<S::Error>> {
        let keys = std::mem::take(&mut self.keys);
        // Keys of two kinds that share a hash share a row: what is found by it is looked at in any case.
        for of_hash in keys.chunk_by(is_alike) {
            writer.key(of_hash[0].hash, of_hash.iter().map(|key| key.count()).sum())?;
        }
        let (mut positions, mut at) = (Vec::new(), 0);
        for of_hash in keys.chunk_by(is_alike) {
            positions.clear();
            for key in of_hash {
                keys.get(at + KEYS_AHEAD).into_iter().for_each(|ahead| self.index.prefetch_posting_of(*ahead));
                at += 1;
                self.index.each_posting_of(*key, |position| positions.push(position));
            }
            if of_hash.len() > 1 {
                positions.sort_unstable_by(|left, right| right.cmp(left));
            }
            positions.iter().rev().try_for_each(|position| writer.posting(*position))?;
        }
        Ok(())
    }

    fn write_ids<S: Sink>(&self, writer: &mut IndexWriter<S>) -> Result<(), WriteError<S::Error>> {
        let mut ids: Vec<(u32, u64)> = Vec::with_capacity(self.sizes.ids as usize);
        ids.extend((0u32..).zip(self.index.id_hashes()).filter(|(_, hash)| *hash != 0));
        // Stable: rows of one hash stay in the order of their records.
        HashOrder::default().sort(&mut ids, 0, |(_, hash)| *hash);
        ids.iter().try_for_each(|(record, hash)| writer.id(*hash, *record))
    }
}

/// The first 16 bytes of a name as a number, zeros behind a short one.
#[inline]
fn front(name: &[u8]) -> u128 {
    match name.first_chunk() {
        Some(front) => u128::from_be_bytes(*front),
        None => {
            let mut front = [0; 16];
            front[..name.len()].copy_from_slice(name);
            u128::from_be_bytes(front)
        }
    }
}

fn is_alike(left: &KeyHead, right: &KeyHead) -> bool {
    left.hash == right.hash
}

fn each_batch<E>(index: &ActiveIndex, mut each: impl FnMut(BatchRow) -> Result<(), E>) -> Result<(), E> {
    let mut batch_at = 0;
    for (record, (place, recorded_at)) in (0..).zip(index.places()) {
        if place.batch != batch_at {
            batch_at = place.batch;
            each(BatchRow { first: record, offset: (batch_at / 8) as u32, recorded_at })?;
        }
    }
    Ok(())
}

/// Reads names where they stand.
struct Names<'a> {
    segment: &'a Segment,
    log: &'a Log,
    hash: NameHash,
    index: &'a ActiveIndex,
}

impl Names<'_> {
    /// Of the events that come first of each, by name.
    fn of<'b>(&self, firsts: &[u32], kind: KeyKind) -> Result<Vec<Named<'b>>> {
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
                    let name = Cow::Owned(name.into_bytes());
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
