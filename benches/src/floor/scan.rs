//! The raw checksum scan: one loop over bytes in memory, one checksum an event, places known beforehand.

use super::FRAME_HEADER_LEN;

#[derive(Clone, Copy, Debug)]
struct Place {
    at: usize,
    len: usize,
    payload_at: usize,
}

/// The bytes of a hand-written log and the places of its events.
#[derive(Debug)]
pub struct RawScan {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

impl RawScan {
    pub(super) fn new(bytes: Vec<u8>, places: &[u64]) -> Self {
        let place = |at: &u64| {
            let frame = &bytes[*at as usize..];
            let len = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
            let names = usize::from(frame[FRAME_HEADER_LEN - 2]) + usize::from(frame[FRAME_HEADER_LEN - 1]);
            Place { at: *at as usize, len, payload_at: FRAME_HEADER_LEN + names }
        };
        let places = places.iter().map(place).collect();
        Self { bytes, places }
    }

    /// The sum of all payloads' bytes; `None` if a checksum is wrong.
    pub fn scan(&self) -> Option<u64> {
        self.sum(self.places.iter())
    }

    /// The same of the events with these numbers, counted from 0.
    pub fn read(&self, numbers: &[u32]) -> Option<u64> {
        self.sum(numbers.iter().map(|number| &self.places[*number as usize]))
    }

    #[inline]
    fn sum<'a>(&self, places: impl Iterator<Item = &'a Place>) -> Option<u64> {
        let mut sum = 0;
        for place in places {
            let frame = &self.bytes[place.at..][..place.len];
            if crc32fast::hash(&frame[8..]) != u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]) {
                return None;
            }
            sum += frame[place.payload_at..].iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        Some(sum)
    }
}
