//! The one writer: judges a batch against the store as it is, gives it positions and revisions, and puts it into the log.
//!
//! All of it happens under one short lock. The order of checks is the contract's: form, poisoned,
//! ids, space, expectations and conditions, then positions, encoding, and the publication of the new head.

mod judge;
mod roll;

use std::sync::Arc;

use annals_format::batch::{BATCH_HEADER_LEN, BatchEncoder, BatchHeader};
use annals_format::name::NAME_LEN_MAX;
use annals_format::record::{Control, RECORD_HEADER_LEN, control_len, encoded_len};

use crate::active_index::{EventEntry, IndexWriter, Place};
use crate::append::{Committed, Receipt};
use crate::clock::WriterClock;
use crate::consumer::ConsumerMemory;
use crate::core::Core;
use crate::directory::{MetStreams, StreamNumber, StreamTip};
use crate::error::Error;
use crate::id_table::{IdWriter, LAST_POSITION};
use crate::input::Input;
use crate::name::KeyKind;
use crate::prefetch::prefetch;
use crate::prepare::Preparer;
use crate::removal::{self, Planned};
use crate::segment::{RunningTally, Segment};
use crate::tiers::Tiers;
use crate::{EventId, Position, Result, Revision};

pub(crate) use roll::{ask_first_at, begin_segment};

/// What the writer knows of the segment it writes to.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    pub(crate) segment: Arc<Segment>,
    pub(crate) index: IndexWriter,
    /// Where the next batch goes.
    pub(crate) offset: u64,
    /// From this offset on something is to be asked for ahead.
    pub(crate) ask_at: u64,
    pub(crate) tally: RunningTally,
}

/// The end of the log at one moment, for whoever syncs it.
#[derive(Debug)]
pub(crate) struct Tip {
    pub(crate) end: u64,
    pub(crate) head: u64,
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u64,
    pub(crate) recorded_at: u64,
    /// Segments that ended since the last sync.
    pub(crate) ended: Vec<Arc<Segment>>,
}

/// What became of a batch that was not refused, beside its receipt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    /// The answer rests on this position being shown; that of the batch itself for a new one.
    pub(crate) rests_on: u64,
    /// The thread that makes things ahead should be woken.
    pub(crate) wakes_maker: bool,
}

/// A refusal, and the position that must be shown before it is told.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: Error,
    pub(crate) rests_on: u64,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, rests_on: 0 }
    }
}

/// What the writer finds out about one event of a batch on its way into the log: one cache line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Staged {
    /// The hashes by which it is entered.
    pub(crate) stream: u64,
    event_type: u64,
    id: u64,
    id_bytes: [u8; 16],
    pub(crate) number: StreamNumber,
    /// Where its frame stands in the batch.
    frame: u32,
    /// What its stream was before it, also for a batch that is refused after it was encoded.
    before: StreamTip,
}

const _: () = assert!(size_of::<Staged>() == 64);

impl Staged {
    const NONE: Self = Self {
        stream: 0,
        event_type: 0,
        id: 0,
        id_bytes: [0; 16],
        number: StreamNumber::NONE,
        frame: 0,
        before: StreamTip { revision: 0, position: 0 },
    };
}

/// How many events ahead of the one at work memory is asked for: enough that it arrives in time, few enough that it is
/// still there.
const AHEAD: usize = 16;
/// Of a payload so many bytes are asked for ahead; what follows the processor asks for by itself.
const PAYLOAD_AHEAD: usize = 512;

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) core: Arc<Core>,
    pub(crate) clock: WriterClock,
    pub(crate) preparer: Arc<Preparer>,
    pub(crate) active: ActiveSegment,
    /// Position of the last record.
    pub(crate) head: u64,
    /// Log offset where the next batch goes.
    pub(crate) end: u64,
    pub(crate) last_time: u64,
    pub(crate) streams: MetStreams,
    pub(crate) ids: IdWriter,
    /// Those that `core` shares, at hand.
    pub(crate) tiers: Arc<Tiers>,
    /// Up to here ids may stand in tiers and not in memory.
    pub(crate) in_tiers_up_to: u64,
    pub(crate) made_ids: crate::made_id::MadeIds,
    pub(crate) staging: Vec<u8>,
    /// The events of a batch, but for batches of one.
    pub(crate) staged: Vec<Staged>,
    pub(crate) ended: Vec<Arc<Segment>>,
    pub(crate) consumers: Box<ConsumerMemory>,
    /// Times that the wall clock stood behind the last batch.
    pub(crate) clock_steps_back: u64,
    /// Of the hashes that are kept of contents that compaction took out.
    pub(crate) content_key: [u8; 16],
}

impl Writer {
    /// The end of the log now; takes the list of segments that a sync must include.
    pub(crate) fn tip(&mut self) -> Tip {
        Tip {
            end: self.end,
            head: self.head,
            segment: self.active.segment.clone(),
            offset: self.active.offset,
            recorded_at: self.last_time,
            ended: std::mem::take(&mut self.ended),
        }
    }

    /// Judges and writes one batch. `receipt` is that of an empty batch before, and this one's if it is not refused.
    pub(crate) fn append<'a, I: Input<'a>>(&mut self, input: &I, receipt: &mut Receipt) -> Result<Appended, Refused> {
        if I::IS_SINGLE {
            return self.append_staged(input, &mut [Staged::NONE], receipt);
        }
        if !input.acknowledgements().is_empty() {
            return self.append_acknowledging(input, receipt);
        }
        self.append_events(input, receipt)
    }

    #[inline]
    pub(crate) fn append_events<'a, I: Input<'a>>(
        &mut self,
        input: &I,
        receipt: &mut Receipt,
    ) -> Result<Appended, Refused> {
        let mut staged = std::mem::take(&mut self.staged);
        staged.clear();
        staged.resize(input.len(), Staged::NONE);
        let outcome = self.append_staged(input, &mut staged, receipt);
        self.staged = staged;
        outcome
    }

    #[inline(always)]
    fn append_staged<'a, I: Input<'a>>(
        &mut self,
        input: &I,
        staged: &mut [Staged],
        receipt: &mut Receipt,
    ) -> Result<Appended, Refused> {
        self.core.log.watermark.prepare_to_publish();
        // Hashing first costs nothing when the form turns out wrong, and gives the memory time to arrive.
        self.hash_names(input, staged);
        let now = self.clock.now();
        self.hash_ids(input, staged, now);
        input.check_form(&self.core.limits)?;
        self.core.log.check_poison()?;
        if I::MAY_REMOVE && !input.removals().is_empty() {
            self.core.check_removal_allowed()?;
        }
        if !self.surely_fits(input) {
            let len = self.measure(input)?;
            let is_full = !self.has_positions_for(input);
            if is_full || self.must_roll(len) {
                // A retry of what is stored is answered even when there is no room for another segment.
                if let Some(answer) = self.judge_ids(input, staged, receipt)? {
                    return Ok(answer);
                }
                if is_full {
                    return Err(no_positions(self.head).into());
                }
                self.roll(len)?;
            }
        }
        self.find_streams(input, staged)?;
        let mut judged = self.judge_expectations(input, staged);
        let mut planned = Planned::default();
        if I::MAY_REMOVE && !input.removals().is_empty() {
            match judged.and_then(|()| self.judge_removals(input)) {
                Ok(plan) => (planned, judged) = (plan, Ok(())),
                Err(refusal) => judged = Err(refusal),
            }
            if staged.is_empty() && planned.controls.is_empty() {
                // All is so already: that it is rests on the whole head.
                receipt.removals = Some(planned.removed(self.head + 1));
                receipt.already_committed = true;
                return judged.map(|()| Appended { rests_on: self.head, wakes_maker: false });
            }
        }
        let recorded_at = now.max(self.last_time);
        // Encoded before the ids are judged: the memory they are looked up in arrives meanwhile. The receipt is written
        // before all that goes to memory far away: who copies it soon after would wait for that as well.
        let header = self.encode(input, staged, &planned.controls, recorded_at, receipt);
        let refusal = match self.judge_ids(input, staged, receipt) {
            Ok(None) => judged.err(),
            Ok(Some(answer)) => {
                self.take_back(staged);
                return Ok(answer);
            }
            Err(refusal) => Some(refusal),
        };
        if let Some(refusal) = refusal {
            self.take_back(staged);
            return Err(refusal);
        }
        self.clock_steps_back += u64::from(now < self.last_time);
        if I::MAY_REMOVE && !input.removals().is_empty() {
            receipt.removals = Some(planned.removed(header.first_position));
        }
        self.place(input, staged, &planned.controls, &header)?;
        let wakes_maker = self.ask_ahead();
        Ok(Appended { rests_on: self.head, wakes_maker })
    }

    /// Streams are again what they were before the batch that was encoded.
    #[cold]
    fn take_back(&mut self, staged: &[Staged]) {
        for event in staged.iter().rev() {
            self.streams.set_tip(event.number, event.before);
        }
    }

    /// Hashes all names, and asks for the payloads and the memory that looking up and entering the first events will
    /// touch: apart, each would be waited for by itself.
    #[inline(always)]
    fn hash_names<'a>(&mut self, input: &impl Input<'a>, staged: &mut [Staged]) {
        let mut last: Option<(&str, &str, u64, u64)> = None;
        for (index, staged) in staged.iter_mut().enumerate() {
            let (stream_name, event) = input.event(index);
            staged.stream = match last {
                Some((name, _, hash, _)) if std::ptr::eq(name, stream_name) => hash,
                _ => {
                    let hash = self.streams.hash_of(stream_name);
                    if index < AHEAD {
                        self.streams.prefetch(hash);
                        self.active.index.prefetch_key(hash);
                    }
                    hash
                }
            };
            staged.event_type = match last {
                Some((_, name, _, hash)) if std::ptr::eq(name, event.event_type) => hash,
                _ => self.core.hash.key(KeyKind::Type, event.event_type),
            };
            if index < AHEAD {
                prefetch_payload(event.payload);
            }
            last = Some((stream_name, event.event_type, staged.stream, staged.event_type));
        }
    }

    /// Hashes the ids; makes those that the caller leaves to the store.
    #[inline(always)]
    fn hash_ids<'a>(&mut self, input: &impl Input<'a>, staged: &mut [Staged], now: u64) {
        for (index, staged) in staged.iter_mut().enumerate() {
            let id = input.event(index).1.id;
            staged.id_bytes = id.map_or_else(|| self.made_ids.next(now), EventId::to_bytes);
            staged.id = self.core.hash.id(&staged.id_bytes);
            if index < AHEAD && id.is_some() {
                self.ids.prefetch(staged.id);
                if self.asks_tiers() {
                    self.tiers.iter().for_each(|tier| tier.prefetch_id(staged.id));
                }
            }
        }
    }

    /// Finds the stream of each event in memory; what is not there yet is entered.
    #[inline(always)]
    fn find_streams<'a>(&mut self, input: &impl Input<'a>, staged: &mut [Staged]) -> Result<()> {
        self.streams.reserve(staged.len() + input.removals().len(), self.head);
        let mut last: Option<(&str, StreamNumber)> = None;
        for index in 0..staged.len() {
            if let Some(ahead) = staged.get(index + AHEAD) {
                self.streams.prefetch(ahead.stream);
            }
            let (stream, _) = input.event(index);
            let number = match last {
                Some((last, number)) if std::ptr::eq(last, stream) => number,
                _ => match self.streams.find(staged[index].stream, stream) {
                    Some(number) => number,
                    None => self.meet_stream(staged[index].stream, stream)?,
                },
            };
            last = Some((stream, number));
            staged[index].number = number;
        }
        Ok(())
    }

    /// Enters a stream that was not met lately. There is room for it.
    #[cold]
    pub(crate) fn meet_stream(&mut self, hash: u64, stream: &str) -> Result<StreamNumber> {
        let core = &self.core;
        self.streams.meet(hash, stream, |up_to| removal::tip_beside_removals(core, stream, up_to))
    }

    #[cold]
    pub(crate) fn tip_of_guard(&self, stream: &str) -> Result<StreamTip> {
        self.streams.tip_of(stream, |up_to| removal::tip_beside_removals(&self.core, stream, up_to))
    }

    /// `Some` if the batch was stored before; an error if only a part of it was, or with other content.
    #[inline(always)]
    fn judge_ids<'a>(
        &mut self,
        input: &impl Input<'a>,
        staged: &[Staged],
        receipt: &mut Receipt,
    ) -> Result<Option<Appended>, Refused> {
        if !input.has_ids() {
            return Ok(None);
        }
        let mut met = false;
        for (index, event) in staged.iter().enumerate() {
            if let Some(ahead) = staged.get(index + AHEAD) {
                self.ids.prefetch(ahead.id);
            }
            met |= self.ids.may_hold(event.id);
        }
        met |= self.asks_tiers() && staged.iter().any(|event| self.tiers_may_hold(event.id));
        if met { self.judge_met_ids(input, receipt) } else { Ok(None) }
    }

    /// False if no stored event has this id; true if one may.
    fn may_be_stored(&self, id: u64) -> bool {
        self.ids.may_hold(id) || (self.asks_tiers() && self.tiers_may_hold(id))
    }

    /// Whether there are ids that stand in tiers alone.
    #[inline]
    fn asks_tiers(&self) -> bool {
        self.in_tiers_up_to.max(self.ids.forgotten_up_to()) > 0
    }

    /// False if no tier holds this id; true if one may, or cannot say.
    fn tiers_may_hold(&self, id: u64) -> bool {
        let up_to = self.in_tiers_up_to.max(self.ids.forgotten_up_to());
        let mut asked = self.tiers.iter().take_while(|tier| tier.first_position() <= up_to);
        asked.any(|tier| !tier.candidates_of_id(id).is_ok_and(|found| found.is_empty()))
    }

    /// Whether the batch fits the rest of the segment for sure, whatever its names: then nobody need measure it.
    #[inline(always)]
    fn surely_fits<'a>(&self, input: &impl Input<'a>) -> bool {
        const PLAIN_MAX: usize = RECORD_HEADER_LEN + 16 + 2 * NAME_LEN_MAX + 8;
        if !input.removals().is_empty() {
            return false;
        }
        let mut most = BATCH_HEADER_LEN;
        if !input.acknowledgements().is_empty() {
            return false;
        }
        for index in 0..input.len() {
            let (_, event) = input.event(index);
            if event.has_more() {
                return false;
            }
            most = most.saturating_add(PLAIN_MAX + event.payload.len());
        }
        most as u64 <= self.core.limits.batch_len && !self.must_roll(most as u64) && self.has_positions_for(input)
    }

    #[inline(always)]
    fn has_positions_for<'a>(&self, input: &impl Input<'a>) -> bool {
        self.head.saturating_add((input.len() + input.removals().len()) as u64) <= LAST_POSITION
    }

    /// Length of the encoded batch.
    fn measure<'a>(&self, input: &impl Input<'a>) -> Result<u64> {
        let records: u64 = (0..input.len()).map(|index| encoded_len(&input.parts(index, [0; 16])) as u64).sum();
        let removals: u64 = input.removals().iter().map(|removal| removal.len_max()).sum();
        let mut len = records + removals + BATCH_HEADER_LEN as u64;
        if !input.acknowledgements().is_empty() {
            len += self.consumers.changes.section_len().next_multiple_of(8) as u64;
        }
        let limit = self.core.limits.batch_len;
        if len > limit {
            return Err(Error::over_limit("the batch's bytes", None, len, limit));
        }
        Ok(len)
    }

    /// Encodes the batch into the staging buffer; streams advance.
    #[inline(always)]
    fn encode<'a, I: Input<'a>>(
        &mut self,
        input: &I,
        staged: &mut [Staged],
        controls: &[Control<'a>],
        recorded_at: u64,
        receipt: &mut Receipt,
    ) -> BatchHeader {
        let first_position = self.head + 1;
        self.staging.clear();
        let mut batch = BatchEncoder::begin(&mut self.staging, self.active.segment.seed, first_position);
        if I::MAY_REMOVE {
            for control in controls {
                batch.control_record(control);
            }
        }
        let first_position = first_position + controls.len() as u64;
        receipt.events.clear();
        receipt.events.reserve_exact(staged.len());
        let len = staged.len();
        for (index, staged) in staged.iter_mut().enumerate() {
            if index + AHEAD < len {
                prefetch_payload(input.event(index + AHEAD).1.payload);
            }
            let position = first_position + index as u64;
            staged.before = self.streams.tip(staged.number);
            let revision = self.streams.advance(staged.number, position);
            staged.frame = batch.event(&input.parts(index, staged.id_bytes), revision) as u32;
            receipt.events.push(Committed {
                position: Position::new(position).expect("positions start at 1"),
                revision: Revision::new(revision).expect("revisions start at 1"),
                recorded_at,
                id: EventId::from_bytes(staged.id_bytes),
            });
        }
        if !input.acknowledgements().is_empty() {
            batch.consumers(&self.consumers.changes);
        }
        batch.finish(recorded_at, self.core.log.watermark.durable(), input.as_batch())
    }

    /// Puts the encoded batch into the log, enters it into the indexes, and shows it. Only a failing write of the log can
    /// stop it, which poisons.
    #[inline(always)]
    fn place<'a, I: Input<'a>>(
        &mut self,
        input: &I,
        staged: &[Staged],
        controls: &[Control<'a>],
        header: &BatchHeader,
    ) -> Result<(), Refused> {
        if cfg!(annals_plant = "wrong-ordering") {
            self.core.log.watermark.publish(header.last_position(), self.end + self.staging.len() as u64);
        }
        if let Err(error) = self.core.log.place(self.end, &self.staging) {
            return Err(outcome_unknown(staged, &error).into());
        }
        let batch_at = self.active.offset;
        let first_here = self.active.segment.first_position();
        if I::MAY_REMOVE && !controls.is_empty() {
            self.enter_controls(controls, header, batch_at);
        }
        let first_event = header.first_position + controls.len() as u64;
        let index_writer = &mut self.active.index;
        for (index, event) in staged.iter().enumerate() {
            if let Some(ahead) = staged.get(index + AHEAD) {
                index_writer.prefetch_key(ahead.stream);
                self.ids.prefetch_newest(ahead.id);
            }
            let position = first_event + index as u64;
            let place = Place { frame: batch_at + u64::from(event.frame), batch: batch_at };
            let record = index_writer.add_event(&EventEntry {
                place,
                recorded_at: header.recorded_at,
                stream: event.stream,
                event_type: event.event_type,
                id: event.id,
            });
            for tag in input.event(index).1.tags {
                index_writer.add_tag(self.core.hash.key(KeyKind::Tag, tag), record);
            }
            self.ids.insert(event.id, position);
            if event.before.position < first_here {
                index_writer.note_stream(event.stream, input.event(index).0, record, event.before.revision + 1);
            }
        }
        self.placed(header, controls.len() as u64);
        Ok(())
    }

    /// The staged batch stands in the log, and its records, so many of them controls, in the indexes: shows it.
    #[inline(always)]
    pub(crate) fn placed(&mut self, header: &BatchHeader, controls: u64) {
        self.active.tally.add(header, &self.staging, controls);
        self.active.offset += self.staging.len() as u64;
        self.end += self.staging.len() as u64;
        self.head = header.last_position();
        self.last_time = header.recorded_at;
        self.core.log.watermark.publish(self.head, self.end);
    }

    /// Enters control records, which stand at the beginning of the batch, into the index, and what they remove into what
    /// readers know, before the batch is shown.
    #[cold]
    fn enter_controls(&mut self, controls: &[Control<'_>], header: &BatchHeader, batch: u64) {
        let durable = self.core.log.watermark.durable();
        let mut frame = batch + BATCH_HEADER_LEN as u64;
        for (position, control) in (header.first_position..).zip(controls) {
            self.active.index.add_control(Place { frame, batch }, header.recorded_at, self.core.hash.controls());
            frame += control_len(control) as u64;
            self.core.removals.apply(position, control, durable);
            if let Control::ForgetStream(forgotten) = control
                && let Some(number) = self.streams.find(self.streams.hash_of(forgotten.stream), forgotten.stream)
            {
                self.streams.set_tip(number, StreamTip::NONE);
            }
        }
    }
}

#[cold]
fn outcome_unknown(staged: &[Staged], error: &Error) -> Error {
    let ids = staged.iter().map(|event| EventId::from_bytes(event.id_bytes)).collect();
    Error::OutcomeUnknown { ids, reason: error.to_string() }
}

#[cold]
fn no_positions(head: u64) -> Error {
    let reason = format!("the last record has position {head}, and a store ends at {LAST_POSITION}");
    Error::NoSpace { action: "giving positions", reason }
}

/// Begins to load the first part of a payload.
#[inline]
fn prefetch_payload(payload: &[u8]) {
    payload.chunks(64).take(PAYLOAD_AHEAD / 64).for_each(|line| prefetch(&line[0]));
}
