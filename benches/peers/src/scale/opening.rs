//! B6: how long it takes to be of use again after a clean close.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use super::events::{Ids, Names, Shape, TYPES, below};
use super::held::{Append, Held, Keeper, unlike_any_other};
use super::{Columns, Scale, in_turns};
use crate::Result;
use crate::device;
use crate::random::Random;
use crate::report::{Row, Spread};

/// The append that shows that a store is open.
#[derive(Clone, Debug)]
pub(super) struct First {
    /// Its stream.
    pub(super) stream: String,
    /// How many events that holds.
    pub(super) revision: u64,
}

impl First {
    /// To a stream drawn at random, as it stands.
    pub(super) fn draw(held: &dyn Held, names: &Names, shape: Shape, random: &mut Random) -> Result<Self> {
        let stream = names.stream(below(random, shape.streams)).to_owned();
        let revision = held.latest(&stream)?;
        Ok(Self { stream, revision })
    }
}

/// Parts of an opening.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    opened: Duration,
    appended: Duration,
    read: Duration,
}

impl Times {
    /// All of it in milliseconds.
    pub(super) fn total(&self) -> f64 {
        self.read.as_secs_f64() * 1e3
    }

    fn line(all: &[Self]) -> String {
        let median = |part: &dyn Fn(&Self) -> Duration| {
            Spread::of(all.iter().map(|times| part(times).as_secs_f64() * 1e3)).map_or(0.0, |spread| spread.median)
        };
        format!(
            "annals, medians: open {:.3} ms, append {:.3} ms, read {:.3} ms",
            median(&|times| times.opened),
            median(&|times| times.appended - times.opened),
            median(&|times| times.read - times.appended)
        )
    }
}

/// Opens a store, appends one event and reads one random stream. The store comes back open.
pub(super) fn open_and_use(
    scale: &Scale,
    keeper: Keeper,
    shape: Shape,
    names: &Names,
    first: &First,
    random: &mut Random,
) -> Result<(Times, Box<dyn Held>)> {
    let dir = scale.load(keeper, shape)?;
    let read = names.stream(below(random, shape.streams));
    let id = Some(Ids::V4.make(random, 0));
    let tags = [names.customer(0), Names::region(0)];
    let payload = scale.payloads.of(0);
    let event =
        Append { stream: &first.stream, revision: first.revision, id, event_type: TYPES[0], tags: &tags, payload };
    let began = Instant::now();
    let held = keeper.open(&dir, scale.segment_bytes)?;
    let opened = began.elapsed();
    held.append(&event)?;
    let appended = began.elapsed();
    held.read_stream(read)?;
    Ok((Times { opened, appended, read: began.elapsed() }, held))
}

struct Party {
    keeper: Keeper,
    shape: Shape,
    first: Option<First>,
}

/// A table for each size, warm and cold.
pub(super) fn rows(scale: &Scale) -> Result<Vec<Row>> {
    let names = Names::new(scale.large.streams);
    let mut rows = Vec::new();
    for cold in [false, true] {
        for shape in [scale.small, scale.large] {
            rows.push(row(scale, &names, shape, cold)?);
        }
    }
    Ok(rows)
}

fn row(scale: &Scale, names: &Names, shape: Shape, cold: bool) -> Result<Row> {
    let mut random = unlike_any_other();
    let (mut columns, mut ours, mut from_disk) = (Columns::default(), Vec::new(), Vec::new());
    let mut parties: Vec<_> =
        scale.keepers.iter().map(|keeper| Party { keeper: *keeper, shape, first: None }).collect();
    in_turns(scale.runs, &mut parties, |_, party| {
        let first = match party.first.take() {
            Some(first) => first,
            // Opened once before, for a revision and to have the pages in memory.
            None => First::draw(&*scale.open_warm(party.keeper, party.shape)?, names, shape, &mut random)?,
        };
        if cold {
            forget(&scale.load(party.keeper, party.shape)?)?;
        }
        let before = read_from_disk();
        let (times, held) = open_and_use(scale, party.keeper, party.shape, names, &first, &mut random)?;
        columns.push(party.keeper.name(), party.keeper.kind(), times.total());
        if party.keeper == Keeper::Annals {
            ours.push(times);
            from_disk.push((read_from_disk() - before) as f64 / f64::from(1 << 20));
        }
        party.first = Some(First::draw(&*held, names, shape, &mut random)?);
        Ok(())
    })?;
    let mut notes = vec![Times::line(&ours)];
    if cold && let Some(spread) = Spread::of(from_disk) {
        notes
            .push(format!("files synced and dropped from the page cache before; annals read {:.1} MiB", spread.median));
    }
    let how = if cold { "cold" } else { "warm" };
    let wanted = match (cold, shape == scale.large) {
        (true, _) => "<= 30 ms",
        (false, true) => "<= 20 ms; aim 1 ms",
        (false, false) => "<= 5 ms; aim 1 ms",
    };
    let title = format!("Open after a clean close, append one event, read one stream: {} events, {how}", shape.events);
    Ok(columns.row(&format!("B6, {} events, {how}", shape.events), title, "ms", wanted, notes))
}

/// Takes the files of a store that nobody has open out of the page cache.
fn forget(dir: &Path) -> Result<()> {
    device::settle(dir)?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.metadata()?.is_dir() {
            forget(&entry.path())?;
        } else {
            rustix::fs::fadvise(File::open(entry.path())?, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Bytes that disks were asked for by this process.
fn read_from_disk() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}
