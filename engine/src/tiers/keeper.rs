//! Tiers made, listed and removed, in the order that survives a crash: the file first, then the index manifest that names
//! it, then the list in memory, and last the files that are named no more.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use annals_format::index_manifest::{IndexManifest, TierEntry};
use annals_format::manifest::{Manifest, SegmentEntry};

use super::choose::{Fan, UnitSize, choose_merge};
use super::file::TierFile;
use super::list::Tiers;
use super::merge::{MergePlan, merge};
use super::source::{INPUTS_MAX, MergeInput};
use super::stored::{expected, remove, save, tier_name};
use crate::directory::sealed_index;
use crate::error::Error;
use crate::options::ReadMode;
use crate::sealed_index::SealedIndex;
use crate::segment::Segment;
use crate::storage::Storage;
use crate::{Result, VERSION};

/// Whoever keeps tiers and directory of a store that is open for writing. One thread at a time.
#[derive(Debug)]
pub(crate) struct TierKeeper {
    /// As last written, less what was found unusable since.
    pub(super) index: IndexManifest,
    pub(super) mode: ReadMode,
    /// First and last segments of what could not be merged: not tried again before the next opening.
    refused: Vec<(u64, u64)>,
    /// From which coverage the directory could not be written on: not tried again before the next opening.
    pub(super) refused_directory: Option<u64>,
    /// How often files of the directory were dropped: on a disk that damages what it is given they are not made for ever.
    pub(super) directory_drops: u32,
    /// The newest index manifest on disk names what is not used any more.
    pub(super) is_stale: bool,
}

/// What a merge is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    /// Neighbours that are enough of one size.
    BySize,
    /// The same while more come: more of one size at once.
    WhileMoreCome,
    /// Whatever no tier covers.
    Rest,
    /// Neighbours that are enough of one size, among the newest that have no more positions than these together.
    Little(u64),
}

/// The tiers that hold from now on. Put them in place, then [remove](Replaced::remove_files) the files of those before.
#[derive(Debug)]
#[must_use]
pub(crate) struct Replaced {
    pub(crate) tiers: Tiers,
    removed: Vec<String>,
}

impl Replaced {
    /// Readers keep the maps of the files that they hold.
    ///
    /// # Errors
    /// `Io`; what is left is removed at the next opening.
    pub(crate) fn remove_files(&self, storage: &dyn Storage) -> Result<()> {
        self.removed.iter().try_for_each(|name| remove(storage, name))
    }
}

/// A tier, or a listed segment that none covers; its index, if that is a file.
enum Neighbour<'a> {
    /// How many segments it covers is not told by their numbers, which have gaps.
    Tier(&'a Arc<TierFile>, u64),
    Segment(&'a SegmentEntry, Option<Arc<SealedIndex>>),
}

impl Neighbour<'_> {
    fn size(&self) -> UnitSize {
        match self {
            Self::Tier(tier, segments) => {
                let entry = tier.entry();
                UnitSize {
                    segments: *segments,
                    positions: entry.last_position + 1 - entry.first_position,
                    len: entry.len,
                    merges: !tier.is_broken(),
                }
            }
            Self::Segment(entry, index) => UnitSize {
                segments: 1,
                positions: entry.last_position + 1 - entry.first_position,
                len: index.as_ref().map_or(0, |index| index.len()),
                merges: index.is_some(),
            },
        }
    }

    fn segments(&self) -> (u64, u64) {
        match self {
            Self::Tier(tier, _) => (tier.entry().first_segment, tier.entry().last_segment),
            Self::Segment(entry, _) => (entry.number, entry.number),
        }
    }

    fn input(&self) -> Option<MergeInput<'_>> {
        match self {
            Self::Tier(tier, _) => Some(MergeInput::Tier(tier)),
            Self::Segment(entry, index) => Some(MergeInput::Segment { index: index.as_deref()?, entry }),
        }
    }
}

impl TierKeeper {
    /// Goes on from what an opening [loaded](super::load).
    pub(crate) fn new(index: IndexManifest, mode: ReadMode, is_stale: bool) -> Self {
        Self { index, mode, refused: Vec::new(), refused_directory: None, directory_drops: 0, is_stale }
    }

    /// Tries again what was refused before: the files that it was made of are being made anew.
    pub(crate) fn try_all_again(&mut self) {
        self.refused.clear();
        self.refused_directory = None;
        self.directory_drops = 0;
    }

    /// Whether there is something to [drop](TierKeeper::drop_broken).
    pub(crate) fn must_drop(&self, tiers: &Tiers) -> bool {
        self.is_stale || tiers.iter().any(|tier| tier.is_broken())
    }

    /// Generation of the newest index manifest.
    #[cfg(test)]
    pub(crate) fn generation(&self) -> u64 {
        self.index.generation
    }

    /// Whether a merge is due. Looks at every listed segment, some nanoseconds each.
    #[cfg(test)]
    pub(crate) fn is_due(&self, tiers: &Tiers, segments: &[Arc<Segment>], store: &Manifest) -> bool {
        let neighbours = neighbours(tiers, segments, &store.segments);
        self.choose(&neighbours, Due::BySize).is_some()
    }

    fn choose(&self, neighbours: &[Neighbour<'_>], due: Due) -> Option<std::ops::Range<usize>> {
        if due == Due::Rest {
            let is_rest = |neighbour: &Neighbour<'_>| {
                matches!(neighbour, Neighbour::Segment(_, Some(_))) && !self.is_refused(neighbour.segments())
            };
            let first = neighbours.iter().position(is_rest)?;
            let count = neighbours[first..].iter().take(INPUTS_MAX).take_while(|neighbour| is_rest(neighbour)).count();
            return Some(first..first + count);
        }
        let sizes: Vec<UnitSize> = neighbours
            .iter()
            .map(|neighbour| {
                let size = neighbour.size();
                UnitSize { merges: size.merges && !self.is_refused(neighbour.segments()), ..size }
            })
            .collect();
        let from = if let Due::Little(most) = due { newest_of(&sizes, most) } else { 0 };
        let fan = if due == Due::WhileMoreCome { Fan::Wide } else { Fan::Ordinary };
        choose_merge(&sizes[from..], fan).map(|chosen| chosen.start + from..chosen.end + from)
    }

    fn is_refused(&self, (first, last): (u64, u64)) -> bool {
        self.refused.iter().any(|range| first <= range.1 && last >= range.0)
    }

    /// Makes one tier of the neighbours whose turn it is. `None`: none are, or `stop` was set meanwhile.
    ///
    /// `store` is the store's manifest; only segments that it lists are covered. `pace` is told of every piece written, in
    /// bytes, and may take its time; `stop` is looked at every few thousand rows.
    ///
    /// # Errors
    /// `NoSpace` and `Io`: nothing has changed, try again later. Anything else: an input could not be merged; if it was
    /// a tier, [`TierKeeper::drop_broken`] drops it, else this range is not tried again.
    pub(crate) fn merge_next(
        &mut self,
        storage: &dyn Storage,
        tiers: &Tiers,
        segments: &[Arc<Segment>],
        store: &Manifest,
        (due, stop): (Due, &AtomicBool),
        pace: &mut dyn FnMut(u64),
    ) -> Result<Option<Replaced>> {
        let neighbours = neighbours(tiers, segments, &store.segments);
        let Some(range) = self.choose(&neighbours, due) else { return Ok(None) };
        let inputs: Vec<MergeInput<'_>> = neighbours[range.clone()].iter().filter_map(Neighbour::input).collect();
        let (first, last) = (neighbours[range.start].segments().0, neighbours[range.end - 1].segments().1);
        let covered: Vec<SegmentEntry> =
            store.segments.iter().filter(|entry| (first..=last).contains(&entry.number)).cloned().collect();
        let plan = MergePlan {
            storage,
            expected: expected(store, &covered),
            number: self.index.next_file,
            generation: self.index.generation + 1,
            inputs: &inputs,
        };
        let entry = match merge(&plan, pace, stop) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(None),
            Err(error) => {
                let passing = matches!(error, Error::NoSpace { .. } | Error::Io { .. });
                if !passing && !tiers.iter().any(|tier| tier.is_broken()) {
                    self.refused.push((first, last));
                }
                return Err(error);
            }
        };
        let made = Arc::new(TierFile::listed(storage, &entry, plan.expected, self.mode)?);
        let is_input = |of: &TierEntry| of.first_segment >= first && of.last_segment <= last;
        self.replace(storage, tiers, is_input, Some(made)).map(Some).inspect_err(|_| {
            // Nothing uses it; an index manifest that names it all the same is met with a notice, also where another file
            // has got its number: the root is another.
            let _ = remove(storage, &tier_name(entry.number));
        })
    }

    /// Takes tiers with these numbers, with which something is wrong, off the list; merges then make them again. `None`: there is
    /// none, and none that the index manifest on disk names.
    ///
    /// The caller has seen that what they alone hold is known elsewhere. One that breaks meanwhile is for the next call.
    ///
    /// # Errors
    /// `NoSpace` or `Io`: they stay on the list, where nobody asks them.
    pub(crate) fn drop_broken(
        &mut self,
        storage: &dyn Storage,
        tiers: &Tiers,
        broken: &[u64],
    ) -> Result<Option<Replaced>> {
        if broken.is_empty() && !self.is_stale {
            return Ok(None);
        }
        self.replace(storage, tiers, |entry| broken.contains(&entry.number), None).map(Some)
    }

    /// Writes the index manifest once more as it is.
    ///
    /// # Errors
    /// `NoSpace` or `Io`: the one before holds.
    pub(crate) fn renew(&mut self, storage: &dyn Storage) -> Result<()> {
        let next = IndexManifest { generation: self.index.generation + 1, written_by: VERSION, ..self.index.clone() };
        save(storage, &next)?;
        self.is_stale = false;
        self.index = next;
        Ok(())
    }

    /// Writes the index manifest without those that `is_gone` and with the one that was made.
    fn replace(
        &mut self,
        storage: &dyn Storage,
        tiers: &Tiers,
        is_gone: impl Fn(&TierEntry) -> bool,
        made: Option<Arc<TierFile>>,
    ) -> Result<Replaced> {
        let mut kept: Vec<Arc<TierFile>> = tiers.iter().filter(|tier| !is_gone(tier.entry())).cloned().collect();
        let is_one_more = made.is_some();
        kept.extend(made);
        kept.sort_unstable_by_key(|tier| tier.entry().first_segment);
        let mut next = self.index.clone();
        next.generation += 1;
        next.written_by = VERSION;
        next.next_file += u64::from(is_one_more);
        next.tiers = kept.iter().map(|tier| *tier.entry()).collect();
        save(storage, &next)?;
        self.is_stale = false;
        let gone = tiers.iter().filter(|tier| is_gone(tier.entry()));
        let removed = gone.map(|tier| tier_name(tier.entry().number)).collect();
        self.index = next;
        Ok(Replaced { tiers: Tiers::new(kept), removed })
    }
}

/// The first of the newest units that have no more positions than these together.
fn newest_of(units: &[UnitSize], most: u64) -> usize {
    let mut left = most;
    let fits = units.iter().rev().take_while(|unit| {
        let is_little = unit.positions <= left;
        left -= unit.positions.min(left);
        is_little
    });
    units.len() - fits.count()
}

/// Tiers and the listed segments between and behind them, oldest first.
fn neighbours<'a>(tiers: &'a Tiers, segments: &'a [Arc<Segment>], listed: &'a [SegmentEntry]) -> Vec<Neighbour<'a>> {
    let mut found = Vec::new();
    let mut tiers = tiers.iter().peekable();
    for entry in listed {
        while tiers.next_if(|tier| tier.entry().last_segment < entry.number).is_some() {}
        match tiers.peek() {
            Some(tier) if tier.entry().first_segment == entry.number => found.push(Neighbour::Tier(tier, 1)),
            Some(tier) if tier.entry().first_segment < entry.number => {
                if let Some(Neighbour::Tier(_, segments)) = found.last_mut() {
                    *segments += 1;
                }
            }
            _ => found.push(Neighbour::Segment(entry, sealed_index(segments, entry.number))),
        }
    }
    found
}
