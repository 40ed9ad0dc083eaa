//! `tail`: the last events, and each new one as it comes.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use annals::{Follower, MessageRef, Options, Reader, Seek, View};
use clap::{Args, ValueEnum};

use crate::event_print::Form;
use crate::failure::Failure;
use crate::filter::Filter;
use crate::opening;
use crate::output::Output;

/// How long to sleep at most while nothing comes, before looking whether anybody still reads what is printed.
const PATIENCE: Duration = Duration::from_millis(500);

/// What `tail` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
With -f an event is shown once it is durable; with --view written as soon as its writer has been answered, although a power \
cut could still take it back. Following takes no lock, needs no right but to read, and goes on when the writer ends and \
another one begins.")]
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
    /// What to show: what is durable, or all that is written; without -f what the store itself shows
    #[arg(long, value_name = "VIEW")]
    view: Option<Shown>,
    /// Print a JSON object a line, as `cat` does
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shown {
    Durable,
    Written,
}

impl From<Shown> for View {
    fn from(shown: Shown) -> Self {
        match shown {
            Shown::Durable => Self::Durable,
            Shown::Written => Self::Written,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut out = Output::new();
    let form = Form::new(arguments.json);
    let view = arguments.view.map(View::from);
    if arguments.follow {
        opening::must_exist(&arguments.store)?;
        let options = view.map_or_else(Options::new, |view| Options::new().view(view));
        let follower = options.follow(&arguments.store).map_err(|error| opening::about(&arguments.store, error))?;
        // Beside a writer what it is in the midst of writing looks damaged.
        if follower.is_writer_alive() == Some(false) {
            opening::say_notices(&follower.notices());
        }
        let seen = print_last(arguments, &follower.reader(), form, &mut out)?;
        return follow(arguments, &follower, seen, form, &mut out);
    }
    let reader = opening::read_only_in(&arguments.store, view)?.reader();
    arguments.filter.must_exist(&reader)?;
    print_last(arguments, &reader, form, &mut out).map(|_| ())
}

/// Prints what comes after `seen`; ends with an error, the reader's going, or Ctrl-C.
fn follow(arguments: &Arguments, follower: &Follower, seen: u64, form: Form, out: &mut Output) -> Result<(), Failure> {
    let keeps = arguments.filter.matcher();
    let about = |error| opening::about(&arguments.store, error);
    let mut subscription = follower.subscribe(&arguments.filter.query(), Seek::After(seen)).map_err(about)?;
    let mut line = Vec::new();
    loop {
        let failed = subscription.for_each_ready(|delivery| {
            let MessageRef::Event(event) = delivery else { return ControlFlow::Continue(()) };
            if !keeps(event) {
                return ControlFlow::Continue(());
            }
            line.clear();
            form.push(&mut line, event);
            out.write(&line).map_or_else(ControlFlow::Break, ControlFlow::Continue)
        });
        if let Some(failure) = failed.map_err(about)? {
            return Err(failure);
        }
        out.flush()?;
        while !subscription.wait(PATIENCE).map_err(about)? {
            if out.is_abandoned() {
                return Ok(());
            }
        }
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
