//! `sweep`: let go of what policies do not keep.

use std::path::PathBuf;

use annals::Cut;
use clap::Args;

use crate::failure::Failure;
use crate::opening;
use crate::output::Output;

/// What `sweep` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints every cut: of a stream the revisions, of a prefix the positions that are hidden from now on. If nothing is \
beyond the limits, nothing is written and nothing printed.")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// Only say what would be hidden; works beside a running writer
    #[arg(long)]
    dry_run: bool,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    opening::must_exist(&arguments.store)?;
    let (cuts, position) = if arguments.dry_run {
        (opening::read_only(&arguments.store)?.plan_sweep()?, None)
    } else {
        let store = opening::writable(&arguments.store)?;
        let swept = store.sweep()?;
        store.close()?;
        (swept.cuts, swept.position)
    };
    let mut out = Output::new();
    if arguments.json {
        let cuts: Vec<serde_json::Value> = cuts.iter().map(document).collect();
        let document = serde_json::json!({
            "version": 1,
            "dry_run": arguments.dry_run,
            "position": position.map(|position| position.get()),
            "cuts": cuts,
        });
        out.line(&document.to_string())?;
    } else {
        for cut in &cuts {
            out.line(&match cut {
                Cut::Stream { name, first, upto } => format!("stream {name:?}: revisions {first} to {upto}"),
                Cut::Prefix { prefix, first, upto } => format!("prefix {prefix:?}: positions {first} to {upto}"),
            })?;
        }
    }
    out.flush()
}

fn document(cut: &Cut) -> serde_json::Value {
    match cut {
        Cut::Stream { name, first, upto } => {
            serde_json::json!({ "stream": name, "first_revision": first.get(), "last_revision": upto.get() })
        }
        Cut::Prefix { prefix, first, upto } => {
            serde_json::json!({ "prefix": prefix, "first_position": first.get(), "last_position": upto.get() })
        }
    }
}
