//! Snapshots of state: saved, loaded as of any moment, cleaned up.

use annals::{
    AsOf, CleanSnapshots, Durability, Error, Loaded, ReadEvents, Reader, Removed, Revision, Snapshots, StreamState,
    View,
};

use super::super::content;
use super::super::removal::Remove;
use super::super::states::{FOLDED, Folded, Load, SCHEMAS, Saved, States};
use super::folds::Folding;
use super::{Checked, History, ensure, same, worked};
use crate::sim_disk::Dice;

fn kind(schema: u32) -> Snapshots {
    Snapshots::of("folded", schema)
}

fn schema(dice: &mut Dice) -> u32 {
    SCHEMAS[dice.index(SCHEMAS.len())]
}

impl History {
    /// Saves, loads, or cleans up.
    pub(super) fn states(&mut self, dice: &mut Dice) -> Checked {
        match dice.below(10) {
            0..5 => self.save(dice),
            5..9 => self.load(dice),
            _ => self.clean(dice),
        }
    }

    /// Saves the state of a stream at any revision of it, one that cannot be read included.
    fn save(&mut self, dice: &mut Dice) -> Checked {
        let (stream, schema) = (content::stream(dice), schema(dice));
        let head = self.plain.head();
        let (first, last) = match self.plain.state(&stream, head) {
            StreamState::Live { first, last } => (first.get(), last.get()),
            state => (1, state.last().map_or(0, Revision::get)),
        };
        let revision = match dice.below(8) {
            0 => 1 + dice.below(last + 2),
            1..4 => last.max(1),
            _ => first + dice.below((last + 1).saturating_sub(first).max(1)),
        };
        let facts = self.plain.facts(&stream, head, head);
        let event = facts.positions.get(revision as usize - 1).and_then(|at| self.plain.at(*at));
        let position = event.filter(|event| self.plain.is_shown(event, head)).map(|event| event.position);
        let mut state = self.plain.state_at(&facts, revision).to_bytes();
        if dice.chance(1, 3) {
            // Some are long, of these some can be compressed.
            let step = dice.below(2) as usize;
            let long = (0..dice.index(6000)).map(|at| (at * step * 37 % 251) as u8);
            state.extend(long);
        }
        let durability = if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered };
        self.note(format!("save {stream:?} at {revision}, {} bytes, {durability:?}", state.len()));
        let kind = kind(schema).durability(durability).compress(dice.chance(1, 2));
        let revision = Revision::new(revision).expect("at least 1");
        let name = match (kind.save(&self.store, &stream, revision, &state), position) {
            (Ok(told), Some(position)) => {
                same("what was saved", &(told.revision, told.position.get()), &(revision, position))?;
                // Nothing that names a position is written before that is durable.
                self.durable = self.durable.max(position);
                self.states.save(Saved { stream, schema, revision: revision.get(), position, state });
                "saved"
            }
            (Err(Error::Invalid(_)), None) => "Invalid",
            (Err(Error::NoSpace { .. }), Some(_)) if self.full_disk => "NoSpace",
            (got, wanted) => return Err(format!("save: got {got:?}, the model's event is at {wanted:?}")),
        };
        self.tally.count("save", name);
        Ok(())
    }

    /// Loads one stream, in a view or as of any moment of it.
    fn load(&mut self, dice: &mut Dice) -> Checked {
        let (stream, schema, view) = (content::stream(dice), schema(dice), self.view(dice));
        let now = self.head(view)?;
        self.note(format!("load {stream:?}, schema {schema}, {view:?}"));
        let reader = if dice.chance(1, 3) {
            let as_of = self.store.reader_in(view).as_of(AsOf::Position(dice.below(now + 1)));
            worked("as_of", as_of)?
        } else {
            self.store.reader_in(view)
        };
        // With threads at work the durable head may move while it is asked.
        if view == View::Durable && self.manner.background {
            worked("load", reader.load(&stream, &kind(schema)))?;
            return Ok(());
        }
        let last = reader.head();
        let name = self.check_load(&reader, &self.states, (&stream, schema), last, now)?;
        self.tally.count("load", name);
        Ok(())
    }

    pub(super) fn check_load(
        &self,
        reader: &impl ReadEvents,
        states: &States,
        (stream, schema): (&str, u32),
        last: u64,
        removals: u64,
    ) -> Checked<&'static str> {
        let what = || format!("{stream:?}, schema {schema}, up to {last} through {removals}");
        let latest = worked("latest_snapshot", reader.latest_snapshot(stream, &kind(schema)))?;
        let got = latest.as_ref().map(|snapshot| (snapshot.revision().get(), snapshot.state()));
        let wanted = states.latest(&self.plain, stream, schema, last, removals);
        let wanted = wanted.map(|saved| (saved.revision, &saved.state[..]));
        ensure(got == wanted, || {
            let short = |found: Option<(u64, &[u8])>| found.map(|(revision, state)| (revision, state.len()));
            format!("latest of {}: got {:?}, the model says {:?}", what(), short(got), short(wanted))
        })?;
        let loaded = worked("load", reader.load(stream, &kind(schema)))?;
        match (loaded, states.load(&self.plain, stream, schema, last, removals)) {
            (Loaded::Incomplete { first_available }, Load::Incomplete(first)) => {
                same("first_available", &first_available.get(), &first)?;
                Ok("incomplete")
            }
            (Loaded::Complete(mut history), Load::Complete(saved, revisions)) => {
                let snapshot = history.snapshot().cloned();
                let got = snapshot.as_ref().map(|snapshot| (snapshot.revision().get(), snapshot.state()));
                let wanted = saved.map(|saved| (saved.revision, &saved.state[..]));
                ensure(got == wanted, || format!("another snapshot of {}", what()))?;
                ensure(history.damage().is_empty(), || format!("{:?}", history.damage()))?;
                let mut state = snapshot.and_then(|snapshot| Folded::from_bytes(snapshot.state())).unwrap_or_default();
                let mut got = Vec::new();
                for event in &mut history {
                    let event = content::Recorded::of(worked("load", event)?.as_event_ref());
                    got.push(event.revision);
                    state.fold(&event);
                }
                ensure(got == revisions, || format!("load of {}: {got:?}, the model: {revisions:?}", what()))?;
                let facts = self.plain.facts(stream, last, removals);
                let wanted = self.plain.state_at(&facts, facts.last);
                same("the state", &state, &wanted)?;
                if schema == FOLDED {
                    let again = worked("load", reader.load(stream, &kind(schema)))?.complete();
                    let replayed = again.ok_or("incomplete the second time")?.replay(&Folding);
                    same("the state that is replayed", &replayed.map_err(|error| error.to_string())?, &wanted)?;
                }
                Ok(if saved.is_some() { "from a snapshot" } else { "from the beginning" })
            }
            (loaded, wanted) => Err(format!("load of {}: got {loaded:?}, the model says {wanted:?}", what())),
        }
    }

    /// Every stream that has a snapshot, loaded through a reader that stays where it is.
    pub(super) fn check_states(&self, reader: &Reader, states: &States, last: u64, removals: u64) -> Checked {
        for stream in states.streams() {
            for schema in SCHEMAS {
                self.check_load(reader, states, (stream, schema), last, removals)?;
            }
            let listed = worked("snapshots_of", reader.snapshots_of(stream))?;
            let mut listed: Vec<_> = listed.iter().map(|info| (info.schema, info.revision.get())).collect();
            listed.sort_unstable();
            same("snapshots_of", &listed, &states.listed(&self.plain, stream, last, removals))?;
        }
        Ok(())
    }

    fn clean(&mut self, dice: &mut Dice) -> Checked {
        // What is removed counts once it is durable.
        self.sync()?;
        let keep = 1 + dice.index(3);
        self.note(format!("clean up, {keep} are kept"));
        let mut left = self.states.clone();
        let wanted = left.clean(&self.plain, |_, _| keep);
        let planned = worked("plan", self.store.clean_snapshots(&CleanSnapshots::new().keep(keep).dry_run(true)))?;
        let counts = |told: &annals::CleanedSnapshots| (told.kept, told.void, told.superseded);
        let of_model = (wanted.kept, wanted.void, wanted.superseded);
        same("planned clean-up", &counts(&planned), &of_model)?;
        let name = match self.store.clean_snapshots(&CleanSnapshots::new().keep(keep)) {
            Ok(cleaned) => {
                same("clean-up", &counts(&cleaned), &of_model)?;
                ensure(cleaned.damage.is_empty(), || format!("{cleaned:?}"))?;
                self.states = left;
                if cleaned.void + cleaned.superseded > 0 { "dropped" } else { "nothing" }
            }
            Err(Error::NoSpace { .. }) if self.full_disk => "NoSpace",
            Err(error) => return Err(format!("clean-up: {error} ({error:?})")),
        };
        self.tally.count("clean up", name);
        Ok(())
    }

    /// Whether a truncation says rightly that no snapshot reaches it.
    pub(super) fn check_unreached(&self, removals: &[Remove], removed: &[Removed]) -> Checked {
        for (remove, removed) in removals.iter().zip(removed) {
            let is_truncation = matches!(remove, Remove::TruncateBefore(..)) && removed.position.is_some();
            let is_reached = || self.states.is_reached(&self.plain, remove.stream(), self.plain.head());
            let wanted = is_truncation && !is_reached();
            ensure(removed.is_unreached == wanted, || format!("{remove:?}: {removed:?}, unreached: {wanted}"))?;
        }
        Ok(())
    }
}
