//! A file of the index written again from its own rows, and held against itself: each of its bytes follows from them, so that
//! one that does not is found also where no answer depends on it, such as a bit too many in a filter.

use std::sync::atomic::AtomicBool;

use annals_format::index_file::{FILE_HEADER_LEN, FinishedFile, Sink, WriteError};

use super::blocks::ListedFile;
use super::file::TierFile;
use super::merge::write_file;
use super::sink::{Halt, Pulse, Step};
use super::source::{MergeInput, Source};
use crate::Result;
use crate::error::Error;

/// Where a file differs from what its rows give, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Differs {
    pub(crate) at: u64,
    pub(crate) what: String,
}

/// Takes the bytes that are written again, and ends at the first that stands not in the file.
pub(crate) struct Against<'a> {
    listed: ListedFile<'a>,
    at: u64,
    piece: Vec<u8>,
    differs_at: Option<u64>,
}

impl<'a> Against<'a> {
    pub(crate) fn new(listed: ListedFile<'a>) -> Self {
        Self { listed, at: FILE_HEADER_LEN as u64, piece: Vec::new(), differs_at: None }
    }

    /// Where the file's bytes from `at` on are others than these.
    fn first_other(&mut self, at: u64, bytes: &[u8]) -> Result<Option<u64>> {
        self.piece.resize(bytes.len(), 0);
        let got = self.listed.file.read_at(at, &mut self.piece).map_err(Error::io("read", self.listed.name))?;
        let there = &self.piece[..got];
        if there == bytes {
            return Ok(None);
        }
        let same = there.iter().zip(bytes).take_while(|(there, wanted)| there == wanted).count();
        Ok(Some(at + same as u64))
    }

    /// What came of it, once the whole was written or refused.
    ///
    /// # Errors
    /// `Io`, `Corrupt` if the rows could not be read.
    pub(crate) fn judge(mut self, outcome: Step<FinishedFile>) -> Result<Option<Differs>> {
        let differs = |at: u64| Differs { at, what: "not what the file's own rows give".to_owned() };
        match outcome {
            Ok(finished) if finished.len != self.listed.len => Ok(Some(differs(finished.len.min(self.listed.len)))),
            Ok(finished) => Ok(self.first_other(0, &finished.header[..])?.map(differs)),
            Err(WriteError::Sink(Halt::Failed(error))) => Err(error),
            Err(WriteError::Sink(Halt::Stopped)) => Ok(Some(differs(self.differs_at.unwrap_or(self.at)))),
            Err(other) => Ok(Some(Differs { at: self.at, what: format!("its rows cannot be written again: {other}") })),
        }
    }
}

impl Sink for Against<'_> {
    type Error = Halt;

    fn take(&mut self, bytes: &[u8]) -> Result<(), Halt> {
        self.differs_at = self.first_other(self.at, bytes).map_err(Halt::Failed)?;
        self.at += bytes.len() as u64;
        if self.differs_at.is_some() { Err(Halt::Stopped) } else { Ok(()) }
    }
}

/// Writes a tier again from its rows. Costs about what its merge did, but for the writing.
///
/// # Errors
/// `Io`, `Corrupt` if it cannot be read.
pub(crate) fn differs_from_itself(tier: &TierFile) -> Result<Option<Differs>> {
    let goes_on = AtomicBool::new(false);
    let mut against = Against::new(tier.listed_file());
    let outcome = Source::open(&MergeInput::Tier(tier), tier.first_position(), || true)
        .and_then(|source| write_file(&[source], &tier.identity(), &mut Pulse::new(&goes_on), |_| Ok(&mut against)));
    let outcome = outcome.map(|(finished, _)| finished);
    against.judge(outcome)
}
