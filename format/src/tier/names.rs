//! Names of streams or types, in order of their bytes, each written as what differs from the one before.
//!
//! A name is: how many bytes it shares with the one before (u8), how many follow (u8), these bytes. Every sixteenth
//! shares none and has its place in the table of restarts, where a search begins.

use crate::Fault;
use crate::field::u8_at;
use crate::index_file::{Flat, Touch, View};
use crate::name::NAME_LEN_MAX;

/// Names from one restart to the next.
const RESTART_EVERY: u32 = 16;
const ENTRY_LEN_MAX: u32 = 2 + NAME_LEN_MAX as u32;

/// Where the names of one kind lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NameTable {
    pub(super) names: Flat<1>,
    pub(super) restarts: Flat<4>,
    pub(super) count: u32,
}

/// Writes names as they come, in order.
#[derive(Debug, Default)]
pub(super) struct NameEncoder {
    last: Vec<u8>,
    pub(super) count: u32,
    /// Where restarts lie: a quarter of a byte of memory a name.
    pub(super) restarts: Vec<u32>,
    pos: u32,
}

impl NameEncoder {
    /// How many bytes of the next name are not written, since it shares them with the one before.
    pub(super) fn push(&mut self, name: &[u8]) -> Result<usize, Fault> {
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return Err(Fault::Length { what: "length of a name", value: name.len() as u64 });
        }
        let alike = alike(&self.last, name);
        // The one that goes on where the other ends is the larger one.
        let rises = name.get(alike).is_some_and(|now| self.last.get(alike).is_none_or(|last| last < now));
        if !rises {
            return Err(Fault::Order { what: "names" });
        }
        let restart = self.count.is_multiple_of(RESTART_EVERY);
        let shared = if restart { 0 } else { alike };
        if restart {
            self.restarts.push(self.pos);
        }
        let end = self.pos.checked_add(2 + (name.len() - shared) as u32);
        self.pos = end.ok_or(Fault::Length { what: "names", value: 1 << 32 })?;
        self.count += 1;
        self.last.clear();
        self.last.extend_from_slice(name);
        Ok(shared)
    }
}

/// How many bytes two names begin with alike; eight at a time.
#[inline]
fn alike(left: &[u8], right: &[u8]) -> usize {
    let words = left.as_chunks::<8>().0.iter().zip(right.as_chunks::<8>().0);
    let mut len = 0;
    for (left, right) in words {
        let differ = u64::from_le_bytes(*left) ^ u64::from_le_bytes(*right);
        if differ != 0 {
            return len + differ.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    len + left[len..].iter().zip(&right[len..]).take_while(|(left, right)| left == right).count()
}

/// Names that begin with a prefix, in order of their bytes. Each is put together in here: it stays until the next.
#[derive(Clone, Debug)]
pub struct Names<'a, T> {
    view: View<'a, T>,
    table: NameTable,
    prefix: Vec<u8>,
    name: Vec<u8>,
    number: u32,
    at: u32,
    /// Whether `name` is the first that was asked for and still to be answered.
    is_found: bool,
}

impl<'a, T: Touch + Copy> Names<'a, T> {
    /// At the first name that is `prefix` or larger.
    pub(super) fn at_prefix(view: View<'a, T>, table: NameTable, prefix: &[u8]) -> Result<Self, T::Error> {
        let mut names = Self {
            view,
            table,
            prefix: prefix.to_vec(),
            name: Vec::with_capacity(NAME_LEN_MAX),
            number: 0,
            at: 0,
            is_found: false,
        };
        // The last restart whose name is not larger; the name sought may follow it.
        let (mut low, mut high) = (0, table.restarts.len());
        while low < high {
            let middle = low + (high - low) / 2;
            names.restart(middle)?;
            if names.step()? && names.name.as_slice() <= prefix {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        names.restart(low.saturating_sub(1))?;
        while names.step()? {
            if names.name.as_slice() >= prefix {
                names.is_found = true;
                break;
            }
        }
        Ok(names)
    }

    fn restart(&mut self, restart: u32) -> Result<(), T::Error> {
        self.name.clear();
        self.number = restart.saturating_mul(RESTART_EVERY);
        self.at = self.view.row(self.table.restarts, restart)?.map_or(u32::MAX, |at| u32::from_le_bytes(*at));
        Ok(())
    }

    /// Reads the next entry into `name`; false at the end, and where no entry stands.
    fn step(&mut self) -> Result<bool, T::Error> {
        if self.number >= self.table.count {
            return Ok(false);
        }
        let place = self.table.names.place(self.at..self.at.saturating_add(ENTRY_LEN_MAX));
        let bytes = self.view.bytes(place)?;
        let (shared, len) = (usize::from(u8_at(bytes, 0)), usize::from(u8_at(bytes, 1)));
        let suffix = bytes.get(2..2 + len).filter(|_| shared <= self.name.len() && shared + len <= NAME_LEN_MAX);
        let Some(suffix) = suffix else {
            self.number = self.table.count;
            return Ok(false);
        };
        self.name.truncate(shared);
        self.name.extend_from_slice(suffix);
        self.number += 1;
        self.at += 2 + len as u32;
        Ok(true)
    }

    /// The next name; whoever needs text checks that it is.
    ///
    /// # Errors
    /// Those of `touch`.
    #[expect(clippy::should_implement_trait, reason = "a name lives in the iterator, and reading may fail")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, T::Error> {
        let is_there = std::mem::take(&mut self.is_found) || self.step()?;
        if is_there && self.name.starts_with(&self.prefix) {
            return Ok(Some(&self.name));
        }
        self.number = self.table.count;
        Ok(None)
    }
}
