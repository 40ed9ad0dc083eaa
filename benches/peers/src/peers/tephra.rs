//! tephra as it is: the stream and the id are tags, expectations are its append conditions. It only knows durable
//! appends.

use std::path::Path;

use flume::{Receiver, Sender};
use hashbrown::HashMap;
use parking_lot::Mutex;
use tephra::{
    AppendCondition, AppendError, ConflictClause, Event, EventType, Position, PositionRange, Query, QueryItem,
    SegmentConfig, SegmentSet, Tag, Tags, WriteCoordinator, WriteHandle, WriterConfig,
};

use crate::Result;
use crate::peer::{Durability, Log, Outcome, Scanned, Store, Tickets, Writer};
use crate::workload::EventIn;

/// See the module.
pub struct Tephra {
    handle: WriteHandle,
    // Dropped after the handle: it joins the writer's thread.
    _coordinator: WriteCoordinator,
    /// Revision of each stream, as its callers know it from what they read: tephra has positions alone.
    revisions: Mutex<HashMap<Box<str>, u64, foldhash::fast::RandomState>>,
}

impl Tephra {
    /// Opens it with segments of 64 MiB.
    pub fn open(dir: &Path, durability: Durability, _bytes_expected: u64) -> Result<Box<dyn Log>> {
        if durability == Durability::Buffered {
            return Err("tephra syncs every append".into());
        }
        let set = SegmentSet::open(dir, SegmentConfig::new(64 << 20))?;
        let (coordinator, handle) = WriteCoordinator::start(set, WriterConfig::default())?;
        Ok(Box::new(Self { handle, _coordinator: coordinator, revisions: Mutex::default() }))
    }

    /// The condition of a batch: its streams have nothing after what the callers saw, and no id stands in the log.
    /// `None` when a caller knows already that a stream has moved on.
    fn condition(&self, batch: &[EventIn<'_>]) -> Result<Option<AppendCondition>> {
        let mut revisions = self.revisions.lock();
        let seen = self.handle.head();
        let (mut streams, mut ids) = (Vec::new(), Vec::with_capacity(batch.len()));
        for event in batch {
            let known = revisions.get(event.stream).copied().unwrap_or(0);
            if event.first_in_batch {
                if known != event.revision {
                    return Ok(None);
                }
                streams.push(QueryItem::with_tags(Tags::new([stream_tag(event.stream)?])?));
            }
            ids.push(QueryItem::with_tags(Tags::new([id_tag(&event.id)?])?));
        }
        for event in batch {
            match revisions.get_mut(event.stream) {
                Some(revision) => *revision = event.revision + 1,
                None => drop(revisions.insert(event.stream.into(), event.revision + 1)),
            }
        }
        drop(revisions);
        Ok(Some(AppendCondition::new(Query::items(streams)).after(seen).fail_if_exists(Query::items(ids))))
    }

    /// Takes back what [`Tephra::condition`] noted, after a refusal.
    fn forget(&self, batch: &[EventIn<'_>]) {
        let mut revisions = self.revisions.lock();
        for event in batch.iter().filter(|event| event.first_in_batch) {
            revisions.insert(event.stream.into(), event.revision);
        }
    }
}

fn stream_tag(stream: &str) -> Result<Tag> {
    Ok(Tag::new(format!("s:{stream}"))?)
}

fn id_tag(id: &[u8; 16]) -> Result<Tag> {
    Ok(Tag::new(format!("{:032x}", u128::from_be_bytes(*id)))?)
}

fn encode(batch: &[EventIn<'_>]) -> Result<Vec<Event>> {
    let encode = |event: &EventIn<'_>| -> Result<Event> {
        let tags = Tags::new([stream_tag(event.stream)?, id_tag(&event.id)?])?;
        Ok(Event::new(&EventType::new(event.event_type)?, &tags, event.payload)?)
    };
    batch.iter().map(encode).collect()
}

impl Log for Tephra {
    fn writer(&self) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(TephraWriter(self)))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn store(&self) -> Option<&dyn Store> {
        Some(self)
    }

    fn tickets(&self) -> Option<Box<dyn Tickets + '_>> {
        let (sender, receiver) = flume::unbounded();
        Some(Box::new(TephraTickets { store: self, sender, receiver }))
    }
}

struct TephraWriter<'a>(&'a Tephra);

impl Writer for TephraWriter<'_> {
    fn append(&mut self, batch: &[EventIn<'_>]) -> Result<Outcome> {
        let Some(condition) = self.0.condition(batch)? else {
            return Ok(Outcome::Conflict);
        };
        match self.0.handle.append(encode(batch)?, Some(condition)) {
            Ok(_) => Ok(Outcome::Committed),
            Err(AppendError::Conflict { clause, .. }) => {
                self.0.forget(batch);
                Ok(match clause {
                    ConflictClause::Existence => Outcome::Duplicate,
                    ConflictClause::Boundary => Outcome::Conflict,
                })
            }
            Err(error) => Err(error.into()),
        }
    }
}

type Reply = (u64, Result<PositionRange, AppendError>);

struct TephraTickets<'a> {
    store: &'a Tephra,
    sender: Sender<Reply>,
    receiver: Receiver<Reply>,
}

impl Tickets for TephraTickets<'_> {
    /// A stream's earlier event can still be in flight, which a condition on its tag would refuse; so only the id is
    /// guarded here, less than the others do.
    fn submit(&mut self, event: &EventIn<'_>) -> Result<()> {
        let id = Query::item(QueryItem::with_tags(Tags::new([id_tag(&event.id)?])?));
        let events = encode(std::slice::from_ref(event))?;
        let condition = Some(AppendCondition::exists_only(id));
        Ok(self.store.handle.append_submit(events, condition, 0, self.sender.clone())?)
    }

    fn wait_oldest(&mut self) -> Result<()> {
        self.receiver.recv()?.1?;
        Ok(())
    }
}

impl Store for Tephra {
    fn scan(&self) -> Result<Scanned> {
        let mut reads = self.handle.read(&Query::all(), Position::ZERO, None);
        let mut scanned = Scanned::default();
        while let Some(read) = reads.next() {
            scanned.add(read?.event.data());
        }
        Ok(scanned)
    }

    fn read_stream(&self, stream: &str, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let query = Query::item(QueryItem::with_tags(Tags::new([stream_tag(stream)?])?));
        let mut reads = self.handle.read(&query, Position::ZERO, None);
        while let Some(read) = reads.next() {
            each(read?.event.data());
        }
        Ok(())
    }

    fn latest(&self, stream: &str) -> Result<u64> {
        Ok(self.revisions.lock().get(stream).copied().unwrap_or(0))
    }
}
