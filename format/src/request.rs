//! Requests beside a running writer (`COMPACT`), and what the writer answers (`COMPACT-ANSWER`).
//!
//! Neither is part of the log, neither is ever synced: what is damaged, foreign or of a later version is left alone.

use crate::Fault;
use crate::field::{array_at, check_known, check_reserved, number_at, put, u8_at, u16_at, u32_at, u64_at};
use crate::header::{Header, Purpose, Reach};

/// Length of a request's file.
pub const REQUEST_LEN: usize = 128;
/// Length of an answer's file.
pub const ANSWER_LEN: usize = 1024;
/// An answer's text is no longer than this.
pub const TEXT_LEN_MAX: usize = ANSWER_LEN - TEXT_AT;

const TEXT_AT: usize = 160;
/// The one thing that can be asked for.
const COMPACT: u8 = 1;

const REQUEST: Header =
    Header { what: "request", magic: *b"ANNALREQ", len: REQUEST_LEN, reach: Reach::Header, known_write: 0 };
const ANSWER: Header =
    Header { what: "answer", magic: *b"ANNALANS", len: ANSWER_LEN, reach: Reach::Header, known_write: 0 };

/// What the writer is asked to do: to compact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Id of the store.
    pub store: [u8; 16],
    /// Id of the request, random.
    pub id: [u8; 16],
    /// When it was asked, nanoseconds since 1970 UTC.
    pub asked_at: u64,
    /// Most bytes of segments a second; 0: no limit.
    pub bytes_per_second: u64,
    /// Length of blocks, a power of two from 4 KiB to 1 MiB.
    pub block_len: u32,
    /// Level of zstd, 1 to 19.
    pub level: u8,
    /// What is done about the segment that is being written.
    pub live: Live,
    /// Whether policies are swept first.
    pub sweep: bool,
}

/// What is done about the segment that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// Nothing.
    Leave,
    /// It is ended if anything was removed from it.
    EndWhereRemoved,
    /// It is ended if it holds anything.
    End,
}

impl Request {
    /// The file's bytes.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        REQUEST.begin(&mut bytes);
        put(&mut bytes, 32, self.store);
        put(&mut bytes, 48, self.id);
        put(&mut bytes, 64, self.asked_at.to_le_bytes());
        put(&mut bytes, 72, self.bytes_per_second.to_le_bytes());
        put(&mut bytes, 80, self.block_len.to_le_bytes());
        bytes[84] = self.level;
        bytes[85] = self.live as u8;
        bytes[86] = u8::from(self.sweep);
        bytes[87] = COMPACT;
        REQUEST.finish(&mut bytes, 0);
        bytes
    }

    /// Reads and verifies a request.
    ///
    /// # Errors
    /// Any [`Fault`] of a header; `Unsupported` for what this version cannot be asked; `Length` and `Count` for values that no
    /// compaction takes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        REQUEST.check(bytes, 0, Purpose::Write)?;
        check_known(u8_at(bytes, 87), COMPACT.into(), "verb of a request")?;
        check_reserved(bytes, 88, REQUEST_LEN, "reserved bytes of a request")?;
        let live = match u8_at(bytes, 85) {
            0 => Live::Leave,
            1 => Live::EndWhereRemoved,
            2 => Live::End,
            other => return Err(Fault::Unsupported { what: "live segment in a request", value: other.into() }),
        };
        let sweep = match u8_at(bytes, 86) {
            0 => false,
            1 => true,
            other => return Err(Fault::Unsupported { what: "sweep in a request", value: other.into() }),
        };
        let (level, block_len) = (u8_at(bytes, 84), u32_at(bytes, 80));
        if !(1..=19).contains(&level) {
            return Err(Fault::Count { what: "level in a request", value: level.into() });
        }
        let is_block = block_len.is_power_of_two()
            && (crate::compacted::BLOCK_LEN_MIN..=crate::compacted::BLOCK_LEN_MAX).contains(&block_len);
        if !is_block {
            return Err(Fault::Length { what: "length of a block", value: block_len.into() });
        }
        Ok(Self {
            store: array_at(bytes, 32),
            id: array_at(bytes, 48),
            asked_at: u64_at(bytes, 64),
            bytes_per_second: number_at(bytes, 72, "bytes a second in a request")?,
            block_len,
            level,
            live,
            sweep,
        })
    }
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerState {
    /// The writer is at it.
    Running,
    /// It is done.
    Done,
    /// It failed; the text says why.
    Failed,
    /// It was stopped, because the store was closed.
    Stopped,
}

/// What the writer says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Id of the store.
    pub store: [u8; 16],
    /// Id of the request.
    pub request: [u8; 16],
    /// How far it is.
    pub state: AnswerState,
    /// Whether the segment that was being written was ended.
    pub ended_live: bool,
    /// When this was written, nanoseconds since 1970 UTC.
    pub written_at: u64,
    /// Bytes of segments that are done, and of all that are looked at.
    pub progress: [u64; 2],
    /// Segments compacted and left; bytes before and after; events removed; snapshots void.
    pub figures: [u64; 6],
    /// Notices, or why it failed: as much of it as fits.
    pub text: String,
}

impl Answer {
    /// The file's bytes. Of the text as much is kept as fits.
    pub fn encode(&self) -> [u8; ANSWER_LEN] {
        let mut bytes = [0; ANSWER_LEN];
        ANSWER.begin(&mut bytes);
        put(&mut bytes, 32, self.store);
        put(&mut bytes, 48, self.request);
        bytes[64] = match self.state {
            AnswerState::Running => 1,
            AnswerState::Done => 2,
            AnswerState::Failed => 3,
            AnswerState::Stopped => 4,
        };
        bytes[65] = u8::from(self.ended_live);
        let mut len = self.text.len().min(TEXT_LEN_MAX);
        while !self.text.is_char_boundary(len) {
            len -= 1;
        }
        put(&mut bytes, 66, (len as u16).to_le_bytes());
        put(&mut bytes, 72, self.written_at.to_le_bytes());
        for (n, number) in self.progress.iter().chain(&self.figures).enumerate() {
            put(&mut bytes, 80 + 8 * n, number.to_le_bytes());
        }
        bytes[TEXT_AT..TEXT_AT + len].copy_from_slice(&self.text.as_bytes()[..len]);
        ANSWER.finish(&mut bytes, 0);
        bytes
    }

    /// Reads and verifies an answer.
    ///
    /// # Errors
    /// Any [`Fault`] of a header; `Unsupported` for an unknown state; `Length` for a text that does not fit or is no UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        ANSWER.check(bytes, 0, Purpose::Read)?;
        let state = match u8_at(bytes, 64) {
            1 => AnswerState::Running,
            2 => AnswerState::Done,
            3 => AnswerState::Failed,
            4 => AnswerState::Stopped,
            other => return Err(Fault::Unsupported { what: "state of an answer", value: other.into() }),
        };
        let ended_live = match u8_at(bytes, 65) {
            0 => false,
            1 => true,
            other => return Err(Fault::Unsupported { what: "end of a segment in an answer", value: other.into() }),
        };
        check_reserved(bytes, 68, 72, "reserved bytes of an answer")?;
        check_reserved(bytes, 144, TEXT_AT, "reserved bytes of an answer")?;
        let len = usize::from(u16_at(bytes, 66));
        let wrong_text = Fault::Length { what: "text of an answer", value: len as u64 };
        if len > TEXT_LEN_MAX {
            return Err(wrong_text);
        }
        check_reserved(bytes, TEXT_AT + len, ANSWER_LEN, "bytes behind the text of an answer")?;
        let text = std::str::from_utf8(&bytes[TEXT_AT..TEXT_AT + len]).map_err(|_| wrong_text)?;
        let number = |n: usize| u64_at(bytes, 80 + 8 * n);
        Ok(Self {
            store: array_at(bytes, 32),
            request: array_at(bytes, 48),
            state,
            ended_live,
            written_at: u64_at(bytes, 72),
            progress: [number(0), number(1)],
            figures: std::array::from_fn(|n| number(2 + n)),
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            store: [1; 16],
            id: [2; 16],
            asked_at: 3,
            bytes_per_second: 4 << 20,
            block_len: 64 << 10,
            level: 3,
            live: Live::EndWhereRemoved,
            sweep: true,
        }
    }

    fn answer() -> Answer {
        Answer {
            store: [1; 16],
            request: [2; 16],
            state: AnswerState::Running,
            ended_live: true,
            written_at: 5,
            progress: [6, 7],
            figures: [8, 9, 10, 11, 12, 13],
            text: "nothing can be said against it".to_owned(),
        }
    }

    #[test]
    fn they_come_back_as_they_went() {
        for live in [Live::Leave, Live::EndWhereRemoved, Live::End] {
            let request = Request { live, ..request() };
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        for state in [AnswerState::Running, AnswerState::Done, AnswerState::Failed, AnswerState::Stopped] {
            let answer = Answer { state, ..answer() };
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        // A text that is too long is cut between two characters.
        let long = Answer { text: "\u{20AC}".repeat(400), ..answer() };
        assert_eq!(Answer::decode(&long.encode()).unwrap().text, "\u{20AC}".repeat(TEXT_LEN_MAX / 3));
    }

    #[test]
    fn each_byte_counts() {
        for (bytes, is_request) in [(request().encode().to_vec(), true), (answer().encode().to_vec(), false)] {
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut other = bytes.clone();
                    other[at] ^= 1 << bit;
                    let refused =
                        if is_request { Request::decode(&other).is_err() } else { Answer::decode(&other).is_err() };
                    assert!(refused, "bit {bit} of byte {at}");
                }
            }
            for len in 0..bytes.len() {
                assert!(Request::decode(&bytes[..len]).is_err() && Answer::decode(&bytes[..len]).is_err());
            }
        }
    }

    #[test]
    fn values_that_no_compaction_takes_are_refused() {
        let refused = |change: &dyn Fn(&mut [u8; REQUEST_LEN])| {
            let mut bytes = request().encode();
            change(&mut bytes);
            REQUEST.finish(&mut bytes, 0);
            assert!(Request::decode(&bytes).is_err());
        };
        refused(&|bytes| bytes[84] = 0);
        refused(&|bytes| bytes[84] = 20);
        refused(&|bytes| bytes[85] = 3);
        refused(&|bytes| bytes[86] = 2);
        refused(&|bytes| bytes[87] = 2);
        refused(&|bytes| bytes[80] = 1);
        refused(&|bytes| put(bytes, 80, (1u32 << 21).to_le_bytes()));
        refused(&|bytes| bytes[79] = 0x80);
        refused(&|bytes| bytes[100] = 1);
        refused(&|bytes| bytes[24] = 1);
        // A later version is told from damage.
        let mut later = request().encode();
        later[8] = 2;
        let checksum = crate::checksum::crc(2 ^ 1, &later[20..]);
        put(&mut later, 16, checksum.to_le_bytes());
        assert!(matches!(Request::decode(&later), Err(Fault::Unsupported { .. })));
    }

    #[test]
    fn the_bytes_are_pinned() {
        let sum = |bytes: &[u8]| crate::checksum::crc(0, bytes);
        assert_eq!((sum(&request().encode()), sum(&answer().encode())), (0x98462868, 0x475727fd));
    }
}
