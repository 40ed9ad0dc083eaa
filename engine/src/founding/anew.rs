//! The part of a log that is written anew: batches into fresh segments, the last of which the store goes on with.

use annals_format::batch::{BATCH_HEADER_LEN, BatchEncoder, BatchHeader};
use annals_format::checksum::{Identity, Seed};
use annals_format::manifest::{SegmentEntry, SegmentState};
use annals_format::record::{Control, RECORD_HEADER_LEN, control_len};
use annals_format::segment::{END_MARK_LEN, Link, PAGE_LEN, SEGMENT_HEADER_LEN, SegmentHeader, SegmentKind};

use super::not_made;
use crate::batches::Front;
use crate::error::Error;
use crate::log::page_ceiling;
use crate::prepare::segment_name;
use crate::recovery::reencode;
use crate::segment::Tally;
use crate::storage::{Fill, Storage};
use crate::{Result, VERSION};

/// Records that say that others are lost are written so many to a batch.
const LOST_IN_A_BATCH: u64 = 4096;

/// The segment that the new store goes on with.
pub(crate) struct Live {
    pub(crate) header: SegmentHeader,
    pub(crate) end: u64,
    pub(crate) last_position: u64,
    pub(crate) last_time: u64,
}

/// What all fresh segments have in common.
pub(crate) struct Plan {
    /// Store, incarnation, and the number of the first.
    pub(crate) identity: Identity,
    pub(crate) manifest_generation: u64,
    /// Length of the first, at least; each next is twice as long, up to the largest.
    pub(crate) len: u64,
    pub(crate) len_max: u64,
    pub(crate) created_at: u64,
}

/// Writes batches anew.
pub(crate) struct Anew<'a> {
    storage: &'a dyn Storage,
    plan: Plan,
    previous: Option<Link>,
    position: u64,
    time: u64,
    open: Option<Open>,
    /// Those that are full.
    ended: Vec<SegmentEntry>,
    staging: Vec<u8>,
}

/// The fresh segment that is being written.
struct Open {
    header: SegmentHeader,
    front: Front,
    end: u64,
    tally: Tally,
}

/// The time of the last batch of these segments. One that was rolled away from before anything was written to it has none.
pub(crate) fn last_time_of(segments: &[SegmentEntry]) -> u64 {
    segments.iter().map(|entry| entry.last_time).max().unwrap_or(0)
}

impl<'a> Anew<'a> {
    /// Begins behind the last of these segments.
    pub(crate) fn after(storage: &'a dyn Storage, plan: Plan, before: &[SegmentEntry]) -> Self {
        let previous = before.last();
        Self {
            storage,
            plan,
            previous: previous.map(|entry| Link { number: entry.number, final_checksum: entry.final_checksum }),
            position: previous.map_or(1, |entry| entry.last_position + 1),
            time: last_time_of(before),
            open: None,
            ended: Vec::new(),
            staging: Vec::new(),
        }
    }

    /// The time of the last batch.
    pub(crate) fn last_time(&self) -> u64 {
        self.time
    }

    /// Appends a whole batch that begins with the next position.
    pub(crate) fn batch(&mut self, bytes: &[u8], header: &BatchHeader, old: Seed) -> Result<()> {
        let seed = self.room_for(header.len() as u64)?;
        let durable_upto = self.durable_upto();
        self.staging.clear();
        let (new, controls) = reencode(bytes, header, old, seed, durable_upto, &mut self.staging)
            .map_err(|fault| Error::damaged("a batch", 0, Some(header.first_position), &fault, 0))?;
        self.place(&new, controls)
    }

    /// Appends records up to `last` that say that those of these positions are lost.
    pub(crate) fn lost(&mut self, last: u64) -> Result<()> {
        while self.position <= last {
            let count = LOST_IN_A_BATCH.min(last - self.position + 1);
            let seed = self.room_for(BATCH_HEADER_LEN as u64 + count * RECORD_HEADER_LEN as u64)?;
            let durable_upto = self.durable_upto();
            self.staging.clear();
            let mut batch = BatchEncoder::begin(&mut self.staging, seed, self.position);
            (0..count).for_each(|_| batch.lost());
            let header = batch.finish(self.time, durable_upto, false);
            self.place(&header, count)?;
        }
        Ok(())
    }

    /// Appends a removal, as a batch of its own, recorded `now` or when the last batch was, if that is later.
    pub(crate) fn control(&mut self, control: &Control<'_>, now: u64) -> Result<()> {
        let seed = self.room_for((BATCH_HEADER_LEN + control_len(control)) as u64)?;
        let durable_upto = self.durable_upto();
        self.staging.clear();
        let mut batch = BatchEncoder::begin(&mut self.staging, seed, self.position);
        batch.control_record(control);
        let header = batch.finish(self.time.max(now), durable_upto, false);
        self.place(&header, 1)
    }

    /// What lies in segments before this one will be durable before this one counts.
    fn durable_upto(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.header.first_position - 1)
    }

    fn place(&mut self, header: &BatchHeader, controls: u64) -> Result<()> {
        let open = self.open.as_mut().expect("room was made");
        open.tally.add(header, &self.staging, controls);
        open.front.push(&self.staging)?;
        open.end += self.staging.len() as u64;
        self.position = header.last_position() + 1;
        self.time = header.recorded_at;
        Ok(())
    }

    /// A segment that takes `len` bytes more; answers its seed.
    fn room_for(&mut self, len: u64) -> Result<Seed> {
        let fits = |open: &Open| open.end + len + END_MARK_LEN as u64 <= open.header.segment_len;
        if !self.open.as_ref().is_some_and(fits) {
            self.end_open()?;
            self.begin(len)?;
        }
        Ok(self.open.as_ref().expect("begun above").header.seed())
    }

    fn begin(&mut self, needed: u64) -> Result<()> {
        let plan = &mut self.plan;
        let least = page_ceiling((SEGMENT_HEADER_LEN + END_MARK_LEN) as u64 + needed);
        let segment_len = plan.len.max(PAGE_LEN).max(least);
        plan.len = (plan.len * 2).min(plan.len_max);
        let header = SegmentHeader {
            identity: plan.identity,
            generation: 0,
            manifest_generation: plan.manifest_generation,
            segment_len,
            base: 0,
            first_position: self.position,
            previous: self.previous,
            created_at: plan.created_at,
            written_by: VERSION,
            kind: SegmentKind::Live,
        };
        plan.identity.segment += 1;
        let name = segment_name(header.identity.segment);
        let file = self.storage.create(&name, segment_len, Fill::Allocated).map_err(not_made(&name))?;
        let mut front = Front::new(file, &name);
        front.push(&header.encode())?;
        let tally = Tally::new(header.seed());
        self.open = Some(Open { header, front, end: SEGMENT_HEADER_LEN as u64, tally });
        Ok(())
    }

    /// Ends the segment that is being written, as one that is listed.
    fn end_open(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        open.front.finish()?;
        let Open { header, end, tally, .. } = open;
        self.previous = Some(Link { number: header.identity.segment, final_checksum: tally.final_checksum.value() });
        self.ended.push(SegmentEntry {
            number: header.identity.segment,
            generation: header.generation,
            incarnation: header.identity.incarnation,
            store: header.identity.store,
            len: header.segment_len,
            end,
            first_position: header.first_position,
            last_position: tally.last_position.max(header.first_position - 1),
            first_time: tally.first_time,
            last_time: tally.last_time,
            final_checksum: tally.final_checksum.value(),
            state: SegmentState::Cut,
            kind: header.kind,
            event_count: tally.event_count,
            has_sections: tally.section_count > 0,
            compacted: None,
        });
        Ok(())
    }

    /// Syncs all; answers the full segments and the one to go on with.
    pub(crate) fn finish(mut self) -> Result<(Vec<SegmentEntry>, Live)> {
        if self.open.is_none() {
            self.begin(0)?;
        }
        let mut open = self.open.take().expect("begun above");
        open.front.finish()?;
        let live = Live { header: open.header, end: open.end, last_position: self.position - 1, last_time: self.time };
        Ok((self.ended, live))
    }
}
