//! Tiers: one index over many sealed segments, so that a look-up need not visit each of them.
//!
//! ```text
//! segments   | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | active
//! tiers      |    tier 1     |    tier 2     |
//!                                             9, 10: their own indexes
//! ```
//!
//! Every sealed segment keeps its own index; a tier answers for the segments that it covers in their place. Tiers are
//! derived: one with which anything is wrong says so ([`TierFile::is_broken`]), its segments' indexes are asked in its
//! place, and the keeper drops it and makes it again. So the list of tiers may have holes.
//!
//! | module | what |
//! |---|---|
//! | `blocks` | the bytes of a file, each block verified before it is first read |
//! | `file` | questions to one tier, in positions of the log |
//! | `list` | all tiers of a store, and who answers for a position |
//! | `source`, `order`, `merge`, `sink` | some neighbours become one tier |
//! | `choose` | which neighbours |
//! | `stored` | index manifests and names of files |
//! | `again` | a file written again from its rows and held against itself |
//! | `keeper`, `directories` | all of it, and files of the [directory](crate::directory), in the order that survives a crash |

mod again;
mod blocks;
mod choose;
mod directories;
mod file;
mod keeper;
mod list;
mod merge;
mod order;
mod sink;
mod source;
mod stored;

pub(crate) use again::{Against, Differs, differs_from_itself};
pub(crate) use blocks::{Blocks, ListedFile, announce};
pub(crate) use directories::ReplacedDirectory;
pub(crate) use file::{Expected, PositionsAt, TierFile, TierPositions, Words};
pub(crate) use keeper::{Due, Replaced, TierKeeper};
pub(crate) use list::Tiers;
pub(crate) use sink::{Halt, Pulse, Step, TierSink};
pub(crate) use stored::{
    INDEX, Loaded, MANIFESTS_KEPT, differs_from_content, index_manifest_name, is_index_name, last_next_file, listed,
    load, manifests, number_in, remove_unnamed, tier_name, unsound_manifests,
};

#[cfg(test)]
mod tests;
