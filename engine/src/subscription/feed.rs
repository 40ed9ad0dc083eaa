//! What a subscription reads by: far behind along the index, near the head along the log, where it stays.
//!
//! ```text
//!   position                                    head
//!      |----------- far: a Read, by the index ----|        where a query leaves most of it out
//!                              |- near: a Scan ---|--->    kept where it stands; more is one batch further
//! ```
//!
//! Far behind, which of them it is goes by what was met: where most events match the index is a detour, which asks each segment
//! for more than the scan does, and where few do the scan is one. It begins with the scan, which is at most two thousand events
//! too many.
//!
//! The scan stands behind the last batch that it read. When there is more it goes on with the next byte: no index is asked,
//! and its windows on the log, once made, serve again.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::Result;
use crate::core::{Core, SegmentList};
use crate::event::EventRef;
use crate::query::Query;
use crate::read::{Bounds, Direction, Read, Scan, Skipped, Skipping, Step};
use crate::reader::RemovalReason;
use crate::removal::{self, Hidden};

/// Up to so many positions are looked at one by one rather than by the index.
const NEAR: u64 = 1024;
/// After so many matches by the index it is looked how close to each other they were.
const DENSE_AFTER: u64 = 512;
/// At least one of so many matched: the log is read on in order.
const DENSE: u64 = 2;
/// After so many positions in order it is looked how many matched.
const SPARSE_AFTER: u64 = 2048;
/// Not even one of so many did: the index is asked for the rest.
const SPARSE: u64 = 16;

#[derive(Debug)]
pub(super) struct Feed {
    query: Query,
    core: Arc<Core>,
    segments: SegmentList,
    /// Everything up to here has been handed out or passed over.
    position: u64,
    /// What may be handed out now.
    until: u64,
    /// Nothing recorded before this is wanted; 0 once something later has been met.
    since: u64,
    way: Way,
    /// When it was last looked whether the way is the right one: the position, and how many have matched behind it.
    matched: (u64, u64),
    /// What was removed as of the head that is read up to; nothing while it is `None`. A far read knows by itself.
    hidden: Option<Hidden>,
    skipping: Skipping,
}

#[derive(Debug)]
enum Way {
    Far(Box<Read>),
    Near(Scan),
}

impl Feed {
    /// Begins behind `position`, with what was recorded at `since` or later.
    pub(super) fn new(core: Arc<Core>, query: Query, position: u64, since: u64) -> Self {
        let segments = core.segments.load_full();
        let way = Way::Near(Scan::from(position + 1));
        let skipping = Skipping::default();
        let matched = (position, 0);
        Self { query, core, segments, position, until: position, since, way, matched, hidden: None, skipping }
    }

    /// Everything up to here has been handed out or passed over.
    #[inline]
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Up to where it reads now.
    #[inline]
    pub(super) fn until(&self) -> u64 {
        self.until
    }

    /// There is more: of `core`, up to `head`. Everything up to the last head has been read.
    pub(super) fn extend(&mut self, core: &Arc<Core>, head: u64) -> Result<()> {
        debug_assert!(self.position == self.until && head > self.until);
        let is_same_core = Arc::ptr_eq(&self.core, core);
        if !is_same_core {
            self.core = core.clone();
        }
        let is_same_list = is_same_core && Arc::ptr_eq(&self.segments, &core.segments.load());
        if !is_same_list {
            self.segments = core.segments.load_full();
        }
        self.until = head;
        self.hidden = core.removals.hidden(head);
        match &mut self.way {
            // It has handed out all that it was bounded by, and knows of no more.
            Way::Far(_) => self.way = Way::Near(Scan::from(self.position + 1)),
            Way::Near(scan) if !is_same_list => scan.carry_over(&self.segments)?,
            Way::Near(_) => {}
        }
        Ok(())
    }

    fn go_by_index(&mut self) {
        let (core, head) = (self.core.clone(), self.until);
        let bounds = Bounds { from: self.position + 1, until: head, direction: Direction::Forward };
        let hidden = core.removals.hidden(head);
        self.way = Way::Far(Box::new(Read::of_query(core, self.query.clone(), bounds, head, hidden)));
        self.matched = (self.position, 0);
    }

    /// Takes the other way on from here, if what matched since this was last asked says so. Everything up to the position has
    /// been told, or is to be told from `skipping`.
    #[inline]
    fn choose_way(&mut self) {
        let (from, matched) = self.matched;
        let passed = self.position.saturating_sub(from);
        match self.way {
            Way::Far(_) if matched >= DENSE_AFTER => {
                if passed <= DENSE * matched {
                    self.way = Way::Near(Scan::from(self.position + 1));
                }
            }
            Way::Near(_) if passed >= SPARSE_AFTER => {
                let is_sparse = matched * SPARSE < passed && !self.query.is_all();
                // A read by the index tells of what it passes over itself: nothing may be left over from here.
                if is_sparse && self.until - self.position > NEAR && self.skipping.is_empty() {
                    return self.go_by_index();
                }
            }
            _ => return,
        }
        self.matched = (self.position, 0);
    }

    /// The next event that matches, or what was passed over in its place; `None` when all up to the head has been read.
    ///
    /// This is where what is passed over because it was removed comes by.
    pub(super) fn next(&mut self) -> Result<Option<Step>> {
        if let Some(step) = self.skipping.pending() {
            return Ok(Some(self.told(step)));
        }
        while self.position < self.until {
            self.choose_way();
            let step = match &mut self.way {
                Way::Far(read) => read.step().transpose()?,
                Way::Near(scan) => scan.next(&self.core, &self.segments, self.until)?.map(Step::Event),
            };
            match step {
                Some(Step::Event(event)) => {
                    self.position = event.position().get();
                    if !self.is_wanted(&event.as_event_ref()) {
                        continue;
                    }
                    self.matched.1 += 1;
                    match removal::reason(self.hidden.as_ref(), event.as_event_ref()) {
                        None => return Ok(self.skipping.before(Some(event)).map(|step| self.told(step))),
                        Some(why) => self.skipping.note(self.position, why),
                    }
                }
                Some(Step::Skipped(skipped)) => return Ok(Some(self.told(Step::Skipped(skipped)))),
                None => self.arrive(),
            }
        }
        Ok(self.skipping.before(None).map(|step| self.told(step)))
    }

    /// What is handed out: everything up to its end has been.
    #[inline]
    fn told(&mut self, step: Step) -> Step {
        self.position = match &step {
            Step::Event(event) => event.position().get(),
            Step::Skipped(skipped) => skipped.last,
        };
        step
    }

    /// The same without handles: every event up to the head that matches, until `each` breaks. `is_over` is asked now and
    /// then; when it answers true nothing more is handed out.
    pub(super) fn run<B>(
        &mut self,
        mut is_over: impl FnMut() -> bool,
        mut each: impl FnMut(Borrowed<'_>) -> ControlFlow<B>,
    ) -> Result<Option<B>> {
        while self.position < self.until && !is_over() {
            self.choose_way();
            if matches!(self.way, Way::Far(_)) || self.since > 0 || self.hidden.is_some() {
                let value = match self.next()? {
                    Some(Step::Event(event)) => each(Borrowed::Event(event.as_event_ref())),
                    Some(Step::Skipped(skipped)) => each(Borrowed::Skipped(skipped)),
                    None => return Ok(None),
                };
                match value {
                    ControlFlow::Break(value) => return Ok(Some(value)),
                    ControlFlow::Continue(()) => continue,
                }
            }
            let Way::Near(scan) = &mut self.way else { continue };
            let (query, matched, mut left) = (&self.query, &mut self.matched.1, ASKED_EVERY);
            let broken = scan.run(&self.core, &self.segments, self.until, &mut |event| {
                left -= 1;
                if query.matches(&event) {
                    *matched += 1;
                    let next = match event.is_compacted() {
                        false => Borrowed::Event(event),
                        // Taken out by a removal that this view does not see yet.
                        true => {
                            let at = event.position().get();
                            Borrowed::Skipped(Skipped { first: at, last: at, why: RemovalReason::Deleted })
                        }
                    };
                    if let ControlFlow::Break(value) = each(next) {
                        return ControlFlow::Break(Some(value));
                    }
                }
                if left == 0 { ControlFlow::Break(None) } else { ControlFlow::Continue(()) }
            })?;
            self.position = scan.position() - 1;
            match broken {
                Some(Some(value)) => return Ok(Some(value)),
                Some(None) => {}
                None => self.arrive(),
            }
        }
        Ok(None)
    }

    #[inline]
    fn is_wanted(&mut self, event: &EventRef<'_>) -> bool {
        if self.since > 0 {
            if event.recorded_at() < self.since {
                return false;
            }
            // Times never fall along the log.
            self.since = 0;
        }
        self.query.matches(event)
    }

    /// All up to the head has been read.
    fn arrive(&mut self) {
        self.position = self.until;
        if let Way::Far(_) = self.way {
            self.way = Way::Near(Scan::from(self.until + 1));
        }
    }
}

/// After so many events it is asked whether all is over.
const ASKED_EVERY: u32 = 256;

/// What [`Feed::run`] hands out.
pub(super) enum Borrowed<'a> {
    Event(EventRef<'a>),
    Skipped(Skipped),
}
