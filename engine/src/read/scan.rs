//! A walk along the log, batch by batch: every record in order, checked in runs before the first of them is handed out.

use std::ops::ControlFlow;
use std::sync::Arc;

use annals_format::batch::BATCH_HEADER_LEN;
use annals_format::checksum::Seed;
use annals_format::record::{self, Record};
use annals_format::{Fault, Purpose};

use crate::Result;
use crate::core::{Core, SegmentList};
use crate::error::Error;
use crate::event::{Event, EventRef};
use crate::prefetch::prefetch;
use crate::segment::{BatchFacts, Opened, Segment, Window};
use crate::storage::Map;

/// A walk along the log. It may be kept where it stands, and gone on with when there is more.
#[derive(Debug)]
pub(crate) struct Scan {
    segment_index: usize,
    /// The next one.
    position: u64,
    place: Option<ScanPlace>,
    /// Memory of earlier copies of the ring's newest bytes, for the next ones.
    used: UsedCopies,
}

/// Memory that may serve another copy: two, since one is the window and the one before may still be held.
#[derive(Debug, Default)]
pub(crate) struct UsedCopies([Option<Map>; 2]);

impl UsedCopies {
    pub(crate) fn take(&mut self) -> Option<Map> {
        self.0.iter_mut().find_map(Option::take)
    }

    pub(crate) fn keep(&mut self, map: Map) {
        if map.is_copy() {
            self.0.rotate_right(1);
            self.0[0] = Some(map);
        }
    }
}

#[derive(Debug)]
struct ScanPlace {
    segment: Arc<Segment>,
    opened: Arc<Opened>,
    window: Window,
    /// The batch being read, where its next frame stands, and where it ends.
    facts: BatchFacts,
    frame: u64,
    batch_end: u64,
    /// Where its first frame stands.
    first_frame: u64,
}

impl Scan {
    /// Begins with this position.
    pub(crate) fn from(position: u64) -> Self {
        Self { segment_index: 0, position, place: None, used: UsedCopies::default() }
    }

    /// The next position.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The list of segments is another one: finds its place in it again. A segment that has grown stands there anew.
    pub(crate) fn carry_over(&mut self, segments: &SegmentList) -> Result<()> {
        let Some(place) = &mut self.place else { return Ok(()) };
        let identity = place.segment.header.identity;
        // From the end: that is where somebody stands who reads on.
        let same = segments.iter().rposition(|segment| segment.header.identity == identity);
        match same.map(|index| (index, &segments[index])) {
            Some((index, segment)) if place.batch_end <= segment.end() => {
                self.segment_index = index;
                if !Arc::ptr_eq(segment, &place.segment) {
                    place.opened = segment.opened_to_scan()?.into_arc();
                    place.segment = segment.clone();
                }
            }
            // Found by its position at the next step.
            _ => self.leave(),
        }
        Ok(())
    }

    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.used.keep(place.window.map);
        }
    }

    /// Stands at the first frame at or after `self.position`; false at the end.
    fn settle(&mut self, core: &Core, segments: &SegmentList, until: u64) -> Result<bool> {
        loop {
            if self.position > until {
                return Ok(false);
            }
            match &mut self.place {
                // Behind the records of a batch its sections may stand.
                Some(place) if place.frame < place.batch_end && self.position <= place.last() => return Ok(true),
                Some(place) if place.batch_end < place.segment.end() => {
                    let offset = place.batch_end;
                    place.enter_batch(core, offset, self.position, &mut self.used)?;
                }
                Some(_) => {
                    self.segment_index += 1;
                    self.leave();
                    let Some(segment) = segments.get(self.segment_index) else {
                        return Err(Error::corrupt(
                            "the log",
                            0,
                            Some(self.position),
                            "no segment holds this position",
                        ));
                    };
                    let start = annals_format::segment::SEGMENT_HEADER_LEN as u64;
                    // A segment may have been rolled away from before anything was written to it.
                    if segment.end() > start {
                        self.place =
                            Some(ScanPlace::begin(core, segment.clone(), start, self.position, &mut self.used)?);
                    }
                }
                None => self.start(core, segments)?,
            }
        }
    }

    /// Finds the batch that holds the first position by the index, and the frame in it.
    fn start(&mut self, core: &Core, segments: &SegmentList) -> Result<()> {
        let holding = segments.index_of(self.position);
        let segment = holding.map(|index| &segments[index]);
        let front = annals_format::segment::SEGMENT_HEADER_LEN as u64;
        if let (Some(index), Some(segment)) = (holding, segment)
            && segment.first_position() == self.position
            && segment.end() > front
        {
            self.segment_index = index;
            self.place = Some(ScanPlace::begin(core, segment.clone(), front, self.position, &mut self.used)?);
            return Ok(());
        }
        let place = match segment {
            Some(segment) => segment.place(&*segment.opened()?, self.position)?,
            None => None,
        };
        let (Some(index), Some(segment), Some(place)) = (holding, segment, place) else {
            return Err(Error::corrupt("the index", 0, Some(self.position), "no record is known at this position"));
        };
        self.segment_index = index;
        let mut at = ScanPlace::begin(core, segment.clone(), place.batch, 0, &mut self.used)?;
        at.frame = place.frame;
        self.place = Some(at);
        Ok(())
    }

    /// The next event up to position `until`.
    pub(crate) fn next(&mut self, core: &Core, segments: &SegmentList, until: u64) -> Result<Option<Event>> {
        while self.settle(core, segments, until)? {
            let place = self.place.as_mut().expect("settled");
            let position = self.position;
            let record = place.decode(position)?;
            self.position += 1;
            let at = place.frame;
            match record {
                Record::Event(frame) => {
                    let layout = frame.layout();
                    place.frame += layout.frame_len() as u64;
                    let start = (at - place.window.start) as usize;
                    return Ok(Some(Event::new(place.window.map.clone(), start, layout, place.facts)));
                }
                Record::Control(frame) => place.frame += frame.frame_len() as u64,
            }
        }
        Ok(None)
    }

    /// The inner loop of a scan: one decode an event, the batch header once a batch.
    pub(crate) fn run<B>(
        &mut self,
        core: &Core,
        segments: &SegmentList,
        until: u64,
        each: &mut impl FnMut(EventRef<'_>) -> ControlFlow<B>,
    ) -> Result<Option<B>> {
        while self.settle(core, segments, until)? {
            let place = self.place.as_mut().expect("settled");
            let until = until.min(place.last());
            // A frame that came with its block is sound; that it is the one of this position is known from the beginning of its
            // batch on, or when its checksum was seen.
            let mut is_placed = place.frame == place.first_frame && self.position == place.facts.first_position;
            let ScanPlace { segment, window, facts, frame, batch_end, .. } = place;
            let start = *frame;
            let (bytes, onward) = (window.between(start, *batch_end), window.from(start));
            let mut at = 0;
            while at < bytes.len() && self.position <= until {
                let sound = if is_placed { window.sound_len(start + at as u64) } else { 0 };
                let (run, fault) = checked_run(&bytes[at..], &onward[at..], sound, segment.seed, self.position, until);
                is_placed = true;
                let end = at + run;
                while at < end {
                    let frame_len = record::frame_len(&bytes[at..]).expect("checked");
                    let record = record::read(&bytes[at..at + frame_len], self.position, Purpose::Read)
                        .map_err(|fault| segment.faulty(start + at as u64, Some(self.position), &fault))?;
                    // In step before it is handed out: who takes it may unwind.
                    self.position += 1;
                    at += frame_len;
                    *frame = start + at as u64;
                    if let Record::Event(record) = record
                        && let ControlFlow::Break(value) = each(EventRef::new(record, *facts))
                    {
                        return Ok(Some(value));
                    }
                }
                if let Some(fault) = fault {
                    return Err(segment.faulty(start + at as u64, Some(self.position), &fault));
                }
            }
        }
        Ok(None)
    }
}

/// Frames whose checksums are verified before the first of them is handed out: few enough to stay in the innermost
/// cache, enough that the loop over them runs without a pause. Checking and handing out in turn takes twice as long.
const CHECKED_TOGETHER: usize = 16;

const PAGE: usize = 4096;

/// Asks for the first line of each of the next two pages. The processor asks for memory ahead by itself, but stops at each
/// page; asking for every line costs more than it saves where the processor is quick at it.
#[inline(always)]
fn prefetch_pages(onward: &[u8]) {
    let next = onward.as_ptr().addr().wrapping_neg() & (PAGE - 1);
    for page in [next, next + PAGE] {
        onward.get(page).into_iter().for_each(prefetch);
    }
}

/// Verifies the checksums of the frames at the beginning of `bytes`; answers the length of those that are right, and what
/// is wrong with the next one. `onward` begins at the same byte and goes as far as there is anything to read; frames in the
/// first `sound` bytes have been verified.
#[inline]
fn checked_run(
    bytes: &[u8],
    onward: &[u8],
    sound: usize,
    seed: Seed,
    position: u64,
    until: u64,
) -> (usize, Option<Fault>) {
    prefetch_pages(onward);
    let count = CHECKED_TOGETHER.min((until - position + 1).min(usize::MAX as u64) as usize);
    let mut len = 0;
    for index in 0..count {
        if len >= bytes.len() {
            break;
        }
        let ahead = &bytes[len..];
        let checked = match record::frame_len(ahead) {
            Ok(frame_len) if frame_len <= ahead.len() && len + frame_len <= sound => Ok(&ahead[..frame_len]),
            _ => record::check(ahead, seed, position + index as u64),
        };
        match checked {
            Ok(frame) => {
                len += frame.len();
            }
            Err(fault) => return (len, Some(fault)),
        }
    }
    (len, None)
}

impl ScanPlace {
    /// Enters the batch at `offset`. `position` is the one it must begin with; 0 if that is not known.
    fn begin(core: &Core, segment: Arc<Segment>, offset: u64, position: u64, used: &mut UsedCopies) -> Result<Self> {
        let opened = segment.opened_to_scan()?.into_arc();
        opened.read_in_order();
        let window = segment.window_ahead(&opened, &core.log, offset, BATCH_HEADER_LEN as u64, used, None)?;
        let facts = BatchFacts { first_position: 0, record_count: 0, recorded_at: 0, as_batch: false };
        let mut place = Self { segment, opened, window, facts, frame: 0, batch_end: offset, first_frame: 0 };
        place.enter_batch(core, offset, position, used)?;
        Ok(place)
    }

    #[inline]
    fn enter_batch(&mut self, core: &Core, offset: u64, position: u64, used: &mut UsedCopies) -> Result<()> {
        if !self.window.holds(offset, BATCH_HEADER_LEN as u64) {
            self.move_window(core, offset, BATCH_HEADER_LEN as u64, used)?;
        }
        let header = match position {
            0 => self.segment.batch_header(&self.window, offset)?,
            _ => self.segment.next_batch_header(&self.window, offset)?,
        };
        if position != 0 && header.first_position != position {
            let what = format!("a batch begins with position {} where {position} belongs", header.first_position);
            return Err(self.segment.damaged(offset, Some(position), what));
        }
        let len = header.len() as u64;
        if !self.window.holds(offset, len) {
            self.move_window(core, offset, len, used)?;
        }
        self.facts = BatchFacts::from(&header);
        self.first_frame = offset + BATCH_HEADER_LEN as u64;
        self.frame = self.first_frame;
        self.batch_end = offset + len;
        Ok(())
    }

    /// Another window; the memory of the one before may serve the one after.
    fn move_window(&mut self, core: &Core, offset: u64, len: u64, used: &mut UsedCopies) -> Result<()> {
        let before = Some(&self.window);
        let window = self.segment.window_ahead(&self.opened, &core.log, offset, len, used, before)?;
        used.keep(std::mem::replace(&mut self.window, window).map);
        Ok(())
    }

    /// The last position of the batch.
    #[inline]
    fn last(&self) -> u64 {
        (self.facts.first_position + u64::from(self.facts.record_count)).saturating_sub(1)
    }

    fn decode(&self, position: u64) -> Result<Record<'_>> {
        record::decode(self.window.between(self.frame, self.batch_end), self.segment.seed, position)
            .map_err(|fault| self.segment.faulty(self.frame, Some(position), &fault))
    }
}
