//! A walk along the index: positions that may be wanted, looked for some ahead, and each event confirmed against what was
//! asked for before it is handed out.

use annals_format::manifest::LostEntry;

use super::Direction;
use crate::Result;
use crate::core::Core;
use crate::cursor::{AHEAD_MAX, Ahead, Sought, Walk};
use crate::error::Error;
use crate::event::EventRef;
use crate::query::Query;
use crate::segment::Found;
use crate::segments::Segments;

/// What is chosen by the index: where a walk over it stands, and what it has found ahead of the event at hand.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) select: Select,
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
pub(super) enum Select {
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

impl Selection {
    pub(super) fn new(select: Select, walk: Walk, width: usize) -> Self {
        Self { select, walk, ahead: Ahead::new(), next: 0, width, failed: None }
    }

    /// Looks for the next positions; those before have all been looked at.
    pub(super) fn look_ahead(&mut self, core: &Core, segments: &Segments) {
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

    pub(super) fn next(&mut self, core: &Core, segments: &Segments, direction: Direction) -> Result<Option<Found>> {
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
