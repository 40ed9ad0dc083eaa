//! B1 and B2: one stream, chosen at random, read from its beginning.

use std::time::Instant;

use super::events::{Names, Shape, below};
use super::held::{Held, Keeper, unlike_any_other};
use super::{Columns, Scale, in_turns};
use crate::Result;
use crate::engines::Kind;
use crate::random::Random;
use crate::report::{Row, Spread};

struct Party {
    shape: Shape,
    keeper: Keeper,
    held: Box<dyn Held>,
}

/// B1.
pub(super) fn small(scale: &Scale) -> Result<Vec<Row>> {
    let (mut p50, mut p99) = (Columns::default(), Columns::default());
    measure(scale, &[scale.small], |_, keeper, times| {
        p50.push(keeper.name(), keeper.kind(), times.0);
        p99.push(keeper.name(), keeper.kind(), times.1);
    })?;
    let title = |what| format!("Read one random stream, {} events, {what}", scale.small.events);
    let notes = || vec![scale.reads_note()];
    Ok(vec![
        p50.row("B1, p50", title("p50"), "us", "<= LMDB; aim half of it", notes()),
        p99.row("B1, p99", title("p99"), "us", "<= LMDB; aim half of it", notes()),
    ])
}

/// B2, with B1's figure from between its runs.
pub(super) fn large(scale: &Scale) -> Result<Vec<Row>> {
    const SMALL: &str = "annals, small store";
    let (mut p50, mut p99) = (Columns::default(), Columns::default());
    measure(scale, &[scale.small, scale.large], |shape, keeper, times| {
        let (name, kind) = match (shape == scale.large, keeper) {
            (true, _) => (keeper.name(), keeper.kind()),
            (false, Keeper::Annals) => (SMALL, Kind::Beside),
            (false, _) => return,
        };
        p50.push(name, kind, times.0);
        p99.push(name, kind, times.1);
    })?;
    let grown = p50.values("annals").into_iter().zip(p50.values(SMALL)).map(|(large, small)| large / small);
    let mut notes = vec![scale.reads_note()];
    if let Some(spread) = Spread::of(grown) {
        notes
            .push(format!("B2 / B1 of the same run, p50: {:.2} ({:.2}..{:.2})", spread.median, spread.min, spread.max));
    }
    let title = |what| format!("Read one random stream, {} events, warm, {what}", scale.large.events);
    Ok(vec![
        p50.row("B2, p50", title("p50"), "us", "<= 3 x B1; aim 2.2 x B1", notes),
        p99.row("B2, p99", title("p99"), "us", "shown", vec![scale.reads_note()]),
    ])
}

impl Scale {
    fn reads_note(&self) -> String {
        format!("{} reads a run of about ten events each, every payload summed, after a scan of everything", self.reads)
    }
}

fn measure(scale: &Scale, shapes: &[Shape], mut each: impl FnMut(Shape, Keeper, (f64, f64))) -> Result<()> {
    let mut random = unlike_any_other();
    let mut parties = Vec::new();
    let most = shapes.iter().map(|shape| shape.streams).max().unwrap_or(0);
    let names = Names::new(most);
    for shape in shapes {
        for keeper in &scale.keepers {
            // The peers' small stores are no part of B2.
            if shapes.len() == 1 || *shape == scale.large || *keeper == Keeper::Annals {
                let held = scale.open_warm(*keeper, *shape)?;
                held.scan()?;
                timed(&*held, &names, *shape, scale.reads, &mut random)?;
                parties.push(Party { shape: *shape, keeper: *keeper, held });
            }
        }
    }
    in_turns(scale.runs, &mut parties, |_, party| {
        let times = timed(&*party.held, &names, party.shape, scale.reads, &mut random)?;
        each(party.shape, party.keeper, times);
        Ok(())
    })
}

/// p50 and p99 in microseconds.
fn timed(held: &dyn Held, names: &Names, shape: Shape, reads: usize, random: &mut Random) -> Result<(f64, f64)> {
    let (mut times, mut events) = (Vec::with_capacity(reads), 0);
    for _ in 0..reads {
        let name = names.stream(below(random, shape.streams));
        let began = Instant::now();
        let scanned = held.read_stream(name)?;
        times.push(began.elapsed());
        events += scanned.events;
    }
    if events < reads as u64 * 5 {
        return Err(format!("{reads} streams held only {events} events").into());
    }
    times.sort_unstable();
    let micros = |at: usize| times[at.min(reads - 1)].as_nanos() as f64 / 1e3;
    Ok((micros(reads / 2), micros(reads * 99 / 100)))
}
