//! An event read in place.

use super::{EventParts, ID_GENERATED, KIND_COMPACTED, NAMES_AT, OccurredAt, part};
use crate::field::{array_at, u8_at, u16_at, u32_at, u64_at};
use crate::{Fault, NUMBER_MAX, name};

/// Most digits of fraction: nanoseconds have no more.
pub(super) const DIGITS_MAX: u8 = 9;

/// One verified event. Small and `Copy`: a slice of the log and where the parts lie in it.
///
/// Texts were checked when it was decoded and are checked to be UTF-8 once more at each access, since this crate has no
/// unsafe code; use the `_bytes` forms to compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventFrame<'a> {
    bytes: &'a [u8],
    layout: EventLayout,
}

/// Where the parts of a verified event lie; with the event's bytes it makes the [`EventFrame`] again, without another
/// verification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventLayout {
    position: u64,
    /// Length with padding.
    frame_len: u32,
    /// Length without.
    len: u32,
    payload_at: u32,
    /// Where the part after the tags begins: metadata, if there is any.
    after_tags: u32,
}

impl EventLayout {
    /// Length of the frame, padding included.
    #[inline]
    pub fn frame_len(&self) -> usize {
        self.frame_len as usize
    }

    /// Position of the event.
    #[inline]
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl<'a> EventFrame<'a> {
    /// Reads a frame whose checksum is right and whose length is that of `bytes`.
    #[inline(always)]
    pub(super) fn decode(bytes: &'a [u8], position: u64) -> Result<Self, Fault> {
        let len = u32_at(bytes, 4);
        let stream_len = usize::from(u8_at(bytes, 14));
        let type_len = usize::from(u8_at(bytes, 15));
        let names_end = NAMES_AT + stream_len + type_len;
        if names_end > len as usize {
            return Err(Fault::Length { what: "length of the record", value: len.into() });
        }
        let names = bytes.get(NAMES_AT..names_end).unwrap_or_default();
        if stream_len == 0 || type_len == 0 || !name::is_printable(names) {
            check_names(names, stream_len)?;
        }
        let revision = u64_at(bytes, 16);
        if revision == 0 || revision > NUMBER_MAX {
            return Err(Fault::Count { what: "revision", value: revision });
        }
        let end = names_end as u32;
        // By value, so that the usual event's layout is never put together in memory, of which the parts would be read
        // back in other sizes than they were written: a stall of twenty cycles an event.
        let Ends { payload_at, after_tags } =
            if u16_at(bytes, 12) == 0 { Ends { payload_at: end, after_tags: end } } else { walk(bytes, len, end)? };
        let layout = EventLayout { position, frame_len: bytes.len() as u32, len, payload_at, after_tags };
        Ok(Self { bytes, layout })
    }

    /// Where the parts lie, to keep beside owned bytes.
    #[inline]
    pub fn layout(&self) -> EventLayout {
        self.layout
    }

    /// The view again: `bytes` must be the frame that `layout` was taken from. With other bytes the parts are nonsense
    /// or empty, and nothing worse.
    #[inline]
    pub fn from_layout(bytes: &'a [u8], layout: EventLayout) -> Self {
        Self { bytes, layout }
    }

    /// Whether the event was removed and compaction has taken its content out: id, names and tags are left, all else is
    /// zero bytes of the same length. Nobody is shown such an event.
    #[inline(always)]
    pub fn is_compacted(&self) -> bool {
        u8_at(self.bytes, 8) == KIND_COMPACTED
    }

    /// Place in the store.
    #[inline]
    pub fn position(&self) -> u64 {
        self.layout.position
    }

    /// Place in the stream.
    #[inline]
    pub fn revision(&self) -> u64 {
        u64_at(self.bytes, 16)
    }

    /// The id.
    #[inline]
    pub fn id(&self) -> [u8; 16] {
        array_at(self.bytes, 24)
    }

    /// Whether the library made the id.
    #[inline]
    pub fn id_generated(&self) -> bool {
        u8_at(self.bytes, 11) & ID_GENERATED != 0
    }

    /// Name of the stream.
    #[inline]
    pub fn stream(&self) -> &'a str {
        text(self.stream_bytes())
    }

    /// Name of the stream, for comparing.
    #[inline]
    pub fn stream_bytes(&self) -> &'a [u8] {
        self.part(NAMES_AT, usize::from(u8_at(self.bytes, 14)))
    }

    /// Name of the type.
    #[inline]
    pub fn event_type(&self) -> &'a str {
        text(self.event_type_bytes())
    }

    /// Name of the type, for comparing.
    #[inline]
    pub fn event_type_bytes(&self) -> &'a [u8] {
        let at = NAMES_AT + usize::from(u8_at(self.bytes, 14));
        self.part(at, usize::from(u8_at(self.bytes, 15)))
    }

    /// The tags, in the order they were given.
    #[inline]
    pub fn tags(&self) -> Tags<'a> {
        if !self.has(part::TAGS) {
            return Tags { rest: &[] };
        }
        let names_len = usize::from(u8_at(self.bytes, 14)) + usize::from(u8_at(self.bytes, 15));
        let from = NAMES_AT + names_len + 1;
        Tags { rest: self.bytes.get(from..self.layout.after_tags as usize).unwrap_or_default() }
    }

    /// The metadata, empty if there is none.
    #[inline]
    pub fn metadata(&self) -> &'a [u8] {
        let at = self.layout.after_tags as usize;
        if self.has(part::METADATA) { self.part(at + 4, u32_at(self.bytes, at) as usize) } else { self.part(at, 0) }
    }

    /// The payload.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.layout.payload_at as usize..self.layout.len as usize).unwrap_or_default()
    }

    /// The producer's own time.
    pub fn occurred_at(&self) -> Option<OccurredAt> {
        let at = self.place(part::OCCURRED_AT)?;
        Some(OccurredAt { nanos: u64_at(self.bytes, at) as i64, digits: u8_at(self.bytes, at + 8) })
    }

    /// Version of the payload's schema.
    pub fn schema_version(&self) -> Option<u32> {
        self.place(part::SCHEMA_VERSION).map(|at| u32_at(self.bytes, at))
    }

    /// Media type of the payload.
    pub fn content_type(&self) -> Option<&'a str> {
        self.short(part::CONTENT_TYPE).map(text)
    }

    /// What conversation it belongs to.
    pub fn correlation(&self) -> Option<&'a [u8]> {
        self.short(part::CORRELATION)
    }

    /// What caused it.
    pub fn causation(&self) -> Option<&'a [u8]> {
        self.short(part::CAUSATION)
    }

    /// What it was encoded from; `tags` are those of [`EventFrame::tags`], collected by the caller.
    pub fn parts<'b>(&self, tags: &'b [&'b str]) -> EventParts<'b>
    where
        'a: 'b,
    {
        EventParts {
            id: self.id(),
            id_generated: self.id_generated(),
            stream: self.stream(),
            event_type: self.event_type(),
            tags,
            metadata: self.metadata(),
            payload: self.payload(),
            occurred_at: self.occurred_at(),
            schema_version: self.schema_version(),
            content_type: self.content_type(),
            correlation: self.correlation(),
            causation: self.causation(),
        }
    }

    /// Length of the frame, padding included.
    #[inline]
    pub fn frame_len(&self) -> usize {
        self.layout.frame_len()
    }

    /// The whole frame, padding included.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The ranges of bytes that are content: what compaction takes out. Lengths stay.
    pub(crate) fn content_ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let bytes = self.bytes;
        let mut at = self.layout.after_tags as usize;
        let parts = [
            part::METADATA,
            part::OCCURRED_AT,
            part::SCHEMA_VERSION,
            part::CONTENT_TYPE,
            part::CORRELATION,
            part::CAUSATION,
        ];
        let mut ranges = [const { 0..0 }; 7];
        for (range, wanted) in ranges.iter_mut().zip(parts) {
            if self.has(wanted) {
                let len = part_len(bytes, at, wanted);
                let head = match wanted {
                    part::METADATA => 4,
                    part::OCCURRED_AT | part::SCHEMA_VERSION => 0,
                    _ => 1,
                };
                *range = at + head..at + len;
                at += len;
            }
        }
        ranges[6] = self.layout.payload_at as usize..self.layout.len as usize;
        ranges.into_iter().filter(|range| !range.is_empty())
    }

    #[inline]
    fn has(&self, part: u16) -> bool {
        u16_at(self.bytes, 12) & part != 0
    }

    #[inline]
    fn part(&self, at: usize, len: usize) -> &'a [u8] {
        self.bytes.get(at..).and_then(|rest| rest.get(..len)).unwrap_or_default()
    }

    /// Where a part behind the metadata begins, if it is there.
    fn place(&self, wanted: u16) -> Option<usize> {
        if !self.has(wanted) {
            return None;
        }
        let mut at = self.layout.after_tags as usize;
        for part in [part::METADATA, part::OCCURRED_AT, part::SCHEMA_VERSION, part::CONTENT_TYPE, part::CORRELATION] {
            if part >= wanted {
                break;
            }
            if self.has(part) {
                at = at.saturating_add(part_len(self.bytes, at, part));
            }
        }
        Some(at)
    }

    fn short(&self, wanted: u16) -> Option<&'a [u8]> {
        self.place(wanted).map(|at| self.part(at + 1, usize::from(u8_at(self.bytes, at))))
    }
}

/// Length of one optional part that begins at `at`, the tags excepted.
#[inline]
fn part_len(bytes: &[u8], at: usize, part: u16) -> usize {
    match part {
        part::METADATA => (u32_at(bytes, at) as usize).saturating_add(4),
        part::OCCURRED_AT => part::OCCURRED_AT_LEN,
        part::SCHEMA_VERSION => part::SCHEMA_VERSION_LEN,
        _ => 1 + usize::from(u8_at(bytes, at)),
    }
}

/// A text that was verified; empty if the bytes are not those.
#[inline]
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cold]
fn check_names(names: &[u8], stream_len: usize) -> Result<(), Fault> {
    let (stream, event_type) = names.split_at_checked(stream_len).unwrap_or_default();
    if !name::is_well_formed(stream) {
        return Err(Fault::Name { what: "the stream's name" });
    }
    if !name::is_well_formed(event_type) {
        return Err(Fault::Name { what: "the type's name" });
    }
    Ok(())
}

/// Where the parts lie that have no place of their own in the frame: the two that a walk over the others finds.
#[derive(Clone, Copy)]
struct Ends {
    payload_at: u32,
    after_tags: u32,
}

/// Checks the optional parts and finds where they end.
fn walk(bytes: &[u8], len: u32, names_end: u32) -> Result<Ends, Fault> {
    let present = u16_at(bytes, 12);
    if present & !part::KNOWN != 0 {
        return Err(Fault::Unsupported { what: "event fields", value: (present & !part::KNOWN).into() });
    }
    // Nothing beyond is looked at: what lies there is padding.
    let bytes = bytes.get(..len as usize).unwrap_or_default();
    let mut at = names_end as usize;
    if present & part::TAGS != 0 {
        at = walk_tags(bytes, at)?;
    }
    let after_tags = at;
    if present & part::METADATA != 0 {
        at = walk_part(bytes, at, part::METADATA, 4)?;
    }
    if present & !(part::TAGS | part::METADATA) != 0 {
        let rare = [
            (part::OCCURRED_AT, part::OCCURRED_AT_LEN),
            (part::SCHEMA_VERSION, part::SCHEMA_VERSION_LEN),
            (part::CONTENT_TYPE, 1),
            (part::CORRELATION, 1),
            (part::CAUSATION, 1),
        ];
        for (part, least) in rare {
            if present & part != 0 {
                at = walk_part(bytes, at, part, least)?;
            }
        }
    }
    Ok(Ends { payload_at: at as u32, after_tags: after_tags as u32 })
}

/// Checks the part at `at`, of `least` bytes and what these say; answers where it ends.
#[inline]
fn walk_part(bytes: &[u8], at: usize, part: u16, least: usize) -> Result<usize, Fault> {
    let len = if at + least <= bytes.len() { part_len(bytes, at, part) } else { least };
    let end = at.saturating_add(len);
    if end > bytes.len() {
        return Err(Fault::Length { what: "an optional part of the event", value: part.into() });
    }
    check_part(bytes, at, end, part)?;
    Ok(end)
}

#[inline]
fn check_part(bytes: &[u8], at: usize, end: usize, part: u16) -> Result<(), Fault> {
    match part {
        part::METADATA if end == at + 4 => Err(Fault::Length { what: "length of the metadata", value: 0 }),
        part::OCCURRED_AT if u8_at(bytes, at + 8) > DIGITS_MAX => {
            Err(Fault::Count { what: "digits of occurred_at", value: u8_at(bytes, at + 8).into() })
        }
        part::CONTENT_TYPE if bytes.get(at + 1..end).is_none_or(|text| std::str::from_utf8(text).is_err()) => {
            Err(Fault::Name { what: "the content type" })
        }
        _ => Ok(()),
    }
}

/// Checks count, lengths and names of the tags at `at`; answers where they end.
fn walk_tags(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    let count = u8_at(bytes, at);
    if count == 0 {
        return Err(Fault::Count { what: "number of tags", value: 0 });
    }
    let mut at = at + 1;
    for _ in 0..count {
        let tag_len = usize::from(u8_at(bytes, at));
        let Some(tag) = bytes.get(at + 1..at + 1 + tag_len) else {
            return Err(Fault::Length { what: "length of a tag", value: tag_len as u64 });
        };
        if !name::is_well_formed(tag) {
            return Err(Fault::Name { what: "a tag" });
        }
        at += 1 + tag_len;
    }
    Ok(at)
}

/// Tags of an event, in the order they were given.
#[derive(Clone, Debug)]
pub struct Tags<'a> {
    /// Per tag a length byte and its bytes.
    rest: &'a [u8],
}

impl<'a> Iterator for Tags<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        let (len, rest) = self.rest.split_first()?;
        let (tag, rest) = rest.split_at_checked(usize::from(*len))?;
        self.rest = rest;
        Some(text(tag))
    }
}

impl std::iter::FusedIterator for Tags<'_> {}
