//! Rows E: what keeps a store small and quick over its years. E1: its size after compaction. E2: reading what was compacted.
//! E3: appends beside it. E4: a long stream loaded with a snapshot of its state, and without.

mod beside;
mod scan;
mod size;

use std::path::PathBuf;
use std::time::Instant;

use annals::{Batch, Durability, Loaded, NewEvent, Options, ReadEvents, Revision, Snapshots, Store};

use crate::Result;
use crate::engines::Kind;
use crate::report::{Better, EngineResult, Row, Sample};
use crate::workload::Source;

/// The rows by name, in order.
pub const ROWS: [&str; 4] = ["E1", "E2", "E3", "E4"];
/// E1 with ten million events, and with those of `scoop`, annals alone: only where they are asked for.
pub const LARGE: [&str; 2] = ["E1L", "E1S"];

/// Streams written in turn, so that the events of one do not lie side by side.
const STREAMS: usize = 10;
/// Events that came after the second kind of snapshot.
const BEHIND: u64 = 50;

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the store is made and thrown away.
    pub dir: PathBuf,
    /// Runs of each row.
    pub runs: usize,
    /// Events of a stream.
    pub events: u64,
    /// Events whose size is measured.
    pub sized: usize,
    /// Events that are compacted and scanned.
    pub compacted: usize,
    /// Loads in a run: of all events, and with a snapshot.
    pub loads: [usize; 2],
}

impl Settings {
    /// The usual amounts, or short ones that only show that it works.
    pub fn new(dir: PathBuf, runs: usize, quick: bool) -> Self {
        let loads = if quick { [3, 100] } else { [50, 20_000] };
        let (sized, compacted) = if quick { (50_000, 50_000) } else { (1_000_000, 400_000) };
        Self { dir, runs, events: if quick { 1_000 } else { 10_000 }, sized, compacted, loads }
    }

    /// Measures the row of this name.
    ///
    /// # Errors
    /// Whatever the store or the disk has to say.
    pub fn row(&self, name: &str) -> Result<Vec<Row>> {
        match name {
            "E1" => Ok(vec![size::row(self, Source::Fixed, self.sized, true)?]),
            "E1L" => Ok(vec![size::row(self, Source::Fixed, 10 * self.sized, false)?]),
            "E1S" => Ok(vec![size::row(self, Source::Scoop, self.sized / 4, false)?]),
            "E2" => Ok(vec![scan::row(self)?]),
            "E3" => Ok(vec![beside::row(self)?]),
            "E4" => Ok(vec![self.loading()?]),
            other => Err(format!("no row {other}").into()),
        }
    }

    fn loading(&self) -> Result<Row> {
        let path = self.dir.join("snapshots");
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        let row = self.load_in(&path);
        std::fs::remove_dir_all(&path)?;
        row
    }

    fn load_in(&self, path: &std::path::Path) -> Result<Row> {
        let store = Options::new().durability(Durability::Buffered).open(path)?;
        self.fill(&store)?;
        let kinds = [Snapshots::of("none", 1), Snapshots::of("behind", 1), Snapshots::of("last", 1)];
        for (kind, behind) in [(&kinds[1], BEHIND), (&kinds[2], 0)] {
            for stream in 0..STREAMS {
                let state = fold(&store, &kinds[0], stream, self.events - behind)?;
                let revision = Revision::new(self.events - behind).ok_or("no events")?;
                kind.save(&store, &name(stream), revision, &state.to_le_bytes().repeat(8))?;
            }
        }
        let names = ["without a snapshot", "with one, and 50 events after it", "with one of the last event"];
        let mut results: Vec<EngineResult> = names
            .into_iter()
            .zip([Kind::Beside, Kind::Beside, Kind::Annals])
            .map(|(name, kind)| EngineResult { name: name.to_owned(), kind, runs: Vec::new() })
            .collect();
        for _ in 0..self.runs {
            for (result, (kind, loads)) in results.iter_mut().zip(kinds.iter().zip([0, 1, 1].map(|n| self.loads[n]))) {
                let began = Instant::now();
                let mut sum = 0u64;
                for load in 0..loads {
                    sum = sum.wrapping_add(fold(&store, kind, load % STREAMS, u64::MAX)?);
                }
                let value = began.elapsed().as_secs_f64() * 1e6 / loads as f64;
                std::hint::black_box(sum);
                result.runs.push(Some(Sample { value, ..Sample::default() }));
            }
        }
        let median = |result: &EngineResult| {
            crate::report::Spread::of(result.runs.iter().flatten().map(|sample| sample.value)).map_or(0.0, |s| s.median)
        };
        let (all, behind, last) = (median(&results[0]), median(&results[1]), median(&results[2]));
        store.close()?;
        Ok(Row {
            id: "E4".to_owned(),
            title: format!("Loading a stream of {} events of 256 bytes, and folding it", self.events),
            unit: "us",
            better: Better::Lower,
            wanted: ">= 100x faster with a snapshot; aim 1,000x",
            results,
            notes: vec![
                format!(
                    "with a snapshot of the last event {:.0}x faster, with 50 events after it {:.0}x",
                    all / last,
                    all / behind
                ),
                format!(
                    "state of 64 bytes; {STREAMS} streams written in turn, warm, loaded in turn; the fold adds up the payloads"
                ),
            ],
        })
    }

    fn fill(&self, store: &Store) -> Result<()> {
        let names: Vec<String> = (0..STREAMS).map(name).collect();
        for number in 0..self.events {
            let mut payload = [0x5a; 256];
            payload[..8].copy_from_slice(&number.to_le_bytes());
            let mut batch = Batch::new();
            for name in &names {
                batch = batch.event(name, NewEvent::new("Booked", &payload));
            }
            store.commit(&batch)?;
        }
        store.sync()?;
        Ok(())
    }
}

fn name(stream: usize) -> String {
    format!("account-{stream}")
}

/// The sum of a stream's payloads, of the first so many events.
fn fold(store: &Store, kind: &Snapshots, stream: usize, upto: u64) -> Result<u64> {
    let Loaded::Complete(history) = store.load(&name(stream), kind)? else { return Err("nothing was removed".into()) };
    let saved = history.snapshot().and_then(|snapshot| snapshot.state().first_chunk::<8>().copied());
    let mut sum = saved.map_or(0, u64::from_le_bytes);
    for event in history {
        let event = event?;
        if event.revision().get() > upto {
            break;
        }
        let words = event.payload().chunks_exact(8).filter_map(|word| word.first_chunk::<8>().copied());
        sum = words.map(u64::from_le_bytes).fold(sum, u64::wrapping_add);
    }
    Ok(sum)
}
