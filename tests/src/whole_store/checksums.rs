//! Where the structures of a store's files stand, and how all their checksums are put right after a change.

use std::collections::{BTreeMap, BTreeSet};

use annals_format::batch::{BATCH_HEADER_LEN, BATCH_KIND, BatchHeader};
use annals_format::checksum::{Identity, Seed, crc};
use annals_format::manifest::{Manifest, SegmentEntry};
use annals_format::scan;
use annals_format::segment::{END_MARK_KIND, END_MARK_LEN, FinalChecksum, SEGMENT_HEADER_LEN};

use super::Files;
use crate::damage::kind_of;

/// A record whose checksum was made anew: if it verifies, it may be shown.
#[derive(Clone, Debug)]
pub(crate) struct Forged {
    pub(crate) file: String,
    pub(crate) offset: usize,
    pub(crate) seed: Seed,
    pub(crate) position: u64,
}

/// The structures of sound files.
pub(crate) struct Places {
    /// Batches and end marks by file; in the ring each with the seed of its segment.
    frames: BTreeMap<String, Vec<(usize, Seed)>>,
    /// Final checksums of segments, by number: wherever they stand, they are the segment's.
    finals: BTreeMap<String, u32>,
    /// Final checksums of segments as the newest manifest lists them, by number: those of one that was cut end at its cut.
    listed: BTreeMap<u64, Listed>,
    /// Where a batch was torn: its header is right, and stays so.
    torn: BTreeMap<String, usize>,
}

/// A segment as the newest manifest lists it.
#[derive(Clone, Copy)]
struct Listed {
    final_checksum: u32,
    first_position: u64,
    last_position: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes(four.try_into().expect("four bytes")))
}

fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The seed that a segment's header gives.
fn seed_of(segment: &[u8]) -> Option<Seed> {
    let part = |at: usize| segment.get(at..at + 16)?.try_into().ok();
    Some(Seed::of(&Identity { store: part(40)?, incarnation: part(56)?, segment: u64_at(segment, 72) }))
}

impl Places {
    pub(crate) fn of(files: &Files) -> Self {
        let newest = files.iter().rev().find(|(name, _)| kind_of(name) == "manifest");
        let manifest = newest.and_then(|(_, bytes)| Manifest::decode(bytes).ok());
        let segments = manifest.iter().flat_map(|manifest| &manifest.segments);
        let listed = |entry: &SegmentEntry| Listed {
            final_checksum: entry.final_checksum,
            first_position: entry.first_position,
            last_position: entry.last_position,
        };
        let listed = segments.map(|entry| (entry.number, listed(entry))).collect();
        let mut places = Self { frames: BTreeMap::new(), finals: BTreeMap::new(), listed, torn: BTreeMap::new() };
        let mut seeds = Vec::new();
        for (name, bytes) in files.iter().filter(|(name, _)| kind_of(name) == "segment") {
            let Some(seed) = seed_of(bytes) else { continue };
            seeds.push(seed);
            let (mut at, mut frames, mut sum) = (SEGMENT_HEADER_LEN, Vec::new(), FinalChecksum::start(seed));
            while let Some(rest) = bytes.get(at..) {
                match scan::next(rest, seed) {
                    Ok(scan::Step::Batch(header)) => {
                        if scan::verify_batch(rest, &header, seed, |_, _, _| {}).is_err() {
                            places.torn.insert(name.clone(), at);
                            break;
                        }
                        frames.push((at, seed));
                        sum.add(rest[..BATCH_HEADER_LEN].try_into().expect("forty bytes"));
                        at += header.len();
                    }
                    Ok(scan::Step::End(_)) => {
                        frames.push((at, seed));
                        break;
                    }
                    _ => break,
                }
            }
            places.finals.insert(name.clone(), sum.value());
            places.frames.insert(name.clone(), frames);
        }
        if let Some(ring) = files.get("RING") {
            let whole = |at: &usize, seed: Seed| {
                let Ok(header) = BatchHeader::decode(&ring[*at..], seed) else { return false };
                scan::verify_batch(&ring[*at..], &header, seed, |_, _, _| {}).is_ok()
            };
            let starts = (SEGMENT_HEADER_LEN..ring.len()).step_by(8).filter(|at| ring[at + 4] == BATCH_KIND);
            let found = starts.filter_map(|at| Some((at, *seeds.iter().find(|seed| whole(&at, **seed))?)));
            places.frames.insert("RING".to_owned(), found.collect());
        }
        places
    }

    /// Offsets at which structures of the file begin.
    pub(crate) fn starts(&self, name: &str) -> Vec<usize> {
        let headers: &[usize] = match kind_of(name) {
            "mark" => &[0, 4096],
            "ring" => &[0, 512],
            "manifest" => &[0, 128, 256, 300, 400, 512, 640],
            "index" if name.starts_with("segment-") => &[0, 128, 512, 4096],
            "index" if is_index_manifest(name) => &[0, 48, 80, 128, 168],
            "index" if is_of_consumers(name) => &[0, 64, 128, 168, 200],
            "index" => &[0, 80, 4096, 8192],
            _ => &[0, 0, 100],
        };
        let frames = self.frames.get(name).map_or(&[][..], Vec::as_slice);
        headers.iter().copied().chain(frames.iter().map(|(at, _)| *at)).collect()
    }

    /// Writes zeros over every checksum that [`Places::put_right`] makes.
    pub(crate) fn clear(&self, files: &mut Files) {
        let names: BTreeSet<String> = files.keys().cloned().collect();
        // An older list may name what is gone: of that nobody can tell the root again.
        let is_there = |name: String| names.contains(&name);
        for (name, bytes) in files.iter_mut() {
            for slot in slots(name, bytes) {
                set_u32(bytes, slot + 16, 0);
            }
            if is_segment_index(name, bytes) {
                set_u32(bytes, 88, 0);
            }
            if is_block_file(name, bytes) {
                set_u32(bytes, 104, 0);
                set_u32(bytes, 108, 0);
                let table = table_of(bytes);
                bytes[table].fill(0);
            }
            if is_index_manifest(name) {
                for at in tier_entries(bytes) {
                    if is_there(format!("tier-{:020}.idx", u64_at(bytes, at))) {
                        set_u32(bytes, at + 56, 0);
                    }
                }
                for at in directory_entries(bytes) {
                    if is_there(format!("streams-{:020}.idx", u64_at(bytes, at))) {
                        set_u32(bytes, at + 40, 0);
                    }
                }
            }
            for (at, _) in self.frames.get(name).into_iter().flatten() {
                set_u32(bytes, *at, 0);
                match bytes[at + 4] {
                    BATCH_KIND => {
                        set_u32(bytes, at + 16, 0);
                        let mut starts: Vec<usize> = records(bytes, *at).map(|(at, _)| at).collect();
                        starts.extend(sections(bytes, *at));
                        starts.into_iter().for_each(|at| set_u32(bytes, at, 0));
                    }
                    _ => set_u32(bytes, at + 12, 0),
                }
            }
        }
    }

    /// Puts right all checksums of all structures that can be found, and the final checksums wherever they are named.
    /// Answers the records that may be shown for it.
    pub(crate) fn put_right(&self, files: &mut Files) -> Vec<Forged> {
        let mut forged = Vec::new();
        let mut finals = Vec::new();
        for (name, bytes) in files.iter_mut() {
            let known = self.frames.get(name).map_or(&[][..], Vec::as_slice);
            if kind_of(name) != "segment" {
                for (at, seed) in known {
                    fix_frame(name, bytes, *at, *seed, &mut forged);
                }
                continue;
            }
            let Some(seed) = seed_of(bytes) else { continue };
            let (mut at, mut sum) = (SEGMENT_HEADER_LEN, FinalChecksum::start(seed));
            let mut known = known.iter().map(|(at, _)| *at).peekable();
            // On as the batches claim to stand; where that leads nowhere, on with the next known one.
            let mut is_chain = true;
            loop {
                while known.next_if(|start| *start <= at).is_some() {}
                if is_chain && bytes.get(at + 4) == Some(&END_MARK_KIND) {
                    set_u32(bytes, at + 12, sum.value());
                }
                let is_torn = self.torn.get(name) == Some(&at);
                match (!is_torn).then(|| fix_frame(name, bytes, at, seed, &mut forged)).flatten() {
                    Some(len) => {
                        if is_chain && let Some(header) = bytes.get(at..at + BATCH_HEADER_LEN) {
                            sum.add(header.try_into().expect("forty bytes"));
                        }
                        at += len;
                    }
                    None => {
                        is_chain = false;
                        let Some(next) = known.next() else { break };
                        at = next;
                    }
                }
            }
            if let Some(before) = self.finals.get(name) {
                finals.push((*before, sum.value()));
            }
        }
        for (name, bytes) in files.iter_mut() {
            relink(name, bytes, &finals);
            fix_headers(name, bytes);
        }
        let after = |before: u32| finals.iter().find(|(of, _)| *of == before).map_or(before, |(_, after)| *after);
        let listed = self.listed.iter();
        let now = |before: &Listed| Listed { final_checksum: after(before.final_checksum), ..*before };
        fix_block_files(files, &listed.map(|(number, before)| (*number, now(before))).collect());
        forged
    }
}

/// The whole index of a segment; not what is left of it when a tier covers the segment.
fn is_segment_index(name: &str, bytes: &[u8]) -> bool {
    kind_of(name) == "index" && name.starts_with("segment-") && !is_places(name, bytes)
}

fn is_places(name: &str, bytes: &[u8]) -> bool {
    name.starts_with("segment-") && bytes.starts_with(b"ANNALIXF")
}

/// Tiers, directories, places: header, blocks, table of checksums.
fn is_block_file(name: &str, bytes: &[u8]) -> bool {
    name.starts_with("tier-") || name.starts_with("streams-") || is_places(name, bytes)
}

fn is_of_consumers(name: &str) -> bool {
    name.starts_with("consumers-")
}

fn is_index_manifest(name: &str) -> bool {
    name.starts_with("INDEX-")
}

/// Where the table of a file's checksums lies, as far as the file reaches.
fn table_of(file: &[u8]) -> std::ops::Range<usize> {
    let start = usize::try_from(u64_at(file, 96)).unwrap_or(usize::MAX).saturating_add(4096).min(file.len());
    start..file.len()
}

/// Offsets of the entries of tiers in an index manifest.
fn tier_entries(manifest: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let room = manifest.len().saturating_sub(128) / 64;
    (0..room.min(u32_at(manifest, 80) as usize)).map(|entry| 128 + entry * 64)
}

/// Offsets of the entries of directories in an index manifest.
fn directory_entries(manifest: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let start = 128 + tier_entries(manifest).count() * 64;
    let room = manifest.len().saturating_sub(start) / 48;
    (0..room.min(u32_at(manifest, 84) as usize)).map(move |entry| start + entry * 48)
}

fn covered_checksum<'a>(segments: impl Iterator<Item = &'a Listed>) -> u32 {
    crc(0, &segments.flat_map(|segment| segment.final_checksum.to_le_bytes()).collect::<Vec<u8>>())
}

/// The checksums of tiers and directories, from their blocks up to the index manifests that name them.
fn fix_block_files(files: &mut Files, listed: &BTreeMap<u64, Listed>) {
    let mut roots = BTreeMap::new();
    let mut covered = BTreeMap::new();
    for (_, bytes) in files.iter().filter(|(name, _)| is_index_manifest(name)) {
        for at in tier_entries(bytes) {
            let within = u64_at(bytes, at + 8)..=u64_at(bytes, at + 16);
            let of_segments = listed.iter().filter(|(number, _)| within.contains(number)).map(|(_, segment)| segment);
            covered.insert(format!("tier-{:020}.idx", u64_at(bytes, at)), covered_checksum(of_segments));
        }
        let mut after = 0;
        for at in directory_entries(bytes) {
            let coverage = u64_at(bytes, at + 8);
            let is_within = |segment: &&Listed| {
                segment.first_position > after
                    && segment.last_position <= coverage
                    && segment.last_position >= segment.first_position
            };
            let of_segments = listed.values().filter(is_within);
            covered.insert(format!("streams-{:020}.idx", u64_at(bytes, at)), covered_checksum(of_segments));
            after = coverage;
        }
    }
    let of_segment = |(number, segment): (&u64, &Listed)| (format!("segment-{number:020}.idx"), segment.final_checksum);
    covered.extend(listed.iter().map(of_segment));
    for (name, bytes) in files.iter_mut().filter(|(name, bytes)| is_block_file(name, bytes)) {
        let table = table_of(bytes);
        let sums: Vec<u8> = match bytes.get(4096..table.start) {
            Some(archive) => archive.chunks(16_384).flat_map(|block| crc(0, block).to_le_bytes()).collect(),
            None => Vec::new(),
        };
        for (place, byte) in bytes[table.clone()].iter_mut().zip(&sums) {
            *place = *byte;
        }
        if let Some(checksum) = covered.get(name) {
            set_u32(bytes, 104, *checksum);
        }
        let checksum = crc(0, &bytes[table]);
        set_u32(bytes, 108, checksum);
        fix_headers(name, bytes);
        roots.insert(name.clone(), u32_at(bytes, 16));
    }
    for (name, bytes) in files.iter_mut().filter(|(name, _)| is_index_manifest(name)) {
        for at in tier_entries(bytes) {
            if let Some(root) = roots.get(&format!("tier-{:020}.idx", u64_at(bytes, at))) {
                set_u32(bytes, at + 56, *root);
            }
        }
        for at in directory_entries(bytes) {
            if let Some(root) = roots.get(&format!("streams-{:020}.idx", u64_at(bytes, at))) {
                set_u32(bytes, at + 40, *root);
            }
        }
        fix_headers(name, bytes);
    }
}

/// Offsets of the structures with a header's checksum at 16.
fn slots(name: &str, bytes: &[u8]) -> Vec<usize> {
    let slots: &[usize] = match kind_of(name) {
        "mark" => &[0, 4096],
        "ring" => &[0, 512],
        _ => &[0],
    };
    slots.iter().copied().filter(|at| u64_at(bytes, *at) != 0).collect()
}

fn fix_headers(name: &str, bytes: &mut [u8]) {
    let (seed, len) = match kind_of(name) {
        "segment" => (seed_of(bytes).map_or(0, Seed::raw), 4096),
        "manifest" => (0, usize::MAX),
        _ if is_index_manifest(name) || is_of_consumers(name) => (0, usize::MAX),
        _ if is_block_file(name, bytes) => (0, 4096),
        _ => (0, 128),
    };
    if is_segment_index(name, bytes)
        && let Some(archive) = bytes.get(128..)
    {
        let checksum = crc(0, archive);
        set_u32(bytes, 88, checksum);
    }
    for slot in slots(name, bytes) {
        let end = slot.saturating_add(len).min(bytes.len());
        let seed = seed ^ u32_at(bytes, slot + 8) ^ 1;
        if let Some(covered) = bytes.get(slot + 20..end) {
            let checksum = crc(seed, covered);
            set_u32(bytes, slot + 16, checksum);
        }
    }
}

/// Final checksums that changed, changed wherever they are named.
fn relink(name: &str, bytes: &mut [u8], finals: &[(u32, u32)]) {
    let range = match kind_of(name) {
        "segment" => 128..132,
        "index" if is_segment_index(name, bytes) => 64..68,
        "index" if is_of_consumers(name) => 96..100,
        "manifest" => 256..bytes.len(),
        _ => return,
    };
    for at in range.step_by(4) {
        if let Some((_, after)) = finals.iter().find(|(before, _)| *before == u32_at(bytes, at)) {
            set_u32(bytes, at, *after);
        }
    }
}

/// Offsets of the records of the batch at `batch`, as far as they can be told, with their positions.
fn records(bytes: &[u8], batch: usize) -> impl Iterator<Item = (usize, u64)> {
    let (count, first) = (u32_at(bytes, batch + 12), u64_at(bytes, batch + 24));
    let end = (batch + BATCH_HEADER_LEN).saturating_add(u32_at(bytes, batch + 8) as usize).min(bytes.len());
    let mut at = batch + BATCH_HEADER_LEN;
    (0..u64::from(count)).map_while(move |n| {
        let len = (u32_at(bytes, at + 4) as usize).next_multiple_of(8);
        let here = at;
        at += len;
        (len >= 24 && at <= end).then(|| (here, first.wrapping_add(n)))
    })
}

/// Offsets of the sections of the batch at `batch`, as far as they can be told, if it says that there are some.
fn sections(bytes: &[u8], batch: usize) -> impl Iterator<Item = usize> {
    let end = (batch + BATCH_HEADER_LEN).saturating_add(u32_at(bytes, batch + 8) as usize).min(bytes.len());
    let last = records(bytes, batch).last().map(|(at, _)| at);
    let mut at = last.map_or(batch + BATCH_HEADER_LEN, |at| at + (u32_at(bytes, at + 4) as usize).next_multiple_of(8));
    let has_sections = bytes.get(batch + 5).is_some_and(|flags| flags & 4 != 0);
    std::iter::from_fn(move || {
        let here = at;
        let len = (u32_at(bytes, here + 4) as usize).next_multiple_of(8);
        at = here.saturating_add(len);
        (has_sections && len >= 16 && at <= end).then_some(here)
    })
}

/// Puts right a batch or end mark; answers the batch's length if it lies in the file.
fn fix_frame(name: &str, bytes: &mut [u8], at: usize, seed: Seed, forged: &mut Vec<Forged>) -> Option<usize> {
    match *bytes.get(at + 4)? {
        END_MARK_KIND => {
            let checksum = crc(seed.batch(), bytes.get(at + 4..at + END_MARK_LEN)?);
            set_u32(bytes, at, checksum);
            None
        }
        BATCH_KIND => {
            let found: Vec<(usize, u64)> = records(bytes, at).collect();
            let mut checksums = Vec::with_capacity(4 * found.len());
            for (offset, position) in found {
                let len = (u32_at(bytes, offset + 4) as usize).next_multiple_of(8);
                let checksum = crc(seed.record(position), &bytes[offset + 4..offset + len]);
                set_u32(bytes, offset, checksum);
                checksums.extend_from_slice(&checksum.to_le_bytes());
                forged.push(Forged { file: name.to_owned(), offset, seed, position });
            }
            let found: Vec<usize> = sections(bytes, at).collect();
            let position = u64_at(bytes, at + 24);
            for offset in found {
                let len = (u32_at(bytes, offset + 4) as usize).next_multiple_of(8);
                let checksum = crc(seed.section(position), &bytes[offset + 4..offset + len]);
                set_u32(bytes, offset, checksum);
                checksums.extend_from_slice(&checksum.to_le_bytes());
            }
            set_u32(bytes, at + 16, crc(seed.batch(), &checksums));
            let checksum = crc(seed.batch(), bytes.get(at + 4..at + BATCH_HEADER_LEN)?);
            set_u32(bytes, at, checksum);
            let len = BATCH_HEADER_LEN.saturating_add(u32_at(bytes, at + 8) as usize);
            at.checked_add(len).filter(|end| *end <= bytes.len()).map(|_| len)
        }
        _ => None,
    }
}
