//! The bytes of a file of the index, each block verified before it is first read.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use annals_format::Purpose;
use annals_format::index_file::{BLOCK_LEN, CheckTable, FILE_HEADER_LEN, FileHeader, Touch, root_of};

use crate::Result;
use crate::error::Error;
use crate::options::ReadMode;
use crate::storage::{Map, StorageFile};

/// A file that the index manifest names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListedFile<'a> {
    pub(crate) name: &'a str,
    pub(crate) file: &'a Arc<dyn StorageFile>,
    pub(crate) len: u64,
    pub(crate) root: u32,
}

/// How much from the end on is asked for when a file is listed: nearly always the root and the table of checksums.
const END_LEN: u64 = 64 << 10;

/// Begins to bring what [`Blocks::open`] reads into memory: for files that are asked one after the other.
pub(crate) fn announce(file: &dyn StorageFile, len: u64) {
    file.will_need(0, FILE_HEADER_LEN as u64);
    file.will_need(len.saturating_sub(END_LEN), END_LEN);
}

#[derive(Debug)]
pub(crate) struct Blocks {
    name: String,
    /// Through which a mapped block is read to be verified: one that cannot be read is an error there, and not a signal.
    file: Option<Arc<dyn StorageFile>>,
    map: Map,
    table: CheckTable,
    /// The table's bytes: kept, so that a block is judged by what was verified with the root.
    checks: Vec<u8>,
    /// One bit a block.
    verified: Box<[AtomicU64]>,
    broken: AtomicBool,
}

impl Blocks {
    /// Header and table verified, and known by the root for the file that is meant.
    pub(crate) fn open(listed: &ListedFile<'_>, mode: ReadMode) -> Result<(Self, FileHeader)> {
        let ListedFile { name, file, .. } = *listed;
        let len = file.len().map_err(Error::io("measure", name))?;
        if len != listed.len {
            let what = format!("the file is {len} bytes long, the index manifest says {}", listed.len);
            return Err(Error::corrupt(name, len.min(listed.len), None, what));
        }
        let head = read(&**file, name, 0, FILE_HEADER_LEN)?;
        // A tier is read or replaced, never changed.
        let header =
            FileHeader::decode_for(&head, Purpose::Read).map_err(|fault| Error::damaged(name, 0, None, &fault, 0))?;
        if root_of(&head) != listed.root || header.table.file_len() != len {
            return Err(Error::corrupt(name, 16, None, "the file is not the one that the index manifest names"));
        }
        let table = header.table;
        let end = table.archive().end;
        let checks = read(&**file, name, end as u64, len as usize - end)?;
        table.verify_table(&checks).map_err(|fault| Error::damaged(name, end as u64, None, &fault, 0))?;
        let map = match mode {
            ReadMode::Mapped => file.map_for_lookups().map_err(Error::io("map", name))?,
            ReadMode::Pread => Map::from(read(&**file, name, 0, len as usize)?),
        };
        if map.len() as u64 != len {
            return Err(Error::corrupt(name, len, None, "the file has changed its length"));
        }
        let blocks = Self {
            name: name.to_owned(),
            file: (mode == ReadMode::Mapped).then(|| file.clone()),
            map,
            table,
            checks,
            verified: (0..table.block_count().div_ceil(u64::BITS)).map(|_| AtomicU64::new(0)).collect(),
            broken: AtomicBool::new(false),
        };
        Ok((blocks, header))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn block_count(&self) -> u32 {
        self.table.block_count()
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// What is wrong at this place, noted.
    pub(super) fn broken_at(&self, offset: usize, fault: &annals_format::Fault) -> Error {
        self.broken.store(true, Ordering::Relaxed);
        Error::damaged(&self.name, offset as u64, None, fault, 0)
    }

    #[inline]
    fn is_verified(&self, block: u32) -> bool {
        let word = self.verified.get((block / u64::BITS) as usize);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (block % u64::BITS)) != 0)
    }

    /// Verifies this block, if that was not done before.
    #[inline]
    pub(crate) fn ensure(&self, block: u32) -> Result<()> {
        if self.is_verified(block) { Ok(()) } else { self.verify(block) }
    }

    /// Verifies the blocks from `from` on that are in memory, and enters their pages, until `goes_on` says no or a block is not
    /// in memory. Answers the first that was not looked at; `None` if there is no use in going on.
    pub(crate) fn verify_resident(&self, from: u32, goes_on: impl Fn() -> bool) -> Option<u32> {
        /// As many as are looked at between two questions to `goes_on`.
        const TOGETHER: u32 = 64;
        let file = self.file.as_ref()?;
        let (mut bytes, mut block) = ([0; BLOCK_LEN], from);
        while block < self.block_count() {
            if !goes_on() {
                return Some(block);
            }
            let until = self.block_count().min(block + TOGETHER);
            let first = self.table.block(block).start;
            let mut end = first;
            for block in block..until {
                let place = self.table.block(block);
                if !self.is_verified(block) {
                    let bytes = &mut bytes[..place.len()];
                    if !file.read_resident_at(place.start as u64, bytes).unwrap_or(false) {
                        self.map.enter_pages(first..end);
                        return None;
                    }
                    if let Err(fault) = self.table.check_block_bytes(&self.checks, block, bytes) {
                        self.broken_at(place.start, &fault);
                        return None;
                    }
                    self.set_verified(block);
                }
                end = place.end;
            }
            self.map.enter_pages(first..end);
            block = until;
        }
        None
    }

    /// Two threads may both verify a block: the bit says no more than that its bytes are right.
    fn set_verified(&self, block: u32) {
        self.verified[(block / u64::BITS) as usize].fetch_or(1 << (block % u64::BITS), Ordering::Relaxed);
    }

    #[cold]
    fn verify(&self, block: u32) -> Result<()> {
        let place = self.table.block(block);
        let checked = match &self.file {
            Some(file) => {
                let mut bytes = [0; BLOCK_LEN];
                let got = file.read_at(place.start as u64, &mut bytes[..place.len()]).map_err(|error| {
                    self.broken.store(true, Ordering::Relaxed);
                    Error::io("read", &self.name)(error)
                })?;
                self.table.check_block_bytes(&self.checks, block, &bytes[..got])
            }
            None => self.table.check_block_bytes(&self.checks, block, &self.map[place.clone()]),
        };
        checked.map_err(|fault| self.broken_at(place.start, &fault))?;
        self.set_verified(block);
        Ok(())
    }
}

impl Touch for Blocks {
    type Error = Error;

    #[inline]
    fn touch(&self, range: Range<usize>) -> Result<()> {
        self.table.blocks_of(range).try_for_each(|block| self.ensure(block))
    }
}

fn read(file: &dyn StorageFile, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let got = file.read_at(offset, &mut bytes).map_err(Error::io("read", name))?;
    if got < len {
        return Err(Error::corrupt(name, offset + got as u64, None, "the file ends before the index does"));
    }
    Ok(bytes)
}
