//! Backups: consistent copies of a store that is being written, each as small as what is new; and stores made from them.
//!
//! A backup is a directory of *pieces*, immutable files that each hold a range of one segment's bytes, and of *points*, each
//! of which names the pieces that made up the log at one moment. A point is written last, so whatever a run that was
//! interrupted leaves is passed over and used again. Nothing here needs more of a file system than files that are written
//! once, so the layout fits an object store. The bytes are described in `docs/backup-format.md`.

mod chain;
mod restore;
mod take;

use std::path::Path;

use crate::Result;
use crate::as_of::AsOf;
use crate::fork::{Source, in_directory};
use crate::founding::Sharing;
use crate::options::directory;
use crate::read_only::ReadOnly;
use crate::storage::Storage;
use crate::store::Store;

/// How a backup is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupOptions {
    pub(crate) sharing: Sharing,
    pub(crate) dry_run: bool,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self { sharing: Sharing::Copy, dry_run: false }
    }
}

impl BackupOptions {
    /// The default: everything is copied.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets ended segments share their blocks ([`Sharing::Reflink`]) or their files ([`Sharing::Any`]) with the store. Much
    /// quicker, and no protection against a disk that fails; with hard links none against damage to a file either.
    pub fn sharing(mut self, sharing: Sharing) -> Self {
        self.sharing = sharing;
        self
    }

    /// Only says what would be done, and writes nothing. What would be copied is read and verified.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// What a run of a backup did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// Number of the point.
    pub point: u64,
    /// Position of the last record in it; 0: none.
    pub head: u64,
    /// Nothing had changed since the point before, which is named instead of a new one.
    pub unchanged: bool,
    /// Pieces written by this run.
    pub new_pieces: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// Of the new pieces, those that share a file or its blocks with the store.
    pub shared_pieces: u64,
    /// Bytes of the point that the backup held already.
    pub kept_bytes: u64,
    /// What was not as it should be in the backup, and was made good.
    pub notices: Vec<String>,
}

/// One point of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PointInfo {
    /// Its number.
    pub number: u64,
    /// When it was taken: nanoseconds since 1970 UTC.
    pub taken_at: u64,
    /// Position of its last record; 0: none.
    pub head: u64,
    /// When its last batch was recorded: nanoseconds since 1970 UTC.
    pub last_time: u64,
    /// Bytes of its pieces.
    pub bytes: u64,
    /// Id of the store.
    pub store_id: [u8; 16],
}

impl Store {
    /// Adds a point to the backup in `dir`, which is made if it is not there. Everything appended before this call is in it;
    /// appends go on meanwhile. Copies only what the points before do not hold, and verifies it on the way.
    ///
    /// # Errors
    /// `Occupied` if `dir` holds anything but a backup of this store; `Locked` while another run is at work in it; `Corrupt`
    /// if what must be copied is damaged: nothing damaged comes into a backup; `Poisoned`, `NoSpace`, `Io`.
    ///
    /// ```
    /// use annals::backup::{self, RestoreOptions};
    /// use annals::{Expect, NewEvent, Store};
    /// # fn main() -> annals::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path();
    /// let store = Store::open(path.join("shop"))?;
    /// store.append("order-1", Expect::Any, &[NewEvent::new("Placed", b"")])?;
    /// store.backup(path.join("shop-backup"))?;
    /// backup::restore(path.join("shop-backup"), path.join("shop-again"), &RestoreOptions::new(), &mut |_, _| {})?;
    /// assert_eq!(Store::open(path.join("shop-again"))?.head(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<BackupReport> {
        self.backup_with(dir, &BackupOptions::new(), &mut |_, _| {})
    }

    /// As [`Store::backup`], with options. `progress` is told how many bytes of the log are done, and of how many.
    ///
    /// # Errors
    /// As there.
    pub fn backup_with(
        &self,
        dir: impl AsRef<Path>,
        options: &BackupOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<BackupReport> {
        self.holding_files(|| {
            let source = Source::of_store(self, AsOf::Head)?;
            in_directory(dir.as_ref(), options.dry_run, |target| take::take(&source, target, options, progress))
        })
    }

    /// As [`Store::backup`], into any storage.
    ///
    /// # Errors
    /// As there.
    pub fn backup_to_storage(&self, target: &dyn Storage, options: &BackupOptions) -> Result<BackupReport> {
        self.holding_files(|| take::take(&Source::of_store(self, AsOf::Head)?, Some(target), options, &mut |_, _| {}))
    }
}

impl ReadOnly {
    /// As [`Store::backup_with`], of what was durable at the last look, whoever writes the store.
    ///
    /// # Errors
    /// As there.
    pub fn backup_with(
        &self,
        dir: impl AsRef<Path>,
        options: &BackupOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<BackupReport> {
        Source::while_files_move(self, AsOf::Head, |source| {
            in_directory(dir.as_ref(), options.dry_run, |target| take::take(source, target, options, progress))
        })
    }

    /// As [`ReadOnly::backup_with`], into any storage.
    ///
    /// # Errors
    /// As there.
    pub fn backup_to_storage(&self, target: &dyn Storage, options: &BackupOptions) -> Result<BackupReport> {
        Source::while_files_move(self, AsOf::Head, |source| take::take(source, Some(target), options, &mut |_, _| {}))
    }
}

/// Every point of the backup in `dir`, oldest first, with what reading it answers.
///
/// # Errors
/// `NotAStore` if there is no such directory, `Io` if it cannot be listed. One point that is damaged is an error in its
/// place.
pub fn points(dir: impl AsRef<Path>) -> Result<Vec<(u64, Result<PointInfo>)>> {
    points_in(&directory(dir.as_ref(), false)?)
}

/// As [`points`], in any storage.
///
/// # Errors
/// As there.
pub fn points_in(storage: &dyn Storage) -> Result<Vec<(u64, Result<PointInfo>)>> {
    let numbers = chain::numbers(storage)?;
    Ok(numbers
        .into_iter()
        .map(|number| (number, chain::load(storage, number).map(|point| chain::info(&point))))
        .collect())
}

/// Which point is restored, and how much of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    pub(crate) point: Option<u64>,
    pub(crate) until: AsOf,
    pub(crate) dry_run: bool,
}

impl RestoreOptions {
    /// The default: all of the newest point.
    pub fn new() -> Self {
        Self::default()
    }

    /// The point with this number instead of the newest.
    pub fn point(mut self, number: u64) -> Self {
        self.point = Some(number);
        self
    }

    /// Only the history up to this moment.
    pub fn until(mut self, moment: AsOf) -> Self {
        self.until = moment;
        self
    }

    /// Reads and verifies everything that a restore needs, and writes nothing.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// What was restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Number of the point.
    pub point: u64,
    /// Position of the last record; 0: none.
    pub head: u64,
    /// Removals that the backup holds behind the moment, and the restored store therefore behind its events: what they took
    /// is not in it either.
    pub carried_removals: u64,
    /// When the last of the moment's records was recorded: nanoseconds since 1970 UTC.
    pub last_time: u64,
    /// Records, events and others.
    pub records: u64,
    /// Bytes that were read and verified.
    pub verified_bytes: u64,
}

/// Makes a new store in `target`, which must not exist or be empty, from a backup. Every byte is verified before it is
/// written. The store keeps its id and gets a new incarnation: who has seen more of it than was restored is told.
///
/// Interrupted, it leaves a directory that is no store; the same call finishes it.
///
/// # Errors
/// `NotAStore` if there is no such backup or point; `Corrupt` naming the file that is damaged or missing; `AheadOfLog` for a
/// moment beyond the point; `Occupied` if `target` holds anything; `Unsupported`, `NoSpace`, `Io`.
pub fn restore(
    backup: impl AsRef<Path>,
    target: impl AsRef<Path>,
    options: &RestoreOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<RestoreReport> {
    let backup = directory(backup.as_ref(), false)?;
    in_directory(target.as_ref(), options.dry_run, |target| restore::restore(&backup, target, options, progress))
}

/// As [`restore`], from and into any storage.
///
/// # Errors
/// As there.
pub fn restore_in(backup: &dyn Storage, target: &dyn Storage, options: &RestoreOptions) -> Result<RestoreReport> {
    restore::restore(backup, Some(target), options, &mut |_, _| {})
}
