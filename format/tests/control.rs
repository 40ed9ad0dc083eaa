//! Control records: each kind there and back, its bytes, and everything that no encoder writes refused.

use annals_format::batch::{BATCH_HEADER_LEN, BatchEncoder};
use annals_format::checksum::{Identity, Seed, crc};
use annals_format::record::{
    self, Control, Forgotten, Policy, Record, Scope, StreamCut, Sweep, SweptPart, control_len,
};
use annals_format::{Fault, NUMBER_MAX};
use proptest::prelude::*;

const POSITION: u64 = 1000;

fn seed() -> Seed {
    Seed::of(&Identity { store: *b"annals-example-1", incarnation: *b"first-opening-01", segment: 1 })
}

/// The control's frame at [`POSITION`].
fn encoded(control: &Control<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut batch = BatchEncoder::begin(&mut bytes, seed(), POSITION);
    assert_eq!(batch.control_record(control), BATCH_HEADER_LEN);
    batch.finish(0, 0, false);
    assert_eq!(bytes.len(), BATCH_HEADER_LEN + control_len(control));
    bytes.split_off(BATCH_HEADER_LEN)
}

/// With the checksum made right.
fn decoded(frame: &mut [u8]) -> Result<(), Fault> {
    let checksum = crc(seed().record(POSITION), &frame[4..]);
    frame[..4].copy_from_slice(&checksum.to_le_bytes());
    record::decode(frame, seed(), POSITION).map(drop)
}

fn cut(stream: &str) -> StreamCut<'_> {
    StreamCut { stream, first: 3, upto: 9, last: 9 }
}

const PARTS: [SweptPart<'static>; 4] = [
    SweptPart::Stream { name: "order-1", first: 1, upto: 4 },
    SweptPart::Stream { name: "order-10", first: 2, upto: 2 },
    SweptPart::Prefix { prefix: "", first: 1, upto: 7 },
    SweptPart::Prefix { prefix: "order-", first: 8, upto: POSITION - 1 },
];

/// One of each kind, and its short forms.
fn all() -> Vec<Control<'static>> {
    let policy = Policy { scope: Scope::Store, max_age: None, max_count: None, max_bytes: None };
    vec![
        Control::Truncate(StreamCut { upto: 5, ..cut("order-1") }),
        Control::Delete(cut("order-1")),
        Control::Delete(StreamCut { first: 10, ..cut("o") }),
        Control::Tombstone(cut("größe")),
        Control::Retain(Policy { scope: Scope::Stream("order-1"), max_age: Some(5), max_count: Some(7), ..policy }),
        Control::Retain(Policy { scope: Scope::Prefix("order-"), max_count: Some(1), ..policy }),
        Control::Retain(Policy { scope: Scope::Prefix(""), max_age: Some(u64::MAX), ..policy }),
        Control::Retain(Policy { max_bytes: Some(1 << 30), ..policy }),
        Control::Retain(policy),
        Control::Sweep(Sweep::of(&PARTS)),
        Control::ForgetIds(Forgotten { stream: "order-1", upto: 9 }),
        Control::ForgetStream(Forgotten { stream: "order-1", upto: 9 }),
    ]
}

#[test]
fn every_kind_there_and_back() {
    for control in all() {
        let frame = encoded(&control);
        let Ok(Record::Control(read)) = record::decode(&frame, seed(), POSITION) else {
            panic!("{control:?} is refused: {:?}", record::decode(&frame, seed(), POSITION));
        };
        assert_eq!(read.control(), Some(control));
        let mut again = Vec::new();
        let mut batch = BatchEncoder::begin(&mut again, seed(), POSITION);
        batch.control(&read);
        batch.finish(0, 0, false);
        assert_eq!(again[BATCH_HEADER_LEN..], frame[..], "{control:?} written anew");
    }
}

#[test]
fn the_bytes_are_these() {
    let mut bytes = Vec::new();
    for control in all() {
        let frame = encoded(&control);
        bytes.extend_from_slice(&frame[4..]);
    }
    let sum = crc(seed().batch(), &bytes);
    assert_eq!((bytes.len(), sum), GOLDEN, "the encoding of control records has changed");
    let frame = encoded(&Control::Truncate(StreamCut { upto: 5, ..cut("order-1") }));
    let expected = [
        &[47, 0, 0, 0, 2, 0, 0, 0, 1, 0, 7, 0][..],
        &[9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
        b"order-1\0",
    ];
    assert_eq!(frame[4..], expected.concat());
}

/// Length and checksum of all samples, without their checksums.
const GOLDEN: (usize, u32) = (656, 1_660_551_249);

#[test]
fn every_changed_byte_is_refused_or_says_something_else() {
    for control in all() {
        let frame = encoded(&control);
        for at in 8..frame.len() {
            for bit in 0..8 {
                let mut other = frame.clone();
                other[at] ^= 1 << bit;
                if decoded(&mut other).is_err() {
                    continue;
                }
                let Ok(Record::Control(read)) = record::decode(&other, seed(), POSITION) else { continue };
                // The byte that may be ignored, and unknown kinds that may be skipped, are no control of ours.
                assert!(at == 11 || read.control() != Some(control), "byte {at} of {control:?} means nothing");
            }
        }
        for len in 24..frame.len() as u32 + 8 {
            let mut other = frame.clone();
            let written = u32::from_le_bytes(other[4..8].try_into().expect("four bytes"));
            if len == written {
                continue;
            }
            other.resize((len as usize).next_multiple_of(8), 0);
            other[4..8].copy_from_slice(&len.to_le_bytes());
            assert!(decoded(&mut other).is_err(), "{control:?} with length {len}");
        }
    }
}

#[test]
fn numbers_that_contradict_each_other_are_refused() {
    let refused = |control: Control<'_>| assert!(decoded(&mut encoded(&control)).is_err(), "{control:?} is taken");
    for bad in [
        StreamCut { first: 0, ..cut("a") },
        StreamCut { upto: 10, ..cut("a") },
        StreamCut { first: 11, ..cut("a") },
        StreamCut { last: 0, upto: 0, first: 1, stream: "a" },
        StreamCut { last: NUMBER_MAX + 1, ..cut("a") },
        StreamCut { stream: "", ..cut("a") },
        StreamCut { stream: "a\n", ..cut("a") },
    ] {
        refused(Control::Truncate(bad));
        refused(Control::Delete(bad));
        refused(Control::Tombstone(bad));
    }
    refused(Control::Truncate(StreamCut { first: 10, ..cut("a") }));
    refused(Control::Delete(StreamCut { upto: 8, ..cut("a") }));
    refused(Control::ForgetIds(Forgotten { stream: "", upto: 1 }));
    refused(Control::ForgetStream(Forgotten { stream: "a", upto: 0 }));
    let policy = Policy { scope: Scope::Store, max_age: None, max_count: None, max_bytes: None };
    refused(Control::Retain(Policy { max_age: Some(1), ..policy }));
    refused(Control::Retain(Policy { max_count: Some(1), ..policy }));
    refused(Control::Retain(Policy { scope: Scope::Prefix("a"), max_bytes: Some(1), ..policy }));
    refused(Control::Retain(Policy { scope: Scope::Stream(""), max_age: Some(1), ..policy }));
    for parts in [
        &[][..],
        &[PARTS[1], PARTS[0]],
        &[PARTS[0], PARTS[0]],
        &[PARTS[2], PARTS[1]],
        &[SweptPart::Stream { name: "", first: 1, upto: 1 }],
        &[SweptPart::Stream { name: "a", first: 0, upto: 1 }],
        &[SweptPart::Stream { name: "a", first: 2, upto: 1 }],
        &[SweptPart::Prefix { prefix: "", first: 1, upto: POSITION }],
        &[SweptPart::Prefix { prefix: "\u{7f}", first: 1, upto: 1 }],
    ] {
        refused(Control::Sweep(Sweep::of(parts)));
    }
}

proptest! {
    #[test]
    fn any_cut_there_and_back(stream in "[ -~]{1,255}", numbers in any::<[u64; 3]>()) {
        let last = 1 + numbers[0] % NUMBER_MAX;
        let upto = 1 + numbers[1] % last;
        let first = 1 + numbers[2] % upto;
        let control = Control::Truncate(StreamCut { stream: &stream, first, upto, last });
        let frame = encoded(&control);
        let Ok(Record::Control(read)) = record::decode(&frame, seed(), POSITION) else { panic!("{control:?}") };
        prop_assert_eq!(read.control(), Some(control));
    }

    #[test]
    fn any_body_is_refused_or_means_itself(kind in 1u16..=7, name_len in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..120)) {
        let len = 24 + body.len();
        let mut frame = vec![0; len.next_multiple_of(8)];
        frame[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        frame[8] = 2;
        frame[12..14].copy_from_slice(&kind.to_le_bytes());
        frame[14] = name_len % 40;
        frame[24..len].copy_from_slice(&body);
        if decoded(&mut frame).is_ok() {
            let Ok(Record::Control(read)) = record::decode(&frame, seed(), POSITION) else { panic!("decoded") };
            let control = read.control().expect("a known kind");
            prop_assert_eq!(&encoded(&control)[8..], &frame[8..]);
        }
    }
}
