//! Index of a sealed segment: one file, mapped, checked once, looked up without decoding.

mod building;
mod key_starts;

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use annals_format::Fault;
use annals_format::index::u32_le;
use annals_format::index::{self, ArchivedIndexRoot, INDEX_HEADER_LEN, IndexBytes, IndexHeader};
use annals_format::index_file::{Sink, WriteError};
use annals_format::manifest::SegmentEntry;

use crate::Result;
use crate::cursor::Run;
use crate::error::Error;
use crate::log::Log;
use crate::name::NameHash;
use crate::once::OnceLock;
use crate::options::ReadMode;
use crate::place_table::PlaceTable;
use crate::places_file;
use crate::prefetch::prefetch;
use crate::prepare::{index_name, no_room};
use crate::segment::{Segment, SegmentIndex};
use crate::storage::{Access, Fill, Map, Storage, StorageFile};
use crate::tiers::{Halt, Step, TierSink};

use building::Building;
use key_starts::KeyStarts;

/// Larger than the index of any segment; rkyv's relative pointers end there.
const INDEX_LEN_MAX: u64 = 1 << 31;

#[derive(Debug)]
pub(crate) struct SealedIndex {
    name: String,
    map: Map,
    key_starts: OnceLock<KeyStarts>,
    /// Its file stands beside its place: whoever opens the store does not look at it.
    is_beside: AtomicBool,
}

impl SealedIndex {
    /// Makes the index file of an ended segment from its index in memory, and opens it. Takes some 50 bytes of memory a
    /// record at most, beside the index.
    pub(crate) fn build(storage: &dyn Storage, log: &Log, hash: NameHash, segment: &Segment) -> Result<Self> {
        let index = Self::build_beside(storage, log, hash, segment)?;
        index.put_in_place(storage)?;
        Ok(index)
    }

    /// The same beside its place, synced: for a segment that is not durable itself yet, so that the index in memory can be
    /// let go of.
    pub(crate) fn build_beside(storage: &dyn Storage, log: &Log, hash: NameHash, segment: &Segment) -> Result<Self> {
        let expected = Self::header_of(hash, segment);
        let place = index_name(expected.segment);
        let name = beside(&place);
        with_building(log, hash, segment, |building| write_file(storage, &name, &expected, building)).inspect_err(
            |_| {
                // The first error is the one to tell.
                let _ = storage.remove(&name);
            },
        )?;
        let file = storage.open(&name, Access::Read).map_err(Error::io("open", &name))?;
        let map = match segment.read_mode() {
            // What was just written need not be verified, but it is long and shall not stay in memory twice.
            ReadMode::Mapped => file.map().map_err(Error::io("map", &name))?,
            ReadMode::Pread => {
                let mut bytes = vec![0; file.len_when_opened().map_err(Error::io("measure", &name))? as usize];
                let got = file.read_at(0, &mut bytes).map_err(Error::io("read", &name))?;
                bytes.truncate(got);
                index::open(Map::from(&bytes[..]).as_ref())
                    .map_err(|fault| Error::damaged(&name, 0, None, &fault, 0))?;
                Map::from(bytes)
            }
        };
        Ok(Self { name: place, map, key_starts: OnceLock::new(), is_beside: AtomicBool::new(true) })
    }

    /// Puts the file in its place, if it stands beside: the segment is durable now. The directory is not synced: an index that
    /// is lost is made anew.
    ///
    /// # Errors
    /// `Io`; what is read of it stays right.
    pub(crate) fn put_in_place(&self, storage: &dyn Storage) -> Result<()> {
        if !self.is_beside.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        storage.rename(&beside(&self.name), &self.name).map_err(Error::io("rename", &self.name))
    }

    /// Whether its file waits to be [put in its place](SealedIndex::put_in_place).
    pub(crate) fn is_beside(&self) -> bool {
        self.is_beside.load(Ordering::Relaxed)
    }

    /// What the index file of an ended segment holds, from its index in memory.
    pub(crate) fn encoded(log: &Log, hash: NameHash, segment: &Segment) -> Result<(IndexHeader, IndexBytes)> {
        let expected = Self::header_of(hash, segment);
        let mut bytes = IndexBytes::new();
        bytes.resize(INDEX_HEADER_LEN, 0);
        with_building(log, hash, segment, |building| {
            let written = building.write(expected.clone(), Collected(&mut bytes));
            let (finished, _) = written
                .map_err(WriteError::into_fault)
                .map_err(|fault| Error::damaged(&index_name(expected.segment), 0, None, &fault, 0))?;
            bytes[..INDEX_HEADER_LEN].copy_from_slice(&finished.header[..]);
            Ok(())
        })?;
        Ok((expected, bytes))
    }

    fn header_of(hash: NameHash, segment: &Segment) -> IndexHeader {
        let closing = segment.closing().expect("only an ended segment is sealed");
        IndexHeader {
            store: segment.header.identity.store,
            segment: segment.header.identity.segment,
            generation: CONTENT_GENERATION,
            final_checksum: closing.tally.final_checksum.value(),
            name_hash_seed: hash.seed,
        }
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

    /// Hashes of all keys.
    pub(crate) fn keys(&self) -> Option<impl ExactSizeIterator<Item = u64>> {
        self.root().ok().map(|root| root.key_hashes())
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

/// What a [`look`] at an index file found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Looked {
    /// It is what [`load`] would take, or was made by a later version.
    Sound,
    /// Not all of it is in memory, or it cannot be read just now.
    Unseen,
    /// It is missing or damaged.
    Unsound,
}

/// Verifies the index file of a listed segment as [`load`] does, if it is in memory. Keeps nothing of it.
pub(crate) fn look(storage: &dyn Storage, entry: &SegmentEntry, hash: NameHash) -> Looked {
    let name = index_name(entry.number);
    let file = match storage.open(&name, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Looked::Unsound,
        Err(_) => return Looked::Unseen,
    };
    let Ok(len) = file.len_when_opened() else { return Looked::Unseen };
    if len > INDEX_LEN_MAX {
        return Looked::Unsound;
    }
    let mut bytes = vec![0; len as usize];
    if len > 0 && !file.read_resident_at(0, &mut bytes).unwrap_or(false) {
        return Looked::Unseen;
    }
    let fault = if IndexFile::kind(&bytes) == Some(IndexFile::Places) {
        places_file::verified(&bytes, entry, hash).err()
    } else {
        match index::open(&Map::from(bytes)) {
            Ok((header, _)) if header == header_of(entry, hash) => None,
            Ok(_) => return Looked::Unsound,
            Err(fault) => Some(fault),
        }
    };
    match fault {
        None | Some(Fault::Unsupported { .. }) => Looked::Sound,
        Some(_) => Looked::Unsound,
    }
}

/// What the header of a whole index must say.
fn header_of(entry: &SegmentEntry, hash: NameHash) -> IndexHeader {
    IndexHeader {
        store: entry.store,
        segment: entry.number,
        generation: CONTENT_GENERATION,
        final_checksum: entry.final_checksum,
        name_hash_seed: hash.seed,
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
    if header != header_of(entry, hash) {
        return Err(Error::corrupt(&name, 32, None, "the index is that of another segment"));
    }
    let map = map(read)?;
    let (key_starts, is_beside) = (OnceLock::new(), AtomicBool::new(false));
    Ok(SegmentIndex::Sealed(Arc::new(SealedIndex { name, map, key_starts, is_beside })))
}

/// Calls `write` with what an ended segment's index in memory gives.
fn with_building<T>(
    log: &Log,
    hash: NameHash,
    segment: &Segment,
    write: impl FnOnce(&mut Building<'_>) -> Result<T>,
) -> Result<T> {
    match &segment.opened()?.index {
        SegmentIndex::Active(index) => write(&mut Building::new(segment, log, hash, index)?),
        SegmentIndex::Sealed(_) | SegmentIndex::Places(_) | SegmentIndex::Unread => {
            let name = index_name(segment.header.identity.segment);
            Err(Error::corrupt(&name, 0, None, "the segment has an index already"))
        }
    }
}

/// Where a file is written before it is put in its place.
fn beside(name: &str) -> String {
    format!("{name}.new")
}

/// Writes a file in pieces, and syncs it.
fn write_file(storage: &dyn Storage, name: &str, header: &IndexHeader, building: &mut Building<'_>) -> Result<()> {
    let (never, mut pace) = (AtomicBool::new(false), |_| {});
    let len = building.file_len();
    let mut write = || -> Step<()> {
        let failed = |error| WriteError::Sink(Halt::Failed(error));
        let sink = TierSink::create_behind(INDEX_HEADER_LEN, storage, (name, len), &mut pace, &never);
        let (finished, sink) = building.write(header.clone(), sink.map_err(failed)?)?;
        if finished.len != len {
            return Err(Fault::Length { what: "length of an index", value: finished.len }.into());
        }
        sink.finish_with(&finished.header[..]).map_err(WriteError::Sink)
    };
    write().map_err(|error| match error {
        WriteError::Sink(Halt::Failed(error)) => error,
        WriteError::Format(fault) => Error::damaged(name, 0, None, &fault, 0),
        _ => Error::corrupt(name, 0, None, "the index cannot be written"),
    })
}

/// Bytes of a file written in one call.
const PIECE: usize = 128 << 10;

/// A file in memory.
struct Collected<'a>(&'a mut IndexBytes);

impl Sink for Collected<'_> {
    type Error = std::convert::Infallible;

    fn take(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Writes beside, syncs, renames. The directory is not synced: an index that is lost is made anew.
pub(crate) fn replace(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<()> {
    let beside = beside(name);
    let _ = storage.remove(&beside);
    let file = storage.create(&beside, bytes.len() as u64, Fill::Allocated).map_err(|error| no_room(&beside, error))?;
    // In pieces: nobody else gets this processor while the system copies one.
    for (piece, at) in bytes.chunks(PIECE).zip((0..).step_by(PIECE)) {
        file.write_at(at, &[IoSlice::new(piece)]).map_err(Error::io("write", &beside))?;
    }
    file.sync().map_err(Error::io("sync", &beside))?;
    storage.rename(&beside, name).map_err(Error::io("rename", name))
}
