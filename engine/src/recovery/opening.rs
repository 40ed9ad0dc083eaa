//! An opening under way: what was found becomes a store that can be written.

use std::sync::Arc;
use std::time::Instant;

use annals_format::checksum::Identity;
use annals_format::consumer::ConsumerTable;
use annals_format::manifest::{Manifest, SegmentEntry, SegmentState};
use annals_format::mark::Mark;
use annals_format::segment::{Link, SegmentHeader, SegmentKind};
use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::create::fill;
use super::end::{Found, find_end, is_clean};
use super::listed::{check_names, needs_seal};
use super::scan::Tail;
use super::writer_memory::load_ids;
use super::{RecoveryReport, durability};
use crate::active_index::IndexWriter;
use crate::background::{Committer, Sealing};
use crate::clock::WriterClock;
use crate::commit::Commit;
use crate::compacted;
use crate::compaction::{self, Retired};
use crate::consumer::{self, ConsumerMemory, EndedConsumers, Lineage, Recovered};
use crate::core::Core;
use crate::directory::MetStreams;
use crate::error::Error;
use crate::founding::UNFINISHED_NAME;
use crate::id_table::IdWriter;
use crate::log::Log;
use crate::made_id::MadeIds;
use crate::merging::Merging;
use crate::name::NameHash;
use crate::options::Options;
use crate::prepare::{Prepared, Preparer, SegmentPlan, index_name, segment_name, segment_numbers};
use crate::publish::{Lock, Watermark};
use crate::removal::{self, Removals};
use crate::segment::{Closing, Rebuild, RunningTally, Segment, SegmentCache, SegmentIndex};
use crate::snapshot::{self, Folds, Shelf, SnapshotWriter};
use crate::storage::{Access, Storage};
use crate::store::Inner;
use crate::tiers::{self, TierKeeper};
use crate::writer::{ActiveSegment, Writer, ask_first_at, begin_segment};
use crate::{Result, VERSION, manifest};

/// An opening under way: what was read, and what is decided.
pub(super) struct Opening {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) options: Options,
    pub(super) manifest: Manifest,
    pub(super) report: RecoveryReport,
}

/// The ended segments, and what the writer remembers of them.
struct Loaded {
    segments: Vec<Arc<Segment>>,
    cache: Arc<SegmentCache>,
    tiers: tiers::Loaded,
    ids: IdWriter,
    consumers: ConsumerTable,
}

/// The segment to go on with.
enum Live {
    Continue(Tail),
    Fresh(Box<ActiveSegment>),
}

impl Opening {
    /// `names` are those of the directory.
    pub(super) fn run(mut self, names: &[String], begun: Instant) -> Result<Inner> {
        // A store keeps its own durability, limits and sizes.
        self.options.durability = durability(self.manifest.default_durability);
        self.options.segment_bytes_max = self.manifest.segment_len_max;
        let numbers = segment_numbers(names);
        let found = find_end(&*self.storage, &self.manifest, &numbers)?;
        self.report.notices.extend(found.notices.iter().cloned());
        let Found { tail, mark, ring, known_durable, doubt, .. } = found;
        let clean = !self.report.created && is_clean(mark.as_ref(), &tail);
        self.report.clean = clean;
        if !clean && !self.report.created {
            // Whoever was killed may have put names in place that are not durable, the manifest's too: nothing is written
            // beside them that could outlive them.
            self.storage.sync_dir().map_err(|error| super::refuse_write("the directory", error))?;
        }

        let hash = NameHash { seed: self.manifest.name_hash_seed };
        let mut next_number = self.manifest.next_segment.max(numbers.last().map_or(0, |n| n + 1));
        next_number = next_number.max(mark.as_ref().map_or(0, |m| m.segment + 1));
        let session = ring.as_ref().map_or(1, |ring| ring.header.session + 1);

        check_names(&self.manifest, names)?;
        let options = &self.options;
        let (mode, most) = (options.read_mode, options.mapped_segments_max);
        let cache = SegmentCache::new(self.storage.clone(), mode, hash, Rebuild::Write, most);
        let mut listed = self.load_listed(cache, names)?;
        // Before anything is written: a segment that cannot be read must be found here.
        listed.consumers = self.consumers(names, &tail)?;
        let live = if clean || self.report.created || cfg!(annals_plant = "torn-tail-not-fenced") {
            Live::Continue(tail)
        } else {
            let rescued = self.rescue(tail, known_durable, &mut next_number, mark.as_ref(), hash)?;
            for segment in rescued.listed {
                load_ids(&segment, &mut listed.ids)?;
                listed.segments.push(segment);
            }
            Live::Fresh(Box::new(rescued.fresh))
        };
        self.sweep(&numbers, &live, &listed.segments);
        manifest::remove_unnamed(&*self.storage, names);
        compaction::remove_superseded(&*self.storage, names, &self.manifest);
        if names.iter().any(|name| name == UNFINISHED_NAME) {
            let _ = self.storage.remove(UNFINISHED_NAME);
        }
        // What stays is removed by the next opening.
        let _ = snapshot::remove_unlisted(&*self.storage, names, &self.manifest);
        let _ = tiers::remove_unnamed(&*self.storage, names, &listed.tiers.index);
        self.finish(live, listed, (mark, doubt.is_some()), session, next_number, begun)
    }

    /// Every segment of the manifest, and the tiers above them. Segments without a tier are touched, before anything is
    /// written: their ids are loaded, and a missing or damaged index is made anew.
    fn load_listed(&mut self, cache: Arc<SegmentCache>, names: &[String]) -> Result<Loaded> {
        let of_entry = |entry| Arc::new(Segment::listed(entry, compacted::name_of(entry), &cache));
        let segments: Vec<Arc<Segment>> = self.manifest.segments.iter().map(of_entry).collect();
        let tiers = tiers::load(&*self.storage, names, &self.manifest, self.options.read_mode)?;
        self.report.notices.extend(tiers.notices.iter().cloned());
        let mut ids = IdWriter::new();
        let without: Vec<_> = tiers.tiers.segments_without(&segments).collect();
        for (segment, done) in without.iter().zip(1..) {
            load_ids(segment, &mut ids)?;
            if let Some(progress) = self.options.index_progress.as_ref().filter(|_| cache.made() > 0) {
                progress.tell(done, without.len() as u64);
            }
        }
        self.report.rebuilt_indexes.extend(cache.take_rebuilt());
        Ok(Loaded { segments, cache, tiers, ids, consumers: ConsumerTable::default() })
    }

    /// Where the consumers stand at the end of the log: as the listed segments say, and the batches behind them, all of
    /// which are kept.
    fn consumers(&mut self, names: &[String], tail: &Tail) -> Result<ConsumerTable> {
        let Recovered { mut table, unusable, rebuilt, to_save } =
            consumer::load_listed(&*self.storage, names, &self.manifest)?;
        for (name, why) in unusable {
            let _ = self.storage.remove(&name);
            self.report.notices.push(format!("{name} is not used: {why}"));
        }
        if let Some(entry) = to_save {
            // Without it the next opening reads the same segments again.
            let _ = consumer::save(&*self.storage, self.manifest.store, &entry, table.clone());
        }
        self.report.rebuilt_indexes.extend(rebuilt);
        consumer::apply(&mut table, &tail.changes);
        Ok(table)
    }

    /// Removes files that are no part of the log: unused prepared segments, what was written anew, old indexes.
    fn sweep(&mut self, numbers: &[u64], live: &Live, listed: &[Arc<Segment>]) {
        let mut kept: Vec<u64> = listed.iter().map(|segment| segment.header.identity.segment).collect();
        match live {
            Live::Continue(tail) => kept.extend(tail.segments.iter().map(|s| s.header.identity.segment)),
            Live::Fresh(fresh) => kept.push(fresh.segment.header.identity.segment),
        }
        kept.sort_unstable();
        for number in numbers.iter().filter(|number| kept.binary_search(number).is_err()) {
            // The very first segment of a new store is begun by this opening.
            if self.report.created && *number == 1 {
                continue;
            }
            let name = segment_name(*number);
            if self.storage.remove(&name).is_ok() {
                self.report.set_aside.push(name);
            }
            let _ = self.storage.remove(&index_name(*number));
        }
    }

    /// Puts everything together, and makes the opening known on disk before anything is accepted. `mark` comes with whether a
    /// newer one may have been lost.
    fn finish(
        mut self,
        live: Live,
        listed: Loaded,
        mark: (Option<Mark>, bool),
        session: u64,
        next_number: u64,
        begun: Instant,
    ) -> Result<Inner> {
        let hash = NameHash { seed: self.manifest.name_hash_seed };
        let Loaded { mut segments, cache, tiers, mut ids, consumers } = listed;
        let shared_tiers = Arc::new(tiers.tiers);
        let begun_anew = matches!(&live, Live::Continue(tail) if tail.segments.is_empty());
        let active = match live {
            Live::Fresh(fresh) => *fresh,
            Live::Continue(tail) => self.continue_live(tail, &mut segments, &mut ids)?,
        };
        load_ids(&active.segment, &mut ids)?;
        let head = active.segment.first_position() - 1 + u64::from(active.index.index().record_count());
        // Not the manifest's: an ended segment may be missing there, when sealing it failed.
        let ended = segments.iter().filter_map(|segment| segment.closing());
        let times = ended.filter(|closing| !closing.tally.is_empty()).map(|closing| closing.tally.last_time);
        let last_time = times.chain([active.tally.total().last_time]).max().unwrap_or(0);
        let end = active.segment.header.base + active.offset;

        // The mark is moved and synced, without "clean", before the first byte of the log is written in this opening; the
        // ring is there before, since an unclean mark says that it may hold commits.
        let ring = self.open_ring(session, &active)?;
        let mark_file = self.write_mark(mark, &active, head, last_time)?;
        let mut watermark = Watermark::start(head, head, if begun_anew { active.segment.header.base } else { end });
        if let Some(control) = self.open_control(session, &active, head) {
            watermark = watermark.announced_by(Box::new(control));
        }
        let log = Log::new(Some(ring), watermark);
        log.add_extent(active.segment.header.base, active.segment.live_file(), &active.segment.name);
        self.load_ring_page(&log, &active, begun_anew)?;

        segments.push(active.segment.clone());
        let run = active.segment.header.identity.incarnation;
        let mut core = Core {
            log,
            segments: ArcSwap::from_pointee(segments.into()),
            tiers: ArcSwap::new(shared_tiers.clone()),
            directory: ArcSwap::from_pointee(tiers.directory),
            cache,
            hash,
            recent_keys: Arc::default(),
            removals: Arc::new(Removals::new(hash, run)),
            removal_forbidden: self.manifest.removal_forbidden,
            limits: self.manifest.limits,
            default_durability: self.options.durability,
            read_mode: self.options.read_mode,
            lineage: Lineage::of(&self.manifest),
            ended_consumers: EndedConsumers::default(),
            ids: Some(ids.table().clone()),
            lost: self.manifest.lost.as_slice().into(),
            snapshots: Shelf::of_writer(self.storage.clone(), &self.manifest, self.options.read_mode),
        };
        removal::load(&mut core)?;
        let core = Arc::new(core);
        let plan = SegmentPlan {
            store: self.manifest.store,
            incarnation: active.segment.header.identity.incarnation,
            len_max: self.options.segment_bytes_max,
            quota: self.manifest.quota_bytes,
            fill: fill(&self.options),
        };
        let len = |segment: &Arc<Segment>| segment.entry().map_or(segment.header.segment_len, SegmentEntry::file_len);
        let total = core.segments.load().iter().map(len).sum::<u64>()
            + self.manifest.snapshots.iter().map(|entry| entry.len).sum::<u64>();
        let preparer = Arc::new(Preparer::new(self.storage.clone(), plan, next_number, total));
        preparer.set_manifest_generation(self.manifest.generation);
        let unsealed: Vec<_> = core.segments.load().iter().filter(|s| needs_seal(s, &self.manifest)).cloned().collect();
        for segment in unsealed {
            preparer.enqueue_seal(segment);
        }
        let writer = Writer {
            core: core.clone(),
            clock: WriterClock::new(self.options.clock.clone()),
            preparer: preparer.clone(),
            active,
            head,
            end,
            last_time,
            streams: MetStreams::new(hash, head),
            ids,
            in_tiers_up_to: shared_tiers.iter().last().map_or(0, |tier| tier.last_position()),
            tiers: shared_tiers,
            made_ids: MadeIds::new()?,
            staging: Vec::with_capacity(64 << 10),
            staged: Vec::with_capacity(1024),
            ended: Vec::new(),
            consumers: Box::new(ConsumerMemory::new(consumers)),
            clock_steps_back: 0,
            content_key: self.manifest.content_hash_key,
        };
        let snapshots = SnapshotWriter::new(&self.manifest, self.report.clean);
        self.report.duration = begun.elapsed();
        let committer = Committer::new(&self.options);
        committer.set_durable_end(end);
        Ok(Inner {
            core,
            storage: self.storage,
            stream_room: writer.streams.ahead(),
            writer: Lock::new(writer).into(),
            commit: Commit::new(mark_file),
            preparer,
            committer: committer.into(),
            sealing: Mutex::new(Sealing { manifest: self.manifest, failures: 0 }),
            tier_keeper: Mutex::new(TierKeeper::new(tiers.index, self.options.read_mode, tiers.is_stale)),
            merging: Merging::default(),
            snapshots,
            options: self.options,
            report: self.report,
            seal_turn: Mutex::default(),
            folds: Folds::default(),
            compacting: Mutex::default(),
            retired: Retired::default(),
            stopping: false.into(),
        })
    }

    /// The live segment of a clean close, or the first one of a new store.
    fn continue_live(&self, tail: Tail, segments: &mut Vec<Arc<Segment>>, ids: &mut IdWriter) -> Result<ActiveSegment> {
        let mut live = None;
        for scanned in tail.segments {
            let header = scanned.header.clone();
            let index = scanned.index;
            let of_index = SegmentIndex::Active(index.clone());
            let segment = Segment::new(header, scanned.name, scanned.file, self.options.read_mode, of_index)?;
            if scanned.end_mark.is_some() {
                segment.close(Closing { end: scanned.end, state: SegmentState::Sealed, tally: scanned.tally });
                let segment = Arc::new(segment);
                load_ids(&segment, ids)?;
                segments.push(segment);
            } else {
                let segment = Arc::new(segment.written_here());
                let ask_at = ask_first_at(segment.header.segment_len);
                live = Some(ActiveSegment {
                    segment,
                    index: IndexWriter::new(index),
                    offset: scanned.end,
                    ask_at,
                    tally: RunningTally::new(scanned.tally),
                });
            }
        }
        live.map_or_else(|| self.first_segment(), Ok)
    }

    /// The first segment of a new store: its file was made with the store, its header goes through the ring.
    fn first_segment(&self) -> Result<ActiveSegment> {
        let name = segment_name(1);
        let file = self.storage.open(&name, Access::ReadWrite).map_err(Error::io("open", &name))?;
        let len = file.len().map_err(Error::io("measure", &name))?;
        let incarnation = self.manifest.incarnations.last().expect("a manifest lists one").incarnation;
        let identity = Identity { store: self.manifest.store, incarnation, segment: 1 };
        let header = self.live_header(identity, len, 1, None, self.manifest.created_at);
        let prepared = Prepared { identity, name, file, len };
        begin_segment(self.options.read_mode, header, prepared, 1024, None)
    }

    /// Header of a segment that this opening begins: the ring begins with it.
    pub(super) fn live_header(
        &self,
        identity: Identity,
        segment_len: u64,
        first_position: u64,
        previous: Option<Link>,
        created_at: u64,
    ) -> SegmentHeader {
        SegmentHeader {
            identity,
            generation: 0,
            manifest_generation: self.manifest.generation,
            segment_len,
            base: 0,
            first_position,
            previous,
            created_at,
            written_by: VERSION,
            kind: SegmentKind::Live,
        }
    }
}
