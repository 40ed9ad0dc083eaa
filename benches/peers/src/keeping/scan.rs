//! E2: a scan of compacted segments, beside zstd alone on the same blocks.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use annals::{CompactionOptions, LiveSegment, Query, Seek, Store};
use annals_format::compacted::{BlockTable, COMPACTED_HEADER_LEN, CompactedHeader};
use annals_format::residue::Head;
use zstd::bulk::Decompressor;

use super::{Settings, size};
use crate::Result;
use crate::engines::Kind;
use crate::peer::payload_sum;
use crate::report::{Better, EngineResult, Row, Sample, Spread};
use crate::workload::{Source, Workload};

pub(super) fn row(settings: &Settings) -> Result<Row> {
    let events = settings.compacted;
    let work = Workload::prepare(Source::Fixed, events, &settings.dir)?;
    let dir = settings.dir.join("compacted");
    let store = size::filled(&dir, &work, 1)?;
    store.compact(&CompactionOptions::new().live_segment(LiveSegment::End))?;
    let files = containers(&dir)?;
    let names = ["zstd alone on the same blocks", "annals, scan"];
    let mut results: Vec<EngineResult> = names
        .into_iter()
        .zip([Kind::Floor, Kind::Annals])
        .map(|(name, kind)| EngineResult { name: name.to_owned(), kind, runs: Vec::new() })
        .collect();
    let mut ratios = Vec::new();
    let mut bytes = 0;
    for _ in 0..settings.runs {
        let began = Instant::now();
        bytes = files.iter().map(|file| decoded(file)).sum::<Result<u64>>()?;
        let raw = bytes as f64 / began.elapsed().as_secs_f64() / 1e6;
        let began = Instant::now();
        let seen = scanned(&store)?;
        let scan = bytes as f64 / began.elapsed().as_secs_f64() / 1e6;
        if seen != events as u64 {
            return Err(format!("{seen} events were seen of {events}").into());
        }
        ratios.push(scan / raw);
        for (result, value) in results.iter_mut().zip([raw, scan]) {
            result.runs.push(Some(Sample { value, ..Sample::default() }));
        }
    }
    store.close()?;
    std::fs::remove_dir_all(&dir)?;
    let ratio = Spread::of(ratios).map_or(0.0, |spread| spread.median);
    Ok(Row {
        id: "E2".to_owned(),
        title: format!("Scan of compacted segments, {events} events, MB of segments a second"),
        unit: "MB/s",
        better: Better::Higher,
        wanted: ">= 0.7 of zstd alone; aim 0.9",
        results,
        notes: vec![format!(
            "{ratio:.2} of zstd alone; {} MB in {} containers, verified, payloads summed",
            bytes >> 20,
            files.len()
        )],
    })
}

fn containers(dir: &Path) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("segment-") && name.len() > 40 {
            found.push(std::fs::read(entry.path())?);
        }
    }
    Ok(found)
}

/// Decompresses all blocks of a container, one after the other; answers how many bytes they hold.
fn decoded(file: &[u8]) -> Result<u64> {
    let (header, _) = CompactedHeader::decode(&file[..COMPACTED_HEADER_LEN])?;
    let of = |range: std::ops::Range<u64>| &file[range.start as usize..range.end as usize];
    let table = BlockTable::decode(&header, of(header.block_table()))?;
    let mut decoder = Decompressor::with_dictionary(of(header.dictionary()))?;
    let mut block = vec![0; header.block_len as usize];
    let mut held = 0;
    for number in 0..header.block_count {
        let bytes = of(table.place(number).ok_or("no such block")?);
        let len = header.block_content_len(number) as usize;
        if bytes.len() < len {
            let (_, residue) = Head::decode(bytes)?;
            decoder.decompress_to_buffer(residue, &mut block[..len])?;
        } else {
            block[..len].copy_from_slice(bytes);
        }
        std::hint::black_box(&block);
        held += len as u64;
    }
    Ok(held)
}

fn scanned(store: &Store) -> Result<u64> {
    let (mut events, mut sum) = (0, 0u64);
    store.read_all(&Query::all(), Seek::Beginning)?.for_each_event(|event| {
        events += 1;
        sum = sum.wrapping_add(payload_sum(event.payload()));
        ControlFlow::<()>::Continue(())
    })?;
    std::hint::black_box(sum);
    Ok(events)
}
