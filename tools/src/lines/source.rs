//! Where lines come from: a file or standard input, plain, gzip or zstd, told apart by its first bytes.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals::EventId;
use sha2::{Digest, Sha256};

use crate::input::Input;

/// Longest line read: past the largest payload and metadata a store takes by default, in base64.
const LINE_LEN_MAX: u64 = 128 << 20;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const MAGIC_LEN_MAX: u64 = 4;

/// Lines one after the other, with the running digest of all text read.
pub(crate) struct Source {
    reader: Box<dyn BufRead + Send>,
    digest: Sha256,
    line_number: u64,
    ends_in_break: bool,
    read: Arc<AtomicU64>,
    len: Option<u64>,
}

struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(into)?;
        self.read.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

impl Source {
    /// Opens `path`, or standard input for `-`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let Input { reader, len } = if path == Path::new("-") { Input::standard()? } else { Input::open(path)? };
        Self::new(reader, len)
    }

    /// Reads what is in memory.
    pub(crate) fn of_bytes(bytes: &'static [u8]) -> io::Result<Self> {
        Self::new(bytes, Some(bytes.len() as u64))
    }

    fn new(inner: impl Read + Send + 'static, len: Option<u64>) -> io::Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        let mut counted = Counted { inner, read: Arc::clone(&read) };
        let mut magic = Vec::new();
        counted.by_ref().take(MAGIC_LEN_MAX).read_to_end(&mut magic)?;
        let whole = io::Cursor::new(magic.clone()).chain(counted);
        let reader: Box<dyn BufRead + Send> = if magic.starts_with(&ZSTD) {
            Box::new(BufReader::with_capacity(1 << 17, zstd::stream::read::Decoder::new(whole)?))
        } else if magic.starts_with(&GZIP) {
            Box::new(BufReader::with_capacity(1 << 17, flate2::read::MultiGzDecoder::new(whole)))
        } else {
            Box::new(BufReader::with_capacity(1 << 17, whole))
        };
        Ok(Self { reader, digest: Sha256::new(), line_number: 0, ends_in_break: true, read, len })
    }

    /// The next line into `line`, without its break; false at the end.
    pub(crate) fn next_line(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        line.clear();
        self.line_number += 1;
        let len = self.reader.by_ref().take(LINE_LEN_MAX).read_until(b'\n', line)?;
        self.digest.update(&*line);
        self.ends_in_break = line.last() == Some(&b'\n');
        if self.ends_in_break {
            line.pop();
        } else if len as u64 == LINE_LEN_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {LINE_LEN_MAX} bytes")));
        }
        Ok(len > 0)
    }

    /// Number of the line last read, from 1.
    pub(crate) fn line_number(&self) -> u64 {
        self.line_number
    }

    /// The id of the line last read, if it gives none itself.
    ///
    /// UUID version 8 of the SHA-256 of the file up to the line's end and the line's number: the same line of the same
    /// file always gets the same one, also when lines were added at the end since.
    pub(crate) fn made_id(&self) -> EventId {
        let mut digest = self.digest.clone();
        if !self.ends_in_break {
            digest.update(b"\n");
        }
        digest.update(self.line_number.to_le_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&digest.finalize()[..16]);
        id[6] = 0x80 | (id[6] & 0x0f);
        id[8] = 0x80 | (id[8] & 0x3f);
        EventId::from_bytes(id)
    }

    /// SHA-256 of everything read so far, decompressed, as hexadecimal text.
    pub(crate) fn digest(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.digest.clone().finalize())
    }

    /// Counts the bytes taken from the file, compressed as they are.
    pub(crate) fn progress(&self) -> (Arc<AtomicU64>, Option<u64>) {
        (Arc::clone(&self.read), self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn lines(bytes: Vec<u8>) -> io::Result<(Vec<String>, Vec<EventId>, String)> {
        let mut source = Source::new(io::Cursor::new(bytes), None)?;
        let (mut texts, mut ids, mut line) = (Vec::new(), Vec::new(), Vec::new());
        while source.next_line(&mut line)? {
            texts.push(String::from_utf8(line.clone()).unwrap());
            ids.push(source.made_id());
        }
        Ok((texts, ids, source.digest()))
    }

    #[test]
    fn plain_gzip_and_zstd_give_the_same_lines() {
        let text = b"one\n\ntwo\nthree";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).unwrap();
        let plain = lines(text.to_vec()).unwrap();
        assert_eq!(plain.0, ["one", "", "two", "three"]);
        assert_eq!(plain, lines(gzip.finish().unwrap()).unwrap());
        assert_eq!(plain, lines(zstd::encode_all(&text[..], 3).unwrap()).unwrap());
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let zstd = zstd::encode_all(&[b'x'; 5000][..], 3).unwrap();
        assert!(lines(zstd[..zstd.len() - 3].to_vec()).is_err());
    }

    #[test]
    fn made_ids_hold_when_a_file_grows_and_differ_between_equal_lines() {
        let short = lines(b"a\na".to_vec()).unwrap().1;
        let long = lines(b"a\na\na\n".to_vec()).unwrap().1;
        assert_eq!(short, long[..2]);
        assert!(long[0] != long[1] && long[1] != long[2]);
        assert_eq!(lines(b"a\n".to_vec()).unwrap().1[0].to_string().as_bytes()[14], b'8');
    }

    #[test]
    fn nothing_at_all_has_no_lines() {
        assert_eq!(lines(Vec::new()).unwrap().0.len(), 0);
        assert_eq!(lines(b"x".to_vec()).unwrap().0, ["x"]);
    }
}
