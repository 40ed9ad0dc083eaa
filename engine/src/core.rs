//! What writer, readers and background share of an open store.

use std::sync::Arc;

use annals_format::manifest::{Limits, LostEntry};
use arc_swap::ArcSwap;

use smallvec::SmallVec;

use crate::Result;
use crate::append::Durability;
use crate::consumer::{EndedConsumers, Lineage};
use crate::directory::Directory;
use crate::error::Error;
use crate::id_table::IdTable;
use crate::log::Log;
use crate::name::{KeyKind, NameHash};
use crate::options::{ReadMode, View};
use crate::recent_keys::RecentKeys;
use crate::removal::Removals;
use crate::segment::{OpenedGuard, Segment, SegmentCache, SegmentIndex};
use crate::segments::Segments;
use crate::snapshot::Shelf;
use crate::tiers::{TierFile, Tiers};

/// All segments, oldest first; replaced as a whole when one is added.
pub(crate) type SegmentList = Arc<Segments>;

/// The part of a store that reading needs.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) log: Log,
    pub(crate) segments: ArcSwap<Segments>,
    /// What answers for many sealed segments at once. Replaced as a whole; what a tier leaves open its segments answer.
    pub(crate) tiers: ArcSwap<Tiers>,
    /// Where streams end, up to its coverage. Replaced as a whole.
    pub(crate) directory: ArcSwap<Directory>,
    /// Opens those of the segments that the manifest lists.
    pub(crate) cache: Arc<SegmentCache>,
    pub(crate) hash: NameHash,
    /// Of the segments that were sealed last, by this process.
    pub(crate) recent_keys: Arc<RecentKeys>,
    /// What is hidden of the log.
    pub(crate) removals: Arc<Removals>,
    pub(crate) removal_forbidden: bool,
    pub(crate) limits: Limits,
    pub(crate) default_durability: Durability,
    pub(crate) read_mode: ReadMode,
    /// Which openings wrote which positions.
    pub(crate) lineage: Lineage,
    /// Where the consumers stood when segments ended, until that is written beside them.
    pub(crate) ended_consumers: EndedConsumers,
    /// The writer's table of the ids that no tier holds, where there is a writer: it tells which segments' indexes hold what
    /// has left it. Else those of all segments without a tier are asked.
    pub(crate) ids: Option<Arc<IdTable>>,
    /// Positions that were lost before the store was repaired: revisions of streams may be missing there.
    pub(crate) lost: Arc<[LostEntry]>,
    pub(crate) snapshots: Arc<Shelf>,
}

/// See [`Core::live_alone_after`].
pub(crate) struct LiveAlone(OpenedGuard);

impl LiveAlone {
    /// Begins to load what [`LiveAlone::has_none`] looks at.
    #[inline]
    pub(crate) fn prefetch(&self, stream: u64) {
        if let SegmentIndex::Active(index) = &self.0.index {
            index.prefetch_key(stream);
        }
    }

    /// Whether it surely has no event of the stream with this key: what is nearly always so is told without a walk.
    #[inline]
    pub(crate) fn has_none(&self, stream: u64) -> bool {
        match &self.0.index {
            SegmentIndex::Active(index) => index.postings(KeyKind::Stream, stream).next().is_none(),
            SegmentIndex::Sealed(_) | SegmentIndex::Places(_) | SegmentIndex::Unread => false,
        }
    }
}

impl Core {
    /// What readers see that do not ask for a view by name.
    pub(crate) fn default_view(&self) -> View {
        match self.default_durability {
            Durability::Durable => View::Durable,
            Durability::Buffered => View::Written,
        }
    }

    #[inline]
    pub(crate) fn head(&self, view: View) -> u64 {
        self.log.watermark.head(view)
    }

    /// `RemovalForbidden` if that was chosen.
    pub(crate) fn check_removal_allowed(&self) -> Result<()> {
        if self.removal_forbidden { Err(Error::RemovalForbidden) } else { Ok(()) }
    }

    /// Adds a segment at the end. Only the writer does, under its lock.
    pub(crate) fn push_segment(&self, segment: Arc<Segment>) {
        self.segments.rcu(|segments| {
            let mut list = segments.to_vec();
            list.push(segment.clone());
            Segments::from(list)
        });
    }

    /// Puts a segment in the place of another that holds the same.
    pub(crate) fn replace_segment(&self, before: &Arc<Segment>, after: &Arc<Segment>) {
        self.segments.rcu(|segments| {
            let same =
                |segment: &Arc<Segment>| if Arc::ptr_eq(segment, before) { after.clone() } else { segment.clone() };
            Segments::from(segments.iter().map(same).collect::<Vec<_>>())
        });
    }

    /// The segment that holds `position`.
    pub(crate) fn segment_of(&self, position: u64) -> Option<Arc<Segment>> {
        let segments = self.segments.load();
        segments.get(segments.index_of(position)?).cloned()
    }

    /// The segment that is being written, if no other stands after `position`. A reader loads its head before.
    #[inline]
    pub(crate) fn live_alone_after(&self, position: u64) -> Option<LiveAlone> {
        let segments = self.segments.load();
        let live = segments.last().filter(|live| live.first_position() <= position + 1)?;
        live.opened().ok().map(LiveAlone)
    }

    /// Every position whose event may have an id with this hash, in no order; a hash match is no equality.
    ///
    /// # Errors
    /// Those of opening an index, where no tier answers.
    pub(crate) fn positions_of_id(&self, hash: u64) -> Result<SmallVec<[u64; 4]>> {
        loop {
            let tiers = self.tiers.load();
            let mut found = match &self.ids {
                Some(ids) => ids.candidates(hash),
                None => SmallVec::new(),
            };
            // One line of memory each: all at once.
            tiers.iter().for_each(|tier| tier.prefetch_id(hash));
            for tier in tiers.iter() {
                match tier.unless_broken(tier.candidates_of_id(hash))? {
                    Some(positions) => found.extend(positions),
                    None => self.ids_of_segments(hash, &mut found, |segment, _| is_covered(tier, segment))?,
                }
            }
            let has_tier = |segment: &Segment| tiers.iter().any(|tier| is_covered(tier, segment));
            match &self.ids {
                Some(ids) => {
                    let left = ids.left(hash);
                    if !left.is_empty() {
                        let is_left =
                            |first: u64, next: u64| left.iter().any(|(from, to)| first <= *to && next > *from);
                        let is_asked = |segment: &Segment, next: u64| {
                            is_left(segment.first_position(), next) && !has_tier(segment)
                        };
                        self.ids_of_segments(hash, &mut found, is_asked)?;
                    }
                }
                None => self.ids_of_segments(hash, &mut found, |segment, _| !has_tier(segment))?,
            }
            // Ids leave memory once a tier holds them, and come back before one is dropped: seen from one list of tiers,
            // each is in one place or the other.
            if Arc::ptr_eq(&tiers, &self.tiers.load()) {
                return Ok(found);
            }
        }
    }

    /// `is_asked` is given each segment and the first position of the one that follows it.
    fn ids_of_segments(
        &self,
        hash: u64,
        found: &mut SmallVec<[u64; 4]>,
        is_asked: impl Fn(&Segment, u64) -> bool,
    ) -> Result<()> {
        let segments = self.segments.load();
        for (at, segment) in segments.iter().enumerate() {
            if !is_asked(segment, segments.next_first(at)) {
                continue;
            }
            let first = segment.first_position();
            match &segment.opened_with_keys()?.index {
                SegmentIndex::Active(index) => {
                    found.extend(index.by_id(hash).into_iter().map(|record| first + u64::from(record)));
                }
                SegmentIndex::Sealed(index) => {
                    found.extend(index.by_id(hash)?.into_iter().map(|record| first + u64::from(record)));
                }
                SegmentIndex::Places(_) | SegmentIndex::Unread => unreachable!("opened with keys"),
            }
        }
        Ok(())
    }
}

fn is_covered(tier: &TierFile, segment: &Segment) -> bool {
    let number = segment.header.identity.segment;
    (tier.entry().first_segment..=tier.entry().last_segment).contains(&number)
}
