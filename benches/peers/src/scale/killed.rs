//! B7: how long it takes to be of use again after the process was killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::events::{Names, Shape};
use super::held::{Keeper, unlike_any_other};
use super::opening::{First, open_and_use};
use super::stores::bring_in;
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
        bring_in(&scale.load(*keeper, shape)?)?;
    }
    in_turns(scale.runs, &mut parties, |_, keeper| {
        let first = kill_with_tail(scale, *keeper, shape)?;
        let dir = scale.load(*keeper, shape)?;
        let each = event_bytes(scale, shape)?;
        let tail = if *keeper == Keeper::Annals {
            log_end(&dir.join("store"), each * scale.tail as usize)?
        } else {
            Vec::new()
        };
        let (times, held) = open_and_use(scale, *keeper, shape, &names, &first, &mut random)?;
        columns.push(keeper.name(), keeper.kind(), times.total());
        if *keeper == Keeper::Annals {
            // Segments that ended before the kill were synced; the rest is what recovery has to read and write.
            let unsynced = (held.recovered() as usize * each).min(tail.len());
            columns.push("raw scan and rewrite", Kind::Floor, raw(&tail[tail.len() - unsynced..], &scale.dir)?);
            kept.push(held.recovered() as f64);
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
    if let Some(kept) = Spread::of(kept) {
        notes.push(format!(
            "annals found {:.0} ({:.0}..{:.0}) of them unsynced and wrote them anew; the raw scan and rewrite is of as many",
            kept.median, kept.min, kept.max
        ));
    }
    let title = format!("Open after a kill, append one event, read one stream: {} events", shape.events);
    let wanted = "<= 20 ms + 2 x raw; aim 10 ms + 1.2 x raw";
    Ok(vec![columns.row("B7", title, "ms", wanted, notes)])
}

/// Bytes an event takes in the log; those appended one by one take about 40 more than those loaded in batches.
fn event_bytes(scale: &Scale, shape: Shape) -> Result<usize> {
    let facts = scale.facts(Keeper::Annals, shape)?;
    let bytes = facts["segment_bytes"].as_u64().ok_or("no length of the segments was noted")?;
    Ok((bytes / u64::from(shape.events)) as usize + 40)
}

/// The last `len` bytes of the log, without the zeros that segments end with.
fn log_end(dir: &Path, len: usize) -> Result<Vec<u8>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| crate::annals::holds_events(&name.to_string_lossy())) {
            files.push(path);
        }
    }
    files.sort();
    let mut parts = Vec::new();
    let mut left = len;
    for path in files.iter().rev() {
        let bytes = std::fs::read(path)?;
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let take = end.min(left);
        parts.push(bytes[end - take..end].to_vec());
        left -= take;
        if left == 0 {
            break;
        }
    }
    parts.reverse();
    Ok(parts.concat())
}

/// Milliseconds to check these bytes, to write them to a new file and to sync it.
fn raw(bytes: &[u8], scratch: &Path) -> Result<f64> {
    let path = scratch.join("raw-tail");
    let began = Instant::now();
    std::hint::black_box(crc32fast::hash(bytes));
    let mut file = std::fs::File::create(&path)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    let elapsed = began.elapsed();
    std::fs::remove_file(path)?;
    Ok(elapsed.as_secs_f64() * 1e3)
}
