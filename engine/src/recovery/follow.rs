//! Going on from where a scan of the live segment ended: only what came since is read.
//!
//! For openings beside a writer that look again and again. What was found whole never changes while mark and ring are
//! those of the manifest that the scan went by: within one incarnation the log only grows, and whoever recovers it writes
//! a new manifest, a new ring header and a new mark before anything is added. So it is enough to judge what stands at the
//! end. Whatever is not plainly "nothing yet" or "one whole batch more" is left to a scan of everything.

use std::sync::Arc;

use annals_format::batch::BatchHeader;
use annals_format::manifest::{Manifest, SegmentState};
use annals_format::mark::Mark;
use annals_format::segment::SEGMENT_HEADER_LEN;

use super::judge::{Continuation, Next};
use super::reindex::index_batch;
use super::ring_image::RingFile;
use crate::Result;
use crate::active_index::{ActiveIndex, IndexWriter};
use crate::consumer::{self, Changes};
use crate::error::Error;
use crate::mark::MarkFile;
use crate::name::NameHash;
use crate::segment::{Closing, Segment, Tally};
use crate::storage::Storage;

/// What is read at the end first: enough to see that nothing is there.
const PROBE: u64 = 4 << 10;
/// What is read at once when something is.
const AHEAD: u64 = 64 << 10;

/// The end of the log as the last look left it.
#[derive(Debug)]
pub(crate) struct LiveEnd {
    /// The segment that was being written, closed at the end that was found.
    pub(crate) segment: Arc<Segment>,
    pub(crate) last_position: u64,
    pub(crate) known_durable: u64,
    last_time: u64,
    index: Arc<ActiveIndex>,
    hash: NameHash,
    /// What the scan went by: store, newest incarnation, manifest.
    store: [u8; 16],
    incarnation: [u8; 16],
    manifest_generation: u64,
    /// Changes of consumers that came since somebody took them.
    pub(crate) changes: Changes,
}

/// What looking at the end again found.
#[derive(Debug)]
pub(crate) enum Followed {
    /// Nothing came.
    Same(LiveEnd),
    /// More of the log, or more of it durable.
    Further(LiveEnd),
    /// Something that only a scan of everything can judge: a new segment, a new opening, damage.
    Elsewhere,
}

impl LiveEnd {
    /// `segment` is the last one that a scan under `manifest` found, without an end mark; `last` and `known_durable` are
    /// the position and time of its end and what was durable.
    pub(crate) fn new(
        manifest: &Manifest,
        segment: Arc<Segment>,
        index: Arc<ActiveIndex>,
        last: (u64, u64),
        known_durable: u64,
    ) -> Self {
        let identity = segment.header.identity;
        Self {
            segment,
            last_position: last.0,
            known_durable,
            last_time: last.1,
            index,
            hash: NameHash { seed: manifest.name_hash_seed },
            store: manifest.store,
            incarnation: identity.incarnation,
            manifest_generation: manifest.generation,
            changes: Changes::new(),
        }
    }

    /// Looks at what stands at the end now. Everything that was written before the call is found.
    ///
    /// Takes itself: after an error, or `Elsewhere`, the index may hold more than the end says and is not to be gone on
    /// with.
    pub(crate) fn follow(mut self, storage: &dyn Storage) -> Result<Followed> {
        // Read first: what the mark covers must then be found.
        let found = MarkFile::read(storage)?;
        let Some(mark) = found.newest.filter(|mark| found.notices.is_empty() && self.goes_by(mark)) else {
            return Ok(Followed::Elsewhere);
        };
        let ring = RingFile::open(storage, self.store)?;
        let Some(ring) = ring.ok().filter(|ring| ring.header.incarnation == self.incarnation) else {
            return Ok(Followed::Elsewhere);
        };
        let segment = self.segment.clone();
        let mut walk = Walk::from(&self, &segment, &ring);
        let is_short = |walk: &Walk<'_>| {
            walk.last_position < mark.position
                || (mark.segment == segment.header.identity.segment && walk.end < mark.offset)
        };
        if !walk.run()? || is_short(&walk) {
            return Ok(Followed::Elsewhere);
        }
        let known_durable = walk.known_durable.max(mark.position);
        let grew = walk.end > walk.began;
        if !grew && known_durable == self.known_durable {
            return Ok(Followed::Same(self));
        }
        if grew {
            let closing = Closing { end: walk.end, state: SegmentState::Cut, tally: walk.tally };
            let tail = walk.tail()?;
            self.changes.append(&mut walk.changes);
            self.last_position = walk.last_position;
            self.last_time = walk.last_time;
            self.segment = Arc::new(segment.grown(closing, tail));
        }
        self.known_durable = known_durable;
        Ok(Followed::Further(self))
    }

    /// Whether the mark was written under what the scan went by. An older manifest in it is the usual case: sealing writes
    /// a manifest and the mark names it at the next sync.
    fn goes_by(&self, mark: &Mark) -> bool {
        mark.store == self.store
            && mark.incarnation == self.incarnation
            && mark.manifest_generation <= self.manifest_generation
    }
}

/// A walk over the batches that came.
struct Walk<'a> {
    segment: &'a Segment,
    ring: &'a RingFile,
    hash: NameHash,
    index: IndexWriter,
    began: u64,
    end: u64,
    tally: Tally,
    changes: Changes,
    last_position: u64,
    last_time: u64,
    known_durable: u64,
    /// What was read of the file, and its offset there.
    ahead: Vec<u8>,
    ahead_at: u64,
    /// From which offset on bytes are kept because the file may not hold them, and those of them that came now.
    kept_from: Option<u64>,
    kept: Vec<u8>,
}

impl<'a> Walk<'a> {
    fn from(live: &LiveEnd, segment: &'a Segment, ring: &'a RingFile) -> Self {
        let closing = segment.closing().expect("a look closes what it found");
        Self {
            segment,
            ring,
            hash: live.hash,
            index: IndexWriter::new(live.index.clone()),
            began: closing.end,
            end: closing.end,
            tally: closing.tally,
            changes: Changes::new(),
            last_position: live.last_position,
            last_time: live.last_time,
            known_durable: live.known_durable,
            ahead: Vec::new(),
            ahead_at: closing.end,
            kept_from: segment.tail().map(|(offset, _)| offset),
            kept: Vec::new(),
        }
    }

    /// Takes whole batches until none follows; false if something stands there that this walk does not judge.
    fn run(&mut self) -> Result<bool> {
        loop {
            let (next, from_ring) = self.step()?;
            match next {
                Next::Batch(header) => self.take(&header, from_ring)?,
                Next::Clean => return Ok(true),
                // A batch on its way into ring or file, or the torn end that a killed writer left. That nothing durable
                // is missing is known from the mark.
                Next::Fault(_) if !next.is_unsupported() => return Ok(true),
                Next::End(_) | Next::Fault(_) => return Ok(false),
            }
        }
    }

    /// What stands at the end, and its bytes if the ring had to supply them.
    fn step(&mut self) -> Result<(Next, Option<Vec<u8>>)> {
        let seed = self.segment.seed;
        let here = Continuation {
            seed,
            position: self.last_position + 1,
            time: self.last_time,
            final_checksum: self.tally.final_checksum.value(),
        };
        let known = here.judge(self.ahead.get((self.end - self.ahead_at) as usize..).unwrap_or_default());
        if known.is_whole() {
            return Ok((known, None));
        }
        // The ring before the file: what leaves the ring in between stands in the file.
        let room = self.segment.header.segment_len - self.end;
        let in_ring = match self.ring.holds_log() {
            true => Some(here.judge_ring(self.ring, self.segment.header.base + self.end, room)?),
            false => None,
        };
        self.read_ahead(PROBE)?;
        if let Ok(header) = BatchHeader::decode(&self.ahead, seed) {
            self.read_ahead(AHEAD.max(header.len() as u64))?;
        }
        let in_file = here.judge(&self.ahead);
        if in_file.is_whole() || in_file.is_unsupported() {
            return Ok((in_file, None));
        }
        match in_ring {
            Some((in_ring, bytes)) if in_ring.is_whole() => Ok((in_ring, Some(bytes))),
            _ => Ok((in_file, None)),
        }
    }

    /// Reads the file from the end on, as far as the segment goes.
    fn read_ahead(&mut self, len: u64) -> Result<()> {
        let room = self.segment.header.segment_len - self.end;
        self.ahead.clear();
        self.ahead.resize(len.min(room) as usize, 0);
        self.ahead_at = self.end;
        let io = Error::io("read", &self.segment.name);
        let got = self.segment.live_file().read_at(self.end, &mut self.ahead).map_err(io)?;
        self.ahead.truncate(got);
        Ok(())
    }

    fn take(&mut self, header: &BatchHeader, from_ring: Option<Vec<u8>>) -> Result<()> {
        if from_ring.is_some() {
            self.kept_from.get_or_insert(self.end);
        }
        let start = (self.end - self.ahead_at) as usize;
        let batch = match &from_ring {
            Some(bytes) => bytes,
            None => &self.ahead[start..start + header.len()],
        };
        let controls = index_batch(&mut self.index, self.hash, batch, header, self.segment.seed, self.end)
            .map_err(|fault| self.segment.faulty(self.end, None, &fault))?;
        consumer::collect(batch, header, self.segment.seed, &mut self.changes)
            .map_err(|fault| self.segment.faulty(self.end, None, &fault))?;
        self.tally.add(header, batch, controls);
        if self.kept_from.is_some() {
            self.kept.extend_from_slice(batch);
        }
        self.end += header.len() as u64;
        self.last_position = header.last_position();
        self.last_time = header.recorded_at;
        self.known_durable = self.known_durable.max(header.durable_upto().unwrap_or(0));
        Ok(())
    }

    /// What has to be kept because the file does not hold it, beginning with a whole batch; all else has reached the file
    /// by now.
    fn tail(&self) -> Result<Option<(u64, Vec<u8>)>> {
        let Some(from) = self.kept_from else { return Ok(None) };
        let before = self.segment.tail().map_or(&[][..], |(_, bytes)| bytes);
        let kept = [before, &self.kept].concat();
        let mut there = vec![0; kept.len()];
        let got = self.segment.live_file().read_at(from, &mut there).map_err(Error::io("read", &self.segment.name))?;
        let same = kept.iter().zip(&there[..got]).take_while(|(kept, there)| kept == there).count();
        let mut at = 0;
        while at < kept.len() {
            let len = if from + at as u64 == 0 {
                SEGMENT_HEADER_LEN
            } else {
                let decoded = BatchHeader::decode(&kept[at..], self.segment.seed);
                decoded.map_err(|fault| self.segment.faulty(from + at as u64, None, &fault))?.len()
            };
            if at + len > same {
                return Ok(Some((from + at as u64, kept[at..].to_vec())));
            }
            at += len;
        }
        Ok(None)
    }
}
