use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::storage::watched::{Done, Watched};
use crate::storage::{Access, Memory};
use crate::{CompactionOptions, Expect, LiveSegment, NewEvent, Options, Store};

fn options() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10)
}

fn append(store: &Store, batches: usize, durability: Durability) {
    for n in 0..batches {
        let payload = vec![n as u8; 300];
        let events = [
            NewEvent::new("Placed", &payload).tags(&["a", "b"]).metadata("m"),
            NewEvent::new("Paid", &payload).schema_version(3).content_type("text/plain").correlation("c"),
        ];
        store.append_with(&format!("order-{}", n % 7), Expect::Any, &events, durability).unwrap();
    }
}

/// A closed store of several segments, in memory.
fn sample() -> Arc<Memory> {
    let memory = Arc::new(Memory::new());
    let store = options().background(false).open_storage(memory.clone()).unwrap();
    append(&store, 200, Durability::Durable);
    store.close().unwrap();
    memory
}

fn quiet(storage: &dyn Storage) -> VerifyReport {
    verify_in(storage, &mut |_, _| {}).unwrap()
}

fn change(storage: &dyn Storage, name: &str, offset: u64, byte: u8) {
    let file = storage.open(name, Access::ReadWrite).unwrap();
    file.write_at(offset, &[std::io::IoSlice::new(&[byte])]).unwrap();
}

#[test]
fn a_sound_store_has_no_findings_and_progress_reaches_the_end() {
    let memory = sample();
    let mut last = (0, 0);
    let report = verify_in(&*memory, &mut |done, total| {
        assert!(done >= last.0 && done <= total);
        last = (done, total);
    })
    .unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.events, report.batches, report.head, report.durable_head), (400, 200, 400, 400));
    assert_eq!(last.0, last.1);
}

#[test]
fn segments_are_listed_with_what_they_hold() {
    let memory = sample();
    let segments = segments_in(&*memory).unwrap();
    assert!(segments.len() > 2);
    let (active, sealed) = segments.split_last().unwrap();
    assert_eq!((active.state, active.index), (SegmentState::Active, IndexState::Missing));
    assert!(sealed.iter().all(|info| (info.state, info.index) == (SegmentState::Sealed, IndexState::Present)));
    assert_eq!(segments.iter().map(|info| info.events).sum::<u64>(), 400);
    let mut next = 1;
    for info in &segments {
        assert_eq!(info.first_position, Some(next));
        next = info.last_position.unwrap() + 1;
    }
    let index = sealed[0].file.replace(".log", ".idx");
    change(&*memory, &index, 200, 0xff);
    change(&*memory, &index, 201, 0xff);
    assert_eq!(segments_in(&*memory).unwrap()[0].index, IndexState::Damaged);
    memory.remove(&index).unwrap();
    assert_eq!(segments_in(&*memory).unwrap()[0].index, IndexState::Missing);
}

#[test]
fn a_dump_covers_every_byte_once() {
    let memory = sample();
    for info in segments_in(&*memory).unwrap() {
        let (mut structures, mut inner, mut leaves) = (0, 0, 0);
        dump_in(&*memory, info.number, &mut |field| {
            assert_eq!(field.fault, None);
            let next = match field.depth {
                0 => &mut structures,
                1 => &mut inner,
                _ => &mut leaves,
            };
            if field.depth == 0 {
                assert_eq!(field.offset, *next, "{field:?}");
            } else {
                assert!(field.offset >= *next, "{field:?}");
            }
            *next = field.offset + field.len;
        })
        .unwrap();
        assert_eq!(structures, info.len);
        assert!(leaves <= inner && inner <= structures && leaves > 0);
    }
}

#[test]
fn a_dump_marks_damage_and_goes_on() {
    let memory = sample();
    let info = &segments_in(&*memory).unwrap()[0];
    let mut records = Vec::new();
    let collect = |records: &mut Vec<Field>| {
        records.clear();
        let mut sink = |field: Field| {
            if field.name == "record" {
                records.push(field);
            }
        };
        dump_in(&*memory, info.number, &mut sink).unwrap();
    };
    collect(&mut records);
    let (count, hit) = (records.len(), records[5].clone());
    change(&*memory, &info.file, hit.offset + 60, 0xee);
    collect(&mut records);
    assert_eq!(records.len(), count);
    let faulty: Vec<u64> = records.iter().filter(|field| field.fault.is_some()).map(|field| field.offset).collect();
    assert_eq!(faulty, [hit.offset]);
    let findings = quiet(&*memory).findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!((findings[0].offset, findings[0].position), (hit.offset, Some(6)));
    assert_eq!(findings[0].severity, Severity::Damage);
}

#[test]
fn one_run_shows_all_damage() {
    let memory = sample();
    let segments = segments_in(&*memory).unwrap();
    let mut expected = Vec::new();
    for info in &segments {
        let mut batches = Vec::new();
        let mut sink = |field: Field| {
            if field.name == "batch" {
                batches.push(field.offset);
            }
        };
        dump_in(&*memory, info.number, &mut sink).unwrap();
        // A batch header here, a record there; the last batch of the log among them.
        for (at, within) in [(batches[3], 20), (batches[7], 40 + 100), (*batches.last().unwrap(), 40 + 100)] {
            change(&*memory, &info.file, at + within, 0xee);
            expected.push((info.file.clone(), if within == 20 { at } else { at + 40 }));
        }
    }
    let found: Vec<_> = quiet(&*memory).findings.into_iter().map(|finding| (finding.file, finding.offset)).collect();
    for place in &expected {
        assert!(found.contains(place), "{place:?} is not among {found:?}");
    }
}

#[test]
fn info_tells_the_store_at_a_glance() {
    let memory = sample();
    let info = store_info_in(&*memory).unwrap();
    assert_eq!((info.events, info.head, info.durable_head), (400, 400, 400));
    assert_eq!(info.segments, segments_in(&*memory).unwrap().len() as u64);
    assert!(info.clean && info.index_bytes > 0 && info.bytes_on_disk > info.index_bytes);
    assert_eq!((info.default_durability, info.writer_pid), (Durability::Durable, None));
}

#[test]
fn what_is_no_store_is_not_a_store() {
    let empty = Memory::new();
    assert!(matches!(verify_in(&empty, &mut |_, _| {}), Err(crate::Error::NotAStore { .. })));
    assert!(matches!(segments_in(&empty), Err(crate::Error::NotAStore { .. })));
    assert!(matches!(store_info_in(&empty), Err(crate::Error::NotAStore { .. })));
    assert!(matches!(store_info("/nowhere/at/all"), Err(crate::Error::NotAStore { .. })));
}

/// A store whose writer replaces the manifest twice right after somebody has listed the files for the first time.
fn replaced_once() -> Arc<Watched> {
    let watched = Watched::of(sample());
    let (memory, is_due) = (watched.memory.clone(), AtomicBool::new(true));
    watched.tell(move |done| {
        if done == Done::Listed && is_due.swap(false, Ordering::Relaxed) {
            let mut manifest = crate::manifest::load_current(&*memory).unwrap().unwrap();
            for _ in 0..2 {
                manifest.generation += 1;
                crate::manifest::save(&*memory, &manifest).unwrap();
            }
        }
    });
    watched
}

#[test]
fn a_manifest_that_is_replaced_while_files_are_looked_at_is_not_missed() {
    assert_eq!(verify_in(&*replaced_once(), &mut |_, _| {}).unwrap().findings, []);
    let looked_at = replaced_once();
    assert_eq!(segments_in(&*looked_at).unwrap(), segments_in(&*looked_at.memory).unwrap());
    assert_eq!(store_info_in(&*replaced_once()).unwrap().head, 400);
}

/// A store whose writer does `work` when somebody who looks at it has come to the file of this name.
fn worked_on_once(name: &'static str, work: impl Fn(&Store) + Send + Sync + 'static) -> Arc<Watched> {
    let memory = Arc::new(Memory::new());
    let store = options().background(false).open_storage(memory.clone()).unwrap();
    store.reserve(512 << 10).unwrap();
    append(&store, 20, Durability::Durable);
    let (watched, is_due) = (Watched::of(memory), AtomicBool::new(true));
    watched.tell(move |done| {
        if done == Done::Opened(name) && is_due.swap(false, Ordering::Relaxed) {
            work(&store);
        }
    });
    watched
}

#[test]
fn what_is_sealed_and_compacted_while_files_are_looked_at_is_not_missed() {
    let compacted = || {
        worked_on_once(crate::mark::MARK_NAME, |store| {
            let live_too = CompactionOptions::new().live_segment(LiveSegment::End);
            assert!(!store.compact(&live_too).unwrap().compacted.is_empty());
        })
    };
    assert_eq!(store_info_in(&*compacted()).unwrap().head, 40);
    let looked_at = compacted();
    let segments = segments_in(&*looked_at).unwrap();
    assert_eq!(segments, segments_in(&*looked_at.memory).unwrap());
    assert!(segments.iter().any(|info| info.state == SegmentState::Compacted && info.len > 0));
}

#[test]
fn a_log_that_grows_while_it_is_looked_at_is_not_shorter_than_what_was_synced() {
    let second = "segment-00000000000000000002.log";
    let looked_at = worked_on_once(second, |store| append(store, 400, Durability::Durable));
    let info = store_info_in(&*looked_at).unwrap();
    assert_eq!((info.head, info.durable_head), (840, 840));
}

/// Beside a writer that rolls, seals and syncs all the time nothing looks damaged, and the writer is named.
#[test]
fn beside_a_writer_nothing_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().durability(Durability::Buffered).open(&path).unwrap();
    append(&store, 10, Durability::Durable);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                append(&store, 20, Durability::Buffered);
                append(&store, 1, Durability::Durable);
            }
        });
        let outcome = std::panic::catch_unwind(|| {
            for _ in 0..30 {
                let report = verify(&path, &mut |_, _| {}).unwrap();
                let damage: Vec<_> = report.findings.iter().filter(|f| f.severity == Severity::Damage).collect();
                assert!(damage.is_empty(), "{damage:?}");
                let info = store_info(&path).unwrap();
                assert!(!info.clean && info.head >= 20);
                if cfg!(target_os = "linux") {
                    assert_eq!(info.writer_pid, Some(std::process::id()));
                }
                let listed = segments(&path).unwrap();
                let active = listed.iter().filter(|info| info.state == SegmentState::Active);
                for info in active {
                    dump(&path, info.number, &mut |field| assert_eq!(field.fault, None)).unwrap();
                }
                // Files grow while this goes on; enough is enough.
                if report.events > 30_000 {
                    break;
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    store.close().unwrap();
    assert_eq!(verify(&path, &mut |_, _| {}).unwrap().findings, []);
    assert_eq!(store_info(&path).unwrap().writer_pid, None);
}
