//! The index above the segments' own: its manifests, tiers and directory, block by block. All of it is derived, so nothing
//! found here is damage to the store.

use std::sync::Arc;

use annals_format::Purpose;
use annals_format::index_file::{FILE_HEADER_LEN, FileHeader};
use annals_format::index_manifest::IndexManifest;
use annals_format::manifest::Manifest;

use super::Check;
use crate::VERSION;
use crate::directory::{Directory, directory_name};
use crate::error::Error;
use crate::inspect::Severity;
use crate::options::ReadMode;
use crate::storage::Access;
use crate::tiers::{self, is_index_name};

impl Check<'_> {
    /// Every index manifest must verify, and every tier that the newest names must be whole and that of these segments.
    pub(super) fn tiers(&mut self, manifest: &Manifest) {
        let survey = self.survey;
        let manifests = tiers::manifests(self.storage, &survey.names, manifest);
        for (name, found) in &manifests {
            match found {
                Ok(index) => self.index_manifest(manifest, name, index),
                Err(error) => self.error(Severity::Notice, name, error),
            }
            self.count_file(name);
        }
        if let [(_, Ok(only))] = &manifests[..]
            && only.generation > 1
        {
            let before = tiers::index_manifest_name(only.generation - 1);
            self.notice(&before, 0, "the index manifest before the newest is missing; nothing needs it");
        }
        let last_generation = manifests.first().map(|(name, _)| name.clone());
        let newest = manifests.into_iter().find_map(|(_, found)| found.ok());
        let mut named = Vec::new();
        for entry in newest.iter().flat_map(|index| &index.tiers) {
            let name = tiers::tier_name(entry.number);
            match tiers::listed(self.storage, manifest, entry, ReadMode::Pread).map(Arc::new) {
                Ok(tier) => match tier.check_all() {
                    Ok(()) => self.tier_content(manifest, &name, &tier),
                    Err(error) => self.error(Severity::Notice, &name, &error),
                },
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    self.notice(&name, 0, "the file is missing; it is made anew");
                }
                Err(error) => self.error(Severity::Notice, &name, &error),
            }
            self.count_file(&name);
            named.push(name);
        }
        if let Some(index) = &newest {
            self.directories(manifest, index, &mut named);
        }
        for name in survey.names.iter().filter(|name| is_index_name(name) && !name.starts_with(tiers::INDEX)) {
            if !named.contains(name) {
                self.notice(name, 0, "no index manifest names this file");
                self.missing_manifest(name, last_generation.as_deref());
            }
        }
    }

    /// What an index manifest says beyond its entries, which are held against their files: no more than what this version writes.
    fn index_manifest(&mut self, manifest: &Manifest, name: &str, index: &IndexManifest) {
        match tiers::differs_from_content(self.storage, index, manifest) {
            Ok(None) => {}
            Ok(Some(at)) => self.notice(name, at, "it holds flags that this version does not know"),
            Err(error) => self.error(Severity::Notice, name, &error),
        }
        let last = tiers::last_next_file(index);
        if index.next_file > last {
            let what = format!("the next file number is {}, which is beyond {last}", index.next_file);
            self.notice(name, 72, what);
        }
        if !(1..=VERSION).contains(&index.written_by) {
            let by = index.written_by;
            let what = format!(
                "it says that version {}.{}.{} wrote it, which this one does not know",
                by >> 16,
                (by >> 8) & 0xff,
                by & 0xff
            );
            self.notice(name, 88, what);
        }
    }

    /// Every file of the directory must be whole and that of these segments. Of what follows one that is not there nothing
    /// can be said: it will be made anew.
    fn directories(&mut self, manifest: &Manifest, index: &IndexManifest, named: &mut Vec<String>) {
        let (directory, unusable) = Directory::listed(self.storage, &index.directories, manifest, ReadMode::Pread);
        for file in directory.iter() {
            match file.check_all() {
                Ok(()) => self.directory_content(manifest, file),
                Err(error) => self.error(Severity::Notice, file.name(), &error),
            }
        }
        let first_unusable = index.directories.get(directory.iter().len()).map(|entry| directory_name(entry.number));
        match (unusable, first_unusable) {
            (Some(Error::Io { source, .. }), Some(name)) if source.kind() == std::io::ErrorKind::NotFound => {
                self.notice(&name, 0, "the file is missing; it is made anew");
            }
            (Some(error), Some(name)) => self.error(Severity::Notice, &name, &error),
            _ => {}
        }
        for entry in &index.directories {
            let name = directory_name(entry.number);
            self.count_file(&name);
            named.push(name);
        }
    }

    /// A tier tells under which index manifest it was made: one that is newer than all there are is missing.
    fn missing_manifest(&mut self, tier: &str, last: Option<&str>) {
        let mut header = vec![0; FILE_HEADER_LEN];
        let read = self.storage.open(tier, Access::Read).and_then(|file| file.read_at(0, &mut header));
        let Ok(header) = FileHeader::decode_for(&header[..read.unwrap_or(0)], Purpose::Read) else { return };
        let made_under = tiers::index_manifest_name(header.identity.generation);
        if last.is_none_or(|last| *last < *made_under) {
            self.notice(&made_under, 0, "the index manifest is missing; it is made anew");
        }
    }

    fn count_file(&mut self, name: &str) {
        let len = self.storage.open(name, Access::Read).and_then(|file| file.len()).unwrap_or(0);
        self.count(len);
    }
}
