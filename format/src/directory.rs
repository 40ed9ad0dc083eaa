//! What became of streams between two positions: the file `streams-N.idx`, each stream by its name with its last event.

use std::ops::Range;

use rkyv::{Archive, Serialize};

use crate::Fault;
use crate::field::{u32_at, u64_at};
use crate::index_file::{
    ArchiveWriter, BucketBuilder, Buckets, CheckTable, FileBuffer, FileBytes, FileHeader, FileIdentity, FileKind,
    FinishedFile, Flat, Section, Sink, Touch, Verified, View, WriteError, checked_root, none_written, table_len,
};
use crate::name::NAME_LEN_MAX;

/// Largest position and revision in a directory: 48 bits.
pub const DIRECTORY_NUMBER_MAX: u64 = (1 << 48) - 1;
/// Length of a row in a file.
const ROW_LEN: usize = 24;
/// What stands before a name: its length.
const NAME_HEAD: u32 = 1;

const _: () = assert!(NAME_LEN_MAX <= u8::MAX as usize);

/// A row as it is archived, for the shape of it.
#[derive(Archive, Debug)]
struct PackedRow {
    hash: u64,
    name: u32,
    revision: [u8; 6],
    position: [u8; 6],
}

/// The archive's root, as it is written.
#[derive(Archive, Serialize)]
#[rkyv(archived = DirectoryRoot)]
struct Sections {
    coverage: u64,
    rows: Section<PackedRow>,
    buckets: Section<u32>,
    names: Section<u8>,
}

/// One stream and its last event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryRow<'a> {
    /// Hash of kind and name.
    pub hash: u64,
    /// The name; whoever needs text checks that it is.
    pub name: &'a [u8],
    /// Its last event.
    pub tip: DirectoryTip,
}

impl<'a> DirectoryRow<'a> {
    /// The order of rows: by hash, and by name where streams share one.
    #[inline]
    pub fn key(&self) -> (u64, &'a [u8]) {
        (self.hash, self.name)
    }
}

/// The last event of a stream as of the coverage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryTip {
    /// Its revision, at most [`DIRECTORY_NUMBER_MAX`].
    pub revision: u64,
    /// Its position, at most [`DIRECTORY_NUMBER_MAX`].
    pub position: u64,
}

fn packed(hash: u64, name: u32, tip: DirectoryTip) -> [u8; ROW_LEN] {
    let mut bytes = [0; ROW_LEN];
    let (head, rest) = bytes.split_at_mut(8);
    head.copy_from_slice(&hash.to_le_bytes());
    let numbers = u128::from(name) | u128::from(tip.revision) << 32 | u128::from(tip.position) << 80;
    rest.copy_from_slice(&numbers.to_le_bytes());
    bytes
}

#[inline]
fn hash_at(row: &[u8; ROW_LEN]) -> u64 {
    u64_at(row, 0)
}

#[inline]
fn name_at(row: &[u8; ROW_LEN]) -> u32 {
    u32_at(row, 8)
}

#[inline]
fn tip_at(row: &[u8; ROW_LEN]) -> DirectoryTip {
    DirectoryTip { revision: u64_at(row, 12) & DIRECTORY_NUMBER_MAX, position: u64_at(row, 16) >> 16 }
}

/// What must be known before a file is written: files get their length when they are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DirectorySizes {
    rows: u64,
    names_len: u64,
}

impl DirectorySizes {
    /// One more row, with a name of this length.
    #[inline]
    pub fn add(&mut self, name_len: usize) {
        self.rows += 1;
        self.names_len += u64::from(NAME_HEAD) + name_len as u64;
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Length of the whole file.
    ///
    /// # Errors
    /// `Length` if there is no file that long.
    pub fn file_len(&self) -> Result<u64, Fault> {
        let rows = self.rows.saturating_mul(ROW_LEN as u64).saturating_add(table_len(self.rows) * 4);
        let root = rows.saturating_add(self.names_len).saturating_add(7) & !7;
        CheckTable::new(root.saturating_add(size_of::<DirectoryRoot>() as u64), 0).map(|table| table.file_len())
    }
}

/// Writes the file: all rows by [key](DirectoryRow::key), then their names once more, in the same order. The header's last
/// position is the coverage. Takes half a byte of memory a row. The header is the caller's to write.
#[derive(Debug)]
pub struct DirectoryWriter<S> {
    writer: ArchiveWriter<S>,
    sizes: DirectorySizes,
    buckets: BucketBuilder,
    last: Option<(u64, Vec<u8>)>,
    so_far: NamesSeen,
    rows: Section<PackedRow>,
    names: Option<Names>,
    identity: FileIdentity,
}

/// The second part of the file.
#[derive(Debug)]
struct Names {
    buckets: Section<u32>,
    names: Section<u8>,
    seen: NamesSeen,
}

/// Names that went by: twice the same, or the file is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct NamesSeen {
    sizes: DirectorySizes,
    mix: u64,
}

impl NamesSeen {
    fn push(&mut self, name: &[u8]) {
        self.sizes.add(name.len());
        let (words, rest) = name.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let words = words.iter().chain(std::iter::once(&last)).map(|word| u64::from_le_bytes(*word));
        self.mix = words
            .chain(std::iter::once(name.len() as u64))
            .fold(self.mix, |mix, word| (mix ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29));
    }
}

impl<S: Sink> DirectoryWriter<S> {
    /// Of these sizes exactly.
    ///
    /// # Errors
    /// If `identity` is none of a directory.
    pub fn begin(sink: S, identity: FileIdentity, sizes: DirectorySizes) -> Result<Self, WriteError<S::Error>> {
        identity.check_for_writing(FileKind::Directory)?;
        let mut writer = ArchiveWriter::new(sink);
        let rows = writer.begin()?;
        let buckets = BucketBuilder::new(sizes.rows);
        Ok(Self { writer, sizes, buckets, last: None, so_far: NamesSeen::default(), rows, names: None, identity })
    }

    /// The next row.
    ///
    /// # Errors
    /// `Order` if it is not larger than the one before, or if names have begun; `Length` if the name is none; `Count` if a
    /// number does not fit or the position lies outside of what the file covers; `Length` if the file becomes too long; or
    /// the sink's.
    pub fn row(&mut self, row: DirectoryRow<'_>) -> Result<(), WriteError<S::Error>> {
        if row.name.is_empty() || row.name.len() > NAME_LEN_MAX {
            return Err(Fault::Length { what: "length of a name", value: row.name.len() as u64 }.into());
        }
        let rises = self.last.as_ref().is_none_or(|(hash, name)| (*hash, name.as_slice()) < row.key());
        if !rises || self.names.is_some() {
            return Err(Fault::Order { what: "streams of a directory" }.into());
        }
        if row.tip.revision > DIRECTORY_NUMBER_MAX {
            return Err(Fault::Count { what: "revision in a directory", value: row.tip.revision }.into());
        }
        let covered = self.identity.first_position..=self.identity.last_position.min(DIRECTORY_NUMBER_MAX);
        if !covered.contains(&row.tip.position) {
            return Err(Fault::Count { what: "position in a directory", value: row.tip.position }.into());
        }
        let at = u32::try_from(self.so_far.sizes.names_len)
            .map_err(|_| Fault::Length { what: "names", value: self.so_far.sizes.names_len })?;
        let (hash, name) = self.last.get_or_insert_default();
        *hash = row.hash;
        name.clear();
        name.extend_from_slice(row.name);
        self.so_far.push(row.name);
        self.buckets.push(row.hash)?;
        self.writer.write(&packed(row.hash, at, row.tip))
    }

    /// The next name, once all rows were written.
    ///
    /// # Errors
    /// `Length` if the file becomes too long; or the sink's.
    pub fn name(&mut self, name: &[u8]) -> Result<(), WriteError<S::Error>> {
        let names = self.begin_names()?;
        names.seen.push(name);
        // Longer ones are refused in the end.
        self.writer.write(&[name.len().min(NAME_LEN_MAX) as u8])?;
        self.writer.write(name)
    }

    fn begin_names(&mut self) -> Result<&mut Names, WriteError<S::Error>> {
        if self.names.is_none() {
            self.rows = self.writer.end(std::mem::replace(&mut self.rows, none_written()))?;
            let buckets = std::mem::replace(&mut self.buckets, BucketBuilder::new(0));
            let buckets = self.writer.section(buckets.finish().map(u32::to_le_bytes))?;
            let names = self.writer.begin()?;
            self.names = Some(Names { buckets, names, seen: NamesSeen::default() });
        }
        Ok(self.names.as_mut().expect("begun above"))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// `Order` if the names are not those of the rows; `Count` if the sizes were others; `Length` if the file would be too
    /// long; or the sink's.
    pub fn finish(mut self) -> Result<(FinishedFile, S), WriteError<S::Error>> {
        self.begin_names()?;
        let Some(Names { buckets, names, seen }) = self.names else { unreachable!("begun above") };
        if seen != self.so_far {
            return Err(Fault::Order { what: "names of a directory" }.into());
        }
        if seen.sizes != self.sizes {
            return Err(Fault::Count { what: "number of streams", value: seen.sizes.rows }.into());
        }
        let names = self.writer.end(names)?;
        let sections = Sections { coverage: self.identity.last_position, rows: self.rows, buckets, names };
        self.writer.finish(&sections, &self.identity)
    }
}

/// The whole file in memory.
///
/// # Errors
/// As [`DirectoryWriter::row`].
pub fn encode(identity: &FileIdentity, rows: &[DirectoryRow<'_>]) -> Result<FileBytes, Fault> {
    let mut sizes = DirectorySizes::default();
    rows.iter().for_each(|row| sizes.add(row.name.len()));
    let encode = || {
        let mut writer = DirectoryWriter::begin(FileBuffer::new(), identity.clone(), sizes)?;
        rows.iter().try_for_each(|row| writer.row(*row))?;
        rows.iter().try_for_each(|row| writer.name(row.name))?;
        writer.finish()
    };
    encode().map(|(finished, buffer)| buffer.into_file(&finished)).map_err(WriteError::into_fault)
}

/// Where the rows of a file lie: kept by whoever maps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryLayout {
    coverage: u64,
    rows: Flat<ROW_LEN>,
    buckets: Buckets,
    names: Flat<1>,
}

impl DirectoryLayout {
    /// Where the archive's root lies in the file: what [`DirectoryLayout::read`] reads.
    pub fn root(header: &FileHeader) -> Range<usize> {
        let end = header.table.archive().end;
        end.saturating_sub(size_of::<DirectoryRoot>()).max(header.table.archive().start)..end
    }

    /// Reads the root of a file whose header was opened and whose bytes at [`DirectoryLayout::root`] were verified.
    /// Tens of nanoseconds, whatever the length of the file.
    ///
    /// # Errors
    /// `Structure` or `Identity` if this is no such archive; `Alignment` if `file` does not begin at a multiple of 16.
    pub fn read(file: &[u8], header: &FileHeader) -> Result<Self, Fault> {
        let root: &DirectoryRoot = checked_root(file, &header.table)?;
        let layout = Self {
            coverage: root.coverage.to_native(),
            rows: Flat::of(file, &root.rows)?,
            buckets: Buckets::of(Flat::of(file, &root.buckets)?)?,
            names: Flat::of(file, &root.names)?,
        };
        let identity = &header.identity;
        let same = identity.kind == FileKind::Directory && layout.coverage == identity.last_position;
        if same { Ok(layout) } else { Err(Fault::Identity { what: "coverage of the archive" }) }
    }

    /// The last position covered.
    pub fn coverage(&self) -> u64 {
        self.coverage
    }

    /// Number of streams.
    pub fn row_count(&self) -> u32 {
        self.rows.len()
    }

    /// Where the bytes lie that a look-up of this hash reads first: to be asked for ahead, within the archive.
    #[inline]
    pub fn first_read(&self, hash: u64) -> Range<usize> {
        self.buckets.place(hash)
    }

    /// Where the bytes lie that it reads next, by what stands at the first: rows, and their names if all names are about as
    /// long as each other. Verified or not, nothing but places comes of it.
    #[inline]
    pub fn next_reads(&self, file: &[u8], hash: u64) -> [Range<usize>; 2] {
        let Ok(rows) = self.buckets.row_numbers(&View::new(file, Verified), hash);
        let name = |row: u32| {
            (u64::from(row) * u64::from(self.names.len()) / u64::from(self.rows.len().max(1))).min(u32::MAX.into())
                as u32
        };
        let names = self.names.place(name(rows.start)..name(rows.end));
        [self.rows.place(rows), names]
    }

    /// Questions to the file this was read from; `touch` is told what is read.
    #[inline]
    pub fn over<'a, T: Touch>(&'a self, file: &'a [u8], touch: T) -> Directory<'a, T> {
        Directory { layout: self, view: View::new(file, touch) }
    }
}

/// Questions to a directory. Whatever the rows say, nothing outside of the archive is read.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a, T> {
    layout: &'a DirectoryLayout,
    view: View<'a, T>,
}

impl<'a, T: Touch> Directory<'a, T> {
    /// The last event of the stream with this name and its hash. Reads two bucket entries, about eight rows and a name.
    ///
    /// # Errors
    /// Those of `touch`.
    #[inline]
    pub fn find(&self, hash: u64, name: &[u8]) -> Result<Option<DirectoryTip>, T::Error> {
        let rows = self.layout.buckets.rows(&self.view, self.layout.rows, hash)?;
        let at = rows.partition_point(|row| hash_at(row) < hash);
        for row in rows[at..].iter().take_while(|row| hash_at(row) == hash) {
            let start = name_at(row);
            let end = start.saturating_add(NAME_HEAD + name.len() as u32);
            let found = self.view.bytes(self.layout.names.place(start..end))?;
            if found.split_first().is_some_and(|(len, found)| usize::from(*len) == name.len() && found == name) {
                return Ok(Some(tip_at(row)));
            }
        }
        Ok(None)
    }

    /// The row with this number; they are in order of hash and name. A name beyond the names is an empty one.
    ///
    /// # Errors
    /// Those of `touch`.
    #[inline]
    pub fn row(&self, number: u32) -> Result<Option<DirectoryRow<'a>>, T::Error> {
        let Some(row) = self.view.row(self.layout.rows, number)? else { return Ok(None) };
        let start = name_at(row);
        let end = start.saturating_add(NAME_HEAD + NAME_LEN_MAX as u32);
        let bytes = self.view.bytes(self.layout.names.place(start..end))?;
        let name = bytes.split_first().and_then(|(len, rest)| rest.get(..usize::from(*len))).unwrap_or_default();
        Ok(Some(DirectoryRow { hash: hash_at(row), name, tip: tip_at(row) }))
    }
}
