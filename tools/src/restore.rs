//! `restore`: a store made from a backup.

use std::path::PathBuf;

use annals::backup::{self, RestoreOptions};
use clap::Args;

use crate::failure::{Code, Failure};
use crate::lines::print_wall_clock;
use crate::moment::{Moment, or_head};
use crate::output::{Output, human_bytes, human_count};
use crate::steps::Steps;
use crate::{backup as backup_verb, opening};

/// What `restore` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
Every byte is verified before it is written. The store gets a new incarnation, so that checkpoints of what was not restored \
are refused. With --dry-run everything is read and verified, and nothing written: a check of the backup. Interrupted, it \
leaves a directory that is no store; run it again.

Exit code 3 if a file of the backup is damaged or missing; it is named.")]
pub(crate) struct Arguments {
    /// Directory of the backup
    backup: PathBuf,
    /// Directory of the new store; must not exist or be empty
    #[arg(required_unless_present_any = ["list", "dry_run"])]
    target: Option<PathBuf>,
    /// The point with this number instead of the newest
    #[arg(long, value_name = "N")]
    point: Option<u64>,
    /// Only the history up to this position or time, included
    #[arg(long, value_name = "POS|TIME")]
    until: Option<Moment>,
    /// List the points of the backup
    #[arg(long, conflicts_with_all = ["target", "point", "until", "dry_run"])]
    list: bool,
    /// Read and verify all that would be restored, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as one JSON document; with --list an object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    opening::must_exist(&arguments.backup)?;
    if arguments.list {
        return match backup_verb::list(&arguments.backup, arguments.json)? {
            0 => Ok(()),
            n => Err(Failure::new(
                Code::Damage,
                format!("{n} damaged points in {}", arguments.backup.display()),
                "restore one of the others with --point N, and take a new backup",
            )),
        };
    }
    let mut options = RestoreOptions::new().until(or_head(arguments.until)).dry_run(arguments.dry_run);
    if let Some(point) = arguments.point {
        options = options.point(point);
    }
    // Nothing is looked for where nothing is to be written.
    let nowhere = arguments.backup.join("nowhere");
    let target = arguments.target.as_ref().unwrap_or(&nowhere);
    let mut steps = Steps::new();
    let report = backup::restore(&arguments.backup, target, &options, &mut |done, total| steps.show(done, total))
        .map_err(|error| match &error {
            annals::Error::Corrupt(corrupt) => {
                let hint = corrupt.hint;
                Failure::from(error).with_hint(hint)
            }
            annals::Error::NotAStore { .. } => Failure::from(error)
                .with_hint("give the directory of a backup; `annals restore BACKUP --list` lists its points"),
            _ => Failure::from(error),
        })?;
    let mut out = Output::new();
    if arguments.json {
        let document = serde_json::json!({
            "version": 1,
            "dry_run": arguments.dry_run,
            "point": report.point,
            "head": report.head,
            "carried_removals": report.carried_removals,
            "recorded_at": (report.head > 0).then(|| print_wall_clock(report.last_time)),
            "records": report.records,
            "verified_bytes": report.verified_bytes,
        });
        out.line(&document.to_string())?;
    } else {
        out.line(&format!(
            "{} point {}, head {}: {} records, {} of them later removals, {} verified",
            if arguments.dry_run { "would restore" } else { "restored" },
            report.point,
            report.head,
            human_count(report.records),
            human_count(report.carried_removals),
            human_bytes(report.verified_bytes)
        ))?;
    }
    out.flush()
}
