//! `compact`: take the content of removed events out of sealed segments, and compress what is left.

use std::ops::ControlFlow;
use std::path::PathBuf;

use annals::{CompactionOptions, CompactionReport};
use clap::Args;

use crate::failure::Failure;
use crate::opening;
use crate::output::{Output, human_bytes, human_count};

/// What `compact` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
No answer of the store changes. Of removed events id, stream, type and tags stay. The segment that is being written is \
left as it is. With --dry-run nothing is opened for writing, and it works beside a running writer.")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// Only say what would be freed
    #[arg(long)]
    dry_run: bool,
    /// zstd's level, 1 to 19
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    opening::must_exist(&arguments.store)?;
    let options = CompactionOptions::new().level(arguments.level).dry_run(arguments.dry_run);
    let report = if arguments.dry_run {
        opening::read_only(&arguments.store)?.plan_compaction(&options, &mut |_| ControlFlow::Continue(()))?
    } else {
        let store = opening::writable(&arguments.store)?;
        let report = store.compact(&options)?;
        store.close()?;
        report
    };
    say(arguments, &report)
}

fn say(arguments: &Arguments, report: &CompactionReport) -> Result<(), Failure> {
    let mut out = Output::new();
    if arguments.json {
        let document = serde_json::json!({
            "version": 1,
            "dry_run": arguments.dry_run,
            "compacted": report.compacted,
            "left": report.left,
            "bytes_before": report.bytes_before,
            "bytes_after": report.bytes_after,
            "removed_events": report.removed_events,
            "notices": report.notices,
        });
        out.line(&document.to_string())?;
        return out.flush();
    }
    let would = if arguments.dry_run { "would become" } else { "became" };
    out.line(&format!(
        "{} segments of {} {would} {}; the content of {} removed events {}; {} segments {} left",
        report.compacted.len(),
        human_bytes(report.bytes_before),
        human_bytes(report.bytes_after),
        human_count(report.removed_events),
        if arguments.dry_run { "would go" } else { "is gone" },
        report.left,
        if arguments.dry_run { "would be" } else { "were" },
    ))?;
    for notice in &report.notices {
        out.line(notice)?;
    }
    out.flush()
}
