//! All tiers of a store, and which of them answers for a position.

use std::sync::Arc;

use super::file::TierFile;
use crate::segment::Segment;

/// The tiers, oldest first; replaced as a whole when one is made or dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tiers {
    files: Arc<[Arc<TierFile>]>,
}

impl Tiers {
    /// Oldest first; their ranges must not meet.
    pub(super) fn new(files: Vec<Arc<TierFile>>) -> Self {
        debug_assert!(files.is_sorted_by_key(|tier| tier.entry().first_segment));
        Self { files: files.into() }
    }

    /// All of them, broken ones too.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<TierFile>> + ExactSizeIterator {
        self.files.iter()
    }

    /// Those that can be asked.
    pub(crate) fn sound(&self) -> impl DoubleEndedIterator<Item = &Arc<TierFile>> {
        self.files.iter().filter(|tier| !tier.is_broken())
    }

    /// Numbers of those with which something is wrong by now.
    pub(crate) fn broken(&self) -> Vec<u64> {
        self.files.iter().filter(|tier| tier.is_broken()).map(|tier| tier.entry().number).collect()
    }

    /// The tier that answers for this position, if there is a sound one.
    #[inline]
    pub(crate) fn tier_at(&self, position: u64) -> Option<&Arc<TierFile>> {
        let after = self.files.partition_point(|tier| tier.first_position() <= position);
        let tier = self.files.get(after.checked_sub(1)?)?;
        (position <= tier.last_position() && !tier.is_broken()).then_some(tier)
    }

    /// Begins to load what a look-up of this key in each tier of `first ..= last` waits for, one step after the other in all
    /// of them: the waits run beside each other. Verifies nothing, opens nothing, answers nothing.
    pub(crate) fn prefetch_key(&self, key: u64, first: u64, last: u64) {
        if self.of(first, last).nth(1).is_none() {
            return;
        }
        self.prefetch_buckets(key, first, last);
        self.prefetch_rows(key, first, last);
        self.of(first, last).for_each(|tier| tier.prefetch_positions(key));
    }

    /// The first step of [`Tiers::prefetch_key`], for who has something else to do before the others.
    pub(crate) fn prefetch_buckets(&self, key: u64, first: u64, last: u64) {
        self.of(first, last).for_each(|tier| tier.prefetch_bucket(key));
    }

    /// The second: there is no other for a key that is nowhere.
    pub(crate) fn prefetch_rows(&self, key: u64, first: u64, last: u64) {
        self.of(first, last).for_each(|tier| tier.prefetch_rows(key));
    }

    /// Those with a position of `first ..= last`.
    fn of(&self, first: u64, last: u64) -> impl Iterator<Item = &Arc<TierFile>> {
        self.files.iter().filter(move |tier| tier.first_position() <= last && tier.last_position() >= first)
    }

    /// The tier that answers for this segment, if there is a sound one.
    #[inline]
    pub(crate) fn tier_of_segment(&self, number: u64) -> Option<&Arc<TierFile>> {
        let after = self.files.partition_point(|tier| tier.entry().first_segment <= number);
        let tier = self.files.get(after.checked_sub(1)?)?;
        (number <= tier.entry().last_segment && !tier.is_broken()).then_some(tier)
    }

    /// Segments that no sound tier answers for, oldest first: with [`Tiers::sound`] every segment once.
    pub(crate) fn segments_without<'a>(
        &'a self,
        segments: &'a [Arc<Segment>],
    ) -> impl DoubleEndedIterator<Item = &'a Arc<Segment>> {
        segments.iter().filter(|segment| self.tier_of_segment(segment.header.identity.segment).is_none())
    }

    /// The last position up to which tiers answer without a hole, from the first of the store on; 0 if there is none.
    pub(crate) fn covered_until(&self) -> u64 {
        let mut until = 0;
        for tier in self.sound() {
            if tier.first_position() != until + 1 {
                break;
            }
            until = tier.last_position();
        }
        until
    }

    /// How many of `segments` sound tiers cover. Numbers of segments have gaps, so it is not told by those of a tier.
    pub(crate) fn covered_segments(&self, segments: &[Arc<Segment>]) -> u64 {
        let number = |segment: &Arc<Segment>| segment.header.identity.segment;
        let covered_by = |tier: &Arc<TierFile>| {
            let after = segments.partition_point(|segment| number(segment) <= tier.entry().last_segment);
            after - segments[..after].partition_point(|segment| number(segment) < tier.entry().first_segment)
        };
        self.sound().map(covered_by).sum::<usize>() as u64
    }
}
