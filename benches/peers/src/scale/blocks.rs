//! Blocks of appends, prepared before the clock starts, so that two kinds of append can be compared block by block.

use std::time::{Duration, Instant};

use annals::{Batch, Condition, Expect};

use super::Scale;
use super::events::{CUSTOMERS, Names, REGIONS, Shape, TYPES, below};
use super::held::{Append, Held, Ours, new_event};
use crate::Result;
use crate::random::Random;
use crate::report::Spread;

/// A block takes no longer than this, however slow its appends.
const LIMIT: Duration = Duration::from_secs(1);
/// Tags of appends are of the lower half; what conditions ask for is of the upper one.
pub(super) const APPENDED_CUSTOMERS: u32 = CUSTOMERS / 2;

/// Appends to come: distinct streams with the revisions they are at.
pub(super) struct Block<'a> {
    streams: Vec<(&'a str, u64)>,
    tags: Vec<[&'a str; 2]>,
    ids: Vec<Option<[u8; 16]>>,
    types: Vec<u8>,
    payloads: Vec<&'a [u8]>,
}

impl<'a> Block<'a> {
    /// Draws `count` appends and asks the store for its revisions.
    pub(super) fn draw(
        scale: &'a Scale,
        held: &dyn Held,
        names: &'a Names,
        shape: Shape,
        count: usize,
        random: &mut Random,
        mut id: impl FnMut(&mut Random) -> Option<[u8; 16]>,
    ) -> Result<Self> {
        let mut numbers: Vec<u32> = (0..count).map(|_| below(random, shape.streams)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        // In no order: neighbours would share pages.
        for at in (1..numbers.len()).rev() {
            numbers.swap(at, random.next() as usize % (at + 1));
        }
        let mut streams = Vec::with_capacity(count);
        for number in &numbers {
            let name = names.stream(*number);
            streams.push((name, held.latest(name)?));
        }
        let len = streams.len();
        let tags = |_| {
            let customer = names.customer(below(random, APPENDED_CUSTOMERS));
            [customer, Names::region(below(random, u32::from(REGIONS)) as u8)]
        };
        let tags = (0..len).map(tags).collect();
        let types = (0..len).map(|_| below(random, 6) as u8).collect();
        let payloads = (0..len).map(|_| scale.payloads.of(below(random, shape.events))).collect();
        let ids = (0..len).map(|_| id(random)).collect();
        Ok(Self { streams, tags, ids, types, payloads })
    }

    fn append(&self, number: usize) -> Append<'_> {
        let (stream, revision) = self.streams[number];
        Append {
            stream,
            revision,
            id: self.ids[number],
            event_type: TYPES[usize::from(self.types[number])],
            tags: &self.tags[number],
            payload: self.payloads[number],
        }
    }

    /// Nanoseconds an append, one call for each.
    pub(super) fn append_all(&self, held: &dyn Held) -> Result<f64> {
        timed(self.streams.len(), |number| held.append(&self.append(number)))
    }

    /// The same by batches of one event with a condition, or without; the batches are made before the clock starts.
    pub(super) fn commit_all(&self, ours: &Ours, condition: &mut dyn FnMut() -> Option<Condition>) -> Result<f64> {
        let appends: Vec<_> = (0..self.streams.len()).map(|number| self.append(number)).collect();
        let mut prepared: Vec<Batch<'_>> = Vec::with_capacity(appends.len());
        for append in &appends {
            let mut one = Batch::new();
            one.push_expectation(append.stream, Expect::revision(append.revision));
            one.push(append.stream, new_event(append));
            prepared.push(match condition() {
                Some(condition) => one.condition(condition.query, condition.after),
                None => one,
            });
        }
        timed(prepared.len(), |number| {
            ours.store.commit(&prepared[number])?;
            Ok(())
        })
    }
}

fn timed(count: usize, mut each: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let (began, mut done) = (Instant::now(), 0);
    while done < count {
        each(done)?;
        done += 1;
        if done % 8 == 0 && began.elapsed() > LIMIT {
            break;
        }
    }
    Ok(began.elapsed().as_nanos() as f64 / done as f64)
}

/// The middle one.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Result<f64> {
    Ok(Spread::of(values).ok_or("no block was measured")?.median)
}
