//! The sweep: what policies let go of becomes a record, and that record hides.

use std::collections::BTreeMap;
use std::sync::Arc;

use annals_format::record::{Control, Sweep, SweptPart, control_len};

use super::Standing;
use super::form::Removal;
use super::retention::{Cut, Retention, Scope, Swept};
use super::state::facts;
use crate::append::{Batch, Receipt};
use crate::core::Core;
use crate::error::StreamState;
use crate::input::Many;
use crate::options::View;
use crate::query::Query;
use crate::read_only::ReadOnly;
use crate::reader::{self, Reader, newest_match, oldest_of_stream};
use crate::segment::Segment;
use crate::store::{Inner, Store, answered, settle};
use crate::{Position, Result, Revision};

impl Store {
    /// Lets go of what is beyond the limits of the policies that stand: appends a record that names it, and that record
    /// hides it. Nothing is written if there is nothing to let go of. Age is measured by the writer's clock, which never
    /// falls behind the newest event.
    ///
    /// Costs a look at each stream of a policy that counts events, and at a few events for each other policy; appends go
    /// on meanwhile.
    ///
    /// # Errors
    /// `RemovalForbidden`; `NoSpace`; `Corrupt` or `Io` if what must be looked at is damaged; `OutcomeUnknown` and
    /// `Poisoned` as for an append.
    pub fn sweep(&self) -> Result<Swept> {
        sweep(self.inner())
    }

    /// What [`Store::sweep`] would let go of now; writes nothing.
    ///
    /// # Errors
    /// `Corrupt` or `Io` if what must be looked at is damaged.
    pub fn plan_sweep(&self) -> Result<Vec<Cut>> {
        let inner = self.inner();
        plan(&inner.core, inner.options.now(), held_from(inner)).map(|(cuts, _)| cuts)
    }
}

/// What consumers hold from here on stays.
fn held_from(inner: &Inner) -> u64 {
    let writer = inner.writer.lock();
    writer.consumers.held_from(writer.head)
}

/// Sweeps until nothing is left to let go of.
pub(crate) fn sweep(inner: &Inner) -> Result<Swept> {
    inner.core.check_removal_allowed()?;
    let mut done = Swept::default();
    loop {
        let (cuts, planned_at) = plan(&inner.core, inner.options.now(), held_from(inner))?;
        if cuts.is_empty() {
            return Ok(done);
        }
        let parts: Vec<SweptPart<'_>> = cuts.iter().map(Cut::part).collect();
        let taken = fitting(&parts, inner.core.limits.batch_len);
        let batch = Batch::new().written_as_batch(false).removal(Removal::Sweep(&parts[..taken]));
        let mut receipt = Receipt::new(inner.core.default_durability);
        let outcome = {
            let mut writer = inner.writer.lock();
            // What was removed or ordered since may make the plan wrong: it is made anew.
            if inner.core.removals.newest() > planned_at {
                continue;
            }
            writer.append(&Many(&batch), &mut receipt)
        };
        let outcome = answered(inner, outcome, &mut receipt)?;
        settle(inner, outcome, &receipt)?;
        done.position = receipt.removals().first().and_then(|removed| removed.position);
        let is_all = taken == parts.len();
        drop(batch);
        drop(parts);
        done.cuts.extend(cuts.into_iter().take(taken));
        if is_all {
            return Ok(done);
        }
    }
}

impl ReadOnly {
    /// What [`Store::sweep`] would let go of now, as far as the last look shows it; writes nothing.
    ///
    /// # Errors
    /// `Corrupt` or `Io` if what must be looked at is damaged.
    pub fn plan_sweep(&self) -> Result<Vec<Cut>> {
        plan(self.core(), self.options().now(), u64::MAX).map(|(cuts, _)| cuts)
    }

    /// The policies that stand, in the order in which they were set.
    pub fn retentions(&self) -> Vec<(Scope, Retention)> {
        let policies = self.core().removals.policies();
        policies.iter().map(|policy| (policy.scope.clone(), policy.retention)).collect()
    }
}

impl Cut {
    fn part(&self) -> SweptPart<'_> {
        match self {
            Self::Stream { name, first, upto } => SweptPart::Stream { name, first: first.get(), upto: upto.get() },
            Self::Prefix { prefix, first, upto } => SweptPart::Prefix { prefix, first: first.get(), upto: upto.get() },
        }
    }
}

/// How many parts from the front go into one batch.
fn fitting(parts: &[SweptPart<'_>], batch_len: u64) -> usize {
    let room = batch_len.saturating_sub(128);
    let empty = control_len(&Control::Sweep(Sweep::of(&[]))) as u64;
    let mut len = empty;
    let fits = parts.iter().take_while(|part| {
        len += part.encoded_len() as u64;
        len <= room
    });
    fits.count().max(1)
}

/// What the policies let go of before position `held_from`, and the head that it was judged at.
fn plan(core: &Arc<Core>, wall: u64, held_from: u64) -> Result<(Vec<Cut>, u64)> {
    let head = core.log.watermark.written();
    let policies = core.removals.policies();
    if policies.is_empty() || head == 0 {
        return Ok((Vec::new(), head));
    }
    let now = wall.max(reader::recorded_at(core, head)?);
    let mut plan = Plan { core, head, now, held_from, streams: BTreeMap::new(), prefixes: BTreeMap::new() };
    for policy in policies.iter().filter(|policy| policy.record <= head) {
        plan.add(policy)?;
    }
    let Plan { streams, prefixes, .. } = plan;
    let of_streams = streams.into_iter().filter_map(|(name, (first, upto))| {
        Some(Cut::Stream { name, first: Revision::new(first)?, upto: Revision::new(upto)? })
    });
    let of_prefixes = prefixes.into_iter().filter_map(|(prefix, (first, upto))| {
        Some(Cut::Prefix { prefix, first: Position::new(first)?, upto: Position::new(upto)? })
    });
    Ok((of_streams.chain(of_prefixes).collect(), head))
}

struct Plan<'a> {
    core: &'a Arc<Core>,
    head: u64,
    now: u64,
    /// From here on all stays.
    held_from: u64,
    /// First and last of what is let go of, by name.
    streams: BTreeMap<String, (u64, u64)>,
    prefixes: BTreeMap<String, (u64, u64)>,
}

impl Plan<'_> {
    fn add(&mut self, policy: &Standing) -> Result<()> {
        let (age, count, bytes) = policy.retention.limits();
        let too_old = match age {
            Some(age) => self.last_before(self.now.saturating_sub(age.as_nanos().try_into().unwrap_or(u64::MAX)))?,
            None => 0,
        };
        match &policy.scope {
            Scope::Stream(name) => self.stream(name, too_old, count),
            Scope::Prefix(prefix) => {
                self.prefix(prefix, too_old)?;
                let Some(count) = count else { return Ok(()) };
                let reader = Reader::new(self.core.clone(), View::Written);
                for stream in reader.streams(prefix)? {
                    self.stream(&stream.name, 0, Some(count))?;
                }
                Ok(())
            }
            Scope::Store => match bytes {
                Some(bytes) => {
                    let first_kept = first_within(self.core, self.head, bytes)?;
                    self.prefix("", first_kept - 1)
                }
                None => Ok(()),
            },
        }
    }

    /// The last position recorded before `time`.
    fn last_before(&self, time: u64) -> Result<u64> {
        let reader = Reader::new(self.core.clone(), View::Written);
        Ok(reader.first_at_time(time, self.head)?.map_or(self.head, |first| first - 1))
    }

    /// Of one stream: what stands at positions up to `too_old`, and all but the newest `count`.
    fn stream(&mut self, name: &str, too_old: u64, count: Option<u64>) -> Result<()> {
        let hidden = self.core.removals.hidden(self.head);
        let facts = facts(self.core, hidden.as_ref(), name, self.head)?;
        let StreamState::Live { .. } = facts.state else { return Ok(()) };
        let mut upto = count.map_or(0, |count| facts.last.saturating_sub(count));
        if too_old > 0 {
            let kept = oldest_of_stream(self.core, name, self.head, too_old.max(facts.forgotten))?;
            upto = upto.max(kept.map_or(facts.last, |event| event.revision().get() - 1));
        }
        if upto >= facts.first && self.held_from <= self.head {
            let held = oldest_of_stream(self.core, name, self.head, (self.held_from - 1).max(facts.forgotten))?;
            upto = upto.min(held.map_or(facts.last, |event| event.revision().get() - 1));
        }
        if upto >= facts.first {
            let (_, last) = self.streams.entry(name.to_owned()).or_insert((facts.first, upto));
            *last = upto.max(*last);
        }
        Ok(())
    }

    /// Of a prefix: what stands at positions up to `upto`, if any of it can still be read.
    fn prefix(&mut self, prefix: &str, upto: u64) -> Result<()> {
        let upto = upto.min(self.held_from - 1);
        let hidden = self.core.removals.hidden(self.head);
        let first = hidden.map_or(0, |hidden| hidden.cut_of_prefix(prefix)) + 1;
        let query = if prefix.is_empty() { Query::all() } else { Query::prefix(prefix) };
        if upto >= first && newest_match_between(self.core, &query, self.head, (first, upto))? {
            let (_, last) = self.prefixes.entry(prefix.to_owned()).or_insert((first, upto));
            *last = upto.max(*last);
        }
        Ok(())
    }
}

/// Whether an event that can be read at `head` matches between these positions.
fn newest_match_between(core: &Arc<Core>, query: &Query, head: u64, span: (u64, u64)) -> Result<bool> {
    let (first, last) = span;
    let hidden = core.removals.hidden(head);
    newest_match(core, query, last, first - 1, hidden.as_ref()).map(|found| found.is_some())
}

/// The first position of which all that follows takes at most `bytes` of log.
fn first_within(core: &Core, head: u64, bytes: u64) -> Result<u64> {
    let segments = core.segments.load_full();
    let (mut left, mut next) = (bytes, head + 1);
    for segment in segments.iter().rev() {
        let first = segment.first_position();
        if first >= next {
            continue;
        }
        let opened = segment.opened()?;
        let batch_of = |position: u64| -> Result<u64> {
            let place = segment.place(&opened, position)?;
            let place = place.ok_or_else(|| segment.damaged(0, Some(position), "the index knows no record here"))?;
            Ok(place.batch)
        };
        let last_batch = batch_of(next - 1)?;
        let end = last_batch + batch_len(core, segment, last_batch)?;
        let used = end - batch_of(first)?;
        if used <= left {
            (left, next) = (left - used, first);
            continue;
        }
        let (mut low, mut high) = (first, next);
        while low < high {
            let middle = low + (high - low) / 2;
            if batch_of(middle)? + left >= end { high = middle } else { low = middle + 1 }
        }
        return Ok(low);
    }
    Ok(next)
}

fn batch_len(core: &Core, segment: &Segment, offset: u64) -> Result<u64> {
    let opened = segment.opened()?;
    let window = segment.window(&opened, &core.log, offset, annals_format::batch::BATCH_HEADER_LEN as u64)?;
    Ok(segment.batch_header(&window, offset)?.len() as u64)
}
