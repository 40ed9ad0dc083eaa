//! Opening stores, with the answers a person at a prompt needs.

use std::io;
use std::path::Path;
use std::sync::Mutex;

use annals::storage::{Disk, Storage};
use annals::{Options, ReadOnly, Store, View};

use crate::failure::{Code, Failure, on_one_line};
use crate::steps::Steps;

/// The file by which a writer shows itself.
const CONTROL: &str = "CONTROL";

/// For reading: no lock, no write, beside a writer or alone.
pub(crate) fn read_only(path: &Path) -> Result<ReadOnly, Failure> {
    read_only_in(path, None)
}

/// As [`read_only`], with the view asked for.
pub(crate) fn read_only_in(path: &Path, view: Option<View>) -> Result<ReadOnly, Failure> {
    must_exist(path)?;
    let about = |error| about(path, error);
    let options = view.map_or_else(Options::new, |view| Options::new().view(view));
    let mut store = options.open_read_only(path).map_err(about)?;
    // What a writer is in the midst of writing looks damaged. So only what stands without one is told, looked at anew: it
    // may have ended since.
    if (!store.notices().is_empty() || unsure_events(&store) > 0) && has_writer(path) != Some(true) {
        store.refresh().map_err(about)?;
        say_notices(store.notices());
        say_unsure(&store);
    }
    Ok(store)
}

/// Events of the written view that the one that is shown leaves out.
fn unsure_events(store: &ReadOnly) -> u64 {
    store.reader_in(View::Written).head().saturating_sub(store.reader().head())
}

/// After an unclean end the durable view may be shorter than what the next opening for writing keeps.
fn say_unsure(store: &ReadOnly) {
    let (count, head) = (unsure_events(store), store.reader().head());
    if count > 0 {
        eprintln!(
            "notice: not closed cleanly: positions {} to {} are not known to be durable and not shown; opening for writing keeps \
             them",
            head + 1,
            head + count
        );
    }
}

/// For writing; a missing or empty directory becomes a new store, which is said.
pub(crate) fn writable(path: &Path) -> Result<Store, Failure> {
    opened(path, Options::new()).map_err(|error| about(path, error))
}

/// As [`writable`], where no store is to be made.
pub(crate) fn writable_if_there(path: &Path) -> Result<Store, Failure> {
    must_exist(path)?;
    opened(path, Options::new().create(false)).map_err(|error| about(path, error))
}

fn opened(path: &Path, options: Options) -> annals::Result<Store> {
    let steps = Mutex::new(Steps::with_lines());
    let store = options.index_progress(move |done, all| steps.lock().expect("no panic").show(done, all)).open(path)?;
    say_what_opening_did(path, &store);
    Ok(store)
}

fn say_what_opening_did(path: &Path, store: &Store) {
    let report = store.recovery_report();
    if report.created {
        // What is odd about its files is that they are new.
        eprintln!("created store {}", path.display());
        return;
    }
    if !report.clean {
        eprintln!(
            "recovered {} after an unclean end: {} events kept, {} bytes cut",
            path.display(),
            report.kept_events,
            report.cut_bytes
        );
    }
    say_notices(&report.notices);
    match report.rebuilt_indexes.len() {
        0 => {}
        1 => eprintln!("made 1 index file anew"),
        n => eprintln!("made {n} index files anew"),
    }
}

/// Oddities that did no harm, a line each.
pub(crate) fn say_notices(notices: &[String]) {
    for notice in notices {
        eprintln!("notice: {}", on_one_line(notice));
    }
}

/// As [`writable`]; `None` where another process holds the store.
pub(crate) fn writable_unless_held(path: &Path) -> Result<Option<Store>, Failure> {
    match opened(path, Options::new()) {
        Ok(store) => Ok(Some(store)),
        Err(annals::Error::Locked { .. }) => Ok(None),
        Err(error) => Err(about(path, error)),
    }
}

/// Whether another process writes the store, as far as it shows; asking is in no writer's way.
pub(crate) fn is_held(path: &Path) -> Result<bool, Failure> {
    let disk = Disk::open(path).map_err(|error| Failure::input(path, &error))?;
    Ok(disk.has_writer(CONTROL) != Some(false))
}

/// As [`is_held`]; `None` where it does not show.
fn has_writer(path: &Path) -> Option<bool> {
    Disk::open(path).ok()?.has_writer(CONTROL)
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
