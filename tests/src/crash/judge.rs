//! Compares what a store shows with the truth.

use std::collections::BTreeMap;
use std::sync::Arc;

use annals::{Durability, Error, Event, Lookup, Options, Query, Reader, Seek, StreamState, View};
use annals_format::mark::Mark;

use super::truth::Stream;
use super::{Truth, Verdict, open};
use crate::ensure;
use crate::sim_disk::{Dice, SimDisk};

/// Reopens the store on a disk as it is after a crash and checks everything that was promised; then goes on with it:
/// retries, appends, closes, opens again.
///
/// # Errors
/// What is wrong.
pub fn examine(disk: &SimDisk, mut truth: Truth, options: &Options, dice: &mut Dice) -> Verdict {
    let seen = examine_read_only(disk, &truth, options)?;
    let store = open(disk, &mut truth, options)?.ok_or("the disk failed")?;
    let head = truth.end();
    if let Some((durable, written)) = seen {
        ensure!(durable <= head, "a read-only opening showed {durable} as durable, recovery kept {head}");
        ensure!(written == head, "a read-only opening showed {written} as written, recovery kept {head}");
    }
    judge_reader(&store.reader_in(View::Durable), &truth)?;
    retry_some(&store, &mut truth, dice)?;
    let lot = Arc::new(super::Lot::random(dice));
    let index = truth.hand_in(&lot);
    let receipt = lot.append(&store, Durability::Durable).map_err(|error| format!("after recovery: {error}"))?;
    truth.acknowledge(index, &receipt)?;
    judge_reader(&store.reader_in(View::Durable), &truth)?;
    if dice.chance(1, 3) {
        store.close().map_err(|error| format!("closing after recovery: {error}"))?;
        let store = open(disk, &mut truth, options)?.ok_or("the disk failed")?;
        ensure!(store.recovery_report().clean, "not clean after a close: {:?}", store.recovery_report());
        judge_reader(&store.reader_in(View::Durable), &truth)?;
    }
    Ok(())
}

/// Looks at the disk without opening it for writing: the heads of the durable and the written view, `None` where there
/// is no store yet.
///
/// # Errors
/// What is wrong.
pub fn examine_read_only(disk: &SimDisk, truth: &Truth, options: &Options) -> Verdict<Option<(u64, u64)>> {
    let store = match options.clone().open_read_only_storage(Arc::new(disk.clone())) {
        Ok(store) => store,
        Err(Error::NotAStore { .. }) if !truth.created => return Ok(None),
        // A mark that was cut in being written hides how much was durable; the written view is still to be had.
        Err(Error::Corrupt(told)) if told.file == "MARK" && mark_is_broken(disk) => {
            let written = options.clone().view(View::Written);
            written
                .open_read_only_storage(Arc::new(disk.clone()))
                .map_err(|error| format!("opening read-only: {error}"))?
        }
        Err(error) => return Err(format!("opening read-only failed: {error}\n{truth:?}")),
    };
    let mut heads = Vec::new();
    for view in [View::Durable, View::Written] {
        let reader = store.reader_in(view);
        let head = reader.head();
        truth.may_end_at(head)?;
        let mut shown = truth.clone();
        shown.entries.retain(|entry| entry.last() <= head);
        judge_reader(&reader, &shown).map_err(|text| format!("read-only, {view:?}: {text}"))?;
        heads.push(head);
    }
    ensure!(heads[1] >= truth.floor(), "read-only shows {} as written, {} was promised", heads[1], truth.floor());
    Ok(Some((heads[0], heads[1])))
}

/// Whether a slot of the mark does not verify, or is empty although it was not the first mark of all.
fn mark_is_broken(disk: &SimDisk) -> bool {
    let files = disk.files();
    let bytes = files.get("MARK").map_or(&[][..], Vec::as_slice);
    let (newest, faults) = Mark::newest(bytes);
    let is_first = newest.is_some_and(|mark| mark.sequence == 1);
    let is_empty =
        |slot: u64| bytes.get(slot as usize..).is_none_or(|slot| slot.iter().take(128).all(|byte| *byte == 0));
    faults.iter().any(Option::is_some) || (!is_first && [0, Mark::slot_offset(1)].into_iter().any(is_empty))
}

/// Every acknowledged lot is known again by its ids; one that was taken back is stored anew.
fn retry_some(store: &annals::Store, truth: &mut Truth, dice: &mut Dice) -> Verdict {
    let newest = truth.entries.len().saturating_sub(4);
    let other = if newest > 0 { dice.index(newest) } else { 0 };
    for index in (newest..truth.entries.len()).chain((newest > 0).then_some(other)) {
        let lot = Arc::clone(&truth.entries[index].lot);
        if !lot.has_ids() {
            continue;
        }
        let receipt = lot.append(store, Durability::Durable).map_err(|error| format!("retry of {index}: {error}"))?;
        ensure!(receipt.already_committed(), "lot {index} stands in the log and was stored again");
        truth.acknowledge(index, &receipt)?;
    }
    for lot in truth.lost.split_off(truth.lost.len().saturating_sub(2)) {
        let index = truth.hand_in(&lot);
        let receipt =
            lot.append(store, Durability::Durable).map_err(|error| format!("retry of a lost lot: {error}"))?;
        ensure!(!receipt.already_committed(), "a lot that is in no log was called committed");
        truth.acknowledge(index, &receipt)?;
    }
    Ok(())
}

/// The reader shows exactly the entries of the truth.
///
/// # Errors
/// What is wrong.
pub fn judge_reader(reader: &Reader, truth: &Truth) -> Verdict {
    let end = truth.end();
    ensure!(reader.head() == end, "the head is {}, expected {end}", reader.head());
    let all = reader.read_all(&Query::all(), Seek::Beginning).map_err(|error| error.to_string())?;
    let mut events = all.map(|event| event.map_err(|error| format!("reading all: {error}")));
    let known = truth.streams();
    let mut streams = Streams::default();
    let mut last_time = 0;
    for (number, entry) in truth.entries.iter().enumerate() {
        for (index, draft) in entry.lot.drafts.iter().enumerate() {
            let position = entry.first_event() + index as u64;
            let revision = streams.revision(&draft.stream);
            if revision <= known[&draft.stream].hidden {
                if let (Some(id), true) = (draft.id, number + 6 > truth.entries.len()) {
                    let found = reader.by_id(id).map_err(|error| error.to_string())?;
                    let is_removed = matches!(found, Lookup::Removed { at, .. } if at.get() == position);
                    ensure!(is_removed, "revision {revision} of {}, which was removed: {found:?}", draft.stream);
                }
                continue;
            }
            let event = events.next().ok_or(format!("no event at {position}"))??;
            let place = format!("lot {number}, event {index}, position {position}");
            ensure!(event.position().get() == position, "{place}: {} stands there", event.position());
            ensure!(draft.is(&event), "{place}: other content: {event:?}");
            let facts = (event.batch_first().get(), u64::from(event.batch_len()), event.written_as_batch());
            ensure!(facts == (entry.first, entry.record_count(), entry.lot.as_batch), "{place}: batch {facts:?}");
            ensure!(event.recorded_at() >= last_time, "{place}: time falls");
            last_time = event.recorded_at();
            ensure!(event.revision().get() == revision, "{place}: revision {}", event.revision());
            streams.shown(&event);
            if let Some(answer) = &entry.answer {
                let now = (event.id(), event.revision().get(), event.recorded_at());
                ensure!(now == answer.of_event(index), "{place}: {now:?} differs from the answer {answer:?}");
            }
            if index == 0 && number + 3 > truth.entries.len() {
                judge_lookup(reader, &event)?;
            }
        }
    }
    ensure!(events.next().is_none(), "there are events beyond the head");
    streams.judge(reader, &known)
}

fn judge_lookup(reader: &Reader, event: &Event) -> Verdict {
    match reader.by_id(event.id()).map_err(|error| error.to_string())? {
        Lookup::Found(found) if found.position() == event.position() => Ok(()),
        other => Err(format!("by_id of position {} finds {other:?}", event.position())),
    }
}

/// Of each stream the revisions so far, and the positions of those events that are shown.
#[derive(Default)]
struct Streams(BTreeMap<String, (u64, Vec<u64>)>);

impl Streams {
    /// The stream's next revision.
    fn revision(&mut self, stream: &str) -> u64 {
        let (last, _) = self.0.entry(stream.to_owned()).or_default();
        *last += 1;
        *last
    }

    fn shown(&mut self, event: &Event) {
        if let Some((_, positions)) = self.0.get_mut(event.stream()) {
            positions.push(event.position().get());
        }
    }

    fn judge(&self, reader: &Reader, known: &BTreeMap<String, Stream>) -> Verdict {
        let listed = reader.streams("").map_err(|error| error.to_string())?;
        let names: Vec<&str> = listed.iter().map(|stream| stream.name.as_str()).collect();
        ensure!(names.iter().eq(self.0.keys()), "streams {names:?}, expected {:?}", self.0.keys());
        for (name, (_, positions)) in &self.0 {
            let read = reader.read_stream(name, Seek::Beginning).map_err(|error| error.to_string())?;
            let found: Result<Vec<u64>, _> = read.map(|event| event.map(|event| event.position().get())).collect();
            let found = found.map_err(|error| format!("reading {name}: {error}"))?;
            ensure!(found == *positions, "{name} is read at {found:?}, its events stand at {positions:?}");
            let state = reader.stream_state(name).map_err(|error| error.to_string())?;
            let Stream { last, hidden, deleted } = known[name];
            let is_right = match state {
                StreamState::Live { first, last: now } => {
                    (first.get(), now.get()) == (hidden + 1, last) && deleted < last
                }
                StreamState::Deleted { last: now } => now.get() == last && deleted == last,
                _ => false,
            };
            ensure!(is_right, "{name} is {state:?}, it should be {:?}", known[name]);
        }
        Ok(())
    }
}
