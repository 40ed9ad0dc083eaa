//! `segments`: the files that make up the log.

use std::path::PathBuf;

use annals::inspect::{self, IndexState, SegmentInfo, SegmentState};
use clap::Args;

use crate::failure::Failure;
use crate::lines::print_wall_clock;
use crate::opening;
use crate::output::Output;

/// What `segments` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    opening::must_exist(&arguments.store)?;
    let segments = inspect::segments(&arguments.store).map_err(|error| opening::about(&arguments.store, error))?;
    let mut out = Output::new();
    if !arguments.json {
        out.line(&format!(
            "{:>8}  {:<8}  {:<7}  {:>10}  {:>10}  {:>10}  {:>12}  {:>12}",
            "segment", "state", "index", "events", "first", "last", "end", "length"
        ))?;
    }
    for info in &segments {
        out.line(&if arguments.json { json(info) } else { text(info) })?;
    }
    out.flush()
}

fn text(info: &SegmentInfo) -> String {
    let number = |position: Option<u64>| position.map_or_else(|| "-".to_owned(), |position| position.to_string());
    format!(
        "{:>8}  {:<8}  {:<7}  {:>10}  {:>10}  {:>10}  {:>12}  {:>12}",
        info.number,
        state(info.state),
        index_column(info),
        info.events,
        number(info.first_position),
        number(info.last_position),
        info.end,
        info.len
    )
}

fn json(info: &SegmentInfo) -> String {
    serde_json::json!({
        "segment": info.number,
        "file": info.file,
        "state": state(info.state),
        "index": index(info.index),
        "events": info.events,
        "first_position": info.first_position,
        "last_position": info.last_position,
        "first_time": info.first_time.map(print_wall_clock),
        "last_time": info.last_time.map(print_wall_clock),
        "end": info.end,
        "length": info.len,
        "incarnation": data_encoding::HEXLOWER.encode(&info.incarnation),
    })
    .to_string()
}

fn state(state: SegmentState) -> &'static str {
    match state {
        SegmentState::Sealed => "sealed",
        SegmentState::Cut => "cut",
        SegmentState::Compacted => "compacted",
        SegmentState::Active => "active",
        SegmentState::Unlisted => "unlisted",
    }
}

/// The segment being written needs no file of its index, and mostly has none.
fn index_column(info: &SegmentInfo) -> &'static str {
    match (info.state, info.index) {
        (SegmentState::Active, IndexState::Missing) => "-",
        (_, state) => index(state),
    }
}

fn index(state: IndexState) -> &'static str {
    match state {
        IndexState::Present => "present",
        IndexState::Missing => "missing",
        IndexState::Damaged => "damaged",
    }
}
