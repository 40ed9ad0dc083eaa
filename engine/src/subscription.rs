//! Following the log: one loop for what is there and for what comes.

mod feed;
mod heads;

use std::borrow::BorrowMut;
use std::fmt;
use std::ops::ControlFlow;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::event::{Event, EventRef};
use crate::follower::FollowerHeads;
use crate::query::{Query, Seek};
use crate::read::{Direction, Skipped, Step};
use crate::reader::{Reader, RemovalReason};
use crate::store::Store;
use crate::{Position, Result};

use feed::{Borrowed, Feed};
use heads::{End, OwnHeads};

pub(crate) use heads::{HeadSource, Horizon};

/// What a [`Subscription`] hands out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Message {
    /// An event that matches.
    Event(Event),
    /// Events that could have matched stood at these positions and were removed.
    Gap {
        /// First position.
        first: Position,
        /// Last position.
        last: Position,
        /// What removed them.
        why: RemovalReason,
    },
    /// Everything that matches up to `head` has been handed out, and the subscription waits for more. Told at the beginning
    /// and then whenever something was handed out since.
    CaughtUp {
        /// Position up to which the subscription has seen the log; 0 in an empty store.
        head: u64,
    },
}

/// As [`Message`], borrowed: what [`Subscription::for_each_ready`] hands out.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum MessageRef<'a> {
    /// An event that matches.
    Event(EventRef<'a>),
    /// Events that could have matched stood at these positions and were removed.
    Gap {
        /// First position.
        first: Position,
        /// Last position.
        last: Position,
        /// What removed them.
        why: RemovalReason,
    },
}

/// What came of asking a [`Subscription`] for more without waiting for ever.
#[derive(Clone, Debug)]
pub enum Next {
    /// The next thing.
    Message(Message),
    /// Nothing yet; ask again.
    NotYet,
    /// Nothing will come any more: the store is closed.
    Ended,
}

/// Follows the log from a position on: what is there, then what comes, in position order, each matching event once.
///
/// It reads the log itself and has no buffer that could overflow: who is slow is behind, and that is all. Any number of
/// them can be open; each costs the writer nothing while it reads, and next to nothing while it waits. What it shows is what
/// its view shows: that of the [`Reader`] it was made of.
///
/// In a `for` it blocks until something comes. It ends when the store is closed, by whichever of its handles,
/// and at once: what was not handed out by then is there again for who resumes behind [`Subscription::position`]. After a
/// failure of the writer it hands out what is durable, then the error, then nothing more. An error of reading ends it too.
///
/// ```
/// use annals::{Message, Expect, NewEvent, Query, Seek, Store};
/// # fn main() -> annals::Result<()> {
/// let store = Store::in_memory()?;
/// store.append("order-1", Expect::NoStream, &[NewEvent::new("OrderPlaced", b"12 pencils")])?;
/// for message in store.subscribe(&Query::event_type("OrderPlaced"), Seek::Beginning)? {
///     match message? {
///         Message::Event(event) => println!("{} {}", event.position(), event.stream()),
///         // A program that runs on would wait here for what comes.
///         Message::CaughtUp { .. } => break,
///         Message::Gap { first, last, why } => println!("{first} to {last} were removed: {why:?}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a subscription that nobody asks hands out nothing"]
pub struct Subscription {
    heads: Box<dyn HeadSource>,
    feed: Feed,
    /// Whether it is to be told when everything has been handed out.
    owes_caught_up: bool,
    ended: bool,
}

impl Subscription {
    /// What matches `query` behind `position` and was recorded at `since` or later, as far as `heads` let it.
    pub(crate) fn new(heads: Box<dyn HeadSource>, query: Query, position: u64, since: u64) -> Self {
        let feed = Feed::new(heads.core().clone(), query, position, since);
        Self { heads, feed, owes_caught_up: true, ended: false }
    }

    /// Where a subscription from `seek` begins: behind which position, and with which time.
    ///
    /// # Errors
    /// `Invalid`, `AheadOfLog`; those of looking for a time.
    pub(crate) fn start(reader: &Reader, query: &Query, seek: Seek) -> Result<(u64, u64)> {
        query.check()?;
        let head = reader.head();
        let bounds = reader.bounds(seek, Direction::Forward, head)?;
        let since = if let Seek::Time(time) = seek { time } else { 0 };
        Ok((if seek == Seek::End { head } else { bounds.from - 1 }, since))
    }

    /// Everything up to this position has been handed out or passed over; 0 at the very beginning. With
    /// `Seek::After(position)` another subscription goes on exactly where this one stands.
    pub fn position(&self) -> u64 {
        self.feed.position()
    }

    /// Whether it has ended: nothing will be handed out any more.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The next thing, if there is one now. Never waits: for loops that have other things to do, or that spin.
    ///
    /// Costs an atomic load when nothing came.
    ///
    /// # Errors
    /// `Poisoned` when the writer has failed and all that is durable has been handed out; `Corrupt` or `Io` at what is
    /// damaged. An error ends the subscription.
    pub fn try_next(&mut self) -> Result<Next> {
        if self.ended {
            return Ok(Next::Ended);
        }
        let next = self.step();
        self.ended = matches!(next, Err(_) | Ok(Next::Ended));
        next
    }

    /// The next thing, waited for at most so long. A time-out of zero is [`Subscription::try_next`].
    ///
    /// # Errors
    /// As there.
    ///
    /// ```
    /// use std::time::Duration;
    /// use annals::{Message, Next, Query, Seek, Store};
    /// # fn main() -> annals::Result<()> {
    /// let store = Store::in_memory()?;
    /// let mut subscription = store.subscribe(&Query::all(), Seek::Beginning)?;
    /// assert!(matches!(subscription.next_within(Duration::ZERO)?, Next::Message(Message::CaughtUp { head: 0 })));
    /// assert!(matches!(subscription.next_within(Duration::from_millis(1))?, Next::NotYet));
    /// store.close()?;
    /// assert!(matches!(subscription.next_within(Duration::from_secs(1))?, Next::Ended));
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_within(&mut self, timeout: Duration) -> Result<Next> {
        let next = self.try_next()?;
        if !matches!(next, Next::NotYet) || timeout.is_zero() {
            return Ok(next);
        }
        // One beyond all clocks is as good as none.
        self.wait_for_next(Instant::now().checked_add(timeout))
    }

    /// The next thing, waited for as long as it takes; `None` at the end.
    ///
    /// # Errors
    /// As [`Subscription::try_next`].
    pub fn next_message(&mut self) -> Result<Option<Message>> {
        let next = match self.try_next()? {
            Next::NotYet => self.wait_for_next(None)?,
            next => next,
        };
        Ok(if let Next::Message(message) = next { Some(message) } else { None })
    }

    /// Everything from here on, waited for: what `for message in &mut subscription` goes through.
    pub fn iter(&mut self) -> Messages<&mut Self> {
        Messages(self)
    }

    fn wait_for_next(&mut self, deadline: Option<Instant>) -> Result<Next> {
        loop {
            if let Err(error) = self.heads.wait_beyond(self.feed.until(), deadline) {
                self.ended = true;
                return Err(error);
            }
            let next = self.try_next()?;
            if !matches!(next, Next::NotYet) || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(next);
            }
        }
    }

    /// Hands everything that matches and is there now to `each` as a borrowed view, until it breaks: the fastest form,
    /// without a reference count per event. Never waits; `Some` is what `each` broke with. Does not tell of having caught up:
    /// that is so when it returns `None`.
    ///
    /// # Errors
    /// As [`Subscription::try_next`].
    pub fn for_each_ready<B>(&mut self, mut each: impl FnMut(MessageRef<'_>) -> ControlFlow<B>) -> Result<Option<B>> {
        let handed_out = self.run_ready(&mut each);
        self.ended |= handed_out.is_err();
        handed_out
    }

    fn run_ready<B>(&mut self, each: &mut impl FnMut(MessageRef<'_>) -> ControlFlow<B>) -> Result<Option<B>> {
        while !self.ended {
            if self.heads.is_closed() {
                self.ended = true;
                break;
            }
            let Self { heads, feed, owes_caught_up, .. } = self;
            let broken = feed.run(
                || heads.is_closed(),
                |next| {
                    *owes_caught_up = true;
                    each(match next {
                        Borrowed::Event(event) => MessageRef::Event(event),
                        Borrowed::Skipped(skipped) => {
                            let (first, last) = ends(skipped);
                            MessageRef::Gap { first, last, why: skipped.why }
                        }
                    })
                },
            )?;
            if broken.is_some() {
                return Ok(broken);
            }
            if self.feed.position() == self.feed.until() {
                match self.look()? {
                    Sight::More => {}
                    Sight::Nothing => break,
                    Sight::LastHead | Sight::Closed => self.ended = true,
                }
            }
        }
        Ok(None)
    }

    /// Waits until there is something to look at beyond what was handed out, the end included; false if there was nothing
    /// within the time-out. For use with [`Subscription::for_each_ready`] and [`Subscription::try_next`].
    ///
    /// # Errors
    /// As [`Subscription::try_next`].
    pub fn wait(&mut self, timeout: Duration) -> Result<bool> {
        if self.ended || self.feed.position() < self.feed.until() {
            return Ok(true);
        }
        let deadline = Instant::now().checked_add(timeout);
        loop {
            match self.look() {
                Ok(Sight::Nothing) => {}
                Ok(_) => return Ok(true),
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
            if let Err(error) = self.heads.wait_beyond(self.feed.until(), deadline) {
                self.ended = true;
                return Err(error);
            }
        }
    }

    /// The next thing for a task: if there is nothing yet, the task is woken when there may be. `None` at the end.
    ///
    /// This is what the `Stream` behind the feature `async` does, and needs no runtime.
    pub fn poll_next_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message>>> {
        loop {
            match self.try_next() {
                Ok(Next::Message(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(Next::Ended) => return Poll::Ready(None),
                Ok(Next::NotYet) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match self.heads.wake_beyond(self.feed.until(), context.waker()) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    #[inline]
    fn step(&mut self) -> Result<Next> {
        loop {
            if self.heads.is_closed() {
                return Ok(Next::Ended);
            }
            if let Some(step) = self.feed.next()? {
                self.owes_caught_up = true;
                return Ok(Next::Message(match step {
                    Step::Event(event) => Message::Event(event),
                    Step::Skipped(skipped) => {
                        let (first, last) = ends(skipped);
                        Message::Gap { first, last, why: skipped.why }
                    }
                }));
            }
            match self.look()? {
                Sight::More => {}
                Sight::Closed => return Ok(Next::Ended),
                Sight::Nothing | Sight::LastHead if self.owes_caught_up => {
                    self.owes_caught_up = false;
                    return Ok(Next::Message(Message::CaughtUp { head: self.feed.until() }));
                }
                Sight::Nothing => return Ok(Next::NotYet),
                Sight::LastHead => return Ok(Next::Ended),
            }
        }
    }

    /// Looks how far the log goes now, when all that was known of it has been handed out.
    #[inline]
    fn look(&mut self) -> Result<Sight> {
        let Horizon { head, end } = self.heads.look()?;
        if matches!(end, Some(End::Now)) {
            return Ok(Sight::Closed);
        }
        if head > self.feed.until() {
            self.feed.extend(self.heads.core(), head)?;
            return Ok(Sight::More);
        }
        match end {
            Some(End::AtHead(Some(error))) => Err(error),
            Some(_) => Ok(Sight::LastHead),
            None => Ok(Sight::Nothing),
        }
    }
}

/// What a look at the heads showed.
enum Sight {
    More,
    Nothing,
    /// Nothing, and there never will be.
    LastHead,
    Closed,
}

fn ends(skipped: Skipped) -> (Position, Position) {
    let position = |at| Position::new(at).expect("positions start at 1");
    (position(skipped.first), position(skipped.last))
}

#[cfg(feature = "async")]
#[cfg_attr(docsrs, doc(cfg(feature = "async")))]
impl futures_core::Stream for Subscription {
    type Item = Result<Message>;

    fn poll_next(self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Message>>> {
        self.get_mut().poll_next_message(context)
    }
}

/// The messages of a subscription, waited for: what a `for` goes through. Ends with the subscription.
///
/// Made by [`Subscription::iter`], or by `for message in subscription` and `for message in &mut subscription`. It remembers
/// nothing itself: after a borrowed one the subscription stands behind the last message that it handed out.
#[derive(Debug)]
#[must_use = "an iterator that nobody asks hands out nothing"]
pub struct Messages<S>(S);

impl<S: BorrowMut<Subscription>> Iterator for Messages<S> {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Result<Message>> {
        self.0.borrow_mut().next_message().transpose()
    }
}

impl<S: BorrowMut<Subscription>> std::iter::FusedIterator for Messages<S> {}

// Not an iterator itself: `Iterator::position` would stand before `Subscription::position` wherever one is borrowed.
impl IntoIterator for Subscription {
    type Item = Result<Message>;
    type IntoIter = Messages<Self>;

    fn into_iter(self) -> Messages<Self> {
        Messages(self)
    }
}

impl IntoIterator for &mut Subscription {
    type Item = Result<Message>;
    type IntoIter = Messages<Self>;

    fn into_iter(self) -> Messages<Self> {
        Messages(self)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("position", &self.position())
            .field("has_ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Follows this reader's view from `seek` (positions) on: events that match `query`, in position order, those that are
    /// there and those that come. See [`Subscription`].
    ///
    /// A reader of a store that was opened for reading only shows one look at the log: what follows it ends when all of that
    /// has been handed out.
    ///
    /// # Errors
    /// As [`Reader::read_all`].
    pub fn subscribe(&self, query: &Query, seek: Seek) -> Result<Subscription> {
        let (position, since) = Subscription::start(self, query, seek)?;
        let (core, view) = (self.core().clone(), self.view());
        let heads: Box<dyn HeadSource> = match self.follower() {
            Some(follower) => Box::new(FollowerHeads::new(follower.clone(), core, view)),
            None => Box::new(OwnHeads::new(core, view)),
        };
        Ok(Subscription::new(heads, query.clone(), position, since))
    }
}

impl Store {
    /// Follows the default view from `seek` (positions) on: the durable one in a `Durable` store, the written one in a
    /// `Buffered` store. See [`Subscription`]; another view is followed by [`Reader::subscribe`].
    ///
    /// # Errors
    /// As [`Reader::read_all`].
    pub fn subscribe(&self, query: &Query, seek: Seek) -> Result<Subscription> {
        self.reader().subscribe(query, seek)
    }
}
