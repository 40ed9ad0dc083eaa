//! The raw pipeline of row A6: a producer fills a staging buffer, a committer writes and syncs it, durability is a
//! watermark. Nothing is framed or looked up; the limit is what stands between the two at most.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::extents;
use crate::Result;
use crate::workload::Workload;

/// Bytes the producer gathers before it takes the lock.
const CHUNK: usize = 4096;

/// What was moved in which time.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Events made durable.
    pub events: u64,
    /// From the first event to the sync of the last.
    pub elapsed: Duration,
    /// Groups synced.
    pub groups: u64,
}

struct Shared {
    staging: Mutex<Vec<u8>>,
    staged: AtomicU64,
    durable: AtomicU64,
    done: AtomicBool,
    failed: AtomicBool,
}

/// Moves events until `limit` or the end of the work, with at most `in_flight` bytes not yet durable.
///
/// The first segment is zero-filled before the clock starts, every other one by a third thread while it runs.
pub fn run(dir: &Path, work: &Workload, in_flight: usize, limit: Duration) -> Result<Moved> {
    let (ready, segments) = mpsc::sync_channel(1);
    let first = extents::zeroed(&extents::path(dir, 0), 1 << 20)?;
    let shared = Shared {
        staging: Mutex::new(Vec::with_capacity(in_flight)),
        staged: AtomicU64::new(0),
        durable: AtomicU64::new(0),
        done: AtomicBool::new(false),
        failed: AtomicBool::new(false),
    };
    let began = Instant::now();
    thread::scope(|scope| {
        let zeroing = scope.spawn(|| prepare(dir, ready));
        let committer = scope.spawn(|| {
            let result = commit(&shared, first, &segments);
            shared.failed.store(result.is_err(), Ordering::Release);
            drop(segments);
            result
        });
        let events = produce(&shared, work, in_flight as u64, began, limit);
        let groups = committer.join().expect("the committer does not panic")?;
        let elapsed = began.elapsed();
        zeroing.join().expect("the zeroing thread does not panic")?;
        Ok(Moved { events, elapsed, groups })
    })
}

fn prepare(dir: &Path, ready: mpsc::SyncSender<File>) -> Result<()> {
    for number in 1.. {
        let file = extents::zeroed(&extents::path(dir, number), 1 << 20)?;
        if ready.send(file).is_err() {
            break;
        }
    }
    Ok(())
}

fn produce(shared: &Shared, work: &Workload, in_flight: u64, began: Instant, limit: Duration) -> u64 {
    let mut chunk = Vec::with_capacity(2 * CHUNK);
    let (mut bytes, mut durable, mut events) = (0u64, 0, 0u64);
    for number in 0..work.len() {
        let payload = work.event(number).payload;
        while bytes + payload.len() as u64 - durable > in_flight {
            publish(shared, &mut chunk, bytes);
            durable = shared.durable.load(Ordering::Acquire);
            if shared.failed.load(Ordering::Acquire) {
                return events;
            }
            if bytes + payload.len() as u64 - durable > in_flight {
                thread::yield_now();
            }
        }
        chunk.extend_from_slice(payload);
        bytes += payload.len() as u64;
        events += 1;
        if chunk.len() >= CHUNK {
            publish(shared, &mut chunk, bytes);
            if events % 1024 < 16 && began.elapsed() > limit {
                break;
            }
        }
    }
    publish(shared, &mut chunk, bytes);
    shared.done.store(true, Ordering::Release);
    events
}

fn publish(shared: &Shared, chunk: &mut Vec<u8>, bytes: u64) {
    if !chunk.is_empty() {
        shared.staging.lock().extend_from_slice(chunk);
        shared.staged.store(bytes, Ordering::Release);
        chunk.clear();
    }
}

fn commit(shared: &Shared, mut file: File, segments: &mpsc::Receiver<File>) -> Result<u64> {
    let (mut at, mut durable, mut groups) = (0u64, 0u64, 0);
    let mut buffer = Vec::new();
    loop {
        // Read before `staged`: what is staged before the end is then seen below.
        let done = shared.done.load(Ordering::Acquire);
        if shared.staged.load(Ordering::Acquire) == durable {
            if done {
                return Ok(groups);
            }
            thread::yield_now();
            continue;
        }
        buffer.clear();
        std::mem::swap(&mut *shared.staging.lock(), &mut buffer);
        if buffer.is_empty() {
            continue;
        }
        if at + buffer.len() as u64 > extents::SEGMENT_LEN {
            file = segments.recv()?;
            at = 0;
        }
        file.write_all_at(&buffer, at)?;
        file.sync_data()?;
        at += buffer.len() as u64;
        durable += buffer.len() as u64;
        groups += 1;
        shared.durable.store(durable, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Source;

    #[test]
    fn all_payloads_stand_in_the_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let work = Workload::prepare(Source::Fixed, 20_000, dir.path()).unwrap();
        let moved = run(dir.path(), &work, 64 << 10, Duration::from_secs(60)).unwrap();
        assert_eq!(moved.events, 20_000);
        // 64 KiB at most in a group.
        assert!(moved.groups >= 20_000 * 256 / (64 << 10), "{}", moved.groups);
        let written = std::fs::read(extents::path(dir.path(), 0)).unwrap();
        for number in 0..work.len() {
            assert_eq!(written[number * 256..][..256], *work.event(number).payload);
        }
        assert!(written[20_000 * 256..].iter().all(|byte| *byte == 0));
    }
}
