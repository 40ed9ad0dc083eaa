//! `get`: one event.

use std::path::PathBuf;

use annals::{Event, EventId, Lookup, Position, Reader, Seek};
use clap::Args;

use crate::event_print::Form;
use crate::failure::{Code, Failure};
use crate::filter::no_such_stream;
use crate::opening;
use crate::output::Output;

/// What `get` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// A position, a UUID, or STREAM@REVISION
    #[arg(value_name = "POSITION|ID|STREAM@REVISION")]
    which: String,
    /// Print a JSON object, as `cat` does
    #[arg(long, conflicts_with = "raw")]
    json: bool,
    /// Print the payload's bytes and nothing else
    #[arg(long)]
    raw: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let reader = opening::read_only(&arguments.store)?.reader();
    let event = find(&reader, &arguments.which)?;
    let mut out = Output::new();
    if arguments.raw {
        out.write(event.payload())?;
    } else {
        let mut line = Vec::new();
        Form::new(arguments.json).push(&mut line, event.as_event_ref());
        out.write(&line)?;
    }
    out.flush()
}

fn find(reader: &Reader, which: &str) -> Result<Event, Failure> {
    if let Ok(position) = which.parse() {
        return at(reader, position);
    }
    if let Ok(id) = which.parse() {
        return by_id(reader, id);
    }
    match which.rsplit_once('@').map(|(stream, revision)| (stream, revision.parse())) {
        Some((stream, Ok(revision))) => at_revision(reader, stream, revision),
        _ => Err(Failure::new(
            Code::Usage,
            format!("{which:?} is no position, no UUID and no STREAM@REVISION"),
            "for example `annals get STORE 7` or `annals get STORE order-1@3`",
        )),
    }
}

fn at(reader: &Reader, position: u64) -> Result<Event, Failure> {
    let head = reader.head();
    let found = match Position::new(position) {
        Some(position) if position.get() <= head => reader.at(position)?,
        _ => None,
    };
    found.ok_or_else(|| {
        Failure::new(Code::NotFound, format!("no event at position {position}"), format!("the last position is {head}"))
    })
}

fn by_id(reader: &Reader, id: EventId) -> Result<Event, Failure> {
    match reader.by_id(id)? {
        Lookup::Found(event) => Ok(event),
        Lookup::Removed { at, .. } => Err(Failure::new(
            Code::NotFound,
            format!("event {id} was removed; it stood at position {at}"),
            "what is removed stays removed; a backup may hold it",
        )),
        _ => Err(Failure::new(Code::NotFound, format!("no event of id {id}"), "`annals cat STORE --json` shows ids")),
    }
}

fn at_revision(reader: &Reader, stream: &str, revision: u64) -> Result<Event, Failure> {
    let Some(last) = reader.stream_state(stream)?.last() else { return Err(no_such_stream(reader, stream)?) };
    let missing = || {
        let what = format!("no event of revision {revision} in stream {stream:?}");
        Failure::new(Code::NotFound, what, format!("its last revision is {last}"))
    };
    if revision == 0 || revision > last.get() {
        return Err(missing());
    }
    match reader.read_stream(stream, Seek::At(revision))?.next().transpose()? {
        Some(event) if event.revision().get() == revision => Ok(event),
        _ => Err(missing()),
    }
}
