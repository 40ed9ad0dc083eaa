//! How a store is opened.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::append::Durability;
use crate::compaction::CompactionPolicy;
use crate::error::Error;
use crate::storage::{Disk, Storage};
use crate::{Follower, ReadOnly, Result, Store, follower, read_only, recovery};
pub use annals_format::manifest::Limits;

/// The store's clock: nanoseconds since 1970 UTC. Tests bring their own.
pub trait Clock: Send + Sync + Debug {
    /// The time now. May jump; the store never lets `recorded_at` fall.
    fn now(&self) -> u64;
}

/// The system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> u64 {
        // A clock before 1970 reads as 0; one after 2554 stays at the largest value.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Which part of the log a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// What is synced: nothing shown here is lost in a power cut. The default of a `Durable` store.
    Durable,
    /// What is written: every append of this process at once. The default of a `Buffered` store.
    Written,
}

/// How segments are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ReadMode {
    /// Through read-only memory maps, without a copy or a system call. A disk block that cannot be read, or a file
    /// that somebody else cuts short, ends the process with SIGBUS.
    #[default]
    Mapped,
    /// By ordinary reads: these two cases are errors, and each hand-out costs a copy.
    Pread,
}

/// Settings of a store. All have defaults; [`Store::open`] uses these.
///
/// ```
/// # fn main() -> annals::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("shop");
/// let store = annals::Options::new()
///     .durability(annals::Durability::Buffered)
///     .segment_bytes_max(8 << 20)
///     .open(&path)?;
/// # store.close()
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) durability: Durability,
    pub(crate) segment_bytes_max: u64,
    pub(crate) segment_bytes_first: u64,
    pub(crate) quota_bytes: Option<u64>,
    pub(crate) create: bool,
    pub(crate) read_mode: ReadMode,
    pub(crate) mapped_segments_max: usize,
    pub(crate) sync_interval: Duration,
    pub(crate) sync_bytes: u64,
    pub(crate) ring_bytes: u64,
    pub(crate) in_flight_bytes: u64,
    /// `None`: the system's.
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) limits: Limits,
    pub(crate) removal_forbidden: bool,
    pub(crate) sweep_interval: Option<Duration>,
    /// `None`: it compacts when it is told.
    pub(crate) compaction: Option<CompactionPolicy>,
    pub(crate) background: bool,
    /// The view a follower shows; `None`: the durable one.
    pub(crate) view: Option<View>,
    pub(crate) wait_for_store: Duration,
    pub(crate) index_progress: Option<IndexProgress>,
}

/// Who is told how far an opening is that makes indexes anew.
#[derive(Clone)]
pub(crate) struct IndexProgress(Arc<dyn Fn(u64, u64) + Send + Sync>);

impl IndexProgress {
    pub(crate) fn tell(&self, done: u64, all: u64) {
        (self.0)(done, all);
    }
}

impl std::fmt::Debug for IndexProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IndexProgress")
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

const PAGE: u64 = 4096;

impl Options {
    /// The defaults: `Durable`, segments up to 64 MiB, mapped reading, a directory that may be created.
    pub fn new() -> Self {
        Self {
            durability: Durability::Durable,
            segment_bytes_max: 64 << 20,
            segment_bytes_first: 1 << 20,
            quota_bytes: None,
            create: true,
            read_mode: ReadMode::Mapped,
            mapped_segments_max: 4096,
            sync_interval: Duration::from_secs(1),
            sync_bytes: 64 << 20,
            ring_bytes: 256 << 10,
            in_flight_bytes: 4 << 20,
            clock: None,
            limits: Limits::default(),
            removal_forbidden: false,
            sweep_interval: None,
            compaction: None,
            background: true,
            view: None,
            wait_for_store: Duration::ZERO,
            index_progress: None,
        }
    }

    /// Durability of commits that do not say, and with it the default view. Fixed when the store is created.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Largest ordinary segment, in bytes (rounded up to 4 KiB, at least 64 KiB). The first is 1 MiB or this; each next
    /// doubles. Fixed when the store is created.
    pub fn segment_bytes_max(mut self, bytes: u64) -> Self {
        self.segment_bytes_max = bytes.clamp(64 << 10, 1 << 34).next_multiple_of(PAGE);
        self
    }

    /// Total length of segments beyond which appends answer [`crate::Error::NoSpace`]. Fixed when the store is created.
    pub fn quota_bytes(mut self, bytes: Option<u64>) -> Self {
        self.quota_bytes = bytes;
        self
    }

    /// Whether a missing or empty directory becomes a new store (the default).
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// How readers get at the bytes. With [`ReadMode::Pread`] each tier of the index that is asked, and the directory of streams,
    /// is held in memory of the process instead of a map that the system may let go of: some 35 bytes an event.
    pub fn read_mode(mut self, mode: ReadMode) -> Self {
        self.read_mode = mode;
        self
    }

    /// How many sealed segments are mapped at a time, at least 1 (4,096 by default). Each takes two of the maps that the
    /// system allows a process (`vm.max_map_count`, usually 65,530): the segment and its index.
    ///
    /// A sealed segment is mapped when it is first read. Beyond this number those not read for long are let go of;
    /// whoever still holds an event keeps what it needs. With [`ReadMode::Pread`] a segment takes a file descriptor
    /// instead, and at most 256 are open.
    ///
    /// All stores and readers of a process together keep no more than 16,384 segments mapped, or 64 each where they are so
    /// many: beyond that, one is let go of for each that is mapped.
    pub fn mapped_segments_max(mut self, segments: usize) -> Self {
        self.mapped_segments_max = segments.max(1);
        self
    }

    /// Longest time that a `Buffered` commit stays unsynced while the store is open.
    pub fn sync_interval(mut self, interval: Duration) -> Self {
        self.sync_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Bytes of `Buffered` commits after which a background sync begins before its time.
    pub fn sync_bytes(mut self, bytes: u64) -> Self {
        self.sync_bytes = bytes.max(PAGE);
        self
    }

    /// Length of the ring that holds the newest bytes: a power of two, at least 64 KiB.
    pub fn ring_bytes(mut self, bytes: u64) -> Self {
        self.ring_bytes = bytes.clamp(64 << 10, 1 << 30).next_power_of_two();
        self
    }

    /// Bytes that tickets may have in flight before `submit` waits and `try_submit` answers `Full`.
    pub fn in_flight_bytes(mut self, bytes: u64) -> Self {
        self.in_flight_bytes = bytes.max(1);
        self
    }

    /// The clock that gives `recorded_at`, asked for every batch; by default [`SystemClock`], which is asked at least
    /// once a millisecond while the processor's tick counter tells what passes in between.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The time now, by the clock that was chosen.
    pub(crate) fn now(&self) -> u64 {
        self.clock.as_ref().map_or_else(|| SystemClock.now(), |clock| clock.now())
    }

    /// Limits of a new store.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// A new store that refuses every removal for ever, as an audit log wants it.
    pub fn removal_forbidden(mut self, forbidden: bool) -> Self {
        self.removal_forbidden = forbidden;
        self
    }

    /// Lets go of what is beyond the limits of policies by itself, this often: a background thread calls
    /// [`Store::sweep`](crate::Store::sweep). By default nobody does but the caller. What fails is tried again next time.
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.sweep_interval = Some(interval);
        self
    }

    /// Compacts by itself, when this policy says. By default nobody does but the caller, and whoever asks from outside
    /// ([`CompactionRequest`](crate::CompactionRequest)).
    pub fn compaction(mut self, policy: CompactionPolicy) -> Self {
        self.compaction = Some(policy);
        self
    }

    /// Is told how far opening for writing is, in segments done and segments in all, each time after it made the index of one
    /// anew; also of those that it found whole after that. Usually never: an opening that finds its index calls nothing.
    ///
    /// What an opening makes anew itself is what exact answers to the first append need, the ids of segments without a tier.
    /// The rest is made in the background while all is answered: [`Stats::index_behind`](crate::Stats::index_behind) tells
    /// how much is left.
    ///
    /// ```
    /// # fn main() -> annals::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let options = annals::Options::new().index_progress(|done, all| eprintln!("index: {done} of {all} segments"));
    /// let store = options.open(dir.path())?;
    /// # store.close()
    /// # }
    /// ```
    pub fn index_progress(mut self, tell: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.index_progress = Some(IndexProgress(Arc::new(tell)));
        self
    }

    /// Which view a [`Follower`] shows: the durable one unless told otherwise, whatever the store's durability. Of a store
    /// opened read-only, which one [`ReadOnly::reader`] shows: the store's default view unless told otherwise.
    pub fn view(mut self, view: View) -> Self {
        self.view = Some(view);
        self
    }

    /// How long opening a [`Follower`] waits for a store that is not there yet; not at all unless told otherwise.
    pub fn wait_for_store(mut self, limit: Duration) -> Self {
        self.wait_for_store = limit;
        self
    }

    /// Without background threads everything happens inside the calls, in one order: for simulations.
    #[doc(hidden)]
    pub fn background(mut self, background: bool) -> Self {
        self.background = background;
        self
    }

    /// Opens the store in directory `path` for reading and writing, creating it if allowed.
    ///
    /// Takes the writer's lock; recovers what an unclean end left; rebuilds what is missing of the index. The library
    /// assumes that nobody else writes to or shortens the files of the store while it is open.
    ///
    /// # Errors
    /// `Locked` at once if it is open for writing elsewhere; `NotAStore`; `Corrupt` if something known to be durable is
    /// damaged; `Unsupported`; `ReadOnly` if the directory cannot be written; `NoSpace`; `Io`.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        let disk = directory(path.as_ref(), self.create)?;
        self.open_storage(Arc::new(disk))
    }

    /// Opens a store on any storage.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open_storage(self, storage: Arc<dyn Storage>) -> Result<Store> {
        recovery::open(storage, self)
    }

    /// Opens the store in directory `path` for reading, beside a writer or alone. Takes no lock and writes nothing.
    ///
    /// # Errors
    /// `NotAStore`, `Corrupt`, `Unsupported`, `Io`. `Corrupt` that names `MARK` where that file is damaged or was cut in
    /// writing, and events stand behind what is otherwise known to be durable: opening for writing keeps them all, and
    /// [`Options::view`] with [`View::Written`] shows them without.
    pub fn open_read_only(self, path: impl AsRef<Path>) -> Result<ReadOnly> {
        let disk = directory(path.as_ref(), false)?;
        self.open_read_only_storage(Arc::new(disk))
    }

    /// As [`Options::open_read_only`], on any storage.
    ///
    /// # Errors
    /// As there.
    pub fn open_read_only_storage(self, storage: Arc<dyn Storage>) -> Result<ReadOnly> {
        read_only::open(storage, self)
    }

    /// Follows the store in directory `path`, beside a writer in this or another process, or alone. Takes no lock, writes
    /// nothing, needs no right but to read; verifies and indexes what no sealed segment holds.
    ///
    /// # Errors
    /// `NotAStore` if there is none, at once or after [`Options::wait_for_store`]; `Corrupt`, `Unsupported`, `Io`.
    pub fn follow(self, path: impl AsRef<Path>) -> Result<Follower> {
        follower::open(path.as_ref(), self)
    }

    /// As [`Options::follow`], on any storage.
    ///
    /// # Errors
    /// As there.
    pub fn follow_storage(self, storage: Arc<dyn Storage>) -> Result<Follower> {
        follower::open_storage(storage, self)
    }
}

/// The directory, made if it may be; errors name it.
pub(crate) fn directory(path: &Path, create: bool) -> Result<Disk> {
    let not_a_store = |reason: &str| Error::NotAStore { path: path.display().to_string(), reason: reason.to_owned() };
    let disk = if create { Disk::create_dir(path) } else { Disk::open(path) };
    disk.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound if create => not_a_store("the directory above it does not exist"),
        std::io::ErrorKind::NotFound => not_a_store("there is no such directory"),
        std::io::ErrorKind::NotADirectory | std::io::ErrorKind::AlreadyExists => not_a_store("it is no directory"),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            Error::ReadOnly { reason: format!("{}: {error}", path.display()) }
        }
        _ => Error::io("open", path.display().to_string())(error),
    })
}
