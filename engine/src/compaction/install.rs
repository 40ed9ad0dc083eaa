//! A container into the store: its file, then the manifest that lists it, then it takes the segment's place.

use std::io::IoSlice;
use std::sync::Arc;

use annals_format::manifest::{CompactedEntry, Manifest, SegmentEntry};
use annals_format::segment::SegmentKind;

use super::rewrite::Made;
use crate::compacted::name_of;
use crate::error::Error;
use crate::prepare::{container_of, no_room, segment_file_name, segment_number};
use crate::recovery::list;
use crate::segment::Segment;
use crate::storage::{Fill, Storage};
use crate::store::Inner;
use crate::{Result, manifest};

/// The segment that readers see of this entry.
pub(super) fn listed_segment(inner: &Inner, entry: &SegmentEntry) -> Option<Arc<Segment>> {
    let segments = inner.core.segments.load();
    segments.iter().find(|segment| segment.entry().is_some_and(|listed| listed == entry)).cloned()
}

/// The generation that the next container of this segment gets: no file ever had it.
pub(super) fn next_generation(inner: &Inner, entry: &SegmentEntry) -> Result<u64> {
    let names = list(&*inner.storage)?;
    let of_segment = names.iter().filter_map(|name| container_of(name)).filter(|(number, _)| *number == entry.number);
    Ok(of_segment.map(|(_, generation)| generation).max().unwrap_or(0).max(entry.generation) + 1)
}

/// Writes the container and puts it in the segment's place; answers what could not be cleaned up.
pub(super) fn install(
    inner: &Inner,
    segment: &Arc<Segment>,
    entry: &SegmentEntry,
    made: &Made,
    removed_upto: u64,
) -> Result<Option<String>> {
    let storage = &*inner.storage;
    let name = segment_file_name(entry.number, made.header.generation);
    let root = write(storage, &name, made)?;
    let listed = SegmentEntry {
        generation: made.header.generation,
        kind: SegmentKind::Compacted,
        compacted: Some(CompactedEntry {
            file_len: made.header.file_len,
            removed_upto,
            removed_count: made.removed_count,
            content_checksum: made.header.content_checksum,
            root,
        }),
        ..entry.clone()
    };
    let retire = || inner.retired.remove(storage, name_of(entry));
    let too_early = cfg!(annals_plant = "compaction-unlinks-first").then(retire);
    if let Err(error) = list_anew(inner, entry, listed.clone()) {
        remove_unlisted(inner, &name);
        return Err(error);
    }
    inner.preparer.give_back(entry.file_len().saturating_sub(listed.file_len()));
    let fresh = Arc::new(segment.replaced_by(&listed, name, &inner.core.cache));
    inner.core.replace_segment(segment, &fresh);
    // Who reads the old one keeps it for as long as that takes; what only stands by does not.
    segment.let_go();
    Ok(too_early.unwrap_or_else(retire))
}

/// The manifest that says that removals up to `removed_upto` were looked at, where they concern nothing in the segment.
pub(super) fn note_looked_at(inner: &Inner, entry: &SegmentEntry, removed_upto: u64) -> Result<()> {
    let Some(container) = entry.compacted else { return Ok(()) };
    let listed = SegmentEntry { compacted: Some(CompactedEntry { removed_upto, ..container }), ..entry.clone() };
    let Some(segment) = listed_segment(inner, entry) else { return Ok(()) };
    list_anew(inner, entry, listed.clone())?;
    let fresh = Arc::new(segment.replaced_by(&listed, name_of(&listed), &inner.core.cache));
    inner.core.replace_segment(&segment, &fresh);
    Ok(())
}

/// Writes the container's file beside, syncs it, and gives it its name durably. After an error no such file counts.
fn write(storage: &dyn Storage, name: &str, made: &Made) -> Result<u32> {
    let beside = format!("{name}.new");
    let _ = storage.remove(&beside);
    let (parts, header, root) = made.parts();
    let written = (|| {
        let file = storage.create(&beside, made.header.file_len, Fill::Allocated)?;
        let mut slices = vec![IoSlice::new(&header)];
        slices.extend(parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)));
        file.write_at(0, &slices)?;
        file.sync()
    })();
    if let Err(error) = written {
        let _ = storage.remove(&beside);
        return Err(no_room(&beside, error));
    }
    storage.rename(&beside, name).map_err(Error::io("rename", name))?;
    storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
    Ok(root)
}

/// Removes a container whose manifest could not be written, unless a part of that failure may have left it there.
fn remove_unlisted(inner: &Inner, name: &str) {
    let next = inner.sealing.lock().manifest.generation + 1;
    let is_there = |names: Vec<String>| names.contains(&manifest::file_name(next));
    if !list(&*inner.storage).map_or(true, is_there) {
        let _ = inner.storage.remove(name);
    }
}

/// Puts another entry in the place of one, in a manifest of the next generation.
fn list_anew(inner: &Inner, before: &SegmentEntry, after: SegmentEntry) -> Result<()> {
    let mut sealing = inner.sealing.lock();
    let mut next = sealing.manifest.clone();
    let Some(place) = next.segments.iter_mut().find(|entry| *entry == before) else {
        return Err(Error::corrupt(&name_of(before), 0, None, "the manifest does not list the segment any more"));
    };
    *place = after;
    next.generation += 1;
    next.next_segment = inner.preparer.next_number();
    if let Err(error) = manifest::save(&*inner.storage, &next) {
        return Err(match error {
            Error::Io { file, source, .. } => no_room(&file, source),
            other => other,
        });
    }
    inner.preparer.set_manifest_generation(next.generation);
    sealing.manifest = next;
    Ok(())
}

/// Removes files that compaction left, or was making when it was cut short: containers and segments in a generation that the
/// manifest does not list. What cannot be removed stays for the next opening.
pub(crate) fn remove_superseded(storage: &dyn Storage, names: &[String], manifest: &Manifest) {
    let listed = |number: u64| manifest.segments.binary_search_by_key(&number, |entry| entry.number).ok();
    let is_superseded = |name: &str| {
        let whole = name.strip_suffix(".new").unwrap_or(name);
        match (container_of(whole), segment_number(name)) {
            (Some(_), _) if whole != name => true,
            (Some((number, generation)), _) => {
                listed(number).is_none_or(|at| manifest.segments[at].generation != generation)
            }
            (None, Some((number, false))) => listed(number).is_some_and(|at| manifest.segments[at].generation > 0),
            _ => false,
        }
    };
    for name in names.iter().filter(|name| is_superseded(name)) {
        let _ = storage.remove(name);
    }
}
