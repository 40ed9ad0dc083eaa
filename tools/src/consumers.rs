//! `consumers`: lists, resets and removes the consumers of a store.

use std::path::{Path, PathBuf};

use annals::{ConsumerInfo, Seek, Store};
use clap::{Args, Subcommand};

use crate::failure::{Code, Failure};
use crate::lines::{parse_time, print_wall_clock};
use crate::opening;
use crate::output::Output;

/// What `consumers` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
ls prints checkpoint, lag, parked events and name; with --json an object a line: {consumer, checkpoint, finished_above, \
lag, parked, generation, changed_at}. It works beside a running writer. reset and rm need the store for themselves and \
end with exit code 5 while another process writes to it, and with 6 if there is no such consumer.

SEEK says where the consumer goes on:
    beginning    at the first event
    end          behind the last one there is now
    after:N      behind position N
    at:N         at position N
    time:T       at the first event recorded at or after T, such as 2026-01-31T12:00:00Z")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Print a JSON object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List them (the default)
    Ls,
    /// Put a consumer at another place
    Reset {
        /// The consumer
        name: String,
        /// Where it goes on: beginning, end, after:N, at:N, time:T
        #[arg(value_parser = parse_seek)]
        seek: Seek,
    },
    /// Remove a consumer
    Rm {
        /// The consumer
        name: String,
    },
}

impl Arguments {
    pub(crate) fn writes(&self) -> bool {
        matches!(self.verb, Some(Verb::Reset { .. } | Verb::Rm { .. }))
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let path = &arguments.store;
    let mut out = Output::new();
    match &arguments.verb {
        None | Some(Verb::Ls) => {
            let store = opening::read_only(path)?;
            let consumers = store.consumers().map_err(|error| opening::about(path, error))?;
            if !arguments.json {
                out.line(&format!("{:>12}  {:>12}  {:>8}  consumer", "checkpoint", "lag", "parked"))?;
            }
            for info in &consumers {
                out.line(&if arguments.json { json(info) } else { text(info) })?;
            }
        }
        Some(Verb::Reset { name, seek }) => {
            let store = opening::writable_if_there(path)?;
            must_be_there(&store, path, name)?;
            store.reset_consumer(name, *seek).map_err(|error| opening::about(path, error))?;
            let found = store.consumers().into_iter().find(|info| info.name == *name);
            store.close()?;
            if let Some(info) = &found {
                out.line(&if arguments.json { json(info) } else { text(info) })?;
            }
        }
        Some(Verb::Rm { name }) => {
            let store = opening::writable_if_there(path)?;
            must_be_there(&store, path, name)?;
            store.remove_consumer(name).map_err(|error| opening::about(path, error))?;
            store.close()?;
        }
    }
    out.flush()
}

fn must_be_there(store: &Store, path: &Path, name: &str) -> Result<(), Failure> {
    if store.consumers().iter().any(|info| info.name == name) {
        return Ok(());
    }
    Err(Failure::new(
        Code::NotFound,
        format!("{}: no consumer {name:?}", path.display()),
        format!("see which there are with `annals consumers {}`", path.display()),
    ))
}

fn text(info: &ConsumerInfo) -> String {
    format!("{:>12}  {:>12}  {:>8}  {}", info.checkpoint, info.lag, info.parked, info.name)
}

fn json(info: &ConsumerInfo) -> String {
    serde_json::json!({
        "consumer": info.name,
        "checkpoint": info.checkpoint,
        "finished_above": info.finished_above,
        "lag": info.lag,
        "parked": info.parked,
        "generation": info.generation,
        "changed_at": print_wall_clock(info.changed_at),
    })
    .to_string()
}

fn parse_seek(text: &str) -> Result<Seek, String> {
    let number = |digits: &str| digits.parse::<u64>().map_err(|_| format!("{digits:?} is no position"));
    match text.split_once(':') {
        None if text == "beginning" => Ok(Seek::Beginning),
        None if text == "end" => Ok(Seek::End),
        Some(("after", digits)) => number(digits).map(Seek::After),
        Some(("at", digits)) => number(digits).map(Seek::At),
        Some(("time", time)) => {
            let at = parse_time(time)?;
            Ok(Seek::Time(u64::try_from(at.nanos).unwrap_or(0)))
        }
        _ => Err("one of beginning, end, after:N, at:N, time:T is wanted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeks() {
        assert!(matches!(parse_seek("beginning"), Ok(Seek::Beginning)));
        assert!(matches!(parse_seek("end"), Ok(Seek::End)));
        assert!(matches!(parse_seek("after:0"), Ok(Seek::After(0))));
        assert!(matches!(parse_seek("at:12"), Ok(Seek::At(12))));
        assert!(matches!(parse_seek("time:1970-01-01T00:00:01Z"), Ok(Seek::Time(1_000_000_000))));
        assert!(matches!(parse_seek("time:1969-01-01T00:00:01Z"), Ok(Seek::Time(0))));
        for wrong in ["", "12", "after", "after:", "after:-1", "at:x", "time:yesterday", "End", "from:3"] {
            assert!(parse_seek(wrong).is_err(), "{wrong}");
        }
    }
}
