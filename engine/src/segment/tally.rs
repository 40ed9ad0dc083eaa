//! What is counted of a segment, and how it ended.

use annals_format::batch::{BATCH_HEADER_LEN, BatchHeader};
use annals_format::checksum::Seed;
use annals_format::manifest::{SegmentEntry, SegmentState};
use annals_format::segment::FinalChecksum;

/// How a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closing {
    /// Offset of the byte after the last batch.
    pub(crate) end: u64,
    pub(crate) state: SegmentState,
    pub(crate) tally: Tally,
}

impl Closing {
    /// How a listed segment ended, as the manifest says.
    pub(crate) fn listed(entry: &SegmentEntry) -> Self {
        let records = (entry.last_position + 1).saturating_sub(entry.first_position);
        let tally = Tally {
            final_checksum: FinalChecksum::from_value(entry.final_checksum),
            last_position: if records == 0 { 0 } else { entry.last_position },
            first_time: entry.first_time,
            last_time: entry.last_time,
            batch_count: records,
            event_count: entry.event_count,
            control_count: records.saturating_sub(entry.event_count),
            section_count: u64::from(entry.has_sections),
        };
        Self { end: entry.end, state: entry.state, tally }
    }
}

/// What a segment holds so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) final_checksum: FinalChecksum,
    /// Last position in the segment; 0 if it holds none.
    pub(crate) last_position: u64,
    pub(crate) first_time: u64,
    pub(crate) last_time: u64,
    /// Batches that hold records.
    pub(crate) batch_count: u64,
    pub(crate) event_count: u64,
    pub(crate) control_count: u64,
    /// Batches that carry typed sections; of a listed segment 1 if there are any.
    pub(crate) section_count: u64,
}

impl Tally {
    pub(crate) fn new(seed: Seed) -> Self {
        Self {
            final_checksum: FinalChecksum::start(seed),
            last_position: 0,
            first_time: 0,
            last_time: 0,
            batch_count: 0,
            event_count: 0,
            control_count: 0,
            section_count: 0,
        }
    }

    /// Whether there is nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch_count == 0 && self.section_count == 0
    }

    /// Counts one batch; `bytes` begin with its header.
    #[inline]
    pub(crate) fn add(&mut self, header: &BatchHeader, bytes: &[u8], control_count: u64) {
        let header_bytes = bytes.first_chunk().expect("a batch begins with its header");
        self.final_checksum.add(header_bytes);
        self.count(header, control_count);
    }

    /// Counts one batch, but for the final checksum.
    #[inline]
    fn count(&mut self, header: &BatchHeader, control_count: u64) {
        if self.is_empty() {
            self.first_time = header.recorded_at;
        }
        self.last_time = header.recorded_at;
        if header.record_count > 0 {
            self.last_position = header.last_position();
            self.batch_count += 1;
        }
        self.section_count += u64::from(header.has_sections);
        self.control_count += control_count;
        self.event_count += u64::from(header.record_count) - control_count;
    }
}

/// The [`Tally`] of the segment that is being written. Headers are gathered before the checksum runs over them: a call
/// for forty bytes costs a third of one for eight times as many.
#[derive(Debug)]
pub(crate) struct RunningTally {
    tally: Tally,
    headers: [u8; BATCH_HEADER_LEN * 8],
    gathered: usize,
}

impl RunningTally {
    /// Goes on from `tally`.
    pub(crate) fn new(tally: Tally) -> Self {
        Self { tally, headers: [0; BATCH_HEADER_LEN * 8], gathered: 0 }
    }

    /// Counts one batch; `bytes` begin with its header.
    #[inline]
    pub(crate) fn add(&mut self, header: &BatchHeader, bytes: &[u8], control_count: u64) {
        self.headers[self.gathered..][..BATCH_HEADER_LEN].copy_from_slice(&bytes[..BATCH_HEADER_LEN]);
        self.gathered += BATCH_HEADER_LEN;
        if self.gathered == self.headers.len() {
            self.tally.final_checksum.add_all(&self.headers);
            self.gathered = 0;
        }
        self.tally.count(header, control_count);
    }

    /// All that was counted.
    pub(crate) fn total(&self) -> Tally {
        let mut tally = self.tally;
        tally.final_checksum.add_all(&self.headers[..self.gathered]);
        tally
    }
}

/// What a batch header says of each of its records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchFacts {
    pub(crate) first_position: u64,
    pub(crate) record_count: u32,
    pub(crate) recorded_at: u64,
    pub(crate) as_batch: bool,
}

impl From<&BatchHeader> for BatchFacts {
    fn from(header: &BatchHeader) -> Self {
        Self {
            first_position: header.first_position,
            record_count: header.record_count,
            recorded_at: header.recorded_at,
            as_batch: header.as_batch,
        }
    }
}
