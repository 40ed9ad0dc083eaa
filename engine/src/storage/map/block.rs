//! The heap in place of a mapped file.

use std::alloc::{Layout, alloc_zeroed};
use std::fmt;
use std::io;
use std::panic::RefUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

/// Zeroed memory on the heap, aligned to 16 bytes and shared by all views of one file.
///
/// Pages the system has not been asked for yet cost nothing, so a large file in memory is cheap until written.
pub(in crate::storage) struct Block {
    pairs: Box<[Pair]>,
    len: usize,
    /// Writers exclude each other and readers by [`Block::read`]. Slices of a [`Map`] are not under it: they are
    /// of bytes that do not change.
    access: RwLock<()>,
}

// A panic leaves bytes half written at worst, which every reader of a store must reckon with anyway.
impl RefUnwindSafe for Block {}

#[repr(C, align(16))]
struct Pair([AtomicU64; 2]);

impl Block {
    pub(in crate::storage) fn new(len: usize) -> io::Result<Self> {
        Ok(Self { pairs: zeroed_pairs(len.div_ceil(16))?, len, access: RwLock::new(()) })
    }

    pub(in crate::storage) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn start(&self) -> *const u8 {
        self.pairs.as_ptr().cast()
    }

    /// All of it, for whoever holds it alone.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        let start = self.pairs.as_mut_ptr().cast();
        // SAFETY: initialised bytes of the allocation, of which `len` is no more than there are; `&mut self` says that
        // nobody else looks at them, and any bytes are a valid value of atomic words.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: a `Pair` is exactly two words without padding (repr(C), 16 bytes), so the slice is as many words
        // as twice its length.
        unsafe { std::slice::from_raw_parts(self.pairs.as_ptr().cast(), self.pairs.len() * 2) }
    }

    /// Copies out from `offset` on; answers how many bytes there were.
    ///
    /// Word by word and atomically, so that a ring can be read while it is stored to.
    pub(in crate::storage) fn read(&self, offset: usize, out: &mut [u8]) -> usize {
        let count = out.len().min(self.len.saturating_sub(offset));
        if count == 0 {
            return 0;
        }
        let _shared = self.access.read();
        let (head, rest) = out[..count].split_at_mut(count.min(offset.next_multiple_of(8) - offset));
        self.read_in_word(offset, head);
        let words = &self.words()[(offset + head.len()) / 8..];
        let (whole, tail) = rest.as_chunks_mut::<8>();
        for (out, word) in whole.iter_mut().zip(words) {
            *out = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        let tail_len = tail.len();
        self.read_in_word(offset + count - tail_len, tail);
        count
    }

    /// Copies out bytes that lie in one word.
    fn read_in_word(&self, offset: usize, out: &mut [u8]) {
        if !out.is_empty() {
            let word = self.words()[offset / 8].load(Ordering::Relaxed).to_ne_bytes();
            out.copy_from_slice(&word[offset % 8..][..out.len()]);
        }
    }

    /// Copies the parts in from `offset` on. The caller has checked that they fit.
    pub(in crate::storage) fn write(&self, offset: usize, parts: &[io::IoSlice<'_>]) {
        let _alone = self.access.write();
        let mut at = offset;
        for part in parts {
            self.write_part(at, part);
            at += part.len();
        }
    }

    /// Word by word and atomically: a small file that is read through a [`SharedMap`] changes under its readers, and who sees a
    /// word of it (acquire) sees what was written before.
    fn write_part(&self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.len && bytes.len() <= self.len - offset, "a write inside the block");
        let (head, rest) = bytes.split_at(bytes.len().min(offset.next_multiple_of(8) - offset));
        self.write_in_word(offset, head);
        let words = &self.words()[(offset + head.len()) / 8..];
        let (whole, tail) = rest.as_chunks::<8>();
        for (word, bytes) in words.iter().zip(whole) {
            store_changed(word, u64::from_ne_bytes(*bytes));
        }
        self.write_in_word(offset + bytes.len() - tail.len(), tail);
    }

    /// Copies in bytes that lie in one word.
    fn write_in_word(&self, offset: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            let word = &self.words()[offset / 8];
            let mut value = word.load(Ordering::Relaxed).to_ne_bytes();
            value[offset % 8..][..bytes.len()].copy_from_slice(bytes);
            store_changed(word, u64::from_ne_bytes(value));
        }
    }
}

/// The last page of a group is written again as it grows, and what it held is being read by then: words that stay the same are
/// left alone.
#[inline]
fn store_changed(word: &AtomicU64, value: u64) {
    if word.load(Ordering::Relaxed) != value {
        word.store(value, Ordering::Release);
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("len", &self.len).finish_non_exhaustive()
    }
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
