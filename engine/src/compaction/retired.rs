//! Files that compaction has put others in the place of, and who still copies them.

use parking_lot::Mutex;

use crate::storage::Storage;

/// What a backup or fork of this process reads is removed when it is done: it takes what it began with.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    holders: usize,
    names: Vec<String>,
}

impl Retired {
    /// Removes a file, or leaves it to the last who holds it; answers what went wrong. The next opening for writing removes
    /// what stays.
    pub(super) fn remove(&self, storage: &dyn Storage, name: String) -> Option<String> {
        let mut state = self.state.lock();
        if state.holders > 0 {
            state.names.push(name);
            return None;
        }
        storage.remove(&name).err().map(|error| format!("{name} cannot be removed: {error}"))
    }

    /// While `read` runs no file is removed.
    pub(crate) fn held<T>(&self, storage: &dyn Storage, read: impl FnOnce() -> T) -> T {
        struct Held<'a>(&'a Retired, &'a dyn Storage);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                let mut state = self.0.state.lock();
                state.holders -= 1;
                if state.holders == 0 {
                    for name in state.names.drain(..) {
                        let _ = self.1.remove(&name);
                    }
                }
            }
        }
        self.state.lock().holders += 1;
        let _held = Held(self, storage);
        read()
    }
}
