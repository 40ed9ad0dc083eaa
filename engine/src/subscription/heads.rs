//! Where a subscription learns how far it may read.

use std::fmt::Debug;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use crate::Result;
use crate::core::Core;
use crate::error::Error;
use crate::options::View;
use crate::publish::{Ending, TaskPlace};

/// What may be read now, and whether there will be more.
#[derive(Debug)]
pub(crate) struct Horizon {
    /// Position of the last record that may be handed out. Never falls.
    pub(crate) head: u64,
    pub(crate) end: Option<End>,
}

/// How a subscription ends.
#[derive(Debug)]
pub(crate) enum End {
    /// At once, whatever is left to hand out.
    Now,
    /// When all up to the head has been handed out: with an error, or without.
    AtHead(Option<Error>),
}

/// The source of heads. A subscription asks for the horizon when it has handed out all that it knew of, reads the log up to
/// there through [`HeadSource::core`], and waits here when there is nothing.
pub(crate) trait HeadSource: Debug + Send {
    /// The log to read, as of the last look. It may be another one after each look, with all that the one before held.
    fn core(&self) -> &Arc<Core>;

    /// Looks how far the log may be read now.
    ///
    /// # Errors
    /// Those of looking; they end the subscription.
    fn look(&mut self) -> Result<Horizon>;

    /// Whether everything is over at once, as [`End::Now`]. Asked for each event, so an atomic load at most.
    fn is_closed(&self) -> bool;

    /// Sleeps until a look may answer a head beyond `position` or another end, at most to the deadline. May return early.
    ///
    /// # Errors
    /// Those of looking.
    fn wait_beyond(&mut self, position: u64, deadline: Option<Instant>) -> Result<()>;

    /// Whether a look may answer a head beyond `position` or another end; if not, `waker` is woken when it may.
    ///
    /// # Errors
    /// Those of looking.
    fn wake_beyond(&mut self, position: u64, waker: &Waker) -> Result<bool>;
}

/// The heads of a store in this process.
#[derive(Debug)]
pub(crate) struct OwnHeads {
    core: Arc<Core>,
    view: View,
    place: TaskPlace,
}

impl OwnHeads {
    pub(crate) fn new(core: Arc<Core>, view: View) -> Self {
        Self { core, view, place: TaskPlace::default() }
    }
}

impl HeadSource for OwnHeads {
    fn core(&self) -> &Arc<Core> {
        &self.core
    }

    #[inline]
    fn look(&mut self) -> Result<Horizon> {
        let end = self.core.log.watermark.ending().map(|ending| match ending {
            Ending::Closed => End::Now,
            Ending::Poisoned => End::AtHead(self.core.log.check_poison().err()),
            Ending::Fixed => End::AtHead(None),
        });
        // After the ending: what it shows then is the last.
        Ok(Horizon { head: self.core.head(self.view), end })
    }

    #[inline]
    fn is_closed(&self) -> bool {
        self.core.log.watermark.is_closed()
    }

    fn wait_beyond(&mut self, position: u64, deadline: Option<Instant>) -> Result<()> {
        self.core.log.watermark.wait_beyond(self.view, position, deadline);
        Ok(())
    }

    fn wake_beyond(&mut self, position: u64, waker: &Waker) -> Result<bool> {
        Ok(self.core.log.watermark.wake_beyond(self.view, position, &mut self.place, waker))
    }
}

impl Drop for OwnHeads {
    fn drop(&mut self) {
        self.core.log.watermark.forget(self.view, &mut self.place);
    }
}
