//! The floor: the least a log can do, written by hand.
//!
//! Frames with a checksum, one write per append into extents that were filled with zeros before, a `Vec` for an index;
//! no names looked up, no ids checked, no recovery. [`group`] adds a group commit, [`pipeline`] is the raw two-thread
//! pipeline that row A6 is measured against, [`scan`] the raw checksum scan of row A7.

pub mod extents;
pub mod group;
pub mod pipeline;
pub mod scan;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Result;
use crate::peer::{Durability, Log, Outcome, Store, Writer};
use crate::workload::EventIn;
use extents::{Extents, Unsynced};

/// Bytes of a frame before the names: length, checksum, id, lengths of the names.
pub const FRAME_HEADER_LEN: usize = 4 + 4 + 16 + 2;

/// Puts an event's frame at the end of `out`.
#[inline]
pub fn encode(out: &mut Vec<u8>, event: &EventIn<'_>) {
    let (stream, event_type) = (event.stream.as_bytes(), event.event_type.as_bytes());
    let len = FRAME_HEADER_LEN + stream.len() + event_type.len() + event.payload.len();
    out.reserve(len);
    let start = out.len();
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&event.id);
    out.extend_from_slice(&[stream.len() as u8, event_type.len() as u8]);
    out.extend_from_slice(stream);
    out.extend_from_slice(event_type);
    out.extend_from_slice(event.payload);
    let checksum = crc32fast::hash(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// The hand-written log of rows A1 to A4 and A9.
pub struct FloorLog {
    durability: Durability,
    unsynced: Unsynced,
    state: Mutex<Option<Box<State>>>,
}

struct State {
    extents: Extents,
    buffer: Vec<u8>,
    /// Segment number in the upper half, offset in the lower.
    index: Vec<u64>,
}

impl FloorLog {
    /// Opens it with zero-filled segments for `bytes_expected` bytes of events.
    pub fn open(dir: &Path, durability: Durability, bytes_expected: u64) -> Result<Box<dyn Log>> {
        let unsynced = Unsynced::default();
        let extents = Extents::prepare(dir, bytes_expected + bytes_expected / 3, Arc::clone(&unsynced))?;
        let state = State { extents, buffer: Vec::new(), index: Vec::with_capacity(1 << 20) };
        Ok(Box::new(Self { durability, unsynced, state: Mutex::new(Some(Box::new(state))) }))
    }
}

impl Log for FloorLog {
    fn writer(&self) -> Result<Box<dyn Writer + '_>> {
        let state = self.state.lock().take().ok_or("the floor has one writer")?;
        Ok(Box::new(FloorWriter { log: self, state: Some(state) }))
    }

    fn sync(&self) -> Result<()> {
        extents::sync(&self.unsynced)
    }

    fn store(&self) -> Option<&dyn Store> {
        None
    }
}

struct FloorWriter<'a> {
    log: &'a FloorLog,
    state: Option<Box<State>>,
}

impl Writer for FloorWriter<'_> {
    fn append(&mut self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        let state = self.state.as_mut().expect("held until the writer is dropped");
        state.buffer.clear();
        let first = state.index.len();
        for event in batch {
            state.index.push(state.buffer.len() as u64);
            encode(&mut state.buffer, event);
        }
        let (segment, at) = state.extents.room(state.buffer.len())?;
        for place in &mut state.index[first..] {
            *place += u64::from(segment) << 32 | at;
        }
        let file = state.extents.file();
        file.write_all_at(&state.buffer, at)?;
        if self.log.durability == Durability::Durable {
            file.sync_data()?;
        }
        Ok(Outcome::Committed)
    }
}

impl Drop for FloorWriter<'_> {
    fn drop(&mut self) {
        *self.log.state.lock() = self.state.take();
    }
}
