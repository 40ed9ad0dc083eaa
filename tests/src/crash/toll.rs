//! Which states a run went through: a run that cut nothing that matters proves nothing.

use std::collections::BTreeMap;
use std::fmt;

use super::Verdict;
use crate::ensure;
use crate::sim_disk::{Call, Cut, WriteKind};

/// Counts of states.
#[derive(Clone, Debug, Default)]
pub struct Toll {
    /// All states that were reopened and judged.
    pub states: u64,
    /// Those after a power cut with something unsynced outstanding.
    pub biting: u64,
    /// Those after a kill.
    pub kills: u64,
    /// Those cut while the store was being opened.
    pub opening: u64,
    cut: BTreeMap<(WriteKind, Call), u64>,
}

/// Whether an operation changes the disk.
#[must_use]
pub fn changes(call: Call) -> bool {
    !matches!(call, Call::List | Call::Open | Call::Read | Call::Map)
}

const KINDS: [WriteKind; 11] = [
    WriteKind::Batch,
    WriteKind::Header,
    WriteKind::EndMark,
    WriteKind::Index,
    WriteKind::Container,
    WriteKind::Tier,
    WriteKind::Streams,
    WriteKind::IndexManifest,
    WriteKind::Manifest,
    WriteKind::Mark,
    WriteKind::DirectoryEntry,
];

impl Toll {
    /// Counts a state after a power cut.
    pub fn count(&mut self, cut: Option<Cut>, while_opening: bool) {
        self.states += 1;
        let Some(cut) = cut else { return };
        self.biting += u64::from(cut.unsynced > 0);
        self.opening += u64::from(while_opening);
        *self.cut.entry((cut.kind, cut.call)).or_default() += 1;
    }

    /// Counts a state after a kill.
    pub fn count_kill(&mut self) {
        self.states += 1;
        self.kills += 1;
    }

    /// How often something of this kind was cut while it was written, synced or named.
    #[must_use]
    pub fn of_kind(&self, kind: WriteKind) -> u64 {
        self.cut.iter().filter(|((of, call), _)| *of == kind && changes(*call)).map(|(_, count)| count).sum()
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        self.states += other.states;
        self.biting += other.biting;
        self.kills += other.kills;
        self.opening += other.opening;
        for (key, count) in &other.cut {
            *self.cut.entry(*key).or_default() += count;
        }
    }

    /// Whether enough of the states could have shown a fault.
    pub fn bites(&self) -> Verdict {
        let losses = self.states - self.kills;
        ensure!(self.biting * 2 >= losses, "only {} of {losses} states had unsynced writes\n{self}", self.biting);
        // The full measure is for runs of the ordinary length; the short ones of a bisection owe their share.
        let least = (self.states / 50).min(100);
        for kind in KINDS {
            let count = self.of_kind(kind);
            ensure!(count >= least, "{kind} was cut {count} times, not {least}\n{self}");
        }
        Ok(())
    }
}

impl fmt::Display for Toll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "states                {:>9}", self.states)?;
        writeln!(f, "  after a kill        {:>9}", self.kills)?;
        writeln!(f, "  with unsynced data  {:>9}", self.biting)?;
        writeln!(f, "  cut while opening   {:>9}", self.opening)?;
        for kind in KINDS {
            writeln!(f, "  {kind:<16} cut {:>9}", self.of_kind(kind))?;
        }
        for ((kind, call), count) in &self.cut {
            writeln!(f, "    {kind:<16} {:<10} {count:>9}", call.to_string())?;
        }
        Ok(())
    }
}
