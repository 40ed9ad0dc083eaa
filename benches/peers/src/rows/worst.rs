//! A9: events are offered at a fixed rate whether or not the engine keeps up, and each is timed from the moment it
//! was due, so that a pause counts for every event that had to wait behind it.

use std::io::{Seek, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Bench;
use crate::Result;
use crate::device;
use crate::engines::{Engine, Kind};
use crate::peer::{Durability, Log, Outcome};
use crate::report::{Better, EngineResult, Row, Sample};
use crate::units::SyncProbe;

/// An engine that falls behind by this much does not sustain the rate.
const LOST: Duration = Duration::from_secs(2);
/// How often the engines that do not sync by themselves are synced: as often as annals does by default.
const BACKGROUND_SYNC: Duration = Duration::from_secs(1);
/// How often a file beside the log is synced to see what a sync costs.
const PROBE: Duration = Duration::from_millis(500);

/// The row.
pub(super) fn row(bench: &Bench) -> Result<Row> {
    let settings = &bench.settings;
    let (mut results, mut notes) = (Vec::new(), Vec::new());
    for engine in settings.serving(Durability::Buffered) {
        if engine.kind == Kind::Beside {
            continue;
        }
        let time = if engine.kind == Kind::Peer || engine.kind == Kind::BareLog {
            settings.open_loop / 6
        } else {
            settings.open_loop
        };
        let sample = match one(bench, engine, time) {
            Ok(offered) => {
                notes.push(format!("{}: {}", engine.name, offered.line()));
                notes.push(format!("{}: {}", engine.name, offered.pauses_line()));
                offered.sustained.then(|| Sample {
                    value: offered.latency.value_at_quantile(0.999) as f64 / 1e3,
                    ..Sample::default()
                })
            }
            Err(error) => {
                notes.push(format!("{}: {error}", engine.name));
                None
            }
        };
        results.push(EngineResult { name: engine.name.into(), kind: engine.kind, runs: vec![sample] });
    }
    notes.extend(nothing_offered(bench)?);
    notes.push(format!(
        "annals syncs in the background by itself; the others are synced every {} ms by a second thread; a file beside \
         each is written and synced every {} ms to tell what a sync cost in that run",
        BACKGROUND_SYNC.as_millis(),
        PROBE.as_millis()
    ));
    Ok(Row {
        id: "A9".into(),
        title: format!(
            "p99.9 of a Buffered append, batch 1, {:.0} events/s offered for {} s (peers a sixth)",
            settings.offered,
            settings.open_loop.as_secs_f64()
        ),
        unit: "us",
        better: Better::Lower,
        wanted: "p99.9 <= 100 us, max <= two syncs; aim p99.9 <= 10 us",
        results,
        notes,
    })
}

struct Offered {
    latency: Histogram<u64>,
    service: Histogram<u64>,
    pauses: Vec<Pause>,
    syncs: Vec<Duration>,
    sustained: bool,
    bytes: u64,
}

impl Offered {
    /// Where the late ones come from: how long the appending thread stood still inside the call and outside it, where
    /// the machine ran something else.
    fn pauses_line(&self) -> String {
        let sum = |of: fn(&Pause) -> Duration| self.pauses.iter().map(of).sum::<Duration>().as_secs_f64() * 1e3;
        let mut longest: Vec<&Pause> = self.pauses.iter().collect();
        longest.sort_unstable_by_key(|pause| std::cmp::Reverse(pause.length));
        let listed: Vec<String> = longest
            .iter()
            .take(12)
            .map(|pause| {
                let millis = |time: Duration| time.as_secs_f64() * 1e3;
                format!("{:.1} ({:.1}) at {:.1} s", millis(pause.length), millis(pause.inside), pause.at.as_secs_f64())
            })
            .collect();
        format!(
            "{} pauses over {} us, together {:.0} ms, {:.0} of them inside the call; the longest in ms (inside the call): {}",
            self.pauses.len(),
            PAUSE.as_micros(),
            sum(|pause| pause.length),
            sum(|pause| pause.inside),
            listed.join(", ")
        )
    }

    fn line(&self) -> String {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |quantile: f64| micros(self.latency.value_at_quantile(quantile));
        let mut syncs = self.syncs.clone();
        syncs.sort_unstable();
        let sync = |which: Option<&Duration>| which.map_or(0.0, |time| time.as_nanos() as f64 / 1e3);
        format!(
            "{}p50 {:.2}, p90 {:.2}, p99 {:.2}, p99.9 {:.2}, p99.99 {:.1}, max {:.0} us (inside the call alone: p99.9 \
             {:.2}, max {:.0} us); {} events, about {:.1} segments of 64 MiB; one sync in that run p50 {:.0}, max {:.0} us",
            if self.sustained { "" } else { "RATE NOT SUSTAINED: " },
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(0.9999),
            micros(self.latency.max()),
            micros(self.service.value_at_quantile(0.999)),
            micros(self.service.max()),
            self.latency.len(),
            self.bytes as f64 / f64::from(64 << 20),
            sync(syncs.get(syncs.len() / 2)),
            sync(syncs.last())
        )
    }
}

fn one(bench: &Bench, engine: &Engine, time: Duration) -> Result<Offered> {
    let wanted = (time.as_secs_f64() * bench.settings.offered) as usize;
    let count = wanted.min(bench.work.len());
    let opened = bench.open(engine, Durability::Buffered, bench.work.payload_bytes(count))?;
    let mut probe = SyncProbe::create(&bench.settings.dir)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let probing = scope.spawn(|| {
            let mut syncs = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(PROBE);
                syncs.push(probe.once()?);
            }
            Ok::<_, crate::Error>(syncs)
        });
        let syncing = (engine.kind != Kind::Annals).then(|| scope.spawn(|| sync_often(opened.log(), &stop)));
        let offered = offer(bench, opened.log(), count);
        stop.store(true, Ordering::Relaxed);
        let syncs = probing.join().expect("the probe does not panic")?;
        if let Some(syncing) = syncing {
            syncing.join().expect("the syncing thread does not panic")?;
        }
        let (latency, service, pauses, sustained) = offered?;
        let bytes = device::allocated(&opened.scratch.path)?;
        Ok(Offered { latency, service, pauses, syncs, sustained, bytes })
    })
}

/// What the machine itself does to a loop that offers events at this rate to nobody: alone, and while a second thread
/// writes and syncs once a second what the log would have got.
fn nothing_offered(bench: &Bench) -> Result<Vec<String>> {
    /// Bytes of log an event takes, about.
    const EVENT_LEN: f64 = 370.0;
    let time = bench.settings.open_loop / 6;
    let count = (time.as_secs_f64() * bench.settings.offered) as usize;
    let mut lines = Vec::new();
    for synced_bytes in [0, (bench.settings.offered * EVENT_LEN) as usize] {
        let stop = AtomicBool::new(false);
        let latency = thread::scope(|scope| {
            let writing =
                (synced_bytes > 0).then(|| scope.spawn(|| write_often(&bench.settings.dir, synced_bytes, &stop)));
            let latency = idle(bench, count);
            stop.store(true, Ordering::Relaxed);
            if let Some(writing) = writing {
                writing.join().expect("the writing thread does not panic")?;
            }
            latency
        })?;
        let at = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1e3;
        lines.push(format!(
            "nothing at all, {}: p50 {:.2}, p99 {:.2}, p99.9 {:.2}, p99.99 {:.1}, max {:.0} us",
            if synced_bytes == 0 { "on an idle machine" } else { "a file written and synced beside" },
            at(0.5),
            at(0.99),
            at(0.999),
            at(0.9999),
            latency.max() as f64 / 1e3
        ));
    }
    Ok(lines)
}

fn idle(bench: &Bench, count: usize) -> Result<Histogram<u64>> {
    let mut latency = Histogram::<u64>::new_with_max(100_000_000_000, 3)?;
    let pause = Duration::from_secs_f64(1.0 / bench.settings.offered);
    let began = Instant::now();
    for number in 0..count {
        let due = began + pause * number as u32;
        let mut now = Instant::now();
        while now < due {
            std::hint::spin_loop();
            now = Instant::now();
        }
        latency.saturating_record((now - due).as_nanos() as u64);
    }
    Ok(latency)
}

fn write_often(dir: &std::path::Path, len: usize, stop: &AtomicBool) -> Result<()> {
    let path = dir.join("written-beside");
    let mut file = std::fs::File::create(&path)?;
    let block = vec![7u8; 64 << 10];
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
        if last.elapsed() < BACKGROUND_SYNC {
            continue;
        }
        last = Instant::now();
        file.rewind()?;
        for _ in 0..len.div_ceil(block.len()) {
            file.write_all(&block)?;
        }
        file.sync_data()?;
    }
    Ok(std::fs::remove_file(path)?)
}

fn sync_often(log: &dyn Log, stop: &AtomicBool) -> Result<()> {
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
        if last.elapsed() >= BACKGROUND_SYNC {
            last = Instant::now();
            log.sync()?;
        }
    }
    Ok(())
}

/// A time in which no append ended: since when, how long, and how much of it was spent inside the call.
struct Pause {
    at: Duration,
    length: Duration,
    inside: Duration,
}

/// What counts as a pause.
const PAUSE: Duration = Duration::from_micros(500);

type Latencies = (Histogram<u64>, Histogram<u64>, Vec<Pause>, bool);

fn offer(bench: &Bench, log: &dyn Log, count: usize) -> Result<Latencies> {
    let mut latency = Histogram::<u64>::new_with_max(100_000_000_000, 3)?;
    let mut service = latency.clone();
    let mut writer = log.writer()?;
    let pause = Duration::from_secs_f64(1.0 / bench.settings.offered);
    let mut pauses = Vec::with_capacity(10_000);
    let began = Instant::now();
    let mut before = began;
    for number in 0..count {
        let event = [bench.work.event(number)];
        let due = began + pause * number as u32;
        let mut now = Instant::now();
        while now < due {
            std::hint::spin_loop();
            now = Instant::now();
        }
        let outcome = writer.append(&event)?;
        let done = Instant::now();
        if outcome != Outcome::Committed {
            return Err(format!("an append that must succeed ended as {outcome:?}").into());
        }
        latency.saturating_record((done - due).as_nanos() as u64);
        service.saturating_record((done - now).as_nanos() as u64);
        if done - before > PAUSE && pauses.len() < pauses.capacity() {
            pauses.push(Pause { at: before - began, length: done - before, inside: done - now });
        }
        before = done;
        if done - due > LOST {
            return Ok((latency, service, pauses, false));
        }
    }
    Ok((latency, service, pauses, true))
}
