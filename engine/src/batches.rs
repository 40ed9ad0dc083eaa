//! A segment read front to back by ordinary calls, batch by batch, each verified whole.

use std::sync::Arc;

use annals_format::batch::{BATCH_HEADER_LEN, BatchHeader};
use annals_format::checksum::{Identity, crc};
use annals_format::manifest::{SegmentEntry, SegmentState};
use annals_format::scan::{self, Step};
use annals_format::segment::{END_MARK_LEN, SEGMENT_HEADER_LEN, SegmentHeader};
use annals_format::{Fault, record::Record};

use crate::Result;
use crate::compacted::{Container, open_segment_file};
use crate::error::Error;
use crate::options::ReadMode;
use crate::prepare::no_room;
use crate::segment::Tally;
use crate::storage::{Storage, StorageFile};

/// So much is read at once where a batch does not need more.
const READ_AHEAD: usize = 256 << 10;

/// The bytes of one segment, wherever they lie.
pub(crate) trait SegmentBytes {
    /// How many there are at most.
    fn len(&self) -> u64;

    /// Reads until `buffer` is full or the bytes end; answers how many were read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// File that holds the byte at `offset`, and where in it.
    fn place(&self, offset: u64) -> (String, u64);
}

/// A segment in its own file, or in its container.
pub(crate) struct SegmentFile {
    pub(crate) name: String,
    file: Arc<dyn StorageFile>,
    len: u64,
}

impl SegmentFile {
    pub(crate) fn open(storage: &dyn Storage, name: &str) -> Result<Self> {
        let file = open_segment_file(storage, name).map_err(Error::io("open", name))?;
        let len = file.len().map_err(Error::io("measure", name))?;
        Ok(Self { name: name.to_owned(), file, len })
    }
}

impl SegmentBytes for SegmentFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.file.read_at(offset, buffer).map_err(Error::io("read", &self.name))
    }

    fn place(&self, offset: u64) -> (String, u64) {
        (self.name.clone(), offset)
    }
}

/// Where a walk through a segment stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Offset of the next batch.
    pub(crate) at: u64,
    /// The position it begins with.
    pub(crate) position: u64,
    /// The time it does not lie before.
    pub(crate) time: u64,
    /// What lies before it.
    pub(crate) tally: Tally,
}

/// A part of a segment in memory, moved along it.
pub(crate) struct Window<'a> {
    pub(crate) source: &'a dyn SegmentBytes,
    bytes: Vec<u8>,
    at: u64,
}

impl<'a> Window<'a> {
    pub(crate) fn on(source: &'a dyn SegmentBytes) -> Self {
        Self { source, bytes: Vec::new(), at: 0 }
    }

    /// Bytes `at..at + len`, or as many of them as there are.
    pub(crate) fn fetch(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let end = self.at + self.bytes.len() as u64;
        if at < self.at || at.saturating_add(len as u64) > end {
            let there = self.source.len().saturating_sub(at);
            let wanted = (len.max(READ_AHEAD) as u64).min(there) as usize;
            self.bytes.resize(wanted, 0);
            self.at = at;
            let got = self.source.read_at(at, &mut self.bytes)?;
            self.bytes.truncate(got);
        }
        let from = (at - self.at) as usize;
        let to = from.saturating_add(len).min(self.bytes.len());
        Ok(&self.bytes[from.min(to)..to])
    }
}

/// A walk through a segment's batches.
pub(crate) struct Batches<'a> {
    window: Window<'a>,
    pub(crate) header: SegmentHeader,
    pub(crate) standing: Standing,
    /// Offset of the batch that was read last.
    last: u64,
}

impl<'a> Batches<'a> {
    /// Reads and verifies the header, which must be that of `identity`, and stands before the first batch.
    pub(crate) fn begin(bytes: &'a dyn SegmentBytes, identity: &Identity, time: u64) -> Result<Self> {
        let mut window = Window::on(bytes);
        let (name, offset) = bytes.place(0);
        let header = match SegmentHeader::decode(window.fetch(0, SEGMENT_HEADER_LEN)?) {
            Ok(Some(header)) if header.identity == *identity => header,
            Ok(Some(_)) => {
                return Err(Error::corrupt(&name, offset + 40, None, "the header is that of another segment"));
            }
            Ok(None) => return Err(Error::corrupt(&name, offset, None, "the header is empty")),
            Err(fault) => return Err(Error::damaged(&name, offset, None, &fault, 0)),
        };
        let standing = Standing {
            at: SEGMENT_HEADER_LEN as u64,
            position: header.first_position,
            time,
            tally: Tally::new(header.seed()),
        };
        Ok(Self { window, header, standing, last: 0 })
    }

    /// Goes on from what was walked before.
    pub(crate) fn resume(mut self, standing: Standing) -> Self {
        self.standing = standing;
        self
    }

    /// The header's bytes. Only before the first batch was read.
    pub(crate) fn header_page(&mut self) -> Result<&[u8]> {
        self.window.fetch(0, SEGMENT_HEADER_LEN)
    }

    /// What stands next: a batch that continues the log, the end mark that belongs there, or nothing yet. Not verified
    /// further.
    pub(crate) fn peek(&mut self) -> Result<Step> {
        let (at, seed) = (self.standing.at, self.header.seed());
        let step = scan::next(self.window.fetch(at, END_MARK_LEN)?, seed);
        step.map_err(|fault| self.damaged(&fault))
    }

    /// Verifies the batch that stands next and passes it. [`Batches::batch`] then gives its bytes.
    pub(crate) fn pass(&mut self, header: &BatchHeader) -> Result<()> {
        let Standing { at, position, time, .. } = self.standing;
        if header.first_position != position {
            return Err(self.damaged(&Fault::Position { expected: position, found: header.first_position }));
        }
        if header.recorded_at < time {
            return Err(self.damaged(&Fault::Order { what: "recorded_at" }));
        }
        let seed = self.header.seed();
        let mut controls = 0;
        let bytes = self.window.fetch(at, header.len())?;
        let whole = scan::verify_batch(bytes, header, seed, |_, _, record| {
            controls += u64::from(matches!(record, Record::Control(_)));
        });
        if let Err(fault) = whole {
            return Err(self.damaged(&fault));
        }
        let head = self.window.fetch(at, BATCH_HEADER_LEN)?.to_vec();
        self.standing.tally.add(header, &head, controls);
        self.last = at;
        self.standing.at = at + header.len() as u64;
        self.standing.position = header.last_position() + 1;
        self.standing.time = header.recorded_at;
        Ok(())
    }

    /// The bytes of the batch that was passed last.
    pub(crate) fn batch(&mut self) -> Result<&[u8]> {
        let len = (self.standing.at - self.last) as usize;
        self.window.fetch(self.last, len)
    }

    /// The next batch, verified, up to `until`; an error if something else stands before that.
    pub(crate) fn next_below(&mut self, until: u64) -> Result<Option<BatchHeader>> {
        if self.standing.at >= until {
            return Ok(None);
        }
        match self.peek()? {
            Step::Batch(header) if self.standing.at + header.len() as u64 <= until => {
                self.pass(&header)?;
                Ok(Some(header))
            }
            Step::Batch(_) => Err(self.wrong("a batch reaches beyond the segment's end")),
            Step::End(_) => Err(self.wrong("an end mark stands where a batch belongs")),
            Step::Clean => Err(self.wrong("zeros stand where a batch belongs")),
        }
    }

    /// That all of a listed segment was walked, and that it is the one listed; answers the bytes of its end mark, if it
    /// has one.
    pub(crate) fn finish(&mut self, entry: &SegmentEntry) -> Result<Vec<u8>> {
        let Standing { at, position, tally, .. } = self.standing;
        if at != entry.end || position != entry.last_position + 1 {
            return Err(self.wrong("the batches end elsewhere than the manifest says"));
        }
        if tally.final_checksum.value() != entry.content_checksum() {
            return Err(self.wrong("the batches are not those the manifest lists"));
        }
        if entry.state == SegmentState::Cut {
            return Ok(Vec::new());
        }
        match self.peek()? {
            Step::End(mark) if mark.final_checksum == entry.final_checksum => {
                Ok(self.window.fetch(at, END_MARK_LEN)?.to_vec())
            }
            Step::End(_) => Err(self.wrong("the end mark's final checksum is not the manifest's")),
            _ => Err(self.wrong("the end mark is missing")),
        }
    }

    fn damaged(&self, fault: &Fault) -> Error {
        let (name, offset) = self.window.source.place(self.standing.at);
        Error::damaged(&name, offset, Some(self.standing.position), fault, self.header.written_by)
    }

    pub(crate) fn wrong(&self, what: &str) -> Error {
        let (name, offset) = self.window.source.place(self.standing.at);
        Error::corrupt(&name, offset, Some(self.standing.position), what)
    }
}

/// Copies a segment's file into another, all of it that counts, and verifies it on the way. The copy is as long as the
/// original, and synced.
pub(crate) fn copy_segment(
    bytes: &dyn SegmentBytes,
    entry: &SegmentEntry,
    time: u64,
    copy: Arc<dyn StorageFile>,
    name: &str,
) -> Result<()> {
    let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
    let mut batches = Batches::begin(bytes, &identity, time)?;
    if batches.header.first_position != entry.first_position || batches.header.segment_len != entry.len {
        return Err(batches.wrong("the header is that of another segment"));
    }
    let mut front = Front::new(copy, name);
    front.push(batches.header_page()?)?;
    while batches.next_below(entry.end)?.is_some() {
        front.push(batches.batch()?)?;
    }
    let mark = batches.finish(entry)?;
    front.push(&mark)?;
    front.finish()
}

/// Copies a container, and verifies it and all that it holds on the way; answers the CRC-32 of its bytes. `front` may write
/// nowhere.
pub(crate) fn copy_container(
    file: Arc<dyn StorageFile>,
    entry: &SegmentEntry,
    time: u64,
    mut front: Front,
    name: &str,
) -> Result<u32> {
    let container = Container::of_file(file.clone(), name, ReadMode::Pread, Some(entry))?;
    container.removed()?;
    let held = HeldSegment { name: name.to_owned(), container };
    let identity = Identity { store: entry.store, incarnation: entry.incarnation, segment: entry.number };
    let mut batches = Batches::begin(&held, &identity, time)?;
    while batches.next_below(entry.end)?.is_some() {}
    batches.finish(entry)?;
    let len = entry.file_len();
    let mut buffer = vec![0; READ_AHEAD];
    let mut at = 0;
    while at < len {
        let step = (len - at).min(READ_AHEAD as u64) as usize;
        let got = file.read_at(at, &mut buffer[..step]).map_err(Error::io("read", name))?;
        if got < step {
            return Err(Error::corrupt(name, at + got as u64, Some(entry.first_position), "the file ends here"));
        }
        front.push(&buffer[..step])?;
        at += step as u64;
    }
    front.finish()?;
    Ok(front.checksum())
}

/// A segment in a container, wherever that lies.
pub(crate) struct HeldSegment {
    pub(crate) name: String,
    pub(crate) container: Container,
}

impl SegmentBytes for HeldSegment {
    fn len(&self) -> u64 {
        self.container.header.segment_len
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.container.read(offset, buffer)
    }

    fn place(&self, offset: u64) -> (String, u64) {
        (self.name.clone(), offset)
    }
}

/// A file written front to back, in large steps.
pub(crate) struct Front {
    /// `None`: only the checksum is wanted.
    file: Option<Arc<dyn StorageFile>>,
    name: String,
    at: u64,
    gathered: Vec<u8>,
    checksum: u32,
}

/// So much is gathered before it is written.
const WRITTEN_AT_ONCE: usize = 1 << 20;

impl Front {
    pub(crate) fn new(file: Arc<dyn StorageFile>, name: &str) -> Self {
        Self { file: Some(file), name: name.to_owned(), at: 0, gathered: Vec::new(), checksum: 0 }
    }

    /// One that writes nothing.
    pub(crate) fn nowhere() -> Self {
        Self { file: None, name: String::new(), at: 0, gathered: Vec::new(), checksum: 0 }
    }

    /// Appends.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.checksum = crc(self.checksum, bytes);
        if self.file.is_none() {
            return Ok(());
        }
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= WRITTEN_AT_ONCE { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let part = std::io::IoSlice::new(&self.gathered);
        file.write_at(self.at, &[part]).map_err(|error| no_room(&self.name, error))?;
        self.at += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }

    /// CRC-32 of all that was pushed.
    pub(crate) fn checksum(&self) -> u32 {
        self.checksum
    }

    /// Writes what is left and syncs.
    pub(crate) fn finish(&mut self) -> Result<()> {
        if !self.gathered.is_empty() {
            self.write()?;
        }
        match &self.file {
            Some(_) if cfg!(annals_plant = "copies-not-synced") => Ok(()),
            Some(file) => file.sync().map_err(Error::io("sync", &self.name)),
            None => Ok(()),
        }
    }
}
