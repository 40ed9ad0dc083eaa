//! What every engine is asked to do.

use std::path::Path;

use crate::Result;
use crate::workload::EventIn;

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the operating system holds the bytes: a killed process loses nothing it acknowledged.
    Buffered,
    /// When the disk was told to keep the bytes and said it did.
    Durable,
}

/// How an append ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All events stand in the store.
    Committed,
    /// A stream was not at the expected revision; nothing was stored.
    Conflict,
    /// An event with one of the ids stands in the store already; nothing was stored.
    Duplicate,
}

/// What a scan of everything saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Number of events.
    pub events: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// [`payload_sum`] of all payloads, added up.
    pub sum: u64,
}

impl Scanned {
    /// Counts one event and touches every byte of its payload.
    #[inline]
    pub fn add(&mut self, payload: &[u8]) {
        self.events += 1;
        self.bytes += payload.len() as u64;
        self.sum = self.sum.wrapping_add(payload_sum(payload));
    }
}

/// The sum of a payload's eight-byte words, the same for every engine: the least a reader can do with all its bytes.
#[inline]
pub fn payload_sum(payload: &[u8]) -> u64 {
    let words = payload.chunks_exact(8);
    let rest = words.remainder().iter().fold(0u64, |sum, byte| sum.wrapping_add(u64::from(*byte)));
    words.fold(rest, |sum, word| sum.wrapping_add(u64::from_le_bytes(word.try_into().expect("eight bytes"))))
}

/// A log open for appending. One writer handle is taken for each thread that appends.
pub trait Log: Send + Sync {
    /// A handle for one thread.
    fn writer(&self) -> Result<Box<dyn Writer + '_>>;

    /// Makes everything acknowledged so far durable.
    fn sync(&self) -> Result<()>;

    /// Makes the store as small as the engine can: `VACUUM`, a full compaction.
    fn compact(&self) -> Result<()> {
        Ok(())
    }

    /// Prepares room for `bytes` of payload before the clock starts, where the engine has a way that the rows use.
    fn reserve(&self, _bytes: u64) -> Result<()> {
        Ok(())
    }

    /// The event store this log is, or `None` for a bare log without index and checks.
    fn store(&self) -> Option<&dyn Store>;

    /// The same log driven by tickets, where it can do that: one thread appends ahead of the disk.
    fn tickets(&self) -> Option<Box<dyn Tickets + '_>> {
        None
    }
}

/// Appends for one thread.
pub trait Writer: Send {
    /// Appends all of `batch` in one atomic step and returns when it is acknowledged.
    ///
    /// An event store checks that each stream is at the event's revision and that no id is taken, before it stores
    /// anything.
    fn append(&mut self, batch: &[EventIn<'_>]) -> Result<Outcome>;
}

/// What an event store can be asked beside appending.
pub trait Store {
    /// Reads all events in the order they were appended, checked as the engine checks by default.
    fn scan(&self) -> Result<Scanned>;

    /// Reads one stream from its beginning, in order.
    fn read_stream(&self, stream: &str, each: &mut dyn FnMut(&[u8])) -> Result<()>;

    /// Number of the last event of a stream, counted from 1; 0 when there is none.
    fn latest(&self, stream: &str) -> Result<u64>;

    /// Reads all events of a type or tag in the order they were appended, where such an index was loaded.
    fn read_key(&self, _key: &str, _each: &mut dyn FnMut(&[u8])) -> Result<()> {
        Err("no index of types and tags".into())
    }

    /// Position of the last event of a type or tag; 0 when there is none.
    fn latest_of_key(&self, _key: &str) -> Result<u64> {
        Err("no index of types and tags".into())
    }
}

/// Appends that are waited for later.
pub trait Tickets {
    /// Hands an event in without waiting for the disk.
    fn submit(&mut self, event: &EventIn<'_>) -> Result<()>;

    /// Waits until the oldest event that was handed in and not yet waited for is durable.
    fn wait_oldest(&mut self) -> Result<()>;
}

/// Opens an engine in an empty directory; `bytes_expected` is what will be appended, for those that prepare ahead.
pub type Open = fn(dir: &Path, durability: Durability, bytes_expected: u64) -> Result<Box<dyn Log>>;
