//! A directory that becomes a store: what may stand in it, and the files it gets.

use annals_format::manifest::{DurabilityKind, IncarnationEntry, Manifest};
use annals_format::ring::RING_HEADER_LEN;
use annals_format::segment::SEGMENT_HEADER_LEN;

use super::refuse_write;
use super::ring_image::RING_NAME;
use crate::append::Durability;
use crate::error::Error;
use crate::founding::UNFINISHED_NAME;
use crate::made_id::random_bytes;
use crate::mark::{MARK_NAME, MarkFile};
use crate::options::Options;
use crate::prepare::{no_room, segment_name, segment_number};
use crate::snapshot::is_file_of_snapshots;
use crate::storage::{Access, Fill, Storage};
use crate::tiers::is_index_name;
use crate::{Result, VERSION, manifest};

/// Without a manifest a directory may become a store only if it is empty or holds what an interrupted creation left.
pub(crate) fn check_creatable(storage: &dyn Storage, names: &[String], create: bool) -> Result<()> {
    let not_a_store = |reason: String| Error::NotAStore { path: "the directory".to_owned(), reason };
    if names.iter().any(|name| name == UNFINISHED_NAME) {
        let reason = "a fork, restore or repair into it was not finished; run it again, or remove the directory";
        return Err(not_a_store(reason.to_owned()));
    }
    for name in names {
        let ours = matches!(name.as_str(), "LOCK" | "MARK" | "RING" | "CONTROL" | "manifest-00000000000000000001.new")
            || segment_number(name) == Some((1, false));
        if !ours {
            let is_file_of_a_store =
                segment_number(name).is_some() || is_index_name(name) || is_file_of_snapshots(name);
            if is_file_of_a_store {
                return Err(Error::corrupt(name, 0, None, "the store's manifest is missing"));
            }
            return Err(not_a_store(format!("it holds {name:?} and no manifest")));
        }
    }
    let began = |name: &str, len: u64| -> Result<bool> {
        if !names.iter().any(|n| n == name) {
            return Ok(false);
        }
        let mut head = vec![0; len as usize];
        let file = storage.open(name, Access::Read).map_err(Error::io("open", name))?;
        let got = file.read_at(0, &mut head).map_err(Error::io("read", name))?;
        Ok(head[..got].iter().any(|byte| *byte != 0))
    };
    // The mark and the first segment are zeros until the manifest is durable.
    if began(MARK_NAME, 8192)? || began(&segment_name(1), SEGMENT_HEADER_LEN as u64)? {
        return Err(Error::corrupt(&manifest::file_name(1), 0, None, "the store's manifest is missing"));
    }
    if !create {
        return Err(not_a_store("it holds no manifest".to_owned()));
    }
    Ok(())
}

/// Makes the files of a new store; its manifest, written last, is the moment of its birth.
pub(super) fn create(storage: &dyn Storage, names: &[String], options: &Options) -> Result<Manifest> {
    for name in names.iter().filter(|name| name.as_str() != "LOCK") {
        storage.remove(name).map_err(|error| refuse_write(name, error))?;
    }
    let store = random_bytes()?;
    let incarnation = random_bytes()?;
    MarkFile::create(storage)?;
    let ring = storage
        .create(RING_NAME, RING_HEADER_LEN as u64 + options.ring_bytes, Fill::Zeroed)
        .map_err(|error| no_room(RING_NAME, error))?;
    ring.sync().map_err(Error::io("sync", RING_NAME))?;
    let len = options.segment_bytes_first.min(options.segment_bytes_max);
    if let Some(quota) = options.quota_bytes.filter(|quota| len > *quota) {
        let reason = format!("the store's quota of {quota} bytes does not allow a segment of {len}");
        return Err(Error::NoSpace { action: "creating the store", reason });
    }
    let first = storage.create(&segment_name(1), len, fill(options)).map_err(|error| no_room("segment 1", error))?;
    first.sync().map_err(Error::io("sync", segment_name(1)))?;
    storage.sync_dir().map_err(Error::io("sync", "the directory"))?;
    let manifest = Manifest {
        store,
        generation: 1,
        written_by: VERSION,
        default_durability: match options.durability {
            Durability::Durable => DurabilityKind::Durable,
            Durability::Buffered => DurabilityKind::Buffered,
        },
        removal_forbidden: options.removal_forbidden,
        name_hash_seed: u64::from_le_bytes(random_bytes()?[..8].try_into().expect("eight bytes")),
        content_hash_key: random_bytes()?,
        created_at: options.now(),
        segment_len_max: options.segment_bytes_max,
        quota_bytes: options.quota_bytes,
        limits: options.limits,
        next_segment: 2,
        incarnations: vec![IncarnationEntry { incarnation, first_position: 1 }],
        segments: Vec::new(),
        ancestors: Vec::new(),
        lost: Vec::new(),
        snapshots: Vec::new(),
    };
    manifest::save(storage, &manifest)?;
    Ok(manifest)
}

/// Zeroed segments sync faster; a `Buffered` store appends faster than zeros could be written.
pub(crate) fn fill(options: &Options) -> Fill {
    match options.durability {
        Durability::Durable => Fill::Zeroed,
        Durability::Buffered => Fill::Allocated,
    }
}
