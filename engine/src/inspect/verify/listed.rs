//! Segments that the manifest lists, and their indexes.

use annals_format::Fault;
use annals_format::checksum::{Identity, Seed};
use annals_format::index::{self, INDEX_HEADER_LEN, IndexBytes};
use annals_format::manifest::{Manifest, SegmentEntry, SegmentState};
use annals_format::segment::{END_MARK_LEN, EndMark, FinalChecksum, Link, SEGMENT_HEADER_LEN, SegmentHeader};

use super::walk::{Walk, Walked};
use super::{Check, told};
use crate::Result;
use crate::compacted::{self, Container};
use crate::consumer;
use crate::error::Error;
use crate::inspect::Severity;
use crate::log::Log;
use crate::manifest::file_name;
use crate::name::NameHash;
use crate::options::ReadMode;
use crate::places_file;
use crate::prepare::index_name;
use crate::recovery;
use crate::sealed_index::{IndexFile, SealedIndex};
use crate::segment::{Closing, Segment, SegmentIndex, Tally};
use crate::storage::Access;

/// Whether the segment before this one was left before anything was written to it: recovery does not list such a one. It was
/// the same writer's, begun after the one at `link`, and its checksum is that of no batch.
fn follows_one_left_empty(header: &SegmentHeader, link: Option<Link>) -> bool {
    let Some(previous) = header.previous else { return false };
    let of_previous = Identity { segment: previous.number, ..header.identity };
    link.is_none_or(|link| link.number < previous.number)
        && previous.final_checksum == FinalChecksum::start(Seed::of(&of_previous)).value()
}

impl Check<'_> {
    pub(super) fn listed_segments(&mut self, manifest: &Manifest, walk: &mut Walk) {
        let mut link = None;
        if let Some(first) = manifest.segments.first().filter(|entry| entry.first_position != 1) {
            let what = format!("the first segment listed begins with position {}", first.first_position);
            self.damage(&file_name(manifest.generation), 0, Some(1), what);
            walk.skip_to(first.first_position);
        }
        for entry in &manifest.segments {
            self.listed(manifest, entry, link, walk);
            if walk.position != entry.last_position + 1 {
                walk.skip_to(entry.last_position + 1);
            }
            walk.time = walk.time.max(entry.last_time);
            self.consumers_at(manifest, entry, walk);
            link = Some(Link { number: entry.number, final_checksum: entry.final_checksum });
        }
    }

    /// The file of consumers beside a segment, if there is one: derived, so that nothing wrong with it is damage.
    fn consumers_at(&mut self, manifest: &Manifest, entry: &SegmentEntry, walk: &Walk) {
        let name = consumer::file_name(entry.number);
        if !self.survey.has(&name) {
            return;
        }
        match consumer::load(self.storage, manifest, entry.number) {
            Ok((_, table)) if table != walk.consumers && !walk.has_gap => {
                self.notice(&name, 0, "it does not hold what the log says of the consumers");
            }
            Ok(_) => {}
            Err(error) => self.error(Severity::Notice, &name, &error),
        }
        let len = self.storage.open(&name, Access::Read).and_then(|file| file.len()).unwrap_or(0);
        self.count(len);
    }

    fn listed(&mut self, manifest: &Manifest, entry: &SegmentEntry, link: Option<Link>, walk: &mut Walk) {
        let name = compacted::name_of(entry);
        let read = match entry.compacted {
            Some(_) => self.read_container(&name, entry),
            None => self.read(&name),
        };
        let Some(mut bytes) = read else {
            if !self.survey.has(&name) {
                self.damage(&name, 0, Some(entry.first_position), "the file is missing");
            }
            return;
        };
        if bytes.len() as u64 != entry.len {
            let what = format!("the file is {} bytes long, the manifest says {}", bytes.len(), entry.len);
            self.damage(&name, entry.len.min(bytes.len() as u64), None, what);
        }
        let header = match SegmentHeader::decode(&bytes) {
            Ok(Some(header)) => self.listed_header(&name, header, manifest, entry, link),
            Ok(None) => {
                self.damage(&name, 0, Some(entry.first_position), "the header is empty");
                None
            }
            Err(fault) => {
                self.damage(&name, 0, Some(entry.first_position), told(&fault));
                None
            }
        };
        let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
        let seed = Seed::of(&identity);
        let end = entry.end as usize;
        let walked = walk.segment(&bytes, SEGMENT_HEADER_LEN, end, seed, false);
        let is_whole = self.walked(&name, &walked) && walked.end == end;
        if is_whole {
            self.compare_tally(&name, entry, &walked);
        } else if walked.end_mark.is_some() {
            self.damage(&name, walked.end as u64, None, "an end mark stands before the end that the manifest says");
        }
        if entry.state == SegmentState::Sealed {
            self.listed_end(&name, entry, &bytes, is_whole.then_some(&walked.tally), seed);
        }
        bytes.truncate(end);
        let usable = header.filter(|_| is_whole).map(|header| (header, bytes));
        self.index(manifest, entry, usable);
    }

    /// The segment that a container holds, every byte of which is verified.
    fn read_container(&mut self, name: &str, entry: &SegmentEntry) -> Option<Vec<u8>> {
        if !self.survey.has(name) {
            return None;
        }
        let read = Container::open(self.storage, name, ReadMode::Pread, Some(entry)).and_then(|container| {
            container.removed()?;
            let mut bytes = vec![0; container.header.segment_len as usize];
            container.read(0, &mut bytes)?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) => {
                self.count(entry.file_len());
                Some(bytes)
            }
            Err(error) => {
                self.error(Severity::Damage, name, &error);
                None
            }
        }
    }

    /// Findings and counts of a walk; whether nothing was wrong.
    pub(super) fn walked(&mut self, name: &str, walked: &Walked) -> bool {
        self.report.batches += walked.batches;
        self.report.events += walked.events;
        for wrong in &walked.wrong {
            self.damage(name, wrong.offset, wrong.position, wrong.what.as_str());
        }
        walked.wrong.is_empty()
    }

    fn listed_header(
        &mut self,
        name: &str,
        header: SegmentHeader,
        manifest: &Manifest,
        entry: &SegmentEntry,
        link: Option<Link>,
    ) -> Option<SegmentHeader> {
        let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
        let what = if header.identity != identity || header.first_position != entry.first_position {
            "the header is that of another segment"
        } else if header.segment_len != entry.len {
            "the header gives another length than the manifest"
        } else if header.previous != link && !follows_one_left_empty(&header, link) {
            "the header names another segment before it than the manifest"
        } else if header.manifest_generation > manifest.generation {
            "the segment was begun under a later manifest than the newest there is"
        } else {
            return Some(header);
        };
        self.damage(name, 0, Some(entry.first_position), what);
        None
    }

    fn compare_tally(&mut self, name: &str, entry: &SegmentEntry, walked: &Walked) {
        let tally = &walked.tally;
        let is_listed = tally.final_checksum.value() == entry.content_checksum()
            && tally.last_position.max(entry.first_position - 1) == entry.last_position
            && tally.event_count == entry.event_count
            && (tally.section_count > 0) == entry.has_sections
            && (tally.first_time, tally.last_time) == (entry.first_time, entry.last_time);
        if !is_listed {
            self.damage(name, SEGMENT_HEADER_LEN as u64, None, "the batches are not those the manifest lists");
        }
    }

    fn listed_end(
        &mut self,
        name: &str,
        entry: &SegmentEntry,
        bytes: &[u8],
        tally: Option<&Tally>,
        seed: annals_format::checksum::Seed,
    ) {
        let Some(rest) = bytes.get(entry.end as usize..) else { return };
        match EndMark::decode(rest, seed) {
            Err(fault) => self.damage(name, entry.end, None, told(&fault)),
            Ok(mark) if mark.final_checksum != entry.final_checksum => {
                self.damage(name, entry.end, None, "the end mark's final checksum is not the manifest's");
            }
            Ok(mark) => {
                if let Some(tally) = tally {
                    self.compare_end_mark(name, entry.end, &mark, tally, entry.first_position);
                }
            }
        }
        self.zeros_after(name, bytes, entry.end as usize + END_MARK_LEN);
    }

    pub(super) fn compare_end_mark(&mut self, name: &str, at: u64, mark: &EndMark, tally: &Tally, first: u64) {
        let counted = (tally.batch_count, tally.event_count, tally.control_count, tally.last_position);
        let says = (mark.batch_count, mark.event_count, mark.control_count, mark.last_position);
        let first = if tally.batch_count == 0 { 0 } else { first };
        let times = (mark.first_time, mark.last_time) == (tally.first_time, tally.last_time);
        if counted != says || mark.first_position != first || !times {
            self.damage(name, at, None, "the end mark does not agree with the batches before it");
        }
    }

    pub(super) fn zeros_after(&mut self, name: &str, bytes: &[u8], from: usize) {
        let rest = bytes.get(from..).unwrap_or_default();
        if let Some(place) = rest.iter().position(|byte| *byte != 0) {
            self.damage(name, (from + place) as u64, None, "bytes that are not zero stand behind the end mark");
        }
    }

    /// The index of a listed segment. Whatever is wrong with it is a notice: it is made anew when the store is opened.
    ///
    /// `segment` holds header and bytes of the segment if it is sound, to make the index from.
    fn index(&mut self, manifest: &Manifest, entry: &SegmentEntry, segment: Option<(SegmentHeader, Vec<u8>)>) {
        let name = index_name(entry.number);
        if !self.survey.has(&name) {
            return self.notice(&name, 0, "the index is missing; the next opening makes it");
        }
        let Some(bytes) = self.read_or(Severity::Notice, &name) else { return };
        let mut aligned = IndexBytes::new();
        aligned.extend_from_slice(&bytes);
        let hash = NameHash { seed: manifest.name_hash_seed };
        let is_places = IndexFile::kind(&bytes) == Some(IndexFile::Places);
        let opened = match is_places {
            true => places_file::verified(&aligned, entry, hash).map(drop),
            false => index::open(&aligned).map(drop),
        };
        if let Err(fault) = opened {
            return self.notice(&name, fault_offset(&fault), told(&fault));
        }
        let Some((header, bytes)) = segment else { return };
        let made = self.made_anew(manifest, entry, header, bytes);
        let made = if is_places {
            made.and_then(|whole| places_file::of_whole(&whole, entry, hash, places_file::is_packed(&aligned)))
        } else {
            made
        };
        match made {
            Ok(made) if made[..] == aligned[..] => {}
            Ok(made) => {
                let place = made.iter().zip(aligned.iter()).position(|(a, b)| a != b);
                let place = place.unwrap_or(made.len().min(aligned.len()));
                self.notice(&name, place as u64, "the index is not the one that its segment gives");
            }
            Err(error) => self.error(Severity::Notice, &name, &error),
        }
    }

    /// The index as its segment gives it.
    pub(super) fn made_anew(
        &self,
        manifest: &Manifest,
        entry: &SegmentEntry,
        header: SegmentHeader,
        bytes: Vec<u8>,
    ) -> Result<IndexBytes> {
        let hash = NameHash { seed: manifest.name_hash_seed };
        let name = compacted::name_of(entry);
        let (index, mut tally) = recovery::index_of(&bytes, &header, &name, hash)?;
        // The index of a compacted segment is that of the original.
        tally.final_checksum = FinalChecksum::from_value(entry.final_checksum);
        let file = compacted::open_segment_file(self.storage, &name).map_err(Error::io("open", &name))?;
        let of_index = SegmentIndex::Active(index);
        // All its bytes are at hand, so that no window is read from the file again.
        let segment = Segment::new(header, name, file, ReadMode::Pread, of_index)?.with_tail(0, bytes);
        segment.close(Closing { end: entry.end, state: entry.state, tally });
        SealedIndex::encoded(&Log::of_files(), hash, &segment).map(|(_, bytes)| bytes)
    }
}

/// Where in an index file a fault lies: in its header or in its archive.
fn fault_offset(fault: &Fault) -> u64 {
    match fault {
        Fault::Checksum { what: "archive", .. } | Fault::Structure { .. } => INDEX_HEADER_LEN as u64,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use annals_format::segment::SegmentKind;

    /// A finding of the model's: such a segment was called damage.
    #[test]
    fn one_left_empty_is_told_by_its_number_and_checksum() {
        let identity = |segment| Identity { store: [1; 16], incarnation: [2; 16], segment };
        let empty = |number| Link { number, final_checksum: FinalChecksum::start(Seed::of(&identity(number))).value() };
        let header = |previous| SegmentHeader {
            identity: identity(6),
            generation: 0,
            manifest_generation: 1,
            segment_len: 4096,
            base: 0,
            first_position: 68,
            previous,
            created_at: 0,
            written_by: 0,
            kind: SegmentKind::Live,
        };
        let four = Some(Link { number: 4, final_checksum: 77 });
        assert!(follows_one_left_empty(&header(Some(empty(5))), four));
        assert!(follows_one_left_empty(&header(Some(empty(5))), None));
        // One that held something, one from before what is listed, none at all.
        let held = Link { final_checksum: empty(5).final_checksum ^ 1, ..empty(5) };
        for other in [Some(held), Some(empty(4)), Some(empty(3)), None] {
            assert!(!follows_one_left_empty(&header(other), four), "{other:?}");
        }
    }
}
