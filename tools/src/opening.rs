//! Opening stores, with the answers a person at a prompt needs.

use std::io;
use std::path::Path;

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
    Ok(store)
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
