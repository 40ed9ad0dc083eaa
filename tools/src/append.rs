//! `append`: one event from the command line.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use annals::{Batch, EventId, Expect, NewEvent};
use clap::Args;

use crate::failure::{Code, Failure};
use crate::import::Mode;
use crate::input::{Input, is_interruption};
use crate::opening;
use crate::output::Output;

/// What `append` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints position, revision and id of the event. With --id a second run finds the event and says so; --expect makes it \
fail with exit code 4 if the stream is not as expected.")]
pub(crate) struct Arguments {
    /// Directory of the store; made if it is missing or empty
    store: PathBuf,
    /// The stream
    #[arg(long)]
    stream: String,
    /// The event's type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: String,
    /// The event's id, a UUID [default: a new one]
    #[arg(long)]
    id: Option<EventId>,
    /// A tag (may be repeated)
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Metadata
    #[arg(long, value_name = "TEXT", default_value = "")]
    meta: String,
    /// What the stream must be: any, none, vacant, exists, deleted, or its last revision
    #[arg(long, default_value = "any", value_parser = parse_expect)]
    expect: Expect,
    /// When the append is acknowledged [default: the store's own]
    #[arg(long, value_enum)]
    durability: Option<Mode>,
    #[command(flatten)]
    payload: Payload,
    /// Print the receipt as a JSON document
    #[arg(long)]
    json: bool,
}

/// Where the payload comes from.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Payload {
    /// The payload as text
    #[arg(long, value_name = "TEXT")]
    data: Option<String>,
    /// A file that holds the payload
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// - reads the payload from standard input
    #[arg(value_name = "-", value_parser = ["-"])]
    stdin: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let payload = arguments.payload.bytes()?;
    let tags: Vec<&str> = arguments.tags.iter().map(String::as_str).collect();
    let mut event = NewEvent::new(&arguments.event_type, &payload).tags(&tags).metadata(&arguments.meta);
    if let Some(id) = arguments.id {
        event = event.id(id);
    }
    let mut batch = Batch::new().written_as_batch(false).expect(&arguments.stream, arguments.expect);
    if let Some(mode) = arguments.durability {
        batch = batch.durability(mode.into());
    }
    batch.push(&arguments.stream, event);

    let store = opening::writable(&arguments.store)?;
    let receipt = store.commit(&batch)?;
    store.close()?;

    let committed = receipt.first();
    let already = receipt.already_committed();
    let mut out = Output::new();
    if arguments.json {
        let document = serde_json::json!({
            "version": 1,
            "position": committed.position.get(),
            "revision": committed.revision.get(),
            "id": committed.id.to_string(),
            "already_committed": already,
        });
        out.line(&document.to_string())?;
    } else {
        let note = if already { " (was there)" } else { "" };
        let (position, revision) = (committed.position, committed.revision);
        out.line(&format!("position {position} revision {revision} id {}{note}", committed.id))?;
    }
    out.flush()
}

impl Payload {
    fn bytes(&self) -> Result<Vec<u8>, Failure> {
        if let Some(text) = &self.data {
            return Ok(text.clone().into_bytes());
        }
        let path = self.file.as_deref();
        read_whole(path).map_err(|error| match path {
            _ if is_interruption(&error) => {
                Failure::new(Code::Interrupted, "the append; nothing is stored", "run the same command again")
            }
            Some(path) => Failure::input(path, &error),
            None => Failure::new(
                Code::Operation,
                format!("reading standard input: {error}"),
                "pipe the payload in, or give --data",
            ),
        })
    }
}

/// The file, or standard input.
fn read_whole(path: Option<&Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    path.map_or_else(Input::standard, Input::open)?.reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn parse_expect(text: &str) -> Result<Expect, String> {
    match text {
        "any" => Ok(Expect::Any),
        "none" => Ok(Expect::NoStream),
        "vacant" => Ok(Expect::Vacant),
        "exists" => Ok(Expect::Exists),
        "deleted" => Ok(Expect::Deleted),
        revision => revision
            .parse()
            .map(Expect::revision)
            .map_err(|_| "any, none, vacant, exists, deleted, or a revision".to_owned()),
    }
}
