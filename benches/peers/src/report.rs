//! Rows as tables: medians with their spread, and ratios taken within each run.

use serde_json::{Value, json};

use crate::engines::Kind;

/// Whether more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// As with events per second.
    Higher,
    /// As with bytes or microseconds.
    Lower,
}

/// One engine's figure in one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// The figure, in the row's unit.
    pub value: f64,
    /// Flush requests the device executed, per append.
    pub syncs_per_append: Option<f64>,
    /// Bytes the device wrote, per event.
    pub written_per_event: Option<f64>,
}

/// All figures of an engine, one for each run; `None` where it failed.
#[derive(Clone, Debug)]
pub struct EngineResult {
    /// Name.
    pub name: String,
    /// What it counts as.
    pub kind: Kind,
    /// By run.
    pub runs: Vec<Option<Sample>>,
}

/// A measured row.
#[derive(Clone, Debug)]
pub struct Row {
    /// As in the list of figures, with what distinguishes it.
    pub id: String,
    /// What was done.
    pub title: String,
    /// Unit of the figures.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// What must be reached, and what is aimed at.
    pub wanted: &'static str,
    /// The engines.
    pub results: Vec<EngineResult>,
    /// What else was seen.
    pub notes: Vec<String>,
}

/// How a table looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Columns by spaces.
    Text,
    /// A Markdown table.
    Markdown,
}

/// Median, least and most of some figures.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// How many there were.
    pub count: usize,
}

impl Spread {
    /// Of no figures: `None`.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let (min, max) = (*values.first()?, *values.last()?);
        let median = (values[(count - 1) / 2] + values[count / 2]) / 2.0;
        Some(Self { median, min, max, count })
    }
}

/// A run is dropped when the floor's figure lies further than this factor from its own median.
const FLOOR_SPREAD: f64 = 1.5;

impl Row {
    /// The floor of each run: the hand-written one, or a bare log that was better in that run.
    fn floors(&self) -> Vec<Option<f64>> {
        let count = self.results.iter().map(|result| result.runs.len()).max().unwrap_or(0);
        let best = |run: usize| {
            let floors = self.results.iter().filter(|result| matches!(result.kind, Kind::Floor | Kind::BareLog));
            let values = floors.filter_map(|result| Some((*result.runs.get(run)?)?.value));
            values.reduce(|a, b| if (a > b) == (self.better == Better::Higher) { a } else { b })
        };
        (0..count).map(best).collect()
    }

    /// Runs in which the hand-written floor was far off its own median.
    fn dropped(&self) -> Vec<bool> {
        let count = self.results.iter().map(|result| result.runs.len()).max().unwrap_or(0);
        let mut dropped = vec![false; count];
        for floor in self.results.iter().filter(|result| result.kind == Kind::Floor) {
            let Some(spread) = floor.spread(&vec![false; count]) else {
                continue;
            };
            for (run, sample) in floor.runs.iter().enumerate() {
                let Some(sample) = sample else { continue };
                let off = sample.value / spread.median;
                dropped[run] |= !(1.0 / FLOOR_SPREAD..=FLOOR_SPREAD).contains(&off);
            }
        }
        // Two runs, or a floor that is off more often than not, have no spread to judge by: then all runs are shown.
        let too_many = count < 3 || 2 * dropped.iter().filter(|dropped| **dropped).count() > count;
        if too_many { vec![false; count] } else { dropped }
    }

    /// The peer with the best median.
    fn best_peer(&self, dropped: &[bool]) -> Option<&EngineResult> {
        let peers = self.results.iter().filter(|result| result.kind == Kind::Peer);
        let peers = peers.filter_map(|result| Some((result, result.spread(dropped)?.median)));
        let better = |a: &(_, f64), b: &(_, f64)| match self.better {
            Better::Higher => a.1.total_cmp(&b.1),
            Better::Lower => b.1.total_cmp(&a.1),
        };
        peers.max_by(better).map(|(result, _)| result)
    }

    /// The ratio of annals to other figures, run by run; above 1 is better for annals whatever the unit.
    fn ratio(&self, others: &[Option<f64>], dropped: &[bool]) -> Option<Spread> {
        let annals = self.results.iter().find(|result| result.kind == Kind::Annals)?;
        let runs = annals.runs.iter().zip(others).zip(dropped).filter(|(_, dropped)| !**dropped);
        Spread::of(runs.filter_map(|((ours, other), _)| {
            let ratio = (*ours)?.value / (*other)?;
            Some(if self.better == Better::Higher { ratio } else { 1.0 / ratio })
        }))
    }

    /// The table with its ratios.
    pub fn render(&self, format: Format) -> String {
        let dropped = self.dropped();
        let mut lines =
            vec![["engine", "median", "min", "max", "syncs/append", "device B/event", "runs"].map(str::to_owned)];
        for result in &self.results {
            lines.push(result.line(self.unit, &dropped));
        }
        let mut out = match format {
            Format::Text => format!("{} {} [{}]\n", self.id, self.title, self.unit),
            Format::Markdown => format!("### {} {} ({})\n\n", self.id, self.title, self.unit),
        };
        out += &table(&lines, format);
        for line in self.ratios(&dropped) {
            out += &bullet(&line, format);
        }
        for note in &self.notes {
            out += &bullet(note, format);
        }
        out + "\n"
    }

    fn ratios(&self, dropped: &[bool]) -> Vec<String> {
        let shown = |what: &str, spread: Spread| {
            format!("annals / {what}: {:.2} ({:.2}..{:.2})", spread.median, spread.min, spread.max)
        };
        let mut lines = Vec::new();
        if let Some(spread) = self.ratio(&self.floors(), dropped) {
            lines.push(shown("floor", spread));
        }
        if let Some(peer) = self.best_peer(dropped) {
            let values: Vec<_> = peer.runs.iter().map(|sample| sample.map(|sample| sample.value)).collect();
            if let Some(spread) = self.ratio(&values, dropped) {
                lines.push(shown(&format!("best peer, {}", peer.name), spread));
            }
        }
        if !lines.is_empty() && self.better == Better::Lower {
            lines.push("a ratio above 1 means annals needs less".to_owned());
        }
        let count = dropped.iter().filter(|dropped| **dropped).count();
        if count > 0 {
            lines.push(format!("{count} of {} runs dropped for the floor's own spread", dropped.len()));
        }
        lines.push(format!("wanted: {}", self.wanted));
        lines
    }

    /// The row for a JSON file.
    pub fn json(&self) -> Value {
        let dropped = self.dropped();
        let engine = |result: &EngineResult| {
            let spread = result.spread(&dropped);
            json!({
                "engine": result.name,
                "kind": format!("{:?}", result.kind),
                "median": spread.map(|spread| spread.median),
                "min": spread.map(|spread| spread.min),
                "max": spread.map(|spread| spread.max),
                "syncs_per_append": result.syncs(&dropped),
                "values": result.runs.iter().map(|sample| sample.map(|sample| sample.value)).collect::<Vec<_>>(),
            })
        };
        json!({
            "row": self.id,
            "title": self.title,
            "unit": self.unit,
            "engines": self.results.iter().map(engine).collect::<Vec<_>>(),
            "ratios": self.ratios(&dropped),
            "notes": self.notes,
        })
    }
}

impl EngineResult {
    fn kept<'a>(&'a self, dropped: &'a [bool]) -> impl Iterator<Item = Sample> + 'a {
        let runs = self.runs.iter().enumerate();
        runs.filter(|(run, _)| !dropped.get(*run).copied().unwrap_or(false)).filter_map(|(_, sample)| *sample)
    }

    fn spread(&self, dropped: &[bool]) -> Option<Spread> {
        Spread::of(self.kept(dropped).map(|sample| sample.value))
    }

    fn syncs(&self, dropped: &[bool]) -> Option<f64> {
        Some(Spread::of(self.kept(dropped).filter_map(|sample| sample.syncs_per_append))?.median)
    }

    fn line(&self, unit: &str, dropped: &[bool]) -> [String; 7] {
        let figure = |value: f64| figure(value, unit);
        let name = match self.kind {
            Kind::Beside => format!("({})", self.name),
            _ => self.name.clone(),
        };
        let written = Spread::of(self.kept(dropped).filter_map(|sample| sample.written_per_event));
        let [median, min, max, runs] = match self.spread(dropped) {
            Some(spread) => [figure(spread.median), figure(spread.min), figure(spread.max), spread.count.to_string()],
            None => ["-".into(), "-".into(), "-".into(), "0".into()],
        };
        let syncs = self.syncs(dropped).map_or("-".to_owned(), |syncs| format!("{syncs:.3}"));
        let written = written.map_or("-".to_owned(), |written| format!("{:.0}", written.median));
        [name, median, min, max, syncs, written, runs]
    }
}

/// A figure in its unit, short.
pub fn figure(value: f64, unit: &str) -> String {
    if unit != "events/s" {
        return if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    }
    match value {
        _ if value >= 1e6 => format!("{:.2} M", value / 1e6),
        _ if value >= 1e4 => format!("{:.0} k", value / 1e3),
        _ => format!("{:.1} k", value / 1e3),
    }
}

fn table<const N: usize>(lines: &[[String; N]], format: Format) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<String> = (0..N)
            .map(|n| if n == 0 { format!("{:<1$}", line[n], widths[n]) } else { format!("{:>1$}", line[n], widths[n]) })
            .collect();
        match format {
            Format::Text => out += &format!("  {}\n", cells.join("  ")),
            Format::Markdown => out += &format!("| {} |\n", cells.join(" | ")),
        }
        if number == 0 && format == Format::Markdown {
            let rule: Vec<&str> = (0..N).map(|n| if n == 0 { "---" } else { "---:" }).collect();
            out += &format!("| {} |\n", rule.join(" | "));
        }
    }
    if format == Format::Markdown {
        out += "\n";
    }
    out
}

fn bullet(line: &str, format: Format) -> String {
    match format {
        Format::Text => format!("  * {line}\n"),
        Format::Markdown => format!("- {line}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, kind: Kind, values: &[f64]) -> EngineResult {
        let sample = |value: &f64| Some(Sample { value: *value, ..Sample::default() });
        EngineResult { name: name.to_owned(), kind, runs: values.iter().map(sample).collect() }
    }

    fn row(results: Vec<EngineResult>) -> Row {
        Row {
            id: "A1".into(),
            title: "test".into(),
            unit: "events/s",
            better: Better::Higher,
            wanted: "more",
            results,
            notes: Vec::new(),
        }
    }

    #[test]
    fn ratios_are_of_the_same_run() {
        let row = row(vec![
            result("annals", Kind::Annals, &[10.0, 20.0, 60.0]),
            result("floor", Kind::Floor, &[10.0, 10.0, 12.0]),
            result("peer", Kind::Peer, &[5.0, 2.0, 4.0]),
        ]);
        let dropped = row.dropped();
        assert_eq!(dropped, [false; 3]);
        let spread = row.ratio(&row.floors(), &dropped).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 1.0, 5.0));
        assert_eq!(row.best_peer(&dropped).unwrap().name, "peer");
    }

    #[test]
    fn a_faster_bare_log_is_the_floor() {
        let floor = result("floor", Kind::Floor, &[10.0, 10.0]);
        let row = row(vec![floor, result("seglog", Kind::BareLog, &[5.0, 15.0])]);
        assert_eq!(row.floors(), [Some(10.0), Some(15.0)]);
    }

    #[test]
    fn runs_are_dropped_for_the_floor_alone() {
        let row = row(vec![
            result("annals", Kind::Annals, &[1.0, 100.0, 10.0]),
            result("floor", Kind::Floor, &[10.0, 10.0, 30.0]),
        ]);
        assert_eq!(row.dropped(), [false, false, true]);
    }

    #[test]
    fn less_is_better_where_it_is() {
        let row = Row {
            better: Better::Lower,
            ..row(vec![result("annals", Kind::Annals, &[50.0]), result("floor", Kind::Floor, &[100.0])])
        };
        assert_eq!(row.ratio(&row.floors(), &[false]).unwrap().median, 2.0);
    }
}
