//! One line read: what it says of its event, checked for shape but not against a store's limits.

use std::borrow::Cow;

use annals::{EventId, NewEvent, OccurredAt};
use data_encoding::BASE64;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::time::parse_time;

/// The event of a line, and the batch the line names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) stream: String,
    pub(crate) event_type: String,
    pub(crate) id: Option<EventId>,
    pub(crate) occurred_at: Option<OccurredAt>,
    pub(crate) payload: Vec<u8>,
    pub(crate) metadata: Vec<u8>,
    pub(crate) tags: Vec<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) schema_version: Option<u32>,
    pub(crate) correlation: Option<Vec<u8>>,
    pub(crate) causation: Option<Vec<u8>>,
    pub(crate) batch: Option<u64>,
}

/// What is wrong with a line; the caller knows which line it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LineFault {
    /// Column in bytes, from 1; 0 where none can be told.
    pub(crate) column: usize,
    pub(crate) what: String,
}

impl LineFault {
    fn of(what: impl Into<String>) -> Self {
        Self { column: 0, what: what.into() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    id: Option<Text<'a>>,
    time: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present")]
    data: Option<Box<RawValue>>,
    data_base64: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present")]
    meta: Option<Box<RawValue>>,
    meta_base64: Option<Text<'a>>,
    #[serde(default)]
    tags: Vec<String>,
    content_type: Option<String>,
    schema_version: Option<u32>,
    correlation: Option<Text<'a>>,
    correlation_base64: Option<Text<'a>>,
    causation: Option<Text<'a>>,
    causation_base64: Option<Text<'a>>,
    batch: Option<u64>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Tells `null`, which has a text of its own, from a field that is not there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

impl Entry {
    /// Reads one line, without its line break.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, LineFault> {
        let text = std::str::from_utf8(line)
            .map_err(|error| LineFault { column: error.valid_up_to() + 1, what: "bad UTF-8".to_owned() })?;
        // An array of the right values would pass as well.
        if !text.trim_start().starts_with('{') {
            return Err(LineFault { column: 1, what: "not a JSON object".to_owned() });
        }
        let written: Written<'_> = serde_json::from_str(text).map_err(json_fault)?;
        let meta = match written.meta {
            None => None,
            Some(raw) if raw.get().starts_with('{') || raw.get() == "null" => Some(raw),
            Some(_) => return Err(LineFault::of("`meta` is neither an object nor null")),
        };
        let data = match written.data {
            Some(raw) if !raw.get().starts_with('{') => return Err(LineFault::of("`data` is not an object")),
            data => data,
        };
        Ok(Self {
            stream: written.stream.into_owned(),
            event_type: written.event_type.into_owned(),
            id: written.id.map(|id| parse_id(&id.0)).transpose()?,
            occurred_at: written.time.map(|time| parse_time(&time.0)).transpose().map_err(LineFault::of)?,
            payload: bytes_of("data", data, written.data_base64)?.ok_or_else(|| LineFault::of("no field `data`"))?,
            metadata: bytes_of("meta", meta, written.meta_base64)?.unwrap_or_default(),
            tags: written.tags,
            content_type: written.content_type,
            schema_version: written.schema_version,
            correlation: text_or_bytes("correlation", written.correlation, written.correlation_base64)?,
            causation: text_or_bytes("causation", written.causation, written.causation_base64)?,
            batch: written.batch,
        })
    }

    /// The event to append; `tags` are this entry's, as the engine wants to borrow them.
    pub(crate) fn new_event<'a>(&'a self, id: EventId, tags: &'a [&'a str]) -> NewEvent<'a> {
        let mut event = NewEvent::new(&self.event_type, &self.payload).metadata(&self.metadata).id(id).tags(tags);
        if let Some(at) = self.occurred_at {
            event = event.occurred_at(at);
        }
        if let Some(version) = self.schema_version {
            event = event.schema_version(version);
        }
        if let Some(content_type) = &self.content_type {
            event = event.content_type(content_type);
        }
        if let Some(correlation) = &self.correlation {
            event = event.correlation(correlation);
        }
        if let Some(causation) = &self.causation {
            event = event.causation(causation);
        }
        event
    }
}

fn json_fault(error: serde_json::Error) -> LineFault {
    let said = error.to_string();
    // The line is always the first one for the parser; the caller gives its true number.
    let what = said.rsplit_once(" at line ").map_or(said.as_str(), |(what, _)| what);
    LineFault { column: error.column(), what: what.to_owned() }
}

fn parse_id(text: &str) -> Result<EventId, LineFault> {
    text.parse().map_err(|_| LineFault::of(format!("id {text:?} is not a UUID")))
}

fn bytes_of(name: &str, raw: Option<Box<RawValue>>, base64: Option<Text<'_>>) -> Result<Option<Vec<u8>>, LineFault> {
    match (raw, base64) {
        (Some(_), Some(_)) => Err(both(name)),
        (Some(raw), None) => Ok(Some(String::from(Box::<str>::from(raw)).into_bytes())),
        (None, base64) => base64.map(|text| decode(name, &text.0)).transpose(),
    }
}

fn text_or_bytes(name: &str, text: Option<Text<'_>>, base64: Option<Text<'_>>) -> Result<Option<Vec<u8>>, LineFault> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(both(name)),
        (Some(text), None) => Ok(Some(text.0.into_owned().into_bytes())),
        (None, base64) => base64.map(|text| decode(name, &text.0)).transpose(),
    }
}

fn both(name: &str) -> LineFault {
    LineFault::of(format!("both `{name}` and `{name}_base64`"))
}

fn decode(name: &str, text: &str) -> Result<Vec<u8>, LineFault> {
    BASE64.decode(text.as_bytes()).map_err(|_| LineFault::of(format!("`{name}_base64` is not base64")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: &str) -> String {
        Entry::parse(line.as_bytes()).unwrap_err().what
    }

    #[test]
    fn the_text_of_data_is_kept_as_it_is() {
        let line =
            br#"{ "type" : "T", "data" : {"b": 1.50e3,"a":"\u0041\/" } , "stream":"s\u0041", "meta":{ }, "time":null}"#;
        let entry = Entry::parse(line).unwrap();
        assert_eq!(entry.payload, br#"{"b": 1.50e3,"a":"\u0041\/" }"#);
        assert_eq!(entry.metadata, b"{ }");
        assert_eq!((entry.stream.as_str(), entry.event_type.as_str()), ("sA", "T"));
        assert_eq!((entry.id, entry.occurred_at, entry.batch), (None, None, None));
    }

    #[test]
    fn null_meta_and_no_meta_differ() {
        let null = Entry::parse(br#"{"stream":"s","type":"T","data":{},"meta":null}"#).unwrap();
        let none = Entry::parse(br#"{"stream":"s","type":"T","data":{}}"#).unwrap();
        assert_eq!((null.metadata.as_slice(), none.metadata.as_slice()), (&b"null"[..], &b""[..]));
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(fault(r#"{"stream":"s","type":"T"}"#), "no field `data`");
        assert_eq!(fault(r#"{"stream":"s","data":{}}"#), "missing field `type`");
        assert!(fault(r#"{"stream":"s","type":"T","data":{},"extra":1}"#).starts_with("unknown field `extra`"));
        assert_eq!(fault(r#"{"stream":"s","stream":"s","type":"T","data":{}}"#), "duplicate field `stream`");
        assert_eq!(fault(r#"{"stream":"s","type":"T","data":[1]}"#), "`data` is not an object");
        assert_eq!(fault(r#"{"stream":"s","type":"T","data":{},"meta":7}"#), "`meta` is neither an object nor null");
        assert_eq!(fault(r#"{"stream":"s","type":"T","data":{},"data_base64":""}"#), "both `data` and `data_base64`");
        assert_eq!(fault(r#"{"stream":"s","type":"T","data_base64":"*"}"#), "`data_base64` is not base64");
        assert_eq!(fault(r#"{"stream":"s","type":"T","data":{},"id":"7"}"#), "id \"7\" is not a UUID");
        assert!(fault(r#"{"stream":5,"type":"T","data":{}}"#).starts_with("invalid type: integer `5`"));
        assert!(fault(r#"{"stream":"s","type":"T","data":{},"batch":-1}"#).starts_with("invalid value"));
        assert!(fault(r#"{"stream":"s","type":"T","data":{},"batch":"1"}"#).starts_with("invalid type"));
        assert!(fault(r#"{"stream":"s","type":"T","data":{}"#).starts_with("EOF while parsing"));
        assert_eq!(fault(r#"{"stream":"s","type":"T","data":{}} x"#), "trailing characters");
        assert_eq!(
            Entry::parse(b"{\"stream\":\"\xff\"}").unwrap_err(),
            LineFault { column: 12, what: "bad UTF-8".into() }
        );
    }
}
