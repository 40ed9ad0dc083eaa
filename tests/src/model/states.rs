//! Snapshots of state, the slow and obvious way: a list of what was saved, and folding from the beginning.

use super::content::Recorded;
use super::plain::Plain;
use super::removal::Facts;

/// The schema that registered folds save by.
pub const FOLDED: u32 = 3;

/// Every schema that states are saved by.
pub const SCHEMAS: [u32; 3] = [1, 2, FOLDED];

/// A snapshot that was saved and not cleaned up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of a snapshot")]
pub struct Saved {
    pub stream: String,
    pub schema: u32,
    pub revision: u64,
    pub position: u64,
    pub state: Vec<u8>,
}

/// All snapshots of a store, oldest first; and whether the store was made as of a moment, so that of a stream it knows no
/// revision behind that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct States(Vec<Saved>, bool);

/// What loading must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Load<'a> {
    /// A snapshot or none, and the revisions of the events after it.
    Complete(Option<&'a Saved>, Vec<u64>),
    /// Events at the beginning are gone, and nothing takes their place.
    Incomplete(u64),
}

/// What is left after a clean-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the store tells it")]
pub struct Cleaned {
    pub kept: u64,
    pub void: u64,
    pub superseded: u64,
}

/// A state: how many events there were, and a hash of what they held. What follows these 16 bytes says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    count: u64,
    hash: u64,
}

impl Folded {
    /// One event more.
    pub fn fold(&mut self, event: &Recorded) {
        self.count += 1;
        let mut hash = self.hash ^ event.revision;
        for part in [&event.content.payload[..], event.content.event_type.as_bytes()] {
            // Words: histories fold the same events many thousand times.
            for bytes in part.chunks(8) {
                let mut word = [0; 8];
                word[..bytes.len()].copy_from_slice(bytes);
                hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
            }
            hash ^= part.len() as u64;
        }
        self.hash = hash;
    }

    /// As bytes.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        [self.count.to_le_bytes(), self.hash.to_le_bytes()].concat()
    }

    /// What [`Folded::to_bytes`] made; `None` of fewer bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..at + 8)?.first_chunk()?));
        Some(Self { count: word(0)?, hash: word(8)? })
    }
}

impl Facts {
    /// Whether the stream begins later than its events do.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.last > self.deleted && self.first > self.deleted + 1
    }

    fn counts(&self, saved: &Saved, last: u64) -> bool {
        saved.position <= last
            && saved.revision <= self.last
            && saved.revision > self.deleted
            && saved.position > self.forgotten
    }

    fn reaches(&self, saved: &Saved) -> bool {
        saved.revision + 1 >= self.first
    }
}

impl Plain {
    /// The state of a stream after the event at `revision`; all of them since it was last deleted are in it.
    #[must_use]
    pub fn state_at(&self, facts: &Facts, revision: u64) -> Folded {
        let mut folded = Folded::default();
        let events = facts.positions.iter().filter_map(|at| self.at(*at));
        let wanted = events.filter(|event| event.revision > facts.deleted && event.revision <= revision);
        wanted.for_each(|event| folded.fold(event));
        folded
    }
}

impl States {
    /// The same in a store that was made as of a moment.
    #[must_use]
    pub fn of_a_made_store(&self) -> Self {
        Self(self.0.clone(), true)
    }

    fn facts(&self, plain: &Plain, stream: &str, last: u64, removals: u64) -> Facts {
        let facts = plain.facts(stream, last, removals);
        if !self.1 {
            return facts;
        }
        let ever = facts.positions.len() as u64;
        let (deleted, first) = (facts.deleted.min(ever), facts.first.min(ever + 1));
        Facts { deleted, first, last: ever, ..facts }
    }

    /// Adds one.
    pub fn save(&mut self, saved: Saved) {
        self.0.push(saved);
    }

    /// Names of the streams that have any.
    #[must_use]
    pub fn streams(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|saved| saved.stream.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Those of a stream, by name and schema, that count; newest first.
    fn counting<'a>(
        &'a self,
        stream: &'a str,
        schema: u32,
        facts: &'a Facts,
        last: u64,
    ) -> impl Iterator<Item = &'a Saved> {
        let is_its = move |saved: &&Saved| saved.stream == stream && saved.schema == schema;
        let mut found: Vec<&Saved> = self.0.iter().filter(is_its).filter(|saved| facts.counts(saved, last)).collect();
        // Of two of one revision the later one is the newer.
        found.reverse();
        found.sort_by_key(|saved| std::cmp::Reverse(saved.revision));
        found.into_iter()
    }

    /// The newest that counts up to `last`, seen through the removals up to `removals`.
    #[must_use]
    pub fn latest(&self, plain: &Plain, stream: &str, schema: u32, last: u64, removals: u64) -> Option<&Saved> {
        let facts = self.facts(plain, stream, last, removals);
        let found = self.counting(stream, schema, &facts, last).next()?;
        self.0.iter().find(|saved| std::ptr::eq(*saved, found))
    }

    /// What loading must answer up to `last`, seen through the removals up to `removals`.
    #[must_use]
    pub fn load(&self, plain: &Plain, stream: &str, schema: u32, last: u64, removals: u64) -> Load<'_> {
        let facts = self.facts(plain, stream, last, removals);
        let found = self.counting(stream, schema, &facts, last).find(|saved| facts.reaches(saved));
        let found = found.and_then(|found| self.0.iter().find(|saved| std::ptr::eq(*saved, found)));
        if found.is_none() && facts.is_cut() {
            return Load::Incomplete(facts.first);
        }
        let after = found.map_or(0, |saved| saved.revision);
        let events = facts.positions.iter().filter_map(|at| plain.at(*at));
        let shown = events.filter(|event| event.revision > after && plain.hiding(event, removals).is_none());
        Load::Complete(found, shown.map(|event| event.revision).collect())
    }

    /// How many count, of every name and schema.
    #[must_use]
    pub fn listed(&self, plain: &Plain, stream: &str, last: u64, removals: u64) -> Vec<(u32, u64)> {
        let facts = self.facts(plain, stream, last, removals);
        let is_its = |saved: &&Saved| saved.stream == stream && facts.counts(saved, last);
        let mut found: Vec<(u32, u64)> =
            self.0.iter().filter(is_its).map(|saved| (saved.schema, saved.revision)).collect();
        found.sort_unstable();
        found
    }

    /// Whether a snapshot of any kind takes the place of what is hidden of a stream.
    #[must_use]
    pub fn is_reached(&self, plain: &Plain, stream: &str, head: u64) -> bool {
        let facts = plain.facts(stream, head, head);
        let mut of_stream = self.0.iter().filter(|saved| saved.stream == stream);
        of_stream.any(|saved| facts.counts(saved, head) && facts.reaches(saved))
    }

    /// The newest revision up to `last` of which there is any, also one that counts no more.
    #[must_use]
    pub fn newest_in_table(&self, stream: &str, schema: u32, last: u64) -> Option<u64> {
        let is_its = |saved: &&Saved| saved.stream == stream && saved.schema == schema && saved.revision <= last;
        self.0.iter().filter(is_its).map(|saved| saved.revision).max()
    }

    /// Lets go of what is void and, of each stream and schema, of all but as many of the newest as `keep` says; never of the
    /// oldest one that takes the place of what cannot be read.
    pub fn clean(&mut self, plain: &Plain, keep: impl Fn(&str, u32) -> usize) -> Cleaned {
        let head = plain.head();
        let mut cleaned = Cleaned::default();
        let mut stays = vec![false; self.0.len()];
        let place = |saved: &Saved| self.0.iter().position(|other| std::ptr::eq(other, saved));
        for stream in self.streams() {
            let facts = plain.facts(stream, head, head);
            for schema in SCHEMAS {
                let newest: Vec<&Saved> = self.counting(stream, schema, &facts, head).collect();
                let reaching = newest.iter().rev().find(|saved| facts.is_cut() && facts.reaches(saved));
                for saved in newest.iter().take(keep(stream, schema)).chain(reaching) {
                    stays[place(saved).expect("it is one of them")] = true;
                }
                cleaned.superseded += newest.len() as u64;
            }
        }
        cleaned.kept = stays.iter().filter(|stays| **stays).count() as u64;
        cleaned.void = self.0.len() as u64 - cleaned.superseded;
        cleaned.superseded -= cleaned.kept;
        let mut stays = stays.into_iter();
        self.0.retain(|_| stays.next() == Some(true));
        cleaned
    }

    /// Forgets what was saved of positions behind `head`.
    pub fn cut(&mut self, head: u64) {
        self.0.retain(|saved| saved.position <= head);
    }
}
