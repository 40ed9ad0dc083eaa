//! Index of a sealed segment: one file, mapped, checked once, looked up without decoding.

mod key_starts;

use std::io::IoSlice;
use std::sync::Arc;

use annals_format::Fault;
use annals_format::index::u32_le;
use annals_format::index::{
    self, ArchivedIndexRoot, BatchRow, IdRow, IndexBytes, IndexHeader, IndexRoot, KeyRow, NameRow,
};
use annals_format::manifest::SegmentEntry;

use crate::Result;
use crate::active_index::{ActiveIndex, StreamInSegment};
use crate::cursor::Run;
use crate::error::Error;
use crate::event::Event;
use crate::log::Log;
use crate::name::{KeyKind, NameHash};
use crate::once::OnceLock;
use crate::options::ReadMode;
use crate::place_table::PlaceTable;
use crate::places_file;
use crate::prefetch::prefetch;
use crate::prepare::{index_name, no_room};
use crate::reader::event_of_record;
use crate::segment::{Segment, SegmentIndex};
use crate::storage::{Access, Fill, Map, Storage, StorageFile};

use key_starts::KeyStarts;

/// Larger than the index of any segment; rkyv's relative pointers end there.
const INDEX_LEN_MAX: u64 = 1 << 31;

#[derive(Debug)]
pub(crate) struct SealedIndex {
    name: String,
    map: Map,
    key_starts: OnceLock<KeyStarts>,
}

impl SealedIndex {
    /// Makes the index file of an ended segment from its index in memory, and opens it.
    pub(crate) fn build(storage: &dyn Storage, log: &Log, hash: NameHash, segment: &Segment) -> Result<Self> {
        let (expected, bytes) = Self::encoded(log, hash, segment)?;
        let name = index_name(expected.segment);
        replace(storage, &name, &bytes)?;
        let map = match segment.read_mode() {
            // What was just written need not be verified, but it is long and shall not stay in memory twice.
            ReadMode::Mapped => {
                let file = storage.open(&name, Access::Read).map_err(Error::io("open", &name))?;
                file.map().map_err(Error::io("map", &name))?
            }
            ReadMode::Pread => Map::from(&bytes[..]),
        };
        Ok(Self { name, map, key_starts: OnceLock::new() })
    }

    /// What the index file of an ended segment holds, from its index in memory.
    pub(crate) fn encoded(log: &Log, hash: NameHash, segment: &Segment) -> Result<(IndexHeader, IndexBytes)> {
        let number = segment.header.identity.segment;
        let name = index_name(number);
        let closing = segment.closing().expect("only an ended segment is sealed");
        let expected = IndexHeader {
            store: segment.header.identity.store,
            segment: number,
            generation: CONTENT_GENERATION,
            final_checksum: closing.tally.final_checksum.value(),
            name_hash_seed: hash.seed,
        };
        let root = match &segment.opened()?.index {
            SegmentIndex::Active(index) => Building { segment, log, hash, index }.root()?,
            SegmentIndex::Sealed(_) | SegmentIndex::Places(_) | SegmentIndex::Unread => {
                return Err(Error::corrupt(&name, 0, None, "the segment has an index already"));
            }
        };
        let bytes = index::encode(&expected, &root).map_err(|fault| Error::damaged(&name, 0, None, &fault, 0))?;
        Ok((expected, bytes))
    }

    fn root(&self) -> Result<&ArchivedIndexRoot> {
        index::access(&self.map).map_err(|fault| Error::damaged(&self.name, 0, None, &fault, 0))
    }

    #[inline]
    fn find_key(&self, key: u64) -> Result<Option<&[u32_le]>> {
        let root = self.root()?;
        let starts = self.key_starts.get_or_init(|| KeyStarts::of(root.key_hashes()));
        Ok(root.find_key_among(starts.rows(key), key))
    }

    /// Begins to load the first that a look-up of this key reads, if one was looked up before; then the second, by what stands
    /// there.
    #[inline]
    pub(crate) fn prefetch_start(&self, key: u64) {
        self.key_starts.get().into_iter().for_each(|starts| prefetch(starts.start(key)));
    }

    #[inline]
    pub(crate) fn prefetch_row(&self, key: u64) {
        if let (Some(starts), Ok(root)) = (self.key_starts.get(), self.root())
            && let Some(row) = root.keys.get(starts.rows(key).start)
        {
            prefetch(row);
        }
    }

    /// All rows, for who goes through them in order.
    pub(crate) fn rows(&self) -> Result<&ArchivedIndexRoot> {
        self.root()
    }

    /// Length of the file.
    pub(crate) fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Where its records lie, for who keeps that at hand.
    pub(crate) fn places(&self) -> Option<PlaceTable> {
        let root = self.root().ok()?;
        let place = |start: *const u8, len: usize| {
            let start = start.addr().checked_sub(self.map[..].as_ptr().addr())?;
            Some(start..start.checked_add(len)?)
        };
        let offsets = place(root.offsets.as_ptr().cast(), size_of_val(root.offsets.as_slice()))?;
        let batches = place(root.batches.as_ptr().cast(), size_of_val(root.batches.as_slice()))?;
        PlaceTable::new(self.map.clone(), offsets, batches)
    }

    /// Records of a key, ascending; none if it is absent.
    pub(crate) fn records(&self, key: u64) -> Result<&[u32_le]> {
        Ok(self.find_key(key)?.unwrap_or_default())
    }

    /// The same, to be kept.
    pub(crate) fn run(&self, key: u64) -> Result<Option<Run>> {
        let Some(records) = self.find_key(key)? else { return Ok(None) };
        let start = records.as_ptr().addr() - self.map[..].as_ptr().addr();
        Ok(Some(Run::new(self.map.clone(), start, records.len())))
    }

    /// The same as numbers to keep.
    pub(crate) fn records_of(&self, key: u64) -> Result<Vec<u32>> {
        Ok(self.find_key(key)?.into_iter().flatten().map(|record| record.to_native()).collect())
    }

    pub(crate) fn by_id(&self, hash: u64) -> Result<Vec<u32>> {
        Ok(self.root()?.find_ids(hash).collect())
    }

    /// Hash and record of every id.
    pub(crate) fn each_id(&self, mut each: impl FnMut(u64, u32)) -> Result<()> {
        self.root()?.ids().for_each(|(hash, record)| each(hash, record));
        Ok(())
    }

    /// Name and first record of streams, by name, as long as `each` answers true; whether it always did.
    pub(crate) fn streams_with_prefix(&self, prefix: &str, mut each: impl FnMut(&str, u32) -> bool) -> Result<bool> {
        for row in self.root()?.streams_from(prefix.as_bytes()) {
            if !each(self.text(row.name)?, row.first) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn each_type(&self, mut each: impl FnMut(&str)) -> Result<()> {
        for row in self.root()?.types_from(b"") {
            each(self.text(row.name)?);
        }
        Ok(())
    }

    fn text<'a>(&self, name: &'a [u8]) -> Result<&'a str> {
        std::str::from_utf8(name).map_err(|_| Error::corrupt(&self.name, 0, None, "a name in the index is not UTF-8"))
    }
}

/// Generation of a segment in the files of its index: compaction moves nothing, so that they stay right.
pub(crate) const CONTENT_GENERATION: u64 = 0;

/// What the index file of a segment holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IndexFile {
    /// Places, keys, ids and names.
    Whole,
    /// Places alone: a tier holds the rest.
    Places,
}

impl IndexFile {
    /// By its first bytes; `None` if it is neither.
    pub(crate) fn kind(bytes: &[u8]) -> Option<Self> {
        match bytes.get(..8)? {
            b"ANNALIDX" => Some(Self::Whole),
            b"ANNALIXF" => Some(Self::Places),
            _ => None,
        }
    }

    /// By what is read of the file.
    pub(crate) fn kind_of(file: &dyn StorageFile, name: &str) -> Result<Option<Self>> {
        let mut magic = [0; 8];
        let got = file.read_at(0, &mut magic).map_err(Error::io("read", name))?;
        Ok(Self::kind(&magic[..got]))
    }
}

/// Opens and verifies the index file of a listed segment, whichever it is. Any error but `Unsupported` means: rebuild it.
pub(crate) fn load(
    storage: &dyn Storage,
    entry: &SegmentEntry,
    mode: ReadMode,
    hash: NameHash,
) -> Result<SegmentIndex> {
    let name = index_name(entry.number);
    let file = storage.open(&name, Access::Read).map_err(Error::io("open", &name))?;
    let len = file.len_when_opened().map_err(Error::io("measure", &name))?;
    if len > INDEX_LEN_MAX {
        return Err(Error::corrupt(&name, INDEX_LEN_MAX, None, format!("the file is {len} bytes long")));
    }
    // Read by ordinary calls to be verified: a block that cannot be read is an error here, and not a signal.
    let mut bytes = vec![0; len as usize];
    let got = file.read_at(0, &mut bytes).map_err(Error::io("read", &name))?;
    bytes.truncate(got);
    let read = Map::from(bytes);
    let damaged = |fault| Error::damaged(&name, 0, None, &fault, 0);
    let map = |read: Map| match mode {
        ReadMode::Mapped => file.map().map_err(Error::io("map", &name)),
        ReadMode::Pread => Ok(read),
    };
    if IndexFile::kind(&read) == Some(IndexFile::Places) {
        let layout = places_file::verified(&read, entry, hash).map_err(damaged)?;
        let table = places_file::table(map(read)?, &layout);
        return table.map(SegmentIndex::Places).ok_or_else(|| damaged(Fault::Structure { what: "archive" }));
    }
    let (header, _) = index::open(&read).map_err(damaged)?;
    let expected = IndexHeader {
        store: entry.store,
        segment: entry.number,
        generation: CONTENT_GENERATION,
        final_checksum: entry.final_checksum,
        name_hash_seed: hash.seed,
    };
    if header != expected {
        return Err(Error::corrupt(&name, 32, None, "the index is that of another segment"));
    }
    let map = map(read)?;
    Ok(SegmentIndex::Sealed(Arc::new(SealedIndex { name, map, key_starts: OnceLock::new() })))
}

/// Writes beside, syncs, renames. The directory is not synced: an index that is lost is made anew.
pub(crate) fn replace(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<()> {
    let beside = format!("{name}.new");
    let _ = storage.remove(&beside);
    let file = storage.create(&beside, bytes.len() as u64, Fill::Allocated).map_err(|error| no_room(&beside, error))?;
    file.write_at(0, &[IoSlice::new(bytes)]).map_err(Error::io("write", &beside))?;
    file.sync().map_err(Error::io("sync", &beside))?;
    storage.rename(&beside, name).map_err(Error::io("rename", name))
}

/// Turns the index in memory into the arrays of the file.
struct Building<'a> {
    segment: &'a Segment,
    log: &'a Log,
    hash: NameHash,
    index: &'a ActiveIndex,
}

impl Building<'_> {
    fn root(&self) -> Result<IndexRoot> {
        let mut root = IndexRoot { first_position: self.segment.first_position(), ..IndexRoot::default() };
        self.put_places(&mut root);
        self.put_keys(&mut root);
        self.put_ids(&mut root);
        self.put_names(&mut root)?;
        Ok(root)
    }

    fn put_places(&self, root: &mut IndexRoot) {
        let mut batch_at = 0;
        root.offsets.reserve(self.index.record_count() as usize);
        for (record, (place, recorded_at)) in self.index.places().enumerate() {
            root.offsets.push((place.frame / 8) as u32);
            if place.batch != batch_at {
                batch_at = place.batch;
                root.batches.push(BatchRow { first: record as u32, offset: (batch_at / 8) as u32, recorded_at });
            }
        }
        root.first_time = root.batches.first().map_or(0, |batch| batch.recorded_at);
        root.last_time = root.batches.last().map_or(0, |batch| batch.recorded_at);
    }

    fn put_keys(&self, root: &mut IndexRoot) {
        let mut keys = self.index.keys();
        keys.sort_unstable_by_key(|(hash, _, _)| *hash);
        root.keys.reserve(keys.len());
        root.postings.reserve(keys.iter().map(|(_, _, count)| *count as usize).sum());
        // Keys of two kinds that share a hash share a row: what is found by it is looked at in any case.
        for of_hash in keys.chunk_by(|left, right| left.0 == right.0) {
            let start = root.postings.len();
            for (hash, kind, _) in of_hash {
                root.postings.extend(self.index.postings(*kind, *hash));
            }
            root.postings[start..].reverse();
            if of_hash.len() > 1 {
                root.postings[start..].sort_unstable();
            }
            let count = (root.postings.len() - start) as u32;
            root.keys.push(KeyRow { hash: of_hash[0].0, start: start as u32, count });
        }
    }

    fn put_ids(&self, root: &mut IndexRoot) {
        root.ids.reserve(self.index.record_count() as usize);
        let rows = (0..).zip(self.index.id_hashes()).filter(|(_, hash)| *hash != 0);
        root.ids.extend(rows.map(|(record, hash)| IdRow { hash, position: record, reserved: 0 }));
        // Stable: rows of one hash stay in the order of their records.
        radsort::sort_by_key(&mut root.ids, |row| row.hash);
    }

    fn put_names(&self, root: &mut IndexRoot) -> Result<()> {
        let types: Vec<u32> = self.index.type_firsts().collect();
        root.streams = match self.index.streams() {
            Some(mut streams) => {
                streams.sort_unstable();
                streams.iter().map(|stream| stream_row(stream, &mut root.names)).collect()
            }
            None => {
                let firsts: Vec<u32> = self.index.stream_firsts().collect();
                self.name_rows(&firsts, KeyKind::Stream, &mut root.names)?
            }
        };
        root.types = self.name_rows(&types, KeyKind::Type, &mut root.names)?;
        Ok(())
    }

    fn name_rows(&self, firsts: &[u32], kind: KeyKind, names: &mut Vec<u8>) -> Result<Vec<NameRow>> {
        let name_of = |event: &Event| match kind {
            KeyKind::Stream => event.stream().to_owned(),
            _ => event.event_type().to_owned(),
        };
        let mut found = Vec::with_capacity(firsts.len());
        for first in firsts {
            let Some(event) = event_of_record(self.segment, self.log, *first)? else { continue };
            let name = name_of(&event);
            // Names that share a hash share postings: the newest one of this name is looked for.
            for newest in self.index.postings(kind, self.hash.key(kind, &name)) {
                let Some(last) = event_of_record(self.segment, self.log, newest)? else { continue };
                if name_of(&last) == name {
                    let last_revision = if kind == KeyKind::Stream { last.revision().get() } else { 0 };
                    found.push((name, last_revision, *first, newest));
                    break;
                }
            }
        }
        found.sort_unstable();
        // A stream that was forgotten and began again was met twice.
        found.dedup_by(|next, before| next.0 == before.0);
        let rows = found.into_iter().map(|(name, last_revision, first, last)| {
            let offset = names.len() as u32;
            names.extend_from_slice(name.as_bytes());
            NameRow { offset, len: name.len() as u32, last_revision, first, last }
        });
        Ok(rows.collect())
    }
}

fn stream_row(stream: &StreamInSegment<'_>, names: &mut Vec<u8>) -> NameRow {
    let offset = names.len() as u32;
    names.extend_from_slice(stream.name);
    NameRow {
        offset,
        len: stream.name.len() as u32,
        last_revision: stream.last_revision,
        first: stream.first,
        last: stream.last,
    }
}
