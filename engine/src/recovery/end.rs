//! The end of the log, judged: what was known durable, and whether the whole batches reach it.

use annals_format::manifest::Manifest;
use annals_format::mark::Mark;
use annals_format::segment::SEGMENT_HEADER_LEN;

use super::ring_image::{RING_NAME, RingImage};
use super::scan::{Scanner, Stop, Tail};
use crate::error::Error;
use crate::mark::{MARK_NAME, MarkFile};
use crate::name::NameHash;
use crate::prepare::segment_name;
use crate::storage::Storage;
use crate::{Result, manifest};

/// The end of the log, judged: shared by recovery and read-only openings.
pub(crate) struct Found {
    pub(crate) tail: Tail,
    pub(crate) mark: Option<Mark>,
    pub(crate) ring: Option<RingImage>,
    /// The last position that is known to have been synced.
    pub(crate) known_durable: u64,
    pub(crate) notices: Vec<String>,
    /// As [`crate::mark::FoundMark`] has it.
    pub(super) doubt: Option<(u64, String)>,
}

/// A mark that cannot be read any more may have said that more is durable than is known: the durable view would be shorter
/// than what was answered, and nothing would say so. Opening for writing makes all of it durable.
#[derive(Clone, Debug)]
pub(crate) struct Doubt {
    offset: u64,
    /// The last position that is known to be durable.
    known: u64,
    what: String,
}

impl Doubt {
    /// What is answered to who asks for what is durable.
    pub(crate) fn error(&self) -> Error {
        Error::corrupt(MARK_NAME, self.offset, Some(self.known + 1), self.what.clone())
    }
}

impl Found {
    /// Whether events stand behind what is known durable, and a mark that said more may have been lost.
    pub(crate) fn doubt(&self) -> Option<Doubt> {
        let (known, last) = (self.known_durable, self.tail.last_position);
        let (offset, sign) = self.doubt.as_ref().filter(|_| known < last)?;
        let what = format!(
            "{sign}, so of the events behind position {known}, up to {last}, it is not known whether they were durable; \
             opening for writing keeps them all, and the written view shows them"
        );
        Some(Doubt { offset: *offset, known, what })
    }

    /// `Corrupt` if there is [doubt](Found::doubt).
    pub(crate) fn refuse_doubt(&self) -> Result<()> {
        self.doubt().map_or(Ok(()), |doubt| Err(doubt.error()))
    }
}

/// Reads mark, ring and the unlisted segments, and refuses damage below what was known durable.
pub(crate) fn find_end(storage: &dyn Storage, manifest: &Manifest, numbers: &[u64]) -> Result<Found> {
    let found_mark = MarkFile::read(storage)?;
    let mut notices = found_mark.notices;
    let mark = found_mark.newest;
    if let Some(mark) = &mark {
        if mark.store != manifest.store {
            return Err(Error::corrupt(MARK_NAME, 32, None, "the mark belongs to another store"));
        }
        if mark.manifest_generation > manifest.generation {
            let newest = manifest.generation;
            let what = format!("the file is missing: the mark names it, the newest there is has generation {newest}");
            return Err(Error::corrupt(&manifest::file_name(mark.manifest_generation), 0, None, what));
        }
    }
    let ring = match RingImage::read(storage, manifest.store)? {
        Ok(ring) => Some(ring),
        Err(notice) => {
            notices.push(notice);
            None
        }
    };
    // A ring of an earlier opening than the manifest's newest incarnation holds nothing of the live segment.
    let newest = manifest.incarnations.last().map(|entry| entry.incarnation);
    let usable = ring.as_ref().filter(|ring| Some(ring.header.incarnation) == newest);
    let hash = NameHash { seed: manifest.name_hash_seed };
    let tail = Scanner { storage, manifest, hash, ring: usable, numbers }.scan()?;
    for scanned in &tail.segments {
        if scanned.header.manifest_generation > manifest.generation {
            let what = format!("the file is missing: {} was begun under it", scanned.name);
            return Err(Error::corrupt(&manifest::file_name(scanned.header.manifest_generation), 0, None, what));
        }
    }
    // Compaction took out what these positions removed: they were durable then, also where a power cut took the mark back.
    let compacted_upto = manifest.segments.iter().filter_map(|entry| Some(entry.compacted?.removed_upto)).max();
    let marked = mark.as_ref().map_or(0, |mark| mark.position);
    let known_durable = tail.durable_upto.max(marked).max(compacted_upto.unwrap_or(0));
    if tail.last_position < known_durable {
        return Err(lost(&tail, manifest, mark.as_ref(), known_durable));
    }
    if let Some(mark) = mark.as_ref().filter(|mark| falls_short(&tail, mark, manifest)) {
        let told = format!("the log ends here, but was known to be durable up to byte {}", mark.offset);
        let (name, offset) = match tail.segments.last() {
            Some(last) if last.header.identity.segment == mark.segment => (last.name.clone(), last.end),
            _ => (segment_name(mark.segment), SEGMENT_HEADER_LEN as u64),
        };
        return Err(Error::corrupt(&name, offset, Some(tail.last_position + 1), told));
    }
    // An unclean mark of the newest incarnation was written after the ring of its opening was durable. Before that, no
    // commit of this incarnation can have been held by a ring.
    let had_ring = mark.as_ref().is_some_and(|mark| !mark.clean && Some(mark.incarnation) == newest);
    if usable.is_none() && had_ring {
        let what = "the ring cannot be used after an unclean end; commits that only it held would be lost";
        return Err(Error::corrupt(RING_NAME, 0, None, what));
    }
    Ok(Found { tail, mark, ring, known_durable, notices, doubt: found_mark.doubt })
}

/// Positions that were known durable are not there.
fn lost(tail: &Tail, manifest: &Manifest, mark: Option<&Mark>, known_durable: u64) -> Error {
    let position = tail.last_position + 1;
    let told = match &tail.stop {
        Stop::Torn(fault) => format!("{fault}; positions up to {known_durable} were known to be durable"),
        Stop::Clean | Stop::NoSuccessor | Stop::NoSegment => {
            format!("the log ends here, but positions up to {known_durable} were known to be durable")
        }
    };
    let (name, offset) = match (tail.segments.last(), mark) {
        (Some(last), _) => (last.name.clone(), last.end),
        (None, Some(mark)) => (segment_name(mark.segment), 0),
        (None, None) => (segment_name(manifest.segments.last().map_or(1, |entry| entry.number)), 0),
    };
    Error::corrupt(&name, offset, Some(position), told)
}

/// Whether the log ends before the place that the mark names, although all positions are there: then batches without a
/// position are missing. Of segments that recovery has ended since, the mark says nothing.
fn falls_short(tail: &Tail, mark: &Mark, manifest: &Manifest) -> bool {
    let newest = manifest.incarnations.last().map(|entry| entry.incarnation);
    let is_listed = manifest.segments.iter().any(|entry| entry.number == mark.segment);
    if is_listed || Some(mark.incarnation) != newest || mark.offset <= SEGMENT_HEADER_LEN as u64 {
        return false;
    }
    match tail.segments.last() {
        Some(last) if last.header.identity.segment == mark.segment => last.end < mark.offset,
        Some(last) => last.header.identity.segment < mark.segment,
        None => true,
    }
}

/// Whether the store was closed cleanly and its log ends just where the mark says.
pub(crate) fn is_clean(mark: Option<&Mark>, tail: &Tail) -> bool {
    let (Some(mark), Some(last)) = (mark, tail.segments.last()) else { return false };
    mark.clean
        && mark.segment == last.header.identity.segment
        && mark.offset == last.end
        && mark.position == tail.last_position
        && matches!(tail.stop, Stop::Clean)
        && last.end_mark.is_none()
        && last.from_ring.is_none()
        && tail.beyond.is_empty()
}
