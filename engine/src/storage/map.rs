//! Mapped bytes as slices and as words: the home of the engine's unsafe code.
//!
//! [`Map`] hands out `&[u8]`. That is sound for the bytes nobody writes any more, which is what the store's
//! watermark is for: the writer puts bytes down first and moves the watermark (release) afterwards; whoever reads
//! the watermark (acquire) may look at all that lies below it. Slices are made for the range asked for, never for
//! the whole file, so that no reference ever covers bytes that are still being written.
//!
//! [`SharedMap`] is for memory that *is* written while others read. There are no references to its bytes, only
//! atomic words; whoever copies from it checks afterwards whether the copy is one that counts.
//!
//! Both come in two forms, a mapped file and a block on the heap. The second serves stores in memory, simulated
//! disks, Miri and the sanitizers.
#![allow(unsafe_code)]

mod block;
mod shared;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, Index, Range, RangeFrom, RangeFull, RangeTo};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions, MmapRaw};

pub(super) use block::Block;
pub use shared::SharedMap;

/// A file, or a part of the heap, as bytes that no longer change.
///
/// Cloning is cheap and keeps the mapping alive, also after the file has been removed. The start is aligned to at
/// least 16 bytes.
#[derive(Clone)]
pub struct Map {
    start: *const u8,
    len: usize,
    _owner: Owner,
}

/// Copies take at least so much memory, so that the next one may use it again.
const COPY_MIN: usize = 1024;
/// Memory longer than this is given back: it is more than a copy takes, such as a whole file in memory.
const COPY_MAX: usize = 128 << 10;

#[derive(Clone)]
enum Owner {
    File(Arc<Mmap>),
    Raw(#[expect(dead_code, reason = "kept for its drop")] Arc<MmapRaw>),
    Heap(Arc<Block>),
}

// SAFETY: `start` points into memory that `_owner` keeps in place for as long as the map lives, whichever thread
// that is on; the map is only read through.
unsafe impl Send for Map {}
// SAFETY: as above; `&Map` gives nothing but shared slices.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the first `len` bytes of a file. The caller has checked that the file is that long.
    pub(super) fn of_file(file: &File, len: usize) -> io::Result<Self> {
        if len == 0 {
            return Ok(Self::from(Vec::new()));
        }
        // SAFETY: files of a store are never cut short while they live, and bytes that are looked at do not change
        // (see the module). The writer's lock keeps other writers out; that nobody else writes to the directory is
        // the documented assumption of opening a store.
        let map = unsafe { MmapOptions::new().len(len).map(file) }?;
        Ok(Self { start: map.as_ptr(), len, _owner: Owner::File(Arc::new(map)) })
    }

    /// The bytes of a block that others may still write to, above what is looked at.
    pub(super) fn of_block(block: Arc<Block>) -> Self {
        Self { start: block.start(), len: block.len(), _owner: Owner::Heap(block) }
    }

    /// `len` bytes of this process's own, as `fill` leaves them: in the memory of `used` if nobody else holds that and it is
    /// long enough. They begin with zeros or with what stood there.
    pub(crate) fn copied(len: usize, used: Option<Self>, fill: impl FnOnce(&mut [u8])) -> Self {
        let used = used.and_then(|map| match map._owner {
            Owner::Heap(mut block) => (block.len() >= len && Arc::get_mut(&mut block).is_some()).then_some(block),
            _ => None,
        });
        let mut block = used.unwrap_or_else(|| {
            let len = len.next_power_of_two().max(COPY_MIN);
            Arc::new(Block::new(len).expect("memory for a copy of what is in memory"))
        });
        fill(&mut Arc::get_mut(&mut block).expect("held by nobody else").bytes_mut()[..len]);
        Self { start: block.start(), len, _owner: Owner::Heap(block) }
    }

    /// Whether it is memory of this process's own that may serve another copy.
    pub(crate) fn is_copy(&self) -> bool {
        matches!(&self._owner, Owner::Heap(block) if block.len() <= COPY_MAX)
    }

    /// Tells the system that pages are wanted here and there. A hint: what comes of it is not asked.
    pub(super) fn expect_no_order(&self) {
        #[cfg(unix)]
        if let Owner::File(map) = &self._owner {
            let _ = map.advise(memmap2::Advice::Random);
        }
    }

    /// Tells the system that pages are wanted one after the other, so that it reads ahead.
    pub(crate) fn expect_order(&self) {
        #[cfg(unix)]
        if let Owner::File(map) = &self._owner {
            let _ = map.advise(memmap2::Advice::Normal);
        }
    }

    /// Enters the pages of this range, which are in memory, into the process's tables: a look-up later need not wait for
    /// that. Where the system cannot, nothing happens.
    pub(crate) fn enter_pages(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Owner::File(map) = &self._owner
            && range.start < range.end
            && range.end <= self.len
        {
            let _ = map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len());
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of `range`, or `None` if it does not lie in the map.
    #[inline]
    #[must_use]
    pub fn get(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        // SAFETY: the range was checked against the length of the allocation, so the sum stays inside it.
        let start = unsafe { self.start.add(range.start) };
        // SAFETY: `_owner` keeps these initialised bytes in place for the life of `self`; callers look only at
        // bytes below the watermark, which nobody changes any more.
        Some(unsafe { std::slice::from_raw_parts(start, range.end - range.start) })
    }

    /// Copies from `offset` on, word by word, what others may be writing meanwhile: old and new bytes in any mix. Whoever
    /// copies verifies the copy. False, and nothing copied, if the range does not lie in the map.
    ///
    /// # Panics
    ///
    /// If offset or length is no multiple of 8.
    #[must_use]
    pub(crate) fn load(&self, offset: usize, out: &mut [u8]) -> bool {
        assert!(offset.is_multiple_of(8) && out.len().is_multiple_of(8), "{} bytes at {offset}", out.len());
        if offset > self.len || out.len() > self.len - offset {
            return false;
        }
        // SAFETY: the offset was checked against the length of the allocation.
        let start = unsafe { self.start.add(offset) }.cast::<AtomicU64>();
        // SAFETY: `_owner` keeps these initialised bytes in place; the start of a map and the offset are multiples of 8;
        // atomic words may change behind a shared reference, and are only loaded.
        let words = unsafe { std::slice::from_raw_parts(start, out.len() / 8) };
        for (bytes, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        true
    }

    /// The bytes of `range` to be kept without a copy for as long as wanted. Costs one small allocation.
    ///
    /// # Panics
    ///
    /// If the range does not lie in the map.
    #[must_use]
    pub fn bytes_of(&self, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of a map of {}", self.len);
        Bytes::from_owner(Part { map: self.clone(), range })
    }
}

/// A part of a map that owns its share of it.
struct Part {
    map: Map,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

/// The whole map. Only right where all of it has been written; `&map[a..b]` refers to no more than the range.
impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self[..]
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Index<Range<usize>> for Map {
    type Output = [u8];

    #[inline]
    fn index(&self, range: Range<usize>) -> &[u8] {
        match self.get(range.clone()) {
            Some(bytes) => bytes,
            None => panic!("{range:?} of a map of {}", self.len),
        }
    }
}

impl Index<RangeFrom<usize>> for Map {
    type Output = [u8];

    #[inline]
    fn index(&self, range: RangeFrom<usize>) -> &[u8] {
        &self[range.start..self.len]
    }
}

impl Index<RangeTo<usize>> for Map {
    type Output = [u8];

    #[inline]
    fn index(&self, range: RangeTo<usize>) -> &[u8] {
        &self[0..range.end]
    }
}

impl Index<RangeFull> for Map {
    type Output = [u8];

    #[inline]
    fn index(&self, _: RangeFull) -> &[u8] {
        &self[0..self.len]
    }
}

/// Copies the bytes to the heap.
impl From<&[u8]> for Map {
    fn from(bytes: &[u8]) -> Self {
        let mut block = Block::new(bytes.len()).expect("memory for a copy of bytes that are in memory");
        block.bytes_mut().copy_from_slice(bytes);
        Self::of_block(Arc::new(block))
    }
}

/// Copies the bytes: a vector need not be aligned.
impl From<Vec<u8>> for Map {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(bytes.as_slice())
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
