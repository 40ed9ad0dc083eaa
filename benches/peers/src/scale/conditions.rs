//! B4: what a condition adds to an append.

use annals::{Condition, Position, Query, QueryItem};

use super::blocks::{APPENDED_CUSTOMERS, Block, median};
use super::events::{CUSTOMERS, EARLY, Ids, Names, below};
use super::held::{Held, Keeper, Ours, unlike_any_other};
use super::{Columns, Scale};
use crate::Result;
use crate::engines::Kind;
use crate::random::Random;
use crate::report::Row;

/// Two tags of a tenth of all events each; an event has one of them at most.
const NEVER_MEET: [&str; 2] = ["r-3", "r-7"];

/// What is asked, and after which position.
#[derive(Clone, Copy)]
enum Case {
    NearHead,
    Absent,
    OnlyBefore,
    NeverMeet,
}

impl Case {
    const ALL: [Self; 4] = [Self::NearHead, Self::Absent, Self::OnlyBefore, Self::NeverMeet];

    fn condition(self, scale: &Scale, names: &Names, early: &[u32], head: u64, random: &mut Random) -> Condition {
        let events = scale.large.events;
        match self {
            Self::NearHead => {
                // Tags that the bench itself does not append, so the condition holds.
                let customer = APPENDED_CUSTOMERS + below(random, CUSTOMERS - EARLY - APPENDED_CUSTOMERS);
                Condition { query: Query::tag(names.customer(customer)), after: Position::new(head) }
            }
            Self::Absent => {
                let after = [None, Position::new(u64::from(1 + below(random, events)))][random.next() as usize % 2];
                Condition { query: Query::tag(format!("c-never-{}", random.next() % 1_000_000)), after }
            }
            Self::OnlyBefore => {
                let customer = early[random.next() as usize % early.len()];
                let after = events / 10 + below(random, events - events / 10);
                Condition { query: Query::tag(names.customer(customer)), after: Position::new(u64::from(after)) }
            }
            Self::NeverMeet => Condition { query: Query::item(QueryItem::new().tags_all(NEVER_MEET)), after: None },
        }
    }

    fn name(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::NearHead => ("B4, near the head", "one tag, `after` the head a moment ago", "<= 1 us; aim 0.1"),
            Self::Absent => ("B4, absent tag", "a tag no event has, any `after`", "<= 2 us; aim 0.5"),
            Self::OnlyBefore => {
                ("B4, tag only before", "a tag that stands only before any `after`", "<= 2 us; aim 0.5")
            }
            Self::NeverMeet => (
                "B4, two that never meet",
                "two tags of a tenth of all events each that never meet, in the whole history",
                "<= 1,000 us; aim 300, outside the writer",
            ),
        }
    }
}

/// A table for each case.
pub(super) fn rows(scale: &Scale) -> Result<Vec<Row>> {
    let names = Names::new(scale.large.streams);
    let early = scale.large.early_customers();
    let mut random = unlike_any_other();
    let ours = scale.open_ours(scale.large)?;
    let peers = scale.keepers.iter().filter(|keeper| **keeper != Keeper::Annals);
    let peers =
        peers.map(|keeper| Ok((*keeper, scale.open_warm(*keeper, scale.large)?))).collect::<Result<Vec<_>>>()?;
    let mut tables: [Columns; 4] = std::array::from_fn(|_| Columns::default());
    for (_, held) in &peers {
        // Once before, so that the pages are mapped.
        check_alone(scale, &**held, &names, &mut random)?;
    }
    for _ in 0..scale.runs {
        for (case, columns) in Case::ALL.into_iter().zip(&mut tables) {
            let (with, without) = pairs(scale, &ours, &names, &early, case, &mut random)?;
            let added = median(with.iter().zip(&without).map(|(with, without)| with - without))?;
            columns.push("annals", Kind::Annals, added / 1e3);
            columns.push("annals, whole append without", Kind::Beside, median(without)? / 1e3);
            columns.push("annals, whole append with", Kind::Beside, median(with)? / 1e3);
            if matches!(case, Case::NearHead) {
                for (keeper, held) in &peers {
                    let name = format!("{}, check alone", keeper.name());
                    columns.push(&name, Kind::Peer, check_alone(scale, &**held, &names, &mut random)?);
                }
            }
        }
    }
    let notes = vec![
        format!(
            "median over {} pairs of blocks of the difference, one event with two tags and an id an append; batches and \
             conditions are made before the clock starts",
            scale.blocks
        ),
        "a peer's check is a look-up of the tag's last event, beside no append".to_owned(),
    ];
    let row = |(case, columns): (Case, Columns)| {
        let (id, title, wanted) = case.name();
        columns.row(id, format!("Added to a Buffered append by a condition: {title}"), "us", wanted, notes.clone())
    };
    Ok(Case::ALL.into_iter().zip(tables).map(row).collect())
}

/// Nanoseconds an append of blocks with the condition and of blocks without.
fn pairs(
    scale: &Scale,
    ours: &Ours,
    names: &Names,
    early: &[u32],
    case: Case,
    random: &mut Random,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let len = if matches!(case, Case::NeverMeet) { scale.block.min(8) } else { scale.block };
    for pair in 0..scale.blocks {
        for turn in 0..2 {
            let id = |random: &mut Random| Some(Ids::V4.make(random, 0));
            let block = Block::draw(scale, ours, names, scale.large, len, random, id)?;
            if (pair + turn) % 2 == 0 {
                let head = ours.store.head();
                let mut condition = || Some(case.condition(scale, names, early, head, random));
                with.push(block.commit_all(ours, &mut condition)?);
            } else {
                without.push(block.commit_all(ours, &mut || None)?);
            }
        }
    }
    Ok((with, without))
}

/// Microseconds a look-up of a tag's last event.
fn check_alone(scale: &Scale, held: &dyn Held, names: &Names, random: &mut Random) -> Result<f64> {
    let count = scale.lookups;
    let customers: Vec<u32> = (0..count).map(|_| below(random, CUSTOMERS - EARLY)).collect();
    let (began, mut sum) = (std::time::Instant::now(), 0);
    for customer in customers {
        sum += held.latest_of_key(names.customer(customer))?;
    }
    if sum == 0 {
        return Err("no tag was found".into());
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / count as f64)
}
