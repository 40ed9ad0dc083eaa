//! What stands where the log should go on: a whole batch, the segment's end mark, nothing yet, or something else.

use annals_format::Fault;
use annals_format::batch::{BATCH_HEADER_LEN, BatchHeader};
use annals_format::checksum::Seed;
use annals_format::scan::{self, Step};
use annals_format::segment::{END_MARK_LEN, EndMark};

use super::ring_image::RingBytes;
use crate::Result;

pub(crate) enum Next {
    Batch(BatchHeader),
    End(EndMark),
    Clean,
    Fault(Fault),
}

impl Next {
    /// Whether the log goes on with it.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Self::Batch(_) | Self::End(_))
    }

    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Fault(fault) if is_unsupported(fault))
    }
}

pub(crate) fn is_unsupported(fault: &Fault) -> bool {
    matches!(fault, Fault::Unsupported { .. })
}

/// What must be true of the batch, or of the end mark, that continues the log.
#[derive(Clone, Copy)]
pub(crate) struct Continuation {
    pub(crate) seed: Seed,
    /// The position it begins with.
    pub(crate) position: u64,
    /// The time it does not lie before.
    pub(crate) time: u64,
    /// Final checksum of the batches before it.
    pub(crate) final_checksum: u32,
}

impl Continuation {
    /// Whether a whole batch that continues the log, or the end mark that belongs here, stands at the start of `bytes`.
    pub(crate) fn judge(&self, bytes: &[u8]) -> Next {
        match scan::next(bytes, self.seed) {
            Ok(Step::Batch(header)) => {
                if header.first_position != self.position {
                    return Next::Fault(Fault::Position { expected: self.position, found: header.first_position });
                }
                if header.recorded_at < self.time {
                    return Next::Fault(Fault::Order { what: "recorded_at" });
                }
                match scan::verify_batch(bytes, &header, self.seed, |_, _, _| {}) {
                    Ok(()) => Next::Batch(header),
                    Err(fault) => Next::Fault(fault),
                }
            }
            Ok(Step::End(mark)) if mark.final_checksum == self.final_checksum => Next::End(mark),
            Ok(Step::End(_)) => Next::Fault(Fault::Identity { what: "final checksum of the end mark" }),
            Ok(Step::Clean) => Next::Clean,
            Err(fault) => Next::Fault(fault),
        }
    }

    /// As [`Continuation::judge`], of what the ring has for log offset `at`, and the bytes of it. `room` is what the
    /// segment could still hold.
    pub(crate) fn judge_ring(&self, ring: &impl RingBytes, at: u64, room: u64) -> Result<(Next, Vec<u8>)> {
        let room = room.min(ring.len()) as usize;
        let mut copy = ring.copy(at, room.min(END_MARK_LEN))?;
        if let Ok(header) = BatchHeader::decode(&copy, self.seed) {
            copy = ring.copy(at, room.min(header.len()))?;
        }
        let next = self.judge(&copy);
        match &next {
            Next::Batch(header) => copy.truncate(header.len()),
            Next::End(_) => copy.truncate(END_MARK_LEN),
            Next::Clean | Next::Fault(_) => copy.clear(),
        }
        Ok((next, copy))
    }
}

/// Every place from `from` on where the header of a batch of this segment verifies.
pub(super) fn find_batches(bytes: &[u8], from: usize, seed: Seed, mut each: impl FnMut(usize, BatchHeader)) {
    let mut at = from.next_multiple_of(8);
    while at + BATCH_HEADER_LEN <= bytes.len() {
        if bytes[at + 4] == annals_format::batch::BATCH_KIND
            && let Ok(header) = BatchHeader::decode(&bytes[at..], seed)
        {
            each(at, header);
        }
        at += 8;
    }
}
