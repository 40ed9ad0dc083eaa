//! Compacted segments as whoever reads sees them: the bytes of the segment at its own offsets, out of a container.
//!
//! Nothing that points into a segment changes when it is compacted, so everything above asks as before. Where readers ask a
//! [`Segment`](crate::segment::Segment) for a window, they get a block, decompressed; where a segment is read by ordinary
//! calls (checking, backups, indexes made anew), the container passes for a file that holds the segment ([`open_segment_file`]).

mod block_cache;
mod codec;
mod dictionary;

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals_format::Fault;
use annals_format::compacted::{BlockTable, COMPACTED_HEADER_LEN, CompactedHeader, Encoding, RemovedTable};
use annals_format::manifest::SegmentEntry;
use annals_format::residue::Head;

use crate::Result;
use crate::error::Error;
use crate::once::OnceLock;
use crate::options::ReadMode;
use crate::prepare::{is_container_name, segment_file_name};
use crate::read::UsedCopies;
use crate::segment::Window;
use crate::storage::{Access, Map, SharedMap, Storage, StorageFile};

pub(crate) use block_cache::BlockCache;
pub(crate) use codec::Compressor;
pub(crate) use dictionary::gather;

/// The file that holds a segment's bytes, at their offsets: the segment's own, or its container.
///
/// # Errors
/// Those of the storage; a container that is damaged answers an error that holds ours, which [`Error::io`] brings back.
pub(crate) fn open_segment_file(storage: &dyn Storage, name: &str) -> io::Result<Arc<dyn StorageFile>> {
    if !is_container_name(name) {
        return storage.open(name, Access::Read);
    }
    match Container::open(storage, name, ReadMode::Pread, None) {
        Ok(container) => Ok(Arc::new(container)),
        Err(error) => Err(as_io(error)),
    }
}

/// As [`open_segment_file`], the whole content up to `len_max`: of a container as far as batches and end mark go.
pub(crate) fn read_whole_segment(storage: &dyn Storage, name: &str, len_max: u64) -> Result<Vec<u8>> {
    if !is_container_name(name) {
        return crate::manifest::read_whole(storage, name, len_max);
    }
    let container = Container::open(storage, name, ReadMode::Pread, None)?;
    let len = container.header.segment_len;
    if len > len_max {
        return Err(container.wrong(0, format!("the segment is {len} bytes long")));
    }
    let mut bytes = vec![0; len as usize];
    container.read(0, &mut bytes)?;
    Ok(bytes)
}

fn as_io(error: Error) -> io::Error {
    match error {
        Error::Io { source, .. } => source,
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

/// Where the container's bytes are read.
#[derive(Debug)]
enum Source {
    Map(Map),
    File(Arc<dyn StorageFile>),
}

/// What the blocks are compressed with.
enum Dictionary {
    None,
    Trained(codec::Dictionary),
    /// Raw content, in memory; where the file is mapped it is read there.
    Raw(Vec<u8>),
    RawInMap(Range<u64>),
}

/// A container that is open: header, tables and dictionary verified.
pub(crate) struct Container {
    name: String,
    pub(crate) header: CompactedHeader,
    blocks: BlockTable,
    dictionary: Dictionary,
    source: Source,
    /// Tells its blocks from those of others in the cache.
    number: u64,
    removed: OnceLock<RemovedTable>,
    cache: Option<Arc<BlockCache>>,
}

static CONTAINERS: AtomicU64 = AtomicU64::new(0);

impl Container {
    /// Opens a container and verifies header, dictionary and table of blocks; that it is the one of `entry`, if that is
    /// given, by its root.
    pub(crate) fn open(
        storage: &dyn Storage,
        name: &str,
        mode: ReadMode,
        entry: Option<&SegmentEntry>,
    ) -> Result<Self> {
        let file = storage.open(name, Access::Read).map_err(Error::io("open", name))?;
        Self::of_file(file, name, mode, entry)
    }

    /// As [`Container::open`], of a file wherever it lies.
    pub(crate) fn of_file(
        file: Arc<dyn StorageFile>,
        name: &str,
        mode: ReadMode,
        entry: Option<&SegmentEntry>,
    ) -> Result<Self> {
        let damaged = |at: u64| move |fault: Fault| Error::damaged(name, at, None, &fault, 0);
        let read = |range: Range<u64>| -> Result<Vec<u8>> {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let got = file.read_at(range.start, &mut bytes).map_err(Error::io("read", name))?;
            bytes.truncate(got);
            Ok(bytes)
        };
        let len = file.len().map_err(Error::io("measure", name))?;
        let head = read(0..len.min(COMPACTED_HEADER_LEN as u64))?;
        let (header, root) = CompactedHeader::decode_for(&head, annals_format::Purpose::Read).map_err(damaged(0))?;
        // A hard link in a backup may be longer; what lies behind is no part of it.
        if len < header.file_len {
            let what = format!("the file is {len} bytes long, its header says {}", header.file_len);
            return Err(Error::corrupt(name, len, None, what));
        }
        if let Some(entry) = entry {
            let identity = (entry.store, entry.incarnation, entry.number, entry.generation);
            let here = &header.identity;
            let is_meant = (here.store, here.incarnation, here.segment, header.generation) == identity
                && header.segment_len == entry.len
                && entry.compacted.is_some_and(|container| (container.root, container.file_len) == (root, len));
            if !is_meant {
                let what = "the container is not the one that the manifest lists";
                return Err(Error::corrupt(name, 0, Some(entry.first_position), what));
            }
        }
        let dictionary = match header.dictionary_len {
            0 => Dictionary::None,
            _ => {
                let at = header.dictionary();
                let bytes = read(at.clone())?;
                header.check_dictionary(&bytes).map_err(damaged(at.start))?;
                let useless = || Error::corrupt(name, at.start, None, "the dictionary cannot be used");
                match (header.encoding, mode) {
                    (Encoding::Zstd, _) => {
                        Dictionary::Trained(codec::Dictionary::for_reading(&bytes).ok_or_else(useless)?)
                    }
                    (Encoding::Residue, ReadMode::Mapped) => Dictionary::RawInMap(at),
                    (Encoding::Residue, ReadMode::Pread) => Dictionary::Raw(bytes),
                }
            }
        };
        let at = header.block_table();
        let blocks = BlockTable::decode(&header, &read(at.clone())?).map_err(damaged(at.start))?;
        let source = match mode {
            ReadMode::Mapped => Source::Map(file.map().map_err(Error::io("map", name))?),
            ReadMode::Pread => Source::File(file),
        };
        Ok(Self {
            name: name.to_owned(),
            header,
            blocks,
            dictionary,
            source,
            number: CONTAINERS.fetch_add(1, Ordering::Relaxed),
            removed: OnceLock::new(),
            cache: None,
        })
    }

    /// The same, sharing what it decompresses.
    pub(crate) fn sharing(self, cache: &Arc<BlockCache>) -> Self {
        Self { cache: Some(cache.clone()), ..self }
    }

    fn wrong(&self, at: u64, what: impl Into<String>) -> Error {
        Error::corrupt(&self.name, at, None, what)
    }

    /// Hands the container's bytes in `range` to `with`.
    fn with_bytes<T>(&self, range: Range<u64>, with: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        thread_local! {
            static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let short = || self.wrong(range.start, "the file ends before its content does");
        match &self.source {
            Source::Map(map) => with(map.get(range.start as usize..range.end as usize).ok_or_else(short)?),
            Source::File(file) => READ.with_borrow_mut(|bytes| {
                let len = (range.end - range.start) as usize;
                bytes.resize(len.max(bytes.len()), 0);
                let bytes = &mut bytes[..len];
                let got = file.read_at(range.start, bytes).map_err(Error::io("read", &self.name))?;
                if got < len { Err(short()) } else { with(bytes) }
            }),
        }
    }

    /// Decompresses a block into `out`, which has exactly the length of what it holds. Answers between which of its bytes the
    /// checksums of frames were made anew; the whole was verified then.
    fn decompress(&self, number: u32, out: &mut [u8]) -> Result<Range<usize>> {
        let place = self.blocks.place(number).ok_or_else(|| self.wrong(0, "there is no such block"))?;
        let at = place.start;
        self.with_bytes(place, |bytes| {
            self.blocks.check(number, bytes).map_err(|fault| Error::damaged(&self.name, at, None, &fault, 0))?;
            if bytes.len() == out.len() {
                out.copy_from_slice(bytes);
                return Ok(0..0);
            }
            if self.header.encoding == Encoding::Zstd {
                let dictionary = match &self.dictionary {
                    Dictionary::Trained(dictionary) => Some(dictionary),
                    _ => None,
                };
                codec::decompress(dictionary, bytes, out).map_err(|what| self.wrong(at, what))?;
                return Ok(0..0);
            }
            let faulty = |fault: Fault| Error::damaged(&self.name, at, None, &fault, 0);
            let (head, residue) = Head::decode(bytes).map_err(faulty)?;
            codec::decompress_with_raw(self.raw_dictionary(), residue, out).map_err(|what| self.wrong(at, what))?;
            head.put_back(out, self.header.seed()).map_err(faulty)
        })
    }

    /// The dictionary's bytes, verified when the container was opened.
    fn raw_dictionary(&self) -> &[u8] {
        match (&self.dictionary, &self.source) {
            (Dictionary::Raw(bytes), _) => bytes,
            (Dictionary::RawInMap(at), Source::Map(map)) => {
                map.get(at.start as usize..at.end as usize).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// A block's content: shared if somebody asked for it lately.
    fn block(&self, number: u32) -> Result<Map> {
        if let Some(map) = self.cache.as_ref().and_then(|cache| cache.get(self.number, number)) {
            return Ok(map);
        }
        let len = self.header.block_content_len(number) as usize;
        let map = filled(len, None, |out| self.decompress(number, out).map(drop))?;
        if let Some(cache) = &self.cache {
            cache.put(self.number, number, map.clone());
        }
        Ok(map)
    }

    fn block_len(&self) -> u64 {
        self.header.block_len.into()
    }

    /// A window that holds at least `offset .. offset + len`, which lies below `stop`.
    pub(crate) fn window(&self, offset: u64, len: u64, stop: u64) -> Result<Window> {
        self.check_range(offset, len)?;
        let stop = stop.min(self.header.stored_len);
        let number = offset / self.block_len();
        let start = number * self.block_len();
        if offset + len <= start + self.block_len() {
            let map = self.block(number as u32)?;
            let end = (start + map.len() as u64).min(stop);
            return Ok(Window::new(map, start, end));
        }
        let map = filled(len as usize, None, |out| self.fill(offset, out))?;
        Ok(Window::new(map, offset, offset + len))
    }

    /// As [`Container::window`], for reading on: `before` may hold the first of these bytes, and `used` memory to serve
    /// again. Nothing is put among the shared blocks, which a scan would drive out.
    pub(crate) fn window_ahead(
        &self,
        offset: u64,
        len: u64,
        stop: u64,
        used: &mut UsedCopies,
        before: Option<&Window>,
    ) -> Result<Window> {
        self.check_range(offset, len)?;
        let stop = stop.min(self.header.stored_len);
        let block_len = self.block_len();
        let ends_a_block =
            |window: &&Window| (window.start..window.end).contains(&offset) && window.end.is_multiple_of(block_len);
        let (start, kept) = match before.filter(ends_a_block) {
            Some(window) => (offset, window.from(offset)),
            None => (offset - offset % block_len, &[][..]),
        };
        let end = (offset + len).next_multiple_of(block_len).max(start + block_len).min(self.header.stored_len);
        let mut sound = 0..0;
        let map = filled((end - start) as usize, used.take(), |out| {
            let (head, rest) = out.split_at_mut(kept.len().min(out.len()));
            head.copy_from_slice(&kept[..head.len()]);
            sound = self.fill_whole(start + head.len() as u64, rest)?;
            Ok(())
        })?;
        Ok(Window::new(map, start, end.min(stop)).with_sound(sound))
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        if len > 0 && offset.checked_add(len).is_some_and(|end| end <= self.header.stored_len) {
            return Ok(());
        }
        Err(self.wrong(0, format!("{len} bytes at {offset} of the segment lie beyond what the container holds")))
    }

    /// Fills `out` with whole blocks; it begins where a block does. Answers between which bytes of the segment frames are sound
    /// in the last one.
    fn fill_whole(&self, offset: u64, out: &mut [u8]) -> Result<Range<u64>> {
        let first = (offset / self.block_len()) as u32;
        let mut sound = 0..0;
        for (number, part) in (first..).zip(out.chunks_mut(self.block_len() as usize)) {
            let start = u64::from(number) * self.block_len();
            let of_block = self.decompress(number, part)?;
            sound = start + of_block.start as u64..start + of_block.end as u64;
        }
        Ok(sound)
    }

    /// Fills `out` with the segment's bytes from `offset` on, all of which are held.
    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let block_len = self.block_len();
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let number = (at / block_len) as u32;
            let skip = (at % block_len) as usize;
            let len = self.header.block_content_len(number) as usize;
            let step = (len - skip).min(out.len() - done);
            let part = &mut out[done..done + step];
            if step == len {
                self.decompress(number, part)?;
            } else {
                let map = self.block(number)?;
                part.copy_from_slice(&map[skip..skip + step]);
            }
            done += step;
        }
        Ok(())
    }

    /// Reads as from the segment's file: what is not held is zeros. Answers how many bytes there were.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize> {
        let there = self.header.segment_len.saturating_sub(offset).min(out.len() as u64) as usize;
        let held = self.header.stored_len.saturating_sub(offset).min(there as u64) as usize;
        let (bytes, zeros) = out[..there].split_at_mut(held);
        self.fill(offset, bytes)?;
        zeros.fill(0);
        Ok(there)
    }

    /// The content hashes of events that were taken out.
    ///
    /// # Errors
    /// `Corrupt` if their table is damaged.
    pub(crate) fn removed(&self) -> Result<&RemovedTable> {
        if let Some(table) = self.removed.get() {
            return Ok(table);
        }
        let at = self.header.removed_table();
        let table = self.with_bytes(at.clone(), |bytes| {
            RemovedTable::decode(&self.header, bytes.to_vec())
                .map_err(|fault| Error::damaged(&self.name, at.start, None, &fault, 0))
        })?;
        Ok(self.removed.get_or_init(|| table))
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("name", &self.name).field("header", &self.header).finish_non_exhaustive()
    }
}

/// `len` bytes as `fill` leaves them, in the memory of `used` if that can serve.
fn filled(len: usize, used: Option<Map>, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Map> {
    let mut outcome = Ok(());
    let map = Map::copied(len, used, |out| outcome = fill(out));
    outcome.map(|()| map)
}

/// The container as the segment's file: for whoever reads a segment by ordinary calls.
impl StorageFile for Container {
    fn len(&self) -> io::Result<u64> {
        Ok(self.header.segment_len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read(offset, buf).map_err(as_io)
    }

    fn write_at(&self, _: u64, _: &[IoSlice<'_>]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "a compacted segment is never written"))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self) -> io::Result<Map> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn map_shared(&self) -> io::Result<SharedMap> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocated(&self) -> io::Result<u64> {
        match &self.source {
            Source::Map(_) => Ok(self.header.file_len),
            Source::File(file) => file.allocated(),
        }
    }
}

/// Name of the file that a listed segment lies in.
pub(crate) fn name_of(entry: &SegmentEntry) -> String {
    segment_file_name(entry.number, entry.generation)
}
