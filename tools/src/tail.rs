//! `tail`: the last events, and each new one as it comes.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use annals::{ReadOnly, Reader, Seek};
use clap::Args;

use crate::event_print::Form;
use crate::failure::Failure;
use crate::filter::Filter;
use crate::opening;
use crate::output::Output;

/// How long a new event may wait to be seen.
const POLL_INTERVAL: Duration = Duration::from_millis(40);

/// What `tail` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    #[command(flatten)]
    filter: Filter,
    /// How many of the last events
    #[arg(short, value_name = "N", default_value_t = 10)]
    number: usize,
    /// Go on with each new event until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Print a JSON object a line, as `cat` does
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let store = opening::read_only(&arguments.store)?;
    let reader = store.reader();
    if !arguments.follow {
        arguments.filter.must_exist(&reader)?;
    }
    let mut out = Output::new();
    let form = Form::new(arguments.json);
    let seen = print_last(arguments, &reader, form, &mut out)?;
    if arguments.follow { follow(arguments, store, seen, form, &mut out) } else { Ok(()) }
}

/// Prints what comes after `seen`; ends with an error, the reader's going, or Ctrl-C.
fn follow(
    arguments: &Arguments,
    mut store: ReadOnly,
    mut seen: u64,
    form: Form,
    out: &mut Output,
) -> Result<(), Failure> {
    let keeps = arguments.filter.matcher();
    let query = arguments.filter.query();
    let mut line = Vec::new();
    loop {
        thread::sleep(POLL_INTERVAL);
        store.refresh()?;
        let reader = store.reader();
        if reader.head() == seen {
            continue;
        }
        let read = reader.read_all(&query, Seek::After(seen))?;
        seen = read.head();
        for event in read {
            let event = event?;
            if keeps(event.as_event_ref()) {
                line.clear();
                form.push(&mut line, event.as_event_ref());
                out.write(&line)?;
            }
        }
        out.flush()?;
    }
}

/// Prints the last events and gives the position up to which all is seen.
fn print_last(arguments: &Arguments, reader: &Reader, form: Form, out: &mut Output) -> Result<u64, Failure> {
    let head = reader.head();
    let keeps = arguments.filter.matcher();
    let mut last = Vec::new();
    if head > 0 && arguments.number > 0 {
        for event in reader.read_all_back(&arguments.filter.query(), Seek::At(head))? {
            let event = event?;
            if keeps(event.as_event_ref()) {
                last.push(event);
            }
            if last.len() == arguments.number {
                break;
            }
        }
    }
    let mut lines = Vec::new();
    for event in last.iter().rev() {
        form.push(&mut lines, event.as_event_ref());
    }
    out.write(&lines)?;
    out.flush()?;
    Ok(head)
}
