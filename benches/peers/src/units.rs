//! What the machine needs for the small things the rows are made of, measured in the same run.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::futex;

use crate::Result;
use crate::random::Random;

/// Unit costs of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Units {
    /// A dependent load of a random line of 64 bytes out of 256 MiB, mean.
    pub random_load: Duration,
    /// `getppid`, mean.
    pub system_call: Duration,
    /// Half of a round trip of two threads that wake each other by a futex, p50.
    pub futex_hand_off: Duration,
    /// `pwrite` of 4 KiB into written blocks and `fdatasync`, p50.
    pub sync: Duration,
    /// The same, the slowest of all.
    pub sync_max: Duration,
}

impl Units {
    /// Measures them; takes about a second.
    pub fn measure(dir: &Path) -> Result<Self> {
        let mut probe = SyncProbe::create(dir)?;
        let syncs = sorted((0..200).map(|_| probe.once()).collect::<Result<Vec<_>>>()?);
        Ok(Self {
            random_load: random_load(),
            system_call: system_call(),
            futex_hand_off: futex_hand_off(),
            sync: syncs[syncs.len() / 2],
            sync_max: syncs[syncs.len() - 1],
        })
    }

    /// One line.
    pub fn line(&self) -> String {
        let nanos = |time: Duration| time.as_nanos() as f64;
        format!(
            "random 64 B load {:.0} ns, system call {:.0} ns, futex hand-off {:.1} us, 4 KiB pwrite+fdatasync p50 \
             {:.0} us (max {:.0} us)",
            nanos(self.random_load),
            nanos(self.system_call),
            nanos(self.futex_hand_off) / 1e3,
            nanos(self.sync) / 1e3,
            nanos(self.sync_max) / 1e3
        )
    }
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort_unstable();
    times
}

fn random_load() -> Duration {
    const LINE: usize = 8;
    let lines = (256 << 20) / 64;
    let mut order: Vec<u32> = (0..lines as u32).collect();
    let mut random = Random::new(3);
    // A single cycle through all lines (Sattolo), so that every load waits for the one before.
    for n in (1..lines).rev() {
        order.swap(n, random.next() as usize % n);
    }
    let mut words = vec![0u64; lines * LINE];
    for (line, next) in order.iter().enumerate() {
        words[line * LINE] = u64::from(*next);
    }
    let loads = 2_000_000;
    let (began, mut at) = (Instant::now(), 0);
    for _ in 0..loads {
        at = words[at as usize * LINE];
    }
    std::hint::black_box(at);
    began.elapsed() / loads
}

fn system_call() -> Duration {
    let (calls, began) = (200_000, Instant::now());
    for _ in 0..calls {
        std::hint::black_box(rustix::process::getppid());
    }
    began.elapsed() / calls
}

fn futex_hand_off() -> Duration {
    const ROUNDS: u32 = 2_000;
    let turn = AtomicU32::new(0);
    let wait_for = |wanted: u32| {
        loop {
            let seen = turn.load(Ordering::Acquire);
            if seen == wanted {
                return;
            }
            // An error means the word has changed already: look again.
            let _ = futex::wait(&turn, futex::Flags::PRIVATE, seen, None);
        }
    };
    let hand_over = |to: u32| {
        turn.store(to, Ordering::Release);
        let _ = futex::wake(&turn, futex::Flags::PRIVATE, 1);
    };
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                wait_for(2 * round + 1);
                hand_over(2 * round + 2);
            }
        });
        for round in 0..ROUNDS {
            let began = Instant::now();
            hand_over(2 * round + 1);
            wait_for(2 * round + 2);
            times.push(began.elapsed() / 2);
        }
    });
    let times = sorted(times);
    times[times.len() / 2]
}

/// Writes and syncs a file of its own, to tell what a sync costs at that moment.
pub struct SyncProbe {
    file: std::fs::File,
    count: u64,
}

impl SyncProbe {
    const PAGES: u64 = 64;

    /// Creates its file in `dir`.
    pub fn create(dir: &Path) -> Result<Self> {
        let path = dir.join("sync-probe");
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
        file.write_all_at(&vec![1; 4096 * Self::PAGES as usize], 0)?;
        file.sync_all()?;
        Ok(Self { file, count: 0 })
    }

    /// One write and sync.
    pub fn once(&mut self) -> Result<Duration> {
        self.count += 1;
        let page = [self.count as u8; 4096];
        let began = Instant::now();
        self.file.write_all_at(&page, self.count % Self::PAGES * 4096)?;
        self.file.sync_data()?;
        Ok(began.elapsed())
    }
}

/// Touches as much memory as a run will use and gives it back, so that the first engine does not pay the hypervisor
/// for pages the others then find ready.
pub fn touch_memory(bytes: usize) -> Result<()> {
    let free = std::fs::read_to_string("/proc/meminfo")?;
    let available = free.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.and_then(|text| text.trim().trim_end_matches(" kB").parse::<usize>().ok()).unwrap_or(0);
    let bytes = bytes.min(available * 1024 / 2);
    let mut map = memmap2::MmapMut::map_anon(bytes.max(4096))?;
    for at in (0..map.len()).step_by(4096) {
        map[at] = 1;
    }
    std::hint::black_box(&map);
    Ok(())
}
