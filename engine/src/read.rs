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
use crate::cursor::{AHEAD_MAX, Ahead, Sought, Walk};
use crate::error::{Error, StreamState};
use crate::event::{Event, EventRef};
use crate::prefetch::prefetch;
use crate::query::Query;
use crate::reader::RemovalReason;
use crate::removal::{self, Hidden};
use crate::segment::{BatchFacts, Found, Opened, Segment, Window};
use crate::segments::Segments;
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
#[expect(
    clippy::large_enum_variant,
    reason = "positions ahead are kept in place: a read is made without an allocation"
)]
enum Plan {
    Scan(Scan),
    Select(Selection),
}

/// What is chosen by the index: where a walk over it stands, and what it has found ahead of the event at hand.
#[derive(Debug)]
struct Selection {
    select: Select,
    walk: Walk,
    /// The next of them is at `next`.
    ahead: Ahead,
    next: usize,
    /// How many are looked for next.
    width: usize,
    /// What ended the walk, when those ahead have been handed out.
    failed: Option<Error>,
}

/// What is sought, and how it is confirmed.
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
}

impl Read {
    pub(crate) fn of_query(core: Arc<Core>, query: Query, bounds: Bounds, head: u64, hidden: Option<Hidden>) -> Self {
        let plan = if query.is_all() && bounds.direction == Direction::Forward {
            Plan::Scan(Scan::from(bounds.from))
        } else {
            Plan::Select(Selection::new(Select::Query(query), Walk::new(bounds), FIRST_WIDTH))
        };
        let segments = core.segments.load_full();
        let done = bounds.until < bounds.from;
        Self { core, segments, bounds, head, state: None, plan, hidden, skipped: Skipping::default(), done }
    }

    /// A read of a stream by what [`StreamBegun`] has looked for: `revisions`, or where these are not known whatever lies
    /// within the bounds.
    pub(crate) fn of_stream(
        begun: StreamBegun,
        revisions: Option<(u64, u64)>,
        head: u64,
        hidden: Option<Hidden>,
        state: StreamState,
    ) -> Self {
        let StreamBegun { core, segments, bounds, mut selection } = begun;
        if let Select::Stream { next, last, .. } = &mut selection.select {
            (*next, *last) = match (revisions, bounds.direction) {
                (Some((first, last)), Direction::Forward) => (first, last),
                (Some((first, last)), Direction::Backward) => (last, first),
                (None, _) => (0, 0),
            };
        }
        let done = revisions.is_some_and(|(first, last)| last < first) || bounds.until < bounds.from;
        let plan = Plan::Select(selection);
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

    /// How many events that were asked for this read has passed over so far because they were removed.
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
            let Some(hidden) = &self.hidden else {
                return scan.run(core, segments, until, &mut |event: EventRef<'_>| match event.is_compacted() {
                    false => each(event),
                    true => ControlFlow::Continue(()),
                });
            };
            return scan.run(
                core,
                segments,
                until,
                &mut |event: EventRef<'_>| match removal::reason(Some(hidden), event) {
                    None => each(event),
                    Some(_) => ControlFlow::Continue(()),
                },
            );
        }
        let Self { core, segments, bounds, hidden, plan: Plan::Select(selection), done: false, .. } = &mut self else {
            return Ok(None);
        };
        while let Some(found) = selection.next(core, segments, bounds.direction)? {
            let event = found.as_event_ref();
            if removal::reason(hidden.as_ref(), event).is_some() {
                continue;
            }
            if let ControlFlow::Break(value) = each(event) {
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
        if self.hidden.is_some() {
            self.skipped.gaps.clear();
            return self.advance_visible();
        }
        let event = self.advance_any()?;
        match event {
            // Removed by a record that this view does not see yet.
            Some(event) if event.is_compacted() => self.advance_past(&event),
            event => Ok(event),
        }
    }

    #[cold]
    fn advance_past(&mut self, compacted: &Event) -> Result<Option<Event>> {
        self.skipped.gaps.clear();
        self.skipped.note(compacted.position().get(), RemovalReason::Deleted);
        self.advance_visible()
    }

    /// The next event that was not removed; notes what is passed over.
    #[cold]
    fn advance_visible(&mut self) -> Result<Option<Event>> {
        loop {
            let Some(event) = self.advance_any()? else { return Ok(None) };
            match removal::reason(self.hidden.as_ref(), event.as_event_ref()) {
                None => return Ok(Some(event)),
                Some(why) => self.skipped.note(event.position().get(), why),
            }
        }
    }

    fn advance_any(&mut self) -> Result<Option<Event>> {
        match &mut self.plan {
            Plan::Scan(scan) => scan.next(&self.core, &self.segments, self.bounds.until),
            Plan::Select(selection) => {
                let found = selection.next(&self.core, &self.segments, self.bounds.direction)?;
                Ok(found.map(Found::into_event))
            }
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

    /// Whether there is nothing left to be told.
    pub(crate) fn is_empty(&self) -> bool {
        self.gaps.is_empty() && self.behind.is_none()
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

/// A stream whose first positions are being looked for, while its state is not known yet.
#[derive(Debug)]
pub(crate) struct StreamBegun {
    core: Arc<Core>,
    segments: SegmentList,
    bounds: Bounds,
    selection: Selection,
}

impl StreamBegun {
    /// Begins to read a stream whose key is `key`. `is_from_end`: the first position in these bounds is wanted, and those
    /// after it; else it tells how many are to be passed over.
    pub(crate) fn new(core: &Arc<Core>, stream: &str, key: u64, bounds: Bounds, is_from_end: bool) -> Self {
        let select = Select::Stream { name: stream.to_owned(), key, next: 0, last: 0, passed: 0 };
        let mut selection = Selection::new(select, Walk::new(bounds), if is_from_end { AHEAD_MAX } else { 1 });
        let segments = core.segments.load_full();
        if is_from_end && bounds.from <= bounds.until {
            selection.look_ahead(core, &segments);
        }
        Self { core: core.clone(), segments, bounds, selection }
    }
}

/// How many positions are looked for at first where nobody knows how many will be wanted.
const FIRST_WIDTH: usize = 4;

impl Selection {
    fn new(select: Select, walk: Walk, width: usize) -> Self {
        Self { select, walk, ahead: Ahead::new(), next: 0, width, failed: None }
    }

    /// Looks for the next positions; those before have all been looked at.
    fn look_ahead(&mut self, core: &Core, segments: &Segments) {
        self.next = 0;
        self.ahead.clear();
        let found = self.walk.look_ahead(core, segments, self.select.sought(), self.width, &mut self.ahead);
        self.failed = found.err();
    }

    /// The next position that may be one. `None` at the end.
    #[inline]
    fn position(&mut self, core: &Core, segments: &Segments) -> Result<Option<u64>> {
        if self.next == self.ahead.len() {
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            self.look_ahead(core, segments);
            if self.ahead.is_empty() {
                return self.failed.take().map_or(Ok(None), Err);
            }
        }
        let position = self.ahead[self.next];
        self.next += 1;
        Ok(Some(position))
    }

    fn next(&mut self, core: &Core, segments: &Segments, direction: Direction) -> Result<Option<Found>> {
        loop {
            if self.select.is_complete(direction) {
                return Ok(None);
            }
            let Some(position) = self.position(core, segments)? else {
                return self.select.check_complete(&core.lost, direction).map(|()| None);
            };
            let Some(found) = self.walk.event(core, segments, position)? else { continue };
            let mut judged = self.select.judge(&found.as_event_ref(), direction);
            if matches!(judged, Judged::Hole(_)) && self.select.steps_over(&core.lost, &found.as_event_ref(), direction)
            {
                judged = self.select.judge(&found.as_event_ref(), direction);
            }
            match judged {
                Judged::Wanted => {
                    // Those after it are wanted as well, or most of them.
                    if self.next == self.ahead.len() {
                        self.width = (self.width * 2).min(AHEAD_MAX);
                    }
                    return Ok(Some(found));
                }
                Judged::Other => {}
                // Where records are lost, so many revisions may be fewer events.
                Judged::Early(_) if !core.lost.is_empty() => {}
                Judged::Early(revisions) => {
                    // Each position holds one revision of the stream at most.
                    let over = (revisions - 1).min((self.ahead.len() - self.next) as u64);
                    self.next += over as usize;
                    if self.next == self.ahead.len() {
                        self.walk.pass(revisions - over);
                    }
                }
                Judged::Hole(what) => {
                    let segment = self.walk.segment(segments).expect("an event comes from a segment");
                    return Err(segment.damaged(0, Some(position), what));
                }
            }
        }
    }
}

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
    fn judge(&mut self, event: &EventRef<'_>, direction: Direction) -> Judged {
        let (name, next, last, passed) = match self {
            Self::Query(query) if query.matches(event) => return Judged::Wanted,
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
    fn steps_over(&mut self, lost: &[LostEntry], event: &EventRef<'_>, direction: Direction) -> bool {
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
    fn begin(core: &Core, segment: Arc<Segment>, offset: u64, position: u64, used: &mut UsedCopies) -> Result<Self> {
        let opened = segment.opened_to_scan()?.into_arc();
        opened.read_in_order();
        let window = segment.window_ahead(&opened, &core.log, offset, BATCH_HEADER_LEN as u64, used, None)?;
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
