//! Queries, matched the slow and obvious way.

use annals::{Query, QueryItem};

use super::content::{self, Content};
use crate::sim_disk::Dice;

/// A query; `None` asks for everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask(pub Option<Vec<AskItem>>);

/// One alternative of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of a query's item")]
pub struct AskItem {
    pub streams: Vec<String>,
    pub prefixes: Vec<String>,
    pub types: Vec<String>,
    pub tags_all: Vec<String>,
    pub tags_any: Vec<String>,
}

const PREFIXES: [&str; 7] = ["a", "a-", "a-1", "acc", "u-1", "", "nothing"];

impl Ask {
    /// Any query that is allowed.
    #[must_use]
    pub fn random(dice: &mut Dice) -> Self {
        if dice.chance(1, 4) {
            return Self(None);
        }
        let count = 1 + dice.below(8).saturating_sub(5);
        Self(Some((0..count).map(|_| AskItem::random(dice)).collect()))
    }

    /// A query that an append condition may well pass.
    #[must_use]
    pub fn narrow(dice: &mut Dice) -> Self {
        let mut item = AskItem { tags_all: vec![content::tag(dice), content::tag(dice)], ..AskItem::default() };
        if dice.chance(1, 2) {
            item.streams.push(content::stream(dice));
        }
        Self(Some(vec![item]))
    }

    /// As the store takes it.
    #[must_use]
    pub fn query(&self) -> Query {
        let Some(items) = &self.0 else { return Query::all() };
        let mut items = items.iter().map(AskItem::item);
        let first = Query::item(items.next().expect("a query has items"));
        items.fold(first, Query::or)
    }

    /// Whether the event matches.
    #[must_use]
    pub fn matches(&self, event: &Content) -> bool {
        self.0.as_ref().is_none_or(|items| items.iter().any(|item| item.matches(event)))
    }
}

impl AskItem {
    fn random(dice: &mut Dice) -> Self {
        loop {
            let mut item = Self::default();
            let some = |dice: &mut Dice| 1 + dice.below(2);
            if dice.chance(1, 3) {
                item.streams = (0..some(dice)).map(|_| content::stream(dice)).collect();
            }
            if dice.chance(1, 4) {
                item.prefixes = (0..some(dice)).map(|_| PREFIXES[dice.index(PREFIXES.len())].to_owned()).collect();
            }
            if dice.chance(1, 3) {
                item.types = (0..some(dice)).map(|_| content::event_type(dice)).collect();
            }
            if dice.chance(1, 4) {
                item.tags_all = (0..some(dice)).map(|_| content::tag(dice)).collect();
            }
            if dice.chance(1, 4) {
                item.tags_any = (0..some(dice)).map(|_| content::tag(dice)).collect();
            }
            if item != Self::default() {
                return item;
            }
        }
    }

    fn item(&self) -> QueryItem {
        let item = QueryItem::new().streams(&self.streams).types(&self.types);
        let item = item.tags_all(&self.tags_all).tags_any(&self.tags_any);
        self.prefixes.iter().fold(item, |item, prefix| item.prefix(prefix))
    }

    fn matches(&self, event: &Content) -> bool {
        let no_stream = self.streams.is_empty() && self.prefixes.is_empty();
        let stream =
            self.streams.contains(&event.stream) || self.prefixes.iter().any(|prefix| event.stream.starts_with(prefix));
        (no_stream || stream)
            && (self.types.is_empty() || self.types.contains(&event.event_type))
            && self.tags_all.iter().all(|tag| event.tags.contains(tag))
            && (self.tags_any.is_empty() || self.tags_any.iter().any(|tag| event.tags.contains(tag)))
    }
}
