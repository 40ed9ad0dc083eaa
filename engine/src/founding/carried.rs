//! Removals that a store made from an earlier moment takes along: what was removed stays removed, at whatever moment one
//! looks. Their records stand behind the moment, so they are written anew, cut to what the new store holds.

use std::collections::BTreeMap;

use annals_format::Purpose;
use annals_format::record::{self, Control, ControlFrame, Forgotten, Record, StreamCut, Sweep, SweptPart};

use super::Anew;
use crate::Result;

/// Records that hide something, found behind the moment, oldest first.
#[derive(Debug, Default)]
pub(crate) struct LaterRemovals {
    /// Position and frame, which was verified.
    frames: Vec<(u64, Vec<u8>)>,
}

/// A record as the new store holds it.
enum Carried<'a> {
    Whole(Control<'a>),
    Sweep(Vec<SweptPart<'a>>),
}

impl Carried<'_> {
    fn control(&self) -> Control<'_> {
        match self {
            Self::Whole(control) => *control,
            Self::Sweep(parts) => Control::Sweep(Sweep::of(parts)),
        }
    }
}

impl LaterRemovals {
    /// Takes a record in, unless it hides nothing. Ascending by position.
    pub(crate) fn push(&mut self, frame: &ControlFrame<'_>) {
        if !matches!(frame.control(), None | Some(Control::Retain(_))) {
            self.frames.push((frame.position(), frame.bytes().to_vec()));
        }
    }

    fn frames(&self) -> impl Iterator<Item = (u64, Control<'_>)> {
        self.frames.iter().filter_map(|(position, bytes)| match record::read(bytes, *position, Purpose::Read) {
            Ok(Record::Control(frame)) => Some((*position, frame.control()?)),
            _ => None,
        })
    }

    fn controls(&self) -> impl Iterator<Item = Control<'_>> {
        self.frames().map(|(_, control)| control)
    }

    /// The streams that are forgotten, and where last.
    pub(crate) fn forgotten(&self) -> BTreeMap<&str, u64> {
        let forgotten = |(position, control)| match control {
            Control::ForgetStream(Forgotten { stream, .. }) => Some((stream, position)),
            _ => None,
        };
        self.frames().filter_map(forgotten).collect()
    }

    /// The streams that any of them names; their last revisions are what must be known.
    pub(crate) fn streams(&self) -> LastRevisions {
        let mut named = BTreeMap::new();
        let mut name = |stream: &str| {
            named.entry(stream.to_owned()).or_insert(0);
        };
        for control in self.controls() {
            match control {
                Control::Truncate(cut) | Control::Delete(cut) | Control::Tombstone(cut) => name(cut.stream),
                Control::ForgetIds(forgotten) | Control::ForgetStream(forgotten) => name(forgotten.stream),
                Control::Retain(_) => {}
                Control::Sweep(sweep) => {
                    for part in sweep.parts() {
                        if let SweptPart::Stream { name: stream, .. } = part {
                            name(stream);
                        }
                    }
                }
            }
        }
        LastRevisions(named)
    }

    /// Writes them behind `head`, the moment's last position; answers how many there were. `last` has the last revision of
    /// each of [`LaterRemovals::streams`] as of the moment; with no `anew` they are only counted.
    pub(crate) fn carry(
        &self,
        mut last: LastRevisions,
        head: u64,
        now: u64,
        mut anew: Option<&mut Anew<'_>>,
    ) -> Result<u64> {
        let mut count = 0;
        for control in self.controls() {
            let Some(carried) = cut_to(control, &mut last.0, head) else { continue };
            if let Some(anew) = &mut anew {
                anew.control(&carried.control(), now)?;
            }
            count += 1;
        }
        Ok(count)
    }
}

/// Last revisions of streams, 0 of one that is not there.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastRevisions(BTreeMap<String, u64>);

impl LastRevisions {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks for each.
    pub(crate) fn fill(&mut self, mut ask: impl FnMut(&str) -> Result<u64>) -> Result<()> {
        self.0.iter_mut().try_for_each(|(stream, last)| ask(stream).map(|revision| *last = revision))
    }

    /// Goes on by a record of the log that is walked through.
    pub(crate) fn meet(&mut self, record: &Record<'_>) {
        match record {
            Record::Event(event) => self.reach(event.stream(), event.revision()),
            Record::Control(frame) => match frame.control() {
                // Where its events were lost, the record knows how far the stream had come.
                Some(Control::Truncate(cut) | Control::Delete(cut) | Control::Tombstone(cut)) => {
                    self.reach(cut.stream, cut.last);
                }
                Some(Control::ForgetStream(forgotten)) => {
                    self.0.entry(forgotten.stream.to_owned()).and_modify(|last| *last = 0);
                }
                _ => {}
            },
        }
    }

    fn reach(&mut self, stream: &str, revision: u64) {
        if let Some(last) = self.0.get_mut(stream) {
            *last = (*last).max(revision);
        }
    }
}

/// What is left of a removal where streams end earlier; `None` if nothing is.
fn cut_to<'a>(control: Control<'a>, last: &mut BTreeMap<String, u64>, head: u64) -> Option<Carried<'a>> {
    let end_of = |last: &BTreeMap<String, u64>, stream: &str| last.get(stream).copied().filter(|last| *last > 0);
    let cut_stream = |cut: StreamCut<'a>| {
        let last = end_of(last, cut.stream)?;
        let upto = cut.upto.min(last);
        Some(StreamCut { upto, last, first: cut.first.min(upto + 1), ..cut })
    };
    // Kept where others hid the same before: it may be why. Of deletions alone a record may say that it hides nothing.
    let at_least_one = |cut: StreamCut<'a>| StreamCut { first: cut.first.min(cut.upto), ..cut };
    let whole = match control {
        Control::Truncate(cut) => Control::Truncate(at_least_one(cut_stream(cut)?)),
        Control::Delete(cut) => Control::Delete(cut_stream(cut)?),
        Control::Tombstone(cut) => Control::Tombstone(cut_stream(cut)?),
        Control::ForgetIds(Forgotten { stream, upto }) => {
            Control::ForgetIds(Forgotten { stream, upto: upto.min(end_of(last, stream)?) })
        }
        Control::ForgetStream(Forgotten { stream, .. }) => {
            let upto = end_of(last, stream)?;
            // What follows is about a stream of the same name that began later.
            last.insert(stream.to_owned(), 0);
            Control::ForgetStream(Forgotten { stream, upto })
        }
        Control::Retain(_) => return None,
        Control::Sweep(sweep) => {
            let part = |part| match part {
                SweptPart::Stream { name, first, upto } => {
                    let upto = upto.min(end_of(last, name)?);
                    Some(SweptPart::Stream { name, first, upto }).filter(|_| first <= upto)
                }
                SweptPart::Prefix { prefix, first, upto } => {
                    let upto = upto.min(head);
                    Some(SweptPart::Prefix { prefix, first, upto }).filter(|_| first <= upto)
                }
            };
            let parts: Vec<_> = sweep.parts().filter_map(part).collect();
            return if parts.is_empty() { None } else { Some(Carried::Sweep(parts)) };
        }
    };
    Some(Carried::Whole(whole))
}
