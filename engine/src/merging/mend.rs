//! What nobody comes upon: files of the index that are missing or damaged while others answer for them.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use annals_format::manifest::SegmentEntry;

use super::renew_manifests;
use crate::error::Error;
use crate::prepare::index_name;
use crate::recovery::{self, rebuild_index_of};
use crate::sealed_index::{self, Looked};
use crate::segment::Segment;
use crate::store::Inner;
use crate::tiers;

/// So long at a time, in quiet.
const TURN: Duration = Duration::from_millis(100);

/// How far the files of the index were looked at, once after an opening.
#[derive(Debug)]
pub(super) struct Mending {
    manifests: bool,
    /// Up to this position.
    segments: u64,
    /// What this opening has written is not looked at: the last position that had ended before.
    until: u64,
    turn: Duration,
}

impl Mending {
    pub(super) fn until(position: u64) -> Self {
        Self { manifests: false, segments: 0, until: position, turn: TURN }
    }

    /// Looks on for a while, and makes anew what is missing or damaged. Only what is in memory is verified, the rest by whoever
    /// comes to it. To ask for what is not may have the system read it, so that ends the turn: little is pushed out by this.
    pub(super) fn go_on(&mut self, inner: &Inner) {
        if !std::mem::replace(&mut self.manifests, true) {
            mend_manifests(inner);
        }
        let (begun, looked_at, until) = (Instant::now(), self.segments, self.until);
        let segments = inner.core.segments.load_full();
        let ended = segments.iter().filter_map(|segment| Some((segment, segment.entry()?)));
        let left = ended.skip_while(|(_, entry)| entry.last_position <= looked_at);
        for (segment, entry) in left.take_while(|(_, entry)| entry.last_position <= until) {
            if inner.stopping.load(Ordering::Acquire) || begun.elapsed() >= self.turn {
                return;
            }
            let looked = look(inner, segment, entry);
            self.segments = entry.last_position;
            match looked {
                Looked::Sound => {}
                Looked::Unseen => return,
                Looked::Unsound => mend_segment(inner, segment, entry),
            }
        }
    }
}

/// One that is missing, damaged or cannot be read, and is not the newest, is never asked.
fn mend_manifests(inner: &Inner) {
    let Ok(names) = recovery::list(inner.storage.as_ref()) else { return };
    let store = inner.sealing.lock().manifest.clone();
    let manifests = tiers::manifests(inner.storage.as_ref(), &names, &store);
    if tiers::unsound_manifests(&manifests).next().is_some() && renew_manifests(inner).is_err() {
        inner.sealing.lock().failures += 1;
    }
}

fn look(inner: &Inner, segment: &Segment, entry: &SegmentEntry) -> Looked {
    match segment.awaits_its_index_file() {
        true => Looked::Sound,
        false => sealed_index::look(inner.storage.as_ref(), entry, inner.core.hash),
    }
}

fn mend_segment(inner: &Inner, segment: &Segment, entry: &SegmentEntry) {
    // Whoever seals writes the file by the same name: what it was at may be done now.
    let _turn = inner.seal_turn.lock();
    if look(inner, segment, entry) != Looked::Unsound {
        return;
    }
    let (storage, mode, hash) = (inner.storage.as_ref(), inner.core.read_mode, inner.core.hash);
    match segment.replacing_index(|| rebuild_index_of(storage, entry, mode, hash)) {
        Ok(index) => {
            segment.set_index_if_open(index);
            inner.core.cache.note_rebuilt(index_name(entry.number));
            // What tiers and directory hold as well goes from it again.
            let mut shrunk = inner.merging.shrunk.lock();
            *shrunk = (*shrunk).min(entry.first_position.saturating_sub(1));
        }
        // A segment that is damaged says so to who reads it.
        Err(Error::NoSpace { .. } | Error::Io { .. }) => inner.sealing.lock().failures += 1,
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests;
