//! What a stream is, with what is removed of it.

use std::sync::Arc;

use super::{Hidden, Marks};
use crate::append::Expect;
use crate::core::Core;
use crate::directory::StreamTip;
use crate::error::StreamState;
use crate::reader::{oldest_of_stream, tip_of_stream};
use crate::{Result, Revision};

/// A stream as of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamFacts {
    pub(crate) state: StreamState,
    /// The first revision that can be read; one more than the last if there is none.
    pub(crate) first: u64,
    /// The last revision ever given, 0 for none.
    pub(crate) last: u64,
    /// Position of its newest event, hidden or not; 0: not known.
    pub(crate) newest: u64,
    /// What stands before this position is not of it.
    pub(crate) forgotten: u64,
}

/// The stream as readers with this head see it.
pub(crate) fn facts(core: &Arc<Core>, hidden: Option<&Hidden>, stream: &str, head: u64) -> Result<StreamFacts> {
    facts_of_newest(core, hidden, stream, tip_of_stream(core, stream, head)?, head)
}

/// As [`facts`], of a stream whose last event in the log is known, forgotten or not.
pub(crate) fn facts_of_newest(
    core: &Arc<Core>,
    hidden: Option<&Hidden>,
    stream: &str,
    tip: StreamTip,
    head: u64,
) -> Result<StreamFacts> {
    let is_forgotten = hidden.is_some_and(|hidden| tip.position < hidden.marks(stream).forgotten);
    let tip = if is_forgotten { StreamTip::NONE } else { tip };
    facts_of_tip(core, hidden, stream, tip, head)
}

/// The last event of a stream up to `head` as the writer needs it: of what is removed the record tells the last revision,
/// wherever the events are; what was forgotten never was.
pub(crate) fn tip_beside_removals(core: &Core, stream: &str, head: u64) -> Result<StreamTip> {
    let tip = tip_of_stream(core, stream, head)?;
    let Some(hidden) = core.removals.hidden(u64::MAX) else { return Ok(tip) };
    let marks = hidden.marks(stream);
    let tip = if tip.position < marks.forgotten { StreamTip::NONE } else { tip };
    Ok(StreamTip { revision: tip.revision.max(marks.hidden_upto()), ..tip })
}

/// As [`facts`], of a stream whose newest event is known.
pub(crate) fn facts_of_tip(
    core: &Arc<Core>,
    hidden: Option<&Hidden>,
    stream: &str,
    tip: StreamTip,
    head: u64,
) -> Result<StreamFacts> {
    let marks = hidden.map_or(Marks::default(), |hidden| hidden.marks(stream));
    let last = tip.revision.max(marks.hidden_upto());
    let mut first = marks.hidden_upto() + 1;
    let cut = hidden.map_or(0, |hidden| hidden.prefix_cut(stream));
    if cut > marks.forgotten && first <= last {
        first = if tip.position <= cut {
            last + 1
        } else {
            let oldest = oldest_of_stream(core, stream, head, cut)?;
            first.max(oldest.map_or(last + 1, |event| event.revision().get()))
        };
    }
    let state = match (Revision::new(first), Revision::new(last)) {
        (Some(_), Some(last)) if marks.is_tombstoned => StreamState::Tombstoned { last },
        (Some(_), Some(last)) if marks.deleted >= last.get() => StreamState::Deleted { last },
        (Some(first), Some(last)) => StreamState::Live { first, last },
        _ => StreamState::Absent,
    };
    Ok(StreamFacts { state, first, last, newest: tip.position, forgotten: marks.forgotten })
}

/// Whether a stream in this state is as expected. What was deleted has no last revision to decide by.
pub(crate) fn holds(expected: Expect, state: StreamState) -> bool {
    match (expected, state) {
        (_, StreamState::Tombstoned { .. }) => expected == Expect::Any,
        (Expect::Any, _) => true,
        (Expect::NoStream, state) => state == StreamState::Absent,
        (Expect::Vacant, state) => matches!(state, StreamState::Absent | StreamState::Deleted { .. }),
        (Expect::Exists, state) => matches!(state, StreamState::Live { .. }),
        (Expect::At(revision), state) => matches!(state, StreamState::Live { last, .. } if last == revision),
        (Expect::Deleted, state) => matches!(state, StreamState::Deleted { .. }),
    }
}
