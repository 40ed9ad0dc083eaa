//! One read: an iterator over events, bounded by the head that was pinned when it was opened.
//!
//! `Query::all()` forward walks the log batch by batch; everything else jumps along the index by cursors and confirms
//! every event before handing it out. After an error it ends; it never skips.

mod scan;
mod select;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::Result;
use crate::core::{Core, SegmentList};
use crate::cursor::{AHEAD_MAX, Walk};
use crate::error::StreamState;
use crate::event::{Event, EventRef};
use crate::query::Query;
use crate::reader::RemovalReason;
use crate::removal::{self, Hidden};

use crate::segment::Found;
pub(crate) use scan::{Scan, UsedCopies};
use select::{Select, Selection};

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
