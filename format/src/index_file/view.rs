//! Reading flat arrays of a file, by places that are announced before they are read.

use std::convert::Infallible;
use std::ops::Range;

use rkyv::vec::ArchivedVec;

use super::{BLOCK_LEN, FILE_HEADER_LEN};
use crate::Fault;

/// Is told which bytes of a file a look-up is about to read, before it reads them.
///
/// So whoever maps the file verifies its blocks one by one, when they are first needed:
/// [`CheckTable::blocks_of`](super::CheckTable::blocks_of) says which these are. Told is never more than the block that
/// holds the wanted bytes and the few bytes around them, unless a row itself asks for more. An error ends the look-up
/// and is its answer.
pub trait Touch {
    /// Why the bytes may not be read.
    type Error;

    /// Bytes at `range` of the file will be read. `range` is not empty and lies within the archive.
    ///
    /// # Errors
    /// If they must not be.
    fn touch(&self, range: Range<usize>) -> Result<(), Self::Error>;
}

impl<T: Touch + ?Sized> Touch for &T {
    type Error = T::Error;

    #[inline]
    fn touch(&self, range: Range<usize>) -> Result<(), T::Error> {
        (**self).touch(range)
    }
}

/// For a file of which every block was verified before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verified;

impl Touch for Verified {
    type Error = Infallible;

    #[inline]
    fn touch(&self, _range: Range<usize>) -> Result<(), Infallible> {
        Ok(())
    }
}

/// An array in a file: elements of `WIDTH` bytes, without gaps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Flat<const WIDTH: usize> {
    start: u32,
    len: u32,
}

impl<const WIDTH: usize> Flat<WIDTH> {
    /// The array behind a pointer of the archive in `file`.
    pub(crate) fn of<T>(file: &[u8], array: &ArchivedVec<T>) -> Result<Self, Fault> {
        const { assert!(WIDTH > 0 && size_of::<T>() == WIDTH) };
        let start = array.as_ptr().addr().checked_sub(file.as_ptr().addr());
        let whole = start.and_then(|start| Some((start, start.checked_add(array.len().checked_mul(WIDTH)?)?)));
        let (start, _) = whole.filter(|(_, end)| *end <= file.len()).ok_or(Fault::Structure { what: "archive" })?;
        let narrow = |number: usize| u32::try_from(number).map_err(|_| Fault::Structure { what: "archive" });
        Ok(Self { start: narrow(start)?, len: narrow(array.len())? })
    }

    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Where these elements lie, as many of them as there are.
    #[inline]
    pub(crate) fn place(&self, rows: Range<u32>) -> Range<usize> {
        let end = rows.end.min(self.len);
        let start = rows.start.min(end);
        // In 64 bits: below 2^32 + 2^32 * WIDTH.
        let at = |row: u32| (u64::from(self.start) + u64::from(row) * WIDTH as u64) as usize;
        at(start)..at(end)
    }
}

/// A file and who is told what is read of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a, T> {
    pub(crate) file: &'a [u8],
    pub(crate) touch: T,
}

impl<'a, T: Touch> View<'a, T> {
    #[inline]
    pub(crate) fn new(file: &'a [u8], touch: T) -> Self {
        Self { file, touch }
    }

    /// These bytes, announced; none if the file is shorter.
    #[inline]
    pub(crate) fn bytes(&self, place: Range<usize>) -> Result<&'a [u8], T::Error> {
        if place.is_empty() {
            return Ok(&[]);
        }
        self.touch.touch(place.clone())?;
        Ok(self.file.get(place).unwrap_or_default())
    }

    /// These elements, as many of them as there are.
    #[inline]
    pub(crate) fn rows<const WIDTH: usize>(
        &self,
        flat: Flat<WIDTH>,
        rows: Range<u32>,
    ) -> Result<&'a [[u8; WIDTH]], T::Error> {
        Ok(self.bytes(flat.place(rows))?.as_chunks().0)
    }

    #[inline]
    pub(crate) fn row<const WIDTH: usize>(
        &self,
        flat: Flat<WIDTH>,
        row: u32,
    ) -> Result<Option<&'a [u8; WIDTH]>, T::Error> {
        Ok(self.rows(flat, row..row.saturating_add(1))?.first())
    }

    /// The first row for which `is_past` holds, if it holds for all that follow one for which it does.
    pub(crate) fn partition_point<const WIDTH: usize>(
        &self,
        flat: Flat<WIDTH>,
        mut is_past: impl FnMut(&[u8; WIDTH]) -> bool,
    ) -> Result<u32, T::Error> {
        let (mut low, mut high) = (0, flat.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.row(flat, middle)? {
                Some(row) if !is_past(row) => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }
}

/// Rows read here and there of one array, announced a block at a time.
#[derive(Clone, Debug)]
pub(crate) struct Window<'a, T, const WIDTH: usize> {
    view: View<'a, T>,
    flat: Flat<WIDTH>,
    announced: Range<usize>,
}

impl<'a, T: Touch, const WIDTH: usize> Window<'a, T, WIDTH> {
    #[inline]
    pub(crate) fn new(view: View<'a, T>, flat: Flat<WIDTH>) -> Self {
        Self { view, flat, announced: 0..0 }
    }

    /// `count` elements from this one on; `None` if that many are not there. They must not be more than a few.
    #[inline]
    pub(crate) fn get(&mut self, row: u32, count: u32) -> Result<Option<&'a [u8]>, T::Error> {
        match row.checked_add(count) {
            Some(end) if end <= self.flat.len => {}
            _ => return Ok(None),
        }
        let place = self.flat.place(row..row + count);
        if place.start < self.announced.start || place.end > self.announced.end {
            self.announce(&place)?;
        }
        Ok(self.view.file.get(place))
    }

    /// At most `most` elements from this one on, one or more, as many as are announced with it; `None` if it is not there.
    #[inline]
    pub(crate) fn from(&mut self, row: u32, most: u32) -> Result<Option<&'a [u8]>, T::Error> {
        let Some(first) = self.get(row, 1)?.map(|_| self.flat.place(row..row + 1)) else { return Ok(None) };
        let end = self.flat.place(row..row.saturating_add(most)).end.min(self.announced.end);
        Ok(self.view.file.get(first.start..end))
    }

    /// At most `most` elements in front of this one, one or more, as many as are announced with the last of them; `None`
    /// if that is not there.
    #[inline]
    pub(crate) fn to(&mut self, row: u32, most: u32) -> Result<Option<&'a [u8]>, T::Error> {
        let Some(last) = row.checked_sub(1) else { return Ok(None) };
        let Some(end) = self.get(last, 1)?.map(|_| self.flat.place(last..row).end) else { return Ok(None) };
        let start = self.flat.place(row.saturating_sub(most)..row).start.max(self.announced.start);
        Ok(self.view.file.get(start..end))
    }

    /// `count` elements from this one on, as many of them as there are, announced at once.
    pub(crate) fn all(&self, row: u32, count: u32) -> Result<&'a [[u8; WIDTH]], T::Error> {
        self.view.rows(self.flat, row..row.saturating_add(count))
    }

    /// All of the array that lies in the blocks of `place`.
    #[cold]
    fn announce(&mut self, place: &Range<usize>) -> Result<(), T::Error> {
        let array = self.flat.place(0..u32::MAX);
        let block = |offset: usize| offset.saturating_sub(FILE_HEADER_LEN) / BLOCK_LEN;
        let start = (FILE_HEADER_LEN + block(place.start) * BLOCK_LEN).max(array.start);
        let end = (FILE_HEADER_LEN + (block(place.end.saturating_sub(1)) + 1) * BLOCK_LEN).min(array.end);
        self.announced = 0..0;
        self.view.touch.touch(start..end)?;
        self.announced = start..end;
        Ok(())
    }
}
