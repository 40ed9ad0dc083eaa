//! `export`: events as the lines that `import` reads.

use std::ops::ControlFlow;
use std::path::PathBuf;

use annals::Seek;
use clap::Args;

use crate::failure::Failure;
use crate::filter::Filter;
use crate::lines::{Fields, write_line};
use crate::opening;
use crate::output::Output;

/// What `export` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints {\"stream\",\"type\",\"id\",\"time\",\"data\",\"meta\",\"batch\"}, `batch` for events that were written as a batch, counted \
from 0 over what is printed. Bytes that are no JSON object on one line stand in `data_base64` and `meta_base64`; tags and \
the like follow `meta` where an event has them. An event whose id was made shows that id.")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    #[command(flatten)]
    filter: Filter,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let reader = opening::read_only(&arguments.store)?.reader();
    arguments.filter.must_exist(&reader)?;
    let keeps = arguments.filter.matcher();
    let mut out = Output::new();
    let mut batches = BatchNumbers::default();
    let mut line = Vec::new();
    let stopped = reader.read_all(&arguments.filter.query(), Seek::Beginning)?.for_each_event(|event| {
        if !keeps(event) {
            return ControlFlow::Continue(());
        }
        let batch = event.written_as_batch().then(|| batches.of(event.batch_first().get()));
        line.clear();
        write_line(&mut line, &Fields::from(event), batch);
        match out.write(&line) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => ControlFlow::Break(failure),
        }
    })?;
    match stopped {
        Some(failure) => Err(failure),
        None => out.flush(),
    }
}

/// Numbers batches from 0 as they come.
#[derive(Default)]
struct BatchNumbers {
    begun: u64,
    first_position: u64,
}

impl BatchNumbers {
    fn of(&mut self, first_position: u64) -> u64 {
        if self.first_position != first_position {
            self.first_position = first_position;
            self.begun += 1;
        }
        self.begun - 1
    }
}
