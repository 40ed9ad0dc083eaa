//! Which snapshots count for a reader.

use std::sync::Arc;

use annals_format::snapshot::SnapshotFrame;

use crate::Result;
use crate::append::Receipt;
use crate::core::Core;
use crate::error::Error;
use crate::reader::{Reader, event_at};
use crate::removal::{Hidden, Marks, Removal, StreamFacts, facts};

/// A stream as of a reader's head: what a snapshot of it is held against.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    core: &'a Arc<Core>,
    head: u64,
    pub(crate) facts: StreamFacts,
    marks: Marks,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(core: &'a Arc<Core>, hidden: Option<&Hidden>, stream: &str, head: u64) -> Result<Self> {
        let facts = facts(core, hidden, stream, head)?;
        let marks = hidden.map_or(Marks::default(), |hidden| hidden.marks(stream));
        Ok(Self { core, head, facts, marks })
    }

    /// Whether the stream begins later than its events do: folding what can be read does not give its state.
    pub(crate) fn is_cut(&self) -> bool {
        self.facts.last > self.marks.deleted && self.facts.first > self.marks.deleted + 1
    }

    /// Whether a snapshot at this revision takes the place of everything that cannot be read.
    pub(crate) fn reaches(&self, revision: u64) -> bool {
        revision + 1 >= self.facts.first
    }

    /// Whether nothing says that a snapshot is void, as far as its place tells: the cheap part of [`Judge::counts`].
    pub(crate) fn may_count(&self, revision: u64, position: u64) -> bool {
        position <= self.head
            && revision <= self.facts.last
            && revision > self.marks.deleted
            && position > self.marks.forgotten
    }

    /// Whether the snapshot is one of this stream as it is: its history was not taken back, and the event it names stands
    /// where it says.
    pub(crate) fn counts(&self, frame: &SnapshotFrame<'_>) -> Result<bool> {
        if !self.may_count(frame.revision, frame.position)
            || !self.core.lineage.holds(frame.incarnation, frame.position)
        {
            return Ok(false);
        }
        let is_hidden = frame.revision < self.facts.first;
        match event_at(self.core, frame.position) {
            Ok(Some(event)) => Ok(event.id().to_bytes() == frame.event
                && event.revision().get() == frame.revision
                && event.stream() == frame.stream),
            // Bytes of what is removed go, and so may those of an event that was lost before a repair.
            Ok(None) => Ok(is_hidden || self.is_lost(frame.position)),
            // The history up to there is the same, whatever became of the bytes since.
            Err(Error::Corrupt(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn is_lost(&self, position: u64) -> bool {
        self.core.lost.iter().any(|range| (range.first_position..=range.last_position).contains(&position))
    }
}

/// Of each truncation that was written: whether a snapshot of any name and schema takes the place of what it hides.
#[cold]
pub(crate) fn note_unreached(reader: &Reader, removals: &[Removal<'_>], receipt: &mut Receipt) {
    let answers = receipt.removals.iter_mut().flat_map(|answers| answers.iter_mut());
    for (removal, answer) in removals.iter().zip(answers) {
        if let Removal::TruncateBefore { stream, .. } = removal
            && answer.position.is_some()
        {
            // What cannot be read does not help who needs it.
            answer.is_unreached = !is_reached(reader, stream).unwrap_or(false);
        }
    }
}

fn is_reached(reader: &Reader, stream: &str) -> Result<bool> {
    let candidates = reader.core().snapshots.of_stream(stream)?;
    if candidates.entries.is_empty() {
        return Ok(false);
    }
    let (head, hidden) = reader.pinned();
    let judge = Judge::new(reader.core(), hidden.as_ref(), stream, head)?;
    for placed in candidates.entries.iter().filter(|placed| judge.reaches(placed.entry.revision)) {
        let stored = placed.read()?;
        let frame = stored.frame()?;
        if frame.stream == stream && judge.counts(&frame)? {
            return Ok(true);
        }
    }
    Ok(!judge.is_cut())
}
