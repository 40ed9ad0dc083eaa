//! An append as the writer sees it, whichever call it came from, and the checks that need no lock.

use std::cell::RefCell;

use annals_format::manifest::Limits;
use annals_format::record::EventParts;

use crate::Result;
use crate::append::{Batch, Condition, Durability, Expect, NewEvent};
use crate::consumer::Acknowledgement;
use crate::error::Error;
use crate::name;
use crate::removal::{self, Removal};

/// Events with their streams, expectations and conditions: borrowed from the caller, never copied. The writer is compiled
/// once for each form, so that the form costs nothing while it works.
pub(crate) trait Input<'a> {
    /// Whether there is always exactly one event.
    const IS_SINGLE: bool = false;
    /// Whether it may have removals.
    const MAY_REMOVE: bool = false;

    fn len(&self) -> usize;

    fn event(&self, index: usize) -> (&'a str, &'a NewEvent<'a>);

    /// Calls `each` with what is expected of which stream, and with the number of an event of that stream where one is
    /// found at once.
    fn each_expectation(&self, each: impl FnMut(&'a str, Expect, Option<usize>));

    fn durability(&self) -> Option<Durability>;

    fn conditions(&self) -> &'a [Condition] {
        &[]
    }

    /// What is removed with it; its records come before the events.
    fn removals(&self) -> &'a [Removal<'a>] {
        &[]
    }

    fn acknowledgements(&self) -> &'a [Acknowledgement] {
        &[]
    }

    fn as_batch(&self) -> bool {
        false
    }

    /// What can be judged of expectations and conditions without the store.
    fn check_guards(&self) -> Result<()> {
        Ok(())
    }

    /// Whether the caller gave ids; checked to be so for all events or for none.
    #[inline]
    fn has_ids(&self) -> bool {
        self.len() > 0 && self.event(0).1.id.is_some()
    }

    #[inline]
    fn parts(&self, index: usize, id: [u8; 16]) -> EventParts<'a> {
        let (stream, event) = self.event(index);
        EventParts {
            id,
            id_generated: event.id.is_none(),
            stream,
            event_type: event.event_type,
            tags: event.tags,
            metadata: event.metadata,
            payload: event.payload,
            occurred_at: event.occurred_at,
            schema_version: event.schema_version,
            content_type: event.content_type,
            correlation: event.correlation,
            causation: event.causation,
        }
    }

    /// Names, sizes, ids: everything that can be judged without the store.
    fn check_form(&self, limits: &Limits) -> Result<()> {
        if self.len() == 0 && self.removals().is_empty() && self.acknowledgements().is_empty() {
            return Err(Error::Empty);
        }
        if self.len() as u64 > limits.batch_event_count {
            return Err(Error::over_limit("too many events", None, self.len() as u64, limits.batch_event_count));
        }
        let has_ids = self.has_ids();
        let mut last_stream: Option<&str> = None;
        for index in 0..self.len() {
            let (stream, event) = self.event(index);
            // The same text at the same address needs no second look.
            if last_stream.is_none_or(|last| !std::ptr::eq(last, stream)) {
                check_name("the stream's name", stream, index)?;
                last_stream = Some(stream);
            }
            check_event(event, index, limits)?;
            if event.id.is_some() != has_ids {
                return Err(Error::invalid("ids on some events only", Some(index)));
            }
        }
        // The expectation of one stream is that of its events.
        self.check_guards()?;
        if Self::MAY_REMOVE && !self.removals().is_empty() {
            removal::check_form(self)?;
        }
        if has_ids && self.len() > 1 { check_ids_differ(self) } else { Ok(()) }
    }
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct One<'a> {
    pub(crate) stream: &'a str,
    pub(crate) expect: Expect,
    pub(crate) event: &'a NewEvent<'a>,
    pub(crate) durability: Option<Durability>,
}

impl<'a> Input<'a> for One<'a> {
    const IS_SINGLE: bool = true;

    #[inline(always)]
    fn len(&self) -> usize {
        1
    }

    #[inline(always)]
    fn event(&self, _: usize) -> (&'a str, &'a NewEvent<'a>) {
        (self.stream, self.event)
    }

    #[inline]
    fn each_expectation(&self, mut each: impl FnMut(&'a str, Expect, Option<usize>)) {
        each(self.stream, self.expect, Some(0));
    }

    fn durability(&self) -> Option<Durability> {
        self.durability
    }
}

/// Any number of events of one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfStream<'a> {
    pub(crate) stream: &'a str,
    pub(crate) expect: Expect,
    pub(crate) events: &'a [NewEvent<'a>],
    pub(crate) durability: Option<Durability>,
}

impl<'a> Input<'a> for OfStream<'a> {
    #[inline]
    fn len(&self) -> usize {
        self.events.len()
    }

    #[inline]
    fn event(&self, index: usize) -> (&'a str, &'a NewEvent<'a>) {
        (self.stream, &self.events[index])
    }

    #[inline]
    fn each_expectation(&self, mut each: impl FnMut(&'a str, Expect, Option<usize>)) {
        each(self.stream, self.expect, Some(0));
    }

    fn durability(&self) -> Option<Durability> {
        self.durability
    }
}

/// A batch as its caller made it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Many<'a>(pub(crate) &'a Batch<'a>);

impl<'a> Many<'a> {
    /// The event whose stream is this very text, looked for from `next` on, which moves behind it. Expectations mostly
    /// come in the order of the events; one that does not is not found, and costs a look at a few events.
    #[inline]
    fn event_of(&self, stream: &str, next: &mut usize) -> Option<usize> {
        const LOOK_AT: usize = 16;
        let last = self.len().min(*next + LOOK_AT);
        let found = (*next..last).find(|index| std::ptr::eq(self.event(*index).0, stream))?;
        *next = found + 1;
        Some(found)
    }
}

impl<'a> Input<'a> for Many<'a> {
    const MAY_REMOVE: bool = true;

    #[inline]
    fn len(&self) -> usize {
        self.0.events.len()
    }

    #[inline]
    fn event(&self, index: usize) -> (&'a str, &'a NewEvent<'a>) {
        let (stream, event) = &self.0.events[index];
        (stream, event)
    }

    #[inline]
    fn each_expectation(&self, mut each: impl FnMut(&'a str, Expect, Option<usize>)) {
        let mut next_event = 0;
        for (stream, expect) in &self.0.expectations {
            each(stream, *expect, self.event_of(stream, &mut next_event));
        }
    }

    fn durability(&self) -> Option<Durability> {
        self.0.durability
    }

    fn conditions(&self) -> &'a [Condition] {
        &self.0.conditions
    }

    fn removals(&self) -> &'a [Removal<'a>] {
        &self.0.removals
    }

    #[inline(always)]
    fn acknowledgements(&self) -> &'a [Acknowledgement] {
        &self.0.acknowledgements
    }

    fn as_batch(&self) -> bool {
        self.0.as_batch
    }

    fn check_guards(&self) -> Result<()> {
        let mut next_event = 0;
        for (stream, _) in &self.0.expectations {
            if self.event_of(stream, &mut next_event).is_none() && !name::is_well_formed(stream.as_bytes()) {
                return Err(Error::invalid("an expectation names a stream that cannot be", None));
            }
        }
        self.0.conditions.iter().try_for_each(|condition| condition.query.check())
    }
}

fn check_ids_differ<'a>(input: &(impl Input<'a> + ?Sized)) -> Result<()> {
    thread_local! {
        static SEEN: RefCell<hashbrown::HashSet<[u8; 16], foldhash::fast::FixedState>> = RefCell::default();
    }
    SEEN.with_borrow_mut(|seen| {
        seen.clear();
        for index in 0..input.len() {
            let id = input.event(index).1.id.expect("all events have ids").to_bytes();
            if !seen.insert(id) {
                return Err(Error::invalid("the same id twice in a batch", Some(index)));
            }
        }
        Ok(())
    })
}

#[inline]
pub(crate) fn check_name(what: &'static str, text: &str, index: usize) -> Result<()> {
    if name::is_well_formed(text.as_bytes()) && text.as_bytes()[0] != b'$' {
        return Ok(());
    }
    bad_name(what, text, index)
}

#[cold]
fn bad_name(what: &'static str, text: &str, index: usize) -> Result<()> {
    if text.len() > name::NAME_LEN_MAX {
        return Err(Error::over_limit(what, Some(index), text.len() as u64, name::NAME_LEN_MAX as u64));
    }
    Err(Error::invalid(
        match (what, text.is_empty(), text.starts_with('$')) {
            ("the stream's name", true, _) => "the stream's name is empty",
            ("the type's name", true, _) => "the type's name is empty",
            (_, true, _) => "a tag is empty",
            ("the stream's name", _, true) => "the stream's name begins with $, which is reserved",
            ("the type's name", _, true) => "the type's name begins with $, which is reserved",
            (_, _, true) => "a tag begins with $, which is reserved",
            ("the stream's name", ..) => "the stream's name holds a control character",
            ("the type's name", ..) => "the type's name holds a control character",
            _ => "a tag holds a control character",
        },
        Some(index),
    ))
}

#[inline]
fn check_event(event: &NewEvent<'_>, index: usize, limits: &Limits) -> Result<()> {
    check_name("the type's name", event.event_type, index)?;
    over("the payload", event.payload.len(), limits.payload_len, index)?;
    if event.has_more() { check_more(event, index, limits) } else { Ok(()) }
}

#[inline]
fn over(what: &'static str, size: usize, limit: u64, index: usize) -> Result<()> {
    if size as u64 > limit { Err(Error::over_limit(what, Some(index), size as u64, limit)) } else { Ok(()) }
}

fn check_more(event: &NewEvent<'_>, index: usize, limits: &Limits) -> Result<()> {
    let over = |what, size, limit| over(what, size, limit, index);
    over("the metadata", event.metadata.len(), limits.metadata_len)?;
    over("the number of tags", event.tags.len(), limits.tag_count)?;
    for tag in event.tags {
        check_name("a tag", tag, index)?;
    }
    over("the content type", event.content_type.map_or(0, str::len), 255)?;
    over("the correlation", event.correlation.map_or(0, <[u8]>::len), 255)?;
    over("the causation", event.causation.map_or(0, <[u8]>::len), 255)?;
    if event.occurred_at.is_some_and(|at| at.digits > 9) {
        return Err(Error::invalid("occurred_at has more than 9 digits of fraction", Some(index)));
    }
    Ok(())
}
