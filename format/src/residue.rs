//! What of a block of a compacted segment need not be compressed: checksums that follow from the bytes they cover, numbers that
//! follow from those before them, and ids, which are random.
//!
//! A block's *residue* has the block's length, with zeros or small numbers in these places; the ids stand in front of it. Going
//! through the frames from the first that begins in the block, the block is made from it again, bit by bit. Both directions are
//! one walk, so that they cannot differ; who writes a block makes it again and compares. A checksum of the whole block stands with
//! it: what is made by whatever went wrong in between is never handed out, although its frames have checksums that fit.

use std::ops::Range;

use crate::Fault;
use crate::batch::{BATCH_HEADER_LEN, BATCH_KIND};
use crate::checksum::{ChecksumList, Seed, crc};
use crate::field::{check_reserved, put, u8_at, u16_at, u32_at, u64_at};
use crate::header::check_crc;

/// Length of what stands in front of the ids.
pub const RESIDUE_HEADER_LEN: usize = 28;

const ID_LEN: usize = 16;
const ID_AT: usize = 24;
const NAMES_AT: usize = ID_AT + ID_LEN;
const EVENT: u8 = 1;
const COMPACTED_EVENT: u8 = 3;
const TAGS: u16 = 0x0001;
const METADATA: u16 = 0x0002;
const OCCURRED_AT: u16 = 0x0004;

/// Where the walk through a block begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Start {
    /// Offset in the block of the first batch header or record that begins there. The length of the block: none does.
    pub offset: u32,
    /// How many records of a batch begin here, up to its last; 0: a batch header stands here.
    pub left: u32,
    /// Position of the first record that begins here.
    pub position: u64,
}

/// Makes the residue of `block`, in place, and appends what stands in front of it to `head`. A block that could not be made
/// from it again stays as it is, and `head` says so. About 30 ns an event.
pub fn take_out(block: &mut [u8], start: Start, seed: Seed, head: &mut Vec<u8>) {
    let original = block.to_vec();
    let mut ids = Vec::new();
    let begun = head.len();
    let checksum = crc(block_seed(seed), &original);
    walk::<false>(block, start, seed, &mut Ids::Taken(&mut ids));
    encode_head(head, start, &ids, checksum);
    let mut again = block.to_vec();
    let restored = Head::decode(&head[begun..]).and_then(|(head, _)| head.put_back(&mut again, seed));
    if restored.is_err() || again != original {
        block.copy_from_slice(&original);
        head.truncate(begun);
        encode_head(head, Start { offset: block.len() as u32, left: 0, position: 0 }, &[], checksum);
    }
}

fn block_seed(seed: Seed) -> u32 {
    seed.raw() ^ 0x5245_5349
}

fn encode_head(head: &mut Vec<u8>, start: Start, ids: &[[u8; ID_LEN]], checksum: u32) {
    let shared = match ids {
        [] => 0,
        [first, rest @ ..] => {
            let same = |other: &[u8; ID_LEN]| first.iter().zip(other).take_while(|(a, b)| a == b).count();
            rest.iter().map(same).min().unwrap_or(ID_LEN)
        }
    };
    let mut bytes = [0; RESIDUE_HEADER_LEN];
    put(&mut bytes, 0, start.offset.to_le_bytes());
    put(&mut bytes, 4, start.left.to_le_bytes());
    put(&mut bytes, 8, start.position.to_le_bytes());
    put(&mut bytes, 16, (ids.len() as u32).to_le_bytes());
    bytes[20] = shared as u8;
    put(&mut bytes, 24, checksum.to_le_bytes());
    head.extend_from_slice(&bytes);
    head.extend_from_slice(ids.first().map_or(&[][..], |id| &id[..shared]));
    ids.iter().for_each(|id| head.extend_from_slice(&id[shared..]));
}

/// What stands in front of a residue.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    start: Start,
    count: u32,
    checksum: u32,
    shared: &'a [u8],
    /// The same, with zeros behind it.
    shared_word: [u8; ID_LEN],
    rest: &'a [u8],
}

impl<'a> Head<'a> {
    /// Reads it from the beginning of a stored block; answers the rest as well, which is the residue, compressed.
    ///
    /// # Errors
    /// `Truncated`, `Reserved`, `Length`.
    pub fn decode(stored: &'a [u8]) -> Result<(Self, &'a [u8]), Fault> {
        if stored.len() < RESIDUE_HEADER_LEN {
            return Err(Fault::Truncated { need: RESIDUE_HEADER_LEN as u64, have: stored.len() as u64 });
        }
        check_reserved(stored, 21, 24, "reserved bytes in front of a block")?;
        let (count, shared) = (u32_at(stored, 16), usize::from(u8_at(stored, 20)));
        if shared > ID_LEN || (count == 0 && shared > 0) {
            return Err(Fault::Length { what: "what ids of a block share", value: shared as u64 });
        }
        let each = (ID_LEN - shared) as u64;
        let need = (RESIDUE_HEADER_LEN + shared) as u64 + u64::from(count) * each;
        if (stored.len() as u64) < need {
            return Err(Fault::Truncated { need, have: stored.len() as u64 });
        }
        let (ids, residue) = stored[RESIDUE_HEADER_LEN..].split_at(need as usize - RESIDUE_HEADER_LEN);
        let (shared, rest) = ids.split_at(shared);
        let start = Start { offset: u32_at(stored, 0), left: u32_at(stored, 4), position: u64_at(stored, 8) };
        let mut shared_word = [0; ID_LEN];
        shared_word[..shared.len()].copy_from_slice(shared);
        Ok((Self { start, count, checksum: u32_at(stored, 24), shared, shared_word, rest }, residue))
    }

    /// Makes the block from its residue, in place, and verifies it. Answers between which bytes: the checksums of all frames that
    /// lie there as a whole are right, since they were made of what they cover.
    ///
    /// # Errors
    /// `Count` if it has not as many ids as stand here, `Checksum` if it is not the block that was taken apart.
    pub fn put_back(&self, residue: &mut [u8], seed: Seed) -> Result<Range<usize>, Fault> {
        let mut next = 0;
        let end = walk::<true>(residue, self.start, seed, &mut Ids::Given { head: self, next: &mut next });
        if next != self.count {
            return Err(Fault::Count { what: "ids of a block", value: next.into() });
        }
        check_crc(block_seed(seed), residue, self.checksum, "block as it was")?;
        Ok((self.start.offset as usize).min(end)..end)
    }

    #[inline]
    fn id(&self, number: u32) -> Option<[u8; ID_LEN]> {
        if number >= self.count {
            return None;
        }
        let each = ID_LEN - self.shared.len();
        let at = number as usize * each;
        let mut id = [0; ID_LEN];
        // In one load where sixteen bytes are there: two copies of a few bytes are two calls.
        if let Some(rest) = self.rest.get(at..).and_then(|rest| rest.first_chunk::<ID_LEN>()) {
            let shared = u128::from_le_bytes(self.shared_word);
            let own = u128::from_le_bytes(*rest).checked_shl(8 * self.shared.len() as u32).unwrap_or(0);
            return Some((shared | own).to_le_bytes());
        }
        let rest = self.rest.get(at..at + each)?;
        id[..self.shared.len()].copy_from_slice(self.shared);
        id[self.shared.len()..].copy_from_slice(rest);
        Some(id)
    }
}

enum Ids<'a, 'b> {
    Taken(&'a mut Vec<[u8; ID_LEN]>),
    Given { head: &'a Head<'b>, next: &'a mut u32 },
}

/// A number that is stored as its distance from a guess. Answers the number.
#[inline]
fn shift64<const PUT_BACK: bool>(bytes: &mut [u8], at: usize, guess: u64) -> u64 {
    let stands = u64_at(bytes, at);
    let (value, stored) = match PUT_BACK {
        true => (stands.wrapping_add(guess), stands.wrapping_add(guess)),
        false => (stands, stands.wrapping_sub(guess)),
    };
    put(bytes, at, stored.to_le_bytes());
    value
}

#[inline]
fn shift32<const PUT_BACK: bool>(bytes: &mut [u8], at: usize, guess: u32) -> u32 {
    let stands = u32_at(bytes, at);
    let (value, stored) = match PUT_BACK {
        true => (stands.wrapping_add(guess), stands.wrapping_add(guess)),
        false => (stands, stands.wrapping_sub(guess)),
    };
    put(bytes, at, stored.to_le_bytes());
    value
}

/// Length with padding of the frame at `at`, if it lies in `bytes`.
#[inline]
fn frame_at(bytes: &[u8], at: usize) -> Option<usize> {
    let len = u32_at(bytes.get(at..at + NAMES_AT - ID_LEN)?, 4) as usize;
    let padded = len.checked_next_multiple_of(8)?;
    (len >= ID_AT && padded <= bytes.len() - at).then_some(padded)
}

/// Goes through all frames of a block. Whatever decides where it goes stands there unchanged, or has been put back before it is
/// looked at. Ends at the first thing that is no frame, or does not lie in the block as a
/// whole, and answers where that stands.
#[inline(always)]
fn walk<const PUT_BACK: bool>(bytes: &mut [u8], start: Start, seed: Seed, ids: &mut Ids<'_, '_>) -> usize {
    let Start { offset, mut left, mut position } = start;
    let mut at = offset as usize;
    let (mut time, mut occurred, mut durable) = (0u64, 0u64, 0u32);
    // The batch that lies in the block as a whole, and its records' checksums; where a batch ends.
    let (mut whole, mut checksums) = (None, ChecksumList::new(seed));
    let mut batch_end: Option<usize> = None;
    loop {
        if left == 0 {
            let Some(header) = at.checked_add(BATCH_HEADER_LEN).and_then(|end| bytes.get_mut(at..end)) else {
                return at;
            };
            if header[4] != BATCH_KIND || header[6] != 0 {
                return at;
            }
            let (count, has_more) = (u32_at(header, 12), header[5] != 0);
            let first = shift64::<PUT_BACK>(header, 24, position);
            time = shift64::<PUT_BACK>(header, 32, time);
            durable = if PUT_BACK {
                let value = u32_at(header, 20).wrapping_add(durable);
                put(header, 20, (first as u32).wrapping_sub(value).to_le_bytes());
                value
            } else {
                let value = (first as u32).wrapping_sub(u32_at(header, 20));
                put(header, 20, value.wrapping_sub(durable).to_le_bytes());
                value
            };
            // Most batches of one record are as long as that.
            let record = bytes.get(at + BATCH_HEADER_LEN..at + BATCH_HEADER_LEN + 8);
            let guess = record.map_or(0, |record| u32_at(record, 4).wrapping_add(7) & !7);
            let body = shift32::<PUT_BACK>(bytes, at + 8, guess) as usize;
            batch_end = (at + BATCH_HEADER_LEN).checked_add(body).filter(|end| *end <= bytes.len());
            whole = (batch_end.is_some() && !has_more && count > 0).then_some(at);
            checksums.restart(seed);
            if whole.is_some() && !PUT_BACK {
                put(bytes, at, [0; 4]);
                put(bytes, at + 16, [0; 4]);
            }
            (left, position) = (count, first);
            at += BATCH_HEADER_LEN;
            if left == 0 {
                let Some(end) = batch_end else { return at };
                at = end;
            }
            continue;
        }
        let Some(len) = frame_at(bytes, at) else { return at };
        let frame = &mut bytes[at..at + len];
        match frame[8] {
            kind @ (EVENT | COMPACTED_EVENT) if len >= NAMES_AT => {
                match ids {
                    Ids::Taken(ids) => {
                        ids.push(frame[ID_AT..NAMES_AT].try_into().expect("an id"));
                        frame[ID_AT..NAMES_AT].fill(0);
                    }
                    Ids::Given { head, next } => {
                        let Some(id) = head.id(**next) else { return at };
                        frame[ID_AT..NAMES_AT].copy_from_slice(&id);
                        **next += 1;
                    }
                }
                if kind == EVENT
                    && let Some(at) = occurred_at(frame)
                {
                    occurred = shift64::<PUT_BACK>(frame, at, occurred);
                }
            }
            _ => {}
        }
        if PUT_BACK {
            let checksum = crc(seed.record(position), &frame[4..]);
            put(frame, 0, checksum.to_le_bytes());
            if whole.is_some() {
                checksums.push(checksum);
            }
        } else {
            put(frame, 0, [0; 4]);
        }
        position = position.wrapping_add(1);
        left -= 1;
        at += len;
        if left == 0 {
            if let Some(header) = whole.take()
                && PUT_BACK
            {
                put(bytes, header + 16, checksums.finish().to_le_bytes());
                let checksum = crc(seed.batch(), &bytes[header + 4..header + BATCH_HEADER_LEN]);
                put(bytes, header, checksum.to_le_bytes());
            }
            // Sections stand behind the records.
            if let Some(end) = batch_end.take()
                && end > at
            {
                at = end;
            }
        }
    }
}

/// Where `occurred_at` stands in an event's frame, if it has one.
#[inline]
fn occurred_at(frame: &[u8]) -> Option<usize> {
    let fields = u16_at(frame, 12);
    if fields & OCCURRED_AT == 0 {
        return None;
    }
    let mut at = NAMES_AT + usize::from(frame[14]) + usize::from(frame[15]);
    if fields & TAGS != 0 {
        let count = *frame.get(at)?;
        at += 1;
        for _ in 0..count {
            at += 1 + usize::from(*frame.get(at)?);
        }
    }
    if fields & METADATA != 0 {
        let len = u32_at(frame.get(at..at + 4)?, 0) as usize;
        at = at.checked_add(4)?.checked_add(len)?;
    }
    frame.get(at..at.checked_add(8)?).map(|_| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::BatchEncoder;
    use crate::checksum::Identity;
    use crate::record::{EventParts, check};

    fn seed() -> Seed {
        Seed::of(&Identity { store: [1; 16], incarnation: [2; 16], segment: 3 })
    }

    /// Batches of these sizes, and where each frame begins.
    fn log(sizes: &[u8]) -> (Vec<u8>, Vec<(usize, Start)>) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        let mut position = 1;
        for (number, size) in sizes.iter().enumerate() {
            let mut one = Vec::new();
            let mut batch = BatchEncoder::begin(&mut one, seed(), position);
            starts.push((bytes.len(), Start { offset: 0, left: 0, position }));
            for n in 0..u64::from(*size) {
                let payload = format!("payload {number} {n} of {size}").repeat(1 + n as usize % 3);
                let tags = ["tag", "another"];
                let parts = EventParts {
                    payload: payload.as_bytes(),
                    metadata: if n % 2 == 0 { b"metadata" } else { b"" },
                    tags: if n % 3 == 0 { &tags } else { &[] },
                    ..EventParts::new((u128::from(position + n) << 90 | 7).to_le_bytes(), "stream", "Type")
                };
                let at = batch.event(&parts, n + 1);
                let start = Start { offset: 0, left: u32::from(*size) - n as u32, position: position + n };
                starts.push((bytes.len() + at, start));
            }
            batch.finish(1_700_000_000_000_000_000 + position * 1000, position.saturating_sub(9), *size > 1);
            bytes.extend(one);
            position += u64::from(*size);
        }
        (bytes, starts)
    }

    /// The start of the block at `from`, of this length.
    fn start(starts: &[(usize, Start)], from: usize, len: usize) -> Start {
        let next = starts.iter().find(|(at, _)| *at >= from && *at < from + len);
        match next {
            Some((at, start)) => Start { offset: (*at - from) as u32, ..*start },
            None => Start { offset: len as u32, left: 0, position: 0 },
        }
    }

    #[test]
    fn blocks_cut_anywhere_come_back() {
        let (bytes, starts) = log(&[1, 1, 5, 1, 40, 2, 1]);
        for block_len in [64, 200, 512, 1024, 100_000] {
            let mut taken = 0;
            for from in (0..bytes.len()).step_by(block_len) {
                let original = &bytes[from..bytes.len().min(from + block_len)];
                let start = start(&starts, from, original.len());
                let (mut block, mut stored) = (original.to_vec(), Vec::new());
                take_out(&mut block, start, seed(), &mut stored);
                let (head, rest) = Head::decode(&stored).unwrap();
                assert!(rest.is_empty());
                taken += head.count;
                if head.count > 0 {
                    assert_eq!(head.start, start);
                    assert!(block != original);
                }
                let sound = head.put_back(&mut block, seed()).unwrap();
                assert_eq!(block, original);
                let frames = starts.iter().filter(|(at, start)| start.left > 0 && *at >= from + sound.start);
                let whole = frames
                    .filter_map(|(at, start)| Some((frame_at(original, at.checked_sub(from)?)?, at - from, start)));
                let inside = whole.filter(|(len, at, _)| at + len <= sound.end);
                let checked =
                    inside.map(|(_, at, start)| check(&original[at..], seed(), start.position).expect("sound"));
                assert_eq!(checked.count(), head.count as usize);
            }
            // What crosses a border keeps its own.
            assert!(taken == 51 || block_len < 100_000, "{taken}");
            assert!(taken > 20 || block_len < 500, "{taken}");
        }
    }

    #[test]
    fn what_follows_from_the_rest_is_zero() {
        let (bytes, starts) = log(&[1; 20]);
        let (mut block, mut stored) = (bytes.clone(), Vec::new());
        take_out(&mut block, start(&starts, 0, bytes.len()), seed(), &mut stored);
        // The second batch: checksums, body, position.
        let at = starts[2].0;
        let header = &block[at..at + BATCH_HEADER_LEN];
        assert_eq!(
            (&header[..4], &header[8..12], &header[16..20], &header[24..32]),
            (&[0; 4][..], &[0; 4][..], &[0; 4][..], &[0; 8][..])
        );
        assert_eq!(u64_at(header, 32), 1000);
        assert_eq!((&block[at + 40..at + 44], &block[at + 64..at + 80]), (&[0; 4][..], &[0; 16][..]));
        // The ids have their first bytes in common, which stand there once.
        assert_eq!(stored.len(), RESIDUE_HEADER_LEN + 20 * 16 - shared(&stored) * 19);
    }

    fn shared(stored: &[u8]) -> usize {
        usize::from(stored[20])
    }

    #[test]
    fn a_wrong_checksum_is_kept() {
        let (mut bytes, starts) = log(&[1, 3, 1]);
        bytes[starts[3].0] ^= 1;
        let (mut block, mut stored) = (bytes.clone(), Vec::new());
        take_out(&mut block, start(&starts, 0, bytes.len()), seed(), &mut stored);
        assert_eq!((&block, Head::decode(&stored).unwrap().0.count), (&bytes, 0));
        let sound = Head::decode(&stored).unwrap().0.put_back(&mut block, seed()).unwrap();
        assert_eq!((block, sound), (bytes.clone(), bytes.len()..bytes.len()));
    }

    #[test]
    fn the_bytes_are_pinned() {
        let (bytes, starts) = log(&[1, 3, 1]);
        let (mut block, mut stored) = (bytes.clone(), Vec::new());
        take_out(&mut block, start(&starts, 0, bytes.len()), seed(), &mut stored);
        assert_eq!((crc(0, &stored), crc(0, &block)), (0x9d662e0f, 0xc9723842));
    }

    proptest! {
        #[test]
        fn anything_comes_back(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600), offset in 0..700u32, left in 0..3u32, position: u64,
        ) {
            for at in (4..bytes.len()).step_by(40) {
                bytes[at] = BATCH_KIND;
            }
            let (mut block, mut stored) = (bytes.clone(), Vec::new());
            take_out(&mut block, Start { offset, left, position }, seed(), &mut stored);
            Head::decode(&stored).unwrap().0.put_back(&mut block, seed()).unwrap();
            prop_assert_eq!(block, bytes);
        }

        #[test]
        fn hostile_heads_do_no_harm(stored in proptest::collection::vec(any::<u8>(), 0..200), mut block in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok((head, _)) = Head::decode(&stored) {
                let _ = head.put_back(&mut block, seed());
            }
            let mut whole = log(&[1, 2, 1]).0;
            for at in 0..6 {
                let start = Start { offset: at * 8, left: at, position: 1 };
                let mut head = Vec::new();
                encode_head(&mut head, start, &[[7; 16]; 3], 0);
                let _ = Head::decode(&head).unwrap().0.put_back(&mut whole, seed());
            }
        }
    }
}
