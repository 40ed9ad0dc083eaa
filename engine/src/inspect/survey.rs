//! What all inspections begin with: the files, the newest manifest that can be read, the end of the log.

use std::io;
use std::sync::Arc;

use annals_format::manifest::Manifest;
use annals_format::mark::Mark;

use crate::Result;
use crate::error::Error;
use crate::manifest;
use crate::mark::MarkFile;
use crate::name::NameHash;
use crate::prepare::{is_container_name, segment_number, segment_numbers};
use crate::recovery::list;
use crate::recovery::ring_image::RingImage;
use crate::recovery::scan::{Scanner, Tail};
use crate::storage::{Access, Fill, LockError, LockGuard, Storage, StorageFile};

/// A storage through which nothing can be changed.
#[derive(Debug)]
pub(super) struct Unchanged<'a>(pub(super) &'a dyn Storage);

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "an inspection changes nothing")
}

impl Storage for Unchanged<'_> {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn open(&self, name: &str, _: Access) -> io::Result<Arc<dyn StorageFile>> {
        self.0.open(name, Access::Read)
    }

    fn create(&self, _: &str, _: u64, _: Fill) -> io::Result<Arc<dyn StorageFile>> {
        Err(refused())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(refused())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(refused())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Err(refused())
    }

    fn lock(&self) -> Result<LockGuard, LockError> {
        Err(LockError::Io(refused()))
    }

    fn map_is_shared(&self) -> bool {
        self.0.map_is_shared()
    }
}

/// How often a store that is being written is looked at again.
pub(super) const AGAIN: usize = 3;

/// What `look` answers of the files and of the end of the log, of one moment: a writer at work may take files away while they
/// are looked at, or be found further on in the segment after the one whose end was seen. Then we look again.
///
/// # Errors
/// As [`Survey::new`], and those of `look`.
pub(super) fn of_one_moment<T>(
    storage: &dyn Storage,
    mut look: impl FnMut(&mut Survey, Option<Result<End>>) -> Result<T>,
) -> Result<T> {
    let (mut left, mut short_before) = (AGAIN, None);
    loop {
        let mut survey = Survey::new(storage)?;
        let end = survey.manifest().map(|manifest| End::find(storage, manifest, &survey.numbers));
        let short = match &end {
            Some(Ok(end)) => Some((end.tail.last_position, end.known_durable())).filter(|(last, known)| last < known),
            _ => None,
        };
        let found = look(&mut survey, end);
        // Short by the same twice, it is damaged.
        let is_settled = short.is_none() || short == short_before;
        if left == 0 || is_settled && !survey.has_gone(storage) {
            return found;
        }
        (left, short_before) = (left - 1, short);
    }
}

/// The store's files at a glance.
pub(super) struct Survey {
    pub(super) names: Vec<String>,
    /// Every manifest, newest first, with what reading it answered.
    pub(super) manifests: Vec<(u64, Result<Manifest>)>,
    /// Numbers of the segment files, ascending.
    pub(super) numbers: Vec<u64>,
}

impl Survey {
    /// # Errors
    /// `NotAStore` if no file of the directory is one of a store; `Io` for the directory.
    pub(super) fn new(storage: &dyn Storage) -> Result<Self> {
        let mut gone_before = None;
        loop {
            let survey = Self::glance(storage)?;
            let gone = survey.newest_is_gone();
            // A writer removes manifests that it has replaced. It ends: each glance finds a newer one.
            if gone <= gone_before {
                return Ok(survey);
            }
            gone_before = gone;
        }
    }

    fn glance(storage: &dyn Storage) -> Result<Self> {
        let mut names = list(storage)?;
        names.sort_unstable();
        let mut generations: Vec<u64> = names.iter().filter_map(|name| manifest::generation_of(name)).collect();
        generations.sort_unstable_by(|a, b| b.cmp(a));
        let numbers = segment_numbers(&names);
        if generations.is_empty() && numbers.is_empty() {
            let reason = "it holds neither a manifest nor a segment".to_owned();
            return Err(Error::NotAStore { path: "the directory".to_owned(), reason });
        }
        let manifests = generations.into_iter().map(|g| (g, manifest::load(storage, g))).collect();
        Ok(Self { names, manifests, numbers })
    }

    /// Generation of the newest manifest, if it was listed and is not there any more.
    fn newest_is_gone(&self) -> Option<u64> {
        let is_gone =
            |error: &Error| matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
        let (generation, newest) = self.manifests.first()?;
        newest.as_ref().err().is_some_and(is_gone).then_some(*generation)
    }

    /// Whether files of segments that were listed are not there any more.
    fn has_gone(&self, storage: &dyn Storage) -> bool {
        let Ok(mut now) = list(storage) else { return false };
        now.sort_unstable();
        let is_of_segment = |name: &String| segment_number(name).is_some() || is_container_name(name);
        self.names.iter().any(|name| is_of_segment(name) && now.binary_search(name).is_err())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
    }

    /// The newest manifest that verifies; after damage that may not be the newest there was.
    pub(super) fn manifest(&self) -> Option<&Manifest> {
        self.manifests.iter().find_map(|(_, manifest)| manifest.as_ref().ok())
    }
}

/// The end of the log beyond the manifest, not judged.
pub(super) struct End {
    pub(super) mark: Option<Mark>,
    pub(super) tail: Tail,
}

impl End {
    /// Scans what no manifest lists. Mark and ring are used as far as they verify.
    pub(super) fn find(storage: &dyn Storage, manifest: &Manifest, numbers: &[u64]) -> Result<Self> {
        let mark = MarkFile::read(storage).ok().and_then(|found| found.newest);
        let ring = RingImage::read(storage, manifest.store).ok().and_then(Result::ok);
        let newest = manifest.incarnations.last().map(|entry| entry.incarnation);
        let usable = ring.as_ref().filter(|ring| Some(ring.header.incarnation) == newest);
        let hash = NameHash { seed: manifest.name_hash_seed };
        let tail = Scanner { storage, manifest, hash, ring: usable, numbers }.scan()?;
        Ok(Self { mark: mark.filter(|mark| mark.store == manifest.store), tail })
    }

    pub(super) fn known_durable(&self) -> u64 {
        self.tail.durable_upto.max(self.mark.as_ref().map_or(0, |mark| mark.position))
    }

    /// Whether the mark says that all was synced, and is right.
    pub(super) fn is_clean(&self) -> bool {
        crate::recovery::is_clean(self.mark.as_ref(), &self.tail)
    }
}
