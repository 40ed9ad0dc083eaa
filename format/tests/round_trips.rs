//! What is encoded decodes to the same, for any content.

mod samples;

use annals_format::batch::{BATCH_HEADER_LEN, BatchEncoder, BatchHeader};
use annals_format::checksum::{Identity, Seed};
use annals_format::control::ControlHeader;
use annals_format::manifest::{
    AncestorEntry, DurabilityKind, IncarnationEntry, Limits, LostEntry, Manifest, SnapshotFileEntry,
};
use annals_format::mark::Mark;
use annals_format::record::{self, EventFrame, EventParts, OccurredAt, Record, encoded_len};
use annals_format::ring::RingHeader;
use annals_format::scan::{self, Step};
use annals_format::segment::{EndMark, FinalChecksum, Link, SegmentHeader, SegmentKind};
use annals_format::{Fault, NUMBER_MAX};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// An event that owns its parts.
#[derive(Debug, Clone)]
struct Owned {
    id: [u8; 16],
    id_generated: bool,
    stream: String,
    event_type: String,
    tags: Vec<String>,
    metadata: Vec<u8>,
    payload: Vec<u8>,
    occurred_at: Option<(i64, u8)>,
    schema_version: Option<u32>,
    content_type: Option<String>,
    correlation: Option<Vec<u8>>,
    causation: Option<Vec<u8>>,
    revision: u64,
}

impl Owned {
    fn parts<'a>(&'a self, tags: &'a [&'a str]) -> EventParts<'a> {
        EventParts {
            id: self.id,
            id_generated: self.id_generated,
            stream: &self.stream,
            event_type: &self.event_type,
            tags,
            metadata: &self.metadata,
            payload: &self.payload,
            occurred_at: self.occurred_at.map(|(nanos, digits)| OccurredAt { nanos, digits }),
            schema_version: self.schema_version,
            content_type: self.content_type.as_deref(),
            correlation: self.correlation.as_deref(),
            causation: self.causation.as_deref(),
        }
    }

    fn tags(&self) -> Vec<&str> {
        self.tags.iter().map(String::as_str).collect()
    }

    fn assert_equals(&self, frame: &EventFrame<'_>) {
        let tags: Vec<&str> = frame.tags().collect();
        assert_eq!(frame.parts(&tags), self.parts(&self.tags()));
        assert_eq!(frame.revision(), self.revision);
        assert_eq!(frame.stream_bytes(), self.stream.as_bytes());
        assert_eq!(frame.event_type_bytes(), self.event_type.as_bytes());
        // A handle keeps its bytes apart; the parts must lie in them, empty ones too.
        for part in [frame.payload(), frame.metadata()] {
            let (start, from) = (frame.bytes().as_ptr().addr(), part.as_ptr().addr());
            assert!(from >= start && from + part.len() <= start + frame.bytes().len());
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{1,255}", "[a-zà-þ一-丂😀]{1,60}", "[ -~]{1,9}"]
}

fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 0..=len)]
}

fn event() -> impl Strategy<Value = Owned> {
    let names = (any::<[u8; 16]>(), any::<bool>(), name(), name(), prop_oneof![Just(vec![]), vec(name(), 0..5)]);
    let optional = (
        option::of((any::<i64>(), 0..=9u8)),
        option::of(any::<u32>()),
        option::of("[ -~é]{0,60}"),
        option::of(bytes(255)),
        option::of(bytes(255)),
    );
    let optional = prop_oneof![1 => Just((None, None, None, None, None)), 3 => optional];
    (names, bytes(70_000), bytes(70_000), optional, 1..=NUMBER_MAX).prop_map(
        |((id, id_generated, stream, event_type, tags), metadata, payload, optional, revision)| {
            let (occurred_at, schema_version, content_type, correlation, causation) = optional;
            Owned {
                id,
                id_generated,
                stream,
                event_type,
                tags,
                metadata,
                payload,
                occurred_at,
                schema_version,
                content_type,
                correlation,
                causation,
                revision,
            }
        },
    )
}

fn identity() -> impl Strategy<Value = Identity> {
    (any::<[u8; 16]>(), any::<[u8; 16]>(), 2..=NUMBER_MAX).prop_map(|(store, incarnation, segment)| Identity {
        store,
        incarnation,
        segment,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn batches(
        identity in identity(),
        events in vec(event(), 1..6),
        first in 1..NUMBER_MAX - 6,
        recorded_at: u64,
        as_batch: bool,
        behind in 0..1000u64,
        before in vec(any::<u8>(), 0..64),
    ) {
        let seed = Seed::of(&identity);
        let mut buffer = before.clone();
        let mut encoder = BatchEncoder::begin(&mut buffer, seed, first);
        let mut offsets = Vec::new();
        for event in &events {
            offsets.push(encoder.event(&event.parts(&event.tags()), event.revision));
        }
        let durable = (first - 1).saturating_sub(behind);
        let header = encoder.finish(recorded_at, durable, as_batch);
        prop_assert_eq!(&buffer[..before.len()], &before[..]);
        let bytes = &buffer[before.len()..];
        let lens: usize = events.iter().map(|event| encoded_len(&event.parts(&event.tags()))).sum();
        prop_assert_eq!(bytes.len(), 40 + lens);
        prop_assert_eq!(header.len(), bytes.len());
        prop_assert_eq!(scan::next(bytes, seed), Ok(Step::Batch(header)));
        prop_assert_eq!((header.recorded_at, header.as_batch), (recorded_at, as_batch));
        prop_assert_eq!(header.durable_upto(), Some(durable));
        let mut met = 0;
        scan::verify_batch(bytes, &header, seed, |offset, position, record| {
            let Record::Event(frame) = record else { panic!("only events were written") };
            assert_eq!((offset, position), (offsets[met], first + met as u64));
            assert_eq!(frame.position(), position);
            events[met].assert_equals(&frame);
            let owned = frame.bytes().to_vec();
            assert_eq!(record::frame_len(&owned), Ok(owned.len()));
            events[met].assert_equals(&EventFrame::from_layout(&owned, frame.layout()));
            met += 1;
        })?;
        prop_assert_eq!(met, events.len());
    }

    #[test]
    fn one_changed_byte_of_a_record_is_refused(event in event(), at: prop::sample::Index, change in 1..=255u8) {
        let mut buffer = Vec::new();
        let mut encoder = BatchEncoder::begin(&mut buffer, samples::seed(), 5);
        encoder.event(&event.parts(&event.tags()), event.revision);
        encoder.finish(1, 0, false);
        let frame = &mut buffer[40..];
        let at = at.index(frame.len());
        frame[at] ^= change;
        prop_assert!(record::decode(frame, samples::seed(), 5).is_err());
    }

    #[test]
    fn any_bytes_are_only_refused(structure in 0..8usize, bytes in vec(any::<u8>(), 0..300), at: prop::sample::Index) {
        let structure = &samples::all()[structure];
        samples::exercise(structure, &bytes);
        // The same inside a sample.
        let mut sample = structure.bytes.clone();
        let at = at.index(sample.len());
        let len = bytes.len().min(sample.len() - at).min(16);
        sample[at..at + len].copy_from_slice(&bytes[..len]);
        samples::exercise(structure, &sample);
    }

    #[test]
    fn segment_headers(
        identity in identity(),
        numbers in (0..=NUMBER_MAX, 0..=NUMBER_MAX, 1..1u64 << 40, 0..1u64 << 40, 1..=NUMBER_MAX),
        previous in option::of((1..NUMBER_MAX, any::<u32>())),
        created_at: u64,
        written_by: u32,
    ) {
        let (generation, manifest_generation, pages, base, first_position) = numbers;
        let header = SegmentHeader {
            generation,
            manifest_generation,
            segment_len: pages * 4096,
            base: base * 4096,
            first_position,
            previous: previous.map(|(number, final_checksum)| {
                Link { number: number.min(identity.segment - 1), final_checksum }
            }),
            created_at,
            written_by,
            kind: SegmentKind::Live,
            identity,
        };
        prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(Some(header.clone())));
        prop_assert_eq!(header.seed(), Seed::of(&identity));
    }

    #[test]
    fn end_marks(
        identity in identity(),
        final_checksum: u32,
        first_position in 1..1u64 << 62,
        counts in (1..1u64 << 30, 0..1u64 << 30),
        times in (any::<u64>(), any::<u64>()),
        next_segment in 1..=NUMBER_MAX,
    ) {
        let mark = EndMark {
            final_checksum,
            first_position,
            last_position: first_position + counts.0 + counts.1 - 1,
            first_time: times.0.min(times.1),
            last_time: times.0.max(times.1),
            batch_count: 1 + counts.1 / 2,
            event_count: counts.0,
            control_count: counts.1,
            next_segment,
        };
        let seed = Seed::of(&identity);
        prop_assert_eq!(EndMark::decode(&mark.encode(seed), seed), Ok(mark));
    }

    #[test]
    fn marks(
        ids in any::<([u8; 16], [u8; 16])>(),
        numbers in (0..=NUMBER_MAX, 0..=NUMBER_MAX, 1..=NUMBER_MAX, 0..=NUMBER_MAX, 0..=NUMBER_MAX),
        recorded_at: u64,
        clean: bool,
    ) {
        let mark = Mark {
            store: ids.0,
            incarnation: ids.1,
            sequence: numbers.0,
            manifest_generation: numbers.1,
            segment: numbers.2,
            offset: numbers.3,
            position: numbers.4,
            recorded_at,
            clean,
        };
        prop_assert_eq!(Mark::decode(&mark.encode()), Ok(Some(mark)));
    }

    #[test]
    fn rings(
        ids in any::<([u8; 16], [u8; 16])>(),
        session in 0..=NUMBER_MAX,
        shift in 16..40u32,
        first_segment in 1..=NUMBER_MAX,
        holds_log: bool,
    ) {
        let header = RingHeader {
            store: ids.0,
            incarnation: ids.1,
            session,
            ring_len: 1 << shift,
            first_segment,
            holds_log,
        };
        prop_assert_eq!(RingHeader::decode(&header.encode()), Ok(Some(header)));
    }

    #[test]
    fn control_pages(ids in any::<([u8; 16], [u8; 16])>(), session in 0..=NUMBER_MAX) {
        let header = ControlHeader { store: ids.0, incarnation: ids.1, session };
        prop_assert_eq!(ControlHeader::decode(&header.encode()), Ok(Some(header)));
    }

    #[test]
    fn manifests(
        ids in any::<([u8; 16], [u8; 16])>(),
        lens in vec(0..50u64, 0..8),
        durable: bool,
        removal_forbidden: bool,
        quota_bytes in option::of(1..=NUMBER_MAX),
        numbers in any::<(u32, u64, u64)>(),
    ) {
        let mut position = 1;
        let mut segments = Vec::new();
        for (n, len) in lens.iter().enumerate() {
            segments.push(samples::segment_entry(n as u64 + 1, position, position + len - 1));
            position += len;
        }
        let manifest = Manifest {
            store: ids.0,
            generation: 1 + numbers.2 / 4,
            written_by: numbers.0,
            default_durability: if durable { DurabilityKind::Durable } else { DurabilityKind::Buffered },
            removal_forbidden,
            name_hash_seed: numbers.1,
            content_hash_key: ids.1,
            created_at: numbers.2,
            segment_len_max: 1 << 20,
            quota_bytes,
            limits: Limits::default(),
            next_segment: segments.len() as u64 + 1,
            incarnations: vec![IncarnationEntry { incarnation: ids.1, first_position: 1 }; 1 + lens.len() / 3],
            segments,
            ancestors: (0..lens.len() as u64 % 3)
                .map(|n| AncestorEntry { store: ids.0, incarnation: ids.1, last_position: n })
                .collect(),
            lost: (0..lens.len() as u64 / 2)
                .map(|n| LostEntry { first_position: 1 + 3 * n, last_position: 2 + 3 * n })
                .collect(),
            snapshots: (0..lens.len() as u64 / 3)
                .map(|n| SnapshotFileEntry {
                    number: 1 + 3 * n,
                    id: ids.1,
                    len: 4096 << n,
                    end: 128 + 16 * n,
                    frame_count: n / 7,
                    is_ended: n % 2 == 0,
                })
                .collect(),
        };
        prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
    }
}

#[test]
fn two_slots() {
    let mut file = vec![0; 8192];
    assert_eq!(Mark::newest(&file), (None, [None, None]));
    for sequence in 1..6 {
        let mark = Mark { sequence, position: sequence * 10, ..samples::mark() };
        let at = Mark::slot_offset(sequence) as usize;
        file[at..at + 128].copy_from_slice(&mark.encode());
        assert_eq!(Mark::newest(&file), (Some(mark), [None, None]));
    }
    // Sequence 5 lies in slot 1: damaged, the mark before counts.
    file[4096 + 90] ^= 4;
    let (newest, faults) = Mark::newest(&file);
    assert_eq!(newest.map(|mark| mark.sequence), Some(4));
    assert!(matches!(faults, [None, Some(Fault::Checksum { .. })]));
    file.truncate(4096);
    let (newest, faults) = Mark::newest(&file);
    assert!(newest.is_some() && matches!(faults, [None, Some(Fault::Truncated { .. })]));
    // A mark in the slot of the other parity was put there by nobody.
    file[..128].copy_from_slice(&Mark { sequence: 7, ..samples::mark() }.encode());
    assert!(matches!(Mark::newest(&file), (None, [Some(Fault::Order { .. }), _])));

    let mut page = vec![0; 4096];
    for session in 1..4 {
        let header = RingHeader { session, ..samples::ring() };
        let at = RingHeader::slot_offset(session) as usize;
        page[at..at + 128].copy_from_slice(&header.encode());
        assert_eq!(RingHeader::newest(&page), (Some(header), [None, None]));
    }
}

#[test]
fn unwritten_header() {
    assert_eq!(SegmentHeader::decode(&[0; 4096]), Ok(None));
    assert_eq!(SegmentHeader::decode(&[0; 64]), Ok(None));
    assert!(SegmentHeader::decode(&[0; 63]).is_err());
}

#[test]
fn final_checksum_runs_over_headers() {
    let headers: Vec<[u8; 40]> = (0..3u8).map(|n| [n; 40]).collect();
    let mut checksum = FinalChecksum::start(samples::seed());
    headers.iter().for_each(|header| checksum.add(header));
    let whole = annals_format::checksum::crc(samples::seed().raw(), &headers.concat());
    assert_eq!(checksum.value(), whole);
    assert_eq!(FinalChecksum::from_value(whole), checksum);
}

#[test]
fn header_length_of_a_batch_is_checked() {
    let header = BatchHeader {
        body_len: 24,
        record_count: 1,
        records_checksum: 0,
        first_position: NUMBER_MAX,
        recorded_at: 0,
        durable_lag: 0,
        as_batch: false,
        has_sections: false,
    };
    let decode = |header: BatchHeader| BatchHeader::decode(&header.encode(samples::seed()), samples::seed());
    assert_eq!(decode(header), Ok(header));
    assert_eq!(header.last_position(), NUMBER_MAX);
    assert!(decode(BatchHeader { record_count: 2, body_len: 48, ..header }).is_err(), "positions end");
    assert!(decode(BatchHeader { first_position: 0, ..header }).is_err());
    assert!(decode(BatchHeader { record_count: 0, ..header }).is_err());
    assert!(decode(BatchHeader { body_len: 20, ..header }).is_err());
    assert!(decode(BatchHeader { first_position: 5, durable_lag: 5, ..header }).is_err());
    assert!(decode(BatchHeader { first_position: 5, durable_lag: u32::MAX, ..header }).is_ok());
}

#[test]
fn limits_have_a_floor_and_a_ceiling() {
    assert_eq!(Limits::default().check(), Ok(()));
    assert_eq!(Limits::CEILING.check(), Ok(()));
    assert!(Limits { tag_count: 256, ..Limits::default() }.check().is_err());
    assert!(Limits { batch_len: 1 << 32, ..Limits::default() }.check().is_err());
    for (batch_event_count, batch_len) in [(0, 1), (1, 0)] {
        assert!(Limits { batch_event_count, batch_len, ..Limits::default() }.check().is_err());
    }
    let least = Limits { payload_len: 0, metadata_len: 0, tag_count: 0, batch_event_count: 1, batch_len: 1 };
    assert_eq!(least.check(), Ok(()));
}

/// A finding: what compaction left of an event was encoded again as the event.
#[test]
fn what_compaction_left_of_an_event_stays_that() {
    let bytes = samples::record();
    let Ok(Record::Event(event)) = record::decode(&bytes, samples::seed(), samples::FIRST) else {
        panic!("the sample is an event");
    };
    let mut batch = Vec::new();
    let mut encoder = BatchEncoder::begin(&mut batch, samples::seed(), samples::FIRST);
    encoder.compacted(&event);
    encoder.finish(0, 0, false);
    samples::exercise(&samples::structure("record"), &batch[BATCH_HEADER_LEN..]);
}
