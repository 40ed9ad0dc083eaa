//! A log under measurement, and the writers that feed it.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Prepared, Workload};

/// Events that are made ahead, of all writers together.
const PREPARED: usize = 192_000;

/// Events after which a log is thrown away for a fresh one: about 400 MB.
const EVENTS_MAX: usize = 1_000_000;

/// How a log is appended to.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Threads that append.
    pub writers: usize,
    /// Events of a batch.
    pub len: usize,
    /// Batches, of all writers together, without which a time would be mostly that of the beginning and the end.
    pub rounds_min: usize,
}

/// A log that goes on from sample to sample until it has grown long. Made at the first use: a benchmark that is
/// filtered out costs nothing.
pub struct Trial<L> {
    parent: PathBuf,
    make: Box<dyn Fn(&Path) -> L>,
    /// The log before its directory, which must outlive it.
    log: Option<(L, TempDir)>,
    appended: usize,
    shape: Shape,
    writers: Vec<Workload>,
}

impl<L> std::fmt::Debug for Trial<L> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Trial").field("parent", &self.parent).field("shape", &self.shape).finish()
    }
}

impl<L> Trial<L> {
    /// A log made by `make` in directories beneath `parent` (see [`crate::directory`]).
    pub fn new(parent: impl Into<PathBuf>, shape: Shape, make: impl Fn(&Path) -> L + 'static) -> Self {
        let (log, appended, workloads) = (None, 0, Vec::new());
        Self { parent: parent.into(), make: Box::new(make), log, appended, shape, writers: workloads }
    }

    /// Makes log and events if they are not there yet, or a fresh log if this one has grown long.
    pub fn prepare(&mut self) {
        if self.writers.is_empty() {
            let made = (0..self.shape.writers)
                .map(|writer| Workload::new(PREPARED / self.shape.writers, writer, self.shape.writers));
            self.writers = made.collect();
        }
        if self.appended > EVENTS_MAX {
            self.log = None;
            self.appended = 0;
            self.writers.iter_mut().for_each(Workload::restart);
        }
        if self.log.is_none() {
            let directory = crate::directory(&self.parent);
            self.log = Some(((self.make)(directory.path()), directory));
        }
    }

    /// The log and the next events of every writer: `count`, or fewer, the same number for each.
    fn next(&mut self, count: usize) -> (&mut L, Vec<&[Prepared]>) {
        self.prepare();
        let (log, _) = self.log.as_mut().expect("prepared");
        let shares: Vec<_> = self.writers.iter_mut().map(|writer| writer.take(count)).collect();
        self.appended += shares[0].len() * shares.len();
        (log, shares)
    }

    /// How long `append` needs for `rounds` batches, shared among the writers, each on a thread of its
    /// own. `ready` is called before, with the number of events. `append` makes ready what is not to be timed, waits for
    /// the others at the barrier, and answers when it began and ended; timed is from the first that begins to the last
    /// that ends. Fewer rounds than `rounds_min` tell little: then so many are made, and their share of the time is the
    /// answer.
    ///
    /// # Panics
    /// If `append` does.
    pub fn time(
        &mut self,
        rounds: u64,
        mut ready: impl FnMut(&mut L, usize),
        append: impl Fn(&L, &[Prepared], &Barrier) -> (Instant, Instant) + Sync,
    ) -> Duration
    where
        L: Sync,
    {
        let each = (rounds as usize).max(self.shape.rounds_min).div_ceil(self.shape.writers);
        let (mut left, mut elapsed) = (each * self.shape.len, Duration::ZERO);
        while left > 0 {
            let (log, shares) = self.next(left);
            left -= shares[0].len();
            ready(log, shares[0].len() * shares.len());
            let (log, append, barrier) = (&*log, &append, &Barrier::new(shares.len()));
            let times: Vec<_> = thread::scope(|scope| {
                let spawn = |share| scope.spawn(move || append(log, share, barrier));
                let threads: Vec<_> = shares.into_iter().map(spawn).collect();
                threads.into_iter().map(|thread| thread.join().expect("a writer that succeeds")).collect()
            });
            let begun = times.iter().map(|(begun, _)| *begun).min().expect("a writer");
            elapsed += times.iter().map(|(_, ended)| ended.duration_since(begun)).max().expect("a writer");
        }
        // Not every number of rounds can be shared out evenly.
        elapsed.mul_f64(rounds as f64 / (each * self.shape.writers) as f64)
    }
}
