//! The index in memory of an ended segment, put in the order of its file.

use annals_format::index::{BatchRow, FinishedIndex, IndexHeader, IndexSizes, IndexWriter};
use annals_format::index_file::{Sink, WriteError};

use super::names::{Named, Names, StreamRows};
use crate::Result;
use crate::active_index::{ActiveIndex, KeyHead};
use crate::hash_order::HashOrder;
use crate::log::Log;
use crate::name::{KeyKind, NameHash};
use crate::segment::Segment;

/// So many keys before it is needed the newest record of one is asked for.
const KEYS_AHEAD: usize = 12;

/// What has to be sorted before a file is written; each part is gathered and sorted when its turn has come, and let go of then.
pub(super) struct Building<'a> {
    names: Names<'a>,
    times: (u64, u64),
    keys: Vec<KeyHead>,
    /// Gathered already where their number was not known.
    streams: Option<StreamRows>,
    types: Vec<Named>,
    sizes: IndexSizes,
}

impl<'a> Building<'a> {
    pub(super) fn new(segment: &'a Segment, log: &'a Log, hash: NameHash, index: &'a ActiveIndex) -> Result<Self> {
        let keys = index.keys();
        let names = Names { segment, log, hash, index };
        let types = names.of(&index.type_firsts().collect::<Vec<_>>(), KeyKind::Type)?;
        let mut sizes = IndexSizes {
            records: index.record_count().into(),
            keys: keys.chunk_by(is_alike).count() as u64,
            postings: keys.iter().map(|key| u64::from(key.count())).sum(),
            ids: index.id_hashes().filter(|hash| *hash != 0).count() as u64,
            types: types.len() as u64,
            names_len: types.iter().map(|named| named.name.len() as u64).sum(),
            ..IndexSizes::default()
        };
        let streams = if index.streams_len().is_none() { Some(names.streams()?) } else { None };
        let len = index.streams_len().or_else(|| streams.as_ref().map(StreamRows::len)).unwrap_or_default();
        sizes.streams = len.streams as u64;
        sizes.names_len += len.names as u64;
        let mut times = None;
        each_batch(index, |batch| {
            sizes.batches += 1;
            times = Some((times.map_or(batch.recorded_at, |(first, _)| first), batch.recorded_at));
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap_or_else(|never| match never {});
        Ok(Self { names, times: times.unwrap_or_default(), keys, streams, types, sizes })
    }

    pub(super) fn file_len(&self) -> u64 {
        self.sizes.file_len()
    }

    /// Begins the file behind its header: all but names, once. [`Building::write_names`] goes on.
    pub(super) fn write_records<S: Sink>(
        &mut self,
        header: IndexHeader,
        sink: S,
    ) -> Result<IndexWriter<S>, WriteError<S::Error>> {
        let Names { segment, index, .. } = self.names;
        let mut writer = IndexWriter::begin(sink, header, segment.first_position(), self.times)?;
        for (place, _) in index.places() {
            writer.offset((place.frame / 8) as u32)?;
        }
        each_batch(index, |batch| writer.batch(batch))?;
        self.write_keys(&mut writer)?;
        self.write_ids(&mut writer)?;
        Ok(writer)
    }

    /// All streams, by name, once.
    ///
    /// # Errors
    /// Those of reading where they stand.
    pub(super) fn streams(&mut self) -> Result<StreamRows> {
        self.streams.take().map_or_else(|| self.names.streams(), Ok)
    }

    pub(super) fn write_names<S: Sink>(
        &self,
        mut writer: IndexWriter<S>,
        streams: &StreamRows,
    ) -> Result<(FinishedIndex, S), WriteError<S::Error>> {
        for stream in &streams.rows {
            writer.stream(stream.name_len.into(), stream.last_revision, (stream.first, stream.last))?;
        }
        for named in &self.types {
            writer.type_name(named.name.len(), (named.first, named.last))?;
        }
        streams.rows.iter().try_for_each(|stream| writer.name(streams.name(stream)))?;
        self.types.iter().try_for_each(|named| writer.name(named.name.as_bytes()))?;
        writer.finish()
    }

    fn write_keys<S: Sink>(&mut self, writer: &mut IndexWriter<S>) -> Result<(), WriteError<S::Error>> {
        let (keys, index) = (std::mem::take(&mut self.keys), self.names.index);
        // Keys of two kinds that share a hash share a row: what is found by it is looked at in any case.
        for of_hash in keys.chunk_by(is_alike) {
            writer.key(of_hash[0].hash, of_hash.iter().map(|key| key.count()).sum())?;
        }
        let (mut positions, mut at) = (Vec::new(), 0);
        for of_hash in keys.chunk_by(is_alike) {
            positions.clear();
            for key in of_hash {
                keys.get(at + KEYS_AHEAD).into_iter().for_each(|ahead| index.prefetch_posting_of(*ahead));
                at += 1;
                index.each_posting_of(*key, |position| positions.push(position));
            }
            if of_hash.len() > 1 {
                positions.sort_unstable_by(|left, right| right.cmp(left));
            }
            positions.iter().rev().try_for_each(|position| writer.posting(*position))?;
        }
        Ok(())
    }

    fn write_ids<S: Sink>(&self, writer: &mut IndexWriter<S>) -> Result<(), WriteError<S::Error>> {
        let ids = (0u32..).zip(self.names.index.id_hashes()).filter(|(_, hash)| *hash != 0);
        // Stable: rows of one hash stay in the order of their records.
        let ids = HashOrder::collect(self.sizes.ids as usize, ids, |(_, hash)| *hash);
        ids.iter().try_for_each(|(record, hash)| writer.id(*hash, *record))
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
