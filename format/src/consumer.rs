//! Consumers: the changes that batches carry of them, their state, and the file that holds it as of a segment's end.
//!
//! A change says what became of one consumer. The state of all consumers is what the changes of the whole log give, one
//! after the other ([`ConsumerTable::apply`]); a change of a generation that is no longer the consumer's changes nothing.

mod change;
mod file;
mod ranges;
mod state;

pub(crate) use change::read_section;
pub use change::{Change, ChangeList, ConsumerSection, What};
pub use file::{CONSUMER_FILE_HEADER_LEN, ConsumerFile, ConsumerFileHeader};
pub use ranges::Ranges;
pub use state::{ConsumerState, ConsumerTable, Parked};

/// Longest reason of a parked event, in bytes.
pub const REASON_LEN_MAX: usize = 1024;
