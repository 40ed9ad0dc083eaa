//! Events as everybody gets them: Zipf-distributed streams, semi-compressible payloads, random ids, known revisions.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use annals::{Batch, Expect, NewEvent};

const STREAMS: usize = 100_000;
const PAYLOAD_LEN: usize = 256;
const ZIPF_EXPONENT: f64 = 1.1;
const TYPES: [&str; 4] = ["OrderPlaced_", "ItemAdded___", "PaymentMade_", "OrderShipped"];

/// Bytes that a caller hands in with an event: payload, stream's name, type's name, id.
pub const EVENT_LEN: usize = PAYLOAD_LEN + 13 + 12 + 16;

/// Sums of the streams' shares, the most frequent first.
static SHARES: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let mut sum = 0.0;
    let shares = (1..=STREAMS).map(|rank| {
        sum += 1.0 / (rank as f64).powf(ZIPF_EXPONENT);
        sum
    });
    shares.collect()
});

/// One event with what a writer must know of it.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Its stream's name, 13 bytes.
    pub stream: String,
    /// Its type's name, 12 bytes.
    pub event_type: &'static str,
    /// The caller's id.
    pub id: [u8; 16],
    /// The stream's revision before it.
    pub revision: u64,
    /// 256 bytes.
    pub payload: Vec<u8>,
    /// Events of its stream before it, and events of its stream at all, in one pass through the workload.
    before: u64,
    of_stream: u64,
}

impl Prepared {
    /// The event as annals takes it.
    pub fn event(&self) -> NewEvent<'_> {
        NewEvent::new(self.event_type, &self.payload).id(self.id)
    }

    /// What its stream must be at.
    pub fn expect(&self) -> Expect {
        Expect::revision(self.revision)
    }
}

/// What one writer appends: a row of events, begun again with new ids and higher revisions when it has come to its end.
#[derive(Debug)]
pub struct Workload {
    events: Vec<Prepared>,
    next: usize,
    random: Random,
}

impl Workload {
    /// The work of one writer, alone or one of `writers`, each with streams of its own. The same arguments, the same
    /// events.
    pub fn new(count: usize, writer: usize, writers: usize) -> Self {
        let mut random = Random(7 + writer as u64);
        let mut lengths: HashMap<usize, u64> = HashMap::new();
        let mut ranks = Vec::with_capacity(count);
        let mut events = Vec::with_capacity(count);
        for _ in 0..count {
            let rank = random.rank();
            let length = lengths.entry(rank).or_default();
            ranks.push(rank);
            events.push(Prepared {
                stream: format!("order-{:07}", rank * writers + writer),
                event_type: TYPES[random.next() as usize % TYPES.len()],
                id: random.id(),
                revision: *length,
                payload: random.payload(),
                before: *length,
                of_stream: 0,
            });
            *length += 1;
        }
        for (event, rank) in events.iter_mut().zip(ranks) {
            event.of_stream = lengths[&rank];
        }
        Self { events, next: 0, random }
    }

    /// All events of a pass.
    pub fn events(&self) -> &[Prepared] {
        &self.events
    }

    /// The next events, in order: `count`, or fewer where the pass ends.
    pub fn take(&mut self, count: usize) -> &[Prepared] {
        if self.next == self.events.len() {
            self.next = 0;
            for event in &mut self.events {
                event.revision += event.of_stream;
                event.id = self.random.id();
            }
        }
        let taken = &self.events[self.next..][..count.min(self.events.len() - self.next)];
        self.next += taken.len();
        taken
    }

    /// Goes back to the beginning, for a store that has none of the events.
    pub fn restart(&mut self) {
        self.next = 0;
        for event in &mut self.events {
            event.revision = event.before;
        }
    }
}

/// The events as annals takes them one by one.
pub fn events(prepared: &[Prepared]) -> Vec<NewEvent<'_>> {
    prepared.iter().map(Prepared::event).collect()
}

/// Batches of `len` events, with an expectation for every stream in a batch.
pub fn batches(prepared: &[Prepared], len: usize) -> Vec<Batch<'_>> {
    let batches = prepared.chunks(len).map(|events| {
        let (mut batch, mut seen) = (Batch::with_capacity(len), HashSet::with_capacity(len));
        for event in events {
            if seen.insert(&event.stream) {
                batch.push_expectation(&event.stream, event.expect());
            }
            batch.push(&event.stream, event.event());
        }
        batch
    });
    batches.collect()
}

/// splitmix64.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Which stream, counted from the most frequent one.
    fn rank(&mut self) -> usize {
        let point = (self.next() >> 11) as f64 / (1u64 << 53) as f64 * SHARES[STREAMS - 1];
        SHARES.partition_point(|share| *share < point).min(STREAMS - 1)
    }

    fn id(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next().to_le_bytes());
        id[8..].copy_from_slice(&self.next().to_le_bytes());
        id
    }

    /// Half of it words that come often, half of it digits that do not.
    fn payload(&mut self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(PAYLOAD_LEN + 24);
        payload.extend_from_slice(br#"{"status":"open","note":""#);
        while payload.len() < PAYLOAD_LEN {
            let word = self.next();
            if word & 1 == 0 {
                payload.extend_from_slice(b"pencil paper ");
            } else {
                payload.extend_from_slice(format!("{word:016x} ").as_bytes());
            }
        }
        payload.truncate(PAYLOAD_LEN);
        payload
    }
}

#[cfg(test)]
mod tests {
    use annals::Store;

    use super::*;

    #[test]
    fn a_store_takes_every_pass_of_two_writers_and_a_fresh_one_takes_it_again() {
        let mut writers: Vec<_> = (0..2).map(|writer| Workload::new(300, writer, 2)).collect();
        for _ in 0..2 {
            let store = Store::in_memory().unwrap();
            for pass in 1..=3 {
                for writer in &mut writers {
                    let taken = [writer.take(200).len(), writer.take(200).len()];
                    assert_eq!(taken, [200, 100]);
                    let receipts: Vec<_> =
                        batches(writer.events(), 10).iter().map(|batch| store.commit(batch).unwrap()).collect();
                    assert!(receipts.iter().all(|receipt| !receipt.already_committed()));
                }
                assert_eq!(store.head(), pass * 600);
            }
            writers.iter_mut().for_each(Workload::restart);
        }
    }

    #[test]
    fn an_event_has_the_lengths_it_should() {
        for event in Workload::new(100, 63, 64).events() {
            let lengths = [event.stream.len(), event.event_type.len(), event.payload.len()];
            assert_eq!(lengths, [13, 12, 256]);
        }
    }
}
