//! After an unclean end: the log is cut at what was known durable, and the whole batches above are written anew.

use std::cmp::Ordering;
use std::io::IoSlice;
use std::sync::Arc;

use annals_format::Fault;
use annals_format::batch::{BATCH_HEADER_LEN, BatchHeader};
use annals_format::checksum::Identity;
use annals_format::manifest::{IncarnationEntry, SegmentState};
use annals_format::mark::Mark;
use annals_format::record::Record;
use annals_format::scan::verify_batch;
use annals_format::segment::{END_MARK_LEN, Link, SEGMENT_HEADER_LEN, SegmentHeader};

use super::create::fill;
use super::listed::segment_entry;
use super::opening::Opening;
use super::reencode::reencode;
use super::reindex::{index_batch, index_of};
use super::scan::{Scanned, Tail};
use crate::active_index::ActiveIndex;
use crate::error::Error;
use crate::log::page_ceiling;
use crate::made_id::random_bytes;
use crate::name::NameHash;
use crate::prepare::{Prepared, no_room, segment_name};
use crate::segment::{Closing, Segment, SegmentIndex, Tally};
use crate::writer::{ActiveSegment, begin_segment};
use crate::{Result, VERSION, manifest};

pub(super) struct Rescued {
    pub(super) listed: Vec<Arc<Segment>>,
    pub(super) fresh: ActiveSegment,
}

impl Opening {
    /// Cuts the log at its newest mark and writes the whole batches above it anew.
    pub(super) fn rescue(
        &mut self,
        tail: Tail,
        known_durable: u64,
        next_number: &mut u64,
        mark: Option<&Mark>,
        hash: NameHash,
    ) -> Result<Rescued> {
        self.report.dropped_batches = tail.beyond.len() as u64;
        let keeps_all = cfg!(annals_plant = "recovery-keeps-unsynced-bytes");
        let mut trusted = if keeps_all { tail.last_position } else { known_durable };
        // Batches without a record have no position that could tell: of them the mark alone knows.
        let mut synced = mark;
        let mut first_kept = self.manifest.segments.last().map_or(0, |entry| entry.last_position) + 1;
        let mut listed = Vec::new();
        let mut kept: Vec<(Vec<u8>, SegmentHeader)> = Vec::new();
        let mut link =
            self.manifest.segments.last().map(|e| Link { number: e.number, final_checksum: e.final_checksum });
        let last_position = tail.last_position;
        for scanned in tail.segments {
            // From the first byte on that the ring had to supply, nothing is left to the files, although it was synced
            // once: the ring will not hold it for long.
            let until = scanned.from_ring.unwrap_or(u64::MAX);
            let (below, above) = split_at_position(&scanned, trusted, synced_until(&scanned, synced), until);
            if scanned.from_ring.is_some() {
                (trusted, synced) = (0, None);
            }
            self.report.cut_bytes += torn_len(&scanned);
            if let Some(tally) = below.filter(|tally| !tally.is_empty()) {
                // An end mark found above the newest mark may be in the ring or the page cache alone.
                let state = SegmentState::Cut;
                let end = scanned.end - above.len() as u64;
                link = Some(Link {
                    number: scanned.header.identity.segment,
                    final_checksum: tally.final_checksum.value(),
                });
                first_kept = tally.last_position.max(scanned.header.first_position - 1) + 1;
                let header = scanned.header.clone();
                let of_index = SegmentIndex::Active(index_below(&scanned, end, hash)?);
                let segment =
                    Segment::new(header, scanned.name.clone(), scanned.file.clone(), self.options.read_mode, of_index)?;
                segment.close(Closing { end, state, tally });
                listed.push(Arc::new(segment));
            }
            if !above.is_empty() {
                kept.push((above, scanned.header));
            }
        }
        let fresh = self.write_anew(&kept, link, first_kept - 1, next_number, hash)?;
        for segment in &listed {
            let closing = segment.closing().expect("closed above");
            self.manifest.segments.push(segment_entry(segment, closing));
        }
        let incarnation = fresh.segment.header.identity.incarnation;
        self.manifest.incarnations.push(IncarnationEntry { incarnation, first_position: last_position + 1 });
        self.manifest.generation += 1;
        self.manifest.generation = self.manifest.generation.max(mark.map_or(0, |m| m.manifest_generation));
        self.manifest.next_segment = *next_number;
        self.manifest.written_by = VERSION;
        manifest::save(&*self.storage, &self.manifest)?;
        Ok(Rescued { listed, fresh })
    }

    /// A fresh, synced segment that holds the kept batches and nothing else.
    fn write_anew(
        &mut self,
        kept: &[(Vec<u8>, SegmentHeader)],
        link: Option<Link>,
        trusted: u64,
        next_number: &mut u64,
        hash: NameHash,
    ) -> Result<ActiveSegment> {
        let kept_len: u64 = kept.iter().map(|(bytes, _)| bytes.len() as u64).sum();
        let needed = page_ceiling((SEGMENT_HEADER_LEN + END_MARK_LEN) as u64 + kept_len);
        let len = self.options.segment_bytes_first.min(self.options.segment_bytes_max).max(needed);
        let identity = Identity { store: self.manifest.store, incarnation: random_bytes()?, segment: *next_number };
        *next_number += 1;
        let name = segment_name(identity.segment);
        let file = self.storage.create(&name, len, fill(&self.options)).map_err(|error| no_room(&name, error))?;
        let header = self.live_header(identity, len, trusted + 1, link, self.options.now());
        let prepared = Prepared { identity, name: name.clone(), file: file.clone(), len };
        // As in a scan: two keys of its own an event.
        let keys = (kept_len / 256).max(1024) as usize;
        let mut active = begin_segment(self.options.read_mode, header.clone(), prepared, keys, None)?;
        let mut bytes = header.encode().to_vec();
        for (batches, old) in kept {
            self.encode_anew(batches, old, trusted, &mut bytes, &mut active, hash)?;
        }
        let io = |error| no_room(&name, error);
        file.write_at(0, &[IoSlice::new(&bytes)]).map_err(io)?;
        file.sync().map_err(Error::io("sync", &name))?;
        self.storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
        Ok(active)
    }

    /// Encodes the batches of `old` for the new segment: same positions, revisions, times, ids.
    fn encode_anew(
        &mut self,
        batches: &[u8],
        old: &SegmentHeader,
        trusted: u64,
        bytes: &mut Vec<u8>,
        active: &mut ActiveSegment,
        hash: NameHash,
    ) -> Result<()> {
        let seed = active.segment.seed;
        let mut at = 0;
        let mut staging = Vec::new();
        while at < batches.len() {
            let name = segment_name(old.identity.segment);
            let damaged = |fault: Fault| Error::damaged(&name, at as u64, None, &fault, old.written_by);
            let header = BatchHeader::decode(&batches[at..], old.seed()).map_err(damaged)?;
            staging.clear();
            let (new, _) =
                reencode(&batches[at..], &header, old.seed(), seed, trusted, &mut staging).map_err(damaged)?;
            let controls =
                index_batch(&mut active.index, hash, &staging, &new, seed, active.offset).map_err(damaged)?;
            active.tally.add(&new, &staging, controls);
            active.offset += staging.len() as u64;
            bytes.extend_from_slice(&staging);
            self.report.kept_batches += 1;
            self.report.kept_events += u64::from(new.record_count) - controls;
            at += header.len();
        }
        Ok(())
    }
}

/// What follows a segment's last whole batch and is not zero, as far as it goes.
fn torn_len(scanned: &Scanned) -> u64 {
    if scanned.end_mark.is_some() {
        return 0;
    }
    (scanned.written as u64).saturating_sub(scanned.end)
}

/// Up to which offset the mark says that the segment was synced.
fn synced_until(scanned: &Scanned, mark: Option<&Mark>) -> u64 {
    let Some(mark) = mark else { return 0 };
    match scanned.header.identity.segment.cmp(&mark.segment) {
        Ordering::Less => u64::MAX,
        Ordering::Equal => mark.offset,
        Ordering::Greater => 0,
    }
}

/// Divides a segment's batches at a position that ends one, or before an offset: the tally of those up to it, and the
/// bytes of the others. Batches without records that follow that position belong below as far as `synced` reaches.
fn split_at_position(scanned: &Scanned, position: u64, synced: u64, offset: u64) -> (Option<Tally>, Vec<u8>) {
    let seed = scanned.header.seed();
    let mut tally = Tally::new(seed);
    let mut at = SEGMENT_HEADER_LEN;
    let end = scanned.end as usize;
    while at < end {
        let Ok(header) = BatchHeader::decode(&scanned.bytes[at..], seed) else { break };
        let last = header.last_position();
        let is_below = if header.record_count == 0 && last == position {
            (at + header.len()) as u64 <= synced
        } else {
            last <= position
        };
        if !is_below || at as u64 >= offset {
            break;
        }
        let mut controls = 0;
        let _ = verify_batch(&scanned.bytes[at..], &header, seed, |_, _, record| {
            controls += u64::from(matches!(record, Record::Control(_)));
        });
        tally.add(&header, &scanned.bytes[at..at + BATCH_HEADER_LEN], controls);
        at += header.len();
    }
    (Some(tally), scanned.bytes[at..end].to_vec())
}

/// An index of the batches below `end` alone.
fn index_below(scanned: &Scanned, end: u64, hash: NameHash) -> Result<Arc<ActiveIndex>> {
    if end == scanned.end {
        return Ok(scanned.index.clone());
    }
    index_of(&scanned.bytes[..end as usize], &scanned.header, &scanned.name, hash).map(|(index, _)| index)
}
