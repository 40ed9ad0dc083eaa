//! A store opened for reading alone: beside a writer, after one, or on a disk that cannot be written.
//!
//! Takes no lock and writes nothing. What it shows is fixed when it is opened or refreshed: in the durable view all up
//! to the newest mark, in the written view what a scan of segments and ring finds whole.

use std::borrow::Cow;
use std::sync::Arc;

use annals_format::manifest::{Manifest, SegmentEntry, SegmentState};
use annals_format::mark::MARK_LEN;
use arc_swap::ArcSwap;

use crate::Result;
use crate::compacted;
use crate::consumer::{self, Changes, ConsumerInfo, EndedConsumers, Lineage};
use crate::core::Core;
use crate::error::Error;
use crate::log::Log;
use crate::manifest;
use crate::mark::MARK_NAME;
use crate::name::NameHash;
use crate::options::{Options, View};
use crate::prepare::segment_numbers;
use crate::publish::Watermark;
use crate::reader::Reader;
use crate::recovery::{self, Doubt, Followed, LiveEnd};
use crate::removal::{self, Removals};
use crate::segment::{Closing, Rebuild, Segment, SegmentCache, SegmentIndex};
use crate::snapshot::Shelf;
use crate::storage::Storage;
use crate::tiers;

/// Reads a store without opening it for writing.
#[derive(Debug)]
pub struct ReadOnly {
    storage: Arc<dyn Storage>,
    options: Options,
    core: Arc<Core>,
    notices: Vec<String>,
    manifest: Manifest,
    /// Changes of consumers behind the listed segments.
    changes: Changes,
    /// Where the next look goes on, if the last one ended where one can.
    live: Option<LiveEnd>,
    /// Only where the written view was asked for.
    doubt: Option<Doubt>,
}

/// What a look at everything found.
struct Look {
    doubt: Option<Doubt>,
    core: Core,
    notices: Vec<String>,
    manifest: Manifest,
    changes: Changes,
    live: Option<LiveEnd>,
}

/// How often a look at a store that is being written is tried again when files changed under it.
const TRIES: usize = 20;

pub(crate) fn open(storage: Arc<dyn Storage>, options: Options) -> Result<ReadOnly> {
    let Look { doubt, core, notices, manifest, changes, live } =
        until_still(&*storage, || look_once(&storage, &options, None))?;
    Ok(ReadOnly { storage, options, core: Arc::new(core), notices, manifest, changes, live, doubt })
}

impl ReadOnly {
    /// A reader of the view that [`Options::view`] says, else of the store's default view; fixed at the last look.
    pub fn reader(&self) -> Reader {
        self.reader_in(self.options.view.unwrap_or_else(|| self.core.default_view()))
    }

    /// A reader of the view asked for, fixed at the last look. Where the opening asked for the written view
    /// ([`Options::view`]) and `MARK` is damaged, the durable view ends with what is still known to be durable.
    pub fn reader_in(&self, view: View) -> Reader {
        Reader::new(self.core.clone(), view)
    }

    /// Looks again for what was appended since. Readers made before keep what they show.
    ///
    /// Costs a few small reads when nothing came, else the reading of what came. Only where a segment ended, the store
    /// was opened for writing anew, or something is amiss, the live segment is scanned from its beginning. Damage that
    /// meanwhile befalls what an earlier look verified is found by the reading of it, and by the next opening.
    ///
    /// # Errors
    /// As [`Options::open_read_only`].
    pub fn refresh(&mut self) -> Result<()> {
        if let Some(live) = self.live.take() {
            match live.follow(&*self.storage) {
                Ok(Followed::Same(live)) => {
                    self.live = Some(live);
                    return Ok(());
                }
                Ok(Followed::Further(mut live)) => {
                    self.changes.append(&mut live.changes);
                    self.core = Arc::new(grown(&self.core, &live)?);
                    self.live = Some(live);
                    return Ok(());
                }
                Ok(Followed::Elsewhere) => {}
                Err(error) if may_be_movement(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let look = || look_once(&self.storage, &self.options, Some(&self.core));
        let Look { doubt, core, notices, manifest, changes, live } = until_still(&*self.storage, look)?;
        self.core = Arc::new(core);
        self.doubt = doubt;
        (self.manifest, self.changes) = (manifest, changes);
        self.notices = notices;
        self.live = live;
        Ok(())
    }

    /// `Corrupt` if it may be that more is durable than the durable view of the last look shows.
    pub(crate) fn refuse_doubt(&self) -> Result<()> {
        self.doubt.as_ref().map_or(Ok(()), |doubt| Err(doubt.error()))
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// All consumers as the log said at the last look, in byte order of their names: also what a power cut could still take
    /// back. `is_open` is not known here and false. Their lag is that behind the head of the default view.
    ///
    /// Reads the file of consumers beside the newest segment, and segments that have none yet.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` or `Io` if a segment that must be read for it cannot be.
    pub fn consumers(&self) -> Result<Vec<ConsumerInfo>> {
        let mut manifest = Cow::Borrowed(&self.manifest);
        let mut table = loop {
            let names = recovery::list(&*self.storage)?;
            match consumer::load_listed(&*self.storage, &names, &manifest) {
                // Compacted since the last look: the segments hold the same elsewhere.
                Err(error) if may_be_movement(&error) => {
                    let newest = manifest::load_current(&*self.storage)?;
                    let Some(newest) = newest.filter(|newest| newest.generation > manifest.generation) else {
                        return Err(error);
                    };
                    let was_listed = |entry: &SegmentEntry| {
                        self.manifest.segments.binary_search_by_key(&entry.number, |entry| entry.number).is_ok()
                    };
                    let segments: Vec<_> = newest.segments.into_iter().filter(was_listed).collect();
                    // Nothing of it has moved: this is damage, whatever else the writer is at.
                    if segments == manifest.segments {
                        return Err(error);
                    }
                    let generation = newest.generation;
                    manifest = Cow::Owned(Manifest { segments, generation, ..self.manifest.clone() });
                }
                found => break found?.table,
            }
        };
        consumer::apply(&mut table, &self.changes);
        Ok(consumer::listing(&table, self.reader().head()))
    }

    /// Oddities met that did no harm.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }
}

/// A writer at work may roll, seal or recover between our looking at one file and the next; then we look again.
pub(crate) fn until_still<T>(storage: &dyn Storage, mut look_once: impl FnMut() -> Result<T>) -> Result<T> {
    let mut tries = 0;
    let mut last: Option<(String, Vec<String>, Vec<u8>)> = None;
    loop {
        match look_once() {
            Err(error) if tries < TRIES && may_be_movement(&error) => {
                // Twice the same error over the same files and the same mark: nothing moves, this is damage.
                let mark = manifest::read_whole(storage, MARK_NAME, MARK_LEN as u64).unwrap_or_default();
                let seen = Some((error.to_string(), recovery::list(storage)?, mark));
                if seen == last {
                    return Err(error);
                }
                last = seen;
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(2 * tries as u64));
            }
            other => return other,
        }
    }
}

pub(crate) fn may_be_movement(error: &Error) -> bool {
    match error {
        Error::Corrupt(_) => true,
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn look_once(storage: &Arc<dyn Storage>, options: &Options, before: Option<&Core>) -> Result<Look> {
    let names = recovery::list(&**storage)?;
    let Some(manifest) = manifest::load_newest(&**storage, &names)? else {
        // What an interrupted creation left is no store yet; anything more has lost its manifest.
        recovery::check_creatable(&**storage, &names, false)?;
        let reason = "it holds no manifest".to_owned();
        return Err(Error::NotAStore { path: "the directory".to_owned(), reason });
    };
    let numbers = segment_numbers(&names);
    let found = recovery::find_end(&**storage, &manifest, &numbers)?;
    if options.view != Some(View::Written) {
        found.refuse_doubt()?;
    }
    let doubt = found.doubt();
    recovery::check_names(&manifest, &names)?;
    let hash = NameHash { seed: manifest.name_hash_seed };
    let cache = before.map(|core| core.cache.clone()).unwrap_or_else(|| {
        SegmentCache::new(storage.clone(), options.read_mode, hash, Rebuild::Memory, options.mapped_segments_max)
    });
    let mut segments: Vec<Arc<Segment>> = Vec::new();
    for entry in &manifest.segments {
        if let Some(known) = before.and_then(|core| sealed_before(core, entry)) {
            segments.push(known);
            continue;
        }
        segments.push(Arc::new(Segment::listed(entry, compacted::name_of(entry), &cache)));
    }
    let head = found.tail.last_position;
    let known_durable = found.known_durable.min(head);
    let last = (head, found.tail.last_time);
    // Whole batches beyond the end are judged anew each time, and so is what gave a notice.
    let is_plain = found.tail.beyond.is_empty() && found.notices.is_empty() && doubt.is_none();
    let mut live = None;
    for scanned in found.tail.segments {
        let index = scanned.index;
        let of_index = SegmentIndex::Active(index.clone());
        let mut segment = Segment::new(scanned.header, scanned.name, scanned.file, options.read_mode, of_index)?;
        if let Some(from) = scanned.from_ring {
            segment = segment.with_tail(from, scanned.bytes[from as usize..scanned.end as usize].to_vec());
        }
        let state = if scanned.end_mark.is_some() { SegmentState::Sealed } else { SegmentState::Cut };
        segment.close(Closing { end: scanned.end, state, tally: scanned.tally });
        let segment = Arc::new(segment);
        live = (is_plain && scanned.end_mark.is_none())
            .then(|| LiveEnd::new(&manifest, segment.clone(), index, last, known_durable));
        segments.push(segment);
    }
    // What of the index moves under us, or is damaged, is done without: the segments answer.
    let index = tiers::load(&**storage, &names, &manifest, options.read_mode);
    let (tiers, directory) = index.map(|loaded| (loaded.tiers, loaded.directory)).unwrap_or_default();
    let lineage = Lineage::of(&manifest);
    let run = manifest.incarnations.last().map_or([0; 16], |entry| entry.incarnation);
    // Within one run the log only grows; what another left may be less than was seen of it.
    let removals = before.map(|core| core.removals.clone()).filter(|removals| removals.is_of(run));
    let mut core = Core {
        log: Log::new(None, Watermark::fixed(head, known_durable)),
        segments: ArcSwap::from_pointee(segments.into()),
        tiers: ArcSwap::from_pointee(tiers),
        directory: ArcSwap::from_pointee(directory),
        cache,
        hash,
        recent_keys: Arc::default(),
        removals: removals.unwrap_or_else(|| Arc::new(Removals::new(hash, run))),
        removal_forbidden: manifest.removal_forbidden,
        limits: manifest.limits,
        default_durability: recovery::durability(manifest.default_durability),
        read_mode: options.read_mode,
        lineage,
        ended_consumers: EndedConsumers::default(),
        ids: None,
        lost: manifest.lost.as_slice().into(),
        snapshots: Shelf::of_reader(storage, &manifest, options.read_mode, before.map(|core| &core.snapshots)),
    };
    removal::load(&mut core)?;
    Ok(Look { doubt, core, notices: found.notices, manifest, changes: found.tail.changes, live })
}

/// The same with a longer live segment.
fn grown(core: &Core, live: &LiveEnd) -> Result<Core> {
    let mut segments = core.segments.load().to_vec();
    segments.pop();
    segments.push(live.segment.clone());
    let mut grown = Core {
        log: Log::new(None, Watermark::fixed(live.last_position, live.known_durable)),
        segments: ArcSwap::from_pointee(segments.into()),
        tiers: ArcSwap::new(core.tiers.load_full()),
        directory: ArcSwap::new(core.directory.load_full()),
        cache: core.cache.clone(),
        hash: core.hash,
        recent_keys: core.recent_keys.clone(),
        removals: core.removals.clone(),
        removal_forbidden: core.removal_forbidden,
        limits: core.limits,
        default_durability: core.default_durability,
        read_mode: core.read_mode,
        lineage: core.lineage.clone(),
        ended_consumers: EndedConsumers::default(),
        ids: None,
        lost: core.lost.clone(),
        snapshots: core.snapshots.clone(),
    };
    removal::load(&mut grown)?;
    Ok(grown)
}

/// A listed segment of an earlier look, which may be open. One that was compacted since is let go of.
pub(crate) fn sealed_before(core: &Core, entry: &SegmentEntry) -> Option<Arc<Segment>> {
    let segments = core.segments.load();
    let same = |segment: &&Arc<Segment>| {
        segment.entry() == Some(entry)
            // One that was followed while it was written lies at log offsets of that writer's run.
            && !segment.has_log_offsets()
    };
    segments.iter().find(same).cloned()
}
