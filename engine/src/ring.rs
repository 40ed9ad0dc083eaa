//! The ring: the newest bytes of the log, in memory that other threads copy from while the writer stores into it.
//!
//! Log offset `x` lies at `x mod length`. All access is by relaxed atomic words ([`SharedMap`]), so a reader that races
//! with the writer reads stale or mixed words, never undefined ones; it then finds out by the watermark's `low`.

use std::ops::Range;

use crate::storage::SharedMap;

#[derive(Debug)]
pub(crate) struct Ring {
    memory: SharedMap,
    /// Where the ring's first byte lies in `memory`: behind the file's header page, or 0 for a private ring.
    start: usize,
    len: u64,
    /// Whether the bytes survive this process. If not, a `Buffered` commit is flushed before its answer.
    pub(crate) survives_kill: bool,
}

impl Ring {
    pub(crate) fn new(memory: SharedMap, start: usize, survives_kill: bool) -> Self {
        let len = (memory.len() - start) as u64;
        debug_assert!(len.is_power_of_two());
        Self { memory, start, len, survives_kill }
    }

    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The one or two stretches of memory that hold log offsets `from..to`, at most the whole ring.
    #[inline]
    fn stretches(&self, from: u64, to: u64) -> (Range<usize>, Range<usize>) {
        debug_assert!(to - from <= self.len);
        let begin = (from & (self.len - 1)) as usize;
        let until_wrap = (self.len as usize - begin).min((to - from) as usize);
        let rest = (to - from) as usize - until_wrap;
        let first = self.start + begin..self.start + begin + until_wrap;
        (first, self.start..self.start + rest)
    }

    /// Stores `bytes` (a multiple of 8, at a multiple of 8) at log offset `at`.
    #[inline]
    pub(crate) fn store(&self, at: u64, bytes: &[u8]) {
        let (first, second) = self.stretches(at, at + bytes.len() as u64);
        let (head, rest) = bytes.split_at(first.len());
        self.memory.store(first.start, head);
        if !rest.is_empty() {
            self.memory.store(second.start, rest);
        }
    }

    /// Stores zeros to these bytes of the ring (multiples of 8), wherever in the log they lie.
    pub(crate) fn zero(&self, range: Range<u64>) {
        self.memory.zero(self.start + range.start as usize..self.start + range.end as usize);
    }

    /// Copies what stands at log offset `at` into `out` (a multiple of 8).
    #[inline]
    pub(crate) fn load(&self, at: u64, out: &mut [u8]) {
        let (first, second) = self.stretches(at, at + out.len() as u64);
        let (head, rest) = out.split_at_mut(first.len());
        self.memory.load(first.start, head);
        if !rest.is_empty() {
            self.memory.load(second.start, rest);
        }
    }

    /// Writes log offsets `from..to` and then `tail` to `file` at `file_offset`, in one call.
    pub(crate) fn write_to(
        &self,
        file: &dyn crate::storage::StorageFile,
        file_offset: u64,
        from: u64,
        to: u64,
        tail: &[u8],
    ) -> std::io::Result<()> {
        let (first, second) = self.stretches(from, to);
        self.memory.write_to(file, file_offset, &[first, second], tail)
    }
}
