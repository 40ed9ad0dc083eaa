//! Opening a store for writing: create it, or find where its log ends and make that end safe to go on from.
//!
//! After anything but a clean close nothing above the newest mark is trusted to be on disk, whatever the page cache
//! shows. The whole batches found there are written anew into a fresh segment and synced before anything is shown. The
//! new manifest is the moment at which recovery has happened; a crash before it leaves everything as it was.

pub(crate) mod scan;

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_format::batch::{BATCH_HEADER_LEN, BatchEncoder, BatchHeader};
use annals_format::checksum::Identity;
use annals_format::manifest::{DurabilityKind, IncarnationEntry, Manifest, SegmentEntry, SegmentState};
use annals_format::mark::Mark;
use annals_format::record::Record;
use annals_format::ring::{RING_HEADER_LEN, RingHeader};
use annals_format::segment::{END_MARK_LEN, Link, SEGMENT_HEADER_LEN, SegmentHeader, SegmentKind};
use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::active_index::{ActiveIndex, Expected, IndexWriter};
use crate::append::Durability;
use crate::background::{Committer, Sealing};
use crate::commit::Commit;
use crate::core::Core;
use crate::directory::{Directory, StreamTip};
use crate::error::Error;
use crate::id_table::IdTable;
use crate::log::{Log, page_ceiling, page_floor};
use crate::made_id::{MadeIds, random_bytes};
use crate::mark::{MARK_NAME, MarkFile};
use crate::name::NameHash;
use crate::options::{Options, ReadMode};
use crate::prepare::{Preparer, SegmentPlan, index_name, no_room, segment_name, segment_number};
use crate::ring::Ring;
use crate::sealed_index::SealedIndex;
use crate::segment::{Closing, Segment, SegmentIndex, Tally};
use crate::storage::{Access, Fill, LockError, SharedMap, Storage};
use crate::store::{Inner, Store};
use crate::watermark::Watermark;
use crate::writer::{ActiveSegment, Writer, begin_segment};
use crate::{Result, VERSION, manifest};

use scan::{RING_NAME, RingImage, Scanned, Scanner, Stop, Tail};

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The store was made by this opening.
    pub created: bool,
    /// The store had been closed cleanly.
    pub clean: bool,
    /// Batches above the newest mark that were found whole and written anew.
    pub kept_batches: u64,
    /// Events in them.
    pub kept_events: u64,
    /// Bytes of a torn tail that were left behind.
    pub cut_bytes: u64,
    /// Whole batches beyond a torn one: never acknowledged as durable, not kept.
    pub dropped_batches: u64,
    /// Index files that were made anew.
    pub rebuilt_indexes: Vec<String>,
    /// Files that no longer belong to the log and were put aside or removed.
    pub set_aside: Vec<String>,
    /// Oddities that did no harm, such as a mark slot that did not verify.
    pub notices: Vec<String>,
    /// How long opening took.
    pub duration: Duration,
}

pub(crate) fn open(storage: Arc<dyn Storage>, options: Options) -> Result<Store> {
    let begun = Instant::now();
    options.limits.check().map_err(|_| Error::invalid("limits beyond what the format allows", None))?;
    let names = list(&*storage)?;
    let is_new = manifest::load_newest(&*storage, &names)?.is_none();
    if is_new {
        check_creatable(&*storage, &names, options.create)?;
    }
    let lock = storage.lock().map_err(lock_refused)?;
    let mut report = RecoveryReport::default();
    // Looked at again under the lock: another process may have been at work.
    let names = list(&*storage)?;
    let manifest = match manifest::load_newest(&*storage, &names)? {
        Some(manifest) => manifest,
        None => {
            check_creatable(&*storage, &names, options.create)?;
            report.created = true;
            create(&*storage, &names, &options)?
        }
    };
    let inner = Opening { storage, options, manifest, report }.run(begun)?;
    Ok(Store::start(inner, lock))
}

pub(crate) fn list(storage: &dyn Storage) -> Result<Vec<String>> {
    storage.list().map_err(Error::io("list", "the directory"))
}

fn lock_refused(error: LockError) -> Error {
    match error {
        LockError::Held { pid } => Error::Locked { pid },
        LockError::Io(source) if is_denied(&source) => Error::ReadOnly { reason: format!("LOCK: {source}") },
        LockError::Io(source) => no_room("LOCK", source),
        #[allow(unreachable_patterns, reason = "the enum may grow")]
        _ => Error::Locked { pid: None },
    }
}

pub(crate) fn is_denied(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem)
}

/// Without a manifest a directory may become a store only if it is empty or holds what an interrupted creation left.
pub(crate) fn check_creatable(storage: &dyn Storage, names: &[String], create: bool) -> Result<()> {
    let not_a_store = |reason: String| Error::NotAStore { path: "the directory".to_owned(), reason };
    for name in names {
        let ours = matches!(name.as_str(), "LOCK" | "MARK" | "RING" | "manifest-00000000000000000001.new")
            || segment_number(name) == Some((1, false));
        if !ours {
            let is_file_of_a_store = segment_number(name).is_some();
            if is_file_of_a_store {
                return Err(Error::corrupt(name, 0, None, "the store's manifest is missing"));
            }
            return Err(not_a_store(format!("it holds {name:?} and no manifest")));
        }
    }
    let began = |name: &str, len: u64| -> Result<bool> {
        if !names.iter().any(|n| n == name) {
            return Ok(false);
        }
        let mut head = vec![0; len as usize];
        let file = storage.open(name, Access::Read).map_err(Error::io("open", name))?;
        let got = file.read_at(0, &mut head).map_err(Error::io("read", name))?;
        Ok(head[..got].iter().any(|byte| *byte != 0))
    };
    // The mark and the first segment are zeros until the manifest is durable.
    if began(MARK_NAME, 8192)? || began(&segment_name(1), SEGMENT_HEADER_LEN as u64)? {
        return Err(Error::corrupt(&manifest::file_name(1), 0, None, "the store's manifest is missing"));
    }
    if !create {
        return Err(not_a_store("it holds no manifest".to_owned()));
    }
    Ok(())
}

/// Makes the files of a new store; its manifest, written last, is the moment of its birth.
fn create(storage: &dyn Storage, names: &[String], options: &Options) -> Result<Manifest> {
    for name in names.iter().filter(|name| name.as_str() != "LOCK") {
        storage.remove(name).map_err(|error| refuse_write(name, error))?;
    }
    let store = random_bytes()?;
    let incarnation = random_bytes()?;
    MarkFile::create(storage)?;
    let ring = storage
        .create(RING_NAME, RING_HEADER_LEN as u64 + options.ring_bytes, Fill::Zeroed)
        .map_err(|error| no_room(RING_NAME, error))?;
    ring.sync().map_err(Error::io("sync", RING_NAME))?;
    let len = options.segment_bytes_first.min(options.segment_bytes_max);
    if let Some(quota) = options.quota_bytes.filter(|quota| len > *quota) {
        let reason = format!("the store's quota of {quota} bytes does not allow a segment of {len}");
        return Err(Error::NoSpace { action: "creating the store", reason });
    }
    let first = storage.create(&segment_name(1), len, fill(options)).map_err(|error| no_room("segment 1", error))?;
    first.sync().map_err(Error::io("sync", segment_name(1)))?;
    storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
    let manifest = Manifest {
        store,
        generation: 1,
        written_by: VERSION,
        default_durability: match options.durability {
            Durability::Durable => DurabilityKind::Durable,
            Durability::Buffered => DurabilityKind::Buffered,
        },
        removal_forbidden: options.removal_forbidden,
        name_hash_seed: u64::from_le_bytes(random_bytes()?[..8].try_into().expect("eight bytes")),
        content_hash_key: random_bytes()?,
        created_at: options.clock.now(),
        segment_len_max: options.segment_bytes_max,
        quota_bytes: options.quota_bytes,
        limits: options.limits,
        next_segment: 2,
        incarnations: vec![IncarnationEntry { incarnation, first_position: 1 }],
        segments: Vec::new(),
    };
    manifest::save(storage, &manifest)?;
    Ok(manifest)
}

fn refuse_write(name: &str, error: std::io::Error) -> Error {
    if is_denied(&error) {
        return Error::ReadOnly { reason: format!("{name}: {error}") };
    }
    Error::io("write", name)(error)
}

/// Zeroed segments sync faster; a `Buffered` store appends faster than zeros could be written.
fn fill(options: &Options) -> Fill {
    match options.durability {
        Durability::Durable => Fill::Zeroed,
        Durability::Buffered => Fill::Allocated,
    }
}

pub(crate) fn segment_entry(segment: &Segment, closing: &Closing) -> SegmentEntry {
    let header = &segment.header;
    let tally = &closing.tally;
    SegmentEntry {
        number: header.identity.segment,
        generation: header.generation,
        incarnation: header.identity.incarnation,
        store: header.identity.store,
        len: header.segment_len,
        end: closing.end,
        first_position: header.first_position,
        // A segment without a record ends before it begins.
        last_position: tally.last_position.max(header.first_position - 1),
        first_time: tally.first_time,
        last_time: tally.last_time,
        final_checksum: tally.final_checksum.value(),
        state: closing.state,
        kind: header.kind,
        event_count: tally.event_count,
    }
}

/// An opening under way: what was read, and what is decided.
struct Opening {
    storage: Arc<dyn Storage>,
    options: Options,
    manifest: Manifest,
    report: RecoveryReport,
}

impl Opening {
    fn run(mut self, begun: Instant) -> Result<Inner> {
        // A store keeps its own durability, limits and sizes.
        self.options.durability = durability(self.manifest.default_durability);
        self.options.segment_bytes_max = self.manifest.segment_len_max;
        let names = list(&*self.storage)?;
        let mut numbers: Vec<u64> =
            names.iter().filter_map(|n| segment_number(n)).filter(|n| !n.1).map(|n| n.0).collect();
        numbers.sort_unstable();
        let found = find_end(&*self.storage, &self.manifest, &numbers)?;
        self.report.notices.extend(found.notices.iter().cloned());
        let Found { tail, mark, ring, known_durable, .. } = found;
        let clean = !self.report.created && is_clean(mark.as_ref(), &tail);
        self.report.clean = clean;

        let hash = NameHash { seed: self.manifest.name_hash_seed };
        let mut next_number = self.manifest.next_segment.max(numbers.last().map_or(0, |n| n + 1));
        next_number = next_number.max(mark.as_ref().map_or(0, |m| m.segment + 1));
        let session = ring.as_ref().map_or(1, |ring| ring.header.session + 1);

        let mut segments = self.open_listed(hash)?;
        let live = if clean || self.report.created || cfg!(annals_plant = "torn-tail-not-fenced") {
            Live::Continue(tail)
        } else {
            let rescued = self.rescue(tail, known_durable, &mut next_number, mark.as_ref(), hash)?;
            segments.extend(rescued.listed);
            Live::Fresh(rescued.fresh)
        };
        self.sweep(&numbers, &live, &segments);
        self.finish(live, segments, hash, mark, session, next_number, begun)
    }

    /// Every segment of the manifest, with its index; a missing or damaged index is made anew.
    fn open_listed(&mut self, hash: NameHash) -> Result<Vec<Arc<Segment>>> {
        let mut segments = Vec::new();
        for entry in &self.manifest.segments {
            let (segment, rebuilt) =
                open_listed_segment(&*self.storage, entry, self.options.read_mode, hash, Rebuild::Write)?;
            self.report.rebuilt_indexes.extend(rebuilt);
            segments.push(Arc::new(segment));
        }
        Ok(segments)
    }

    /// Cuts the log at its newest mark and writes the whole batches above it anew.
    fn rescue(
        &mut self,
        tail: Tail,
        known_durable: u64,
        next_number: &mut u64,
        mark: Option<&Mark>,
        hash: NameHash,
    ) -> Result<Rescued> {
        self.report.dropped_batches = tail.beyond.len() as u64;
        let keeps_all = cfg!(annals_plant = "recovery-keeps-unsynced-bytes");
        let mut trusted = if keeps_all { tail.last_position } else { known_durable };
        let mut first_kept = self.manifest.segments.last().map_or(0, |entry| entry.last_position) + 1;
        let mut listed = Vec::new();
        let mut kept: Vec<(Vec<u8>, SegmentHeader)> = Vec::new();
        let mut link =
            self.manifest.segments.last().map(|e| Link { number: e.number, final_checksum: e.final_checksum });
        let last_position = tail.last_position;
        for scanned in tail.segments {
            // From the first byte on that the ring had to supply, nothing is left to the files, although it was synced
            // once: the ring will not hold it for long.
            let (below, above) = split_at_position(&scanned, trusted, scanned.from_ring.unwrap_or(u64::MAX));
            if scanned.from_ring.is_some() {
                trusted = 0;
            }
            self.report.cut_bytes += torn_len(&scanned);
            if let Some(tally) = below.filter(|tally| tally.batch_count > 0) {
                // An end mark found above the newest mark may be in the ring or the page cache alone.
                let state = SegmentState::Cut;
                let end = scanned.end - above.len() as u64;
                link = Some(Link {
                    number: scanned.header.identity.segment,
                    final_checksum: tally.final_checksum.value(),
                });
                first_kept = tally.last_position + 1;
                let header = scanned.header.clone();
                let of_index = SegmentIndex::Active(index_below(&scanned, end, hash)?);
                let segment =
                    Segment::new(header, scanned.name.clone(), scanned.file.clone(), self.options.read_mode, of_index)?;
                segment.close(Closing { end, state, tally });
                listed.push(Arc::new(segment));
            }
            if !above.is_empty() {
                kept.push((above, scanned.header));
            }
        }
        let fresh = self.write_anew(&kept, link, first_kept - 1, next_number, hash)?;
        for segment in &listed {
            let closing = segment.closing().expect("closed above");
            self.manifest.segments.push(segment_entry(segment, closing));
        }
        let incarnation = fresh.segment.header.identity.incarnation;
        self.manifest.incarnations.push(IncarnationEntry { incarnation, first_position: last_position + 1 });
        self.manifest.generation += 1;
        self.manifest.generation = self.manifest.generation.max(mark.map_or(0, |m| m.manifest_generation));
        self.manifest.next_segment = *next_number;
        self.manifest.written_by = VERSION;
        manifest::save(&*self.storage, &self.manifest)?;
        Ok(Rescued { listed, fresh })
    }

    /// A fresh, synced segment that holds the kept batches and nothing else.
    fn write_anew(
        &mut self,
        kept: &[(Vec<u8>, SegmentHeader)],
        link: Option<Link>,
        trusted: u64,
        next_number: &mut u64,
        hash: NameHash,
    ) -> Result<ActiveSegment> {
        let kept_len: u64 = kept.iter().map(|(bytes, _)| bytes.len() as u64).sum();
        let needed = page_ceiling((SEGMENT_HEADER_LEN + END_MARK_LEN) as u64 + kept_len);
        let len = self.options.segment_bytes_first.min(self.options.segment_bytes_max).max(needed);
        let identity = Identity { store: self.manifest.store, incarnation: random_bytes()?, segment: *next_number };
        *next_number += 1;
        let name = segment_name(identity.segment);
        let file = self.storage.create(&name, len, fill(&self.options)).map_err(|error| no_room(&name, error))?;
        let header = SegmentHeader {
            identity,
            generation: 0,
            manifest_generation: self.manifest.generation,
            segment_len: len,
            base: 0,
            first_position: trusted + 1,
            previous: link,
            created_at: self.options.clock.now(),
            written_by: VERSION,
            kind: SegmentKind::Live,
        };
        let prepared = crate::prepare::Prepared { identity, name: name.clone(), file: file.clone(), len };
        let mut active = begin_segment(self.options.read_mode, header.clone(), prepared, 1024, None)?;
        let mut bytes = header.encode().to_vec();
        for (batches, old) in kept {
            self.encode_anew(batches, old, trusted, &mut bytes, &mut active, hash)?;
        }
        let io = |error| no_room(&name, error);
        file.write_at(0, &[IoSlice::new(&bytes)]).map_err(io)?;
        file.sync().map_err(Error::io("sync", &name))?;
        self.storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
        Ok(active)
    }

    /// Encodes the batches of `old` for the new segment: same positions, revisions, times, ids.
    fn encode_anew(
        &mut self,
        batches: &[u8],
        old: &SegmentHeader,
        trusted: u64,
        bytes: &mut Vec<u8>,
        active: &mut ActiveSegment,
        hash: NameHash,
    ) -> Result<()> {
        let seed = active.segment.seed;
        let mut at = 0;
        let mut staging = Vec::new();
        while at < batches.len() {
            let name = segment_name(old.identity.segment);
            let damaged = |fault: annals_format::Fault| Error::damaged(&name, at as u64, None, &fault, old.written_by);
            let header = BatchHeader::decode(&batches[at..], old.seed()).map_err(damaged)?;
            staging.clear();
            let mut batch = BatchEncoder::begin(&mut staging, seed, header.first_position);
            annals_format::scan::verify_batch(&batches[at..], &header, old.seed(), |_, _, record| match record {
                Record::Event(event) => {
                    let tags: Vec<&str> = event.tags().collect();
                    batch.event(&event.parts(&tags), event.revision());
                }
                Record::Control(control) => {
                    batch.control(&control);
                }
            })
            .map_err(damaged)?;
            let new = batch.finish(header.recorded_at, trusted, header.as_batch);
            let controls =
                scan::index_batch(&mut active.index, hash, &staging, &new, seed, active.offset).map_err(damaged)?;
            active.tally.add(&new, &staging, controls);
            active.offset += staging.len() as u64;
            bytes.extend_from_slice(&staging);
            self.report.kept_batches += 1;
            self.report.kept_events += u64::from(new.record_count) - controls;
            at += header.len();
        }
        Ok(())
    }

    /// Removes files that are no part of the log: unused prepared segments, what was written anew, old indexes.
    fn sweep(&mut self, numbers: &[u64], live: &Live, listed: &[Arc<Segment>]) {
        let mut kept: Vec<u64> = listed.iter().map(|segment| segment.header.identity.segment).collect();
        match live {
            Live::Continue(tail) => kept.extend(tail.segments.iter().map(|s| s.header.identity.segment)),
            Live::Fresh(fresh) => kept.push(fresh.segment.header.identity.segment),
        }
        for number in numbers.iter().filter(|number| !kept.contains(number)) {
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

    /// Puts everything together, and makes the opening known on disk before anything is accepted.
    #[expect(clippy::too_many_arguments, reason = "all that opening found, used once")]
    fn finish(
        mut self,
        live: Live,
        mut segments: Vec<Arc<Segment>>,
        hash: NameHash,
        mark: Option<Mark>,
        session: u64,
        next_number: u64,
        begun: Instant,
    ) -> Result<Inner> {
        let mut directory = Directory::new(hash);
        let ids = IdTable::new();
        let watermark_log = Log::of_files();
        for segment in &segments {
            load_streams_and_ids(segment, &watermark_log, &mut directory, &ids)?;
        }
        let begun_anew = matches!(&live, Live::Continue(tail) if tail.segments.is_empty());
        let active = match live {
            Live::Fresh(fresh) => fresh,
            Live::Continue(tail) => self.continue_live(tail, &mut segments, &mut directory, &ids, hash)?,
        };
        load_active(&active.segment, active.index.index(), &watermark_log, &mut directory, &ids)?;
        let head = active.segment.first_position() - 1 + u64::from(active.index.index().record_count());
        // Not the manifest's: an ended segment may be missing there, when sealing it failed.
        let ended = segments.iter().filter_map(|segment| segment.closing());
        let times = ended.filter(|closing| closing.tally.batch_count > 0).map(|closing| closing.tally.last_time);
        let last_time = times.chain([active.tally.last_time]).max().unwrap_or(0);
        let end = active.segment.header.base + active.offset;

        // The mark is moved and synced, without "clean", before the first byte of the log is written in this opening; the
        // ring is there before, since an unclean mark says that it may hold commits.
        let ring = self.open_ring(session, &active)?;
        let mark_file = self.write_mark(mark, &active, head, last_time)?;
        let log = Log::new(
            Some(ring),
            Watermark::start(head, head, if begun_anew { active.segment.header.base } else { end }),
        );
        log.add_extent(active.segment.header.base, active.segment.file.clone(), &active.segment.name);
        self.load_ring_page(&log, &active, begun_anew)?;

        segments.push(active.segment.clone());
        let ids = Arc::new(ids);
        let core = Arc::new(Core {
            log,
            segments: ArcSwap::from_pointee(segments),
            hash,
            limits: self.manifest.limits,
            default_durability: self.options.durability,
            read_mode: self.options.read_mode,
            ids: Some(ids.clone()),
        });
        let plan = SegmentPlan {
            store: self.manifest.store,
            incarnation: active.segment.header.identity.incarnation,
            len_max: self.options.segment_bytes_max,
            quota: self.manifest.quota_bytes,
            fill: fill(&self.options),
        };
        let total = core.segments.load().iter().map(|segment| segment.header.segment_len).sum();
        let preparer = Arc::new(Preparer::new(self.storage.clone(), plan, next_number, total));
        preparer.set_manifest_generation(self.manifest.generation);
        let unsealed: Vec<_> = core.segments.load().iter().filter(|s| needs_seal(s, &self.manifest)).cloned().collect();
        for segment in unsealed {
            preparer.enqueue_seal(segment);
        }
        let writer = Writer {
            core: core.clone(),
            clock: self.options.clock.clone(),
            preparer: preparer.clone(),
            active,
            head,
            end,
            last_time,
            directory,
            ids,
            made_ids: MadeIds::new()?,
            staging: Vec::with_capacity(64 << 10),
            keys: Vec::with_capacity(1024),
            undo: Vec::with_capacity(1024),
            frames: Vec::with_capacity(1024),
            ended: Vec::new(),
            clock_steps_back: 0,
        };
        self.report.duration = begun.elapsed();
        let committer = Committer::new(&self.options);
        committer.set_durable_end(end);
        Ok(Inner {
            core,
            storage: self.storage,
            writer: Mutex::new(writer).into(),
            commit: Commit::new(mark_file),
            preparer,
            committer: committer.into(),
            sealing: Mutex::new(Sealing { manifest: self.manifest, failures: 0 }),
            options: self.options,
            report: self.report,
            stopping: false.into(),
        })
    }

    /// The live segment of a clean close, or the first one of a new store.
    fn continue_live(
        &self,
        tail: Tail,
        segments: &mut Vec<Arc<Segment>>,
        directory: &mut Directory,
        ids: &IdTable,
        _hash: NameHash,
    ) -> Result<ActiveSegment> {
        let no_log = Log::of_files();
        let mut live = None;
        for scanned in tail.segments {
            let header = scanned.header.clone();
            let index = scanned.index;
            let of_index = SegmentIndex::Active(index.clone());
            let segment = Segment::new(header, scanned.name, scanned.file, self.options.read_mode, of_index)?;
            if scanned.end_mark.is_some() {
                segment.close(Closing { end: scanned.end, state: SegmentState::Sealed, tally: scanned.tally });
                let segment = Arc::new(segment);
                load_active(&segment, &index, &no_log, directory, ids)?;
                segments.push(segment);
            } else {
                let segment = Arc::new(segment.written_here());
                live = Some(ActiveSegment {
                    segment,
                    index: IndexWriter::new(index),
                    offset: scanned.end,
                    tally: scanned.tally,
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
        let header = SegmentHeader {
            identity,
            generation: 0,
            manifest_generation: self.manifest.generation,
            segment_len: len,
            base: 0,
            first_position: 1,
            previous: None,
            created_at: self.manifest.created_at,
            written_by: VERSION,
            kind: SegmentKind::Live,
        };
        let prepared = crate::prepare::Prepared { identity, name, file, len };
        begin_segment(self.options.read_mode, header, prepared, 1024, None)
    }

    fn write_mark(&self, old: Option<Mark>, active: &ActiveSegment, head: u64, time: u64) -> Result<MarkFile> {
        let file = match self.storage.open(MARK_NAME, Access::ReadWrite) {
            Ok(file) if file.len().is_ok_and(|len| len == annals_format::mark::MARK_LEN as u64) => file,
            Ok(_) => {
                self.storage.remove(MARK_NAME).map_err(Error::io("remove", MARK_NAME))?;
                MarkFile::create(&*self.storage)?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => MarkFile::create(&*self.storage)?,
            Err(error) => return Err(refuse_write(MARK_NAME, error)),
        };
        let identity = active.segment.header.identity;
        let mark = Mark {
            store: identity.store,
            incarnation: identity.incarnation,
            sequence: old.as_ref().map_or(0, |mark| mark.sequence),
            manifest_generation: self.manifest.generation,
            segment: identity.segment,
            offset: active.offset,
            position: head,
            recorded_at: time,
            clean: false,
        };
        let mut mark_file = MarkFile::open(file, mark.clone());
        mark_file.write(mark).map_err(Error::io("write", MARK_NAME))?;
        mark_file.sync().map_err(Error::io("sync", MARK_NAME))?;
        self.storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
        Ok(mark_file)
    }

    /// The ring of this opening: its header, with the next session, is durable before the first append.
    fn open_ring(&self, session: u64, active: &ActiveSegment) -> Result<Ring> {
        let shared = self.storage.map_is_shared();
        let ring_len = self.options.ring_bytes;
        let file_len = RING_HEADER_LEN as u64 + ring_len;
        let file = match self.storage.open(RING_NAME, Access::ReadWrite) {
            Ok(file) if file.len().is_ok_and(|len| len == file_len) => file,
            other => {
                if other.is_ok() {
                    self.storage.remove(RING_NAME).map_err(Error::io("remove", RING_NAME))?;
                }
                self.storage.create(RING_NAME, file_len, Fill::Zeroed).map_err(|error| no_room(RING_NAME, error))?
            }
        };
        let header = RingHeader {
            store: self.manifest.store,
            incarnation: active.segment.header.identity.incarnation,
            session,
            ring_len,
            first_segment: active.segment.header.identity.segment,
            holds_log: shared,
        };
        file.write_at(RingHeader::slot_offset(session), &[IoSlice::new(&header.encode())])
            .map_err(Error::io("write", RING_NAME))?;
        file.sync().map_err(Error::io("sync", RING_NAME))?;
        self.storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
        let memory = if shared {
            file.map_shared().map_err(Error::io("map", RING_NAME))?
        } else {
            SharedMap::anonymous(ring_len as usize).map_err(Error::io("map", RING_NAME))?
        };
        let start = if shared { RING_HEADER_LEN } else { 0 };
        Ok(Ring::new(memory, start, shared))
    }

    /// The ring gets the page that the next flush begins with; a segment begun now gets its header.
    fn load_ring_page(&self, log: &Log, active: &ActiveSegment, begun_anew: bool) -> Result<()> {
        let base = active.segment.header.base;
        if begun_anew {
            log.place(base, &active.segment.header.encode())?;
            log.watermark.extend(base + SEGMENT_HEADER_LEN as u64);
            return Ok(());
        }
        let from = page_floor(active.offset);
        let mut page = vec![0; (active.offset - from) as usize];
        active.segment.file.read_at(from, &mut page).map_err(Error::io("read", &active.segment.name))?;
        log.ring.as_ref().expect("made above").store(base + from, &page);
        Ok(())
    }
}

/// The segment to go on with.
enum Live {
    Continue(Tail),
    Fresh(ActiveSegment),
}

struct Rescued {
    listed: Vec<Arc<Segment>>,
    fresh: ActiveSegment,
}

fn durability(kind: DurabilityKind) -> Durability {
    match kind {
        DurabilityKind::Durable => Durability::Durable,
        DurabilityKind::Buffered => Durability::Buffered,
    }
}

/// The end of the log, judged: shared by recovery and read-only openings.
pub(crate) struct Found {
    pub(crate) tail: Tail,
    pub(crate) mark: Option<Mark>,
    pub(crate) ring: Option<RingImage>,
    /// The last position that is known to have been synced.
    pub(crate) known_durable: u64,
    pub(crate) notices: Vec<String>,
}

/// Reads mark, ring and the unlisted segments, and refuses damage below what was known durable.
pub(crate) fn find_end(storage: &dyn Storage, manifest: &Manifest, numbers: &[u64]) -> Result<Found> {
    let found_mark = MarkFile::read(storage)?;
    let mut notices = found_mark.notices;
    let mark = found_mark.newest;
    if let Some(mark) = &mark {
        if mark.store != manifest.store {
            return Err(Error::corrupt(MARK_NAME, 32, None, "the mark belongs to another store"));
        }
        if mark.manifest_generation > manifest.generation {
            let newest = manifest.generation;
            let what = format!("the file is missing: the mark names it, the newest there is has generation {newest}");
            return Err(Error::corrupt(&manifest::file_name(mark.manifest_generation), 0, None, what));
        }
    }
    let ring = match RingImage::read(storage, manifest.store)? {
        Ok(ring) => Some(ring),
        Err(notice) => {
            notices.push(notice);
            None
        }
    };
    // A ring of an earlier opening than the manifest's newest incarnation holds nothing of the live segment.
    let newest = manifest.incarnations.last().map(|entry| entry.incarnation);
    let usable = ring.as_ref().filter(|ring| Some(ring.header.incarnation) == newest);
    let hash = NameHash { seed: manifest.name_hash_seed };
    let tail = Scanner { storage, manifest, hash, ring: usable, numbers }.scan()?;
    for scanned in &tail.segments {
        if scanned.header.manifest_generation > manifest.generation {
            let what = format!("the file is missing: {} was begun under it", scanned.name);
            return Err(Error::corrupt(&manifest::file_name(scanned.header.manifest_generation), 0, None, what));
        }
    }
    let known_durable = tail.durable_upto.max(mark.as_ref().map_or(0, |mark| mark.position));
    if tail.last_position < known_durable {
        return Err(lost(&tail, manifest, mark.as_ref(), known_durable));
    }
    // An unclean mark of the newest incarnation was written after the ring of its opening was durable. Before that, no
    // commit of this incarnation can have been held by a ring.
    let had_ring = mark.as_ref().is_some_and(|mark| !mark.clean && Some(mark.incarnation) == newest);
    if usable.is_none() && had_ring {
        let what = "the ring cannot be used after an unclean end; commits that only it held would be lost";
        return Err(Error::corrupt(RING_NAME, 0, None, what));
    }
    Ok(Found { tail, mark, ring, known_durable, notices })
}

/// Positions that were known durable are not there.
fn lost(tail: &Tail, manifest: &Manifest, mark: Option<&Mark>, known_durable: u64) -> Error {
    let position = tail.last_position + 1;
    let told = match &tail.stop {
        Stop::Torn(fault) => format!("{fault}; positions up to {known_durable} were known to be durable"),
        Stop::Clean | Stop::NoSuccessor | Stop::NoSegment => {
            format!("the log ends here, but positions up to {known_durable} were known to be durable")
        }
    };
    let (name, offset) = match (tail.segments.last(), mark) {
        (Some(last), _) => (last.name.clone(), last.end),
        (None, Some(mark)) => (segment_name(mark.segment), 0),
        (None, None) => (segment_name(manifest.segments.last().map_or(1, |entry| entry.number)), 0),
    };
    Error::corrupt(&name, offset, Some(position), told)
}

/// Whether the store was closed cleanly and its log ends just where the mark says.
pub(crate) fn is_clean(mark: Option<&Mark>, tail: &Tail) -> bool {
    let (Some(mark), Some(last)) = (mark, tail.segments.last()) else { return false };
    mark.clean
        && mark.segment == last.header.identity.segment
        && mark.offset == last.end
        && mark.position == tail.last_position
        && matches!(tail.stop, Stop::Clean)
        && last.end_mark.is_none()
        && last.from_ring.is_none()
        && tail.beyond.is_empty()
}

/// What follows a segment's last whole batch and is not zero, as far as it goes.
fn torn_len(scanned: &Scanned) -> u64 {
    if scanned.end_mark.is_some() {
        return 0;
    }
    let rest = &scanned.bytes[scanned.end as usize..];
    rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

/// Divides a segment's batches at a position that ends one, or before an offset: the tally of those up to it, and the
/// bytes of the others.
fn split_at_position(scanned: &Scanned, position: u64, offset: u64) -> (Option<Tally>, Vec<u8>) {
    let seed = scanned.header.seed();
    let mut tally = Tally::new(seed);
    let mut at = SEGMENT_HEADER_LEN;
    let end = scanned.end as usize;
    while at < end {
        let Ok(header) = BatchHeader::decode(&scanned.bytes[at..], seed) else { break };
        if header.last_position() > position || at as u64 >= offset {
            break;
        }
        let mut controls = 0;
        let _ = annals_format::scan::verify_batch(&scanned.bytes[at..], &header, seed, |_, _, record| {
            controls += u64::from(matches!(record, Record::Control(_)));
        });
        tally.add(&header, &scanned.bytes[at..at + BATCH_HEADER_LEN], controls);
        at += header.len();
    }
    (Some(tally), scanned.bytes[at..end].to_vec())
}

/// An index of the batches below `end` alone.
fn index_below(scanned: &Scanned, end: u64, hash: NameHash) -> Result<Arc<ActiveIndex>> {
    index_of(&scanned.bytes[..end as usize], &scanned.header, &scanned.name, hash).map(|(index, _)| index)
}

/// Index and tally of all batches in a segment's bytes, each verified.
pub(crate) fn index_of(
    bytes: &[u8],
    header: &SegmentHeader,
    name: &str,
    hash: NameHash,
) -> Result<(Arc<ActiveIndex>, Tally)> {
    let expected = Expected { segment_len: header.segment_len, keys: 1024, ids: Some(1024) };
    let index = Arc::new(ActiveIndex::new(expected));
    let mut index_writer = IndexWriter::new(index.clone());
    let seed = header.seed();
    let mut tally = Tally::new(seed);
    let mut position = header.first_position;
    let mut at = SEGMENT_HEADER_LEN;
    while at < bytes.len() {
        let damaged = |fault| Error::damaged(name, at as u64, Some(position), &fault, header.written_by);
        let batch = BatchHeader::decode(&bytes[at..], seed).map_err(damaged)?;
        if batch.first_position != position {
            let fault = annals_format::Fault::Position { expected: position, found: batch.first_position };
            return Err(damaged(fault));
        }
        let end = at.saturating_add(batch.len()).min(bytes.len());
        let controls =
            scan::index_batch(&mut index_writer, hash, &bytes[at..end], &batch, seed, at as u64).map_err(damaged)?;
        tally.add(&batch, &bytes[at..at + BATCH_HEADER_LEN], controls);
        position = batch.last_position() + 1;
        at += batch.len();
    }
    Ok((index, tally))
}

/// What to do with an index that is missing or damaged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rebuild {
    /// Write it anew.
    Write,
    /// Keep it in memory: nothing may be written.
    Memory,
}

/// A segment of the manifest with its index, and the index file's name if that had to be rebuilt.
pub(crate) fn open_listed_segment(
    storage: &dyn Storage,
    entry: &SegmentEntry,
    mode: ReadMode,
    hash: NameHash,
    rebuild: Rebuild,
) -> Result<(Segment, Option<String>)> {
    let name = segment_name(entry.number);
    let file = storage.open(&name, Access::Read).map_err(|error| missing(&name, entry, error))?;
    let len = file.len().map_err(Error::io("measure", &name))?;
    if len != entry.len {
        let what = format!("the file is {len} bytes long, the manifest says {}", entry.len);
        return Err(Error::corrupt(&name, len.min(entry.len), Some(entry.first_position), what));
    }
    let mut page = vec![0; SEGMENT_HEADER_LEN];
    file.read_at(0, &mut page).map_err(Error::io("read", &name))?;
    let header = match SegmentHeader::decode(&page) {
        Ok(Some(header)) => header,
        Ok(None) => return Err(Error::corrupt(&name, 0, None, "the header is empty")),
        Err(fault) => return Err(Error::damaged(&name, 0, None, &fault, 0)),
    };
    let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
    if header.identity != identity || header.segment_len != entry.len || header.first_position != entry.first_position {
        return Err(Error::corrupt(&name, 40, None, "the header is that of another segment"));
    }
    let closing = listed_closing(entry, &header, &*file, &name)?;
    let loaded = SealedIndex::load(storage, &header, entry, mode, hash);
    let mut rebuilt = None;
    let index = match loaded {
        Ok(index) => SegmentIndex::Sealed(Arc::new(index)),
        Err(error @ Error::Unsupported { .. }) => return Err(error),
        Err(_) => {
            let mut bytes = vec![0; entry.end as usize];
            let got = file.read_at(0, &mut bytes).map_err(Error::io("read", &name))?;
            bytes.truncate(got);
            let (index, tally) = index_of(&bytes, &header, &name, hash)?;
            if tally.final_checksum.value() != entry.final_checksum {
                return Err(Error::corrupt(&name, entry.end, None, "the batches are not those the manifest lists"));
            }
            rebuilt = Some(index_name(entry.number));
            SegmentIndex::Active(index)
        }
    };
    let segment = Segment::new(header, name, file, mode, index)?;
    segment.close(closing);
    if rebuilt.is_some() && rebuild == Rebuild::Write {
        let no_log = Log::of_files();
        // Without room for the file the index serves from memory; the next opening tries again.
        if let Ok(index) = SealedIndex::build(storage, &no_log, hash, &segment) {
            segment.set_index(SegmentIndex::Sealed(Arc::new(index)));
        }
    }
    Ok((segment, rebuilt))
}

fn missing(name: &str, entry: &SegmentEntry, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Error::corrupt(name, 0, Some(entry.first_position), "the file is missing");
    }
    Error::io("open", name)(error)
}

/// A listed segment's end, checked against its end mark.
fn listed_closing(
    entry: &SegmentEntry,
    header: &SegmentHeader,
    file: &dyn crate::storage::StorageFile,
    name: &str,
) -> Result<Closing> {
    if entry.state == SegmentState::Sealed {
        let mut bytes = vec![0; END_MARK_LEN];
        file.read_at(entry.end, &mut bytes).map_err(Error::io("read", name))?;
        let mark = annals_format::segment::EndMark::decode(&bytes, header.seed())
            .map_err(|fault| Error::damaged(name, entry.end, None, &fault, header.written_by))?;
        if mark.final_checksum != entry.final_checksum {
            return Err(Error::corrupt(name, entry.end, None, "the end mark's final checksum is not the manifest's"));
        }
    }
    let records = (entry.last_position + 1).saturating_sub(entry.first_position);
    let tally = Tally {
        final_checksum: annals_format::segment::FinalChecksum::from_value(entry.final_checksum),
        last_position: if records == 0 { 0 } else { entry.last_position },
        first_time: entry.first_time,
        last_time: entry.last_time,
        batch_count: records,
        event_count: entry.event_count,
        control_count: records.saturating_sub(entry.event_count),
    };
    Ok(Closing { end: entry.end, state: entry.state, tally })
}

fn needs_seal(segment: &Segment, manifest: &Manifest) -> bool {
    let number = segment.header.identity.segment;
    let is_listed = manifest.segments.iter().any(|entry| entry.number == number);
    segment.closing().is_some() && (!is_listed || matches!(&**segment.index(), SegmentIndex::Active(_)))
}

/// Enters a segment's streams and ids into the writer's memory.
fn load_streams_and_ids(segment: &Segment, log: &Log, directory: &mut Directory, ids: &IdTable) -> Result<()> {
    match &**segment.index() {
        SegmentIndex::Active(index) => load_active(segment, index, log, directory, ids),
        SegmentIndex::Sealed(index) => {
            let first = segment.first_position();
            index.each_stream(|name, last_revision, last_record| {
                directory.set(name, StreamTip { revision: last_revision, position: first + u64::from(last_record) });
            })?;
            index.each_id(|hash, record| ids.insert(hash, first + u64::from(record)))
        }
    }
}

fn load_active(
    segment: &Segment,
    index: &ActiveIndex,
    log: &Log,
    directory: &mut Directory,
    ids: &IdTable,
) -> Result<()> {
    let first = segment.first_position();
    for record in 0..index.record_count() {
        if let Some(hash) = index.id_hash(record) {
            ids.insert(hash, first + u64::from(record));
        }
    }
    for record in index.stream_firsts() {
        let Some(event) = crate::reader::event_of_record(segment, log, record)? else { continue };
        let hash = directory.hash_of(event.stream());
        for newest in index.postings(hash) {
            let Some(last) = crate::reader::event_of_record(segment, log, newest)? else { continue };
            if last.stream() == event.stream() {
                directory.set(
                    event.stream(),
                    StreamTip { revision: last.revision().get(), position: last.position().get() },
                );
                break;
            }
        }
    }
    Ok(())
}
