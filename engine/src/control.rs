//! The control page (`CONTROL`): where the writer tells followers of other processes that there is more.
//!
//! A hint. The writer stores the durable head, then moves the turn (release), then wakes whoever sleeps on the turn: one
//! call to the system for each advance of the durable head, since followers cannot be counted. What `MARK` says is written
//! before that, so a follower that finds another turn (acquire) finds the mark as well, and goes by the mark alone. A page
//! that is missing, stale or forged costs a follower time and never a wrong answer: it looks by the clock as well.

mod futex;

use std::sync::atomic::Ordering;
use std::time::Duration;

use annals_format::Purpose;
use annals_format::control::{
    CONTROL_HEADER_LEN, CONTROL_LEN, ControlHeader, DURABLE_OFFSET, ENDED, OPEN, STATE_OFFSET, TURN_OFFSET,
};

use crate::publish::Announce;
use crate::storage::{Access, Fill, SharedMap, Storage};

pub(crate) const CONTROL_NAME: &str = "CONTROL";

/// The page as the writer has it.
#[derive(Debug)]
pub(crate) struct Control {
    page: SharedMap,
}

impl Control {
    /// Makes the page, or takes the one that is there, for the opening that `header` names, and announces `durable`.
    ///
    /// `None` where there can be none. What else stands in the way is a text: a store works without a page.
    pub(crate) fn open(storage: &dyn Storage, header: &ControlHeader, durable: u64) -> Result<Option<Self>, String> {
        if !storage.map_is_shared() {
            return Ok(None);
        }
        let page = match page_there(storage) {
            Ok(Some(page)) => Ok(page),
            Ok(None) => page_made(storage),
            Err(error) => Err(error),
        };
        let page = page.map_err(|error| format!("{CONTROL_NAME}: {error}; followers look by the clock"))?;
        page.store_word(STATE_OFFSET, ENDED, Ordering::Relaxed);
        page.store(0, &header.encode());
        page.store_word(DURABLE_OFFSET, durable, Ordering::Relaxed);
        page.store_word(STATE_OFFSET, OPEN, Ordering::Release);
        let control = Self { page };
        control.wake();
        Ok(Some(control))
    }

    fn wake(&self) {
        let turn = self.page.half_word(TURN_OFFSET);
        turn.fetch_add(1, Ordering::Release);
        futex::wake_all(turn);
    }
}

impl Announce for Control {
    /// Costs one system call.
    fn durable(&self, head: u64) {
        self.page.word(DURABLE_OFFSET).fetch_max(head, Ordering::Relaxed);
        self.wake();
    }

    fn ended(&self) {
        self.page.store_word(STATE_OFFSET, ENDED, Ordering::Relaxed);
        self.wake();
    }
}

/// The page of an earlier opening, if it can be used; one that cannot is removed.
fn page_there(storage: &dyn Storage) -> std::io::Result<Option<SharedMap>> {
    let file = match storage.open(CONTROL_NAME, Access::ReadWrite) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.len()? == CONTROL_LEN as u64
        && let Ok(page) = file.map_shared()
    {
        return Ok(Some(page));
    }
    storage.remove(CONTROL_NAME)?;
    Ok(None)
}

fn page_made(storage: &dyn Storage) -> std::io::Result<SharedMap> {
    storage.create(CONTROL_NAME, CONTROL_LEN as u64, Fill::Zeroed)?.map_shared()
}

/// The page as a follower has it.
#[derive(Debug)]
pub(crate) struct ControlView {
    page: SharedMap,
}

impl ControlView {
    /// The page of this directory; `None` if there is none that could be one.
    pub(crate) fn open(storage: &dyn Storage) -> Option<Self> {
        let file = storage.open(CONTROL_NAME, Access::Read).ok()?;
        if file.len().ok()? != CONTROL_LEN as u64 {
            return None;
        }
        file.map_shared().ok().filter(|page| page.len() == CONTROL_LEN).map(|page| Self { page })
    }

    /// Whose page it is; `None` if that cannot be told.
    pub(crate) fn header(&self) -> Option<ControlHeader> {
        let mut bytes = [0; CONTROL_HEADER_LEN];
        self.page.load(0, &mut bytes);
        ControlHeader::decode_for(&bytes, Purpose::Read).ok().flatten()
    }

    /// Whether somebody announces here, as far as the page knows.
    pub(crate) fn is_open(&self) -> bool {
        self.page.load_word(STATE_OFFSET, Ordering::Relaxed) == OPEN
    }

    /// To be asked before looking whether there is anything new.
    pub(crate) fn turn(&self) -> u32 {
        self.page.half_word(TURN_OFFSET).load(Ordering::Acquire)
    }

    /// Sleeps until the turn is another one, at most for `limit`; may return early.
    pub(crate) fn wait(&self, turn: u32, limit: Duration) {
        futex::wait(self.page.half_word(TURN_OFFSET), turn, limit);
    }
}

#[cfg(test)]
mod tests;
