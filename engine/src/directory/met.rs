//! The writer's memory of the streams it has met, bounded by what the directory does not hold yet.
//!
//! Streams come into the *young* table. When that is full it becomes an *old* one as it is, and an empty one takes its place;
//! what is found in an old one moves over. Once the directory covers all that was written before that moment, the old one
//! is let go of: whoever was not met since is asked of the directory. So nothing moves that is not met, and no table
//! grows large, unless the directory stays far behind.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{RoomAhead, StreamNumber, StreamTable, StreamTip};
use crate::name::NameHash;

/// So many streams make the young table full: 8 MiB of memory.
const YOUNG_MAX: usize = 1 << 17;
/// When there are so many old tables the young one grows instead: each is one more place to look for a stream that is new, and
/// a stream may stand in all of them.
const OLD_MAX: usize = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct MetStreams {
    young: StreamTable,
    /// Oldest first.
    old: VecDeque<Old>,
    /// Of streams that are not here only events up to this position are not known here; 0: there are none.
    unknown_up_to: u64,
    young_max: usize,
}

#[derive(Debug)]
struct Old {
    table: StreamTable,
    /// The head when it became old: whatever was written later is in the young table.
    until: u64,
}

/// What [`MetStreams`] let go of.
#[derive(Debug)]
pub(crate) struct ForgottenStreams {
    _tables: Vec<Old>,
}

impl MetStreams {
    /// Of a log that ends at `head`: nothing is known of it.
    pub(crate) fn new(hash: NameHash, head: u64) -> Self {
        Self::full_at(hash, head, YOUNG_MAX)
    }

    fn full_at(hash: NameHash, head: u64, young_max: usize) -> Self {
        Self { young: StreamTable::with_most(hash, young_max), old: VecDeque::new(), unknown_up_to: head, young_max }
    }

    /// Where memory is made ahead for streams to come.
    pub(crate) fn ahead(&self) -> Arc<RoomAhead> {
        self.young.ahead().clone()
    }

    /// As [`MetStreams::new`], full at `young_max` streams.
    #[cfg(test)]
    pub(crate) fn with_room_for(hash: NameHash, head: u64, young_max: usize) -> Self {
        Self::full_at(hash, head, young_max)
    }

    pub(crate) fn hash_of(&self, stream: &str) -> u64 {
        self.young.hash_of(stream)
    }

    /// Number of streams in memory, each counted in every table that has it; names of refused batches are among them.
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.iter().map(|old| old.table.len()).sum::<usize>()
    }

    /// Begins to load what a look-up of this hash will look at.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        self.young.prefetch(hash);
        self.old.iter().for_each(|old| old.table.prefetch(hash));
    }

    /// Makes room for so many more streams: numbers given from now on stay valid while they come. Between two appends;
    /// `head` is the position of the last record.
    #[inline]
    pub(crate) fn reserve(&mut self, streams: usize, head: u64) {
        if self.young.len() + streams > self.young_max {
            self.age(head);
        }
        self.young.reserve(streams);
    }

    #[cold]
    fn age(&mut self, head: u64) {
        if self.old.len() < OLD_MAX && self.young.len() > 0 {
            self.old.push_back(Old { table: self.young.take(self.young_max), until: head });
        }
    }

    /// As if the young table were full.
    #[cfg(test)]
    pub(crate) fn age_now(&mut self, head: u64) {
        self.age(head);
    }

    /// The stream's number, if it was met lately.
    #[inline]
    pub(crate) fn find(&self, hash: u64, stream: &str) -> Option<StreamNumber> {
        self.young.find(hash, stream)
    }

    /// Enters a stream that [`MetStreams::find`] does not find; there is room for it. What is not known of it here `ask`
    /// answers: it is told up to which position there is something to ask for.
    ///
    /// # Errors
    /// Those of `ask`.
    pub(crate) fn meet<E>(
        &mut self,
        hash: u64,
        stream: &str,
        ask: impl FnOnce(u64) -> Result<StreamTip, E>,
    ) -> Result<StreamNumber, E> {
        let tip = self.look_behind(hash, stream, ask)?;
        Ok(self.young.add(hash, stream, tip))
    }

    /// The stream's last event, without entering it.
    ///
    /// # Errors
    /// Those of `ask`.
    pub(crate) fn tip_of<E>(
        &self,
        stream: &str,
        ask: impl FnOnce(u64) -> Result<StreamTip, E>,
    ) -> Result<StreamTip, E> {
        let hash = self.hash_of(stream);
        match self.find(hash, stream) {
            Some(number) => Ok(self.tip(number)),
            None => self.look_behind(hash, stream, ask),
        }
    }

    fn look_behind<E>(
        &self,
        hash: u64,
        stream: &str,
        ask: impl FnOnce(u64) -> Result<StreamTip, E>,
    ) -> Result<StreamTip, E> {
        // Of several that have it the youngest is right.
        for old in self.old.iter().rev() {
            if let Some(number) = old.table.find(hash, stream) {
                return Ok(old.table.tip(number));
            }
        }
        if self.unknown_up_to == 0 { Ok(StreamTip::NONE) } else { ask(self.unknown_up_to) }
    }

    #[inline]
    pub(crate) fn tip(&self, number: StreamNumber) -> StreamTip {
        self.young.tip(number)
    }

    /// Takes the next revision of a stream for the event at `position`.
    #[inline]
    pub(crate) fn advance(&mut self, number: StreamNumber, position: u64) -> u64 {
        self.young.advance(number, position)
    }

    #[inline]
    pub(crate) fn set_tip(&mut self, number: StreamNumber, tip: StreamTip) {
        self.young.set_tip(number, tip);
    }

    /// Lets go of what a directory that covers all up to `coverage` holds as well. What is answered may be dropped when
    /// the writer's lock is free again.
    pub(crate) fn forget_up_to(&mut self, coverage: u64) -> ForgottenStreams {
        let covered = self.old.iter().take_while(|old| old.until <= coverage).count();
        let forgotten: Vec<Old> = self.old.drain(..covered).collect();
        if let Some(last) = forgotten.last() {
            self.unknown_up_to = self.unknown_up_to.max(last.until);
        }
        ForgottenStreams { _tables: forgotten }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn ask(streams: &mut MetStreams, stream: &str, known: Option<StreamTip>) -> StreamTip {
        let hash = streams.hash_of(stream);
        let number = streams.find(hash, stream).unwrap_or_else(|| {
            let answer: Result<_, Infallible> =
                streams.meet(hash, stream, |_| Ok(known.expect("nobody need be asked")));
            answer.expect("no error")
        });
        streams.tip(number)
    }

    /// A new store in which stream `n` is written at position `n`, full at four streams.
    fn written(streams: &mut MetStreams, numbers: std::ops::RangeInclusive<u64>) {
        for n in numbers {
            streams.reserve(1, n - 1);
            let name = format!("stream-{n}");
            let hash = streams.hash_of(&name);
            let number: Result<_, Infallible> = streams.meet(hash, &name, |_| panic!("a new store has nothing"));
            streams.advance(number.expect("no error"), n);
        }
    }

    fn old(streams: &MetStreams) -> Vec<(u64, usize)> {
        streams.old.iter().map(|old| (old.until, old.table.len())).collect()
    }

    #[test]
    fn a_full_table_ages_and_is_let_go_of_when_it_is_covered() {
        let mut streams = MetStreams::with_room_for(NameHash { seed: 9 }, 0, 4);
        written(&mut streams, 1..=12);
        assert_eq!((streams.len(), old(&streams)), (12, vec![(4, 4), (8, 4)]));
        assert_eq!(streams.forget_up_to(3)._tables.len(), 0);
        assert_eq!((streams.forget_up_to(7)._tables.len(), streams.len()), (1, 8));
        let of_directory = StreamTip { revision: 1, position: 2 };
        streams.reserve(1, 12);
        assert_eq!(old(&streams), [(8, 4), (12, 4)]);
        assert_eq!(ask(&mut streams, "stream-2", Some(of_directory)), of_directory);
        // Found in an old table and moved over: it is known when that is gone, and what it has since counts.
        assert_eq!(ask(&mut streams, "stream-9", None), StreamTip { revision: 1, position: 9 });
        let number = streams.find(streams.hash_of("stream-9"), "stream-9").expect("moved over");
        assert_eq!(streams.advance(number, 13), 2);
        streams.age_now(13);
        assert_eq!(ask(&mut streams, "stream-9", None), StreamTip { revision: 2, position: 13 });
        assert_eq!(streams.forget_up_to(12)._tables.len(), 2);
        assert_eq!(ask(&mut streams, "stream-9", None), StreamTip { revision: 2, position: 13 });
        assert_eq!((streams.unknown_up_to, old(&streams)), (12, vec![(13, 2)]));
    }

    #[test]
    fn a_directory_that_stays_behind_has_the_young_table_grow() {
        let mut streams = MetStreams::with_room_for(NameHash { seed: 9 }, 0, 4);
        let last = 4 * OLD_MAX as u64 + 5_000;
        written(&mut streams, 1..=last);
        assert_eq!((streams.old.len(), streams.len() as u64), (OLD_MAX, last));
        for n in [1, 30, last] {
            assert_eq!(ask(&mut streams, &format!("stream-{n}"), None), StreamTip { revision: 1, position: n });
        }
        assert_eq!(streams.forget_up_to(last)._tables.len(), OLD_MAX);
        streams.reserve(1, last);
        assert_eq!(old(&streams).len(), 1, "what grew ages as soon as there is a place");
    }

    #[test]
    fn streams_of_before_are_asked_for_up_to_the_opening() {
        let streams = MetStreams::new(NameHash { seed: 9 }, 7);
        let tip = StreamTip { revision: 3, position: 6 };
        let asked: Result<_, Infallible> = streams.tip_of("a", |up_to| {
            assert_eq!(up_to, 7);
            Ok(tip)
        });
        assert_eq!(asked, Ok(tip));
        assert_eq!(streams.len(), 0);
    }
}
