//! Snapshots of state: what a program folded from a stream up to a revision, so that it need not fold it again.
//!
//! They stand outside of the event space, in files of their own ([`file`]), found by a table in memory ([`table`], [`shelf`])
//! that is made by a scan of their headers when the first of them is wanted. One writer appends ([`write`]), anybody reads
//! ([`load`]). Nothing about them is derived: a snapshot may be all that is left of truncated events, so [`clean`] drops none
//! that an answer rests on, and what is damaged is named.
//!
//! A program tells how a state is made of events as a [`fold`]: registered with a store, compaction saves snapshots by it.
//!
//! No state is ever wrong. A snapshot is written only when the log is durable up to its event, and counts only if that event
//! stands where the snapshot says ([`load::Judge`]); whatever else may be wrong with one, the events are folded instead.

mod carry;
mod clean;
mod file;
mod fold;
mod judge;
mod kind;
mod load;
mod shelf;
mod state;
mod table;
mod write;

pub(crate) use carry::{backup, carry, files_found, files_of, files_of_backup, is_backup_file, refuse};
pub(crate) use clean::let_go;
pub use clean::{CleanSnapshots, CleanedSnapshots};
pub(crate) use file::{Range, SnapshotFile, file_name, file_number, is_file_of_snapshots};
pub(crate) use fold::{Behind, Folds, Registered};
pub use fold::{Fold, FoldError};
pub(crate) use judge::note_unreached;
pub use kind::{SavedSnapshot, Snapshots};
pub use load::{History, Loaded, SnapshotInfo};
pub(crate) use shelf::Shelf;
pub use state::Snapshot;
pub(crate) use table::kind_hash;
pub(crate) use write::{SnapshotWriter, remove_unlisted};
