//! Upgrades: the golden stores of every version, beside, whole; later versions refused.

use std::sync::Arc;

use annals::storage::Storage;
use annals::upgrade::{UpgradeOptions, upgrade_in};
use annals::{Error, View};
use annals_format::checksum::crc;
use annals_tests::model::golden::{self, Golden};
use annals_tests::sim_disk::SimDisk;

fn golden_stores() -> Vec<(String, Golden)> {
    let entries = std::fs::read_dir(golden::directory("v1")).unwrap();
    let mut stores: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), Golden::load(&path).unwrap())
        })
        .collect();
    stores.sort_by(|(one, _), (other, _)| one.cmp(other));
    stores
}

#[test]
fn the_stores_of_every_version_are_upgraded_beside() {
    let stores = golden_stores();
    assert!(stores.len() >= 7);
    for (name, golden) in stores {
        let (old, new) = (SimDisk::from_files(&golden.files), SimDisk::new());
        let report = upgrade_in(&old, &new, &UpgradeOptions::new()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((report.from, report.to), (1, 1), "{name}");
        assert_eq!(old.files(), golden.files, "{name}: the old store was changed");
        let store = golden::options().open_storage(Arc::new(new.clone())).unwrap();
        assert_eq!(golden::listing(&store.reader_in(View::Written)).unwrap(), golden.events, "{name}");
        let beside = golden::options().open_storage(Arc::new(old)).unwrap();
        assert_eq!(golden::consumers_of(&store), golden::consumers_of(&beside), "{name}");
        assert_eq!(store.recovery_report().clean, beside.recovery_report().clean, "{name}");
    }
}

/// A file as a later version would write it: its version and the checksum of its header differ.
fn of_version_2(name: &str, bytes: &mut [u8]) {
    let header_len = u32::from_le_bytes(*bytes[12..].first_chunk().unwrap()) as usize;
    let end = if name.starts_with("manifest-") { bytes.len() } else { header_len };
    // A checksum with another seed differs by what the seeds' difference gives.
    let other = crc(2 ^ 1, &bytes[20..end]) ^ crc(0, &bytes[20..end]);
    let checksum = u32::from_le_bytes(*bytes[16..].first_chunk().unwrap()) ^ other;
    bytes[8] = 2;
    bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn a_later_version_is_refused_and_nothing_is_made() {
    for (name, golden) in golden_stores() {
        for file in golden.files.keys().filter(|file| *file != "CONTROL") {
            let mut files = golden.files.clone();
            let bytes = files.get_mut(file).unwrap();
            if bytes[..12] == [0; 12] {
                continue;
            }
            of_version_2(file, bytes);
            let (old, new) = (SimDisk::from_files(&files), SimDisk::new());
            let refused = upgrade_in(&old, &new, &UpgradeOptions::new());
            let Err(Error::Unsupported { what, .. }) = &refused else { panic!("{name}, {file}: {refused:?}") };
            assert!(what.contains("format version"), "{name}, {file}: {what}");
            assert_eq!(new.list().unwrap(), Vec::<String>::new(), "{name}, {file}");
        }
    }
}
