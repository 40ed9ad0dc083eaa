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
