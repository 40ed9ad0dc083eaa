//! Where the records of a sealed segment lie: two arrays in a mapped file, and where these are.

use std::ops::Range;

use annals_format::packed_places::{self, PackedLayout};

use crate::active_index::Place;
use crate::prefetch::prefetch;
use crate::storage::Map;

const OFFSET_LEN: usize = size_of::<u32>();
const BATCH_LEN: usize = 16;

/// Kept beside the segment's own map, so that a look-up goes straight to its rows. Offsets and batches have the same form
/// in every file that holds them (docs/format.md, sections 14 and 22), but for those of compacted segments (section 22a).
///
/// Whatever the rows say, nothing outside of the arrays is read.
#[derive(Clone, Debug)]
pub(crate) struct PlaceTable {
    map: Map,
    offsets: usize,
    batches: usize,
    record_count: u32,
    batch_count: u32,
    /// Where groups and words lie instead.
    packed: Option<Box<(Range<usize>, Range<usize>)>>,
}

impl PlaceTable {
    /// Of a verified file with these arrays; `None` if they do not lie in it.
    pub(crate) fn new(map: Map, offsets: Range<usize>, batches: Range<usize>) -> Option<Self> {
        let (records, batch_bytes) = (offsets.len() / OFFSET_LEN, batches.len());
        let is_inside = offsets.start <= offsets.end && offsets.end <= map.len() && batches.start <= batches.end;
        if !is_inside || batches.end > map.len() {
            return None;
        }
        let (record_count, batch_count) = (u32::try_from(records).ok()?, u32::try_from(batch_bytes / BATCH_LEN).ok()?);
        Some(Self { map, offsets: offsets.start, batches: batches.start, record_count, batch_count, packed: None })
    }

    /// Of a verified file of packed places.
    pub(crate) fn packed(map: Map, layout: &PackedLayout) -> Option<Self> {
        let (groups, words) = (layout.groups(), layout.words());
        if groups.end > map.len() || words.end > map.len() {
            return None;
        }
        let packed = Some(Box::new((groups, words)));
        Some(Self { map, offsets: 0, batches: 0, record_count: layout.record_count(), batch_count: 0, packed })
    }

    pub(crate) fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// Place of an event by its number in the segment; `None` for a control record and beyond the end.
    #[inline]
    pub(crate) fn place(&self, record: u32) -> Option<Place> {
        if record >= self.record_count {
            return None;
        }
        if let Some(packed) = &self.packed {
            return self.place_in(packed, record);
        }
        let frame = self.word(self.offsets + record as usize * OFFSET_LEN);
        let batch = self.batch_of(record)?;
        (frame != 0).then_some(Place { frame: u64::from(frame) * 8, batch: u64::from(batch) * 8 })
    }

    fn place_in(&self, (groups, words): &(Range<usize>, Range<usize>), record: u32) -> Option<Place> {
        let (groups, words) = (self.map.get(groups.clone())?, self.map.get(words.clone())?);
        let (frame, batch) = packed_places::place(groups, words, record)?;
        Some(Place { frame: u64::from(frame) * 8, batch: u64::from(batch) * 8 })
    }

    /// Begins to load what [`PlaceTable::place`] will look at, nearly always.
    #[inline]
    pub(crate) fn prefetch(&self, record: u32) {
        if let Some(packed) = &self.packed {
            let at = packed.0.start + packed_places::row_of(record);
            self.map.get(at..at + 1).and_then(<[u8]>::first).into_iter().for_each(prefetch);
            return;
        }
        let offset = self.offsets + record as usize * OFFSET_LEN;
        let batch = self.batches + self.guess(record) as usize * BATCH_LEN;
        for at in [offset, batch] {
            self.map.get(at..at + 1).and_then(<[u8]>::first).into_iter().for_each(prefetch);
        }
    }

    #[inline]
    fn word(&self, at: usize) -> u32 {
        let bytes = self.map.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    #[inline]
    fn first_of(&self, batch: u32) -> u32 {
        self.word(self.batches + batch as usize * BATCH_LEN)
    }

    /// The batch that holds a record, if all were of one size.
    #[inline]
    fn guess(&self, record: u32) -> u32 {
        let guess = u64::from(record) * u64::from(self.batch_count) / u64::from(self.record_count.max(1));
        (guess as u32).min(self.batch_count.saturating_sub(1))
    }

    /// Offset / 8 of the batch that holds this record: sought from the guess outward, by strides that double.
    #[inline]
    fn batch_of(&self, record: u32) -> Option<u32> {
        if self.batch_count == 0 {
            return None;
        }
        let (mut low, mut high) = (self.guess(record), self.batch_count);
        let mut stride = 1u32;
        if self.first_of(low) <= record {
            // `low` begins at or before the record, `high` after it or not at all.
            while let Some(next) = low.checked_add(stride).filter(|next| *next < self.batch_count) {
                if self.first_of(next) > record {
                    high = next;
                    break;
                }
                low = next;
                stride = stride.saturating_mul(2);
            }
        } else {
            high = low;
            loop {
                low = high.checked_sub(1)?.saturating_sub(stride - 1);
                if self.first_of(low) <= record {
                    break;
                }
                high = low;
                stride = stride.saturating_mul(2);
            }
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.first_of(middle) <= record { low = middle } else { high = middle }
        }
        Some(self.word(self.batches + low as usize * BATCH_LEN + 4))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Offsets of frames, then batches by their first records; the one at `n` stands at 8 * (n + 1).
    fn table(records: u32, firsts: &[u32]) -> PlaceTable {
        let mut bytes: Vec<u8> = (0..records).flat_map(|record| (1000 + record).to_le_bytes()).collect();
        let split = bytes.len();
        for (number, first) in (1u32..).zip(firsts) {
            bytes.extend(first.to_le_bytes());
            bytes.extend(number.to_le_bytes());
            bytes.extend([0xee; 8]);
        }
        let end = bytes.len();
        PlaceTable::new(Map::from(bytes), 0..split, split..end).expect("arrays in the bytes")
    }

    proptest! {
        #[test]
        fn every_record_is_found_in_its_batch(
            records in 1..400u32, cuts in proptest::collection::btree_set(1..400u32, 0..300),
        ) {
            let firsts: Vec<u32> = [0].into_iter().chain(cuts.into_iter().filter(|cut| *cut < records)).collect();
            let table = table(records, &firsts);
            for record in 0..records {
                let batch = firsts.partition_point(|first| *first <= record) as u64;
                table.prefetch(record);
                let wanted = Place { frame: u64::from(1000 + record) * 8, batch: batch * 8 };
                prop_assert_eq!(table.place(record), Some(wanted));
            }
            prop_assert_eq!(table.place(records), None);
        }

        #[test]
        fn rows_of_any_kind_answer_something(firsts in proptest::collection::vec(any::<u32>(), 0..20), record in 0..60u32) {
            let table = table(50, &firsts);
            table.prefetch(record);
            let _ = table.place(record);
        }
    }

    #[test]
    fn arrays_beyond_the_file_are_refused() {
        let map = || Map::from(vec![0u8; 64]);
        assert!(PlaceTable::new(map(), 0..32, 32..64).is_some());
        assert!(PlaceTable::new(map(), 0..32, 32..80).is_none());
        assert!(PlaceTable::new(map(), 0..68, 0..0).is_none());
        let control = PlaceTable::new(map(), 0..32, 32..64).expect("arrays in the bytes");
        assert_eq!((control.place(0), control.record_count), (None, 8));
    }
}
