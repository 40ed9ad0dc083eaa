//! The least that a hand-off can cost: a number between two threads, read by one that looks all the time, or by one that
//! sleeps on it, in the process or in another one.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use memmap2::MmapRaw;
use rustix::thread::futex;

use super::tails::{Source, Tail};
use super::{Times, differences, now};
use crate::Result;

/// Bytes of an event with its header, about.
const EVENT_LEN: usize = 384;

/// The reader looks all the time.
pub(super) fn polled(count: usize, pause: Duration) -> Result<Histogram<u64>> {
    let word = AtomicU32::new(0);
    hand_over(
        count,
        &word,
        |seen| {
            while word.load(Ordering::Acquire) <= seen {
                std::hint::spin_loop()
            }
        },
        |began, n| {
            while began.elapsed() < pause * n as u32 {
                std::hint::spin_loop();
            }
        },
    )
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

/// A word in a mapped file that another process sleeps on.
struct SharedWord(MmapRaw);

impl SharedWord {
    fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(4096)?;
        Ok(Self(MmapRaw::map_raw(&file)?))
    }

    fn get(&self) -> &AtomicU32 {
        #[expect(unsafe_code, reason = "a word that two processes share is the fact that is measured")]
        // SAFETY: the map is a page long, lives as long as `self`, and its first word is only ever used as an atomic.
        unsafe {
            AtomicU32::from_ptr(self.0.as_mut_ptr().cast())
        }
    }
}

/// Writes and syncs as many bytes as an event has, then changes a word that another process sleeps on.
pub(super) struct Elsewhere {
    file: File,
    word: SharedWord,
    shown_at: AtomicU64,
}

impl Elsewhere {
    /// Where the word is.
    pub(super) fn word(dir: &Path) -> PathBuf {
        dir.join("word")
    }

    pub(super) fn open(dir: &Path, count: usize) -> Result<Self> {
        let file = File::create(dir.join("synced"))?;
        file.write_all_at(&vec![0; count * EVENT_LEN], 0)?;
        file.sync_all()?;
        Ok(Self { file, word: SharedWord::open(&Self::word(dir))?, shown_at: AtomicU64::new(0) })
    }
}

impl Source for Elsewhere {
    fn append(&self, _: &[u8]) -> Result<()> {
        let word = self.word.get();
        let number = word.load(Ordering::Relaxed);
        self.file.write_all_at(&[7; EVENT_LEN], (number as usize * EVENT_LEN) as u64)?;
        self.file.sync_data()?;
        self.shown_at.store(now(), Ordering::Relaxed);
        word.store(number + 1, Ordering::Release);
        let _ = futex::wake(word, futex::Flags::empty(), 1);
        Ok(())
    }

    fn tail(&self) -> Result<Box<dyn Tail + Send>> {
        Err("it is followed from another process".into())
    }

    fn shown_at(&self) -> Option<u64> {
        Some(self.shown_at.load(Ordering::Relaxed))
    }
}

/// Sleeps on the word of an [`Elsewhere`].
pub(super) struct WordTail {
    word: SharedWord,
    seen: u32,
}

impl WordTail {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self { word: SharedWord::open(path)?, seen: 0 })
    }
}

impl Tail for WordTail {
    fn poll(&mut self, each: &mut dyn FnMut(usize)) -> Result<()> {
        let seen = std::mem::replace(&mut self.seen, self.word.get().load(Ordering::Acquire));
        (seen..self.seen).for_each(|number| each(number as usize));
        Ok(())
    }

    fn wait(&mut self, limit: Duration) -> Result<()> {
        let limit = futex::Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: i64::from(limit.subsec_nanos()) };
        let _ = futex::wait(self.word.get(), futex::Flags::empty(), self.seen, Some(&limit));
        Ok(())
    }
}
