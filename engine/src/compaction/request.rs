//! Compaction asked for from outside: a small file beside the log, which the writer's background thread finds, and one with its
//! answer.
//!
//! A request is tried once: its file goes before the work begins. Whatever lies there that is none, of another store or of a
//! later version, is left alone.

use std::io::{self, IoSlice};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_format::compacted::{BLOCK_LEN_MAX, BLOCK_LEN_MIN};
use annals_format::request::{ANSWER_LEN, Answer, AnswerState, Live, REQUEST_LEN, Request};

use super::{Compacting, CompactionOptions, CompactionReport, Folded, LiveSegment, run};
use crate::Result;
use crate::error::Error;
use crate::made_id::random_bytes;
use crate::manifest;
use crate::options::{Clock, SystemClock, directory};
use crate::storage::{Access, Fill, Storage};
use crate::store::Inner;

const REQUEST_NAME: &str = "COMPACT";
const ANSWER_NAME: &str = "COMPACT-ANSWER";
/// The answer is written anew this often at most.
const TELL: Duration = Duration::from_millis(250);

/// A request to the process that holds a store for writing: that it compacts it.
///
/// That process looks for requests about twice a second, unless it works without background threads. Laying one needs the right
/// to write to the directory, and no lock.
///
/// ```
/// use annals::{CompactionOptions, CompactionRequest, RequestState, Store};
/// # fn main() -> annals::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("shop");
/// let store = Store::open(&path)?;
/// // In another process:
/// let request = CompactionRequest::lay(&path, &CompactionOptions::new())?;
/// loop {
///     match request.look()? {
///         RequestState::Waiting | RequestState::Running(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
///         RequestState::Done(report) => break assert_eq!(report.removed_events, 0),
///         other => panic!("{other:?}"),
///     }
/// }
/// # store.close()
/// # }
/// ```
#[derive(Debug)]
pub struct CompactionRequest {
    storage: Arc<dyn Storage>,
    store: [u8; 16],
    id: [u8; 16],
}

/// What has become of a [`CompactionRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestState {
    /// Nobody has taken it up yet.
    Waiting,
    /// The writer is at it.
    Running(Compacting),
    /// It is done. The segments that were compacted are counted, not named: `compacted` holds zeros. Of long notices the
    /// beginning is there. What registered folds did is told in words among them.
    Done(CompactionReport),
    /// It failed, for this reason.
    Failed(String),
    /// The store was closed meanwhile. What was done stays.
    Stopped,
    /// Another request has taken its place, before or after it was taken up.
    Replaced,
}

impl CompactionRequest {
    /// Lays a request beside the store in directory `path`. One that was not taken up yet is replaced. A dry run cannot be asked
    /// for: [`ReadOnly::plan_compaction`](crate::ReadOnly::plan_compaction) needs no writer.
    ///
    /// # Errors
    /// `NotAStore`, `ReadOnly`, `Io`; `Corrupt` or `Unsupported` if the manifest cannot be read.
    pub fn lay(path: impl AsRef<Path>, options: &CompactionOptions) -> Result<Self> {
        Self::lay_in(Arc::new(directory(path.as_ref(), false)?), options)
    }

    /// As [`CompactionRequest::lay`], on any storage.
    ///
    /// # Errors
    /// As there.
    pub fn lay_in(storage: Arc<dyn Storage>, options: &CompactionOptions) -> Result<Self> {
        let no_store = || Error::NotAStore { path: String::new(), reason: "it has no manifest".to_owned() };
        let manifest = manifest::load_current(&*storage)?.ok_or_else(no_store)?;
        let request = Request {
            store: manifest.store,
            id: random_bytes()?,
            asked_at: SystemClock.now(),
            bytes_per_second: options.bytes_per_second.unwrap_or(0),
            block_len: options.block_len,
            level: options.level as u8,
            live: match options.live_segment {
                LiveSegment::Leave => Live::Leave,
                LiveSegment::EndWhereRemoved => Live::EndWhereRemoved,
                LiveSegment::End => Live::End,
            },
            sweep: options.sweep_first,
        };
        put(&*storage, REQUEST_NAME, &request.encode())?;
        Ok(Self { storage, store: request.store, id: request.id })
    }

    /// What has become of it: two small reads.
    ///
    /// # Errors
    /// `Io`.
    pub fn look(&self) -> Result<RequestState> {
        // In this order: the request goes after the first answer has come.
        let waits = read(&*self.storage, REQUEST_NAME, REQUEST_LEN)?.and_then(|bytes| Request::decode(&bytes).ok());
        let answer = read(&*self.storage, ANSWER_NAME, ANSWER_LEN)?.and_then(|bytes| Answer::decode(&bytes).ok());
        let is_mine = |answer: &Answer| answer.store == self.store && answer.request == self.id;
        let Some(answer) = answer.filter(is_mine) else {
            let still_waits = waits.is_some_and(|request| request.id == self.id);
            return Ok(if still_waits { RequestState::Waiting } else { RequestState::Replaced });
        };
        Ok(match answer.state {
            AnswerState::Running => {
                RequestState::Running(Compacting { done: answer.progress[0], total: answer.progress[1], folded: 0 })
            }
            AnswerState::Done => RequestState::Done(report_of(&answer)),
            AnswerState::Failed => RequestState::Failed(answer.text),
            AnswerState::Stopped => RequestState::Stopped,
        })
    }

    /// Takes it back if nobody has taken it up yet; false if it is not there any more.
    ///
    /// # Errors
    /// `Io`.
    pub fn withdraw(self) -> Result<bool> {
        if self.look()? != RequestState::Waiting {
            return Ok(false);
        }
        match self.storage.remove(REQUEST_NAME) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("remove", REQUEST_NAME)(error)),
        }
    }
}

fn report_of(answer: &Answer) -> CompactionReport {
    let [compacted, left, bytes_before, bytes_after, removed_events, void_snapshots] = answer.figures;
    CompactionReport {
        // A damaged figure asks for no more memory than a store could have segments.
        compacted: vec![0; compacted.min(1 << 20) as usize],
        left,
        bytes_before,
        bytes_after,
        removed_events,
        void_snapshots,
        folds: Folded::default(),
        cancelled: false,
        ended_live: answer.ended_live,
        notices: answer.text.lines().map(str::to_owned).collect(),
    }
}

/// The file's bytes, if there is a plain one of this length.
fn read(storage: &dyn Storage, name: &str, len: usize) -> Result<Option<Vec<u8>>> {
    let file = match storage.open(name, Access::Read) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => return Ok(None),
        Err(error) => return Err(Error::io("open", name)(error)),
    };
    if file.len().map_err(Error::io("measure", name))? != len as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    let got = file.read_at(0, &mut bytes).map_err(Error::io("read", name))?;
    Ok((got == len).then_some(bytes))
}

/// Writes a file beside and renames it; nothing of it need outlast a power cut.
fn put(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<()> {
    let beside = format!("{name}.new");
    let _ = storage.remove(&beside);
    let file = storage.create(&beside, bytes.len() as u64, Fill::Allocated).map_err(Error::io("create", &beside))?;
    file.write_at(0, &[IoSlice::new(bytes)]).map_err(Error::io("write", &beside))?;
    storage.rename(&beside, name).map_err(Error::io("rename", name))
}

/// Does what a request asks for, if one lies there; false if none does.
pub(super) fn serve(inner: &Inner, goes_on: &mut dyn FnMut(Compacting) -> ControlFlow<()>) -> bool {
    let storage = &*inner.storage;
    let Ok(Some(bytes)) = read(storage, REQUEST_NAME, REQUEST_LEN) else { return false };
    let store = inner.sealing.lock().manifest.store;
    let Some(request) = Request::decode(&bytes).ok().filter(|request| request.store == store) else { return false };
    let mut answer = Answer {
        store,
        request: request.id,
        state: AnswerState::Running,
        ended_live: false,
        written_at: 0,
        progress: [0; 2],
        figures: [0; 6],
        text: String::new(),
    };
    // Whoever asked may not be told; that is no reason not to do it.
    let tell = |answer: &mut Answer| {
        answer.written_at = inner.options.now();
        let _ = put(storage, ANSWER_NAME, &answer.encode());
    };
    tell(&mut answer);
    if storage.remove(REQUEST_NAME).is_err() {
        // It would be found again and again.
        return false;
    }
    let mut told = Instant::now();
    let outcome = run(inner, &options_of(&request), &mut |at| {
        if told.elapsed() >= TELL {
            answer.progress = [at.done, at.total];
            tell(&mut answer);
            told = Instant::now();
        }
        goes_on(at)
    });
    match outcome {
        Ok(report) => {
            answer.state = if report.cancelled { AnswerState::Stopped } else { AnswerState::Done };
            answer.ended_live = report.ended_live;
            answer.figures = [
                report.compacted.len() as u64,
                report.left,
                report.bytes_before,
                report.bytes_after,
                report.removed_events,
                report.void_snapshots,
            ];
            answer.text = in_words(&report.folds).into_iter().chain(report.notices).collect::<Vec<_>>().join("\n");
        }
        Err(error) => {
            answer.state = AnswerState::Failed;
            answer.text = error.to_string();
        }
    }
    tell(&mut answer);
    true
}

/// What was done by registered folds, for who asked from outside and has no figures for it.
fn in_words(folds: &Folded) -> Option<String> {
    if *folds == Folded::default() {
        return None;
    }
    let Folded { folded, events, incomplete, failed, superseded, .. } = folds;
    let mut words = format!("{folded} streams were folded, of {events} events");
    let more = [
        (incomplete, "have no beginning to fold from"),
        (failed, "could not be folded"),
        (superseded, "older snapshots went"),
    ];
    for (count, what) in more.into_iter().filter(|(count, _)| **count > 0) {
        words.push_str(&format!("; {count} {what}"));
    }
    if let Some(first) = folds.failures.first() {
        words.push_str(&format!(" (the first is {:?}: {})", first.stream, first.reason));
    }
    Some(words)
}

fn options_of(request: &Request) -> CompactionOptions {
    debug_assert!((BLOCK_LEN_MIN..=BLOCK_LEN_MAX).contains(&request.block_len));
    CompactionOptions::new()
        .level(request.level.into())
        .block_bytes(request.block_len)
        .bytes_per_second(Some(request.bytes_per_second))
        .sweep_first(request.sweep)
        .live_segment(match request.live {
            Live::Leave => LiveSegment::Leave,
            Live::EndWhereRemoved => LiveSegment::EndWhereRemoved,
            Live::End => LiveSegment::End,
        })
}
