//! The reader's door: a view of the log, and every question that can be put to it. Takes no lock.

use std::sync::Arc;

use crate::consumer::Checkpoint;
use crate::core::{Core, LiveAlone};
use crate::cursor::{Sought, Span, Unit, Walk, surely_none};
use crate::directory::{self, StreamTip};
use crate::error::{Error, StreamState};
use crate::event::{Event, EventRef};
use crate::log::Log;
use crate::name::{self, KeyKind};
use crate::options::View;
use crate::query::{Query, Seek};
use crate::read::{Bounds, Direction, Read, StreamBegun};
use crate::removal::{self, Hidden, Marks, StreamFacts};
use crate::segment::{Found, Segment};
use crate::{EventId, Follower, Position, Result};

/// Reads one view of a store. Cheap to clone, to keep, and to send to other threads.
///
/// Each call pins the head it finds when it begins; nothing appended later shows in its answer.
#[derive(Clone, Debug)]
pub struct Reader {
    core: Arc<Core>,
    view: View,
    /// Who learns of more, where the log is written elsewhere.
    follower: Option<Follower>,
    /// Nothing beyond is shown: of a reader as of a moment.
    bound: u64,
}

/// Answer to a question for an id.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The event.
    Found(Event),
    /// No event has or had this id.
    NotFound,
    /// There was such an event, and it was removed.
    Removed {
        /// Where it stood.
        at: Position,
        /// What removed it.
        why: RemovalReason,
    },
}

/// What removed an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RemovalReason {
    /// Its stream was cut before a later revision.
    Truncated,
    /// Its stream was deleted.
    Deleted,
    /// Its stream was ended for good.
    Tombstoned,
    /// Its time or its number ran out.
    Expired,
}

/// One stream of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its name.
    pub name: String,
    /// Its state at the head.
    pub state: StreamState,
    /// Position of its first event that can be read, `None` if there is none.
    pub first_position: Option<Position>,
    /// Position of its last event that can be read, `None` if there is none.
    pub last_position: Option<Position>,
}

/// One type of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeInfo {
    /// Its name.
    pub name: String,
    /// How many events have it.
    pub count: u64,
}

impl Reader {
    pub(crate) fn new(core: Arc<Core>, view: View) -> Self {
        Self { core, view, follower: None, bound: u64::MAX }
    }

    pub(crate) fn of_follower(follower: Follower, core: Arc<Core>, view: View) -> Self {
        Self { core, view, follower: Some(follower), bound: u64::MAX }
    }

    pub(crate) fn follower(&self) -> Option<&Follower> {
        self.follower.as_ref()
    }

    /// The same log in another view.
    pub(crate) fn in_view(&self, view: View) -> Self {
        Self { view, ..self.clone() }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The same, showing nothing beyond `last`.
    pub(crate) fn bounded(&self, last: u64) -> Self {
        Self { bound: last.min(self.bound), ..self.clone() }
    }

    /// The view this reader shows.
    pub fn view(&self) -> View {
        self.view
    }

    /// Position of the last record visible now; 0 in an empty store.
    pub fn head(&self) -> u64 {
        self.core.head(self.view).min(self.bound)
    }

    /// What is hidden from a reading that has pinned `head`. A reader as of a moment obeys also what was removed since: all
    /// that its view shows now.
    #[inline]
    pub(crate) fn hidden(&self, head: u64) -> Option<Hidden> {
        let shown = if self.bound == u64::MAX { head } else { self.core.head(self.view).max(head) };
        self.core.removals.hidden(shown)
    }

    /// The head now, and what is hidden as of it.
    pub(crate) fn pinned(&self) -> (u64, Option<Hidden>) {
        let head = self.head();
        (head, self.hidden(head))
    }

    /// The place behind `position` (0: before the first event), to be kept outside of the store.
    pub fn checkpoint(&self, position: u64) -> Checkpoint {
        self.core.lineage.checkpoint(position)
    }

    /// Where to go on from a checkpoint that was kept outside of the store.
    ///
    /// # Errors
    /// `Diverged` if the store is not the one that it was made in, or has lost what it covers: then what was made of the
    /// events beyond `common` must be taken back, or all of it made anew.
    pub fn resume(&self, checkpoint: &Checkpoint) -> Result<Seek> {
        self.core.lineage.resume(checkpoint)
    }

    /// Events that match `query`, in position order, from `seek` (positions) to the head pinned now.
    ///
    /// `Query::all()` walks the log; any other query jumps by the indexes and confirms each event against it.
    ///
    /// # Errors
    /// `Invalid` for a query without items or parts; `AheadOfLog` if `seek` lies beyond `head + 1` (`At`) or the head
    /// (`After`). What is damaged is an error when the reading comes to it.
    pub fn read_all(&self, query: &Query, seek: Seek) -> Result<Read> {
        self.read(query, seek, Direction::Forward)
    }

    /// As [`Reader::read_all`], towards the beginning.
    ///
    /// # Errors
    /// As there.
    pub fn read_all_back(&self, query: &Query, seek: Seek) -> Result<Read> {
        self.read(query, seek, Direction::Backward)
    }

    fn read(&self, query: &Query, seek: Seek, direction: Direction) -> Result<Read> {
        query.check()?;
        let head = self.head();
        let bounds = self.bounds(seek, direction, head)?;
        Ok(Read::of_query(self.core.clone(), query.clone(), bounds, head, self.hidden(head)))
    }

    /// Which positions a read from `seek` covers.
    pub(crate) fn bounds(&self, seek: Seek, direction: Direction, head: u64) -> Result<Bounds> {
        let ahead = |given: u64| Err(Error::AheadOfLog { given, head });
        let (from, until) = match (seek, direction) {
            (Seek::After(p), _) if p > head => return ahead(p),
            (Seek::At(p), _) if p > head + 1 => return ahead(p),
            (Seek::Beginning, Direction::Forward) | (Seek::End, Direction::Backward) => (1, head),
            (Seek::Beginning, Direction::Backward) | (Seek::End, Direction::Forward) => (1, 0),
            (Seek::After(p), Direction::Forward) => (p + 1, head),
            (Seek::At(p), Direction::Forward) => (p.max(1), head),
            (Seek::After(p), Direction::Backward) => (1, p.saturating_sub(1)),
            (Seek::At(p), Direction::Backward) => (1, p.min(head)),
            (Seek::Time(t), Direction::Forward) => (self.first_at_time(t, head)?.unwrap_or(head + 1), head),
            (Seek::Time(t), Direction::Backward) => {
                let beyond = match t.checked_add(1) {
                    Some(next) => self.first_at_time(next, head)?,
                    None => None,
                };
                (1, beyond.map_or(head, |p| p - 1))
            }
        };
        Ok(Bounds { from, until, direction })
    }

    /// Events of one stream in revision order, from `seek` (revisions) to the head pinned now.
    ///
    /// An absent stream is empty; [`Read::state`] says why. A place past the last revision is empty as well.
    ///
    /// # Errors
    /// `Invalid` if the name cannot be one. What is damaged is an error when the reading comes to it.
    pub fn read_stream(&self, stream: &str, seek: Seek) -> Result<Read> {
        self.stream_read(stream, seek, Direction::Forward, self.head())
    }

    /// As [`Reader::read_stream`], towards the beginning.
    ///
    /// # Errors
    /// As there.
    pub fn read_stream_back(&self, stream: &str, seek: Seek) -> Result<Read> {
        self.stream_read(stream, seek, Direction::Backward, self.head())
    }

    fn stream_read(&self, stream: &str, seek: Seek, direction: Direction, head: u64) -> Result<Read> {
        check_stream_name(stream)?;
        let key = self.core.hash.key(KeyKind::Stream, stream);
        self.core.tiers.load().prefetch_key(key, 1, head);
        let whole = Bounds { from: 1, until: head, direction };
        let is_from_end = matches!(
            (seek, direction),
            (Seek::Beginning | Seek::At(0 | 1), Direction::Forward) | (Seek::End, Direction::Backward)
        );
        // Before the state is asked for: what both wait for comes at once.
        let begun = StreamBegun::new(&self.core, stream, key, whole, is_from_end);
        let hidden = self.hidden(head);
        let facts = removal::facts(&self.core, hidden.as_ref(), stream, head)?;
        let StreamFacts { state, first, last, forgotten, .. } = facts;
        let positions = Bounds { from: forgotten + 1, until: head, direction };
        let (from, until) = match (seek, direction) {
            (Seek::Beginning, Direction::Forward) | (Seek::End, Direction::Backward) => (1, last),
            (Seek::Beginning, Direction::Backward) | (Seek::End, Direction::Forward) => (1, 0),
            (Seek::After(r), Direction::Forward) => (r.saturating_add(1), last),
            (Seek::At(r), Direction::Forward) => (r.max(1), last),
            (Seek::After(r), Direction::Backward) => (1, r.saturating_sub(1).min(last)),
            (Seek::At(r), Direction::Backward) => (1, r.min(last)),
            (Seek::Time(_), _) => {
                let timed = self.bounds(seek, direction, head)?;
                let within = Bounds { from: timed.from.max(positions.from), ..timed };
                // Where a time falls in the stream is learnt from the first event found.
                let is_all = within.from == positions.from && within.until == head;
                let revisions = is_all.then_some((first, last));
                let begun = StreamBegun::new(&self.core, stream, key, within, true);
                return Ok(Read::of_stream(begun, revisions, head, hidden, state));
            }
        };
        // What went by this name before it was forgotten is none of it.
        let begun = match forgotten {
            0 => begun,
            _ => StreamBegun::new(&self.core, stream, key, positions, is_from_end),
        };
        let skipped = (until.min(first - 1) + 1).saturating_sub(from);
        let revisions = Some((from.max(first), until));
        Ok(Read::of_stream(begun, revisions, head, hidden, state).past(skipped))
    }

    /// The event with this id.
    ///
    /// # Errors
    /// `Corrupt` or `Io` if what must be looked at is damaged.
    pub fn by_id(&self, id: EventId) -> Result<Lookup> {
        let head = self.head();
        let hidden = self.hidden(head);
        let hash = self.core.hash.id(&id.to_bytes());
        let mut removed = None;
        for position in self.core.positions_of_id(hash)?.into_iter().filter(|position| *position <= head) {
            let event = event_at(&self.core, position)?;
            let Some(event) = event.filter(|event| event.id() == id) else { continue };
            match removal::hiding(hidden.as_ref(), event.as_event_ref()) {
                None => return Ok(Lookup::Found(event)),
                Some(hiding) if hiding.is_forgotten => {}
                Some(hiding) => removed = Some(Lookup::Removed { at: event.position(), why: hiding.why }),
            }
        }
        Ok(removed.unwrap_or(Lookup::NotFound))
    }

    /// The event at this position; `None` if a control record stands there, or an event that was removed.
    ///
    /// # Errors
    /// `AheadOfLog` beyond the head; `Corrupt` or `Io` if it is damaged.
    pub fn at(&self, position: Position) -> Result<Option<Event>> {
        let head = self.head();
        if position.get() > head {
            return Err(Error::AheadOfLog { given: position.get(), head });
        }
        let event = event_at(&self.core, position.get())?;
        let hidden = self.hidden(head);
        Ok(event.filter(|event| removal::reason(hidden.as_ref(), event.as_event_ref()).is_none()))
    }

    /// The first position recorded at or after `time` (nanoseconds since 1970 UTC).
    ///
    /// # Errors
    /// `Corrupt` or `Io` if what must be looked at is damaged.
    pub fn position_at(&self, time: u64) -> Result<Option<Position>> {
        Ok(self.first_at_time(time, self.head())?.and_then(Position::new))
    }

    /// Binary search: times never fall along the log.
    pub(crate) fn first_at_time(&self, time: u64, head: u64) -> Result<Option<u64>> {
        let (mut low, mut high) = (1, head + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if recorded_at(&self.core, middle)? >= time { high = middle } else { low = middle + 1 }
        }
        Ok((low <= head).then_some(low))
    }

    /// State of a stream at the head.
    ///
    /// # Errors
    /// `Invalid` if the name cannot be one; `Corrupt` or `Io` if its last event is damaged.
    pub fn stream_state(&self, stream: &str) -> Result<StreamState> {
        check_stream_name(stream)?;
        Ok(self.facts_at(stream, self.head())?.state)
    }

    /// What a stream is at `head`.
    fn facts_at(&self, stream: &str, head: u64) -> Result<StreamFacts> {
        removal::facts(&self.core, self.hidden(head).as_ref(), stream, head)
    }

    /// All streams whose name begins with `prefix`, in byte order of the names; those that were deleted or ended, and not
    /// forgotten, are among them.
    ///
    /// Allocates the answer; costs a look at each segment that has such a stream.
    ///
    /// # Errors
    /// `Corrupt` or `Io` if what must be looked at is damaged.
    pub fn streams(&self, prefix: &str) -> Result<Vec<StreamInfo>> {
        let head = self.head();
        let mut found = std::collections::BTreeMap::<String, u64>::new();
        self.each_unit(head, |unit| {
            let every = usize::MAX;
            unit.streams_with_prefix(&self.core, prefix, head, every, |name, first| {
                if first <= head {
                    found.entry(name.to_owned()).or_insert(first);
                }
                true
            })?;
            Ok(())
        })?;
        let mut streams = Vec::with_capacity(found.len());
        for (name, first) in found {
            let facts = self.facts_at(&name, head)?;
            let can_be_read = facts.first <= facts.last;
            let first = match (can_be_read, facts.first) {
                (true, 1) if facts.forgotten == 0 => Position::new(first),
                (true, _) => {
                    let mut read = self.stream_read(&name, Seek::Beginning, Direction::Forward, head)?;
                    read.next().transpose()?.map(|event| event.position())
                }
                (false, _) => None,
            };
            let last = Position::new(facts.newest).filter(|_| can_be_read);
            if facts.state != StreamState::Absent {
                streams.push(StreamInfo { name, state: facts.state, first_position: first, last_position: last });
            }
        }
        Ok(streams)
    }

    /// All types with their numbers of events, in byte order of the names. Looks at each event that was removed and is
    /// still in the log.
    ///
    /// # Errors
    /// `Corrupt` or `Io` if what must be looked at is damaged.
    pub fn types(&self) -> Result<Vec<TypeInfo>> {
        let head = self.head();
        let mut found = std::collections::BTreeMap::<String, u64>::new();
        self.each_unit(head, |unit| {
            let mut names = Vec::new();
            unit.types(&self.core, head, |name| names.push((name.to_owned(), 0)))?;
            for (name, count) in &mut names {
                let key = self.core.hash.key(KeyKind::Type, name);
                if let Some(mut cursor) = unit.cursor(KeyKind::Type, key, unit.span, Direction::Forward)? {
                    *count = cursor.exact_count()?;
                }
            }
            // Only of a unit that has answered everything.
            for (name, count) in names.into_iter().filter(|(_, count)| *count > 0) {
                *found.entry(name).or_insert(0) += count;
            }
            Ok(())
        })?;
        if let Some(hidden) = self.hidden(head) {
            each_hidden(&self.core, &hidden, head, |event| {
                if let Some(count) = found.get_mut(event.event_type()) {
                    *count = u64::saturating_sub(*count, 1);
                }
            })?;
        }
        let left = found.into_iter().filter(|(_, count)| *count > 0);
        Ok(left.map(|(name, count)| TypeInfo { name, count }).collect())
    }

    /// Every unit of the index up to `head`, oldest first, each from where the one before it ended: tiers come and go meanwhile.
    pub(crate) fn each_unit(&self, head: u64, mut each: impl FnMut(&Unit<'_>) -> Result<()>) -> Result<()> {
        let segments = self.core.segments.load();
        let mut at = 1;
        while at <= head {
            let unit = Unit::of(&self.core, &segments, at, head)?.not_below(at);
            let Span { last, .. } = unit.span;
            match each(&unit) {
                Ok(()) => at = last + 1,
                // Its segments answer instead.
                Err(_) if unit.tier().is_some_and(|tier| tier.is_broken()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Number of events that match.
    ///
    /// # Errors
    /// As [`Reader::read_all`].
    pub fn count(&self, query: &Query) -> Result<u64> {
        let mut count = 0;
        self.read_all(query, Seek::Beginning)?.for_each_event(|_| {
            count += 1;
            std::ops::ControlFlow::<()>::Continue(())
        })?;
        Ok(count)
    }

    /// The newest event that matches.
    ///
    /// # Errors
    /// As [`Reader::read_all`].
    pub fn last(&self, query: &Query) -> Result<Option<Event>> {
        query.check()?;
        let head = self.head();
        newest_match(&self.core, query, head, 0, self.hidden(head).as_ref())
    }
}

/// Hands every hidden event that still stands in the log to `each`, once.
fn each_hidden(core: &Arc<Core>, hidden: &Hidden, head: u64, mut each: impl FnMut(&EventRef<'_>)) -> Result<()> {
    let segments = core.segments.load_full();
    // Up to here cuts of prefixes hide: all is looked at. Beyond, only what was removed by the name of its stream.
    let last_cut = hidden.last_cut().min(head);
    let mut look = |sought: Sought<'_>, from: u64, until: u64| -> Result<()> {
        let mut walk = Walk::new(Bounds { from, until, direction: Direction::Forward });
        while let Some(position) = walk.next(core, &segments, sought)? {
            let Some(event) = walk.event(core, &segments, position)?.map(Found::into_event) else { continue };
            if hidden.reason(event.as_event_ref()).is_some() {
                each(&event.as_event_ref());
            } else if let Sought::Stream(_) = sought
                && hidden.marks(event.stream()) != Marks::default()
            {
                // What is hidden of a stream is its beginning.
                break;
            }
        }
        Ok(())
    };
    look(Sought::Query(&Query::all()), 1, last_cut)?;
    let mut keys = Vec::new();
    hidden.each_stream(|key, marks| {
        if marks.hidden_upto() > 0 || marks.forgotten > 0 {
            keys.push(key);
        }
    });
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().try_for_each(|key| look(Sought::Stream(key), last_cut + 1, head))
}

pub(crate) fn check_stream_name(stream: &str) -> Result<()> {
    if name::is_well_formed(stream.as_bytes()) {
        Ok(())
    } else {
        Err(Error::invalid("no stream can have this name", None))
    }
}

/// The newest event after `after` and up to `head` that matches `query` and is not hidden.
pub(crate) fn newest_match(
    core: &Core,
    query: &Query,
    head: u64,
    after: u64,
    hidden: Option<&Hidden>,
) -> Result<Option<Event>> {
    if surely_none(core, query, Span { first: after + 1, last: head }) {
        return Ok(None);
    }
    newest(core, Sought::Query(query), head, after, |event| {
        query.matches(event) && removal::reason(hidden, *event).is_none()
    })
}

/// The oldest event of a stream after `after` and up to `head`, hidden or not.
pub(crate) fn oldest_of_stream(core: &Core, stream: &str, head: u64, after: u64) -> Result<Option<Event>> {
    let key = core.hash.key(KeyKind::Stream, stream);
    let bounds = Bounds { from: after + 1, until: head, direction: Direction::Forward };
    next_within(core, Sought::Stream(key), bounds, |event| event.stream() == stream)
}

/// The last event of a stream up to `head`, by its name; [`StreamTip::NONE`] if there is none.
///
/// Asks the indexes of what was written after the directory's coverage, then the directory. What they answer by hash is
/// confirmed by the name.
pub(crate) fn tip_of_stream(core: &Core, stream: &str, head: u64) -> Result<StreamTip> {
    tip_of_key(core, core.hash.key(KeyKind::Stream, stream), stream, head, None)
}

/// What was done once for many names, before they are asked for one by one: what the directory looks at is being loaded.
pub(crate) struct Ahead {
    /// The directory's at that time.
    pub(crate) coverage: u64,
    /// The segment that is being written, if no other stood behind it.
    pub(crate) live: Option<LiveAlone>,
}

/// As [`tip_of_stream`], where the stream's key is known.
#[inline]
pub(crate) fn tip_of_key(core: &Core, key: u64, stream: &str, head: u64, ahead: Option<&Ahead>) -> Result<StreamTip> {
    let newest_after = |after: u64| -> Result<Option<StreamTip>> {
        let event = newest(core, Sought::Stream(key), head, after, |event| event.stream() == stream)?;
        Ok(event.map(|event| StreamTip { revision: event.revision().get(), position: event.position().get() }))
    };
    let files = core.directory.load();
    loop {
        let sound = files.sound();
        let coverage = directory::coverage(sound);
        if ahead.is_none() {
            directory::prefetch(sound, key);
        }
        let has_none_behind = || match ahead {
            // Where a file of the directory turned out to be broken, more segments stand behind what is covered.
            Some(ahead) if coverage >= ahead.coverage => ahead.live.as_ref().is_some_and(|live| live.has_none(key)),
            _ => core.live_alone_after(coverage).is_some_and(|live| live.has_none(key)),
        };
        if head > coverage
            && !has_none_behind()
            && let Some(tip) = newest_after(coverage)?
        {
            return Ok(tip);
        }
        match directory::find(sound, key, stream) {
            Ok(None) => return Ok(StreamTip::NONE),
            Ok(Some(tip)) if tip.position <= head => return Ok(tip),
            // Whoever asks is pinned in the past of the directory.
            Ok(Some(_)) => return Ok(newest_after(0)?.unwrap_or(StreamTip::NONE)),
            // Asked again without the file that turned out to be broken, which the coverage then ends before.
            Err(_) if files.coverage() < coverage => {}
            Err(error) => return Err(error),
        }
    }
}

/// The newest event after `after` and up to `head` that is sought and confirmed. Nothing at or below `after` is looked at.
pub(crate) fn newest(
    core: &Core,
    sought: Sought<'_>,
    head: u64,
    after: u64,
    confirms: impl Fn(&EventRef<'_>) -> bool,
) -> Result<Option<Event>> {
    next_within(core, sought, Bounds { from: after + 1, until: head, direction: Direction::Backward }, confirms)
}

/// The first event within the bounds that is sought and confirmed.
fn next_within(
    core: &Core,
    sought: Sought<'_>,
    bounds: Bounds,
    confirms: impl Fn(&EventRef<'_>) -> bool,
) -> Result<Option<Event>> {
    let segments = core.segments.load();
    let mut walk = Walk::new(bounds);
    while let Some(position) = walk.next(core, &segments, sought)? {
        if let Some(found) = walk.event(core, &segments, position)?
            && confirms(&found.as_event_ref())
        {
            return Ok(Some(found.into_event()));
        }
    }
    Ok(None)
}

/// The event at a position that the writer has placed.
pub(crate) fn event_at(core: &Core, position: u64) -> Result<Option<Event>> {
    let Some(segment) = core.segment_of(position) else { return Ok(None) };
    event_in(&segment, &core.log, position)
}

/// The event at `position` of this segment.
pub(crate) fn event_in(segment: &Segment, log: &Log, position: u64) -> Result<Option<Event>> {
    let opened = segment.opened()?;
    match segment.place(&opened, position)? {
        Some(place) => segment.event_at(&opened, log, position, place),
        None => Ok(None),
    }
}

pub(crate) fn event_of_record(segment: &Segment, log: &Log, record: u32) -> Result<Option<Event>> {
    event_in(segment, log, segment.first_position() + u64::from(record))
}

/// Time of the batch that holds `position`.
pub(crate) fn recorded_at(core: &Core, position: u64) -> Result<u64> {
    let unknown = || Error::corrupt("the index", 0, Some(position), "no record is known at this position");
    let segment = core.segment_of(position).ok_or_else(unknown)?;
    let opened = segment.opened()?;
    let place = segment.place(&opened, position)?.ok_or_else(unknown)?;
    let window = segment.window(&opened, &core.log, place.batch, annals_format::batch::BATCH_HEADER_LEN as u64)?;
    Ok(segment.batch_header(&window, place.batch)?.recorded_at)
}
