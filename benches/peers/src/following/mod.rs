//! C1 to C3: how soon somebody who follows the log sees an event, and what that costs the writer.

pub mod child;
mod cost;
mod floor;
mod latency;
mod tails;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use crate::engines::Kind;
use crate::report::{EngineResult, Row, Sample};
use crate::{Result, device};

/// The rows by name, in order.
pub const ROWS: [&str; 3] = ["C1", "C2", "C3"];

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the stores are made and thrown away.
    pub dir: PathBuf,
    /// Runs of each row.
    pub runs: usize,
    /// Events timed in a run of C1.
    pub polled: usize,
    /// Events timed in a run of C2.
    pub woken: usize,
    /// How long a run of C3 takes.
    pub written_for: Duration,
}

impl Settings {
    /// The usual amounts, or short ones that only show that it works.
    pub fn new(dir: PathBuf, runs: usize, quick: bool) -> Self {
        Self {
            dir,
            runs,
            polled: if quick { 2_000 } else { 50_000 },
            woken: if quick { 100 } else { 1_500 },
            written_for: Duration::from_millis(if quick { 200 } else { 2_000 }),
        }
    }

    /// Measures the row of this name; some are several tables.
    ///
    /// # Errors
    /// Whatever an engine or the disk has to say.
    pub fn row(&self, name: &str) -> Result<Vec<Row>> {
        match name {
            "C1" => Ok(vec![latency::polled(self)?]),
            "C2" => {
                device::refuse_memory(&self.dir)?;
                Ok(vec![latency::woken(self)?, latency::woken_elsewhere(self)?])
            }
            "C3" => Ok(vec![cost::beside_one(self)?, cost::beside_four(self)?]),
            other => Err(format!("no row {other}").into()),
        }
    }

    /// An empty directory of this name.
    fn scratch(&self, name: &str) -> Result<Scratch> {
        let path = self.dir.join(format!("follow-{name}"));
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }
}

/// A directory that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}

/// Nanoseconds of a clock that all processes of the machine share.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// What each event carries: its number, from 0, then bytes as in the other rows.
fn payload(number: usize) -> [u8; 256] {
    let mut payload = [0x5a; 256];
    payload[..8].copy_from_slice(&(number as u64).to_le_bytes());
    payload
}

fn number_of(payload: &[u8]) -> usize {
    payload.first_chunk::<8>().map_or(usize::MAX, |bytes| u64::from_le_bytes(*bytes) as usize)
}

/// When something happened to each event, by its number; 0: not yet.
struct Times(Vec<u64>);

impl Times {
    fn of(count: usize) -> Self {
        Self(vec![0; count])
    }

    fn note(&mut self, number: usize, time: u64) {
        if let Some(slot) = self.0.get_mut(number) {
            *slot = time;
        }
    }
}

/// How much later each of `later` is than that of `earlier`; what came sooner counts as 0.
fn differences(earlier: &Times, later: &Times) -> Result<Histogram<u64>> {
    let mut histogram = Histogram::<u64>::new_with_max(100_000_000_000, 3)?;
    for (number, (earlier, later)) in earlier.0.iter().zip(&later.0).enumerate() {
        if *earlier == 0 || *later == 0 {
            return Err(format!("event {number} was not seen").into());
        }
        histogram.saturating_record(later.saturating_sub(*earlier));
    }
    Ok(histogram)
}

fn micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e3
}

/// `p50 .. p99.99` and the largest, in microseconds.
fn spread(histogram: &Histogram<u64>) -> String {
    let at = |quantile: f64| micros(histogram, quantile);
    format!(
        "p50 {:.2}, p90 {:.2}, p99 {:.2}, p99.9 {:.1}, p99.99 {:.1}, max {:.0} us of {}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(0.9999),
        histogram.max() as f64 / 1e3,
        histogram.len()
    )
}

/// One engine's figures of all runs, and the histogram over them.
struct Measured {
    name: String,
    kind: Kind,
    runs: Vec<Option<Sample>>,
    all: Histogram<u64>,
}

impl Measured {
    fn new(name: &str, kind: Kind) -> Result<Self> {
        let all = Histogram::<u64>::new_with_max(100_000_000_000, 3)?;
        Ok(Self { name: name.to_owned(), kind, runs: Vec::new(), all })
    }

    /// A run, told by its median.
    fn add(&mut self, run: &Histogram<u64>) -> Result<()> {
        self.runs.push(Some(Sample { value: micros(run, 0.5), ..Sample::default() }));
        self.all.add(run)?;
        Ok(())
    }

    fn note(&self) -> String {
        format!("{}: {}", self.name, spread(&self.all))
    }

    fn result(self) -> EngineResult {
        EngineResult { name: self.name, kind: self.kind, runs: self.runs }
    }
}
