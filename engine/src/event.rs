//! Events as readers see them: a borrowed form for scans, a handle to keep.

use annals_format::record::{EventFrame, EventLayout, OccurredAt};
use bytes::Bytes;

use crate::query::Matchable;
use crate::segment::BatchFacts;
use crate::storage::Map;
use crate::{EventId, Position, Revision};

/// An event borrowed from the log, verified; the fastest form, valid inside the closure that got it.
#[derive(Clone, Copy, Debug)]
pub struct EventRef<'a> {
    frame: EventFrame<'a>,
    facts: BatchFacts,
}

/// A handle to an event in the log: cheap to make, clone and keep, usable in `for`.
///
/// It copies nothing; while it lives, the segment it lies in stays mapped (the newest bytes, which are not yet in a
/// segment, are copied once).
#[derive(Clone)]
pub struct Event {
    map: Map,
    start: usize,
    layout: EventLayout,
    facts: BatchFacts,
}

macro_rules! accessors {
    ($life:lifetime, $($of:tt)*) => {
        /// Its place in the store.
        #[inline]
        pub fn position(&self) -> Position {
            Position::new(self.$($of)*.position()).expect("decoding refuses position 0")
        }

        /// Its place in its stream.
        #[inline]
        pub fn revision(&self) -> Revision {
            Revision::new(self.$($of)*.revision()).expect("decoding refuses revision 0")
        }

        /// When the store recorded it: nanoseconds since 1970 UTC, one for a whole batch, never falling.
        #[inline]
        pub fn recorded_at(&self) -> u64 {
            self.facts.recorded_at
        }

        /// The caller's or the generated id.
        #[inline]
        pub fn id(&self) -> EventId {
            EventId::from_bytes(self.$($of)*.id())
        }

        /// Whether the library made the id.
        #[inline]
        pub fn id_generated(&self) -> bool {
            self.$($of)*.id_generated()
        }

        /// When the producer says it happened, if it said so.
        #[inline]
        pub fn occurred_at(&self) -> Option<OccurredAt> {
            self.$($of)*.occurred_at()
        }

        /// Whether compaction has taken its content out: nobody is shown it.
        #[inline(always)]
        pub(crate) fn is_compacted(&self) -> bool {
            self.$($of)*.is_compacted()
        }

        /// Version of the payload's schema, if given.
        #[inline]
        pub fn schema_version(&self) -> Option<u32> {
            self.$($of)*.schema_version()
        }

        /// First position of its batch: events with the same one were appended together.
        #[inline]
        pub fn batch_first(&self) -> Position {
            Position::new(self.facts.first_position).expect("decoding refuses position 0")
        }

        /// Number of records in its batch.
        #[inline]
        pub fn batch_len(&self) -> u32 {
            self.facts.record_count
        }

        /// Whether the caller wrote the batch as one.
        #[inline]
        pub fn written_as_batch(&self) -> bool {
            self.facts.as_batch
        }

        /// The stream's name.
        #[inline]
        pub fn stream(&self) -> &$life str {
            self.$($of)*.stream()
        }

        /// The type's name.
        #[inline]
        pub fn event_type(&self) -> &$life str {
            self.$($of)*.event_type()
        }

        /// Its tags, in the caller's order.
        #[inline]
        pub fn tags(&self) -> impl Iterator<Item = &$life str> + $life {
            self.$($of)*.tags()
        }

        /// Bytes that travel with it.
        #[inline]
        pub fn metadata(&self) -> &$life [u8] {
            self.$($of)*.metadata()
        }

        /// The payload.
        #[inline]
        pub fn payload(&self) -> &$life [u8] {
            self.$($of)*.payload()
        }

        /// Media type of the payload, if given.
        #[inline]
        pub fn content_type(&self) -> Option<&$life str> {
            self.$($of)*.content_type()
        }

        /// What conversation it belongs to, if given.
        #[inline]
        pub fn correlation(&self) -> Option<&$life [u8]> {
            self.$($of)*.correlation()
        }

        /// What caused it, if given.
        #[inline]
        pub fn causation(&self) -> Option<&$life [u8]> {
            self.$($of)*.causation()
        }
    };
}

impl<'a> EventRef<'a> {
    #[inline]
    pub(crate) fn new(frame: EventFrame<'a>, facts: BatchFacts) -> Self {
        Self { frame, facts }
    }

    accessors!('a, frame);
}

impl Event {
    #[inline]
    pub(crate) fn new(map: Map, start: usize, layout: EventLayout, facts: BatchFacts) -> Self {
        Self { map, start, layout, facts }
    }

    #[inline]
    fn frame(&self) -> EventFrame<'_> {
        let frame = self.map.get(self.start..self.start + self.layout.frame_len());
        EventFrame::from_layout(frame.expect("an event's frame lies in its map"), self.layout)
    }

    /// The borrowed form.
    #[inline]
    pub fn as_event_ref(&self) -> EventRef<'_> {
        EventRef::new(self.frame(), self.facts)
    }

    /// The payload as reference-counted bytes, without a copy; they keep the segment mapped for as long as they live.
    pub fn payload_bytes(&self) -> Bytes {
        self.shared(self.payload())
    }

    /// The metadata as reference-counted bytes, without a copy.
    pub fn metadata_bytes(&self) -> Bytes {
        self.shared(self.metadata())
    }

    fn shared(&self, part: &[u8]) -> Bytes {
        let frame = self.frame().bytes();
        let start = self.start + (part.as_ptr().addr() - frame.as_ptr().addr());
        self.map.bytes_of(start..start + part.len())
    }

    accessors!('_, frame());
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event")
            .field("position", &self.position())
            .field("stream", &self.stream())
            .field("revision", &self.revision())
            .field("type", &self.event_type())
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl Matchable for EventRef<'_> {
    fn stream(&self) -> &str {
        EventRef::stream(self)
    }

    fn event_type(&self) -> &str {
        EventRef::event_type(self)
    }

    fn has_tag(&self, wanted: &str) -> bool {
        self.tags().any(|tag| tag == wanted)
    }
}
