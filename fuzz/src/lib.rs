//! What the targets share: the samples of the format's own tests.
#![forbid(unsafe_code)]

#[path = "../../format/tests/samples/mod.rs"]
pub mod samples;
