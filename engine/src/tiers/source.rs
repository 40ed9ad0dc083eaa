//! What is merged: rows of a segment's index or of a tier, in their order.

use std::cmp::Ordering;
use std::convert::Infallible;

use annals_format::index::ArchivedIndexRoot;
use annals_format::index_file::{Verified, WriteError};
use annals_format::manifest::SegmentEntry;
use annals_format::{Fault, index, tier};

use super::file::TierFile;
use super::sink::{Halt, Step};
use crate::sealed_index::SealedIndex;

/// Most inputs of one merge.
pub(super) const INPUTS_MAX: usize = 8;

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
            Rows::Segment(root) => root.key(row).map(|(hash, _)| hash),
            Rows::Tier(tier) => sure(tier.key(row)).map(|(hash, _)| hash),
        }
        .ok_or(BROKEN_ROW)
    }

    /// How many positions the key has.
    #[inline]
    pub(super) fn key_len(&self, row: u32) -> Result<u32, Fault> {
        match &self.rows {
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
            NameRows::Segment(names) => names.next().map(|found| found.name),
            NameRows::Tier(names) => sure(names.next()),
        };
        self.is_there = next.is_some();
        self.now.clear();
        self.now.extend_from_slice(next.unwrap_or_default());
        let mut front = [0; 16];
        let len = self.now.len().min(front.len());
        front[..len].copy_from_slice(&self.now[..len]);
        self.front = u128::from_be_bytes(front);
    }

    /// In the order of bytes.
    #[inline]
    pub(super) fn cmp(&self, other: &Self) -> Ordering {
        let beyond = || self.rest().cmp(other.rest()).then(self.now.len().cmp(&other.now.len()));
        self.front.cmp(&other.front).then_with(beyond)
    }

    /// Whether it stands at `name`, which began with `front`.
    #[inline]
    pub(super) fn is_at(&self, front: u128, name: &[u8]) -> bool {
        self.front == front && self.now.len() == name.len() && self.rest() == name.get(16..).unwrap_or_default()
    }

    pub(super) fn front(&self) -> u128 {
        self.front
    }

    #[inline]
    fn rest(&self) -> &[u8] {
        self.now.get(16..).unwrap_or_default()
    }
}

/// The next row of each input, by hash. Eight hashes lie in one cache line: the smallest is found faster by looking at
/// all than by a tree over them.
pub(super) struct Heads {
    hashes: [u64; INPUTS_MAX],
    rows: [u32; INPUTS_MAX],
    counts: [u32; INPUTS_MAX],
}

impl Heads {
    /// At the first row of each; `hash_of` is asked for input and row.
    pub(super) fn new(
        counts: impl IntoIterator<Item = u32>,
        hash_of: impl Fn(usize, u32) -> Result<u64, Fault>,
    ) -> Result<Self, Fault> {
        let mut heads = Self { hashes: [u64::MAX; INPUTS_MAX], rows: [0; INPUTS_MAX], counts: [0; INPUTS_MAX] };
        for (input, count) in counts.into_iter().enumerate() {
            heads.counts[input] = count;
            if count > 0 {
                heads.hashes[input] = hash_of(input, 0)?;
            }
        }
        Ok(heads)
    }

    /// The smallest hash, `None` at the end of all.
    #[inline]
    pub(super) fn lowest(&self) -> Option<u64> {
        let lowest = self.hashes.iter().fold(u64::MAX, |lowest, hash| lowest.min(*hash));
        // What is at its end has the largest hash there is; a row may have it too.
        (lowest != u64::MAX || (0..INPUTS_MAX).any(|input| self.is_at(input, lowest))).then_some(lowest)
    }

    /// Whether the next row of this input has this hash.
    #[inline]
    pub(super) fn is_at(&self, input: usize, hash: u64) -> bool {
        self.hashes[input] == hash && self.rows[input] < self.counts[input]
    }

    #[inline]
    pub(super) fn row(&self, input: usize) -> u32 {
        self.rows[input]
    }

    /// The row was taken; answers whether another follows, whose hash is then to be set.
    #[inline]
    pub(super) fn step(&mut self, input: usize) -> Option<u32> {
        self.rows[input] += 1;
        self.hashes[input] = u64::MAX;
        (self.rows[input] < self.counts[input]).then_some(self.rows[input])
    }

    #[inline]
    pub(super) fn set(&mut self, input: usize, hash: u64) {
        self.hashes[input] = hash;
    }
}
