//! Consumers: named places in the log that survive, and what a consumer is handed out and answers for.
//!
//! ```text
//!   log ──Source──> Intake: ready, handed out, waiting, held ──next──> Delivery ──┐
//!                     ^                                                           │ ack / batch
//!                     └── finished ── Writer: fence, then a section in a batch <──┘
//! ```
//!
//! Where a consumer stands is in the log alone: changes ride in sections of batches ([`writing`]), and what they give is
//! kept in the writer's memory. The *intake* holds what was read and is not finished. Locks are taken in the order writer,
//! intake; reading has a lock of its own that is taken before both and never held while an event is worked on.

mod checkpoint;
mod delivery;
mod handle;
mod intake;
mod options;
mod recovered;
mod shared;
mod source;
mod writing;

pub use checkpoint::{Checkpoint, InvalidCheckpoint};
pub use delivery::{Delivery, Failed};
pub use handle::{Consumer, ConsumerInfo, Lane, ParkedEvent, PassedOver, Progress};
pub use options::{ConsumerOptions, Retry};

pub(crate) use checkpoint::Lineage;
pub(crate) use delivery::Acknowledgement;
pub(crate) use handle::{info, listing, open, remove, reset};
pub(crate) use recovered::{
    Changes, EndedConsumers, Recovered, apply, collect, file_name, is_file_name, load, load_listed, save, save_ended,
};
pub(crate) use writing::ConsumerMemory;
