//! A hand-written group commit over the floor: one writer leads, one `fdatasync` serves all that wait.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::thread::futex;

use super::extents::{self, Extents, Unsynced};
use crate::Result;
use crate::peer::{Durability, Log, Outcome, Store, Writer};
use crate::workload::EventIn;

/// How long a leader waits at most for as many appends as the last group had.
const LINGER: Duration = Duration::from_micros(60);

/// The floor of row A5.
pub struct GroupLog {
    staging: Mutex<Staging>,
    /// Appends staged so far; written under the lock of `staging`, read without.
    staged: AtomicU64,
    durable: AtomicU64,
    leading: AtomicBool,
    /// Counts groups; those who wait sleep on it.
    groups: AtomicU32,
    file: Mutex<Leading>,
    unsynced: Unsynced,
}

struct Staging {
    buffer: Vec<u8>,
    index: Vec<u64>,
}

/// What only the leader touches.
struct Leading {
    extents: Extents,
    buffer: Vec<u8>,
    last_group: u64,
}

impl GroupLog {
    /// Opens it; see [`super::FloorLog::open`].
    pub fn open(dir: &Path, durability: Durability, bytes_expected: u64) -> Result<Box<dyn Log>> {
        if durability == Durability::Buffered {
            return Err("a group commit is for durable appends".into());
        }
        let unsynced = Unsynced::default();
        let extents = Extents::prepare(dir, bytes_expected, Arc::clone(&unsynced))?;
        Ok(Box::new(Self {
            staging: Mutex::new(Staging { buffer: Vec::new(), index: Vec::new() }),
            staged: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            leading: AtomicBool::new(false),
            groups: AtomicU32::new(0),
            file: Mutex::new(Leading { extents, buffer: Vec::new(), last_group: 1 }),
            unsynced,
        }))
    }

    fn stage(&self, batch: &[EventIn<'_>]) -> u64 {
        let mut staging = self.staging.lock();
        let staging = &mut *staging;
        for event in batch {
            staging.index.push(staging.buffer.len() as u64);
            super::encode(&mut staging.buffer, event);
        }
        self.staged.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Waits for company, writes and syncs everything staged, and wakes those it served.
    fn lead(&self) -> Result<()> {
        let mut leading = self.file.lock();
        let leading = &mut *leading;
        let taken = self.durable.load(Ordering::Acquire);
        let began = Instant::now();
        while self.staged.load(Ordering::Acquire) - taken < leading.last_group && began.elapsed() < LINGER {
            std::thread::yield_now();
        }
        leading.buffer.clear();
        let upto = {
            let mut staging = self.staging.lock();
            std::mem::swap(&mut staging.buffer, &mut leading.buffer);
            self.staged.load(Ordering::Acquire)
        };
        let (_, at) = leading.extents.room(leading.buffer.len())?;
        leading.extents.file().write_all_at(&leading.buffer, at)?;
        leading.extents.file().sync_data()?;
        leading.last_group = upto - taken;
        self.durable.store(upto, Ordering::Release);
        Ok(())
    }

    fn wait(&self, mine: u64) -> Result<()> {
        loop {
            let group = self.groups.load(Ordering::Acquire);
            if self.durable.load(Ordering::Acquire) >= mine {
                return Ok(());
            }
            if !self.leading.swap(true, Ordering::AcqRel) {
                // The leader before may have served this append between the two looks.
                let served = self.durable.load(Ordering::Acquire) >= mine;
                let result = if served { Ok(()) } else { self.lead() };
                self.leading.store(false, Ordering::Release);
                self.groups.fetch_add(1, Ordering::AcqRel);
                futex::wake(&self.groups, futex::Flags::PRIVATE, i32::MAX as u32)?;
                return result;
            }
            // An error here means the word has changed already or a signal came: look again.
            let _ = futex::wait(&self.groups, futex::Flags::PRIVATE, group, None);
        }
    }
}

impl Log for GroupLog {
    fn writer(&self) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(GroupWriter(self)))
    }

    fn sync(&self) -> Result<()> {
        extents::sync(&self.unsynced)
    }

    fn store(&self) -> Option<&dyn Store> {
        None
    }
}

struct GroupWriter<'a>(&'a GroupLog);

impl Writer for GroupWriter<'_> {
    fn append(&mut self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        let mine = self.0.stage(batch);
        self.0.wait(mine)?;
        Ok(Outcome::Committed)
    }
}
