//! The small files: manifests, mark, ring, lock.

use annals_format::Fault;
use annals_format::control::{CONTROL_LEN, ControlHeader};
use annals_format::manifest::Manifest;
use annals_format::mark::{MARK_LEN, MARK_SLOT_LEN, Mark};
use annals_format::ring::{RING_HEADER_LEN, RingHeader};

use super::{Check, told};
use crate::control::CONTROL_NAME;
use crate::inspect::Severity;
use crate::manifest::file_name;
use crate::mark::MARK_NAME;
use crate::recovery::ring_image::RING_NAME;
use crate::storage::{Access, LOCK_NAME};

impl Check<'_> {
    /// Every manifest must verify, the one before the newest too: it is what is left if the newest is lost.
    pub(super) fn manifests(&mut self) {
        let survey = self.survey;
        if survey.manifests.is_empty() {
            self.damage(&file_name(1), 0, None, "the store's manifest is missing");
        }
        let store = survey.manifest().map(|manifest| manifest.store);
        for (generation, manifest) in &survey.manifests {
            let name = file_name(*generation);
            let len = self.storage.open(&name, Access::Read).and_then(|file| file.len()).unwrap_or(0);
            self.count(len);
            match manifest {
                Ok(manifest) if Some(manifest.store) != store => {
                    self.damage(&name, 40, None, "the manifest is that of another store");
                }
                Ok(_) => {}
                Err(error) => self.error(Severity::Damage, &name, error),
            }
        }
        if let [(generation @ 2.., _)] = survey.manifests[..] {
            self.notice(&file_name(generation - 1), 0, "the manifest before the newest is missing; nothing needs it");
        }
    }

    pub(super) fn lock_file(&mut self) {
        let Some(bytes) = self.read(LOCK_NAME) else { return };
        let text = std::str::from_utf8(&bytes).unwrap_or("?").trim();
        if !text.is_empty() && text.parse::<u32>().is_err() {
            self.notice(LOCK_NAME, 0, "it does not hold the number of a process");
        }
    }

    pub(super) fn mark_file(&mut self, manifest: &Manifest) {
        let Some(bytes) = self.read(MARK_NAME) else {
            if !self.survey.has(MARK_NAME) {
                self.damage(MARK_NAME, 0, None, "the file is missing");
            }
            return;
        };
        if bytes.len() != MARK_LEN {
            let what = format!("the file is {} bytes long instead of {MARK_LEN}", bytes.len());
            self.damage(MARK_NAME, bytes.len().min(MARK_LEN) as u64, None, what);
        }
        let (newest, faults) = Mark::newest(&bytes);
        let offsets = [Mark::slot_offset(0), Mark::slot_offset(1)];
        self.slots(MARK_NAME, &bytes, offsets, &faults, newest.is_some());
        let is_zero = |offset: &&u64| bytes.iter().skip(**offset as usize).take(MARK_SLOT_LEN).all(|byte| *byte == 0);
        // The first mark of all leaves the other slot as it was made.
        if newest.as_ref().is_some_and(|mark| mark.sequence > 1)
            && let Some(empty) = offsets.iter().find(is_zero)
        {
            self.notice(MARK_NAME, *empty, "the slot is empty");
        }
        if let Some(mark) = newest.filter(|mark| mark.store != manifest.store) {
            self.damage(MARK_NAME, Mark::slot_offset(mark.sequence) + 32, None, "the mark belongs to another store");
        }
    }

    pub(super) fn ring_file(&mut self, manifest: &Manifest) {
        let Some(bytes) = self.read(RING_NAME) else {
            if !self.survey.has(RING_NAME) {
                self.damage(RING_NAME, 0, None, "the file is missing");
            }
            return;
        };
        let (newest, faults) = RingHeader::newest(&bytes);
        let offsets = [RingHeader::slot_offset(0), RingHeader::slot_offset(1)];
        self.slots(RING_NAME, &bytes, offsets, &faults, newest.is_some());
        let Some(header) = newest else { return };
        if header.store != manifest.store {
            self.damage(
                RING_NAME,
                RingHeader::slot_offset(header.session) + 32,
                None,
                "the ring belongs to another store",
            );
        }
        let len = RING_HEADER_LEN as u64 + header.ring_len;
        if len != bytes.len() as u64 {
            let what = format!("the file is {} bytes long, its header says {len}", bytes.len());
            self.damage(RING_NAME, len.min(bytes.len() as u64), None, what);
        }
    }

    /// Nothing rests on the control page, and the next opening makes it anew.
    pub(super) fn control_file(&mut self, manifest: &Manifest) {
        let Some(bytes) = self.read_or(Severity::Notice, CONTROL_NAME) else { return };
        if bytes.len() != CONTROL_LEN {
            let what = format!("the file is {} bytes long instead of {CONTROL_LEN}", bytes.len());
            self.notice(CONTROL_NAME, 0, what);
            return;
        }
        match ControlHeader::decode(&bytes) {
            Ok(Some(header)) if header.store != manifest.store => {
                self.notice(CONTROL_NAME, 32, "the control page belongs to another store");
            }
            Ok(_) => {}
            Err(fault) => self.find(Severity::Notice, CONTROL_NAME, 0, None, told(&fault)),
        }
    }

    /// Two slots, of which one is enough: a fault in the other is repaired by the next writing.
    fn slots(&mut self, name: &str, bytes: &[u8], offsets: [u64; 2], faults: &[Option<Fault>; 2], has_one: bool) {
        let severity = if has_one { Severity::Notice } else { Severity::Damage };
        for (offset, fault) in offsets.iter().zip(faults) {
            // A file that was cut short is told of as a whole.
            if let Some(fault) = fault.as_ref().filter(|_| *offset < bytes.len() as u64) {
                self.find(severity, name, *offset, None, told(fault));
            }
        }
        if !has_one && !self.report.findings.iter().any(|finding| finding.file == name) {
            self.damage(name, 0, None, "both slots are empty");
        }
    }
}
