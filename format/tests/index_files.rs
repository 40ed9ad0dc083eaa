//! Files of the index answer as a plain search through what they were made of would, and read only what they say they
//! read.

mod samples;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Range;

use annals_format::directory::{
    self, DIRECTORY_NUMBER_MAX, DirectoryLayout, DirectoryRow, DirectorySizes, DirectoryTip, DirectoryWriter,
};
use annals_format::index_file::{
    BLOCK_LEN, FILE_HEADER_LEN, FileBuffer, FileBytes, FileHeader, FileIdentity, FileKind, Touch, Verified, WriteError,
    root_of,
};
use annals_format::places::{self, BatchRow, PlacesLayout};
use annals_format::tier::{self, TierLayout, TierMeasure, TierParts, TierSizes, TierWriter, is_dense};
use annals_format::{Fault, Purpose};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

/// Notes what is announced.
#[derive(Default)]
struct Notes(RefCell<Vec<Range<usize>>>);

impl Touch for Notes {
    type Error = Infallible;

    fn touch(&self, range: Range<usize>) -> Result<(), Infallible> {
        self.0.borrow_mut().push(range);
        Ok(())
    }
}

impl Notes {
    /// The file with every bit flipped that was not announced, of the archive and the table.
    fn rest_flipped(&self, file: &[u8]) -> FileBytes {
        let mut flipped = samples::aligned(file);
        flipped[FILE_HEADER_LEN..].iter_mut().for_each(|byte| *byte ^= 0xff);
        for range in self.0.borrow().iter() {
            flipped[range.clone()].copy_from_slice(&file[range.clone()]);
        }
        flipped
    }
}

fn sure<T>(answer: Result<T, Infallible>) -> T {
    match answer {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

fn opened(file: &[u8], kind: FileKind) -> FileHeader {
    let header = FileHeader::open(file, kind, root_of(file), Purpose::Write).expect("what was written opens");
    assert_eq!(header.table.check_all(file), Ok(()));
    header
}

/// Asks twice: the second time a file in which nothing is right but what the first question announced.
fn twice<A: PartialEq + std::fmt::Debug>(file: &[u8], ask: impl Fn(&[u8], &Notes) -> A) -> A {
    let notes = Notes::default();
    let answer = ask(file, &notes);
    let flipped = notes.rest_flipped(file);
    assert_eq!(ask(&flipped, &Notes::default()), answer, "what is read was announced");
    answer
}

fn identity(kind: FileKind, count: u64) -> FileIdentity {
    samples::file_identity(kind, 1000, 999 + count)
}

fn all_names(tier: &tier::Tier<'_, &Notes>, prefix: &str, of_types: bool) -> Vec<Vec<u8>> {
    let names = if of_types { tier.types_from(prefix.as_bytes()) } else { tier.streams_from(prefix.as_bytes()) };
    let mut names = sure(names);
    let mut found = Vec::new();
    while let Some(name) = sure(names.next()) {
        found.push(name.to_vec());
    }
    found
}

/// Sets of positions of a tier of `count`: few, some, and many of them.
fn position_sets(count: u32) -> impl Strategy<Value = BTreeSet<u32>> {
    prop_oneof![
        2 => btree_set(0..count, 1..4),
        2 => btree_set(0..count, 1..80),
        1 => (1..9u32, 0..count).prop_map(move |(every, from)| (from..count).step_by(every as usize).collect()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn keys_of_a_tier(
        (count, keys) in prop_oneof![1..200u32, Just(128u32), 5_000..90_000u32]
            .prop_flat_map(|count| (Just(count), btree_map(any::<u64>(), position_sets(count), 0..40))),
        absent in vec(any::<u64>(), 5),
        bounds in vec(any::<u32>(), 8),
    ) {
        let listed: Vec<(u64, Vec<u32>)> = keys.iter().map(|(hash, set)| (*hash, set.iter().copied().collect())).collect();
        let rows: Vec<(u64, &[u32])> = listed.iter().map(|(hash, list)| (*hash, list.as_slice())).collect();
        let parts = TierParts { keys: &rows, ..TierParts::default() };
        let file = tier::encode(&identity(FileKind::Tier, count.into()), &parts)?;
        let layout = TierLayout::read(&file, &opened(&file, FileKind::Tier))?;
        prop_assert_eq!((layout.key_count() as usize, layout.position_count()), (keys.len(), count));
        for (number, (hash, list)) in listed.iter().enumerate() {
            let found = twice(&file, |file, notes| {
                let positions = sure(layout.over(file, notes).find_key(*hash)).expect("the key is there");
                assert_eq!(positions.is_bitmap(), is_dense(positions.len(), count));
                positions.ascending(0).map(sure).collect::<Vec<u32>>()
            });
            prop_assert_eq!(&found, list);
            let (same, positions) = sure(layout.over(&file, Verified).key(number as u32)).expect("a key");
            prop_assert_eq!((same, positions.len() as usize), (*hash, list.len()));
            let mut falling: Vec<u32> = positions.descending(u32::MAX).map(sure).collect();
            falling.reverse();
            prop_assert_eq!(&falling, list);
            // One after the other with what it remembers, each alone with what it announces.
            let mut walking = sure(layout.over(&file, Verified).find_key(*hash)).expect("a key");
            for bound in bounds.iter().flat_map(|bound| [bound % count, bound % count / 50, *bound]) {
                let after = list.iter().copied().find(|position| *position >= bound);
                let before = list.iter().copied().rfind(|position| *position <= bound);
                prop_assert_eq!((sure(walking.seek_ge(bound)), sure(walking.seek_le(bound))), (after, before));
            }
            for bound in [bounds[0] % count, u32::MAX] {
                let before = list.iter().copied().rfind(|position| *position <= bound);
                let found = twice(&file, |file, notes| {
                    sure(sure(layout.over(file, notes).find_key(*hash)).expect("a key").seek_le(bound))
                });
                prop_assert_eq!(found, before);
            }
            if walking.is_bitmap() {
                for word in 0..count.div_ceil(64) {
                    let wanted = list.iter().filter(|p| **p / 64 == word).fold(0, |bits, p| bits | 1u64 << (p % 64));
                    prop_assert_eq!(sure(walking.word(word)), Some(wanted));
                }
                prop_assert_eq!(sure(walking.word(count.div_ceil(64))), None);
            }
        }
        for hash in absent.iter().filter(|hash| !keys.contains_key(hash)) {
            prop_assert!(twice(&file, |file, notes| sure(layout.over(file, notes).find_key(*hash)).is_none()));
        }
    }

    #[test]
    fn a_tier_is_as_long_as_was_measured(
        (count, keys) in prop_oneof![1..200u32, 5_000..90_000u32]
            .prop_flat_map(|count| (Just(count), btree_map(any::<u64>(), position_sets(count), 0..60))),
        ids in btree_set(any::<u64>(), 0..90),
        streams in btree_set("[a-c]{1,6}", 0..70),
        types in btree_set("[a-c]{1,3}", 0..20),
    ) {
        let listed: Vec<(u64, Vec<u32>)> = keys.iter().map(|(hash, set)| (*hash, set.iter().copied().collect())).collect();
        let rows: Vec<(u64, &[u32])> = listed.iter().map(|(hash, list)| (*hash, list.as_slice())).collect();
        let ids: Vec<(u64, u32)> = ids.iter().map(|hash| (*hash, 0)).collect();
        let streams: Vec<&[u8]> = streams.iter().map(|name| name.as_bytes()).collect();
        let types: Vec<&[u8]> = types.iter().map(|name| name.as_bytes()).collect();
        let mut measure = TierMeasure::new(count, 100);
        rows.iter().for_each(|(_, list)| measure.key(list.len() as u32));
        measure.ids(ids.len() as u32);
        streams.iter().try_for_each(|name| measure.stream(name))?;
        types.iter().try_for_each(|name| measure.type_name(name))?;
        let parts = TierParts { keys: &rows, ids: &ids, streams: &streams, types: &types };
        let file = tier::encode(&identity(FileKind::Tier, count.into()), &parts)?;
        prop_assert_eq!(measure.file_len(), Ok(file.len() as u64));
        // The names that were kept make the same file.
        let mut writer = TierWriter::begin(FileBuffer::new(), identity(FileKind::Tier, count.into()), measure.sizes())?;
        for (hash, list) in &rows {
            writer.key(*hash, list.len() as u32, list[0])?;
        }
        for (_, list) in &rows {
            writer.positions(list.len() as u32)?;
            list.iter().try_for_each(|position| writer.position(*position))?;
        }
        ids.iter().try_for_each(|(hash, position)| writer.id(*hash, *position))?;
        ids.iter().try_for_each(|(hash, _)| writer.filtered_id(*hash))?;
        let [kept_streams, kept_types] = measure.into_names();
        match kept_streams {
            Some(kept) => writer.streams(kept)?,
            None => streams.iter().try_for_each(|name| writer.stream(name))?,
        }
        match kept_types {
            Some(kept) => writer.types(kept)?,
            None => types.iter().try_for_each(|name| writer.type_name(name))?,
        }
        let (finished, buffer) = writer.finish()?;
        prop_assert!(buffer.into_file(&finished)[..] == file[..]);
    }

    /// What a list gives at once, and where positions go on after they were put aside.
    #[test]
    fn positions_of_a_key_in_other_ways(
        (count, keys) in prop_oneof![1..200u32, 5_000..90_000u32]
            .prop_flat_map(|count| (Just(count), btree_map(any::<u64>(), position_sets(count), 1..10))),
    ) {
        let listed: Vec<(u64, Vec<u32>)> = keys.iter().map(|(hash, set)| (*hash, set.iter().copied().collect())).collect();
        let rows: Vec<(u64, &[u32])> = listed.iter().map(|(hash, list)| (*hash, list.as_slice())).collect();
        let parts = TierParts { keys: &rows, ..TierParts::default() };
        let file = tier::encode(&identity(FileKind::Tier, count.into()), &parts)?;
        let layout = TierLayout::read(&file, &opened(&file, FileKind::Tier))?;
        for (hash, list) in &listed {
            let mut positions = sure(layout.over(&file, Verified).find_key(*hash)).expect("the key is there");
            let whole = twice(&file, |file, notes| {
                let positions = sure(layout.over(file, notes).find_key(*hash)).expect("the key is there");
                let list = sure(positions.list()).map(|list| list.iter().map(|number| u32::from_le_bytes(*number)));
                list.map(Iterator::collect::<Vec<u32>>)
            });
            prop_assert_eq!(whole.is_some(), list.len() > 1 && !positions.is_bitmap());
            prop_assert!(whole.is_none_or(|whole| whole == *list));
            for position in list {
                prop_assert_eq!(sure(positions.seek_ge(*position)), Some(*position));
                let mark = positions.mark();
                positions = layout.over(&file, Verified).positions_at(mark);
                prop_assert_eq!((positions.mark(), positions.len() as usize), (mark, list.len()));
            }
        }
    }

    #[test]
    fn ids_of_a_tier(
        ids in prop_oneof![btree_set((any::<u64>(), 0..9u32), 0..300), btree_set((0..40u64, 0..9u32), 0..80)],
        absent in vec(prop_oneof![any::<u64>(), 0..50u64], 20),
    ) {
        let ids: Vec<(u64, u32)> = ids.into_iter().collect();
        let file = tier::encode(&identity(FileKind::Tier, 9), &TierParts { ids: &ids, ..TierParts::default() })?;
        let layout = TierLayout::read(&file, &opened(&file, FileKind::Tier))?;
        prop_assert_eq!(layout.id_count() as usize, ids.len());
        for (number, id) in ids.iter().enumerate() {
            prop_assert_eq!(sure(layout.over(&file, Verified).id(number as u32)), Some(*id));
            prop_assert!(twice(&file, |file, notes| sure(layout.over(file, notes).may_hold(id.0))));
        }
        for hash in ids.iter().map(|(hash, _)| *hash).chain(absent) {
            let wanted: Vec<u32> = ids.iter().filter(|id| id.0 == hash).map(|id| id.1).collect();
            let ask = |file: &[u8], notes: &Notes| sure(layout.over(file, notes).find_ids(hash)).collect::<Vec<u32>>();
            prop_assert_eq!(twice(&file, ask), wanted);
        }
    }

    #[test]
    fn names_of_a_tier(
        streams in prop_oneof![btree_set("[a-c]{1,6}", 0..200), btree_set("[a-b]{240,255}|c", 0..120)],
        types in btree_set("[a-cü]{1,3}", 0..40),
        prefixes in vec("[a-cü]{0,3}", 8),
    ) {
        let bytes = |names: &BTreeSet<String>| names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
        let (stream_bytes, type_bytes) = (bytes(&streams), bytes(&types));
        let stream_slices: Vec<&[u8]> = stream_bytes.iter().map(Vec::as_slice).collect();
        let type_slices: Vec<&[u8]> = type_bytes.iter().map(Vec::as_slice).collect();
        let parts = TierParts { streams: &stream_slices, types: &type_slices, ..TierParts::default() };
        let file = tier::encode(&identity(FileKind::Tier, 9), &parts)?;
        let layout = TierLayout::read(&file, &opened(&file, FileKind::Tier))?;
        prop_assert_eq!((layout.stream_count() as usize, layout.type_count() as usize), (streams.len(), types.len()));
        let some: Vec<String> = streams.iter().step_by(7).cloned().collect();
        for prefix in prefixes.iter().chain(&some).map(String::as_str).chain([""]) {
            for (names, of_types) in [(&stream_bytes, false), (&type_bytes, true)] {
                let found = twice(&file, |file, notes| all_names(&layout.over(file, notes), prefix, of_types));
                let wanted: Vec<_> = names.iter().filter(|name| name.starts_with(prefix.as_bytes())).cloned().collect();
                prop_assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    fn places_of_a_segment(
        batches in vec((1..9u32, 0..3u64), 0..60),
        long in any::<bool>(),
        questions in vec(0..700u32, 20),
    ) {
        let (mut offsets, mut rows, mut time) = (Vec::new(), Vec::new(), 10);
        for (count, later) in &batches {
            time += later;
            let first = offsets.len() as u32;
            rows.push(BatchRow { first, offset: 512 + first * 10, recorded_at: time });
            let count = if long { count * 400 } else { *count };
            offsets.extend((0..count).map(|n| if n == 0 && first % 2 == 1 { 0 } else { 513 + first * 10 + n }));
        }
        let identity = identity(FileKind::Places, offsets.len() as u64);
        let file = places::encode(&identity, offsets.clone(), rows.clone())?;
        let header = opened(&file, FileKind::Places);
        prop_assert_eq!(&header.identity, &identity);
        let layout = PlacesLayout::read(&file, &header)?;
        prop_assert_eq!((layout.record_count() as usize, layout.batch_count() as usize), (offsets.len(), rows.len()));
        prop_assert_eq!(layout.first_position(), 1000);
        for question in questions {
            let position = if long { question * 30 } else { question };
            let offset = offsets.get(position as usize).map(|offset| u64::from(*offset) * 8).filter(|offset| *offset > 0);
            let (found, batch) = twice(&file, |file, notes| {
                let places = layout.over(file, notes);
                (sure(places.offset(position)), sure(places.batch_of(position)))
            });
            prop_assert_eq!(found, offset);
            let wanted = rows.iter().rposition(|row| row.first <= position && (position as usize) < offsets.len());
            prop_assert_eq!(batch, wanted.map(|number| number as u32));
            let at_time = u64::from(question % 200);
            let wanted = rows.iter().position(|row| row.recorded_at >= at_time);
            let (number, first) = twice(&file, |file, notes| {
                let places = layout.over(file, notes);
                (sure(places.batch_at_time(at_time)), sure(places.first_at_time(at_time)))
            });
            prop_assert_eq!(number, wanted.map(|number| number as u32));
            prop_assert_eq!(first, wanted.map(|number| rows[number].first));
            prop_assert_eq!(sure(layout.over(&file, Verified).batch(question)), rows.get(question as usize).copied());
        }
    }

    #[test]
    fn streams_of_a_directory(
        rows in prop_oneof![
            btree_map((any::<u64>(), "[a-f]{1,9}"), (0..=DIRECTORY_NUMBER_MAX, 1000..=DIRECTORY_NUMBER_MAX), 0..2000),
            btree_map((0..20u64, "[a-c]{1,2}|[a-c]{200,255}"), (0..9u64, 1000..1009u64), 0..90),
        ],
        absent in vec((prop_oneof![any::<u64>(), 0..25u64], "[a-c]{1,2}"), 20),
    ) {
        let rows: Vec<DirectoryRow<'_>> = rows
            .iter()
            .map(|((hash, name), (revision, position))| DirectoryRow {
                hash: *hash,
                name: name.as_bytes(),
                tip: DirectoryTip { revision: *revision, position: *position },
            })
            .collect();
        let identity = identity(FileKind::Directory, DIRECTORY_NUMBER_MAX - 1000);
        let file = directory::encode(&identity, &rows)?;
        let mut sizes = DirectorySizes::default();
        rows.iter().for_each(|row| sizes.add(row.name.len()));
        prop_assert_eq!((sizes.rows(), sizes.file_len()), (rows.len() as u64, Ok(file.len() as u64)));
        let layout = DirectoryLayout::read(&file, &opened(&file, FileKind::Directory))?;
        prop_assert_eq!((layout.coverage(), layout.row_count() as usize), (identity.last_position, rows.len()));
        for (number, row) in rows.iter().enumerate() {
            prop_assert_eq!(sure(layout.over(&file, Verified).row(number as u32)), Some(*row));
        }
        let absent = absent.iter().map(|(hash, name)| (*hash, name.as_bytes()));
        for (hash, name) in rows.iter().step_by(9).map(DirectoryRow::key).chain(absent) {
            let wanted = rows.iter().find(|row| row.key() == (hash, name)).map(|row| row.tip);
            prop_assert_eq!(twice(&file, |file, notes| sure(layout.over(file, notes).find(hash, name))), wanted);
        }
    }

    /// Bytes of an archive exchanged at random, checksums put right: any answer, no panic, and an end.
    #[test]
    fn nonsense_is_harmless(
        kind in 0..3usize,
        changes in vec((any::<u32>(), prop_oneof![any::<u32>(), 0..200u32, Just(u32::MAX), Just(1 << 31)]), 1..12),
        of_the_root in any::<bool>(),
    ) {
        let structure = samples::structure(["places", "tier", "directory"][kind]);
        let mut bytes = structure.bytes.clone();
        let archive = bytes.len() - 4 - FILE_HEADER_LEN;
        for (at, value) in changes {
            // The pointers and counts of the root lie in the last hundred bytes.
            let span = if of_the_root { archive.min(120) } else { archive };
            let at = FILE_HEADER_LEN + archive - span + (at as usize % span);
            let len = (FILE_HEADER_LEN + archive - at).min(4);
            bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        }
        samples::exercise(&structure, &bytes);
    }
}

/// Opening reads the root and nothing else, however long the file is.
#[test]
fn opening_reads_the_root_alone() {
    for count in [100u64, 400_000] {
        let positions: Vec<u32> = (0..count as u32).step_by(40).collect();
        let ids: Vec<(u64, u32)> = (0..count).map(|n| (n << 40, n as u32)).collect();
        let parts = TierParts { keys: &[(1, &positions)], ids: &ids, ..TierParts::default() };
        let file = tier::encode(&identity(FileKind::Tier, count), &parts).expect("a tier");
        assert!(count == 100 || file.len() > 200 * BLOCK_LEN);
        let header = opened(&file, FileKind::Tier);
        assert_eq!(TierLayout::root(&header).len(), 104);
        let root = Notes(RefCell::new(vec![TierLayout::root(&header)])).rest_flipped(&file);
        assert_eq!(TierLayout::read(&root, &header), TierLayout::read(&file, &header));
        assert!(TierLayout::read(&file, &header).is_ok());

        let row = |n: u64| DirectoryRow {
            hash: n << 40,
            name: b"a name",
            tip: DirectoryTip { revision: n, position: 1000 + n },
        };
        let rows: Vec<DirectoryRow<'_>> = (0..count).map(row).collect();
        let file = directory::encode(&identity(FileKind::Directory, count), &rows).expect("a directory");
        let header = opened(&file, FileKind::Directory);
        let root = Notes(RefCell::new(vec![DirectoryLayout::root(&header)])).rest_flipped(&file);
        assert_eq!(DirectoryLayout::read(&root, &header), DirectoryLayout::read(&file, &header));
        assert!(DirectoryLayout::read(&file, &header).is_ok());

        let file = places::encode(&identity(FileKind::Places, count), 1..=count as u32, []).expect("places");
        let header = opened(&file, FileKind::Places);
        let root = Notes(RefCell::new(vec![PlacesLayout::root(&header)])).rest_flipped(&file);
        assert_eq!(PlacesLayout::read(&root, &header), PlacesLayout::read(&file, &header));
        assert!(PlacesLayout::read(&file, &header).is_ok());
    }
}

/// Says no.
#[derive(Debug)]
struct Refused;

struct Closed;

impl Touch for Closed {
    type Error = Refused;

    fn touch(&self, _: Range<usize>) -> Result<(), Refused> {
        Err(Refused)
    }
}

#[test]
fn a_refused_block_is_the_answer() {
    let file = samples::aligned(&samples::tier_file());
    let layout = TierLayout::read(&file, &opened(&file, FileKind::Tier)).expect("a tier");
    let tier = layout.over(&file, &Closed);
    assert!(tier.find_key(6).is_err() && tier.find_ids(6).is_err() && tier.may_hold(6).is_err());
    assert!(tier.streams_from(b"").is_err() && tier.key(0).is_err() && tier.id(0).is_err());
    let file = samples::aligned(&samples::places_file());
    let layout = PlacesLayout::read(&file, &opened(&file, FileKind::Places)).expect("places");
    let places = layout.over(&file, Closed);
    assert!(places.offset(0).is_err() && places.batch_of(0).is_err() && places.batch_at_time(0).is_err());
    let file = samples::aligned(&samples::directory_file());
    let layout = DirectoryLayout::read(&file, &opened(&file, FileKind::Directory)).expect("a directory");
    assert!(layout.over(&file, Closed).find(5, b"order-1").is_err());
}

#[test]
fn another_file_is_known_by_its_root() {
    let file = samples::tier_file();
    let other = tier::encode(&identity(FileKind::Tier, 9), &TierParts::default()).expect("a tier");
    let identity_fault = |file: &[u8], kind, root| {
        matches!(FileHeader::open(file, kind, root, Purpose::Write), Err(Fault::Identity { .. }))
    };
    assert!(identity_fault(&other, FileKind::Tier, root_of(&file)));
    assert!(identity_fault(&file, FileKind::Directory, root_of(&file)));
    assert!(FileHeader::open(&file, FileKind::Tier, root_of(&file), Purpose::Write).is_ok());
    let mut longer = file.clone();
    longer.push(0);
    assert!(FileHeader::open(&longer, FileKind::Tier, root_of(&file), Purpose::Write).is_err());
    // The same rows under another identity are another file, and places are not read as a tier.
    let moved = FileIdentity { number: 8, ..samples::file_identity(FileKind::Tier, 1000, 1008) };
    let moved = tier::encode(&moved, &TierParts::default()).expect("a tier");
    assert_ne!(root_of(&moved), root_of(&other));
    let places = samples::aligned(&samples::places_file());
    let header = opened(&places, FileKind::Places);
    assert!(TierLayout::read(&places, &header).is_err() && DirectoryLayout::read(&places, &header).is_err());
}

#[test]
fn unaligned_bytes_are_refused() {
    let file = samples::tier_file();
    let mut room = samples::aligned(&[0; 4]);
    room.extend_from_slice(&file);
    let header = opened(&room[4..], FileKind::Tier);
    assert_eq!(TierLayout::read(&room[4..], &header), Err(Fault::Alignment { what: "index file" }));
}

/// What a tier's writer answers to these steps.
fn steps(
    go: impl FnOnce(&mut TierWriter<FileBuffer>) -> Result<(), WriteError<Infallible>>,
) -> Result<(), WriteError<Infallible>> {
    let mut writer =
        TierWriter::begin(FileBuffer::new(), identity(FileKind::Tier, 100), TierSizes::default()).expect("a writer");
    go(&mut writer)?;
    writer.finish().map(|_| ())
}

fn is_refused(answer: Result<(), WriteError<Infallible>>) -> bool {
    matches!(
        answer.map_err(WriteError::into_fault),
        Err(Fault::Order { .. } | Fault::Count { .. } | Fault::Length { .. })
    )
}

#[test]
fn a_writer_refuses_what_it_could_not_find_again() {
    assert!(steps(|_| Ok(())).is_ok());
    assert!(steps(|w| w.key(5, 1, 2).and(w.positions(1)).and(w.position(2))).is_ok());
    assert!(is_refused(steps(|w| w.key(5, 1, 2))), "positions missing");
    assert!(is_refused(steps(|w| w.key(5, 1, 2).and(w.positions(1)))), "a position missing");
    assert!(is_refused(steps(|w| w.key(5, 1, 2).and(w.positions(1)).and(w.position(3)))), "another position");
    assert!(is_refused(steps(|w| w.key(5, 2, 2).and(w.positions(1)).and(w.position(2)))), "another count");
    assert!(is_refused(steps(|w| w.key(5, 1, 2).and(w.key(5, 1, 3)))), "a key twice");
    assert!(is_refused(steps(|w| w.key(5, 0, 2))), "a key of nothing");
    assert!(is_refused(steps(|w| w.key(5, 1, 100))), "a position beyond the tier");
    let two =
        |w: &mut TierWriter<FileBuffer>, a, b| w.key(5, 2, a).and(w.positions(2)).and(w.position(a)).and(w.position(b));
    assert!(steps(|w| two(w, 3, 4)).is_ok());
    assert!(
        is_refused(steps(|w| two(w, 4, 3)))
            && is_refused(steps(|w| two(w, 4, 4)))
            && is_refused(steps(|w| two(w, 4, 100)))
    );
    assert!(steps(|w| w.id(5, 1).and(w.filtered_id(5))).is_ok());
    assert!(is_refused(steps(|w| w.id(5, 1))), "no filter");
    assert!(is_refused(steps(|w| w.id(5, 1).and(w.filtered_id(6)))), "another filter");
    assert!(is_refused(steps(|w| w.id(5, 1).and(w.id(5, 1)))), "an id twice");
    assert!(is_refused(steps(|w| w.id(5, 1).and(w.key(5, 1, 1)))), "a part too late");
    assert!(is_refused(steps(|w| w.stream(b"b").and(w.stream(b"a")))), "names out of order");
    assert!(is_refused(steps(|w| w.stream(b"b").and(w.stream(b"b")))), "a name twice");
    assert!(is_refused(steps(|w| w.stream(b""))) && is_refused(steps(|w| w.type_name(&[b'a'; 256]))), "no names");

    let directory = |rows: &[(u64, &str, u64, u64)], names: &[&str]| {
        let mut sizes = DirectorySizes::default();
        rows.iter().for_each(|(_, name, ..)| sizes.add(name.len()));
        let identity = identity(FileKind::Directory, 100);
        let mut writer = DirectoryWriter::begin(FileBuffer::new(), identity, sizes).expect("a writer");
        rows.iter().try_for_each(|(hash, name, revision, position)| {
            let tip = DirectoryTip { revision: *revision, position: *position };
            writer.row(DirectoryRow { hash: *hash, name: name.as_bytes(), tip })
        })?;
        names.iter().try_for_each(|name| writer.name(name.as_bytes()))?;
        writer.finish().map(drop)
    };
    let three = [(5, "a", 1, 1000), (5, "b", DIRECTORY_NUMBER_MAX, 1099), (6, "a", 1, 1001)];
    assert!(directory(&three, &["a", "b", "a"]).is_ok());
    assert!(is_refused(directory(&three, &["a", "b"])) && is_refused(directory(&three, &["a", "b", "b"])));
    assert!(is_refused(directory(&[(5, "a", 1, 1001), (5, "a", 1, 1001)], &["a", "a"])), "a stream twice");
    assert!(is_refused(directory(&[(5, "a", 1, 1001), (4, "b", 1, 1001)], &["a", "b"])), "hashes out of order");
    assert!(is_refused(directory(&[(5, "a", 1, 1100)], &["a"])) && is_refused(directory(&[(5, "a", 1, 999)], &["a"])));
    assert!(is_refused(directory(&[(5, "a", DIRECTORY_NUMBER_MAX + 1, 1001)], &["a"])));
    assert!(is_refused(directory(&[(5, "", 1, 1001)], &[""])), "no name");

    let identity = identity(FileKind::Places, 2);
    let row = |first, recorded_at| BatchRow { first, offset: 1, recorded_at };
    assert!(places::encode(&identity, [1, 2], [row(0, 5), row(1, 5)]).is_ok());
    for rows in [[row(0, 5), row(1, 4)], [row(1, 5), row(1, 5)], [row(0, 5), row(2, 5)]] {
        assert!(places::encode(&identity, [1, 2], rows).is_err());
    }
    assert!(places::encode(&identity, [1], []).is_err() && places::encode(&identity, [1, 2, 3], []).is_err());
}

/// Tiers merged part by part, as a merge of files does, equal the tier made at once.
#[test]
fn sizes_expected_do_not_change_the_file() {
    let mut keys: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for n in 0..2000u32 {
        keys.entry((u64::from(n % 700)).wrapping_mul(0x9E37_79B9_7F4A_7C15)).or_default().push(n);
    }
    let rows: Vec<(u64, &[u32])> = keys.iter().map(|(hash, list)| (*hash, list.as_slice())).collect();
    let mut ids: Vec<(u64, u32)> = (0..2000).map(|n| (u64::from(n).wrapping_mul(0xBF58_476D_1CE4_E5B9), n)).collect();
    ids.sort_unstable();
    let parts = TierParts { keys: &rows, ids: &ids, ..TierParts::default() };
    let at_once = tier::encode(&identity(FileKind::Tier, 2000), &parts).expect("a tier");
    let sizes = TierSizes { keys_at_most: 9000, ids_at_most: 70_000 };
    let mut writer = TierWriter::begin(FileBuffer::new(), identity(FileKind::Tier, 2000), sizes).expect("a writer");
    let mut write = || {
        rows.iter().try_for_each(|(hash, list)| writer.key(*hash, list.len() as u32, list[0]))?;
        for (_, list) in &rows {
            writer.positions(list.len() as u32)?;
            list.iter().try_for_each(|position| writer.position(*position))?;
        }
        ids.iter().try_for_each(|(hash, position)| writer.id(*hash, *position))?;
        ids.iter().try_for_each(|(hash, _)| writer.filtered_id(*hash))
    };
    write().expect("rows in order");
    let (finished, buffer) = writer.finish().expect("a tier");
    let file = buffer.into_file(&finished);
    assert_eq!((finished.len, finished.root), (file.len() as u64, root_of(&file)));
    assert!(file[..] == at_once[..]);
}
