//! Memory of atomic words, for what is written while others read.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use smallvec::SmallVec;

use super::{Block, Owner};
use crate::storage::StorageFile;

/// The size of a huge page: from here on memory is asked for in such.
const HUGE_FROM: usize = 2 << 20;

/// Memory shared with other threads or processes, touched by atomic words only.
///
/// A race between a store and a load gives old or new words in any mix, never undefined behaviour. Words are in the
/// machine's byte order, so that bytes come out as they went in. Offsets and lengths are in bytes, multiples of 8,
/// and lie inside the memory: everything else panics.
#[derive(Clone)]
pub struct SharedMap {
    start: *const AtomicU64,
    len: usize,
    writable: bool,
    _owner: Owner,
}

// SAFETY: `start` points into memory that `_owner` keeps in place for as long as the map lives, and is only used
// for atomic operations.
unsafe impl Send for SharedMap {}
// SAFETY: as above.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// `len` zero bytes of this process's own.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](io::ErrorKind::OutOfMemory); [`InvalidInput`](io::ErrorKind::InvalidInput) if `len` is no
    /// multiple of 8.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::of_block(Arc::new(Block::new(len)?), true)
    }

    /// `count` zero words of this process's own, in huge pages where they are many and the system has such: tables that
    /// are looked into at random then wait less for the translation of addresses.
    ///
    /// # Panics
    ///
    /// If there is no memory, as any other allocation does.
    pub(crate) fn zeroed_words(count: usize) -> Self {
        let len = count * size_of::<u64>();
        if len < HUGE_FROM {
            return Self::anonymous(len).expect("memory for a table");
        }
        let map = MmapRaw::from(MmapOptions::new().len(len).map_anon().expect("memory for a table"));
        #[cfg(target_os = "linux")]
        {
            // Without huge pages everything works, a little slower.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Self { start: map.as_ptr().cast(), len, writable: true, _owner: Owner::Raw(Arc::new(map)) }
    }

    /// Has the system give the first `count` words, or all, their pages before somebody waits for them; of words that are zero
    /// and that nobody else has.
    pub(crate) fn bring_in(&self, count: usize) {
        let words = &self.as_words()[..count.min(self.len / 8)];
        words.chunks(512).for_each(|page| page[0].store(0, Ordering::Relaxed));
    }

    /// All of it as words.
    #[inline]
    pub(crate) fn as_words(&self) -> &[AtomicU64] {
        // SAFETY: `_owner` keeps these initialised, 8-byte aligned words in place for the life of `self`, and an
        // atomic may change behind a shared reference; of maps that are only read, callers ask for loads alone.
        unsafe { std::slice::from_raw_parts(self.start, self.len / 8) }
    }

    /// A view of a block that others see as well.
    pub(in crate::storage) fn of_block(block: Arc<Block>, writable: bool) -> io::Result<Self> {
        check_words(block.len())?;
        Ok(Self { start: block.start().cast(), len: block.len(), writable, _owner: Owner::Heap(block) })
    }

    /// Maps the first `len` bytes of a file. The caller has checked that the file is that long and has all its
    /// blocks.
    pub(in crate::storage) fn of_file(file: &File, len: usize, writable: bool) -> io::Result<Self> {
        check_words(len)?;
        if len == 0 {
            return Self::anonymous(0);
        }
        let mut options = MmapOptions::new();
        options.len(len);
        let map = if writable { options.map_raw(file)? } else { options.map_raw_read_only(file)? };
        make_resident(&map, writable)?;
        Ok(Self { start: map.as_ptr().cast(), len, writable, _owner: Owner::Raw(Arc::new(map)) })
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no memory at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it may be stored to.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    #[inline]
    fn words(&self, offset: usize, len: usize) -> &[AtomicU64] {
        assert!(
            offset.is_multiple_of(8) && len.is_multiple_of(8) && offset <= self.len && len <= self.len - offset,
            "{len} bytes at {offset} of a shared map of {}",
            self.len
        );
        // SAFETY: the offset was checked against the length of the allocation.
        let start = unsafe { self.start.add(offset / 8) };
        // SAFETY: `_owner` keeps these initialised, 8-byte aligned words in place for the life of `self`, and an
        // atomic may change behind a shared reference.
        unsafe { std::slice::from_raw_parts(start, len / 8) }
    }

    #[inline]
    fn words_to_store(&self, offset: usize, len: usize) -> &[AtomicU64] {
        // A store through a read-only mapping would be a SIGSEGV.
        assert!(self.writable, "a store to a map that is only read");
        self.words(offset, len)
    }

    /// Copies `bytes` to `offset`, word by word, relaxed.
    #[inline]
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        let (quads, words) = self.words_to_store(offset, bytes.len()).as_chunks::<4>();
        let (runs, rest) = bytes.as_chunks::<8>().0.as_chunks::<4>();
        // Four words a round: the compiler does not unroll loops over atomics by itself.
        for (quad, run) in quads.iter().zip(runs) {
            quad[0].store(u64::from_ne_bytes(run[0]), Ordering::Relaxed);
            quad[1].store(u64::from_ne_bytes(run[1]), Ordering::Relaxed);
            quad[2].store(u64::from_ne_bytes(run[2]), Ordering::Relaxed);
            quad[3].store(u64::from_ne_bytes(run[3]), Ordering::Relaxed);
        }
        for (word, bytes) in words.iter().zip(rest) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }

    /// Copies from `offset` to `out`, word by word, relaxed.
    #[inline]
    pub fn load(&self, offset: usize, out: &mut [u8]) {
        let (quads, words) = self.words(offset, out.len()).as_chunks::<4>();
        let (runs, rest) = out.as_chunks_mut::<8>().0.as_chunks_mut::<4>();
        for (quad, run) in quads.iter().zip(runs) {
            run[0] = quad[0].load(Ordering::Relaxed).to_ne_bytes();
            run[1] = quad[1].load(Ordering::Relaxed).to_ne_bytes();
            run[2] = quad[2].load(Ordering::Relaxed).to_ne_bytes();
            run[3] = quad[3].load(Ordering::Relaxed).to_ne_bytes();
        }
        for (word, bytes) in words.iter().zip(rest) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
    }

    /// As [`SharedMap::store`], each word released: whoever acquires one sees what was written before.
    pub(crate) fn store_released(&self, offset: usize, bytes: &[u8]) {
        let words = self.words_to_store(offset, bytes.len());
        for (word, bytes) in words.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Release);
        }
    }

    /// As [`SharedMap::load`], each word acquired: what was written before a word that this sees is seen after it.
    pub(crate) fn load_acquired(&self, offset: usize, out: &mut [u8]) {
        let words = self.words(offset, out.len());
        for (bytes, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.load(Ordering::Acquire).to_ne_bytes();
        }
    }

    /// Stores zeros to all of `range`, relaxed.
    pub fn zero(&self, range: Range<usize>) {
        let len = range.end.checked_sub(range.start).expect("a range that does not run backwards");
        for word in self.words_to_store(range.start, len) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// The word at `offset`, for orderings and operations of the caller's choice. Through a map that is only read
    /// nothing but loads are allowed.
    #[inline]
    #[must_use]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        &self.words(offset, 8)[0]
    }

    /// The four bytes at `offset`, a multiple of 8, as a word to sleep on. Nobody is to use the whole word there. Through a
    /// map that is only read nothing but loads are allowed.
    #[inline]
    #[must_use]
    pub fn half_word(&self, offset: usize) -> &AtomicU32 {
        let word: *const AtomicU64 = self.word(offset);
        // SAFETY: the word lies in the map, is aligned to more than four bytes, and lives as long as `self`; its first
        // half is used by this alone.
        unsafe { &*word.cast::<AtomicU32>() }
    }

    /// Loads one word.
    #[inline]
    #[must_use]
    pub fn load_word(&self, offset: usize, ordering: Ordering) -> u64 {
        self.word(offset).load(ordering)
    }

    /// Stores one word.
    #[inline]
    pub fn store_word(&self, offset: usize, value: u64, ordering: Ordering) {
        self.words_to_store(offset, 8)[0].store(value, ordering);
    }

    /// Writes the bytes of `ranges`, one after the other, and then `tail` to `file`: one call to the system, and
    /// no copy. Ranges may start and end at any byte.
    ///
    /// Nobody stores into the ranges until this returns: room in a ring is given free only after its flush. The
    /// caller sees to that.
    ///
    /// # Errors
    ///
    /// As [`StorageFile::write_at`].
    ///
    /// # Panics
    ///
    /// If a range does not lie in the map.
    pub fn write_to(
        &self,
        file: &dyn StorageFile,
        file_offset: u64,
        ranges: &[Range<usize>],
        tail: &[u8],
    ) -> io::Result<()> {
        let mut parts: SmallVec<[io::IoSlice<'_>; 4]> = SmallVec::new();
        for range in ranges {
            assert!(range.start <= range.end && range.end <= self.len, "{range:?} of a map of {}", self.len);
            // SAFETY: the range was checked against the length of the allocation.
            let start = unsafe { self.start.cast::<u8>().add(range.start) };
            // SAFETY: initialised bytes that `_owner` keeps in place; the ring gives their room free only after
            // this write, so nobody stores to them while the slice lives.
            parts.push(io::IoSlice::new(unsafe { std::slice::from_raw_parts(start, range.len()) }));
        }
        if !tail.is_empty() {
            parts.push(io::IoSlice::new(tail));
        }
        file.write_at(file_offset, &parts)
    }
}

impl fmt::Debug for SharedMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMap").field("len", &self.len).field("writable", &self.writable).finish_non_exhaustive()
    }
}

fn check_words(len: usize) -> io::Result<()> {
    if !len.is_multiple_of(8) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "shared memory is a multiple of 8 bytes"));
    }
    Ok(())
}

/// Brings all pages in before the first use: a page that cannot be read is an error here and not a signal later,
/// and the first append pays for no fault. Kernels before 5.14 do not know the advice, which only costs time.
fn make_resident(map: &MmapRaw, writable: bool) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use memmap2::Advice;
        let advice = if writable { Advice::PopulateWrite } else { Advice::PopulateRead };
        match map.advise(advice) {
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
            _ => {}
        }
        if writable {
            // Locked pages are never evicted, so never read again. The limit on them may be small: not needed.
            drop(map.lock());
        }
    }
    let _ = (map, writable);
    Ok(())
}
