//! Opening: the control records, found by the index, and nothing else of the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use annals_format::batch::BatchHeader;
use annals_format::checksum::Seed;
use annals_format::record::{self, Record};
use annals_format::{Purpose, scan};

use crate::Result;
use crate::core::Core;
use crate::founding::LaterRemovals;
use crate::name::KeyKind;
use crate::segment::{Segment, SegmentIndex};

/// Enters every control record that was not entered yet. A store without any costs a look at what the manifest says of
/// each segment; else each index that has some is asked for them, and each record is read and verified. Where others hold
/// the same removals, these stay as they are.
///
/// # Errors
/// `Corrupt`, `Unsupported` or `Io` if one of them cannot be read: what it hides must not be shown.
pub(crate) fn load(core: &mut Core) -> Result<()> {
    let after = core.removals.loaded.load(Ordering::Relaxed);
    // The durable view passes over what stands above.
    let durable = core.log.watermark.durable();
    let segments = core.segments.load_full();
    let mut found: Vec<(Arc<Segment>, u64)> = Vec::new();
    let mut loaded = after;
    for (index, segment) in segments.iter().enumerate() {
        let next = segments.get(index + 1).map_or(u64::MAX, |next| next.first_position());
        let last = last_of(segment)?.min(next - 1);
        loaded = loaded.max(last);
        if last > after && count_of(core, segment)? > 0 {
            let positions = positions_in(core, segment, last)?.into_iter().filter(|position| *position > after);
            found.extend(positions.map(|position| (segment.clone(), position)));
        }
    }
    if !found.is_empty() && Arc::get_mut(&mut core.removals).is_none() {
        core.removals = Arc::new(core.removals.copied(durable));
    }
    for (segment, position) in found {
        apply(core, &segment, position, durable)?;
    }
    core.removals.loaded.store(loaded, Ordering::Relaxed);
    Ok(())
}

/// Those behind `head` and up to `last`, for a store that is made from what stands before.
///
/// # Errors
/// As [`load`].
pub(crate) fn later(core: &Core, head: u64, last: u64) -> Result<LaterRemovals> {
    let mut later = LaterRemovals::default();
    let segments = core.segments.load_full();
    for (index, segment) in segments.iter().enumerate() {
        let next = segments.get(index + 1).map_or(u64::MAX, |next| next.first_position());
        let end = last_of(segment)?.min(next - 1).min(last);
        if end <= head || count_of(core, segment)? == 0 {
            continue;
        }
        let opened = segment.opened()?;
        for position in positions_in(core, segment, last_of(segment)?.min(next - 1))? {
            if position > head && position <= end {
                segment.record_at(&opened, &core.log, position, |record| {
                    if let Record::Control(frame) = record {
                        later.push(&frame);
                    }
                })?;
            }
        }
    }
    Ok(later)
}

/// Enters the control records of a batch that was verified, before it is shown: for who goes on from the end of the log.
pub(crate) fn apply_batch(core: &Core, batch: &[u8], header: &BatchHeader, seed: Seed) {
    let durable = core.log.watermark.durable();
    let verified = scan::verify_batch_for(batch, header, seed, Purpose::Read, |_, position, record| {
        if let Record::Control(frame) = record
            && let Some(control) = frame.control()
        {
            core.removals.apply(position, &control, durable);
        }
    });
    debug_assert!(verified.is_ok(), "a batch that was verified before");
}

/// Position of the segment's last record; one less than its first if it has none.
fn last_of(segment: &Segment) -> Result<u64> {
    let before = segment.first_position() - 1;
    match segment.closing() {
        Some(closing) => Ok(closing.tally.last_position.max(before)),
        // More of it may be known than is shown yet.
        None => match &segment.opened()?.index {
            SegmentIndex::Active(index) => Ok(before + u64::from(index.record_count())),
            SegmentIndex::Sealed(_) | SegmentIndex::Places(_) | SegmentIndex::Unread => Ok(before),
        },
    }
}

fn count_of(core: &Core, segment: &Segment) -> Result<u64> {
    match segment.closing() {
        Some(closing) => Ok(closing.tally.control_count),
        None => match &segment.opened()?.index {
            SegmentIndex::Active(index) => Ok(index.postings(KeyKind::Control, core.hash.controls()).count.into()),
            SegmentIndex::Sealed(_) | SegmentIndex::Places(_) | SegmentIndex::Unread => Ok(0),
        },
    }
}

/// Positions of the segment's control records, ascending.
fn positions_in(core: &Core, segment: &Segment, last: u64) -> Result<Vec<u64>> {
    let key = core.hash.controls();
    let (first, count) = (segment.first_position(), count_of(core, segment)?);
    let is_right = |positions: &Vec<u64>| positions.len() as u64 == count && positions.is_sorted();
    if let Some(tier) = core.tiers.load().tier_at(first) {
        let found = tier.positions(key).and_then(|positions| {
            let mut found = Vec::new();
            let Some(mut positions) = positions else { return Ok(found) };
            let mut at = first;
            while let Some(position) = positions.seek_ge(at)?.filter(|position| *position <= last) {
                found.push(position);
                at = position + 1;
            }
            Ok(found)
        });
        if let Some(found) = tier.unless_broken(found)?.filter(is_right) {
            return Ok(found);
        }
    }
    let opened = segment.opened_with_keys()?;
    let mut found: Vec<u64> = match &opened.index {
        SegmentIndex::Active(index) => {
            let postings = index.postings(KeyKind::Control, key);
            postings.map(|record| first + u64::from(record)).collect()
        }
        SegmentIndex::Sealed(index) => {
            index.records_of(key)?.into_iter().map(|record| first + u64::from(record)).collect()
        }
        SegmentIndex::Places(_) | SegmentIndex::Unread => unreachable!("opened with keys"),
    };
    found.sort_unstable();
    if is_right(&found) {
        return Ok(found);
    }
    // An index that does not know them: every record is looked at.
    let mut found = Vec::new();
    for position in first..=last {
        segment.record_at(&opened, &core.log, position, |record| {
            if matches!(record, Record::Control(_)) {
                found.push(position);
            }
        })?;
    }
    Ok(found)
}

fn apply(core: &Core, segment: &Segment, position: u64, durable: u64) -> Result<()> {
    let opened = segment.opened()?;
    let mut is_control = false;
    segment.record_at(&opened, &core.log, position, |record: Record<'_>| {
        if let Record::Control(frame) = record {
            is_control = true;
            if let Some(control) = frame.control() {
                core.removals.apply(position, &control, durable);
            }
        }
    })?;
    if is_control {
        return Ok(());
    }
    Err(segment.damaged(0, Some(position), "the index leads to a control record, and an event stands there"))
}

/// Hands the control record at `position` to `each`; nothing if another record stands there.
pub(super) fn with_control<T>(
    core: &Core,
    position: u64,
    each: impl FnOnce(record::Control<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let Some(segment) = core.segment_of(position) else { return Ok(None) };
    let opened = segment.opened()?;
    let mut answer = None;
    let mut each = Some(each);
    segment.record_at(&opened, &core.log, position, |record| {
        if let Record::Control(frame) = record
            && let Some(control) = frame.control()
            && let Some(each) = each.take()
        {
            answer = Some(each(control));
        }
    })?;
    answer.transpose()
}
