//! Compacted segments: what is taken out of a batch, and every changed byte of a container.

mod samples;

use annals_format::Fault;
use annals_format::batch::{BatchEncoder, BatchHeader};
use annals_format::compacted::{self, RemovedTable};
use annals_format::content_hash;
use annals_format::record::{self, EventParts, OccurredAt, Record};
use annals_format::scan;

#[test]
fn every_changed_byte_of_a_container_is_refused() {
    let structure = samples::structure("compacted");
    assert_eq!((structure.again)(&structure.bytes), Ok(structure.bytes.clone()));
    for at in 0..structure.bytes.len() {
        for bit in 0..8 {
            let mut bytes = structure.bytes.clone();
            bytes[at] ^= 1 << bit;
            let answer = (structure.again)(&bytes);
            assert!(answer.is_err(), "bit {bit} of byte {at}: {answer:?}");
        }
    }
    for len in 0..structure.bytes.len() {
        assert!((structure.again)(&structure.bytes[..len]).is_err(), "{len} bytes");
    }
}

/// Numbers that lie, with checksums that do not: nothing is ever read or allocated beyond the file.
#[test]
fn numbers_that_do_not_fit_are_refused() {
    let structure = samples::structure("compacted");
    let values = [0u64, 1, 4095, 4096, 65_537, (1 << 31) - 1, 1 << 31, u64::from(u32::MAX), 1 << 32, 1 << 63, u64::MAX];
    let wide = [80, 96, 104, 112];
    let narrow = [120, 124, 128, 140];
    for (places, width) in [(wide, 8), (narrow, 4)] {
        for at in places {
            for value in values.iter().filter(|value| width == 8 || **value <= u64::from(u32::MAX)) {
                let mut bytes = structure.bytes.clone();
                let before = bytes.clone();
                bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                (structure.fix)(&mut bytes);
                if bytes == before {
                    continue;
                }
                let answer = (structure.again)(&bytes);
                let may_be = (at == 80 && *value > 0 && *value < 1 << 63) || (at == 96 && *value % 4096 == 0);
                assert!(answer.is_err() || may_be, "{value:#x} at {at}: accepted");
            }
        }
    }
}

#[test]
fn what_is_taken_out_is_gone_and_all_else_stands() {
    let seed = samples::seed();
    let mut bytes = Vec::new();
    let mut batch = BatchEncoder::begin(&mut bytes, seed, 100);
    let tags = ["tag-one", "tag-two"];
    let full = EventParts {
        tags: &tags,
        metadata: b"the metadata",
        payload: b"the payload",
        occurred_at: Some(OccurredAt { nanos: 0x1111_2222, digits: 3 }),
        schema_version: Some(0x0505_0505),
        content_type: Some("the/type"),
        correlation: Some(b"the correlation"),
        causation: Some(b"the causation"),
        ..EventParts::new([7; 16], "stream", "Type")
    };
    batch.event(&full, 1);
    batch.event(&EventParts { payload: b"another payload", ..full }, 2);
    batch.event(&EventParts::new([9; 16], "stream", "Type"), 3);
    let before = batch.finish(samples::TIME, 50, true);
    let original = bytes.clone();
    // None: the batch is as it was.
    assert_eq!(compacted::take_out(&mut bytes, &before, seed, |_| false), Ok(0));
    assert_eq!(bytes, original);
    assert_eq!(compacted::take_out(&mut bytes, &before, seed, |event| event.revision() != 2), Ok(2));
    let header = BatchHeader::decode(&bytes, seed).unwrap();
    assert_eq!(BatchHeader { records_checksum: before.records_checksum, ..header }, before);
    assert_eq!(bytes.len(), original.len());
    let mut seen = Vec::new();
    scan::verify_batch(&bytes, &header, seed, |offset, position, record| {
        let Record::Event(event) = record else { panic!("an event") };
        let names = (event.stream(), event.event_type(), event.tags().collect::<Vec<_>>());
        seen.push((offset, position, event.revision(), event.is_compacted(), event.id()));
        assert_eq!((names.0, names.1), ("stream", "Type"));
        if event.revision() == 1 {
            assert_eq!(names.2, tags);
            assert!(event.payload().iter().chain(event.metadata()).all(|byte| *byte == 0));
            assert_eq!((event.payload().len(), event.metadata().len()), (11, 12));
            assert_eq!(event.schema_version(), Some(0));
        }
    })
    .unwrap();
    let flags: Vec<_> = seen.iter().map(|(_, position, revision, is, id)| (*position, *revision, *is, id[0])).collect();
    assert_eq!(flags, [(100, 1, true, 7), (101, 2, false, 7), (102, 3, true, 9)]);
    for text in ["the metadata", "the payload", "the/type", "the correlation"] {
        let found = bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count();
        let expected = if text == "the payload" { 0 } else { 1 };
        assert_eq!(found, expected, "{text}");
    }
    // Again: what is taken out is not taken out twice.
    assert_eq!(compacted::take_out(&mut bytes, &header, seed, |event| event.revision() != 2), Ok(0));
    // A frame of this kind has zero bytes for content, and no others.
    for at in 56..72 {
        let mut changed = bytes.clone();
        changed[40 + at] ^= 1;
        let len = record::frame_len(&changed[40..]).unwrap();
        let frame = &mut changed[40..40 + len];
        let checksum = annals_format::checksum::crc(seed.record(100), &frame[4..]);
        frame[..4].copy_from_slice(&checksum.to_le_bytes());
        let answer = record::decode(frame, seed, 100);
        let is_name =
            answer.is_ok() || matches!(answer, Err(Fault::Name { .. } | Fault::Length { .. } | Fault::Count { .. }));
        assert!(is_name || matches!(answer, Err(Fault::Reserved { .. })), "{at}: {answer:?}");
    }
}

#[test]
fn a_payload_byte_in_a_compacted_event_is_refused() {
    let seed = samples::seed();
    let mut bytes = Vec::new();
    let mut batch = BatchEncoder::begin(&mut bytes, seed, 1);
    batch.event(&EventParts { payload: &[1; 8], ..EventParts::new([7; 16], "s", "T") }, 1);
    let header = batch.finish(1, 0, false);
    compacted::take_out(&mut bytes, &header, seed, |_| true).unwrap();
    for at in 0..8 {
        let mut frame = bytes[40..].to_vec();
        frame[42 + at] = 1;
        let checksum = annals_format::checksum::crc(seed.record(1), &frame[4..]);
        frame[..4].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(record::decode(&frame, seed, 1), Err(Fault::Reserved { .. })), "byte {at}");
    }
}

#[test]
fn hashes_are_found_by_position() {
    let mut table = RemovedTable::default();
    let key = [3; 16];
    let hash = |n: u8| content_hash::of_parts(&key, &EventParts::new([0; 16], "s", ["A", "B", "C"][n as usize]));
    for (n, position) in [4, 9, 1 << 40].into_iter().enumerate() {
        table.push(position, hash(n as u8));
    }
    assert_eq!((table.hash_of(9), table.hash_of(5), table.hash_of(u64::MAX)), (Some(hash(1)), None, None));
    assert_eq!(table.entries().count(), 3);
}
