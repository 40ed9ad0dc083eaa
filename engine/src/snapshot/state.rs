//! A snapshot as it is handed out.

use std::fmt;

use annals_format::snapshot::{SnapshotFrame, StateCompression};
use bytes::Bytes;

use crate::storage::Map;
use crate::{EventId, Position, Revision};

/// A state, and what it is the state of. Verified; the events up to its revision are folded into it.
///
/// Cheap to clone and to keep: it holds a share of the mapped file, or of the memory that a compressed state was decoded
/// into.
#[derive(Clone)]
pub struct Snapshot {
    stream: String,
    name: String,
    schema: u32,
    revision: Revision,
    position: Position,
    event_id: EventId,
    saved_at: u64,
    stored_len: u64,
    is_compressed: bool,
    map: Map,
    begin: usize,
    len: usize,
}

impl Snapshot {
    pub(crate) fn new(frame: &SnapshotFrame<'_>, map: Map, begin: usize) -> Self {
        Self {
            stream: frame.stream.to_owned(),
            name: frame.name.to_owned(),
            schema: frame.schema,
            revision: Revision::new(frame.revision).expect("decoding refuses revision 0"),
            position: Position::new(frame.position).expect("decoding refuses position 0"),
            event_id: EventId::from_bytes(frame.event),
            saved_at: frame.saved_at,
            stored_len: frame.stored_len,
            is_compressed: frame.compression != StateCompression::None,
            map,
            begin,
            len: frame.state_len as usize,
        }
    }

    /// The stream that it is a state of.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Name of the state, as it was saved.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Schema of the state, as it was saved.
    pub fn schema(&self) -> u32 {
        self.schema
    }

    /// The last revision that is in the state.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Position of the event at that revision.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Id of that event.
    pub fn event_id(&self) -> EventId {
        self.event_id
    }

    /// When it was saved: nanoseconds since 1970 UTC; larger for each one saved later.
    pub fn saved_at(&self) -> u64 {
        self.saved_at
    }

    /// Bytes that the state takes in the file.
    pub fn stored_len(&self) -> u64 {
        self.stored_len
    }

    /// Whether the state was compressed, and so was decoded into memory of its own.
    pub fn is_compressed(&self) -> bool {
        self.is_compressed
    }

    /// The bytes that were saved. They begin at a multiple of 16 in memory, so that an archive (of rkyv, say) is read in
    /// place.
    pub fn state(&self) -> &[u8] {
        &self.map[self.begin..self.begin + self.len]
    }

    /// As [`Snapshot::state`], to be kept without a copy.
    pub fn to_bytes(&self) -> Bytes {
        self.map.bytes_of(self.begin..self.begin + self.len)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("stream", &self.stream)
            .field("name", &self.name)
            .field("schema", &self.schema)
            .field("revision", &self.revision)
            .field("position", &self.position)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
