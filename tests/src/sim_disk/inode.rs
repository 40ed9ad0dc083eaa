//! A file's two images, and what lies between them.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use annals::storage::{MemoryFile, StorageFile};

use super::SECTOR_LEN;
use super::dice::Dice;
use super::loss::Loss;

/// Moments kept of a file that is stored to through a map.
const HISTORY_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Inode {
    id: u64,
    len: usize,
    /// The live image.
    content: MemoryFile,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// The durable image; behind its end there are zeros.
    durable: Vec<u8>,
    /// The live image at the last sync, where it is not the durable one: after a sync that failed, and always for a
    /// file that is stored to through a map.
    settled: Option<Vec<u8>>,
    /// Writes since the last sync, oldest first.
    unsynced: Vec<Write>,
    /// No byte at or above was ever written.
    end: usize,
    ever_synced: bool,
    shared: Option<Shared>,
}

#[derive(Clone, Debug)]
struct Write {
    sequence: u64,
    offset: usize,
    bytes: Vec<u8>,
}

/// Stores through a map are not seen by the disk. It looks now and then, and when it is asked.
#[derive(Clone, Debug, Default)]
struct Shared {
    history: Vec<Vec<u8>>,
    /// The live image when the power was cut: threads of the dead machine still run and store.
    frozen: Option<Vec<u8>>,
}

impl Inode {
    /// A new file; not synced.
    pub(super) fn new(id: u64, len: u64) -> Self {
        let len = usize::try_from(len).expect("a simulated file fits in memory");
        Self { id, len, content: file_of(len, &[]), state: Mutex::default() }
    }

    /// A file whose content is durable.
    pub(super) fn durable(id: u64, len: usize, durable: Vec<u8>) -> Self {
        let content = file_of(len, &durable);
        let end = durable.len();
        let state = State { durable, end, ever_synced: true, ..State::default() };
        Self { id, len, content, state: Mutex::new(state) }
    }

    /// The same file for the next process: the same content, not synced where it was not.
    pub(super) fn copied(&self) -> Self {
        let mut state = self.state().clone();
        let content = file_of(self.len, &self.live_up_to(&state));
        if let Some(shared) = &mut state.shared {
            shared.frozen = None;
        }
        Self { id: self.id, len: self.len, content, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    pub(super) fn content(&self) -> &MemoryFile {
        &self.content
    }

    /// The whole live image.
    pub(super) fn live(&self) -> Vec<u8> {
        let mut bytes = self.live_up_to(&self.state());
        bytes.resize(self.len, 0);
        bytes
    }

    /// The live image up to the last byte that can be other than zero.
    fn live_up_to(&self, state: &State) -> Vec<u8> {
        match &state.shared {
            Some(Shared { frozen: Some(frozen), .. }) => frozen.clone(),
            Some(_) => self.content.to_vec(),
            None => self.read(0..state.end),
        }
    }

    fn read(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0; range.len()];
        let count = self.content.read_at(range.start as u64, &mut bytes).expect("memory is read without fail");
        assert_eq!(count, bytes.len(), "a range inside the file");
        bytes
    }

    pub(super) fn write(&self, sequence: u64, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        self.content.write_at(offset, &[IoSlice::new(&bytes)])?;
        let mut state = self.state();
        let offset = offset as usize;
        state.end = state.end.max(offset + bytes.len());
        // What is stored through a map cannot be told from what is written, so neither is listed.
        if state.shared.is_none() {
            state.unsynced.push(Write { sequence, offset, bytes });
        }
        Ok(())
    }

    /// Makes the content durable, but for what an earlier failure gave up and nobody wrote since.
    pub(super) fn sync(&self) {
        let state = &mut *self.state();
        state.ever_synced = true;
        if state.shared.is_some() {
            self.sync_shared(state);
            return;
        }
        let unsynced = std::mem::take(&mut state.unsynced);
        for write in unsynced {
            let range = self.whole_sectors(write.offset..write.offset + write.bytes.len());
            let live = self.read(range.clone());
            put(&mut state.durable, range.start, &live);
            if let Some(settled) = &mut state.settled {
                put(settled, range.start, &live);
            }
            state.end = state.end.max(range.end);
        }
    }

    fn sync_shared(&self, state: &mut State) {
        let live = self.content.to_vec();
        let settled = state.settled.replace(live.clone()).expect("a shared file has a settled image");
        for start in (0..live.len()).step_by(SECTOR_LEN) {
            let sector = &live[start..live.len().min(start + SECTOR_LEN)];
            if settled[start..start + sector.len()] != *sector {
                put(&mut state.durable, start, sector);
            }
        }
        if let Some(shared) = &mut state.shared {
            shared.history.clear();
        }
    }

    /// A failed sync: the pages are clean now, although the disk never got them.
    pub(super) fn give_up_unsynced(&self) {
        let state = &mut *self.state();
        state.settled = Some(self.live_up_to(state));
        state.unsynced.clear();
        if let Some(shared) = &mut state.shared {
            shared.history.clear();
        }
    }

    fn whole_sectors(&self, range: Range<usize>) -> Range<usize> {
        range.start / SECTOR_LEN * SECTOR_LEN..range.end.next_multiple_of(SECTOR_LEN).min(self.len)
    }

    /// From now on the file is stored to through a map; `false` if it was already.
    pub(super) fn share(&self) -> bool {
        let state = &mut *self.state();
        if state.shared.is_some() {
            return false;
        }
        // From here on everything in which the live image differs from the settled one is unsynced, whether it
        // was written or stored.
        state.settled.get_or_insert_with(|| state.durable.clone()).resize(self.len, 0);
        state.durable.resize(self.len, 0);
        state.unsynced.clear();
        state.end = self.len;
        state.shared = Some(Shared::default());
        true
    }

    pub(super) fn is_shared(&self) -> bool {
        self.state().shared.is_some()
    }

    /// Whether a shared file holds, or held since its last sync, what is not synced.
    pub(super) fn is_stored_to(&self) -> bool {
        let state = self.state();
        let Some(shared) = &state.shared else {
            return false;
        };
        !shared.history.is_empty() || state.settled.as_ref() != Some(&self.live_up_to(&state))
    }

    /// Notes what a shared file holds at this moment, if that is not what was synced.
    pub(super) fn note_history(&self, step: u64) {
        let state = &mut *self.state();
        let Some(shared) = &mut state.shared else {
            return;
        };
        let live = self.content.to_vec();
        if shared.frozen.is_some() || state.settled.as_ref() == Some(&live) {
            return;
        }
        if shared.history.len() < HISTORY_MAX {
            shared.history.push(live);
        } else {
            shared.history[Dice::of(step, self.id).index(HISTORY_MAX)] = live;
        }
    }

    /// Keeps what a shared file holds at this moment as the last that it ever held.
    pub(super) fn freeze(&self) {
        if let Some(shared) = &mut self.state().shared {
            shared.frozen.get_or_insert_with(|| self.content.to_vec());
        }
    }

    pub(super) fn add_unsynced(&self, sequence: &mut Vec<u64>) {
        let state = self.state();
        let numbers = state.unsynced.iter().map(|write| write.sequence);
        for number in numbers {
            // A torn write is several pieces of one number.
            if sequence.last() != Some(&number) {
                sequence.push(number);
            }
        }
    }

    /// Length and durable image after a power cut.
    pub(super) fn after_loss(&self, loss: &mut Loss<'_>) -> (usize, Vec<u8>) {
        let state = self.state();
        let mut image = state.durable.clone();
        if state.shared.is_some() {
            self.mix_shared(&state, &mut image, loss);
        } else if !state.unsynced.is_empty() {
            self.write_back(&state, &mut image, loss);
        }
        let len = if state.ever_synced { self.len } else { loss.len_of_never_synced(self.len) };
        image.truncate(len);
        (len, image)
    }

    /// Replays the writes into the cache; each time the device may get the sectors as they are then.
    fn write_back(&self, state: &State, image: &mut Vec<u8>, loss: &mut Loss<'_>) {
        let mut cache = state.settled.as_ref().unwrap_or(&state.durable).clone();
        image.resize(self.len.min(state.end.next_multiple_of(SECTOR_LEN)).max(image.len()), 0);
        cache.resize(image.len(), 0);
        for write in &state.unsynced {
            let range = write.offset..write.offset + write.bytes.len();
            cache[range.clone()].copy_from_slice(&write.bytes);
            let sectors = self.whole_sectors(range.clone());
            let mut fate = loss.fate_of_write(write.sequence, write.bytes.len());
            for start in sectors.clone().step_by(SECTOR_LEN) {
                let sector = start..sectors.end.min(start + SECTOR_LEN);
                let kept = start..start + fate.bytes_of_sector(range.start, &sector);
                image[kept.clone()].copy_from_slice(&cache[kept]);
            }
        }
    }

    fn mix_shared(&self, state: &State, image: &mut [u8], loss: &mut Loss<'_>) {
        let Some(shared) = &state.shared else { return };
        let live = self.live_up_to(state);
        let settled = state.settled.as_ref().expect("a shared file has a settled image");
        if shared.history.is_empty() && live == *settled {
            return;
        }
        let mut versions: Vec<&[u8]> = shared.history.iter().map(Vec::as_slice).collect();
        versions.push(&live);
        let mut fate = loss.fate_of_shared(versions.len());
        for start in (0..self.len).step_by(SECTOR_LEN) {
            let sector = start..self.len.min(start + SECTOR_LEN);
            let Some(version) = fate.version() else {
                continue;
            };
            let bytes = &versions[version][sector.clone()];
            // What a failed sync gave up is clean: it is written back only if it changed since.
            if settled[sector.clone()] != *bytes {
                image[sector].copy_from_slice(bytes);
            }
        }
    }
}

fn file_of(len: usize, bytes: &[u8]) -> MemoryFile {
    let file = MemoryFile::new(len as u64).expect("memory for a simulated file");
    file.overwrite(&bytes[..bytes.len().min(len)]);
    file
}

/// Copies `bytes` to `start`, growing the image where it is too short.
fn put(image: &mut Vec<u8>, start: usize, bytes: &[u8]) {
    let end = start + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[start..end].copy_from_slice(bytes);
}
