//! The verbs and what they take. What each does stands in the module of its name.

use clap::{Parser, Subcommand};

use crate::failure::Failure;
use crate::{
    append, backup, cat, compact, consumers, demo, dump, export, fork, get, import, index, info, ls, remove, repair,
    restore, retain, segments, snapshot, sweep, tail, upgrade, verify,
};

const EXIT_CODES: &str = "\
Exit codes:
    0  fine; also when the reader of the output went away
    1  operational error: no room, no permission, broken input
    2  usage
    3  damage found in the store
    4  conflict: an expectation does not hold, or an id is taken
    5  locked: another process writes to the store
    6  not found: no such store, file, stream, event or consumer
  130  interrupted

Data goes to standard output, everything else to standard error. Verbs that read change nothing and work beside a \
running writer.";

/// Reads, writes and examines annals event stores.
#[derive(Debug, Parser)]
#[command(name = "annals", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Import a real set of events that is built in, verify the store and show it
    Demo(demo::Arguments),
    /// Store the events of a JSON Lines file; run again, it finds what is there and goes on
    Import(import::Arguments),
    /// Print events as the JSON Lines that import reads
    Export(export::Arguments),
    /// Append one event
    Append(append::Arguments),
    /// Hide the events of a stream before a revision
    Truncate(remove::TruncateArguments),
    /// Hide all events of a stream; it may be written again
    Delete(remove::Arguments),
    /// Hide all events of a stream and end it for good
    Tombstone(remove::Arguments),
    /// Say how much is kept of some streams, or of the store; without limits, print what was said
    Retain(retain::Arguments),
    /// Let go of what is beyond the limits that `retain` set
    Sweep(sweep::Arguments),
    /// Take the content of removed events out of the files, and compress them
    Compact(compact::Arguments),
    /// Print events in the order of the log
    Cat(cat::Arguments),
    /// Print the last events and, with -f, each new one
    Tail(tail::Arguments),
    /// Print one event by its position, id, or place in a stream
    Get(get::Arguments),
    /// List streams, or types with --types
    Ls(ls::Arguments),
    /// List the consumers, put one at another place, or remove one
    Consumers(consumers::Arguments),
    /// List snapshots of state, show one, or clean up
    Snapshot(snapshot::Arguments),
    /// Say what the store holds and how it is
    Info(info::Arguments),
    /// List the store's segment files
    Segments(segments::Arguments),
    /// Print every field of a segment file with its bytes' place; damage is marked
    Dump(dump::Arguments),
    /// Read and check every byte; exit code 3 if anything is damaged
    Verify(verify::Arguments),
    /// Check the files by which events are found, or make them anew
    Index(index::Arguments),
    /// Add to a backup what is new in the store, beside a writer or alone
    Backup(backup::Arguments),
    /// Make a store from a backup, as of any position or time in it
    Restore(restore::Arguments),
    /// Make a new store that shares this one's history up to a moment
    Fork(fork::Arguments),
    /// Make a new store of all that can be read of a damaged one; exit code 3 if anything is lost
    Repair(repair::Arguments),
    /// Make a store of an earlier format version anew, beside, in the newest one
    Upgrade(upgrade::Arguments),
}

impl Cli {
    /// Whether Ctrl-C may wait until what is in flight is answered.
    pub(crate) fn writes(&self) -> bool {
        match &self.verb {
            Verb::Index(arguments) => arguments.writes(),
            Verb::Consumers(arguments) => arguments.writes(),
            Verb::Snapshot(arguments) => arguments.writes(),
            Verb::Retain(_)
            | Verb::Sweep(_)
            | Verb::Compact(_)
            | Verb::Truncate(_)
            | Verb::Delete(_)
            | Verb::Tombstone(_) => true,
            verb => matches!(verb, Verb::Demo(_) | Verb::Import(_) | Verb::Append(_)),
        }
    }

    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Demo(arguments) => demo::run(&arguments),
            Verb::Import(arguments) => import::run(&arguments),
            Verb::Export(arguments) => export::run(&arguments),
            Verb::Append(arguments) => append::run(&arguments),
            Verb::Truncate(arguments) => remove::truncate(&arguments),
            Verb::Delete(arguments) => remove::delete(&arguments),
            Verb::Tombstone(arguments) => remove::tombstone(&arguments),
            Verb::Retain(arguments) => retain::run(&arguments),
            Verb::Sweep(arguments) => sweep::run(&arguments),
            Verb::Compact(arguments) => compact::run(&arguments),
            Verb::Cat(arguments) => cat::run(&arguments),
            Verb::Tail(arguments) => tail::run(&arguments),
            Verb::Get(arguments) => get::run(&arguments),
            Verb::Ls(arguments) => ls::run(&arguments),
            Verb::Consumers(arguments) => consumers::run(&arguments),
            Verb::Snapshot(arguments) => snapshot::run(&arguments),
            Verb::Info(arguments) => info::run(&arguments),
            Verb::Segments(arguments) => segments::run(&arguments),
            Verb::Dump(arguments) => dump::run(&arguments),
            Verb::Verify(arguments) => verify::run(&arguments),
            Verb::Index(arguments) => index::run(&arguments),
            Verb::Backup(arguments) => backup::run(&arguments),
            Verb::Restore(arguments) => restore::run(&arguments),
            Verb::Fork(arguments) => fork::run(&arguments),
            Verb::Repair(arguments) => repair::run(&arguments),
            Verb::Upgrade(arguments) => upgrade::run(&arguments),
        }
    }
}
