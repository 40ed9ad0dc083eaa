//! B3: the last revision of a stream.

use std::time::Instant;

use super::events::{Names, Shape, below};
use super::held::{Held, Keeper, unlike_any_other};
use super::killed::kill_with_tail;
use super::{Columns, Scale, in_turns};
use crate::Result;
use crate::engines::Kind;
use crate::random::Random;
use crate::report::Row;

/// Look-ups that make "the first" after a kill.
const FIRST: usize = 1000;

/// Names of a call that is given many.
const TOGETHER: usize = 100;

/// The three tables.
pub(super) fn rows(scale: &Scale) -> Result<Vec<Row>> {
    let names = Names::new(scale.large.streams);
    let mut random = unlike_any_other();
    let (mut independent, mut dependent) = (Columns::default(), Columns::default());
    {
        let open = |keeper: &Keeper| Ok((*keeper, scale.open_warm(*keeper, scale.large)?));
        let mut parties = scale.keepers.iter().map(open).collect::<Result<Vec<_>>>()?;
        for (_, held) in &parties {
            independently(&**held, &asked(scale, &names, &mut random))?;
        }
        in_turns(scale.runs, &mut parties, |_, (keeper, held)| {
            let names = asked(scale, &names, &mut random);
            independent.push(keeper.name(), keeper.kind(), together(&**held, &names)?);
            let alone = format!("{}, a call for each", keeper.name());
            independent.push(&alone, Kind::Beside, independently(&**held, &names)?);
            dependent.push(keeper.name(), keeper.kind(), dependently(&**held, &names)?);
            Ok(())
        })?;
    }
    let mut killed = Columns::default();
    let mut parties = scale.keepers.clone();
    in_turns(scale.runs, &mut parties, |_, keeper| {
        kill_with_tail(scale, *keeper, scale.large)?;
        let held = scale.open(*keeper, scale.large)?;
        let names = asked(scale, &names, &mut random);
        let first = independently(&*held, &names[..FIRST.min(names.len())])?;
        killed.push(keeper.name(), keeper.kind(), independently(&*held, &names)?);
        if *keeper == Keeper::Annals {
            killed.push("annals, the first 1,000", Kind::Beside, first);
        }
        Ok(())
    })?;
    let notes =
        vec!["the maps are new after a kill, so the first look-ups touch each page for the first time".to_owned()];
    let streams = scale.large.streams;
    let title = |what: &str| format!("Last revision of one of {streams} streams, {what}");
    Ok(vec![
        independent.row(
            "B3, independent",
            title("all names known before"),
            "us",
            "<= 0.3 us; aim 0.1",
            vec![format!(
                "{TOGETHER} names a call, through `Reader::stream_states`, which looks ahead; the peers have no such call, each \
                 name is one of theirs; a call for each name of annals goes through `Reader::stream_state`"
            )],
        ),
        dependent.row(
            "B3, dependent",
            title("each name known from the answer before"),
            "us",
            "<= 0.5 us; aim 0.2",
            Vec::new(),
        ),
        killed.row("B3, after a kill", title("just after a kill"), "us", "<= 1 us; aim 0.6", notes),
    ])
}

/// The names looked up in a run.
fn asked<'a>(scale: &Scale, names: &'a Names, random: &mut Random) -> Vec<&'a str> {
    let Shape { streams, .. } = scale.large;
    (0..scale.lookups).map(|_| names.stream(below(random, streams))).collect()
}

/// Microseconds a look-up.
fn independently(held: &dyn Held, names: &[&str]) -> Result<f64> {
    let (began, mut sum) = (Instant::now(), 0);
    for name in names {
        sum += held.latest(name)?;
    }
    let elapsed = began.elapsed();
    if sum == 0 {
        return Err("no stream had an event".into());
    }
    Ok(elapsed.as_secs_f64() * 1e6 / names.len() as f64)
}

/// Microseconds a look-up, where so many names are handed over at once.
fn together(held: &dyn Held, names: &[&str]) -> Result<f64> {
    let (began, mut sum) = (Instant::now(), 0);
    for names in names.chunks(TOGETHER) {
        sum += held.latest_of(names)?;
    }
    let elapsed = began.elapsed();
    if sum == 0 {
        return Err("no stream had an event".into());
    }
    Ok(elapsed.as_secs_f64() * 1e6 / names.len() as f64)
}

/// The same with the place of each name hanging on the revision found before.
fn dependently(held: &dyn Held, names: &[&str]) -> Result<f64> {
    let (began, mut last) = (Instant::now(), 0u64);
    for number in 0..names.len() {
        // No stream has four thousand million events, so this adds zero; only the processor cannot know.
        last = held.latest(names[(number + (last >> 32) as usize) % names.len()])?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / names.len() as f64)
}
