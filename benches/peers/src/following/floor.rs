//! The least that a hand-off can cost: a number between two threads, read by one that looks all the time, or by one that
//! sleeps on it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::thread::futex;

use super::{Times, differences, now};
use crate::Result;

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
    let word = AtomicU32::new(0);
    let sleep = |seen: u32| {
        while word.load(Ordering::Acquire) <= seen {
            // An error means that the word has changed already: look again.
            let _ = futex::wait(&word, futex::Flags::PRIVATE, seen, None);
        }
    };
    hand_over(count, &word, sleep, |_, _| thread::sleep(pause))
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
