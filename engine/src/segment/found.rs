//! An event that the index led to, verified where it stands.

use annals_format::batch::{BATCH_HEADER_LEN, BatchHeader};
use annals_format::record::{self, EventFrame, EventLayout, RECORD_HEADER_LEN};

use super::{BatchFacts, Opened, OpenedGuard, Segment};
use crate::Result;
use crate::active_index::Place;
use crate::event::{Event, EventRef};
use crate::log::Log;

/// A verified event: looked at where it stands, or made a handle to be kept.
pub(crate) enum Found {
    /// In the map of an opened segment.
    Mapped { opened: OpenedGuard, event: InMap },
    /// In a copy: the newest bytes, and all where nothing is mapped.
    Copied(Event),
}

/// An event's frame in a segment's map.
pub(crate) struct InMap {
    start: usize,
    layout: EventLayout,
    facts: BatchFacts,
}

enum Located {
    Mapped(InMap),
    Copied(Event),
}

impl Found {
    /// The borrowed form.
    #[inline]
    pub(crate) fn as_event_ref(&self) -> EventRef<'_> {
        match self {
            Self::Mapped { opened, event: InMap { start, layout, facts } } => {
                let frame = opened.map().and_then(|map| map.get(*start..*start + layout.frame_len()));
                EventRef::new(EventFrame::from_layout(frame.expect("it was found in this map"), *layout), *facts)
            }
            Self::Copied(event) => event.as_event_ref(),
        }
    }

    /// The handle.
    #[inline]
    pub(crate) fn into_event(self) -> Event {
        match self {
            Self::Mapped { opened, event } => event.to_event(&opened),
            Self::Copied(event) => event,
        }
    }
}

impl InMap {
    fn to_event(&self, opened: &Opened) -> Event {
        let map = opened.map().expect("it was found in this map");
        Event::new(map.clone(), self.start, self.layout, self.facts)
    }
}

impl Segment {
    /// The event at `position`, verified; `None` for a control record.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged or another one stands there.
    pub(crate) fn event_at(&self, opened: &Opened, log: &Log, position: u64, place: Place) -> Result<Option<Event>> {
        Ok(self.locate(opened, log, position, place)?.map(|located| match located {
            Located::Mapped(event) => event.to_event(opened),
            Located::Copied(event) => event,
        }))
    }

    /// As [`Segment::event_at`], to be looked at before it is kept.
    #[inline]
    pub(crate) fn find(&self, opened: OpenedGuard, log: &Log, position: u64, place: Place) -> Result<Option<Found>> {
        Ok(self.locate(&opened, log, position, place)?.map(|located| match located {
            Located::Mapped(event) => Found::Mapped { opened, event },
            Located::Copied(event) => Found::Copied(event),
        }))
    }

    #[inline]
    fn locate(&self, opened: &Opened, log: &Log, position: u64, place: Place) -> Result<Option<Located>> {
        let Some(map) = opened.map() else { return self.locate_by_windows(opened, log, position, place) };
        let end = self.in_file(log, self.end().min(self.header.segment_len));
        let from = |offset: u64| usize::try_from(offset).ok().and_then(|start| map.get(start..end as usize));
        let (Some(batch), Some(bytes)) = (from(place.batch), from(place.frame)) else {
            return self.locate_by_windows(opened, log, position, place);
        };
        if batch.len() < BATCH_HEADER_LEN || bytes.len() < RECORD_HEADER_LEN {
            return self.locate_by_windows(opened, log, position, place);
        }
        let frame_len = record::frame_len(bytes).map_err(|fault| self.faulty(place.frame, Some(position), &fault))?;
        if bytes.len() < frame_len {
            return self.locate_by_windows(opened, log, position, place);
        }
        let header = BatchHeader::decode(batch, self.seed).map_err(|fault| self.faulty(place.batch, None, &fault))?;
        let facts = self.facts_at(&header, position, place)?;
        match record::decode(bytes, self.seed, position) {
            Ok(record::Record::Event(frame)) => {
                let event = InMap { start: place.frame as usize, layout: frame.layout(), facts };
                Ok(Some(Located::Mapped(event)))
            }
            Ok(record::Record::Control(_)) => Ok(None),
            Err(fault) => Err(self.faulty(place.frame, Some(position), &fault)),
        }
    }

    fn facts_at(&self, header: &BatchHeader, position: u64, place: Place) -> Result<BatchFacts> {
        let facts = BatchFacts::from(header);
        let in_batch = position.checked_sub(facts.first_position).is_some_and(|n| n < u64::from(facts.record_count));
        if in_batch {
            return Ok(facts);
        }
        Err(self.damaged(place.batch, Some(position), "the index points to a batch without this position"))
    }

    /// Where the bytes are not all in a mapped file.
    #[cold]
    fn locate_by_windows(&self, opened: &Opened, log: &Log, position: u64, place: Place) -> Result<Option<Located>> {
        let facts = {
            let window = self.window(opened, log, place.batch, BATCH_HEADER_LEN as u64)?;
            self.facts_at(&self.batch_header(&window, place.batch)?, position, place)?
        };
        let head = self.window(opened, log, place.frame, RECORD_HEADER_LEN as u64)?;
        let frame_len = record::frame_len(head.from(place.frame))
            .map_err(|fault| self.faulty(place.frame, Some(position), &fault))?;
        let window = if head.holds(place.frame, frame_len as u64) {
            head
        } else {
            self.window(opened, log, place.frame, frame_len as u64)?
        };
        match record::decode(window.from(place.frame), self.seed, position) {
            Ok(record::Record::Event(frame)) => {
                let layout = frame.layout();
                let start = (place.frame - window.start) as usize;
                Ok(Some(Located::Copied(Event::new(window.map, start, layout, facts))))
            }
            Ok(record::Record::Control(_)) => Ok(None),
            Err(fault) => Err(self.faulty(place.frame, Some(position), &fault)),
        }
    }
}
