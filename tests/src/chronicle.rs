//! What was appended, kept outside of the store, and whether a reader shows just a prefix of it on every path.

use std::collections::BTreeMap;
use std::sync::Arc;

use annals::{
    AsOf, Durability, Event, EventId, Expect, Lookup, NewEvent, Options, Position, Query, QueryItem, ReadMode, Reader,
    Revision, Seek, Store, StreamState,
};

use crate::crash::{Verdict, small};
use crate::ensure;
use crate::model::ManualClock;
use crate::sim_disk::Dice;

/// One event as it was appended and answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Where it stands.
    pub position: u64,
    /// Its stream.
    pub stream: String,
    /// Its place there.
    pub revision: u64,
    /// Its type.
    pub event_type: String,
    /// Its one tag.
    pub tag: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its id.
    pub id: EventId,
    /// The time of its batch.
    pub recorded_at: u64,
}

impl Told {
    fn of(event: &Event) -> Self {
        let event = event.as_event_ref();
        Self {
            position: event.position().get(),
            stream: event.stream().to_owned(),
            revision: event.revision().get(),
            event_type: event.event_type().to_owned(),
            tag: event.tags().next().unwrap_or_default().to_owned(),
            payload: event.payload().to_vec(),
            id: event.id(),
            recorded_at: event.recorded_at(),
        }
    }
}

/// A history: every event in order, and where the batches end.
#[derive(Clone, Debug)]
pub struct Chronicle {
    /// All events, by position without a gap.
    pub events: Vec<Told>,
    /// Last position and time of each batch.
    pub batches: Vec<(u64, u64)>,
    revisions: BTreeMap<String, u64>,
    clock: ManualClock,
}

impl Default for Chronicle {
    fn default() -> Self {
        let clock = ManualClock::at(1_700_000_000_000_000_000);
        Self { events: Vec::new(), batches: Vec::new(), revisions: BTreeMap::new(), clock }
    }
}

impl Chronicle {
    /// Settings of a store whose history is kept here: short segments, no threads, this clock.
    #[must_use]
    pub fn options(&self, durability: Durability, mode: ReadMode) -> Options {
        small(durability, mode).clock(Arc::new(self.clock.clone()))
    }

    /// The last position.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.events.len() as u64
    }

    /// Appends a batch of one to five events, durably.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub fn append(&mut self, store: &Store, dice: &mut Dice) -> Verdict {
        self.clock.set(self.clock.get() + dice.below(3) * 1_000);
        let stream = format!("{}-{}", if dice.chance(1, 2) { "order" } else { "cart" }, dice.below(6));
        let count = if dice.chance(1, 3) { 1 + dice.below(5) } else { 1 };
        let drafts: Vec<(String, String, Vec<u8>)> = (0..count)
            .map(|_| {
                let longest = if dice.chance(1, 6) { 9_000 } else { 120 };
                let byte = dice.next() as u8;
                let payload = vec![byte; dice.below(longest) as usize];
                (format!("T{}", dice.below(3)), format!("tag:{}", dice.below(4)), payload)
            })
            .collect();
        let tags: Vec<[&str; 1]> = drafts.iter().map(|(_, tag, _)| [tag.as_str()]).collect();
        let events: Vec<NewEvent<'_>> = drafts
            .iter()
            .zip(&tags)
            .map(|((event_type, _, payload), tags)| NewEvent::new(event_type, payload).tags(tags))
            .collect();
        let receipt = store
            .append_with(&stream, Expect::Any, &events, Durability::Durable)
            .map_err(|error| format!("appending: {error}"))?;
        let revision = self.revisions.entry(stream.clone()).or_insert(0);
        for ((event_type, tag, payload), committed) in drafts.iter().zip(receipt.events()) {
            *revision += 1;
            let told = Told {
                position: self.events.len() as u64 + 1,
                stream: stream.clone(),
                revision: *revision,
                event_type: event_type.clone(),
                tag: tag.clone(),
                payload: payload.clone(),
                id: committed.id,
                recorded_at: committed.recorded_at,
            };
            ensure!(
                (committed.position.get(), committed.revision.get()) == (told.position, told.revision),
                "answered {committed:?}, told {told:?}"
            );
            self.events.push(told);
        }
        let last = self.events.last().expect("at least one");
        self.batches.push((last.position, last.recorded_at));
        Ok(())
    }

    /// The last position of the whole batches at or before a moment.
    #[must_use]
    pub fn last_as_of(&self, moment: AsOf) -> u64 {
        let is_before = |(last, time): &(u64, u64)| match moment {
            AsOf::Head => true,
            AsOf::Position(position) => *last <= position,
            AsOf::Time(at) => *time <= at,
        };
        self.batches.iter().take_while(|batch| is_before(batch)).last().map_or(0, |(last, _)| *last)
    }

    /// The same history, ended at `last`, which ends a batch; it goes on by itself.
    #[must_use]
    pub fn up_to(&self, last: u64) -> Self {
        let events: Vec<Told> = self.events[..last as usize].to_vec();
        let batches = self.batches.iter().copied().filter(|(end, _)| *end <= last).collect();
        let mut revisions = BTreeMap::new();
        for told in &events {
            revisions.insert(told.stream.clone(), told.revision);
        }
        Self { events, batches, revisions, clock: ManualClock::at(self.clock.get()) }
    }

    /// Any moment of this history, its borders and what lies within batches included.
    pub fn any_moment(&self, dice: &mut Dice) -> AsOf {
        match dice.below(4) {
            0 => AsOf::Head,
            1 if !self.batches.is_empty() => {
                let (_, time) = self.batches[dice.index(self.batches.len())];
                AsOf::Time(time + dice.below(3) - 1)
            }
            _ => AsOf::Position(dice.below(self.head() + 1)),
        }
    }

    /// Whether a reader shows exactly the events up to `last`, on every path.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(&self, reader: &Reader, last: u64) -> Verdict {
        let shown = &self.events[..last as usize];
        let failed = |error: annals::Error| format!("up to {last}: {error}");
        ensure!(reader.head() == last, "the head is {}, {last} is right", reader.head());
        let all = Query::all();
        same("forward", reader.read_all(&all, Seek::Beginning).map_err(failed)?, shown.iter())?;
        same("backward", reader.read_all_back(&all, Seek::End).map_err(failed)?, shown.iter().rev())?;
        self.judge_streams(reader, shown)?;
        for event_type in ["T0", "T1", "T2"] {
            let query = Query::event_type(event_type);
            let wanted: Vec<&Told> = shown.iter().filter(|told| told.event_type == event_type).collect();
            same("by type", reader.read_all(&query, Seek::Beginning).map_err(failed)?, wanted.iter().copied())?;
            let newest = reader.last(&query).map_err(failed)?.map(|event| Told::of(&event));
            ensure!(newest.as_ref() == wanted.last().copied(), "last of {event_type} is {newest:?}");
            let counted = reader.types().map_err(failed)?.into_iter().find(|info| info.name == event_type);
            ensure!(counted.map_or(0, |info| info.count) == wanted.len() as u64, "count of {event_type}");
        }
        let query = Query::item(QueryItem::new().prefix("order-").tags_any(["tag:1", "tag:2"]));
        let wanted = shown
            .iter()
            .filter(|told| told.stream.starts_with("order-") && ["tag:1", "tag:2"].contains(&told.tag.as_str()));
        same("by prefix and tags", reader.read_all_back(&query, Seek::End).map_err(failed)?, wanted.rev())?;
        for told in self.events.iter().step_by(1 + self.events.len() / 20) {
            let found = reader.by_id(told.id).map_err(failed)?;
            match found {
                Lookup::Found(event) => {
                    ensure!(told.position <= last && Told::of(&event) == *told, "by id: {:?}", Told::of(&event));
                }
                Lookup::NotFound => ensure!(told.position > last, "{} is not found by its id", told.position),
                Lookup::Removed { .. } => return Err("removed".to_owned()),
            }
            if told.position <= last {
                let at = reader.at(Position::new(told.position).expect("not 0")).map_err(failed)?;
                ensure!(at.is_some_and(|event| Told::of(&event) == *told), "at {}", told.position);
                let first =
                    shown.iter().find(|other| other.recorded_at >= told.recorded_at).map(|other| other.position);
                let found = reader.position_at(told.recorded_at).map_err(failed)?.map(Position::get);
                ensure!(found == first, "position at {}: {found:?}, {first:?} is right", told.recorded_at);
            }
        }
        ensure!(
            matches!(reader.read_all(&all, Seek::After(last + 1)), Err(annals::Error::AheadOfLog { .. })),
            "a place beyond {last} is no error"
        );
        Ok(())
    }

    fn judge_streams(&self, reader: &Reader, shown: &[Told]) -> Verdict {
        let mut streams: BTreeMap<&str, Vec<&Told>> = BTreeMap::new();
        for told in shown {
            streams.entry(&told.stream).or_default().push(told);
        }
        let listed = reader.streams("").map_err(|error| error.to_string())?;
        let names: Vec<&str> = listed.iter().map(|info| info.name.as_str()).collect();
        ensure!(names == streams.keys().copied().collect::<Vec<_>>(), "streams {names:?}");
        for name in self.revisions.keys() {
            let wanted = streams.get(name.as_str()).cloned().unwrap_or_default();
            let read = |seek| reader.read_stream(name, seek).map_err(|error| error.to_string());
            same(name, read(Seek::Beginning)?, wanted.iter().copied())?;
            same(name, read(Seek::At(2))?, wanted.iter().copied().skip(1))?;
            let back = reader.read_stream_back(name, Seek::End).map_err(|error| error.to_string())?;
            same(name, back, wanted.iter().copied().rev())?;
            let expected = wanted.last().map_or(StreamState::Absent, |told| StreamState::Live {
                first: Revision::FIRST,
                last: Revision::new(told.revision).expect("not 0"),
            });
            let state = reader.stream_state(name).map_err(|error| error.to_string())?;
            ensure!(state == expected, "stream {name} is {state:?}, {expected:?} is right");
        }
        Ok(())
    }
}

fn same<'a>(
    path: &str,
    read: impl Iterator<Item = annals::Result<Event>>,
    wanted: impl Iterator<Item = &'a Told>,
) -> Verdict {
    let mut wanted = wanted;
    for event in read {
        let event = Told::of(&event.map_err(|error| format!("{path}: {error}"))?);
        let next = wanted.next();
        ensure!(Some(&event) == next, "{path}: {event:?} is shown, {next:?} is right");
    }
    let missing = wanted.next();
    ensure!(missing.is_none(), "{path}: {missing:?} is missing");
    Ok(())
}
