//! Writing an archive as it comes, and finding its root again.
//!
//! The arrays are written by hand, one after the other, in the order in which the root names them; rkyv then lays out the
//! root with pointers to them. So an archive of any length is written in the memory of one block.

use std::convert::Infallible;
use std::marker::PhantomData;

use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{self, Fallible};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::{Positional, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Place, Portable, Serialize};
use thiserror::Error;

use super::{
    BLOCK_LEN, CheckTable, FILE_ALIGNMENT, FILE_HEADER_LEN, FILE_LEN_MAX, FileBytes, FileHeader, FileIdentity,
    TableBuilder, root_of,
};
use crate::Fault;

/// Takes the bytes of a file from the end of the header on, front to back. Whoever implements it writes to a file, at
/// its own rate.
pub trait Sink {
    /// Why it failed.
    type Error;

    /// The next bytes, at most 16 KiB a call but for the table.
    ///
    /// # Errors
    /// If they could not be taken; then the file is given up.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
}

impl<S: Sink + ?Sized> Sink for &mut S {
    type Error = S::Error;

    fn take(&mut self, bytes: &[u8]) -> Result<(), S::Error> {
        (**self).take(bytes)
    }
}

/// Why a file could not be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WriteError<E> {
    /// What was given cannot be written: `Order`, `Count` or `Length`.
    #[error(transparent)]
    Format(#[from] Fault),
    /// The [`Sink`] failed.
    #[error("the bytes could not be written")]
    Sink(E),
}

impl WriteError<Infallible> {
    /// The fault; a buffer takes everything.
    pub fn into_fault(self) -> Fault {
        match self {
            Self::Format(fault) => fault,
            Self::Sink(never) => match never {},
        }
    }
}

/// A file of which everything but the header has gone to its [`Sink`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FinishedFile {
    /// Goes to the beginning of the file, last.
    pub header: Box<[u8; FILE_HEADER_LEN]>,
    /// By which the file is known, see [`root_of`].
    pub root: u32,
    /// Length of the whole file.
    pub len: u64,
}

/// A file in memory: for small ones.
#[derive(Debug)]
pub struct FileBuffer(FileBytes);

impl FileBuffer {
    /// Room for the header.
    pub fn new() -> Self {
        let mut bytes = FileBytes::new();
        bytes.resize(FILE_HEADER_LEN, 0);
        Self(bytes)
    }

    /// The whole file.
    pub fn into_file(mut self, finished: &FinishedFile) -> FileBytes {
        self.0[..FILE_HEADER_LEN].copy_from_slice(&finished.header[..]);
        self.0
    }
}

impl Default for FileBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Sink for FileBuffer {
    type Error = Infallible;

    fn take(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Writes archive and table to a [`Sink`], in the memory of one block and of the table.
#[derive(Debug)]
pub struct ArchiveWriter<S> {
    sink: S,
    table: TableBuilder,
    pending: Vec<u8>,
    written: u64,
}

impl<S: Sink> ArchiveWriter<S> {
    /// Nothing has been written.
    pub fn new(sink: S) -> Self {
        Self { sink, table: TableBuilder::new(), pending: Vec::with_capacity(BLOCK_LEN), written: 0 }
    }

    /// Bytes of the archive so far.
    #[inline]
    pub(crate) fn pos(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError<S::Error>> {
        if bytes.len() < BLOCK_LEN - self.pending.len() {
            self.pending.extend_from_slice(bytes);
            return Ok(());
        }
        self.write_blocks(bytes)
    }

    #[cold]
    fn write_blocks(&mut self, mut bytes: &[u8]) -> Result<(), WriteError<S::Error>> {
        while bytes.len() >= BLOCK_LEN - self.pending.len() {
            let (now, rest) = bytes.split_at(BLOCK_LEN - self.pending.len());
            self.pending.extend_from_slice(now);
            self.flush()?;
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), WriteError<S::Error>> {
        let len = self.pos();
        if len > FILE_LEN_MAX {
            return Err(Fault::Length { what: "archive length", value: len }.into());
        }
        self.table.push(&self.pending);
        self.sink.take(&self.pending).map_err(WriteError::Sink)?;
        self.written = len;
        self.pending.clear();
        Ok(())
    }

    /// Begins an array of elements archived as those of `A`.
    pub(crate) fn begin<A: Archive>(&mut self) -> Result<Section<A>, WriteError<S::Error>> {
        let align = align_of::<A::Archived>() as u64;
        let padding = (self.pos().next_multiple_of(align) - self.pos()) as usize;
        self.write(&[0; FILE_ALIGNMENT][..padding])?;
        Ok(Section { pos: self.pos(), len: 0, element: PhantomData })
    }

    /// Ends the array that began last.
    pub(crate) fn end<A: Archive>(&mut self, mut section: Section<A>) -> Result<Section<A>, WriteError<S::Error>> {
        let len = self.pos() - section.pos;
        debug_assert!(len.is_multiple_of(size_of::<A::Archived>() as u64), "whole elements were written");
        if self.pos() > FILE_LEN_MAX {
            return Err(Fault::Length { what: "archive length", value: self.pos() }.into());
        }
        section.len = len / size_of::<A::Archived>() as u64;
        Ok(section)
    }

    /// Writes an array as it comes, each element as its bytes.
    pub(crate) fn section<A: Archive, const WIDTH: usize>(
        &mut self,
        rows: impl IntoIterator<Item = [u8; WIDTH]>,
    ) -> Result<Section<A>, WriteError<S::Error>> {
        const { assert!(size_of::<A::Archived>() == WIDTH) };
        let section = self.begin::<A>()?;
        rows.into_iter().try_for_each(|row| self.write(&row))?;
        self.end(section)
    }

    fn write_root(
        &mut self,
        root: &impl for<'a> Serialize<HighSerializer<Tail, ArenaHandle<'a>, rancor::Failure>>,
    ) -> Result<(), WriteError<S::Error>> {
        let tail = Tail { pos: self.pos() as usize, bytes: Vec::new() };
        let too_long = |_: rancor::Failure| Fault::Length { what: "archive length", value: FILE_LEN_MAX + 1 };
        let tail = rkyv::api::high::to_bytes_in::<Tail, rancor::Failure>(root, tail).map_err(too_long)?;
        self.write(&tail.bytes)?;
        self.flush()
    }

    /// Writes the root alone: for a file that has one checksum.
    pub(crate) fn finish_without_table(
        mut self,
        root: &impl for<'a> Serialize<HighSerializer<Tail, ArenaHandle<'a>, rancor::Failure>>,
    ) -> Result<S, WriteError<S::Error>> {
        self.write_root(root)?;
        Ok(self.sink)
    }

    /// Writes the root and the table.
    pub(crate) fn finish(
        mut self,
        root: &impl for<'a> Serialize<HighSerializer<Tail, ArenaHandle<'a>, rancor::Failure>>,
        identity: &FileIdentity,
    ) -> Result<(FinishedFile, S), WriteError<S::Error>> {
        self.write_root(root)?;
        let (bytes, table) = self.table.finish()?;
        self.sink.take(&bytes).map_err(WriteError::Sink)?;
        let header = FileHeader { identity: identity.clone(), table }.encode();
        let finished = FinishedFile { root: root_of(&header), len: table.file_len(), header: Box::new(header) };
        Ok((finished, self.sink))
    }
}

/// What rkyv writes behind the arrays.
#[derive(Debug)]
pub(crate) struct Tail {
    pos: usize,
    bytes: Vec<u8>,
}

impl Positional for Tail {
    fn pos(&self) -> usize {
        self.pos + self.bytes.len()
    }
}

impl<E> Writer<E> for Tail {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

/// An array that has been written: where it begins in the archive, and its length. Archived as a vector of `A`.
#[derive(Debug)]
pub(crate) struct Section<A> {
    pos: u64,
    len: u64,
    element: PhantomData<A>,
}

impl<A> Section<A> {
    /// Number of elements, once it has ended.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}

impl<A: Archive> Archive for Section<A> {
    type Archived = ArchivedVec<A::Archived>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_len(self.len as usize, resolver, out);
    }
}

impl<A: Archive, S: Fallible + ?Sized> Serialize<S> for Section<A> {
    fn serialize(&self, _serializer: &mut S) -> Result<VecResolver, S::Error> {
        Ok(VecResolver::from_pos(self.pos as usize))
    }
}

/// A section of nothing, for a root that is filled in as sections are written.
pub(crate) fn none_written<A>() -> Section<A> {
    Section { pos: 0, len: 0, element: PhantomData }
}

/// The root of an archive, its structure checked: every array lies within the archive. Reads nothing but the root.
pub(crate) fn checked_root<'a, R>(file: &'a [u8], table: &CheckTable) -> Result<&'a R, Fault>
where
    R: Portable + for<'b> CheckBytes<HighValidator<'b, rancor::Failure>>,
{
    if !file.as_ptr().addr().is_multiple_of(FILE_ALIGNMENT) {
        return Err(Fault::Alignment { what: "index file" });
    }
    let archive = file.get(table.archive()).unwrap_or_default();
    rkyv::access::<R, rancor::Failure>(archive).map_err(|_| Fault::Structure { what: "archive" })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes everything and keeps its length.
    #[derive(Default)]
    struct Length(u64);

    impl Sink for Length {
        type Error = Infallible;

        fn take(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
            self.0 += bytes.len() as u64;
            Ok(())
        }
    }

    #[test]
    fn a_file_ends_below_2_gib() {
        let mut length = Length::default();
        let mut writer = ArchiveWriter::new(&mut length);
        let block = [7; BLOCK_LEN];
        let blocks = (0..).take_while(|_| writer.write(&block).is_ok()).count() as u64;
        assert_eq!(blocks, FILE_LEN_MAX / BLOCK_LEN as u64);
        assert_eq!(length.0, blocks * BLOCK_LEN as u64);
    }

    /// A sink that takes no more after some bytes.
    struct Full(usize);

    impl Sink for Full {
        type Error = &'static str;

        fn take(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or("full")?;
            Ok(())
        }
    }

    #[test]
    fn the_error_of_a_sink_is_handed_out() {
        let mut writer = ArchiveWriter::new(Full(2 * BLOCK_LEN));
        assert_eq!(writer.write(&[1; 2 * BLOCK_LEN + 5]), Ok(()));
        assert_eq!(writer.write(&[1; BLOCK_LEN]), Err(WriteError::Sink("full")));
    }
}
