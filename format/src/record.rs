//! Records: events and control records, encoded by one copy, read in place.

mod compacted;
mod control;
mod encode;
mod event;

pub(crate) use compacted::{put_compacted, take_out};
pub use control::{
    CONTROL_LOST, Control, ControlFrame, Forgotten, Policy, Scope, StreamCut, Sweep, SweptPart, SweptParts, control_len,
};
pub(crate) use control::{encode_control, lost_frame};
pub(crate) use encode::encode_event;
pub use encode::encoded_len;
pub use event::{EventFrame, EventLayout, Tags};

use crate::checksum::{Seed, crc};
use crate::field::{u8_at, u32_at, u64_at};
use crate::header::{Purpose, check_flags};
use crate::{Fault, NUMBER_MAX};

/// Length of the part that all records begin with.
pub const RECORD_HEADER_LEN: usize = 24;
/// Frames begin at multiples of this.
pub const FRAME_ALIGNMENT: usize = 8;
/// Most tags an event can have; a store's limit may be lower.
pub const TAG_COUNT_MAX: usize = 255;

const KIND_EVENT: u8 = 1;
pub(crate) const KIND_CONTROL: u8 = 2;
/// An event of which only what finds it is left.
const KIND_COMPACTED: u8 = 3;
const ID_GENERATED: u8 = 0x01;

/// Optional parts of an event, by bit.
mod part {
    pub(super) const TAGS: u16 = 0x01;
    pub(super) const METADATA: u16 = 0x02;
    pub(super) const OCCURRED_AT: u16 = 0x04;
    pub(super) const SCHEMA_VERSION: u16 = 0x08;
    pub(super) const CONTENT_TYPE: u16 = 0x10;
    pub(super) const CORRELATION: u16 = 0x20;
    pub(super) const CAUSATION: u16 = 0x40;
    /// All that version 1 knows.
    pub(super) const KNOWN: u16 = 0x7f;
    /// Bytes of `occurred_at`: nanoseconds and digits.
    pub(super) const OCCURRED_AT_LEN: usize = 9;
    pub(super) const SCHEMA_VERSION_LEN: usize = 4;
}

/// Where the optional parts begin: after header and id, the names follow.
const NAMES_AT: usize = RECORD_HEADER_LEN + 16;

/// When the producer says that something happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct OccurredAt {
    /// Nanoseconds since 1970 UTC.
    pub nanos: i64,
    /// Number of digits of fraction that it came with, 0 to 9.
    pub digits: u8,
}

/// What an event is encoded from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventParts<'a> {
    /// 128 bits, the caller's or made by the library.
    pub id: [u8; 16],
    /// Whether the library made the id.
    pub id_generated: bool,
    /// Name of the stream.
    pub stream: &'a str,
    /// Name of the type.
    pub event_type: &'a str,
    /// Up to 255 names, kept in this order.
    pub tags: &'a [&'a str],
    /// Any bytes. None and no bytes are the same.
    pub metadata: &'a [u8],
    /// Any bytes.
    pub payload: &'a [u8],
    /// The producer's own time.
    pub occurred_at: Option<OccurredAt>,
    /// Version of the payload's schema.
    pub schema_version: Option<u32>,
    /// Media type of the payload, 0 to 255 bytes.
    pub content_type: Option<&'a str>,
    /// 0 to 255 bytes.
    pub correlation: Option<&'a [u8]>,
    /// 0 to 255 bytes.
    pub causation: Option<&'a [u8]>,
}

impl<'a> EventParts<'a> {
    /// An event with nothing but its id and names.
    pub fn new(id: [u8; 16], stream: &'a str, event_type: &'a str) -> Self {
        Self {
            id,
            id_generated: false,
            stream,
            event_type,
            tags: &[],
            metadata: &[],
            payload: &[],
            occurred_at: None,
            schema_version: None,
            content_type: None,
            correlation: None,
            causation: None,
        }
    }
}

/// One verified record, borrowed from the bytes it was decoded from.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// An event, or what compaction has left of one ([`EventFrame::is_compacted`]).
    Event(EventFrame<'a>),
    /// A control record.
    Control(ControlFrame<'a>),
}

impl Record<'_> {
    /// Length of the frame, padding included.
    #[inline]
    pub fn frame_len(&self) -> usize {
        match self {
            Self::Event(event) => event.frame_len(),
            Self::Control(control) => control.frame_len(),
        }
    }
}

/// Length with padding of the frame at the beginning of `bytes`, of which 8 must be there. Verifies nothing else: it
/// serves to fetch the frame.
///
/// # Errors
/// `Truncated`; `Length` if no frame is so short.
#[inline(always)]
pub fn frame_len(bytes: &[u8]) -> Result<usize, Fault> {
    if bytes.len() < 8 {
        return Err(Fault::Truncated { need: 8, have: bytes.len() as u64 });
    }
    let len = u32_at(bytes, 4);
    if (len as usize) < RECORD_HEADER_LEN || len > u32::MAX - 7 {
        return Err(Fault::Length { what: "length of the record", value: len.into() });
    }
    Ok(padded(len as usize))
}

#[inline(always)]
fn padded(len: usize) -> usize {
    len.next_multiple_of(FRAME_ALIGNMENT)
}

/// Verifies and reads the record at the beginning of `bytes`, which must be the one at `position`; for a writer. Costs a
/// few nanoseconds beside the checksum.
///
/// # Errors
/// `Checksum` if the bytes are damaged, or intact but of another position, segment or store; `Unsupported` for what a
/// later version wrote; other faults for bytes that no version writes.
#[inline(always)]
pub fn decode<'a>(bytes: &'a [u8], seed: Seed, position: u64) -> Result<Record<'a>, Fault> {
    decode_for(bytes, seed, position, Purpose::Write)
}

/// As [`decode`], for `purpose`.
///
/// # Errors
/// As there.
#[inline(always)]
pub fn decode_for<'a>(bytes: &'a [u8], seed: Seed, position: u64, purpose: Purpose) -> Result<Record<'a>, Fault> {
    read(check(bytes, seed, position)?, position, purpose)
}

/// The frame at the beginning of `bytes`, its checksum verified and nothing else: for whoever checks several frames in one
/// tight loop, in which the processor works on more than one at a time, before it [`read`]s them.
///
/// # Errors
/// `Truncated`, `Length`, `Checksum`.
#[inline(always)]
pub fn check(bytes: &[u8], seed: Seed, position: u64) -> Result<&[u8], Fault> {
    let need = frame_len(bytes)?;
    let Some(frame) = bytes.get(..need) else {
        return Err(Fault::Truncated { need: need as u64, have: bytes.len() as u64 });
    };
    let expected = crc(seed.record(position), &frame[4..]);
    let found = u32_at(frame, 0);
    if expected != found && !cfg!(annals_plant = "no-checksum") {
        return Err(Fault::Checksum { what: "record", expected, found });
    }
    Ok(frame)
}

/// Reads a frame that [`check`] has verified for this position.
///
/// # Errors
/// As [`decode`], but for `Checksum`.
#[inline(always)]
pub fn read(frame: &[u8], position: u64, purpose: Purpose) -> Result<Record<'_>, Fault> {
    let need = frame.len();
    if need < RECORD_HEADER_LEN {
        return Err(Fault::Truncated { need: RECORD_HEADER_LEN as u64, have: need as u64 });
    }
    if position == 0 || position > NUMBER_MAX {
        return Err(Fault::Count { what: "position", value: position });
    }
    check_flags(u8_at(frame, 9), u8_at(frame, 10), 0u8, purpose)?;
    // The padding is the high bytes of the last word; without any, nothing is left of it.
    let padding = 8 * (need - u32_at(frame, 4) as usize) as u32;
    if u64_at(frame, need - 8).checked_shr(64 - padding).is_some_and(|padding| padding != 0) {
        return Err(Fault::Reserved { what: "padding bytes of the record" });
    }
    match u8_at(frame, 8) {
        KIND_EVENT => EventFrame::decode(frame, position).map(Record::Event),
        KIND_COMPACTED => compacted::decode(frame, position).map(Record::Event),
        KIND_CONTROL => ControlFrame::decode(frame, position).map(Record::Control),
        kind => Err(Fault::Unsupported { what: "record kind", value: kind.into() }),
    }
}
