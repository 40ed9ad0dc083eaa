//! The publish protocol: how what one writer stores becomes visible to many readers, and how those learn of it who wait.
//!
//! ```text
//!   an append                       who leads a sync                    readers
//!   ---------                       ----------------                    -------
//!   bytes, index entries            flush, fdatasync, mark              head      (one acquire load)
//!   written_end, written  ------->  durable  ------------------------>  bytes and entries up to it
//!      |  once a batch                 |  once a group
//!      v                               v
//!   anybody waiting?                durable_waiters: one wake           wait_beyond, wake_beyond
//!      |  a fence and a load        Announce: once, uncounted              sleep, or leave a waker
//!      v                            sync_waiters: one wake
//!   notifier (a thread): one wake for all, looks by the clock while batches come
//! ```
//!
//! # Who writes what
//!
//! `written` and `written_end` belong to the thread that holds the writer's lock; it stores them once a batch, last of all.
//! `durable` moves in the hands of who leads a sync, of whom there is one at a time (`Commit::leading`; at the close there
//! may be two, hence [`raise`]). `flushed` moves under the lock of flushing, or where a long batch goes around the ring.
//! `low` belongs to the writer. `state` is only ever added to. Readers write nothing, but for the counts of [`Waiters`] when
//! they have read everything and mean to sleep.
//!
//! # What pairs with what
//!
//! Each ordering has a name. With `cfg(annals_weaken = "NAME")` it is relaxed (a fence: absent), and the program
//! `tests/src/bin/weaken.rs` shows of each that then a model fails (`tests/models`). What is relaxed here without a name needs
//! nothing: loom found no execution that would tell the difference.
//!
//! | stored | loaded | what would go wrong |
//! |---|---|---|
//! | `written-shown` release, after bytes and entries | `written-seen` acquire, before them | a head without its batch |
//! | `written-end-shown`, `written-end-extended` release | `written-end-seen` acquire | a flush of ring bytes that are not there yet |
//! | `flushed-shown` release, after the `pwrite` | `flushed-seen` acquire | a look at the file before it holds the bytes |
//! | `durable-shown` release, after the sync | `durable-seen` acquire | a durable head without its batches; these reach the leader by the writer's lock |
//! | `low-raised`, a release fence between raising `low` and overwriting | `low-seen`, an acquire fence between copying and looking at `low` | a copy of overwritten bytes taken for good |
//! | `poison-shown` release, after the reason and the last durable head | `poison-seen`, `ending-seen` acquire | a failure without a reason; an end before the last head |
//!
//! That nobody sleeps through what it waits for rests on fences in pairs. Both sides store, pass a full fence, and load what
//! the other stored: so one of them at least sees the other.
//!
//! | who shows | | who waits | |
//! |---|---|---|---|
//! | stores a head; `written-fence`, `notify-fence` | loads the count | counts itself; `wait-fence` | loads the head |
//! | the same | the same | leaves a waker; `waker-fence` | loads the head |
//! | stores a head; `written-fence` | loads whether the notifier is asleep | the notifier stores that it is; `asleep-fence` | loads the head |
//! | stores that all is over; `ending-fence` | wakes whoever there is | looks at the word, `turn-seen` | loads the state |
//!
//! Who shows and saw somebody changes the word that sleepers sleep on and then wakes them. A sleeper looked at the word
//! (`turn-seen`, acquire, which pairs with the fence before the change), then at the head, then sleeps only while the word is
//! the same: either it saw the head, or the word has changed and the futex does not let it sleep, or it sleeps and is woken.
//! The notifier looks at its own word without an order, since it passes `asleep-fence` between that and its last look at the
//! head; before it sleeps for a while only, no more than that while is at stake.
//!
//! With the notifier there are two things that an append loads behind its fence, the notifier's state and then the count. If it
//! saw the notifier awake it leaves all to it: the notifier, before it sleeps, passes its own fence and sees the head. It may
//! then see no count, when the waiter counts itself just now: then the waiter's fence comes after the notifier's, so after the
//! append's, and the waiter sees the head itself.
//!
//! # Who pays
//!
//! To wake a thread of an idle processor costs the waker 12 µs, many times an append. So an append never does it while
//! batches come: it passes a fence, loads the notifier's state, which changes once a pause, and is done; it takes no line of
//! memory back from those who wait. The fence is what an append pays when nobody waits. Without it a model fails; a lock that
//! both sides take would do as well, but then whoever goes to sleep could hold up the writer; and a barrier that the waiter
//! alone pays for (`membarrier`) is neither everywhere nor known to the models. Waiters of the *written* head
//! are woken by the [`notifier`], a thread that looks for new heads by the clock: a hundred microseconds for each that it woke after
//! they were woken, since each takes time of a processor and lines from the writer's cache; a sixteenth of the pause apart when
//! heads come seldom; a millisecond apart at most. After a tenth of a second without, it falls asleep, and the next append wakes
//! it: one wake a pause. Where there is no such thread the append wakes the waiters itself.
//!
//! Waiters of the *durable* head are woken by who led the sync, with one system call for all of them, before the leader wakes
//! those who wait for their own commits; it has just waited for the disk. Those outside of the process cannot be counted:
//! [`Announce::durable`] is called once for each advance of the durable head, and never for a batch that is not synced.

mod announce;
mod notifier;
mod sync;
mod waiters;
mod watermark;

pub(crate) use announce::Announce;
pub(crate) use sync::{AtomicU64, Lock, raise};
pub(crate) use waiters::{TaskPlace, Waiters};
pub(crate) use watermark::{Ending, Watermark};

#[cfg(test)]
mod tests;
