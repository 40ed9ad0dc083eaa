//! seglog as a bare log: no index, no checks. A record for each event; Durable ends an append with its commit marker
//! and sync, Buffered with a flush of its buffer to the operating system.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use seglog::write::{WriteError, Writer as Segment};

use super::encode;
use crate::Result;
use crate::floor::extents::SEGMENT_LEN;
use crate::peer::{Durability, Log, Outcome, Store, Writer};
use crate::workload::EventIn;

/// See the module.
pub struct Seglog {
    durability: Durability,
    state: Mutex<State>,
}

struct State {
    dir: PathBuf,
    segment: Segment<0>,
    number: u32,
    position: u64,
    frame: Vec<u8>,
}

impl Seglog {
    /// Opens it with segments of 64 MiB.
    pub fn open(dir: &Path, durability: Durability, _bytes_expected: u64) -> Result<Box<dyn Log>> {
        let segment = create(dir, 0)?;
        let state = State { dir: dir.to_owned(), segment, number: 0, position: 0, frame: Vec::new() };
        Ok(Box::new(Self { durability, state: Mutex::new(state) }))
    }
}

fn create(dir: &Path, number: u32) -> Result<Segment<0>> {
    Ok(Segment::create(dir.join(format!("{number:04}.seglog")), SEGMENT_LEN as usize, 64)?)
}

impl State {
    fn append(&mut self, batch: &[EventIn<'_>], durability: Durability) -> Result<Outcome> {
        // Room for frames and commit marker, so that an append stands in one segment.
        let needed: usize = batch.iter().map(|event| event.payload.len() + 600).sum();
        if self.segment.remaining_bytes() < needed as u64 {
            self.number += 1;
            let next = create(&self.dir, self.number)?;
            std::mem::replace(&mut self.segment, next).flush_writer()?;
        }
        for event in batch {
            encode(&mut self.frame, event);
            self.segment.append_data(&self.frame)?;
        }
        self.position += batch.len() as u64;
        match durability {
            Durability::Durable => drop(self.segment.commit(self.position)?),
            Durability::Buffered => self.segment.flush_writer()?,
        }
        Ok(Outcome::Committed)
    }
}

impl Log for Seglog {
    fn writer(&self) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(SeglogWriter(self)))
    }

    fn sync(&self) -> Result<()> {
        self.state.lock().segment.sync().map(drop).map_err(|error: WriteError| error.into())
    }

    fn store(&self) -> Option<&dyn Store> {
        None
    }
}

struct SeglogWriter<'a>(&'a Seglog);

impl Writer for SeglogWriter<'_> {
    fn append(&mut self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        self.0.state.lock().append(batch, self.0.durability)
    }
}
