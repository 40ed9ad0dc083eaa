//! `verify`: every byte of the store read and checked.

use std::io::Write;
use std::path::PathBuf;

use annals::inspect::{self, Finding, Severity, VerifyReport};
use clap::Args;

use crate::failure::{Code, Failure};
use crate::opening;
use crate::output::{Output, human_bytes, human_count, is_watched};

/// What `verify` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
Reads by ordinary calls, changes nothing, works on damaged stores and beside a writer. Findings are `damage` (exit code \
3) or `notice` (nothing is lost, for example an index that will be rebuilt).")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// Print findings and outcome as one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    opening::must_exist(&arguments.store)?;
    // A store of a later version is not damaged; nothing can be said of it.
    if let Err(error @ annals::Error::Unsupported { .. }) = inspect::store_info(&arguments.store) {
        return Err(opening::about(&arguments.store, error));
    }
    let mut shown = 0;
    let watched = is_watched();
    let report = inspect::verify(&arguments.store, &mut |done, total| {
        let percent = done.saturating_mul(100) / total.max(1);
        if watched && percent > shown {
            shown = percent;
            // A lost progress figure is no reason to stop.
            let _ = write!(std::io::stderr(), "\r{percent} %\r");
        }
    })
    .map_err(|error| opening::about(&arguments.store, error))?;
    let mut out = Output::new();
    if arguments.json {
        out.line(&json(&report))?;
    } else {
        for finding in &report.findings {
            out.line(&text(finding))?;
        }
        out.line(&summary(&report))?;
    }
    out.flush()?;
    match damages(&report) {
        0 => Ok(()),
        n => Err(Failure::new(
            Code::Damage,
            format!("{n} damaged places in {}", arguments.store.display()),
            "restore the files named from a copy; `annals dump STORE SEGMENT` shows what their bytes hold",
        )),
    }
}

fn damages(report: &VerifyReport) -> usize {
    report.findings.iter().filter(|finding| finding.severity == Severity::Damage).count()
}

pub(crate) fn summary(report: &VerifyReport) -> String {
    format!(
        "{}: {} events in {} batches, {} in {} files, head {}, durable {}",
        if damages(report) == 0 { "ok" } else { "damaged" },
        human_count(report.events),
        human_count(report.batches),
        human_bytes(report.bytes),
        report.files,
        report.head,
        report.durable_head
    )
}

pub(crate) fn text(finding: &Finding) -> String {
    let kind = severity(finding.severity);
    let position = finding.position.map(|position| format!(" position {position}")).unwrap_or_default();
    format!("{kind}: {} byte {}{position}: {}", finding.file, finding.offset, finding.what)
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Damage => "damage",
        Severity::Notice => "notice",
    }
}

fn json(report: &VerifyReport) -> String {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| {
            serde_json::json!({
                "severity": severity(finding.severity),
                "file": finding.file,
                "offset": finding.offset,
                "position": finding.position,
                "what": finding.what,
            })
        })
        .collect();
    serde_json::json!({
        "version": 1,
        "ok": damages(report) == 0,
        "events": report.events,
        "batches": report.batches,
        "bytes": report.bytes,
        "files": report.files,
        "head": report.head,
        "durable_head": report.durable_head,
        "findings": findings,
    })
    .to_string()
}
