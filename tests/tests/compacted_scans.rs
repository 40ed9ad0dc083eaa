//! Scans of compacted segments, whose frames come verified with their block: that a frame is the one of the position that is
//! asked for is still known only from its batch or its own checksum.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use annals::{
    Batch, CompactionOptions, Durability, LiveSegment, MessageRef, NewEvent, Options, Query, Reader, Seek, Store, View,
};
use annals_tests::damage::{Files, kind_of};
use annals_tests::sim_disk::{Dice, SimDisk};
use annals_tests::whole_store::checksums_put_right;

const BATCHES: u64 = 60;
const EACH: u64 = 5;

fn options() -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).durability(Durability::Buffered).background(false)
}

fn payload(position: u64) -> Vec<u8> {
    format!("event {position} ").repeat(1 + position as usize % 7).into_bytes()
}

/// Batches of several events, all of them in compacted segments; the payload tells the position.
fn compacted(disk: &SimDisk) -> Store {
    let store = options().open_storage(Arc::new(disk.clone())).unwrap();
    for number in 0..BATCHES {
        let payloads: Vec<Vec<u8>> = (1..=EACH).map(|n| payload(number * EACH + n)).collect();
        let stream = format!("stream-{}", number % 3);
        let mut batch = Batch::new();
        payloads.iter().for_each(|payload| batch.push(&stream, NewEvent::new("Happened", payload)));
        store.commit(&batch).unwrap();
    }
    let report = store.compact(&CompactionOptions::new().live_segment(LiveSegment::End)).unwrap();
    assert!(!report.compacted.is_empty() && report.ended_live, "{report:?}");
    store
}

fn files() -> Files {
    let disk = SimDisk::new();
    compacted(&disk).close().unwrap();
    disk.files()
}

/// Reads a few events from a position on: each is the one that belongs there, or there is an error. Answers whether there was.
fn read_from(reader: &Reader, at: u64, told: &str) -> bool {
    let read = reader.read_all(&Query::all(), Seek::At(at)).unwrap();
    let mut wanted = at;
    let outcome = read.for_each_event(|event| {
        assert_eq!((event.position().get(), event.payload()), (wanted, &payload(wanted)[..]), "{told}, from {at}");
        wanted += 1;
        if wanted == at + 2 * EACH { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(outcome.is_err() || wanted == (at + 2 * EACH).min(BATCHES * EACH + 1), "{told}: ends before {wanted}");
    outcome.is_err()
}

#[test]
fn a_place_that_was_forged_never_gives_an_event_another_position() {
    let sound = files();
    let mut dice = Dice::of(0x71ACE, 1);
    let names: Vec<&String> =
        sound.keys().filter(|name| kind_of(name) == "index" && name.starts_with("segment")).collect();
    assert!(!names.is_empty());
    let mut errors = 0;
    for trial in 0..400 {
        let name = names[trial % names.len()];
        let mut files = sound.clone();
        let bytes = files.get_mut(name).unwrap();
        let at = 128 + dice.index(bytes.len() - 128);
        bytes[at] ^= 1 << dice.below(8);
        checksums_put_right(&sound, &mut files);
        // Of this file alone.
        let forged = files.remove(name).unwrap();
        files = sound.clone();
        files.insert(name.clone(), forged);
        let store = options().open_read_only_storage(Arc::new(SimDisk::from_files(&files))).unwrap();
        for position in 1..=BATCHES * EACH {
            errors += u64::from(read_from(&store.reader_in(View::Written), position, &format!("{name} byte {at}")));
        }
    }
    println!("  {errors} readings ended with an error");
    assert!(errors > 30, "places were forged: {errors}");
}

#[test]
fn who_unwinds_in_the_middle_of_a_batch_goes_on_behind_it() {
    let store = compacted(&SimDisk::new());
    let mut subscription = store.reader_in(View::Written).subscribe(&Query::all(), Seek::Beginning).unwrap();
    let mut seen = Vec::new();
    while seen.len() < (BATCHES * EACH) as usize {
        let before = seen.len();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            subscription.for_each_ready(|message| {
                if let MessageRef::Event(event) = message {
                    assert_eq!(event.payload(), payload(event.position().get()), "at {}", event.position());
                    seen.push(event.position().get());
                    if seen.len() % 3 == 0 {
                        std::panic::resume_unwind(Box::new(()));
                    }
                }
                ControlFlow::<()>::Continue(())
            })
        }));
        assert!(outcome.is_err() || outcome.unwrap().unwrap().is_none());
        assert!(seen.len() > before);
    }
    assert!(seen.iter().copied().eq(1..=BATCHES * EACH), "{seen:?}");
}
