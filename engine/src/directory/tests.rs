//! The directory against a plain model: whatever was written, sealed, merged, closed, killed or damaged, a stream's last
//! event is the model's, at every head.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use proptest::prelude::*;

use super::{StreamTip, directory_number};
use crate::error::{Error, StreamState};
use crate::reader::tip_of_stream;
use crate::storage::{Access, Memory, Storage};
use crate::{Expect, NewEvent, Options, ReadMode, Revision, Store};

/// What is done next.
#[derive(Clone, Debug)]
enum Step {
    /// So many events to this stream.
    Append(u8, u8),
    /// Closed and opened again.
    Reopen,
    /// Opened again from the files as they are, as after a kill.
    Kill,
    /// A byte of a file of the directory is changed while the store is closed.
    Flip(u16, u32),
    /// A file of the directory is taken away while the store is closed.
    Remove(u16),
    /// The writer is told that its memory is full.
    Forget,
    /// The index is made anew.
    Rebuild,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        60 => (any::<u8>(), 1..6u8).prop_map(|(stream, count)| Step::Append(stream, count)),
        3 => Just(Step::Reopen),
        3 => Just(Step::Kill),
        2 => (any::<u16>(), any::<u32>()).prop_map(|(file, at)| Step::Flip(file, at)),
        1 => any::<u16>().prop_map(Step::Remove),
        3 => Just(Step::Forget),
        1 => Just(Step::Rebuild),
    ]
}

fn options(mode: ReadMode) -> Options {
    Options::new().segment_bytes_max(64 << 10).ring_bytes(64 << 10).background(false).read_mode(mode)
}

/// A store and what it must answer: of each stream the positions of its events.
struct Beside {
    storage: Memory,
    store: Option<Store>,
    mode: ReadMode,
    streams: BTreeMap<String, Vec<u64>>,
    head: u64,
}

impl Beside {
    fn new(mode: ReadMode) -> Self {
        let storage = Memory::new();
        let store = Some(options(mode).open_storage(Arc::new(storage.clone())).expect("a store on the heap"));
        Self { storage, store, mode, streams: BTreeMap::new(), head: 0 }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("open between steps")
    }

    fn open(&mut self) {
        self.store = Some(options(self.mode).open_storage(Arc::new(self.storage.clone())).expect("a sound log opens"));
    }

    fn close(&mut self) {
        self.store.take().expect("open between steps").close().expect("memory does not fail");
    }

    fn directory_files(&self) -> Vec<String> {
        let names = self.storage.list().expect("names");
        names.into_iter().filter(|name| directory_number(name).is_some()).collect()
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Append(stream, count) => self.append(*stream, *count),
            Step::Reopen => {
                self.close();
                self.open();
            }
            Step::Kill => {
                let copy = copied(&self.storage);
                self.close();
                self.storage = copy;
                self.open();
            }
            Step::Flip(file, at) => {
                self.close();
                let files = self.directory_files();
                if !files.is_empty() {
                    flip(&self.storage, &files[usize::from(*file) % files.len()], *at);
                }
                self.open();
            }
            Step::Remove(file) => {
                self.close();
                let files = self.directory_files();
                if !files.is_empty() {
                    self.storage.remove(&files[usize::from(*file) % files.len()]).expect("a file that is there");
                }
                self.open();
            }
            Step::Forget => {
                let inner = self.store().inner();
                let coverage = inner.core.directory.load().coverage();
                let mut writer = inner.writer.lock();
                let head = writer.head;
                writer.streams.age_now(head);
                drop(writer.streams.forget_up_to(coverage));
            }
            Step::Rebuild => drop(self.store().rebuild_index(&mut |_, _| ()).expect("a sound log")),
        }
    }

    fn append(&mut self, stream: u8, count: u8) {
        let name = name(stream);
        let payload = vec![stream; 1500];
        let known = self.streams.entry(name.clone()).or_default();
        let last = Revision::new(known.len() as u64);
        let expect = last.map_or(Expect::NoStream, Expect::At);
        let events = vec![NewEvent::new("T", &payload); usize::from(count)];
        let store = self.store.as_ref().expect("open between steps");
        store.append(&name, expect, &events).expect("the model knows the last revision");
        known.extend((self.head + 1)..=self.head + u64::from(count));
        self.head += u64::from(count);
        // Another revision is refused, whoever has to be asked for the right one.
        let wrong = store.append(&name, Expect::At(Revision::new(1 << 40).expect("not 0")), &events[..1]);
        assert!(matches!(wrong, Err(Error::Conflict(_))), "{wrong:?}");
    }

    /// All streams in one call, some that are not there among them.
    fn check_together(&self) {
        let names: Vec<String> = (0..STREAMS + 2).map(name).collect();
        let expected = names.iter().map(|name| {
            let last = Revision::new(self.streams.get(name).map_or(0, |positions| positions.len() as u64));
            last.map_or(StreamState::Absent, |last| StreamState::Live { first: Revision::FIRST, last })
        });
        let states = self.store().reader().stream_states(&names).expect("a sound log");
        assert_eq!(states, expected.collect::<Vec<_>>());
    }

    /// Every stream, at the head and at heads of the past.
    fn check(&self) {
        self.check_together();
        let core = &self.store().inner().core;
        let past = [self.head / 3, self.head / 2, self.head.saturating_sub(1), self.head];
        for stream in 0..STREAMS + 2 {
            let name = name(stream);
            let none = Vec::new();
            let positions = self.streams.get(&name).unwrap_or(&none);
            for head in past {
                let count = positions.partition_point(|position| *position <= head);
                let position = count.checked_sub(1).map_or(0, |last| positions[last]);
                let expected = StreamTip { revision: count as u64, position };
                assert_eq!(tip_of_stream(core, &name, head).expect("a sound log"), expected, "{name} at {head}");
            }
            let last = Revision::new(positions.len() as u64);
            let state = last.map_or(StreamState::Absent, |last| StreamState::Live { first: Revision::FIRST, last });
            assert_eq!(self.store().stream_state(&name).expect("a sound log"), state);
        }
    }
}

const STREAMS: u8 = 40;

fn name(stream: u8) -> String {
    format!("stream-{}", stream % (STREAMS + 2))
}

fn copied(storage: &Memory) -> Memory {
    let copy = Memory::new();
    for name in storage.list().expect("names").iter().filter(|name| *name != "LOCK") {
        let from = storage.open(name, Access::Read).expect("a file");
        let mut bytes = vec![0; from.len().expect("a length") as usize];
        from.read_at(0, &mut bytes).expect("bytes");
        let to = copy.create(name, bytes.len() as u64, crate::storage::Fill::Zeroed).expect("room");
        to.write_at(0, &[IoSlice::new(&bytes)]).expect("room");
    }
    copy
}

fn flip(storage: &Memory, name: &str, at: u32) {
    let file = storage.open(name, Access::ReadWrite).expect("a file");
    let at = u64::from(at) % file.len().expect("a length");
    let mut byte = [0];
    file.read_at(at, &mut byte).expect("a byte");
    file.write_at(at, &[IoSlice::new(&[!byte[0]])]).expect("memory");
}

fn cases() -> u32 {
    if std::env::var_os("ANNALS_LONG").is_some() { 2_000 } else { 12 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn streams_end_where_the_model_says(steps in prop::collection::vec(step(), 1..250), pread in any::<bool>()) {
        let mode = if pread { ReadMode::Pread } else { ReadMode::Mapped };
        let mut beside = Beside::new(mode);
        for (number, step) in steps.iter().enumerate() {
            beside.take(step);
            if !matches!(step, Step::Append(..)) || number % 16 == 0 {
                beside.check();
            }
        }
        beside.check();
        beside.close();
    }
}

/// What the first name finds to be broken leaves more segments to be asked for those that follow.
#[test]
fn a_file_that_turns_out_to_be_broken_among_many_names_changes_no_answer() {
    for nth in 0..60 {
        let mut beside = Beside::new(ReadMode::Mapped);
        for n in 0..400u32 {
            beside.append((n * 7) as u8, 1);
        }
        beside.close();
        for file in beside.directory_files() {
            flip(&beside.storage, &file, 128 + nth * 41);
        }
        beside.open();
        beside.check_together();
        beside.close();
    }
}

#[test]
fn many_segments_have_few_files_and_all_of_the_log_is_covered() {
    let mut beside = Beside::new(ReadMode::Mapped);
    for n in 0..1200u32 {
        beside.append((n * 7) as u8, 1);
    }
    beside.check();
    let core = beside.store().inner().core.clone();
    let directory = core.directory.load_full();
    let listed = core.segments.load().iter().filter(|segment| segment.is_listed()).count();
    assert!(listed > 20, "{listed} segments have ended");
    assert!((1..=6).contains(&directory.iter().len()), "{} files", directory.iter().len());
    let last_ended = core.segments.load().last().expect("the one that is written").first_position() - 1;
    assert_eq!(directory.coverage(), last_ended);
    assert_eq!(beside.directory_files().len(), directory.iter().len(), "what was merged is gone");
    beside.close();
    beside.open();
    let opened = beside.store().inner().core.directory.load_full();
    assert_eq!((opened.coverage(), opened.iter().len()), (last_ended, directory.iter().len()));
    assert!(beside.store().recovery_report().notices.is_empty());
    beside.check();
}

#[test]
fn a_directory_of_another_store_or_of_earlier_is_not_believed() {
    let of = |salt: u8| {
        let mut beside = Beside::new(ReadMode::Mapped);
        for n in 0..300u32 {
            beside.append((n * 3) as u8 ^ salt, 1);
        }
        beside.close();
        beside
    };
    let (mut one, other) = (of(0), of(1));
    let of_other = other.directory_files();
    for (name, from) in one.directory_files().iter().zip(&of_other) {
        let file = copied(&other.storage).open(from, Access::Read).expect("a file");
        let mut bytes = vec![0; file.len().expect("a length") as usize];
        file.read_at(0, &mut bytes).expect("bytes");
        one.storage.remove(name).expect("a file");
        let to = one.storage.create(name, bytes.len() as u64, crate::storage::Fill::Zeroed).expect("room");
        to.write_at(0, &[IoSlice::new(&bytes)]).expect("room");
    }
    one.open();
    one.check();
    one.close();
    one.open();
    one.check();
    assert!(one.store().check_index().expect("a sound log").rebuilt.is_empty());
}
