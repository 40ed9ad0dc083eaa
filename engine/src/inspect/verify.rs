//! Every byte that a checksum covers, read and judged.

mod index_content;
mod listed;
mod small;
mod snapshots;
mod tail;
mod tiers;
mod walk;

use annals_format::Fault;
use annals_format::manifest::Manifest;
use annals_format::mark::MARK_LEN;

use super::info::is_ours;
use super::survey::{AGAIN, Survey, Unchanged};
use super::{Finding, Severity, VerifyReport};
use crate::Result;
use crate::error::Error;
use crate::mark::MARK_NAME;
use crate::name::NameHash;
use crate::prepare::segment_number;
use crate::recovery::scan::SEGMENT_LEN_MAX;
use crate::storage::{Access, Storage};
use walk::Walk;
pub(super) use walk::next_whole_header;

/// A writer at work may move things between our looking at one file and the next. Then we look again, and believe what
/// is found both times.
pub(super) fn verify(storage: &dyn Storage, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport> {
    let storage = &Unchanged(storage);
    let mut before = moving_parts(storage);
    let mut report = look(storage, progress)?;
    for _ in 0..AGAIN {
        let now = moving_parts(storage);
        if report.findings.is_empty() || now == before {
            break;
        }
        before = now;
        let again = look(storage, progress)?;
        let is_seen_twice = |finding: &Finding| {
            again.findings.iter().any(|other| (&other.file, other.offset) == (&finding.file, finding.offset))
        };
        report.findings.retain(is_seen_twice);
        report = VerifyReport { findings: report.findings, ..again };
    }
    Ok(report)
}

/// What changes whenever a writer syncs, seals or rolls.
fn moving_parts(storage: &dyn Storage) -> (Vec<String>, Vec<u8>) {
    let mark = crate::manifest::read_whole(storage, MARK_NAME, MARK_LEN as u64).unwrap_or_default();
    let mut names = storage.list().unwrap_or_default();
    names.sort_unstable();
    (names, mark)
}

fn look(storage: &dyn Storage, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport> {
    let survey = Survey::new(storage)?;
    let mut check = Check::new(storage, &survey, progress);
    check.manifests();
    match survey.manifest() {
        Some(manifest) => check.store(manifest),
        None => check.segments_alone(),
    }
    check.report.findings.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
    Ok(check.report)
}

/// A verification under way.
struct Check<'a> {
    storage: &'a dyn Storage,
    survey: &'a Survey,
    progress: &'a mut dyn FnMut(u64, u64),
    total: u64,
    report: VerifyReport,
}

impl<'a> Check<'a> {
    fn new(storage: &'a dyn Storage, survey: &'a Survey, progress: &'a mut dyn FnMut(u64, u64)) -> Self {
        let len = |name: &String| storage.open(name, Access::Read).and_then(|file| file.len()).unwrap_or(0);
        let total = survey.names.iter().filter(|name| is_ours(name)).map(len).sum();
        Self { storage, survey, progress, total, report: VerifyReport::default() }
    }

    fn store(&mut self, manifest: &Manifest) {
        self.lock_file();
        self.mark_file(manifest);
        self.ring_file(manifest);
        self.control_file(manifest);
        let mut walk = Walk::new(NameHash { seed: manifest.name_hash_seed });
        self.listed_segments(manifest, &mut walk);
        self.tail(manifest, &mut walk);
        self.tiers(manifest);
        self.snapshots(manifest);
        self.stray_files(manifest);
        self.as_opened(manifest);
    }

    /// Without a manifest only what each segment says of itself can be checked.
    fn segments_alone(&mut self) {
        for number in &self.survey.numbers {
            self.segment_alone(*number);
        }
    }

    fn damage(&mut self, file: &str, offset: u64, position: Option<u64>, what: impl Into<String>) {
        self.find(Severity::Damage, file, offset, position, what);
    }

    fn notice(&mut self, file: &str, offset: u64, what: impl Into<String>) {
        self.find(Severity::Notice, file, offset, None, what);
    }

    fn find(&mut self, severity: Severity, file: &str, offset: u64, position: Option<u64>, what: impl Into<String>) {
        let finding = Finding { file: file.to_owned(), offset, position, what: what.into(), severity };
        self.report.findings.push(finding);
    }

    /// A finding from an error that was met where `file` was looked at.
    fn error(&mut self, severity: Severity, file: &str, error: &Error) {
        match error {
            Error::Corrupt(corrupt) => {
                self.find(severity, &corrupt.file, corrupt.offset, corrupt.position, corrupt.what.as_str());
            }
            Error::Unsupported { file, what, .. } => {
                self.find(severity, file, 0, None, format!("it holds {what}, which this version does not know"));
            }
            Error::Io { action, file, source } => {
                self.find(severity, file, 0, None, format!("cannot {action} it: {source}"));
            }
            other => self.find(severity, file, 0, None, other.to_string()),
        }
    }

    /// Counts a file of this length as read.
    fn count(&mut self, len: u64) {
        self.report.files += 1;
        self.report.bytes += len;
        (self.progress)(self.report.bytes.min(self.total), self.total);
    }

    /// A file's bytes; if it cannot be read, that is a finding. `None` also if it is not there, which is none.
    fn read(&mut self, name: &str) -> Option<Vec<u8>> {
        self.read_or(Severity::Damage, name)
    }

    fn read_or(&mut self, severity: Severity, name: &str) -> Option<Vec<u8>> {
        if !self.survey.has(name) {
            return None;
        }
        match crate::manifest::read_whole(self.storage, name, SEGMENT_LEN_MAX) {
            Ok(bytes) => {
                self.count(bytes.len() as u64);
                Some(bytes)
            }
            Err(error) => {
                self.error(severity, name, &error);
                None
            }
        }
    }

    /// Whether this place was found damaged already.
    fn knows(&self, file: &str, offset: u64) -> bool {
        self.report.findings.iter().any(|finding| finding.file == file && finding.offset == offset)
    }

    /// Whatever opening would refuse is damage, whether or not it was met on the way.
    fn as_opened(&mut self, manifest: &Manifest) {
        match crate::recovery::find_end(self.storage, manifest, &self.survey.numbers) {
            Err(Error::Corrupt(corrupt)) if self.knows(&corrupt.file, corrupt.offset) => {}
            Err(error) => self.error(Severity::Damage, "the directory", &error),
            Ok(_) => {}
        }
    }

    /// Files that belong to no store, or no longer to this one.
    fn stray_files(&mut self, manifest: &Manifest) {
        let survey = self.survey;
        for name in &survey.names {
            let known = match segment_number(name) {
                Some((number, true)) => {
                    manifest.segments.iter().any(|entry| entry.number == number)
                        || survey.numbers.binary_search(&number).is_ok()
                }
                _ => is_ours(name),
            };
            if !known {
                self.notice(name, 0, "this file is not part of the store");
            }
        }
    }
}

/// The text of a fault, as findings have it.
fn told(fault: &Fault) -> String {
    fault.to_string()
}
