//! The writer's lock: an advisory lock of the system on a file of the store.
//!
//! The lock belongs to the open file, not to the process: it dies with its holder, two openings in one process
//! exclude each other, and the file itself may lie about for ever.

use std::fs::{File, TryLockError};
use std::io::IoSlice;
use std::time::Duration;

use super::super::{LOCK_NAME, LockError, LockGuard};
use super::system;

pub(super) fn take(dir: &system::Dir) -> Result<LockGuard, LockError> {
    let file = dir.open_or_create(LOCK_NAME)?;
    match file.try_lock() {
        Ok(()) => {
            let guard = Guard(file);
            note_holder(&guard.0);
            Ok(Box::new(guard))
        }
        Err(TryLockError::WouldBlock) => Err(LockError::Held { pid: read_holder(&file) }),
        Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
    }
}

/// How often the lock that shows a writer is tried: whoever asks holds it for an instant.
const SHOW_TRIES: u32 = 100;

/// Holds a lock on the file `name` that [`is_shown`] finds taken. It excludes nobody.
pub(super) fn show(dir: &system::Dir, name: &str) -> Option<LockGuard> {
    let file = dir.open_regular(name, true).ok()?.0;
    for _ in 0..SHOW_TRIES {
        match file.try_lock() {
            Ok(()) => return Some(Box::new(Guard(file))),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(100)),
            Err(TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// Whether somebody holds the lock that [`show`] takes. Those who ask share it and do not see each other.
pub(super) fn is_shown(dir: &system::Dir, name: &str) -> Option<bool> {
    let file = dir.open_regular(name, false).ok()?.0;
    match file.try_lock_shared() {
        Ok(()) => {
            drop(Guard(file));
            Some(false)
        }
        Err(TryLockError::WouldBlock) => Some(true),
        Err(TryLockError::Error(_)) => None,
    }
}

struct Guard(File);

impl Drop for Guard {
    fn drop(&mut self) {
        // Closing is not enough: a process being started by another thread holds the file until its exec.
        drop(self.0.unlock());
    }
}

/// Writes who holds the lock. That is a courtesy to the one who is refused: on a full disk the lock still holds.
fn note_holder(file: &File) {
    let text = format!("{:<11}\n", std::process::id());
    if system::check_file_size(text.len() as u64).is_ok() {
        drop(system::write_all_at(file, 0, &[IoSlice::new(text.as_bytes())]));
    }
}

fn read_holder(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let count = system::read_at(file, 0, &mut text).ok()?;
    std::str::from_utf8(&text[..count]).ok()?.trim().parse().ok()
}
