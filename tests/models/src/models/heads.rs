//! What is behind a head is there for whoever has seen the head.

use std::sync::Arc;

use loom::sync::Mutex;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::{BOUNDED, explore};
use crate::publish::{Ending, Watermark};

/// Words in the place of the ring, a file, an index: what the writer stores before it shows a head. Relaxed, as the ring's
/// are, so that nothing but the head orders them.
fn words<const N: usize>() -> Arc<[AtomicU64; N]> {
    Arc::new(std::array::from_fn(|_| AtomicU64::new(0)))
}

fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

#[test]
fn whoever_sees_a_written_head_sees_every_batch_up_to_it() {
    explore("written head, 3 batches, 3 looks", None, || {
        let watermark = Arc::new(Watermark::start(0, 0, 0));
        let batches = words::<3>();
        let writer = thread::spawn({
            let (watermark, batches) = (watermark.clone(), batches.clone());
            move || {
                for (batch, head) in batches.iter().zip(1..) {
                    set(batch, head);
                    watermark.publish(head, head * 8);
                }
            }
        });
        let mut before = 0;
        for _ in 0..3 {
            let head = watermark.written();
            assert!(head >= before, "a head falls");
            for (batch, position) in batches.iter().zip(1..=head) {
                assert_eq!(get(batch), position, "shown before it was stored");
            }
            before = head;
        }
        writer.join().unwrap();
    });
}

#[test]
fn who_flushes_finds_what_is_to_be_flushed_and_who_sees_it_flushed_finds_the_file() {
    explore("writer, flusher, reader of the file", BOUNDED, || {
        let watermark = Arc::new(Watermark::start(0, 0, 0));
        let (ring, file) = (words::<3>(), words::<3>());
        let flusher = thread::spawn({
            let (watermark, ring, file) = (watermark.clone(), ring.clone(), file.clone());
            move || {
                let end = watermark.written_end();
                for (from, to) in ring.iter().zip(file.iter()).take((end / 8) as usize) {
                    assert_ne!(get(from), 0, "flushed before it was stored");
                    set(to, get(from));
                }
                watermark.set_flushed(end);
            }
        });
        let reader = thread::spawn({
            let (watermark, file) = (watermark.clone(), file.clone());
            move || {
                let flushed = watermark.flushed();
                for word in file.iter().take((flushed / 8) as usize) {
                    assert_ne!(get(word), 0, "the file does not hold what is flushed");
                }
            }
        });
        set(&ring[0], 1);
        watermark.publish(1, 8);
        // A header, which shows nothing to readers.
        set(&ring[1], 2);
        watermark.extend(16);
        set(&ring[2], 3);
        watermark.publish(2, 24);
        flusher.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn whoever_sees_a_durable_head_sees_the_batches_and_that_they_are_synced() {
    explore("writer, leader of a sync, reader", BOUNDED, || {
        let watermark = Arc::new(Watermark::start(0, 0, 0));
        let (batches, synced) = (words::<2>(), words::<1>());
        // The writer's lock, with the head under it.
        let tip = Arc::new(Mutex::new(0));
        let leader = thread::spawn({
            let (watermark, synced, tip) = (watermark.clone(), synced.clone(), tip.clone());
            move || {
                let head = *tip.lock().unwrap();
                set(&synced[0], head);
                watermark.show_durable(head);
            }
        });
        let reader = thread::spawn({
            let (watermark, batches) = (watermark.clone(), batches.clone());
            move || {
                let head = watermark.durable();
                assert!(get(&synced[0]) >= head, "durable before the sync");
                for (batch, position) in batches.iter().zip(1..=head) {
                    assert_eq!(get(batch), position, "durable and not there");
                }
            }
        });
        for (batch, head) in batches.iter().zip(1..) {
            let mut tip = tip.lock().unwrap();
            set(batch, head);
            watermark.publish(head, head * 8);
            *tip = head;
        }
        leader.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_copy_of_the_ring_that_counts_holds_nothing_newer() {
    explore("ring overwritten 3 times, 3 copies", None, || {
        let watermark = Arc::new(Watermark::start(0, 0, 0));
        let ring = words::<1>();
        set(&ring[0], 8);
        let writer = thread::spawn({
            let (watermark, ring) = (watermark.clone(), ring.clone());
            move || {
                // The word of log offset `low - 8` goes, that of `low` comes.
                for low in [8, 16, 24] {
                    watermark.raise_low(low);
                    set(&ring[0], low + 8);
                }
            }
        });
        for offset in [0, 8, 16] {
            let copy = get(&ring[0]);
            if watermark.still_in_ring(offset) {
                assert!(copy <= offset + 8, "a copy that counts holds what came later");
            }
        }
        writer.join().unwrap();
    });
}

#[test]
fn whoever_sees_the_writer_poisoned_sees_why_and_the_last_durable_head() {
    explore("a failure seen in 3 ways", None, || {
        let watermark = Arc::new(Watermark::start(3, 0, 0));
        let reason = words::<1>();
        let writer = thread::spawn({
            let (watermark, reason) = (watermark.clone(), reason.clone());
            move || {
                watermark.show_durable(2);
                set(&reason[0], 1);
                watermark.poison();
            }
        });
        let poisoned = watermark.is_poisoned();
        if poisoned {
            assert_eq!(get(&reason[0]), 1, "poisoned without a reason");
        }
        if watermark.ending() == Some(Ending::Poisoned) {
            assert_eq!(watermark.durable(), 2, "the last head is not the last");
            assert_eq!(watermark.written(), 2, "more is shown than is durable");
        }
        writer.join().unwrap();
    });
}
