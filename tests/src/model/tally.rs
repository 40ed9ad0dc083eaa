//! What random histories were made of, so that a run that tests nothing fails.

use std::collections::BTreeMap;
use std::fmt;

/// Operations by kind and outcome, and how often each history rolled and was opened again.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: BTreeMap<(&'static str, &'static str), u64>,
    rolls: Vec<u64>,
    reopens: Vec<u64>,
}

impl Tally {
    /// Counts one operation.
    pub fn count(&mut self, kind: &'static str, outcome: &'static str) {
        *self.counts.entry((kind, outcome)).or_default() += 1;
    }

    /// Ends a history.
    pub fn end_history(&mut self, rolls: u64, reopens: u64) {
        self.rolls.push(rolls);
        self.reopens.push(reopens);
    }

    /// Adds the histories of another tally.
    pub fn add(&mut self, other: Self) {
        for (key, count) in other.counts {
            *self.counts.entry(key).or_default() += count;
        }
        self.rolls.extend(other.rolls);
        self.reopens.extend(other.reopens);
    }

    /// How often an operation of this kind ended so.
    #[must_use]
    pub fn times(&self, kind: &str, outcome: &str) -> u64 {
        self.total(|of, ended| of == kind && ended == outcome)
    }

    /// How often the median history rolled.
    #[must_use]
    pub fn median_rolls(&self) -> u64 {
        median(&self.rolls)
    }

    fn total(&self, matches: impl Fn(&str, &str) -> bool) -> u64 {
        self.counts.iter().filter(|((kind, outcome), _)| matches(kind, outcome)).map(|(_, count)| count).sum()
    }

    /// What the run lacks to count as a test: too few commits, an outcome or operation that never was, too few rolls
    /// or reopenings.
    #[must_use]
    pub fn shortcomings(&self, outcomes: &[&str], operations: &[&str]) -> Vec<String> {
        let mut lacks = Vec::new();
        let appends = self.total(|kind, _| kind.starts_with("append"));
        let commits = self.total(|kind, outcome| kind.starts_with("append") && outcome == "committed");
        if commits * 100 < appends * 40 {
            lacks.push(format!("{commits} of {appends} appends committed, less than 40 %"));
        }
        for wanted in outcomes {
            if self.total(|_, outcome| outcome == *wanted) == 0 {
                lacks.push(format!("no operation ended with {wanted}"));
            }
        }
        for wanted in operations {
            if self.total(|kind, _| kind == *wanted) == 0 {
                lacks.push(format!("no operation was {wanted}"));
            }
        }
        for (what, counts, least) in [("rolls", &self.rolls, 5), ("reopenings", &self.reopens, 3)] {
            let median = median(counts);
            if median < least {
                lacks.push(format!("{median} {what} in the median history, less than {least}"));
            }
        }
        lacks
    }
}

fn median(counts: &[u64]) -> u64 {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<24} {:<20} {:>10}", "operation", "outcome", "count")?;
        for ((kind, outcome), count) in &self.counts {
            writeln!(f, "{kind:<24} {outcome:<20} {count:>10}")?;
        }
        let (rolls, reopens) = (median(&self.rolls), median(&self.reopens));
        write!(f, "{} histories; median: {rolls} rolls, {reopens} reopenings", self.rolls.len())
    }
}
