//! The walk through what is left, batch by batch, into the new store.

use annals_format::batch::{BATCH_HEADER_LEN, BATCH_KIND, BatchHeader};
use annals_format::checksum::{Identity, Seed};
use annals_format::record::{self, CONTROL_LOST, Record};
use annals_format::scan::{self, Step};
use annals_format::segment::{END_MARK_KIND, END_MARK_LEN, FinalChecksum, SEGMENT_HEADER_LEN, SegmentHeader};
use annals_format::{Fault, manifest::Manifest};

use super::RepairReport;
use super::rubble::{Candidate, Patient, Rubble};
use super::tally::{Losses, Wrong};
use crate::Result;
use crate::batches::{SegmentBytes, Window};
use crate::error::Error;
use crate::founding::{Anew, Founding, Plan, check_free, heir};
use crate::log::page_ceiling;
use crate::made_id::random_bytes;
use crate::recovery::ring_image::RingFile;
use crate::recovery::{Continuation, Next, RingBytes, list};
use crate::snapshot;
use crate::storage::Storage;

/// Records that say that others are lost take 24 bytes each. More of them than this are not written: what lies behind such
/// a hole is reported lost too.
const FILLED_MAX: u64 = 1 << 26;

/// So far ahead is looked for the next batch at once.
const SEARCHED_AT_ONCE: usize = 256 << 10;

pub(super) fn repair(
    source: &dyn Storage,
    target: Option<&dyn Storage>,
    dry_run: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<RepairReport> {
    if let Some(target) = target {
        check_free(&list(target)?)?;
    }
    let mut rubble = Rubble::survey(source)?;
    let total = rubble.len(source);
    let founding = target.filter(|_| !dry_run).map(Founding::begin).transpose()?;
    let identity = Identity { store: rubble.manifest.store, incarnation: random_bytes()?, segment: 1 };
    let plan = Plan {
        identity,
        manifest_generation: rubble.manifest.generation + 1,
        len: 1 << 20,
        len_max: rubble.manifest.segment_len_max,
        created_at: rubble.manifest.created_at,
    };
    let mut losses = Losses::default();
    losses.report.notices = std::mem::take(&mut rubble.notices);
    let mut salvage = Salvage {
        anew: founding.as_ref().map(|founding| Anew::after(founding.storage, plan, &[])),
        batch_len_max: rubble.manifest.limits.batch_len.saturating_add(BATCH_HEADER_LEN as u64),
        rubble: &rubble,
        position: 1,
        time: 0,
        filled: 0,
        durable_upto: rubble.known_durable,
        wrong: None,
        ring_next: None,
        losses,
    };
    for candidate in rubble.candidates.iter().filter(|candidate| candidate.entry.is_none()) {
        salvage.learn_durable(source, candidate)?;
    }
    let mut done = 0;
    for candidate in &rubble.candidates {
        if salvage.is_over() {
            break;
        }
        done += salvage.segment(source, candidate)?;
        progress(done, total);
    }
    salvage.end()?;
    let Salvage { anew, losses, position, .. } = salvage;
    let (mut report, lost) = losses.finish();
    report.head = position - 1;
    if let (Some(anew), Some(founding)) = (anew, founding) {
        let (ended, live) = anew.finish()?;
        let manifest = heir(&rubble.manifest, ended, report.head, &live.header.identity);
        let files = snapshot::files_found(source, &rubble.manifest)?;
        let into = Some((founding.storage, &manifest.store, manifest.created_at));
        let carried = snapshot::carry(&files, &rubble.manifest.store, report.head, into, &mut |corrupt| {
            report.notices.push(corrupt.to_string());
            Ok(())
        })?;
        founding.finish(&Manifest { lost, snapshots: carried.entries, ..manifest }, &live)?;
    }
    Ok(report)
}

struct Salvage<'a> {
    /// `None`: nothing is written.
    anew: Option<Anew<'a>>,
    rubble: &'a Rubble,
    batch_len_max: u64,
    /// The position that comes next.
    position: u64,
    time: u64,
    /// Positions for which records stand that say that they are lost.
    filled: u64,
    /// The last position that was once known to be durable.
    durable_upto: u64,
    /// The first thing that is wrong since the last batch that was taken over.
    wrong: Option<Wrong>,
    /// Log offset at which the next segment begins, if the one before was ended in the same opening.
    ring_next: Option<u64>,
    losses: Losses,
}

/// What stands at a place.
enum Found {
    Whole(BatchHeader),
    /// A header that verifies before records of which some do not.
    Broken(BatchHeader, Fault),
    End,
    Clean,
    Nothing(Fault),
}

impl<'a> Salvage<'a> {
    /// Whether so much is lost that nothing more can be taken over.
    fn is_over(&self) -> bool {
        self.filled > FILLED_MAX
    }

    fn note(&mut self, file: &str, offset: u64, what: impl Into<String>) {
        if self.wrong.is_none() {
            self.wrong = Some(Wrong { file: file.to_owned(), offset, what: what.into() });
        }
    }

    /// Every batch header that verifies tells what was durable when it was written.
    fn learn_durable(&mut self, source: &dyn Storage, candidate: &Candidate) -> Result<()> {
        let Ok(file) = Patient::open(source, &candidate.name) else { return Ok(()) };
        let seed = Seed::of(&candidate.identity);
        let mut window = Window::on(&file);
        let mut next = next_header(&mut window, SEGMENT_HEADER_LEN as u64, file.len(), seed)?;
        while let Some(at) = next {
            let mut behind = at + 8;
            if let Ok(header) = BatchHeader::decode(window.fetch(at, BATCH_HEADER_LEN)?, seed) {
                if header.first_position < candidate.superseded_from {
                    self.durable_upto = self.durable_upto.max(header.durable_upto().unwrap_or(0));
                }
                behind = at + header.len() as u64;
            }
            next = next_header(&mut window, behind, file.len(), seed)?;
        }
        Ok(())
    }

    /// Takes over what can be read of a segment; answers the length of its file.
    fn segment(&mut self, source: &dyn Storage, candidate: &Candidate) -> Result<u64> {
        let file = match Patient::open(source, &candidate.name) {
            Ok(file) => file,
            Err(error) => {
                self.note(&candidate.name, 0, told(&error));
                self.after_listed(candidate, None)?;
                return Ok(0);
            }
        };
        let claimed = candidate.entry.as_ref().map_or(u64::MAX, |entry| entry.end);
        let until = claimed.min(file.len());
        let base = candidate.base.or_else(|| self.base_in_ring(candidate));
        self.ring_next = None;
        let ring = self.ring_of(candidate).zip(base);
        let seed = Seed::of(&candidate.identity);
        let mut final_checksum = FinalChecksum::start(seed);
        let mut window = Window::on(&file);
        let mut at = SEGMENT_HEADER_LEN as u64;
        while at < until && !self.is_over() {
            let mut found = self.look(&mut window, at, until, seed)?;
            let in_ring: Vec<u8>;
            let mut bytes: &[u8] = &[];
            if !matches!(found, Found::Whole(_) | Found::End)
                && let Some((ring, base)) = ring
            {
                let (position, time) = (self.position, self.time);
                let here = Continuation { seed, position, time, final_checksum: final_checksum.value() };
                match here.judge_ring(ring, base + at, until - at)? {
                    (Next::Batch(header), copy) => {
                        in_ring = copy;
                        bytes = &in_ring;
                        found = Found::Whole(header);
                    }
                    (Next::End(_), _) => found = Found::End,
                    _ => {}
                }
            }
            match found {
                Found::Whole(header) => {
                    let len = header.len();
                    let bytes = if bytes.is_empty() { window.fetch(at, len)? } else { bytes };
                    final_checksum.add_all(&bytes[..BATCH_HEADER_LEN]);
                    self.take(candidate, &header, bytes, seed, at)?;
                    at += len as u64;
                }
                Found::Broken(header, fault) => {
                    self.note(&candidate.name, at, fault.to_string());
                    let bytes = window.fetch(at, header.len())?;
                    readable_events(bytes, &header, seed, |stream, revision| self.losses.lost_event(stream, revision));
                    at += header.len() as u64;
                }
                Found::End => {
                    if let (None, Some(base)) = (&candidate.entry, base) {
                        self.ring_next = Some(page_ceiling(base + at + END_MARK_LEN as u64));
                    }
                    break;
                }
                Found::Clean | Found::Nothing(_) => {
                    let next = next_header(&mut window, at + 8, until, seed)?;
                    let is_end = next.is_none() && candidate.entry.is_none();
                    if let Found::Nothing(fault) = &found {
                        self.note(&candidate.name, at, fault.to_string());
                    } else if !is_end {
                        self.note(&candidate.name, at, "zeros stand where a batch belongs");
                    }
                    let Some(next) = next else { break };
                    at = next;
                }
            }
        }
        if until < claimed && candidate.entry.is_some() {
            self.note(&candidate.name, until, "the file ends here");
        }
        if file.unreadable.get() > 0 {
            let what = format!("{}: {} bytes cannot be read", candidate.name, file.unreadable.get());
            self.losses.report.notices.push(what);
        }
        self.after_listed(candidate, base)?;
        Ok(file.len())
    }

    /// What the manifest says of a segment and was not found is lost. Where the one behind it begins in the ring.
    fn after_listed(&mut self, candidate: &Candidate, base: Option<u64>) -> Result<()> {
        let Some(entry) = &candidate.entry else { return Ok(()) };
        self.ring_next = base.map(|base| page_ceiling(base + entry.end + END_MARK_LEN as u64));
        let last = entry.last_position.min(candidate.superseded_from - 1);
        if self.position <= last && !self.is_over() {
            self.note(&candidate.name, entry.end, "batches are missing");
            self.lose(last)?;
        }
        Ok(())
    }

    /// The ring, if it is of the opening that wrote this segment.
    fn ring_of(&self, candidate: &Candidate) -> Option<&'a RingFile> {
        let rubble: &'a Rubble = self.rubble;
        let is_of = |ring: &&RingFile| ring.holds_log() && ring.header.incarnation == candidate.identity.incarnation;
        rubble.ring.as_ref().filter(is_of).filter(|_| candidate.entry.is_none())
    }

    /// The log offset of a segment whose header is only in the ring.
    fn base_in_ring(&self, candidate: &Candidate) -> Option<u64> {
        let base = self.ring_next.or((candidate.identity.segment == 1).then_some(0))?;
        let ring = self.ring_of(candidate)?;
        let page = ring.copy(base, SEGMENT_HEADER_LEN).ok()?;
        let header = SegmentHeader::decode(&page).ok().flatten()?;
        (header.identity == candidate.identity).then_some(base)
    }

    /// What stands at `at`.
    fn look(&self, window: &mut Window<'_>, at: u64, until: u64, seed: Seed) -> Result<Found> {
        let step = scan::next(window.fetch(at, END_MARK_LEN)?, seed);
        Ok(match step {
            Ok(Step::Batch(header)) => {
                let len = header.len() as u64;
                if len > until - at || len > self.batch_len_max {
                    return Ok(Found::Nothing(Fault::Length { what: "length of the batch's body", value: len }));
                }
                match scan::verify_batch(window.fetch(at, header.len())?, &header, seed, |_, _, _| {}) {
                    Ok(()) => Found::Whole(header),
                    Err(fault @ Fault::Unsupported { .. }) => {
                        let (name, offset) = window.source.place(at);
                        return Err(Error::damaged(&name, offset, Some(header.first_position), &fault, 0));
                    }
                    Err(fault) => Found::Broken(header, fault),
                }
            }
            Ok(Step::End(_)) => Found::End,
            Ok(Step::Clean) => Found::Clean,
            Err(fault @ Fault::Unsupported { .. }) => {
                let (name, offset) = window.source.place(at);
                return Err(Error::damaged(&name, offset, Some(self.position), &fault, 0));
            }
            Err(fault) => Found::Nothing(fault),
        })
    }

    /// Takes a whole batch over, if it continues what was taken over.
    fn take(&mut self, candidate: &Candidate, header: &BatchHeader, bytes: &[u8], seed: Seed, at: u64) -> Result<()> {
        let last = header.last_position();
        let is_superseded =
            last >= candidate.superseded_from || candidate.entry.as_ref().is_some_and(|e| last > e.last_position);
        if header.first_position < self.position || is_superseded {
            if self.wrong.is_none() && candidate.entry.is_some() {
                let what = format!("position {} stands where {} belongs", header.first_position, self.position);
                self.note(&candidate.name, at, what);
            }
            return Ok(());
        }
        if header.recorded_at < self.time {
            self.note(&candidate.name, at, "recorded_at falls below that of the batch before");
            return Ok(());
        }
        if header.first_position > self.position && self.position > self.durable_upto {
            // What is missing was never known to be durable, so what follows was not either: recovery leaves it too.
            let what = "whole batches behind a torn one are left, as recovery leaves them";
            self.losses.report.notices.push(format!("{} at byte {at}: {what}", candidate.name));
            return Ok(());
        }
        if header.first_position > self.position {
            self.note(&candidate.name, at, "batches are missing before this place");
            self.lose(header.first_position - 1)?;
            if self.is_over() {
                return Ok(());
            }
        }
        // What was wrong cost no position: bytes that no batch is made of.
        if let Some(Wrong { file, offset, what }) = self.wrong.take() {
            self.losses.report.notices.push(format!("{file} at byte {offset}: {what}; no record is missing there"));
        }
        let losses = &mut self.losses;
        scan::verify_batch(bytes, header, seed, |_, position, record| match record {
            Record::Event(event) => {
                losses.report.events += 1;
                losses.event(event.stream(), event.revision());
            }
            Record::Control(control) if control.kind() == CONTROL_LOST => losses.lost_before(position),
            Record::Control(_) => {}
        })
        .map_err(|fault| Error::damaged(&candidate.name, at, Some(header.first_position), &fault, 0))?;
        losses.report.batches += 1;
        if let Some(anew) = &mut self.anew {
            anew.batch(bytes, header, seed)?;
        }
        self.position = last + 1;
        self.time = header.recorded_at;
        Ok(())
    }

    /// Everything from the next position up to `last` is lost.
    fn lose(&mut self, last: u64) -> Result<()> {
        let wrong = self.wrong.take().unwrap_or_default();
        let first = self.position;
        let count = last + 1 - first;
        self.filled = self.filled.saturating_add(count);
        if self.is_over() {
            self.losses.report.notices.push(format!(
                "positions {first} to {last} and all after them are given up: more than {FILLED_MAX} are missing"
            ));
            self.losses.past_the_end(first, last.max(self.durable_upto), wrong);
            return Ok(());
        }
        self.losses.positions(first, last, wrong);
        if let Some(anew) = &mut self.anew {
            anew.lost(last)?;
        }
        self.position = last + 1;
        Ok(())
    }

    /// What was once durable behind the last batch.
    fn end(&mut self) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        if self.durable_upto >= self.position {
            let file = self.rubble.candidates.last().map_or_else(String::new, |candidate| candidate.name.clone());
            self.note(&file, 0, "the log ends before what was known to be durable");
            return self.lose(self.durable_upto);
        }
        if let Some(Wrong { file, offset, what }) = self.wrong.take() {
            let what = format!("{file} at byte {offset}: {what}; nothing behind it was known to be durable");
            self.losses.report.notices.push(what);
        }
        Ok(())
    }
}

fn told(error: &Error) -> String {
    match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => "the file is missing".to_owned(),
        other => other.to_string(),
    }
}

/// The next place from `from` on where a batch header or an end mark verifies.
fn next_header(window: &mut Window<'_>, from: u64, until: u64, seed: Seed) -> Result<Option<u64>> {
    let mut at = from.next_multiple_of(8);
    while at + BATCH_HEADER_LEN as u64 <= until {
        let bytes = window.fetch(at, SEARCHED_AT_ONCE)?;
        let end = bytes.len().min((until - at) as usize);
        if end < BATCH_HEADER_LEN {
            break;
        }
        let bytes = &bytes[..end];
        let mut offset = 0;
        while offset + BATCH_HEADER_LEN <= bytes.len() {
            let rest = &bytes[offset..];
            if rest[4] == BATCH_KIND && BatchHeader::decode(rest, seed).is_ok() {
                return Ok(Some(at + offset as u64));
            }
            if rest[4] == END_MARK_KIND
                && rest.len() >= END_MARK_LEN
                && matches!(scan::next(rest, seed), Ok(Step::End(_)))
            {
                return Ok(Some(at + offset as u64));
            }
            offset += 8;
        }
        // Overlapping by less than an end mark, so that one at the border is seen whole.
        let step = if bytes.len() > 2 * END_MARK_LEN { offset - END_MARK_LEN } else { offset };
        at += (step.max(8) / 8 * 8) as u64;
        if bytes.len() < SEARCHED_AT_ONCE {
            break;
        }
    }
    Ok(None)
}

/// Streams and revisions of the events of a broken batch that verify by themselves.
fn readable_events(bytes: &[u8], header: &BatchHeader, seed: Seed, mut each: impl FnMut(&str, u64)) {
    let mut at = BATCH_HEADER_LEN;
    for n in 0..header.record_count {
        let frame = bytes.get(at..).unwrap_or_default();
        let position = header.first_position + u64::from(n);
        if let Ok(Record::Event(event)) = record::decode(frame, seed, position) {
            each(event.stream(), event.revision());
        }
        match record::frame_len(frame) {
            Ok(len) => at += len,
            Err(_) => break,
        }
    }
}
