//! Where the snapshots of each stream stand, in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use annals_format::snapshot::SnapshotFrame;
use foldhash::fast::FixedState;
use smallvec::SmallVec;

use super::file::{Scanned, SnapshotFile};
use super::shelf::Placed;
use crate::error::Corrupt;
use crate::name::{KeyKind, NameHash};

/// One snapshot. Names are those of the frame: here are hashes, which are never taken for equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Hash of name and schema.
    pub(crate) kind: u64,
    pub(crate) file: u64,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) revision: u64,
    pub(crate) position: u64,
    pub(crate) saved_at: u64,
}

impl Entry {
    /// Of two snapshots of a stream the newer one has the larger.
    pub(crate) fn age(&self) -> (u64, u64, u64, u64) {
        (self.revision, self.saved_at, self.file, self.offset)
    }
}

/// A file, and how far it was read.
#[derive(Debug)]
pub(crate) struct Shelved {
    pub(crate) file: Arc<SnapshotFile>,
    pub(crate) end: u64,
    pub(crate) frame_count: u64,
}

/// All snapshots of the listed files.
#[derive(Debug, Default)]
pub(crate) struct Table {
    streams: HashMap<u64, SmallVec<[Entry; 1]>, FixedState>,
    pub(crate) files: BTreeMap<u64, Shelved>,
    /// Frames that were known durable and cannot be read: whose they were is not known.
    pub(crate) damage: Vec<Corrupt>,
    pub(crate) last_saved_at: u64,
}

pub(crate) fn kind_hash(hash: NameHash, name: &str, schema: u32) -> u64 {
    hash.key(KeyKind::Type, name) ^ u64::from(schema).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Table {
    pub(crate) fn enter(&mut self, hash: NameHash, file: u64, offset: u64, frame: &SnapshotFrame<'_>) {
        let entry = Entry {
            kind: kind_hash(hash, frame.name, frame.schema),
            file,
            offset,
            len: frame.len(),
            revision: frame.revision,
            position: frame.position,
            saved_at: frame.saved_at,
        };
        self.last_saved_at = self.last_saved_at.max(frame.saved_at);
        self.streams.entry(hash.key(KeyKind::Stream, frame.stream)).or_default().push(entry);
    }

    /// Notes what a scan of a file found behind what was read of it before.
    pub(crate) fn shelve(&mut self, file: &Arc<SnapshotFile>, scanned: Scanned) {
        self.damage.extend(scanned.damage);
        let shelved = self.files.entry(file.entry.number).or_insert_with(|| Shelved {
            file: file.clone(),
            end: scanned.end,
            frame_count: 0,
        });
        shelved.end = scanned.end;
        shelved.frame_count += scanned.frame_count;
    }

    /// The snapshots of a stream, newest first.
    pub(crate) fn of_stream(&self, hash: NameHash, stream: &str) -> Vec<Placed> {
        let found = self.streams.get(&hash.key(KeyKind::Stream, stream));
        let mut entries = found.map_or_else(Vec::new, |entries| Placed::all(self, entries));
        entries.sort_unstable_by_key(|placed| std::cmp::Reverse(placed.entry.age()));
        entries
    }

    /// Every stream with its snapshots, in no order.
    pub(crate) fn streams(&self) -> impl Iterator<Item = &SmallVec<[Entry; 1]>> {
        self.streams.values()
    }

    /// Lets go of what stands in a file at `from` or behind it.
    pub(crate) fn forget(&mut self, file: u64, from: u64) {
        self.streams.retain(|_, entries| {
            entries.retain(|entry| entry.file != file || entry.offset < from);
            !entries.is_empty()
        });
        if let Some(shelved) = self.files.get_mut(&file) {
            shelved.end = shelved.end.min(from);
        }
    }

    /// Lets go of whole files, and puts entries in others in the place of what is moved.
    pub(crate) fn replace(&mut self, gone: &[u64], moved: &HashMap<(u64, u64), (u64, u64)>) {
        self.streams.retain(|_, entries| {
            entries.retain(|entry| match moved.get(&(entry.file, entry.offset)) {
                Some((file, offset)) => {
                    (entry.file, entry.offset) = (*file, *offset);
                    true
                }
                None => !gone.contains(&entry.file),
            });
            !entries.is_empty()
        });
        self.files.retain(|number, _| !gone.contains(number));
    }
}
