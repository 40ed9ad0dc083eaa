//! The end of the log, which no manifest lists yet: what a writer goes on with.

use annals_format::checksum::{Identity, Seed};
use annals_format::manifest::Manifest;
use annals_format::segment::{END_MARK_LEN, SEGMENT_HEADER_LEN, SegmentHeader};

use super::walk::{Walk, Walked};
use super::{Check, told};
use crate::inspect::Severity;
use crate::inspect::survey::End;
use crate::name::NameHash;
use crate::prepare::segment_name;
use crate::recovery::scan::Scanned;

impl Check<'_> {
    pub(super) fn tail(&mut self, manifest: &Manifest, walk: &mut Walk) {
        self.report.head = manifest.segments.last().map_or(0, |entry| entry.last_position);
        self.report.durable_head = self.report.head;
        let end = match End::find(self.storage, manifest, &self.survey.numbers) {
            Ok(end) => end,
            Err(error) => return self.error(Severity::Damage, "the directory", &error),
        };
        let known = end.known_durable();
        self.report.head = end.tail.last_position;
        self.report.durable_head = known;
        for scanned in &end.tail.segments {
            self.count(scanned.bytes.len() as u64);
            self.scanned(scanned, walk);
            self.synced_bytes(manifest, &end, scanned);
        }
        if let Some(last) = end.tail.segments.last().filter(|last| last.end_mark.is_none()) {
            self.behind_the_end(last, &end, walk);
        }
        self.unreached(manifest, &end, walk);
    }

    /// A segment that the scan read: all of it is whole, what is left is that it fits the rest of the store.
    fn scanned(&mut self, scanned: &Scanned, walk: &mut Walk) {
        let walked =
            walk.segment(&scanned.bytes, SEGMENT_HEADER_LEN, scanned.end as usize, scanned.header.seed(), true);
        self.walked(&scanned.name, &walked);
        if let Some(mark) = &scanned.end_mark {
            self.compare_end_mark(&scanned.name, scanned.end, mark, &scanned.tally, scanned.header.first_position);
            self.zeros_after(&scanned.name, &scanned.bytes, scanned.end as usize + END_MARK_LEN);
        }
    }

    /// What was synced must stand in the file itself, although the ring may still have a copy.
    fn synced_bytes(&mut self, manifest: &Manifest, end: &End, scanned: &Scanned) {
        let whole = scanned.end + if scanned.end_mark.is_some() { END_MARK_LEN as u64 } else { 0 };
        let limit = match &end.mark {
            Some(mark) if mark.segment == scanned.header.identity.segment => mark.offset.min(whole),
            Some(mark) if mark.segment > scanned.header.identity.segment => whole,
            _ => return,
        };
        let mut file = vec![0; limit as usize];
        let Ok(got) = scanned.file.read_at(0, &mut file) else { return };
        file.truncate(got);
        if file == scanned.bytes[..limit as usize] {
            return;
        }
        if !matches!(SegmentHeader::decode(&file), Ok(Some(header)) if header == scanned.header) {
            self.damage(&scanned.name, 0, Some(scanned.header.first_position), "the header is not the one in the ring");
        }
        let mut alone = Walk::new(NameHash { seed: manifest.name_hash_seed });
        alone.skip_to(scanned.header.first_position);
        let walked = alone.segment(&file, SEGMENT_HEADER_LEN, limit as usize, scanned.header.seed(), false);
        for wrong in walked.wrong {
            let what = format!("{}; the ring still has these bytes", wrong.what);
            self.damage(&scanned.name, wrong.offset, wrong.position, what);
        }
    }

    /// What stands behind the last whole batch: a torn tail, or damage if what was known to be synced is not reached.
    fn behind_the_end(&mut self, last: &Scanned, end: &End, walk: &mut Walk) {
        let from = last.end as usize;
        let rest = &last.bytes[from..];
        let Some(newest) = rest.iter().rposition(|byte| *byte != 0) else { return };
        if end.tail.last_position >= end.known_durable() {
            let first = rest.iter().position(|byte| *byte != 0).unwrap_or(0);
            let what = format!(
                "{} bytes behind the end of the log are no whole batch; the next writer leaves them behind",
                newest + 1 - first
            );
            return self.notice(&last.name, (from + first) as u64, what);
        }
        let until = from + (newest + 1).next_multiple_of(8);
        let walked = walk.segment(&last.bytes, from, until, last.header.seed(), false);
        self.beyond(&last.name, &walked, end.known_durable());
    }

    /// Findings beyond a break in the log: damage only as far as it was known to be synced.
    fn beyond(&mut self, name: &str, walked: &Walked, known: u64) {
        for wrong in &walked.wrong {
            let is_lost = wrong.position.is_none_or(|position| position <= known);
            let severity = if is_lost { Severity::Damage } else { Severity::Notice };
            self.find(severity, name, wrong.offset, wrong.position, wrong.what.as_str());
        }
    }

    /// Segment files that the scan did not come to.
    fn unreached(&mut self, manifest: &Manifest, end: &End, walk: &mut Walk) {
        let is_short = end.tail.last_position < end.known_durable();
        for number in self.survey.numbers.iter().copied() {
            let is_listed = manifest.segments.iter().any(|entry| entry.number == number);
            if is_listed || end.tail.segments.iter().any(|scanned| scanned.header.identity.segment == number) {
                continue;
            }
            let name = segment_name(number);
            let Some(bytes) = self.read(&name) else { continue };
            let newest = manifest.incarnations.last().map_or([0; 16], |entry| entry.incarnation);
            let expected = Identity { store: manifest.store, incarnation: newest, segment: number };
            match SegmentHeader::decode(&bytes) {
                // Made ahead and never begun.
                Ok(None) if !is_short => {}
                Ok(Some(header)) if header.identity != expected || !is_short => {
                    self.notice(&name, 0, "this segment is no part of the log; the next writer removes it");
                }
                Ok(Some(_)) => self.broken_off(&name, &bytes, Seed::of(&expected), walk, end),
                Ok(None) if end.mark.as_ref().is_some_and(|mark| mark.segment == number) => {
                    self.damage(&name, 0, None, "the header is empty");
                    self.broken_off(&name, &bytes, Seed::of(&expected), walk, end);
                }
                Ok(None) => {}
                Err(fault) => {
                    let severity = if is_short { Severity::Damage } else { Severity::Notice };
                    self.find(severity, &name, 0, None, told(&fault));
                    self.broken_off(&name, &bytes, Seed::of(&expected), walk, end);
                }
            }
        }
    }

    /// A segment of the log behind a break.
    fn broken_off(&mut self, name: &str, bytes: &[u8], seed: Seed, walk: &mut Walk, end: &End) {
        let Some(newest) = bytes.iter().rposition(|byte| *byte != 0) else { return };
        walk.has_gap = true;
        let until = (newest + 1).next_multiple_of(8);
        let walked = walk.segment(bytes, SEGMENT_HEADER_LEN.min(until), until, seed, false);
        self.beyond(name, &walked, end.known_durable());
    }

    /// A segment of a store without a manifest, by its own header.
    pub(super) fn segment_alone(&mut self, number: u64) {
        let name = segment_name(number);
        let Some(bytes) = self.read(&name) else { return };
        let header = match SegmentHeader::decode(&bytes) {
            Ok(Some(header)) => header,
            Ok(None) => return,
            Err(fault) => return self.damage(&name, 0, None, told(&fault)),
        };
        // Names are found by any seed as long as it is the same one.
        let mut walk = Walk::new(NameHash { seed: 0 });
        walk.skip_to(header.first_position);
        let walked = walk.segment(&bytes, SEGMENT_HEADER_LEN, bytes.len(), header.seed(), true);
        self.walked(&name, &walked);
    }
}
