//! Cuts of all streams of a prefix, and the policies that stand. Both are few.

use annals_format::record::{Policy, Scope as ScopeOf};

use super::retention::{Retention, Scope};

/// What stands up to a position is hidden in all streams of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PrefixCut {
    pub(super) prefix: Box<str>,
    pub(super) upto: u64,
    /// Position of the record from which on it holds.
    pub(super) record: u64,
}

/// Most prefixes that policies may name: each event of a store that has cuts is compared with all of them.
pub(crate) const PREFIXES_MAX: usize = 256;

/// The cuts with one more. What no reader asks for any more whose head is `durable` or later is left out.
pub(super) fn with_cut(cuts: &[PrefixCut], cut: PrefixCut, durable: u64) -> Vec<PrefixCut> {
    let (mut same, mut all): (Vec<_>, Vec<_>) = cuts.iter().cloned().partition(|old| old.prefix == cut.prefix);
    same.push(cut);
    // What follows the newest durable one is kept. That one stands for those before it too: a reader that pinned its head
    // before meets it a little early, never none.
    let since = same.iter().map(|cut| cut.record).min().unwrap_or(0);
    let newest_durable = same.iter().map(|cut| cut.record).filter(|record| *record <= durable).max();
    same.retain(|cut| newest_durable.is_none_or(|newest| cut.record >= newest));
    if let Some(oldest) = same.iter_mut().min_by_key(|cut| cut.record) {
        oldest.record = since;
    }
    all.append(&mut same);
    all
}

/// A policy and the record that set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) scope: Scope,
    pub(crate) retention: Retention,
    pub(crate) record: u64,
}

/// The policies after one more record.
pub(super) fn with_policy(standing: &[Standing], policy: &Policy<'_>, record: u64) -> Vec<Standing> {
    let scope = match policy.scope {
        ScopeOf::Stream(name) => Scope::Stream(name.to_owned()),
        ScopeOf::Prefix(prefix) => Scope::Prefix(prefix.to_owned()),
        ScopeOf::Store => Scope::Store,
    };
    let mut all: Vec<Standing> = standing.iter().filter(|old| old.scope != scope).cloned().collect();
    if !policy.is_withdrawn() {
        all.push(Standing { scope, retention: Retention::of(policy), record });
    }
    all
}
