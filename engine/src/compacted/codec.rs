//! zstd: blocks that stand for themselves, with a dictionary that was made of the segment.
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

thread_local! {
    /// Some 160 KB: made once for each thread that reads compacted segments.
    static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// Decompresses `bytes` into all of `out`.
pub(super) fn decompress(dictionary: Option<&Dictionary>, bytes: &[u8], out: &mut [u8]) -> Result<(), String> {
    judged(
        out.len(),
        CONTEXT.with_borrow_mut(|context| match dictionary {
            Some(dictionary) => context.decompress_using_ddict(out, bytes, &dictionary.0),
            None => context.decompress(out, bytes),
        }),
    )
}

/// As [`decompress`], with a dictionary of raw content, which may be empty: nothing is made of it before, it is only pointed at.
pub(super) fn decompress_with_raw(dictionary: &[u8], bytes: &[u8], out: &mut [u8]) -> Result<(), String> {
    judged(
        out.len(),
        CONTEXT.with_borrow_mut(|context| match dictionary {
            [] => context.decompress(out, bytes),
            _ => context.decompress_using_dict(out, bytes, dictionary),
        }),
    )
}

fn judged(wanted: usize, written: zstd_safe::SafeResult) -> Result<(), String> {
    match written {
        Ok(len) if len == wanted => Ok(()),
        Ok(len) => Err(format!("the block holds {len} bytes, {wanted} belong there")),
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

    /// A residue, compressed; `None` if that makes it no shorter.
    pub(crate) fn compress<'a>(&'a mut self, bytes: &[u8]) -> Option<&'a [u8]> {
        self.buffer.resize(zstd_safe::compress_bound(bytes.len()), 0);
        let out = &mut self.buffer[..];
        let written = match &self.dictionary {
            Some(dictionary) => self.context.compress_using_cdict(out, bytes, dictionary),
            None => self.context.compress(out, bytes, self.level),
        };
        written.ok().filter(|len| *len < bytes.len()).map(|len| &self.buffer[..len])
    }
}
