//! What is removed, the slow and obvious way: every question goes through all control records again.

use std::collections::BTreeMap;
use std::time::Duration;

use annals::{Batch, Cut, Expect, Position, RemovalReason, Retention, Revision, Scope, StreamState};

use super::ask::Ask;
use super::content::Recorded;
use super::plain::Plain;

/// What a batch removes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the store's verbs")]
pub enum Remove {
    TruncateBefore(String, Revision),
    Delete(String),
    Tombstone(String),
}

/// What a control record says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the kinds of control records")]
pub enum Said {
    Cut { stream: String, first: u64, upto: u64, kind: Kind },
    Sweep(Vec<Cut>),
    Retain(Scope, Retention),
    ForgetIds(String, u64),
    ForgetStream(String),
}

/// How a stream was cut by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the kinds of control records")]
pub enum Kind {
    Truncate,
    Delete,
    Tombstone,
}

/// What is removed of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Marks {
    deleted: u64,
    truncated: u64,
    expired: u64,
    ids: u64,
    forgotten: u64,
    is_ended: bool,
}

impl Remove {
    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &str {
        match self {
            Self::TruncateBefore(stream, _) | Self::Delete(stream) | Self::Tombstone(stream) => stream,
        }
    }

    /// Adds it to a batch.
    #[must_use]
    pub fn add_to<'a>(&'a self, batch: Batch<'a>) -> Batch<'a> {
        match self {
            Self::TruncateBefore(stream, revision) => batch.truncate_before(stream, *revision),
            Self::Delete(stream) => batch.delete(stream),
            Self::Tombstone(stream) => batch.tombstone(stream),
        }
    }
}

/// A stream as a snapshot of it is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Positions of its events, hidden or not; that of revision 1 first.
    pub positions: Vec<u64>,
    /// The last revision that was deleted.
    pub deleted: u64,
    /// What stands before this position is not of it.
    pub forgotten: u64,
    /// The first revision that can be read; one more than the last if there is none.
    pub first: u64,
    /// The last revision ever given.
    pub last: u64,
}

/// What is answered to a removal: what it writes, the state after it, how many events it hides.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as what the store tells")]
pub struct Answer {
    pub writes: Option<Said>,
    pub state: StreamState,
    pub hidden: u64,
}

impl Plain {
    fn said(&self, head: u64) -> impl DoubleEndedIterator<Item = (u64, &Said)> {
        self.controls.iter().filter_map(|at| Some((*at, self.control(*at)?))).filter(move |(at, _)| *at <= head)
    }

    fn marks(&self, stream: &str, head: u64) -> Marks {
        let mut marks = Marks::default();
        for (at, said) in self.said(head) {
            match said {
                Said::Cut { stream: name, upto, kind, .. } if name == stream => match kind {
                    Kind::Truncate => marks.truncated = marks.truncated.max(*upto),
                    Kind::Delete => marks.deleted = marks.deleted.max(*upto),
                    Kind::Tombstone => (marks.deleted, marks.is_ended) = (marks.deleted.max(*upto), true),
                },
                Said::Sweep(cuts) => {
                    for cut in cuts {
                        if let Cut::Stream { name, upto, .. } = cut
                            && name == stream
                        {
                            marks.expired = marks.expired.max(upto.get());
                        }
                    }
                }
                Said::ForgetIds(name, upto) if name == stream => marks.ids = marks.ids.max(*upto),
                Said::ForgetStream(name) if name == stream => marks = Marks { forgotten: at, ..Marks::default() },
                _ => {}
            }
        }
        marks
    }

    /// Prefix and last position of every cut of a prefix.
    fn prefix_cuts(&self, head: u64) -> Vec<(&str, u64)> {
        let sweeps = self.said(head).filter_map(|(_, said)| match said {
            Said::Sweep(cuts) => Some(cuts),
            _ => None,
        });
        let cuts = sweeps.flatten().filter_map(|cut| match cut {
            Cut::Prefix { prefix, upto, .. } => Some((prefix.as_str(), upto.get())),
            Cut::Stream { .. } => None,
        });
        cuts.collect()
    }

    /// Up to which position the stream was forgotten.
    pub(super) fn forgotten(&self, stream: &str, head: u64) -> u64 {
        self.marks(stream, head).forgotten
    }

    /// Why an event is hidden, and whether its id is given up; `None` if it can be read.
    #[must_use]
    pub fn hiding(&self, event: &Recorded, head: u64) -> Option<(RemovalReason, bool)> {
        let controls = self.controls.partition_point(|at| *at <= head);
        if controls == 0 {
            return None;
        }
        // It depends on the records that stand, and on the event: what was found once is found again.
        let mut found = self.found_hiding.borrow_mut();
        if found.len() <= controls {
            found.resize_with(controls + 1, Vec::new);
        }
        let of_head = &mut found[controls];
        for position in of_head.len() as u64 + 1..=event.position {
            let hiding = self.at(position).and_then(|event| self.look_for_hiding(event, head));
            of_head.push(hiding);
        }
        of_head[event.position as usize - 1]
    }

    fn look_for_hiding(&self, event: &Recorded, head: u64) -> Option<(RemovalReason, bool)> {
        let stream = &event.content.stream;
        let marks = self.marks(stream, head);
        if event.position < marks.forgotten {
            return Some((RemovalReason::Deleted, true));
        }
        let by_prefix = || {
            self.prefix_cuts(head).iter().any(|(prefix, upto)| stream.starts_with(prefix) && event.position <= *upto)
        };
        let why = match event.revision {
            revision if revision <= marks.deleted && marks.is_ended => RemovalReason::Tombstoned,
            revision if revision <= marks.deleted => RemovalReason::Deleted,
            revision if revision <= marks.truncated => RemovalReason::Truncated,
            revision if revision <= marks.expired || by_prefix() => RemovalReason::Expired,
            _ => return None,
        };
        Some((why, event.revision <= marks.ids))
    }

    /// The stream up to `last`, seen through the removals up to `removals`.
    #[must_use]
    pub fn facts(&self, stream: &str, last: u64, removals: u64) -> Facts {
        let Marks { deleted, truncated, expired, forgotten, .. } = self.marks(stream, removals);
        let all = self.all_positions(stream);
        let positions: Vec<u64> = all.iter().copied().filter(|at| *at > forgotten && *at <= last).collect();
        let hidden = deleted.max(truncated).max(expired);
        let newest = (positions.len() as u64).max(hidden);
        let shown = positions.iter().filter_map(|at| self.at(*at)).find(|event| self.hiding(event, removals).is_none());
        let first = shown.map_or(newest + 1, |event| event.revision);
        Facts { positions, deleted, forgotten, first, last: newest }
    }

    /// Whether the event can be read at `head`.
    #[must_use]
    pub fn is_shown(&self, event: &Recorded, head: u64) -> bool {
        event.position <= head && self.hiding(event, head).is_none()
    }

    /// State of a stream at `head`.
    #[must_use]
    pub fn state(&self, stream: &str, head: u64) -> StreamState {
        let positions = self.revisions(stream, head);
        let Some(last) = Revision::new(positions.len() as u64) else { return StreamState::Absent };
        let marks = self.marks(stream, head);
        if marks.is_ended {
            return StreamState::Tombstoned { last };
        }
        if marks.deleted >= last.get() {
            return StreamState::Deleted { last };
        }
        let shown = positions.iter().filter_map(|at| self.at(*at)).find(|event| self.is_shown(event, head));
        let first = shown.map_or(last.get() + 1, |event| event.revision);
        StreamState::Live { first: Revision::new(first).expect("at least 1"), last }
    }

    /// First and last revision that can be read, and the last ever given.
    fn range(&self, stream: &str) -> (StreamState, u64, u64) {
        let state = self.state(stream, self.head());
        let last = state.last().map_or(0, Revision::get);
        match state {
            StreamState::Live { first, .. } => (state, first.get(), last),
            _ => (state, last + 1, last),
        }
    }

    /// What becomes of a removal now; `Err` is a conflict (what was expected) or, without one, `Invalid`.
    pub fn plan(&self, remove: &Remove) -> Result<Answer, Option<Expect>> {
        let stream = remove.stream().to_owned();
        let (state, first, last) = self.range(&stream);
        let unchanged = Answer { writes: None, state, hidden: 0 };
        let cut = |upto: u64, kind: Kind, after: StreamState| Answer {
            writes: Some(Said::Cut { stream: stream.clone(), first, upto, kind }),
            state: after,
            hidden: upto + 1 - first,
        };
        let ever = Revision::new(last);
        Ok(match (remove, state, ever) {
            (_, StreamState::Absent, _) | (_, _, None) => match remove {
                Remove::Tombstone(_) => return Err(Some(Expect::Exists)),
                _ => unchanged,
            },
            (Remove::TruncateBefore(_, before), _, _) if before.get() > last + 1 => return Err(None),
            (Remove::TruncateBefore(_, before), StreamState::Live { last: ever, .. }, _) if before.get() > first => {
                cut(before.get() - 1, Kind::Truncate, StreamState::Live { first: *before, last: ever })
            }
            (Remove::Delete(_), StreamState::Live { .. }, Some(ever)) => {
                cut(last, Kind::Delete, StreamState::Deleted { last: ever })
            }
            (Remove::Tombstone(_), StreamState::Live { .. } | StreamState::Deleted { .. }, Some(ever)) => {
                cut(last, Kind::Tombstone, StreamState::Tombstoned { last: ever })
            }
            _ => unchanged,
        })
    }

    /// What forgetting the ids of a stream, or the stream itself, writes; `Err` is a conflict.
    pub fn plan_forgetting(&self, stream: &str, whole: bool) -> Result<Option<Said>, Expect> {
        let (state, first, last) = self.range(stream);
        let marks = self.marks(stream, self.head());
        if !whole {
            let upto = (first - 1).min(last);
            return Ok((upto > marks.ids).then(|| Said::ForgetIds(stream.to_owned(), upto)));
        }
        match state {
            StreamState::Live { .. } => Err(Expect::Deleted),
            StreamState::Absent => Ok(None),
            _ => Ok(Some(Said::ForgetStream(stream.to_owned()))),
        }
    }

    /// Policies that stand.
    #[must_use]
    pub fn retentions(&self) -> BTreeMap<Scope, Retention> {
        let mut standing = BTreeMap::new();
        for (_, said) in self.said(self.head()) {
            if let Said::Retain(scope, retention) = said {
                standing.insert(scope.clone(), *retention);
            }
        }
        standing.retain(|_, retention| *retention != Retention::new());
        standing
    }

    /// What a sweep lets go of at this time.
    #[must_use]
    pub fn plan_sweep(&self, wall: u64) -> Vec<Cut> {
        let head = self.head();
        let now = wall.max(self.time_at(head));
        let mut streams = BTreeMap::<String, (u64, u64)>::new();
        let mut prefixes = BTreeMap::<String, (u64, u64)>::new();
        for (scope, retention) in self.retentions() {
            let (age, count, _) = retention.limits();
            let too_old = age.map_or(0, |age: Duration| {
                let since = now.saturating_sub(age.as_nanos() as u64);
                (1..=head).take_while(|at| self.time_at(*at) < since).last().unwrap_or(0)
            });
            let mut of_stream = |name: &str, too_old: u64, count: Option<u64>| {
                let (state, first, last) = self.range(name);
                if !matches!(state, StreamState::Live { .. }) {
                    return;
                }
                let mut upto = count.map_or(0, |count| last.saturating_sub(count));
                upto = upto.max(self.revisions(name, head).iter().filter(|at| **at <= too_old).count() as u64);
                if upto >= first {
                    let (_, so_far) = streams.entry(name.to_owned()).or_insert((first, upto));
                    *so_far = upto.max(*so_far);
                }
            };
            match &scope {
                Scope::Stream(name) => of_stream(name, too_old, count),
                Scope::Prefix(prefix) => {
                    if let Some(count) = count {
                        for (name, ..) in self.streams(prefix, head) {
                            of_stream(&name, 0, Some(count));
                        }
                    }
                    let cuts = self.prefix_cuts(head);
                    let before = cuts.iter().filter(|(of, _)| of == prefix).map(|(_, upto)| *upto).max();
                    let first = before.unwrap_or(0) + 1;
                    let is_concerned = |at: u64| {
                        let event = self.at(at).filter(|event| event.content.stream.starts_with(prefix.as_str()));
                        event.is_some_and(|event| self.is_shown(event, head))
                    };
                    if (first..=too_old).any(is_concerned) {
                        prefixes.insert(prefix.clone(), (first, too_old));
                    }
                }
                Scope::Store => {}
            }
        }
        let of_streams = streams.into_iter().map(|(name, (first, upto))| {
            let revision = |number| Revision::new(number).expect("at least 1");
            Cut::Stream { name, first: revision(first), upto: revision(upto) }
        });
        let of_prefixes = prefixes.into_iter().map(|(prefix, (first, upto))| {
            let position = |number| Position::new(number).expect("at least 1");
            Cut::Prefix { prefix, first: position(first), upto: position(upto) }
        });
        of_streams.chain(of_prefixes).collect()
    }

    /// The newest control record after `after` that hid a match, and the newest match it hid.
    pub(super) fn newest_gone(&self, ask: &Ask, after: u64) -> Option<(u64, &Recorded)> {
        let head = self.head();
        self.said(head).rev().take_while(|(at, _)| *at > after).find_map(|(at, said)| {
            let matching = |at: u64| self.at(at).filter(|event| ask.matches(&event.content));
            let of_stream = |stream: &str, first: u64, upto: u64| {
                let forgotten = Some(self.marks(stream, head).forgotten).filter(|forgotten| *forgotten < at);
                let events = (forgotten.unwrap_or(0) + 1..at).rev().filter_map(matching);
                let mut events = events.filter(|event| event.content.stream == stream);
                events.find(|event| (first..=upto).contains(&event.revision))
            };
            let found = match said {
                Said::Cut { stream, first, upto, .. } => of_stream(stream, *first, *upto),
                Said::Sweep(cuts) => {
                    let of_cut = |cut: &Cut| match cut {
                        Cut::Stream { name, first, upto } => of_stream(name, first.get(), upto.get()),
                        Cut::Prefix { prefix, first, upto } => {
                            let mut events = (first.get()..=upto.get()).rev().filter_map(matching);
                            events.find(|event| event.content.stream.starts_with(prefix.as_str()))
                        }
                    };
                    cuts.iter().filter_map(of_cut).max_by_key(|event| event.position)
                }
                _ => None,
            };
            found.map(|event| (at, event))
        })
    }
}
