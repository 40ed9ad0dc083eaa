//! Memory for the writer's next table of streams, made before it is wanted: to be given megabytes and to touch them for
//! the first time takes milliseconds, which no append should wait for.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::storage::SharedMap;

/// Between the writer, who asks, and a background thread, which makes. Without one the writer makes its own.
#[derive(Debug, Default)]
pub(crate) struct RoomAhead {
    /// Words asked for; 0: none.
    wanted: AtomicUsize,
    ready: Mutex<Option<SharedMap>>,
}

impl RoomAhead {
    /// Asks for so many words, in time for [`RoomAhead::take`].
    pub(super) fn ask(&self, words: usize) {
        self.wanted.store(words, Ordering::Relaxed);
    }

    /// Makes what was asked for; for a background thread. Costs a load if nothing was.
    pub(crate) fn make(&self) {
        if self.wanted.load(Ordering::Relaxed) == 0 {
            return;
        }
        let words = self.wanted.swap(0, Ordering::Relaxed);
        if words > 0 {
            let memory = SharedMap::zeroed_words(words);
            memory.bring_in(words);
            *self.ready.lock() = Some(memory);
        }
    }

    /// So many words, all zero.
    pub(super) fn take(&self, words: usize) -> SharedMap {
        self.wanted.store(0, Ordering::Relaxed);
        // Whoever holds the lock only puts in or takes out.
        let ready = self.ready.lock().take();
        ready.filter(|memory| memory.as_words().len() == words).unwrap_or_else(|| SharedMap::zeroed_words(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_there_once() {
        let room = RoomAhead::default();
        room.make();
        assert!(room.ready.lock().is_none(), "nothing was asked for");
        room.ask(1 << 10);
        room.make();
        let made = room.ready.lock().as_ref().map(|memory| memory.as_words().as_ptr());
        assert_eq!(Some(room.take(1 << 10).as_words().as_ptr()), made);
        let other = room.take(1 << 10);
        assert_eq!(other.as_words().len(), 1 << 10);
    }

    #[test]
    fn what_was_made_for_another_need_is_let_go_of() {
        let room = RoomAhead::default();
        room.ask(1 << 10);
        room.make();
        assert_eq!(room.take(1 << 11).as_words().len(), 1 << 11);
        assert!(room.ready.lock().is_none());
        room.ask(1 << 10);
        assert_eq!(room.take(1 << 10).as_words().len(), 1 << 10);
        room.make();
        assert!(room.ready.lock().is_none(), "whoever took made its own, and wants no more");
    }
}
