//! B10: what is done for the index beside the appends, noted while the large store was loaded.

use super::held::Keeper;
use super::{Columns, Scale};
use crate::Result;
use crate::engines::Kind;
use crate::report::Row;

/// Whether a thread of this name is one of the store's own.
pub(super) fn is_background(name: &str) -> bool {
    name.starts_with("annals-")
}

/// Whether it does not work for the log alone. The kernel keeps 15 bytes of a name.
pub(super) fn is_for_the_index(name: &str) -> bool {
    is_background(name) && !["annals-committe", "annals-preparer"].contains(&name)
}

/// Three tables: time, bytes written, bytes kept.
pub(super) fn rows(scale: &Scale) -> Result<Vec<Row>> {
    let facts = scale.facts(Keeper::Annals, scale.large)?;
    let per_event = |name: &str| facts[name].as_f64().unwrap_or(f64::NAN) / f64::from(scale.large.events);
    let threads = facts["threads_cpu_ms"].as_object().ok_or("no times of threads were noted")?;
    let (mut time, mut written, mut kept) = (Columns::default(), Columns::default(), Columns::default());
    let nanos = |millis: f64| millis * 1e6 / f64::from(scale.large.events);
    let close = nanos(facts["close_cpu_ms"].as_f64().unwrap_or(0.0));
    let of = |name: &String| threads[name].as_f64().unwrap_or(0.0);
    let for_index: f64 = threads.keys().filter(|name| is_for_the_index(name)).map(of).sum();
    time.push("annals", Kind::Annals, nanos(for_index) + close);
    for name in threads.keys() {
        time.push(&format!("thread {name}"), Kind::Beside, nanos(of(name)));
    }
    time.push("closing", Kind::Beside, close);
    written.push("annals", Kind::Annals, per_event("index_bytes_written"));
    kept.push("annals", Kind::Annals, per_event("index_bytes_kept"));
    kept.push("log", Kind::Beside, per_event("segment_bytes"));
    let files = |name: &str| facts[name].as_u64().unwrap_or(0);
    let note = format!(
        "once, while loading: {} events of 4 keys and an id in batches of 100 in {:.1} s, {:.1} s until the threads were \
         idle, {:.0} ms to close; {} segments",
        scale.large.events,
        facts["append_seconds"].as_f64().unwrap_or(0.0),
        facts["settled_seconds"].as_f64().unwrap_or(0.0),
        facts["close_ms"].as_f64().unwrap_or(0.0),
        files("segments"),
    );
    let counted =
        "processor time of the store's threads but the committer and the preparer, which write the log and make its \
         segments, and of closing"
            .to_owned();
    let seen = format!(
        "lengths of the index files that appeared ({}, {} not seen in time); {} are kept",
        files("index_files_written"),
        files("index_files_missed"),
        files("index_files_kept")
    );
    Ok(vec![
        time.row(
            "B10, time",
            "Background work per event, syncs and checksums on".into(),
            "ns",
            "<= 1,000 ns; aim 600",
            vec![note.clone(), counted],
        ),
        written.row(
            "B10, written",
            "Bytes of index written per event".into(),
            "B",
            "<= 400 B; aim 220 B",
            vec![seen.clone()],
        ),
        kept.row("B10, kept", "Bytes of index kept per event".into(), "B", "<= 60 B; aim 45 B", vec![seen]),
    ])
}
