//! From the names of a query to cursors in one unit of the index.

use super::join::{Any, Item, Join, Part};
use super::{Cursor, Seek, Span, Unit};
use crate::Result;
use crate::core::Core;
use crate::name::KeyKind;
use crate::query::{Query, QueryItem};
use crate::read::Direction;
use crate::tiers::TierFile;

/// More streams than this are not joined, so that a prefix never takes much memory.
const PREFIX_STREAMS_MAX: u64 = 4096;

/// The query's positions in this unit and span; `None` if there are none.
pub(super) fn join(
    core: &Core,
    unit: &Unit<'_>,
    query: &Query,
    span: Span,
    direction: Direction,
) -> Result<Option<Join>> {
    let Some(items) = &query.items else { return Ok(Some(Join::One(Cursor::Every(span)))) };
    let scope = Scope { core, unit, span, direction };
    let mut joined = Vec::new();
    for item in items {
        joined.extend(scope.item(item)?);
    }
    Ok((!joined.is_empty()).then(|| Join::Items(Any::new(joined))))
}

/// Whether each item has a tag that all its events have and none in this tier has: then no cursor need be opened. *No* also
/// where the tier cannot tell.
pub(super) fn is_absent(core: &Core, tier: &TierFile, query: &Query) -> bool {
    let mut items = query.items.iter().flatten();
    items.all(|item| {
        let key = item.tags_all.first().map(|tag| core.hash.key(KeyKind::Tag, tag));
        key.is_some_and(|key| matches!(tier.positions(key), Ok(None)))
    })
}

struct Scope<'a> {
    core: &'a Core,
    unit: &'a Unit<'a>,
    span: Span,
    direction: Direction,
}

impl Scope<'_> {
    /// The parts of an item; the first one without a position in the span ends it, and nothing more is opened.
    fn item(&self, item: &QueryItem) -> Result<Option<Item>> {
        // Nothing is allocated for an item that its first key ends.
        let mut parts = Vec::new();
        for tag in &item.tags_all {
            let key = self.core.hash.key(KeyKind::Tag, tag);
            let Some(cursor) = self.key(KeyKind::Tag, key)? else { return Ok(None) };
            parts.push(Part::One(cursor));
        }
        for (kind, names) in [(KeyKind::Tag, &item.tags_any), (KeyKind::Type, &item.types)] {
            if !names.is_empty() {
                let Some(part) = self.any(kind, self.keys(kind, names))? else { return Ok(None) };
                parts.push(part);
            }
        }
        if item.restricts_stream() {
            let left = parts.iter().map(Seek::count).min().unwrap_or(u64::MAX).min(self.span.len());
            // Streams that are not joined are told by the events themselves.
            if let Some(keys) = self.streams(item, left)? {
                let Some(part) = self.any(KeyKind::Stream, keys)? else { return Ok(None) };
                parts.push(part);
            }
        }
        if parts.is_empty() {
            parts.push(Part::One(Cursor::Every(self.span)));
        }
        Ok(Some(Item::new(parts)))
    }

    fn key(&self, kind: KeyKind, key: u64) -> Result<Option<Cursor>> {
        self.unit.cursor(kind, key, self.span, self.direction)
    }

    fn keys(&self, kind: KeyKind, names: &[String]) -> Vec<u64> {
        names.iter().map(|name| self.core.hash.key(kind, name)).collect()
    }

    fn any(&self, kind: KeyKind, mut keys: Vec<u64>) -> Result<Option<Part>> {
        keys.sort_unstable();
        keys.dedup();
        let mut cursors = Vec::new();
        for key in keys {
            cursors.extend(self.key(kind, key)?);
        }
        Ok(match cursors.len() {
            0 => None,
            1 => cursors.pop().map(Part::One),
            _ => Some(Part::Any(Any::new(cursors))),
        })
    }

    /// Keys of the streams asked for, by name and by prefix; `None` if joining them costs more than it saves.
    ///
    /// To look up a stream of a prefix costs about what it costs to look at an event, and `left` is how many events
    /// there are to look at without it. So names are only gone through while they are fewer than half of that.
    fn streams(&self, item: &QueryItem, left: u64) -> Result<Option<Vec<u64>>> {
        let mut keys = self.keys(KeyKind::Stream, &item.streams);
        let room = (left / 2).min(PREFIX_STREAMS_MAX) as usize;
        for prefix in &item.prefixes {
            let most = item.streams.len() + room;
            let all = self.unit.streams_with_prefix(self.core, prefix, self.span.last, room, |name, _| {
                keys.push(self.core.hash.key(KeyKind::Stream, name));
                keys.len() <= most
            })?;
            if !all {
                return Ok(None);
            }
        }
        Ok(Some(keys))
    }
}
