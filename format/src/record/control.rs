//! Control records: what is removed, and what is to be kept. Kinds that are not known are passed over if they say that
//! they may be, and refused otherwise: what they hide must never be shown.

mod body;
mod encode;
mod sweep;

pub use encode::control_len;
pub(crate) use encode::encode_control;
pub use sweep::{Sweep, SweptPart, SweptParts};

use super::RECORD_HEADER_LEN;
use crate::Fault;
use crate::field::{put, u16_at, u32_at};

/// Says that a reader that does not know the kind may pass over the record.
pub(super) const SKIPPABLE: u16 = 0x8000;

/// Kind of the record that stands where one was lost to damage before the store was made by repair.
pub const CONTROL_LOST: u16 = 21;

/// The frame of a lost record, its checksum still zero.
pub(crate) fn lost_frame() -> [u8; RECORD_HEADER_LEN] {
    let mut bytes = [0; RECORD_HEADER_LEN];
    put(&mut bytes, 4, (RECORD_HEADER_LEN as u32).to_le_bytes());
    bytes[8] = super::KIND_CONTROL;
    put(&mut bytes, 12, (CONTROL_LOST | SKIPPABLE).to_le_bytes());
    bytes
}

const TRUNCATE: u16 = 1;
const DELETE: u16 = 2;
const TOMBSTONE: u16 = 3;
const RETAIN: u16 = 4;
const SWEEP: u16 = 5;
const FORGET_IDS: u16 = 6;
const FORGET_STREAM: u16 = 7;

/// A control record of a kind that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control<'a> {
    /// A stream begins later now.
    Truncate(StreamCut<'a>),
    /// A stream was deleted; it may be written again.
    Delete(StreamCut<'a>),
    /// A stream was ended for good.
    Tombstone(StreamCut<'a>),
    /// What is to be kept from now on; hides nothing.
    Retain(Policy<'a>),
    /// What policies let go of.
    Sweep(Sweep<'a>),
    /// Ids of removed events of a stream are given up.
    ForgetIds(Forgotten<'a>),
    /// A removed stream is given up: its name, its last revision, the ids of its events.
    ForgetStream(Forgotten<'a>),
}

/// Revisions of one stream that are hidden from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamCut<'a> {
    /// The stream.
    pub stream: &'a str,
    /// The first revision that could be read before, at least 1.
    pub first: u64,
    /// All up to this one are hidden; `first - 1` if there was nothing left to hide.
    pub upto: u64,
    /// The last revision ever given in the stream.
    pub last: u64,
}

/// What is to be kept of some streams, or of all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy<'a> {
    /// Of which streams.
    pub scope: Scope<'a>,
    /// Nothing older than this, in nanoseconds.
    pub max_age: Option<u64>,
    /// No more than this many events of each stream.
    pub max_count: Option<u64>,
    /// No more than this many bytes of log; of the store alone.
    pub max_bytes: Option<u64>,
}

/// Which streams a policy speaks of. Without any limit it withdraws the one before of the same scope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope<'a> {
    /// The one of this name.
    Stream(&'a str),
    /// Those whose names begin with this; an empty one means all.
    Prefix(&'a str),
    /// The store as a whole.
    Store,
}

/// Up to which revision something of a stream is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forgotten<'a> {
    /// The stream.
    pub stream: &'a str,
    /// The last revision that it concerns, at least 1.
    pub upto: u64,
}

/// A control record: of a known kind, or one that this version passes over, whose position is a hole that shows nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlFrame<'a> {
    bytes: &'a [u8],
    position: u64,
}

impl<'a> ControlFrame<'a> {
    #[inline]
    pub(super) fn decode(bytes: &'a [u8], position: u64) -> Result<Self, Fault> {
        let kind = u16_at(bytes, 12);
        let frame = Self { bytes, position };
        match (kind & !SKIPPABLE, kind & SKIPPABLE != 0) {
            (TRUNCATE..=FORGET_STREAM, false) => body::read(&frame).map(|_| frame),
            // Whoever passed over it would show what it hides.
            (TRUNCATE..=FORGET_STREAM, true) => Err(Fault::Reserved { what: "skippable bit of a removal" }),
            (_, true) => Ok(frame),
            (_, false) => Err(Fault::Unsupported { what: "control kind", value: kind.into() }),
        }
    }

    /// What it says; `None` of one that is passed over.
    pub fn control(&self) -> Option<Control<'a>> {
        if u16_at(self.bytes, 12) & SKIPPABLE != 0 { None } else { body::read(self).ok() }
    }

    /// Its position.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Its kind, without the bit that says it is skippable.
    pub fn kind(&self) -> u16 {
        u16_at(self.bytes, 12) & !SKIPPABLE
    }

    /// What follows the header, without padding.
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(RECORD_HEADER_LEN..u32_at(self.bytes, 4) as usize).unwrap_or_default()
    }

    /// Length of the frame, padding included.
    pub fn frame_len(&self) -> usize {
        self.bytes.len()
    }

    /// The whole frame, padding included.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}
