//! The events of a large store: each is a function of its number, so that nothing has to be kept for ten million.

use crate::random::Random;
use crate::workload::Payloads;

/// Tags of the first kind.
pub const CUSTOMERS: u32 = 100_000;
/// Of these the last ones, which only the first tenth of a store holds.
pub const EARLY: u32 = 1_000;
/// Tags of the second kind. An event carries one of them, so two never meet.
pub const REGIONS: u8 = 10;
/// The type of one event in a thousand.
pub const RARE: &str = "RefundIssued";
/// All types, in byte order; twelve bytes each.
pub const TYPES: [&str; 7] =
    ["ItemRemoved1", "NoteWritten1", "OrderPacked1", "OrderPaid001", "OrderPlaced1", "OrderShipped", RARE];

/// Kind of the ids callers give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// UUID version 4: random.
    V4,
    /// UUID version 7: milliseconds in front.
    V7,
}

impl Ids {
    /// An id of this kind, made in millisecond `millis`.
    pub fn make(self, random: &mut Random, millis: u64) -> [u8; 16] {
        let mut id = random.bytes16();
        let version = match self {
            Self::V4 => 0x40,
            Self::V7 => {
                id[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
                0x70
            }
        };
        id[6] = version | id[6] & 0x0f;
        id[8] = 0x80 | id[8] & 0x3f;
        id
    }
}

/// What a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Events.
    pub events: u32,
    /// Streams, all as busy as each other.
    pub streams: u32,
    /// The callers' ids.
    pub ids: Ids,
}

/// An event without its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Number of the stream.
    pub stream: u32,
    /// Index in [`TYPES`].
    pub event_type: u8,
    /// Number of the first tag.
    pub customer: u32,
    /// Number of the second tag.
    pub region: u8,
}

impl Shape {
    /// As part of a directory's name.
    pub fn name(&self) -> String {
        let ids = if self.ids == Ids::V4 { "v4" } else { "v7" };
        format!("{}-{}-{ids}", self.events, self.streams)
    }

    /// Back from [`Shape::name`].
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let (events, streams) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let ids = if parts.next()? == "v7" { Ids::V7 } else { Ids::V4 };
        Some(Self { events, streams, ids })
    }

    /// The event of this number, counted from 0.
    #[inline]
    pub fn draw(&self, number: u32) -> Draw {
        let mut random = Random::new(u64::from(number) << 20 ^ 0x5ca1e);
        let early = number < self.events / 10;
        Draw {
            stream: below(&mut random, self.streams),
            event_type: if below(&mut random, 1000) == 0 { 6 } else { below(&mut random, 6) as u8 },
            customer: below(&mut random, if early { CUSTOMERS } else { CUSTOMERS - EARLY }),
            region: below(&mut random, u32::from(REGIONS)) as u8,
        }
    }

    /// The id of this event.
    #[inline]
    pub fn id(&self, number: u32) -> [u8; 16] {
        // A thousand events in a millisecond, from the end of 2023 on.
        let millis = 1_700_000_000_000 + u64::from(number) / 1000;
        self.ids.make(&mut Random::new(u64::from(number) << 24 ^ 0x1d), millis)
    }

    /// Tags that occur, but in the first tenth only.
    pub fn early_customers(&self) -> Vec<u32> {
        let customers = (0..self.events / 10).map(|number| self.draw(number).customer);
        let mut early: Vec<u32> = customers.filter(|customer| *customer >= CUSTOMERS - EARLY).collect();
        early.sort_unstable();
        early.dedup();
        early
    }
}

/// A number below `bound`, each as likely.
#[inline]
pub fn below(random: &mut Random, bound: u32) -> u32 {
    ((random.next() >> 32) * u64::from(bound) >> 32) as u32
}

/// The text of all names, made once.
pub struct Names {
    streams: String,
    customers: String,
}

const STREAM_LEN: usize = 13;
const CUSTOMER_LEN: usize = 8;
const REGION_NAMES: [&str; REGIONS as usize] = ["r-0", "r-1", "r-2", "r-3", "r-4", "r-5", "r-6", "r-7", "r-8", "r-9"];

impl Names {
    /// For this many streams, at most a million: their names have 13 bytes.
    pub fn new(streams: u32) -> Self {
        use std::fmt::Write;
        let (mut all, mut customers) = (String::with_capacity(streams as usize * STREAM_LEN), String::new());
        for number in 0..streams {
            let _ = write!(all, "stream-{number:06}");
        }
        for number in 0..CUSTOMERS {
            let _ = write!(customers, "c-{number:06}");
        }
        Self { streams: all, customers }
    }

    /// Name of a stream.
    #[inline]
    pub fn stream(&self, number: u32) -> &str {
        &self.streams[number as usize * STREAM_LEN..][..STREAM_LEN]
    }

    /// The first tag.
    #[inline]
    pub fn customer(&self, number: u32) -> &str {
        &self.customers[number as usize * CUSTOMER_LEN..][..CUSTOMER_LEN]
    }

    /// The second tag.
    #[inline]
    pub fn region(number: u8) -> &'static str {
        REGION_NAMES[usize::from(number)]
    }
}

impl Payloads {
    /// The payload of an event; they repeat.
    #[inline]
    pub fn of(&self, number: u32) -> &[u8] {
        let which = number as usize % self.lens.len();
        // All are of one length.
        let len = self.lens[0] as usize;
        &self.arena[which * len..][..len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { events: 200_000, streams: 20_000, ids: Ids::V7 };

    #[test]
    fn the_rare_type_is_one_in_a_thousand() {
        let rare = (0..SHAPE.events).filter(|number| TYPES[usize::from(SHAPE.draw(*number).event_type)] == RARE);
        assert!((150..250).contains(&rare.count()));
    }

    #[test]
    fn early_tags_stay_early() {
        let early = SHAPE.early_customers();
        assert!(!early.is_empty());
        for number in SHAPE.events / 10..SHAPE.events {
            assert!(early.binary_search(&SHAPE.draw(number).customer).is_err());
        }
    }

    #[test]
    fn names_have_their_lengths_and_ids_their_version() {
        let names = Names::new(1_000_000);
        assert_eq!((names.stream(999_999), names.customer(42)), ("stream-999999", "c-000042"));
        assert!(TYPES.is_sorted() && TYPES.iter().all(|name| name.len() == 12));
        assert_eq!((SHAPE.id(5)[6] >> 4, SHAPE.id(5)[8] >> 6), (7, 2));
        assert!(SHAPE.id(5_000)[..6] > SHAPE.id(1)[..6]);
        assert_eq!(Shape::parse(&SHAPE.name()), Some(SHAPE));
    }
}
