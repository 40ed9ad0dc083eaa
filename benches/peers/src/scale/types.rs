//! B9: all events of a type that one event in a thousand has, against reading everything.

use std::time::Instant;

use super::events::RARE;
use super::held::Keeper;
use super::{Columns, Scale, in_turns};
use crate::Result;
use crate::engines::Kind;
use crate::report::Row;

/// The row.
pub(super) fn rows(scale: &Scale) -> Result<Vec<Row>> {
    let open = |keeper: &Keeper| Ok((*keeper, scale.open_warm(*keeper, scale.large)?));
    let mut parties = scale.keepers.iter().map(open).collect::<Result<Vec<_>>>()?;
    for (_, held) in &parties {
        held.scan()?;
        held.read_type(RARE)?;
    }
    let (mut columns, mut found) = (Columns::default(), Vec::new());
    in_turns(scale.runs, &mut parties, |_, (keeper, held)| {
        let began = Instant::now();
        let rare = held.read_type(RARE)?;
        columns.push(keeper.name(), keeper.kind(), began.elapsed().as_secs_f64() * 1e3);
        if *keeper == Keeper::Annals {
            let began = Instant::now();
            let all = held.scan()?;
            columns.push("full verified scan", Kind::Floor, began.elapsed().as_secs_f64() * 1e3);
            if all.events < u64::from(scale.large.events) {
                return Err(format!("the scan saw {} events", all.events).into());
            }
        }
        found.push(rare);
        Ok(())
    })?;
    // Nobody appends the rare type after loading, so all answers are the same.
    let rare = found.first().ok_or("no store was read")?;
    if found.iter().any(|other| other != rare) {
        return Err(format!("the stores answer differently: {found:?}").into());
    }
    let title = format!("Read {} events of a type out of {}", rare.events, scale.large.events);
    let notes = vec!["the full scan is annals' own over the same store, checksums verified".to_owned()];
    Ok(vec![columns.row("B9", title, "ms", ">= 100 x faster than the scan; aim 600 x", notes)])
}
