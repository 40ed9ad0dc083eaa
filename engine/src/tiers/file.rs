//! Questions to one tier, in positions of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use annals_format::Fault;
use annals_format::index_file::{FileIdentity, FileKind, Touch, Verified};
use annals_format::index_manifest::TierEntry;
use annals_format::tier::{Names, Positions, PositionsMark, Tier, TierLayout};
use smallvec::SmallVec;

use super::blocks::{Blocks, ListedFile, announce};
use super::stored::tier_name;
use crate::Result;
use crate::error::Error;
use crate::once::OnceLock;
use crate::options::ReadMode;
use crate::prefetch::{prefetch, prefetch_lines};
use crate::storage::{Access, Storage, StorageFile};

/// What a tier's header must say besides what the index manifest says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Expected {
    pub(crate) store: [u8; 16],
    pub(crate) name_hash_seed: u64,
    /// [Of its segments](annals_format::tier::covered_checksum).
    pub(crate) final_checksum: u32,
}

/// One tier. Its file is opened when it is listed, and read when it is first asked.
///
/// Whoever asks and is answered an error looks at [`TierFile::is_broken`] (or lets [`TierFile::unless_broken`] do so): a
/// broken tier is no error of the store, its segments' own indexes hold the same.
#[derive(Debug)]
pub(crate) struct TierFile {
    entry: TierEntry,
    expected: Expected,
    name: String,
    mode: ReadMode,
    file: Arc<dyn StorageFile>,
    opened: OnceLock<Opened>,
    broken: AtomicBool,
}

#[derive(Debug)]
struct Opened {
    blocks: Blocks,
    layout: TierLayout,
}

impl TierFile {
    /// A tier that the index manifest names, if its file is there and has the right length. Nothing of it is read.
    pub(crate) fn listed(storage: &dyn Storage, entry: &TierEntry, expected: Expected, mode: ReadMode) -> Result<Self> {
        let name = tier_name(entry.number);
        let file = storage.open(&name, Access::Read).map_err(Error::io("open", &name))?;
        let len = file.len().map_err(Error::io("measure", &name))?;
        if len != entry.len {
            let what = format!("the file is {len} bytes long, the index manifest says {}", entry.len);
            return Err(Error::corrupt(&name, len.min(entry.len), None, what));
        }
        announce(&*file, len);
        let (opened, broken) = (OnceLock::new(), AtomicBool::new(false));
        Ok(Self { entry: *entry, expected, name, mode, file, opened, broken })
    }

    pub(crate) fn entry(&self) -> &TierEntry {
        &self.entry
    }

    #[cfg(test)]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn first_position(&self) -> u64 {
        self.entry.first_position
    }

    pub(crate) fn last_position(&self) -> u64 {
        self.entry.last_position
    }

    /// Whether something was found wrong with it: ask its segments in its place.
    #[inline]
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed) || self.opened.get().is_some_and(|opened| opened.blocks.is_broken())
    }

    /// Says that an answer was found wrong by who knows better.
    pub(crate) fn set_broken(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// An answer of this tier, or `None` if it cannot give one and its segments are to be asked.
    pub(crate) fn unless_broken<T>(&self, answer: Result<T>) -> Result<Option<T>> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(_) if self.is_broken() => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[inline]
    fn opened(&self) -> Result<&Opened> {
        match self.opened.get() {
            Some(opened) => Ok(opened),
            None => self.open(),
        }
    }

    #[cold]
    fn open(&self) -> Result<&Opened> {
        match self.read_head() {
            Ok(opened) => Ok(self.opened.get_or_init(|| opened)),
            // Made by a later version: it is not for this one to throw away.
            Err(error @ Error::Unsupported { .. }) => Err(error),
            Err(error) => {
                self.set_broken();
                Err(error)
            }
        }
    }

    pub(super) fn listed_file(&self) -> ListedFile<'_> {
        ListedFile { name: &self.name, file: &self.file, len: self.entry.len, root: self.entry.root }
    }

    /// What its header must say.
    pub(super) fn identity(&self) -> FileIdentity {
        FileIdentity {
            kind: FileKind::Tier,
            store: self.expected.store,
            number: self.entry.number,
            generation: self.entry.generation,
            name_hash_seed: self.expected.name_hash_seed,
            first_position: self.entry.first_position,
            last_position: self.entry.last_position,
            final_checksum: self.expected.final_checksum,
        }
    }

    fn read_head(&self) -> Result<Opened> {
        let (blocks, header) = Blocks::open(&self.listed_file(), self.mode)?;
        if header.identity != self.identity() {
            return Err(Error::corrupt(&self.name, 32, None, "the tier is that of another store or history"));
        }
        let root = TierLayout::root(&header);
        blocks.touch(root.clone())?;
        let layout = TierLayout::read(blocks.bytes(), &header)
            .map_err(|fault| Error::damaged(&self.name, root.start as u64, None, &fault, 0))?;
        Ok(Opened { blocks, layout })
    }

    #[inline]
    fn tier(&self) -> Result<Tier<'_, &Blocks>> {
        let opened = self.opened()?;
        Ok(opened.layout.over(opened.blocks.bytes(), &opened.blocks))
    }

    #[inline]
    fn place(&self) -> RangeOfTier {
        RangeOfTier { first: self.entry.first_position, last: self.entry.last_position }
    }

    /// Positions of the events whose stream, type or tag has this hash: other names may share it.
    #[inline]
    pub(crate) fn positions(&self, key_hash: u64) -> Result<Option<TierPositions<'_>>> {
        let found = self.tier()?.find_key(key_hash)?;
        Ok(found.map(|positions| TierPositions { positions, place: self.place() }))
    }

    /// Positions put aside by [`TierPositions::put_aside`], of this same tier.
    #[inline]
    pub(crate) fn positions_at(&self, mark: PositionsAt) -> Result<TierPositions<'_>> {
        Ok(TierPositions { positions: self.tier()?.positions_at(mark.0), place: self.place() })
    }

    /// Positions of the events whose id has this hash, ascending; other ids may share it. An absent one costs eight bytes
    /// of the filter, nearly always.
    #[inline]
    pub(crate) fn candidates_of_id(&self, hash: u64) -> Result<SmallVec<[u64; 4]>> {
        let tier = self.tier()?;
        if !tier.may_hold(hash)? {
            return Ok(SmallVec::new());
        }
        let first = self.entry.first_position;
        Ok(tier.find_ids(hash)?.map(|position| first + u64::from(position)).collect())
    }

    /// As [`Blocks::verify_resident`].
    pub(crate) fn verify_resident(&self, from: u32, goes_on: impl Fn() -> bool) -> Option<u32> {
        self.opened().ok()?.blocks.verify_resident(from, goes_on)
    }

    /// Begins to load what [`TierFile::candidates_of_id`] looks at first, if the file was read before.
    #[inline]
    pub(crate) fn prefetch_id(&self, hash: u64) {
        if let Some(opened) = self.opened.get()
            && let Some(word) = opened.blocks.bytes().get(opened.layout.filter_place(hash).start)
        {
            prefetch(word);
        }
    }

    /// Begins to load the first that [`TierFile::positions`] looks at, if the file was read before; this and the next two
    /// look at what the step before has loaded, and verify nothing.
    #[inline]
    pub(super) fn prefetch_bucket(&self, key_hash: u64) {
        self.prefetch_bytes(|layout, _| layout.bucket_place(key_hash));
    }

    /// The second.
    #[inline]
    pub(super) fn prefetch_rows(&self, key_hash: u64) {
        self.prefetch_bytes(|layout, file| layout.rows_place(file, key_hash));
    }

    /// The third.
    #[inline]
    pub(super) fn prefetch_positions(&self, key_hash: u64) {
        self.prefetch_bytes(|layout, file| layout.positions_place(file, key_hash));
    }

    #[inline]
    fn prefetch_bytes(&self, place: impl FnOnce(&TierLayout, &[u8]) -> std::ops::Range<usize>) {
        let Some(opened) = self.opened.get() else { return };
        let file = opened.blocks.bytes();
        // Not more lines than a look-up reads.
        prefetch_lines(file.get(place(&opened.layout, file)).unwrap_or_default(), 3);
    }

    /// Streams whose name begins with `prefix`, in order of their bytes.
    pub(crate) fn streams_from(&self, prefix: &str) -> Result<TierNames<'_>> {
        Ok(TierNames { names: self.tier()?.streams_from(prefix.as_bytes())?, of: self })
    }

    /// Types whose name begins with `prefix`, in order of their bytes.
    pub(crate) fn types_from(&self, prefix: &str) -> Result<TierNames<'_>> {
        Ok(TierNames { names: self.tier()?.types_from(prefix.as_bytes())?, of: self })
    }

    /// Number of keys, ids, streams and types.
    pub(crate) fn counts(&self) -> Result<[u32; 4]> {
        let layout = &self.opened()?.layout;
        Ok([layout.key_count(), layout.id_count(), layout.stream_count(), layout.type_count()])
    }

    /// How many positions all keys have together. Goes through all of them.
    pub(crate) fn count_positions(&self) -> Result<u64> {
        let Some(tier) = self.verified(|| true)? else { return Ok(0) };
        let mut sum = 0;
        for row in 0..self.counts()?[0] {
            let Ok(found) = tier.key(row);
            let Some((_, mut positions)) = found else { continue };
            let mut next = Some(0);
            while let Some(from) = next {
                let Ok(position) = positions.seek_ge(from);
                sum += u64::from(position.is_some());
                next = position.and_then(|position| position.checked_add(1));
            }
        }
        Ok(sum)
    }

    /// Verifies every block; those that were verified before are read again.
    pub(crate) fn check_all(&self) -> Result<()> {
        let (fresh, header) = Blocks::open(&self.listed_file(), self.mode).inspect_err(|error| {
            if !matches!(error, Error::Unsupported { .. }) {
                self.set_broken();
            }
        })?;
        debug_assert_eq!(header.table.block_count(), fresh.block_count());
        (0..fresh.block_count()).try_for_each(|block| fresh.ensure(block)).inspect_err(|_| self.set_broken())?;
        self.opened().map(drop)
    }

    /// The whole tier, every block of it verified; `None` if `goes_on` said no, which is asked every few blocks.
    pub(super) fn verified(&self, goes_on: impl Fn() -> bool) -> Result<Option<Tier<'_, Verified>>> {
        let Opened { blocks, layout } = self.opened()?;
        for block in 0..blocks.block_count() {
            if block.is_multiple_of(64) && !goes_on() {
                return Ok(None);
            }
            blocks.ensure(block)?;
        }
        Ok(Some(layout.over(blocks.bytes(), Verified)))
    }
}

/// What positions a tier covers.
#[derive(Clone, Copy, Debug)]
struct RangeOfTier {
    first: u64,
    /// `first - 1` if there is none.
    last: u64,
}

impl RangeOfTier {
    /// `from` relative to the first; `None` beyond the last.
    #[inline]
    fn at_or_after(self, from: u64) -> Option<u32> {
        (from <= self.last).then(|| from.saturating_sub(self.first) as u32)
    }

    /// `to` relative to the first; `None` before it.
    #[inline]
    fn at_or_before(self, to: u64) -> Option<u32> {
        to.min(self.last).checked_sub(self.first).map(|to| to as u32)
    }
}

/// Where [`TierPositions`] stand, without a borrow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PositionsAt(PositionsMark);

/// Words of a bit map in little-endian bytes, and the position of the first bit of one of them.
pub(crate) type Words<'a> = (u64, &'a [[u8; 8]]);

/// Positions of one key in one tier, ascending; steps to the next or the one before are cheap.
#[derive(Clone, Debug)]
pub(crate) struct TierPositions<'a> {
    positions: Positions<'a, &'a Blocks>,
    place: RangeOfTier,
}

impl<'a> TierPositions<'a> {
    /// How many there are.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.positions.len()
    }

    /// The smallest that is `from` or larger.
    #[inline]
    pub(crate) fn seek_ge(&mut self, from: u64) -> Result<Option<u64>> {
        let Some(from) = self.place.at_or_after(from) else { return Ok(None) };
        Ok(self.positions.seek_ge(from)?.map(|found| self.place.first + u64::from(found)))
    }

    /// The largest that is `to` or smaller.
    #[inline]
    pub(crate) fn seek_le(&mut self, to: u64) -> Result<Option<u64>> {
        let Some(to) = self.place.at_or_before(to) else { return Ok(None) };
        Ok(self.positions.seek_le(to)?.map(|found| self.place.first + u64::from(found)))
    }

    /// The one that stands `count` places after the smallest that is `from` or larger.
    pub(crate) fn nth_ge(&mut self, from: u64, count: u64) -> Result<Option<u64>> {
        let (Some(from), Ok(count)) = (self.place.at_or_after(from), u32::try_from(count)) else { return Ok(None) };
        Ok(self.positions.nth_ge(from, count)?.map(|found| self.place.first + u64::from(found)))
    }

    /// The one that stands `count` places before the largest that is `to` or smaller.
    pub(crate) fn nth_le(&mut self, to: u64, count: u64) -> Result<Option<u64>> {
        let (Some(to), Ok(count)) = (self.place.at_or_before(to), u32::try_from(count)) else { return Ok(None) };
        Ok(self.positions.nth_le(to, count)?.map(|found| self.place.first + u64::from(found)))
    }

    /// Whether they are so many that they are a bit map.
    #[inline]
    pub(crate) fn is_bitmap(&self) -> bool {
        self.positions.is_bitmap()
    }

    /// Of a bit map: the words from that of position `at` on, as many as were verified together, and the position of the
    /// first bit of the first one.
    #[inline]
    pub(crate) fn words_from(&mut self, at: u64) -> Result<Option<Words<'a>>> {
        let Some(number) = self.place.at_or_after(at).map(|at| at / u64::BITS) else { return Ok(None) };
        let first = self.place.first + u64::from(number) * u64::from(u64::BITS);
        Ok(self.positions.words_from(number)?.map(|words| (first, words)))
    }

    /// The same up to the word of position `at`, which is the last; and the position of its first bit.
    #[inline]
    pub(crate) fn words_to(&mut self, at: u64) -> Result<Option<Words<'a>>> {
        let Some(number) = self.place.at_or_before(at).map(|at| at / u64::BITS) else { return Ok(None) };
        let first = self.place.first + u64::from(number) * u64::from(u64::BITS);
        Ok(self.positions.words_to(number)?.map(|words| (first, words)))
    }

    /// All from `from` on, ascending.
    #[cfg(test)]
    pub(crate) fn ascending(mut self, from: u64) -> impl Iterator<Item = Result<u64>> + use<'a> {
        let mut next = Some(from);
        std::iter::from_fn(move || {
            let found = self.seek_ge(next?).transpose();
            next = found.as_ref().and_then(|found| found.as_ref().ok()?.checked_add(1));
            found
        })
    }

    /// All up to `to`, descending.
    #[cfg(test)]
    pub(crate) fn descending(mut self, to: u64) -> impl Iterator<Item = Result<u64>> + use<'a> {
        let mut next = Some(to);
        std::iter::from_fn(move || {
            let found = self.seek_le(next?).transpose();
            next = found.as_ref().and_then(|found| found.as_ref().ok()?.checked_sub(1));
            found
        })
    }

    /// For who cannot keep the borrow; goes on with [`TierFile::positions_at`].
    #[inline]
    pub(crate) fn put_aside(&self) -> PositionsAt {
        PositionsAt(self.positions.mark())
    }
}

/// Names of a tier in order of their bytes.
#[derive(Debug)]
pub(crate) struct TierNames<'a> {
    names: Names<'a, &'a Blocks>,
    of: &'a TierFile,
}

impl TierNames<'_> {
    /// The next name.
    pub(crate) fn next(&mut self) -> Result<Option<&str>> {
        let Some(name) = self.names.next()? else { return Ok(None) };
        match std::str::from_utf8(name) {
            Ok(name) => Ok(Some(name)),
            Err(_) => {
                self.of.set_broken();
                let fault = Fault::Name { what: "a name in the index" };
                Err(Error::damaged(&self.of.name, 0, None, &fault, 0))
            }
        }
    }
}
