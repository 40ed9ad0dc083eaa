//! The positions of one key: one in its row, an ascending list, or a bit map.

use super::{BITMAP, TierLayout};
use crate::field::{u32_at, u64_at};
use crate::index_file::{Flat, Touch, View, Window};

/// Bits of a word.
const WORD: u32 = u64::BITS;

/// Whether a key with `count` of a tier's `position_count` positions has a bit map: if that takes no more room than a
/// list, with more than one in 32.
pub fn is_dense(count: u32, position_count: u32) -> bool {
    count > 1 && u64::from(count) * 32 > u64::from(position_count)
}

/// Length of a bit map in words of 32 bits; it is made of whole words of 64.
pub(super) fn bitmap_len(position_count: u32) -> u32 {
    position_count.div_ceil(WORD) * 2
}

#[derive(Clone, Debug)]
enum Held<'a, T> {
    One(u32),
    List { list: Window<'a, T, 4>, start: u32, hint: Option<u32> },
    Bitmap { words: Window<'a, T, 4>, start: u32, position_count: u32 },
}

/// The relative positions of one key, ascending. Remembers where it was: a step to the next or the one before reads one
/// number, a longer one doubles its stride until it is past, then halves.
#[derive(Clone, Debug)]
pub struct Positions<'a, T> {
    held: Held<'a, T>,
    count: u32,
}

/// Where [`Positions`] stand, as plain numbers: for whoever cannot keep a borrow of the file. Only of use with the file it
/// is of; with another one answers are wrong, and nothing worse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PositionsMark {
    start: u32,
    count: u32,
    hint: Option<u32>,
}

impl<'a, T: Touch + Copy> Positions<'a, T> {
    #[inline]
    pub(super) fn at_mark(view: View<'a, T>, layout: &TierLayout, mark: PositionsMark) -> Self {
        let mut positions = Self::new(view, layout, mark.start, mark.count);
        if let Held::List { hint, .. } = &mut positions.held {
            *hint = mark.hint;
        }
        positions
    }

    /// Where they stand now.
    #[inline]
    pub fn mark(&self) -> PositionsMark {
        let (start, hint) = match &self.held {
            Held::One(position) => (*position, None),
            Held::List { start, hint, .. } => (*start, *hint),
            Held::Bitmap { start, .. } => (*start, None),
        };
        PositionsMark { start, count: self.count | if self.is_bitmap() { BITMAP } else { 0 }, hint }
    }

    /// Of a list: all of it as it is written, each number in little-endian bytes; `None` for one position and for a bit
    /// map. Announces the whole list: for who reads all of it in any case.
    ///
    /// # Errors
    /// Those of `touch`.
    pub fn list(&self) -> Result<Option<&'a [[u8; 4]]>, T::Error> {
        match &self.held {
            Held::List { list, start, .. } => list.all(*start, self.count).map(Some),
            _ => Ok(None),
        }
    }

    #[inline]
    pub(super) fn new(view: View<'a, T>, layout: &TierLayout, start: u32, count: u32) -> Self {
        let postings: Flat<4> = layout.postings;
        let held = if count & BITMAP != 0 {
            Held::Bitmap { words: Window::new(view, postings), start, position_count: layout.position_count }
        } else if count == 1 {
            return Self { held: Held::One(start), count };
        } else {
            Held::List { list: Window::new(view, postings), start, hint: None }
        };
        let there = if count & BITMAP != 0 { layout.position_count } else { postings.len().saturating_sub(start) };
        Self { held, count: (count & !BITMAP).min(there) }
    }

    /// How many there are, as the row says.
    #[inline]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether they are a bit map; then [`Positions::word`] reads 64 of them at once.
    #[inline]
    pub fn is_bitmap(&self) -> bool {
        matches!(self.held, Held::Bitmap { .. })
    }

    /// The smallest that is `from` or larger.
    ///
    /// # Errors
    /// Those of `touch`, here and below.
    #[inline]
    pub fn seek_ge(&mut self, from: u32) -> Result<Option<u32>, T::Error> {
        match &mut self.held {
            Held::One(position) => Ok(Some(*position).filter(|position| *position >= from)),
            Held::List { list, start, hint } => {
                let at = partition(list, *start, self.count, hint.unwrap_or(0), from.into())?;
                *hint = Some(at);
                // A list out of order, which no writer makes, answers nothing rather than a step back.
                Ok(number_at(list, *start, self.count, at)?.filter(|position| *position >= from))
            }
            Held::Bitmap { words, start, position_count } => {
                let mut word = from / WORD;
                let mut mask = u64::MAX << (from % WORD);
                while u64::from(word) * u64::from(WORD) < u64::from(*position_count) {
                    let Some(bits) = word_at(words, *start, word)? else { return Ok(None) };
                    if bits & mask != 0 {
                        let found = word * WORD + (bits & mask).trailing_zeros();
                        return Ok(Some(found).filter(|found| found < position_count));
                    }
                    word += 1;
                    mask = u64::MAX;
                }
                Ok(None)
            }
        }
    }

    /// The largest that is `to` or smaller.
    ///
    /// # Errors
    /// Those of `touch`.
    #[inline]
    pub fn seek_le(&mut self, to: u32) -> Result<Option<u32>, T::Error> {
        match &mut self.held {
            Held::One(position) => Ok(Some(*position).filter(|position| *position <= to)),
            Held::List { list, start, hint } => {
                let near = hint.unwrap_or(self.count.saturating_sub(1));
                let Some(at) = partition(list, *start, self.count, near, u64::from(to) + 1)?.checked_sub(1) else {
                    return Ok(None);
                };
                *hint = Some(at);
                Ok(number_at(list, *start, self.count, at)?.filter(|position| *position <= to))
            }
            Held::Bitmap { words, start, position_count } => {
                let Some(last) = position_count.checked_sub(1) else { return Ok(None) };
                let to = to.min(last);
                let mut mask = u64::MAX >> (WORD - 1 - to % WORD);
                for word in (0..=to / WORD).rev() {
                    let Some(bits) = word_at(words, *start, word)? else { return Ok(None) };
                    if bits & mask != 0 {
                        return Ok(Some(word * WORD + (bits & mask).ilog2()));
                    }
                    mask = u64::MAX;
                }
                Ok(None)
            }
        }
    }

    /// The one that stands `count` places after the smallest that is `from` or larger: as so many steps, at the cost of one
    /// in a list, and of a word for every 64 positions in a bit map.
    ///
    /// # Errors
    /// Those of `touch`.
    pub fn nth_ge(&mut self, from: u32, count: u32) -> Result<Option<u32>, T::Error> {
        match &mut self.held {
            Held::One(position) => Ok(Some(*position).filter(|position| *position >= from && count == 0)),
            Held::List { list, start, hint } => {
                let at = partition(list, *start, self.count, hint.unwrap_or(0), from.into())?.saturating_add(count);
                *hint = Some(at.min(self.count));
                Ok(number_at(list, *start, self.count, at)?.filter(|position| *position >= from))
            }
            Held::Bitmap { words, start, position_count } => {
                let (mut number, mut left, mut mask) = (from / WORD, count, u64::MAX << (from % WORD));
                while u64::from(number) * u64::from(WORD) < u64::from(*position_count) {
                    let Some(bits) = word_at(words, *start, number)? else { return Ok(None) };
                    let mut bits = bits & mask;
                    if bits.count_ones() > left {
                        (0..left).for_each(|_| bits &= bits - 1);
                        let found = number * WORD + bits.trailing_zeros();
                        return Ok(Some(found).filter(|found| found < position_count));
                    }
                    left -= bits.count_ones();
                    number += 1;
                    mask = u64::MAX;
                }
                Ok(None)
            }
        }
    }

    /// The one that stands `count` places before the largest that is `to` or smaller, as [`Positions::nth_ge`].
    ///
    /// # Errors
    /// Those of `touch`.
    pub fn nth_le(&mut self, to: u32, count: u32) -> Result<Option<u32>, T::Error> {
        match &mut self.held {
            Held::One(position) => Ok(Some(*position).filter(|position| *position <= to && count == 0)),
            Held::List { list, start, hint } => {
                let near = hint.unwrap_or(self.count.saturating_sub(1));
                let after = partition(list, *start, self.count, near, u64::from(to) + 1)?;
                let Some(at) = after.checked_sub(1).and_then(|at| at.checked_sub(count)) else { return Ok(None) };
                *hint = Some(at);
                Ok(number_at(list, *start, self.count, at)?.filter(|position| *position <= to))
            }
            Held::Bitmap { words, start, position_count } => {
                let Some(last) = position_count.checked_sub(1) else { return Ok(None) };
                let to = to.min(last);
                let (mut left, mut mask) = (count, u64::MAX >> (WORD - 1 - to % WORD));
                for number in (0..=to / WORD).rev() {
                    let Some(bits) = word_at(words, *start, number)? else { return Ok(None) };
                    let mut bits = bits & mask;
                    if bits.count_ones() > left {
                        (0..left).for_each(|_| bits &= !(1 << bits.ilog2()));
                        return Ok(Some(number * WORD + bits.ilog2()));
                    }
                    left -= bits.count_ones();
                    mask = u64::MAX;
                }
                Ok(None)
            }
        }
    }

    /// Of a bit map: its words from `number` on, as far as they were announced together; in little-endian bytes. `None`
    /// beyond the end, and if it is no bit map. Bits of positions that the tier does not cover may be set.
    ///
    /// # Errors
    /// Those of `touch`.
    #[inline]
    pub fn words_from(&mut self, number: u32) -> Result<Option<&'a [[u8; 8]]>, T::Error> {
        let Held::Bitmap { words, start, position_count } = &mut self.held else { return Ok(None) };
        let left = position_count.div_ceil(WORD).saturating_sub(number);
        let Some(row) = number.checked_mul(2).and_then(|row| row.checked_add(*start)) else { return Ok(None) };
        if left == 0 { Ok(None) } else { Ok(words.from(row, left * 2)?.map(|bytes| bytes.as_chunks().0)) }
    }

    /// The same up to and with `number`: the last one is it.
    ///
    /// # Errors
    /// Those of `touch`.
    #[inline]
    pub fn words_to(&mut self, number: u32) -> Result<Option<&'a [[u8; 8]]>, T::Error> {
        let Held::Bitmap { words, start, position_count } = &mut self.held else { return Ok(None) };
        let Some(row) = number.checked_mul(2).and_then(|row| row.checked_add(*start)) else { return Ok(None) };
        if number >= position_count.div_ceil(WORD) {
            return Ok(None);
        }
        Ok(words.to(row + 2, (number + 1) * 2)?.map(|bytes| bytes.as_rchunks().1))
    }

    /// Of a bit map: which of the positions `64 * number ..` are here, the first in the lowest bit. `None` beyond the
    /// end, and if it is no bit map.
    ///
    /// # Errors
    /// Those of `touch`.
    #[inline]
    pub fn word(&mut self, number: u32) -> Result<Option<u64>, T::Error> {
        match &mut self.held {
            Held::Bitmap { words, start, position_count } if number < position_count.div_ceil(WORD) => {
                let beyond = (u64::from(number) + 1) * u64::from(WORD);
                let kept = WORD - beyond.saturating_sub((*position_count).into()) as u32;
                Ok(word_at(words, *start, number)?.map(|bits| bits & (u64::MAX >> (WORD - kept))))
            }
            _ => Ok(None),
        }
    }

    /// All from `from` on, ascending.
    pub fn ascending(mut self, from: u32) -> impl Iterator<Item = Result<u32, T::Error>> + use<'a, T> {
        let mut next = Some(from);
        std::iter::from_fn(move || {
            let found = self.seek_ge(next?).transpose();
            next = match &found {
                Some(Ok(found)) => found.checked_add(1),
                _ => None,
            };
            found
        })
    }

    /// All up to `to`, descending.
    pub fn descending(mut self, to: u32) -> impl Iterator<Item = Result<u32, T::Error>> + use<'a, T> {
        let mut next = Some(to);
        std::iter::from_fn(move || {
            let found = self.seek_le(next?).transpose();
            next = match &found {
                Some(Ok(found)) => found.checked_sub(1),
                _ => None,
            };
            found
        })
    }
}

#[inline]
fn number_at<T: Touch>(list: &mut Window<'_, T, 4>, start: u32, count: u32, at: u32) -> Result<Option<u32>, T::Error> {
    match start.checked_add(at) {
        Some(row) if at < count => Ok(list.get(row, 1)?.map(|bytes| u32_at(bytes, 0))),
        _ => Ok(None),
    }
}

#[inline]
fn word_at<T: Touch>(words: &mut Window<'_, T, 4>, start: u32, word: u32) -> Result<Option<u64>, T::Error> {
    let row = word.checked_mul(2).and_then(|row| row.checked_add(start));
    let Some(row) = row else { return Ok(None) };
    Ok(words.get(row, 2)?.map(|bytes| u64_at(bytes, 0)))
}

/// The first of the list's places whose number is `bound` or larger, sought from `near` outward.
#[inline]
fn partition<T: Touch>(
    list: &mut Window<'_, T, 4>,
    start: u32,
    count: u32,
    near: u32,
    bound: u64,
) -> Result<u32, T::Error> {
    let mut is_past = |at: u32| Ok(number_at(list, start, count, at)?.is_none_or(|number| u64::from(number) >= bound));
    // All before `low` are smaller; `high` is past, or the end.
    let (mut low, mut high) = (0, count);
    let mut stride = 1u32;
    let near = near.min(count);
    if is_past(near)? {
        high = near;
        while let Some(at) = high.checked_sub(stride) {
            if !is_past(at)? {
                low = at + 1;
                break;
            }
            high = at;
            stride = stride.saturating_mul(2);
        }
    } else {
        low = near + 1;
        while let Some(at) = low.checked_add(stride - 1).filter(|at| *at < count) {
            if is_past(at)? {
                high = at;
                break;
            }
            low = at + 1;
            stride = stride.saturating_mul(2);
        }
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if is_past(middle)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
}
