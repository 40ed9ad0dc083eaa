//! A walk along the batches of a segment that goes on after damage.

use annals_format::Fault;
use annals_format::batch::{BATCH_HEADER_LEN, BatchHeader};
use annals_format::checksum::Seed;
use annals_format::consumer::ConsumerTable;
use annals_format::record::{self, CONTROL_LOST, Control, Record};
use annals_format::scan::{self, Step};
use annals_format::segment::EndMark;

use super::told;
use crate::consumer::{self, Changes};
use crate::directory::{StreamTable, StreamTip};
use crate::name::NameHash;
use crate::segment::Tally;

/// A place where something is wrong.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) offset: u64,
    pub(super) position: Option<u64>,
    pub(super) what: String,
}

/// What is carried from segment to segment.
pub(super) struct Walk {
    /// The position that must come next.
    pub(super) position: u64,
    /// The time below which the next may not fall.
    pub(super) time: u64,
    streams: StreamTable,
    /// Where the consumers stand.
    pub(super) consumers: ConsumerTable,
    /// Records were passed over: positions and revisions may jump forward from here on.
    pub(super) has_gap: bool,
    /// Records stand in it that say that others are lost: revisions may be missing from there on.
    has_losses: bool,
}

/// What a walk through one segment found.
pub(super) struct Walked {
    /// Where it ended.
    pub(super) end: usize,
    pub(super) end_mark: Option<EndMark>,
    pub(super) tally: Tally,
    /// Batches that verified whole.
    pub(super) batches: u64,
    /// Events in them.
    pub(super) events: u64,
    pub(super) wrong: Vec<Wrong>,
}

impl Walk {
    pub(super) fn new(hash: NameHash) -> Self {
        Self {
            position: 1,
            time: 0,
            streams: StreamTable::new(hash),
            consumers: ConsumerTable::default(),
            has_gap: false,
            has_losses: false,
        }
    }

    /// Passes over records that cannot be read.
    pub(super) fn skip_to(&mut self, position: u64) {
        self.position = position;
        self.has_gap = true;
    }

    /// Walks from byte `from` to `until`. With `is_open`, zeros end the walk early; otherwise they are wrong.
    pub(super) fn segment(&mut self, bytes: &[u8], from: usize, until: usize, seed: Seed, is_open: bool) -> Walked {
        let until = until.min(bytes.len());
        let mut walked =
            Walked { end: from, end_mark: None, tally: Tally::new(seed), batches: 0, events: 0, wrong: Vec::new() };
        while walked.end < until {
            let at = walked.end;
            let fault = match scan::next(&bytes[at..until], seed) {
                Ok(Step::Batch(header)) => {
                    self.batch(&bytes[at..until], &header, seed, &mut walked);
                    walked.end = at.saturating_add(header.len()).min(until);
                    continue;
                }
                Ok(Step::End(mark)) => {
                    walked.end_mark = Some(mark);
                    return walked;
                }
                Ok(Step::Clean) if is_open => return walked,
                Ok(Step::Clean) => "zeros stand where a batch belongs".to_owned(),
                Err(fault) => told(&fault),
            };
            walked.wrong.push(Wrong { offset: at as u64, position: Some(self.position), what: fault });
            self.has_gap = true;
            walked.end = next_whole_header(&bytes[..until], at + 8, seed).unwrap_or(until);
        }
        walked
    }

    fn batch(&mut self, bytes: &[u8], header: &BatchHeader, seed: Seed, walked: &mut Walked) {
        let at = walked.end as u64;
        let mut wrong = |offset: u64, position: u64, what: String| {
            walked.wrong.push(Wrong { offset, position: Some(position), what });
        };
        if header.first_position < self.position || (header.first_position > self.position && !self.has_gap) {
            let fault = Fault::Position { expected: self.position, found: header.first_position };
            wrong(at, self.position, told(&fault));
        }
        if header.recorded_at < self.time {
            let what =
                format!("recorded_at {} falls below that of the batch before, {}", header.recorded_at, self.time);
            wrong(at, header.first_position, what);
        }
        let (mut events, mut controls) = (0, 0);
        let whole = scan::verify_batch(bytes, header, seed, |offset, position, record| match record {
            Record::Event(event) => {
                events += 1;
                if let Some(what) = self.revision(event.stream(), event.revision(), position) {
                    wrong(at + offset as u64, position, what);
                }
            }
            Record::Control(control) => {
                controls += 1;
                self.has_losses |= control.kind() == CONTROL_LOST;
                if let Some(Control::ForgetStream(forgotten)) = control.control() {
                    self.streams.set(forgotten.stream, StreamTip::NONE);
                }
            }
        });
        match whole {
            Ok(()) => {
                walked.batches += 1;
                walked.events += events;
                let mut changes = Changes::new();
                if consumer::collect(bytes, header, seed, &mut changes).is_ok() {
                    consumer::apply(&mut self.consumers, &changes);
                }
            }
            Err(fault) => {
                wrong_records(bytes, header, seed, &fault, |offset, position, what| wrong(at + offset, position, what));
                self.has_gap = true;
            }
        }
        walked.tally.add(header, &bytes[..BATCH_HEADER_LEN], controls);
        self.position = self.position.max(header.last_position() + 1);
        self.time = self.time.max(header.recorded_at);
    }

    /// Takes note of a stream's next revision; answers what is wrong with it.
    fn revision(&mut self, stream: &str, revision: u64, position: u64) -> Option<String> {
        let hash = self.streams.hash_of(stream);
        let known = self.streams.find(hash, stream).map_or(StreamTip::NONE, |number| self.streams.tip(number));
        let expected = known.revision + 1;
        if revision >= expected {
            self.streams.set(stream, StreamTip { revision, position });
        }
        let is_right = revision == expected || (revision > expected && (self.has_gap || self.has_losses));
        (!is_right).then(|| format!("stream {stream:?} has revision {revision} where {expected} belongs"))
    }
}

/// The records of a batch that do not verify, as far as their lengths lead.
fn wrong_records(
    bytes: &[u8],
    header: &BatchHeader,
    seed: Seed,
    fault: &Fault,
    mut each: impl FnMut(u64, u64, String),
) {
    let batch = &bytes[..header.len().min(bytes.len())];
    let mut at = BATCH_HEADER_LEN;
    let mut found = false;
    for n in 0..header.record_count {
        let position = header.first_position + u64::from(n);
        let frame = batch.get(at..).unwrap_or_default();
        if let Err(fault) = record::decode(frame, seed, position) {
            found = true;
            each(at as u64, position, told(&fault));
        }
        let Ok(len) = record::frame_len(frame) else { break };
        at += len;
        let next = record::decode(batch.get(at..).unwrap_or_default(), seed, position + 1);
        // After a record whose length is wrong, nothing that follows can be found.
        if found && n + 1 < header.record_count && next.is_err() {
            break;
        }
    }
    if !found {
        each(0, header.first_position, told(fault));
    }
}

/// The next place where a batch header or an end mark verifies.
pub(in crate::inspect) fn next_whole_header(bytes: &[u8], from: usize, seed: Seed) -> Option<usize> {
    let mut at = from.next_multiple_of(8);
    while at + BATCH_HEADER_LEN <= bytes.len() {
        let rest = &bytes[at..];
        let may_be = rest[4] == annals_format::batch::BATCH_KIND || rest[4] == annals_format::segment::END_MARK_KIND;
        if may_be && matches!(scan::next(rest, seed), Ok(Step::Batch(_) | Step::End(_))) {
            return Some(at);
        }
        at += 8;
    }
    None
}
