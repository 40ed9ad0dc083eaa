//! What is not exactly right is refused, whatever it is, and never by a panic.

mod samples;

use annals_format::Fault;
use annals_format::batch::{BatchEncoder, BatchHeader};
use annals_format::checksum::{Identity, Seed};
use annals_format::consumer::{Change, ChangeList, What};
use annals_format::record;
use annals_format::scan::{self, Step};
use samples::{FIRST, Structure, all, seed, structure};

#[test]
fn samples_are_right() {
    for structure in all() {
        assert_eq!((structure.again)(&structure.bytes).as_ref(), Ok(&structure.bytes), "{}", structure.name);
        let mut fixed = structure.bytes.clone();
        (structure.fix)(&mut fixed);
        assert_eq!(fixed, structure.bytes, "{}: fixing changes nothing", structure.name);
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for Structure { name, mut bytes, again, .. } in all() {
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(again(&bytes).is_err(), "{name}: bit {bit} flipped");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    for Structure { name, bytes, again, .. } in all() {
        for len in 0..bytes.len() {
            assert!(again(&bytes[..len]).is_err(), "{name}: {len} bytes of {}", bytes.len());
        }
    }
}

/// Extreme values in every place of every width, checksums right: an answer, and what is taken is kept.
#[test]
fn extreme_numbers_never_panic() {
    let mut values = vec![0, 1, 7, 8, 0xff, 0xffff, u64::MAX];
    for shift in [15u32, 16, 31, 32, 62, 63] {
        values.extend([(1u64 << shift) - 1, 1 << shift, (1 << shift) + 1]);
    }
    for structure in all() {
        // The reserved rest of a segment header is alike everywhere.
        let len = structure.bytes.len().min(512);
        for at in 0..len {
            for width in [1, 2, 4, 8].into_iter().filter(|width| at % width == 0 && at + width <= len) {
                for value in &values {
                    let mut bytes = structure.bytes.clone();
                    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                    samples::exercise(&structure, &bytes);
                }
            }
        }
    }
}

/// Sets `bytes[at]`'s `bit` in the sample, puts checksums right, and decodes for a writer and for a reader.
fn with_bit(structure: &Structure, at: usize, bit: u8) -> (Result<Vec<u8>, Fault>, Result<(), Fault>) {
    let mut bytes = structure.bytes.clone();
    bytes[at] ^= 1 << bit;
    (structure.fix)(&mut bytes);
    ((structure.again)(&bytes), (structure.read)(&bytes))
}

fn is_unsupported<T>(answer: &Result<T, Fault>) -> bool {
    matches!(answer, Err(Fault::Unsupported { .. }))
}

/// Where the three sets of flags lie, their width in bytes, and which bits are known.
const FLAGS: [(&str, [usize; 3], usize, [u32; 3]); 22] = [
    ("segment_header", [20, 24, 28], 4, [0, 0, 0]),
    ("mark", [20, 24, 28], 4, [0, 0, 1]),
    ("ring", [20, 24, 28], 4, [0, 0, 0]),
    ("control", [20, 24, 28], 4, [0, 0, 0]),
    ("manifest", [20, 24, 28], 4, [0, 1, 0]),
    ("index", [20, 24, 28], 4, [0, 0, 0]),
    ("places", [20, 24, 28], 4, [0, 0, 0]),
    ("tier", [20, 24, 28], 4, [0, 0, 0]),
    ("directory", [20, 24, 28], 4, [0, 0, 0]),
    ("index_manifest", [20, 24, 28], 4, [0, 0, 0]),
    ("backup_point", [20, 24, 28], 4, [0, 0, 0]),
    ("compacted", [20, 24, 28], 4, [0, 0, 0]),
    ("snapshot_file", [20, 24, 28], 4, [0, 0, 0]),
    ("snapshot", [9, 10, 11], 1, [0, 0, 0]),
    ("end_mark", [5, 6, 7], 1, [0, 0, 0]),
    // Typed sections follow: without one, damage.
    ("batch", [5, 6, 7], 1, [4, 0, 1]),
    ("sectioned_batch", [5, 6, 7], 1, [4, 0, 1]),
    ("bare_batch", [5, 6, 7], 1, [4, 0, 1]),
    ("bare_batch", [49, 50, 51], 1, [0, 0, 0]),
    ("consumer_file", [20, 24, 28], 4, [0, 0, 0]),
    ("batch", [49, 50, 51], 1, [0, 0, 1]),
    ("record", [9, 10, 11], 1, [0, 0, 1]),
];

#[test]
fn every_flag_is_obeyed() {
    for (name, places, width, known) in FLAGS {
        let structure = structure(name);
        for bit in 0..width * 8 {
            let set = |word: usize| with_bit(&structure, places[word] + bit / 8, (bit % 8) as u8);
            let is_known = |word: usize| known[word] >> bit & 1 == 1;
            let (write, read) = set(0);
            assert!(write.is_err() && read.is_err(), "{name}: read flag {bit}");
            assert_eq!(is_unsupported(&write) && is_unsupported(&read), !is_known(0), "{name}: read flag {bit}");
            let (write, read) = set(1);
            assert_eq!(is_unsupported(&write), !is_known(1), "{name}: write flag {bit}");
            assert_eq!(read, Ok(()), "{name}: write flag {bit} for a reader");
            let (write, read) = set(2);
            assert!(write.is_ok() && read.is_ok(), "{name}: ignorable flag {bit}");
        }
    }
}

/// Kinds, algorithms and other choices of which version 1 knows one or few: place, width, values known.
const CHOICES: [(&str, usize, usize, &[u64]); 49] = [
    ("segment_header", 36, 1, &[1]),
    ("segment_header", 37, 1, &[1]),
    ("segment_header", 38, 1, &[0]),
    ("segment_header", 39, 1, &[0]),
    ("segment_header", 132, 4, &[8]),
    ("segment_header", 136, 4, &[0]),
    ("segment_header", 140, 4, &[0]),
    ("segment_header", 144, 8, &[0]),
    ("end_mark", 4, 1, &[0xE1]),
    ("end_mark", 8, 4, &[128]),
    ("end_mark", 16, 1, &[1]),
    ("end_mark", 17, 1, &[0]),
    ("batch", 4, 1, &[0xB1]),
    ("batch", 48, 1, &[1, 2, 3]),
    ("record", 8, 1, &[1, 2, 3]),
    ("bare_batch", 40 + 16 + 4, 1, &[1, 2, 3, 4, 5, 6, 7]),
    ("consumer_file", 108, 1, &[1]),
    ("consumer_file", 8, 4, &[0, 1]),
    // Behind the entries of two segments.
    ("sectioned_manifest", 256 + 8 + 48 + 8 + 2 * 112, 4, &[1, 2, 3, 7, 8, 9, 10]),
    ("ring", 88, 8, &[0, 1]),
    ("manifest", 36, 1, &[1, 2]),
    ("manifest", 37, 1, &[1]),
    ("manifest", 38, 1, &[1]),
    ("manifest", 39, 1, &[1]),
    ("manifest", 256, 4, &[1, 2, 3, 7, 8, 9, 10]),
    // Behind header, section header, two incarnations of 24, section header: state and kind of the first entry.
    ("manifest", 256 + 8 + 48 + 8 + 100, 1, &[1, 2]),
    ("manifest", 256 + 8 + 48 + 8 + 101, 1, &[1, 2]),
    ("index", 68, 1, &[1]),
    ("places", 48, 1, &[1, 2, 3, 4]),
    ("tier", 49, 1, &[1]),
    ("tier", 50, 1, &[1]),
    ("directory", 52, 4, &[16384]),
    ("tier", 8, 4, &[0, 1]),
    ("index_manifest", 92, 1, &[1]),
    ("index_manifest", 93, 1, &[1]),
    ("segment_header", 8, 4, &[0, 1]),
    ("mark", 8, 4, &[0, 1]),
    ("snapshot_manifest", 256 + 8 + 48 + 8 + 2 * 112 + 8 + 48, 1, &[1, 2]),
    ("snapshot_file", 8, 4, &[0, 1]),
    ("snapshot_file", 92, 1, &[1]),
    ("snapshot", 8, 1, &[1]),
    ("snapshot", 102, 1, &[0, 1]),
    ("snapshot", 103, 1, &[1]),
    ("backup_point", 36, 1, &[1]),
    ("backup_point", 8, 4, &[0, 1]),
    ("compacted", 36, 1, &[2]),
    ("compacted", 37, 1, &[1]),
    ("compacted", 38, 1, &[1, 2]),
    ("compacted", 39, 1, &[0]),
];

#[test]
fn every_unknown_choice_is_unsupported() {
    for (name, at, width, known) in CHOICES {
        let structure = structure(name);
        let values = (0..=255u64).chain([0x100, 0xffff, 1 << 30, (1 << 31) - 1, 1 << 40]);
        for value in values.filter(|value| width == 8 || *value < 1 << (8 * width)) {
            if known.contains(&value) {
                continue;
            }
            let mut bytes = structure.bytes.clone();
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            (structure.fix)(&mut bytes);
            let answer = (structure.again)(&bytes);
            assert!(is_unsupported(&answer), "{name}: {value:#x} at {at} answers {answer:?}");
        }
    }
}

#[test]
fn every_unknown_event_field_is_unsupported() {
    let structure = structure("record");
    for bit in 7..16 {
        let (write, _) = with_bit(&structure, 12 + bit / 8, (bit % 8) as u8);
        assert!(is_unsupported(&write), "field bit {bit}");
    }
}

#[test]
fn control_kinds_that_are_not_known_are_unsupported_unless_skippable() {
    for kind in 0..=0xffffu16 {
        let mut frame = samples::control_frame();
        frame[12..14].copy_from_slice(&kind.to_le_bytes());
        samples::fix_record(&mut frame, FIRST);
        let decoded = record::decode(&frame, seed(), FIRST);
        if (1..=7).contains(&(kind & 0x7fff)) {
            // What removes is never passed over, and this is the body of none of them.
            let skippable = matches!(decoded, Err(Fault::Reserved { .. }));
            assert!(decoded.is_err() && (kind & 0x8000 == 0 || skippable), "control kind {kind:#x}: {decoded:?}");
            continue;
        }
        match decoded {
            Ok(record::Record::Control(control)) => {
                assert!(kind & 0x8000 != 0, "control kind {kind:#x} is passed over");
                assert_eq!((control.kind(), control.body()), (kind & 0x7fff, &b"action"[..]));
                assert_eq!((control.position(), control.control()), (FIRST, None));
            }
            Err(Fault::Unsupported { value, .. }) => assert_eq!((kind & 0x8000, u64::from(kind)), (0, value)),
            other => panic!("control kind {kind:#x} answers {other:?}"),
        }
    }
}

/// Reserved bytes: from, to.
const RESERVED: [(&str, usize, usize); 29] = [
    ("segment_header", 160, 4096),
    ("end_mark", 18, 24),
    ("end_mark", 80, 112),
    ("end_mark", 120, 128),
    ("bare_batch", 40 + 16 + 7, 40 + 16 + 8),
    ("consumer_file", 109, 128),
    ("consumer_file", 129, 132),
    ("consumer_file", 140, 144),
    ("mark", 112, 128),
    ("ring", 96, 128),
    ("control", 72, 128),
    ("manifest", 172, 256),
    ("manifest", 256 + 8 + 48 + 8 + 102, 256 + 8 + 48 + 8 + 104),
    ("index", 69, 72),
    ("index", 92, 128),
    ("places", 51, 52),
    ("places", 112, 4096),
    ("tier", 112, 256),
    ("directory", 112, 256),
    ("index_manifest", 94, 128),
    ("index_manifest", 128 + 60, 128 + 64),
    ("index_manifest", 128 + 2 * 64 + 44, 128 + 2 * 64 + 48),
    ("compacted", 156, 256),
    ("snapshot_manifest", 256 + 8 + 48 + 8 + 2 * 112 + 8 + 49, 256 + 8 + 48 + 8 + 2 * 112 + 8 + 56),
    ("snapshot_file", 93, 128),
    ("snapshot", 104, 112),
    ("backup_point", 37, 40),
    ("backup_point", 108, 128),
    ("backup_point", 128 + 24, 128 + 32),
];

#[test]
fn every_reserved_bit_is_refused() {
    for (name, from, to) in RESERVED {
        let structure = structure(name);
        for bit in from * 8..to * 8 {
            let (write, read) = with_bit(&structure, bit / 8, (bit % 8) as u8);
            assert!(matches!(write, Err(Fault::Reserved { .. })), "{name}: bit {bit}");
            assert!(matches!(read, Err(Fault::Reserved { .. })), "{name}: bit {bit} for a reader");
        }
    }
}

/// A section of a kind that is not known: refused, unless its bit says that it may be passed over; then it is kept.
#[test]
fn unknown_sections_are_unsupported_unless_they_may_be_passed_over() {
    let structure = structure("bare_batch");
    for kind in 0..=255u8 {
        let mut bytes = structure.bytes.clone();
        bytes[48] = kind;
        (structure.fix)(&mut bytes);
        match (structure.again)(&bytes) {
            Ok(again) => assert!((kind == 1 || kind & 0x80 != 0) && again == bytes, "kind {kind}"),
            answer => assert!(is_unsupported(&answer) && kind & 0x80 == 0 && kind != 1, "kind {kind}"),
        }
    }
}

fn verified(generation: u64, what: What<'_>) -> Result<(), Fault> {
    let mut list = ChangeList::default();
    list.push(&Change { consumer: "c", generation, what });
    let mut bytes = Vec::new();
    let mut encoder = BatchEncoder::begin(&mut bytes, seed(), FIRST);
    encoder.consumers(&list);
    let header = encoder.finish(5, 0, false);
    scan::verify_batch(&bytes, &header, seed(), |_, _, _| {})
}

/// What a change names must have been there before its batch.
#[test]
fn changes_name_nothing_that_is_still_to_come() {
    for position in [FIRST - 1, FIRST, FIRST + 1, 1 << 62, 1 << 63, u64::MAX] {
        let whats = [
            What::Opened { from: position },
            What::Acknowledged { checkpoint: position, finished: Vec::new() },
            What::Acknowledged { checkpoint: 0, finished: vec![(2, position)] },
            What::Parked { position, attempts: 1, stream: "s", behind: 0, reason: "" },
            What::Parked { position: 1, attempts: 1, stream: "s", behind: position, reason: "" },
            What::Released { position },
            What::Reset { checkpoint: position },
            What::Standing { checkpoint: position, finished: Vec::new() },
        ];
        for what in whats {
            let answer = verified(1, what.clone());
            assert_eq!(answer.is_ok(), position < FIRST, "{what:?}: {answer:?}");
        }
    }
}

/// Ranges that touch, overlap or fall, and generations and positions of 0.
#[test]
fn changes_that_cannot_be_are_refused() {
    let acknowledged = |finished: &[(u64, u64)]| What::Acknowledged { checkpoint: 5, finished: finished.to_vec() };
    let parked = |position, stream| What::Parked { position, attempts: 1, stream, behind: 0, reason: "two\nlines" };
    let cases = [
        (1, acknowledged(&[(7, 8), (10, 10)]), true),
        (0, acknowledged(&[]), false),
        (1, acknowledged(&[(6, 6)]), false),
        (1, acknowledged(&[(5, 7)]), false),
        (1, acknowledged(&[(8, 7)]), false),
        (1, acknowledged(&[(7, 8), (9, 9)]), false),
        (1, acknowledged(&[(9, 9), (7, 7)]), false),
        (1, What::Released { position: 0 }, false),
        (1, parked(3, "s"), true),
        (1, parked(0, "s"), false),
        (1, parked(3, ""), false),
        (1, parked(3, "a\n"), false),
    ];
    for (generation, what, is_right) in cases {
        let answer = verified(generation, what.clone());
        assert_eq!(answer.is_ok(), is_right, "{what:?}: {answer:?}");
    }
}

#[test]
fn padding_must_be_zero() {
    let structure = structure("record");
    let len = samples::u32_at(&structure.bytes, 4) as usize;
    assert!(len < structure.bytes.len(), "the sample has padding");
    for at in len..structure.bytes.len() {
        let (write, _) = with_bit(&structure, at, 0);
        assert!(matches!(write, Err(Fault::Reserved { .. })));
    }
}

/// A later version may have a longer header: it is unsupported if it verifies, and damage if it does not.
#[test]
fn later_versions_are_unsupported_only_if_intact() {
    for name in [
        "segment_header",
        "mark",
        "ring",
        "control",
        "manifest",
        "index",
        "places",
        "tier",
        "directory",
        "index_manifest",
        "backup_point",
        "compacted",
        "snapshot_file",
        "consumer_file",
    ] {
        let structure = structure(name);
        let mut bytes = structure.bytes.clone();
        bytes[8] = 2;
        assert!(matches!((structure.again)(&bytes), Err(Fault::Checksum { .. })), "{name}: a damaged version");
        (structure.fix)(&mut bytes);
        assert!(is_unsupported(&(structure.again)(&bytes)), "{name}: version 2");
    }
    let mut longer = samples::mark().encode().to_vec();
    longer[8] = 2;
    longer.extend_from_slice(&[5; 64]);
    longer[12] = 192;
    samples::fix_header(&mut longer, 0, 192);
    assert!(is_unsupported(&annals_format::mark::Mark::decode(&longer)));
    longer[150] ^= 1;
    assert!(matches!(annals_format::mark::Mark::decode(&longer), Err(Fault::Checksum { .. })));
}

/// Intact bytes in a wrong place: another position, segment, incarnation, store.
#[test]
fn misplaced_bytes_are_refused() {
    let frame = samples::record();
    assert!(record::decode(&frame, seed(), FIRST).is_ok());
    for position in (1..1000).chain([FIRST + (1 << 32), FIRST + (1 << 48)]).filter(|position| *position != FIRST) {
        assert!(record::decode(&frame, seed(), position).is_err(), "position {position}");
    }
    let identity = samples::identity();
    let others = [
        Identity { segment: identity.segment + 1, ..identity },
        Identity { store: [0; 16], ..identity },
        Identity { incarnation: [0; 16], ..identity },
    ];
    for other in others {
        let seed = Seed::of(&other);
        assert!(record::decode(&frame, seed, FIRST).is_err());
        assert!(BatchHeader::decode(&samples::batch(), seed).is_err());
        assert!(scan::next(&samples::end_mark().encode(samples::seed()), seed).is_err());
    }
}

/// Two batches of the same positions, swapped records and doubled records.
#[test]
fn exchanged_records_are_refused() {
    let batch = |streams: [&str; 2]| {
        let mut bytes = Vec::new();
        let mut encoder = BatchEncoder::begin(&mut bytes, seed(), FIRST);
        for stream in streams {
            encoder.event(&annals_format::record::EventParts::new([1; 16], stream, "T"), 1);
        }
        encoder.finish(5, 0, false);
        bytes
    };
    let (one, two) = (batch(["a", "b"]), batch(["a", "c"]));
    let frame_len = (one.len() - 40) / 2;
    let verify = |bytes: &[u8]| {
        let header = BatchHeader::decode(bytes, seed())?;
        scan::verify_batch(bytes, &header, seed(), |_, _, _| {})
    };
    assert_eq!(verify(&one), Ok(()));
    let mut mixed = one.clone();
    mixed[40 + frame_len..].copy_from_slice(&two[40 + frame_len..]);
    assert!(
        matches!(verify(&mixed), Err(Fault::Checksum { what: "records' checksums", .. })),
        "a record of another batch"
    );
    let mut swapped = one.clone();
    swapped[40..].rotate_left(frame_len);
    assert!(verify(&swapped).is_err(), "records swapped");
}

#[test]
fn scan_tells_what_stands_there() {
    let bytes = samples::scanned();
    let Ok(Step::Batch(first)) = scan::next(&bytes, seed()) else { panic!("a batch stands first") };
    assert_eq!((first.first_position, first.last_position(), first.record_count), (FIRST, FIRST + 2, 3));
    assert_eq!(first.durable_upto(), Some(FIRST - 3));
    let Ok(Step::Batch(second)) = scan::next(&bytes[first.len()..], seed()) else { panic!("a second one follows") };
    let rest = &bytes[first.len() + second.len()..];
    assert_eq!(scan::next(rest, seed()), Ok(Step::End(samples::end_mark())));
    assert_eq!(scan::next(&[0; 8], seed()), Ok(Step::Clean));
    assert!(scan::next(&[0; 7], seed()).is_err());
    assert!(scan::next(&[0, 0, 0, 0, 0, 0, 0, 1], seed()).is_err());
}

#[test]
fn nothing_durable_and_far_behind() {
    for (first, durable, told) in [(1, 0, Some(0)), (9, 8, Some(8)), (9, 20, Some(8)), (1 << 40, 5, None)] {
        let mut bytes = Vec::new();
        let mut encoder = BatchEncoder::begin(&mut bytes, seed(), first);
        encoder.event(&samples::plain_event(), 1);
        encoder.finish(5, durable, false);
        assert_eq!(BatchHeader::decode(&bytes, seed()).map(|header| header.durable_upto()), Ok(told));
    }
}
