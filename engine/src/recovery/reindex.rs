//! Verified batches, entered into an index anew.

use std::sync::Arc;

use annals_format::Fault;
use annals_format::batch::{BATCH_HEADER_LEN, BatchHeader};
use annals_format::checksum::Seed;
use annals_format::record::Record;
use annals_format::scan;
use annals_format::segment::{SEGMENT_HEADER_LEN, SegmentHeader};

use crate::Result;
use crate::active_index::{ActiveIndex, EventEntry, Expected, IndexWriter, Place};
use crate::error::Error;
use crate::name::{KeyKind, NameHash};
use crate::segment::Tally;

/// Index and tally of all batches in a segment's bytes, each verified.
pub(crate) fn index_of(
    bytes: &[u8],
    header: &SegmentHeader,
    name: &str,
    hash: NameHash,
) -> Result<(Arc<ActiveIndex>, Tally)> {
    let expected = Expected::of_written(header.segment_len, bytes.len());
    let index = Arc::new(ActiveIndex::new(expected));
    let mut index_writer = IndexWriter::new(index.clone());
    let seed = header.seed();
    let mut tally = Tally::new(seed);
    let mut position = header.first_position;
    let mut at = SEGMENT_HEADER_LEN;
    while at < bytes.len() {
        let damaged = |fault| Error::damaged(name, at as u64, Some(position), &fault, header.written_by);
        let batch = BatchHeader::decode(&bytes[at..], seed).map_err(damaged)?;
        if batch.first_position != position {
            let fault = Fault::Position { expected: position, found: batch.first_position };
            return Err(damaged(fault));
        }
        let end = at.saturating_add(batch.len()).min(bytes.len());
        let controls =
            index_batch(&mut index_writer, hash, &bytes[at..end], &batch, seed, at as u64).map_err(damaged)?;
        tally.add(&batch, &bytes[at..at + BATCH_HEADER_LEN], controls);
        position = batch.last_position() + 1;
        at += batch.len();
    }
    Ok((index, tally))
}

/// Enters a verified batch into an index; answers the number of its control records.
pub(crate) fn index_batch(
    index: &mut IndexWriter,
    hash: NameHash,
    batch: &[u8],
    header: &BatchHeader,
    seed: Seed,
    batch_at: u64,
) -> std::result::Result<u64, Fault> {
    let mut controls = 0;
    scan::verify_batch(batch, header, seed, |offset, _, record| {
        let place = Place { frame: batch_at + offset as u64, batch: batch_at };
        match record {
            Record::Event(event) => {
                let number = index.add_event(&EventEntry {
                    place,
                    recorded_at: header.recorded_at,
                    stream: hash.key(KeyKind::Stream, event.stream()),
                    event_type: hash.key(KeyKind::Type, event.event_type()),
                    id: hash.id(&event.id()),
                });
                for tag in event.tags() {
                    index.add_tag(hash.key(KeyKind::Tag, tag), number);
                }
            }
            Record::Control(_) => {
                index.add_control(place, header.recorded_at, hash.controls());
                controls += 1;
            }
        }
    })?;
    Ok(controls)
}
