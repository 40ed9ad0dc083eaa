#![doc = include_str!("../../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod active_index;
mod append;
mod as_of;
mod background;
pub mod backup;
mod batches;
mod clock;
mod commit;
mod compacted;
mod compaction;
mod consumer;
mod control;
mod core;
mod cursor;
mod directory;
mod error;
mod event;
mod follower;
mod fork;
mod founding;
mod hash_order;
mod id_table;
mod input;
pub mod inspect;
mod log;
mod made_id;
mod manifest;
mod mark;
mod merging;
mod name;
mod once;
mod options;
mod place_table;
mod places_file;
mod position;
mod prefetch;
mod prepare;
mod publish;
mod query;
mod read;
mod read_events;
mod read_only;
mod reader;
mod recent_keys;
mod recovery;
mod removal;
pub mod repair;
mod ring;
mod sealed_index;
mod segment;
mod segments;
mod snapshot;
mod stats;
pub mod storage;
mod store;
mod stream_states;
mod subscription;
mod tiers;
pub mod upgrade;
mod writer;

pub use append::{Batch, Committed, Condition, Durability, Expect, NewEvent, OccurredAt, Receipt};
pub use as_of::AsOf;
pub use compaction::{
    Compacting, CompactionOptions, CompactionPolicy, CompactionReport, CompactionRequest, FoldFailure, Folded,
    LiveSegment, RequestState,
};
pub use consumer::{
    Checkpoint, Consumer, ConsumerInfo, ConsumerOptions, Delivery, Failed, InvalidCheckpoint, Lane, ParkedEvent,
    PassedOver, Progress, Retry,
};
pub use error::{Conflict, Corrupt, Error, Fault, Invalid, Refusal, StreamState};
pub use event::{Event, EventRef};
pub use follower::Follower;
pub use fork::{ForkOptions, ForkReport};
pub use founding::Sharing;
pub use merging::IndexCheck;
pub use name::NAME_LEN_MAX;
pub use options::{Clock, Limits, Options, ReadMode, SystemClock, View};
pub use position::{EventId, InvalidEventId, Position, Revision};
pub use query::{Query, QueryItem, Seek};
pub use read::Read;
pub use read_events::ReadEvents;
pub use read_only::ReadOnly;
pub use reader::{Lookup, Reader, RemovalReason, StreamInfo, TypeInfo};
pub use recovery::RecoveryReport;
pub use removal::{Cut, Removed, Retention, Scope, Swept};
pub use snapshot::{
    CleanSnapshots, CleanedSnapshots, Fold, FoldError, History, Loaded, SavedSnapshot, Snapshot, SnapshotInfo,
    Snapshots,
};
pub use stats::Stats;
pub use store::{Store, Ticket};
pub use subscription::{Message, MessageRef, Messages, Next, Subscription};

/// Version of this library as files name it: `major << 16 | minor << 8 | patch`.
pub(crate) const VERSION: u32 = 1 << 8;

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
