//! The hash that is kept of an event's content when the content is taken out: SipHash-2-4 with 128 bits, under a key that
//! the store drew at random.
//!
//! By it a retry of a removed event is still told from another event with the same id. Without the key it says nothing of
//! the content, and with it no more than whether a guess was right.

use crate::record::{EventFrame, EventParts};

/// Bytes of a hash.
pub const CONTENT_HASH_LEN: usize = 16;

/// The hash of an event's content under the store's key: of all that the caller gave for it but for the id. Stream, type
/// and tags count, although they stay in the log.
pub fn of_event(key: &[u8; 16], event: &EventFrame<'_>) -> [u8; CONTENT_HASH_LEN] {
    let tags: Vec<&str> = event.tags().collect();
    of_parts(key, &event.parts(&tags))
}

/// As [`of_event`], of what an event is to be made from.
pub fn of_parts(key: &[u8; 16], event: &EventParts<'_>) -> [u8; CONTENT_HASH_LEN] {
    let mut hash = SipHash::new(key);
    hash.text(event.stream.as_bytes());
    hash.text(event.event_type.as_bytes());
    hash.number(event.tags.len() as u64);
    event.tags.iter().for_each(|tag| hash.text(tag.as_bytes()));
    hash.text(event.metadata);
    match event.occurred_at {
        Some(at) => {
            hash.number(1 + u64::from(at.digits));
            hash.number(at.nanos as u64);
        }
        None => hash.number(0),
    }
    hash.number(event.schema_version.map_or(0, |version| 1 + u64::from(version)));
    for part in [event.content_type.map(str::as_bytes), event.correlation, event.causation] {
        match part {
            Some(bytes) => {
                hash.number(1);
                hash.text(bytes);
            }
            None => hash.number(0),
        }
    }
    hash.text(event.payload);
    hash.finish()
}

/// SipHash-2-4 with a result of 128 bits.
struct SipHash {
    state: [u64; 4],
    pending: [u8; 8],
    len: u64,
}

impl SipHash {
    fn new(key: &[u8; 16]) -> Self {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| key[at + n]));
        let (k0, k1) = (number(0), number(8));
        let state = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        Self { state, pending: [0; 8], len: 0 }
    }

    /// Bytes behind their length, so that no two lists of texts run together.
    fn text(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.bytes(bytes);
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn bytes(&mut self, mut bytes: &[u8]) {
        let used = (self.len % 8) as usize;
        self.len += bytes.len() as u64;
        if used > 0 {
            let step = bytes.len().min(8 - used);
            self.pending[used..used + step].copy_from_slice(&bytes[..step]);
            bytes = &bytes[step..];
            if used + step < 8 {
                return;
            }
            self.word(u64::from_le_bytes(self.pending));
        }
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        self.pending[..rest.len()].copy_from_slice(rest);
    }

    fn word(&mut self, word: u64) {
        self.state[3] ^= word;
        self.round();
        self.round();
        self.state[0] ^= word;
    }

    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.state;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.state = [a, b, c, d];
    }

    fn finish(mut self) -> [u8; CONTENT_HASH_LEN] {
        let used = (self.len % 8) as usize;
        self.pending[used..].fill(0);
        self.pending[7] = self.len as u8;
        self.word(u64::from_le_bytes(self.pending));
        self.state[2] ^= 0xee;
        (0..4).for_each(|_| self.round());
        let folded = |state: &[u64; 4]| state.iter().fold(0, |all, word| all ^ word);
        let low = folded(&self.state);
        self.state[1] ^= 0xdd;
        (0..4).for_each(|_| self.round());
        let high = folded(&self.state);
        let mut hash = [0; CONTENT_HASH_LEN];
        hash[..8].copy_from_slice(&low.to_le_bytes());
        hash[8..].copy_from_slice(&high.to_le_bytes());
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8], step: usize) -> [u8; 16] {
        let mut hash = SipHash::new(&std::array::from_fn(|n| n as u8));
        bytes.chunks(step.max(1)).for_each(|part| hash.bytes(part));
        hash.finish()
    }

    #[test]
    fn it_is_the_published_one() {
        let known = [
            [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93],
            [0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45],
        ];
        for (len, expected) in known.into_iter().enumerate() {
            assert_eq!(hash(&[0][..len], 1), expected, "{len} bytes");
        }
    }

    #[test]
    fn steps_make_no_difference_and_every_byte_does() {
        let input: Vec<u8> = (0..100).collect();
        for step in [1, 3, 7, 8, 9, 50] {
            assert_eq!(hash(&input, step), hash(&input, 100));
        }
        for at in 0..input.len() {
            let mut other = input.clone();
            other[at] ^= 1;
            assert_ne!(hash(&other, 100), hash(&input, 100), "byte {at}");
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        let key = [7; 16];
        let plain = EventParts::new([1; 16], "a", "bc");
        let events = [
            plain,
            EventParts { stream: "ab", event_type: "c", ..plain },
            EventParts { tags: &["x"], ..plain },
            EventParts { tags: &["x", "y"], ..plain },
            EventParts { tags: &["xy"], ..plain },
            EventParts { metadata: b"m", ..plain },
            EventParts { payload: b"m", ..plain },
            EventParts { content_type: Some(""), ..plain },
            EventParts { correlation: Some(b""), ..plain },
            EventParts { causation: Some(b""), ..plain },
            EventParts { schema_version: Some(0), ..plain },
            EventParts { occurred_at: Some(crate::record::OccurredAt { nanos: 0, digits: 0 }), ..plain },
        ];
        for (n, event) in events.iter().enumerate() {
            for (m, other) in events.iter().enumerate() {
                assert_eq!(of_parts(&key, event) == of_parts(&key, other), n == m, "{n} and {m}");
            }
        }
        assert_eq!(
            of_parts(&key, &plain),
            of_parts(&key, &EventParts { id: [9; 16], ..plain }),
            "the id does not count"
        );
    }
}
