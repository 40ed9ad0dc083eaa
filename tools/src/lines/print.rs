//! Events printed in the form of the lines.

use annals::{EventId, EventRef, OccurredAt};
use data_encoding::BASE64;

use super::print_time;

/// What a line says of an event, borrowed.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) stream: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) id: EventId,
    pub(crate) occurred_at: Option<OccurredAt>,
    pub(crate) payload: &'a [u8],
    pub(crate) metadata: &'a [u8],
    pub(crate) tags: Vec<&'a str>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) schema_version: Option<u32>,
    pub(crate) correlation: Option<&'a [u8]>,
    pub(crate) causation: Option<&'a [u8]>,
}

impl<'a> From<EventRef<'a>> for Fields<'a> {
    fn from(event: EventRef<'a>) -> Self {
        Self {
            stream: event.stream(),
            event_type: event.event_type(),
            id: event.id(),
            occurred_at: event.occurred_at(),
            payload: event.payload(),
            metadata: event.metadata(),
            tags: event.tags().collect(),
            content_type: event.content_type(),
            schema_version: event.schema_version(),
            correlation: event.correlation(),
            causation: event.causation(),
        }
    }
}

/// Appends the canonical line, with its line break.
pub(crate) fn write_line(out: &mut Vec<u8>, event: &Fields<'_>, batch: Option<u64>) {
    out.extend_from_slice(b"{\"stream\":");
    push_text(out, event.stream);
    out.extend_from_slice(b",\"type\":");
    push_text(out, event.event_type);
    out.extend_from_slice(format!(",\"id\":\"{}\",\"time\":", event.id).as_bytes());
    match event.occurred_at {
        None => out.extend_from_slice(b"null"),
        Some(at) => push_text(out, &print_time(at)),
    }
    if is_one_line_object(event.payload) {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(event.payload);
    } else {
        push_base64(out, "data", event.payload);
    }
    if event.metadata == b"null" || is_one_line_object(event.metadata) {
        out.extend_from_slice(b",\"meta\":");
        out.extend_from_slice(event.metadata);
    } else if !event.metadata.is_empty() {
        push_base64(out, "meta", event.metadata);
    }
    push_rarer_fields(out, event);
    if let Some(batch) = batch {
        out.extend_from_slice(format!(",\"batch\":{batch}").as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

/// Fields that the form does not have and that only other programs' events use.
fn push_rarer_fields(out: &mut Vec<u8>, event: &Fields<'_>) {
    for (n, tag) in event.tags.iter().enumerate() {
        out.extend_from_slice(if n == 0 { b",\"tags\":[" } else { b"," });
        push_text(out, tag);
    }
    if !event.tags.is_empty() {
        out.push(b']');
    }
    if let Some(content_type) = event.content_type {
        out.extend_from_slice(b",\"content_type\":");
        push_text(out, content_type);
    }
    if let Some(version) = event.schema_version {
        out.extend_from_slice(format!(",\"schema_version\":{version}").as_bytes());
    }
    for (name, bytes) in [("correlation", event.correlation), ("causation", event.causation)] {
        match bytes.map(std::str::from_utf8) {
            None => {}
            Some(Ok(text)) => {
                out.extend_from_slice(format!(",\"{name}\":").as_bytes());
                push_text(out, text);
            }
            Some(Err(_)) => push_base64(out, name, bytes.unwrap_or_default()),
        }
    }
}

/// Appends a JSON text: only quotes, backslashes and control characters are escaped.
pub(crate) fn push_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing to memory");
}

fn push_base64(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    out.extend_from_slice(format!(",\"{name}_base64\":\"{}\"", BASE64.encode(bytes)).as_bytes());
}

/// Whether the bytes can stand in a line as they are and be read back as they are.
pub(crate) fn is_one_line_object(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'{')
        && bytes.last() == Some(&b'}')
        && !bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
        && std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

#[cfg(test)]
impl<'a> From<&'a super::Entry> for Fields<'a> {
    fn from(entry: &'a super::Entry) -> Self {
        Self {
            stream: &entry.stream,
            event_type: &entry.event_type,
            id: entry.id.expect("tests give ids"),
            occurred_at: entry.occurred_at,
            payload: &entry.payload,
            metadata: &entry.metadata,
            tags: entry.tags.iter().map(String::as_str).collect(),
            content_type: entry.content_type.as_deref(),
            schema_version: entry.schema_version,
            correlation: entry.correlation.as_deref(),
            causation: entry.causation.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::Entry;

    fn printed(entry: &Entry) -> String {
        let mut out = Vec::new();
        write_line(&mut out, &Fields::from(entry), entry.batch);
        String::from_utf8(out).unwrap()
    }

    fn comes_back(entry: &Entry) -> String {
        let line = printed(entry);
        assert_eq!(Entry::parse(line.trim_end_matches('\n').as_bytes()).as_ref(), Ok(entry), "{line}");
        line
    }

    #[test]
    fn a_canonical_line_comes_back_exactly() {
        let lines = [
            r#"{"stream":"crates/a","type":"T","id":"f0a28c59-985b-5ce7-8fe3-9ef333c22156","time":"2017-02-26T00:43:37.120Z","data":{"é":"\n\u00e9","n":1.0},"meta":{},"batch":0}"#,
            r#"{"stream":"quo\"te\\ü","type":"T","id":"f0a28c59-985b-5ce7-8fe3-9ef333c22156","time":null,"data":{}}"#,
        ];
        for line in lines {
            assert_eq!(printed(&Entry::parse(line.as_bytes()).unwrap()).trim_end(), line);
        }
    }

    #[test]
    fn bytes_that_are_no_object_on_one_line_come_back() {
        let plain = Entry {
            stream: "s".into(),
            event_type: "T".into(),
            id: Some(EventId::from_bytes([7; 16])),
            ..Entry::default()
        };
        let payloads: [&[u8]; 10] =
            [b"", b"\xff", b"[1]", b"null", b"{\n}", b" {}", b"{} ", b"{\"a\":}", b"{}{}", b"{\"a\":\"\xff\"}"];
        for payload in payloads {
            let entry = Entry { payload: payload.to_vec(), metadata: payload.to_vec(), ..plain.clone() };
            assert!(comes_back(&entry).contains("\"data_base64\""));
        }
        for payload in [&b"{}"[..], b"{\"a\": 1}"] {
            let entry = Entry { payload: payload.to_vec(), metadata: b"null".to_vec(), ..plain.clone() };
            assert!(!comes_back(&entry).contains("base64"));
        }
    }

    #[test]
    fn rarer_fields_come_back() {
        let entry = Entry {
            stream: "s".into(),
            event_type: "T".into(),
            id: Some(EventId::from_bytes([7; 16])),
            payload: b"{}".to_vec(),
            tags: vec!["a:1".into(), "b\"".into()],
            content_type: Some("text/\u{1}plain".into()),
            schema_version: Some(0),
            correlation: Some("ü".into()),
            causation: Some(b"\xff\0".to_vec()),
            batch: Some(u64::MAX),
            ..Entry::default()
        };
        comes_back(&entry);
    }
}
