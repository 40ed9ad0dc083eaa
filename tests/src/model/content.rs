//! Events as the model keeps them: owned, plain, compared field by field.

use annals::{EventId, EventRef, NewEvent, OccurredAt};

use crate::sim_disk::Dice;

/// What a caller gives for an event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of an event")]
pub struct Content {
    pub stream: String,
    pub event_type: String,
    pub tags: Vec<String>,
    pub metadata: Vec<u8>,
    pub payload: Vec<u8>,
    pub occurred_at: Option<(i64, u8)>,
    pub schema_version: Option<u32>,
    pub content_type: Option<String>,
    pub correlation: Option<Vec<u8>>,
    pub causation: Option<Vec<u8>>,
}

/// An event that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of an event")]
pub struct Recorded {
    pub content: Content,
    pub id: EventId,
    pub id_generated: bool,
    pub position: u64,
    pub revision: u64,
    pub recorded_at: u64,
    pub batch_first: u64,
    pub batch_len: u32,
    pub as_batch: bool,
}

const STREAMS: [&str; 12] = ["a", "a-1", "a-10", "a-2", "b", "b/x", "é", "e\u{301}", "z", "acc", "acc-1", "Acc-1"];
const TYPES: [&str; 4] = ["T", "Ta", "U", "V"];
const TAGS: [&str; 6] = ["k:1", "k:2", "k:3", "k:10", "x", "X"];

/// A stream's name; now and then a new one.
pub(super) fn stream(dice: &mut Dice) -> String {
    if dice.chance(1, 20) { format!("u-{}", dice.below(200)) } else { STREAMS[dice.index(STREAMS.len())].to_owned() }
}

pub(super) fn event_type(dice: &mut Dice) -> String {
    TYPES[dice.index(TYPES.len())].to_owned()
}

pub(super) fn tag(dice: &mut Dice) -> String {
    TAGS[dice.index(TAGS.len())].to_owned()
}

fn bytes(dice: &mut Dice, len: u64) -> Vec<u8> {
    let first = dice.next();
    (0..len).map(|n| (first.wrapping_add(n * 7) % 251) as u8).collect()
}

impl Content {
    /// Any event of `stream`, `len` bytes of payload.
    #[must_use]
    pub fn random(dice: &mut Dice, stream: String, len: u64) -> Self {
        let optional = |dice: &mut Dice| dice.chance(1, 6);
        let metadata_len = if optional(dice) { dice.below(60) } else { 0 };
        Self {
            stream,
            event_type: event_type(dice),
            tags: (0..dice.below(4)).map(|_| tag(dice)).collect(),
            metadata: bytes(dice, metadata_len),
            payload: bytes(dice, len),
            occurred_at: optional(dice).then(|| (dice.next() as i64, dice.below(10) as u8)),
            schema_version: optional(dice).then(|| dice.next() as u32),
            content_type: optional(dice).then(|| ["", "text/plain", "application/json"][dice.index(3)].to_owned()),
            correlation: optional(dice).then(|| vec![7; dice.below(20) as usize]),
            causation: optional(dice).then(|| vec![9; dice.below(20) as usize]),
        }
    }

    /// The same but for one field.
    #[must_use]
    pub fn changed(&self, dice: &mut Dice) -> Self {
        let mut other = self.clone();
        match dice.below(10) {
            0 => other.stream.push('!'),
            1 => other.event_type.push('!'),
            2 => other.tags.push("x".to_owned()),
            3 => other.metadata.push(0),
            4 => other.payload.push(0),
            5 => other.occurred_at = Some(other.occurred_at.map_or((0, 0), |(nanos, digits)| (nanos ^ 1, digits))),
            6 => other.schema_version = Some(other.schema_version.map_or(0, |version| version ^ 1)),
            7 => other.content_type = other.content_type.is_none().then(String::new),
            8 => other.correlation = other.correlation.is_none().then(Vec::new),
            _ => other.causation = other.causation.is_none().then(Vec::new),
        }
        other
    }

    /// As an event to append; `tags` is where its tags are borrowed from.
    #[must_use]
    pub fn as_new<'a>(&'a self, id: Option<EventId>, tags: &'a [&'a str]) -> NewEvent<'a> {
        let mut event = NewEvent::new(&self.event_type, &self.payload).tags(tags).metadata(&self.metadata);
        if let Some(id) = id {
            event = event.id(id);
        }
        if let Some((nanos, digits)) = self.occurred_at {
            event = event.occurred_at(OccurredAt { nanos, digits });
        }
        if let Some(version) = self.schema_version {
            event = event.schema_version(version);
        }
        if let Some(content_type) = &self.content_type {
            event = event.content_type(content_type);
        }
        if let Some(correlation) = &self.correlation {
            event = event.correlation(correlation);
        }
        if let Some(causation) = &self.causation {
            event = event.causation(causation);
        }
        event
    }

    /// What an event read from a store holds.
    #[must_use]
    pub fn of(event: EventRef<'_>) -> Self {
        Self {
            stream: event.stream().to_owned(),
            event_type: event.event_type().to_owned(),
            tags: event.tags().map(str::to_owned).collect(),
            metadata: event.metadata().to_vec(),
            payload: event.payload().to_vec(),
            occurred_at: event.occurred_at().map(|at| (at.nanos, at.digits)),
            schema_version: event.schema_version(),
            content_type: event.content_type().map(str::to_owned),
            correlation: event.correlation().map(<[u8]>::to_vec),
            causation: event.causation().map(<[u8]>::to_vec),
        }
    }
}

impl Recorded {
    /// An event read from a store.
    #[must_use]
    pub fn of(event: EventRef<'_>) -> Self {
        Self {
            content: Content::of(event),
            id: event.id(),
            id_generated: event.id_generated(),
            position: event.position().get(),
            revision: event.revision().get(),
            recorded_at: event.recorded_at(),
            batch_first: event.batch_first().get(),
            batch_len: event.batch_len(),
            as_batch: event.written_as_batch(),
        }
    }

    /// For messages: which event, without its bytes.
    #[must_use]
    pub fn name(&self) -> String {
        let Self { position, revision, content, .. } = self;
        format!("{position} {:?}@{revision} {} {} bytes", content.stream, content.event_type, content.payload.len())
    }

    /// For messages: the fields in which two events differ, long bytes by their length.
    #[must_use]
    pub fn differences(&self, other: &Self) -> String {
        let fields = |event: &Self| {
            let Content { payload, metadata, .. } = &event.content;
            let mut short = event.clone();
            short.content.payload =
                vec![u8::from(*payload == self.content.payload), u8::from(*metadata == self.content.metadata)];
            format!("{short:#?}").lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let (mine, others) = (fields(self), fields(other));
        let differing =
            mine.iter().zip(&others).filter(|(a, b)| a != b).map(|(a, b)| format!("{} / {}", a.trim(), b.trim()));
        differing.collect::<Vec<_>>().join(", ")
    }
}
