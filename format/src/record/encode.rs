//! Events into bytes.

use super::{EventParts, FRAME_ALIGNMENT, ID_GENERATED, KIND_EVENT, NAMES_AT, TAG_COUNT_MAX, padded, part};
use crate::field::put;
use crate::name::NAME_LEN_MAX;

/// Longest frame before padding.
const LEN_MAX: usize = (u32::MAX - 7) as usize;
/// Longest content type, correlation and causation.
const SHORT_LEN_MAX: usize = u8::MAX as usize;

/// Length of the event's frame in the log, padding included. A few nanoseconds.
#[inline]
pub fn encoded_len(event: &EventParts<'_>) -> usize {
    padded(plain_len(event))
}

#[inline]
fn plain_len(event: &EventParts<'_>) -> usize {
    NAMES_AT + event.stream.len() + event.event_type.len() + optional_len(event) + event.payload.len()
}

#[inline]
fn optional_len(event: &EventParts<'_>) -> usize {
    let mut len = 0;
    if !event.tags.is_empty() {
        len += 1 + event.tags.iter().map(|tag| 1 + tag.len()).sum::<usize>();
    }
    if !event.metadata.is_empty() {
        len += 4 + event.metadata.len();
    }
    len += if event.occurred_at.is_some() { part::OCCURRED_AT_LEN } else { 0 };
    len += if event.schema_version.is_some() { part::SCHEMA_VERSION_LEN } else { 0 };
    len += event.content_type.map_or(0, |text| 1 + text.len());
    len += event.correlation.map_or(0, |bytes| 1 + bytes.len());
    len + event.causation.map_or(0, |bytes| 1 + bytes.len())
}

/// Which optional parts the event has.
#[inline]
fn parts_present(event: &EventParts<'_>) -> u16 {
    let bit = |present: bool, bit: u16| if present { bit } else { 0 };
    bit(!event.tags.is_empty(), part::TAGS)
        | bit(!event.metadata.is_empty(), part::METADATA)
        | bit(event.occurred_at.is_some(), part::OCCURRED_AT)
        | bit(event.schema_version.is_some(), part::SCHEMA_VERSION)
        | bit(event.content_type.is_some(), part::CONTENT_TYPE)
        | bit(event.correlation.is_some(), part::CORRELATION)
        | bit(event.causation.is_some(), part::CAUSATION)
}

/// Appends the event's frame to `buffer`, its checksum still zero.
///
/// # Panics
/// If a part is longer than the format can say.
#[inline]
pub(crate) fn encode_event(buffer: &mut Vec<u8>, event: &EventParts<'_>, revision: u64) {
    let len = plain_len(event);
    assert!(
        len <= LEN_MAX && is_name_len(event.stream.len()) && is_name_len(event.event_type.len()),
        "names have 1 to 255 bytes, an event less than 4 GiB"
    );
    let present = parts_present(event);
    buffer.reserve(padded(len));

    let mut head = [0; NAMES_AT];
    put(&mut head, 4, (len as u32).to_le_bytes());
    head[8] = KIND_EVENT;
    head[11] = if event.id_generated { ID_GENERATED } else { 0 };
    put(&mut head, 12, present.to_le_bytes());
    head[14] = event.stream.len() as u8;
    head[15] = event.event_type.len() as u8;
    put(&mut head, 16, revision.to_le_bytes());
    put(&mut head, 24, event.id);
    buffer.extend_from_slice(&head);
    buffer.extend_from_slice(event.stream.as_bytes());
    buffer.extend_from_slice(event.event_type.as_bytes());
    if present != 0 {
        encode_optional(buffer, event);
    }
    buffer.extend_from_slice(event.payload);
    let padding = padded(len) - len;
    buffer.extend_from_slice(&[0; FRAME_ALIGNMENT - 1][..padding]);
}

#[inline]
fn is_name_len(len: usize) -> bool {
    (1..=NAME_LEN_MAX).contains(&len)
}

fn encode_optional(buffer: &mut Vec<u8>, event: &EventParts<'_>) {
    if !event.tags.is_empty() {
        assert!(event.tags.len() <= TAG_COUNT_MAX, "an event has at most 255 tags");
        buffer.push(event.tags.len() as u8);
        for tag in event.tags {
            assert!(is_name_len(tag.len()), "tags have 1 to 255 bytes");
            push_short(buffer, tag.as_bytes());
        }
    }
    if !event.metadata.is_empty() {
        buffer.extend_from_slice(&(event.metadata.len() as u32).to_le_bytes());
        buffer.extend_from_slice(event.metadata);
    }
    if let Some(at) = event.occurred_at {
        assert!(at.digits <= super::event::DIGITS_MAX, "a time has at most 9 digits of fraction");
        buffer.extend_from_slice(&at.nanos.to_le_bytes());
        buffer.push(at.digits);
    }
    if let Some(version) = event.schema_version {
        buffer.extend_from_slice(&version.to_le_bytes());
    }
    for bytes in [event.content_type.map(str::as_bytes), event.correlation, event.causation].into_iter().flatten() {
        push_short(buffer, bytes);
    }
}

fn push_short(buffer: &mut Vec<u8>, bytes: &[u8]) {
    assert!(bytes.len() <= SHORT_LEN_MAX, "short fields have at most 255 bytes");
    buffer.push(bytes.len() as u8);
    buffer.extend_from_slice(bytes);
}
