//! Sets of positions as ranges.

use std::collections::BTreeMap;

/// A set of positions, kept as ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// First position of each range and its last.
    ranges: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds `first ..= last`. Logarithmic in the number of ranges, beside those that it swallows.
    pub fn insert(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        let (mut first, mut last) = (first, last);
        if let Some((&before, &end)) = self.ranges.range(..=first).next_back()
            && end >= first.saturating_sub(1)
        {
            first = before;
            last = last.max(end);
        }
        while let Some((&next, &end)) = self.ranges.range(first..=last.saturating_add(1)).next() {
            self.ranges.remove(&next);
            last = last.max(end);
        }
        self.ranges.insert(first, last);
    }

    /// Whether the position is in the set.
    pub fn contains(&self, position: u64) -> bool {
        self.ranges.range(..=position).next_back().is_some_and(|(_, last)| *last >= position)
    }

    /// Takes out all positions up to `position`; if the set goes on right behind it, that range too, and answers its end.
    pub(super) fn advance(&mut self, position: u64) -> u64 {
        let mut reached = position;
        while let Some((&first, &last)) = self.ranges.first_key_value() {
            if first > reached.saturating_add(1) {
                break;
            }
            self.ranges.pop_first();
            reached = reached.max(last);
        }
        reached
    }

    /// Takes out everything.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether no position is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Number of positions.
    pub fn count(&self) -> u64 {
        self.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// First and last position of each range, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ranges_are_the_set_of_their_positions() {
        let mut state = 7u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..300 {
            let (mut ranges, mut plain) = (Ranges::default(), BTreeSet::new());
            for _ in 0..next(30) {
                let first = next(60) + 1;
                let last = first + next(6);
                ranges.insert(first, last);
                plain.extend(first..=last);
            }
            for position in 0..80 {
                assert_eq!(ranges.contains(position), plain.contains(&position));
            }
            assert_eq!(ranges.count(), plain.len() as u64);
            let rows: Vec<_> = ranges.iter().collect();
            assert!(rows.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{rows:?}");
            let from = next(40);
            let reached = ranges.advance(from);
            let mut expected = from;
            while plain.contains(&(expected + 1)) {
                expected += 1;
            }
            assert_eq!(reached, expected);
            plain.retain(|position| *position > reached);
            assert_eq!(ranges.count(), plain.len() as u64);
        }
    }

    #[test]
    fn what_ends_before_it_begins_is_nothing() {
        let mut ranges = Ranges::default();
        ranges.insert(5, 4);
        assert!(ranges.is_empty());
    }
}
