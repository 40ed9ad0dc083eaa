//! Loads a large store in the order of each tree: far quicker than append by append, and the trees come out dense,
//! which can only help their reader.

use std::path::Path;

use heed::types::Bytes;
use heed::{Env, EnvFlags, EnvOpenOptions, PutFlags};

use super::Tree;
use crate::Result;
use crate::peers::{encode, stream_key};
use crate::scale::everything::Everything;

/// Rows a transaction writes.
const ROWS: usize = 200_000;

/// The beginning of the rows of a type or tag.
pub(super) fn key_prefix(key: &str) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(key.len() + 9);
    prefix.extend_from_slice(key.as_bytes());
    prefix.push(0);
    prefix
}

/// Writes all events and their indexes into an empty directory, one of types and tags included.
#[expect(unsafe_code, reason = "LMDB maps its file")]
pub fn load(dir: &Path, all: &Everything<'_>) -> Result<()> {
    let mut options = EnvOpenOptions::new();
    options.map_size(64 << 30).max_dbs(4);
    // SAFETY: without syncs a power cut can damage the file; it is synced at the end and taken as whole only after that.
    unsafe { options.flags(EnvFlags::NO_SYNC) };
    // SAFETY: the directory belongs to this run alone, so the file is opened once and changed by LMDB only.
    let env = unsafe { options.open(dir)? };
    let (mut key, mut value) = (Vec::new(), Vec::new());
    fill(&env, "events", 0..all.len() as u32, |number, put| {
        encode(&mut value, &all.event(number));
        put(&position(number), &value)
    })?;
    fill(&env, "ids", all.by_id(), |number, put| put(&all.event(number).id, &position(number)))?;
    fill(&env, "streams", all.by_stream(), |number, put| {
        let event = all.event(number);
        stream_key(&mut key, event.stream, event.revision + 1);
        put(&key, &position(number))
    })?;
    let mut row = Vec::new();
    for (name, numbers) in all.keys() {
        let prefix = key_prefix(&name);
        fill(&env, "keys", numbers, |number, put| {
            row.clear();
            row.extend_from_slice(&prefix);
            row.extend_from_slice(&position(number));
            put(&row, &[])
        })?;
    }
    env.force_sync()?;
    Ok(())
}

fn position(number: u32) -> [u8; 8] {
    (u64::from(number) + 1).to_be_bytes()
}

type Put<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<()>;

/// Appends rows that come in the order of their keys to a tree.
fn fill(
    env: &Env,
    name: &str,
    numbers: impl IntoIterator<Item = u32>,
    mut row: impl FnMut(u32, Put<'_>) -> Result<()>,
) -> Result<()> {
    let mut txn = env.write_txn()?;
    let tree: Tree = env.create_database::<Bytes, Bytes>(&mut txn, Some(name))?;
    for (count, number) in numbers.into_iter().enumerate() {
        if count % ROWS == ROWS - 1 {
            txn.commit()?;
            txn = env.write_txn()?;
        }
        row(number, &mut |key, value| Ok(tree.put_with_flags(&mut txn, PutFlags::APPEND, key, value)?))?;
    }
    txn.commit()?;
    Ok(())
}
