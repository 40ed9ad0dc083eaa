//! A segment file in memory, but for the zeros behind what was written.

use std::io;

use annals_format::segment::SEGMENT_HEADER_LEN;

use crate::storage::StorageFile;

/// Read at once while looking for the end: stays in a processor's cache.
const PIECE_LEN: usize = 128 << 10;

/// A segment's bytes.
#[derive(Debug)]
pub(super) struct SegmentImage {
    pub(super) bytes: Vec<u8>,
    /// Behind this are nothing but zeros. They were never touched, so they take no memory.
    pub(super) written: usize,
}

impl SegmentImage {
    /// Reads a file of `len` bytes; fewer if it has become shorter.
    ///
    /// Segments are made at their full length, so most of a live one are zeros. Those are looked at from the end, by way
    /// of one buffer: the first touch of each page of a large one takes longer than to read it.
    pub(super) fn read(file: &dyn StorageFile, len: u64) -> io::Result<Self> {
        let (len, written) = find_written(file, len)?;
        let mut bytes = vec![0; len];
        let got = file.read_at(0, &mut bytes[..written])?;
        if got < written {
            bytes.truncate(got);
        }
        Ok(Self { bytes, written: got })
    }

    /// Puts a header from elsewhere in its place.
    pub(super) fn set_header(&mut self, header: &[u8; SEGMENT_HEADER_LEN]) {
        self.bytes[..SEGMENT_HEADER_LEN].copy_from_slice(header);
        self.written = self.written.max(SEGMENT_HEADER_LEN);
    }
}

/// Length of a file that had `len` bytes, and of what stands in it before nothing but zeros.
fn find_written(file: &dyn StorageFile, len: u64) -> io::Result<(usize, usize)> {
    let mut len = len as usize;
    let mut piece = vec![0; PIECE_LEN.min(len)];
    let mut until = len;
    while until > 0 {
        let from = until.saturating_sub(PIECE_LEN);
        let piece = &mut piece[..until - from];
        let got = file.read_at(from as u64, piece)?;
        if got < piece.len() {
            len = from + got;
        }
        let written = written_len(&piece[..got]);
        if written > 0 {
            return Ok((len, from + written));
        }
        until = from;
    }
    Ok((len, 0))
}

/// Length of what stands before nothing but zeros.
fn written_len(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    // By pieces: a comparison of two is as fast as memory is, a look at each byte is not.
    for (number, piece) in bytes.chunks(ZEROS.len()).enumerate().rev() {
        if piece != &ZEROS[..piece.len()] {
            let last = piece.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            return number * ZEROS.len() + last + 1;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::storage::{Fill, Memory, Storage};

    #[test]
    fn what_was_written_is_found_wherever_it_ends() {
        let storage = Memory::new();
        let len = 3 * PIECE_LEN + 100;
        let ends = [1, 4096, PIECE_LEN - 1, PIECE_LEN, 2 * PIECE_LEN + 100, 2 * PIECE_LEN + 101, len - 1, len];
        for (number, end) in ends.into_iter().enumerate() {
            let file = storage.create(&format!("{number}"), len as u64, Fill::Zeroed).unwrap();
            assert_eq!(SegmentImage::read(&*file, len as u64).unwrap().written, 0);
            file.write_at(end as u64 - 1, &[IoSlice::new(b"x")]).unwrap();
            let image = SegmentImage::read(&*file, len as u64).unwrap();
            assert_eq!((image.bytes.len(), image.written), (len, end));
            assert_eq!((image.bytes[end - 1], image.bytes.iter().filter(|byte| **byte != 0).count()), (b'x', 1));
        }
    }

    #[test]
    fn a_file_that_has_become_shorter_is_as_long_as_it_is() {
        let storage = Memory::new();
        let file = storage.create("short", 5000, Fill::Zeroed).unwrap();
        assert_eq!(SegmentImage::read(&*file, 2 * PIECE_LEN as u64).unwrap().bytes.len(), 5000);
        file.write_at(0, &[IoSlice::new(&[7; 5000])]).unwrap();
        let image = SegmentImage::read(&*file, 2 * PIECE_LEN as u64).unwrap();
        assert_eq!((image.bytes, image.written), (vec![7; 5000], 5000));
        let none = storage.create("none", 0, Fill::Zeroed).unwrap();
        assert!(SegmentImage::read(&*none, 0).unwrap().bytes.is_empty());
    }
}
