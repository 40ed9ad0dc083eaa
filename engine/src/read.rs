//! One read: an iterator over events, bounded by the head that was pinned when it was opened.
//!
//! `Query::all()` forward walks the log batch by batch; everything else jumps along the index by cursors and confirms
//! every event before handing it out. After an error it ends; it never skips.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use annals_format::batch::BATCH_HEADER_LEN;
use annals_format::checksum::Seed;
use annals_format::manifest::LostEntry;
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
use crate::removal::Hidden;
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
    /// What is removed, if anything is.
    hidden: Option<Hidden>,
    skipped: Skipping,
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
        /// Position of the event handed out last; 0 before the first.
        passed: u64,
    },
}

/// One step of a reading.
#[derive(Debug)]
pub(crate) enum Step {
    Event(Event),
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
    /// Memory of an earlier copy of the ring's newest bytes, for the next one.
    used: Option<Map>,
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
    pub(crate) fn of_query(core: Arc<Core>, query: Query, bounds: Bounds, head: u64, hidden: Option<Hidden>) -> Self {
        let plan = if query.is_all() && bounds.direction == Direction::Forward {
            Plan::Scan(Scan::from(bounds.from))
        } else {
            Plan::Select { select: Select::Query(query), walk: Walk::new(bounds) }
        };
        let segments = core.segments.load_full();
        let done = bounds.until < bounds.from;
        Self { core, segments, bounds, head, state: None, plan, hidden, skipped: Skipping::default(), done }
    }

    /// Of one stream: `revisions`, or where these are not known whatever lies within the bounds.
    pub(crate) fn of_stream(
        core: Arc<Core>,
        stream: &str,
        bounds: Bounds,
        revisions: Option<(u64, u64)>,
        head: u64,
        hidden: Option<Hidden>,
        state: StreamState,
    ) -> Self {
        let (next, last) = match (revisions, bounds.direction) {
            (Some((first, last)), Direction::Forward) => (first, last),
            (Some((first, last)), Direction::Backward) => (last, first),
            (None, _) => (0, 0),
        };
        let key = core.hash.key(KeyKind::Stream, stream);
        let select = Select::Stream { name: stream.to_owned(), key, next, last, passed: 0 };
        let segments = core.segments.load_full();
        let done = revisions.is_some_and(|(first, last)| last < first) || bounds.until < bounds.from;
        let plan = Plan::Select { select, walk: Walk::new(bounds) };
        Self { core, segments, bounds, head, state: Some(state), plan, hidden, skipped: Skipping::default(), done }
    }

    /// So many events were passed over before the first.
    pub(crate) fn past(mut self, skipped: u64) -> Self {
        self.skipped.count = skipped;
        self
    }

    /// The head this read is bounded by: position of the last record it could see.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// For a read of a stream: the stream's state at that head, which tells an absent stream from an empty stretch.
    pub fn state(&self) -> Option<StreamState> {
        self.state
    }

    /// How many events that were asked for this read has passed over so far because they were removed. Those whose bytes
    /// compaction has taken away are counted in reads of a stream alone, and there not in reads from a time.
    pub fn skipped(&self) -> u64 {
        self.skipped.count
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
            let (core, segments, until) = (&self.core, &self.segments, self.bounds.until);
            let Some(hidden) = &self.hidden else { return scan.run(core, segments, until, &mut each) };
            return scan.run(core, segments, until, &mut |event: EventRef<'_>| match hidden.reason(event) {
                None => each(event),
                Some(_) => ControlFlow::Continue(()),
            });
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
        if let Some(step) = self.skipped.pending() {
            return Some(Ok(step));
        }
        match self.next() {
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(event)) => self.skipped.before(Some(event)).map(Ok),
            None => self.skipped.before(None).map(Ok),
        }
    }

    fn advance(&mut self) -> Result<Option<Event>> {
        if self.hidden.is_some() { self.advance_visible() } else { self.advance_any() }
    }

    /// The next event that was not removed; notes what is passed over.
    #[cold]
    fn advance_visible(&mut self) -> Result<Option<Event>> {
        self.skipped.gaps.clear();
        loop {
            let Some(event) = self.advance_any()? else { return Ok(None) };
            let hidden = self.hidden.as_ref().expect("asked where something is hidden");
            match hidden.reason(event.as_event_ref()) {
                None => return Ok(Some(event)),
                Some(why) => self.skipped.note(event.position().get(), why),
            }
        }
    }

    fn advance_any(&mut self) -> Result<Option<Event>> {
        match &mut self.plan {
            Plan::Scan(scan) => scan.next(&self.core, &self.segments, self.bounds.until),
            Plan::Select { select, walk } => loop {
                if select.is_complete(self.bounds.direction) {
                    return Ok(None);
                }
                let Some(position) = walk.next(&self.core, &self.segments, select.sought())? else {
                    return select.check_complete(&self.core.lost, self.bounds.direction).map(|()| None);
                };
                let Some(event) = walk.event(&self.core, &self.segments, position)? else { continue };
                match select.judge(&event, self.bounds.direction) {
                    Judged::Wanted => return Ok(Some(event)),
                    Judged::Other => {}
                    // Where records are lost, so many revisions may be fewer events.
                    Judged::Early(_) if !self.core.lost.is_empty() => {}
                    Judged::Early(revisions) => walk.pass(revisions),
                    Judged::Hole(_) if select.steps_over(&self.core.lost, &event, self.bounds.direction) => {
                        if let Judged::Wanted = select.judge(&event, self.bounds.direction) {
                            return Ok(Some(event));
                        }
                    }
                    Judged::Hole(what) => {
                        let segment = walk.segment().expect("an event comes from a segment");
                        return Err(segment.damaged(0, Some(position), what));
                    }
                }
            },
        }
    }
}

/// Most stretches that are told apart between two events; more become one with the last.
const GAPS_MAX: usize = 16;

/// What was passed over because it was removed: in all, and what is still to be told of.
#[derive(Debug, Default)]
pub(crate) struct Skipping {
    count: u64,
    gaps: VecDeque<Skipped>,
    /// What comes after the gaps.
    behind: Option<Event>,
}

impl Skipping {
    /// The event at `position` is passed over.
    pub(crate) fn note(&mut self, position: u64, why: RemovalReason) {
        self.count += 1;
        let is_full = self.gaps.len() == GAPS_MAX;
        match self.gaps.back_mut() {
            Some(gap) if gap.why == why || is_full => gap.last = position,
            _ => self.gaps.push_back(Skipped { first: position, last: position, why }),
        }
    }

    /// What was left to be told when something was told before it.
    pub(crate) fn pending(&mut self) -> Option<Step> {
        let gap = self.gaps.pop_front().map(Step::Skipped);
        gap.or_else(|| self.behind.take().map(Step::Event))
    }

    /// The first of what was passed over before this event, or before the end; else the event.
    pub(crate) fn before(&mut self, event: Option<Event>) -> Option<Step> {
        let Some(gap) = self.gaps.pop_front() else { return event.map(Step::Event) };
        self.behind = event;
        Some(Step::Skipped(gap))
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
        let (name, next, last, passed) = match self {
            Self::Query(query) if query.matches(&event.as_event_ref()) => return Judged::Wanted,
            Self::Query(_) => return Judged::Other,
            Self::Stream { name, next, last, passed, .. } => (name, next, last, passed),
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
        *passed = event.position().get();
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

    /// Whether revisions before this event may be missing because records between it and the one before it were lost
    /// when the store was repaired; then it is the next.
    #[cold]
    fn steps_over(&mut self, lost: &[LostEntry], event: &Event, direction: Direction) -> bool {
        let Self::Stream { next, passed, .. } = self else { return false };
        let position = event.position().get();
        let is_explained = match direction {
            Direction::Forward => are_lost(lost, *passed, position),
            Direction::Backward => are_lost(lost, position, if *passed == 0 { u64::MAX } else { *passed }),
        };
        if is_explained {
            *next = event.revision().get();
        }
        is_explained
    }

    /// At the end of the index: that nothing of a stream was left to come. Where a time bounds it, that is not known.
    fn check_complete(&self, lost: &[LostEntry], direction: Direction) -> Result<()> {
        match self {
            // Towards the beginning, what is missing stood before the event that was handed out last.
            Self::Stream { passed, .. } if direction == Direction::Backward && are_lost(lost, 0, *passed) => Ok(()),
            Self::Stream { name, next, last, .. } if *last != 0 => {
                let what = format!("stream {name:?} ends where revision {next} belongs");
                Err(Error::corrupt("the index", 0, None, what))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a record between two positions was lost.
fn are_lost(lost: &[LostEntry], after: u64, before: u64) -> bool {
    let from = lost.partition_point(|range| range.last_position <= after);
    lost.get(from).is_some_and(|range| range.first_position < before)
}

impl Scan {
    /// Begins with this position.
    pub(crate) fn from(position: u64) -> Self {
        Self { segment_index: 0, position, place: None, used: None }
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
                // Behind the records of a batch its sections may stand.
                Some(place) if place.frame < place.batch_end && self.position <= place.last() => return Ok(true),
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
            let until = until.min(place.last());
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
    fn begin(core: &Core, segment: Arc<Segment>, offset: u64, position: u64, used: &mut Option<Map>) -> Result<Self> {
        let opened = segment.opened()?.into_arc();
        let window = segment.window_ahead(&opened, &core.log, offset, BATCH_HEADER_LEN as u64, used)?;
        let facts = BatchFacts { first_position: 0, record_count: 0, recorded_at: 0, as_batch: false };
        let mut place = Self { segment, opened, window, facts, frame: 0, batch_end: offset };
        place.enter_batch(core, offset, position, used)?;
        Ok(place)
    }

    #[inline]
    fn enter_batch(&mut self, core: &Core, offset: u64, position: u64, used: &mut Option<Map>) -> Result<()> {
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
    fn move_window(&mut self, core: &Core, offset: u64, len: u64, used: &mut Option<Map>) -> Result<()> {
        let window = self.segment.window_ahead(&self.opened, &core.log, offset, len, used)?;
        let before = std::mem::replace(&mut self.window, window);
        if before.map.is_copy() {
            *used = Some(before.map);
        }
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
