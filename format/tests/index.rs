//! An index answers as a plain search through its rows would.

mod samples;

use annals_format::Fault;
use annals_format::index::{self, BatchRow, IdRow, IndexRoot, KeyRow, NameRow};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

fn name_rows(names: &[String], text: &mut Vec<u8>) -> Vec<NameRow> {
    let mut rows = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let n = n as u32;
        rows.push(NameRow {
            offset: text.len() as u32,
            len: name.len() as u32,
            last_revision: u64::from(n) + 1,
            first: n,
            last: n + 5,
        });
        text.extend_from_slice(name.as_bytes());
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn look_ups(
        keys in btree_map(0..300u64, btree_set(0..500u32, 1..6), 0..60),
        ids in vec((0..100u64, 0..500u32), 0..80),
        batches in vec((1..9u32, 0..5u64), 0..50),
        streams in btree_set("[a-c]{1,4}", 0..40),
        types in btree_set("[a-c]{1,2}", 0..10),
        questions in vec((0..310u64, "[a-c]{0,3}"), 20),
    ) {
        let mut root = IndexRoot::default();
        for (hash, positions) in &keys {
            root.keys.push(KeyRow { hash: *hash, start: root.postings.len() as u32, count: positions.len() as u32 });
            root.postings.extend(positions);
        }
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        root.ids = sorted.iter().map(|(hash, position)| IdRow { hash: *hash, position: *position, reserved: 0 }).collect();
        let mut time = 10;
        for (count, later) in &batches {
            time += later;
            let first = root.offsets.len() as u32;
            root.batches.push(BatchRow { first, offset: 512 + first * 10, recorded_at: time });
            // The first record of every second batch is a control record.
            root.offsets.extend((0..*count).map(|n| if n == 0 && first % 2 == 1 { 0 } else { 513 + first * 10 + n }));
        }
        let streams: Vec<String> = streams.into_iter().collect();
        let types: Vec<String> = types.into_iter().collect();
        let mut names = Vec::new();
        root.streams = name_rows(&streams, &mut names);
        root.types = name_rows(&types, &mut names);
        root.names = names;

        let bytes = index::encode(&samples::index_header(), &root)?;
        let (header, archived) = index::open(&bytes)?;
        prop_assert_eq!(header, samples::index_header());
        prop_assert_eq!(archived.record_count() as usize, root.offsets.len());

        for (number, text) in &questions {
            let found = archived.find_key(*number).map(|found| found.iter().map(|p| p.to_native()).collect::<Vec<_>>());
            prop_assert_eq!(found, keys.get(number).map(|positions| positions.iter().copied().collect()));
            let found: Vec<u32> = archived.find_ids(*number).collect();
            let wanted: Vec<u32> = sorted.iter().filter(|(hash, _)| hash == number).map(|(_, p)| *p).collect();
            prop_assert_eq!(found, wanted);

            let position = *number as u32;
            let offset = root.offsets.get(position as usize).filter(|offset| **offset != 0);
            prop_assert_eq!(archived.offset(position), offset.map(|offset| u64::from(*offset) * 8));
            let batch = root.batches.iter().rfind(|row| row.first <= position);
            let batch = batch.filter(|_| (position as usize) < root.offsets.len());
            prop_assert_eq!(archived.batch_of(position).map(|found| found.first), batch.map(|row| row.first));
            let batch = root.batches.iter().find(|row| row.recorded_at >= *number);
            prop_assert_eq!(archived.batch_at_time(*number).map(|found| found.first), batch.map(|row| row.first));

            let found: Vec<&[u8]> = archived.streams_from(text.as_bytes()).map(|found| found.name).collect();
            let wanted: Vec<&[u8]> = streams.iter().filter(|s| s.starts_with(text.as_str())).map(|s| s.as_bytes()).collect();
            prop_assert_eq!(found, wanted);
            let found: Vec<&[u8]> = archived.types_from(text.as_bytes()).map(|found| found.name).collect();
            let wanted: Vec<&[u8]> = types.iter().filter(|t| t.starts_with(text.as_str())).map(|t| t.as_bytes()).collect();
            prop_assert_eq!(found, wanted);
            prop_assert_eq!(archived.stream(text.as_bytes()).is_some(), streams.contains(text));
        }
    }

    /// Rows that hold nonsense, in an archive that verifies: any answer, no panic.
    #[test]
    fn nonsense_is_harmless(
        numbers in vec(any::<u32>(), 1..40),
        names in vec(any::<u8>(), 0..30),
    ) {
        let mut given = numbers.iter().copied().cycle();
        let mut number = || given.next().expect("a cycle does not end");
        let rows = numbers.len() / 3 + 1;
        let name = |number: &mut dyn FnMut() -> u32| NameRow {
            offset: number() % 40,
            len: number(),
            last_revision: 1,
            first: number(),
            last: number(),
        };
        let root = IndexRoot {
            first_position: 1,
            first_time: 1,
            last_time: 1,
            offsets: numbers.clone(),
            batches: (0..rows).map(|_| BatchRow { first: number(), offset: number(), recorded_at: number().into() }).collect(),
            keys: (0..rows).map(|_| KeyRow { hash: number().into(), start: number() % 9, count: number() }).collect(),
            postings: numbers.clone(),
            ids: (0..rows).map(|_| IdRow { hash: number().into(), position: number(), reserved: 1 }).collect(),
            streams: (0..rows).map(|_| name(&mut number)).collect(),
            types: (0..rows).map(|_| name(&mut number)).collect(),
            names,
        };
        let bytes = index::encode(&samples::index_header(), &root)?;
        samples::exercise(&samples::structure("index"), &bytes);
    }
}

#[test]
fn unaligned_bytes_are_refused() {
    let bytes = index::encode(&samples::index_header(), &samples::index_root()).expect("a small index");
    let mut room = annals_format::index::IndexBytes::new();
    room.extend_from_slice(&[0; 4]);
    room.extend_from_slice(&bytes);
    assert_eq!(index::open(&room[4..]).err(), Some(Fault::Alignment { what: "index" }));
    assert!(index::open(&bytes).is_ok());
}

#[test]
fn empty_index() {
    let bytes = index::encode(&samples::index_header(), &IndexRoot::default()).expect("a small index");
    let (_, root) = index::open(&bytes).expect("an empty index opens");
    assert_eq!(root.record_count(), 0);
    assert_eq!(root.find_key(1), None);
    assert_eq!(root.find_ids(1).next(), None);
    assert_eq!(root.batch_of(0), None);
    assert_eq!(root.streams_from(b"").count(), 0);
}
