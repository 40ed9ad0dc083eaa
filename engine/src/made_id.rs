//! Ids for events whose caller gave none: UUID version 7.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::Result;
use crate::error::Error;

/// Makes ids whose 74 free bits come from a hash of a counter under a random key, which no other opening shares.
#[derive(Debug)]
pub(crate) struct MadeIds {
    key: [u8; 24],
    seed: u64,
    counter: u64,
}

impl MadeIds {
    pub(crate) fn new() -> Result<Self> {
        let mut key = [0; 24];
        let mut seed = [0; 8];
        let random = |bytes: &mut [u8]| getrandom::fill(bytes).map_err(|error| random_failed(&error));
        random(&mut key[..16])?;
        random(&mut seed)?;
        Ok(Self { key, seed: u64::from_le_bytes(seed), counter: 0 })
    }

    /// The next id, with the millisecond of `time` (nanoseconds since 1970) in front.
    #[inline]
    pub(crate) fn next(&mut self, time: u64) -> [u8; 16] {
        self.counter += 1;
        self.key[16..].copy_from_slice(&self.counter.to_le_bytes());
        let bits = xxh3_128_with_seed(&self.key, self.seed).to_le_bytes();
        let random = bits[..10].try_into().expect("ten of sixteen bytes");
        uuid::Builder::from_unix_timestamp_millis(time / 1_000_000, random).into_uuid().into_bytes()
    }
}

/// Sixteen random bytes.
pub(crate) fn random_bytes() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| random_failed(&error))?;
    Ok(bytes)
}

fn random_failed(error: &getrandom::Error) -> Error {
    Error::io("ask for", "random bytes")(std::io::Error::other(error.to_string()))
}
