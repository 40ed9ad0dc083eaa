//! Whether nothing can match: a condition nearly always holds, and that can be told without a walk.

use super::Span;
use crate::core::Core;
use crate::name::KeyKind;
use crate::query::{Query, QueryItem};
use crate::segment::SegmentIndex;

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
    super::keys::prefetch_key(&tiers, &segments, key, span);
    let mut at = span.last;
    while at >= span.first {
        let first = if let Some(tier) = tiers.tier_at(at) {
            let newest = tier.positions(key).and_then(|found| match found {
                Some(mut positions) => positions.seek_le(at),
                None => Ok(None),
            });
            if !newest.is_ok_and(|newest| newest.is_none_or(|newest| newest < span.first)) {
                return true;
            }
            tier.first_position()
        } else {
            let Some(segment) = segments.index_of(at).map(|index| &segments[index]) else { return true };
            let Ok(opened) = segment.opened_with_keys() else { return true };
            let base = segment.first_position();
            let has = match &opened.index {
                SegmentIndex::Active(index) => {
                    index.postings(kind, key).next().is_some_and(|newest| base + u64::from(newest) >= span.first)
                }
                SegmentIndex::Sealed(index) => match index.records(key) {
                    Ok(records) => {
                        records.last().is_some_and(|newest| base + u64::from(newest.to_native()) >= span.first)
                    }
                    Err(_) => true,
                },
                SegmentIndex::Places(_) | SegmentIndex::Unread => true,
            };
            if has {
                return true;
            }
            base
        };
        // Positions begin at 1.
        at = first - 1;
    }
    false
}
