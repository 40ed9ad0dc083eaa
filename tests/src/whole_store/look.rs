//! Reading everything that a changed store shows, and judging each event.

use std::collections::BTreeMap;
use std::time::Duration;

use annals::{
    Batch, ConsumerOptions, Error, Event, EventId, EventRef, Invalid, Limits, Lookup, NewEvent, Position, Query,
    QueryItem, Read, Reader, Seek, Store, inspect as look_into,
};
use annals_format::Purpose;
use annals_format::manifest::Manifest;
use annals_format::record::{self, Record};

use super::Files;
use super::checksums::Forged;
use crate::model::{Content, Recorded};
use crate::sim_disk::SimDisk;

/// What an opening came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// It opened.
    pub opened: bool,
    /// Events that a plain read gave.
    pub events: u64,
    /// Reads that ended with an error.
    pub errors: u64,
}

impl Seen {
    pub(super) fn refused(error: &Error) -> Self {
        told(error);
        Self { opened: false, events: 0, errors: 1 }
    }
}

/// Errors that a store may answer whose files hold anything.
#[track_caller]
pub(super) fn told(error: &Error) {
    let is_one = matches!(
        error,
        Error::Corrupt(_)
            | Error::Unsupported { .. }
            | Error::NotAStore { .. }
            | Error::Io { .. }
            | Error::NoSpace { .. }
            | Error::Poisoned { .. }
            | Error::OutcomeUnknown { .. }
    );
    assert!(is_one && !error.to_string().is_empty(), "not an answer about files: {error:?}");
}

/// An event as far as its own record tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    revision: u64,
    id: EventId,
    content: Content,
}

impl Shown {
    fn of(event: EventRef<'_>) -> Self {
        Self { revision: event.revision().get(), id: event.id(), content: Content::of(event) }
    }
}

/// Every event that may be shown.
pub(super) struct Truth<'a> {
    golden: &'a [Recorded],
    /// By position: what stands in a file and verifies since checksums were put right.
    forged: BTreeMap<u64, Vec<Shown>>,
    /// Batch and time are not the record's own; a forged index or batch header tells them wrong.
    whole: bool,
    /// As the manifests have them, which may have been forged.
    limits: Vec<Limits>,
}

impl<'a> Truth<'a> {
    pub(super) fn new(golden: &'a [Recorded], forged: &[Forged], files: &Files) -> Self {
        let manifests = files.iter().filter(|(name, _)| name.starts_with("manifest-"));
        let limits = manifests.filter_map(|(_, bytes)| Some(Manifest::decode(bytes).ok()?.limits)).collect();
        let mut truth = Self { golden, forged: BTreeMap::new(), whole: forged.is_empty(), limits };
        for Forged { file, offset, seed, position } in forged {
            let bytes = files.get(file).and_then(|bytes| bytes.get(*offset..)).unwrap_or_default();
            if let Ok(Record::Event(event)) = record::decode_for(bytes, *seed, *position, Purpose::Read) {
                let text = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                let content = Content {
                    stream: event.stream().to_owned(),
                    event_type: event.event_type().to_owned(),
                    tags: event.tags().map(str::to_owned).collect(),
                    metadata: event.metadata().to_vec(),
                    payload: event.payload().to_vec(),
                    occurred_at: event.occurred_at().map(|at| (at.nanos, at.digits)),
                    schema_version: event.schema_version(),
                    content_type: event.content_type().map(str::to_owned),
                    correlation: text(event.correlation()),
                    causation: text(event.causation()),
                };
                let shown = Shown { revision: event.revision(), id: EventId::from_bytes(event.id()), content };
                if !truth.is_golden(*position, &shown) {
                    truth.forged.entry(*position).or_default().push(shown);
                }
            }
        }
        truth
    }

    fn golden_at(&self, position: u64) -> Option<&Recorded> {
        self.golden.get((position as usize).checked_sub(1)?)
    }

    fn is_golden(&self, position: u64, shown: &Shown) -> bool {
        self.golden_at(position).is_some_and(|event| {
            event.revision == shown.revision && event.id == shown.id && event.content == shown.content
        })
    }

    fn judge(&self, event: EventRef<'_>, path: &str) {
        let position = event.position().get();
        let shown = Shown::of(event);
        let is_forged = self.forged.get(&position).is_some_and(|all| all.contains(&shown));
        assert!(is_forged || self.is_golden(position, &shown), "{path}: invented, at {position}: {shown:?}");
        if self.whole && !is_forged {
            let golden = self.golden_at(position).expect("it is golden");
            let recorded = Recorded::of(event);
            assert!(recorded == *golden, "{path}: at {position}: {}", recorded.differences(golden));
        }
    }

    /// Takes a read to its end or error: every event judged, positions in one direction, nothing after an error.
    fn each(&self, read: annals::Result<Read>, path: &str, back: bool, fits: impl Fn(&Event) -> bool) -> (u64, u64) {
        let mut read = match read {
            Ok(read) => read,
            Err(error) => {
                told(&error);
                return (0, 1);
            }
        };
        let (mut count, mut last) = (0, None);
        while let Some(next) = read.next() {
            let event = match next {
                Ok(event) => event,
                Err(error) => {
                    told(&error);
                    assert!(read.next().is_none(), "{path} goes on after {error}");
                    return (count, 1);
                }
            };
            let position = event.position().get();
            assert!(
                last.is_none_or(|last| if back { position < last } else { position > last }),
                "{path}: out of order, {position} after {last:?}"
            );
            assert!(position <= read.head(), "{path}: beyond the head");
            last = Some(position);
            self.judge(event.as_event_ref(), path);
            assert!(fits(&event), "{path}: {event:?} does not match");
            count += 1;
        }
        (count, 0)
    }

    /// A plain read.
    pub(super) fn look_along(&self, reader: &Reader) -> Seen {
        let (events, errors) = self.each(reader.read_all(&Query::all(), Seek::Beginning), "read_all", false, |_| true);
        Seen { opened: true, events, errors }
    }

    /// Reads by every path.
    pub(super) fn look(&self, reader: &Reader) -> Seen {
        let any = |_: &Event| true;
        let Seen { events, mut errors, .. } = self.look_along(reader);
        errors += self.each(reader.read_all_back(&Query::all(), Seek::End), "read_all_back", true, any).1;
        errors += self.look_at_streams(reader);
        errors += self.look_at_queries(reader);
        let ids = self.golden.iter().step_by(13).map(|event| event.id);
        let forged = self.forged.values().flatten().map(|shown| shown.id).take(30);
        for id in ids.chain(forged).chain([EventId::from_bytes([0; 16])]) {
            match reader.by_id(id) {
                Ok(Lookup::Found(event)) => {
                    assert_eq!(event.id(), id, "by_id");
                    self.judge(event.as_event_ref(), "by_id");
                }
                Ok(_) => {}
                Err(error) => {
                    told(&error);
                    errors += 1;
                }
            }
        }
        let near = [1, 2, 100, self.golden.len() as u64, self.golden.len() as u64 + 1, reader.head(), u64::MAX];
        for position in near.into_iter().filter_map(Position::new) {
            match reader.at(position) {
                Ok(Some(event)) => {
                    assert_eq!(event.position(), position, "at");
                    self.judge(event.as_event_ref(), "at");
                }
                Ok(None) => {}
                Err(Error::AheadOfLog { given, .. }) => assert!(given == position.get() && given > reader.head()),
                Err(error) => {
                    told(&error);
                    errors += 1;
                }
            }
        }
        let times = self.golden.iter().step_by(300).map(|event| event.recorded_at);
        for time in times.chain([0, u64::MAX]) {
            match reader.position_at(time) {
                Ok(position) => assert!(position.is_none_or(|position| position.get() <= reader.head())),
                Err(error) => told(&error),
            }
            errors += self.each(reader.read_all(&Query::all(), Seek::Time(time)), "by time", false, any).1;
        }
        Seen { opened: true, events, errors }
    }

    fn look_at_streams(&self, reader: &Reader) -> u64 {
        let mut errors = 0;
        let mut names: Vec<String> = (0..13).map(|n| format!("order-{n}")).collect();
        match reader.streams("") {
            Ok(listed) => names.extend(listed.into_iter().map(|info| info.name).take(40)),
            Err(error) => told(&error),
        }
        names.sort_unstable();
        names.dedup();
        for name in &names {
            let is_of = |event: &Event| event.stream() == name;
            errors += self.each(reader.read_stream(name, Seek::Beginning), "read_stream", false, is_of).1;
            errors += self.each(reader.read_stream_back(name, Seek::End), "read_stream_back", true, is_of).1;
            if let Err(error) = reader.stream_state(name) {
                told(&error);
                errors += 1;
            }
        }
        if let Err(error) = reader.types() {
            told(&error);
        }
        errors
    }

    fn look_at_queries(&self, reader: &Reader) -> u64 {
        let mut errors = 0;
        let has = |event: &Event, wanted: &str| event.tags().any(|tag| tag == wanted);
        let tagged = |event: &Event| has(event, "tag-0-1");
        let paid = |event: &Event| event.event_type() == "Paid" && event.stream().starts_with("order-1");
        let either = |event: &Event| has(event, "tag-1-3") || has(event, "tag-0-4") || event.stream() == "order-5";
        type Fits<'f> = &'f dyn Fn(&Event) -> bool;
        let queries: [(Query, Fits<'_>); 3] = [
            (Query::tag("tag-0-1"), &tagged),
            (Query::item(QueryItem::new().prefix("order-1").types(["Paid"])), &paid),
            (
                Query::item(QueryItem::new().tags_any(["tag-1-3", "tag-0-4"]))
                    .or(QueryItem::new().streams(["order-5"])),
                &either,
            ),
        ];
        for (query, fits) in queries {
            errors += self.each(reader.read_all(&query, Seek::Beginning), "filtered", false, fits).1;
            errors += self.each(reader.read_all_back(&query, Seek::End), "filtered back", true, fits).1;
            match reader.last(&query) {
                Ok(Some(event)) => {
                    self.judge(event.as_event_ref(), "last");
                    assert!(fits(&event), "last: {event:?} does not match");
                }
                Ok(None) => {}
                Err(error) => told(&error),
            }
            if let Err(error) = reader.count(&query) {
                told(&error);
            }
        }
        errors
    }

    /// Appends a batch, which may be shown from then on.
    pub(super) fn append(&mut self, store: &Store) {
        let ids = [EventId::from_bytes([0xfe; 16]), EventId::from_bytes([0xfd; 16])];
        let streams = ["order-1", "appended"];
        let mut batch = Batch::new().condition(Query::tag("never given"), None);
        for (stream, id) in streams.into_iter().zip(ids) {
            batch.push(stream, NewEvent::new("Appended", "after the change").id(id));
        }
        let is_forged = |id: EventId| self.forged.values().flatten().any(|shown| shown.id == id);
        match store.commit(&batch) {
            Ok(receipt) => {
                assert!(!receipt.already_committed() || ids.into_iter().all(is_forged), "it is new");
                for (committed, stream) in receipt.events().iter().zip(streams) {
                    let content = Content {
                        stream: stream.to_owned(),
                        event_type: "Appended".to_owned(),
                        tags: Vec::new(),
                        metadata: Vec::new(),
                        payload: b"after the change".to_vec(),
                        occurred_at: None,
                        schema_version: None,
                        content_type: None,
                        correlation: None,
                        causation: None,
                    };
                    let shown = Shown { revision: committed.revision.get(), id: committed.id, content };
                    self.forged.entry(committed.position.get()).or_default().push(shown);
                }
                let reader = store.reader_in(annals::View::Written);
                match reader.at(receipt.position()) {
                    Ok(Some(event)) => self.judge(event.as_event_ref(), "what was appended"),
                    Ok(None) => panic!("what was appended is not there"),
                    Err(error) => told(&error),
                }
            }
            // A limit that the manifest has since it was changed is one that the store has.
            Err(Error::Invalid(invalid)) if self.is_over_a_forged_limit(&invalid) => {}
            Err(error) => told(&error),
        }
    }

    fn is_over_a_forged_limit(&self, invalid: &Invalid) -> bool {
        let values = |limits: &Limits| [limits.payload_len, limits.batch_event_count, limits.batch_len];
        let usual = values(&Limits::default());
        let forged = self.limits.iter().flat_map(|limits| values(limits).into_iter().zip(usual));
        forged.filter(|(limit, usual)| limit < usual).any(|(limit, _)| Some(limit) == invalid.limit)
    }
}

/// Goes on with each consumer for a while, and with what it parked.
pub(super) fn consume(store: &Store) {
    for info in store.consumers() {
        let consumer = match store.consumer(&info.name, ConsumerOptions::new()) {
            Ok(consumer) => consumer,
            // A name or generation that nobody could have given.
            Err(Error::Invalid(_)) => continue,
            Err(error) => return told(&error),
        };
        consumer.replay_all().expect("it is open");
        for _ in 0..30 {
            match consumer.next(Duration::ZERO).and_then(|delivery| delivery.map(|it| consumer.ack(&it)).transpose()) {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(error) => {
                    told(&error);
                    break;
                }
            }
        }
        assert!(consumer.parked().len() as u64 <= info.parked + 30_000);
    }
}

/// Everything that tools look at; of segments, those whose files `changed`.
pub(super) fn inspect(disk: &SimDisk, changed: &[String]) {
    let numbers = changed.iter().filter_map(|name| {
        name.strip_prefix("segment-").and_then(|rest| rest.strip_suffix(".log")).and_then(|number| number.parse().ok())
    });
    if let Err(error) = look_into::segments_in(disk) {
        told(&error);
    }
    if let Err(error) = look_into::store_info_in(disk) {
        told(&error);
    }
    if let Err(error) = look_into::verify_in(disk, &mut |_, _| {}) {
        told(&error);
    }
    for number in numbers.chain([u64::MAX]) {
        let mut fields = 0u64;
        let dumped = look_into::dump_in(disk, number, &mut |_| {
            fields += 1;
            assert!(fields < 1 << 20, "a dump without end");
        });
        if let Err(error) = dumped {
            told(&error);
        }
    }
}
