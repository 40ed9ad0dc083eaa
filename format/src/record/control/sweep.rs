//! The cuts of a sweep.

use super::body::name;
use crate::Fault;
use crate::field::{check_reserved, numbered_at, u8_at, u32_at};

/// Where the first part begins, in the body, and what each has before its name.
pub(super) const PARTS_AT: usize = 8;
pub(super) const PART_LEN: usize = 24;

pub(super) const OF_STREAM: u8 = 1;
pub(super) const OF_PREFIX: u8 = 2;

/// One cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SweptPart<'a> {
    /// Revisions `first ..= upto` of this stream, and all before them, are hidden.
    Stream {
        /// The stream.
        name: &'a str,
        /// The first that could be read before.
        first: u64,
        /// The last that is hidden.
        upto: u64,
    },
    /// What stands at positions `first ..= upto`, and before them, is hidden in all streams of this prefix.
    Prefix {
        /// How their names begin; empty: all streams.
        prefix: &'a str,
        /// The first position that was not hidden by a cut of this prefix before.
        first: u64,
        /// The last position that is hidden.
        upto: u64,
    },
}

impl SweptPart<'_> {
    /// Streams before prefixes, by the bytes of their names.
    fn rank(&self) -> (u8, &[u8]) {
        match self {
            Self::Stream { name, .. } => (OF_STREAM, name.as_bytes()),
            Self::Prefix { prefix, .. } => (OF_PREFIX, prefix.as_bytes()),
        }
    }

    /// Bytes that it takes in a record.
    pub fn encoded_len(&self) -> usize {
        PART_LEN + self.rank().1.len()
    }

    pub(super) fn encode(&self, buffer: &mut Vec<u8>) {
        let (kind, name) = self.rank();
        let (Self::Stream { first, upto, .. } | Self::Prefix { first, upto, .. }) = self;
        buffer.extend_from_slice(&[kind, name.len() as u8, 0, 0, 0, 0, 0, 0]);
        buffer.extend_from_slice(&first.to_le_bytes());
        buffer.extend_from_slice(&upto.to_le_bytes());
        buffer.extend_from_slice(name);
    }
}

/// All cuts of a sweep, each stream and each prefix once, in order.
#[derive(Clone, Copy, Debug)]
pub struct Sweep<'a>(List<'a>);

#[derive(Clone, Copy, Debug)]
enum List<'a> {
    Given(&'a [SweptPart<'a>]),
    /// Verified.
    Encoded(&'a [u8]),
}

impl PartialEq for Sweep<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.parts().eq(other.parts())
    }
}

impl Eq for Sweep<'_> {}

impl<'a> Sweep<'a> {
    /// Of these parts: at least one, sorted, each stream and each prefix once.
    pub fn of(parts: &'a [SweptPart<'a>]) -> Self {
        Self(List::Given(parts))
    }

    /// Every cut, streams first, by name.
    pub fn parts(&self) -> SweptParts<'a> {
        SweptParts { list: self.0, at: 0 }
    }

    pub(super) fn read(body: &'a [u8], position: u64) -> Result<Self, Fault> {
        check_reserved(body, 4, PARTS_AT, "reserved bytes of a sweep")?;
        let (mut at, mut count) = (PARTS_AT, 0u64);
        let mut before: Option<SweptPart<'_>> = None;
        while at < body.len() {
            let part = read_part(&body[at..])?;
            if before.is_some_and(|before| before.rank() >= part.rank()) {
                return Err(Fault::Order { what: "parts of a sweep" });
            }
            if let SweptPart::Prefix { upto, .. } = part
                && upto >= position
            {
                return Err(Fault::Count { what: "last hidden position", value: upto });
            }
            at += part.encoded_len();
            count += 1;
            before = Some(part);
        }
        if count == 0 || u64::from(u32_at(body, 0)) != count {
            return Err(Fault::Count { what: "number of parts of a sweep", value: u32_at(body, 0).into() });
        }
        Ok(Self(List::Encoded(&body[PARTS_AT..])))
    }
}

fn read_part(bytes: &[u8]) -> Result<SweptPart<'_>, Fault> {
    let name_len = usize::from(u8_at(bytes, 1));
    let Some(text) = bytes.get(PART_LEN..PART_LEN + name_len) else {
        return Err(Fault::Truncated { need: (PART_LEN + name_len) as u64, have: bytes.len() as u64 });
    };
    check_reserved(bytes, 2, 8, "reserved bytes of a part of a sweep")?;
    let first = numbered_at(bytes, 8, "first hidden number")?;
    let upto = numbered_at(bytes, 16, "last hidden number")?;
    if upto < first {
        return Err(Fault::Count { what: "last hidden number", value: upto });
    }
    match u8_at(bytes, 0) {
        OF_STREAM => Ok(SweptPart::Stream { name: name(text, false)?, first, upto }),
        OF_PREFIX => Ok(SweptPart::Prefix { prefix: name(text, true)?, first, upto }),
        kind => Err(Fault::Unsupported { what: "part of a sweep", value: kind.into() }),
    }
}

/// Parts of a sweep in order.
#[derive(Clone, Debug)]
pub struct SweptParts<'a> {
    list: List<'a>,
    /// The next one: its number, or where it stands.
    at: usize,
}

impl<'a> Iterator for SweptParts<'a> {
    type Item = SweptPart<'a>;

    fn next(&mut self) -> Option<SweptPart<'a>> {
        match self.list {
            List::Given(parts) => {
                let part = parts.get(self.at)?;
                self.at += 1;
                Some(*part)
            }
            List::Encoded(bytes) => {
                let rest = bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
                let part = read_part(rest).ok()?;
                self.at += part.encoded_len();
                Some(part)
            }
        }
    }
}
