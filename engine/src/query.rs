//! Which events: one type for reads and append conditions.

use crate::error::Error;
use crate::name;

/// A list of items joined by *or*; an event matches when all parts of one item match.
///
/// ```
/// use annals::{Query, QueryItem};
/// let orders = Query::item(QueryItem::new().prefix("order-").types(["OrderPlaced", "OrderPaid"]));
/// let either = orders.or(QueryItem::new().tags_all(["customer:7"]));
/// # let _ = either;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Query {
    pub(crate) items: Option<Vec<QueryItem>>,
}

/// One alternative of a [`Query`]. A part that is empty does not restrict.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct QueryItem {
    pub(crate) streams: Vec<String>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) types: Vec<String>,
    pub(crate) tags_all: Vec<String>,
    pub(crate) tags_any: Vec<String>,
}

/// What a query is matched against.
pub(crate) trait Matchable {
    fn stream(&self) -> &str;
    fn event_type(&self) -> &str;
    fn has_tag(&self, tag: &str) -> bool;
}

impl Query {
    /// Every event.
    pub fn all() -> Self {
        Self { items: None }
    }

    /// Events that match this item.
    pub fn item(item: QueryItem) -> Self {
        Self { items: Some(vec![item]) }
    }

    /// Events of this stream.
    pub fn stream(name: impl Into<String>) -> Self {
        Self::item(QueryItem::new().streams([name.into()]))
    }

    /// Events of streams whose name begins with this, by bytes.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self::item(QueryItem::new().prefix(prefix))
    }

    /// Events of this type.
    pub fn event_type(name: impl Into<String>) -> Self {
        Self::item(QueryItem::new().types([name.into()]))
    }

    /// Events that carry this tag.
    pub fn tag(tag: impl Into<String>) -> Self {
        Self::item(QueryItem::new().tags_all([tag.into()]))
    }

    /// Also events that match `item`. On [`Query::all`] it changes nothing.
    pub fn or(mut self, item: QueryItem) -> Self {
        if let Some(items) = &mut self.items {
            items.push(item);
        }
        self
    }

    /// True when every event matches.
    pub fn is_all(&self) -> bool {
        self.items.is_none()
    }

    /// `Invalid` if there is no item, an item without parts, or a part that is no legal name.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Some(items) = &self.items else { return Ok(()) };
        if items.is_empty() {
            return Err(Error::invalid_query("a query without items"));
        }
        for item in items {
            if item.is_empty() {
                return Err(Error::invalid_query("an item without parts; Query::all() says everything"));
            }
            let named = item.streams.iter().chain(&item.types).chain(&item.tags_all).chain(&item.tags_any);
            for text in named {
                if !name::is_well_formed(text.as_bytes()) {
                    return Err(Error::invalid_query("a name that no event can have"));
                }
            }
        }
        Ok(())
    }

    /// The same for events of one stream; `None` if none of it can match.
    pub(crate) fn within_stream(&self, stream: &str) -> Option<Self> {
        let Some(items) = &self.items else { return Some(Self::stream(stream)) };
        let concerned = items.iter().filter(|item| !item.restricts_stream() || item.matches_stream(stream));
        let narrowed =
            concerned.map(|item| QueryItem { streams: vec![stream.to_owned()], prefixes: Vec::new(), ..item.clone() });
        let items: Vec<QueryItem> = narrowed.collect();
        (!items.is_empty()).then_some(Self { items: Some(items) })
    }

    /// The same for events of streams of a prefix; `None` if none of them can match.
    pub(crate) fn within_prefix(&self, prefix: &str) -> Option<Self> {
        if prefix.is_empty() {
            return Some(self.clone());
        }
        let Some(items) = &self.items else { return Some(Self::prefix(prefix)) };
        let narrowed = items.iter().filter_map(|item| {
            if !item.restricts_stream() {
                return Some(QueryItem { prefixes: vec![prefix.to_owned()], ..item.clone() });
            }
            let streams = item.streams.iter().filter(|name| name.starts_with(prefix)).cloned().collect();
            let longer = |own: &String| match own.starts_with(prefix) {
                true => Some(own.clone()),
                false => prefix.starts_with(own).then(|| prefix.to_owned()),
            };
            let prefixes = item.prefixes.iter().filter_map(longer).collect();
            let narrowed = QueryItem { streams, prefixes, ..item.clone() };
            narrowed.restricts_stream().then_some(narrowed)
        });
        let items: Vec<QueryItem> = narrowed.collect();
        (!items.is_empty()).then_some(Self { items: Some(items) })
    }

    pub(crate) fn matches(&self, event: &impl Matchable) -> bool {
        self.items.as_ref().is_none_or(|items| items.iter().any(|item| item.matches(event)))
    }
}

impl QueryItem {
    /// An item without parts; add at least one.
    pub fn new() -> Self {
        Self::default()
    }

    /// One of these streams.
    pub fn streams<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.streams.extend(names.into_iter().map(Into::into));
        self
    }

    /// A stream whose name begins with this (by bytes), or one of those named by [`QueryItem::streams`].
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefixes.push(prefix.into());
        self
    }

    /// One of these types.
    pub fn types<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.types.extend(names.into_iter().map(Into::into));
        self
    }

    /// All of these tags.
    pub fn tags_all<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags_all.extend(tags.into_iter().map(Into::into));
        self
    }

    /// At least one of these tags.
    pub fn tags_any<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags_any.extend(tags.into_iter().map(Into::into));
        self
    }

    fn is_empty(&self) -> bool {
        let parts = [&self.streams, &self.prefixes, &self.types, &self.tags_all, &self.tags_any];
        parts.iter().all(|part| part.is_empty())
    }

    pub(crate) fn restricts_stream(&self) -> bool {
        !(self.streams.is_empty() && self.prefixes.is_empty())
    }

    fn matches(&self, event: &impl Matchable) -> bool {
        (!self.restricts_stream() || self.matches_stream(event.stream()))
            && (self.types.is_empty() || self.types.iter().any(|name| name == event.event_type()))
            && self.tags_all.iter().all(|tag| event.has_tag(tag))
            && (self.tags_any.is_empty() || self.tags_any.iter().any(|tag| event.has_tag(tag)))
    }

    fn matches_stream(&self, stream: &str) -> bool {
        self.streams.iter().any(|name| name == stream) || self.prefixes.iter().any(|prefix| stream.starts_with(prefix))
    }
}

/// Where a read begins.
///
/// A bare "from" does not exist. The number is a revision in `read_stream` and a position elsewhere, so it is plain.
/// Forward: `At(n)` starts with `n` itself, `After(n)` with the next one. Backward: `At(n)` starts with `n` and goes
/// down, `After(n)` starts with the one before `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seek {
    /// Before the first event.
    Beginning,
    /// Just past this one, in the direction of reading.
    After(u64),
    /// At this one, or the next visible one in the direction of reading.
    At(u64),
    /// Forward: the first event recorded at or after this time (nanoseconds since 1970 UTC). Backward: the last one
    /// recorded at or before it.
    Time(u64),
    /// Past the last event.
    End,
}

impl Seek {
    /// `After(position)`, or `Beginning` for `None`.
    pub fn after(number: Option<impl Into<u64>>) -> Self {
        number.map_or(Self::Beginning, |n| Self::After(n.into()))
    }
}
