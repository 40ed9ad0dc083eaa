//! Writing a tier front to back, from rows that come in order.

use crate::Fault;
use crate::index_file::{
    ArchiveWriter, BucketBuilder, FileBuffer, FileBytes, FileIdentity, FileKind, FinishedFile, Section, Sink,
    WriteError, none_written,
};

use super::measure::EncodedNames;
use super::names::NameEncoder;
use super::positions::{bitmap_len, is_dense};
use super::{BITMAP, PackedId, Sections, filter, ids};

/// What is known of a tier before it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TierSizes {
    /// At most about so many keys. If they are much fewer in the end, nothing is lost but half a byte of memory for each
    /// while they are written; if they are more, look-ups in the file are slower.
    pub keys_at_most: u64,
    /// At most about so many ids; as for keys.
    pub ids_at_most: u64,
}

/// Parts of the file, in the order in which they are written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Part {
    Keys,
    Postings,
    Ids,
    Filter,
    Streams,
    Types,
    Done,
}

/// Writes a tier in the memory of one block, of half a byte a key and id, and of a quarter of a byte a name.
///
/// The file is written front to back, so the rows go by in parts, each in its order: all [`key`](TierWriter::key)s; for
/// the same keys again [`positions`](TierWriter::positions), each followed by its
/// [`position`](TierWriter::position)s; all [`id`](TierWriter::id)s; the same again as
/// [`filtered_id`](TierWriter::filtered_id)s; all [`stream`](TierWriter::stream)s; all [`type_name`](TierWriter::type_name)s.
/// A part that comes too late is refused with `Order`, one that differs from its first pass with `Count`. Whoever merges
/// tiers goes through their rows once for each part. The header is the caller's to write.
#[derive(Debug)]
pub struct TierWriter<S> {
    writer: ArchiveWriter<S>,
    identity: FileIdentity,
    position_count: u32,
    part: Part,
    sections: Sections,
    key_buckets: BucketBuilder,
    id_buckets: BucketBuilder,
    last_key: Option<u64>,
    last_id: Option<(u64, u32)>,
    /// Words of the postings that the keys asked for so far, and those written.
    asked: u64,
    written: u64,
    /// Of count and first position of all keys in turn: those of the second pass must be the same.
    asked_mix: u64,
    written_mix: u64,
    list: List,
    filter: Filter,
    names: NameEncoder,
}

/// The key whose positions are being written.
#[derive(Debug, Default)]
struct List {
    count: u32,
    missing: u32,
    next: u32,
    /// For a bit map: the number of the word that fills, and the word.
    bitmap: Option<(u32, u64)>,
}

#[derive(Debug, Default)]
struct Filter {
    /// The word that fills, its number, and how many there will be.
    word: u64,
    number: u32,
    words: u32,
    count: u32,
    last: u64,
    /// Of all ids in turn, here and in their first pass.
    mix: u64,
    id_mix: u64,
}

fn mixed(state: u64, number: u64) -> u64 {
    (state ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

fn refused<T, E>(what: &'static str, value: impl Into<u64>) -> Result<T, WriteError<E>> {
    Err(Fault::Count { what, value: value.into() }.into())
}

/// Where in the postings the positions of such a key go when `used` words are taken, their length, and the flag.
pub(super) fn place_of(used: u64, count: u32, position_count: u32) -> (u64, u64, u32) {
    if count == 1 {
        (used, 0, 0)
    } else if is_dense(count, position_count) {
        // At an even word, so that words of 64 bits never lie in two blocks.
        (used.next_multiple_of(2), bitmap_len(position_count).into(), BITMAP)
    } else {
        (used, count.into(), 0)
    }
}

impl<S: Sink> TierWriter<S> {
    /// A tier of these positions.
    ///
    /// # Errors
    /// If `identity` is none of a tier.
    pub fn begin(sink: S, identity: FileIdentity, sizes: TierSizes) -> Result<Self, WriteError<S::Error>> {
        identity.check_for_writing(FileKind::Tier)?;
        let mut writer = ArchiveWriter::new(sink);
        let sections = Sections {
            first_position: identity.first_position,
            last_position: identity.last_position,
            keys: writer.begin()?,
            key_buckets: none_written(),
            postings: none_written(),
            ids: none_written(),
            id_buckets: none_written(),
            id_filter: none_written(),
            stream_names: none_written(),
            stream_restarts: none_written(),
            type_names: none_written(),
            type_restarts: none_written(),
            stream_count: 0,
            type_count: 0,
        };
        Ok(Self {
            writer,
            position_count: identity.position_count() as u32,
            identity,
            part: Part::Keys,
            sections,
            key_buckets: BucketBuilder::new(sizes.keys_at_most),
            id_buckets: BucketBuilder::new(sizes.ids_at_most),
            last_key: None,
            last_id: None,
            asked: 0,
            written: 0,
            asked_mix: 0,
            written_mix: 0,
            list: List::default(),
            filter: Filter::default(),
            names: NameEncoder::default(),
        })
    }

    /// The next key by hash: at how many positions it is, and the first of them.
    ///
    /// # Errors
    /// `Order` for a hash that is not larger than the one before; `Count` for a number that cannot be; `Length` if the
    /// file becomes too long; or the sink's. The same below.
    pub fn key(&mut self, hash: u64, count: u32, first: u32) -> Result<(), WriteError<S::Error>> {
        self.enter(Part::Keys)?;
        if self.last_key.replace(hash).is_some_and(|last| last >= hash) {
            return Err(Fault::Order { what: "keys" }.into());
        }
        if count == 0 || count >= BITMAP || count > self.position_count || first >= self.position_count {
            return refused("positions of a key", count);
        }
        let (start, len, flag) = place_of(self.asked, count, self.position_count);
        self.asked = start + len;
        self.asked_mix = mixed(self.asked_mix, u64::from(count) << 32 | u64::from(first));
        if self.asked > u64::from(u32::MAX) {
            return Err(Fault::Length { what: "postings", value: self.asked }.into());
        }
        let start = if count == 1 { first } else { start as u32 };
        self.key_buckets.push(hash)?;
        let row = u128::from(hash) | u128::from(start) << 64 | u128::from(count | flag) << 96;
        self.writer.write(&row.to_le_bytes())
    }

    /// The positions of the next key follow, as many as [`TierWriter::key`] was told.
    ///
    /// # Errors
    /// As there; `Count` also if positions of the key before are missing.
    pub fn positions(&mut self, count: u32) -> Result<(), WriteError<S::Error>> {
        self.enter(Part::Postings)?;
        if self.list.missing != 0 {
            return refused("positions of a key", self.list.missing);
        }
        let (start, len, flag) = place_of(self.written, count, self.position_count);
        if start + len > self.asked {
            return refused("positions of a key", count);
        }
        if start > self.written {
            self.writer.write(&[0; 4])?;
        }
        self.written = start + len;
        self.list = List { count, missing: count, next: 0, bitmap: (flag != 0).then_some((0, 0)) };
        Ok(())
    }

    /// The next position of the key, relative to the tier's first.
    ///
    /// # Errors
    /// As for [`TierWriter::key`].
    #[inline]
    pub fn position(&mut self, position: u32) -> Result<(), WriteError<S::Error>> {
        if self.part != Part::Postings || self.list.missing == 0 || position >= self.position_count {
            return refused("position of a key", position);
        }
        if position < self.list.next {
            return Err(Fault::Order { what: "positions of a key" }.into());
        }
        if self.list.missing == self.list.count {
            self.written_mix = mixed(self.written_mix, u64::from(self.list.count) << 32 | u64::from(position));
        }
        // Below the position count, which is a u32.
        self.list.next = position + 1;
        self.list.missing -= 1;
        match &mut self.list.bitmap {
            Some((number, word)) => {
                while *number < position / u64::BITS {
                    self.writer.write(&word.to_le_bytes())?;
                    (*number, *word) = (*number + 1, 0);
                }
                *word |= 1 << (position % u64::BITS);
                if self.list.missing == 0 {
                    let (number, word) = (*number, *word);
                    self.writer.write(&word.to_le_bytes())?;
                    for _ in number + 1..bitmap_len(self.position_count) / 2 {
                        self.writer.write(&[0; 8])?;
                    }
                }
                Ok(())
            }
            None if self.list.count == 1 => Ok(()),
            None => self.writer.write(&position.to_le_bytes()),
        }
    }

    /// The next id by hash, then position.
    ///
    /// # Errors
    /// As for [`TierWriter::key`].
    #[inline]
    pub fn id(&mut self, hash: u64, position: u32) -> Result<(), WriteError<S::Error>> {
        self.enter(Part::Ids)?;
        if self.last_id.replace((hash, position)).is_some_and(|last| last >= (hash, position)) {
            return Err(Fault::Order { what: "ids" }.into());
        }
        if position >= self.position_count {
            return refused("position of an id", position);
        }
        self.filter.id_mix = mixed(self.filter.id_mix, hash);
        self.id_buckets.push(hash)?;
        self.writer.write(&ids::to_row(hash, position))
    }

    /// The next id by hash, for the filter: the same that came as [`TierWriter::id`].
    ///
    /// # Errors
    /// As for [`TierWriter::key`].
    #[inline]
    pub fn filtered_id(&mut self, hash: u64) -> Result<(), WriteError<S::Error>> {
        self.enter(Part::Filter)?;
        if hash < self.filter.last {
            return Err(Fault::Order { what: "ids of the filter" }.into());
        }
        self.filter.last = hash;
        self.filter.mix = mixed(self.filter.mix, hash);
        self.filter.count = self.filter.count.saturating_add(1);
        self.filter_up_to(filter::word_of(hash, self.filter.words))?;
        self.filter.word |= filter::bits_of(hash);
        Ok(())
    }

    fn filter_up_to(&mut self, number: u32) -> Result<(), WriteError<S::Error>> {
        while self.filter.number < number {
            self.writer.write(&self.filter.word.to_le_bytes())?;
            self.filter.word = 0;
            self.filter.number += 1;
        }
        Ok(())
    }

    /// The next stream by the bytes of its name.
    ///
    /// # Errors
    /// As for [`TierWriter::key`]; `Length` also for a name that cannot be.
    pub fn stream(&mut self, name: &[u8]) -> Result<(), WriteError<S::Error>> {
        self.enter(Part::Streams)?;
        self.name(name)
    }

    /// The next type by the bytes of its name.
    ///
    /// # Errors
    /// As for [`TierWriter::stream`].
    pub fn type_name(&mut self, name: &[u8]) -> Result<(), WriteError<S::Error>> {
        self.enter(Part::Types)?;
        self.name(name)
    }

    /// All streams at once, as [`TierMeasure`](super::TierMeasure) has kept them, in the place of
    /// [`TierWriter::stream`].
    ///
    /// # Errors
    /// As there; `Order` also if one came before.
    pub fn streams(&mut self, names: EncodedNames) -> Result<(), WriteError<S::Error>> {
        self.enter(Part::Streams)?;
        self.names(names)
    }

    /// All types at once, in the place of [`TierWriter::type_name`].
    ///
    /// # Errors
    /// As for [`TierWriter::streams`].
    pub fn types(&mut self, names: EncodedNames) -> Result<(), WriteError<S::Error>> {
        self.enter(Part::Types)?;
        self.names(names)
    }

    fn names(&mut self, names: EncodedNames) -> Result<(), WriteError<S::Error>> {
        if self.names.count > 0 {
            return Err(Fault::Order { what: "names" }.into());
        }
        self.names = names.encoder;
        self.writer.write(&names.bytes)
    }

    fn name(&mut self, name: &[u8]) -> Result<(), WriteError<S::Error>> {
        let shared = self.names.push(name)?;
        let suffix = name.get(shared..).unwrap_or_default();
        self.writer.write(&[shared as u8, suffix.len() as u8])?;
        self.writer.write(suffix)
    }

    /// Ends the file. Parts that never came are empty.
    ///
    /// # Errors
    /// `Count` if something is missing; `Length` if the file would be too long; or the sink's.
    pub fn finish(mut self) -> Result<(FinishedFile, S), WriteError<S::Error>> {
        self.enter(Part::Done)?;
        self.writer.finish(&self.sections, &self.identity)
    }

    #[inline]
    fn enter(&mut self, part: Part) -> Result<(), WriteError<S::Error>> {
        if self.part == part { Ok(()) } else { self.change(part) }
    }

    #[cold]
    fn change(&mut self, part: Part) -> Result<(), WriteError<S::Error>> {
        if part < self.part {
            return Err(Fault::Order { what: "parts of a tier" }.into());
        }
        while self.part < part {
            self.end_part()?;
        }
        Ok(())
    }

    /// Ends the part that is being written and begins the next.
    fn end_part(&mut self) -> Result<(), WriteError<S::Error>> {
        let Self { writer, sections, .. } = self;
        self.part = match self.part {
            Part::Keys => {
                sections.keys = writer.end(take(&mut sections.keys))?;
                let buckets = std::mem::replace(&mut self.key_buckets, BucketBuilder::new(0));
                sections.key_buckets = writer.section(buckets.finish().map(u32::to_le_bytes))?;
                // From a multiple of 8 on, as bit maps are read.
                writer.begin::<u64>()?;
                sections.postings = writer.begin()?;
                Part::Postings
            }
            Part::Postings => {
                let complete = self.asked_mix == self.written_mix && self.asked == self.written;
                if !complete || self.list.missing != 0 {
                    return refused("positions of all keys", self.written);
                }
                sections.postings = writer.end(take(&mut sections.postings))?;
                sections.ids = writer.begin::<PackedId>()?;
                Part::Ids
            }
            Part::Ids => {
                sections.ids = writer.end(take(&mut sections.ids))?;
                self.filter.words = filter::word_count(self.id_buckets.row_count());
                let buckets = std::mem::replace(&mut self.id_buckets, BucketBuilder::new(0));
                sections.id_buckets = writer.section(buckets.finish().map(u32::to_le_bytes))?;
                sections.id_filter = writer.begin()?;
                Part::Filter
            }
            Part::Filter => {
                if self.filter.mix != self.filter.id_mix {
                    return refused("ids of the filter", self.filter.count);
                }
                self.filter_up_to(self.filter.words)?;
                self.sections.id_filter = self.writer.end(take(&mut self.sections.id_filter))?;
                self.sections.stream_names = self.writer.begin()?;
                Part::Streams
            }
            Part::Streams => {
                sections.stream_names = writer.end(take(&mut sections.stream_names))?;
                let names = std::mem::take(&mut self.names);
                sections.stream_count = names.count;
                sections.stream_restarts = writer.section(names.restarts.into_iter().map(u32::to_le_bytes))?;
                sections.type_names = writer.begin()?;
                Part::Types
            }
            Part::Types => {
                sections.type_names = writer.end(take(&mut sections.type_names))?;
                let names = std::mem::take(&mut self.names);
                sections.type_count = names.count;
                sections.type_restarts = writer.section(names.restarts.into_iter().map(u32::to_le_bytes))?;
                Part::Done
            }
            Part::Done => Part::Done,
        };
        Ok(())
    }
}

fn take<A>(section: &mut Section<A>) -> Section<A> {
    std::mem::replace(section, none_written())
}

/// The rows of a tier, all in memory: what a sealed segment gives.
#[derive(Clone, Copy, Debug, Default)]
pub struct TierParts<'a> {
    /// Hash of each key and its relative positions, by hash.
    pub keys: &'a [(u64, &'a [u32])],
    /// Hash and relative position of each id, in this order.
    pub ids: &'a [(u64, u32)],
    /// Names of streams, by their bytes.
    pub streams: &'a [&'a [u8]],
    /// Names of types, by their bytes.
    pub types: &'a [&'a [u8]],
}

impl TierParts<'_> {
    /// Writes the file; see [`TierWriter`].
    ///
    /// # Errors
    /// As there.
    pub fn write<S: Sink>(&self, sink: S, identity: FileIdentity) -> Result<(FinishedFile, S), WriteError<S::Error>> {
        let sizes = TierSizes { keys_at_most: self.keys.len() as u64, ids_at_most: self.ids.len() as u64 };
        let mut writer = TierWriter::begin(sink, identity, sizes)?;
        for (hash, positions) in self.keys {
            writer.key(*hash, positions.len() as u32, positions.first().copied().unwrap_or(0))?;
        }
        for (_, positions) in self.keys {
            writer.positions(positions.len() as u32)?;
            positions.iter().try_for_each(|position| writer.position(*position))?;
        }
        self.ids.iter().try_for_each(|(hash, position)| writer.id(*hash, *position))?;
        self.ids.iter().try_for_each(|(hash, _)| writer.filtered_id(*hash))?;
        self.streams.iter().try_for_each(|name| writer.stream(name))?;
        self.types.iter().try_for_each(|name| writer.type_name(name))?;
        writer.finish()
    }
}

/// The whole file in memory.
///
/// # Errors
/// As for [`TierWriter`].
pub fn encode(identity: &FileIdentity, parts: &TierParts<'_>) -> Result<FileBytes, Fault> {
    let written = parts.write(FileBuffer::new(), identity.clone());
    written.map(|(finished, buffer)| buffer.into_file(&finished)).map_err(WriteError::into_fault)
}
