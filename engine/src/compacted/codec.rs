//! zstd: blocks that stand for themselves, with a dictionary that was trained on the segment.
//!
//! A block is decompressed into memory of exactly the length that was declared, which is bounded; a frame that holds more
//! or less is damage.

use std::cell::RefCell;

use zstd::zstd_safe::{self, CCtx, CDict, DCtx, DDict};

/// A dictionary, ready to decompress with.
pub(super) struct Dictionary(DDict<'static>);

impl Dictionary {
    pub(super) fn for_reading(bytes: &[u8]) -> Option<Self> {
        DDict::try_create(bytes).map(Self)
    }
}

/// Decompresses `bytes` into all of `out`.
pub(super) fn decompress(dictionary: Option<&Dictionary>, bytes: &[u8], out: &mut [u8]) -> Result<(), String> {
    thread_local! {
        /// Some 160 KB: made once for each thread that reads compacted segments.
        static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    }
    let written = CONTEXT.with_borrow_mut(|context| match dictionary {
        Some(dictionary) => context.decompress_using_ddict(out, bytes, &dictionary.0),
        None => context.decompress(out, bytes),
    });
    match written {
        Ok(len) if len == out.len() => Ok(()),
        Ok(len) => Err(format!("the block holds {len} bytes, {} belong there", out.len())),
        Err(code) => Err(format!("the block cannot be decompressed: {}", zstd_safe::get_error_name(code))),
    }
}

/// Compresses blocks.
pub(crate) struct Compressor {
    context: CCtx<'static>,
    dictionary: Option<CDict<'static>>,
    level: i32,
    buffer: Vec<u8>,
}

impl Compressor {
    /// With a dictionary, or none where it has no bytes.
    pub(crate) fn new(dictionary: &[u8], level: i32) -> Self {
        let dictionary = (!dictionary.is_empty()).then(|| CDict::try_create(dictionary, level)).flatten();
        Self { context: CCtx::create(), dictionary, level, buffer: Vec::new() }
    }

    /// Whether a dictionary is used.
    pub(crate) fn has_dictionary(&self) -> bool {
        self.dictionary.is_some()
    }

    /// The block as it is to be written: compressed if that makes it shorter.
    pub(crate) fn compress<'a>(&'a mut self, bytes: &'a [u8]) -> &'a [u8] {
        self.buffer.resize(zstd_safe::compress_bound(bytes.len()), 0);
        let out = &mut self.buffer[..];
        let written = match &self.dictionary {
            Some(dictionary) => self.context.compress_using_cdict(out, bytes, dictionary),
            None => self.context.compress(out, bytes, self.level),
        };
        match written {
            Ok(len) if len < bytes.len() => &self.buffer[..len],
            _ => bytes,
        }
    }
}

/// A dictionary of at most `len` bytes from samples of these lengths that stand one after the other; empty if they are too
/// few or too unlike.
pub(crate) fn train(samples: &[u8], lengths: &[usize], len: usize) -> Vec<u8> {
    zstd::dict::from_continuous(samples, lengths, len).unwrap_or_default()
}
