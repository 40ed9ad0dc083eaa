//! `demo`: the main verbs, one after the other, on a real set of events.

use std::path::{Path, PathBuf};

use annals::{Seek, inspect};
use clap::Args;

use crate::event_print::Form;
use crate::failure::Failure;
use crate::import::import;
use crate::lines::Source;
use crate::opening;
use crate::output::Output;
use crate::verify;

/// The history of a Rust security-advisory database; source and licence stand beside it.
const ADVISORIES: &[u8] = include_bytes!("../../tests/data/advisories/advisories.jsonl.zst");
const ADVISORIES_NAME: &str = "advisories.jsonl.zst";
const SHOWN: usize = 5;

/// What `demo` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Directory of the store; made if it is missing or empty. Run again, the history is still there
    store: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let path = &arguments.store;
    let mut out = Output::new();
    let shown = path.display();

    out.line(&format!("$ annals import {shown} {ADVISORIES_NAME}"))?;
    out.flush()?;
    let name = Path::new(ADVISORIES_NAME);
    let source = Source::of_bytes(ADVISORIES).map_err(|error| Failure::input(name, &error))?;
    let store = opening::writable(path)?;
    import(&store, source, name, None, false, |outcome| out.line(&outcome.text(name)))?;
    store.close()?;

    out.line(&format!("\n$ annals verify {shown}"))?;
    let report = inspect::verify(path, &mut |_, _| {})?;
    out.line(&verify::summary(&report))?;

    out.line(&format!("\n$ annals tail {shown} -n {SHOWN}"))?;
    let reader = opening::read_only(path)?.reader();
    let mut last = reader
        .read_all_back(&annals::Query::all(), Seek::At(reader.head()))?
        .take(SHOWN)
        .collect::<Result<Vec<_>, _>>()?;
    last.reverse();
    let mut lines = Vec::new();
    for event in &last {
        Form::Short.push(&mut lines, event.as_event_ref());
    }
    out.write(&lines)?;

    out.line(&format!(
        "\nNext: annals info {shown}; annals ls {shown}; annals cat {shown} --stream 'crates/open*' --json"
    ))?;
    out.flush()
}
