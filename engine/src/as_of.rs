//! Looking at a store as it was: a moment of its history, and readers bounded by one.

use crate::Result;
use crate::error::Error;
use crate::prepare::segment_name;
use crate::reader::Reader;
use crate::store::Store;
use crate::{Position, core::Core};

/// A moment in a store's history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AsOf {
    /// Now: the head.
    #[default]
    Head,
    /// All batches whose last position is at or before this one; 0: before the first.
    Position(u64),
    /// All batches recorded at or before this time, nanoseconds since 1970 UTC.
    Time(u64),
}

impl From<Position> for AsOf {
    fn from(position: Position) -> Self {
        Self::Position(position.get())
    }
}

impl Reader {
    /// A reader of the same store that shows it as it was at a moment: every question to it is answered from the batches
    /// up to there, and [`Reader::head`] stays where it is. What was removed since is not shown either.
    ///
    /// Copies nothing; costs one look at a batch header for a position, a binary search for a time. A batch is shown whole
    /// or not at all, so the head may lie before the position asked for.
    ///
    /// # Errors
    /// `AheadOfLog` for a position beyond the head; `Corrupt` or `Io` if what must be looked at is damaged.
    ///
    /// ```
    /// use annals::{AsOf, Expect, NewEvent, Query, Store};
    /// # fn main() -> annals::Result<()> {
    /// let store = Store::in_memory()?;
    /// let placed = store.append("order-1", Expect::NoStream, &[NewEvent::new("Placed", b"")])?;
    /// store.append("order-1", Expect::Any, &[NewEvent::new("Paid", b"")])?;
    /// let then = store.as_of(AsOf::from(placed.position()))?;
    /// assert_eq!(then.count(&Query::all())?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn as_of(&self, moment: AsOf) -> Result<Self> {
        let head = self.head();
        let last = match moment {
            AsOf::Head => head,
            AsOf::Position(given) if given > head => return Err(Error::AheadOfLog { given, head }),
            AsOf::Position(0) => 0,
            AsOf::Position(given) if given == head => head,
            AsOf::Position(given) => last_of_whole_batch(self.core(), given)?,
            AsOf::Time(u64::MAX) => head,
            AsOf::Time(time) => self.position_at(time + 1)?.map_or(head, |position| position.get() - 1),
        };
        Ok(self.bounded(last))
    }
}

impl Store {
    /// See [`Reader::as_of`].
    ///
    /// # Errors
    /// As there.
    pub fn as_of(&self, moment: AsOf) -> Result<Reader> {
        self.reader().as_of(moment)
    }
}

/// The last position, at or before `position`, that ends a batch.
fn last_of_whole_batch(core: &Core, position: u64) -> Result<u64> {
    let unknown = || Error::corrupt("the index", 0, Some(position), "no record is known at this position");
    let segment = core.segment_of(position).ok_or_else(unknown)?;
    let opened = segment.opened()?;
    let place = segment.place(&opened, position)?.ok_or_else(unknown)?;
    let window = segment.window(&opened, &core.log, place.batch, annals_format::batch::BATCH_HEADER_LEN as u64)?;
    let header = segment.batch_header(&window, place.batch)?;
    if !(header.first_position..=header.last_position()).contains(&position) {
        let name = segment_name(segment.header.identity.segment);
        return Err(Error::corrupt(&name, place.batch, Some(position), "the batch does not hold this position"));
    }
    Ok(if header.last_position() == position { position } else { header.first_position - 1 })
}
