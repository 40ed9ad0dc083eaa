//! Folds that are registered with the store: what compaction must save by them, told beforehand, and loaded afterwards.

use annals::{Event, Fold, FoldError, Snapshot, Snapshots, StreamState, View};

use super::super::content::{self, Recorded};
use super::super::states::{FOLDED, Folded, Load, Saved};
use super::{Checked, History, ensure, same, worked};
use crate::sim_disk::Dice;

/// A fold that stands until the store is closed.
#[derive(Clone, Debug)]
pub(super) struct Registered {
    prefix: String,
    every: u64,
    keep: Option<usize>,
}

/// Folds as the model does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folding;

impl Fold for Folding {
    type State = Folded;

    fn begin(&self, snapshot: Option<&Snapshot>) -> Result<Folded, FoldError> {
        let Some(snapshot) = snapshot else { return Ok(Folded::default()) };
        Folded::from_bytes(snapshot.state()).ok_or_else(|| "a state of fewer bytes".into())
    }

    fn apply(&self, state: &mut Folded, event: &Event) -> Result<(), FoldError> {
        state.fold(&Recorded::of(event.as_event_ref()));
        Ok(())
    }

    fn encode(&self, state: &Folded) -> Result<Vec<u8>, FoldError> {
        Ok(state.to_bytes())
    }
}

/// What a compaction must save.
#[derive(Clone, Debug, Default)]
pub(super) struct Due {
    saves: Vec<Saved>,
    events: u64,
    incomplete: u64,
    /// How many go on from a snapshot.
    going_on: u64,
}

impl History {
    /// Registers a fold for some streams, or another in its place.
    pub(super) fn register_fold(&mut self, dice: &mut Dice) -> Checked {
        let prefix = match dice.below(3) {
            0 => ["", "a", "acc", "u-"][dice.index(4)].to_owned(),
            _ => content::stream(dice),
        };
        let new = Registered { prefix, every: 1 + dice.below(5), keep: dice.chance(2, 3).then(|| 1 + dice.index(2)) };
        self.note(format!("register {new:?}"));
        let mut kind = Snapshots::of("folded", FOLDED).every_events(new.every);
        if let Some(keep) = new.keep {
            kind = kind.keep(keep);
        }
        worked("register_fold", self.store.register_fold(&new.prefix, &kind, Folding))?;
        match self.folds.iter_mut().find(|known| known.prefix == new.prefix) {
            Some(known) => *known = new,
            None => self.folds.push(new),
        }
        self.tally.count("register", "registered");
        Ok(())
    }

    /// What compaction must do by the folds that are registered; who only plans sees nothing of what the folds before would save.
    pub(super) fn due_folds(&self, dry_run: bool) -> Due {
        let (head, mut due, mut states) = (self.plain.head(), Due::default(), self.states.clone());
        for fold in &self.folds {
            for (stream, state, ..) in self.plain.streams(&fold.prefix, head) {
                let StreamState::Live { first, last } = state else { continue };
                let facts = self.plain.facts(&stream, head, head);
                // A look at the table, which void snapshots are in as well.
                let newest = states.newest_in_table(&stream, FOLDED, last.get()).unwrap_or(0);
                if last.get() - newest.max(first.get() - 1) < fold.every {
                    continue;
                }
                let (saved, revisions) = match states.load(&self.plain, &stream, FOLDED, head, head) {
                    Load::Complete(saved, revisions) => (saved, revisions),
                    Load::Incomplete(_) => {
                        due.incomplete += 1;
                        continue;
                    }
                };
                let Some(revision) = revisions.last().copied().filter(|_| revisions.len() as u64 >= fold.every) else {
                    continue;
                };
                due.events += revisions.len() as u64;
                due.going_on += u64::from(saved.is_some());
                let position = facts.positions[revision as usize - 1];
                let state = self.plain.state_at(&facts, revision).to_bytes();
                let save = Saved { stream, schema: FOLDED, revision, position, state };
                if !dry_run {
                    states.save(save.clone());
                }
                due.saves.push(save);
            }
        }
        due
    }

    /// A plan says what would be saved.
    pub(super) fn check_planned_folds(&self, due: &Due, told: Option<&annals::Folded>) -> Checked {
        let Some(told) = told else { return Ok(()) };
        let wanted = (due.saves.len() as u64, due.incomplete, 0);
        same("planned folds", &(told.folded, told.incomplete, told.failed), &wanted)
    }

    /// After a compaction: all that was due was saved. Where the disk is full, some of it may have been.
    pub(super) fn settle_folds(&mut self, due: &Due, told: Option<&annals::Folded>) -> Checked {
        if let Some(told) = told.filter(|_| !self.full_disk) {
            let wanted = (due.saves.len() as u64, due.events, due.incomplete, 0);
            same("folds", &(told.folded, told.events, told.incomplete, told.failed), &wanted)?;
        }
        let (reader, head, mut found) = (self.store.reader_in(View::Written), self.plain.head(), 0);
        for save in &due.saves {
            let count = |listed: &[(u32, u64)]| {
                listed.iter().filter(|(schema, revision)| (*schema, *revision) == (save.schema, save.revision)).count()
            };
            let listed = worked("snapshots_of", reader.snapshots_of(&save.stream))?;
            let listed: Vec<(u32, u64)> = listed.iter().map(|info| (info.schema, info.revision.get())).collect();
            let is_there = count(&listed) > count(&self.states.listed(&self.plain, &save.stream, head, head));
            ensure(is_there || self.full_disk, || format!("{} was not folded to {}", save.stream, save.revision))?;
            if is_there {
                found += 1;
                self.states.save(save.clone());
            }
        }
        if let Some(told) = told {
            same("streams that were folded", &told.folded, &found)?;
        }
        for (name, count) in [
            ("folded", found),
            ("folded onto another", due.going_on.min(found)),
            ("not folded without a beginning", due.incomplete),
        ] {
            if count > 0 {
                self.tally.count("fold", name);
            }
        }
        Ok(())
    }

    /// Compaction lets go of what is void, and of what the folds have more of than they keep.
    pub(super) fn drop_void_and_superseded(&mut self, void: u64, superseded: u64) -> Checked {
        let folds = &self.folds;
        let keep = |stream: &str, schema: u32| {
            let concerned = folds.iter().filter(|fold| schema == FOLDED && stream.starts_with(&fold.prefix));
            concerned.map(|fold| fold.keep.unwrap_or(usize::MAX)).max().unwrap_or(usize::MAX)
        };
        let wanted = self.states.clean(&self.plain, keep);
        same("snapshots that compaction let go of", &(void, superseded), &(wanted.void, wanted.superseded))?;
        if superseded > 0 {
            self.tally.count("fold", "let go by a fold");
        }
        Ok(())
    }

    /// Of every stream of which compaction saved the state, that state, and no event to be read for it.
    pub(super) fn check_folded(&self, due: &Due) -> Checked {
        let (reader, head) = (self.store.reader_in(View::Written), self.plain.head());
        for save in &due.saves {
            self.check_load(&reader, &self.states, (&save.stream, FOLDED), head, head)?;
            let left = self.states.load(&self.plain, &save.stream, FOLDED, head, head);
            let is_its = matches!(&left, Load::Complete(Some(saved), rest) if saved.revision == save.revision && rest.is_empty());
            ensure(is_its, || format!("{} was folded up to {}, and is {left:?}", save.stream, save.revision))?;
        }
        Ok(())
    }
}
