//! Upgrade: a store of an earlier format version, made anew beside in the newest one.
//!
//! Each version has one step, which takes a file of the version before to it; a file goes through all steps from its own
//! version on. A file of the newest version is copied as it is. The old store is only read: whoever wants it back has it.
//!
//! The new store is the same store: it keeps id and incarnations, so that checkpoints and consumers go on in it. Only one of
//! the two may be written from then on.

use std::io::IoSlice;
use std::path::Path;

use annals_format::FORMAT_VERSION;
use annals_format::checksum::crc;

use crate::Result;
use crate::error::Error;
use crate::fork::in_directory;
use crate::founding::{Founding, not_made};
use crate::inspect::{Severity, is_kept_file, store_info, verify_in};
use crate::manifest::{self, generation_of};
use crate::options::directory;
use crate::recovery::list;
use crate::storage::{Access, Fill, LOCK_NAME, Storage};

/// How a store is upgraded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpgradeOptions {
    dry_run: bool,
}

impl UpgradeOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only says what would be done, and writes nothing.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// What an upgrade did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpgradeReport {
    /// The earliest format version of a file.
    pub from: u32,
    /// The format version that all files have in the new store.
    pub to: u32,
    /// Files taken over.
    pub files: u64,
    /// Of these, files of an earlier version, which were written anew.
    pub rewritten_files: u64,
    /// Bytes of the new store.
    pub bytes: u64,
    /// Events, verified before they were taken over.
    pub events: u64,
    /// Position of the last record.
    pub head: u64,
}

impl UpgradeReport {
    /// Whether every file was of the newest version before.
    pub fn was_current(&self) -> bool {
        self.rewritten_files == 0
    }
}

/// Takes a file of one format version to the next.
struct Step {
    from: u32,
    /// Name and content of a file of version `from`; its content in the next version.
    rewrite: fn(&str, Vec<u8>) -> Result<Vec<u8>>,
}

/// One for each version but the newest, oldest first.
const STEPS: &[Step] = &[];

/// Segments are as long as this at most, and no file is longer.
const FILE_LEN_MAX: u64 = 1 << 40;
/// So much is copied at once.
const CHUNK: usize = 1 << 20;

/// Makes a new store in `target`, which must not exist or be empty, of the store in `path`, which stays as it is: with every
/// file in the newest format version. The store is verified first, and what is written is read back. Files that are of the
/// newest version already are copied as they are. `progress` is told how many bytes are done, and of how many.
///
/// Takes memory for the longest file that must be written anew. Cut short, it leaves a directory that is no store; the same
/// call finishes it.
///
/// # Errors
/// `Unsupported` if a later version wrote the store; `Corrupt` if anything in it is damaged: then see [`crate::repair`];
/// `Locked` while another process writes it; `NotAStore`; `Occupied` if `target` holds anything; `NoSpace`, `Io`.
///
/// ```
/// use annals::upgrade::{UpgradeOptions, upgrade};
/// use annals::{Expect, NewEvent, Store};
/// # fn main() -> annals::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path();
/// let store = Store::open(path.join("shop"))?;
/// store.append("order-1", Expect::Any, &[NewEvent::new("Placed", b"")])?;
/// store.close()?;
/// let report = upgrade(path.join("shop"), path.join("newer"), &UpgradeOptions::new(), &mut |_, _| {})?;
/// assert!(report.was_current()); // there is one version so far
/// assert_eq!(Store::open(path.join("newer"))?.head(), 1);
/// # Ok(())
/// # }
/// ```
pub fn upgrade(
    path: impl AsRef<Path>,
    target: impl AsRef<Path>,
    options: &UpgradeOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<UpgradeReport> {
    let path = path.as_ref();
    let source = directory(path, false)?;
    let check_writer = || match store_info(path)?.writer_pid {
        Some(pid) => Err(Error::Locked { pid: Some(pid) }),
        None => Ok(()),
    };
    check_newest_manifest(&source)?;
    check_writer()?;
    in_directory(target.as_ref(), options.dry_run, |target| {
        let target = target.filter(|_| !options.dry_run);
        // A writer that came meanwhile is met before the new store is one.
        run(&source, target, STEPS, FORMAT_VERSION, &check_writer, progress)
    })
}

/// As [`upgrade`], from and into any storage; whether anybody writes the store is not asked.
///
/// # Errors
/// As there.
pub fn upgrade_in(source: &dyn Storage, target: &dyn Storage, options: &UpgradeOptions) -> Result<UpgradeReport> {
    check_newest_manifest(source)?;
    let target = (!options.dry_run).then_some(target);
    run(source, target, STEPS, FORMAT_VERSION, &|| Ok(()), &mut |_, _| {})
}

/// Says clearly that a store is of a later version, or none.
fn check_newest_manifest(source: &dyn Storage) -> Result<()> {
    match manifest::load_newest(source, &list(source)?)? {
        Some(_) => Ok(()),
        None => Err(Error::NotAStore { path: "the directory".to_owned(), reason: "it has no manifest".to_owned() }),
    }
}

/// A file of the store.
struct Piece {
    name: String,
    len: u64,
    version: u32,
}

fn run(
    source: &dyn Storage,
    target: Option<&dyn Storage>,
    steps: &[Step],
    newest: u32,
    check_writer: &dyn Fn() -> Result<()>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<UpgradeReport> {
    let pieces = pieces_of(source, newest)?;
    let report = verify_in(source, &mut |done, total| progress(done / 2, total))?;
    let later = |file: &str| pieces.iter().find(|piece| piece.name == file && piece.version > newest);
    let is_later = |what: &str| what.contains("format version");
    if let Some(damage) = report.findings.iter().find(|finding| finding.severity == Severity::Damage) {
        // Of a later version is what says so under a checksum that is right.
        if let Some(piece) = later(&damage.file).filter(|_| is_later(&damage.what)) {
            return Err(unsupported(piece));
        }
        return Err(Error::corrupt(&damage.file, damage.offset, damage.position, damage.what.clone()));
    }
    if let Some(piece) = pieces.iter().find(|piece| piece.version > newest || piece.version == 0) {
        return Err(unsupported(piece));
    }
    let total = pieces.iter().map(|piece| piece.len).sum::<u64>();
    let mut answer = UpgradeReport {
        from: pieces.iter().map(|piece| piece.version).min().unwrap_or(newest),
        to: newest,
        files: pieces.len() as u64,
        rewritten_files: pieces.iter().filter(|piece| piece.version < newest).count() as u64,
        bytes: total,
        events: report.events,
        head: report.head,
    };
    let Some(target) = target else { return Ok(answer) };
    let founding = Founding::begin(target)?;
    answer.bytes = 0;
    // The manifests come last: the newest is the moment of the store's birth.
    let (manifests, others): (Vec<Piece>, Vec<Piece>) =
        pieces.into_iter().partition(|piece| generation_of(&piece.name).is_some());
    for piece in &others {
        answer.bytes += take_over(source, target, piece, steps, newest)?;
        progress(total / 2 + answer.bytes / 2, total);
    }
    target.sync_dir().map_err(Error::io("sync", "the directory"))?;
    check_writer()?;
    for piece in manifests.iter().rev() {
        answer.bytes += take_over(source, target, piece, steps, newest)?;
        target.sync_dir().map_err(Error::io("sync", "the directory"))?;
    }
    founding.unmark();
    progress(total, total);
    Ok(answer)
}

fn unsupported(piece: &Piece) -> Error {
    let what = format!("format version {}", piece.version);
    Error::Unsupported { file: piece.name.clone(), what, written_by: 0 }
}

/// The files that make up the store, by name, each with its version. What is only of a process at work is not among them.
fn pieces_of(source: &dyn Storage, newest: u32) -> Result<Vec<Piece>> {
    let mut names = list(source)?;
    names.retain(|name| is_kept_file(name) && ![LOCK_NAME, "CONTROL"].contains(&name.as_str()));
    names.sort_unstable();
    let mut pieces = Vec::new();
    for name in names {
        let file = source.open(&name, Access::Read).map_err(Error::io("open", &name))?;
        let len = file.len().map_err(Error::io("measure", &name))?;
        let mut head = [0; 12];
        let got = file.read_at(0, &mut head).map_err(Error::io("read", &name))?;
        // A slot that was never written is zeros.
        let version = match head {
            head if got < head.len() || head == [0; 12] => newest,
            head => u32::from_le_bytes([head[8], head[9], head[10], head[11]]),
        };
        if len > FILE_LEN_MAX {
            return Err(Error::corrupt(&name, FILE_LEN_MAX, None, format!("the file is {len} bytes long")));
        }
        pieces.push(Piece { name, len, version });
    }
    Ok(pieces)
}

/// Writes a file into the new store, durably, and reads it back; answers its length there.
fn take_over(source: &dyn Storage, target: &dyn Storage, piece: &Piece, steps: &[Step], newest: u32) -> Result<u64> {
    let Piece { name, len, version } = piece;
    let file = source.open(name, Access::Read).map_err(Error::io("open", name))?;
    let rewritten = if *version < newest {
        let mut bytes = vec![0; *len as usize];
        let got = file.read_at(0, &mut bytes).map_err(Error::io("read", name))?;
        bytes.truncate(got);
        for step in steps.iter().filter(|step| step.from >= *version && step.from < newest) {
            bytes = (step.rewrite)(name, bytes)?;
        }
        Some(bytes)
    } else {
        None
    };
    let len = rewritten.as_ref().map_or(*len, |bytes| bytes.len() as u64);
    let beside = format!("{name}.new");
    let copy = target.create(&beside, len, Fill::Allocated).map_err(not_made(&beside))?;
    let mut written = 0;
    let mut checksum = 0;
    let mut chunk = vec![0; CHUNK];
    while written < len {
        let most = CHUNK.min((len - written) as usize);
        let bytes = match &rewritten {
            Some(bytes) => &bytes[written as usize..written as usize + most],
            None => {
                let got = file.read_at(written, &mut chunk[..most]).map_err(Error::io("read", name))?;
                if got < most {
                    return Err(Error::corrupt(name, written + got as u64, None, "the file ends here"));
                }
                &chunk[..most]
            }
        };
        checksum = crc(checksum, bytes);
        copy.write_at(written, &[IoSlice::new(bytes)]).map_err(not_made(&beside))?;
        written += most as u64;
    }
    copy.sync().map_err(Error::io("sync", &beside))?;
    let (mut read, mut found) = (0, 0);
    while read < len {
        let most = CHUNK.min((len - read) as usize);
        let got = copy.read_at(read, &mut chunk[..most]).map_err(Error::io("read", &beside))?;
        if got < most {
            break;
        }
        found = crc(found, &chunk[..most]);
        read += most as u64;
    }
    if (read, found) != (len, checksum) {
        return Err(Error::corrupt(&beside, read, None, "it does not hold what was written to it"));
    }
    target.rename(&beside, name).map_err(Error::io("rename", name))?;
    Ok(len)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::Memory;
    use crate::{Expect, NewEvent, Options, Query, Seek};

    fn store() -> Memory {
        let memory = Memory::new();
        let store = Options::new().background(false).open_storage(Arc::new(memory.clone())).unwrap();
        for number in 0..50_u8 {
            store.append("a", Expect::Any, &[NewEvent::new("T", &[number])]).unwrap();
        }
        store.close().unwrap();
        memory
    }

    fn bytes_of(storage: &dyn Storage, name: &str) -> Vec<u8> {
        manifest::read_whole(storage, name, FILE_LEN_MAX).unwrap()
    }

    #[test]
    fn a_store_of_the_newest_version_is_copied_as_it_is() {
        let (source, target) = (store(), Memory::new());
        let planned = upgrade_in(&source, &target, &UpgradeOptions::new().dry_run(true)).unwrap();
        assert!(target.list().unwrap().is_empty());
        let report = upgrade_in(&source, &target, &UpgradeOptions::new()).unwrap();
        assert_eq!(report, planned);
        assert!(report.was_current() && report.events == 50 && report.head == 50, "{report:?}");
        let mut names = source.list().unwrap();
        names.retain(|name| ![LOCK_NAME, "CONTROL"].contains(&name.as_str()));
        for name in &names {
            assert_eq!(bytes_of(&source, name), bytes_of(&target, name), "{name}");
        }
        let again = upgrade_in(&source, &target, &UpgradeOptions::new());
        assert!(matches!(again, Err(Error::Occupied { .. })), "{again:?}");
        let store = Options::new().background(false).open_storage(Arc::new(target)).unwrap();
        assert!(store.recovery_report().clean && store.recovery_report().rebuilt_indexes.is_empty());
        assert_eq!(store.reader().read_all(&Query::all(), Seek::Beginning).unwrap().count(), 50);
    }

    #[test]
    fn damage_is_named_and_a_later_version_refused() {
        let source = store();
        let segment = source.list().unwrap().into_iter().find(|name| name.ends_with(".log")).unwrap();
        let file = source.open(&segment, Access::ReadWrite).unwrap();
        let at = 4096 + 200;
        let mut byte = [0];
        file.read_at(at, &mut byte).unwrap();
        file.write_at(at, &[IoSlice::new(&[byte[0] ^ 1])]).unwrap();
        let damaged = upgrade_in(&source, &Memory::new(), &UpgradeOptions::new());
        assert!(matches!(&damaged, Err(Error::Corrupt(corrupt)) if corrupt.file == segment), "{damaged:?}");
        file.write_at(at, &[IoSlice::new(&byte)]).unwrap();
        let refused = run(&source, Some(&Memory::new()), &[], 0, &|| Ok(()), &mut |_, _| {});
        assert!(matches!(&refused, Err(Error::Unsupported { what, .. }) if what == "format version 1"), "{refused:?}");
        let none = upgrade_in(&Memory::new(), &Memory::new(), &UpgradeOptions::new());
        assert!(matches!(none, Err(Error::NotAStore { .. })), "{none:?}");
    }

    /// A version 3 that nobody knows: each file goes through both steps, in order.
    #[test]
    fn an_earlier_version_goes_through_each_step() {
        fn version(mut bytes: Vec<u8>, from: u8) -> Result<Vec<u8>> {
            assert_eq!(bytes[8], from);
            bytes[8] += 1;
            bytes.push(from);
            Ok(bytes)
        }
        let steps = [
            Step { from: 1, rewrite: |_, bytes| version(bytes, 1) },
            Step { from: 2, rewrite: |_, bytes| version(bytes, 2) },
        ];
        let (source, target) = (store(), Memory::new());
        let report = run(&source, Some(&target), &steps, 3, &|| Ok(()), &mut |_, _| {}).unwrap();
        assert!((report.from, report.to) == (1, 3) && !report.was_current(), "{report:?}");
        for name in source.list().unwrap().iter().filter(|name| name.ends_with(".log")) {
            let (old, new) = (bytes_of(&source, name), bytes_of(&target, name));
            assert_eq!((new[8], &new[old.len()..]), (3, &[1, 2][..]), "{name}");
        }
    }

    #[test]
    fn a_writer_that_comes_meanwhile_is_met_before_there_is_a_store() {
        let (source, target) = (store(), Memory::new());
        let came = || Err(Error::Locked { pid: None });
        let met = run(&source, Some(&target), STEPS, FORMAT_VERSION, &came, &mut |_, _| {});
        assert!(matches!(met, Err(Error::Locked { .. })), "{met:?}");
        let names = target.list().unwrap();
        assert!(names.iter().all(|name| generation_of(name).is_none()), "{names:?}");
        // The same call finishes it.
        upgrade_in(&source, &target, &UpgradeOptions::new()).unwrap();
    }
}
