//! Opening a store for writing: create it, or find where its log ends and make that end safe to go on from.
//!
//! After anything but a clean close nothing above the newest mark is trusted to be on disk, whatever the page cache
//! shows. The whole batches found there are written anew into a fresh segment and synced before anything is shown. The
//! new manifest is the moment at which recovery has happened; a crash before it leaves everything as it was.

mod create;
mod end;
mod follow;
mod image;
pub(crate) mod judge;
mod listed;
mod opening;
mod reencode;
mod reindex;
mod rescue;
pub(crate) mod ring_image;
pub(crate) mod scan;
mod session;
mod writer_memory;

use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_format::manifest::DurabilityKind;

use crate::append::Durability;
use crate::control::CONTROL_NAME;
use crate::error::Error;
use crate::options::Options;
use crate::prepare::no_room;
use crate::storage::{LockError, LockGuard, Storage};
use crate::store::{Inner, Store};
use crate::{Result, manifest};

pub(crate) use create::check_creatable;
pub(crate) use end::{Doubt, find_end, is_clean};
pub(crate) use follow::{Followed, LiveEnd};
pub(crate) use judge::{Continuation, Next};
pub(crate) use listed::{
    SegmentOpening, check_names, open_listed, open_listed_anew, open_listed_to_scan, rebuild_index_of, segment_entry,
};
pub(crate) use reencode::reencode;
pub(crate) use reindex::{index_batch, index_of};
pub(crate) use ring_image::RingBytes;

pub(crate) use writer_memory::load_ids;

use create::create;
use opening::Opening;

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The store was made by this opening.
    pub created: bool,
    /// The store had been closed cleanly.
    pub clean: bool,
    /// Batches above the newest mark that were found whole and written anew.
    pub kept_batches: u64,
    /// Events in them.
    pub kept_events: u64,
    /// Bytes of a torn tail that were left behind.
    pub cut_bytes: u64,
    /// Whole batches beyond a torn one: never acknowledged as durable, not kept.
    pub dropped_batches: u64,
    /// Index files that were made anew.
    pub rebuilt_indexes: Vec<String>,
    /// Files that no longer belong to the log and were put aside or removed.
    pub set_aside: Vec<String>,
    /// Oddities that did no harm, such as a mark slot that did not verify.
    pub notices: Vec<String>,
    /// How long opening took.
    pub duration: Duration,
}

pub(crate) fn open(storage: Arc<dyn Storage>, options: Options) -> Result<Store> {
    let (inner, lock) = open_without_threads(storage, options)?;
    Ok(Store::start(inner, lock))
}

/// All of opening but the start of the background threads.
pub(crate) fn open_without_threads(storage: Arc<dyn Storage>, options: Options) -> Result<(Inner, LockGuard)> {
    let begun = Instant::now();
    options.limits.check().map_err(|_| Error::invalid("limits that the format does not allow", None))?;
    let names = list(&*storage)?;
    let is_new = match manifest::load_newest(&*storage, &names) {
        Ok(found) => found.is_none(),
        // A writer at work has replaced it since the directory was listed: the lock will say so.
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if is_new {
        check_creatable(&*storage, &names, options.create)?;
    }
    let lock = storage.lock().map_err(lock_refused)?;
    let mut report = RecoveryReport::default();
    // Looked at again under the lock: another process may have been at work.
    let mut names = list(&*storage)?;
    let manifest = match manifest::load_newest(&*storage, &names)? {
        Some(manifest) => manifest,
        None => {
            check_creatable(&*storage, &names, options.create)?;
            report.created = true;
            let manifest = create(&*storage, &names, &options)?;
            names = list(&*storage)?;
            manifest
        }
    };
    let inner = Opening { storage: storage.clone(), options, manifest, report }.run(&names, begun)?;
    // Both go together.
    let shown = storage.show_writer(CONTROL_NAME);
    Ok((inner, Box::new((lock, shown))))
}

pub(crate) fn list(storage: &dyn Storage) -> Result<Vec<String>> {
    storage.list().map_err(Error::io("list", "the directory"))
}

pub(crate) fn lock_refused(error: LockError) -> Error {
    match error {
        LockError::Held { pid } => Error::Locked { pid },
        LockError::Io(source) if is_denied(&source) => Error::ReadOnly { reason: format!("LOCK: {source}") },
        LockError::Io(source) => no_room("LOCK", source),
        #[allow(unreachable_patterns, reason = "the enum may grow")]
        _ => Error::Locked { pid: None },
    }
}

pub(crate) fn is_denied(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem)
}

pub(crate) fn refuse_write(name: &str, error: std::io::Error) -> Error {
    if is_denied(&error) {
        return Error::ReadOnly { reason: format!("{name}: {error}") };
    }
    Error::io("write", name)(error)
}

pub(crate) fn durability(kind: DurabilityKind) -> Durability {
    match kind {
        DurabilityKind::Durable => Durability::Durable,
        DurabilityKind::Buffered => Durability::Buffered,
    }
}
