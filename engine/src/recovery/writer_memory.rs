//! What the writer remembers of segments that were written before this opening: the ids that stand in them.

use crate::Result;
use crate::error::Error;
use crate::id_table::{IdWriter, LAST_POSITION};
use crate::segment::{Segment, SegmentIndex};

/// Enters a segment's ids into the writer's memory: those that stand in an index file into the filters alone.
pub(crate) fn load_ids(segment: &Segment, ids: &mut IdWriter) -> Result<()> {
    let first = segment.first_position();
    let last = segment.closing().map_or(0, |closing| closing.tally.last_position);
    check_positions(segment, last)?;
    match &segment.opened_with_keys()?.index {
        SegmentIndex::Active(index) => {
            check_positions(segment, (first - 1).saturating_add(index.record_count().into()))?;
            let with_ids = index.id_hashes().zip(first..).filter(|(hash, _)| *hash != 0);
            with_ids.for_each(|(hash, position)| ids.insert(hash, position));
            Ok(())
        }
        SegmentIndex::Sealed(index) => {
            // What an index says beyond its segment's last record leads to nothing.
            index.each_id(|hash, record| ids.note(hash, last.min(first + u64::from(record)), last))
        }
        SegmentIndex::Places(_) | SegmentIndex::Unread => unreachable!("opened with keys"),
    }
}

fn check_positions(segment: &Segment, last: u64) -> Result<()> {
    if last <= LAST_POSITION {
        return Ok(());
    }
    let what = format!("a last position of {last}, where a store ends at {LAST_POSITION}");
    Err(Error::corrupt(&segment.name, 0, None, what))
}
