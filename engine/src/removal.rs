//! What is removed: control records in the log, known to whoever reads.
//!
//! All that removes hides the beginning of a stream, so a stream that can be read begins later or not at all, and never
//! has a hole. What is known of it is held in memory: of streams by revisions ([`streams`]), of prefixes by positions
//! ([`prefixes`]). Opening reads the control records, which the index finds by a key of their own ([`load`]), and nothing
//! else of the log.
//!
//! A reader asks once, when it pins its head, whether anything is hidden at all; only then it looks at each event.

mod condition;
mod form;
mod judge;
mod load;
mod prefixes;
mod retention;
mod state;
mod streams;
mod sweep;
mod verbs;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals_format::record::{Control, StreamCut, SweptPart};
use arc_swap::ArcSwap;

use crate::event::EventRef;
use crate::name::{KeyKind, NameHash};
use crate::reader::RemovalReason;

pub(crate) use condition::newest_hidden_match;
pub(crate) use form::{Removal, check as check_form};
pub(crate) use judge::Planned;
pub(crate) use load::{apply_batch, later, load};
pub(crate) use prefixes::Standing;
pub use retention::{Cut, Removed, Retention, Scope, Swept};
pub(crate) use state::{StreamFacts, facts, facts_of_newest, tip_beside_removals};
pub(crate) use streams::Marks;
pub(crate) use sweep::sweep;

use prefixes::PrefixCut;
use streams::StreamTable;

/// All that is removed, shared by the writer and all readers of a store.
#[derive(Debug)]
pub(crate) struct Removals {
    hash: NameHash,
    /// The writer's run that the log was read in: within one the log only grows.
    run: [u8; 16],
    /// Up to which position control records were read.
    loaded: AtomicU64,
    /// Position of the newest record that hides something, and of the newest of all; 0: none.
    newest_hiding: AtomicU64,
    newest: AtomicU64,
    streams: ArcSwap<StreamTable>,
    prefixes: ArcSwap<Vec<PrefixCut>>,
    policies: ArcSwap<Vec<Standing>>,
}

impl Removals {
    pub(crate) fn new(hash: NameHash, run: [u8; 16]) -> Self {
        Self {
            hash,
            run,
            loaded: AtomicU64::new(0),
            newest_hiding: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            streams: ArcSwap::from_pointee(StreamTable::new()),
            prefixes: ArcSwap::default(),
            policies: ArcSwap::default(),
        }
    }

    /// The same, to be gone on with while others hold this.
    fn copied(&self, durable: u64) -> Self {
        let streams = self.streams.load().grown(durable);
        Self {
            hash: self.hash,
            run: self.run,
            loaded: AtomicU64::new(self.loaded.load(Ordering::Relaxed)),
            newest_hiding: AtomicU64::new(self.newest_hiding.load(Ordering::Relaxed)),
            newest: AtomicU64::new(self.newest()),
            streams: ArcSwap::from_pointee(streams),
            prefixes: ArcSwap::new(self.prefixes.load_full()),
            policies: ArcSwap::new(self.policies.load_full()),
        }
    }

    /// Whether it goes on with what the writer of this run wrote.
    pub(crate) fn is_of(&self, run: [u8; 16]) -> bool {
        self.run == run
    }

    /// Whether nothing is hidden in any view. One look at an atomic number.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.newest_hiding.load(Ordering::Acquire) == 0
    }

    /// Position of the newest record that hides something, 0 if there is none.
    pub(crate) fn newest_hiding(&self) -> u64 {
        self.newest_hiding.load(Ordering::Acquire)
    }

    /// Position of the newest control record of a known kind, 0 if there is none.
    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// Number of streams of which something is removed by name, and bytes of memory that takes.
    pub(crate) fn extent(&self) -> (usize, usize) {
        let streams = self.streams.load();
        (streams.len(), streams.memory())
    }

    /// What is hidden by records up to position `shown`, which the caller has loaded as a head before; `None` if nothing
    /// is.
    #[inline]
    pub(crate) fn hidden(&self, shown: u64) -> Option<Hidden> {
        if self.is_empty() { None } else { Some(self.hidden_by_some(shown)) }
    }

    #[cold]
    fn hidden_by_some(&self, shown: u64) -> Hidden {
        Hidden { streams: self.streams.load_full(), prefixes: self.prefixes.load_full(), hash: self.hash, shown }
    }

    /// The policies that stand.
    pub(crate) fn policies(&self) -> Arc<Vec<Standing>> {
        self.policies.load_full()
    }

    /// Enters a record, before its position is shown. Only the writer does, or who opens the store. Readers whose head
    /// lies below `durable` are not made any more.
    pub(crate) fn apply(&self, position: u64, control: &Control<'_>, durable: u64) {
        match control {
            Control::Truncate(cut) => self.mark(position, cut.stream, durable, |marks| {
                marks.truncated = marks.truncated.max(cut.upto);
            }),
            Control::Delete(cut) => self.delete(position, cut, durable, false),
            Control::Tombstone(cut) => self.delete(position, cut, durable, true),
            Control::Sweep(sweep) => sweep.parts().for_each(|part| match part {
                SweptPart::Stream { name, upto, .. } => {
                    self.mark(position, name, durable, |marks| marks.expired = marks.expired.max(upto));
                }
                SweptPart::Prefix { prefix, upto, .. } => {
                    let cut = PrefixCut { prefix: prefix.into(), upto, record: position };
                    self.prefixes.store(Arc::new(prefixes::with_cut(&self.prefixes.load(), cut, durable)));
                }
            }),
            Control::ForgetIds(forgotten) => self.mark(position, forgotten.stream, durable, |marks| {
                marks.ids = marks.ids.max(forgotten.upto);
            }),
            Control::ForgetStream(forgotten) => self.mark(position, forgotten.stream, durable, |marks| {
                *marks = Marks { forgotten: position, ..Marks::default() };
            }),
            Control::Retain(policy) => {
                self.policies.store(Arc::new(prefixes::with_policy(&self.policies.load(), policy, position)));
            }
        }
        if !matches!(control, Control::Retain(_)) {
            self.newest_hiding.store(position, Ordering::Release);
        }
        self.newest.store(position, Ordering::Release);
    }

    fn delete(&self, position: u64, cut: &StreamCut<'_>, durable: u64, for_good: bool) {
        self.mark(position, cut.stream, durable, |marks| {
            marks.deleted = marks.deleted.max(cut.upto);
            marks.is_tombstoned |= for_good;
        });
    }

    fn mark(&self, position: u64, stream: &str, durable: u64, change: impl FnOnce(&mut Marks)) {
        let (hash, check) = (self.hash.key(KeyKind::Stream, stream), self.hash.check(stream));
        let table = self.streams.load();
        let before = table.marks(hash, || check, u64::MAX);
        let mut marks = before.unwrap_or_default();
        change(&mut marks);
        marks.record = position;
        // A reader whose head lies before the record asks for what was before.
        let keeps = position > durable;
        if !table.insert(hash, check, &marks, keeps) {
            let grown = table.grown(durable);
            let inserted = grown.insert(hash, check, &marks, keeps);
            debug_assert!(inserted, "a table that has grown has room");
            self.streams.store(Arc::new(grown));
        }
    }
}

/// What is hidden as of one head.
#[derive(Clone, Debug)]
pub(crate) struct Hidden {
    streams: Arc<StreamTable>,
    prefixes: Arc<Vec<PrefixCut>>,
    hash: NameHash,
    shown: u64,
}

impl Hidden {
    /// What is removed of the stream by name; nothing of it if it is not there.
    #[inline]
    pub(crate) fn marks(&self, stream: &str) -> Marks {
        self.marks_of(self.hash.key(KeyKind::Stream, stream), stream)
    }

    /// As [`Hidden::marks`], where the key's hash is at hand.
    #[inline]
    pub(crate) fn marks_of(&self, key: u64, stream: &str) -> Marks {
        self.streams.marks(key, || self.hash.check(stream), self.shown).unwrap_or_default()
    }

    /// The last position that cuts of prefixes hide in this stream.
    #[inline]
    pub(crate) fn prefix_cut(&self, stream: &str) -> u64 {
        let of_it = self.prefixes.iter().filter(|cut| cut.record <= self.shown && stream.starts_with(&*cut.prefix));
        of_it.map(|cut| cut.upto).max().unwrap_or(0)
    }

    /// The last position that a cut of exactly this prefix hides.
    pub(crate) fn cut_of_prefix(&self, prefix: &str) -> u64 {
        let of_it = self.prefixes.iter().filter(|cut| cut.record <= self.shown && *cut.prefix == *prefix);
        of_it.map(|cut| cut.upto).max().unwrap_or(0)
    }

    /// The last position that any cut of a prefix hides.
    pub(crate) fn last_cut(&self) -> u64 {
        self.prefixes.iter().filter(|cut| cut.record <= self.shown).map(|cut| cut.upto).max().unwrap_or(0)
    }

    /// Key and marks of every stream of which something is removed by name.
    pub(crate) fn each_stream(&self, each: impl FnMut(u64, Marks)) {
        self.streams.each(self.shown, each);
    }

    /// Why the event is hidden, if it is. Two cache lines at most; no lock, no allocation.
    #[inline]
    pub(crate) fn reason(&self, event: EventRef<'_>) -> Option<RemovalReason> {
        self.hiding(event).map(|hiding| hiding.why)
    }

    /// As [`Hidden::reason`], and whether the id is given up.
    #[inline]
    pub(crate) fn hiding(&self, event: EventRef<'_>) -> Option<Hiding> {
        let (position, revision) = (event.position().get(), event.revision().get());
        let marks = self.marks(event.stream());
        if position < marks.forgotten {
            return Some(Hiding { why: RemovalReason::Deleted, is_forgotten: true });
        }
        let why = match marks.reason(revision) {
            None if position <= self.prefix_cut(event.stream()) => Some(RemovalReason::Expired),
            why => why,
        };
        why.map(|why| Hiding { why, is_forgotten: revision <= marks.ids })
    }
}

/// Why the event is hidden, if it is: as the view knows it, or because compaction has taken its content out, by a removal
/// that the view may not see yet.
#[inline]
pub(crate) fn reason(hidden: Option<&Hidden>, event: EventRef<'_>) -> Option<RemovalReason> {
    hiding(hidden, event).map(|hiding| hiding.why)
}

/// As [`reason`], and whether the id is given up.
#[inline]
pub(crate) fn hiding(hidden: Option<&Hidden>, event: EventRef<'_>) -> Option<Hiding> {
    match hidden.and_then(|hidden| hidden.hiding(event)) {
        None if event.is_compacted() => Some(Hiding { why: RemovalReason::Deleted, is_forgotten: false }),
        hiding => hiding,
    }
}

/// How an event is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hiding {
    pub(crate) why: RemovalReason,
    /// Its id is not known any more.
    pub(crate) is_forgotten: bool,
}

impl Hiding {
    /// Whether the id alone says that something was stored: the content need not be kept.
    pub(crate) fn is_known_by_id_alone(self) -> bool {
        matches!(self.why, RemovalReason::Deleted | RemovalReason::Tombstoned)
    }
}

#[cfg(test)]
mod tests;
