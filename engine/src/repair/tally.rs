//! What is lost, counted: ranges of positions, and revisions of streams as far as names are known.

use std::collections::HashMap;

use annals_format::manifest::LostEntry;
use xxhash_rust::xxh3::xxh3_128;

use super::{LostRange, LostRevisions, RepairReport};

/// More lost revisions are only counted.
const LISTED_MAX: usize = 100_000;

/// Where something is wrong, and what.
#[derive(Clone, Debug, Default)]
pub(super) struct Wrong {
    pub(super) file: String,
    pub(super) offset: u64,
    pub(super) what: String,
}

#[derive(Default)]
pub(super) struct Losses {
    /// Last revision of each stream, by 128 bits of hash of its name.
    last_revisions: HashMap<u128, u64, foldhash::fast::FixedState>,
    /// Events of batches that are not whole, which could be read.
    seen: Vec<(String, u64)>,
    /// All lost positions of the new store, those lost earlier included.
    entries: Vec<LostEntry>,
    pub(super) report: RepairReport,
}

impl Losses {
    /// An event that is taken over.
    pub(super) fn event(&mut self, stream: &str, revision: u64) {
        let last = self.last_revisions.entry(xxh3_128(stream.as_bytes())).or_insert(0);
        let expected = *last + 1;
        *last = revision.max(*last);
        if revision > expected {
            self.revisions(stream, expected, revision - 1);
        }
    }

    /// An event of a batch that is lost.
    pub(super) fn lost_event(&mut self, stream: &str, revision: u64) {
        if self.seen.len() < LISTED_MAX {
            self.seen.push((stream.to_owned(), revision));
        }
    }

    fn revisions(&mut self, stream: &str, first_revision: u64, last_revision: u64) {
        let listed = &mut self.report.lost_revisions;
        if listed.len() < LISTED_MAX {
            listed.push(LostRevisions { stream: stream.to_owned(), first_revision, last_revision });
        } else {
            self.report.lost_revisions_not_listed += last_revision - first_revision + 1;
        }
    }

    /// Positions that are lost now.
    pub(super) fn positions(&mut self, first_position: u64, last_position: u64, wrong: Wrong) {
        let Wrong { file, offset, what } = wrong;
        self.report.lost.push(LostRange { first_position, last_position, file, offset, what });
        self.enter(first_position, last_position);
    }

    /// Positions that are lost behind the end of the new store.
    pub(super) fn past_the_end(&mut self, first_position: u64, last_position: u64, wrong: Wrong) {
        let Wrong { file, offset, what } = wrong;
        self.report.lost.push(LostRange { first_position, last_position, file, offset, what });
    }

    /// A position whose record says that it was lost earlier.
    pub(super) fn lost_before(&mut self, position: u64) {
        self.enter(position, position);
    }

    fn enter(&mut self, first_position: u64, last_position: u64) {
        match self.entries.last_mut() {
            Some(entry) if entry.last_position + 1 == first_position => entry.last_position = last_position,
            _ => self.entries.push(LostEntry { first_position, last_position }),
        }
    }

    /// The report, and the ranges for the manifest.
    pub(super) fn finish(mut self) -> (RepairReport, Vec<LostEntry>) {
        // Ends of streams: nothing taken over tells of these but what could be read of them.
        for (stream, revision) in std::mem::take(&mut self.seen) {
            let last = self.last_revisions.get(&xxh3_128(stream.as_bytes())).copied().unwrap_or(0);
            if revision > last {
                self.revisions(&stream, revision, revision);
            }
        }
        let mut report = self.report;
        report.lost_revisions.sort_unstable();
        report.lost_revisions.dedup_by(|next, before| {
            let goes_on = next.stream == before.stream && next.first_revision <= before.last_revision + 1;
            if goes_on {
                before.last_revision = before.last_revision.max(next.last_revision);
            }
            goes_on
        });
        (report, self.entries)
    }
}
