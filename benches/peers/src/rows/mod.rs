//! The rows: what is done, by whom, how often.

mod appends;
mod long;
mod scan;
mod size;
mod tickets;
mod worst;
mod writers;

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::device::{self, Device};
use crate::engines::Engine;
use crate::peer::{Durability, Log};
use crate::report::Row;
use crate::workload::Workload;

/// The rows by name, in order.
pub const ROWS: [&str; 9] = ["A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "A9"];
/// Measured only when asked for: A1 and A2 for so long that the disk bounds them.
pub const LONG: &str = "A1L";

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the stores are made and thrown away.
    pub dir: PathBuf,
    /// Runs of each row.
    pub runs: usize,
    /// Events appended before the clock starts in Buffered rows.
    pub warm_up: usize,
    /// Events timed in Buffered rows.
    pub steady: usize,
    /// A Buffered run of a peer ends after this even if events are left.
    pub buffered_limit: Duration,
    /// A Durable run ends after this.
    pub durable_limit: Duration,
    /// Events stored for the scan.
    pub scanned: usize,
    /// Length of the worst-append row; peers get a sixth of it.
    pub open_loop: Duration,
    /// Events offered a second in that row.
    pub offered: f64,
    /// Who takes part.
    pub engines: Vec<&'static Engine>,
}

impl Settings {
    /// Those that take part at this durability.
    fn serving(&self, durability: Durability) -> Vec<&'static Engine> {
        self.engines.iter().copied().filter(|engine| engine.serves(durability)).collect()
    }

    /// Events the workload has to hold.
    pub fn events(&self) -> usize {
        self.warm_up + self.steady
    }
}

/// A run of the programme.
pub struct Bench {
    /// How much.
    pub settings: Settings,
    /// What is appended.
    pub work: Workload,
    /// Who counts the syncs.
    pub device: Option<Device>,
}

impl Bench {
    /// Measures the row of this name; some are several tables.
    pub fn row(&self, name: &str) -> Result<Vec<Row>> {
        if ["A1L", "A3", "A4", "A5", "A6", "A9"].contains(&name) {
            device::refuse_memory(&self.settings.dir)?;
        }
        match name {
            "A1" => Ok(vec![appends::buffered(self, 1)?]),
            LONG => Ok(vec![long::row(self)?]),
            "A2" => Ok(vec![appends::buffered(self, 100)?, appends::buffered(self, 1000)?]),
            "A3" => Ok(vec![appends::durable(self, 1)?]),
            "A4" => Ok(vec![appends::durable(self, 100)?]),
            "A5" => Ok(vec![writers::row(self, 8)?, writers::row(self, 64)?]),
            "A6" => [64 << 10, 512 << 10, 4 << 20].iter().map(|bytes| tickets::row(self, *bytes)).collect(),
            "A7" => Ok(vec![scan::row(self)?]),
            "A8" => Ok(vec![size::row(self, 100)?, size::row(self, 1)?]),
            "A9" => Ok(vec![worst::row(self)?]),
            other => Err(format!("no row {other}").into()),
        }
    }

    /// An empty directory for an engine, opened; gone with everything in it when dropped.
    fn open(&self, engine: &Engine, durability: Durability, bytes_expected: u64) -> Result<Opened> {
        let scratch = Scratch::create(&self.settings.dir, engine.name)?;
        let log = (engine.open)(&scratch.path, durability, bytes_expected)?;
        Ok(Opened { log: Some(log), scratch })
    }
}

/// A directory that is removed again.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn create(parent: &std::path::Path, name: &str) -> Result<Self> {
        let path = parent.join(format!("run-{name}"));
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let parent = self.path.parent().map(ToOwned::to_owned);
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("{} stays behind: {error}", self.path.display());
        }
        // The next engine does not wait for what this one left to the disk, discards of its blocks included.
        if let Some(Err(error)) = parent.map(|parent| device::settle(&parent)) {
            eprintln!("the disk did not settle: {error}");
        }
    }
}

/// An open engine in a directory of its own.
struct Opened {
    log: Option<Box<dyn Log>>,
    scratch: Scratch,
}

impl Opened {
    fn log(&self) -> &dyn Log {
        &**self.log.as_ref().expect("open until closed")
    }

    /// Closes the engine and leaves its directory.
    fn close(mut self) -> Scratch {
        self.log = None;
        let Self { scratch, .. } = self;
        scratch
    }
}
