//! Decodes the input as it is, and again with its checksums put right; and batches made from structured input, which
//! must decode to what they were made from.
#![no_main]

use annals_format::batch::BatchEncoder;
use annals_format::name::is_well_formed;
use annals_format::record::{EventParts, OccurredAt, Record};
use annals_format::scan;
use annals_fuzz::samples::{self, Structure};
use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static STRUCTURE: LazyLock<Structure> = LazyLock::new(|| samples::structure("batch"));

#[derive(Arbitrary, Debug)]
struct Event<'a> {
    id: [u8; 16],
    id_generated: bool,
    stream: &'a str,
    event_type: &'a str,
    tags: Vec<&'a str>,
    metadata: &'a [u8],
    payload: &'a [u8],
    occurred_at: Option<(i64, u8)>,
    schema_version: Option<u32>,
    content_type: Option<&'a str>,
    correlation: Option<&'a [u8]>,
    causation: Option<&'a [u8]>,
}

impl Event<'_> {
    fn is_allowed(&self) -> bool {
        let names = [self.stream, self.event_type].into_iter().chain(self.tags.iter().copied());
        names.into_iter().all(|name| is_well_formed(name.as_bytes()))
            && self.tags.len() <= 255
            && self.occurred_at.is_none_or(|(_, digits)| digits <= 9)
            && self.content_type.is_none_or(|text| text.len() <= 255)
            && self.correlation.is_none_or(|bytes| bytes.len() <= 255)
            && self.causation.is_none_or(|bytes| bytes.len() <= 255)
    }

    fn parts(&self) -> EventParts<'_> {
        EventParts {
            id: self.id,
            id_generated: self.id_generated,
            stream: self.stream,
            event_type: self.event_type,
            tags: &self.tags,
            metadata: self.metadata,
            payload: self.payload,
            occurred_at: self.occurred_at.map(|(nanos, digits)| OccurredAt { nanos, digits }),
            schema_version: self.schema_version,
            content_type: self.content_type,
            correlation: self.correlation,
            causation: self.causation,
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    samples::exercise(&STRUCTURE, bytes);
    let Ok(events) = Vec::<Event<'_>>::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    if events.is_empty() || !events.iter().all(Event::is_allowed) {
        return;
    }
    let mut encoded = Vec::new();
    let mut encoder = BatchEncoder::begin(&mut encoded, samples::seed(), 1);
    for (n, event) in events.iter().enumerate() {
        encoder.event(&event.parts(), n as u64 + 1);
    }
    let header = encoder.finish(1, 0, false);
    let mut met = 0;
    scan::verify_batch(&encoded, &header, samples::seed(), |_, position, record| {
        let Record::Event(frame) = record else { panic!("only events were written") };
        let tags: Vec<&str> = frame.tags().collect();
        assert_eq!(frame.parts(&tags), events[met].parts());
        assert_eq!((position, frame.revision()), (met as u64 + 1, met as u64 + 1));
        met += 1;
    })
    .expect("what was encoded is whole");
    assert_eq!(met, events.len());
});
