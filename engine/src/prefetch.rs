//! Asking for memory before it is needed: the tables of a large store lie outside the caches, and an append looks into
//! several of them. Asked for together, they arrive together.
#![allow(unsafe_code)]

/// Begins to load the cache line of `place`. Changes nothing but time.
#[inline(always)]
pub(crate) fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction belongs to every x86-64 processor and neither reads nor writes for the program, whatever
        // the address; this one is that of a live reference besides.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = place;
    }
}

/// Begins to load the cache lines of `bytes`: the first `most` of them and the last.
#[inline(always)]
pub(crate) fn prefetch_lines(bytes: &[u8], most: usize) {
    let Some((last, before)) = bytes.split_last() else { return };
    before.chunks(64).take(most).for_each(|line| prefetch(&line[0]));
    prefetch(last);
}

/// The same for a line that is about to be stored to: it comes without those who have it keeping it.
#[inline(always)]
pub(crate) fn prefetch_for_store<T>(place: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        // SAFETY: as above; a processor that does not know it passes over it. By hand, because the compiler takes the other
        // instruction where it is not told that this one is there.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) std::ptr::from_ref(place), options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    {
        let _ = place;
    }
}
