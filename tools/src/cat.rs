//! `cat`: events in the order of the log, or against it.

use std::path::PathBuf;

use annals::{Read, Reader, Seek};
use clap::Args;

use crate::event_print::Form;
use crate::failure::Failure;
use crate::filter::Filter;
use crate::moment::{Moment, or_head};
use crate::opening;
use crate::output::Output;

/// What `cat` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
With --json an object a line: position, revision, stream, type, id, time (the producer's, or null), recorded_at, \
batch_first, batch_len, tags, data, meta; content_type, schema_version, correlation, causation where an event has them. \
data and meta are the JSON that is stored; where it is none they are null, and data_base64, meta_base64 hold the bytes.

Without --json: position, time, stream@revision, type, and the first 100 characters of the payload.")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    #[command(flatten)]
    filter: Filter,
    /// Lowest position, included
    #[arg(long, value_name = "POS")]
    from: Option<u64>,
    /// Highest position, excluded
    #[arg(long, value_name = "POS")]
    until: Option<u64>,
    /// As the store was at this position or time: whole batches up to there
    #[arg(long, value_name = "POS|TIME")]
    as_of: Option<Moment>,
    /// Only the first N, in the direction printed
    #[arg(short, value_name = "N")]
    number: Option<u64>,
    /// From the newest to the oldest
    #[arg(long)]
    reverse: bool,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let reader = opening::read_only(&arguments.store)?.reader().as_of(or_head(arguments.as_of))?;
    arguments.filter.must_exist(&reader)?;
    let Some(read) = open(arguments, &reader)? else { return Ok(()) };
    let keeps = arguments.filter.matcher();
    let bounds = arguments.from.unwrap_or(0)..arguments.until.unwrap_or(u64::MAX);
    let form = Form::new(arguments.json);
    let mut out = Output::new();
    let mut line = Vec::new();
    let mut left = arguments.number.unwrap_or(u64::MAX);
    for event in read {
        if left == 0 {
            break;
        }
        let event = event?;
        let event = event.as_event_ref();
        if !bounds.contains(&event.position().get()) {
            break;
        }
        if keeps(event) {
            line.clear();
            form.push(&mut line, event);
            out.write(&line)?;
            left -= 1;
        }
    }
    out.flush()
}

/// The read from the right end; `None` where nothing can lie between the bounds.
fn open(arguments: &Arguments, reader: &Reader) -> Result<Option<Read>, Failure> {
    let query = arguments.filter.query();
    if !arguments.reverse {
        let seek = arguments.from.map_or(Seek::Beginning, |from| Seek::At(from.max(1)));
        return Ok(Some(reader.read_all(&query, seek)?));
    }
    let highest = arguments.until.map_or(u64::MAX, |until| until.saturating_sub(1)).min(reader.head());
    if highest == 0 {
        return Ok(None);
    }
    Ok(Some(reader.read_all_back(&query, Seek::At(highest))?))
}
