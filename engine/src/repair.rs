//! Repair: a new store made of everything that can still be read of a damaged one, and a report of what cannot.
//!
//! The damaged store is only read, by ordinary calls, and nothing in it is believed that no checksum covers. A batch is
//! taken over whole or not at all. Where records are lost, the new store holds records that say so: positions and
//! revisions of all others stay what they were.

mod rubble;
mod salvage;
mod tally;

use std::path::Path;

use crate::Result;
use crate::error::Error;
use crate::fork::in_directory;
use crate::inspect::store_info;
use crate::options::directory;
use crate::storage::Storage;

/// How a store is repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairOptions {
    dry_run: bool,
}

impl RepairOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only says what would be lost, and writes nothing.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// Positions whose records are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostRange {
    /// First of them.
    pub first_position: u64,
    /// Last of them.
    pub last_position: u64,
    /// File in which they stood, or should have.
    pub file: String,
    /// Where in it the damage begins.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

/// Revisions of a stream that are lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct LostRevisions {
    /// The stream.
    pub stream: String,
    /// First of them.
    pub first_revision: u64,
    /// Last of them.
    pub last_revision: u64,
}

/// What was saved and what was lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// Position of the last record of the new store; 0: it is empty.
    pub head: u64,
    /// Events taken over.
    pub events: u64,
    /// Batches taken over.
    pub batches: u64,
    /// Positions that are lost, ascending. What was never known to be durable, and cannot be read, is not among them.
    pub lost: Vec<LostRange>,
    /// Revisions that are known to be lost: of streams that went on behind them, or whose names could still be read. Sorted
    /// by stream; at most 100,000.
    pub lost_revisions: Vec<LostRevisions>,
    /// Lost revisions beyond those listed.
    pub lost_revisions_not_listed: u64,
    /// What else was not as it should be.
    pub notices: Vec<String>,
}

impl RepairReport {
    /// How many positions are lost.
    pub fn lost_positions(&self) -> u64 {
        self.lost.iter().map(|range| range.last_position - range.first_position + 1).sum()
    }

    /// Whether everything that was ever known to be durable was taken over.
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty()
    }
}

/// Makes a new store in `target`, which must not exist or be empty, of all that can be read of the store in `path`, which
/// stays as it is. The new store keeps the id and gets a new incarnation. `progress` is told how many bytes were read, and of
/// how many.
///
/// Takes memory for the longest batch, and about 50 bytes a stream.
///
/// # Errors
/// `Locked` while another process writes the store; `NotAStore` if nothing in `path` is of a store; `Unsupported` if a later
/// version wrote it; `Occupied` if `target` holds anything; `NoSpace`, `Io`.
///
/// ```
/// use annals::repair::{RepairOptions, repair};
/// use annals::{Expect, NewEvent, Store};
/// # fn main() -> annals::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path();
/// let store = Store::open(path.join("shop"))?;
/// store.append("order-1", Expect::Any, &[NewEvent::new("Placed", b"")])?;
/// store.close()?;
/// let report = repair(path.join("shop"), path.join("repaired"), &RepairOptions::new(), &mut |_, _| {})?;
/// assert!(report.is_complete());
/// # Ok(())
/// # }
/// ```
pub fn repair(
    path: impl AsRef<Path>,
    target: impl AsRef<Path>,
    options: &RepairOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<RepairReport> {
    let path = path.as_ref();
    let source = directory(path, false)?;
    if let Ok(info) = store_info(path)
        && let Some(pid) = info.writer_pid
    {
        return Err(Error::Locked { pid: Some(pid) });
    }
    in_directory(target.as_ref(), options.dry_run, |target| salvage::repair(&source, target, options.dry_run, progress))
}

/// As [`repair`], from and into any storage; whether anybody writes the store is not asked.
///
/// # Errors
/// As there.
pub fn repair_in(source: &dyn Storage, target: &dyn Storage, options: &RepairOptions) -> Result<RepairReport> {
    salvage::repair(source, Some(target), options.dry_run, &mut |_, _| {})
}
