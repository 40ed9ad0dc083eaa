//! The process that follows.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use annals::{Follower, Query, Seek};

use super::floor::WordTail;
use super::latency::read;
use super::tails::{SqliteTail, Tail};
use crate::Result;

/// Follows the store of this engine, and tells when each event was seen, in their order.
///
/// # Errors
/// What the engine says.
pub fn run(engine: &str, path: &Path, count: usize) -> Result<()> {
    let follower;
    let mut tail: Box<dyn Tail> = match engine {
        "annals" => {
            follower = Follower::open(path)?;
            Box::new(follower.subscribe(&Query::all(), Seek::Beginning)?)
        }
        "sqlite" => Box::new(SqliteTail::open(path)?),
        "floor" => Box::new(WordTail::open(path)?),
        _ => return Err("no such engine".into()),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    let seen = read(&mut *tail, count, Some(Duration::from_secs(10)))?;
    for time in seen.0 {
        writeln!(out, "{time}")?;
    }
    Ok(())
}
