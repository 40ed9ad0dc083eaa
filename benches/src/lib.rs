//! The work that the benchmarks share, and the hand-written log they measure annals against.
//!
//! `benches/append.rs` times appends (batches of 1 to 1,000, `Buffered`, `Durable`, tickets, 1 to 64 threads),
//! `benches/read.rs` scans, reads of one stream, and opening; `benches/follow.rs` following. Other stores stand in `peers`, a workspace of its own.
//!
//! Events are made before the clock starts, for annals and for the floor alike; what is timed is the call that stores
//! or reads them.

pub mod floor;
mod trial;
mod workload;

use std::path::Path;

pub use trial::{Shape, Trial};
pub use workload::{EVENT_LEN, Prepared, Workload, batches, events};

/// A directory of its own for one store, removed when dropped: beneath `ANNALS_BENCH_DIR`, else beneath `otherwise`,
/// which is made if need be. Durable figures mean nothing on a file system in memory.
///
/// # Panics
/// If it cannot be made.
pub fn directory(otherwise: &Path) -> tempfile::TempDir {
    let chosen = std::env::var_os("ANNALS_BENCH_DIR");
    let parent = chosen.as_deref().map_or(otherwise, Path::new);
    std::fs::create_dir_all(parent).expect("a directory for the benchmarks");
    tempfile::Builder::new().prefix("annals-bench-").tempdir_in(parent).expect("a directory for one benchmark")
}
