//! What a decision may have rested on and what is gone since: matches that a removal hid.

use std::sync::Arc;

use annals_format::record::{Control, StreamCut, SweptPart};

use super::load::with_control;
use crate::core::Core;
use crate::cursor::{Sought, Walk};
use crate::event::Event;
use crate::query::Query;
use crate::read::{Bounds, Direction};
use crate::reader::newest;
use crate::{EventId, Result};

/// The newest removal after `after` and up to `head` that hid an event matching `query`: its position, and the id of the
/// newest such event. What lies within a cut counts as hidden by it, also if another record had hidden it before.
pub(crate) fn newest_hidden_match(
    core: &Arc<Core>,
    query: &Query,
    head: u64,
    after: u64,
) -> Result<Option<(u64, EventId)>> {
    if core.removals.newest() <= after {
        return Ok(None);
    }
    let segments = core.segments.load_full();
    let mut walk = Walk::new(Bounds { from: after + 1, until: head, direction: Direction::Backward });
    while let Some(position) = walk.next(core, &segments, Sought::Controls(core.hash.controls()))? {
        let hidden = with_control(core, position, |control| hidden_by(core, query, position, &control))?.flatten();
        if let Some(event) = hidden {
            return Ok(Some((position, event.id())));
        }
    }
    Ok(None)
}

fn hidden_by(core: &Arc<Core>, query: &Query, record: u64, control: &Control<'_>) -> Result<Option<Event>> {
    match control {
        Control::Truncate(cut) | Control::Delete(cut) | Control::Tombstone(cut) => of_stream(core, query, record, cut),
        Control::Sweep(sweep) => {
            let mut found: Option<Event> = None;
            for part in sweep.parts() {
                let of_part = match part {
                    SweptPart::Stream { name, first, upto } => {
                        of_stream(core, query, record, &StreamCut { stream: name, first, upto, last: upto })?
                    }
                    SweptPart::Prefix { prefix, first, upto } => of_prefix(core, query, prefix, first, upto)?,
                };
                let is_newer = |event: &Event| found.as_ref().is_none_or(|found| found.position() < event.position());
                if of_part.as_ref().is_some_and(is_newer) {
                    found = of_part;
                }
            }
            Ok(found)
        }
        Control::Retain(_) | Control::ForgetIds(_) | Control::ForgetStream(_) => Ok(None),
    }
}

fn of_stream(core: &Arc<Core>, query: &Query, record: u64, cut: &StreamCut<'_>) -> Result<Option<Event>> {
    let Some(narrowed) = query.within_stream(cut.stream) else { return Ok(None) };
    // What stood there before the stream was forgotten is of another life.
    let forgotten = core.removals.hidden(u64::MAX).map_or(0, |hidden| hidden.marks(cut.stream).forgotten);
    let after = if forgotten < record { forgotten } else { 0 };
    newest(core, Sought::Query(&narrowed), record - 1, after, |event| {
        event.stream() == cut.stream && (cut.first..=cut.upto).contains(&event.revision().get()) && query.matches(event)
    })
}

fn of_prefix(core: &Arc<Core>, query: &Query, prefix: &str, first: u64, upto: u64) -> Result<Option<Event>> {
    let Some(narrowed) = query.within_prefix(prefix) else { return Ok(None) };
    newest(core, Sought::Query(&narrowed), upto, first - 1, |event| {
        event.stream().starts_with(prefix) && query.matches(event)
    })
}
