//! `dump`: the bytes of a segment by the names of their fields.

use std::path::PathBuf;

use annals::inspect::{self, Field};
use clap::Args;

use crate::failure::{Code, Failure};
use crate::opening;
use crate::output::Output;

/// What `dump` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
A line a field: offset in the file, length, name, value; indented by what it lies in. A field that does not verify ends \
in `!!` and what is wrong, and the exit code is 3. With --json an object a line: {offset, length, depth, name, value, \
fault}.")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// Number of the segment, as `annals segments` shows it
    segment: u64,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    opening::must_exist(&arguments.store)?;
    let known = inspect::segments(&arguments.store).map_err(|error| opening::about(&arguments.store, error))?;
    if !known.iter().any(|info| info.number == arguments.segment) {
        let what = format!("no segment {} in {}", arguments.segment, arguments.store.display());
        return Err(Failure::new(Code::NotFound, what, "`annals segments STORE` lists them"));
    }
    let mut out = Output::new();
    let mut faults = 0u64;
    let mut written = Ok(());
    inspect::dump(&arguments.store, arguments.segment, &mut |field| {
        faults += u64::from(field.fault.is_some());
        if written.is_ok() {
            written = out.line(&if arguments.json { json(&field) } else { text(&field) });
        }
    })
    .map_err(|error| opening::about(&arguments.store, error))?;
    written?;
    out.flush()?;
    match faults {
        0 => Ok(()),
        n => Err(Failure::new(
            Code::Damage,
            format!("{n} damaged places in segment {}", arguments.segment),
            "`annals verify STORE` says what they mean for the store",
        )),
    }
}

fn text(field: &Field) -> String {
    let indent = usize::from(field.depth) * 2;
    let mut line = format!("{:>10} {:>8}  {:indent$}{}", field.offset, field.len, "", field.name);
    if !field.value.is_empty() {
        line.push_str(": ");
        line.push_str(&visible(&field.value));
    }
    if let Some(fault) = &field.fault {
        line.push_str("  !! ");
        line.push_str(&visible(fault));
    }
    line
}

/// Bytes of a damaged file must not drive the terminal.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn json(field: &Field) -> String {
    serde_json::json!({
        "offset": field.offset,
        "length": field.len,
        "depth": field.depth,
        "name": field.name,
        "value": field.value,
        "fault": field.fault,
    })
    .to_string()
}
