//! `compact`: take the content of removed events out of the files, and compress what is left.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use annals::{CompactionOptions, CompactionReport, CompactionRequest, LiveSegment, RequestState};
use clap::{Args, ValueEnum};

use crate::failure::{Code, Failure};
use crate::opening;
use crate::output::{Output, human_bytes, human_count};
use crate::steps::Steps;

/// How often the answer is looked for, and whether the writer is still there.
const NAP: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_secs(2);

/// What `compact` takes.
#[derive(Args, Debug)]
#[command(after_help = "\
No answer of the store changes. Of removed events id, stream, type and tags stay; their content is in no file of the \
directory afterwards. Where another process writes the store, it is asked to do it, and waited for. With --dry-run \
nothing is written, nor asked for.")]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// Only say what would be freed
    #[arg(long)]
    dry_run: bool,
    /// zstd's level, 1 to 19
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// What is done about the segment that is being written
    #[arg(long, value_enum, default_value_t)]
    live_segment: Live,
    /// Let go of what policies do not keep first, as `annals sweep` does
    #[arg(long)]
    sweep: bool,
    /// Bytes of segments that are compacted a second at most
    #[arg(long, value_name = "BYTES")]
    bytes_per_second: Option<u64>,
    /// Beside a running writer, do not wait until it has done it
    #[arg(long)]
    no_wait: bool,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Live {
    /// Left as it is, with what was removed from it
    Leave,
    /// Ended where it holds anything removed, to be compacted too
    #[default]
    EndWhereRemoved,
    /// Ended whenever it holds anything
    End,
}

impl From<Live> for LiveSegment {
    fn from(live: Live) -> Self {
        match live {
            Live::Leave => Self::Leave,
            Live::EndWhereRemoved => Self::EndWhereRemoved,
            Live::End => Self::End,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    opening::must_exist(&arguments.store)?;
    let options = CompactionOptions::new()
        .level(arguments.level)
        .live_segment(arguments.live_segment.into())
        .sweep_first(arguments.sweep)
        .bytes_per_second(arguments.bytes_per_second)
        .dry_run(arguments.dry_run);
    if arguments.dry_run {
        let store = opening::read_only(&arguments.store)?;
        return say(arguments, &store.plan_compaction(&options, &mut |_| ControlFlow::Continue(()))?, false);
    }
    loop {
        match opening::writable_unless_held(&arguments.store)? {
            Some(store) => {
                let mut steps = Steps::new();
                let report = store.compact_while(&options, &mut |at| {
                    steps.show(at.done, at.total);
                    ControlFlow::Continue(())
                })?;
                store.close()?;
                return say(arguments, &report, false);
            }
            None => {
                if let Some(report) = ask(arguments, &options)? {
                    return say(arguments, &report, true);
                }
                if arguments.no_wait {
                    return Ok(());
                }
                // The writer has ended meanwhile.
            }
        }
    }
}

/// Asks the process that holds the store; `None` if it did not come to it, or if nobody waits for it.
fn ask(arguments: &Arguments, options: &CompactionOptions) -> Result<Option<CompactionReport>, Failure> {
    let about = |error| opening::about(&arguments.store, error);
    let request = CompactionRequest::lay(&arguments.store, options).map_err(about)?;
    if arguments.no_wait {
        let mut out = Output::new();
        out.line(&match arguments.json {
            true => serde_json::json!({ "version": 1, "requested": true }).to_string(),
            false => "requested of the process that writes the store".to_owned(),
        })?;
        out.flush()?;
        return Ok(None);
    }
    let mut steps = Steps::new();
    let mut looked = Instant::now();
    loop {
        match request.look().map_err(about)? {
            RequestState::Running(at) => steps.show(at.done, at.total),
            RequestState::Done(report) => return Ok(Some(report)),
            RequestState::Failed(reason) => {
                let message = format!("the process that writes the store could not compact it: {reason}");
                return Err(Failure::new(Code::Operation, message, "see what it says; nothing is lost"));
            }
            RequestState::Replaced => {
                let hint = "wait for that one, and ask again";
                return Err(Failure::new(Code::Operation, "another request has taken the place of this one", hint));
            }
            RequestState::Stopped => return Ok(None),
            // Somebody who was killed, or who never looks for requests.
            _ if looked.elapsed() >= LOOK => {
                if !opening::is_held(&arguments.store)? {
                    request.withdraw().map_err(about)?;
                    return Ok(None);
                }
                looked = Instant::now();
            }
            _ => {}
        }
        std::thread::sleep(NAP);
    }
}

fn say(arguments: &Arguments, report: &CompactionReport, by_writer: bool) -> Result<(), Failure> {
    let mut out = Output::new();
    if arguments.json {
        let document = serde_json::json!({
            "version": 1,
            "dry_run": arguments.dry_run,
            "by_writer": by_writer,
            // The writer counts them, and does not name them.
            "compacted": if by_writer { serde_json::json!(report.compacted.len()) } else { serde_json::json!(report.compacted) },
            "left": report.left,
            "bytes_before": report.bytes_before,
            "bytes_after": report.bytes_after,
            "removed_events": report.removed_events,
            "ended_live": report.ended_live,
            "notices": report.notices,
        });
        out.line(&document.to_string())?;
        return out.flush();
    }
    let would = if arguments.dry_run { "would become" } else { "became" };
    out.line(&format!(
        "{} segments of {} {would} {}; the content of {} removed events {}; {} segments {} left",
        report.compacted.len(),
        human_bytes(report.bytes_before),
        human_bytes(report.bytes_after),
        human_count(report.removed_events),
        if arguments.dry_run { "would go" } else { "is gone" },
        report.left,
        if arguments.dry_run { "would be" } else { "were" },
    ))?;
    for notice in &report.notices {
        out.line(notice)?;
    }
    out.flush()
}
