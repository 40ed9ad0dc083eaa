//! annals beside other event stores and logs: the same work, the same durability, one run.
//!
//! [`workload`] prepares the events, [`peer`] is what every engine is asked to do, [`engines`] lists them, [`rows`] are
//! the measurements and [`report`] turns them into tables. See the README for how to run it and what each adapter does.

pub mod annals;
pub mod device;
pub mod engines;
pub mod floor;
pub mod following;
pub mod keeping;
pub mod peer;
pub mod peers;
pub mod random;
pub mod report;
pub mod rows;
pub mod scale;
pub mod units;
pub mod workload;

/// What goes wrong here is only reported, never handled.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// See [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
