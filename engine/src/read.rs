//! One read: an iterator over events, bounded by the head that was pinned when it was opened.
//!
//! `Query::all()` forward walks the log batch by batch; everything else jumps along the index by cursors and confirms
//! every event before handing it out. After an error it ends; it never skips.

use std::ops::ControlFlow;
use std::sync::Arc;

use annals_format::batch::BATCH_HEADER_LEN;
use annals_format::checksum::Seed;
use annals_format::record::{self, Record};
use annals_format::{Fault, Purpose};

use crate::Result;
use crate::core::{Core, SegmentList};
use crate::cursor::{Sought, Walk};
use crate::error::{Error, StreamState};
use crate::event::{Event, EventRef};
use crate::name::KeyKind;
use crate::prefetch::prefetch;
use crate::query::Query;
use crate::reader::RemovalReason;
use crate::segment::{BatchFacts, Opened, Segment, Window};
use crate::storage::Map;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

/// Positions `from ..= until`; empty when `until < from`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) direction: Direction,
}

impl Bounds {
    /// Where to go on past positions `first ..= last`; `None` beyond the bounds.
    #[inline]
    pub(crate) fn beyond(self, first: u64, last: u64) -> Option<u64> {
        match self.direction {
            Direction::Forward => last.checked_add(1).filter(|at| *at <= self.until),
            Direction::Backward => first.checked_sub(1).filter(|at| *at >= self.from),
        }
    }
}

/// Events in order, as `for` wants them; each a cheap handle that borrows nothing.
///
/// Bounded by [`Read::head`], which is therefore a safe `after` for an append condition on what was read.
#[derive(Debug)]
pub struct Read {
    core: Arc<Core>,
    segments: SegmentList,
    bounds: Bounds,
    head: u64,
    state: Option<StreamState>,
    plan: Plan,
    done: bool,
}

#[derive(Debug)]
enum Plan {
    Scan(Scan),
    Select { select: Select, walk: Walk },
}

/// What is chosen by the index, and how it is confirmed.
#[derive(Debug)]
enum Select {
    Query(Query),
    /// The next revision to hand out, and the last one.
    Stream {
        name: String,
        key: u64,
        next: u64,
        last: u64,
    },
}

/// One step of a reading.
#[derive(Debug)]
pub(crate) enum Step {
    Event(Event),
    #[allow(dead_code, reason = "nothing can be removed yet")]
    Skipped(Skipped),
}

/// Positions that a reading passed over because events that could have matched were removed from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Skipped {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) why: RemovalReason,
}

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

    fn keep(&mut self, map: Map) {
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
}

impl Read {
    pub(crate) fn of_query(core: Arc<Core>, query: Query, bounds: Bounds, head: u64) -> Self {
        let plan = if query.is_all() && bounds.direction == Direction::Forward {
            Plan::Scan(Scan::from(bounds.from))
        } else {
            Plan::Select { select: Select::Query(query), walk: Walk::new(bounds) }
        };
        let segments = core.segments.load_full();
        Self { core, segments, bounds, head, state: None, plan, done: bounds.until < bounds.from }
    }

    pub(crate) fn of_stream(
        core: Arc<Core>,
        stream: &str,
        bounds: Bounds,
        revisions: (u64, u64),
        head: u64,
        state: StreamState,
    ) -> Self {
        let (first, last) = revisions;
        let timed = bounds.from > 1 || bounds.until < head;
        let next = match (bounds.direction, timed) {
            (Direction::Forward, false) => first,
            (Direction::Backward, false) => last,
            // Where a time falls in the stream is learnt from the first event found.
            (_, true) => 0,
        };
        let end = if bounds.direction == Direction::Forward { last } else { first };
        let key = core.hash.key(KeyKind::Stream, stream);
        let select = Select::Stream { name: stream.to_owned(), key, next, last: if timed { 0 } else { end } };
        let segments = core.segments.load_full();
        let done = last < first || bounds.until < bounds.from;
        let plan = Plan::Select { select, walk: Walk::new(bounds) };
        Self { core, segments, bounds, head, state: Some(state), plan, done }
    }

    /// The head this read is bounded by: position of the last record it could see.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// For a read of a stream: the stream's state at that head, which tells an absent stream from an empty stretch.
    pub fn state(&self) -> Option<StreamState> {
        self.state
    }

    /// Hands every event to `each` as a borrowed view: the fastest form, without a reference count per event.
    ///
    /// Ends early with `Some` of what `each` breaks with.
    ///
    /// # Errors
    /// `Corrupt` or `Io` at the first thing that is damaged; events before it have been handed out.
    pub fn for_each_event<B>(mut self, mut each: impl FnMut(EventRef<'_>) -> ControlFlow<B>) -> Result<Option<B>> {
        if let Plan::Scan(scan) = &mut self.plan {
            if self.done {
                return Ok(None);
            }
            return scan.run(&self.core, &self.segments, self.bounds.until, &mut each);
        }
        for event in self {
            if let ControlFlow::Break(value) = each(event?.as_event_ref()) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// As the iterator, and told what was passed over.
    pub(crate) fn step(&mut self) -> Option<Result<Step>> {
        self.next().map(|event| event.map(Step::Event))
    }

    fn advance(&mut self) -> Result<Option<Event>> {
        match &mut self.plan {
            Plan::Scan(scan) => scan.next(&self.core, &self.segments, self.bounds.until),
            Plan::Select { select, walk } => loop {
                if select.is_complete(self.bounds.direction) {
                    return Ok(None);
                }
                let Some(position) = walk.next(&self.core, &self.segments, select.sought())? else {
                    return select.check_complete().map(|()| None);
                };
                let Some(event) = walk.event(&self.core, &self.segments, position)? else { continue };
                match select.judge(&event, self.bounds.direction) {
                    Judged::Wanted => return Ok(Some(event)),
                    Judged::Other => {}
                    Judged::Early(revisions) => walk.pass(revisions),
                    Judged::Hole(what) => {
                        let segment = walk.segment().expect("an event comes from a segment");
                        return Err(segment.damaged(0, Some(position), what));
                    }
                }
            },
        }
    }
}

impl Iterator for Read {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        if self.done {
            return None;
        }
        let next = self.advance().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.done = true;
        }
        next
    }
}

impl std::iter::FusedIterator for Read {}

/// What becomes of an event that the index led to.
enum Judged {
    Wanted,
    /// A name with the same hash, or past what was asked for.
    Other,
    /// Of the stream, so many revisions before the one that comes next.
    Early(u64),
    /// Of the stream, but a revision is missing before it.
    Hole(String),
}

impl Select {
    fn sought(&self) -> Sought<'_> {
        match self {
            Self::Query(query) => Sought::Query(query),
            Self::Stream { key, .. } => Sought::Stream(*key),
        }
    }

    /// Whether the event is one that was asked for. In a stream, also that no revision is missing before it.
    #[inline]
    fn judge(&mut self, event: &Event, direction: Direction) -> Judged {
        let (name, next, last) = match self {
            Self::Query(query) if query.matches(&event.as_event_ref()) => return Judged::Wanted,
            Self::Query(_) => return Judged::Other,
            Self::Stream { name, next, last, .. } => (name, next, last),
        };
        if event.stream() != name {
            return Judged::Other;
        }
        let revision = event.revision().get();
        let (early, is_past) = match direction {
            Direction::Forward => (next.saturating_sub(revision), *last != 0 && revision > *last),
            Direction::Backward if *next == 0 => (0, revision < *last),
            Direction::Backward => (revision.saturating_sub(*next), revision < *last),
        };
        if early > 0 {
            return Judged::Early(early);
        }
        if is_past {
            return Judged::Other;
        }
        if *next != 0 && revision != *next {
            return Judged::Hole(format!("stream {name:?} goes on with revision {revision} where {next} belongs"));
        }
        *next = match direction {
            Direction::Forward => revision + 1,
            Direction::Backward => revision - 1,
        };
        if *next == 0 {
            // Revision 1 was handed out; nothing lies before it.
            *last = u64::MAX;
        }
        Judged::Wanted
    }

    /// Whether the last revision that was asked for has been handed out.
    #[inline]
    fn is_complete(&self, direction: Direction) -> bool {
        match (self, direction) {
            (Self::Query(_), _) => false,
            (Self::Stream { last: u64::MAX, .. }, _) => true,
            (Self::Stream { last: 0, .. }, _) => false,
            (Self::Stream { next, last, .. }, Direction::Forward) => next > last,
            (Self::Stream { next, last, .. }, Direction::Backward) => next < last,
        }
    }

    /// At the end of the index: that nothing of a stream was left to come. Where a time bounds it, that is not known.
    fn check_complete(&self) -> Result<()> {
        match self {
            Self::Stream { name, next, last, .. } if *last != 0 => {
                let what = format!("stream {name:?} ends where revision {next} belongs");
                Err(Error::corrupt("the index", 0, None, what))
            }
            _ => Ok(()),
        }
    }
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
                    place.opened = segment.opened()?.into_arc();
                    place.segment = segment.clone();
                }
            }
            // Found by its position at the next step.
            _ => self.place = None,
        }
        Ok(())
    }

    /// Stands at the first frame at or after `self.position`; false at the end.
    fn settle(&mut self, core: &Core, segments: &SegmentList, until: u64) -> Result<bool> {
        loop {
            if self.position > until {
                return Ok(false);
            }
            match &mut self.place {
                Some(place) if place.frame < place.batch_end => return Ok(true),
                Some(place) if place.batch_end < place.segment.end() => {
                    let offset = place.batch_end;
                    place.enter_batch(core, offset, self.position, &mut self.used)?;
                }
                Some(_) => {
                    self.segment_index += 1;
                    self.place = None;
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
        let holding = segments.partition_point(|s| s.first_position() <= self.position).checked_sub(1);
        let segment = holding.and_then(|index| segments.get(index));
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
            let bytes = place.window.between(place.frame, place.batch_end);
            let onward = place.window.from(place.frame);
            let seed = place.segment.seed;
            let mut at = 0;
            while at < bytes.len() && self.position <= until {
                let (run, fault) = checked_run(&bytes[at..], &onward[at..], seed, self.position, until);
                let end = at + run;
                while at < end {
                    let frame_len = record::frame_len(&bytes[at..]).expect("checked");
                    let record = record::read(&bytes[at..at + frame_len], self.position, Purpose::Read)
                        .map_err(|fault| place.segment.faulty(place.frame + at as u64, Some(self.position), &fault))?;
                    self.position += 1;
                    at += frame_len;
                    if let Record::Event(frame) = record
                        && let ControlFlow::Break(value) = each(EventRef::new(frame, place.facts))
                    {
                        place.frame += at as u64;
                        return Ok(Some(value));
                    }
                }
                if let Some(fault) = fault {
                    return Err(place.segment.faulty(place.frame + at as u64, Some(self.position), &fault));
                }
            }
            place.frame += at as u64;
        }
        Ok(None)
    }
}

/// Frames whose checksums are verified before the first of them is handed out: few enough to stay in the innermost
/// cache, enough that the loop over them runs without a pause. Checking and handing out in turn takes twice as long.
const CHECKED_TOGETHER: usize = 16;

/// How far ahead of the frame at work memory is asked for: the processor does so by itself, but stops at each page.
const AHEAD: usize = 2048;

/// Verifies the checksums of the frames at the beginning of `bytes`; answers the length of those that are right, and what
/// is wrong with the next one. `onward` begins at the same byte and goes as far as there is anything to read.
#[inline]
fn checked_run(bytes: &[u8], onward: &[u8], seed: Seed, position: u64, until: u64) -> (usize, Option<Fault>) {
    let count = CHECKED_TOGETHER.min((until - position + 1).min(usize::MAX as u64) as usize);
    let mut len = 0;
    for index in 0..count {
        if len >= bytes.len() {
            break;
        }
        match record::check(&bytes[len..], seed, position + index as u64) {
            Ok(frame) => {
                for line in (len + AHEAD..len + AHEAD + frame.len()).step_by(64) {
                    onward.get(line).into_iter().for_each(prefetch);
                }
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
        let opened = segment.opened()?.into_arc();
        let window = segment.window_ahead(&opened, &core.log, offset, BATCH_HEADER_LEN as u64, used)?;
        let facts = BatchFacts { first_position: 0, record_count: 0, recorded_at: 0, as_batch: false };
        let mut place = Self { segment, opened, window, facts, frame: 0, batch_end: offset };
        place.enter_batch(core, offset, position, used)?;
        Ok(place)
    }

    #[inline]
    fn enter_batch(&mut self, core: &Core, offset: u64, position: u64, used: &mut UsedCopies) -> Result<()> {
        if !self.window.holds(offset, BATCH_HEADER_LEN as u64) {
            self.move_window(core, offset, BATCH_HEADER_LEN as u64, used)?;
        }
        let header = self.segment.batch_header(&self.window, offset)?;
        if position != 0 && header.first_position != position {
            let what = format!("a batch begins with position {} where {position} belongs", header.first_position);
            return Err(self.segment.damaged(offset, Some(position), what));
        }
        let len = header.len() as u64;
        if !self.window.holds(offset, len) {
            self.move_window(core, offset, len, used)?;
        }
        self.facts = BatchFacts::from(&header);
        self.frame = offset + BATCH_HEADER_LEN as u64;
        self.batch_end = offset + len;
        Ok(())
    }

    /// Another window; the memory of the one before may serve the one after.
    fn move_window(&mut self, core: &Core, offset: u64, len: u64, used: &mut UsedCopies) -> Result<()> {
        let window = self.segment.window_ahead(&self.opened, &core.log, offset, len, used)?;
        used.keep(std::mem::replace(&mut self.window, window).map);
        Ok(())
    }

    fn decode(&self, position: u64) -> Result<Record<'_>> {
        record::decode(self.window.between(self.frame, self.batch_end), self.segment.seed, position)
            .map_err(|fault| self.segment.faulty(self.frame, Some(position), &fault))
    }
}
