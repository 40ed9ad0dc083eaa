//! The floor: a log written by hand that checks nothing and finds nothing. Frames of length, checksum, names, id and
//! payload; one write an append, into a file filled with zeros before; a sync where the append is to be durable.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Prepared;

/// A log of one file.
#[derive(Debug)]
pub struct Floor {
    file: File,
    end: u64,
    frame: Vec<u8>,
    places: Vec<u64>,
}

impl Floor {
    /// A file of `len` bytes, zeros written and synced.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(directory: &Path, len: u64) -> io::Result<Self> {
        let path = directory.join("floor.log");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let zeros = vec![0; 4096];
        for at in (0..len).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Self { file, end: 0, frame: Vec::new(), places: Vec::new() })
    }

    /// Writes the events behind one another; with `sync`, asks the disk to keep them.
    ///
    /// # Errors
    /// What the system says.
    pub fn append(&mut self, events: &[Prepared], sync: bool) -> io::Result<()> {
        self.frame.clear();
        for event in events {
            self.places.push(self.end + self.frame.len() as u64);
            let start = self.frame.len();
            let len = 8 + event.stream.len() + event.event_type.len() + event.id.len() + event.payload.len();
            self.frame.extend_from_slice(&(len as u32).to_le_bytes());
            self.frame.extend_from_slice(&[0; 4]);
            self.frame.extend_from_slice(event.stream.as_bytes());
            self.frame.extend_from_slice(event.event_type.as_bytes());
            self.frame.extend_from_slice(&event.id);
            self.frame.extend_from_slice(&event.payload);
            let sum = crc32fast::hash(&self.frame[start + 8..]);
            self.frame[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
        }
        self.file.write_all_at(&self.frame, self.end)?;
        self.end += self.frame.len() as u64;
        if sync { self.file.sync_data() } else { Ok(()) }
    }

    /// Reads all frames and checks them; answers their number.
    ///
    /// # Errors
    /// What the system says, or `InvalidData` for a wrong checksum.
    pub fn scan(&self) -> io::Result<usize> {
        let mut bytes = vec![0; self.end as usize];
        self.file.read_exact_at(&mut bytes, 0)?;
        for place in &self.places {
            let frame = &bytes[*place as usize..];
            let word = |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().expect("four bytes"));
            if crc32fast::hash(&frame[8..word(0) as usize]) != word(4) {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(self.places.len())
    }
}
