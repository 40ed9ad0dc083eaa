//! The floor: a log written by hand that checks nothing and finds nothing.
//!
//! Frames of length, checksum, id, names and payload; one write an append, into a file filled with zeros before; a sync
//! where the append is to be durable. [`GroupLog`] adds a group commit for many threads, [`Pipeline`] is what tickets
//! are measured against, [`RawScan`] what reading is.

mod durable_head;
mod group;
mod pipeline;
mod scan;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{EVENT_LEN, Prepared};
pub use group::GroupLog;
pub use pipeline::Pipeline;
pub use scan::RawScan;

/// Bytes of a frame before the names: length, checksum, id, lengths of the names.
const FRAME_HEADER_LEN: usize = 4 + 4 + 16 + 2;

/// Zeros are written this far ahead at least.
const FILL: u64 = 64 << 20;

fn encode(out: &mut Vec<u8>, event: &Prepared) {
    let (stream, event_type) = (event.stream.as_bytes(), event.event_type.as_bytes());
    let len = FRAME_HEADER_LEN + stream.len() + event_type.len() + event.payload.len();
    out.reserve(len);
    let start = out.len();
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&event.id);
    out.extend_from_slice(&[stream.len() as u8, event_type.len() as u8]);
    out.extend_from_slice(stream);
    out.extend_from_slice(event_type);
    out.extend_from_slice(&event.payload);
    let checksum = crc32fast::hash(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// A file that is written front to back into blocks that hold zeros already.
#[derive(Debug)]
struct ZeroedFile {
    file: File,
    end: u64,
    filled: u64,
}

impl ZeroedFile {
    fn create(directory: &Path) -> io::Result<Self> {
        let path = directory.join("floor.log");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Self { file, end: 0, filled: 0 })
    }

    /// Writes zeros for this many events more, and waits until the disk has them.
    fn reserve(&mut self, events: usize) -> io::Result<()> {
        let wanted = self.end + (events * (EVENT_LEN + FRAME_HEADER_LEN)) as u64;
        if wanted > self.filled {
            // Small writes: large ones make large folios of the page cache, in which small appends are slow.
            let (zeros, upto) = ([0; 4096], wanted.next_multiple_of(FILL));
            for at in (self.filled..upto).step_by(zeros.len()) {
                self.file.write_all_at(&zeros, at)?;
            }
            self.file.sync_all()?;
            self.filled = upto;
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8], sync: bool) -> io::Result<()> {
        self.file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

/// A log for one writer at a time.
#[derive(Debug)]
pub struct Floor {
    file: ZeroedFile,
    buffer: Vec<u8>,
    places: Vec<u64>,
}

impl Floor {
    /// An empty log.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(directory: &Path) -> io::Result<Self> {
        Ok(Self { file: ZeroedFile::create(directory)?, buffer: Vec::new(), places: Vec::new() })
    }

    /// Makes room for this many events more, if there is none; it takes as long as writing them.
    ///
    /// # Errors
    /// What the system says.
    pub fn reserve(&mut self, events: usize) -> io::Result<()> {
        self.places.reserve(events);
        self.file.reserve(events)
    }

    /// Writes the events behind one another; with `sync`, asks the disk to keep them.
    ///
    /// # Errors
    /// What the system says.
    pub fn append(&mut self, events: &[Prepared], sync: bool) -> io::Result<()> {
        self.buffer.clear();
        for event in events {
            self.places.push(self.file.end + self.buffer.len() as u64);
            encode(&mut self.buffer, event);
        }
        self.file.append(&self.buffer, sync)
    }

    /// All frames in memory, to be read again and again.
    ///
    /// # Errors
    /// What the system says.
    pub fn raw(&self) -> io::Result<RawScan> {
        let mut bytes = vec![0; self.file.end as usize];
        self.file.file.read_exact_at(&mut bytes, 0)?;
        Ok(RawScan::new(bytes, &self.places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Workload;

    #[test]
    fn a_scan_reads_what_was_appended_and_notices_a_wrong_byte() {
        let directory = tempfile::tempdir().unwrap();
        let work = Workload::new(100, 0, 1);
        let mut floor = Floor::create(directory.path()).unwrap();
        floor.reserve(100).unwrap();
        work.events().chunks(30).for_each(|events| floor.append(events, false).unwrap());
        let sum = |event: &Prepared| event.payload.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        assert_eq!(floor.raw().unwrap().scan(), Some(work.events().iter().map(sum).sum()));
        assert_eq!(floor.raw().unwrap().read(&[3, 99]), Some(sum(&work.events()[3]) + sum(&work.events()[99])));

        let file = &floor.file.file;
        let mut byte = [0];
        file.read_exact_at(&mut byte, 20_000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 20_000).unwrap();
        assert_eq!(floor.raw().unwrap().scan(), None);
    }

    #[test]
    fn room_is_made_for_all_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = ZeroedFile::create(directory.path()).unwrap();
        file.reserve(1).unwrap();
        assert_eq!((file.filled, file.file.metadata().unwrap().len()), (FILL, FILL));
        file.end = FILL - 100;
        file.reserve(1).unwrap();
        assert_eq!((file.filled, file.file.metadata().unwrap().len()), (2 * FILL, 2 * FILL));
    }
}
