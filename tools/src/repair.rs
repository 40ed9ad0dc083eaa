//! `repair`: a new store of all that can be read of a damaged one.

use std::path::PathBuf;

use annals::repair::{RepairOptions, RepairReport, repair};
use clap::Args;

use crate::failure::{Code, Failure};
use crate::opening;
use crate::output::{Output, human_count};
use crate::steps::Steps;

/// What `repair` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
Reads by ordinary calls and changes nothing in the store. A batch comes over whole or not at all. Positions and revisions \
stay; where records are lost, the new store says so. Prints each range of positions that is lost, and the revisions of \
streams that are known to be. Interrupted, it leaves a directory that is no store; run it again.

Exit code 0 if nothing is lost, 3 if something is: the new store is made all the same. Where there is a backup, restoring it \
loses less.")]
pub(crate) struct Arguments {
    /// Directory of the damaged store
    store: PathBuf,
    /// Directory of the new store; must not exist or be empty
    target: PathBuf,
    /// Say what would be lost, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    opening::must_exist(&arguments.store)?;
    let mut steps = Steps::new();
    let options = RepairOptions::new().dry_run(arguments.dry_run);
    let report = repair(&arguments.store, &arguments.target, &options, &mut |done, total| steps.show(done, total))
        .map_err(Failure::from)?;
    let mut out = Output::new();
    if arguments.json {
        out.line(&json(&report, arguments.dry_run))?;
    } else {
        for line in text(&report) {
            out.line(&line)?;
        }
        out.line(&summary(&report, arguments.dry_run))?;
    }
    out.flush()?;
    if report.is_complete() {
        return Ok(());
    }
    Err(Failure::new(
        Code::Damage,
        format!("{} positions are lost", human_count(report.lost_positions())),
        "what is readable is in the new store; where there is a backup, `annals restore` loses less",
    ))
}

fn text(report: &RepairReport) -> Vec<String> {
    let mut lines: Vec<String> = report.notices.iter().map(|notice| format!("notice: {notice}")).collect();
    for range in &report.lost {
        lines.push(format!(
            "lost: positions {} to {}: {} byte {}: {}",
            range.first_position, range.last_position, range.file, range.offset, range.what
        ));
    }
    for lost in &report.lost_revisions {
        lines.push(format!("lost: revisions {} to {} of {:?}", lost.first_revision, lost.last_revision, lost.stream));
    }
    if report.lost_revisions_not_listed > 0 {
        lines.push(format!("lost: {} more revisions", human_count(report.lost_revisions_not_listed)));
    }
    lines
}

fn summary(report: &RepairReport, dry_run: bool) -> String {
    format!(
        "{}: {} events in {} batches, head {}, {} positions lost",
        if dry_run { "would repair" } else { "repaired" },
        human_count(report.events),
        human_count(report.batches),
        report.head,
        human_count(report.lost_positions())
    )
}

fn json(report: &RepairReport, dry_run: bool) -> String {
    let lost: Vec<_> = report
        .lost
        .iter()
        .map(|range| {
            serde_json::json!({
                "first_position": range.first_position,
                "last_position": range.last_position,
                "file": range.file,
                "offset": range.offset,
                "what": range.what,
            })
        })
        .collect();
    let revisions: Vec<_> = report
        .lost_revisions
        .iter()
        .map(|lost| {
            serde_json::json!({
                "stream": lost.stream,
                "first_revision": lost.first_revision,
                "last_revision": lost.last_revision,
            })
        })
        .collect();
    serde_json::json!({
        "version": 1,
        "dry_run": dry_run,
        "head": report.head,
        "events": report.events,
        "batches": report.batches,
        "lost_positions": report.lost_positions(),
        "lost": lost,
        "lost_revisions": revisions,
        "lost_revisions_not_listed": report.lost_revisions_not_listed,
        "notices": report.notices,
    })
    .to_string()
}
