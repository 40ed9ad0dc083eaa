//! B5: what the check of a caller's id adds to an append.

use std::path::PathBuf;

use super::blocks::{Block, median};
use super::events::{Ids, Names, Shape};
use super::held::{Held, Keeper, Ours, options, unlike_any_other};
use super::{Columns, Scale};
use crate::Result;
use crate::engines::Kind;
use crate::random::Random;
use crate::report::Row;

/// Kinds of id in a block: made by the store, random, by time.
const KINDS: [Option<Ids>; 3] = [None, Some(Ids::V4), Some(Ids::V7)];

/// A store that is empty at first.
struct Empty(PathBuf);

impl Drop for Empty {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Two tables: what is added, and whole appends.
pub(super) fn rows(scale: &Scale) -> Result<Vec<Row>> {
    let names = Names::new(scale.large.streams);
    let mut random = unlike_any_other();
    let empty_dir = Empty(scale.dir.join("run-empty"));
    let _ = std::fs::remove_dir_all(&empty_dir.0);
    std::fs::create_dir_all(&empty_dir.0)?;
    let empty = Ours::open(&empty_dir.0, options(scale.segment_bytes))?;
    let ours = scale.open_ours(scale.large)?;
    let peers = scale.keepers.iter().filter(|keeper| **keeper != Keeper::Annals);
    let peers =
        peers.map(|keeper| Ok((*keeper, scale.open_warm(*keeper, scale.large)?))).collect::<Result<Vec<_>>>()?;
    let (mut added, mut whole) = (Columns::default(), Columns::default());
    for _ in 0..scale.runs {
        let [made, v4, v7] = blocks(scale, &ours, &names, &mut random)?;
        let [made_empty, v4_empty, v7_empty] = blocks(scale, &empty, &names, &mut random)?;
        let difference = |ids: &[f64], made: &[f64]| median(ids.iter().zip(made).map(|(ids, made)| (ids - made) / 1e3));
        added.push("annals", Kind::Annals, difference(&v4, &made)?);
        added.push("annals, version 7", Kind::Beside, difference(&v7, &made)?);
        added.push("annals, empty store", Kind::Beside, difference(&v4_empty, &made_empty)?);
        added.push("annals, version 7, empty store", Kind::Beside, difference(&v7_empty, &made_empty)?);
        whole.push("annals", Kind::Annals, median(v4)? / 1e3);
        whole.push("annals, ids made by the store", Kind::Beside, median(made)? / 1e3);
        whole.push("annals, version 7", Kind::Beside, median(v7)? / 1e3);
        whole.push("annals, empty store", Kind::Beside, median(v4_empty)? / 1e3);
        whole.push("annals, ids made by the store, empty", Kind::Beside, median(made_empty)? / 1e3);
        for (keeper, held) in &peers {
            let id = |random: &mut Random| Some(Ids::V4.make(random, 0));
            let drawn = Block::draw(scale, &**held, &names, scale.large, scale.block, &mut random, id)?;
            whole.push(keeper.name(), keeper.kind(), drawn.append_all(&**held)? / 1e3);
        }
    }
    let notes = vec![format!(
        "new ids, one event an append at a known revision; median over {} blocks of {}, the kinds in turn",
        scale.blocks, scale.block
    )];
    let Shape { events, .. } = scale.large;
    Ok(vec![
        added.row(
            "B5",
            format!("Added by a caller's id of version 4, {events} events, against ids made by the store"),
            "us",
            "<= 2 us; aim 0.5",
            notes.clone(),
        ),
        whole.row(
            "B5, whole append",
            format!("Buffered append of one event with a caller's id, {events} events"),
            "us",
            "shown",
            notes,
        ),
    ])
}

/// Nanoseconds an append of each block, by kind of id.
fn blocks(scale: &Scale, ours: &Ours, names: &Names, random: &mut Random) -> Result<[Vec<f64>; 3]> {
    let mut times: [Vec<f64>; 3] = Default::default();
    for round in 0..scale.blocks {
        for turn in 0..KINDS.len() {
            let which = (round + turn) % KINDS.len();
            let millis = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64;
            let id = |random: &mut Random| KINDS[which].map(|kind| kind.make(random, millis));
            let drawn = Block::draw(scale, ours, names, scale.large, scale.block, random, id)?;
            times[which].push(drawn.append_all(ours as &dyn Held)?);
        }
    }
    Ok(times)
}
