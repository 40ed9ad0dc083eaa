//! The worked example of `docs/format.md` is what the encoders make.

use annals_format::batch::{BATCH_HEADER_LEN, BatchEncoder, BatchHeader};
use annals_format::checksum::Identity;
use annals_format::record::{EventParts, Record};
use annals_format::scan::{self, Step};
use annals_format::segment::{FinalChecksum, SegmentHeader, SegmentKind};

const TIME: u64 = 1_700_000_000_000_000_000;

fn segment() -> Vec<u8> {
    let header = SegmentHeader {
        identity: Identity { store: *b"annals-example-1", incarnation: *b"first-opening-01", segment: 1 },
        generation: 0,
        manifest_generation: 1,
        segment_len: 8192,
        base: 0,
        first_position: 1,
        previous: None,
        created_at: TIME,
        written_by: 1 << 8,
        kind: SegmentKind::Live,
    };
    let mut bytes = header.encode().to_vec();
    let placed = EventParts { payload: b"{}", ..EventParts::new(*b"id-of-event-0001", "order-1", "Placed") };
    let paid = EventParts {
        id_generated: true,
        tags: &["customer:7"],
        payload: br#"{"total":12}"#,
        ..EventParts::new(*b"id-of-event-0002", "order-1", "Paid")
    };
    let mut batch = BatchEncoder::begin(&mut bytes, header.seed(), 1);
    batch.event(&placed, 1);
    batch.event(&paid, 2);
    batch.finish(TIME + 1_000_000_000, 0, true);
    bytes.resize(header.segment_len as usize, 0);
    bytes
}

/// The lines `offset  bytes  | what` of the document's block ```` ```bytes ````; what they leave out is zero.
fn documented(len: usize) -> Vec<u8> {
    let document = include_str!("../../docs/format.md");
    let (_, rest) = document.split_once("```bytes\n").expect("the document has the example");
    let (block, _) = rest.split_once("```").expect("the example ends");
    let mut bytes = vec![0; len];
    for line in block.lines() {
        let (place, _) = line.split_once('|').expect("every line says what it shows");
        let mut columns = place.split_whitespace();
        let at: usize = columns.next().expect("an offset").parse().expect("a number");
        for (n, digits) in columns.enumerate() {
            bytes[at + n] = u8::from_str_radix(digits, 16).expect("two hexadecimal digits");
        }
    }
    bytes
}

#[test]
fn example_is_what_is_written() {
    let segment = segment();
    let documented = documented(segment.len());
    let mut differing = segment.iter().zip(&documented).enumerate().filter(|(_, (made, told))| made != told);
    if let Some((at, _)) = differing.next() {
        let from = at & !7;
        panic!("the document differs at {at}; made from {from} on: {:02x?}", &segment[from..from + 64]);
    }
}

#[test]
fn example_decodes_as_told() {
    let bytes = documented(8192);
    let header = SegmentHeader::decode(&bytes).expect("the header verifies").expect("and was written");
    let seed = header.seed();
    let Ok(Step::Batch(batch)) = scan::next(&bytes[4096..], seed) else { panic!("a batch follows") };
    let mut texts = Vec::new();
    scan::verify_batch(&bytes[4096..], &batch, seed, |_, position, record| {
        let Record::Event(event) = record else { panic!("an event") };
        let payload = String::from_utf8_lossy(event.payload());
        texts.push(format!("{position} {}@{} {} {payload}", event.stream(), event.revision(), event.event_type()));
    })
    .expect("the batch is whole");
    assert_eq!(texts, ["1 order-1@1 Placed {}", "2 order-1@2 Paid {\"total\":12}"]);
    let end = 4096 + batch.len();
    assert_eq!(scan::next(&bytes[end..], seed), Ok(Step::Clean));

    let document = include_str!("../../docs/format.md");
    let mut checksum = FinalChecksum::start(seed);
    checksum.add(bytes[4096..].first_chunk::<BATCH_HEADER_LEN>().expect("a header"));
    for told in [
        format!("segment seed    {:08x}", seed.raw()),
        format!("batch seed      {:08x}", seed.batch()),
        format!("record seed 1   {:08x}", seed.record(1)),
        format!("record seed 2   {:08x}", seed.record(2)),
        format!("final checksum  {:08x}", checksum.value()),
    ] {
        assert!(document.contains(&told), "the document says {told}");
    }
    assert!(BatchHeader::decode(&bytes[4096..], seed).is_ok());
}
