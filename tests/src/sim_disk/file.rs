//! An open file of the simulated disk.

use std::io::{self, IoSlice};
use std::sync::Arc;

use annals::storage::{Access, Map, SharedMap, StorageFile};

use super::fault::{FaultKind, Verdict};
use super::inode::Inode;
use super::kind::{Call, WriteKind};
use super::{Machine, SECTOR_LEN};

#[derive(Debug)]
pub(super) struct SimFile {
    machine: Arc<Machine>,
    inode: Arc<Inode>,
    /// As it was opened, to tell what is written.
    name: String,
    access: Access,
}

impl SimFile {
    pub(super) fn new(machine: Arc<Machine>, inode: Arc<Inode>, name: &str, access: Access) -> Self {
        Self { machine, inode, name: name.to_owned(), access }
    }
}

impl StorageFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.machine.check_on()?;
        Ok(self.inode.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.machine.run(Call::Read, WriteKind::of_file(&self.name), |_, _| self.inode.content().read_at(offset, buf))
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.inode.len()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let kind = WriteKind::of_write(&self.name, offset, &bytes);
        self.machine.run(Call::Write, kind, |state, verdict| {
            let sequence = state.next_sequence();
            match verdict {
                Verdict::Go | Verdict::Cut => self.inode.write(sequence, offset, bytes),
                Verdict::Fail(FaultKind::ShortWrite) => {
                    self.inode.write(sequence, offset, bytes[..bytes.len() / 2].to_vec())
                }
                Verdict::Fail(FaultKind::TornWriteHalf) => {
                    for (start, piece) in sectors(offset, &bytes).step_by(2) {
                        self.inode.write(sequence, start, piece.to_vec())?;
                    }
                    Ok(())
                }
                Verdict::Fail(_) => Ok(()),
            }
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.machine.run(Call::Sync, WriteKind::of_file(&self.name), |_, verdict| {
            match verdict {
                Verdict::Go => self.inode.sync(),
                Verdict::Cut => {}
                Verdict::Fail(_) => self.inode.give_up_unsynced(),
            }
            Ok(())
        })
    }

    fn map(&self) -> io::Result<Map> {
        self.machine.run(Call::Map, WriteKind::of_file(&self.name), |_, _| self.inode.content().map())
    }

    fn map_shared(&self) -> io::Result<SharedMap> {
        self.machine.run(Call::Map, WriteKind::of_file(&self.name), |state, verdict| {
            if self.access == Access::ReadWrite && !verdict.is_fault() && self.inode.share() {
                state.shared.push(Arc::downgrade(&self.inode));
            }
            self.inode.content().for_access(self.access).map_shared()
        })
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }
}

/// The bytes cut at sector borders, each piece with its place.
fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let sector = SECTOR_LEN as u64;
    let first = bytes.len().min((offset.next_multiple_of(sector) - offset) as usize);
    let (head, rest) = bytes.split_at(first);
    let start = offset + first as u64;
    let head = (!head.is_empty()).then_some((offset, head));
    head.into_iter().chain(rest.chunks(SECTOR_LEN).zip((start..).step_by(SECTOR_LEN)).map(|(b, at)| (at, b)))
}
