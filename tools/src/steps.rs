//! How far a verb is: a figure where somebody looks on, a line now and then where a long one is not looked on.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::output::is_watched;

/// What takes no longer prints no line.
const FIRST_LINE: Duration = Duration::from_secs(2);
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// A percentage on standard error.
pub(crate) struct Steps {
    is_watched: bool,
    shown: u64,
    next_line: Option<Instant>,
}

impl Steps {
    /// Drawn only where somebody looks on.
    pub(crate) fn new() -> Self {
        Self { is_watched: is_watched(), shown: 0, next_line: None }
    }

    /// Elsewhere a line now and then.
    pub(crate) fn with_lines() -> Self {
        let steps = Self::new();
        let next_line = (!steps.is_watched).then(|| Instant::now() + FIRST_LINE);
        Self { next_line, ..steps }
    }

    pub(crate) fn show(&mut self, done: u64, total: u64) {
        let percent = done.saturating_mul(100) / total.max(1);
        // A lost progress figure is no reason to stop.
        if self.is_watched && percent > self.shown {
            self.shown = percent;
            let _ = write!(std::io::stderr(), "\r{percent} %\r");
        } else if self.is_line_due(Instant::now()) {
            let _ = writeln!(std::io::stderr(), "{percent} %");
        }
    }

    fn is_line_due(&mut self, now: Instant) -> bool {
        let is_due = self.next_line.is_some_and(|next| now >= next);
        if is_due {
            self.next_line = Some(now + LINE_INTERVAL);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_late_and_seldom() {
        let begun = Instant::now();
        let mut steps = Steps { is_watched: false, shown: 0, next_line: Some(begun + FIRST_LINE) };
        let mut due = |millis| steps.is_line_due(begun + Duration::from_millis(millis));
        let told: Vec<u64> = (0..200).map(|tenth| tenth * 100).filter(|millis| due(*millis)).collect();
        assert_eq!(told, [2_000, 7_000, 12_000, 17_000]);
        assert!(!Steps { is_watched: false, shown: 0, next_line: None }.is_line_due(begun + LINE_INTERVAL));
    }
}
