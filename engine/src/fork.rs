//! Forks: a new store that shares the sealed segments of another up to a moment, and goes on by itself.

use std::path::Path;
use std::sync::Arc;

use annals_format::batch::BatchHeader;
use annals_format::checksum::{Identity, Seed};
use annals_format::manifest::{AncestorEntry, Manifest, SegmentEntry};
use annals_format::scan::Step;

use crate::as_of::AsOf;
use crate::batches::{Batches, SegmentFile};
use crate::compacted;
use crate::core::Core;
use crate::error::Error;
use crate::founding::{
    Anew, Came, Founding, LastRevisions, LaterRemovals, Plan, Sharing, check_free, heir, last_time_of,
};
use crate::made_id::random_bytes;
use crate::options::{View, directory};
use crate::prepare::segment_name;
use crate::read_only::{ReadOnly, may_be_movement};
use crate::reader::{Reader, tip_of_stream};
use crate::recovery::list;
use crate::storage::{Disk, Storage};
use crate::store::Store;
use crate::{Result, manifest, removal, snapshot};

/// How a fork is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForkOptions {
    pub(crate) as_of: AsOf,
    pub(crate) sharing: Sharing,
    pub(crate) dry_run: bool,
}

impl ForkOptions {
    /// The defaults: as of the head, sealed segments shared where the file system can.
    pub fn new() -> Self {
        Self::default()
    }

    /// The moment up to which the fork holds the store's history.
    pub fn as_of(mut self, moment: AsOf) -> Self {
        self.as_of = moment;
        self
    }

    /// How segments come over.
    pub fn sharing(mut self, sharing: Sharing) -> Self {
        self.sharing = sharing;
        self
    }

    /// Only says what would be done, and writes nothing.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// What a fork consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForkReport {
    /// Position of its last record; it goes on after it. 0: it is empty.
    pub head: u64,
    /// Removals that stand behind the moment, and behind the fork's events therefore: what they took is not in the fork
    /// either.
    pub carried_removals: u64,
    /// Segments whose files it shares with the store. In a dry run, those that it would try to share.
    pub shared_segments: u64,
    /// Segments that were copied.
    pub copied_segments: u64,
    /// Batches of a segment that was not ended, or that the moment divides: written anew.
    pub rewritten_batches: u64,
    /// Bytes written: of copied segments, of batches written anew, and of snapshots of state.
    pub written_bytes: u64,
}

impl Store {
    /// Makes a new store in `dir`, which must not exist or be empty: it holds this one's history up to a moment and goes on
    /// by itself, with an id and an incarnation of its own. Sealed segments are shared, not copied, where the file system
    /// can; appends go on meanwhile, and neither store ever changes what both share. What was removed after the moment stays
    /// removed: the records that say so come along, behind the last position of the moment.
    ///
    /// Checkpoints of this store beyond the moment are refused by the fork, those before it are good in both. Interrupted, it
    /// leaves a directory that is no store; the same call finishes it.
    ///
    /// # Errors
    /// `AheadOfLog` for a moment beyond the durable head; `Occupied` if `dir` holds anything; `Corrupt` if what must be
    /// copied is damaged; `Poisoned`, `NoSpace`, `Io`.
    ///
    /// ```
    /// use annals::{AsOf, Expect, ForkOptions, NewEvent, Store};
    /// # fn main() -> annals::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path();
    /// let store = Store::open(path.join("shop"))?;
    /// store.append("order-1", Expect::Any, &[NewEvent::new("Placed", b"")])?;
    /// store.append("order-1", Expect::Any, &[NewEvent::new("Paid", b"")])?;
    /// store.fork(path.join("what-if"), &ForkOptions::new().as_of(AsOf::Position(1)))?;
    /// let what_if = Store::open(path.join("what-if"))?;
    /// what_if.append("order-1", Expect::Any, &[NewEvent::new("Cancelled", b"")])?;
    /// assert_eq!((what_if.head(), store.head()), (2, 2));
    /// # Ok(())
    /// # }
    /// ```
    pub fn fork(&self, dir: impl AsRef<Path>, options: &ForkOptions) -> Result<ForkReport> {
        self.holding_files(|| {
            let source = Source::of_store(self, options.as_of)?;
            in_directory(dir.as_ref(), options.dry_run, |target| fork(&source, target, options, &mut |_, _| {}))
        })
    }

    /// As [`Store::fork`], into any storage.
    ///
    /// # Errors
    /// As there.
    pub fn fork_to_storage(&self, target: &dyn Storage, options: &ForkOptions) -> Result<ForkReport> {
        self.holding_files(|| fork(&Source::of_store(self, options.as_of)?, Some(target), options, &mut |_, _| {}))
    }

    /// While `read` runs, compaction removes no file: what is being copied stays as it was.
    pub(crate) fn holding_files<T>(&self, read: impl FnOnce() -> T) -> T {
        let inner = self.inner();
        inner.retired.held(&*inner.storage, read)
    }
}

impl ReadOnly {
    /// As [`Store::fork`], of what was durable at the last look. `progress` is told how many bytes of segments are done, and
    /// of how many.
    ///
    /// # Errors
    /// As there.
    pub fn fork(
        &self,
        dir: impl AsRef<Path>,
        options: &ForkOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<ForkReport> {
        Source::while_files_move(self, options.as_of, |source| {
            in_directory(dir.as_ref(), options.dry_run, |target| fork(source, target, options, progress))
        })
    }

    /// As [`ReadOnly::fork`], into any storage.
    ///
    /// # Errors
    /// As there.
    pub fn fork_to_storage(&self, target: &dyn Storage, options: &ForkOptions) -> Result<ForkReport> {
        Source::while_files_move(self, options.as_of, |source| fork(source, Some(target), options, &mut |_, _| {}))
    }
}

/// Calls `make` with the directory, made if it is not there; with none if nothing is to be made and nothing is there.
pub(crate) fn in_directory<T>(
    path: &Path,
    dry_run: bool,
    make: impl FnOnce(Option<&dyn Storage>) -> Result<T>,
) -> Result<T> {
    let named = |error| match error {
        Error::Occupied { reason, .. } => Error::Occupied { path: path.display().to_string(), reason },
        other => other,
    };
    if dry_run {
        return match Disk::open(path) {
            Ok(disk) => make(Some(&disk)).map_err(named),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(None),
            Err(_) => make(Some(&directory(path, false)?)),
        };
    }
    make(Some(&directory(path, true)?)).map_err(named)
}

/// How often a copy is begun anew because the writer compacts what it reads.
const LOOKS_MAX: usize = 8;

/// What a store consists of up to a durable moment: files that do not change any more.
pub(crate) struct Source {
    pub(crate) storage: Arc<dyn Storage>,
    /// Settings, incarnations, ancestors. Of its segments it may know more or fewer than stand below.
    pub(crate) manifest: Manifest,
    /// Oldest first, those that hold a record up to the head.
    pub(crate) segments: Vec<SourceSegment>,
    /// The last position.
    pub(crate) head: u64,
    /// What was removed behind it, and the last revisions of the streams concerned.
    pub(crate) later: LaterRemovals,
    pub(crate) last: LastRevisions,
    pub(crate) now: u64,
}

/// One segment of a source.
pub(crate) struct SourceSegment {
    pub(crate) identity: Identity,
    pub(crate) first_position: u64,
    pub(crate) len: u64,
    /// Where its last batch ends, once it is ended: what stands behind is not read.
    pub(crate) end: Option<u64>,
    /// What the manifest says of it, once it is listed.
    pub(crate) entry: Option<SegmentEntry>,
}

impl SourceSegment {
    /// Name of its file.
    pub(crate) fn name(&self) -> String {
        self.entry.as_ref().map_or_else(|| segment_name(self.identity.segment), compacted::name_of)
    }

    /// Whether what is read of it ends at this offset.
    pub(crate) fn ends_at(&self, offset: u64) -> bool {
        self.end.is_some_and(|end| offset >= end)
    }

    /// The entry, if the segment is listed and lies wholly at or before `last`.
    pub(crate) fn whole_up_to(&self, last: u64) -> Option<&SegmentEntry> {
        self.entry.as_ref().filter(|entry| entry.last_position <= last)
    }
}

impl Source {
    /// Everything appended before this call is synced, and so in the files.
    pub(crate) fn of_store(store: &Store, as_of: AsOf) -> Result<Self> {
        store.sync()?;
        let inner = store.inner();
        let manifest = inner.sealing.lock().manifest.clone();
        let reader = store.reader_in(View::Durable);
        Self::of(inner.storage.clone(), manifest, &reader, as_of, inner.options.now())
    }

    /// Copies from what a read-only opening saw at its last look. Where the writer has compacted a segment since, or does so
    /// meanwhile, that file is gone: then it is looked again, and begun anew.
    pub(crate) fn while_files_move<T>(
        store: &ReadOnly,
        as_of: AsOf,
        mut copy: impl FnMut(&Self) -> Result<T>,
    ) -> Result<T> {
        let mut looked: Option<ReadOnly> = None;
        for _ in 0..LOOKS_MAX {
            let source = Self::of_read_only(looked.as_ref().unwrap_or(store), as_of)?;
            match copy(&source) {
                Err(error) if may_be_movement(&error) && source.has_moved()? => {}
                done => return done,
            }
            looked = Some(store.options().clone().open_read_only_storage(store.storage().clone())?);
        }
        let source = Self::of_read_only(looked.as_ref().unwrap_or(store), as_of)?;
        copy(&source)
    }

    /// Whether the newest manifest says something else of a segment.
    fn has_moved(&self) -> Result<bool> {
        let Some(newest) = manifest::load_current(&*self.storage)? else { return Ok(false) };
        Ok(self.segments.iter().any(|segment| match &segment.entry {
            Some(entry) => !newest.segments.contains(entry),
            // It was being written. Listed since, its file is still there, unless it was compacted as well.
            None => {
                let of_it = |entry: &&SegmentEntry| entry.number == segment.identity.segment;
                newest.segments.iter().find(of_it).is_some_and(|entry| entry.compacted.is_some())
            }
        }))
    }

    fn of_read_only(store: &ReadOnly, as_of: AsOf) -> Result<Self> {
        store.refuse_doubt()?;
        let storage = store.storage();
        let Some(manifest) = manifest::load_current(&**storage)? else {
            return Err(Error::corrupt(&manifest::file_name(1), 0, None, "the store's manifest is missing"));
        };
        Self::of(storage.clone(), manifest, &store.reader_in(View::Durable), as_of, store.options().now())
    }

    fn of(storage: Arc<dyn Storage>, manifest: Manifest, reader: &Reader, as_of: AsOf, now: u64) -> Result<Self> {
        let head = reader.as_of(as_of)?.head();
        let core: &Core = reader.core();
        let mut later = LaterRemovals::default();
        if head < reader.head() && core.removals.newest_hiding() > head {
            later = removal::later(core, head, reader.head())?;
        }
        let before =
            if later.forgotten().is_empty() { LaterRemovals::default() } else { removal::later(core, 0, head)? };
        let before = before.forgotten();
        let mut last = later.streams();
        last.fill(|stream| {
            let tip = tip_of_stream(core, stream, head)?;
            let forgotten = core.removals.hidden(u64::MAX).map_or(0, |hidden| hidden.marks(stream).forgotten);
            // Of one that was forgotten again later only that is known here.
            let forgotten = if forgotten <= head { forgotten } else { *before.get(stream).unwrap_or(&0) };
            Ok(if tip.position < forgotten { 0 } else { tip.revision })
        })?;
        let mut segments = Vec::new();
        for segment in core.segments.load().iter() {
            if segment.first_position() > head {
                break;
            }
            segments.push(SourceSegment {
                identity: segment.header.identity,
                first_position: segment.first_position(),
                len: segment.header.segment_len,
                end: segment.closing().map(|closing| closing.end),
                entry: segment.entry().cloned(),
            });
        }
        Ok(Self { storage, manifest, segments, head, later, last, now })
    }

    /// Length of all its segments' files.
    pub(crate) fn len(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// A number larger than that of any segment.
    pub(crate) fn next_number(&self) -> u64 {
        self.segments.iter().map(|segment| segment.identity.segment + 1).max().unwrap_or(1)
    }
}

fn fork(
    source: &Source,
    target: Option<&dyn Storage>,
    options: &ForkOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ForkReport> {
    let head = source.head;
    let carried_removals = source.later.carry(source.last.clone(), head, source.now, None)?;
    let whole = source.segments.iter().take_while(|segment| segment.whole_up_to(head).is_some()).count();
    let (whole, divided) = source.segments.split_at(whole);
    let mut report = ForkReport { head: head + carried_removals, carried_removals, ..ForkReport::default() };
    let target = match target {
        Some(target) if !options.dry_run => target,
        there => {
            if let Some(there) = there {
                check_free(&list(there)?)?;
            }
            foresee(source, (whole, divided), options.sharing, &mut report)?;
            return Ok(report);
        }
    };
    let founding = Founding::begin(target)?;
    let total = source.len();
    let mut done = 0;
    let mut listed: Vec<SegmentEntry> = Vec::new();
    for segment in whole {
        let entry = segment.whole_up_to(head).expect("taken while it is");
        let time = last_time_of(&listed);
        match founding.take_over(&*source.storage, entry, time, options.sharing)? {
            Came::Shared => report.shared_segments += 1,
            Came::Copied => {
                report.copied_segments += 1;
                report.written_bytes += entry.end;
            }
        }
        listed.push(entry.clone());
        done += segment.len;
        progress(done, total);
    }
    let identity = Identity { store: random_bytes()?, incarnation: random_bytes()?, segment: source.next_number() };
    let plan = Plan {
        identity,
        manifest_generation: source.manifest.generation + 1,
        len: 64 << 10,
        len_max: source.manifest.segment_len_max,
        created_at: source.now,
    };
    let mut anew = Anew::after(target, plan, &listed);
    for segment in divided {
        let time = anew.last_time();
        rewrite(source, segment, time, &mut report, &mut |bytes, header, seed| anew.batch(bytes, header, seed))?;
        done += segment.len;
        progress(done, total);
    }
    source.later.carry(source.last.clone(), head, source.now, Some(&mut anew))?;
    let (ended, live) = anew.finish()?;
    listed.extend(ended);
    let mut manifest = heir(&source.manifest, listed, head, &live.header.identity);
    let files = snapshot::files_of(&*source.storage, &source.manifest)?;
    let into = Some((target, &manifest.store, source.now));
    let carried = snapshot::carry(&files, &source.manifest.store, head, into, &mut snapshot::refuse)?;
    report.written_bytes += carried.bytes;
    manifest.snapshots = carried.entries;
    manifest.ancestors.push(AncestorEntry {
        store: source.manifest.store,
        incarnation: source.manifest.incarnations.last().map_or([0; 16], |entry| entry.incarnation),
        last_position: head,
    });
    founding.finish(&manifest, &live)?;
    Ok(report)
}

/// What a fork would consist of.
fn foresee(
    source: &Source,
    (whole, divided): (&[SourceSegment], &[SourceSegment]),
    sharing: Sharing,
    report: &mut ForkReport,
) -> Result<()> {
    let entries = || whole.iter().filter_map(|segment| segment.entry.as_ref());
    if sharing == Sharing::Copy {
        report.copied_segments = whole.len() as u64;
        report.written_bytes = entries().map(|entry| entry.end).sum();
    } else {
        report.shared_segments = whole.len() as u64;
    }
    let mut time = entries().map(|entry| entry.last_time).max().unwrap_or(0);
    for segment in divided {
        time = rewrite(source, segment, time, report, &mut |_, _, _| Ok(()))?;
    }
    let files = snapshot::files_of(&*source.storage, &source.manifest)?;
    let carried = snapshot::carry(&files, &source.manifest.store, source.head, None, &mut snapshot::refuse)?;
    report.written_bytes += carried.bytes;
    Ok(())
}

/// What takes a batch, its bytes, header and segment's seed.
type WriteBatch<'a> = &'a mut dyn FnMut(&[u8], &BatchHeader, Seed) -> Result<()>;

/// Hands out a segment's batches up to the head, to be written anew behind a batch of this time; answers the last one's.
fn rewrite(
    source: &Source,
    segment: &SourceSegment,
    time: u64,
    report: &mut ForkReport,
    write: WriteBatch<'_>,
) -> Result<u64> {
    let file = SegmentFile::open(&*source.storage, &segment.name())?;
    let mut batches = Batches::begin(&file, &segment.identity, time)?;
    while batches.standing.position <= source.head && !segment.ends_at(batches.standing.at) {
        let header = match batches.peek()? {
            Step::Batch(header) if header.last_position() <= source.head => header,
            // What the head divides is not begun; an ended segment goes on in the next.
            Step::Batch(_) | Step::End(_) => break,
            Step::Clean => return Err(batches.wrong("zeros stand where a batch belongs")),
        };
        batches.pass(&header)?;
        let seed = batches.header.seed();
        write(batches.batch()?, &header, seed)?;
        report.rewritten_batches += 1;
        report.written_bytes += header.len() as u64;
    }
    Ok(batches.standing.time)
}
