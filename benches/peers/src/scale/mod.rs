//! Rows B1 to B10: what must not grow with the store. Ten million events in a million streams and a thousand segments,
//! kept by annals, LMDB and SQLite; each store is loaded once and the runs repeat the reads.

mod background;
mod blocks;
pub mod child;
mod conditions;
pub mod events;
pub mod everything;
pub mod held;
mod ids;
mod killed;
mod latest;
mod memory;
mod opening;
mod reads;
mod stores;
mod types;
mod watch;

use std::path::PathBuf;

use crate::Result;
use crate::engines::Kind;
use crate::report::{Better, EngineResult, Row, Sample};
use crate::units::Units;
use crate::workload::Payloads;
use events::{Ids, Shape};
use held::Keeper;

/// The rows by name, in order: those that make stores anew or change them come after those that only read.
pub const ROWS: [&str; 10] = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10"];

/// Distinct payloads: 64 MiB of them, more than a processor caches.
const PAYLOADS: usize = 1 << 18;

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where short-lived files are made.
    pub dir: PathBuf,
    /// Where stores are kept.
    pub stores: PathBuf,
    /// Runs of each row.
    pub runs: usize,
    /// The large store.
    pub large: Shape,
    /// The small one, with streams of the same length.
    pub small: Shape,
    /// Longest segment of both.
    pub segment_bytes: u64,
    /// Streams read in a run.
    pub reads: usize,
    /// Revisions looked up in a run.
    pub lookups: usize,
    /// Pairs of blocks of appends in a run, one of each kind of append.
    pub blocks: usize,
    /// Appends in a block.
    pub block: usize,
    /// Events appended before a kill.
    pub tail: u32,
    /// Events appended while memory is watched.
    pub watched: u32,
    /// Who takes part.
    pub keepers: Vec<Keeper>,
}

impl Settings {
    /// As the rows ask, or everything small.
    pub fn new(dir: PathBuf, stores: PathBuf, runs: usize, quick: bool, ids: Ids) -> Self {
        let shape = |events, streams| Shape { events, streams, ids };
        Self {
            dir,
            stores,
            runs,
            large: if quick { shape(200_000, 20_000) } else { shape(10_000_000, 1_000_000) },
            small: if quick { shape(20_000, 2_000) } else { shape(400_000, 40_000) },
            segment_bytes: if quick { 512 << 10 } else { 3200 << 10 },
            reads: if quick { 2_000 } else { 20_000 },
            lookups: if quick { 5_000 } else { 100_000 },
            blocks: if quick { 4 } else { 20 },
            block: if quick { 100 } else { 500 },
            tail: if quick { 2_000 } else { 20_000 },
            watched: if quick { 100_000 } else { 5_000_000 },
            keepers: Keeper::ALL.to_vec(),
        }
    }
}

/// A run of the programme over large stores.
pub struct Scale {
    /// How much.
    pub settings: Settings,
    payloads: Payloads,
}

impl std::ops::Deref for Scale {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl Scale {
    /// Makes the payloads.
    pub fn prepare(settings: Settings) -> Result<Self> {
        let wanted = PAYLOADS.min(settings.large.events as usize);
        let payloads = Payloads::fixed(wanted, &settings.dir)?;
        std::fs::create_dir_all(&settings.stores)?;
        Ok(Self { settings, payloads })
    }

    /// What the stores hold, in a line.
    pub fn description(&self) -> String {
        format!(
            "{} events in {} streams, and {} in {}, all streams as busy; 256 B ({}), 12 B types of which one is rare, two \
             tags, {:?} ids; segments of {:.1} MiB",
            self.large.events,
            self.large.streams,
            self.small.events,
            self.small.streams,
            self.payloads.origin,
            self.large.ids,
            self.segment_bytes as f64 / f64::from(1 << 20)
        )
    }

    /// Measures the row of this name; most are several tables.
    pub fn row(&self, name: &str) -> Result<Vec<Row>> {
        let units = Units::measure(&self.dir)?.line();
        let mut rows = match name {
            "B1" => reads::small(self)?,
            "B2" => reads::large(self)?,
            "B3" => latest::rows(self)?,
            "B4" => conditions::rows(self)?,
            "B5" => ids::rows(self)?,
            "B6" => opening::rows(self)?,
            "B7" => killed::rows(self)?,
            "B8" => memory::rows(self)?,
            "B9" => types::rows(self)?,
            "B10" => background::rows(self)?,
            other => return Err(format!("no row {other}").into()),
        };
        rows.iter_mut().for_each(|row| row.notes.push(format!("just before: {units}")));
        Ok(rows)
    }
}

/// Figures as they come, a column for each name.
#[derive(Default)]
struct Columns(Vec<EngineResult>);

impl Columns {
    /// The figure of a run.
    fn push(&mut self, name: &str, kind: Kind, value: f64) {
        let sample = Some(Sample { value, ..Sample::default() });
        match self.0.iter_mut().find(|column| column.name == name) {
            Some(column) => column.runs.push(sample),
            None => self.0.push(EngineResult { name: name.to_owned(), kind, runs: vec![sample] }),
        }
    }

    /// The figures of a column.
    fn values(&self, name: &str) -> Vec<f64> {
        let column = self.0.iter().find(|column| column.name == name);
        column.map_or_else(Vec::new, |column| column.runs.iter().flatten().map(|sample| sample.value).collect())
    }

    /// As a table in which less is better.
    fn row(mut self, id: &str, title: String, unit: &'static str, wanted: &'static str, notes: Vec<String>) -> Row {
        // Ours first; within a kind as they came.
        self.0.sort_by_key(|column| match column.kind {
            Kind::Annals => 0,
            Kind::Beside => 1,
            Kind::Floor | Kind::BareLog => 2,
            Kind::Peer => 3,
        });
        Row { id: id.into(), title, unit, better: Better::Lower, wanted, results: self.0, notes }
    }
}

/// Calls `each` for every party in every run, beginning with another one each time.
fn in_turns<T>(runs: usize, parties: &mut [T], mut each: impl FnMut(usize, &mut T) -> Result<()>) -> Result<()> {
    for run in 0..runs {
        for turn in 0..parties.len() {
            let which = (turn + run) % parties.len();
            each(run, &mut parties[which])?;
        }
    }
    Ok(())
}
