//! One file of the directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use annals_format::directory::{Directory as Rows, DirectoryLayout};
use annals_format::index_file::{FileIdentity, FileKind, Touch, Verified};
use annals_format::index_manifest::DirectoryEntry;

use super::StreamTip;
use crate::Result;
use crate::error::Error;
use crate::once::OnceLock;
use crate::options::ReadMode;
use crate::prefetch::{prefetch, prefetch_lines};
use crate::storage::{Access, Storage, StorageFile};
use crate::tiers::{Blocks, Expected, ListedFile, announce, number_in};

const STREAMS: &str = "streams-";

pub(crate) fn directory_name(number: u64) -> String {
    format!("{STREAMS}{number:020}.idx")
}

pub(crate) fn directory_number(name: &str) -> Option<u64> {
    number_in(name.strip_prefix(STREAMS)?.strip_suffix(".idx")?)
}

/// The streams written between two positions, each with its last event there. The file is opened when it is listed, and
/// read when it is first asked.
#[derive(Debug)]
pub(crate) struct DirectoryFile {
    entry: DirectoryEntry,
    first_position: u64,
    expected: Expected,
    name: String,
    mode: ReadMode,
    file: Arc<dyn StorageFile>,
    opened: OnceLock<Opened>,
    broken: AtomicBool,
}

#[derive(Debug)]
struct Opened {
    blocks: Blocks,
    layout: DirectoryLayout,
}

impl DirectoryFile {
    /// A file that the index manifest names, of the positions from `first_position` on, if it is there and has the right
    /// length. Nothing of it is read.
    pub(super) fn listed(
        storage: &dyn Storage,
        entry: &DirectoryEntry,
        first_position: u64,
        expected: Expected,
        mode: ReadMode,
    ) -> Result<Self> {
        let name = directory_name(entry.number);
        let file = storage.open(&name, Access::Read).map_err(Error::io("open", &name))?;
        let len = file.len().map_err(Error::io("measure", &name))?;
        if len != entry.len {
            let what = format!("the file is {len} bytes long, the index manifest says {}", entry.len);
            return Err(Error::corrupt(&name, len.min(entry.len), None, what));
        }
        announce(&*file, len);
        let (opened, broken) = (OnceLock::new(), AtomicBool::new(false));
        Ok(Self { entry: *entry, first_position, expected, name, mode, file, opened, broken })
    }

    pub(crate) fn entry(&self) -> &DirectoryEntry {
        &self.entry
    }

    pub(crate) fn first_position(&self) -> u64 {
        self.first_position
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether something was found wrong with it: nobody may ask it.
    #[inline]
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed) || self.opened.get().is_some_and(|opened| opened.blocks.is_broken())
    }

    /// Says that it is to be made anew.
    pub(crate) fn set_broken(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    #[inline]
    fn opened(&self) -> Result<&Opened> {
        match self.opened.get() {
            Some(opened) => Ok(opened),
            None => self.open(),
        }
    }

    #[cold]
    fn open(&self) -> Result<&Opened> {
        match self.read_head() {
            Ok(opened) => Ok(self.opened.get_or_init(|| opened)),
            // Made by a later version: it is not for this one to throw away.
            Err(error @ Error::Unsupported { .. }) => Err(error),
            Err(error) => {
                self.set_broken();
                Err(error)
            }
        }
    }

    pub(super) fn listed_file(&self) -> ListedFile<'_> {
        ListedFile { name: &self.name, file: &self.file, len: self.entry.len, root: self.entry.root }
    }

    /// What its header must say.
    pub(super) fn identity(&self) -> FileIdentity {
        FileIdentity {
            kind: FileKind::Directory,
            store: self.expected.store,
            number: self.entry.number,
            generation: self.entry.generation,
            name_hash_seed: self.expected.name_hash_seed,
            first_position: self.first_position,
            last_position: self.entry.coverage,
            final_checksum: self.expected.final_checksum,
        }
    }

    fn read_head(&self) -> Result<Opened> {
        let (blocks, header) = Blocks::open(&self.listed_file(), self.mode)?;
        if header.identity != self.identity() {
            return Err(Error::corrupt(&self.name, 32, None, "the directory is that of another store or history"));
        }
        let root = DirectoryLayout::root(&header);
        blocks.touch(root.clone())?;
        let layout = DirectoryLayout::read(blocks.bytes(), &header)
            .map_err(|fault| Error::damaged(&self.name, root.start as u64, None, &fault, 0))?;
        if u64::from(layout.row_count()) != self.entry.row_count {
            return Err(Error::corrupt(&self.name, root.start as u64, None, "the number of streams is another"));
        }
        Ok(Opened { blocks, layout })
    }

    /// The stream's last event between the file's positions. About 50 ns, if what is read was verified and is near.
    ///
    /// # Errors
    /// `Corrupt` or `Io` if what must be read is damaged, then the file [is broken](DirectoryFile::is_broken);
    /// `Unsupported`.
    #[inline]
    pub(super) fn find(&self, hash: u64, stream: &str) -> Result<Option<StreamTip>> {
        let Opened { blocks, layout } = self.opened()?;
        let found = layout.over(blocks.bytes(), blocks).find(hash, stream.as_bytes())?;
        Ok(found.map(|tip| StreamTip { revision: tip.revision, position: tip.position }))
    }

    /// As [`Blocks::verify_resident`].
    pub(crate) fn verify_resident(&self, from: u32, goes_on: impl Fn() -> bool) -> Option<u32> {
        self.opened().ok()?.blocks.verify_resident(from, goes_on)
    }

    /// Begins to load what [`DirectoryFile::find`] looks at, if the file was read before: rows, and the name where it stands
    /// if all names are about as long. Verifies nothing.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        let Some(Opened { blocks, layout }) = self.opened.get() else { return };
        let file = blocks.bytes();
        for place in layout.next_reads(file, hash) {
            // Not more lines than a look-up reads.
            prefetch_lines(file.get(place).unwrap_or_default(), 4);
        }
    }

    /// Begins to load what [`DirectoryFile::prefetch`] looks at, if the file was read before.
    #[inline]
    pub(super) fn prefetch_first(&self, hash: u64) {
        if let Some(Opened { blocks, layout }) = self.opened.get()
            && let Some(bytes) = blocks.bytes().get(layout.first_read(hash))
        {
            bytes.first().into_iter().for_each(prefetch);
        }
    }

    /// As a look-up in this file alone answers.
    ///
    /// # Errors
    /// As those.
    pub(crate) fn tip(&self, hash: u64, stream: &str) -> Result<Option<StreamTip>> {
        self.find(hash, stream)
    }

    /// Number of streams.
    pub(crate) fn row_count(&self) -> u64 {
        self.entry.row_count
    }

    /// Verifies every block; those that were verified before are read again.
    pub(crate) fn check_all(&self) -> Result<()> {
        let verify = || {
            let (fresh, _) = Blocks::open(&self.listed_file(), self.mode)?;
            (0..fresh.block_count()).try_for_each(|block| fresh.ensure(block))
        };
        verify().inspect_err(|error| {
            if !matches!(error, Error::Unsupported { .. }) {
                self.set_broken();
            }
        })?;
        self.opened().map(drop)
    }

    /// All rows, every block verified.
    pub(crate) fn verified(&self) -> Result<Rows<'_, Verified>> {
        let Opened { blocks, layout } = self.opened()?;
        (0..blocks.block_count()).try_for_each(|block| blocks.ensure(block))?;
        Ok(layout.over(blocks.bytes(), Verified))
    }
}
