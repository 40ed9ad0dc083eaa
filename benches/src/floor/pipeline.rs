//! What tickets are measured against: writers copy payloads to a staging buffer and go on; one thread writes and syncs
//! what it finds there. Nothing is framed, checked or looked up.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use super::ZeroedFile;
use super::durable_head::DurableHead;
use crate::Prepared;

/// Looks that a waiting writer takes before it sleeps.
const LOOKS: u32 = 100;

/// A log that answers before it has synced.
#[derive(Debug)]
pub struct Pipeline {
    shared: Arc<Shared>,
    committer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    staging: Mutex<Vec<u8>>,
    /// Bytes staged so far; written under the lock of `staging`, read without.
    staged: AtomicU64,
    durable: DurableHead,
    file: Mutex<ZeroedFile>,
    done: AtomicBool,
    failed: AtomicBool,
}

impl Pipeline {
    /// An empty log and its committing thread.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(directory: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            staging: Mutex::default(),
            staged: AtomicU64::new(0),
            durable: DurableHead::default(),
            file: Mutex::new(ZeroedFile::create(directory)?),
            done: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        let committer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.commit()
        });
        Ok(Self { shared, committer: Some(committer) })
    }

    /// Makes room for this many events more, as [`super::Floor::reserve`].
    ///
    /// # Errors
    /// What the system says.
    pub fn reserve(&mut self, events: usize) -> io::Result<()> {
        self.shared.file.lock().reserve(events)
    }

    /// Hands the payloads in; answers what to wait for.
    pub fn submit(&self, events: &[Prepared]) -> u64 {
        let mut staging = self.shared.staging.lock();
        let before = staging.len();
        events.iter().for_each(|event| staging.extend_from_slice(&event.payload));
        let added = (staging.len() - before) as u64;
        self.shared.staged.fetch_add(added, Ordering::AcqRel) + added
    }

    /// Waits until the disk has all up to `submitted`.
    ///
    /// # Panics
    /// If the disk refused.
    pub fn wait(&self, submitted: u64) {
        let durable = &self.shared.durable;
        for look in 0.. {
            let turn = durable.turn();
            if durable.get() >= submitted {
                return;
            }
            assert!(!self.shared.failed.load(Ordering::Acquire), "the committing thread has said why");
            if look < LOOKS { thread::yield_now() } else { durable.sleep(turn) }
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Release);
        if let Some(committer) = self.committer.take() {
            // What it could not write is nobody's loss.
            let _ = committer.join();
        }
    }
}

impl Shared {
    fn commit(&self) {
        let mut buffer = Vec::new();
        loop {
            // Read before `staged`: what is staged before the end is then seen below.
            let done = self.done.load(Ordering::Acquire);
            if self.staged.load(Ordering::Acquire) == self.durable.get() {
                if done {
                    return;
                }
                thread::yield_now();
                continue;
            }
            buffer.clear();
            std::mem::swap(&mut *self.staging.lock(), &mut buffer);
            if let Err(error) = self.file.lock().append(&buffer, true) {
                eprintln!("the pipeline's disk: {error}");
                self.failed.store(true, Ordering::Release);
                self.durable.wake();
                return;
            }
            self.durable.set(self.durable.get() + buffer.len() as u64);
            self.durable.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Workload;

    #[test]
    fn payloads_stand_in_the_file_in_order_when_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let work = Workload::new(1000, 0, 1);
        let mut pipeline = Pipeline::create(directory.path()).unwrap();
        pipeline.reserve(1000).unwrap();
        let submitted: Vec<_> = work.events().chunks(10).map(|events| pipeline.submit(events)).collect();
        assert_eq!(submitted[99], 256_000);
        pipeline.wait(submitted[99]);
        let written = std::fs::read(directory.path().join("floor.log")).unwrap();
        let payloads: Vec<u8> = work.events().iter().flat_map(|event| event.payload.clone()).collect();
        assert!(written.starts_with(&payloads));
    }
}
