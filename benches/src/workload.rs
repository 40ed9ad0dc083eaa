//! Events as everybody gets them: Zipf-distributed streams, semi-compressible payloads, random ids, known revisions.

use annals::NewEvent;

const STREAMS: usize = 100_000;
const PAYLOAD_LEN: usize = 256;
const ZIPF_EXPONENT: f64 = 1.1;
const TYPES: [&str; 4] = ["OrderPlaced_", "ItemAdded___", "PaymentMade_", "OrderShipped"];

/// A generator of work: the same numbers from the same seed.
#[derive(Debug)]
pub struct Workload {
    streams: Vec<String>,
    weights: Vec<f64>,
    revisions: Vec<u64>,
    state: u64,
}

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
}

impl Prepared {
    /// The event as annals takes it.
    pub fn event(&self) -> NewEvent<'_> {
        NewEvent::new(self.event_type, &self.payload).id(self.id)
    }
}

impl Workload {
    /// Work from this seed, over streams that nobody has written yet.
    pub fn new(seed: u64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=STREAMS).map(|rank| {
            sum += 1.0 / (rank as f64).powf(ZIPF_EXPONENT);
            sum
        });
        Self {
            weights: weights.collect(),
            streams: (0..STREAMS).map(|number| format!("order-{number:07}")).collect(),
            revisions: vec![0; STREAMS],
            state: seed,
        }
    }

    /// splitmix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// The next events, in order.
    pub fn take(&mut self, count: usize) -> Vec<Prepared> {
        (0..count).map(|_| self.next_event()).collect()
    }

    fn next_event(&mut self) -> Prepared {
        let total = self.weights[STREAMS - 1];
        let point = (self.random() >> 11) as f64 / (1u64 << 53) as f64 * total;
        let stream = self.weights.partition_point(|weight| *weight < point).min(STREAMS - 1);
        let revision = self.revisions[stream];
        self.revisions[stream] += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.random().to_le_bytes());
        id[8..].copy_from_slice(&self.random().to_le_bytes());
        let event_type = TYPES[self.random() as usize % TYPES.len()];
        Prepared { stream: self.streams[stream].clone(), event_type, id, revision, payload: self.payload() }
    }

    /// Half of it words that come often, half of it digits that do not.
    fn payload(&mut self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(PAYLOAD_LEN + 24);
        payload.extend_from_slice(br#"{"status":"open","note":""#);
        while payload.len() < PAYLOAD_LEN {
            let word = self.random();
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
