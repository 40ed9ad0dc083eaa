//! Loads a large store: rows first, indexes after them, as SQLite's manual advises.

use std::path::Path;

use rusqlite::{Connection, params};

use crate::Result;
use crate::scale::everything::Everything;

/// Writes all events and their indexes into an empty directory, one of types and tags included.
pub fn load(dir: &Path, all: &Everything<'_>) -> Result<()> {
    let connection = Connection::open(dir.join("events.sqlite"))?;
    connection.execute_batch(
        "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=-524288;
         CREATE TABLE events(
             position INTEGER PRIMARY KEY, id BLOB NOT NULL, stream TEXT NOT NULL,
             revision INTEGER NOT NULL, type TEXT NOT NULL, payload BLOB NOT NULL);
         CREATE TABLE keys(name TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY(name, position)) WITHOUT ROWID;
         BEGIN;",
    )?;
    {
        let mut insert = connection
            .prepare("INSERT INTO events(position, id, stream, revision, type, payload) VALUES(?1,?2,?3,?4,?5,?6)")?;
        for number in 0..all.len() as u32 {
            let event = all.event(number);
            let revision = event.revision as i64 + 1;
            let position = i64::from(number) + 1;
            insert.execute(params![
                position,
                &event.id[..],
                event.stream,
                revision,
                event.event_type,
                event.payload
            ])?;
        }
        let mut insert = connection.prepare("INSERT INTO keys(name, position) VALUES(?1,?2)")?;
        for (name, numbers) in all.keys() {
            for number in numbers {
                insert.execute(params![name, i64::from(number) + 1])?;
            }
        }
    }
    connection.execute_batch(
        "COMMIT;
         CREATE UNIQUE INDEX events_id ON events(id);
         CREATE UNIQUE INDEX events_stream ON events(stream, revision);",
    )?;
    Ok(())
}
