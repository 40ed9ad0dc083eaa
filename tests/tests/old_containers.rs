//! Containers whose blocks are encoded as those of earlier builds are read like new ones, and compacted anew.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use annals::storage::{Access, Fill, Memory, Storage};
use annals::{CompactionOptions, Durability, Event, Expect, NewEvent, Options, Query, ReadMode, Seek, Store, inspect};
use annals_format::compacted::{self, BlockTable, COMPACTED_HEADER_LEN, CompactedHeader, Encoding};
use annals_format::manifest::Manifest;
use annals_format::residue::Head;

fn options() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).durability(Durability::Buffered).background(false)
}

fn content(storage: &dyn Storage, name: &str) -> Vec<u8> {
    let file = storage.open(name, Access::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn replace(storage: &dyn Storage, name: &str, bytes: &[u8]) {
    storage.remove(name).unwrap();
    let file = storage.create(name, bytes.len() as u64, Fill::Allocated).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
}

/// The same container in encoding 1, with its header.
fn in_old_encoding(file: &[u8]) -> (Vec<u8>, CompactedHeader) {
    let (header, _) = CompactedHeader::decode(&file[..COMPACTED_HEADER_LEN]).unwrap();
    assert_eq!(header.encoding, Encoding::Residue);
    let of = |range: Range<u64>| &file[range.start as usize..range.end as usize];
    let table = BlockTable::decode(&header, of(header.block_table())).unwrap();
    let mut decoder = zstd::bulk::Decompressor::with_dictionary(of(header.dictionary())).unwrap();
    let blocks: Vec<Vec<u8>> = (0..header.block_count)
        .map(|number| {
            let stored = of(table.place(number).unwrap());
            let len = header.block_content_len(number) as usize;
            if stored.len() == len {
                return stored.to_vec();
            }
            let (head, residue) = Head::decode(stored).unwrap();
            let mut block = decoder.decompress(residue, len).unwrap();
            head.put_back(&mut block, header.seed()).unwrap();
            block
        })
        .collect();
    let held = blocks.concat();
    let samples: Vec<usize> = held.chunks(1024).map(<[u8]>::len).collect();
    let dictionary = zstd::dict::from_continuous(&held, &samples, 4096).unwrap();
    let mut encoder = zstd::bulk::Compressor::with_dictionary(3, &dictionary).unwrap();
    let (mut stored, mut entries) = (Vec::new(), Vec::new());
    for (number, block) in (0..).zip(&blocks) {
        let packed = encoder.compress(block).unwrap();
        let packed = if packed.len() < block.len() { packed } else { block.clone() };
        entries.extend(compacted::block_entry(header.seed(), number, &packed));
        stored.extend(packed);
    }
    let removed = of(header.removed_table());
    let crc = |bytes: &[u8]| annals_format::checksum::crc(header.seed().raw(), bytes);
    let header = CompactedHeader {
        encoding: Encoding::Zstd,
        file_len: (COMPACTED_HEADER_LEN + dictionary.len() + stored.len() + entries.len() + removed.len()) as u64,
        dictionary_len: dictionary.len() as u32,
        dictionary_checksum: crc(&dictionary),
        blocks_checksum: crc(&entries),
        ..header
    };
    (([&header.encode().0[..], &dictionary, &stored, &entries, removed]).concat(), header)
}

fn shown(store: &Store) -> Vec<Event> {
    store.read_all(&Query::all(), Seek::Beginning).unwrap().map(|event| event.unwrap()).collect()
}

#[test]
fn containers_of_the_first_encoding_are_read() {
    let storage = Arc::new(Memory::new());
    let store = options().open_storage(storage.clone()).unwrap();
    for number in 0..1500u64 {
        let payload = format!("{{\"number\":{number},\"text\":\"the same for all of them\"}}");
        let event = NewEvent::new("Noted", payload.as_bytes()).metadata(b"metadata");
        store.append(&format!("s-{}", number % 7), Expect::Any, &[event]).unwrap();
    }
    store.delete("s-1", Expect::Any).unwrap();
    store.compact(&CompactionOptions::new()).unwrap();
    let before: Vec<String> = shown(&store).iter().map(|event| format!("{event:?}")).collect();
    store.close().unwrap();
    let newest = storage.list().unwrap().into_iter().filter(|name| name.starts_with("manifest-")).max().unwrap();
    let mut manifest = Manifest::decode(&content(&*storage, &newest)).unwrap();
    let mut changed = 0;
    for entry in &mut manifest.segments {
        let Some(listed) = &mut entry.compacted else { continue };
        let name = format!("segment-{:020}-{:020}.log", entry.number, entry.generation);
        let (bytes, header) = in_old_encoding(&content(&*storage, &name));
        (listed.file_len, listed.root) = (header.file_len, header.encode().1);
        replace(&*storage, &name, &bytes);
        changed += 1;
    }
    assert!(changed > 2);
    replace(&*storage, &newest, &manifest.encode());
    for mode in [ReadMode::Mapped, ReadMode::Pread] {
        let store = options().read_mode(mode).open_storage(storage.clone()).unwrap();
        assert!(store.recovery_report().clean, "{:?}", store.recovery_report());
        let after: Vec<String> = shown(&store).iter().map(|event| format!("{event:?}")).collect();
        assert_eq!(before, after);
        store.close().unwrap();
    }
    assert!(inspect::verify_in(&*storage, &mut |_, _| {}).unwrap().is_sound());
    // What is removed now is taken out of them, into containers of today.
    let store = options().open_storage(storage.clone()).unwrap();
    store.delete("s-2", Expect::Any).unwrap();
    let before: Vec<String> = shown(&store).iter().map(|event| format!("{event:?}")).collect();
    let report = store.compact(&CompactionOptions::new()).unwrap();
    assert!(report.compacted.len() >= changed && report.removed_events > 100, "{report:?}");
    let after: Vec<String> = shown(&store).iter().map(|event| format!("{event:?}")).collect();
    assert_eq!(before, after);
}
