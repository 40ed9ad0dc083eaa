//! The file `MARK`: how far the log was known to be synced.

use std::sync::Arc;

use annals_format::mark::{MARK_LEN, MARK_SLOT_LEN, Mark};

use crate::Result;
use crate::error::Error;
use crate::storage::{Access, Fill, SharedMap, Storage, StorageFile};

pub(crate) const MARK_NAME: &str = "MARK";

#[derive(Debug)]
pub(crate) struct MarkFile {
    file: Arc<dyn StorageFile>,
    /// The same bytes in memory, where a store there is a write to the file: a sync then costs one call to the system less.
    map: Option<SharedMap>,
    last: Mark,
}

/// What was found in the file.
#[derive(Debug, Default)]
pub(crate) struct FoundMark {
    pub(crate) newest: Option<Mark>,
    pub(crate) notices: Vec<String>,
    /// Offset and words for the first sign that a newer mark than `newest` may have stood in the file.
    pub(crate) doubt: Option<(u64, String)>,
}

impl MarkFile {
    /// A new, empty file; its content and name become durable with the caller's syncs of file and directory.
    pub(crate) fn create(storage: &dyn Storage) -> Result<Arc<dyn StorageFile>> {
        let file = storage.create(MARK_NAME, MARK_LEN as u64, Fill::Zeroed).map_err(Error::io("create", MARK_NAME))?;
        file.sync().map_err(Error::io("sync", MARK_NAME))?;
        Ok(file)
    }

    /// Reads both slots. A missing file or a damaged slot is a notice, not an error: the mark only ever helps.
    pub(crate) fn read(storage: &dyn Storage) -> Result<FoundMark> {
        let mut found = FoundMark::default();
        let file = match storage.open(MARK_NAME, Access::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                found.notices.push(format!("{MARK_NAME} is missing"));
                found.doubt = Some((0, "the file is missing".to_owned()));
                return Ok(found);
            }
            Err(error) => return Err(Error::io("open", MARK_NAME)(error)),
        };
        let mut bytes = vec![0; MARK_LEN];
        let got = file.read_at(0, &mut bytes).map_err(Error::io("read", MARK_NAME))?;
        if got < MARK_LEN {
            found.notices.push(format!("{MARK_NAME} is {got} bytes long instead of {MARK_LEN}"));
            found.doubt = Some((got as u64, format!("the file is {got} bytes long instead of {MARK_LEN}")));
        }
        let (newest, faults) = Mark::newest(&bytes);
        for (slot, fault) in faults.iter().enumerate() {
            match fault {
                Some(annals_format::Fault::Unsupported { what, value }) => {
                    let what = format!("{what} {value:#x}");
                    return Err(Error::Unsupported { file: MARK_NAME.to_owned(), what, written_by: 0 });
                }
                Some(fault) => found.notices.push(format!("{MARK_NAME} slot {slot}: {fault}")),
                None => {}
            }
        }
        for (slot, fault) in faults.iter().enumerate() {
            let offset = slot as u64 * Mark::slot_offset(1);
            // Only the first mark of all leaves the other slot as it was made.
            let is_first = newest.as_ref().is_some_and(|mark| mark.sequence == 1);
            let is_empty = || bytes[offset as usize..][..MARK_SLOT_LEN].iter().all(|byte| *byte == 0);
            let sign = match fault {
                Some(fault) => Some(fault.to_string()),
                None => (!is_first && is_empty()).then(|| "the slot is empty".to_owned()),
            };
            found.doubt = found.doubt.or(sign.map(|sign| (offset, sign)));
        }
        found.newest = newest;
        Ok(found)
    }

    /// `file` is as long as a mark is.
    pub(crate) fn open(storage: &dyn Storage, file: Arc<dyn StorageFile>, last: Mark) -> Self {
        // A file with holes, as a copy may have them, cannot be mapped.
        let map = if storage.map_is_shared() { file.map_shared().ok() } else { None };
        Self { file, map, last }
    }

    /// Writes the next slot, with the next sequence; not synced.
    ///
    /// A reader may see a part of it, as after a write that is cut: the checksum tells, and the other slot stands.
    pub(crate) fn write(&mut self, mark: Mark) -> std::io::Result<()> {
        let mark = Mark { sequence: self.last.sequence + 1, ..mark };
        let (offset, bytes) = (Mark::slot_offset(mark.sequence), mark.encode());
        match &self.map {
            // Whoever sees the mark sees what it says was written.
            Some(map) => map.store_released(offset as usize, &bytes),
            None => self.file.write_at(offset, &[std::io::IoSlice::new(&bytes)])?,
        }
        self.last = mark;
        Ok(())
    }

    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.file.sync()
    }
}
