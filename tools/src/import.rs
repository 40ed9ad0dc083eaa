//! `import`: the lines of a file become events, each batch or single event one append.
//!
//! Appends are pipelined: a bounded number of tickets is in flight, so that one sync serves many of them. Every event
//! has an id, from its line or made from it; whatever was stored by an earlier run is found by these ids and not stored
//! again.

mod pipeline;
mod progress;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use annals::{Durability, EventId, Store};
use clap::{Args, ValueEnum};

use crate::failure::{Code, Failure};
use crate::input::is_interruption;
use crate::lines::{Entry, Source};
use crate::output::{Output, human_count};
use crate::{opening, signals};
use pipeline::Pipeline;
use progress::Progress;

/// Events that a batch may have before the store is asked; far above what a store takes by default.
const BATCH_EVENTS_MAX: usize = 1 << 20;

/// What `import` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
A line:
  {\"stream\":text,\"type\":text,\"id\":uuid,\"time\":RFC 3339 in UTC or null,
   \"data\":object,\"meta\":object,\"batch\":number}
Neighbours with the same `batch` are one atomic append; without it an event is an append of its own. \
An event without an `id` gets one made from the file's text up to its line. \
Only `stream`, `type` and `data` must be there.")]
pub(crate) struct Arguments {
    /// Directory of the store; made if it is missing or empty
    store: PathBuf,
    /// JSON Lines, plain, gzip or zstd; - reads standard input
    file: PathBuf,
    /// When each append is acknowledged; the end of the import is synced either way [default: the store's own]
    #[arg(long, value_enum)]
    durability: Option<Mode>,
    /// Say how far it is every ten seconds
    #[arg(short, long)]
    verbose: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    json: bool,
}

/// [`Durability`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Synced to the disk
    Durable,
    /// With the operating system
    Buffered,
}

impl From<Mode> for Durability {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Durable => Self::Durable,
            Mode::Buffered => Self::Buffered,
        }
    }
}

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Events stored by this run.
    pub(crate) stored_events: u64,
    /// Appends that stored them.
    pub(crate) stored_appends: u64,
    /// Events found: stored before.
    pub(crate) present_events: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let source = Source::open(&arguments.file).map_err(|error| match is_interruption(&error) {
        true => interruption().after(&stored(&Tally::default())),
        false => Failure::input(&arguments.file, &error),
    })?;
    let store = opening::writable(&arguments.store)?;
    let durability = arguments.durability.map(Durability::from);
    import(&store, source, &arguments.file, durability, arguments.verbose, |outcome| {
        let mut out = Output::new();
        out.line(&if arguments.json { outcome.json() } else { outcome.text(&arguments.file) })?;
        out.flush()
    })?;
    Ok(store.close()?)
}

/// How an import ended.
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    lines: u64,
    digest: String,
    durable_head: u64,
    seconds: f64,
}

impl Outcome {
    pub(crate) fn text(&self, file: &Path) -> String {
        let Tally { stored_events, stored_appends, present_events } = self.tally;
        let present = match present_events {
            0 => String::new(),
            n => format!(", {} were there", human_count(n)),
        };
        format!(
            "imported {} events in {} appends from {}{present}; durable up to position {}; {:.1} s; sha256 of the lines {}",
            human_count(stored_events),
            human_count(stored_appends),
            file.display(),
            self.durable_head,
            self.seconds,
            self.digest
        )
    }

    fn json(&self) -> String {
        let Tally { stored_events, stored_appends, present_events } = self.tally;
        serde_json::json!({
            "version": 1,
            "lines": self.lines,
            "stored_events": stored_events,
            "stored_appends": stored_appends,
            "present_events": present_events,
            "durable_head": self.durable_head,
            "sha256": self.digest,
            "seconds": self.seconds,
        })
        .to_string()
    }
}

/// Imports all of `source` into `store`, syncs, and hands the outcome to `tell`.
pub(crate) fn import(
    store: &Store,
    mut source: Source,
    file: &Path,
    durability: Option<Durability>,
    verbose: bool,
    tell: impl FnOnce(&Outcome) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let began = Instant::now();
    let progress = Progress::new(source.progress(), verbose);
    let mut pipeline = Pipeline::new(store, file, durability);
    let ended = feed(&mut source, &mut pipeline, &progress, file);
    // What is in flight is answered and synced also when the import ends early.
    let drained = pipeline.drain();
    let synced = store.sync().map_err(Failure::from);
    progress.finish();
    let tally = pipeline.tally();
    ended.and(drained).map_err(|failure| failure.after(&stored(&tally)))?;
    synced?;
    let outcome = Outcome {
        tally,
        lines: source.line_number() - 1,
        digest: source.digest(),
        durable_head: store.reader_in(annals::View::Durable).head(),
        seconds: began.elapsed().as_secs_f64(),
    };
    tell(&outcome)
}

/// Reads lines, gathers those of a batch, and hands each group to the pipeline.
fn feed(source: &mut Source, pipeline: &mut Pipeline<'_>, progress: &Progress, file: &Path) -> Result<(), Failure> {
    let mut group: Vec<(Entry, EventId)> = Vec::new();
    let mut group_line = 0;
    let mut last_batch = None;
    let mut line = Vec::new();
    loop {
        let more = source.next_line(&mut line);
        let number = source.line_number();
        let unread = |error: io::Error| match is_interruption(&error) {
            true => interruption(),
            false => broken_line(file, number, 0, &error.to_string()),
        };
        if !more.map_err(unread)? {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let entry = Entry::parse(&line).map_err(|wrong| broken_line(file, number, wrong.column, &wrong.what))?;
        let joins = group.last().is_some_and(|(last, _)| last.batch == entry.batch);
        if !joins {
            pipeline.append(&group, group_line)?;
            group.clear();
            group_line = number;
            if let Some(batch) = entry.batch.filter(|batch| last_batch >= Some(*batch)) {
                let what = format!("`batch` falls to {batch}; lines of a batch stand together");
                return Err(broken_line(file, number, 0, &what));
            }
            last_batch = entry.batch.or(last_batch);
            progress.step(&pipeline.tally());
            if signals::interrupted() {
                return Err(interruption());
            }
        }
        if group.len() == BATCH_EVENTS_MAX {
            let what = format!("a batch of more than {BATCH_EVENTS_MAX} events");
            return Err(broken_line(file, group_line, 0, &what));
        }
        let id = entry.id.unwrap_or_else(|| source.made_id());
        let alone = entry.batch.is_none();
        group.push((entry, id));
        if alone {
            pipeline.append(&group, group_line)?;
            group.clear();
        }
    }
    pipeline.append(&group, group_line)
}

fn stored(tally: &Tally) -> String {
    format!("{} of its events are stored", human_count(tally.stored_events + tally.present_events))
}

fn interruption() -> Failure {
    Failure::new(Code::Interrupted, "the import", "run the same command again to finish it")
}

fn broken_line(file: &Path, number: u64, column: usize, what: &str) -> Failure {
    let hint = "mend the line, then run the same command again: what is stored is found and not stored twice";
    let column = if column > 0 { format!(" column {column}") } else { String::new() };
    Failure::new(Code::Operation, what, hint).at(&format!("{} line {number}{column}", file.display()))
}
