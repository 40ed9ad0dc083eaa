//! A point added to a backup.

use std::collections::HashMap;

use annals_format::backup_point::{BackupPoint, Piece, stored_len};
use annals_format::manifest::{IncarnationEntry, Manifest, SegmentEntry, SegmentState, SnapshotFileEntry};
use annals_format::scan::Step;
use annals_format::segment::{FinalChecksum, SEGMENT_HEADER_LEN, SegmentKind};

use super::chain::{self, piece_name, point_name};
use super::{BackupOptions, BackupReport};
use crate::batches::{Batches, Front, SegmentFile, Standing, copy_container};
use crate::error::Error;
use crate::fork::{Source, SourceSegment};
use crate::founding::{not_made, share};
use crate::recovery::{list, lock_refused};
use crate::segment::Tally;
use crate::storage::{Access, Fill, Storage};
use crate::{Result, VERSION, manifest, snapshot};

/// A segment that was copied in so many pieces is copied whole when there is more of it.
const PIECES_MAX: usize = 16;

pub(super) fn take(
    source: &Source,
    target: Option<&dyn Storage>,
    options: &BackupOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<BackupReport> {
    let mut report = BackupReport { head: source.head, ..BackupReport::default() };
    check_names(target)?;
    let _lock = match target {
        Some(target) if !options.dry_run => Some(target.lock().map_err(lock_refused)?),
        _ => None,
    };
    let names = check_names(target)?;
    let (previous, number) = newest(target, &mut report)?;
    if previous.as_ref().is_some_and(|point| point.manifest.store != source.manifest.store) {
        return Err(Error::occupied("it holds the backup of another store"));
    }
    let writes = target.filter(|_| !options.dry_run);
    if let Some(target) = writes {
        // What a run before was writing when it ended.
        for name in names.iter().filter(|name| name.ends_with(".new")) {
            target.remove(name).map_err(Error::io("remove", name))?;
        }
    }
    let mut known = HashMap::new();
    for (index, entry) in previous.iter().flat_map(|point| point.manifest.segments.iter()).enumerate() {
        known.insert((entry.incarnation, entry.number), index);
    }
    let taking = Taking {
        source,
        held: target,
        target: writes,
        options,
        previous: previous.as_ref(),
        known,
        entries: Vec::new(),
        pieces: Vec::new(),
        report,
    };
    taking.run(number, progress)
}

/// The names in a backup's directory, which may hold nothing else.
fn check_names(target: Option<&dyn Storage>) -> Result<Vec<String>> {
    let names = target.map_or(Ok(Vec::new()), list)?;
    match names.iter().find(|name| !chain::is_ours(name)) {
        Some(name) => Err(Error::occupied(format!("it holds {name:?}, which is no file of a backup"))),
        None => Ok(names),
    }
}

/// The newest point that can be read, and the number of the next one.
fn newest(target: Option<&dyn Storage>, report: &mut BackupReport) -> Result<(Option<BackupPoint>, u64)> {
    let Some(target) = target else { return Ok((None, 1)) };
    let numbers = chain::numbers(target)?;
    let next = numbers.last().map_or(1, |last| last + 1);
    for number in numbers.into_iter().rev() {
        match chain::load(target, number) {
            Ok(point) => return Ok((Some(point), next)),
            Err(error @ Error::Corrupt(_)) => report.notices.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok((None, next))
}

/// A point under way.
struct Taking<'a> {
    source: &'a Source,
    /// The backup as it is, if there is one.
    held: Option<&'a dyn Storage>,
    /// `None`: nothing is written.
    target: Option<&'a dyn Storage>,
    options: &'a BackupOptions,
    previous: Option<&'a BackupPoint>,
    /// Where the point before lists a segment.
    known: HashMap<([u8; 16], u64), usize>,
    entries: Vec<SegmentEntry>,
    pieces: Vec<Piece>,
    report: BackupReport,
}

impl<'a> Taking<'a> {
    fn run(mut self, number: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<BackupReport> {
        let source = self.source;
        let total = source.len();
        let mut done = 0;
        for segment in &source.segments {
            self.segment(segment)?;
            done += segment.len;
            progress(done, total);
        }
        let manifest = {
            let snapshots = self.snapshots()?;
            self.manifest(snapshots)
        };
        let same = |before: &&BackupPoint| {
            before.pieces == self.pieces
                && before.manifest.segments == manifest.segments
                && before.manifest.incarnations == manifest.incarnations
                && before.manifest.snapshots == manifest.snapshots
        };
        if let Some(before) = self.previous.filter(same) {
            self.report.point = before.number;
            self.report.unchanged = true;
            return Ok(self.report);
        }
        self.report.point = number;
        if let Some(target) = self.target {
            // The pieces' names first: a point that is there has all of them.
            target.sync_dir().map_err(Error::io("sync", "the directory"))?;
            let point =
                BackupPoint { number, written_by: VERSION, taken_at: source.now, manifest, pieces: self.pieces };
            manifest::replace(target, &point_name(number), &point.encode())?;
        }
        Ok(self.report)
    }

    /// Copies what the backup does not hold yet of the snapshots.
    fn snapshots(&mut self) -> Result<Vec<SnapshotFileEntry>> {
        let source = self.source;
        let held = self.previous.map_or(&[][..], |point| &point.manifest.snapshots);
        let files = snapshot::backup(&*source.storage, &source.manifest, held, self.held, self.target)?;
        for file in &files {
            let bytes = if file.is_new { &mut self.report.new_bytes } else { &mut self.report.kept_bytes };
            *bytes += file.entry.end;
            self.report.new_pieces += u64::from(file.is_new);
        }
        Ok(files.into_iter().map(|file| file.entry).collect())
    }

    /// The store's manifest, as it would be had the store ended here.
    fn manifest(&self, snapshots: Vec<SnapshotFileEntry>) -> Manifest {
        let before = &self.source.manifest;
        let cut = |entry: &IncarnationEntry| IncarnationEntry {
            incarnation: entry.incarnation,
            first_position: entry.first_position.min(self.source.head + 1),
        };
        Manifest {
            written_by: VERSION,
            next_segment: before.next_segment.max(self.source.next_number()),
            incarnations: before.incarnations.iter().map(cut).collect(),
            segments: self.entries.clone(),
            snapshots,
            ..before.clone()
        }
    }

    /// What the point before holds of a segment, if all of it is there.
    fn known(&mut self, segment: &SourceSegment) -> Option<(&'a SegmentEntry, &'a [Piece])> {
        let index = *self.known.get(&(segment.identity.incarnation, segment.identity.segment))?;
        let point = self.previous?;
        let entry = &point.manifest.segments[index];
        let from = point.pieces.partition_point(|piece| (piece.segment as usize) < index);
        let to = point.pieces.partition_point(|piece| piece.segment as usize <= index);
        let pieces = &point.pieces[from..to];
        for piece in pieces {
            let name = piece_name(entry, piece.from, piece.to);
            let there = self.held?.open(&name, Access::Read).and_then(|file| file.len());
            if !there.is_ok_and(|len| len >= piece.to - piece.from) {
                self.report.notices.push(format!("{name} is missing or cut; it is copied anew"));
                return None;
            }
        }
        (entry.store == segment.identity.store).then_some((entry, pieces))
    }

    fn segment(&mut self, segment: &SourceSegment) -> Result<()> {
        let head = self.source.head;
        let known = self.known(segment);
        let file = SegmentFile::open(&*self.source.storage, &segment.name())?;
        let time = self.entries.last().map_or(0, |before| before.last_time);
        let listed = segment.whole_up_to(head);
        if let (Some(entry), Some((before, pieces))) = (listed, known)
            && entry == before
        {
            self.keep(entry.clone(), pieces);
            return Ok(());
        }
        // What was held goes on where it ended, unless it ends elsewhere or in too many pieces.
        let goes_on = |before: &SegmentEntry, pieces: &[Piece]| {
            let is_part = listed.is_none_or(|entry| before.end <= entry.end) && before.last_position <= head;
            let is_container = before.compacted.is_some() || listed.is_some_and(|entry| entry.compacted.is_some());
            before.state == SegmentState::Cut && is_part && !is_container && pieces.len() < PIECES_MAX
        };
        let known = known.filter(|(before, pieces)| goes_on(before, pieces));
        let standing = known.map(|(before, _)| standing(before));
        let begin = || -> Result<Batches<'_>> {
            let batches = Batches::begin(&file, &segment.identity, time)?;
            Ok(match standing {
                Some(standing) => batches.resume(standing),
                None => batches,
            })
        };
        let entry = match listed {
            Some(entry) => entry.clone(),
            None => match live_entry(segment, begin()?, head)? {
                Some(entry) => entry,
                None => return Ok(()),
            },
        };
        let pieces = known.map_or(&[][..], |(_, pieces)| pieces);
        let from = standing.map_or(0, |standing| standing.at);
        if from == stored_len(&entry) {
            self.keep(entry, pieces);
            return Ok(());
        }
        let new = self.piece(segment, &entry, begin()?, from)?;
        self.keep(entry, pieces);
        self.report.new_pieces += 1;
        self.report.new_bytes += new.to - new.from;
        self.pieces.push(new);
        Ok(())
    }

    /// Enters a segment, with pieces that are held already.
    fn keep(&mut self, entry: SegmentEntry, pieces: &[Piece]) {
        let segment = self.entries.len() as u32;
        self.entries.push(entry);
        for piece in pieces {
            self.report.kept_bytes += piece.to - piece.from;
            self.pieces.push(Piece { segment, ..*piece });
        }
    }

    /// Writes the piece of a segment that begins at `from`, verified on the way.
    fn piece(
        &mut self,
        segment: &SourceSegment,
        entry: &SegmentEntry,
        mut batches: Batches<'_>,
        from: u64,
    ) -> Result<Piece> {
        let to = stored_len(entry);
        let name = piece_name(entry, from, to);
        let beside = format!("{name}.new");
        let is_shared = match self.target {
            Some(target) if from == 0 && segment.entry.is_some() => {
                share(&*self.source.storage, &segment.name(), target, &beside, self.options.sharing)
            }
            _ => false,
        };
        let mut front = match self.target {
            Some(target) if !is_shared => {
                let file = target.create(&beside, to - from, Fill::Allocated).map_err(not_made(&beside))?;
                Front::new(file, &beside)
            }
            _ => Front::nowhere(),
        };
        let checksum = if entry.compacted.is_some() {
            let name = segment.name();
            let file = self.source.storage.open(&name, Access::Read).map_err(Error::io("open", &name))?;
            copy_container(file, entry, batches.standing.time, front, &name)?
        } else {
            if from == 0 {
                front.push(batches.header_page()?)?;
            }
            while batches.next_below(entry.end)?.is_some() {
                front.push(batches.batch()?)?;
            }
            let mark = batches.finish(entry)?;
            front.push(&mark)?;
            front.finish()?;
            front.checksum()
        };
        if let Some(target) = self.target {
            if is_shared {
                let file = target.open(&beside, Access::Read).map_err(Error::io("open", &beside))?;
                file.sync().map_err(Error::io("sync", &beside))?;
                self.report.shared_pieces += 1;
            }
            target.rename(&beside, &name).map_err(Error::io("rename", &name))?;
        }
        Ok(Piece { segment: self.entries.len() as u32, from, to, checksum })
    }
}

/// Where the walk through a segment stands behind what is held of it.
fn standing(before: &SegmentEntry) -> Standing {
    let records = (before.last_position + 1).saturating_sub(before.first_position);
    let tally = Tally {
        final_checksum: FinalChecksum::from_value(before.final_checksum),
        last_position: before.last_position,
        first_time: before.first_time,
        last_time: before.last_time,
        batch_count: 1,
        event_count: before.event_count,
        control_count: records.saturating_sub(before.event_count),
        section_count: u64::from(before.has_sections),
    };
    Standing { at: before.end, position: before.last_position + 1, time: before.last_time, tally }
}

/// A segment that is not listed, as one that was cut behind the last batch at or before `head`; `None` if there is none.
fn live_entry(segment: &SourceSegment, mut batches: Batches<'_>, head: u64) -> Result<Option<SegmentEntry>> {
    while batches.standing.position <= head && !segment.ends_at(batches.standing.at) {
        match batches.peek()? {
            Step::Batch(header) if header.last_position() <= head => batches.pass(&header)?,
            Step::Batch(_) | Step::End(_) => break,
            Step::Clean => return Err(batches.wrong("zeros stand where a batch belongs")),
        }
    }
    let Standing { at, tally, .. } = batches.standing;
    if at == SEGMENT_HEADER_LEN as u64 {
        return Ok(None);
    }
    Ok(Some(SegmentEntry {
        number: segment.identity.segment,
        generation: batches.header.generation,
        incarnation: segment.identity.incarnation,
        store: segment.identity.store,
        len: segment.len,
        end: at,
        first_position: segment.first_position,
        last_position: tally.last_position.max(segment.first_position - 1),
        first_time: tally.first_time,
        last_time: tally.last_time,
        final_checksum: tally.final_checksum.value(),
        state: SegmentState::Cut,
        kind: SegmentKind::Live,
        event_count: tally.event_count,
        has_sections: tally.section_count > 0,
        compacted: None,
    }))
}
