//! Many streams looked up in one call.

use crate::directory;
use crate::error::StreamState;
use crate::name::KeyKind;
use crate::prefetch::prefetch;
use crate::reader::{Ahead, Reader, check_stream_name, tip_of_key};
use crate::{Result, removal};

/// How many streams are at the same step of a look-up: first its name is asked for, then, by its hash, where the directory's
/// rows begin, then row and name there.
const TOGETHER: usize = 8;
/// Steps before the answer.
const STEPS: usize = 3;

impl Reader {
    /// States of many streams, in the order of their names, all at the head of the moment of the call.
    ///
    /// A look-up in a large store waits for memory several times over; here the waits of some names run beside each other, which
    /// [`Reader::stream_state`] cannot do. Allocates the answer.
    ///
    /// # Errors
    /// `Invalid` if a name cannot be one; `Corrupt` or `Io` if the last event of one is damaged.
    ///
    /// ```
    /// # use annals::{Expect, NewEvent, StreamState};
    /// # fn main() -> annals::Result<()> {
    /// let store = annals::Store::in_memory()?;
    /// store.append("order-1", Expect::NoStream, &[NewEvent::new("placed", b"")])?;
    /// let states = store.reader().stream_states(&["order-1", "order-2"])?;
    /// assert_eq!(states[0].last().map(annals::Revision::get), Some(1));
    /// assert_eq!(states[1], StreamState::Absent);
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream_states(&self, streams: &[impl AsRef<str>]) -> Result<Vec<StreamState>> {
        let head = self.head();
        let core = self.core();
        let hidden = self.hidden(head);
        let files = core.directory.load_full();
        let sound = files.sound();
        let coverage = directory::coverage(sound);
        let ahead = Ahead { coverage, live: core.live_alone_after(coverage) };
        let mut keys = [0; STEPS * TOGETHER];
        let mut states = Vec::with_capacity(streams.len());
        for at in 0..streams.len() + STEPS * TOGETHER {
            if let Some(name) = streams.get(at) {
                name.as_ref().as_bytes().first().into_iter().for_each(prefetch);
            }
            let of_step = |step: usize| at.checked_sub(step * TOGETHER);
            if let Some(at) = of_step(1)
                && let Some(name) = streams.get(at)
            {
                check_stream_name(name.as_ref())?;
                let key = core.hash.key(KeyKind::Stream, name.as_ref());
                keys[at % keys.len()] = key;
                directory::prefetch_first(sound, key);
            }
            if let Some(at) = of_step(2)
                && at < streams.len()
            {
                let key = keys[at % keys.len()];
                directory::prefetch(sound, key);
                ahead.live.iter().for_each(|live| live.prefetch(key));
            }
            if let Some(at) = of_step(STEPS)
                && let Some(name) = streams.get(at)
            {
                let name = name.as_ref();
                let tip = tip_of_key(core, keys[at % keys.len()], name, head, Some(&ahead))?;
                states.push(removal::facts_of_newest(core, hidden.as_ref(), name, tip, head)?.state);
            }
        }
        Ok(states)
    }
}
