//! Mark and ring of this opening, durable before its first append.

use std::io::IoSlice;

use annals_format::control::ControlHeader;
use annals_format::mark::{MARK_LEN, Mark};
use annals_format::ring::{RING_HEADER_LEN, RING_LEN_MAX, RING_LEN_MIN, RingHeader};
use annals_format::segment::SEGMENT_HEADER_LEN;

use super::opening::Opening;
use super::refuse_write;
use super::ring_image::RING_NAME;
use crate::Result;
use crate::control::Control;
use crate::error::Error;
use crate::log::{Log, page_floor};
use crate::mark::{MARK_NAME, MarkFile};
use crate::prepare::no_room;
use crate::ring::Ring;
use crate::storage::{Access, Fill, SharedMap, StorageFile};
use crate::writer::ActiveSegment;

impl Opening {
    pub(super) fn write_mark(
        &self,
        (old, is_in_doubt): (Option<Mark>, bool),
        active: &ActiveSegment,
        head: u64,
        time: u64,
    ) -> Result<MarkFile> {
        // A name that was found is durable since the ring was opened.
        let (file, is_new) = match self.storage.open(MARK_NAME, Access::ReadWrite) {
            Ok(file) if file.len().is_ok_and(|len| len == MARK_LEN as u64) => (file, false),
            Ok(_) => {
                self.storage.remove(MARK_NAME).map_err(Error::io("remove", MARK_NAME))?;
                (MarkFile::create(&*self.storage)?, true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (MarkFile::create(&*self.storage)?, true),
            Err(error) => return Err(refuse_write(MARK_NAME, error)),
        };
        let identity = active.segment.header.identity;
        let mark = Mark {
            store: identity.store,
            incarnation: identity.incarnation,
            sequence: old.as_ref().map_or(0, |mark| mark.sequence),
            manifest_generation: self.manifest.generation,
            segment: identity.segment,
            offset: active.offset,
            position: head,
            recorded_at: time,
            clean: false,
        };
        let mut mark_file = MarkFile::open(&*self.storage, file, mark.clone());
        mark_file.write(mark.clone()).map_err(Error::io("write", MARK_NAME))?;
        mark_file.sync().map_err(Error::io("sync", MARK_NAME))?;
        if is_new {
            self.storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
        }
        if is_new || is_in_doubt {
            // A slot that holds no mark would be taken for one that was lost, by whoever reads beside.
            mark_file.write(mark).map_err(Error::io("write", MARK_NAME))?;
            mark_file.sync().map_err(Error::io("sync", MARK_NAME))?;
        }
        Ok(mark_file)
    }

    /// The ring of this opening: its header, with the next session, is durable before the first append.
    pub(super) fn open_ring(&self, session: u64, active: &ActiveSegment) -> Result<Ring> {
        let shared = self.storage.map_is_shared();
        let ring_len = self.options.ring_bytes;
        let file_len = RING_HEADER_LEN as u64 + ring_len;
        let file = match self.storage.open(RING_NAME, Access::ReadWrite) {
            Ok(file) if file.len().is_ok_and(|len| len == file_len) => file,
            other => {
                if let Ok(file) = &other {
                    self.give_up_ring(&**file, session, active);
                    self.storage.remove(RING_NAME).map_err(Error::io("remove", RING_NAME))?;
                }
                self.storage.create(RING_NAME, file_len, Fill::Zeroed).map_err(|error| no_room(RING_NAME, error))?
            }
        };
        let header = RingHeader {
            store: self.manifest.store,
            incarnation: active.segment.header.identity.incarnation,
            session,
            ring_len,
            first_segment: active.segment.header.identity.segment,
            holds_log: shared,
        };
        file.write_at(RingHeader::slot_offset(session), &[IoSlice::new(&header.encode())])
            .map_err(Error::io("write", RING_NAME))?;
        file.sync().map_err(Error::io("sync", RING_NAME))?;
        // Also for the manifest, which the mark will name: the sync of its name may have failed when it was written.
        self.storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
        let memory = if shared {
            file.map_shared().map_err(Error::io("map", RING_NAME))?
        } else {
            SharedMap::anonymous(ring_len as usize).map_err(Error::io("map", RING_NAME))?
        };
        let start = if shared { RING_HEADER_LEN } else { 0 };
        Ok(Ring::new(memory, start, shared))
    }

    /// Says in a ring that another one replaces that it holds nothing any more: followers have it before them, and see by
    /// that that they have to look for the new one. All that it held stands in synced segments by now.
    fn give_up_ring(&self, file: &dyn StorageFile, session: u64, active: &ActiveSegment) {
        let ring_len = file.len().unwrap_or(0).saturating_sub(RING_HEADER_LEN as u64);
        if !ring_len.is_power_of_two() || !(RING_LEN_MIN..=RING_LEN_MAX).contains(&ring_len) {
            return;
        }
        let identity = active.segment.header.identity;
        let header = RingHeader {
            store: self.manifest.store,
            incarnation: identity.incarnation,
            session,
            ring_len,
            first_segment: identity.segment,
            holds_log: false,
        };
        // Who misses it finds the new one by the clock.
        let _ = file.write_at(RingHeader::slot_offset(session), &[IoSlice::new(&header.encode())]);
    }

    /// The page that tells followers of other processes how far the log is durable. A store works without it.
    pub(super) fn open_control(&mut self, session: u64, active: &ActiveSegment, head: u64) -> Option<Control> {
        let identity = active.segment.header.identity;
        let header = ControlHeader { store: identity.store, incarnation: identity.incarnation, session };
        Control::open(&*self.storage, &header, head).unwrap_or_else(|notice| {
            self.report.notices.push(notice);
            None
        })
    }

    /// The ring gets the page that the next flush begins with; a segment begun now gets its header.
    pub(super) fn load_ring_page(&self, log: &Log, active: &ActiveSegment, begun_anew: bool) -> Result<()> {
        let base = active.segment.header.base;
        if begun_anew {
            log.place(base, &active.segment.header.encode())?;
            log.watermark.extend(base + SEGMENT_HEADER_LEN as u64);
            return Ok(());
        }
        let from = page_floor(active.offset);
        let mut page = vec![0; (active.offset - from) as usize];
        active.segment.live_file().read_at(from, &mut page).map_err(Error::io("read", &active.segment.name))?;
        log.ring.as_ref().expect("made above").store(base + from, &page);
        Ok(())
    }
}
