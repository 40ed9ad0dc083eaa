//! Files of snapshots: every frame, every state.

use annals_format::manifest::Manifest;

use super::super::{Severity, VerifyReport};
use super::Check;
use crate::error::{Corrupt, Error};
use crate::options::ReadMode;
use crate::snapshot::{Range, SnapshotFile, file_number};
use crate::{Result, snapshot};

impl Check<'_> {
    pub(super) fn snapshots(&mut self, manifest: &Manifest) {
        for entry in &manifest.snapshots {
            let name = snapshot::file_name(entry.number);
            let opened = SnapshotFile::open(self.storage, *entry, &manifest.store, ReadMode::Pread);
            let answer = opened.and_then(|file| self.snapshot_file(&file, manifest));
            match answer {
                Ok(damage) => damage.into_iter().for_each(|wrong| {
                    self.find(Severity::Damage, &wrong.file, wrong.offset, wrong.position, wrong.what.as_str());
                }),
                Err(error) => self.error(Severity::Damage, &name, &error),
            }
        }
        let survey = self.survey;
        for name in &survey.names {
            let number = file_number(name);
            if number.is_some_and(|number| !manifest.snapshots.iter().any(|entry| entry.number == number)) {
                self.notice(name, 0, "no manifest lists it; the next opening for writing removes it");
            }
        }
    }

    fn snapshot_file(&mut self, file: &SnapshotFile, manifest: &Manifest) -> Result<Vec<Corrupt>> {
        let len = file.file.len().map_err(Error::io("measure", &file.name))?;
        self.count(len);
        let mut damage: Vec<Corrupt> = file.check_header(&manifest.store)?.into_iter().collect();
        let whole = file.whole();
        let range = Range { verify: true, limit: whole.limit.min(len), ..whole };
        let mut seen = 0;
        let scanned = file.scan(range, &mut |_, _| seen += 1)?;
        damage.extend(scanned.damage);
        let VerifyReport { snapshots, .. } = &mut self.report;
        *snapshots += seen;
        Ok(damage)
    }
}
