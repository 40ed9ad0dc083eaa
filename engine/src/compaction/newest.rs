//! The newest bytes, which no container can hold: the segment that is being written, and the ring.
//!
//! The segment is ended as when it is full, and is then compacted like any other. The ring holds copies of what the files
//! hold, of segments that ended long ago too; it is overwritten with zeros where nobody needs it.

use std::io::IoSlice;

use annals_format::ring::RING_HEADER_LEN;
use annals_format::segment::SEGMENT_HEADER_LEN;

use super::LiveSegment;
use crate::Position;
use crate::Result;
use crate::background;
use crate::error::Error;
use crate::options::View;
use crate::query::{Query, Seek};
use crate::reader::Reader;
use crate::recovery::ring_image::RING_NAME;
use crate::storage::Access;
use crate::store::Inner;

/// So much of the ring is emptied under one hold of the writer's lock: some tens of microseconds.
const RING_STEP: u64 = 256 << 10;

/// Ends the segment that is being written, if that is asked for and it holds anything; false if it goes on.
///
/// What was removed before is durable. A crash in between leaves an ended segment and one that is begun, as any roll does.
pub(super) fn end_live(inner: &Inner, what: LiveSegment) -> Result<bool> {
    let first = {
        let writer = inner.writer.lock();
        if writer.active.offset <= SEGMENT_HEADER_LEN as u64 {
            return Ok(false);
        }
        writer.active.segment.first_position()
    };
    if what == LiveSegment::EndWhereRemoved && !holds_removed(inner, first)? {
        return Ok(false);
    }
    {
        let mut writer = inner.writer.lock();
        inner.core.log.check_poison()?;
        // It may have ended by itself meanwhile.
        if writer.active.segment.first_position() != first {
            return Ok(false);
        }
        writer.roll(0)?;
    }
    background::after_append(inner)?;
    Ok(true)
}

/// Whether a durable record removes an event at or behind `first`.
fn holds_removed(inner: &Inner, first: u64) -> Result<bool> {
    if inner.core.removals.is_empty() {
        return Ok(false);
    }
    let reader = Reader::new(inner.core.clone(), View::Durable);
    let Some(first) = Position::new(first).filter(|first| first.get() <= reader.head()) else { return Ok(false) };
    let mut read = reader.read_all(&Query::all(), Seek::At(first.get()))?;
    loop {
        let next = read.next().transpose()?;
        if read.skipped() > 0 {
            return Ok(true);
        }
        if next.is_none() {
            return Ok(false);
        }
    }
}

/// Overwrites with zeros all that the ring file holds of what stands in the segments' files, durably. Appends and reads go on
/// meanwhile: whoever was copying from the ring finds the same bytes in the file.
pub(super) fn empty_ring(inner: &Inner) -> Result<()> {
    let log = &inner.core.log;
    let Some(ring) = &log.ring else { return Ok(()) };
    let file = inner.storage.open(RING_NAME, Access::ReadWrite).map_err(Error::io("open", RING_NAME))?;
    if ring.survives_kill {
        let mut at = 0;
        while at < ring.len() {
            let writer = inner.writer.lock();
            let until = (at + RING_STEP).min(ring.len());
            log.empty_ring(at..until, writer.end)?;
            at = until;
        }
    } else {
        // The ring is memory of this process; the file may be of an opening that could use it.
        let zeros = [0; 4096];
        let len = file.len().map_err(Error::io("measure", RING_NAME))?;
        for at in (RING_HEADER_LEN as u64..len).step_by(zeros.len()) {
            let part = &zeros[..(len - at).min(zeros.len() as u64) as usize];
            file.write_at(at, &[IoSlice::new(part)]).map_err(Error::io("write", RING_NAME))?;
        }
    }
    file.sync().map_err(Error::io("sync", RING_NAME))
}
