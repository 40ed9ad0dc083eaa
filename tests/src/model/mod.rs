//! A plain model of a store, and the ground that its tests stand on.
//!
//! The model is a list of events and a few maps, without files, rings, indexes or threads. Random operations are run
//! against a real store and against the model, and every answer is compared, errors included.

mod clock;
mod ground;

pub use clock::ManualClock;
pub use ground::{Ground, on_each_ground};
