//! What crash and fault tests share: scripts that are played on a simulated disk, the truth about what was
//! acknowledged (kept outside the store), and a judge that compares a reopened store with it.
//!
//! A *lot* is a batch before it is appended. The [`Truth`] is the list of lots in the order they were handed in; a store
//! may show any prefix of it that ends at a lot's border and holds at least what was promised.

mod hooked;
mod judge;
pub mod killed;
mod lot;
mod play;
mod script;
mod threads;
mod toll;
mod truth;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals::{Clock, Durability, Options, ReadMode};

pub use hooked::{Hooked, Trace};
pub use judge::{examine, examine_read_only, judge_reader};
pub use lot::{Draft, Lot, Removal};
pub use play::{Ended, open, play, play_on};
pub use script::{Script, Step};
pub use threads::Crowd;
pub use toll::{Toll, changes};
pub use truth::{Entry, Stream, Truth};

/// What is wrong, in words; `Ok` if nothing is.
pub type Verdict<T = ()> = Result<T, String>;

/// Answers with a text unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

/// A clock that runs on by a step each time it is asked, and now and then jumps back.
#[derive(Debug, Default)]
pub struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now(&self) -> u64 {
        let ticks = self.0.fetch_add(1, Ordering::Relaxed);
        let jump = if ticks % 17 == 16 { 50_000 } else { 0 };
        1_700_000_000_000_000_000 + ticks * 1_000 - jump
    }
}

/// Settings under which small scripts reach every corner: short segments, the shortest ring, no threads.
#[must_use]
pub fn small(durability: Durability, read_mode: ReadMode) -> Options {
    Options::new()
        .durability(durability)
        .read_mode(read_mode)
        .segment_bytes_max(64 << 10)
        .ring_bytes(64 << 10)
        .background(false)
        .clock(Arc::new(Ticking::default()))
}

/// A number from the environment.
#[must_use]
pub fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// How many states or rounds to go through: `ANNALS_STATES`, the long form with `ANNALS_LONG`, else the short one.
#[must_use]
pub fn how_many(short: u64, long: u64) -> u64 {
    from_environment("ANNALS_STATES").unwrap_or(if std::env::var_os("ANNALS_LONG").is_some() { long } else { short })
}

/// The seed of this run, printed so that it can be repeated with `ANNALS_SEED`.
#[must_use]
pub fn seed(of: &str) -> u64 {
    let seed = from_environment("ANNALS_SEED").unwrap_or(10_557_973);
    println!("{of}: ANNALS_SEED={seed}");
    seed
}
