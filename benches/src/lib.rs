//! The work that the benchmarks share, and the hand-written log they measure annals against.
//!
//! `benches/append.rs` times appends (batches of 1 to 1,000, `Buffered`, `Durable`, tickets, 1 to 64 threads),
//! `benches/read.rs` scans, reads of one stream, and opening. Other stores stand in `peers`, a workspace of its own.
//!
//! Everything is made beneath `ANNALS_BENCH_DIR`, by default the system's temporary directory. Durable figures mean
//! nothing on a file system in memory.

mod floor;
mod workload;

pub use floor::Floor;
pub use workload::{Prepared, Workload};

/// A directory of its own for one store, removed when dropped.
///
/// # Panics
/// If it cannot be made.
pub fn directory() -> tempfile::TempDir {
    match std::env::var_os("ANNALS_BENCH_DIR") {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    }
    .expect("a directory for the benchmark")
}
