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
//! Both come in two forms, a mapped file and a [`Block`] on the heap. The second serves stores in memory, simulated
//! disks, Miri and the sanitizers.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, Index, Range, RangeFrom, RangeFull, RangeTo};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions, MmapRaw};
use parking_lot::RwLock;
use smallvec::SmallVec;

use super::StorageFile;

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

#[derive(Clone)]
enum Owner {
    File(#[expect(dead_code, reason = "kept for its drop")] Arc<Mmap>),
    Raw(#[expect(dead_code, reason = "kept for its drop")] Arc<MmapRaw>),
    Heap(#[expect(dead_code, reason = "kept for its drop")] Arc<Block>),
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
        Ok(Self {
            start: map.as_ptr(),
            len,
            _owner: Owner::File(Arc::new(map)),
        })
    }

    /// The bytes of a block that others may still write to, above what is looked at.
    pub(super) fn of_block(block: Arc<Block>) -> Self {
        Self {
            start: block.start(),
            len: block.len,
            _owner: Owner::Heap(block),
        }
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

    /// The bytes of `range` to be kept without a copy for as long as wanted. Costs one small allocation.
    ///
    /// # Panics
    ///
    /// If the range does not lie in the map.
    #[must_use]
    pub fn bytes_of(&self, range: Range<usize>) -> Bytes {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of a map of {}",
            self.len
        );
        Bytes::from_owner(Part {
            map: self.clone(),
            range,
        })
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
        let block = Block::new(bytes.len()).expect("memory for a copy of bytes that are in memory");
        block.write(0, &[io::IoSlice::new(bytes)]);
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
        f.debug_struct("Map")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

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

    /// A view of a block that others see as well.
    pub(super) fn of_block(block: Arc<Block>, writable: bool) -> io::Result<Self> {
        check_words(block.len)?;
        Ok(Self {
            start: block.start().cast(),
            len: block.len,
            writable,
            _owner: Owner::Heap(block),
        })
    }

    /// Maps the first `len` bytes of a file. The caller has checked that the file is that long and has all its
    /// blocks.
    pub(super) fn of_file(file: &File, len: usize, writable: bool) -> io::Result<Self> {
        check_words(len)?;
        if len == 0 {
            return Self::anonymous(0);
        }
        let mut options = MmapOptions::new();
        options.len(len);
        let map = if writable {
            options.map_raw(file)?
        } else {
            options.map_raw_read_only(file)?
        };
        make_resident(&map, writable)?;
        Ok(Self {
            start: map.as_ptr().cast(),
            len,
            writable,
            _owner: Owner::Raw(Arc::new(map)),
        })
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

    fn words(&self, offset: usize, len: usize) -> &[AtomicU64] {
        assert!(
            offset.is_multiple_of(8)
                && len.is_multiple_of(8)
                && offset <= self.len
                && len <= self.len - offset,
            "{len} bytes at {offset} of a shared map of {}",
            self.len
        );
        // SAFETY: the offset was checked against the length of the allocation.
        let start = unsafe { self.start.add(offset / 8) };
        // SAFETY: `_owner` keeps these initialised, 8-byte aligned words in place for the life of `self`, and an
        // atomic may change behind a shared reference.
        unsafe { std::slice::from_raw_parts(start, len / 8) }
    }

    fn words_to_store(&self, offset: usize, len: usize) -> &[AtomicU64] {
        // A store through a read-only mapping would be a SIGSEGV.
        assert!(self.writable, "a store to a map that is only read");
        self.words(offset, len)
    }

    /// Copies `bytes` to `offset`, word by word, relaxed.
    #[inline]
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        let words = self.words_to_store(offset, bytes.len());
        // Four words a round: the compiler does not unroll loops over atomics by itself.
        let mut quads = words.chunks_exact(4);
        let mut runs = bytes.chunks_exact(32);
        for (quad, run) in quads.by_ref().zip(runs.by_ref()) {
            quad[0].store(word_at(run, 0), Ordering::Relaxed);
            quad[1].store(word_at(run, 8), Ordering::Relaxed);
            quad[2].store(word_at(run, 16), Ordering::Relaxed);
            quad[3].store(word_at(run, 24), Ordering::Relaxed);
        }
        for (word, chunk) in quads
            .remainder()
            .iter()
            .zip(runs.remainder().chunks_exact(8))
        {
            word.store(word_at(chunk, 0), Ordering::Relaxed);
        }
    }

    /// Copies from `offset` to `out`, word by word, relaxed.
    #[inline]
    pub fn load(&self, offset: usize, out: &mut [u8]) {
        let words = self.words(offset, out.len());
        let mut quads = words.chunks_exact(4);
        let mut runs = out.chunks_exact_mut(32);
        for (quad, run) in quads.by_ref().zip(runs.by_ref()) {
            run[0..8].copy_from_slice(&quad[0].load(Ordering::Relaxed).to_ne_bytes());
            run[8..16].copy_from_slice(&quad[1].load(Ordering::Relaxed).to_ne_bytes());
            run[16..24].copy_from_slice(&quad[2].load(Ordering::Relaxed).to_ne_bytes());
            run[24..32].copy_from_slice(&quad[3].load(Ordering::Relaxed).to_ne_bytes());
        }
        for (word, chunk) in quads
            .remainder()
            .iter()
            .zip(runs.into_remainder().chunks_exact_mut(8))
        {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
    }

    /// Stores zeros to all of `range`, relaxed.
    pub fn zero(&self, range: Range<usize>) {
        let len = range
            .end
            .checked_sub(range.start)
            .expect("a range that does not run backwards");
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
            assert!(
                range.start <= range.end && range.end <= self.len,
                "{range:?} of a map of {}",
                self.len
            );
            // SAFETY: the range was checked against the length of the allocation.
            let start = unsafe { self.start.cast::<u8>().add(range.start) };
            // SAFETY: initialised bytes that `_owner` keeps in place; the ring gives their room free only after
            // this write, so nobody stores to them while the slice lives.
            parts.push(io::IoSlice::new(unsafe {
                std::slice::from_raw_parts(start, range.len())
            }));
        }
        if !tail.is_empty() {
            parts.push(io::IoSlice::new(tail));
        }
        file.write_at(file_offset, &parts)
    }
}

impl fmt::Debug for SharedMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMap")
            .field("len", &self.len)
            .field("writable", &self.writable)
            .finish_non_exhaustive()
    }
}

fn check_words(len: usize) -> io::Result<()> {
    if !len.is_multiple_of(8) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "shared memory is a multiple of 8 bytes",
        ));
    }
    Ok(())
}

fn word_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

/// Brings all pages in before the first use: a page that cannot be read is an error here and not a signal later,
/// and the first append pays for no fault. Kernels before 5.14 do not know the advice, which only costs time.
fn make_resident(map: &MmapRaw, writable: bool) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use memmap2::Advice;
        let advice = if writable {
            Advice::PopulateWrite
        } else {
            Advice::PopulateRead
        };
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

/// Zeroed memory on the heap, aligned to 16 bytes and shared by all views of one file.
///
/// Pages the system has not been asked for yet cost nothing, so a large file in memory is cheap until written.
pub(super) struct Block {
    pairs: Box<[Pair]>,
    len: usize,
    /// Writers exclude each other and readers by [`Block::read`]. Slices of a [`Map`] are not under it: they are
    /// of bytes that do not change.
    access: RwLock<()>,
}

#[repr(C, align(16))]
struct Pair([AtomicU64; 2]);

impl Block {
    pub(super) fn new(len: usize) -> io::Result<Self> {
        Ok(Self {
            pairs: zeroed_pairs(len.div_ceil(16))?,
            len,
            access: RwLock::new(()),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn start(&self) -> *const u8 {
        self.pairs.as_ptr().cast()
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: a `Pair` is exactly two words without padding (repr(C), 16 bytes), so the slice is as many words
        // as twice its length.
        unsafe { std::slice::from_raw_parts(self.pairs.as_ptr().cast(), self.pairs.len() * 2) }
    }

    /// Copies out from `offset` on; answers how many bytes there were.
    ///
    /// Word by word and atomically, so that a ring can be read while it is stored to.
    pub(super) fn read(&self, offset: usize, out: &mut [u8]) -> usize {
        let count = out.len().min(self.len.saturating_sub(offset));
        let _shared = self.access.read();
        let words = self.words();
        let mut out = &mut out[..count];
        let mut at = offset;
        while !out.is_empty() {
            let word = words[at / 8].load(Ordering::Relaxed).to_ne_bytes();
            let from = at % 8;
            let step = out.len().min(8 - from);
            let (now, rest) = out.split_at_mut(step);
            now.copy_from_slice(&word[from..from + step]);
            out = rest;
            at += step;
        }
        count
    }

    /// Copies the parts in from `offset` on. The caller has checked that they fit.
    pub(super) fn write(&self, offset: usize, parts: &[io::IoSlice<'_>]) {
        let _alone = self.access.write();
        let mut at = offset;
        for part in parts {
            self.write_part(at, part);
            at += part.len();
        }
    }

    fn write_part(&self, offset: usize, bytes: &[u8]) {
        assert!(
            offset <= self.len && bytes.len() <= self.len - offset,
            "a write inside the block"
        );
        // SAFETY: the offset was checked against the length of the allocation.
        let target = unsafe { self.start().add(offset) };
        // SAFETY: initialised bytes of the allocation; the lock held by the caller keeps other writers out, and
        // the slice is gone before the copy below.
        let before = unsafe { std::slice::from_raw_parts(target, bytes.len()) };
        // The last page of a group is written again as it grows, and what it held is being read by then: the part
        // that stays the same is left alone.
        let same = equal_prefix(before, bytes);
        let rest = &bytes[same..];
        // SAFETY: `same` is at most the length of the part, which lies in the allocation.
        let target = unsafe { target.add(same) }.cast_mut();
        // SAFETY: source and target are valid for the length and do not overlap (a block gives out no slice to
        // the writer). The memory consists of atomics, so it may be written behind a shared reference; the lock
        // keeps other writers out, and no reader looks at bytes that still change.
        unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), target, rest.len()) };
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

fn equal_prefix(a: &[u8], b: &[u8]) -> usize {
    const RUN: usize = 64;
    let runs = a
        .chunks_exact(RUN)
        .zip(b.chunks_exact(RUN))
        .take_while(|(a, b)| a == b)
        .count();
    let rest = a[runs * RUN..].iter().zip(&b[runs * RUN..]);
    runs * RUN + rest.take_while(|(a, b)| a == b).count()
}

/// As many zeroed pairs, without touching their pages.
fn zeroed_pairs(count: usize) -> io::Result<Box<[Pair]>> {
    if count == 0 {
        return Ok(Box::new([]));
    }
    let layout = Layout::array::<Pair>(count).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // SAFETY: the layout is not of size zero: the count is not zero, and a pair has 16 bytes.
    let start = unsafe { alloc_zeroed(layout) }.cast::<Pair>();
    if start.is_null() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let slice = std::ptr::slice_from_raw_parts_mut(start, count);
    // SAFETY: allocated just now by the global allocator with the layout of exactly this slice, and zero bytes are
    // a valid value of atomic words.
    Ok(unsafe { Box::from_raw(slice) })
}

