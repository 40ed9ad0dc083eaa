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

/// A log that goes on from sample to sample until it has grown long. Made at the first use: a benchmark that is
/// filtered out costs nothing.
pub struct Trial<L> {
    parent: PathBuf,
    make: Box<dyn Fn(&Path) -> L>,
    /// The log before its directory, which must outlive it.
    log: Option<(L, TempDir)>,
    appended: usize,
    count: usize,
    writers: Vec<Workload>,
}

impl<L> std::fmt::Debug for Trial<L> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Trial").field("parent", &self.parent).field("writers", &self.count).finish()
    }
}

impl<L> Trial<L> {
    /// A log made by `make` in directories beneath `parent` (see [`crate::directory`]), for this many writers.
    pub fn new(parent: impl Into<PathBuf>, writers: usize, make: impl Fn(&Path) -> L + 'static) -> Self {
        let (log, appended, workloads) = (None, 0, Vec::new());
        Self { parent: parent.into(), make: Box::new(make), log, appended, count: writers, writers: workloads }
    }

    /// The log and the next events of every writer: `count`, or fewer, the same number for each.
    fn next(&mut self, count: usize) -> (&mut L, Vec<&[Prepared]>) {
        if self.writers.is_empty() {
            let made = (0..self.count).map(|writer| Workload::new(PREPARED / self.count, writer, self.count));
            self.writers = made.collect();
        }
        if self.appended > EVENTS_MAX {
            self.log = None;
            self.appended = 0;
            self.writers.iter_mut().for_each(Workload::restart);
        }
        let (log, _) = self.log.get_or_insert_with(|| {
            let directory = crate::directory(&self.parent);
            ((self.make)(directory.path()), directory)
        });
        let shares: Vec<_> = self.writers.iter_mut().map(|writer| writer.take(count)).collect();
        self.appended += shares[0].len() * shares.len();
        (log, shares)
    }

    /// How long `append` needs for `rounds` batches of `len` events, shared among the writers, each on a thread of its
    /// own. `ready` is called before, with the number of events. `append` makes ready what is not to be timed, waits for
    /// the others at the barrier, and answers when it began and ended; timed is from the first that begins to the last
    /// that ends.
    ///
    /// # Panics
    /// If `append` does.
    pub fn time(
        &mut self,
        rounds: u64,
        len: usize,
        mut ready: impl FnMut(&mut L, usize),
        append: impl Fn(&L, &[Prepared], &Barrier) -> (Instant, Instant) + Sync,
    ) -> Duration
    where
        L: Sync,
    {
        let each = (rounds as usize).div_ceil(self.count);
        let (mut left, mut elapsed) = (each * len, Duration::ZERO);
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
        elapsed.mul_f64(rounds as f64 / (each * self.count) as f64)
    }
}
