//! A subscription to a follower: where it learns how far it may read, and what wakes its task.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::{Follower, Shared};
use crate::Result;
use crate::core::Core;
use crate::error::Error;
use crate::options::View;
use crate::publish::TaskPlace;
use crate::query::{Query, Seek};
use crate::subscription::{HeadSource, Horizon, Subscription};

/// How long the thread that wakes tasks sleeps at most: then it looks whether anybody still follows.
const LISTEN: Duration = Duration::from_millis(250);

/// The heads of another process.
#[derive(Debug)]
pub(crate) struct FollowerHeads {
    follower: Follower,
    core: Arc<Core>,
    view: View,
    place: TaskPlace,
}

impl FollowerHeads {
    pub(crate) fn new(follower: Follower, core: Arc<Core>, view: View) -> Self {
        Self { follower, core, view, place: TaskPlace::default() }
    }
}

impl HeadSource for FollowerHeads {
    fn core(&self) -> &Arc<Core> {
        &self.core
    }

    fn look(&mut self) -> Result<Horizon> {
        let known = self.core.head(self.view);
        self.follower.refresh_beyond(self.view, known, Instant::now())?;
        self.core = self.follower.core();
        Ok(Horizon { head: self.core.head(self.view), end: None })
    }

    /// It goes on as long as somebody asks, whatever becomes of the writer.
    fn is_closed(&self) -> bool {
        false
    }

    fn wait_beyond(&mut self, position: u64, deadline: Option<Instant>) -> Result<()> {
        let limit = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        self.follower.wait_for(self.view, position, limit).map(|_| ())
    }

    fn wake_beyond(&mut self, position: u64, waker: &Waker) -> Result<bool> {
        self.follower.listen()?;
        self.follower.shared.tasks.leave_waker(&mut self.place, waker);
        Ok(self.look()?.head > position)
    }
}

impl Drop for FollowerHeads {
    fn drop(&mut self) {
        self.follower.shared.tasks.forget(&mut self.place);
    }
}

impl Follower {
    /// Follows on from `seek` (positions): events that match `query`, in position order, those that are there and those that
    /// come, each once. See [`Subscription`]: the same as on a store, but that it does not end when the store is closed; it
    /// goes on with the next writer. It ends with an error: `Diverged` if the log is no longer the one that was shown.
    ///
    /// Waiting for it sleeps as [`Follower::wait_beyond`] does. As a task (feature `async`) it is woken by a thread of the
    /// follower, which is started the first time.
    ///
    /// # Errors
    /// As [`Reader::read_all`](crate::Reader::read_all); those of [`Follower::refresh`].
    ///
    /// ```
    /// use annals::{Message, Expect, Follower, NewEvent, Query, Seek, Store};
    /// # fn main() -> annals::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("shop");
    /// let store = Store::open(&path)?;
    /// store.append("order-1", Expect::NoStream, &[NewEvent::new("OrderPlaced", b"12 pencils")])?;
    /// // In another process:
    /// let follower = Follower::open(&path)?;
    /// for message in follower.subscribe(&Query::event_type("OrderPlaced"), Seek::Beginning)? {
    ///     match message? {
    ///         Message::Event(event) => println!("{} {}", event.position(), event.stream()),
    ///         // A program that runs on would wait here for what comes.
    ///         Message::CaughtUp { .. } => break,
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe(&self, query: &Query, seek: Seek) -> Result<Subscription> {
        self.refresh()?;
        self.reader().subscribe(query, seek)
    }

    /// Starts the thread that wakes tasks, if it does not run yet. It ends when nobody follows any more.
    fn listen(&self) -> Result<()> {
        if self.shared.is_listening.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let shared = Arc::downgrade(&self.shared);
        let started = std::thread::Builder::new().name("annals-follower".to_owned()).spawn(move || run(&shared));
        started.map(drop).map_err(|error| {
            self.shared.is_listening.store(false, Ordering::Release);
            Error::io("start", "a thread to follow with")(error)
        })
    }
}

fn run(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let follower = Follower { shared };
        let view = follower.view();
        if follower.wait_for(view, follower.core().head(view), LISTEN).is_err() {
            // Whoever is woken finds it by its own look.
            follower.shared.tasks.notify();
            std::thread::sleep(LISTEN);
        }
    }
}
