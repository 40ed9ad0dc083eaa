//! What the writer remembers of a segment: its streams and its ids.

use crate::Result;
use crate::active_index::ActiveIndex;
use crate::directory::{Directory, StreamTip};
use crate::error::Error;
use crate::id_table::{IdWriter, LAST_POSITION};
use crate::log::Log;
use crate::name::KeyKind;
use crate::reader::event_of_record;
use crate::segment::{Segment, SegmentIndex};

/// Enters a segment's streams and ids into the writer's memory.
pub(super) fn load_streams_and_ids(
    segment: &Segment,
    log: &Log,
    directory: &mut Directory,
    ids: &mut IdWriter,
) -> Result<()> {
    check_positions(segment, segment.closing().map_or(0, |closing| closing.tally.last_position))?;
    match &segment.opened()?.index {
        SegmentIndex::Active(index) => load_active(segment, index, log, directory, ids),
        SegmentIndex::Sealed(index) => {
            let first = segment.first_position();
            index.each_stream(|name, last_revision, last_record| {
                directory.set(name, StreamTip { revision: last_revision, position: first + u64::from(last_record) });
            })?;
            index.each_id(|hash, record| ids.insert(hash, first + u64::from(record)))
        }
    }
}

pub(super) fn load_active(
    segment: &Segment,
    index: &ActiveIndex,
    log: &Log,
    directory: &mut Directory,
    ids: &mut IdWriter,
) -> Result<()> {
    let first = segment.first_position();
    check_positions(segment, (first - 1).saturating_add(index.record_count().into()))?;
    for (hash, position) in index.id_hashes().zip(first..).filter(|(hash, _)| *hash != 0) {
        ids.insert(hash, position);
    }
    for record in index.stream_firsts() {
        let Some(event) = event_of_record(segment, log, record)? else { continue };
        let hash = directory.hash_of(event.stream());
        for newest in index.postings(KeyKind::Stream, hash) {
            let Some(last) = event_of_record(segment, log, newest)? else { continue };
            if last.stream() == event.stream() {
                directory.set(
                    event.stream(),
                    StreamTip { revision: last.revision().get(), position: last.position().get() },
                );
                break;
            }
        }
    }
    Ok(())
}

fn check_positions(segment: &Segment, last: u64) -> Result<()> {
    if last <= LAST_POSITION {
        return Ok(());
    }
    let what = format!("a last position of {last}, where a store ends at {LAST_POSITION}");
    Err(Error::corrupt(&segment.name, 0, None, what))
}
