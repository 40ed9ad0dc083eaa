//! B8: private memory, seen from inside a process that does nothing else.

use std::process::Command;

use serde_json::Value;

use super::held::Keeper;
use super::{Columns, Scale};
use crate::Result;
use crate::device;
use crate::engines::Kind;
use crate::report::Row;

/// Appending with 100 k and 1 M streams, and the large store in use.
pub(super) fn rows(scale: &Scale) -> Result<Vec<Row>> {
    let few = scale.large.streams / 10;
    let wanted = [(few, "<= 60 MB; aim 40 MB"), (scale.large.streams, "<= 150 MB; aim 60 MB")];
    let mut tables = [Columns::default(), Columns::default(), Columns::default()];
    let dir = scale.dir.join("run-memory");
    for _ in 0..scale.runs {
        for ((streams, _), columns) in wanted.iter().zip(&mut tables) {
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir)?;
            let arguments = [dir.display().to_string(), streams.to_string(), scale.watched.to_string()];
            let answer = child("memory", &arguments);
            std::fs::remove_dir_all(&dir)?;
            device::settle(&scale.dir)?;
            push(columns, &answer?);
        }
        let loaded = scale.load(Keeper::Annals, scale.large)?;
        let arguments = [loaded.display().to_string(), scale.large.name(), scale.segment_bytes.to_string()];
        push(&mut tables[2], &child("resident", &arguments)?);
    }
    let notes = vec![
        "RssAnon and the larger of RssShmem and the blocks of files in memory, sampled every millisecond in a process of \
         its own; what the harness held before the store was opened is taken off"
            .to_owned(),
        "mapped pages are of files on disk: the system takes them back when it needs memory".to_owned(),
    ];
    let [first, second, resident] = tables;
    let title = |streams| {
        format!("Private memory while {} events are appended to {streams} streams, 64 MiB segments", scale.watched)
    };
    let in_use = format!("Private memory with {} events: opened, streams read, events appended", scale.large.events);
    Ok(vec![
        first.row(&format!("B8, {few} streams"), title(few), "MB", wanted[0].1, notes.clone()),
        second.row(&format!("B8, {} streams", wanted[1].0), title(wanted[1].0), "MB", wanted[1].1, notes.clone()),
        resident.row("B8, large store", in_use, "MB", "shown", notes),
    ])
}

fn push(columns: &mut Columns, answer: &Value) {
    let figure = |name: &str| answer[name].as_f64().unwrap_or(f64::NAN) / 1e6;
    columns.push("annals", Kind::Annals, figure("private_peak") - figure("private_before"));
    columns.push("annals, at the end", Kind::Beside, figure("private_end") - figure("private_before"));
    columns.push("annals, mapped at most", Kind::Beside, figure("mapped_peak"));
    columns.push("harness", Kind::Beside, figure("private_before"));
}

/// Starts this programme again for one task and reads its answer.
fn child(task: &str, arguments: &[String]) -> Result<Value> {
    let output = Command::new(std::env::current_exe()?).args(["--child", task]).args(arguments).output()?;
    if !output.status.success() {
        return Err(format!("{task}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
