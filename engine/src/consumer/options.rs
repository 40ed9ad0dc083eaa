//! How a consumer works.

use std::time::Duration;

use crate::append::Durability;
use crate::query::{Query, Seek};

/// When an event that failed is tried again, and when no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    pub(crate) attempts: u32,
    pub(crate) first: Duration,
    pub(crate) most: Duration,
}

impl Default for Retry {
    /// Five tries; 100 ms before the second, twice as long before each further one.
    fn default() -> Self {
        Self { attempts: 5, first: Duration::from_millis(100), most: Duration::from_secs(60) }
    }
}

impl Retry {
    /// An event is tried so often (at least once) before it is parked.
    pub fn times(attempts: u32) -> Self {
        Self { attempts: attempts.max(1), ..Self::default() }
    }

    /// An event is tried until it succeeds.
    pub fn for_ever() -> Self {
        Self { attempts: u32::MAX, ..Self::default() }
    }

    /// The pause before the second try; each further one is twice as long, up to `most`.
    pub fn pause(mut self, first: Duration, most: Duration) -> Self {
        (self.first, self.most) = (first, most);
        self
    }

    /// The pause after so many failures; `None`: no further try.
    pub(crate) fn after(&self, failures: u32) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        let doublings = failures.saturating_sub(1).min(31);
        Some(self.first.checked_mul(1 << doublings).unwrap_or(self.most).min(self.most))
    }
}

/// What a consumer reads, and how it goes about it.
///
/// ```
/// use annals::{ConsumerOptions, Query, Retry, Seek};
/// let options = ConsumerOptions::new()
///     .query(Query::prefix("order-"))
///     .start(Seek::Beginning)
///     .retry(Retry::times(3))
///     .lanes(4);
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    pub(crate) query: Query,
    pub(crate) start: Seek,
    pub(crate) retry: Retry,
    pub(crate) lanes: usize,
    pub(crate) window: usize,
    pub(crate) durability: Durability,
    pub(crate) take_over: bool,
    pub(crate) hold: Option<u64>,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            query: Query::all(),
            start: Seek::Beginning,
            retry: Retry::default(),
            lanes: 1,
            window: 1024,
            durability: Durability::Buffered,
            take_over: false,
            hold: None,
        }
    }
}

impl ConsumerOptions {
    /// All events from the beginning, one lane.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which events it is given. Not kept in the store: another query at the next opening goes on from the same place.
    pub fn query(mut self, query: Query) -> Self {
        self.query = query;
        self
    }

    /// Where a consumer that is not there yet begins (positions). One that is there goes on where it was.
    pub fn start(mut self, start: Seek) -> Self {
        self.start = start;
        self
    }

    /// What becomes of events that fail.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// How many workers share the events: each stream belongs to one of them. At least 1.
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = lanes.clamp(1, 1024);
        self
    }

    /// How many events may be read and not yet finished. Events that wait behind a failed one of their stream do not count,
    /// up to 64 times as many. At least 1.
    pub fn window(mut self, events: usize) -> Self {
        self.window = events.clamp(1, 1 << 20);
        self
    }

    /// When an acknowledgement by itself is answered: `Buffered` unless asked otherwise. In a batch, the batch says.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// While it is open, sweeps keep what it has not passed yet, but never more than the newest so many positions: who is
    /// slower than that finds a gap ([`super::Consumer::passed_over`]). Without it policies do not wait for anybody. Removals
    /// by name are never held back.
    pub fn hold(mut self, positions: u64) -> Self {
        self.hold = Some(positions);
        self
    }

    /// Open it although it is open in this process; what was handed out there can no longer be acknowledged.
    pub fn take_over(mut self, take_over: bool) -> Self {
        self.take_over = take_over;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let retry = Retry::times(5).pause(Duration::from_millis(100), Duration::from_millis(350));
        let pauses: Vec<_> = (1..=5).map(|failures| retry.after(failures).map(|pause| pause.as_millis())).collect();
        assert_eq!(pauses, [Some(100), Some(200), Some(350), Some(350), None]);
        assert_eq!(Retry::for_ever().after(1_000_000), Some(Duration::from_secs(60)));
        assert_eq!(Retry::times(0).after(1), None);
    }
}
