//! Following a store from another process: beside its writer, after it, and with the one that comes next.
//!
//! # What a follower relies on
//!
//! It takes no lock from the writer, writes nothing, and nobody knows that it is there. Three small files tell it what
//! there is to read, all of them changed in place by the writer and mapped here to be read:
//!
//! | file | what it tells | what it is worth |
//! |---|---|---|
//! | `CONTROL` | that there may be more: a word to sleep on | nothing: a hint that saves time |
//! | `MARK` | how far the log is durable, and in which incarnation | all that the durable view shows rests on it |
//! | `RING` | the newest bytes, which the segments may not have yet | what of it verifies is shown in the written view |
//!
//! The writer, for each advance of its durable head: bytes into the segment, fdatasync, the next slot of `MARK`, then its own
//! head, then the word of the control page (release), then the wake. A follower, woken or by the clock: the word (acquire),
//! `MARK`, then (fence) the segment. So whoever finds another word finds the mark that was written before it, and whoever
//! finds the mark finds the bytes that it covers. And because it goes by the mark alone, which is written after the sync and
//! before anything it names is shown by the writer, a follower shows as durable only what a power cut cannot take back,
//! whether its page is fresh, stale or forged, and whether or not a writer lives. It asks for the word before it looks and
//! sleeps only while the word is still that one, so no wake is lost; and it looks by the clock as well, so nothing hangs
//! on the page.
//!
//! Within one incarnation the log only grows, so what was taken stays right. Another incarnation in the mark means that
//! somebody recovered the log: then everything is looked at anew (`look.rs`), and the manifest's list of incarnations tells
//! whether what was shown is part of what there is now. If it is not, or if the directory holds another store, the follower
//! says so ([`Error::Diverged`](crate::Error::Diverged)) and never goes on.

mod heads;
mod look;
mod tail;
mod watched;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use crate::Result;
use crate::control::{CONTROL_NAME, ControlView};
use crate::core::Core;
use crate::error::Error;
use crate::mark::MarkFile;
use crate::options::{Options, View, directory};
use crate::publish::Waiters;
use crate::read_only::{may_be_movement, until_still};
use crate::reader::Reader;
use crate::storage::Storage;

pub(crate) use heads::FollowerHeads;

use look::{Look, look};
use tail::{LogTail, Progress};

/// How often the files are looked for by their names, and the page is not relied on, while a writer announces.
const LOOK_ABOUT: Duration = Duration::from_secs(1);
/// The same while nobody announces.
const LOOK_ABOUT_IDLE: Duration = Duration::from_millis(100);
/// The written view is looked at by the clock, at first this often and at least each millisecond.
const POLL_FIRST: Duration = Duration::from_micros(20);
const POLL_WRITTEN: Duration = Duration::from_millis(1);
/// The same of the durable view where there is no page to sleep on.
const POLL_DURABLE: Duration = Duration::from_millis(5);
/// How often somebody looks who waits for a store to be made.
const POLL_FOR_STORE: Duration = Duration::from_millis(10);

/// Follows a store that another process writes, or this one, or nobody at the moment. Cheap to clone.
///
/// Read-only rights are enough, and no lock is taken: the writer does not know how many follow it. A follower shows the
/// durable view unless [`Options::view`] asks for the written one. It goes on through the writer's end, however that came
/// about, through recovery and reopening, through rolling and sealing.
///
/// Reading ([`Follower::reader`] and the methods of [`ReadEvents`](crate::ReadEvents)) shows all that the writer had made
/// durable (in the written view: acknowledged) when the call began. [`Follower::wait_beyond`] waits for more.
///
/// ```
/// use std::time::Duration;
/// use annals::{Expect, Follower, NewEvent, Query, ReadEvents, Seek, Store};
/// # fn main() -> annals::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("shop");
/// let store = Store::open(&path)?;
/// // In another process:
/// let follower = Follower::open(&path)?;
/// store.append("order-1", Expect::NoStream, &[NewEvent::new("OrderPlaced", b"12 pencils")])?;
/// let head = follower.wait_beyond(0, Duration::from_secs(5))?;
/// assert_eq!(head, 1);
/// assert_eq!(follower.read_all(&Query::all(), Seek::Beginning)?.count(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Follower {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    view: View,
    /// Where to look for the directory again.
    path: Option<PathBuf>,
    core: ArcSwap<Core>,
    control: ArcSwapOption<ControlView>,
    state: Mutex<State>,
    /// Those who wait without a thread of their own.
    tasks: Waiters,
    is_listening: AtomicBool,
}

#[derive(Debug)]
struct State {
    storage: Arc<dyn Storage>,
    tail: LogTail,
    notices: Vec<String>,
    /// What the directory was when it was opened.
    place: Option<Place>,
    /// When to look for the files by their names again.
    look_about_at: Instant,
    /// The history that was shown is not the one that is there.
    diverged: Option<(u64, u64)>,
}

/// What tells one directory from another that takes its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u64, u64);

impl Place {
    #[cfg(unix)]
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(path).ok()?;
        Some(Self(found.dev(), found.ino()))
    }

    #[cfg(not(unix))]
    fn of(_: &Path) -> Option<Self> {
        None
    }
}

/// Opens the store at `path` to follow it, and waits for it if it is to.
pub(crate) fn open(path: &Path, options: Options) -> Result<Follower> {
    let place = Place::of(path);
    let open = || {
        let disk = directory(path, false)?;
        Follower::begin(Arc::new(disk), options.clone(), Some(path.to_owned()), place.or_else(|| Place::of(path)))
    };
    wait_for_store(&options, open)
}

/// The same on any storage.
pub(crate) fn open_storage(storage: Arc<dyn Storage>, options: Options) -> Result<Follower> {
    wait_for_store(&options, || Follower::begin(storage.clone(), options.clone(), None, None))
}

/// Tries until there is a store, as long as the options say.
fn wait_for_store(options: &Options, mut open: impl FnMut() -> Result<Follower>) -> Result<Follower> {
    let deadline = Instant::now().checked_add(options.wait_for_store);
    loop {
        match open() {
            Err(Error::NotAStore { .. }) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {
                std::thread::sleep(POLL_FOR_STORE.min(options.wait_for_store));
            }
            other => return other,
        }
    }
}

impl Follower {
    /// Follows the store in directory `path` with default [`Options`]: in the durable view, and not waiting for a store that
    /// is not there.
    ///
    /// # Errors
    /// As [`Options::follow`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().follow(path)
    }

    fn begin(storage: Arc<dyn Storage>, options: Options, path: Option<PathBuf>, place: Option<Place>) -> Result<Self> {
        let view = options.view.unwrap_or(View::Durable);
        let Look { tail, notices, .. } = until_still(&*storage, || look(&storage, &options, view, None))?;
        let shared = Shared {
            view,
            path,
            core: ArcSwap::new(tail.core.clone()),
            control: ArcSwapOption::new(control_of(&*storage, &tail, &options)),
            state: Mutex::new(State {
                storage,
                tail,
                notices,
                place,
                look_about_at: Instant::now() + LOOK_ABOUT,
                diverged: None,
            }),
            tasks: Waiters::default(),
            is_listening: AtomicBool::new(false),
            options,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The view it shows.
    pub fn view(&self) -> View {
        self.shared.view
    }

    /// A reader of what there is now. It shows more as this follower learns of it, until the store is recovered after an
    /// unclean end; from then on it stays as it is, and another one is to be asked for.
    pub fn reader(&self) -> Reader {
        // What cannot be looked at is told by whoever waits or reads on.
        let _ = self.refresh();
        Reader::of_follower(self.clone(), self.core(), self.shared.view)
    }

    /// As [`Follower::reader`], in the view asked for. A follower of the durable view shows nothing else.
    pub fn reader_in(&self, view: View) -> Reader {
        let _ = self.refresh();
        let view = if self.shared.view == View::Durable { View::Durable } else { view };
        Reader::of_follower(self.clone(), self.core(), view)
    }

    pub(crate) fn core(&self) -> Arc<Core> {
        self.shared.core.load_full()
    }

    /// Position of the last record that was shown to anybody, without looking for more.
    fn known_head(&self, view: View) -> u64 {
        self.shared.core.load().head(view)
    }

    /// Looks for what came since, and returns the head: position of the last record that can be read, 0 in an empty store.
    ///
    /// Costs no system call when nothing came, else some per segment; what came is verified and indexed here. Once a second
    /// (ten times a second while no writer announces itself) directory and files are looked for by their names as well.
    ///
    /// # Errors
    /// `Diverged` if the log no longer holds what was shown; `NotAStore` while there is no store; `Corrupt`, `Unsupported`,
    /// `Io`. After `Diverged` a follower is at its end, after anything else it may be asked again.
    pub fn refresh(&self) -> Result<u64> {
        let mut state = self.shared.state.lock();
        self.look_about_if_due(&mut state, Instant::now())?;
        self.take_all(&mut state)?;
        Ok(self.known_head(self.shared.view))
    }

    /// Waits until there is something beyond `position`, at most for `timeout`, and returns the head, which is not beyond
    /// `position` if nothing came.
    ///
    /// In the durable view it sleeps until the writer wakes it; in the written view, and where the page to sleep on is
    /// missing, it looks again by the clock: the written view at least each millisecond.
    ///
    /// # Errors
    /// As [`Follower::refresh`].
    pub fn wait_beyond(&self, position: u64, timeout: Duration) -> Result<u64> {
        self.wait_for(self.shared.view, position, timeout)
    }

    /// As [`Follower::wait_beyond`], for the head of another view.
    pub(crate) fn wait_for(&self, view: View, position: u64, timeout: Duration) -> Result<u64> {
        let deadline = Instant::now().checked_add(timeout);
        let mut pause = POLL_FIRST;
        loop {
            let control = self.shared.control.load_full();
            // Before looking: what is announced later is not slept over.
            let turn = control.as_ref().map(|control| control.turn());
            let (head, look_about) = self.refresh_beyond(view, position, Instant::now())?;
            if head > position {
                return Ok(head);
            }
            let left = deadline.map_or(LOOK_ABOUT, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(head);
            }
            let limit = left.min(look_about);
            let is_polling = view == View::Written;
            match (&control, turn) {
                (Some(control), Some(turn)) if !is_polling => control.wait(turn, limit),
                (Some(control), Some(turn)) => control.wait(turn, limit.min(pause)),
                _ => std::thread::sleep(limit.min(pause)),
            }
            pause = (pause * 2).min(if is_polling { POLL_WRITTEN } else { POLL_DURABLE });
        }
    }

    /// Whether a process has the store open for writing now; `None` where that cannot be told (on file systems where the
    /// writer makes no control page, or where this process may not look at it). Asking gets into the way of no writer.
    ///
    /// Costs some system calls.
    pub fn is_writer_alive(&self) -> Option<bool> {
        let storage = self.shared.state.lock().storage.clone();
        storage.has_writer(CONTROL_NAME)
    }

    /// Oddities met that did no harm.
    pub fn notices(&self) -> Vec<String> {
        self.shared.state.lock().notices.clone()
    }

    /// As [`Follower::refresh`], but may leave some of what came for the next call once there is something beyond `position`.
    /// Answers the head, and how long until it is to be looked about again.
    fn refresh_beyond(&self, view: View, position: u64, now: Instant) -> Result<(u64, Duration)> {
        let mut state = self.shared.state.lock();
        let look_about = self.look_about_if_due(&mut state, now)?;
        loop {
            let is_more = self.take_some(&mut state)?;
            let head = self.known_head(view);
            if head > position || !is_more {
                return Ok((head, look_about));
            }
        }
    }

    fn take_all(&self, state: &mut State) -> Result<()> {
        while self.take_some(state)? {}
        Ok(())
    }

    /// Takes some of what came; true if there may be more.
    fn take_some(&self, state: &mut State) -> Result<bool> {
        check_diverged(state)?;
        match state.tail.advance() {
            Ok(progress @ (Progress::Same | Progress::Further)) => {
                state.tail.enlist();
                if progress == Progress::Further {
                    self.shared.tasks.notify();
                }
                Ok(progress == Progress::Further)
            }
            Ok(Progress::Elsewhere) => self.look_on(state),
            Err(error) if may_be_movement(&error) => self.look_on(state),
            Err(error) => Err(error),
        }
    }

    /// Looks at everything anew; true if that shows more, behind which there may be more still.
    fn look_on(&self, state: &mut State) -> Result<bool> {
        let before = state.tail.last_position();
        self.look_again(state)?;
        Ok(state.tail.last_position() > before)
    }

    /// Looks at everything anew, and goes on there if it is the same history.
    fn look_again(&self, state: &mut State) -> Result<()> {
        let Shared { options, view, .. } = &*self.shared;
        let storage = state.storage.clone();
        let before = state.tail.core.clone();
        let found = until_still(&*storage, || look(&storage, options, *view, Some(&before)))?;
        let shown = before.head(*view);
        end_if_diverged(state, check_history(&before, &found.tail.core, shown))?;
        // In the middle of a recovery there may be less to see for a moment. Nothing that was shown is taken back.
        if found.tail.core.head(*view) < shown {
            return Ok(());
        }
        state.tail = found.tail;
        state.notices = found.notices;
        self.shared.core.store(state.tail.core.clone());
        self.shared.control.store(control_of(&*storage, &state.tail, options));
        self.shared.tasks.notify();
        Ok(())
    }

    /// Now and then looks for directory and files by their names: what is mapped may be what was there once. Answers when
    /// to look again.
    fn look_about_if_due(&self, state: &mut State, now: Instant) -> Result<Duration> {
        check_diverged(state)?;
        if now >= state.look_about_at {
            self.look_about(state)?;
        }
        let is_announced = self.shared.control.load().as_ref().is_some_and(|control| control.is_open());
        let soon = if is_announced { LOOK_ABOUT } else { LOOK_ABOUT_IDLE };
        state.look_about_at = state.look_about_at.min(now + soon);
        if state.look_about_at <= now {
            state.look_about_at = now + soon;
        }
        Ok(state.look_about_at - now)
    }

    fn look_about(&self, state: &mut State) -> Result<()> {
        state.look_about_at = Instant::now() + LOOK_ABOUT;
        if let Some(path) = &self.shared.path {
            let place = Place::of(path);
            if place.is_none() || place != state.place {
                let disk: Arc<dyn Storage> = Arc::new(directory(path, false)?);
                return self.move_to(state, disk, place);
            }
        }
        let storage = state.storage.clone();
        let found = MarkFile::read(&*storage)?.newest;
        if found.is_some_and(|mark| mark.store != state.tail.basis.store) {
            return self.look_again(state);
        }
        if !state.tail.open_again(&storage)? {
            return self.look_again(state);
        }
        self.shared.control.store(control_of(&*storage, &state.tail, &self.shared.options));
        self.take_all(state)
    }

    /// Another directory has the path now.
    fn move_to(&self, state: &mut State, storage: Arc<dyn Storage>, place: Option<Place>) -> Result<()> {
        let Shared { options, view, .. } = &*self.shared;
        let found = until_still(&*storage, || look(&storage, options, *view, None))?;
        let shown = state.tail.core.head(*view);
        // A copy of the same store, put in its place, may hold less than was shown.
        let head = found.tail.core.head(*view);
        let is_shorter = || if head < shown { Err(Error::Diverged { position: shown, common: head }) } else { Ok(()) };
        let is_same = check_history(&state.tail.core, &found.tail.core, shown).and_then(|()| is_shorter());
        end_if_diverged(state, is_same)?;
        state.storage = storage.clone();
        state.place = place;
        state.tail = found.tail;
        state.notices = found.notices;
        self.shared.core.store(state.tail.core.clone());
        self.shared.control.store(control_of(&*storage, &state.tail, options));
        self.shared.tasks.notify();
        Ok(())
    }
}

fn check_diverged(state: &State) -> Result<()> {
    match state.diverged {
        Some((position, common)) => Err(Error::Diverged { position, common }),
        None => Ok(()),
    }
}

/// After `Diverged` a follower is at its end.
fn end_if_diverged(state: &mut State, is_same: Result<()>) -> Result<()> {
    if let Err(Error::Diverged { position, common }) = is_same {
        state.diverged = Some((position, common));
    }
    is_same
}

/// Whether what was shown of one history is part of the one that is there now.
fn check_history(before: &Core, now: &Core, shown: u64) -> Result<()> {
    now.lineage.resume(&before.lineage.checkpoint(shown)).map(drop)
}

/// The page that the writer of this log announces on, if there is one that can be slept on.
fn control_of(storage: &dyn Storage, tail: &LogTail, options: &Options) -> Option<Arc<ControlView>> {
    // Without maps there is nothing to sleep on.
    if options.read_mode == crate::options::ReadMode::Pread {
        return None;
    }
    let control = ControlView::open(storage)?;
    let header = control.header()?;
    let is_ours =
        header.store == tail.basis.store && (header.incarnation == tail.basis.incarnation || !control.is_open());
    is_ours.then(|| Arc::new(control))
}
