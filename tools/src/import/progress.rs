//! How far an import is: a bar where somebody looks on, a line every ten seconds where asked for.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Tally;
use crate::output::{human_bytes, human_count, is_watched};

const BAR_INTERVAL: Duration = Duration::from_millis(100);
const LINE_INTERVAL: Duration = Duration::from_secs(10);

pub(crate) struct Progress {
    read: Arc<AtomicU64>,
    len: Option<u64>,
    bar: Option<ProgressBar>,
    interval: Option<Duration>,
    shown: Cell<Instant>,
    steps: Cell<u32>,
}

impl Progress {
    pub(crate) fn new((read, len): (Arc<AtomicU64>, Option<u64>), verbose: bool) -> Self {
        let bar = is_watched().then(|| match len {
            Some(len) => ProgressBar::new(len).with_style(style("{bar:30} {percent:>3} % {msg}, {eta} left")),
            None => ProgressBar::new_spinner().with_style(style("{spinner} {msg}")),
        });
        let interval = if bar.is_some() { Some(BAR_INTERVAL) } else { verbose.then_some(LINE_INTERVAL) };
        Self { read, len, bar, interval, shown: Cell::new(Instant::now()), steps: Cell::new(0) }
    }

    /// Called once an append; looks at the clock now and then.
    pub(crate) fn step(&self, tally: &Tally) {
        let Some(interval) = self.interval else { return };
        self.steps.set(self.steps.get().wrapping_add(1));
        if !self.steps.get().is_multiple_of(64) || self.shown.get().elapsed() < interval {
            return;
        }
        self.shown.set(Instant::now());
        let read = self.read.load(Ordering::Relaxed);
        let stored = human_count(tally.stored_events);
        match (&self.bar, self.len) {
            (Some(bar), _) => {
                bar.set_position(read);
                bar.set_message(format!("{stored} events"));
            }
            (None, Some(len)) => eprintln!("{stored} events, {} of {}", human_bytes(read), human_bytes(len)),
            (None, None) => eprintln!("{stored} events, {}", human_bytes(read)),
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a fixed template")
}
