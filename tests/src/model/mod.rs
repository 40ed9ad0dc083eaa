//! A plain model of a store, and the ground that its tests stand on.
//!
//! The model is a list of events and a few maps, without files, rings, indexes or threads. Random operations are run
//! against a real store and against the model, and every answer is compared, errors included.

mod ask;
mod clock;
mod content;
pub mod golden;
mod ground;
mod history;
mod plain;
mod removal;
mod states;
mod tally;

pub use ask::{Ask, AskItem};
pub use clock::ManualClock;
pub use content::{Content, Recorded};
pub use ground::{Ground, on_each_ground};
pub use history::{History, Manner};
pub use plain::{Attempt, Plain, Verdict};
pub use removal::{Answer, Facts, Kind, Remove, Said};
pub use states::{Cleaned, FOLDED, Folded, Load, SCHEMAS, Saved, States};
pub use tally::Tally;

/// The seed of a random test: `ANNALS_SEED`, or a fixed one. It is printed, so that a failure can be repeated.
///
/// # Panics
/// If the variable is no number.
#[must_use]
pub fn seed() -> u64 {
    let seed = std::env::var("ANNALS_SEED").map_or(20_261_121, |text| text.parse().expect("ANNALS_SEED is a number"));
    println!("ANNALS_SEED={seed}");
    seed
}

/// How often a random test repeats: `variable` if set, else `long` if `ANNALS_LONG` is set, else `short`.
///
/// # Panics
/// If the variable is no number.
#[must_use]
pub fn repetitions(variable: &str, short: u64, long: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect("the number of repetitions is a number"),
        Err(_) if std::env::var_os("ANNALS_LONG").is_some() => long,
        Err(_) => short,
    }
}
