//! `fork`: a new store that shares the history of another up to a moment.

use std::path::PathBuf;

use annals::{ForkOptions, Sharing};
use clap::Args;

use crate::failure::Failure;
use crate::moment::{Moment, or_head};
use crate::opening;
use crate::output::{Output, human_bytes, human_count};
use crate::steps::Steps;

/// What `fork` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
The fork holds the history up to the moment and goes on by itself, with an id of its own. Ended segments are shared with \
the store: by reflink where the file system can, else by hard link, else they are copied. Works beside a writer, whose \
newest events come over as far as they are durable. Interrupted, it leaves a directory that is no store; run it again.")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// Directory of the new store; must not exist or be empty
    target: PathBuf,
    /// Only the history up to this position or time, included
    #[arg(long, value_name = "POS|TIME")]
    as_of: Option<Moment>,
    /// Copy everything, share nothing
    #[arg(long)]
    copy: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let store = opening::read_only(&arguments.store)?;
    let sharing = if arguments.copy { Sharing::Copy } else { Sharing::Any };
    let options = ForkOptions::new().as_of(or_head(arguments.as_of)).sharing(sharing).dry_run(arguments.dry_run);
    let mut steps = Steps::new();
    let report = store.fork(&arguments.target, &options, &mut |done, total| steps.show(done, total))?;
    let mut out = Output::new();
    if arguments.json {
        let document = serde_json::json!({
            "version": 1,
            "dry_run": arguments.dry_run,
            "head": report.head,
            "carried_removals": report.carried_removals,
            "shared_segments": report.shared_segments,
            "copied_segments": report.copied_segments,
            "rewritten_batches": report.rewritten_batches,
            "written_bytes": report.written_bytes,
        });
        out.line(&document.to_string())?;
    } else {
        out.line(&format!(
            "{} head {}: {} segments shared, {} copied, {} batches and {} written, {} later removals",
            if arguments.dry_run { "would fork:" } else { "forked:" },
            report.head,
            report.shared_segments,
            report.copied_segments,
            human_count(report.rewritten_batches),
            human_bytes(report.written_bytes),
            human_count(report.carried_removals)
        ))?;
    }
    out.flush()
}
