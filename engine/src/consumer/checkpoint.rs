//! A place in the log that can be kept anywhere, and whether it still is one.

use std::fmt;
use std::str::FromStr;

use annals_format::manifest::{AncestorEntry, IncarnationEntry, Manifest};

use crate::Result;
use crate::error::Error;
use crate::query::Seek;

/// How far somebody has come in a store's log, to be kept wherever they keep what they made of it: in a row of their own
/// database, written in the transaction of the effects, it makes these effects happen once.
///
/// It names the store, the opening that wrote the log there, and a position: a store that was restored, repaired, or that
/// lost its newest events in a power cut says so ([`Error::Diverged`]) instead of going on with other events under the same
/// numbers. Forty bytes, or 24 hyphen-separated characters more as text:
///
/// ```
/// # use annals::{Expect, NewEvent, Query, Store};
/// # fn main() -> annals::Result<()> {
/// let store = Store::in_memory()?;
/// store.append("order-1", Expect::Any, &[NewEvent::new("Placed", b"1"), NewEvent::new("Paid", b"1")])?;
/// let kept = store.checkpoint(1).to_string();
///
/// let checkpoint: annals::Checkpoint = kept.parse().unwrap();
/// let rest = store.read_all(&Query::all(), store.resume(&checkpoint)?)?;
/// assert_eq!(rest.count(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    store: [u8; 16],
    incarnation: [u8; 16],
    position: u64,
}

impl Checkpoint {
    /// Everything up to this position was worked on; 0: nothing yet.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Store, incarnation, position (little-endian).
    pub fn to_bytes(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(&self.store);
        bytes[16..32].copy_from_slice(&self.incarnation);
        bytes[32..].copy_from_slice(&self.position.to_le_bytes());
        bytes
    }

    /// What [`Checkpoint::to_bytes`] gave.
    pub fn from_bytes(bytes: [u8; 40]) -> Self {
        let part = |at: usize| bytes[at..at + 16].try_into().expect("sixteen bytes");
        let position = u64::from_le_bytes(bytes[32..].try_into().expect("eight bytes"));
        Self { store: part(0), incarnation: part(16), position }
    }
}

/// `<store>-<incarnation>-<position>`, the first two as 32 hexadecimal digits.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |bytes| u128::from_be_bytes(bytes);
        write!(f, "{:032x}-{:032x}-{}", id(self.store), id(self.incarnation), self.position)
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({self})")
    }
}

/// The text is not a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a checkpoint")]
pub struct InvalidCheckpoint;

impl FromStr for Checkpoint {
    type Err = InvalidCheckpoint;

    fn from_str(text: &str) -> Result<Self, InvalidCheckpoint> {
        let mut parts = text.split('-');
        let mut id = || {
            let part = parts.next().filter(|part| part.len() == 32)?;
            let is_plain = part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
            is_plain.then(|| u128::from_str_radix(part, 16).ok().map(u128::to_be_bytes))?
        };
        let (store, incarnation) = (id().ok_or(InvalidCheckpoint)?, id().ok_or(InvalidCheckpoint)?);
        let position = parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        let position = position.and_then(|part| part.parse().ok()).ok_or(InvalidCheckpoint)?;
        if parts.next().is_some() { Err(InvalidCheckpoint) } else { Ok(Self { store, incarnation, position }) }
    }
}

/// Which openings wrote which positions of a store.
#[derive(Clone, Debug)]
pub(crate) struct Lineage {
    pub(crate) store: [u8; 16],
    /// Oldest first, at least one.
    pub(crate) incarnations: Vec<IncarnationEntry>,
    /// Stores that this one was forked from: their checkpoints are good as far as both share the log.
    pub(crate) ancestors: Vec<AncestorEntry>,
}

impl Lineage {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let (incarnations, ancestors) = (manifest.incarnations.clone(), manifest.ancestors.clone());
        Self { store: manifest.store, incarnations, ancestors }
    }

    fn is_of(&self, store: [u8; 16]) -> bool {
        store == self.store || self.ancestors.iter().any(|ancestor| ancestor.store == store)
    }

    /// The place behind `position`, as the newest incarnation knows it.
    pub(crate) fn checkpoint(&self, position: u64) -> Checkpoint {
        let newest = self.incarnations.last().expect("a store has an incarnation");
        Checkpoint { store: self.store, incarnation: newest.incarnation, position }
    }

    /// The incarnation that writes now.
    pub(crate) fn newest(&self) -> [u8; 16] {
        self.incarnations.last().map_or([0; 16], |entry| entry.incarnation)
    }

    /// Whether what this incarnation knew up to `position` is still the history.
    pub(crate) fn holds(&self, incarnation: [u8; 16], position: u64) -> bool {
        let Some(index) = self.incarnations.iter().position(|entry| entry.incarnation == incarnation) else {
            return false;
        };
        self.incarnations.get(index + 1).is_none_or(|next| position < next.first_position)
    }

    /// Where to go on from a checkpoint.
    pub(crate) fn resume(&self, checkpoint: &Checkpoint) -> Result<Seek> {
        let known = || self.incarnations.iter().position(|entry| entry.incarnation == checkpoint.incarnation);
        let Some(index) = Some(()).filter(|()| self.is_of(checkpoint.store)).and_then(|()| known()) else {
            return Err(Error::Diverged { position: checkpoint.position, common: 0 });
        };
        // What this incarnation wrote ends where the next one began.
        match self.incarnations.get(index + 1) {
            Some(next) if checkpoint.position >= next.first_position => {
                Err(Error::Diverged { position: checkpoint.position, common: next.first_position - 1 })
            }
            _ => Ok(Seek::After(checkpoint.position)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage() -> Lineage {
        let entry = |id: u8, first_position| IncarnationEntry { incarnation: [id; 16], first_position };
        Lineage {
            store: [9; 16],
            incarnations: vec![entry(1, 1), entry(2, 11), entry(3, 11), entry(4, 20)],
            ancestors: Vec::new(),
        }
    }

    fn at(incarnation: u8, position: u64) -> Checkpoint {
        Checkpoint { store: [9; 16], incarnation: [incarnation; 16], position }
    }

    #[test]
    fn a_checkpoint_is_good_before_the_next_incarnation_begins() {
        let lineage = lineage();
        let common = |checkpoint: Checkpoint| match lineage.resume(&checkpoint) {
            Ok(Seek::After(position)) => Ok(position),
            Err(Error::Diverged { common, .. }) => Err(common),
            other => panic!("{other:?}"),
        };
        assert_eq!(common(at(1, 0)), Ok(0));
        assert_eq!(common(at(1, 10)), Ok(10));
        assert_eq!(common(at(1, 11)), Err(10));
        assert_eq!(common(at(2, 10)), Ok(10));
        assert_eq!(common(at(2, 12)), Err(10), "a recovery that kept nothing of what it wrote");
        assert_eq!(common(at(3, 19)), Ok(19));
        assert_eq!(common(at(3, 20)), Err(19));
        assert_eq!(common(at(4, 1 << 40)), Ok(1 << 40));
        assert_eq!(common(at(5, 3)), Err(0), "an incarnation that is not known");
        assert_eq!(common(Checkpoint { store: [8; 16], ..at(1, 3) }), Err(0), "another store");
    }

    #[test]
    fn text_and_bytes_are_kept() {
        let checkpoint = lineage().checkpoint(u64::MAX >> 1);
        assert_eq!(checkpoint.to_string().parse(), Ok(checkpoint));
        assert_eq!(Checkpoint::from_bytes(checkpoint.to_bytes()), checkpoint);
        assert_eq!(format!("{checkpoint:?}"), format!("Checkpoint({checkpoint})"));
        let text = checkpoint.to_string();
        for wrong in ["", "-", &text[1..], &format!("{text}-"), &format!("{text}x"), &format!("{text}-1")] {
            assert_eq!(wrong.parse::<Checkpoint>(), Err(InvalidCheckpoint), "{wrong}");
        }
        let long = text.replace(&checkpoint.position().to_string(), "99999999999999999999");
        assert!(long.parse::<Checkpoint>().is_err() && text.replace('-', "+").parse::<Checkpoint>().is_err());
        assert!(text.replace("09", "0G").parse::<Checkpoint>().is_err());
    }
}
