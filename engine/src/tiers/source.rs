//! What is merged: rows of a segment's index or of a tier, in their order.

use std::convert::Infallible;

use annals_format::index::ArchivedIndexRoot;
use annals_format::index_file::{Verified, WriteError};
use annals_format::manifest::SegmentEntry;
use annals_format::{Fault, index, tier};

use super::file::TierFile;
use super::sink::{Halt, Step};
use crate::prefetch::prefetch;
use crate::sealed_index::SealedIndex;

/// Most inputs of one merge: each row is written once however many there are.
pub(super) const INPUTS_MAX: usize = 512;

/// One of the neighbours that become one.
#[derive(Clone, Copy, Debug)]
pub(super) enum MergeInput<'a> {
    Segment { index: &'a SealedIndex, entry: &'a SegmentEntry },
    Tier(&'a TierFile),
}

impl MergeInput<'_> {
    /// First and last position.
    pub(super) fn positions(&self) -> (u64, u64) {
        match self {
            Self::Segment { entry, .. } => (entry.first_position, entry.last_position),
            Self::Tier(tier) => (tier.first_position(), tier.last_position()),
        }
    }

    /// Numbers of the first and the last segment.
    pub(super) fn segments(&self) -> (u64, u64) {
        match self {
            Self::Segment { entry, .. } => (entry.number, entry.number),
            Self::Tier(tier) => (tier.entry().first_segment, tier.entry().last_segment),
        }
    }
}

enum Rows<'a> {
    Segment(&'a ArchivedIndexRoot),
    Tier(tier::Tier<'a, Verified>),
}

/// An input whose every byte was verified.
pub(super) struct Source<'a> {
    rows: Rows<'a>,
    /// What its relative positions become larger by.
    shift: u32,
    position_count: u32,
    pub(super) key_count: u32,
    pub(super) id_count: u32,
}

/// Lines that are asked for at a time.
const LINES_AHEAD: usize = 4;

const BROKEN_ROW: Fault = Fault::Structure { what: "row of an index" };

/// From a file that was verified before.
fn sure<T>(answer: Result<T, Infallible>) -> T {
    match answer {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

impl<'a> Source<'a> {
    /// Of a tier to be whose first position is `first`. The caller has seen that it spans less than 2^32 positions.
    pub(super) fn open(input: &MergeInput<'a>, first: u64, goes_on: impl Fn() -> bool) -> Step<Self> {
        let failed = |error| WriteError::Sink(Halt::Failed(error));
        let (from, to) = input.positions();
        let (shift, position_count) = ((from - first) as u32, (to + 1 - from) as u32);
        match *input {
            MergeInput::Segment { index, .. } => {
                let root = index.rows().map_err(failed)?;
                if root.first_position.to_native() != from || root.record_count() != position_count {
                    return Err(Fault::Identity { what: "positions of an index" }.into());
                }
                let (key_count, id_count) = (root.key_count(), root.id_count());
                Ok(Self { rows: Rows::Segment(root), shift, position_count, key_count, id_count })
            }
            MergeInput::Tier(file) => {
                let [key_count, id_count, ..] = file.counts().map_err(failed)?;
                let Some(tier) = file.verified(goes_on).map_err(failed)? else {
                    return Err(WriteError::Sink(Halt::Stopped));
                };
                Ok(Self { rows: Rows::Tier(tier), shift, position_count, key_count, id_count })
            }
        }
    }

    fn shifted(&self, position: u32) -> Result<u32, Fault> {
        // The sum is below the count of positions of the whole.
        if position < self.position_count { Ok(self.shift + position) } else { Err(BROKEN_ROW) }
    }

    #[inline]
    pub(super) fn key_hash(&self, row: u32) -> Result<u64, Fault> {
        match &self.rows {
            Rows::Segment(root) => root.keys.get(row as usize).map(|row| row.hash.to_native()),
            Rows::Tier(tier) => sure(tier.key(row)).map(|(hash, _)| hash),
        }
        .ok_or(BROKEN_ROW)
    }

    /// Begins to load this row of a segment's keys and those behind it. A tier has so many side by side that the processor
    /// sees to it.
    #[inline]
    pub(super) fn prefetch_key(&self, row: u32) {
        if let Rows::Segment(root) = &self.rows {
            let rows = root.keys.get(row as usize..).unwrap_or_default();
            rows.iter().step_by(4).take(LINES_AHEAD).for_each(prefetch);
        }
    }

    /// Begins to load where its positions begin.
    #[inline]
    pub(super) fn prefetch_positions(&self, row: u32) {
        if let Rows::Segment(root) = &self.rows
            && let Some(first) =
                root.keys.get(row as usize).and_then(|key| root.postings.get(key.start.to_native() as usize))
        {
            prefetch(first);
        }
    }

    /// As [`Source::prefetch_key`], of ids.
    #[inline]
    pub(super) fn prefetch_id(&self, row: u32) {
        if let Rows::Segment(root) = &self.rows {
            let rows = root.ids.get(row as usize..).unwrap_or_default();
            rows.iter().step_by(4).take(LINES_AHEAD).for_each(prefetch);
        }
    }

    /// How many positions the key has.
    #[inline]
    pub(super) fn key_len(&self, row: u32) -> Result<u32, Fault> {
        match &self.rows {
            // Not the row's own count alone: a file gets its length by it, before any of its positions is read.
            Rows::Segment(root) => root.key(row).map(|(_, positions)| positions.len() as u32),
            Rows::Tier(tier) => sure(tier.key(row)).map(|(_, positions)| positions.len()),
        }
        .ok_or(BROKEN_ROW)
    }

    /// The key's first position.
    #[inline]
    pub(super) fn key_first(&self, row: u32) -> Result<u32, Fault> {
        let first = match &self.rows {
            Rows::Segment(root) => root.key(row).and_then(|(_, positions)| Some(positions.first()?.to_native())),
            Rows::Tier(tier) => sure(tier.key(row)).and_then(|(_, mut positions)| sure(positions.seek_ge(0))),
        };
        self.shifted(first.ok_or(BROKEN_ROW)?)
    }

    /// All positions of the key, ascending.
    #[inline]
    pub(super) fn each_position(&self, row: u32, mut each: impl FnMut(u32) -> Step) -> Step {
        match &self.rows {
            Rows::Segment(root) => {
                let (_, positions) = root.key(row).ok_or(BROKEN_ROW)?;
                positions.iter().try_for_each(|position| each(self.shifted(position.to_native())?))
            }
            Rows::Tier(tier) => {
                let (_, mut positions) = sure(tier.key(row)).ok_or(BROKEN_ROW)?;
                if let Some(list) = sure(positions.list()) {
                    return list.iter().try_for_each(|position| each(self.shifted(u32::from_le_bytes(*position))?));
                }
                if !positions.is_bitmap() {
                    let one = sure(positions.seek_ge(0)).ok_or(BROKEN_ROW)?;
                    return each(self.shifted(one)?);
                }
                let mut number = 0;
                while let Some(mut word) = sure(positions.word(number)) {
                    while word != 0 {
                        each(self.shifted(number * u64::BITS + word.trailing_zeros())?)?;
                        word &= word - 1;
                    }
                    number += 1;
                }
                Ok(())
            }
        }
    }

    /// Hash of an id.
    #[inline]
    pub(super) fn id_hash(&self, row: u32) -> Result<u64, Fault> {
        match &self.rows {
            Rows::Segment(root) => root.ids.get(row as usize).map(|row| row.hash.to_native()),
            Rows::Tier(tier) => sure(tier.id(row)).map(|(hash, _)| hash),
        }
        .ok_or(BROKEN_ROW)
    }

    /// Hash and position of an id.
    #[inline]
    pub(super) fn id(&self, row: u32) -> Result<(u64, u32), Fault> {
        let found = match &self.rows {
            Rows::Segment(root) => root.id(row),
            Rows::Tier(tier) => sure(tier.id(row)),
        };
        let (hash, position) = found.ok_or(BROKEN_ROW)?;
        Ok((hash, self.shifted(position)?))
    }

    pub(super) fn names(&self, of: NamesOf) -> NameHead<'a> {
        let names = match (&self.rows, of) {
            (Rows::Segment(root), NamesOf::Streams) => NameRows::Segment(root.streams_from(b"")),
            (Rows::Segment(root), NamesOf::Types) => NameRows::Segment(root.types_from(b"")),
            (Rows::Tier(tier), NamesOf::Streams) => NameRows::Tier(sure(tier.streams_from(b""))),
            (Rows::Tier(tier), NamesOf::Types) => NameRows::Tier(sure(tier.types_from(b""))),
        };
        let mut head = NameHead { names, now: Vec::new(), front: 0, is_there: true };
        head.step();
        head
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum NamesOf {
    Streams,
    Types,
}

enum NameRows<'a> {
    Segment(index::Names<'a>),
    Tier(tier::Names<'a, Verified>),
}

/// How many rows ahead of a name memory is asked for.
const NAMES_AHEAD: usize = 6;

/// So much of a name is compared as a number.
const FRONT_LEN: usize = size_of::<u128>();

/// The next name of one input.
pub(super) struct NameHead<'a> {
    names: NameRows<'a>,
    pub(super) now: Vec<u8>,
    /// The first bytes of `now` as a number, zeros behind a short one: it decides nearly always, without a call.
    front: u128,
    pub(super) is_there: bool,
}

impl NameHead<'_> {
    pub(super) fn step(&mut self) {
        let next = match &mut self.names {
            NameRows::Segment(names) => {
                // Many inputs are read in turns, each too slowly for the processor to see to it.
                let (row, name) = names.ahead(NAMES_AHEAD);
                row.into_iter().for_each(prefetch);
                name.into_iter().for_each(prefetch);
                names.next().map(|found| found.name)
            }
            NameRows::Tier(names) => sure(names.next()),
        };
        self.is_there = next.is_some();
        self.now.clear();
        self.now.extend_from_slice(next.unwrap_or_default());
        self.front = match self.now.first_chunk() {
            None if next.is_none() => u128::MAX,
            Some(front) => u128::from_be_bytes(*front),
            None => {
                let mut front = [0; FRONT_LEN];
                front[..self.now.len()].copy_from_slice(&self.now);
                u128::from_be_bytes(front)
            }
        };
    }

    /// In the order of bytes, of those that begin alike; one at its end comes last.
    #[inline]
    pub(super) fn comes_before(&self, other: &Self) -> bool {
        let rest = || match self.now.len().max(other.now.len()) > FRONT_LEN {
            true => self.now < other.now,
            false => self.now.len() < other.now.len(),
        };
        self.is_there && (!other.is_there || rest())
    }

    #[inline]
    pub(super) fn front(&self) -> u128 {
        self.front
    }
}
