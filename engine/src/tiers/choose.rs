//! Which neighbours become one next.
//!
//! A unit's *level* is how many segments it stands for: 1, from 4 on, from 16 on, from 64 on, from 512 on, and so on by 8.
//! Four neighbours of a level become one of the next or a higher one, eight from 64 segments on, and all that are there go
//! along. So every row is written again once a level at most, and of each level there are few. While segments end one after
//! the other, eight of any level become one: each row is then written less often, for which there are more tiers for a while.
//!
//! Where a tier was dropped, small units lie between large ones, where nothing will be added to them: they are merged
//! however many they are, and one that is left goes along when its neighbours are merged.

use std::ops::Range;

use super::source::INPUTS_MAX;

/// Longest file that a merge may make, by the sum of its inputs: below what the format allows by a third, since a key's
/// positions may take more room as a list than they did as bit maps.
pub(super) const LEN_MAX: u64 = 3 << 29;
const POSITIONS_MAX: u64 = u32::MAX as u64;

/// One of the neighbours: a tier, or a sealed segment that no tier covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct UnitSize {
    pub(super) segments: u64,
    pub(super) positions: u64,
    /// Length of its file.
    pub(super) len: u64,
    /// Whether it can be merged: a segment without an index file cannot.
    pub(super) merges: bool,
}

fn level(segments: u64) -> u32 {
    match segments {
        0..64 => segments.max(1).ilog2() / 2,
        _ => 3 + (segments / 64).ilog2() / 3,
    }
}

/// How many of a level become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fan {
    /// Few tiers: what asks them costs less.
    Ordinary,
    /// Few merges.
    Wide,
}

impl Fan {
    fn at(self, level: u32) -> usize {
        if self == Self::Ordinary && level < 3 { 4 } else { 8 }
    }
}

/// The neighbours to be merged next: the lowest level first, and of it the oldest.
///
/// They are at most 512, their files together at most 1.5 GiB long, their positions at most 2^32 - 1. Once they are one
/// unit, asking again finds the next; after at most as many merges as there are units there is none.
pub(super) fn choose_merge(units: &[UnitSize], fan: Fan) -> Option<Range<usize>> {
    let highest = units.iter().map(|unit| level(unit.segments)).max()?;
    (0..=highest).find_map(|level| due_at(units, level, fan))
}

fn due_at(units: &[UnitSize], of: u32, fan: Fan) -> Option<Range<usize>> {
    let is_in_run = |unit: &UnitSize| unit.merges && level(unit.segments) <= of;
    let mut start = 0;
    while start < units.len() {
        let len = units[start..].iter().take_while(|unit| is_in_run(unit)).count();
        let run = start..start + len;
        // What follows a run is of a higher level, so nothing is added to it any more; or it cannot be merged.
        let is_enclosed = units.get(run.end).is_some_and(|next| level(next.segments) > of);
        if let Some(found) = due_in(units, run.clone(), (of, fan), is_enclosed) {
            return Some(found);
        }
        start = run.end + 1;
    }
    None
}

fn due_in(units: &[UnitSize], run: Range<usize>, (of, fan): (u32, Fan), is_enclosed: bool) -> Option<Range<usize>> {
    let is_of_level = |at: &usize| level(units[*at].segments) == of;
    for start in run.clone() {
        let end = if is_enclosed {
            run.end
        } else if is_of_level(&start) {
            // All that follow go along, smaller ones included: a row costs no more where there are more of them, and need not be
            // written again so soon.
            match (start..run.end).filter(is_of_level).nth(fan.at(of) - 1) {
                Some(_) => run.end,
                None => return None,
            }
        } else {
            continue;
        };
        let count = fitting(&units[start..end.min(start + INPUTS_MAX)]);
        if count >= 2 {
            return Some(start..start + count);
        }
    }
    None
}

/// How many of them, from the first on, fit one file.
fn fitting(units: &[UnitSize]) -> usize {
    let mut sums = (0u64, 0u64);
    let fits = units.iter().take_while(|unit| {
        sums = (sums.0.saturating_add(unit.len), sums.1.saturating_add(unit.positions));
        sums.0 <= LEN_MAX && sums.1 <= POSITIONS_MAX
    });
    fits.count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment(positions: u64, len: u64) -> UnitSize {
        UnitSize { segments: 1, positions, len, merges: true }
    }

    fn merged(units: &mut Vec<UnitSize>, range: Range<usize>) -> UnitSize {
        let inputs = &units[range.clone()];
        let sum = |of: fn(&UnitSize) -> u64| inputs.iter().map(of).sum();
        let whole = UnitSize {
            segments: sum(|unit| unit.segments),
            positions: sum(|unit| unit.positions),
            len: sum(|unit| unit.len),
            merges: true,
        };
        units.splice(range, [whole]);
        whole
    }

    #[test]
    fn a_thousand_segments_one_by_one() {
        let mut units = Vec::new();
        let (mut written, mut most) = (0, 0);
        for count in 1..=1000u64 {
            units.push(segment(10_000, 1 << 20));
            while let Some(range) = choose_merge(&units, Fan::Ordinary) {
                assert!((2..=INPUTS_MAX).contains(&range.len()));
                written += merged(&mut units, range).segments;
            }
            let tiers = units.iter().filter(|unit| unit.segments > 1).count();
            let single = units.len() - tiers;
            assert!(single <= 3, "{single} segments are left alone");
            most = most.max(tiers);
            assert_eq!(units.iter().map(|unit| unit.segments).sum::<u64>(), count);
        }
        assert!(most <= 13, "{most} tiers");
        // Written once to become of 4, of 16, of 64 and of 512 segments.
        assert!(written <= 4 * 1000, "{written} segments were written");
    }

    #[test]
    fn wide_merges_write_less_and_leave_more() {
        let mut units = Vec::new();
        let mut written = 0;
        for _ in 1..=1000u64 {
            units.push(segment(10_000, 1 << 20));
            while let Some(range) = choose_merge(&units, Fan::Wide) {
                written += merged(&mut units, range).segments;
            }
            assert!(units.len() <= 7 * 3 + 1, "{} units", units.len());
        }
        // Once to become of 8, of 64 and of 512 segments.
        assert!(written <= 3 * 1000, "{written} segments were written");
        // When it is quiet what was left becomes few.
        while let Some(range) = choose_merge(&units, Fan::Ordinary) {
            merged(&mut units, range);
        }
        assert!(units.len() <= 13, "{} units", units.len());
    }

    #[test]
    fn a_store_without_tiers_gets_them() {
        let mut units = vec![segment(10_000, 1 << 20); 1000];
        let mut written = 0;
        while let Some(range) = choose_merge(&units, Fan::Ordinary) {
            written += merged(&mut units, range).segments;
        }
        assert!(units.len() <= 14 && written <= 4 * 1000, "{} units, {written} written", units.len());
    }

    #[test]
    fn a_hole_closes() {
        let large = UnitSize { segments: 64, ..segment(640_000, 64 << 20) };
        for hole in 1..100 {
            let mut units = vec![large; 3];
            units.extend(vec![segment(10_000, 1 << 20); hole]);
            units.push(large);
            while let Some(range) = choose_merge(&units, Fan::Ordinary) {
                merged(&mut units, range);
            }
            // One of 64 segments at most, and one smaller.
            assert!(units.len() <= 6, "{hole}: {units:?}");
        }
        // One that is left alone between others goes along with them.
        let mut units = vec![large; 7];
        units.insert(3, segment(10_000, 1 << 20));
        assert_eq!(choose_merge(&units, Fan::Ordinary), None);
        units.push(large);
        assert_eq!(choose_merge(&units, Fan::Ordinary), Some(0..9));
    }

    #[test]
    fn no_file_grows_too_long() {
        let half = segment(10, LEN_MAX / 2);
        assert_eq!(choose_merge(&[half; 4], Fan::Ordinary), Some(0..2));
        let more = segment(10, LEN_MAX / 2 + 1);
        assert_eq!(choose_merge(&[more; 9], Fan::Ordinary), None);
        let many = segment(POSITIONS_MAX / 3, 100);
        assert_eq!(choose_merge(&[many; 4], Fan::Ordinary), Some(0..3));
        assert_eq!(choose_merge(&[segment(10, u64::MAX); 9], Fan::Ordinary), None);
        let unready = UnitSize { merges: false, ..segment(10, 10) };
        assert_eq!(
            choose_merge(&[segment(10, 10), segment(10, 10), unready, segment(10, 10), segment(10, 10)], Fan::Ordinary),
            None
        );
        assert_eq!(choose_merge(&[], Fan::Ordinary), None);
    }

    proptest! {
        #[test]
        fn it_ends_within_the_bounds(
            sizes in proptest::collection::vec((1..600u64, 1..1u64 << 31, 1..1u64 << 30, 0..10u8), 0..60),
            is_wide in proptest::bool::ANY,
        ) {
            let fan = if is_wide { Fan::Wide } else { Fan::Ordinary };
            let mut units: Vec<UnitSize> = sizes
                .into_iter()
                .map(|(segments, positions, len, merges)| UnitSize { segments, positions, len, merges: merges > 0 })
                .collect();
            while let Some(range) = choose_merge(&units, fan) {
                prop_assert!((2..=INPUTS_MAX).contains(&range.len()) && range.end <= units.len());
                prop_assert!(units[range.clone()].iter().all(|unit| unit.merges));
                let whole = merged(&mut units, range);
                prop_assert!(whole.len <= LEN_MAX && whole.positions <= POSITIONS_MAX);
            }
        }
    }
}
