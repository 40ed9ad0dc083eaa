//! `ls`: the names of streams, or of types.

use std::path::PathBuf;

use annals::{Position, Reader, StreamState};
use clap::Args;

use crate::failure::Failure;
use crate::lines::push_text;
use crate::opening;
use crate::output::Output;

/// What `ls` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
Streams: last revision, last position, name, and in brackets what was done to it, if none of its events is left; types: number of events, name. In the order of the names' bytes.
With --json an object a line: {stream, state, first_revision, last_revision, first_position, last_position} or \
{type, events}.")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// Only names that begin so
    #[arg(default_value = "")]
    prefix: String,
    /// Types instead of streams
    #[arg(long)]
    types: bool,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let reader = opening::read_only(&arguments.store)?.reader();
    let mut out = Output::new();
    if arguments.types {
        types(arguments, &reader, &mut out)?;
    } else {
        streams(arguments, &reader, &mut out)?;
    }
    out.flush()
}

fn types(arguments: &Arguments, reader: &Reader, out: &mut Output) -> Result<(), Failure> {
    for info in reader.types()? {
        if !info.name.starts_with(&arguments.prefix) {
            continue;
        }
        if arguments.json {
            out.line(&format!("{{\"type\":{},\"events\":{}}}", quoted(&info.name), info.count))?;
        } else {
            out.line(&format!("{:>10}  {}", info.count, info.name))?;
        }
    }
    Ok(())
}

fn streams(arguments: &Arguments, reader: &Reader, out: &mut Output) -> Result<(), Failure> {
    for info in reader.streams(&arguments.prefix)? {
        let last = info.state.last().map_or(0, |last| last.get());
        if !arguments.json {
            let position = info.last_position.map_or("-".to_owned(), |position| position.to_string());
            out.line(&format!("{last:>10}  {position:>10}  {}{}", info.name, mark(info.state)))?;
            continue;
        }
        let (state, first) = match info.state {
            StreamState::Live { first, .. } => ("live", first.to_string()),
            StreamState::Deleted { .. } => ("deleted", "null".to_owned()),
            StreamState::Tombstoned { .. } => ("tombstoned", "null".to_owned()),
            _ => ("absent", "null".to_owned()),
        };
        out.line(&format!(
            "{{\"stream\":{},\"state\":\"{state}\",\"first_revision\":{first},\"last_revision\":{last},\
             \"first_position\":{},\"last_position\":{}}}",
            quoted(&info.name),
            number(info.first_position),
            number(info.last_position)
        ))?;
    }
    Ok(())
}

fn number(position: Option<Position>) -> String {
    position.map_or("null".to_owned(), |position| position.to_string())
}

fn mark(state: StreamState) -> &'static str {
    match state {
        StreamState::Live { first, last } if first > last => "  (truncated)",
        StreamState::Deleted { .. } => "  (deleted)",
        StreamState::Tombstoned { .. } => "  (tombstoned)",
        _ => "",
    }
}

fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    push_text(&mut out, text);
    String::from_utf8(out).expect("JSON is UTF-8")
}
