//! Which positions may match: cursors over the index that jump, and are joined without lists in between.
//!
//! ```text
//!   Walk      from unit to unit of the index, in the direction of reading
//!    └─ Join   a query in one unit: its items, each position once
//!        └─ Item    the parts of an item, leapfrogging: the one with the fewest positions leads
//!            └─ Part    one key, any of several, or several frequent ones together
//!                └─ Cursor  the positions of one key in one unit
//! ```
//!
//! Hashes of names lead here, so a position that comes out *may* match; none that matches is left out. Whoever asks
//! confirms each event. Memory goes with the number of keys a query names, not with what they lead to; only the chain of
//! a key in the segment that is being written is collected, once, when it is read forward.

mod absent;
mod dense;
mod join;
mod keys;
mod unit;
mod walk;

use std::sync::Arc;

use crate::Result;
use crate::active_index::{ActiveIndex, Postings};
use crate::name::KeyKind;
use crate::read::Direction;
use crate::storage::Map;
use crate::tiers::{PositionsAt, TierFile, TierPositions};

pub(crate) use absent::surely_none;
pub(crate) use unit::Unit;
pub(crate) use walk::{AHEAD_MAX, Ahead, Sought, Walk};

/// Something with positions in order. Seeks go one way only: each begins past what the one before answered.
pub(crate) trait Seek {
    /// The first position from `at` on, `at` included, in this direction.
    fn seek(&mut self, direction: Direction, at: u64) -> Result<Option<u64>>;

    /// About how many there are; more rather than fewer.
    fn count(&self) -> u64;
}

/// Positions `first ..= last`; empty when `last < first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Span {
    pub(crate) fn is_empty(self) -> bool {
        self.last < self.first
    }

    pub(crate) fn len(self) -> u64 {
        (self.last + 1).saturating_sub(self.first)
    }

    pub(crate) fn common(self, other: Self) -> Self {
        Self { first: self.first.max(other.first), last: self.last.min(other.last) }
    }
}

/// The positions of one key in one unit of the index, within a span.
#[derive(Debug)]
pub(crate) enum Cursor {
    /// Every position.
    Every(Span),
    /// An ascending list in a sealed index file.
    Listed(Window<Run>),
    /// Those of a tier.
    Tiered(Tiered),
    /// A chain that was collected.
    Collected(Window<Vec<u32>>),
    /// A chain of the segment that is being written, newest first: for reading backward.
    Chain(Chain),
}

impl Cursor {
    /// The smallest position that is `at` or larger.
    #[inline]
    pub(crate) fn seek_ge(&mut self, at: u64) -> Result<Option<u64>> {
        match self {
            Self::Every(span) => Ok(Some(at.max(span.first)).filter(|at| *at <= span.last)),
            Self::Listed(window) => Ok(window.seek_ge(at)),
            Self::Tiered(tiered) => tiered.seek_ge(at),
            Self::Collected(window) => Ok(window.seek_ge(at)),
            Self::Chain(_) => unreachable!("a chain is collected to be read forward"),
        }
    }

    /// The largest position that is `at` or smaller.
    #[inline]
    pub(crate) fn seek_le(&mut self, at: u64) -> Result<Option<u64>> {
        match self {
            Self::Every(span) => Ok(Some(at.min(span.last)).filter(|at| *at >= span.first)),
            Self::Listed(window) => Ok(window.seek_le(at)),
            Self::Tiered(tiered) => tiered.seek_le(at),
            Self::Collected(window) => Ok(window.seek_le(at)),
            Self::Chain(chain) => Ok(chain.seek_le(at)),
        }
    }

    /// How many there are, exactly. For a cursor that was not moved, reading forward.
    pub(crate) fn exact_count(&mut self) -> Result<u64> {
        match self {
            Self::Tiered(tiered) => tiered.exact_count(),
            _ => Ok(self.count()),
        }
    }

    /// Passes over `count` positions in this direction.
    pub(crate) fn pass(&mut self, direction: Direction, count: u64) {
        match (self, direction) {
            (Self::Every(span), Direction::Forward) => span.first = span.first.saturating_add(count),
            (Self::Every(span), Direction::Backward) => span.last = span.last.saturating_sub(count),
            (Self::Listed(window), _) => window.pass(direction, count),
            (Self::Tiered(tiered), _) => tiered.pass(direction, count),
            (Self::Collected(window), _) => window.pass(direction, count),
            (Self::Chain(chain), _) => chain.pass(count),
        }
    }
}

impl Seek for Cursor {
    #[inline]
    fn seek(&mut self, direction: Direction, at: u64) -> Result<Option<u64>> {
        match direction {
            Direction::Forward => self.seek_ge(at),
            Direction::Backward => self.seek_le(at),
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Every(span) => span.len(),
            Self::Listed(window) => window.len() as u64,
            Self::Tiered(tiered) => tiered.count,
            Self::Collected(window) => window.len() as u64,
            Self::Chain(chain) => u64::from(chain.count),
        }
    }
}

/// Numbers in ascending order that are read by place.
pub(crate) trait Ascending {
    fn len(&self) -> usize;

    /// Only for places below the length.
    fn number(&self, place: usize) -> u32;
}

impl Ascending for Vec<u32> {
    fn len(&self) -> usize {
        self.len()
    }

    #[inline]
    fn number(&self, place: usize) -> u32 {
        self[place]
    }
}

/// Numbers of 32 bits that stand in a mapped file one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    map: Map,
    start: usize,
    len: usize,
}

impl Run {
    /// `len` numbers from byte `start` of the map on; they lie in it.
    pub(crate) fn new(map: Map, start: usize, len: usize) -> Self {
        debug_assert!(start + len * size_of::<u32>() <= map.len());
        Self { map, start, len }
    }
}

impl Ascending for Run {
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn number(&self, place: usize) -> u32 {
        let at = self.start + place * size_of::<u32>();
        let bytes = self.map.get(at..at + size_of::<u32>()).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

/// What is left of a list while it is read from one of its ends: places `from .. until`.
#[derive(Debug)]
pub(crate) struct Window<L> {
    list: L,
    /// The position that the numbers count from.
    base: u64,
    from: usize,
    until: usize,
}

impl<L: Ascending> Window<L> {
    /// The part of the list that lies in `span`.
    pub(crate) fn new(list: L, base: u64, span: Span) -> Self {
        let until = list.len();
        let mut window = Self { list, base, from: 0, until };
        window.seek_ge(span.first);
        window.seek_le(span.last);
        window
    }

    fn len(&self) -> usize {
        self.until - self.from
    }

    #[inline]
    fn position(&self, place: usize) -> u64 {
        self.base + u64::from(self.list.number(place))
    }

    /// Leaves out what is smaller than `at`: looks at the next one, then doubles its stride until it is past, then halves.
    #[inline]
    fn seek_ge(&mut self, at: u64) -> Option<u64> {
        let mut stride = 1;
        let mut low = self.from;
        let mut high = self.from;
        while high < self.until && self.position(high) < at {
            low = high + 1;
            high = high.saturating_add(stride);
            stride *= 2;
        }
        high = high.min(self.until);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.position(middle) < at { low = middle + 1 } else { high = middle }
        }
        self.from = high;
        (self.from < self.until).then(|| self.position(self.from))
    }

    /// Leaves out what is larger than `at`, as above.
    #[inline]
    fn seek_le(&mut self, at: u64) -> Option<u64> {
        let mut stride = 1;
        // One past the place that is looked at; all from `high` on is too large.
        let mut low = self.until;
        let mut high = self.until;
        while low > self.from && self.position(low - 1) > at {
            high = low - 1;
            low = low.saturating_sub(stride).max(self.from);
            stride *= 2;
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if self.position(middle) > at { high = middle } else { low = middle + 1 }
        }
        self.until = low;
        (self.from < self.until).then(|| self.position(self.until - 1))
    }

    fn pass(&mut self, direction: Direction, count: u64) {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.len());
        match direction {
            Direction::Forward => self.from += count,
            Direction::Backward => self.until -= count,
        }
    }
}

/// Positions of a key in a tier, within a span.
#[derive(Debug)]
pub(crate) struct Tiered {
    tier: Arc<TierFile>,
    place: PositionsAt,
    span: Span,
    count: u64,
}

impl Tiered {
    pub(crate) fn new(tier: &Arc<TierFile>, positions: &TierPositions<'_>, span: Span) -> Self {
        let count = u64::from(positions.len()).min(span.len());
        Self { tier: tier.clone(), place: positions.put_aside(), span, count }
    }

    #[inline]
    fn seek_ge(&mut self, at: u64) -> Result<Option<u64>> {
        let mut positions = self.tier.positions_at(self.place)?;
        let found = positions.seek_ge(at.max(self.span.first))?;
        self.place = positions.put_aside();
        Ok(found.filter(|found| *found <= self.span.last))
    }

    #[inline]
    fn seek_le(&mut self, at: u64) -> Result<Option<u64>> {
        let mut positions = self.tier.positions_at(self.place)?;
        let found = positions.seek_le(at.min(self.span.last))?;
        self.place = positions.put_aside();
        Ok(found.filter(|found| *found >= self.span.first))
    }

    fn exact_count(&mut self) -> Result<u64> {
        let (first, last) = (self.tier.first_position(), self.tier.last_position());
        if self.span.first <= first && self.span.last >= last {
            return Ok(self.count);
        }
        let (mut count, mut at) = (0, self.span.first);
        while let Some(found) = self.seek_ge(at)? {
            (count, at) = (count + 1, found + 1);
        }
        Ok(count)
    }

    /// Whether these are a bit map.
    fn is_bitmap(&self) -> Result<bool> {
        Ok(self.tier.positions_at(self.place)?.is_bitmap())
    }

    /// Where this fails nothing is passed over, and whoever reads on meets the same failure.
    fn pass(&mut self, direction: Direction, count: u64) {
        let Ok(mut positions) = self.tier.positions_at(self.place) else { return };
        match direction {
            Direction::Forward => match positions.nth_ge(self.span.first, count) {
                Ok(found) => self.span.first = found.unwrap_or(self.span.last.saturating_add(1)),
                Err(_) => return,
            },
            Direction::Backward => match positions.nth_le(self.span.last, count) {
                Ok(found) => self.span.last = found.unwrap_or(self.span.first.saturating_sub(1)),
                Err(_) => return,
            },
        }
        self.place = positions.put_aside();
    }
}

/// Where a walk along a key's chain stands.
#[derive(Debug)]
pub(crate) struct Chain {
    index: Arc<ActiveIndex>,
    kind: KeyKind,
    base: u64,
    /// Positions below it are out of the span.
    first: u64,
    count: u32,
    /// What stands here, if it is known, and where the chain goes on.
    here: Option<u64>,
    next: u32,
}

impl Chain {
    /// `count` is that of the whole chain.
    pub(crate) fn new(index: Arc<ActiveIndex>, kind: KeyKind, hash: u64, base: u64, first: u64) -> Self {
        let Postings { next, count, .. } = index.postings(kind, hash);
        Self { index, kind, base, first, count, here: None, next }
    }

    fn seek_le(&mut self, at: u64) -> Option<u64> {
        loop {
            let here = match self.here {
                Some(here) => here,
                None => self.step()?,
            };
            if here < self.first {
                return None;
            }
            if here <= at {
                return Some(here);
            }
            self.here = None;
        }
    }

    fn step(&mut self) -> Option<u64> {
        let mut rest = Postings { index: &self.index, kind: self.kind, next: self.next, count: 0 };
        let record = rest.next();
        self.next = rest.next;
        self.here = record.map(|record| self.base + u64::from(record));
        self.here
    }

    fn pass(&mut self, count: u64) {
        for _ in 0..count {
            if self.here.take().is_none() && self.step().is_none() {
                return;
            }
            self.here = None;
        }
    }
}

#[cfg(test)]
mod tests;
