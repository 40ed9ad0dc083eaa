//! One segment as readers and writer share it: its file, its map, its index, its end.

use std::sync::{Arc, OnceLock};

use annals_format::batch::{BATCH_HEADER_LEN, BatchHeader};
use annals_format::checksum::Seed;
use annals_format::manifest::SegmentState;
use annals_format::record;
use annals_format::segment::{FinalChecksum, SegmentHeader};
use arc_swap::ArcSwap;

use crate::Result;
use crate::active_index::{ActiveIndex, Place};
use crate::error::Error;
use crate::event::Event;
use crate::log::Log;
use crate::options::ReadMode;
use crate::sealed_index::SealedIndex;
use crate::storage::{Map, StorageFile};

/// How a segment's records are found.
#[derive(Debug, Clone)]
pub(crate) enum SegmentIndex {
    Active(Arc<ActiveIndex>),
    Sealed(Arc<SealedIndex>),
}

/// Bytes of a segment that a reader may look at: `map[0]` is the segment's byte `start`.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub(crate) map: Map,
    pub(crate) start: u64,
    /// Up to which byte of the segment this window may be read.
    pub(crate) end: u64,
}

impl Window {
    /// The bytes from `offset` to the window's end; empty beyond it.
    #[inline]
    pub(crate) fn from(&self, offset: u64) -> &[u8] {
        self.between(offset, self.end)
    }

    #[inline]
    pub(crate) fn between(&self, from: u64, to: u64) -> &[u8] {
        let range = from.saturating_sub(self.start) as usize..to.saturating_sub(self.start) as usize;
        self.map.get(range).unwrap_or(&[])
    }

    #[inline]
    pub(crate) fn holds(&self, offset: u64, len: u64) -> bool {
        offset >= self.start && offset + len <= self.end
    }
}

/// An offset that no segment reaches: the end of one that is still written.
const OPEN_END: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) seed: Seed,
    pub(crate) name: String,
    pub(crate) file: Arc<dyn StorageFile>,
    map: Option<Map>,
    index: ArcSwap<SegmentIndex>,
    closing: OnceLock<Closing>,
    /// Log offset of the file's first byte, if this opening writes or wrote the segment. `None`: all is in the file.
    base: Option<u64>,
    /// Read-only openings: bytes from this offset on, which the file does not hold yet.
    tail: Option<(u64, Map)>,
}

/// How a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closing {
    /// Offset of the byte after the last batch.
    pub(crate) end: u64,
    pub(crate) state: SegmentState,
    pub(crate) tally: Tally,
}

/// What a segment holds so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) final_checksum: FinalChecksum,
    /// Last position in the segment; 0 if it holds none.
    pub(crate) last_position: u64,
    pub(crate) first_time: u64,
    pub(crate) last_time: u64,
    pub(crate) batch_count: u64,
    pub(crate) event_count: u64,
    pub(crate) control_count: u64,
}

impl Tally {
    pub(crate) fn new(seed: Seed) -> Self {
        Self {
            final_checksum: FinalChecksum::start(seed),
            last_position: 0,
            first_time: 0,
            last_time: 0,
            batch_count: 0,
            event_count: 0,
            control_count: 0,
        }
    }

    /// Counts one batch; `bytes` begin with its header.
    #[inline]
    pub(crate) fn add(&mut self, header: &BatchHeader, bytes: &[u8], control_count: u64) {
        let header_bytes = bytes.first_chunk().expect("a batch begins with its header");
        self.final_checksum.add(header_bytes);
        self.count(header, control_count);
    }

    /// Counts one batch, but for the final checksum.
    #[inline]
    fn count(&mut self, header: &BatchHeader, control_count: u64) {
        self.last_position = header.last_position();
        if self.batch_count == 0 {
            self.first_time = header.recorded_at;
        }
        self.last_time = header.recorded_at;
        self.batch_count += 1;
        self.control_count += control_count;
        self.event_count += u64::from(header.record_count) - control_count;
    }
}

/// The [`Tally`] of the segment that is being written. Headers are gathered before the checksum runs over them: a call
/// for forty bytes costs a third of one for eight times as many.
#[derive(Debug)]
pub(crate) struct RunningTally {
    tally: Tally,
    headers: [u8; BATCH_HEADER_LEN * 8],
    gathered: usize,
}

impl RunningTally {
    /// Goes on from `tally`.
    pub(crate) fn new(tally: Tally) -> Self {
        Self { tally, headers: [0; BATCH_HEADER_LEN * 8], gathered: 0 }
    }

    /// Counts one batch; `bytes` begin with its header.
    #[inline]
    pub(crate) fn add(&mut self, header: &BatchHeader, bytes: &[u8], control_count: u64) {
        self.headers[self.gathered..][..BATCH_HEADER_LEN].copy_from_slice(&bytes[..BATCH_HEADER_LEN]);
        self.gathered += BATCH_HEADER_LEN;
        if self.gathered == self.headers.len() {
            self.tally.final_checksum.add_all(&self.headers);
            self.gathered = 0;
        }
        self.tally.count(header, control_count);
    }

    /// All that was counted.
    pub(crate) fn total(&self) -> Tally {
        let mut tally = self.tally;
        tally.final_checksum.add_all(&self.headers[..self.gathered]);
        tally
    }
}

/// What a batch header says of each of its records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchFacts {
    pub(crate) first_position: u64,
    pub(crate) record_count: u32,
    pub(crate) recorded_at: u64,
    pub(crate) as_batch: bool,
}

impl From<&BatchHeader> for BatchFacts {
    fn from(header: &BatchHeader) -> Self {
        Self {
            first_position: header.first_position,
            record_count: header.record_count,
            recorded_at: header.recorded_at,
            as_batch: header.as_batch,
        }
    }
}

impl Segment {
    pub(crate) fn new(
        header: SegmentHeader,
        name: String,
        file: Arc<dyn StorageFile>,
        mode: ReadMode,
        index: SegmentIndex,
    ) -> Result<Self> {
        let map = match mode {
            ReadMode::Mapped => Some(file.map().map_err(Error::io("map", &name))?),
            ReadMode::Pread => None,
        };
        Ok(Self {
            seed: header.seed(),
            header,
            name,
            file,
            map,
            index: ArcSwap::from_pointee(index),
            closing: OnceLock::new(),
            base: None,
            tail: None,
        })
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
            file: self.file.clone(),
            map: self.map.clone(),
            index: ArcSwap::new(self.index.load_full()),
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
        if self.map.is_some() { ReadMode::Mapped } else { ReadMode::Pread }
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

    /// The last position that a reader with this head finds here, 0 if none.
    pub(crate) fn last_position(&self, head: u64) -> u64 {
        self.closing.get().map_or(head, |closing| closing.tally.last_position.min(head))
    }

    pub(crate) fn index(&self) -> arc_swap::Guard<Arc<SegmentIndex>> {
        self.index.load()
    }

    /// Puts another index in place and answers the one before.
    pub(crate) fn set_index(&self, index: SegmentIndex) -> SegmentIndex {
        let before = self.index.swap(Arc::new(index));
        Arc::try_unwrap(before).unwrap_or_else(|shared| SegmentIndex::clone(&shared))
    }

    /// Place of the record with this position, if the segment holds one and the index knows it.
    pub(crate) fn place(&self, position: u64) -> Result<Option<Place>> {
        let Some(record) = position.checked_sub(self.header.first_position).and_then(|n| u32::try_from(n).ok()) else {
            return Ok(None);
        };
        match &**self.index.load() {
            SegmentIndex::Active(index) => Ok(index.place(record)),
            SegmentIndex::Sealed(index) => index.place(record),
        }
    }

    /// A window that holds at least `offset .. offset + len`, however far the bytes have come.
    #[inline]
    pub(crate) fn window(&self, log: &Log, offset: u64, len: u64) -> Result<Window> {
        let stop = self.end().min(self.header.segment_len);
        if offset + len > stop {
            return Err(self.damaged(offset, None, "a record or batch reaches beyond the segment's end"));
        }
        if let Some((start, map)) = &self.tail
            && offset >= *start
        {
            return Ok(Window { map: map.clone(), start: *start, end: start + map.len() as u64 });
        }
        let in_file = self.in_file(log, stop);
        if offset + len <= in_file {
            return self.file_window(offset, len, in_file);
        }
        self.ring_window(log, offset, len, stop)
    }

    /// Up to which offset the file itself holds the bytes.
    #[inline]
    fn in_file(&self, log: &Log, stop: u64) -> u64 {
        let stop = self.tail.as_ref().map_or(stop, |(start, _)| stop.min(*start));
        self.base.map_or(stop, |base| log.watermark.flushed().saturating_sub(base).min(stop))
    }

    #[inline]
    fn file_window(&self, offset: u64, len: u64, in_file: u64) -> Result<Window> {
        if let Some(map) = &self.map {
            return Ok(Window { map: map.clone(), start: 0, end: in_file });
        }
        const READ_AHEAD: u64 = 64 << 10;
        let wanted = len.max(READ_AHEAD).min(in_file - offset);
        let mut bytes = vec![0; wanted as usize];
        let got = self.file.read_at(offset, &mut bytes).map_err(Error::io("read", &self.name))? as u64;
        if got < len {
            let what =
                format!("the file ends at byte {}, {} bytes short of what it once held", offset + got, len - got);
            return Err(self.damaged(offset, None, what));
        }
        bytes.truncate(got as usize);
        Ok(Window { map: Map::from(bytes), start: offset, end: offset + got })
    }

    /// Copies from the ring; what has left it meanwhile is in the file.
    fn ring_window(&self, log: &Log, offset: u64, len: u64, stop: u64) -> Result<Window> {
        let (Some(ring), Some(base)) = (&log.ring, self.base) else {
            return Err(self.damaged(offset, None, "the file ends before the log does"));
        };
        let at = base + offset;
        let padded = len.next_multiple_of(8);
        if padded <= ring.len() {
            let mut bytes = vec![0; padded as usize];
            ring.load(at, &mut bytes);
            if log.watermark.still_in_ring(at) {
                return Ok(Window { map: Map::from(bytes), start: offset, end: offset + padded });
            }
        }
        let in_file = self.in_file(log, stop);
        if offset + len <= in_file {
            return self.file_window(offset, len, in_file);
        }
        Err(self.damaged(offset, None, "a length reaches beyond what was written"))
    }

    /// The batch header at `offset`, verified.
    pub(crate) fn batch_header(&self, window: &Window, offset: u64) -> Result<BatchHeader> {
        BatchHeader::decode(window.from(offset), self.seed).map_err(|fault| self.faulty(offset, None, &fault))
    }

    /// The event at `position`, verified; `None` for a control record.
    pub(crate) fn event_at(&self, log: &Log, position: u64, place: Place) -> Result<Option<Event>> {
        let header_len = BATCH_HEADER_LEN as u64;
        let facts = {
            let window = self.window(log, place.batch, header_len)?;
            BatchFacts::from(&self.batch_header(&window, place.batch)?)
        };
        let in_batch = position.checked_sub(facts.first_position).is_some_and(|n| n < u64::from(facts.record_count));
        if !in_batch {
            return Err(self.damaged(place.batch, Some(position), "the index points to a batch without this position"));
        }
        let head = self.window(log, place.frame, record::RECORD_HEADER_LEN as u64)?;
        let frame_len = record::frame_len(head.from(place.frame))
            .map_err(|fault| self.faulty(place.frame, Some(position), &fault))?;
        let window = if head.holds(place.frame, frame_len as u64) {
            head
        } else {
            self.window(log, place.frame, frame_len as u64)?
        };
        match record::decode(window.from(place.frame), self.seed, position) {
            Ok(record::Record::Event(frame)) => {
                let layout = frame.layout();
                let start = (place.frame - window.start) as usize;
                Ok(Some(Event::new(window.map, start, layout, facts)))
            }
            Ok(record::Record::Control(_)) => Ok(None),
            Err(fault) => Err(self.faulty(place.frame, Some(position), &fault)),
        }
    }

    pub(crate) fn faulty(&self, offset: u64, position: Option<u64>, fault: &annals_format::Fault) -> Error {
        Error::damaged(&self.name, offset, position, fault, self.header.written_by)
    }

    pub(crate) fn damaged(&self, offset: u64, position: Option<u64>, what: impl Into<String>) -> Error {
        Error::corrupt(&self.name, offset, position, what)
    }
}
