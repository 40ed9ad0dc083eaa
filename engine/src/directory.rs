//! What is known of streams without a look at their events: last revision and last position.
//!
//! ```text
//! log          | segment 1 .. 40 | 41 .. 52 | 53 | 54 | 55, being written |
//! directory    |   file, large   |  file    |file|
//!                                                 54, 55: their indexes
//! ```
//!
//! The *directory* is a list of mapped files, each with the streams that were written in a stretch of ended segments, by
//! name. Of a stream the newest file that has it is right up to the *coverage*, the last position of the newest file; what
//! came after stands in the indexes of the segments that follow. So a look-up for a head asks the segments between the
//! coverage and that head, which are few, and then the files, newest first. A reader pinned before the coverage may be
//! told of a later event: then the index is asked as if there were no directory.
//!
//! Files are made in the background of the indexes of ended segments that the manifest lists, and so of nothing that is not
//! durable; each knows the final checksums of its segments. They are derived: one with which anything is wrong is not
//! asked any more, nor are those after it, and both are made again.
//!
//! The writer keeps in memory what it has met ([`MetStreams`]) and lets go of what the directory holds.
//!
//! | module | what |
//! |---|---|
//! | `table`, `met`, `room` | the writer's memory |
//! | `file` | one file |
//! | `list` | all files of a store |
//! | `gather`, `write` | the next file, of segments and of the files before it |

mod file;
mod gather;
mod list;
mod met;
mod room;
mod table;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use file::{DirectoryFile, directory_name, directory_number};
pub(crate) use gather::{Pending, sealed_index};
pub(crate) use list::{Directory, coverage, find, prefetch, prefetch_first};
pub(crate) use met::MetStreams;
pub(crate) use room::RoomAhead;
pub(crate) use table::StreamTable;
pub(crate) use write::{DirectoryPlan, differs_from_itself, is_scattered, write};

/// Where a stream stands in the writer's memory, valid until that is given more room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamNumber(u32);

impl StreamNumber {
    /// Before it was looked up.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// A stream's last event; zeros for a stream that was never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamTip {
    pub(crate) revision: u64,
    pub(crate) position: u64,
}

impl StreamTip {
    /// Of a stream that was never written.
    pub(crate) const NONE: Self = Self { revision: 0, position: 0 };
}
