//! Index manifests and what they name as files: their names, the newest that holds, and what belongs to none.

use std::io::ErrorKind;
use std::sync::Arc;

use annals_format::index_manifest::{IndexManifest, TierEntry};
use annals_format::manifest::{Manifest, SegmentEntry};
use annals_format::tier::covered_checksum;
use annals_format::{NUMBER_MAX, Purpose};

use super::file::{Expected, TierFile};
use super::list::Tiers;
use crate::directory::{Directory, directory_number};
use crate::error::Error;
use crate::manifest::{read_whole, replace};
use crate::options::ReadMode;
use crate::prepare::segment_number;
use crate::storage::Storage;
use crate::{Result, VERSION};

const TIER: &str = "tier-";
/// What the names of index manifests begin with.
pub(crate) const INDEX: &str = "INDEX-";
/// The newest index manifests, which are kept.
pub(crate) const MANIFESTS_KEPT: usize = 2;
/// Far more than the tiers of any store take.
const INDEX_MANIFEST_LEN_MAX: u64 = 1 << 24;

pub(crate) fn tier_name(number: u64) -> String {
    format!("{TIER}{number:020}.idx")
}

pub(crate) fn index_manifest_name(generation: u64) -> String {
    format!("{INDEX}{generation:020}")
}

/// Of twenty digits.
pub(crate) fn number_in(digits: &str) -> Option<u64> {
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

fn tier_number(name: &str) -> Option<u64> {
    number_in(name.strip_prefix(TIER)?.strip_suffix(".idx")?)
}

fn generation_of(name: &str) -> Option<u64> {
    // What is larger is no generation; one more is still a number.
    number_in(name.strip_prefix(INDEX)?).filter(|generation| *generation <= NUMBER_MAX)
}

/// Number of a tier or of a file of the directory.
fn file_number(name: &str) -> Option<u64> {
    tier_number(name).or_else(|| directory_number(name))
}

/// Whether a file is one of the index's: a tier, a directory or an index manifest, or one that was still being written.
pub(crate) fn is_index_name(name: &str) -> bool {
    let whole = name.strip_suffix(".new").unwrap_or(name);
    file_number(whole).is_some() || generation_of(whole).is_some()
}

/// The segments that an entry covers, if the store's manifest lists just such.
pub(super) fn covered<'a>(segments: &'a [SegmentEntry], entry: &TierEntry) -> Option<&'a [SegmentEntry]> {
    let at = |number: u64| segments.binary_search_by_key(&number, |segment| segment.number).ok();
    let covered = segments.get(at(entry.first_segment)?..=at(entry.last_segment)?)?;
    let first = covered.first()?.first_position == entry.first_position;
    (first && covered.last()?.last_position == entry.last_position).then_some(covered)
}

pub(super) fn expected(store: &Manifest, covered: &[SegmentEntry]) -> Expected {
    Expected {
        store: store.store,
        name_hash_seed: store.name_hash_seed,
        final_checksum: covered_checksum(covered.iter().map(|segment| segment.final_checksum)),
    }
}

/// What an opening found of the index.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) tiers: Tiers,
    pub(crate) directory: Directory,
    /// The manifest that holds, less what cannot be used of it. Its generation is the largest that any file has in its
    /// name. Its next file number is larger than that of any file it names, and than that of any other that an index manifest
    /// known of can have named, and at most [one more](last_next_file) than the generation.
    pub(crate) index: IndexManifest,
    /// What was not as it should be, for the recovery report.
    pub(crate) notices: Vec<String>,
    /// Whether the file still names what cannot be used.
    pub(crate) is_stale: bool,
}

/// Reads the newest index manifest that verifies and looks whether its files are there. Reads nothing of them.
///
/// Without any there are none: they will be made anew.
///
/// # Errors
/// `Unsupported` if the newest was made by a later version.
pub(crate) fn load(storage: &dyn Storage, names: &[String], store: &Manifest, mode: ReadMode) -> Result<Loaded> {
    let mut notices = Vec::new();
    let mut generations: Vec<u64> = names.iter().filter_map(|name| generation_of(name)).collect();
    generations.sort_unstable_by(|left, right| right.cmp(left));
    let mut found = None;
    for generation in &generations {
        match load_one(storage, *generation, store) {
            Ok(index) => {
                found = Some(index);
                break;
            }
            Err(error @ Error::Unsupported { .. }) => return Err(error),
            Err(error) => notices.push(format!("{error}; the one before is used, or the index made anew")),
        }
    }
    if generations.is_empty() && names.iter().any(|name| file_number(name).is_some()) {
        notices.push("the index manifest is missing; the index is made anew".to_owned());
    }
    let mut index = found.unwrap_or(IndexManifest {
        store: store.store,
        generation: 0,
        written_by: VERSION,
        name_hash_seed: store.name_hash_seed,
        next_file: 1,
        tiers: Vec::new(),
        directories: Vec::new(),
    });
    let mut tiers = Vec::with_capacity(index.tiers.len());
    index.tiers.retain(|entry| match listed(storage, store, entry, mode) {
        Ok(tier) => {
            tiers.push(Arc::new(tier));
            true
        }
        Err(error) => {
            notices.push(format!("{error}; its segments answer, and it is made anew"));
            false
        }
    });
    let (directory, unusable) = Directory::listed(storage, &index.directories, store, mode);
    index.directories.truncate(directory.iter().len());
    notices.extend(unusable.map(|error| format!("{error}; the index answers, and it is made anew")));
    let is_stale = !notices.is_empty();
    index.generation = generations.first().copied().unwrap_or(0).max(index.generation);
    // What is beyond all generations is forged, or was never named and is removed at the next opening.
    let last_next = last_next_file(&index);
    let whole = names.iter().map(|name| name.strip_suffix(".new").unwrap_or(name));
    let of_files = whole.filter_map(file_number).map(|number| number.saturating_add(1));
    let believed = of_files.chain([index.next_file]).filter(|next| *next <= last_next);
    let of_tiers = index.tiers.iter().map(|entry| entry.number + 1);
    let of_directories = index.directories.iter().map(|entry| entry.number + 1);
    index.next_file = believed.chain(of_tiers).chain(of_directories).max().unwrap_or(1);
    index.generation = index.generation.max(index.next_file - 1);
    Ok(Loaded { tiers: Tiers::new(tiers), directory, index, notices, is_stale })
}

/// The largest next file number that is written with this generation: each file comes with an index manifest of its own.
pub(crate) fn last_next_file(index: &IndexManifest) -> u64 {
    index.generation.saturating_add(1)
}

/// Every index manifest by its name, newest first, with what reading it answers.
pub(crate) fn manifests(
    storage: &dyn Storage,
    names: &[String],
    store: &Manifest,
) -> Vec<(String, Result<IndexManifest>)> {
    let mut generations: Vec<u64> = names.iter().filter_map(|name| generation_of(name)).collect();
    generations.sort_unstable_by(|left, right| right.cmp(left));
    let read = |generation| (index_manifest_name(generation), load_one(storage, generation, store));
    generations.into_iter().map(read).collect()
}

/// Names of those among [`manifests`] that cannot be read, or should be there and are not.
pub(crate) fn unsound_manifests(manifests: &[(String, Result<IndexManifest>)]) -> impl Iterator<Item = String> {
    let unread = manifests.iter().filter(|(_, found)| found.is_err()).map(|(name, _)| name.clone());
    let missing = match manifests {
        [(_, Ok(only))] if only.generation > 1 => Some(index_manifest_name(only.generation - 1)),
        _ => None,
    };
    unread.chain(missing)
}

fn load_one(storage: &dyn Storage, generation: u64, store: &Manifest) -> Result<IndexManifest> {
    load_with_bytes(storage, generation, store).map(|(index, _)| index)
}

/// Where an index manifest that was read has another byte than its content gives, if it does.
pub(crate) fn differs_from_content(
    storage: &dyn Storage,
    index: &IndexManifest,
    store: &Manifest,
) -> Result<Option<u64>> {
    let (index, bytes) = load_with_bytes(storage, index.generation, store)?;
    let made = index.encode();
    // Bytes 16 to 20, the checksum, follow from the others.
    let differs = |(at, (made, read)): &(usize, (&u8, &u8))| made != read && !(16..20).contains(at);
    Ok(made.iter().zip(&bytes).enumerate().find(differs).map(|(at, _)| at as u64))
}

fn load_with_bytes(storage: &dyn Storage, generation: u64, store: &Manifest) -> Result<(IndexManifest, Vec<u8>)> {
    let name = index_manifest_name(generation);
    let bytes = read_whole(storage, &name, INDEX_MANIFEST_LEN_MAX)?;
    let index =
        IndexManifest::decode_for(&bytes, Purpose::Read).map_err(|fault| Error::damaged(&name, 0, None, &fault, 0))?;
    if index.generation != generation {
        return Err(Error::corrupt(&name, 48, None, format!("it holds generation {}", index.generation)));
    }
    if index.store != store.store || index.name_hash_seed != store.name_hash_seed {
        return Err(Error::corrupt(&name, 32, None, "the index manifest is that of another store"));
    }
    Ok((index, bytes))
}

/// The tier of this entry, if its file is there, of its length, and of segments that the store lists.
pub(crate) fn listed(storage: &dyn Storage, store: &Manifest, entry: &TierEntry, mode: ReadMode) -> Result<TierFile> {
    let Some(covered) = covered(&store.segments, entry) else {
        let what = "the segments it covers are not those of the manifest";
        return Err(Error::corrupt(&tier_name(entry.number), 80, Some(entry.first_position), what));
    };
    TierFile::listed(storage, entry, expected(store, covered), mode)
}

/// Makes `index` the newest, durably. The one before is kept, older ones are removed.
///
/// # Errors
/// `NoSpace`, `Io`; `Corrupt` if it is not one that would be read again, such as one whose numbers have come to their end.
pub(super) fn save(storage: &dyn Storage, index: &IndexManifest) -> Result<()> {
    let (name, bytes) = (index_manifest_name(index.generation), index.encode());
    IndexManifest::decode(&bytes).map_err(|fault| Error::damaged(&name, 0, None, &fault, VERSION))?;
    replace(storage, &name, &bytes)?;
    // It holds from here on; what cannot be removed now is removed with the next one.
    if let Ok(names) = storage.list() {
        let _ = remove_all_but_two(storage, &names);
    }
    Ok(())
}

fn remove_all_but_two(storage: &dyn Storage, names: &[String]) -> Result<()> {
    let mut generations: Vec<u64> = names.iter().filter_map(|name| generation_of(name)).collect();
    generations.sort_unstable();
    generations.truncate(generations.len().saturating_sub(MANIFESTS_KEPT));
    generations.into_iter().try_for_each(|generation| remove(storage, &index_manifest_name(generation)))
}

/// Removes tiers and directories that `index` does not name, files that were still being written, and all index manifests but the
/// newest two. For an opening for writing; `names` are those of the directory. Answers what was removed.
pub(crate) fn remove_unnamed(storage: &dyn Storage, names: &[String], index: &IndexManifest) -> Result<Vec<String>> {
    let is_tier = |number: u64| index.tiers.iter().any(|entry| entry.number == number);
    let is_directory = |number: u64| index.directories.iter().any(|entry| entry.number == number);
    let unnamed = names.iter().filter(|name| {
        let of_segment = |name: &str| matches!(segment_number(name), Some((_, true)));
        let half_written = name.strip_suffix(".new").is_some_and(|whole| is_index_name(whole) || of_segment(whole));
        let is_unnamed = tier_number(name).is_some_and(|number| !is_tier(number))
            || directory_number(name).is_some_and(|number| !is_directory(number));
        half_written || is_unnamed
    });
    let removed: Vec<String> = unnamed.cloned().collect();
    removed.iter().try_for_each(|name| remove(storage, name))?;
    remove_all_but_two(storage, names)?;
    Ok(removed)
}

/// Removes a file, if it is there.
pub(crate) fn remove(storage: &dyn Storage, name: &str) -> Result<()> {
    match storage.remove(name) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", name)(error)),
        _ => Ok(()),
    }
}
