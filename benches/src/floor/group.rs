//! A hand-written group commit: one writer leads, one sync serves all that wait.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::durable_head::DurableHead;
use super::{ZeroedFile, encode};
use crate::Prepared;

/// How long a leader waits at most for as many appends as the last group had.
const LINGER: Duration = Duration::from_micros(60);

/// A log for many writers whose appends are all durable.
#[derive(Debug)]
pub struct GroupLog {
    staging: Mutex<Vec<u8>>,
    /// Appends staged so far; written under the lock of `staging`, read without.
    staged: AtomicU64,
    durable: DurableHead,
    leading: AtomicBool,
    leader: Mutex<Leader>,
}

/// What only the leader touches.
#[derive(Debug)]
struct Leader {
    file: ZeroedFile,
    buffer: Vec<u8>,
    last_group: u64,
}

impl GroupLog {
    /// An empty log.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(directory: &Path) -> io::Result<Self> {
        let leader = Leader { file: ZeroedFile::create(directory)?, buffer: Vec::new(), last_group: 1 };
        Ok(Self {
            staging: Mutex::default(),
            staged: AtomicU64::new(0),
            durable: DurableHead::default(),
            leading: AtomicBool::new(false),
            leader: Mutex::new(leader),
        })
    }

    /// Makes room for this many events more, as [`super::Floor::reserve`].
    ///
    /// # Errors
    /// What the system says.
    pub fn reserve(&mut self, events: usize) -> io::Result<()> {
        self.leader.get_mut().file.reserve(events)
    }

    /// Appends the events and waits until they are durable.
    ///
    /// # Errors
    /// What the system says.
    pub fn append(&self, events: &[Prepared]) -> io::Result<()> {
        let mine = {
            let mut staging = self.staging.lock();
            events.iter().for_each(|event| encode(&mut staging, event));
            self.staged.fetch_add(1, Ordering::AcqRel) + 1
        };
        loop {
            let turn = self.durable.turn();
            if self.durable.get() >= mine {
                return Ok(());
            }
            if self.leading.swap(true, Ordering::AcqRel) {
                self.durable.sleep(turn);
                continue;
            }
            // The leader before may have served this append between the two looks.
            let result = if self.durable.get() >= mine { Ok(()) } else { self.lead() };
            self.leading.store(false, Ordering::Release);
            self.durable.wake();
            return result;
        }
    }

    /// Waits for company, then writes and syncs everything staged.
    fn lead(&self) -> io::Result<()> {
        let mut leader = self.leader.lock();
        let leader = &mut *leader;
        let (taken, began) = (self.durable.get(), Instant::now());
        while self.staged.load(Ordering::Acquire) - taken < leader.last_group && began.elapsed() < LINGER {
            thread::yield_now();
        }
        leader.buffer.clear();
        let upto = {
            let mut staging = self.staging.lock();
            std::mem::swap(&mut *staging, &mut leader.buffer);
            self.staged.load(Ordering::Acquire)
        };
        leader.file.append(&leader.buffer, true)?;
        leader.last_group = upto - taken;
        self.durable.set(upto);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::Workload;

    #[test]
    fn what_was_acknowledged_stands_in_the_file_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = GroupLog::create(directory.path()).unwrap();
        log.reserve(400).unwrap();
        let writers: Vec<_> = (0..8).map(|writer| Workload::new(50, writer, 8)).collect();
        thread::scope(|scope| {
            for writer in &writers {
                scope.spawn(|| {
                    for event in writer.events() {
                        log.append(std::slice::from_ref(event)).unwrap();
                    }
                });
            }
        });
        let leader = log.leader.get_mut();
        let mut bytes = vec![0; leader.file.end as usize];
        leader.file.file.read_exact_at(&mut bytes, 0).unwrap();
        let mut frame = Vec::new();
        let mut frames: Vec<&[u8]> = Vec::new();
        for event in writers.iter().flat_map(|writer| writer.events()) {
            frame.clear();
            encode(&mut frame, event);
            // All frames have one length.
            frames = bytes.chunks(frame.len()).collect();
            assert_eq!(frames.iter().filter(|stored| **stored == frame).count(), 1);
        }
        assert_eq!(frames.len(), 400);
    }
}
