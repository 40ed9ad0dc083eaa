//! The writer's memory of every stream: its name, last revision, last position.

use crate::name::{KeyKind, NameHash};
use crate::prefetch::prefetch;

/// Number of a stream in the directory, valid as long as the store is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamNumber(u32);

impl StreamNumber {
    /// Before it was looked up.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// One cache line a stream: nearly all names stand in it whole.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Entry {
    hash: u64,
    last_position: u64,
    last_revision: u64,
    /// Where the rest of a long name stands.
    rest_start: u32,
    name_len: u8,
    name: [u8; INLINE_NAME_LEN],
}

const INLINE_NAME_LEN: usize = 35;
const _: () = assert!(size_of::<Entry>() == 64);

impl Entry {
    #[inline]
    fn has_name(&self, name: &[u8], rests: &[u8]) -> bool {
        if name.len() != usize::from(self.name_len) {
            return false;
        }
        if let Some(inline) = self.name.get(..name.len()) {
            return inline == name;
        }
        let (head, rest) = name.split_at(INLINE_NAME_LEN);
        let start = self.rest_start as usize;
        head == self.name && rests.get(start..start + rest.len()) == Some(rest)
    }
}

/// A stream's last event; zeros for a stream that was never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamTip {
    pub(crate) revision: u64,
    pub(crate) position: u64,
}

/// Open addressing, linear probing; a slot holds the upper half of the hash and the stream's number + 1.
#[derive(Debug)]
pub(crate) struct Directory {
    hash: NameHash,
    slots: Vec<u64>,
    entries: Vec<Entry>,
    /// What does not fit into the entries of long names.
    rests: Vec<u8>,
}

impl Directory {
    pub(crate) fn new(hash: NameHash) -> Self {
        Self { hash, slots: vec![0; 1024], entries: Vec::new(), rests: Vec::new() }
    }

    pub(crate) fn hash_of(&self, stream: &str) -> u64 {
        self.hash.key(KeyKind::Stream, stream)
    }

    /// Number of streams that were written; names of refused batches may stand here as well. Walks them all.
    pub(crate) fn written_count(&self) -> usize {
        self.entries.iter().filter(|entry| entry.last_revision > 0).count()
    }

    /// Begins to load what a look-up of this hash will look at first.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        prefetch(&self.slots[hash as usize & (self.slots.len() - 1)]);
    }

    /// Begins to load the entry that a look-up of this hash will come to. What it looks at itself has been asked for.
    #[inline]
    pub(crate) fn prefetch_entry(&self, hash: u64) {
        let slot = self.slots[hash as usize & (self.slots.len() - 1)];
        if let Some(entry) = self.entries.get((slot & 0xffff_ffff).wrapping_sub(1) as usize) {
            prefetch(entry);
        }
    }

    #[inline]
    pub(crate) fn find(&self, hash: u64, stream: &str) -> Option<StreamNumber> {
        let mask = self.slots.len() - 1;
        let mut index = hash as usize & mask;
        loop {
            let slot = self.slots[index];
            if slot == 0 {
                return None;
            }
            if slot >> 32 == hash >> 32 {
                let number = (slot & 0xffff_ffff) as u32 - 1;
                let entry = &self.entries[number as usize];
                if entry.hash == hash && entry.has_name(stream.as_bytes(), &self.rests) {
                    return Some(StreamNumber(number));
                }
            }
            index = (index + 1) & mask;
        }
    }

    fn enter(&mut self, hash: u64, number: u32) {
        let mask = self.slots.len() - 1;
        let mut index = hash as usize & mask;
        while self.slots[index] != 0 {
            index = (index + 1) & mask;
        }
        self.slots[index] = (hash >> 32) << 32 | (u64::from(number) + 1);
    }

    /// The stream's number; a new one if it is not known yet. Only a new name allocates.
    #[inline]
    pub(crate) fn find_or_add(&mut self, hash: u64, stream: &str) -> StreamNumber {
        if let Some(found) = self.find(hash, stream) {
            return found;
        }
        self.add(hash, stream)
    }

    #[cold]
    fn add(&mut self, hash: u64, stream: &str) -> StreamNumber {
        let number = u32::try_from(self.entries.len()).expect("fewer than 2^32 streams");
        let rest_start = u32::try_from(self.rests.len()).expect("what is long of names takes less than 4 GiB");
        let name_len = u8::try_from(stream.len()).expect("names are checked before");
        let (head, rest) = stream.as_bytes().split_at(stream.len().min(INLINE_NAME_LEN));
        let mut name = [0; INLINE_NAME_LEN];
        name[..head.len()].copy_from_slice(head);
        self.rests.extend_from_slice(rest);
        self.entries.push(Entry { hash, last_position: 0, last_revision: 0, rest_start, name_len, name });
        if self.entries.len() * 3 > self.slots.len() * 2 {
            self.slots = vec![0; self.slots.len() * 2];
            for number in 0..self.entries.len() {
                self.enter(self.entries[number].hash, number as u32);
            }
        } else {
            self.enter(hash, number);
        }
        StreamNumber(number)
    }

    #[inline]
    pub(crate) fn tip(&self, number: StreamNumber) -> StreamTip {
        let entry = &self.entries[number.0 as usize];
        StreamTip { revision: entry.last_revision, position: entry.last_position }
    }

    /// Takes the next revision of a stream for the event at `position`.
    #[inline]
    pub(crate) fn advance(&mut self, number: StreamNumber, position: u64) -> u64 {
        let entry = &mut self.entries[number.0 as usize];
        entry.last_revision += 1;
        entry.last_position = position;
        entry.last_revision
    }

    /// Sets what recovery found.
    pub(crate) fn set(&mut self, stream: &str, tip: StreamTip) {
        let hash = self.hash_of(stream);
        let number = self.find_or_add(hash, stream);
        self.set_tip(number, tip);
    }

    #[inline]
    pub(crate) fn set_tip(&mut self, number: StreamNumber, tip: StreamTip) {
        let entry = &mut self.entries[number.0 as usize];
        entry.last_revision = tip.revision;
        entry.last_position = tip.position;
    }
}
