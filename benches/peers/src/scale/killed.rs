//! B7: how long it takes to be of use again after the process was killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::events::{Names, Shape};
use super::held::{Keeper, Ours, options, unlike_any_other};
use super::opening::{First, open_and_use};
use super::{Columns, Scale, in_turns};
use crate::Result;
use crate::engines::Kind;
use crate::report::{Row, Spread};

/// Lets another process append a tail that nobody syncs, and kills it. The event to append first comes back.
pub(super) fn kill_with_tail(scale: &Scale, keeper: Keeper, shape: Shape) -> Result<First> {
    let dir = scale.load(keeper, shape)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--child", "tail", keeper.name()])
        .arg(&dir)
        .args([shape.name(), scale.tail.to_string(), scale.segment_bytes.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let answered = BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line);
    // The child waits for ever; this is the signal that cannot be caught.
    child.kill()?;
    child.wait()?;
    answered?;
    let mut parts = line.split_whitespace();
    match (parts.next(), parts.next().map(str::parse)) {
        (Some(stream), Some(Ok(revision))) => Ok(First { stream: stream.to_owned(), revision }),
        _ => Err(format!("the process that appends a tail for {} ended early", keeper.name()).into()),
    }
}

/// The row.
pub(super) fn rows(scale: &Scale) -> Result<Vec<Row>> {
    let shape = scale.large;
    let names = Names::new(shape.streams);
    let mut random = unlike_any_other();
    let (mut columns, mut kept) = (Columns::default(), Vec::new());
    let mut parties = scale.keepers.clone();
    for keeper in &parties {
        // In memory for everybody.
        scale.open(*keeper, shape)?.scan()?;
    }
    in_turns(scale.runs, &mut parties, |_, keeper| {
        let first = kill_with_tail(scale, *keeper, shape)?;
        if *keeper == Keeper::Annals {
            let bytes = tail_bytes(scale, shape)?;
            let raw = raw(&scale.load(*keeper, shape)?.join("store"), bytes, &scale.dir)?;
            columns.push("raw scan and rewrite", Kind::Floor, raw);
        }
        let (times, held) = open_and_use(scale, *keeper, shape, &names, &first, &mut random)?;
        columns.push(keeper.name(), keeper.kind(), times.total());
        drop(held);
        if *keeper == Keeper::Annals {
            // What recovery found is told by the opening itself, and that one is over; look at another kill.
            kept.push(kept_events(scale, shape)?);
        }
        Ok(())
    })?;
    let allowed: Vec<f64> = columns.values("raw scan and rewrite");
    let ours = columns.values("annals");
    let over =
        |base: f64, factor: f64| Spread::of(ours.iter().zip(&allowed).map(|(ours, raw)| ours / (base + factor * raw)));
    let mut notes =
        vec![format!("the killed process appended {} events one by one and synced nothing itself", scale.tail)];
    if let (Some(must), Some(aim)) = (over(20.0, 2.0), over(10.0, 1.2)) {
        notes.push(format!(
            "share of what must be reached used: {:.2} ({:.2}..{:.2}); of the aim: {:.2}",
            must.median, must.min, must.max, aim.median
        ));
    }
    if let Some(kept) = Spread::of(kept.into_iter().map(|kept| kept as f64)) {
        notes.push(format!("annals found {:.0} unsynced events after such a kill and wrote them anew", kept.median));
    }
    let title = format!("Open after a kill, append one event, read one stream: {} events", shape.events);
    let wanted = "<= 20 ms + 2 x raw; aim 10 ms + 1.2 x raw";
    Ok(vec![columns.row("B7", title, "ms", wanted, notes)])
}

/// How many events recovery keeps after such a kill.
fn kept_events(scale: &Scale, shape: Shape) -> Result<u64> {
    kill_with_tail(scale, Keeper::Annals, shape)?;
    let ours = Ours::open(&scale.load(Keeper::Annals, shape)?, options(scale.segment_bytes))?;
    Ok(ours.store.recovery_report().kept_events)
}

/// Bytes the tail takes in the log, events appended one by one: 56 of frame and batch more than when loading, at most.
fn tail_bytes(scale: &Scale, shape: Shape) -> Result<u64> {
    let facts = scale.facts(Keeper::Annals, shape)?;
    let bytes = facts["segment_bytes"].as_u64().ok_or("no length of the segments was noted")?;
    Ok((bytes / u64::from(shape.events) + 40) * u64::from(scale.tail))
}

/// Milliseconds to check the last `bytes` of the log and to write them to a new file and sync it.
fn raw(dir: &Path, bytes: u64, scratch: &Path) -> Result<f64> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if crate::annals::holds_events(&name) {
            files.push(path);
        }
    }
    files.sort();
    let (mut parts, mut left) = (Vec::new(), bytes as usize);
    for path in files.iter().rev() {
        let map = std::fs::read(path)?;
        // Prepared space is zero.
        let end = map.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let take = end.min(left);
        parts.push(map[end - take..end].to_vec());
        left -= take;
        if left == 0 {
            break;
        }
    }
    let path = scratch.join("raw-tail");
    let began = Instant::now();
    let mut file = std::fs::File::create(&path)?;
    for part in &parts {
        std::hint::black_box(crc32fast::hash(part));
        file.write_all(part)?;
    }
    file.sync_data()?;
    let elapsed = began.elapsed();
    std::fs::remove_file(path)?;
    Ok(elapsed.as_secs_f64() * 1e3)
}
