//! Registered folds: streams of which a snapshot is due are folded and saved, one after the other, before segments are looked at.
//!
//! It is done in compaction's turn: so nothing is taken out of what is being read. Each stream is met once, where its last event
//! stands, and judged by the directory and the table of snapshots; only those that may be due are read.

use std::any::Any;
use std::cell::Cell;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use annals_format::snapshot::STATE_LEN_MAX;

use super::{CompactionOptions, Pace};
use crate::Result;
use crate::append::Durability;
use crate::cursor::Span;
use crate::error::{Error, StreamState};
use crate::options::View;
use crate::reader::Reader;
use crate::removal::{Hidden, facts};
use crate::snapshot::{Behind, History, Loaded, Registered, kind_hash};
use crate::store::Inner;

/// So many names of streams are gathered before they are folded.
const PAGE: usize = 1 << 16;
/// So many snapshots are synced together.
const GROUP: u64 = 1 << 10;
/// So many failures are told of in full.
const FAILURES_MAX: usize = 100;
/// Between so many streams that need nothing somebody may say that it is enough.
const LOOK: u64 = 1 << 12;

/// What compaction has done by registered folds ([`Store::register_fold`](crate::Store::register_fold)), or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Folded {
    /// Streams of which a snapshot was saved; one that two folds are for counts twice.
    pub folded: u64,
    /// Events that were read for them.
    pub events: u64,
    /// Streams of which a snapshot may be due, but whose beginning is gone, and no snapshot of that kind reaches so far.
    pub incomplete: u64,
    /// Streams for which a fold failed. Nothing was saved of them.
    pub failed: u64,
    /// The first hundred of these.
    pub failures: Vec<FoldFailure>,
    /// Snapshots that went because there are as many newer ones as are to be kept ([`Snapshots::keep`](crate::Snapshots::keep)).
    pub superseded: u64,
}

/// A stream for which a fold failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoldFailure {
    /// The stream.
    pub stream: String,
    /// Name of the state.
    pub name: String,
    /// Schema of the state.
    pub schema: u32,
    /// What the fold said, or why the stream could not be read.
    pub reason: String,
}

/// Folds what is due; `Break` if it was stopped. What was saved before stays and is in the report, also after an error.
pub(super) fn fold(
    inner: &Inner,
    folds: &[Arc<Registered>],
    options: &CompactionOptions,
    pace: &mut Pace<'_>,
    report: &mut Folded,
) -> Result<ControlFlow<()>> {
    let _turn = inner.compacting.lock();
    if inner.stopping.load(Ordering::Acquire) {
        return Ok(ControlFlow::Break(()));
    }
    inner.sync()?;
    let reader = Reader::new(inner.core.clone(), View::Durable);
    let mut work = Work { inner, reader, dry_run: options.dry_run, pace, report, waiting: (0, 0), must_sync: false };
    let outcome = work.all(folds);
    let settled = work.settle();
    let goes_on = outcome?;
    settled.map(|()| goes_on)
}

struct Work<'a, 'p> {
    inner: &'a Inner,
    reader: Reader,
    dry_run: bool,
    pace: &'a mut Pace<'p>,
    report: &'a mut Folded,
    /// Streams and events that are saved and not reported yet, because that may not be durable.
    waiting: (u64, u64),
    must_sync: bool,
}

impl Work<'_, '_> {
    fn all(&mut self, folds: &[Arc<Registered>]) -> Result<ControlFlow<()>> {
        for fold in folds {
            if self.all_of(fold)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn all_of(&mut self, fold: &Registered) -> Result<ControlFlow<()>> {
        let reader = self.reader.clone();
        let (head, hidden) = reader.pinned();
        let now = self.inner.options.now();
        let mut goes_on = ControlFlow::Continue(());
        reader.each_unit(head, |unit| {
            let (mut seen, mut is_all) = (0, false);
            while !is_all && goes_on.is_continue() {
                let mut page = Vec::new();
                let mut at = 0;
                is_all = unit.streams_with_prefix(reader.core(), &fold.prefix, head, usize::MAX, |stream, _| {
                    at += 1;
                    if at <= seen {
                        return true;
                    }
                    if at % LOOK == 0 && self.pace.look() {
                        goes_on = ControlFlow::Break(());
                        return false;
                    }
                    match behind(&reader, hidden.as_ref(), fold, stream, unit.span, head) {
                        Ok(Some(behind)) if fold.kind.may_be_due(behind, now) => {
                            page.push((stream.to_owned(), behind));
                        }
                        Ok(_) => {}
                        Err(error) => self.failed(fold, stream, error.to_string()),
                    }
                    page.len() < PAGE
                })?;
                seen = at;
                for (stream, behind) in page {
                    if goes_on.is_break() {
                        break;
                    }
                    goes_on = self.one(fold, &stream, behind)?;
                }
            }
            Ok(())
        })?;
        Ok(goes_on)
    }

    fn one(&mut self, fold: &Registered, stream: &str, behind: Behind) -> Result<ControlFlow<()>> {
        let history = match self.reader.load(stream, &fold.kind) {
            Ok(Loaded::Complete(history)) => history,
            Ok(Loaded::Incomplete { .. }) => {
                self.report.incomplete += 1;
                return Ok(ControlFlow::Continue(()));
            }
            Err(error) => {
                self.failed(fold, stream, error.to_string());
                return Ok(ControlFlow::Continue(()));
            }
        };
        let goes_on = if self.dry_run { self.plan(fold, history, behind) } else { self.fold_and_save(fold, history)? };
        if goes_on.is_break() || self.pace.look() {
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads on until a snapshot is due, or to the end.
    fn plan(&mut self, fold: &Registered, mut history: History, behind: Behind) -> ControlFlow<()> {
        let now = self.inner.options.now();
        while !fold.kind.is_due(&history, now) {
            match history.next() {
                None => return ControlFlow::Continue(()),
                Some(Ok(event)) if self.pace.read((event.payload().len() + event.metadata().len()) as u64) => {
                    return ControlFlow::Break(());
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.failed(fold, history.stream(), error.to_string());
                    return ControlFlow::Continue(());
                }
            }
        }
        self.pace.at.folded += 1;
        self.report.folded += 1;
        self.report.events += behind.events;
        ControlFlow::Continue(())
    }

    fn fold_and_save(&mut self, fold: &Registered, mut history: History) -> Result<ControlFlow<()>> {
        let (answer, is_telling) = {
            let is_telling = Cell::new(false);
            let pace = &mut *self.pace;
            let mut onward = |bytes| {
                is_telling.set(true);
                let is_enough = pace.read(bytes);
                is_telling.set(false);
                !is_enough
            };
            let answer = catch_unwind(AssertUnwindSafe(|| fold.fold(&mut history, &mut onward)));
            (answer, is_telling.get())
        };
        let goes_on = ControlFlow::Continue(());
        let state = match answer {
            Ok(Ok(Some(state))) => state,
            Ok(Ok(None)) => return Ok(ControlFlow::Break(())),
            Ok(Err(error)) => {
                self.failed(fold, history.stream(), error.to_string());
                return Ok(goes_on);
            }
            // It was not the fold that did, but who is told how far it is.
            Err(panic) if is_telling => resume_unwind(panic),
            Err(panic) => {
                self.failed(fold, history.stream(), said(&*panic));
                return Ok(goes_on);
            }
        };
        let kind = &fold.kind;
        let due = history.revision().filter(|_| kind.is_due(&history, self.inner.options.now()));
        let Some(revision) = due else { return Ok(goes_on) };
        if state.len() as u64 > STATE_LEN_MAX {
            let reason = format!("the state is too long: {}, the limit is {STATE_LEN_MAX}", state.len());
            self.failed(fold, history.stream(), reason);
            return Ok(goes_on);
        }
        match kind.save_with(self.inner, history.stream(), revision, &state, Durability::Buffered) {
            Ok(_) => {}
            // The stream was deleted or cut meanwhile.
            Err(Error::Invalid(_)) => return Ok(goes_on),
            Err(error) => return Err(error),
        }
        self.pace.at.folded += 1;
        self.waiting = (self.waiting.0 + 1, self.waiting.1 + history.event_count());
        self.must_sync |= kind.durability_of_saves() == Durability::Durable;
        if self.waiting.0 >= GROUP {
            self.settle()?;
        }
        Ok(goes_on)
    }

    /// What was saved counts from here on.
    fn settle(&mut self) -> Result<()> {
        let (folded, events) = std::mem::take(&mut self.waiting);
        if std::mem::take(&mut self.must_sync) {
            self.inner.snapshots.sync(self.inner)?;
        }
        self.report.folded += folded;
        self.report.events += events;
        Ok(())
    }

    fn failed(&mut self, fold: &Registered, stream: &str, reason: String) {
        self.report.failed += 1;
        if self.report.failures.len() < FAILURES_MAX {
            let (name, schema) = (fold.kind.name().to_owned(), fold.kind.schema());
            self.report.failures.push(FoldFailure { stream: stream.to_owned(), name, schema, reason });
        }
    }
}

/// How much has come in a stream whose last event stands in this span; `None` if it stands elsewhere, or if there is nothing to
/// fold.
fn behind(
    reader: &Reader,
    hidden: Option<&Hidden>,
    fold: &Registered,
    stream: &str,
    span: Span,
    head: u64,
) -> Result<Option<Behind>> {
    let core = reader.core();
    let facts = facts(core, hidden, stream, head)?;
    if !(span.first..=span.last).contains(&facts.newest) || !matches!(facts.state, StreamState::Live { .. }) {
        return Ok(None);
    }
    let kind = kind_hash(core.hash, fold.kind.name(), fold.kind.schema());
    let candidates = core.snapshots.of_stream(stream)?;
    // A look by hashes: whoever loads reads the names, and whether it counts.
    let newest = candidates.entries.iter().map(|placed| &placed.entry);
    let newest =
        newest.filter(|entry| entry.kind == kind && entry.revision <= facts.last).max_by_key(|entry| entry.age());
    let folded = newest.map_or(0, |entry| entry.revision).max(facts.first - 1);
    Ok(Some(Behind { events: facts.last.saturating_sub(folded), saved_at: newest.map(|entry| entry.saved_at) }))
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the fold panicked: {}", text.unwrap_or("nothing is said why"))
}
