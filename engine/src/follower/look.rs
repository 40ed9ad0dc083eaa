//! A look at everything: what a follower begins with, and comes back to when the log does not simply go on.

use std::sync::Arc;

use annals_format::manifest::SegmentState;
use annals_format::segment::SEGMENT_HEADER_LEN;
use arc_swap::ArcSwap;

use super::tail::{Basis, Beginning, Live, LogTail, Progress, new_index};
use super::watched::{WatchedMark, WatchedRing};
use crate::Result;
use crate::compacted;
use crate::consumer;
use crate::core::Core;
use crate::error::Error;
use crate::log::Log;
use crate::manifest;
use crate::name::NameHash;
use crate::options::{Options, View};
use crate::prepare::segment_numbers;
use crate::publish::Watermark;
use crate::read_only::sealed_before;
use crate::recovery;
use crate::removal::{self, Removals};
use crate::ring::Ring;
use crate::segment::{Closing, Rebuild, Segment, SegmentCache, SegmentIndex};
use crate::snapshot::Shelf;
use crate::storage::{SharedMap, Storage};
use crate::tiers;

/// What a look at everything found.
pub(super) struct Look {
    pub(super) tail: LogTail,
    pub(super) notices: Vec<String>,
}

/// Looks once; `before` may hold segments that need not be opened again. An error may mean that files moved meanwhile.
pub(super) fn look(storage: &Arc<dyn Storage>, options: &Options, view: View, before: Option<&Core>) -> Result<Look> {
    // Before everything else: what moves it later is seen by it.
    let mark = WatchedMark::open(&**storage, options.read_mode)?;
    let newest = mark.newest()?;
    let marked = newest.as_ref().map(|mark| (mark.store, mark.incarnation));
    let sequence = newest.map_or(0, |mark| mark.sequence);
    let names = recovery::list(&**storage)?;
    let Some(manifest) = manifest::load_newest(&**storage, &names)? else {
        recovery::check_creatable(&**storage, &names, false)?;
        let reason = "it holds no manifest".to_owned();
        return Err(Error::NotAStore { path: "the directory".to_owned(), reason });
    };
    let numbers = segment_numbers(&names);
    let found = recovery::find_end(&**storage, &manifest, &numbers)?;
    // A kill may leave a torn mark as well: who follows already waits for the next writer.
    if view == View::Durable && before.is_none() {
        found.refuse_doubt()?;
    }
    recovery::check_names(&manifest, &names)?;
    let hash = NameHash { seed: manifest.name_hash_seed };
    let mode = options.read_mode;
    let cache = before.map(|core| core.cache.clone()).unwrap_or_else(|| {
        SegmentCache::new(storage.clone(), mode, hash, Rebuild::Memory, options.mapped_segments_max)
    });
    let mut segments: Vec<Arc<Segment>> = Vec::new();
    for entry in &manifest.segments {
        let known = before.and_then(|core| sealed_before(core, entry));
        let listed = || Arc::new(Segment::listed(entry, compacted::name_of(entry), &cache));
        segments.push(known.unwrap_or_else(listed));
    }
    let (head, last_time) = (found.tail.last_position, found.tail.last_time);
    let durable = found.known_durable.min(head);
    let listed = manifest.segments.last();
    let mut last = (listed.map_or(0, |entry| entry.last_position), listed.map_or(0, |entry| entry.last_time));
    let mut unlisted = Vec::new();
    let mut live = None;
    let mut end = 0;
    for scanned in found.tail.segments {
        if scanned.from_ring.is_some() {
            // What only the ring holds is found again from there, and kept.
            let index = new_index(scanned.header.segment_len);
            let of_index = SegmentIndex::Active(index.clone());
            let segment = Segment::new(scanned.header, scanned.name, scanned.file, mode, of_index)?.written_here();
            let segment = Arc::new(segment);
            segments.push(segment.clone());
            end = segment.header.base + SEGMENT_HEADER_LEN as u64;
            live = Some(Live::begin(segment, index));
            break;
        }
        let index = scanned.index;
        let of_index = SegmentIndex::Active(index.clone());
        let segment = Segment::new(scanned.header, scanned.name, scanned.file, mode, of_index)?.written_here();
        let segment = Arc::new(segment);
        segments.push(segment.clone());
        end = segment.header.base + scanned.end;
        if scanned.tally.last_position > 0 {
            last = (scanned.tally.last_position, scanned.tally.last_time);
        }
        let next = scanned.end_mark.map(|mark| mark.next_segment);
        live = Some(Live::go_on(segment.clone(), index, scanned.end, scanned.tally, next));
        if next.is_some() {
            // The one that follows it, if there is one, takes its place.
            segment.close(Closing { end: scanned.end, state: SegmentState::Sealed, tally: scanned.tally });
            unlisted.push(segment);
        }
    }
    // The last one that has ended is still the one to go on from.
    if let Some(live) = &live {
        unlisted.retain(|segment| !Arc::ptr_eq(segment, &live.segment));
    }
    let incarnation = manifest.incarnations.last().map_or([0; 16], |entry| entry.incarnation);
    let basis = Basis { store: manifest.store, incarnation, marked };
    // Without a segment to go on in, there is nothing that the ring could hold of it.
    let ring = match &live {
        Some(_) => WatchedRing::open(&**storage, mode, manifest.store, incarnation)?,
        None => None,
    };
    let kept = ring.as_ref().map(|ring| SharedMap::anonymous(ring.len() as usize)).transpose();
    let kept = kept.map_err(Error::io("keep", "the ring"))?.map(|memory| Ring::new(memory, 0, false));
    // What of the index moves under us, or is damaged, is done without: the segments answer.
    let index = tiers::load(&**storage, &names, &manifest, mode);
    let (tiers, directory) = index.map(|loaded| (loaded.tiers, loaded.directory)).unwrap_or_default();
    let shown = if view == View::Durable { durable.min(last.0) } else { last.0 };
    let mut core = Core {
        log: Log::new(kept, Watermark::start(shown, durable.min(last.0), end)),
        segments: ArcSwap::from_pointee(segments.into()),
        tiers: ArcSwap::from_pointee(tiers),
        directory: ArcSwap::from_pointee(directory),
        cache,
        hash,
        recent_keys: Arc::default(),
        removals: Arc::new(Removals::new(hash, incarnation)),
        removal_forbidden: manifest.removal_forbidden,
        limits: manifest.limits,
        default_durability: recovery::durability(manifest.default_durability),
        read_mode: mode,
        lineage: consumer::Lineage::of(&manifest),
        ended_consumers: consumer::EndedConsumers::default(),
        ids: None,
        lost: manifest.lost.as_slice().into(),
        snapshots: Shelf::of_reader(storage, &manifest, mode, before.map(|core| &core.snapshots)),
    };
    removal::load(&mut core)?;
    let mut tail = LogTail::new(Beginning {
        core: Arc::new(core),
        basis,
        storage: storage.clone(),
        view,
        mark,
        ring,
        sequence,
        live,
        unlisted,
        last_position: last.0,
        last_time: last.1.max(if last.0 == head { last_time } else { 0 }),
    });
    while tail.advance()? == Progress::Further {}
    // What a batch says was durable counts as well, and may lie beyond a mark that a power cut took back.
    while tail.last_position() < durable && tail.take_written(durable)? == Progress::Further {}
    if tail.last_position() < durable {
        let what = format!("positions up to {durable} were known to be durable, and are not found again");
        return Err(Error::corrupt("the log", 0, Some(tail.last_position() + 1), what));
    }
    tail.show(durable);
    tail.mind_the_distance();
    Ok(Look { tail, notices: found.notices })
}
