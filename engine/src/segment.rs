//! One segment as readers and writer share it: its file, its map, its index, its end.
//!
//! A segment that the manifest lists costs nothing until somebody reads it: then its files are opened and checked, and
//! kept until too many are open. The one that is written, and those not yet listed, stay open.

mod cache;
mod found;
mod opened;
mod tally;

use std::io;
use std::sync::Arc;

use annals_format::Purpose;
use annals_format::batch::BatchHeader;
use annals_format::checksum::{Identity, Seed};
use annals_format::manifest::SegmentEntry;
use annals_format::record;
use annals_format::segment::SegmentHeader;

use crate::Result;
use crate::active_index::Place;
use crate::error::Error;
use crate::log::Log;
use crate::once::OnceLock;
use crate::options::ReadMode;
use crate::place_table::PlaceTable;
use crate::prefetch::prefetch;
use crate::read::UsedCopies;
use crate::storage::{Map, StorageFile};

use cache::Slot;

pub(crate) use cache::{Rebuild, SegmentCache};
pub(crate) use found::Found;
pub(crate) use opened::{Opened, OpenedGuard, SegmentIndex, Window};
pub(crate) use tally::{BatchFacts, Closing, RunningTally, Tally};

/// Length of a cache line, and how many of a record are asked for ahead: the processor goes on by itself from there.
const LINE: u64 = 64;
const RECORD_LINES: u64 = 6;

/// How much of the ring whoever reads on copies at once, at most.
const RING_AHEAD: u64 = 64 << 10;

/// An offset that no segment reaches: the end of one that is still written.
const OPEN_END: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Segment {
    /// Of a listed segment what the manifest says: base, link, time and version are not known.
    pub(crate) header: SegmentHeader,
    pub(crate) seed: Seed,
    pub(crate) name: String,
    mode: ReadMode,
    slot: Arc<Slot>,
    /// How to open it again; from then on it may be let go of.
    listed: OnceLock<Listed>,
    closing: OnceLock<Closing>,
    /// Log offset of the file's first byte, if this opening writes or wrote the segment. `None`: all is in the file.
    base: Option<u64>,
    /// Read-only openings: bytes from this offset on, which the file does not hold yet.
    tail: Option<(u64, Map)>,
}

/// What the manifest says of a segment, and who opens it.
#[derive(Debug)]
struct Listed {
    entry: SegmentEntry,
    cache: Arc<SegmentCache>,
}

impl Segment {
    /// A segment whose file is open; it stays so until [`Segment::enlist`].
    pub(crate) fn new(
        header: SegmentHeader,
        name: String,
        file: Arc<dyn StorageFile>,
        mode: ReadMode,
        index: SegmentIndex,
    ) -> Result<Self> {
        let opened = Opened::new(&name, file, mode, index, header.written_by)?;
        Ok(Self::in_slot(header, name, mode, Slot::holding(Arc::new(opened))))
    }

    /// A segment that the manifest lists. Its files are opened and checked at first touch.
    pub(crate) fn listed(entry: &SegmentEntry, name: String, cache: &Arc<SegmentCache>) -> Self {
        Self::listed_in(Self::header_listed(entry), entry, name, cache, Slot::default())
    }

    fn header_listed(entry: &SegmentEntry) -> SegmentHeader {
        let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
        SegmentHeader {
            identity,
            // That of what it holds, which compaction does not change.
            generation: 0,
            manifest_generation: 0,
            segment_len: entry.len,
            base: 0,
            first_position: entry.first_position,
            previous: None,
            created_at: 0,
            written_by: 0,
            kind: entry.kind,
        }
    }

    /// A segment that the manifest lists in the place of this one, with the same content: the two do not write their index
    /// file at once.
    pub(crate) fn replaced_by(&self, entry: &SegmentEntry, name: String, cache: &Arc<SegmentCache>) -> Self {
        Self::listed_in(Self::header_listed(entry), entry, name, cache, self.slot.successor())
    }

    fn listed_in(
        header: SegmentHeader,
        entry: &SegmentEntry,
        name: String,
        cache: &Arc<SegmentCache>,
        slot: Slot,
    ) -> Self {
        let segment = Self::in_slot(header, name, cache.read_mode(), slot);
        segment.close(Closing::listed(entry));
        let _ = segment.listed.set(Listed { entry: entry.clone(), cache: cache.clone() });
        segment
    }

    /// The same ended segment with what is open of it, which nobody lets go of: for whoever makes something of it while it is
    /// opened, and so must not open it again.
    pub(crate) fn apart(&self, opened: Arc<Opened>) -> Self {
        let apart = Self::in_slot(self.header.clone(), self.name.clone(), self.mode, Slot::holding(opened));
        if let Some(closing) = self.closing() {
            apart.close(*closing);
        }
        apart
    }

    fn in_slot(header: SegmentHeader, name: String, mode: ReadMode, slot: Slot) -> Self {
        Self {
            seed: header.seed(),
            header,
            name,
            mode,
            slot: Arc::new(slot),
            listed: OnceLock::new(),
            closing: OnceLock::new(),
            base: None,
            tail: None,
        }
    }

    /// The manifest lists the segment now, all of it is durable: it may be let go of, and opened again.
    pub(crate) fn enlist(&self, entry: &SegmentEntry, cache: &Arc<SegmentCache>) {
        if self.listed.set(Listed { entry: entry.clone(), cache: cache.clone() }).is_ok() {
            self.slot.change(|opened| opened.clone().without_file());
            cache.admit(&self.slot);
        }
    }

    /// As [`Segment::enlist`], and lets go of it: the next touch opens it, with the index that stands beside by now.
    pub(crate) fn enlist_and_release(&self, entry: &SegmentEntry, cache: &Arc<SegmentCache>) {
        if self.listed.set(Listed { entry: entry.clone(), cache: cache.clone() }).is_ok() {
            self.slot.release();
        }
    }

    /// Whether it may be let go of and is opened at first touch.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed.get().is_some()
    }

    /// What the manifest says of it, once it is listed.
    pub(crate) fn entry(&self) -> Option<&SegmentEntry> {
        self.listed.get().map(|listed| &listed.entry)
    }

    /// A segment that this opening writes: its newest bytes may be in the ring.
    pub(crate) fn written_here(mut self) -> Self {
        self.base = Some(self.header.base);
        self
    }

    pub(crate) fn with_tail(mut self, offset: u64, bytes: Vec<u8>) -> Self {
        self.tail = Some((offset, Map::from(bytes)));
        self
    }

    /// The same segment after it has grown: file, map and index are shared, the end is another.
    pub(crate) fn grown(&self, closing: Closing, tail: Option<(u64, Vec<u8>)>) -> Self {
        Self {
            header: self.header.clone(),
            seed: self.seed,
            name: self.name.clone(),
            mode: self.mode,
            slot: self.slot.clone(),
            listed: OnceLock::new(),
            closing: OnceLock::from(closing),
            base: self.base,
            tail: tail.map(|(offset, bytes)| (offset, Map::from(bytes))),
        }
    }

    /// Read-only openings: offset and bytes of what the file did not hold when it was looked at.
    pub(crate) fn tail(&self) -> Option<(u64, &[u8])> {
        self.tail.as_ref().map(|(offset, map)| (*offset, &map[..]))
    }

    /// How its bytes are read.
    pub(crate) fn read_mode(&self) -> ReadMode {
        self.mode
    }

    /// The files behind it. The first touch of a listed segment opens them and checks length, header and end mark of the
    /// segment, and its index whole; later ones are an atomic load.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` or `Io` if they cannot be opened; the next touch tries again.
    #[inline]
    pub(crate) fn opened(&self) -> Result<OpenedGuard> {
        match self.slot.get() {
            Some(opened) if opened.is_indexed() => Ok(opened),
            _ => self.open(),
        }
    }

    /// As [`Segment::opened`] for who reads from front to back and needs no index: if nobody else needed it before, the
    /// index is not opened. Half the calls to the system, and the index need not be read to be verified.
    ///
    /// # Errors
    /// As there, but for those of the index.
    #[inline]
    pub(crate) fn opened_to_scan(&self) -> Result<OpenedGuard> {
        match self.slot.get() {
            Some(opened) => Ok(opened),
            None => self.open_to_scan(),
        }
    }

    #[cold]
    fn open_to_scan(&self) -> Result<OpenedGuard> {
        let Listed { entry, cache } = self.listed.get().expect("only a listed segment is not open");
        cache.open_to_scan(&self.slot, entry).map(OpenedGuard::of_arc)
    }

    #[cold]
    fn open(&self) -> Result<OpenedGuard> {
        let Listed { entry, cache } = self.listed.get().expect("only a listed segment is not open");
        cache.open(self, &self.slot, entry).map(OpenedGuard::of_arc)
    }

    /// As [`Segment::opened`], with an index that knows keys, ids and names. Where the file holds places alone, because a tier
    /// held the rest, the whole index is made anew from the log: one to two microseconds an event.
    ///
    /// # Errors
    /// As there, and `Corrupt` if the segment is not sound.
    #[inline]
    pub(crate) fn opened_with_keys(&self) -> Result<OpenedGuard> {
        let opened = self.opened()?;
        if opened.has_keys() {
            return Ok(opened);
        }
        drop(opened);
        let Listed { entry, cache } = self.listed.get().expect("only a listed segment has places alone");
        cache.open_with_keys(&self.slot, entry).map(OpenedGuard::of_arc)
    }

    /// Does what replaces the index file while nobody opens the segment and makes the file anew. `replace` must not open it.
    pub(crate) fn replacing_index<R>(&self, replace: impl FnOnce() -> R) -> R {
        let _opening = self.slot.opening();
        replace()
    }

    /// Puts places alone in the place of the whole index, if the segment is open.
    pub(crate) fn set_places(&self, table: PlaceTable) {
        self.slot.change_if_held(|opened| opened.with_index(SegmentIndex::Places(table)));
    }

    /// The file of a segment that is not listed.
    pub(crate) fn live_file(&self) -> Arc<dyn StorageFile> {
        let opened = self.slot.get().expect("a segment that is not listed is open");
        opened.file().expect("a segment that is not listed keeps its file").clone()
    }

    /// Makes the file's content durable. A listed segment was durable before it was listed.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match self.slot.get().as_deref().and_then(Opened::file) {
            Some(file) => file.sync(),
            None => Ok(()),
        }
    }

    pub(crate) fn first_position(&self) -> u64 {
        self.header.first_position
    }

    /// Fixes the end: no batch follows.
    pub(crate) fn close(&self, closing: Closing) {
        let _ = self.closing.set(closing);
    }

    pub(crate) fn closing(&self) -> Option<&Closing> {
        self.closing.get()
    }

    /// Offset of the byte after the last batch; `u64::MAX` while the segment is written.
    pub(crate) fn end(&self) -> u64 {
        self.closing.get().map_or(OPEN_END, |closing| closing.end)
    }

    /// Log offset of a byte of the segment, if this opening writes or wrote it.
    pub(crate) fn log_offset(&self, offset: u64) -> Option<u64> {
        self.base.map(|base| base + offset)
    }

    /// Lets go of what is open of a listed segment whose file is to go: the next touch opens what the manifest lists then.
    pub(crate) fn let_go(&self) {
        if self.is_listed() {
            self.slot.release();
        }
    }

    /// Puts another index in place and answers the one before.
    pub(crate) fn set_index(&self, index: SegmentIndex) -> Option<SegmentIndex> {
        let before = self.slot.change(|opened| opened.with_index(index))?;
        // ThreadSanitizer does not see what orders the last holder behind all others (`once.rs`): there nobody is the last.
        if cfg!(annals_sanitize) {
            return Some(before.index.clone());
        }
        Some(match Arc::try_unwrap(before) {
            Ok(opened) => opened.index,
            Err(shared) => shared.index.clone(),
        })
    }

    /// Puts another index in place, if the segment is open.
    pub(crate) fn set_index_if_open(&self, index: SegmentIndex) {
        self.slot.change_if_held(|opened| opened.with_index(index));
    }

    /// Whether it is open with an index that no file holds.
    pub(crate) fn is_indexed_in_memory(&self) -> bool {
        self.slot.get().is_some_and(|opened| matches!(opened.index, SegmentIndex::Active(_)))
    }

    /// Whether whoever seals it still has to put its index file in place, or to make it.
    pub(crate) fn awaits_its_index_file(&self) -> bool {
        self.slot.get().is_some_and(|opened| match &opened.index {
            SegmentIndex::Active(_) => true,
            SegmentIndex::Sealed(index) => index.is_beside(),
            SegmentIndex::Places(_) | SegmentIndex::Unread => false,
        })
    }

    /// Place of the record with this position, if the segment holds one and the index knows it.
    #[inline]
    pub(crate) fn place(&self, opened: &Opened, position: u64) -> Result<Option<Place>> {
        let Some(record) = position.checked_sub(self.header.first_position).and_then(|n| u32::try_from(n).ok()) else {
            return Ok(None);
        };
        Ok(opened.place(record))
    }

    /// Begins to load what a look at this segment needs first.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.slot);
        prefetch(&self.closing);
        prefetch(&self.header);
    }

    /// Begins to load where it says what is open of it; looks at the segment itself.
    #[inline]
    pub(crate) fn prefetch_slot(&self) {
        prefetch(&*self.slot);
    }

    /// What is open of it, if it is open with its index: nothing is opened for this look.
    #[inline]
    pub(crate) fn if_opened(&self) -> Option<OpenedGuard> {
        self.slot.get().filter(|opened| opened.is_indexed())
    }

    /// If it is not open, begins to bring what opening it reads into memory: for segments that are opened one after the other.
    /// Opens nothing.
    pub(crate) fn announce(&self) {
        if let (None, Some(Listed { entry, cache })) = (self.slot.get(), self.listed.get()) {
            cache.announce(&self.name, entry);
        }
    }

    /// Begins to load the record at `position`, as far as `place` and the map tell: the frame's first lines and the header
    /// of its batch.
    #[inline]
    pub(crate) fn prefetch_record(&self, opened: &Opened, position: u64) {
        let Some(map) = opened.map() else { return };
        let Ok(Some(Place { frame, batch })) = self.place(opened, position) else { return };
        let lines = (0..RECORD_LINES).map(|line| frame + line * LINE);
        for at in lines.chain([batch]) {
            let byte = usize::try_from(at).ok().and_then(|at| map.get(at..at + 1)?.first());
            byte.into_iter().for_each(prefetch);
        }
    }

    /// A window that holds at least `offset .. offset + len`, however far the bytes have come.
    #[inline]
    pub(crate) fn window(&self, opened: &Opened, log: &Log, offset: u64, len: u64) -> Result<Window> {
        let stop = self.end().min(self.header.segment_len);
        if offset + len > stop {
            return Err(self.damaged(offset, None, "a record or batch reaches beyond the segment's end"));
        }
        if let Some((start, map)) = &self.tail
            && offset >= *start
        {
            return Ok(Window::new(map.clone(), *start, start + map.len() as u64));
        }
        let in_file = self.in_file(log, stop);
        if offset + len <= in_file {
            return self.file_window(opened, offset, len, in_file);
        }
        self.ring_window(opened, log, offset, len, stop)
    }

    /// A window that holds at least `offset .. offset + len`, of a file that is known to hold all bytes below `in_file`.
    pub(crate) fn window_in_file(&self, opened: &Opened, offset: u64, len: u64, in_file: u64) -> Result<Window> {
        if offset + len > in_file {
            return Err(self.damaged(offset, None, "a record or batch reaches beyond the segment's end"));
        }
        self.file_window(opened, offset, len, in_file)
    }

    /// Copies what the file holds at `offset` now, which may be written at this moment: whoever copies verifies the copy.
    /// Offset and length are multiples of 8. Beyond the file's end come zeros.
    pub(crate) fn copy_unsettled(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let opened = self.opened()?;
        let got = match opened.map() {
            Some(map) if map.load(offset as usize, out) => out.len(),
            Some(_) => 0,
            None => opened.read_at(offset, out).map_err(Error::io("read", &self.name))?,
        };
        out[got..].fill(0);
        Ok(())
    }

    /// As [`Segment::window`], for reading on from `offset`: of bytes that still lie in the ring all that are there come
    /// with it, up to a limit, into memory that was `used` if nobody else holds that. `before` is the window that ended: of a
    /// compacted segment it may hold the first of these bytes.
    #[inline]
    pub(crate) fn window_ahead(
        &self,
        opened: &Opened,
        log: &Log,
        offset: u64,
        len: u64,
        used: &mut UsedCopies,
        before: Option<&Window>,
    ) -> Result<Window> {
        if let Some(container) = opened.container() {
            return container.window_ahead(offset, len, self.end(), used, before);
        }
        if let (Some(ring), Some(base)) = (&log.ring, self.base) {
            let stop = self.end().min(self.header.segment_len);
            let at = base + offset;
            let there = log.watermark.written_end().min(base + stop).saturating_sub(at);
            // What is in the file already is not copied, and what the ring cannot hold is not there.
            if offset + len > self.in_file(log, stop) && len <= there && len <= RING_AHEAD.min(ring.len()) {
                let wanted = there.min(RING_AHEAD).min(ring.len()).next_multiple_of(8);
                let map = Map::copied(wanted as usize, used.take(), |bytes| ring.load(at, bytes));
                if log.watermark.still_in_ring(at) {
                    return Ok(Window::new(map, offset, offset + wanted));
                }
            }
        }
        self.window(opened, log, offset, len)
    }

    /// Up to which offset the file itself holds the bytes.
    #[inline]
    fn in_file(&self, log: &Log, stop: u64) -> u64 {
        let stop = self.tail.as_ref().map_or(stop, |(start, _)| stop.min(*start));
        self.base.map_or(stop, |base| log.watermark.flushed().saturating_sub(base).min(stop))
    }

    #[inline]
    fn file_window(&self, opened: &Opened, offset: u64, len: u64, in_file: u64) -> Result<Window> {
        if let Some(map) = opened.map() {
            return Ok(Window::new(map.clone(), 0, in_file));
        }
        if let Some(container) = opened.container() {
            return container.window(offset, len, in_file);
        }
        const READ_AHEAD: u64 = 64 << 10;
        let wanted = len.max(READ_AHEAD).min(in_file - offset);
        let mut bytes = vec![0; wanted as usize];
        let got = opened.read_at(offset, &mut bytes).map_err(Error::io("read", &self.name))? as u64;
        if got < len {
            let what =
                format!("the file ends at byte {}, {} bytes short of what it once held", offset + got, len - got);
            return Err(self.damaged(offset, None, what));
        }
        bytes.truncate(got as usize);
        Ok(Window::new(Map::from(bytes), offset, offset + got))
    }

    /// Copies from the ring; what has left it meanwhile is in the file.
    fn ring_window(&self, opened: &Opened, log: &Log, offset: u64, len: u64, stop: u64) -> Result<Window> {
        let (Some(ring), Some(base)) = (&log.ring, self.base) else {
            return Err(self.damaged(offset, None, "the file ends before the log does"));
        };
        let at = base + offset;
        let padded = len.next_multiple_of(8);
        if padded <= ring.len() {
            let mut bytes = vec![0; padded as usize];
            ring.load(at, &mut bytes);
            if log.watermark.still_in_ring(at) {
                return Ok(Window::new(Map::from(bytes), offset, offset + padded));
            }
        }
        let in_file = self.in_file(log, stop);
        if offset + len <= in_file {
            return self.file_window(opened, offset, len, in_file);
        }
        Err(self.damaged(offset, None, "a length reaches beyond what was written"))
    }

    /// Whether it knows where it lies in the log of the run that wrote it.
    pub(crate) fn has_log_offsets(&self) -> bool {
        self.base.is_some()
    }

    /// The batch header at `offset`, verified.
    pub(crate) fn batch_header(&self, window: &Window, offset: u64) -> Result<BatchHeader> {
        BatchHeader::decode(window.from(offset), self.seed).map_err(|fault| self.faulty(offset, None, &fault))
    }

    /// As [`Segment::batch_header`], of the batch that another was followed to. One that came with its block as a whole need not
    /// be verified: its checksum was made there, unless it has sections or no record.
    #[inline]
    pub(crate) fn next_batch_header(&self, window: &Window, offset: u64) -> Result<BatchHeader> {
        let sound = window.sound_len(offset);
        if sound > 0
            && let Ok(header) = BatchHeader::read(window.from(offset), Purpose::Write)
            && header.len() <= sound
            && !header.has_sections
        {
            return Ok(header);
        }
        self.batch_header(window, offset)
    }

    /// Hands the record at `position`, verified, to `each`.
    pub(crate) fn record_at(
        &self,
        opened: &Opened,
        log: &Log,
        position: u64,
        each: impl FnOnce(record::Record<'_>),
    ) -> Result<()> {
        let Some(Place { frame, .. }) = self.place(opened, position)? else {
            return Err(self.damaged(0, Some(position), "the index knows no record at this position"));
        };
        let faulty = |fault| self.faulty(frame, Some(position), &fault);
        let head = self.window(opened, log, frame, record::RECORD_HEADER_LEN as u64)?;
        let len = record::frame_len(head.from(frame)).map_err(faulty)? as u64;
        let window = if head.holds(frame, len) { head } else { self.window(opened, log, frame, len)? };
        each(record::decode(window.from(frame), self.seed, position).map_err(faulty)?);
        Ok(())
    }

    pub(crate) fn faulty(&self, offset: u64, position: Option<u64>, fault: &annals_format::Fault) -> Error {
        let written_by = self.slot.get().map_or(self.header.written_by, |opened| opened.written_by);
        Error::damaged(&self.name, offset, position, fault, written_by)
    }

    pub(crate) fn damaged(&self, offset: u64, position: Option<u64>, what: impl Into<String>) -> Error {
        Error::corrupt(&self.name, offset, position, what)
    }
}
