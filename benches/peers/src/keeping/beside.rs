//! E3: appends while compaction runs, and compaction while appends go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use annals::{CompactionOptions, Expect, LiveSegment, NewEvent, Store};
use hdrhistogram::Histogram;

use super::{Settings, size};
use crate::Result;
use crate::engines::Kind;
use crate::report::{Better, EngineResult, Row, Sample, Spread};
use crate::workload::{Source, Workload};

/// Events offered a second.
const OFFERED: f64 = 20_000.0;

pub(super) fn row(settings: &Settings) -> Result<Row> {
    let work = Workload::prepare(Source::Fixed, settings.compacted, &settings.dir)?;
    let dir = settings.dir.join("beside");
    let options = CompactionOptions::new().live_segment(LiveSegment::Leave);
    let names = ["annals, alone", "annals, beside compaction"];
    let mut results: Vec<EngineResult> = names
        .into_iter()
        .zip([Kind::Beside, Kind::Annals])
        .map(|(name, kind)| EngineResult { name: name.to_owned(), kind, runs: Vec::new() })
        .collect();
    let (mut ratios, mut longer, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..settings.runs {
        // The same work twice: by itself, and beside appends.
        let store = size::filled(&dir, &work, 1)?;
        store.check_index()?;
        let began = Instant::now();
        store.compact(&options)?;
        let by_itself = began.elapsed();
        store.close()?;
        let store = size::filled(&dir, &work, 1)?;
        store.check_index()?;
        let alone = offered(&store, by_itself.max(Duration::from_secs(2)), &AtomicBool::new(true))?;
        let goes_on = AtomicBool::new(true);
        let (beside, took) = thread::scope(|threads| -> Result<_> {
            let compacting = threads.spawn(|| {
                let began = Instant::now();
                let report = store.compact(&options);
                goes_on.store(false, Ordering::Relaxed);
                report.map(|_| began.elapsed())
            });
            let beside = offered(&store, Duration::from_secs(600), &goes_on)?;
            let took = compacting.join().map_err(|_| "compaction panicked")??;
            Ok((beside, took))
        })?;
        store.close()?;
        std::fs::remove_dir_all(&dir)?;
        let at = |latency: &Histogram<u64>| latency.value_at_quantile(0.999) as f64 / 1e3;
        ratios.push(at(&beside) / at(&alone));
        longer.push(took.as_secs_f64() / by_itself.as_secs_f64());
        for (result, value) in results.iter_mut().zip([at(&alone), at(&beside)]) {
            result.runs.push(Some(Sample { value, ..Sample::default() }));
        }
        notes.push(format!(
            "{} appends beside it, p50 {:.2} us, max {:.1} ms; it took {:.2} s, {:.2} s by itself",
            beside.len(),
            beside.value_at_quantile(0.5) as f64 / 1e3,
            beside.max() as f64 / 1e6,
            took.as_secs_f64(),
            by_itself.as_secs_f64()
        ));
    }
    let median = |values: Vec<f64>| Spread::of(values).map_or(0.0, |spread| spread.median);
    notes.insert(0, format!("{:.2} x; the work takes {:.2} x as long", median(ratios), median(longer)));
    Ok(Row {
        id: "E3".to_owned(),
        title: format!(
            "p99.9 of a Buffered append, batch 1, {OFFERED} a second offered, while {} events are compacted",
            work.len()
        ),
        unit: "us",
        better: Better::Lower,
        wanted: "<= 2x, the work within twice its time; aim 1.2x",
        results,
        notes,
    })
}

/// Offers events at the rate until the time is over or it is told to stop; each is timed from its call.
fn offered(store: &Store, time: Duration, goes_on: &AtomicBool) -> Result<Histogram<u64>> {
    let mut latency = Histogram::<u64>::new(3)?;
    let payload = [0x5a; 256];
    let began = Instant::now();
    let mut number = 0u64;
    while began.elapsed() < time && goes_on.load(Ordering::Relaxed) {
        let due = Duration::from_secs_f64(number as f64 / OFFERED);
        while began.elapsed() < due {
            std::hint::spin_loop();
        }
        let stream = format!("beside-{:05}", number % 10_000);
        let called = Instant::now();
        store.append(&stream, Expect::Any, &[NewEvent::new("Offered", &payload)])?;
        latency.record(called.elapsed().as_nanos() as u64)?;
        number += 1;
    }
    Ok(latency)
}
