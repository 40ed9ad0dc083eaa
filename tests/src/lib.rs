//! The ground that the tests of annals stand on.

pub mod aged;
pub mod chronicle;
pub mod container;
pub mod counted;
pub mod crash;
pub mod damage;
pub mod memory;
pub mod model;
pub mod sim_disk;
pub mod told;
pub mod whole_store;

/// What the documents show compiles.
#[cfg(doctest)]
#[doc = include_str!("../../docs/conditions.md")]
mod conditions {}

#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/following.md")]
mod following {}

#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/snapshots.md")]
mod snapshots {}
