//! `index`: the files by which events are found, checked against the log or made anew from it.

use std::path::{Path, PathBuf};

use annals::inspect;
use clap::{Args, Subcommand};

use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::steps::Steps;
use crate::{opening, verify};

/// What `index` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand, Debug)]
enum Task {
    /// Hold every index file against the log; changes nothing, works beside a writer; exit code 3 if one is wrong
    #[command(after_help = "\
Index files are derived from the log: whatever is wrong with one, no event is lost, and a store that meets the damage \
answers from the log. What only this check finds, files whose checksums fit wrong content, `annals index rebuild` mends.")]
    Check(Store),
    /// Make every index file anew from the log; needs the store for itself
    Rebuild(Store),
}

#[derive(Args, Debug)]
struct Store {
    /// Directory of the store
    store: PathBuf,
}

impl Arguments {
    /// Whether it writes.
    pub(crate) fn writes(&self) -> bool {
        matches!(self.task, Task::Rebuild(_))
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.task {
        Task::Check(store) => check(&store.store),
        Task::Rebuild(store) => rebuild(&store.store),
    }
}

/// Shows how far something is.
fn progress() -> impl FnMut(u64, u64) {
    let mut steps = Steps::with_lines();
    move |done, total| steps.show(done, total)
}

fn check(store: &Path) -> Result<(), Failure> {
    opening::must_exist(store)?;
    let report = inspect::check_index(store, &mut progress()).map_err(|error| opening::about(store, error))?;
    let mut out = Output::new();
    for finding in &report.findings {
        out.line(&verify::text(finding))?;
    }
    let outcome = if report.findings.is_empty() { "ok" } else { "to be made anew" };
    out.line(&format!("{outcome}: {} files looked at, {} events", report.files, report.events))?;
    out.flush()?;
    match report.findings.len() {
        0 => Ok(()),
        n => Err(Failure::new(
            Code::Damage,
            format!("{n} wrong places in index files of {}", store.display()),
            "no event is lost; `annals index rebuild STORE` makes them anew",
        )),
    }
}

fn rebuild(store: &Path) -> Result<(), Failure> {
    let about = |error| opening::about(store, error);
    let opened = opening::writable_if_there(store)?;
    let rebuilt = opened.rebuild_index(&mut progress()).map_err(about)?;
    opened.close().map_err(about)?;
    let mut out = Output::new();
    out.line(&format!("made {} index files anew", rebuilt.files))?;
    out.flush()
}
