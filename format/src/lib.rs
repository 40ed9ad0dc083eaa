//! The on-disk format of the annals event store, version 1: encoders, and decoders that verify before they hand out.
//!
//! `docs/format.md` describes the bytes and comes first; this crate follows it. It does no I/O, reads no clock, starts
//! no thread, and holds no unsafe code. A decoder answers a [`Fault`] for anything that is not exactly what an encoder
//! would have written; no input makes one panic.
//!
//! | module | what |
//! |---|---|
//! | [`checksum`] | the checksum and the seeds that tie it to a store, a segment and a position |
//! | [`segment`] | segment header, end mark, final checksum |
//! | [`batch`] | batch header, [`BatchEncoder`](batch::BatchEncoder): events in, log bytes out |
//! | [`record`] | one event or control record, read in place |
//! | [`section`], [`consumer`] | what a batch carries beside records: acknowledgements; where consumers stand |
//! | [`scan`] | what stands at a place of a segment; whole batches |
//! | [`mark`], [`ring`], [`control`] | the small files beside the log |
//! | [`request`] | what a writer is asked from outside, and its answer |
//! | [`manifest`] | which segments make up the log |
//! | [`residue`] | what of a block need not be compressed |
//! | [`compacted`], [`content_hash`] | a segment in a container, compressed and without what was removed; what is kept of that
//! |             | to compare with |
//! | [`index`] | the index of a sealed segment |
//! | [`snapshot`] | files of snapshots of state |
//! | [`index_file`] | what the files of the index at scale share: header, blocks and their checksums |
//! | [`places`], [`packed_places`], [`tier`], [`directory`] | where frames lie; which records have a name or id; where each stream ends |
//! | [`backup_point`] | what a backup holds at one moment |
//! | [`index_manifest`] | which tiers and directories make up the index |
//!
//! Every decoder takes the part of a writer and refuses flags that *must be understood to write*. Each has a
//! `decode_for` beside it; with [`Purpose::Read`] it passes over them.
//!
//! ```
//! use annals_format::batch::BatchEncoder;
//! use annals_format::checksum::{Identity, Seed};
//! use annals_format::record::{EventParts, Record};
//! use annals_format::scan::{self, Step};
//!
//! let seed = Seed::of(&Identity { store: [1; 16], incarnation: [2; 16], segment: 1 });
//! let mut bytes = Vec::new();
//! let mut batch = BatchEncoder::begin(&mut bytes, seed, 1);
//! batch.event(&EventParts { payload: b"{}", ..EventParts::new([7; 16], "order-1", "Placed") }, 1);
//! batch.finish(1_700_000_000_000_000_000, 0, false);
//!
//! let Step::Batch(header) = scan::next(&bytes, seed)? else { panic!("a batch stands here") };
//! scan::verify_batch(&bytes, &header, seed, |_offset, position, record| {
//!     let Record::Event(event) = record else { panic!("an event stands here") };
//!     assert_eq!((position, event.stream(), event.payload()), (1, "order-1", &b"{}"[..]));
//! })?;
//! # Ok::<(), annals_format::Fault>(())
//! ```
#![forbid(unsafe_code)]

pub mod backup_point;
pub mod batch;
pub mod checksum;
pub mod compacted;
pub mod consumer;
pub mod content_hash;
pub mod control;
pub mod directory;
mod fault;
mod field;
mod header;
pub mod index;
pub mod index_file;
pub mod index_manifest;
pub mod manifest;
pub mod mark;
pub mod name;
pub mod packed_places;
pub mod places;
pub mod record;
pub mod request;
pub mod residue;
pub mod ring;
pub mod scan;
pub mod section;
pub mod segment;
pub mod snapshot;
pub mod tier;

pub use fault::Fault;
pub use header::Purpose;

/// The version this crate reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Largest position, revision, segment number, generation, sequence, and length anywhere in a file: adding one to a
/// decoded number never overflows.
pub const NUMBER_MAX: u64 = i64::MAX as u64;
