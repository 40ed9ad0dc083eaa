//! A walk through the units of the index, and the events at the positions it comes to.

use std::sync::Arc;

use smallvec::SmallVec;

use super::join::Join;
use super::{Cursor, Seek, Span, Unit, keys};
use crate::Result;
use crate::core::Core;
use crate::error::Error;
use crate::name::KeyKind;
use crate::query::Query;
use crate::read::{Bounds, Direction};
use crate::segment::{Found, Opened, OpenedGuard, Segment, SegmentIndex};
use crate::segments::Segments;
use crate::tiers::TierFile;

/// Most positions that are looked for ahead of the event at hand.
pub(crate) const AHEAD_MAX: usize = 32;

/// Positions in the order of reading, found and not looked at yet.
pub(crate) type Ahead = SmallVec<[u64; AHEAD_MAX]>;

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
    /// Number of the segment that the last event came from; its files stay open from the second event on.
    last: Option<usize>,
    held: Option<Arc<Opened>>,
}

/// What is left of the unit at hand.
#[derive(Debug)]
struct Entered {
    span: Span,
    join: Join,
    /// The tier that it is.
    tier: Option<Arc<TierFile>>,
}

/// What [`Walk::gather`] did.
enum Gathered {
    /// All that the unit has was taken, and the walk stands past it.
    All,
    /// Nothing: the unit is to be entered.
    Nothing,
}

impl Walk {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let at = match bounds.direction {
            Direction::Forward => bounds.from,
            Direction::Backward => bounds.until,
        };
        Self { at: (bounds.from <= bounds.until).then_some(at), bounds, unit: None, last: None, held: None }
    }

    /// The next positions that may be some, until there are `most` in `ahead` or there are no more; then begins to load the
    /// events there. Always asked with the same segments and for the same.
    ///
    /// # Errors
    /// Those of the index; what is in `ahead` comes before what failed.
    pub(crate) fn look_ahead(
        &mut self,
        core: &Core,
        segments: &Segments,
        sought: Sought<'_>,
        most: usize,
        ahead: &mut Ahead,
    ) -> Result<()> {
        let found = self.fill(core, segments, sought, most, ahead);
        if ahead.len() > 1 {
            prefetch_events(segments, ahead);
        }
        found
    }

    fn fill(
        &mut self,
        core: &Core,
        segments: &Segments,
        sought: Sought<'_>,
        most: usize,
        ahead: &mut Ahead,
    ) -> Result<()> {
        while ahead.len() < most {
            if let (None, Sought::Stream(key), Some(at)) = (&self.unit, sought, self.at)
                && let Gathered::All = self.gather(core, segments, key, at, most, ahead)?
            {
                continue;
            }
            match self.next(core, segments, sought)? {
                Some(position) => ahead.push(position),
                None => break,
            }
        }
        Ok(())
    }

    /// Takes all that the unit at `at` has of a stream's key, if these are few: no cursor is made for them.
    #[inline]
    fn gather(
        &mut self,
        core: &Core,
        segments: &Segments,
        key: u64,
        at: u64,
        most: usize,
        ahead: &mut Ahead,
    ) -> Result<Gathered> {
        let tiers = core.tiers.load();
        let Some(tier) = tiers.tier_at(at) else { return self.gather_of_segment(segments, key, at, most, ahead) };
        let before = ahead.len();
        match self.gather_of_tier(tier, key, at, most, ahead) {
            Ok(Gathered::All) => {
                self.at = self.bounds.beyond(tier.first_position(), tier.last_position());
                Ok(Gathered::All)
            }
            Ok(Gathered::Nothing) => Ok(Gathered::Nothing),
            Err(error) => {
                ahead.truncate(before);
                // Its segments answer from here on.
                if tier.is_broken() { Ok(Gathered::Nothing) } else { Err(error) }
            }
        }
    }

    fn gather_of_segment(
        &mut self,
        segments: &Segments,
        key: u64,
        at: u64,
        most: usize,
        ahead: &mut Ahead,
    ) -> Result<Gathered> {
        let Some(number) = segments.index_of(at) else { return Ok(Gathered::Nothing) };
        let segment = &segments[number];
        let first = segment.first_position();
        match &segment.opened_with_keys()?.index {
            SegmentIndex::Active(index) => {
                if index.postings(KeyKind::Stream, key).count > 0 {
                    return Ok(Gathered::Nothing);
                }
            }
            SegmentIndex::Sealed(index) => {
                let (direction, Bounds { from, until, .. }) = (self.bounds.direction, self.bounds);
                let records = index.records(key)?;
                if records.len() > most - ahead.len() {
                    return Ok(Gathered::Nothing);
                }
                let start = ahead.len();
                let (mut beyond, end) = (first, segments.next_first(number));
                for position in records.iter().map(|record| first + u64::from(record.to_native())) {
                    if position < beyond || position >= end {
                        ahead.truncate(start);
                        return Err(astray(position));
                    }
                    beyond = position + 1;
                    let is_wanted = match direction {
                        Direction::Forward => (at..=until).contains(&position),
                        Direction::Backward => (from..=at).contains(&position),
                    };
                    if is_wanted {
                        ahead.push(position);
                    }
                }
                if direction == Direction::Backward {
                    ahead[start..].reverse();
                }
            }
            SegmentIndex::Places(_) | SegmentIndex::Unread => unreachable!("opened with keys"),
        }
        self.at = self.bounds.beyond(first, segments.next_first(number) - 1);
        Ok(Gathered::All)
    }

    #[inline]
    fn gather_of_tier(&self, tier: &TierFile, key: u64, at: u64, most: usize, ahead: &mut Ahead) -> Result<Gathered> {
        let Some(mut positions) = tier.positions(key)? else { return Ok(Gathered::All) };
        if positions.len() as usize > most - ahead.len() {
            return Ok(Gathered::Nothing);
        }
        let mut next = match self.bounds.direction {
            Direction::Forward => positions.seek_ge(at)?,
            Direction::Backward => positions.seek_le(at)?,
        };
        while let Some(found) = next.filter(|found| *found >= self.bounds.from && *found <= self.bounds.until) {
            if found < tier.first_position() || found > tier.last_position() {
                return Err(astray(found));
            }
            ahead.push(found);
            next = match self.bounds.direction {
                Direction::Forward => positions.seek_ge(found + 1)?,
                Direction::Backward => positions.seek_le(found - 1)?,
            };
        }
        Ok(Gathered::All)
    }

    /// The next position that may be one. Always asked with the same segments and for the same.
    #[inline]
    pub(crate) fn next(&mut self, core: &Core, segments: &Segments, sought: Sought<'_>) -> Result<Option<u64>> {
        while let Some(at) = self.at {
            if self.unit.is_none() && !self.enter(core, segments, sought, at)? {
                continue;
            }
            let Some(Entered { span, join, tier }) = &mut self.unit else { continue };
            match join.seek(self.bounds.direction, at) {
                Ok(Some(position)) if position < span.first || position > span.last => return Err(astray(position)),
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
    fn enter(&mut self, core: &Core, segments: &Segments, sought: Sought<'_>, at: u64) -> Result<bool> {
        let bounds = Span { first: self.bounds.from, last: self.bounds.until };
        // Everything is known without a look at any index.
        if let Sought::Query(Query { items: None }) = sought {
            self.unit = Some(Entered { span: bounds, join: Join::One(Cursor::Every(bounds)), tier: None });
            return Ok(true);
        }
        if let Sought::Stream(key) = sought
            && let Gathered::All = self.gather(core, segments, key, at, 0, &mut Ahead::new())?
        {
            return Ok(false);
        }
        if let Sought::Query(query) = sought {
            let tiers = core.tiers.load();
            if let Some(tier) = tiers.tier_at(at).filter(|tier| keys::is_absent(core, tier, query)) {
                self.at = self.bounds.beyond(tier.first_position(), tier.last_position());
                return Ok(false);
            }
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
    pub(crate) fn event(&mut self, core: &Core, segments: &Segments, position: u64) -> Result<Option<Found>> {
        let Some(index) = segments.index_of(position) else {
            return Err(Error::corrupt("the index", 0, Some(position), "no record is known at this position"));
        };
        let segment = &segments[index];
        let opened = self.hold(segment, index)?;
        match segment.place(&opened, position)? {
            Some(place) => segment.find(opened, &core.log, position, place),
            None => Err(segment.damaged(0, Some(position), "the index knows no record at this position")),
        }
    }

    /// The segment that the last event came from.
    pub(crate) fn segment<'a>(&self, segments: &'a Segments) -> Option<&'a Arc<Segment>> {
        segments.get(self.last?)
    }

    /// What is open of this segment. Events that come one by one from here and there are looked at without a count; where
    /// a second one comes from the same segment, it is held, lest it be let go of and opened again for each.
    #[inline]
    fn hold(&mut self, segment: &Segment, index: usize) -> Result<OpenedGuard> {
        if self.last != Some(index) {
            (self.last, self.held) = (Some(index), None);
            return segment.opened();
        }
        if self.held.is_none() {
            let opened = segment.opened()?.into_arc();
            opened.read_in_order();
            self.held = Some(opened);
        }
        Ok(OpenedGuard::of_arc(self.held.clone().expect("held above")))
    }
}

/// An index leads to where it does not answer for, or back: its checksums are right, and it was forged or made wrong.
#[cold]
fn astray(position: u64) -> Error {
    Error::corrupt("the index", 0, Some(position), "a list of positions is out of order or reaches beyond its segments")
}

/// Begins to load the events at these positions, all at once: what leads to one waits for memory five times over, and
/// the waits of all run beside each other. Verifies nothing and opens nothing.
fn prefetch_events(segments: &Segments, ahead: &Ahead) {
    let mut at: SmallVec<[(usize, u64); AHEAD_MAX]> = SmallVec::new();
    at.extend(ahead.iter().filter_map(|position| Some((segments.index_of(*position)?, *position))));
    for (number, (index, _)) in at.iter().enumerate() {
        if number == 0 || at[number - 1].0 != *index {
            segments[*index].announce();
        }
    }
    let each = |step: fn(&Segment, u64)| at.iter().for_each(|(index, position)| step(&segments[*index], *position));
    each(|segment, _| segment.prefetch());
    each(|segment, _| segment.prefetch_slot());
    each(|segment, _| segment.if_opened().iter().for_each(|opened| opened.prefetch()));
    each(|segment, position| {
        let record = u32::try_from(position.saturating_sub(segment.first_position())).unwrap_or(u32::MAX);
        segment.if_opened().iter().for_each(|opened| opened.prefetch_place(record));
    });
    each(|segment, position| {
        segment.if_opened().iter().for_each(|opened| segment.prefetch_record(opened, position));
    });
}
