//! Opening stores, with the answers a person at a prompt needs.

use std::io;
use std::path::Path;

use annals::storage::{Disk, Storage};
use annals::{Options, ReadOnly, Store};

use crate::failure::{Code, Failure};

/// For reading: no lock, no write, beside a writer or alone.
pub(crate) fn read_only(path: &Path) -> Result<ReadOnly, Failure> {
    must_exist(path)?;
    Options::new().open_read_only(path).map_err(|error| about(path, error))
}

/// For writing; a missing or empty directory becomes a new store, which is said.
pub(crate) fn writable(path: &Path) -> Result<Store, Failure> {
    let store = Options::new().open(path).map_err(|error| about(path, error))?;
    say_what_opening_did(path, &store);
    Ok(store)
}

fn say_what_opening_did(path: &Path, store: &Store) {
    let report = store.recovery_report();
    if report.created {
        eprintln!("created store {}", path.display());
    } else if !report.clean {
        eprintln!(
            "recovered {} after an unclean end: {} events kept, {} bytes cut",
            path.display(),
            report.kept_events,
            report.cut_bytes
        );
    }
}

/// As [`writable`]; `None` where another process holds the store.
pub(crate) fn writable_unless_held(path: &Path) -> Result<Option<Store>, Failure> {
    match Options::new().open(path) {
        Ok(store) => {
            say_what_opening_did(path, &store);
            Ok(Some(store))
        }
        Err(annals::Error::Locked { .. }) => Ok(None),
        Err(error) => Err(about(path, error)),
    }
}

/// Whether another process writes the store, as far as it shows; asking is in no writer's way.
pub(crate) fn is_held(path: &Path) -> Result<bool, Failure> {
    let disk = Disk::open(path).map_err(|error| Failure::input(path, &error))?;
    Ok(disk.has_writer("CONTROL") != Some(false))
}

/// An error of the store at `path`.
pub(crate) fn about(path: &Path, error: annals::Error) -> Failure {
    Failure::from(error).at(&path.display().to_string())
}

/// `NotFound` if nothing is at `path`.
pub(crate) fn must_exist(path: &Path) -> Result<(), Failure> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::new(
            Code::NotFound,
            format!("no store at {}", path.display()),
            "check the path, or make a store with `annals import STORE FILE`",
        )),
        _ => Ok(()),
    }
}
