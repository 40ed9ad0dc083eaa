//! A walk through the units of the index, and the events at the positions it comes to.

use std::sync::Arc;

use super::join::Join;
use super::{Cursor, Seek, Span, Unit, keys};
use crate::Result;
use crate::core::Core;
use crate::event::Event;
use crate::name::KeyKind;
use crate::query::Query;
use crate::read::{Bounds, Direction};
use crate::segment::{Opened, Segment};
use crate::tiers::TierFile;

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sought<'a> {
    Query(&'a Query),
    /// A stream by its key.
    Stream(u64),
    /// Control records, by their key.
    Controls(u64),
}

/// Positions of what is sought, within bounds, one after the other.
#[derive(Debug)]
pub(crate) struct Walk {
    bounds: Bounds,
    /// Where the next position is sought; `None` at the end.
    at: Option<u64>,
    unit: Option<Entered>,
    held: Option<Held>,
}

/// What is left of the unit at hand.
#[derive(Debug)]
struct Entered {
    span: Span,
    join: Join,
    /// The tier that it is.
    tier: Option<Arc<TierFile>>,
}

/// The segment that the last event came from: its files stay open for the next one.
#[derive(Debug)]
struct Held {
    segment: Arc<Segment>,
    opened: Arc<Opened>,
    /// First position of the segment after it.
    next: u64,
}

impl Walk {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let at = match bounds.direction {
            Direction::Forward => bounds.from,
            Direction::Backward => bounds.until,
        };
        Self { at: (bounds.from <= bounds.until).then_some(at), bounds, unit: None, held: None }
    }

    /// The next position that may be one. Always asked with the same segments and for the same.
    #[inline]
    pub(crate) fn next(&mut self, core: &Core, segments: &[Arc<Segment>], sought: Sought<'_>) -> Result<Option<u64>> {
        while let Some(at) = self.at {
            if self.unit.is_none() && !self.enter(core, segments, sought, at)? {
                continue;
            }
            let Some(Entered { span, join, tier }) = &mut self.unit else { continue };
            match join.seek(self.bounds.direction, at) {
                Ok(Some(position)) => {
                    self.at = self.bounds.beyond(position, position);
                    return Ok(Some(position));
                }
                Ok(None) => {
                    self.at = self.bounds.beyond(span.first, span.last);
                    self.unit = None;
                }
                // From here on its segments answer.
                Err(_) if tier.as_ref().is_some_and(|tier| tier.is_broken()) => self.unit = None,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Opens the unit that answers for `at`; false, and past it, if it has nothing.
    fn enter(&mut self, core: &Core, segments: &[Arc<Segment>], sought: Sought<'_>, at: u64) -> Result<bool> {
        let bounds = Span { first: self.bounds.from, last: self.bounds.until };
        // Everything is known without a look at any index.
        if let Sought::Query(Query { items: None }) = sought {
            self.unit = Some(Entered { span: bounds, join: Join::One(Cursor::Every(bounds)), tier: None });
            return Ok(true);
        }
        let unit = Unit::of(core, segments, at, bounds.last)?;
        let span = unit.span.common(bounds);
        let direction = self.bounds.direction;
        let join = match sought {
            _ if span.is_empty() => Ok(None),
            Sought::Query(query) => keys::join(core, &unit, query, span, direction),
            Sought::Stream(key) => unit.cursor(KeyKind::Stream, key, span, direction).map(|found| found.map(Join::One)),
            Sought::Controls(key) => {
                unit.cursor(KeyKind::Control, key, span, direction).map(|found| found.map(Join::One))
            }
        };
        match join {
            Ok(Some(join)) => self.unit = Some(Entered { span, join, tier: unit.tier().cloned() }),
            Ok(None) => self.at = self.bounds.beyond(unit.span.first, unit.span.last),
            Err(_) if unit.tier().is_some_and(|tier| tier.is_broken()) => {}
            Err(error) => return Err(error),
        }
        Ok(self.unit.is_some())
    }

    /// Passes over `count` positions of the unit at hand, if it is one key's.
    pub(crate) fn pass(&mut self, count: u64) {
        if let Some(Entered { join: Join::One(cursor), .. }) = &mut self.unit {
            cursor.pass(self.bounds.direction, count);
        }
    }

    /// The event at a position that was found; `None` for a control record.
    ///
    /// # Errors
    /// `Corrupt` if there is no such record, or if it is damaged.
    #[inline]
    pub(crate) fn event(&mut self, core: &Core, segments: &[Arc<Segment>], position: u64) -> Result<Option<Event>> {
        let Held { segment, opened, .. } = self.hold(segments, position)?;
        match segment.place(opened, position)? {
            Some(place) => segment.event_at(opened, &core.log, position, place),
            None => Err(segment.damaged(0, Some(position), "the index knows no record at this position")),
        }
    }

    /// The segment that the last event came from.
    pub(crate) fn segment(&self) -> Option<&Segment> {
        self.held.as_ref().map(|held| &*held.segment)
    }

    #[inline]
    fn hold(&mut self, segments: &[Arc<Segment>], position: u64) -> Result<&Held> {
        let is_held = |held: &Held| held.segment.first_position() <= position && position < held.next;
        if !self.held.as_ref().is_some_and(is_held) {
            self.held = Some(Held::of(segments, position)?);
        }
        Ok(self.held.as_ref().expect("held above"))
    }
}

impl Held {
    fn of(segments: &[Arc<Segment>], position: u64) -> Result<Self> {
        let after = segments.partition_point(|segment| segment.first_position() <= position);
        let segment = after.checked_sub(1).and_then(|index| segments.get(index)).ok_or_else(|| {
            crate::Error::corrupt("the index", 0, Some(position), "no record is known at this position")
        })?;
        let next = segments.get(after).map_or(u64::MAX, |next| next.first_position());
        Ok(Self { segment: segment.clone(), opened: segment.opened()?.into_arc(), next })
    }
}
