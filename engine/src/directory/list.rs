//! All files of a store's directory.

use std::sync::Arc;

use annals_format::index_manifest::DirectoryEntry;
use annals_format::manifest::{Manifest, SegmentEntry};
use annals_format::tier::covered_checksum;

use super::StreamTip;
use super::file::{DirectoryFile, directory_name};
use crate::Result;
use crate::error::Error;
use crate::options::ReadMode;
use crate::storage::Storage;
use crate::tiers::Expected;

/// The files, oldest first: the first begins at position 1, each other one where the one before ends. Replaced as a whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    files: Arc<[Arc<DirectoryFile>]>,
}

/// Segments with records after `after` and up to `until`, if they are just these positions.
pub(super) fn covered(segments: &[SegmentEntry], after: u64, until: u64) -> Option<&[SegmentEntry]> {
    let from = segments.partition_point(|segment| segment.last_position <= after);
    let to = segments.partition_point(|segment| segment.first_position <= until);
    // A segment without a record may stand at either end: it is part of what comes later.
    let covered = segments.get(from..to)?;
    let is_exact = covered.first()?.first_position == after + 1 && covered.last()?.last_position == until;
    is_exact.then_some(covered)
}

/// What a file of these segments must say of itself. Segments without a record do not count.
pub(super) fn expected(store: &Manifest, covered: &[SegmentEntry]) -> Expected {
    let with_records = covered.iter().filter(|segment| segment.last_position >= segment.first_position);
    Expected {
        store: store.store,
        name_hash_seed: store.name_hash_seed,
        final_checksum: covered_checksum(with_records.map(|segment| segment.final_checksum)),
    }
}

impl Directory {
    /// Oldest first, each beginning where the one before ends.
    pub(crate) fn new(files: Vec<Arc<DirectoryFile>>) -> Self {
        debug_assert!(files.windows(2).all(|pair| pair[1].first_position() == pair[0].entry().coverage + 1));
        Self { files: files.into() }
    }

    /// The files that an index manifest names, as far as they are there, in order, and of segments that the store lists;
    /// and why the next one is not, if it is not. Nothing of them is read.
    pub(crate) fn listed(
        storage: &dyn Storage,
        entries: &[DirectoryEntry],
        store: &Manifest,
        mode: ReadMode,
    ) -> (Self, Option<Error>) {
        let mut files = Vec::with_capacity(entries.len());
        let mut coverage = 0;
        for entry in entries {
            let file = match covered(&store.segments, coverage, entry.coverage) {
                Some(segments) => DirectoryFile::listed(storage, entry, coverage + 1, expected(store, segments), mode),
                None => {
                    let what = "the positions it covers are not those of the manifest's segments";
                    Err(Error::corrupt(&directory_name(entry.number), 80, None, what))
                }
            };
            match file {
                Ok(file) => files.push(Arc::new(file)),
                Err(error) => return (Self::new(files), Some(error)),
            }
            coverage = entry.coverage;
        }
        (Self::new(files), None)
    }

    /// All files, broken ones too.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<DirectoryFile>> + ExactSizeIterator {
        self.files.iter()
    }

    /// Those that can be asked: up to the first that is broken.
    #[inline]
    pub(crate) fn sound(&self) -> &[Arc<DirectoryFile>] {
        let count = self.files.iter().take_while(|file| !file.is_broken()).count();
        &self.files[..count]
    }

    /// Whether there is something to drop.
    pub(crate) fn is_broken(&self) -> bool {
        self.files.iter().any(|file| file.is_broken())
    }

    /// The position as of which the directory holds; 0 if there is none.
    #[inline]
    pub(crate) fn coverage(&self) -> u64 {
        coverage(self.sound())
    }
}

/// The position as of which these files hold.
#[inline]
pub(crate) fn coverage(sound: &[Arc<DirectoryFile>]) -> u64 {
    sound.last().map_or(0, |file| file.entry().coverage)
}

/// Begins to load what [`find`] will look at in each of them. Verifies nothing, opens nothing.
#[inline]
pub(crate) fn prefetch(sound: &[Arc<DirectoryFile>], hash: u64) {
    sound.iter().rev().for_each(|file| file.prefetch(hash));
}

/// Begins to load what [`prefetch`] will look at.
#[inline]
pub(crate) fn prefetch_first(sound: &[Arc<DirectoryFile>], hash: u64) {
    sound.iter().for_each(|file| file.prefetch_first(hash));
}

/// The last event of a stream in these files, that were sound.
///
/// # Errors
/// `Corrupt` or `Io` if what must be read is damaged: then one of them is broken now. `Unsupported`.
#[inline]
pub(crate) fn find(sound: &[Arc<DirectoryFile>], hash: u64, stream: &str) -> Result<Option<StreamTip>> {
    for file in sound.iter().rev() {
        if let Some(tip) = file.find(hash, stream)? {
            return Ok(Some(tip));
        }
    }
    Ok(None)
}
