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
use crate::prepare::segment_numbers;
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
