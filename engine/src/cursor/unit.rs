//! The parts of the index that answer on their own, each for a stretch of positions.

use std::sync::Arc;

use super::{Chain, Cursor, Span, Tiered, Window};
use crate::Result;
use crate::core::Core;
use crate::error::Error;
use crate::name::KeyKind;
use crate::read::Direction;
use crate::reader::event_in;
use crate::segment::{OpenedGuard, Segment, SegmentIndex};
use crate::segments::Segments;
use crate::tiers::TierFile;

/// What answers for the positions of its span: a tier, or the index of one segment.
///
/// Whatever else answers for positions is one more kind of source here; nothing outside of this file asks which one it is.
/// It lives for as long as cursors are opened from it; they hold what they need.
pub(crate) struct Unit<'a> {
    pub(crate) span: Span,
    source: Source<'a>,
}

enum Source<'a> {
    Tier(Arc<TierFile>),
    Segment { segment: &'a Segment, opened: OpenedGuard },
}

impl<'a> Unit<'a> {
    /// The unit that answers for `position`, which is no later than `head`.
    ///
    /// # Errors
    /// Those of opening it.
    pub(crate) fn of(core: &Core, segments: &'a Segments, position: u64, head: u64) -> Result<Self> {
        if let Some(tier) = core.tiers.load().tier_at(position) {
            let span = Span { first: tier.first_position(), last: tier.last_position().min(head) };
            return Ok(Self { span, source: Source::Tier(tier.clone()) });
        }
        let Some(index) = segments.index_of(position) else {
            return Err(Error::corrupt("the index", 0, Some(position), "no record is known at this position"));
        };
        let segment = &segments[index];
        let span = Span { first: segment.first_position(), last: head.min(segments.next_first(index) - 1) };
        Ok(Self { span, source: Source::Segment { segment, opened: segment.opened_with_keys()? } })
    }

    /// The same, asked for what is not below `first` alone: what answers may have changed since what stands before was asked.
    pub(crate) fn not_below(mut self, first: u64) -> Self {
        self.span.first = self.span.first.max(first);
        self
    }

    /// The position that numbers of records count from.
    fn base(&self) -> u64 {
        match &self.source {
            Source::Tier(tier) => tier.first_position(),
            Source::Segment { segment, .. } => segment.first_position(),
        }
    }

    /// The tier that this is, if it is one: on an error whoever asks looks whether it is broken, and asks for the unit of
    /// the same position again, which is then another.
    pub(crate) fn tier(&self) -> Option<&Arc<TierFile>> {
        match &self.source {
            Source::Tier(tier) => Some(tier),
            Source::Segment { .. } => None,
        }
    }

    /// The key's positions in `span`; `None` if there are none.
    pub(crate) fn cursor(&self, kind: KeyKind, key: u64, span: Span, direction: Direction) -> Result<Option<Cursor>> {
        let base = self.base();
        let mut cursor = match &self.source {
            Source::Tier(tier) => match tier.positions(key)? {
                Some(positions) => Cursor::Tiered(Tiered::new(tier, &positions, span)),
                None => return Ok(None),
            },
            Source::Segment { opened, .. } => match (&opened.index, direction) {
                (SegmentIndex::Sealed(index), _) => match index.run(key)? {
                    Some(run) => Cursor::Listed(Window::new(run, base, span)),
                    None => return Ok(None),
                },
                (SegmentIndex::Active(index), Direction::Backward) => {
                    Cursor::Chain(Chain::new(index.clone(), kind, key, base, span.first))
                }
                (SegmentIndex::Active(index), Direction::Forward) => {
                    let low = span.first.saturating_sub(base);
                    let high = span.last.saturating_sub(base);
                    let newest_first = index.postings(kind, key).skip_while(|record| u64::from(*record) > high);
                    let mut records: Vec<u32> = newest_first.take_while(|record| u64::from(*record) >= low).collect();
                    records.reverse();
                    Cursor::Collected(Window::new(records, base, span))
                }
                (SegmentIndex::Places(_) | SegmentIndex::Unread, _) => unreachable!("opened with keys"),
            },
        };
        let first = match direction {
            Direction::Forward => cursor.seek_ge(span.first)?,
            Direction::Backward => cursor.seek_le(span.last)?,
        };
        Ok(first.map(|_| cursor))
    }

    /// Streams whose name begins with `prefix`, with their first positions: in byte order, of an index in memory in order
    /// of appearance. Records beyond `head` may still be on their way and are not looked at. Ends when `each` answers
    /// false, and false as well if that happened.
    ///
    /// `room` is how many names whoever asks is ready to pay for. An index in memory has no names in order: it must look
    /// at the first event of each of its streams, and does not begin if these are more.
    pub(crate) fn streams_with_prefix(
        &self,
        core: &Core,
        prefix: &str,
        head: u64,
        room: usize,
        mut each: impl FnMut(&str, u64) -> bool,
    ) -> Result<bool> {
        let base = self.base();
        let (segment, opened) = match &self.source {
            Source::Segment { segment, opened } => (segment, opened),
            Source::Tier(tier) => {
                let mut names = tier.streams_from(prefix)?;
                while let Some(name) = names.next()? {
                    let positions = tier.positions(core.hash.key(KeyKind::Stream, name))?;
                    let first = positions.map(|mut positions| positions.seek_ge(0)).transpose()?.flatten();
                    if !each(name, first.unwrap_or(base)) {
                        return Ok(false);
                    }
                }
                return Ok(true);
            }
        };
        match &opened.index {
            SegmentIndex::Sealed(index) => {
                index.streams_with_prefix(prefix, |name, record| each(name, base + u64::from(record)))
            }
            SegmentIndex::Active(index) => {
                let firsts = || index.stream_firsts().take_while(|record| base + u64::from(*record) <= head);
                if firsts().take(room.saturating_add(1)).count() > room {
                    return Ok(false);
                }
                for record in firsts() {
                    let position = base + u64::from(record);
                    let Some(event) = event_in(segment, &core.log, position)? else { continue };
                    if event.stream().starts_with(prefix) && !each(event.stream(), position) {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            SegmentIndex::Places(_) | SegmentIndex::Unread => unreachable!("opened with keys"),
        }
    }

    /// Every type that has an event up to `head`, among others.
    pub(crate) fn types(&self, core: &Core, head: u64, mut each: impl FnMut(&str)) -> Result<()> {
        let (segment, opened) = match &self.source {
            Source::Segment { segment, opened } => (segment, opened),
            Source::Tier(tier) => {
                let mut names = tier.types_from("")?;
                while let Some(name) = names.next()? {
                    each(name);
                }
                return Ok(());
            }
        };
        match &opened.index {
            SegmentIndex::Sealed(index) => index.each_type(each),
            SegmentIndex::Active(index) => {
                let base = self.base();
                for record in index.type_firsts().take_while(|record| base + u64::from(*record) <= head) {
                    if let Some(event) = event_in(segment, &core.log, base + u64::from(record))? {
                        each(event.event_type());
                    }
                }
                Ok(())
            }
            SegmentIndex::Places(_) | SegmentIndex::Unread => unreachable!("opened with keys"),
        }
    }
}

#[cfg(test)]
mod tests;
