//! Scripts: what one run of a process does with a store.

use std::sync::Arc;

use annals::{Durability, LiveSegment};

use super::Lot;
use crate::sim_disk::Dice;

/// One thing that a process does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Appends a lot and waits.
    Append(Arc<Lot>, Durability),
    /// Submits a lot and keeps the ticket.
    Submit(Arc<Lot>, Durability),
    /// Waits for all tickets.
    WaitAll,
    /// Makes all durable.
    Sync,
    /// Appends a lot again that stands in the log; the number chooses it.
    Retry(u64),
    /// Appends a lot again that a power cut took back.
    RetryLost(u64),
    /// Appends with an expectation that does not hold.
    Refused(u64),
    /// Compacts; what is being written is dealt with like this.
    Compact(LiveSegment),
    /// Closes the store and opens it again.
    Reopen,
}

/// Opens a store, does the steps, closes it.
#[derive(Clone, Debug)]
pub struct Script {
    /// After opening, before closing.
    pub steps: Vec<Step>,
}

/// What a script is made of mostly.
#[derive(Clone, Copy, Debug)]
enum Theme {
    /// Single events, waited for.
    Single,
    /// Batches over several streams.
    Batched,
    /// Long payloads: segments end all the time.
    Rolling,
    /// Tickets.
    Tickets,
    /// Anything.
    Mixed,
    /// Opening and closing.
    Restarting,
}

const THEMES: [Theme; 7] =
    [Theme::Single, Theme::Batched, Theme::Rolling, Theme::Rolling, Theme::Tickets, Theme::Mixed, Theme::Restarting];

impl Script {
    /// A script of up to `longest` steps.
    #[must_use]
    pub fn random(dice: &mut Dice, longest: usize) -> Self {
        let theme = THEMES[dice.index(THEMES.len())];
        // All durable, all buffered, or mixed: durable in so many of four cases.
        let durable = [4, 0, 2, 1][dice.index(4)];
        let count = dice.index(longest + 1);
        let mut steps: Vec<Step> = (0..count).map(|_| step(dice, theme, durable)).collect();
        // Where segments end there is something to compact.
        if matches!(theme, Theme::Rolling) && dice.chance(2, 3) {
            steps.push(compact(dice));
        }
        Self { steps }
    }
}

fn compact(dice: &mut Dice) -> Step {
    let live = [LiveSegment::Leave, LiveSegment::EndWhereRemoved, LiveSegment::EndWhereRemoved, LiveSegment::End];
    Step::Compact(live[dice.index(live.len())])
}

fn step(dice: &mut Dice, theme: Theme, durable: u64) -> Step {
    let durability = if dice.chance(durable, 4) { Durability::Durable } else { Durability::Buffered };
    let other = dice.below(24);
    match other {
        0 => return Step::Sync,
        1 => return Step::Retry(dice.next()),
        2 => return Step::RetryLost(dice.next()),
        3 => return Step::Refused(dice.next()),
        4 => return Step::WaitAll,
        5 if dice.chance(1, 3) => return Step::Reopen,
        6 => return compact(dice),
        _ => {}
    }
    let lot = match theme {
        Theme::Single => Lot::of(dice, 1, 400, false),
        Theme::Batched => {
            let count = 2 + dice.index(12);
            Lot::of(dice, count, 500, true)
        }
        Theme::Rolling => {
            let count = 1 + dice.index(3);
            Lot::of(dice, count, 16_000, count > 1)
        }
        Theme::Tickets | Theme::Mixed | Theme::Restarting => Lot::random(dice),
    };
    let lot = Arc::new(if dice.chance(1, 6) { lot.removing(dice) } else { lot });
    match theme {
        Theme::Restarting if dice.chance(1, 3) => Step::Reopen,
        Theme::Tickets => Step::Submit(lot, durability),
        Theme::Mixed if dice.chance(1, 4) => Step::Submit(lot, durability),
        _ => Step::Append(lot, durability),
    }
}
