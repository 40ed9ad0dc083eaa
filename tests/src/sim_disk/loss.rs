//! What a power cut leaves of all that was not synced.
//!
//! Independent chance for each sector alone would hardly ever show the cases in which one single write is missing or
//! all but one are, so a seed first picks a policy.

use std::ops::Range;

use super::dice::Dice;

/// Which of the unsynced changes survive.
#[derive(Clone, Copy, Debug)]
enum Policy {
    None,
    All,
    /// Each sector of each write, and each change of a name, in so many of eight cases.
    Each {
        odds: u64,
    },
    /// Only the newest change.
    Newest,
    /// Only the chosen one.
    One,
    /// All but the chosen one.
    AllButOne,
    /// Everything up to the chosen one.
    Prefix,
    /// Everything before the chosen one, and the first part of that.
    Torn,
}

/// What survives of what was stored through maps.
#[derive(Clone, Copy, Debug)]
enum SharedPolicy {
    None,
    Live,
    /// The whole file at one of the moments that are known.
    OneMoment,
    /// Each sector at any moment, or not at all.
    Mixed,
}

pub(super) struct Loss<'a> {
    dice: Dice,
    content: Policy,
    names: Policy,
    shared: SharedPolicy,
    /// Sequence numbers of all unsynced changes, ascending.
    unsynced: &'a [u64],
    chosen: u64,
    /// In place of the policies: the choice of each change by its index.
    choice: Option<Box<dyn Fn(usize) -> bool + 'a>>,
    shared_seen: usize,
}

impl<'a> Loss<'a> {
    pub(super) fn by_seed(seed: u64, unsynced: &'a [u64]) -> Self {
        let mut dice = Dice::of(seed, 0x4C6F_7373);
        let content = any_policy(&mut dice);
        let together = dice.chance(1, 2);
        let names = if together { content } else { any_policy(&mut dice) };
        let shared = match content {
            Policy::None if together => SharedPolicy::None,
            Policy::All if together => SharedPolicy::Live,
            _ => match dice.below(5) {
                0 => SharedPolicy::None,
                1 => SharedPolicy::Live,
                2 => SharedPolicy::OneMoment,
                _ => SharedPolicy::Mixed,
            },
        };
        let chosen = match unsynced {
            [] => 0,
            // The change that was under way is the likeliest to be torn or missing.
            [.., newest] if dice.chance(1, 3) => *newest,
            _ => unsynced[dice.index(unsynced.len())],
        };
        Self { dice, content, names, shared, unsynced, chosen, choice: None, shared_seen: 0 }
    }

    pub(super) fn by_choice(survives: impl Fn(usize) -> bool + 'a, unsynced: &'a [u64]) -> Self {
        Self {
            dice: Dice::new(0),
            content: Policy::All,
            names: Policy::All,
            shared: SharedPolicy::Live,
            unsynced,
            chosen: 0,
            choice: Some(Box::new(survives)),
            shared_seen: 0,
        }
    }

    /// The choice of a change by its sequence number, if the choice is not left to the policy.
    fn chosen_by_index(&self, sequence: u64) -> Option<bool> {
        let choice = self.choice.as_ref()?;
        let index = self.unsynced.binary_search(&sequence).expect("every unsynced change was counted");
        Some(choice(index))
    }

    fn part(&mut self, policy: Policy, sequence: u64) -> Part {
        let whole = match policy {
            Policy::None => false,
            Policy::All => true,
            Policy::Each { odds } => return Part::Each { odds },
            Policy::Newest => Some(&sequence) == self.unsynced.last(),
            Policy::One => sequence == self.chosen,
            Policy::AllButOne => sequence != self.chosen,
            Policy::Prefix => sequence <= self.chosen,
            Policy::Torn if sequence == self.chosen => return Part::Torn,
            Policy::Torn => sequence < self.chosen,
        };
        if whole { Part::All } else { Part::None }
    }

    pub(super) fn keeps_name(&mut self, sequence: u64) -> bool {
        if let Some(keeps) = self.chosen_by_index(sequence) {
            return keeps;
        }
        match self.part(self.names, sequence) {
            Part::None => false,
            Part::All => true,
            Part::Each { odds } => self.dice.chance(odds, 8),
            // A name is never torn.
            Part::Torn => self.dice.chance(1, 2),
        }
    }

    pub(super) fn fate_of_write(&mut self, sequence: u64, len: usize) -> Fate {
        if let Some(keeps) = self.chosen_by_index(sequence) {
            return Fate::Whole(keeps);
        }
        match self.part(self.content, sequence) {
            Part::None => Fate::Whole(false),
            Part::All => Fate::Whole(true),
            Part::Each { odds } => Fate::Each { odds, dice: Dice::new(self.dice.next()) },
            Part::Torn => Fate::Torn {
                bytes: self.dice.index(len + 1),
                // Most devices write sectors whole; the format does not rely on it.
                inside_sector: self.dice.chance(1, 2),
            },
        }
    }

    /// For a shared file of which the content of so many moments is known, the newest last.
    pub(super) fn fate_of_shared(&mut self, moments: usize) -> SharedFate {
        let index = self.unsynced.len() + self.shared_seen;
        self.shared_seen += 1;
        let live = SharedFate::Whole(Some(moments - 1));
        if let Some(choice) = &self.choice {
            return if choice(index) { live } else { SharedFate::Whole(None) };
        }
        match self.shared {
            SharedPolicy::None => SharedFate::Whole(None),
            SharedPolicy::Live => live,
            SharedPolicy::OneMoment => SharedFate::Whole(Some(self.dice.index(moments))),
            SharedPolicy::Mixed => SharedFate::Mixed { moments, dice: Dice::new(self.dice.next()) },
        }
    }

    /// How long a file is that was made but never synced.
    pub(super) fn len_of_never_synced(&mut self, len: usize) -> usize {
        if self.choice.is_some() || matches!(self.content, Policy::All) || self.dice.chance(2, 3) {
            return len;
        }
        if self.dice.chance(1, 2) { 0 } else { self.dice.index(len + 1) / 4096 * 4096 }
    }
}

fn any_policy(dice: &mut Dice) -> Policy {
    match dice.below(10) {
        0 => Policy::None,
        1 => Policy::All,
        2 | 3 => Policy::Each { odds: 4 },
        4 => Policy::Each { odds: if dice.chance(1, 2) { 1 } else { 7 } },
        5 => Policy::Newest,
        6 => Policy::One,
        7 => Policy::AllButOne,
        8 => Policy::Prefix,
        _ => Policy::Torn,
    }
}

/// What a policy says of one change.
enum Part {
    None,
    All,
    Each { odds: u64 },
    Torn,
}

/// What becomes of one write.
pub(super) enum Fate {
    Whole(bool),
    Each {
        odds: u64,
        dice: Dice,
    },
    /// Its first bytes get through.
    Torn {
        bytes: usize,
        inside_sector: bool,
    },
}

impl Fate {
    /// How many bytes from the start of `sector` on are as after the write, which starts at `write_start`.
    pub(super) fn bytes_of_sector(&mut self, write_start: usize, sector: &Range<usize>) -> usize {
        let survives = match self {
            Self::Whole(survives) => *survives,
            Self::Each { odds, dice } => dice.chance(*odds, 8),
            Self::Torn { bytes, inside_sector } => {
                let torn_at = write_start + *bytes;
                if *inside_sector && sector.contains(&torn_at) {
                    return torn_at - sector.start;
                }
                sector.end <= torn_at
            }
        };
        if survives { sector.len() } else { 0 }
    }
}

/// What becomes of a file that is stored to through a map.
pub(super) enum SharedFate {
    /// All of it as at one moment, or nothing.
    Whole(Option<usize>),
    Mixed {
        moments: usize,
        dice: Dice,
    },
}

impl SharedFate {
    /// The moment the next sector is of; none if it stays as it was synced.
    pub(super) fn version(&mut self) -> Option<usize> {
        match self {
            Self::Whole(version) => *version,
            Self::Mixed { moments, dice } => {
                if dice.chance(1, 3) {
                    return Some(*moments - 1);
                }
                let version = dice.index(*moments + 1);
                (version < *moments).then_some(version)
            }
        }
    }
}
