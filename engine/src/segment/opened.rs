//! The files behind a segment while they are open.

use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::Guard;

use crate::Result;
use crate::active_index::{ActiveIndex, Place};
use crate::compacted::Container;
use crate::error::Error;
use crate::options::ReadMode;
use crate::place_table::PlaceTable;
use crate::prefetch::prefetch;
use crate::sealed_index::SealedIndex;
use crate::storage::{Map, StorageFile};

/// How a segment's records are found.
#[derive(Debug, Clone)]
pub(crate) enum SegmentIndex {
    Active(Arc<ActiveIndex>),
    Sealed(Arc<SealedIndex>),
    /// Where the records lie: a tier knows the rest.
    Places(PlaceTable),
    /// Not looked at: so far only who reads from front to back has come by.
    Unread,
}

impl SegmentIndex {
    fn places(&self) -> Option<PlaceTable> {
        match self {
            Self::Active(_) | Self::Unread => None,
            Self::Sealed(index) => index.places(),
            Self::Places(table) => Some(table.clone()),
        }
    }
}

/// Bytes of a segment that a reader may look at: `map[0]` is the segment's byte `start`.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub(crate) map: Map,
    pub(crate) start: u64,
    /// Up to which byte of the segment this window may be read.
    pub(crate) end: u64,
    /// Frames between these bytes of the segment are sound: their checksums were made anew when the window was, and what came
    /// of it verified as a whole.
    sound: Sound,
}

/// Bytes of a window, counted from its start.
#[derive(Debug, Clone, Copy, Default)]
struct Sound {
    start: u32,
    end: u32,
}

impl Window {
    /// Bytes of which nothing is known.
    #[inline]
    pub(crate) fn new(map: Map, start: u64, end: u64) -> Self {
        Self { map, start, end, sound: Sound::default() }
    }

    /// The same, whose frames between these bytes of the segment are sound.
    pub(crate) fn with_sound(self, sound: Range<u64>) -> Self {
        let from_start = |offset: u64| offset.checked_sub(self.start).and_then(|at| u32::try_from(at).ok());
        let sound = from_start(sound.start).zip(from_start(sound.end));
        Self { sound: sound.map_or(Sound::default(), |(start, end)| Sound { start, end }), ..self }
    }

    /// How many bytes from `offset` on hold frames that are known to be sound, as far as they lie in them as a whole.
    #[inline]
    pub(crate) fn sound_len(&self, offset: u64) -> usize {
        let Sound { start, end } = self.sound;
        if offset < self.start + u64::from(start) {
            return 0;
        }
        (self.start + u64::from(end)).saturating_sub(offset) as usize
    }

    /// The bytes from `offset` to the window's end; empty beyond it.
    #[inline]
    pub(crate) fn from(&self, offset: u64) -> &[u8] {
        self.between(offset, self.end)
    }

    #[inline]
    pub(crate) fn between(&self, from: u64, to: u64) -> &[u8] {
        let range = from.saturating_sub(self.start) as usize..to.saturating_sub(self.start) as usize;
        self.map.get(range).unwrap_or(&[])
    }

    #[inline]
    pub(crate) fn holds(&self, offset: u64, len: u64) -> bool {
        offset >= self.start && offset + len <= self.end
    }
}

/// File, map and index of a segment. Whoever holds it keeps them, also when the segment lets go of it.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) index: SegmentIndex,
    /// Where the records lie, if a file says so: beside `index`, so that a look-up need not go through it.
    places: Option<PlaceTable>,
    /// Version of the library that wrote the segment.
    pub(crate) written_by: u32,
    /// `None` once the map alone is enough.
    file: Option<Arc<dyn StorageFile>>,
    map: Option<Map>,
    /// In place of both, for a compacted segment.
    container: Option<Arc<Container>>,
    /// Whether somebody has read the segment in order, for which the system reads ahead.
    in_order: Arc<AtomicBool>,
}

impl Opened {
    pub(crate) fn new(
        name: &str,
        file: Arc<dyn StorageFile>,
        mode: ReadMode,
        index: SegmentIndex,
        written_by: u32,
    ) -> Result<Self> {
        let map = match mode {
            ReadMode::Mapped => Some(file.map().map_err(Error::io("map", name))?),
            ReadMode::Pread => None,
        };
        Ok(Self::of(Some(file), map, index, written_by, true))
    }

    /// The same of a segment that has ended: events are read here and there until [`Opened::read_in_order`].
    pub(crate) fn for_lookups(
        name: &str,
        file: Arc<dyn StorageFile>,
        mode: ReadMode,
        index: SegmentIndex,
        written_by: u32,
    ) -> Result<Self> {
        let map = match mode {
            ReadMode::Mapped => Some(file.map_for_lookups().map_err(Error::io("map", name))?),
            ReadMode::Pread => None,
        };
        Ok(Self::of(Some(file), map, index, written_by, false))
    }

    /// Of a compacted segment.
    pub(crate) fn compacted(container: Arc<Container>, index: SegmentIndex, written_by: u32) -> Self {
        Self { container: Some(container), ..Self::of(None, None, index, written_by, true) }
    }

    fn of(
        file: Option<Arc<dyn StorageFile>>,
        map: Option<Map>,
        index: SegmentIndex,
        written_by: u32,
        in_order: bool,
    ) -> Self {
        let in_order = Arc::new(AtomicBool::new(in_order));
        Self { places: index.places(), index, written_by, file, map, container: None, in_order }
    }

    #[inline]
    pub(crate) fn container(&self) -> Option<&Arc<Container>> {
        self.container.as_ref()
    }

    /// Whether its index was looked at.
    #[inline]
    pub(super) fn is_indexed(&self) -> bool {
        !matches!(self.index, SegmentIndex::Unread)
    }

    /// Whether its index knows keys, ids and names.
    #[inline]
    pub(super) fn has_keys(&self) -> bool {
        !matches!(self.index, SegmentIndex::Places(_) | SegmentIndex::Unread)
    }

    /// Whoever reads one event after the other of it says so: the system reads ahead from then on.
    #[inline]
    pub(crate) fn read_in_order(&self) {
        if !self.in_order.load(Ordering::Relaxed) {
            self.in_order.store(true, Ordering::Relaxed);
            self.map.iter().for_each(Map::expect_order);
        }
    }

    /// The same with another index.
    pub(super) fn with_index(&self, index: SegmentIndex) -> Self {
        Self { places: index.places(), index, ..self.clone() }
    }

    /// Without the file, where a map serves all reading: a descriptor less.
    pub(super) fn without_file(self) -> Self {
        Self { file: if self.map.is_some() { None } else { self.file }, ..self }
    }

    pub(super) fn file(&self) -> Option<&Arc<dyn StorageFile>> {
        self.file.as_ref()
    }

    #[inline]
    pub(super) fn map(&self) -> Option<&Map> {
        self.map.as_ref()
    }

    pub(super) fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.as_ref().expect("a segment without a map keeps its file").read_at(offset, bytes)
    }

    /// Place of a record by its number in the segment, if the index knows it.
    #[inline]
    pub(crate) fn place(&self, record: u32) -> Option<Place> {
        match (&self.places, &self.index) {
            (Some(places), _) => places.place(record),
            (None, SegmentIndex::Active(index)) => index.place(record),
            // Its arrays do not lie in the file, which checksums exclude.
            (None, SegmentIndex::Sealed(_) | SegmentIndex::Places(_) | SegmentIndex::Unread) => None,
        }
    }

    /// Begins to load what is kept here of the files.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.places);
        prefetch(&self.map);
    }

    /// Begins to load what [`Opened::place`] will look at.
    #[inline]
    pub(crate) fn prefetch_place(&self, record: u32) {
        self.places.iter().for_each(|places| places.prefetch(record));
    }
}

/// A look at an opened segment: no lock, no count. What is kept for longer is kept as an [`Arc`].
pub(crate) struct OpenedGuard(Guard<Option<Arc<Opened>>>);

impl OpenedGuard {
    /// The guard, if it holds something.
    #[inline]
    pub(super) fn of(guard: Guard<Option<Arc<Opened>>>) -> Option<Self> {
        guard.is_some().then(|| Self(guard))
    }

    pub(crate) fn of_arc(opened: Arc<Opened>) -> Self {
        Self(Guard::from_inner(Some(opened)))
    }

    pub(crate) fn into_arc(self) -> Arc<Opened> {
        Guard::into_inner(self.0).expect("made of something")
    }
}

impl Deref for OpenedGuard {
    type Target = Opened;

    #[inline]
    fn deref(&self) -> &Opened {
        self.0.as_deref().expect("made of something")
    }
}
