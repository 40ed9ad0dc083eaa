//! okaywal as a bare log: an entry for each append, a chunk for each event. It syncs every commit and takes the files
//! back after a checkpoint; the manager here lets it, so nothing is kept for long.

use std::path::Path;

use okaywal::{Configuration, LogVoid, WriteAheadLog};

use super::encode;
use crate::Result;
use crate::peer::{Durability, Log, Outcome, Store, Writer};
use crate::workload::EventIn;

/// See the module.
pub struct Okaywal {
    log: WriteAheadLog,
}

impl Okaywal {
    /// Opens it with files of 64 MiB.
    pub fn open(dir: &Path, durability: Durability, _bytes_expected: u64) -> Result<Box<dyn Log>> {
        if durability == Durability::Buffered {
            return Err("okaywal syncs every append".into());
        }
        let configuration = Configuration::default_for(dir)
            .preallocate_bytes(64 << 20)
            .checkpoint_after_bytes(60 << 20)
            .buffer_bytes(256 << 10);
        Ok(Box::new(Self { log: configuration.open(LogVoid)? }))
    }
}

impl Log for Okaywal {
    fn writer(&self) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(OkaywalWriter { log: &self.log, frame: Vec::new() }))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn store(&self) -> Option<&dyn Store> {
        None
    }
}

struct OkaywalWriter<'a> {
    log: &'a WriteAheadLog,
    frame: Vec<u8>,
}

impl Writer for OkaywalWriter<'_> {
    fn append(&mut self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        let mut entry = self.log.begin_entry()?;
        for event in batch {
            encode(&mut self.frame, event);
            entry.write_chunk(&self.frame)?;
        }
        entry.commit()?;
        Ok(Outcome::Committed)
    }
}
