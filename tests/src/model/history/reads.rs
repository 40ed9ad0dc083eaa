//! Every question, put to the store and to the model.

use std::ops::ControlFlow;

use annals::{Error, EventId, Lookup, Position, Read, Reader, Seek, StreamInfo, StreamState, View};

use super::super::ask::Ask;
use super::super::content::{self, Recorded};
use super::{Checked, History, ensure, same, worked};
use crate::sim_disk::Dice;

impl History {
    fn seek(&self, dice: &mut Dice, head: u64) -> Seek {
        let number = match dice.below(8) {
            0 => head,
            1 => head + 1,
            2 => head + 2 + dice.below(5),
            3 => 0,
            4 => u64::MAX,
            _ => dice.below(head + 1),
        };
        let time = match dice.below(6) {
            0 => dice.below(3),
            1 => u64::MAX,
            _ => {
                let about = self.plain.time_at(1 + dice.below(head.max(1)));
                about.saturating_add(dice.below(3)).saturating_sub(1)
            }
        };
        match dice.below(7) {
            0 => Seek::Beginning,
            1 => Seek::End,
            2 | 3 => Seek::At(number),
            4 | 5 => Seek::After(number),
            _ => Seek::Time(time),
        }
    }

    /// A reader and the head that it shows. In a durable view with threads at work the head may move on meanwhile.
    fn reader(&mut self, view: View) -> Checked<(Reader, u64)> {
        let head = self.head(view)?;
        Ok((self.store.reader_in(view), head))
    }

    /// Compares what a read hands out with the model's events at these positions.
    pub(super) fn compare_events(&self, what: &str, read: Read, wanted: &[u64]) -> Checked {
        let mut wanted = wanted.iter();
        for event in read {
            let event = worked(what, event)?;
            let got = Recorded::of(event.as_event_ref());
            let expected = wanted.next().and_then(|position| self.plain.at(*position));
            let Some(expected) = expected else { return Err(format!("{what}: {} too much", got.name())) };
            ensure(got == *expected, || {
                let (got_name, name) = (got.name(), expected.name());
                format!("{what}: {got_name} where the model has {name}: {}", got.differences(expected))
            })?;
            same("payload_bytes", &&event.payload_bytes()[..], &event.payload())?;
        }
        match wanted.next() {
            None => Ok(()),
            Some(position) => Err(format!("{what}: ends before position {position}")),
        }
    }

    pub(super) fn read_all(&mut self, dice: &mut Dice) -> Checked {
        let (ask, back, view) = (Ask::random(dice), dice.chance(1, 2), self.view(dice));
        let (reader, _) = self.reader(view)?;
        let seek = self.seek(dice, self.plain.head());
        let kind = if back { "read_all_back" } else { "read_all" };
        self.note(format!("{kind} {ask:?} {seek:?} {view:?}"));
        let read = if back { reader.read_all_back(&ask.query(), seek) } else { reader.read_all(&ask.query(), seek) };
        let head = match &read {
            Ok(read) => read.head(),
            Err(Error::AheadOfLog { head, .. }) => *head,
            Err(error) => return Err(format!("{kind}: {error}")),
        };
        self.check_pinned(view, head)?;
        match (read, self.plain.read_all(&ask, seek, back, head)) {
            (Ok(read), Ok(wanted)) => {
                self.compare_events(kind, read, &wanted)?;
                self.tally.count(kind, if wanted.is_empty() { "nothing" } else { "events" });
            }
            (Err(Error::AheadOfLog { given, .. }), Err(wanted)) => {
                same("given", &given, &wanted)?;
                self.tally.count(kind, "AheadOfLog");
            }
            (read, wanted) => {
                return Err(format!("{kind}: got {:?}, the model says {wanted:?}", read.map(|_| "events")));
            }
        }
        Ok(())
    }

    fn check_pinned(&mut self, view: View, head: u64) -> Checked {
        let now = self.head(view)?;
        let may_move = view == View::Durable && self.manner.background;
        ensure(head == now || (may_move && head < now), || format!("a read pinned {head}, the head is {now}"))?;
        self.check_border(head)
    }

    pub(super) fn read_stream(&mut self, dice: &mut Dice) -> Checked {
        let (stream, back, view) = (content::stream(dice), dice.chance(1, 2), self.view(dice));
        let (reader, head) = self.reader(view)?;
        let seek = self.seek(dice, self.plain.state(&stream, head).last().map_or(0, annals::Revision::get));
        let kind = if back { "read_stream_back" } else { "read_stream" };
        self.note(format!("{kind} {stream:?} {seek:?} {view:?}"));
        let read = if back { reader.read_stream_back(&stream, seek) } else { reader.read_stream(&stream, seek) };
        let read = match read {
            Err(Error::AheadOfLog { .. }) => return Err(format!("{kind}: AheadOfLog in a stream")),
            other => worked(kind, other)?,
        };
        let head = read.head();
        self.check_pinned(view, head)?;
        same("state", &read.state(), &Some(self.plain.state(&stream, head)))?;
        let wanted = self.plain.read_stream(&stream, seek, back, head);
        self.compare_events(kind, read, &wanted)?;
        self.tally.count(kind, if wanted.is_empty() { "nothing" } else { "events" });
        Ok(())
    }

    /// Asks until the head did not move while asking.
    fn steady<T>(&mut self, view: View, ask: impl Fn(&Reader) -> annals::Result<T>) -> Checked<(T, u64)> {
        loop {
            let (reader, head) = self.reader(view)?;
            let answer = worked("a question", ask(&reader))?;
            if self.head(view)? == head {
                return Ok((answer, head));
            }
        }
    }

    pub(super) fn look_up(&mut self, dice: &mut Dice) -> Checked {
        let view = self.view(dice);
        let number = 1 + dice.below(self.plain.head() + 3);
        match dice.below(6) {
            0 | 1 => {
                let id = self.plain.at(number).map_or(EventId::from(u128::from(number)), |event| event.id);
                self.note(format!("by_id of {number} {view:?}"));
                let (found, head) = self.steady(view, |reader| reader.by_id(id))?;
                let (matches, name) = match (&found, self.plain.by_id(id, head)) {
                    (Lookup::Found(event), Some((wanted, None))) => {
                        (Recorded::of(event.as_event_ref()) == *wanted, "found")
                    }
                    (Lookup::Removed { at, why }, Some((wanted, Some(reason)))) => {
                        ((at.get(), *why) == (wanted.position, reason), "removed")
                    }
                    (Lookup::NotFound, None) => (true, "not found"),
                    _ => (false, "wrong"),
                };
                ensure(matches, || format!("by_id {id}: {found:?}, the model says {:?}", self.plain.by_id(id, head)))?;
                self.tally.count("by_id", name);
            }
            2 => {
                self.note(format!("at {number} {view:?}"));
                let position = Position::new(number).expect("at least 1");
                // A removal may become durable meanwhile: asked until the head did not move.
                let (answer, head) = loop {
                    let (reader, head) = self.reader(view)?;
                    let answer = match reader.at(position) {
                        Ok(event) => event.map(|event| Recorded::of(event.as_event_ref())),
                        Err(Error::AheadOfLog { given, .. }) if given == number && number > head => {
                            self.tally.count("at", "AheadOfLog");
                            return Ok(());
                        }
                        Err(error) => return Err(format!("at {number}: {error}")),
                    };
                    if self.head(view)? == head {
                        break (answer, head);
                    }
                };
                let wanted = self.plain.at(number).filter(|event| self.plain.is_shown(event, head));
                ensure(answer.as_ref() == wanted, || format!("at {number}: {answer:?}"))?;
                self.tally.count("at", "found");
            }
            3 => {
                let around = if number <= self.plain.head() { self.plain.time_at(number) } else { u64::MAX };
                let time = around.saturating_add(dice.below(3)).saturating_sub(1);
                let (found, head) = self.steady(view, |reader| reader.position_at(time))?;
                same("position_at", &found.map(Position::get), &self.plain.position_at(time, head))?;
                self.tally.count("position_at", if found.is_some() { "found" } else { "nothing" });
            }
            4 => {
                let stream = content::stream(dice);
                let (state, head) = self.steady(view, |reader| reader.stream_state(&stream))?;
                same("stream_state", &state, &self.plain.state(&stream, head))?;
                self.tally.count("stream_state", "told");
            }
            _ => {
                let ask = Ask::random(dice);
                self.note(format!("last {ask:?} {view:?}"));
                let (last, head) = self.steady(view, |reader| reader.last(&ask.query()))?;
                let wanted = self.plain.read_all(&ask, Seek::End, true, head).expect("End is nowhere ahead");
                same("last", &last.map(|event| event.position().get()), &wanted.first().copied())?;
                self.tally.count("last", if wanted.is_empty() { "nothing" } else { "found" });
            }
        }
        Ok(())
    }

    pub(super) fn list(&mut self, dice: &mut Dice) -> Checked {
        let view = self.view(dice);
        match dice.below(3) {
            0 => {
                let prefix = ["", "a", "a-1", "acc", "u-", "e", "\u{e9}", "none"][dice.index(8)];
                self.note(format!("streams {prefix:?} {view:?}"));
                let (listed, head) = self.steady(view, |reader| reader.streams(prefix))?;
                same("streams", &listing(listed), &self.plain.streams(prefix, head))?;
                self.tally.count("streams", "listed");
            }
            1 => {
                self.note(format!("types {view:?}"));
                let (listed, head) = self.steady(view, Reader::types)?;
                let listed: Vec<_> = listed.into_iter().map(|info| (info.name, info.count)).collect();
                same("types", &listed, &self.plain.types(head))?;
                self.tally.count("types", "listed");
            }
            _ => {
                let ask = Ask::random(dice);
                self.note(format!("count {ask:?} {view:?}"));
                let (count, head) = self.steady(view, |reader| reader.count(&ask.query()))?;
                let wanted = self.plain.read_all(&ask, Seek::Beginning, false, head).expect("nowhere ahead");
                same("count", &count, &(wanted.len() as u64))?;
                self.tally.count("count", "counted");
            }
        }
        Ok(())
    }

    /// The borrowed form, ended early now and then.
    pub(super) fn scan(&mut self, dice: &mut Dice) -> Checked {
        let ask = if dice.chance(1, 2) { Ask(None) } else { Ask::random(dice) };
        let view = self.view(dice);
        let (reader, _) = self.reader(view)?;
        let stop = if dice.chance(1, 2) { u64::MAX } else { dice.below(self.plain.head() + 1) };
        let from = dice.below(self.plain.head() + 1);
        self.note(format!("for_each_event {ask:?} from {from} until {stop} {view:?}"));
        let Ok(read) = reader.read_all(&ask.query(), Seek::At(from)) else { return Ok(()) };
        let head = read.head();
        let mut got = Vec::new();
        let broke = worked(
            "for_each_event",
            read.for_each_event(|event| {
                got.push(Recorded::of(event));
                if event.position().get() >= stop {
                    ControlFlow::Break(event.position().get())
                } else {
                    ControlFlow::Continue(())
                }
            }),
        )?;
        let wanted = self.plain.read_all(&ask, Seek::At(from), false, head).unwrap_or_default();
        let until = wanted.iter().position(|position| *position >= stop).map_or(wanted.len(), |index| index + 1);
        same("broke with", &broke, &wanted.iter().copied().find(|position| *position >= stop))?;
        let got_positions: Vec<u64> = got.iter().map(|event| event.position).collect();
        same("for_each_event", &got_positions, &wanted[..until].to_vec())?;
        let differs = got.iter().find(|event| Some(*event) != self.plain.at(event.position));
        ensure(differs.is_none(), || format!("for_each_event: content of {:?}", differs.map(Recorded::name)))?;
        self.tally.count("for_each_event", if broke.is_some() { "broken off" } else { "to the end" });
        Ok(())
    }

    /// All events, both ways, and every stream.
    pub(super) fn check_everything(&mut self) -> Checked {
        self.note("check everything".to_owned());
        let (reader, head) = self.reader(View::Written)?;
        self.check_reader(&reader, head)?;
        self.check_states(&reader, &self.states, head, head)?;
        self.tally.count("check", "everything");
        Ok(())
    }

    pub(super) fn check_reader(&self, reader: &Reader, head: u64) -> Checked {
        same("head", &reader.head(), &head)?;
        let all = Ask(None);
        for (back, seek) in [(false, Seek::Beginning), (true, Seek::End)] {
            let read =
                if back { reader.read_all_back(&all.query(), seek) } else { reader.read_all(&all.query(), seek) };
            let wanted = self.plain.read_all(&all, seek, back, head).expect("nowhere ahead");
            self.compare_events("everything", worked("everything", read)?, &wanted)?;
        }
        for (name, ..) in self.plain.streams("", head) {
            let read = worked("a stream", reader.read_stream(&name, Seek::Beginning))?;
            let wanted = self.plain.read_stream(&name, Seek::Beginning, false, head);
            self.compare_events(&name, read, &wanted)?;
        }
        let listed = worked("streams", reader.streams(""))?;
        same("streams", &listing(listed), &self.plain.streams("", head))
    }
}

/// A listing as the model has it.
fn listing(streams: Vec<StreamInfo>) -> Vec<(String, StreamState, Option<u64>, Option<u64>)> {
    let number = |position: Option<Position>| position.map(Position::get);
    let rows = streams.into_iter();
    rows.map(|info| (info.name, info.state, number(info.first_position), number(info.last_position))).collect()
}
