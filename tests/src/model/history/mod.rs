//! One random history: a store and its model, side by side.

mod appends;
mod compactions;
mod consumer;
mod folds;
mod moments;
mod openings;
mod reads;
mod removals;
mod states;
mod watchers;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;

use annals::inspect::{self, Severity};
use annals::storage::{Memory, Storage};
use annals::{Durability, Options, Store, Ticket, View};

use super::clock::ManualClock;
use super::plain::{Attempt, Plain, Verdict};
use super::states::States;
use super::tally::Tally;
use crate::sim_disk::{Dice, SimDisk};

/// How a history's store is opened.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// With the threads of an open store.
    pub background: bool,
    /// The store's default durability.
    pub durability: Durability,
    /// On a file system where the ring cannot be mapped shared.
    pub private_ring: bool,
    /// Read by ordinary calls.
    pub pread: bool,
}

impl Manner {
    /// Any.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut dice = Dice::of(seed, 0x4d41);
        Self {
            background: dice.chance(1, 2),
            durability: if dice.chance(1, 2) { Durability::Durable } else { Durability::Buffered },
            private_ring: dice.chance(1, 5),
            pread: dice.chance(1, 4),
        }
    }
}

/// A store, its model, and what is outstanding between them.
pub struct History {
    manner: Manner,
    disk: SimDisk,
    clock: ManualClock,
    store: Store,
    plain: Plain,
    /// At least this much is durable.
    durable: u64,
    /// The last `recorded_at`.
    time: u64,
    next_id: u128,
    tickets: Vec<(Ticket, Attempt, Verdict, u64)>,
    full_disk: bool,
    /// A chain of backups, and number, head and snapshots of each point.
    backup: Memory,
    points: Vec<(u64, u64, States)>,
    states: States,
    /// Those of this opening, in the order in which they were registered.
    folds: Vec<folds::Registered>,
    watchers: watchers::Watchers,
    consuming: consumer::Consuming,
    tally: Tally,
    rolls: u64,
    reopens: u64,
    segments: u64,
    trace: VecDeque<String>,
}

/// What went wrong, in words.
pub(super) type Checked<T = ()> = Result<T, String>;

pub(super) fn same<T: PartialEq + Debug>(what: &str, got: &T, wanted: &T) -> Checked {
    if got == wanted { Ok(()) } else { Err(format!("{what}: got {got:?}, the model says {wanted:?}")) }
}

pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

pub(super) fn worked<T>(what: &str, outcome: annals::Result<T>) -> Checked<T> {
    outcome.map_err(|error| format!("{what}: {error} ({error:?})"))
}

/// That a closed store has no damage. An index that found no room is made by the next opening.
pub(super) fn check_sound(what: &str, storage: &dyn Storage) -> Checked {
    let findings = worked(what, inspect::verify_in(storage, &mut |_, _| {}))?.findings;
    let damage: Vec<_> = findings.into_iter().filter(|finding| finding.severity == Severity::Damage).collect();
    ensure(damage.is_empty(), || format!("{what}: {damage:?}"))
}

impl History {
    /// Outcomes that a run must have met: those of appending that need neither removal nor a failing disk.
    pub const OUTCOMES: [&'static str; 37] = [
        "committed",
        "AlreadyCommitted",
        "Conflict",
        "Empty",
        "Invalid",
        "AheadOfLog",
        "DuplicateId",
        "PartialDuplicate",
        "NoSpace",
        "Full",
        "Locked",
        "Poisoned",
        "OutcomeUnknown",
        "not found",
        "removed",
        "unchanged",
        "written",
        "of before a removal",
        "saved",
        "from a snapshot",
        "from the beginning",
        "incomplete",
        "dropped",
        "folded",
        "folded onto another",
        "not folded without a beginning",
        "let go by a fold",
        "event",
        "gap",
        "caught up",
        "by a follower",
        "in the store",
        "to its end",
        "ConsumerBusy",
        "ack",
        "ack_all",
        "ack in a batch",
    ];

    /// Operations that a run must have done.
    pub const OPERATIONS: [&'static str; 48] = [
        "append",
        "append_with",
        "append batch",
        "append submit",
        "append try_submit",
        "wait",
        "sync",
        "read_all",
        "read_all_back",
        "for_each_event",
        "read_stream",
        "read_stream_back",
        "by_id",
        "at",
        "position_at",
        "stream_state",
        "streams",
        "types",
        "count",
        "last",
        "reopen clean",
        "reopen dropped",
        "reopen killed",
        "reopen after a failed sync",
        "read-only",
        "second writer",
        "remove",
        "remove and append",
        "forget",
        "retain",
        "sweep",
        "as of",
        "fork",
        "backup",
        "restore",
        "compact",
        "register",
        "fold",
        "save",
        "load",
        "clean up",
        "watch",
        "watched",
        "a read goes on",
        "a view stays",
        "follower",
        "consumer",
        "acknowledge",
    ];

    /// Begins with an empty store.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn begin(manner: Manner) -> Checked<Self> {
        let disk = if manner.private_ring { SimDisk::new().without_shared_maps() } else { SimDisk::new() };
        let clock = ManualClock::at(1_000_000);
        let store = worked("create", options(manner, &clock).open_storage(Arc::new(disk.clone())))?;
        let segments = store.stats().segments;
        Ok(Self {
            manner,
            disk,
            clock,
            store,
            plain: Plain::default(),
            durable: 0,
            time: 0,
            next_id: 1,
            tickets: Vec::new(),
            full_disk: false,
            backup: Memory::new(),
            points: Vec::new(),
            states: States::default(),
            folds: Vec::new(),
            watchers: watchers::Watchers::default(),
            consuming: consumer::Consuming::default(),
            tally: Tally::default(),
            rolls: 0,
            reopens: 0,
            segments,
            trace: VecDeque::new(),
        })
    }

    /// Runs one history: an operation for each seed.
    ///
    /// # Errors
    /// Where store and model differ, with the last operations.
    pub fn run(manner: Manner, seeds: &[u64]) -> Checked<Tally> {
        let mut history = Self::begin(manner)?;
        for (index, seed) in seeds.iter().enumerate() {
            let outcome = history.step(&mut Dice::new(*seed)).and_then(|()| history.check_heads());
            outcome.map_err(|what| history.report(index, &what))?;
        }
        let ended = history.reopen_clean().and_then(|()| history.check_everything());
        ended.map_err(|what| history.report(seeds.len(), &what))?;
        history.tally.end_history(history.rolls, history.reopens);
        Ok(history.tally)
    }

    fn report(&self, index: usize, what: &str) -> String {
        let trace: Vec<&str> = self.trace.iter().map(String::as_str).collect();
        let (manner, head) = (self.manner, self.plain.head());
        format!("operation {index}: {what}\n  {manner:?}, {head} events\n  {}", trace.join("\n  "))
    }

    fn note(&mut self, what: String) {
        if self.trace.len() == 25 {
            self.trace.pop_front();
        }
        self.trace.push_back(what);
    }

    fn step(&mut self, dice: &mut Dice) -> Checked {
        match dice.below(1000) {
            0..470 => self.append(dice),
            470..496 => self.remove(dice),
            496..501 => self.forget(dice),
            501..510 => self.retain(dice),
            510..522 => self.sweep(),
            522..555 => self.wait_for_tickets(dice),
            555..567 => self.sync(),
            567..605 => self.read_all(dice),
            605..640 => self.read_stream(dice),
            640..680 => self.look_up(dice),
            680..710 => self.list(dice),
            710..728 => self.scan(dice),
            728..740 => self.read_only(),
            740..752 => self.fill_or_free_the_disk(),
            752..760 => self.reopen_clean(),
            760..766 => self.reopen_dropped(),
            766..776 => self.reopen_killed(),
            776..781 => self.reopen_after_a_failed_sync(dice),
            781..785 => self.second_writer(),
            785..792 => self.as_of(dice),
            792..796 => self.fork(dice),
            796..801 => self.backup(),
            801..806 => self.restore(dice),
            806..818 => self.compact(dice),
            818..880 => self.states(dice),
            880..935 => self.consume(dice),
            935..995 => self.watch(dice),
            _ => self.check_everything(),
        }
    }

    /// Head of a view, which lies where the model says it may, at the end of a batch.
    fn head(&mut self, view: View) -> Checked<u64> {
        let head = self.store.reader_in(view).head();
        match view {
            View::Written => same("the written head", &head, &self.plain.head())?,
            View::Durable => {
                ensure(head >= self.durable && head <= self.plain.head(), || {
                    format!("the durable head is {head}, not in {}..={}", self.durable, self.plain.head())
                })?;
                self.check_border(head)?;
                self.durable = head;
            }
        }
        Ok(head)
    }

    fn check_border(&self, head: u64) -> Checked {
        let Some((first, len)) = self.plain.batch_of(head) else { return Ok(()) };
        let last = first + u64::from(len) - 1;
        ensure(last == head, || format!("head {head} lies inside the batch that ends at {last}"))
    }

    fn check_heads(&mut self) -> Checked {
        self.head(View::Written)?;
        self.head(View::Durable)?;
        let segments = self.store.stats().segments;
        self.rolls += segments.saturating_sub(self.segments);
        self.segments = segments;
        Ok(())
    }

    fn view(&self, dice: &mut Dice) -> View {
        if dice.chance(1, 2) { View::Written } else { View::Durable }
    }

    fn sync(&mut self) -> Checked {
        self.note("sync".to_owned());
        let durable = worked("sync", self.store.sync())?;
        same("sync", &durable, &self.plain.head())?;
        self.durable = durable;
        self.consuming.all_safe();
        self.tally.count("sync", "done");
        Ok(())
    }

    fn fill_or_free_the_disk(&mut self) -> Checked {
        self.full_disk = !self.full_disk;
        self.disk.set_capacity(self.full_disk.then_some(0));
        self.note(format!("full disk: {}", self.full_disk));
        Ok(())
    }

    fn free_the_disk(&mut self) {
        self.full_disk = false;
        self.disk.set_capacity(None);
    }
}

pub(super) fn options(manner: Manner, clock: &ManualClock) -> Options {
    let mode = if manner.pread { annals::ReadMode::Pread } else { annals::ReadMode::Mapped };
    Options::new()
        .segment_bytes_max(64 << 10)
        .ring_bytes(64 << 10)
        .in_flight_bytes(24 << 10)
        .durability(manner.durability)
        .background(manner.background)
        .read_mode(mode)
        .clock(Arc::new(clock.clone()))
}
