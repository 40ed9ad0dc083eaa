//! Where a consumer's events come from: bounded reads, one after the other, by the ordinary path.

use crate::query::{Query, Seek};
use crate::read::Read;
use crate::reader::Reader;
use crate::{Event, Result};

/// Reads on and on.
#[derive(Debug)]
pub(super) struct Source {
    reader: Reader,
    query: Query,
    /// The read under way, and the position behind which it stands.
    read: Option<(u64, Read)>,
}

impl Source {
    pub(super) fn new(reader: Reader, query: Query) -> Self {
        Self { reader, query, read: None }
    }

    /// Reads up to `most` events behind `after` into `events`, as far as there are any now. Answers how far was looked:
    /// what lies up to there and is not among the events does not match.
    pub(super) fn read_on(&mut self, after: u64, most: usize, events: &mut Vec<Event>) -> Result<u64> {
        let mut read = match self.read.take() {
            Some((at, read)) if at == after => read,
            _ if self.reader.head() <= after => return Ok(after),
            _ => self.reader.read_all(&self.query, Seek::After(after))?,
        };
        let mut upto = after;
        while events.len() < most {
            match read.next().transpose()? {
                Some(event) => {
                    upto = event.position().get();
                    events.push(event);
                }
                None => return Ok(read.head().max(upto)),
            }
        }
        self.read = Some((upto, read));
        Ok(upto)
    }
}
