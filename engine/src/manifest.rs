//! Manifest files: finding the newest, writing the next.

use std::io::IoSlice;

use annals_format::manifest::Manifest;

use crate::Result;
use crate::error::Error;
use crate::recovery::list;
use crate::storage::{Access, Fill, Storage, StorageFile};

const PREFIX: &str = "manifest-";
/// No manifest needs more: a million segments take 112 MB.
const MANIFEST_LEN_MAX: u64 = 1 << 30;

/// Manifests that are saved between two looks at the whole directory.
const LIST_EVERY: u64 = 64;

pub(crate) fn file_name(generation: u64) -> String {
    format!("{PREFIX}{generation:020}")
}

/// Generation in a manifest's file name; `None` for other files and for one that was still being written.
pub(crate) fn generation_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// Whole content of a small file.
pub(crate) fn read_whole(storage: &dyn Storage, name: &str, len_max: u64) -> Result<Vec<u8>> {
    let file = storage.open(name, Access::Read).map_err(Error::io("open", name))?;
    let len = file.len().map_err(Error::io("measure", name))?;
    if len > len_max {
        return Err(Error::corrupt(name, len_max, None, format!("the file is {len} bytes long")));
    }
    let mut bytes = vec![0; len as usize];
    let got = file.read_at(0, &mut bytes).map_err(Error::io("read", name))?;
    bytes.truncate(got);
    Ok(bytes)
}

/// The manifest of the highest generation. One that does not verify is damage: an older one is not followed.
///
/// `None` if there is none at all.
pub(crate) fn load_newest(storage: &dyn Storage, names: &[String]) -> Result<Option<Manifest>> {
    let newest = names.iter().filter_map(|name| generation_of(name)).max();
    newest.map(|generation| load(storage, generation)).transpose()
}

/// The newest manifest, where a writer may be at work: one that was replaced, and the one behind it, between the look at the
/// directory and that at the file is no damage, and the directory is looked at again.
pub(crate) fn load_current(storage: &dyn Storage) -> Result<Option<Manifest>> {
    let newest_in = |names: Vec<String>| names.iter().filter_map(|name| generation_of(name)).max();
    let mut newest = newest_in(list(storage)?);
    while let Some(generation) = newest {
        match load(storage, generation) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                // It ends: each turn finds a newer one.
                match newest_in(list(storage)?) {
                    Some(newer) if newer > generation => newest = Some(newer),
                    _ => return Err(Error::io("open", &file_name(generation))(source)),
                }
            }
            loaded => return loaded.map(Some),
        }
    }
    Ok(None)
}

/// The manifest of this generation, verified.
pub(crate) fn load(storage: &dyn Storage, generation: u64) -> Result<Manifest> {
    let name = file_name(generation);
    let bytes = read_whole(storage, &name, MANIFEST_LEN_MAX)?;
    let manifest = Manifest::decode(&bytes).map_err(|fault| {
        let written_by = bytes.get(32..36).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        Error::damaged(&name, 0, None, &fault, written_by)
    })?;
    if manifest.generation != generation {
        return Err(Error::corrupt(&name, 56, None, format!("it holds generation {}", manifest.generation)));
    }
    Ok(manifest)
}

/// Makes `manifest` the newest, durably. The one before is kept, older ones are removed.
pub(crate) fn save(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    let name = file_name(manifest.generation);
    replace(storage, &name, &manifest.encode())?;
    // Nearly always there is one to remove. What an end of the process left of those before is looked for now and then:
    // reading a long directory takes as long as all the rest.
    let before = manifest.generation.checked_sub(2).map(file_name);
    let is_removed = before.is_some_and(|before| storage.remove(&before).is_ok());
    if is_removed && !manifest.generation.is_multiple_of(LIST_EVERY) {
        return Ok(());
    }
    let names = storage.list().map_err(Error::io("list", "the directory"))?;
    for old in names.iter().filter(|name| generation_of(name).is_some_and(|g| g + 1 < manifest.generation)) {
        storage.remove(old).map_err(Error::io("remove", old))?;
    }
    Ok(())
}

/// Removes manifests that never got their names. Whoever writes the same generation anew removes its own; of others nobody
/// thinks again. What cannot be removed stays for the next opening.
pub(crate) fn remove_unnamed(storage: &dyn Storage, names: &[String]) {
    let is_unnamed = |name: &str| name.strip_suffix(".new").is_some_and(|whole| generation_of(whole).is_some());
    for name in names.iter().filter(|name| is_unnamed(name)) {
        let _ = storage.remove(name);
    }
}

/// Writes a file beside, syncs it, renames it into place, and syncs the directory.
pub(crate) fn replace(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<()> {
    let beside = format!("{name}.new");
    match storage.remove(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &beside)(error)),
        _ => {}
    }
    let file = storage.create(&beside, bytes.len() as u64, Fill::Allocated).map_err(Error::io("create", &beside))?;
    write_and_sync(&*file, bytes).map_err(Error::io("write", &beside))?;
    storage.rename(&beside, name).map_err(Error::io("rename", name))?;
    storage.sync_dir().map_err(Error::io("sync", "the directory"))
}

fn write_and_sync(file: &dyn StorageFile, bytes: &[u8]) -> std::io::Result<()> {
    file.write_at(0, &[IoSlice::new(bytes)])?;
    file.sync()
}
