//! What compaction leaves of a removed event: the same frame, its content made zero.

use super::{EventFrame, KIND_COMPACTED};
use crate::Fault;
use crate::field::is_zero;

/// Reads a frame of this kind: as an event, all of whose content is zero bytes.
#[cold]
pub(super) fn decode(frame: &[u8], position: u64) -> Result<EventFrame<'_>, Fault> {
    let event = EventFrame::decode(frame, position)?;
    let is_taken_out = event.content_ranges().all(|range| frame.get(range).is_some_and(is_zero));
    if is_taken_out { Ok(event) } else { Err(Fault::Reserved { what: "content bytes of a compacted event" }) }
}

/// Takes the content out of `frame`, whose checksum is then wrong. `event` was read from the same bytes.
pub(crate) fn take_out(frame: &mut [u8], ranges: impl Iterator<Item = std::ops::Range<usize>>) {
    frame[8] = KIND_COMPACTED;
    ranges.for_each(|range| frame[range].fill(0));
}

/// Appends the event's frame without its content, its checksum not yet right.
pub(crate) fn put_compacted(buffer: &mut Vec<u8>, event: &EventFrame<'_>) {
    let at = buffer.len();
    buffer.extend_from_slice(event.bytes());
    take_out(&mut buffer[at..], event.content_ranges());
}
