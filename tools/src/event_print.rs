//! Events shown by `cat`, `tail` and `get`: as JSON, or as a line for people.

use annals::EventRef;
use data_encoding::BASE64;

use crate::lines::{print_time, print_wall_clock, push_text};

/// Characters of the payload on a line for people.
const PAYLOAD_CHARS_MAX: usize = 100;

/// How events are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A JSON object on a line.
    Json,
    /// A line for people, long payloads cut.
    Short,
}

impl Form {
    pub(crate) fn new(json: bool) -> Self {
        if json { Self::Json } else { Self::Short }
    }

    /// Appends the event with its line break.
    pub(crate) fn push(self, out: &mut Vec<u8>, event: EventRef<'_>) {
        match self {
            Self::Json => push_json(out, event),
            Self::Short => push_short(out, event),
        }
    }
}

fn push_short(out: &mut Vec<u8>, event: EventRef<'_>) {
    let time = event.occurred_at().map_or_else(|| "-".to_owned(), print_time);
    let head = format!("{} {} {}@{} {} ", event.position(), time, event.stream(), event.revision(), event.event_type());
    out.extend_from_slice(head.as_bytes());
    let payload = String::from_utf8_lossy(event.payload());
    let mut characters = payload.chars();
    for character in characters.by_ref().take(PAYLOAD_CHARS_MAX) {
        // Bytes of a store must not drive the terminal.
        let shown = if character.is_control() { '\u{fffd}' } else { character };
        out.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes());
    }
    if characters.next().is_some() {
        out.extend_from_slice("…".as_bytes());
    }
    out.push(b'\n');
}

fn push_json(out: &mut Vec<u8>, event: EventRef<'_>) {
    out.extend_from_slice(format!("{{\"position\":{},\"revision\":{}", event.position(), event.revision()).as_bytes());
    push_field(out, "stream", event.stream());
    push_field(out, "type", event.event_type());
    push_field(out, "id", &event.id().to_string());
    match event.occurred_at() {
        Some(at) => push_field(out, "time", &print_time(at)),
        None => out.extend_from_slice(b",\"time\":null"),
    }
    push_field(out, "recorded_at", &print_wall_clock(event.recorded_at()));
    let batch = format!(",\"batch_first\":{},\"batch_len\":{},\"tags\":[", event.batch_first(), event.batch_len());
    out.extend_from_slice(batch.as_bytes());
    for (n, tag) in event.tags().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        push_text(out, tag);
    }
    out.push(b']');
    if let Some(content_type) = event.content_type() {
        push_field(out, "content_type", content_type);
    }
    if let Some(version) = event.schema_version() {
        out.extend_from_slice(format!(",\"schema_version\":{version}").as_bytes());
    }
    for (name, bytes) in [("correlation", event.correlation()), ("causation", event.causation())] {
        match bytes.map(std::str::from_utf8) {
            Some(Ok(text)) => push_field(out, name, text),
            Some(Err(_)) => push_field(out, &format!("{name}_base64"), &BASE64.encode(bytes.unwrap_or_default())),
            None => {}
        }
    }
    push_value(out, "data", event.payload());
    push_value(out, "meta", event.metadata());
    out.extend_from_slice(b"}\n");
}

fn push_field(out: &mut Vec<u8>, name: &str, text: &str) {
    out.extend_from_slice(format!(",\"{name}\":").as_bytes());
    push_text(out, text);
}

/// The bytes as the JSON they are; else `null`, with the bytes in `NAME_base64` if there are any.
fn push_value(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    out.extend_from_slice(format!(",\"{name}\":").as_bytes());
    if is_json(bytes) {
        // Line breaks can stand only between tokens, where a space means the same.
        out.extend(bytes.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        return;
    }
    out.extend_from_slice(b"null");
    if !bytes.is_empty() {
        push_field(out, &format!("{name}_base64"), &BASE64.encode(bytes));
    }
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}
