//! Whether nothing can match: a condition nearly always holds, and that can be told without a walk.

use smallvec::SmallVec;

use super::Span;
use crate::core::Core;
use crate::name::KeyKind;
use crate::query::{Query, QueryItem};
use crate::recent_keys::RecentKey;
use crate::segment::{OpenedGuard, Segment, SegmentIndex};
use crate::segments::Segments;

/// Whether surely no event of these positions matches: each item has a name that all its events have, and that none of them
/// has. False if it cannot be told so, also where part of the index is broken.
///
/// Looks at the keys alone, of each tier and of each segment without one, and begins to load them all before it waits for
/// the first.
pub(crate) fn surely_none(core: &Core, query: &Query, span: Span) -> bool {
    let Some(items) = &query.items else { return false };
    items.iter().all(|item| names_of_all(item).any(|(kind, name)| !may_have(core, kind, name, span)))
}

/// Names that every event of the item has.
fn names_of_all(item: &QueryItem) -> impl Iterator<Item = (KeyKind, &str)> {
    fn only(names: &[String]) -> Option<&str> {
        match names {
            [name] => Some(name),
            _ => None,
        }
    }
    let tags = item.tags_all.iter().map(|tag| (KeyKind::Tag, tag.as_str()));
    let stream = if item.prefixes.is_empty() { only(&item.streams) } else { None };
    let singles = [(KeyKind::Stream, stream), (KeyKind::Tag, only(&item.tags_any)), (KeyKind::Type, only(&item.types))];
    tags.chain(singles.into_iter().filter_map(|(kind, name)| Some((kind, name?))))
}

fn may_have(core: &Core, kind: KeyKind, name: &str, span: Span) -> bool {
    let key = core.hash.key(kind, name);
    let (tiers, segments) = (core.tiers.load(), core.segments.load());
    let covered = tiers.iter().next_back().map_or(0, |tier| tier.last_position());
    let recent = core.recent_keys.look(key);
    tiers.prefetch_buckets(key, span.first, span.last);
    let uncovered = Span { first: span.first.max(covered + 1), ..span };
    let Some(newest) = behind_tiers(&segments, key, recent, uncovered) else { return true };
    tiers.prefetch_rows(key, span.first, span.last);
    newest.iter().for_each(|asked| asked.prefetch_row(key));
    if newest.iter().any(|asked| asked.may_have(kind, key, span.first)) {
        return true;
    }
    let mut at = span.last.min(covered);
    for tier in tiers.sound().rev().skip_while(|tier| tier.first_position() > span.last) {
        if at < span.first {
            return false;
        }
        // Segments that lie between tiers are rare: one of those was dropped.
        if segments_may_have(&segments, (kind, key), span.first.max(tier.last_position() + 1), at) {
            return true;
        }
        at = at.min(tier.last_position());
        let newest = tier.positions(key).and_then(|found| match found {
            Some(mut positions) => positions.seek_le(at),
            None => Ok(None),
        });
        if !newest.is_ok_and(|newest| newest.is_none_or(|newest| newest < span.first)) {
            return true;
        }
        // Positions begin at 1.
        at = tier.first_position() - 1;
    }
    segments_may_have(&segments, (kind, key), span.first, at)
}

/// Whether an event of the key may stand in the segments of `first ..= at`, at `first` or behind; true if it cannot be told.
fn segments_may_have(segments: &Segments, (kind, key): (KeyKind, u64), first: u64, mut at: u64) -> bool {
    while at >= first {
        let Some(index) = segments.index_of(at) else { return true };
        if Asked::open(&segments[index]).is_none_or(|asked| asked.may_have(kind, key, first)) {
            return true;
        }
        at = segments.first(index) - 1;
    }
    false
}

/// The segments of `span`, behind all tiers, that may have a key; begins to load what they are asked by. `None` if one cannot
/// be opened.
fn behind_tiers(segments: &Segments, key: u64, mut recent: RecentKey<'_>, span: Span) -> Option<SmallVec<[Asked; 4]>> {
    let mut asked = SmallVec::new();
    let mut at = span.last;
    let mut index = segments.index_of(at)?;
    while at >= span.first {
        let first = segments.first(index);
        if !recent.is_not_in(first) {
            let opened = Asked::open(&segments[index])?;
            opened.prefetch_start(key);
            asked.push(opened);
        }
        at = first - 1;
        // One that is empty begins where the next one does.
        while at >= span.first && segments.first(index) > at {
            index = index.checked_sub(1)?;
        }
    }
    Some(asked)
}

/// A segment that is asked by its own index.
struct Asked {
    opened: OpenedGuard,
    first_position: u64,
}

impl Asked {
    fn open(segment: &Segment) -> Option<Self> {
        Some(Self { opened: segment.opened_with_keys().ok()?, first_position: segment.first_position() })
    }

    fn prefetch_start(&self, key: u64) {
        match &self.opened.index {
            SegmentIndex::Active(index) => index.prefetch_key(key),
            SegmentIndex::Sealed(index) => index.prefetch_start(key),
            SegmentIndex::Places(_) | SegmentIndex::Unread => {}
        }
    }

    fn prefetch_row(&self, key: u64) {
        if let SegmentIndex::Sealed(index) = &self.opened.index {
            index.prefetch_row(key);
        }
    }

    /// Whether an event of the key may stand at `from` or behind; true if it cannot be told.
    fn may_have(&self, kind: KeyKind, key: u64, from: u64) -> bool {
        let is_behind = |newest: u32| self.first_position + u64::from(newest) >= from;
        match &self.opened.index {
            SegmentIndex::Active(index) => index.postings(kind, key).next().is_some_and(is_behind),
            SegmentIndex::Sealed(index) => match index.records(key) {
                Ok(records) => records.last().is_some_and(|newest| is_behind(newest.to_native())),
                Err(_) => true,
            },
            SegmentIndex::Places(_) | SegmentIndex::Unread => true,
        }
    }
}
