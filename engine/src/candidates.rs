//! Which positions of a segment may match a query, by its index alone.

use crate::Result;
use crate::core::Core;
use crate::name::KeyKind;
use crate::query::{Query, QueryItem};
use crate::reader::{each_stream, positions_of_key};
use crate::segment::Segment;

/// Positions in `from ..= until` that may match, ascending; every match is among them.
pub(crate) fn candidates(core: &Core, segment: &Segment, query: &Query, from: u64, until: u64) -> Result<Vec<u64>> {
    if until < from {
        return Ok(Vec::new());
    }
    let Some(items) = &query.items else { return Ok((from..=until).collect()) };
    let scope = Scope { core, segment, from, until };
    let mut found = Vec::new();
    for item in items {
        found.extend(scope.item(item)?);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

struct Scope<'a> {
    core: &'a Core,
    segment: &'a Segment,
    from: u64,
    until: u64,
}

impl Scope<'_> {
    fn key(&self, kind: KeyKind, name: &str) -> Result<Vec<u64>> {
        positions_of_key(self.segment, kind, self.core.hash.key(kind, name), self.from, self.until)
    }

    fn any(&self, kind: KeyKind, names: &[String]) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        for name in names {
            found.extend(self.key(kind, name)?);
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// The parts of an item narrow each other; a part that matches nothing ends the search.
    fn item(&self, item: &QueryItem) -> Result<Vec<u64>> {
        let mut narrowed: Option<Vec<u64>> = None;
        let mut narrow = |found: Vec<u64>| {
            let both = match narrowed.take() {
                None => found,
                Some(before) => common(&before, &found),
            };
            let goes_on = !both.is_empty();
            narrowed = Some(both);
            goes_on
        };
        let mut goes_on = true;
        for tag in &item.tags_all {
            goes_on = goes_on && narrow(self.key(KeyKind::Tag, tag)?);
        }
        if goes_on && !item.tags_any.is_empty() {
            goes_on = narrow(self.any(KeyKind::Tag, &item.tags_any)?);
        }
        if goes_on && item.restricts_stream() {
            goes_on = narrow(self.streams(item)?);
        }
        if goes_on && !item.types.is_empty() {
            narrow(self.any(KeyKind::Type, &item.types)?);
        }
        Ok(narrowed.unwrap_or_default())
    }

    fn streams(&self, item: &QueryItem) -> Result<Vec<u64>> {
        let mut names = item.streams.clone();
        for prefix in &item.prefixes {
            each_stream(self.segment, &self.core.log, prefix, self.until, |name, _| names.push(name.to_owned()))?;
        }
        self.any(KeyKind::Stream, &names)
    }
}

/// What stands in both ascending lists.
fn common(left: &[u64], right: &[u64]) -> Vec<u64> {
    let mut both = Vec::with_capacity(left.len().min(right.len()));
    let (mut l, mut r) = (0, 0);
    while let (Some(a), Some(b)) = (left.get(l), right.get(r)) {
        match a.cmp(b) {
            std::cmp::Ordering::Less => l += 1,
            std::cmp::Ordering::Greater => r += 1,
            std::cmp::Ordering::Equal => {
                both.push(*a);
                l += 1;
                r += 1;
            }
        }
    }
    both
}
