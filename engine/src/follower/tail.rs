//! The end of the log as a follower has learnt it, and how it goes on from there.
//!
//! ```text
//!   segment file   |#### whole, entered ####|======|------|...........
//!                                          end    mark   written      nothing yet
//! ```
//!
//! What the mark covers is final: it is verified where it lies and entered into the index, without a copy and without a
//! call to the system. What lies beyond it (`------`) is only looked at in the written view. It may be written at that very
//! moment, so it is copied first, and counts if the copy verifies; the file's bytes may lag behind the ring's, so what
//! only the ring had is kept in a ring of this process until the file is seen to hold it.
//!
//! All of it is good for one incarnation: within one the log only grows. Another incarnation in the mark, or anything that
//! is not plainly "the next batch" below the mark, is left to a look at everything.

use std::collections::VecDeque;
use std::sync::Arc;

use annals_format::batch::BatchHeader;
use annals_format::manifest::SegmentState;
use annals_format::mark::Mark;
use annals_format::scan::{self, Step};
use annals_format::segment::{END_MARK_LEN, Link, SEGMENT_HEADER_LEN, SegmentHeader};

use super::watched::{WatchedMark, WatchedRing};
use crate::Result;
use crate::active_index::{ActiveIndex, Expected, IndexWriter};
use crate::core::Core;
use crate::error::Error;
use crate::log::page_ceiling;
use crate::manifest;
use crate::options::View;
use crate::prepare::segment_name;
use crate::recovery::index_batch;
use crate::recovery::judge::{Continuation, Next};
use crate::removal;
use crate::segment::{Closing, Segment, SegmentIndex, Tally, Window};
use crate::storage::{Access, Storage};

/// How many bytes are taken in one go: small enough that they are still in the processor's cache when they are read.
const STRIDE: u64 = 1 << 20;
/// Ended segments are indexed in memory until the manifest is asked for them: after so many bytes of log.
const ENLIST_AFTER: u64 = 160 << 20;
/// Or after so many segments.
const ENLIST_AFTER_SEGMENTS: usize = 16;

/// So many bytes behind, it is quicker to look at everything: the indexes of most segments stand beside them by then.
const FAR_BEHIND: u64 = 256 << 20;

/// What going on from the end came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing came.
    Same,
    /// More of the log, or more of it durable; there may be still more.
    Further,
    /// Something that only a look at everything can judge: a new opening, another store, damage; or a long way to go.
    Elsewhere,
}

/// What the last look at everything went by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Basis {
    pub(super) store: [u8; 16],
    /// The newest in the manifest that the last look went by.
    pub(super) incarnation: [u8; 16],
    /// What the mark said then: no mark, or its store and incarnation.
    pub(super) marked: Option<([u8; 16], [u8; 16])>,
}

#[derive(Debug)]
pub(super) struct LogTail {
    pub(super) core: Arc<Core>,
    pub(super) basis: Basis,
    storage: Arc<dyn Storage>,
    view: View,
    mark: WatchedMark,
    ring: Option<WatchedRing>,
    /// The segment that was being written.
    live: Option<Live>,
    last_position: u64,
    last_time: u64,
    /// Segments whose newest bytes may not be in their files, oldest first; the live one last.
    unsettled: VecDeque<Arc<Segment>>,
    /// Ended segments that are indexed in memory.
    unlisted: Vec<Arc<Segment>>,
    /// How many ended since the manifest was last asked for them, and how long they are together.
    ended_since: (usize, u64),
    /// Where the mark stood at the last look: for as long as it has not moved on, another would find no more.
    looked_at: u64,
    /// Sequence of the mark beside which there was no ring of this incarnation.
    ringless_at: u64,
    copy: Vec<u8>,
}

/// A segment that is gone through batch by batch.
pub(super) struct Live {
    pub(super) segment: Arc<Segment>,
    index: IndexWriter,
    end: u64,
    tally: Tally,
    /// It has ended: number of the next one.
    next: Option<u64>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("segment", &self.segment.name).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Live {
    /// A segment of which nothing was gone through yet.
    pub(super) fn begin(segment: Arc<Segment>, index: Arc<ActiveIndex>) -> Self {
        let tally = Tally::new(segment.seed);
        Self { segment, index: IndexWriter::new(index), end: SEGMENT_HEADER_LEN as u64, tally, next: None }
    }

    /// One that a scan has gone through up to `closing`.
    pub(super) fn go_on(
        segment: Arc<Segment>,
        index: Arc<ActiveIndex>,
        end: u64,
        tally: Tally,
        next: Option<u64>,
    ) -> Self {
        Self { segment, index: IndexWriter::new(index), end, tally, next }
    }

    fn number(&self) -> u64 {
        self.segment.header.identity.segment
    }

    /// Log offset of its end.
    fn log_end(&self) -> u64 {
        self.segment.header.base + self.end
    }

    /// What must be true of what follows.
    fn continuation(&self, last_position: u64, last_time: u64) -> Continuation {
        Continuation {
            seed: self.segment.seed,
            position: last_position + 1,
            time: last_time,
            final_checksum: self.tally.final_checksum.value(),
        }
    }
}

/// The empty index of a segment.
pub(super) fn new_index(segment_len: u64) -> Arc<ActiveIndex> {
    Arc::new(ActiveIndex::new(Expected { segment_len, keys: 1024, ids: Some(1024) }))
}

/// Where a [`LogTail`] begins.
pub(super) struct Beginning {
    pub(super) core: Arc<Core>,
    pub(super) basis: Basis,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) view: View,
    pub(super) mark: WatchedMark,
    pub(super) ring: Option<WatchedRing>,
    /// Sequence of the mark before that was looked for.
    pub(super) sequence: u64,
    pub(super) live: Option<Live>,
    /// Ended segments that the manifest does not list.
    pub(super) unlisted: Vec<Arc<Segment>>,
    pub(super) last_position: u64,
    pub(super) last_time: u64,
}

impl LogTail {
    pub(super) fn new(from: Beginning) -> Self {
        let Beginning { core, basis, storage, view, mark, ring, sequence, live, unlisted, last_position, last_time } =
            from;
        let ended_since = (unlisted.len(), unlisted.iter().map(|segment| segment.header.segment_len).sum());
        let unsettled = live.iter().map(|live| live.segment.clone()).collect();
        let copy = Vec::new();
        Self {
            core,
            basis,
            storage,
            view,
            mark,
            ring,
            live,
            last_position,
            last_time,
            unsettled,
            unlisted,
            ended_since,
            looked_at: u64::MAX,
            ringless_at: sequence,
            copy,
        }
    }

    pub(super) fn last_position(&self) -> u64 {
        self.last_position
    }

    /// The look is over: from now on a long way to go is another look's work, when so much has come since.
    pub(super) fn mind_the_distance(&mut self) {
        self.looked_at = self.mark.newest().ok().flatten().map_or(0, |mark| mark.segment);
    }

    /// About how many bytes of log lie between the end and the mark, by the number of segments.
    fn distance_to(&self, mark: &Mark) -> u64 {
        let Some(live) = &self.live else { return 0 };
        mark.segment.saturating_sub(live.number()).saturating_mul(live.segment.header.segment_len)
    }

    /// Looks for mark and ring by their names again: another writer may have made them anew. False if the ring is one that
    /// this cannot go on with: only a look at everything can.
    pub(super) fn open_again(&mut self, storage: &Arc<dyn Storage>) -> Result<bool> {
        let mode = self.core.read_mode;
        self.mark = WatchedMark::open(&**storage, mode)?;
        self.storage = storage.clone();
        // The durable view has no use for it once the look is over.
        if self.view == View::Durable || self.live.is_none() {
            return Ok(true);
        }
        let ring = WatchedRing::open(&**storage, mode, self.basis.store, self.basis.incarnation)?;
        // One of another length does not fit what is kept here.
        let is_alike = ring.as_ref().map(WatchedRing::len) == self.ring.as_ref().map(WatchedRing::len);
        if is_alike {
            self.ring = ring;
        }
        Ok(is_alike)
    }

    /// Takes some of what came. Everything that was announced before the call is found by calling until `Same`.
    pub(super) fn advance(&mut self) -> Result<Progress> {
        let Some(mark) = self.mark.newest()? else {
            return Ok(if self.basis.marked.is_none() { self.beyond_mark()? } else { Progress::Elsewhere });
        };
        if Some((mark.store, mark.incarnation)) != self.basis.marked {
            return Ok(Progress::Elsewhere);
        }
        if mark.incarnation != self.basis.incarnation {
            return self.beyond_mark();
        }
        if mark.segment > self.looked_at && self.distance_to(&mark) >= FAR_BEHIND {
            return Ok(Progress::Elsewhere);
        }
        if self.ring.is_none() && self.view == View::Written && self.has_begun(&mark)? {
            return Ok(Progress::Elsewhere);
        }
        let before = self.last_position;
        let aim = self.log_end().saturating_add(STRIDE);
        while self.last_position < mark.position {
            if !self.take_final(&mark, aim)? {
                return Ok(Progress::Elsewhere);
            }
            if self.log_end() >= aim {
                break;
            }
        }
        self.settle_below(&mark);
        let durable = mark.position.min(self.last_position);
        let is_further = durable > self.core.log.watermark.durable() || self.last_position > before;
        if is_further {
            self.show(durable);
        }
        if self.last_position < mark.position {
            return Ok(Progress::Further);
        }
        Ok(match self.beyond_mark()? {
            Progress::Same if is_further => Progress::Further,
            progress => progress,
        })
    }

    /// Whether there may be a ring by now, or a segment to go on in, where the last look found none.
    ///
    /// An opening makes its ring before it moves the mark, and one that follows a clean end goes on under the same incarnation:
    /// so the ring is looked for again when the mark has moved. A new store's mark stands before the header of its first
    /// segment does, in the ring, or, where nobody else sees that, in the file once something is appended: so that is looked
    /// for each time until it is there. Costs some system calls then.
    fn has_begun(&mut self, mark: &Mark) -> Result<bool> {
        if self.live.is_some() && mark.sequence == self.ringless_at {
            return Ok(false);
        }
        let Basis { store, incarnation, .. } = self.basis;
        if WatchedRing::open(&*self.storage, self.core.read_mode, store, incarnation)?.is_some() {
            return Ok(true);
        }
        self.ringless_at = mark.sequence;
        if self.live.is_some() {
            return Ok(false);
        }
        let name = segment_name(mark.segment);
        let file = match self.storage.open(&name, Access::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("open", &name)(error)),
        };
        let mut page = vec![0; SEGMENT_HEADER_LEN];
        file.read_at(0, &mut page).map_err(Error::io("read", &name))?;
        Ok(!matches!(SegmentHeader::decode(&page), Ok(None)))
    }

    fn log_end(&self) -> u64 {
        self.live.as_ref().map_or(0, Live::log_end)
    }

    /// What the mark covers stands in the files.
    fn settle_below(&self, mark: &Mark) {
        let Some(live) = &self.live else { return };
        let in_file = match mark.segment.cmp(&live.number()) {
            std::cmp::Ordering::Less => return,
            std::cmp::Ordering::Equal => live.end.min(mark.offset),
            std::cmp::Ordering::Greater => live.end,
        };
        self.core.log.watermark.set_flushed(live.segment.header.base + in_file);
    }

    /// Shows all that was taken, of which `durable` is the last that is durable.
    pub(super) fn show(&self, durable: u64) {
        let watermark = &self.core.log.watermark;
        // A follower of the durable view has no other.
        let written = if self.view == View::Durable { durable } else { self.last_position };
        watermark.publish(written.max(watermark.durable()), self.log_end());
        watermark.show_durable(durable);
    }

    /// Takes what is final, of one segment, until all that the mark covers of it is taken or `aim` is reached; false if
    /// what stands there is no continuation.
    fn take_final(&mut self, mark: &Mark, aim: u64) -> Result<bool> {
        let Some(live) = &mut self.live else { return Ok(false) };
        if let Some(next) = live.next {
            return self.roll(next, true);
        }
        let segment = live.segment.clone();
        let limit = match mark.segment.cmp(&live.number()) {
            std::cmp::Ordering::Less => return Ok(false),
            std::cmp::Ordering::Equal => mark.offset.min(segment.header.segment_len),
            std::cmp::Ordering::Greater => segment.header.segment_len,
        };
        let opened = segment.opened()?;
        let mut window: Option<Window> = None;
        while live.end < limit && self.last_position < mark.position && live.log_end() < aim {
            let holds = |window: &Option<Window>, len: u64| window.as_ref().is_some_and(|w| w.holds(live.end, len));
            let len = (limit - live.end).min(END_MARK_LEN as u64);
            if !holds(&window, len) {
                window = Some(segment.window_in_file(&opened, live.end, len, limit)?);
            }
            let bytes = window.as_ref().expect("made above").between(live.end, limit);
            let header = match scan::next(bytes, segment.seed) {
                Ok(Step::Batch(header)) => header,
                Ok(Step::End(mark)) if mark.final_checksum == live.tally.final_checksum.value() => {
                    live.next = Some(mark.next_segment);
                    return Ok(true);
                }
                _ => return Ok(false),
            };
            let len = header.len() as u64;
            let continues = header.first_position == self.last_position + 1
                && header.recorded_at >= self.last_time
                && len <= limit - live.end;
            if !continues {
                return Ok(false);
            }
            if !holds(&window, len) {
                window = Some(segment.window_in_file(&opened, live.end, len, limit)?);
            }
            let batch = window.as_ref().expect("made above").between(live.end, live.end + len);
            let entered = index_batch(&mut live.index, self.core.hash, batch, &header, segment.seed, live.end);
            let Ok(controls) = entered else {
                // The index may hold a part of it and is not to be gone on with.
                self.live = None;
                return Ok(false);
            };
            if controls > 0 {
                removal::apply_batch(&self.core, batch, &header, segment.seed);
            }
            live.tally.add(&header, batch, controls);
            live.end += len;
            self.last_position = header.last_position();
            self.last_time = header.recorded_at;
        }
        Ok(live.log_end() >= aim || self.last_position >= mark.position)
    }

    /// The written view goes on beyond the mark, as far as whole batches stand in file or ring.
    fn beyond_mark(&mut self) -> Result<Progress> {
        if self.view == View::Durable {
            return Ok(Progress::Same);
        }
        if let Some(ring) = &self.ring
            && !ring.is_still(self.basis.incarnation)?
        {
            return Ok(Progress::Elsewhere);
        }
        self.take_written(u64::MAX)
    }

    /// Takes whole batches from file or ring up to position `until`, some of them.
    pub(super) fn take_written(&mut self, until: u64) -> Result<Progress> {
        let before = self.log_end();
        let aim = before.saturating_add(STRIDE);
        while self.last_position < until && self.log_end() < aim && self.take_next()? {}
        if self.log_end() == before {
            return Ok(Progress::Same);
        }
        self.show(0);
        Ok(Progress::Further)
    }

    /// Takes what follows, if it is whole: from the file, else from the ring. What leaves the ring while the file is looked
    /// at stands in the file at a second look.
    fn take_next(&mut self) -> Result<bool> {
        let Some(live) = &self.live else { return Ok(false) };
        if let Some(next) = live.next {
            return self.roll(next, false);
        }
        let here = live.continuation(self.last_position, self.last_time);
        for source in [Source::File, Source::Ring, Source::File] {
            let next = self.copy_next(here, source)?;
            match next {
                Next::Batch(header) => return self.enter_copy(&header, source),
                Next::End(mark) => {
                    self.live.as_mut().expect("looked at above").next = Some(mark.next_segment);
                    return Ok(true);
                }
                Next::Clean | Next::Fault(_) => {}
            }
        }
        Ok(false)
    }

    /// Copies what stands at the end and judges the copy.
    fn copy_next(&mut self, here: Continuation, source: Source) -> Result<Next> {
        let mut copy = std::mem::take(&mut self.copy);
        let next = self.copy_into(&mut copy, here, source);
        self.copy = copy;
        next
    }

    fn copy_into(&self, copy: &mut Vec<u8>, here: Continuation, source: Source) -> Result<Next> {
        let live = self.live.as_ref().expect("somebody looks at its end");
        let mut room = live.segment.header.segment_len - live.end;
        if source == Source::Ring {
            let Some(ring) = &self.ring else { return Ok(Next::Clean) };
            room = room.min(ring.len());
        }
        let fetch = |copy: &mut Vec<u8>, len: u64| -> Result<()> {
            copy.resize(len as usize, 0);
            match (source, &self.ring) {
                (Source::Ring, Some(ring)) => ring.load(live.log_end(), copy),
                _ => live.segment.copy_unsettled(live.end, copy),
            }
        };
        fetch(copy, room.min(END_MARK_LEN as u64))?;
        if let Ok(header) = BatchHeader::decode(copy, here.seed) {
            if header.len() as u64 > room || header.first_position != here.position {
                return Ok(Next::Clean);
            }
            fetch(copy, header.len() as u64)?;
        }
        Ok(here.judge(copy))
    }

    /// Enters the batch that was copied, and keeps it where only the ring had it. False if there is no room to keep it yet.
    fn enter_copy(&mut self, header: &BatchHeader, source: Source) -> Result<bool> {
        let at = self.log_end();
        let end = at + header.len() as u64;
        let room = self.core.log.watermark.flushed() + self.core.log.ring_len();
        // Everything before what is in the file went there first.
        let is_settled = (source == Source::File || end > room) && self.settle()?;
        let log = &self.core.log;
        match source {
            Source::File if !is_settled => return Ok(false),
            Source::File => {}
            Source::Ring => {
                let Some(ring) = log.ring.as_ref().filter(|ring| end <= log.watermark.flushed() + ring.len()) else {
                    return Ok(false);
                };
                log.watermark.raise_low(end.saturating_sub(ring.len()));
                ring.store(at, &self.copy[..header.len()]);
            }
        }
        let live = self.live.as_mut().expect("the batch continues it");
        let batch = &self.copy[..header.len()];
        let entered = index_batch(&mut live.index, self.core.hash, batch, header, live.segment.seed, live.end);
        let controls = match entered {
            Ok(controls) => controls,
            Err(fault) => {
                let error = live.segment.faulty(live.end, None, &fault);
                self.live = None;
                return Err(error);
            }
        };
        if controls > 0 {
            removal::apply_batch(&self.core, batch, header, live.segment.seed);
        }
        live.tally.add(header, batch, controls);
        live.end += header.len() as u64;
        self.last_position = header.last_position();
        self.last_time = header.recorded_at;
        if source == Source::File {
            self.core.log.watermark.set_flushed(end);
        }
        Ok(true)
    }

    /// Looks how much of what is kept here stands in the files by now; true if all of it does.
    fn settle(&mut self) -> Result<bool> {
        let Some(live_end) = self.live.as_ref().map(Live::log_end) else { return Ok(true) };
        let log = &self.core.log;
        while let Some(segment) = self.unsettled.front() {
            let base = segment.header.base;
            let is_live = self.unsettled.len() == 1;
            let until = if is_live { live_end } else { base + segment.end() };
            let (mut kept, mut there) = ([0; 4096], [0; 4096]);
            // What lies before the first batch of a segment is read by nobody.
            log.watermark.set_flushed(base + SEGMENT_HEADER_LEN as u64);
            let mut at = log.watermark.flushed();
            while at < until {
                let Some(ring) = &log.ring else { return Ok(false) };
                // On to the next border of 8 bytes.
                at &= !7;
                let len = (until - at).min(kept.len() as u64) as usize;
                ring.load(at, &mut kept[..len]);
                segment.copy_unsettled(at - base, &mut there[..len])?;
                let same = kept[..len].iter().zip(&there[..len]).take_while(|(kept, there)| kept == there).count();
                log.watermark.set_flushed(at + same as u64);
                if same < len {
                    return Ok(false);
                }
                at += len as u64;
            }
            if is_live {
                return Ok(true);
            }
            self.unsettled.pop_front();
        }
        Ok(true)
    }

    /// Goes on in the segment that the end mark names. False if it cannot be found: in what is final that is for a look at
    /// everything, else it may only not be there yet.
    fn roll(&mut self, number: u64, is_final: bool) -> Result<bool> {
        let live = self.live.as_ref().expect("somebody looks at its end");
        let before = &live.segment;
        let link = Link { number: live.number(), final_checksum: live.tally.final_checksum.value() };
        let base = page_ceiling(live.log_end() + END_MARK_LEN as u64);
        let name = segment_name(number);
        let file = match self.storage.open(&name, Access::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("open", &name)(error)),
        };
        let fits = |header: &SegmentHeader| {
            header.identity.store == before.header.identity.store
                && header.identity.incarnation == before.header.identity.incarnation
                && header.identity.segment == number
                && header.previous == Some(link)
                && header.first_position == self.last_position + 1
                && header.base == base
        };
        let mut page = vec![0; SEGMENT_HEADER_LEN];
        let got = file.read_at(0, &mut page).map_err(Error::io("read", &name))?;
        let mut header = SegmentHeader::decode(&page[..got]).ok().flatten().filter(fits);
        if header.is_none()
            && !is_final
            && let Some(ring) = &self.ring
        {
            ring.load(base, &mut page)?;
            header = SegmentHeader::decode(&page).ok().flatten().filter(fits);
        }
        let Some(header) = header else { return Ok(false) };
        if file.len().map_err(Error::io("measure", &name))? != header.segment_len {
            return Ok(false);
        }
        before.close(Closing { end: live.end, state: SegmentState::Sealed, tally: live.tally });
        let index = new_index(header.segment_len);
        let of_index = SegmentIndex::Active(index.clone());
        let next = Segment::new(header, name, file, self.core.read_mode, of_index)?.written_here();
        let next = Arc::new(next);
        self.ended_since = (self.ended_since.0 + 1, self.ended_since.1 + before.header.segment_len);
        self.unlisted.push(before.clone());
        self.core.push_segment(next.clone());
        self.unsettled.push_back(next.clone());
        if is_final {
            // The mark lies beyond: all of it is in the files.
            self.core.log.watermark.set_flushed(base + SEGMENT_HEADER_LEN as u64);
            self.unsettled.drain(..self.unsettled.len() - 1);
        }
        self.live = Some(Live::begin(next, index));
        Ok(true)
    }

    /// Lets go of what memory holds of segments that have ended, once the manifest lists them: the index beside them
    /// answers from then on.
    pub(super) fn enlist(&mut self) {
        if self.ended_since.0 < ENLIST_AFTER_SEGMENTS && self.ended_since.1 < ENLIST_AFTER {
            return;
        }
        // Those that are not listed yet are asked for again when as much has ended anew.
        self.ended_since = (0, 0);
        let Ok(Some(mark)) = self.mark.newest() else { return };
        // Replaced meanwhile: the next mark names the new one.
        let Ok(manifest) = manifest::load(&*self.storage, mark.manifest_generation) else { return };
        let (core, unsettled) = (&self.core, &self.unsettled);
        self.unlisted.retain(|segment| {
            let number = segment.header.identity.segment;
            let closing = segment.closing().expect("only ended segments are kept here");
            let entry = manifest.segments.iter().rfind(|entry| {
                entry.number == number
                    && entry.end == closing.end
                    && entry.final_checksum == closing.tally.final_checksum.value()
            });
            let is_settled = !unsettled.iter().any(|other| Arc::ptr_eq(other, segment));
            match entry.filter(|_| manifest.store == segment.header.identity.store && is_settled) {
                Some(entry) => {
                    segment.enlist_and_release(entry, &core.cache);
                    false
                }
                None => true,
            }
        });
    }
}

/// Where a copy is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    File,
    Ring,
}
