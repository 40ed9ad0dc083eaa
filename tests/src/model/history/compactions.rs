//! Compaction in the middle of a history: nothing that the model knows of changes.

use annals::{CompactionOptions, Error};

use super::{Checked, History};
use crate::sim_disk::Dice;

impl History {
    /// Compacts, or only says what that would free.
    pub(super) fn compact(&mut self, dice: &mut Dice) -> Checked {
        let dry_run = dice.chance(1, 8);
        let block_bytes = 4096 << dice.below(5);
        // They last no longer than the opening does.
        for _ in 0..dice.below(3) {
            self.register_fold(dice)?;
        }
        let due = self.due_folds(dry_run);
        let options = CompactionOptions::new().dry_run(dry_run).block_bytes(block_bytes as u32).level(1);
        self.note(format!("compact {options:?}"));
        let outcome = self.store.compact(&options);
        let told = outcome.as_ref().ok().map(|report| &report.folds);
        if dry_run {
            self.check_planned_folds(&due, told)?;
        } else {
            self.settle_folds(&due, told)?;
        }
        if let Ok(report) = &outcome
            && !dry_run
            && report.notices.is_empty()
        {
            self.drop_void_and_superseded(report.void_snapshots, report.folds.superseded)?;
            self.check_folded(&due)?;
        }
        let name = match outcome {
            // Without room for another segment the one that is being written goes on, which is said.
            Ok(report) if report.cancelled || !(report.notices.is_empty() || self.full_disk) => {
                return Err(format!("compact: {report:?}"));
            }
            Ok(report) if report.bytes_after > report.bytes_before && report.removed_events == 0 => {
                return Err(format!("compact: nothing was gained: {report:?}"));
            }
            Ok(_) if dry_run => "dry run",
            Ok(report) if report.compacted.is_empty() => "nothing",
            Ok(report) if report.removed_events > 0 => "events taken out",
            Ok(_) => "compressed",
            Err(Error::NoSpace { .. }) if self.full_disk => "NoSpace",
            Err(error) => return Err(format!("compact: {error} ({error:?})")),
        };
        self.tally.count("compact", name);
        if dice.chance(1, 3) { self.check_everything() } else { Ok(()) }
    }
}
