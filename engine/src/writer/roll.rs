//! From one segment to the next.

use std::sync::Arc;

use annals_format::manifest::SegmentState;
use annals_format::segment::{END_MARK_LEN, EndMark, Link, SEGMENT_HEADER_LEN, SegmentHeader, SegmentKind};

use super::{ActiveSegment, Writer};
use crate::Result;
use crate::active_index::{ActiveIndex, Expected, IndexWriter};
use crate::id_table::IdWriter;
use crate::log::page_ceiling;
use crate::options::ReadMode;
use crate::prepare::{Prepared, WantedIndex};
use crate::segment::{Closing, RunningTally, Segment, SegmentIndex, Tally};

/// So many bytes are written at least from one time that something is asked for ahead to the next.
const ASK_STEP_MIN: u64 = 4 << 20;

/// From how many bytes of a segment on the next one is made.
pub(crate) const fn ask_first_at(segment_len: u64) -> u64 {
    segment_len / 8 + 1
}

impl Writer {
    #[inline]
    pub(crate) fn must_roll(&self, len: u64) -> bool {
        self.active.offset + len + END_MARK_LEN as u64 > self.active.segment.header.segment_len
    }

    /// Ends this segment and begins the next. Until the new file is there nothing has been written, and an error leaves
    /// the writer as it was.
    #[cold]
    pub(crate) fn roll(&mut self, batch_len: u64) -> Result<()> {
        if cfg!(annals_plant = "id-index-forgets-at-roll") {
            self.ids = IdWriter::new();
        }
        let old = self.active.segment.clone();
        let needed = page_ceiling((SEGMENT_HEADER_LEN + END_MARK_LEN) as u64 + batch_len);
        let prepared = self.preparer.take(old.header.segment_len, needed)?;
        let closing =
            Closing { end: self.active.offset, state: SegmentState::Sealed, tally: self.active.tally.total() };
        let base = page_ceiling(self.end + END_MARK_LEN as u64);
        let previous =
            Link { number: old.header.identity.segment, final_checksum: closing.tally.final_checksum.value() };
        let now = self.clock.now();
        let next = self.begin(prepared, base, Some(previous), now)?;

        self.core.log.place(self.end, &end_mark(&closing, &next.segment.header).encode(old.seed))?;
        let mark_end = self.end + END_MARK_LEN as u64;
        self.core.log.place_zeros(mark_end, base)?;
        self.core.log.add_extent(base, next.segment.live_file(), &next.segment.name);
        self.core.log.place(base, &next.segment.header.encode())?;
        self.end = base + SEGMENT_HEADER_LEN as u64;
        self.core.log.watermark.extend(self.end);

        self.active.index.finish();
        old.close(closing);
        self.core.push_segment(next.segment.clone());
        self.active = next;
        self.ended.push(old.clone());
        if !self.consumers.table.is_empty() {
            let number = old.header.identity.segment;
            self.core.ended_consumers.push(number, self.consumers.table.clone());
        }
        self.preparer.enqueue_seal(old);
        Ok(())
    }

    /// The next segment on a prepared file; its header is not written yet.
    fn begin(&self, prepared: Prepared, base: u64, previous: Option<Link>, now: u64) -> Result<ActiveSegment> {
        let header = SegmentHeader {
            identity: prepared.identity,
            generation: 0,
            manifest_generation: self.preparer.manifest_generation(),
            segment_len: prepared.len,
            base,
            first_position: self.head + 1,
            previous,
            created_at: now,
            written_by: crate::VERSION,
            kind: SegmentKind::Live,
        };
        begin_segment(
            self.core.read_mode,
            header,
            prepared,
            self.active.index.index().key_count(),
            self.preparer.take_index(),
        )
    }

    /// Whether the thread that makes things ahead is to be woken.
    #[inline]
    pub(crate) fn ask_ahead(&mut self) -> bool {
        self.active.offset >= self.active.ask_at && self.ask_now()
    }

    /// Asks from an eighth of the segment on for the file of the next, and from three quarters on for the memory of its index:
    /// by then the one of the segment before has mostly come back, and how many keys there will be can be told. In
    /// between, and further on, there may be room to make for ids and streams.
    #[cold]
    fn ask_now(&mut self) -> bool {
        let len = self.active.segment.header.segment_len;
        let late = len / 4 * 3;
        let step = (len / 8).max(ASK_STEP_MIN);
        let active = &mut self.active;
        active.ask_at = active.offset + step;
        if active.offset < late {
            active.ask_at = active.ask_at.min(late);
        }
        let index = (active.offset >= late).then(|| {
            let (segment_len, index) = (self.preparer.len_after(len), active.index.index());
            let keys = index.key_count();
            // New keys come ever more slowly, records as before.
            let at_end = |count: u64| (count * len / active.offset) as usize;
            let least = Expected { segment_len, keys, ids: None };
            WantedIndex {
                least,
                expected: Expected { keys: at_end(keys as u64), ..least },
                records: at_end(u64::from(index.record_count())) * segment_len.div_ceil(len) as usize,
            }
        });
        self.preparer.ask(len, index);
        true
    }
}

/// An empty segment with this header, its index sized after the one before, of `used` memory if that fits.
pub(crate) fn begin_segment(
    mode: ReadMode,
    header: SegmentHeader,
    prepared: Prepared,
    keys: usize,
    used: Option<ActiveIndex>,
) -> Result<ActiveSegment> {
    let expected = Expected { segment_len: header.segment_len, keys, ids: None };
    let index = used.filter(|index| index.fits(expected)).unwrap_or_else(|| ActiveIndex::new(expected));
    let index = Arc::new(index);
    let (seed, segment_len) = (header.seed(), header.segment_len);
    let of_index = SegmentIndex::Active(index.clone());
    let segment = Segment::new(header, prepared.name, prepared.file, mode, of_index)?.written_here();
    let segment = Arc::new(segment);
    Ok(ActiveSegment {
        segment,
        index: IndexWriter::new(index),
        offset: SEGMENT_HEADER_LEN as u64,
        ask_at: ask_first_at(segment_len),
        tally: RunningTally::new(Tally::new(seed)),
    })
}

pub(crate) fn end_mark(closing: &Closing, next: &SegmentHeader) -> EndMark {
    let tally = &closing.tally;
    let has_records = tally.batch_count > 0;
    EndMark {
        final_checksum: tally.final_checksum.value(),
        first_position: if has_records { next.first_position - tally.event_count - tally.control_count } else { 0 },
        last_position: tally.last_position,
        first_time: tally.first_time,
        last_time: tally.last_time,
        batch_count: tally.batch_count,
        event_count: tally.event_count,
        control_count: tally.control_count,
        next_segment: next.identity.segment,
    }
}
