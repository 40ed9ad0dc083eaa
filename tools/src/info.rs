//! `info`: what the store holds and how it is, on one screen.

use std::path::PathBuf;

use annals::Durability;
use annals::inspect::{self, StoreInfo};
use clap::Args;

use crate::failure::Failure;
use crate::lines::print_wall_clock;
use crate::opening;
use crate::output::{Output, human_bytes, human_count};

/// What `info` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Directory of the store
    store: PathBuf,
    /// Exact numbers of bytes
    #[arg(long)]
    bytes: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    opening::must_exist(&arguments.store)?;
    let info = inspect::store_info(&arguments.store).map_err(|error| opening::about(&arguments.store, error))?;
    let mut out = Output::new();
    if arguments.json {
        out.line(&json(&info))?;
    } else {
        for (name, value) in rows(&info, arguments.bytes) {
            out.line(&format!("{name:<12} {value}"))?;
        }
    }
    out.flush()
}

fn rows(info: &StoreInfo, exact: bool) -> Vec<(&'static str, String)> {
    let bytes = |bytes: u64| if exact { bytes.to_string() } else { human_bytes(bytes) };
    let limits = &info.limits;
    let writer = match (info.writer_pid, info.clean) {
        (Some(pid), _) => format!("process {pid} has the store open"),
        (None, true) => "none; closed cleanly".to_owned(),
        (None, false) => "none; not closed cleanly, the next writer recovers".to_owned(),
    };
    vec![
        ("store", data_encoding::HEXLOWER.encode(&info.store_id)),
        ("format", format!("{}, written by annals {}", info.format_version, version(info.written_by))),
        ("created", print_wall_clock(info.created_at)),
        ("durability", durability(info.default_durability).to_owned()),
        ("events", human_count(info.events)),
        ("head", format!("{}, durable {}", info.head, info.durable_head)),
        ("segments", info.segments.to_string()),
        ("on disk", format!("{}, of it indexes {}", bytes(info.bytes_on_disk), bytes(info.index_bytes))),
        ("indexes", index_sizes(info, &bytes)),
        ("snapshots", format!("{}, {}", human_count(info.snapshots), bytes(info.snapshot_bytes))),
        ("writer", writer),
        (
            "limits",
            format!(
                "payload {}, metadata {}, {} tags, batch {} events and {}",
                bytes(limits.payload_len),
                bytes(limits.metadata_len),
                limits.tag_count,
                limits.batch_event_count,
                bytes(limits.batch_len)
            ),
        ),
    ]
}

fn index_sizes(info: &StoreInfo, bytes: &dyn Fn(u64) -> String) -> String {
    let sizes = &info.index_sizes;
    format!(
        "of segments {}, tiers {}, streams {}, lists {}",
        bytes(sizes.segments),
        bytes(sizes.tiers),
        bytes(sizes.directory),
        bytes(sizes.manifests)
    )
}

fn json(info: &StoreInfo) -> String {
    let limits = &info.limits;
    serde_json::json!({
        "version": 1,
        "store_id": data_encoding::HEXLOWER.encode(&info.store_id),
        "format_version": info.format_version,
        "written_by": version(info.written_by),
        "created_at": print_wall_clock(info.created_at),
        "default_durability": durability(info.default_durability),
        "events": info.events,
        "head": info.head,
        "durable_head": info.durable_head,
        "segments": info.segments,
        "bytes_on_disk": info.bytes_on_disk,
        "index_bytes": info.index_bytes,
        "index_sizes": {
            "segments": info.index_sizes.segments,
            "tiers": info.index_sizes.tiers,
            "streams": info.index_sizes.directory,
            "lists": info.index_sizes.manifests,
        },
        "snapshots": info.snapshots,
        "snapshot_bytes": info.snapshot_bytes,
        "writer_pid": info.writer_pid,
        "clean": info.clean,
        "limits": {
            "payload_bytes": limits.payload_len,
            "metadata_bytes": limits.metadata_len,
            "tags": limits.tag_count,
            "batch_events": limits.batch_event_count,
            "batch_bytes": limits.batch_len,
        },
    })
    .to_string()
}

fn durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Durable => "durable",
        Durability::Buffered => "buffered",
    }
}

fn version(packed: u32) -> String {
    format!("{}.{}.{}", packed >> 16, (packed >> 8) & 0xff, packed & 0xff)
}
