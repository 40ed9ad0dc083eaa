//! A store made from a point of a backup.

use annals_format::backup_point::{BackupPoint, Piece};
use annals_format::checksum::Identity;
use annals_format::manifest::{SegmentEntry, SegmentState, SnapshotFileEntry};
use annals_format::record::Record;
use annals_format::scan::{Step, verify_batch};

use super::chain::{self, Pieces};
use super::{RestoreOptions, RestoreReport};
use crate::Result;
use crate::as_of::AsOf;
use crate::batches::{Batches, Front, HeldSegment, SegmentBytes, copy_container, copy_segment};
use crate::compacted;
use crate::error::Error;
use crate::founding::{Anew, Founding, LastRevisions, LaterRemovals, Plan, check_free, heir, last_time_of, not_made};
use crate::made_id::random_bytes;
use crate::prepare::segment_name;
use crate::recovery::list;
use crate::snapshot;
use crate::storage::{Fill, Storage};

/// Positions and times up to which batches are restored.
#[derive(Clone, Copy)]
struct Until {
    position: u64,
    time: u64,
}

impl Until {
    fn holds(&self, last_position: u64, time: u64) -> bool {
        last_position <= self.position && time <= self.time
    }
}

pub(super) fn restore(
    backup: &dyn Storage,
    target: Option<&dyn Storage>,
    options: &RestoreOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<RestoreReport> {
    let point = choose(backup, options.point)?;
    let head = point.last_position();
    let until = match options.until {
        AsOf::Head => Until { position: head, time: u64::MAX },
        AsOf::Position(given) if given > head => return Err(Error::AheadOfLog { given, head }),
        AsOf::Position(position) => Until { position, time: u64::MAX },
        AsOf::Time(time) => Until { position: head, time },
    };
    if let Some(target) = target {
        check_free(&list(target)?)?;
    }
    let target = target.filter(|_| !options.dry_run);
    Restoring { backup, point: &point, until, progress, report: RestoreReport::default() }.run(target)
}

/// The point asked for, or the newest.
fn choose(backup: &dyn Storage, number: Option<u64>) -> Result<BackupPoint> {
    let numbers = chain::numbers(backup)?;
    let not_there = |reason: String| Error::NotAStore { path: "the backup".to_owned(), reason };
    match number {
        Some(number) if numbers.contains(&number) => chain::load(backup, number),
        Some(number) => Err(not_there(format!("it holds no point {number}"))),
        None => match numbers.last() {
            Some(newest) => chain::load(backup, *newest),
            None => Err(not_there("it holds no point".to_owned())),
        },
    }
}

struct Restoring<'a> {
    backup: &'a dyn Storage,
    point: &'a BackupPoint,
    until: Until,
    progress: &'a mut dyn FnMut(u64, u64),
    report: RestoreReport,
}

impl<'a> Restoring<'a> {
    fn run(mut self, target: Option<&dyn Storage>) -> Result<RestoreReport> {
        self.report.point = self.point.number;
        let point: &'a BackupPoint = self.point;
        let segments = &point.manifest.segments;
        // What the store was writing is written anew, so that the new one goes on where it ended.
        let is_whole = |(index, entry): (usize, &SegmentEntry)| {
            self.until.holds(entry.last_position, entry.last_time)
                && (entry.state == SegmentState::Sealed || index + 1 < segments.len())
        };
        let whole = segments.iter().enumerate().take_while(|(index, entry)| is_whole((*index, entry))).count();
        let later = self.later_removals(whole)?;
        let last_revisions = self.last_revisions(&later, whole)?;
        let founding = target.map(Founding::begin).transpose()?;
        let mut time = 0;
        for (index, entry) in segments.iter().enumerate().take(whole) {
            self.whole(index, time, founding.as_ref())?;
            time = time.max(entry.last_time);
        }
        let rest = self.rest(whole, founding.as_ref())?;
        let last = self.report.head;
        let now = self.point.taken_at;
        let carried = later.carry(last_revisions.clone(), last, now, None)?;
        self.report.carried_removals = carried;
        self.report.head += carried;
        self.report.records += carried;
        if let Some(mut anew) = rest {
            later.carry(last_revisions, last, now, Some(&mut anew))?;
            let (ended, live) = anew.finish()?;
            let listed = segments[..whole].iter().cloned().chain(ended).collect();
            let mut manifest = heir(&self.point.manifest, listed, last, &live.header.identity);
            let founding = founding.expect("written to above");
            manifest.snapshots = self.snapshots(last, Some(founding.storage))?;
            founding.finish(&manifest, &live)?;
        } else {
            self.snapshots(self.report.head, None)?;
        }
        Ok(self.report)
    }

    /// Snapshots of what is restored, each verified; without a target nothing is written.
    fn snapshots(&self, last: u64, target: Option<&dyn Storage>) -> Result<Vec<SnapshotFileEntry>> {
        let manifest = &self.point.manifest;
        let files = snapshot::files_of_backup(self.backup, manifest)?;
        let into = target.map(|target| (target, &manifest.store, self.point.taken_at));
        let carried = snapshot::carry(&files, &manifest.store, last, into, &mut snapshot::refuse)?;
        Ok(carried.entries)
    }

    /// What was removed behind what is restored.
    fn later_removals(&self, whole: usize) -> Result<LaterRemovals> {
        let mut later = LaterRemovals::default();
        let point: &'a BackupPoint = self.point;
        for index in whole..point.manifest.segments.len() {
            // Most segments hold events alone.
            let entry = &point.manifest.segments[index];
            if entry.last_position + 1 - entry.first_position > entry.event_count {
                self.each_record(index, |is_restored, record| match record {
                    Record::Control(control) if !is_restored => later.push(control),
                    _ => {}
                })?;
            }
        }
        Ok(later)
    }

    /// How far the streams that these removals name had come.
    fn last_revisions(&self, later: &LaterRemovals, whole: usize) -> Result<LastRevisions> {
        let mut last = later.streams();
        if !last.is_empty() {
            for index in 0..self.point.manifest.segments.len().min(whole + 1) {
                self.each_record(index, |is_restored, record| {
                    if is_restored {
                        last.meet(record);
                    }
                })?;
            }
        }
        Ok(last)
    }

    /// Hands each record of a segment, verified, to `each`, and whether it is restored.
    fn each_record(&self, index: usize, mut each: impl FnMut(bool, &Record<'_>)) -> Result<()> {
        let point: &'a BackupPoint = self.point;
        let entry = &point.manifest.segments[index];
        let pieces = Pieces::open(self.backup, entry, self.pieces_of(index))?;
        let held = pieces.held()?;
        let bytes = segment_bytes(&pieces, held.as_ref());
        let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
        let mut batches = Batches::begin(bytes, &identity, 0)?;
        let seed = batches.header.seed();
        while let Some(header) = batches.next_below(entry.end)? {
            let is_restored = self.until.holds(header.last_position(), header.recorded_at);
            let at = header.first_position;
            verify_batch(batches.batch()?, &header, seed, |_, _, record| each(is_restored, &record))
                .map_err(|fault| Error::damaged(&segment_name(entry.number), 0, Some(at), &fault, 0))?;
        }
        Ok(())
    }

    fn pieces_of(&self, index: usize) -> &'a [Piece] {
        let point: &'a BackupPoint = self.point;
        let pieces = &point.pieces;
        let from = pieces.partition_point(|piece| (piece.segment as usize) < index);
        let to = pieces.partition_point(|piece| piece.segment as usize <= index);
        &pieces[from..to]
    }

    /// The pieces of a segment, each verified.
    fn open(&mut self, index: usize) -> Result<Pieces<'a>> {
        let entry = &self.point.manifest.segments[index];
        let pieces = Pieces::open(self.backup, entry, self.pieces_of(index))?;
        let bytes = pieces.verify()?;
        self.report.verified_bytes += bytes;
        let total = self.point.pieces.iter().map(|piece| piece.to - piece.from).sum();
        (self.progress)(self.report.verified_bytes, total);
        Ok(pieces)
    }

    /// A segment that is restored byte by byte.
    fn whole(&mut self, index: usize, time: u64, founding: Option<&Founding<'_>>) -> Result<()> {
        let entry = self.point.manifest.segments[index].clone();
        let bytes = self.open(index)?;
        let made = |founding: &Founding<'_>| {
            let name = compacted::name_of(&entry);
            let file = founding.storage.create(&name, entry.file_len(), Fill::Allocated).map_err(not_made(&name))?;
            Ok::<_, Error>((file, name))
        };
        match (founding, bytes.container()) {
            (Some(founding), Some((container, piece))) => {
                let (file, name) = made(founding)?;
                copy_container(container, &entry, time, Front::new(file, &name), piece)?;
            }
            (None, Some((container, piece))) => {
                copy_container(container, &entry, time, Front::nowhere(), piece)?;
            }
            (Some(founding), None) => {
                let (file, name) = made(founding)?;
                copy_segment(&bytes, &entry, time, file, &name)?;
            }
            (None, None) => check_segment(&bytes, &entry, time)?,
        }
        self.report.head = entry.last_position;
        self.report.last_time = self.report.last_time.max(entry.last_time);
        self.report.records += entry.last_position + 1 - entry.first_position;
        Ok(())
    }

    /// What follows the whole segments, written anew.
    fn rest<'t>(&mut self, whole: usize, founding: Option<&Founding<'t>>) -> Result<Option<Anew<'t>>> {
        let manifest = &self.point.manifest;
        let number = manifest.segments.iter().map(|entry| entry.number + 1).max().unwrap_or(1);
        let identity = Identity { store: manifest.store, incarnation: random_bytes()?, segment: number };
        let plan = Plan {
            identity,
            manifest_generation: manifest.generation + 1,
            len: 64 << 10,
            len_max: manifest.segment_len_max,
            created_at: self.point.taken_at,
        };
        let before = &manifest.segments[..whole];
        let mut anew = founding.map(|founding| Anew::after(founding.storage, plan, before));
        if let Some(entry) = manifest.segments.get(whole).cloned() {
            let until = self.until;
            let time = last_time_of(before);
            let mut records = 0;
            let mut end = (entry.first_position - 1, time);
            let pieces = self.open(whole)?;
            let held = pieces.held()?;
            let bytes = segment_bytes(&pieces, held.as_ref());
            let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
            let mut batches = Batches::begin(bytes, &identity, time)?;
            while batches.standing.at < entry.end {
                match batches.peek()? {
                    Step::Batch(header) if until.holds(header.last_position(), header.recorded_at) => {
                        batches.pass(&header)?;
                        records += u64::from(header.record_count);
                        end = (header.last_position(), header.recorded_at);
                        let seed = batches.header.seed();
                        if let Some(anew) = &mut anew {
                            anew.batch(batches.batch()?, &header, seed)?;
                        }
                    }
                    Step::Batch(_) => break,
                    _ => return Err(batches.wrong("something else stands where a batch belongs")),
                }
            }
            if batches.standing.at >= entry.end {
                batches.finish(&entry)?;
            }
            if records > 0 {
                (self.report.head, self.report.last_time) = end;
                self.report.records += records;
            }
        }
        Ok(anew)
    }
}

/// The bytes of a segment, whether the pieces are its own or a container.
fn segment_bytes<'b>(pieces: &'b Pieces<'_>, held: Option<&'b HeldSegment>) -> &'b dyn SegmentBytes {
    match held {
        Some(held) => held,
        None => pieces,
    }
}

/// As [`copy_segment`], without the copy.
fn check_segment(bytes: &Pieces<'_>, entry: &SegmentEntry, time: u64) -> Result<()> {
    let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
    let mut batches = Batches::begin(bytes, &identity, time)?;
    while batches.next_below(entry.end)?.is_some() {}
    batches.finish(entry).map(drop)
}
