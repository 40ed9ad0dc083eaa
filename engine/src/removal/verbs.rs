//! The verbs that remove, for users.

use annals_format::record::Scope as ScopeOf;

use super::form::Removal;
use super::retention::{Removed, Retention, Scope};
use crate::append::{Batch, Expect};
use crate::store::Store;
use crate::{Position, Result, Revision};

impl<'a> Batch<'a> {
    /// Also hides the events of `stream` before `revision`, as [`Store::truncate_before`] does. A batch's removals are
    /// judged like its events against the store as it is before the batch, and come before its events: events that the
    /// batch appends are not hidden by it.
    ///
    /// ```
    /// # use annals::{Batch, Expect, NewEvent, Revision, Store};
    /// # fn main() -> annals::Result<()> {
    /// # let store = Store::in_memory()?;
    /// # store.append("cart-1", Expect::NoStream, &[NewEvent::new("Added", b"a"), NewEvent::new("Added", b"b")])?;
    /// let second = Revision::new(2).expect("not zero");
    /// let batch = Batch::new()
    ///     .expect("cart-1", Expect::At(second))
    ///     .truncate_before("cart-1", Revision::new(3).expect("not zero"))
    ///     .event("cart-1", NewEvent::new("Summed up", b"2 items"));
    /// let receipt = store.commit(&batch)?;
    /// assert_eq!((receipt.removals()[0].hidden, receipt.revision().get()), (2, 3));
    /// # Ok(())
    /// # }
    /// ```
    pub fn truncate_before(self, stream: &'a str, revision: Revision) -> Self {
        self.removal(Removal::TruncateBefore { stream, revision })
    }

    /// Also deletes `stream`, as [`Store::delete`] does; events that the batch appends to it are its next ones.
    pub fn delete(self, stream: &'a str) -> Self {
        self.removal(Removal::Delete(stream))
    }

    /// Also ends `stream` for good, as [`Store::tombstone`] does. The batch cannot write to it.
    pub fn tombstone(self, stream: &'a str) -> Self {
        self.removal(Removal::Tombstone(stream))
    }

    pub(crate) fn removal(mut self, removal: Removal<'a>) -> Self {
        self.removals.push(removal);
        self
    }
}

impl Store {
    fn remove(&self, batch: &Batch<'_>) -> Result<Removed> {
        let receipt = self.commit(batch)?;
        Ok(receipt.removals()[0])
    }

    /// Hides the events of `stream` before `revision`, at once and for every reader opened after the answer. It never
    /// moves back; at most all events go, and the stream's last revision stays: `Expect::At(last)` holds as before.
    ///
    /// Costs an append of a record without events, with the store's default durability. If nothing changes nothing is
    /// written. The bytes go with compaction.
    ///
    /// # Errors
    /// `RemovalForbidden`; `Conflict` if the expectation does not hold; `Invalid` if `revision` lies more than one beyond
    /// the stream's last; otherwise as [`Store::append`].
    ///
    /// ```
    /// # use annals::{Expect, NewEvent, Revision, Seek, Store};
    /// # fn main() -> annals::Result<()> {
    /// # let store = Store::in_memory()?;
    /// let events = [NewEvent::new("Added", b"a"), NewEvent::new("Added", b"b")];
    /// store.append("cart-1", Expect::NoStream, &events)?;
    /// store.truncate_before("cart-1", Expect::Any, Revision::new(2).expect("not zero"))?;
    /// let left: Vec<_> = store.read_stream("cart-1", Seek::Beginning)?.collect::<Result<_, _>>()?;
    /// assert_eq!(left[0].revision().get(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn truncate_before(&self, stream: &str, expect: Expect, revision: Revision) -> Result<Removed> {
        self.remove(&single(stream, expect).truncate_before(stream, revision))
    }

    /// Hides all events of `stream`, at once and for every reader opened after the answer. The stream may be written
    /// again: its revisions go on where they ended, `Expect::Vacant` and `Expect::Deleted` hold, `Expect::NoStream`,
    /// `Exists` and `At` do not.
    ///
    /// Costs as [`Store::truncate_before`].
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self, stream: &str, expect: Expect) -> Result<Removed> {
        self.remove(&single(stream, expect).delete(stream))
    }

    /// Hides all events of `stream` and ends it for good: every append to it is refused as a `Conflict` from now on. A
    /// stream that never was cannot be ended.
    ///
    /// Costs as [`Store::truncate_before`].
    ///
    /// # Errors
    /// As there; `Conflict` if the stream is absent.
    pub fn tombstone(&self, stream: &str, expect: Expect) -> Result<Removed> {
        self.remove(&single(stream, expect).tombstone(stream))
    }

    /// Says how much is kept of the streams of a scope, in place of what was said of the same scope before; without any
    /// limit it withdraws that. It hides nothing by itself: [`Store::sweep`] does. A stream that several policies cover
    /// keeps what all of them keep.
    ///
    /// Answers the position of its record; `None` if it was so before.
    ///
    /// # Errors
    /// `RemovalForbidden`; `Invalid` for a limit of 0, one that the scope cannot have, and more than 256 prefixes with
    /// policies; otherwise as [`Store::append`].
    pub fn set_retention(&self, scope: &Scope, retention: Retention) -> Result<Option<Position>> {
        let policy = retention.policy(scope.borrowed());
        let batch = Batch::new().written_as_batch(false).removal(Removal::Retain(policy));
        self.remove(&batch).map(|removed| removed.position)
    }

    /// The policies that stand, in the order in which they were set.
    pub fn retentions(&self) -> Vec<(Scope, Retention)> {
        let policies = self.inner().core.removals.policies();
        policies.iter().map(|policy| (policy.scope.clone(), policy.retention)).collect()
    }

    /// Gives up the ids of the events of `stream` that are hidden now: they are not found any more, and a retry of such an
    /// append stores it anew.
    ///
    /// # Errors
    /// `RemovalForbidden`; `Conflict` if the expectation does not hold; otherwise as [`Store::append`].
    pub fn forget_ids(&self, stream: &str, expect: Expect) -> Result<Removed> {
        self.remove(&single(stream, expect).removal(Removal::ForgetIds(stream)))
    }

    /// Gives up a deleted or ended stream: its name, its last revision and the ids of its events are known no more, and if
    /// it is written again it begins with revision 1.
    ///
    /// # Errors
    /// `RemovalForbidden`; `Conflict` if the stream can be read; otherwise as [`Store::append`].
    pub fn forget_stream(&self, stream: &str, expect: Expect) -> Result<Removed> {
        self.remove(&single(stream, expect).removal(Removal::ForgetStream(stream)))
    }
}

fn single(stream: &str, expect: Expect) -> Batch<'_> {
    Batch::new().written_as_batch(false).expect(stream, expect)
}

impl Scope {
    /// The name or prefix; empty for the store.
    pub fn name(&self) -> &str {
        match self.borrowed() {
            ScopeOf::Stream(name) | ScopeOf::Prefix(name) => name,
            ScopeOf::Store => "",
        }
    }
}
