//! Rows of many inputs in one order, however many inputs there are.
//!
//! Hashes are spread evenly, so the rows whose hashes begin with the same bits are about as many for any such bits: they are
//! gathered from all inputs, each of which has them side by side, and sorted while they are in the cache. A row costs the same
//! for two inputs and for five hundred. Names are not spread evenly: of these the smallest is found by a tournament.

use annals_format::Fault;

use super::sink::{Pulse, Step};
use super::source::NameHead;
use crate::hash_order::HashOrder;

/// A row of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) hash: u64,
    pub(super) input: u32,
    pub(super) number: u32,
}

/// What rows are read from.
pub(super) trait Rows {
    /// Hash of a row.
    fn hash(&self, input: usize, number: u32) -> Result<u64, Fault>;

    /// Begins to load the row and those behind it: the inputs are many, and none is read for long.
    fn prefetch(&self, input: usize, number: u32);

    /// Begins to load what is read of this row once its turn has come.
    fn prefetch_content(&self, row: &Row) {
        let _ = row;
    }
}

/// Rows that are gathered at a time, about.
const TOGETHER: u64 = 1 << 14;
/// How far ahead memory is asked for, in inputs and in rows.
const INPUTS_AHEAD: usize = 2;
const ROWS_AHEAD: usize = 16;

const UNORDERED: Fault = Fault::Order { what: "rows of an index" };

/// Calls `each` with the rows of every hash, smallest hash first; those of one hash in the order of the inputs, and of one
/// input in their own.
pub(super) fn each_hash(
    counts: &[u32],
    from: &impl Rows,
    pulse: &mut Pulse<'_>,
    mut each: impl FnMut(&[Row]) -> Step,
) -> Step {
    let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    let bits = (total / TOGETHER).max(1).ilog2();
    let mut next = vec![0u32; counts.len()];
    let (mut gathered, mut order) = (Vec::new(), HashOrder::default());
    for part in 0..1u64 << bits {
        // Twice, since a shift by 64 is none.
        let part_of = |hash: u64| hash >> 1 >> (63 - bits);
        for (input, count) in counts.iter().enumerate() {
            if let Some(ahead) = next.get(input + INPUTS_AHEAD) {
                from.prefetch(input + INPUTS_AHEAD, *ahead);
            }
            let mut number = next[input];
            while number < *count {
                let hash = from.hash(input, number)?;
                if part_of(hash) != part {
                    break;
                }
                gathered.push(Row { hash, input: input as u32, number });
                number += 1;
            }
            next[input] = number;
        }
        order.sort(&mut gathered, bits, |row: &Row| row.hash);
        let mut at = 0;
        for rows in gathered.chunk_by(|left, right| left.hash == right.hash) {
            pulse.beat()?;
            let ahead = at + ROWS_AHEAD;
            gathered.iter().skip(ahead).take(rows.len()).for_each(|row| from.prefetch_content(row));
            at += rows.len();
            each(rows)?;
        }
        gathered.clear();
    }
    // One that goes back was passed over, with all behind it.
    if next == counts { Ok(()) } else { Err(UNORDERED.into()) }
}

/// Calls `each` with every name once, in the order of their bytes.
pub(super) fn each_name(heads: Vec<NameHead<'_>>, pulse: &mut Pulse<'_>, mut each: impl FnMut(&[u8]) -> Step) -> Step {
    let Some(mut names) = Tournament::of(heads) else { return Ok(()) };
    let (mut last, mut last_front, mut is_first) = (Vec::new(), 0, true);
    while let Some(head) = names.lowest() {
        if is_first || head.front() != last_front || head.now != last {
            is_first = false;
            pulse.beat()?;
            last.clear();
            last.extend_from_slice(&head.now);
            last_front = head.front();
            each(&last)?;
        }
        names.step();
    }
    Ok(())
}

/// Who comes first of all is known by who lost to whom: one step asks as many as there are rounds.
struct Tournament<'a> {
    heads: Vec<NameHead<'a>>,
    /// The beginning of each head's name, and the largest number there is at its end.
    fronts: Vec<u128>,
    /// Who lost at each place; at the first, who won.
    losers: Vec<u32>,
}

impl<'a> Tournament<'a> {
    fn of(heads: Vec<NameHead<'a>>) -> Option<Self> {
        let count = heads.len();
        let fronts = heads.iter().map(NameHead::front).collect();
        let mut tournament = Self { heads, fronts, losers: vec![0; count] };
        // Winners of each place, the heads themselves behind them.
        let mut winners: Vec<u32> = (0..2 * count).map(|place| place.saturating_sub(count) as u32).collect();
        for place in (1..count).rev() {
            let (left, right) = (winners[2 * place], winners[2 * place + 1]);
            let left_wins = tournament.is_before(left, right);
            (winners[place], tournament.losers[place]) = if left_wins { (left, right) } else { (right, left) };
        }
        let winner = *winners.get(1)?;
        *tournament.losers.first_mut()? = winner;
        Some(tournament)
    }

    #[inline]
    fn is_before(&self, left: u32, right: u32) -> bool {
        let (left, right) = (left as usize, right as usize);
        match self.fronts[left] == self.fronts[right] {
            false => self.fronts[left] < self.fronts[right],
            true => self.heads[left].comes_before(&self.heads[right]),
        }
    }

    /// The head with the smallest name; `None` at the end of all.
    #[inline]
    fn lowest(&self) -> Option<&NameHead<'a>> {
        let head = &self.heads[self.losers[0] as usize];
        head.is_there.then_some(head)
    }

    /// Its name was taken.
    #[inline]
    fn step(&mut self) {
        let mut winner = self.losers[0];
        let head = &mut self.heads[winner as usize];
        head.step();
        self.fronts[winner as usize] = head.front();
        let mut place = (winner as usize + self.heads.len()) / 2;
        while place > 0 {
            let other = self.losers[place];
            if self.is_before(other, winner) {
                self.losers[place] = winner;
                winner = other;
            }
            place /= 2;
        }
        self.losers[0] = winner;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    struct Listed<'a>(&'a [Vec<u64>]);

    impl Rows for Listed<'_> {
        fn hash(&self, input: usize, number: u32) -> Result<u64, Fault> {
            Ok(self.0[input][number as usize])
        }

        fn prefetch(&self, _: usize, _: u32) {}
    }

    fn in_order(inputs: &[Vec<u64>]) -> Step<Vec<Row>> {
        let counts: Vec<u32> = inputs.iter().map(|rows| rows.len() as u32).collect();
        let stop = AtomicBool::new(false);
        let mut all = Vec::new();
        each_hash(&counts, &Listed(inputs), &mut Pulse::new(&stop), |rows| {
            assert!(rows.iter().all(|row| row.hash == rows[0].hash));
            all.extend_from_slice(rows);
            Ok(())
        })?;
        Ok(all)
    }

    fn check(mut inputs: Vec<Vec<u64>>) {
        let mut wanted = Vec::new();
        for (input, rows) in inputs.iter_mut().enumerate() {
            rows.sort_unstable();
            wanted.extend((0..).zip(rows.iter()).map(|(number, hash)| Row {
                hash: *hash,
                input: input as u32,
                number,
            }));
        }
        wanted.sort_by_key(|row| row.hash);
        assert_eq!(in_order(&inputs).expect("rows in order"), wanted);
    }

    #[test]
    fn many_rows_of_many_inputs() {
        let hash = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // Some in every input, some at both ends.
        let input = |of: u64| (0..700).map(move |n| hash(of * 700 + n)).chain((0..9).map(hash)).chain([0, u64::MAX]);
        check((0..100).map(|of| input(of).collect()).collect());
        check((0..3).map(|_| vec![7; 30_000]).collect());
        check((0..40).map(|of| (0..1000).map(|n| (n * 40 + of) << 3).collect()).collect());
        check(vec![]);
    }

    #[test]
    fn rows_out_of_order_are_refused() {
        let mut rows: Vec<u64> = (0..60_000u64).map(|n| n << 48).collect();
        rows.swap(100, 50_000);
        assert!(in_order(&[rows]).is_err());
    }

    proptest! {
        #[test]
        fn as_a_stable_sort_would(inputs in prop::collection::vec(prop::collection::vec(0..99u64, 0..60), 0..9), shift in 0..58u32) {
            check(inputs.into_iter().map(|rows| rows.into_iter().map(|hash| hash << shift).collect()).collect());
        }
    }
}
