//! The raw checksum scan of row A7: one loop over mapped files, one checksum per event, lengths known beforehand.

use std::fs::File;
use std::path::PathBuf;

use memmap2::Mmap;

use crate::Result;
use crate::peer::Scanned;

/// Where an event's frame lies and where its payload in it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Which of the files.
    pub file: u32,
    /// Offset of the frame in the file.
    pub at: u32,
    /// Bytes of the frame.
    pub len: u32,
    /// Offset of the payload in the frame.
    pub payload_at: u32,
    /// Bytes of the payload.
    pub payload_len: u32,
}

/// Mapped files and the places of all events in them.
pub struct RawScan {
    maps: Vec<Mmap>,
    places: Vec<Place>,
}

impl RawScan {
    /// Maps `files`; `places` name them by their order.
    pub fn open(files: &[PathBuf], places: Vec<Place>) -> Result<Self> {
        let maps = files.iter().map(|path| map(&File::open(path)?)).collect::<Result<Vec<_>>>()?;
        for place in &places {
            let file = maps.get(place.file as usize).ok_or("a place in no file")?;
            let end = u64::from(place.at) + u64::from(place.len);
            let payload_end = u64::from(place.payload_at) + u64::from(place.payload_len);
            if end > file.len() as u64 || payload_end > u64::from(place.len) {
                return Err("a place outside its file".into());
            }
        }
        Ok(Self { maps, places })
    }

    /// The loop that is timed.
    pub fn run(&self) -> Scanned {
        let (mut scanned, mut checksums) = (Scanned::default(), 0);
        for place in &self.places {
            let frame = &self.maps[place.file as usize][place.at as usize..][..place.len as usize];
            checksums ^= crc32fast::hash(frame);
            scanned.add(&frame[place.payload_at as usize..][..place.payload_len as usize]);
        }
        std::hint::black_box(checksums);
        scanned
    }
}

#[expect(unsafe_code, reason = "mapping a file is the fact that is measured")]
fn map(file: &File) -> Result<Mmap> {
    // SAFETY: the files are those of a store this process made for the measurement in a directory of its own; nobody
    // writes or cuts them while the map lives.
    Ok(unsafe { Mmap::map(file)? })
}
