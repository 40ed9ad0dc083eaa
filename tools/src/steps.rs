//! How far a verb that copies is: a figure where somebody looks on.

use std::io::Write;

use crate::output::is_watched;

/// A percentage on standard error, drawn only where somebody looks on.
pub(crate) struct Steps {
    is_watched: bool,
    shown: u64,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { is_watched: is_watched(), shown: 0 }
    }

    pub(crate) fn show(&mut self, done: u64, total: u64) {
        let percent = done.saturating_mul(100) / total.max(1);
        if self.is_watched && percent > self.shown {
            self.shown = percent;
            // A lost progress figure is no reason to stop.
            let _ = write!(std::io::stderr(), "\r{percent} %\r");
        }
    }
}
