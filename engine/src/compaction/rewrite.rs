//! One segment into a container, in memory: what it holds without what was removed, in compressed blocks.
//!
//! It is walked twice, each batch verified whole: once to see what is removed and to gather samples for the dictionary, which
//! must hold nothing of what is taken out; once to compress.

use std::collections::BTreeMap;

use annals_format::Fault;
use annals_format::batch::{BATCH_HEADER_LEN, BatchHeader};
use annals_format::checksum::{Identity, Seed, crc};
use annals_format::compacted::{
    self, COMPACTED_HEADER_LEN, CompactedHeader, Encoding, REMOVED_ENTRY_LEN, RemovedTable,
};
use annals_format::content_hash;
use annals_format::manifest::{SegmentEntry, SegmentState};
use annals_format::record::{self, EventFrame};
use annals_format::residue::{self, Start};
use annals_format::segment::FinalChecksum;

use super::{CompactionOptions, Pace};
use crate::batches::{Batches, SegmentBytes, SegmentFile};
use crate::compacted::{Compressor, Container, gather, name_of};
use crate::error::Error;
use crate::event::EventRef;
use crate::options::ReadMode;
use crate::removal::{Hidden, Hiding};
use crate::segment::BatchFacts;
use crate::storage::Storage;
use crate::{Result, VERSION};

/// A dictionary is no longer than this, nor than this part of what is compressed.
const DICTIONARY_LEN: usize = 512 << 10;
const DICTIONARY_PART: u64 = 64;
const DICTIONARY_LEN_MIN: usize = 1 << 10;
/// Bytes of samples for each byte of the dictionary, and the longest sample.
const SAMPLES_PART: usize = 16;
const SAMPLE_LEN: usize = 4 << 10;
/// It is told how far it is whenever so many bytes more are done.
const STEP: u64 = 1 << 20;
/// Files take whole pages.
const PAGE: u64 = 4096;

/// What a segment is rewritten by.
pub(super) struct Basis<'a> {
    pub(super) storage: &'a dyn Storage,
    /// Nanoseconds since 1970 UTC.
    pub(super) now: u64,
    pub(super) entry: &'a SegmentEntry,
    /// What is removed by durable records.
    pub(super) hidden: Option<&'a Hidden>,
    /// Of the container.
    pub(super) generation: u64,
    pub(super) content_key: [u8; 16],
    pub(super) options: &'a CompactionOptions,
}

pub(super) enum Outcome {
    Cancelled,
    /// It would not be shorter.
    Left,
    /// It was compacted before, and nothing was removed from it since.
    OnlyLookedAt,
    Made(Box<Made>),
}

/// A container, ready to be written.
pub(super) struct Made {
    pub(super) header: CompactedHeader,
    dictionary: Vec<u8>,
    blocks: Vec<u8>,
    table: Vec<u8>,
    removed: RemovedTable,
    /// Events whose content is not there, and those of them whose content was there before.
    pub(super) removed_count: u64,
    pub(super) newly_removed: u64,
}

impl Made {
    /// The file's parts, one after the other, and the root.
    pub(super) fn parts(&self) -> ([&[u8]; 4], [u8; COMPACTED_HEADER_LEN], u32) {
        let (header, root) = self.header.encode();
        ([&self.dictionary, &self.blocks, &self.table, self.removed.bytes()], header, root)
    }
}

/// Who looks at a segment that is walked.
trait Visitor {
    /// The segment's header.
    fn page(&mut self, _: &[u8]) {}

    /// An event that is hidden, as it stood before; its content may not have been there any more.
    fn removed(&mut self, event: &EventFrame<'_>, hiding: Hiding);

    /// A batch, without the content of those events.
    fn batch(&mut self, bytes: &[u8]);

    /// The end mark, if there is one.
    fn end(&mut self, _: &[u8]) {}
}

impl Basis<'_> {
    pub(super) fn rewrite(&self, pace: &mut Pace<'_>) -> Result<Outcome> {
        let mut survey = Survey::of(self.entry, Seed::of(&self.identity()));
        if self.walk(pace, &mut survey)? {
            return Ok(Outcome::Cancelled);
        }
        let newly_removed = survey.newly_removed;
        if self.entry.compacted.is_some() && newly_removed == 0 {
            return Ok(Outcome::OnlyLookedAt);
        }
        let dictionary = survey.dictionary();
        let mut filling = Filling::new(self, dictionary)?;
        if self.walk(pace, &mut filling)? {
            return Ok(Outcome::Cancelled);
        }
        let made = filling.finish(self, newly_removed);
        let pages = |len: u64| len.next_multiple_of(PAGE);
        let gains_nothing = newly_removed == 0 && pages(made.header.file_len) >= pages(self.entry.file_len());
        if gains_nothing && !self.has_stale_tail()? {
            return Ok(Outcome::Left);
        }
        Ok(Outcome::Made(Box::new(made)))
    }

    fn identity(&self) -> Identity {
        Identity { store: self.entry.store, incarnation: self.entry.incarnation, segment: self.entry.number }
    }

    /// Whether bytes that no reader looks at stand behind the end of a segment that recovery has cut: copies of what stands in
    /// the next one, and of what may be removed there.
    fn has_stale_tail(&self) -> Result<bool> {
        if self.entry.compacted.is_some() || self.entry.state != SegmentState::Cut {
            return Ok(false);
        }
        let file = SegmentFile::open(self.storage, &name_of(self.entry))?;
        let mut bytes = vec![0; 64 << 10];
        let mut at = self.entry.end;
        loop {
            let got = file.read_at(at, &mut bytes)?;
            if bytes[..got].iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
            if got < bytes.len() {
                return Ok(false);
            }
            at += got as u64;
        }
    }

    /// Walks all of the segment, each batch verified whole; true if it was stopped.
    fn walk(&self, pace: &mut Pace<'_>, visitor: &mut impl Visitor) -> Result<bool> {
        let name = name_of(self.entry);
        let file = SegmentFile::open(self.storage, &name)?;
        let mut batches = Batches::begin(&file, &self.identity(), 0)?;
        let seed = batches.header.seed();
        visitor.page(batches.header_page()?);
        let mut batch = Vec::new();
        let mut told = 0;
        while let Some(header) = batches.next_below(self.entry.end)? {
            let at = batches.standing.at - header.len() as u64;
            batch.clear();
            batch.extend_from_slice(batches.batch()?);
            self.take_out(&mut batch, &header, seed, visitor)
                .map_err(|fault| Error::damaged(&name, at, Some(header.first_position), &fault, 0))?;
            visitor.batch(&batch);
            // Each segment is walked twice.
            let done = batches.standing.at / 2;
            if done - told >= STEP {
                if pace.pass(done - told) {
                    return Ok(true);
                }
                told = done;
            }
        }
        visitor.end(&batches.finish(self.entry)?);
        Ok(pace.pass(self.entry.end / 2 - told))
    }

    fn take_out(
        &self,
        batch: &mut [u8],
        header: &BatchHeader,
        seed: Seed,
        visitor: &mut impl Visitor,
    ) -> std::result::Result<(), Fault> {
        let Some(hidden) = self.hidden else { return Ok(()) };
        let facts = BatchFacts::from(header);
        let is_removed = |event: &EventFrame<'_>| {
            let hiding = hidden.hiding(EventRef::new(*event, facts));
            hiding.iter().for_each(|hiding| visitor.removed(event, *hiding));
            hiding.is_some()
        };
        compacted::take_out(batch, header, seed, is_removed).map(drop)
    }
}

/// The first walk: what is removed, and samples for the dictionary, taken at even distances.
struct Survey {
    dictionary_len: usize,
    distance: u64,
    passed: u64,
    seed: Seed,
    samples: Vec<u8>,
    newly_removed: u64,
}

impl Survey {
    fn of(entry: &SegmentEntry, seed: Seed) -> Self {
        let dictionary_len = DICTIONARY_LEN.min((entry.end / DICTIONARY_PART) as usize);
        let wanted = (dictionary_len * SAMPLES_PART).max(1) as u64;
        Self {
            dictionary_len,
            distance: entry.end.div_ceil(wanted),
            passed: 0,
            seed,
            samples: Vec::new(),
            newly_removed: 0,
        }
    }

    /// Empty where it would help little.
    fn dictionary(&self) -> Vec<u8> {
        if self.dictionary_len < DICTIONARY_LEN_MIN {
            return Vec::new();
        }
        gather(&self.samples, self.dictionary_len)
    }
}

impl Visitor for Survey {
    fn removed(&mut self, event: &EventFrame<'_>, _: Hiding) {
        self.newly_removed += u64::from(!event.is_compacted());
    }

    fn batch(&mut self, bytes: &[u8]) {
        // Of a batch what is left when all has been taken out that follows from the rest: as in a block.
        let mut batch = Vec::new();
        let is_wanted =
            |survey: &Self, ahead: u64| survey.samples.len() as u64 * survey.distance <= survey.passed + ahead;
        if is_wanted(self, bytes.len() as u64) {
            batch.extend_from_slice(bytes);
            let first = u64::from_le_bytes(bytes[24..32].try_into().expect("a batch has a header"));
            let start = Start { offset: 0, left: 0, position: first };
            residue::take_out(&mut batch, start, self.seed, &mut Vec::new());
        }
        for (part, len) in batch.chunks(SAMPLE_LEN).map(Some).chain(std::iter::repeat(None)).zip(lengths(bytes.len())) {
            if let Some(part) = part.filter(|_| is_wanted(self, 0)) {
                self.samples.extend_from_slice(part);
            }
            self.passed += len as u64;
        }
    }
}

/// Lengths of the parts that so many bytes are looked at in.
fn lengths(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(SAMPLE_LEN).map(move |at| SAMPLE_LEN.min(len - at))
}

/// The second walk: the blocks.
struct Filling {
    compressor: Compressor,
    dictionary: Vec<u8>,
    seed: Seed,
    content_key: [u8; 16],
    block_len: usize,
    /// What does not fill a block yet.
    pending: Vec<u8>,
    /// Where the first frame begins in each block from the one that is being filled on, as far as there are any.
    starts: BTreeMap<u32, Start>,
    stored: Vec<u8>,
    blocks: Vec<u8>,
    table: Vec<u8>,
    block_count: u32,
    stored_len: u64,
    checksum: FinalChecksum,
    /// Hashes of what was taken out before.
    kept: RemovedTable,
    removed: RemovedTable,
    removed_count: u64,
}

impl Filling {
    fn new(basis: &Basis<'_>, mut dictionary: Vec<u8>) -> Result<Self> {
        let compressor = Compressor::new(&dictionary, basis.options.level);
        if !compressor.has_dictionary() {
            dictionary.clear();
        }
        let seed = Seed::of(&basis.identity());
        let kept = match basis.entry.compacted {
            None => RemovedTable::default(),
            Some(_) => {
                let name = name_of(basis.entry);
                Container::open(basis.storage, &name, ReadMode::Pread, Some(basis.entry))?.removed()?.clone()
            }
        };
        Ok(Self {
            compressor,
            dictionary,
            seed,
            content_key: basis.content_key,
            block_len: basis.options.block_len as usize,
            pending: Vec::new(),
            starts: BTreeMap::new(),
            stored: Vec::new(),
            blocks: Vec::new(),
            table: Vec::new(),
            block_count: 0,
            stored_len: 0,
            checksum: FinalChecksum::start(seed),
            kept,
            removed: RemovedTable::default(),
            removed_count: 0,
        })
    }

    fn push(&mut self, bytes: &[u8]) {
        self.stored_len += bytes.len() as u64;
        self.pending.extend_from_slice(bytes);
        let whole = self.pending.len() - self.pending.len() % self.block_len;
        let mut pending = std::mem::take(&mut self.pending);
        pending[..whole].chunks_exact_mut(self.block_len).for_each(|block| self.block(block));
        pending.drain(..whole);
        self.pending = pending;
    }

    /// Notes where the frames of the batch that comes next begin, as far as they are the first of a block.
    fn begins_in(&mut self, batch: &[u8], first: u64) {
        self.begins(0, 0, first);
        let count = u32::from_le_bytes(batch[12..16].try_into().expect("a batch has a header"));
        let mut at = BATCH_HEADER_LEN;
        for done in 0..count {
            self.begins(at, count - done, first + u64::from(done));
            let Ok(len) = record::frame_len(batch.get(at..).unwrap_or_default()) else { return };
            at += len;
        }
    }

    /// A frame begins behind `ahead` of the bytes that come next.
    fn begins(&mut self, ahead: usize, left: u32, position: u64) {
        let at = self.stored_len + ahead as u64;
        let block_len = self.block_len as u64;
        let start = Start { offset: (at % block_len) as u32, left, position };
        self.starts.entry((at / block_len) as u32).or_insert(start);
    }

    fn block(&mut self, bytes: &mut [u8]) {
        let nowhere = Start { offset: bytes.len() as u32, left: 0, position: 0 };
        let start = self.starts.remove(&self.block_count).unwrap_or(nowhere);
        let plain = self.blocks.len();
        self.blocks.extend_from_slice(bytes);
        self.stored.clear();
        residue::take_out(bytes, start, self.seed, &mut self.stored);
        // As it was, unless it gets shorter.
        if let Some(residue) = self.compressor.compress(bytes)
            && self.stored.len() + residue.len() < bytes.len()
        {
            self.stored.extend_from_slice(residue);
            self.blocks.truncate(plain);
            self.blocks.extend_from_slice(&self.stored);
        }
        self.table.extend_from_slice(&compacted::block_entry(self.seed, self.block_count, &self.blocks[plain..]));
        self.block_count += 1;
    }

    fn finish(mut self, basis: &Basis<'_>, newly_removed: u64) -> Made {
        let mut rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            self.block(&mut rest);
        }
        let checksum = |bytes: &[u8]| crc(self.seed.raw(), bytes);
        let parts = [&self.dictionary[..], &self.blocks, &self.table, self.removed.bytes()];
        let len = COMPACTED_HEADER_LEN + parts.iter().map(|part| part.len()).sum::<usize>();
        let header = CompactedHeader {
            identity: basis.identity(),
            generation: basis.generation,
            written_by: VERSION,
            created_at: basis.now,
            segment_len: basis.entry.len,
            stored_len: self.stored_len,
            file_len: len as u64,
            encoding: Encoding::Residue,
            block_len: self.block_len as u32,
            block_count: self.block_count,
            dictionary_len: self.dictionary.len() as u32,
            dictionary_checksum: checksum(&self.dictionary),
            blocks_checksum: checksum(&self.table),
            removed_count: (self.removed.bytes().len() / REMOVED_ENTRY_LEN) as u32,
            removed_checksum: checksum(self.removed.bytes()),
            final_checksum: basis.entry.final_checksum,
            content_checksum: self.checksum.value(),
        };
        Made {
            header,
            dictionary: self.dictionary,
            blocks: self.blocks,
            table: self.table,
            removed: self.removed,
            removed_count: self.removed_count,
            newly_removed,
        }
    }
}

impl Visitor for Filling {
    fn page(&mut self, bytes: &[u8]) {
        self.push(bytes);
    }

    fn removed(&mut self, event: &EventFrame<'_>, hiding: Hiding) {
        self.removed_count += 1;
        // What was deleted is known by its id alone.
        if hiding.is_known_by_id_alone() || hiding.is_forgotten {
            return;
        }
        let position = event.position();
        let hash = match event.is_compacted() {
            true => self.kept.hash_of(position),
            false => Some(content_hash::of_event(&self.content_key, event)),
        };
        hash.into_iter().for_each(|hash| self.removed.push(position, hash));
    }

    fn batch(&mut self, bytes: &[u8]) {
        let header: &[u8; BATCH_HEADER_LEN] = bytes.first_chunk().expect("a batch has a header");
        self.checksum.add(header);
        self.begins_in(bytes, u64::from_le_bytes(header[24..32].try_into().expect("eight bytes")));
        self.push(bytes);
    }

    fn end(&mut self, bytes: &[u8]) {
        self.push(bytes);
    }
}
