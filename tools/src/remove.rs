//! `truncate`, `delete`, `tombstone`: hide events of one stream.

use std::path::PathBuf;

use annals::{Conflict, Error, Expect, Refusal, Removed, Result, Revision, Store, StreamState};
use clap::Args;

use crate::append::parse_expect;
use crate::failure::Failure;
use crate::opening;
use crate::output::{Output, human_count};

/// What all three take.
#[derive(Args, Debug)]
#[command(after_help = "\
Hides at once and for good; the bytes go with compaction. With --expect it fails with exit code 4 if the stream is not \
as expected. With --dry-run nothing is opened for writing, and it works beside a running writer. If all is gone \
already, nothing is written and the exit code is 0.")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// The stream
    stream: String,
    /// What the stream must be: any, none, vacant, exists, deleted, or its last revision
    #[arg(long, default_value = "any", value_parser = parse_expect)]
    expect: Expect,
    /// Only say what would be hidden
    #[arg(long)]
    dry_run: bool,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

/// What `truncate` takes.
#[derive(Args, Debug)]
pub(crate) struct TruncateArguments {
    #[command(flatten)]
    common: Arguments,
    /// First revision that stays; one more than the last hides all
    #[arg(long, value_name = "REVISION", value_parser = parse_revision)]
    before: Revision,
}

fn parse_revision(text: &str) -> std::result::Result<Revision, String> {
    text.parse().ok().and_then(Revision::new).ok_or_else(|| "a revision, at least 1".to_owned())
}

pub(crate) fn truncate(arguments: &TruncateArguments) -> std::result::Result<(), Failure> {
    let before = arguments.before;
    let planned = |state: StreamState| match state {
        StreamState::Live { first, last } if before > first => {
            (StreamState::Live { first: before, last }, before.get().min(last.get() + 1) - first.get())
        }
        state => (state, 0),
    };
    run(&arguments.common, planned, |store, stream, expect| store.truncate_before(stream, expect, before))
}

pub(crate) fn delete(arguments: &Arguments) -> std::result::Result<(), Failure> {
    let planned = |state: StreamState| match state {
        StreamState::Live { first, last } => (StreamState::Deleted { last }, last.get() + 1 - first.get()),
        state => (state, 0),
    };
    run(arguments, planned, |store, stream, expect| store.delete(stream, expect))
}

pub(crate) fn tombstone(arguments: &Arguments) -> std::result::Result<(), Failure> {
    let planned = |state: StreamState| match state {
        StreamState::Live { first, last } => (StreamState::Tombstoned { last }, last.get() + 1 - first.get()),
        StreamState::Deleted { last } => (StreamState::Tombstoned { last }, 0),
        state => (state, 0),
    };
    run(arguments, planned, |store, stream, expect| store.tombstone(stream, expect))
}

fn run(
    arguments: &Arguments,
    planned: impl Fn(StreamState) -> (StreamState, u64),
    remove: impl Fn(&Store, &str, Expect) -> Result<Removed>,
) -> std::result::Result<(), Failure> {
    opening::must_exist(&arguments.store)?;
    if arguments.dry_run {
        let reader = opening::read_only(&arguments.store)?.reader();
        let actual = reader.stream_state(&arguments.stream)?;
        if !holds(arguments.expect, actual) {
            let (stream, expected) = (arguments.stream.clone(), arguments.expect);
            let failed = vec![Refusal::Stream { stream, expected, actual }];
            return Err(Error::Conflict(Box::new(Conflict { head: reader.head(), failed })).into());
        }
        let (state, hidden) = planned(actual);
        return say(arguments, &Removed { position: None, state, hidden, is_unreached: false });
    }
    let store = opening::writable(&arguments.store)?;
    let removed = remove(&store, &arguments.stream, arguments.expect)?;
    store.close()?;
    say(arguments, &removed)
}

/// As the writer judges it.
fn holds(expect: Expect, state: StreamState) -> bool {
    match expect {
        Expect::Any => true,
        Expect::NoStream => state == StreamState::Absent,
        Expect::Vacant => matches!(state, StreamState::Absent | StreamState::Deleted { .. }),
        Expect::Exists => matches!(state, StreamState::Live { .. }),
        Expect::At(revision) => matches!(state, StreamState::Live { last, .. } if last == revision),
        Expect::Deleted => matches!(state, StreamState::Deleted { .. }),
    }
}

fn say(arguments: &Arguments, removed: &Removed) -> std::result::Result<(), Failure> {
    let (name, first) = match removed.state {
        StreamState::Live { first, .. } => ("live", Some(first.get())),
        StreamState::Deleted { .. } => ("deleted", None),
        StreamState::Tombstoned { .. } => ("tombstoned", None),
        _ => ("absent", None),
    };
    let last = removed.state.last().map(Revision::get);
    let mut out = Output::new();
    if arguments.json {
        let document = serde_json::json!({
            "version": 1,
            "stream": arguments.stream,
            "dry_run": arguments.dry_run,
            "position": removed.position.map(|position| position.get()),
            "hidden": removed.hidden,
            "unreached": removed.is_unreached,
            "state": name,
            "first_revision": first,
            "last_revision": last,
        });
        out.line(&document.to_string())?;
        return out.flush();
    }
    let hidden = human_count(removed.hidden);
    let said = match (removed.position, arguments.dry_run) {
        (_, true) => format!("would hide {hidden} events of {}", arguments.stream),
        (Some(position), _) => format!("position {position}: {hidden} events of {} are hidden", arguments.stream),
        (None, _) => format!("nothing to hide in {}", arguments.stream),
    };
    let range = match (first, last) {
        (Some(first), Some(last)) if first <= last => format!("revisions {first} to {last} can be read"),
        (_, Some(last)) => format!("nothing of its {last} revisions can be read"),
        _ => "it was never written".to_owned(),
    };
    let unreached = if removed.is_unreached { "; no snapshot of state reaches so far" } else { "" };
    out.line(&format!("{said}; {name}, {range}{unreached}"))?;
    out.flush()
}
