//! A value that is set once.
//!
//! The standard library's; with `cfg(annals_sanitize)` one that does the same by atomics of its own, because ThreadSanitizer
//! does not see those of the standard library, which comes compiled, and takes what they order for races.

#[cfg(annals_sanitize)]
pub(crate) use once_cell::sync::OnceCell as OnceLock;
#[cfg(not(annals_sanitize))]
pub(crate) use std::sync::OnceLock;
