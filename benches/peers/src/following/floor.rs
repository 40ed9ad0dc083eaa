//! The least that a hand-off can cost: a number between two threads, read by one that looks all the time, or by one that
//! sleeps on it.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::thread::futex;

use super::{Times, differences, now};
use crate::Result;

/// Bytes of an event with its header, about.
const EVENT_LEN: usize = 384;

/// The reader looks all the time.
pub(super) fn polled(count: usize, pause: Duration) -> Result<Histogram<u64>> {
    let word = AtomicU32::new(0);
    hand_over(count, &word, |seen| while word.load(Ordering::Acquire) <= seen { std::hint::spin_loop() }, |began, n| {
        while began.elapsed() < pause * n as u32 {
            std::hint::spin_loop();
        }
    })
}

/// The reader sleeps on the word.
pub(super) fn woken(count: usize, pause: Duration) -> Result<Histogram<u64>> {
    hand_over_asleep(count, |_, _| thread::sleep(pause))
}

/// The same, and before each hand-over as many bytes as an event has are written to a file and synced: what the disk does to
/// the processors is in it.
pub(super) fn woken_after_sync(count: usize, pause: Duration, dir: &Path) -> Result<Histogram<u64>> {
    let file = File::create(dir.join("synced"))?;
    file.write_all_at(&vec![0; count * EVENT_LEN], 0)?;
    file.sync_all()?;
    let bytes = [7; EVENT_LEN];
    let failed = Cell::new(None);
    let histogram = hand_over_asleep(count, |_, number| {
        thread::sleep(pause);
        let synced = file.write_all_at(&bytes, (number * EVENT_LEN) as u64).and_then(|()| file.sync_data());
        if let Err(error) = synced {
            failed.set(Some(error));
        }
    })?;
    failed.into_inner().map_or(Ok(histogram), |error| Err(error.into()))
}

fn hand_over_asleep(count: usize, pause: impl Fn(Instant, usize)) -> Result<Histogram<u64>> {
    let word = AtomicU32::new(0);
    let sleep = |seen: u32| {
        while word.load(Ordering::Acquire) <= seen {
            // An error means that the word has changed already: look again.
            let _ = futex::wait(&word, futex::Flags::PRIVATE, seen, None);
        }
    };
    hand_over(count, &word, sleep, pause)
}

fn hand_over(
    count: usize,
    word: &AtomicU32,
    wait_beyond: impl Fn(u32) + Sync,
    pause: impl Fn(Instant, usize),
) -> Result<Histogram<u64>> {
    let (mut stored, mut seen) = (Times::of(count), Times::of(count));
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..count {
                wait_beyond(number as u32);
                seen.note(number, now());
            }
        });
        let began = Instant::now();
        for number in 0..count {
            pause(began, number);
            stored.note(number, now());
            word.store(number as u32 + 1, Ordering::Release);
            let _ = futex::wake(word, futex::Flags::PRIVATE, 1);
        }
    });
    differences(&stored, &seen)
}
