//! `upgrade`: a store of an earlier format version, made anew beside in the newest one.

use std::path::PathBuf;

use annals::upgrade::{UpgradeOptions, UpgradeReport, upgrade};
use clap::Args;

use crate::failure::Failure;
use crate::opening;
use crate::output::{Output, human_bytes, human_count};
use crate::steps::Steps;

/// What `upgrade` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
The store is verified and changes nothing; every file is written into the new directory, in the newest format version, and \
read back. Files of that version are copied as they are. The new store is the same store: checkpoints and consumers go on in \
it, and only one of the two may be written from then on. Nobody may write the store meanwhile. A store of a later version is \
refused. Interrupted, it leaves a directory that is no store; run it again.")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// Directory of the new store; must not exist or be empty
    target: PathBuf,
    /// Say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    opening::must_exist(&arguments.store)?;
    let mut steps = Steps::new();
    let options = UpgradeOptions::new().dry_run(arguments.dry_run);
    let report = upgrade(&arguments.store, &arguments.target, &options, &mut |done, total| steps.show(done, total))
        .map_err(Failure::from)?;
    let mut out = Output::new();
    out.line(&if arguments.json { json(&report, arguments.dry_run) } else { text(&report, arguments.dry_run) })?;
    out.flush()
}

fn text(report: &UpgradeReport, dry_run: bool) -> String {
    let done = match (report.was_current(), dry_run) {
        (true, true) => format!("nothing to upgrade, all files are of version {}; would copy", report.to),
        (true, false) => format!("nothing to upgrade, all files are of version {}; copied", report.to),
        (false, true) => format!("would upgrade from version {} to {}", report.from, report.to),
        (false, false) => format!("upgraded from version {} to {}", report.from, report.to),
    };
    format!(
        "{done}: {} files, {} of them written anew, {}, {} events, head {}",
        human_count(report.files),
        human_count(report.rewritten_files),
        human_bytes(report.bytes),
        human_count(report.events),
        report.head
    )
}

fn json(report: &UpgradeReport, dry_run: bool) -> String {
    serde_json::json!({
        "version": 1,
        "dry_run": dry_run,
        "from": report.from,
        "to": report.to,
        "was_current": report.was_current(),
        "files": report.files,
        "rewritten_files": report.rewritten_files,
        "bytes": report.bytes,
        "events": report.events,
        "head": report.head,
    })
    .to_string()
}
