//! `backup`: a point added to a backup.

use std::path::PathBuf;

use annals::Sharing;
use annals::backup::{self, BackupOptions, BackupReport};
use clap::Args;

use crate::failure::Failure;
use crate::lines::print_wall_clock;
use crate::opening;
use crate::output::{Output, human_bytes};
use crate::steps::Steps;

/// What `backup` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
Copies what the backup does not hold yet, verified on the way, and then writes a point that names all that belongs to it. \
Works beside a writer, whose events come over as far as they are durable. Interrupted, it leaves the points before as \
they were; run it again. `annals restore` makes a store of it.

With hard links or reflinks a backup takes neither time nor room, and does not help against a disk that fails; with hard \
links a damaged segment is damaged in both.")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// Directory of the backup; made if it is not there
    backup: PathBuf,
    /// Let ended segments share their blocks with the store (reflink), where the file system can
    #[arg(long)]
    reflink: bool,
    /// Let ended segments be the same files as the store's, where they cannot share blocks
    #[arg(long)]
    hard_link: bool,
    /// Say what would be copied, after verifying it, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let store = opening::read_only(&arguments.store)?;
    let sharing = match (arguments.hard_link, arguments.reflink) {
        (true, _) => Sharing::Any,
        (false, true) => Sharing::Reflink,
        (false, false) => Sharing::Copy,
    };
    if arguments.hard_link && !arguments.dry_run {
        eprintln!("warning: hard links are the store's own files: damage to one of them meets store and backup alike");
    }
    let options = BackupOptions::new().sharing(sharing).dry_run(arguments.dry_run);
    let mut steps = Steps::new();
    let report = store.backup_with(&arguments.backup, &options, &mut |done, total| steps.show(done, total))?;
    for notice in &report.notices {
        eprintln!("notice: {notice}");
    }
    let mut out = Output::new();
    out.line(&if arguments.json { json(&report, arguments.dry_run) } else { text(&report, arguments.dry_run) })?;
    out.flush()
}

fn text(report: &BackupReport, dry_run: bool) -> String {
    if report.unchanged {
        return format!("unchanged: point {} holds everything up to {}", report.point, report.head);
    }
    format!(
        "{} point {}, head {}: {} in {} new pieces{}, {} held already",
        if dry_run { "would make" } else { "made" },
        report.point,
        report.head,
        human_bytes(report.new_bytes),
        report.new_pieces,
        if report.shared_pieces > 0 { format!(" ({} of them shared)", report.shared_pieces) } else { String::new() },
        human_bytes(report.kept_bytes)
    )
}

fn json(report: &BackupReport, dry_run: bool) -> String {
    serde_json::json!({
        "version": 1,
        "dry_run": dry_run,
        "point": report.point,
        "head": report.head,
        "unchanged": report.unchanged,
        "new_pieces": report.new_pieces,
        "new_bytes": report.new_bytes,
        "shared_pieces": report.shared_pieces,
        "kept_bytes": report.kept_bytes,
        "notices": report.notices,
    })
    .to_string()
}

/// Every point of a backup, a line each; answers whether any is damaged.
pub(crate) fn list(directory: &std::path::Path, as_json: bool) -> Result<usize, Failure> {
    let mut out = Output::new();
    let mut damaged = 0;
    for (number, point) in backup::points(directory).map_err(|error| opening::about(directory, error))? {
        let line = match (&point, as_json) {
            (Ok(point), true) => serde_json::json!({
                "point": number,
                "taken_at": print_wall_clock(point.taken_at),
                "head": point.head,
                "recorded_at": (point.head > 0).then(|| print_wall_clock(point.last_time)),
                "bytes": point.bytes,
                "store_id": data_encoding::HEXLOWER.encode(&point.store_id),
            })
            .to_string(),
            (Ok(point), false) => format!(
                "{number:>6}  {}  head {}, {}",
                print_wall_clock(point.taken_at),
                point.head,
                human_bytes(point.bytes)
            ),
            (Err(error), true) => serde_json::json!({ "point": number, "error": error.to_string() }).to_string(),
            (Err(error), false) => format!("{number:>6}  {error}"),
        };
        damaged += usize::from(point.is_err());
        out.line(&line)?;
    }
    out.flush()?;
    Ok(damaged)
}
