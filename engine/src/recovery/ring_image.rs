//! The file `RING`, read: the newest bytes of the log, which the segments may not have.

use std::sync::Arc;

use annals_format::Fault;
use annals_format::ring::{RING_HEADER_LEN, RingHeader};

use super::judge::is_unsupported;
use crate::Result;
use crate::error::Error;
use crate::storage::{Access, Storage, StorageFile};

pub(crate) const RING_NAME: &str = "RING";
/// Larger than any ring this library makes.
const RING_LEN_MAX: u64 = (1 << 30) + RING_HEADER_LEN as u64;

/// A ring that parts of the log are copied from.
pub(crate) trait RingBytes {
    /// Length of the ring.
    fn len(&self) -> u64;

    /// Copies log offsets `at .. at + len`, at most the whole ring.
    fn copy(&self, at: u64, len: usize) -> Result<Vec<u8>>;
}

/// The ring in its file, its header verified.
pub(crate) struct RingFile {
    pub(crate) header: RingHeader,
    file: Arc<dyn StorageFile>,
}

impl RingFile {
    /// Opens the ring file and reads its header. `Err` texts say why it cannot be used.
    pub(crate) fn open(storage: &dyn Storage, store: [u8; 16]) -> Result<std::result::Result<Self, String>> {
        let file = match storage.open(RING_NAME, Access::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Err(format!("{RING_NAME} is missing")));
            }
            Err(error) => return Err(Error::io("open", RING_NAME)(error)),
        };
        let len = file.len().map_err(Error::io("measure", RING_NAME))?;
        if len > RING_LEN_MAX {
            return Ok(Err(format!("{RING_NAME} is {len} bytes long")));
        }
        let mut page = vec![0; RING_HEADER_LEN];
        let got = file.read_at(0, &mut page).map_err(Error::io("read", RING_NAME))?;
        page.truncate(got);
        let (newest, faults) = RingHeader::newest(&page);
        if let Some(Fault::Unsupported { what, value }) = faults.iter().flatten().find(|f| is_unsupported(f)) {
            let what = format!("{what} {value:#x}");
            return Err(Error::Unsupported { file: RING_NAME.to_owned(), what, written_by: 0 });
        }
        let Some(header) = newest else {
            let told = faults.iter().flatten().next().map_or("it holds no header".to_owned(), ToString::to_string);
            return Ok(Err(format!("{RING_NAME}: {told}")));
        };
        if header.store != store {
            return Ok(Err(format!("{RING_NAME} belongs to another store")));
        }
        if (RING_HEADER_LEN as u64).checked_add(header.ring_len) != Some(len) {
            return Ok(Err(format!("{RING_NAME} is {len} bytes long, its header says otherwise")));
        }
        Ok(Ok(Self { header, file }))
    }

    pub(crate) fn holds_log(&self) -> bool {
        self.header.holds_log
    }

    /// Fills `bytes` from the ring's byte `start` on.
    fn read(&self, start: u64, bytes: &mut [u8]) -> Result<()> {
        let io = Error::io("read", RING_NAME);
        let got = self.file.read_at(RING_HEADER_LEN as u64 + start, bytes).map_err(io)?;
        if got < bytes.len() {
            let at = RING_HEADER_LEN as u64 + start + got as u64;
            return Err(Error::corrupt(RING_NAME, at, None, "the file ends before the ring does"));
        }
        Ok(())
    }
}

impl RingBytes for RingFile {
    fn len(&self) -> u64 {
        self.header.ring_len
    }

    fn copy(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let start = at % self.header.ring_len;
        let until_wrap = (len as u64).min(self.header.ring_len - start) as usize;
        let mut bytes = vec![0; len];
        self.read(start, &mut bytes[..until_wrap])?;
        if until_wrap < len {
            self.read(0, &mut bytes[until_wrap..])?;
        }
        Ok(bytes)
    }
}

/// The ring as it lay in its file at one time.
pub(crate) struct RingImage {
    pub(crate) header: RingHeader,
    bytes: Vec<u8>,
}

impl RingImage {
    /// Reads the ring file. `Err` texts say why it cannot be used.
    pub(crate) fn read(storage: &dyn Storage, store: [u8; 16]) -> Result<std::result::Result<Self, String>> {
        let ring = match RingFile::open(storage, store)? {
            Ok(ring) => ring,
            Err(notice) => return Ok(Err(notice)),
        };
        let mut bytes = vec![0; ring.header.ring_len as usize];
        let got = ring.file.read_at(RING_HEADER_LEN as u64, &mut bytes).map_err(Error::io("read", RING_NAME))?;
        if got < bytes.len() {
            let len = RING_HEADER_LEN + got;
            return Ok(Err(format!("{RING_NAME} is {len} bytes long, its header says otherwise")));
        }
        Ok(Ok(Self { header: ring.header, bytes }))
    }

    pub(super) fn holds_log(&self) -> bool {
        self.header.holds_log
    }
}

impl RingBytes for RingImage {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn copy(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let start = (at % self.bytes.len() as u64) as usize;
        let until_wrap = len.min(self.bytes.len() - start);
        let mut out = self.bytes[start..start + until_wrap].to_vec();
        out.extend_from_slice(&self.bytes[..len - until_wrap]);
        Ok(out)
    }
}
