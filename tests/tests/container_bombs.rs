//! Containers of compacted segments that lie, with every checksum right: frames that hold more or less than is said, foreign and
//! useless dictionaries, tables whose blocks overlap, counts and lengths beyond everything. Each is an error that names the
//! container, or shows what is there, and takes no more memory than the declared caps: measured by a counting allocator.

use std::collections::BTreeSet;
use std::sync::Arc;

use annals::{
    CompactionOptions, Durability, Error, Expect, NewEvent, Options, Query, ReadMode, Reader, Seek, Store, inspect,
};
use annals_format::checksum::{Seed, crc};
use annals_format::compacted::{
    BLOCK_LEN_MAX, BlockTable, COMPACTED_HEADER_LEN, CompactedHeader, DICTIONARY_LEN_MAX, block_entry,
};
use annals_format::manifest::{CompactedEntry, Manifest};
use annals_format::residue::{self, Start};
use annals_tests::container::is_container;
use annals_tests::memory::{Counting, MemoryTaken};
use annals_tests::model::golden::Files;
use annals_tests::sim_disk::SimDisk;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A block, a dictionary and what is made of it, and the store with its disk. A bomb below holds 64 MiB, and the lengths that lie
/// are larger still.
const MEMORY: usize = 8 * BLOCK_LEN_MAX as usize + 4 * DICTIONARY_LEN_MAX as usize + (8 << 20);

/// A container taken apart: what stands in it, whether or not it fits.
#[derive(Clone)]
struct Parts {
    header: CompactedHeader,
    dictionary: Vec<u8>,
    blocks: Vec<Vec<u8>>,
    removed: Vec<u8>,
    /// Entries of the table of blocks, if they are to be others than those of the blocks.
    table: Option<Vec<u8>>,
}

impl Parts {
    fn of(file: &[u8]) -> Self {
        let (header, _) = CompactedHeader::decode(&file[..COMPACTED_HEADER_LEN]).unwrap();
        let of = |range: std::ops::Range<u64>| file[range.start as usize..range.end as usize].to_vec();
        let table = BlockTable::decode(&header, &of(header.block_table())).unwrap();
        let blocks = (0..header.block_count).map(|number| of(table.place(number).unwrap())).collect();
        Self { dictionary: of(header.dictionary()), blocks, removed: of(header.removed_table()), table: None, header }
    }

    fn seed(&self) -> Seed {
        self.header.seed()
    }

    /// Lengths and checksums put right after what was changed.
    fn fit(mut self) -> Self {
        let seed = self.seed();
        let table = self.table.clone().unwrap_or_else(|| {
            let entries = (0..).zip(&self.blocks).map(|(number, block)| block_entry(seed, number, block));
            entries.flatten().collect()
        });
        self.header.dictionary_len = self.dictionary.len() as u32;
        self.header.dictionary_checksum = crc(seed.raw(), &self.dictionary);
        self.header.blocks_checksum = crc(seed.raw(), &table);
        self.header.removed_checksum = crc(seed.raw(), &self.removed);
        let content = self.dictionary.len() + self.blocks.iter().map(Vec::len).sum::<usize>();
        self.header.file_len = (COMPACTED_HEADER_LEN + content + table.len() + self.removed.len()) as u64;
        self.table = Some(table);
        self
    }

    fn bytes(&self) -> (Vec<u8>, u32) {
        let (header, root) = self.header.encode();
        let mut bytes = header.to_vec();
        bytes.extend(&self.dictionary);
        self.blocks.iter().for_each(|block| bytes.extend(block));
        bytes.extend(self.table.as_deref().unwrap_or_default());
        bytes.extend(&self.removed);
        (bytes, root)
    }
}

fn options() -> Options {
    Options::new().segment_bytes_max(256 << 10).ring_bytes(64 << 10).background(false).durability(Durability::Buffered)
}

/// A store with some containers, what `salt` makes of it, closed.
fn sound(salt: u64, mode: ReadMode) -> (Files, BTreeSet<String>) {
    let disk = SimDisk::new();
    let store = options().read_mode(mode).open_storage(Arc::new(disk.clone())).unwrap();
    for number in 0..2_500_u64 {
        let payload = format!("{{\"salt\":{salt},\"number\":{number},\"text\":\"{}\"}}", "words and words ".repeat(20));
        store.append(&format!("s-{}", number % 5), Expect::Any, &[NewEvent::new("T", &payload)]).unwrap();
    }
    store.delete("s-1", Expect::Any).unwrap();
    store.truncate_before("s-2", Expect::Any, annals::Revision::new(60).unwrap()).unwrap();
    let report = store.compact(&CompactionOptions::new().block_bytes(4 << 10)).unwrap();
    assert!(report.compacted.len() > 2, "{report:?}");
    let shown = shown(&store.reader()).unwrap();
    store.close().unwrap();
    (disk.files(), shown)
}

fn shown(reader: &Reader) -> Result<BTreeSet<String>, Error> {
    let mut events = BTreeSet::new();
    for event in reader.read_all(&Query::all(), Seek::Beginning)? {
        let event = event?;
        events.insert(format!("{} {} {:?}", event.position(), event.stream(), event.payload()));
    }
    Ok(events)
}

/// The store with a container as `change` leaves it, which the manifest lists as such.
fn forged(files: &Files, container: &str, change: impl FnOnce(Parts) -> Parts) -> Files {
    let (bytes, root) = change(Parts::of(&files[container])).bytes();
    let mut files = files.clone();
    let number: u64 = container["segment-".len()..][..20].parse().unwrap();
    for (name, manifest) in files.iter_mut().filter(|(name, _)| name.starts_with("manifest-")) {
        let mut decoded = Manifest::decode(manifest).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        for entry in decoded.segments.iter_mut().filter(|entry| entry.number == number) {
            let compacted = entry.compacted.map(|was| CompactedEntry { file_len: bytes.len() as u64, root, ..was });
            entry.compacted = compacted;
        }
        *manifest = decoded.encode();
    }
    files.insert(container.to_owned(), bytes);
    files
}

fn containers(files: &Files) -> Vec<String> {
    files.keys().filter(|name| is_container(name)).cloned().collect()
}

/// Opens and asks in every way; answers whether the container was named by an error, and panics where an event is shown that
/// is not one of `events`, or more memory is taken than is declared.
fn examine(what: &str, files: &Files, container: &str, events: &BTreeSet<String>) -> bool {
    let memory = MemoryTaken::begin();
    let mut is_named = false;
    let mut judge = |error: &Error| match error {
        Error::Corrupt(corrupt) => is_named |= corrupt.file == *container,
        Error::Unsupported { file, .. } => is_named |= file == container,
        Error::NoSpace { .. } => {}
        other => panic!("{what}: {other:?}"),
    };
    for mode in [ReadMode::Mapped, ReadMode::Pread] {
        let disk = SimDisk::from_files(files);
        disk.set_capacity(Some(16 << 20));
        let asked = |reader: &Reader, judge: &mut dyn FnMut(&Error)| {
            let read = reader.read_all(&Query::all(), Seek::Beginning);
            for event in read.into_iter().flatten() {
                match event {
                    Ok(event) => {
                        let event = format!("{} {} {:?}", event.position(), event.stream(), event.payload());
                        assert!(events.contains(&event), "{what}: {event:.60} was invented");
                    }
                    Err(error) => judge(&error),
                }
            }
            for stream in ["s-0", "s-2"] {
                let read = reader.read_stream_back(stream, Seek::End);
                read.into_iter().flatten().for_each(|event| drop(event.map_err(|error| judge(&error))));
            }
        };
        match options().read_mode(mode).open_read_only_storage(Arc::new(disk.clone())) {
            Ok(store) => asked(&store.reader(), &mut judge),
            Err(error) => judge(&error),
        }
        match options().read_mode(mode).open_storage(Arc::new(disk.clone())) {
            Ok(store) => {
                asked(&store.reader(), &mut judge);
                if let Err(error) = store.compact(&CompactionOptions::new()) {
                    judge(&error);
                }
            }
            Err(error) => judge(&error),
        }
    }
    let report = inspect::verify_in(&SimDisk::from_files(files), &mut |_, _| {}).unwrap();
    is_named |= report.findings.iter().any(|finding| finding.file == *container);
    let taken = memory.most();
    assert!(taken < MEMORY, "{what}: {taken} bytes were allocated");
    is_named
}

/// A frame of `len` zeros. One that says nothing of its length, or says `lie`.
fn bomb(len: usize, lie: Option<u64>) -> Vec<u8> {
    let mut frame = zstd::bulk::compress(&vec![0; len], 19).unwrap();
    // Magic, a descriptor, a byte for the window unless the frame is a single segment, then its length in four bytes.
    let descriptor = frame[4];
    assert_eq!((descriptor >> 6, descriptor & 3), (2, 0), "four bytes of length, and no dictionary");
    let at = 5 + usize::from(descriptor & 0x20 == 0);
    if let Some(lie) = lie {
        frame[at..at + 4].copy_from_slice(&(lie as u32).to_le_bytes());
    }
    frame
}

/// What is allocated is counted for all threads: one test at a time.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn a_container_that_lies_is_named_within_the_declared_memory() {
    let _alone = alone();
    let (files, events) = sound(1, ReadMode::Mapped);
    let (foreign, _) = sound(2, ReadMode::Mapped);
    let with_dictionary = |files: &Files| {
        let found = containers(files).into_iter().find(|name| !Parts::of(&files[name]).dictionary.is_empty());
        found.expect("a dictionary is trained where there is enough to learn from")
    };
    let name = with_dictionary(&files);
    let honest = Parts::of(&files[&name]);
    let foreign = Parts::of(&foreign[&with_dictionary(&foreign)]);
    assert!(honest.blocks.len() > 2, "{:?}", honest.header);
    // The way it is made changes nothing.
    assert!(!examine("nothing changed", &forged(&files, &name, Parts::fit), &name, &events));
    let block_len = honest.header.block_len as usize;
    let with_block = |number: usize, block: Vec<u8>| {
        let mut parts = honest.clone();
        // A frame stands behind the head of a residue.
        let mut head = Vec::new();
        if block.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            residue::take_out(&mut vec![0; block_len], Start::default(), parts.seed(), &mut head);
        }
        parts.blocks[number] = [head, block].concat();
        parts.fit()
    };
    let mut cases: Vec<(&str, Parts)> = vec![
        ("a frame of 64 MiB", with_block(1, bomb(64 << 20, None))),
        ("a frame of 64 MiB that says it is a block", with_block(1, bomb(64 << 20, Some(block_len as u64)))),
        ("a frame of 64 MiB that says it is 4 GiB", with_block(0, bomb(64 << 20, Some(u64::from(u32::MAX))))),
        ("a frame of a block that says it is 2 GiB", with_block(1, bomb(block_len.max(70_000), Some(1 << 31)))),
        ("a frame that holds too little", with_block(1, zstd::bulk::compress(&vec![7; block_len - 1], 3).unwrap())),
        ("a frame that holds too much", with_block(1, zstd::bulk::compress(&vec![7; block_len + 1], 3).unwrap())),
        ("half a frame", with_block(1, honest.blocks[1][..honest.blocks[1].len() / 2].to_vec())),
        ("no frame", with_block(1, b"this is no frame of zstd at all".to_vec())),
        ("zeros of the right length", with_block(1, vec![0; block_len])),
        ("a block of another store", with_block(1, foreign.blocks[1].clone())),
    ];
    let mut two = honest.clone();
    two.blocks.swap(0, 1);
    cases.push(("blocks swapped, and the table with them", two.fit()));
    let mut garbage = honest.clone();
    garbage.dictionary = (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    cases.push(("a dictionary of noise", garbage.fit()));
    let mut magic = honest.clone();
    magic.dictionary = [&[0x37, 0xA4, 0x30, 0xEC][..], &[0xff; 300]].concat();
    cases.push(("a dictionary that claims to be one", magic.fit()));
    let mut none = honest.clone();
    none.dictionary.clear();
    cases.push(("no dictionary where one is needed", none.fit()));
    let mut other = honest.clone();
    other.dictionary.clone_from(&foreign.dictionary);
    cases.push(("the dictionary of another store", other.fit()));
    let mut theirs = foreign.clone();
    theirs.header.identity = honest.header.identity;
    theirs.header.generation = honest.header.generation;
    cases.push(("the container of another store, under this one's name", theirs.fit()));
    // The table: overlapping, empty, too long.
    let entries = |change: &dyn Fn(usize, &mut [u8])| {
        let mut parts = honest.clone().fit();
        let mut table = parts.table.take().unwrap();
        table.chunks_exact_mut(8).enumerate().for_each(|(number, entry)| change(number, entry));
        Parts { table: Some(table), ..parts }.fit()
    };
    let len_of = |len: u32| {
        move |number: usize, entry: &mut [u8]| {
            if number == 1 {
                entry[..4].copy_from_slice(&len.to_le_bytes());
            }
        }
    };
    cases.push(("a block of no bytes", entries(&len_of(0))));
    cases.push(("a block longer than what it holds", entries(&len_of(block_len as u32 + 1))));
    cases.push(("a block of 4 GiB", entries(&len_of(u32::MAX))));
    cases.push((
        "blocks that overlap",
        entries(&|number, entry: &mut [u8]| {
            let len = u32::from_le_bytes(*entry.first_chunk().unwrap());
            entry[..4].copy_from_slice(&(if number == 0 { len + 1 } else { len }).to_le_bytes());
        }),
    ));
    for (what, parts) in cases {
        let forged = forged(&files, &name, |_| parts);
        assert!(examine(what, &forged, &name, &events), "{what}: nobody named {name}");
    }
}

#[test]
fn every_number_of_a_containers_header_at_its_extremes_is_bounded() {
    let _alone = alone();
    let (files, events) = sound(1, ReadMode::Mapped);
    let name = containers(&files)[0].clone();
    let extremes = [0, 1, (1_u64 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 55) - 4096, 1 << 55, u64::MAX];
    type Set = fn(&mut CompactedHeader, u64);
    let set: [(&str, Set); 11] = [
        ("segment length", |header, number| header.segment_len = number & !4095),
        ("bytes held", |header, number| header.stored_len = number),
        ("bytes held, with blocks for them", |header, number| {
            header.segment_len = (number & !4095).max(4096);
            header.stored_len = header.segment_len;
            header.block_len = BLOCK_LEN_MAX;
            header.block_count = header.stored_len.div_ceil(u64::from(BLOCK_LEN_MAX)) as u32;
        }),
        ("file length", |header, number| header.file_len = number),
        ("block length", |header, number| header.block_len = number as u32),
        ("number of blocks", |header, number| header.block_count = number as u32),
        ("dictionary length", |header, number| header.dictionary_len = number as u32),
        ("number of removed", |header, number| header.removed_count = number as u32),
        ("number of removed, with room for them", |header, number| {
            header.removed_count = number as u32;
            header.file_len = header.file_len.saturating_add((number as u32 as u64) * 64);
        }),
        ("generation", |header, number| header.generation = number),
        ("checksums", |header, number| {
            (header.final_checksum, header.content_checksum) = (number as u32, !number as u32);
        }),
    ];
    let mut named = 0;
    for (what, change) in set {
        for number in extremes {
            let forged = forged(&files, &name, |mut parts| {
                parts = parts.fit();
                change(&mut parts.header, number);
                parts
            });
            named += u64::from(examine(&format!("{what} {number:#x}"), &forged, &name, &events));
        }
    }
    assert!(named > 70, "{named} of 99 were named");
}

/// Files cut anywhere, and of another container: what the manifest lists is what is there.
#[test]
fn a_container_that_is_cut_or_exchanged_is_named() {
    let _alone = alone();
    let (files, events) = sound(1, ReadMode::Mapped);
    let names = containers(&files);
    let name = &names[0];
    let len = files[name].len();
    for cut in [0, 1, 20, COMPACTED_HEADER_LEN - 1, COMPACTED_HEADER_LEN, len / 3, len / 2, len - 1] {
        let mut files = files.clone();
        files.get_mut(name).unwrap().truncate(cut);
        assert!(examine(&format!("cut to {cut}"), &files, name, &events), "cut to {cut}");
    }
    let mut exchanged = files.clone();
    exchanged.insert(name.clone(), files[&names[1]].clone());
    assert!(examine("another container", &exchanged, name, &events));
    let store: Result<Store, Error> = options().open_storage(Arc::new(SimDisk::from_files(&files)));
    assert_eq!(shown(&store.unwrap().reader()).unwrap(), events);
}
