//! The other engines, each in a module: four as they are (`tephra`) or with the tables an event store needs built on
//! them (`lmdb`, `sqlite`, `fjall`, `redb`, `raft-engine`), two as bare logs (`seglog`, `okaywal`).
//!
//! The stores built on tables keep three: position to event, id to position, stream and revision to position. An
//! append finds the row of the expected revision and then inserts the next one, which must not be there yet: together
//! that is the check of the stream's head. An id that is there already is a duplicate. All of it is one transaction.

pub mod fjall;
pub mod lmdb;
pub mod okaywal;
pub mod raft_engine;
pub mod redb;
pub mod seglog;
pub mod sqlite;
pub mod tephra;

use crate::workload::EventIn;

/// Bytes before the names in a stored event: revision, id, lengths of the names.
const HEADER_LEN: usize = 8 + 16 + 2;

/// What the stores built on tables keep of an event.
#[inline]
fn encode(out: &mut Vec<u8>, event: &EventIn<'_>) {
    out.clear();
    encode_after(out, event);
}

/// The same behind what `out` holds already.
#[inline]
fn encode_after(out: &mut Vec<u8>, event: &EventIn<'_>) {
    out.extend_from_slice(&(event.revision + 1).to_be_bytes());
    out.extend_from_slice(&event.id);
    out.extend_from_slice(&[event.stream.len() as u8, event.event_type.len() as u8]);
    out.extend_from_slice(event.stream.as_bytes());
    out.extend_from_slice(event.event_type.as_bytes());
    out.extend_from_slice(event.payload);
}

/// The payload of a stored event.
#[inline]
fn payload(stored: &[u8]) -> &[u8] {
    let names = usize::from(stored[HEADER_LEN - 2]) + usize::from(stored[HEADER_LEN - 1]);
    &stored[HEADER_LEN + names..]
}

/// The key of a row in the index of streams: length and bytes of the name, then the revision, so that a stream's rows
/// stand together in order.
#[inline]
fn stream_key(out: &mut Vec<u8>, stream: &str, revision: u64) {
    out.clear();
    out.push(stream.len() as u8);
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(&revision.to_be_bytes());
}

/// The revision at the end of such a key; 0 when the key is of another stream.
fn revision_of(key: &[u8], stream: &str) -> u64 {
    let Some((name, revision)) = key.split_last_chunk::<8>() else {
        return 0;
    };
    if name.split_first().is_some_and(|(_, name)| name == stream.as_bytes()) {
        u64::from_be_bytes(*revision)
    } else {
        0
    }
}
