//! The list of a store's segments, and which of them holds a position.

use std::ops::Deref;
use std::sync::Arc;

use crate::segment::Segment;

/// All segments, oldest first.
///
/// Their first positions stand beside them, one after the other: a search that came to each segment itself would wait for
/// memory at every step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segments {
    list: Vec<Arc<Segment>>,
    firsts: Vec<u64>,
}

impl Segments {
    /// Number in the list of the segment that holds `position`, or would if the log went on so far.
    ///
    /// One that was left before anything was written to it begins where the next one does: it is never chosen.
    #[inline]
    pub(crate) fn index_of(&self, position: u64) -> Option<usize> {
        self.firsts.partition_point(|first| *first <= position).checked_sub(1)
    }

    /// First position of this segment.
    #[inline]
    pub(crate) fn first(&self, index: usize) -> u64 {
        self.firsts[index]
    }

    /// First position of the segment after this one; `u64::MAX` after the last.
    #[inline]
    pub(crate) fn next_first(&self, index: usize) -> u64 {
        self.firsts.get(index + 1).copied().unwrap_or(u64::MAX)
    }
}

impl From<Vec<Arc<Segment>>> for Segments {
    fn from(list: Vec<Arc<Segment>>) -> Self {
        let firsts = list.iter().map(|segment| segment.first_position()).collect();
        Self { list, firsts }
    }
}

impl Deref for Segments {
    type Target = [Arc<Segment>];

    #[inline]
    fn deref(&self) -> &[Arc<Segment>] {
        &self.list
    }
}
