//! The writer's part: what becomes of the removals of a batch.

use annals_format::record::{Control, Forgotten, Policy, StreamCut, Sweep};

use super::form::Removal;
use super::prefixes::PREFIXES_MAX;
use super::retention::{Removed, Retention, Scope};
use super::state::{StreamFacts, facts_of_tip, holds};
use super::{Hidden, Marks};
use crate::append::Expect;
use crate::directory::StreamTip;
use crate::error::{Conflict, Error, Refusal, StreamState};
use crate::input::Input;
use crate::writer::{Refused, Staged, Writer};
use crate::{Position, Result, Revision};

/// The removals of a batch, judged.
#[derive(Debug, Default)]
pub(crate) struct Planned<'a> {
    /// What is written, in order.
    pub(crate) controls: Vec<Control<'a>>,
    /// What is answered for each; those that are written get their positions later.
    answers: Vec<(Removed, bool)>,
}

impl Planned<'_> {
    /// The answers, once the first record has `first_position`.
    pub(crate) fn removed(&self, first_position: u64) -> Box<[Removed]> {
        let mut next = first_position;
        let answers = self.answers.iter().map(|(removed, is_written)| {
            let position = if *is_written { Position::new(next) } else { None };
            next += u64::from(*is_written);
            Removed { position, ..*removed }
        });
        answers.collect()
    }

    fn unchanged(&mut self, state: StreamState) {
        self.answers.push((Removed { position: None, state, hidden: 0, is_unreached: false }, false));
    }
}

impl Writer {
    /// What is hidden at the head that the next batch is judged at.
    pub(crate) fn hidden(&self) -> Option<Hidden> {
        self.core.removals.hidden(self.head)
    }

    /// Judges the removals of a batch against the store as it is before it.
    #[cold]
    pub(crate) fn judge_removals<'a>(&mut self, input: &impl Input<'a>) -> Result<Planned<'a>, Refused> {
        let mut planned = Planned::default();
        let hidden = self.hidden();
        for removal in input.removals() {
            match removal {
                Removal::Retain(policy) => {
                    let policy = policy.expect("checked with the batch's form");
                    self.judge_policy(&policy, &mut planned)?;
                }
                Removal::Sweep(parts) => {
                    planned.controls.push(Control::Sweep(Sweep::of(parts)));
                    planned.answers.push((
                        Removed { position: None, state: StreamState::Absent, hidden: 0, is_unreached: false },
                        true,
                    ));
                }
                _ => {
                    let stream = removal.stream().expect("all others are about a stream");
                    let tip = self.entered_tip(stream)?;
                    let facts = facts_of_tip(&self.core, hidden.as_ref(), stream, tip, self.head)?;
                    let marks = hidden.as_ref().map_or(Marks::default(), |hidden| hidden.marks(stream));
                    self.judge_removal(removal, stream, &facts, &marks, &mut planned)?;
                }
            }
        }
        Ok(planned)
    }

    /// The stream's last event; it is in memory from now on. Room was made for it.
    fn entered_tip(&mut self, stream: &str) -> Result<StreamTip> {
        let hash = self.streams.hash_of(stream);
        let number = match self.streams.find(hash, stream) {
            Some(number) => number,
            None => self.meet_stream(hash, stream)?,
        };
        Ok(self.streams.tip(number))
    }

    fn judge_removal<'a>(
        &self,
        removal: &Removal<'a>,
        stream: &'a str,
        facts: &StreamFacts,
        marks: &Marks,
        planned: &mut Planned<'a>,
    ) -> Result<(), Refused> {
        let StreamFacts { state, first, last, .. } = *facts;
        let conflict = |expected: Expect| {
            let failed = vec![Refusal::Stream { stream: stream.to_owned(), expected, actual: state }];
            let error = Error::Conflict(Box::new(Conflict { head: self.head, failed }));
            Err(Refused { error, rests_on: self.head })
        };
        let whole = StreamCut { stream, first, upto: last, last };
        let (control, after, hides) = match removal {
            Removal::TruncateBefore { revision, .. } => {
                let before = revision.get();
                if last > 0 && before > last + 1 {
                    let what = "the revision to truncate before lies beyond the stream's end";
                    let error = Error::over_limit(what, None, before, last + 1);
                    return Err(Refused { error, rests_on: self.head });
                }
                let StreamState::Live { last: last_revision, .. } = state else {
                    planned.unchanged(state);
                    return Ok(());
                };
                if before <= first {
                    planned.unchanged(state);
                    return Ok(());
                }
                let after = StreamState::Live { first: *revision, last: last_revision };
                (Control::Truncate(StreamCut { upto: before - 1, ..whole }), after, before - first)
            }
            Removal::Delete(_) => match state {
                StreamState::Live { last: revision, .. } => {
                    (Control::Delete(whole), StreamState::Deleted { last: revision }, last + 1 - first)
                }
                _ => {
                    planned.unchanged(state);
                    return Ok(());
                }
            },
            Removal::Tombstone(_) => match state {
                StreamState::Live { last: revision, .. } | StreamState::Deleted { last: revision } => {
                    (Control::Tombstone(whole), StreamState::Tombstoned { last: revision }, last + 1 - first)
                }
                StreamState::Tombstoned { .. } => {
                    planned.unchanged(state);
                    return Ok(());
                }
                StreamState::Absent => return conflict(Expect::Exists),
            },
            Removal::ForgetIds(_) => {
                let upto = first.saturating_sub(1).min(last);
                if upto <= marks.ids {
                    planned.unchanged(state);
                    return Ok(());
                }
                (Control::ForgetIds(Forgotten { stream, upto }), state, 0)
            }
            Removal::ForgetStream(_) => match state {
                StreamState::Deleted { .. } | StreamState::Tombstoned { .. } => {
                    (Control::ForgetStream(Forgotten { stream, upto: last }), StreamState::Absent, 0)
                }
                StreamState::Absent => {
                    planned.unchanged(state);
                    return Ok(());
                }
                StreamState::Live { .. } => return conflict(Expect::Deleted),
            },
            Removal::Retain(_) | Removal::Sweep(_) => return Ok(()),
        };
        planned.controls.push(control);
        planned.answers.push((Removed { position: None, state: after, hidden: hides, is_unreached: false }, true));
        Ok(())
    }

    fn judge_policy<'a>(&self, policy: &Policy<'a>, planned: &mut Planned<'a>) -> Result<()> {
        let policies = self.core.removals.policies();
        let standing = policies.iter().find(|standing| standing.scope.borrowed() == policy.scope);
        let is_so = match standing {
            Some(standing) => standing.retention == Retention::of(policy),
            None => policy.is_withdrawn(),
        };
        if is_so {
            planned.unchanged(StreamState::Absent);
            return Ok(());
        }
        let prefixes = policies.iter().filter(|standing| matches!(standing.scope, Scope::Prefix(_))).count();
        if standing.is_none()
            && matches!(policy.scope, annals_format::record::Scope::Prefix(_))
            && prefixes >= PREFIXES_MAX
        {
            let what = "too many prefixes have policies";
            return Err(Error::over_limit(what, None, prefixes as u64 + 1, PREFIXES_MAX as u64));
        }
        planned.controls.push(Control::Retain(*policy));
        planned
            .answers
            .push((Removed { position: None, state: StreamState::Absent, hidden: 0, is_unreached: false }, true));
        Ok(())
    }

    /// Every expectation and every stream that is ended for good, in a store in which something is removed; what fails is
    /// added to `failed`.
    #[cold]
    pub(crate) fn judge_states<'a>(
        &mut self,
        input: &impl Input<'a>,
        staged: &[Staged],
        failed: &mut Vec<Refusal>,
    ) -> Result<()> {
        let Some(hidden) = self.hidden() else { return Ok(()) };
        let mut broken = None;
        input.each_expectation(|stream, expected, _| {
            if expected == Expect::Any {
                return;
            }
            let tip = self.tip_of_guard(stream);
            match tip.and_then(|tip| facts_of_tip(&self.core, Some(&hidden), stream, tip, self.head)) {
                Ok(facts) if holds(expected, facts.state) => {}
                Ok(facts) => {
                    failed.push(Refusal::Stream { stream: stream.to_owned(), expected, actual: facts.state });
                }
                Err(error) => {
                    broken.get_or_insert(error);
                }
            }
        });
        if let Some(error) = broken {
            return Err(error);
        }
        for (index, event) in staged.iter().enumerate() {
            let (stream, _) = input.event(index);
            if !hidden.marks_of(event.stream, stream).is_tombstoned {
                continue;
            }
            let is_listed =
                |refusal: &Refusal| matches!(refusal, Refusal::Stream { stream: name, .. } if name == stream);
            if !failed.iter().any(is_listed) {
                let last = Revision::new(self.streams.tip(event.number).revision).expect("an ended stream was written");
                let actual = StreamState::Tombstoned { last };
                failed.push(Refusal::Stream { stream: stream.to_owned(), expected: Expect::Any, actual });
            }
        }
        Ok(())
    }
}
