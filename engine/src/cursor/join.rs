//! Cursors joined: any of several, all of several.

use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::dense::Dense;
use super::{Cursor, Seek};
use crate::Result;
use crate::read::Direction;

/// Positions of any member, each once.
#[derive(Debug)]
pub(crate) struct Any<S> {
    members: Vec<S>,
    /// The next position of each member as its rank, and the member; the next one in the direction of reading on top.
    heads: BinaryHeap<(u64, usize)>,
    has_begun: bool,
}

/// Positions so that the largest comes next.
#[inline]
fn rank(direction: Direction, position: u64) -> u64 {
    match direction {
        Direction::Forward => !position,
        Direction::Backward => position,
    }
}

impl<S: Seek> Any<S> {
    pub(super) fn new(members: Vec<S>) -> Self {
        Self { members, heads: BinaryHeap::new(), has_begun: false }
    }

    fn begin(&mut self, direction: Direction, at: u64) -> Result<()> {
        self.heads.reserve(self.members.len());
        for (member, seek) in self.members.iter_mut().enumerate() {
            if let Some(position) = seek.seek(direction, at)? {
                self.heads.push((rank(direction, position), member));
            }
        }
        self.has_begun = true;
        Ok(())
    }
}

impl<S: Seek> Seek for Any<S> {
    #[inline]
    fn seek(&mut self, direction: Direction, at: u64) -> Result<Option<u64>> {
        if let [only] = &mut self.members[..] {
            return only.seek(direction, at);
        }
        if !self.has_begun {
            self.begin(direction, at)?;
        }
        let wanted = rank(direction, at);
        loop {
            let Some(mut top) = self.heads.peek_mut() else { return Ok(None) };
            let (head, member) = *top;
            if head <= wanted {
                return Ok(Some(rank(direction, head)));
            }
            match self.members[member].seek(direction, at)? {
                Some(position) => top.0 = rank(direction, position),
                None => drop(PeekMut::pop(top)),
            }
        }
    }

    fn count(&self) -> u64 {
        self.members.iter().map(Seek::count).sum()
    }
}

/// One part of an item.
#[derive(Debug)]
pub(super) enum Part {
    One(Cursor),
    Any(Any<Cursor>),
    Dense(Dense),
}

impl Seek for Part {
    #[inline]
    fn seek(&mut self, direction: Direction, at: u64) -> Result<Option<u64>> {
        match self {
            Self::One(cursor) => cursor.seek(direction, at),
            Self::Any(any) => any.seek(direction, at),
            Self::Dense(dense) => dense.seek(direction, at),
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::One(cursor) => cursor.count(),
            Self::Any(any) => any.count(),
            Self::Dense(dense) => dense.count(),
        }
    }
}

/// Positions that all parts have.
#[derive(Debug)]
pub(crate) struct Item {
    /// The one with the fewest positions.
    lead: Part,
    others: Vec<Part>,
}

impl Item {
    /// Of at least one part.
    pub(super) fn new(mut parts: Vec<Part>) -> Self {
        parts.sort_by_key(|part| std::cmp::Reverse(part.count()));
        let lead = parts.pop().expect("an item has parts");
        parts.reverse();
        // Where the one with the fewest is frequent, all are.
        let (lead, parts) = if is_dense(&lead) { together(lead, parts) } else { (lead, parts) };
        Self { lead, others: parts }
    }
}

fn is_dense(part: &Part) -> bool {
    // One that cannot be told answers its error when it is sought in.
    matches!(part, Part::One(Cursor::Tiered(tiered)) if tiered.is_bitmap().unwrap_or(false))
}

/// All that are bit maps as one part, and the others.
fn together(lead: Part, others: Vec<Part>) -> (Part, Vec<Part>) {
    if !others.iter().any(is_dense) {
        return (lead, others);
    }
    let (dense, others): (Vec<Part>, Vec<Part>) = [lead].into_iter().chain(others).partition(is_dense);
    let members = dense.into_iter().filter_map(|part| match part {
        Part::One(Cursor::Tiered(tiered)) => Some(tiered),
        _ => None,
    });
    (Part::Dense(Dense::new(members.collect())), others)
}

impl Seek for Item {
    #[inline]
    fn seek(&mut self, direction: Direction, at: u64) -> Result<Option<u64>> {
        let mut wanted = at;
        'lead: loop {
            let Some(position) = self.lead.seek(direction, wanted)? else { return Ok(None) };
            for part in &mut self.others {
                match part.seek(direction, position)? {
                    None => return Ok(None),
                    Some(found) if found == position => {}
                    Some(beyond) => {
                        wanted = beyond;
                        continue 'lead;
                    }
                }
            }
            return Ok(Some(position));
        }
    }

    fn count(&self) -> u64 {
        self.lead.count()
    }
}

/// A query in one unit.
#[derive(Debug)]
pub(crate) enum Join {
    /// All positions, or those of a single key.
    One(Cursor),
    Items(Any<Item>),
}

impl Seek for Join {
    #[inline]
    fn seek(&mut self, direction: Direction, at: u64) -> Result<Option<u64>> {
        match self {
            Self::One(cursor) => cursor.seek(direction, at),
            Self::Items(items) => items.seek(direction, at),
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::One(cursor) => cursor.count(),
            Self::Items(items) => items.count(),
        }
    }
}
