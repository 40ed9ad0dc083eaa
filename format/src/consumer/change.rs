//! One change of one consumer, and the section of a batch that holds some.

use crate::field::{check_reserved, number_at, numbered_at, put, u8_at, u32_at};
use crate::section::{SECTION_CONSUMERS, SECTION_HEADER_LEN};
use crate::{Fault, name};

use super::REASON_LEN_MAX;

const ENTRY_LEN: usize = 40;
const RANGE_LEN: usize = 16;

/// What became of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Its name.
    pub consumer: &'a str,
    /// That of the opening or reset that the change belongs to, from 1; unique in the store.
    pub generation: u64,
    /// What happened.
    pub what: What<'a>,
}

/// The kinds of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// Opened under a new generation. A consumer that is not there begins behind position `from`.
    Opened {
        /// The checkpoint of a new consumer.
        from: u64,
    },
    /// Everything up to `checkpoint` is finished, and so is what lies in `finished`, above it.
    Acknowledged {
        /// The last position before the first unfinished one.
        checkpoint: u64,
        /// First and last position of ranges above the checkpoint, ascending.
        finished: Vec<(u64, u64)>,
    },
    /// An event was put aside; its position counts as finished.
    Parked {
        /// Where it stands.
        position: u64,
        /// How often it was tried.
        attempts: u32,
        /// Its stream.
        stream: &'a str,
        /// The parked event of the same stream that it has to wait for; 0 if it failed itself.
        behind: u64,
        /// Why it was put aside.
        reason: &'a str,
    },
    /// A parked event was done after all, or given up.
    Released {
        /// Where it stands.
        position: u64,
    },
    /// Begins again behind `checkpoint` under a new generation. Nothing above it is finished; what is parked above it is
    /// no longer.
    Reset {
        /// The new checkpoint.
        checkpoint: u64,
    },
    /// The consumer is no more.
    Removed,
    /// The whole state but for what is parked, in place of all changes before.
    Standing {
        /// The checkpoint.
        checkpoint: u64,
        /// First and last position of ranges above the checkpoint, ascending.
        finished: Vec<(u64, u64)>,
    },
}

impl What<'_> {
    fn kind(&self) -> u8 {
        match self {
            Self::Opened { .. } => 1,
            Self::Acknowledged { .. } => 2,
            Self::Parked { .. } => 3,
            Self::Released { .. } => 4,
            Self::Reset { .. } => 5,
            Self::Removed => 6,
            Self::Standing { .. } => 7,
        }
    }
}

impl Change<'_> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        let at = bytes.len();
        bytes.resize(at + ENTRY_LEN, 0);
        bytes[at + 4] = self.what.kind();
        bytes[at + 5] = u8::try_from(self.consumer.len()).expect("names are checked before");
        let (mut position, mut behind, mut attempts, mut count) = (0, 0, 0, 0);
        let (mut text, mut reason) = ("", "");
        let mut ranges: &[(u64, u64)] = &[];
        match &self.what {
            What::Opened { from } => position = *from,
            What::Acknowledged { checkpoint, finished } | What::Standing { checkpoint, finished } => {
                (position, ranges, count) = (*checkpoint, finished, finished.len());
            }
            What::Parked { position: at, attempts: times, stream, behind: of, reason: why } => {
                (position, behind, attempts, text, reason) = (*at, *of, *times, stream, why);
                count = why.len();
            }
            What::Released { position: at } => position = *at,
            What::Reset { checkpoint } => position = *checkpoint,
            What::Removed => {}
        }
        bytes[at + 6] = u8::try_from(text.len()).expect("names are checked before");
        put(bytes, at + 8, self.generation.to_le_bytes());
        put(bytes, at + 16, position.to_le_bytes());
        put(bytes, at + 24, behind.to_le_bytes());
        put(bytes, at + 32, attempts.to_le_bytes());
        put(bytes, at + 36, u32::try_from(count).expect("fewer than 4 billion ranges").to_le_bytes());
        bytes.extend_from_slice(self.consumer.as_bytes());
        bytes.extend_from_slice(text.as_bytes());
        pad(bytes);
        for (first, last) in ranges {
            bytes.extend_from_slice(&first.to_le_bytes());
            bytes.extend_from_slice(&last.to_le_bytes());
        }
        bytes.extend_from_slice(reason.as_bytes());
        pad(bytes);
        let len = u32::try_from(bytes.len() - at).expect("an entry is shorter than 4 GiB");
        put(bytes, at, len.to_le_bytes());
    }
}

/// Entries and sections lie at multiples of 8, and so does a buffer that began at one.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// Changes on their way into a batch, encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeList {
    bytes: Vec<u8>,
    count: u32,
}

impl ChangeList {
    /// Adds a change behind those added before.
    ///
    /// # Panics
    /// If the consumer's or the stream's name is longer than 255 bytes, or the reason longer than [`REASON_LEN_MAX`]: the
    /// caller checks before.
    pub fn push(&mut self, change: &Change<'_>) {
        if let What::Parked { reason, .. } = &change.what {
            assert!(reason.len() <= REASON_LEN_MAX, "reasons are cut before");
        }
        change.encode(&mut self.bytes);
        self.count += 1;
    }

    /// Takes out everything.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Length of the section that holds them.
    pub fn section_len(&self) -> usize {
        SECTION_HEADER_LEN + self.bytes.len()
    }

    /// The changes, in order.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        entries(&self.bytes, u64::MAX)
    }

    pub(crate) fn encode(&self, buffer: &mut Vec<u8>, seed: crate::checksum::Seed, first_position: u64) -> u32 {
        crate::section::encode(buffer, seed, first_position, SECTION_CONSUMERS, self.count, &self.bytes)
    }
}

/// A verified section of changes.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerSection<'a> {
    frame: &'a [u8],
    entries: &'a [u8],
    first_position: u64,
}

impl<'a> ConsumerSection<'a> {
    /// The section's bytes: header, entries.
    pub fn bytes(&self) -> &'a [u8] {
        self.frame
    }

    /// The changes, in order.
    pub fn changes(&self) -> impl Iterator<Item = Change<'a>> + use<'a> {
        entries(self.entries, self.first_position)
    }

    /// The changes, each with its offset in the section and its length.
    pub fn changes_at(&self) -> impl Iterator<Item = (usize, usize, Change<'a>)> + use<'a> {
        let (entries, first_position, mut at) = (self.entries, self.first_position, 0);
        std::iter::from_fn(move || {
            let (change, len) = read(entries.get(at..)?, first_position).ok()?;
            at += len;
            Some((SECTION_HEADER_LEN + at - len, len, change))
        })
    }

    /// A copy of the changes.
    pub fn to_list(&self) -> ChangeList {
        ChangeList { bytes: self.entries.to_vec(), count: u32_at(self.frame, 12) }
    }
}

/// The changes in bytes that an encoder made or that were verified.
fn entries(mut rest: &[u8], first_position: u64) -> impl Iterator<Item = Change<'_>> {
    std::iter::from_fn(move || {
        let (change, len) = read(rest, first_position).ok()?;
        rest = &rest[len..];
        Some(change)
    })
}

/// Reads a section whose checksum is right; `len` bytes of `frame` are not padding.
pub(crate) fn read_section(frame: &[u8], len: usize, first_position: u64) -> Result<ConsumerSection<'_>, Fault> {
    let section = ConsumerSection { frame, entries: &frame[SECTION_HEADER_LEN..len], first_position };
    let stated = u32_at(frame, 12);
    let (mut rest, mut count) = (section.entries, 0u32);
    while !rest.is_empty() {
        let (_, len) = read(rest, first_position)?;
        rest = &rest[len..];
        count += 1;
    }
    if count != stated || count == 0 {
        return Err(Fault::Count { what: "number of changes of consumers", value: stated.into() });
    }
    Ok(section)
}

/// The change at the beginning of `bytes`, and its length.
fn read(bytes: &[u8], first_position: u64) -> Result<(Change<'_>, usize), Fault> {
    let len = u32_at(bytes, 0) as usize;
    let Some(entry) = bytes.get(..len).filter(|_| len >= ENTRY_LEN && len.is_multiple_of(8)) else {
        return Err(Fault::Length { what: "length of a consumer's change", value: len as u64 });
    };
    check_reserved(entry, 7, 8, "reserved bytes of a consumer's change")?;
    let (name_len, stream_len) = (u8_at(entry, 5) as usize, u8_at(entry, 6) as usize);
    let consumer = text(entry, ENTRY_LEN, name_len)?;
    if !name::is_well_formed(consumer.as_bytes()) {
        return Err(Fault::Name { what: "name of a consumer" });
    }
    let named = ENTRY_LEN + name_len;
    let stream = text(entry, named, stream_len)?;
    let body = (named + stream_len).next_multiple_of(8);
    let (attempts, count) = (u32_at(entry, 32), u32_at(entry, 36));
    let behind = number_at(entry, 24, "position of a parked event")?;
    // A change names what was there before its batch, and nothing later.
    let here = number_at(entry, 16, "position of a consumer's change")?;
    if here >= first_position || behind >= first_position {
        return Err(Fault::Position { expected: first_position - 1, found: here.max(behind) });
    }
    let kind = u8_at(entry, 4);
    let (what, end) = match kind {
        2 | 7 => {
            let finished = ranges(entry, body, count, here, first_position)?;
            let end = body + finished.len() * RANGE_LEN;
            let what = match kind {
                2 => What::Acknowledged { checkpoint: here, finished },
                _ => What::Standing { checkpoint: here, finished },
            };
            (what, end)
        }
        3 => {
            if count as usize > REASON_LEN_MAX {
                return Err(Fault::Length { what: "length of a reason", value: count.into() });
            }
            let reason = text(entry, body, count as usize)?;
            if !name::is_well_formed(stream.as_bytes()) {
                return Err(Fault::Name { what: "stream of a parked event" });
            }
            numbered_at(entry, 16, "position of a parked event")?;
            (What::Parked { position: here, attempts, stream, behind, reason }, body + count as usize)
        }
        1 => (What::Opened { from: here }, body),
        4 => {
            numbered_at(entry, 16, "position of a parked event")?;
            (What::Released { position: here }, body)
        }
        5 => (What::Reset { checkpoint: here }, body),
        6 if here == 0 => (What::Removed, body),
        6 => return Err(Fault::Count { what: "position of a removed consumer", value: here }),
        kind => return Err(Fault::Unsupported { what: "change of a consumer", value: kind.into() }),
    };
    let is_plain = kind == 3 || (stream_len == 0 && attempts == 0 && behind == 0);
    if !is_plain || (!matches!(kind, 2 | 3 | 7) && count != 0) {
        return Err(Fault::Reserved { what: "unused fields of a consumer's change" });
    }
    check_reserved(entry, named + stream_len, body, "padding bytes of a consumer's change")?;
    check_reserved(entry, end, end.next_multiple_of(8), "padding bytes of a consumer's change")?;
    if end.next_multiple_of(8) != len {
        return Err(Fault::Length { what: "length of a consumer's change", value: len as u64 });
    }
    let generation = numbered_at(entry, 8, "generation of a consumer")?;
    Ok((Change { consumer, generation, what }, len))
}

fn text(entry: &[u8], at: usize, len: usize) -> Result<&str, Fault> {
    let Some(bytes) = entry.get(at..at + len) else {
        return Err(Fault::Truncated { need: (at + len) as u64, have: entry.len() as u64 });
    };
    std::str::from_utf8(bytes).map_err(|_| Fault::Name { what: "text of a consumer's change" })
}

/// `count` ranges above `checkpoint` and below `first_position`, apart from each other.
fn ranges(entry: &[u8], at: usize, count: u32, checkpoint: u64, first_position: u64) -> Result<Vec<(u64, u64)>, Fault> {
    let rows = entry.get(at..).unwrap_or_default();
    if rows.len() / RANGE_LEN != count as usize || !rows.len().is_multiple_of(RANGE_LEN) {
        return Err(Fault::Count { what: "number of finished ranges", value: count.into() });
    }
    read_ranges(rows, checkpoint, first_position)
}

/// The ranges of `rows`, 16 bytes each.
pub(super) fn read_ranges(rows: &[u8], checkpoint: u64, first_position: u64) -> Result<Vec<(u64, u64)>, Fault> {
    let mut before = checkpoint;
    let read = |row: &[u8]| {
        let (first, last) = (number_at(row, 0, "finished position")?, number_at(row, 8, "finished position")?);
        // One that touches what lies before it would belong to it.
        if first <= before + 1 || last < first || last >= first_position {
            return Err(Fault::Order { what: "finished ranges" });
        }
        before = last;
        Ok((first, last))
    };
    rows.chunks_exact(RANGE_LEN).map(read).collect()
}
