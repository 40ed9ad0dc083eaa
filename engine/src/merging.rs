//! Tiers kept while the store is open: made when there is quiet or when much has gathered, dropped when they are broken.
//!
//! Nothing waits for it: segments without a tier answer by their own indexes, and their ids stand in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::places_file;
use crate::recovery::load_ids;
use crate::segment::Segment;
use crate::store::Inner;
use crate::tiers::{Replaced, tier_name};

/// How often somebody looks whether there is something to do.
const LOOK: Duration = Duration::from_millis(500);
/// With so many segments without a tier work begins while appends go on; else when no segment has ended for a while.
const BACKLOG: u64 = 32;
/// Bytes of tiers written in a second, at most.
const PACE: u64 = 128 << 20;

/// Where the thread that keeps the tiers sleeps.
#[derive(Debug, Default)]
pub(crate) struct Merging {
    /// Numbers of broken tiers whose ids are in memory again: a tier that cannot be dropped yet is not loaded twice.
    loaded: Mutex<Vec<u64>>,
    /// Up to this position the segments' index files hold no more than tiers do not, as far as was looked.
    shrunk: Mutex<u64>,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Merging {
    fn sleep(&self, inner: &Inner) {
        let mut guard = self.lock.lock();
        if !inner.stopping.load(Ordering::Acquire) {
            self.wake.wait_for(&mut guard, LOOK);
        }
    }

    /// Wakes the thread from its sleep; it looks whether the store is closing.
    pub(crate) fn wake(&self) {
        let _guard = self.lock.lock();
        self.wake.notify_all();
    }
}

pub(crate) fn merge_loop(inner: &Inner) {
    let mut ended = 0;
    while !inner.stopping.load(Ordering::Acquire) {
        let (segments, uncovered) = counts(inner);
        let is_quiet = segments == ended;
        ended = segments;
        if uncovered > 0 && (is_quiet || uncovered >= BACKLOG) {
            let begun = Instant::now();
            let mut written = 0;
            let mut pace = |bytes: u64| {
                written += bytes;
                let due = Duration::from_secs_f64(written as f64 / PACE as f64);
                if let Some(ahead) = due.checked_sub(begun.elapsed()).filter(|ahead| *ahead > Duration::from_millis(2))
                {
                    std::thread::sleep(ahead);
                }
            };
            let mut goes_on = true;
            while goes_on && !inner.stopping.load(Ordering::Acquire) {
                goes_on = keep_tiers(inner, &mut pace);
            }
        }
        shrink_covered(inner);
        inner.merging.sleep(inner);
    }
}

/// What [`Store::check_index`](crate::Store::check_index) found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexCheck {
    /// Files of the index that were looked at.
    pub files: u64,
    /// Those that were damaged or missing and were made anew, or are answered for by the files beneath until they are.
    pub rebuilt: Vec<String>,
}

/// Looks at every file of the index; what is damaged is made anew.
pub(crate) fn check(inner: &Inner) -> crate::Result<IndexCheck> {
    let mut check = IndexCheck::default();
    for segment in inner.core.segments.load().iter().filter(|segment| segment.is_listed()) {
        segment.opened()?;
        check.files += 1;
    }
    check.rebuilt = inner.core.cache.take_rebuilt();
    for tier in inner.core.tiers.load().iter() {
        check.files += 1;
        if tier.is_broken() || tier.check_all().is_err() {
            check.rebuilt.push(tier_name(tier.entry().number));
        }
    }
    let mut goes_on = true;
    while goes_on {
        goes_on = keep_tiers(inner, &mut |_| {});
    }
    shrink_covered(inner);
    Ok(check)
}

/// All that is due, in the calling thread.
pub(crate) fn merge_all(inner: &Inner) {
    let mut goes_on = counts(inner).1 > 0;
    while goes_on {
        goes_on = keep_tiers(inner, &mut |_| {});
    }
    shrink_covered(inner);
}

/// Lets go of what tiers hold as well: the index files of the segments that they cover keep places alone. Those of earlier
/// openings are looked at once, and found small by their first bytes.
fn shrink_covered(inner: &Inner) {
    let mut shrunk = inner.merging.shrunk.lock();
    let covered = inner.core.tiers.load().covered_until();
    // Below a tier that was dropped meanwhile, segments have whole indexes again.
    *shrunk = (*shrunk).min(covered);
    if *shrunk == covered {
        return;
    }
    let listed = inner.sealing.lock().manifest.segments.clone();
    let segments = inner.core.segments.load_full();
    for entry in &listed[listed.partition_point(|entry| entry.last_position <= *shrunk)..] {
        if entry.last_position > covered || inner.stopping.load(Ordering::Acquire) {
            return;
        }
        let number = |segment: &Arc<Segment>| segment.header.identity.segment;
        let Ok(at) = segments.binary_search_by_key(&entry.number, number) else { return };
        let (storage, mode, hash) = (inner.storage.as_ref(), inner.core.read_mode, inner.core.hash);
        match places_file::shrink(storage, &segments[at], entry, mode, hash) {
            // What is missing or damaged is made anew when somebody comes to it.
            Ok(_) | Err(Error::Corrupt { .. } | Error::Unsupported { .. }) => {
                *shrunk = entry.last_position.max(*shrunk)
            }
            Err(_) => {
                failed(inner);
                return;
            }
        }
    }
}

/// Number of segments, and of those that no sound tier covers.
fn counts(inner: &Inner) -> (u64, u64) {
    let segments = inner.core.segments.load().len() as u64;
    (segments, segments.saturating_sub(inner.core.tiers.load().covered_segments()))
}

/// Drops what is broken, or merges once; false if there was nothing to do, or if it failed.
fn keep_tiers(inner: &Inner, pace: &mut dyn FnMut(u64)) -> bool {
    let mut keeper = inner.tier_keeper.lock();
    let storage = inner.storage.as_ref();
    let tiers = inner.core.tiers.load_full();
    if keeper.must_drop(&tiers) {
        // The ids that only it holds are in memory again before it is dropped.
        return load_ids_of_broken(inner)
            && match keeper.drop_broken(storage, &tiers) {
                Ok(Some(replaced)) => {
                    install(inner, &replaced);
                    true
                }
                Ok(None) => false,
                Err(_) => failed(inner),
            };
    }
    let segments = inner.core.segments.load_full();
    let manifest = inner.sealing.lock().manifest.clone();
    match keeper.merge_next(storage, &tiers, &segments, &manifest, pace, &inner.stopping) {
        Ok(Some(replaced)) => {
            install(inner, &replaced);
            true
        }
        Ok(None) => false,
        // One that turned out to be broken is dropped by the next call.
        Err(_) => tiers.iter().any(|tier| tier.is_broken()) || failed(inner),
    }
}

fn failed(inner: &Inner) -> bool {
    inner.sealing.lock().failures += 1;
    false
}

/// Shows the tiers to writer and readers, then lets go of what they hold instead.
fn install(inner: &Inner, replaced: &Replaced) {
    let tiers = Arc::new(replaced.tiers.clone());
    let covered = tiers.covered_until();
    let forgotten = {
        let mut writer = inner.writer.lock();
        writer.tiers = tiers.clone();
        inner.core.tiers.store(tiers);
        writer.ids.forget_up_to(covered)
    };
    drop(forgotten);
    // What stays is removed at the next opening.
    let _ = replaced.remove_files(inner.storage.as_ref());
}

fn load_ids_of_broken(inner: &Inner) -> bool {
    let tiers = inner.core.tiers.load_full();
    let segments = inner.core.segments.load_full();
    let mut loaded = inner.merging.loaded.lock();
    for tier in tiers.iter().filter(|tier| tier.is_broken()) {
        let number = tier.entry().number;
        if loaded.contains(&number) {
            continue;
        }
        let covered = tier.entry().first_segment..=tier.entry().last_segment;
        for segment in segments.iter().filter(|segment| covered.contains(&segment.header.identity.segment)) {
            if load_ids(segment, &mut inner.writer.lock().ids).is_err() {
                return false;
            }
        }
        loaded.push(number);
    }
    true
}
