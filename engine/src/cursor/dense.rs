//! Keys so frequent that each is a bit map of its tier: 64 positions are joined at once.

use smallvec::SmallVec;

use super::{Seek, Tiered};
use crate::Result;
use crate::read::Direction;
use crate::tiers::{TierPositions, Words};

/// Positions that all of several bit maps of one tier have. Two keys that never meet are told apart by a word for every 64
/// positions; by turns it would be a step for every position.
#[derive(Debug)]
pub(crate) struct Dense {
    /// Two or more, of one tier and span.
    members: Vec<Tiered>,
}

impl Dense {
    pub(super) fn new(members: Vec<Tiered>) -> Self {
        debug_assert!(members.len() > 1);
        Self { members }
    }

    fn positions(&self) -> Result<SmallVec<[TierPositions<'_>; 4]>> {
        self.members.iter().map(|member| member.tier.positions_at(member.place)).collect()
    }

    fn seek_ge(&self, at: u64) -> Result<Option<u64>> {
        let span = self.members[0].span;
        let mut positions = self.positions()?;
        let mut at = at.max(span.first);
        while at <= span.last {
            let Some(Stretch { first, words, len, .. }) = stretch(&mut positions, |of| of.words_from(at))? else {
                break;
            };
            let mut mask = u64::MAX << (at - first).min(63);
            for number in 0..len {
                let bits = common(&words, number) & mask;
                if bits != 0 {
                    let found = first + number as u64 * 64 + u64::from(bits.trailing_zeros());
                    return Ok(Some(found).filter(|found| *found <= span.last));
                }
                mask = u64::MAX;
            }
            at = first + len as u64 * 64;
        }
        Ok(None)
    }

    fn seek_le(&self, at: u64) -> Result<Option<u64>> {
        let span = self.members[0].span;
        let mut positions = self.positions()?;
        let mut at = at.min(span.last);
        while at >= span.first {
            let Some(Stretch { first, words, len }) = stretch(&mut positions, |of| of.words_to(at))? else { break };
            let words: SmallVec<[&[[u8; 8]]; 4]> = words.iter().map(|words| &words[words.len() - len..]).collect();
            let mut mask = u64::MAX >> (63 - (at - first).min(63));
            for number in (0..len).rev() {
                let bits = common(&words, number) & mask;
                if bits != 0 {
                    let found = first - (len - 1 - number) as u64 * 64 + u64::from(bits.ilog2());
                    return Ok(Some(found).filter(|found| *found >= span.first));
                }
                mask = u64::MAX;
            }
            // The first position of the first word, less one.
            let Some(before) = (first - (len as u64 - 1) * 64).checked_sub(1) else { break };
            at = before;
        }
        Ok(None)
    }
}

/// Words of all members for the same positions.
struct Stretch<'a> {
    /// Position of the first bit of the word that was asked for.
    first: u64,
    words: SmallVec<[&'a [[u8; 8]]; 4]>,
    /// How many each has.
    len: usize,
}

#[inline]
fn stretch<'a>(
    positions: &mut [TierPositions<'a>],
    mut words_of: impl FnMut(&mut TierPositions<'a>) -> Result<Option<Words<'a>>>,
) -> Result<Option<Stretch<'a>>> {
    let mut stretch = Stretch { first: 0, words: SmallVec::new(), len: usize::MAX };
    for of in positions {
        let Some((first, words)) = words_of(of)? else { return Ok(None) };
        stretch.first = first;
        stretch.len = stretch.len.min(words.len());
        stretch.words.push(words);
    }
    Ok((stretch.len > 0 && stretch.len < usize::MAX).then_some(stretch))
}

#[inline(always)]
fn common(words: &[&[[u8; 8]]], number: usize) -> u64 {
    words.iter().fold(u64::MAX, |bits, words| bits & words.get(number).map_or(0, |word| u64::from_le_bytes(*word)))
}

impl Seek for Dense {
    #[inline]
    fn seek(&mut self, direction: Direction, at: u64) -> Result<Option<u64>> {
        match direction {
            Direction::Forward => self.seek_ge(at),
            Direction::Backward => self.seek_le(at),
        }
    }

    fn count(&self) -> u64 {
        self.members.iter().map(|member| member.count).min().unwrap_or(0)
    }
}
