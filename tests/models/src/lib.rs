//! The engine's room `publish`, word for word, with the atomics of a model checker.
//!
//! ```text
//! cargo test --release -p annals-models -- --nocapture    # every execution
//! cargo run -p annals-tests --bin weaken                  # is each ordering needed?
//! ```
#![allow(dead_code, reason = "a model needs a part of the room")]

#[path = "../../../engine/src/publish"]
pub(crate) mod publish {
    mod announce;
    mod notifier;
    mod sync;
    mod waiters;
    mod watermark;

    #[cfg(test)]
    pub(crate) use waiters::{TaskPlace, Waiters};
    #[cfg(test)]
    pub(crate) use watermark::{Ending, Watermark};
}

/// What the room knows of the rest of the engine.
pub(crate) mod options {
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum View {
        Durable,
        Written,
    }
}

pub(crate) mod prefetch {
    pub(crate) fn prefetch_for_store<T>(_: &T) {}
}

#[cfg(test)]
mod models;
