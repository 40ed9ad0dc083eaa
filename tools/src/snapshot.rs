//! `snapshot`: lists, shows and cleans up snapshots of state.

use std::path::PathBuf;

use annals::{CleanSnapshots, Reader, Snapshot, SnapshotInfo, Snapshots};
use clap::{Args, Subcommand};
use data_encoding::{BASE64, HEXLOWER};

use crate::failure::{Code, Failure};
use crate::lines::print_wall_clock;
use crate::opening;
use crate::output::{Output, human_bytes, human_count};

/// What `snapshot` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
ls prints revision, length, name and schema of the state, and the stream; with --json an object a line: {stream, name, \
schema, revision, position, saved_at, bytes, stored_bytes, file, offset}. show prints the newest snapshot of a stream; with \
--json a document, the state in state_base64. Both work beside a running writer. clean needs the store for itself.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the snapshots that count, by stream, each stream's newest first
    Ls {
        /// Directory of the store
        store: PathBuf,
        /// Only of streams whose names begin so
        #[arg(default_value = "")]
        prefix: String,
        /// Print a JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Print the newest snapshot of a stream
    Show {
        /// Directory of the store
        store: PathBuf,
        /// The stream
        stream: String,
        /// Only of the state of this name
        #[arg(long)]
        name: Option<String>,
        /// Only of this schema
        #[arg(long)]
        schema: Option<u32>,
        /// Print a JSON document
        #[arg(long, conflicts_with = "raw")]
        json: bool,
        /// Print the state's bytes and nothing else
        #[arg(long)]
        raw: bool,
    },
    /// Let go of snapshots that are void or superseded, and of their bytes
    Clean {
        /// Directory of the store
        store: PathBuf,
        /// Keep the newest so many of each stream, name and schema
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
        /// Print a JSON document
        #[arg(long)]
        json: bool,
    },
}

impl Arguments {
    pub(crate) fn writes(&self) -> bool {
        matches!(self.verb, Verb::Clean { .. })
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut out = Output::new();
    match &arguments.verb {
        Verb::Ls { store, prefix, json } => {
            let reader = opening::read_only(store)?.reader();
            let listed = reader.snapshots(prefix).map_err(|error| opening::about(store, error))?;
            if !json {
                out.line(&format!("{:>10}  {:>10}  {:<24}  stream", "revision", "length", "state"))?;
            }
            for info in &listed {
                out.line(&if *json { line(info) } else { row(info) })?;
            }
        }
        Verb::Show { store, stream, name, schema, json, raw } => {
            let reader = opening::read_only(store)?.reader();
            let found = newest(&reader, stream, name.as_deref(), *schema);
            let found = found.map_err(|error| opening::about(store, error))?;
            let snapshot = found.ok_or_else(|| {
                Failure::new(
                    Code::NotFound,
                    format!("{}: no such snapshot of stream {stream:?}", store.display()),
                    format!("see which there are with `annals snapshot ls {}`", store.display()),
                )
            })?;
            if *raw {
                out.write(snapshot.state())?;
            } else if *json {
                out.line(&document(&snapshot))?;
            } else {
                fields(&snapshot, &mut out)?;
            }
        }
        Verb::Clean { store, keep, dry_run, json } => {
            let path = store;
            let store = opening::writable_if_there(path)?;
            let how = CleanSnapshots::new().keep(*keep as usize).dry_run(*dry_run);
            let cleaned = store.clean_snapshots(&how).map_err(|error| opening::about(path, error))?;
            store.close()?;
            if *json {
                let document = serde_json::json!({
                    "version": 1,
                    "dry_run": dry_run,
                    "kept": cleaned.kept,
                    "void": cleaned.void,
                    "superseded": cleaned.superseded,
                    "bytes_before": cleaned.bytes_before,
                    "bytes_after": cleaned.bytes_after,
                    "damage": cleaned.damage.iter().map(ToString::to_string).collect::<Vec<_>>(),
                });
                out.line(&document.to_string())?;
            } else {
                let went = if *dry_run { "would go" } else { "went" };
                out.line(&format!(
                    "{} snapshots stay; {went}: {} void, {} superseded; files {} before, {} now",
                    human_count(cleaned.kept),
                    human_count(cleaned.void),
                    human_count(cleaned.superseded),
                    human_bytes(cleaned.bytes_before),
                    human_bytes(cleaned.bytes_after)
                ))?;
            }
            if let Some(wrong) = cleaned.damage.into_iter().next() {
                out.flush()?;
                return Err(opening::about(path, annals::Error::Corrupt(Box::new(wrong))));
            }
        }
    }
    out.flush()
}

fn newest(reader: &Reader, stream: &str, name: Option<&str>, schema: Option<u32>) -> annals::Result<Option<Snapshot>> {
    let listed = reader.snapshots_of(stream)?;
    let is_wanted = |info: &&SnapshotInfo| {
        name.is_none_or(|name| info.name == name) && schema.is_none_or(|schema| info.schema == schema)
    };
    match listed.iter().find(is_wanted) {
        Some(info) => reader.latest_snapshot(stream, &Snapshots::of(&*info.name, info.schema)),
        None => Ok(None),
    }
}

fn row(info: &SnapshotInfo) -> String {
    let state = format!("{} {}", info.name, info.schema);
    format!("{:>10}  {:>10}  {state:<24}  {}", info.revision, human_bytes(info.len), info.stream)
}

fn line(info: &SnapshotInfo) -> String {
    serde_json::json!({
        "stream": info.stream,
        "name": info.name,
        "schema": info.schema,
        "revision": info.revision.get(),
        "position": info.position.get(),
        "saved_at": print_wall_clock(info.saved_at),
        "bytes": info.len,
        "stored_bytes": info.stored_len,
        "file": info.file,
        "offset": info.offset,
    })
    .to_string()
}

fn document(snapshot: &Snapshot) -> String {
    serde_json::json!({
        "version": 1,
        "stream": snapshot.stream(),
        "name": snapshot.name(),
        "schema": snapshot.schema(),
        "revision": snapshot.revision().get(),
        "position": snapshot.position().get(),
        "event_id": snapshot.event_id().to_string(),
        "saved_at": print_wall_clock(snapshot.saved_at()),
        "bytes": snapshot.state().len(),
        "stored_bytes": snapshot.stored_len(),
        "compressed": snapshot.is_compressed(),
        "state_base64": BASE64.encode(snapshot.state()),
    })
    .to_string()
}

/// So many bytes of a state are shown.
const SHOWN: usize = 256;

fn fields(snapshot: &Snapshot, out: &mut Output) -> Result<(), Failure> {
    let stored = match snapshot.is_compressed() {
        true => {
            format!("{}, stored as {}", human_bytes(snapshot.state().len() as u64), human_bytes(snapshot.stored_len()))
        }
        false => human_bytes(snapshot.state().len() as u64),
    };
    let rows = [
        ("stream", snapshot.stream().to_owned()),
        ("state", format!("{}, schema {}", snapshot.name(), snapshot.schema())),
        ("revision", snapshot.revision().to_string()),
        ("event", format!("{} at position {}", snapshot.event_id(), snapshot.position())),
        ("saved", print_wall_clock(snapshot.saved_at())),
        ("length", stored),
        ("bytes", shown(snapshot.state())),
    ];
    rows.into_iter().try_for_each(|(name, value)| out.line(&format!("{name:<12} {value}")))
}

/// The beginning of a state: as text if it is printable, else in hexadecimal digits.
fn shown(state: &[u8]) -> String {
    let part = &state[..state.len().min(SHOWN)];
    let more = if state.len() > SHOWN { " ..." } else { "" };
    match std::str::from_utf8(part) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text}{more}"),
        _ => format!("{}{more}", HEXLOWER.encode(part)),
    }
}
