//! Where a consumer's events come from: a subscription, as anybody's.

use std::time::Instant;

use super::handle::PassedOver;
use crate::options::View;
use crate::query::{Query, Seek};
use crate::reader::Reader;
use crate::subscription::{Message, Next, Subscription};
use crate::{Event, Result};

/// Reads on and on.
#[derive(Debug)]
pub(super) struct Source {
    reader: Reader,
    query: Query,
    /// With the generation of the consumer that it was begun for: after a reset another one is begun, which knows of all that
    /// was removed by then.
    subscription: Option<(u64, Subscription)>,
}

impl Source {
    pub(super) fn new(reader: Reader, query: Query) -> Self {
        Self { reader, query, subscription: None }
    }

    /// Reads up to `most` events behind `after` into `events`, as far as there are any now, for a consumer of this generation.
    /// Answers how far was looked: what lies up to there and is not among the events does not match, or was removed, of which `gaps` tell.
    pub(super) fn read_on(
        &mut self,
        (generation, after): (u64, u64),
        most: usize,
        events: &mut Vec<Event>,
        gaps: &mut Vec<PassedOver>,
    ) -> Result<u64> {
        let mut subscription = match self.subscription.take() {
            Some((of, subscription))
                if of == generation && subscription.position() == after && !subscription.has_ended() =>
            {
                subscription
            }
            _ if self.reader.head() <= after => return Ok(after),
            _ => self.reader.subscribe(&self.query, Seek::After(after))?,
        };
        let mut upto = after;
        while events.len() < most {
            match subscription.try_next()? {
                Next::Message(Message::Event(event)) => {
                    upto = event.position().get();
                    events.push(event);
                }
                Next::Message(Message::CaughtUp { head }) => upto = upto.max(head),
                Next::Message(Message::Gap { first, last, why }) => gaps.push(PassedOver { first, last, why }),
                Next::NotYet | Next::Ended => break,
            }
        }
        if events.len() < most {
            upto = upto.max(subscription.position());
        }
        self.subscription = Some((generation, subscription));
        Ok(upto)
    }

    /// Sleeps until there may be something behind `after`, at most to the deadline.
    pub(super) fn wait(&self, after: u64, deadline: Instant) {
        let core = self.reader.core();
        let view: View = self.reader.view();
        core.log.watermark.wait_beyond(view, after, Some(deadline));
    }
}
