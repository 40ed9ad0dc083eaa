//! What is left of a store: which segments its log was made of, as far as anything tells.

use std::cell::Cell;

use annals_format::Fault;
use annals_format::checksum::Identity;
use annals_format::manifest::{DurabilityKind, IncarnationEntry, Limits, Manifest, SegmentEntry};
use annals_format::segment::{SEGMENT_HEADER_LEN, SegmentHeader};

use crate::batches::{SegmentBytes, SegmentFile};
use crate::compacted;
use crate::error::Error;
use crate::made_id::random_bytes;
use crate::mark::MarkFile;
use crate::options::SystemClock;
use crate::prepare::{container_of, segment_file_name, segment_name, segment_numbers};
use crate::recovery::list;
use crate::recovery::ring_image::RingFile;
use crate::storage::Storage;
use crate::{Clock, Result, VERSION, manifest};

/// A segment's file, of which blocks may be unreadable: those read as zeros, which verify nowhere.
pub(super) struct Patient {
    file: SegmentFile,
    pub(super) unreadable: Cell<u64>,
}

const BLOCK: usize = 4096;

impl Patient {
    pub(super) fn open(storage: &dyn Storage, name: &str) -> Result<Self> {
        Ok(Self { file: SegmentFile::open(storage, name)?, unreadable: Cell::new(0) })
    }
}

impl SegmentBytes for Patient {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if let Ok(got) = self.file.read_at(offset, buffer) {
            return Ok(got);
        }
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            // Up to the next border of a block, so that one that is bad costs no other.
            let step = (BLOCK - (at % BLOCK as u64) as usize).min(buffer.len() - done);
            let part = &mut buffer[done..done + step];
            match self.file.read_at(at, part) {
                Ok(got) if got < step => return Ok(done + got),
                Ok(_) => {}
                Err(_) => {
                    part.fill(0);
                    self.unreadable.set(self.unreadable.get() + step as u64);
                }
            }
            done += step;
        }
        Ok(done)
    }

    fn place(&self, offset: u64) -> (String, u64) {
        self.file.place(offset)
    }
}

/// One segment of the log.
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) identity: Identity,
    /// What the manifest says of it.
    pub(super) entry: Option<SegmentEntry>,
    /// The position that it begins with, if that is known.
    pub(super) first_position: Option<u64>,
    /// Log offset of its first byte, if its header is readable.
    pub(super) base: Option<u64>,
    /// Only batches before this position count: from it on a later segment holds them.
    pub(super) superseded_from: u64,
}

/// All that is known of a store before its segments are read.
pub(super) struct Rubble {
    pub(super) manifest: Manifest,
    pub(super) candidates: Vec<Candidate>,
    pub(super) ring: Option<RingFile>,
    /// The last position that was once known to be durable, as far as mark and manifest tell.
    pub(super) known_durable: u64,
    pub(super) notices: Vec<String>,
}

impl Rubble {
    pub(super) fn survey(storage: &dyn Storage) -> Result<Self> {
        let names = list(storage)?;
        let numbers = segment_numbers(&names);
        let mut notices = Vec::new();
        let (found, is_newest) = newest_manifest(storage, &names, &mut notices)?;
        if found.is_none() && numbers.is_empty() {
            let reason = "it holds neither a manifest nor a segment".to_owned();
            return Err(Error::NotAStore { path: "the directory".to_owned(), reason });
        }
        let mark = match MarkFile::read(storage) {
            Ok(found) => {
                notices.extend(found.notices);
                found.newest
            }
            Err(error @ Error::Unsupported { .. }) => return Err(error),
            Err(error) => {
                notices.push(error.to_string());
                None
            }
        };
        let is_current = is_newest
            && mark
                .as_ref()
                .is_none_or(|mark| found.as_ref().is_some_and(|m| m.generation >= mark.manifest_generation));
        let mut candidates: Vec<Candidate> =
            found.iter().flat_map(|manifest| &manifest.segments).map(|entry| listed(storage, &names, entry)).collect();
        let after = candidates.last().map_or(0, |last| last.identity.segment);
        for number in numbers.into_iter().filter(|number| *number > after) {
            candidates.extend(unlisted(storage, number, found.as_ref(), is_current, &mut notices)?);
        }
        supersede(&mut candidates);
        let manifest = match found {
            Some(manifest) => manifest,
            None => {
                notices.push("the manifest is lost: settings are the defaults".to_owned());
                lone_manifest(&candidates)?
            }
        };
        let ring = match RingFile::open(storage, manifest.store) {
            Ok(Ok(ring)) => Some(ring),
            Ok(Err(notice)) => {
                notices.push(notice);
                None
            }
            Err(error @ Error::Unsupported { .. }) => return Err(error),
            Err(error) => {
                notices.push(error.to_string());
                None
            }
        };
        let mark = mark.filter(|mark| mark.store == manifest.store);
        let known_durable = mark.map_or(0, |mark| mark.position);
        let known_durable = manifest.segments.last().map_or(0, |entry| entry.last_position).max(known_durable);
        Ok(Self { manifest, candidates, ring, known_durable, notices })
    }

    /// Length of all segments' files.
    pub(super) fn len(&self, storage: &dyn Storage) -> u64 {
        let len = |candidate: &Candidate| SegmentFile::open(storage, &candidate.name).map_or(0, |file| file.len());
        self.candidates.iter().map(len).sum()
    }
}

/// The newest manifest that verifies, and whether it is the newest there is.
fn newest_manifest(
    storage: &dyn Storage,
    names: &[String],
    notices: &mut Vec<String>,
) -> Result<(Option<Manifest>, bool)> {
    let mut generations: Vec<u64> = names.iter().filter_map(|name| manifest::generation_of(name)).collect();
    generations.sort_unstable_by(|left, right| right.cmp(left));
    for (index, generation) in generations.into_iter().enumerate() {
        match manifest::load(storage, generation) {
            Ok(manifest) => return Ok((Some(manifest), index == 0)),
            Err(error @ Error::Unsupported { .. }) => return Err(error),
            Err(error) => notices.push(error.to_string()),
        }
    }
    Ok((None, false))
}

fn header_of(storage: &dyn Storage, name: &str) -> Result<std::result::Result<Option<SegmentHeader>, Fault>> {
    let file = Patient::open(storage, name)?;
    let mut page = vec![0; SEGMENT_HEADER_LEN];
    let got = file.read_at(0, &mut page)?;
    page.truncate(got);
    let header = SegmentHeader::decode(&page);
    if let Err(fault @ Fault::Unsupported { .. }) = &header {
        return Err(Error::damaged(name, 0, None, fault, 0));
    }
    Ok(header)
}

fn listed(storage: &dyn Storage, names: &[String], entry: &SegmentEntry) -> Candidate {
    let name = file_of(names, entry);
    let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
    let header = header_of(storage, &name).ok().and_then(|header| header.ok().flatten());
    Candidate {
        name,
        identity,
        entry: Some(entry.clone()),
        first_position: Some(entry.first_position),
        base: header.filter(|header| header.identity == identity).map(|header| header.base),
        superseded_from: u64::MAX,
    }
}

/// The file that holds a listed segment: where it is gone, because an older manifest is all that is left, what compaction
/// put in its place.
fn file_of(names: &[String], entry: &SegmentEntry) -> String {
    let name = compacted::name_of(entry);
    if names.contains(&name) {
        return name;
    }
    let containers = names.iter().filter_map(|name| container_of(name)).filter(|(number, _)| *number == entry.number);
    let newest = containers.map(|(_, generation)| generation).max();
    newest.map_or(name, |generation| segment_file_name(entry.number, generation))
}

/// A segment that no manifest lists. While the manifest is the newest there was, only what its newest incarnation wrote is
/// part of the log.
fn unlisted(
    storage: &dyn Storage,
    number: u64,
    manifest: Option<&Manifest>,
    is_current: bool,
    notices: &mut Vec<String>,
) -> Result<Option<Candidate>> {
    let name = segment_name(number);
    let newest = manifest.and_then(|manifest| manifest.incarnations.last()).map(|entry| entry.incarnation);
    let of_store = |header: &SegmentHeader| manifest.is_none_or(|manifest| header.identity.store == manifest.store);
    let of_opening = |header: &SegmentHeader| !is_current || Some(header.identity.incarnation) == newest;
    let candidate = |identity, first_position, base| Candidate {
        name: name.clone(),
        identity,
        entry: None,
        first_position,
        base,
        superseded_from: u64::MAX,
    };
    Ok(match header_of(storage, &name) {
        Ok(Ok(Some(header))) if header.identity.segment != number => {
            notices.push(format!("{name} is a copy of segment {}; it is passed over", header.identity.segment));
            None
        }
        Ok(Ok(Some(header))) if of_store(&header) && of_opening(&header) => {
            Some(candidate(header.identity, Some(header.first_position), Some(header.base)))
        }
        Ok(Ok(Some(_))) => {
            notices.push(format!("{name} is no part of the log"));
            None
        }
        // Made ahead and not begun, or its header is only in the ring, or lost.
        Ok(header) => {
            if let Err(fault) = header {
                notices.push(format!("{name}: {fault}"));
            }
            let guess = manifest.zip(newest).map(|(manifest, incarnation)| Identity {
                store: manifest.store,
                incarnation,
                segment: number,
            });
            guess.map(|identity| candidate(identity, None, None))
        }
        Err(error @ Error::Unsupported { .. }) => return Err(error),
        Err(error) => {
            notices.push(error.to_string());
            None
        }
    })
}

/// A segment that begins with a position holds it and all after it, whatever an earlier one still has.
fn supersede(candidates: &mut [Candidate]) {
    let mut from = u64::MAX;
    for candidate in candidates.iter_mut().rev() {
        candidate.superseded_from = from;
        from = from.min(candidate.first_position.unwrap_or(u64::MAX));
    }
}

/// What stands for the manifest of a store that lost it.
fn lone_manifest(candidates: &[Candidate]) -> Result<Manifest> {
    let last = candidates.last().map(|candidate| candidate.identity);
    let mut incarnations: Vec<IncarnationEntry> = Vec::new();
    let mut first_position = 1;
    for candidate in candidates {
        first_position = candidate.first_position.unwrap_or(first_position).max(first_position);
        let incarnation = candidate.identity.incarnation;
        if incarnations.last().is_none_or(|entry| entry.incarnation != incarnation) {
            incarnations.push(IncarnationEntry { incarnation, first_position });
        }
    }
    if incarnations.is_empty() {
        incarnations.push(IncarnationEntry { incarnation: random_bytes()?, first_position: 1 });
    }
    Ok(Manifest {
        store: last.map_or_else(random_bytes, |identity| Ok(identity.store))?,
        generation: 1,
        written_by: VERSION,
        default_durability: DurabilityKind::Durable,
        removal_forbidden: false,
        name_hash_seed: u64::from_le_bytes(random_bytes()?[..8].try_into().expect("eight bytes")),
        content_hash_key: random_bytes()?,
        created_at: SystemClock.now(),
        segment_len_max: 64 << 20,
        quota_bytes: None,
        limits: Limits::default(),
        next_segment: last.map_or(1, |identity| identity.segment + 1),
        incarnations,
        segments: Vec::new(),
        ancestors: Vec::new(),
        lost: Vec::new(),
        snapshots: Vec::new(),
    })
}
