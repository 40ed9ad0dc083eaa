//! What writer, readers and background share of an open store.

use std::sync::Arc;

use annals_format::manifest::Limits;
use arc_swap::ArcSwap;

use crate::append::Durability;
use crate::id_table::IdTable;
use crate::log::Log;
use crate::name::NameHash;
use crate::options::{ReadMode, View};
use crate::segment::{Segment, SegmentCache};

/// All segments, oldest first; replaced as a whole when one is added.
pub(crate) type SegmentList = Arc<Vec<Arc<Segment>>>;

/// The part of a store that reading needs.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) log: Log,
    pub(crate) segments: ArcSwap<Vec<Arc<Segment>>>,
    /// Opens those of them that the manifest lists.
    pub(crate) cache: Arc<SegmentCache>,
    pub(crate) hash: NameHash,
    pub(crate) limits: Limits,
    pub(crate) default_durability: Durability,
    pub(crate) read_mode: ReadMode,
    /// The writer's table of all ids, where there is a writer; else each segment's index is asked.
    pub(crate) ids: Option<Arc<IdTable>>,
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
        match view {
            View::Durable => self.log.watermark.durable(),
            View::Written => self.log.watermark.written(),
        }
    }

    /// Adds a segment at the end. Only the writer does, under its lock.
    pub(crate) fn push_segment(&self, segment: Arc<Segment>) {
        let mut segments = Vec::clone(&self.segments.load());
        segments.push(segment);
        self.segments.store(Arc::new(segments));
    }

    /// The segment that holds `position`.
    pub(crate) fn segment_of(&self, position: u64) -> Option<Arc<Segment>> {
        let segments = self.segments.load();
        let after = segments.partition_point(|segment| segment.first_position() <= position);
        segments.get(after.checked_sub(1)?).cloned()
    }
}
