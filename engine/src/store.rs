//! The store: what users hold. Thin; the rooms behind it do the work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::append::{Batch, Durability, Expect, NewEvent, Receipt};
use crate::background::{self, Committer};
use crate::commit::{Commit, Committing};
use crate::compaction::{self, Retired, Turn};
use crate::consumer::{self, Checkpoint, Consumer, ConsumerInfo, ConsumerOptions};
use crate::core::Core;
use crate::directory::RoomAhead;
use crate::error::{Error, StreamState};
use crate::input::{Input, Many, OfStream, One};
use crate::merging::{self, IndexCheck, Merging};
use crate::options::{Options, View};
use crate::prepare::Preparer;
use crate::publish::Lock;
use crate::query::{Query, Seek};
use crate::read::Read;
use crate::reader::{Lookup, Reader, StreamInfo, TypeInfo};
use crate::recovery::RecoveryReport;
use crate::snapshot::{self, Folds, SnapshotWriter};
use crate::stats::Stats;
use crate::storage::{LockGuard, Memory, Storage};
use crate::tiers::TierKeeper;
use crate::writer::{Appended, Refused, Writer};
use crate::{Event, EventId, Position, Result};

/// Everything an open store consists of; shared with its background threads.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    pub(crate) storage: Arc<dyn Storage>,
    /// On cache lines of its own: the background threads look at what lies beside it all the time.
    pub(crate) writer: CachePadded<Lock<Writer>>,
    /// Where memory is made ahead for the streams that the writer will meet.
    pub(crate) stream_room: Arc<RoomAhead>,
    pub(crate) commit: Commit,
    pub(crate) preparer: Arc<Preparer>,
    pub(crate) committer: CachePadded<Committer>,
    pub(crate) sealing: Mutex<background::Sealing>,
    pub(crate) tier_keeper: Mutex<TierKeeper>,
    pub(crate) merging: Merging,
    pub(crate) snapshots: SnapshotWriter,
    pub(crate) folds: Folds,
    pub(crate) options: Options,
    pub(crate) report: RecoveryReport,
    /// Held by whoever seals.
    pub(crate) seal_turn: Mutex<()>,
    /// Held by whoever compacts.
    pub(crate) compacting: Mutex<Turn>,
    pub(crate) retired: Retired,
    pub(crate) stopping: AtomicBool,
}

impl Inner {
    pub(crate) fn committing(&self) -> Committing<'_> {
        Committing { core: &self.core, writer: &self.writer, preparer: &self.preparer, committer: &self.committer }
    }

    /// What was written up to log offset `end` is flushed as it must be, and durable if that is asked for.
    pub(crate) fn settle_end(&self, durability: Durability, end: u64) -> Result<()> {
        let unknown = |error: Error| Error::OutcomeUnknown { ids: Vec::new(), reason: error.to_string() };
        background::after_append(self).map_err(unknown)?;
        if durability == Durability::Durable {
            self.commit.wait_durable_end(&self.committing(), end).map_err(unknown)?;
        }
        Ok(())
    }

    /// Everything that was written before this call is durable on return; answers the durable head.
    pub(crate) fn sync(&self) -> Result<u64> {
        let (head, end) = {
            let writer = self.writer.lock();
            (writer.head, writer.end)
        };
        self.wait_durable(head)?;
        // What has no position lies behind it.
        self.commit.wait_durable_end(&self.committing(), end)?;
        Ok(self.core.log.watermark.durable())
    }

    /// Everything up to `position` is durable on return.
    pub(crate) fn wait_durable(&self, position: u64) -> Result<()> {
        self.commit.wait_durable(&self.committing(), position)
    }
}

/// The last handle to go closes the store.
#[derive(Debug)]
struct Opened {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<LockGuard>>,
}

impl Opened {
    fn close(&self) -> Result<()> {
        let Some(lock) = self.lock.lock().take() else { return Ok(()) };
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.core.log.watermark.close();
        self.inner.committer.wake();
        self.inner.preparer.wake();
        self.inner.preparer.wake_maker();
        self.inner.merging.wake();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
        compaction::wait_for_the_last(&self.inner);
        background::seal_all(&self.inner);
        if !self.inner.core.log.watermark.is_poisoned() {
            merging::cover_rest(&self.inner);
        }
        // What fails is made good by the next opening, which begins another file.
        let _ = self.inner.snapshots.close(&self.inner);
        self.inner.preparer.release();
        let closed = self.inner.commit.finish(&self.inner.committing());
        merging::wait_for_the_last(&self.inner);
        drop(lock);
        closed
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // Nobody is left to hear of an error; the next opening recovers.
        let _ = self.close();
    }
}

/// An event store in one directory, open for writing and reading. Cheap to clone; all clones are the same store.
///
/// ```
/// use annals::{Expect, NewEvent, Query, Seek, Store};
/// # fn main() -> annals::Result<()> {
/// let store = Store::in_memory()?;
/// store.append("order-1", Expect::NoStream, &[NewEvent::new("OrderPlaced", b"12 pencils")])?;
/// for event in store.read_all(&Query::all(), Seek::Beginning)? {
///     let event = event?;
///     println!("{} {} {:?}", event.position(), event.stream(), event.payload());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    opened: Arc<Opened>,
}

/// A submitted batch: written, and durable once [`Ticket::wait`] returns. Dropping it cancels nothing.
#[must_use = "a ticket that nobody waits for tells nobody whether its batch became durable"]
#[derive(Debug)]
pub struct Ticket {
    inner: Arc<Inner>,
    receipt: Receipt,
    outcome: Outcome,
    /// Log offset up to which acknowledgements of the batch reach, if they are to be durable.
    end: u64,
}

/// The position that an answer rests on: that of the batch, or of what refused it.
pub(crate) type Outcome = std::result::Result<u64, Box<Refused>>;

impl Store {
    /// Opens the store in directory `path` with default [`Options`], creating it if it does not exist.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// A store without files, for tests: the same code on memory, gone when the last handle is.
    ///
    /// # Errors
    /// Only if the system has no memory or randomness to give.
    pub fn in_memory() -> Result<Self> {
        Options::new().open_storage(Arc::new(Memory::new()))
    }

    pub(crate) fn start(inner: Inner, lock: LockGuard) -> Self {
        let inner = Arc::new(inner);
        let threads = if inner.options.background { background::spawn(&inner) } else { Vec::new() };
        Self { opened: Arc::new(Opened { inner, threads: Mutex::new(threads), lock: Mutex::new(Some(lock)) }) }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.opened.inner
    }

    /// Appends events to one stream with the store's default durability.
    ///
    /// Blocks until the commit is acknowledged as that durability promises. Costs one short lock; for `Buffered` no
    /// system call in the ordinary case, for `Durable` one sync shared with all that wait.
    ///
    /// # Errors
    /// `Empty`, `Invalid`; `Conflict` if the expectation does not hold; `DuplicateId`, `PartialDuplicate`; `NoSpace`;
    /// `OutcomeUnknown` if a write or sync failed meanwhile, `Poisoned` after that.
    pub fn append(&self, stream: &str, expect: Expect, events: &[NewEvent<'_>]) -> Result<Receipt> {
        self.commit_events(stream, expect, events, None)
    }

    /// As [`Store::append`], with a durability of its own.
    ///
    /// # Errors
    /// As there.
    pub fn append_with(
        &self,
        stream: &str,
        expect: Expect,
        events: &[NewEvent<'_>],
        durability: Durability,
    ) -> Result<Receipt> {
        self.commit_events(stream, expect, events, Some(durability))
    }

    /// Appends a batch: events to one or many streams, expectations, guards, conditions; wholly or not at all.
    ///
    /// # Errors
    /// As [`Store::append`]; `AheadOfLog` if a condition's `after` lies beyond the log.
    pub fn commit(&self, batch: &Batch<'_>) -> Result<Receipt> {
        let receipt = self.commit_input(&Many(batch))?;
        if !batch.acknowledgements.is_empty() && stands_apart(&receipt) {
            self.inner().settle_end(receipt.durability(), self.inner().core.log.watermark.written_end())?;
        }
        Ok(receipt)
    }

    #[inline]
    fn commit_events(
        &self,
        stream: &str,
        expect: Expect,
        events: &[NewEvent<'_>],
        durability: Option<Durability>,
    ) -> Result<Receipt> {
        match events {
            [event] => self.commit_input(&One { stream, expect, event, durability }),
            _ => self.commit_input(&OfStream { stream, expect, events, durability }),
        }
    }

    #[inline]
    fn commit_input<'a>(&self, input: &impl Input<'a>) -> Result<Receipt> {
        let mut receipt = self.empty_receipt(input);
        let outcome = self.write(input, &mut receipt)?;
        settle(self.inner(), outcome, &receipt)?;
        Ok(receipt)
    }

    #[inline]
    fn empty_receipt<'a>(&self, input: &impl Input<'a>) -> Receipt {
        Receipt::new(input.durability().unwrap_or(self.inner().core.default_durability))
    }

    /// Writes a batch and returns at once with a ticket; blocks only while [`Options::in_flight_bytes`] are in flight.
    /// Tickets of one thread commit in order. A conflict is told by [`Ticket::wait`].
    ///
    /// # Errors
    /// `Empty`, `Invalid`, `NoSpace`, `OutcomeUnknown`, `Poisoned`.
    pub fn submit(&self, batch: &Batch<'_>) -> Result<Ticket> {
        let inner = self.inner();
        inner.committer.wait_for_room(inner)?;
        self.submit_now(&Many(batch))
    }

    /// As [`Store::append`], with a ticket: events of one stream without a [`Batch`].
    ///
    /// # Errors
    /// As [`Store::submit`].
    ///
    /// ```
    /// # use annals::{Expect, NewEvent, Store};
    /// # fn main() -> annals::Result<()> {
    /// let store = Store::in_memory()?;
    /// let ticket = store.submit_to("order-1", Expect::NoStream, &[NewEvent::new("OrderPlaced", b"12 pencils")])?;
    /// // Other work, while the disk is at its own.
    /// assert_eq!(ticket.wait()?.revision().get(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn submit_to(&self, stream: &str, expect: Expect, events: &[NewEvent<'_>]) -> Result<Ticket> {
        let inner = self.inner();
        inner.committer.wait_for_room(inner)?;
        match events {
            [event] => self.submit_now(&One { stream, expect, event, durability: None }),
            _ => self.submit_now(&OfStream { stream, expect, events, durability: None }),
        }
    }

    /// As [`Store::submit`], but answers `Full` instead of waiting.
    ///
    /// # Errors
    /// `Full`, and as there.
    pub fn try_submit(&self, batch: &Batch<'_>) -> Result<Ticket> {
        let inner = self.inner();
        let in_flight = inner.committer.in_flight(inner);
        if in_flight >= inner.options.in_flight_bytes {
            return Err(Error::Full { in_flight });
        }
        self.submit_now(&Many(batch))
    }

    fn submit_now<'a>(&self, input: &impl Input<'a>) -> Result<Ticket> {
        let inner = self.inner();
        let mut receipt = self.empty_receipt(input);
        let outcome = self.write(input, &mut receipt)?;
        let waits_for = must_be_durable(inner, &outcome, &receipt);
        if waits_for > inner.core.log.watermark.durable() {
            inner.committer.request();
        }
        let waits = receipt.durability == Durability::Durable && outcome.is_ok();
        let waits = waits && !input.acknowledgements().is_empty() && stands_apart(&receipt);
        let end = if waits { inner.core.log.watermark.written_end() } else { 0 };
        Ok(Ticket { inner: inner.clone(), receipt, outcome, end })
    }

    /// Judges and writes; what remains is to wait for as much durability as the answer needs.
    #[inline]
    fn write<'a>(&self, input: &impl Input<'a>, receipt: &mut Receipt) -> Result<Outcome> {
        let written = self.inner().writer.lock().append(input, receipt);
        let outcome = answered(self.inner(), written, receipt);
        if !input.removals().is_empty() {
            snapshot::note_unreached(&self.reader_in(View::Written), input.removals(), receipt);
        }
        outcome
    }

    /// Makes durable everything written before this call, and returns the durable head (0: the store is empty).
    ///
    /// # Errors
    /// `Poisoned` if a write or sync failed, now or before.
    pub fn sync(&self) -> Result<u64> {
        self.inner().sync()
    }

    /// Makes room for `bytes` more of log now, on disk and in memory, so that the appends that follow wait neither for the
    /// file system nor for pages: for a burst or an import that is known before. An event takes its payload, names and
    /// metadata and about 60 bytes. What is not used is given back when the store closes.
    ///
    /// Costs the time to allocate the files and to have their pages, in a `Durable` store to write them with zeros: for
    /// 1 GiB up to some seconds.
    ///
    /// # Errors
    /// `NoSpace` if the disk or the quota has no such room; what was made up to then stays.
    ///
    /// ```
    /// # fn main() -> annals::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = annals::Store::open(dir.path().join("orders"))?;
    /// store.reserve(4 << 20)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        let inner = self.inner();
        inner.core.log.check_poison()?;
        let len = inner.writer.lock().active.segment.header.segment_len;
        inner.preparer.reserve(len, bytes)
    }

    /// Verifies every file of the index, and makes anew what is damaged or missing. The index is derived from the log, so
    /// nothing is lost by damage to it; what is damaged is found without this call as well, when somebody comes to it.
    ///
    /// Reads all index files, about 100 bytes an event; the store goes on working meanwhile.
    ///
    /// # Errors
    /// `Corrupt` or `Io` if a segment is damaged that an index has to be made from.
    ///
    /// ```
    /// # use annals::Store;
    /// # fn main() -> annals::Result<()> {
    /// let store = Store::in_memory()?;
    /// assert!(store.check_index()?.rebuilt.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn check_index(&self) -> Result<IndexCheck> {
        merging::check(self.inner())
    }

    /// Makes every file of the index anew from the log, whatever there is of it. Nothing is lost by damage to the index, and
    /// it mends itself; this is for files whose checksums fit wrong content, which
    /// [`inspect::check_index`](crate::inspect::check_index) finds. Calls `progress` with what is done and how much there is.
    ///
    /// Reads all ended segments and writes about as much as all index files take; the store goes on working meanwhile, with
    /// slower look-ups.
    ///
    /// # Errors
    /// `Corrupt` or `Io` if a segment is damaged, `NoSpace`, `Io`: what was made up to then stays, what was not is answered for
    /// by the segments' own indexes, and call it again or let the store make it in time. `Poisoned` if the store is closed.
    ///
    /// ```
    /// # use annals::Store;
    /// # fn main() -> annals::Result<()> {
    /// let store = Store::in_memory()?;
    /// assert!(store.rebuild_index(&mut |_done, _all| ())?.rebuilt.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn rebuild_index(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<IndexCheck> {
        merging::rebuild(self.inner(), progress)
    }

    /// Closes the store cleanly: everything synced, the mark says so. Other clones answer `Poisoned` from then on.
    /// Dropping the last clone does the same, without telling of errors. A compaction that another thread is at is ended and
    /// waited for.
    ///
    /// # Errors
    /// `Poisoned` or `Io` if the last sync failed; what was acknowledged as durable is safe all the same.
    pub fn close(self) -> Result<()> {
        self.opened.close()
    }

    /// A reader of the default view: the durable one in a `Durable` store, the written one in a `Buffered` store.
    pub fn reader(&self) -> Reader {
        self.reader_in(self.inner().core.default_view())
    }

    /// A reader of the view asked for.
    pub fn reader_in(&self, view: View) -> Reader {
        Reader::new(self.inner().core.clone(), view)
    }

    /// Opens the consumer of this name (1–255 bytes, as streams), for this process alone; makes it if it is not there yet.
    /// It goes on where its acknowledgements in the log say. The opening is written with the store's default durability.
    ///
    /// # Errors
    /// `ConsumerBusy` if it is open already, unless [`ConsumerOptions::take_over`]; `Invalid` for a name or query that
    /// cannot be; `AheadOfLog` if it shall start beyond the head; `NoSpace`, `Poisoned`, `OutcomeUnknown` as appending.
    pub fn consumer(&self, name: &str, options: ConsumerOptions) -> Result<Consumer> {
        consumer::open(self.inner(), name, options)
    }

    /// All consumers of the store, open or not, in byte order of their names. Takes the writer's lock for a moment.
    pub fn consumers(&self) -> Vec<ConsumerInfo> {
        let head = self.head();
        let writer = self.inner().writer.lock();
        let consumers = writer.consumers.table.consumers.iter();
        consumers.map(|(name, state)| consumer::info(name, state, head, writer.consumers.is_open(name))).collect()
    }

    /// Puts a consumer, open or not, at another place (positions): it goes on from there. See [`Consumer::reset`].
    ///
    /// # Errors
    /// `Invalid` if there is none of this name; as there.
    pub fn reset_consumer(&self, name: &str, seek: Seek) -> Result<()> {
        consumer::reset(self.inner(), name, seek, self.inner().core.default_durability)
    }

    /// Removes a consumer. False if there is none of this name.
    ///
    /// # Errors
    /// `ConsumerBusy` while it is open; `NoSpace`, `Poisoned`, `OutcomeUnknown` as appending.
    pub fn remove_consumer(&self, name: &str) -> Result<bool> {
        consumer::remove(self.inner(), name)
    }

    /// See [`Reader::checkpoint`].
    pub fn checkpoint(&self, position: u64) -> Checkpoint {
        self.reader().checkpoint(position)
    }

    /// See [`Reader::resume`].
    ///
    /// # Errors
    /// As there.
    pub fn resume(&self, checkpoint: &Checkpoint) -> Result<Seek> {
        self.reader().resume(checkpoint)
    }

    /// The time, by the store's clock.
    pub(crate) fn now(&self) -> u64 {
        self.inner().options.now()
    }

    /// What opening found and did.
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.inner().report
    }

    /// Counters of this opening.
    pub fn stats(&self) -> Stats {
        Stats::of(self.inner())
    }

    /// Position of the last record the default view shows, 0 for an empty store.
    pub fn head(&self) -> u64 {
        self.reader().head()
    }

    /// See [`Reader::read_all`].
    ///
    /// # Errors
    /// As there.
    pub fn read_all(&self, query: &Query, seek: Seek) -> Result<Read> {
        self.reader().read_all(query, seek)
    }

    /// See [`Reader::read_all_back`].
    ///
    /// # Errors
    /// As there.
    pub fn read_all_back(&self, query: &Query, seek: Seek) -> Result<Read> {
        self.reader().read_all_back(query, seek)
    }

    /// See [`Reader::read_stream`].
    ///
    /// # Errors
    /// As there.
    pub fn read_stream(&self, stream: &str, seek: Seek) -> Result<Read> {
        self.reader().read_stream(stream, seek)
    }

    /// See [`Reader::read_stream_back`].
    ///
    /// # Errors
    /// As there.
    pub fn read_stream_back(&self, stream: &str, seek: Seek) -> Result<Read> {
        self.reader().read_stream_back(stream, seek)
    }

    /// See [`Reader::by_id`].
    ///
    /// # Errors
    /// As there.
    pub fn by_id(&self, id: EventId) -> Result<Lookup> {
        self.reader().by_id(id)
    }

    /// See [`Reader::at`].
    ///
    /// # Errors
    /// As there.
    pub fn at(&self, position: Position) -> Result<Option<Event>> {
        self.reader().at(position)
    }

    /// See [`Reader::position_at`].
    ///
    /// # Errors
    /// As there.
    pub fn position_at(&self, time: u64) -> Result<Option<Position>> {
        self.reader().position_at(time)
    }

    /// See [`Reader::stream_state`].
    ///
    /// # Errors
    /// As there.
    pub fn stream_state(&self, stream: &str) -> Result<StreamState> {
        self.reader().stream_state(stream)
    }

    /// See [`Reader::streams`].
    ///
    /// # Errors
    /// As there.
    pub fn streams(&self, prefix: &str) -> Result<Vec<StreamInfo>> {
        self.reader().streams(prefix)
    }

    /// See [`Reader::types`].
    ///
    /// # Errors
    /// As there.
    pub fn types(&self) -> Result<Vec<TypeInfo>> {
        self.reader().types()
    }

    /// See [`Reader::count`].
    ///
    /// # Errors
    /// As there.
    pub fn count(&self, query: &Query) -> Result<u64> {
        self.reader().count(query)
    }

    /// See [`Reader::last`].
    ///
    /// # Errors
    /// As there.
    pub fn last(&self, query: &Query) -> Result<Option<Event>> {
        self.reader().last(query)
    }
}

/// What the writer answered, with what follows outside of its lock.
#[inline]
pub(crate) fn answered(inner: &Inner, written: Result<Appended, Refused>, receipt: &mut Receipt) -> Result<Outcome> {
    let outcome = match written {
        Ok(appended) => {
            if appended.wakes_maker {
                inner.preparer.wake_maker();
            }
            Ok(appended.rests_on)
        }
        Err(refused) => {
            // A conflict is told by the ticket, also that of an empty store, which rests on nothing.
            if refused.rests_on == 0 && !matches!(refused.error, Error::Conflict(_)) {
                return Err(refused.error);
            }
            receipt.events.clear();
            receipt.removals = None;
            Err(Box::new(refused))
        }
    };
    // The batch stands in the ring: what fails from here on leaves its outcome open.
    if let Err(error) = background::after_append(inner) {
        return Err(outcome_unknown(receipt, &error));
    }
    Ok(outcome)
}

/// Up to which position an answer needs the log durable.
///
/// A new batch: as its durability asks. An answer about what is stored already, or a refusal: until the default view
/// shows what it rests on, so that a caller that reads again sees it.
#[inline]
fn must_be_durable(inner: &Inner, outcome: &Outcome, receipt: &Receipt) -> u64 {
    let shown_when_durable = inner.core.default_view() == View::Durable;
    let (wants, rests_on) = match outcome {
        Ok(rests_on) if receipt.durability == Durability::Durable => (true, *rests_on),
        Ok(rests_on) => (receipt.already_committed && shown_when_durable, *rests_on),
        Err(refused) => (shown_when_durable, refused.rests_on),
    };
    if wants && !cfg!(annals_plant = "answer-before-sync") { rests_on } else { 0 }
}

/// Whether what a batch acknowledges stands in another batch than the position that the answer rests on.
fn stands_apart(receipt: &Receipt) -> bool {
    receipt.events().is_empty() || receipt.already_committed()
}

/// What is told when the log failed before an answer could be given.
#[cold]
fn outcome_unknown(receipt: &Receipt, error: &Error) -> Error {
    Error::OutcomeUnknown { ids: receipt.events().iter().map(|event| event.id).collect(), reason: error.to_string() }
}

/// Waits for what the answer needs, and gives it.
#[inline]
pub(crate) fn settle(inner: &Inner, outcome: Outcome, receipt: &Receipt) -> Result<()> {
    let waits_for = must_be_durable(inner, &outcome, receipt);
    if waits_for > 0
        && let Err(error) = inner.wait_durable(waits_for)
    {
        return Err(outcome_unknown(receipt, &error));
    }
    let rests_on = outcome.map_err(|refused| refused.error)?;
    // Nothing is acknowledged after a failure, also not what was only to be written.
    if rests_on > inner.core.log.watermark.durable()
        && let Err(error) = inner.core.log.check_poison()
    {
        return Err(outcome_unknown(receipt, &error));
    }
    Ok(())
}

impl Ticket {
    /// Waits until the batch is acknowledged as its durability promises.
    ///
    /// # Errors
    /// `Conflict`, `DuplicateId`, `PartialDuplicate`; `OutcomeUnknown` if the log failed meanwhile.
    pub fn wait(self) -> Result<Receipt> {
        let waits_for = self.waits_for();
        if self.inner.options.background && waits_for > 0 {
            // A failure is told by `settle`, which finds the log poisoned.
            let _ = self.inner.commit.wait_for_committer(&self.inner.committing(), waits_for);
        }
        settle(&self.inner, self.outcome, &self.receipt)?;
        if self.end > 0 {
            self.inner.settle_end(Durability::Durable, self.end)?;
        }
        Ok(self.receipt)
    }

    /// Whether [`Ticket::wait`] would return without waiting.
    pub fn is_done(&self) -> bool {
        let log = &self.inner.core.log;
        let is_durable =
            || log.watermark.durable() >= self.waits_for() && self.inner.committer.durable_end() >= self.end;
        log.watermark.is_poisoned() || is_durable()
    }

    fn waits_for(&self) -> u64 {
        match &self.outcome {
            Ok(rests_on) if self.receipt.durability == Durability::Durable || self.receipt.already_committed => {
                *rests_on
            }
            Ok(_) => 0,
            Err(refused) => refused.rests_on,
        }
    }

    /// Position of the batch's last record, if it was not refused and anything was written.
    pub fn position(&self) -> Option<Position> {
        self.outcome.as_ref().ok().and_then(|_| self.receipt.last_position())
    }
}
