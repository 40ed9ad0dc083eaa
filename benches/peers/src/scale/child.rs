//! What a process of its own does: append a tail and be killed, or watch its own memory.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use annals::Durability;

use super::blocks::APPENDED_CUSTOMERS;
use super::events::{Ids, Names, REGIONS, Shape, TYPES, below};
use super::held::{Append, Held, Keeper, Ours, options, unlike_any_other};
use super::watch;
use crate::Result;
use crate::random::Random;
use crate::workload::Payloads;

/// Runs the task these arguments name.
pub fn run(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["tail", keeper, dir, shape, events, segment_bytes] => {
            let keeper = Keeper::named(keeper).ok_or("no such keeper")?;
            tail(keeper, Path::new(dir), parse(shape)?, events.parse()?, segment_bytes.parse()?)
        }
        ["memory", dir, streams, events] => appending(Path::new(dir), streams.parse()?, events.parse()?),
        ["follow", engine, path, count] => crate::following::child::run(engine, Path::new(path), count.parse()?),
        ["resident", dir, shape, segment_bytes] => resident(Path::new(dir), parse(shape)?, segment_bytes.parse()?),
        _ => Err("no such task".into()),
    }
}

fn parse(shape: &str) -> Result<Shape> {
    Ok(Shape::parse(shape).ok_or("no such shape")?)
}

/// Appends events to random streams, without a sync, tells the stream and revision of the last and waits to be killed.
fn tail(keeper: Keeper, dir: &Path, shape: Shape, events: u32, segment_bytes: u64) -> Result<()> {
    let names = Names::new(shape.streams);
    let payloads = Payloads::few(1024);
    let mut random = unlike_any_other();
    let held: Box<dyn Held> = match keeper {
        Keeper::Annals => {
            let never = options(segment_bytes).sync_interval(Duration::from_secs(3600)).sync_bytes(1 << 40);
            Box::new(Ours::open(dir, never)?)
        }
        peer => peer.open(dir, segment_bytes)?,
    };
    let (mut stream, mut revision) = (0, 0);
    for number in 0..events {
        stream = below(&mut random, shape.streams);
        revision = held.latest(names.stream(stream))?;
        append(&*held, &names, &payloads, number, (stream, revision), &mut random)?;
    }
    println!("{} {}", names.stream(stream), revision + 1);
    std::io::stdout().flush()?;
    // Ends by itself only when whoever should kill it is gone.
    let _ = std::io::stdin().lock().read_line(&mut String::new());
    std::process::abort();
}

fn append(
    held: &dyn Held,
    names: &Names,
    payloads: &Payloads,
    number: u32,
    (stream, revision): (u32, u64),
    random: &mut Random,
) -> Result<()> {
    let tags =
        [names.customer(below(random, APPENDED_CUSTOMERS)), Names::region(below(random, u32::from(REGIONS)) as u8)];
    held.append(&Append {
        stream: names.stream(stream),
        revision,
        id: Some(Ids::V4.make(random, 0)),
        event_type: TYPES[below(random, 6) as usize],
        tags: &tags,
        payload: payloads.of(number),
    })
}

/// Appends to a new store with segments of 64 MiB and tells the memory that took.
fn appending(dir: &Path, streams: u32, events: u32) -> Result<()> {
    let names = Names::new(streams);
    let payloads = Payloads::few(1024);
    // Ones instead of zeros, so that the pages are there before the store is opened.
    let mut heads = vec![1u32; streams as usize];
    let mut random = unlike_any_other();
    watched(|| {
        let options = annals::Options::new().durability(Durability::Buffered);
        let ours = Ours::open(dir, options)?;
        for number in 0..events {
            let stream = below(&mut random, streams);
            let head = &mut heads[stream as usize];
            append(&ours, &names, &payloads, number, (stream, u64::from(*head - 1)), &mut random)?;
            *head += 1;
        }
        Ok(ours)
    })
}

/// Opens a large store, reads streams and appends.
fn resident(dir: &Path, shape: Shape, segment_bytes: u64) -> Result<()> {
    let names = Names::new(shape.streams);
    let payloads = Payloads::few(1024);
    let mut random = unlike_any_other();
    let count = (shape.events / 100).min(100_000);
    watched(|| {
        let ours = Ours::open(dir, options(segment_bytes))?;
        for number in 0..count {
            let stream = below(&mut random, shape.streams);
            ours.read_stream(names.stream(stream))?;
            let revision = ours.latest(names.stream(stream))?;
            append(&ours, &names, &payloads, number, (stream, revision), &mut random)?;
        }
        Ok(ours)
    })
}

/// Watches the memory while `work` runs, the store is idle and is closed.
fn watched(work: impl FnOnce() -> Result<Ours>) -> Result<()> {
    let before = watch::memory()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let peak = scope.spawn(|| watch::memory_peak(&stop));
        let end = work().and_then(|ours| {
            watch::wait_idle(super::background::is_for_the_index)?;
            let end = watch::memory()?;
            ours.store.close()?;
            Ok(end)
        });
        stop.store(true, Ordering::Release);
        let peak = peak.join().map_err(|_| "the watch ended badly")??;
        let answer = serde_json::json!({
            "private_before": before.private,
            "private_peak": peak.private,
            "private_end": end?.private,
            "mapped_peak": peak.mapped,
        });
        println!("{answer}");
        Ok(())
    })
}
