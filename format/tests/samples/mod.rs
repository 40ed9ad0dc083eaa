//! One of each structure, how to put its checksums right after a change, and how to decode and encode it again.
//!
//! Shared by the tests of this crate and by the fuzz targets.
#![allow(dead_code, unreachable_pub, reason = "each user needs some of it")]

use std::cell::Cell;
use std::ops::Range;

use annals_format::backup_point::{BackupPoint, Piece};
use annals_format::batch::{BATCH_HEADER_LEN, BatchEncoder, BatchHeader};
use annals_format::checksum::{Identity, Seed, crc};
use annals_format::compacted::{self, BlockTable, COMPACTED_HEADER_LEN, CompactedHeader, Encoding, RemovedTable};
use annals_format::consumer::{Change, ChangeList, ConsumerFile, ConsumerFileHeader, ConsumerTable, What};
use annals_format::control::ControlHeader;
use annals_format::directory::{self, DirectoryLayout, DirectoryRow, DirectoryTip};
use annals_format::index::{self, BatchRow, IdRow, IndexBytes, IndexHeader, IndexRoot, KeyRow, NameRow};
use annals_format::index_file::{FileHeader, FileIdentity, FileKind, Touch, root_of};
use annals_format::index_manifest::{DirectoryEntry, IndexManifest, TierEntry};
use annals_format::manifest::{
    DurabilityKind, IncarnationEntry, Limits, Manifest, SegmentEntry, SegmentState, SnapshotFileEntry,
};
use annals_format::mark::Mark;
use annals_format::packed_places::{self, PackedLayout};
use annals_format::places::{self, PlacesLayout};
use annals_format::record::{
    self, Control, EventParts, Forgotten, OccurredAt, Policy, Record, Scope, StreamCut, Sweep, SweptPart,
};
use annals_format::ring::RingHeader;
use annals_format::scan;
use annals_format::section::Section;
use annals_format::segment::{EndMark, Link, SegmentHeader, SegmentKind};
use annals_format::snapshot::{SnapshotFileHeader, SnapshotFrame, StateCompression};
use annals_format::tier::{self, TierLayout, TierParts};
use annals_format::{Fault, Purpose};

pub const STORE: [u8; 16] = *b"annals-example-1";
pub const INCARNATION: [u8; 16] = *b"first-opening-01";
pub const TIME: u64 = 1_700_000_000_000_000_000;
/// Position of the first record of [`batch`].
pub const FIRST: u64 = 41;

pub fn identity() -> Identity {
    Identity { store: STORE, incarnation: INCARNATION, segment: 7 }
}

pub fn seed() -> Seed {
    Seed::of(&identity())
}

/// A container of three blocks, none of them compressed, with a dictionary and two removed events.
pub fn container() -> Vec<u8> {
    let block = |len: usize| -> Vec<u8> { (0..len).map(|n| if n < 24 { n as u8 + 1 } else { 0 }).collect() };
    let blocks = [4096, 4096, 1234].map(block);
    let dictionary = b"a dictionary".to_vec();
    let mut table = Vec::new();
    for (number, block) in blocks.iter().enumerate() {
        table.extend_from_slice(&compacted::block_entry(seed(), number as u32, block));
    }
    let mut removed = RemovedTable::default();
    removed.push(41, [0xA1; 16]);
    removed.push(43, [0xA3; 16]);
    let parts = [dictionary.clone(), blocks.concat(), table.clone(), removed.bytes().to_vec()].concat();
    let of = |bytes: &[u8]| crc(seed().raw(), bytes);
    let header = CompactedHeader {
        identity: identity(),
        generation: 2,
        written_by: 1 << 8,
        created_at: TIME,
        segment_len: 64 << 10,
        stored_len: 4096 * 2 + 1234,
        file_len: (COMPACTED_HEADER_LEN + parts.len()) as u64,
        encoding: Encoding::Zstd,
        block_len: 4096,
        block_count: 3,
        dictionary_len: dictionary.len() as u32,
        dictionary_checksum: of(&dictionary),
        blocks_checksum: of(&table),
        removed_count: 2,
        removed_checksum: of(removed.bytes()),
        final_checksum: 0x0A0B_0C0D,
        content_checksum: 0x0102_0304,
    };
    [header.encode().0.to_vec(), parts].concat()
}

/// The parts of a container as its header has them, whatever else is wrong with it: where they end at most, and where they
/// begin.
fn container_parts(bytes: &[u8]) -> Option<[Range<usize>; 4]> {
    let removed = (u32_at(bytes, 140) as usize).checked_mul(24)?;
    let table = (u32_at(bytes, 124) as usize).checked_mul(8)?;
    let table_at = bytes.len().checked_sub(removed.checked_add(table)?)?;
    let blocks_at = 256usize.checked_add(u32_at(bytes, 128) as usize)?;
    let parts = [256..blocks_at, blocks_at..table_at, table_at..table_at + table, table_at + table..bytes.len()];
    parts.iter().all(|part| part.start <= part.end && part.end <= bytes.len()).then_some(parts)
}

/// Checksums of blocks, tables and dictionary, as far as lengths allow it, then of the header.
pub fn fix_container(bytes: &mut [u8]) {
    if bytes.len() < 256 {
        return;
    }
    let own = Identity {
        store: bytes[40..56].try_into().expect("16 bytes"),
        incarnation: bytes[56..72].try_into().expect("16 bytes"),
        segment: u64_at(bytes, 72),
    };
    let seed = Seed::of(&own);
    if let Some([dictionary, blocks, table, removed]) = container_parts(bytes) {
        let mut at = blocks.start;
        for (number, entry) in table.clone().step_by(8).enumerate() {
            let len = u32_at(bytes, entry) as usize;
            let Some(block) = bytes.get(at..at.saturating_add(len)).filter(|_| at + len <= blocks.end) else { break };
            let fixed = compacted::block_entry(seed, number as u32, block);
            bytes[entry..entry + 8].copy_from_slice(&fixed);
            at += len;
        }
        for (place, part) in [(132, dictionary), (136, table), (144, removed)] {
            let checksum = crc(seed.raw(), &bytes[part]);
            set_u32(bytes, place, checksum);
        }
    }
    fix_header(bytes, seed.raw(), 256);
}

/// Decodes all of a container, and encodes it again.
fn again_container(bytes: &[u8], purpose: Purpose) -> Result<Vec<u8>, Fault> {
    let (header, root) = CompactedHeader::decode_for(bytes, purpose)?;
    if header.file_len != bytes.len() as u64 {
        return Err(Fault::Length { what: "the file", value: bytes.len() as u64 });
    }
    let of = |range: Range<u64>| &bytes[range.start as usize..range.end as usize];
    header.check_dictionary(of(header.dictionary()))?;
    let table = BlockTable::decode(&header, of(header.block_table()))?;
    let removed = RemovedTable::decode(&header, of(header.removed_table()).to_vec())?;
    let (encoded, _) = header.encode();
    assert!(u32_at(&encoded, 16) == root || purpose == Purpose::Read || u32_at(bytes, 28) != 0);
    let mut again = [&encoded[..], of(header.dictionary())].concat();
    let mut entries = Vec::new();
    for number in 0..header.block_count {
        let block = of(table.place(number).expect("a block"));
        table.check(number, block)?;
        assert!(block.len() <= header.block_content_len(number) as usize);
        again.extend_from_slice(block);
        entries.extend_from_slice(&compacted::block_entry(header.seed(), number, block));
    }
    assert_eq!(table.place(header.block_count), None);
    for (position, hash) in removed.entries() {
        assert_eq!(removed.hash_of(position), Some(hash));
    }
    again.extend_from_slice(&entries);
    again.extend_from_slice(removed.bytes());
    Ok(again)
}

pub fn segment_header() -> SegmentHeader {
    SegmentHeader {
        identity: identity(),
        generation: 0,
        manifest_generation: 3,
        segment_len: 1 << 20,
        base: 8192,
        first_position: FIRST,
        previous: Some(Link { number: 6, final_checksum: 0xDEAD_BEEF }),
        created_at: TIME,
        written_by: 1 << 8,
        kind: SegmentKind::Live,
    }
}

pub fn end_mark() -> EndMark {
    EndMark {
        final_checksum: 0x0102_0304,
        first_position: FIRST,
        last_position: FIRST + 2,
        first_time: TIME,
        last_time: TIME + 5,
        batch_count: 2,
        event_count: 2,
        control_count: 1,
        next_segment: 8,
    }
}

pub fn plain_event() -> EventParts<'static> {
    EventParts { payload: b"{}", ..EventParts::new(*b"id-of-event-0001", "order-1", "Placed") }
}

/// An event with every optional part.
pub fn full_event() -> EventParts<'static> {
    EventParts {
        id: *b"id-of-event-0002",
        id_generated: true,
        stream: "größe",
        event_type: "Paid",
        tags: &["customer:7", "ü"],
        metadata: b"\x00meta",
        payload: b"{\"total\":12}",
        occurred_at: Some(OccurredAt { nanos: -5, digits: 3 }),
        schema_version: Some(2),
        content_type: Some("application/json"),
        correlation: Some(b"conversation"),
        causation: Some(b""),
    }
}

/// A control record of an unknown kind that may be passed over, its checksum not yet right.
pub fn control_frame() -> Vec<u8> {
    let mut frame = vec![0; 32];
    frame[4..8].copy_from_slice(&30u32.to_le_bytes());
    frame[8] = 2;
    frame[12..14].copy_from_slice(&0x8309u16.to_le_bytes());
    frame[24..30].copy_from_slice(b"action");
    frame
}

/// A frame of each kind of control record at position [`FIRST`].
pub fn control_frames() -> Vec<Vec<u8>> {
    let cut = StreamCut { stream: "order-1", first: 3, upto: 9, last: 9 };
    let policy = Policy { scope: Scope::Prefix("order-"), max_age: Some(1 << 40), max_count: Some(9), max_bytes: None };
    let parts = [
        SweptPart::Stream { name: "order-1", first: 3, upto: 9 },
        SweptPart::Prefix { prefix: "order-", first: 1, upto: FIRST - 1 },
    ];
    let forgotten = Forgotten { stream: "order-1", upto: 9 };
    let controls = [
        Control::Truncate(cut),
        Control::Delete(cut),
        Control::Tombstone(cut),
        Control::Retain(policy),
        Control::Sweep(Sweep::of(&parts)),
        Control::ForgetIds(forgotten),
        Control::ForgetStream(forgotten),
    ];
    let frame = |control: &Control<'_>| {
        let mut bytes = Vec::new();
        let mut encoder = BatchEncoder::begin(&mut bytes, seed(), FIRST);
        encoder.control_record(control);
        encoder.finish(TIME, 0, false);
        bytes.split_off(BATCH_HEADER_LEN)
    };
    controls.iter().map(frame).collect()
}

/// Two events and a control record.
pub fn batch() -> Vec<u8> {
    let mut control = control_frame();
    fix_record(&mut control, FIRST + 2);
    let Ok(Record::Control(control)) = record::decode(&control, seed(), FIRST + 2) else {
        panic!("a control record is passed over")
    };
    let mut bytes = Vec::new();
    let mut encoder = BatchEncoder::begin(&mut bytes, seed(), FIRST);
    encoder.event(&plain_event(), 1);
    encoder.event(&full_event(), 9);
    encoder.control(&control);
    encoder.finish(TIME, FIRST - 3, true);
    bytes
}

/// A change of each kind.
pub fn changes() -> ChangeList {
    let mut list = ChangeList::default();
    let change = |generation, what| Change { consumer: "größte-mail", generation, what };
    list.push(&change(1, What::Opened { from: 3 }));
    list.push(&change(1, What::Acknowledged { checkpoint: 9, finished: vec![(11, 11), (13, 20)] }));
    list.push(&change(
        1,
        What::Parked { position: 10, attempts: 5, stream: "order-1", behind: 0, reason: "no such address" },
    ));
    list.push(&change(1, What::Parked { position: 12, attempts: 0, stream: "order-1", behind: 10, reason: "" }));
    list.push(&change(1, What::Released { position: 10 }));
    list.push(&change(2, What::Reset { checkpoint: 0 }));
    list.push(&Change { consumer: "b", generation: 3, what: What::Removed });
    list.push(&change(4, What::Standing { checkpoint: FIRST - 3, finished: vec![(FIRST - 1, FIRST - 1)] }));
    list
}

/// An event, and changes of consumers.
pub fn sectioned_batch() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = BatchEncoder::begin(&mut bytes, seed(), FIRST);
    encoder.event(&plain_event(), 1);
    encoder.consumers(&changes());
    encoder.finish(TIME, FIRST - 3, true);
    bytes
}

/// Changes of consumers and no record.
pub fn bare_batch() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = BatchEncoder::begin(&mut bytes, seed(), FIRST);
    encoder.consumers(&changes());
    encoder.finish(TIME, FIRST - 1, false);
    bytes
}

/// A manifest of which one segment holds typed sections.
pub fn sectioned_manifest() -> Manifest {
    let mut manifest = manifest();
    manifest.segments[1].has_sections = true;
    manifest
}

pub fn consumer_file() -> ConsumerFile {
    let mut table = ConsumerTable::default();
    changes().changes().for_each(|change| {
        table.apply(&change, TIME);
    });
    let mut list = ChangeList::default();
    let what = What::Parked { position: 40, attempts: 5, stream: "order-1", behind: 0, reason: "no such address" };
    list.push(&Change { consumer: "größte-mail", generation: 4, what });
    let what = What::Parked { position: 36, attempts: 0, stream: "order-1", behind: 30, reason: "" };
    list.push(&Change { consumer: "größte-mail", generation: 4, what });
    list.push(&Change { consumer: "another", generation: 5, what: What::Opened { from: 7 } });
    list.changes().for_each(|change| {
        table.apply(&change, TIME + 1);
    });
    let header = ConsumerFileHeader {
        store: STORE,
        incarnation: INCARNATION,
        segment: 7,
        final_checksum: 0x0102_0304,
        last_position: FIRST + 2,
        written_by: 1 << 8,
    };
    ConsumerFile { header, table }
}

/// Frame of [`full_event`] at position [`FIRST`].
pub fn record() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = BatchEncoder::begin(&mut bytes, seed(), FIRST);
    encoder.event(&full_event(), 9);
    encoder.finish(TIME, 0, false);
    bytes.split_off(BATCH_HEADER_LEN)
}

/// What follows the header of a segment: two batches, an end mark.
pub fn scanned() -> Vec<u8> {
    let mut bytes = batch();
    let mut encoder = BatchEncoder::begin(&mut bytes, seed(), FIRST + 3);
    encoder.event(&plain_event(), 2);
    encoder.finish(TIME + 1, 0, false);
    bytes.extend_from_slice(&end_mark().encode(seed()));
    bytes
}

pub fn mark() -> Mark {
    Mark {
        store: STORE,
        incarnation: INCARNATION,
        sequence: 12,
        manifest_generation: 3,
        segment: 7,
        offset: 4096 + 320,
        position: 43,
        recorded_at: TIME,
        clean: true,
    }
}

pub fn ring() -> RingHeader {
    RingHeader {
        store: STORE,
        incarnation: INCARNATION,
        session: 4,
        ring_len: 1 << 21,
        first_segment: 7,
        holds_log: true,
    }
}

pub fn control() -> ControlHeader {
    ControlHeader { store: STORE, incarnation: INCARNATION, session: 4 }
}

pub fn segment_entry(number: u64, first_position: u64, last_position: u64) -> SegmentEntry {
    SegmentEntry {
        number,
        generation: 0,
        incarnation: INCARNATION,
        store: STORE,
        len: 1 << 20,
        end: 8192,
        first_position,
        last_position,
        first_time: TIME,
        last_time: TIME + 9,
        final_checksum: 0x0A0B_0C0D,
        state: if number == 1 { SegmentState::Cut } else { SegmentState::Sealed },
        kind: SegmentKind::Live,
        event_count: last_position + 1 - first_position,
        has_sections: false,
        compacted: None,
    }
}

pub fn manifest() -> Manifest {
    Manifest {
        store: STORE,
        generation: 3,
        written_by: 1 << 8,
        default_durability: DurabilityKind::Buffered,
        removal_forbidden: true,
        name_hash_seed: 0x1122_3344_5566_7788,
        content_hash_key: *b"content-hash-key",
        created_at: TIME,
        segment_len_max: 64 << 20,
        quota_bytes: Some(1 << 30),
        limits: Limits::default(),
        next_segment: 8,
        incarnations: vec![
            IncarnationEntry { incarnation: [9; 16], first_position: 1 },
            IncarnationEntry { incarnation: INCARNATION, first_position: 21 },
        ],
        segments: vec![segment_entry(1, 1, 20), segment_entry(6, 21, FIRST - 1)],
        ancestors: Vec::new(),
        lost: Vec::new(),
        snapshots: Vec::new(),
    }
}

pub fn index_header() -> IndexHeader {
    IndexHeader {
        store: STORE,
        segment: 7,
        generation: 0,
        final_checksum: 0x0102_0304,
        name_hash_seed: 0x1122_3344_5566_7788,
    }
}

pub fn index_root() -> IndexRoot {
    IndexRoot {
        first_position: FIRST,
        first_time: TIME,
        last_time: TIME + 1,
        offsets: vec![517, 526, 0, 564],
        batches: vec![
            BatchRow { first: 0, offset: 512, recorded_at: TIME },
            BatchRow { first: 3, offset: 559, recorded_at: TIME + 1 },
        ],
        keys: vec![KeyRow { hash: 5, start: 0, count: 2 }, KeyRow { hash: 9, start: 2, count: 1 }],
        postings: vec![0, 3, 1],
        ids: vec![
            IdRow { hash: 4, position: 1, reserved: 0 },
            IdRow { hash: 6, position: 0, reserved: 0 },
            IdRow { hash: 6, position: 3, reserved: 0 },
        ],
        streams: vec![
            NameRow { offset: 0, len: 7, last_revision: 2, first: 0, last: 3 },
            NameRow { offset: 7, len: 7, last_revision: 9, first: 1, last: 1 },
        ],
        types: vec![
            NameRow { offset: 14, len: 4, last_revision: 0, first: 1, last: 1 },
            NameRow { offset: 18, len: 6, last_revision: 0, first: 0, last: 3 },
        ],
        names: "order-1größePaidPlaced".as_bytes().to_vec(),
    }
}

pub fn file_identity(kind: FileKind, first_position: u64, last_position: u64) -> FileIdentity {
    FileIdentity {
        kind,
        store: STORE,
        number: 7,
        generation: 3,
        name_hash_seed: 0x1122_3344_5566_7788,
        first_position,
        last_position,
        final_checksum: if kind == FileKind::Places { 0x0102_0304 } else { 0 },
    }
}

pub fn places_file() -> Vec<u8> {
    let batches = [
        places::BatchRow { first: 0, offset: 512, recorded_at: TIME },
        places::BatchRow { first: 3, offset: 559, recorded_at: TIME + 1 },
    ];
    let identity = file_identity(FileKind::Places, FIRST, FIRST + 3);
    places::encode(&identity, [517, 526, 0, 564], batches).expect("a small file").to_vec()
}

/// A hundred positions; a key with one, with a list, with a bit map; names beyond one restart.
pub fn tier_file() -> Vec<u8> {
    let streams: Vec<String> = (10..30).map(|n| format!("order-{n}")).collect();
    let streams: Vec<&[u8]> = streams.iter().map(|name| name.as_bytes()).collect();
    let parts = TierParts {
        keys: &[(5, &[0]), (1 << 33, &[3, 88, 99]), (1 << 63, &[0, 1, 2, 3, 63, 64, 65, 99]), (u64::MAX, &[99])],
        ids: &[(4, 1), (1 << 40, 0), (1 << 40, 7), (3 << 60, 98), (u64::MAX, 99)],
        streams: &streams,
        types: &["Größe".as_bytes(), b"Placed"],
    };
    tier::encode(&file_identity(FileKind::Tier, FIRST, FIRST + 99), &parts).expect("a small file").to_vec()
}

pub fn directory_file() -> Vec<u8> {
    fn row(hash: u64, name: &str, revision: u64, position: u64) -> DirectoryRow<'_> {
        DirectoryRow { hash, name: name.as_bytes(), tip: DirectoryTip { revision, position } }
    }
    let rows = [
        row(5, "order-1", 1, 44),
        row(5, "order-9", 2, 41),
        row(1 << 63, "Größe", 0x0102_0304_0506, 43),
        row(u64::MAX, "z", 3, 99),
    ];
    directory::encode(&file_identity(FileKind::Directory, 1, FIRST + 99), &rows).expect("a small file").to_vec()
}

pub fn index_manifest() -> IndexManifest {
    let tier = |number, segment, first_position, last_position| TierEntry {
        number,
        first_segment: segment,
        last_segment: segment + 2,
        first_position,
        last_position,
        generation: 2,
        len: 1 << 20,
        root: 0x0A0B_0C0D,
    };
    let directory = |number, coverage| DirectoryEntry {
        number,
        coverage,
        row_count: 1000,
        generation: 3,
        len: 1 << 15,
        root: 0x0102_0304,
    };
    IndexManifest {
        store: STORE,
        generation: 5,
        written_by: 1 << 8,
        name_hash_seed: 0x1122_3344_5566_7788,
        next_file: 19,
        tiers: vec![tier(11, 1, 1, 20), tier(3, 4, 21, FIRST - 1)],
        directories: vec![directory(4, 20), directory(18, FIRST - 1)],
    }
}

/// A cut segment in one piece, a sealed one in two.
pub fn snapshot_entries() -> Vec<SnapshotFileEntry> {
    let entry = |number, is_ended| SnapshotFileEntry {
        number,
        id: [number as u8; 16],
        len: 1 << 16,
        end: 4112,
        frame_count: 7,
        is_ended,
    };
    vec![entry(2, true), entry(5, false)]
}

pub fn snapshot_file() -> SnapshotFileHeader {
    SnapshotFileHeader {
        store: STORE,
        id: *b"file-of-snapshot",
        number: 5,
        len: 1 << 16,
        created_at: TIME,
        written_by: 1 << 8,
    }
}

/// Where the sample of a snapshot stands in its file.
pub const SNAPSHOT_AT: u64 = 4112;

pub fn snapshot() -> Vec<u8> {
    let frame = SnapshotFrame {
        stream: "order-1",
        name: "größe",
        schema: 3,
        incarnation: INCARNATION,
        event: [7; 16],
        position: FIRST,
        revision: 9,
        saved_at: TIME,
        synced_upto: 4096,
        stored_len: 0,
        state_len: 21,
        state_checksum: 0,
        compression: StateCompression::None,
    };
    let mut bytes = Vec::new();
    frame.encode(snapshot_file().seed(), SNAPSHOT_AT, b"a state of some bytes", &mut bytes);
    bytes
}

fn again_snapshot(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let seed = snapshot_file().seed();
    let frame = SnapshotFrame::decode(bytes, seed, SNAPSHOT_AT)?;
    let stored = frame.check_state(&bytes[frame.header_len()..], seed, SNAPSHOT_AT)?;
    let mut again = Vec::new();
    frame.encode(seed, SNAPSHOT_AT, stored, &mut again);
    Ok(again)
}

pub fn fix_snapshot(bytes: &mut [u8]) {
    let seed = snapshot_file().seed();
    let header_len = u32_at(bytes, 4) as usize;
    let stored_len = u64_at(bytes, 80).checked_next_multiple_of(16).and_then(|len| usize::try_from(len).ok());
    let stored = stored_len.and_then(|len| header_len.checked_add(len)).and_then(|end| bytes.get(header_len..end));
    if let Some(checksum) = stored.map(|stored| crc(seed.state(SNAPSHOT_AT), stored)) {
        set_u32(bytes, 96, checksum);
    }
    if let Some(checksum) = bytes.get(4..header_len).map(|covered| crc(seed.frame(SNAPSHOT_AT), covered)) {
        set_u32(bytes, 0, checksum);
    }
}

pub fn backup_point() -> BackupPoint {
    let piece = |segment, from, to| Piece { segment, from, to, checksum: 0x0A0B_0C0D };
    BackupPoint {
        number: 3,
        written_by: 1 << 8,
        taken_at: TIME,
        manifest: manifest(),
        pieces: vec![piece(0, 0, 8192), piece(1, 0, 4200), piece(1, 4200, 8192 + 128)],
    }
}

/// Bytes in memory as aligned as [`index::open`] wants them.
pub fn aligned(bytes: &[u8]) -> IndexBytes {
    let mut copy = IndexBytes::new();
    copy.extend_from_slice(bytes);
    copy
}

/// One structure under test.
pub struct Structure {
    pub name: &'static str,
    /// A sample as its encoder makes it.
    pub bytes: Vec<u8>,
    /// Puts all checksums right, so that a decoder looks at what they cover.
    pub fix: fn(&mut [u8]),
    /// Decodes for a writer, and encodes what was decoded.
    pub again: fn(&[u8]) -> Result<Vec<u8>, Fault>,
    /// Decodes for a reader.
    pub read: fn(&[u8]) -> Result<(), Fault>,
    /// Clears what may be ignored and is not kept; false if the whole is not kept byte by byte.
    pub mask: fn(&mut [u8]) -> bool,
}

pub fn all() -> Vec<Structure> {
    vec![
        Structure {
            name: "segment_header",
            bytes: segment_header().encode().to_vec(),
            fix: fix_segment_header,
            again: again_segment_header,
            read: |bytes| SegmentHeader::decode_for(bytes, Purpose::Read).map(|_| ()),
            mask: |bytes| mask_header(bytes, 0),
        },
        Structure {
            name: "end_mark",
            bytes: end_mark().encode(seed()).to_vec(),
            fix: fix_end_mark,
            again: |bytes| EndMark::decode(bytes, seed()).map(|mark| mark.encode(seed()).to_vec()),
            read: |bytes| EndMark::decode_for(bytes, seed(), Purpose::Read).map(|_| ()),
            mask: |bytes| {
                mask_byte(bytes, 7, 0);
                true
            },
        },
        Structure {
            name: "record",
            bytes: record(),
            fix: |bytes| {
                fix_record(bytes, FIRST);
            },
            again: again_record,
            read: |bytes| record::decode_for(bytes, seed(), FIRST, Purpose::Read).map(|_| ()),
            mask: |bytes| {
                mask_record(bytes);
                true
            },
        },
        Structure {
            name: "batch",
            bytes: batch(),
            fix: |bytes| {
                fix_batch(bytes);
            },
            again: again_batch,
            read: read_batch,
            mask: mask_batch,
        },
        Structure {
            name: "sectioned_batch",
            bytes: sectioned_batch(),
            fix: |bytes| {
                fix_batch(bytes);
            },
            again: again_batch,
            read: read_batch,
            mask: mask_batch,
        },
        Structure {
            name: "bare_batch",
            bytes: bare_batch(),
            fix: |bytes| {
                fix_batch(bytes);
            },
            again: again_batch,
            read: read_batch,
            mask: mask_batch,
        },
        Structure {
            name: "consumer_file",
            bytes: consumer_file().encode(),
            fix: |bytes| fix_header(bytes, 0, usize::MAX),
            again: |bytes| ConsumerFile::decode(bytes).map(|file| file.encode()),
            read: |bytes| ConsumerFile::decode_for(bytes, Purpose::Read).map(|_| ()),
            mask: |bytes| mask_header(bytes, 0),
        },
        Structure {
            name: "sectioned_manifest",
            bytes: sectioned_manifest().encode(),
            fix: |bytes| fix_header(bytes, 0, usize::MAX),
            again: |bytes| Manifest::decode(bytes).map(|manifest| manifest.encode()),
            read: |bytes| Manifest::decode_for(bytes, Purpose::Read).map(|_| ()),
            mask: |bytes| mask_header(bytes, 0) && has_the_two_sections(bytes),
        },
        Structure {
            name: "mark",
            bytes: mark().encode().to_vec(),
            fix: |bytes| fix_header(bytes, 0, 128),
            again: |bytes| Mark::decode(bytes).map(|mark| mark.map_or(vec![0; 128], |mark| mark.encode().to_vec())),
            read: |bytes| Mark::decode_for(bytes, Purpose::Read).map(|_| ()),
            mask: |bytes| mask_header(bytes, 1),
        },
        Structure {
            name: "ring",
            bytes: ring().encode().to_vec(),
            fix: |bytes| fix_header(bytes, 0, 128),
            again: |bytes| {
                RingHeader::decode(bytes).map(|ring| ring.map_or(vec![0; 128], |ring| ring.encode().to_vec()))
            },
            read: |bytes| RingHeader::decode_for(bytes, Purpose::Read).map(|_| ()),
            mask: |bytes| mask_header(bytes, 0),
        },
        Structure {
            name: "control",
            bytes: control().encode().to_vec(),
            fix: |bytes| fix_header(bytes, 0, 128),
            again: |bytes| {
                let header = ControlHeader::decode(bytes)?;
                Ok(header.map_or(vec![0; 128], |header| header.encode().to_vec()))
            },
            read: |bytes| ControlHeader::decode_for(bytes, Purpose::Read).map(|_| ()),
            mask: |bytes| mask_header(bytes, 0),
        },
        Structure {
            name: "manifest",
            bytes: manifest().encode(),
            fix: |bytes| fix_header(bytes, 0, usize::MAX),
            again: |bytes| Manifest::decode(bytes).map(|manifest| manifest.encode()),
            read: |bytes| Manifest::decode_for(bytes, Purpose::Read).map(|_| ()),
            // Sections that may be ignored are not kept, and empty ones are written out.
            mask: |bytes| mask_header(bytes, 0) && has_the_two_sections(bytes),
        },
        Structure {
            name: "index",
            bytes: index::encode(&index_header(), &index_root()).expect("a small index").to_vec(),
            fix: fix_index,
            again: again_index,
            read: |bytes| index::open_for(&aligned(bytes), Purpose::Read).map(|_| ()),
            mask: |_| true,
        },
        Structure {
            name: "places",
            bytes: places_file(),
            fix: fix_index_file,
            again: |bytes| again_file(bytes, FileKind::Places),
            read: |bytes| read_file(bytes, FileKind::Places),
            mask: |_| true,
        },
        Structure {
            name: "tier",
            bytes: tier_file(),
            fix: fix_index_file,
            again: |bytes| again_file(bytes, FileKind::Tier),
            read: |bytes| read_file(bytes, FileKind::Tier),
            mask: |_| true,
        },
        Structure {
            name: "directory",
            bytes: directory_file(),
            fix: fix_index_file,
            again: |bytes| again_file(bytes, FileKind::Directory),
            read: |bytes| read_file(bytes, FileKind::Directory),
            mask: |_| true,
        },
        Structure {
            name: "index_manifest",
            bytes: index_manifest().encode(),
            fix: |bytes| fix_header(bytes, 0, usize::MAX),
            again: |bytes| IndexManifest::decode(bytes).map(|manifest| manifest.encode()),
            read: |bytes| IndexManifest::decode_for(bytes, Purpose::Read).map(|_| ()),
            mask: |bytes| mask_header(bytes, 0),
        },
        Structure {
            name: "compacted",
            bytes: container(),
            fix: fix_container,
            again: |bytes| again_container(bytes, Purpose::Write),
            read: |bytes| again_container(bytes, Purpose::Read).map(drop),
            mask: |bytes| mask_header(bytes, 0),
        },
        Structure {
            name: "snapshot_manifest",
            bytes: Manifest { snapshots: snapshot_entries(), ..manifest() }.encode(),
            fix: |bytes| fix_header(bytes, 0, usize::MAX),
            again: |bytes| Manifest::decode(bytes).map(|manifest| manifest.encode()),
            read: |bytes| Manifest::decode_for(bytes, Purpose::Read).map(|_| ()),
            mask: |_| false,
        },
        Structure {
            name: "snapshot_file",
            bytes: snapshot_file().encode().to_vec(),
            fix: |bytes| fix_header(bytes, 0, 128),
            again: |bytes| SnapshotFileHeader::decode(bytes).map(|header| header.encode().to_vec()),
            read: |bytes| SnapshotFileHeader::decode_for(bytes, Purpose::Read).map(|_| ()),
            mask: |bytes| mask_header(bytes, 0),
        },
        Structure {
            name: "snapshot",
            bytes: snapshot(),
            fix: fix_snapshot,
            again: again_snapshot,
            read: |bytes| {
                SnapshotFrame::decode_for(bytes, snapshot_file().seed(), SNAPSHOT_AT, Purpose::Read).map(|_| ())
            },
            mask: |bytes| {
                mask_byte(bytes, 11, 0);
                // Cut behind the frame.
                true
            },
        },
        Structure {
            name: "backup_point",
            bytes: backup_point().encode(),
            fix: fix_backup_point,
            again: |bytes| BackupPoint::decode(bytes).map(|point| point.encode()),
            read: |bytes| BackupPoint::decode_for(bytes, Purpose::Read).map(|_| ()),
            // As the manifest in it: its sections that may be ignored are not kept.
            mask: |_| false,
        },
    ]
}

pub fn structure(name: &str) -> Structure {
    all().into_iter().find(|structure| structure.name == name).expect("a structure of this name")
}

fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes(four.try_into().expect("four bytes")))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn mask_byte(bytes: &mut [u8], at: usize, kept: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte &= kept;
    }
}

fn mask_header(bytes: &mut [u8], kept: u32) -> bool {
    let ignored = u32_at(bytes, 28) & kept;
    set_u32(bytes, 28, ignored);
    true
}

/// Only events: a control record is kept whole.
fn mask_record(frame: &mut [u8]) {
    if frame.get(8) == Some(&1) {
        mask_byte(frame, 11, 1);
    }
}

fn mask_batch(bytes: &mut [u8]) -> bool {
    mask_byte(bytes, 7, 1);
    let end = for_each_record(bytes, |frame, _| mask_record(frame));
    for_each_section(bytes, end, |frame| {
        // One that is passed over is kept whole.
        if frame.get(8) == Some(&1) {
            mask_byte(frame, 11, 0);
        }
    });
    true
}

fn has_the_two_sections(bytes: &[u8]) -> bool {
    let second = 256 + 8 + u32_at(bytes, 260) as usize;
    u32_at(bytes, 168) == 2 && u32_at(bytes, 256) == 1 && u32_at(bytes, second) == 2
}

/// Checksum at 16 over everything from 20 to `end`, its seed changed by the version at 8.
pub fn fix_header(bytes: &mut [u8], seed: u32, end: usize) {
    if bytes.len() < 20 {
        return;
    }
    let seed = seed ^ u32_at(bytes, 8) ^ 1;
    let end = end.min(bytes.len());
    if let Some(covered) = bytes.get(20..end) {
        let checksum = crc(seed, covered);
        set_u32(bytes, 16, checksum);
    }
}

/// The manifest's checksum, then that of the whole.
pub fn fix_backup_point(bytes: &mut [u8]) {
    let pieces_end = 128usize.saturating_add((u32_at(bytes, 104) as usize).saturating_mul(32));
    if let Some(manifest) = bytes.get_mut(pieces_end..) {
        fix_header(manifest, 0, usize::MAX);
    }
    fix_header(bytes, 0, usize::MAX);
}

pub fn fix_segment_header(bytes: &mut [u8]) {
    if bytes.len() >= 80 {
        let part = |at: usize| bytes[at..at + 16].try_into().expect("sixteen bytes");
        let seed = Seed::of(&Identity { store: part(40), incarnation: part(56), segment: u64_at(bytes, 72) });
        fix_header(bytes, seed.raw(), 4096);
    }
}

pub fn fix_end_mark(bytes: &mut [u8]) {
    if let Some(covered) = bytes.get(4..128) {
        let checksum = crc(seed().batch(), covered);
        set_u32(bytes, 0, checksum);
    }
}

/// Answers the frame's length with padding, if it is there.
pub fn fix_record(bytes: &mut [u8], position: u64) -> Option<usize> {
    let len = (u32_at(bytes, 4) as usize).checked_next_multiple_of(8)?;
    let checksum = crc(seed().record(position), bytes.get(4..len)?);
    set_u32(bytes, 0, checksum);
    Some(len)
}

/// Answers where the records end.
fn for_each_record(bytes: &mut [u8], mut each: impl FnMut(&mut [u8], u64)) -> usize {
    let position = u64_at(bytes, 24);
    let end = (BATCH_HEADER_LEN + u32_at(bytes, 8) as usize).min(bytes.len());
    let mut at = BATCH_HEADER_LEN;
    for n in 0..u64::from(u32_at(bytes, 12)) {
        let len = (u32_at(bytes, at + 4) as usize).next_multiple_of(8);
        if len < 24 || at + len > end {
            return end;
        }
        each(&mut bytes[at..at + len], position.wrapping_add(n));
        at += len;
    }
    at
}

/// Sections behind the records, which end at `at`, if the batch says that there are some.
fn for_each_section(bytes: &mut [u8], mut at: usize, mut each: impl FnMut(&mut [u8])) {
    let end = (BATCH_HEADER_LEN + u32_at(bytes, 8) as usize).min(bytes.len());
    while bytes.get(5).is_some_and(|flags| flags & 4 != 0) && at + 16 <= end {
        let len = (u32_at(bytes, at + 4) as usize).next_multiple_of(8);
        if len < 16 || at + len > end {
            return;
        }
        each(&mut bytes[at..at + len]);
        at += len;
    }
}

/// Puts right the checksums of all records that can be found, and both of the batch. Answers its length if all is there.
pub fn fix_batch(bytes: &mut [u8]) -> Option<usize> {
    let mut checksums = Vec::new();
    let end = for_each_record(bytes, |frame, position| {
        fix_record(frame, position);
        checksums.extend_from_slice(&frame[..4]);
    });
    let first_position = u64_at(bytes, 24);
    for_each_section(bytes, end, |frame| {
        let checksum = crc(seed().section(first_position), &frame[4..]);
        set_u32(frame, 0, checksum);
        checksums.extend_from_slice(&frame[..4]);
    });
    let all = crc(seed().batch(), &checksums);
    set_u32(bytes, 16, all);
    let checksum = crc(seed().batch(), bytes.get(4..BATCH_HEADER_LEN)?);
    set_u32(bytes, 0, checksum);
    Some(BATCH_HEADER_LEN + u32_at(bytes, 8) as usize).filter(|len| *len <= bytes.len())
}

/// Walks batches and end marks as they claim to stand.
pub fn fix_scanned(mut bytes: &mut [u8]) {
    while bytes.len() >= 8 {
        if bytes[4] == 0xE1 {
            return fix_end_mark(bytes);
        }
        let Some(len) = fix_batch(bytes) else { return };
        bytes = &mut bytes[len..];
    }
}

pub fn fix_index(bytes: &mut [u8]) {
    if let Some(archive) = bytes.get(128..) {
        let checksum = crc(0, archive);
        set_u32(bytes, 88, checksum);
        fix_header(bytes, 0, 128);
    }
}

fn again_segment_header(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let header = SegmentHeader::decode(bytes)?;
    Ok(header.map_or_else(|| bytes[..4096.min(bytes.len())].to_vec(), |header| header.encode().to_vec()))
}

fn add(encoder: &mut BatchEncoder<'_>, record: Record<'_>) {
    match record {
        Record::Event(event) if event.is_compacted() => {
            encoder.compacted(&event);
        }
        Record::Event(event) => {
            let tags: Vec<&str> = event.tags().collect();
            encoder.event(&event.parts(&tags), event.revision());
        }
        Record::Control(control) => {
            assert_eq!(control.frame_len(), control.bytes().len());
            // What is known has one encoding, but for flags that may be ignored.
            if let Some(known) = control.control() {
                let mut again = Vec::new();
                let mut alone = BatchEncoder::begin(&mut again, seed(), control.position());
                alone.control_record(&known);
                alone.finish(0, 0, false);
                let (written, read) = (&again[BATCH_HEADER_LEN..], control.bytes());
                assert_eq!((&written[4..11], &written[12..]), (&read[4..11], &read[12..]), "{known:?}");
            }
            encoder.control(&control);
        }
    }
}

fn again_record(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let record = record::decode(bytes, seed(), FIRST)?;
    let mut copy = Vec::new();
    let mut encoder = BatchEncoder::begin(&mut copy, seed(), FIRST);
    add(&mut encoder, record);
    encoder.finish(0, 0, false);
    Ok(copy.split_off(BATCH_HEADER_LEN))
}

fn again_batch(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let header = BatchHeader::decode(bytes, seed())?;
    let mut copy = Vec::new();
    let mut encoder = BatchEncoder::begin(&mut copy, seed(), header.first_position);
    scan::verify_batch(bytes, &header, seed(), |_, _, record| add(&mut encoder, record))?;
    if header.has_sections {
        scan::verify_sections(bytes, &header, seed(), |_, section| match section {
            Section::Consumers(section) => {
                let mut list = ChangeList::default();
                section.changes().for_each(|change| list.push(&change));
                assert_eq!(list, section.to_list());
                encoder.consumers(&list);
            }
            Section::Other(_) => encoder.section(&section),
        })?;
    }
    let again = encoder.finish(header.recorded_at, 0, header.as_batch);
    // What was durable need not be said; then it cannot be said again. Ignorable flags of records are not kept.
    let header = BatchHeader { records_checksum: again.records_checksum, ..header };
    copy[..BATCH_HEADER_LEN].copy_from_slice(&header.encode(seed()));
    Ok(copy)
}

fn read_batch(bytes: &[u8]) -> Result<(), Fault> {
    let header = BatchHeader::decode_for(bytes, seed(), Purpose::Read)?;
    scan::verify_batch_for(bytes, &header, seed(), Purpose::Read, |_, _, _| {})
}

/// Asks an index everything; archives are not encoded again.
fn again_index(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let copy = aligned(bytes);
    let (_, root) = index::open(&copy)?;
    let mut sum = 0u64;
    for (hash, position) in root.ids() {
        sum = sum.wrapping_add(root.find_ids(hash).map(u64::from).sum::<u64>());
        sum = sum.wrapping_add(root.offset(position).unwrap_or(0));
    }
    for position in [0, 1, u32::MAX].into_iter().chain(root.postings.iter().map(|position| position.to_native())) {
        sum = sum.wrapping_add(root.offset(position).unwrap_or(0));
        sum = sum.wrapping_add(root.batch_of(position).map_or(0, |batch| batch.offset));
    }
    for key in root.keys.iter() {
        sum = sum.wrapping_add(root.find_key(key.hash.to_native()).map_or(0, <[_]>::len) as u64);
    }
    for batch in root.batches() {
        sum = sum.wrapping_add(root.batch_at_time(batch.recorded_at).map_or(0, |batch| batch.offset));
    }
    for name in root.streams_from(b"").chain(root.types_from(b"")) {
        sum = sum.wrapping_add(root.stream(name.name).map_or(0, |found| found.last_revision));
        sum = sum.wrapping_add(root.types_from(name.name).count() as u64);
        sum = sum.wrapping_add(root.streams_from(&name.name[..name.name.len() / 2]).count() as u64);
    }
    std::hint::black_box(sum);
    Ok(bytes.to_vec())
}

/// Decodes raw bytes, then the same with checksums put right: no panic, and what decodes is kept.
pub fn exercise(structure: &Structure, bytes: &[u8]) {
    let _ = (structure.again)(bytes);
    let mut fixed = bytes.to_vec();
    (structure.fix)(&mut fixed);
    let Ok(again) = (structure.again)(&fixed) else { return };
    (structure.read)(&fixed).expect("what a writer understands a reader does");
    assert_eq!((structure.again)(&again).as_ref(), Ok(&again), "{}: decoding again gives the same", structure.name);
    let mut expected = fixed;
    expected.truncate(again.len());
    if (structure.mask)(&mut expected) {
        (structure.fix)(&mut expected);
        assert_eq!(again, expected, "{}: encoding gives what was decoded", structure.name);
    }
}

/// Checksums of all blocks, of the table and of the header, if their lengths allow it.
pub fn fix_index_file(bytes: &mut [u8]) {
    let archive_len = u64_at(bytes, 96);
    let end = archive_len.checked_add(4096).filter(|end| *end <= bytes.len() as u64);
    if let Some((covered, table)) = end.and_then(|end| bytes.split_at_mut_checked(end as usize)) {
        for (block, entry) in covered[4096..].chunks(16 << 10).zip(table.chunks_exact_mut(4)) {
            entry.copy_from_slice(&crc(0, block).to_le_bytes());
        }
        let checksum = crc(0, table);
        set_u32(bytes, 108, checksum);
    }
    fix_header(bytes, 0, 4096);
}

/// Sees to it that a look-up keeps within the archive, and ends.
struct Guard {
    archive: Range<usize>,
    calls: Cell<u32>,
}

impl Touch for Guard {
    type Error = Fault;

    fn touch(&self, range: Range<usize>) -> Result<(), Fault> {
        assert!(!range.is_empty() && range.start >= self.archive.start && range.end <= self.archive.end);
        self.calls.set(self.calls.get() + 1);
        assert!(self.calls.get() < 1_000_000, "a look-up does not end");
        Ok(())
    }
}

/// Asks a file of the index everything; archives are not encoded again.
pub fn again_file(bytes: &[u8], kind: FileKind) -> Result<Vec<u8>, Fault> {
    let copy = aligned(bytes);
    let header = FileHeader::open(&copy, kind, root_of(&copy), Purpose::Write)?;
    header.table.check_all(&copy)?;
    let guard = Guard { archive: header.table.archive(), calls: Cell::new(0) };
    match kind {
        FileKind::Places => ask_places(&copy, &header, &guard)?,
        FileKind::Tier => ask_tier(&copy, &header, &guard)?,
        FileKind::Directory => {
            let layout = DirectoryLayout::read(&copy, &header)?;
            let directory = layout.over(&copy, &guard);
            for number in 0..layout.row_count().min(1000) {
                let Some(row) = directory.row(number)? else { break };
                std::hint::black_box(directory.find(row.hash, row.name)?);
            }
            std::hint::black_box(directory.find(u64::MAX, b"absent")?);
        }
        FileKind::PackedPlaces => {
            let layout = PackedLayout::read(&copy, &header)?;
            let (groups, words) = (&copy[layout.groups()], &copy[layout.words()]);
            for record in (0..layout.record_count().min(1000)).chain([u32::MAX]) {
                std::hint::black_box(packed_places::place(groups, words, record));
            }
        }
    }
    Ok(bytes.to_vec())
}

fn read_file(bytes: &[u8], kind: FileKind) -> Result<(), Fault> {
    FileHeader::open(bytes, kind, root_of(bytes), Purpose::Read).map(|_| ())
}

const FEW: [u32; 6] = [0, 1, 2, 98, 1 << 31, u32::MAX];

fn ask_places(bytes: &[u8], header: &FileHeader, guard: &Guard) -> Result<(), Fault> {
    let layout = PlacesLayout::read(bytes, header)?;
    let places = layout.over(bytes, guard);
    for position in (0..layout.record_count().min(1000)).chain(FEW) {
        std::hint::black_box((places.offset(position)?, places.batch_of(position)?));
    }
    for number in (0..layout.batch_count().min(1000)).chain(FEW) {
        let Some(batch) = places.batch(number)? else { continue };
        std::hint::black_box((places.batch_at_time(batch.recorded_at)?, places.first_at_time(batch.recorded_at)?));
    }
    Ok(())
}

fn ask_tier(bytes: &[u8], header: &FileHeader, guard: &Guard) -> Result<(), Fault> {
    let layout = TierLayout::read(bytes, header)?;
    let tier = layout.over(bytes, guard);
    for number in (0..layout.key_count().min(200)).chain(FEW) {
        let Some((hash, mut positions)) = tier.key(number)? else { continue };
        std::hint::black_box(tier.find_key(hash)?.map_or(0, |found| found.len()));
        for position in FEW {
            let (after, before) = (positions.seek_ge(position)?, positions.seek_le(position)?);
            assert!(after.is_none_or(|found| found >= position) && before.is_none_or(|found| found <= position));
            std::hint::black_box(positions.word(position)?);
        }
        let rises: Vec<u32> = positions.clone().ascending(0).take(500).collect::<Result<_, _>>()?;
        assert!(rises.is_sorted_by(|a, b| a < b));
        let falls: Vec<u32> = positions.descending(u32::MAX).take(500).collect::<Result<_, _>>()?;
        assert!(falls.is_sorted_by(|a, b| a > b));
    }
    for number in (0..layout.id_count().min(200)).chain(FEW) {
        let Some((hash, _)) = tier.id(number)? else { continue };
        std::hint::black_box((tier.may_hold(hash)?, tier.find_ids(hash)?.count()));
    }
    let mut prefix = Vec::new();
    for _ in 0..20 {
        for mut names in [tier.streams_from(&prefix)?, tier.types_from(&prefix)?] {
            for _ in 0..200 {
                let Some(name) = names.next()? else { break };
                assert!(name.starts_with(&prefix) && name.len() <= 255);
            }
        }
        let mut names = tier.streams_from(&prefix)?;
        let Some(name) = names.next()? else { break };
        let longer = name.get(..prefix.len() + 1).map(<[u8]>::to_vec);
        let Some(longer) = longer else { break };
        prefix = longer;
    }
    Ok(())
}
